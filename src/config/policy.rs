//! `[session]`, `[notifications]` and what of `[headers]` is policy; each route can override parts.

use std::time::Duration;

use super::RoutePolicy;
use super::parse::{self, Wrong};
use super::section::Section;
use super::tree::Node;
use crate::contract::{ContractPolicy, Encoding, OnBadSignal};
use crate::exchange::{Bind, Consume, Create, NotificationPolicy, OnStoreError, SessionPolicy};
use crate::session::{Lifetimes, Limits};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The policy when nothing is configured.
pub(super) fn defaults() -> RoutePolicy {
    RoutePolicy {
        session: SessionPolicy {
            lifetimes: Lifetimes {
                idle: DAY,
                max: 30 * DAY,
            },
            limits: Limits {
                max_record_bytes: 64 << 10,
                max_names: 128,
                max_name_bytes: 128,
                max_notifications: 64,
            },
            create: Create::Lazy,
            renew_grace: Duration::ZERO,
            on_store_error: OnStoreError::Fail,
            commit_timeout: 2 * SECOND,
            strict: false,
        },
        notifications: NotificationPolicy {
            consume: Consume::Page,
            bind: Bind::None,
            bind_grace: 10 * SECOND,
            claim_timeout: 90 * SECOND,
        },
        contract: ContractPolicy {
            encoding: Encoding::Json,
            expose: None,
            inject: Vec::new(),
            capture: Vec::new(),
            signals: true,
            on_bad_signal: OnBadSignal::Fail,
            budget: 4096,
        },
        cache_guard: true,
    }
}

/// Reads `[session]` into the policy.
pub(super) fn session(mut section: Section<'_, '_>, policy: &mut RoutePolicy) {
    session_overrides(&mut section, policy);
    let session = &mut policy.session;
    let lifetime = || parse::duration(SECOND, 3650 * DAY);
    set(
        &mut session.lifetimes.idle,
        section.read("idle_timeout", lifetime()),
    );
    set(
        &mut session.lifetimes.max,
        section.read("max_lifetime", lifetime()),
    );
    let grace = parse::duration(Duration::ZERO, HOUR);
    set(&mut session.renew_grace, section.read("renew_grace", grace));
    let commit = parse::duration(SECOND / 100, MINUTE);
    set(
        &mut session.commit_timeout,
        section.read("commit_timeout", commit),
    );

    let limits = &mut session.limits;
    let record = parse::size(1 << 10, 16 << 20);
    set(
        &mut limits.max_record_bytes,
        section.read("max_record", record),
    );
    let count = || parse::integer(1, 65_536);
    set(&mut limits.max_names, section.read("max_names", count()));
    set(
        &mut limits.max_notifications,
        section.read("max_notifications", count()),
    );
    let length = parse::integer(1, 1024);
    set(
        &mut limits.max_name_bytes,
        section.read("max_name_length", length),
    );
    section.finish();
}

/// Reads `[notifications]` into the policy.
pub(super) fn notifications(mut section: Section<'_, '_>, policy: &mut RoutePolicy) {
    notification_overrides(&mut section, policy);
    let notifications = &mut policy.notifications;
    let grace = parse::duration(Duration::ZERO, HOUR);
    set(
        &mut notifications.bind_grace,
        section.read("bind_grace", grace),
    );
    let claim = parse::duration(SECOND, DAY);
    set(
        &mut notifications.claim_timeout,
        section.read("claim_timeout", claim),
    );
    section.finish();
}

/// Reads the keys of `[session]` that a route can override.
pub(super) fn session_overrides(section: &mut Section<'_, '_>, policy: &mut RoutePolicy) {
    let create = parse::choice(&[("lazy", Create::Lazy), ("always", Create::Always)]);
    set(&mut policy.session.create, section.read("create", create));
    let on_store_error = parse::choice(&[
        ("fail", OnStoreError::Fail),
        ("anonymous", OnStoreError::Anonymous),
    ]);
    let read = section.read("on_store_error", on_store_error);
    set(&mut policy.session.on_store_error, read);
    set(
        &mut policy.session.strict,
        section.read("strict", parse::boolean),
    );
}

/// Reads the keys of `[notifications]` that a route can override.
pub(super) fn notification_overrides(section: &mut Section<'_, '_>, policy: &mut RoutePolicy) {
    let consume = parse::choice(&[
        ("page", Consume::Page),
        ("ack", Consume::Ack),
        ("always", Consume::Always),
    ]);
    set(
        &mut policy.notifications.consume,
        section.read("consume", consume),
    );
    let bind = parse::choice(&[("none", Bind::None), ("redirect", Bind::Redirect)]);
    set(&mut policy.notifications.bind, section.read("bind", bind));
}

/// Reads the keys of `[headers]` that a route can override.
pub(super) fn contract_overrides(section: &mut Section<'_, '_>, policy: &mut RoutePolicy) {
    let max_name_bytes = policy.session.limits.max_name_bytes;
    let contract = &mut policy.contract;
    let encode = parse::choice(&[
        ("json", Encoding::Json),
        ("base64", Encoding::Base64),
        ("form", Encoding::Form),
    ]);
    set(&mut contract.encoding, section.read("encode", encode));
    set(&mut contract.budget, section.read("budget", budget));
    let expose = section.list("expose", |node| {
        value_name(parse::text(node)?, max_name_bytes)
    });
    if expose.is_some() {
        contract.expose = expose;
    }
    set(
        &mut contract.signals,
        section.read("signals", parse::boolean),
    );
    let on_bad_signal =
        parse::choice(&[("fail", OnBadSignal::Fail), ("ignore", OnBadSignal::Ignore)]);
    set(
        &mut contract.on_bad_signal,
        section.read("on_bad_signal", on_bad_signal),
    );
    set(
        &mut policy.cache_guard,
        section.read("cache_guard", parse::boolean),
    );
}

/// What servers take of ours by default. Where their limit is on all request headers together, the
/// request line included, 3 KiB to 4 KiB are left for the client's own, which take 1 KiB to 3 KiB.
const SERVERS: [(&str, usize); 7] = [
    // 4 KiB in all: `buffer-size`.
    ("uwsgi", 1 << 10),
    // 8 KiB in all: `maxHttpRequestHeaderSize`, `requestHeaderSize`.
    ("tomcat", 4 << 10),
    ("jetty", 4 << 10),
    // 8,190 bytes a field: `limit_request_field_size`, `LimitRequestFieldSize`. The client's own
    // fields count by themselves.
    ("gunicorn", 8000),
    ("httpd", 8000),
    // 16 KiB in all: `--max-http-header-size`, `MaxRequestBytes`.
    ("node", 12 << 10),
    ("iis", 12 << 10),
];

/// A size, or the name of a server.
fn budget(node: &Node) -> Result<usize, Wrong> {
    match node.value.as_text() {
        Some(text) if text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            parse::choice(&SERVERS)(node).map_err(|wrong| {
                let right = wrong.right.map(|right| match right.strip_suffix('?') {
                    Some(_slip) => right,
                    None => format!("a size like \"4KiB\", or {right}"),
                });
                Wrong { right, ..wrong }
            })
        }
        Some(_) | None => parse::size(256, 64 << 10)(node),
    }
}

/// The name of a session's value: one that a session could hold.
pub(super) fn value_name(name: String, max_bytes: usize) -> Result<String, Wrong> {
    if name.len() <= max_bytes {
        Ok(name)
    } else {
        Err(Wrong::new(
            format!("no session holds a name of {} bytes", name.len()),
            format!("at most {max_bytes} bytes: `session.max_name_length`"),
        ))
    }
}

fn set<T>(field: &mut T, read: Option<T>) {
    if let Some(value) = read {
        *field = value;
    }
}

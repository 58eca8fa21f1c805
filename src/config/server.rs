//! `listen` and `workers`; `[forwarding]`, `[limits]`, `[timeouts]` and `[log]`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::parse::{self, Wrong};
use super::section::Section;
use super::tree::Node;
use super::{Forwarding, Limits, Log, LogFormat, LogLevel, Timeouts};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// More threads than that are a slip.
const MAX_WORKERS: usize = 1024;

/// Reads `listen`.
pub(super) fn listen(root: &mut Section<'_, '_>) -> Vec<SocketAddr> {
    let Some(addresses) = root.list("listen", address) else {
        return vec![SocketAddr::from(([127, 0, 0, 1], 8080))];
    };
    if addresses.is_empty() {
        let wrong = Wrong::new("no address to listen on", "\"127.0.0.1:8080\"");
        root.reader().problem_between(&["listen"], wrong);
    }
    addresses
}

fn address(node: &Node) -> Result<SocketAddr, Wrong> {
    let text = parse::text(node)?;
    text.parse().ok().ok_or_else(|| {
        let right = match text.strip_prefix(':').unwrap_or(&text).parse::<u16>() {
            Ok(port) => format!("\"0.0.0.0:{port}\" for all of IPv4, \"[::]:{port}\" for all"),
            Err(_) => "an IP address and a port: \"127.0.0.1:8080\", \"[::1]:8080\"".to_owned(),
        };
        Wrong::new(format!("`{text}` is no address to listen on"), right)
    })
}

/// Reads `workers`; `auto` is one for each of the processors.
pub(super) fn workers(root: &mut Section<'_, '_>, processors: NonZeroUsize) -> NonZeroUsize {
    let number = root.read("workers", |node| match parse::as_integer(&node.value) {
        None if parse::text(node)? == "auto" => Ok(processors),
        _ => {
            let number = parse::integer(1, MAX_WORKERS)(node)?;
            NonZeroUsize::new(number).ok_or_else(|| Wrong::new("no worker", "\"auto\""))
        }
    });
    number.unwrap_or(processors)
}

/// Reads `[forwarding]`.
pub(super) fn forwarding(mut section: Section<'_, '_>) -> Forwarding {
    let forwarding = Forwarding {
        trust: section.list("trust", network).unwrap_or_default(),
        x_forwarded: section.read("x_forwarded", parse::boolean).unwrap_or(true),
        forwarded: section.read("forwarded", parse::boolean).unwrap_or(false),
        via: section
            .read("via", via)
            .unwrap_or_else(|| Some("pycket".to_owned())),
    };
    section.finish();
    forwarding
}

fn network(node: &Node) -> Result<IpNet, Wrong> {
    let text = parse::text(node)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().ok().ok_or_else(|| {
        let wrong = format!("`{text}` is no network");
        Wrong::new(wrong, "\"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.7\"")
    })?;
    if network == network.trunc() {
        Ok(network)
    } else {
        let wrong = format!("`{text}` has bits set outside of the network");
        Err(Wrong::new(wrong, format!("\"{}\"", network.trunc())))
    }
}

/// A pseudonym (RFC 9110 section 7.6.3), or `false`.
fn via(node: &Node) -> Result<Option<String>, Wrong> {
    match parse::as_boolean(&node.value) {
        Some(false) => return Ok(None),
        Some(true) => return Err(Wrong::new("`true` is no name", "\"pycket\" or false")),
        None => {}
    }
    let name = parse::text(node)?;
    // The characters of a token are those of a header's name.
    match HeaderName::try_from(name.as_str()) {
        Ok(_) => Ok(Some(name)),
        Err(_) => Err(Wrong::new(
            "not a pseudonym",
            "letters, digits and hyphens, like \"pycket\"; false sends none",
        )),
    }
}

/// Reads `[limits]`.
pub(super) fn limits(mut section: Section<'_, '_>) -> Limits {
    let limits = Limits {
        max_connections: section
            .read("max_connections", parse::integer(1, 1_000_000))
            .unwrap_or(10_000),
        // hyper needs 8 KiB at least.
        max_head_bytes: section
            .read("max_head", parse::size(8 << 10, 1 << 20))
            .unwrap_or(32 << 10),
        max_head_fields: section
            .read("max_head_fields", parse::integer(16, 1000))
            .unwrap_or(100),
        max_upstream_connections: section
            .read("max_upstream_connections", parse::integer(1, 65_536))
            .unwrap_or(256),
    };
    section.finish();
    limits
}

/// Reads `[timeouts]`.
pub(super) fn timeouts(mut section: Section<'_, '_>) -> Timeouts {
    let mut read = |name, min, max, default| {
        section
            .read(name, parse::duration(min, max))
            .unwrap_or(default)
    };
    let timeouts = Timeouts {
        client_head: read("client_head", SECOND, 10 * MINUTE, 30 * SECOND),
        upstream_connect: read("upstream_connect", SECOND / 100, 10 * MINUTE, 5 * SECOND),
        upstream_response: read("upstream_response", SECOND / 10, 24 * HOUR, 60 * SECOND),
        upstream_idle: read("upstream_idle", Duration::ZERO, HOUR, SECOND * 3 / 2),
        drain: read("drain", Duration::ZERO, 24 * HOUR, 30 * SECOND),
    };
    section.finish();
    timeouts
}

/// Reads `[log]`.
pub(super) fn log(mut section: Section<'_, '_>) -> Log {
    let format = parse::choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let level = parse::choice(&[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
    ]);
    let log = Log {
        format: section.read("format", format).unwrap_or(LogFormat::Text),
        level: section.read("level", level).unwrap_or(LogLevel::Info),
        access: section.read("access", parse::boolean).unwrap_or(true),
        request_id_header: section
            .read("request_id_header", parse::header_name)
            .unwrap_or_else(|| HeaderName::from_static("x-request-id")),
    };
    section.finish();
    log
}

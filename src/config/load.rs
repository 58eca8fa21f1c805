//! From text to a [`Config`]: all sources are read, all mistakes collected.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;
use std::{fmt, io};

use toml::de::Error;

use super::excerpt::{Show, SourceFile};
use super::parse::Wrong;
use super::problem::{Place, Problem, Problems, Warning};
use super::reader::{Findings, Reader};
use super::section::Section;
use super::tree::{Entry, Node, Origin, Table, Value, parse_document};
use super::units::show_duration;
use super::upstreams::{self, Groups};

use super::{
    Config, Engine, Format, RoutePolicy, cache, cookies, headers, listeners, policy,
    response_headers, routes, server, storage,
};
use crate::exchange::Consume;

/// Everything that a configuration is made from. A flag wins over the environment, the
/// environment over the file, the file over the defaults.
pub struct Sources<'a> {
    /// Name and text of the file; `None` is none.
    pub file: Option<(String, String)>,
    /// All environment variables; those that begin with `PYCKET_` mean keys, and the others can
    /// hold secrets.
    pub environment: Vec<(String, String)>,
    /// What the command line says.
    pub flags: Flags,
    /// What `workers = "auto"` means.
    pub processors: NonZeroUsize,
    /// Reads a file that holds a secret.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

/// It holds secrets.
impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources(..)")
    }
}

/// Keys that have flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen`, once for each address; empty is not given.
    pub listen: Vec<String>,
    /// `--upstream`.
    pub upstream: Option<String>,
    /// `--engine`.
    pub engine: Option<String>,
}

/// Makes the configuration, or says everything that is wrong with it.
///
/// # Errors
///
/// [`Problems`], with every mistake in every source. While the file is not TOML, only that is
/// said: what else stands in it can't be known.
pub fn load(sources: Sources<'_>) -> Result<(Config, Vec<Warning>), Problems> {
    let (config, findings) = load_with_findings(sources)?;
    Ok((config, findings.warnings))
}

/// As [`load`], with all that the reading found.
fn load_with_findings(sources: Sources<'_>) -> Result<(Config, Findings), Problems> {
    let file = sources.file.map(|(path, text)| SourceFile { path, text });
    let mut table = Table::new();
    if let Some(file) = &file {
        match parse_document(&file.text) {
            Ok(parsed) => table = parsed,
            Err(errors) => return Err(syntax_problems(file, &errors)),
        }
    }
    add_flags(&mut table, sources.flags);
    let environment: BTreeMap<String, String> = sources.environment.into_iter().collect();
    let mut reader = Reader::new(file, environment, sources.read_file);
    // It named the file, so it has had its effect.
    let _used = reader.variable("PYCKET_CONFIG");
    let config = read(reader.root(table), sources.processors);
    if let Some(config) = &config {
        check(&mut reader, config);
    }
    let mut findings = reader.finish();
    let problems = std::mem::take(&mut findings.problems);
    match (Problems::from_vec(problems), config) {
        (Some(problems), _) => Err(problems),
        (None, Some(config)) => Ok((config, findings)),
        (None, None) => Err(Problems::one(Problem {
            place: Place::Nowhere,
            key: Some("cookies.secret".to_owned()),
            wrong: "there is no usable secret".to_owned(),
            right: None,
        })),
    }
}

fn syntax_problems(file: &SourceFile, errors: &[Error]) -> Problems {
    let mut problems: Vec<Problem> = Vec::new();
    for error in errors {
        let end = file.text.len();
        let excerpt = file.excerpt(error.span().unwrap_or(end..end), Show::Value);
        let is_known = problems
            .iter()
            .any(|earlier| matches!(&earlier.place, Place::File(at) if at.line == excerpt.line));
        // What follows on the same line mostly follows from the first.
        if !is_known {
            problems.push(Problem {
                place: Place::File(excerpt),
                key: None,
                wrong: format!("not TOML: {}", error.message()),
                right: None,
            });
        }
    }
    Problems::from_vec(problems).unwrap_or_else(|| {
        Problems::one(Problem {
            place: Place::Nowhere,
            key: None,
            wrong: "the file is not TOML".to_owned(),
            right: None,
        })
    })
}

fn add_flags(table: &mut Table, flags: Flags) {
    let listen = flags.listen.into_iter().map(Value::Untyped);
    let listen: Vec<Node> = listen
        .map(|value| Node {
            origin: Origin::Flag("--listen"),
            value,
        })
        .collect();
    let listen = (!listen.is_empty()).then_some(Value::List(listen));
    let given = [
        ("listen", "--listen", listen),
        ("upstream", "--upstream", flags.upstream.map(Value::Untyped)),
        ("engine", "--engine", flags.engine.map(Value::Untyped)),
    ];
    for (key, flag, value) in given {
        if let Some(value) = value {
            let origin = Origin::Flag(flag);
            let entry = Entry {
                key: origin.clone(),
                node: Node { origin, value },
            };
            table.insert(key.to_owned(), entry);
        }
    }
}

/// The default of `session.max_record` with the Python library's format: what a pickle may have,
/// since the library knows no limit.
const PYCKET_MAX_RECORD: usize = 1 << 20;

/// Reads all keys. `None` when there is no usable secret; the mistakes are with the reader.
fn read(mut root: Section<'_, '_>, processors: NonZeroUsize) -> Option<Config> {
    let listeners = listeners::read(&mut root);
    let mut groups = Groups::read(&mut root);
    let upstream =
        upstreams::upstream(&mut root, &mut groups).unwrap_or_else(upstreams::default_upstream);
    let dns_servers = upstreams::dns_servers(&mut root);
    let engine = storage::engine(&mut root);
    let workers = server::workers(&mut root, processors);
    let reload = server::reload(&mut root);
    let mut storage = storage::read(root.section("storage"), engine, workers);
    cache::read(root.section("cache"), engine, &mut storage);
    let is_pycket = matches!(storage.format, Format::Pycket(_));
    let cookie = cookies::read(root.section("cookies"), is_pycket);
    let mut policy = policy::defaults();
    policy::session(root.section("session"), &mut policy);
    policy::notifications(root.section("notifications"), &mut policy);
    let names = headers::read(root.section("headers"), &mut policy);
    let forwarding = server::forwarding(root.section("forwarding"), &listeners);
    let limits = server::limits(root.section("limits"));
    let timeouts = server::timeouts(root.section("timeouts"));
    let log = server::log(root.section("log"));
    let makes_cookie = cookie.as_ref().is_some_and(|cookie| cookie.forward);
    if makes_cookie
        && root.reader().is_given("cookies.forward")
        && !root.reader().is_given("notifications.consume")
    {
        // An application with the library takes notifications by itself, whatever it answers.
        policy.notifications.consume = Consume::Ack;
    }
    if is_pycket {
        // Its records keep no beginning; the signed cookie's age ends a session.
        policy.session.lifetimes.max = Duration::MAX;
        if !root.reader().is_given("session.max_record") {
            policy.session.limits.max_record_bytes = PYCKET_MAX_RECORD;
        }
    }
    let response_headers = response_headers::read(&mut root, &names, None);
    let defaults = routes::Defaults {
        upstream: &upstream,
        limits: &limits,
        timeouts: &timeouts,
        policy: &policy,
        names: &names,
        response_headers: &response_headers,
    };
    let routes = routes::read(&mut root, &mut groups, &defaults);
    groups.finish(&mut root);
    root.finish();
    Some(Config {
        listeners,
        workers,
        reload,
        storage,
        cookie: cookie?,
        names,
        routes,
        dns_servers,
        forwarding,
        limits,
        timeouts,
        log,
    })
}

/// What keys of different tables ask of each other. The policy is looked at on one of the routes:
/// these keys are the same on all of them.
fn check(reader: &mut Reader<'_>, config: &Config) {
    check_request_id(reader, config);
    let Some(policy) = config
        .routes
        .iter()
        .find_map(|route| route.session.as_ref())
    else {
        return;
    };
    if let Format::Pycket(format) = &config.storage.format {
        check_pycket(reader);
        if config.storage.fallback.is_some() && !format.writable {
            let wrong = Wrong::new(
                "no session can move here from [storage.fallback] then",
                "remove one of the two",
            );
            reader.problem_between(&["storage.writable"], wrong);
        }
    } else {
        check_max_lifetime(reader, config, policy);
    }
    let lifetimes = policy.session.lifetimes;
    if lifetimes.idle > lifetimes.max && reader.is_given("session.idle_timeout") {
        let wrong = Wrong::new(
            format!(
                "it is over `session.max_lifetime`, {}",
                show_duration(lifetimes.max)
            ),
            "no session lives longer than that: lower the one or raise the other",
        );
        reader.problem_between(&["session.idle_timeout", "session.max_lifetime"], wrong);
    }
    // Where a route has a time of its own, that was looked at there.
    let response = config.timeouts.upstream_response;
    let mut routes = config.routes.iter();
    if routes.any(|route| route.session.is_some() && route.upstream_response == response)
        && let Some(wrong) = routes::outlasts_claims(response, "timeouts.upstream_response", policy)
    {
        reader.problem_between(
            &["notifications.claim_timeout", "timeouts.upstream_response"],
            wrong,
        );
    }
    let commit = policy.session.commit_timeout;
    let operation = config.storage.timeout;
    if !matches!(config.storage.engine, Engine::Memory { .. }) && commit < operation {
        let wrong = Wrong::new(
            format!(
                "writes are tried for {}, but one try may take {}",
                show_duration(commit),
                show_duration(operation)
            ),
            "raise `session.commit_timeout` to `storage.timeout` or more",
        );
        reader.problem_between(&["session.commit_timeout", "storage.timeout"], wrong);
    }
}

/// Keys that the Python library's records have no place for.
fn check_pycket(reader: &mut Reader<'_>) {
    let refusals = [
        (
            "session.max_lifetime",
            "remove it; `cookies.max_age_days` ends a session however busy it is, as in the library",
        ),
        (
            "session.renew_grace",
            "remove it; the old id ends with the renewal",
        ),
    ];
    for (key, right) in refusals {
        if reader.is_given(key) {
            let wrong = Wrong::new("has no effect with format = \"pycket\"", right);
            reader.problem_between(&[key], wrong);
        }
    }
}

fn check_max_lifetime(reader: &mut Reader<'_>, config: &Config, policy: &RoutePolicy) {
    let lifetime = policy.session.lifetimes.max;
    let max_age = Duration::from_hours(24) * config.cookie.max_age_days;
    if lifetime > max_age {
        let wrong = Wrong::new(
            format!(
                "a session could live for {}, but its cookie counts as expired after {} days",
                show_duration(lifetime),
                config.cookie.max_age_days
            ),
            "lower `session.max_lifetime`, or raise `cookies.max_age_days`",
        );
        reader.problem_between(&["session.max_lifetime", "cookies.max_age_days"], wrong);
    }
}

/// The header of request ids is sent by the proxy, so it must be none that means something else.
fn check_request_id(reader: &mut Reader<'_>, config: &Config) {
    let header = &config.log.request_id_header;
    // Nothing else may be sent under the usual name: that is what makes it forbidden there.
    let is_usual = header == "x-request-id";
    if config.names.is_reserved(header) || !is_usual && config.names.check_target(header).is_err() {
        let wrong = Wrong::new("this header is used for something else", "\"X-Request-Id\"");
        reader.problem_between(&["log.request_id_header"], wrong);
    }
}

#[cfg(test)]
mod tests;

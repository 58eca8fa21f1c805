//! Reads `upstream` and `[upstreams.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Balance, Ejection, Http2, Retries, Scheme, Server, Upstream, health, tls, url};
use crate::config::parse::{self, Wrong, nearest};
use crate::config::section::Section;
use crate::config::tree::{Node, Origin, Value};
use crate::config::units::show_duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

/// The groups of servers that have names.
pub(in crate::config) struct Groups {
    /// `None` where the group is wrong, so that who names it is not reported, too.
    by_name: BTreeMap<String, Option<Upstream>>,
    origins: BTreeMap<String, Origin>,
    used: BTreeSet<String>,
}

impl Groups {
    /// Reads all `[upstreams.NAME]`.
    pub(in crate::config) fn read(root: &mut Section<'_, '_>) -> Self {
        let mut groups = Self {
            by_name: BTreeMap::new(),
            origins: BTreeMap::new(),
            used: BTreeSet::new(),
        };
        for (name, entry) in root.free_table("upstreams") {
            let key = format!("upstreams.{name}");
            groups.origins.insert(name.clone(), entry.key.clone());
            if !is_name(&name) {
                let wrong = "not a name for a group";
                let right = "letters, digits, `-` and `_`, like [upstreams.app]";
                root.wrong(&key, &entry.key, Wrong::new(wrong, right));
            }
            let group = match parse::table(entry.node) {
                Ok(entries) => group(root.inline(&key, entries), &name, &entry.key),
                Err(wrong) => {
                    root.wrong(&key, &entry.key, wrong);
                    None
                }
            };
            groups.by_name.insert(name, group);
        }
        groups
    }

    /// What a text in the place of an upstream means: the name of a group, or a URL.
    fn find(&mut self, text: &str) -> Result<Option<Upstream>, Wrong> {
        if let Some(group) = self.by_name.get(text) {
            self.used.insert(text.to_owned());
            return Ok(group.clone());
        }
        if !is_name(text) {
            return url::server(text).map(|server| Some(Upstream::alone(server)));
        }
        let right = match nearest(text, self.by_name.keys().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => {
                format!("define [upstreams.{text}], or give a URL like \"http://127.0.0.1:9000\"")
            }
        };
        let wrong = format!("there is no group of servers named `{text}`");
        Err(Wrong::new(wrong, right))
    }

    /// Warns of groups that nothing names.
    pub(in crate::config) fn finish(self, root: &mut Section<'_, '_>) {
        for (name, origin) in &self.origins {
            if !self.used.contains(name) {
                let wrong = Wrong::new("no route sends requests there", "remove it");
                root.reader()
                    .warn(origin, &format!("upstreams.{name}"), wrong);
            }
        }
    }
}

/// Reads `upstream` at the top or of a route. `None` when it is not there, or wrong.
pub(in crate::config) fn upstream(
    section: &mut Section<'_, '_>,
    groups: &mut Groups,
) -> Option<Upstream> {
    section
        .read("upstream", |node| groups.find(&parse::text(node)?))
        .flatten()
}

/// Reads `dns_servers`.
pub(in crate::config) fn dns_servers(root: &mut Section<'_, '_>) -> Vec<SocketAddr> {
    /// RFC 1035 section 4.2.
    const PORT: u16 = 53;
    let servers = root.list("dns_servers", |node| {
        let text = parse::text(node)?;
        let with_port = text.parse::<SocketAddr>().ok();
        let address = || text.parse::<IpAddr>().ok();
        with_port
            .or_else(|| address().map(|address| SocketAddr::from((address, PORT))))
            .ok_or_else(|| {
                let wrong = format!("`{text}` is not the address of a DNS server");
                Wrong::new(wrong, "\"10.0.0.53\", \"10.0.0.53:5353\"")
            })
    });
    servers.unwrap_or_default()
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// One group. `None` when it has no server that can be used.
fn group(mut section: Section<'_, '_>, name: &str, origin: &Origin) -> Option<Upstream> {
    let servers = servers(&mut section, origin)?;
    let alone = Upstream::alone(servers.first()?.clone());
    let balance = parse::choice(&[
        ("round_robin", Balance::RoundRobin),
        ("least", Balance::Least),
        ("session", Balance::Session),
    ]);
    let http2 = parse::choice(&[
        ("auto", Http2::Auto),
        ("always", Http2::Always),
        ("never", Http2::Never),
    ]);
    let has_tls = servers.iter().any(|server| server.scheme == Scheme::Https);
    let group = Upstream {
        name: name.to_owned(),
        http2: section.read("http2", http2).unwrap_or(alone.http2),
        http2_ping: section
            .read("http2_ping", parse::duration(Duration::ZERO, HOUR))
            .unwrap_or(alone.http2_ping),
        tls: tls::read(&mut section, &alone.tls, has_tls),
        health: health::read(&mut section),
        servers,
        balance: section.read("balance", balance).unwrap_or(alone.balance),
        ejection: ejection(&mut section, alone.ejection),
        retries: retries(&mut section, alone.retries),
    };
    if !has_tls && section.is_given("http2") {
        let wrong = "has no effect without a server with https://";
        let wrong = Wrong::new(wrong, "h2c:// is HTTP/2 without TLS");
        section.problem_between(&["http2"], wrong);
    }
    section.finish();
    Some(group)
}

fn ejection(section: &mut Section<'_, '_>, default: Ejection) -> Ejection {
    let span = |min| parse::duration(min, HOUR);
    let percent = parse::integer(0, 100);
    let failures = parse::integer(0, 1_000_000);
    let ejection = Ejection {
        max_failures: section
            .read("max_failures", failures)
            .unwrap_or(default.max_failures),
        min: section
            .read("ejection", span(SECOND / 10))
            .unwrap_or(default.min),
        max: section
            .read("max_ejection", span(SECOND / 10))
            .unwrap_or(default.max),
        slow_start: section
            .read("slow_start", span(Duration::ZERO))
            .unwrap_or(default.slow_start),
        panic_threshold: section
            .read("panic_threshold", percent)
            .unwrap_or(default.panic_threshold),
    };
    if ejection.min > ejection.max {
        let wrong = format!(
            "the first ejection would be longer than the longest, {}",
            show_duration(ejection.max)
        );
        let wrong = Wrong::new(wrong, "lower `ejection`, or raise `max_ejection`");
        section.problem_between(&["ejection", "max_ejection"], wrong);
    }
    ejection
}

fn retries(section: &mut Section<'_, '_>, default: Retries) -> Retries {
    Retries {
        percent: section
            .read("retry_percent", parse::integer(0, 100))
            .unwrap_or(default.percent),
        min_per_second: section
            .read("retry_min_per_second", parse::integer(0, 100_000))
            .unwrap_or(default.min_per_second),
    }
}

fn servers(section: &mut Section<'_, '_>, origin: &Origin) -> Option<Vec<Server>> {
    let Some(node) = section.take("servers") else {
        let right = "servers = [\"http://10.0.0.1:9000\", \"http://10.0.0.2:9000\"]";
        section.wrong("servers", origin, Wrong::new("`servers` is missing", right));
        return None;
    };
    let origin = node.origin.clone();
    let items = match parse::items(node) {
        Ok(items) => items,
        Err(wrong) => {
            section.wrong("servers", &origin, wrong);
            return None;
        }
    };
    let mut servers: Vec<Server> = Vec::with_capacity(items.len());
    for item in items {
        let origin = item.origin.clone();
        let Some(server) = server(section, item) else {
            continue;
        };
        if servers.iter().any(|other| other.url == server.url) {
            let wrong = Wrong::new("this server stands above", "give it a `weight` instead");
            section.wrong("servers", &origin, wrong);
        }
        servers.push(server);
    }
    let is_right = !section.is_wrong("servers");
    if servers.is_empty() && is_right {
        let wrong = Wrong::new("no server to send requests to", "\"http://127.0.0.1:9000\"");
        section.wrong("servers", &origin, wrong);
    } else if servers.iter().all(|server| server.drain) && is_right {
        let wrong = "all servers are draining, so that none gets requests";
        let wrong = Wrong::new(wrong, "leave one without `drain`");
        section.wrong("servers", &origin, wrong);
    }
    (!servers.is_empty()).then_some(servers)
}

/// A URL, or a table with one.
fn server(section: &mut Section<'_, '_>, item: Node) -> Option<Server> {
    let origin = item.origin;
    let Value::Table(entries) = item.value else {
        let node = Node {
            origin: origin.clone(),
            value: item.value,
        };
        let parsed = parse::text(&node).and_then(|text| url::server(&text));
        return parsed
            .map_err(|wrong| section.wrong("servers", &origin, wrong))
            .ok();
    };
    let mut table = section.inline("servers", entries);
    if !table.has("url") {
        let wrong = Wrong::new("`url` is missing", "{ url = \"http://127.0.0.1:9000\" }");
        table.wrong("url", &origin, wrong);
    }
    let server = table.read("url", |node| url::server(&parse::text(node)?));
    let weight = table.read("weight", parse::integer(1, 1000)).unwrap_or(1);
    let drain = table.read("drain", parse::boolean).unwrap_or(false);
    table.finish();
    Some(Server {
        weight,
        drain,
        ..server?
    })
}

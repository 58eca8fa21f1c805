//! `[[route]]`: which host and path get which upstream and policy.

use std::cmp::Reverse;
use std::time::Duration;

use http::Method;
use http::uri::Authority;

use super::parse::{self, Wrong};
use super::policy::{contract_overrides, notification_overrides, session_overrides};
use super::response_headers::{self, Fields};
use super::section::Section;
use super::tree::{Node, Origin};
use super::units::show_duration;
use super::upstreams::{self, Groups};
use super::{Hosts, Limits, Route, RouteMatch, RoutePolicy, Timeouts, Upstream, server};
use crate::contract::Names;

/// What of a route has an effect without sessions.
const WITHOUT_SESSION: [&str; 8] = [
    "host",
    "path",
    "methods",
    "upstream",
    "max_body",
    "upstream_response",
    "response_headers",
    "session",
];

/// What holds where a route says nothing else.
pub(super) struct Defaults<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) limits: &'a Limits,
    pub(super) timeouts: &'a Timeouts,
    pub(super) policy: &'a RoutePolicy,
    pub(super) names: &'a Names,
    pub(super) response_headers: &'a Fields,
}

/// Reads all routes, most specific first; the last one matches everything.
pub(super) fn read(
    root: &mut Section<'_, '_>,
    groups: &mut Groups,
    defaults: &Defaults<'_>,
) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    root.tables("route", |section, origin| {
        let route = route(section, &origin, groups, defaults, &routes);
        routes.push(route);
    });
    let every = RouteMatch {
        host: Hosts::Every,
        path: "/".to_owned(),
        methods: Vec::new(),
    };
    if routes.iter().all(|route| route.rule != every) {
        routes.push(Route {
            name: "/".to_owned(),
            rule: every,
            upstream: defaults.upstream.clone(),
            max_body_bytes: defaults.limits.max_body_bytes,
            upstream_response: defaults.timeouts.upstream_response,
            response_headers: defaults.response_headers.clone(),
            session: Some(defaults.policy.clone()),
        });
    }
    routes.sort_by(|a, b| specificity(a).cmp(&specificity(b)));
    routes
}

/// Smaller is more specific: a host before a domain, a deeper domain before the others, and those
/// before none; then the longer path; then methods before none.
fn specificity(route: &Route) -> impl Ord + use<'_> {
    let rule = &route.rule;
    let host = match &rule.host {
        Hosts::One(_) => (0, Reverse(0)),
        Hosts::Below(domain) => (1, Reverse(domain.len())),
        Hosts::Every => (2, Reverse(0)),
    };
    let path = (Reverse(rule.path.len()), rule.methods.is_empty());
    (host, path, &rule.host, &rule.path)
}

/// One route, after those that stand above it.
fn route(
    mut section: Section<'_, '_>,
    origin: &Origin,
    groups: &mut Groups,
    defaults: &Defaults<'_>,
    above: &[Route],
) -> Route {
    let host = section.read("host", host);
    let path = section.read("path", path);
    let methods = methods(&mut section);
    let own_upstream = upstreams::upstream(&mut section, groups);
    let max_body = server::max_body(&mut section);
    let response = server::upstream_response(&mut section);
    let at_the_top = Some(defaults.response_headers);
    let response_headers = response_headers::read(&mut section, defaults.names, at_the_top);
    let has_session = section.read("session", parse::boolean).unwrap_or(true);
    let mut own_policy = defaults.policy.clone();
    session_overrides(&mut section, &mut own_policy);
    notification_overrides(&mut section, &mut own_policy);
    contract_overrides(&mut section, &mut own_policy);

    let present = section.present();
    if !has_session {
        for (name, origin) in &present {
            if !WITHOUT_SESSION.contains(name) {
                let wrong = Wrong::new("has no effect: this route has no sessions", "remove it");
                section.wrong(name, origin, wrong);
            }
        }
    } else if let Some(response) = response
        && let Some(wrong) = outlasts_claims(response, "upstream_response", &own_policy)
    {
        let own = present
            .iter()
            .find(|(name, _)| *name == "upstream_response");
        let origin = own.map_or(origin, |(_, origin)| origin);
        section.wrong("upstream_response", origin, wrong);
    }
    let is_given = |name| present.iter().any(|(present, _)| *present == name);
    let is_wrong = is_given("host") && host.is_none() || is_given("path") && path.is_none();
    let rule = RouteMatch {
        host: host.unwrap_or(Hosts::Every),
        path: path.unwrap_or_else(|| "/".to_owned()),
        methods,
    };
    if !is_wrong {
        check_is_new(&mut section, origin, &rule, above);
    }
    section.finish();
    Route {
        name: name(&rule),
        rule,
        upstream: own_upstream.unwrap_or_else(|| defaults.upstream.clone()),
        max_body_bytes: max_body.unwrap_or(defaults.limits.max_body_bytes),
        upstream_response: response.unwrap_or(defaults.timeouts.upstream_response),
        response_headers,
        session: has_session.then_some(own_policy),
    }
}

/// What is wrong when an answer may take longer than notifications are held for it.
pub(super) fn outlasts_claims(
    response: Duration,
    key: &str,
    policy: &RoutePolicy,
) -> Option<Wrong> {
    let claim = policy.notifications.claim_timeout;
    (claim <= response).then(|| {
        Wrong::new(
            format!(
                "claims end after {}, but an answer may take {}: two pages could show the same",
                show_duration(claim),
                show_duration(response)
            ),
            format!("raise `notifications.claim_timeout` over `{key}`"),
        )
    })
}

/// Two routes that are equally good for a request would leave it to chance.
fn check_is_new(
    section: &mut Section<'_, '_>,
    origin: &Origin,
    rule: &RouteMatch,
    above: &[Route],
) {
    let same = above.iter().map(|route| &route.rule);
    let mut same = same.filter(|other| other.host == rule.host && other.path == rule.path);
    if rule.methods.is_empty() {
        if same.any(|other| other.methods.is_empty()) {
            let wrong = Wrong::new("a route with this host and path stands above", "join them");
            section.wrong("path", origin, wrong);
        }
        return;
    }
    let taken = same.find_map(|other| {
        let mut methods = rule.methods.iter();
        methods.find(|&method| other.methods.contains(method))
    });
    if let Some(method) = taken {
        let wrong = Wrong::new(
            format!("a route with this host and path stands above, and is for {method}, too"),
            "join them, or name other methods",
        );
        section.wrong("methods", origin, wrong);
    }
}

/// What the access log calls a route.
fn name(rule: &RouteMatch) -> String {
    let methods: Vec<&str> = rule.methods.iter().map(Method::as_str).collect();
    let mut name = methods.join(",");
    if !name.is_empty() {
        name.push(' ');
    }
    match &rule.host {
        Hosts::One(host) => name.push_str(host),
        Hosts::Below(domain) => {
            name.push_str("*.");
            name.push_str(domain);
        }
        Hosts::Every => {}
    }
    name + &rule.path
}

/// Reads the methods; none is all of them.
fn methods(section: &mut Section<'_, '_>) -> Vec<Method> {
    let Some(methods) = section.list("methods", method) else {
        return Vec::new();
    };
    if methods.is_empty() {
        let wrong = Wrong::new("no method is named", "remove it: then all are meant");
        section.problem_between(&["methods"], wrong);
    }
    methods
}

/// Methods are written in capitals, and their case counts (RFC 9110 section 9.1).
fn method(node: &Node) -> Result<Method, Wrong> {
    let text = parse::text(node)?;
    let method: Option<Method> = text.parse().ok();
    match method {
        Some(Method::CONNECT) => Err(Wrong::new("CONNECT is not offered", "\"GET\"")),
        Some(method) if method.as_str().bytes().all(|b| !b.is_ascii_lowercase()) => Ok(method),
        Some(method) => {
            let capitals = method.as_str().to_ascii_uppercase();
            Err(Wrong::new(
                "the case of a method counts, and they are written in capitals",
                format!("\"{capitals}\""),
            ))
        }
        None => Err(Wrong::new("not a method", "\"GET\"")),
    }
}

fn host(node: &Node) -> Result<Hosts, Wrong> {
    let text = parse::text(node)?.to_lowercase();
    let right = "a host without port, like \"shop.example.com\", or \"*.example.com\"";
    let (text, hosts): (&str, fn(String) -> Hosts) = match text.strip_prefix("*.") {
        Some(domain) => (domain, Hosts::Below),
        None => (&text, Hosts::One),
    };
    if text.contains('*') {
        let wrong = "a `*` stands only at the beginning, for all names below a domain";
        return Err(Wrong::new(wrong, right));
    }
    match text.parse::<Authority>() {
        Ok(authority) if authority.host() == text => Ok(hosts(text.to_owned())),
        Ok(authority) if !text.contains('@') => Err(Wrong::new(
            "a route's host has no port",
            format!("\"{}\"", authority.host()),
        )),
        _ => Err(Wrong::new("not a host", right)),
    }
}

/// A prefix as the path of a request can begin once it is normalised; others would never match.
fn path(node: &Node) -> Result<String, Wrong> {
    let text = parse::text(node)?;
    let wrong = if !text.starts_with('/') {
        "the path does not begin with `/`"
    } else if text.contains(['?', '#']) {
        "routes do not look at queries"
    } else if text.contains('*') {
        "there are no wildcards: a path stands for all that begins with it"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('\\') {
        "no request has such a path: other characters are percent-encoded"
    } else if text.contains("//") || text.split('/').any(|part| part == "." || part == "..") {
        "routes are chosen by the path as a server would resolve it, without `//`, `.` and `..`"
    } else {
        return Ok(text);
    };
    Err(Wrong::new(wrong, "a prefix like \"/static/\""))
}

//! `[[route]]`: which host and path get which upstream and policy.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use http::uri::Authority;

use super::parse::{self, Wrong};
use super::policy::{contract_overrides, notification_overrides, session_overrides};
use super::section::Section;
use super::tree::{Node, Origin};
use super::upstreams::{self, Groups};
use super::{Route, RoutePolicy, Upstream};

/// What of a route has an effect without sessions.
const WITHOUT_SESSION: [&str; 4] = ["host", "path", "upstream", "session"];

/// Reads all routes, most specific first; the last one matches everything. What a route does not
/// say is as in `upstream` and `policy`.
pub(super) fn read(
    root: &mut Section<'_, '_>,
    upstream: &Upstream,
    groups: &mut Groups,
    policy: &RoutePolicy,
) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let mut seen: BTreeSet<(Option<String>, String)> = BTreeSet::new();
    root.tables("route", |section, origin| {
        routes.push(route(section, &origin, upstream, groups, policy, &mut seen));
    });
    if !seen.contains(&(None, "/".to_owned())) {
        routes.push(Route {
            name: "/".to_owned(),
            host: None,
            path: "/".to_owned(),
            upstream: upstream.clone(),
            session: Some(policy.clone()),
        });
    }
    routes.sort_by(|a, b| specificity(a).cmp(&specificity(b)));
    routes
}

/// Smaller is more specific: with a host before without, the longer path before the shorter.
fn specificity(route: &Route) -> impl Ord + use<'_> {
    (
        route.host.is_none(),
        Reverse(route.path.len()),
        &route.host,
        &route.path,
    )
}

/// One route.
fn route(
    mut section: Section<'_, '_>,
    origin: &Origin,
    upstream: &Upstream,
    groups: &mut Groups,
    policy: &RoutePolicy,
    seen: &mut BTreeSet<(Option<String>, String)>,
) -> Route {
    let host = section.read("host", host);
    let path = section.read("path", path);
    let own_upstream = upstreams::upstream(&mut section, groups);
    let has_session = section.read("session", parse::boolean).unwrap_or(true);
    let mut own_policy = policy.clone();
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
    }
    let is_given = |name| present.iter().any(|(present, _)| *present == name);
    let is_wrong = is_given("host") && host.is_none() || is_given("path") && path.is_none();
    let path = path.unwrap_or_else(|| "/".to_owned());
    let is_new = seen.insert((host.clone(), path.clone()));
    if !is_new && !is_wrong {
        let wrong = Wrong::new("a route with this host and path stands above", "join them");
        section.wrong("path", origin, wrong);
    }
    section.finish();
    Route {
        name: format!("{}{path}", host.as_deref().unwrap_or_default()),
        host,
        path,
        upstream: own_upstream.unwrap_or_else(|| upstream.clone()),
        session: has_session.then_some(own_policy),
    }
}

fn host(node: &Node) -> Result<String, Wrong> {
    let text = parse::text(node)?.to_lowercase();
    let right = "a host without port, like \"shop.example.com\"";
    if text.contains('*') {
        return Err(Wrong::new("wildcards are not in this version", right));
    }
    match text.parse::<Authority>() {
        Ok(authority) if authority.host() == text => Ok(text),
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

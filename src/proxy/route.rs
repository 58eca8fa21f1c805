//! Which route a request takes: by host, path and method, the most specific first.
//!
//! A path can be read in more than one way: servers differ in whether they decode it once or twice,
//! join `//`, take `\` for `/`, or cut off what follows a `;`. Whoever knows how the application
//! reads it could get around a route that the proxy chose by another reading (CVE-2019-9901,
//! CVE-2021-29492). So a path that can be read in several ways has to lead to the same route in all
//! of them; then it goes on as it came. One that does not is refused.
//!
//! Pure code: whether two servers agree is decided here, and nothing is rewritten.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::config::{Hosts, RouteMatch};

/// Why no route is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Which of two routes it takes depends on who reads the path.
    #[error("the path leads to different routes, depending on how it is read")]
    Ambiguous,
    /// The end of a text, to many programs.
    #[error("there is a NUL in the path")]
    Nul,
}

/// Chooses among routes that stand most specific first. `host` is without its port, and empty where
/// none was named; `path` is as in the request, without its query. `None` where none fits.
///
/// # Errors
///
/// [`RouteError`]: the request must not go to any of them.
pub fn choose<'r, R>(
    routes: &'r [R],
    rule: impl Fn(&R) -> &RouteMatch,
    method: &Method,
    host: &str,
    path: &str,
) -> Result<Option<&'r R>, RouteError> {
    let find = |path: &str| {
        routes
            .iter()
            .position(|route| fits(rule(route), method, host, path))
    };
    let chosen = match readings(path)? {
        Readings::One(path) => find(&path),
        Readings::Several(paths) => {
            let mut found = paths.iter().map(|path| find(path));
            let first = found.next().flatten();
            if found.any(|other| other != first) {
                return Err(RouteError::Ambiguous);
            }
            first
        }
    };
    Ok(chosen.and_then(|index| routes.get(index)))
}

fn fits(rule: &RouteMatch, method: &Method, host: &str, path: &str) -> bool {
    names(&rule.host, host) && covers(&rule.path, path) && allows(&rule.methods, method)
}

fn names(hosts: &Hosts, host: &str) -> bool {
    match hosts {
        Hosts::Every => true,
        Hosts::One(name) => name.eq_ignore_ascii_case(host),
        // At least one label stands before the dot.
        Hosts::Below(domain) => host
            .len()
            .checked_sub(domain.len())
            .and_then(|at| host.split_at_checked(at))
            .is_some_and(|(labels, end)| {
                labels.len() > 1 && labels.ends_with('.') && end.eq_ignore_ascii_case(domain)
            }),
    }
}

/// Whether a route's path covers the request's, by whole segments.
fn covers(route: &str, path: &str) -> bool {
    match path.strip_prefix(route) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || route.ends_with('/'),
        None => false,
    }
}

/// HEAD goes where GET goes, since its answer is about that one (RFC 9110 section 9.3.2).
fn allows(methods: &[Method], method: &Method) -> bool {
    let method = if method == Method::HEAD && !methods.contains(method) {
        &Method::GET
    } else {
        method
    };
    methods.is_empty() || methods.contains(method)
}

/// The ways in which servers read a path.
#[derive(Debug)]
enum Readings<'p> {
    One(Cow<'p, str>),
    Several(Vec<String>),
}

fn readings(path: &str) -> Result<Readings<'_>, RouteError> {
    // `OPTIONS *` is about the server as a whole (RFC 9110 section 9.3.7).
    if path == "*" {
        return Ok(Readings::One(Cow::Borrowed("/")));
    }
    // None comes that far without a slash; where dots lead in one, nobody knows.
    if !path.starts_with('/') {
        return Err(RouteError::Ambiguous);
    }
    if !path.contains('%') && is_plain(path) {
        return Ok(Readings::One(Cow::Borrowed(path)));
    }
    let whole = decode_unreserved(path);
    let once = decode(&whole);
    if once.contains('\0') {
        return Err(RouteError::Nul);
    }
    let slashes = |text: &str| text.matches('/').count();
    if is_plain(&once) && !once.contains('%') && slashes(&once) == slashes(&whole) {
        // Nothing in it that is encoded would have a meaning of its own.
        return Ok(Readings::One(Cow::Owned(whole)));
    }
    let twice = decode(&once).into_owned();
    if twice.contains('\0') {
        return Err(RouteError::Nul);
    }
    let mut paths = Vec::new();
    for decoded in [whole.as_str(), &once, &twice] {
        add_readings(decoded, &mut paths);
    }
    Ok(Readings::Several(paths))
}

/// All readings of a path that is decoded already.
fn add_readings(path: &str, paths: &mut Vec<String>) {
    let both = |differs| {
        if differs {
            &[false, true][..]
        } else {
            &[false]
        }
    };
    for &slashed in both(path.contains('\\')) {
        let path = if slashed {
            Cow::Owned(path.replace('\\', "/"))
        } else {
            Cow::Borrowed(path)
        };
        for &cut in both(path.contains(';')) {
            // Without its parameters, a segment may be empty.
            for &joined in both(path.contains("//") || cut && path.contains("/;")) {
                let resolved = resolve(&path, cut, joined);
                if !paths.contains(&resolved) {
                    paths.push(resolved);
                }
            }
        }
    }
}

/// Whether every server reads it in the same way, if nothing in it is encoded.
fn is_plain(path: &str) -> bool {
    !path.contains(['\\', ';']) && !path.contains("//") && !path.contains("/.")
}

fn decode(path: &str) -> Cow<'_, str> {
    percent_decode_str(path).decode_utf8_lossy()
}

/// Decodes only what means the same encoded and not (RFC 3986 section 6.2.2.2).
fn decode_unreserved(path: &str) -> String {
    let mut parts = path.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        let byte = u8::from_str_radix(code, 16)
            .ok()
            .filter(|_| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                text.push(char::from(byte));
                text.push_str(rest);
            }
            _ => {
                text.push('%');
                text.push_str(part);
            }
        }
    }
    text
}

/// Takes dot segments out (RFC 3986 section 5.2.4); before that, cuts off the parameters of each
/// segment; with `joined`, takes empty segments out, too.
fn resolve(path: &str, cut: bool, joined: bool) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut is_folder = false;
    for segment in path.split('/').skip(1) {
        let segment = match segment.split_once(';') {
            Some((name, _parameters)) if cut => name,
            Some(_) | None => segment,
        };
        is_folder = matches!(segment, "" | "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            "" if joined => {}
            name => kept.push(name),
        }
    }
    if is_folder && kept.last().is_none_or(|last| !last.is_empty()) {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(host: Hosts, path: &str, methods: &[Method]) -> RouteMatch {
        RouteMatch {
            host,
            path: path.to_owned(),
            methods: methods.to_vec(),
        }
    }

    fn every(path: &str) -> RouteMatch {
        rule(Hosts::Every, path, &[])
    }

    /// The path of the route that a GET takes.
    fn taken<'r>(routes: &'r [RouteMatch], path: &str) -> Result<&'r str, RouteError> {
        let chosen = choose(routes, |route| route, &Method::GET, "a.test", path)?;
        Ok(chosen.map_or("none", |route| &route.path))
    }

    #[test]
    fn a_path_that_is_read_in_one_way_takes_its_route() {
        let routes = [every("/static/"), every("/admin"), every("/")];
        let cases = [
            ("/", "/"),
            ("*", "/"),
            ("/a/b", "/"),
            ("/static", "/"),
            ("/static/", "/static/"),
            ("/static/x", "/static/"),
            ("/%73tatic/x", "/static/"),
            ("/static/caf%C3%A9%20x", "/static/"),
            ("/static/../admin", "/admin"),
            ("/static/%2e%2E/admin", "/admin"),
            ("/static/./x", "/static/"),
            ("/static/..", "/"),
            ("/static/.", "/static/"),
            ("/../../admin", "/admin"),
            ("/admin/.hidden", "/admin"),
            ("/administer", "/"),
            ("/admin/", "/admin"),
            ("/%", "/"),
            ("/%zz/%4", "/"),
            ("/%ff", "/"),
        ];
        for (path, expected) in cases {
            assert_eq!(taken(&routes, path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn several_readings_that_lead_to_the_same_route_are_fine() {
        let routes = [every("/static/"), every("/admin"), every("/")];
        let cases = [
            ("/static/a%2Fb", "/static/"),
            ("/static/a;v=1/b", "/static/"),
            ("/static//a", "/static/"),
            ("/static/a\\b", "/static/"),
            ("/static/100%2525", "/static/"),
            ("/a//b/%2e%2e", "/"),
        ];
        for (path, expected) in cases {
            assert_eq!(taken(&routes, path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn a_path_that_one_server_reads_in_another_way_than_the_next_is_refused() {
        let routes = [every("/static/"), every("/admin"), every("/")];
        let refused = [
            "//admin",
            "/x//../admin",
            "/static//../admin",
            "/static/..%2fadmin",
            "/static/..%5cadmin",
            "/static/..\\admin",
            "\\admin",
            "/x/..;/admin",
            "/;/admin",
            "/.;//admin",
            "/admin;x/y",
            "/static/%252e%252e/admin",
            "/%2561dmin",
            "/admin%2fx",
            "/%2fadmin",
            "]/static//x",
            "x/%2e%2e/admin",
        ];
        for path in refused {
            assert_eq!(taken(&routes, path), Err(RouteError::Ambiguous), "{path}");
        }
        for path in ["/a%00", "/admin%2500"] {
            assert_eq!(taken(&routes, path), Err(RouteError::Nul), "{path}");
        }
    }

    #[test]
    fn with_one_route_there_is_nothing_to_disagree_about() {
        let routes = [every("/")];
        for path in ["//a", "/a%2f..%2fb", "/a;x", "/\\", "/%252e%252e/"] {
            assert_eq!(taken(&routes, path), Ok("/"), "{path}");
        }
    }

    #[test]
    fn a_host_counts_before_a_domain_and_that_before_none() {
        let below = || Hosts::Below("example.com".to_owned());
        let routes = [
            rule(Hosts::One("www.example.com".to_owned()), "/", &[]),
            rule(below(), "/a", &[]),
            every("/every"),
        ];
        let chosen = |host, path| {
            let route = choose(&routes, |route| route, &Method::GET, host, path).unwrap();
            route.map_or("none", |route| route.path.as_str())
        };
        assert_eq!(chosen("WWW.example.com", "/a"), "/");
        assert_eq!(chosen("x.Example.com", "/a"), "/a");
        assert_eq!(chosen("y.x.example.com", "/a"), "/a");
        assert_eq!(chosen("example.com", "/a"), "none");
        assert_eq!(chosen(".example.com", "/a"), "none");
        assert_eq!(chosen("xexample.com", "/a"), "none");
        assert_eq!(chosen("", "/every"), "/every");
        assert_eq!(chosen("äexample.com", "/a"), "none");
    }

    #[test]
    fn a_route_can_be_for_some_methods_and_head_goes_with_get() {
        let routes = [
            rule(Hosts::Every, "/", &[Method::GET]),
            rule(Hosts::Every, "/", &[Method::POST, Method::HEAD]),
            every("/"),
        ];
        let chosen = |routes: &[RouteMatch], method| {
            let index = |route: &RouteMatch| route.methods.len();
            let route = choose(routes, |route| route, &method, "", "/").unwrap();
            route.map(index)
        };
        assert_eq!(chosen(&routes, Method::GET), Some(1));
        assert_eq!(chosen(&routes, Method::HEAD), Some(1));
        assert_eq!(chosen(&routes, Method::POST), Some(2));
        assert_eq!(chosen(&routes, Method::PUT), Some(0));
        assert_eq!(chosen(&routes[1..], Method::HEAD), Some(2));
        assert_eq!(chosen(&routes[1..2], Method::GET), None);
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "/?([a./;\\\\%]|%2[eEfF5]|%5[cC]|%[0-9a-f]{2}|é){0,12}") {
            let routes = [every("/a"), every("/")];
            let _unused = taken(&routes, &path);
        }

        #[test]
        fn how_a_route_is_reached_does_not_depend_on_spelling(
            segments in prop::collection::vec("[a-c]|\\.|\\.\\.|", 1..8),
            encoded in prop::collection::vec(any::<bool>(), 40),
        ) {
            let path = format!("/{}", segments.join("/"));
            let mut encode = encoded.into_iter().cycle();
            let spelt: String = path
                .chars()
                .map(|c| match c {
                    '/' => "/".to_owned(),
                    c if encode.next().unwrap() => format!("%{:02x}", u32::from(c)),
                    c => c.to_string(),
                })
                .collect();
            let routes = [every("/a"), every("/b/"), every("/")];
            prop_assert_eq!(taken(&routes, &path), taken(&routes, &spelt));
        }
    }
}

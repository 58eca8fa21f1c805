//! Which notifications an exchange carries, and whether a person saw them.

use http::header::{ACCEPT, CONTENT_DISPOSITION, LOCATION};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use url::Url;

use super::{Bind, Consume, NotificationPolicy};
use crate::clock::Timestamp;
use crate::contract::ContractPolicy;
use crate::session::{EntryId, Notifications};

/// What kind of request it is: whether a person will look at the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// A page load.
    Page,
    /// Anything else: an image, a script, an API call, a prefetch, a form that is sent.
    Other,
}

/// The notifications that an exchange carries to the application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Which ones.
    pub entries: Vec<EntryId>,
    /// The token under which they are held until the exchange ends; `None` when they are only
    /// shown and stay until the application takes them.
    pub claim: Option<u64>,
}

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// The headers in which browsers of different makes and ages say that nobody asked for the page
/// yet (`Sec-Purpose` is the standard one: Fetch section 4.7).
const PURPOSES: [HeaderName; 4] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-purpose"),
    HeaderName::from_static("x-moz"),
];

impl Visit {
    /// Classifies a request by its head: a page load is a GET that is a navigation by
    /// `Sec-Fetch-Mode` and `Sec-Fetch-Dest` (Fetch Metadata Request Headers, sections 2.1 and
    /// 2.2), or, from clients that send neither, one whose `Accept` names HTML. `*/*` does not
    /// count: scripts and images send it too. A prefetch is never one.
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        if method != Method::GET || is_prefetch(headers) {
            return Self::Other;
        }
        let is_page = match (headers.get(SEC_FETCH_MODE), headers.get(SEC_FETCH_DEST)) {
            (None, None) => accepts_html(headers),
            (mode, dest) => {
                mode.is_none_or(|mode| mode.as_bytes() == b"navigate")
                    && dest.is_none_or(|dest| {
                        [&b"document"[..], b"iframe", b"frame"].contains(&dest.as_bytes())
                    })
            }
        };
        if is_page { Self::Page } else { Self::Other }
    }
}

fn is_prefetch(headers: &HeaderMap) -> bool {
    PURPOSES.iter().any(|name| {
        headers.get_all(name).iter().any(|value| {
            let value = value.as_bytes().to_ascii_lowercase();
            [&b"prefetch"[..], b"prerender", b"preview"]
                .iter()
                .any(|word| contains(&value, word))
        })
    })
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|line| {
        let line = line.as_bytes().to_ascii_lowercase();
        contains(&line, b"text/html") || contains(&line, b"application/xhtml+xml")
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

impl Carried {
    /// Which of the waiting notifications an exchange carries that loads `path` at `now`. `token`
    /// must be unlike that of any other exchange. What the route does not expose is not carried.
    pub fn due(
        notifications: &Notifications,
        policy: &NotificationPolicy,
        contract: &ContractPolicy,
        visit: Visit,
        path: &str,
        token: u64,
        now: Timestamp,
    ) -> Self {
        let claims = match (policy.consume, visit) {
            (Consume::Page, Visit::Other) => return Self::default(),
            (Consume::Page, Visit::Page) | (Consume::Always, _) => true,
            (Consume::Ack, _) => false,
        };
        let entries: Vec<EntryId> = notifications
            .due(path, policy.bind_grace, now)
            .filter(|entry| contract.exposes(&entry.name))
            .map(|entry| entry.id)
            .collect();
        let claim = (claims && !entries.is_empty()).then_some(token);
        Self { entries, claim }
    }

    /// Whether it carries nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Whether the answer uses up what the request carried: under `page`, whether it is something
/// that a person sees. Not seen are interim answers and upgrades, redirects and 304, answers
/// without content, server errors, and downloads.
pub fn is_shown(consume: Consume, status: StatusCode, headers: &HeaderMap) -> bool {
    match consume {
        Consume::Ack => false,
        Consume::Always => true,
        Consume::Page => {
            let is_download = headers.get(CONTENT_DISPOSITION).is_some_and(|value| {
                value
                    .as_bytes()
                    .to_ascii_lowercase()
                    .starts_with(b"attachment")
            });
            (status.is_success() || status.is_client_error())
                && status != StatusCode::NO_CONTENT
                && status != StatusCode::RESET_CONTENT
                && !is_download
        }
    }
}

/// The path of the page for which notifications of this response wait: where it redirects to, if
/// that is on the same host. `host` and `path` are those of the request.
pub fn redirect_target(
    bind: Bind,
    host: &str,
    path: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> Option<String> {
    if bind == Bind::None || !status.is_redirection() {
        return None;
    }
    let location = headers.get(LOCATION)?.to_str().ok()?;
    let base = page_url(host, path)?;
    let target = base.join(location).ok()?;
    (target.host() == base.host()).then(|| target.path().to_owned())
}

/// The path of a request in the spelling in which [`redirect_target`] gives it.
pub fn page_path(host: &str, path: &str) -> Option<String> {
    page_url(host, path).map(|url| url.path().to_owned())
}

fn page_url(host: &str, path: &str) -> Option<Url> {
    Url::parse(&format!("http://{host}{path}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|&(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn a_page_load_is_a_navigation_or_asks_for_html() {
        let mode = |mode, dest| [("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
        let cases = [
            (mode("navigate", "document").to_vec(), Visit::Page),
            (mode("navigate", "iframe").to_vec(), Visit::Page),
            (vec![("sec-fetch-mode", "navigate")], Visit::Page),
            (mode("no-cors", "image").to_vec(), Visit::Other),
            (
                vec![("sec-fetch-mode", "cors"), ("accept", "text/html")],
                Visit::Other,
            ),
            (mode("navigate", "embed").to_vec(), Visit::Other),
            (
                vec![("accept", "text/html,application/xhtml+xml,*/*;q=0.8")],
                Visit::Page,
            ),
            (vec![("accept", "Application/XHTML+xml")], Visit::Page),
            (vec![("accept", "*/*")], Visit::Other),
            (
                vec![("accept", "image/avif,image/webp,*/*;q=0.8")],
                Visit::Other,
            ),
            (vec![], Visit::Other),
            (
                vec![
                    ("sec-fetch-mode", "navigate"),
                    ("sec-purpose", "prefetch;prerender"),
                ],
                Visit::Other,
            ),
            (
                vec![("accept", "text/html"), ("x-moz", "prefetch")],
                Visit::Other,
            ),
            (
                vec![("accept", "text/html"), ("purpose", "Prefetch")],
                Visit::Other,
            ),
        ];
        for (lines, expected) in cases {
            assert_eq!(
                Visit::of(&Method::GET, &headers(&lines)),
                expected,
                "{lines:?}"
            );
        }
        let html = headers(&[("accept", "text/html")]);
        assert_eq!(Visit::of(&Method::POST, &html), Visit::Other);
        assert_eq!(Visit::of(&Method::HEAD, &html), Visit::Other);
    }

    #[test]
    fn a_person_sees_pages_and_client_errors_and_nothing_else() {
        let none = HeaderMap::new();
        let seen = [200, 206, 404];
        let unseen = [101, 204, 205, 301, 303, 304, 500, 503];
        for (statuses, expected) in [(&seen[..], true), (&unseen[..], false)] {
            for &status in statuses {
                let status = StatusCode::from_u16(status).unwrap();
                assert_eq!(is_shown(Consume::Page, status, &none), expected, "{status}");
                assert!(is_shown(Consume::Always, status, &none));
                assert!(!is_shown(Consume::Ack, status, &none));
            }
        }
        let download = headers(&[("content-disposition", "Attachment; filename=a")]);
        assert!(!is_shown(Consume::Page, StatusCode::OK, &download));
    }

    #[test]
    fn a_redirect_binds_to_its_path_on_the_same_host() {
        let target = |location: &'static str| {
            redirect_target(
                Bind::Redirect,
                "shop.example:8080",
                "/cart/add",
                StatusCode::SEE_OTHER,
                &headers(&[("location", location)]),
            )
        };
        let cases = [
            ("/", Some("/")),
            ("/cart?x=1#y", Some("/cart")),
            ("done", Some("/cart/done")),
            ("../up", Some("/up")),
            ("http://shop.example:8080/abs", Some("/abs")),
            ("https://shop.example/abs", Some("/abs")),
            ("//other.example/abs", None),
            ("http://other.example/", None),
            ("mailto:a@b", None),
            ("/a b", Some("/a%20b")),
        ];
        for (location, expected) in cases {
            assert_eq!(target(location).as_deref(), expected, "{location}");
        }
        assert_eq!(
            page_path("shop.example", "/a%20b").as_deref(),
            Some("/a%20b")
        );
    }

    #[test]
    fn nothing_binds_without_a_redirect() {
        let location = headers(&[("location", "/")]);
        let target = |bind, status| redirect_target(bind, "h", "/", status, &location);
        assert_eq!(target(Bind::Redirect, StatusCode::OK), None);
        assert_eq!(target(Bind::None, StatusCode::SEE_OTHER), None);
    }
}

//! One look at each name of a head: what there is that a proxy has to do something about.
//!
//! Most heads have next to nothing of it. A look-up in a header map costs more than a glance at a
//! name, so what is not there is not looked up.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::client::is_forwarding;
use super::hop::is_hop_by_hop;

/// A field that must be read before it is passed on or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Connection = 1,
    ContentLength = 2,
    Expect = 4,
    Te = 8,
    TransferEncoding = 16,
}

/// What becomes of the fields by which a client could pretend to be someone else or somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claims {
    /// They mean nothing in this head.
    Pass,
    /// A trusted neighbour may send them; but one that sets `X-Forwarded-For` may well have let a
    /// client's `X_Forwarded_For` through, so other spellings go.
    Believed,
    /// They go.
    Refused,
}

/// What was found in a head.
#[derive(Debug, Default)]
pub(super) struct Survey {
    marks: u8,
    /// The fields that end here.
    pub(super) doomed: SmallVec<[HeaderName; 2]>,
}

impl Survey {
    pub(super) fn of(headers: &HeaderMap, claims: Claims) -> Self {
        let mut survey = Self::default();
        for name in headers.keys() {
            if survey.ends_here(name.as_str(), claims) {
                survey.doomed.push(name.clone());
            }
        }
        survey
    }

    /// Whether the field is there.
    pub(super) fn has(&self, mark: Mark) -> bool {
        self.marks & bit(mark) != 0
    }

    fn ends_here(&mut self, name: &str, claims: Claims) -> bool {
        // Folding leaves letters and lengths as they are. Most names of most heads need no other
        // look than at these.
        let Some(&first) = name.as_bytes().first() else {
            return false;
        };
        match (first, name.len()) {
            (b'c', 10 | 14)
            | (b'h', 14)
            | (b'k', 10)
            | (b'p', _)
            | (b't', 2 | 7 | 17)
            | (b'u', 7) => {
                self.mark(name);
                // `Content_Length` is nobody's business but a smuggler's; the proper one stays.
                name != CONTENT_LENGTH
                    && folded(name, |name| is_hop_by_hop(name) || name == CONTENT_LENGTH)
            }
            (b'e', 6) => {
                self.mark(name);
                false
            }
            (b'f' | b'x', _) => match claims {
                Claims::Pass => false,
                Claims::Believed => !is_forwarding(name) && folded(name, is_forwarding),
                Claims::Refused => folded(name, is_forwarding),
            },
            _ => false,
        }
    }

    fn mark(&mut self, name: &str) {
        let mark = match name {
            "connection" => Mark::Connection,
            "content-length" => Mark::ContentLength,
            "expect" => Mark::Expect,
            "te" => Mark::Te,
            "transfer-encoding" => Mark::TransferEncoding,
            _ => return,
        };
        self.marks |= bit(mark);
    }
}

#[expect(clippy::as_conversions, reason = "a discriminant has no other way out")]
const fn bit(mark: Mark) -> u8 {
    mark as u8
}

/// Whether `test` holds for the name as it is, or as CGI, WSGI and their kin fold it (every
/// character that is no letter and no digit becomes `-`): `x_forwarded_for` is a spoof.
fn folded(name: &str, test: fn(&str) -> bool) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.bytes().all(plain) {
        return test(name);
    }
    let fold = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    test(&name.chars().map(fold).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_ends_here_begins_with_a_letter_that_is_looked_at() {
        let hops = [
            "connection",
            "http2-settings",
            "keep-alive",
            "proxy",
            "proxy-authenticate",
            "proxy-authentication-info",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let claims = [
            "forwarded",
            "x-forwarded",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x-forwarded-proto",
            "x-forwarded-scheme",
            "x-forwarded-server",
            "x-forwarded-ssl",
            "x-forwarded-uri",
            "x-original-url",
            "x-real-ip",
            "x-rewrite-url",
        ];
        let doomed = |name: &str| Survey::default().ends_here(name, Claims::Refused);
        for name in hops.iter().chain(&claims) {
            assert!(doomed(name), "{name}");
            assert!(doomed(&name.replace('-', "_")), "{name}, folded");
        }
        for name in claims {
            assert!(!Survey::default().ends_here(name, Claims::Believed));
            assert!(!Survey::default().ends_here(name, Claims::Pass));
        }
        assert!(doomed("content_length") && doomed("content.length"));
        for name in ["host", "content-length", "cookie", "expect", "x-request-id"] {
            assert!(!doomed(name), "{name}");
        }
    }
}

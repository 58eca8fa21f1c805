//! `Set-Cookie` lines: the session cookie as it is set and expired.
//!
//! Both lines are built from one set of attributes, because a browser removes a cookie only when
//! path and domain are those that it was set with (RFC 6265 section 5.3).

use std::fmt::Write as _;
use std::time::Duration;

use ::cookie::{Cookie, time};
use bytes::Bytes;
use http::header::HeaderValue;

use super::{CookiePolicy, Expires, SameSite, Secure, SigningVersion};
use crate::clock::Timestamp;
use crate::session::SessionId;

const SECS_PER_DAY: u64 = 24 * 60 * 60;

/// Signs the id and writes the line that sets the cookie.
///
/// `presented` is the version of the valid cookie that came with the request, for
/// [`SigningVersion::Same`]; `None` when none came.
///
/// `persist` is what the application chose for this session: with `Some(false)` the cookie ends
/// with the browser; with `Some(true)` it outlives it, for as long as the signature is valid where
/// the policy itself names no time; `None` is the policy.
///
/// `secure_connection` says whether the browser came by TLS, for [`Secure::Auto`]. A cookie with
/// `SameSite=None` or `Partitioned` is `Secure` with `Auto` in any case: browsers drop it otherwise
/// (RFC 6265bis section 5.7), so leaving `Secure` out could not help anyone.
///
/// The line is marked sensitive.
///
/// # Panics
///
/// The policy is one that [`CookiePolicy::problems`] complains about.
pub fn issue(
    policy: &CookiePolicy,
    id: &SessionId,
    presented: Option<u8>,
    persist: Option<bool>,
    secure_connection: bool,
    now: Timestamp,
) -> HeaderValue {
    let signed = sign(policy, id, presented, now);
    let mut cookie = with_attributes(policy, signed, secure_connection);
    if persist != Some(false) {
        let expires = policy.expiry.expires.map(|expires| match expires {
            Expires::At(moment) => moment,
            Expires::Days(days) => now.after(days_long(days)),
        });
        let max_age = policy.expiry.max_age.or_else(|| {
            let chosen = persist == Some(true) && expires.is_none();
            chosen.then(|| days_long(policy.max_age_days).as_secs())
        });
        if let Some(moment) = expires {
            cookie.set_expires(date(moment));
        }
        if let Some(secs) = max_age {
            let secs = i64::try_from(secs).unwrap_or(i64::MAX);
            cookie.set_max_age(time::Duration::seconds(secs));
        }
    }
    header(&cookie)
}

/// Writes the line that makes the browser forget the cookie, with the attributes of [`issue`].
///
/// # Panics
///
/// As [`issue`].
pub fn expire(policy: &CookiePolicy, secure_connection: bool) -> HeaderValue {
    let mut cookie = with_attributes(policy, String::new(), secure_connection);
    cookie.set_expires(time::OffsetDateTime::UNIX_EPOCH);
    cookie.set_max_age(time::Duration::ZERO);
    header(&cookie)
}

fn sign(policy: &CookiePolicy, id: &SessionId, presented: Option<u8>, now: Timestamp) -> String {
    let in_version_1 = match policy.version {
        SigningVersion::V1 => true,
        SigningVersion::V2 => false,
        SigningVersion::Same => presented == Some(1),
    };
    let keyring = &policy.keyring;
    let signed = in_version_1.then(|| keyring.sign_v1(&policy.name, &id.text(), now));
    // Secrets with key versions can't sign version 1: problems() refuses that setting, and no
    // version 1 value of theirs is valid.
    signed
        .flatten()
        .unwrap_or_else(|| keyring.sign(&policy.name, &id.text(), now))
}

/// What setting and expiring have in common.
fn with_attributes(policy: &CookiePolicy, value: String, secure_connection: bool) -> Cookie<'_> {
    let secure = match policy.secure {
        Secure::Always => true,
        Secure::Never => false,
        Secure::Auto => {
            secure_connection || policy.partitioned || policy.same_site == Some(SameSite::None)
        }
    };
    let mut cookie = Cookie::new(policy.name.as_str(), value);
    cookie.set_path(policy.path.as_str());
    if let Some(domain) = &policy.domain {
        cookie.set_domain(domain.as_str());
    }
    cookie.set_secure(secure);
    cookie.set_http_only(policy.http_only);
    cookie.set_same_site(policy.same_site.map(|same_site| match same_site {
        SameSite::Strict => ::cookie::SameSite::Strict,
        SameSite::Lax => ::cookie::SameSite::Lax,
        SameSite::None => ::cookie::SameSite::None,
    }));
    cookie.set_partitioned(policy.partitioned);
    cookie
}

fn header(cookie: &Cookie<'_>) -> HeaderValue {
    let mut text = String::with_capacity(cookie.value().len() + 128);
    write!(text, "{cookie}").expect("writing to a string does not fail");
    let mut line = HeaderValue::from_maybe_shared(Bytes::from(text))
        .expect("problems() refuses names, paths and domains that don't fit into a header");
    line.set_sensitive(true);
    line
}

fn days_long(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * SECS_PER_DAY)
}

/// A moment beyond the year 9999, the last that the format can say, is the end of that year.
fn date(moment: Timestamp) -> time::OffsetDateTime {
    i64::try_from(moment.as_secs())
        .ok()
        .and_then(|secs| time::OffsetDateTime::from_unix_timestamp(secs).ok())
        .unwrap_or(time::PrimitiveDateTime::MAX.assume_utc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::tests::policy;
    use crate::cookie::{Expiry, Presented, read};

    const NOW: Timestamp = Timestamp::from_secs(1_300_000_000);

    fn id() -> SessionId {
        SessionId::parse(b"2c7ae81f-0176-4076-bc2a-7efc4aeb7ac5").unwrap()
    }

    fn text(line: &HeaderValue) -> &str {
        line.to_str().unwrap()
    }

    /// The attributes of a set cookie, without name and value.
    fn attributes(policy: &CookiePolicy, persist: Option<bool>, tls: bool) -> String {
        let line = issue(policy, &id(), None, persist, tls, NOW);
        text(&line).split_once(';').unwrap().1.to_owned()
    }

    fn every_attribute() -> CookiePolicy {
        CookiePolicy {
            path: "/app".to_owned(),
            domain: Some("example.com".to_owned()),
            secure: Secure::Always,
            same_site: Some(SameSite::Strict),
            partitioned: true,
            expiry: Expiry {
                expires: Some(Expires::Days(120)),
                max_age: Some(3600),
            },
            ..policy()
        }
    }

    #[test]
    fn a_set_cookie_has_the_bare_signed_value() {
        let line = issue(&policy(), &id(), None, None, false, NOW);
        insta::assert_snapshot!(text(&line), @"PYCKET_ID=2|1:0|10:1300000000|9:PYCKET_ID|48:MmM3YWU4MWYtMDE3Ni00MDc2LWJjMmEtN2VmYzRhZWI3YWM1|393d1d1ef13bf9a8e6a5e0665e1b3ec9602e3100817297b4353b5b86400b9868; HttpOnly; SameSite=Lax; Path=/");
    }

    #[test]
    fn what_is_issued_is_read_back() {
        let line = issue(&policy(), &id(), None, None, false, NOW);
        let (pair, _) = text(&line).split_once(';').unwrap();
        let headers = [(http::header::COOKIE, pair.parse().unwrap())]
            .into_iter()
            .collect();
        let presented = Presented::Verified {
            id: id(),
            issued: NOW,
            version: 2,
        };
        assert_eq!(read(&headers, &policy(), NOW), presented);
    }

    #[test]
    fn the_signing_version_is_the_policys_or_that_of_the_cookie_that_came() {
        let written = |version, presented| {
            let policy = CookiePolicy {
                version,
                ..policy()
            };
            let line = issue(&policy, &id(), presented, None, false, NOW);
            let is_v2 = text(&line).starts_with("PYCKET_ID=2|");
            assert!(is_v2 || text(&line).starts_with("PYCKET_ID=MmM3YWU4"));
            if is_v2 { 2 } else { 1 }
        };
        for presented in [None, Some(1), Some(2)] {
            assert_eq!(written(SigningVersion::V1, presented), 1);
            assert_eq!(written(SigningVersion::V2, presented), 2);
            let same = presented.unwrap_or(2);
            assert_eq!(written(SigningVersion::Same, presented), same);
        }
    }

    #[test]
    fn every_attribute_is_written() {
        insta::assert_snapshot!(attributes(&every_attribute(), None, false), @" HttpOnly; SameSite=Strict; Partitioned; Secure; Path=/app; Domain=example.com; Max-Age=3600; Expires=Mon, 11 Jul 2011 07:06:40 GMT");
    }

    #[test]
    fn removed_cookie_repeats_every_attribute() {
        let line = expire(&every_attribute(), false);
        insta::assert_snapshot!(text(&line), @"PYCKET_ID=; HttpOnly; SameSite=Strict; Partitioned; Secure; Path=/app; Domain=example.com; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
        let line = expire(&policy(), true);
        insta::assert_snapshot!(text(&line), @"PYCKET_ID=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn no_attribute_is_written_that_is_not_wanted() {
        let bare = CookiePolicy {
            http_only: false,
            same_site: None,
            ..policy()
        };
        assert_eq!(attributes(&bare, None, false), " Path=/");
    }

    #[test]
    fn auto_is_secure_when_the_browser_came_by_tls() {
        let mut policy = policy();
        assert!(attributes(&policy, None, true).contains("Secure"));
        assert!(!attributes(&policy, None, false).contains("Secure"));
        policy.secure = Secure::Never;
        assert!(!attributes(&policy, None, true).contains("Secure"));
        policy.secure = Secure::Always;
        assert!(attributes(&policy, None, false).contains("Secure"));
    }

    #[test]
    fn auto_is_secure_where_browsers_drop_the_cookie_otherwise() {
        let cross_site = CookiePolicy {
            same_site: Some(SameSite::None),
            ..policy()
        };
        assert!(attributes(&cross_site, None, false).contains("SameSite=None; Secure"));
        let partitioned = CookiePolicy {
            partitioned: true,
            ..policy()
        };
        assert!(attributes(&partitioned, None, false).contains("Partitioned; Secure"));
    }

    #[test]
    fn an_application_that_wants_it_shorter_gets_no_lifetime() {
        let attributes = attributes(&every_attribute(), Some(false), false);
        assert!(!attributes.contains("Expires") && !attributes.contains("Max-Age"));
    }

    #[test]
    fn an_application_that_wants_it_longer_gets_the_policys_lifetime_or_the_signatures() {
        let lifetime = |expires, max_age| {
            let policy = CookiePolicy {
                expiry: Expiry { expires, max_age },
                ..policy()
            };
            let attributes = attributes(&policy, Some(true), false);
            attributes.split_once("Path=/; ").unwrap().1.to_owned()
        };
        insta::assert_snapshot!(lifetime(None, None), @"Max-Age=2678400");
        insta::assert_snapshot!(lifetime(None, Some(60)), @"Max-Age=60");
        insta::assert_snapshot!(lifetime(Some(Expires::At(NOW)), None), @"Expires=Sun, 13 Mar 2011 07:06:40 GMT");
    }

    #[test]
    fn lifetimes_beyond_every_calendar_end_with_it() {
        let policy = CookiePolicy {
            expiry: Expiry {
                expires: Some(Expires::At(Timestamp::from_millis(u64::MAX))),
                max_age: Some(u64::MAX),
            },
            ..policy()
        };
        insta::assert_snapshot!(attributes(&policy, None, false), @" HttpOnly; SameSite=Lax; Path=/; Max-Age=9223372036854775807; Expires=Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn lines_are_marked_sensitive() {
        assert!(issue(&policy(), &id(), None, None, true, NOW).is_sensitive());
        assert!(expire(&policy(), true).is_sensitive());
    }
}

//! `Cookie` lines: finding the session cookie in them, and cutting it out.
//!
//! A line is taken apart as browsers put it together (RFC 6265 section 5.4): pairs with semicolons
//! between them. Quotes don't protect a semicolon, and names are bytes: lower case, a Unicode space
//! in front or the `$Version` of RFC 2109 make another name. Reading and cutting use one rule, so
//! that what counts for us never goes upstream, and both look at each byte a fixed number of times.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{COOKIE, Entry, HeaderValue, SET_COOKIE};
use memchr::memchr;

use super::signed::{Check, Invalid};
use super::{CookiePolicy, Issued, Presented};
use crate::clock::Timestamp;
use crate::session::SessionId;

/// Verifies the session cookie, and gives the id that it carries.
///
/// All `Cookie` lines count, and every cookie of the name is tried, because a neighbour on another
/// subdomain or path can add one of that name to the browser: the first one that verifies wins. When
/// none does, the result is the reason that came closest: expired, then forged, then malformed.
pub fn read(headers: &HeaderMap, policy: &CookiePolicy, now: Timestamp) -> Presented {
    let mut closest = Presented::Absent;
    for line in headers.get_all(COOKIE) {
        for value in values(line.as_bytes(), &policy.name) {
            let presented = judge(&value, policy, now);
            if matches!(presented, Presented::Verified { .. }) {
                return presented;
            }
            if closeness(&presented) > closeness(&closest) {
                closest = presented;
            }
        }
    }
    closest
}

/// The values of this name in one `Cookie` line, in their order and without their quotes.
pub fn values<'a>(line: &'a [u8], name: &'a str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    pairs(line)
        .filter_map(move |pair| value_of(pair, name))
        .map(unquote)
}

/// What an application that makes the session cookie by itself says of it in its response.
///
/// Of several lines of the name the last one counts, as it does in the browser.
pub fn issued(headers: &HeaderMap, policy: &CookiePolicy, now: Timestamp) -> Issued {
    let mut issued = Issued::Nothing;
    for line in headers.get_all(SET_COOKIE) {
        // Attributes come after the pair (RFC 6265 section 4.1.1).
        let Some(value) = pairs(line.as_bytes())
            .next()
            .and_then(|pair| value_of(pair, &policy.name))
        else {
            continue;
        };
        issued = match judge(&unquote(value), policy, now) {
            Presented::Verified { id, .. } => Issued::Session(id),
            Presented::Absent | Presented::Malformed | Presented::Forged | Presented::Expired => {
                Issued::Other
            }
        };
    }
    issued
}

/// Cuts every cookie of this name out of the `Cookie` lines.
///
/// All other cookies stay byte for byte, in their order and with their separators; each one that
/// goes takes one separator with it. A line of nothing else goes as a whole, and a line without the
/// name is not touched.
pub fn strip(headers: &mut HeaderMap, name: &str) {
    let Entry::Occupied(mut lines) = headers.entry(COOKIE) else {
        return;
    };
    let mut gone = Vec::new();
    let mut all = 0_usize;
    for (position, line) in lines.iter_mut().enumerate() {
        all += 1;
        let Some(rest) = without(line.as_bytes(), name) else {
            continue;
        };
        // What is left of a header value is one, too.
        if let Ok(mut rest) = HeaderValue::from_maybe_shared(rest)
            && !rest.is_empty()
        {
            rest.set_sensitive(line.is_sensitive());
            *line = rest;
        } else {
            gone.push(position);
        }
    }
    if gone.is_empty() {
        return;
    }
    if gone.len() == all {
        lines.remove();
        return;
    }
    // A map gives up only all lines of a name.
    let (header, lines) = lines.remove_entry_mult();
    let stays = |(position, line)| (!gone.contains(&position)).then_some(line);
    let kept: Vec<HeaderValue> = lines.enumerate().filter_map(stays).collect();
    for line in kept {
        headers.append(&header, line);
    }
}

fn judge(value: &[u8], policy: &CookiePolicy, now: Timestamp) -> Presented {
    let check = Check {
        name: &policy.name,
        max_age_days: policy.max_age_days,
        min_version: policy.min_version,
    };
    match policy.keyring.verify(check, value, now) {
        Ok(verified) => match SessionId::parse(verified.value.as_bytes()) {
            Ok(id) => Presented::Verified {
                id,
                issued: Timestamp::from_secs(verified.timestamp_secs),
                version: verified.version,
            },
            Err(_not_an_id) => Presented::Malformed,
        },
        Err(Invalid::Expired) => Presented::Expired,
        // A value of ours under another name, or dated far ahead, is one that was tampered with.
        Err(
            Invalid::Forged | Invalid::UnknownKeyVersion(_) | Invalid::OtherName | Invalid::Future,
        ) => Presented::Forged,
        Err(
            Invalid::Malformed(_)
            | Invalid::UnknownVersion(_)
            | Invalid::VersionTooOld(_)
            | Invalid::NoKeyVersion,
        ) => Presented::Malformed,
    }
}

fn closeness(presented: &Presented) -> u8 {
    match presented {
        Presented::Absent => 0,
        Presented::Malformed => 1,
        Presented::Forged => 2,
        Presented::Expired => 3,
        Presented::Verified { .. } => 4,
    }
}

/// The pairs of a line, with whatever space is around them.
fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let (pair, after) = match memchr(b';', line) {
            Some(end) => line.split_at_checked(end)?,
            None => (line, &b""[..]),
        };
        rest = after.split_first().map(|(_separator, after)| after);
        Some(pair)
    })
}

/// The value of a pair of this name, still quoted.
fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = trim_start(pair).strip_prefix(name.as_bytes())?;
    trim_start(value).strip_prefix(b"=").map(trim)
}

/// The line without the pairs of this name; `None` when it has none.
fn without(line: &[u8], name: &str) -> Option<Bytes> {
    if !pairs(line).any(|pair| value_of(pair, name).is_some()) {
        return None;
    }
    let mut rest = Vec::new();
    let mut kept = 0_usize;
    for (position, pair) in pairs(line).enumerate() {
        if value_of(pair, name).is_some() {
            continue;
        }
        if kept > 0 {
            rest.push(b';');
            rest.extend_from_slice(pair);
        } else if position > 0 {
            // What comes to the front loses the separator to the pair that was there.
            rest.extend_from_slice(trim_start(pair));
        } else {
            rest.extend_from_slice(pair);
        }
        kept += 1;
    }
    Some(Bytes::from(rest))
}

/// Space as HTTP has it (RFC 9110 section 5.6.3): SP and HTAB. Trimming more would let other names
/// pass as ours.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| !is_space(byte));
    start
        .and_then(|start| text.get(start..))
        .unwrap_or_default()
}

fn trim(text: &[u8]) -> &[u8] {
    let last = text.iter().rposition(|&byte| !is_space(byte));
    trim_start(last.and_then(|last| text.get(..=last)).unwrap_or_default())
}

/// Undoes the quoting of Python 2's cookie library, which puts a Tornado value in double quotes and
/// may write a byte as `\ooo`, or any character as itself with a backslash in front. What does not
/// stand in double quotes stays as it is.
pub fn unquote(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(quoted) = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
    else {
        return Cow::Borrowed(value);
    };
    if !quoted.contains(&b'\\') {
        return Cow::Borrowed(quoted);
    }
    let mut plain = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (
                b'\\',
                &[
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    ref after @ ..,
                ],
            ) => ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after),
            (b'\\', &[escaped, ref after @ ..]) => (escaped, after),
            (_, after) => (byte, after),
        };
        plain.push(byte);
        rest = after;
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::cookie::signed::Keyring;
    use crate::cookie::tests::policy;

    const ID: &str = "2c7ae81f-0176-4076-bc2a-7efc4aeb7ac5";
    const NOW: Timestamp = Timestamp::from_secs(1_300_000_000);

    fn signed() -> String {
        policy().keyring.sign("PYCKET_ID", ID.as_bytes(), NOW)
    }

    fn forged() -> String {
        Keyring::single(b"another secret").sign("PYCKET_ID", ID.as_bytes(), NOW)
    }

    fn expired() -> String {
        let long_ago = Timestamp::from_secs(1_200_000_000);
        policy().keyring.sign("PYCKET_ID", ID.as_bytes(), long_ago)
    }

    fn verified() -> Presented {
        Presented::Verified {
            id: SessionId::parse(ID.as_bytes()).unwrap(),
            issued: NOW,
            version: 2,
        }
    }

    fn headers<T: AsRef<[u8]>>(lines: &[T]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_bytes(line.as_ref()).unwrap());
        }
        headers
    }

    fn read_lines<T: AsRef<[u8]>>(lines: &[T]) -> Presented {
        read(&headers(lines), &policy(), NOW)
    }

    fn stripped<T: AsRef<[u8]>>(lines: &[T]) -> Vec<Vec<u8>> {
        let mut headers = headers(lines);
        strip(&mut headers, "P");
        let lines = headers.get_all(COOKIE).iter();
        lines.map(|line| line.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_signed_id_is_found_wherever_it_stands() {
        let signed = signed();
        for line in [
            format!("PYCKET_ID={signed}"),
            format!("a=1; PYCKET_ID={signed}; b=2"),
            format!("a=1;PYCKET_ID={signed};"),
            format!("a=1;\t PYCKET_ID = {signed} \t;b=2"),
            format!("a b=c; =x; foo; foo[]=1; ;;PYCKET_ID={signed}"),
            format!("PYCKET_ID=\"{signed}\""),
            format!("PYCKET_ID=\"{}\"", signed.replace('|', "\\174")),
            format!("PYCKET_ID=\"{}\"", signed.replace(':', "\\:")),
        ] {
            assert_eq!(read_lines(&[&line]), verified(), "{line}");
        }
        assert_eq!(
            read_lines(&["a=1".to_owned(), format!("PYCKET_ID={signed}")]),
            verified()
        );
    }

    #[test]
    fn what_an_application_issues_is_the_last_of_the_name() {
        let issued_by = |lines: &[String]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(SET_COOKIE, line.parse().unwrap());
            }
            issued(&headers, &policy(), NOW)
        };
        let id = SessionId::parse(ID.as_bytes()).unwrap();
        let ours = format!("PYCKET_ID={}; Path=/; HttpOnly", signed());
        let quoted = format!("PYCKET_ID=\"{}\"; Path=/", signed());
        let gone = "PYCKET_ID=; expires=Thu, 01 Jan 1970 00:00:00 GMT".to_owned();
        let other = format!("a={}; PYCKET_ID={}", signed(), signed());
        for line in [&ours, &quoted] {
            assert_eq!(
                issued_by(&[gone.clone(), line.clone()]),
                Issued::Session(id.clone())
            );
        }
        assert_eq!(issued_by(&[ours, gone]), Issued::Other);
        assert_eq!(issued_by(&[other]), Issued::Nothing);
        assert_eq!(issued_by(&[]), Issued::Nothing);
    }

    #[test]
    fn other_names_are_not_ours() {
        let signed = signed();
        for name in [
            "pycket_id",
            "PYCKET_I",
            "PYCKET_ID2",
            "$PYCKET_ID",
            "x PYCKET_ID",
            // "Cookie chaos": spaces of Unicode and of Latin-1 are part of the name.
            "\u{2000}PYCKET_ID",
            "\u{a0}PYCKET_ID",
            "\u{85}PYCKET_ID",
        ] {
            let line = format!("{name}={signed}");
            assert_eq!(read_lines(&[&line]), Presented::Absent, "{name}");
        }
        assert_eq!(read_lines(&["PYCKET_ID"]), Presented::Absent);
        assert_eq!(read_lines::<&str>(&[]), Presented::Absent);
    }

    #[test]
    fn of_several_the_first_that_verifies_counts() {
        let (signed, forged) = (signed(), forged());
        let other = "00000000-0000-4000-8000-000000000000";
        let other = policy().keyring.sign("PYCKET_ID", other.as_bytes(), NOW);
        let line = format!("PYCKET_ID={forged}; PYCKET_ID={signed}; PYCKET_ID={other}");
        assert_eq!(read_lines(&[line]), verified());
        let lines = ["PYCKET_ID=x".to_owned(), format!("PYCKET_ID={signed}")];
        assert_eq!(read_lines(&lines), verified());
    }

    #[test]
    fn of_several_invalid_ones_the_closest_is_the_reason() {
        let forged = format!("PYCKET_ID={}", forged());
        let expired = format!("PYCKET_ID={}", expired());
        let malformed = "PYCKET_ID=x".to_owned();
        assert_eq!(read_lines(&[&malformed]), Presented::Malformed);
        assert_eq!(read_lines(&[&forged, &malformed]), Presented::Forged);
        assert_eq!(
            read_lines(&[&malformed, &expired, &forged]),
            Presented::Expired
        );
    }

    #[test]
    fn what_was_signed_must_be_an_id() {
        for value in ["", "x", "2C7AE81F-0176-4076-BC2A-7EFC4AEB7AC5"] {
            let signed = policy().keyring.sign("PYCKET_ID", value.as_bytes(), NOW);
            let line = format!("PYCKET_ID={signed}");
            assert_eq!(read_lines(&[line]), Presented::Malformed, "{value}");
        }
    }

    #[test]
    fn a_value_of_ours_for_another_name_is_forged() {
        let signed = policy().keyring.sign("OTHER", ID.as_bytes(), NOW);
        let line = format!("PYCKET_ID={signed}");
        assert_eq!(read_lines(&[line]), Presented::Forged);
    }

    #[test]
    fn the_minimum_version_and_the_age_are_the_policys() {
        let mut policy = policy();
        let v1 = policy.keyring.sign_v1("PYCKET_ID", ID.as_bytes(), NOW);
        let headers = headers(&[format!("PYCKET_ID={}", v1.unwrap())]);
        let Presented::Verified { version: 1, .. } = read(&headers, &policy, NOW) else {
            panic!("{:?}", read(&headers, &policy, NOW));
        };

        policy.max_age_days = 1;
        let two_days_later = NOW.after(Duration::from_hours(48));
        assert_eq!(read(&headers, &policy, two_days_later), Presented::Expired);

        policy.min_version = 2;
        assert_eq!(read(&headers, &policy, NOW), Presented::Malformed);
    }

    #[test]
    fn percent_encoding_is_not_undone() {
        let line = format!("PYCKET_ID={}", signed().replace('|', "%7C"));
        assert_eq!(read_lines(&[line]), Presented::Malformed);
    }

    #[test]
    fn quotes_are_undone_once_and_only_in_pairs() {
        let cases: [(&[u8], &[u8]); 9] = [
            (b"", b""),
            (b"\"", b"\""),
            (b"\"\"", b""),
            (b"\"\"a\"\"", b"\"a\""),
            (b"\"a", b"\"a"),
            (b"a\\054", b"a\\054"),
            (b"\"\\054\\377\\400\\08\"", b",\xff40008"),
            (b"\"\\\"\\\\\"", b"\"\\"),
            (b"\"a\\\"", b"a\\"),
        ];
        for (quoted, plain) in cases {
            assert_eq!(*unquote(quoted), *plain, "{}", quoted.escape_ascii());
        }
    }

    /// CVE-2024-52804 and CVE-2024-7592: other parsers took quadratic time for this.
    #[test]
    fn a_mebibyte_of_escapes_or_pairs_is_read() {
        let escapes = format!("PYCKET_ID=\"{}\"", "\\012".repeat(1 << 18));
        assert_eq!(read_lines(&[escapes]), Presented::Malformed);
        let pairs = "PYCKET_ID=;".repeat(1 << 17);
        assert_eq!(read_lines(&[&pairs]), Presented::Malformed);
        let mut headers = headers(&[pairs]);
        strip(&mut headers, "PYCKET_ID");
        assert!(headers.is_empty());
    }

    #[test]
    fn ours_goes_with_one_separator_and_the_rest_stays() {
        let cases = [
            ("P=x", None),
            ("P=x;", None),
            (" P = x ", None),
            ("P=x; P=y", None),
            ("a=1; P=x; b=2", Some("a=1; b=2")),
            ("P=x; a=1", Some("a=1")),
            ("a=1; P=x", Some("a=1")),
            ("a=1; P=x;", Some("a=1;")),
            ("P=x; P=y; a=1; P=z; b=2", Some("a=1; b=2")),
            ("a=1;P=x;b=2", Some("a=1;b=2")),
            ("a=1 ;  b=2;\tP=x ;;  c = 3 ", Some("a=1 ;  b=2;;  c = 3 ")),
            ("a=\"P=1\"; P=x; b=\\073", Some("a=\"P=1\"; b=\\073")),
            ("; P=x; a", Some("; a")),
            ("P=x; a=P=1", Some("a=P=1")),
        ];
        for (line, rest) in cases {
            let rest: Vec<_> = rest
                .map(|rest| rest.as_bytes().to_vec())
                .into_iter()
                .collect();
            assert_eq!(stripped(&[line]), rest, "{line}");
        }
    }

    #[test]
    fn lines_without_ours_are_not_touched() {
        let mut headers = headers(&["a=1;; b", "P=x", "", "p=1; PP=2; P"]);
        let addresses = |headers: &HeaderMap| -> Vec<_> {
            let lines = headers.get_all(COOKIE).iter();
            lines.map(|line| line.as_bytes().as_ptr()).collect()
        };
        let before = addresses(&headers);
        strip(&mut headers, "P");
        let lines: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(lines, ["a=1;; b", "", "p=1; PP=2; P"]);
        let after = addresses(&headers);
        assert_eq!((after[0], after[2]), (before[0], before[3]));
    }

    #[test]
    fn several_lines_stay_several() {
        assert_eq!(
            stripped(&["a=1; P=x", "P=x", "P=y; b=2", "c=3"]),
            [b"a=1", b"b=2", b"c=3"]
        );
    }

    #[test]
    fn a_line_that_was_hidden_from_logs_stays_hidden() {
        let mut headers = headers(&["a=1; P=x"]);
        headers.get_mut(COOKIE).unwrap().set_sensitive(true);
        strip(&mut headers, "P");
        assert!(headers[COOKIE].is_sensitive());
    }

    #[test]
    fn other_headers_stay() {
        let mut headers = headers(&["P=x"]);
        headers.insert("x-cookie", HeaderValue::from_static("a=1; P=x"));
        strip(&mut headers, "P");
        assert_eq!(headers.len(), 1);
        assert_eq!(headers["x-cookie"], "a=1; P=x");
    }

    /// Text of what matters to the parser, so that names and separators meet often.
    fn any_line() -> impl Strategy<Value = String> {
        "[P=; \t\"\\\\a]{0,30}"
    }

    proptest! {
        #[test]
        fn nothing_of_ours_is_left(lines in prop::collection::vec(any_line(), 0..4)) {
            let mut policy = policy();
            policy.name = "P".to_owned();
            let mut headers = headers(&lines);
            strip(&mut headers, "P");
            prop_assert_eq!(read(&headers, &policy, NOW), Presented::Absent);
        }

        #[test]
        fn the_other_pairs_are_the_same(
            pairs in prop::collection::vec(prop::sample::select(vec!["P=1", "a=1", "b", "P=", "=P"]), 1..8),
        ) {
            let others: Vec<&str> = pairs.iter().copied().filter(|pair| !pair.starts_with("P=")).collect();
            let expected = others.join("; ");
            let lines: Vec<_> = (!expected.is_empty()).then(|| expected.into_bytes()).into_iter().collect();
            prop_assert_eq!(stripped(&[pairs.join("; ")]), lines);
        }

        #[test]
        fn arbitrary_bytes_never_panic(line: Vec<u8>) {
            let _unused = unquote(&line);
            let _unused = value_of(&line, "P");
            let _unused = without(&line, "P");
        }
    }
}

//! How a verdict reads, for people and for programs.

use std::fmt::Write as _;

use ::cookie::time::OffsetDateTime;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::question::{Question, Refusal};
use crate::cookie::signed::Verified;

type Answer = Result<Verified, Refusal>;

/// The verdict as lines for a person.
pub(super) fn text(question: &Question<'_>, answer: &Answer) -> String {
    let mut text = String::new();
    // Writing to a String can't fail, here and below.
    let _infallible = match answer {
        Ok(verified) => valid(&mut text, question, verified),
        Err(refusal) => refused(&mut text, refusal),
    };
    text
}

fn valid(
    out: &mut String,
    question: &Question<'_>,
    verified: &Verified,
) -> Result<(), std::fmt::Error> {
    let signed = i128::from(verified.timestamp_secs);
    let end = question.end_secs(signed);
    let now = question.now_secs();
    writeln!(out, "valid")?;
    writeln!(out, "value        {}", value(verified.value.as_bytes()))?;
    writeln!(out, "version      {}", verified.version)?;
    if let Some(key_version) = verified.key_version {
        writeln!(out, "key version  {key_version}")?;
    }
    writeln!(out, "signed       {}, {}", date(signed), span(signed, now))?;
    writeln!(out, "expires      {}, {}", date(end), span(end, now))
}

fn refused(out: &mut String, refusal: &Refusal) -> Result<(), std::fmt::Error> {
    writeln!(out, "not valid: {}", refusal.reason)?;
    match &refusal.hint {
        Some(hint) => writeln!(out, "hint: {hint}"),
        None => Ok(()),
    }
}

/// The verdict as one line of JSON.
pub(super) fn json(answer: &Answer) -> String {
    #[derive(Serialize)]
    struct Accepted {
        valid: bool,
        value_base64: String,
        version: u8,
        key_version: Option<u32>,
        timestamp: u64,
    }
    #[derive(Serialize)]
    struct Refused<'a> {
        valid: bool,
        reason: &'a str,
    }
    let text = match answer {
        Ok(verified) => object(&Accepted {
            valid: true,
            value_base64: STANDARD.encode(verified.value.as_bytes()),
            version: verified.version,
            key_version: verified.key_version,
            timestamp: verified.timestamp_secs,
        }),
        Err(refusal) => object(&Refused {
            valid: false,
            reason: &refusal.reason,
        }),
    };
    text + "\n"
}

/// JSON without a newline.
pub(in crate::cli) fn object(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain fields are JSON")
}

/// What was signed: as text where every character of it shows.
fn value(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok("") => "(empty)".to_owned(),
        Ok(text) if text.chars().all(shows) => text.to_owned(),
        Ok(_) | Err(_) => format!("{} (base64)", STANDARD.encode(bytes)),
    }
}

/// A name, with escapes for what does not show.
pub(in crate::cli) fn printable(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok("") => "(empty)".to_owned(),
        Ok(text) if text.chars().all(shows) => text.to_owned(),
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => name.escape_ascii().to_string(),
    }
}

/// Neither a control character nor one that changes how its neighbours look.
fn shows(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().count() == 1
}

/// A moment in Unix seconds as a date, as far as years have four digits.
pub(in crate::cli) fn date(secs: i128) -> String {
    let moment = i64::try_from(secs)
        .ok()
        .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
        .filter(|moment| (0..=9999).contains(&moment.year()));
    let Some(moment) = moment else {
        return format!("{secs} s after 1970");
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        moment.year(),
        u8::from(moment.month()),
        moment.day(),
        moment.hour(),
        moment.minute(),
        moment.second()
    )
}

/// How long a moment is away, in its two largest units: `3 days 4 hours ago`.
pub(in crate::cli) fn span(secs: i128, now: i128) -> String {
    const UNITS: [(&str, u128); 4] = [
        ("day", 86_400),
        ("hour", 3600),
        ("minute", 60),
        ("second", 1),
    ];
    let mut rest = secs.abs_diff(now);
    let mut parts = Vec::new();
    for (unit, length) in UNITS {
        let count = rest / length;
        rest %= length;
        // Two neighbours at most: a day needs no seconds.
        if parts.len() < 2 && (count > 0 || !parts.is_empty()) {
            parts.push((count, unit));
        }
    }
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    match (parts.is_empty(), secs > now) {
        (true, _) => "just now".to_owned(),
        (false, true) => format!("in {}", parts.join(" ")),
        (false, false) => format!("{} ago", parts.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::cookie::signed::Keyring;

    #[test]
    fn spans_have_their_two_largest_units() {
        let ago = |secs| span(0, secs);
        assert_eq!(ago(0), "just now");
        assert_eq!(ago(1), "1 second ago");
        assert_eq!(ago(61), "1 minute 1 second ago");
        assert_eq!(ago(3600 + 59), "1 hour ago");
        assert_eq!(ago(31 * 86_400), "31 days ago");
        assert_eq!(ago(86_400 + 7200 + 60), "1 day 2 hours ago");
        assert_eq!(span(7200, 0), "in 2 hours");
        assert!(span(i128::MAX, i128::MIN).starts_with("in "));
    }

    #[test]
    fn dates_beyond_the_calendar_are_seconds() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(1_300_000_000), "2011-03-13 07:06:40 UTC");
        assert_eq!(date(-1), "1969-12-31 23:59:59 UTC");
        assert_eq!(date(253_402_300_800), "253402300800 s after 1970");
        assert!(date(i128::MIN).ends_with(" s after 1970"));
    }

    #[test]
    fn values_are_shown_as_text_only_where_it_shows() {
        assert_eq!(value(b"a \"\\'b"), "a \"\\'b");
        assert_eq!(value("\u{e9}\u{20ac}".as_bytes()), "\u{e9}\u{20ac}");
        assert_eq!(value(b""), "(empty)");
        assert_eq!(value(b"a\x1b[31m"), "YRtbMzFt (base64)");
        assert_eq!(value("\u{202e}a".as_bytes()), "4oCuYQ== (base64)");
        assert_eq!(value(b"\xff"), "/w== (base64)");
        assert_eq!(printable(b"a\nb"), "a\\nb");
        assert_eq!(printable(b"\xff"), "\\xff");
    }

    #[test]
    fn a_verdict_is_the_same_for_people_and_programs() {
        let keyring = Keyring::single(b"Python rocks!");
        let now = Timestamp::from_secs(1_300_000_000);
        let question = Question {
            keyring: &keyring,
            name: "PYCKET_ID",
            min_version: 1,
            max_age_nanos: 31 * 86_400 * 1_000_000_000,
            now_nanos: 1_300_090_061_500_000_000,
        };
        let v2 = question.ask(keyring.sign("PYCKET_ID", b"a", now).as_bytes());
        insta::assert_snapshot!(text(&question, &v2), @r"
        valid
        value        a
        version      2
        key version  0
        signed       2011-03-13 07:06:40 UTC, 1 day 1 hour ago
        expires      2011-04-13 07:06:40 UTC, in 29 days 22 hours
        ");
        insta::assert_snapshot!(json(&v2), @r#"{"valid":true,"value_base64":"YQ==","version":2,"key_version":0,"timestamp":1300000000}"#);
        let v1 = keyring.sign_v1("PYCKET_ID", b"\x00", now).unwrap();
        let v1 = question.ask(v1.as_bytes());
        insta::assert_snapshot!(text(&question, &v1), @r"
        valid
        value        AA== (base64)
        version      1
        signed       2011-03-13 07:06:40 UTC, 1 day 1 hour ago
        expires      2011-04-13 07:06:40 UTC, in 29 days 22 hours
        ");
        insta::assert_snapshot!(json(&v1), @r#"{"valid":true,"value_base64":"AA==","version":1,"key_version":null,"timestamp":1300000000}"#);
        let refused = question.ask(keyring.sign("OTHER", b"a", now).as_bytes());
        insta::assert_snapshot!(text(&question, &refused), @r"
        not valid: signed for another name
        hint: it was signed for OTHER: see --name
        ");
        insta::assert_snapshot!(json(&refused), @r#"{"valid":false,"reason":"signed for another name"}"#);
    }
}

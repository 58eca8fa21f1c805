//! Whether a cookie is valid, and what may help when it is not.

use std::borrow::Cow;

use super::NANOS_PER_SEC;
use super::show::{date, printable, span};
use crate::cookie;
use crate::cookie::signed::{Invalid, Keyring, Signed, Verified, Window};

/// What a cookie must be to be valid.
pub(in crate::cli) struct Question<'a> {
    pub(in crate::cli) keyring: &'a Keyring,
    pub(in crate::cli) name: &'a str,
    pub(in crate::cli) min_version: u8,
    pub(in crate::cli) max_age_nanos: i128,
    pub(in crate::cli) now_nanos: i128,
}

/// Why a cookie is not valid.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Refusal {
    pub(in crate::cli) reason: String,
    /// What may be behind it, where that can be told.
    pub(in crate::cli) hint: Option<String>,
}

impl Refusal {
    fn plain(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            hint: None,
        }
    }
}

impl Question<'_> {
    /// Judges a cookie: the bare signed value or, where that is none, a line that has one.
    ///
    /// Double quotes count as part of a bare value, as Tornado's `decode_signed_value` has it; in a
    /// line, or together with octal escapes, they can only be those of Python's cookie library.
    pub(in crate::cli) fn ask(&self, text: &[u8]) -> Result<Verified, Refusal> {
        if text.is_empty() {
            return Err(Refusal::plain("the value is empty"));
        }
        let bare = self.judge(text);
        if bare.is_ok() {
            return bare;
        }
        if has_octal_escape(text)
            && let Cow::Owned(value) = cookie::unquote(text)
        {
            return self.judge(&value);
        }
        let (line, is_header) = without_header_name(text);
        let mut values = cookie::values(line, self.name);
        let Some(first) = values.next() else {
            return if is_header {
                let name = printable(self.name.as_bytes());
                Err(Refusal::plain(format!("there is no cookie {name} in it")))
            } else {
                bare
            };
        };
        let first = if first.is_empty() {
            Err(Refusal::plain("the value is empty"))
        } else {
            self.judge(&first)
        };
        // As in the proxy: of several of one name, the first that is valid counts.
        first.or_else(|refusal| {
            let valid = values.find_map(|value| self.judge(&value).ok());
            valid.ok_or(refusal)
        })
    }

    fn judge(&self, value: &[u8]) -> Result<Verified, Refusal> {
        let opened = self.keyring.open(self.name, self.min_version, value);
        let window = Window::of_nanos(self.max_age_nanos, self.now_nanos);
        let verified = match &opened {
            Ok(signed) => signed.accept(self.name, window),
            Err(invalid) => Err(*invalid),
        };
        verified.map_err(|invalid| Refusal {
            reason: invalid.to_string(),
            hint: match &opened {
                Ok(signed) => self.hint_of_signed(invalid, signed),
                Err(_) => self.hint(invalid, value),
            },
        })
    }

    /// For values that one of the secrets signed.
    fn hint_of_signed(&self, invalid: Invalid, signed: &Signed<'_>) -> Option<String> {
        let signed_at = i128::from(signed.timestamp_secs);
        if invalid == Invalid::OtherName {
            let name = printable(signed.name.unwrap_or_default());
            return Some(format!("it was signed for {name}: see --name"));
        }
        matches!(invalid, Invalid::Expired | Invalid::Future).then(|| {
            let when = format!(
                "it was signed on {}, {}",
                date(signed_at),
                span(signed_at, self.now_secs())
            );
            if invalid == Invalid::Expired {
                let end = date(self.end_secs(signed_at));
                format!("{when}, and was valid until {end}")
            } else {
                when
            }
        })
    }

    /// For values whose signature is wrong, or was not looked at.
    fn hint(&self, invalid: Invalid, value: &[u8]) -> Option<String> {
        match invalid {
            Invalid::UnknownKeyVersion(_) => {
                let known = self.keyring.key_versions();
                let known: Vec<String> = known.iter().map(u32::to_string).collect();
                Some(format!("known are {}", known.join(", ")))
            }
            Invalid::NoKeyVersion => {
                Some("give the one secret that signed it, without key version".to_owned())
            }
            Invalid::VersionTooOld(_) if self.min_version > 2 => {
                Some("there are only versions 1 and 2: see --min-version".to_owned())
            }
            Invalid::VersionTooOld(_) => {
                Some("--min-version 1 accepts it, if the signature is right".to_owned())
            }
            Invalid::Forged if value.starts_with(b"2|") => {
                Some("another secret signed it, or it was changed afterwards".to_owned())
            }
            Invalid::Forged => Some(
                "another secret signed it, or it was signed for another name or changed afterwards"
                    .to_owned(),
            ),
            Invalid::Malformed(_) | Invalid::UnknownVersion(_) => self.hint_of_form(value),
            Invalid::OtherName | Invalid::Expired | Invalid::Future => None,
        }
    }

    /// What people and other programs do to a cookie on its way.
    fn hint_of_form(&self, value: &[u8]) -> Option<String> {
        let percent = [&b"%7C"[..], b"%7c"];
        if value.starts_with(b"\"") && value.ends_with(b"\"") {
            let name = printable(self.name.as_bytes());
            Some(format!(
                "it is in double quotes, which belong to a line: give it without them, or as {name}=\"...\""
            ))
        } else if percent.iter().any(|bar| contains(value, bar)) {
            Some("it is percent-encoded, which neither Tornado nor the proxy undoes".to_owned())
        } else if value.trim_ascii() != value {
            Some("it begins or ends with a space or a newline".to_owned())
        } else {
            None
        }
    }

    pub(super) fn now_secs(&self) -> i128 {
        self.now_nanos.div_euclid(NANOS_PER_SEC)
    }

    /// The last second at which a value of this time is valid.
    pub(super) fn end_secs(&self, signed_secs: i128) -> i128 {
        signed_secs + self.max_age_nanos.div_euclid(NANOS_PER_SEC)
    }
}

/// The line without `Cookie:` or `Set-Cookie:`, and whether that stood there. Of the latter only
/// the first pair is a cookie.
fn without_header_name(text: &[u8]) -> (&[u8], bool) {
    let after = |name: &[u8]| {
        let (start, rest) = text.split_at_checked(name.len())?;
        start.eq_ignore_ascii_case(name).then_some(rest)
    };
    if let Some(line) = after(b"cookie:") {
        return (line, true);
    }
    match after(b"set-cookie:") {
        Some(line) => (
            line.split(|&byte| byte == b';').next().unwrap_or_default(),
            true,
        ),
        None => (text, false),
    }
}

fn has_octal_escape(text: &[u8]) -> bool {
    let is_octal = |byte: &u8| (b'0'..=b'7').contains(byte);
    text.windows(4).any(|window| match window {
        [b'\\', digits @ ..] => digits.iter().all(is_octal),
        _ => false,
    })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    const NOW: Timestamp = Timestamp::from_secs(1_300_000_000);
    const DAY: i128 = 86_400 * NANOS_PER_SEC;

    fn keyring() -> Keyring {
        Keyring::single(b"Python rocks!")
    }

    fn question(keyring: &Keyring) -> Question<'_> {
        Question {
            keyring,
            name: "PYCKET_ID",
            min_version: 1,
            max_age_nanos: 31 * DAY,
            now_nanos: 1_300_000_000 * NANOS_PER_SEC,
        }
    }

    /// Reason and hint.
    fn refusal(question: &Question<'_>, text: impl AsRef<[u8]>) -> String {
        let refusal = question.ask(text.as_ref()).expect_err("it is not valid");
        let hint = refusal.hint.as_deref().unwrap_or("-");
        format!("{}; {hint}", refusal.reason)
    }

    #[test]
    fn a_cookie_is_found_in_what_people_copy() {
        let keyring = keyring();
        let question = question(&keyring);
        let signed = keyring.sign("PYCKET_ID", b"a", NOW);
        let v1 = keyring.sign_v1("PYCKET_ID", b"a", NOW).unwrap();
        let forged = Keyring::single(b"x").sign("PYCKET_ID", b"a", NOW);
        for text in [
            signed.clone(),
            v1.clone(),
            format!("\"{}\"", signed.replace('|', "\\174")),
            format!("PYCKET_ID={signed}"),
            format!("PYCKET_ID={v1}"),
            format!("PYCKET_ID=\"{signed}\""),
            format!("a=1; PYCKET_ID=\"{signed}\"; b=2"),
            format!("Cookie: a=1; PYCKET_ID={signed}"),
            format!("cookie:PYCKET_ID={forged}; PYCKET_ID={signed}"),
            format!("Set-Cookie: PYCKET_ID={signed}; HttpOnly; Path=/"),
        ] {
            let verified = question.ask(text.as_bytes()).expect(&text);
            assert_eq!(verified.value.as_bytes(), b"a", "{text}");
        }
    }

    #[test]
    fn a_line_without_the_cookie_is_no_value() {
        let keyring = keyring();
        let question = question(&keyring);
        let lines = ["Cookie: a=1", "Set-Cookie: a=1; PYCKET_ID=x", "cookie:"];
        for line in lines {
            assert_eq!(
                refusal(&question, line),
                "there is no cookie PYCKET_ID in it; -"
            );
        }
        for empty in ["", "PYCKET_ID=", "Cookie: PYCKET_ID=\"\""] {
            assert_eq!(refusal(&question, empty), "the value is empty; -");
        }
    }

    #[test]
    fn what_the_secret_signed_says_more() {
        let keyring = keyring();
        let mut question = question(&keyring);
        let other = keyring.sign("OTHER", b"a", NOW);
        insta::assert_snapshot!(refusal(&question, other), @"signed for another name; it was signed for OTHER: see --name");
        let strange = keyring.sign("a\n\u{202e}b", b"a", NOW);
        insta::assert_snapshot!(refusal(&question, strange), @r"signed for another name; it was signed for a\n\u{202e}b: see --name");
        let ahead = NOW.after(std::time::Duration::from_hours(40 * 24));
        let ahead = keyring.sign_v1("PYCKET_ID", b"a", ahead).unwrap();
        insta::assert_snapshot!(refusal(&question, ahead), @"signed more than 31 days in the future; it was signed on 2011-04-22 07:06:40 UTC, in 40 days");
        question.now_nanos += 40 * DAY + DAY / 2;
        let old = keyring.sign("PYCKET_ID", b"a", NOW);
        insta::assert_snapshot!(refusal(&question, old), @"signed too long ago; it was signed on 2011-03-13 07:06:40 UTC, 40 days 12 hours ago, and was valid until 2011-04-13 07:06:40 UTC");
    }

    #[test]
    fn what_it_did_not_sign_says_what_may_be_behind_it() {
        let keyring = keyring();
        let mut question = question(&keyring);
        let signed = keyring.sign("PYCKET_ID", b"a", NOW);
        let v1 = keyring.sign_v1("PYCKET_ID", b"a", NOW).unwrap();
        let stranger = Keyring::single(b"another");
        insta::assert_snapshot!(refusal(&question, stranger.sign("PYCKET_ID", b"a", NOW)), @"the signature does not match; another secret signed it, or it was changed afterwards");
        insta::assert_snapshot!(refusal(&question, keyring.sign_v1("OTHER", b"a", NOW).unwrap()), @"the signature does not match; another secret signed it, or it was signed for another name or changed afterwards");
        insta::assert_snapshot!(refusal(&question, format!("\"{signed}\"")), @r#"malformed: expected three fields with a bar between them; it is in double quotes, which belong to a line: give it without them, or as PYCKET_ID="...""#);
        insta::assert_snapshot!(refusal(&question, signed.replace('|', "%7C")), @"malformed: expected three fields with a bar between them; it is percent-encoded, which neither Tornado nor the proxy undoes");
        insta::assert_snapshot!(refusal(&question, format!("{signed} ")), @"malformed: the signature is not 64 (in version 1, 40) lower-case hexadecimal digits; it begins or ends with a space or a newline");
        insta::assert_snapshot!(refusal(&question, "3|x"), @"unknown version 3 of the signed value: expected 1 or 2; -");
        question.min_version = 2;
        insta::assert_snapshot!(refusal(&question, &v1), @"version 1 of the signed value is not accepted any more; --min-version 1 accepts it, if the signature is right");
        question.min_version = 3;
        insta::assert_snapshot!(refusal(&question, &signed), @"version 2 of the signed value is not accepted any more; there are only versions 1 and 2: see --min-version");
        let keys = [(1, b"one".to_vec()), (7, b"seven".to_vec())];
        let keys = Keyring::versioned(keys.into_iter().collect(), 7).unwrap();
        question.keyring = &keys;
        question.min_version = 1;
        insta::assert_snapshot!(refusal(&question, &signed), @"no secret has key version 0; known are 1, 7");
        insta::assert_snapshot!(refusal(&question, &v1), @"version 1 of the signed value has no key version, and the secrets have; give the one secret that signed it, without key version");
    }

    #[test]
    fn no_end_of_time_makes_it_panic() {
        let keyring = keyring();
        let mut question = question(&keyring);
        let signed = keyring.sign("PYCKET_ID", b"a", NOW);
        let ends = [i128::MIN, -1, 0, 1, i128::MAX];
        let mut valid = 0;
        for (max_age, now) in ends.iter().flat_map(|a| ends.map(|b| (*a, b))) {
            question.max_age_nanos = max_age;
            question.now_nanos = now;
            valid += usize::from(question.ask(signed.as_bytes()).is_ok());
        }
        // The clock is too late, the age is over, or neither.
        assert_eq!(valid, 18);
    }
}

//! How values are written into request headers.
//!
//! | encoding | `{"n":[1],"user":"Zoë"}` in `X-Session` |
//! |---|---|
//! | [`Encoding::Json`] | `{"n":[1],"user":"Zo\u00eb"}` |
//! | [`Encoding::Base64`] | `eyJuIjpbMV0sInVzZXIiOiJab1x1MDBlYiJ9` |
//! | [`Encoding::Form`] | `n=%5B1%5D&user=Zo%C3%AB` |
//!
//! | encoding | `Zoë` in a header of `[headers.inject]` |
//! |---|---|
//! | [`TextEncoding::Percent`] | `Zo%C3%AB` |
//! | [`TextEncoding::Utf8`] | the bytes of `Zoë` |
//! | [`TextEncoding::Json`] | `"Zo\u00eb"` |
//! | [`TextEncoding::Base64`] | `Wm_Dqw` |

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::session::{Json, JsonError, Values};

/// How `X-Session` and `X-Notifications` are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// The JSON object itself, in ASCII.
    #[default]
    Json,
    /// The same text in base64url (RFC 4648 section 5), without padding. What it decodes to is
    /// ASCII, and therefore UTF-8 too.
    Base64,
    /// `application/x-www-form-urlencoded`: strings as they are, every other value as its JSON
    /// text. A string that looks like JSON can't be told from it.
    Form,
}

impl Encoding {
    /// The header value of a session's or of notifications' text. With [`Encoding::Json`] it shares
    /// the memory of `object`.
    ///
    /// # Errors
    ///
    /// `object` is not what [`Values`] promises.
    pub(super) fn header_value(self, object: &Bytes) -> Result<HeaderValue, JsonError> {
        let mut value = match self {
            Self::Json => HeaderValue::from_maybe_shared(object.clone()),
            Self::Base64 => {
                HeaderValue::from_maybe_shared(Bytes::from(URL_SAFE_NO_PAD.encode(object)))
            }
            Self::Form => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                for (name, value) in Values::from_canonical(object.clone()).to_map()? {
                    form.append_pair(&name, &text(&value));
                }
                HeaderValue::from_maybe_shared(Bytes::from(form.finish()))
            }
        }
        .map_err(|_invalid| JsonError {
            // The library's error says nothing more than that.
            position: 1 + object.iter().take_while(|byte| is_visible(**byte)).count(),
            reason: "expected visible ASCII".to_owned(),
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The header value of an empty object.
    pub(super) const fn empty(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "{}",
            Self::Base64 => "e30",
            Self::Form => "",
        })
    }
}

/// How text goes into a header of `[headers.inject]`.
///
/// A string of visible ASCII with single spaces or more inside, but none at its ends, which a
/// reader would cut off (RFC 9110 section 5.5), goes as it is. Others go as the encoding says. A
/// value that is no string goes by its JSON text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextEncoding {
    /// `%XX` for every byte of the UTF-8 text that is not visible ASCII, and for `%`: also a string
    /// that is otherwise plain has its `%` written `%25`, so that decoding always gives the value,
    /// and no two values look alike.
    #[default]
    Percent,
    /// The bytes of the UTF-8 text. A string with control characters, or with spaces at its ends,
    /// can't be written so.
    Utf8,
    /// A JSON string in ASCII, in quotes. Also a plain string that begins with a quote is written
    /// so, so that what begins with one is always JSON.
    Json,
    /// base64url (RFC 4648 section 5) of the UTF-8 text, without padding. A reader can't tell a
    /// plain string from an encoded one, so this is not for what has to be unique.
    Base64,
}

/// The value can't be written in this encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unwritable;

/// What [`TextEncoding::Percent`] escapes, besides everything that is not ASCII.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

impl TextEncoding {
    /// The header value of one session value.
    pub(super) fn header_value(self, value: &Json) -> Result<HeaderValue, Unwritable> {
        let text = text(value);
        let plain = is_plain(&text);
        let written: Cow<'_, str> = match self {
            Self::Percent if !plain || text.contains('%') => {
                utf8_percent_encode(&text, ESCAPED).into()
            }
            Self::Json if !plain || text.starts_with('"') => value.as_str().into(),
            Self::Base64 if !plain => URL_SAFE_NO_PAD.encode(text.as_bytes()).into(),
            Self::Utf8
                if text.contains(char::is_control)
                    || text.starts_with(' ')
                    || text.ends_with(' ') =>
            {
                return Err(Unwritable);
            }
            Self::Percent | Self::Utf8 | Self::Json | Self::Base64 => text,
        };
        // The type checks once more: no control character gets from a value into a header.
        let mut header =
            HeaderValue::from_bytes(written.as_bytes()).map_err(|_invalid| Unwritable)?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// The string of a JSON string, the JSON text of any other value.
fn text(value: &Json) -> Cow<'_, str> {
    let json = value.as_str();
    let quoted = json
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    match quoted {
        None => json.into(),
        Some(inner) if !inner.contains('\\') => inner.into(),
        Some(_) => serde_json::from_str::<String>(json).map_or(Cow::Borrowed(json), Cow::Owned),
    }
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(is_visible) && !text.starts_with(' ') && !text.ends_with(' ')
}

const fn is_visible(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [TextEncoding; 4] = [
        TextEncoding::Percent,
        TextEncoding::Utf8,
        TextEncoding::Json,
        TextEncoding::Base64,
    ];

    fn object(encoding: Encoding, text: &'static str) -> String {
        let value = encoding
            .header_value(&Bytes::from_static(text.as_bytes()))
            .unwrap();
        assert!(value.is_sensitive());
        value.to_str().unwrap().to_owned()
    }

    fn inject(encoding: TextEncoding, json: &str) -> Option<Vec<u8>> {
        let value = encoding
            .header_value(&Json::parse(json.as_bytes()).unwrap())
            .ok()?;
        assert!(value.is_sensitive());
        Some(value.as_bytes().to_vec())
    }

    #[test]
    fn the_samples_of_the_documentation_hold() {
        let text = r#"{"n":[1],"user":"Zo\u00eb"}"#;
        assert_eq!(object(Encoding::Json, text), text);
        assert_eq!(
            object(Encoding::Base64, text),
            "eyJuIjpbMV0sInVzZXIiOiJab1x1MDBlYiJ9"
        );
        assert_eq!(object(Encoding::Form, text), "n=%5B1%5D&user=Zo%C3%AB");

        let written = ALL.map(|encoding| inject(encoding, r#""Zoë""#).unwrap());
        assert_eq!(
            written,
            [
                b"Zo%C3%AB".to_vec(),
                "Zoë".into(),
                br#""Zo\u00eb""#.to_vec(),
                b"Wm_Dqw".to_vec()
            ]
        );
    }

    #[test]
    fn json_shares_the_memory_of_the_record() {
        let text = Bytes::from(br#"{"a":1}"#.to_vec());
        let value = Encoding::Json.header_value(&text).unwrap();
        assert_eq!(value.as_bytes().as_ptr(), text.as_ptr());
    }

    #[test]
    fn the_empty_object_is_what_the_encoding_makes_of_it() {
        for encoding in [Encoding::Json, Encoding::Base64, Encoding::Form] {
            assert_eq!(encoding.empty(), object(encoding, "{}"), "{encoding:?}");
        }
    }

    #[test]
    fn form_escapes_what_separates_pairs() {
        assert_eq!(
            object(Encoding::Form, r#"{"a&b":"c=d\r\n+ e","n":null,"t":true}"#),
            "a%26b=c%3Dd%0D%0A%2B+e&n=null&t=true"
        );
    }

    #[test]
    fn a_damaged_text_is_an_error_that_says_where() {
        let damaged = Bytes::from_static(b"{\"a\":\"\r\n\"}");
        let error = Encoding::Json.header_value(&damaged).unwrap_err();
        assert_eq!(error.to_string(), "expected visible ASCII at byte 7");
        assert!(Encoding::Form.header_value(&damaged).is_err());
    }

    #[test]
    fn plain_strings_and_values_that_are_no_strings_go_as_they_are() {
        for encoding in ALL {
            let written = [
                r#""alice""#,
                r#""Alice B. Smith""#,
                "42",
                "true",
                r#"["a","b"]"#,
                r#""""#,
            ]
            .map(|json| String::from_utf8(inject(encoding, json).unwrap()).unwrap());
            assert_eq!(
                written,
                ["alice", "Alice B. Smith", "42", "true", r#"["a","b"]"#, ""]
            );
        }
    }

    #[test]
    fn no_control_character_gets_through() {
        for json in [
            r#""a\r\nX-Admin: 1""#,
            r#""\u0000""#,
            r#""\t""#,
            r#""\u0085""#,
            r#"" a""#,
            r#""a ""#,
        ] {
            let written = ALL.map(|encoding| {
                inject(encoding, json).map(|bytes| String::from_utf8(bytes).unwrap())
            });
            let [percent, utf8, json_text, base64] = written;
            assert_eq!(utf8, None);
            for text in [percent, json_text, base64].map(Option::unwrap) {
                assert!(is_plain(&text), "{text:?}");
            }
        }
    }

    #[test]
    fn a_string_never_passes_for_the_encoding_of_another() {
        let percent = |json| inject(TextEncoding::Percent, json).unwrap();
        assert_eq!(percent(r#""100%""#), b"100%25");
        assert_ne!(percent(r#""Zoë""#), percent(r#""Zo%C3%AB""#));
        let json = |json| inject(TextEncoding::Json, json).unwrap();
        assert_eq!(json(r#""\"a\"""#), br#""\"a\"""#);
    }

    proptest! {
        #[test]
        fn percent_decodes_to_the_string(string: String) {
            let value = TextEncoding::Percent.header_value(&Json::string(&string)).unwrap();
            prop_assert!(is_plain(value.to_str().unwrap()));
            let decoded = percent_encoding::percent_decode(value.as_bytes()).decode_utf8().unwrap();
            prop_assert_eq!(decoded, string);
        }

        #[test]
        fn form_decodes_to_the_strings(map in proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..5)) {
            let json = map.iter().map(|(k, v)| (k.clone(), Json::string(v))).collect();
            let value = Encoding::Form.header_value(Values::from_map(&json).as_bytes()).unwrap();
            let decoded = form_urlencoded::parse(value.as_bytes()).into_owned().collect();
            prop_assert_eq!(map, decoded);
        }
    }
}

//! One JSON value in its canonical spelling.

use std::fmt;
use std::io;

use serde::Serialize as _;

/// A JSON value (RFC 8259) as text in one canonical spelling: ASCII only (everything else as `\u`
/// escapes), no white space, the keys of objects sorted by code point, the digits of numbers kept
/// as they came.
///
/// Two equal texts are the same value, so a change can be seen by comparing, and the text can
/// stand in a header field as it is. `Debug` hides it: values are private.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Box<str>);

/// The text is not JSON. Says what is wrong and at which byte, and nothing of the content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {position}")]
pub struct JsonError {
    /// Counted from 1 within the text that was parsed.
    pub position: usize,
    /// What the parser expected or refused.
    pub reason: String,
}

impl JsonError {
    /// Keeps the parser's verdict where it is a fixed phrase; one about the wrong kind of data
    /// would quote it.
    pub(crate) fn from_serde(error: &serde_json::Error, offset: usize) -> Self {
        let text = error.to_string();
        let reason = match text.rsplit_once(" at line ") {
            _ if error.is_data() => "not the expected kind of data",
            Some((reason, _)) => reason,
            None => &text,
        };
        Self {
            position: offset + error.column(),
            reason: reason.to_owned(),
        }
    }
}

impl Json {
    /// Reads one JSON value that fills the whole of `text`.
    ///
    /// # Errors
    ///
    /// [`JsonError`] when it is not UTF-8, not JSON, nested deeper than 128, holds an unpaired
    /// surrogate, or goes on after the value.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        let value: serde_json::Value =
            serde_json::from_slice(text).map_err(|error| JsonError::from_serde(&error, 0))?;
        Ok(Self::from_value(&value))
    }

    /// The canonical text of a parsed value.
    pub fn from_value(value: &serde_json::Value) -> Self {
        let mut text = Vec::new();
        // A Value has only text keys, and a Vec takes every write.
        let _never = value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut text, Ascii,
        ));
        // The formatter writes ASCII only.
        Self(String::from_utf8(text).unwrap_or_default().into_boxed_str())
    }

    /// The JSON string of this text.
    pub fn string(text: &str) -> Self {
        Self::from_value(&serde_json::Value::String(text.to_owned()))
    }

    /// Appends what [`Json::string`] would hold, for whoever writes canonical text without a tree.
    pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
        // A Vec takes every write.
        let _never = text.serialize(&mut serde_json::Serializer::with_formatter(out, Ascii));
    }

    /// Takes canonical text: what [`Json`] wrote earlier, from a record whose integrity was checked,
    /// or what another writer of that spelling did.
    pub(crate) fn from_canonical(text: &str) -> Self {
        Self(text.into())
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value as a tree.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.0.len())
    }
}

/// Compact JSON in visible ASCII. DEL is ASCII but not allowed in a field value (RFC 9110 section
/// 5.5), so it is escaped too.
struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        let mut rest = fragment;
        while let Some(special) = rest.find(|c: char| !c.is_ascii() || c == '\u{7f}') {
            let (plain, tail) = rest.split_at(special);
            writer.write_all(plain.as_bytes())?;
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        Json::parse(text.as_bytes()).unwrap().as_str().to_owned()
    }

    #[test]
    fn everything_but_visible_ascii_is_escaped() {
        assert_eq!(canonical(r#""aé€😀""#), r#""a\u00e9\u20ac\ud83d\ude00""#);
        assert_eq!(canonical("\"\u{7f}\""), r#""\u007f""#);
        assert_eq!(canonical(r#""\n\u0000/\/""#), r#""\n\u0000//""#);
    }

    #[test]
    fn keys_are_sorted_at_every_depth_and_white_space_goes() {
        assert_eq!(
            canonical(r#" { "b" : { "z":1, "a":2 } , "a" : [ 1 , {} ] } "#),
            r#"{"a":[1,{}],"b":{"a":2,"z":1}}"#
        );
    }

    #[test]
    fn the_digits_of_numbers_are_kept() {
        for number in ["1.10", "1e400", "12345678901234567890123", "-0.0", "1E2"] {
            assert_eq!(
                canonical(number).to_ascii_lowercase().replace('+', ""),
                number.to_ascii_lowercase(),
                "{number}"
            );
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_position_and_reason() {
        let refused = ["", "{", "{\"a\":}", "1 2", "\"\\ud800\"", "nul", "[1,]"];
        let messages: Vec<String> = refused
            .iter()
            .map(|text| Json::parse(text.as_bytes()).unwrap_err().to_string())
            .collect();
        insta::assert_snapshot!(messages.join("\n"), @r"
EOF while parsing a value at byte 0
EOF while parsing an object at byte 1
expected value at byte 6
trailing characters at byte 3
unexpected end of hex escape at byte 8
EOF while parsing a value at byte 3
trailing comma at byte 4
");
        assert!(Json::parse(b"\"\xff\"").is_err());
        assert!(Json::parse("[".repeat(200).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn the_canonical_text_is_ascii_and_a_fixed_point(text: String) {
            let json = Json::string(&text);
            prop_assert!(json.as_str().bytes().all(|b| (0x20..0x7f).contains(&b)));
            let again = Json::parse(json.as_str().as_bytes()).unwrap();
            prop_assert_eq!(&again, &json);
            prop_assert_eq!(again.to_value(), serde_json::Value::String(text));
        }
    }
}

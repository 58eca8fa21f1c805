//! The named values of a session.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::json::{Json, JsonError};

/// The named values, kept as the text in which they are stored and sent: one JSON object, ASCII,
/// without white space, its keys sorted by code point, every value in [`Json`]'s spelling.
///
/// Most exchanges only pass the text on, so it is taken apart only when a name is asked for or
/// changed. `Debug` hides it: values are private.
#[derive(Clone, PartialEq, Eq)]
pub struct Values(Bytes);

impl Values {
    /// Takes text that [`Values::from_map`] wrote earlier, from a record whose integrity was
    /// checked; it is not looked at again.
    pub(crate) fn from_canonical(text: Bytes) -> Self {
        Self(text)
    }

    /// Writes the text of these values.
    pub fn from_map(map: &BTreeMap<String, Json>) -> Self {
        let size = map
            .iter()
            .map(|(name, value)| name.len() + value.as_str().len() + 4);
        let mut text = Vec::with_capacity(2 + size.sum::<usize>());
        text.push(b'{');
        for (name, value) in map {
            if text.len() > 1 {
                text.push(b',');
            }
            Json::write_string(&mut text, name);
            text.push(b':');
            text.extend_from_slice(value.as_str().as_bytes());
        }
        text.push(b'}');
        Self(Bytes::from(text))
    }

    /// The text: one JSON object.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref() == b"{}"
    }

    /// Takes the text apart into its names and values.
    ///
    /// # Errors
    ///
    /// [`JsonError`] when the text is not what this type promises, so a record was damaged in a
    /// way that its checksum did not show.
    pub fn to_map(&self) -> Result<BTreeMap<String, Json>, JsonError> {
        let members = self.members().map(|member| {
            let (name, value) = member?;
            Ok((name.into_owned(), Json::from_canonical(value)))
        });
        members.collect()
    }

    /// The names and the texts of their values, in their order.
    ///
    /// The text is canonical and was checked when it was written, so it is only cut, which costs a
    /// tenth of what a parser takes to look at each value again.
    pub fn members(&self) -> Members<'_> {
        Members {
            all: self.0.len(),
            rest: Some(&self.0),
            opening: b'{',
        }
    }
}

/// See [`Values::members`].
#[derive(Debug)]
pub struct Members<'a> {
    /// Bytes of the whole text.
    all: usize,
    /// From what stands before the next member; `None` behind the last one, or a mistake.
    rest: Option<&'a [u8]>,
    /// What stands before the next member.
    opening: u8,
}

impl<'a> Members<'a> {
    /// The next member, and what follows it. `None` is a mistake.
    fn cut(&self, rest: &'a [u8]) -> Option<(Member<'a>, &'a [u8])> {
        if self.opening == b'{' && !is_printable(rest) {
            return None;
        }
        let rest = rest.strip_prefix(&[self.opening])?;
        if self.opening == b'{' && rest == b"}" {
            return Some((None, b""));
        }
        let (name, rest) = rest.split_at_checked(string_len(rest)?)?;
        let rest = rest.strip_prefix(b":")?;
        let (value, rest) = rest.split_at_checked(value_len(rest)?)?;
        let inner = name.get(1..name.len().checked_sub(1)?)?;
        let name = if memchr::memchr(b'\\', inner).is_some() {
            Cow::Owned(serde_json::from_slice(name).ok()?)
        } else {
            Cow::Borrowed(str::from_utf8(inner).ok()?)
        };
        Some((Some((name, str::from_utf8(value).ok()?)), rest))
    }
}

/// A name and a value; `None` where the object is empty.
type Member<'a> = Option<(Cow<'a, str>, &'a str)>;

impl<'a> Iterator for Members<'a> {
    type Item = Result<(Cow<'a, str>, &'a str), JsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self
            .rest
            .take()
            .filter(|rest| *rest != b"}" || self.opening == b'{')?;
        let Some((member, next)) = self.cut(rest) else {
            let position = self.all - rest.len() + 1;
            let reason = "not as it was written".to_owned();
            return Some(Err(JsonError { position, reason }));
        };
        self.opening = b',';
        let member = member?;
        self.rest = Some(next);
        Some(Ok(member))
    }
}

/// Whether a text is of those characters only that canonical JSON has.
fn is_printable(text: &[u8]) -> bool {
    // Each byte is looked at, which is faster than to stop at the first that does not fit.
    let fits = |all, byte: &u8| all & (b' '..=b'~').contains(byte);
    text.iter().fold(true, fits)
}

/// Bytes of the JSON string that a text begins with, its quotes included.
fn string_len(text: &[u8]) -> Option<usize> {
    let inner = text.strip_prefix(b"\"")?;
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', inner.get(at..)?)?;
        if inner.get(at) == Some(&b'"') {
            return Some(at + 2);
        }
        // The backslash, and what it escapes.
        at += 2;
    }
}

/// Bytes of the JSON value that a text begins with, which a comma or a brace must follow.
fn value_len(text: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0_usize, 0_usize);
    loop {
        match text.get(at)? {
            b'"' => at += string_len(text.get(at..)?)?,
            b',' | b'}' if depth == 0 => return (at > 0).then_some(at),
            byte => {
                match byte {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.checked_sub(1)?,
                    _ => {}
                }
                at += 1;
            }
        }
    }
}

impl Default for Values {
    fn default() -> Self {
        Self(Bytes::from_static(b"{}"))
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_sorted_by_code_point_and_escaped() {
        let map: BTreeMap<String, Json> = ["b", "a", "é", "B", "😀", "\u{ffff}"]
            .into_iter()
            .map(|name| (name.to_owned(), Json::string("x")))
            .collect();
        assert_eq!(
            Values::from_map(&map).as_bytes(),
            r#"{"B":"x","a":"x","b":"x","\u00e9":"x","\uffff":"x","\ud83d\ude00":"x"}"#
        );
    }

    #[test]
    fn no_values_are_an_empty_object() {
        assert!(Values::default().is_empty());
        assert_eq!(Values::from_map(&BTreeMap::new()), Values::default());
    }

    fn members(text: &str) -> Result<Vec<(String, String)>, JsonError> {
        let values = Values::from_canonical(Bytes::from(text.to_owned()));
        let owned = |(name, value): (Cow<'_, str>, &str)| (name.into_owned(), value.to_owned());
        values.members().map(|member| member.map(owned)).collect()
    }

    #[test]
    fn members_are_cut_at_their_own_commas_and_braces() {
        let text =
            r#"{"a":[1,{"x":"}],"}],"b\"\u00e9":"q\",\\","c":-1.5e3,"d":{},"e":[],"f":null}"#;
        let cut: Vec<_> = members(text).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            cut,
            [
                pair("a", r#"[1,{"x":"}],"}]"#),
                pair("b\"é", r#""q\",\\""#),
                pair("c", "-1.5e3"),
                pair("d", "{}"),
                pair("e", "[]"),
                pair("f", "null"),
            ]
        );
        assert_eq!(members("{}"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_object_as_it_was_written_is_told_with_its_place() {
        for (text, position) in [
            ("", 1),
            ("{", 1),
            ("[]", 1),
            ("{}x", 1),
            (r#"{"a"}"#, 1),
            (r#"{"a":}"#, 1),
            (r#"{"a":1"#, 1),
            (r#"{"a":1]}"#, 1),
            (r#"{"a":"1}"#, 1),
            ("{\"a\":\"\r\n\"}", 1),
            (r#"{"a":1,}"#, 7),
            (r#"{"a":1,"b":2}x"#, 13),
            (r#"{"a":1,"\x":2}"#, 7),
        ] {
            let error = members(text).unwrap_err();
            assert_eq!(error.position, position, "{text}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::hash_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn members_are_what_a_parser_sees(
            map in proptest::collection::btree_map(".{0,8}", json(), 0..6)
        ) {
            let values = map.iter().map(|(name, value)| (name.clone(), Json::from_value(value)));
            let values = Values::from_map(&values.collect());
            let parsed: BTreeMap<String, serde_json::Value> =
                serde_json::from_slice(values.as_bytes()).unwrap();
            prop_assert_eq!(&parsed, &map);
            let cut = values.to_map().unwrap();
            let cut: BTreeMap<_, _> = cut.into_iter().map(|(k, v)| (k, v.to_value())).collect();
            prop_assert_eq!(cut, map);
        }

        #[test]
        fn cutting_never_panics(text in "[{}\\[\\]\"\\\\,:a1]{0,30}") {
            let _any = members(&text);
        }

        #[test]
        fn map_and_text_are_one_to_one(
            map in proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..6)
        ) {
            let map: BTreeMap<String, Json> =
                map.into_iter().map(|(k, v)| (k, Json::string(&v))).collect();
            prop_assert_eq!(Values::from_map(&map).to_map().unwrap(), map);
        }
    }
}

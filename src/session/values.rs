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
#[derive(Clone)]
pub struct Values {
    text: Bytes,
    /// What is known of it without a look.
    shape: Option<Shape>,
}

/// How many values there are, and how long their names are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// How many.
    pub count: usize,
    /// Bytes of the longest name, in UTF-8.
    pub longest_name: usize,
}

impl Shape {
    fn add(&mut self, name: &str) {
        self.count += 1;
        self.longest_name = self.longest_name.max(name.len());
    }
}

impl Values {
    /// Takes text that was written here earlier, from a record whose integrity was checked; it is not
    /// looked at again.
    pub(crate) fn from_canonical(text: Bytes) -> Self {
        Self { text, shape: None }
    }

    /// Writes the text of these values.
    pub fn from_map(map: &BTreeMap<String, Json>) -> Self {
        let size = map
            .iter()
            .map(|(name, value)| member_len(name, value.as_str()));
        let mut text = Text::with_capacity(size.sum());
        for (name, value) in map {
            text.put(name, value);
        }
        text.end()
    }

    /// The text: one JSON object.
    pub fn as_bytes(&self) -> &Bytes {
        &self.text
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.text.as_ref() == b"{}"
    }

    /// How many values there are, and how long their names are; as far as the text can be taken apart.
    pub fn shape(&self) -> Shape {
        self.shape.unwrap_or_else(|| {
            let mut shape = Shape::default();
            for (name, _) in self.members().map_while(Result::ok) {
                shape.add(&name);
            }
            shape
        })
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

    /// These values with the `changes`: a name gets a value, or goes. What does not change is copied.
    ///
    /// # Errors
    ///
    /// As for [`Values::to_map`].
    pub fn with(&self, changes: &BTreeMap<&str, Option<&Json>>) -> Result<Self, JsonError> {
        let new = changes
            .iter()
            .filter_map(|(name, value)| Some(member_len(name, value.as_ref()?.as_str())));
        let mut text = Text::with_capacity(self.text.len() + new.sum::<usize>());
        let mut changes = changes
            .iter()
            .map(|(name, value)| (*name, *value))
            .peekable();
        let mut members = self.members();
        let mut last = None;
        while let Some(member) = members.next_raw() {
            let Raw {
                name, text: kept, ..
            } = member?;
            // Where they are not sorted, a change would not be found where it belongs.
            if last.as_ref().is_some_and(|last| *last >= name) {
                let behind = members.rest.map_or(0, str::len);
                return Err(members.mistake(kept.len() + behind));
            }
            while let Some((new, value)) = changes.next_if(|(new, _)| *new < &*name) {
                text.change(new, value);
            }
            match changes.next_if(|(new, _)| *new == &*name) {
                Some((new, value)) => text.change(new, value),
                None => text.keep(&name, kept),
            }
            last = Some(name);
        }
        for (new, value) in changes {
            text.change(new, value);
        }
        Ok(text.end())
    }

    /// The names and the texts of their values, in their order.
    ///
    /// The text is canonical and was checked when it was written, so it is only cut, which costs a
    /// tenth of what a parser takes to look at each value again.
    pub fn members(&self) -> Members<'_> {
        // Only what is visible in ASCII, so that each byte is a character.
        let text = str::from_utf8(&self.text).ok();
        Members {
            all: self.text.len(),
            rest: Some(text.filter(|text| is_printable(text)).unwrap_or_default()),
            opening: '{',
        }
    }
}

/// Bytes that a member is likely to take.
fn member_len(name: &str, value: &str) -> usize {
    name.len() + value.len() + 4
}

/// The text of [`Values`], as it is written.
struct Text {
    text: Vec<u8>,
    shape: Shape,
}

impl Text {
    fn with_capacity(members: usize) -> Self {
        let mut text = Vec::with_capacity(2 + members);
        text.push(b'{');
        let shape = Shape::default();
        Self { text, shape }
    }

    fn begin(&mut self, name: &str) {
        if self.shape.count > 0 {
            self.text.push(b',');
        }
        self.shape.add(name);
    }

    fn put(&mut self, name: &str, value: &Json) {
        self.begin(name);
        Json::write_string(&mut self.text, name);
        self.text.push(b':');
        self.text.extend_from_slice(value.as_str().as_bytes());
    }

    fn change(&mut self, name: &str, value: Option<&Json>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    /// A member as it stood.
    fn keep(&mut self, name: &str, member: &str) {
        self.begin(name);
        self.text.extend_from_slice(member.as_bytes());
    }

    fn end(mut self) -> Values {
        self.text.push(b'}');
        Values {
            text: Bytes::from(self.text),
            shape: Some(self.shape),
        }
    }
}

/// See [`Values::members`].
#[derive(Debug)]
pub struct Members<'a> {
    /// Bytes of the whole text.
    all: usize,
    /// From what stands before the next member; `None` behind the last one, or a mistake.
    rest: Option<&'a str>,
    /// What stands before the next member.
    opening: char,
}

/// A member, taken out of the text.
struct Raw<'a> {
    name: Cow<'a, str>,
    value: &'a str,
    /// Both, with what is between and around them.
    text: &'a str,
}

impl<'a> Members<'a> {
    /// The next member, and what follows it. `None` is a mistake.
    fn cut(&self, rest: &'a str) -> Option<(Option<Raw<'a>>, &'a str)> {
        let whole = rest.strip_prefix(self.opening)?;
        if self.opening == '{' && whole == "}" {
            return Some((None, ""));
        }
        let (name, rest) = whole.split_at_checked(string_len(whole.as_bytes())?)?;
        let rest = rest.strip_prefix(':')?;
        let (value, rest) = rest.split_at_checked(value_len(rest.as_bytes())?)?;
        let inner = name.get(1..name.len().checked_sub(1)?)?;
        let raw = Raw {
            name: if inner.contains('\\') {
                Cow::Owned(serde_json::from_str(name).ok()?)
            } else {
                Cow::Borrowed(inner)
            },
            value,
            text: whole.get(..whole.len().checked_sub(rest.len())?)?,
        };
        Some((Some(raw), rest))
    }

    /// There is one where so many bytes are left.
    fn mistake(&self, left: usize) -> JsonError {
        JsonError {
            position: self.all.saturating_sub(left) + 1,
            reason: "not as it was written".to_owned(),
        }
    }

    fn next_raw(&mut self) -> Option<Result<Raw<'a>, JsonError>> {
        let rest = self
            .rest
            .take()
            .filter(|rest| *rest != "}" || self.opening == '{')?;
        let Some((member, next)) = self.cut(rest) else {
            // Nothing is left of what is not even text.
            let left = if rest.is_empty() {
                self.all
            } else {
                rest.len()
            };
            return Some(Err(self.mistake(left)));
        };
        self.opening = ',';
        let member = member?;
        self.rest = Some(next);
        Some(Ok(member))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<(Cow<'a, str>, &'a str), JsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        let member = self.next_raw()?;
        Some(member.map(|Raw { name, value, .. }| (name, value)))
    }
}

/// Whether a text is of those characters only that canonical JSON has.
fn is_printable(text: &str) -> bool {
    // Each byte is looked at, which is faster than to stop at the first that does not fit.
    let fits = |all, byte: &u8| all & (b' '..=b'~').contains(byte);
    text.as_bytes().iter().fold(true, fits)
}

/// Bytes of the JSON string that a text begins with, its quotes included.
fn string_len(text: &[u8]) -> Option<usize> {
    let inner = text.strip_prefix(b"\"")?;
    let mut at = 0;
    loop {
        // Also for short ones: nobody can foretell where a string ends, so a look at each byte is a
        // wrong guess at each end, which no bench shows that reads one text again and again.
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
        Self {
            text: Bytes::from_static(b"{}"),
            shape: Some(Shape::default()),
        }
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Values {}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values({} bytes)", self.text.len())
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

    /// Few enough that changes meet what is there; some are written with escapes.
    const NAME: &str = "[a-c\"\\\\é😀]{0,2}";

    #[test]
    fn values_whose_names_are_not_sorted_are_no_values() {
        for text in [r#"{"b":1,"a":2}"#, r#"{"a":1,"a":2}"#] {
            let values = Values::from_canonical(Bytes::from_static(text.as_bytes()));
            let error = values.with(&BTreeMap::new()).unwrap_err();
            assert_eq!(error.position, 8, "{text}");
        }
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
        fn changes_are_made_as_in_a_map(
            map in proptest::collection::btree_map(NAME, json(), 0..6),
            changes in proptest::collection::btree_map(NAME, proptest::option::of(json()), 0..4),
        ) {
            let mut map: BTreeMap<_, _> =
                map.iter().map(|(name, value)| (name.clone(), Json::from_value(value))).collect();
            let changes: BTreeMap<_, _> = changes
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_ref().map(Json::from_value)))
                .collect();
            let before = Values::from_map(&map);
            let borrowed = changes.iter().map(|(name, value)| (*name, value.as_ref())).collect();
            for (name, value) in &changes {
                match value {
                    Some(value) => map.insert((*name).to_owned(), value.clone()),
                    None => map.remove(*name),
                };
            }
            let after = before.with(&borrowed).unwrap();
            prop_assert_eq!(&after, &Values::from_map(&map));
            let unknown = Values::from_canonical(after.as_bytes().clone());
            prop_assert_eq!(unknown.shape(), after.shape());
            let longest = map.keys().map(String::len).max();
            let shape = Shape { count: map.len(), longest_name: longest.unwrap_or_default() };
            prop_assert_eq!(after.shape(), shape);
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

//! The named values of a session.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde_json::value::RawValue;

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
        let mut text = String::from("{");
        for (name, value) in map {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(Json::string(name).as_str());
            text.push(':');
            text.push_str(value.as_str());
        }
        text.push('}');
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
        let raw: BTreeMap<String, &RawValue> =
            serde_json::from_slice(&self.0).map_err(|error| JsonError::from_serde(&error, 0))?;
        Ok(raw
            .into_iter()
            .map(|(name, value)| (name, Json::from_canonical(value.get())))
            .collect())
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

    proptest! {
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

//! What a session holds and JSON can't say.

use std::collections::BTreeMap;

/// Names whose values can't be shown, as records of other programs may have them. They survive what
/// is done to other names, can be replaced and deleted, and are announced by name and kind only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opaque {
    /// Each name with what is in the way: a lower-case token, such as `object`.
    pub names: BTreeMap<String, &'static str>,
    /// Entries that have no name at all.
    pub unnamed: usize,
}

impl Opaque {
    /// Whether there is nothing of that kind, as in all records of our own.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.unnamed == 0
    }
}

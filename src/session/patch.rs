//! What one exchange changes: operations on names, never a new whole.

use std::collections::BTreeMap;
use std::time::Duration;

use super::json::{Json, JsonError};
use super::notification::{EntryId, Notifications};
use super::values::Values;
use super::{Lifetimes, Session};
use crate::clock::Timestamp;

/// What the application's signals ask for. What a patch does not name, it does not touch.
///
/// Applied in the order of the fields: clear, deletes, sets, notifications.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Delete every value (notifications stay).
    pub clear: bool,
    /// Names to delete; absent ones are fine.
    pub delete: Vec<String>,
    /// Values to set, in the order they stand; `None` deletes (JSON `null`, RFC 7396).
    pub set: Vec<(String, Option<Json>)>,
    /// Notifications to leave, in the order they stand.
    pub announce: Vec<Announcement>,
    /// Notifications that the application says it has taken.
    pub taken: Taken,
    /// The idle lifetime of this session from now on.
    pub idle_timeout: Option<Duration>,
    /// Whether the cookie outlives the browser from now on.
    pub persist: Option<bool>,
}

/// A notification that the application leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: Json,
    /// Whether it joins a list under that name; otherwise it replaces what is there.
    pub append: bool,
}

/// Which of the delivered notifications the application says it has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Taken {
    /// It says nothing.
    #[default]
    Nothing,
    /// All that were delivered with this exchange.
    All,
    /// Those of these names that were delivered with this exchange.
    Names(Vec<String>),
}

impl Patch {
    /// Whether it asks for nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a session has to begin for it: it stores something that would otherwise be lost.
    pub fn stores_something(&self) -> bool {
        self.set.iter().any(|(_, value)| value.is_some())
            || !self.announce.is_empty()
            || self.idle_timeout.is_some()
            || self.persist.is_some()
    }
}


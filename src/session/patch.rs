//! What one exchange changes: operations on names, never a new whole.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Session;
use super::json::{Json, JsonError};
use super::notification::{EntryId, Notifications};
use super::opaque::Opaque;
use super::values::Values;
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

/// What a patch needs to know of the exchange that it is applied for.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// The notifications that the exchange carried.
    pub delivered: &'a [EntryId],
    /// The id of the first notification that the exchange leaves; the next ones count up from it.
    pub first_entry: u64,
    /// The path of the page that the notifications are meant for, if they wait for one.
    pub target: Option<&'a str>,
    /// The time.
    pub now: Timestamp,
}

/// Bounds on one session. A patch that would break one is refused as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one record.
    pub max_record_bytes: usize,
    /// Values in one session.
    pub max_names: usize,
    /// Bytes of one name, of a value or a notification, in UTF-8.
    pub max_name_bytes: usize,
    /// Notifications that wait in one session.
    pub max_notifications: usize,
}

/// A patch would take a session over a limit. Says which, in numbers, and nothing of the content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    /// Too many values.
    #[error("the session would have {count} values; session.max_names allows {limit}")]
    Names {
        /// How many it would have.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
    /// A name that is too long.
    #[error("a name has {size} bytes; session.max_name_length allows {limit}")]
    NameLength {
        /// Its bytes.
        size: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Too many notifications.
    #[error("{count} notifications would wait; session.max_notifications allows {limit}")]
    Notifications {
        /// How many would wait.
        count: usize,
        /// How many may.
        limit: usize,
    },
    /// A record that is too large.
    #[error("the record would have {size} bytes; session.max_record allows {limit}")]
    Record {
        /// Its bytes.
        size: usize,
        /// How many it may have.
        limit: usize,
    },
}

impl Patch {
    /// Whether it asks for nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The session after this patch. [`Session::refreshed`] stays as it was, so that two equal
    /// sessions mean that nothing changed.
    ///
    /// Applying the same patch for the same occasion twice is the same as applying it once.
    ///
    /// # Errors
    ///
    /// [`JsonError`] when the session's stored values can't be read, and are not cleared: the record
    /// is damaged.
    pub fn apply(&self, session: &Session, occasion: &Occasion<'_>) -> Result<Session, JsonError> {
        let mut session = session.clone();
        if self.clear || !self.delete.is_empty() || !self.set.is_empty() {
            session.values = self.apply_to_values(&session.values)?;
            self.apply_to_opaque(&mut session.opaque);
        }
        match &self.taken {
            Taken::Nothing => {}
            Taken::All => session.notifications.take(occasion.delivered, |_| true),
            Taken::Names(names) => session
                .notifications
                .take(occasion.delivered, |name| names.iter().any(|n| n == name)),
        }
        self.apply_to_notifications(&mut session.notifications, occasion);
        session.idle_timeout = self.idle_timeout.or(session.idle_timeout);
        session.persist = self.persist.or(session.persist);
        Ok(session)
    }

    fn apply_to_notifications(&self, notifications: &mut Notifications, occasion: &Occasion<'_>) {
        let ids: Vec<EntryId> = (0..)
            .zip(&self.announce)
            .map(|(offset, _)| EntryId(occasion.first_entry.wrapping_add(offset)))
            .collect();
        // All are written at once: where one of them is, an earlier attempt of this exchange
        // succeeded without our seeing it.
        let done = notifications.entries().iter().any(|e| ids.contains(&e.id));
        if !done {
            for (announcement, id) in self.announce.iter().zip(ids) {
                notifications.announce(announcement, id, occasion.target, occasion.now);
            }
        }
    }

    /// Whatever replaces or deletes a name does so to what can't be shown, too.
    fn apply_to_opaque(&self, opaque: &mut Opaque) {
        if self.clear {
            *opaque = Opaque::default();
        }
        for name in self
            .delete
            .iter()
            .chain(self.set.iter().map(|(name, _)| name))
        {
            opaque.names.remove(name);
        }
    }

    fn apply_to_values(&self, values: &Values) -> Result<Values, JsonError> {
        let deleted = self.delete.iter().map(|name| (name.as_str(), None));
        let set = self.set.iter();
        let set = set.map(|(name, value)| (name.as_str(), value.as_ref()));
        // Of several changes to one name, the last one counts.
        let changes: BTreeMap<&str, Option<&Json>> = deleted.chain(set).collect();
        if self.clear {
            // What goes need not be readable.
            return Values::default().with(&changes);
        }
        values.with(&changes)
    }
}

impl Limits {
    /// Checks the session that a patch has made, but for the size of its record, which only its
    /// format knows.
    ///
    /// # Errors
    ///
    /// The first limit that it breaks.
    pub fn check(&self, session: &Session) -> Result<(), LimitExceeded> {
        // Damaged values were reported when the patch was applied.
        let shape = session.values.shape();
        let opaque = &session.opaque.names;
        let count = shape.count + opaque.len();
        let notifications = session.notifications.entries();
        let names = notifications.iter().map(|entry| entry.name.len());
        let names = names.chain(opaque.keys().map(String::len));
        let longest = names.fold(shape.longest_name, usize::max);
        let checks = [
            (count > self.max_names).then_some(LimitExceeded::Names {
                count,
                limit: self.max_names,
            }),
            (notifications.len() > self.max_notifications).then_some(
                LimitExceeded::Notifications {
                    count: notifications.len(),
                    limit: self.max_notifications,
                },
            ),
            (longest > self.max_name_bytes).then_some(LimitExceeded::NameLength {
                size: longest,
                limit: self.max_name_bytes,
            }),
        ];
        checks.into_iter().flatten().next().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::session::SessionId;
    use proptest::prelude::*;

    const OCCASION: Occasion<'_> = Occasion {
        delivered: &[],
        first_entry: 1,
        target: None,
        now: Timestamp::from_secs(1000),
    };
    const LIMITS: Limits = Limits {
        max_record_bytes: 1000,
        max_names: 2,
        max_name_bytes: 4,
        max_notifications: 2,
    };

    fn session() -> Session {
        Session::begin(&SessionId::from_bytes([1; 16]), Timestamp::from_secs(1))
    }

    fn set(pairs: &[(&str, &str)]) -> Patch {
        Patch {
            set: pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Json::parse(value.as_bytes()).ok()))
                .collect(),
            ..Patch::default()
        }
    }

    fn values(session: &Session) -> String {
        String::from_utf8(session.values.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn clear_comes_before_deletes_and_deletes_before_sets() {
        let before = set(&[("a", "1"), ("b", "2"), ("c", "3")])
            .apply(&session(), &OCCASION)
            .unwrap();
        let mut patch = set(&[("a", "9")]);
        patch.delete = vec!["a".to_owned(), "b".to_owned(), "absent".to_owned()];
        let after = patch.apply(&before, &OCCASION).unwrap();
        assert_eq!(values(&after), r#"{"a":9,"c":3}"#);
        patch.clear = true;
        let after = patch.apply(&before, &OCCASION).unwrap();
        assert_eq!(values(&after), r#"{"a":9}"#);
    }

    #[test]
    fn damaged_values_can_be_cleared_and_not_be_changed() {
        let mut damaged = session();
        damaged.values = Values::from_canonical(Bytes::from_static(b"{\"b\":1,\"a\""));
        let mut patch = set(&[("a", "1")]);
        assert!(patch.apply(&damaged, &OCCASION).is_err());
        patch.clear = true;
        let after = patch.apply(&damaged, &OCCASION).unwrap();
        assert_eq!(values(&after), r#"{"a":1}"#);
    }

    #[test]
    fn null_deletes_and_the_later_of_two_sets_wins() {
        let mut patch = set(&[("a", "1"), ("b", "1"), ("a", "2")]);
        patch.set.push(("b".to_owned(), None));
        let after = patch.apply(&session(), &OCCASION).unwrap();
        assert_eq!(values(&after), r#"{"a":2}"#);
    }

    #[test]
    fn a_patch_that_repeats_what_is_so_changes_nothing() {
        let patch = set(&[("a", r#"{"y":1,"x":2}"#)]);
        let once = patch.apply(&session(), &OCCASION).unwrap();
        let again = set(&[("a", r#"{ "x":2, "y":1 }"#)]);
        assert_eq!(again.apply(&once, &OCCASION).unwrap(), once);
    }

    #[test]
    fn each_limit_is_refused_by_its_name_and_numbers() {
        let refusal = |patch: &Patch| {
            let after = patch.apply(&session(), &OCCASION).unwrap();
            LIMITS.check(&after).unwrap_err().to_string()
        };
        let announcement = |name: &str| Announcement {
            name: name.to_owned(),
            value: Json::string(""),
            append: true,
        };
        let announce = |names: &[&str]| Patch {
            announce: names.iter().map(|name| announcement(name)).collect(),
            ..Patch::default()
        };
        let messages = [
            refusal(&set(&[("a", "1"), ("b", "1"), ("c", "1")])),
            refusal(&set(&[("abcde", "1")])),
            refusal(&announce(&["ééé"])),
            refusal(&announce(&["a", "a", "a"])),
        ];
        insta::assert_snapshot!(messages.join("\n"), @r"
the session would have 3 values; session.max_names allows 2
a name has 5 bytes; session.max_name_length allows 4
a name has 6 bytes; session.max_name_length allows 4
3 notifications would wait; session.max_notifications allows 2
");
    }

    proptest! {
        #[test]
        fn applying_twice_is_applying_once(
            clear: bool,
            delete in proptest::collection::vec("[a-c]", 0..3),
            set in proptest::collection::vec(("[a-c]", proptest::option::of("[0-9]")), 0..4),
            announce in proptest::collection::vec(("[a-b]", "[0-9]", any::<bool>()), 0..4),
        ) {
            let json = |digits: String| Json::parse(digits.as_bytes()).unwrap();
            let patch = Patch {
                clear,
                delete,
                set: set.into_iter().map(|(name, value)| (name, value.map(json))).collect(),
                announce: announce
                    .into_iter()
                    .map(|(name, value, append)| Announcement { name, value: json(value), append })
                    .collect(),
                ..Patch::default()
            };
            let once = patch.apply(&session(), &OCCASION).unwrap();
            prop_assert_eq!(patch.apply(&once, &OCCASION).unwrap(), once);
        }
    }
}

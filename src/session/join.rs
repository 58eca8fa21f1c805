//! Two continuations of one session become one.

use std::collections::BTreeMap;

use super::{Json, Notifications, Session, Values};

impl Session {
    /// This session with what has been done to `theirs` since both were `base`. Where both have
    /// changed the same name, theirs counts; what can't be shown stays as it is here.
    #[must_use]
    pub fn joined(&self, base: &Self, theirs: &Self) -> Self {
        let mut joined = self.clone();
        if base.values != theirs.values {
            joined.values = join_values(&self.values, &base.values, &theirs.values);
        }
        if base.notifications != theirs.notifications {
            joined.notifications = join_notifications(
                &self.notifications,
                &base.notifications,
                &theirs.notifications,
            );
        }
        if base.idle_timeout != theirs.idle_timeout {
            joined.idle_timeout = theirs.idle_timeout;
        }
        if base.persist != theirs.persist {
            joined.persist = theirs.persist;
        }
        joined.refreshed = self.refreshed.max(theirs.refreshed);
        joined
    }
}

fn join_values(ours: &Values, base: &Values, theirs: &Values) -> Values {
    let map = |values: &Values| -> BTreeMap<String, Json> { values.to_map().unwrap_or_default() };
    let (mut joined, base, theirs) = (map(ours), map(base), map(theirs));
    for name in base.keys().filter(|&name| !theirs.contains_key(name)) {
        joined.remove(name);
    }
    for (name, value) in theirs {
        if base.get(&name) != Some(&value) {
            joined.insert(name, value);
        }
    }
    Values::from_map(&joined)
}

/// Entries come and go; who holds one is a matter of the place in which it is held.
fn join_notifications(
    ours: &Notifications,
    base: &Notifications,
    theirs: &Notifications,
) -> Notifications {
    let has = |those: &Notifications, id| those.entries().iter().any(|entry| entry.id == id);
    let mut joined = ours.entries().to_vec();
    joined.retain(|entry| has(theirs, entry.id) || !has(base, entry.id));
    for entry in theirs.entries() {
        if !has(base, entry.id) && !has(ours, entry.id) {
            joined.push(entry.clone());
        }
    }
    Notifications::from_entries(joined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::session::{Entry, EntryId, SessionId};

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    fn session(values: &[(&str, &str)], notes: &[u64]) -> Session {
        let mut session = Session::begin(&SessionId::from_bytes([1; 16]), NOW);
        let values = values.iter();
        let values = values.map(|(name, value)| ((*name).to_owned(), Json::string(value)));
        session.values = Values::from_map(&values.collect());
        let notes = notes.iter().map(|&id| Entry {
            id: EntryId(id),
            name: "flash".to_owned(),
            value: Json::string("hello"),
            append: true,
            made: NOW,
            target: None,
            claim: None,
        });
        session.notifications = Notifications::from_entries(notes.collect());
        session
    }

    #[test]
    fn both_sides_changes_are_in_what_they_make_together() {
        let base = session(
            &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")],
            &[1, 2, 3],
        );
        let ours = session(
            &[("a", "2"), ("c", "1"), ("d", "3"), ("x", "1")],
            &[1, 3, 4],
        );
        let theirs = session(
            &[("a", "1"), ("b", "1"), ("d", "4"), ("y", "1")],
            &[2, 3, 5],
        );
        let expected = session(
            &[("a", "2"), ("d", "4"), ("x", "1"), ("y", "1")],
            &[3, 4, 5],
        );
        assert_eq!(ours.joined(&base, &theirs), expected);
    }

    #[test]
    fn what_only_one_side_has_changed_is_as_that_side_has_it() {
        let base = session(&[("a", "1")], &[1]);
        let mut changed = session(&[("b", "2")], &[2]);
        changed.persist = Some(false);
        assert_eq!(base.joined(&base, &changed), changed);
        assert_eq!(changed.joined(&base, &base), changed);
    }
}

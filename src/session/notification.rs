//! Notifications: values that are delivered once, then gone.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::json::Json;
use super::patch::Announcement;
use super::values::Values;
use crate::clock::Timestamp;

/// What waits to be delivered, in the order in which it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notifications(Vec<Entry>);

/// Tells one entry from all others of its session. Random, so that two proxies never give the
/// same one, and fixed before the first write, so that a write that is repeated adds nothing twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(pub u64);

/// One notification that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which one it is.
    pub id: EntryId,
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: Json,
    /// Whether it is an element of a list under its name, or the whole value.
    pub append: bool,
    /// When it was made.
    pub made: Timestamp,
    /// The path of the page it is meant for, if a redirect made it.
    pub target: Option<String>,
    /// The exchange that carries it at the moment.
    pub claim: Option<Claim>,
}

/// An exchange's hold on an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which exchange; random.
    pub token: u64,
    /// From when on another exchange may claim the entry: this one's proxy has died.
    pub until: Timestamp,
}

impl Notifications {
    /// Takes entries as a record holds them.
    pub fn from_entries(entries: Vec<Entry>) -> Self {
        Self(entries)
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries that an exchange for `path` may carry at `now`: not held by another exchange,
    /// and not waiting for another page. One that is bound to another page is free `bind_grace`
    /// after it was made.
    pub fn due(
        &self,
        path: &str,
        bind_grace: Duration,
        now: Timestamp,
    ) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| {
            let free = entry.claim.is_none_or(|claim| claim.until <= now);
            let here = entry.target.as_deref().is_none_or(|target| target == path)
                || entry.made.after(bind_grace) <= now;
            free && here
        })
    }

    /// Marks these entries as held by the exchange of `claim`.
    pub fn claim(&mut self, ids: &[EntryId], claim: Claim) {
        for entry in self.0.iter_mut().filter(|entry| ids.contains(&entry.id)) {
            entry.claim = Some(claim);
        }
    }

    /// The entries that the exchange of `token` holds.
    pub fn held_by(&self, token: u64) -> Vec<EntryId> {
        let is_held = |entry: &&Entry| entry.claim.is_some_and(|claim| claim.token == token);
        self.0
            .iter()
            .filter(is_held)
            .map(|entry| entry.id)
            .collect()
    }

    /// Removes what the exchange of `token` holds: it was shown.
    pub fn confirm(&mut self, token: u64) {
        self.0
            .retain(|entry| entry.claim.is_none_or(|claim| claim.token != token));
    }

    /// Frees what the exchange of `token` holds: it was not shown.
    pub fn give_back(&mut self, token: u64) {
        for entry in &mut self.0 {
            if entry.claim.is_some_and(|claim| claim.token == token) {
                entry.claim = None;
            }
        }
    }

    /// Removes those of `delivered` whose name is wanted.
    pub fn take(&mut self, delivered: &[EntryId], wanted: impl Fn(&str) -> bool) {
        self.0
            .retain(|entry| !(delivered.contains(&entry.id) && wanted(&entry.name)));
    }

    /// Adds an entry. One that replaces does nothing where the same already waits.
    pub fn announce(
        &mut self,
        announcement: &Announcement,
        id: EntryId,
        target: Option<&str>,
        now: Timestamp,
    ) {
        if !announcement.append {
            let mut same_name = self.0.iter().filter(|e| e.name == announcement.name);
            if let (Some(entry), None) = (same_name.next(), same_name.next())
                && !entry.append
                && entry.claim.is_none()
                && entry.value == announcement.value
                && entry.target.as_deref() == target
            {
                return;
            }
            self.0.retain(|entry| entry.name != announcement.name);
        }
        self.0.push(Entry {
            id,
            name: announcement.name.clone(),
            value: announcement.value.clone(),
            append: announcement.append,
            made: now,
            target: target.map(str::to_owned),
            claim: None,
        });
    }

    /// The text in which these entries are sent: one JSON object as [`Values`] writes it, a name
    /// for each. A name to which something was appended has a list: the elements of what was there
    /// before if that is a list, else that value, then what was appended.
    pub fn text(&self, ids: &[EntryId]) -> Bytes {
        self.text_where(|entry| ids.contains(&entry.id))
    }

    /// The text of all entries, for a look at how much room they would take.
    pub fn text_of_all(&self) -> Bytes {
        self.text_where(|_| true)
    }

    /// The value that each name has, as [`text`](Self::text) combines its entries.
    pub fn by_name(&self) -> BTreeMap<String, Json> {
        self.by_name_where(|_| true)
    }

    fn text_where(&self, included: impl Fn(&Entry) -> bool) -> Bytes {
        let map = self.by_name_where(included);
        Values::from_map(&map).as_bytes().clone()
    }

    fn by_name_where(&self, included: impl Fn(&Entry) -> bool) -> BTreeMap<String, Json> {
        let mut by_name: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
        for entry in self.0.iter().filter(|entry| included(entry)) {
            by_name.entry(&entry.name).or_default().push(entry);
        }
        by_name
            .into_iter()
            .map(|(name, entries)| (name.to_owned(), combined(&entries)))
            .collect()
    }
}

/// The value of all entries of one name.
fn combined(entries: &[&Entry]) -> Json {
    if let [entry] = entries
        && !entry.append
    {
        return entry.value.clone();
    }
    let mut elements = Vec::new();
    for entry in entries {
        let mut value = entry.value.to_value();
        match value.as_array_mut() {
            Some(list) if !entry.append => elements.append(list),
            Some(_) | None => elements.push(value),
        }
    }
    Json::from_value(&serde_json::Value::Array(elements))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1000);

    fn announcement(name: &str, value: &str, append: bool) -> Announcement {
        Announcement {
            name: name.to_owned(),
            value: Json::parse(value.as_bytes()).unwrap(),
            append,
        }
    }

    fn with(list: &[(&str, &str, bool)]) -> Notifications {
        let mut notifications = Notifications::default();
        for (id, &(name, value, append)) in (1..).zip(list) {
            let announcement = announcement(name, value, append);
            notifications.announce(&announcement, EntryId(id), None, NOW);
        }
        notifications
    }

    fn due(notifications: &Notifications, path: &str, grace: u64, at: Timestamp) -> Vec<EntryId> {
        let grace = Duration::from_secs(grace);
        notifications.due(path, grace, at).map(|e| e.id).collect()
    }

    fn all_text(notifications: &Notifications) -> String {
        String::from_utf8(notifications.text_of_all().to_vec()).unwrap()
    }

    #[test]
    fn the_same_name_again_replaces() {
        let notifications = with(&[("flash", "\"a\"", false), ("flash", "\"b\"", false)]);
        assert_eq!(all_text(&notifications), r#"{"flash":"b"}"#);
    }

    #[test]
    fn appending_makes_a_list_of_what_was_there_and_what_comes() {
        let text = |list: &[_]| all_text(&with(list));
        assert_eq!(text(&[("f", "1", true)]), r#"{"f":[1]}"#);
        assert_eq!(
            text(&[("f", "1", true), ("f", "2", true)]),
            r#"{"f":[1,2]}"#
        );
        assert_eq!(
            text(&[("f", "1", false), ("f", "2", true)]),
            r#"{"f":[1,2]}"#
        );
        assert_eq!(
            text(&[("f", "[1]", false), ("f", "[2]", true)]),
            r#"{"f":[1,[2]]}"#
        );
        assert_eq!(text(&[("f", "[1]", false)]), r#"{"f":[1]}"#);
    }

    #[test]
    fn an_entry_that_is_held_is_due_again_only_after_the_deadline() {
        let mut notifications = with(&[("a", "1", false), ("b", "2", false)]);
        let claim = Claim {
            token: 9,
            until: NOW.after(Duration::from_secs(90)),
        };
        notifications.claim(&[EntryId(1)], claim);
        assert_eq!(due(&notifications, "/", 0, NOW), [EntryId(2)]);
        let later = NOW.after(Duration::from_secs(90));
        assert_eq!(due(&notifications, "/", 0, later), [EntryId(1), EntryId(2)]);
    }

    #[test]
    fn confirming_removes_and_giving_back_frees_only_what_that_exchange_holds() {
        let mut notifications = with(&[("a", "1", false), ("b", "2", false)]);
        let until = NOW.after(Duration::from_secs(90));
        notifications.claim(&[EntryId(1)], Claim { token: 8, until });
        notifications.claim(&[EntryId(2)], Claim { token: 9, until });
        notifications.confirm(8);
        assert_eq!(all_text(&notifications), r#"{"b":2}"#);
        notifications.give_back(7);
        assert!(due(&notifications, "/", 0, NOW).is_empty());
        notifications.give_back(9);
        assert_eq!(due(&notifications, "/", 0, NOW), [EntryId(2)]);
    }

    #[test]
    fn a_replacement_made_meanwhile_survives_the_confirmation() {
        let mut notifications = with(&[("a", "1", false)]);
        let until = NOW.after(Duration::from_secs(90));
        notifications.claim(&[EntryId(1)], Claim { token: 8, until });
        notifications.announce(&announcement("a", "2", false), EntryId(5), None, NOW);
        notifications.confirm(8);
        assert_eq!(all_text(&notifications), r#"{"a":2}"#);
    }

    #[test]
    fn one_that_a_redirect_made_waits_for_its_page_and_then_takes_any() {
        let mut notifications = Notifications::default();
        notifications.announce(
            &announcement("a", "1", false),
            EntryId(1),
            Some("/cart"),
            NOW,
        );
        assert_eq!(due(&notifications, "/cart", 10, NOW), [EntryId(1)]);
        assert!(due(&notifications, "/other", 10, NOW).is_empty());
        let later = NOW.after(Duration::from_secs(10));
        assert_eq!(due(&notifications, "/other", 10, later), [EntryId(1)]);
    }

    #[test]
    fn only_what_was_delivered_is_taken() {
        let mut notifications = with(&[("f", "1", true), ("f", "2", true), ("g", "3", false)]);
        notifications.take(&[EntryId(1), EntryId(3)], |name| name == "f");
        assert_eq!(all_text(&notifications), r#"{"f":[2],"g":3}"#);
    }
}

//! The Python library's records: pickled dictionaries that a live application may write, too.
//!
//! | record | key | holds |
//! |---|---|---|
//! | values | the id | a pickled dictionary of values; with [`Place::SameRecord`], of notifications too |
//! | notifications | the id, in another database | a pickled dictionary of notifications |
//! | notes | the id, `:pycket` | a [native] record, of what the library has no place for |
//!
//! The notes say which exchange holds a notification, which page it waits for, and which elements
//! of a list were appended. They are there only while there is such a thing to say. A note counts
//! as long as its notifications still make the value that the dictionary has; where the library has
//! written or deleted the name since, the dictionary alone counts.
//!
//! The library keeps no times. A session here begins when it is loaded, so that its record lives
//! for the idle lifetime after the last change, as the library has it, and nothing prolongs it.
//!
//! Editing is in terms of names: whatever a [`Session`] can't tell stays in the pickles.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::pickle::{Pickle, PickleError, Protocol, View, unwrap_bytes};
use super::{FormatError, Stored, native};
use crate::clock::Timestamp;
use crate::session::{
    Entry, EntryId, Json, JsonError, Notifications, Opaque, Session, SessionId, Values,
};

/// Where notifications are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a record of their own.
    OwnRecord,
    /// Among the values, under these names.
    SameRecord(BTreeSet<String>),
}

/// The rules by which records are read and written.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Where notifications are.
    pub place: Place,
    /// The pickle protocol of new records.
    pub protocol: Protocol,
}

/// The dictionaries of one session, as they were read.
#[derive(Clone, Debug, Default)]
pub struct Records {
    values: Option<Pickle>,
    notifications: Option<Pickle>,
}

/// Why a session can't be read, or not be written.
#[derive(Debug, thiserror::Error)]
pub enum PycketError {
    /// A dictionary can't be read, or not be written.
    #[error("the pickled {part} can't be used")]
    Pickle {
        /// Which.
        part: &'static str,
        /// Why.
        #[source]
        source: PickleError,
    },
    /// The notes can't be read.
    #[error("the notes on the notifications can't be read")]
    Notes(#[source] FormatError),
    /// Text that this program wrote can't be read.
    #[error("the session's text can't be read")]
    Damaged(#[from] JsonError),
    /// A value under a name of [`Place::SameRecord`].
    #[error(
        "{name:?} is a notification by storage.notification_names, so it can't be a value, too: the \
         Python library keeps both in one dictionary here; use another name, or take it out there"
    )]
    ValueAsNotification {
        /// The name.
        name: String,
    },
    /// A notification whose name is not one of [`Place::SameRecord`].
    #[error(
        "{name:?} is no notification by storage.notification_names, so it can't wait as one: the \
         Python library keeps values and notifications in one dictionary here; add the name there"
    )]
    UndeclaredNotification {
        /// The name.
        name: String,
    },
}

/// What has to be written for a session to be as wanted. `None` leaves a record as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The record of values.
    pub values: Option<Bytes>,
    /// The record of notifications.
    pub notifications: Option<Bytes>,
    /// The notes.
    pub notes: Notes,
}

/// What becomes of the notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Notes {
    /// They stay.
    #[default]
    Keep,
    /// They are written.
    Write(Bytes),
    /// There is nothing to note any more.
    Delete,
}

/// The key of the notes on the session whose records are under `key`.
pub fn notes_key(key: &[u8]) -> Vec<u8> {
    [key, b":pycket"].concat()
}

impl Records {
    /// Reads the dictionaries.
    ///
    /// # Errors
    ///
    /// [`PycketError::Pickle`]; what can't be read is never an empty session.
    pub fn read(
        values: Option<&Bytes>,
        notifications: Option<&Bytes>,
    ) -> Result<Self, PycketError> {
        Ok(Self {
            values: values.map(|blob| read(blob, "values")).transpose()?,
            notifications: notifications
                .map(|blob| read(blob, "notifications"))
                .transpose()?,
        })
    }

    /// The session that the dictionaries make under `id`, without notes. `now` is when it was
    /// loaded.
    pub fn session(&self, rules: &Rules, id: &SessionId, now: Timestamp) -> Session {
        let mut view = self.values.as_ref().map(Pickle::view).unwrap_or_default();
        let waiting = match &rules.place {
            Place::OwnRecord => self.notifications.as_ref().map(Pickle::view),
            Place::SameRecord(names) => Some(taken_out(&mut view, names)),
        };
        let mut session = Session::begin(id, now);
        session.values = Values::from_map(&view.values);
        session.opaque = Opaque {
            names: view
                .opaque
                .into_iter()
                .map(|(name, kind)| (name, kind.as_str()))
                .collect(),
            unnamed: view.unnamed,
        };
        let waiting = waiting.unwrap_or_default().values;
        let entries = waiting.into_iter().map(|(name, value)| fresh(name, value));
        session.notifications = Notifications::from_entries(entries.collect());
        session
    }

    /// What has to be written so that the session is `after`, which was `before`. `key` is that of
    /// the notes, and `has_notes` says whether there are some.
    ///
    /// # Errors
    ///
    /// [`PycketError`]; nothing of it can be written.
    pub fn change(
        &self,
        rules: &Rules,
        (before, after): (&Session, &Session),
        key: &[u8],
        has_notes: bool,
    ) -> Result<Change, PycketError> {
        let mut edits = Edits::of_values(before, after)?;
        let told = Edits::of_notifications(before, after);
        let notes = what_to_note(before, after, key, has_notes);
        let edit = |pickle: &Option<Pickle>, edits: &Edits, part| {
            edits.apply(pickle.as_ref(), rules.protocol, part)
        };
        Ok(match &rules.place {
            Place::OwnRecord => Change {
                values: edit(&self.values, &edits, "values")?,
                notifications: edit(&self.notifications, &told, "notifications")?,
                notes,
            },
            Place::SameRecord(names) => {
                let name = edits.names().find(|name| names.contains(*name));
                if let Some(name) = name.cloned() {
                    return Err(PycketError::ValueAsNotification { name });
                }
                let name = told.names().find(|name| !names.contains(*name));
                if let Some(name) = name.cloned() {
                    return Err(PycketError::UndeclaredNotification { name });
                }
                edits.join(told);
                Change {
                    values: edit(&self.values, &edits, "values")?,
                    notifications: None,
                    notes,
                }
            }
        })
    }

    /// Everything that has to be written so that the session is there under another key: the
    /// dictionaries as they are, with the changes from `before` to `after`. At least one of the
    /// records is written.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    pub fn whole(
        &self,
        rules: &Rules,
        (before, after): (&Session, &Session),
        key: &[u8],
    ) -> Result<Change, PycketError> {
        let mut whole = self.change(rules, (before, after), key, false)?;
        if whole.values.is_none() {
            whole.values = written(self.values.as_ref(), "values")?;
        }
        if whole.notifications.is_none() && rules.place == Place::OwnRecord {
            whole.notifications = written(self.notifications.as_ref(), "notifications")?;
        }
        if whole.notes == Notes::Keep && wants_notes(after) {
            whole.notes = Notes::Write(note(after, key));
        }
        if whole.values.is_none() && whole.notifications.is_none() {
            whole.values = written(Some(&Pickle::empty(rules.protocol)), "values")?;
        }
        Ok(whole)
    }
}

impl Records {
    /// What waits among the notifications and can't be told in JSON: no session shows it.
    pub fn hidden(&self, place: &Place) -> BTreeMap<String, &'static str> {
        let opaque = match place {
            Place::OwnRecord => {
                let view = self.notifications.as_ref().map(Pickle::view);
                view.unwrap_or_default().opaque
            }
            Place::SameRecord(names) => {
                let mut view = self.values.as_ref().map(Pickle::view).unwrap_or_default();
                taken_out(&mut view, names).opaque
            }
        };
        let named = opaque.into_iter();
        named.map(|(name, kind)| (name, kind.as_str())).collect()
    }

    /// The dictionaries of this session as a start for [`whole`](Self::whole) where notifications
    /// are in another place, and the session that they make there as they are.
    ///
    /// What is [hidden](Self::hidden) does not come along, unless both places are of the same kind.
    pub fn relaid(&self, session: &Session, from: &Place, to: &Place) -> (Self, Session) {
        let mut before = session.clone();
        match (from, to) {
            (Place::OwnRecord, Place::OwnRecord) | (Place::SameRecord(_), Place::SameRecord(_)) => {
                return (self.clone(), before);
            }
            (Place::OwnRecord, Place::SameRecord(names)) => {
                // A value that is called like a notification would turn into one.
                return self.freed(before, names);
            }
            (Place::SameRecord(_), Place::OwnRecord) => {
                // They are among the values, from which the difference then takes them away.
                let mut values = session.values.to_map().unwrap_or_default();
                values.extend(session.notifications.by_name());
                before.values = Values::from_map(&values);
                before.opaque.names.extend(self.hidden(from));
            }
        }
        before.notifications = Notifications::default();
        let values = self.values.clone();
        let notifications = None;
        (
            Self {
                values,
                notifications,
            },
            before,
        )
    }

    /// The dictionary of values alone, without these names.
    fn freed(&self, mut before: Session, names: &BTreeSet<String>) -> (Self, Session) {
        let mut records = Self {
            values: self.values.clone(),
            notifications: None,
        };
        let mut values = before.values.to_map().unwrap_or_default();
        for name in names {
            if let Some(pickle) = &mut records.values {
                pickle.delete(name);
            }
            values.remove(name);
            before.opaque.names.remove(name);
        }
        before.values = Values::from_map(&values);
        before.notifications = Notifications::default();
        (records, before)
    }

    /// Whether both hold the same, to the byte.
    pub fn is_same(&self, other: &Self) -> bool {
        let bytes = |pickle: &Option<Pickle>| pickle.as_ref().map(|pickle| pickle.write().ok());
        let same = |one, other| match (bytes(one), bytes(other)) {
            (None, None) => true,
            (Some(Some(one)), Some(Some(other))) => one == other,
            _ => false,
        };
        same(&self.values, &other.values) && same(&self.notifications, &other.notifications)
    }
}

/// Adds what the notes say to the session that the dictionaries make. `key` is that of the notes.
///
/// # Errors
///
/// [`PycketError::Notes`]: what answered is not what belongs there.
pub fn annotate(session: &mut Session, key: &[u8], notes: &Bytes) -> Result<(), PycketError> {
    let read = native::decode(key, notes, usize::MAX).map_err(PycketError::Notes)?;
    let Stored::Session(known) = read else {
        return Err(PycketError::Notes(FormatError::Length));
    };
    let told = session.notifications.by_name();
    let noted_names: BTreeMap<String, Json> = known.notifications.by_name();
    let holds = |name: &str| told.contains_key(name) && told.get(name) == noted_names.get(name);
    let known = known.notifications.entries().iter();
    let known = known.filter(|entry| holds(&entry.name)).cloned();
    let plain = session.notifications.entries().iter();
    let plain = plain.filter(|entry| !holds(&entry.name)).cloned();
    session.notifications = Notifications::from_entries(known.chain(plain).collect());
    Ok(())
}

fn read(blob: &Bytes, part: &'static str) -> Result<Pickle, PycketError> {
    Pickle::read(blob).or_else(|source| {
        // What python3-memcached makes of a pickle.
        unwrap_bytes(blob)
            .and_then(|inner| Pickle::read(&inner).ok())
            .ok_or(PycketError::Pickle { part, source })
    })
}

fn written(pickle: Option<&Pickle>, part: &'static str) -> Result<Option<Bytes>, PycketError> {
    pickle
        .map(|pickle| match pickle.write() {
            Ok(blob) => Ok(Bytes::from(blob)),
            Err(source) => Err(PycketError::Pickle { part, source }),
        })
        .transpose()
}

/// Takes the notifications out of a dictionary that holds values as well.
fn taken_out(view: &mut View, names: &BTreeSet<String>) -> View {
    let mut out = View::default();
    for name in names {
        if let Some(value) = view.values.remove(name) {
            out.values.insert(name.clone(), value);
        }
        if let Some(kind) = view.opaque.remove(name) {
            out.opaque.insert(name.clone(), kind);
        }
    }
    out
}

/// A notification of which nothing is known but what it says. Every proxy gives it the same id.
fn fresh(name: String, value: Json) -> Entry {
    let digest = Sha256::new()
        .chain_update(name.as_bytes())
        .chain_update([0])
        .chain_update(value.as_str())
        .finalize();
    let mut id = [0; 8];
    for (slot, byte) in id.iter_mut().zip(digest) {
        *slot = byte;
    }
    Entry {
        id: EntryId(u64::from_be_bytes(id)),
        name,
        value,
        append: false,
        made: Timestamp::default(),
        target: None,
        claim: None,
    }
}

fn what_to_note(before: &Session, after: &Session, key: &[u8], has_notes: bool) -> Notes {
    if before.notifications == after.notifications {
        Notes::Keep
    } else if wants_notes(after) {
        Notes::Write(note(after, key))
    } else if has_notes {
        Notes::Delete
    } else {
        Notes::Keep
    }
}

/// Whether there is something that the dictionary can't say.
fn wants_notes(session: &Session) -> bool {
    let mut entries = session.notifications.entries().iter();
    entries.any(|entry| entry.claim.is_some() || entry.target.is_some() || entry.append)
}

fn note(session: &Session, key: &[u8]) -> Bytes {
    let mut noted = session.clone();
    noted.values = Values::default();
    native::encode(key, &noted)
}

/// What changes in one dictionary.
#[derive(Debug, Default)]
struct Edits {
    /// What has no name goes, since the application has cleared the session.
    delete_unnamed: bool,
    delete: BTreeSet<String>,
    set: BTreeMap<String, Json>,
}

impl Edits {
    fn of_values(before: &Session, after: &Session) -> Result<Self, JsonError> {
        if before.values == after.values && before.opaque == after.opaque {
            return Ok(Self::default());
        }
        let (old, new) = (before.values.to_map()?, after.values.to_map()?);
        let mut edits = Self::between(&old, new);
        let gone = before.opaque.names.keys();
        let gone = gone.filter(|name| !after.opaque.names.contains_key(*name));
        edits.delete.extend(gone.cloned());
        edits.delete.retain(|name| !edits.set.contains_key(name));
        edits.delete_unnamed = before.opaque.unnamed > 0 && after.opaque.unnamed == 0;
        Ok(edits)
    }

    fn of_notifications(before: &Session, after: &Session) -> Self {
        if before.notifications == after.notifications {
            return Self::default();
        }
        let old = before.notifications.by_name();
        Self::between(&old, after.notifications.by_name())
    }

    fn between(old: &BTreeMap<String, Json>, mut new: BTreeMap<String, Json>) -> Self {
        let gone = old.keys().filter(|name| !new.contains_key(*name));
        let delete = gone.cloned().collect();
        new.retain(|name, value| old.get(name) != Some(value));
        Self {
            delete_unnamed: false,
            delete,
            set: new,
        }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.delete.iter().chain(self.set.keys())
    }

    fn join(&mut self, other: Self) {
        self.delete.extend(other.delete);
        self.set.extend(other.set);
    }

    fn is_empty(&self) -> bool {
        !self.delete_unnamed && self.delete.is_empty() && self.set.is_empty()
    }

    /// The dictionary after the changes; `None` when there are none.
    fn apply(
        &self,
        pickle: Option<&Pickle>,
        protocol: Protocol,
        part: &'static str,
    ) -> Result<Option<Bytes>, PycketError> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut pickle = pickle.map_or_else(|| Pickle::empty(protocol), Clone::clone);
        if self.delete_unnamed {
            pickle.delete_unnamed();
        }
        for name in &self.delete {
            pickle.delete(name);
        }
        for (name, value) in &self.set {
            pickle
                .set(name, value)
                .map_err(|source| PycketError::Pickle { part, source })?;
        }
        written(Some(&pickle), part)
    }
}

#[cfg(test)]
mod tests;

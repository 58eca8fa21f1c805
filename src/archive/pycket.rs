//! The Python library's layout: a record of values, one of notifications, and our notes on them.
//!
//! The records have no version of their own, so each is compared and swapped as it was read. What
//! belongs together is not written at once, as it is not by the library: values first, then
//! notifications, then notes. A write that stops half-way is told as one that met another, and
//! doing the rest of it again does nothing twice.
//!
//! The notes are how proxies agree on who shows a notification. Where they are all that changes,
//! they are compared and swapped like the rest; where they only follow, what becomes of them
//! decides nothing.

use std::time::Duration;

use bytes::Bytes;

use super::{Created, Ended, Found, Kept, Replaced};
use crate::clock::Timestamp;
use crate::config::{NotificationPlace, PycketFormat, Storage};
use crate::format::FormatError;
use crate::format::pickle::Protocol;
use crate::format::pycket::{
    Change, Notes, Place, PycketError, Records, Rules, annotate, notes_key,
};
use crate::session::{Session, SessionId};
use crate::store::{self, Freshness, Key, Record, Shared, Store, StoreError, Version};

#[derive(Clone, Debug)]
pub(super) struct Pycket {
    /// Holds the values, and all else where the library keeps it there.
    pub(super) values: Store,
    /// Holds the notifications and notes, where that is another database.
    pub(super) notifications: Option<Store>,
    pub(super) rules: Rules,
    writable: bool,
}

/// What was read, and which versions of it.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) records: Records,
    values: Option<Version>,
    notifications: Option<Version>,
    notes: Option<Version>,
}

impl Pycket {
    pub(super) async fn open(
        storage: &Storage,
        format: &PycketFormat,
        shared: &Shared,
    ) -> Result<Self, StoreError> {
        let values = Store::connect(storage, shared).await?;
        let (notifications, place) = match &format.notifications {
            NotificationPlace::Database { notifications, .. } => {
                let store = Store::connect_database(storage, *notifications, shared).await?;
                (Some(store), Place::OwnRecord)
            }
            NotificationPlace::SameRecord { names } => {
                (None, Place::SameRecord(names.iter().cloned().collect()))
            }
        };
        Ok(Self {
            values,
            notifications,
            rules: Rules {
                place,
                protocol: Protocol::new(format.protocol).unwrap_or(Protocol::COMMON),
            },
            writable: format.writable,
        })
    }

    /// Both records are asked for at once. Notes are only where there are notifications.
    pub(super) async fn load(
        &self,
        id: &SessionId,
        max_bytes: usize,
        now: Timestamp,
        freshness: Freshness,
    ) -> Result<Found, StoreError> {
        let key = key(id);
        let (values, notifications) = match &self.notifications {
            None => (self.values.load(&key, freshness).await?, None),
            Some(store) => {
                let values = self.values.load(&key, freshness);
                tokio::try_join!(values, store.load(&key, freshness))?
            }
        };
        if values.is_none() && notifications.is_none() {
            return Ok(Found::Missing);
        }
        check_size([&values, &notifications], max_bytes)?;
        let bytes = |record: &Option<Record>| record.as_ref().map(|record| record.bytes.clone());
        let records = Records::read(bytes(&values).as_ref(), bytes(&notifications).as_ref())
            .map_err(corrupt)?;
        let mut session = records.session(&self.rules, id, now);
        let mut notes = None;
        if !session.notifications.is_empty()
            && let Some(record) = self.side().load(&side_key(id), freshness).await?
        {
            annotate(&mut session, &notes_key(key.as_bytes()), &record.bytes).map_err(|error| {
                if matches!(&error, PycketError::Notes(error) if error.indicts_connection()) {
                    self.side().distrust();
                }
                corrupt(error)
            })?;
            notes = Some(record.version);
        }
        let version = |record: Option<Record>| record.map(|record| record.version);
        Ok(Found::Session(kept(
            session,
            State {
                records,
                values: version(values),
                notifications: version(notifications),
                notes,
            },
        )))
    }

    pub(super) async fn create(
        &self,
        id: &SessionId,
        session: &Session,
        from: Option<(&Session, &State)>,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        self.check_writable()?;
        let blank = Session::begin(id, session.created);
        let nothing = State::default();
        let (before, state) = from.unwrap_or((&blank, &nothing));
        let key = key(id);
        let whole = state
            .records
            .whole(&self.rules, (before, session), &notes_key(key.as_bytes()))
            .map_err(unwritable)?;
        if let Some(values) = whole.values {
            match self.values.create(&key, values, ttl).await? {
                store::Created::Stored(_) => {}
                store::Created::Exists => return Ok(Created::Exists),
            }
        }
        if let Some(notifications) = whole.notifications {
            match self.side().create(&key, notifications, ttl).await? {
                store::Created::Stored(_) => {}
                store::Created::Exists => return Ok(Created::Exists),
            }
        }
        if let Notes::Write(notes) = whole.notes {
            // They can't be there yet, and if they are, the dictionaries count.
            let _created = self.side().create(&side_key(id), notes, ttl).await?;
        }
        Ok(Created::Stored)
    }

    pub(super) async fn replace(
        &self,
        id: &SessionId,
        before: &Session,
        state: &State,
        session: &Session,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        self.check_writable()?;
        let change = state
            .records
            .change(
                &self.rules,
                (before, session),
                &notes_key(key(id).as_bytes()),
                state.notes.is_some(),
            )
            .map_err(unwritable)?;
        self.write_change(id, state, session, change, ttl).await
    }

    pub(super) async fn create_again(
        &self,
        id: &SessionId,
        state: &State,
        session: &Session,
        (before, from): (&Session, &State),
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        self.check_writable()?;
        let whole = from
            .records
            .whole(
                &self.rules,
                (before, session),
                &notes_key(key(id).as_bytes()),
            )
            .map_err(unwritable)?;
        self.write_change(id, state, session, whole, ttl).await
    }

    /// Writes what changes, over the versions of what was read.
    async fn write_change(
        &self,
        id: &SessionId,
        state: &State,
        session: &Session,
        change: Change,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        let key = key(id);
        let mut now = state.clone();
        let follows = change.values.is_some() || change.notifications.is_some();
        if let Some(blob) = change.values {
            match write(&self.values, &key, state.values.as_ref(), blob, ttl).await? {
                store::Replaced::Stored(version) => now.values = Some(version),
                store::Replaced::Stale => return Ok(Replaced::Stale),
                store::Replaced::Gone => return Ok(Replaced::Gone),
            }
            if state.values.is_none() && !self.is_there(id, state).await? {
                self.values.delete(&key).await?;
                return Ok(Replaced::Gone);
            }
        }
        if let Some(blob) = change.notifications {
            let version = state.notifications.as_ref();
            match write(self.side(), &key, version, blob, ttl).await? {
                store::Replaced::Stored(version) => now.notifications = Some(version),
                // Expired or taken by the library, while the session goes on.
                store::Replaced::Gone | store::Replaced::Stale => return Ok(Replaced::Stale),
            }
            if state.notifications.is_none() && !self.is_there(id, state).await? {
                self.side().delete(&key).await?;
                return Ok(Replaced::Gone);
            }
        }
        let noted = match change.notes {
            Notes::Keep => Ok(Some(store::Replaced::Gone)),
            Notes::Write(notes) => {
                let version = state.notes.as_ref();
                write(self.side(), &side_key(id), version, notes, ttl)
                    .await
                    .map(Some)
            }
            Notes::Delete => self.side().delete(&side_key(id)).await.map(|()| None),
        };
        match noted {
            Ok(Some(store::Replaced::Stored(version))) => now.notes = Some(version),
            Ok(Some(store::Replaced::Stale)) if !follows => return Ok(Replaced::Stale),
            Ok(_) => {}
            Err(error) if !follows => return Err(error),
            Err(error) => tracing::debug!(%error, "notes on notifications were not written"),
        }
        Ok(Replaced::Stored(kept(session.clone(), now)))
    }

    pub(super) async fn holds(
        &self,
        id: &SessionId,
        session: &Session,
    ) -> Result<bool, StoreError> {
        let found = self
            .load(id, usize::MAX, session.created, Freshness::Fresh)
            .await?;
        Ok(match found {
            Found::Session(kept) => super::is_same(&kept.session, session),
            Found::Missing | Found::Moved(_) | Found::Old(_) => false,
        })
    }

    pub(super) async fn end(&self, id: &SessionId, state: &State) -> Result<Ended, StoreError> {
        self.check_writable()?;
        let key = key(id);
        let removed = match (&state.values, &state.notifications) {
            (Some(version), _) => self.values.remove(&key, version).await?,
            (None, Some(version)) => self.side().remove(&key, version).await?,
            (None, None) => store::Replaced::Gone,
        };
        match removed {
            store::Replaced::Stored(_) => {}
            store::Replaced::Stale => return Ok(Ended::Stale),
            store::Replaced::Gone => return Ok(Ended::Gone),
        }
        self.delete(id).await?;
        Ok(Ended::Done)
    }

    pub(super) async fn delete(&self, id: &SessionId) -> Result<(), StoreError> {
        self.check_writable()?;
        let key = key(id);
        self.values.delete(&key).await?;
        if let Some(notifications) = &self.notifications {
            notifications.delete(&key).await?;
        }
        self.side().delete(&side_key(id)).await
    }

    /// Whether notifications have a database of their own.
    pub(super) fn has_own_record(&self) -> bool {
        self.notifications.is_some()
    }

    /// Where notifications and notes are.
    fn side(&self) -> &Store {
        self.notifications.as_ref().unwrap_or(&self.values)
    }

    /// Whether the session's other record, which was there when it was loaded, still is: a record
    /// that is new beside it must not bring back a session that has ended meanwhile.
    async fn is_there(&self, id: &SessionId, state: &State) -> Result<bool, StoreError> {
        let other = if state.values.is_some() {
            &self.values
        } else if state.notifications.is_some() {
            self.side()
        } else {
            // There was none at all: nothing was loaded that could have ended.
            return Ok(true);
        };
        Ok(other.load(&key(id), Freshness::Fresh).await?.is_some())
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        if self.writable {
            Ok(())
        } else {
            Err(StoreError::Unfit(
                "sessions can't be changed: storage.writable = false".into(),
            ))
        }
    }
}

/// Replaces a record that was there, or creates one that was not.
async fn write(
    store: &Store,
    key: &Key,
    version: Option<&Version>,
    blob: Bytes,
    ttl: Duration,
) -> Result<store::Replaced, StoreError> {
    match version {
        Some(version) => store.replace(key, version, blob, ttl).await,
        None => Ok(match store.create(key, blob, ttl).await? {
            store::Created::Stored(version) => store::Replaced::Stored(version),
            store::Created::Exists => store::Replaced::Stale,
        }),
    }
}

fn check_size(records: [&Option<Record>; 2], limit: usize) -> Result<(), StoreError> {
    for record in records.into_iter().flatten() {
        let size = record.bytes.len();
        if size > limit {
            let error = FormatError::TooLarge { size, limit };
            return Err(StoreError::Corrupt(Box::new(error)));
        }
    }
    Ok(())
}

/// The library's key is the bare id.
pub(super) fn key(id: &SessionId) -> Key {
    Key::new("", &id.text()).expect("an id is 36 visible ASCII characters")
}

fn side_key(id: &SessionId) -> Key {
    Key::new("", &notes_key(&id.text())).expect("an id and a suffix are visible ASCII")
}

fn corrupt(error: PycketError) -> StoreError {
    StoreError::Corrupt(Box::new(error))
}

/// Why a change is refused: most often because of what the application asks for.
fn unwritable(error: PycketError) -> StoreError {
    match error {
        PycketError::Damaged(_) | PycketError::Notes(_) => corrupt(error),
        PycketError::Pickle { .. }
        | PycketError::ValueAsNotification { .. }
        | PycketError::UndeclaredNotification { .. } => StoreError::Unfit(Box::new(error)),
    }
}

fn kept(session: Session, state: State) -> Box<Kept> {
    Box::new(Kept {
        session,
        state: super::State::Pycket(Box::new(state)),
    })
}

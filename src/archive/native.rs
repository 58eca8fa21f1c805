//! The native layout: one record for each session.

use std::time::Duration;

use super::{Created, Ended, Found, Kept, Replaced};
use crate::format::{Stored, native};
use crate::session::{Session, SessionId};
use crate::store::{self, Freshness, Key, Store, StoreError, Version};

#[derive(Clone, Debug)]
pub(super) struct Native {
    pub(super) store: Store,
    /// What every key begins with.
    pub(super) prefix: String,
}

/// Which version of the record was seen.
#[derive(Clone, Debug)]
pub(super) struct State(Version);

impl Native {
    pub(super) fn new(store: Store, prefix: String) -> Self {
        Self { store, prefix }
    }

    pub(super) async fn load(
        &self,
        id: &SessionId,
        max_bytes: usize,
        freshness: Freshness,
    ) -> Result<Found, StoreError> {
        let key = self.key(id);
        let Some(record) = self.store.load(&key, freshness).await? else {
            return Ok(Found::Missing);
        };
        match native::decode(key.as_bytes(), &record.bytes, max_bytes) {
            Ok(Stored::Session(session)) => Ok(Found::Session(kept(session, record.version))),
            Ok(Stored::Moved(to)) => Ok(Found::Moved(to)),
            Err(error) => {
                if error.indicts_connection() {
                    self.store.distrust();
                }
                Err(StoreError::Corrupt(Box::new(error)))
            }
        }
    }

    pub(super) async fn create(
        &self,
        id: &SessionId,
        session: &Session,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let key = self.key(id);
        let record = native::encode(key.as_bytes(), session);
        Ok(match self.store.create(&key, record, ttl).await? {
            store::Created::Stored(_) => Created::Stored,
            store::Created::Exists => Created::Exists,
        })
    }

    pub(super) async fn replace(
        &self,
        id: &SessionId,
        State(version): &State,
        session: &Session,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        let key = self.key(id);
        let record = native::encode(key.as_bytes(), session);
        Ok(
            match self.store.replace(&key, version, record, ttl).await? {
                store::Replaced::Stored(version) => {
                    Replaced::Stored(kept(session.clone(), version))
                }
                store::Replaced::Stale => Replaced::Stale,
                store::Replaced::Gone => Replaced::Gone,
            },
        )
    }

    pub(super) async fn holds(
        &self,
        id: &SessionId,
        session: &Session,
    ) -> Result<bool, StoreError> {
        let key = self.key(id);
        let written = native::encode(key.as_bytes(), session);
        let record = self.store.load(&key, Freshness::Fresh).await?;
        Ok(record.is_some_and(|record| record.bytes == written))
    }

    pub(super) async fn end(
        &self,
        id: &SessionId,
        State(version): &State,
        successor: Option<(&SessionId, Duration)>,
    ) -> Result<Ended, StoreError> {
        let key = self.key(id);
        let ended = match successor {
            None => self.store.remove(&key, version).await?,
            Some((to, grace)) => {
                let pointer = native::encode_moved(key.as_bytes(), to);
                self.store.replace(&key, version, pointer, grace).await?
            }
        };
        Ok(match ended {
            store::Replaced::Stored(_) => Ended::Done,
            store::Replaced::Stale => Ended::Stale,
            store::Replaced::Gone => Ended::Gone,
        })
    }

    pub(super) async fn delete(&self, id: &SessionId) -> Result<(), StoreError> {
        self.store.delete(&self.key(id)).await
    }

    pub(super) fn key(&self, id: &SessionId) -> Key {
        Key::new(&self.prefix, &id.text())
            .expect("the configuration checks that prefix and id make a valid key")
    }
}

fn kept(session: Session, version: Version) -> Box<Kept> {
    Box::new(Kept {
        session,
        state: super::State::Native(State(version)),
    })
}

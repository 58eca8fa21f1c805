//! Sessions in a store: where each of them is, and how it is written.
//!
//! A store knows keys and bytes, a format knows bytes and sessions; here the two come together. An
//! [`Archive`] keeps whole sessions under their ids, by the promises of [`crate::store`]: a write
//! says whether it happened, acts only on what was loaded, and brings nothing back that is gone.
//! It knows nothing of HTTP, cookies or policies. When a session is written and what it then is, is
//! decided elsewhere.
//!
//! # Cancel safety
//!
//! As that of the store's verbs: a load leaves no trace; a write may or may not have happened, or
//! may still happen.

mod native;
mod pycket;
mod scan;

pub use scan::{Listed, Walk};

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{Format, Storage};
use crate::session::{Session, SessionId};
use crate::store::{MemoryStore, Store, StoreError};
use native::Native;
use pycket::Pycket;

/// One worker's sessions.
#[derive(Clone, Debug)]
pub struct Archive {
    layout: Layout,
    /// Where sessions were before: those that are not found here are looked for there.
    fallback: Option<Arc<Self>>,
}

/// How sessions are laid out.
#[derive(Clone, Debug)]
enum Layout {
    Native(Native),
    Pycket(Pycket),
}

/// What is kept under an id.
#[derive(Debug)]
pub enum Found {
    /// Nothing: it never was, has expired, or was evicted.
    Missing,
    /// A session.
    Session(Kept),
    /// The session goes on under another id.
    Moved(SessionId),
    /// A session that is still in the old place, as it is kept there: see [`Archive::move_over`].
    Old(Kept),
}

/// A session as it is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The session.
    pub session: Session,
    /// Which state of it was seen.
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Native(native::State),
    Pycket(Box<pycket::State>),
}

/// The outcome of [`Archive::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a write that did not happen must not pass as one that did"]
pub enum Created {
    /// It is kept.
    Stored,
    /// Something is kept under that id already; it is untouched.
    Exists,
}

/// The outcome of [`Archive::replace`].
#[derive(Debug)]
#[must_use = "a write that did not happen must not pass as one that did"]
pub enum Replaced {
    /// It is kept, as this.
    Stored(Box<Kept>),
    /// Someone else wrote in the meantime; this write changed nothing, or only a part that can be
    /// written again.
    Stale,
    /// Nothing is kept under that id any more; nothing has changed.
    Gone,
}

/// The outcome of [`Archive::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a write that did not happen must not pass as one that did"]
pub enum Ended {
    /// It is gone.
    Done,
    /// Someone else wrote in the meantime; nothing has changed.
    Stale,
    /// Nothing was kept under that id any more.
    Gone,
}

impl Archive {
    /// Opens the archive for one worker, on whose runtime its connections then live. `memory` is
    /// what all workers share when the engine is `memory`.
    ///
    /// # Errors
    ///
    /// As [`Store::connect`].
    pub async fn open(storage: &Storage, memory: &MemoryStore) -> Result<Self, StoreError> {
        let layout = match &storage.format {
            Format::Native => {
                let store = Store::connect(storage, memory).await?;
                Layout::Native(Native::new(store, storage.key_prefix.clone()))
            }
            Format::Pycket(format) => Layout::Pycket(Pycket::open(storage, format, memory).await?),
        };
        let fallback = match &storage.fallback {
            Some(old) => Some(Arc::new(Box::pin(Self::open(old, memory)).await?)),
            None => None,
        };
        Ok(Self { layout, fallback })
    }

    /// Loads what is kept under `id`, in one round trip. Records of more than `max_bytes` are
    /// errors. `now` stands in for the times that a format does not keep.
    ///
    /// # Errors
    ///
    /// [`StoreError`], also [`StoreError::Corrupt`] when what the store answered is no session.
    pub async fn load(
        &self,
        id: &SessionId,
        max_bytes: usize,
        now: Timestamp,
    ) -> Result<Found, StoreError> {
        let found = self.load_here(id, max_bytes, now).await?;
        let (Found::Missing, Some(old)) = (&found, &self.fallback) else {
            return Ok(found);
        };
        // It must be asked: a session that is there and can't be read is not absent.
        Ok(match Box::pin(old.load(id, max_bytes, now)).await? {
            Found::Session(kept) | Found::Old(kept) => Found::Old(kept),
            found @ Found::Moved(_) => found,
            // Another exchange may have moved it between the two looks.
            Found::Missing => self.load_here(id, max_bytes, now).await?,
        })
    }

    async fn load_here(
        &self,
        id: &SessionId,
        max_bytes: usize,
        now: Timestamp,
    ) -> Result<Found, StoreError> {
        match &self.layout {
            Layout::Native(native) => native.load(id, max_bytes).await,
            Layout::Pycket(pycket) => pycket.load(id, max_bytes, now).await,
        }
    }

    /// Takes a session over from the old place, for `ttl`. Somebody else may have done so in the
    /// meantime; whoever calls this loads anew.
    ///
    /// What this place can't keep stays in the old one; all else is deleted there.
    ///
    /// # Errors
    ///
    /// As [`Store::create`]. The session is in one of the places, or in both.
    pub async fn move_over(
        &self,
        id: &SessionId,
        old: &Kept,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let _kept = self.create(id, &old.session, Some(old), ttl).await?;
        let is_whole = matches!(&self.layout, Layout::Pycket(_)) || old.session.opaque.is_empty();
        match &self.fallback {
            Some(fallback) if is_whole => Box::pin(fallback.delete(id)).await,
            Some(_) => {
                let left = old.session.opaque.names.len();
                tracing::warn!(
                    left,
                    "a session has moved without the values that its new format can't keep; they stay in the old record"
                );
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Keeps a session under an id under which nothing is kept, for `ttl`. `from` is the session
    /// that it goes on from, when its id is renewed: a format may keep what a [`Session`] can't
    /// tell.
    ///
    /// # Errors
    ///
    /// As [`Store::create`].
    pub async fn create(
        &self,
        id: &SessionId,
        session: &Session,
        from: Option<&Kept>,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        match &self.layout {
            Layout::Native(native) => native.create(id, session, ttl).await,
            Layout::Pycket(pycket) => {
                let from = from.and_then(|kept| match &kept.state {
                    State::Pycket(state) => Some((&kept.session, state.as_ref())),
                    State::Native(_) => None,
                });
                pycket.create(id, session, from, ttl).await
            }
        }
    }

    /// Keeps `session` instead of what was loaded, for `ttl` from now.
    ///
    /// # Errors
    ///
    /// As [`Store::replace`].
    pub async fn replace(
        &self,
        id: &SessionId,
        kept: &Kept,
        session: &Session,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        match (&self.layout, &kept.state) {
            (Layout::Native(native), State::Native(state)) => {
                native.replace(id, state, session, ttl).await
            }
            (Layout::Pycket(pycket), State::Pycket(state)) => {
                pycket.replace(id, &kept.session, state, session, ttl).await
            }
            (Layout::Native(_), State::Pycket(_)) | (Layout::Pycket(_), State::Native(_)) => {
                Ok(Replaced::Stale)
            }
        }
    }

    /// Whether exactly this is kept: tells whether a write happened whose answer was lost.
    ///
    /// # Errors
    ///
    /// As [`Store::load`].
    pub async fn holds(&self, id: &SessionId, session: &Session) -> Result<bool, StoreError> {
        match &self.layout {
            Layout::Native(native) => native.holds(id, session).await,
            Layout::Pycket(pycket) => pycket.holds(id, session).await,
        }
    }

    /// Ends what was loaded, if nobody has changed it since. With a successor, its id leads to that
    /// one for as long as said; the Python library's format has no way to say so.
    ///
    /// # Errors
    ///
    /// As [`Store::remove`].
    pub async fn end(
        &self,
        id: &SessionId,
        kept: &Kept,
        successor: Option<(&SessionId, Duration)>,
    ) -> Result<Ended, StoreError> {
        let ended = match (&self.layout, &kept.state) {
            (Layout::Native(native), State::Native(state)) => {
                native.end(id, state, successor).await
            }
            (Layout::Pycket(pycket), State::Pycket(state)) => pycket.end(id, state).await,
            (Layout::Native(_), State::Pycket(_)) | (Layout::Pycket(_), State::Native(_)) => {
                Ok(Ended::Stale)
            }
        }?;
        self.forget(id).await?;
        Ok(ended)
    }

    /// Deletes what is left of a session in the old place, from which it would come back.
    async fn forget(&self, id: &SessionId) -> Result<(), StoreError> {
        match &self.fallback {
            Some(fallback) => Box::pin(fallback.delete(id)).await,
            None => Ok(()),
        }
    }

    /// Deletes whatever is kept under `id`; nothing is fine.
    ///
    /// # Errors
    ///
    /// As [`Store::delete`]. Repeating it is always safe.
    pub async fn delete(&self, id: &SessionId) -> Result<(), StoreError> {
        match &self.layout {
            Layout::Native(native) => native.delete(id).await,
            Layout::Pycket(pycket) => pycket.delete(id).await,
        }?;
        self.forget(id).await
    }
}

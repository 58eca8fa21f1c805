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

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{Format, Storage};
use crate::session::{Session, SessionId};
use crate::store::Freshness::{self, Fresh};
use crate::store::{Shared, Store, StoreError};
use native::Native;
use pycket::Pycket;

/// One worker's sessions.
#[derive(Clone, Debug)]
pub struct Archive {
    layout: Layout,
    /// Where sessions were before: those that are not found here are looked for there.
    fallback: Option<Arc<Self>>,
    /// Whether they then move here.
    moves: bool,
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
    /// A session. Boxed, because it is handed on through many hands.
    Session(Box<Kept>),
    /// The session goes on under another id.
    Moved(SessionId),
    /// A session that is to move here from the old place: see [`Archive::move_over`]. One that stays
    /// there is a [`Found::Session`].
    Old(Box<Kept>),
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
    /// In the old place, where the session stays: because it could not be kept here as a whole, or
    /// because it is so configured.
    Old(Box<Self>),
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
    /// Opens the archive for one worker, on whose runtime its connections then live. `shared` is
    /// what all workers share.
    ///
    /// # Errors
    ///
    /// As [`Store::connect`].
    pub async fn open(storage: &Storage, shared: &Shared) -> Result<Self, StoreError> {
        let layout = match &storage.format {
            Format::Native => {
                let store = Store::connect(storage, shared).await?;
                Layout::Native(Native::new(store, storage.key_prefix.clone()))
            }
            Format::Pycket(format) => Layout::Pycket(Pycket::open(storage, format, shared).await?),
        };
        let fallback = match &storage.fallback {
            Some(old) => Some(Arc::new(Box::pin(Self::open(&old.storage, shared)).await?)),
            None => None,
        };
        let moves = storage.fallback.as_ref().is_some_and(|old| old.moves);
        Ok(Self {
            layout,
            fallback,
            moves,
        })
    }

    /// Whether a session that is no longer where it was may be in another place now.
    pub fn has_two_places(&self) -> bool {
        self.fallback.is_some()
    }

    /// Whether sessions can be changed: with the Python library's format the settings may say no.
    pub fn is_writable(&self) -> bool {
        match &self.layout {
            Layout::Native(_) => true,
            Layout::Pycket(pycket) => pycket.is_writable(),
        }
    }

    /// Loads what is kept under `id`, in one round trip; where it is looked for in the old place,
    /// in another one. Records of more than `max_bytes` are errors. `now` stands in for the times
    /// that a format does not keep. What comes from the near cache takes no round trip.
    ///
    /// # Errors
    ///
    /// [`StoreError`], also [`StoreError::Corrupt`] when what the store answered is no session.
    pub async fn load(
        &self,
        id: &SessionId,
        max_bytes: usize,
        now: Timestamp,
        freshness: Freshness,
    ) -> Result<Found, StoreError> {
        let found = self.load_here(id, max_bytes, now, freshness).await?;
        match (&found, &self.fallback) {
            (Found::Missing, Some(fallback)) => {
                Box::pin(self.load_old(id, max_bytes, now, fallback)).await
            }
            _ => Ok(found),
        }
    }

    /// Loads what is kept under `id` in the old place.
    async fn load_old(
        &self,
        id: &SessionId,
        max_bytes: usize,
        now: Timestamp,
        fallback: &Self,
    ) -> Result<Found, StoreError> {
        // It must be asked: a session that is there and can't be read is not absent.
        match fallback.load_here(id, max_bytes, now, Fresh).await? {
            Found::Session(kept) if self.takes(fallback, &kept.session, &kept) => {
                Ok(Found::Old(kept))
            }
            Found::Session(kept) | Found::Old(kept) => Ok(Found::Session(staying(kept))),
            Found::Moved(to) => Ok(Found::Moved(to)),
            // Another exchange may have moved it between the two looks.
            Found::Missing => self.load_here(id, max_bytes, now, Fresh).await,
        }
    }

    async fn load_here(
        &self,
        id: &SessionId,
        max_bytes: usize,
        now: Timestamp,
        freshness: Freshness,
    ) -> Result<Found, StoreError> {
        match &self.layout {
            Layout::Native(native) => native.load(id, max_bytes, freshness).await,
            // Boxed, so that the other one is not larger for it.
            Layout::Pycket(pycket) => Box::pin(pycket.load(id, max_bytes, now, freshness)).await,
        }
    }

    /// Whether `session`, which goes on from what is kept in the old place, belongs here.
    fn takes(&self, fallback: &Self, session: &Session, from: &Kept) -> bool {
        self.moves && self.can_keep(fallback, session, from)
    }

    /// Whether nothing of `session`, which goes on from what is kept in `source`, is lost when it is
    /// kept here. (The lifetime and the kind of cookie that an application chose do not count.)
    fn can_keep(&self, source: &Self, session: &Session, from: &Kept) -> bool {
        if self.keeps_all_of(source) {
            return true;
        }
        let fits = |names: &BTreeSet<String>| {
            let notifications = session.notifications.entries();
            let values = session.values.to_map().unwrap_or_default();
            let is_value = |name: &String| {
                values.contains_key(name) || session.opaque.names.contains_key(name)
            };
            notifications
                .iter()
                .all(|entry| names.contains(&entry.name))
                && !names.iter().any(is_value)
        };
        (session.opaque.is_empty() || self.keeps_opaque(source))
            && source.hidden(from).is_empty()
            && self.declared().is_none_or(fits)
    }

    /// Moves a [`Found::Old`] session here, for `ttl`, unless it has been changed, ended or moved
    /// since. Which of these it is, the next [`load`](Self::load) tells.
    ///
    /// It is written here first, so that it is never nowhere. A proxy that dies in between leaves
    /// both; then what is here counts.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of either place.
    ///
    /// # Cancel safety
    ///
    /// None: it may be left in both places.
    pub async fn move_over(
        &self,
        id: &SessionId,
        old: &Kept,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let Some(fallback) = &self.fallback else {
            return Ok(());
        };
        let from = (fallback.as_ref(), old);
        match self.copy(id, &old.session, from, ttl).await? {
            Created::Stored => {}
            Created::Exists => return Ok(()),
        }
        match fallback.end_here(id, old, None).await {
            Ok(Ended::Done) => Ok(()),
            // Only an end can have taken it away from under this: of the session, or of its time.
            // A copy must not bring it back.
            Ok(Ended::Gone) => self.delete_here(id).await,
            Ok(Ended::Stale) => self.join(id, &old.session, fallback, ttl).await,
            Err(error) => {
                let now = old.session.created;
                match fallback.load_here(id, usize::MAX, now, Fresh).await {
                    Ok(Found::Missing) => Ok(()),
                    Ok(_) => self.join(id, &old.session, fallback, ttl).await,
                    Err(_) => Err(error),
                }
            }
        }
    }

    /// Ends in the old place a session that has been copied here as `base` and may have changed in
    /// both places since: what was done to it there is done here, too.
    async fn join(
        &self,
        id: &SessionId,
        base: &Session,
        fallback: &Self,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let mut base = base.clone();
        loop {
            let now = base.created;
            let Found::Session(old) = fallback.load_here(id, usize::MAX, now, Fresh).await? else {
                return self.delete_here(id).await;
            };
            let Found::Session(here) = self.load_here(id, usize::MAX, now, Fresh).await? else {
                // Its end here has not come to the old place yet.
                return Ok(());
            };
            let joined = here.session.joined(&base, &old.session);
            if joined != here.session {
                match self.replace(id, &here, &joined, ttl).await? {
                    Replaced::Stored(_) => {}
                    Replaced::Stale => continue,
                    Replaced::Gone => return Ok(()),
                }
            }
            match fallback.end_here(id, &old, None).await? {
                Ended::Done => return Ok(()),
                Ended::Gone => return self.delete_here(id).await,
                Ended::Stale => base = old.session,
            }
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
        if let Some((fallback, from)) = from.and_then(|kept| self.still_old(kept)) {
            let created = if self.takes(fallback, session, &from) {
                Box::pin(self.copy(id, session, (fallback, &from), ttl)).await
            } else {
                Box::pin(fallback.create(id, session, Some(&from), ttl)).await
            };
            return created;
        }
        match &self.layout {
            Layout::Native(native) => native.create(id, session, ttl).await,
            Layout::Pycket(pycket) => {
                let from = from.and_then(|kept| match &kept.state {
                    State::Pycket(state) => Some((&kept.session, state.as_ref())),
                    State::Native(_) | State::Old(_) => None,
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
        if let Some((fallback, kept)) = self.still_old(kept) {
            let replaced = Box::pin(fallback.replace(id, &kept, session, ttl)).await?;
            return Ok(match replaced {
                Replaced::Stored(kept) => Replaced::Stored(staying(kept)),
                Replaced::Stale | Replaced::Gone => replaced,
            });
        }
        match (&self.layout, &kept.state) {
            (Layout::Native(native), State::Native(state)) => {
                native.replace(id, state, session, ttl).await
            }
            (Layout::Pycket(pycket), State::Pycket(state)) => {
                pycket.replace(id, &kept.session, state, session, ttl).await
            }
            _ => Ok(Replaced::Stale),
        }
    }

    /// Keeps `session` instead of what an earlier try of [`create`](Self::create) has kept under the
    /// same id, with the same meaning of `from`.
    ///
    /// # Errors
    ///
    /// As [`Store::replace`].
    pub async fn create_again(
        &self,
        id: &SessionId,
        earlier: &Kept,
        session: &Session,
        from: Option<&Kept>,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        if let Some((fallback, earlier)) = self.still_old(earlier) {
            let from = from.and_then(|from| self.still_old(from));
            let from = from.as_ref().map(|(_, from)| from);
            let again = Box::pin(fallback.create_again(id, &earlier, session, from, ttl));
            return again.await;
        }
        if let Layout::Pycket(pycket) = &self.layout
            && let State::Pycket(state) = &earlier.state
            && let Some(from) = from
            && let State::Pycket(records) = &from.state
        {
            let from = (&from.session, records.as_ref());
            return pycket.create_again(id, state, session, from, ttl).await;
        }
        self.replace(id, earlier, session, ttl).await
    }

    /// Whether exactly this is kept: tells whether a write happened whose answer was lost.
    ///
    /// # Errors
    ///
    /// As [`Store::load`].
    pub async fn holds(&self, id: &SessionId, session: &Session) -> Result<bool, StoreError> {
        let held = match &self.layout {
            Layout::Native(native) => native.holds(id, session).await,
            Layout::Pycket(pycket) => pycket.holds(id, session).await,
        }?;
        match &self.fallback {
            Some(fallback) if !held => Box::pin(fallback.holds(id, session)).await,
            Some(_) | None => Ok(held),
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
        match self.still_old(kept) {
            Some((fallback, kept)) => fallback.end_here(id, &kept, successor).await,
            None => self.end_here(id, kept, successor).await,
        }
    }

    async fn end_here(
        &self,
        id: &SessionId,
        kept: &Kept,
        successor: Option<(&SessionId, Duration)>,
    ) -> Result<Ended, StoreError> {
        match (&self.layout, &kept.state) {
            (Layout::Native(native), State::Native(state)) => {
                native.end(id, state, successor).await
            }
            (Layout::Pycket(pycket), State::Pycket(state)) => pycket.end(id, state).await,
            _ => Ok(Ended::Stale),
        }
    }

    /// Deletes whatever is kept under `id`; nothing is fine.
    ///
    /// # Errors
    ///
    /// As [`Store::delete`]. Repeating it is always safe.
    pub async fn delete(&self, id: &SessionId) -> Result<(), StoreError> {
        // The old place first: from there it would come back.
        if let Some(fallback) = &self.fallback {
            fallback.delete_here(id).await?;
        }
        self.delete_here(id).await
    }

    async fn delete_here(&self, id: &SessionId) -> Result<(), StoreError> {
        match &self.layout {
            Layout::Native(native) => native.delete(id).await,
            Layout::Pycket(pycket) => pycket.delete(id).await,
        }
    }

    /// The old place and what is kept there, for a session that stays there.
    fn still_old(&self, kept: &Kept) -> Option<(&Self, Kept)> {
        match (&self.fallback, &kept.state) {
            (Some(fallback), State::Old(state)) => {
                let session = kept.session.clone();
                let state = State::clone(state);
                Some((fallback, Kept { session, state }))
            }
            _ => None,
        }
    }
}

/// What is kept in the old place, as one loads it from here.
fn staying(kept: Box<Kept>) -> Box<Kept> {
    let Kept { session, state } = *kept;
    let state = State::Old(Box::new(state));
    Box::new(Kept { session, state })
}

/// Whether two sessions are one, whatever a format has for its times.
fn is_same(one: &Session, other: &Session) -> bool {
    one.values == other.values
        && one.opaque == other.opaque
        && one.notifications == other.notifications
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::config::{self, Engine};
    use crate::session::{Json, Values};

    const ID: SessionId = SessionId::from_bytes([1; 16]);
    const TTL: Duration = Duration::from_mins(1);

    fn storage(prefix: &str, fallback: Option<Storage>) -> Storage {
        Storage {
            engine: Engine::Memory { max_bytes: 1 << 20 },
            format: Format::Native,
            key_prefix: prefix.to_owned(),
            timeout: TTL,
            connect_timeout: TTL,
            breaker_failures: 5,
            breaker_retry: TTL,
            fallback: fallback.map(|old| config::Fallback {
                storage: Box::new(old),
                moves: true,
            }),
        }
    }

    /// An archive with an old place, and that old place by itself.
    async fn places() -> (Archive, Archive) {
        let old = storage("old:", None);
        let both = storage("new:", Some(old.clone()));
        let shared = Shared::for_storage(&both);
        let archive = Archive::open(&both, &shared).await.unwrap();
        (archive, Archive::open(&old, &shared).await.unwrap())
    }

    fn session(user: &str) -> Session {
        let mut session = Session::begin(&ID, clock::now());
        session.values = Values::from_map(&[("user".to_owned(), Json::string(user))].into());
        session
    }

    async fn create(archive: &Archive, user: &str) {
        let created = archive.create(&ID, &session(user), None, TTL).await;
        assert_eq!(created.unwrap(), Created::Stored);
    }

    async fn change(archive: &Archive, user: &str) {
        let (Found::Session(kept) | Found::Old(kept)) = load(archive).await else {
            panic!("there is a session");
        };
        let replaced = archive.replace(&ID, &kept, &session(user), TTL).await;
        assert!(matches!(replaced.unwrap(), Replaced::Stored(_)));
    }

    async fn load(archive: &Archive) -> Found {
        archive
            .load(&ID, 1 << 20, clock::now(), Fresh)
            .await
            .unwrap()
    }

    async fn found_old(archive: &Archive) -> Box<Kept> {
        let found = load(archive).await;
        let Found::Old(kept) = found else {
            panic!("not in the old place: {found:?}");
        };
        kept
    }

    async fn assert_holds(archive: &Archive, user: &str) {
        let found = load(archive).await;
        let Found::Session(kept) = found else {
            panic!("no session: {found:?}");
        };
        assert_eq!(kept.session.values, session(user).values);
    }

    #[tokio::test]
    async fn a_session_that_has_moved_is_in_one_place() {
        let (archive, old_place) = places().await;
        create(&old_place, "alice").await;
        let old = found_old(&archive).await;
        archive.move_over(&ID, &old, TTL).await.unwrap();
        assert_holds(&archive, "alice").await;
        assert!(matches!(load(&old_place).await, Found::Missing));
    }

    #[tokio::test]
    async fn a_session_that_ends_while_it_moves_does_not_come_back() {
        let (archive, old_place) = places().await;
        create(&old_place, "alice").await;
        let old = found_old(&archive).await;
        archive.delete(&ID).await.unwrap();
        archive.move_over(&ID, &old, TTL).await.unwrap();
        assert!(matches!(load(&archive).await, Found::Missing));
    }

    #[tokio::test]
    async fn a_session_that_another_has_moved_is_left_as_it_is_now() {
        let (archive, old_place) = places().await;
        create(&old_place, "alice").await;
        let (first, second) = (found_old(&archive).await, found_old(&archive).await);
        archive.move_over(&ID, &first, TTL).await.unwrap();
        change(&archive, "bob").await;
        archive.move_over(&ID, &second, TTL).await.unwrap();
        assert_holds(&archive, "bob").await;
    }

    #[tokio::test]
    async fn what_changes_in_the_old_place_while_a_session_moves_comes_along() {
        let (archive, old_place) = places().await;
        create(&old_place, "alice").await;
        let old = found_old(&archive).await;
        change(&old_place, "bob").await;
        archive.move_over(&ID, &old, TTL).await.unwrap();
        assert_holds(&archive, "bob").await;
        assert!(matches!(load(&old_place).await, Found::Missing));
    }

    #[tokio::test]
    async fn what_changes_in_both_places_while_a_session_moves_is_there_in_the_end() {
        let (archive, old_place) = places().await;
        create(&old_place, "alice").await;
        let base = found_old(&archive).await.session;
        create(&archive, "alice").await;
        change(&archive, "bob").await;
        let Found::Session(there) = load(&old_place).await else {
            panic!("it is still there");
        };
        let mut session = there.session.clone();
        session.persist = Some(true);
        let replaced = old_place.replace(&ID, &there, &session, TTL).await;
        assert!(matches!(replaced.unwrap(), Replaced::Stored(_)));
        archive.join(&ID, &base, &old_place, TTL).await.unwrap();
        assert_holds(&archive, "bob").await;
        let Found::Session(kept) = load(&archive).await else {
            panic!("it is here");
        };
        assert_eq!(kept.session.persist, Some(true));
        assert!(matches!(load(&old_place).await, Found::Missing));
    }
}

//! All sessions of an archive, and what it takes to copy one into another.
//!
//! For commands that look through a store, and that move sessions from one to another; exchanges
//! need none of it. What they promise is what [`crate::store::Scan`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinSet;

use super::pycket::Pycket;
use super::{Archive, Created, Ended, Found, Kept, Layout, Replaced, State};
use crate::clock::Timestamp;
use crate::format::pycket::Place;
use crate::session::{Session, SessionId};
use crate::store::Freshness::Fresh;
use crate::store::{Left, Scan, StoreError};

/// How many keys are asked about at once: waiting for each answer would take most of the time.
const AT_ONCE: usize = 32;

/// A walk through all sessions.
#[derive(Debug)]
pub struct Walk<'a> {
    archive: &'a Archive,
    /// Which of the archive's stores is being listed.
    part: usize,
    scan: Scan,
}

/// Some sessions.
#[derive(Debug, Default)]
pub struct Listed {
    /// Their ids. A list can be empty without being the last.
    pub ids: Vec<SessionId>,
    /// How many keys were met that are none of a session.
    pub others: u64,
    /// Where the rest begins, for [`Archive::walk`]; `None` when this was all. It holds no id.
    pub next: Option<String>,
}

/// What a key is.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Session(SessionId),
    /// Of a session that has a key of its own.
    Notes,
    Other,
}

impl Archive {
    /// Begins to list all sessions, or goes on at the `next` of an earlier walk.
    ///
    /// # Errors
    ///
    /// As [`crate::store::Store::scan`].
    pub fn walk(&self, from: Option<&str>) -> Result<Walk<'_>, StoreError> {
        let parts = from.map(|from| from.split_once('/').unwrap_or((from, "")));
        let (part, from) = match parts {
            None => (0, None),
            Some((part, from)) => {
                let part = part.parse().ok().filter(|part| *part < self.parts());
                let part = part.ok_or_else(|| {
                    StoreError::Refused("no walk through these sessions stands there".into())
                })?;
                (part, Some(from).filter(|from| !from.is_empty()))
            }
        };
        Ok(Walk {
            archive: self,
            part,
            scan: self.scan(part, from)?,
        })
    }

    /// How long a session is still kept here if nobody touches it; `None` when it is not. It lives
    /// as long as the longest of its records.
    ///
    /// # Errors
    ///
    /// As [`crate::store::Store::left`].
    pub async fn left(&self, id: &SessionId) -> Result<Option<Left>, StoreError> {
        match &self.layout {
            Layout::Native(native) => native.store.left(&native.key(id)).await,
            Layout::Pycket(pycket) => {
                let key = super::pycket::key(id);
                let values = pycket.values.left(&key).await?;
                let notifications = match &pycket.notifications {
                    Some(store) => store.left(&key).await?,
                    None => None,
                };
                Ok(values.max(notifications))
            }
        }
    }

    /// The key under which the store has a session. It is as secret as its id.
    pub fn key(&self, id: &SessionId) -> String {
        let key = match &self.layout {
            Layout::Native(native) => native.key(id),
            Layout::Pycket(_) => super::pycket::key(id),
        };
        String::from_utf8_lossy(key.as_bytes()).into_owned()
    }

    /// The id of the session that the store has under a key.
    pub fn id_of(&self, key: &[u8]) -> Option<SessionId> {
        match self.name(key) {
            Name::Session(id) => Some(id),
            Name::Notes | Name::Other => None,
        }
    }

    /// What waits in a session that was loaded here and can't be told in JSON, by name and kind.
    pub fn hidden(&self, kept: &Kept) -> BTreeMap<String, &'static str> {
        match (&self.layout, &kept.state) {
            (Layout::Pycket(pycket), State::Pycket(state)) => {
                state.records.hidden(&pycket.rules.place)
            }
            _ => BTreeMap::new(),
        }
    }

    /// Whether everything in sessions of `source` can be kept here as it is: both have the Python
    /// library's records, with notifications in the same kind of place.
    pub fn keeps_all_of(&self, source: &Self) -> bool {
        let (Layout::Pycket(here), Layout::Pycket(there)) = (&self.layout, &source.layout) else {
            return false;
        };
        here.has_own_record() == there.has_own_record()
    }

    /// Whether values are kept here that JSON can't say.
    pub fn keeps_opaque(&self, source: &Self) -> bool {
        let both = (&self.layout, &source.layout);
        matches!(both, (Layout::Pycket(_), Layout::Pycket(_)))
    }

    /// Whether this is the Python library's format, which keeps no times.
    pub fn is_pycket(&self) -> bool {
        matches!(self.layout, Layout::Pycket(_))
    }

    /// The names that are notifications here, where only the name tells them from values.
    pub fn declared(&self) -> Option<&BTreeSet<String>> {
        match &self.layout {
            Layout::Pycket(pycket) => match &pycket.rules.place {
                Place::SameRecord(names) => Some(names),
                Place::OwnRecord => None,
            },
            Layout::Native(_) => None,
        }
    }

    /// Keeps here, for `ttl`, what is left of a session of `source` in `session`, if nothing is kept
    /// under that id.
    ///
    /// # Errors
    ///
    /// As [`Archive::create`].
    pub async fn copy(
        &self,
        id: &SessionId,
        session: &Session,
        (source, from): (&Self, &Kept),
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        match (&self.layout, &source.layout, &from.state) {
            (Layout::Pycket(here), Layout::Pycket(there), State::Pycket(state)) => {
                let mut state = state.as_ref().clone();
                let places = (&there.rules.place, &here.rules.place);
                let (records, before) = state.records.relaid(&from.session, places.0, places.1);
                state.records = records;
                let from = Some((&before, &state));
                here.create(id, session, from, ttl).await
            }
            _ => self.create(id, session, Some(from), ttl).await,
        }
    }

    /// Keeps that instead of `old`, which was loaded here; if somebody has changed it since, nothing
    /// happens. Where a record can only be written as a whole, a reader may find none in between.
    ///
    /// # Errors
    ///
    /// As [`Archive::replace`].
    pub async fn copy_over(
        &self,
        old: &Kept,
        id: &SessionId,
        session: &Session,
        (source, from): (&Self, &Kept),
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        if let Layout::Native(_) = &self.layout {
            let replaced = self.replace(id, old, session, ttl).await?;
            return Ok(matches!(replaced, Replaced::Stored(_)));
        }
        // What the source's pickles have beyond a session can't be edited into others.
        match self.end(id, old, None).await? {
            Ended::Done | Ended::Gone => {}
            Ended::Stale => return Ok(false),
        }
        let created = self.copy(id, session, (source, from), ttl).await?;
        Ok(created == Created::Stored)
    }

    /// Whether `kept`, which was loaded here, says all that `session` does, which was made of `from`.
    pub fn is_copy(&self, kept: &Kept, session: &Session, from: &Kept) -> bool {
        let here = &kept.session;
        let same = here.values == session.values
            && here.idle_timeout == session.idle_timeout
            && here.persist == session.persist
            && here.opaque == session.opaque
            && here.notifications.by_name() == session.notifications.by_name();
        // What can't be told can only be compared as bytes.
        let is_told = session.opaque.is_empty();
        let same_bytes = || match (&kept.state, &from.state) {
            (State::Pycket(here), State::Pycket(there)) => here.records.is_same(&there.records),
            _ => false,
        };
        same && (is_told || same_bytes())
    }

    /// Loads what is kept here, without a look at the fallback.
    ///
    /// # Errors
    ///
    /// As [`Archive::load`].
    pub async fn look(
        &self,
        id: &SessionId,
        max_bytes: usize,
        now: Timestamp,
    ) -> Result<Found, StoreError> {
        self.load_here(id, max_bytes, now, Fresh).await
    }

    fn parts(&self) -> usize {
        match &self.layout {
            Layout::Pycket(pycket) if pycket.has_own_record() => 2,
            Layout::Pycket(_) | Layout::Native(_) => 1,
        }
    }

    /// Notifications come first: a session that gets values while the walk is under way is then
    /// still before it.
    fn scan(&self, part: usize, from: Option<&str>) -> Result<Scan, StoreError> {
        match &self.layout {
            Layout::Native(native) => native.store.scan(&native.prefix, from),
            Layout::Pycket(pycket) => match &pycket.notifications {
                Some(notifications) if part == 0 => notifications.scan("", from),
                _ => pycket.values.scan("", from),
            },
        }
    }

    fn name(&self, key: &[u8]) -> Name {
        match &self.layout {
            Layout::Native(native) => {
                let suffix = key.strip_prefix(native.prefix.as_bytes());
                name(suffix.unwrap_or_default(), false)
            }
            Layout::Pycket(_) => name(key, true),
        }
    }
}

impl Walk<'_> {
    /// The next sessions: `count` or so.
    ///
    /// # Errors
    ///
    /// As [`Scan::page`].
    pub async fn list(&mut self, count: u32) -> Result<Listed, StoreError> {
        let page = self.scan.page(count).await?;
        let mut listed = Listed {
            others: page.others,
            ..Listed::default()
        };
        for key in page.keys {
            match self.archive.name(key.as_bytes()) {
                Name::Session(id) => listed.ids.push(id),
                Name::Notes => {}
                Name::Other => listed.others = listed.others.saturating_add(1),
            }
        }
        if let Layout::Pycket(pycket) = &self.archive.layout
            && pycket.has_own_record()
            && self.part == 0
        {
            listed.ids = without_values(pycket, listed.ids).await?;
        }
        listed.next = match page.next {
            Some(next) => Some(format!("{}/{next}", self.part)),
            None if self.part.saturating_add(1) < self.archive.parts() => {
                self.part = self.part.saturating_add(1);
                self.scan = self.archive.scan(self.part, None)?;
                Some(format!("{}/", self.part))
            }
            None => None,
        };
        Ok(listed)
    }
}

/// Those sessions that have notifications only: the others are met among the values.
async fn without_values(
    pycket: &Pycket,
    ids: Vec<SessionId>,
) -> Result<Vec<SessionId>, StoreError> {
    let mut bare = Vec::new();
    for some in ids.chunks(AT_ONCE) {
        let mut tasks = JoinSet::new();
        for id in some {
            let (store, id) = (pycket.values.clone(), id.clone());
            tasks.spawn(async move {
                let values = store.left(&super::pycket::key(&id)).await;
                values.map(|values| values.is_none().then_some(id))
            });
        }
        while let Some(ended) = tasks.join_next().await {
            let id = ended.map_err(|error| StoreError::Unavailable(Box::new(error)))??;
            bare.extend(id);
        }
    }
    Ok(bare)
}

fn name(suffix: &[u8], has_notes: bool) -> Name {
    if let Ok(id) = SessionId::parse(suffix) {
        return Name::Session(id);
    }
    let noted = suffix.strip_suffix(b":pycket").map(SessionId::parse);
    if has_notes && matches!(noted, Some(Ok(_))) {
        Name::Notes
    } else {
        Name::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_session_its_notes_or_somebody_elses() {
        const ID: &[u8] = b"2c7ae81f-0176-4076-bc2a-7efc4aeb7ac5";
        let id = SessionId::parse(ID).unwrap();
        assert_eq!(name(ID, false), Name::Session(id));
        let notes = [ID, b":pycket"].concat();
        assert_eq!(name(&notes, true), Name::Notes);
        assert_eq!(name(&notes, false), Name::Other);
        for other in [&b""[..], b"cache:1", b":pycket"] {
            assert_eq!(name(other, true), Name::Other, "{other:?}");
        }
    }
}

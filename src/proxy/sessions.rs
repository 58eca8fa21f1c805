//! Carries out what the plan says: loads, claims, and commits sessions.
//!
//! Decides nothing about sessions ([`crate::exchange`] does); what it knows is how a write that
//! meets another write, a lost reply or a store that is down comes to a definite end.

mod commit;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::tasks::Tasks;
use crate::archive::{Archive, Found, Kept, Replaced};
use crate::clock::{self, Timestamp};
use crate::config::RoutePolicy;
use crate::contract::Names;
use crate::contract::response::Signals;
use crate::exchange::{Carried, CookieChange, Refusal, Visit};
use crate::session::{Claim, Session, SessionId};
use crate::store::Freshness::{self, Fresh};
use crate::store::StoreError;
use crate::telemetry::access::WriteOutcome;
use crate::telemetry::chain;

/// The sessions of one worker.
#[derive(Debug)]
pub struct Sessions {
    archive: Archive,
    names: Names,
    tasks: Tasks,
}

/// A session with what is needed to write it back.
#[derive(Clone, Debug)]
pub struct Held {
    /// The id that it is kept under.
    pub id: SessionId,
    /// Whether it has just come over from the old place, so that its cookie is made anew.
    pub moved: bool,
    kept: Box<Kept>,
}

impl Held {
    /// The session, as it was loaded or last written.
    pub fn session(&self) -> &Session {
        &self.kept.session
    }
}

/// What is known of the session of an exchange that is under way.
#[derive(Clone, Debug)]
pub enum Presence {
    /// The browser presented no valid id.
    NotAsked,
    /// The id has no record.
    Missing,
    /// It is there.
    Found(Held),
    /// It was there and is gone.
    Gone,
    /// The store could not be read, and the route goes on without.
    Unavailable,
}

/// All that is needed to end an exchange's use of its session.
#[derive(Debug)]
pub struct Open {
    /// The session.
    pub presence: Presence,
    /// The notifications that the request carried.
    pub carried: Carried,
    /// Whether the browser sent a session cookie, valid or not.
    pub cookie_presented: bool,
    /// The session whose cookie the application sets by itself: what it asks for is meant for that
    /// one, whether or not it is there already.
    pub adopted: Option<SessionId>,
    /// The route's policy.
    pub policy: Arc<RoutePolicy>,
}

/// How an exchange ended, for its session.
#[derive(Debug)]
pub enum Ending {
    /// The application answered.
    Response {
        /// What it asked for.
        signals: Signals,
        /// Whether the answer uses up the notifications that the request carried.
        shown: bool,
        /// The path for which the notifications that it leaves wait.
        target: Option<String>,
    },
    /// It did not, or its answer can't go out.
    Failed,
}

/// The outcome of a commit.
#[derive(Debug)]
pub struct Committed {
    /// What was written.
    pub wrote: WriteOutcome,
    /// What to do to the browser's cookie.
    pub cookie: CookieChange,
    /// The id that the cookie is issued for.
    pub id: Option<SessionId>,
}

/// Why an exchange can't be committed. Nothing of it is stored, or, where the store's word is
/// missing, it is unknown whether it is.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The signals can't be carried out.
    #[error("the application's signals can't be carried out")]
    Refused(#[from] Refusal),
    /// The store can't do it.
    #[error("the session can't be written")]
    Store(#[from] StoreError),
}

impl Ending {
    /// Whether the application asks for anything.
    fn asks(&self) -> bool {
        match self {
            Self::Response { signals, .. } => *signals != Signals::default(),
            Self::Failed => false,
        }
    }
}

impl Presence {
    /// The session, if it is there.
    pub fn held(&self) -> Option<&Held> {
        match self {
            Self::Found(held) => Some(held),
            Self::NotAsked | Self::Missing | Self::Gone | Self::Unavailable => None,
        }
    }
}

impl Sessions {
    /// The sessions in `archive`. Writes that outlive their exchange count among `tasks`.
    pub fn new(archive: Archive, names: Names, tasks: Tasks) -> Self {
        Self {
            archive,
            names,
            tasks,
        }
    }

    /// What has to end before the worker may stop.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Loads the session of `id`: one round trip, or two where it has just moved, or none where the
    /// near cache will do. `None` when it has no record or is past its end at `now`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], also [`StoreError::Corrupt`] when what the store answered is no record of
    /// this session.
    ///
    /// # Cancel safety
    ///
    /// Nothing changes.
    pub async fn load(
        &self,
        id: &SessionId,
        policy: &RoutePolicy,
        now: Timestamp,
        freshness: Freshness,
    ) -> Result<Option<Held>, StoreError> {
        let mut id = id.clone();
        let mut moved_over = false;
        // A session that is renewed twice within the grace leads on to a third id.
        for _ in 0..4 {
            let limit = policy.session.limits.max_record_bytes;
            match self.archive.load(&id, limit, now, freshness).await? {
                Found::Session(kept) => {
                    let over = policy.session.lifetimes.is_over(&kept.session, now);
                    let moved = moved_over;
                    return Ok((!over).then_some(Held { id, moved, kept }));
                }
                Found::Old(kept) => {
                    let ttl = policy.session.lifetimes.time_to_live(&kept.session, now);
                    if ttl.is_zero() {
                        return Ok(None);
                    }
                    self.move_over(&id, kept, ttl).await?;
                    moved_over = true;
                }
                Found::Moved(to) => id = to,
                Found::Missing => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Moves a session over from its old place, and goes on with it when the exchange is cancelled.
    async fn move_over(
        &self,
        id: &SessionId,
        kept: Box<Kept>,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let running = self.tasks.begin();
        let (archive, id) = (self.archive.clone(), id.clone());
        let task = tokio::spawn(async move {
            let _running = running;
            archive.move_over(&id, &kept, ttl).await
        });
        task.await
            .map_err(|died| StoreError::Ambiguous(Box::new(died)))?
    }

    /// Claims the notifications that a request for `path` carries, and gives the session as it is
    /// then; `None` when the session is gone. Where nothing can be written, none is carried that
    /// would have to be claimed.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: nothing is carried, and what was claimed lapses by itself.
    ///
    /// # Cancel safety
    ///
    /// What was claimed stays claimed until its deadline, or until [`Self::give_back`].
    pub async fn claim(
        &self,
        held: Held,
        policy: &RoutePolicy,
        visit: Visit,
        path: &str,
        token: u64,
    ) -> Result<Option<(Held, Carried)>, StoreError> {
        let deadline = Instant::now() + policy.session.commit_timeout;
        let mut held = held;
        let mut tries = 0;
        loop {
            let now = clock::now();
            let waiting = &held.session().notifications;
            let rule = &policy.notifications;
            let carried = Carried::due(waiting, rule, &policy.contract, visit, path, token, now);
            if carried.claim.is_none() {
                return Ok(Some((held, carried)));
            }
            if !self.archive.is_writable() {
                // What can't be taken must not be shown: it would be shown again.
                return Ok(Some((held, Carried::default())));
            }
            let mut session = held.session().clone();
            let until = now.after(rule.claim_timeout);
            session
                .notifications
                .claim(&carried.entries, Claim { token, until });
            session.refreshed = now;
            match self.replace(&held, &session, policy, now).await {
                Ok(Replaced::Stored(kept)) => {
                    held.kept = kept;
                    return Ok(Some((held, carried)));
                }
                Ok(Replaced::Gone) => return Ok(None),
                Ok(Replaced::Stale) => {}
                // The claim may stand. Nobody else can have it then, so what was free before and
                // is not now is either ours or another's; both end by their deadline.
                Err(error) if tries == 0 && is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            tries += 1;
            if Instant::now() >= deadline {
                return Err(StoreError::TimedOut);
            }
            pause(tries).await;
            match self.load(&held.id, policy, clock::now(), Fresh).await? {
                None => return Ok(None),
                Some(newer) => held = newer,
            }
            let ours = held.session().notifications.held_by(token);
            if !ours.is_empty() {
                let claim = Some(token);
                let entries = ours;
                return Ok(Some((held, Carried { entries, claim })));
            }
        }
    }

    /// Frees what `token` holds of the session `id`, as when the client went away.
    pub async fn give_back(self: &Arc<Self>, id: &SessionId, token: u64, policy: Arc<RoutePolicy>) {
        let Ok(Some(held)) = self.load(id, &policy, clock::now(), Fresh).await else {
            return; // The claim lapses by itself.
        };
        let open = Open {
            presence: Presence::Found(held),
            carried: Carried {
                entries: Vec::new(),
                claim: Some(token),
            },
            cookie_presented: true,
            adopted: None,
            policy,
        };
        if let Err(error) = self.commit(open, Ending::Failed, clock::now()).await {
            tracing::debug!(
                error = chain(&error),
                "claimed notifications were not given back and wait for their deadline"
            );
        }
    }

    async fn replace(
        &self,
        held: &Held,
        session: &Session,
        policy: &RoutePolicy,
        now: Timestamp,
    ) -> Result<Replaced, StoreError> {
        let ttl = policy.session.lifetimes.time_to_live(session, now);
        if ttl.is_zero() {
            self.archive.delete(&held.id).await?;
            return Ok(Replaced::Gone);
        }
        self.archive
            .replace(&held.id, &held.kept, session, ttl)
            .await
    }
}

/// Whether the same may succeed when it is tried again shortly.
fn is_passing(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(_)
        | StoreError::TimedOut
        | StoreError::Ambiguous(_)
        | StoreError::Corrupt(_) => true,
        StoreError::Refused(_) | StoreError::Unfit(_) | StoreError::TooLarge { .. } => false,
    }
}

/// Waits before another try, the longer the more there were, by chance differently in each
/// exchange: those that lost against each other must not meet again.
async fn pause(tries: u32) {
    let most = 1u64 << tries.min(8);
    let chance = getrandom::u64().unwrap_or_default() % (most * 1000);
    tokio::time::sleep(Duration::from_micros(chance)).await;
}

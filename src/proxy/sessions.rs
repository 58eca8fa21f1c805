//! Carries out what the plan says: loads, claims, and commits sessions.
//!
//! Decides nothing about sessions ([`crate::exchange`] does); what it knows is how a write that
//! meets another write, a lost reply or a store that is down comes to a definite end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::tasks::Tasks;
use crate::clock::{self, Timestamp};
use crate::config::RoutePolicy;
use crate::contract::Names;
use crate::contract::response::Signals;
use crate::exchange::{
    Answer, Carried, CookieChange, Loaded, Plan, Refusal, Rules, Situation, Visit, Write, plan,
};
use crate::format::{self, Stored};
use crate::session::{Claim, Session, SessionId};
use crate::store::{BoxError, Created, Key, Replaced, Store, StoreError, Version};
use crate::telemetry::access::WriteOutcome;
use crate::telemetry::chain;

/// The sessions of one worker.
#[derive(Debug)]
pub struct Sessions {
    store: Store,
    key_prefix: String,
    names: Names,
    tasks: Tasks,
}

/// A session with what is needed to write it back.
#[derive(Clone, Debug)]
pub struct Held {
    /// The id of its record.
    pub id: SessionId,
    /// As it was loaded or last written.
    pub session: Session,
    key: Key,
    version: Version,
}

/// What is known of the session of an exchange that is under way.
#[derive(Clone, Debug)]
pub enum Presence {
    /// The browser presented no valid id.
    NotAsked,
    /// The id has no record.
    Missing,
    /// It is there.
    Found(Box<Held>),
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

/// What one try of a write came to.
enum Attempt {
    /// It is done.
    Done(WriteOutcome, Option<SessionId>),
    /// The record has changed meanwhile: look at it again.
    Changed,
    /// The record is gone meanwhile.
    Gone,
    /// Nothing is known to have happened; the same may be tried again.
    Again(StoreError),
}

/// State of a commit that lasts from one try to the next.
#[derive(Default)]
struct Progress {
    /// The id that a new record gets, so that a repeated creation finds its own.
    fresh: Option<SessionId>,
    /// The new record of a renewal that an earlier try has written.
    renewed: Option<Version>,
    tries: u32,
}

impl Sessions {
    /// The sessions in `store`, whose keys begin with `key_prefix`.
    /// Writes that outlive their exchange count among `tasks`.
    pub fn new(store: Store, key_prefix: String, names: Names, tasks: Tasks) -> Self {
        Self {
            store,
            key_prefix,
            names,
            tasks,
        }
    }

    /// What has to end before the worker may stop.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The store itself.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Loads the session of `id`: one round trip, or two where it has just moved. `None` when it
    /// has no record or is past its end.
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
    ) -> Result<Option<Held>, StoreError> {
        let mut id = id.clone();
        // A session that is renewed twice within the grace leads on to a third id.
        for _ in 0..4 {
            let key = self.key(&id);
            let Some(record) = self.store.load(&key).await? else {
                return Ok(None);
            };
            let limit = policy.session.limits.max_record_bytes;
            match format::native::decode(key.as_bytes(), &record.bytes, limit) {
                Ok(Stored::Session(session)) => {
                    let over = policy.session.lifetimes.is_over(&session, clock::now());
                    let version = record.version;
                    return Ok((!over).then_some(Held {
                        id,
                        session,
                        key,
                        version,
                    }));
                }
                Ok(Stored::Moved(to)) => id = to,
                Err(error) => {
                    if error.indicts_connection() {
                        self.store.distrust();
                    }
                    return Err(StoreError::Corrupt(Box::new(error)));
                }
            }
        }
        Ok(None)
    }

    /// Claims the notifications that a request for `path` carries, and gives the session as it is
    /// then; `None` when the session is gone.
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
            let waiting = &held.session.notifications;
            let rule = &policy.notifications;
            let carried = Carried::due(waiting, rule, &policy.contract, visit, path, token, now);
            if carried.claim.is_none() {
                return Ok(Some((held, carried)));
            }
            let mut session = held.session.clone();
            let until = now.after(rule.claim_timeout);
            session
                .notifications
                .claim(&carried.entries, Claim { token, until });
            session.refreshed = now;
            match self.replace(&held, &session, policy, now).await {
                Ok(Replaced::Stored(version)) => {
                    held.session = session;
                    held.version = version;
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
            match self.load(&held.id, policy).await? {
                None => return Ok(None),
                Some(newer) => held = newer,
            }
            let ours = held.session.notifications.held_by(token);
            if !ours.is_empty() {
                let claim = Some(token);
                let entries = ours;
                return Ok(Some((held, Carried { entries, claim })));
            }
        }
    }

    /// Ends an exchange's use of its session: plans, and writes what the plan says.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; the application's answer must not go out then.
    ///
    /// # Cancel safety
    ///
    /// A write that has begun goes on to its end by itself.
    pub async fn commit(
        self: &Arc<Self>,
        open: Open,
        ending: Ending,
    ) -> Result<Committed, CommitError> {
        let mut progress = Progress {
            fresh: None,
            renewed: None,
            tries: 0,
        };
        let first_entry = match &ending {
            Ending::Response { signals, .. } if !signals.patch.announce.is_empty() => {
                getrandom::u64().map_err(Refusal::from)?
            }
            Ending::Response { .. } | Ending::Failed => 0,
        };
        let first = self.plan(&open, &ending, first_entry, &mut progress)?;
        match first.write {
            Write::Nothing => Ok(Committed {
                wrote: WriteOutcome::Nothing,
                cookie: first.cookie,
                id: None,
            }),
            Write::Drop => Ok(Committed {
                wrote: WriteOutcome::Dropped,
                cookie: first.cookie,
                id: None,
            }),
            Write::Touch(session) => Ok(self.touch(&open, &session).await),
            Write::Create(..) | Write::Replace(_) | Write::Renew(..) | Write::Destroy => {
                let sessions = Arc::clone(self);
                let running = self.tasks.begin();
                let task = tokio::spawn(async move {
                    let _running = running;
                    sessions
                        .persist(open, &ending, first_entry, first, progress)
                        .await
                });
                task.await
                    .map_err(|died| StoreError::Ambiguous(Box::new(died)))?
            }
        }
    }

    /// Frees what `token` holds of the session `id`, as when the client went away.
    pub async fn give_back(self: &Arc<Self>, id: &SessionId, token: u64, policy: Arc<RoutePolicy>) {
        let Ok(Some(held)) = self.load(id, &policy).await else {
            return; // The claim lapses by itself.
        };
        let open = Open {
            presence: Presence::Found(Box::new(held)),
            carried: Carried {
                entries: Vec::new(),
                claim: Some(token),
            },
            cookie_presented: true,
            policy,
        };
        if let Err(error) = self.commit(open, Ending::Failed).await {
            tracing::debug!(
                error = chain(&error),
                "claimed notifications were not given back and wait for their deadline"
            );
        }
    }

    fn plan(
        &self,
        open: &Open,
        ending: &Ending,
        first_entry: u64,
        progress: &mut Progress,
    ) -> Result<Plan, Refusal> {
        let situation = Situation {
            cookie_presented: open.cookie_presented,
            loaded: match &open.presence {
                Presence::NotAsked => Loaded::NotAsked,
                Presence::Missing => Loaded::Missing,
                Presence::Found(held) => Loaded::Found(&held.session),
                Presence::Gone => Loaded::Gone,
                Presence::Unavailable => Loaded::Unavailable,
            },
            answer: match ending {
                Ending::Response {
                    signals,
                    shown,
                    target,
                } => Answer::Response {
                    signals,
                    shown: *shown,
                    target: target.as_deref(),
                },
                Ending::Failed => Answer::Failed,
            },
            carried: &open.carried,
            first_entry,
            now: clock::now(),
        };
        let rules = Rules {
            session: &open.policy.session,
            contract: &open.policy.contract,
            names: &self.names,
        };
        plan(&situation, &rules, || {
            let id = match progress.fresh.take() {
                Some(id) => id,
                None => SessionId::random()?,
            };
            Ok(progress.fresh.insert(id).clone())
        })
    }

    /// Prolongs a session, if that can be had at once: the answer does not depend on it.
    async fn touch(&self, open: &Open, session: &Session) -> Committed {
        let mut wrote = WriteOutcome::Nothing;
        if let Presence::Found(held) = &open.presence {
            match self
                .replace(held, session, &open.policy, session.refreshed)
                .await
            {
                Ok(Replaced::Stored(_)) => wrote = WriteOutcome::Touched,
                // Whoever wrote meanwhile has prolonged it, or ended it.
                Ok(Replaced::Stale | Replaced::Gone) => {}
                Err(error) => {
                    tracing::debug!(
                        error = chain(&error),
                        "a session was not prolonged"
                    );
                }
            }
        }
        Committed {
            wrote,
            cookie: CookieChange::Keep,
            id: None,
        }
    }

    /// Writes until there is a definite end, or `commit_timeout` has passed.
    async fn persist(
        &self,
        mut open: Open,
        ending: &Ending,
        first_entry: u64,
        first: Plan,
        mut progress: Progress,
    ) -> Result<Committed, CommitError> {
        let deadline = Instant::now() + open.policy.session.commit_timeout;
        let mut plan = first;
        loop {
            let error = match self.attempt(&open, &plan.write, &mut progress).await? {
                Attempt::Done(wrote, id) => {
                    let cookie = plan.cookie;
                    return Ok(Committed { wrote, cookie, id });
                }
                Attempt::Gone => {
                    self.abandon(&mut progress).await;
                    open.presence = Presence::Gone;
                    None
                }
                Attempt::Changed => None,
                Attempt::Again(error) => Some(error),
            };
            progress.tries += 1;
            if Instant::now() >= deadline {
                self.abandon(&mut progress).await;
                return Err(error.unwrap_or(StoreError::TimedOut).into());
            }
            if error.is_some() || progress.tries > 2 {
                pause(progress.tries).await;
            }
            if let Err(error) = self.look_again(&mut open).await {
                if Instant::now() >= deadline || !is_passing(&error) {
                    self.abandon(&mut progress).await;
                    return Err(error.into());
                }
                continue;
            }
            plan = self.plan(&open, ending, first_entry, &mut progress)?;
        }
    }

    /// Loads the session again that a write was meant for.
    async fn look_again(&self, open: &mut Open) -> Result<(), StoreError> {
        if let Presence::Found(held) = &open.presence {
            open.presence = match self.load(&held.id, &open.policy).await? {
                Some(held) => Presence::Found(Box::new(held)),
                None => Presence::Gone,
            };
        }
        Ok(())
    }

    /// Removes the new record of a renewal that can't be completed.
    async fn abandon(&self, progress: &mut Progress) {
        if let (Some(_), Some(id)) = (progress.renewed.take(), progress.fresh.take())
            && let Err(error) = self.store.delete(&self.key(&id)).await
        {
            tracing::debug!(
                error = chain(&error),
                "the record of a renewal that failed stays until it expires"
            );
        }
    }

    async fn attempt(
        &self,
        open: &Open,
        write: &Write,
        progress: &mut Progress,
    ) -> Result<Attempt, StoreError> {
        let held = match &open.presence {
            Presence::Found(held) => Some(held.as_ref()),
            Presence::NotAsked | Presence::Missing | Presence::Gone | Presence::Unavailable => None,
        };
        let tried = match (write, held) {
            (Write::Nothing | Write::Touch(_), _) => Ok(Attempt::Done(WriteOutcome::Nothing, None)),
            (Write::Drop, _) => Ok(Attempt::Done(WriteOutcome::Dropped, None)),
            (Write::Create(id, session), _) => self
                .create(id, session, &open.policy)
                .await
                .map(|_version| Attempt::Done(WriteOutcome::Created, Some(id.clone()))),
            (Write::Replace(session), Some(held)) => self.replace_held(held, session, open).await,
            (Write::Renew(id, session), Some(held)) => {
                self.renew(held, id, session, open, progress).await
            }
            (Write::Destroy, Some(held)) => self
                .store
                .delete(&held.key)
                .await
                .map(|()| Attempt::Done(WriteOutcome::Destroyed, None)),
            (Write::Replace(_) | Write::Renew(..) | Write::Destroy, None) => Ok(Attempt::Gone),
        };
        match tried {
            Ok(attempt) => Ok(attempt),
            Err(error) if is_passing(&error) => Ok(Attempt::Again(error)),
            Err(error) => Err(error),
        }
    }

    async fn replace_held(
        &self,
        held: &Held,
        session: &Session,
        open: &Open,
    ) -> Result<Attempt, StoreError> {
        let policy = &open.policy;
        let issued = || Attempt::Done(WriteOutcome::Replaced, Some(held.id.clone()));
        match self.replace(held, session, policy, session.refreshed).await {
            Ok(Replaced::Stored(_)) => Ok(issued()),
            Ok(Replaced::Stale) => Ok(Attempt::Changed),
            Ok(Replaced::Gone) => Ok(Attempt::Gone),
            // It may have been written. The record says.
            Err(StoreError::Ambiguous(source)) => {
                let written = format::native::encode(held.key.as_bytes(), session);
                match self.store.load(&held.key).await {
                    Ok(Some(record)) if record.bytes == written => Ok(issued()),
                    Ok(_) => Ok(Attempt::Changed),
                    Err(_) => Err(StoreError::Ambiguous(source)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Creates the new record, then ends the old one: a browser is never without a session.
    async fn renew(
        &self,
        held: &Held,
        id: &SessionId,
        session: &Session,
        open: &Open,
        progress: &mut Progress,
    ) -> Result<Attempt, StoreError> {
        let version = match progress.renewed.take() {
            None => self.create(id, session, &open.policy).await?,
            // The old record changed after the new one was made of it.
            Some(version) => {
                let made = Held {
                    id: id.clone(),
                    session: session.clone(),
                    key: self.key(id),
                    version,
                };
                match self
                    .replace(&made, session, &open.policy, session.refreshed)
                    .await?
                {
                    Replaced::Stored(version) => version,
                    Replaced::Stale | Replaced::Gone => {
                        self.create(id, session, &open.policy).await?
                    }
                }
            }
        };
        progress.renewed = Some(version);
        let grace = open.policy.session.renew_grace;
        let ended = if grace.is_zero() {
            self.store.remove(&held.key, &held.version).await
        } else {
            let pointer = format::native::encode_moved(held.key.as_bytes(), id);
            self.store
                .replace(&held.key, &held.version, pointer, grace)
                .await
        };
        match ended {
            Ok(Replaced::Stored(_)) => Ok(Attempt::Done(WriteOutcome::Renewed, Some(id.clone()))),
            Ok(Replaced::Stale) => Ok(Attempt::Changed),
            Ok(Replaced::Gone) => Ok(Attempt::Gone),
            // If the old record is not what it was, it was ended: only the id that this exchange
            // has drawn can have followed it.
            Err(StoreError::Ambiguous(source)) => match self.store.load(&held.key).await {
                Ok(None) => Ok(Attempt::Done(WriteOutcome::Renewed, Some(id.clone()))),
                Ok(Some(_)) => Ok(Attempt::Changed),
                Err(_) => Err(StoreError::Ambiguous(source)),
            },
            Err(error) => Err(error),
        }
    }

    /// Creates a record under an id that nobody else can have. One that is there already was
    /// written by an earlier try whose reply was lost.
    async fn create(
        &self,
        id: &SessionId,
        session: &Session,
        policy: &RoutePolicy,
    ) -> Result<Version, StoreError> {
        let key = self.key(id);
        let record = format::native::encode(key.as_bytes(), session);
        let ttl = policy
            .session
            .lifetimes
            .time_to_live(session, session.refreshed);
        match self.store.create(&key, record, ttl).await? {
            Created::Stored(version) => Ok(version),
            Created::Exists => match self.store.load(&key).await? {
                Some(record) => Ok(record.version),
                None => Err(StoreError::Unavailable(lost())),
            },
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
            self.store.delete(&held.key).await?;
            return Ok(Replaced::Gone);
        }
        let record = format::native::encode(held.key.as_bytes(), session);
        self.store
            .replace(&held.key, &held.version, record, ttl)
            .await
    }

    fn key(&self, id: &SessionId) -> Key {
        Key::new(&self.key_prefix, &id.text())
            .expect("the configuration checks that prefix and id make a valid key")
    }
}

/// Whether the same may succeed when it is tried again shortly.
fn is_passing(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(_)
        | StoreError::TimedOut
        | StoreError::Ambiguous(_)
        | StoreError::Corrupt(_) => true,
        StoreError::Refused(_) | StoreError::TooLarge { .. } => false,
    }
}

fn lost() -> BoxError {
    "a record vanished right after it was created".into()
}

/// Waits before another try, the longer the more there were, by chance differently in each
/// exchange: those that lost against each other must not meet again.
async fn pause(tries: u32) {
    let most = 1u64 << tries.min(6);
    let chance = getrandom::u64().unwrap_or_default() % (most * 1000);
    tokio::time::sleep(Duration::from_micros(chance)).await;
}

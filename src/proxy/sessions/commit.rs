//! Writes that come to a definite end: what happens between a plan and the word that it is stored.

use std::sync::Arc;

use tokio::time::Instant;

use super::{CommitError, Committed, Ending, Held, Open, Presence, Sessions, is_passing, pause};
use crate::clock;
use crate::config::RoutePolicy;
use crate::exchange::{Answer, CookieChange, Loaded, Plan, Refusal, Rules, Situation, Write, plan};
use crate::format;
use crate::session::{Session, SessionId};
use crate::store::{BoxError, Created, Replaced, StoreError, Version};
use crate::telemetry::access::WriteOutcome;
use crate::telemetry::chain;

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
            // Boxed, because it is rare and large.
            Write::Touch(session) => Ok(Box::pin(self.touch(&open, &session)).await),
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
                    tracing::debug!(error = chain(&error), "a session was not prolonged");
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
}

fn lost() -> BoxError {
    "a record vanished right after it was created".into()
}

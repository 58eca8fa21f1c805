//! Writes that come to a definite end: what happens between a plan and the word that it is stored.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::Either;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{CommitError, Committed, Ending, Held, Open, Presence, Sessions, is_passing, pause};
use crate::archive::{Created, Ended, Found, Replaced};
use crate::clock::{self, Timestamp};
use crate::config::RoutePolicy;
use crate::exchange::{Answer, CookieChange, Loaded, Plan, Refusal, Rules, Situation, Write, plan};
use crate::session::{Session, SessionId};
use crate::store::Freshness::Fresh;
use crate::store::{BoxError, StoreError};
use crate::telemetry::access::WriteOutcome;
use crate::telemetry::chain;

/// A commit that is under way, or done.
pub(in crate::proxy) type Commit = Either<
    Ready<Result<Committed, CommitError>>,
    Pin<Box<dyn Future<Output = Result<Committed, CommitError>> + Send>>,
>;

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
    /// Whether an earlier try of a renewal has written the new record.
    renewed: bool,
    tries: u32,
}

impl Sessions {
    /// Ends an exchange's use of its session at `now`: plans, and writes what the plan says.
    ///
    /// Most exchanges change nothing. So this is no `async fn`: what comes back is ready then, and no
    /// exchange has room for what only a write needs.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; the application's answer must not go out then.
    ///
    /// # Cancel safety
    ///
    /// A write that has begun goes on to its end by itself.
    pub fn commit(self: &Arc<Self>, mut open: Open, ending: Ending, now: Timestamp) -> Commit {
        if !ending.asks() {
            open.adopted = None;
        } else if open.adopted.is_some() {
            let sessions = Arc::clone(self);
            return Either::Right(Box::pin(async move {
                let mut progress = Progress::default();
                sessions.adopt(&mut open, &mut progress, now).await?;
                sessions.carry_out(open, ending, progress, now).await
            }));
        }
        self.carry_out(open, ending, Progress::default(), now)
    }

    /// Commits to the session that is `open`.
    fn carry_out(
        self: &Arc<Self>,
        open: Open,
        ending: Ending,
        mut progress: Progress,
        now: Timestamp,
    ) -> Commit {
        let (first, first_entry) = match self.first(&open, &ending, now, &mut progress) {
            Ok(first) => first,
            Err(refusal) => return Either::Left(ready(Err(refusal.into()))),
        };
        let nothing = |wrote| {
            let cookie = first.cookie;
            let id = None;
            Either::Left(ready(Ok(Committed { wrote, cookie, id })))
        };
        match first.write {
            Write::Nothing => nothing(WriteOutcome::Nothing),
            Write::Drop => nothing(WriteOutcome::Dropped),
            Write::Touch(session) => {
                let sessions = Arc::clone(self);
                Either::Right(Box::pin(async move {
                    Ok(sessions.touch(&open, &session).await)
                }))
            }
            Write::Create(..) | Write::Replace(_) | Write::Renew(..) | Write::Destroy => {
                let writing = self.spawn(open, ending, first_entry, first, progress);
                Either::Right(Box::pin(async move {
                    let written = writing.await;
                    written.map_err(|died| StoreError::Ambiguous(Box::new(died)))?
                }))
            }
        }
    }

    /// The plan, and the token of the first notification in it.
    fn first(
        &self,
        open: &Open,
        ending: &Ending,
        now: Timestamp,
        progress: &mut Progress,
    ) -> Result<(Plan, u64), Refusal> {
        let first_entry = match ending {
            Ending::Response { signals, .. } if !signals.patch.announce.is_empty() => {
                getrandom::u64()?
            }
            Ending::Response { .. } | Ending::Failed => 0,
        };
        let plan = self.plan(open, ending, first_entry, now, progress)?;
        Ok((plan, first_entry))
    }

    /// Writes in a task of its own.
    fn spawn(
        self: &Arc<Self>,
        open: Open,
        ending: Ending,
        first_entry: u64,
        first: Plan,
        progress: Progress,
    ) -> JoinHandle<Result<Committed, CommitError>> {
        let sessions = Arc::clone(self);
        let running = self.tasks.begin();
        // Boxed, since the runtime moves a task three times, and this one has kilobytes.
        tokio::spawn(Box::pin(async move {
            let _running = running;
            sessions
                .persist(open, &ending, first_entry, first, progress)
                .await
        }))
    }

    /// Turns to the session whose cookie the application has set.
    async fn adopt(
        &self,
        open: &mut Open,
        progress: &mut Progress,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(id) = &open.adopted else {
            return Ok(());
        };
        let is_other = open.presence.held().is_none_or(|held| held.id != *id);
        if is_other && !matches!(open.presence, Presence::Unavailable) {
            open.presence = match self.load(id, &open.policy, now, Fresh).await? {
                Some(held) => Presence::Found(held),
                None => Presence::NotAsked,
            };
            progress.fresh = Some(id.clone());
        }
        Ok(())
    }

    fn plan(
        &self,
        open: &Open,
        ending: &Ending,
        first_entry: u64,
        now: Timestamp,
        progress: &mut Progress,
    ) -> Result<Plan, Refusal> {
        let situation = Situation {
            cookie_presented: open.cookie_presented,
            loaded: match &open.presence {
                Presence::NotAsked => Loaded::NotAsked,
                Presence::Missing => Loaded::Missing,
                Presence::Found(held) => Loaded::Found(held.session()),
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
            now,
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
                    // Another copy of the proxy may have moved it to the other place.
                    let is_held = matches!(open.presence, Presence::Found(_));
                    if !(is_held && self.archive.has_two_places()) {
                        open.presence = Presence::Gone;
                    }
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
            plan = self.plan(&open, ending, first_entry, clock::now(), &mut progress)?;
        }
    }

    /// Loads the session again that a write was meant for.
    async fn look_again(&self, open: &mut Open) -> Result<(), StoreError> {
        if let Some(id) = &open.adopted {
            // It may have been begun meanwhile.
            open.presence = match self.load(id, &open.policy, clock::now(), Fresh).await? {
                Some(held) => Presence::Found(held),
                None => Presence::NotAsked,
            };
        } else if let Presence::Found(held) = &open.presence {
            open.presence = match self
                .load(&held.id, &open.policy, clock::now(), Fresh)
                .await?
            {
                Some(held) => Presence::Found(held),
                None => Presence::Gone,
            };
        }
        Ok(())
    }

    /// Removes the new record of a renewal that can't be completed.
    async fn abandon(&self, progress: &mut Progress) {
        if std::mem::take(&mut progress.renewed)
            && let Some(id) = progress.fresh.take()
            && let Err(error) = self.archive.delete(&id).await
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
            Presence::Found(held) => Some(held),
            Presence::NotAsked | Presence::Missing | Presence::Gone | Presence::Unavailable => None,
        };
        let tried = match (write, held) {
            (Write::Nothing | Write::Touch(_), _) => Ok(Attempt::Done(WriteOutcome::Nothing, None)),
            (Write::Drop, _) => Ok(Attempt::Done(WriteOutcome::Dropped, None)),
            (Write::Create(id, session), _) if open.adopted.as_ref() == Some(id) => {
                self.begin_adopted(id, session, &open.policy).await
            }
            (Write::Create(id, session), _) => self
                .write_new(id, session, None, &open.policy)
                .await
                .map(|()| Attempt::Done(WriteOutcome::Created, Some(id.clone()))),
            (Write::Replace(session), Some(held)) => self.replace_held(held, session, open).await,
            (Write::Renew(id, session), Some(held)) => {
                self.renew(held, id, session, open, progress).await
            }
            (Write::Destroy, Some(held)) => self
                .archive
                .delete(&held.id)
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

    /// Begins a session under an id that the application knows, too, and may have begun.
    async fn begin_adopted(
        &self,
        id: &SessionId,
        session: &Session,
        policy: &RoutePolicy,
    ) -> Result<Attempt, StoreError> {
        let now = session.refreshed;
        let ttl = policy.session.lifetimes.time_to_live(session, now);
        Ok(match self.archive.create(id, session, None, ttl).await? {
            Created::Stored => Attempt::Done(WriteOutcome::Created, Some(id.clone())),
            Created::Exists => Attempt::Changed,
        })
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
            Err(StoreError::Ambiguous(source)) => match self.archive.holds(&held.id, session).await
            {
                Ok(true) => Ok(issued()),
                Ok(false) => Ok(Attempt::Changed),
                Err(_) => Err(StoreError::Ambiguous(source)),
            },
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
        if held.id == *id {
            // The old id leads here already: an earlier try was done, and its reply lost.
            return Ok(Attempt::Done(WriteOutcome::Renewed, Some(id.clone())));
        }
        self.write_new(id, session, Some(held), &open.policy)
            .await?;
        progress.renewed = true;
        let grace = open.policy.session.renew_grace;
        let successor = (!grace.is_zero()).then_some((id, grace));
        match self.archive.end(&held.id, &held.kept, successor).await {
            Ok(Ended::Done) => Ok(Attempt::Done(WriteOutcome::Renewed, Some(id.clone()))),
            Ok(Ended::Stale) => Ok(Attempt::Changed),
            Ok(Ended::Gone) => Ok(Attempt::Gone),
            // If the old record is not what it was, it was ended: only the id that this exchange
            // has drawn can have followed it.
            Err(StoreError::Ambiguous(source)) => {
                let limit = open.policy.session.limits.max_record_bytes;
                match self
                    .archive
                    .load(&held.id, limit, clock::now(), Fresh)
                    .await
                {
                    Ok(Found::Missing) => {
                        Ok(Attempt::Done(WriteOutcome::Renewed, Some(id.clone())))
                    }
                    Ok(Found::Session(_) | Found::Moved(_) | Found::Old(_)) => Ok(Attempt::Changed),
                    Err(_) => Err(StoreError::Ambiguous(source)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the record of an id that only this exchange knows. What is there already was written
    /// by an earlier try, of a session that may have changed since.
    async fn write_new(
        &self,
        id: &SessionId,
        session: &Session,
        from: Option<&Held>,
        policy: &RoutePolicy,
    ) -> Result<(), StoreError> {
        let now = session.refreshed;
        let ttl = policy.session.lifetimes.time_to_live(session, now);
        let from = from.map(|held| &*held.kept);
        match self.archive.create(id, session, from, ttl).await? {
            Created::Stored => return Ok(()),
            Created::Exists => {}
        }
        let limit = policy.session.limits.max_record_bytes;
        let Found::Session(earlier) = self.archive.load(id, limit, now, Fresh).await? else {
            return Err(StoreError::Unavailable(lost()));
        };
        match self
            .archive
            .create_again(id, &earlier, session, from, ttl)
            .await?
        {
            Replaced::Stored(_) => Ok(()),
            Replaced::Stale | Replaced::Gone => Err(StoreError::Unavailable(lost())),
        }
    }
}

fn lost() -> BoxError {
    "a new record did not stay as it was written".into()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::archive::Archive;
    use crate::config::{self, Config, Flags, Sources};
    use crate::exchange::Carried;
    use crate::proxy::tasks::Tasks;
    use crate::session::Json;
    use crate::store::Shared;

    const OLD: SessionId = SessionId::from_bytes([1; 16]);
    const NEW: SessionId = SessionId::from_bytes([2; 16]);

    fn configuration() -> Config {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let sources = Sources {
            file: None,
            environment: vec![
                set("PYCKET_SECRET", "0123456789abcdef0123456789abcdef"),
                set("PYCKET_SESSION_RENEW_GRACE", "30s"),
            ],
            flags: Flags::default(),
            processors: NonZeroUsize::MIN,
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        };
        config::load(sources).unwrap().0
    }

    async fn sessions() -> (Sessions, Arc<RoutePolicy>) {
        let config = configuration();
        let shared = Shared::for_storage(&config.storage);
        let archive = Archive::open(&config.storage, &shared).await.unwrap();
        let policy = config.routes[0].session.clone().unwrap();
        let sessions = Sessions::new(archive, config.names, Tasks::default());
        (sessions, Arc::new(policy))
    }

    fn session(user: &str) -> Session {
        let mut session = Session::begin(&OLD, clock::now());
        let values = [("user".to_owned(), Json::string(user))];
        session.values = crate::session::Values::from_map(&values.into());
        session
    }

    async fn renew(sessions: &Sessions, policy: &Arc<RoutePolicy>, user: &str) -> Attempt {
        let held = sessions
            .load(&OLD, policy, clock::now(), Fresh)
            .await
            .unwrap()
            .unwrap();
        let open = Open {
            presence: Presence::Found(held),
            carried: Carried::default(),
            cookie_presented: true,
            adopted: None,
            policy: Arc::clone(policy),
        };
        let write = Write::Renew(NEW, Box::new(session(user)));
        let mut progress = Progress::default();
        sessions
            .attempt(&open, &write, &mut progress)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_renewal_that_was_done_and_not_heard_of_is_not_done_again() {
        let (sessions, policy) = sessions().await;
        sessions
            .write_new(&OLD, &session("alice"), None, &policy)
            .await
            .unwrap();
        for _ in 0..2 {
            let attempt = renew(&sessions, &policy, "alice").await;
            assert!(matches!(attempt, Attempt::Done(WriteOutcome::Renewed, Some(id)) if id == NEW));
            let found = sessions
                .load(&NEW, &policy, clock::now(), Fresh)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(found.session().values, session("alice").values);
        }
    }

    #[tokio::test]
    async fn what_changed_after_an_unheard_creation_is_in_the_new_record() {
        let (sessions, policy) = sessions().await;
        sessions
            .write_new(&OLD, &session("bob"), None, &policy)
            .await
            .unwrap();
        // An earlier try wrote this, before "bob" was stored; its reply was lost.
        sessions
            .write_new(&NEW, &session("alice"), None, &policy)
            .await
            .unwrap();
        renew(&sessions, &policy, "bob").await;
        let found = sessions
            .load(&NEW, &policy, clock::now(), Fresh)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.session().values, session("bob").values);
    }
}

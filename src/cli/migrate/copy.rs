//! Copies one session, whatever happens to it meanwhile.
//!
//! What is at the target counts more than what is at the source: a session that is there was copied
//! earlier, or a proxy has moved it and goes on with it. So it is created only if absent. At the
//! source it is deleted by compare and swap; if it has changed since it was read, it is copied anew
//! over the copy that was made a moment ago, as long as nobody has changed that one either.
//!
//! The rule is the one that proxies go by ([`Archive::move_over`]): only who has created the session
//! at the target may delete it at the source. Where it is gone from there by then, it has ended, and
//! the copy is taken back. A session that was at the target before is therefore left at the source
//! for [`Copier::grace`]: a proxy may be about to delete it. What is there after that was left by a
//! run that was broken off, or by a proxy that died.

use std::collections::BTreeSet;
use std::time::Duration;

use super::plan::{Loss, Plan, Target, plan};
use super::state::Options;
use super::tally::Outcome;
use crate::archive::{Archive, Created, Ended, Found, Kept, Listed, Walk};
use crate::cli::Failure;
use crate::cli::stores::Place;
use crate::clock;
use crate::format::native;
use crate::session::{PublicId, Session, SessionId};
use crate::store::StoreError;
use crate::telemetry::chain;

/// How often a session is copied anew that changes under our hands.
const ATTEMPTS: u32 = 50;

/// How often a store is asked again that does not answer, with twice the pause each time: about ten
/// seconds in all.
const PATIENCE: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(80);

/// All that is needed to copy sessions.
pub(super) struct Copier {
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) target: Target,
    pub(super) options: Options,
    pub(super) dry_run: bool,
    pub(super) max_record_bytes: usize,
    /// How long a proxy may take from creating a session at the target to deleting it at the source.
    pub(super) grace: Duration,
}

/// What became of a session.
pub(super) struct Copied {
    pub(super) session: SessionId,
    pub(super) id: PublicId,
    pub(super) outcome: Outcome,
    pub(super) losses: BTreeSet<Loss>,
    /// Whether it has to be looked at again after [`Copier::grace`].
    pub(super) is_open: bool,
    /// The session as it was read last.
    kept: Option<Box<Kept>>,
}

/// What an operation on a session came to: its end, or that it has to be done anew.
enum Step {
    End(Outcome),
    Again,
    /// It is at the target.
    There(Outcome),
}

/// What was written at the target, and of what it was made.
struct Written {
    session: Session,
    from: Kept,
    overwrote: bool,
}

/// A store that fails, so that there is no use in going on.
#[derive(Debug)]
pub(super) enum Broken {
    Source(StoreError),
    Target(StoreError),
}

impl Broken {
    /// Names the place.
    pub(super) fn of(self, from: &Place, to: &Place) -> Failure {
        match self {
            Self::Source(error) => from.failed(error),
            Self::Target(error) => to.failed(error),
        }
    }
}

impl Copier {
    /// Copies a session. A store that does not answer is asked again for a while. `again` is whether
    /// the grace is over.
    pub(super) async fn copy(&self, id: &SessionId, again: bool) -> Result<Copied, Broken> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..PATIENCE {
            match self.try_copy(id, again).await {
                Err(_) => tokio::time::sleep(pause).await,
                done => return done,
            }
            pause = pause.saturating_mul(2);
        }
        self.try_copy(id, again).await
    }

    async fn try_copy(&self, id: &SessionId, again: bool) -> Result<Copied, Broken> {
        let mut copied = Copied {
            session: id.clone(),
            is_open: false,
            kept: None,
            id: id.public_id(),
            outcome: Outcome::Failed("it changes faster than it can be copied".to_owned()),
            losses: BTreeSet::new(),
        };
        let mut written = None;
        for _ in 0..ATTEMPTS {
            let step = self.step(id, &mut copied, &mut written).await?;
            let step = match step {
                Step::There(outcome) => self.finish(id, outcome, &mut copied, again).await?,
                Step::End(Outcome::Gone) => Step::End(self.gone(id, written.is_some()).await?),
                step @ (Step::End(_) | Step::Again) => step,
            };
            if let Step::End(outcome) = step {
                copied.outcome = outcome;
                break;
            }
        }
        Ok(copied)
    }

    async fn step(
        &self,
        id: &SessionId,
        copied: &mut Copied,
        written: &mut Option<Written>,
    ) -> Result<Step, Broken> {
        let now = clock::now();
        let source = &self.from.archive;
        let kept = match source.look(id, usize::MAX, now).await {
            Ok(Found::Session(kept) | Found::Old(kept)) => kept,
            Ok(Found::Moved(_)) => return Ok(Step::End(Outcome::OldId)),
            Ok(Found::Missing) => {
                // Redis says so, too, of what is no text, when several are asked for at once.
                if written.is_none() && source.left(id).await.map_err(Broken::Source)?.is_some() {
                    let why = "what is there is no record".to_owned();
                    copied.outcome = Outcome::Unreadable(why);
                    return Ok(Step::Again);
                }
                return Ok(Step::End(Outcome::Gone));
            }
            Err(error) if is_about_record(&error) => {
                return Ok(Step::End(Outcome::Unreadable(chain(&error))));
            }
            Err(error) => return Err(Broken::Source(error)),
        };
        copied.id = kept.session.public_id;
        let Some(left) = source.left(id).await.map_err(Broken::Source)? else {
            return Ok(Step::End(Outcome::Gone));
        };
        let hidden = source.hidden(&kept);
        let plan = plan(&kept.session, &hidden, left, &self.target, now);
        copied.losses.clone_from(&plan.losses);
        if plan.ttl.is_zero() {
            return Ok(Step::End(Outcome::Gone));
        }
        if !plan.losses.is_empty() && !self.options.lossy {
            return Ok(Step::End(Outcome::Lossy));
        }
        let (size, limit) = (native::encoded_len(&plan.session), self.max_record_bytes);
        if size > limit {
            return Ok(Step::End(Outcome::Failed(format!(
                "its record would have {size} bytes; session.max_record of the target allows {limit}"
            ))));
        }
        copied.kept = Some(kept.clone());
        if self.dry_run {
            self.rehearse(id, &plan, &kept).await
        } else {
            self.write(id, &plan, &kept, written).await
        }
    }

    /// Does the rest, when the session is at the target.
    async fn finish(
        &self,
        id: &SessionId,
        outcome: Outcome,
        copied: &mut Copied,
        again: bool,
    ) -> Result<Step, Broken> {
        let is_new = matches!(outcome, Outcome::Copied { .. });
        if self.dry_run {
            return Ok(Step::End(outcome));
        }
        if !self.options.delete_source {
            if is_new {
                let left = self.from.archive.left(id).await.map_err(Broken::Source)?;
                if left.is_none() {
                    return Ok(Step::End(self.take_back(id).await?));
                }
            }
            return Ok(Step::End(outcome));
        }
        if !is_new && !again {
            copied.is_open = true;
            return Ok(Step::End(outcome));
        }
        let Some(kept) = copied.kept.take() else {
            return Ok(Step::End(outcome));
        };
        self.delete(id, &kept, outcome).await
    }

    /// What a session that is no more at the source has come to.
    async fn gone(&self, id: &SessionId, is_written: bool) -> Result<Outcome, Broken> {
        if is_written {
            self.take_back(id).await
        } else {
            Ok(Outcome::Gone)
        }
    }

    /// Deletes the copy of a session that has ended meanwhile.
    async fn take_back(&self, id: &SessionId) -> Result<Outcome, Broken> {
        let deleted = self.to.archive.delete(id).await;
        deleted.map_err(Broken::Target)?;
        Ok(Outcome::Gone)
    }

    /// Puts the session at the target.
    async fn write(
        &self,
        id: &SessionId,
        plan: &Plan,
        kept: &Kept,
        written: &mut Option<Written>,
    ) -> Result<Step, Broken> {
        let (source, target) = (&self.from.archive, &self.to.archive);
        let mut note = |overwrote| {
            *written = Some(Written {
                session: plan.session.clone(),
                from: kept.clone(),
                overwrote,
            });
            Step::There(Outcome::Copied {
                overwrote,
                deleted: false,
            })
        };
        let created = target.copy(id, &plan.session, (source, kept), plan.ttl);
        match created.await {
            Ok(Created::Stored) => return Ok(note(false)),
            Ok(Created::Exists) => {}
            Err(error) => return refused(error),
        }
        let there = match self.at_target(id).await? {
            Ok(Some(there)) => there,
            Ok(None) => return Ok(Step::Again),
            Err(outcome) => return Ok(Step::End(outcome)),
        };
        if target.is_copy(&there, &plan.session, kept) {
            return Ok(Step::There(match written.as_ref() {
                Some(earlier) => copied(earlier),
                None => Outcome::Same { deleted: false },
            }));
        }
        let is_ours = written
            .as_ref()
            .is_some_and(|earlier| target.is_copy(&there, &earlier.session, &earlier.from));
        if !is_ours && !self.options.overwrite {
            return Ok(Step::End(Outcome::LeftAlone));
        }
        let overwrote = written.as_ref().is_none_or(|earlier| earlier.overwrote);
        let from = (source, kept);
        let done = target.copy_over(&there, id, &plan.session, from, plan.ttl);
        match done.await {
            Ok(true) => {
                *written = Some(Written {
                    session: plan.session.clone(),
                    from: kept.clone(),
                    overwrote,
                });
                Ok(Step::There(Outcome::Copied {
                    overwrote,
                    deleted: false,
                }))
            }
            Ok(false) => Ok(Step::Again),
            Err(error) => refused(error),
        }
    }

    /// What [`write`](Self::write) would do.
    async fn rehearse(&self, id: &SessionId, plan: &Plan, kept: &Kept) -> Result<Step, Broken> {
        let outcome = match self.at_target(id).await? {
            Ok(None) => Outcome::Copied {
                overwrote: false,
                deleted: false,
            },
            Ok(Some(there)) if self.to.archive.is_copy(&there, &plan.session, kept) => {
                Outcome::Same { deleted: false }
            }
            Ok(Some(_)) if self.options.overwrite => Outcome::Copied {
                overwrote: true,
                deleted: false,
            },
            Ok(Some(_)) => Outcome::LeftAlone,
            Err(outcome) => outcome,
        };
        Ok(Step::There(outcome))
    }

    /// The session that is at the target; or what that means when it is something else.
    async fn at_target(
        &self,
        id: &SessionId,
    ) -> Result<Result<Option<Box<Kept>>, Outcome>, Broken> {
        let found = self.to.archive.look(id, usize::MAX, clock::now()).await;
        Ok(match found {
            Ok(Found::Session(kept) | Found::Old(kept)) => Ok(Some(kept)),
            Ok(Found::Moved(_)) => Err(Outcome::LeftAlone),
            Ok(Found::Missing) => Ok(None),
            Err(error) if is_about_record(&error) => {
                let why = chain(&error);
                Err(Outcome::Failed(format!(
                    "what is at the target can't be read, and was left as it is: {why}"
                )))
            }
            Err(error) => return Err(Broken::Target(error)),
        })
    }

    /// Deletes the session at the source as it was read.
    async fn delete(&self, id: &SessionId, kept: &Kept, outcome: Outcome) -> Result<Step, Broken> {
        let is_deleted = match self.from.archive.end(id, kept, None).await {
            Ok(Ended::Done) => true,
            Ok(Ended::Gone) if matches!(outcome, Outcome::Copied { .. }) => {
                return Ok(Step::End(self.take_back(id).await?));
            }
            Ok(Ended::Gone) => false,
            Ok(Ended::Stale) => return Ok(Step::Again),
            Err(error) if is_about_record(&error) => {
                let why = chain(&error);
                return Ok(Step::End(Outcome::Failed(format!(
                    "it was copied and can't be deleted at the source: {why}"
                ))));
            }
            Err(error) => return Err(Broken::Source(error)),
        };
        Ok(Step::End(outcome.with_source(is_deleted)))
    }
}

fn copied(written: &Written) -> Outcome {
    Outcome::Copied {
        overwrote: written.overwrote,
        deleted: false,
    }
}

/// Whether an error is about one session, and the next one may do.
fn is_about_record(error: &StoreError) -> bool {
    match error {
        StoreError::Corrupt(_)
        | StoreError::Refused(_)
        | StoreError::Unfit(_)
        | StoreError::TooLarge { .. } => true,
        StoreError::Unavailable(_) | StoreError::TimedOut | StoreError::Ambiguous(_) => false,
    }
}

fn refused(error: StoreError) -> Result<Step, Broken> {
    if is_about_record(&error) {
        Ok(Step::End(Outcome::Failed(chain(&error))))
    } else {
        Err(Broken::Target(error))
    }
}

/// Finds out whether both are one place under two names: all that is copied would be deleted with
/// its source. A session that nobody knows is put at the target for a moment.
///
/// # Errors
///
/// Also when the target can't be written.
pub(super) async fn is_one_place(from: &Archive, to: &Archive) -> Result<bool, Broken> {
    let id =
        SessionId::random().map_err(|error| Broken::Target(StoreError::Refused(error.into())))?;
    let now = clock::now();
    let session = Session::begin(&id, now);
    let created = to.create(&id, &session, None, Duration::from_mins(1)).await;
    match created.map_err(Broken::Target)? {
        Created::Stored | Created::Exists => {}
    }
    let seen = from.look(&id, usize::MAX, now).await;
    to.delete(&id).await.map_err(Broken::Target)?;
    match seen {
        Ok(Found::Missing) => Ok(false),
        // In another format it makes no sense there, and it is the same key.
        Ok(_) | Err(StoreError::Corrupt(_)) => Ok(true),
        Err(error) => Err(Broken::Source(error)),
    }
}

/// Lists the sessions after `position`. A store that does not answer is asked again for a while.
pub(super) async fn list<'a>(
    archive: &'a Archive,
    walk: &mut Walk<'a>,
    position: Option<&str>,
    count: u32,
) -> Result<Listed, StoreError> {
    let mut pause = FIRST_PAUSE;
    for _ in 0..PATIENCE {
        match walk.list(count).await {
            Err(StoreError::Unavailable(_) | StoreError::TimedOut) => {
                tokio::time::sleep(pause).await;
            }
            done => return done,
        }
        pause = pause.saturating_mul(2);
        // What it had of the page is lost.
        *walk = archive.walk(position)?;
    }
    walk.list(count).await
}

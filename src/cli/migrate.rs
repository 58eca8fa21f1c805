//! `pycket migrate`: copies or moves all sessions from one store or format to another.
//!
//! Two configurations flow in, a report flows out. It can be run at any time, again, and while
//! proxies serve: see [`copy`].

mod copy;
mod plan;
mod progress;
mod state;
mod tally;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::task::JoinSet;

use self::copy::{Copied, Copier, is_one_place, list};
use self::plan::{Keeps, Target};
use self::progress::{Progress, say};
use self::state::{Options, State};
use self::tally::Report;
use super::cookie::SECRET_VARIABLE;
use super::stores::{self, Place};
use super::{FAILED, Failure};
use crate::config::{Config, Storage};
use crate::session::SessionId;

/// How many sessions are under way at once: enough to hide the network, too few to be felt.
const AT_ONCE: usize = 16;

const HELP: &str = "\
Each file is a configuration of the proxy, of which the storage counts; of the
target's, [session] too; neither needs a secret. Environment variables hold for both
files. --from can be left out when the target's file has [storage.fallback], which is
then the source. Both can be one server, with another format or key prefix; what the
target has there counts among the other keys.

Sessions keep their remaining lifetime; one without an end gets the target's
idle_timeout. What is at the target already is left alone. A session that holds what
the target can't keep is not copied, unless by --lossy; --dry-run says how many there
are, and what is in the way:
  value NAME: object, tuple, ...   JSON can't say it; the kinds are Python's
  value NAME: declared             storage.notification_names would make it one
  notification NAME: undeclared    storage.notification_names lacks it
  setting ttl, persist: format     the application chose it; the library can't keep it

MOVING OVER WITHOUT LOGGING ANYBODY OUT
  1. pycket migrate --from old.toml --to new.toml --dry-run
  2. Let the proxies run with new.toml, with the old store as [storage.fallback]: they
     move each session that is used.
  3. pycket migrate --to new.toml --delete-source --state migrate.state
     moves the others. A run that was broken off goes on when it is started again.
  4. Take [storage.fallback] away.

Without these proxies, a change at the source after a session was copied is not seen.
With --delete-source it is: what has changed is copied anew before it is deleted.
Applications that still write to the old store by themselves must have stopped.

Exit codes: 0 every live session is at the target (with --dry-run: would be),
1 some are not or a store fails, 2 wrong arguments, 78 wrong configuration.";

#[derive(Args, Debug)]
#[command(after_help = HELP)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(super) struct Migrate {
    /// Configuration file of the source
    #[arg(
        long,
        value_name = "FILE",
        help = "Configuration file of the source [default: the target's [storage.fallback]]"
    )]
    from: Option<PathBuf>,
    /// Configuration file of the target
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Read everything, write nothing, and say what would be
    #[arg(long, conflicts_with = "state")]
    dry_run: bool,
    /// Copy sessions without what the target can't keep
    #[arg(long)]
    lossy: bool,
    /// Replace what is at the target already
    #[arg(long)]
    overwrite: bool,
    /// Delete each session at the source, if it is still as it was copied
    #[arg(
        long,
        long_help = "Delete each session at the source, if it is still as it was copied. Those that \
                     are at the target already wait for some seconds, once for each batch: proxies \
                     may be moving them"
    )]
    delete_source: bool,
    /// Keep the progress in this file, and go on from it
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// After so many sessions the progress is kept
    #[arg(long, value_name = "NUMBER", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// How the report is written
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For a person
    Text,
    /// One JSON object
    Json,
}

/// Runs the command.
pub(super) fn run(
    options: &Migrate,
    mut environment: Vec<(OsString, OsString)>,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    if !environment.iter().any(|(name, _)| name == SECRET_VARIABLE) {
        // No cookie is looked at, so a file that names no secret will do.
        let unused = ".".repeat(64);
        environment.push((SECRET_VARIABLE.into(), unused.into()));
    }
    let to = stores::read(Some(options.to.clone()), environment.clone())?;
    let from = match &options.from {
        Some(path) => stores::read(Some(path.clone()), environment)?.storage,
        None => fallback(&to)?,
    };
    let runtime = stores::runtime(&to)?;
    let (state, copier) = runtime.block_on(async {
        let copier = Arc::new(open(options, &from, &to).await?);
        let state = migrate(options, &copier).await.inspect_err(|_| {
            if options.state.is_some() {
                say("broken off; started again, it goes on from the last batch");
            }
        })?;
        Ok::<_, Failure>((state, copier))
    })?;
    let report = Report {
        finished: state.finished,
        dry_run: options.dry_run,
        from: &copier.from.name,
        to: &copier.to.name,
        tally: &state.tally,
    };
    let text = match options.output {
        Output::Text => report.text(),
        Output::Json => report.json(),
    };
    match out.write_all(text.as_bytes()) {
        // Whoever closed the output may still want to know by the exit code.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    let code = if state.tally.is_whole() { 0 } else { FAILED };
    Ok(ExitCode::from(code))
}

fn fallback(to: &Config) -> Result<Storage, Failure> {
    let old = to.storage.fallback.as_deref().cloned();
    old.ok_or_else(|| {
        Failure::Arguments(
            "where from? give --from FILE, or a --to FILE that has [storage.fallback]".to_owned(),
        )
    })
}

async fn open(options: &Migrate, from: &Storage, to: &Config) -> Result<Copier, Failure> {
    let policy = stores::policy(to)?;
    // To delete and to look whether that was done, each with a timeout; and once more.
    let grace = from.timeout.max(to.storage.timeout).saturating_mul(3);
    let from = Place::open("storage", from).await?;
    let to = Place::open("storage", &to.storage).await?;
    let is_one = from.name == to.name
        || !options.dry_run
            && is_one_place(&from.archive, &to.archive)
                .await
                .map_err(|broken| broken.of(&from, &to))?;
    if is_one {
        return Err(Failure::Arguments(format!(
            "source and target are the same: {} has the same keys as {}",
            from.name, to.name
        )));
    }
    let (source, target) = (&from.archive, &to.archive);
    let target = Target {
        keeps: if target.keeps_all_of(source) {
            Keeps::All
        } else if target.keeps_opaque(source) {
            Keeps::Opaque
        } else {
            Keeps::Json
        },
        keeps_times: !target.is_pycket(),
        has_times: !source.is_pycket(),
        declared: target.declared().cloned(),
        lifetimes: policy.session.lifetimes,
    };
    Ok(Copier {
        from,
        to,
        target,
        options: Options {
            lossy: options.lossy,
            overwrite: options.overwrite,
            delete_source: options.delete_source,
        },
        dry_run: options.dry_run,
        max_record_bytes: policy.session.limits.max_record_bytes,
        grace,
    })
}

async fn migrate(options: &Migrate, copier: &Arc<Copier>) -> Result<State, Failure> {
    let mut state = State::new(&copier.from.name, &copier.to.name, copier.options);
    let mut progress = Progress::new();
    if let Some(path) = &options.state
        && let Some(earlier) = state.load(path)?
    {
        state = earlier;
        if state.finished {
            say(&format!(
                "this migration is finished; without {} it begins anew",
                path.display()
            ));
            return Ok(state);
        }
        say("going on where an earlier run has stopped");
    }
    let failed = |error| copier.from.failed(error);
    let mut walk = copier.from.archive.walk(state.position.as_deref());
    let walk = walk.as_mut().map_err(|_wrong| {
        Failure::Arguments("the state does not fit the source; begin anew".to_owned())
    })?;
    while !state.finished {
        let position = state.position.as_deref();
        let listed = list(&copier.from.archive, walk, position, options.batch).await;
        let listed = listed.map_err(failed)?;
        state.tally.add_others(listed.others);
        let mut open = copy_all(
            copier,
            &unique(listed.ids),
            &mut state,
            &mut progress,
            false,
        )
        .await?;
        if !open.is_empty() {
            tokio::time::sleep(copier.grace).await;
            open = copy_all(copier, &open, &mut state, &mut progress, true).await?;
        }
        debug_assert!(open.is_empty(), "after the grace nothing stays open");
        state.finished = listed.next.is_none();
        state.position = listed.next;
        if let Some(path) = &options.state {
            state.save(path).map_err(|error| {
                Failure::Run(format!("can't write {}: {error}", path.display()).into())
            })?;
        }
    }
    progress.end(&state.tally);
    Ok(state)
}

/// Copies sessions, and gives those that have to be looked at again.
async fn copy_all(
    copier: &Arc<Copier>,
    ids: &[SessionId],
    state: &mut State,
    progress: &mut Progress,
    again: bool,
) -> Result<Vec<SessionId>, Failure> {
    let mut open = Vec::new();
    for chunk in ids.chunks(AT_ONCE) {
        for copied in together(copier, chunk, again).await? {
            if copied.is_open {
                open.push(copied.session);
            } else {
                state.tally.add(copied.id, copied.outcome, &copied.losses);
            }
        }
        progress.show(&state.tally);
    }
    Ok(open)
}

/// A scan may come by a session twice.
fn unique(ids: Vec<SessionId>) -> Vec<SessionId> {
    let mut seen = HashSet::new();
    ids.into_iter()
        .filter(|id| seen.insert(id.clone()))
        .collect()
}

async fn together(
    copier: &Arc<Copier>,
    ids: &[SessionId],
    again: bool,
) -> Result<Vec<Copied>, Failure> {
    let mut tasks = JoinSet::new();
    for id in ids {
        let (copier, id) = (Arc::clone(copier), id.clone());
        tasks.spawn(async move { copier.copy(&id, again).await });
    }
    let mut done = Vec::with_capacity(ids.len());
    while let Some(ended) = tasks.join_next().await {
        let outcome = ended.map_err(|panicked| Failure::Run(panicked.into()))?;
        done.push(outcome.map_err(|broken| broken.of(&copier.from, &copier.to))?);
    }
    Ok(done)
}

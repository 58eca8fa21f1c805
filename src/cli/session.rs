//! `pycket session`: looks into a store, and mends it.
//!
//! Arguments flow in, what the store has flows out; what is written is written by compare and swap
//! and by the rules that signals have. Ids and values are shown only when asked for.

mod look;
mod set;
mod show;
mod subject;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use self::look::{Seen, find, look};
use self::subject::Subject;
use super::Failure;
use super::stores::{self, Place};
use crate::clock;
use crate::config::Config;
use crate::session::{PublicId, SessionId};

/// How many keys are asked for at once.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show one session
    #[command(after_help = SUBJECT_HELP)]
    Show(Show),
    /// List sessions
    #[command(after_help = LIST_HELP)]
    List(List),
    /// Delete one session; one that is not there is fine
    #[command(after_help = SUBJECT_HELP)]
    Delete(Delete),
    /// Set or delete one value of a session
    #[command(after_help = SET_HELP)]
    Set(Set),
}

const SUBJECT_HELP: &str = "\
The session is named by the cookie (its signed value, or a whole `Cookie:` line), by
its id, by its key in the store, or by the public id that logs and applications
have, for which the whole store is looked through. With - it is read from the
standard input, where other users of the machine can't see it.

  pycket session show --config pycket.toml '2|1:0|10:1300000000|9:PYCKET_ID|...'

A cookie must be signed with a secret of the configuration; one that is too old only
gets a remark. Sessions in [storage.fallback] are found, too.

Exit codes: 0 fine, 1 there is no such session or the store fails, 2 wrong arguments,
78 wrong configuration.";

const LIST_HELP: &str = "\
Redis is asked by SCAN, memcached by `lru_crawler metadump`; a session that comes or
goes meanwhile may be missing. --output json has one object a line.

Exit codes: 0 fine, 1 the store fails, 2 wrong arguments, 78 wrong configuration.";

const SET_HELP: &str = "\
The value is JSON: text has quotes, which the shell must not take away. What the
proxy would refuse from an application is refused here, too; nobody's change is
overwritten, and the session's lifetime stays as it is.

  pycket session set Jmg1vLq2v5WFhFyuYVUAbg role '\"admin\"'
  pycket session set Jmg1vLq2v5WFhFyuYVUAbg role --delete

The session is named as for `pycket session show`.

Exit codes: 0 fine, 1 there is no such session or it can't be written, 2 wrong
arguments, 78 wrong configuration.";

/// Where the configuration comes from.
#[derive(Args, Debug)]
struct From {
    /// The configuration file
    #[arg(
        long,
        short,
        value_name = "FILE",
        help = "Configuration file [default: $PYCKET_CONFIG]"
    )]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Show {
    #[command(flatten)]
    from: From,
    /// Show values, and what notifications say
    #[arg(long)]
    values: bool,
    /// Show the session's id and key
    #[arg(long)]
    secrets: bool,
    /// How it is written
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Table)]
    output: Output,
    /// The session: COOKIE, ID, KEY or PUBLIC ID
    #[arg(value_name = "SESSION", allow_hyphen_values = true)]
    subject: OsString,
}

#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    from: From,
    /// The most sessions to list
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Show the sessions' ids and keys
    #[arg(long)]
    secrets: bool,
    /// How it is written
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Args, Debug)]
pub(super) struct Delete {
    #[command(flatten)]
    from: From,
    /// The session: COOKIE, ID, KEY or PUBLIC ID
    #[arg(value_name = "SESSION", allow_hyphen_values = true)]
    subject: OsString,
}

#[derive(Args, Debug)]
pub(super) struct Set {
    #[command(flatten)]
    from: From,
    /// Delete the value
    #[arg(long, conflicts_with = "json")]
    delete: bool,
    /// The session: COOKIE, ID, KEY or PUBLIC ID
    #[arg(value_name = "SESSION", allow_hyphen_values = true)]
    subject: OsString,
    /// The value's name
    name: String,
    /// The value, as JSON
    #[arg(required_unless_present = "delete", allow_hyphen_values = true)]
    json: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For a person
    Table,
    /// For a program
    Json,
}

/// The configuration, and the places that it names: where sessions are, and where they were.
struct Stores {
    config: Config,
    places: Vec<Place>,
}

impl Stores {
    async fn open(config: Config) -> Result<Self, Failure> {
        let mut places = vec![Place::open("storage", &config.storage).await?];
        if let Some(old) = &config.storage.fallback {
            places.push(Place::open("fallback", old).await?);
        }
        Ok(Self { config, places })
    }

    /// The session that an argument names.
    async fn session(&self, argument: OsString) -> Result<Subject, Failure> {
        let text = subject::text(argument)?;
        let is_key = |key: &[u8]| {
            let mut places = self.places.iter();
            places.find_map(|place| place.archive.id_of(key))
        };
        match subject::read(&text, &self.config.cookie, is_key)? {
            subject::Named::Session(subject) => Ok(subject),
            subject::Named::Public(public) => {
                let id = find(&self.places, public, PAGE).await?;
                let id = id.ok_or_else(|| missing(public))?;
                Ok(Subject { id, remark: None })
            }
        }
    }
}

/// Runs one of the commands.
pub(super) fn run(
    command: Command,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let from = match &command {
        Command::Show(options) => &options.from,
        Command::List(options) => &options.from,
        Command::Delete(options) => &options.from,
        Command::Set(options) => &options.from,
    };
    let config = stores::read(from.config.clone(), environment)?;
    let runtime = stores::runtime(&config)?;
    runtime.block_on(async {
        let stores = Stores::open(config).await?;
        match command {
            Command::Show(options) => show(&stores, options, out).await,
            Command::List(options) => list(&stores, options, out).await,
            Command::Delete(options) => delete(&stores, options, out).await,
            Command::Set(options) => set::set(&stores, options, out).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn show(stores: &Stores, options: Show, out: &mut impl Write) -> Result<(), Failure> {
    let Subject { id, mut remark } = stores.session(options.subject).await?;
    let now = clock::now();
    for place in &stores.places {
        let Some(found) = look(place, &id, now).await? else {
            continue;
        };
        let policy = stores::policy(&stores.config)?;
        remark = remark.or_else(|| show::remark(&found, policy, now));
        let card = show::Card {
            place,
            found: &found,
            now,
            remark: remark.as_deref(),
            values: options.values,
            secrets: options.secrets,
        };
        match options.output {
            Output::Table => write!(out, "{}", card.text())?,
            Output::Json => writeln!(out, "{}", card.json())?,
        }
        return Ok(());
    }
    Err(missing(id.public_id()))
}

async fn list(stores: &Stores, options: List, out: &mut impl Write) -> Result<(), Failure> {
    let rows = show::Rows {
        output: options.output,
        secrets: options.secrets,
        places: stores.places.len(),
    };
    write!(out, "{}", rows.head())?;
    let mut seen: HashSet<SessionId> = HashSet::new();
    let mut left = options.limit;
    for place in &stores.places {
        let failed = |error| place.failed(error);
        let mut walk = place.archive.walk(None).map_err(failed)?;
        loop {
            let listed = walk.list(PAGE).await.map_err(failed)?;
            for id in listed.ids {
                // A scan may come by twice.
                if seen.contains(&id) {
                    continue;
                }
                let now = clock::now();
                let found = look::look_at(place, &id, now).await?;
                if matches!(found, Seen::Nothing) {
                    continue;
                }
                let row = rows.row(place, &id, &found, now);
                if left == 0 {
                    let limit = options.limit;
                    return note(&format!("there are more than {limit}: see --limit"));
                }
                left = left.saturating_sub(1);
                writeln!(out, "{row}")?;
                seen.insert(id);
            }
            if listed.next.is_none() {
                break;
            }
        }
    }
    if seen.is_empty() {
        note("there are no sessions")?;
    }
    Ok(())
}

async fn delete(stores: &Stores, options: Delete, out: &mut impl Write) -> Result<(), Failure> {
    let mut next = Some(stores.session(options.subject).await?.id);
    let mut deleted: Vec<PublicId> = Vec::new();
    let mut named = None;
    // An id may lead on to others, by which the session would still be there.
    for _ in 0..4 {
        let Some(id) = next.take() else { break };
        named = named.or_else(|| Some(id.public_id()));
        // The old place first: a session that is only there would come back from it.
        for place in stores.places.iter().rev() {
            let now = clock::now();
            let seen = look::look_at(place, &id, now).await?;
            if let Seen::Moved(to) = &seen {
                next = Some(to.clone());
            }
            if !matches!(seen, Seen::Nothing) {
                let public_id = seen.public_id().unwrap_or_else(|| id.public_id());
                deleted.push(public_id);
            }
            let done = place.archive.delete(&id).await;
            done.map_err(|error| place.failed(error))?;
        }
    }
    match (deleted.last(), named) {
        (Some(id), _) => writeln!(out, "deleted {id}")?,
        (None, Some(id)) => writeln!(out, "nothing was there under {id}")?,
        (None, None) => {}
    }
    Ok(())
}

fn missing(id: PublicId) -> Failure {
    Failure::Missing(format!(
        "there is no session {id}: it has ended or expired, or never began"
    ))
}

/// What does not belong to the result.
fn note(text: &str) -> Result<(), Failure> {
    writeln!(io::stderr().lock(), "{text}")?;
    Ok(())
}

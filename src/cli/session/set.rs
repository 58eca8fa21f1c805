//! Changes one value, as an application's signal would.

use std::io::Write;

use super::look::{Looked, look};
use super::{Set, Stores, missing};
use crate::archive::Replaced;
use crate::cli::Failure;
use crate::cli::cookie::show::printable;
use crate::cli::stores::{self, Place};
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::contract::response::check_name;
use crate::exchange::{Rules, check};
use crate::session::{Json, Occasion, Patch, Session};
use crate::store::Left;

/// How often a change is tried that meets others. Nobody changes a session so often.
const ATTEMPTS: u32 = 20;

pub(super) async fn set(
    stores: &Stores,
    options: Set,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let name = options.name;
    let patch = patch(&name, options.json.as_deref())?;
    let subject = stores.session(options.subject).await?;
    for place in &stores.places {
        for _ in 0..ATTEMPTS {
            let now = clock::now();
            let Some(found) = look(place, &subject.id, now).await? else {
                break;
            };
            let after = changed(&stores.config, &patch, &name, &found, now)?;
            let before = &found.kept.session;
            let had = before.opaque.names.contains_key(&name)
                || before
                    .values
                    .to_map()
                    .is_ok_and(|map| map.contains_key(&name));
            let done = after == *before || write(stores, place, &found, &after, now).await?;
            if !done {
                continue;
            }
            let (name, id) = (printable(name.as_bytes()), before.public_id);
            match (patch.set.is_empty(), had) {
                (true, true) => writeln!(out, "deleted {name} in {id}")?,
                (true, false) => writeln!(out, "there was no {name} in {id}")?,
                (false, _) if after == *before => writeln!(out, "{name} is so already in {id}")?,
                (false, _) => writeln!(out, "set {name} in {id}")?,
            }
            return Ok(());
        }
    }
    Err(missing(subject.id.public_id()))
}

/// What an argument asks for.
fn patch(name: &str, json: Option<&str>) -> Result<Patch, Failure> {
    let mut patch = Patch::default();
    match json {
        None => patch.delete.push(name.to_owned()),
        Some("null") => {
            return Err(Failure::Arguments(
                "null is no value; --delete takes the name away".to_owned(),
            ));
        }
        Some(text) => {
            let json = Json::parse(text.as_bytes()).map_err(|error| {
                Failure::Arguments(format!(
                    "the value is not JSON: {error}; text has quotes: '\"alice\"'"
                ))
            })?;
            patch.set.push((name.to_owned(), Some(json)));
        }
    }
    Ok(patch)
}

/// The session after the change, if every route with sessions could take it.
fn changed(
    config: &Config,
    patch: &Patch,
    name: &str,
    found: &Looked,
    now: Timestamp,
) -> Result<Session, Failure> {
    let occasion = Occasion {
        delivered: &[],
        first_entry: 0,
        target: None,
        now,
    };
    let refused = |why: String| Failure::Missing(format!("the change is refused: {why}"));
    let applied = patch.apply(&found.kept.session, &occasion);
    let after = applied.map_err(|error| refused(error.to_string()))?;
    // What is taken away makes no session larger.
    if patch.set.is_empty() {
        return Ok(after);
    }
    for policy in config
        .routes
        .iter()
        .filter_map(|route| route.session.as_ref())
    {
        let mut contract = policy.contract.clone();
        contract.expose = None;
        check_name(name, &contract).map_err(|rule| refused(rule.to_string()))?;
        let rules = Rules {
            session: &policy.session,
            contract: &policy.contract,
            names: &config.names,
        };
        check(&after, &rules).map_err(|error| refused(error.to_string()))?;
    }
    Ok(after)
}

/// Whether it was written; otherwise somebody else has changed the session.
async fn write(
    stores: &Stores,
    place: &Place,
    found: &Looked,
    after: &Session,
    now: Timestamp,
) -> Result<bool, Failure> {
    let ttl = match found.left {
        Left::For(ttl) => ttl,
        Left::Forever => {
            let policy = stores::policy(&stores.config)?;
            policy.session.lifetimes.time_to_live(after, now)
        }
    };
    let replaced = place
        .archive
        .replace(&found.id, &found.kept, after, ttl)
        .await;
    match replaced.map_err(|error| place.failed(error))? {
        Replaced::Stored(_) => Ok(true),
        Replaced::Stale | Replaced::Gone => Ok(false),
    }
}

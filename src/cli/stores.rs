//! The stores of a configuration, opened for a command.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use tokio::runtime::{Builder, Runtime};

use super::{Configuration, Failure, configure};
use crate::archive::Archive;
use crate::config::{Config, Engine, Log, LogFormat, LogLevel, RoutePolicy, Storage, place};
use crate::store::{Shared, StoreError};
use crate::telemetry;

/// A place of sessions.
pub(super) struct Place {
    /// What the configuration calls it: `storage` or `fallback`.
    pub(super) role: &'static str,
    /// Where it is, for people.
    pub(super) name: String,
    pub(super) archive: Archive,
}

impl Place {
    /// Opens the place that these settings are about, without its fallback.
    ///
    /// # Errors
    ///
    /// When sessions are in memory, which no other process can see.
    pub(super) async fn open(role: &'static str, storage: &Storage) -> Result<Self, Failure> {
        let name = place(storage);
        if matches!(storage.engine, Engine::Memory { .. }) {
            return Err(Failure::Arguments(format!(
                "[{role}] has engine = \"memory\": its sessions are in the proxy's process, and \
                 nobody else sees them; this command works with \"redis\" and \"memcached\""
            )));
        }
        let storage = Storage {
            fallback: None,
            ..storage.clone()
        };
        // Nothing is kept there.
        let shared = Shared::for_storage(&storage);
        match Archive::open(&storage, &shared).await {
            Ok(archive) => Ok(Self {
                role,
                name,
                archive,
            }),
            Err(source) => Err(Failure::Store {
                place: name,
                source,
            }),
        }
    }

    /// Says which place an error is about.
    pub(super) fn failed(&self, source: StoreError) -> Failure {
        Failure::Store {
            place: self.name.clone(),
            source,
        }
    }
}

/// The configuration in this file, or as `pycket check` finds it.
pub(super) fn read(
    config: Option<PathBuf>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, Failure> {
    let options = Configuration {
        config,
        listen: Vec::new(),
        upstream: None,
        engine: None,
    };
    // What else could be better in it is the business of `check`.
    let (config, _warnings) = configure(options, environment)?;
    Ok(config)
}

/// The rules for sessions, which are those of the first route that has some.
pub(super) fn policy(config: &Config) -> Result<&RoutePolicy, Failure> {
    let mut routes = config.routes.iter();
    routes
        .find_map(|route| route.session.as_ref())
        .ok_or_else(|| Failure::Arguments("no route of the configuration has sessions".to_owned()))
}

/// What a command runs on. Warnings, such as why a server can't be reached, go to the standard
/// error.
pub(super) fn runtime(config: &Config) -> Result<Runtime, Failure> {
    let log = Log {
        level: LogLevel::Warn,
        format: LogFormat::Text,
        ..config.log.clone()
    };
    telemetry::init(&log).map_err(Failure::Run)?;
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error: io::Error| Failure::Run(error.into()))
}

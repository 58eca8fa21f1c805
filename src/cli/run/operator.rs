//! What the operator wants of a running proxy: by signals, and by a configuration file that changes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, warn};

use super::{Load, Make, descriptors, handlers};
use crate::cli::explain;
use crate::config::{Colours, Config, Engine, Reload, report_warning};
use crate::proxy::upstream::Directory;
use crate::server::{Next, Order};
use crate::store::{MemoryStore, Shared};
use crate::telemetry::chain;

/// How often the configuration file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Turns what the operator does into orders.
pub(super) struct Operator<L> {
    load: L,
    file: Option<PathBuf>,
    /// What the process began with; some of it stays.
    initial: Arc<Config>,
    shared: Shared,
    /// The bound of the sessions in the process's own memory, which are those of any configuration
    /// that has them there; `None` when none has had them there.
    memory_bytes: Option<usize>,
    /// What is known of upstreams.
    directory: Directory,
    reload: Reload,
    /// How the file was when it was last read.
    seen: Option<Stamp>,
    senses: Option<Senses>,
    /// This program. It is asked for at the start: what stands in its place later is the successor.
    program: io::Result<PathBuf>,
}

/// What there is to wait for.
struct Senses {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
    looks: Interval,
}

/// What tells that a file has changed: device, inode, size, and when it was written.
type Stamp = (u64, u64, u64, i64, i64);

/// What woke us.
enum Woken {
    Stop,
    Reload,
    Look,
    Upgrade,
}

impl<L: Load> Operator<L> {
    pub(super) fn new(
        initial: Arc<Config>,
        shared: Shared,
        directory: Directory,
        file: Option<PathBuf>,
        load: L,
    ) -> Self {
        Self {
            memory_bytes: bound(&initial),
            load,
            seen: file.as_deref().and_then(stamp),
            file,
            reload: initial.reload,
            initial,
            shared,
            directory,
            senses: None,
            program: std::env::current_exe(),
        }
    }

    /// Waits for the next order. When it is dropped meanwhile, nothing is lost.
    pub(super) async fn order(&mut self) -> Order<Make> {
        loop {
            match self.wake().await {
                Woken::Stop => return Order::Stop,
                Woken::Upgrade => match &self.program {
                    Ok(program) => {
                        let mut command = Command::new(program);
                        command.args(std::env::args_os().skip(1));
                        return Order::Upgrade(command);
                    }
                    Err(error) => error!(%error, "it is not known where this program is"),
                },
                Woken::Look if self.file.as_deref().and_then(stamp) == self.seen => {}
                Woken::Reload | Woken::Look => {
                    if let Some(next) = self.read() {
                        return Order::Reload(next);
                    }
                }
            }
        }
    }

    async fn wake(&mut self) -> Woken {
        if self.senses.is_none() {
            match Senses::open() {
                Ok(senses) => self.senses = Some(senses),
                Err(error) => error!(%error, "signals can't be received"),
            }
        }
        let Some(senses) = &mut self.senses else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = senses.terminate.recv() => Woken::Stop,
            _ = senses.interrupt.recv() => Woken::Stop,
            _ = senses.hangup.recv() => Woken::Reload,
            _ = senses.upgrade.recv() => Woken::Upgrade,
            _ = senses.looks.tick(), if self.reload == Reload::Watch => Woken::Look,
        }
    }

    /// Reads the configuration. What is wrong with it is logged as `pycket check` says it.
    fn read(&mut self) -> Option<Next<Make>> {
        // Before it is read: what changes meanwhile is read again.
        self.seen = self.file.as_deref().and_then(stamp);
        let (mut config, warnings) = match (self.load)() {
            Ok(loaded) => loaded,
            Err(failure) => {
                let (_, text) = explain(&failure, Colours::Off);
                error!(
                    "the configuration was not reloaded: the old one stays\n{}",
                    text.trim_end()
                );
                return None;
            }
        };
        for warning in &warnings {
            warn!("{}", report_warning(warning, Colours::Off).trim_end());
        }
        self.keep(&mut config);
        self.keep_memory(&mut config);
        self.shared = self.shared.with_storage(&config.storage);
        let config = Arc::new(config);
        match handlers(&config, &self.shared, &mut self.directory) {
            Ok(make) => {
                self.reload = config.reload;
                descriptors::raise(&config);
                Some(Next { config, make })
            }
            Err(error) => {
                let error = chain(&error);
                error!(
                    error,
                    "the configuration was not reloaded: the old one stays"
                );
                None
            }
        }
    }

    /// Leaves what can't change as it is, and says so.
    fn keep(&self, config: &mut Config) {
        let initial = &self.initial;
        if config.workers != initial.workers {
            config.workers = initial.workers;
            warn!("`workers` stays {} until a restart", initial.workers);
        }
        if config.log.level != initial.log.level || config.log.format != initial.log.format {
            config.log.level = initial.log.level;
            config.log.format = initial.log.format;
            warn!("`log.level` and `log.format` stay as they are until a restart");
        }
    }

    /// Keeps the sessions where a configuration has some in memory again.
    fn keep_memory(&mut self, config: &mut Config) {
        let Engine::Memory { max_bytes } = &mut config.storage.engine else {
            return;
        };
        match self.memory_bytes {
            None => {
                self.shared = self
                    .shared
                    .clone()
                    .with_memory(MemoryStore::new(*max_bytes));
                self.memory_bytes = Some(*max_bytes);
            }
            Some(kept) if kept != *max_bytes => {
                *max_bytes = kept;
                warn!("`storage.max_memory` stays {kept} bytes until a restart");
            }
            Some(_same) => {}
        }
    }
}

fn bound(config: &Config) -> Option<usize> {
    match config.storage.engine {
        Engine::Memory { max_bytes } => Some(max_bytes),
        Engine::Redis(_) | Engine::Memcached { .. } => None,
    }
}

impl Senses {
    fn open() -> io::Result<Self> {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
            looks,
        })
    }
}

/// `None` when there is no such file at the moment.
fn stamp(file: &Path) -> Option<Stamp> {
    let file = fs::metadata(file).ok()?;
    Some((
        file.dev(),
        file.ino(),
        file.len(),
        file.mtime(),
        file.mtime_nsec(),
    ))
}

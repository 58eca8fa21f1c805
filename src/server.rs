//! Listening, accepting, stopping.
//!
//! Each worker is one thread with its own runtime, its own sockets on the same addresses
//! (`SO_REUSEPORT`: the kernel spreads connections over them; unix sockets and those of systemd are
//! one for all), and its own handler, so that an
//! exchange never crosses threads. What the workers share is the bound on client connections and
//! the word to stop.
//!
//! Stopping has three steps. First, all workers close their sockets. Then idle connections are
//! closed, and exchanges and tunnels have the drain timeout to end; a client that connects anew does
//! not meet a socket whose connections are about to be reset. Last, or when asked again, the rest is
//! cut off. The [`Report`] says how many were in which group.
//!
//! What a request means is not known here: that is the [`Handler`]'s.

mod certificates;
mod connection;
mod crowd;
mod frames;
mod gauge;
mod opening;
pub mod proxy_protocol;
mod sockets;
mod streams;
mod transport;
mod unix;
mod worker;

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

pub use sockets::{BindError, Sockets};

use connection::Room;
use unix::SocketFile;

use crate::config::Config;
use crate::proxy::{Handler, Worker};

/// An error that is only ever printed.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the server did not run, or not to its proper end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No runtime or thread could be made.
    #[error("can't start")]
    Start(#[source] io::Error),
    /// A worker could not make its handler, or broke. All have been stopped.
    #[error("worker {index} failed")]
    Worker {
        /// Which one, counted from 0.
        index: usize,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// What became of the exchanges that were running when the server was told to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Exchanges that came to their end.
    pub finished: usize,
    /// Exchanges, tunnels and other tasks that did not.
    pub cut_off: usize,
}

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// Sockets are closed.
    Closing,
    /// All sockets are closed. Connections are, too, once they are idle.
    Draining,
    /// What is left is cut off.
    Stopped,
}

/// Waits until stopping has come that far. A server that is gone counts as stopped.
async fn reached(stopping: &mut watch::Receiver<Phase>, phase: Phase) {
    drop(stopping.wait_for(|&now| now >= phase).await);
}

/// Runs the workers until `stop` is done waiting, and lets them finish.
///
/// `make` makes a worker's handler, on the worker's own runtime. `stop` is called and awaited a
/// first time at the start, and a second time while exchanges finish: when that is done, too, the
/// rest is cut off at once. [`on_signals`] is the one for a real server.
///
/// # Errors
///
/// When threads can't be started, or when a worker fails; then all are stopped.
pub fn run<H, M, F>(
    config: &Arc<Config>,
    sockets: Sockets,
    make: M,
    mut stop: impl AsyncFnMut(),
) -> Result<Report, RunError>
where
    H: Handler,
    M: Fn(Worker) -> F + Send + Sync + 'static,
    F: Future<Output = Result<H, BoxError>>,
{
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Start)?;
    let names = sockets.names();
    let count = sockets.sets.len();
    let make = Arc::new(make);
    let room = Room::new(config);
    runtime.spawn(certificates::keep_fresh(sockets.doors()));
    let (phase, stopping) = watch::channel(Phase::Serving);
    let (exits, exited) = mpsc::channel(count.max(1));
    let (ears, listening) = mpsc::channel(1);
    for (index, sockets) in sockets.sets.into_iter().enumerate() {
        let setup = worker::Setup {
            index,
            config: Arc::clone(config),
            sockets,
            room: room.clone(),
            stopping: stopping.clone(),
            ears: ears.clone(),
        };
        let (make, exits) = (Arc::clone(&make), exits.clone());
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| worker::run(setup, &*make)))
                    .unwrap_or_else(|_panic| Err("it panicked".into()));
                // Nobody listens only when the server has failed already.
                drop(exits.blocking_send((index, outcome)));
            })
            .map_err(RunError::Start)?;
    }
    drop((exits, stopping, ears));
    let workers = Workers {
        phase,
        listening,
        exited,
        files: sockets.files,
    };
    let announce = || {
        for name in names {
            info!(workers = count, "listening on {name}");
        }
    };
    runtime.block_on(supervise(workers, announce, &mut stop))
}

/// A worker's end.
type Exit = (usize, Result<Report, BoxError>);

/// What the workers are told, and what they tell.
struct Workers {
    phase: watch::Sender<Phase>,
    /// Ends when no worker listens any more.
    listening: mpsc::Receiver<Infallible>,
    /// Ends when all workers have.
    exited: mpsc::Receiver<Exit>,
    /// Those of unix sockets that the workers listen on.
    files: Vec<SocketFile>,
}

async fn supervise(
    mut workers: Workers,
    announce: impl FnOnce(),
    stop: &mut impl AsyncFnMut(),
) -> Result<Report, RunError> {
    let mut report = Report::default();
    let mut failure = None;
    let first = {
        let mut told = pin!(stop());
        // Polled once before anybody can know that there is something to stop: a signal that came
        // before it is listened for would end the process.
        tokio::select! {
            biased;
            () = told.as_mut() => None,
            () = std::future::ready(()) => {
                announce();
                tokio::select! {
                    () = told => None,
                    exit = workers.exited.recv() => exit,
                }
            }
        }
    };
    if let Some(exit) = first {
        workers.phase.send_replace(Phase::Stopped);
        settle(exit, &mut report, &mut failure);
    } else {
        info!("stopping: exchanges may finish");
        workers.phase.send_replace(Phase::Closing);
    }
    loop {
        let now = *workers.phase.borrow();
        tokio::select! {
            exit = workers.exited.recv() => match exit {
                Some(exit) => settle(exit, &mut report, &mut failure),
                None => break,
            },
            _ = workers.listening.recv(), if now == Phase::Closing => {
                workers.files.clear();
                workers.phase.send_replace(Phase::Draining);
            }
            () = stop(), if now != Phase::Stopped => {
                warn!("stopping at once");
                workers.phase.send_replace(Phase::Stopped);
            }
        }
    }
    info!(
        finished = report.finished,
        cut_off = report.cut_off,
        "stopped"
    );
    failure.map_or(Ok(report), Err)
}

fn settle((index, outcome): Exit, report: &mut Report, failure: &mut Option<RunError>) {
    match outcome {
        Ok(worker) => {
            report.finished = report.finished.saturating_add(worker.finished);
            report.cut_off = report.cut_off.saturating_add(worker.cut_off);
        }
        Err(source) => {
            failure.get_or_insert(RunError::Worker { index, source });
        }
    }
}

/// For [`run`]: is done waiting when the process gets SIGTERM or SIGINT.
pub fn on_signals() -> impl AsyncFnMut() {
    let mut signals: Option<[Signal; 2]> = None;
    async move || {
        if signals.is_none() {
            match listen_for_signals() {
                Ok(listening) => signals = Some(listening),
                Err(error) => error!(%error, "signals can't be received"),
            }
        }
        match &mut signals {
            Some([terminate, interrupt]) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            None => std::future::pending().await,
        }
    }
}

fn listen_for_signals() -> io::Result<[Signal; 2]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ])
}

#[cfg(test)]
mod tests;

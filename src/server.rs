//! Listening, accepting, stopping.
//!
//! Each worker is one thread with its own runtime, its own sockets on the same addresses
//! (`SO_REUSEPORT`: the kernel spreads connections over them; unix sockets and those of systemd are
//! one for all), and its own handler, so that an
//! exchange never crosses threads. What the workers share is the bound on client connections and
//! the word to stop.
//!
//! The listeners of a configuration are entrances (`sockets`), which a new configuration leaves as
//! they are, adds to, or takes away from; the `supervise` module applies it to all workers or to none.
//!
//! Stopping has three steps. First, all workers close their sockets. Then idle connections are
//! closed, and exchanges and tunnels have the drain timeout to end; a client that connects anew does
//! not meet a socket whose connections are about to be reset. Last, or when asked again, the rest is
//! cut off. The [`Report`] says how many were in which group.
//!
//! A successor of the process gets the sockets first (`handover`), and then the process stops; what
//! differs is that connections end only when that loses no request.
//!
//! What a request means is not known here: that is the [`Handler`]'s.

mod certificates;
mod connection;
mod crowd;
mod current;
mod frames;
mod gauge;
mod handover;
mod interim;
mod opening;
pub mod proxy_protocol;
mod sockets;
mod streams;
mod supervise;
mod transport;
mod unix;
mod worker;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info};

pub use sockets::{BindError, Sockets};

use connection::Room;
use supervise::Workers;

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
    /// All sockets are closed here, and a successor has them. Connections end when that loses no
    /// request.
    Yielding,
    /// All sockets are closed. Connections are, too, once they are idle.
    Draining,
    /// What is left is cut off.
    Stopped,
}

/// Waits until stopping has come that far. A server that is gone counts as stopped.
async fn reached(stopping: &mut watch::Receiver<Phase>, phase: Phase) {
    drop(stopping.wait_for(|&now| now >= phase).await);
}

/// What a running server is told.
#[derive(Debug)]
pub enum Order<M> {
    /// To stop; when it is told again, at once.
    Stop,
    /// To go on with another configuration.
    Reload(Next<M>),
    /// To start this as the successor, hand the sockets over, and stop when that serves.
    Upgrade(Command),
}

/// What to go on with.
#[derive(Debug)]
pub struct Next<M> {
    /// The configuration. As many workers as before are there, whatever it says.
    pub config: Arc<Config>,
    /// Makes a worker's handler.
    pub make: M,
}

/// Runs the workers until they are told to stop, and lets them finish.
///
/// `make` makes a worker's handler, on the worker's own runtime. `orders` is called for one order after
/// the other; what it waits for must not be lost when it is dropped. When it says stop, exchanges
/// may finish, and when it says so again, the rest is cut off at once.
///
/// A reload happens as a whole or not at all: first new addresses are bound, certificates are read and
/// all workers make a handler, and what fails is logged. Then new requests, also on connections
/// that are there, are answered by the new handlers, new connections are held to the new limits, and
/// addresses that are not named any more are closed.
///
/// # Errors
///
/// When threads can't be started, or when a worker fails; then all are stopped.
pub fn run<H, M, F>(
    config: &Arc<Config>,
    sockets: Sockets,
    make: M,
    mut orders: impl AsyncFnMut() -> Order<M>,
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
    let (phase, stopping) = watch::channel(Phase::Serving);
    let (exits, exited) = mpsc::channel(count.max(1));
    let (ears, listening) = mpsc::channel(1);
    let (started, starts) = mpsc::channel(count.max(1));
    let mut changes = Vec::with_capacity(count);
    for (index, sockets) in sockets.sets.into_iter().enumerate() {
        let (tell_worker, told) = mpsc::channel(1);
        changes.push(tell_worker);
        let setup = worker::Setup {
            index,
            config: Arc::clone(config),
            sockets,
            room: room.clone(),
            stopping: stopping.clone(),
            ears: ears.clone(),
            started: started.clone(),
            changes: told,
        };
        let (make, exits) = (Arc::clone(&make), exits.clone());
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| worker::run(setup, make)))
                    .unwrap_or_else(|_panic| Err("it panicked".into()));
                // Nobody listens only when the server has failed already.
                drop(exits.blocking_send((index, outcome)));
            })
            .map_err(RunError::Start)?;
    }
    drop((exits, stopping, ears, started, make));
    let workers = Workers {
        phase,
        listening,
        exited,
        starts,
        changes,
        entrances: sockets.entrances,
        room,
        predecessor: sockets.predecessor,
    };
    let announce = || {
        for name in names {
            info!(workers = count, "listening on {name}");
        }
    };
    runtime.block_on(supervise::supervise(workers, announce, &mut orders))
}

/// For [`run`]: says stop when the process gets SIGTERM or SIGINT.
pub fn on_signals<M>() -> impl AsyncFnMut() -> Order<M> {
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
                Order::Stop
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

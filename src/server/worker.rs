//! One worker: a thread, a runtime, its sockets, its connections.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error};

use super::connection::{self, Room, Shared};
use super::opening::Accepted;
use super::sockets::{AnyListener, Bound, Door};
use super::transport::{self, Wire};
use super::{BoxError, Phase, Report, reached};
use crate::config::Config;
use crate::proxy::tasks::Tasks;
use crate::proxy::{Handler, Remote, Worker};

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// What a worker is started with.
pub(super) struct Setup {
    pub(super) index: usize,
    pub(super) config: Arc<Config>,
    pub(super) sockets: Vec<Bound>,
    pub(super) room: Room,
    pub(super) stopping: watch::Receiver<Phase>,
    /// Is dropped when this worker listens no more; nothing is sent by it.
    pub(super) ears: mpsc::Sender<Infallible>,
}

/// Runs a worker on this thread to its end.
pub(super) fn run<H, M, F>(setup: Setup, make: &M) -> Result<Report, BoxError>
where
    H: Handler,
    M: Fn(Worker) -> F,
    F: Future<Output = Result<H, BoxError>>,
{
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(serve(setup, make));
    // A name that is still being resolved must not hold the process.
    runtime.shutdown_background();
    report
}

async fn serve<H, M, F>(setup: Setup, make: &M) -> Result<Report, BoxError>
where
    H: Handler,
    M: Fn(Worker) -> F,
    F: Future<Output = Result<H, BoxError>>,
{
    let tasks = Tasks::default();
    let worker = Worker {
        index: setup.index,
        tasks: tasks.clone(),
    };
    let mut stopping = setup.stopping.clone();
    let handler = tokio::select! {
        handler = make(worker) => handler?,
        () = reached(&mut stopping, Phase::Closing) => return Ok(Report::default()),
    };
    let shared = Arc::new(Shared::new(
        &setup.config,
        handler,
        setup.room,
        setup.stopping,
    ));
    let mut listening = JoinSet::new();
    for Bound { socket, door } in setup.sockets {
        let socket = Socket::new(socket)?;
        listening.spawn(accept_all(socket, door, Arc::clone(&shared)));
    }
    reached(&mut stopping, Phase::Closing).await;
    // A task that panicked has closed its socket, too.
    while listening.join_next().await.is_some() {}
    shared.exchanges.draining.store(true, Ordering::Relaxed);
    drop(setup.ears);
    reached(&mut stopping, Phase::Draining).await;
    let drained = async {
        // In this order: connections begin tunnels and tasks, and not the other way round.
        shared.connections.idle().await;
        tasks.idle().await;
    };
    tokio::select! {
        // An exchange that is still running is counted below.
        _ = timeout(setup.config.timeouts.drain, drained) => {}
        () = reached(&mut stopping, Phase::Stopped) => {}
    }
    let exchanges = &shared.exchanges;
    Ok(Report {
        finished: exchanges.finished.load(Ordering::Relaxed),
        cut_off: exchanges.running.load(Ordering::Relaxed) + tasks.running(),
    })
}

async fn accept_all<H: Handler>(socket: Socket, door: Arc<Door>, shared: Arc<Shared<H>>) {
    let mut stopping = shared.stopping.clone();
    tokio::select! {
        () = reached(&mut stopping, Phase::Closing) => {}
        () = accept_each(&socket, &door, &shared) => {}
    }
}

async fn accept_each<H: Handler>(socket: &Socket, door: &Arc<Door>, shared: &Arc<Shared<H>>) {
    loop {
        let (wire, remote) = accept(socket).await;
        // After accepting, not before: a worker that waits for a connection must not sit on the
        // place that a connection to another worker's socket needs. So each socket may hold one
        // connection more, of which nothing is read.
        let Ok(place) = Arc::clone(&shared.places).acquire_owned().await else {
            return;
        };
        let accepted = Accepted {
            wire,
            remote,
            door: Arc::clone(door),
            at: Instant::now(),
        };
        let task = connection::serve(accepted, Box::new(place), Arc::clone(shared));
        shared.connections.spawn(task);
    }
}

/// A listening socket in the worker's runtime.
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    fn new(socket: AnyListener) -> io::Result<Self> {
        Ok(match socket {
            AnyListener::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            AnyListener::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    async fn accept(&self) -> io::Result<(Wire, Remote)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                if let Err(error) = stream.set_nodelay(true) {
                    // Its next read tells.
                    debug!(%error, "a client left before it was served");
                }
                Ok((
                    Wire::new(transport::Socket::Tcp(stream)),
                    Remote::Address(address),
                ))
            }
            Self::Unix(socket) => {
                let (stream, _unnamed) = socket.accept().await?;
                Ok((Wire::new(transport::Socket::Unix(stream)), Remote::Unix))
            }
        }
    }
}

/// Accepts the next connection, however long it takes.
async fn accept(socket: &Socket) -> (Wire, Remote) {
    loop {
        match socket.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_one_connections(&error) => debug!(%error, "a client left early"),
            Err(error) => {
                error!(%error, "can't accept connections, pausing");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an error of accepting is about the connection that was to be accepted, so that the next
/// one may be fine. accept(2) hands out network errors of new connections, too.
fn is_one_connections(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_one_connection_are_passed_over() {
        // ECONNABORTED, EHOSTUNREACH, ENETDOWN, then EMFILE, ENFILE, ENOMEM on Linux.
        for code in [103, 113, 100] {
            assert!(is_one_connections(&io::Error::from_raw_os_error(code)));
        }
        for code in [24, 23, 12] {
            assert!(!is_one_connections(&io::Error::from_raw_os_error(code)));
        }
    }
}

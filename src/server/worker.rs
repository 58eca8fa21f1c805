//! One worker: a thread, a runtime, its sockets, its connections.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error};

use super::connection::{self, Room, Shared};
use super::current::Current;
use super::opening::Accepted;
use super::sockets::{AnyListener, Bound, Entrance};
use super::transport::{self, Wire};
use super::{BoxError, Phase, Report, reached};
use crate::config::Config;
use crate::proxy::tasks::Tasks;
use crate::proxy::{Handler, Remote, Worker};

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What a worker is started with.
pub(super) struct Setup<M> {
    pub(super) index: usize,
    pub(super) config: Arc<Config>,
    pub(super) sockets: Vec<Bound>,
    pub(super) room: Room,
    pub(super) stopping: watch::Receiver<Phase>,
    /// Is dropped when this worker listens no more; nothing is sent by it.
    pub(super) ears: mpsc::Sender<Infallible>,
    /// Is told when this worker serves.
    pub(super) started: mpsc::Sender<()>,
    pub(super) changes: mpsc::Receiver<Change<M>>,
}

/// Another configuration, which all workers take or none does.
pub(super) struct Change<M> {
    pub(super) config: Arc<Config>,
    pub(super) make: Arc<M>,
    /// Sockets to listen on besides those that there are.
    pub(super) sockets: Vec<Bound>,
    /// Is told whether this worker can take it.
    pub(super) ready: mpsc::Sender<Result<(), BoxError>>,
    /// Says that all can; is dropped when one can't.
    pub(super) go: oneshot::Receiver<()>,
}

/// Runs a worker on this thread to its end.
pub(super) fn run<H, M, F>(setup: Setup<M>, make: Arc<M>) -> Result<Report, BoxError>
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

async fn serve<H, M, F>(mut setup: Setup<M>, make: Arc<M>) -> Result<Report, BoxError>
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
        handler = make(worker.clone()) => handler?,
        () = reached(&mut stopping, Phase::Closing) => return Ok(Report::default()),
    };
    // What it holds must not outlive the configuration that it is of.
    drop(make);
    let shared = Shared::new(&setup.config, handler, setup.room, setup.stopping);
    let (connections, exchanges) = (shared.connections.clone(), Arc::clone(&shared.exchanges));
    let mut serving = Serving {
        worker,
        config: setup.config,
        current: Arc::new(Current::new(shared)),
        listening: JoinSet::new(),
    };
    for Bound { socket, entrance } in setup.sockets {
        serving.listen(Socket::new(socket)?, entrance);
    }
    // Who waits for it is there as long as it is not told to stop.
    setup.started.send(()).await.unwrap_or_default();
    tokio::select! {
        () = reached(&mut stopping, Phase::Closing) => {}
        () = serving.follow(&mut setup.changes) => {}
    }
    // A task that panicked has closed its socket, too.
    while serving.listening.join_next().await.is_some() {}
    exchanges.draining.store(true, Ordering::Relaxed);
    drop(setup.ears);
    reached(&mut stopping, Phase::Yielding).await;
    let drained = async {
        // In this order: connections begin tunnels and tasks, and not the other way round.
        connections.idle().await;
        tasks.idle().await;
    };
    tokio::select! {
        // An exchange that is still running is counted below.
        _ = timeout(serving.config.timeouts.drain, drained) => {}
        () = reached(&mut stopping, Phase::Stopped) => {}
    }
    Ok(Report {
        finished: exchanges.finished.load(Ordering::Relaxed),
        cut_off: usize::try_from(exchanges.running.get())
            .unwrap_or(usize::MAX)
            .saturating_add(tasks.running()),
    })
}

/// A worker that serves.
struct Serving<H> {
    worker: Worker,
    config: Arc<Config>,
    /// What the next connection is served with.
    current: Arc<Current<Shared<H>>>,
    listening: JoinSet<()>,
}

impl<H: Handler> Serving<H> {
    fn listen(&mut self, socket: Socket, entrance: Arc<Entrance>) {
        let current = Arc::clone(&self.current);
        self.listening.spawn(accept_all(socket, entrance, current));
    }

    /// Takes one configuration after the other.
    async fn follow<M, F>(&mut self, changes: &mut mpsc::Receiver<Change<M>>)
    where
        M: Fn(Worker) -> F,
        F: Future<Output = Result<H, BoxError>>,
    {
        while let Some(change) = changes.recv().await {
            self.take(change).await;
        }
        // The server is gone, which the phase tells.
        std::future::pending::<()>().await;
    }

    /// Makes everything that can fail, and uses it when all workers have.
    async fn take<M, F>(&mut self, change: Change<M>)
    where
        M: Fn(Worker) -> F,
        F: Future<Output = Result<H, BoxError>>,
    {
        let prepare = async {
            let handler = (change.make)(self.worker.clone()).await?;
            let sockets = change.sockets.into_iter().map(|bound| {
                let socket = Socket::new(bound.socket)?;
                Ok::<_, io::Error>((socket, bound.entrance))
            });
            Ok((handler, sockets.collect::<io::Result<Vec<_>>>()?))
        };
        let (prepared, said) = match prepare.await {
            Ok(prepared) => (Some(prepared), Ok(())),
            Err(error) => (None, Err(error)),
        };
        // When nobody hears it, nobody says go.
        change.ready.send(said).await.unwrap_or_default();
        if let (Some((handler, sockets)), Ok(())) = (prepared, change.go.await) {
            let shared = self.current.get();
            shared.handler.set(handler);
            self.current.set(shared.under(&change.config));
            self.config = change.config;
            for (socket, entrance) in sockets {
                self.listen(socket, entrance);
            }
        }
        // Those that were removed have ended.
        while self.listening.try_join_next().is_some() {}
    }
}

async fn accept_all<H: Handler>(
    socket: Socket,
    entrance: Arc<Entrance>,
    current: Arc<Current<Shared<H>>>,
) {
    let mut stopping = current.get().stopping.clone();
    let mut removed = entrance.removed.subscribe();
    tokio::select! {
        () = reached(&mut stopping, Phase::Closing) => {}
        () = accept_each(&socket, &entrance, &current, Last::Never) => {}
        () = async { drop(removed.wait_for(|removed| *removed).await) } => {
            // Who has connected already would be cut off.
            accept_each(&socket, &entrance, &current, Last::NobodyWaits).await;
        }
    }
}

/// When accepting ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Never,
    /// With the connections that are there.
    NobodyWaits,
}

async fn accept_each<H: Handler>(
    socket: &Socket,
    entrance: &Arc<Entrance>,
    current: &Current<Shared<H>>,
    last: Last,
) {
    loop {
        let (wire, remote) = tokio::select! {
            biased;
            accepted = accept(socket) => accepted,
            () = std::future::ready(()), if last == Last::NobodyWaits => return,
        };
        let shared = current.get();
        // After accepting, not before: a worker that waits for a connection must not sit on the
        // place that a connection to another worker's socket needs. So each socket may hold one
        // connection more, of which nothing is read.
        let Ok(place) = Arc::clone(&shared.places).acquire_owned().await else {
            return;
        };
        let accepted = Accepted {
            wire,
            remote,
            door: entrance.door.get(),
            at: Instant::now(),
        };
        let task = connection::serve(accepted, Box::new(place), Arc::clone(&shared));
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

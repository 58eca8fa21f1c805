//! One worker: a thread, a runtime, its sockets, its connections.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, error};

use super::{BoxError, Phase, Report};
use crate::config::Config;
use crate::proxy::tasks::Tasks;
use crate::proxy::{Body, Handler, Peer, Worker};

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// hyper keeps this many header fields on the stack; any other bound costs an allocation.
const HYPERS_MAX_FIELDS: usize = 100;
/// The most that hyper reads at once. hyper's own bound would be 400 kB a connection.
const READ_BUFFER: usize = 64 * 1024;
/// Tells the client that no request after this one is read (RFC 9112 section 9.6).
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// What a worker is started with.
pub(super) struct Setup {
    pub(super) index: usize,
    pub(super) config: Arc<Config>,
    pub(super) listeners: Vec<StdListener>,
    /// Client connections that the whole process may still take.
    pub(super) places: Arc<Semaphore>,
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
    let shared = Arc::new(Shared {
        http: http(&setup.config),
        handler: Arc::new(handler),
        places: setup.places,
        connections: Tasks::default(),
        exchanges: Arc::default(),
        stopping: setup.stopping,
    });
    let mut listening = JoinSet::new();
    for listener in setup.listeners {
        let listener = TcpListener::from_std(listener)?;
        listening.spawn(accept_all(listener, Arc::clone(&shared)));
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

/// How hyper reads requests.
fn http(config: &Config) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        // Runs from the end of the last exchange, so that it bounds idle connections, too.
        .header_read_timeout(config.timeouts.client_head)
        // A client that closes its half is gone: its upstream exchange is dropped.
        .half_close(false)
        .max_header_size(config.limits.max_head_bytes)
        .max_buf_size(config.limits.max_head_bytes.max(READ_BUFFER));
    if config.limits.max_head_fields != HYPERS_MAX_FIELDS {
        http.max_headers(config.limits.max_head_fields);
    }
    http
}

/// Waits until stopping has come that far. A server that is gone counts as stopped.
async fn reached(stopping: &mut watch::Receiver<Phase>, phase: Phase) {
    drop(stopping.wait_for(|&now| now >= phase).await);
}

/// What all connections of a worker share.
struct Shared<H> {
    http: http1::Builder,
    handler: Arc<H>,
    places: Arc<Semaphore>,
    connections: Tasks,
    exchanges: Arc<Exchanges>,
    stopping: watch::Receiver<Phase>,
}

async fn accept_all<H: Handler>(listener: TcpListener, shared: Arc<Shared<H>>) {
    let mut stopping = shared.stopping.clone();
    tokio::select! {
        () = reached(&mut stopping, Phase::Closing) => {}
        () = accept_each(&listener, &shared) => {}
    }
}

async fn accept_each<H: Handler>(listener: &TcpListener, shared: &Arc<Shared<H>>) {
    loop {
        let (stream, address) = accept(listener).await;
        // After accepting, not before: a worker that waits for a connection must not sit on the
        // place that a connection to another worker's socket needs. So each socket may hold one
        // connection more, of which nothing is read.
        let Ok(place) = Arc::clone(&shared.places).acquire_owned().await else {
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a client left before it was served");
            continue;
        }
        let peer = Arc::new(Peer::new(address, false).with_place(place));
        let task = serve_connection(stream, peer, Arc::clone(shared));
        shared.connections.spawn(task);
    }
}

/// Accepts the next connection, however long it takes.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
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

async fn serve_connection<H: Handler>(stream: TcpStream, peer: Arc<Peer>, shared: Arc<Shared<H>>) {
    let mut stopping = shared.stopping.clone();
    let service = service_fn(|request| {
        let exchange = Exchange::begin(&shared.exchanges);
        let shared = Arc::clone(&shared);
        let peer = Arc::clone(&peer);
        async move {
            let mut response = shared.handler.handle(request, &peer).await;
            // The connection learns of the stop in a turn of its own, which may come later.
            let is_last = *shared.stopping.borrow() >= Phase::Draining;
            if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, CLOSE);
            }
            Ok::<_, Infallible>(response.map(|body| Counted {
                body,
                _exchange: exchange,
            }))
        }
    });
    let connection = shared.http.serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection.with_upgrades());
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = reached(&mut stopping, Phase::Draining) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Mostly clients that went away, and idle connections whose time was over.
        debug!(%error, "a client connection ended");
    }
}

/// Counts exchanges, for the report of a stop.
#[derive(Debug, Default)]
struct Exchanges {
    running: AtomicUsize,
    draining: AtomicBool,
    finished: AtomicUsize,
}

/// One exchange, from its head read to its body ended.
struct Exchange(Arc<Exchanges>);

impl Exchange {
    fn begin(exchanges: &Arc<Exchanges>) -> Self {
        exchanges.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(exchanges))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        if self.0.draining.load(Ordering::Relaxed) {
            self.0.finished.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A response body that keeps its exchange running.
struct Counted {
    body: Body,
    _exchange: Exchange,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use hyper::body::Incoming;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Is told to stop in the very moment in which it answers.
    struct StoppedMeanwhile(watch::Sender<Phase>);

    impl Handler for StoppedMeanwhile {
        async fn handle(&self, _request: Request<Incoming>, _peer: &Arc<Peer>) -> Response<Body> {
            self.0.send_replace(Phase::Draining);
            Response::new(Body::Full(Bytes::from_static(b"ok")))
        }
    }

    #[tokio::test]
    async fn an_answer_that_crosses_the_stop_closes_its_connection() {
        let (phase, stopping) = watch::channel(Phase::Serving);
        let shared = Arc::new(Shared {
            http: http1::Builder::new(),
            handler: Arc::new(StoppedMeanwhile(phase)),
            places: Arc::new(Semaphore::new(1)),
            connections: Tasks::default(),
            exchanges: Arc::default(),
            stopping,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        serve_connection(stream, Arc::new(Peer::new(from, false)), shared).await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.ends_with("ok"), "{answer}");
    }

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

//! One client connection: what is spoken on it, and its exchanges.

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::crowd::Crowd;
use super::current::Current;
use super::frames::Meter;
use super::gauge::{Gauge, Overdue, Patience, Verdict};
use super::interim::Ahead;
use super::opening::{Accepted, Opening, PREFACE, Protocol, open};
use super::streams::{Streams, asked};
use super::transport::{Gauged, Transport};
use super::{Phase, reached};
use crate::config::Config;
use crate::proxy::body::ResponseBodyError;
use crate::proxy::interim::Interims;
use crate::proxy::tasks::Tasks;
use crate::proxy::{Body, Handler, Peer};
use crate::tally::Tally;
use crate::telemetry::chain;

/// hyper keeps this many header fields on the stack; any other bound costs an allocation.
const HYPERS_MAX_FIELDS: usize = 100;
/// The most that hyper reads at once, and keeps of what can't be written yet, for each stream of
/// HTTP/2. hyper's own bound would be 400 kB.
const BUFFER: usize = 64 * 1024;
/// Tells the client that no request after this one is read (RFC 9112 section 9.6).
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// A connection that has been idle for so long keeps nothing but its socket: reading and writing take
/// buffers of 20 KiB and more, and most connections of browsers are idle. To take them again costs
/// little beside the request that is then served.
const REST: Duration = Duration::from_millis(500);
/// How long a client that was told of the end has to close its side.
const LINGER: Duration = Duration::from_secs(5);

/// What all connections of a worker share that were opened under the same configuration.
pub(super) struct Shared<H> {
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
    limits: Limits,
    /// Whether clients of HTTP/1.1 get interim responses.
    interim_responses: bool,
    patience: Patience,
    pub(super) opening: Opening,
    pub(super) crowd: Crowd,
    /// All connections have the same one here, so that a new one is there for the next request on
    /// each of them.
    pub(super) handler: Arc<Current<H>>,
    pub(super) places: Arc<Semaphore>,
    pub(super) connections: Tasks,
    pub(super) exchanges: Arc<Exchanges>,
    pub(super) stopping: watch::Receiver<Phase>,
}

/// Connections that the whole process may still take.
#[derive(Clone)]
pub(super) struct Room {
    /// Those that are taken included.
    size: Arc<AtomicUsize>,
    pub(super) places: Arc<Semaphore>,
    pub(super) crowd: Crowd,
}

impl Room {
    pub(super) fn new(config: &Config) -> Self {
        let places = config.limits.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            size: Arc::new(AtomicUsize::new(places)),
            places: Arc::new(Semaphore::new(places)),
            crowd: Crowd::new(config.limits.max_connections_per_address),
        }
    }

    /// Takes the limits of another configuration. Connections that are there stay; where they are too
    /// many now, the places that they give back are taken away. Within a runtime.
    pub(super) fn resize(&self, config: &Config) {
        self.crowd.allow(config.limits.max_connections_per_address);
        let new = config.limits.max_connections.min(Semaphore::MAX_PERMITS);
        let old = self.size.swap(new, Ordering::Relaxed);
        if new > old {
            self.places.add_permits(new - old);
            return;
        }
        let places = Arc::clone(&self.places);
        let too_many = u32::try_from(old - new).unwrap_or(u32::MAX);
        // At once when they are free. Otherwise it stands first in the queue until they are.
        tokio::spawn(async move {
            if let Ok(taken) = places.acquire_many_owned(too_many).await {
                taken.forget();
            }
        });
    }
}

/// Bounds that are held here and not by hyper.
#[derive(Clone, Copy, Debug)]
struct Limits {
    requests: u64,
    fields: usize,
    control_frames: u32,
}

impl Limits {
    fn of(config: &Config) -> Self {
        Self {
            requests: config.limits.max_requests_per_connection.into(),
            fields: config.limits.max_head_fields,
            control_frames: config.limits.http2_max_control_frames,
        }
    }
}

fn patience(config: &Config) -> Patience {
    Patience {
        head: config.timeouts.client_head,
        idle: config.timeouts.client_idle,
        write: config.timeouts.client_write,
        rest: REST,
    }
}

fn opening(config: &Config) -> Opening {
    Opening {
        handshake: config.timeouts.client_handshake,
        head: config.timeouts.client_head,
        trust: config.forwarding.trust.clone(),
    }
}

impl<H: Handler> Shared<H> {
    pub(super) fn new(
        config: &Config,
        handler: H,
        room: Room,
        mut stopping: watch::Receiver<Phase>,
    ) -> Self {
        // Nobody marks it as seen, so that whether it has changed says whether it serves still.
        if *stopping.borrow_and_update() != Phase::Serving {
            stopping.mark_changed();
        }
        Self {
            http1: http1(config),
            http2: http2(config),
            limits: Limits::of(config),
            interim_responses: config.forwarding.interim_responses,
            patience: patience(config),
            opening: opening(config),
            crowd: room.crowd,
            handler: Arc::new(Current::new(handler)),
            places: room.places,
            connections: Tasks::default(),
            exchanges: Arc::default(),
            stopping,
        }
    }

    /// Whether the worker has been told of anything. To ask this costs less than to ask of what.
    fn has_news(&self) -> bool {
        !matches!(self.stopping.has_changed(), Ok(false))
    }

    /// Whether a successor serves, so that answers end their connections.
    fn is_yielding(&self) -> bool {
        self.has_news() && *self.stopping.borrow() >= Phase::Yielding
    }

    /// The same worker, for connections that are opened under another configuration.
    pub(super) fn under(&self, config: &Config) -> Self {
        Self {
            http1: http1(config),
            http2: http2(config),
            limits: Limits::of(config),
            interim_responses: config.forwarding.interim_responses,
            patience: patience(config),
            opening: opening(config),
            crowd: self.crowd.clone(),
            handler: Arc::clone(&self.handler),
            places: Arc::clone(&self.places),
            connections: self.connections.clone(),
            exchanges: Arc::clone(&self.exchanges),
            stopping: self.stopping.clone(),
        }
    }
}

/// How hyper reads requests of HTTP/1. Times are not its business: see [`Gauge`].
fn http1(config: &Config) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(None)
        // A client that closes its half is gone: its upstream exchange is dropped.
        .half_close(false)
        .max_header_size(config.limits.max_head_bytes)
        .max_buf_size(config.limits.max_head_bytes.max(BUFFER));
    if config.limits.max_head_fields != HYPERS_MAX_FIELDS {
        http.max_headers(config.limits.max_head_fields);
    }
    http
}

/// How hyper and h2 read requests of HTTP/2. The bound on a head bounds CONTINUATION frames, too:
/// h2 takes no more of them than such a head needs.
fn http2(config: &Config) -> http2::Builder<Streams> {
    let limits = &config.limits;
    let ping = config.timeouts.client_ping;
    let mut http = http2::Builder::new(Streams {
        patience: config.timeouts.client_write,
    });
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_max_streams)
        .max_pending_accept_reset_streams(limits.http2_max_resets)
        .max_local_error_reset_streams(limits.http2_max_resets)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(limits.http2_stream_window)
        .initial_connection_window_size(limits.http2_connection_window)
        .max_send_buf_size(BUFFER)
        // Websockets (RFC 8441).
        .enable_connect_protocol()
        .keep_alive_interval((!ping.is_zero()).then_some(ping))
        .keep_alive_timeout(ping);
    http
}

/// Serves a connection to its end. `place` is given back when nothing of it is left.
pub(super) async fn serve<H: Handler>(
    accepted: Accepted,
    place: Box<dyn Any + Send + Sync>,
    shared: Arc<Shared<H>>,
) {
    let at = accepted.at;
    let mut stopping = shared.stopping.clone();
    let opened = tokio::select! {
        opened = open(accepted, &shared) => opened,
        // One of which nothing is known yet is an idle one.
        () = reached(&mut stopping, Phase::Draining) => return,
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err((remote, error)) => {
            debug!(client = %remote, error = chain(&error), "a connection came to nothing");
            return;
        }
    };
    let gauge = Arc::new(Gauge::new(at));
    let mut io = Gauged::new(opened.transport, Arc::clone(&gauge));
    let mut peer =
        Peer::new(opened.remote, opened.tls).with_place(Box::new((place, opened.member)));
    peer = peer.with_client_cert(opened.client_cert);
    match opened.protocol {
        Protocol::Http2 => {
            let max = shared.limits.control_frames;
            io = io.metered(Meter::new(max, PREFACE.len()));
        }
        Protocol::Http1 if shared.interim_responses => {
            let interims = Arc::<Interims>::default();
            io = io.with_interims(Ahead::new(Arc::clone(&interims)));
            peer = peer.with_interims(interims);
        }
        Protocol::Http1 => {}
    }
    let client = Arc::new(Client {
        peer: Arc::new(peer),
        gauge,
        shared,
    });
    if let Err(error) = speak(io, opened.protocol, &client).await {
        // Mostly clients that went away.
        debug!(client = %opened.remote, %error, "a client connection ended");
    }
}

/// A connection, for its exchanges.
struct Client<H> {
    peer: Arc<Peer>,
    gauge: Arc<Gauge>,
    shared: Arc<Shared<H>>,
}

impl<H> Client<H> {
    /// Whom a request is from. With HTTP/2 a tunnel is a part of the connection, which must not count
    /// as idle as long as somebody holds the peer: such a request has one of its own.
    fn peer_of(&self, request: &Request<Incoming>) -> Option<Arc<Peer>> {
        if request.method() != Method::CONNECT {
            return None;
        }
        let peer = Peer::new(self.peer.remote(), self.peer.tls())
            .with_client_cert(self.peer.client_cert().cloned());
        let stay = Stay::new(&self.gauge);
        let peer = peer.with_place(Box::new((Arc::clone(&self.peer), stay)));
        Some(Arc::new(peer))
    }
}

/// Keeps a connection from being idle.
struct Stay(Arc<Gauge>);

impl Stay {
    fn new(gauge: &Arc<Gauge>) -> Self {
        gauge.stay();
        Self(Arc::clone(gauge))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Lets hyper speak.
async fn speak<H: Handler>(
    io: Gauged<Transport>,
    protocol: Protocol,
    client: &Arc<Client<H>>,
) -> Result<(), hyper::Error> {
    match protocol {
        Protocol::Http1 => speak_http1(io, client).await,
        Protocol::Http2 => {
            client.gauge.is_multiplexed();
            let service = service_fn(|request| answer(Arc::clone(client), request));
            let connection = client
                .shared
                .http2
                .serve_connection(TokioIo::new(io), service);
            // Boxed, so that connections of HTTP/1 have no room for it.
            Box::pin(async move {
                let mut connection = pin!(connection);
                drive(connection.as_mut(), client, Phase::Yielding).await?;
                Ok(())
            })
            .await
        }
    }
}

/// Lets hyper speak HTTP/1, and be away between requests that are far from each other.
async fn speak_http1<H: Handler>(
    mut io: Gauged<Transport>,
    client: &Arc<Client<H>>,
) -> Result<(), hyper::Error> {
    loop {
        let service = service_fn(|request| answer(Arc::clone(client), request));
        let connection = client
            .shared
            .http1
            .serve_connection(TokioIo::new(io), service);
        // Boxed, so that it can go.
        let mut connection = Box::new(connection.with_upgrades());
        match drive(Pin::new(&mut *connection), client, Phase::Draining).await? {
            End::Over => return Ok(()),
            End::Rests(until) => {
                let Some(parts) = connection.into_parts() else {
                    return Ok(());
                };
                io = parts.io.into_inner();
                io.unread(parts.read_buf);
                rest(&mut io, client, until).await;
            }
        }
    }
}

/// Waits until there is something to do for hyper: the client says something or goes away, its time is
/// over, or the worker stops.
async fn rest<H>(io: &mut Gauged<Transport>, client: &Client<H>, until: Instant) {
    let mut stopping = client.shared.stopping.clone();
    tokio::select! {
        () = poll_fn(|cx| io.poll_readable(cx)) => {}
        () = sleep_until(until) => {}
        () = reached(&mut stopping, Phase::Draining) => {}
    }
}

/// Why hyper does not go on.
enum End {
    /// The connection has ended.
    Over,
    /// Nothing is under way, and may not be until this moment, when the client's time is over.
    Rests(Instant),
}

/// What both of hyper's connections can.
trait Drive: Future<Output = Result<(), hyper::Error>> {
    /// Ends it when what is under way has ended.
    fn finish(self: Pin<&mut Self>);
}

impl<I, S, B> Drive for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<super::BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: http_body::Body + 'static,
    B::Error: Into<super::BoxError>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B, E> Drive for http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<super::BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<super::BoxError>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection until it ends or rests, stopping comes to `last`, or the client's time is over.
///
/// HTTP/2 says which requests are not served any more, and waits for those that are. With HTTP/1, one
/// that crosses the end of its connection is lost, so where a successor serves, the next answer ends it.
async fn drive<H: Handler>(
    mut connection: Pin<&mut impl Drive>,
    client: &Client<H>,
    last: Phase,
) -> Result<End, hyper::Error> {
    let (gauge, shared) = (&client.gauge, &client.shared);
    let mut stopping = shared.stopping.clone();
    let mut stop = pin!(reached(&mut stopping, last));
    // It is looked at what the connection does before anybody waits.
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut finishing: Option<Instant> = None;
    // Whom the stop and the timer wake. They are asked only as often as is needed to keep that so: a
    // connection runs several times for each exchange.
    let mut woken: Option<Waker> = None;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended.map(|()| End::Over));
            }
            let waits = woken.as_ref().is_some_and(|it| it.will_wake(cx.waker()));
            // Asked once for the waker, and then only when there is news.
            let mut is_over = || (!waits || shared.has_news()) && stop.as_mut().poll(cx).is_ready();
            let is_last = gauge.begun() >= shared.limits.requests;
            if finishing.is_none() && (is_last || is_over()) {
                finishing = Some(Instant::now());
                connection.as_mut().finish();
                continue;
            }
            if waits && !timer.is_elapsed() {
                return Poll::Pending;
            }
            if timer.as_mut().poll(cx).is_pending() {
                // One that has no budget left was not asked.
                woken = has_budget_remaining().then(|| cx.waker().clone());
                return Poll::Pending;
            }
            woken = None;
            let now = Instant::now();
            match gauge.look(now, &shared.patience) {
                Verdict::Fine(next) => timer.as_mut().reset(next),
                Verdict::Rests(end) if finishing.is_none() => {
                    return Poll::Ready(Ok(End::Rests(end)));
                }
                Verdict::Rests(end) => timer.as_mut().reset(end),
                Verdict::Overdue(Overdue::Idle) if finishing.is_none() => {
                    finishing = Some(now);
                    connection.as_mut().finish();
                    timer.as_mut().reset(now + LINGER);
                }
                Verdict::Overdue(overdue) => {
                    debug!(client = %client.peer.remote(), ?overdue, "a client took too long");
                    return Poll::Ready(Ok(End::Over));
                }
            }
        }
    })
    .await
}

/// One exchange.
async fn answer<H: Handler>(
    client: Arc<Client<H>>,
    request: Request<Incoming>,
) -> Result<Response<Counted<H>>, Infallible> {
    let is_http2 = request.version() == Version::HTTP_2;
    let has_body = !request.body().is_end_stream();
    let (exchange, number) = Exchange::begin(client, has_body);
    let client = &exchange.0;
    let shared = &client.shared;
    let has_too_many_fields = is_http2 && request.headers().len() > shared.limits.fields;
    let handler = shared.handler.get();
    let mut response = if has_too_many_fields {
        handler.refuse(request, &client.peer)
    } else {
        let own = client.peer_of(&request);
        let peer = own.as_ref().unwrap_or(&client.peer);
        let mut handling = pin!(handler.handle(request, peer));
        poll_fn(|cx| asked(handling.as_mut().poll(cx))).await
    };
    if is_http2 {
        // RFC 9113 section 8.2.2: the connection is not the stream's business.
        response.headers_mut().remove(CONNECTION);
    } else {
        // The connection learns of the stop in a turn of its own, which may come later.
        let is_last = number >= shared.limits.requests || shared.is_yielding();
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
    }
    Ok(response.map(|body| Counted {
        body,
        _exchange: exchange,
    }))
}

/// Counts exchanges, for the report of a stop.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    pub(super) running: Tally,
    pub(super) draining: AtomicBool,
    pub(super) finished: AtomicUsize,
}

/// One exchange, from its head read to its body ended.
struct Exchange<H>(Arc<Client<H>>);

impl<H> Exchange<H> {
    /// Begins one; says which one it is on its connection, counted from 1.
    fn begin(client: Arc<Client<H>>, has_body: bool) -> (Self, u64) {
        client.shared.exchanges.running.add();
        let number = client.gauge.begin(has_body);
        (Self(client), number)
    }
}

impl<H> Drop for Exchange<H> {
    fn drop(&mut self) {
        let exchanges = &self.0.shared.exchanges;
        self.0.gauge.end();
        exchanges.running.subtract();
        if exchanges.draining.load(Ordering::Relaxed) {
            exchanges.finished.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A response body that keeps its exchange running.
struct Counted<H> {
    body: Body,
    _exchange: Exchange<H>,
}

impl<H> http_body::Body for Counted<H> {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        asked(Pin::new(&mut self.body).poll_frame(cx))
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
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::super::sockets::Door;
    use super::super::tests::kit;
    use super::super::transport::{Socket, Wire};
    use super::*;
    use crate::config::{ListenAddress, Listener};
    use crate::proxy::Remote;

    /// Is told to stop in the very moment in which it answers.
    struct StoppedMeanwhile(watch::Sender<Phase>);

    impl Handler for StoppedMeanwhile {
        async fn handle(&self, _request: Request<Incoming>, _peer: &Arc<Peer>) -> Response<Body> {
            self.0.send_replace(Phase::Draining);
            Response::new(Body::Full(Bytes::from_static(b"ok")))
        }
    }

    /// Says which request it was, and holds on to its body without reading it.
    #[derive(Default)]
    struct Counting(AtomicUsize, Mutex<Vec<Incoming>>);

    impl Handler for Counting {
        async fn handle(&self, request: Request<Incoming>, _peer: &Arc<Peer>) -> Response<Body> {
            self.1.lock().unwrap().push(request.into_body());
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            Response::new(Body::Full(Bytes::from(format!("answer {number}."))))
        }
    }

    /// A connection on which HTTP/1 is spoken, the client's end of it, and what would stop the worker.
    fn connection() -> (
        Gauged<Transport>,
        Arc<Client<Counting>>,
        UnixStream,
        watch::Sender<Phase>,
    ) {
        let (phase, stopping) = watch::channel(Phase::Serving);
        let config = kit::config(SocketAddr::from(([127, 0, 0, 1], 1)));
        let room = Room::new(&config);
        let gauge = Arc::new(Gauge::new(Instant::now()));
        let client = Arc::new(Client {
            peer: Arc::new(Peer::new(Remote::Unknown, false)),
            gauge: Arc::clone(&gauge),
            shared: Arc::new(Shared::new(&config, Counting::default(), room, stopping)),
        });
        let (server, browser) = UnixStream::pair().unwrap();
        let transport = Transport::Plain(Wire::new(Socket::Unix(server)));
        (Gauged::new(transport, gauge), client, browser, phase)
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    async fn read_until(browser: &mut UnixStream, end: &str) {
        let mut read = String::new();
        while !read.ends_with(end) {
            let byte = browser.read_u8().await.unwrap();
            read.push(char::from(byte));
        }
    }

    /// As nothing else happens, time passes at once.
    #[tokio::test(start_paused = true)]
    async fn a_connection_rests_when_it_is_idle_and_goes_on_as_if_nothing_had_been() {
        let (io, client, mut browser, _phase) = connection();
        let serving = speak_http1(io, &client);
        let using = async {
            for number in 0..5 {
                let (first, second) = REQUEST.split_at(10);
                browser.write_all(first).await.unwrap();
                // It is awake as long as a head is on its way.
                tokio::time::sleep(REST * 3).await;
                browser.write_all(second).await.unwrap();
                read_until(&mut browser, &format!("answer {number}.")).await;
                tokio::time::sleep(REST * 3).await;
                // All that hyper needs is gone.
                assert_eq!(Arc::strong_count(&client), 1);
            }
            // Two at once, and the beginning of a third.
            let burst = [REQUEST, REQUEST, b"GET"].concat();
            browser.write_all(&burst).await.unwrap();
            read_until(&mut browser, "answer 6.").await;
            tokio::time::sleep(REST * 3).await;
            browser.write_all(REQUEST.split_at(3).1).await.unwrap();
            read_until(&mut browser, "answer 7.").await;
            tokio::time::sleep(REST * 3).await;
            drop(browser);
        };
        let (served, ()) = tokio::join!(serving, using);
        served.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_rests_is_closed_when_its_time_is_over() {
        let (io, client, mut browser, _phase) = connection();
        let serving = speak_http1(io, &client);
        let using = async {
            browser.write_all(REQUEST).await.unwrap();
            read_until(&mut browser, "answer 0.").await;
            let begin = Instant::now();
            assert_eq!(browser.read(&mut [0]).await.unwrap(), 0);
            begin.elapsed()
        };
        let (served, waited) = tokio::join!(serving, using);
        served.unwrap();
        assert_eq!(waited.as_secs(), client.shared.patience.idle.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_still_on_its_way_is_never_taken_for_a_request() {
        let (io, client, mut browser, _phase) = connection();
        let serving = speak_http1(io, &client);
        let using = async {
            let length = REQUEST.len();
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            browser.write_all(head.as_bytes()).await.unwrap();
            read_until(&mut browser, "answer 0.").await;
            tokio::time::sleep(REST * 3).await;
            browser.write_all(REQUEST).await.unwrap();
            tokio::time::sleep(REST * 3).await;
            assert_eq!(client.shared.handler.get().0.load(Ordering::Relaxed), 1);
            drop(browser);
        };
        let (_, ()) = tokio::join!(serving, using);
    }

    #[tokio::test]
    async fn an_answer_that_crosses_the_stop_closes_its_connection() {
        let (phase, stopping) = watch::channel(Phase::Serving);
        let config = kit::config(SocketAddr::from(([127, 0, 0, 1], 1)));
        let room = Room::new(&config);
        let handler = StoppedMeanwhile(phase);
        let shared = Arc::new(Shared::new(&config, handler, room, stopping));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        let accepted = Accepted {
            wire: Wire::new(Socket::Tcp(stream)),
            remote: Remote::Address(from),
            door: Arc::new(Door::plain(Listener::plain(ListenAddress::Tcp(address)))),
            at: Instant::now(),
        };
        let serving = serve(accepted, Box::new(()), shared);
        // There may be ten thousand of them.
        assert!(size_of_val(&serving) < 4096);
        serving.await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.ends_with("ok"), "{answer}");
    }
}

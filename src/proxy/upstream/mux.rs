//! One worker's HTTP/2 connections to one server: many requests at a time by each of them.
//!
//! A request goes by the first connection that has room; when none has, one is opened, while others
//! that want the same wait for it. hyper drives these connections by tasks of their own. A connection
//! that the server ends (GOAWAY) gets no more requests, and what runs on it ends in its own time.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::proxy::body::RequestBody;

/// Requests at a time by one connection; the server may allow fewer (RFC 9113 section 5.1.2 advises
/// no less than 100).
const MAX_STREAMS: usize = 100;
/// As many are sent before the server has said how many it allows: it could refuse the others. (That
/// a server allows one only can't be told from that; the others then wait for each other.)
const BEFORE_SETTINGS: usize = 1;
/// Bytes that the server may send ahead of what the client takes, for each response ...
const STREAM_WINDOW: u32 = 128 * 1024;
/// ... and for all of a connection: as many as all its responses together, so that slow clients
/// don't stop the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;
/// Bytes of one request that wait to be written.
const SEND_BUFFER: usize = 128 * 1024;
/// How long the answer to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a server may take to say that it takes websockets.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);
/// hyper tells nobody when that comes, so it is looked for so often.
const SETTINGS_PAUSE: Duration = Duration::from_millis(2);

/// Waits until the server has said that it takes websockets (RFC 8441 section 3); `false` when it
/// does not say so in time.
pub(super) async fn takes_websockets<S>(
    connection: &Connection<TokioIo<S>, RequestBody, TokioExecutor>,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let deadline = Instant::now() + SETTINGS_TIMEOUT;
    while !connection.is_extended_connect_protocol_enabled() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(SETTINGS_PAUSE).await;
    }
    true
}

/// How connections are opened.
pub(super) fn builder(max_head: u32, ping: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(BEFORE_SETTINGS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(max_head)
        .keep_alive_interval((!ping.is_zero()).then_some(ping))
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false);
    builder
}

/// The connections.
#[derive(Default)]
pub(super) struct Mux {
    /// A std mutex: one thread uses it, and no await happens under it.
    channels: Mutex<Vec<Arc<Channel>>>,
    /// Held by whoever opens a connection.
    opening: tokio::sync::Mutex<()>,
}

/// One connection.
struct Channel {
    sender: SendRequest<RequestBody>,
    running: AtomicUsize,
    /// What the server allows, as far as it has told.
    allowed: AtomicUsize,
    address: Option<IpAddr>,
    /// When it was last used.
    used: Mutex<Instant>,
}

/// The right to one request by a connection; dropping it makes room for another.
pub(super) struct Stream {
    channel: Arc<Channel>,
    /// Whether the connection had been open before.
    pub(super) reused: bool,
}

impl Mux {
    /// Room on an open connection that `fits`.
    pub(super) fn take(&self, fits: impl Fn(Option<IpAddr>) -> bool) -> Option<Stream> {
        let mut channels = self.lock();
        channels.retain(|channel| !channel.sender.is_closed() && fits(channel.address));
        let channel = channels.iter().find(|channel| channel.has_room())?;
        Some(Stream::on(channel, true))
    }

    /// Waits for the right to open a connection; afterwards there may be one with room.
    pub(super) async fn open(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.opening.lock().await
    }

    /// Takes in a connection that was opened, and room on it.
    pub(super) fn put<S>(
        &self,
        sender: SendRequest<RequestBody>,
        connection: Connection<TokioIo<S>, RequestBody, TokioExecutor>,
        address: Option<IpAddr>,
    ) -> Stream
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let channel = Arc::new(Channel {
            sender,
            running: AtomicUsize::new(0),
            allowed: AtomicUsize::new(MAX_STREAMS),
            address,
            used: Mutex::new(Instant::now()),
        });
        let stream = Stream::on(&channel, false);
        tokio::spawn(drive(connection, Arc::downgrade(&channel)));
        self.lock().push(channel);
        stream
    }

    /// Lets go of connections that have been idle for so long; `false` when there are none left.
    pub(super) fn sweep(&self, idle: Duration, now: Instant) -> bool {
        let mut channels = self.lock();
        channels.retain(|channel| {
            let used = *channel.used.lock().unwrap_or_else(PoisonError::into_inner);
            let is_idle = channel.running.load(Ordering::Relaxed) == 0
                && now.saturating_duration_since(used) >= idle;
            !is_idle && !channel.sender.is_closed()
        });
        !channels.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Channel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes requests to the connection, and notes what the server allows.
async fn drive<S>(
    connection: Connection<TokioIo<S>, RequestBody, TokioExecutor>,
    channel: std::sync::Weak<Channel>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = std::pin::pin!(connection);
    let ended = std::future::poll_fn(|cx| {
        let polled = connection.as_mut().poll(cx);
        if let Some(channel) = channel.upgrade() {
            let allowed = match connection.current_max_send_streams() {
                // What is too much waits in the connection; another one would have to wait, too.
                BEFORE_SETTINGS => MAX_STREAMS,
                allowed => allowed.clamp(1, MAX_STREAMS),
            };
            channel.allowed.store(allowed, Ordering::Relaxed);
        }
        polled
    });
    if let Err(error) = ended.await {
        debug!(%error, "an upstream connection ended");
    }
}

impl Channel {
    fn has_room(&self) -> bool {
        self.running.load(Ordering::Relaxed) < self.allowed.load(Ordering::Relaxed)
    }
}

impl Stream {
    fn on(channel: &Arc<Channel>, reused: bool) -> Self {
        channel.running.fetch_add(1, Ordering::Relaxed);
        Self {
            channel: Arc::clone(channel),
            reused,
        }
    }

    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let mut sender = self.channel.sender.clone();
        sender.try_send_request(request).await
    }

    /// Lets no more requests go by this connection.
    pub(super) fn retire(&self, mux: &Mux) {
        mux.lock()
            .retain(|channel| !Arc::ptr_eq(channel, &self.channel));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let channel = &self.channel;
        channel.running.fetch_sub(1, Ordering::Relaxed);
        *channel.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

//! One worker's connections to one server.
//!
//! A request takes an idle connection, the one that was used last, or opens one; when the response's
//! body has been read to its end, the connection goes back. How many exchanges run at a time is
//! bounded, and with it the number of connections. hyper's own pooling client does the same at a
//! price of a tenth more CPU.
//!
//! Connections have no tasks of their own: the exchange drives its connection while it waits for
//! the head and reads the body (`link`), which saves a wake-up and a turn of the loop for each.
//! (Those have one in which an upload outlives its answer, that change the protocol, or that speak
//! HTTP/2.) Idle ones are looked after once a second.

mod multiplex;

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::UPGRADE;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use super::dial::{Dialed, Stream};
use super::link::{Link, Unanswered};
use super::mux::{self, Mux};
use super::server::{Running, ServerState};
use super::{Patience, UpstreamError};
use crate::config::{Http2, Scheme};
use crate::proxy::body::{Progress, RequestBody};
use crate::proxy::forward;
use crate::proxy::gather::Gathering;

/// The largest response head, and the most that is read at once. Signals of a whole session have
/// to fit; hyper's own limit would be 400 kB.
const MAX_RESPONSE_HEAD: usize = 128 * 1024;

/// How long an unused HTTP/2 connection is kept at least: its end is announced, so that no request
/// meets a connection that is just being closed.
const IDLE_HTTP2: Duration = Duration::from_mins(1);

/// How often idle connections are looked at, so that those which the upstream closed don't keep
/// their sockets.
const SWEEP: Duration = Duration::from_secs(1);

/// The bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolSettings {
    /// Exchanges at a time, and so connections.
    pub(super) max_connections: usize,
    /// How long opening a connection may take, and how long a request waits for its turn.
    pub(super) connect_timeout: Duration,
    /// How long an upload may go on after its response has ended.
    pub(super) upload_timeout: Duration,
    /// How long an unused connection is kept. It should be shorter than the application's own
    /// keep-alive, or requests will meet connections that are just being closed.
    pub(super) idle_timeout: Duration,
    /// How long an HTTP/2 connection with running requests may be silent until it is asked whether
    /// it is still there; zero is for ever.
    pub(super) ping: Duration,
}

/// One worker's connections to one server.
pub(super) struct Pool {
    state: Arc<ServerState>,
    /// Stands in for the `Host` that an HTTP/1.0 request may lack.
    authority: HeaderValue,
    settings: PoolSettings,
    builder: Builder,
    slots: Semaphore,
    /// Oldest first. A std mutex, since it is held for a few instructions and never across an
    /// await; only one thread ever comes here.
    idle: Mutex<VecDeque<Idle>>,
    /// Whether a task looks after the idle ones.
    swept: AtomicBool,
    speaks: Speaks,
    /// Whether a server that may choose has chosen HTTP/1.1.
    agreed_http1: AtomicBool,
    mux: Mux,
}

/// Which versions of HTTP a server is asked by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
    /// As the server says when TLS begins.
    Either,
}

/// What an exchange goes by.
enum Carrier {
    /// An HTTP/1.1 connection. Boxed as long as it is open, since each exchange hands it on many times.
    Link(Box<Link>),
    /// Room on an HTTP/2 connection.
    Stream(mux::Stream),
}

struct Idle {
    link: Box<Link>,
    since: Instant,
}

/// The right to run an exchange.
struct Slot(Arc<Pool>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.slots.add_permits(1);
    }
}

/// The right to a connection while its response is read. Dropping it closes the connection.
pub struct Lease {
    carrier: Carrier,
    slot: Slot,
    running: Option<Running>,
}

/// A request that got no response.
#[derive(Debug)]
pub(super) struct Failed {
    /// Why.
    pub(super) error: UpstreamError,
    /// The request, where not a byte of it was sent. Boxed, because this is rare.
    pub(super) unsent: Option<Box<Request<RequestBody>>>,
}

impl Failed {
    fn unsent(error: UpstreamError, request: Box<Request<RequestBody>>) -> Self {
        Self {
            error,
            unsent: Some(request),
        }
    }
}

impl From<UpstreamError> for Failed {
    fn from(error: UpstreamError) -> Self {
        Self {
            error,
            unsent: None,
        }
    }
}

impl Pool {
    /// A pool without connections.
    pub(super) fn new(state: Arc<ServerState>, http2: Http2, settings: PoolSettings) -> Arc<Self> {
        let speaks = match (state.server.scheme, http2) {
            (Scheme::Http, _) | (Scheme::Https, Http2::Never) => Speaks::Http1,
            (Scheme::H2c, _) | (Scheme::Https, Http2::Always) => Speaks::Http2,
            (Scheme::Https, Http2::Auto) => Speaks::Either,
        };
        let mut builder = Builder::new();
        builder
            .max_header_size(MAX_RESPONSE_HEAD)
            .max_buf_size(MAX_RESPONSE_HEAD);
        Arc::new(Self {
            authority: HeaderValue::try_from(state.server.address.authority())
                // An authority is visible ASCII.
                .unwrap_or(HeaderValue::from_static("localhost")),
            state,
            settings,
            builder,
            slots: Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)),
            idle: Mutex::default(),
            swept: AtomicBool::new(false),
            speaks,
            agreed_http1: AtomicBool::new(false),
            mux: Mux::default(),
        })
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// The target must be in origin-form. A `Host` is added if there is none. Whoever reads the
    /// response's body must do it by [`Lease::poll`].
    ///
    /// # Errors
    ///
    /// See [`Failed`], which says whether the request was certainly not sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection if the request was sent by it. The application
    /// may have acted upon it.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Box<Request<RequestBody>>,
        patience: Patience,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        forward::ensure_host(request.headers_mut(), &self.authority);
        let (slot, patience) = self.slot(patience).await?;
        if self.may_multiplex(&request) {
            return Box::pin(self.send_either_way(request, slot, patience)).await;
        }
        let progress = request.body().progress();
        let progress = progress.as_deref();
        let Some(mut link) = self.take_idle(patience.since) else {
            return Box::pin(self.send_afresh(request, slot, patience)).await;
        };
        let mut answered = link.send(request, progress, patience).await?;
        // The other side may have closed the connection since it was last used. If hyper gives the
        // request back unsent, it goes by a fresh one.
        if let Err(failure) = &mut answered
            && let Some(unsent) = failure.take_message()
        {
            let unsent = Box::new(unsent);
            return Box::pin(self.send_afresh(unsent, slot, patience)).await;
        }
        Self::conclude(answered, link, slot, progress)
    }

    /// Sends a request by a connection that is opened for it. Boxed where it is called, like all
    /// that is rare, since it would make the future of every request larger.
    async fn send_afresh(
        self: &Arc<Self>,
        request: Box<Request<RequestBody>>,
        slot: Slot,
        patience: Patience,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        match self.open().await {
            Ok(link) => self.send_by(link, request, slot, patience.anew()).await,
            Err(error) => Err(Failed::unsent(error, request)),
        }
    }

    /// Sends a request by a connection that has not been used.
    async fn send_by(
        self: &Arc<Self>,
        mut link: Box<Link>,
        request: Box<Request<RequestBody>>,
        slot: Slot,
        patience: Patience,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let progress = request.body().progress();
        let progress = progress.as_deref();
        let answered = link.send(request, progress, patience).await?;
        Self::conclude(answered, link, slot, progress)
    }

    /// Makes of what an HTTP/1.1 connection has brought what the exchange goes on with.
    fn conclude(
        answered: Result<Response<Incoming>, Unanswered>,
        mut link: Box<Link>,
        slot: Slot,
        progress: Option<&Progress>,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let response = answered.map_err(|mut failure| Failed {
            unsent: failure.take_message().map(Box::new),
            error: UpstreamError::of(failure.into_error(), progress),
        })?;
        // These go on whether or not somebody reads the response: an upload that the application
        // answers early, and the hand-over to a tunnel.
        if progress.is_some_and(|body| !body.has_ended())
            || response.status() == StatusCode::SWITCHING_PROTOCOLS
        {
            link.run_by_itself();
        }
        Ok((response, Lease::new(Carrier::Link(link), slot)))
    }

    /// Whether a request can go by HTTP/2. A change of protocol needs a connection of its own.
    fn may_multiplex(&self, request: &Request<RequestBody>) -> bool {
        match self.speaks {
            Speaks::Http1 => false,
            Speaks::Http2 => true,
            Speaks::Either => {
                !self.agreed_http1.load(Ordering::Relaxed)
                    && !request.headers().contains_key(UPGRADE)
            }
        }
    }

    /// Waits for the right to run an exchange. The time that this takes is not the application's.
    async fn slot(self: &Arc<Self>, patience: Patience) -> Result<(Slot, Patience), UpstreamError> {
        let (permit, patience) = match self.slots.try_acquire() {
            Ok(permit) => (permit, patience),
            Err(_taken) => (Box::pin(self.turn()).await?, patience.anew()),
        };
        permit.forget();
        Ok((Slot(Arc::clone(self)), patience))
    }

    /// Waits for a turn.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, UpstreamError> {
        match timeout(self.settings.connect_timeout, self.slots.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(AcquireError { .. })) | Err(_) => Err(UpstreamError::Busy),
        }
    }

    /// The connection that was used last. The others get old and are dropped, so that their number
    /// follows the load down.
    fn take_idle(&self, now: Instant) -> Option<Box<Link>> {
        let mut idle = self.lock_idle();
        let Idle { link, since } = idle.pop_back()?;
        if now.saturating_duration_since(since) >= self.settings.idle_timeout {
            // What is left is older still.
            idle.clear();
            return None;
        }
        // What a name led to may be somebody else's by now.
        self.state.dialer.leads_to(link.address()).then_some(link)
    }

    fn put_idle(self: &Arc<Self>, link: Box<Link>, now: Instant) {
        self.lock_idle().push_back(Idle { link, since: now });
        self.look_after();
    }

    /// Has idle connections looked after, as long as there are any.
    fn look_after(self: &Arc<Self>) {
        // It mostly is so, and to look costs less than to say so again.
        if !self.swept.load(Ordering::Relaxed) && !self.swept.swap(true, Ordering::Relaxed) {
            tokio::spawn(Self::sweep(Arc::downgrade(self)));
        }
    }

    /// Drops idle connections that have grown old or were closed, until there are none.
    async fn sweep(pool: Weak<Self>) {
        loop {
            sleep(SWEEP).await;
            let Some(pool) = pool.upgrade() else { return };
            let now = Instant::now();
            let mut idle = pool.lock_idle();
            idle.retain_mut(|Idle { link, since }| {
                let age = now.saturating_duration_since(*since);
                age < pool.settings.idle_timeout
                    && pool.state.dialer.leads_to(link.address())
                    && link.is_open()
            });
            let idle_http2 = pool.settings.idle_timeout.max(IDLE_HTTP2);
            let multiplexes = pool.mux.sweep(idle_http2, now);
            if idle.is_empty() && !multiplexes {
                // By the next time it may have learnt HTTP/2.
                pool.agreed_http1.store(false, Ordering::Relaxed);
                pool.swept.store(false, Ordering::Relaxed);
                return;
            }
        }
    }

    fn lock_idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a connection.
    async fn open(&self) -> Result<Box<Link>, UpstreamError> {
        let limit = self.settings.connect_timeout;
        let dialed = self.state.dialer.dial(limit, true).await?;
        self.speak(dialed).await
    }

    /// Begins HTTP/1.1 on a connection.
    async fn speak(&self, dialed: Dialed) -> Result<Box<Link>, UpstreamError> {
        let address = dialed.address;
        match dialed.stream {
            Stream::Tcp(stream) => self.link(stream, address).await,
            Stream::Unix(stream) => self.link(stream, address).await,
            Stream::Tls(stream) => self.link(*stream, address).await,
        }
    }

    async fn link<S>(&self, stream: S, address: Option<IpAddr>) -> Result<Box<Link>, UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = self
            .builder
            .handshake(TokioIo::new(Gathering(stream)))
            .await
            .map_err(UpstreamError::Broken)?;
        Ok(Box::new(Link::new(sender, connection, address)))
    }
}

impl Lease {
    fn new(carrier: Carrier, slot: Slot) -> Self {
        Self {
            carrier,
            slot,
            running: None,
        }
    }

    /// Counts as running on its server until the exchange has ended.
    pub(super) fn count(&mut self, running: Running) {
        self.running = Some(running);
    }

    /// Lets the connection read what has come and write what can go, and then `look`s for what it
    /// has brought. The response's body brings nothing unless it is asked in this way.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        look: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &mut self.carrier {
            Carrier::Link(link) => link.poll(cx, look),
            Carrier::Stream(_) => look(cx),
        }
    }

    /// Returns the connection to its pool. To be called when the response has been read to its
    /// end; the connection is kept once hyper says that the request has ended, too.
    pub fn give_back(self, now: Instant) {
        let Self {
            carrier,
            slot,
            running,
        } = self;
        drop(running);
        let mut link = match carrier {
            Carrier::Link(link) => link,
            // It makes room for the next.
            Carrier::Stream(stream) => return drop(stream),
        };
        if link.is_ready() {
            slot.0.put_idle(link, now);
            return;
        }
        if !link.is_open() {
            return;
        }
        // The application answered before it had read the whole request. The slot stays taken, so
        // that the bound on connections holds; a client that stalls may not hold it for ever.
        tokio::spawn(async move {
            let Slot(pool) = &slot;
            let limit = pool.settings.upload_timeout;
            if let Ok(true) = timeout(limit, link.ready()).await {
                pool.put_idle(link, Instant::now());
            }
        });
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("server", &self.state.server.url)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

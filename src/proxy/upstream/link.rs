//! One connection to an upstream, driven by whoever uses it.
//!
//! hyper makes two halves of a connection: one takes requests, the other does the work and must be
//! polled. Its usual place is a task of its own, which costs two wake-ups and two turns of the loop
//! for each exchange. Here the exchange polls it, before it looks for what the connection brings:
//! the response's head, or the next part of its body.
//!
//! What the two halves tell each other must then wake nobody, since the same task looks anyway. So
//! the working half is given a [`Bell`] for its waker. Its listener is the task that uses the
//! connection, while that waits; an idle connection has none.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::timer::{Timer, in_time};
use super::{Patience, UpstreamError};
use crate::proxy::body::{Progress, RequestBody};

/// A connection's working half; hyper has no name for one that can be upgraded.
type Running = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Why there is no response, with the request where it was not sent. Boxed, because it is as large
/// as a request, and every response would take as much room on its way.
pub(super) type Unanswered = Box<TrySendError<Request<RequestBody>>>;

/// One connection.
pub(super) struct Link {
    sender: SendRequest<RequestBody>,
    driver: Driver,
    address: Option<IpAddr>,
    timer: Timer,
}

/// The working half, and who is told when it can go on.
struct Driver {
    /// `None` when it has ended, or runs by itself.
    running: Option<Running>,
    bell: Arc<Bell>,
    waker: Waker,
}

impl Link {
    /// `address` is where it goes, where that is one of a name's.
    pub(super) fn new<S>(
        sender: SendRequest<RequestBody>,
        connection: Connection<TokioIo<S>, RequestBody>,
        address: Option<IpAddr>,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let bell = Arc::new(Bell::default());
        let driver = Driver {
            running: Some(Box::pin(connection.with_upgrades())),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        };
        Self {
            sender,
            driver,
            address,
            timer: Timer::default(),
        }
    }

    /// Where it goes, where that is one of a name's addresses.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Sends a request and waits for the head of its response, as long as the patience lasts.
    /// `progress` is that of the request's body.
    pub(super) async fn send(
        &mut self,
        request: Box<Request<RequestBody>>,
        progress: Option<&Progress>,
        patience: Patience,
    ) -> Result<Result<Response<Incoming>, Unanswered>, UpstreamError> {
        let Self {
            sender,
            driver,
            timer,
            ..
        } = self;
        let mut answered = pin!(sender.try_send_request(*request));
        let exchange = poll_fn(|cx| {
            let answered = driver.poll(cx, |cx| answered.as_mut().poll(cx));
            answered.map_err(Box::new)
        });
        in_time(exchange, timer, progress, patience).await
    }

    /// Lets the connection do what it can, and then looks for what it has brought.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        look: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.sender.is_ready() {
            // It waits for the next request, so all that it will bring is there.
            return look(cx);
        }
        self.driver.poll(cx, look)
    }

    /// Whether the next request can be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether it is open, as far as the other side has told.
    pub(super) fn is_open(&mut self) -> bool {
        self.driver.run();
        !self.sender.is_closed()
    }

    /// Waits until the next request can be sent; `false` when the connection has ended instead.
    pub(super) async fn ready(&mut self) -> bool {
        let Self { sender, driver, .. } = self;
        poll_fn(|cx| driver.poll(cx, |cx| sender.poll_ready(cx)))
            .await
            .is_ok()
    }

    /// Gives the connection a task of its own.
    pub(super) fn run_by_itself(&mut self) {
        if let Some(running) = self.driver.running.take() {
            tokio::spawn(async move { ended(running.await) });
        }
    }
}

impl Driver {
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        look: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.running.is_none() {
            return look(cx);
        }
        self.bell.attend(cx.waker().clone());
        self.run();
        let waker = self.bell.hush();
        if self.running.is_none() {
            return look(cx);
        }
        let looked = look(&mut Context::from_waker(Waker::noop()));
        if looked.is_pending()
            && let Some(waker) = waker
        {
            self.bell.resume(waker);
        }
        looked
    }

    /// Does what can be done now.
    fn run(&mut self) {
        if let Some(running) = &mut self.running
            && let Poll::Ready(outcome) =
                running.as_mut().poll(&mut Context::from_waker(&self.waker))
        {
            ended(outcome);
            // hyper gives back a request that it has not begun to send when this half is dropped.
            self.running = None;
        }
    }
}

fn ended(outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        debug!(%error, "an upstream connection ended");
    }
}

/// Wakes the task that listens, if one does, and remembers that it rang if none does.
#[derive(Default)]
struct Bell(Mutex<Hearing>);

#[derive(Default)]
struct Hearing {
    listener: Option<Waker>,
    rang: bool,
}

impl Bell {
    /// Makes a task the listener that is about to run the connection, whether or not it rang.
    fn attend(&self, waker: Waker) {
        *self.lock() = Hearing {
            listener: Some(waker),
            rang: false,
        };
    }

    /// Makes a task the listener again. It is woken at once if the bell has rung meanwhile.
    fn resume(&self, waker: Waker) {
        let mut hearing = self.lock();
        if hearing.rang {
            waker.wake_by_ref();
        }
        hearing.listener = Some(waker);
    }

    /// Takes the listener away.
    fn hush(&self) -> Option<Waker> {
        self.lock().listener.take()
    }

    fn lock(&self) -> MutexGuard<'_, Hearing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut hearing = self.lock();
        match &hearing.listener {
            Some(listener) => listener.wake_by_ref(),
            None => hearing.rang = true,
        }
    }
}

//! One connection to an upstream, driven by whoever uses it.
//!
//! hyper makes two halves of a connection: one takes requests, the other does the work and must be
//! polled. Its usual place is a task of its own, which costs two wake-ups and two turns of the loop
//! for each exchange. Here the exchange polls it, before it looks for what the connection brings:
//! the response's head, or the next part of its body.
//!
//! What the two halves tell each other must then wake nobody, since the same task looks anyway. So
//! the working half is given a [`Bell`] for its waker. Its listener is the task that uses the
//! connection, while that waits; nobody listens to that of an idle connection.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
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
    /// Its task, when it runs by itself. Ends with this.
    task: Option<JoinSet<()>>,
    bell: Arc<Bell>,
    /// What rings the bell.
    waker: Waker,
    /// Whom the bell wakes.
    listener: Waker,
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
            task: None,
            waker: Waker::from(Arc::clone(&bell)),
            listener: Waker::noop().clone(),
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
        // Where the task has done so much that tokio gives it no more, what was looked at wakes nobody;
        // the timer, which is asked behind it, then does.
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

    /// Gives the connection a task of its own, until this is dropped.
    pub(super) fn run_by_itself(&mut self) {
        if let Some(running) = self.driver.running.take() {
            let mut task = JoinSet::new();
            task.spawn(async move { ended(running.await) });
            self.driver.task = Some(task);
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
        if !self.listener.will_wake(cx.waker()) {
            self.listener.clone_from(cx.waker());
            self.bell.wakes(cx.waker().clone());
        }
        self.bell.attend();
        self.run();
        self.bell.hush();
        if self.running.is_none() {
            return look(cx);
        }
        let looked = look(&mut Context::from_waker(Waker::noop()));
        if looked.is_pending() && self.bell.attend() {
            self.listener.wake_by_ref();
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

/// Wakes the task that listens, as long as it does, and remembers that it rang when it does not.
///
/// The task stays known from one time to the next, since the same one mostly comes back: to make
/// another one known costs more than all the rest here.
struct Bell {
    state: AtomicU8,
    listener: Mutex<Waker>,
}

/// Whether the task listens.
const LISTENS: u8 = 1;
/// Whether it rang since somebody [attended](Bell::attend).
const RANG: u8 = 2;

impl Default for Bell {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(0),
            listener: Mutex::new(Waker::noop().clone()),
        }
    }
}

impl Bell {
    /// Makes this the task that is woken.
    fn wakes(&self, task: Waker) {
        *self.listener() = task;
    }

    /// Has the task woken from now on; says whether the bell has rung while nobody listened.
    fn attend(&self) -> bool {
        // What was done before it rang must be seen by whoever looks after this.
        self.state.swap(LISTENS, Ordering::AcqRel) == RANG
    }

    /// Lets the task be. Who rang before this has woken it, or is about to.
    fn hush(&self) {
        self.state.store(0, Ordering::Release);
    }

    fn listener(&self) -> MutexGuard<'_, Waker> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(RANG, Ordering::AcqRel) & LISTENS != 0 {
            self.listener().wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_bell_wakes_who_listens_and_tells_who_did_not() {
        let (first, second) = (Arc::<Task>::default(), Arc::<Task>::default());
        let bell = Arc::<Bell>::default();
        bell.wake_by_ref();
        bell.wakes(Waker::from(Arc::clone(&first)));
        assert!(bell.attend(), "it rang before anybody was there");
        assert_eq!(first.woken(), 0);
        bell.wake_by_ref();
        assert_eq!(first.woken(), 1);
        bell.hush();
        assert!(!bell.attend(), "who listened was woken");
        bell.hush();
        bell.wake_by_ref();
        assert_eq!(first.woken(), 1);
        assert!(bell.attend());
        assert!(!bell.attend(), "it is told once");
        bell.wakes(Waker::from(Arc::clone(&second)));
        bell.wake_by_ref();
        assert_eq!((first.woken(), second.woken()), (1, 1));
    }
}

//! Bodies: what streams through, and the moment when it has ended.
//!
//! Nothing is copied and nothing is held: a frame that one side reads is the frame that the other
//! side writes, and the next one is read when the writer has room. What is added on the way is a
//! filter for trailers and the news of the end, with the number of bytes.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::proxy::intake::{BodyFault, BodyLimits, Intake};
use crate::proxy::upstream::Lease;
use crate::proxy::upstream::timer::Timer;

/// The body of a response to the client.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// A text of our own; empty once it is sent.
    Full(Bytes),
    /// What the upstream sends. Boxed, because hyper moves a body around before it asks it.
    Upstream(Box<UpstreamBody>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(text) if text.is_empty() => Poll::Ready(None),
            Self::Full(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Self::Upstream(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(text) => text.is_empty(),
            Self::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(text) => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(u64::MAX)),
            Self::Upstream(body) => body.incoming.size_hint(),
        }
    }
}

/// How a response body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// The upstream sent all of it, and all of it was handed to the client's connection.
    Complete,
    /// The upstream broke off; the client's connection is cut, so that it can tell.
    UpstreamBroke,
    /// The upstream took too long, with the same consequence.
    Overdue,
    /// The client went away, or the proxy stopped.
    ClientLeft,
}

/// What became of a response body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// How it ended.
    pub end: BodyEnd,
    /// Bytes that were handed to the client's connection, framing not counted.
    pub bytes: u64,
    /// When.
    pub at: Instant,
}

/// What is asked about the name of a header field.
pub type NameTest = Arc<dyn Fn(&HeaderName) -> bool + Send + Sync>;

/// Which trailer fields pass.
#[derive(Clone)]
pub enum Trailers {
    /// These, which the head declared.
    Declared(Vec<HeaderName>),
    /// All for which this holds: by HTTP/2 trailers come undeclared.
    All(NameTest),
}

impl Trailers {
    /// None.
    pub fn none() -> Self {
        Self::Declared(Vec::new())
    }

    /// Leaves of a trailer section what may pass; `None` when that is nothing.
    fn filter(&self, mut trailers: HeaderMap) -> Option<HeaderMap> {
        let mut kept = HeaderMap::new();
        match self {
            Self::Declared(names) => {
                for name in names {
                    for value in trailers.get_all(name) {
                        kept.append(name, value.clone());
                    }
                }
            }
            Self::All(may_pass) => {
                let names: Vec<HeaderName> = trailers.keys().cloned().collect();
                for name in names.into_iter().filter(|name| !may_pass(name)) {
                    trailers.remove(name);
                }
                kept = trailers;
            }
        }
        (!kept.is_empty()).then_some(kept)
    }
}

impl fmt::Debug for Trailers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declared(names) => f.debug_list().entries(names).finish(),
            Self::All(_) => f.write_str("All(..)"),
        }
    }
}

/// What is called once when a body has ended, in whichever way.
pub type OnEnd = Box<dyn FnOnce(Delivered) + Send>;

/// A response body as it comes from the upstream.
pub struct UpstreamBody {
    incoming: Incoming,
    trailers: Trailers,
    /// How many bytes were announced, if it was said.
    length: Option<u64>,
    bytes: u64,
    lease: Option<Lease>,
    on_end: Option<OnEnd>,
    /// Why it broke off, until the client's connection is told.
    broken: Option<hyper::Error>,
    pace: Pace,
    /// When its time is over, while it is waited for.
    deadline: Option<Instant>,
    timer: Timer,
}

/// How long the body of an answer may take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// While nothing comes of it.
    pub pause: Duration,
    /// In all.
    pub until: Option<Instant>,
}

/// Why the body of an answer ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum ResponseBodyError {
    /// The upstream broke off.
    #[error("the upstream broke off its answer")]
    Broken(#[source] hyper::Error),
    /// Nothing came of it for too long, or its time was over.
    #[error("the upstream's answer did not end in time")]
    Overdue,
}

impl UpstreamBody {
    /// Streams `incoming`. Of its trailers only `trailers` pass. When it has ended, its connection
    /// goes back to its pool if all of it was read, and is closed otherwise.
    pub fn new(incoming: Incoming, trailers: Trailers, lease: Lease, pace: Pace) -> Self {
        Self {
            length: incoming.size_hint().exact(),
            incoming,
            trailers,
            bytes: 0,
            lease: Some(lease),
            on_end: None,
            broken: None,
            pace,
            deadline: None,
            timer: Timer::default(),
        }
    }

    /// Has `on_end` called when it has ended.
    pub fn when_it_ends(&mut self, on_end: OnEnd) {
        self.on_end = Some(on_end);
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        if let Some(error) = self.broken.take() {
            self.finish(BodyEnd::UpstreamBroke);
            return Poll::Ready(Some(Err(ResponseBodyError::Broken(error))));
        }
        let incoming = Pin::new(&mut self.incoming);
        let polled = match &mut self.lease {
            Some(lease) => lease.poll(cx, |cx| incoming.poll_frame(cx)),
            None => incoming.poll_frame(cx),
        };
        let Poll::Ready(polled) = polled else {
            return self.poll_wait(cx);
        };
        if self.pace.until.is_some_and(|until| until <= Instant::now()) {
            return self.overdue();
        }
        self.deadline = None;
        let frame = match polled {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                // hyper throws away what it has not written yet when it learns of this. One turn
                // later, the head and what came of the body are on their way.
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {
                self.finish(BodyEnd::Complete);
                return Poll::Ready(None);
            }
        };
        let frame = filter(frame, &self.trailers);
        self.bytes = self.bytes.saturating_add(data_len(frame.as_ref()));
        // hyper does not ask again after the last byte of a known length.
        if frame.is_none() || self.incoming.is_end_stream() {
            self.finish(BodyEnd::Complete);
        }
        Poll::Ready(frame.map(Ok))
    }

    /// Nothing has come. hyper asks only when the client would take more.
    fn poll_wait(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        let Pace { pause, until } = self.pace;
        let deadline = *self.deadline.get_or_insert_with(|| {
            let deadline = Instant::now() + pause;
            until.map_or(deadline, |until| deadline.min(until))
        });
        ready!(self.timer.poll(cx, deadline));
        self.overdue()
    }

    fn overdue(&mut self) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        self.finish(BodyEnd::Overdue);
        Poll::Ready(Some(Err(ResponseBodyError::Overdue)))
    }

    fn finish(&mut self, end: BodyEnd) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        let at = Instant::now();
        if end == BodyEnd::Complete {
            lease.give_back(at);
        } else {
            drop(lease);
        }
        if let Some(on_end) = self.on_end.take() {
            on_end(Delivered {
                end,
                bytes: self.bytes,
                at,
            });
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // A body without bytes (HEAD, 204, 304) is dropped without having been asked once.
        let end = if self.broken.is_some() {
            BodyEnd::UpstreamBroke
        } else if self.incoming.is_end_stream() || self.length == Some(self.bytes) {
            // By HTTP/2 the end can come after the last byte, when hyper does not ask any more.
            BodyEnd::Complete
        } else {
            BodyEnd::ClientLeft
        };
        self.finish(end);
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// The body of a request to the upstream. Boxed, since a request is moved twenty times on its way
/// through hyper, and most have no body.
#[derive(Debug)]
pub struct RequestBody(Option<Box<Sending>>);

#[derive(Debug)]
struct Sending {
    incoming: Incoming,
    trailers: Trailers,
    progress: Arc<Progress>,
    intake: Option<Intake>,
    /// Whether more of it is on its way without being asked for.
    is_coming: bool,
    /// Whether there were trailers.
    has_trailed: bool,
    /// Whether it has been asked for.
    was_asked: bool,
}

/// How long the rest of a body that nobody wants is read: in all, and while nothing comes of it.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_PAUSE: Duration = Duration::from_secs(2);

/// Why a request's body ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// The client's connection broke.
    #[error("the client broke off its request")]
    Broken(#[source] hyper::Error),
    /// It is not what it may be.
    #[error(transparent)]
    Fault(#[from] BodyFault),
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(sending) = self.0.take() else {
            return;
        };
        sending.progress.ended.store(true, Ordering::Relaxed);
        if sending.is_coming
            && !sending.incoming.is_end_stream()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(linger(sending.incoming));
        }
    }
}

/// Reads what comes of a body that nobody wants, and drops it, within bounds.
///
/// Otherwise the client's connection would be closed, or its stream be reset, while it is sending.
/// By HTTP/1, what is sent to a socket that is closed resets the connection, and the answer is
/// lost with it (RFC 9112 section 9.6); by HTTP/2 some clients forget the answer when a reset comes
/// behind it, although that says `NO_ERROR` (RFC 9113 section 8.1).
async fn linger(mut incoming: Incoming) {
    let rest = async {
        loop {
            let next = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx));
            let Ok(Some(Ok(_))) = timeout(LINGER_PAUSE, next).await else {
                return;
            };
        }
    };
    // What is late makes no difference.
    timeout(LINGER, rest).await.unwrap_or_default();
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self(None)
    }

    /// Streams `incoming`, which began at `now`, without its trailers. `is_coming` says that the client
    /// sends it without waiting for `100 Continue`. What is left of it when this is dropped is read for a
    /// few seconds more, so that a client that is still sending gets to read its answer.
    pub fn new(incoming: Incoming, is_coming: bool, now: Instant) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self(Some(Box::new(Sending {
            incoming,
            trailers: Trailers::none(),
            progress: Arc::new(Progress::new(now)),
            intake: None,
            is_coming,
            has_trailed: false,
            was_asked: false,
        })))
    }

    /// The same, of whose trailers these pass.
    #[must_use]
    pub fn with_trailers(mut self, trailers: Trailers) -> Self {
        if let Some(sending) = &mut self.0 {
            sending.trailers = trailers;
        }
        self
    }

    /// The same, held to these bounds.
    #[must_use]
    pub fn within(mut self, limits: BodyLimits) -> Self {
        if let Some(sending) = &mut self.0 {
            sending.intake = Some(Intake::new(limits));
        }
        self
    }

    /// How far it has come; `None` when there is no body.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        self.0.as_ref().map(|sending| Arc::clone(&sending.progress))
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let Some(sending) = &mut self.get_mut().0 else {
            return Poll::Ready(None);
        };
        let progress = &sending.progress;
        let polled = Pin::new(&mut sending.incoming).poll_frame(cx);
        progress
            .starved
            .store(polled.is_pending(), Ordering::Relaxed);
        let Poll::Ready(frame) = polled else {
            return sending.poll_wait(cx).map(|fault| Some(Err(fault.into())));
        };
        sending.is_coming = matches!(frame, Some(Ok(_)));
        let frame = match frame {
            Some(Ok(frame)) => {
                sending.has_trailed |= frame.is_trailers();
                filter(frame, &sending.trailers)
            }
            Some(Err(error)) => {
                progress.broken.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(RequestBodyError::Broken(error))));
            }
            None => {
                progress
                    .whole
                    .store(!sending.has_trailed, Ordering::Relaxed);
                None
            }
        };
        let bytes = data_len(frame.as_ref());
        progress.advance(bytes);
        if let Some(Err(fault)) = sending.intake.as_mut().map(|intake| intake.receive(bytes)) {
            return Poll::Ready(Some(Err(sending.fails(fault).into())));
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|sending| sending.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(sending) => sending.incoming.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl Sending {
    /// Nothing has come. Once there is an answer, the two sides may talk at their own pace.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<BodyFault> {
        let Some(intake) = &mut self.intake else {
            return Poll::Pending;
        };
        if !std::mem::replace(&mut self.was_asked, true) {
            // What came with the head is handed over when the client's connection has its turn again. To
            // look once more then is cheaper than a timer that is taken back.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let fault = ready!(intake.poll_wait(cx));
        if self.progress.answered.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Poll::Ready(self.fails(fault))
    }

    fn fails(&mut self, fault: BodyFault) -> BodyFault {
        // One that was waited for is not waited for again.
        self.is_coming &= fault == BodyFault::TooLarge;
        // There is one only: the body is not asked again.
        self.progress.fault.set(fault).unwrap_or_default();
        fault
    }
}

/// How far a request body has come. Whoever waits for the answer asks, because an upload that
/// takes its time is no reason to give up, and because it tells who is slow.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    /// Milliseconds from `started` to the last frame.
    moved: AtomicU64,
    bytes: AtomicU64,
    /// Whether the upstream would take more than the client gives.
    starved: AtomicBool,
    /// Whether the client broke off.
    broken: AtomicBool,
    /// Whether it was read to its end, and that is where everybody looks for it.
    whole: AtomicBool,
    ended: AtomicBool,
    /// Whether the upstream has answered.
    answered: AtomicBool,
    fault: OnceLock<BodyFault>,
}

impl Progress {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            moved: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            starved: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            whole: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            fault: OnceLock::new(),
        }
    }

    pub(super) fn advance(&self, bytes: u64) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(elapsed, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// When the last frame passed, or the body's beginning.
    pub fn last_moved(&self) -> Instant {
        self.started + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// Whether it is the client that the upstream waits for.
    pub fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed)
    }

    /// Whether the client broke off in the middle of it.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Whether it was read to its end, and no trailers stood there, not even such as don't pass.
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }

    /// Whether nothing more of it will be asked for: all has passed, or the upstream closed.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Why it ended before its end, if it was our doing.
    pub fn fault(&self) -> Option<BodyFault> {
        self.fault.get().copied()
    }

    /// Says that the upstream has answered. From then on the body may take its time.
    pub fn answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Bytes that have passed, framing not counted.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Leaves of trailers what may pass; `None` when that is nothing. Data passes as it is.
fn filter(frame: Frame<Bytes>, allowed: &Trailers) -> Option<Frame<Bytes>> {
    match frame.into_trailers() {
        Ok(trailers) => allowed.filter(trailers).map(Frame::trailers),
        Err(data) => Some(data),
    }
}

fn data_len(frame: Option<&Frame<Bytes>>) -> u64 {
    let data = frame.and_then(Frame::data_ref);
    data.map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailers(names: &[&'static str]) -> Frame<Bytes> {
        let mut map = HeaderMap::new();
        for name in names {
            map.append(*name, http::HeaderValue::from_static("v"));
        }
        Frame::trailers(map)
    }

    #[test]
    fn only_allowed_trailers_pass() {
        let name = HeaderName::from_static("x-checksum");
        let test = name.clone();
        let rules = [
            Trailers::Declared(vec![name]),
            Trailers::All(Arc::new(move |other| *other == test)),
        ];
        for allowed in rules {
            let section = trailers(&["x-checksum", "x-session", "x-checksum"]);
            let kept = filter(section, &allowed);
            let kept = kept.and_then(|frame| frame.into_trailers().ok()).unwrap();
            assert_eq!(kept.len(), 2);
            assert_eq!(kept.get_all("x-checksum").iter().count(), 2);
        }
    }

    #[test]
    fn a_trailer_section_without_allowed_fields_vanishes() {
        assert!(filter(trailers(&["x-session"]), &Trailers::none()).is_none());
        let nothing = Trailers::All(Arc::new(|_| false));
        assert!(filter(trailers(&["x-session"]), &nothing).is_none());
    }

    #[test]
    fn data_passes_the_filter() {
        let data = Frame::data(Bytes::from_static(b"abc"));
        let frame = filter(data, &Trailers::none()).unwrap();
        assert_eq!(data_len(Some(&frame)), 3);
    }
}

//! The access log: one line per exchange, made and written without slowing exchanges down.
//!
//! Text lines are `key=value` pairs, JSON lines one object each; both have the same keys in the
//! same order. Values that strangers choose are escaped so that a line always stays one line and a
//! value never looks like another key. The path is logged without its query, which may hold
//! secrets.
//!
//! Each worker collects its lines and writes them by one call when there are 16 KiB of them, 100 ms
//! after the first of them, and when the log is dropped. A reader that does not read blocks the
//! worker, as it would block any program.

mod line;

use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};
use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::config::LogFormat;
use crate::session::PublicId;
use crate::telemetry::RequestId;
use line::Lines;

/// Lines are written when there are this many bytes of them ...
const WRITE_AT_BYTES: usize = 16 * 1024;
/// ... or this long after the first.
const WRITE_AFTER: Duration = Duration::from_millis(100);

/// What one exchange was and did.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// The exchange's name.
    pub id: RequestId,
    /// When its head had been read.
    pub time: Timestamp,
    /// Who asked; `None` when there is no address, as with a unix socket.
    pub client: Option<IpAddr>,
    /// By which method.
    pub method: Method,
    /// Which host; `None` when there was none.
    pub host: Option<HeaderValue>,
    /// What for. Only the path is logged.
    pub target: Option<PathAndQuery>,
    /// The name of the route; `None` when the request did not get that far.
    pub route: Option<Arc<str>>,
    /// The server that was asked last, where the upstream has several.
    pub server: Option<Arc<str>>,
    /// The status that was sent.
    pub status: StatusCode,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// From the head read to the body ended.
    pub total: Duration,
    /// Waiting for the store, all calls together.
    pub store: Duration,
    /// Waiting for the response head.
    pub upstream: Duration,
    /// What the session cookie was.
    pub cookie: CookieOutcome,
    /// What became of the record's load.
    pub record: RecordOutcome,
    /// Which session: the one that was found, or that began.
    pub session: Option<PublicId>,
    /// What was written.
    pub wrote: WriteOutcome,
    /// Notifications that were claimed for this exchange ...
    pub claimed: u32,
    /// ... that were shown by it ...
    pub shown: u32,
    /// ... and that were given back.
    pub returned: u32,
    /// Why it failed; `None` when it did not.
    pub error: Option<&'static str>,
}

/// What the session cookie was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieOutcome {
    /// There was none, or nobody looked.
    None,
    /// Signed by us, in time.
    Valid,
    /// Signed by us, too long ago.
    Expired,
    /// Signed by somebody else.
    Forged,
    /// Nothing that is signed.
    Malformed,
}

/// What became of the record's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordOutcome {
    /// There was no reason to ask the store.
    NotAsked,
    /// The store had it.
    Found,
    /// The store did not have it.
    Missing,
    /// The store could not be asked.
    Unavailable,
}

/// What was written to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Nothing had to be.
    Nothing,
    /// A session began.
    Created,
    /// A session changed.
    Replaced,
    /// A session got another id.
    Renewed,
    /// A session ended.
    Destroyed,
    /// A session lives longer.
    Touched,
    /// A change came after the session's end.
    Dropped,
    /// A change could not be written.
    Failed,
}

impl CookieOutcome {
    /// As it stands in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Valid => "valid",
            Self::Expired => "expired",
            Self::Forged => "forged",
            Self::Malformed => "malformed",
        }
    }
}

impl RecordOutcome {
    /// As it stands in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::Found => "found",
            Self::Missing => "missing",
            Self::Unavailable => "unavailable",
        }
    }
}

impl WriteOutcome {
    /// As it stands in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Created => "created",
            Self::Replaced => "replaced",
            Self::Renewed => "renewed",
            Self::Destroyed => "destroyed",
            Self::Touched => "touched",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// One worker's access log.
pub struct AccessLog {
    /// Std mutexes: one thread uses them, and no await happens under them.
    lines: Mutex<Lines>,
    sink: Mutex<Box<dyn Write + Send>>,
    begun: Notify,
}

impl AccessLog {
    /// A log on standard output.
    pub fn to_stdout(format: LogFormat) -> Self {
        Self::to(format, io::stdout())
    }

    /// A log to any place.
    pub fn to(format: LogFormat, sink: impl Write + Send + 'static) -> Self {
        Self {
            // The last line goes beyond.
            lines: Mutex::new(Lines::new(format, WRITE_AT_BYTES + 1024)),
            sink: Mutex::new(Box::new(sink)),
            begun: Notify::new(),
        }
    }

    /// Adds a line.
    pub fn write(&self, record: &AccessRecord) {
        let mut lines = self.lock_lines();
        if lines.bytes.is_empty() {
            self.begun.notify_one();
        }
        lines.push(record);
        if lines.bytes.len() >= WRITE_AT_BYTES {
            self.write_out(&mut lines.bytes);
        }
    }

    /// Writes out what has been collected.
    pub fn flush(&self) {
        self.write_out(&mut self.lock_lines().bytes);
    }

    /// Writes out, every so often, what has been collected; to be run by each worker.
    ///
    /// # Cancel safety
    ///
    /// What has been collected stays until the next [`flush`](Self::flush).
    pub async fn keep_flushing(&self) {
        loop {
            self.begun.notified().await;
            tokio::time::sleep(WRITE_AFTER).await;
            self.flush();
        }
    }

    fn write_out(&self, lines: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let written = sink.write_all(lines).and_then(|()| sink.flush());
        if let Err(error) = written {
            // Exchanges go on without a log; the message has another way out.
            tracing::warn!(%error, bytes = lines.len(), "the access log can't be written");
        }
        lines.clear();
    }

    fn lock_lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

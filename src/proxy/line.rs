//! The access log's line of one exchange, while the exchange goes on.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::body::{BodyEnd, Delivered, OnEnd, Progress};
use super::forward::host_name;
use super::rescue::ProxyError;
use super::tunnel::Transferred;
use super::{Body, Peer};
use crate::clock::{self, Timestamp};
use crate::config::LogLevel;
use crate::telemetry::access::{
    AccessLog, AccessRecord, CookieOutcome, RecordOutcome, WriteOutcome,
};
use crate::telemetry::{RequestId, chain};

/// What nginx made a custom: the client went away before there was an answer.
const CLIENT_LEFT: u16 = 499;

/// A line that is written when it is dropped: also an exchange whose client went away has one.
#[derive(Debug)]
pub(super) struct Line {
    /// Boxed, since the line goes through many hands.
    pub(super) record: Box<AccessRecord>,
    log: Option<Arc<AccessLog>>,
    started: Instant,
    /// When the last step ended. Reading the clock is not free, so an exchange reads it once
    /// between two steps, and whoever needs to know what time it is takes that.
    lap: Instant,
    request: Option<Arc<Progress>>,
}

impl Line {
    pub(super) fn begin(
        log: Option<Arc<AccessLog>>,
        id: RequestId,
        head: &Parts,
        peer: &Peer,
    ) -> Self {
        let started = Instant::now();
        Self {
            record: Box::new(AccessRecord {
                id,
                time: clock::now(),
                client: peer.remote().ip(),
                method: head.method.clone(),
                host: None,
                target: head.uri.path_and_query().cloned(),
                route: None,
                server: None,
                status: StatusCode::from_u16(CLIENT_LEFT).unwrap_or_default(),
                bytes_in: 0,
                bytes_out: 0,
                total: Duration::ZERO,
                store: Duration::ZERO,
                upstream: Duration::ZERO,
                cookie: CookieOutcome::None,
                record: RecordOutcome::NotAsked,
                session: None,
                wrote: WriteOutcome::Nothing,
                claimed: 0,
                shown: 0,
                returned: 0,
                error: Some("client_left"),
            }),
            log,
            started,
            lap: started,
            request: None,
        }
    }

    /// Ends a step: how long it is since the one before ended, or since the beginning.
    pub(super) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let step = now.saturating_duration_since(self.lap);
        self.lap = now;
        step
    }

    /// Ends a step in which the store was waited for.
    pub(super) fn lap_store(&mut self) {
        let waited = self.lap();
        self.record.store += waited;
    }

    /// When the exchange began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// When the last step ended.
    pub(super) fn last_lap(&self) -> Instant {
        self.lap
    }

    /// What time it was when the last step ended.
    pub(super) fn now(&self) -> Timestamp {
        let elapsed = self.lap.saturating_duration_since(self.started);
        self.record.time.after(elapsed)
    }

    pub(super) fn id(&self) -> &str {
        self.record.id.as_str()
    }

    /// The path that was asked for.
    pub(super) fn path(&self) -> &str {
        let target = self.record.target.as_ref();
        target.map_or("/", PathAndQuery::path)
    }

    /// The host that was asked for, without its port; empty where HTTP/1.0 named none.
    pub(super) fn host(&self) -> &str {
        let host = self.record.host.as_ref().map(host_name);
        host.and_then(|host| std::str::from_utf8(host).ok())
            .unwrap_or_default()
    }

    /// Lets the bytes of the request body be counted.
    pub(super) fn count_request(&mut self, progress: Option<Arc<Progress>>) {
        self.request = progress;
    }

    /// Whether the request body was read to an end that nobody takes for another.
    pub(super) fn request_is_whole(&self) -> bool {
        let request = self.request.as_deref();
        request.is_some_and(Progress::is_whole)
    }

    /// Says in the log why an exchange failed, whole.
    pub(super) fn failed(&mut self, error: &ProxyError, level: LogLevel) {
        self.record.error = Some(error.word());
        let request = self.id();
        let route = self.record.route.as_deref().unwrap_or("-");
        let cause = chain(error);
        match level {
            LogLevel::Error => tracing::error!(request, route, "{cause}"),
            LogLevel::Warn => tracing::warn!(request, route, "{cause}"),
            LogLevel::Info => tracing::info!(request, route, "{cause}"),
            LogLevel::Debug => tracing::debug!(request, route, "{cause}"),
        }
    }

    /// Ends with an answer of our own.
    pub(super) fn end(mut self, status: StatusCode, response: &Response<Body>) {
        self.lap();
        self.record.status = status;
        self.record.bytes_out = http_body::Body::size_hint(response.body()).lower();
    }

    /// Ends when the response's body does.
    pub(super) fn on_end(mut self) -> OnEnd {
        // Until the body says otherwise.
        self.record.error = Some("client_left");
        Box::new(move |delivered: Delivered| {
            let mut line = self;
            line.lap = delivered.at;
            line.record.bytes_out = delivered.bytes;
            line.record.error = match delivered.end {
                BodyEnd::Complete => None,
                BodyEnd::UpstreamBroke => Some("upstream_broke_off"),
                BodyEnd::Overdue => Some("upstream_overdue"),
                BodyEnd::ClientLeft => Some("client_left"),
            };
        })
    }

    /// Ends when a tunnel does.
    pub(super) fn tunnelled(mut self, status: StatusCode, moved: Transferred) {
        self.lap();
        self.record.status = status;
        self.record.bytes_in = moved.up;
        self.record.bytes_out = moved.down;
        self.record.error = moved.fell_silent.then_some("tunnel_idle");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(log) = self.log.take() else {
            return;
        };
        if let Some(request) = &self.request {
            self.record.bytes_in = request.bytes();
        }
        // An exchange that was dropped in the middle has told nobody when.
        if self.record.status.as_u16() == CLIENT_LEFT {
            self.lap();
        }
        self.record.total = self.lap.saturating_duration_since(self.started);
        log.write(&self.record);
    }
}

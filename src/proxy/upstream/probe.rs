//! Asking a server whether it is well.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use super::UpstreamError;
use super::dial::{Dialed, Stream};
use super::server::ServerState;
use super::{balance, http2, mux};
use crate::config::{HealthCheck, Question, Scheme};
use crate::proxy::body::RequestBody;
use crate::telemetry::chain;

/// By which the application can tell these requests from others.
const WHO: HeaderValue = HeaderValue::from_static("pycket-health-check");
/// The largest head of an answer.
const MAX_HEAD: u32 = 32 * 1024;

/// Why a server is not well.
#[derive(Debug, thiserror::Error)]
enum Ill {
    #[error(transparent)]
    Unreachable(#[from] UpstreamError),
    #[error("no proper answer")]
    Answer(#[from] hyper::Error),
    #[error("the status is {}", .0.as_u16())]
    Status(StatusCode),
    #[error("no answer within {}ms", .0.as_millis())]
    Late(Duration),
}

/// Asks a server again and again, for ever.
///
/// # Cancel safety
///
/// What was found out stays, and grows old.
pub(super) async fn watch(state: Arc<ServerState>, check: HealthCheck) {
    let mut next = Instant::now();
    for count in 0_u64.. {
        let asked = timeout(check.timeout, ask(&state, &check)).await;
        let outcome = asked.unwrap_or(Err(Ill::Late(check.timeout)));
        let ill = outcome.err().map(|ill| chain(&ill));
        state.probed(ill.as_deref(), &check);
        // A little early now and then, so that servers and proxies don't keep in step.
        let jitter = u32::try_from(balance::mix(state.id ^ count) % 10).unwrap_or_default();
        next = (next + check.interval * (100 - jitter) / 100).max(Instant::now());
        sleep_until(next).await;
    }
}

async fn ask(state: &ServerState, check: &HealthCheck) -> Result<(), Ill> {
    let dialed = state.dialer.dial(check.timeout, false).await?;
    let Question::Http { path, host, status } = &check.question else {
        return Ok(());
    };
    let own = state.server.address.authority();
    let host = host.as_deref().unwrap_or(&own);
    // Both were checked when the configuration was read.
    let mut request = Request::new(RequestBody::empty());
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, WHO);
    if let Ok(host) = HeaderValue::try_from(host) {
        headers.insert(HOST, host);
    }
    let scheme = state.server.scheme;
    let response = send(dialed, request, scheme).await?;
    if status.contains(&response.status().as_u16()) {
        Ok(())
    } else {
        Err(Ill::Status(response.status()))
    }
}

async fn send(
    dialed: Dialed,
    request: Request<RequestBody>,
    scheme: Scheme,
) -> hyper::Result<Response<Incoming>> {
    let by_http2 = dialed.http2.then_some(scheme);
    match dialed.stream {
        Stream::Tcp(stream) => exchange(stream, request, by_http2).await,
        Stream::Unix(stream) => exchange(stream, request, by_http2).await,
        Stream::Tls(stream) => exchange(*stream, request, by_http2).await,
    }
}

/// Sends the request and waits for the head of the answer; the connection ends with that.
async fn exchange<S>(
    stream: S,
    request: Request<RequestBody>,
    by_http2: Option<Scheme>,
) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    if let Some(scheme) = by_http2 {
        let builder = mux::builder(MAX_HEAD, Duration::ZERO);
        let (mut sender, connection) = builder.handshake(stream).await?;
        let (mut head, body) = request.into_parts();
        let scheme = match scheme {
            Scheme::Https => http::uri::Scheme::HTTPS,
            Scheme::Http | Scheme::H2c => http::uri::Scheme::HTTP,
        };
        http2::rewrite(&mut head, scheme, &HeaderValue::from_static("localhost"));
        let answer = sender.send_request(Request::from_parts(head, body));
        return first(answer, connection).await;
    }
    let mut request = request;
    *request.version_mut() = Version::HTTP_11;
    let (mut sender, connection) = http1::handshake(stream).await?;
    first(sender.send_request(request), connection).await
}

/// The answer, which comes while the connection runs.
async fn first(
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> hyper::Result<Response<Incoming>> {
    let (mut answer, connection) = (std::pin::pin!(answer), std::pin::pin!(connection));
    tokio::select! {
        answer = &mut answer => return answer,
        ended = connection => ended?,
    }
    // The last thing that a connection brings can be the answer.
    answer.await
}

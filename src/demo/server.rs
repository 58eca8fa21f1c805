//! The application on a socket: plain HTTP/1.1.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{ExchangeLog, respond};

/// Only the proxy connects, so this is more than it opens.
const MAX_CONNECTIONS: usize = 256;
/// The largest form is a name and an item.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Also how long an unused connection is kept. Longer than the proxy keeps it, so that it is the
/// proxy that closes and never sends a request into a connection that is just being closed.
const HEAD_TIMEOUT: Duration = Duration::from_mins(5);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long exchanges may take to finish after `shutdown`. All answers are made at once.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves the application on `listener` until `shutdown` is ready; then exchanges that are under
/// way finish, for two seconds at most.
///
/// Bodies of requests are limited to 16 KiB (413), connections to 256; further ones wait.
///
/// # Errors
///
/// The listener can't accept any more, the process being out of file descriptors for example. What
/// concerns only the connection that was being accepted is no error.
///
/// # Cancel safety
///
/// Dropping the future closes all connections, also those in the middle of an exchange.
pub async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let log = Arc::new(ExchangeLog::default());
    let mut connections = JoinSet::new();
    let (stop, stopped) = watch::channel(());
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            // Only makes room: connections report their errors themselves.
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, _peer)) => {
                connections.spawn(connection(stream, Arc::clone(&log), stopped.clone()));
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => return Err(error),
        }
    }
    drop((listener, stop));
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::debug!("demo connections cut off");
    }
    Ok(())
}

/// Serves one connection until it ends, or until `stopped` is closed and its exchange has finished.
async fn connection(stream: TcpStream, log: Arc<ExchangeLog>, mut stopped: watch::Receiver<()>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&log)));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _closed = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "demo connection ended");
    }
}

/// Errors of `accept(2)` that are about the peer that was just connecting.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn answer(
    request: Request<Incoming>,
    log: Arc<ExchangeLog>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect();
    let response = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => respond(
            &head.method,
            head.uri.path(),
            &head.headers,
            &body.to_bytes(),
            &log,
        ),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The form is too large: 16 KiB is the most.\n",
        ),
        Ok(Err(_broken_off)) => plain(StatusCode::BAD_REQUEST, "The form is not complete.\n"),
        Err(_elapsed) => plain(StatusCode::REQUEST_TIMEOUT, "The form took too long.\n"),
    };
    Ok(response.map(Full::new))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    /// Sends `request` to a server of its own, and returns all that comes back.
    async fn talk(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, async {
            stopped.await.unwrap();
        }));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        response
    }

    fn login_of(length: usize) -> String {
        let body = format!("name=Ada&{}", "x".repeat(length - 9));
        format!(
            "POST /login HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn largest_form_is_read() {
        let response = talk(&login_of(MAX_BODY_BYTES)).await;
        assert!(response.starts_with("HTTP/1.1 303 "), "{response}");
        assert!(response.contains("\r\nlocation: /\r\n"), "{response}");
    }

    #[tokio::test]
    async fn larger_form_is_refused() {
        let response = talk(&login_of(MAX_BODY_BYTES + 1)).await;
        assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
    }

    #[tokio::test]
    async fn query_does_not_count_as_path() {
        let request = "GET /?tab=2 HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n";
        let response = talk(request).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    }

    #[tokio::test]
    async fn shutdown_closes_unused_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, async {
            stopped.await.unwrap();
        }));
        let mut client = TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"HEAD / HTTP/1.1\r\nHost: demo\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 12];
        client.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
    }
}

use std::future::poll_fn;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::config::Address;
use crate::proxy::body::{Body, BodyEnd, Pace, Trailers, UpstreamBody};

const PACE: Pace = Pace {
    pause: Duration::from_mins(1),
    until: None,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn settings() -> PoolSettings {
    PoolSettings {
        max_connections: 4,
        connect_timeout: Duration::from_secs(5),
        upload_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_mins(1),
        ping: Duration::ZERO,
    }
}

fn pool_at(address: SocketAddr, settings: PoolSettings) -> Arc<Pool> {
    let mut upstream = crate::config::Upstream::sample();
    let server = upstream.servers.first_mut().unwrap();
    server.address = Address::Tcp {
        host: address.ip().to_string(),
        port: address.port(),
    };
    let state = ServerState::new(&upstream, &upstream.servers[0]).unwrap();
    Pool::new(state, Http2::Auto, settings)
}

/// So long from now on.
fn within(limit: Duration) -> Patience {
    Patience {
        since: Instant::now(),
        limit,
        until: None,
    }
}

fn get() -> Box<Request<RequestBody>> {
    let request = Request::builder().uri("/").header("host", "a");
    Box::new(request.body(RequestBody::empty()).unwrap())
}

/// Sends, reads the whole body, gives the connection back.
async fn exchange(pool: &Arc<Pool>) -> Result<String, UpstreamError> {
    exchange_within(pool, Duration::from_secs(5)).await
}

/// As [`exchange`], with a response timeout of its own.
async fn exchange_within(pool: &Arc<Pool>, limit: Duration) -> Result<String, UpstreamError> {
    let sent = pool.send(get(), within(limit)).await;
    let (response, lease) = sent.map_err(|failed| failed.error)?;
    let (ended, end) = oneshot::channel();
    let on_end = Box::new(|delivered| ended.send(delivered).unwrap());
    let mut body = UpstreamBody::new(response.into_body(), Trailers::none(), lease, PACE);
    body.when_it_ends(on_end);
    let body = Body::Upstream(Box::new(body))
        .collect()
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(end.await.unwrap().end, BodyEnd::Complete);
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// An upstream that answers every request on every connection, and counts connections.
async fn answering(answer: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                while read_head(&mut stream).await.is_some() {
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn connections_are_used_again() {
    let (address, connections) = answering(ANSWER).await;
    let pool = pool_at(address, settings());
    for _ in 0..5 {
        assert_eq!(exchange(&pool).await.unwrap(), "ok");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_connection_whose_response_was_not_read_is_not_used_again() {
    let (address, connections) = answering(ANSWER).await;
    let pool = pool_at(address, settings());
    drop(
        pool.send(get(), within(Duration::from_secs(5)))
            .await
            .unwrap(),
    );
    assert_eq!(exchange(&pool).await.unwrap(), "ok");
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_connection_with_bytes_behind_the_response_is_not_used_again() {
    let extra = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\npoison";
    let (address, connections) = answering(extra).await;
    let pool = pool_at(address, settings());
    for _ in 0..3 {
        assert_eq!(exchange(&pool).await.unwrap(), "ok");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn connections_that_grew_old_are_not_used_again() {
    let (address, connections) = answering(ANSWER).await;
    let mut settings = settings();
    settings.idle_timeout = Duration::ZERO;
    let pool = pool_at(address, settings);
    exchange(&pool).await.unwrap();
    exchange(&pool).await.unwrap();
    assert_eq!(connections.load(Ordering::Relaxed), 2);
    assert_eq!(pool.lock_idle().len(), 1, "the old one was dropped");
}

/// An upstream under control: each connection that comes in is handed out.
async fn controlled() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (streams, incoming) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if streams.send(stream).await.is_err() {
                return;
            }
        }
    });
    (address, incoming)
}

/// Answers one request.
async fn answer(stream: &mut TcpStream) {
    read_head(stream).await.unwrap();
    stream.write_all(ANSWER).await.unwrap();
}

#[tokio::test]
async fn an_unsent_request_goes_by_a_fresh_connection() {
    let (address, mut incoming) = controlled().await;
    let pool = pool_at(address, settings());
    let (first, stream) = tokio::join!(exchange(&pool), async {
        let mut stream = incoming.recv().await.unwrap();
        answer(&mut stream).await;
        stream.into_std().unwrap()
    });
    first.unwrap();

    // One turn of the event loop brings both the byte that this test waits for and the news that
    // the pooled connection is closed; the test goes on before hyper has seen the news.
    let (address, mut bells) = controlled().await;
    let mut bell = std::net::TcpStream::connect(address).unwrap();
    let mut heard = bells.recv().await.unwrap();
    let (rung, ()) = tokio::join!(heard.read_u8(), async {
        bell.write_all(b"!").unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    rung.unwrap();
    assert!(pool.lock_idle().front().unwrap().link.is_ready());

    let upstream = tokio::spawn(async move {
        answer(&mut incoming.recv().await.unwrap()).await;
    });
    assert_eq!(exchange(&pool).await.unwrap(), "ok");
    upstream.await.unwrap();
}

#[tokio::test]
async fn a_request_that_was_sent_is_not_sent_again() {
    let (address, mut incoming) = controlled().await;
    let pool = pool_at(address, settings());
    let running = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move {
            exchange(&pool).await.unwrap();
            exchange(&pool).await
        })
    };
    let mut stream = incoming.recv().await.unwrap();
    read_head(&mut stream).await.unwrap();
    stream.write_all(ANSWER).await.unwrap();
    // The second request arrives by the same connection, which ends then.
    read_head(&mut stream).await.unwrap();
    drop(stream);
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, UpstreamError::Broken(_)), "{error:?}");
    assert!(
        incoming.try_recv().is_err(),
        "there was no other connection"
    );
}

#[tokio::test]
async fn a_silent_upstream_is_given_up() {
    let (address, mut incoming) = controlled().await;
    let pool = pool_at(address, settings());
    let limit = Duration::from_millis(20);
    let error = exchange_within(&pool, limit).await.unwrap_err();
    assert!(matches!(error, UpstreamError::ResponseTimeout), "{error:?}");
    let mut stream = incoming.recv().await.unwrap();
    read_head(&mut stream).await;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "it was closed");
}

#[tokio::test]
async fn an_upstream_that_refuses_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let sent = pool_at(address, settings())
        .send(get(), within(Duration::from_secs(5)))
        .await;
    let failed = sent.unwrap_err();
    assert!(
        matches!(failed.error, UpstreamError::Connect(_)),
        "{failed:?}"
    );
    assert!(failed.unsent.is_some(), "it can go elsewhere");
}

#[tokio::test]
async fn no_more_exchanges_run_than_allowed() {
    let (address, _incoming) = controlled().await;
    let mut settings = settings();
    settings.max_connections = 1;
    settings.connect_timeout = Duration::from_millis(20);
    let pool = pool_at(address, settings);
    let first = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { exchange(&pool).await })
    };
    while pool.slots.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let error = exchange(&pool).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Busy), "{error:?}");
    first.abort();
}

/// Begins to send, and lets go of what is in the way when that waits.
async fn send_when_free(pool: &Arc<Pool>, patience: Patience, in_the_way: Slot) {
    let mut sending = pin!(pool.send(get(), patience));
    let is_waiting = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx).is_pending()));
    assert!(is_waiting.await);
    drop(in_the_way);
    let (response, _lease) = sending.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn neither_the_wait_for_a_turn_nor_that_for_a_connection_is_the_applications() {
    let (address, connections) = answering(ANSWER).await;
    let mut settings = settings();
    settings.max_connections = 1;
    let pool = pool_at(address, settings);
    let limit = Duration::from_secs(5);
    // By then the application would have had to answer already.
    let over = Patience {
        since: Instant::now().checked_sub(limit * 2).unwrap(),
        limit,
        until: None,
    };
    let sent = pool.send(get(), over).await;
    drop(sent.unwrap());
    exchange(&pool).await.unwrap();
    let (slot, _) = pool.slot(within(limit)).await.unwrap();
    send_when_free(&pool, over, slot).await;
    assert_eq!(
        connections.load(Ordering::Relaxed),
        2,
        "the second was used again"
    );
}

#[tokio::test]
async fn waiting_requests_get_the_connection_that_is_given_back() {
    let (address, connections) = answering(ANSWER).await;
    let mut settings = settings();
    settings.max_connections = 1;
    let pool = pool_at(address, settings);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let pool = Arc::clone(&pool);
        running.spawn(async move { exchange(&pool).await.unwrap() });
    }
    assert_eq!(running.join_all().await, ["ok"; 8]);
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_response_head_without_bounds_is_cut_off() {
    let (address, mut incoming) = controlled().await;
    let pool = pool_at(address, settings());
    let running = tokio::spawn(async move { exchange(&pool).await });
    let mut stream = incoming.recv().await.unwrap();
    read_head(&mut stream).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
    let line = format!("a: {}\r\n", "x".repeat(8000));
    while stream.write_all(line.as_bytes()).await.is_ok() {}
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, UpstreamError::Broken(_)), "{error:?}");
}

#[tokio::test]
async fn interim_responses_are_passed_over() {
    let (address, _) = answering(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
          HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    assert_eq!(exchange(&pool_at(address, settings())).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_request_without_host_gets_the_upstreams() {
    let (address, mut incoming) = controlled().await;
    let pool = pool_at(address, settings());
    tokio::spawn(async move {
        let request = Box::new(Request::new(RequestBody::empty()));
        drop(pool.send(request, within(Duration::from_secs(5))).await);
    });
    let mut stream = incoming.recv().await.unwrap();
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
}

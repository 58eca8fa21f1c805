//! The plumbing with real sockets on both sides, and a handler that only forwards.

pub(super) mod kit;

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::time::Duration;

use kit::{Client, Proxy, Upstream, config};

use super::*;
use crate::config::{ListenAddress, Listener};
use std::convert::Infallible;

#[tokio::test]
async fn a_request_goes_through_and_back() {
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    let mut client = Client::connect(proxy.address).await;
    client
        .send("POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    let mut app = upstream.accept().await;
    assert_eq!(app.head().await.lines().next(), Some("POST /a?b HTTP/1.1"));
    assert_eq!(app.exactly(3).await, "abc");
    app.send("HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 201 Created\r\n"), "{head}");
    assert!(
        head.contains("x-a: b\r\n") && head.contains("via: 1.1 pycket\r\n"),
        "{head}"
    );
    assert_eq!(client.exactly(2).await, "ok");
}

#[tokio::test]
async fn both_sides_keep_their_connections() {
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    let mut client = Client::connect(proxy.address).await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut app = upstream.accept().await;
    for turn in 1..4 {
        assert!(app.head().await.starts_with(&format!("GET /{turn} ")));
        app.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        client.head().await;
        client
            .send(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", turn + 1))
            .await;
    }
}

#[tokio::test]
async fn a_bad_request_is_answered_and_closes() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET foo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\nContent-Length: 3\r\n\r\n",
            417,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
            400,
        ),
    ] {
        let mut client = Client::connect(proxy.address).await;
        client.send(request).await;
        let answer = client.rest().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request} {answer}"
        );
    }
}

#[tokio::test]
async fn a_head_over_the_limit_is_431() {
    let upstream = Upstream::start().await;
    let mut config = config(upstream.address);
    config.limits.max_head_bytes = 8192;
    let proxy = Proxy::start(config);
    let mut client = Client::connect(proxy.address).await;
    let long = "x".repeat(20_000);
    client
        .send(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n"))
        .await;
    assert!(client.rest().await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn chunks_arrive_one_by_one() {
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    let mut client = Client::connect(proxy.address).await;
    client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut app = upstream.accept().await;
    app.head().await;
    app.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    assert!(
        client
            .head()
            .await
            .contains("transfer-encoding: chunked\r\n")
    );
    for turn in 0..3 {
        app.send(&format!("3;ext=1\r\nab{turn}\r\n")).await;
        let expected = format!("3\r\nab{turn}\r\n");
        assert_eq!(client.exactly(8).await, expected);
    }
    app.send("0\r\n\r\n").await;
    assert_eq!(client.exactly(5).await, "0\r\n\r\n");
}

#[tokio::test]
async fn only_declared_and_harmless_trailers_pass() {
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    let mut client = Client::connect(proxy.address).await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
             Trailer: X-Sum, X-Session\r\n\r\n\
             1\r\na\r\n0\r\nX-Sum: 1\r\nX-Session: evil\r\nX-Other: 1\r\n\r\n",
        )
        .await;
    let mut app = upstream.accept().await;
    let head = app.head().await;
    assert!(head.contains("trailer: x-sum\r\n"), "{head}");
    assert_eq!(app.exactly(21).await, "1\r\na\r\n0\r\nx-sum: 1\r\n\r\n");
    app.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Session-Set\r\n\r\n\
         1\r\nb\r\n0\r\nX-Session-Set: a=b\r\nX-Sum: 2\r\n\r\n",
    )
    .await;
    let head = client.head().await;
    assert!(head.contains("trailer: x-sum\r\n"), "{head}");
    assert_eq!(client.exactly(21).await, "1\r\nb\r\n0\r\nx-sum: 2\r\n\r\n");
}

#[tokio::test]
async fn a_get_keeps_its_chunked_body() {
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    let mut client = Client::connect(proxy.address).await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        .await;
    let mut app = upstream.accept().await;
    assert!(app.head().await.contains("transfer-encoding: chunked\r\n"));
    assert_eq!(app.exactly(12).await, "2\r\nhi\r\n0\r\n\r\n");
}

#[tokio::test]
async fn what_the_upstream_breaks_off_is_broken_off() {
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    for head in [
        "Content-Length: 10\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut client = Client::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut app = upstream.accept().await;
        app.head().await;
        app.send(&format!("HTTP/1.1 200 OK\r\n{head}")).await;
        client.head().await;
        drop(app);
        let rest = client.rest().await;
        assert!(
            rest.contains("abc") && !rest.contains("0\r\n\r\n"),
            "{rest:?}"
        );
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_upstream_exchange_along() {
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    let mut client = Client::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut app = upstream.accept().await;
    app.head().await;
    drop(client);
    assert_eq!(app.rest().await, "");
}

/// As much as could be held in memory by mistake: 128 MiB, in both directions at once, with both
/// buffers of both sockets far smaller. The other tests of this process take their part, too.
#[tokio::test]
async fn large_bodies_stream() {
    const SIZE: usize = 128 << 20;
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    let mut client = Client::connect(proxy.address).await;
    client
        .send(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
        ))
        .await;
    let mut app = upstream.accept().await;
    app.head().await;
    app.send(&format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"
    ))
    .await;
    client.head().await;
    let before = resident_bytes();
    let (mut client_reads, mut client_writes) = client.0.into_split();
    let (mut app_reads, mut app_writes) = app.0.into_split();
    let block = vec![b'x'; 1 << 16];
    let copies = async {
        tokio::join!(
            kit::pour(&mut client_writes, &block, SIZE),
            kit::pour(&mut app_writes, &block, SIZE),
            kit::drain(&mut client_reads, SIZE),
            kit::drain(&mut app_reads, SIZE),
        )
    };
    copies.await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < SIZE / 2, "{grown} bytes more");
}

/// Of this whole process, from /proc/self/statm, without the pages of files: those of the program
/// come as it runs.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let mut pages = pages.split(' ').skip(1).map(str::parse::<usize>);
    let (resident, shared) = (pages.next().unwrap(), pages.next().unwrap());
    (resident.unwrap() - shared.unwrap()) * 4096
}

async fn tunnel(proxy: &Proxy, upstream: &mut Upstream) -> (Client, Client) {
    let mut client = Client::connect(proxy.address).await;
    client
        .send(
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
        )
        .await;
    let mut app = upstream.accept().await;
    let head = app.head().await;
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    app.send("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    (client, app)
}

#[tokio::test]
async fn an_upgraded_connection_carries_anything_both_ways() {
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    let (mut client, mut app) = tunnel(&proxy, &mut upstream).await;
    assert_eq!(client.exactly(5).await, "hello");
    assert_eq!(app.exactly(5).await, "early");
    client.send("\0ping").await;
    assert_eq!(app.exactly(5).await, "\0ping");
    app.send("pong").await;
    assert_eq!(client.exactly(4).await, "pong");
    drop(client);
    assert_eq!(app.rest().await, "");
}

#[tokio::test]
async fn an_unasked_101_is_a_bad_gateway() {
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    let mut client = Client::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut app = upstream.accept().await;
    app.head().await;
    app.send("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    assert_eq!(app.rest().await, "");
}

#[tokio::test]
async fn a_refused_upgrade_leaves_an_ordinary_connection() {
    let mut upstream = Upstream::start().await;
    let proxy = Proxy::start(config(upstream.address));
    let mut client = Client::connect(proxy.address).await;
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.send(upgrade).await;
    let mut app = upstream.accept().await;
    app.head().await;
    app.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    client.head().await;
    client.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(app.head().await.starts_with("GET /2 "));
}

#[tokio::test]
async fn stopping_closes_idle_connections_and_lets_exchanges_finish() {
    let mut upstream = Upstream::start().await;
    let mut proxy = Proxy::start(config(upstream.address));
    let mut idle = Client::connect(proxy.address).await;
    idle.send("GET /idle HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut app = upstream.accept().await;
    app.head().await;
    app.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    idle.head().await;

    let mut busy = Client::connect(proxy.address).await;
    busy.send("GET /busy HTTP/1.1\r\nHost: a\r\n\r\n").await;
    app.head().await;
    proxy.stop().await;
    assert_eq!(
        idle.rest().await,
        "",
        "closed, while the other exchange still runs"
    );
    app.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    let answer = busy.rest().await;
    assert!(
        answer.contains("connection: close\r\n") && answer.ends_with("ok"),
        "{answer}"
    );
    assert_eq!(
        proxy.report().await,
        Report {
            finished: 1,
            cut_off: 0
        }
    );
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cut_off() {
    let mut upstream = Upstream::start().await;
    let mut config = config(upstream.address);
    config.timeouts.drain = Duration::from_millis(50);
    let mut proxy = Proxy::start(config);
    let (mut tunnelled, _app) = tunnel(&proxy, &mut upstream).await;
    let mut busy = Client::connect(proxy.address).await;
    busy.send("GET /busy HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let _asked = upstream.accept().await;
    proxy.stop().await;
    assert_eq!(
        proxy.report().await,
        Report {
            finished: 0,
            cut_off: 2
        }
    );
    assert_eq!(busy.rest().await, "");
    assert_eq!(tunnelled.rest().await, "hello");
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let mut upstream = Upstream::start().await;
    let mut proxy = Proxy::start(config(upstream.address));
    let mut busy = Client::connect(proxy.address).await;
    busy.send("GET /busy HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let _asked = upstream.accept().await;
    proxy.stop().await;
    proxy.stop().await;
    assert_eq!(
        proxy.report().await,
        Report {
            finished: 0,
            cut_off: 1
        }
    );
}

#[tokio::test]
async fn silent_clients_are_closed() {
    let upstream = Upstream::start().await;
    let mut config = config(upstream.address);
    config.timeouts.client_head = Duration::from_millis(50);
    let proxy = Proxy::start(config);
    let mut silent = Client::connect(proxy.address).await;
    let mut slow = Client::connect(proxy.address).await;
    slow.send("GET / HTTP/1.1\r\n").await;
    assert_eq!(silent.rest().await, "");
    assert_eq!(slow.rest().await, "");
}

#[tokio::test]
async fn clients_over_the_limit_wait_for_a_place() {
    let mut upstream = Upstream::start().await;
    let mut config = config(upstream.address);
    config.limits.max_connections = 1;
    let proxy = Proxy::start(config);
    let mut first = Client::connect(proxy.address).await;
    first.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut app = upstream.accept().await;
    app.head().await;
    let mut second = Client::connect(proxy.address).await;
    second.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    app.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    first.head().await;
    first.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(
        app.head().await.starts_with("GET /3 "),
        "the second still waits"
    );
    app.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    first.head().await;
    drop(first);
    assert!(app.head().await.starts_with("GET /2 "));
}

#[tokio::test]
async fn an_upload_that_stops_is_the_clients_fault() {
    let mut upstream = Upstream::start().await;
    let mut config = config(upstream.address);
    config.timeouts.upstream_response = Duration::from_millis(50);
    let proxy = Proxy::start(config);
    let mut client = Client::connect(proxy.address).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nabc")
        .await;
    let mut app = upstream.accept().await;
    app.head().await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(app.rest().await, "abc");
}

fn plain(address: SocketAddr) -> Listener {
    Listener::plain(ListenAddress::Tcp(address))
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Sockets::bind(&[plain(address)], NonZeroUsize::MIN).unwrap_err();
    assert_eq!(error.to_string(), format!("can't listen on {address}"));
}

#[test]
fn all_workers_listen_on_the_same_port() {
    let any = "127.0.0.1:0".parse().unwrap();
    let sockets = Sockets::bind(&[plain(any)], NonZeroUsize::new(3).unwrap()).unwrap();
    let ports: Vec<u16> = sockets
        .sets
        .iter()
        .flatten()
        .map(|bound| match &bound.socket {
            sockets::AnyListener::Tcp(socket) => socket.local_addr().unwrap().port(),
            sockets::AnyListener::Unix(_) => panic!("nobody asked for it"),
        })
        .collect();
    assert_eq!(ports.len(), 3);
    assert!(ports.iter().all(|&port| port == ports[0] && port != 0));
}

#[test]
fn a_worker_that_fails_to_start_ends_the_server() {
    let config = Arc::new(config(SocketAddr::from(([127, 0, 0, 1], 1))));
    let sockets = Sockets::bind(&config.listeners, NonZeroUsize::new(2).unwrap()).unwrap();
    let make = |worker: Worker| async move {
        if worker.index == 1 {
            return Err::<kit::Forward, _>("no store".into());
        }
        std::future::pending::<Result<kit::Forward, _>>().await
    };
    let error = run(&config, sockets, make, async || {
        std::future::pending().await
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "worker 1 failed");
}

#[test]
fn a_worker_that_panics_ends_the_server() {
    let config = Arc::new(config(SocketAddr::from(([127, 0, 0, 1], 1))));
    let sockets = Sockets::bind(&config.listeners, NonZeroUsize::MIN).unwrap();
    let make = |worker: Worker| async move {
        if worker.index == 0 {
            // Past the hook: its backtrace takes more memory than `large_bodies_stream` allows.
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        Err::<kit::Forward, _>("unreachable".into())
    };
    let outcome = run(&config, sockets, make, async || {
        std::future::pending().await
    });
    assert!(matches!(outcome, Err(RunError::Worker { index: 0, .. })));
}

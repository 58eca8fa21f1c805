//! Applications that speak HTTP/2.

use std::net::SocketAddr;
use std::thread;

use h2::Reason;
use http::{HeaderMap, Response};

use crate::balance::named;
use crate::harness::{Address, Browser, Builder, Gate, Pycket, Wire, raw};
use crate::http2_server::{Answer, Http2Server, ok};

/// A proxy with one worker before servers that speak HTTP/2 in cleartext.
fn before(servers: &[SocketAddr], more: &str) -> Builder {
    let urls: Vec<String> = servers.iter().map(|at| format!("'h2c://{at}'")).collect();
    let urls = urls.join(", ");
    Pycket::to(SocketAddr::from(([127, 0, 0, 1], 1))).config(&format!(
        "upstream = 'app'\nworkers = 1\nupstreams.app.servers = [{urls}]\n{more}"
    ))
}

#[test]
fn a_request_looks_as_http2_wants_it() {
    let app = Http2Server::start(|_| ok("hello"));
    let pycket = before(&[app.address()], "").start();
    let answer = raw(
        &pycket,
        "GET /a?b HTTP/1.1\r\nHost: shop.example.com:8443\r\nTE: trailers\r\nKeep-Alive: 5\r\n\
         Connection: keep-alive, te\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n",
    );
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    let got = app.got().remove(0);
    assert_eq!(got.head.uri(), "http://shop.example.com:8443/a?b");
    let headers = got.head.headers();
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers["x-forwarded-host"], "shop.example.com:8443");
    for name in [
        "host",
        "connection",
        "keep-alive",
        "transfer-encoding",
        "upgrade",
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

#[test]
fn a_response_comes_back_as_http1_wants_it() {
    let app = Http2Server::start(|_| {
        let head = Response::builder()
            .header("content-length", "5")
            .header("x-a", "1");
        Answer::Whole(head.body(()).unwrap(), "hello", HeaderMap::new())
    });
    let pycket = before(&[app.address()], "").start();
    let answer = Browser::at(&pycket).get("/sized");
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert_eq!(answer.header("X-A"), Some("1"));
    assert_eq!(answer.header("Via"), Some("2.0 pycket"));
    let line = pycket.access(|line| line["path"] == "/sized");
    assert_eq!(line["error"], serde_json::Value::Null, "{line}");
}

#[test]
fn sessions_work_as_with_every_application() {
    let app = Http2Server::start(|got| {
        let head = match got.head.uri().path() {
            "/login" => Response::builder().header("x-session-set", "user=alice"),
            _ => Response::builder(),
        };
        Answer::Whole(head.body(()).unwrap(), "", HeaderMap::new())
    });
    let pycket = before(&[app.address()], "").start();
    let mut browser = Browser::at(&pycket);
    browser.get("/login");
    browser.get("/");
    let got = app.got().remove(1);
    assert_eq!(got.head.headers()["x-session"], r#"{"user":"alice"}"#);
}

#[test]
fn bodies_of_both_framings_arrive_whole() {
    let app = Http2Server::start(|_| ok("got it"));
    let pycket = before(&[app.address()], "").start();
    let mut browser = Browser::at(&pycket);
    let large = "x".repeat(1_000_000);
    let answer = browser.request("POST", "/").body(large.as_str()).send();
    assert_eq!(answer.text(), "got it");
    raw(
        &pycket,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Session: evil\r\n\r\n",
    );
    let got = app.got();
    assert_eq!(got[0].body.len(), large.len());
    assert_eq!(got[1].body, b"abc");
    let trailers = got[1].trailers.clone().unwrap();
    assert_eq!(trailers["x-sum"], "1");
    assert_eq!(trailers.len(), 1);
}

#[test]
fn many_requests_share_a_connection() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = Http2Server::start(move |_| {
        held.pass();
        ok("")
    });
    let pycket = before(&[app.address()], "").start();
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let mut browser = Browser::at(&pycket);
            thread::spawn(move || browser.get("/").status)
        })
        .collect();
    while app.got().len() < 20 {
        thread::yield_now();
    }
    gate.open();
    for asking in asking {
        assert_eq!(asking.join().unwrap(), 200);
    }
    assert_eq!(app.connections(), 1);
}

#[test]
fn where_a_connection_takes_few_requests_others_are_opened() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = Http2Server::with_streams(2, move |got| {
        if got.head.uri().path() == "/held" {
            held.pass();
        }
        ok("")
    });
    let pycket = before(&[app.address()], "").start();
    // What the server allows is known from then on.
    let mut browser = Browser::at(&pycket);
    browser.get("/");
    browser.get("/");
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let mut browser = Browser::at(&pycket);
            thread::spawn(move || browser.get("/held").status)
        })
        .collect();
    while app.got().len() < 6 {
        thread::yield_now();
    }
    gate.open();
    for asking in asking {
        assert_eq!(asking.join().unwrap(), 200);
    }
    assert!(app.connections() >= 2, "{}", app.connections());
}

#[test]
fn a_burst_is_not_refused_for_what_the_server_has_not_said_yet() {
    let app = Http2Server::with_streams(2, |_| ok(""));
    let pycket = before(&[app.address()], "").start();
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let mut browser = Browser::at(&pycket);
            thread::spawn(move || browser.get("/").status)
        })
        .collect();
    for asking in asking {
        assert_eq!(asking.join().unwrap(), 200);
    }
}

#[test]
fn when_the_server_ends_a_connection_requests_go_by_another() {
    let app = Http2Server::start(|_| Answer::Last(Response::new(()), "bye"));
    let pycket = before(&[app.address()], "").start();
    let mut browser = Browser::at(&pycket);
    for _ in 0..10 {
        assert_eq!(browser.get("/").text(), "bye");
    }
    assert_eq!(app.got().len(), 10, "none was sent twice");
    assert!(app.connections() > 1);
}

#[test]
fn a_refused_request_goes_to_another_server() {
    let refusing = Http2Server::start(|_| Answer::Reset(Reason::REFUSED_STREAM));
    let app = Http2Server::start(|_| ok("here"));
    let pycket = before(&[refusing.address(), app.address()], "").start();
    let mut browser = Browser::at(&pycket);
    for _ in 0..4 {
        let answer = browser.get("/");
        assert_eq!((answer.status, answer.text()), (200, "here"));
    }
    assert!(!refusing.got().is_empty());
}

#[test]
fn a_request_that_may_have_been_acted_upon_does_not() {
    let failing = Http2Server::start(|_| Answer::Reset(Reason::INTERNAL_ERROR));
    let app = named("other");
    let servers = format!(
        "upstreams.app.servers = [{{ url = 'h2c://{}', weight = 1000 }}, 'http://{}']",
        failing.address(),
        app.address()
    );
    let pycket = before(
        &[failing.address()],
        &servers.replace("upstreams.app", "upstreams.two"),
    )
    .config("upstream = 'two'")
    .start();
    assert_eq!(Browser::at(&pycket).get("/").status, 502);
    assert_eq!(failing.got().len(), 1);
    assert!(app.requests().is_empty());
}

#[test]
fn a_response_that_breaks_off_is_not_taken_for_a_whole_one() {
    let app = Http2Server::start(|_| {
        let head = Response::builder().header("content-length", "9");
        Answer::Cut(head.body(()).unwrap())
    });
    let pycket = before(&[app.address()], "").start();
    let answer = Browser::at(&pycket).get("/cut");
    // Whether the head was on its way when the stream ended is a matter of luck.
    assert!(answer.status == 502 || answer.cut_body().is_some());
    let line = pycket.access(|line| line["path"] == "/cut");
    let error = line["error"].as_str().unwrap();
    assert!(error.starts_with("upstream_brok"), "{error}");
}

#[test]
fn answers_of_grpc_keep_their_trailers() {
    let app = Http2Server::start(|_| {
        let head = Response::builder().header("content-type", "application/grpc");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "5".parse().unwrap());
        trailers.insert("grpc-message", "not found".parse().unwrap());
        trailers.insert("x-session-set", "user=mallory".parse().unwrap());
        Answer::Whole(head.body(()).unwrap(), "", trailers)
    });
    let pycket = before(&[app.address()], "").start();
    let answer = Browser::at(&pycket)
        .request("POST", "/helloworld.Greeter/SayHello")
        .header("TE", "trailers")
        .header("Content-Type", "application/grpc")
        .body("\0\0\0\0\0")
        .send();
    assert_eq!(answer.trailers.one("grpc-status"), Some("5"));
    assert_eq!(answer.trailers.one("grpc-message"), Some("not found"));
    assert_eq!(answer.trailers.one("x-session-set"), None);
    assert_eq!(app.got()[0].head.headers()["te"], "trailers");
}

#[test]
fn a_server_that_speaks_only_http1_is_no_http2_server() {
    let app = named("a");
    let pycket = before(&[app.address()], "").start();
    assert_eq!(Browser::at(&pycket).get("/").status, 502);
}

const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn a_websocket_goes_by_http2() {
    let app = Http2Server::with_websockets(|got| match got.head.method().as_str() {
        "CONNECT" => Answer::Echo,
        _ => ok("page"),
    });
    let pycket = before(&[app.address()], "").start();
    assert_eq!(Browser::at(&pycket).get("/").text(), "page");
    let mut wire = Wire::connect(&pycket);
    wire.send(WEBSOCKET);
    let head = wire.read_head();
    assert_eq!(head.status(), 101);
    // RFC 6455 section 1.3.
    let accept = head.fields.one("Sec-WebSocket-Accept");
    assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for text in ["ping\n", "pong\n"] {
        wire.send(text);
        assert_eq!(wire.read_until("\n"), text);
    }
    wire.finish();
    assert_eq!(wire.read_to_close(), b"");
    let asked = app.got().remove(1).head;
    assert_eq!(asked.uri(), "http://a/ws");
    let protocol = asked.extensions().get::<h2::ext::Protocol>();
    assert_eq!(protocol.unwrap().as_str(), "websocket");
    assert_eq!(asked.headers()["sec-websocket-version"], "13");
    assert!(!asked.headers().contains_key("sec-websocket-key"));
}

#[test]
fn a_websocket_can_be_refused() {
    let app = Http2Server::with_websockets(|_| {
        let head = Response::builder().status(403).body(()).unwrap();
        Answer::Whole(head, "no", HeaderMap::new())
    });
    let pycket = before(&[app.address()], "").start();
    let answer = raw(&pycket, WEBSOCKET);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[test]
fn a_server_that_takes_no_websockets_by_http2_is_not_asked_for_one() {
    let app = Http2Server::start(|_| ok("page"));
    let pycket = before(&[app.address()], "").start();
    let answer = raw(&pycket, WEBSOCKET);
    assert!(answer.starts_with(b"HTTP/1.1 502 "));
    pycket.says("the upstream takes no WebSockets by HTTP/2");
    assert!(app.got().is_empty());
}

//! What passes through, and how: bodies, events, upgrades, forwarding headers, stopping.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use serde_json::json;

use crate::harness::{Address, AppResponse, Browser, Gate, Pycket, Upstream, Wire, raw};

/// The most memory that a process has had, in KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

const GIB: usize = 1 << 30;

#[test]
fn a_gibibyte_passes_both_ways_at_constant_memory() {
    let app = Upstream::raw(|mut wire, _| {
        let head = wire.read_head();
        let chunk = vec![b'x'; 1 << 20];
        if head.part(0) == "POST" {
            for _ in 0..GIB / chunk.len() {
                wire.read_exactly(chunk.len());
            }
            wire.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        } else {
            wire.send(format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {GIB}\r\n\r\n"
            ));
            for _ in 0..GIB / chunk.len() {
                wire.send(&chunk);
            }
        }
    });
    let pycket = Pycket::with(&app).start();
    let before = peak_memory(pycket.pid());
    let mut stream = TcpStream::connect(pycket.address()).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .unwrap();
    let (mut buffer, mut down) = (vec![0; 1 << 20], 0);
    loop {
        let read = stream.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        down += read;
    }
    assert!(down > GIB, "{down} bytes came");
    let mut stream = TcpStream::connect(pycket.address()).unwrap();
    let head =
        format!("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {GIB}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..GIB / buffer.len() {
        stream.write_all(&buffer).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let grown = peak_memory(pycket.pid()) - before;
    // The program's own pages come as it runs, too.
    assert!(grown < 32 * 1024, "it took {grown} KiB");
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    let gate = Arc::new(Gate::closed());
    let held = Arc::clone(&gate);
    let app = Upstream::raw(move |mut wire, _| {
        wire.read_request();
        wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        wire.send("9\r\ndata: 1\n\n\r\n");
        held.pass();
        wire.send("9\r\ndata: 2\n\n\r\n0\r\n\r\n");
    });
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    wire.send("GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
    // The second event is not sent before the first one has been read.
    wire.read_until("data: 1\n\n");
    gate.open();
    wire.read_until("data: 2\n\n");
}

#[test]
fn a_websocket_carries_the_session_in_its_handshake_and_bytes_both_ways() {
    let app = Upstream::raw(|mut wire, _| {
        let request = wire.read_request();
        if request.target == "/login" {
            wire.send("HTTP/1.1 200 OK\r\nX-Session-Set: user=alice\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        assert_eq!(request.session(), json!({"user": "alice"}));
        assert_eq!(request.header("Upgrade"), Some("websocket"));
        assert!(request.fields.lists("Connection", "upgrade"));
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Session-Set: socket=1\r\n\r\nhello");
        let said = wire.read_until("ping");
        assert!(said.ends_with("ping"));
        wire.send("pong");
    });
    let pycket = Pycket::with(&app).start();
    let mut browser = Browser::at(&pycket);
    browser.get("/login");
    let cookie = browser.cookie("PYCKET_ID").unwrap();
    let mut wire = Wire::connect(&pycket);
    wire.send(format!(
        "GET /socket HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nCookie: PYCKET_ID={cookie}\r\n\r\n"
    ));
    let head = wire.read_head();
    assert_eq!(head.status(), 101);
    assert_eq!(head.fields.one("X-Session-Set"), None);
    wire.read_until("hello");
    wire.send("ping");
    wire.read_until("pong");
    wire.finish();
    let line = pycket.access(|line| line["path"] == "/socket");
    assert_eq!(
        (&line["wrote"], &line["status"]),
        (&json!("replaced"), &json!(101))
    );
}

#[test]
fn the_application_asks_for_the_body_and_not_the_proxy() {
    let app = Upstream::app(|request| AppResponse::ok(request.body.clone()));
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    wire.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    wire.read_until("HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("hello");
    wire.read_until("\r\n\r\nhello");
    assert_eq!(app.request(1).header("Expect"), None);
}

#[test]
fn trailers_pass_and_ours_do_not() {
    let app = Upstream::raw(|mut wire, _| {
        wire.read_request();
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Session-Set\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 9\r\nX-Session-Set: evil=1\r\nSet-Cookie: evil=1\r\n\r\n");
    });
    let pycket = Pycket::with(&app).start();
    let answer = raw(
        &pycket,
        "GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
    );
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.contains("x-sum: 9"), "{answer}");
    assert!(!answer.contains("evil"), "{answer}");
}

#[test]
fn answers_without_a_body_keep_their_framing() {
    let cases = [
        (
            "HEAD",
            "200 OK\r\nContent-Length: 10\r\n\r\n",
            "content-length: 10",
        ),
        ("GET", "204 No Content\r\n\r\n", "204"),
        (
            "GET",
            "304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 10\r\n\r\n",
            "etag: \"x\"",
        ),
    ];
    for (method, answer, expected) in cases {
        let app = Upstream::raw(move |mut wire, _| {
            for _ in 0..2 {
                wire.read_head();
                wire.send(format!("HTTP/1.1 {answer}"));
            }
        });
        let pycket = Pycket::with(&app).start();
        let mut wire = Wire::connect(&pycket);
        // The second answer on the same connection shows that the first had no body.
        for _ in 0..2 {
            wire.send(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
            let head = wire.read_until("\r\n\r\n").to_lowercase();
            assert!(
                head.starts_with("http/1.1") && head.contains(expected),
                "{head}"
            );
        }
    }
}

#[test]
fn hop_by_hop_headers_end_here_and_the_others_pass_byte_for_byte() {
    let app = Upstream::app(|_| {
        AppResponse::ok("")
            .header("Connection", "X-Hop")
            .header("X-Hop", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Set-Cookie", "a=1")
            .header("Set-Cookie", "b=2")
    });
    let pycket = Pycket::with(&app).start();
    let answer = raw(
        &pycket,
        "GET /a%2fb?q=1;2 HTTP/1.1\r\nHost: shop.example\r\nConnection:\r\nConnection: close, X-One\r\n\
         Connection: X-Two\r\nX-One: 1\r\nX-Two: 2\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: x\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\
         Cookie: a=\"1\";  b=2\r\nX-Kept: caf\u{e9}\r\n\r\n",
    );
    let seen = app.request(1);
    assert_eq!(seen.target, "/a%2fb?q=1;2");
    for gone in [
        "X-One",
        "X-Two",
        "Keep-Alive",
        "Proxy-Connection",
        "Upgrade",
        "HTTP2-Settings",
        "Forwarded",
        "X-Real-IP",
    ] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert_eq!(seen.header("Host"), Some("shop.example"));
    assert_eq!(seen.header("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(seen.header("X-Forwarded-Host"), Some("shop.example"));
    assert_eq!(seen.header("X-Forwarded-Proto"), Some("http"));
    assert_eq!(seen.header("Via"), Some("1.1 pycket"));
    assert_eq!(seen.header("Cookie"), Some("a=\"1\";  b=2"));
    assert_eq!(seen.header("X-Kept"), Some("caf\u{e9}"));
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(
        !answer.contains("x-hop") && !answer.contains("keep-alive"),
        "{answer}"
    );
    assert!(answer.contains("set-cookie: a=1\r\n") && answer.contains("set-cookie: b=2\r\n"));
}

#[test]
fn a_trusted_neighbour_is_believed_about_the_client() {
    let app = Upstream::app(|_| AppResponse::ok("").header("X-Session-Set", "a=1"));
    let pycket = Pycket::with(&app)
        .config("forwarding.trust = ['127.0.0.1/32']")
        .start();
    let answer = raw(
        &pycket,
        "GET /x HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6, 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\n\r\n",
    );
    assert_eq!(app.request(1).header("X-Request-Id"), Some("mine"));
    let line = pycket.access(|line| line["path"] == "/x");
    assert_eq!(
        (&line["client"], &line["id"]),
        (&json!("9.9.9.9"), &json!("mine"))
    );
    // Secure is "auto": the browser came by TLS.
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("; Secure"), "{answer}");
}

#[test]
fn stopping_lets_exchanges_finish_and_accepts_no_more() {
    let gate = Arc::new(Gate::closed());
    let held = Arc::clone(&gate);
    let app = Upstream::app(move |_| {
        held.pass();
        AppResponse::ok("finished")
    });
    let mut pycket = Pycket::with(&app).start();
    let mut browser = Browser::at(&pycket);
    let mut idle = Wire::connect(&pycket);
    let slow = thread::spawn(move || browser.get("/slow").text().to_owned());
    app.request(1);
    pycket.signal("TERM");
    pycket.says("stopping");
    idle.read_to_close();
    gate.open();
    assert_eq!(slow.join().unwrap(), "finished");
    let ended = pycket.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("\"finished\":1"), "{}", ended.stderr);
}

#[test]
fn what_does_not_finish_in_time_is_cut_off_and_said() {
    let gate = Arc::new(Gate::closed());
    let held = Arc::clone(&gate);
    let app = Upstream::app(move |_| {
        held.pass();
        AppResponse::ok("")
    });
    let mut pycket = Pycket::with(&app).config("timeouts.drain = '1s'").start();
    let mut wire = Wire::connect(&pycket);
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    app.request(1);
    pycket.signal("INT");
    let ended = pycket.ended();
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("1 exchanges had to be cut off"),
        "{}",
        ended.stderr
    );
    gate.open();
}

#[test]
fn a_path_in_the_log_stays_one_line_and_loses_its_query() {
    let app = Upstream::app(|_| AppResponse::ok(""));
    let mut pycket = Pycket::with(&app).config("log.format = 'text'").start();
    let answer = raw(&pycket, "GET /a\"=%0a?secret=1 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    let ended = pycket.stop();
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    assert!(!ended.stdout.contains("secret"));
}

#[test]
fn what_a_client_sends_in_our_names_never_reaches_the_application() {
    let app = Upstream::app(|_| AppResponse::ok(""));
    let pycket = Pycket::with(&app)
        .config("[[route]]\npath = '/static/'\nsession = false")
        .start();
    let spoofs = [
        "X-Session",
        "x_session",
        "X.Session",
        "X~Session",
        "X-SESSION",
        "X-Session-Id",
        "X_Session_State",
        "X-Session-Set",
        "X-Session-Whatever",
        "X-Notifications",
        "X_Notifications_Add",
        "X-Notifications.Taken",
    ];
    for path in ["/", "/static/a"] {
        for spoof in spoofs {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: h\r\n{spoof}: evil\r\n{spoof}: evil2\r\nConnection: close, {spoof}\r\n\r\n"
            );
            let answer = raw(&pycket, request);
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{spoof}");
            let text = format!("{:?}", app.requests().pop());
            assert!(!text.contains("evil"), "{path} {spoof}: {text}");
        }
    }
    assert_eq!(app.requests().len(), 2 * spoofs.len());
}

//! What HTTP promises, and the proxy keeps: connections, bodies, bodiless answers, upgrades, targets.

use serde_json::json;

use crate::balance::refusing;
use crate::harness::{AppResponse, Browser, Gate, Pycket, Upstream, Wire, raw, raw_until_close};

/// An application that sends back what it got.
fn echo() -> Upstream {
    Upstream::app(|request| AppResponse::ok(request.body.clone()))
}

/// So many bytes, of every value.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// The body in chunks of sizes that grow, each with an extension.
fn chunked(body: &[u8]) -> Vec<u8> {
    let (mut encoded, mut rest, mut size) = (Vec::new(), body, 1);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        encoded.extend_from_slice(format!("{:x};ext=\"1\"\r\n", chunk.len()).as_bytes());
        encoded.extend_from_slice(chunk);
        encoded.extend_from_slice(b"\r\n");
        (rest, size) = (after, size * 3 + 1);
    }
    encoded.extend_from_slice(b"0\r\n\r\n");
    encoded
}

#[test]
fn requests_of_one_connection_go_upstream_by_one_connection() {
    let app = echo();
    let config = "timeouts.upstream_idle = '1m'\nworkers = 1";
    let pycket = Pycket::with(&app).config(config).start();
    let mut wire = Wire::connect(&pycket);
    for turn in 1..=100 {
        wire.send(format!(
            "POST /{turn} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
        ));
        assert_eq!(wire.read_response("POST").text(), "x");
    }
    // The next client's requests go by the same one.
    assert_eq!(Browser::at(&pycket).get("/101").text(), "");
    let connections: Vec<_> = app.requests().iter().map(|r| r.connection).collect();
    assert_eq!(connections, [1; 101]);
}

#[test]
fn close_ends_the_connection_of_whoever_says_it_and_no_other() {
    let app = Upstream::app(|request| match request.target.as_str() {
        "/last" => AppResponse::ok("last").close(),
        target => AppResponse::ok(target),
    });
    let config = "timeouts.upstream_idle = '1m'\nworkers = 1";
    let pycket = Pycket::with(&app).config(config).start();
    let mut wire = Wire::connect(&pycket);
    for target in ["/one", "/last", "/two", "/three"] {
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let response = wire.read_response("GET");
        assert_eq!(
            (response.status, response.header("Connection")),
            (200, None)
        );
    }
    wire.send("GET /four HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let response = wire.read_response("GET");
    assert!(response.fields.lists("Connection", "close"));
    assert_eq!(wire.read_to_close(), b"");
    assert_eq!(Browser::at(&pycket).get("/five").text(), "/five");
    let connections: Vec<_> = app.requests().iter().map(|r| r.connection).collect();
    assert_eq!(connections, [1, 1, 2, 2, 2, 2]);
    for request in app.requests() {
        assert_eq!(request.header("Connection"), None, "{}", request.target);
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let app = Upstream::app(|request| AppResponse::ok(request.target.clone()));
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    wire.send(
        "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n\
         POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n\
         POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nGE\r\n0\r\n\r\n\
         GET /4 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    );
    for target in ["/1", "/2", "/3", "/4"] {
        assert_eq!(wire.read_response("GET").text(), target);
    }
    assert_eq!(wire.read_to_close(), b"");
    assert_eq!(app.requests().len(), 4);
}

#[test]
fn bodies_arrive_byte_for_byte_in_each_framing() {
    let body = noise(300_000);
    let sent = body.clone();
    let app = Upstream::raw(move |mut wire, _| {
        let request = wire.read_request();
        assert!(request.body == sent, "{}", request.target);
        let (framing, body) = match request.target.as_str() {
            "/length" => (format!("Content-Length: {}\r\n", sent.len()), sent.clone()),
            "/chunked" => ("Transfer-Encoding: chunked\r\n".to_owned(), chunked(&sent)),
            _ => (String::new(), sent.clone()),
        };
        wire.send(format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n{framing}\r\n"
        ));
        wire.send(body);
    });
    let pycket = Pycket::with(&app).start();
    let mut cases = 0;
    for target in ["/length", "/chunked", "/close"] {
        for (framing, encoded) in [
            (format!("Content-Length: {}", body.len()), body.clone()),
            ("Transfer-Encoding: chunked".to_owned(), chunked(&body)),
        ] {
            let mut wire = Wire::connect(&pycket);
            wire.send(format!(
                "POST {target} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"
            ));
            wire.send(encoded);
            let response = wire.read_response("POST");
            assert!(response.body() == body, "{target} {framing}");
            let has_length = response.header("Content-Length").is_some();
            assert_eq!(has_length, target == "/length", "{target} {framing}");
            cases += 1;
        }
    }
    assert_eq!(cases, 6);
}

#[test]
fn http_1_0_upstream_ends_its_body_with_the_connection() {
    let app = Upstream::raw(|mut wire, _| {
        wire.read_head();
        wire.send("HTTP/1.0 200 OK\r\n\r\nuntil the end");
    });
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    for _ in 0..2 {
        wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let response = wire.read_response("GET");
        assert_eq!(response.text(), "until the end");
        assert_eq!(response.header("Transfer-Encoding"), Some("chunked"));
        assert_eq!(response.header("Via"), Some("1.0 pycket"));
    }
}

#[test]
fn http_1_0_client_gets_what_it_can_read() {
    let app = Upstream::raw(|mut wire, _| {
        let request = wire.read_request();
        assert_eq!(request.header("Via"), Some("1.0 pycket"));
        let framing = match request.target.as_str() {
            "/length" => "Content-Length: 4\r\n\r\nbody",
            _ => "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        };
        wire.send(format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nX-Session-Set: a=1\r\n{framing}"
        ));
    });
    let pycket = Pycket::with(&app).start();
    for target in ["/length", "/chunked"] {
        let answer = raw_until_close(&pycket, format!("GET {target} HTTP/1.0\r\n\r\n"));
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nbody"), "{answer}");
        let lower = answer.to_lowercase();
        assert!(!lower.contains("transfer-encoding"), "{answer}");
        assert!(lower.contains("set-cookie: pycket_id="), "{answer}");
    }
    let mut kept = Wire::connect(&pycket);
    for _ in 0..2 {
        kept.send("GET /length HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = kept.read_response("GET");
        assert!(response.fields.lists("Connection", "keep-alive"));
        assert_eq!(response.text(), "body");
    }
}

#[test]
fn upload_reaches_the_application_while_it_is_sent() {
    let gate = Gate::closed();
    let arrived = gate.clone();
    let app = Upstream::raw(move |mut wire, _| {
        wire.read_head();
        wire.read_until("first half");
        arrived.open();
        wire.read_until("second half");
        wire.send("HTTP/1.1 204 No Content\r\n\r\n");
    });
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    wire.send(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\na\r\nfirst half\r\n",
    );
    gate.pass();
    wire.send("b\r\nsecond half\r\n0\r\n\r\n");
    assert_eq!(wire.read_head().status(), 204);
}

#[test]
fn answer_may_come_before_the_request_is_whole() {
    let gate = Gate::closed();
    let arrived = gate.clone();
    let app = Upstream::raw(move |mut wire, _| {
        let head = wire.read_head();
        if head.part(1) == "/refused" {
            wire.send(
                "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig",
            );
        } else {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
            assert_eq!(wire.read_exactly(8), b"halfrest");
            arrived.open();
            wire.read_to_close();
        }
    });
    let pycket = Pycket::with(&app).start();
    let mut refused = Wire::connect(&pycket);
    refused.send("POST /refused HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nhalf");
    let response = refused.read_response("POST");
    assert_eq!((response.status, response.text()), (413, "big"));
    // What would have come next can't be told from the rest of the body.
    assert_eq!(refused.read_to_close(), b"");

    let mut read = Wire::connect(&pycket);
    read.send("POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf");
    assert_eq!(read.read_response("POST").text(), "early");
    read.send("rest");
    gate.pass();
}

#[test]
fn an_upload_that_outlives_its_answer_holds_its_connection_for_so_long_only() {
    let gate = Gate::closed();
    let ended = gate.clone();
    let app = Upstream::raw(move |mut wire, _| {
        wire.read_head();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
        wire.read_to_close();
        ended.open();
    });
    let pycket = Pycket::with(&app)
        .config("timeouts.upstream_response = '1s'")
        .start();
    let mut client = Wire::connect(&pycket);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf");
    assert_eq!(client.read_response("POST").text(), "early");
    // The client is still there, and says nothing.
    gate.pass();
}

#[test]
fn continue_is_said_only_when_the_application_is_there() {
    let expecting =
        "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let (_kept, nobody) = refusing();
    let pycket = Pycket::to(nobody).start();
    let mut wire = Wire::connect(&pycket);
    wire.send(expecting);
    // The first head is the final one: no interim one stands before it.
    assert_eq!(wire.read_head().status(), 502);

    let app = echo();
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    wire.send(expecting.replace("100-continue", "200-ok"));
    assert_eq!(wire.read_head().status(), 417);
    let mut wire = Wire::connect(&pycket);
    wire.send(expecting.replace("100-continue", "100-Continue"));
    assert_eq!(wire.read_head().status(), 100);
    wire.send("hello");
    assert_eq!(wire.read_response("POST").text(), "hello");
    assert_eq!(app.requests().len(), 1);
}

#[test]
fn request_trailers_that_are_declared_and_harmless_pass() {
    let app = echo();
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    wire.send(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Content-Length\r\n\
         Trailer: Authorization, X-Session, x_session, X-Forwarded-For, Cookie, Host\r\n\r\n1\r\nx\r\n0\r\n\
         X-Sum: 1\r\nX-Sum: 2\r\nContent-Length: 7\r\nAuthorization: evil\r\nX-Session: evil\r\n\
         x_session: evil\r\nX-Forwarded-For: 6.6.6.6\r\nCookie: evil=1\r\nHost: evil\r\n\
         X-Undeclared: evil\r\n\r\n",
    );
    assert_eq!(wire.read_response("POST").text(), "x");
    let request = app.request(1);
    assert_eq!(request.trailers.all("X-Sum"), ["1", "2"]);
    assert_eq!(request.trailers.0.len(), 2, "{:?}", request.trailers);
    assert_eq!(request.header("Trailer"), Some("x-sum"));
}

#[test]
fn response_trailers_go_to_clients_that_take_them() {
    let app = Upstream::raw(|mut wire, _| {
        wire.read_request();
        wire.send(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
             Trailer: X-Sum, Set-Cookie, X-Session-Set, Content-Length\r\n\r\n2\r\nok\r\n0\r\n\
             X-Sum: 1\r\nSet-Cookie: evil=1\r\nX-Session-Set: evil=1\r\nContent-Length: 9\r\n\
             X-Other: evil\r\n\r\n",
        );
    });
    let pycket = Pycket::with(&app).start();
    for (te, count) in [("TE: trailers\r\nConnection: TE\r\n", 1), ("", 0)] {
        let mut wire = Wire::connect(&pycket);
        wire.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{te}\r\n"));
        let response = wire.read_response("GET");
        assert_eq!(response.text(), "ok");
        assert_eq!(response.trailers.0.len(), count, "{:?}", response.trailers);
        assert_eq!(response.trailers.all("X-Sum").len(), count);
    }
}

/// A request's method, what the application answers, and what the client's head then has.
const BODILESS: [(&str, &str, &str); 8] = [
    ("HEAD", "200 OK\r\nContent-Length: 10", "content-length: 10"),
    ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", "200"),
    ("HEAD", "404 None\r\nContent-Length: 9", "content-length: 9"),
    ("GET", "204 No Content", "204"),
    ("DELETE", "204 No Content", "204"),
    (
        "GET",
        "304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 10",
        "etag: \"x\"",
    ),
    ("GET", "205 Reset Content\r\nContent-Length: 0", "205"),
    ("POST", "200 OK\r\nContent-Length: 0", "content-length: 0"),
];

#[test]
fn answers_without_a_body_leave_the_connection_in_order() {
    for (method, answer, expected) in BODILESS {
        let app = Upstream::raw(move |mut wire, _| {
            for _ in 0..2 {
                wire.read_head();
                wire.send(format!("HTTP/1.1 {answer}\r\n\r\n"));
            }
            wire.read_to_close();
        });
        let pycket = Pycket::with(&app).config("workers = 1").start();
        let mut wire = Wire::connect(&pycket);
        for _ in 0..2 {
            wire.send(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
            let head = wire.read_until("\r\n\r\n").to_lowercase();
            assert!(head.starts_with("http/1.1 "), "{head}");
            assert!(head.contains(expected), "{method} {answer}: {head}");
        }
    }
}

const UPGRADE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn websocket_may_begin_a_session() {
    let app = Upstream::raw(|mut wire, _| {
        let request = wire.read_request();
        assert_eq!(request.session(), json!({}));
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-Session-Set: socket=1\r\n\r\n",
        );
        assert_eq!(wire.read_exactly(256), noise(256));
        wire.send(noise(70_000));
        assert_eq!(wire.read_to_close(), b"");
    });
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    wire.send(format!("GET /socket HTTP/1.1\r\nHost: h\r\n{UPGRADE}"));
    let head = wire.read_head();
    assert_eq!(head.status(), 101);
    let accept = head.fields.one("Sec-WebSocket-Accept");
    assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(head.fields.lists("Connection", "upgrade"));
    let cookie = head.fields.one("Set-Cookie").expect("a session begins");
    assert!(cookie.starts_with("PYCKET_ID="), "{cookie}");
    wire.send(noise(256));
    assert_eq!(wire.read_exactly(70_000), noise(70_000));
    wire.finish();
    assert_eq!(wire.read_to_close(), b"");
    let line = pycket.access(|line| line["path"] == "/socket");
    assert_eq!(line["wrote"], "created");
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&json!(256), &json!(70_000))
    );
}

#[test]
fn application_that_does_not_upgrade_goes_on_with_http() {
    let app = Upstream::app(|request| match request.target.as_str() {
        "/refuse" => AppResponse::status(426)
            .header("Upgrade", "websocket")
            .body("no"),
        _ => AppResponse::ok("plain").header("X-Session-Set", "a=1"),
    });
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    for (target, status, text) in [("/refuse", 426, "no"), ("/plain", 200, "plain")] {
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{UPGRADE}"));
        let response = wire.read_response("GET");
        assert_eq!((response.status, response.text()), (status, text));
    }
    // Bytes that follow are a request, not the inside of a tunnel.
    wire.send("GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(wire.read_response("GET").status, 200);
    assert_eq!(app.request(3).header("Upgrade"), None);
}

#[test]
fn targets_and_hosts_reach_the_application_as_they_were_meant() {
    let cases = [
        (
            "GET /a%2Fb/../c;d?e=%20&f HTTP/1.1\r\nHost: Shop.Example:8080",
            "/a%2Fb/../c;d?e=%20&f",
            "Shop.Example:8080",
        ),
        ("GET /?? HTTP/1.1\r\nHost: [::1]:80", "/??", "[::1]:80"),
        ("GET //x//y HTTP/1.1\r\nHost: h", "//x//y", "h"),
        ("GET /%zz%00 HTTP/1.1\r\nHost: h", "/%zz%00", "h"),
        (
            "GET http://other:81/p?q HTTP/1.1\r\nHost: h",
            "/p?q",
            "other:81",
        ),
        ("GET HTTP://other HTTP/1.1\r\nHost: h", "/", "other"),
        ("GET http://other?q HTTP/1.1\r\nHost: h", "/?q", "other"),
        // No part of a request (RFC 9110 section 4.2.5), and cut off.
        ("GET /a?b#c HTTP/1.1\r\nHost: h", "/a?b", "h"),
        ("GET http://other#@evil/ HTTP/1.1\r\nHost: h", "/", "other"),
        (
            "GET http://other?@evil/ HTTP/1.1\r\nHost: h",
            "/?@evil/",
            "other",
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: h", "*", "h"),
        ("OPTIONS /a HTTP/1.1\r\nHost: h", "/a", "h"),
        ("PROPFIND /a HTTP/1.1\r\nHost: h", "/a", "h"),
    ];
    let app = echo();
    let pycket = Pycket::with(&app).start();
    for (number, (request, target, host)) in (1..).zip(cases) {
        let answer = raw(&pycket, format!("{request}\r\n\r\n"));
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{request}");
        let seen = app.request(number);
        assert_eq!(seen.target, target, "{request}");
        assert_eq!(seen.header("Host"), Some(host), "{request}");
    }
    assert_eq!(app.requests().len(), cases.len());
}

#[test]
fn request_heads_have_their_limits() {
    let app = echo();
    let config = "limits.max_head = '16KiB'\nlimits.max_head_fields = 50";
    let pycket = Pycket::with(&app).config(config).start();
    let target = |length: usize| format!("/{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(length));
    let value = |length| format!("/ HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(length));
    let fields = |count| format!("/ HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(count));
    let cases = [
        ("long target", target(8000), 200),
        ("longer target", target(20_000), 431),
        ("longest target", target(200_000), 431),
        ("long value", value(8000), 200),
        ("longer value", value(20_000), 431),
        ("50 fields", fields(49), 200),
        ("51 fields", fields(50), 431),
        ("2001 fields", fields(2000), 431),
        ("20001 fields", fields(20_000), 431),
        ("a value of 1 MB", value(1_000_000), 431),
    ];
    for (what, rest, status) in &cases {
        let answer = raw(&pycket, format!("GET {rest}"));
        let answer = String::from_utf8_lossy(&answer);
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{what}: {answer}");
    }
    assert_eq!(app.requests().len(), 3);
}

#[test]
fn response_heads_have_their_limits() {
    let app = Upstream::raw(|mut wire, _| {
        let head = wire.read_head();
        let filler = match head.part(1) {
            "/large" => format!("X: {}\r\n", "x".repeat(100_000)),
            "/too-large" => format!("X: {}\r\n", "x".repeat(200_000)),
            "/many" => "X: y\r\n".repeat(98),
            _ => "X: y\r\n".repeat(101),
        };
        let answer =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n{filler}\r\n");
        // The proxy may hang up before all of it is sent.
        wire.try_send(answer.as_bytes()).unwrap_or_default();
    });
    let pycket = Pycket::with(&app).start();
    let cases = [
        ("/large", 200),
        ("/too-large", 502),
        ("/many", 200),
        ("/too-many", 502),
    ];
    for (target, status) in cases {
        let mut wire = Wire::connect(&pycket);
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(wire.read_head().status(), status, "{target}");
    }
}

#[test]
fn cookies_of_the_application_pass_unchanged_beside_ours() {
    const THEIRS: [&str; 3] = [
        "a=1; Path=/; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
        "a=1; Path=/; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
        "b=\"x, y\"; secure",
    ];
    let app = Upstream::app(|_| {
        let answer = AppResponse::ok("").header("X-Session-Set", "a=1");
        THEIRS
            .iter()
            .fold(answer, |answer, cookie| answer.header("Set-Cookie", cookie))
    });
    let pycket = Pycket::with(&app).start();
    let response = Browser::at(&pycket).get("/");
    let cookies = response.set_cookies();
    let (ours, theirs) = cookies.split_last().unwrap();
    assert_eq!(theirs, THEIRS);
    assert!(ours.starts_with("PYCKET_ID="), "{ours}");
}

#[test]
fn values_outside_ascii_pass_byte_for_byte() {
    // Every byte that a field value may have beyond visible ASCII (RFC 9110 section 5.5).
    let odd: Vec<u8> = (0x80..=0xff).chain([b'\t', b' ', b'x']).collect();
    let text: String = odd.iter().copied().map(char::from).collect();
    let (answered, asked) = (odd.clone(), text.clone());
    let app = Upstream::raw(move |mut wire, _| {
        let request = wire.read_request();
        assert_eq!(request.header("X-Odd"), Some(asked.as_str()));
        let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\nX-Odd: ";
        wire.send([head.as_slice(), &answered, b"\r\n\r\n"].concat());
    });
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    let head = b"GET / HTTP/1.1\r\nHost: h\r\nX-Odd: ";
    wire.send([head.as_slice(), &odd, b"\r\n\r\n"].concat());
    let response = wire.read_response("GET");
    assert_eq!(response.header("X-Odd"), Some(text.as_str()));
}

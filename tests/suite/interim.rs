//! Interim responses of the application, on their way to the client.

use crate::harness::{Address, Gate, Pycket, Upstream, Wire, curl};

const ONE: &str = "workers = 1";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
const FINAL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An application that answers each request with hints and a final response, at once.
fn hinting(hints: &'static str) -> Upstream {
    Upstream::raw(move |mut wire, _| {
        while wire.try_read_request(1).is_ok() {
            wire.send([hints, FINAL].concat());
        }
    })
}

#[test]
fn hints_arrive_while_the_application_is_still_at_work() {
    let gate = Gate::closed();
    let arrived = gate.clone();
    let app = Upstream::raw(move |mut wire, _| {
        wire.read_request();
        wire.send(HINTS);
        arrived.pass();
        wire.send("HTTP/1.1 102 Processing\r\n\r\n");
        wire.send(FINAL);
    });
    let pycket = Pycket::with(&app).config(ONE).start();
    let mut wire = Wire::connect(&pycket);
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let hints = wire.read_head();
    assert_eq!(hints.status(), 103);
    assert_eq!(hints.fields.one("Link"), Some("</style.css>; rel=preload"));
    assert_eq!(hints.fields.one("Via"), Some("1.1 pycket"));
    gate.open();
    assert_eq!(wire.read_head().status(), 102);
    assert_eq!(wire.read_response("GET").text(), "ok");
}

#[test]
fn hints_of_each_request_come_before_its_answer() {
    let app = hinting(HINTS);
    let pycket = Pycket::with(&app).config(ONE).start();
    let mut wire = Wire::connect(&pycket);
    let request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    // Two that are kept alive, and two that are pipelined.
    for count in [1, 1, 2] {
        wire.send(request.repeat(count));
        for _ in 0..count {
            assert_eq!(wire.read_head().status(), 103);
            assert_eq!(wire.read_response("GET").text(), "ok");
        }
    }
}

#[test]
fn hints_and_the_100_of_the_proxy_do_not_disturb_each_other() {
    let app = Upstream::raw(move |mut wire, _| {
        wire.read_head();
        wire.send(HINTS);
        assert_eq!(wire.read_exactly(5), b"hello");
        wire.send(FINAL);
    });
    let pycket = Pycket::with(&app).config(ONE).start();
    let mut wire = Wire::connect(&pycket);
    wire.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let mut statuses = [wire.read_head().status(), wire.read_head().status()];
    statuses.sort_unstable();
    assert_eq!(statuses, [100, 103]);
    wire.send("hello");
    assert_eq!(wire.read_response("POST").text(), "ok");
}

#[test]
fn hints_stand_behind_the_whole_of_a_large_answer_before_them() {
    const LENGTH: usize = 8 << 20;
    let app = Upstream::raw(move |mut wire, _| {
        while let Ok(request) = wire.try_read_request(1) {
            if request.target == "/large" {
                wire.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
                ));
                wire.send("x".repeat(LENGTH));
            } else {
                wire.send([HINTS, FINAL].concat());
            }
        }
    });
    let pycket = Pycket::with(&app).config(ONE).start();
    let mut wire = Wire::connect(&pycket);
    wire.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let large = wire.read_response("GET");
    assert!(large.body().iter().all(|&byte| byte == b'x'));
    assert_eq!(large.body().len(), LENGTH);
    // They may be dropped where the client is slow, but come before their answer if at all.
    let rest = wire.read_until("\r\n\r\nok");
    let statuses: Vec<_> = rest
        .lines()
        .filter_map(|line| line.strip_prefix("HTTP/1.1 "))
        .collect();
    assert!(
        matches!(statuses[..], ["103 Early Hints", "200 OK"] | ["200 OK"]),
        "{rest}"
    );
}

#[test]
fn curl_reads_them_and_only_by_http_1_1() {
    let app = hinting(HINTS);
    let pycket = Pycket::with(&app).config(ONE).start();
    let url = format!("http://{}/", pycket.address());
    for (flag, statuses) in [
        (
            "--http1.1",
            vec!["HTTP/1.1 103 Early Hints", "HTTP/1.1 200 OK"],
        ),
        ("--http1.0", vec!["HTTP/1.0 200 OK"]),
        ("--http2-prior-knowledge", vec!["HTTP/2 200"]),
    ] {
        let answer = curl(&["-i", flag, &url]);
        let lines = answer.lines().filter(|line| line.starts_with("HTTP/"));
        assert_eq!(lines.collect::<Vec<_>>(), statuses, "{answer}");
        assert!(answer.ends_with("\nok"), "{answer}");
    }
}

#[test]
fn they_can_be_switched_off() {
    let app = hinting(HINTS);
    let off = "forwarding.interim_responses = false";
    let pycket = Pycket::with(&app).config(off).start();
    let mut wire = Wire::connect(&pycket);
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(wire.read_head().status(), 200);
}

#[test]
fn what_would_not_pass_of_an_answer_does_not_pass_of_hints() {
    let app = hinting(
        "HTTP/1.1 100 Continue\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nX-Session-Set: user=alice\r\nX_Session: {}\r\n\
         X-Session-Control: destroy\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Transfer-Encoding: chunked\r\nContent-Length: 7\r\nSet-Cookie: PYCKET_ID=evil\r\nX-Kept: 1\r\n\r\n",
    );
    let pycket = Pycket::with(&app).config(ONE).start();
    let mut wire = Wire::connect(&pycket);
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let hints = wire.read_until("\r\n\r\n");
    let expected = "HTTP/1.1 103 Early Hints\r\nvia: 1.1 pycket\r\nx-kept: 1\r\n\r\n";
    assert_eq!(hints, expected);
    let answer = wire.read_response("GET");
    assert_eq!(answer.status, 200);
    assert!(answer.set_cookies().is_empty(), "no session begins");
}

#[test]
fn hints_without_end_are_not_passed_on_without_end() {
    let app = Upstream::raw(move |mut wire, _| {
        wire.read_request();
        wire.send(HINTS.repeat(1000));
        wire.send(FINAL);
    });
    let pycket = Pycket::with(&app).config(ONE).start();
    let mut wire = Wire::connect(&pycket);
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    for _ in 0..8 {
        assert_eq!(wire.read_head().status(), 103);
    }
    assert_eq!(wire.read_response("GET").text(), "ok");
}

#[test]
fn hints_go_before_a_change_of_protocol_and_before_a_failure() {
    let app = Upstream::raw(move |mut wire, _| {
        let request = wire.read_request();
        wire.send(HINTS);
        if request.target == "/socket" {
            wire.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            );
            assert_eq!(wire.read_exactly(4), b"ping");
            wire.send("pong");
        }
    });
    let pycket = Pycket::with(&app).config(ONE).start();
    let mut wire = Wire::connect(&pycket);
    wire.send(
        "GET /socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(wire.read_head().status(), 103);
    assert_eq!(wire.read_head().status(), 101);
    wire.send("ping");
    assert_eq!(wire.read_exactly(4), b"pong");

    let mut wire = Wire::connect(&pycket);
    wire.send("GET /broken HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(wire.read_head().status(), 103);
    assert_eq!(wire.read_response("GET").status, 502);
}

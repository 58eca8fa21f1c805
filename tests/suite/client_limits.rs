//! What clients may send and for how long, and what happens beyond it.

mod crowd;

use std::fs;

use crate::harness::{Address, AppResponse, Gate, Pycket, Upstream, Wire, curl, raw, tool};
use crate::http2::frames::{END_HEADERS, END_STREAM, Frames, GET};

fn app() -> Upstream {
    Upstream::app(|request| AppResponse::ok(request.body.len().to_string()))
}

const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "example.com"),
    (":path", "/"),
];

/// The status line's number.
fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no answer: {text:?}"))
}

#[test]
fn a_body_that_is_said_to_be_too_large_does_not_reach_the_application() {
    let app = app();
    let pycket = Pycket::with(&app)
        .config("limits.max_body = '1000B'")
        .start();
    let head = |length| format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
    let fits = format!("{}{}", head(1000), "x".repeat(1000));
    assert!(raw(&pycket, &fits).ends_with(b"1000"));
    let answer = raw(&pycket, head(1001));
    assert_eq!(status(&answer), 413);
    assert!(String::from_utf8_lossy(&answer).contains("connection: close"));
    let url = format!("http://{}/", pycket.address());
    let body = "x".repeat(1001);
    let arguments = ["--http2-prior-knowledge", "-d", &body, "-o", "/dev/null"];
    let code = curl(&[&arguments[..], &["-w", "%{http_code}", &url]].concat());
    assert_eq!(code, "413");
    assert_eq!(app.requests().len(), 1);
    let line = pycket.access(|line| line["status"] == 413);
    assert_eq!(line["error"], "request_too_large");
}

// RFC 9112 section 9.6: what is sent to a closed socket resets the connection, and the answer is lost.
#[test]
fn a_client_that_sends_all_of_a_refused_body_gets_to_read_the_answer() {
    let large = vec![b'x'; 8 << 20];
    let head = |path, length| {
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n")
    };
    let app = Upstream::raw(|mut wire, _| {
        wire.read_until("\r\n\r\n");
        wire.send("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno");
        wire.finish();
        wire.read_to_close();
    });
    let pycket = Pycket::with(&app)
        .config("limits.max_body = '8MiB'")
        .start();
    for (path, length, status) in [
        ("/by-us", large.len() + 1, 413),
        ("/by-it", large.len(), 403),
    ] {
        let mut wire = Wire::connect(&pycket);
        wire.send(head(path, length));
        wire.send(&large);
        assert_eq!(wire.read_head().status(), status, "{path}");
    }
}

// RFC 9113 section 8.1: the answer is whole, and a reset behind it says NO_ERROR. Some clients forget
// the answer all the same when they have not sent everything (curl 7.88).
#[test]
fn a_stream_that_is_refused_is_reset_after_its_answer_and_only_if_its_body_does_not_end() {
    let app = app();
    let pycket = Pycket::with(&app)
        .config("limits.max_body = '100000B'")
        .start();
    let post = [&POST[..], &[("content-length", "100001")]].concat();
    let refused = || {
        let mut client = Frames::connect(&pycket);
        client.headers(1, &post, END_HEADERS);
        assert_eq!(client.status(1), "413");
        client.ends(1);
        client
    };
    let mut whole = refused();
    for _ in 0..10 {
        whole.data(1, &[b'x'; 10_000], false);
    }
    whole.data(1, b"x", true);
    whole.headers(3, &GET, END_HEADERS | END_STREAM);
    assert_eq!(whole.status(3), "200");
    assert!(!whole.has_been_reset(1));
    let no_error = 0;
    assert_eq!(refused().is_reset(1), no_error);
}

#[test]
fn a_body_that_turns_out_to_be_too_large_is_cut_off() {
    // It never has a whole request.
    let app = Upstream::raw(|mut wire, _| drop(wire.read_to_close()));
    let pycket = Pycket::with(&app)
        .config("limits.max_body = '1000B'")
        .start();
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    let answer = raw(&pycket, format!("{head}{chunk}{chunk}1\r\nx\r\n"));
    assert_eq!(status(&answer), 413);
    let mut client = Frames::connect(&pycket);
    client.headers(1, &POST, END_HEADERS);
    client.data(1, &[b'x'; 1001], false);
    assert_eq!(client.status(1), "413");
}

#[test]
fn a_body_that_stops_is_given_up() {
    let app = Upstream::raw(|mut wire, _| drop(wire.read_to_close()));
    let pycket = Pycket::with(&app)
        .config("timeouts.client_body = '1s'")
        .start();
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345";
    let answer = raw(&pycket, head);
    assert_eq!(status(&answer), 408);
    let line = pycket.access(|line| line["status"] == 408);
    assert_eq!(
        (&line["error"], &line["bytes_in"]),
        (&"request_timeout".into(), &5.into())
    );
    let mut client = Frames::connect(&pycket);
    client.headers(1, &POST, END_HEADERS);
    client.data(1, b"12345", false);
    assert_eq!(client.status(1), "408");
}

#[test]
fn a_body_may_take_its_time_once_there_is_an_answer() {
    let app = Upstream::raw(|mut wire, _| {
        let head = wire.read_until("\r\n\r\n");
        if head.contains("/stalls") {
            wire.read_to_close();
            return;
        }
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n");
        wire.read_until("late");
        wire.send("5\r\n late\r\n0\r\n\r\n");
        wire.read_to_close();
    });
    let pycket = Pycket::with(&app)
        .config("timeouts.client_body = '1s'")
        .start();
    let mut patient = Wire::connect(&pycket);
    patient.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n1234");
    patient.read_until("early");
    // As long as another one is waited for in vain.
    let stalls = "POST /stalls HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n1234";
    assert_eq!(status(&raw(&pycket, stalls)), 408);
    patient.send("late");
    patient.read_until(" late");
}

#[test]
fn an_idle_connection_and_a_head_have_times_of_their_own() {
    let app = app();
    let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let config = "timeouts.client_head = '1s'\ntimeouts.client_idle = '1h'";
    let short_head = Pycket::with(&app).config(config).start();
    let mut idle = Wire::connect(&short_head);
    idle.send(get);
    idle.read_until("\r\n\r\n0");
    let mut half = Wire::connect(&short_head);
    half.send(get);
    half.read_until("\r\n\r\n0");
    half.send("GET / HTTP/1.1\r\n");
    assert_eq!(half.read_to_close(), b"");
    assert_eq!(
        Wire::connect(&short_head).read_to_close(),
        b"",
        "never began"
    );
    idle.send(get);
    idle.read_until("\r\n\r\n0");

    let short_idle = Pycket::with(&app)
        .config("timeouts.client_idle = '1s'")
        .start();
    let mut idle = Wire::connect(&short_idle);
    idle.send(get);
    idle.read_until("\r\n\r\n0");
    assert_eq!(idle.read_to_close(), b"");
    let mut client = Frames::connect(&short_idle);
    client.headers(1, &GET, END_HEADERS | END_STREAM);
    assert_eq!(client.status(1), "200");
    client.goes_away();
}

#[test]
fn the_last_request_of_a_connection_is_said_to_be_the_last() {
    let app = app();
    let pycket = Pycket::with(&app)
        .config("limits.max_requests_per_connection = 2")
        .start();
    let mut wire = Wire::connect(&pycket);
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(!wire.read_until("\r\n\r\n0").contains("connection: close"));
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let rest = String::from_utf8(wire.read_to_close()).expect("text");
    assert!(rest.contains("connection: close"), "{rest}");
    assert_eq!(rest.matches("HTTP/1.1 200").count(), 1, "{rest}");
    let url = format!("http://{}/", pycket.address());
    let report = tool("h2load", "nghttp2-client", &["-n", "1", "-c", "1", &url]).stdout;
    assert!(report.contains("1 succeeded"), "{report}");
}

#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    let app = Upstream::app(|_| AppResponse::ok(vec![b'x'; 32 << 20]));
    let pycket = Pycket::with(&app)
        .config("timeouts.client_write = '1s'")
        .start();
    let mut lazy = Wire::connect(&pycket);
    lazy.send("GET /lazy HTTP/1.1\r\nHost: h\r\n\r\n");
    let line = pycket.access(|line| line["path"] == "/lazy");
    assert_eq!(line["error"], "client_left");
    drop(lazy);
}

#[test]
fn a_stream_whose_window_stays_shut_is_reset_and_the_others_go_on() {
    let app = Upstream::app(|request| match request.target.as_str() {
        "/large" => AppResponse::ok(vec![b'x'; 4 << 20]),
        _ => AppResponse::ok("small"),
    });
    let pycket = Pycket::with(&app)
        .config("timeouts.client_write = '1s'")
        .start();
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let mut client = Frames::connect_with(&pycket, &[0, 4, 0, 0, 1, 0]);
    let large = GET.map(|(name, value)| (name, if name == ":path" { "/large" } else { value }));
    client.headers(1, &large, END_HEADERS | END_STREAM);
    assert_eq!(client.status(1), "200");
    client.is_reset(1);
    client.headers(3, &GET, END_HEADERS | END_STREAM);
    assert_eq!(client.status(3), "200");
    let line = pycket.access(|line| line["path"] == "/large");
    assert_eq!(line["error"], "client_left");
}

#[test]
fn the_limit_on_descriptors_is_raised_as_far_as_it_goes_and_a_low_one_is_told() {
    let app = Upstream::app(|_| AppResponse::ok("ok"));
    let limit = |pycket: &Pycket| {
        let path = format!("/proc/{}/limits", pycket.pid());
        let limits = fs::read_to_string(path).expect("the process runs");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words: Vec<_> = line.expect("a limit").split_whitespace().collect();
        words[3].to_owned()
    };
    // 100, those of clients, and those of one worker to one server.
    let modest = "workers = 1\nlimits.max_connections = 300\nlimits.max_upstream_connections = 100";
    let enough = Pycket::with(&app).config(modest).descriptors(64, 500);
    let enough = enough.start();
    assert_eq!(limit(&enough), "500");
    assert_eq!(enough.process().count("descriptors"), 0);
    let few = Pycket::with(&app)
        .config(modest)
        .descriptors(64, 499)
        .start();
    assert_eq!(limit(&few), "499");
    few.says(r#""limit":499,"needed":500"#);
}

#[test]
fn exchanges_that_take_long_are_no_idle_connections() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let app = Upstream::app(move |request| {
        if request.target == "/slow" {
            waiting.pass();
        }
        AppResponse::ok("whole")
    });
    let config =
        "timeouts.client_head = '1s'\ntimeouts.client_idle = '1s'\ntimeouts.client_write = '1s'";
    let pycket = Pycket::with(&app).config(config).start();
    let mut slow = Wire::connect(&pycket);
    slow.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    app.request(1);
    // As long as two others are waited for in vain, one after the other.
    assert_eq!(Wire::connect(&pycket).read_to_close(), b"");
    assert_eq!(Wire::connect(&pycket).read_to_close(), b"");
    gate.open();
    slow.read_until("whole");
}

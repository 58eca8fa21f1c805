//! HTTP/2 from clients: curl and h2load, and frames byte by byte for what those would never send.

pub(crate) mod frames;
pub(crate) mod websockets;

use crate::harness::{Address, AppResponse, Gate, Pycket, Upstream, curl, tool};
use frames::{END_HEADERS, END_STREAM, Frames, GET};

fn app() -> Upstream {
    Upstream::app(|request| {
        AppResponse::ok(format!("{} {}", request.method, request.target))
            .header("Connection", "X-Hop")
            .header("X-Hop", "1")
            .header("X-Session-Set", "user=alice")
    })
}

fn url(pycket: &Pycket, path: &str) -> String {
    format!("http://{}{path}", pycket.address())
}

#[test]
fn both_versions_are_spoken_on_one_port() {
    let app = app();
    let pycket = Pycket::with(&app).start();
    for (flag, version) in [("--http2-prior-knowledge", "2"), ("--http1.1", "1.1")] {
        let url = url(&pycket, "/a?b");
        let answer = curl(&[flag, "-w", " %{http_version} %{http_code}", &url]);
        assert_eq!(answer, format!("GET /a?b {version} 200"));
    }
    let by_http2 = app.request(1);
    assert_eq!(
        by_http2.header("Host"),
        Some(pycket.address().to_string().as_str())
    );
    assert_eq!(by_http2.header("Via"), Some("2.0 pycket"));
    assert_eq!(app.request(2).header("Via"), Some("1.1 pycket"));
}

#[test]
fn a_listener_can_do_without() {
    let app = app();
    let pycket = Pycket::with(&app)
        .config("[[listener]]\naddress = '127.0.0.1:0'\nhttp2 = false")
        .start();
    let second = pycket.second_address();
    let url = format!("http://{second}/");
    let ended = tool("curl", "curl", &["-sS", "--http2-prior-knowledge", &url]);
    assert_ne!(ended.code, Some(0));
    assert_eq!(curl(&[&url]), "GET /");
}

#[test]
fn bodies_and_session_cookies_pass() {
    let app = Upstream::app(|request| {
        let said = String::from_utf8_lossy(&request.body).len();
        let session = request.header("X-Session").unwrap_or("none");
        AppResponse::ok(format!("{said} {session}")).header("X-Session-Set", "user=alice")
    });
    let pycket = Pycket::with(&app).start();
    let body = "x".repeat(300_000);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("body");
    std::fs::write(&file, &body).expect("the folder can be written");
    let data = format!("@{}", file.display());
    let jar = folder.path().join("jar");
    let jar = jar.to_str().expect("a readable path");
    let arguments = [
        "--http2-prior-knowledge",
        "--data-binary",
        &data,
        "-c",
        jar,
        "-b",
        jar,
    ];
    let url = url(&pycket, "/");
    let arguments = [&arguments[..], &[&url]].concat();
    assert_eq!(curl(&arguments), "300000 {}");
    assert_eq!(curl(&arguments), "300000 {\"user\":\"alice\"}");
}

#[test]
fn cookie_crumbs_are_joined() {
    let app = app();
    let pycket = Pycket::with(&app).start();
    let mut client = Frames::connect(&pycket);
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    client.headers(1, &[&GET[..], &crumbs].concat(), END_HEADERS | END_STREAM);
    assert_eq!(client.status(1), "200");
    assert_eq!(app.request(1).header("Cookie"), Some("a=1; b=2; c=3"));
    assert_eq!(app.request(1).fields.all("Cookie").len(), 1);
}

#[test]
fn answers_have_nothing_of_the_connection() {
    let app = app();
    let pycket = Pycket::with(&app).start();
    let head = curl(&[
        "-sSI",
        "-X",
        "GET",
        "--http2-prior-knowledge",
        &url(&pycket, "/"),
    ]);
    let head = head.to_lowercase();
    assert!(head.starts_with("http/2 200"), "{head}");
    for name in ["connection:", "x-hop:", "transfer-encoding:", "keep-alive:"] {
        assert!(!head.contains(name), "{name} in {head}");
    }
    assert!(head.contains("set-cookie: pycket_id="), "{head}");
}

#[test]
fn the_access_log_names_the_authority_also_where_it_is_refused() {
    let app = app();
    let pycket = Pycket::with(&app).start();
    let mut client = Frames::connect(&pycket);
    client.headers(1, &GET, END_HEADERS | END_STREAM);
    let odd = [&GET[..], &[("host", "other.example.com")]].concat();
    client.headers(3, &odd, END_HEADERS | END_STREAM);
    for status in [200, 400] {
        let line = pycket.access(|line| line["status"] == status);
        assert_eq!(line["host"], "example.com");
    }
}

#[test]
fn host_and_authority_must_agree() {
    let app = app();
    let pycket = Pycket::with(&app).start();
    let mut client = Frames::connect(&pycket);
    let ask = |client: &mut Frames, stream, host| {
        let fields = [&GET[..], &[("host", host)]].concat();
        client.headers(stream, &fields, END_HEADERS | END_STREAM);
        client.status(stream)
    };
    assert_eq!(ask(&mut client, 1, "example.com"), "200");
    assert_eq!(ask(&mut client, 3, "other.example.com"), "400");
    assert_eq!(ask(&mut client, 5, "EXAMPLE.com"), "200");
    let without = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    client.headers(7, &without, END_HEADERS | END_STREAM);
    assert_eq!(client.status(7), "400");
    let by_host = [&without[..], &[("host", "only.example.com")]].concat();
    client.headers(9, &by_host, END_HEADERS | END_STREAM);
    assert_eq!(client.status(9), "200");
    let hosts: Vec<_> = app.requests();
    let hosts: Vec<_> = hosts.iter().filter_map(|r| r.header("Host")).collect();
    assert_eq!(hosts, ["example.com", "example.com", "only.example.com"]);
}

#[test]
fn fields_of_the_connection_are_refused() {
    for field in [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("X-Upper", "case"),
        ("x-split", "a\r\nX-Evil: 1"),
        ("x-nul", "a\0b"),
        (":unknown", "pseudo"),
    ] {
        let app = app();
        let pycket = Pycket::with(&app).start();
        let mut client = Frames::connect(&pycket);
        client.headers(1, &[&GET[..], &[field]].concat(), END_HEADERS | END_STREAM);
        assert!(client.is_refused(1), "{field:?}");
        assert_eq!(app.requests().len(), 0, "{field:?}");
    }
}

#[test]
fn methods_without_a_target_are_not_offered() {
    let app = app();
    let pycket = Pycket::with(&app).start();
    let mut client = Frames::connect(&pycket);
    let connect = [(":method", "CONNECT"), (":authority", "example.com:443")];
    client.headers(1, &connect, END_HEADERS);
    assert_eq!(client.status(1), "405");
    assert_eq!(app.requests().len(), 0);
}

#[test]
fn a_body_of_another_length_than_said_is_refused() {
    let app = Upstream::raw(|mut wire, _| {
        // Whatever comes, it is not a whole request.
        wire.read_to_close();
    });
    let pycket = Pycket::with(&app).start();
    let mut client = Frames::connect(&pycket);
    let post = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/"),
    ];
    client.headers(
        1,
        &[&post[..], &[("content-length", "10")]].concat(),
        END_HEADERS,
    );
    client.data(1, b"only five", true);
    assert!(client.is_refused(1));
}

#[test]
fn heads_over_the_limit_are_refused() {
    let app = app();
    let pycket = Pycket::with(&app)
        .config("limits.max_head_fields = 20")
        .start();
    let mut client = Frames::connect(&pycket);
    let many: Vec<_> = (0..30).map(|_| ("x-field", "value")).collect();
    client.headers(1, &[&GET[..], &many].concat(), END_HEADERS | END_STREAM);
    assert_eq!(client.status(1), "431");
    let line = pycket.access(|line| line["status"] == 431);
    assert_eq!(
        (&line["path"], &line["error"]),
        (&"/".into(), &"bad_request".into())
    );
    let mut client = Frames::connect(&pycket);
    let long = "x".repeat(9000);
    let large: Vec<_> = (0..4).map(|_| ("x-field", long.as_str())).collect();
    client.headers(1, &[&GET[..], &large].concat(), END_HEADERS | END_STREAM);
    assert_eq!(client.status(1), "431");
    assert_eq!(app.requests().len(), 0);
}

#[test]
fn a_head_that_never_ends_ends_the_connection() {
    let app = app();
    let pycket = Pycket::with(&app).start();
    let mut client = Frames::connect(&pycket);
    client.headers(1, &GET, 0);
    let part = [("x-field", "value")];
    let mut sent = 0;
    while client.try_continuation(1, &part) {
        sent += 1;
        assert!(sent < 100_000, "it takes CONTINUATION for ever");
    }
    assert_eq!(app.requests().len(), 0);
}

#[test]
fn streams_that_are_reset_at_once_end_the_connection() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let app = Upstream::app(move |_| {
        waiting.pass();
        AppResponse::ok("late")
    });
    let pycket = Pycket::with(&app).start();
    let mut client = Frames::connect(&pycket);
    let mut stream = 1;
    // All at once, so that they are reset before they are looked at.
    while client.try_request_and_reset(stream, 50) {
        stream += 100;
        assert!(stream < 1_000_000, "it takes resets for ever");
    }
    gate.open();
}

#[test]
fn frames_that_only_make_work_end_the_connection() {
    let app = app();
    let pycket = Pycket::with(&app).start();
    // SETTINGS, PING, PRIORITY, one that nobody knows, and empty DATA of a request.
    for (kind, stream, payload) in [
        (4, 0, &[][..]),
        (6, 0, &[0; 8]),
        (2, 1, &[0, 0, 0, 3, 1]),
        (0xfa, 0, &[]),
        (0, 1, &[]),
    ] {
        let mut client = Frames::connect(&pycket);
        let post = GET.map(|(name, value)| (name, if value == "GET" { "POST" } else { value }));
        client.headers(1, &post, END_HEADERS);
        let mut sent = 0;
        while client.try_frame(kind, 0, stream, payload) {
            sent += 1;
            assert!(sent < 1_000_000, "it takes frames of kind {kind} for ever");
        }
    }
}

#[test]
fn requests_that_are_reset_one_by_one_end_the_connection() {
    let app = app();
    let pycket = Pycket::with(&app).config("log.access = false").start();
    let mut client = Frames::connect(&pycket);
    let mut stream = 1;
    while client.try_request_and_reset(stream, 1) {
        stream += 2;
        assert!(stream < 1_000_000, "it takes resets for ever");
    }
}

#[test]
fn a_connection_has_a_number_of_requests() {
    let app = app();
    let pycket = Pycket::with(&app)
        .config("limits.max_requests_per_connection = 3")
        .start();
    let mut client = Frames::connect(&pycket);
    for stream in [1, 3, 5] {
        client.headers(stream, &GET, END_HEADERS | END_STREAM);
        assert_eq!(client.status(stream), "200");
    }
    client.goes_away();
}

#[test]
fn what_is_under_way_finishes_when_it_stops() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let app = Upstream::app(move |_| {
        waiting.pass();
        AppResponse::ok("whole")
    });
    let mut pycket = Pycket::with(&app).start();
    let mut client = Frames::connect(&pycket);
    client.headers(1, &GET, END_HEADERS | END_STREAM);
    client.headers(3, &GET, END_HEADERS | END_STREAM);
    app.request(2);
    pycket.signal("TERM");
    client.goes_away();
    gate.open();
    assert_eq!(client.status(1), "200");
    assert_eq!(client.status(3), "200");
    let ended = pycket.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stderr.contains(r#""finished":2,"cut_off":0"#),
        "{}",
        ended.stderr
    );
}

#[test]
fn h2load_gets_all_its_answers() {
    let app = app();
    let pycket = Pycket::with(&app).config("log.access = false").start();
    let arguments = ["-n", "2000", "-c", "8", "-m", "20", &url(&pycket, "/")];
    let ended = tool("h2load", "nghttp2-client", &arguments);
    let report = ended.stdout;
    assert!(report.contains("2000 succeeded, 0 failed"), "{report}");
    assert!(report.contains("2000 2xx"), "{report}");
}

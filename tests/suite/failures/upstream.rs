//! The application can't be reached, is too slow, breaks off, or answers what is no answer.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{ANSWER_PHRASE, COOKIE, MARGIN, assert_rescued, timed};
use crate::harness::{Browser, Builder, Gate, Pycket, Upstream, Wire};

/// `timeouts.upstream_connect` and `timeouts.upstream_response` in these tests.
const LIMIT: Duration = Duration::from_millis(300);

fn hasty(builder: Builder) -> Pycket {
    let config = "
        workers = 1
        timeouts.upstream_connect = '300ms'
        timeouts.upstream_response = '300ms'";
    builder.config(config).start()
}

/// The word of the access log for why the exchange with this path failed.
fn error_word(pycket: &Pycket, path: &str) -> String {
    let line = pycket.access(|line| line["path"] == path);
    line["error"].as_str().unwrap_or_default().to_owned()
}

/// A socket on a free port, with room for `backlog` connections that nobody accepts; without one,
/// it refuses them.
fn deaf(backlog: Option<i32>) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    if let Some(backlog) = backlog {
        socket.listen(backlog).unwrap();
    }
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[test]
fn application_that_refuses_is_502() {
    let (_socket, address) = deaf(None);
    let pycket = hasty(Pycket::to(address));
    let response = Browser::at(&pycket).get("/refused");
    assert_rescued(&response, 502, "The application can't be reached.");
    assert_eq!(error_word(&pycket, "/refused"), "upstream_unreachable");
}

#[test]
fn application_that_accepts_no_connection_is_504_in_time() {
    let (_socket, address) = deaf(Some(0));
    // Linux takes one more than the backlog says, and drops what comes after that.
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, LIMIT) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "the backlog does not fill");
    }
    let pycket = hasty(Pycket::to(address));
    let (response, took) = timed(|| Browser::at(&pycket).get("/deaf"));
    assert_rescued(&response, 504, "The application can't be reached.");
    assert!((LIMIT..LIMIT + MARGIN).contains(&took), "{took:?}");
    assert_eq!(error_word(&pycket, "/deaf"), "upstream_connect_timeout");
}

#[test]
fn application_that_does_not_answer_is_504_in_time_and_loses_its_connection() {
    let let_go = Gate::closed();
    let app = {
        let let_go = let_go.clone();
        Upstream::raw(move |mut wire, _| {
            wire.read_request();
            wire.read_to_close();
            let_go.open();
        })
    };
    let pycket = hasty(Pycket::with(&app));
    let (response, took) = timed(|| Browser::at(&pycket).get("/silent"));
    assert_rescued(&response, 504, "The application did not answer in time.");
    assert!((LIMIT..LIMIT + MARGIN).contains(&took), "{took:?}");
    assert_eq!(error_word(&pycket, "/silent"), "upstream_timeout");
    let_go.pass();
}

/// What is no answer; each asks for a session that must not begin.
fn bad_answers() -> Vec<(&'static str, Vec<u8>)> {
    let with = |status: &str, fields: &str, body: &str| {
        let signal = "X-Session-Set: user=mallory";
        format!("HTTP/1.1 {status}\r\n{signal}\r\n{fields}\r\n\r\n{body}").into_bytes()
    };
    let ok = |fields: &str| with("200 OK", fields, "hello");
    let huge = format!("X-Large: {}\r\nContent-Length: 5", "x".repeat(200_000));
    vec![
        ("nothing", Vec::new()),
        ("half-a-status-line", b"HTTP/1.1 2".to_vec()),
        (
            "half-a-head",
            b"HTTP/1.1 200 OK\r\nX-Session-Set: user=mallory\r\nContent-Le".to_vec(),
        ),
        (
            "garbage",
            b"\x16\x03\x01\x02\x00\x01\x00\xff\xff\r\n\r\n".to_vec(),
        ),
        ("http-0.9", b"<html>hello</html>\r\n\r\n".to_vec()),
        ("http-2", b"HTTP/2 200 OK\r\n\r\n".to_vec()),
        ("another-protocol", b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec()),
        (
            "status-of-two-digits",
            with("20 OK", "Content-Length: 5", "hello"),
        ),
        ("no-colon", ok("Content-Length 5")),
        ("nul-in-a-value", ok("X-Nul: a\0b\r\nContent-Length: 5")),
        ("two-lengths", ok("Content-Length: 5\r\nContent-Length: 6")),
        (
            "the-same-length-twice",
            ok("Content-Length: 5\r\nContent-Length: 5"),
        ),
        ("list-of-lengths", ok("Content-Length: 5, 5")),
        ("negative-length", ok("Content-Length: -5")),
        (
            "length-that-overflows",
            ok("Content-Length: 99999999999999999999999"),
        ),
        (
            "length-and-chunked",
            ok("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        ),
        (
            "chunked-and-length",
            ok("Transfer-Encoding: chunked\r\nContent-Length: 5"),
        ),
        (
            "chunked-twice",
            ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ),
        ("unknown-coding", ok("Transfer-Encoding: gzip, chunked")),
        (
            "switch-unasked",
            with(
                "101 Switching Protocols",
                "Connection: upgrade\r\nUpgrade: websocket",
                "",
            ),
        ),
        ("head-too-large", ok(&huge)),
        ("too-many-fields", ok(&"X-Many: 1\r\n".repeat(500))),
    ]
}

#[test]
fn what_is_no_answer_is_502_and_nothing_of_it_counts() {
    let cases = bad_answers();
    let answers = cases.clone();
    let app = Upstream::raw(move |mut wire, _| {
        let target = wire.read_request().target;
        let answer = answers
            .iter()
            .find(|(name, _)| target == format!("/{name}"));
        let (_, bytes) = answer.expect("the path is the name of a case");
        // The proxy may have seen enough before it has all.
        drop(wire.try_send(bytes));
    });
    let pycket = hasty(Pycket::with(&app));
    let mut checked = 0;
    for (name, _) in &cases {
        let mut browser = Browser::at(&pycket);
        let path = format!("/{name}");
        let (response, took) = timed(|| browser.get(&path));
        assert_eq!(response.status, 502, "{name}");
        assert_rescued(&response, 502, ANSWER_PHRASE);
        assert!(took < LIMIT + MARGIN, "{name}: {took:?}");
        assert_eq!(browser.cookie(COOKIE), None, "{name}");
        let word = error_word(&pycket, &path);
        assert!(
            ["upstream_broken", "bad_response"].contains(&word.as_str()),
            "{name}: {word}"
        );
        checked += 1;
    }
    assert_eq!(checked, 22);
}

const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\nX-Session-Set: user=mallory\r\n\r\n";

#[test]
fn many_interim_answers_are_not_the_answer() {
    let app = Upstream::raw(|mut wire, _| {
        wire.read_request();
        wire.send(INTERIM.repeat(5000));
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        wire.read_to_close();
    });
    let pycket = Pycket::with(&app).start();
    let mut browser = Browser::at(&pycket);
    assert_eq!(browser.get("/").text(), "hello");
    assert_eq!(browser.cookie(COOKIE), None);
}

#[test]
fn interim_answers_do_not_prolong_the_wait() {
    let app = Upstream::raw(|mut wire, _| {
        wire.read_request();
        while wire.try_send(INTERIM.as_bytes()).is_ok() {
            thread::park_timeout(LIMIT / 10);
        }
    });
    let pycket = hasty(Pycket::with(&app));
    let (response, took) = timed(|| Browser::at(&pycket).get("/flood"));
    assert_rescued(&response, 504, "The application did not answer in time.");
    assert!((LIMIT..LIMIT + MARGIN).contains(&took), "{took:?}");
}

#[test]
fn client_can_tell_that_a_body_is_not_whole() {
    let cases = [
        ("/length", "Content-Length: 10\r\n\r\nhello"),
        (
            "/chunked",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ),
        (
            "/in-a-chunk",
            "Transfer-Encoding: chunked\r\n\r\n10\r\nhello",
        ),
        (
            "/bad-chunk",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n",
        ),
    ];
    let app = Upstream::raw(move |mut wire, _| {
        let target = wire.read_request().target;
        let case = cases.iter().find(|(path, _)| *path == target);
        let (_, rest) = case.expect("the path is that of a case");
        wire.send(format!(
            "HTTP/1.1 200 OK\r\nX-Session-Set: user=alice\r\n{rest}"
        ));
    });
    let pycket = Pycket::with(&app).start();
    let mut checked = 0;
    for (path, _) in cases {
        let mut browser = Browser::at(&pycket);
        let response = browser.get(path);
        assert_eq!(response.status, 200);
        assert_eq!(response.cut_body(), Some(&b"hello"[..]), "{path}");
        assert!(
            browser.cookie(COOKIE).is_some(),
            "the head had come, and with it the signals"
        );
        assert_eq!(error_word(&pycket, path), "upstream_broke_off");
        checked += 1;
    }
    assert_eq!(checked, 4);
}

#[test]
fn an_answer_that_does_not_go_on_is_cut_off() {
    let app = Upstream::raw(|mut wire, _| {
        wire.read_request();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        // Until the proxy closes it.
        wire.read_to_close();
    });
    let config = "timeouts.upstream_body = '1s'";
    let pycket = Pycket::with(&app).config(config).start();
    let (response, waited) = timed(|| Browser::at(&pycket).get("/silent"));
    assert_eq!(response.cut_body(), Some(&b"hello"[..]));
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(1) + MARGIN);
    assert_eq!(error_word(&pycket, "/silent"), "upstream_overdue");
}

#[test]
fn an_exchange_ends_with_its_time_although_its_answer_goes_on() {
    const LIMIT: Duration = Duration::from_secs(1);
    let (go, going) = mpsc::channel();
    let going = Mutex::new(going);
    let app = Upstream::raw(move |mut wire, _| {
        if wire.read_request().target == "/headless" {
            wire.read_to_close();
            return;
        }
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let going = going.lock().unwrap();
        while going.recv().is_ok() && wire.try_send(b"1\r\nx\r\n").is_ok() {}
    });
    let pycket = Pycket::with(&app)
        .config("timeouts.exchange = '1s'")
        .start();
    let mut wire = Wire::connect(&pycket);
    wire.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(wire.read_head().status(), 200);
    let ((), waited) = timed(|| {
        // The next part is sent when this one has come.
        while go.send(()).is_ok() && wire.try_read_exactly(6).is_ok() {}
    });
    assert!(waited < LIMIT + MARGIN, "{waited:?}");
    assert_eq!(error_word(&pycket, "/endless"), "upstream_overdue");
    // Sooner than `upstream_response`.
    let (response, waited) = timed(|| Browser::at(&pycket).get("/headless"));
    assert_eq!(response.status, 504);
    assert!(waited >= LIMIT && waited < LIMIT + MARGIN, "{waited:?}");
    assert_eq!(error_word(&pycket, "/headless"), "upstream_timeout");
}

#[test]
fn notifications_of_an_exchange_that_failed_wait_for_the_next_page() {
    /// How the application fails, and what the client gets.
    const FAILURES: [(&str, &str, u16); 4] = [
        ("/breaks-off", "HTTP/1.1 200 OK\r\n", 502),
        (
            "/lies",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            502,
        ),
        (
            "/mumbles",
            "HTTP/1.1 200 OK\r\nX-Session-Control: what\r\nContent-Length: 0\r\n\r\n",
            502,
        ),
        ("/sleeps", "", 504),
    ];
    let app = Upstream::raw(|mut wire, _| {
        let request = wire.read_request();
        let failure = FAILURES.iter().find(|(path, ..)| *path == request.target);
        if let Some((_, answer, status)) = failure {
            assert_eq!(request.header("X-Notifications"), Some(r#"{"m":"hello"}"#));
            wire.send(answer);
            if *status == 504 {
                wire.read_to_close();
            }
            return;
        }
        let shown = request.header("X-Notifications").unwrap_or("nothing");
        let length = shown.len();
        let signal = match request.method.as_str() {
            "POST" => "X-Notifications-Set: m=hello\r\n",
            _ => "",
        };
        wire.send(format!(
            "HTTP/1.1 200 OK\r\n{signal}Connection: close\r\nContent-Length: {length}\r\n\r\n{shown}"
        ));
    });
    let pycket = hasty(Pycket::with(&app));
    let mut browser = Browser::at(&pycket);
    let mut checked = 0;
    for (path, _, status) in FAILURES {
        assert_eq!(browser.post("/", "").text(), "nothing");
        assert_eq!(browser.page(path).status, status, "{path}");
        assert_eq!(browser.page("/").text(), r#"{"m":"hello"}"#, "{path}");
        assert_eq!(browser.page("/").text(), "nothing", "{path}");
        checked += 1;
    }
    assert_eq!(checked, 4);
}

#[test]
fn connection_that_was_closed_while_idle_is_replaced_unnoticed() {
    let noticed = Gate::closed();
    let app = {
        let noticed = noticed.clone();
        Upstream::raw(move |mut wire, connection| {
            wire.read_request();
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
            wire.send(connection.to_string());
            wire.finish();
            wire.read_to_close();
            noticed.open();
        })
    };
    let pycket = Pycket::with(&app).config("workers = 1").start();
    let mut browser = Browser::at(&pycket);
    assert_eq!(browser.get("/").text(), "1");
    noticed.pass();
    assert_eq!(browser.post("/", "once").text(), "2");
}

#[test]
fn request_whose_connection_dies_is_never_sent_again() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let app = {
        let seen = Arc::clone(&seen);
        Upstream::raw(move |mut wire, connection| {
            loop {
                let request = wire.read_request();
                seen.lock()
                    .unwrap()
                    .push((connection, request.method.clone()));
                if request.target == "/dies" {
                    return;
                }
                wire.send("HTTP/1.1 204 No Content\r\n\r\n");
            }
        })
    };
    let config = "workers = 1\ntimeouts.upstream_idle = '1m'";
    let pycket = Pycket::with(&app).config(config).start();
    let mut browser = Browser::at(&pycket);
    // On a fresh connection, and on one that has served a request before.
    for (connection, method) in [(1, "POST"), (2, "POST"), (3, "PUT"), (4, "GET")] {
        if connection > 1 {
            assert_eq!(browser.get("/lives").status, 204);
        }
        let response = browser.request(method, "/dies").body("once").send();
        assert_rescued(&response, 502, ANSWER_PHRASE);
        let mut seen = seen.lock().unwrap();
        let mut expected = vec![(connection, "GET".to_owned()); usize::from(connection > 1)];
        expected.push((connection, method.to_owned()));
        assert_eq!(*seen, expected);
        seen.clear();
    }
}

#[test]
fn application_that_answers_while_it_is_sent_to_keeps_its_answer() {
    let app = Upstream::raw(|mut wire: Wire, _| {
        wire.read_head();
        wire.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!");
        wire.read_to_close();
    });
    let pycket = Pycket::with(&app).start();
    let mut client = Wire::connect(&pycket);
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nonly this");
    assert_eq!(client.read_head().status(), 413);
    assert_eq!(client.read_exactly(3), b"no!");
}

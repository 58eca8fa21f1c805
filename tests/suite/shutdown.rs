//! How it stops, how it fails to start, and what else its operator does at the command line.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use crate::harness::{
    Address, AppResponse, Browser, Gate, Pycket, SECRET, Upstream, Wire, program,
};

/// An application that answers everything but `/quick` only when the gate is open.
fn app_behind(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::app(move |request| {
        if request.target != "/quick" {
            gate.pass();
        }
        AppResponse::ok("whole")
    })
}

const QUICK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwhole";

/// An idle connection that the proxy knows. It is closed when all workers have closed their sockets
/// and count what finishes.
fn idle(pycket: &Pycket) -> Wire {
    let mut wire = Wire::connect(pycket);
    wire.send("GET /quick HTTP/1.1\r\nHost: h\r\n\r\n");
    wire.read_until("whole");
    wire
}

fn assert_nobody_listens(server: &impl Address) {
    let error = TcpStream::connect(server.address()).expect_err("nobody listens");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

const WEBSOCKET: &str = "GET /socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn what_is_under_way_finishes_and_nothing_new_begins() {
    for signal in ["TERM", "INT"] {
        let gate = Gate::closed();
        let app = app_behind(&gate);
        let mut pycket = Pycket::with(&app).start();
        let mut kept = idle(&pycket);
        let mut silent = Wire::connect(&pycket);
        let mut slow = Wire::connect(&pycket);
        slow.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
        app.request(2);

        pycket.signal(signal);
        pycket.says("stopping: exchanges may finish");
        assert_eq!(kept.read_to_close(), b"", "{signal}: kept alive");
        assert_eq!(silent.read_to_close(), b"", "{signal}: never used");
        assert_nobody_listens(&pycket);
        gate.open();
        assert_eq!(slow.read_head().status(), 200, "{signal}");
        assert_eq!(slow.read_to_close(), b"whole", "{signal}");

        let ended = pycket.ended();
        assert_eq!(ended.code, Some(0), "{signal}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(r#""finished":1,"cut_off":0"#),
            "{signal}: {}",
            ended.stderr
        );
        assert_eq!(app.requests().len(), 2, "{signal}");
        let lines = ended.stdout.lines().count();
        assert_eq!(lines, 2, "one for each exchange: {}", ended.stdout);
    }
}

#[test]
fn requests_and_responses_that_are_half_way_arrive_as_a_whole() {
    let (asked, gate) = (Gate::closed(), Gate::closed());
    let (up_begins, holding) = (asked.clone(), gate.clone());
    let app = Upstream::raw(move |mut wire, _| {
        let head = wire.read_head();
        if head.part(1) == "/quick" {
            wire.send(QUICK);
        } else if head.part(0) == "GET" {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
            holding.pass();
            wire.send("rest");
        } else {
            up_begins.open();
            assert_eq!(wire.read_exactly(8), b"halfrest");
            wire.send("HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let mut pycket = Pycket::with(&app).config("workers = 1").start();
    let mut down = Wire::connect(&pycket);
    down.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    down.read_until("half");
    let mut late = Wire::connect(&pycket);
    late.send("GET / HTTP/1.1\r\nHo");
    let mut up = Wire::connect(&pycket);
    up.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf");
    // With this, the only worker has read what came before it, too.
    asked.pass();

    let mut kept = idle(&pycket);
    pycket.signal("TERM");
    kept.read_to_close();
    up.send("rest");
    assert_eq!(up.read_head().status(), 201);
    late.send("st: h\r\n\r\n");
    late.read_until("half");
    gate.open();
    assert_eq!(down.read_to_close(), b"rest");
    assert_eq!(late.read_to_close(), b"rest");
    let ended = pycket.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let all = r#""finished":3,"cut_off":0"#;
    assert!(ended.stderr.contains(all), "{}", ended.stderr);
}

#[test]
fn signal_is_heard_as_soon_as_it_says_that_it_listens() {
    let app = Upstream::raw(|_, _| {});
    for signal in ["TERM", "INT"] {
        let mut pycket = Pycket::with(&app).start();
        pycket.signal(signal);
        assert_eq!(pycket.ended().code, Some(0), "{signal}");
    }
}

#[test]
fn drain_timeout_cuts_off_exchanges_and_tunnels_and_says_so() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = Upstream::raw(move |mut wire, _| {
        if wire.read_head().part(1) == "/socket" {
            wire.send(SWITCHING);
            wire.read_to_close();
        } else {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
            held.pass();
        }
    });
    let config = "timeouts.drain = '200ms'";
    let mut pycket = Pycket::with(&app).config(config).start();
    let mut socket = Wire::connect(&pycket);
    socket.send(WEBSOCKET);
    assert_eq!(socket.read_head().status(), 101);
    let mut hanging = Wire::connect(&pycket);
    hanging.send("GET /hanging HTTP/1.1\r\nHost: h\r\n\r\n");
    hanging.read_until("half");

    pycket.signal("TERM");
    assert_eq!(hanging.read_to_close(), b"");
    assert_eq!(socket.read_to_close(), b"");
    let ended = pycket.ended();
    gate.open();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for text in [
        r#""finished":0,"cut_off":2"#,
        "2 exchanges had to be cut off",
    ] {
        assert!(ended.stderr.contains(text), "{text}: {}", ended.stderr);
    }
    for path in ["/socket", "/hanging"] {
        assert!(ended.stdout.contains(path), "{path}: {}", ended.stdout);
    }
}

#[test]
fn second_signal_stops_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let gate = Gate::closed();
        let app = app_behind(&gate);
        // Longer than the tests wait.
        let config = "timeouts.drain = '1h'";
        let mut pycket = Pycket::with(&app).config(config).start();
        let mut wire = Wire::connect(&pycket);
        wire.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
        app.request(1);
        pycket.signal(first);
        pycket.says("stopping: exchanges may finish");
        pycket.signal(second);
        let ended = pycket.ended();
        gate.open();
        assert_eq!(ended.code, Some(1), "{first}, {second}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("stopping at once"),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains(r#""cut_off":1"#), "{}", ended.stderr);
        assert_eq!(wire.read_to_close(), b"");
    }
}

#[test]
fn websocket_goes_on_until_its_ends_close_it() {
    let app = Upstream::raw(|mut wire, _| {
        if wire.read_head().part(1) == "/quick" {
            return wire.send(QUICK);
        }
        wire.send(SWITCHING);
        let said = wire.read_until("\n");
        wire.send(said);
        wire.read_to_close();
    });
    let mut pycket = Pycket::with(&app).start();
    let mut socket = Wire::connect(&pycket);
    socket.send(WEBSOCKET);
    assert_eq!(socket.read_head().status(), 101);
    let mut kept = idle(&pycket);
    pycket.signal("TERM");
    kept.read_to_close();
    socket.send("still here?\n");
    assert_eq!(socket.read_until("\n"), "still here?\n");
    socket.finish();
    assert_eq!(socket.read_to_close(), b"");
    let ended = pycket.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(r#""cut_off":0"#), "{}", ended.stderr);
}

#[test]
fn address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let app = Upstream::app(|_| AppResponse::ok(""));
    let ended = Pycket::with(&app)
        .config(&format!("listen = '{address}'"))
        .start_expecting_failure();
    assert_eq!(ended.code, Some(1));
    let said = format!("can't listen on {address}: Address already in use");
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
}

#[test]
fn without_a_secret_it_says_how_to_make_one() {
    let ended = Pycket::exactly("listen = '127.0.0.1:0'").start_expecting_failure();
    assert_eq!(ended.code, Some(78));
    for text in ["pycket keygen", "PYCKET_SECRET"] {
        assert!(ended.stderr.contains(text), "{text}: {}", ended.stderr);
    }
}

#[test]
fn flag_wins_over_variable_over_file_over_default() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let checked = |text: &str, variable: Option<&str>, flag: Option<&str>| {
        std::fs::write(file.path(), text).unwrap();
        let mut command = program();
        command
            .arg("check")
            .env("PYCKET_CONFIG", file.path())
            .env("PYCKET_SECRET", SECRET);
        if let Some(address) = variable {
            command.env("PYCKET_LISTEN", address);
        }
        if let Some(address) = flag {
            command.args(["--listen", address]);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        let (_, address) = said.split_once("127.0.0.1:").unwrap();
        let digits = address.find(|c: char| !c.is_ascii_digit()).unwrap();
        address.get(..digits).unwrap().to_owned()
    };
    let listen = "listen = '127.0.0.1:1'";
    let (two, three) = (Some("127.0.0.1:2"), Some("127.0.0.1:3"));
    assert_eq!(checked("", None, None), "8080");
    assert_eq!(checked(listen, None, None), "1");
    assert_eq!(checked(listen, two, None), "2");
    assert_eq!(checked(listen, two, three), "3");
    assert_eq!(checked(listen, None, three), "3");
    assert_eq!(checked("", two, None), "2");
}

/// What can be asked for without a configuration.
const ANSWERS: [(&[&str], &str); 9] = [
    (&["--help"], "Usage: pycket"),
    (&["-h"], "Usage: pycket"),
    (&["--version"], env!("CARGO_PKG_VERSION")),
    (&["run", "--help"], "--config"),
    (&["check", "--help"], "--upstream"),
    (&["completions", "bash"], "complete"),
    (&["completions", "zsh"], "#compdef pycket"),
    (&["completions", "fish"], "complete -c pycket"),
    (&["keygen"], "\n"),
];

#[test]
fn questions_are_answered_without_a_configuration() {
    for (arguments, expected) in ANSWERS {
        let output = program().args(arguments).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert_eq!(output.stderr, b"", "{arguments:?}");
    }
}

#[test]
fn reader_that_goes_away_is_no_error() {
    for (arguments, _) in ANSWERS {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let child = program()
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn();
        let output = child.unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(output.stderr, b"", "{arguments:?}");
    }
}

#[test]
fn wrong_arguments_are_told_apart_from_a_wrong_configuration() {
    let cases: [(&[&str], i32, &str); 5] = [
        (&[], 2, "Usage: pycket"),
        (&["rnu"], 2, "rnu"),
        (&["run", "--no-such-flag"], 2, "--no-such-flag"),
        (&["run", "--config", "/no/such/file"], 78, "/no/such/file"),
        (&["check", "--engine", "papyrus"], 78, "papyrus"),
    ];
    for (arguments, code, expected) in cases {
        let output = program().args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn copy_that_starts_while_another_stops_takes_over_its_port() {
    let gate = Gate::closed();
    let app = app_behind(&gate);
    let mut old = Pycket::with(&app).start();
    let mut slow = Wire::connect(&old);
    slow.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    app.request(1);
    let mut kept = idle(&old);
    old.signal("TERM");
    kept.read_to_close();
    assert_nobody_listens(&old);
    let here = format!("listen = '{}'", old.address());
    let new = Pycket::with(&app).config(&here).start();
    assert_eq!(Browser::at(&new).get("/quick").text(), "whole");
    gate.open();
    slow.read_until("whole");
    assert_eq!(old.ended().code, Some(0));
}

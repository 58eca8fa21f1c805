//! Bytes that an application sends beyond its answer never become the answer to somebody else.

use crate::harness::{Pycket, Upstream, Wire};

/// What would be the answer to the next request on the connection.
const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// A method, and an answer after which the application says more.
const ANSWERS: [(&str, &str); 14] = [
    ("GET", "200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ("GET", "200 OK\r\nContent-Length: 0\r\n\r\n"),
    (
        "GET",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    (
        "GET",
        "200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
    ),
    ("HEAD", "200 OK\r\nContent-Length: 2\r\n\r\n"),
    ("HEAD", "200 OK\r\nContent-Length: 2\r\n\r\nok"),
    (
        "HEAD",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    ("GET", "204 No Content\r\n\r\n"),
    ("GET", "204 No Content\r\nContent-Length: 2\r\n\r\nok"),
    (
        "GET",
        "204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    ("GET", "304 Not Modified\r\n\r\n"),
    ("GET", "304 Not Modified\r\nContent-Length: 2\r\n\r\nok"),
    ("GET", "205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
    (
        "POST",
        "100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ),
];

#[test]
fn what_follows_an_answer_is_nobodys_answer() {
    for (method, answer) in ANSWERS {
        let app = Upstream::raw(move |mut wire, number| {
            wire.read_until("\r\n\r\n");
            if number == 1 {
                wire.send(format!("HTTP/1.1 {answer}{POISON}"));
            } else {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean");
            }
            wire.read_to_close();
        });
        let pycket = Pycket::with(&app).config("workers = 1").start();
        let mut first = Wire::connect(&pycket);
        first.send(format!(
            "{method} / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        ));
        let got = String::from_utf8(first.read_to_close()).expect("text");
        assert!(!got.contains("poison"), "{method} {answer}: {got}");
        assert!(got.starts_with("HTTP/1.1 "), "{method} {answer}: {got}");
        let mut second = Wire::connect(&pycket);
        second.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let got = String::from_utf8(second.read_to_close()).expect("text");
        assert!(got.ends_with("clean"), "{method} {answer}: {got}");
    }
}

/// Lines of a head that the application may not send, with what becomes of the answer.
const LINES: [&str; 18] = [
    "X-Evil: a\rb",
    "X-Evil: a\0b",
    "X-Evil: a\u{1}b",
    "X-Evil: a\u{7f}b",
    "X-Evil: a\r\n b",
    "X-Evil: a\r\n\tb",
    "X Evil: a",
    "X-Evil : a",
    "X-Evil\t: a",
    "X-Evil\0: a",
    "X(Evil): a",
    "X-Evil",
    ": a",
    " X-Evil: a",
    "Content-Length: 2\r\nContent-Length: 2",
    "Content-Length: +2",
    "Content-Length: 2\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: xchunked",
];

#[test]
fn head_that_could_be_read_in_two_ways_is_no_answer() {
    for line in LINES {
        let app = Upstream::raw(move |mut wire, _| {
            wire.read_until("\r\n\r\n");
            let signal = "X-Session-Set: user=mallory";
            // The proxy may have seen enough before it has all.
            drop(
                wire.try_send(
                    format!("HTTP/1.1 200 OK\r\n{signal}\r\n{line}\r\nConnection: close\r\n\r\nok")
                        .as_bytes(),
                ),
            );
        });
        let pycket = Pycket::with(&app).start();
        let mut wire = Wire::connect(&pycket);
        wire.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let got = String::from_utf8_lossy(&wire.read_to_close()).to_lowercase();
        assert!(got.starts_with("http/1.1 502 "), "{line:?}: {got}");
        assert!(
            !got.contains("evil") && !got.contains("set-cookie"),
            "{line:?}: {got}"
        );
    }
}

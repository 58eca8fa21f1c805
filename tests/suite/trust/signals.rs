//! What the application says to the proxy never reaches the browser.

use crate::harness::{Pycket, Upstream, Wire};

/// Header lines between the application and the proxy; each value holds `leaked-value`.
const SIGNALS: &str = "X-Session-Set: a=leaked-value\r\nx-session-set: b=leaked-value\r\n\
     X-Session-Delete: \"leaked-value\"\r\nX-Session-Control: renew\r\n\
     X-Notifications-Set: c=leaked-value\r\nX-Notifications-Add: d=leaked-value\r\n\
     X-Notifications-Taken: \"leaked-value\"\r\nX_Session_Set: leaked-value\r\n\
     X.Session.Set: leaked-value\r\nx-session~control: leaked-value\r\nX_NOTIFICATIONS_SET: leaked-value\r\n\
     X-Session: leaked-value\r\nX-Session-Id: leaked-value\r\nX-Session-State: leaked-value\r\n\
     X-Notifications: leaked-value\r\nX-Session-Of-Tomorrow: leaked-value\r\n";

const BODY: &str = "Content-Length: 2\r\n\r\nok";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: x\r\n";

/// The method, the status line, and what follows the header lines.
const ANSWERS: [(&str, &str, &str); 24] = [
    ("GET", "200 OK", BODY),
    ("POST", "201 Created", BODY),
    (
        "GET",
        "202 Accepted",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    ("GET", "203 Changed", "\r\nok"),
    ("DELETE", "204 No Content", "\r\n"),
    ("GET", "205 Reset Content", "Content-Length: 0\r\n\r\n"),
    ("GET", "206 Partial Content", BODY),
    ("HEAD", "200 OK", "Content-Length: 2\r\n\r\n"),
    ("HEAD", "404 Not Found", "\r\n"),
    ("OPTIONS", "200 OK", BODY),
    ("GET", "300 Choices", BODY),
    (
        "GET",
        "301 Moved",
        "Location: /\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "POST",
        "303 See Other",
        "Location: /\r\nContent-Length: 0\r\n\r\n",
    ),
    ("GET", "304 Not Modified", "ETag: \"x\"\r\n\r\n"),
    ("GET", "400 Bad Request", BODY),
    ("GET", "401 Unauthorized", BODY),
    ("GET", "404 Not Found", BODY),
    ("GET", "416 Range", BODY),
    ("GET", "426 Upgrade Required", BODY),
    ("GET", "431 Too Large", BODY),
    ("GET", "500 Failed", BODY),
    ("GET", "503 Unavailable", BODY),
    ("GET", "599 Odd", BODY),
    ("GET", "999 Odder", BODY),
];

fn assert_nothing_leaks(answer: &[u8], what: &str) {
    let answer = String::from_utf8_lossy(answer).to_lowercase();
    for text in [
        "leaked-value",
        "session-",
        "session_",
        "session.",
        "x-session",
        "notifications",
    ] {
        assert!(!answer.contains(text), "{what}: {text} is in {answer}");
    }
}

const ROUTES: &str =
    "route = [{ path = '/static/', session = false }, { path = '/deaf/', signals = false }]";

#[test]
fn signals_end_here_on_every_status_and_every_route() {
    let app = Upstream::raw(|mut wire, _| {
        let request = wire.read_request();
        let number: usize = request.target.rsplit('/').next().unwrap().parse().unwrap();
        let (_, status, rest) = ANSWERS[number];
        wire.send(format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nX-Kept: 1\r\n{SIGNALS}{rest}"
        ));
    });
    let pycket = Pycket::with(&app).config(ROUTES).start();
    for (number, (method, status, _)) in ANSWERS.iter().enumerate() {
        for path in ["/", "/static/", "/deaf/"] {
            let mut wire = Wire::connect(&pycket);
            wire.send(format!(
                "{method} {path}{number} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            ));
            let answer = wire.read_to_close();
            let what = format!("{method} {path} {status}");
            assert_nothing_leaks(&answer, &what);
            // It is this answer, and not one about a failure.
            let text = String::from_utf8(answer).unwrap();
            assert!(
                text.contains(status.split(' ').next().unwrap()),
                "{what}: {text}"
            );
            assert!(text.contains("x-kept: 1\r\n"), "{what}: {text}");
        }
    }
}

/// Answers that need more than a status line: what follows `HTTP/1.1 `, and what the browser must
/// have got of it.
const OTHERS: [(&str, &str); 6] = [
    (
        "103 Early Hints\r\n{signals}Link: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        " 200 ",
    ),
    (
        "100 Continue\r\n{signals}\r\nHTTP/1.1 200 OK\r\n{signals}Content-Length: 2\r\n\r\nok",
        " 200 ",
    ),
    (
        "200 OK\r\nTrailer: X-Session-Set, X_Session_Set, X-Notifications-Add\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\n{signals}\r\n",
        " 200 ",
    ),
    (
        "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{signals}\r\n",
        " 101 ",
    ),
    (
        "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{signals}\r\n",
        " 502 ",
    ),
    (
        "200 OK\r\n{signals}X-Session-Control: leaked-value=\r\nContent-Length: 2\r\n\r\nok",
        " 502 ",
    ),
];

#[test]
fn signals_end_here_in_interim_answers_upgrades_trailers_and_failures() {
    for (answer, expected) in OTHERS {
        let app = Upstream::raw(move |mut wire, _| {
            wire.read_request();
            let answer = answer.replace("{signals}", SIGNALS);
            wire.send(format!("HTTP/1.1 {answer}"));
        });
        let pycket = Pycket::with(&app).config(ROUTES).start();
        let mut wire = Wire::connect(&pycket);
        wire.send(format!(
            "GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE, close\r\n{UPGRADE}\r\n"
        ));
        let passed = wire.read_to_close();
        assert_nothing_leaks(&passed, answer);
        let text = String::from_utf8(passed).unwrap();
        let is_status = |line: &&str| line.starts_with("HTTP/1.1 ");
        let last = text.lines().rfind(is_status);
        let status = last.unwrap_or_default();
        assert!(status.contains(expected), "{answer}: {text}");
    }
}

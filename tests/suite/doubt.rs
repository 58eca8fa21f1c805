//! What must not pass for a session or a request: a store that has forgotten, a record that was
//! changed, framing in doubt.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{AppResponse, Browser, Pycket, Response, Upstream, raw, raw_until_close};
use crate::servers::{RedisServer, Reply};

/// One worker: each finds out for itself that the store is back.
const CONFIG: &str = "workers = 1\nstorage.timeout = '300ms'\nstorage.connect_timeout = '300ms'\n\
                      storage.breaker_retry = '50ms'\nsession.commit_timeout = '1s'";

fn app() -> Upstream {
    Upstream::app(|request| match request.target.as_str() {
        "/login" => AppResponse::ok("").header("X-Session-Set", "user=alice"),
        "/add" => AppResponse::ok("").header("X-Notifications-Add", "flash=1"),
        _ => AppResponse::ok(request.header("X-Session").unwrap_or("no header")),
    })
}

/// A browser that is logged in.
fn alice(pycket: &Pycket) -> Browser {
    let mut browser = Browser::at(pycket);
    assert_eq!(browser.get("/login").status, 200);
    browser
}

/// Asks until the store is back.
fn until_back(browser: &mut Browser) -> Response {
    let began = Instant::now();
    loop {
        let answer = browser.get("/");
        if answer.status == 200 {
            return answer;
        }
        assert_eq!(answer.status, 503);
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "it never came back"
        );
    }
}

/// Asserts that an exchange fails for the store, soon, and leaves the cookie alone.
fn fails_for_the_store(browser: &mut Browser, app: &Upstream) {
    let asked = app.requests().len();
    let began = Instant::now();
    let answer = browser.get("/");
    assert_eq!(answer.status, 503);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(answer.header("Retry-After"), Some("5"));
    assert!(answer.set_cookies().is_empty());
    assert!(answer.text().contains("Sessions are not available"));
    assert_eq!(app.requests().len(), asked, "the application was bothered");
}

#[test]
fn redis_that_starts_again_empty_is_a_session_that_has_ended() {
    let mut redis = RedisServer::start();
    let app = app();
    let pycket = Pycket::with(&app).redis(&redis).config(CONFIG).start();
    let mut browser = alice(&pycket);
    redis.kill();
    fails_for_the_store(&mut browser, &app);
    redis.restart();
    let back = until_back(&mut browser);
    assert_eq!((back.text(), back.set_cookies().len()), ("{}", 0));
    assert_eq!(browser.get("/login").set_cookies().len(), 1);
    assert_eq!(browser.get("/").json(), json!({"user": "alice"}));
}

#[test]
fn a_record_that_was_changed_or_mixed_up_is_never_a_session() {
    let redis = RedisServer::start();
    let app = app();
    let pycket = Pycket::with(&app).redis(&redis).config(CONFIG).start();
    let mut alice = alice(&pycket);
    let Reply::List(keys) = redis.command(&["KEYS", "*"]) else {
        panic!("KEYS is not answered by a list");
    };
    let Some(Reply::Text(first)) = keys.first() else {
        panic!("there is no record");
    };
    let first = String::from_utf8(first.clone()).unwrap();
    let mut bob = Browser::at(&pycket);
    bob.get("/login");
    let Reply::List(keys) = redis.command(&["KEYS", "*"]) else {
        panic!("KEYS is not answered by a list");
    };
    assert_eq!(keys.len(), 2);
    for key in keys {
        let Reply::Text(key) = key else {
            panic!("a key is a text")
        };
        let key = String::from_utf8(key).unwrap();
        if key != first {
            redis.command(&["COPY", &first, &key, "REPLACE"]);
        }
    }
    assert_eq!(bob.get("/").status, 503, "that is another's record");
    redis.command(&["SETRANGE", &first, "80", "X"]);
    assert_eq!(alice.get("/").status, 503, "its checksum is wrong");
}

#[test]
fn requests_whose_framing_is_in_doubt_never_reach_the_application() {
    let app = app();
    let pycket = Pycket::with(&app).start();
    let refused = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET foo HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n",
    ];
    for request in refused {
        let answer = raw_until_close(&pycket, request);
        let status = String::from_utf8_lossy(&answer)
            .chars()
            .skip(9)
            .take(3)
            .collect::<String>();
        assert!(
            status.starts_with('4') || status == "501",
            "{request:?}: {status}"
        );
    }
    assert!(app.requests().is_empty());
    // The same connection serves what is in order.
    let answer = raw(&pycket, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

//! What happens when the store or the application fails: each by really breaking it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    AppResponse, Browser, Gate, Pycket, Response, Upstream, Wire, raw, raw_until_close,
};
use crate::servers::{MemcachedServer, RedisServer, Reply};

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
fn redis_paused_fails_exchanges_with_a_session_and_no_others() {
    let redis = RedisServer::start();
    let app = app();
    let pycket = Pycket::with(&app).redis(&redis).config(CONFIG).start();
    let mut browser = alice(&pycket);
    redis.pause();
    for _ in 0..8 {
        fails_for_the_store(&mut browser, &app);
    }
    assert_eq!(Browser::at(&pycket).get("/").text(), "{}");
    let mut forger = Browser::at(&pycket);
    forger.plant("PYCKET_ID", "forged");
    assert_eq!(forger.get("/").text(), "{}");
    redis.resume();
    assert_eq!(until_back(&mut browser).json(), json!({"user": "alice"}));
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
fn memcached_killed_and_started_again_recovers() {
    let mut memcached = MemcachedServer::start();
    let app = app();
    let pycket = Pycket::with(&app)
        .memcached(&memcached)
        .config(CONFIG)
        .start();
    let mut browser = alice(&pycket);
    memcached.kill();
    fails_for_the_store(&mut browser, &app);
    memcached.restart();
    assert_eq!(until_back(&mut browser).text(), "{}");
    memcached.pause();
    let mut other = alice_later(&pycket, &memcached);
    assert_eq!(until_back(&mut other).json(), json!({"user": "alice"}));
}

/// Logs in while the server is paused, which fails, and again after it goes on.
fn alice_later(pycket: &Pycket, memcached: &MemcachedServer) -> Browser {
    let mut browser = Browser::at(pycket);
    assert_eq!(browser.get("/login").status, 503);
    memcached.resume();
    let began = Instant::now();
    while browser.get("/login").status != 200 {
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "it never came back"
        );
    }
    browser
}

#[test]
fn a_route_may_go_on_without_its_sessions() {
    let mut redis = RedisServer::start();
    let app = app();
    let pycket = Pycket::with(&app)
        .redis(&redis)
        .config(&format!("{CONFIG}\nsession.on_store_error = 'anonymous'"))
        .start();
    let mut browser = alice(&pycket);
    redis.kill();
    // Signals can't be stored, and the application was told so.
    let answer = browser.get("/login");
    assert_eq!((answer.status, answer.set_cookies().len()), (200, 0));
    let seen = app.request(2);
    assert_eq!(seen.header("X-Session-State"), Some("unavailable"));
    assert_eq!(seen.session(), json!({}));
}

#[test]
fn a_write_that_the_store_refuses_is_never_a_silent_success() {
    let redis = RedisServer::start();
    let app = app();
    let pycket = Pycket::with(&app).redis(&redis).config(CONFIG).start();
    let mut browser = alice(&pycket);
    for (key, value) in [("maxmemory-policy", "noeviction"), ("maxmemory", "1")] {
        redis.command(&["CONFIG", "SET", key, value]);
    }
    assert_eq!(browser.get("/").json(), json!({"user": "alice"}));
    let answer = browser.get("/add");
    assert_eq!((answer.status, answer.set_cookies().len()), (503, 0));
    pycket.says("OOM");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(browser.get("/add").status, 200);
    browser.page("/");
    let shown = app.requests().pop().unwrap().notifications();
    assert_eq!(shown, Some(json!({"flash": ["1"]})));
}

#[test]
fn a_store_that_pauses_for_a_moment_costs_time_and_nothing_else() {
    let redis = RedisServer::start();
    let gate = Arc::new(Gate::closed());
    let held = Arc::clone(&gate);
    let app = Upstream::app(move |request| match request.target.as_str() {
        "/add" => {
            held.pass();
            AppResponse::ok("").header("X-Notifications-Add", "flash=1")
        }
        _ => AppResponse::ok("").header("X-Session-Set", "user=alice"),
    });
    let config = CONFIG.replace("commit_timeout = '1s'", "commit_timeout = '15s'");
    let pycket = Pycket::with(&app).redis(&redis).config(&config).start();
    let mut browser = Browser::at(&pycket);
    browser.get("/login");
    let mut adding = browser.clone();
    let adding = thread::spawn(move || adding.get("/add").status);
    app.request(2);
    redis.pause();
    gate.open();
    // The write is under way, its outcome unknown, and tried again until it is settled.
    pycket.says("the store is down");
    redis.resume();
    assert_eq!(adding.join().unwrap(), 200);
    browser.page("/");
    let shown = app.requests().pop().unwrap().notifications();
    assert_eq!(shown, Some(json!({"flash": ["1"]})), "once, not twice");
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
    assert_eq!(until_settled(&mut alice), 503, "its checksum is wrong");
}

/// The status once the connection that was distrusted has been opened anew.
fn until_settled(browser: &mut Browser) -> u16 {
    browser.get("/").status
}

#[test]
fn the_application_that_fails_is_told_apart_and_the_client_learns_no_cause() {
    let cases: [(&str, &[u8], u16, &str); 9] = [
        ("nothing", b"", 502, "upstream_broken"),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-", 502, "upstream_broken"),
        ("no HTTP", b"hello, world\r\n\r\n", 502, "upstream_broken"),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502, "upstream_broken"),
        ("101 unasked", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", 502, "bad_response"),
        ("gzip coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", 502, "bad_response"),
        ("negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 502, "upstream_broken"),
        ("NUL in a value", b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", 502, "upstream_broken"),
        ("a fine answer", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, ""),
    ];
    for (what, bytes, status, word) in cases {
        let app = Upstream::raw(move |mut wire, _| {
            wire.read_request();
            wire.send(bytes);
        });
        let pycket = Pycket::with(&app).start();
        let answer = Browser::at(&pycket).get("/x");
        assert_eq!(answer.status, status, "{what}");
        let line = pycket.access(|line| line["path"] == "/x");
        if status != 200 {
            assert_eq!(line["error"], word, "{what}");
            let id = line["id"].as_str().unwrap();
            assert!(answer.text().contains(id), "{what}");
            pycket.says(id);
        }
    }
}

#[test]
fn an_application_that_hangs_or_refuses_is_answered_for() {
    let gate = Arc::new(Gate::closed());
    let held = Arc::clone(&gate);
    let app = Upstream::app(move |_| {
        held.pass();
        AppResponse::ok("")
    });
    let pycket = Pycket::with(&app)
        .config("timeouts.upstream_response = '1s'")
        .start();
    assert_eq!(Browser::at(&pycket).get("/").status, 504);
    gate.open();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let pycket = Pycket::to(address).start();
    assert_eq!(Browser::at(&pycket).get("/").status, 502);
}

#[test]
fn a_body_that_breaks_off_is_cut_off_for_the_client_too() {
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let app = Upstream::raw(move |mut wire, _| {
            wire.read_request();
            wire.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n"));
            wire.send(if head.starts_with('C') {
                "half"
            } else {
                "4\r\nhalf\r\n"
            });
        });
        let pycket = Pycket::with(&app).start();
        let answer = Browser::at(&pycket).get("/x");
        assert!(answer.cut_body().is_some(), "{head}");
        let line = pycket.access(|line| line["path"] == "/x");
        assert_eq!(line["error"], "upstream_broke_off");
    }
}

#[test]
fn a_request_that_may_have_arrived_is_not_sent_twice() {
    let app = Upstream::raw(|mut wire, connection| {
        wire.read_request();
        if connection == 1 {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            wire.read_request();
        }
    });
    let pycket = Pycket::with(&app).config("workers = 1").start();
    let mut browser = Browser::at(&pycket);
    assert_eq!(browser.get("/").status, 200);
    // The second request goes by the same connection, which ends after it.
    assert_eq!(browser.post("/pay", "once").status, 502);
}

#[test]
fn signals_of_a_response_are_kept_though_the_client_has_gone() {
    let gate = Arc::new(Gate::closed());
    let held = Arc::clone(&gate);
    let app = Upstream::app(move |request| match request.target.as_str() {
        "/big" => {
            held.pass();
            AppResponse::ok("x".repeat(1 << 20)).header("X-Session-Set", "seen=1")
        }
        "/login" => AppResponse::ok("").header("X-Session-Set", "user=alice"),
        _ => AppResponse::ok(""),
    });
    let pycket = Pycket::with(&app).start();
    let mut browser = Browser::at(&pycket);
    browser.get("/login");
    let cookie = browser.cookie("PYCKET_ID").unwrap();
    let mut leaver = Wire::connect(&pycket);
    leaver.send(format!(
        "GET /big HTTP/1.1\r\nHost: h\r\nCookie: PYCKET_ID={cookie}\r\n\r\n"
    ));
    app.request(2);
    gate.open();
    leaver.read_head();
    leaver.reset();
    pycket.access(|line| line["path"] == "/big" && line["wrote"] == "replaced");
    browser.get("/");
    assert_eq!(
        app.requests().pop().unwrap().session(),
        json!({"seen": "1", "user": "alice"})
    );
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

//! What users are promised about sessions and notifications, on every engine.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    AppRequest, AppResponse, Browser, DEADLINE, Gate, Pycket, Response, Upstream, Wire, raw,
};
use crate::servers::{MemcachedServer, RedisServer, Reply};

/// Where the sessions are.
#[derive(Debug)]
enum Store {
    Memory,
    Redis(RedisServer),
    Memcached(MemcachedServer),
}

/// Every engine, freshly started.
fn engines() -> [Store; 3] {
    [
        Store::Memory,
        Store::Redis(RedisServer::start()),
        Store::Memcached(MemcachedServer::start()),
    ]
}

impl Store {
    fn pycket(&self, app: &Upstream, config: &str) -> Pycket {
        let builder = Pycket::with(app).config(config);
        match self {
            Self::Memory => builder.engine("memory"),
            Self::Redis(server) => builder.redis(server),
            Self::Memcached(server) => builder.memcached(server),
        }
        .start()
    }
}

/// An application that answers what the request's `Answer` lines say: a status, 200 where there is
/// none, and header lines.
fn obedient() -> Upstream {
    Upstream::app(|request| {
        let lines = request.fields.all("Answer");
        let status = lines.iter().find_map(|line| line.parse().ok());
        let fields = lines.iter().filter_map(|line| line.split_once(':'));
        fields.fold(
            AppResponse::status(status.unwrap_or(200)),
            |answer, (name, value)| answer.header(name, value.trim()),
        )
    })
}

/// Sends a request that the application answers with these lines.
fn ask(browser: &mut Browser, target: &str, answer: &[&str]) -> Response {
    let mut request = browser.request("GET", target);
    for line in answer {
        request = request.header("Answer", line);
    }
    request.send()
}

/// Loads a page that the application answers with these lines.
fn load(browser: &mut Browser, target: &str, answer: &[&str]) -> Response {
    let mut request = browser
        .request("GET", target)
        .header("Sec-Fetch-Mode", "navigate")
        .header("Sec-Fetch-Dest", "document");
    for line in answer {
        request = request.header("Answer", line);
    }
    request.send()
}

/// The last request that reached the application.
fn last(app: &Upstream) -> AppRequest {
    app.requests().pop().expect("a request has come")
}

#[test]
fn parallel_exchanges_that_set_names_of_their_own_lose_none() {
    for store in engines() {
        let app = obedient();
        let config =
            "headers.budget = '32KiB'\nsession.max_names = 512\nsession.commit_timeout = '20s'";
        let first = store.pycket(&app, config);
        // The memory engine's sessions are the process's own.
        let second = match store {
            Store::Memory => None,
            Store::Redis(_) | Store::Memcached(_) => Some(first.twin()),
        };
        let mut browser = Browser::at(&first);
        ask(&mut browser, "/", &["X-Session-Set: begun=1"]);
        let threads: Vec<_> = (0..200)
            .map(|number| {
                let mut tab = browser.clone();
                match &second {
                    Some(second) if number % 2 == 1 => tab.go_to(second),
                    _ => &mut tab,
                };
                thread::spawn(move || {
                    let set = format!("X-Session-Set: name{number}={number}");
                    ask(&mut tab, "/", &[&set]).status
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), 200, "{store:?}");
        }
        ask(&mut browser, "/", &[]);
        let session = last(&app).session();
        assert_eq!(session.as_object().unwrap().len(), 201, "{store:?}");
    }
}

#[test]
fn parallel_announcements_under_one_name_lose_none() {
    for store in engines() {
        let app = obedient();
        let pycket = store.pycket(&app, "session.commit_timeout = '20s'");
        let mut browser = Browser::at(&pycket);
        ask(&mut browser, "/", &["X-Session-Set: begun=1"]);
        let threads: Vec<_> = (0..40)
            .map(|number| {
                let mut tab = browser.clone();
                thread::spawn(move || {
                    let add = format!("X-Notifications-Add: flash={number}");
                    ask(&mut tab, "/", &[&add]).status
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), 200, "{store:?}");
        }
        load(&mut browser, "/", &[]);
        let shown = last(&app).notifications().unwrap();
        assert_eq!(shown["flash"].as_array().unwrap().len(), 40, "{store:?}");
    }
}

#[test]
fn a_write_that_comes_after_a_logout_never_brings_the_session_back() {
    for store in engines() {
        let gate = Arc::new(Gate::closed());
        let held = Arc::clone(&gate);
        let app = Upstream::app(move |request| match request.target.as_str() {
            "/late" => {
                held.pass();
                AppResponse::ok("").header("X-Session-Set", "late=1")
            }
            "/logout" => AppResponse::ok("").header("X-Session-Control", "destroy"),
            "/login" => AppResponse::ok("").header("X-Session-Set", "user=alice"),
            _ => AppResponse::ok(""),
        });
        let pycket = store.pycket(&app, "");
        let mut browser = Browser::at(&pycket);
        browser.get("/login");
        let before = browser.clone();
        let mut late = browser.clone();
        let late = thread::spawn(move || late.get("/late").status);
        app.request(2);
        let goodbye = browser.get("/logout");
        assert!(goodbye.set_cookies()[0].contains("Max-Age=0"), "{store:?}");
        gate.open();
        assert_eq!(late.join().unwrap(), 200);
        before.clone().get("/");
        let seen = last(&app);
        assert_eq!(seen.session(), json!({}), "{store:?}");
        assert_eq!(seen.header("X-Session-State"), Some("none"));
        if let Store::Redis(server) = &store {
            assert_eq!(server.command(&["DBSIZE"]), Reply::Number(0));
        }
    }
}

#[test]
fn what_is_set_on_the_old_id_while_it_is_renewed_is_in_the_new_session() {
    for store in engines() {
        let app = obedient();
        let pycket = store.pycket(&app, "session.commit_timeout = '20s'");
        let mut browser = Browser::at(&pycket);
        ask(&mut browser, "/", &["X-Session-Set: begun=1"]);
        for round in 0..10 {
            let mut setter = browser.clone();
            let set = thread::spawn(move || {
                let line = format!("X-Session-Set: round{round}=1");
                ask(&mut setter, "/", &[&line]).status
            });
            ask(&mut browser, "/", &["X-Session-Control: renew"]);
            set.join().unwrap();
            ask(&mut browser, "/", &[]);
            // Either it came before the renewal and is there, or it came after it, to an id that
            // is dead, and is nowhere; what was there before is there in any case.
            assert_eq!(last(&app).session()["begun"], "1", "{store:?}");
        }
    }
}

#[test]
fn a_renewed_session_keeps_its_values_and_the_old_cookie_is_dead() {
    for store in engines() {
        let app = obedient();
        let pycket = store.pycket(&app, "");
        let mut browser = Browser::at(&pycket);
        ask(&mut browser, "/", &["X-Session-Set: user=alice"]);
        ask(&mut browser, "/", &[]);
        let public = last(&app).header("X-Session-Id").unwrap().to_owned();
        let mut old = browser.clone();
        ask(
            &mut browser,
            "/",
            &["X-Session-Control: renew", "X-Session-Set: admin=1"],
        );
        assert_ne!(browser.cookie("PYCKET_ID"), old.cookie("PYCKET_ID"));
        ask(&mut browser, "/", &[]);
        let seen = last(&app);
        assert_eq!(seen.session(), json!({"admin": "1", "user": "alice"}));
        assert_eq!(seen.header("X-Session-Id"), Some(public.as_str()));
        ask(&mut old, "/", &[]);
        assert_eq!(last(&app).session(), json!({}), "{store:?}");
        // Nor is the old id taken up again: what is stored goes under a new one.
        ask(&mut old, "/", &["X-Session-Set: x=1"]);
        assert_ne!(browser.cookie("PYCKET_ID"), old.cookie("PYCKET_ID"));
    }
}

#[test]
fn within_the_grace_the_old_id_leads_to_the_renewed_session() {
    for store in engines() {
        let app = obedient();
        let pycket = store.pycket(&app, "session.renew_grace = '30s'");
        let mut browser = Browser::at(&pycket);
        ask(&mut browser, "/", &["X-Session-Set: user=alice"]);
        let mut old = browser.clone();
        ask(&mut browser, "/", &["X-Session-Control: renew"]);
        ask(&mut old, "/", &["X-Session-Set: late=1"]);
        ask(&mut browser, "/", &[]);
        assert_eq!(
            last(&app).session(),
            json!({"late": "1", "user": "alice"}),
            "{store:?}"
        );
    }
}

#[test]
fn a_notification_is_shown_once_and_by_nothing_but_a_page() {
    for store in engines() {
        let app = obedient();
        let pycket = store.pycket(&app, "");
        let mut browser = Browser::at(&pycket);
        ask(
            &mut browser,
            "/",
            &["303", "Location: /", "X-Notifications-Set: flash=hello"],
        );
        let shows = |what: &str, expected: Option<serde_json::Value>| {
            assert_eq!(last(&app).notifications(), expected, "{store:?}: {what}");
        };
        let flash = || Some(json!({"flash": "hello"}));
        browser.image("/logo.png");
        shows("an image", None);
        browser.get("/api");
        shows("a call", None);
        browser
            .request("GET", "/")
            .header("Sec-Fetch-Mode", "navigate")
            .header("Sec-Fetch-Dest", "document")
            .header("Sec-Purpose", "prefetch")
            .send();
        shows("a prefetch", None);
        for unseen in ["302", "304", "204", "500"] {
            load(&mut browser, "/", &[unseen]);
            shows(unseen, flash());
        }
        load(&mut browser, "/", &["200"]);
        shows("the page", flash());
        load(&mut browser, "/", &["200"]);
        shows("the page again", None);
    }
}

#[test]
fn two_tabs_never_both_show_a_notification_and_a_failure_gives_it_back() {
    for store in engines() {
        let gate = Arc::new(Gate::closed());
        let held = Arc::clone(&gate);
        let app = Upstream::app(move |request| match request.target.as_str() {
            "/slow" => {
                held.pass();
                AppResponse::status(500)
            }
            "/do" => AppResponse::see_other("/").header("X-Notifications-Set", "flash=hello"),
            _ => AppResponse::ok(""),
        });
        let pycket = store.pycket(&app, "");
        let mut browser = Browser::at(&pycket);
        browser.get("/do");
        let mut tab = browser.clone();
        let slow = thread::spawn(move || tab.page("/slow").status);
        assert_eq!(
            app.request(2).notifications(),
            Some(json!({"flash": "hello"}))
        );
        browser.page("/");
        assert_eq!(app.request(3).notifications(), None, "{store:?}");
        gate.open();
        assert_eq!(slow.join().unwrap(), 500);
        browser.page("/");
        assert_eq!(
            app.request(4).notifications(),
            Some(json!({"flash": "hello"}))
        );
        browser.page("/");
        assert_eq!(app.request(5).notifications(), None, "{store:?}");
    }
}

#[test]
fn a_client_that_leaves_gives_back_what_its_request_carried() {
    let gate = Arc::new(Gate::closed());
    let held = Arc::clone(&gate);
    let app = Upstream::app(move |request| match request.target.as_str() {
        "/slow" => {
            held.pass();
            AppResponse::ok("")
        }
        "/do" => AppResponse::see_other("/").header("X-Notifications-Set", "flash=hello"),
        _ => AppResponse::ok(""),
    });
    let pycket = Pycket::with(&app).start();
    let mut browser = Browser::at(&pycket);
    browser.get("/do");
    let cookie = browser.cookie("PYCKET_ID").unwrap().to_owned();
    let mut leaver = Wire::connect(&pycket);
    leaver.send(format!(
        "GET /slow HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\nCookie: PYCKET_ID={cookie}\r\n\r\n"
    ));
    assert!(app.request(2).notifications().is_some());
    leaver.reset();
    pycket.access(|line| line["path"] == "/slow" && line["error"] == "client_left");
    let began = Instant::now();
    let shown = loop {
        browser.page("/");
        if let Some(shown) = last(&app).notifications() {
            break shown;
        }
        assert!(began.elapsed() < DEADLINE, "it never came back");
    };
    assert_eq!(shown, json!({"flash": "hello"}));
    gate.open();
}

#[test]
fn what_a_killed_proxy_held_comes_back_at_another_one() {
    let redis = RedisServer::start();
    let gate = Arc::new(Gate::closed());
    let held = Arc::clone(&gate);
    let app = Upstream::app(move |request| match request.target.as_str() {
        "/slow" => {
            held.pass();
            AppResponse::ok("")
        }
        "/do" => AppResponse::see_other("/").header("X-Notifications-Set", "flash=hello"),
        _ => AppResponse::ok(""),
    });
    let config = "notifications.claim_timeout = '1100ms'\ntimeouts.upstream_response = '1s'";
    let mut doomed = Pycket::with(&app).redis(&redis).config(config).start();
    let twin = doomed.twin();
    let mut browser = Browser::at(&doomed);
    browser.get("/do");
    let cookie = browser.cookie("PYCKET_ID").unwrap().to_owned();
    let mut wire = Wire::connect(&doomed);
    wire.send(format!(
        "GET /slow HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\nCookie: PYCKET_ID={cookie}\r\n\r\n"
    ));
    assert!(app.request(2).notifications().is_some());
    doomed.kill();
    browser.go_to(&twin);
    let began = Instant::now();
    browser.page("/");
    assert_eq!(last(&app).notifications(), None, "it is still held");
    while last(&app).notifications().is_none() {
        assert!(began.elapsed() < DEADLINE, "it never came back");
        browser.page("/");
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    gate.open();
}

#[test]
fn with_ack_a_notification_stays_until_the_application_takes_it() {
    for store in engines() {
        let app = obedient();
        let pycket = store.pycket(&app, "notifications.consume = 'ack'");
        let mut browser = Browser::at(&pycket);
        ask(
            &mut browser,
            "/",
            &[r#"X-Notifications-Set: {"a": 1, "b": [2]}"#],
        );
        for _ in 0..2 {
            ask(&mut browser, "/", &[]);
            assert_eq!(last(&app).notifications(), Some(json!({"a": 1, "b": [2]})));
        }
        ask(&mut browser, "/", &["X-Notifications-Taken: a"]);
        ask(&mut browser, "/", &["X-Notifications-Taken: *"]);
        assert_eq!(
            last(&app).notifications(),
            Some(json!({"b": [2]})),
            "{store:?}"
        );
        ask(&mut browser, "/", &[]);
        assert_eq!(last(&app).notifications(), None);
    }
}

#[test]
fn a_notification_that_a_redirect_made_goes_to_its_page_first() {
    let app = obedient();
    let pycket = Pycket::with(&app)
        .config("notifications.bind = 'redirect'\nnotifications.bind_grace = '1h'")
        .start();
    let mut browser = Browser::at(&pycket);
    ask(
        &mut browser,
        "/do",
        &[
            "303",
            "Location: /cart?x=1",
            "X-Notifications-Set: flash=hello",
        ],
    );
    load(&mut browser, "/other", &[]);
    assert_eq!(last(&app).notifications(), None);
    load(&mut browser, "/cart", &[]);
    assert_eq!(last(&app).notifications(), Some(json!({"flash": "hello"})));
}

/// How often Redis ran each of these commands.
fn calls(redis: &RedisServer, command: &str) -> u64 {
    let Reply::Text(text) = redis.command(&["INFO", "commandstats"]) else {
        panic!("INFO is not answered by a text");
    };
    let text = String::from_utf8(text).unwrap();
    let marker = format!("cmdstat_{command}:calls=");
    text.split(&marker)
        .nth(1)
        .and_then(|rest| rest.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn an_exchange_that_changes_nothing_costs_one_read_and_a_forged_cookie_none() {
    let redis = RedisServer::start();
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&redis).start();
    let mut browser = Browser::at(&pycket);
    ask(&mut browser, "/", &["X-Session-Set: user=alice"]);
    let counts = || {
        (
            calls(&redis, "get") + calls(&redis, "mget"),
            calls(&redis, "set") + calls(&redis, "evalsha") + calls(&redis, "eval"),
        )
    };
    let (reads, writes) = counts();
    for _ in 0..5 {
        ask(&mut browser, "/", &[]);
    }
    // A signal that repeats what is so writes nothing.
    ask(&mut browser, "/", &["X-Session-Set: user=alice"]);
    assert_eq!(counts(), (reads + 6, writes));
    let cookie = browser.cookie("PYCKET_ID").unwrap().to_owned();
    let mut forger = Browser::at(&pycket);
    for forged in [cookie.replace("|1:0|", "|1:1|"), "nonsense".to_owned()] {
        forger.plant("PYCKET_ID", &forged);
        let answer = ask(&mut forger, "/", &[]);
        assert_eq!((answer.status, answer.set_cookies().len()), (200, 0));
    }
    assert_eq!(counts(), (reads + 6, writes));
}

#[test]
fn nothing_is_stored_before_the_application_stores_something() {
    let redis = RedisServer::start();
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&redis).start();
    let mut browser = Browser::at(&pycket);
    assert!(ask(&mut browser, "/", &[]).set_cookies().is_empty());
    assert!(
        ask(&mut browser, "/", &["X-Session-Delete: a"])
            .set_cookies()
            .is_empty()
    );
    assert_eq!(redis.command(&["DBSIZE"]), Reply::Number(0));
    assert_eq!(last(&app).header("X-Session-State"), Some("none"));
    let begun = ask(
        &mut browser,
        "/",
        &["X-Session-Set: a=1", "Cache-Control: public, max-age=9"],
    );
    assert_eq!(begun.header("Cache-Control"), Some("max-age=9, private"));
    assert_eq!(begun.header("Vary"), Some("Cookie"));
    assert!(begun.set_cookies()[0].contains("HttpOnly; SameSite=Lax; Path=/"));
    assert_eq!(redis.command(&["DBSIZE"]), Reply::Number(1));
}

#[test]
fn two_copies_on_one_store_serve_one_client_that_changes_between_them() {
    for store in [
        Store::Redis(RedisServer::start()),
        Store::Memcached(MemcachedServer::start()),
    ] {
        let app = obedient();
        let copies = {
            let first = store.pycket(&app, "");
            let second = first.twin();
            [first, second]
        };
        let mut browser = Browser::at(&copies[0]);
        for number in 0..20 {
            browser.go_to(&copies[number % 2]);
            let set = format!("X-Session-Set: n{number}=1");
            ask(&mut browser, "/", &[&set]);
            let session = last(&app).session();
            assert_eq!(session.as_object().unwrap().len(), number, "{store:?}");
        }
    }
}

#[test]
fn a_bad_signal_fails_the_exchange_and_changes_nothing() {
    let app = obedient();
    let pycket = Pycket::with(&app).start();
    let mut browser = Browser::at(&pycket);
    ask(&mut browser, "/", &["X-Session-Set: user=alice"]);
    let long = format!("X-Session-Set: long={}", "x".repeat(5000));
    let cases = [
        ("X-Session-Set: {\"a\":", "X-Session-Set, line 2"),
        ("X-Session-Control: renwe", "X-Session-Control"),
        ("X-Session-Delete: (", "X-Session-Delete"),
        (long.as_str(), "budget"),
    ];
    for (line, logged) in cases {
        let answer = ask(&mut browser, "/", &["X-Session-Set: user=mallory", line]);
        assert_eq!(answer.status, 502, "{line}");
        assert!(!answer.text().contains("mallory"));
        pycket.says(logged);
        ask(&mut browser, "/", &[]);
        assert_eq!(last(&app).session(), json!({"user": "alice"}), "{line}");
    }
}

#[test]
fn what_a_client_sends_in_our_names_never_reaches_the_application() {
    let app = obedient();
    let pycket = Pycket::with(&app)
        .config("[[route]]\npath = '/static/'\nsession = false")
        .start();
    let spoofs = [
        "X-Session",
        "x_session",
        "X.Session",
        "X~Session",
        "X-SESSION",
        "X-Session-Id",
        "X_Session_State",
        "X-Session-Set",
        "X-Session-Whatever",
        "X-Notifications",
        "X_Notifications_Add",
        "X-Notifications.Taken",
    ];
    for path in ["/", "/static/a"] {
        for spoof in spoofs {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: h\r\n{spoof}: evil\r\n{spoof}: evil2\r\nConnection: close, {spoof}\r\n\r\n"
            );
            let answer = raw(&pycket, request);
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{spoof}");
            let text = format!("{:?}", last(&app));
            assert!(!text.contains("evil"), "{path} {spoof}: {text}");
        }
    }
    assert_eq!(app.requests().len(), 2 * spoofs.len());
}

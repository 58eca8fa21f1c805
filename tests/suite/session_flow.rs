//! The life of a session: how it begins, changes, is renewed and ends, on each engine.

use std::time::{Duration, Instant};

use insta::assert_snapshot;
use pycket::clock::{self, Timestamp};
use pycket::cookie::signed::Keyring;
use serde_json::json;

use crate::harness::{AppResponse, Browser, Pycket, SECRET, Upstream, Wire};
use crate::servers::{RedisServer, Reply};
use crate::stage::{
    COOKIE, Store, commands, cookie, id_in, in_time, number, obedient, on_each_engine, page, post,
};

/// The example of the contract's documentation, with every line of every message. What differs
/// each time is masked.
#[test]
fn exchange_is_as_the_contract_writes_it() {
    let app = Upstream::app(|request| match request.method.as_str() {
        "POST" => AppResponse::see_other("/")
            .header("X-Session-Set", "user=alice")
            .header("X-Session-Control", "renew")
            .header("X-Notifications-Set", r#"{"flash": "Welcome back"}"#),
        _ => AppResponse::ok("hello"),
    });
    let pycket = Pycket::with(&app).start();
    let mut wire = Wire::connect(&pycket);
    wire.send("POST /login HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n");
    let login = wire.read_until("\r\n\r\n");
    let (_, cookie) = login.split_once("set-cookie: ").expect("a cookie is set");
    let (cookie, _) = cookie.split_once(';').expect("it has attributes");
    assert_is_signed(cookie);
    wire.send(format!(
        "GET / HTTP/1.1\r\nHost: shop.example\r\nAccept: text/html\r\nCookie: {cookie}\r\n\r\n"
    ));
    let page = wire.read_until("\r\n\r\nhello");

    let login = login.replace(cookie, "PYCKET_ID=(signed)");
    assert_snapshot!(masked(login.split("\r\n").map(str::to_owned)), @r"
    HTTP/1.1 303 Scripted
    location: /
    via: 1.1 pycket
    vary: Cookie
    cache-control: private
    set-cookie: PYCKET_ID=(signed); HttpOnly; SameSite=Lax; Path=/
    content-length: 0
    date: (masked)
    ");
    assert_snapshot!(masked(page.split("\r\n").map(str::to_owned)), @r"
    HTTP/1.1 200 Scripted
    content-length: 5
    via: 1.1 pycket
    vary: Cookie
    date: (masked)

    hello
    ");
    let request = |number| {
        let fields = app.request(number).fields.0.into_iter();
        masked(fields.map(|(name, value)| format!("{name}: {value}")))
    };
    assert_snapshot!(request(1), @r"
    host: shop.example
    content-length: 0
    x-forwarded-for: 127.0.0.1
    x-forwarded-proto: http
    x-forwarded-host: shop.example
    via: 1.1 pycket
    x-request-id: (masked)
    x-session: {}
    x-session-state: none
    ");
    assert_snapshot!(request(2), @r#"
    host: shop.example
    accept: text/html
    x-request-id: (masked)
    x-forwarded-for: 127.0.0.1
    x-forwarded-proto: http
    x-forwarded-host: shop.example
    via: 1.1 pycket
    x-session: {"user":"alice"}
    x-session-id: (masked)
    x-session-state: active
    x-notifications: {"flash":"Welcome back"}
    "#);
}

fn masked(lines: impl Iterator<Item = String>) -> String {
    const MASKED: [&str; 3] = ["date", "x-request-id", "x-session-id"];
    let mask = |line: String| match line.split_once(": ") {
        Some((name, _)) if MASKED.contains(&name) => format!("{name}: (masked)"),
        _ => line,
    };
    lines.map(mask).collect::<Vec<_>>().join("\n")
}

/// Whether a cookie is Tornado's signed value, version 2, of this moment.
fn assert_is_signed(cookie: &str) {
    let fields: Vec<_> = cookie.split('|').collect();
    let [version, key, time, name, id, signature] = fields[..] else {
        panic!("{cookie}");
    };
    assert_eq!((version, key), ("PYCKET_ID=2", "1:0"));
    assert_eq!(name, "9:PYCKET_ID");
    let time = time.strip_prefix("10:").expect("ten digits");
    let time = Timestamp::from_secs(time.parse().expect("seconds"));
    assert!(clock::now().since(time) < Duration::from_mins(1));
    assert_eq!((id.len(), id_in(cookie).len()), ("48:".len() + 48, 36));
    assert_eq!(signature.len(), 64);
}

#[test]
fn request_that_stores_nothing_begins_nothing() {
    on_each_engine("", |stage| {
        let mut browser = stage.browser();
        let nothing = [
            ("/plain", &[][..]),
            ("/delete", &["X-Session-Delete: a"]),
            ("/null", &["X-Session-Set: {\"a\":null}"]),
            ("/empty", &["X-Session-Set: {}"]),
            ("/control", &["X-Session-Control: renew, clear, ttl=60"]),
            ("/destroy", &["X-Session-Control: destroy"]),
            (
                "/both",
                &["X-Session-Set: a=1", "X-Session-Control: destroy"],
            ),
        ];
        for (path, answer) in nothing {
            let response = post(&mut browser, path, answer);
            assert_eq!(response.status, 200, "{path}");
            assert_eq!(response.set_cookies(), [""; 0], "{path}");
            assert_eq!(stage.wrote(path), "nothing", "{path}");
        }
        stage.store.assert_records(0);
        assert_eq!(stage.state(&mut browser), ("none".to_owned(), None));
    });
}

#[test]
fn session_begins_at_the_first_request_where_it_shall_always() {
    on_each_engine("session.create = 'always'", |stage| {
        let mut browser = stage.browser();
        assert_eq!(browser.get("/first").set_cookies().len(), 1);
        assert_eq!(stage.app.request(1).header("X-Session-State"), Some("none"));
        stage.store.assert_records(1);
        let (state, id) = stage.state(&mut browser);
        assert_eq!((state.as_str(), id.is_some()), ("active", true));
        assert_eq!(stage.session(&mut browser), json!({}));
        assert_eq!(browser.get("/again").set_cookies(), [""; 0]);
        stage.store.assert_records(1);
    });
}

/// What the application says, one response after the other, and what it is told after each.
const CHANGES: [(&[&str], &str); 17] = [
    (
        &["X-Session-Set: user=alice&n=1"],
        r#"{"n":"1","user":"alice"}"#,
    ),
    (
        &[r#"x-session-set: {"n": 2, "l": [1, {"a": null}]}"#],
        r#"{"l":[1,{"a":null}],"n":2,"user":"alice"}"#,
    ),
    (
        &[r#"X-Session-Set: {"user": null}"#],
        r#"{"l":[1,{"a":null}],"n":2}"#,
    ),
    (&[r#"X-Session-Delete: l, "absent""#], r#"{"n":2}"#),
    // A session without values is still one.
    (
        &["X-Session-Delete: n", r#"X-Session-Delete: "with space""#],
        "{}",
    ),
    (
        &[
            "X-Session-Set: a=1",
            r#"X-Session-Set: {"b": 2}"#,
            "X-Session-Set: a=3",
        ],
        r#"{"a":"3","b":2}"#,
    ),
    (
        &[r#"X-Session-Set: c=x%2Cy+z, {"d": true}, e=&f=%C3%AB"#],
        r#"{"a":"3","b":2,"c":"x,y z","d":true,"e":"","f":"\u00eb"}"#,
    ),
    (
        &[
            "X-Session-Delete: c, d",
            "X-Session-Delete: e, f",
            "X-Session-Set: a=9",
        ],
        r#"{"a":"9","b":2}"#,
    ),
    // Deletes come before sets, wherever they stand.
    (
        &["X-Session-Set: a=10", "X-Session-Delete: a, b"],
        r#"{"a":"10"}"#,
    ),
    (
        &["X-Session-Set: k=1", "X-Session-Control: clear"],
        r#"{"k":"1"}"#,
    ),
    (
        &[r#"X-Session-Set: {"z": "Zoë 😀", "a": {"y": 1, "x": "\u0000\n"}}"#],
        r#"{"a":{"x":"\u0000\n","y":1},"k":"1","z":"Zo\u00eb \ud83d\ude00"}"#,
    ),
    (&["X-Session-Control: clear"], "{}"),
    // Numbers keep their digits.
    (
        &[r#"X-Session-Set: {"big": 12345678901234567890123, "half": 0.50}"#],
        r#"{"big":12345678901234567890123,"half":0.50}"#,
    ),
    // On any status.
    (
        &[
            "500",
            "X-Session-Set: s500=1",
            "X-Session-Delete: big, half",
        ],
        r#"{"s500":"1"}"#,
    ),
    (
        &["204", "X-Session-Set: s204=1"],
        r#"{"s204":"1","s500":"1"}"#,
    ),
    (&["304", "X-Session-Delete: s500"], r#"{"s204":"1"}"#),
    (
        &["404", r#"X-Session-Set: {"s204": null, "s404": []}"#],
        r#"{"s404":[]}"#,
    ),
];

#[test]
fn signals_change_what_they_name_and_nothing_else() {
    on_each_engine("", |stage| {
        let mut browser = stage.browser();
        for (number, (answer, after)) in CHANGES.into_iter().enumerate() {
            let response = post(&mut browser, "/", answer);
            for (name, _) in &response.fields.0 {
                let is_signal = name.to_lowercase().starts_with("x-session");
                assert!(!is_signal, "the client sees {name}");
            }
            // The session begins with the first change.
            let cookies = response.set_cookies().len();
            assert_eq!(cookies, usize::from(number == 0), "{answer:?}");
            browser.get("/");
            let seen = stage.app.request(2 * number + 2);
            assert_eq!(seen.header("X-Session"), Some(after), "{answer:?}");
        }
        stage.store.assert_records(1);
    });
}

#[test]
fn signal_that_repeats_what_is_so_writes_nothing() {
    on_each_engine("", |stage| {
        let mut browser = stage.browser();
        post(
            &mut browser,
            "/set",
            &["X-Session-Set: {\"a\": [1, {\"x\": 1, \"y\": 2}]}"],
        );
        post(
            &mut browser,
            "/same",
            &[
                "X-Session-Set: {\"a\": [1,{\"y\":2,\"x\":1}]}",
                "X-Session-Delete: b",
            ],
        );
        post(&mut browser, "/other", &["X-Session-Set: {\"a\": [2]}"]);
        let wrote = ["/set", "/same", "/other"].map(|path| stage.wrote(path));
        assert_eq!(wrote, ["created", "nothing", "replaced"]);
    });
}

#[test]
fn renewal_changes_the_id_and_nothing_else() {
    on_each_engine("", |stage| {
        let mut browser = stage.browser();
        post(
            &mut browser,
            "/begin",
            &["X-Session-Set: a=1", "X-Notifications-Set: note=hello"],
        );
        let before = stage.state(&mut browser);
        let mut left_behind = browser.clone();
        post(
            &mut browser,
            "/login",
            &["X-Session-Set: user=alice", "X-Session-Control: renew"],
        );
        assert_ne!(cookie(&browser), cookie(&left_behind));
        assert_ne!(id_in(&cookie(&browser)), id_in(&cookie(&left_behind)));
        assert_eq!(stage.state(&mut browser), before);
        assert_eq!(
            stage.session(&mut browser),
            json!({"a": "1", "user": "alice"})
        );

        // The old id is dead at once, and what it says is not stored.
        assert_eq!(stage.state(&mut left_behind), ("none".to_owned(), None));
        assert_eq!(stage.session(&mut left_behind), json!({}));
        stage.store.assert_records(1);
        page(&mut browser, "/page", &[]);
        assert_eq!(stage.shown(), Some(json!({"note": "hello"})));
    });
}

#[test]
fn old_id_follows_a_renewal_for_the_grace() {
    on_each_engine("session.renew_grace = '30s'", |stage| {
        let mut browser = stage.browser();
        post(&mut browser, "/begin", &["X-Session-Set: a=1"]);
        let mut left_behind = browser.clone();
        let old = cookie(&browser);
        post(&mut browser, "/login", &["X-Session-Control: renew"]);
        assert_ne!(id_in(&cookie(&browser)), id_in(&old));
        assert_eq!(stage.state(&mut left_behind), stage.state(&mut browser));
        post(&mut left_behind, "/late", &["X-Session-Set: late=1"]);
        assert_eq!(stage.session(&mut browser), json!({"a": "1", "late": "1"}));

        // Whoever ends the session ends it for both.
        post(&mut left_behind, "/logout", &["X-Session-Control: destroy"]);
        assert_eq!(stage.state(&mut browser), ("none".to_owned(), None));
    });
}

#[test]
fn destroyed_session_is_gone_and_its_id_is_not_taken_up_again() {
    on_each_engine("", |stage| {
        let mut browser = stage.browser();
        post(&mut browser, "/begin", &["X-Session-Set: user=alice"]);
        let (_, old_public) = stage.state(&mut browser);
        let mut planted = browser.clone();
        // Nothing else counts beside it.
        post(
            &mut browser,
            "/logout",
            &[
                "X-Session-Set: user=bob",
                "X-Session-Control: destroy, renew",
            ],
        );
        assert_eq!(browser.cookie(COOKIE), None);
        assert_eq!(stage.wrote("/logout"), "destroyed");
        stage.store.assert_records(0);

        let old = cookie(&planted);
        assert_eq!(stage.state(&mut planted), ("none".to_owned(), None));
        assert_eq!(cookie(&planted), old, "reading changes no cookie");
        let mut fixed = planted.clone();
        post(&mut planted, "/again", &["X-Session-Set: user=carol"]);
        assert_ne!(id_in(&cookie(&planted)), id_in(&old));
        let (state, public) = stage.state(&mut planted);
        assert_eq!(state, "active");
        assert_ne!(public, old_public);
        assert_eq!(stage.state(&mut fixed), ("none".to_owned(), None));
        stage.store.assert_records(1);
        // A logout with the dead id takes the cookie away all the same.
        post(&mut fixed, "/out", &["X-Session-Control: destroy"]);
        assert_eq!(fixed.cookie(COOKIE), None);
        stage.store.assert_records(1);
    });
}

#[test]
fn busy_session_outlives_its_idle_time_and_ends_at_its_maximum() {
    let config = "[session]\nidle_timeout = '3s'\nmax_lifetime = '4s'";
    on_each_engine(config, |stage| {
        let mut browser = stage.browser();
        let begin = Instant::now();
        post(&mut browser, "/begin", &["X-Session-Set: a=1"]);
        in_time("the session ends", || {
            (stage.state(&mut browser).0 == "none").then_some(())
        });
        let lived = begin.elapsed();
        let at_least = match stage.store {
            // It counts in seconds, and may end a record one of them before its time.
            Store::Memcached(_) => Duration::from_millis(3001),
            Store::Memory | Store::Redis(_) | Store::Near(_) => Duration::from_millis(3990),
        };
        assert!(lived >= at_least, "{lived:?}");
        stage.pycket.access(|line| line["wrote"] == "touched");
    });
}

/// The only key in Redis.
fn only_key(server: &RedisServer) -> String {
    let Reply::List(keys) = server.command(&["KEYS", "*"]) else {
        panic!("KEYS answers with a list");
    };
    let [Reply::Text(key)] = &keys[..] else {
        panic!("{} keys", keys.len());
    };
    String::from_utf8_lossy(key).into_owned()
}

/// For how long Redis keeps its only key, rounded to seconds.
fn seconds_left(server: &RedisServer) -> i64 {
    (number(server, &["PTTL", &only_key(server)]) + 999) / 1000
}

#[test]
fn record_lives_as_long_as_the_session() {
    let redis = RedisServer::start();
    let app = obedient();
    let pycket = Pycket::with(&app)
        .redis(&redis)
        .config("[session]\nidle_timeout = '1h'\nmax_lifetime = '2h'")
        .start();
    let mut browser = Browser::at(&pycket);
    // A slow machine may take some seconds off.
    let about = |seconds: i64| seconds - 15..=seconds;
    let steps = [
        ("X-Session-Set: a=1", 3600),
        ("X-Session-Control: ttl=60", 60),
        ("X-Session-Set: a=2", 60),
        ("X-Session-Control: ttl=999999", 7200),
        ("X-Session-Control: renew", 7200),
        ("X-Session-Control: renew, ttl=300", 300),
    ];
    for (answer, seconds) in steps {
        post(&mut browser, "/", &[answer]);
        let left = seconds_left(&redis);
        assert!(about(seconds).contains(&left), "{answer}: {left}");
    }
    assert!(only_key(&redis).starts_with("pycket:"));
    post(&mut browser, "/", &["X-Session-Control: ttl=1"]);
    let gone = || (number(&redis, &["DBSIZE"]) == 0).then_some(());
    in_time("the record expires", gone);
    browser.get("/late");
    let seen = app.requests().pop().expect("it arrived");
    assert_eq!(seen.header("X-Session-State"), Some("none"));
}

/// A valid cookie that was signed that many days ago.
fn signed_before(days: u64, id: &str) -> String {
    let then = clock::now().as_secs() - days * 24 * 60 * 60;
    Keyring::single(SECRET.as_bytes()).sign(COOKIE, id.as_bytes(), Timestamp::from_secs(then))
}

#[test]
fn store_is_asked_only_with_a_valid_cookie_and_once() {
    let redis = RedisServer::start();
    let app = obedient();
    let config = "[[route]]\npath = '/static/'\nsession = false";
    let pycket = Pycket::with(&app).redis(&redis).config(config).start();
    let mut browser = Browser::at(&pycket);
    post(&mut browser, "/begin", &["X-Session-Set: a=1"]);
    let valid = cookie(&browser);
    let id = id_in(&valid);
    let forged = Keyring::single(b"another").sign(COOKIE, id.as_bytes(), clock::now());
    let (expired, old) = (signed_before(32, &id), signed_before(30, &id));
    let no_id = Keyring::single(SECRET.as_bytes()).sign(COOKIE, b"no id", clock::now());

    let cases = [
        ("/", None, "", "none", &[][..]),
        ("/", Some("2|nonsense"), "", "malformed", &[]),
        ("/", Some(no_id.as_str()), "", "malformed", &[]),
        ("/", Some(&forged), "", "forged", &[]),
        ("/", Some(&expired), "", "expired", &[]),
        ("/static/", Some(&valid), "X-Session-Set: a=2", "none", &[]),
        ("/", Some(&old), "", "valid", &[("get", 3)]),
        ("/", Some(&valid), "", "valid", &[("get", 3)]),
        (
            "/",
            Some(&valid),
            "X-Session-Set: a=1",
            "valid",
            &[("get", 3)],
        ),
    ];
    let mut checked = 0;
    for (target, value, answer, word, asked) in cases {
        commands(&redis);
        let mut browser = Browser::at(&pycket);
        if let Some(value) = value {
            browser.plant(COOKIE, value);
        }
        for number in 1..=3 {
            let path = format!("{target}{checked}-{number}");
            assert_eq!(post(&mut browser, &path, &[answer]).status, 200);
            let line = pycket.access(|line| line["path"] == path.as_str());
            assert_eq!(line["cookie"], word, "{path}");
        }
        let asked = asked
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count));
        assert_eq!(commands(&redis), asked.collect(), "{target} {word}");
        checked += 1;
    }
    assert_eq!(checked, 9);
}

#[test]
fn use_prolongs_a_session_only_when_a_tenth_has_passed() {
    let redis = RedisServer::start();
    let app = obedient();
    let pycket = Pycket::with(&app)
        .redis(&redis)
        .config("session.idle_timeout = '10s'")
        .start();
    let mut browser = Browser::at(&pycket);
    let begin = Instant::now();
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    commands(&redis);
    let mut reads = 0;
    let (written, _) = in_time("the session is prolonged", || {
        browser.get("/");
        reads += 1;
        let sent = commands(&redis);
        sent.contains_key("set").then_some(sent)
    });
    assert!(begin.elapsed() >= Duration::from_millis(990));
    assert!(reads > 1, "the first use did not write");
    // By compare-and-set: one read for the request, one in the script.
    assert_eq!(written.get("get"), Some(&2), "{written:?}");
    let left = seconds_left(&redis);
    assert!((8..=10).contains(&left), "{left}");
}

//! The header contract: encodings, names, limits, and what signals may not do.

use serde_json::json;

use crate::harness::{Browser, Pycket};
use crate::servers::RedisServer;
use crate::stage::{COOKIE, Stage, Store, cookie, obedient, post};

fn stage(config: &str) -> Stage {
    Stage::on(Store::Memory, config)
}

/// Sets two values, one of them with all that is difficult, and a notification.
const VALUES: [&str; 2] = [
    r#"X-Session-Set: {"user": "Zoë", "n": [1, "a b"]}"#,
    "X-Notifications-Set: flash=a%26b",
];

#[test]
fn session_is_written_in_the_chosen_encoding() {
    let cases = [
        (
            "json",
            "{}",
            r#"{"n":[1,"a b"],"user":"Zo\u00eb"}"#,
            r#"{"flash":"a&b"}"#,
        ),
        (
            "base64",
            "e30",
            "eyJuIjpbMSwiYSBiIl0sInVzZXIiOiJab1x1MDBlYiJ9",
            "eyJmbGFzaCI6ImEmYiJ9",
        ),
        (
            "form",
            "",
            "n=%5B1%2C%22a+b%22%5D&user=Zo%C3%AB",
            "flash=a%26b",
        ),
    ];
    let mut checked = 0;
    for (encode, empty, session, notifications) in cases {
        let stage = stage(&format!("headers.encode = '{encode}'"));
        let mut browser = stage.browser();
        post(&mut browser, "/", &VALUES);
        browser.page("/");
        assert_eq!(stage.app.request(1).header("X-Session"), Some(empty));
        let seen = stage.app.request(2);
        assert_eq!(seen.header("X-Session"), Some(session));
        assert_eq!(seen.header("X-Notifications"), Some(notifications));
        checked += 1;
    }
    assert_eq!(checked, 3);
}

#[test]
fn injected_headers_follow_their_encoding_and_come_from_nobody_else() {
    let stage = stage(
        "[headers.inject]
         X-Plain = 'plain'
         X-Percent = 'text'
         X-Utf8 = { value = 'text', encode = 'utf-8' }
         X-Json = { value = 'text', encode = 'json' }
         X-Base64 = { value = 'text', encode = 'base64' }
         X-List = 'list'
         X-Null = 'null'
         X-Absent = 'absent'",
    );
    let mut browser = stage.browser();
    let set = r#"X-Session-Set: {"plain": "alice", "text": "Zoë%", "list": [1], "null": [null]}"#;
    post(&mut browser, "/", &[set]);
    let forge = |browser: &mut Browser| {
        let names = [
            "X-Plain",
            "x_percent",
            "X-UTF8",
            "X-Json",
            "X-Base64",
            "X-List",
            "X-Null",
            "X-Absent",
            "X.Absent",
        ];
        let request = browser.request("GET", "/");
        names
            .iter()
            .fold(request, |request, name| request.header(name, "forged"))
            .send();
    };
    forge(&mut browser);
    forge(&mut stage.browser());
    let expected = [
        ("X-Plain", "alice"),
        ("X-Percent", "Zo%C3%AB%25"),
        ("X-Utf8", "Zoë%"),
        ("X-Json", r#""Zo\u00eb%""#),
        ("X-Base64", "Wm_DqyU"),
        ("X-List", "[1]"),
        ("X-Null", "[null]"),
    ];
    let seen = stage.app.request(2);
    for (name, value) in expected {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(seen.header("X-Absent"), None);
    for number in [2, 3] {
        let fields = stage.app.request(number).fields.0;
        assert!(
            !fields.iter().any(|(_, value)| value == "forged"),
            "{fields:?}"
        );
    }
    let nothing = stage.app.request(3);
    assert!(
        expected
            .iter()
            .all(|(name, _)| nothing.header(name).is_none())
    );
}

#[test]
fn captured_header_sets_a_value_and_stays_between_application_and_proxy() {
    let stage = stage("[headers.capture]\nX-Auth-User = 'user'\nX-Role = 'role'");
    let mut browser = stage.browser();
    let steps = [
        (
            &["X-Auth-User: alice", "x-role: a=1, b"][..],
            json!({"user": "alice", "role": "a=1, b"}),
        ),
        (
            &["X-Auth-User: Zoë"],
            json!({"user": "Zoë", "role": "a=1, b"}),
        ),
        (&["X-Auth-User:"], json!({"role": "a=1, b"})),
        (&["X-Role: one", "X-Role: two"], json!({"role": "two"})),
        // The explicit signal wins.
        (
            &["X-Role: three", "X-Session-Set: role=four"],
            json!({"role": "four"}),
        ),
        (&[], json!({"role": "four"})),
    ];
    for (answer, after) in steps {
        let response = post(&mut browser, "/", answer);
        assert!(
            ["X-Auth-User", "X-Role"]
                .iter()
                .all(|name| response.header(name).is_none())
        );
        assert_eq!(stage.session(&mut browser), after, "{answer:?}");
    }
    // The client's own counts as little as any other of our names.
    browser
        .request("GET", "/")
        .header("X-Auth-User", "mallory")
        .send();
    let seen = stage.last();
    assert_eq!(seen.header("X-Auth-User"), None);
}

#[test]
fn route_sees_and_changes_only_what_it_exposes() {
    let stage = stage(
        "[[route]]
         path = '/part/'
         expose = ['theme', 'flash']",
    );
    let mut browser = stage.browser();
    post(
        &mut browser,
        "/",
        &[
            "X-Session-Set: user=alice&theme=dark",
            "X-Notifications-Set: flash=1&secret=2",
        ],
    );
    browser.page("/part/");
    let seen = stage.app.request(2);
    assert_eq!(seen.session(), json!({"theme": "dark"}));
    assert_eq!(seen.notifications(), Some(json!({"flash": "1"})));

    let refused = [
        "X-Session-Set: user=bob",
        "X-Session-Delete: user",
        "X-Notifications-Set: secret=3",
    ];
    for answer in refused {
        assert_eq!(
            post(&mut browser, "/part/", &[answer]).status,
            502,
            "{answer}"
        );
    }
    stage.pycket.says("the route does not expose this name");
    post(&mut browser, "/part/", &["X-Session-Set: theme=light"]);
    assert_eq!(
        stage.session(&mut browser),
        json!({"user": "alice", "theme": "light"})
    );
    post(&mut browser, "/part/", &["X-Session-Control: clear"]);
    assert_eq!(stage.session(&mut browser), json!({"user": "alice"}));
    // What the part did not see still waits.
    browser.page("/");
    assert_eq!(stage.shown(), Some(json!({"secret": "2"})));
}

#[test]
fn headers_can_have_other_names() {
    let stage = stage(
        "[headers]
         prefix = 'X-App-'
         [headers.names]
         session_set = 'X-Remember'
         session = 'X-Memory'",
    );
    let mut browser = stage.browser();
    let response = post(
        &mut browser,
        "/",
        &[
            "X-Remember: a=1",
            "X-App-Notifications-Set: n=1",
            "X-Session-Set: b=2",
        ],
    );
    assert_eq!(response.header("X-Remember"), None);
    assert_eq!(response.header("X-App-Notifications-Set"), None);
    // No name of ours any more, so it is the application's own business.
    assert_eq!(response.header("X-Session-Set"), Some("b=2"));
    let forged = [
        "X-Memory",
        "X_App_Anything",
        "x-app-session-id",
        "X-Session",
    ];
    let request = browser.request("GET", "/").header("Accept", "text/html");
    forged
        .iter()
        .fold(request, |request, name| request.header(name, "forged"))
        .send();
    let seen = stage.app.request(2);
    assert_eq!(seen.header("X-Memory"), Some(r#"{"a":"1"}"#));
    assert_eq!(seen.header("X-App-Notifications"), Some(r#"{"n":"1"}"#));
    assert_eq!(seen.header("X-App-Session-State"), Some("active"));
    assert_ne!(seen.header("X-App-Session-Id"), Some("forged"));
    assert_eq!(seen.header("X_App_Anything"), None);
    assert_eq!(seen.header("X-Session"), Some("forged"));
}

#[test]
fn route_without_sessions_has_none_and_is_still_safe() {
    let stage = stage("[[route]]\npath = '/static/'\nsession = false");
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    browser.plant("theme", "dark");
    let kept = cookie(&browser);
    let response = browser
        .request("GET", "/static/x")
        .header("X-Session", r#"{"user":"admin"}"#)
        .header("X_Session_Id", "forged")
        .headers(
            "Answer",
            &["X-Session-Set: a=2", "X-Session-Control: destroy"],
        )
        .send();
    let seen = stage.app.request(2);
    assert_eq!(seen.header("Cookie"), Some("theme=dark"));
    for (name, _) in &seen.fields.0 {
        let folded = name.to_lowercase().replace('_', "-");
        assert!(!folded.starts_with("x-session"), "{name}");
    }
    for (name, _) in &response.fields.0 {
        let name = name.to_lowercase();
        assert!(
            !name.starts_with("x-session") && name != "vary" && name != "set-cookie",
            "{name}"
        );
    }
    assert_eq!(cookie(&browser), kept);
    assert_eq!(stage.session(&mut browser), json!({"a": "1"}));
}

#[test]
fn route_without_signals_hears_none() {
    let stage = stage("[[route]]\npath = '/third-party/'\nsignals = false");
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    let response = post(
        &mut browser,
        "/third-party/",
        &[
            "X-Session-Set: {broken",
            "X-Session-Control: destroy",
            "X-Notifications-Set: n=1",
        ],
    );
    assert_eq!((response.status, response.set_cookies().len()), (200, 0));
    for name in ["X-Session-Set", "X-Session-Control", "X-Notifications-Set"] {
        assert_eq!(response.header(name), None);
    }
    stage.pycket.says("looks like a signal and is none");
    browser.page("/third-party/");
    let seen = stage.last();
    assert_eq!(
        (seen.session(), seen.notifications()),
        (json!({"a": "1"}), None)
    );
}

#[test]
fn change_over_a_limit_is_refused_as_a_whole() {
    let stage = stage(
        "[session]
         max_record = '1KiB'
         max_names = 3
         max_name_length = 8
         max_notifications = 2
         [headers]
         budget = '512B'
         [[route]]
         path = '/wide/'
         budget = '64KiB'",
    );
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    let before = (cookie(&browser), stage.session(&mut browser));
    let long = |length: usize| format!("X-Session-Set: c={}", "x".repeat(length));
    let cases = [
        (
            "/",
            "X-Session-Set: c=1&d=2&e=3&f=4".to_owned(),
            "session.max_names allows 3",
        ),
        (
            "/",
            "X-Session-Set: ninebytes=1".to_owned(),
            "session.max_name_length allows 8",
        ),
        (
            "/",
            "X-Notifications-Set: ninebytes=1".to_owned(),
            "session.max_name_length allows 8",
        ),
        (
            "/",
            "X-Notifications-Add: n=1&n=2&n=3".to_owned(),
            "session.max_notifications allows 2",
        ),
        ("/wide/", long(1000), "session.max_record allows 1024"),
        ("/", long(500), "the budget is 512 bytes"),
    ];
    let mut checked = 0;
    for (path, signal, rule) in cases {
        // Beside it, one that would be fine.
        let response = post(&mut browser, path, &["X-Session-Delete: a", &signal]);
        assert_eq!(response.status, 502, "{rule}");
        assert!(!response.text().contains("limit") && !response.text().contains("session."));
        assert_eq!(response.set_cookies(), [""; 0]);
        stage.pycket.says(rule);
        assert_eq!(
            (cookie(&browser), stage.session(&mut browser)),
            before,
            "{rule}"
        );
        browser.page("/");
        assert_eq!(stage.shown(), None, "{rule}");
        checked += 1;
    }
    assert_eq!(checked, 6);
    // Right at the limits it is fine.
    let response = post(
        &mut browser,
        "/",
        &[
            "X-Session-Set: eightbyt=1&c=2",
            "X-Notifications-Add: n=1&n=2",
        ],
    );
    assert_eq!(response.status, 200);
}

/// Malformed signals, and what the log says of each.
const BAD: [(&str, &str); 9] = [
    ("X-Session-Set: {\"b\": 1", "X-Session-Set, line 1, byte 7"),
    ("X-Session-Set: [1]", "expected a JSON object or name=value"),
    ("X-Session-Set: b=%zz", "X-Session-Set, line 1, byte 3"),
    ("X-Session-Set: =1", "a name is not empty"),
    ("X-Session-Delete: b=1;;", "X-Session-Delete"),
    ("X-Session-Delete: *", "`clear` deletes all values"),
    (
        "X-Session-Control: renew, explode",
        "X-Session-Control, member 2",
    ),
    ("X-Session-Control: ttl=0", "expected whole seconds from 1"),
    (
        "X-Notifications-Set: {\"n\": null}",
        "null is no notification",
    ),
];

#[test]
fn malformed_signal_fails_the_exchange_and_nothing_of_it_is_applied() {
    let stage = stage("");
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    let before = cookie(&browser);
    for (signal, position) in BAD {
        let beside = [
            signal,
            "X-Session-Set: ok=1",
            "X-Notifications-Add: ok=1",
            "Set-Cookie: other=1",
        ];
        let response = post(&mut browser, "/", &beside);
        assert_eq!(response.status, 502, "{signal}");
        assert_eq!(
            response.set_cookies(),
            [""; 0],
            "nothing of that response goes out"
        );
        let line = stage.pycket.says(position);
        assert!(!line.contains("ok=1"), "{line}");
        assert_eq!(stage.session(&mut browser), json!({"a": "1"}), "{signal}");
    }
    assert_eq!(cookie(&browser), before);
    stage.pycket.access(|line| line["error"] == "bad_signals");
}

#[test]
fn malformed_signal_can_be_dropped_alone() {
    let stage = stage("headers.on_bad_signal = 'ignore'");
    for (signal, position) in BAD {
        let mut browser = stage.browser();
        let good = if signal.starts_with("X-Session-Set") {
            "X-Notifications-Set: good=1"
        } else {
            "X-Session-Set: good=1"
        };
        assert_eq!(
            post(&mut browser, "/", &[signal, good]).status,
            200,
            "{signal}"
        );
        stage.pycket.says(position);
        browser.page("/");
        let seen = stage.last();
        let notifications = seen.notifications().unwrap_or(json!({}));
        let got = (seen.session(), notifications);
        let expected = if signal.starts_with("X-Session-Set") {
            (json!({}), json!({"good": "1"}))
        } else {
            (json!({"good": "1"}), json!({}))
        };
        assert_eq!(got, expected, "{signal}");
    }
}

#[test]
fn state_says_that_the_store_is_down_and_nothing_is_touched() {
    let mut redis = RedisServer::start();
    let app = obedient();
    let pycket = Pycket::with(&app)
        .redis(&redis)
        .config("session.on_store_error = 'anonymous'")
        .start();
    let mut browser = Browser::at(&pycket);
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    let before = cookie(&browser);
    redis.kill();
    let response = post(&mut browser, "/down", &["X-Session-Set: a=2"]);
    let seen = app.request(2);
    assert_eq!(seen.header("X-Session-State"), Some("unavailable"));
    assert_eq!(
        (seen.session(), seen.header("X-Session-Id")),
        (json!({}), None)
    );
    assert_eq!((response.status, response.set_cookies().len()), (200, 0));
    assert_eq!(browser.cookie(COOKIE), Some(before.as_str()));
    let line = pycket.access(|line| line["path"] == "/down");
    assert_eq!(
        (&line["record"], &line["wrote"]),
        (&json!("unavailable"), &json!("dropped"))
    );
}

//! What is said about a failure: little to the client, everything to the log.

use serde_json::{Value, json};

use super::{
    ANSWER_PHRASE, App, Engine, STORE_PHRASE, Server, assert_rescued, logged_in, tell, told, values,
};
use crate::harness::{Browser, Pycket};

/// Signals that can't be followed, and what the log says about them.
const MALFORMED: [(&str, &str); 16] = [
    (
        r#"X-Session-Set: {"a": }"#,
        "X-Session-Set, line 2, byte 7: expected value",
    ),
    (
        r#"X-Session-Set: {"a": 1} x"#,
        "X-Session-Set, line 2, byte 10: expected a comma",
    ),
    (
        "X-Session-Set: no pair",
        "X-Session-Set, line 2, byte 1: expected a JSON object",
    ),
    (
        "X-Session-Set: a=%zz",
        "X-Session-Set, line 2, byte 3: expected two hexadecimal",
    ),
    (
        "X-Session-Set: =1",
        "X-Session-Set, line 2, byte 1: a name is not empty",
    ),
    (
        "X-Session-Set: a%0D%0Ab=1",
        "X-Session-Set, line 2, byte 1: a name has no control",
    ),
    (
        "X-Session-Delete: a, 7",
        "X-Session-Delete, member 2: expected a name",
    ),
    ("X-Session-Delete: *", "X-Session-Delete: * is no name here"),
    (
        "X-Session-Delete: a;x",
        "X-Session-Delete, member 1: there are no parameters",
    ),
    (
        "X-Session-Delete: \"a",
        "X-Session-Delete, line 1, byte 3: unterminated string",
    ),
    (
        "X-Session-Control: clear, explode",
        "X-Session-Control, member 3: expected clear",
    ),
    (
        "X-Session-Control: renew=1",
        "X-Session-Control, member 1: expected a boolean",
    ),
    (
        "X-Session-Control: ttl=0",
        "X-Session-Control, member 2: expected whole seconds",
    ),
    (
        r#"X-Notifications-Set: {"m": null}"#,
        "X-Notifications-Set: null is no notification",
    ),
    (
        "X-Notifications-Add: no pair",
        "X-Notifications-Add, line 1, byte 1: expected",
    ),
    (
        "X-Notifications-Taken: 1",
        "X-Notifications-Taken, member 1: expected a name",
    ),
];

/// Signals that lead over a limit, and what the log says about them.
fn excessive() -> [(String, &'static str); 4] {
    let (long, large) = ("n".repeat(129), "x".repeat(4200));
    [
        (
            format!("X-Session-Set: {long}=1"),
            "session.max_name_length allows 128",
        ),
        (
            format!("X-Session-Set: a={large}"),
            "the budget is 4096 bytes",
        ),
        (
            format!("X-Session-Set: {}", names(130)),
            "session.max_names allows 128",
        ),
        (
            format!("X-Notifications-Set: {}", names(65)),
            "session.max_notifications allows 64",
        ),
    ]
}

/// So many names, each with a value.
fn names(count: usize) -> String {
    let pairs: Vec<_> = (0..count).map(|number| format!("n{number}=1")).collect();
    pairs.join("&")
}

#[test]
fn bad_signal_is_502_nothing_is_applied_and_the_log_says_where_and_why() {
    let app = App::start();
    let pycket = Pycket::with(&app.upstream).start();
    let mut checked = 0;
    let malformed = MALFORMED.map(|(line, says)| (line.to_owned(), says));
    for (line, says) in malformed.into_iter().chain(excessive()) {
        let mut browser = logged_in(&pycket, "alice");
        let good = ["X-Session-Set: user=mallory", "X-Notifications-Taken: *"];
        let answer = [good[0], "X-Session-Control: renew", &line, good[1]];
        let response = tell(&mut browser, &answer);
        assert_eq!(response.status, 502, "{line}");
        let id = assert_rescued(&response, 502, ANSWER_PHRASE);
        let log = pycket.says(&id);
        assert!(log.contains("the signals were refused"), "{line}: {log}");
        assert!(log.contains(says), "{line}: {log}");
        assert!(
            !log.contains("mallory"),
            "values stay out of the log: {log}"
        );
        let untouched = ("active".to_owned(), json!({"user": "alice"}), Value::Null);
        assert_eq!(told(&browser.page("/")), untouched, "{line}");
        checked += 1;
    }
    assert_eq!(checked, 20);
}

#[test]
fn client_learns_no_cause_and_the_log_has_it_by_the_request_id() {
    let app = App::start();
    let mut server = Server::start(Engine::Redis);
    let pycket = server.before(&app).start();
    let mut browser = logged_in(&pycket, "alice");

    let bad = tell(&mut browser, &["X-Session-Control: explode"]);
    server.kill();
    let down = browser.get("/down");
    let cases = [
        (
            &bad,
            502,
            ANSWER_PHRASE,
            "/",
            "X-Session-Control, member 1",
            "bad_signals",
        ),
        (
            &down,
            503,
            STORE_PHRASE,
            "/down",
            "the session store failed: ",
            "store_failed",
        ),
    ];
    for (response, status, phrase, path, cause, word) in cases {
        let id = assert_rescued(response, status, phrase);
        let log: Value = serde_json::from_str(&pycket.says(&id)).expect("a line is JSON");
        assert_eq!(log["level"], "ERROR");
        assert_eq!(log["request"], id.as_str());
        let message = log["message"].as_str().expect("there is a message");
        assert!(message.contains(cause), "{message}");
        let line = pycket.access(|line| line["id"] == id.as_str());
        assert_eq!(line["status"], status);
        assert_eq!(line["path"], path);
        assert_eq!(line["error"], word);
    }
}

#[test]
fn request_ids_of_two_failures_differ() {
    let app = App::start();
    let pycket = Pycket::with(&app.upstream).start();
    let fail = || {
        let response = tell(&mut Browser::at(&pycket), &["X-Session-Control: explode"]);
        assert_rescued(&response, 502, ANSWER_PHRASE)
    };
    assert_ne!(fail(), fail());
    assert_eq!(values(&mut Browser::at(&pycket)), json!({}));
}

//! What the Python library does, run with real stores: the ground on which sharing its records
//! stands.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Browser, SECRET};
use crate::python_app::{self, PythonApp};
use crate::servers::{MemcachedServer, RedisServer};
use crate::stage::{COOKIE, cookie, id_in, number};

const DAY: i64 = 24 * 60 * 60;

/// A browser that has a session, with `{"user": "alice"}` in it.
fn alice(app: &PythonApp) -> Browser {
    let mut browser = Browser::at(app);
    python_app::set(&mut browser, "user", &json!("alice"));
    browser
}

/// A dict, as Python 3 pickles one with one text in it.
fn is_pickle_of_alice(record: &[u8]) -> bool {
    let has = |text: &[u8]| record.windows(text.len()).any(|part| part == text);
    record.starts_with(b"\x80") && record.ends_with(b".") && has(b"user") && has(b"alice")
}

#[test]
fn redis_has_a_session_as_a_pickle_under_the_bare_id_for_a_day() {
    let redis = RedisServer::start();
    let app = PythonApp::redis(&redis).start();
    let mut browser = alice(&app);
    assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
    let id = id_in(&cookie(&browser));
    assert_eq!(python_app::id(&mut browser), json!(id));
    assert_eq!(id.len(), 36, "{id}");

    let record = redis.get(0, &id).expect("sessions are in database 0");
    assert!(is_pickle_of_alice(&record), "{record:?}");
    let left = number(&redis, &["TTL", &id]);
    assert!((DAY - 60..=DAY).contains(&left), "{left} s");
    assert_eq!(redis.get(1, &id), None);
    assert_eq!(number(&redis, &["DBSIZE"]), 1);
}

#[test]
fn redis_has_notifications_under_the_same_id_in_database_1() {
    let redis = RedisServer::start();
    let app = PythonApp::redis(&redis).start();
    let mut browser = alice(&app);
    let id = id_in(&cookie(&browser));
    let session = redis.get(0, &id);
    python_app::notify(&mut browser, "user", &json!(["hello"]));
    assert_eq!(id_in(&cookie(&browser)), id);
    assert!(redis.get(1, &id).is_some());
    assert_eq!(redis.get(0, &id), session, "the session is left alone");
}

#[test]
fn databases_and_cookie_are_as_the_settings_say() {
    let redis = RedisServer::start();
    let app = PythonApp::redis(&redis)
        .storage(&json!({"db_sessions": 10, "db_notifications": 11}))
        .cookies(json!({"expires_days": 120, "httponly": true}))
        .start();
    let mut browser = Browser::at(&app);
    let answer = browser.get("/session/set?name=user&value=1");
    let [line] = answer.set_cookies()[..] else {
        panic!("one cookie: {:?}", answer.set_cookies());
    };
    assert!(line.contains("; expires="), "{line}");
    assert!(line.ends_with("; HttpOnly; Path=/"), "{line}");
    python_app::notify(&mut browser, "flash", &json!("hello"));
    let id = id_in(&cookie(&browser));
    assert!(redis.get(10, &id).is_some());
    assert!(redis.get(11, &id).is_some());
    assert_eq!(redis.get(0, &id), None);
}

#[test]
fn memcached_has_a_session_as_a_pickle_under_the_bare_id_for_a_day() {
    let memcached = MemcachedServer::start();
    let app = PythonApp::memcached(&memcached).start();
    let mut browser = alice(&app);
    assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));

    let id = id_in(&cookie(&browser));
    let (flags, record) = memcached.get(&id).expect("the key is the id");
    assert_eq!(flags, 0);
    assert!(is_pickle_of_alice(&record), "{record:?}");
    let left = memcached.command(&format!("mg {id} t"));
    let left = left.strip_prefix("HD t").and_then(|left| left.parse().ok());
    assert!(left.is_some_and(|left| (DAY - 60..=DAY).contains(&left)));
}

#[test]
fn memcached_has_session_and_notifications_in_one_record() {
    let memcached = MemcachedServer::start();
    let app = PythonApp::memcached(&memcached).start();
    let mut browser = alice(&app);
    python_app::notify(&mut browser, "flash", &json!("hello"));
    assert_eq!(python_app::names(&mut browser), json!(["flash", "user"]));
    assert_eq!(python_app::waiting(&mut browser), json!(["flash", "user"]));

    assert_eq!(python_app::show(&mut browser, "user"), json!("alice"));
    assert_eq!(
        python_app::get(&mut browser, "user"),
        Value::Null,
        "it went"
    );
}

#[test]
fn notification_is_shown_once() {
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());
    for app in [PythonApp::redis(&redis), PythonApp::memcached(&memcached)] {
        let app = app.start();
        let mut browser = alice(&app);
        python_app::notify(&mut browser, "flash", &json!("hello"));
        assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));
        assert_eq!(python_app::show(&mut browser, "flash"), Value::Null);
        assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
    }
}

#[test]
fn application_that_touches_nothing_sets_no_cookie() {
    let redis = RedisServer::start();
    let app = PythonApp::redis(&redis).start();
    let mut browser = Browser::at(&app);
    python_app::ask(&mut browser, "/nothing", &[]);
    assert_eq!(browser.cookie(COOKIE), None);
    python_app::get(&mut browser, "user");
    assert!(browser.cookie(COOKIE).is_some(), "a look is enough");
    assert_eq!(number(&redis, &["DBSIZE"]), 0);
}

#[test]
fn each_write_of_a_first_request_makes_a_session_of_its_own() {
    let redis = RedisServer::start();
    let app = PythonApp::redis(&redis).start();
    let mut browser = Browser::at(&app);
    let two = [("name", "a"), ("value", "1"), ("name", "b"), ("value", "2")];
    python_app::ask(&mut browser, "/session/set", &two);
    assert_eq!(number(&redis, &["DBSIZE"]), 2);
    assert_eq!(python_app::names(&mut browser), json!(["b"]));
}

#[test]
fn deleted_value_leaves_an_empty_record() {
    let redis = RedisServer::start();
    let app = PythonApp::redis(&redis).start();
    let mut browser = alice(&app);
    python_app::delete(&mut browser, "user");
    assert_eq!(python_app::names(&mut browser), json!([]));
    assert_eq!(number(&redis, &["DBSIZE"]), 1);
}

#[test]
fn values_that_json_cannot_say_come_back_as_they_were() {
    let redis = RedisServer::start();
    let app = PythonApp::redis(&redis).start();
    let mut browser = alice(&app);
    let kinds = python_app::kinds(&mut browser);
    assert!(kinds.len() >= 10, "{kinds:?}");
    for kind in &kinds {
        python_app::put(&mut browser, kind, kind);
    }
    let wrong: BTreeSet<_> = kinds
        .iter()
        .filter(|kind| !python_app::kept(&mut browser, kind, kind))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let other = python_app::kept(&mut browser, "user", "tuple");
    assert!(!other, "another value is not kept");
}

#[test]
fn record_of_another_program_is_read() {
    const FROM_PYTHON_2: &[u8] = b"(dp0\nVuser\np1\nVbob\np2\ns.";
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());

    let app = PythonApp::redis(&redis).start();
    let mut browser = alice(&app);
    let id = id_in(&cookie(&browser));
    redis.set(0, &id, FROM_PYTHON_2);
    assert_eq!(python_app::get(&mut browser, "user"), json!("bob"));

    let app = PythonApp::memcached(&memcached).start();
    let mut browser = alice(&app);
    let id = id_in(&cookie(&browser));
    memcached.set(&id, 0, FROM_PYTHON_2);
    assert_eq!(python_app::get(&mut browser, "user"), json!("bob"));
}

#[test]
fn session_outlives_its_application_and_its_secret_is_all_that_another_needs() {
    let redis = RedisServer::start();
    let mut app = PythonApp::redis(&redis).start();
    let mut browser = alice(&app);
    app.restart();
    assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));

    let twin = PythonApp::redis(&redis).secret(SECRET).start();
    browser.go_to(&twin);
    assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));

    let stranger = PythonApp::redis(&redis).secret("another one").start();
    browser.go_to(&stranger);
    assert_eq!(python_app::id(&mut browser), Value::Null);
    assert_eq!(python_app::get(&mut browser, "user"), Value::Null);
}

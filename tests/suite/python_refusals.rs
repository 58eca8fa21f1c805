//! Records of the Python library that the proxy can't read, and changes that it does not make.

use serde_json::json;

use crate::harness::{Browser, SECRET};
use crate::python_app::{self, Shared, on_both_stores, python_says};
use crate::stage::{COOKIE, Store, cookie, id_in, page, post};

/// Bytes that are no session, with what the log says of them.
fn unreadable() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (b"hidden garbage".to_vec(), "memo"),
        (b"{\"user\": \"hidden\"}".to_vec(), "unknown opcode 0x7b"),
        (
            b"\x80\x04}\x94\x8c\x04user\x94\x8c\x06hid".to_vec(),
            "it ends too early",
        ),
        (b"\x80\x04].".to_vec(), "expected a plain dictionary"),
        (
            b"cposix\nsystem\n(S\"hidden\"\ntR.".to_vec(),
            "expected a plain dictionary",
        ),
        (
            b"(dp0\nS'k'\np1\nPhidden\ns.".to_vec(),
            "persistent ids are not read",
        ),
        (
            b"\x80\x04}\x8c\x01k\x82\x01s.".to_vec(),
            "the extension registry is not read",
        ),
        (b"\x80\x06}.".to_vec(), "protocol 6 is not one of 0 to 5"),
        (b"\x80\x04}.hidden".to_vec(), "it goes on after its end"),
        (b"(".repeat(10_001), "open marks"),
        (vec![b'.'; 70_000], "session.max_record allows 65536"),
    ]
}

#[test]
fn record_that_cannot_be_read_is_an_error_and_left_alone() {
    on_both_stores("session.max_record = '64KiB'", |both| {
        let mut browser = both.alice();
        let id = id_in(&cookie(&browser));
        let whole = both.record(&id).unwrap();
        browser.go_to(&both.stage.pycket);
        let before = both.stage.app.requests().len();
        for (bytes, why) in unreadable() {
            both.put_record(&id, &bytes);
            for answer in [
                &[][..],
                &["X-Session-Set: user=bob"],
                &["X-Session-Control: renew"],
                &["X-Session-Control: destroy"],
            ] {
                let response = post(&mut browser, "/", answer);
                assert_eq!(response.status, 503, "{why}");
                assert_eq!(response.set_cookies().len(), 0, "{why}");
                assert_eq!(both.record(&id).as_ref(), Some(&bytes), "{why}");
            }
            let line = both.stage.pycket.says(why);
            assert!(!line.contains("hid"), "{line}");
        }
        assert_eq!(both.stage.app.requests().len(), before);
        both.put_record(&id, &whole);
        assert_eq!(both.session(&mut browser), json!({"user": "alice"}));
    });
}

#[test]
fn record_that_cannot_be_read_is_left_alone_where_the_route_goes_on_without() {
    on_both_stores("session.on_store_error = 'anonymous'", |both| {
        let mut browser = both.alice();
        let id = id_in(&cookie(&browser));
        let made = cookie(&browser);
        for (bytes, why) in unreadable() {
            both.put_record(&id, &bytes);
            for signal in ["X-Session-Set: user=bob", "X-Session-Control: renew, clear"] {
                assert_eq!(both.at_proxy(&mut browser, &[signal]).status, 200);
                let state = both
                    .stage
                    .last()
                    .header("X-Session-State")
                    .map(str::to_owned);
                assert_eq!(state.as_deref(), Some("unavailable"), "{why}");
                assert_eq!(both.record(&id).as_ref(), Some(&bytes), "{why}");
                assert_eq!(cookie(&browser), made);
            }
        }
    });
}

#[test]
fn notifications_that_cannot_be_read_are_left_alone_with_the_values() {
    let both = Shared::on(Store::redis(), "");
    let (Store::Redis(redis) | Store::Near(redis)) = &both.stage.store else {
        unreachable!("it has just been made");
    };
    let mut browser = both.alice();
    let id = id_in(&cookie(&browser));
    let values = redis.get(0, &id);
    redis.set(1, &id, b"\x80\x04}.more");
    let response = both.at_proxy(&mut browser, &["X-Session-Set: user=bob"]);
    assert_eq!(response.status, 503);
    both.stage
        .pycket
        .says("the pickled notifications can't be used");
    assert_eq!(redis.get(0, &id), values);
    assert_eq!(redis.get(1, &id).as_deref(), Some(&b"\x80\x04}.more"[..]));
}

/// A change that the application may not ask for: the answer is 502, the log says why, and the
/// record stays.
#[track_caller]
fn assert_refused(both: &Shared, browser: &mut Browser, signal: &str, why: &str) {
    let id = browser.cookie(COOKIE).map(id_in);
    let record = || id.as_deref().map(|id| both.record(id));
    let before = record();
    let response = both.at_proxy(browser, &[signal]);
    assert_eq!(response.status, 502, "{signal}");
    assert_eq!(response.set_cookies().len(), 0, "{signal}");
    let line = both.stage.pycket.says(why);
    assert!(
        line.contains("the signals were refused"),
        "{signal}: {line}"
    );
    assert!(!line.contains("hidden"), "{signal}: {line}");
    assert_eq!(record(), before, "{signal}");
}

#[test]
fn name_that_is_not_what_it_is_declared_to_be_is_a_mistake_of_the_application() {
    let both = Shared::on(Store::memcached(), "");
    let mut alice = both.alice();
    let mut stranger = both.stage.browser();
    for browser in [&mut alice, &mut stranger] {
        for (signal, why) in [
            (
                "X-Session-Set: a=1&flash=hidden",
                r#"\"flash\" is a notification by storage.notification_names"#,
            ),
            (
                "X-Notifications-Set: other=hidden",
                r#"\"other\" is no notification by storage.notification_names"#,
            ),
            (
                "X-Notifications-Add: another=hidden",
                r#"\"another\" is no notification by storage.notification_names"#,
            ),
        ] {
            assert_refused(&both, browser, signal, why);
        }
    }
    both.stage.store.assert_records(1);
    let line = both.stage.pycket.access(|line| line["status"] == 502);
    assert_eq!(line["error"], "bad_signals", "{line}");
}

#[test]
fn number_that_is_too_large_for_a_record_is_a_mistake_of_the_application() {
    on_both_stores("", |both| {
        let signal = r#"X-Session-Set: {"n": [18446744073709551616]}"#;
        let why = "a number of the value is outside the range of 64 bits";
        assert_refused(both, &mut both.alice(), signal, why);
    });
}

#[test]
fn proxy_that_may_not_write_reads_and_refuses_every_change() {
    on_both_stores("storage.writable = false", |both| {
        let mut browser = both.alice();
        python_app::notify(&mut browser, "flash", &json!("hello"));
        let id = id_in(&cookie(&browser));
        let record = both.record(&id);
        assert_eq!(both.session(&mut browser), json!({"user": "alice"}));
        // It can't take a notification, so it shows none: the library would show it again.
        let response = page(&mut browser, "/", &["200", "X-Session-Set: user=alice"]);
        assert_eq!(response.status, 200);
        assert_eq!(both.stage.last().session(), json!({"user": "alice"}));
        assert_eq!(both.stage.shown(), None);
        for signal in [
            "X-Session-Set: user=bob",
            "X-Session-Delete: user",
            "X-Notifications-Set: news=1",
            "X-Session-Control: clear",
            "X-Session-Control: renew",
            "X-Session-Control: destroy",
        ] {
            let why = "sessions can't be changed: storage.writable = false";
            assert_refused(both, &mut browser, signal, why);
            assert_refused_unless_empty(both, signal, why);
        }
        assert_eq!(both.record(&id), record);
        both.stage.store.assert_records(1);
        browser.go_to(&both.library);
        assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));
    });
}

/// A stranger's session is not begun either; what asks for nothing of it is fine.
fn assert_refused_unless_empty(both: &Shared, signal: &str, why: &str) {
    let mut stranger = both.stage.browser();
    if signal.contains("Set") {
        assert_refused(both, &mut stranger, signal, why);
    } else {
        assert_eq!(both.at_proxy(&mut stranger, &[signal]).status, 200);
    }
    assert_eq!(stranger.cookie(COOKIE), None);
}

#[test]
fn proxy_that_may_not_write_shows_notifications_where_the_application_takes_them() {
    let config = "storage.writable = false\nnotifications.consume = 'ack'";
    on_both_stores(config, |both| {
        let mut browser = both.alice();
        python_app::notify(&mut browser, "flash", &json!("hello"));
        both.session(&mut browser);
        assert_eq!(both.stage.shown(), Some(json!({"flash": "hello"})));
        let why = "sessions can't be changed: storage.writable = false";
        assert_refused(both, &mut browser, "X-Notifications-Taken: *", why);
        browser.go_to(&both.library);
        assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));
    });
}

/// A session cookie that Tornado has signed with the right secret, whatever the id in it is.
fn signed(id: &str) -> String {
    const SCRIPT: &str = "import json, sys, tornado.web\n\
        secret, id = json.loads(sys.argv[1])\n\
        print(tornado.web.create_signed_value(secret, 'PYCKET_ID', id).decode())";
    python_says(SCRIPT, &json!([SECRET, id]).to_string())
}

#[test]
fn id_that_is_none_becomes_no_key_even_where_its_signature_is_right() {
    let good = "00000000-0000-4000-8000-000000000000";
    let bad = [
        "",
        "user",
        "00000000-0000-4000-8000-00000000000",
        "00000000-0000-4000-8000-00000000000g",
        "00000000-0000-4000-8000-000000000000:pycket",
        "00000000-0000-4000-8000-0000000000 0",
        "0000\r\nflush_all\r\n0-8000-000000000000",
    ];
    on_both_stores("", |both| {
        for id in bad {
            let mut browser = both.stage.browser();
            browser.plant(COOKIE, &signed(id));
            both.session(&mut browser);
            let state = both
                .stage
                .last()
                .header("X-Session-State")
                .map(str::to_owned);
            assert_eq!(state.as_deref(), Some("none"), "{id:?}");
            both.at_proxy(&mut browser, &["X-Session-Control: destroy"]);
            both.at_proxy(&mut browser, &["X-Session-Set: user=alice"]);
            assert_ne!(id_in(&cookie(&browser)), id, "it gets one of ours");
        }
        both.stage.store.assert_records(bad.len());
        let mut browser = both.stage.browser();
        browser.plant(COOKIE, &signed(good));
        both.put_record(good, b"(dVuser\nVbob\ns.");
        assert_eq!(both.session(&mut browser), json!({"user": "bob"}));
    });
}

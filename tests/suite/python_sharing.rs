//! The Python library and the proxy on the same sessions at the same time: what one does, the other
//! sees.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{Browser, Pycket, Upstream};
use crate::python_app::{self, PythonApp, Shared, on_both_stores};
use crate::servers::MemcachedServer;
use crate::stage::{COOKIE, Store, cookie, id_in, obedient, on_engines, post};

#[test]
fn one_browser_has_one_session_at_both() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        let made = cookie(&browser);
        assert_eq!(both.session(&mut browser), json!({"user": "alice"}));
        both.at_proxy(&mut browser, &["X-Session-Set: theme=dark"]);

        browser.go_to(&both.library);
        assert_eq!(python_app::names(&mut browser), json!(["theme", "user"]));
        assert_eq!(python_app::get(&mut browser, "theme"), json!("dark"));
        python_app::set(&mut browser, "user", &json!("bob"));
        python_app::delete(&mut browser, "theme");
        python_app::set(&mut browser, "visits", &json!(1));

        let seen = both.session(&mut browser);
        assert_eq!(seen, json!({"user": "bob", "visits": 1}));
        both.at_proxy(&mut browser, &["X-Session-Delete: visits"]);
        browser.go_to(&both.library);
        assert_eq!(python_app::names(&mut browser), json!(["user"]));
        assert_eq!(cookie(&browser), made, "nobody set another cookie");
        both.stage.store.assert_records(1);
    });
}

#[test]
fn session_that_the_proxy_begins_goes_on_at_the_library() {
    on_both_stores("", |both| {
        let mut browser = both.stage.browser();
        both.at_proxy(&mut browser, &["X-Session-Set: user=alice"]);
        let made = cookie(&browser);
        browser.go_to(&both.library);
        assert_eq!(python_app::id(&mut browser), json!(id_in(&made)));
        assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
        python_app::set(&mut browser, "n", &json!(2));
        let seen = both.session(&mut browser);
        assert_eq!(seen, json!({"user": "alice", "n": 2}));
        assert_eq!(cookie(&browser), made, "nobody set another cookie");
    });
}

/// Values that both sides can say, by name.
const VALUES: &str = r#"{
    "text": "Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\udc0d \u0000\u0007 \"\\",
    "empty": "",
    "half": 0.5, "third": 0.3333333333333333, "whole": 2.0, "minus": -1.5, "small": 5e-324,
    "zero": 0, "byte": 255, "word": 65536, "below": -2147483649, "long": 4294967296,
    "least": -9223372036854775808, "most": 18446744073709551615,
    "yes": true, "no": false,
    "list": [[1, [2, [], {"a": [null]}]], "x", {"b": {"c": null, "": {}}}],
    "dict": {}
}"#;

#[test]
fn values_that_json_can_say_are_the_same_at_both() {
    let values: Value = serde_json::from_str(VALUES).unwrap();
    let values = values.as_object().unwrap();
    assert_eq!(values.len(), 18);
    on_both_stores("", |both| {
        let mut browser = both.alice();
        for (name, value) in values {
            python_app::set(&mut browser, name, value);
        }
        python_app::set(&mut browser, "user", &Value::Null);
        let mut expected = values.clone();
        expected.insert("user".to_owned(), Value::Null);
        assert_eq!(both.session(&mut browser), Value::Object(expected));

        let mut browser = both.stage.browser();
        for (name, value) in values {
            let line = format!("X-Session-Set: {}", json!({name: value}));
            both.at_proxy(&mut browser, &[&line]);
        }
        browser.go_to(&both.library);
        for (name, value) in values {
            assert_eq!(python_app::get(&mut browser, name), *value, "{name}");
        }
    });
}

#[test]
fn who_logs_out_at_the_proxy_is_logged_out_at_the_library() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        python_app::notify(&mut browser, "flash", &json!("hello"));
        let made = cookie(&browser);
        both.at_proxy(&mut browser, &["X-Session-Control: destroy"]);
        assert_eq!(browser.cookie(COOKIE), None);
        // Whoever kept the cookie has nothing of it.
        browser.plant(COOKIE, &made);
        browser.go_to(&both.library);
        assert_eq!(python_app::names(&mut browser), json!([]));
        assert_eq!(python_app::waiting(&mut browser), json!([]));
        both.stage.store.assert_records(0);
    });
}

#[test]
fn who_logs_out_at_the_library_is_logged_out_at_the_proxy() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        both.at_proxy(&mut browser, &["X-Session-Set: theme=dark"]);
        browser.go_to(&both.library);
        // It has no other way to end a session than to empty it.
        python_app::ask(
            &mut browser,
            "/session/delete",
            &[("name", "user"), ("name", "theme")],
        );
        assert_eq!(both.session(&mut browser), json!({}));
    });
}

#[test]
fn notification_of_the_library_is_shown_once_by_the_proxy() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        python_app::notify(&mut browser, "flash", &json!({"text": "gr\u{fc}n", "n": 1}));
        both.page_at_proxy(&mut browser, &[]);
        let shown = both.stage.shown();
        assert_eq!(shown, Some(json!({"flash": {"text": "gr\u{fc}n", "n": 1}})));
        both.page_at_proxy(&mut browser, &[]);
        assert_eq!(both.stage.shown(), None);

        browser.go_to(&both.library);
        assert_eq!(python_app::show(&mut browser, "flash"), Value::Null);
        assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
    });
}

#[test]
fn notification_that_the_library_has_shown_is_not_shown_by_the_proxy() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        python_app::notify(&mut browser, "flash", &json!("hello"));
        // The proxy has held it in between, and noted that.
        both.page_at_proxy(&mut browser, &["503"]);
        assert!(both.stage.shown().is_some());
        browser.go_to(&both.library);
        assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));
        both.page_at_proxy(&mut browser, &[]);
        assert_eq!(both.stage.shown(), None);
    });
}

#[test]
fn notifications_of_the_application_behind_are_shown_by_the_library() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        let set = r#"X-Notifications-Set: {"flash": ["saved", 1]}"#;
        let add = "X-Notifications-Add: news=first";
        both.at_proxy(&mut browser, &[set, add]);
        both.at_proxy(&mut browser, &["X-Notifications-Add: news=second"]);

        browser.go_to(&both.library);
        assert_eq!(python_app::show(&mut browser, "flash"), json!(["saved", 1]));
        let news = python_app::show(&mut browser, "news");
        assert_eq!(news, json!(["first", "second"]));
        assert_eq!(python_app::show(&mut browser, "news"), Value::Null);
        both.page_at_proxy(&mut browser, &[]);
        assert_eq!(both.stage.shown(), None);
        assert_eq!(both.session(&mut browser), json!({"user": "alice"}));
    });
}

#[test]
fn application_behind_adds_to_what_the_library_has_left() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        python_app::notify(&mut browser, "news", &json!(["first"]));
        both.at_proxy(&mut browser, &["X-Notifications-Add: news=second"]);
        browser.go_to(&both.library);
        let news = python_app::show(&mut browser, "news");
        assert_eq!(news, json!(["first", "second"]));
    });
}

#[test]
fn page_that_nobody_sees_loses_no_notification_of_the_library() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        python_app::notify(&mut browser, "flash", &json!("hello"));
        let unseen = [
            &["302", "Location: /next"][..],
            &["303", "Location: https://elsewhere.example/"],
            &["500"],
            &["503"],
            // 502: refused by the proxy.
            &["200", "X-Session-Control: nonsense"],
        ];
        for answer in unseen {
            both.page_at_proxy(&mut browser, answer);
            let shown = both.stage.shown();
            assert_eq!(shown, Some(json!({"flash": "hello"})), "{answer:?}");
            let waiting = python_app::waiting(browser.go_to(&both.library));
            let waiting = waiting.as_array().expect("names are a list");
            assert!(waiting.contains(&json!("flash")), "{answer:?}: {waiting:?}");
        }
        let shown = python_app::show(&mut browser, "flash");
        assert_eq!(shown, json!("hello"));
    });
}

#[test]
fn application_that_breaks_off_loses_no_notification_of_the_library() {
    on_engines([Store::redis(), Store::memcached()], |store| {
        let app = Upstream::raw(|mut wire, _| {
            wire.read_request();
        });
        let both = Shared::with(store, app, "");
        let mut browser = both.alice();
        python_app::notify(&mut browser, "flash", &json!("hello"));
        assert_eq!(both.page_at_proxy(&mut browser, &[]).status, 502);
        browser.go_to(&both.library);
        assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));
    });
}

/// The library and the proxy with the same Memcached servers, each with its weight.
fn on_servers(servers: &[(&MemcachedServer, u32)], app: &Upstream) -> (PythonApp, Pycket) {
    let list: Vec<_> = servers
        .iter()
        .map(|(server, weight)| match weight {
            1 => json!(server.address()),
            _ => json!([server.address(), weight]),
        })
        .collect();
    let (first, _) = servers.first().expect("there is a server");
    let library = PythonApp::memcached(first).storage(&json!({"servers": list}));
    let config = format!(
        "storage.format = 'pycket'\nstorage.notification_names = []\nstorage.servers = {}",
        Value::from(list)
    );
    let pycket = Pycket::with(app).engine("memcached").config(&config);
    (library.start(), pycket.start())
}

#[test]
fn sessions_are_on_the_same_one_of_several_servers_for_both() {
    const SESSIONS: usize = 24;
    let servers = [MemcachedServer::start(), MemcachedServer::start()];
    for weights in [[1, 1], [1, 3]] {
        let app = obedient();
        let weighted: Vec<_> = servers.iter().zip(weights).collect();
        let (library, pycket) = on_servers(&weighted, &app);
        let mut ids = Vec::new();
        for number in 0..SESSIONS {
            let mut browser = Browser::at(&library);
            python_app::set(&mut browser, "n", &json!(number));
            post(browser.go_to(&pycket), "/", &["X-Session-Set: seen=yes"]);
            assert_eq!(
                app.requests().pop().unwrap().session(),
                json!({"n": number})
            );
            browser.go_to(&library);
            assert_eq!(python_app::get(&mut browser, "seen"), json!("yes"));
            ids.push(id_in(&cookie(&browser)));

            let mut browser = Browser::at(&pycket);
            post(&mut browser, "/", &["X-Session-Set: user=alice"]);
            browser.go_to(&library);
            assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
            ids.push(id_in(&cookie(&browser)));
        }
        // Each is on one server, and no server has none.
        let [first, second] = servers
            .each_ref()
            .map(|server| ids.iter().filter(|id| server.get(id).is_some()).count());
        assert_eq!(first + second, 2 * SESSIONS, "{weights:?}");
        assert!(first > 0 && second > 0, "{weights:?}: {first}, {second}");
    }
}

/// Whether the value of a cookie is signed as Tornado before 3.2.1 does it.
fn is_version_1(cookie: &str) -> bool {
    let [encoded, time, mac] = cookie.split('|').collect::<Vec<_>>()[..] else {
        return false;
    };
    STANDARD.decode(encoded).is_ok_and(|id| id.len() == 36)
        && time.bytes().all(|byte| byte.is_ascii_digit())
        && mac.len() == 40
}

#[test]
fn cookie_is_signed_as_the_librarys_version_1() {
    let store = Store::redis();
    let (Store::Redis(redis) | Store::Near(redis)) = &store else {
        unreachable!("it has just been made");
    };
    let library = PythonApp::redis(redis).cookies(json!({"version": 1}));
    let library = library.start();
    let both = Shared::on(store, "cookies.version = 1");
    let mut browser = Browser::at(&library);
    python_app::set(&mut browser, "user", &json!("alice"));
    assert!(is_version_1(&cookie(&browser)), "{}", cookie(&browser));
    assert_eq!(both.session(&mut browser), json!({"user": "alice"}));

    let mut browser = both.stage.browser();
    both.at_proxy(&mut browser, &["X-Session-Set: user=bob"]);
    assert!(is_version_1(&cookie(&browser)), "{}", cookie(&browser));
    browser.go_to(&library);
    assert_eq!(python_app::get(&mut browser, "user"), json!("bob"));
}

#[test]
fn cookie_of_the_same_version_comes_back() {
    let store = Store::redis();
    let (Store::Redis(redis) | Store::Near(redis)) = &store else {
        unreachable!("it has just been made");
    };
    let old = PythonApp::redis(redis).cookies(json!({"version": 1}));
    let old = old.start();
    let both = Shared::on(store, "cookies.version = 'same'");
    for (library, version_1) in [(&old, true), (&both.library, false)] {
        let mut browser = Browser::at(library);
        python_app::set(&mut browser, "user", &json!("alice"));
        let came = cookie(&browser);
        assert_eq!(is_version_1(&came), version_1, "{came}");
        both.at_proxy(&mut browser, &["X-Session-Control: renew"]);
        let made = cookie(&browser);
        assert_ne!(made, came);
        assert_eq!(is_version_1(&made), version_1, "{made}");
        browser.go_to(library);
        assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
    }
    // Without any, it is that of today's Tornado.
    let mut browser = both.stage.browser();
    both.at_proxy(&mut browser, &["X-Session-Set: user=bob"]);
    assert!(cookie(&browser).starts_with("2|"), "{}", cookie(&browser));
}

#[test]
fn notifications_alone_are_a_session() {
    on_both_stores("", |both| {
        let mut browser = Browser::at(&both.library);
        python_app::notify(&mut browser, "flash", &json!("hello"));
        both.page_at_proxy(&mut browser, &["500"]);
        assert_eq!(both.stage.shown(), Some(json!({"flash": "hello"})));
        assert_eq!(both.session(&mut browser), json!({}));
        both.at_proxy(&mut browser, &["X-Session-Set: user=alice"]);
        both.at_proxy(&mut browser, &["X-Session-Control: renew, clear"]);
        browser.go_to(&both.library);
        assert_eq!(python_app::get(&mut browser, "user"), Value::Null);
        assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));

        python_app::notify(&mut browser, "flash", &json!("again"));
        let made = cookie(&browser);
        both.at_proxy(&mut browser, &["X-Session-Control: destroy"]);
        browser.plant(COOKIE, &made);
        browser.go_to(&both.library);
        assert_eq!(python_app::waiting(&mut browser), json!([]));
    });
}

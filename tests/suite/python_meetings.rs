//! The Python library and several exchanges meet in one session: nothing is lost.

use std::collections::BTreeSet;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{AppRequest, Gate, Upstream};
use crate::python_app::{self, Shared};
use crate::stage::{Store, answer, cookie, on_engines, page, post};

/// An application that answers nothing but `/` before the gate opens.
fn held_back(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::app(move |request| {
        if request.target != "/" {
            gate.pass();
        }
        answer(&request.fields.all("Answer"))
    })
}

#[test]
fn two_tabs_never_both_show_a_notification_of_the_library() {
    on_engines([Store::redis(), Store::memcached()], |store| {
        let gate = Gate::closed();
        let both = Shared::with(store, held_back(&gate), "");
        let twin = both.stage.pycket.twin();
        let mut browser = both.alice();
        python_app::notify(&mut browser, "flash", &json!("hello"));
        thread::scope(|scope| {
            for (path, proxy) in [("/one", &both.stage.pycket), ("/two", &twin)] {
                let mut tab = browser.clone();
                tab.go_to(proxy);
                scope.spawn(move || page(&mut tab, path, &[]));
            }
            // Both are under way before the first is answered.
            both.stage.app.request(2);
            gate.open();
        });
        let seen = both.stage.app.requests();
        let shown = seen.iter().filter_map(AppRequest::notifications);
        assert_eq!(shown.collect::<Vec<_>>(), [json!({"flash": "hello"})]);
        browser.go_to(&both.library);
        assert_eq!(python_app::show(&mut browser, "flash"), Value::Null);
    });
}

#[test]
fn hundred_exchanges_at_once_in_a_session_of_the_library_lose_no_value() {
    const COUNT: usize = 100;
    let config =
        "storage.timeout = '10s'\nsession.commit_timeout = '15s'\nheaders.budget = '16KiB'";
    on_engines([Store::redis(), Store::memcached()], |store| {
        let gate = Gate::closed();
        let both = Shared::with(store, held_back(&gate), config);
        let twin = both.stage.pycket.twin();
        let mut browser = both.alice();
        thread::scope(|scope| {
            for number in 0..COUNT {
                let mut tab = browser.clone();
                let proxies = [&both.stage.pycket, &twin];
                tab.go_to(proxies[number % 2]);
                let signal = format!("X-Session-Set: n{number}={number}");
                scope.spawn(move || {
                    let response = post(&mut tab, "/together", &[&signal]);
                    assert_eq!(response.status, 200, "{signal}");
                });
            }
            // All have read the session before the first writes.
            both.stage.app.request(COUNT);
            gate.open();
        });
        browser.go_to(&both.library);
        let names = python_app::names(&mut browser);
        let names: BTreeSet<String> = serde_json::from_value(names).unwrap();
        let mut expected: BTreeSet<_> = (0..COUNT).map(|number| format!("n{number}")).collect();
        expected.insert("user".to_owned());
        assert_eq!(names, expected);
    });
}

#[test]
fn what_the_library_changes_during_an_exchange_stays() {
    on_engines([Store::redis(), Store::memcached()], |store| {
        let gate = Gate::closed();
        let both = Shared::with(store, held_back(&gate), "");
        let mut browser = both.alice();
        python_app::set(&mut browser, "theme", &json!("dark"));
        let mut tab = browser.clone();
        tab.go_to(&both.stage.pycket);
        thread::scope(|scope| {
            scope.spawn(|| post(&mut tab, "/slow", &["X-Session-Set: user=bob&seen=yes"]));
            both.stage.app.request(1);
            python_app::set(&mut browser, "user", &json!("carol"));
            python_app::set(&mut browser, "n", &json!(1));
            python_app::delete(&mut browser, "theme");
            python_app::put(&mut browser, "when", "datetime");
            python_app::notify(&mut browser, "flash", &json!("hello"));
            gate.open();
        });
        // Each name has its own last change.
        let names = python_app::names(&mut browser);
        for name in ["n", "seen", "user", "when"] {
            assert!(names.as_array().unwrap().contains(&json!(name)), "{names}");
        }
        assert_eq!(python_app::get(&mut browser, "theme"), Value::Null);
        assert_eq!(python_app::get(&mut browser, "user"), json!("bob"));
        assert!(python_app::kept(&mut browser, "when", "datetime"));
        assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));
    });
}

#[test]
fn what_the_library_changes_while_the_id_is_renewed_goes_along() {
    on_engines([Store::redis(), Store::memcached()], |store| {
        let gate = Gate::closed();
        let both = Shared::with(store, held_back(&gate), "");
        let mut browser = both.alice();
        python_app::put(&mut browser, "changed", "tuple");
        let mut tab = browser.clone();
        tab.go_to(&both.stage.pycket);
        thread::scope(|scope| {
            scope.spawn(|| post(&mut tab, "/login", &["X-Session-Control: renew"]));
            both.stage.app.request(1);
            python_app::set(&mut browser, "n", &json!(1));
            python_app::put(&mut browser, "when", "datetime");
            python_app::put(&mut browser, "changed", "recursive");
            python_app::notify(&mut browser, "flash", &json!("hello"));
            gate.open();
        });
        assert_ne!(cookie(&tab), cookie(&browser));
        tab.go_to(&both.library);
        assert_eq!(python_app::get(&mut tab, "user"), json!("alice"));
        assert_eq!(python_app::get(&mut tab, "n"), json!(1));
        assert!(python_app::kept(&mut tab, "when", "datetime"));
        assert!(python_app::kept(&mut tab, "changed", "recursive"));
        assert_eq!(python_app::show(&mut tab, "flash"), json!("hello"));
        both.stage.store.assert_records(1);
    });
}

#[test]
fn forty_exchanges_at_once_lose_no_notification_that_the_library_shows() {
    const COUNT: usize = 40;
    let config = "storage.timeout = '10s'\nsession.commit_timeout = '15s'";
    on_engines([Store::redis(), Store::memcached()], |store| {
        let gate = Gate::closed();
        let both = Shared::with(store, held_back(&gate), config);
        let twin = both.stage.pycket.twin();
        let mut browser = both.alice();
        python_app::notify(&mut browser, "news", &json!(["first"]));
        thread::scope(|scope| {
            for number in 0..COUNT {
                let mut tab = browser.clone();
                let proxies = [&both.stage.pycket, &twin];
                tab.go_to(proxies[number % 2]);
                let signal = format!("X-Notifications-Add: news=n{number}");
                scope.spawn(move || {
                    let response = post(&mut tab, "/together", &[&signal]);
                    assert_eq!(response.status, 200, "{signal}");
                });
            }
            both.stage.app.request(COUNT);
            gate.open();
        });
        browser.go_to(&both.library);
        let news = python_app::show(&mut browser, "news");
        let news: Vec<String> = serde_json::from_value(news).unwrap();
        assert_eq!(news.len(), 1 + COUNT);
        assert_eq!(news[0], "first");
        let different: BTreeSet<_> = news.iter().collect();
        assert_eq!(different.len(), 1 + COUNT);
    });
}

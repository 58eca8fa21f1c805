//! Exchanges that meet in one session: nothing is lost, and what is over does not come back.

use std::collections::HashSet;
use std::sync::Barrier;
use std::thread;

use serde_json::json;

use crate::harness::{AppRequest, Browser, Gate, Pycket, Upstream};
use crate::stage::{COOKIE, Stage, Store, answer, cookie, id_in, on_engines, page, post};

/// An application that holds back what is asked for below the path of a gate.
fn holding<const N: usize>(gates: [(&'static str, Gate); N]) -> Upstream {
    Upstream::app(move |request| {
        let gate = gates
            .iter()
            .find(|(path, _)| request.target.starts_with(path));
        if let Some((_, gate)) = gate {
            gate.pass();
        }
        answer(&request.fields.all("Answer"))
    })
}

/// Each engine, with an application that holds back what is asked for below `/first` and
/// `/second`.
fn on_each_engine_holding(config: &str, facts: impl Fn(&Stage, &Gate, &Gate) + Sync) {
    on_engines(Store::each(), |store| {
        let (first, second) = (Gate::closed(), Gate::closed());
        let app = holding([("/first", first.clone()), ("/second", second.clone())]);
        let stage = Stage::with(store, app, config);
        facts(&stage, &first, &second);
    });
}

/// Sends a request from another tab that is answered with these lines.
fn send(browser: &Browser, target: &str, answer: &[&str]) -> thread::JoinHandle<Browser> {
    let mut tab = browser.clone();
    let target = target.to_owned();
    let answer: Vec<String> = answer.iter().map(ToString::to_string).collect();
    thread::spawn(move || {
        let answer: Vec<&str> = answer.iter().map(String::as_str).collect();
        let response = post(&mut tab, &target, &answer);
        assert_eq!(response.status, 200, "{target}");
        tab
    })
}

fn answered(tab: thread::JoinHandle<Browser>) -> Browser {
    tab.join().expect("the request is answered")
}

/// So many exchanges in one session at once, each with a signal of its own, all of which have read
/// the session before the first writes.
fn all_at_once(
    count: usize,
    config: &str,
    signal: fn(usize) -> String,
    kept: fn(&Stage, &mut Browser) -> Vec<String>,
) {
    on_engines(Store::each(), |store| {
        let gate = Gate::closed();
        let stage = Stage::with(store, holding([("/together", gate.clone())]), config);
        let mut browser = stage.browser();
        post(&mut browser, "/", &["X-Session-Set: begun=1"]);
        // What is in the proxy's own memory has no twin.
        let twin = stage.store.records().map(|_| stage.pycket.twin());
        let proxies: Vec<&Pycket> = [Some(&stage.pycket), twin.as_ref()]
            .into_iter()
            .flatten()
            .collect();
        let running: Vec<_> = (0..count)
            .map(|number| {
                let mut tab = browser.clone();
                tab.go_to(proxies[number % proxies.len()]);
                send(&tab, "/together", &[&signal(number)])
            })
            .collect();
        stage.app.request(1 + count);
        gate.open();
        assert_eq!(running.into_iter().map(answered).count(), count);
        let mut kept = kept(&stage, &mut browser);
        let mut expected: Vec<_> = (0..count).map(|number| format!("n{number}")).collect();
        kept.sort();
        expected.sort();
        assert_eq!(kept, expected);
        stage.store.assert_records(1);
    });
}

#[test]
fn two_hundred_exchanges_at_once_lose_no_value() {
    // The last write may have gone through the other copy of the proxy.
    let config = "[session]\nmax_names = 256\ncommit_timeout = '15s'\n[headers]\nbudget = '16KiB'\n\
                  [[route]]\npath = '/look'\nstrict = true";
    all_at_once(
        200,
        config,
        |number| format!("X-Session-Set: n{number}=1"),
        |stage, browser| {
            let session = stage.session(browser);
            let values = session.as_object().expect("a session is an object");
            let names = values.keys().filter(|name| *name != "begun");
            names.cloned().collect()
        },
    );
}

#[test]
fn hundred_exchanges_at_once_lose_no_notification() {
    let config =
        "[session]\nmax_notifications = 100\ncommit_timeout = '15s'\n[headers]\nbudget = '16KiB'";
    all_at_once(
        100,
        config,
        |number| format!("X-Notifications-Add: list=n{number}"),
        |stage, browser| {
            page(browser, "/", &[]);
            let shown = stage.shown().expect("they wait");
            let list = shown["list"].as_array().expect("they are a list");
            let texts = list
                .iter()
                .map(|text| text.as_str().expect("they are texts"));
            texts.map(str::to_owned).collect()
        },
    );
}

#[test]
fn many_tabs_at_once_show_a_notification_once() {
    const ROUNDS: usize = 5;
    const TABS: usize = 20;
    on_engines(Store::each(), |store| {
        let stage = Stage::on(store, "");
        let mut browser = stage.browser();
        let twin = stage.store.records().map(|_| stage.pycket.twin());
        for _ in 0..ROUNDS {
            post(&mut browser, "/", &["X-Notifications-Set: flash=1"]);
            let together = Barrier::new(TABS);
            thread::scope(|scope| {
                for number in 0..TABS {
                    let mut tab = browser.clone();
                    if let Some(twin) = twin.as_ref().filter(|_| number % 2 == 0) {
                        tab.go_to(twin);
                    }
                    let together = &together;
                    scope.spawn(move || {
                        together.wait();
                        assert_eq!(page(&mut tab, "/", &[]).status, 200);
                    });
                }
            });
        }
        let requests = stage.app.requests();
        assert_eq!(requests.len(), ROUNDS * (1 + TABS));
        let shown = requests.iter().filter_map(AppRequest::notifications);
        assert_eq!(shown.count(), ROUNDS);
    });
}

#[test]
fn write_after_a_logout_brings_nothing_back() {
    on_each_engine_holding("", |stage, first, _| {
        let late: [&[&str]; 4] = [
            &["X-Session-Set: user=bob"],
            &["X-Notifications-Add: n=1"],
            &["X-Session-Control: clear, persist, ttl=600"],
            &["X-Session-Control: destroy"],
        ];
        let mut browser = stage.browser();
        post(&mut browser, "/", &["X-Session-Set: user=alice"]);
        let mut dead = browser.clone();
        let mut in_flight = Vec::new();
        for (number, answer) in late.into_iter().enumerate() {
            in_flight.push(send(&browser, &format!("/first-{number}"), answer));
            stage.app.request(number + 2);
        }
        post(&mut browser, "/logout", &["X-Session-Control: destroy"]);
        stage.store.assert_records(0);
        first.open();
        let old = cookie(&dead);
        let tabs: Vec<Browser> = in_flight.into_iter().map(answered).collect();
        let cookies = tabs.iter().map(|tab| tab.cookie(COOKIE));
        let same = Some(old.as_str());
        assert_eq!(cookies.collect::<Vec<_>>(), [same, same, same, None]);
        let wrote = [0, 1, 2].map(|number| stage.wrote(&format!("/first-{number}")));
        assert_eq!(wrote, ["dropped", "dropped", "dropped"]);
        stage.store.assert_records(0);
        assert_eq!(stage.state(&mut dead), ("none".to_owned(), None));
    });
}

#[test]
fn login_that_finds_its_session_gone_begins_a_new_one_of_its_own() {
    on_each_engine_holding("", |stage, first, _| {
        let mut browser = stage.browser();
        post(&mut browser, "/", &["X-Session-Set: cart=1"]);
        let old = cookie(&browser);
        let login = ["X-Session-Set: user=alice", "X-Session-Control: renew"];
        let login = send(&browser, "/first", &login);
        stage.app.request(2);
        post(&mut browser, "/logout", &["X-Session-Control: destroy"]);
        first.open();
        let mut tab = answered(login);
        assert_ne!(id_in(&cookie(&tab)), id_in(&old));
        assert_eq!(stage.session(&mut tab), json!({"user": "alice"}));
        stage.store.assert_records(1);
    });
}

#[test]
fn login_takes_along_what_was_stored_while_it_was_answered() {
    on_each_engine_holding("", |stage, first, second| {
        let mut browser = stage.browser();
        post(&mut browser, "/", &["X-Session-Set: a=1"]);
        let set = send(
            &browser,
            "/first",
            &["X-Session-Set: cart=1", "X-Notifications-Add: n=1"],
        );
        stage.app.request(2);
        let login = ["X-Session-Set: user=alice", "X-Session-Control: renew"];
        let login = send(&browser, "/second", &login);
        stage.app.request(3);
        // Both have read the session. The set is stored, then the login.
        first.open();
        answered(set);
        second.open();
        let mut tab = answered(login);
        assert_eq!(
            stage.session(&mut tab),
            json!({"a": "1", "cart": "1", "user": "alice"})
        );
        page(&mut tab, "/", &[]);
        assert_eq!(stage.shown(), Some(json!({"n": ["1"]})));
        stage.store.assert_records(1);
    });
}

#[test]
fn what_is_answered_after_a_login_follows_it_within_the_grace() {
    on_each_engine_holding("session.renew_grace = '30s'", |stage, first, second| {
        let mut browser = stage.browser();
        post(&mut browser, "/", &["X-Session-Set: a=1"]);
        let late: Vec<_> = (0..10)
            .map(|number| {
                let signal = format!("X-Session-Set: n{number}=1");
                send(&browser, "/second", &[&signal])
            })
            .collect();
        let login = ["X-Session-Set: user=alice", "X-Session-Control: renew"];
        let login = send(&browser, "/first", &login);
        stage.app.request(12);
        // All have read the session under its old id.
        first.open();
        let mut tab = answered(login);
        second.open();
        for late in late {
            let mut late = answered(late);
            assert_eq!(stage.state(&mut late), stage.state(&mut tab));
        }
        let session = stage.session(&mut tab);
        assert_eq!(
            session.as_object().map(serde_json::Map::len),
            Some(12),
            "{session}"
        );
    });
}

#[test]
fn login_among_many_writes_loses_none_within_the_grace() {
    on_each_engine_holding("session.renew_grace = '30s'", |stage, first, _| {
        let mut browser = stage.browser();
        post(&mut browser, "/", &["X-Session-Set: a=1"]);
        let mut tabs = Vec::new();
        for number in 0..40 {
            let signal = format!("X-Session-Set: n{number}=1");
            let renew = if number % 20 == 7 {
                "X-Session-Control: renew"
            } else {
                "X-Other: 1"
            };
            tabs.push(send(&browser, "/first", &[&signal, renew]));
        }
        stage.app.request(41);
        first.open();
        let tabs: Vec<Browser> = tabs.into_iter().map(answered).collect();
        let names: HashSet<String> = (0..40).map(|number| format!("n{number}")).collect();
        for mut tab in tabs {
            // Whichever id it was left with.
            let session = stage.session(&mut tab);
            let values = session.as_object().expect("a session is an object");
            assert!(
                names.iter().all(|name| values.contains_key(name)),
                "{session}"
            );
        }
    });
}

#[test]
fn two_logouts_at_once_are_both_answered() {
    on_each_engine_holding("", |stage, first, _| {
        let mut browser = stage.browser();
        post(&mut browser, "/", &["X-Session-Set: a=1"]);
        let both = [1, 2].map(|_| send(&browser, "/first", &["X-Session-Control: destroy"]));
        stage.app.request(3);
        first.open();
        for tab in both {
            assert_eq!(answered(tab).cookie(COOKIE), None);
        }
        stage.store.assert_records(0);
    });
}

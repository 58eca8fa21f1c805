//! Notifications: shown once, by the page that they are meant for, and never lost.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{AppResponse, Browser, Gate, Pycket, Upstream, Wire};
use crate::stage::{COOKIE, Stage, Store, answer, in_time, on_each_engine, on_engines, page, post};

const ANNOUNCE: &str = "X-Notifications-Set: flash=hello";

/// A browser for which a notification waits.
fn announced(stage: &Stage) -> Browser {
    let mut browser = stage.browser();
    assert_eq!(
        post(&mut browser, "/", &["303", "Location: /", ANNOUNCE]).status,
        303
    );
    browser
}

/// A page load to which the application answers so gets the notification, or not, and uses it up,
/// or not.
fn assert_page(stage: &Stage, browser: &mut Browser, answer: &[&str], got: bool) {
    page(browser, "/page", answer);
    let expected = got.then(|| json!({"flash": "hello"}));
    assert_eq!(stage.shown(), expected, "{answer:?}");
}

#[test]
fn page_shows_a_notification_once() {
    on_each_engine("", |stage| {
        let mut browser = announced(stage);
        assert_page(stage, &mut browser, &["200"], true);
        assert_page(stage, &mut browser, &["200"], false);
        // So does one that is not found: a person sees it.
        post(&mut browser, "/", &[ANNOUNCE]);
        assert_page(stage, &mut browser, &["404"], true);
        assert_page(stage, &mut browser, &["200"], false);
        assert_eq!(stage.session(&mut browser), json!({}));
        stage.store.assert_records(1);
    });
}

#[test]
fn page_that_nobody_sees_leaves_it() {
    on_each_engine("", |stage| {
        let mut browser = announced(stage);
        let unseen = [
            &["303", "Location: /next"][..],
            &["302", "Location: https://elsewhere.example/"],
            &["304"],
            &["204"],
            &["205"],
            &["500"],
            &["503"],
            &["200", "Content-Disposition: attachment; filename=a.csv"],
            // Refused by the proxy.
            &["200", "X-Session-Control: nonsense"],
        ];
        assert_eq!(unseen.len(), 9);
        for answer in unseen {
            assert_page(stage, &mut browser, answer, true);
        }
        assert_page(stage, &mut browser, &["200"], true);
        assert_page(stage, &mut browser, &["200"], false);
    });
}

/// Requests that are no page load, by their method and header lines.
const NO_PAGES: [(&str, &[(&str, &str)]); 9] = [
    (
        "GET",
        &[("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")],
    ),
    (
        "GET",
        &[
            ("Sec-Fetch-Mode", "cors"),
            ("Sec-Fetch-Dest", "empty"),
            ("Accept", "text/html"),
        ],
    ),
    (
        "GET",
        &[
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Dest", "document"),
            ("Sec-Purpose", "prefetch"),
        ],
    ),
    (
        "GET",
        &[
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Purpose", "prefetch;prerender"),
        ],
    ),
    ("GET", &[("Accept", "text/html"), ("Purpose", "prefetch")]),
    ("GET", &[("Accept", "*/*")]),
    ("GET", &[]),
    ("HEAD", &[("Accept", "text/html")]),
    (
        "POST",
        &[
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Dest", "document"),
            ("Accept", "text/html"),
        ],
    ),
];

#[test]
fn request_that_is_no_page_load_gets_none_and_writes_nothing() {
    on_each_engine("", |stage| {
        let mut browser = announced(stage);
        for (number, (method, lines)) in NO_PAGES.into_iter().enumerate() {
            let path = format!("/no-page-{number}");
            let request = browser.request(method, &path);
            lines
                .iter()
                .fold(request, |request, (name, value)| {
                    request.header(name, value)
                })
                .send();
            assert_eq!(stage.shown(), None, "{method} {lines:?}");
            assert_eq!(stage.wrote(&path), "nothing", "{method} {lines:?}");
        }
        // A browser without fetch metadata says what it wants by `Accept`.
        browser
            .request("GET", "/")
            .header("Accept", "text/html")
            .send();
        assert_eq!(stage.shown(), Some(json!({"flash": "hello"})));
    });
}

#[test]
fn application_takes_them_where_it_acknowledges() {
    on_each_engine("notifications.consume = 'ack'", |stage| {
        let mut browser = stage.browser();
        post(&mut browser, "/", &["X-Notifications-Set: a=1&b=2&c=3"]);
        let steps = [
            (&[][..], json!({"a": "1", "b": "2", "c": "3"})),
            (
                &["X-Notifications-Taken: a, absent"],
                json!({"a": "1", "b": "2", "c": "3"}),
            ),
            (
                &["500", "X-Notifications-Taken: \"b\""],
                json!({"b": "2", "c": "3"}),
            ),
            // What the answer itself leaves is not what was delivered.
            (
                &["X-Notifications-Taken: *", "X-Notifications-Set: d=4"],
                json!({"c": "3"}),
            ),
            (&["X-Notifications-Taken: d"], json!({"d": "4"})),
        ];
        for (answer, got) in steps {
            told_image(&mut browser, answer);
            assert_eq!(stage.shown(), Some(got), "{answer:?}");
        }
        browser.page("/");
        assert_eq!(stage.shown(), None);
    });
}

/// A request for an image, of which nothing can be seen but the image.
fn told_image(browser: &mut Browser, answer: &[&str]) {
    let request = browser.request("GET", "/image");
    request
        .header("Sec-Fetch-Dest", "image")
        .headers("Answer", answer)
        .send();
}

#[test]
fn any_exchange_uses_them_up_where_they_are_always_consumed() {
    on_each_engine("notifications.consume = 'always'", |stage| {
        let mut browser = announced(stage);
        told_image(&mut browser, &["500"]);
        assert_eq!(stage.shown(), Some(json!({"flash": "hello"})));
        browser.page("/");
        assert_eq!(stage.shown(), None);
    });
}

#[test]
fn notification_goes_first_to_the_page_that_the_redirect_leads_to() {
    let config = "[notifications]\nbind = 'redirect'\nbind_grace = '20s'";
    on_each_engine(config, |stage| {
        let mut browser = stage.browser();
        // As seen from /cart/add.
        let answer = ["303", "Location: done?x=1", ANNOUNCE];
        post(&mut browser, "/cart/add", &answer);
        for other in ["/other", "/cart/add", "/cart/", "/done"] {
            page(&mut browser, other, &[]);
            assert_eq!(stage.shown(), None, "{other}");
        }
        page(&mut browser, "/cart/done?x=1", &[]);
        assert_eq!(stage.shown(), Some(json!({"flash": "hello"})));
        page(&mut browser, "/cart/done", &[]);
        assert_eq!(stage.shown(), None);
        // Without a redirect, any page.
        post(&mut browser, "/", &[ANNOUNCE]);
        page(&mut browser, "/other", &[]);
        assert_eq!(stage.shown(), Some(json!({"flash": "hello"})));
    });
}

#[test]
fn any_page_shows_a_bound_notification_after_a_while() {
    let config = "[notifications]\nbind = 'redirect'\nbind_grace = '1s'";
    let stage = Stage::on(Store::Memory, config);
    let mut browser = stage.browser();
    let begin = Instant::now();
    post(&mut browser, "/", &["303", "Location: /never", ANNOUNCE]);
    in_time("another page shows it", || {
        page(&mut browser, "/other", &[]);
        stage.shown()
    });
    assert!(begin.elapsed() >= Duration::from_millis(990));
}

#[test]
fn same_name_replaces_and_add_appends() {
    on_each_engine("", |stage| {
        let mut browser = stage.browser();
        let steps = [
            &["X-Notifications-Set: flash=1"][..],
            &[
                "X-Notifications-Set: flash=2",
                "X-Notifications-Add: list=1",
            ],
            &[
                "X-Notifications-Add: list=2",
                "X-Notifications-Add: {\"list\": [3]}",
            ],
            &["X-Notifications-Set: {\"flash\": {\"level\": \"warn\"}, \"all\": [1]}"],
            &["X-Notifications-Add: all=2"],
        ];
        for answer in steps {
            post(&mut browser, "/", answer);
        }
        browser.page("/");
        let expected =
            json!({"flash": {"level": "warn"}, "list": ["1", "2", [3]], "all": [1, "2"]});
        assert_eq!(stage.shown(), Some(expected));
        browser.page("/");
        assert_eq!(stage.shown(), None);
    });
}

/// An application that holds back what is asked for below `/held`.
fn holding(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::app(move |request| {
        if request.target.starts_with("/held") {
            gate.pass();
        }
        answer(&request.fields.all("Answer"))
    })
}

fn on_each_engine_holding(config: &str, facts: impl Fn(&Stage, &Gate) + Sync) {
    on_engines(Store::each(), |store| {
        let gate = Gate::closed();
        let stage = Stage::with(store, holding(&gate), config);
        facts(&stage, &gate);
    });
}

#[test]
fn two_tabs_never_both_show_one() {
    on_each_engine_holding("", |stage, gate| {
        let mut browser = announced(stage);
        let mut tab = browser.clone();
        let first = std::thread::spawn(move || page(&mut tab, "/held", &["500"]).status);
        let carried = stage.app.request(2).notifications();
        assert_eq!(carried, Some(json!({"flash": "hello"})));
        assert_page(stage, &mut browser, &["200"], false);
        assert_page(stage, &mut browser, &["200"], false);
        gate.open();
        assert_eq!(first.join().expect("the first tab is answered"), 500);
        assert_page(stage, &mut browser, &["200"], true);
        assert_page(stage, &mut browser, &["200"], false);
    });
}

#[test]
fn what_is_left_while_a_page_is_made_survives_that_page() {
    on_each_engine_holding("", |stage, gate| {
        let mut browser = announced(stage);
        let mut tab = browser.clone();
        let first =
            std::thread::spawn(move || page(&mut tab, "/held", &["X-Session-Set: seen=1"]).status);
        stage.app.request(2);
        post(&mut browser, "/", &["X-Notifications-Add: late=1"]);
        gate.open();
        assert_eq!(first.join().expect("it is answered"), 200);
        page(&mut browser, "/", &[]);
        assert_eq!(stage.shown(), Some(json!({"late": ["1"]})));
        assert_eq!(stage.session(&mut browser), json!({"seen": "1"}));
    });
}

#[test]
fn two_requests_that_add_at_once_keep_both() {
    on_each_engine_holding("", |stage, gate| {
        let mut browser = stage.browser();
        post(&mut browser, "/", &["X-Session-Set: a=1"]);
        let both = [1, 2].map(|number| {
            let mut tab = browser.clone();
            let add = format!("X-Notifications-Add: list={number}");
            std::thread::spawn(move || post(&mut tab, "/held", &[&add]).status)
        });
        // Both have read the session before either writes.
        stage.app.request(3);
        gate.open();
        assert_eq!(
            both.map(|one| one.join().expect("it is answered")),
            [200, 200]
        );
        page(&mut browser, "/", &[]);
        let seen = stage.shown().expect("they wait");
        assert!(
            [json!({"list": ["1", "2"]}), json!({"list": ["2", "1"]})].contains(&seen),
            "{seen}"
        );
    });
}

#[test]
fn application_that_breaks_off_leaves_it() {
    on_engines(Store::each(), |store| {
        let app = Upstream::raw(|mut wire, _| {
            let request = wire.read_request();
            let waiting = request
                .header("X-Notifications")
                .unwrap_or("none")
                .to_owned();
            let answer = match request.target.as_str() {
                "/broken" => "HTTP/1.1 200 OK\r\nContent-Le".to_owned(),
                "/garbage" => "nonsense\r\n\r\n".to_owned(),
                "/announce" => format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n{ANNOUNCE}\r\n\r\n"
                ),
                _ => format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{waiting}",
                    waiting.len()
                ),
            };
            wire.send(answer);
        });
        let stage = Stage::with(store, app, "");
        let mut browser = stage.browser();
        browser.get("/announce");
        for target in ["/broken", "/garbage"] {
            assert_eq!(browser.page(target).status, 502);
            let line = stage.pycket.access(|line| line["path"] == target);
            assert_eq!(
                (&line["claimed"], &line["returned"]),
                (&json!(1), &json!(1))
            );
        }
        assert_eq!(browser.page("/page").text(), r#"{"flash":"hello"}"#);
        assert_eq!(browser.page("/page").text(), "none");
    });
}

/// A page load on a connection that nobody reads from.
fn unread_page(pycket: &Pycket, browser: &Browser, target: &str) -> Wire {
    let cookie = browser.cookie(COOKIE).expect("a session has begun");
    let mut wire = Wire::connect(pycket);
    wire.send(format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\nCookie: {COOKIE}={cookie}\r\n\r\n"
    ));
    wire
}

#[test]
fn client_that_goes_away_gives_back_what_it_was_to_be_shown() {
    // Claims last much longer than the test waits.
    on_each_engine_holding("notifications.claim_timeout = '1h'", |stage, gate| {
        let mut browser = announced(stage);
        let client = unread_page(&stage.pycket, &browser, "/held");
        assert_eq!(
            stage.app.request(2).notifications(),
            Some(json!({"flash": "hello"}))
        );
        assert_page(stage, &mut browser, &["200"], false);
        drop(client);
        in_time("another page shows it", || {
            page(&mut browser, "/page", &["200"]);
            stage.shown()
        });
        assert_page(stage, &mut browser, &["200"], false);
        gate.open();
    });
}

#[test]
fn proxy_that_is_killed_loses_none() {
    on_engines([Store::redis(), Store::memcached()], |store| {
        let gate = Gate::closed();
        let config = "notifications.claim_timeout = '2s'\ntimeouts.upstream_response = '1900ms'";
        let mut stage = Stage::with(store, holding(&gate), config);
        let mut browser = announced(&stage);
        let twin = stage.pycket.twin();
        browser.go_to(&twin);
        let begin = Instant::now();
        let client = unread_page(&stage.pycket, &browser, "/held");
        assert_eq!(
            stage.app.request(2).notifications(),
            Some(json!({"flash": "hello"}))
        );
        stage.pycket.kill();
        drop(client);
        in_time("the other copy shows it", || {
            page(&mut browser, "/page", &["200"]);
            stage.shown()
        });
        let held = begin.elapsed();
        assert!(held >= Duration::from_millis(1990), "{held:?}");
        assert_page(&stage, &mut browser, &["200"], false);
        gate.open();
    });
}

#[test]
fn redirect_chain_ends_at_the_page() {
    let app = Upstream::app(
        |request| match (request.method.as_str(), request.target.as_str()) {
            ("POST", _) => {
                AppResponse::see_other("/a").header("X-Notifications-Set", "flash=Saved%21")
            }
            (_, "/a") => AppResponse::see_other("/b"),
            _ => AppResponse::ok(request.header("X-Notifications").unwrap_or("none")),
        },
    );
    let pycket = Pycket::with(&app).start();
    let mut browser = Browser::at(&pycket);
    let saved = browser.post("/save", "");
    let moved = browser.follow(&saved);
    browser.image("/logo.png");
    assert_eq!(browser.follow(&moved).text(), r#"{"flash":"Saved!"}"#);
    assert_eq!(browser.page("/b").text(), "none");
}

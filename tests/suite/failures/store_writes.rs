//! The store can't be written after the application has answered.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::{
    App, COOKIE, ENGINES, MARGIN, STORE_PHRASE, Server, TIMEOUT, all_at_once, assert_rescued,
    logged_in, tell, timed, told, values,
};
use crate::fault_proxy::{Fault, FaultProxy};
use crate::harness::{Browser, Pycket, Response};
use crate::servers::RedisServer;

/// `session.commit_timeout` in these tests.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Enough for whatever is in the way to pass.
const PATIENT: &str = "session.commit_timeout = '15s'";

fn set_maxmemory(server: &Server, bytes: &str) {
    let Server::Redis(server) = server else {
        panic!("only Redis can be told");
    };
    server.command(&["CONFIG", "SET", "maxmemory", bytes]);
}

#[test]
fn full_redis_makes_503_and_the_record_stays_as_it_was() {
    let redis = RedisServer::start();
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let (server, app) = (Server::Redis(redis), App::start());
    let pycket = server.before(&app).start();
    let mut browser = logged_in(&pycket, "alice");
    let cookie = browser.cookie(COOKIE).map(str::to_owned);
    set_maxmemory(&server, "1");

    let refused: [&[&str]; 4] = [
        &["X-Session-Set: user=mallory"],
        &["X-Notifications-Add: m=1"],
        &["X-Session-Control: clear"],
        &["X-Session-Control: renew", "X-Session-Set: user=mallory"],
    ];
    for answer in refused {
        let (response, took) = timed(|| tell(&mut browser, answer));
        let id = assert_rescued(&response, 503, STORE_PHRASE);
        assert!(
            pycket.says(&id).contains("the store refused: OOM"),
            "the cause is in the log"
        );
        assert!(took < COMMIT_TIMEOUT + MARGIN, "{answer:?}: {took:?}");
        assert_eq!(
            values(&mut browser),
            json!({"user": "alice"}),
            "reading goes on"
        );
    }
    let mut stranger = Browser::at(&pycket);
    assert_rescued(
        &tell(&mut stranger, &["X-Session-Set: user=bob"]),
        503,
        STORE_PHRASE,
    );
    assert_eq!(stranger.cookie(COOKIE), None);

    set_maxmemory(&server, "0");
    let after = told(&browser.page("/"));
    assert_eq!(
        after,
        ("active".to_owned(), json!({"user": "alice"}), Value::Null)
    );
    assert_eq!(browser.cookie(COOKIE), cookie.as_deref());
    assert_eq!(
        told(&tell(&mut browser, &["X-Session-Set: n=1"])).0,
        "active"
    );
    assert_eq!(values(&mut browser), json!({"user": "alice", "n": "1"}));
}

#[test]
fn store_killed_before_the_answer_makes_503_after_the_commit_timeout() {
    let checked = all_at_once(&ENGINES, |&engine| {
        let server = Arc::new(Mutex::new(Server::start(engine)));
        let app = App::start();
        let pycket = server.lock().unwrap().before(&app).start();
        let known = logged_in(&pycket, "alice");
        for mut browser in [known, Browser::at(&pycket)] {
            let cookie = browser.cookie(COOKIE).map(str::to_owned);
            let killed = Arc::clone(&server);
            app.meanwhile(move || killed.lock().unwrap().kill());
            let (response, took) = timed(|| tell(&mut browser, &["X-Session-Set: n=1"]));
            assert_rescued(&response, 503, STORE_PHRASE);
            assert!(
                took >= COMMIT_TIMEOUT,
                "it was tried all the time: {took:?}"
            );
            assert!(took < COMMIT_TIMEOUT + 3 * TIMEOUT + MARGIN, "{took:?}");
            assert_eq!(browser.cookie(COOKIE), cookie.as_deref());
            server.lock().unwrap().restart();
            pycket.says("the store answers again");
        }
    });
    assert_eq!(checked, 2);
}

#[test]
fn write_to_a_store_that_pauses_succeeds_when_it_goes_on_and_only_once() {
    let checked = all_at_once(&ENGINES, |&engine| {
        let server = Arc::new(Server::start(engine));
        let app = App::start();
        let config = format!("{PATIENT}\nstorage.breaker_failures = 1");
        let pycket = server.before(&app).config(&config).start();
        let mut browser = logged_in(&pycket, "alice");
        let paused = Arc::clone(&server);
        app.meanwhile(move || paused.pause());
        let response = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let answer = ["X-Session-Set: n=1", "X-Notifications-Add: m=once"];
                tell(&mut browser, &answer)
            });
            pycket.says("the store is down; operations fail at once");
            assert!(!asking.is_finished(), "it is still being tried");
            server.resume();
            asking.join().expect("there is a response")
        });
        assert_eq!(told(&response).0, "active");
        let session = json!({"user": "alice", "n": "1"});
        let once = json!({"m": ["once"]});
        assert_eq!(
            told(&browser.page("/")),
            ("active".to_owned(), session, once)
        );
    });
    assert_eq!(checked, 2);
}

/// What is written, and what must have come of it.
type Write = (&'static str, fn(&Scene) -> Response);

/// A proxy that reaches its store by a relay.
struct Scene {
    pycket: Pycket,
    app: App,
    relay: Arc<FaultProxy>,
    fault: Fault,
}

impl Scene {
    /// Lets the reply be lost to what the store is asked after the next request has reached the
    /// application.
    fn lose_the_next_reply(&self) {
        let (relay, fault) = (Arc::clone(&self.relay), self.fault);
        self.app.meanwhile(move || relay.once(fault));
    }

    /// Lets the application answer so, and the reply to the write be lost.
    fn tell(&self, browser: &mut Browser, answer: &[&str]) -> Response {
        self.lose_the_next_reply();
        tell(browser, answer)
    }
}

const WRITES: [Write; 6] = [
    ("begin", |scene| {
        let mut browser = Browser::at(&scene.pycket);
        let response = scene.tell(&mut browser, &["X-Session-Set: user=bob"]);
        assert_eq!(values(&mut browser), json!({"user": "bob"}));
        response
    }),
    ("set", |scene| {
        let mut browser = logged_in(&scene.pycket, "alice");
        let response = scene.tell(&mut browser, &["X-Session-Set: n=1"]);
        assert_eq!(values(&mut browser), json!({"user": "alice", "n": "1"}));
        response
    }),
    ("add", |scene| {
        let mut browser = logged_in(&scene.pycket, "alice");
        let response = scene.tell(&mut browser, &["X-Notifications-Add: m=once"]);
        let (_, _, shown) = told(&browser.page("/"));
        assert_eq!(shown, json!({"m": ["once"]}));
        let (_, _, again) = told(&browser.page("/"));
        assert_eq!(again, Value::Null);
        response
    }),
    ("show", |scene| {
        let mut browser = logged_in(&scene.pycket, "alice");
        tell(&mut browser, &["X-Notifications-Add: m=once"]);
        scene.lose_the_next_reply();
        let response = browser.page("/");
        assert_eq!(told(&response).2, json!({"m": ["once"]}));
        let (_, _, again) = told(&browser.page("/"));
        assert_eq!(again, Value::Null, "what was shown stays shown");
        response
    }),
    ("renew", |scene| {
        let mut browser = logged_in(&scene.pycket, "alice");
        let mut thief = browser.clone();
        let response = scene.tell(&mut browser, &["X-Session-Control: renew"]);
        assert_eq!(response.set_cookies().len(), 1);
        assert_eq!(values(&mut browser), json!({"user": "alice"}));
        assert_eq!(values(&mut thief), json!({}), "the old id has ended");
        response
    }),
    ("destroy", |scene| {
        let mut browser = logged_in(&scene.pycket, "alice");
        let mut thief = browser.clone();
        let response = scene.tell(&mut browser, &["X-Session-Control: destroy"]);
        assert_eq!(browser.cookie(COOKIE), None);
        assert_eq!(values(&mut thief), json!({}), "the record has ended");
        response
    }),
];

#[test]
fn write_whose_reply_is_lost_is_settled_and_nothing_happens_twice() {
    let faults = [
        Fault::Cut(0),
        Fault::Cut(1),
        Fault::Reset(0),
        Fault::Stall(0),
    ];
    let mut cases = Vec::new();
    for engine in ENGINES {
        cases.extend(faults.map(|fault| (engine, fault)));
    }
    let checked = all_at_once(&cases, |&(engine, fault)| {
        let (server, app) = (Server::start(engine), App::start());
        let relay = Arc::new(server.relay());
        // A connection that is silent takes as many timeouts as it takes to give it up.
        let failures = if fault == Fault::Stall(0) { 1 } else { 3 };
        let config = format!("{PATIENT}\nstorage.breaker_failures = {failures}");
        let pycket = server.behind(&relay, &app).config(&config).start();
        let scene = Scene {
            pycket,
            app,
            relay,
            fault,
        };
        let mut settled = 0;
        for (name, write) in WRITES {
            let response = write(&scene);
            assert_eq!(response.status, 200, "{name}");
            settled += 1;
        }
        assert_eq!(settled, 6);
    });
    assert_eq!(checked, 8);
}

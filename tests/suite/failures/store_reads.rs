//! The store can't be read.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::{
    App, COOKIE, Engine, MARGIN, STORE_PHRASE, Server, TIMEOUT, all_at_once, assert_rescued,
    logged_in, tell, timed, told, values,
};
use crate::harness::{Browser, Pycket};
use crate::servers::MemcachedServer;

/// A way to take a store away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    Killed,
    Paused,
}

const OUTAGES: [(Engine, Outage); 4] = [
    (Engine::Redis, Outage::Killed),
    (Engine::Redis, Outage::Paused),
    (Engine::Memcached, Outage::Killed),
    (Engine::Memcached, Outage::Paused),
];

impl Outage {
    fn begin(self, server: &mut Server) {
        match self {
            Self::Killed => server.kill(),
            Self::Paused => server.pause(),
        }
    }

    /// A store that was killed comes back empty.
    fn end(self, server: &mut Server) {
        match self {
            Self::Killed => server.restart(),
            Self::Paused => server.resume(),
        }
    }

    /// What the application is told after it, of a session that had a user.
    fn leaves(self) -> (String, Value, Value) {
        match self {
            Self::Killed => ("none".to_owned(), json!({}), Value::Null),
            Self::Paused => ("active".to_owned(), json!({"user": "alice"}), Value::Null),
        }
    }
}

/// Waits until the proxy has seen that the store is back.
fn wait_for_recovery(pycket: &Pycket) {
    pycket.says("the store answers again");
}

#[test]
fn store_that_is_down_makes_503_and_does_not_bother_the_application() {
    let checked = all_at_once(&OUTAGES, |&(engine, outage)| {
        let (mut server, app) = (Server::start(engine), App::start());
        let pycket = server.before(&app).start();
        let mut browser = logged_in(&pycket, "alice");
        let cookie = browser.cookie(COOKIE).map(str::to_owned);
        outage.begin(&mut server);

        for _ in 0..3 {
            let (response, took) = timed(|| browser.get("/"));
            assert_rescued(&response, 503, STORE_PHRASE);
            assert!(took < TIMEOUT + MARGIN, "{took:?}");
        }
        pycket.says("the store is down; operations fail at once");
        let ((), took) = timed(|| {
            for _ in 0..20 {
                assert_rescued(
                    &tell(&mut browser, &["X-Session-Set: n=1"]),
                    503,
                    STORE_PHRASE,
                );
            }
        });
        assert!(took < 20 * TIMEOUT / 2, "nobody waits any more: {took:?}");
        assert_eq!(app.upstream.requests().len(), 1, "the login alone");
        assert_eq!(browser.cookie(COOKIE), cookie.as_deref());

        let mut stranger = Browser::at(&pycket);
        let nobody = ("none".to_owned(), json!({}), Value::Null);
        assert_eq!(told(&stranger.get("/")), nobody);
        stranger.plant(COOKIE, "2|1:0|10:1700000000|9:PYCKET_ID|4:Zm9v|0000");
        assert_eq!(
            told(&stranger.get("/")),
            nobody,
            "a forged cookie asks no store"
        );

        outage.end(&mut server);
        wait_for_recovery(&pycket);
        let response = browser.get("/");
        assert_eq!(told(&response), outage.leaves());
        assert_eq!(response.set_cookies(), [""; 0], "neither set nor cleared");
        assert_eq!(
            values(&mut logged_in(&pycket, "bob")),
            json!({"user": "bob"})
        );
    });
    assert_eq!(checked, 4);
}

#[test]
fn route_that_can_do_without_goes_on_anonymously_and_touches_nothing() {
    let checked = all_at_once(&OUTAGES, |&(engine, outage)| {
        let (mut server, app) = (Server::start(engine), App::start());
        let anonymous = "session.on_store_error = 'anonymous'";
        let pycket = server.before(&app).config(anonymous).start();
        let mut browser = logged_in(&pycket, "alice");
        outage.begin(&mut server);

        let signals: [&[&str]; 5] = [
            &[],
            &["X-Session-Set: user=mallory", "X-Notifications-Add: m=1"],
            &["X-Session-Control: clear"],
            &["X-Session-Control: renew"],
            &["X-Session-Control: destroy"],
        ];
        for answer in signals {
            let (response, took) = timed(|| tell(&mut browser, answer));
            let unavailable = ("unavailable".to_owned(), json!({}), Value::Null);
            assert_eq!(told(&response), unavailable, "{answer:?}");
            assert_eq!(response.set_cookies(), [""; 0], "{answer:?}");
            assert!(took < TIMEOUT + MARGIN, "{answer:?}: {took:?}");
        }
        outage.end(&mut server);
        wait_for_recovery(&pycket);
        assert_eq!(told(&browser.page("/")), outage.leaves());
    });
    assert_eq!(checked, 4);
}

#[test]
fn evicted_session_is_a_missing_one() {
    let memcached = MemcachedServer::start_with(&["-m", "2"]);
    let address = memcached.address();
    let (server, app) = (Server::Memcached(memcached), App::start());
    let pycket = server.before(&app).start();
    let mut browser = logged_in(&pycket, "alice");
    let large = "x".repeat(3000);
    tell(&mut browser, &[&format!("X-Session-Set: large={large}")]);
    assert_eq!(values(&mut browser)["large"], large);

    fill(&address, 2500..3800);
    let response = browser.get("/");
    assert_eq!(told(&response), ("none".to_owned(), json!({}), Value::Null));
    assert_eq!(response.set_cookies(), [""; 0]);
}

/// Stores so many items of each of these sizes that others of such a size have to go.
fn fill(address: &str, sizes: std::ops::Range<usize>) {
    let mut stream = TcpStream::connect(address).expect("memcached listens");
    for size in sizes.step_by(100) {
        let value = "x".repeat(size);
        for number in 0..1500 {
            let set = format!("set filler-{size}-{number} 0 0 {size} noreply\r\n{value}\r\n");
            stream.write_all(set.as_bytes()).expect("memcached reads");
        }
    }
    stream.write_all(b"version\r\n").expect("memcached reads");
    let mut answer = String::new();
    let read = BufReader::new(stream).read_line(&mut answer);
    assert!(read.is_ok() && answer.starts_with("VERSION"), "{answer:?}");
}

//! What passes between the proxy and its store is broken in every way that there is.
//!
//! Whatever it is: an exchange gets its own session or 503, in bounded time. It never gets another
//! one's session, a damaged value, or none.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::{
    App, Engine, MARGIN, STORE_PHRASE, Server, TIMEOUT, all_at_once, assert_rescued, in_time,
    logged_in, tell, timed, told,
};
use crate::fault_proxy::Fault;
use crate::harness::Browser;

/// What a fault does to the exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// They go on as if nothing were.
    None,
    /// Some of them get 503, or all of them.
    Some,
    /// All of them get 503.
    All,
    /// It is chance what the broken byte means.
    Any,
}

/// Each fault with its effect on exchanges by Redis and by memcached.
const FAULTS: [(Fault, Effect, Effect); 21] = [
    (Fault::Pass, Effect::None, Effect::None),
    (Fault::Refuse, Effect::All, Effect::All),
    (Fault::Blackhole, Effect::All, Effect::All),
    (Fault::HalfOpen, Effect::All, Effect::All),
    (
        Fault::Latency(Duration::from_millis(20)),
        Effect::None,
        Effect::None,
    ),
    (
        Fault::Latency(Duration::from_secs(2)),
        Effect::All,
        Effect::All,
    ),
    (
        Fault::Drip(7, Duration::from_millis(1)),
        Effect::None,
        Effect::None,
    ),
    (
        Fault::Drip(1, Duration::from_millis(50)),
        Effect::All,
        Effect::All,
    ),
    (Fault::Cut(0), Effect::All, Effect::All),
    (Fault::Cut(40), Effect::All, Effect::All),
    (Fault::Reset(0), Effect::All, Effect::All),
    (Fault::Reset(40), Effect::All, Effect::All),
    (Fault::Stall(0), Effect::All, Effect::All),
    (Fault::Stall(40), Effect::All, Effect::All),
    (Fault::Garbage, Effect::All, Effect::All),
    (Fault::Flip(0), Effect::Some, Effect::Some),
    (Fault::Flip(3), Effect::Any, Effect::Any),
    (Fault::Flip(30), Effect::Some, Effect::Any),
    (Fault::Flip(100), Effect::Some, Effect::Some),
    (Fault::Dup, Effect::Any, Effect::Any),
    (Fault::Swap, Effect::Any, Effect::All),
];

/// Of each session: half of them read, half of them write.
const EXCHANGES: usize = 20;

/// One load, a commit that is tried all the time, and the try that began last: a write, and two
/// loads to find out what came of it.
const LONGEST: Duration = TIMEOUT
    .saturating_add(Duration::from_secs(1))
    .saturating_add(TIMEOUT)
    .saturating_add(TIMEOUT)
    .saturating_add(TIMEOUT);

/// What one browser knows of its session.
struct Visitor {
    browser: Browser,
    user: &'static str,
    /// The last value of `n` that was stored, and those after it that may have been.
    stored: u64,
    perhaps: Vec<u64>,
}

impl Visitor {
    /// Writes, or only reads. Gives whether it went well.
    fn visit(&mut self, n: u64, writes: bool) -> bool {
        let set = format!("X-Session-Set: {{\"n\": {n}}}");
        let signals: &[&str] = if writes { &[&set] } else { &[] };
        let (response, took) = timed(|| tell(&mut self.browser, signals));
        assert!(took < LONGEST + MARGIN, "{took:?}");
        assert_eq!(response.set_cookies(), [""; 0]);
        if response.status == 503 {
            assert_rescued(&response, 503, STORE_PHRASE);
            self.perhaps.extend(writes.then_some(n));
            return false;
        }
        let (state, session, _) = told(&response);
        assert_eq!(state, "active");
        self.assert_own(&session);
        if writes {
            (self.stored, self.perhaps) = (n, Vec::new());
        }
        true
    }

    fn assert_own(&self, session: &Value) {
        assert_eq!(session["user"], self.user, "{session}");
        let n = session["n"].as_u64().unwrap_or_default();
        let possible = n == self.stored || self.perhaps.contains(&n);
        assert!(possible, "{n} is not {} or {:?}", self.stored, self.perhaps);
    }
}

fn assert_fault_is_withstood(server: &Server, fault: Fault, effect: Effect) {
    let app = App::start();
    let relay = server.relay();
    let pycket = server.behind(&relay, &app).start();
    let mut visitors = ["alice", "bob"].map(|user| Visitor {
        browser: logged_in(&pycket, user),
        user,
        stored: 0,
        perhaps: Vec::new(),
    });
    // Redis learns its script.
    for visitor in &mut visitors {
        assert!(visitor.visit(1, true));
    }

    relay.set(fault);
    if matches!(fault, Fault::Refuse | Fault::HalfOpen) {
        relay.hang_up();
    }
    let went_well: usize = thread::scope(|scope| {
        let run = |visitor: &mut Visitor| {
            (2..)
                .take(EXCHANGES)
                .filter(|&n| visitor.visit(n, n % 2 == 0))
                .count()
        };
        let both = visitors
            .each_mut()
            .map(|visitor| scope.spawn(move || run(visitor)));
        both.map(|one| one.join().expect("what is promised holds"))
            .iter()
            .sum()
    });
    let as_expected = match effect {
        Effect::None => went_well == 2 * EXCHANGES,
        Effect::Some => went_well < 2 * EXCHANGES,
        Effect::All => went_well == 0,
        Effect::Any => true,
    };
    assert!(
        as_expected,
        "{effect:?} of {} fail: {went_well} do not",
        2 * EXCHANGES
    );

    relay.set(Fault::Pass);
    for visitor in &mut visitors {
        in_time("the store is used again", || {
            visitor.visit(50, false).then_some(())
        });
        in_time("the session can be written", || {
            visitor.visit(51, true).then_some(())
        });
        assert!(visitor.visit(52, false));
    }
}

#[test]
fn every_fault_on_the_way_to_redis_is_withstood() {
    let server = Server::start(Engine::Redis);
    let checked = all_at_once(&FAULTS, |&(fault, effect, _)| {
        assert_fault_is_withstood(&server, fault, effect);
    });
    assert_eq!(checked, 21);
}

#[test]
fn every_fault_on_the_way_to_memcached_is_withstood() {
    let server = Server::start(Engine::Memcached);
    let checked = all_at_once(&FAULTS, |&(fault, _, effect)| {
        assert_fault_is_withstood(&server, fault, effect);
    });
    assert_eq!(checked, 21);
}

//! What happens when something breaks: each row of the failure rules, by breaking it.

mod client;
mod reports;
mod store_faults;
mod store_reads;
mod store_writes;
mod upstream;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fault_proxy::FaultProxy;
use crate::harness::{
    Address, AppResponse, Browser, Builder, DEADLINE, Pycket, Response, Upstream,
};
use crate::servers::{MemcachedServer, RedisServer};

const COOKIE: &str = "PYCKET_ID";

/// How long one operation on the store may take in these tests.
const TIMEOUT: Duration = Duration::from_millis(700);

/// What a busy machine may add to a bound in time.
const MARGIN: Duration = Duration::from_secs(3);

/// Settings by which failures show soon, with one worker: each has a breaker of its own.
const SOON: &str = "
    workers = 1
    storage.timeout = '700ms'
    storage.connect_timeout = '700ms'
    storage.breaker_failures = 3
    storage.breaker_retry = '50ms'
    session.commit_timeout = '1s'";

const STORE_PHRASE: &str = "Sessions are not available at the moment.";
const ANSWER_PHRASE: &str = "The application did not answer properly.";

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Redis,
    Memcached,
}

const ENGINES: [Engine; 2] = [Engine::Redis, Engine::Memcached];

/// A store that can be broken.
#[derive(Debug)]
enum Server {
    Redis(RedisServer),
    Memcached(MemcachedServer),
}

impl Server {
    fn start(engine: Engine) -> Self {
        match engine {
            Engine::Redis => Self::Redis(RedisServer::start()),
            Engine::Memcached => Self::Memcached(MemcachedServer::start()),
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Redis(server) => server.kill(),
            Self::Memcached(server) => server.kill(),
        }
    }

    fn restart(&mut self) {
        match self {
            Self::Redis(server) => server.restart(),
            Self::Memcached(server) => server.restart(),
        }
    }

    fn pause(&self) {
        match self {
            Self::Redis(server) => server.pause(),
            Self::Memcached(server) => server.pause(),
        }
    }

    fn resume(&self) {
        match self {
            Self::Redis(server) => server.resume(),
            Self::Memcached(server) => server.resume(),
        }
    }

    fn relay(&self) -> FaultProxy {
        let address = match self {
            Self::Redis(server) => format!("127.0.0.1:{}", server.port()),
            Self::Memcached(server) => server.address(),
        };
        FaultProxy::to(address.parse().expect("it is an address"))
    }

    /// A proxy with its sessions in this store.
    fn before(&self, app: &App) -> Builder {
        let builder = Pycket::with(&app.upstream).config(SOON);
        match self {
            Self::Redis(server) => builder.redis(server),
            Self::Memcached(server) => builder.memcached(server),
        }
    }

    /// A proxy with its sessions in this store, which it reaches by the relay.
    fn behind(&self, relay: &FaultProxy, app: &App) -> Builder {
        let address = relay.address();
        self.before(app).config(&match self {
            Self::Redis(_) => format!("storage.url = 'redis://{address}'"),
            Self::Memcached(_) => format!("storage.servers = ['{address}']"),
        })
    }
}

type Happening = Box<dyn FnOnce() + Send>;

/// An application that answers with the header lines that the `Answer` lines of a request tell, and
/// says in the body what it was told about the session.
struct App {
    upstream: Upstream,
    meanwhile: Arc<Mutex<Option<Happening>>>,
}

impl App {
    fn start() -> Self {
        let meanwhile = Arc::<Mutex<Option<Happening>>>::default();
        let next = Arc::clone(&meanwhile);
        let upstream = Upstream::app(move |request| {
            let happening = next.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(happening) = happening {
                happening();
            }
            let told = json!({
                "state": request.header("X-Session-State"),
                "session": request.session(),
                "notifications": request.notifications(),
            });
            let lines = request.fields.all("Answer");
            let fields = lines.iter().filter_map(|line| line.split_once(": "));
            fields.fold(
                AppResponse::ok(told.to_string()),
                |answer, (name, value)| answer.header(name, value),
            )
        });
        Self {
            upstream,
            meanwhile,
        }
    }

    /// This happens when the next request has reached the application, before it answers.
    fn meanwhile(&self, happening: impl FnOnce() + Send + 'static) {
        let mut next = self
            .meanwhile
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *next = Some(Box::new(happening));
    }
}

/// `POST`; the application answers with these header lines.
fn tell(browser: &mut Browser, answer: &[&str]) -> Response {
    let request = browser.request("POST", "/");
    let request = answer
        .iter()
        .fold(request, |request, line| request.header("Answer", line));
    request.send()
}

/// A browser with a session in which `user` is this.
fn logged_in(pycket: &Pycket, user: &str) -> Browser {
    let mut browser = Browser::at(pycket);
    let login = tell(&mut browser, &[&format!("X-Session-Set: user={user}")]);
    assert_eq!(login.status, 200, "{login:?}");
    assert!(browser.cookie(COOKIE).is_some());
    browser
}

/// What the application was told: the session's state, its values, its notifications.
#[track_caller]
fn told(response: &Response) -> (String, Value, Value) {
    assert_eq!(response.status, 200, "{response:?}");
    let mut told = response.json();
    let state = told["state"].as_str().expect("it always stands").to_owned();
    (state, told["session"].take(), told["notifications"].take())
}

/// The values of the session of this browser.
#[track_caller]
fn values(browser: &mut Browser) -> Value {
    told(&browser.get("/")).1
}

/// Does something, and says how long it took.
fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let outcome = run();
    (outcome, start.elapsed())
}

/// Checks that the client is told a status, a phrase, the request's id and nothing else, and gives
/// the id.
#[track_caller]
fn assert_rescued(response: &Response, status: u16, phrase: &str) -> String {
    assert_eq!(response.status, status, "{response:?}");
    let lines: Vec<&str> = response.text().lines().collect();
    let [first, second, third] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert!(first.starts_with(&status.to_string()), "{lines:?}");
    assert_eq!(*second, phrase);
    let id = third
        .strip_prefix("Request id: ")
        .expect("the id stands last");
    let mut names: Vec<_> = response
        .fields
        .0
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase())
        .filter(|name| status != 503 || name != "retry-after")
        .collect();
    names.sort_unstable();
    let usual = ["cache-control", "content-length", "content-type", "date"];
    assert_eq!(
        names, usual,
        "no cookie, no signal, nothing of the application"
    );
    assert_eq!(response.header("Retry-After").is_some(), status == 503);
    id.to_owned()
}

/// Looks, with a pause after each time, until there is what only time can bring.
#[track_caller]
fn in_time<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    const PAUSE: Duration = Duration::from_millis(10);
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        thread::park_timeout(PAUSE);
    }
}

/// Runs the cases, several at a time, and gives how many held.
fn all_at_once<C: Sync + std::fmt::Debug>(cases: &[C], run: impl Fn(&C) + Sync) -> usize {
    /// More would wait for processors rather than for what they test.
    const MOST: usize = 8;
    let next = AtomicUsize::new(0);
    let (next, run) = (&next, &run);
    let work = move || {
        let mut held = 0;
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = catch_unwind(AssertUnwindSafe(|| run(case)));
            assert!(outcome.is_ok(), "it does not hold for {case:?}");
            held += 1;
        }
        held
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..MOST).map(|_| scope.spawn(work)).collect();
        let held = running.into_iter().map(ScopedJoinHandle::join);
        held.map(|held| held.expect("every case holds")).sum()
    })
}

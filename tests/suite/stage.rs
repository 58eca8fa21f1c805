//! A stage for facts: an application that answers as each request tells it to, the proxy, and one
//! of the stores.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::harness::{AppRequest, AppResponse, Browser, DEADLINE, Pycket, Response, Upstream};
use crate::servers::{MemcachedServer, RedisServer, Reply};

/// The session cookie's name where nothing else is configured.
pub(crate) const COOKIE: &str = "PYCKET_ID";

/// Where the sessions of a stage are.
#[derive(Debug)]
pub(crate) enum Store {
    Memory,
    Redis(RedisServer),
    /// Redis, with the near cache before it.
    Near(RedisServer),
    Memcached(MemcachedServer),
}

/// A proxy between an application and a store.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) pycket: Pycket,
    pub(crate) app: Upstream,
    pub(crate) store: Store,
}

impl Store {
    pub(crate) fn redis() -> Self {
        Self::Redis(RedisServer::start())
    }

    /// One of each kind.
    pub(crate) fn each() -> [Self; 4] {
        [Self::Memory, Self::redis(), Self::near(), Self::memcached()]
    }

    /// Redis with a near cache that is only ever emptied by what Redis tells.
    pub(crate) fn near() -> Self {
        Self::Near(RedisServer::start())
    }

    pub(crate) fn memcached() -> Self {
        Self::Memcached(MemcachedServer::start())
    }

    /// The engine's name in the configuration.
    fn engine(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis(_) => "redis",
            Self::Near(_) => "redis with the near cache",
            Self::Memcached(_) => "memcached",
        }
    }

    /// How many records there are; `None` where only the proxy knows.
    pub(crate) fn records(&self) -> Option<usize> {
        match self {
            Self::Memory => None,
            Self::Redis(server) | Self::Near(server) => {
                usize::try_from(number(server, &["DBSIZE"])).ok()
            }
            Self::Memcached(server) => Some(items(server)),
        }
    }

    /// Checks how many records there are, where somebody besides the proxy knows.
    #[track_caller]
    pub(crate) fn assert_records(&self, count: usize) {
        if let Some(records) = self.records() {
            assert_eq!(records, count, "records in {}", self.engine());
        }
    }
}

/// What Redis answers to a command whose answer is a number.
pub(crate) fn number(server: &RedisServer, command: &[&str]) -> i64 {
    let reply = server.command(command);
    let Reply::Number(number) = reply else {
        panic!("{command:?}: {reply:?}");
    };
    number
}

/// How many items memcached has.
fn items(server: &MemcachedServer) -> usize {
    let mut stream = TcpStream::connect(server.address()).expect("memcached listens");
    stream.write_all(b"stats\r\n").expect("memcached reads");
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let count = lines.find_map(|line| line.strip_prefix("STAT curr_items ")?.parse().ok());
    count.expect("memcached counts its items")
}

/// Settings with which no store counts as down because the machine is busy.
pub(crate) const PATIENCE: &str = "storage.timeout = '10s'\nsession.commit_timeout = '15s'\n";

/// The near cache, without an age that would hide what Redis does not tell.
pub(crate) const NEAR: &str = "cache.enabled = true\ncache.max_staleness = '1h'\n";

impl Stage {
    /// A stage with the application that [`obedient`] is.
    pub(crate) fn on(store: Store, config: &str) -> Self {
        Self::with(store, obedient(), config)
    }

    /// A stage with this application.
    pub(crate) fn with(store: Store, app: Upstream, config: &str) -> Self {
        let builder = Pycket::with(&app);
        let builder = match &store {
            Store::Memory => builder,
            Store::Redis(server) => builder.config(PATIENCE).redis(server),
            Store::Near(server) => builder.config(PATIENCE).config(NEAR).redis(server),
            Store::Memcached(server) => builder.config(PATIENCE).memcached(server),
        }
        .config(config);
        Self {
            pycket: builder.start(),
            app,
            store,
        }
    }

    /// A browser without cookies.
    pub(crate) fn browser(&self) -> Browser {
        Browser::at(&self.pycket)
    }

    /// The last request that reached the application.
    pub(crate) fn last(&self) -> AppRequest {
        let seen = self.app.requests().pop();
        seen.expect("a request has reached the application")
    }

    /// The notifications that reached the application with the last request.
    pub(crate) fn shown(&self) -> Option<Value> {
        self.last().notifications()
    }

    /// What the application sees of this browser's session.
    pub(crate) fn session(&self, browser: &mut Browser) -> Value {
        browser.get("/look");
        self.last().session()
    }

    /// What `X-Session-State` and `X-Session-Id` say of this browser's session.
    pub(crate) fn state(&self, browser: &mut Browser) -> (String, Option<String>) {
        browser.get("/look");
        let seen = self.last();
        let state = seen.header("X-Session-State").expect("it always stands");
        (
            state.to_owned(),
            seen.header("X-Session-Id").map(str::to_owned),
        )
    }

    /// The word of the access log for what the exchange with this path did to the store.
    pub(crate) fn wrote(&self, path: &str) -> String {
        let line = self.pycket.access(|line| line["path"] == path);
        line["wrote"].as_str().expect("it always stands").to_owned()
    }
}

/// Checks the same facts on each engine, all at once.
pub(crate) fn on_each_engine(config: &str, facts: impl Fn(&Stage) + Sync) {
    on_engines(Store::each(), |store| {
        facts(&Stage::on(store, config));
    });
}

/// Checks the same facts with each of these stores, all at once.
pub(crate) fn on_engines<const N: usize>(stores: [Store; N], facts: impl Fn(Store) + Sync) {
    let facts = &facts;
    let mut checked = 0;
    thread::scope(|scope| {
        let running = stores.map(|store| {
            // A panic names its thread.
            let thread = thread::Builder::new().name(store.engine().to_owned());
            thread.spawn_scoped(scope, move || facts(store))
        });
        for running in running {
            running
                .expect("a thread starts")
                .join()
                .expect("the facts hold");
            checked += 1;
        }
    });
    assert_eq!(checked, N, "each engine is checked");
}

/// An application that answers what the request's `Answer` lines say.
pub(crate) fn obedient() -> Upstream {
    Upstream::app(|request| answer(&request.fields.all("Answer")))
}

/// The answer that these lines tell: a status (200 where there is none), and header lines.
pub(crate) fn answer(lines: &[&str]) -> AppResponse {
    let status = lines.iter().find_map(|line| line.parse().ok());
    let fields = lines.iter().filter_map(|line| line.split_once(':'));
    fields.fold(
        AppResponse::status(status.unwrap_or(200)),
        |answer, (name, value)| answer.header(name, value.trim()),
    )
}

/// `POST`; the application answers with these lines.
pub(crate) fn post(browser: &mut Browser, target: &str, answer: &[&str]) -> Response {
    browser
        .request("POST", target)
        .headers("Answer", answer)
        .send()
}

/// `GET` as a browser loads a page; the application answers with these lines.
pub(crate) fn page(browser: &mut Browser, target: &str, answer: &[&str]) -> Response {
    browser
        .request("GET", target)
        .header("Sec-Fetch-Mode", "navigate")
        .header("Sec-Fetch-Dest", "document")
        .headers("Answer", answer)
        .send()
}

/// The session cookie's value.
#[track_caller]
pub(crate) fn cookie(browser: &Browser) -> String {
    browser
        .cookie(COOKIE)
        .expect("the browser has the session cookie")
        .to_owned()
}

/// Looks again and again until there is what only time can bring; gives it, and how long it took.
#[track_caller]
pub(crate) fn in_time<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return (found, start.elapsed());
        }
        assert!(start.elapsed() < DEADLINE, "in vain: {what}");
    }
}

/// The commands about data that Redis was sent since the last time, with their counts; those of
/// scripts count too.
pub(crate) fn commands(server: &RedisServer) -> BTreeMap<String, u64> {
    /// What the tests ask for themselves, and what opening a connection takes.
    const OTHERS: [&str; 9] = [
        "auth", "client", "config", "dbsize", "hello", "info", "keys", "ping", "pttl",
    ];
    let Reply::Text(text) = server.command(&["INFO", "commandstats"]) else {
        panic!("INFO is a text");
    };
    server.command(&["CONFIG", "RESETSTAT"]);
    let text = String::from_utf8(text).expect("INFO is text");
    let count = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let (calls, _) = rest.split_once(',')?;
        let command = name.split('|').next().unwrap_or_default();
        let is_ours = !OTHERS.contains(&command);
        is_ours.then(|| (name.to_owned(), calls.parse().expect("a count")))
    };
    text.lines().filter_map(count).collect()
}

/// The id that a session cookie carries (Tornado's version 2: the last but one of its fields).
pub(crate) fn id_in(cookie: &str) -> String {
    let encoded = cookie
        .rsplit('|')
        .nth(1)
        .and_then(|field| field.split_once(':'));
    let (_, encoded) = encoded.expect("a signed value has six fields");
    let id = STANDARD.decode(encoded).expect("a value is base64");
    String::from_utf8(id).expect("an id is text")
}

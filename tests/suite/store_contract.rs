//! What holds on every engine, shown on the real servers: one list of facts, ten engines.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pycket::config::{
    Engine, Format, NearCache, PythonMemcached, Redis, RedisAddress, RedisTls, Routing, Storage,
};
use pycket::store::{Created, Freshness, Key, Replaced, Shared, Store, StoreError, Version};
use tokio::task::LocalSet;

use crate::servers::{MemcachedServer, RedisCluster, RedisOptions, RedisServer, Reply};

const TTL: Duration = Duration::from_mins(5);
const DAY: Duration = Duration::from_hours(24);

/// Settings under which a test does not wait long for what never comes.
pub(crate) fn storage(engine: Engine) -> Storage {
    Storage {
        engine,
        format: Format::Native,
        key_prefix: String::new(),
        timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        breaker_failures: 5,
        breaker_retry: Duration::from_millis(50),
        fallback: None,
    }
}

pub(crate) fn redis(address: RedisAddress) -> Redis {
    Redis {
        address,
        username: None,
        password: None,
        database: 0,
        tls: None,
        near_cache: None,
    }
}

pub(crate) fn tcp(port: u16) -> RedisAddress {
    RedisAddress::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    }
}

/// So long that what is seen to be new was told by the store.
pub(crate) fn near_cache() -> NearCache {
    NearCache {
        max_bytes: 16 << 20,
        max_staleness: Duration::from_hours(1),
    }
}

pub(crate) fn cluster(cluster: &RedisCluster) -> Engine {
    Engine::Redis(redis(RedisAddress::Cluster {
        seeds: cluster.seeds(),
    }))
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("fact:", name.as_bytes()).expect("names of facts are visible ASCII")
}

pub(crate) async fn stored(store: &Store, key: &Key, bytes: &'static [u8]) -> Version {
    match store.create(key, Bytes::from_static(bytes), TTL).await {
        Ok(Created::Stored(version)) => version,
        other => panic!("not created: {other:?}"),
    }
}

pub(crate) async fn loaded(store: &Store, key: &Key) -> Option<Bytes> {
    let record = store
        .load(key, Freshness::Near)
        .await
        .expect("the store answers");
    record.map(|record| record.bytes)
}

/// The servers that an engine needs; dropping them stops them.
enum Servers {
    None,
    Redis(RedisServer),
    Cluster(RedisCluster),
    Memcached(Vec<MemcachedServer>),
}

struct Subject {
    store: Store,
    servers: Servers,
}

impl Subject {
    async fn memory() -> Self {
        let engine = Engine::Memory {
            max_bytes: 64 << 20,
        };
        Self::over(engine, Servers::None).await
    }

    async fn redis_tcp() -> Self {
        let server = RedisServer::start();
        let engine = Engine::Redis(redis(tcp(server.port())));
        Self::over(engine, Servers::Redis(server)).await
    }

    async fn redis_unix() -> Self {
        let server = RedisServer::start_with(RedisOptions {
            unix_socket: true,
            ..RedisOptions::default()
        });
        let engine = Engine::Redis(redis(RedisAddress::Unix(server.unix_socket())));
        Self::over(engine, Servers::Redis(server)).await
    }

    async fn redis_tls() -> Self {
        let server = RedisServer::start_with(RedisOptions {
            tls: true,
            ..RedisOptions::default()
        });
        let engine = Engine::Redis(Redis {
            tls: Some(RedisTls {
                ca_file: Some(server.ca_file()),
            }),
            ..redis(RedisAddress::Tcp {
                host: "localhost".to_owned(),
                port: server.tls_port(),
            })
        });
        Self::over(engine, Servers::Redis(server)).await
    }

    /// What is loaded comes from the near cache where that will do.
    async fn redis_near_cache() -> Self {
        let server = RedisServer::start();
        let engine = Engine::Redis(Redis {
            near_cache: Some(near_cache()),
            ..redis(tcp(server.port()))
        });
        Self::over(engine, Servers::Redis(server)).await
    }

    /// The same on a cluster, whose nodes each tell of their own.
    async fn redis_cluster_near_cache() -> Self {
        let servers = RedisCluster::start();
        let Engine::Redis(redis) = cluster(&servers) else {
            panic!("it is Redis");
        };
        let engine = Engine::Redis(Redis {
            near_cache: Some(near_cache()),
            ..redis
        });
        Self::over(engine, Servers::Cluster(servers)).await
    }

    async fn redis_cluster() -> Self {
        let servers = RedisCluster::start();
        Self::over(cluster(&servers), Servers::Cluster(servers)).await
    }

    async fn memcached_one() -> Self {
        Self::memcached(1).await
    }

    async fn memcached_three() -> Self {
        Self::memcached(3).await
    }

    async fn memcached_as_python() -> Self {
        let routing = Routing::Python {
            weights: vec![1, 2, 1],
            version: PythonMemcached::HashFromZero,
        };
        Self::memcached_with(3, routing).await
    }

    async fn memcached(count: usize) -> Self {
        Self::memcached_with(count, Routing::Rendezvous).await
    }

    async fn memcached_with(count: usize, routing: Routing) -> Self {
        let servers: Vec<_> = (0..count).map(|_| MemcachedServer::start()).collect();
        let engine = Engine::Memcached {
            servers: servers.iter().map(MemcachedServer::address).collect(),
            routing,
            max_connections: 8,
        };
        Self::over(engine, Servers::Memcached(servers)).await
    }

    async fn over(engine: Engine, servers: Servers) -> Self {
        let storage = storage(engine);
        let shared = Shared::for_storage(&storage);
        let store = Store::connect(&storage, &shared).await;
        Self {
            store: store.expect("the settings are right"),
            servers,
        }
    }

    /// Asserts that a record is there and goes when `ttl` is over, by what the server says itself;
    /// in memory, by moving the clock. The record may be gone afterwards.
    async fn assert_lives(&self, key: &Key, ttl: Duration) {
        let name = std::str::from_utf8(key.as_bytes()).expect("keys are ASCII");
        match &self.servers {
            Servers::None => {
                tokio::time::pause();
                tokio::time::advance(ttl.saturating_sub(Duration::from_secs(1))).await;
                assert!(loaded(&self.store, key).await.is_some());
                tokio::time::advance(Duration::from_secs(1)).await;
                assert_eq!(loaded(&self.store, key).await, None);
                tokio::time::resume();
            }
            Servers::Redis(server) => assert_lives_in_redis(server, name, ttl),
            Servers::Cluster(cluster) => {
                let owner = &cluster.nodes()[cluster.owner(name)];
                assert_lives_in_redis(owner, name, ttl);
            }
            Servers::Memcached(servers) => {
                let answers = servers
                    .iter()
                    .map(|server| server.command(&format!("mg {name} t")));
                let answer = answers.filter(|answer| answer != "EN").collect::<String>();
                let secs = answer.strip_prefix("HD t").expect("one server has it");
                let left = Duration::from_secs(secs.parse().expect("a number"));
                // Whole seconds, rounded up.
                assert!(left <= ttl + Duration::from_secs(2), "{left:?} of {ttl:?}");
                assert!(left + Duration::from_secs(5) > ttl, "{left:?} of {ttl:?}");
            }
        }
    }
}

fn assert_lives_in_redis(server: &RedisServer, name: &str, ttl: Duration) {
    let Reply::Number(millis) = server.command(&["PTTL", name]) else {
        panic!("PTTL is answered with a number");
    };
    let left = Duration::from_millis(u64::try_from(millis).expect("it is there"));
    let passed = ttl.checked_sub(left).expect("no longer than asked for");
    assert!(passed < Duration::from_secs(5), "{left:?} of {ttl:?}");
}

type Fact = fn(Arc<Subject>) -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! facts {
    ($($fact:ident)*) => {
        const FACTS: &[(&str, Fact)] = &[
            $((stringify!($fact), |subject| Box::pin($fact(subject)))),*
        ];
    };
}

facts! {
    created_record_is_loaded_and_is_not_created_again
    replace_acts_only_on_the_version_that_was_loaded
    replace_never_brings_back_what_is_gone
    remove_acts_only_on_the_version_that_was_loaded
    deleting_what_is_absent_is_fine
    touch_prolongs_and_never_brings_back
    touch_keeps_the_version
    version_of_another_key_never_fits
    version_of_a_deleted_record_does_not_fit_its_successor
    every_byte_survives
    large_records_survive
    empty_records_and_lifetimes_of_zero_are_refused
    records_live_as_long_as_asked_for
    dropped_operations_break_nothing
    distrusted_connections_are_replaced
    parallel_increments_are_all_counted
}

/// Checks every fact on an engine and says which ones don't hold.
async fn check(subject: Subject) {
    let subject = Arc::new(subject);
    let mut broken = Vec::new();
    let tasks = LocalSet::new();
    for (name, fact) in FACTS {
        let task = tasks.spawn_local(fact(Arc::clone(&subject)));
        if let Err(error) = tasks.run_until(task).await {
            broken.push((name, error));
        }
    }
    assert!(broken.is_empty(), "these facts don't hold: {broken:#?}");
}

macro_rules! engines {
    ($($engine:ident)*) => {
        const ENGINES: &[&str] = &[$(stringify!($engine)),*];
        $(
            #[tokio::test]
            async fn $engine() {
                check(Subject::$engine().await).await;
            }
        )*
    };
}

engines! {
    memory redis_tcp redis_unix redis_tls redis_near_cache redis_cluster redis_cluster_near_cache
    memcached_one memcached_three memcached_as_python
}

#[test]
fn no_engine_and_no_fact_is_left_out() {
    assert_eq!((ENGINES.len(), FACTS.len()), (10, 16));
}

async fn created_record_is_loaded_and_is_not_created_again(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("create"));
    assert_eq!(loaded(store, &key).await, None);
    stored(store, &key, b"one").await;
    let again = store.create(&key, Bytes::from_static(b"two"), TTL).await;
    assert!(matches!(again, Ok(Created::Exists)));
    assert_eq!(loaded(store, &key).await.as_deref(), Some(&b"one"[..]));
}

async fn replace_acts_only_on_the_version_that_was_loaded(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("replace"));
    let first = stored(store, &key, b"one").await;
    let seen = store
        .load(&key, Freshness::Near)
        .await
        .unwrap()
        .unwrap()
        .version;
    let second = store
        .replace(&key, &seen, Bytes::from_static(b"two"), TTL)
        .await;
    let Ok(Replaced::Stored(second)) = second else {
        panic!("{second:?}");
    };
    for old in [first, seen] {
        let late = store
            .replace(&key, &old, Bytes::from_static(b"late"), TTL)
            .await;
        assert!(matches!(late, Ok(Replaced::Stale)), "{late:?}");
    }
    let third = store
        .replace(&key, &second, Bytes::from_static(b"three"), TTL)
        .await;
    assert!(matches!(third, Ok(Replaced::Stored(_))), "{third:?}");
    assert_eq!(loaded(store, &key).await.as_deref(), Some(&b"three"[..]));
}

async fn replace_never_brings_back_what_is_gone(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("gone"));
    let version = stored(store, &key, b"one").await;
    store.delete(&key).await.unwrap();
    let late = store
        .replace(&key, &version, Bytes::from_static(b"two"), TTL)
        .await;
    assert!(matches!(late, Ok(Replaced::Gone)), "{late:?}");
    assert_eq!(loaded(store, &key).await, None);
}

async fn remove_acts_only_on_the_version_that_was_loaded(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("remove"));
    let first = stored(store, &key, b"one").await;
    let second = store
        .replace(&key, &first, Bytes::from_static(b"two"), TTL)
        .await;
    let Ok(Replaced::Stored(second)) = second else {
        panic!("{second:?}");
    };
    let stale = store.remove(&key, &first).await;
    assert!(matches!(stale, Ok(Replaced::Stale)), "{stale:?}");
    assert!(loaded(store, &key).await.is_some());
    let removed = store.remove(&key, &second).await;
    assert!(matches!(removed, Ok(Replaced::Stored(_))), "{removed:?}");
    assert_eq!(loaded(store, &key).await, None);
    let gone = store.remove(&key, &second).await;
    assert!(matches!(gone, Ok(Replaced::Gone)), "{gone:?}");
}

async fn deleting_what_is_absent_is_fine(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("delete"));
    store.delete(&key).await.unwrap();
    stored(store, &key, b"one").await;
    store.delete(&key).await.unwrap();
    assert_eq!(loaded(store, &key).await, None);
}

async fn touch_prolongs_and_never_brings_back(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("touch"));
    assert!(!store.touch(&key, TTL).await.unwrap());
    assert_eq!(loaded(store, &key).await, None);
    stored(store, &key, b"one").await;
    assert!(store.touch(&key, TTL * 3).await.unwrap());
    subject.assert_lives(&key, TTL * 3).await;
}

async fn touch_keeps_the_version(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("touch-version"));
    let version = stored(store, &key, b"one").await;
    assert!(store.touch(&key, TTL).await.unwrap());
    let next = store
        .replace(&key, &version, Bytes::from_static(b"two"), TTL)
        .await;
    assert!(matches!(next, Ok(Replaced::Stored(_))), "{next:?}");
}

async fn version_of_another_key_never_fits(subject: Arc<Subject>) {
    let store = &subject.store;
    for number in 0..20 {
        let mine = key(&format!("mine-{number}"));
        let theirs = key(&format!("theirs-{number}"));
        stored(store, &mine, b"same").await;
        let version = stored(store, &theirs, b"same").await;
        let wrong = store
            .replace(&mine, &version, Bytes::from_static(b"x"), TTL)
            .await;
        assert!(matches!(wrong, Ok(Replaced::Stale)), "{wrong:?}");
        let wrong = store.remove(&mine, &version).await;
        assert!(matches!(wrong, Ok(Replaced::Stale)), "{wrong:?}");
        assert_eq!(loaded(store, &mine).await.as_deref(), Some(&b"same"[..]));
    }
}

async fn version_of_a_deleted_record_does_not_fit_its_successor(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("successor"));
    let old = stored(store, &key, b"old").await;
    store.delete(&key).await.unwrap();
    stored(store, &key, b"new").await;
    let late = store
        .replace(&key, &old, Bytes::from_static(b"late"), TTL)
        .await;
    assert!(matches!(late, Ok(Replaced::Stale)), "{late:?}");
}

async fn every_byte_survives(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("bytes"));
    let all: Bytes = (0..=255).collect();
    let created = store.create(&key, all.clone(), TTL).await;
    assert!(matches!(created, Ok(Created::Stored(_))));
    let record = store.load(&key, Freshness::Near).await.unwrap().unwrap();
    assert_eq!(record.bytes, all);
    let lines = Bytes::from_static(b"\r\nEN\r\n+OK\r\n$-1\r\n\0");
    let next = store
        .replace(&key, &record.version, lines.clone(), TTL)
        .await;
    assert!(matches!(next, Ok(Replaced::Stored(_))));
    assert_eq!(loaded(store, &key).await, Some(lines));
}

async fn large_records_survive(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("large"));
    let large = Bytes::from(vec![7; 1_000_000]);
    let created = store.create(&key, large.clone(), TTL).await;
    let Ok(Created::Stored(version)) = created else {
        panic!("{created:?}");
    };
    assert_eq!(loaded(store, &key).await, Some(large.clone()));
    let next = store.replace(&key, &version, large, TTL).await;
    assert!(matches!(next, Ok(Replaced::Stored(_))), "{next:?}");
    store.delete(&key).await.unwrap();
}

async fn empty_records_and_lifetimes_of_zero_are_refused(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("zero"));
    let one = Bytes::from_static(b"one");
    let empty = store.create(&key, Bytes::new(), TTL).await;
    assert!(matches!(empty, Err(StoreError::Refused(_))));
    let zero = store.create(&key, one.clone(), Duration::ZERO).await;
    assert!(matches!(zero, Err(StoreError::Refused(_))));
    let version = stored(store, &key, b"one").await;
    let empty = store.replace(&key, &version, Bytes::new(), TTL).await;
    assert!(matches!(empty, Err(StoreError::Refused(_))));
    let zero = store.replace(&key, &version, one, Duration::ZERO).await;
    assert!(matches!(zero, Err(StoreError::Refused(_))));
    let zero = store.touch(&key, Duration::ZERO).await;
    assert!(matches!(zero, Err(StoreError::Refused(_))));
    assert!(loaded(store, &key).await.is_some());
}

async fn records_live_as_long_as_asked_for(subject: Arc<Subject>) {
    let store = &subject.store;
    let lifetimes = [
        Duration::from_millis(4_500),
        TTL,
        DAY * 30,
        DAY * 30 + Duration::from_secs(1),
        DAY * 400,
    ];
    for (number, ttl) in lifetimes.into_iter().enumerate() {
        let (made, changed) = (
            key(&format!("made-{number}")),
            key(&format!("new-{number}")),
        );
        let created = store.create(&made, Bytes::from_static(b"one"), ttl).await;
        assert!(matches!(created, Ok(Created::Stored(_))));
        subject.assert_lives(&made, ttl).await;
        let version = stored(store, &changed, b"one").await;
        let next = store
            .replace(&changed, &version, Bytes::from_static(b"two"), ttl)
            .await;
        assert!(matches!(next, Ok(Replaced::Stored(_))));
        subject.assert_lives(&changed, ttl).await;
    }
}

async fn dropped_operations_break_nothing(subject: Arc<Subject>) {
    let store = &subject.store;
    for number in 0..50 {
        let key = key(&format!("dropped-{number}"));
        stored(store, &key, b"one").await;
        // Polled once, which sends it or a part of it, and then dropped.
        drop(poll_once(store.load(&key, Freshness::Near)).await);
        assert_eq!(loaded(store, &key).await.as_deref(), Some(&b"one"[..]));
    }
}

/// Polls a future a single time.
async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

async fn distrusted_connections_are_replaced(subject: Arc<Subject>) {
    let (store, key) = (&subject.store, key("distrust"));
    stored(store, &key, b"one").await;
    let before = subject.connections();
    store.distrust();
    eventually("the store answers", async || {
        store.load(&key, Freshness::Near).await.is_ok()
    })
    .await;
    assert_eq!(loaded(store, &key).await.as_deref(), Some(&b"one"[..]));
    // Of a cluster's nodes, the others may take a moment longer.
    eventually("no old connection is left", async || {
        let now = subject.connections();
        !now.iter().any(|connection| before.contains(connection))
    })
    .await;
}

#[tokio::test]
async fn another_database_is_another_store() {
    let server = RedisServer::start();
    let storage = storage(Engine::Redis(redis(tcp(server.port()))));
    let first = Store::connect(&storage, &Shared::for_storage(&storage)).await;
    let (first, second) = (
        first.unwrap(),
        Store::connect_database(&storage, 1, &Shared::for_storage(&storage)).await,
    );
    let second = second.unwrap();
    let key = key("both");
    stored(&first, &key, b"session").await;
    let version = stored(&second, &key, b"notification").await;
    assert_eq!(loaded(&first, &key).await.as_deref(), Some(&b"session"[..]));
    let removed = second.remove(&key, &version).await;
    assert!(matches!(removed, Ok(Replaced::Stored(_))), "{removed:?}");
    assert_eq!(loaded(&second, &key).await, None);
    assert!(loaded(&first, &key).await.is_some());
}

#[tokio::test]
async fn other_engines_have_no_databases() {
    let storage = storage(Engine::Memory { max_bytes: 1 << 20 });
    let opened = Store::connect_database(&storage, 1, &Shared::for_storage(&storage)).await;
    assert!(matches!(opened, Err(StoreError::Refused(_))), "{opened:?}");
}

impl Subject {
    /// The connections that Redis has from us, by their ids and, in a cluster, their nodes.
    fn connections(&self) -> Vec<String> {
        let servers = match &self.servers {
            Servers::Redis(server) => std::slice::from_ref(server),
            Servers::Cluster(cluster) => cluster.nodes(),
            Servers::None | Servers::Memcached(_) => &[],
        };
        servers.iter().flat_map(Self::connections_of).collect()
    }

    fn connections_of(server: &RedisServer) -> Vec<String> {
        let Reply::Text(list) = server.command(&["CLIENT", "LIST", "TYPE", "normal"]) else {
            panic!("CLIENT LIST is answered with text");
        };
        let list = String::from_utf8(list).unwrap();
        list.lines()
            .filter(|line| !line.contains("cmd=client"))
            .filter_map(|line| line.split_whitespace().next())
            .map(|id| format!("{id} at {}", server.port()))
            .collect()
    }
}

/// Waits for what happens in the background and tells nobody.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let patience = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), patience).await;
    assert!(outcome.is_ok(), "it never happens that {what}");
}

async fn parallel_increments_are_all_counted(subject: Arc<Subject>) {
    let key = key("count");
    stored(&subject.store, &key, b"0").await;
    let increments: Vec<_> = (0..200)
        .map(|_| tokio::task::spawn_local(increment(subject.store.clone(), key.clone())))
        .collect();
    for increment in increments {
        increment.await.expect("no increment fails");
    }
    assert_eq!(
        loaded(&subject.store, &key).await.as_deref(),
        Some(&b"200"[..])
    );
}

async fn increment(store: Store, key: Key) {
    loop {
        let record = store
            .load(&key, Freshness::Near)
            .await
            .unwrap()
            .expect("nobody deletes it");
        let count: u32 = std::str::from_utf8(&record.bytes).unwrap().parse().unwrap();
        let next = Bytes::from((count + 1).to_string());
        match store.replace(&key, &record.version, next, TTL).await {
            Ok(Replaced::Stored(_)) => return,
            Ok(Replaced::Stale) => {}
            other => panic!("{other:?}"),
        }
    }
}

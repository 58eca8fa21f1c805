//! What the store says when its servers are down, still, full, or not what they should be.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use pycket::config::{Engine, Redis, RedisTls, Routing, Secret, Storage};
use pycket::store::{Created, Freshness, Key, Replaced, Shared, Store, StoreError};
use tokio::task::spawn_blocking;

use crate::fault_proxy::{Fault, FaultProxy};
use crate::harness::Address as _;
use crate::servers::{MemcachedServer, RedisOptions, RedisServer, Reply};
use crate::store_contract::{eventually, key, loaded, redis, storage, stored, tcp};

const TTL: Duration = Duration::from_mins(5);
const TIMEOUT: Duration = Duration::from_millis(300);
const FAILURES: u32 = 3;

async fn open(engine: Engine) -> Store {
    open_for(engine, TIMEOUT).await
}

async fn open_for(engine: Engine, timeout: Duration) -> Store {
    let storage = Storage {
        timeout,
        breaker_failures: FAILURES,
        ..storage(engine)
    };
    let shared = Shared::for_storage(&storage);
    let store = Store::connect(&storage, &shared).await;
    store.expect("the settings are right")
}

async fn open_redis(server: &RedisServer) -> Store {
    open(Engine::Redis(redis(tcp(server.port())))).await
}

async fn open_memcached(server: &MemcachedServer) -> Store {
    open(memcached(vec![server.address()])).await
}

fn memcached(servers: Vec<String>) -> Engine {
    Engine::Memcached {
        servers,
        routing: Routing::Rendezvous,
        max_connections: 4,
    }
}

/// What happens when the server stands still; the same for both.
async fn assert_paused_server_is_handled(store: Store, pause: impl Fn(), resume: impl Fn()) {
    let key = key("paused");
    let version = stored(&store, &key, b"zero").await;
    // Redis has learnt the script after that, so the next write is one message.
    let next = store
        .replace(&key, &version, Bytes::from_static(b"one"), TTL)
        .await;
    let Ok(Replaced::Stored(version)) = next else {
        panic!("{next:?}");
    };
    pause();

    let start = Instant::now();
    let write = store
        .replace(&key, &version, Bytes::from_static(b"two"), TTL)
        .await;
    assert!(matches!(write, Err(StoreError::Ambiguous(_))), "{write:?}");
    let read = store.load(&key, Freshness::Near).await;
    assert!(matches!(read, Err(StoreError::TimedOut)), "{read:?}");
    let touch = store.touch(&key, TTL).await;
    assert!(matches!(touch, Err(StoreError::Ambiguous(_))), "{touch:?}");
    let waited = start.elapsed();
    assert!(waited >= TIMEOUT * FAILURES, "{waited:?}");

    let start = Instant::now();
    for _ in 0..100 {
        let known = store.load(&key, Freshness::Near).await;
        assert!(
            matches!(known, Err(StoreError::Unavailable(_))),
            "{known:?}"
        );
    }
    assert!(start.elapsed() < TIMEOUT, "the breaker is open");

    resume();
    eventually("the store answers", async || {
        store.load(&key, Freshness::Near).await.is_ok()
    })
    .await;
    // It was sent, so it happens when the server goes on.
    eventually("the write happens", async || {
        loaded(&store, &key).await.as_deref() == Some(b"two")
    })
    .await;
}

#[tokio::test]
async fn paused_redis_makes_writes_ambiguous_and_opens_the_breaker() {
    let server = RedisServer::start();
    let store = open_redis(&server).await;
    assert_paused_server_is_handled(store, || server.pause(), || server.resume()).await;
}

#[tokio::test]
async fn paused_memcached_makes_writes_ambiguous_and_opens_the_breaker() {
    let server = MemcachedServer::start();
    let store = open_memcached(&server).await;
    assert_paused_server_is_handled(store, || server.pause(), || server.resume()).await;
}

#[tokio::test]
async fn redis_that_comes_back_is_used_again() {
    let mut server = RedisServer::start();
    let store = open_redis(&server).await;
    let version = stored(&store, &key("back"), b"one").await;
    server.kill();
    eventually("the store is down", async || {
        matches!(
            store.load(&key("back"), Freshness::Near).await,
            Err(StoreError::Unavailable(_))
        )
    })
    .await;
    let write = store
        .create(&key("down"), Bytes::from_static(b"x"), TTL)
        .await;
    assert!(
        matches!(write, Err(StoreError::Unavailable(_))),
        "{write:?}"
    );

    server.restart();
    eventually("the store answers", async || store.ping().await.is_ok()).await;
    assert_eq!(loaded(&store, &key("down")).await, None);
    // The script is forgotten too.
    let gone = store
        .replace(&key("back"), &version, Bytes::from_static(b"x"), TTL)
        .await;
    assert!(matches!(gone, Ok(Replaced::Gone)), "{gone:?}");
}

#[tokio::test]
async fn memcached_that_comes_back_is_used_again() {
    let mut server = MemcachedServer::start();
    let store = open_memcached(&server).await;
    stored(&store, &key("back"), b"one").await;
    server.kill();
    for _ in 0..=FAILURES {
        let down = store.load(&key("back"), Freshness::Near).await;
        assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
    }
    server.restart();
    eventually("the store answers", async || store.ping().await.is_ok()).await;
    assert_eq!(loaded(&store, &key("back")).await, None);
}

#[tokio::test]
async fn one_dead_memcached_does_not_take_the_others_with_it() {
    let mut servers = [MemcachedServer::start(), MemcachedServer::start()];
    let addresses = servers.iter().map(MemcachedServer::address).collect();
    let store = open(memcached(addresses)).await;
    let keys: Vec<_> = (0..40)
        .map(|number| key(&format!("fleet-{number}")))
        .collect();
    for key in &keys {
        stored(&store, key, b"one").await;
    }
    servers[0].kill();
    let mut lost = 0;
    for key in keys.iter().chain(&keys) {
        match store.load(key, Freshness::Near).await {
            Ok(Some(_)) => {}
            Err(StoreError::Unavailable(_)) => lost += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        (1..80).contains(&lost),
        "both servers have keys: {lost} lost"
    );
    store.ping().await.expect("one server answers");
}

/// A store on memcached with so many records of 100 bytes, each another one, and a relay before it.
/// It waits long, so that only what is meant to fail does.
async fn behind_relay(server: &MemcachedServer, records: u8) -> (Store, FaultProxy, Vec<Key>) {
    let relay = FaultProxy::to(server.address().parse().expect("it is an address"));
    let engine = memcached(vec![relay.address().to_string()]);
    let store = open_for(engine, Duration::from_secs(10)).await;
    let mut keys = Vec::new();
    for number in 0..records {
        let key = key(&format!("together-{number}"));
        let created = store
            .create(&key, Bytes::from(vec![number; 100]), TTL)
            .await;
        assert!(matches!(created, Ok(Created::Stored(_))), "{created:?}");
        keys.push(key);
    }
    (store, relay, keys)
}

#[tokio::test]
async fn loads_of_one_turn_are_one_message_to_memcached_and_each_has_its_own_answer() {
    let server = MemcachedServer::start();
    let (store, relay, mut keys) = behind_relay(&server, 20).await;
    keys.insert(10, key("absent"));
    relay.set(Fault::Pass);
    let read = join_all(keys.iter().map(|key| store.load(key, Freshness::Near))).await;
    // The driver numbers the keys of a message.
    relay.wait_for(" O20\r\n");

    for (key, record) in keys.iter().zip(read) {
        let Some(record) = record.expect("the store answers") else {
            assert_eq!(*key, keys[10]);
            continue;
        };
        let new = record.bytes.slice(..50);
        let next = store.replace(key, &record.version, new.clone(), TTL).await;
        assert!(matches!(next, Ok(Replaced::Stored(_))), "{next:?}");
        assert_eq!(loaded(&store, key).await, Some(new));
    }
    let own = join_all(keys.iter().map(|key| loaded(&store, key))).await;
    let bytes = own.iter().flatten().map(|bytes| bytes[0]);
    assert!(bytes.eq(0..20), "none has another one's");
}

#[tokio::test]
async fn memcached_connection_that_breaks_within_an_answer_fails_what_is_behind_it_and_counts_once()
{
    let server = MemcachedServer::start();
    let (store, relay, keys) = behind_relay(&server, 20).await;
    for (fault, answered) in [
        (Fault::Cut(1000), 5..10),
        (Fault::Cut(0), 0..1),
        // It may overtake what was sent before it.
        (Fault::Reset(1000), 0..10),
    ] {
        relay.once(fault);
        let read = join_all(keys.iter().map(|key| store.load(key, Freshness::Near))).await;
        let good = read.iter().take_while(|record| record.is_ok()).count();
        assert!(answered.contains(&good), "{good}");
        for (number, record) in (0..).zip(&read) {
            match record {
                Ok(record) => assert_eq!(record.as_ref().unwrap().bytes[..], [number; 100]),
                Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}"),
            }
        }
        // The breaker would be open after three failures.
        let again = join_all(keys.iter().map(|key| store.load(key, Freshness::Near))).await;
        assert!(again.iter().all(Result::is_ok), "{again:?}");
    }
}

#[tokio::test]
async fn load_that_goes_away_after_it_was_sent_leaves_the_others_their_answers() {
    let server = MemcachedServer::start();
    let (store, relay, keys) = behind_relay(&server, 3).await;
    relay.set(Fault::Latency(Duration::from_millis(50)));
    let mut loads: Vec<_> = keys
        .iter()
        .map(|key| Box::pin(store.load(key, Freshness::Near)))
        .collect();
    for load in &mut loads {
        assert!(load.as_mut().now_or_never().is_none());
    }
    let sent = spawn_blocking(move || {
        relay.wait_for(" O2\r\n");
        relay
    });
    let _relay = sent.await.expect("they are sent");
    drop(loads.remove(1));
    let read = join_all(loads).await;
    let bytes = read
        .into_iter()
        .map(|record| record.unwrap().unwrap().bytes[0]);
    assert!(bytes.eq([0, 2]));
}

#[tokio::test]
async fn silence_that_many_loads_have_waited_for_opens_the_breaker_at_once() {
    let server = MemcachedServer::start();
    let (_patient, relay, keys) = behind_relay(&server, 3).await;
    let store = open(memcached(vec![relay.address().to_string()])).await;
    relay.set(Fault::Stall(150));
    let start = Instant::now();
    let read = join_all(keys.iter().map(|key| store.load(key, Freshness::Near))).await;
    let silent = |record: &Result<_, _>| matches!(record, Err(StoreError::TimedOut));
    assert!(read.iter().all(silent), "{read:?}");
    assert!(start.elapsed() < TIMEOUT * 3, "they wait together");
    let known = store.load(&keys[0], Freshness::Near).await;
    assert!(
        matches!(known, Err(StoreError::Unavailable(_))),
        "{known:?}"
    );
}

/// 300 loads that waited for one another would take half a minute.
#[tokio::test]
async fn a_slow_store_costs_time_and_not_throughput() {
    const LATE: Duration = Duration::from_millis(100);
    let (redis_server, memcached_server) = (RedisServer::start(), MemcachedServer::start());
    let relays = [
        FaultProxy::to(([127, 0, 0, 1], redis_server.port()).into()),
        FaultProxy::to(
            memcached_server
                .address()
                .parse()
                .expect("it is an address"),
        ),
    ];
    let engines = [
        Engine::Redis(redis(tcp(relays[0].address().port()))),
        memcached(vec![relays[1].address().to_string()]),
    ];
    for (engine, relay) in engines.into_iter().zip(&relays) {
        let storage = storage(engine);
        let shared = Shared::for_storage(&storage);
        let store = Store::connect(&storage, &shared).await;
        let store = store.expect("the settings are right");
        let keys: Vec<Key> = (0..300).map(|n| key(&format!("slow{n}"))).collect();
        for key in &keys {
            stored(&store, key, b"x").await;
        }
        relay.set(Fault::Latency(LATE));
        let start = Instant::now();
        let read = join_all(keys.iter().map(|key| loaded(&store, key))).await;
        let took = start.elapsed();
        assert!(read.iter().all(Option::is_some));
        assert!(took >= LATE, "{took:?}");
        assert!(took < LATE * 30, "{took:?}");
    }
}

#[tokio::test]
async fn store_that_is_down_at_the_start_does_not_stop_the_proxy() {
    let mut server = RedisServer::start();
    server.kill();
    let store = open_redis(&server).await;
    let down = store.load(&key("start"), Freshness::Near).await;
    assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
    server.restart();
    eventually("the store answers", async || store.ping().await.is_ok()).await;
}

#[tokio::test]
async fn name_that_does_not_resolve_is_a_store_that_is_down() {
    // RFC 6761 section 6.4: names under "invalid" never resolve.
    let store = open(memcached(vec!["memcached.invalid:11211".to_owned()])).await;
    let down = store.load(&key("name"), Freshness::Near).await;
    assert!(
        matches!(down, Err(StoreError::Unavailable(_) | StoreError::TimedOut)),
        "{down:?}"
    );
}

#[tokio::test]
async fn full_redis_refuses_writes_and_keeps_what_it_has() {
    let server = RedisServer::start();
    let store = open_redis(&server).await;
    let version = stored(&store, &key("full"), b"one").await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = store
        .create(&key("more"), Bytes::from_static(b"x"), TTL)
        .await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    for _ in 0..=FAILURES {
        let refused = store
            .replace(&key("full"), &version, Bytes::from_static(b"x"), TTL)
            .await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
    }
    let kept = loaded(&store, &key("full")).await;
    assert_eq!(
        kept.as_deref(),
        Some(&b"one"[..]),
        "a refusal opens no breaker"
    );
    let removed = store.remove(&key("full"), &version).await;
    assert!(matches!(removed, Ok(Replaced::Stored(_))), "{removed:?}");
}

#[tokio::test]
async fn forgotten_script_is_sent_again() {
    let server = RedisServer::start();
    let store = open_redis(&server).await;
    let mut version = stored(&store, &key("script"), b"one").await;
    for bytes in [&b"two"[..], b"three"] {
        server.command(&["SCRIPT", "FLUSH"]);
        let next = store
            .replace(&key("script"), &version, Bytes::from_static(bytes), TTL)
            .await;
        let Ok(Replaced::Stored(next)) = next else {
            panic!("{next:?}");
        };
        version = next;
    }
}

#[tokio::test]
async fn key_of_another_type_is_corrupt() {
    let server = RedisServer::start();
    let store = open_redis(&server).await;
    let version = stored(&store, &key("list"), b"one").await;
    server.command(&["DEL", "fact:list"]);
    server.command(&["LPUSH", "fact:list", "x"]);
    let read = store.load(&key("list"), Freshness::Near).await;
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    let write = store
        .replace(&key("list"), &version, Bytes::from_static(b"x"), TTL)
        .await;
    assert!(matches!(write, Err(StoreError::Corrupt(_))), "{write:?}");
}

fn protected() -> RedisServer {
    RedisServer::start_with(RedisOptions {
        password: Some("for everybody".to_owned()),
        user: Some(("proxy".to_owned(), "for proxies".to_owned())),
        ..RedisOptions::default()
    })
}

fn as_user(server: &RedisServer, password: &str) -> Redis {
    Redis {
        username: Some("proxy".to_owned()),
        password: Some(Secret::new(password.to_owned())),
        database: 3,
        ..redis(tcp(server.port()))
    }
}

#[tokio::test]
async fn redis_user_password_and_database_are_used() {
    let server = protected();
    let store = open(Engine::Redis(as_user(&server, "for proxies"))).await;
    stored(&store, &key("acl"), b"one").await;
    let Reply::Text(keyspace) = server.command(&["INFO", "keyspace"]) else {
        panic!("INFO is answered with text");
    };
    let keyspace = String::from_utf8(keyspace).unwrap();
    assert!(keyspace.contains("db3:keys=1"), "{keyspace}");
}

#[tokio::test]
async fn wrong_password_is_a_store_that_is_down() {
    let server = protected();
    let store = open(Engine::Redis(as_user(&server, "wrong"))).await;
    let down = store.load(&key("acl"), Freshness::Near).await;
    assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
}

#[tokio::test]
async fn certificate_of_a_stranger_is_not_accepted() {
    let options = RedisOptions {
        tls: true,
        ..RedisOptions::default()
    };
    let (server, stranger) = (
        RedisServer::start_with(options.clone()),
        RedisServer::start_with(options),
    );
    let store = open(Engine::Redis(Redis {
        tls: Some(RedisTls {
            ca_file: Some(stranger.ca_file()),
        }),
        ..redis(tcp(server.tls_port()))
    }))
    .await;
    let down = store.load(&key("tls"), Freshness::Near).await;
    assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
}

#[tokio::test]
async fn unreadable_ca_file_is_reported_at_the_start() {
    let storage = storage(Engine::Redis(Redis {
        tls: Some(RedisTls {
            ca_file: Some("no-such-file.pem".into()),
        }),
        ..redis(tcp(1))
    }));
    let shared = Shared::for_storage(&storage);
    let error = Store::connect(&storage, &shared).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn evicted_records_are_absent() {
    let server = MemcachedServer::start_with(&["-m", "4"]);
    let store = open_memcached(&server).await;
    stored(&store, &key("first"), b"one").await;
    let block = Bytes::from(vec![7; 100_000]);
    let mut evicted = 0;
    for number in 0..200 {
        let key = key(&format!("block-{number}"));
        let created = store.create(&key, block.clone(), TTL).await;
        assert!(matches!(created, Ok(Created::Stored(_))), "{created:?}");
    }
    for number in 0..200 {
        let block = loaded(&store, &key(&format!("block-{number}"))).await;
        evicted += u32::from(block.is_none());
    }
    assert!((100..200).contains(&evicted), "{evicted}");
}

#[tokio::test]
async fn memcached_is_not_asked_to_take_what_is_too_large() {
    let server = MemcachedServer::start();
    let store = open_memcached(&server).await;
    let version = stored(&store, &key("large"), b"one").await;
    let large = Bytes::from(vec![7; 1024 * 1024]);
    let refused = store.replace(&key("large"), &version, large, TTL).await;
    let Err(StoreError::TooLarge { size, limit }) = refused else {
        panic!("{refused:?}");
    };
    assert!(limit < size);
    let kept = loaded(&store, &key("large")).await;
    assert_eq!(kept.as_deref(), Some(&b"one"[..]));

    let largest = Bytes::from(vec![7; limit]);
    let next = store
        .replace(&key("large"), &version, largest.clone(), TTL)
        .await;
    assert!(matches!(next, Ok(Replaced::Stored(_))), "{next:?}");
    assert_eq!(loaded(&store, &key("large")).await, Some(largest));
}

#[tokio::test]
async fn memcached_of_small_items_says_too_large() {
    let server = MemcachedServer::start_with(&["-I", "64k", "-o", "slab_chunk_max=32768"]);
    let store = open_memcached(&server).await;
    let bytes = Bytes::from(vec![7; 100_000]);
    for _ in 0..=FAILURES {
        let refused = store.create(&key("small"), bytes.clone(), TTL).await;
        assert!(
            matches!(refused, Err(StoreError::TooLarge { size: 100_000, .. })),
            "{refused:?}"
        );
    }
    assert_eq!(loaded(&store, &key("small")).await, None);
}

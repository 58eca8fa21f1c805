//! The near cache: what it saves, and that it is kept true by the store, whatever happens on the way.
//!
//! The facts of `store_contract.rs`, and of all that is staged, hold with it, too. A model of it under
//! all orders of events is beside its code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pycket::config::{Engine, NearCache, Redis, RedisAddress, Secret, Storage};
use pycket::store::{Freshness, Key, Replaced, Shared, Store};
use serde_json::json;

use crate::fault_proxy::{Fault, FaultProxy};
use crate::harness::{Address, Browser, DEADLINE, Pycket};
use crate::servers::{RedisCluster, RedisOptions, RedisServer, Reply};
use crate::stage::{Stage, Store as Place, commands, in_time, page, post};
use crate::store_contract::{cluster, eventually, key, near_cache, redis, storage, stored, tcp};

const TTL: Duration = Duration::from_mins(5);

fn cached(address: RedisAddress, near_cache: NearCache) -> Storage {
    let engine = Engine::Redis(Redis {
        near_cache: Some(near_cache),
        ..redis(address)
    });
    storage(engine)
}

/// The workers of one proxy.
struct Proxy {
    workers: Vec<Store>,
}

impl Proxy {
    async fn with(storage: &Storage, workers: usize) -> Self {
        let shared = Shared::for_storage(storage);
        let mut proxy = Self {
            workers: Vec::new(),
        };
        for _ in 0..workers {
            let store = Store::connect(storage, &shared).await;
            proxy.workers.push(store.expect("the settings are right"));
        }
        proxy
    }

    async fn of(server: &RedisServer) -> Self {
        Self::with(&cached(tcp(server.port()), near_cache()), 1).await
    }

    fn store(&self) -> &Store {
        &self.workers[0]
    }
}

async fn look(store: &Store, key: &Key) -> Option<Bytes> {
    let record = store.load(key, Freshness::Near).await;
    record
        .expect("the store answers")
        .map(|record| record.bytes)
}

/// How often Redis was asked for a record since the last time.
fn loads(server: &RedisServer) -> u64 {
    let commands = commands(server);
    let count = |name| commands.get(name).copied().unwrap_or_default();
    count("get") + count("mget")
}

/// Waits until what is under `key` comes from the near cache: the store has to agree first.
async fn kept(store: &Store, key: &Key, server: &RedisServer) {
    eventually("the record is near", async || {
        look(store, key).await;
        loads(server);
        look(store, key).await;
        loads(server) == 0
    })
    .await;
}

fn name(key: &Key) -> &str {
    std::str::from_utf8(key.as_bytes()).expect("keys are ASCII")
}

#[tokio::test]
async fn what_was_read_is_not_asked_for_again_by_any_worker() {
    let server = RedisServer::start();
    let proxy = Proxy::with(&cached(tcp(server.port()), near_cache()), 2).await;
    let (there, absent) = (key("there"), key("absent"));
    stored(proxy.store(), &there, b"one").await;
    kept(proxy.store(), &there, &server).await;
    kept(proxy.store(), &absent, &server).await;
    for _ in 0..1000 {
        for worker in &proxy.workers {
            assert_eq!(look(worker, &there).await.as_deref(), Some(&b"one"[..]));
            assert_eq!(look(worker, &absent).await, None);
        }
    }
    assert_eq!(loads(&server), 0);
    let strict = proxy.store().load(&there, Freshness::Fresh).await;
    assert!(strict.expect("the store answers").is_some());
    assert_eq!(loads(&server), 1);
}

#[tokio::test]
async fn a_write_is_seen_by_the_next_load_of_any_worker() {
    let server = RedisServer::start();
    let proxy = Proxy::with(&cached(tcp(server.port()), near_cache()), 2).await;
    let key = key("count");
    let mut version = stored(proxy.store(), &key, b"0").await;
    for number in 1..200_usize {
        let (writer, reader) = (number % 2, (number / 2) % 2);
        look(&proxy.workers[1 - reader], &key).await;
        let bytes = Bytes::from(number.to_string());
        let written = proxy.workers[writer]
            .replace(&key, &version, bytes.clone(), TTL)
            .await;
        let Ok(Replaced::Stored(next)) = written else {
            panic!("{written:?}");
        };
        assert_eq!(look(&proxy.workers[reader], &key).await, Some(bytes));
        version = next;
    }
    let deleted = proxy.workers[0].delete(&key).await;
    deleted.expect("the store answers");
    assert_eq!(look(&proxy.workers[1], &key).await, None);
}

#[tokio::test]
async fn what_others_change_is_told() {
    let server = RedisServer::start();
    let (one, other) = (Proxy::of(&server).await, Proxy::of(&server).await);
    let key = key("shared");
    let version = stored(one.store(), &key, b"old").await;
    kept(one.store(), &key, &server).await;
    kept(other.store(), &key, &server).await;
    let new = Bytes::from_static(b"new");
    let written = other
        .store()
        .replace(&key, &version, new.clone(), TTL)
        .await;
    assert!(matches!(written, Ok(Replaced::Stored(_))), "{written:?}");
    eventually("the change is told", async || {
        look(one.store(), &key).await.as_ref() == Some(&new)
    })
    .await;

    kept(one.store(), &key, &server).await;
    server.command(&["DEL", name(&key)]);
    eventually("the end is told", async || {
        look(one.store(), &key).await.is_none()
    })
    .await;

    kept(one.store(), &key, &server).await;
    server.set(0, name(&key), b"back");
    eventually("absence ends, too", async || {
        look(one.store(), &key).await.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_lost_connection_empties_it() {
    let server = RedisServer::start();
    let proxy = Proxy::of(&server).await;
    let key = key("lost");
    stored(proxy.store(), &key, b"old").await;
    kept(proxy.store(), &key, &server).await;
    for count in 0..3 {
        let value = format!("new {count}");
        server.command(&["CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES"]);
        server.set(0, name(&key), value.as_bytes());
        eventually("the new value is seen", async || {
            let loaded = proxy.store().load(&key, Freshness::Near).await;
            let record = loaded.ok().flatten();
            record.is_some_and(|record| record.bytes == value)
        })
        .await;
        kept(proxy.store(), &key, &server).await;
    }
}

#[tokio::test]
async fn a_redis_that_starts_again_empty_is_empty_for_all() {
    let mut server = RedisServer::start();
    let proxy = Proxy::of(&server).await;
    let key = key("restart");
    stored(proxy.store(), &key, b"old").await;
    kept(proxy.store(), &key, &server).await;
    server.restart();
    eventually("it is gone", async || {
        let loaded = proxy.store().load(&key, Freshness::Near).await;
        matches!(loaded, Ok(None))
    })
    .await;
    server.set(0, name(&key), b"new");
    kept(proxy.store(), &key, &server).await;
}

/// `FLUSHALL` is told in a way that the driver does not hand out, and a connection that is silent tells
/// nothing.
#[tokio::test]
async fn nothing_is_older_than_it_may_be_whatever_is_lost() {
    let server = RedisServer::start();
    let relay = FaultProxy::to(([127, 0, 0, 1], server.port()).into());
    let max_staleness = Duration::from_millis(400);
    let near_cache = NearCache {
        max_staleness,
        ..near_cache()
    };
    let storage = Storage {
        timeout: Duration::from_millis(100),
        ..cached(tcp(relay.address().port()), near_cache)
    };
    let proxy = Proxy::with(&storage, 1).await;
    let key = key("aged");
    for stalls in [false, true] {
        server.set(0, name(&key), b"old");
        eventually("the record is near", async || {
            look(proxy.store(), &key).await;
            loads(&server);
            look(proxy.store(), &key).await.is_some() && loads(&server) == 0
        })
        .await;
        if stalls {
            relay.set(Fault::Stall(0));
            server.command(&["DEL", name(&key)]);
        } else {
            server.command(&["FLUSHALL"]);
        }
        let changed = Instant::now();
        let mut was_old = false;
        loop {
            let begun = changed.elapsed();
            let loaded = proxy.store().load(&key, Freshness::Near).await;
            match loaded {
                Ok(Some(_)) => {
                    was_old = true;
                    assert!(begun < max_staleness, "{begun:?}");
                    tokio::task::yield_now().await;
                }
                // Redis does not answer any more.
                Ok(None) | Err(_) => break,
            }
        }
        assert!(was_old, "the cache was asked at all");
    }
}

#[tokio::test]
async fn a_redis_that_tells_nothing_is_asked_each_time() {
    let server = RedisServer::start();
    let rules = ["on", ">pass", "~*", "&*", "+@all", "-client|tracking"];
    let rules: Vec<&str> = ["ACL", "SETUSER", "quiet"]
        .into_iter()
        .chain(rules)
        .collect();
    assert_eq!(server.command(&rules), Reply::Text(b"OK".to_vec()));
    let engine = Engine::Redis(Redis {
        username: Some("quiet".to_owned()),
        password: Some(Secret::new("pass".to_owned())),
        near_cache: Some(near_cache()),
        ..redis(tcp(server.port()))
    });
    let proxy = Proxy::with(&storage(engine), 1).await;
    let key = key("quiet");
    stored(proxy.store(), &key, b"one").await;
    for value in ["one", "two", "three"] {
        server.set(0, name(&key), value.as_bytes());
        let seen = look(proxy.store(), &key).await;
        assert_eq!(seen.as_deref(), Some(value.as_bytes()));
    }
}

#[tokio::test]
async fn each_node_of_a_cluster_tells_of_its_own_also_after_a_slot_has_moved() {
    let mut servers = RedisCluster::start();
    let Engine::Redis(redis) = cluster(&servers) else {
        panic!("it is Redis");
    };
    let storage = storage(Engine::Redis(Redis {
        near_cache: Some(near_cache()),
        ..redis
    }));
    let (one, other) = (
        Proxy::with(&storage, 1).await,
        Proxy::with(&storage, 1).await,
    );
    let keys: Vec<String> = (0..3).map(|node| servers.key_of(node, "near:")).collect();
    for (node, text) in keys.iter().enumerate() {
        let key = Key::new("", text.as_bytes()).expect("it is visible ASCII");
        stored(one.store(), &key, b"old").await;
        kept(one.store(), &key, &servers.nodes()[node]).await;
        assert_told(&one, &other, &key).await;
    }
    let moved = Key::new("", keys[0].as_bytes()).expect("it is visible ASCII");
    kept(one.store(), &moved, &servers.nodes()[0]).await;
    servers.begin_move(&keys[0], 0, 2);
    servers.move_key(&keys[0], 0, 2);
    servers.end_move(&keys[0], 0, 2);
    assert_told(&one, &other, &moved).await;
    kept(one.store(), &moved, &servers.nodes()[2]).await;
    assert_told(&one, &other, &moved).await;
    // One node that is gone takes along what all have said.
    servers.kill(1);
    eventually("it is not believed any more", async || {
        let lost = Key::new("", keys[1].as_bytes()).expect("it is visible ASCII");
        one.store().load(&lost, Freshness::Near).await.is_err()
    })
    .await;
}

/// Changes a record by one proxy and waits until the other sees it.
async fn assert_told(one: &Proxy, other: &Proxy, key: &Key) {
    let found = other.store().load(key, Freshness::Fresh).await;
    let record = found.expect("the store answers").expect("it is there");
    let new = Bytes::from([&record.bytes[..], b"+"].concat());
    let written = other
        .store()
        .replace(key, &record.version, new.clone(), TTL)
        .await;
    assert!(matches!(written, Ok(Replaced::Stored(_))), "{written:?}");
    eventually("the change is told", async || {
        look(one.store(), key).await.as_ref() == Some(&new)
    })
    .await;
}

#[test]
fn a_redis_that_is_too_old_is_told_so() {
    let server = RedisServer::start_with(RedisOptions {
        arguments: ["--rename-command", "HELLO", ""]
            .map(str::to_owned)
            .to_vec(),
        ..RedisOptions::default()
    });
    let stage = Stage::on(Place::Near(server), "");
    stage.pycket.says("[cache] needs Redis 6 or later");
}

/// Two proxies of two workers count on six keys while their connections are cut all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_writes_are_seen_and_all_agree_in_the_end_while_connections_break() {
    const KEYS: usize = 6;
    const ROUNDS: usize = 150;
    let server = Arc::new(RedisServer::start());
    let storage = cached(tcp(server.port()), near_cache());
    let proxies = [
        Proxy::with(&storage, 2).await,
        Proxy::with(&storage, 2).await,
    ];
    let keys: Vec<Key> = (0..KEYS).map(|n| key(&format!("chaos{n}"))).collect();
    for key in &keys {
        stored(proxies[0].store(), key, b"0").await;
    }
    let mut running = Vec::new();
    for proxy in &proxies {
        // The newest value of each key that this proxy is known to have written.
        let written: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
        for (number, worker) in proxy.workers.iter().enumerate() {
            let (worker, keys) = (worker.clone(), keys.clone());
            let written = Arc::clone(&written);
            running.push(tokio::spawn(async move {
                for round in 0..ROUNDS * KEYS {
                    let at = (round + number) % KEYS;
                    count_up(&worker, &keys[at], &written[at]).await;
                }
            }));
        }
    }
    let cutting = {
        let server = Arc::clone(&server);
        tokio::task::spawn_blocking(move || {
            for _ in 0..20 {
                server.command(&["CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES"]);
                // As often as the workers have written again.
                let before = commands(&server).len();
                in_time("they go on", || {
                    (commands(&server).get("set").copied().unwrap_or_default() > 0)
                        .then_some(before)
                });
            }
        })
    };
    for one in running {
        let ended = tokio::time::timeout(DEADLINE, one).await;
        let ended = ended.expect("they come to an end");
        ended.expect("nothing that was written is missed");
    }
    cutting.await.expect("the cuts are made");
    for key in &keys {
        eventually("all see what is there", async || {
            let current = server.get(0, name(key));
            let mut all = true;
            for worker in proxies.iter().flat_map(|proxy| &proxy.workers) {
                let loaded = worker.load(key, Freshness::Near).await;
                let bytes = loaded.ok().flatten().map(|record| record.bytes.to_vec());
                all &= bytes == current;
            }
            all
        })
        .await;
    }
}

/// Adds one to a record, if nothing comes in between, and checks that what is seen is not older than
/// what this proxy has written.
async fn count_up(store: &Store, key: &Key, written: &AtomicU64) {
    let (record, known) = loop {
        let known = written.load(Ordering::SeqCst);
        if let Ok(Some(record)) = store.load(key, Freshness::Near).await {
            break (record, known);
        }
        // There is no connection just now.
        tokio::task::yield_now().await;
    };
    let number = |bytes: &[u8]| -> u64 {
        let text = std::str::from_utf8(bytes).expect("a number is text");
        text.parse().expect("a number")
    };
    let seen = number(&record.bytes);
    assert!(seen >= known, "{seen} is older than {known}");
    let next = Bytes::from((seen + 1).to_string());
    if let Ok(Replaced::Stored(_)) = store.replace(key, &record.version, next, TTL).await {
        written.fetch_max(seen + 1, Ordering::SeqCst);
    }
}

/// Waits until this browser's session comes from the near cache. Gives the server behind that.
fn near_to<'s>(stage: &'s Stage, browser: &mut Browser) -> &'s RedisServer {
    let Place::Near(server) = &stage.store else {
        panic!("it is Redis");
    };
    in_time("it is near", || {
        stage.session(browser);
        loads(server);
        stage.session(browser);
        (loads(server) == 0).then_some(())
    });
    server
}

#[test]
fn a_session_is_read_from_redis_once_and_from_then_on_near() {
    let stage = Stage::on(Place::near(), "");
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: user=alice"]);
    let server = near_to(&stage, &mut browser);
    for _ in 0..20 {
        let session = stage.session(&mut browser);
        assert_eq!(session, json!({"user": "alice"}));
    }
    assert_eq!(loads(server), 0);
}

#[test]
fn a_strict_route_asks_redis_each_time() {
    let stage = Stage::on(Place::near(), "[[route]]\npath = '/pay'\nstrict = true");
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: user=alice"]);
    let server = near_to(&stage, &mut browser);
    for _ in 0..5 {
        browser.get("/pay");
        assert_eq!(loads(server), 1);
    }
}

#[test]
fn a_logout_at_one_copy_is_told_to_the_other() {
    let stage = Stage::on(Place::near(), "");
    let twin = stage.pycket.twin();
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: user=alice"]);
    let mut elsewhere = browser.clone();
    elsewhere.go_to(&twin);
    let word = |browser: &mut _| stage.state(browser).0;
    assert_eq!(word(&mut elsewhere), "active");
    assert_eq!(word(&mut elsewhere), "active");
    post(&mut browser, "/", &["X-Session-Control: destroy"]);
    in_time("it is logged out there, too", || {
        (word(&mut elsewhere) == "none").then_some(())
    });
}

#[test]
fn a_flash_left_at_one_copy_is_shown_once_by_whichever_comes_next() {
    let stage = Stage::on(Place::near(), "");
    let twin = stage.pycket.twin();
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: user=alice"]);
    for round in 0..20 {
        let (here, there) = if round % 2 == 0 {
            (&stage.pycket, &twin)
        } else {
            (&twin, &stage.pycket)
        };
        let look = |browser: &mut Browser, at: &Pycket| {
            page(browser.go_to(at), "/", &[]);
            stage.shown()
        };
        assert_eq!(look(&mut browser, there), None);
        post(browser.go_to(here), "/", &["X-Notifications-Set: flash=1"]);
        let (shown, _) = in_time("it is shown", || look(&mut browser, there));
        assert_eq!(shown, json!({"flash": "1"}));
        assert_eq!(look(&mut browser, here), None);
        assert_eq!(look(&mut browser, there), None);
    }
}

#[test]
fn a_reload_keeps_what_is_near_and_a_change_of_its_size_begins_anew() {
    let stage = Stage::on(Place::near(), "");
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: n=0"]);
    let mut pycket = stage.pycket;
    for (number, more) in ["", "cache.max_memory = '8MiB'", "cache.enabled = false"]
        .into_iter()
        .enumerate()
    {
        pycket.reload(more);
        let set = format!("X-Session-Set: n={number}");
        post(&mut browser, "/", &[&set]);
        browser.get("/look");
        let seen = stage.app.requests().pop().expect("a request has come");
        assert_eq!(seen.session(), json!({"n": number.to_string()}));
    }
}

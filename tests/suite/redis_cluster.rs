//! A Redis Cluster: nodes that fail, are replaced and give slots to each other, and sessions that
//! go on meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use pycket::config::{Engine, Redis, RedisAddress, RedisTls, Secret, Storage};
use pycket::store::{Created, Freshness, Key, Replaced, Shared, Store, StoreError};
use serde_json::json;

use crate::harness::{Browser, Pycket, Upstream};
use crate::operator::{Desk, native_in_redis};
use crate::servers::{ClusterOptions, RedisCluster, RedisServer};
use crate::stage::{PATIENCE, cookie, id_in, in_time, obedient, page, post};
use crate::store_contract::{cluster, eventually, loaded, redis, storage, stored, tcp};

const TTL: Duration = Duration::from_mins(5);

async fn open(engine: Engine) -> Store {
    let storage = storage(engine);
    let shared = Shared::for_storage(&storage);
    let store = Store::connect(&storage, &shared).await;
    store.expect("the settings are right")
}

fn key(name: &str) -> Key {
    Key::new("", name.as_bytes()).expect("it is visible ASCII")
}

/// Keys that one primary has, all in one slot.
fn keys_of(servers: &RedisCluster, node: usize, count: usize) -> Vec<String> {
    // What stands in braces decides on the slot.
    let mut tags = (0..).map(|number| format!("{{{number}}}"));
    let tag = tags.find(|tag| servers.owner(tag) == node);
    let tag = tag.expect("some tag is there");
    (0..count).map(|number| format!("{tag}:{number}")).collect()
}

async fn fill(store: &Store, keys: &[String]) {
    for name in keys {
        let created = create(store, name).await;
        assert!(matches!(created, Ok(Created::Stored(_))), "{created:?}");
    }
}

/// Stores a key's name under it.
async fn create(store: &Store, name: &str) -> Result<Created, StoreError> {
    store
        .create(&key(name), Bytes::from(name.to_owned()), TTL)
        .await
}

/// Loads all of them at once; each has its own bytes.
async fn assert_loaded(store: &Store, keys: &[String]) {
    let records = join_all(
        keys.iter()
            .map(async |name| store.load(&key(name), Freshness::Near).await),
    )
    .await;
    for (name, record) in keys.iter().zip(records) {
        let record = record.expect("the cluster answers").expect("it is there");
        assert_eq!(record.bytes, name.as_bytes());
    }
}

#[tokio::test]
async fn loads_at_once_get_each_its_own_record_from_all_nodes() {
    let servers = RedisCluster::start();
    let store = open(cluster(&servers)).await;
    let keys: Vec<String> = (0..300).map(|number| format!("spread:{number}")).collect();
    fill(&store, &keys).await;
    for _ in 0..20 {
        assert_loaded(&store, &keys).await;
    }
}

#[tokio::test]
async fn a_slot_that_moves_loses_nothing() {
    let servers = RedisCluster::start();
    let store = open(cluster(&servers)).await;
    let keys = keys_of(&servers, 0, 60);
    let (old, new) = keys.split_at(50);
    fill(&store, old).await;

    servers.begin_move(&old[0], 0, 2);
    assert_loaded(&store, old).await;
    // There are none of these, and so the node that is to get the slot is asked.
    assert_eq!(loaded(&store, &key(&new[0])).await, None);
    fill(&store, new).await;
    assert_loaded(&store, &keys).await;
    let again = create(&store, &new[0]).await;
    assert!(matches!(again, Ok(Created::Exists)), "{again:?}");

    for name in &old[..25] {
        servers.move_key(name, 0, 2);
    }
    for _ in 0..20 {
        assert_loaded(&store, &keys).await;
    }
    for name in [&old[0], &old[30], &new[0]] {
        assert_writes_work(&store, &key(name)).await;
        fill(&store, std::slice::from_ref(name)).await;
    }

    // What was written anew is on the new node already.
    for name in old.iter().skip(25).filter(|name| **name != old[30]) {
        servers.move_key(name, 0, 2);
    }
    servers.end_move(&old[0], 0, 2);
    for _ in 0..20 {
        assert_loaded(&store, &keys).await;
    }
    assert_writes_work(&store, &key(&old[1])).await;
}

/// Replaces, touches, removes and deletes a record that is there.
async fn assert_writes_work(store: &Store, key: &Key) {
    let record = store
        .load(key, Freshness::Near)
        .await
        .unwrap()
        .expect("it is there");
    assert!(store.touch(key, TTL).await.unwrap());
    let next = Bytes::from_static(b"next");
    let replaced = store.replace(key, &record.version, next, TTL).await;
    let Ok(Replaced::Stored(version)) = replaced else {
        panic!("{replaced:?}");
    };
    let stale = Bytes::from_static(b"stale");
    let stale = store.replace(key, &record.version, stale, TTL).await;
    assert!(matches!(stale, Ok(Replaced::Stale)), "{stale:?}");
    assert_eq!(loaded(store, key).await.as_deref(), Some(&b"next"[..]));
    let removed = store.remove(key, &version).await;
    assert!(matches!(removed, Ok(Replaced::Stored(_))), "{removed:?}");
    stored(store, key, b"again").await;
    store.delete(key).await.unwrap();
    assert_eq!(loaded(store, key).await, None);
}

#[tokio::test]
async fn parallel_increments_are_all_counted_while_their_slot_moves() {
    let servers = RedisCluster::start();
    let store = open(cluster(&servers)).await;
    let name = servers.key_of(1, "count:");
    stored(&store, &key(&name), b"0").await;
    let increments = async {
        for _ in 0..30 {
            join_all((0..5).map(|_| increment(&store, &name))).await;
        }
    };
    let moving = tokio::task::spawn_blocking({
        let name = name.clone();
        move || {
            for (from, to) in [(1, 0), (0, 2), (2, 1), (1, 0)] {
                servers.begin_move(&name, from, to);
                servers.move_key(&name, from, to);
                servers.end_move(&name, from, to);
            }
            servers
        }
    });
    let (moved, ()) = tokio::join!(moving, increments);
    let _servers = moved.expect("the slot moves");
    let count = loaded(&store, &key(&name)).await;
    assert_eq!(count.as_deref(), Some(&b"150"[..]));
}

async fn increment(store: &Store, name: &str) {
    loop {
        let record = store.load(&key(name), Freshness::Near).await.unwrap();
        let record = record.expect("nobody deletes it");
        let count: u32 = std::str::from_utf8(&record.bytes).unwrap().parse().unwrap();
        let next = Bytes::from((count + 1).to_string());
        match store.replace(&key(name), &record.version, next, TTL).await {
            Ok(Replaced::Stored(_)) => return,
            Ok(Replaced::Stale) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn one_dead_primary_fails_its_own_keys_and_no_others() {
    let mut servers = RedisCluster::start();
    let store = open(cluster(&servers)).await;
    let keys: Vec<_> = (0..3).map(|node| keys_of(&servers, node, 5)).collect();
    for keys in &keys {
        fill(&store, keys).await;
    }
    servers.kill(1);
    for _ in 0..20 {
        assert_loaded(&store, &keys[0]).await;
        let lost = store.load(&key(&keys[1][0]), Freshness::Near).await;
        assert!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
        assert_loaded(&store, &keys[2]).await;
    }
    store.ping().await.expect("two nodes answer");
    for node in [0, 2] {
        let name = servers.key_of(node, "meanwhile:");
        stored(&store, &key(&name), b"one").await;
        assert_writes_work(&store, &key(&name)).await;
    }

    servers.restart(1);
    let first = key(&keys[1][0]);
    eventually("its keys are back", async || {
        store.load(&first, Freshness::Near).await.is_ok()
    })
    .await;
    assert_loaded(&store, &keys[1]).await;
}

#[tokio::test]
async fn a_primary_that_stands_still_takes_no_others_with_it() {
    let servers = RedisCluster::start();
    let store = open_impatient(cluster(&servers)).await;
    let keys: Vec<_> = (0..3).map(|node| keys_of(&servers, node, 2)).collect();
    for keys in &keys {
        fill(&store, keys).await;
    }
    servers.nodes()[1].pause();
    let lost = key(&keys[1][0]);
    let silent = store.load(&lost, Freshness::Near).await;
    assert!(matches!(silent, Err(StoreError::TimedOut)), "{silent:?}");
    let write = store.touch(&lost, TTL).await;
    assert!(matches!(write, Err(StoreError::Ambiguous(_))), "{write:?}");
    for _ in 0..20 {
        assert_loaded(&store, &keys[0]).await;
        assert_loaded(&store, &keys[2]).await;
    }
    servers.nodes()[1].resume();
    eventually("it answers", async || {
        store.load(&lost, Freshness::Near).await.is_ok()
    })
    .await;
    assert_loaded(&store, &keys[1]).await;
}

async fn open_impatient(engine: Engine) -> Store {
    let storage = Storage {
        timeout: Duration::from_millis(300),
        breaker_failures: 2,
        ..storage(engine)
    };
    let shared = Shared::for_storage(&storage);
    let store = Store::connect(&storage, &shared).await;
    store.expect("the settings are right")
}

#[tokio::test]
async fn a_cluster_that_refuses_as_a_whole_is_down_until_it_is_whole() {
    let mut servers = RedisCluster::start();
    let require = ["CONFIG", "SET", "cluster-require-full-coverage", "yes"];
    for node in servers.nodes() {
        node.command(&require);
    }
    let store = open(cluster(&servers)).await;
    let keys = keys_of(&servers, 0, 3);
    fill(&store, &keys).await;
    let first = key(&keys[0]);
    servers.kill(1);
    eventually("the others refuse", async || {
        let read = store.load(&first, Freshness::Near).await;
        matches!(read, Err(StoreError::Unavailable(_)))
    })
    .await;
    eventually("no node says that all is well", async || {
        store.ping().await.is_err()
    })
    .await;
    servers.restart(1);
    eventually("it answers", async || {
        store.load(&first, Freshness::Near).await.is_ok()
    })
    .await;
    eventually("all is well", async || store.ping().await.is_ok()).await;
    assert_loaded(&store, &keys).await;
}

#[tokio::test]
async fn a_replica_that_takes_over_is_found() {
    let mut servers = RedisCluster::start_with(ClusterOptions {
        replica: true,
        ..ClusterOptions::default()
    });
    let store = open(cluster(&servers)).await;
    let keys = keys_of(&servers, 0, 5);
    fill(&store, &keys).await;
    servers.wait_for_replica();
    servers.kill(0);
    eventually("the replica has taken over", async || {
        store.load(&key(&keys[0]), Freshness::Near).await.is_ok()
    })
    .await;
    assert_loaded(&store, &keys).await;
    assert_writes_work(&store, &key(&keys[0])).await;
}

#[tokio::test]
async fn one_seed_that_answers_is_enough() {
    let servers = RedisCluster::start();
    let mut dead = RedisServer::start();
    dead.kill();
    let nowhere = ("127.0.0.1".to_owned(), dead.port());
    let seeds = vec![nowhere, servers.seeds().swap_remove(1)];
    let store = open(Engine::Redis(redis(RedisAddress::Cluster { seeds }))).await;
    for node in 0..3 {
        fill(&store, &keys_of(&servers, node, 1)).await;
    }
}

#[tokio::test]
async fn a_cluster_that_is_down_at_the_start_is_found_later() {
    let mut servers = RedisCluster::start();
    for node in 0..3 {
        servers.kill(node);
    }
    let store = open(cluster(&servers)).await;
    let down = store.load(&key("early"), Freshness::Near).await;
    assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
    store.ping().await.unwrap_err();
    servers.restart_all();
    eventually("the store answers", async || store.ping().await.is_ok()).await;
    for node in 0..3 {
        let name = servers.key_of(node, "late:");
        eventually("its node answers", async || {
            store.load(&key(&name), Freshness::Near).await.is_ok()
        })
        .await;
        stored(&store, &key(&name), b"one").await;
    }
}

#[tokio::test]
async fn a_redis_that_is_no_cluster_is_a_store_that_is_down() {
    let server = RedisServer::start();
    let seeds = vec![("127.0.0.1".to_owned(), server.port())];
    let store = open(Engine::Redis(redis(RedisAddress::Cluster { seeds }))).await;
    let down = store.load(&key("alone"), Freshness::Near).await;
    assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
}

#[tokio::test]
async fn a_node_that_is_taken_for_a_server_says_what_it_is() {
    let servers = RedisCluster::start();
    let store = open(Engine::Redis(redis(tcp(servers.nodes()[0].port())))).await;
    let refused = store
        .load(&key(&servers.key_of(1, "x:")), Freshness::Near)
        .await;
    let Err(StoreError::Refused(cause)) = refused else {
        panic!("{refused:?}");
    };
    assert!(cause.to_string().contains("redis-cluster://"), "{cause}");
}

#[tokio::test]
async fn a_cluster_has_no_second_database() {
    let servers = RedisCluster::start();
    let storage = storage(cluster(&servers));
    let opened = Store::connect_database(&storage, 1, &Shared::for_storage(&storage)).await;
    assert!(matches!(opened, Err(StoreError::Refused(_))), "{opened:?}");
}

#[tokio::test]
async fn users_passwords_and_certificates_are_those_of_all_nodes() {
    let servers = RedisCluster::start_with(ClusterOptions {
        tls: true,
        user: Some(("proxy", "for proxies")),
        ..ClusterOptions::default()
    });
    let with = |password: &str| {
        Engine::Redis(Redis {
            username: Some("proxy".to_owned()),
            password: Some(Secret::new(password.to_owned())),
            tls: Some(RedisTls {
                ca_file: Some(servers.ca_file()),
            }),
            ..redis(RedisAddress::Cluster {
                seeds: servers.seeds(),
            })
        })
    };
    let store = open(with("for proxies")).await;
    for node in 0..3 {
        fill(&store, &keys_of(&servers, node, 2)).await;
    }
    let stranger = open(with("wrong")).await;
    let down = stranger.load(&key("x"), Freshness::Near).await;
    assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
}

#[tokio::test]
async fn certificates_that_can_not_be_read_are_reported_at_the_start() {
    let storage = storage(Engine::Redis(Redis {
        tls: Some(RedisTls {
            ca_file: Some("no-such-file.pem".into()),
        }),
        ..redis(RedisAddress::Cluster {
            seeds: vec![("127.0.0.1".to_owned(), 1)],
        })
    }));
    let shared = Shared::for_storage(&storage);
    let error = Store::connect(&storage, &shared).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

/// Lists all keys, page by page, with a new scan for each page as `pycket migrate` goes on.
async fn list(store: &Store, from: Option<String>) -> Result<Vec<Key>, StoreError> {
    let (mut keys, mut from) = (Vec::new(), from);
    loop {
        let page = store.scan("listed:", from.as_deref())?.page(10).await?;
        keys.extend(page.keys);
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(keys),
        }
    }
}

fn names(keys: &[Key]) -> BTreeSet<&[u8]> {
    keys.iter().map(Key::as_bytes).collect()
}

#[tokio::test]
async fn a_scan_lists_the_keys_of_all_primaries() {
    let servers = RedisCluster::start();
    let store = open(cluster(&servers)).await;
    let keys: Vec<String> = (0..200).map(|number| format!("listed:{number}")).collect();
    fill(&store, &keys).await;
    stored(&store, &key("other"), b"x").await;
    let listed = list(&store, None).await.unwrap();
    assert_eq!(names(&listed).len(), 200);
    assert_eq!(
        listed.len(),
        200,
        "each is listed once when nothing changes"
    );
    let left = store.left(&listed[0]).await.unwrap();
    assert!(left.is_some());
}

#[tokio::test]
async fn a_scan_leaves_no_key_out_when_slots_move_meanwhile() {
    let servers = RedisCluster::start();
    let store = open(cluster(&servers)).await;
    let keys: Vec<String> = (0..200).map(|number| format!("listed:{number}")).collect();
    fill(&store, &keys).await;
    // Where the first page ends is in one of the nodes; whichever it is, a key of each of the
    // others comes to it.
    let page = store.scan("listed:", None).unwrap().page(10).await.unwrap();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let name = servers.key_of(from, "listed:");
        servers.begin_move(&name, from, to);
        let refused = list(&store, page.next.clone()).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
        servers.move_key(&name, from, to);
        servers.end_move(&name, from, to);
    }
    let listed = list(&store, page.next).await.unwrap();
    assert_eq!(names(&listed).len(), 200);
}

/// A proxy with its sessions in this cluster.
fn proxy(servers: &RedisCluster) -> (Pycket, Upstream) {
    let app = obedient();
    let url = format!("storage.url = '{}'\n", servers.url());
    let builder = Pycket::with(&app).engine("redis").config(PATIENCE);
    let builder = builder.config("storage.key_prefix = 's:'");
    (builder.config(&url).start(), app)
}

/// A browser with a session on this node.
fn browser_on(node: usize, pycket: &Pycket, servers: &RedisCluster) -> Browser {
    loop {
        let mut browser = Browser::at(pycket);
        post(&mut browser, "/", &["X-Session-Set: user=alice"]);
        let key = format!("s:{}", id_in(&cookie(&browser)));
        if servers.owner(&key) == node {
            return browser;
        }
    }
}

#[test]
fn an_exchange_has_its_session_from_a_cluster() {
    let servers = RedisCluster::start();
    let (pycket, app) = proxy(&servers);
    let mut browser = Browser::at(&pycket);
    post(
        &mut browser,
        "/",
        &["X-Session-Set: user=alice", "X-Session-Control: renew"],
    );
    assert_eq!(servers.records(), 1);
    page(&mut browser, "/", &[]);
    let seen = app.requests().pop().expect("it was asked");
    assert_eq!(seen.session(), json!({"user": "alice"}));
    post(&mut browser, "/", &["X-Session-Control: renew"]);
    post(&mut browser, "/", &["X-Session-Control: destroy"]);
    assert_eq!(servers.records(), 0);
}

#[test]
fn sessions_of_other_primaries_go_on_when_one_is_dead_and_its_own_come_back() {
    let mut servers = RedisCluster::start();
    let (pycket, app) = proxy(&servers);
    let mut browsers = [0, 1, 2].map(|node| browser_on(node, &pycket, &servers));
    servers.kill(1);
    for _ in 0..10 {
        let statuses = browsers.each_mut().map(|browser| {
            let answer = post(browser, "/", &["X-Session-Set: seen=yes"]);
            answer.status
        });
        assert_eq!(statuses, [200, 503, 200]);
    }
    servers.restart(1);
    in_time("it is back", || {
        (page(&mut browsers[1], "/", &[]).status == 200).then_some(())
    });
    let seen = app.requests().pop().expect("it was asked");
    assert_eq!(seen.session(), json!({"user": "alice"}));
}

#[test]
fn sessions_move_into_a_cluster_and_are_listed_there() {
    let (old, mut new) = (RedisServer::start(), RedisCluster::start());
    let (app, desk) = (obedient(), Desk::new());
    let before = Pycket::with(&app).redis(&old).start();
    for _ in 0..12 {
        post(
            &mut Browser::at(&before),
            "/",
            &["X-Session-Set: user=alice"],
        );
    }
    let from = desk.config("from", &native_in_redis(&old));
    let storage = format!("engine = 'redis'\n[storage]\nurl = '{}'\n", new.url());
    let to = desk.config("to", &storage);
    desk.run(&["migrate", "--from", &from, "--to", &to]).fine();
    assert_eq!(new.records(), 12);
    let list = ["session", "list", "--config", &to, "--output", "json"];
    assert_eq!(desk.run(&list).lines().len(), 12);
    let third = RedisServer::start();
    let back = desk.config("back", &native_in_redis(&third));
    new.kill(1);
    let said = desk.run(&list);
    assert_eq!(
        said.code,
        Some(1),
        "a part is not passed off as all: {said:?}"
    );
    let said = desk.run(&["migrate", "--from", &to, "--to", &back]);
    assert_eq!(said.code, Some(1), "{said:?}");
}

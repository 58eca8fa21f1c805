//! Servers behind a network: which one a key belongs to, and what is asked of it.
//!
//! A server that is down fails the operations on its keys; no other one stands in for it. Records
//! would come back with it that were replaced elsewhere in the meantime. python-memcached does look
//! elsewhere, and this is the one part of it that [`Routing::Python`] does not follow: each of two
//! programs decides for itself, by its own failures and for its own half minute, that a server is
//! dead, so for that long they would find different records under one id, and a session would fork.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::breaker::{Access, Breaker, Guarded, guarded, guarded_read};
use super::memcached::Memcached;
use super::near::Near;
use super::redis::{Merging, Redis};
use super::{Created, Key, Record, Replaced, StoreError, Version};
use crate::config::{self, PythonMemcached, Routing, Storage};

mod scan;

/// The servers of a store, each with its breaker: one Redis, or one or many memcached.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    first: Arc<Remote>,
    others: Arc<[Arc<Remote>]>,
    /// How python-memcached chooses among them; `None` is rendezvous hashing.
    buckets: Option<Arc<Buckets>>,
}

#[derive(Debug)]
struct Remote {
    server: Server,
    breaker: Breaker,
    /// [`route_seed`] of the server's name.
    seed: u64,
}

#[derive(Debug)]
enum Server {
    Redis(Redis),
    Memcached(Arc<Memcached>),
}

impl Fleet {
    pub(super) async fn redis(
        storage: &Storage,
        redis: &config::Redis,
        near: Option<Near>,
    ) -> Result<Self, StoreError> {
        let mut name = match &redis.address {
            config::RedisAddress::Tcp { host, port } => config::host_and_port(host, *port),
            config::RedisAddress::Unix(path) => path.display().to_string(),
            config::RedisAddress::Cluster { .. } => {
                return Err(StoreError::refused("a cluster is not one server"));
            }
        };
        if redis.database != 0 {
            // One server can be two stores, whose messages should differ.
            name = format!("{name} database {}", redis.database);
        }
        let connected = Redis::connect(storage, redis, &name, Merging::OneCommand, near);
        let server = Server::Redis(connected.await?);
        Ok(Self {
            first: Arc::new(Remote::new(name, server, storage)),
            others: Arc::new([]),
            buckets: None,
        })
    }

    /// `servers` has at least one element.
    pub(super) fn memcached(
        storage: &Storage,
        servers: &[String],
        routing: &Routing,
        max_connections: usize,
    ) -> Self {
        let remotes: Vec<Arc<Remote>> = servers
            .iter()
            .map(|address| {
                let server = Memcached::start(address.clone(), storage, max_connections);
                let server = Server::Memcached(server);
                Arc::new(Remote::new(address.clone(), server, storage))
            })
            .collect();
        let buckets = match routing {
            Routing::Rendezvous => None,
            Routing::Python { weights, version } => {
                Some(Arc::new(Buckets::new(&remotes, weights, *version)))
            }
        };
        let mut remotes = remotes.into_iter();
        Self {
            first: remotes
                .next()
                .expect("the configuration has at least one memcached server"),
            others: remotes.collect(),
            buckets,
        }
    }

    /// The server that a key belongs to.
    fn of(&self, key: &Key) -> &Arc<Remote> {
        if self.others.is_empty() {
            return &self.first;
        }
        match &self.buckets {
            Some(buckets) => buckets.of(key).unwrap_or(&self.first),
            None => self.by_score(key),
        }
    }

    /// Rendezvous hashing: each server scores the key, and the highest score wins. The order of
    /// the servers does not matter, and adding or removing one moves only the keys that it gains
    /// or loses.
    fn by_score(&self, key: &Key) -> &Arc<Remote> {
        let mut best = (route_score(self.first.seed, key), &self.first);
        for remote in self.others.iter() {
            let score = route_score(remote.seed, key);
            if score > best.0 {
                best = (score, remote);
            }
        }
        best.1
    }

    pub(super) async fn load(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let remote = self.of(key);
        match &remote.server {
            Server::Redis(redis) => guarded_read(remote, redis.load(key)).await,
            Server::Memcached(memcached) => guarded_read(remote, memcached.load(key)).await,
        }
    }

    pub(super) async fn create(
        &self,
        key: &Key,
        bytes: Bytes,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let remote = self.of(key);
        remote.check_size(key, &bytes)?;
        // The drivers' futures are kilobytes, and so would be everything that holds one.
        let mut operation = Box::pin(async {
            match &remote.server {
                Server::Redis(redis) => redis.create(key, bytes, ttl).await,
                Server::Memcached(memcached) => memcached.create(key, &bytes, ttl).await,
            }
        });
        guarded(remote, Access::Write, operation.as_mut()).await
    }

    pub(super) async fn replace(
        &self,
        key: &Key,
        version: &Version,
        bytes: Bytes,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        let remote = self.of(key);
        remote.check_size(key, &bytes)?;
        let mut operation = Box::pin(async {
            match &remote.server {
                Server::Redis(redis) => redis.replace(key, version, bytes, ttl).await,
                Server::Memcached(memcached) => memcached.replace(key, version, &bytes, ttl).await,
            }
        });
        guarded(remote, Access::Write, operation.as_mut()).await
    }

    pub(super) async fn remove(
        &self,
        key: &Key,
        version: &Version,
    ) -> Result<Replaced, StoreError> {
        let remote = self.of(key);
        let mut operation = Box::pin(async {
            match &remote.server {
                Server::Redis(redis) => redis.remove(key, version).await,
                Server::Memcached(memcached) => memcached.remove(key, version).await,
            }
        });
        guarded(remote, Access::Write, operation.as_mut()).await
    }

    pub(super) async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let remote = self.of(key);
        let mut operation = Box::pin(async {
            match &remote.server {
                Server::Redis(redis) => redis.delete(key).await,
                Server::Memcached(memcached) => memcached.delete(key).await,
            }
        });
        guarded(remote, Access::Write, operation.as_mut()).await
    }

    pub(super) async fn touch(&self, key: &Key, ttl: Duration) -> Result<bool, StoreError> {
        let remote = self.of(key);
        let mut operation = Box::pin(async {
            match &remote.server {
                Server::Redis(redis) => redis.touch(key, ttl).await,
                Server::Memcached(memcached) => memcached.touch(key, ttl).await,
            }
        });
        guarded(remote, Access::Write, operation.as_mut()).await
    }

    /// One server that answers is enough: a fleet with a gap still serves the other keys.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let mut outcome = guarded(&self.first, Access::Read, pin!(self.first.ping())).await;
        for remote in self.others.iter() {
            if outcome.is_ok() {
                break;
            }
            outcome = guarded(remote, Access::Read, pin!(remote.ping())).await;
        }
        outcome
    }

    pub(super) fn distrust(&self) {
        for remote in std::iter::once(&self.first).chain(self.others.iter()) {
            remote.distrust();
        }
    }
}

impl Remote {
    fn new(name: String, server: Server, storage: &Storage) -> Self {
        Self {
            seed: route_seed(&name),
            breaker: Breaker::new(name, storage),
            server,
        }
    }

    /// Refuses what the server would refuse, before it is sent: memcached drops the old record
    /// when the new one is too large.
    fn check_size(&self, key: &Key, bytes: &Bytes) -> Result<(), StoreError> {
        let limit = match self.server {
            Server::Redis(_) => Redis::MAX_RECORD,
            Server::Memcached(_) => Memcached::MAX_ITEM.saturating_sub(key.0.len()),
        };
        if bytes.len() > limit {
            return Err(StoreError::TooLarge {
                size: bytes.len(),
                limit,
            });
        }
        Ok(())
    }
}

impl Guarded for Remote {
    fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    async fn ping(&self) -> Result<(), StoreError> {
        match &self.server {
            Server::Redis(redis) => redis.ping().await,
            Server::Memcached(memcached) => memcached.ping().await,
        }
    }

    fn distrust(&self) {
        match &self.server {
            Server::Redis(redis) => redis.distrust(),
            Server::Memcached(memcached) => memcached.distrust(),
        }
    }
}

/// Chooses among servers as python-memcached does (`Client._get_server` and `cmemcache_hash` of its
/// 1.62, but for the search after a dead server; see the module's text).
#[derive(Debug)]
struct Buckets {
    /// The servers in their order, and how many buckets each has.
    servers: Vec<(Arc<Remote>, u64)>,
    /// All buckets together; not 0.
    count: u64,
    version: PythonMemcached,
}

impl Buckets {
    fn new(remotes: &[Arc<Remote>], weights: &[u32], version: PythonMemcached) -> Self {
        let weights = weights.iter().copied().map(u64::from);
        let servers: Vec<_> = remotes.iter().cloned().zip(weights).collect();
        let count: u64 = servers.iter().map(|(_, weight)| weight).sum();
        Self {
            servers,
            count: count.max(1),
            version,
        }
    }

    fn of(&self, key: &Key) -> Option<&Arc<Remote>> {
        let mut bucket = u64::from(python_hash(&key.0, self.version)) % self.count;
        for (remote, weight) in &self.servers {
            match bucket.checked_sub(*weight) {
                Some(rest) => bucket = rest,
                None => return Some(remote),
            }
        }
        None
    }
}

/// The upper half of CRC-32, without its first bit.
fn python_hash(key: &[u8], version: PythonMemcached) -> u32 {
    let hash = (crc32fast::hash(key) >> 16) & 0x7fff;
    match version {
        PythonMemcached::HashFromOne => hash.max(1),
        PythonMemcached::HashFromZero => hash,
    }
}

// Copies of the proxy that run side by side, also of different versions, must look for a key on
// the same server. So the hash is spelt out here and never changes; std's hashers promise nothing
// between releases. FNV-1a (RFC 9923), and MurmurHash3's finalizer because FNV's high bits alone
// are poor.

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// What scoring starts from: the hash of a server's name as configured, and a zero byte.
fn route_seed(server: &str) -> u64 {
    fnv(fnv(FNV_OFFSET, server.as_bytes()), &[0])
}

fn route_score(seed: u64, key: &Key) -> u64 {
    let mut score = fnv(seed, &key.0);
    score = (score ^ (score >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    score = (score ^ (score >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    score ^ (score >> 33)
}

fn fnv(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::Value as Json;

    use super::*;

    fn storage() -> Storage {
        Storage {
            engine: config::Engine::Memory { max_bytes: 0 },
            format: config::Format::Native,
            key_prefix: String::new(),
            timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            breaker_failures: 5,
            breaker_retry: Duration::from_secs(1),
            fallback: None,
        }
    }

    fn owners(servers: &[&str], keys: u32) -> Vec<String> {
        let servers: Vec<_> = servers.iter().map(|&server| server.to_owned()).collect();
        let fleet = Fleet::memcached(&storage(), &servers, &Routing::Rendezvous, 1);
        (0..keys)
            .map(|number| owner(&fleet, &format!("session:{number}")))
            .collect()
    }

    fn owner(fleet: &Fleet, key: &str) -> String {
        let key = Key::new("", key.as_bytes()).unwrap();
        match &fleet.of(&key).server {
            Server::Memcached(memcached) => memcached.address().to_owned(),
            Server::Redis(_) => unreachable!("the fleet is of memcached servers"),
        }
    }

    fn python(servers: &[(&str, u32)], version: PythonMemcached) -> Fleet {
        let (addresses, weights): (Vec<_>, Vec<_>) = servers
            .iter()
            .map(|(address, weight)| ((*address).to_owned(), *weight))
            .unzip();
        let routing = Routing::Python { weights, version };
        Fleet::memcached(&storage(), &addresses, &routing, 1)
    }

    /// A server of the vectors: `"host:port"`, or that and its weight.
    fn server(entry: &Json) -> (&str, u32) {
        if let Some([address, weight]) = entry.as_array().map(Vec::as_slice) {
            let weight = u32::try_from(weight.as_u64().unwrap()).unwrap();
            (address.as_str().unwrap(), weight)
        } else {
            (entry.as_str().unwrap(), 1)
        }
    }

    #[tokio::test]
    async fn keys_spread_evenly_and_in_any_order_of_servers() {
        let owner = owners(&["a:11211", "b:11211", "c:11211"], 30_000);
        let mut counts: HashMap<&str, u32> = HashMap::new();
        for server in &owner {
            *counts.entry(server).or_default() += 1;
        }
        assert_eq!(counts.len(), 3);
        assert!(
            counts.values().all(|count| (9_500..10_500).contains(count)),
            "{counts:?}"
        );
        assert_eq!(owner, owners(&["c:11211", "a:11211", "b:11211"], 30_000));
    }

    #[tokio::test]
    async fn removed_server_moves_only_its_own_keys() {
        let three = owners(&["a:11211", "b:11211", "c:11211"], 3_000);
        let two = owners(&["a:11211", "c:11211"], 3_000);
        for (before, after) in three.iter().zip(&two) {
            assert!(before == after || before == "b:11211");
        }
    }

    #[tokio::test]
    async fn python_memcached_finds_a_key_on_the_same_server() {
        let vectors: Json =
            serde_json::from_str(include_str!("../../tests/vectors/memcached_servers.json"))
                .unwrap();
        for (cases, version) in [
            ("up_to_1_59", PythonMemcached::HashFromOne),
            ("from_1_60", PythonMemcached::HashFromZero),
        ] {
            let cases = vectors[cases].as_array().unwrap();
            assert_eq!(cases.len(), 42);
            for case in cases {
                let key = case["key"].as_str().unwrap();
                let servers = case["servers"].as_array().unwrap();
                let servers: Vec<_> = servers.iter().map(server).collect();
                let hash = python_hash(key.as_bytes(), version);
                assert_eq!(u64::from(hash), case["hash"].as_u64().unwrap(), "{case}");
                let address = format!("127.0.0.1:{}", case["server"]);
                assert_eq!(owner(&python(&servers, version), key), address, "{case}");
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_is_named_twice_has_two_buckets() {
        let version = PythonMemcached::HashFromZero;
        let twice = python(&[("a:1", 1), ("b:1", 1), ("a:1", 1)], version);
        let weighted = python(&[("a:1", 1), ("b:1", 1), ("c:1", 1)], version);
        for number in 0..100 {
            let key = number.to_string();
            assert_eq!(
                owner(&twice, &key),
                owner(&weighted, &key).replace('c', "a")
            );
        }
    }

    #[tokio::test]
    async fn weights_that_are_sizes_of_memory_do_not_overflow() {
        let fleet = python(
            &[("a:1", u32::MAX), ("b:1", u32::MAX)],
            PythonMemcached::HashFromZero,
        );
        assert_eq!(owner(&fleet, "x"), "a:1");
    }

    /// Fixed for ever: another copy of the proxy computes the same.
    #[test]
    fn routing_hash_has_known_values() {
        // FNV-1a of "a" is in RFC 9923's test vectors.
        assert_eq!(fnv(FNV_OFFSET, b"a"), 0xaf63_dc4c_8601_ec8c);
        let key = Key::new("pycket:", b"0123456789abcdef").unwrap();
        assert_eq!(
            route_score(route_seed("127.0.0.1:11211"), &key),
            0x4670_bdf4_53f0_12c5
        );
    }
}

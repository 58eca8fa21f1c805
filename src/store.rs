//! Where records are: keys, bytes, lifetimes and versions.
//!
//! A store knows nothing of HTTP, JSON or sessions. Four promises hold on every engine, and
//! `tests/suite/store_contract.rs` shows them on the real servers:
//!
//! - a write says whether it happened, and one whose outcome is unknown says so
//!   ([`StoreError::Ambiguous`]): it is never sent twice by itself;
//! - `replace` and `remove` act only on the version that was loaded: no lost update;
//! - `replace` and `touch` never bring back what is gone: no resurrection;
//! - missing, expired and evicted are the same.
//!
//! # Lifetimes
//!
//! A lifetime of zero is refused before anything is sent, and one of more than ten years is cut to
//! ten years. What an engine can't count, it rounds up: Redis to milliseconds, memcached to
//! seconds, and to two of them at least.
//!
//! # Records
//!
//! A record has at least one byte: memcached uses items of none as placeholders. How large it may
//! be depends on the engine ([`StoreError::TooLarge`]).
//!
//! # Cancel safety
//!
//! Dropping the future of an operation breaks nothing for other operations. A load leaves no
//! trace; a write may or may not have happened, or may still happen. A conditional write that
//! comes late acts, like any other, only on the version it was given.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

pub use breaker::Breaker;
pub use error::{BoxError, StoreError};
pub use memory::MemoryStore;
pub use scan::{Left, Page, Scan};

use crate::config::{self, Format, NotificationPlace, RedisAddress, Storage};
use cluster::Cluster;
use near::{Known, Near, Writing};
use remote::Fleet;

mod batch;
mod breaker;
mod cluster;
mod error;
mod memcached;
mod memory;
mod near;
mod redis;
mod remote;
mod scan;
mod shard;
mod sharded;

/// Longer lifetimes are cut to this, so that no engine's clock overflows: ten years.
const MAX_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

/// The name of a record: 1 to 250 bytes of visible ASCII, which is what memcached allows.
///
/// It holds the session's id, so `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Bytes);

/// Why a text is no key: it is empty, longer than 250 bytes, or not visible ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a store key is 1 to 250 bytes of visible ASCII")]
pub struct KeyError;

impl Key {
    /// The most bytes that a key may have, prefix included (memcached `doc/protocol.txt`, "Keys").
    pub const MAX_BYTES: usize = 250;

    /// Makes the key of a record out of what all keys begin with and what is its own.
    ///
    /// # Errors
    /// Both together must be 1 to 250 bytes, each of them `!` to `~`.
    pub fn new(prefix: &str, suffix: &[u8]) -> Result<Self, KeyError> {
        let bytes = [prefix.as_bytes(), suffix].concat();
        let fits = (1..=Self::MAX_BYTES).contains(&bytes.len());
        // Each byte is looked at, which is faster than to stop at the first that does not fit.
        let is_visible = |all, byte: &u8| all & byte.is_ascii_graphic();
        if fits && bytes.iter().fold(true, is_visible) {
            Ok(Self(bytes.into()))
        } else {
            Err(KeyError)
        }
    }

    /// The bytes that go to the store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What was loaded: the bytes, and which version of them.
#[derive(Clone, Debug)]
pub struct Record {
    /// The bytes as they were stored.
    pub bytes: Bytes,
    /// For [`replace`](Store::replace) and [`remove`](Store::remove).
    pub version: Version,
}

/// Which state of a record was seen. Opaque: only the engine that made it can compare it, and it
/// never fits another key.
#[derive(Clone)]
pub struct Version {
    key: Key,
    state: State,
}

#[derive(Clone)]
enum State {
    /// A number that the engine counts (memory, memcached's CAS).
    Number(u64),
    /// The bytes themselves, to be compared by their digest (Redis).
    Bytes(Bytes),
}

impl Version {
    fn number(key: &Key, number: u64) -> Self {
        Self {
            key: key.clone(),
            state: State::Number(number),
        }
    }

    fn bytes(key: &Key, bytes: Bytes) -> Self {
        Self {
            key: key.clone(),
            state: State::Bytes(bytes),
        }
    }

    fn as_number(&self) -> Option<u64> {
        match self.state {
            State::Number(number) => Some(number),
            State::Bytes(_) => None,
        }
    }

    fn as_bytes(&self) -> Option<&Bytes> {
        match &self.state {
            State::Bytes(bytes) => Some(bytes),
            State::Number(_) => None,
        }
    }
}

/// The outcome of [`Store::create`].
#[derive(Debug)]
#[must_use = "a write that did not happen must not pass as one that did"]
pub enum Created {
    /// The record is new, at this version.
    Stored(Version),
    /// There is a record under that key; it is untouched.
    Exists,
}

/// The outcome of [`Store::replace`] and [`Store::remove`].
#[derive(Debug)]
#[must_use = "a write that did not happen must not pass as one that did"]
pub enum Replaced {
    /// The write happened; the record has this version now (removed ones: the one that was given).
    Stored(Version),
    /// Someone else wrote in the meantime; nothing has changed.
    Stale,
    /// There is no such record any more; nothing has changed.
    Gone,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bytes)", self.0.len())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Version(..)")
    }
}

/// What the stores of all workers share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The records of the memory engine.
    memory: MemoryStore,
    /// The near cache of each database.
    near: Vec<(u8, Near)>,
    /// Which Redis the near cache is of, and how it is kept.
    of: Option<config::Redis>,
}

impl Shared {
    /// What stores with these settings share. It is empty with an engine that has no use for it.
    pub fn for_storage(storage: &Storage) -> Self {
        Self {
            memory: MemoryStore::for_storage(storage),
            near: Vec::new(),
            of: None,
        }
        .with_storage(storage)
    }

    /// The same for stores with other settings. The near cache stays only if it is of the same Redis.
    #[must_use]
    pub fn with_storage(&self, storage: &Storage) -> Self {
        let databases = databases(storage);
        let of = match &storage.engine {
            config::Engine::Redis(redis) => redis.near_cache.map(|_| redis.clone()),
            config::Engine::Memory { .. } | config::Engine::Memcached { .. } => None,
        };
        let settings = of.as_ref().and_then(|redis| redis.near_cache);
        let is_same = of == self.of && databases.iter().eq(self.near.iter().map(|(of, _)| of));
        let near = match settings {
            None => Vec::new(),
            Some(_) if is_same => self.near.clone(),
            Some(settings) => {
                let max_bytes = settings.max_bytes / databases.len().max(1);
                let settings = config::NearCache {
                    max_bytes,
                    ..settings
                };
                let near = |database| (database, Near::new(settings));
                databases.into_iter().map(near).collect()
            }
        };
        let memory = self.memory.clone();
        Self { memory, near, of }
    }

    /// The same with other records of the memory engine.
    #[must_use]
    pub fn with_memory(self, memory: MemoryStore) -> Self {
        Self { memory, ..self }
    }

    /// Frees what had expired at `now`; see [`MemoryStore::purge`].
    pub fn purge(&self, now: Instant) {
        let _purged = self.memory.purge(now);
        for (_, near) in &self.near {
            near.purge(now);
        }
    }

    fn near(&self, database: u8) -> Option<Near> {
        let mut all = self.near.iter();
        let found = all.find(|(number, _)| *number == database);
        found.map(|(_, near)| near.clone())
    }
}

/// The databases of Redis that sessions are in.
fn databases(storage: &Storage) -> Vec<u8> {
    let config::Engine::Redis(redis) = &storage.engine else {
        return Vec::new();
    };
    let mut databases = vec![redis.database];
    if let Format::Pycket(format) = &storage.format
        && let NotificationPlace::Database { notifications, .. } = &format.notifications
    {
        databases.push(*notifications);
    }
    databases
}

/// How old the answer to a load may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// As old as the near cache allows, if there is one. It is never older than a write through this
    /// process.
    Near,
    /// The store is asked.
    Fresh,
}

/// One worker's way to the records, with a [`Breaker`] in front of every server or node.
///
/// Cheap to clone; clones share connections and breakers. The memory engine's records and the near
/// cache are shared by all workers, connections are not.
#[derive(Clone, Debug)]
pub struct Store {
    engine: Engine,
    near: Option<Near>,
}

#[derive(Clone, Debug)]
enum Engine {
    Memory(MemoryStore),
    Remote(Fleet),
    Cluster(Cluster),
}

impl Store {
    /// Opens the store for one worker, on whose runtime its connections then live.
    ///
    /// A server that is down does not keep the proxy from starting: it is tried again in
    /// the background, and operations fail until it answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the certificates to trust can't be read.
    ///
    /// # Cancel safety
    /// Nothing stays behind when the future is dropped.
    pub async fn connect(storage: &Storage, shared: &Shared) -> Result<Self, StoreError> {
        let engine = match &storage.engine {
            config::Engine::Memory { .. } => Engine::Memory(shared.memory.clone()),
            config::Engine::Redis(redis) => return Self::redis(storage, redis, shared).await,
            config::Engine::Memcached {
                servers,
                routing,
                max_connections,
            } => Engine::Remote(Fleet::memcached(
                storage,
                servers,
                routing,
                *max_connections,
            )),
        };
        Ok(Self { engine, near: None })
    }

    /// Opens another database of the same Redis, with a connection and a [`Breaker`] of its own;
    /// otherwise as [`connect`](Self::connect).
    ///
    /// # Errors
    /// - [`StoreError::Unavailable`] when the certificates to trust can't be read.
    /// - [`StoreError::Refused`] when the engine is not Redis, or a cluster: they have no databases.
    ///
    /// # Cancel safety
    /// Nothing stays behind when the future is dropped.
    pub async fn connect_database(
        storage: &Storage,
        database: u8,
        shared: &Shared,
    ) -> Result<Self, StoreError> {
        let config::Engine::Redis(redis) = &storage.engine else {
            return Err(StoreError::refused("this engine has no databases"));
        };
        if matches!(redis.address, RedisAddress::Cluster { .. }) {
            return Err(StoreError::refused("a cluster has no databases"));
        }
        let redis = config::Redis {
            database,
            ..redis.clone()
        };
        Self::redis(storage, &redis, shared).await
    }

    async fn redis(
        storage: &Storage,
        redis: &config::Redis,
        shared: &Shared,
    ) -> Result<Self, StoreError> {
        let near = shared.near(redis.database);
        let engine = match &redis.address {
            RedisAddress::Cluster { seeds } => {
                let cluster = Cluster::connect(storage, redis, seeds, near.clone());
                Engine::Cluster(cluster.await?)
            }
            RedisAddress::Tcp { .. } | RedisAddress::Unix(_) => {
                Engine::Remote(Fleet::redis(storage, redis, near.clone()).await?)
            }
        };
        Ok(Self { engine, near })
    }

    /// Loads a record; `None` when it is missing, expired or evicted.
    ///
    /// Whatever comes from the near cache may be old: only what is then written decides by its
    /// version whether it was, and the next look must be a fresh one.
    ///
    /// # Errors
    /// - [`StoreError::Unavailable`], [`StoreError::TimedOut`]: safe to try again.
    /// - [`StoreError::Corrupt`]: the answer is no record; see [`distrust`](Self::distrust).
    /// - [`StoreError::Refused`]: the server does not let us read.
    pub async fn load(
        &self,
        key: &Key,
        freshness: Freshness,
    ) -> Result<Option<Record>, StoreError> {
        if let (Freshness::Near, Some(near)) = (freshness, &self.near) {
            match near.get(key, Instant::now()) {
                Known::Record(record) => return Ok(Some(record)),
                Known::Absent => return Ok(None),
                Known::Nothing => {}
            }
        }
        match &self.engine {
            Engine::Memory(memory) => Ok(memory.load(key)),
            Engine::Remote(fleet) => fleet.load(key).await,
            Engine::Cluster(cluster) => cluster.load(key).await,
        }
    }

    /// Stores a record only if there is none under that key.
    ///
    /// # Errors
    /// - [`StoreError::Ambiguous`]: it may have happened. Load before trying again.
    /// - [`StoreError::Unavailable`], [`StoreError::TimedOut`]: nothing was sent; safe to repeat.
    /// - [`StoreError::Refused`], [`StoreError::TooLarge`]: trying again does not help.
    /// - [`StoreError::Corrupt`]: the answer makes no sense; see [`distrust`](Self::distrust).
    pub async fn create(
        &self,
        key: &Key,
        bytes: Bytes,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        check_record(&bytes)?;
        let ttl = check_lifetime(ttl)?;
        let _writing = self.writing(key);
        match &self.engine {
            Engine::Memory(memory) => memory.create(key, &bytes, ttl),
            Engine::Remote(fleet) => fleet.create(key, bytes, ttl).await,
            Engine::Cluster(cluster) => cluster.create(key, bytes, ttl).await,
        }
    }

    /// Stores a record only if it still has this version; it lives for `ttl` from now.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn replace(
        &self,
        key: &Key,
        version: &Version,
        bytes: Bytes,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        check_record(&bytes)?;
        let ttl = check_lifetime(ttl)?;
        if version.key != *key {
            return Ok(Replaced::Stale);
        }
        let _writing = self.writing(key);
        match &self.engine {
            Engine::Memory(memory) => memory.replace(key, version, &bytes, ttl),
            Engine::Remote(fleet) => fleet.replace(key, version, bytes, ttl).await,
            Engine::Cluster(cluster) => cluster.replace(key, version, bytes, ttl).await,
        }
    }

    /// Deletes a record only if it still has this version.
    ///
    /// # Errors
    /// As [`create`](Self::create), but never [`StoreError::TooLarge`].
    pub async fn remove(&self, key: &Key, version: &Version) -> Result<Replaced, StoreError> {
        if version.key != *key {
            return Ok(Replaced::Stale);
        }
        let _writing = self.writing(key);
        match &self.engine {
            Engine::Memory(memory) => Ok(memory.remove(key, version)),
            Engine::Remote(fleet) => fleet.remove(key, version).await,
            Engine::Cluster(cluster) => cluster.remove(key, version).await,
        }
    }

    /// Deletes a record; an absent one is fine.
    ///
    /// # Errors
    /// As [`remove`](Self::remove). Repeating it is always safe.
    pub async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let _writing = self.writing(key);
        match &self.engine {
            Engine::Memory(memory) => {
                memory.delete(key);
                Ok(())
            }
            Engine::Remote(fleet) => fleet.delete(key).await,
            Engine::Cluster(cluster) => cluster.delete(key).await,
        }
    }

    /// Lets a record live for `ttl` from now; `false` when there is none. Its version stays.
    ///
    /// # Errors
    /// As [`remove`](Self::remove). Repeating it is always safe.
    pub async fn touch(&self, key: &Key, ttl: Duration) -> Result<bool, StoreError> {
        let ttl = check_lifetime(ttl)?;
        match &self.engine {
            Engine::Memory(memory) => Ok(memory.touch(key, ttl)),
            Engine::Remote(fleet) => fleet.touch(key, ttl).await,
            Engine::Cluster(cluster) => cluster.touch(key, ttl).await,
        }
    }

    /// Asks whether the store answers; of several servers, whether one of them does.
    ///
    /// # Errors
    /// What the last server asked failed with.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Memory(_) => Ok(()),
            Engine::Remote(fleet) => fleet.ping().await,
            Engine::Cluster(cluster) => cluster.ping().await,
        }
    }

    /// Gives up this worker's connections, because an answer did not belong to its question.
    /// Answers that are still on their way are lost with them; new connections are opened in the
    /// background or by the next operations.
    pub fn distrust(&self) {
        match &self.engine {
            Engine::Memory(_) => {}
            Engine::Remote(fleet) => fleet.distrust(),
            Engine::Cluster(cluster) => cluster.distrust(),
        }
    }

    /// To be held while `key` is written, however that ends.
    fn writing<'a>(&'a self, key: &'a Key) -> Option<Writing<'a>> {
        self.near.as_ref().map(|near| near.writing(key))
    }
}

fn check_lifetime(ttl: Duration) -> Result<Duration, StoreError> {
    if ttl.is_zero() {
        return Err(StoreError::refused("a record can't live for no time"));
    }
    Ok(ttl.min(MAX_LIFETIME))
}

fn check_record(bytes: &Bytes) -> Result<(), StoreError> {
    if bytes.is_empty() {
        return Err(StoreError::refused("a record has at least one byte"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_visible_ascii_of_at_most_250_bytes() {
        assert_eq!(Key::new("s:", b"abc").unwrap().as_bytes(), b"s:abc");
        assert!(Key::new("", &[b'x'; 250]).is_ok());
        for (prefix, suffix) in [
            ("", &b""[..]),
            ("x", &[b'x'; 250]),
            ("", b"a b"),
            ("", b"a\r\nflush_all"),
            ("", b"a\0"),
            ("", b"\x7f"),
            ("\u{e9}", b"a"),
        ] {
            assert_eq!(Key::new(prefix, suffix), Err(KeyError), "{suffix:?}");
        }
    }

    #[test]
    fn debug_hides_keys_and_records() {
        let key = Key::new("s:", b"very-secret").unwrap();
        let version = Version::bytes(&key, Bytes::from_static(b"very-secret"));
        assert_eq!(format!("{key:?} {version:?}"), "Key(13 bytes) Version(..)");
    }

    #[test]
    fn lifetime_of_zero_is_refused_and_a_huge_one_cut() {
        assert!(matches!(
            check_lifetime(Duration::ZERO),
            Err(StoreError::Refused(_))
        ));
        let tiny = Duration::from_nanos(1);
        assert_eq!(check_lifetime(tiny).unwrap(), tiny);
        assert_eq!(check_lifetime(Duration::MAX).unwrap(), MAX_LIFETIME);
    }
}

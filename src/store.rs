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

pub use breaker::Breaker;
pub use error::{BoxError, StoreError};
pub use memory::MemoryStore;
pub use scan::{Left, Page, Scan};

use crate::config::{self, Storage};
use remote::Fleet;

mod batch;
mod breaker;
mod error;
mod memcached;
mod memory;
mod redis;
mod remote;
mod scan;

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

/// One worker's way to the records, with a [`Breaker`] in front of every server.
///
/// Cheap to clone; clones share connections and breakers. The memory engine's records are shared
/// by all workers, connections are not.
#[derive(Clone, Debug)]
pub struct Store(Engine);

#[derive(Clone, Debug)]
enum Engine {
    Memory(MemoryStore),
    Remote(Fleet),
}

impl Store {
    /// Opens the store for one worker, on whose runtime its connections then live.
    ///
    /// `memory` is what all workers share when the engine is `memory`; other engines leave it
    /// alone. A server that is down does not keep the proxy from starting: it is tried again in
    /// the background, and operations fail until it answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the certificates to trust can't be read.
    ///
    /// # Cancel safety
    /// Nothing stays behind when the future is dropped.
    pub async fn connect(storage: &Storage, memory: &MemoryStore) -> Result<Self, StoreError> {
        Ok(Self(match &storage.engine {
            config::Engine::Memory { .. } => Engine::Memory(memory.clone()),
            config::Engine::Redis(redis) => Engine::Remote(Fleet::redis(storage, redis).await?),
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
        }))
    }

    /// Opens another database of the same Redis, with a connection and a [`Breaker`] of its own;
    /// otherwise as [`connect`](Self::connect).
    ///
    /// # Errors
    /// - [`StoreError::Unavailable`] when the certificates to trust can't be read.
    /// - [`StoreError::Refused`] when the engine is not Redis: the others have no databases.
    ///
    /// # Cancel safety
    /// Nothing stays behind when the future is dropped.
    pub async fn connect_database(storage: &Storage, database: u8) -> Result<Self, StoreError> {
        let config::Engine::Redis(redis) = &storage.engine else {
            return Err(StoreError::refused("this engine has no databases"));
        };
        let redis = config::Redis {
            database,
            ..redis.clone()
        };
        Ok(Self(Engine::Remote(Fleet::redis(storage, &redis).await?)))
    }

    /// Loads a record; `None` when it is missing, expired or evicted.
    ///
    /// # Errors
    /// - [`StoreError::Unavailable`], [`StoreError::TimedOut`]: safe to try again.
    /// - [`StoreError::Corrupt`]: the answer is no record; see [`distrust`](Self::distrust).
    /// - [`StoreError::Refused`]: the server does not let us read.
    pub async fn load(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        match &self.0 {
            Engine::Memory(memory) => Ok(memory.load(key)),
            Engine::Remote(fleet) => fleet.load(key).await,
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
        match &self.0 {
            Engine::Memory(memory) => memory.create(key, &bytes, ttl),
            Engine::Remote(fleet) => fleet.create(key, bytes, ttl).await,
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
        match &self.0 {
            Engine::Memory(memory) => memory.replace(key, version, &bytes, ttl),
            Engine::Remote(fleet) => fleet.replace(key, version, bytes, ttl).await,
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
        match &self.0 {
            Engine::Memory(memory) => Ok(memory.remove(key, version)),
            Engine::Remote(fleet) => fleet.remove(key, version).await,
        }
    }

    /// Deletes a record; an absent one is fine.
    ///
    /// # Errors
    /// As [`remove`](Self::remove). Repeating it is always safe.
    pub async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match &self.0 {
            Engine::Memory(memory) => {
                memory.delete(key);
                Ok(())
            }
            Engine::Remote(fleet) => fleet.delete(key).await,
        }
    }

    /// Lets a record live for `ttl` from now; `false` when there is none. Its version stays.
    ///
    /// # Errors
    /// As [`remove`](Self::remove). Repeating it is always safe.
    pub async fn touch(&self, key: &Key, ttl: Duration) -> Result<bool, StoreError> {
        let ttl = check_lifetime(ttl)?;
        match &self.0 {
            Engine::Memory(memory) => Ok(memory.touch(key, ttl)),
            Engine::Remote(fleet) => fleet.touch(key, ttl).await,
        }
    }

    /// Asks whether the store answers; of several servers, whether one of them does.
    ///
    /// # Errors
    /// What the last server asked failed with.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.0 {
            Engine::Memory(_) => Ok(()),
            Engine::Remote(fleet) => fleet.ping().await,
        }
    }

    /// Gives up this worker's connections, because an answer did not belong to its question.
    /// Answers that are still on their way are lost with them; new connections are opened in the
    /// background or by the next operations.
    pub fn distrust(&self) {
        match &self.0 {
            Engine::Memory(_) => {}
            Engine::Remote(fleet) => fleet.distrust(),
        }
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

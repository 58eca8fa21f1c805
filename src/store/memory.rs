//! Records in the proxy's own memory: bounded by bytes, the least recently used go first.
//!
//! All workers share one [`MemoryStore`], which is cut into shards. "Least recently used" holds within
//! a shard.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::shard::{Shard, footprint};
use super::sharded::Sharded;
use super::{Created, Key, Record, Replaced, StoreError, Version};
use crate::config::{Engine, Storage};

/// Shards are not smaller than this, so that one record can always be a few megabytes.
const MIN_SHARD_BYTES: usize = 4 * 1024 * 1024;

/// The records of the memory engine. Cheap to clone; clones share the records.
#[derive(Clone, Debug)]
pub struct MemoryStore(Arc<Sharded<Shard>>);

impl MemoryStore {
    /// Makes an empty store that holds at most `max_bytes`, keys and bookkeeping included.
    ///
    /// One record takes at most one shard: a sixteenth of `max_bytes`, but never less than 4 MiB, or
    /// than all of `max_bytes` where that is less.
    pub fn new(max_bytes: usize) -> Self {
        Self(Arc::new(Sharded::new(
            max_bytes,
            MIN_SHARD_BYTES,
            Shard::new,
        )))
    }

    /// The store that [`Store::connect`](super::Store::connect) shares between the workers: of the
    /// size in the settings, or empty when they name another engine.
    pub fn for_storage(storage: &Storage) -> Self {
        match storage.engine {
            Engine::Memory { max_bytes } => Self::new(max_bytes),
            Engine::Redis(_) | Engine::Memcached { .. } => Self::new(0),
        }
    }

    /// Removes records that had expired at `now` and returns how many.
    ///
    /// One call looks at a few thousand records at most and the next call goes on from there, so
    /// it can run on a worker, about once a second. Reads don't depend on it: they check
    /// expiry themselves.
    pub fn purge(&self, now: Instant) -> usize {
        self.0.all().map(|mut shard| shard.purge(now)).sum()
    }

    /// The records held, expired ones that were not purged included.
    pub fn len(&self) -> usize {
        self.0.all().map(|shard| shard.len()).sum()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn load(&self, key: &Key) -> Option<Record> {
        let now = Instant::now();
        let (bytes, number) = self.shard(key).load(key, now)?;
        Some(Record {
            bytes,
            version: Version::number(key, number),
        })
    }

    pub(super) fn create(
        &self,
        key: &Key,
        bytes: &Bytes,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let bytes = self.own(key, bytes)?;
        let now = Instant::now();
        Ok(match self.shard(key).create(key, bytes, now, now + ttl) {
            Some(number) => Created::Stored(Version::number(key, number)),
            None => Created::Exists,
        })
    }

    pub(super) fn replace(
        &self,
        key: &Key,
        version: &Version,
        bytes: &Bytes,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        let bytes = self.own(key, bytes)?;
        let now = Instant::now();
        let mut shard = self.shard(key);
        Ok(match shard.version(key, now) {
            None => Replaced::Gone,
            Some(number) if version.as_number() == Some(number) => {
                let number = shard.overwrite(key, bytes, now + ttl);
                Replaced::Stored(Version::number(key, number))
            }
            Some(_) => Replaced::Stale,
        })
    }

    pub(super) fn remove(&self, key: &Key, version: &Version) -> Replaced {
        let now = Instant::now();
        let mut shard = self.shard(key);
        match shard.version(key, now) {
            None => Replaced::Gone,
            Some(number) if version.as_number() == Some(number) => {
                shard.delete(key);
                Replaced::Stored(version.clone())
            }
            Some(_) => Replaced::Stale,
        }
    }

    pub(super) fn delete(&self, key: &Key) {
        self.shard(key).delete(key);
    }

    pub(super) fn touch(&self, key: &Key, ttl: Duration) -> bool {
        let now = Instant::now();
        self.shard(key).touch(key, now, now + ttl)
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let (shard, _) = self.0.of(key);
        shard
    }

    /// A copy that holds no more memory than it has bytes: what is given may be a piece of a larger
    /// buffer, which the bound would not see.
    fn own(&self, key: &Key, bytes: &Bytes) -> Result<Bytes, StoreError> {
        let size = footprint(key, bytes);
        if size > self.0.bound() {
            let around = size.saturating_sub(bytes.len());
            return Err(StoreError::TooLarge {
                size: bytes.len(),
                limit: self.0.bound().saturating_sub(around),
            });
        }
        Ok(Bytes::copy_from_slice(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_mins(1);

    fn key(name: &str) -> Key {
        Key::new("", name.as_bytes()).unwrap()
    }

    fn stored(store: &MemoryStore, name: &str) -> Version {
        match store.create(&key(name), &Bytes::from_static(b"bytes"), TTL) {
            Ok(Created::Stored(version)) => version,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn record_is_gone_when_its_time_is_over_and_not_before() {
        let store = MemoryStore::new(1 << 20);
        let version = stored(&store, "a");
        let instant = Duration::from_millis(1);
        tokio::time::advance(TTL.saturating_sub(instant)).await;
        assert!(store.load(&key("a")).is_some());
        tokio::time::advance(instant).await;
        let gone = store.replace(&key("a"), &version, &Bytes::from_static(b"x"), TTL);
        assert!(matches!(gone, Ok(Replaced::Gone)));
        assert!(!store.touch(&key("a"), TTL));
        assert!(store.load(&key("a")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn purge_removes_expired_records_that_nobody_reads() {
        let store = MemoryStore::new(64 << 20);
        for number in 0..10_000 {
            stored(&store, &number.to_string());
        }
        assert_eq!(store.purge(Instant::now()), 0);
        let later = Instant::now() + TTL;
        let mut purged = 0;
        for _ in 0..10_000 {
            purged += store.purge(later);
            if store.is_empty() {
                break;
            }
        }
        assert_eq!((purged, store.len()), (10_000, 0));
    }

    #[test]
    fn shards_share_no_version_numbers() {
        let store = MemoryStore::new(64 << 20);
        let mut numbers: Vec<_> = (0..1000)
            .map(|number| stored(&store, &number.to_string()).as_number())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 1000);
    }

    #[test]
    fn record_larger_than_a_shard_is_too_large() {
        let store = MemoryStore::new(1000);
        let error = store
            .create(&key("a"), &Bytes::from(vec![0; 1001]), TTL)
            .unwrap_err();
        let StoreError::TooLarge { size: 1001, limit } = error else {
            panic!("{error:?}");
        };
        let fits = store.create(&key("a"), &Bytes::from(vec![0; limit]), TTL);
        assert!(matches!(fits, Ok(Created::Stored(_))));
        store
            .create(&key("b"), &Bytes::from(vec![0; limit + 1]), TTL)
            .unwrap_err();
    }
}

//! What all workers share in memory, cut into shards, each under its own lock, so that they rarely wait
//! for each other.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Key;

/// The most shards that there are.
pub(super) const MAX_SHARDS: usize = 16;

/// Shards of one size. A lock is held for a few steps, never across an await.
#[derive(Debug)]
pub(super) struct Sharded<T> {
    shards: Box<[Mutex<T>]>,
    /// Chooses the shard. Seeded at start, so that nobody can aim at one.
    hasher: RandomState,
    bound: usize,
}

impl<T> Sharded<T> {
    /// Cuts `max_bytes` into shards of at least `min_bytes`, if there are so many. `make` makes each of
    /// them, of its number and its share of the bytes.
    pub(super) fn new(max_bytes: usize, min_bytes: usize, make: impl Fn(u64, usize) -> T) -> Self {
        let count = (max_bytes / min_bytes).clamp(1, MAX_SHARDS);
        let bound = max_bytes / count;
        let numbers = (0_u64..).take(count);
        Self {
            shards: numbers
                .map(|number| Mutex::new(make(number, bound)))
                .collect(),
            hasher: RandomState::new(),
            bound,
        }
    }

    /// The bound of each shard, in bytes.
    pub(super) fn bound(&self) -> usize {
        self.bound
    }

    /// The shard of a key, and the half of the key's hash that does not choose it.
    pub(super) fn of(&self, key: &Key) -> (MutexGuard<'_, T>, u32) {
        let hash = self.hasher.hash_one(key);
        let half = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap_or_default();
        let shard = self.shards.get(pick(half(hash >> 32), self.shards.len()));
        let shard = shard.expect("the index was taken modulo the number of shards");
        (lock(shard), half(hash))
    }

    /// One shard after the other.
    pub(super) fn all(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.shards.iter().map(lock)
    }
}

/// One of `count` things by a hash.
pub(super) fn pick(hash: u32, count: usize) -> usize {
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    usize::try_from(hash % count).unwrap_or(0)
}

/// A panic elsewhere while the lock was held can't have left a shard half changed: its steps don't run
/// foreign code.
fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

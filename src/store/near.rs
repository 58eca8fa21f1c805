//! The near cache: records in the proxy's own memory, kept true by the store.
//!
//! The store tells each connection when a record changes that was read over it ([`Feed`]); what
//! changed is dropped here. All workers share one [`Near`]. Four promises hold, and a model of two
//! proxies shows them under random interleavings (`near/model.rs`):
//!
//! - **Bounded age.** What is taken from here was asked of the store at most `max_staleness` ago,
//!   whatever is lost on the way. It does not depend on anything that the store or the driver does.
//! - **Own writes.** A load that begins after a write through this proxy has ended, whatever came of
//!   it, sees that write or what came after it.
//! - **News wins.** What the store says to have changed is never kept from a load that was on its way
//!   meanwhile, whichever of the two arrives first.
//! - **Nothing untold.** Only what was read over a connection that is told of changes is kept. When
//!   such a connection is lost, everything goes.
//!
//! A record that does not exist is kept like one that does, as no bytes at all.
//!
//! Whether a load was overtaken is seen by a counter that each change moves. Several keys share a
//! counter, so that none needs to be kept for a load that never ends: a change of one of them keeps
//! a load of another from being kept, which costs a load and is never wrong.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::shard::{Shard, footprint};
use super::sharded::{Sharded, pick};
use super::{Key, Record, Version};
use crate::config::NearCache;

#[cfg(test)]
mod model;

/// Shards are not smaller than this, so that a large record can be kept at all.
const MIN_SHARD_BYTES: usize = 1024 * 1024;

/// Counters of each shard.
const COUNTERS: usize = 64;

/// The records near at hand. Cheap to clone; clones share the records.
#[derive(Clone, Debug)]
pub(super) struct Near(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Sharded<Part>,
    max_staleness: Duration,
}

#[derive(Debug)]
struct Part {
    records: Shard,
    /// How often something has changed, by the hash of the key.
    changes: [u64; COUNTERS],
}

/// What is known of a key without asking the store.
#[derive(Debug)]
pub(super) enum Known {
    /// The record.
    Record(Record),
    /// There is none.
    Absent,
    /// It has to be asked for.
    Nothing,
}

/// A load that is on its way over a connection that is told of changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    changes: u64,
    begun: Instant,
}

impl Near {
    pub(super) fn new(settings: NearCache) -> Self {
        let part = |_, bound| Part {
            records: Shard::new(0, bound),
            changes: [0; COUNTERS],
        };
        Self(Arc::new(Inner {
            parts: Sharded::new(settings.max_bytes, MIN_SHARD_BYTES, part),
            max_staleness: settings.max_staleness,
        }))
    }

    /// What is known of `key` at `now`.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Known {
        let (mut part, _) = self.part(key);
        match part.records.load(key, now) {
            None => Known::Nothing,
            Some((bytes, _)) if bytes.is_empty() => Known::Absent,
            Some((bytes, _)) => Known::Record(Record {
                version: Version::bytes(key, bytes.clone()),
                bytes,
            }),
        }
    }

    /// To be called before a load is sent.
    fn begin(&self, key: &Key, now: Instant) -> Ticket {
        let (mut part, counter) = self.part(key);
        Ticket {
            changes: *part.counter(counter),
            begun: now,
        }
    }

    /// Keeps the answer to a load if it was not overtaken; `None` is that there is no record. An answer
    /// that differs from what is kept already shows that one of the two is old: neither stays.
    fn keep(&self, key: &Key, ticket: Option<Ticket>, bytes: Option<&Bytes>, now: Instant) {
        let bytes = bytes.map_or(&[][..], Bytes::as_ref);
        let (mut part, counter) = self.part(key);
        if let Some((kept, _)) = part.records.load(key, now) {
            if kept != bytes {
                part.forget(key, counter);
            }
            return;
        }
        let Some(ticket) = ticket.filter(|ticket| ticket.changes == *part.counter(counter)) else {
            return;
        };
        // A copy: what comes from the driver is a piece of a larger buffer, which the bound would
        // not see.
        let bytes = Bytes::copy_from_slice(bytes);
        if footprint(key, &bytes) <= self.0.parts.bound() {
            let expires = ticket.begun + self.0.max_staleness;
            // Its version is not used: what is compared when it is written are the bytes.
            let _version = part.records.create(key, bytes, now, expires);
        }
    }

    /// Drops a record that has, or may have, changed.
    pub(super) fn changed(&self, key: &Key) {
        let (mut part, counter) = self.part(key);
        part.forget(key, counter);
    }

    /// Drops everything.
    pub(super) fn clear(&self) {
        for mut part in self.0.parts.all() {
            for changes in &mut part.changes {
                *changes = changes.wrapping_add(1);
            }
            part.records = Shard::new(0, self.0.parts.bound());
        }
    }

    /// Frees records that are too old, as [`MemoryStore::purge`](super::MemoryStore::purge) does.
    pub(super) fn purge(&self, now: Instant) {
        for mut part in self.0.parts.all() {
            let _purged = part.records.purge(now);
        }
    }

    /// Says that `key` is being written. It counts as changed when the guard goes, also when the
    /// write is cancelled, or nobody knows what came of it.
    #[must_use]
    pub(super) fn writing<'a>(&'a self, key: &'a Key) -> Writing<'a> {
        Writing { near: self, key }
    }

    /// The shard of a key, and which of its counters.
    fn part(&self, key: &Key) -> (MutexGuard<'_, Part>, usize) {
        let (part, hash) = self.0.parts.of(key);
        (part, pick(hash, COUNTERS))
    }
}

impl Part {
    fn counter(&mut self, at: usize) -> &mut u64 {
        self.changes
            .get_mut(at)
            .expect("the index was taken modulo the number of counters")
    }

    fn forget(&mut self, key: &Key, counter: usize) {
        let changes = self.counter(counter);
        *changes = changes.wrapping_add(1);
        self.records.delete(key);
    }
}

/// A write that is under way; see [`Near::writing`].
#[derive(Debug)]
pub(super) struct Writing<'a> {
    near: &'a Near,
    key: &'a Key,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.near.changed(self.key);
    }
}

/// What one connection is told of changes.
///
/// Whoever has the connection says what comes in over it, in its order, and before the answers that
/// came in later are [kept](Self::keep).
#[derive(Debug)]
pub(super) struct Feed {
    near: Near,
    /// Whether the store tells this connection of changes to what is read over it.
    is_told: bool,
    /// How many connections were lost.
    losses: u64,
}

/// A connection that has been asked to be told of changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked(u64);

impl Feed {
    pub(super) fn new(near: Near) -> Self {
        Self {
            near,
            is_told: false,
            losses: 0,
        }
    }

    /// The connection was lost, or is another one than before. Over one that was not told of changes
    /// nothing was kept, so what others keep stays.
    pub(super) fn lost(&mut self) {
        self.losses = self.losses.wrapping_add(1);
        if std::mem::take(&mut self.is_told) {
            self.near.clear();
        }
    }

    /// To be called before the store is asked to tell this connection of changes; `None` when it does.
    pub(super) fn ask(&self) -> Option<Asked> {
        (!self.is_told).then_some(Asked(self.losses))
    }

    /// The store has agreed, and tells this connection of changes; `false` when that was another
    /// connection, which was lost since.
    pub(super) fn agreed(&mut self, asked: Asked) -> bool {
        self.is_told |= asked.0 == self.losses;
        self.is_told
    }

    /// The store told that records have changed.
    pub(super) fn changed(&self, key: &Key) {
        self.near.changed(key);
    }

    /// Something was told that nobody heard.
    pub(super) fn missed(&self) {
        self.near.clear();
    }

    /// To be called before a load is sent over this connection.
    pub(super) fn begin(&self, key: &Key, now: Instant) -> Option<Ticket> {
        self.is_told.then(|| self.near.begin(key, now))
    }

    /// Keeps the answer to a load, unless it was overtaken; `None` is that there is no record.
    pub(super) fn keep(
        &self,
        key: &Key,
        ticket: Option<Ticket>,
        bytes: Option<&Bytes>,
        now: Instant,
    ) {
        self.near.keep(key, ticket, bytes, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALENESS: Duration = Duration::from_secs(10);

    fn near(max_bytes: usize) -> Near {
        Near::new(NearCache {
            max_bytes,
            max_staleness: STALENESS,
        })
    }

    fn told(near: &Near) -> Feed {
        let mut feed = Feed::new(near.clone());
        let asked = feed.ask().unwrap();
        assert!(feed.agreed(asked));
        feed
    }

    fn key(name: &str) -> Key {
        Key::new("", name.as_bytes()).unwrap()
    }

    fn text(known: &Known) -> &str {
        match known {
            Known::Record(record) => std::str::from_utf8(&record.bytes).unwrap(),
            Known::Absent => "absent",
            Known::Nothing => "nothing",
        }
    }

    const OLD: Bytes = Bytes::from_static(b"old");
    const NEW: Bytes = Bytes::from_static(b"new");

    #[test]
    fn what_was_read_is_kept_until_it_is_too_old_counted_from_when_it_was_asked_for() {
        let near = near(1 << 20);
        let (feed, key, now) = (told(&near), key("a"), Instant::now());
        let ticket = feed.begin(&key, now);
        let answered = now + Duration::from_secs(4);
        feed.keep(&key, ticket, Some(&OLD), answered);
        let last = now + STALENESS - Duration::from_millis(1);
        assert_eq!(text(&near.get(&key, last)), "old");
        assert_eq!(text(&near.get(&key, now + STALENESS)), "nothing");
    }

    #[test]
    fn absence_is_kept_too() {
        let near = near(1 << 20);
        let (feed, key, now) = (told(&near), key("a"), Instant::now());
        feed.keep(&key, feed.begin(&key, now), None, now);
        assert_eq!(text(&near.get(&key, now)), "absent");
        feed.changed(&key);
        assert_eq!(text(&near.get(&key, now)), "nothing");
    }

    #[test]
    fn a_change_that_overtakes_the_answer_wins() {
        let near = near(1 << 20);
        let (feed, key, now) = (told(&near), key("a"), Instant::now());
        let ticket = feed.begin(&key, now);
        feed.changed(&key);
        feed.keep(&key, ticket, Some(&OLD), now);
        assert_eq!(text(&near.get(&key, now)), "nothing");
    }

    #[test]
    fn a_write_counts_when_it_ends_and_when_it_is_given_up() {
        let near = near(1 << 20);
        let (feed, key, now) = (told(&near), key("a"), Instant::now());
        feed.keep(&key, feed.begin(&key, now), Some(&OLD), now);
        let writing = near.writing(&key);
        let ticket = feed.begin(&key, now);
        drop(writing);
        assert_eq!(text(&near.get(&key, now)), "nothing");
        feed.keep(&key, ticket, Some(&OLD), now);
        assert_eq!(text(&near.get(&key, now)), "nothing");
    }

    #[test]
    fn nothing_is_kept_from_a_connection_that_is_not_told_or_was_lost_meanwhile() {
        let near = near(1 << 20);
        let (key, now) = (key("a"), Instant::now());
        let mut feed = Feed::new(near.clone());
        feed.keep(&key, feed.begin(&key, now), Some(&OLD), now);
        assert_eq!(text(&near.get(&key, now)), "nothing");

        let asked = feed.ask().unwrap();
        feed.lost();
        assert!(!feed.agreed(asked));

        let asked = feed.ask().unwrap();
        assert!(feed.agreed(asked));
        let ticket = feed.begin(&key, now);
        feed.lost();
        feed.keep(&key, ticket, Some(&OLD), now);
        assert_eq!(text(&near.get(&key, now)), "nothing");
    }

    #[test]
    fn a_lost_connection_takes_along_what_others_read() {
        let near = near(64 << 20);
        let (mut feed, other) = (told(&near), told(&near));
        let now = Instant::now();
        let keys: Vec<Key> = (0..100).map(|number| key(&number.to_string())).collect();
        for key in &keys {
            other.keep(key, other.begin(key, now), Some(&OLD), now);
        }
        feed.lost();
        for key in &keys {
            assert_eq!(text(&near.get(key, now)), "nothing");
        }
    }

    #[test]
    fn a_connection_that_was_never_told_takes_nothing_along() {
        let near = near(1 << 20);
        let (feed, key, now) = (told(&near), key("a"), Instant::now());
        feed.keep(&key, feed.begin(&key, now), Some(&OLD), now);
        Feed::new(near.clone()).lost();
        assert_eq!(text(&near.get(&key, now)), "old");
    }

    #[test]
    fn two_answers_that_differ_leave_nothing_and_the_same_one_twice_stays() {
        let near = near(1 << 20);
        let (feed, key, now) = (told(&near), key("a"), Instant::now());
        let (first, second) = (feed.begin(&key, now), feed.begin(&key, now));
        feed.keep(&key, first, Some(&OLD), now);
        feed.keep(&key, second, Some(&OLD), now);
        assert_eq!(text(&near.get(&key, now)), "old");
        // As when a strict route looks.
        feed.keep(&key, None, Some(&NEW), now);
        assert_eq!(text(&near.get(&key, now)), "nothing");
    }

    #[test]
    fn more_than_the_bound_is_not_kept() {
        let near = near(1 << 20);
        let (feed, now) = (told(&near), Instant::now());
        let large = Bytes::from(vec![0; 100_000]);
        let keys: Vec<Key> = (0..100).map(|number| key(&number.to_string())).collect();
        for key in &keys {
            feed.keep(key, feed.begin(key, now), Some(&large), now);
        }
        let kept = keys
            .iter()
            .filter(|key| matches!(near.get(key, now), Known::Record(_)));
        assert_eq!(kept.count(), (1 << 20) / 100_500);
        let huge = Bytes::from(vec![0; 2 << 20]);
        feed.keep(
            &key("huge"),
            feed.begin(&key("huge"), now),
            Some(&huge),
            now,
        );
        assert_eq!(text(&near.get(&key("huge"), now)), "nothing");
    }
}

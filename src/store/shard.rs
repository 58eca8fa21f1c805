//! One shard of what is in memory: a map from keys to slots, and the slots in the order of their last use.
//!
//! The order is a doubly linked list whose links are indices into one vector, so every operation
//! takes constant time without unsafe code. Freed slots are used again; the vector never shrinks.

use std::collections::HashMap;
use std::mem::size_of;

use bytes::Bytes;
use tokio::time::Instant;

use super::Key;
use super::sharded::MAX_SHARDS;

/// Slots that one call of [`Shard::purge`] looks at.
const PURGE_STEP: usize = 512;

/// What a record takes beside its key and its bytes: its slot, its place in the map (which keeps
/// up to half of its places free), and the heads of two allocations.
const OVERHEAD: usize = size_of::<Slot>() + 2 * size_of::<(Key, usize)>() + 64;

pub(super) fn footprint(key: &Key, bytes: &Bytes) -> usize {
    OVERHEAD
        .saturating_add(key.0.len())
        .saturating_add(bytes.len())
}

#[derive(Debug)]
pub(super) struct Shard {
    index: HashMap<Key, usize>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Most and least recently used.
    head: Option<usize>,
    tail: Option<usize>,
    used: usize,
    bound: usize,
    /// The last version given out. Steps by the number of shards, so that no two keys of the
    /// whole store ever have the same version.
    version: u64,
    /// Where the next purge begins.
    cursor: usize,
}

#[derive(Debug)]
struct Slot {
    /// `None` in a free slot.
    entry: Option<Entry>,
    newer: Option<usize>,
    older: Option<usize>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    bytes: Bytes,
    version: u64,
    expires: Instant,
}

impl Shard {
    /// `first` is this shard's number: what its versions begin with.
    pub(super) fn new(first: u64, bound: usize) -> Self {
        Self {
            index: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            head: None,
            tail: None,
            used: 0,
            bound,
            version: first,
            cursor: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn load(&mut self, key: &Key, now: Instant) -> Option<(Bytes, u64)> {
        let at = self.find(key, now)?;
        self.move_to_front(at);
        let entry = self.entry(at);
        Some((entry.bytes.clone(), entry.version))
    }

    pub(super) fn version(&mut self, key: &Key, now: Instant) -> Option<u64> {
        let at = self.find(key, now)?;
        Some(self.entry(at).version)
    }

    /// The new record's version; `None` when there is one already.
    pub(super) fn create(
        &mut self,
        key: &Key,
        bytes: Bytes,
        now: Instant,
        expires: Instant,
    ) -> Option<u64> {
        if self.find(key, now).is_some() {
            return None;
        }
        let version = self.next_version();
        self.used += footprint(key, &bytes);
        let slot = Slot {
            entry: Some(Entry {
                key: key.clone(),
                bytes,
                version,
                expires,
            }),
            newer: None,
            older: None,
        };
        let at = if let Some(at) = self.free.pop() {
            *self.slot(at) = slot;
            at
        } else {
            self.slots.push(slot);
            self.slots.len() - 1
        };
        self.index.insert(key.clone(), at);
        self.link(at);
        self.evict();
        Some(version)
    }

    /// Writes over a record that [`version`](Self::version) has just found.
    pub(super) fn overwrite(&mut self, key: &Key, bytes: Bytes, expires: Instant) -> u64 {
        let at = *self.index.get(key).expect("version() has found the key");
        let version = self.next_version();
        let size = footprint(key, &bytes);
        let entry = self.entry(at);
        let old = footprint(key, &entry.bytes);
        entry.bytes = bytes;
        entry.version = version;
        entry.expires = expires;
        self.used = self.used - old + size;
        self.move_to_front(at);
        self.evict();
        version
    }

    pub(super) fn touch(&mut self, key: &Key, now: Instant, expires: Instant) -> bool {
        let Some(at) = self.find(key, now) else {
            return false;
        };
        self.move_to_front(at);
        self.entry(at).expires = expires;
        true
    }

    pub(super) fn delete(&mut self, key: &Key) {
        if let Some(at) = self.index.get(key).copied() {
            self.release(at);
        }
    }

    /// Removes expired records among the next few slots, and returns how many.
    pub(super) fn purge(&mut self, now: Instant) -> usize {
        let mut purged = 0;
        for _ in 0..PURGE_STEP.min(self.slots.len()) {
            let at = self.cursor;
            self.cursor = (at + 1) % self.slots.len();
            let entry = &self.slot(at).entry;
            if entry.as_ref().is_some_and(|entry| entry.expires <= now) {
                self.release(at);
                purged += 1;
            }
        }
        purged
    }

    /// The slot of a record that is alive. One that is not is removed.
    fn find(&mut self, key: &Key, now: Instant) -> Option<usize> {
        let at = *self.index.get(key)?;
        if self.entry(at).expires <= now {
            self.release(at);
            return None;
        }
        Some(at)
    }

    fn evict(&mut self) {
        while self.used > self.bound
            && let Some(at) = self.tail
        {
            self.release(at);
        }
    }

    fn release(&mut self, at: usize) {
        self.unlink(at);
        if let Some(entry) = self.slot(at).entry.take() {
            self.used -= footprint(&entry.key, &entry.bytes);
            self.index.remove(&entry.key);
            self.free.push(at);
        }
    }

    fn move_to_front(&mut self, at: usize) {
        if self.head != Some(at) {
            self.unlink(at);
            self.link(at);
        }
    }

    fn link(&mut self, at: usize) {
        let head = self.head.replace(at);
        let slot = self.slot(at);
        slot.newer = None;
        slot.older = head;
        match head {
            Some(head) => self.slot(head).newer = Some(at),
            None => self.tail = Some(at),
        }
    }

    fn unlink(&mut self, at: usize) {
        let slot = self.slot(at);
        let (newer, older) = (slot.newer.take(), slot.older.take());
        match newer {
            Some(newer) => self.slot(newer).older = older,
            None => self.head = older,
        }
        match older {
            Some(older) => self.slot(older).newer = newer,
            None => self.tail = newer,
        }
    }

    fn next_version(&mut self) -> u64 {
        let step = u64::try_from(MAX_SHARDS).unwrap_or(u64::MAX);
        self.version = self.version.wrapping_add(step);
        self.version
    }

    fn slot(&mut self, at: usize) -> &mut Slot {
        self.slots
            .get_mut(at)
            .expect("slots are never removed, so every index stays good")
    }

    fn entry(&mut self, at: usize) -> &mut Entry {
        self.slot(at)
            .entry
            .as_mut()
            .expect("the map leads to slots that are in use")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Key {
        Key::new("key-", number.to_string().as_bytes()).unwrap()
    }

    /// The same in the plainest way: a queue, most recently used first.
    #[derive(Default)]
    struct Model {
        records: VecDeque<(Key, Bytes, Instant)>,
        bound: usize,
    }

    impl Model {
        fn take(&mut self, key: &Key, now: Instant) -> Option<(Key, Bytes, Instant)> {
            let at = self.records.iter().position(|record| record.0 == *key)?;
            let record = self.records.remove(at)?;
            (record.2 > now).then_some(record)
        }

        fn put(&mut self, key: Key, bytes: Bytes, expires: Instant) {
            self.records.push_front((key, bytes, expires));
            while self.used() > self.bound {
                self.records.pop_back();
            }
        }

        fn used(&self) -> usize {
            let sizes = self.records.iter().map(|r| footprint(&r.0, &r.1));
            sizes.sum()
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Load(u8),
        Create(u8, u8, u64),
        Overwrite(u8, u8, u64),
        Touch(u8, u64),
        Delete(u8),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..12_u8;
        let size = 1..=255_u8;
        let ttl = 1..20_u64;
        prop_oneof![
            key.clone().prop_map(Step::Load),
            (key.clone(), size.clone(), ttl.clone()).prop_map(|(k, s, t)| Step::Create(k, s, t)),
            (key.clone(), size, ttl.clone()).prop_map(|(k, s, t)| Step::Overwrite(k, s, t)),
            (key.clone(), ttl.clone()).prop_map(|(k, t)| Step::Touch(k, t)),
            key.prop_map(Step::Delete),
            ttl.prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn shard_behaves_like_a_plain_queue(steps in prop::collection::vec(step(), 1..200)) {
            let bound = 6 * (OVERHEAD + 100);
            let mut shard = Shard::new(0, bound);
            let mut model = Model { bound, ..Model::default() };
            let mut now = Instant::now();
            for step in steps {
                match step {
                    Step::Load(k) => {
                        let expected = model.take(&key(k), now);
                        let found = shard.load(&key(k), now).map(|found| found.0);
                        prop_assert_eq!(found, expected.as_ref().map(|record| record.1.clone()));
                        if let Some(record) = expected {
                            model.records.push_front(record);
                        }
                    }
                    Step::Create(k, size, ttl) => {
                        let bytes = Bytes::from(vec![size; usize::from(size)]);
                        let expires = now + Duration::from_secs(ttl);
                        let found = shard.create(&key(k), bytes.clone(), now, expires);
                        let at = model.records.iter().position(|record| record.0 == key(k));
                        let alive = at.is_some_and(|at| model.records[at].2 > now);
                        prop_assert_eq!(found.is_none(), alive);
                        if !alive {
                            model.take(&key(k), now);
                            model.put(key(k), bytes, expires);
                        }
                    }
                    Step::Overwrite(k, size, ttl) => {
                        let bytes = Bytes::from(vec![size; usize::from(size)]);
                        let expires = now + Duration::from_secs(ttl);
                        let found = shard.version(&key(k), now).is_some();
                        prop_assert_eq!(found, model.take(&key(k), now).is_some());
                        if found {
                            shard.overwrite(&key(k), bytes.clone(), expires);
                            model.put(key(k), bytes, expires);
                        }
                    }
                    Step::Touch(k, ttl) => {
                        let expires = now + Duration::from_secs(ttl);
                        let record = model.take(&key(k), now);
                        prop_assert_eq!(shard.touch(&key(k), now, expires), record.is_some());
                        if let Some((key, bytes, _)) = record {
                            model.put(key, bytes, expires);
                        }
                    }
                    Step::Delete(k) => {
                        model.take(&key(k), now);
                        shard.delete(&key(k));
                    }
                    Step::Wait(secs) => {
                        now += Duration::from_secs(secs);
                        shard.purge(now);
                        model.records.retain(|record| record.2 > now);
                    }
                }
                prop_assert_eq!(shard.used, model.used());
                prop_assert_eq!(shard.len(), model.records.len());
                prop_assert!(shard.used <= bound);
            }
        }
    }
}

//! Counts that one thread keeps.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A count that one thread changes, and that any may read.
///
/// An addition that no other thread can come between takes 10 ns, as long as dozens of plain
/// instructions, and an exchange would wait for one at each of its ends. All that is counted for a
/// worker is counted by its one thread, so this reads and writes instead: if two threads changed one
/// count at once, one of the changes could be lost.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// A count that begins at zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more; says how many there were before.
    pub fn add(&self) -> u64 {
        let before = self.get();
        self.0.store(before.wrapping_add(1), Relaxed);
        before
    }

    /// One less.
    pub fn subtract(&self) {
        self.0.store(self.get().wrapping_sub(1), Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_and_subtracted_is_counted() {
        let tally = Tally::new();
        assert_eq!((tally.add(), tally.add()), (0, 1));
        tally.subtract();
        assert_eq!(tally.get(), 1);
    }
}

//! Where records are: keys, bytes, lifetimes and versions.
//!
//! A store knows nothing of HTTP, JSON or sessions. Four promises hold on every engine, and
//! `tests/suite/store_contract.rs` shows them on the real servers:
//!
//! - a write says whether it happened, and one whose outcome is unknown says so
//!   ([`StoreError::Ambiguous`]): it is never sent twice by itself;
//! - `replace` and `remove` act only on the version that was loaded: no lost update;
//! - `replace` never brings back what is gone: no resurrection;
//! - missing, expired and evicted are the same.

use std::fmt;

use bytes::Bytes;

pub use breaker::Breaker;
pub use memory::MemoryStore;

mod breaker;
mod memcached;
mod memory;
mod redis;

/// The name of a record: 1 to 250 bytes of visible ASCII, which is what memcached allows.
///
/// It holds the session's id, so `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Bytes);

/// What was loaded: the bytes, and which version of them.
#[derive(Clone, Debug)]
pub struct Record {
    /// The bytes as they were stored.
    pub bytes: Bytes,
    /// For [`replace`](Store::replace) and [`remove`](Store::remove).
    pub version: Version,
}

/// Which state of a record was seen. Opaque: only the engine that made it can compare it.
#[derive(Clone)]
pub struct Version(VersionRepr);

#[derive(Clone)]
enum VersionRepr {
    /// A number that the engine counts (memory, memcached's CAS).
    Number(u64),
    /// The bytes themselves, to be compared by their digest (Redis).
    Bytes(Bytes),
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

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store can't be reached. Nothing has changed.
    #[error("the store can't be reached")]
    Unavailable(#[source] BoxError),
    /// The store took too long. Nothing was sent that could change something.
    #[error("the store did not answer in time")]
    TimedOut,
    /// A write was sent and its outcome is unknown: it may have happened. Load to find out.
    #[error("the outcome of a write is unknown")]
    Ambiguous(#[source] BoxError),
    /// The store answered something that it should not. Nothing that was read can be trusted.
    #[error("the store's answer is not what was asked for")]
    Corrupt(#[source] BoxError),
    /// The store refused to do it (out of memory, read-only, not allowed). Nothing has changed.
    #[error("the store refused")]
    Refused(#[source] BoxError),
    /// The record is larger than the engine takes. Nothing has changed.
    #[error("a record of {size} bytes is over the store's limit of {limit} bytes")]
    TooLarge {
        /// Bytes of the record.
        size: usize,
        /// What the engine takes.
        limit: usize,
    },
}

/// A cause that is only ever printed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

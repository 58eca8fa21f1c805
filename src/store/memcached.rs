//! One memcached server, on the meta protocol.
//!
//! The version of a record is memcached's CAS number. It counts per server and starts again when
//! the server does, which loses all records with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use memcache::exp::{
    AsyncMetaClient, Delete, Error, Get, Meta, MutationResult, MutationStatus, Operation, Router,
    Set,
};
use tokio::task::AbortHandle;

use super::{Created, Key, Replaced, StoreError, Version};
use crate::clock::{self, Timestamp};
use crate::config::Storage;
use loads::Loads;

mod dump;
mod loads;

/// Longer lifetimes are read as a moment (memcached `doc/protocol.txt`, "Expiration times").
const MAX_RELATIVE_SECS: u64 = 30 * 24 * 60 * 60;

/// memcached reads expiry times as signed 32 bits; the last moment it takes is in January 2038.
const MAX_MOMENT_SECS: u64 = 0x7fff_ffff;

/// Connections that were idle for longer are not used again: middleboxes cut them silently.
const MAX_IDLE_AGE: Duration = Duration::from_mins(1);

pub(super) struct Memcached {
    /// `host:port` as configured.
    address: String,
    connect_timeout: Duration,
    timeout: Duration,
    max_connections: usize,
    /// `None` until the name was resolved, and again when the server can't be reached: its
    /// address may have changed.
    client: Mutex<Option<AsyncMetaClient>>,
    loads: Loads,
    /// The task that sends the loads.
    sender: AbortHandle,
}

impl std::fmt::Debug for Memcached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memcached")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        // Nobody else would end it.
        self.sender.abort();
    }
}

impl Memcached {
    /// What one key and its record may take together. An item is at most 1 MiB by default (`-I`),
    /// its header included; the header is below 100 bytes.
    pub(super) const MAX_ITEM: usize = 1024 * 1024 - 256;

    /// Connections are opened by the first operations, and live on this runtime.
    pub(super) fn start(address: String, storage: &Storage, max_connections: usize) -> Arc<Self> {
        Arc::new_cyclic(|server| {
            let loads = Loads::default();
            let sending = loads::send(loads.clone(), Weak::clone(server));
            Self {
                address,
                connect_timeout: storage.connect_timeout,
                timeout: storage.timeout,
                max_connections,
                client: Mutex::new(None),
                loads,
                sender: tokio::spawn(sending).abort_handle(),
            }
        })
    }

    #[cfg(test)]
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) async fn create(
        &self,
        key: &Key,
        bytes: &Bytes,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let operation = Set::new(key.as_bytes(), bytes)
            .add()
            .ttl_raw(expiry(ttl, clock::now()))
            .return_cas();
        let answer = self.run(operation).await.map_err(|e| sized(e, bytes))?;
        match answer.status {
            MutationStatus::Applied => Ok(Created::Stored(written(key, &answer)?)),
            MutationStatus::AlreadyExists => Ok(Created::Exists),
            MutationStatus::NotFound | MutationStatus::CasMismatch | _ => Err(unexpected()),
        }
    }

    pub(super) async fn replace(
        &self,
        key: &Key,
        version: &Version,
        bytes: &Bytes,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        let Some(cas) = version.as_number() else {
            return Ok(Replaced::Stale);
        };
        let operation = Set::new(key.as_bytes(), bytes)
            .compare_cas(cas)
            .ttl_raw(expiry(ttl, clock::now()))
            .return_cas();
        let answer = self.run(operation).await.map_err(|e| sized(e, bytes))?;
        match answer.status {
            MutationStatus::Applied => Ok(Replaced::Stored(written(key, &answer)?)),
            MutationStatus::CasMismatch => Ok(Replaced::Stale),
            MutationStatus::NotFound => Ok(Replaced::Gone),
            MutationStatus::AlreadyExists | _ => Err(unexpected()),
        }
    }

    pub(super) async fn remove(
        &self,
        key: &Key,
        version: &Version,
    ) -> Result<Replaced, StoreError> {
        let Some(cas) = version.as_number() else {
            return Ok(Replaced::Stale);
        };
        let operation = Delete::new(key.as_bytes()).compare_cas(cas);
        match self.run(operation).await?.status {
            MutationStatus::Applied => Ok(Replaced::Stored(version.clone())),
            MutationStatus::CasMismatch => Ok(Replaced::Stale),
            MutationStatus::NotFound => Ok(Replaced::Gone),
            MutationStatus::AlreadyExists | _ => Err(unexpected()),
        }
    }

    pub(super) async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match self.run(Delete::new(key.as_bytes())).await?.status {
            MutationStatus::Applied | MutationStatus::NotFound => Ok(()),
            MutationStatus::AlreadyExists | MutationStatus::CasMismatch | _ => Err(unexpected()),
        }
    }

    pub(super) async fn touch(&self, key: &Key, ttl: Duration) -> Result<bool, StoreError> {
        let operation = Get::new(key.as_bytes())
            .without_value()
            .touch_raw(expiry(ttl, clock::now()));
        Ok(self.run(operation).await?.hit())
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let answer = self.client().await?.noop().await;
        answer.map_err(|error| self.failure(error))
    }

    /// Drops the pooled connections; operations under way keep theirs, which then go too.
    pub(super) fn distrust(&self) {
        *self.lock() = None;
    }

    async fn run<O: Operation>(&self, operation: O) -> Result<O::Output, StoreError> {
        let answer = self.client().await?.run(operation).await;
        answer.map_err(|error| self.failure(error))
    }

    async fn client(&self) -> Result<AsyncMetaClient, StoreError> {
        if let Some(client) = self.lock().as_ref() {
            return Ok(client.clone());
        }
        let client = AsyncMetaClient::builder()
            .router(OneServer)
            .connect_timeout(Some(self.connect_timeout))
            // Whoever asks has a bound on all of it, which would be over before the driver's.
            .io_timeout(None)
            .max_connections(Some(self.max_connections))
            .max_idle(self.max_connections)
            .max_idle_age(MAX_IDLE_AGE)
            .connect_async(self.address.as_str())
            .await
            .map_err(|error| self.failure(error))?;
        Ok(self.lock().get_or_insert(client).clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<AsyncMetaClient>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self, error: Error) -> StoreError {
        let failure = classify(error);
        if matches!(failure, StoreError::Unavailable(_)) {
            self.distrust();
        }
        failure
    }
}

/// The fleet has chosen the server; the driver would hash each key to choose among one.
struct OneServer;

impl Router for OneServer {
    fn route(&self, _key: &[u8], _servers: &[String]) -> usize {
        0
    }
}

/// The expiry time to send: seconds, or the moment in Unix seconds when they are over 30 days.
///
/// Rounded up, and at least 2: memcached's clock ticks once a second, so that an item of one
/// second may be gone at once.
fn expiry(ttl: Duration, now: Timestamp) -> u32 {
    let secs = ttl
        .as_secs()
        .saturating_add(u64::from(ttl.subsec_nanos() > 0))
        .max(2);
    let wire = if secs <= MAX_RELATIVE_SECS {
        secs
    } else {
        now.as_secs().saturating_add(secs).min(MAX_MOMENT_SECS)
    };
    u32::try_from(wire).unwrap_or(u32::MAX)
}

fn written(key: &Key, answer: &MutationResult) -> Result<Version, StoreError> {
    answer
        .cas
        .map(|cas| Version::number(key, cas))
        .ok_or_else(|| StoreError::ambiguous("the server did not say which version it stored"))
}

fn unexpected() -> StoreError {
    StoreError::ambiguous("the server's answer does not fit the question")
}

/// Says how large the record was that the server found too large. It does not tell its limit.
fn sized(error: StoreError, bytes: &Bytes) -> StoreError {
    match error {
        StoreError::TooLarge { .. } => StoreError::TooLarge {
            size: bytes.len(),
            limit: bytes.len().saturating_sub(1),
        },
        StoreError::Unavailable(_)
        | StoreError::TimedOut
        | StoreError::Ambiguous(_)
        | StoreError::Corrupt(_)
        | StoreError::Refused(_)
        | StoreError::Unfit(_) => error,
    }
}

/// Keys stay out of the texts: the driver's own messages print them.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's list of errors is open, and most don't come from its protocol layer"
)]
fn classify(error: Error) -> StoreError {
    if let Error::Ambiguous { source, .. } = error {
        // The driver counts any failure after the write as unknown; a refusal is an answer.
        return refusal(&source).unwrap_or_else(|| {
            StoreError::ambiguous(match *source {
                Error::Io(cause) => cause.to_string(),
                _ => "there was no answer that can be read".to_owned(),
            })
        });
    }
    refusal(&error).unwrap_or_else(|| match error {
        Error::Io(cause) => StoreError::unavailable(cause.to_string()),
        Error::Timeout { .. } => StoreError::TimedOut,
        _ => StoreError::corrupt("the server's answer can't be read"),
    })
}

/// What the server, or the driver before it sent anything, answered instead of doing it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's list of errors is open"
)]
fn refusal(error: &Error) -> Option<StoreError> {
    match error {
        Error::Server(message) if message.starts_with("object too large") => {
            Some(StoreError::TooLarge { size: 0, limit: 0 })
        }
        Error::Server(message) | Error::Rejected(message) => {
            Some(StoreError::refused(message.as_str()))
        }
        Error::Usage(message) => Some(StoreError::refused(*message)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn expiry_is_rounded_up_and_absolute_over_30_days() {
        let now = Timestamp::from_secs(1_800_000_000);
        let day = 24 * 60 * 60;
        let wire = |ttl| expiry(ttl, now);
        assert_eq!(wire(Duration::from_millis(1)), 2);
        assert_eq!(wire(Duration::from_secs(1)), 2);
        assert_eq!(wire(Duration::from_mins(5)), 300);
        assert_eq!(wire(Duration::from_millis(300_001)), 301);
        assert_eq!(wire(Duration::from_secs(30 * day)), 2_592_000);
        assert_eq!(wire(Duration::from_secs(30 * day + 1)), 1_802_592_001);
        assert_eq!(wire(Duration::from_millis(2_592_000_001)), 1_802_592_001);
        assert_eq!(wire(Duration::MAX), 0x7fff_ffff);
    }

    #[test]
    fn answers_after_a_write_are_not_ambiguous() {
        let answered = |source| {
            classify(Error::Ambiguous {
                key: b"secret".to_vec(),
                source: Box::new(source),
            })
        };
        let full = answered(Error::Server("out of memory storing object".to_owned()));
        assert!(matches!(full, StoreError::Refused(_)));
        let large = answered(Error::Server("object too large for cache".to_owned()));
        assert!(matches!(large, StoreError::TooLarge { .. }));
        let reset = answered(Error::Io(io::ErrorKind::ConnectionReset.into()));
        assert!(matches!(reset, StoreError::Ambiguous(_)));
        let garbage = answered(Error::Protocol("VA 3 secret".to_owned()));
        assert!(matches!(garbage, StoreError::Ambiguous(_)));
    }

    #[test]
    fn no_key_and_no_answer_in_error_texts() {
        let key = b"secret".to_vec();
        for error in [
            Error::Timeout { key: key.clone() },
            Error::Protocol("VA 3 secret".to_owned()),
            Error::Ambiguous {
                key: key.clone(),
                source: Box::new(Error::Timeout { key }),
            },
        ] {
            let text = format!("{:?}", classify(error));
            assert!(!text.contains("secret"), "{text}");
        }
    }
}

//! One Redis server: one pipelined connection for each worker.
//!
//! `create` is `SET NX PX`. `replace` and `remove` are one script that compares the SHA-1 of what
//! is stored with that of the version's bytes: any format of records can be compared so, and only
//! 40 bytes go over the wire for it. SHA-1 is what Redis offers; a collision would have to be
//! between two records of one session, both written by the proxy. Every operation names a single
//! key, so that it may as well be one node of a Redis Cluster.
//!
//! A write that runs into the deadline may wait in the driver's queue and be sent later, hence it
//! is ambiguous like one that was sent. Nothing is queued while the connection is known to be down.
//! So a late write can only follow a connection that broke at that very moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, KeysInterface, LuaInterface};
use fred::types::{ConnectHandle, Expiration, Key as RedisKey, SetOptions, Value};
use sha1::{Digest, Sha1};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::breaker::Access;
use super::near::Near;
use super::{Created, Key, Record, Replaced, StoreError, Version};
use crate::config::{self, Storage};
use answer::classify;
use loads::Loads;
use tracking::Tracking;

pub(super) use answer::Redirect;
pub(super) use loads::Merging;
pub(super) use node::Range;

mod answer;
mod loads;
mod node;
mod scan;
mod settings;
mod tracking;

/// `KEYS[1]`: the record. `ARGV[1]`: the SHA-1 of the version, in hex. `ARGV[2]` and `ARGV[3]`: the
/// new bytes and their lifetime in milliseconds; without them the record is deleted.
const COMPARE_AND_WRITE: &str = "\
local current = redis.call('GET', KEYS[1])
if not current then return 0 end
if redis.sha1hex(current) ~= ARGV[1] then return 1 end
if ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else
  redis.call('DEL', KEYS[1])
end
return 2";

/// How long a connection that has just broken still counts as broken when nothing else is known.
///
/// The driver says "connected" until it begins to connect again, which is after the first delay of
/// `settings`, 100 ms at most. What is queued until then may be sent much later.
const BROKEN_FOR: Duration = Duration::from_millis(150);

/// Errors of the connection are logged at most this often, by each worker.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Redis {
    client: Client,
    link: Arc<Link>,
    loads: Loads,
    /// The task that sends the loads.
    sender: AbortHandle,
    /// For the near cache, with the task that follows it.
    tracking: Option<(Arc<Tracking>, AbortHandle)>,
    /// Set while a connection that can't be trusted is being replaced.
    distrusted: Arc<AtomicBool>,
    /// The SHA-1 of the script, by which Redis knows it.
    script: String,
    connection: ConnectHandle,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

/// What is known of the connection beyond what the driver says.
#[derive(Debug, Default)]
struct Link {
    /// Whether it is worth asking since when.
    was_broken: AtomicBool,
    broken: Mutex<Option<Instant>>,
}

impl Link {
    fn set(&self, broken: Option<Instant>) {
        let mut since = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        *since = broken;
        self.was_broken.store(broken.is_some(), Ordering::Release);
    }

    fn is_broken(&self) -> bool {
        if !self.was_broken.load(Ordering::Acquire) {
            return false;
        }
        let broken = *self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.is_some_and(|since| since.elapsed() < BROKEN_FOR)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The tasks would keep the connection for ever.
        self.connection.abort();
        self.sender.abort();
        if let Some((tracking, follower)) = &self.tracking {
            follower.abort();
            // Nobody is told any more of changes to what was read over it.
            tracking.lost();
        }
    }
}

impl Redis {
    /// Redis's own bound on one value: `proto-max-bulk-len` is 512 MiB by default.
    pub(super) const MAX_RECORD: usize = 512 * 1024 * 1024;

    /// Starts the connection and waits until it stands or has failed once; from then on it is
    /// opened again in the background, for ever.
    pub(super) async fn connect(
        storage: &Storage,
        redis: &config::Redis,
        name: &str,
        merging: Merging,
        near: Option<Near>,
    ) -> Result<Self, StoreError> {
        let client = settings::client(storage, redis)?;
        let mut first_error = client.error_rx();
        let link = Arc::new(Link::default());
        tokio::spawn(watch(&client, Arc::clone(&link), name.to_owned()));
        let tracking = near.map(|near| {
            let tracking = Arc::new(Tracking::new(&client, near));
            let (name, limit) = (name.to_owned(), storage.connect_timeout);
            let following = Arc::clone(&tracking).follow(client.clone(), name, limit);
            (tracking, tokio::spawn(following).abort_handle())
        });
        let loads = Loads::default();
        let sending = loads.clone().send(client.clone(), merging, storage.timeout);
        // Whole before anything is waited for, so that the connection ends with it.
        let redis = Self {
            connection: client.connect(),
            sender: tokio::spawn(sending).abort_handle(),
            client,
            link,
            loads,
            tracking,
            distrusted: Arc::new(AtomicBool::new(false)),
            script: sha1_hex(COMPARE_AND_WRITE.as_bytes()),
        };
        let first_attempt = async {
            tokio::select! {
                connected = redis.client.wait_for_connect() => drop(connected),
                error = first_error.recv() => drop(error),
            }
        };
        // Whatever came of it: operations say so themselves.
        drop(timeout(storage.connect_timeout, first_attempt).await);
        Ok(redis)
    }

    /// Fails when these settings could reach no server at all.
    pub(super) fn check(storage: &Storage, redis: &config::Redis) -> Result<(), StoreError> {
        settings::client(storage, redis).map(drop)
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.client().is_ok()
    }

    pub(super) async fn load(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.client()?;
        let ticket = self
            .tracking
            .as_ref()
            .map(|(tracking, _)| tracking.begin(key));
        let answer = self.loads.get(redis_key(key)).await;
        let answer = answer.map_err(|error| self.failure(&error, Access::Read))?;
        let bytes = record(answer)?;
        if let (Some((tracking, _)), Some(ticket)) = (&self.tracking, ticket) {
            tracking.keep(key, ticket, bytes.as_ref());
        }
        Ok(bytes.map(|bytes| Record {
            version: Version::bytes(key, bytes.clone()),
            bytes,
        }))
    }

    pub(super) async fn create(
        &self,
        key: &Key,
        bytes: Bytes,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let value = Value::Bytes(bytes.clone());
        let expire = Some(Expiration::PX(millis(ttl)));
        let answer: Result<Value, Error> = self
            .client()?
            .set(redis_key(key), value, expire, Some(SetOptions::NX), false)
            .await;
        let answer = answer.map_err(|error| self.failure(&error, Access::Write))?;
        if answer.is_null() {
            Ok(Created::Exists)
        } else if answer.as_bytes() == Some(b"OK") {
            Ok(Created::Stored(Version::bytes(key, bytes)))
        } else {
            Err(unexpected())
        }
    }

    pub(super) async fn replace(
        &self,
        key: &Key,
        version: &Version,
        bytes: Bytes,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        let new = [Value::Bytes(bytes.clone()), Value::Integer(millis(ttl))];
        self.compare_and_write(key, version, new, || Version::bytes(key, bytes))
            .await
    }

    pub(super) async fn remove(
        &self,
        key: &Key,
        version: &Version,
    ) -> Result<Replaced, StoreError> {
        self.compare_and_write(key, version, [], || version.clone())
            .await
    }

    pub(super) async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let answer: Result<Value, Error> = self.client()?.del(redis_key(key)).await;
        self.number(answer).map(drop)
    }

    pub(super) async fn touch(&self, key: &Key, ttl: Duration) -> Result<bool, StoreError> {
        let client = self.client()?;
        let answer: Result<Value, Error> = client.pexpire(redis_key(key), millis(ttl), None).await;
        match self.number(answer)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let answer: Result<Value, Error> = self.client()?.ping(None).await;
        answer
            .map(drop)
            .map_err(|error| self.failure(&error, Access::Read))
    }

    /// Closes the connection, fails what waits on it, and opens another.
    pub(super) fn distrust(&self) {
        // Also what it answered before.
        if let Some((tracking, _)) = &self.tracking {
            tracking.lost();
        }
        if self.distrusted.swap(true, Ordering::Relaxed) {
            return;
        }
        let client = self.client.clone();
        let distrusted = Arc::clone(&self.distrusted);
        tokio::spawn(async move {
            // An error means that there is no connection left to distrust.
            drop(client.force_reconnection().await);
            distrusted.store(false, Ordering::Relaxed);
        });
    }

    async fn compare_and_write<const N: usize>(
        &self,
        key: &Key,
        version: &Version,
        new: [Value; N],
        stored: impl FnOnce() -> Version,
    ) -> Result<Replaced, StoreError> {
        let Some(old) = version.as_bytes() else {
            return Ok(Replaced::Stale);
        };
        let mut args = Vec::with_capacity(1 + N);
        args.push(Value::from(sha1_hex(old)));
        args.extend(new);
        let client = self.client()?;
        let script = self.script.as_str();
        let mut answer: Result<Value, Error> =
            client.evalsha(script, redis_key(key), args.clone()).await;
        // Redis forgets scripts when it starts again. It has run nothing, so this is no repeat.
        if matches!(&answer, Err(error) if answer::is_no_script(error)) {
            answer = client.eval(COMPARE_AND_WRITE, redis_key(key), args).await;
        }
        match self.number(answer)? {
            0 => Ok(Replaced::Gone),
            1 => Ok(Replaced::Stale),
            2 => Ok(Replaced::Stored(stored())),
            _ => Err(unexpected()),
        }
    }

    /// The client, if it has a connection to send on: what is queued without one would be sent
    /// when nobody waits for it any more.
    fn client(&self) -> Result<&Client, StoreError> {
        let distrusted = self.distrusted.load(Ordering::Relaxed);
        if distrusted || !self.client.is_connected() || self.link.is_broken() {
            return Err(StoreError::unavailable("there is no connection"));
        }
        Ok(&self.client)
    }

    /// The number that a write was answered with. Strings of digits don't count.
    fn number(&self, answer: Result<Value, Error>) -> Result<i64, StoreError> {
        let answer = answer.map_err(|error| self.failure(&error, Access::Write))?;
        if let Value::Integer(number) = answer {
            Ok(number)
        } else {
            Err(unexpected())
        }
    }

    fn failure(&self, error: &Error, access: Access) -> StoreError {
        if matches!(error.kind(), ErrorKind::IO | ErrorKind::Canceled) {
            self.link.set(Some(Instant::now()));
        }
        classify(error, access)
    }
}

/// The record that `GET` was answered with.
fn record(answer: Value) -> Result<Option<Bytes>, StoreError> {
    if answer.is_null() {
        return Ok(None);
    }
    let is_text = answer.is_string() || answer.is_bytes();
    let bytes = answer.into_bytes();
    let bytes = bytes.filter(|bytes| is_text && !bytes.is_empty());
    match bytes {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(StoreError::corrupt("the answer to GET is no record")),
    }
}

fn redis_key(key: &Key) -> RedisKey {
    RedisKey::from(key.0.clone())
}

/// Rounded up, so that what is asked for is never zero.
fn millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

fn sha1_hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha1::digest(bytes))
}

fn unexpected() -> StoreError {
    StoreError::ambiguous("the server's answer does not fit the question")
}

/// Keeps watch over the connection, and logs what goes wrong with it: that it was refused or lost,
/// a wrong password, a bad certificate. Ends with the client.
fn watch(client: &Client, link: Arc<Link>, name: String) -> impl Future<Output = ()> + use<> {
    let (mut errors, mut reconnected) = (client.error_rx(), client.reconnect_rx());
    let mut logged: Option<Instant> = None;
    async move {
        loop {
            let error = tokio::select! {
                biased;
                error = errors.recv() => error,
                server = reconnected.recv() => match server {
                    Ok(_) | Err(RecvError::Lagged(_)) => {
                        link.set(None);
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                },
            };
            let error = match error {
                Ok((error, _)) => error,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            let now = Instant::now();
            link.set(Some(now));
            if logged.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL) {
                logged = Some(now);
                let error = answer::text(&error);
                if error.contains("unknown command 'HELLO'") {
                    tracing::warn!(server = %name, %error, "the connection to Redis failed: [cache] needs Redis 6 or later");
                    continue;
                }
                tracing::warn!(server = %name, %error, "the connection to Redis failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_whole_milliseconds_rounded_up() {
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_millis(1500)), 1500);
        assert_eq!(millis(Duration::from_micros(1500)), 2);
    }

    #[test]
    fn sha1_is_written_as_redis_writes_it() {
        // FIPS 180-1, appendix A.
        assert_eq!(sha1_hex(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }
}

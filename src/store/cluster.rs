//! A Redis Cluster: one connection to each primary for each worker, and a breaker before each.
//!
//! The driver's own cluster client is not used. While one primary is down it sends nothing to the
//! others, because it first connects to all of them again, in a loop. It counts a redirection as a
//! further attempt at the command, so it could follow one only if it might also repeat a write that
//! was lost with its connection. And an `ASK` ended its task (fred 10.1.0): the command failed, and
//! all later ones waited for ever. So each node is a client of its own here, and what is left to do
//! is
//!
//! - to know which node has which of the 16,384 slots (`CLUSTER SLOTS`), and to ask again when an
//!   answer or a failure says that this has changed;
//! - to follow `MOVED` and `ASK`. They mean that nothing was done, so that this repeats no write.
//!
//! A node that is down fails the operations on its keys and no others: its breaker is its own. With
//! `cluster-require-full-coverage yes`, which is the default of Redis, the other nodes refuse by
//! themselves, and nothing can be done about it from here.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::util::redis_keyslot;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::breaker::{Access, Guarded as _, guarded, guarded_read};
use super::near::Near;
use super::redis::{Redirect, Redis};
use super::scan::Left;
use super::{Created, Key, Record, Replaced, StoreError, Version};
use crate::config::{self, Storage};
use layout::Layout;
use node::{Node, Settings};

mod discovery;
mod layout;
mod node;
mod scan;

/// One follows another at most this often. Two are usual: an old layout leads to the node that a
/// slot is leaving, and that to the one that gets it.
const MAX_REDIRECTIONS: u32 = 5;

/// The nodes of a cluster, and which of them has which slots. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Cluster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Arc<Settings>,
    /// Where the nodes are asked for when none of those that are known answers.
    seeds: Vec<(String, u16)>,
    layout: Mutex<Arc<Layout<Node>>>,
    /// Counts how often the nodes were asked for.
    turn: AtomicUsize,
    /// Told when the layout may have changed.
    stale: Arc<Notify>,
}

impl Cluster {
    /// Asks for the nodes and waits until each has a connection or has failed once. From then on
    /// this goes on in the background.
    pub(super) async fn connect(
        storage: &Storage,
        redis: &config::Redis,
        seeds: &[(String, u16)],
        near: Option<Near>,
    ) -> Result<Self, StoreError> {
        let settings = Arc::new(Settings::new(storage, redis, near));
        settings.check()?;
        let cluster = Self(Arc::new(Shared {
            settings,
            seeds: seeds.to_vec(),
            layout: Mutex::new(Arc::new(Layout::empty())),
            turn: AtomicUsize::new(0),
            stale: Arc::new(Notify::new()),
        }));
        let first_attempt = async {
            cluster.0.discover().await?;
            let layout = cluster.0.layout();
            join_all(layout.nodes().map(|node| node.redis())).await;
            Ok(())
        };
        let mut problems = discovery::Problems::default();
        // If it takes too long, operations say so themselves.
        if let Ok(Err(error)) = timeout(storage.connect_timeout, first_attempt).await {
            problems.log(&error);
        }
        tokio::spawn(discovery::keep(&cluster.0, problems));
        Ok(cluster)
    }

    pub(super) async fn load(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let load = |redis: Arc<Redis>| async move { redis.load(key).await };
        let mut node = self.0.owner(slot(key))?;
        let mut asks = false;
        // Nearly all loads end here; what follows may take its time.
        if let Some(redis) = node.connected() {
            let outcome = guarded_read(&node, redis.load(key)).await;
            let Some(redirect) = redirection(&outcome) else {
                self.0.learn_from(&outcome);
                return outcome;
            };
            asks = redirect.is_ask;
            node = self.0.follow(redirect, &node);
        }
        self.routed_from(node, asks, Access::Read, load).await
    }

    pub(super) async fn create(
        &self,
        key: &Key,
        bytes: Bytes,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        check_size(&bytes)?;
        self.routed(key, Access::Write, |redis| {
            let bytes = bytes.clone();
            async move { redis.create(key, bytes, ttl).await }
        })
        .await
    }

    pub(super) async fn replace(
        &self,
        key: &Key,
        version: &Version,
        bytes: Bytes,
        ttl: Duration,
    ) -> Result<Replaced, StoreError> {
        check_size(&bytes)?;
        self.routed(key, Access::Write, |redis| {
            let bytes = bytes.clone();
            async move { redis.replace(key, version, bytes, ttl).await }
        })
        .await
    }

    pub(super) async fn remove(
        &self,
        key: &Key,
        version: &Version,
    ) -> Result<Replaced, StoreError> {
        self.routed(key, Access::Write, |redis| async move {
            redis.remove(key, version).await
        })
        .await
    }

    pub(super) async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.routed(key, Access::Write, |redis| async move {
            redis.delete(key).await
        })
        .await
    }

    pub(super) async fn touch(&self, key: &Key, ttl: Duration) -> Result<bool, StoreError> {
        self.routed(key, Access::Write, |redis| async move {
            redis.touch(key, ttl).await
        })
        .await
    }

    pub(super) async fn left(&self, key: &Key) -> Result<Option<Left>, StoreError> {
        self.routed(
            key,
            Access::Read,
            |redis| async move { redis.left(key).await },
        )
        .await
    }

    /// One node that answers is enough: a cluster with a gap still serves the other keys.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let layout = self.0.layout();
        let mut outcome = Err(StoreError::unavailable("no node of the cluster is known"));
        for node in layout.nodes() {
            outcome = guarded(node, Access::Read, pin!(node.ping())).await;
            if outcome.is_ok() {
                break;
            }
        }
        self.0.learn_from(&outcome);
        outcome
    }

    pub(super) fn distrust(&self) {
        for node in self.0.layout().nodes() {
            node.distrust();
        }
    }

    /// Carries out an operation on the node that has the key, wherever that is by now.
    async fn routed<T, F>(
        &self,
        key: &Key,
        access: Access,
        operation: impl Fn(Arc<Redis>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let node = self.0.owner(slot(key))?;
        self.routed_from(node, false, access, operation).await
    }

    /// Begins with this node, and goes where it is led to.
    async fn routed_from<T, F>(
        &self,
        mut node: Arc<Node>,
        mut asks: bool,
        access: Access,
        operation: impl Fn(Arc<Redis>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        for _ in 0..=MAX_REDIRECTIONS {
            let outcome = node.run(access, asks, &operation).await;
            let Some(redirect) = redirection(&outcome) else {
                self.0.learn_from(&outcome);
                return outcome;
            };
            asks = redirect.is_ask;
            node = self.0.follow(redirect, &node);
        }
        self.0.stale.notify_one();
        Err(StoreError::unavailable(
            "the nodes of the cluster do not agree on which of them has the key",
        ))
    }
}

impl Shared {
    fn layout(&self) -> Arc<Layout<Node>> {
        Arc::clone(&self.layout.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The node that has a slot, as far as is known.
    fn owner(&self, slot: u16) -> Result<Arc<Node>, StoreError> {
        let layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = layout.owner(slot).cloned();
        drop(layout);
        owner.ok_or_else(|| {
            self.stale.notify_one();
            StoreError::unavailable("no node of the cluster is known to have the key")
        })
    }

    /// The node that a redirection leads to. It becomes known at once, also if it was not before.
    fn follow(&self, redirect: &Redirect, from: &Node) -> Arc<Node> {
        let host = redirect.host.as_deref().unwrap_or(from.host());
        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let known = layout.nodes().find(|node| node.is_at(host, redirect.port));
        let is_known = known.is_some();
        let node = known.cloned().unwrap_or_else(|| {
            Node::open(Arc::clone(&self.settings), host.to_owned(), redirect.port)
        });
        if !redirect.is_ask {
            *layout = Arc::new(layout.with_owner(redirect.slot, &node));
            // Slots seldom move alone.
            self.stale.notify_one();
        } else if !is_known {
            *layout = Arc::new(layout.with_guest(&node));
        }
        node
    }

    /// A node that fails may have been replaced.
    fn learn_from<T>(&self, outcome: &Result<T, StoreError>) {
        if outcome.as_ref().is_err_and(StoreError::means_down) {
            self.stale.notify_one();
        }
    }
}

fn slot(key: &Key) -> u16 {
    redis_keyslot(&key.0)
}

fn redirection<T>(outcome: &Result<T, StoreError>) -> Option<&Redirect> {
    match outcome {
        Err(StoreError::Refused(cause)) => cause.downcast_ref(),
        Ok(_) | Err(_) => None,
    }
}

fn check_size(bytes: &Bytes) -> Result<(), StoreError> {
    if bytes.len() > Redis::MAX_RECORD {
        return Err(StoreError::TooLarge {
            size: bytes.len(),
            limit: Redis::MAX_RECORD,
        });
    }
    Ok(())
}

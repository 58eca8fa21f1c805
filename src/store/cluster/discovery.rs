//! Finds out which node has which slots, at the start and whenever that may have changed.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::super::StoreError;
use super::super::redis::{Range, Redis};
use super::Shared;
use super::layout::Layout;
use super::node::Node;

/// The nodes are asked for at most this often, by each worker: a failing node is asked about by
/// every exchange that meets it. A failover takes them seconds, so that this delays nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// That the nodes can't be found is logged at most this often, by each worker.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps the layout fresh until nobody uses the cluster any more.
///
/// It asks when somebody says that the layout may be stale, and every `breaker_retry` while a slot
/// or a node is missing, so that a failover is noticed without a request that fails.
pub(super) fn keep(
    shared: &Arc<Shared>,
    mut problems: Problems,
) -> impl Future<Output = ()> + use<> {
    let stale = Arc::clone(&shared.stale);
    let retry = shared.settings.storage.breaker_retry;
    let shared = Arc::downgrade(shared);
    async move {
        loop {
            let is_told = tokio::select! {
                () = stale.notified() => true,
                () = sleep(retry) => false,
            };
            let Some(shared) = shared.upgrade() else {
                return;
            };
            if !is_told && shared.is_well() {
                continue;
            }
            let found = shared.discover().await;
            drop(shared);
            let pause = match found {
                Ok(()) => {
                    problems.end();
                    PAUSE
                }
                Err(error) => {
                    problems.log(&error);
                    // Then it opens connections to all seeds, which is not for each exchange to ask.
                    retry.max(PAUSE)
                }
            };
            sleep(pause).await;
        }
    }
}

/// Logs that the nodes can't be found.
#[derive(Debug, Default)]
pub(super) struct Problems(Option<Instant>);

impl Problems {
    pub(super) fn log(&mut self, error: &StoreError) {
        let now = Instant::now();
        let last = self.0;
        if last.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL) {
            self.0 = Some(now);
            let cause = std::error::Error::source(error).map(ToString::to_string);
            let cause = cause.unwrap_or_default();
            tracing::warn!(%error, cause, "no node tells who is in the Redis Cluster");
        }
    }

    fn end(&mut self) {
        self.0 = None;
    }
}

impl Shared {
    /// Asks for the nodes and goes by what they say: first one of those that are known, then the
    /// seeds.
    pub(super) async fn discover(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut last = StoreError::unavailable("there is no node to ask");
        let layout = self.layout();
        let known: Vec<&Arc<Node>> = layout.nodes().filter(|node| node.is_up()).collect();
        // Another one each time: one that is cut off from the others has old news.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (before, from) = known.split_at(turn.checked_rem(known.len()).unwrap_or(0));
        for node in from.iter().chain(before) {
            let Some(redis) = node.connected() else {
                continue;
            };
            match self.ask(redis).await {
                Ok(ranges) => return self.adopt(&ranges, node.host()),
                Err(error) => last = error,
            }
        }
        for (host, port) in &self.seeds {
            let redis = self.settings.connect(host, *port).await?;
            match self.ask(&redis).await {
                Ok(ranges) => return self.adopt(&ranges, host),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask(&self, redis: &Redis) -> Result<Vec<Range>, StoreError> {
        let limit = self.settings.storage.timeout;
        let asking = Box::pin(redis.slots());
        timeout(limit, asking)
            .await
            .unwrap_or(Err(StoreError::TimedOut))
    }

    /// Replaces the layout. Nodes that stay keep their connections.
    fn adopt(&self, ranges: &[Range], from: &str) -> Result<(), StoreError> {
        if ranges.is_empty() {
            let reason = "the cluster has given none of its slots to a node";
            return Err(StoreError::unavailable(reason));
        }
        let mut current = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut layout = Layout::empty();
        let mut opened = false;
        for range in ranges {
            let host = range.host.as_deref().unwrap_or(from);
            let is_it = |node: &&Arc<Node>| node.is_at(host, range.port);
            let known = layout.nodes().chain(current.nodes()).find(is_it).cloned();
            let node = known.unwrap_or_else(|| {
                opened = true;
                Node::open(Arc::clone(&self.settings), host.to_owned(), range.port)
            });
            layout.give(range.first, range.last, &node);
        }
        let is_new = opened || layout.nodes().count() != current.nodes().count();
        if is_new {
            let nodes: Vec<String> = layout.nodes().map(|node| node.name()).collect();
            tracing::info!(
                nodes = nodes.join(", "),
                "the primaries of the Redis Cluster"
            );
        }
        *current = Arc::new(layout);
        Ok(())
    }

    /// Whether each slot has a node that can be asked.
    fn is_well(&self) -> bool {
        let layout = self.layout();
        layout.is_whole() && layout.nodes().all(|node| node.is_up())
    }
}

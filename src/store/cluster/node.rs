//! One node of a cluster, with its breaker.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{Mutex, OnceCell};

use super::super::StoreError;
use super::super::breaker::{Access, Breaker, Guarded, guarded};
use super::super::near::Near;
use super::super::redis::{Merging, Redis};
use crate::config::{self, RedisAddress, Storage, host_and_port};

/// How any node is reached; only its address is its own.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) storage: Storage,
    redis: config::Redis,
    near: Option<Near>,
}

#[derive(Debug)]
pub(super) struct Node {
    settings: Arc<Settings>,
    host: String,
    port: u16,
    /// There once its connection stands or has failed for the first time.
    redis: OnceCell<Arc<Redis>>,
    /// A second connection, for commands that need `ASKING` before them, one at a time. On the
    /// first one, another command could come between the two.
    asking: Mutex<Option<Arc<Redis>>>,
    breaker: Breaker,
}

impl Settings {
    pub(super) fn new(storage: &Storage, redis: &config::Redis, near: Option<Near>) -> Self {
        Self {
            storage: storage.clone(),
            redis: redis.clone(),
            near,
        }
    }

    /// Fails when nothing could be reached with them.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        Redis::check(&self.storage, &self.at("", 0))
    }

    /// Connects to one node. What is loaded over this connection is not kept in the near cache.
    pub(super) async fn connect(&self, host: &str, port: u16) -> Result<Redis, StoreError> {
        self.connect_for(host, port, None).await
    }

    async fn connect_for(
        &self,
        host: &str,
        port: u16,
        near: Option<Near>,
    ) -> Result<Redis, StoreError> {
        let redis = self.at(host, port);
        // The driver's futures are kilobytes, and so would be everything that holds one.
        Box::pin(Redis::connect(
            &self.storage,
            &redis,
            &host_and_port(host, port),
            Merging::CommandEach,
            near,
        ))
        .await
    }

    fn at(&self, host: &str, port: u16) -> config::Redis {
        config::Redis {
            address: RedisAddress::Tcp {
                host: host.to_owned(),
                port,
            },
            ..self.redis.clone()
        }
    }
}

impl Node {
    /// A node whose connection is opened in the background.
    pub(super) fn open(settings: Arc<Settings>, host: String, port: u16) -> Arc<Self> {
        let node = Arc::new(Self {
            breaker: Breaker::new(host_and_port(&host, port), &settings.storage),
            settings,
            host,
            port,
            redis: OnceCell::new(),
            asking: Mutex::new(None),
        });
        let opening = Arc::clone(&node);
        // An operation that gives up must not take the connection with it.
        tokio::spawn(async move { opening.redis().await.map(drop) });
        node
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// `host:port`, as in log lines.
    pub(super) fn name(&self) -> String {
        host_and_port(&self.host, self.port)
    }

    pub(super) fn is_at(&self, host: &str, port: u16) -> bool {
        self.port == port && self.host == host
    }

    /// Whether it is worth asking.
    pub(super) fn is_up(&self) -> bool {
        let connected = self.connected().is_some_and(|redis| redis.is_connected());
        connected && !self.breaker.is_open()
    }

    /// What operations go to, when its connection has been tried.
    pub(super) fn connected(&self) -> Option<&Arc<Redis>> {
        self.redis.get()
    }

    /// What operations go to, when its connection has been tried; waits for that.
    pub(super) async fn redis(&self) -> Result<&Arc<Redis>, StoreError> {
        let connect = || async {
            let near = self.settings.near.clone();
            let connected = self.settings.connect_for(&self.host, self.port, near);
            Ok(Arc::new(connected.await?))
        };
        self.redis.get_or_try_init(connect).await
    }

    /// Carries out an operation here, with `ASKING` before it if that is needed.
    pub(super) async fn run<T, F>(
        self: &Arc<Self>,
        access: Access,
        asks: bool,
        operation: impl FnOnce(Arc<Redis>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut whole = Box::pin(async {
            if asks {
                self.run_asking(operation).await
            } else {
                operation(Arc::clone(self.redis().await?)).await
            }
        });
        guarded(self, access, whole.as_mut()).await
    }

    async fn run_asking<T, F>(
        &self,
        operation: impl FnOnce(Arc<Redis>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        // Held until the answer is there, so that the operation is what follows ASKING. One that is
        // dropped in between leaves ASKING to the next ASKING, which nothing comes of.
        let mut asking = self.asking.lock().await;
        let redis = if let Some(redis) = &*asking {
            Arc::clone(redis)
        } else {
            let redis = self.settings.connect(&self.host, self.port).await?;
            Arc::clone(asking.insert(Arc::new(redis)))
        };
        redis.ask().await?;
        operation(redis).await
    }
}

impl Guarded for Node {
    fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.redis().await?.ping_cluster().await
    }

    fn distrust(&self) {
        if let Some(redis) = self.connected() {
            redis.distrust();
        }
        // While it is locked, somebody waits for an answer on it, and will give it up if it must.
        if let Ok(asking) = self.asking.try_lock()
            && let Some(redis) = &*asking
        {
            redis.distrust();
        }
    }
}

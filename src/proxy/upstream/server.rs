//! What all workers know together about one server.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tracing::{info, warn};

use super::UpstreamError;
use super::balance;
use super::dial::Dialer;
use super::health::{Change, Health, WHOLE};
use super::tls::TlsError;
use crate::config::{HealthCheck, Server, Upstream};
use crate::telemetry::chain;

/// One server, as all workers know it.
pub(super) struct ServerState {
    /// The name of its group, for the log.
    group: String,
    /// What the configuration says about it.
    pub(super) server: Server,
    /// How it is reached.
    pub(super) dialer: Dialer,
    /// What it is known by when sessions are shared out.
    pub(super) id: u64,
    health: Mutex<Health>,
    /// Whether there is nothing to say about its health, so that nobody needs to look.
    settled: AtomicBool,
    running: AtomicUsize,
}

/// An exchange that runs on a server; dropping it ends the counting.
pub(super) struct Running(Arc<ServerState>);

impl ServerState {
    pub(super) fn new(group: &Upstream, server: &Server) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self {
            dialer: Dialer::new(group, server)?,
            group: group.name.clone(),
            id: balance::hash(server.url.as_bytes()),
            server: server.clone(),
            health: Mutex::new(Health::new(group.ejection)),
            settled: AtomicBool::new(true),
            running: AtomicUsize::new(0),
        }))
    }

    /// Counts an exchange until the guard is dropped.
    pub(super) fn run(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    /// Exchanges that run on it, of all workers.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// The percentage of its weight that it is to get.
    pub(super) fn share(&self, now: Instant) -> u32 {
        if self.settled.load(Ordering::Relaxed) {
            return WHOLE;
        }
        let health = self.lock();
        self.settle(&health, now);
        health.share(now)
    }

    /// Notes that a request got an answer, whatever its status is.
    pub(super) fn answered(&self) {
        if self.settled.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let mut health = self.lock();
        let change = health.answered(now);
        self.settle(&health, now);
        drop(health);
        self.tell(change, "");
    }

    /// Notes that a request failed. What is not the server's fault does not count.
    pub(super) fn failed(&self, error: &UpstreamError) {
        if !error.is_servers_fault() {
            return;
        }
        let mut health = self.lock();
        self.settled.store(false, Ordering::Relaxed);
        let change = health.failed(Instant::now());
        drop(health);
        if change.is_some() {
            self.tell(change, &chain(error));
        }
    }

    /// Notes what a health check found: why the server is not well, or nothing.
    pub(super) fn probed(&self, ill: Option<&str>, check: &HealthCheck) {
        let now = Instant::now();
        let mut health = self.lock();
        let change = health.probed(ill.is_none(), check.healthy, check.unhealthy, now);
        self.settle(&health, now);
        drop(health);
        self.tell(change, ill.unwrap_or_default());
    }

    /// Only while the lock is held, so that no failure is overlooked.
    fn settle(&self, health: &Health, now: Instant) {
        self.settled
            .store(health.is_settled(now), Ordering::Relaxed);
    }

    /// Says in the log what has become of it: once for all workers, since they share it.
    fn tell(&self, change: Option<Change>, cause: &str) {
        let (upstream, server) = (&self.group, &self.server.url);
        match change {
            Some(Change::Ejected { failures, span }) => {
                let seconds = span.as_secs_f32();
                warn!(
                    %upstream,
                    %server,
                    failures,
                    seconds,
                    "a server gets no requests for a while, since they fail: {cause}"
                );
            }
            Some(Change::Returned) => {
                info!(%upstream, %server, "a server answers again, and gets requests");
            }
            Some(Change::Ill) => {
                warn!(%upstream, %server, "a server fails its health check, and gets no requests: {cause}");
            }
            Some(Change::Well) => {
                info!(%upstream, %server, "a server passes its health check, and gets requests");
            }
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

//! The promise that claimed notifications are settled or given back, whatever happens.

use std::sync::Arc;

use super::sessions::Sessions;
use crate::config::RoutePolicy;
use crate::session::SessionId;

/// Holds a claim. When it is dropped unsettled, because the client went away, a task gives back
/// what was claimed.
#[derive(Debug)]
pub(super) struct ClaimGuard(Option<Held>);

#[derive(Debug)]
struct Held {
    sessions: Arc<Sessions>,
    id: SessionId,
    token: u64,
    policy: Arc<RoutePolicy>,
}

impl ClaimGuard {
    pub(super) fn new(
        sessions: Arc<Sessions>,
        id: SessionId,
        token: u64,
        policy: Arc<RoutePolicy>,
    ) -> Self {
        Self(Some(Held {
            sessions,
            id,
            token,
            policy,
        }))
    }

    /// There is nothing to give back any more.
    pub(super) fn settled(mut self) {
        self.0 = None;
    }

    /// Gives back, and returns when that is written or can't be.
    pub(super) async fn give_back(self) {
        if let Some(held) = &self.0 {
            held.give_back().await;
        }
        self.settled();
    }
}

impl Held {
    async fn give_back(&self) {
        let policy = Arc::clone(&self.policy);
        self.sessions.give_back(&self.id, self.token, policy).await;
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            let tasks = held.sessions.tasks().clone();
            tasks.spawn(async move { held.give_back().await });
        }
    }
}

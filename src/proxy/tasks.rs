//! What must have ended before a worker may stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts tasks of one worker: client connections, tunnels, and whatever has to be finished even
/// though the client went away. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: AtomicUsize,
    idle: Notify,
}

/// One task that counts; dropping it ends the counting.
#[derive(Debug)]
pub struct TaskGuard(Arc<Inner>);

impl Tasks {
    /// Counts until the guard is dropped.
    pub fn begin(&self) -> TaskGuard {
        self.0.running.fetch_add(1, Ordering::Relaxed);
        TaskGuard(Arc::clone(&self.0))
    }

    /// Runs `task` on the current runtime. A worker that is told to stop waits for it, up to the
    /// drain timeout.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let guard = self.begin();
        tokio::spawn(async move {
            task.await;
            drop(guard);
        });
    }

    /// How many are running.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }

    /// Waits until none is running. More may begin later.
    ///
    /// # Cancel safety
    ///
    /// Nothing happens when it is dropped.
    pub async fn idle(&self) {
        loop {
            let notified = self.0.idle.notified();
            if self.running() == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_waits_for_the_last_guard() {
        let tasks = Tasks::default();
        let (first, second) = (tasks.begin(), tasks.begin());
        let mut idle = tokio_test_task(tasks.clone());
        drop(first);
        tokio::task::yield_now().await;
        assert!(!idle.is_finished());
        drop(second);
        (&mut idle).await.unwrap();
        assert_eq!(tasks.running(), 0);
    }

    fn tokio_test_task(tasks: Tasks) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { tasks.idle().await })
    }
}

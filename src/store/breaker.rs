//! Fails at once when the store is known to be down.
//!
//! Without it, every request of a busy proxy would wait for the whole timeout of a dead store.
//! Each server of each worker has its own: one memcached that is down must not take the keys of
//! its neighbours with it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::StoreError;
use crate::config::Storage;

/// Counts the failures of one server and says whether it is worth asking.
///
/// Closed, it lets operations through. After `breaker_failures` failures in a row it opens: all
/// operations fail at once, and a task pings the server every `breaker_retry` until it answers.
/// A refusal is an answer, so it does not count as a failure.
#[derive(Debug)]
pub struct Breaker {
    /// What log lines call the server; a setting, no secret.
    server: String,
    /// Bound on one operation, the wait for a connection included.
    timeout: Duration,
    retry: Duration,
    threshold: u32,
    failures: AtomicU32,
    open: AtomicBool,
}

/// What can be asked whether it is up.
pub(super) trait Guarded: Send + Sync + 'static {
    fn breaker(&self) -> &Breaker;
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives up the connections: nothing comes over them any more.
    fn distrust(&self);
}

/// Whether an operation may change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Why a read failed, and whether that says anything of the server that is not known yet.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: StoreError,
    /// Not for reads that failed together with another one, which counts.
    pub(super) counts: bool,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        let counts = true;
        Self { error, counts }
    }
}

impl Breaker {
    pub(super) fn new(server: String, storage: &Storage) -> Self {
        Self {
            server,
            timeout: storage.timeout,
            retry: storage.breaker_retry,
            threshold: storage.breaker_failures.max(1),
            failures: AtomicU32::new(0),
            open: AtomicBool::new(false),
        }
    }

    /// Whether operations fail at once.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Fails when it is open.
    fn check(&self) -> Result<(), StoreError> {
        if self.is_open() {
            return Err(StoreError::unavailable("the store is known to be down"));
        }
        Ok(())
    }

    fn succeeded(&self) {
        // Written only when it changes: all tasks of a worker share the line.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure; `true` when this one has opened the breaker.
    fn failed(&self, error: &StoreError) -> bool {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let opened = failures >= self.threshold && !self.open.swap(true, Ordering::Relaxed);
        if opened {
            tracing::warn!(
                server = %self.server,
                failures,
                error = %Chain(error),
                "the store is down; operations fail at once until it answers"
            );
        }
        opened
    }

    fn close(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.open.store(false, Ordering::Relaxed);
        tracing::info!(server = %self.server, "the store answers again");
    }
}

/// Carries out one operation on a server: not at all when it is known to be down, and for no
/// longer than the store's timeout.
///
/// The operation comes pinned because it is large (the Redis driver's takes 7 KiB), and each
/// `async fn` that takes a future by value holds it twice.
pub(super) async fn guarded<G: Guarded, T>(
    target: &Arc<G>,
    access: Access,
    operation: Pin<&mut impl Future<Output = Result<T, StoreError>>>,
) -> Result<T, StoreError> {
    target.breaker().check()?;
    let (outcome, is_silent) = match timeout(target.breaker().timeout, operation).await {
        Ok(outcome) => (outcome, false),
        Err(_elapsed) => {
            let error = match access {
                Access::Read => StoreError::TimedOut,
                // It may sit in a socket's buffer, or may have been carried out.
                Access::Write => StoreError::ambiguous("the store did not answer in time"),
            };
            (Err(error), true)
        }
    };
    judge(target, outcome, is_silent)
}

/// As [`guarded`], for a read that ends with [`StoreError::TimedOut`] by itself when its time is
/// over.
pub(super) async fn guarded_read<G: Guarded, T, E: Into<Failed>>(
    target: &Arc<G>,
    operation: impl Future<Output = Result<T, E>>,
) -> Result<T, StoreError> {
    target.breaker().check()?;
    let outcome = match operation.await.map_err(Into::into) {
        Err(failed) if !failed.counts => return Err(failed.error),
        outcome => outcome.map_err(|failed| failed.error),
    };
    let is_silent = matches!(outcome, Err(StoreError::TimedOut));
    judge(target, outcome, is_silent)
}

/// Learns from the outcome of an operation.
fn judge<G: Guarded, T>(
    target: &Arc<G>,
    outcome: Result<T, StoreError>,
    is_silent: bool,
) -> Result<T, StoreError> {
    let breaker = target.breaker();
    match &outcome {
        Err(error) if error.means_down() => {
            if breaker.failed(error) {
                // It may be the connection alone that is dead, and the kernel would need a quarter
                // of an hour to notice.
                if is_silent {
                    target.distrust();
                }
                drop(tokio::spawn(close_when_up(Arc::downgrade(target))));
            }
        }
        Ok(_) | Err(_) => breaker.succeeded(),
    }
    outcome
}

/// Pings until the server answers. Ends by itself when nobody uses the server any more.
async fn close_when_up<G: Guarded>(target: std::sync::Weak<G>) {
    loop {
        let Some(retry) = target.upgrade().map(|target| target.breaker().retry) else {
            return;
        };
        sleep(retry).await;
        let Some(target) = target.upgrade() else {
            return;
        };
        let answered = match timeout(target.breaker().timeout, target.ping()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => !error.means_down(),
            Err(_elapsed) => {
                target.distrust();
                false
            }
        };
        if answered {
            target.breaker().close();
            return;
        }
    }
}

/// Prints an error and all its causes.
struct Chain<'a>(&'a StoreError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)?;
        let mut error: &dyn std::error::Error = self.0;
        while let Some(cause) = error.source() {
            write!(f, ": {cause}")?;
            error = cause;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use tokio::time::Instant;

    use super::*;
    use crate::config;

    struct Fake {
        breaker: Breaker,
        up: AtomicBool,
        pings: AtomicU32,
        distrusted: AtomicU32,
    }

    impl Guarded for Fake {
        fn breaker(&self) -> &Breaker {
            &self.breaker
        }

        async fn ping(&self) -> Result<(), StoreError> {
            self.pings.fetch_add(1, Ordering::Relaxed);
            if self.up.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err(StoreError::TimedOut)
            }
        }

        fn distrust(&self) {
            self.distrusted.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn fake() -> Arc<Fake> {
        let storage = Storage {
            engine: config::Engine::Memory { max_bytes: 0 },
            format: config::Format::Native,
            key_prefix: String::new(),
            timeout: Duration::from_millis(100),
            connect_timeout: Duration::from_secs(1),
            breaker_failures: 3,
            breaker_retry: Duration::from_secs(1),
            fallback: None,
        };
        Arc::new(Fake {
            breaker: Breaker::new("fake".to_owned(), &storage),
            up: AtomicBool::new(false),
            pings: AtomicU32::new(0),
            distrusted: AtomicU32::new(0),
        })
    }

    async fn fail(fake: &Arc<Fake>) -> StoreError {
        let lost = async { Err::<(), _>(StoreError::ambiguous("reset")) };
        guarded(fake, Access::Write, pin!(lost)).await.unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_failures_in_a_row_and_closes_when_a_ping_succeeds() {
        let fake = fake();
        for _ in 0..3 {
            assert!(matches!(fail(&fake).await, StoreError::Ambiguous(_)));
        }
        assert!(fake.breaker.is_open());
        assert!(matches!(fail(&fake).await, StoreError::Unavailable(_)));

        sleep(Duration::from_millis(2500)).await;
        assert_eq!(fake.pings.load(Ordering::Relaxed), 2);
        assert!(fake.breaker.is_open());

        fake.up.store(true, Ordering::Relaxed);
        sleep(Duration::from_secs(1)).await;
        assert!(!fake.breaker.is_open());
        guarded(&fake, Access::Read, pin!(async { Ok(()) }))
            .await
            .unwrap();
        assert_eq!(fake.pings.load(Ordering::Relaxed), 3, "the task has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn open_breaker_does_not_run_the_operation() {
        let fake = fake();
        for _ in 0..3 {
            fail(&fake).await;
        }
        let touched = AtomicBool::new(false);
        let operation = async {
            touched.store(true, Ordering::Relaxed);
            Ok(())
        };
        let start = Instant::now();
        guarded(&fake, Access::Read, pin!(operation))
            .await
            .unwrap_err();
        assert!(!touched.load(Ordering::Relaxed));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_are_silent_are_given_up_when_it_opens() {
        for (silent, distrusted) in [(true, 1), (false, 0)] {
            let fake = fake();
            for _ in 0..3 {
                assert_eq!(fake.distrusted.load(Ordering::Relaxed), 0);
                let outcome = if silent {
                    guarded(&fake, Access::Write, pin!(pending::<Result<(), _>>())).await
                } else {
                    Err(fail(&fake).await)
                };
                assert!(matches!(outcome, Err(StoreError::Ambiguous(_))));
            }
            assert_eq!(fake.distrusted.load(Ordering::Relaxed), distrusted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn success_and_refusal_start_the_count_again() {
        let fake = fake();
        for answer in [Ok(()), Err(StoreError::refused("OOM"))] {
            fail(&fake).await;
            fail(&fake).await;
            drop(guarded(&fake, Access::Write, pin!(async { answer })).await);
        }
        fail(&fake).await;
        assert!(!fake.breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn deadline_says_whether_something_may_have_changed() {
        let fake = fake();
        let start = Instant::now();
        let read = guarded(&fake, Access::Read, pin!(pending::<Result<(), _>>())).await;
        assert!(matches!(read, Err(StoreError::TimedOut)));
        assert_eq!(start.elapsed(), Duration::from_millis(100));
        let write = guarded(&fake, Access::Write, pin!(pending::<Result<(), _>>())).await;
        assert!(matches!(write, Err(StoreError::Ambiguous(_))));
    }

    #[test]
    fn chain_prints_every_cause_once() {
        let error = StoreError::refused("OOM command not allowed");
        insta::assert_snapshot!(Chain(&error), @"the store refused: OOM command not allowed");
    }
}

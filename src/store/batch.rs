//! Loads that wait in the same turn of a worker's loop are asked for together.
//!
//! Asking costs more than the answer: of what a load takes, most is the driver's and the kernel's
//! work for a command. Under load, several exchanges reach their load before the worker's loop
//! comes round; they share one command. An exchange that is alone waits for nobody: its command
//! leaves when the loop has run what was ready.

use std::fmt;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::oneshot;

/// The most keys in one batch, so that one answer does not hold up the others for long.
const MOST: usize = 64;

/// The loads from one server that have not been asked for. Clones share them.
pub(super) struct Batcher<K, A>(Arc<Mutex<Queue<K, A>>>);

struct Queue<K, A> {
    waiting: Vec<Waiting<K, A>>,
    /// Whoever asks for them, while it waits for one.
    asker: Option<Waker>,
}

/// A key, and who waits for what is stored under it.
pub(super) struct Waiting<K, A> {
    pub(super) key: K,
    pub(super) answer: oneshot::Sender<A>,
}

impl<K, A> Batcher<K, A> {
    /// Loads what is stored under `key`, together with whatever else is loaded in this turn.
    /// Somebody must [`run`](Self::run). `None` when that has ended, or when the batch panicked.
    ///
    /// # Cancel safety
    ///
    /// The other loads go on; this one's answer is dropped.
    pub(super) async fn load(&self, key: K) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        let asker = {
            let mut queue = self.lock();
            queue.waiting.push(Waiting { key, answer });
            queue.asker.take()
        };
        if let Some(asker) = asker {
            // It is run after all that are ready now, and those may want to load, too.
            asker.wake();
        }
        answered.await.ok()
    }

    /// Has each batch asked for by `ask`, for ever; to be run as one task, which costs less than one
    /// for each batch.
    ///
    /// A batch that panics fails its own loads: nobody else would ask for those that come later, and
    /// they would wait for ever.
    pub(super) async fn run<F: Future<Output = ()>>(self, ask: impl Fn(Vec<Waiting<K, A>>) -> F) {
        let mut asking = FuturesUnordered::new();
        poll_fn(|cx| {
            loop {
                while let Some(batch) = self.next(cx) {
                    // Boxed, since the drivers' futures have kilobytes, and would be moved twice more.
                    asking.push(Box::pin(AssertUnwindSafe(ask(batch)).catch_unwind()));
                }
                // What is pushed is only sent when it is polled. None is no end here.
                match asking.poll_next_unpin(cx) {
                    // What went wrong has been reported where it did.
                    Poll::Ready(Some(Ok(()) | Err(_))) => {}
                    Poll::Ready(None) | Poll::Pending => return Poll::<()>::Pending,
                }
            }
        })
        .await;
    }

    /// The next batch; when there is none, the task is woken by the next load.
    fn next(&self, cx: &Context<'_>) -> Option<Vec<Waiting<K, A>>> {
        let mut queue = self.lock();
        // Who went away in the meantime needs no answer.
        queue.waiting.retain(|one| !one.answer.is_closed());
        if queue.waiting.is_empty() {
            queue.asker = Some(cx.waker().clone());
            return None;
        }
        let rest = if queue.waiting.len() > MOST {
            queue.waiting.split_off(MOST)
        } else {
            Vec::new()
        };
        Some(std::mem::replace(&mut queue.waiting, rest))
    }

    fn lock(&self) -> MutexGuard<'_, Queue<K, A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, A> Default for Batcher<K, A> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Queue {
            waiting: Vec::new(),
            asker: None,
        })))
    }
}

impl<K, A> Clone for Batcher<K, A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, A> fmt::Debug for Batcher<K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    type Numbers = Batcher<u32, u32>;

    /// Answers each number with how many were asked for together.
    fn count(numbers: &Numbers) -> JoinHandle<()> {
        let counting = numbers.clone().run(|batch| async move {
            let together = u32::try_from(batch.len()).unwrap();
            for one in batch {
                assert_ne!(one.key, 0, "as a driver might");
                one.answer.send(together).unwrap();
            }
        });
        tokio::spawn(counting)
    }

    async fn loaded(numbers: &Numbers, number: u32) -> Option<u32> {
        let answered = timeout(Duration::from_secs(10), numbers.load(number));
        answered.await.expect("nobody waits for ever")
    }

    #[tokio::test]
    async fn loads_of_one_turn_are_asked_for_together_up_to_a_bound() {
        let numbers = Numbers::default();
        let asker = count(&numbers);
        assert_eq!(loaded(&numbers, 1).await, Some(1));
        let answers = join_all((1..=70).map(|number| loaded(&numbers, number))).await;
        let (full, rest) = answers.split_at(MOST);
        assert_eq!(full, [Some(64); MOST]);
        assert_eq!(rest, [Some(6); 6]);
        asker.abort();
    }

    #[tokio::test]
    async fn a_load_that_goes_away_is_not_asked_for_and_disturbs_no_others() {
        let numbers = Numbers::default();
        let asker = count(&numbers);
        assert!(numbers.load(0).now_or_never().is_none());
        let answers = join_all((1..=3).map(|number| loaded(&numbers, number))).await;
        assert_eq!(answers, [Some(3); 3]);
        asker.abort();
    }

    #[tokio::test]
    async fn a_batch_that_panics_fails_its_own_loads_and_no_later_ones() {
        let numbers = Numbers::default();
        let asker = count(&numbers);
        let failed = join_all([loaded(&numbers, 0), loaded(&numbers, 1)]).await;
        assert_eq!(failed, [None; 2]);
        assert_eq!(loaded(&numbers, 1).await, Some(1));
        asker.abort();
    }
}

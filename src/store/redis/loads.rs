//! Loads that wait in the same turn of a worker's loop go to Redis as one command.
//!
//! Asking costs more than the answer: of what a load takes, most is the driver's and the kernel's
//! work for a command. Under load, several exchanges reach their load before the worker's loop
//! comes round; they share one `MGET`. An exchange that is alone waits for nobody: its command
//! leaves when the loop has run what was ready.
//!
//! A node of a Redis Cluster answers an `MGET` only when all its keys are in one slot, so there
//! each load is a `GET`. The driver is given them together, and writes them to the socket as one.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::KeysInterface;
use fred::types::{Key as RedisKey, Value};
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// The most keys in one command, so that one answer does not hold up the others for long.
const MOST: usize = 64;

/// How loads that wait together are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Merging {
    /// As one `MGET`.
    OneCommand,
    /// As a `GET` each.
    CommandEach,
}

/// The loads of one connection that have not been sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Loads(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Whoever sends them, while it waits for one.
    sender: Option<Waker>,
}

#[derive(Debug)]
struct Waiting {
    key: RedisKey,
    answer: oneshot::Sender<Result<Value, Error>>,
}

impl Loads {
    /// Loads what is stored under `key`, together with whatever else is loaded in this turn.
    /// Somebody must [`send`](Self::send) them.
    ///
    /// # Cancel safety
    ///
    /// The other loads go on; this one's answer is dropped.
    pub(super) async fn get(&self, key: RedisKey) -> Result<Value, Error> {
        let (answer, answered) = oneshot::channel();
        let sender = {
            let mut queue = self.lock();
            queue.waiting.push(Waiting { key, answer });
            queue.sender.take()
        };
        if let Some(sender) = sender {
            // It is run after all that are ready now, and those may want to load, too.
            sender.wake();
        }
        answered
            .await
            .unwrap_or_else(|_dropped| Err(Error::new(ErrorKind::Canceled, "the worker stops")))
    }

    /// Sends loads, for ever, and waits for each answer for so long; to be run as one task, which
    /// costs less than one for each command.
    pub(super) async fn send(self, client: Client, merging: Merging, limit: Duration) {
        self.send_by(|batch| {
            let client = client.clone();
            async move {
                match merging {
                    Merging::OneCommand => ask(client, batch, limit).await,
                    Merging::CommandEach => ask_each(&client, batch, limit).await,
                }
            }
        })
        .await;
    }

    /// Has each command's loads asked for by `ask`. One that panics fails its own loads: nobody else
    /// would send those that come later, and they would wait for ever.
    async fn send_by<F: Future<Output = ()>>(self, ask: impl Fn(Vec<Waiting>) -> F) {
        let mut asking = FuturesUnordered::new();
        poll_fn(|cx| {
            loop {
                while let Some(batch) = self.next(cx) {
                    // Boxed, since the driver's future has kilobytes, and would be moved twice more.
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

    /// The loads of the next command; when there are none, the task is woken by the next one.
    fn next(&self, cx: &Context<'_>) -> Option<Vec<Waiting>> {
        let mut queue = self.lock();
        // Who went away in the meantime needs no answer.
        queue.waiting.retain(|one| !one.answer.is_closed());
        if queue.waiting.is_empty() {
            queue.sender = Some(cx.waker().clone());
            return None;
        }
        let rest = if queue.waiting.len() > MOST {
            queue.waiting.split_off(MOST)
        } else {
            Vec::new()
        };
        Some(std::mem::replace(&mut queue.waiting, rest))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The commands are polled in one go, so the driver's queue has them all before it writes.
async fn ask_each(client: &Client, waiting: Vec<Waiting>, limit: Duration) {
    let asking = waiting.into_iter().map(|one| ask_one(client, one, limit));
    let asking: FuturesUnordered<_> = asking.collect();
    asking.collect::<()>().await;
}

async fn ask_one(client: &Client, Waiting { key, answer }: Waiting, limit: Duration) {
    let value = in_time(limit, pin!(client.get(key))).await;
    // Whoever asked may be gone; nobody else needs to know.
    drop(answer.send(value));
}

async fn ask(client: Client, mut waiting: Vec<Waiting>, limit: Duration) {
    if waiting.len() < 2 {
        if let Some(one) = waiting.pop() {
            ask_one(&client, one, limit).await;
        }
        return;
    }
    let keys: Vec<RedisKey> = waiting.iter().map(|one| one.key.clone()).collect();
    let answers = in_time(limit, pin!(client.mget(keys))).await;
    let answers = answers.and_then(|answers| {
        let answers = answers.into_array();
        if answers.len() == waiting.len() {
            Ok(answers)
        } else {
            let reason = "MGET was not answered key by key";
            Err(Error::new(ErrorKind::Protocol, reason))
        }
    });
    match answers {
        Ok(answers) => {
            for (one, value) in waiting.into_iter().zip(answers) {
                drop(one.answer.send(Ok(value)));
            }
        }
        Err(error) => {
            for one in waiting {
                drop(one.answer.send(Err(error.clone())));
            }
        }
    }
}

/// The question comes pinned: an `async fn` that takes a future by value holds it twice.
async fn in_time(
    limit: Duration,
    asking: Pin<&mut impl Future<Output = Result<Value, Error>>>,
) -> Result<Value, Error> {
    match timeout(limit, asking).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Error::new(ErrorKind::Timeout, "no answer in time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_panics_fails_its_own_loads_and_no_later_ones() {
        let loads = Loads::default();
        let sending = tokio::spawn(loads.clone().send_by(|batch| async move {
            for Waiting { key, answer } in batch {
                assert_ne!(key.as_str(), Some("bad"), "as the driver might");
                answer.send(Ok(Value::Integer(1))).unwrap();
            }
        }));
        let failed = loads.get(RedisKey::from_static_str("bad")).await;
        assert_eq!(failed.unwrap_err().kind(), &ErrorKind::Canceled);
        let later = loads.get(RedisKey::from_static_str("good"));
        let answered = timeout(Duration::from_secs(10), later).await;
        assert_eq!(answered.unwrap().unwrap(), Value::Integer(1));
        sending.abort();
    }
}

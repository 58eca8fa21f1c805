//! Loads that wait in the same turn of a worker's loop go to Redis as one `MGET`.
//!
//! A node of a Redis Cluster answers an `MGET` only when all its keys are in one slot, so there
//! each load is a `GET`. The driver is given them together, and writes them to the socket as one.

use std::pin::{Pin, pin};
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::KeysInterface;
use fred::types::{Key as RedisKey, Value};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::timeout;

use super::super::batch::{self, Batcher};

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
pub(super) struct Loads(Batcher<RedisKey, Result<Value, Error>>);

type Waiting = batch::Waiting<RedisKey, Result<Value, Error>>;

impl Loads {
    /// Loads what is stored under `key`, together with whatever else is loaded in this turn.
    /// Somebody must [`send`](Self::send) them.
    ///
    /// # Cancel safety
    ///
    /// The other loads go on; this one's answer is dropped.
    pub(super) async fn get(&self, key: RedisKey) -> Result<Value, Error> {
        let answer = self.0.load(key).await;
        answer.unwrap_or_else(|| Err(Error::new(ErrorKind::Canceled, "the worker stops")))
    }

    /// Sends loads, for ever, and waits for each answer for so long; to be run as one task.
    pub(super) async fn send(self, client: Client, merging: Merging, limit: Duration) {
        match merging {
            Merging::OneCommand => {
                let ask = |batch| ask(client.clone(), batch, limit);
                self.0.run(ask).await;
            }
            Merging::CommandEach => {
                let ask = |batch| ask_each(&client, batch, limit);
                self.0.run(ask).await;
            }
        }
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

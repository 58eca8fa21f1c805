//! Loads that wait in the same turn of a worker's loop go to memcached as one message.
//!
//! The driver takes a connection for each of its calls, so a load by itself costs two system calls,
//! a round of the loop for its connection, and a timer for each step. A batch costs that once. The
//! driver marks every key of it with a number that the server repeats, so that no answer passes for
//! another's; and what was answered before a connection broke is kept.

use std::sync::Weak;

use memcache::exp::{Error, Get, GetResult, Meta};
use tokio::time::timeout;

use super::super::batch::{self, Batcher};
use super::super::breaker::Failed;
use super::super::{Key, Record, StoreError, Version};
use super::Memcached;

/// The loads from one server that have not been sent.
pub(super) type Loads = Batcher<Key, Loaded>;

type Waiting = batch::Waiting<Key, Loaded>;

type Loaded = Result<Option<Record>, Failed>;

impl Memcached {
    /// Loads a record, together with whatever else is loaded in this turn. Ends with
    /// [`StoreError::TimedOut`] by itself when its time is over.
    ///
    /// # Cancel safety
    ///
    /// The other loads go on; this one's answer is dropped.
    pub(in super::super) async fn load(&self, key: &Key) -> Loaded {
        let answer = self.loads.load(key.clone()).await;
        answer.unwrap_or_else(|| Err(StoreError::unavailable("the worker stops").into()))
    }

    async fn answer(&self, batch: Vec<Waiting>) {
        // One bound on all of it: the server's name, a connection, and the answers.
        let asked = timeout(self.timeout, self.ask(&batch)).await;
        let loaded: Vec<_> = match asked.unwrap_or(Err(StoreError::TimedOut)) {
            Ok(answers) => {
                let answers = batch.iter().zip(answers);
                answers
                    .map(|(one, answer)| self.record(&one.key, answer))
                    .collect()
            }
            Err(error) => batch.iter().map(|_| Err(error.again())).collect(),
        };
        let mut is_counted = false;
        for (one, loaded) in batch.into_iter().zip(loaded) {
            // A connection that breaks is one failure, however many loads it had. That the server is
            // silent is each one's own: they have all waited for it.
            let breaks = matches!(loaded, Err(StoreError::Unavailable(_)));
            let counts = !(breaks && is_counted);
            let loaded = loaded.map_err(|error| Failed { error, counts });
            // Who has gone away counts nothing.
            is_counted |= one.answer.send(loaded).is_ok() && breaks;
        }
    }

    async fn ask(&self, batch: &[Waiting]) -> Result<Vec<Result<GetResult, Error>>, StoreError> {
        let client = self.client().await?;
        if let [one] = batch {
            return Ok(vec![client.run(get(&one.key)).await]);
        }
        let gets = batch.iter().map(|one| get(&one.key));
        let answers = client.run_many(gets).await;
        answers.map_err(|error| self.failure(error))
    }

    fn record(
        &self,
        key: &Key,
        answer: Result<GetResult, Error>,
    ) -> Result<Option<Record>, StoreError> {
        let found = answer.map_err(|error| self.failure(error))?;
        if !found.hit() {
            return Ok(None);
        }
        match (found.value, found.item.cas) {
            (Some(value), Some(cas)) if !value.is_empty() => Ok(Some(Record {
                bytes: value.into(),
                version: Version::number(key, cas),
            })),
            _ => Err(StoreError::corrupt("an item without value or version")),
        }
    }
}

/// Sends the loads of a server, for ever; to be run as one task.
pub(super) async fn send(loads: Loads, server: Weak<Memcached>) {
    let answer = async |server: Weak<Memcached>, batch| {
        if let Some(server) = server.upgrade() {
            server.answer(batch).await;
        }
    };
    loads.run(|batch| answer(Weak::clone(&server), batch)).await;
}

fn get(key: &Key) -> Get {
    Get::new(key.as_bytes()).meta(Meta::NONE.cas())
}

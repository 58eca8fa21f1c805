//! Loads that wait in the same turn of a worker's loop go to Redis as one command.
//!
//! Asking costs more than the answer: of what a load takes, most is the driver's and the kernel's
//! work for a command. Under load, several exchanges reach their load before the worker's loop
//! comes round; they share one `MGET`. An exchange that is alone waits for nobody: its command
//! leaves when the loop has run what was ready.

use std::sync::{Arc, Mutex, PoisonError};

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::KeysInterface;
use fred::types::{Key as RedisKey, Value};
use tokio::sync::oneshot;

/// The most keys in one command, so that one answer does not hold up the others for long.
const MOST: usize = 64;

/// The loads of one connection that have not been sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Loads(Arc<Mutex<Vec<Waiting>>>);

#[derive(Debug)]
struct Waiting {
    key: RedisKey,
    answer: oneshot::Sender<Result<Value, Error>>,
}

impl Loads {
    /// Loads what is stored under `key`, together with whatever else is loaded in this turn.
    ///
    /// # Cancel safety
    ///
    /// The other loads go on; this one's answer is dropped.
    pub(super) async fn get(&self, client: &Client, key: RedisKey) -> Result<Value, Error> {
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut waiting = self.lock();
            waiting.push(Waiting { key, answer });
            waiting.len() == 1
        };
        if is_first {
            let (loads, client) = (self.clone(), client.clone());
            // A new task is run after all that are ready now, and those may want to load, too.
            // Boxed, since the driver's future has kilobytes, and a task is moved as it is made.
            tokio::spawn(Box::pin(async move { loads.send(&client).await }));
        }
        answered
            .await
            .unwrap_or_else(|_dropped| Err(Error::new(ErrorKind::Canceled, "the worker stops")))
    }

    async fn send(&self, client: &Client) {
        let mut waiting = std::mem::take(&mut *self.lock());
        // Who went away in the meantime needs no answer.
        waiting.retain(|one| !one.answer.is_closed());
        while waiting.len() > MOST {
            let rest = waiting.split_off(MOST);
            let client = client.clone();
            let full = std::mem::replace(&mut waiting, rest);
            tokio::spawn(Box::pin(async move { ask(&client, full).await }));
        }
        ask(client, waiting).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(client: &Client, mut waiting: Vec<Waiting>) {
    if waiting.len() < 2 {
        if let Some(Waiting { key, answer }) = waiting.pop() {
            // Whoever asked may be gone; nobody else needs to know.
            drop(answer.send(client.get(key).await));
        }
        return;
    }
    let keys: Vec<RedisKey> = waiting.iter().map(|one| one.key.clone()).collect();
    let answers: Result<Value, Error> = client.mget(keys).await;
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

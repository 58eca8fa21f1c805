//! Has Redis tell the connection which records change that were read over it (`CLIENT TRACKING`), for
//! the near cache.
//!
//! The driver hands out what comes in over a connection in its order, but by several channels: an
//! answer to who asked, what changed to all who listen. So before an answer is kept, all that was
//! told until then is taken in. The driver says that there is a new connection before it sends
//! anything over it; so no answer that came over one is kept before that is known, and before Redis
//! has agreed to tell it of changes.
//!
//! What the driver does not hand out is that all keys are gone (`FLUSHALL`): Redis tells it as a change
//! without a key. Only the bounded age of what is kept helps there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, TrackingInterface};
use fred::types::MultipleStrings;
use fred::types::client::Invalidation;
use fred::types::config::Server;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, sleep, timeout};

use super::super::Key;
use super::super::near::{Feed, Near, Ticket};
use super::answer;

/// How long it takes until Redis is asked again when it did not agree.
const RETRY: Duration = Duration::from_secs(1);

/// One connection's part in the near cache.
#[derive(Debug)]
pub(super) struct Tracking(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    feed: Feed,
    heard: Events,
}

/// What the driver says of the connection, and of what it is told.
#[derive(Debug)]
struct Events {
    errors: Receiver<(Error, Option<Server>)>,
    reconnected: Receiver<Server>,
    changes: Receiver<Invalidation>,
}

impl Events {
    fn of(client: &Client) -> Self {
        Self {
            errors: client.error_rx(),
            reconnected: client.reconnect_rx(),
            changes: client.invalidation_rx(),
        }
    }

    /// Waits until there is something to take in; `false` when there will be no more.
    async fn next(&mut self) -> bool {
        tokio::select! {
            event = self.errors.recv() => is_open(&event),
            event = self.reconnected.recv() => is_open(&event),
            event = self.changes.recv() => is_open(&event),
        }
    }
}

impl Tracking {
    /// To be called before the client connects.
    pub(super) fn new(client: &Client, near: Near) -> Self {
        Self(Mutex::new(Inner {
            feed: Feed::new(near),
            heard: Events::of(client),
        }))
    }

    /// To be called before a load is sent.
    pub(super) fn begin(&self, key: &Key) -> Option<Ticket> {
        self.lock().feed.begin(key, Instant::now())
    }

    /// Keeps the answer to a load, unless it was overtaken; `None` is that there is no record.
    pub(super) fn keep(&self, key: &Key, ticket: Option<Ticket>, bytes: Option<&Bytes>) {
        let mut inner = self.lock();
        inner.take_in();
        inner.feed.keep(key, ticket, bytes, Instant::now());
    }

    /// The connection is given up.
    pub(super) fn lost(&self) {
        self.lock().feed.lost();
    }

    /// Has each new connection be told of changes, and takes in what it is told. Ends with the client.
    pub(super) fn follow(
        self: Arc<Self>,
        client: Client,
        name: String,
        limit: Duration,
    ) -> impl Future<Output = ()> {
        let mut events = Events::of(&client);
        async move {
            let mut has_agreed = true;
            let mut is_warned = false;
            loop {
                let woken = tokio::select! {
                    woken = events.next() => woken,
                    () = sleep(RETRY), if !has_agreed => true,
                };
                if !woken {
                    return;
                }
                has_agreed = match self.ask(&client, limit).await {
                    Ok(has_agreed) => has_agreed,
                    Err(refusal) => {
                        if !is_warned {
                            let error = answer::text(&refusal);
                            tracing::warn!(server = %name, %error, "Redis does not tell of changes, so the near cache stays empty");
                        }
                        is_warned = true;
                        false
                    }
                };
            }
        }
    }

    /// Takes in what has been told, and asks Redis to tell this connection of changes if it does not
    /// yet; `false` when it should be asked again. An error is what Redis itself says against it.
    async fn ask(&self, client: &Client, limit: Duration) -> Result<bool, Error> {
        let heard = || {
            let mut inner = self.lock();
            inner.take_in();
            inner.feed.ask()
        };
        if heard().is_none() {
            return Ok(true);
        }
        // What is asked without a connection waits in the driver, and so would all that is asked again.
        if !client.is_connected() {
            drop(timeout(limit, client.wait_for_connect()).await);
        }
        let Some(asked) = heard().filter(|_| client.is_connected()) else {
            return Ok(false);
        };
        let every_key = MultipleStrings::new();
        let asking = client.start_tracking(every_key, false, false, false, false);
        match timeout(limit, asking).await {
            Ok(Ok(())) => {
                let mut inner = self.lock();
                inner.take_in();
                Ok(inner.feed.agreed(asked))
            }
            Ok(Err(error)) if is_refusal(&error) => Err(error),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes in what has been told until now.
    fn take_in(&mut self) {
        let mut is_lost = false;
        while was_told(&self.heard.errors.try_recv()) {
            is_lost = true;
        }
        while was_told(&self.heard.reconnected.try_recv()) {
            is_lost = true;
        }
        if is_lost {
            self.feed.lost();
        }
        loop {
            match self.heard.changes.try_recv() {
                Ok(changed) => {
                    for key in &changed.keys {
                        self.feed
                            .changed(&Key(Bytes::copy_from_slice(key.as_bytes())));
                    }
                }
                Err(TryRecvError::Lagged(_)) => self.feed.missed(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}

fn is_open<T>(received: &Result<T, RecvError>) -> bool {
    !matches!(received, Err(RecvError::Closed))
}

/// Whether there was something to receive, or had been.
fn was_told<T>(received: &Result<T, TryRecvError>) -> bool {
    match received {
        Ok(_) | Err(TryRecvError::Lagged(_)) => true,
        Err(TryRecvError::Empty | TryRecvError::Closed) => false,
    }
}

/// Whether Redis itself said no.
fn is_refusal(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Timeout | ErrorKind::Backpressure
    )
}

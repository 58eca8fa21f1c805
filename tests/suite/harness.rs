//! What the tests are written with: a scripted application, the real proxy, and a browser.
//!
//! ```text
//! let app = Upstream::app(|_| AppResponse::ok("hello").header("X-Session-Set", "user=alice"));
//! let pycket = Pycket::with(&app).config("[session]\nidle_timeout = \"1h\"").start();
//! let mut browser = Browser::at(&pycket);
//! assert_eq!(browser.get("/").status, 200);
//! assert_eq!(app.request(1).header("X-Session"), Some("{}"));
//! ```
//!
//! Everything listens on port 0, nothing sleeps, and nothing is tried twice. Whoever waits, waits
//! for an event and at most [`DEADLINE`]; then the test fails and says what it waited for.

mod browser;
mod framing;
mod gate;
mod jar;
mod message;
mod process;
mod pycket;
mod tool;
mod upstream;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use browser::{Browser, Response};
pub(crate) use gate::Gate;
pub(crate) use message::{AppRequest, AppResponse};
pub(crate) use process::{Ended, Process};
pub(crate) use pycket::{Builder, Pycket, SECRET, program};
pub(crate) use tool::{curl, tool};
pub(crate) use upstream::Upstream;
pub(crate) use wire::{Wire, raw, raw_until_close};

use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest that a test waits for anything. It only ends what would hang: a machine that runs
/// several builds at once must not reach it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Something that listens on one address.
pub(crate) trait Address {
    /// Where it listens.
    fn address(&self) -> SocketAddr;
}

impl Address for SocketAddr {
    fn address(&self) -> SocketAddr {
        *self
    }
}

/// A value that one thread changes and others wait for.
#[derive(Debug, Default)]
struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    /// The value as it is. A panic in another thread is reported there, not here.
    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value and wakes whoever waits for it.
    fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `find` answers; `None` once [`DEADLINE`] has passed.
    fn wait<R>(&self, mut find: impl FnMut(&T) -> Option<R>) -> Option<R> {
        let end = Instant::now() + DEADLINE;
        let mut value = self.lock();
        loop {
            if let Some(found) = find(&value) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            value = self
                .changed
                .wait_timeout(value, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

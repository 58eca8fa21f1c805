//! What one exchange does to the session: the pure decisions between the I/O steps.
//!
//! [`Carried::due`] decides which notifications a request carries, [`plan()`] what to store and which
//! cookie to set once the application has answered. Both are functions of what is known (cookie,
//! record, request and response heads, signals, policy, time); [`crate::proxy`] carries out.

mod delivery;
mod plan;

pub use delivery::{Carried, Visit, is_shown, page_path, redirect_target};
pub use plan::{Answer, CookieChange, Loaded, Plan, Refusal, Rules, Situation, Write, check, plan};

use std::time::Duration;

use crate::session::{Lifetimes, Limits};

/// When sessions begin and end on a route, and what happens when the store fails.
#[derive(Clone, Debug)]
pub struct SessionPolicy {
    /// How long sessions live.
    pub lifetimes: Lifetimes,
    /// Bounds on one session.
    pub limits: Limits,
    /// When a session begins.
    pub create: Create,
    /// For how long after a renewal the old id still leads to the new one; zero is not at all.
    pub renew_grace: Duration,
    /// What happens when the store can't be read.
    pub on_store_error: OnStoreError,
    /// How long a write is tried before the exchange fails.
    pub commit_timeout: Duration,
    /// Whether the store is asked each time, also where the near cache has an answer.
    pub strict: bool,
}

/// When a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// When the application first stores something.
    Lazy,
    /// When a browser first comes by, as with the Python library.
    Always,
}

/// What happens when the store can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreError {
    /// The exchange fails with 503, and the application is not bothered.
    Fail,
    /// The exchange goes on without a session; neither cookie nor record is touched.
    Anonymous,
}

/// How notifications are delivered on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationPolicy {
    /// When one is used up.
    pub consume: Consume,
    /// Where one that is made by a redirect goes first.
    pub bind: Bind,
    /// For how long one waits for the page it is bound to; then any page shows it.
    pub bind_grace: Duration,
    /// For how long an exchange may hold what it claimed; then another may show it.
    pub claim_timeout: Duration,
}

/// When a notification is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consume {
    /// Delivered with page loads only; gone when the answer is something that a person sees.
    Page,
    /// Delivered with every exchange; gone when the application names it in its response.
    Ack,
    /// Delivered with every exchange; gone once delivered.
    Always,
}

/// Where a notification that is made by a redirect goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// To the next page, whichever it is.
    None,
    /// To the path that the redirect leads to.
    Redirect,
}

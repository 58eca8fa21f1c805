//! Holding an application back until the test has seen what it wanted to see.

use std::sync::Arc;

use super::Watched;

/// A gate that is closed until a test opens it. Clones are the same gate.
///
/// `Upstream::app` records a request before it answers, so `app.request(n)` followed by
/// `gate.open()` is the way to say "while the n-th request is being answered".
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<Watched<bool>>);

impl Gate {
    /// A closed gate.
    pub(crate) fn closed() -> Self {
        Self::default()
    }

    /// Lets everybody pass who waits or will come.
    pub(crate) fn open(&self) {
        self.0.change(|open| *open = true);
    }

    /// Waits until the gate is open.
    pub(crate) fn pass(&self) {
        self.0
            .wait(|open| open.then_some(()))
            .expect("nobody opened the gate");
    }
}

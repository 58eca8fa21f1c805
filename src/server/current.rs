//! A value that is replaced as a whole while others use it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What holds at the moment. Whoever has got it keeps what it was then.
///
/// The lock is held for one clone of an `Arc`, and never across an await.
#[derive(Debug)]
pub(super) struct Current<T>(Mutex<Arc<T>>);

impl<T> Current<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Mutex::new(Arc::new(value)))
    }

    pub(super) fn get(&self) -> Arc<T> {
        Arc::clone(&self.lock())
    }

    pub(super) fn set(&self, value: T) {
        let old = std::mem::replace(&mut *self.lock(), Arc::new(value));
        // Not under the lock: there may be much to drop.
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

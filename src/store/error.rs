//! Why a store operation failed.

use std::fmt;

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store can't be reached. Nothing has changed.
    #[error("the store can't be reached")]
    Unavailable(#[source] BoxError),
    /// The store took too long. Nothing was sent that could change something.
    #[error("the store did not answer in time")]
    TimedOut,
    /// A write was sent and its outcome is unknown: it may have happened, or may still happen.
    /// Load to find out.
    #[error("the outcome of a write is unknown")]
    Ambiguous(#[source] BoxError),
    /// The store answered something that it should not. Nothing that was read can be trusted.
    #[error("the store's answer is not what was asked for")]
    Corrupt(#[source] BoxError),
    /// The store refused to do it (out of memory, read-only, not allowed), or was asked for what no
    /// store does (a lifetime of zero, an empty record). Nothing was written. Only memcached drops
    /// the old record when it has no memory for the new one.
    #[error("the store refused")]
    Refused(#[source] BoxError),
    /// The session has no place in the format of the records, or the settings forbid to change it.
    /// Nothing was sent, and trying again does not help: whoever asked for it is to blame.
    #[error("the session can't be kept like that")]
    Unfit(#[source] BoxError),
    /// The record is larger than the engine takes. Nothing was written. Only a memcached whose `-I`
    /// is below 1 MiB drops the old record.
    #[error("a record of {size} bytes is over the store's limit of {limit} bytes")]
    TooLarge {
        /// Bytes of the record.
        size: usize,
        /// What the engine takes; where it does not say, one less than was tried.
        limit: usize,
    },
}

/// A cause that is only ever printed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl StoreError {
    /// Whether this failure says that the store as a whole is not working.
    ///
    /// A server that answers is up, also when it refuses.
    pub(super) fn means_down(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::TimedOut | Self::Ambiguous(_) => true,
            Self::Corrupt(_) | Self::Refused(_) | Self::Unfit(_) | Self::TooLarge { .. } => false,
        }
    }

    /// The same failure, for another operation that it meets, too.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Unavailable(cause) => Self::unavailable(cause.to_string()),
            Self::TimedOut => Self::TimedOut,
            Self::Ambiguous(cause) => Self::ambiguous(cause.to_string()),
            Self::Corrupt(cause) => Self::corrupt(cause.to_string()),
            Self::Refused(cause) => Self::refused(cause.to_string()),
            Self::Unfit(cause) => Self::Unfit(cause.to_string().into()),
            &Self::TooLarge { size, limit } => Self::TooLarge { size, limit },
        }
    }

    pub(super) fn unavailable(cause: impl Into<Cause>) -> Self {
        Self::Unavailable(Box::new(cause.into()))
    }

    pub(super) fn ambiguous(cause: impl Into<Cause>) -> Self {
        Self::Ambiguous(Box::new(cause.into()))
    }

    pub(super) fn corrupt(cause: impl Into<Cause>) -> Self {
        Self::Corrupt(Box::new(cause.into()))
    }

    pub(super) fn refused(cause: impl Into<Cause>) -> Self {
        Self::Refused(Box::new(cause.into()))
    }
}

/// What a driver said, without keys and values.
///
/// The drivers' own errors are not passed on: memcache's print the key, and Redis repeats the
/// arguments of a command that it does not know.
#[derive(Debug)]
pub(super) struct Cause(String);

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

//! How a session is laid out in the store.
//!
//! Bytes and the key they answered under flow in, a [`Stored`] flows out, and back. A format
//! promises that what it does not fully understand is an error, never an empty session. It knows
//! nothing of engines, cookies or HTTP.

pub mod native;
pub mod pickle;
pub mod pycket;

use crate::session::{JsonError, Session, SessionId};

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A session.
    Session(Session),
    /// The session goes on under another id (`session.renew_grace`).
    Moved(SessionId),
}

/// Why bytes are not a record. None of these is ever taken for "no session".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A later version of this program wrote it, or something else altogether did.
    #[error("the record is of version {0}, and this program reads version 1")]
    UnknownVersion(u8),
    /// The record belongs to another key: the store, or the connection to it, mixed up answers.
    #[error("the record belongs to another key")]
    OtherKey,
    /// The checksum is wrong: bytes changed on the way.
    #[error("the record's checksum is wrong")]
    Checksum,
    /// It ends too early, or goes on after its end.
    #[error("the record's length is wrong")]
    Length,
    /// It is larger than any record that may be written.
    #[error("the record has {size} bytes; session.max_record allows {limit}")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Its checksum is right and its content still makes no sense.
    #[error("the record's content can't be read")]
    Content(#[source] JsonError),
}

impl FormatError {
    /// Whether the answer may have been damaged or mixed up between the store and us, so that the
    /// connection it came over can't be trusted any more.
    pub fn indicts_connection(&self) -> bool {
        match self {
            Self::OtherKey | Self::Checksum | Self::Length => true,
            Self::UnknownVersion(_) | Self::TooLarge { .. } | Self::Content(_) => false,
        }
    }
}

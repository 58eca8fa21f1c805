//! What is wrong with a signal, where, and by which rule.

use std::fmt;

use http::HeaderName;

use crate::contract::names::Title;

/// A malformed signal. Holds nothing of a value or of a session value's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{position}: {rule}", Title(.header.as_str()))]
pub struct SignalError {
    /// The header.
    pub header: HeaderName,
    /// Where in it.
    pub position: Position,
    /// The rule that it breaks.
    pub rule: Rule,
}

/// Where in a header something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// At one byte.
    Byte {
        /// Which of the lines of this name, from 1.
        line: usize,
        /// Which byte of the line's value, from 1.
        byte: usize,
    },
    /// In one member of a list or dictionary, from 1 and over all lines; of a key that stands
    /// several times, only the last counts (RFC 9651 section 4.2.2).
    Member(usize),
    /// In no place in particular.
    Whole,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte { line, byte } => write!(f, ", line {line}, byte {byte}"),
            Self::Member(member) => write!(f, ", member {member}"),
            Self::Whole => Ok(()),
        }
    }
}

/// The rules that a signal can break.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// Bytes that are not UTF-8.
    #[error("expected UTF-8")]
    NotUtf8,
    /// Not JSON; with the parser's phrase, which quotes nothing.
    #[error("{0}")]
    Json(String),
    /// Something between a JSON object and the next comma.
    #[error("expected a comma or the end after a JSON object")]
    AfterObject,
    /// Neither a JSON object nor a pair.
    #[error("expected a JSON object or name=value; a comma inside a value is written %2C")]
    NoPair,
    /// A `%` that encodes nothing.
    #[error("expected two hexadecimal digits after %; a % itself is written %25")]
    Percent,
    /// A name of no bytes.
    #[error("a name is not empty")]
    EmptyName,
    /// A control character in a name.
    #[error("a name has no control characters")]
    ControlInName,
    /// A name that the route does not expose.
    #[error("the route does not expose this name")]
    NotExposed,
    /// `null` where a notification should be.
    #[error("null is no notification")]
    NullNotification,
    /// Not a structured field (RFC 9651); with the parser's phrase, which quotes nothing.
    #[error("{0} (RFC 9651)")]
    Structured(String),
    /// A parameter, where none has a meaning.
    #[error("there are no parameters here")]
    Parameter,
    /// A member of a list that names nothing.
    #[error("expected a name as a token or a string")]
    NotName,
    /// `*` in a list of names to delete.
    #[error("* is no name here: `clear` deletes all values")]
    Star,
    /// A key that `X-Session-Control` does not have.
    #[error("expected clear, renew, destroy, ttl or persist")]
    UnknownControl,
    /// A value that is no boolean.
    #[error("expected a boolean: nothing or =?1 for yes, =?0 for no")]
    NotBoolean,
    /// A value that is no number of seconds.
    #[error("expected whole seconds from 1 to {}", u32::MAX)]
    NotSeconds,
}

/// A broken rule, before it is known which header it is in.
#[derive(Debug)]
pub(super) struct Fault {
    position: Position,
    rule: Rule,
}

impl Fault {
    /// At a byte of a line, both counted from 0.
    pub(super) const fn at(line: usize, byte: usize, rule: Rule) -> Self {
        let (line, byte) = (line + 1, byte + 1);
        let position = Position::Byte { line, byte };
        Self { position, rule }
    }

    /// In a member, counted from 0.
    pub(super) const fn member(index: usize, rule: Rule) -> Self {
        let position = Position::Member(index + 1);
        Self { position, rule }
    }

    pub(super) const fn whole(rule: Rule) -> Self {
        let position = Position::Whole;
        Self { position, rule }
    }

    pub(super) fn of(self, header: &HeaderName) -> SignalError {
        SignalError {
            header: header.clone(),
            position: self.position,
            rule: self.rule,
        }
    }
}

//! The reasons why a pickle can't be read or written. They name rules and places, never content.

use super::limits::{MAX_BYTES, MAX_INTEGER_DIGITS, MAX_MARKS, MAX_NODES};

/// Why a pickle is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It is no pickle, or one that no session needs, or too large. Whoever wrote it is to blame.
    #[error("{problem} at byte {position}")]
    Unreadable {
        /// Where the opcode stands that is wrong, counted from 1.
        position: usize,
        /// What is wrong.
        problem: Problem,
    },
    /// A value that was to be set has a number that would not come back: an integer outside
    /// -2^63..2^64, or a float beyond 1.8e308. The pickle is as it was before.
    #[error("a number of the value is outside the range of 64 bits")]
    Number,
    /// What would be written could not be read again.
    #[error("the pickle would be too large to be read again")]
    Excess,
    /// An object is among the arguments that it was made of, several steps down. Python's picklers
    /// write such objects from their own knowledge, and a change can bring to light what was
    /// written otherwise before.
    #[error("an object contains itself among its arguments, which can't be written again")]
    Entangled,
}

/// What is wrong with a pickle that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// More bytes than any session has.
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// More objects than any session has.
    #[error("it has more than {MAX_NODES} nodes")]
    TooManyNodes,
    /// More open marks than any pickler writes.
    #[error("it has more than {MAX_MARKS} open marks")]
    TooManyMarks,
    /// It ends before its end, or a length is negative or leads beyond it.
    #[error("it ends too early")]
    Truncated,
    /// Bytes after the STOP opcode.
    #[error("it goes on after its end")]
    TrailingBytes,
    /// Something other than one object is left at the end.
    #[error("expected one object to be left")]
    NotOneObject,
    /// The object is not a plain dictionary, so it is no session.
    #[error("expected a plain dictionary")]
    NotADictionary,
    /// A protocol that no Python has.
    #[error("protocol {0} is not one of 0 to 5")]
    UnknownProtocol(u8),
    /// An opcode that no protocol has.
    #[error("unknown opcode {0:#04x}")]
    UnknownOpcode(u8),
    /// An object that is kept elsewhere.
    #[error("persistent ids are not read")]
    PersistentId,
    /// A class that only the writing program has a number for.
    #[error("the extension registry is not read")]
    Extension,
    /// Bytes that are kept elsewhere.
    #[error("buffers outside the pickle are not read")]
    Buffer,
    /// A frame that reaches beyond the end, begins inside another or ends inside an opcode.
    #[error("the frame has a wrong length")]
    Frame,
    /// Nothing is left to take, up to the last mark.
    #[error("nothing is left on the stack")]
    StackUnderflow,
    /// There is no mark to go back to.
    #[error("no mark is open")]
    NoMark,
    /// A dictionary key without a value, or an object without a class.
    #[error("wrong number of items after the mark")]
    ItemCount,
    /// A reference to nothing.
    #[error("the memo has no such entry")]
    NoSuchMemo,
    /// The number of a memo entry is negative or beyond 32 bits.
    #[error("the number of a memo entry is not one of 32 bits")]
    MemoNumber,
    /// A change of an object that can't change.
    #[error("an object that can't change is changed")]
    Immutable,
    /// A change through a reference, which no pickler writes. Written again, it could happen at
    /// another moment.
    #[error("an object is changed through a reference")]
    ChangedByReference,
    /// Not the decimal digits of an integer, or too many.
    #[error("expected a decimal integer of at most {MAX_INTEGER_DIGITS} digits")]
    Integer,
    /// Not a float.
    #[error("expected a decimal float")]
    Float,
    /// Not a quoted Python 2 string, or a broken escape in it.
    #[error("expected a quoted string with whole escapes")]
    QuotedString,
    /// A broken escape in protocol 0 text.
    #[error("expected whole unicode escapes")]
    UnicodeEscape,
    /// Text that is not UTF-8 even if unpaired surrogates pass.
    #[error("expected UTF-8")]
    NotUtf8,
}

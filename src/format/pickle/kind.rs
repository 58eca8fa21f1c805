//! What keeps a value from being JSON.

/// What keeps a value from being JSON: the first obstacle that was found in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A tuple.
    Tuple,
    /// A set or frozen set.
    Set,
    /// Bytes or a byte array; not what Python 2 calls `str`.
    Bytes,
    /// An instance, a class, a function: whatever names something to import.
    Object,
    /// A list or dictionary that contains itself.
    Recursive,
    /// An infinity, or not a number.
    Float,
    /// An integer below -2^63 or above 2^64 - 1.
    Integer,
    /// Text with an unpaired surrogate, or a Python 2 `str` that is not ASCII and so of unknown
    /// encoding.
    Text,
    /// A dictionary inside with a key that is not text.
    Key,
    /// Lists and dictionaries in each other, more than 127 levels.
    Deep,
    /// All values together would be more than 1 MiB of JSON.
    Large,
}

impl Kind {
    /// The name, which is a token in the sense of RFC 9651 section 3.3.4.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tuple => "tuple",
            Self::Set => "set",
            Self::Bytes => "bytes",
            Self::Object => "object",
            Self::Recursive => "recursive",
            Self::Float => "float",
            Self::Integer => "integer",
            Self::Text => "text",
            Self::Key => "key",
            Self::Deep => "deep",
            Self::Large => "large",
        }
    }
}

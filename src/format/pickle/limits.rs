//! How large a pickle may be. Nothing is ever allocated by a size that a pickle states.

/// Bytes of a pickle, read or written: 1 MiB, the largest value that memcached keeps by default.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// Objects, references to them and changes of them, together. A session of 1 MiB that holds
/// nothing but numbers below 256 has more and is refused; real ones hold text.
pub(super) const MAX_NODES: usize = 200_000;

/// Marks that are open at a time. Python's own picklers give up at about 1,000 levels.
pub(super) const MAX_MARKS: usize = 10_000;

/// Digits of an integer in text. Python itself stops at 4,300 (`sys.int_info`); what JSON takes
/// has 20.
pub(super) const MAX_INTEGER_DIGITS: usize = 1_300;

/// Levels of lists and dictionaries in a value that is shown as JSON: as many as
/// [`Json::parse`](crate::session::Json::parse) reads back.
pub(super) const MAX_DEPTH: usize = 127;

/// Bytes of JSON text of all values together. Shared objects expand: 250 bytes of pickle can stand
/// for 2^40 leaves.
pub(super) const MAX_JSON: usize = 1 << 20;

/// Bytes of JSON text that are written to find that out, also of values that turn out to be no JSON
/// or too much, a member of a dictionary counting one more.
pub(super) const MAX_WORK: usize = 4 * MAX_JSON;

/// Items that Python's picklers put between a mark and the opcode that adds them all.
pub(super) const BATCH: usize = 1_000;

//! The bytes of a pickle, one after the other.

use super::error::Problem;

/// A place in the bytes. Every length is checked against what is left.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `len` bytes, where `len` is a number that the pickle states.
    pub(super) fn take(&mut self, len: impl TryInto<usize>) -> Result<&'a [u8], Problem> {
        let len = len.try_into().ok().ok_or(Problem::Truncated)?;
        let end = self.position.checked_add(len).ok_or(Problem::Truncated)?;
        let taken = self
            .bytes
            .get(self.position..end)
            .ok_or(Problem::Truncated)?;
        self.position = end;
        Ok(taken)
    }

    /// The next `N` bytes: an argument of fixed size.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let bytes = self
            .bytes
            .get(self.position..)
            .and_then(|rest| rest.first_chunk())
            .ok_or(Problem::Truncated)?;
        self.position += N;
        Ok(*bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Problem> {
        self.array().map(|[byte]| byte)
    }

    /// The bytes up to the next line feed, which is passed over.
    pub(super) fn line(&mut self) -> Result<&'a [u8], Problem> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let len = memchr::memchr(b'\n', rest).ok_or(Problem::Truncated)?;
        self.position += len + 1;
        Ok(rest.get(..len).unwrap_or_default())
    }
}

//! The id of a session: a secret between the browser's cookie and the store.

use std::fmt;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// 128 random bits, written in the shape of a UUID: 36 characters, lower-case hexadecimal digits
/// in groups of 8-4-4-4-12.
///
/// Whoever knows it (in a signed cookie) has the session, so `Debug` shows nothing of it; logs and
/// applications get [`SessionId::public_id`]. All 128 bits are random, which is more than the 122
/// of a version 4 UUID and above OWASP's 64; the shape is that of the Python library's ids, so
/// that one rule validates both.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId([u8; 16]);

/// The text is not an id: not exactly 36 characters in a UUID's shape, in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a session id: expected 36 characters like 01234567-89ab-cdef-0123-456789abcdef, in lower case"
)]
pub struct InvalidSessionId;

/// Where the hyphens of a UUID stand, and the digits between them.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const GROUPS: [Range<usize>; 5] = [0..8, 9..13, 14..18, 19..23, 24..36];

impl SessionId {
    /// The length of the text in bytes.
    pub const TEXT_LEN: usize = 36;

    /// An id of these 16 bytes, which must come from a cryptographic source of randomness.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, as a record of a moved session holds them.
    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Draws a new id from the operating system's source of randomness.
    ///
    /// # Errors
    ///
    /// The operating system gives no randomness. Nothing has changed; it may work later.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Reads the text of an id.
    ///
    /// # Errors
    ///
    /// [`InvalidSessionId`] for everything but the one canonical spelling: two spellings of one id
    /// would be two keys in the store.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidSessionId> {
        let is_hyphen = |&at: &usize| text.get(at) == Some(&b'-');
        if text.len() != Self::TEXT_LEN || !HYPHENS.iter().all(is_hyphen) {
            return Err(InvalidSessionId);
        }
        let mut digits = [0; 32];
        let mut rest = digits.as_mut_slice();
        for group in GROUPS {
            let group = text.get(group).ok_or(InvalidSessionId)?;
            if let Some((place, after)) =
                std::mem::take(&mut rest).split_at_mut_checked(group.len())
            {
                place.copy_from_slice(group);
                rest = after;
            }
        }
        // In constant time, since the digits are a secret.
        let mut bytes = [0; 16];
        base16ct::lower::decode(digits, &mut bytes).map_err(|_other| InvalidSessionId)?;
        Ok(Self(bytes))
    }

    /// The canonical text: 36 ASCII bytes.
    pub fn text(&self) -> [u8; Self::TEXT_LEN] {
        let mut digits = [0; 32];
        let written = base16ct::lower::encode(&self.0, &mut digits);
        debug_assert!(written.is_ok(), "16 bytes have 32 digits");
        let mut text = [b'-'; Self::TEXT_LEN];
        let mut rest = digits.as_slice();
        for group in GROUPS {
            if let Some(place) = text.get_mut(group)
                && let Some((digits, after)) = rest.split_at_checked(place.len())
            {
                place.copy_from_slice(digits);
                rest = after;
            }
        }
        text
    }

    /// The identifier for logs and applications: a digest of the id, useless as a cookie.
    ///
    /// A plain digest is enough: nobody can try 2^128 ids.
    pub fn public_id(&self) -> PublicId {
        let digest = Sha256::new()
            .chain_update(b"pycket public id\0")
            .chain_update(self.0)
            .finalize();
        let mut bytes = [0; 16];
        for (slot, byte) in bytes.iter_mut().zip(digest) {
            *slot = byte;
        }
        PublicId(bytes)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

/// What applications and logs may know a session by: 16 bytes, written as 22 characters of
/// base64url. Stays the same for the life of the session, also when its id is renewed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicId([u8; 16]);

impl PublicId {
    /// The length of the text in bytes.
    pub const TEXT_LEN: usize = 22;

    /// The identifier of these bytes, as a record holds them.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, as a record holds them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The text: base64url without padding (RFC 4648 section 5), which is visible ASCII. Each request
    /// has it, and `fmt` takes five times as long.
    pub fn text(&self) -> [u8; Self::TEXT_LEN] {
        let mut text = [b'-'; Self::TEXT_LEN];
        let fits = URL_SAFE_NO_PAD.encode_slice(self.0, &mut text).is_ok();
        debug_assert!(fits, "16 bytes make 22 characters");
        text
    }
}

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl fmt::Debug for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &[u8] = b"2c7ae81f-0176-4076-bc2a-7efc4aeb7ac5";

    #[test]
    fn the_canonical_text_reads_back_to_the_same_text() {
        let id = SessionId::parse(SAMPLE).unwrap();
        assert_eq!(id.text(), SAMPLE);
    }

    #[test]
    fn every_other_spelling_is_refused() {
        let refused: [&[u8]; 8] = [
            b"",
            b"2C7AE81F-0176-4076-BC2A-7EFC4AEB7AC5",
            b"2c7ae81f01764076bc2a7efc4aeb7ac5",
            b"2c7ae81f-0176-4076-bc2a-7efc4aeb7ac",
            b"2c7ae81f-0176-4076-bc2a-7efc4aeb7ac55",
            b"2c7ae81f-0176-4076-bc2a_7efc4aeb7ac5",
            b"{c7ae81f-0176-4076-bc2a-7efc4aeb7ac5",
            b"2c7ae81f-0176-4076-bc2a-7efc4aeb7a\xff5",
        ];
        for text in refused {
            assert_eq!(SessionId::parse(text), Err(InvalidSessionId), "{text:?}");
        }
    }

    #[test]
    fn debug_shows_nothing_of_the_id() {
        let id = SessionId::parse(SAMPLE).unwrap();
        assert_eq!(format!("{id:?}"), "SessionId(..)");
    }

    #[test]
    fn the_public_id_is_the_recorded_digest() {
        let id = SessionId::parse(SAMPLE).unwrap();
        assert_eq!(id.public_id().to_string().len(), PublicId::TEXT_LEN);
        insta::assert_snapshot!(id.public_id(), @"rFfqMjPcOYf7trTQkwcndg");
    }

    proptest! {
        #[test]
        fn text_and_id_are_one_to_one(bytes: [u8; 16]) {
            let id = SessionId::from_bytes(bytes);
            prop_assert_eq!(SessionId::parse(&id.text()).unwrap(), id);
        }

        #[test]
        fn parsing_never_panics(text: Vec<u8>) {
            let _unused = SessionId::parse(&text);
        }
    }
}

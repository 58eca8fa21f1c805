//! The reasons why a signed value does not count. They name parts and numbers, never the value.

/// Why a value does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It has not the form of a signed value.
    #[error("malformed: {0}")]
    Malformed(Part),
    /// A version that nobody has defined.
    #[error("unknown version {0} of the signed value: expected 1 or 2")]
    UnknownVersion(u16),
    /// A version below [`Check::min_version`](super::Check::min_version). Its signature was not looked at.
    #[error("version {0} of the signed value is not accepted any more")]
    VersionTooOld(u8),
    /// A version 1 value, which can't say which of several secrets it was signed with.
    #[error("version 1 of the signed value has no key version, and the secrets have")]
    NoKeyVersion,
    /// No secret has this key version. The signature was not looked at.
    #[error("no secret has key version {0}")]
    UnknownKeyVersion(u32),
    /// The secret did not make this signature; in version 1, perhaps for another name.
    #[error("the signature does not match")]
    Forged,
    /// Correctly signed, but for another name.
    #[error("signed for another name")]
    OtherName,
    /// Correctly signed, and too long ago.
    #[error("signed too long ago")]
    Expired,
    /// A version 1 value that is dated more than 31 days ahead.
    #[error("signed more than 31 days in the future")]
    Future,
}

/// What is wrong with the form of a signed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Part {
    /// Version 1 without exactly three fields.
    #[error("expected three fields with a bar between them")]
    Fields,
    /// The key version is not a number, or not where it should be.
    #[error("the key version is not a length, a colon and a number up to 4294967295")]
    KeyVersion,
    /// The time of signing is not a number, or not where it should be.
    #[error("the time of signing is not a number of seconds")]
    Timestamp,
    /// The name is not where it should be.
    #[error("the name is not a length, a colon and that many bytes")]
    Name,
    /// The value is not canonical base64, or not where it should be.
    #[error("the value is not padded base64")]
    Value,
    /// There is something between the value and the signature.
    #[error("there is something between the value and the signature")]
    Excess,
    /// The signature has not the right length, or is not in lower-case hexadecimal digits.
    #[error("the signature is not 64 (in version 1, 40) lower-case hexadecimal digits")]
    Signature,
}

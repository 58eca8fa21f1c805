//! The session cookie: what the browser presents, what goes upstream, what is set.
//!
//! `Cookie` lines and a [`CookiePolicy`] flow in; a verdict ([`Presented`]), the other cookies byte
//! for byte, and `Set-Cookie` lines flow out. [`signed`] has the signed value's format. This module
//! never sees a store: whether an id that was signed still has a record is not its business.

pub mod signed;

mod jar;
mod problems;
mod set_cookie;

pub use jar::{issued, read, strip, unquote, values};
pub use problems::Problem;
pub use set_cookie::{expire, issue};

use crate::clock::Timestamp;
use crate::session::SessionId;
use signed::Keyring;

/// What the request says about the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented {
    /// No cookie of the session's name.
    Absent,
    /// Not a signed value of any known form, or what was signed is not an id.
    Malformed,
    /// A signature that none of our secrets made.
    Forged,
    /// Correctly signed, and too long ago.
    Expired,
    /// An id that we signed.
    Verified {
        /// The id.
        id: SessionId,
        /// When it was signed.
        issued: Timestamp,
        /// The version of the signed value: 1 or 2.
        version: u8,
    },
}

/// What an application that makes the session cookie by itself says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Issued {
    /// Nothing: it sets no cookie of the name.
    Nothing,
    /// It sets one that is none of a session, such as one that removes it.
    Other,
    /// It sets the cookie of this session.
    Session(SessionId),
}

/// How the session cookie is made and checked.
#[derive(Clone, Debug)]
pub struct CookiePolicy {
    /// Whether the application makes the cookie, too, as with the Python library: then it is not
    /// cut out of what goes upstream, and where a response sets it, the proxy sets none.
    pub forward: bool,
    /// The cookie's name; `PYCKET_ID` by default.
    pub name: String,
    /// The secrets: one signs, all verify.
    pub keyring: Keyring,
    /// The version of the signed value that is written.
    pub version: SigningVersion,
    /// The oldest version of the signed value that is accepted: 1 or 2.
    pub min_version: u8,
    /// A cookie that was signed longer ago is expired. In days, as in Tornado; 31 by default.
    pub max_age_days: u32,
    /// `Path`.
    pub path: String,
    /// `Domain`; `None` leaves it out, which makes the cookie one of this host only.
    pub domain: Option<String>,
    /// `Secure`.
    pub secure: Secure,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `SameSite`; `None` leaves it out.
    pub same_site: Option<SameSite>,
    /// `Partitioned`.
    pub partitioned: bool,
    /// How long the cookie outlives the browser.
    pub expiry: Expiry,
}

/// The version of the signed value that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningVersion {
    /// Version 1, the only one that Tornado before 3.2.1 reads.
    V1,
    /// Version 2.
    V2,
    /// That of the valid cookie that came with the request; version 2 when none came.
    Same,
}

/// When the cookie is marked `Secure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// When the browser came by TLS.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The `SameSite` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Never sent from another site.
    Strict,
    /// Sent from another site only when the user follows a link.
    Lax,
    /// Sent from other sites too; browsers want `Secure` with it.
    None,
}

/// The `Expires` and `Max-Age` attributes. With neither, the cookie ends with the browser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// `Expires`.
    pub expires: Option<Expires>,
    /// `Max-Age`, in seconds.
    pub max_age: Option<u64>,
}

/// The `Expires` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// A fixed moment.
    At(Timestamp),
    /// This many days after the cookie is set.
    Days(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults, with the secret of the recorded values.
    pub(super) fn policy() -> CookiePolicy {
        CookiePolicy {
            forward: false,
            name: "PYCKET_ID".to_owned(),
            keyring: Keyring::single(b"Python rocks!"),
            version: SigningVersion::V2,
            min_version: 1,
            max_age_days: 31,
            path: "/".to_owned(),
            domain: None,
            secure: Secure::Auto,
            http_only: true,
            same_site: Some(SameSite::Lax),
            partitioned: false,
            expiry: Expiry::default(),
        }
    }
}

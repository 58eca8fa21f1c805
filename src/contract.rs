//! The header contract: what the application behind sees and says.
//!
//! [`request`] writes a session into request headers, [`response`] reads signals from response
//! headers. Header maps and a [`crate::session::Session`] flow in, header maps and a
//! [`crate::session::Patch`] flow out. This module promises that nothing in our namespace gets
//! from a client to the application or from the application to a client. It knows neither stores
//! nor cookies.

pub mod request;
pub mod response;

mod encoding;
mod names;

pub use encoding::{Encoding, TextEncoding};
pub use names::{Field, Names, NamesError, same as folds_alike};

use http::HeaderName;

/// What the application on a route sees and may say.
#[derive(Clone, Debug)]
pub struct ContractPolicy {
    /// How `X-Session` and `X-Notifications` are written.
    pub encoding: Encoding,
    /// The only names that are sent and can be changed; `None` is all of them.
    pub expose: Option<Vec<String>>,
    /// Session values that go into headers of their own.
    pub inject: Vec<Inject>,
    /// Response headers whose text becomes a session value.
    pub capture: Vec<Capture>,
    /// Whether the application's signals count; they are removed in any case.
    pub signals: bool,
    /// What happens with a malformed signal.
    pub on_bad_signal: OnBadSignal,
    /// The most bytes that all injected header lines may take together: of each, its name, `": "`,
    /// its value and the line's end.
    pub budget: usize,
}

/// A session value that goes into a header of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inject {
    /// The header that the application reads.
    pub header: HeaderName,
    /// The session value's name.
    pub value: String,
    /// How text that is not visible ASCII is written.
    pub encode: TextEncoding,
}

/// A response header whose text becomes a session value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The header that the application sends.
    pub header: HeaderName,
    /// The session value's name.
    pub value: String,
}

/// What happens with a malformed signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadSignal {
    /// No signal of the response is applied, and the exchange fails with 502.
    Fail,
    /// That one header is dropped and logged, the others are applied.
    Ignore,
}

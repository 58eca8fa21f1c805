//! What operators see: log messages on standard error, one line per exchange on standard output.
//!
//! Messages come from everywhere by `tracing`; [`init`] sends them out. The access log has its own
//! way ([`access`]), because it is written on every exchange. Neither ever gets secrets, cookies,
//! session ids or session values: who logs writes names, lengths and rules.

pub mod access;

use std::fmt;
use std::io::{self, IsTerminal};

use bytes::Bytes;
use http::HeaderValue;
use smallvec::SmallVec;
use tracing::level_filters::LevelFilter;

use crate::config::{Log, LogFormat, LogLevel};
use crate::tally::Tally;

/// Sends the messages of the whole process to standard error, in the configured form.
///
/// # Errors
///
/// When it has been called before in this process.
pub fn init(log: &Log) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let messages = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(log.level))
        .with_target(false)
        .with_writer(io::stderr);
    match log.format {
        LogFormat::Text => messages.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => messages.json().flatten_event(true).try_init(),
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}

/// An error with all its causes in one line, outermost first, as it goes to the log.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent errors repeat what their source says.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// The name of one exchange, for logs, the application and the client: 1 to 128 characters of
/// visible ASCII.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

/// The longest request id that is taken over, in bytes. Ours have 25.
const MAX_REQUEST_ID: usize = 128;

impl RequestId {
    /// Takes over an id from a neighbour, who must be trusted. `None` when it does not have the
    /// form of one.
    pub fn adopt(value: &HeaderValue) -> Option<Self> {
        let text = value.as_bytes();
        let fits = (1..=MAX_REQUEST_ID).contains(&text.len());
        (fits && text.iter().all(u8::is_ascii_graphic)).then(|| Self(value.clone()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The id as text, in bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The id as the value of a header.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    #[cfg(test)]
    pub(crate) fn from_static(text: &'static str) -> Self {
        Self(HeaderValue::from_static(text))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", self.as_str())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Makes request ids: 16 random hexadecimal digits that belong to one worker, `-`, and a count in
/// 8 or more hexadecimal digits. Unique, and no secret: who knows one can guess the next.
#[derive(Debug)]
pub struct RequestIds {
    /// The digits, and the hyphen.
    prefix: String,
    next: Tally,
}

impl RequestIds {
    /// A series of its own.
    ///
    /// # Errors
    ///
    /// When the operating system has no randomness.
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self {
            prefix: format!("{:016x}-", getrandom::u64()?),
            next: Tally::new(),
        })
    }

    /// The next id.
    pub fn make(&self) -> RequestId {
        let count = self.next.add();
        let mut text = MadeId::new();
        text.extend_from_slice(self.prefix.as_bytes());
        push_hex(&mut text, count);
        // Hexadecimal digits and a hyphen are always a header value.
        let value = HeaderValue::from_maybe_shared(Bytes::from_owner(text));
        RequestId(value.unwrap_or(HeaderValue::from_static("-")))
    }
}

/// Room for the longest id that is made: both numbers in full. As a part of [`Bytes`], it is one
/// allocation; a `Vec` would be two.
type MadeId = SmallVec<[u8; 33]>;

/// Writes a number in lower-case hexadecimal digits, with zeros before it up to 8. Not by fmt, which
/// takes ten times as long, for every exchange.
fn push_hex(text: &mut MadeId, number: u64) {
    let mut digits = [0; 16];
    let all = base16ct::lower::encode(&number.to_be_bytes(), &mut digits);
    let all = all.expect("a number of 8 bytes has 16 digits");
    let zeros = all.iter().take(8).take_while(|&&digit| digit == b'0');
    text.extend(all.iter().copied().skip(zeros.count()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_those_of_fmt() {
        for number in [0, 1, 0xabc, 0xffff_ffff, 0x1_0000_0000, u64::MAX] {
            let mut text = MadeId::new();
            push_hex(&mut text, number);
            assert_eq!(text[..], *format!("{number:08x}").as_bytes());
        }
    }

    #[test]
    fn request_ids_differ_and_are_visible_ascii() {
        let ids = RequestIds::new().unwrap();
        let (first, second) = (ids.make(), ids.make());
        assert_ne!(first, second);
        assert_eq!(first.as_str().len(), 25);
        assert!(first.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(first.as_str().ends_with("-00000000"));
        let other = RequestIds::new().unwrap().make();
        assert_ne!(first, other, "two workers never make the same");
    }

    #[test]
    fn only_sane_request_ids_are_adopted() {
        let adopt = |text: &[u8]| RequestId::adopt(&HeaderValue::from_bytes(text).unwrap());
        assert_eq!(adopt(b"abc-123").unwrap().as_str(), "abc-123");
        assert!(adopt(&[b'a'; 128]).is_some());
        assert!(adopt(&[b'a'; 129]).is_none());
        for refused in [&b""[..], b"a b", b"a\tb", b"caf\xc3\xa9"] {
            assert!(adopt(refused).is_none(), "{refused:?}");
        }
    }
}

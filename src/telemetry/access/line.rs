//! One line of the access log, written without allocation.
//!
//! It is written on every exchange, so each form has code of its own, in which keys are constants,
//! and nothing goes through fmt but what is rare.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::LogFormat;

use super::AccessRecord;

/// Lines that have been written, ends included.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) bytes: Vec<u8>,
    format: LogFormat,
    /// The second that `date` is of.
    second: u64,
    /// `2026-11-22T10:20:30.`
    date: Vec<u8>,
}

impl Lines {
    pub(super) fn new(format: LogFormat, capacity: usize) -> Self {
        let mut lines = Self {
            bytes: Vec::with_capacity(capacity),
            format,
            second: 0,
            date: Vec::new(),
        };
        lines.write_date();
        lines
    }

    /// Appends one line.
    pub(super) fn push(&mut self, record: &AccessRecord) {
        if record.time.as_secs() != self.second {
            self.second = record.time.as_secs();
            self.write_date();
        }
        match self.format {
            LogFormat::Text => Line::<Text>::write(record, &self.date, &mut self.bytes),
            LogFormat::Json => Line::<Json>::write(record, &self.date, &mut self.bytes),
        }
    }

    /// RFC 3339, UTC, up to the fraction of a second.
    fn write_date(&mut self) {
        let (days, second) = (self.second / 86_400, self.second % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        self.date.clear();
        write!(
            self.date,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}."
        )
        .expect("writing to a vector does not fail");
    }
}

/// How lines look.
trait Form {
    const JSON: bool;
}

/// `key=value` pairs.
struct Text;

impl Form for Text {
    const JSON: bool = false;
}

/// One object.
struct Json;

impl Form for Json {
    const JSON: bool = true;
}

/// What stands before a value.
struct Key {
    text: &'static str,
    json: &'static str,
}

/// The key of a field that is not the first.
macro_rules! key {
    ($name:literal) => {
        Key {
            text: concat!(" ", $name, "="),
            json: concat!(",\"", $name, "\":"),
        }
    };
}

const TIME: Key = Key {
    text: "time=",
    json: "{\"time\":",
};

struct Line<'a, F> {
    bytes: &'a mut Vec<u8>,
    form: std::marker::PhantomData<F>,
}

impl<'a, F: Form> Line<'a, F> {
    fn write(record: &AccessRecord, date: &[u8], bytes: &'a mut Vec<u8>) {
        let mut line = Self {
            bytes,
            form: std::marker::PhantomData,
        };
        line.time(&TIME, date, record.time);
        line.text(&key!("id"), record.id.as_bytes());
        if let Some(client) = record.client {
            line.address(&key!("client"), client);
        }
        line.text(&key!("method"), record.method.as_str().as_bytes());
        line.optional(&key!("host"), record.host.as_ref().map(AsRef::as_ref));
        let path = record.target.as_ref();
        let path = path.map(|target| target.path().as_bytes());
        line.optional(&key!("path"), path);
        line.optional(&key!("route"), record.route.as_deref().map(str::as_bytes));
        let server = record.server.as_deref().map(str::as_bytes);
        line.optional(&key!("server"), server);
        line.number(&key!("status"), record.status.as_u16().into());
        line.number(&key!("bytes_in"), record.bytes_in);
        line.number(&key!("bytes_out"), record.bytes_out);
        line.micros(&key!("total_us"), record.total);
        line.micros(&key!("store_us"), record.store);
        line.micros(&key!("upstream_us"), record.upstream);
        line.word(&key!("cookie"), record.cookie.word());
        line.word(&key!("record"), record.record.word());
        if let Some(session) = record.session {
            line.plain(&key!("session"), &session.text());
        }
        line.word(&key!("wrote"), record.wrote.word());
        line.number(&key!("claimed"), record.claimed.into());
        line.number(&key!("shown"), record.shown.into());
        line.number(&key!("returned"), record.returned.into());
        if let Some(error) = record.error {
            line.word(&key!("error"), error);
        }
        line.raw(if F::JSON { b"}\n" } else { b"\n" });
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    #[inline]
    fn key(&mut self, key: &Key) {
        let key = if F::JSON { key.json } else { key.text };
        self.raw(key.as_bytes());
    }

    /// What stands around text that is plain in both forms.
    #[inline]
    fn quote(&mut self) {
        if F::JSON {
            self.bytes.push(b'"');
        }
    }

    #[inline]
    fn number(&mut self, key: &Key, number: u64) {
        self.key(key);
        self.digits(number);
    }

    fn digits(&mut self, number: u64) {
        // Most numbers of most lines are 0.
        if let Ok(digit @ 0..10) = u8::try_from(number) {
            self.bytes.push(b'0' + digit);
            return;
        }
        let mut digits = itoa::Buffer::new();
        self.raw(digits.format(number).as_bytes());
    }

    #[inline]
    fn micros(&mut self, key: &Key, span: Duration) {
        self.number(key, u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    }

    /// A word of ours.
    #[inline]
    fn word(&mut self, key: &Key, word: &str) {
        self.plain(key, word.as_bytes());
    }

    /// Text that is plain in both forms.
    #[inline]
    fn plain(&mut self, key: &Key, text: &[u8]) {
        self.key(key);
        self.quote();
        self.raw(text);
        self.quote();
    }

    /// A field that has no value is left out: what is absent can't be mistaken for a text.
    #[inline]
    fn optional(&mut self, key: &Key, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    #[inline]
    fn text(&mut self, key: &Key, value: &[u8]) {
        self.key(key);
        if !value.is_empty() && value.iter().copied().all(is_plain) {
            self.quote();
            self.raw(value);
            self.quote();
        } else {
            self.escaped(value);
        }
    }

    /// Everything but visible ASCII is escaped, byte by byte: control characters could end the
    /// line or steer a terminal, and other text may be in any encoding.
    #[cold]
    fn escaped(&mut self, value: &[u8]) {
        self.raw(b"\"");
        for &byte in value {
            match byte {
                b'"' | b'\\' => self.raw(&[b'\\', byte]),
                b' '..=b'~' => self.raw(&[byte]),
                _ if F::JSON => self.format_args(format_args!("\\u{byte:04x}")),
                _ => self.format_args(format_args!("\\x{byte:02x}")),
            }
        }
        self.raw(b"\"");
    }

    fn address(&mut self, key: &Key, address: IpAddr) {
        self.key(key);
        self.quote();
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                self.digits(a.into());
                for octet in [b, c, d] {
                    self.raw(b".");
                    self.digits(octet.into());
                }
            }
            IpAddr::V6(address) => self.format_args(format_args!("{address}")),
        }
        self.quote();
    }

    /// RFC 3339, UTC, with milliseconds.
    fn time(&mut self, key: &Key, date: &[u8], time: Timestamp) {
        self.key(key);
        self.quote();
        self.raw(date);
        let millis = time.as_millis() % 1000;
        if millis < 100 {
            self.raw(if millis < 10 { b"00" } else { b"0" });
        }
        self.digits(millis);
        self.raw(b"Z");
        self.quote();
    }

    fn format_args(&mut self, text: std::fmt::Arguments<'_>) {
        self.bytes
            .write_fmt(text)
            .expect("writing to a vector does not fail");
    }
}

/// Visible ASCII that means nothing in either form: all but `"`, `=` and `\`.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'<' | b'>'..=b'[' | b']'..=b'~')
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`: eras of
/// 400 years, and years that begin in March so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days.saturating_add(719_468);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_779, (2026, 11, 22)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), date, "day {days}");
        }
    }
}

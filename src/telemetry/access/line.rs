//! One line of the access log, written without allocation.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::LogFormat;

use super::AccessRecord;

/// Appends one line, its end included.
pub(super) fn write(record: &AccessRecord, format: LogFormat, lines: &mut Vec<u8>) {
    let mut line = Line {
        lines,
        format,
        first: true,
    };
    line.begin();
    line.time("time", record.time);
    line.text("id", record.id.as_str().as_bytes());
    line.address("client", record.client);
    line.text("method", record.method.as_str().as_bytes());
    line.optional("host", record.host.as_ref().map(AsRef::as_ref));
    let path = record
        .target
        .as_ref()
        .map(|target| target.path().as_bytes());
    line.optional("path", path);
    line.optional("route", record.route.as_deref().map(str::as_bytes));
    line.number("status", record.status.as_u16().into());
    line.number("bytes_in", record.bytes_in);
    line.number("bytes_out", record.bytes_out);
    line.micros("total_us", record.total);
    line.micros("store_us", record.store);
    line.micros("upstream_us", record.upstream);
    line.text("cookie", record.cookie.word().as_bytes());
    line.text("record", record.record.word().as_bytes());
    line.text("wrote", record.wrote.word().as_bytes());
    line.number("claimed", record.claimed.into());
    line.number("shown", record.shown.into());
    line.number("returned", record.returned.into());
    line.optional("error", record.error.map(str::as_bytes));
    line.end();
}

struct Line<'a> {
    lines: &'a mut Vec<u8>,
    format: LogFormat,
    first: bool,
}

impl Line<'_> {
    fn begin(&mut self) {
        if self.format == LogFormat::Json {
            self.lines.push(b'{');
        }
    }

    fn end(&mut self) {
        if self.format == LogFormat::Json {
            self.lines.push(b'}');
        }
        self.lines.push(b'\n');
    }

    fn key(&mut self, key: &str) {
        match (self.format, std::mem::replace(&mut self.first, false)) {
            (LogFormat::Text, true) => {}
            (LogFormat::Text, false) => self.lines.push(b' '),
            (LogFormat::Json, true) => self.lines.push(b'"'),
            (LogFormat::Json, false) => self.lines.extend_from_slice(b",\""),
        }
        self.lines.extend_from_slice(key.as_bytes());
        self.lines.extend_from_slice(match self.format {
            LogFormat::Text => b"=",
            LogFormat::Json => b"\":",
        });
    }

    fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        let mut digits = itoa::Buffer::new();
        self.lines
            .extend_from_slice(digits.format(number).as_bytes());
    }

    fn micros(&mut self, key: &str, span: Duration) {
        self.number(key, u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    }

    /// A field that has no value is left out: what is absent can't be mistaken for a text.
    fn optional(&mut self, key: &str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn text(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\=".contains(byte);
        let quoted = self.format == LogFormat::Json || value.is_empty() || !value.iter().all(plain);
        if quoted {
            self.lines.push(b'"');
            for &byte in value {
                self.escaped(byte);
            }
            self.lines.push(b'"');
        } else {
            self.lines.extend_from_slice(value);
        }
    }

    /// Most clients come by IPv4, which is written without fmt.
    fn address(&mut self, key: &str, address: IpAddr) {
        let IpAddr::V4(address) = address else {
            return self.display(key, address);
        };
        self.key(key);
        self.quote();
        for (position, octet) in address.octets().into_iter().enumerate() {
            if position > 0 {
                self.lines.push(b'.');
            }
            self.padded(octet.into(), 1);
        }
        self.quote();
    }

    /// What stands around text that is plain in both forms.
    fn quote(&mut self) {
        if self.format == LogFormat::Json {
            self.lines.push(b'"');
        }
    }

    /// A value of ours that is plain in both forms.
    fn display(&mut self, key: &str, value: impl std::fmt::Display) {
        self.key(key);
        self.quote();
        self.format_args(format_args!("{value}"));
        self.quote();
    }

    /// RFC 3339, UTC, with milliseconds.
    fn time(&mut self, key: &str, time: Timestamp) {
        let (days, second) = (time.as_secs() / 86_400, time.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let millis = time.as_millis() % 1000;
        self.key(key);
        self.quote();
        // Not by fmt, which takes longer than all the rest of the line.
        for (number, width, after) in [
            (year, 4, b'-'),
            (month, 2, b'-'),
            (day, 2, b'T'),
            (hour, 2, b':'),
            (minute, 2, b':'),
            (second, 2, b'.'),
            (millis, 3, b'Z'),
        ] {
            self.padded(number, width);
            self.lines.push(after);
        }
        self.quote();
    }

    /// A number with zeros before it, up to `width` digits.
    fn padded(&mut self, number: u64, width: usize) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(number);
        for _ in digits.len()..width {
            self.lines.push(b'0');
        }
        self.lines.extend_from_slice(digits.as_bytes());
    }

    /// Everything but visible ASCII is escaped, byte by byte: control characters could end the
    /// line or steer a terminal, and other text may be in any encoding.
    fn escaped(&mut self, byte: u8) {
        match (byte, self.format) {
            (b'"' | b'\\', _) => self.lines.extend_from_slice(&[b'\\', byte]),
            (b' '..=b'~', _) => self.lines.push(byte),
            (_, LogFormat::Text) => self.format_args(format_args!("\\x{byte:02x}")),
            (_, LogFormat::Json) => self.format_args(format_args!("\\u{byte:04x}")),
        }
    }

    fn format_args(&mut self, text: std::fmt::Arguments<'_>) {
        self.lines
            .write_fmt(text)
            .expect("writing to a vector does not fail");
    }
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

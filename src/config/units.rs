//! Durations and sizes with their units, and dates, as people write them.
//!
//! | what | grammar | units |
//! |---|---|---|
//! | duration | digits unit | `ms`, `s`, `m` (minutes), `h`, `d` (24 hours), `w` (7 days) |
//! | size | digits unit | `B`, `KiB`, `MiB`, `GiB` (powers of 1024) |
//!
//! One number and one unit, no sign, no fraction, no space: `"30m"`, `"64KiB"`.

use std::time::Duration;

use toml::value::{Datetime, Offset};

use crate::clock::Timestamp;

/// Milliseconds of each unit of time.
const DURATIONS: [(&str, u64); 6] = [
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Bytes of each unit of size.
const SIZES: [(&str, u64); 4] = [
    ("GiB", 1024 * 1024 * 1024),
    ("MiB", 1024 * 1024),
    ("KiB", 1024),
    ("B", 1),
];

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnitError {
    /// It does not begin with a digit.
    #[error("expected a whole number with a unit")]
    NoNumber,
    /// A bare number.
    #[error("the unit is missing")]
    NoUnit,
    /// Something else follows the number.
    #[error("unknown unit `{0}`")]
    UnknownUnit(String),
    /// More than can be counted.
    #[error("too large to be counted")]
    TooLarge,
}

/// Reads a duration such as `30m`.
///
/// # Errors
///
/// [`UnitError`], when the text is not exactly a number and a unit.
pub(super) fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    quantity(text, &DURATIONS).map(Duration::from_millis)
}

/// Reads a size such as `64KiB`, in bytes.
///
/// # Errors
///
/// [`UnitError`], when the text is not exactly a number and a unit.
pub(super) fn parse_size(text: &str) -> Result<usize, UnitError> {
    let bytes = quantity(text, &SIZES)?;
    usize::try_from(bytes).or(Err(UnitError::TooLarge))
}

/// Writes a duration in the largest unit that leaves no rest; below a millisecond is cut off.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    // Weeks are left out: "30d" says more than "2w" beside limits that are counted in days.
    show(millis, DURATIONS.get(1..).unwrap_or_default())
}

/// Writes a size in the largest unit that leaves no rest.
pub(super) fn show_size(bytes: usize) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    show(u64::try_from(bytes).unwrap_or(u64::MAX), &SIZES)
}

/// The moment that a date with time and offset names; fractions of a second are cut off.
///
/// `None` when a part is missing, the offset included, or it is before 1970.
pub(super) fn timestamp(moment: &Datetime) -> Option<Timestamp> {
    let (date, time) = (moment.date?, moment.time?);
    let offset_minutes = match moment.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_since_epoch(
        i64::from(date.year),
        i64::from(date.month),
        i64::from(date.day),
    );
    let minutes = days * 24 * 60 + i64::from(time.hour) * 60 + i64::from(time.minute);
    let seconds = (minutes - offset_minutes) * 60 + i64::from(time.second.unwrap_or(0));
    u64::try_from(seconds).ok().map(Timestamp::from_secs)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last of its year; 400 years have
/// 146,097 days, and 719,468 days lie between 0000-03-01 and 1970-01-01. After Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::NoNumber);
    }
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    let (_, factor) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| UnitError::UnknownUnit(unit.to_owned()))?;
    // Only digits are left, so the one thing that can go wrong is their number.
    let number: u64 = number.parse().or(Err(UnitError::TooLarge))?;
    number.checked_mul(*factor).ok_or(UnitError::TooLarge)
}

fn show(amount: u64, units: &[(&str, u64)]) -> String {
    units
        .iter()
        .find(|(_, factor)| amount.is_multiple_of(*factor))
        .map_or_else(
            || amount.to_string(),
            |(name, factor)| format!("{}{name}", amount / factor),
        )
}

/// A host and its port as in a URL: an IPv6 address in brackets (RFC 3986 section 3.2.2).
pub fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_unit_counts_what_it_says() {
        let millis = |text| parse_duration(text).unwrap().as_millis();
        assert_eq!(millis("250ms"), 250);
        assert_eq!(millis("30s"), 30_000);
        assert_eq!(millis("30m"), 1_800_000);
        assert_eq!(millis("2h"), 7_200_000);
        assert_eq!(millis("1d"), 86_400_000);
        assert_eq!(millis("2w"), 14 * 86_400_000);
        assert_eq!(parse_size("4096B"), Ok(4096));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
    }

    #[test]
    fn what_is_not_a_number_and_a_unit_is_refused() {
        let unknown = |unit: &str| Err(UnitError::UnknownUnit(unit.to_owned()));
        assert_eq!(parse_duration(""), Err(UnitError::NoNumber));
        assert_eq!(parse_duration("s"), Err(UnitError::NoNumber));
        assert_eq!(parse_duration("-1s"), Err(UnitError::NoNumber));
        assert_eq!(parse_duration("30"), Err(UnitError::NoUnit));
        assert_eq!(parse_duration("1.5h"), unknown(".5h"));
        assert_eq!(parse_duration("1h30m"), unknown("h30m"));
        assert_eq!(parse_duration("30 s"), unknown(" s"));
        assert_eq!(parse_duration("30S"), unknown("S"));
        assert_eq!(parse_duration("30µs"), unknown("µs"));
        assert_eq!(
            parse_size("64kb").err(),
            Some(UnitError::UnknownUnit("kb".to_owned()))
        );
    }

    #[test]
    fn overflow_is_refused() {
        let refused = [
            "18446744073709551616ms",
            "18446744073709551615s",
            "99999999999999999999999d",
        ];
        for text in refused {
            assert_eq!(parse_duration(text), Err(UnitError::TooLarge), "{text}");
        }
        assert_eq!(parse_size("17179869184GiB"), Err(UnitError::TooLarge));
    }

    #[test]
    fn dates_count_leap_days_and_offsets() {
        let secs = |text: &str| timestamp(&text.parse().unwrap()).map(Timestamp::as_secs);
        assert_eq!(secs("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(secs("2000-02-29T12:00:00Z"), Some(951_825_600));
        assert_eq!(secs("2027-01-15T08:00:00Z"), Some(1_800_000_000));
        assert_eq!(secs("2027-01-15T10:00:00.9+02:00"), Some(1_800_000_000));
        assert_eq!(secs("2027-01-15T08:00:00"), None);
        assert_eq!(secs("2027-01-15"), None);
        assert_eq!(secs("1969-12-31T23:59:59Z"), None);
    }

    proptest! {
        #[test]
        fn a_duration_that_was_written_reads_back(millis: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)).unwrap(), duration);
        }

        #[test]
        fn a_size_that_was_written_reads_back(bytes: usize) {
            prop_assert_eq!(parse_size(&show_size(bytes)).unwrap(), bytes);
        }

        #[test]
        fn reading_never_panics(text: String) {
            let _unused = (parse_duration(&text), parse_size(&text));
        }
    }
}

//! What the arguments of opcodes mean: numbers and text in their several spellings.

use std::borrow::Cow;

use super::Kind;
use super::arena::Scalar;
use super::error::Problem;
use super::limits::MAX_INTEGER_DIGITS;

/// An integer in decimal digits, as Python's `int()` takes it but for underscores, which no pickler
/// writes.
pub(super) fn integer(line: &[u8]) -> Result<Scalar, Problem> {
    let text = line.trim_ascii();
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    let digits = digits.strip_prefix(b"-").unwrap_or(digits);
    let signs = text.len() - digits.len();
    let decimal = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if !decimal || signs > 1 || digits.len() > MAX_INTEGER_DIGITS {
        return Err(Problem::Integer);
    }
    let number = digits.iter().try_fold(0_i128, |number, digit| {
        number
            .checked_mul(10)?
            .checked_add(i128::from(digit - b'0'))
    });
    let negative = text.starts_with(b"-");
    Ok(number.map_or(Scalar::Foreign(Kind::Integer), |number| {
        scalar_of(if negative { -number } else { number })
    }))
}

/// An integer in two's complement, least significant byte first.
pub(super) fn long(bytes: &[u8]) -> Scalar {
    let sign = if bytes.last().is_some_and(|&last| last >= 0x80) {
        0xff
    } else {
        0
    };
    let significant = bytes.len() - bytes.iter().rev().take_while(|&&b| b == sign).count();
    let mut wide = [sign; 16];
    // The last byte of 16 is the sign's, so that it is not lost.
    match (wide.get_mut(..significant), bytes.get(..significant)) {
        (Some(wide), Some(bytes)) if significant < 16 => wide.copy_from_slice(bytes),
        _ => return Scalar::Foreign(Kind::Integer),
    }
    scalar_of(i128::from_le_bytes(wide))
}

fn scalar_of(number: i128) -> Scalar {
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => Scalar::Int(number),
        (_, Ok(number)) => Scalar::Unsigned(number),
        _ => Scalar::Foreign(Kind::Integer),
    }
}

/// A float in text, as Python's `float()` takes it but for underscores. The grammar is the same as
/// that of Rust.
pub(super) fn float(line: &[u8]) -> Result<Scalar, Problem> {
    let text = str::from_utf8(line.trim_ascii()).map_err(|_not_ascii| Problem::Float)?;
    let number: f64 = text.parse().map_err(|_no_float| Problem::Float)?;
    Ok(finite(number))
}

/// The shortest text that reads back as the same finite float, as Python's `repr()` spells it: always
/// with a point or an exponent, and that with a sign and two digits.
pub(super) fn spell_float(number: f64) -> String {
    let text = format!("{number:?}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// JSON has no infinities and no NaN.
pub(super) fn finite(number: f64) -> Scalar {
    if number.is_finite() {
        Scalar::Float(number)
    } else {
        Scalar::Foreign(Kind::Float)
    }
}

/// The bytes of a Python 2 string from its quoted form: what `repr()` wrote, and what Python's
/// `escape_decode` would make of it.
pub(super) fn quoted(line: &[u8]) -> Result<Cow<'_, [u8]>, Problem> {
    let body = match line {
        [first @ (b'\'' | b'"'), body @ .., last] if first == last => body,
        _ => return Err(Problem::QuotedString),
    };
    let Some(first_escape) = memchr::memchr(b'\\', body) else {
        return Ok(Cow::Borrowed(body));
    };
    let (plain, mut rest) = body.split_at_checked(first_escape).unwrap_or_default();
    let mut bytes = plain.to_vec();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'\\' {
            rest = unescape(rest, &mut bytes)?;
        } else {
            bytes.push(byte);
        }
    }
    Ok(Cow::Owned(bytes))
}

/// Reads what follows a backslash, and returns the rest.
fn unescape<'a>(rest: &'a [u8], bytes: &mut Vec<u8>) -> Result<&'a [u8], Problem> {
    let (&letter, after) = rest.split_first().ok_or(Problem::QuotedString)?;
    let plain = match letter {
        b'\\' | b'\'' | b'"' => letter,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'a' => 0x07,
        b'b' => 0x08,
        b'v' => 0x0b,
        b'f' => 0x0c,
        b'x' => {
            let (digits, after) = after.split_at_checked(2).ok_or(Problem::QuotedString)?;
            let value = hexadecimal(digits).and_then(|value| u8::try_from(value).ok());
            bytes.push(value.ok_or(Problem::QuotedString)?);
            return Ok(after);
        }
        b'0'..=b'7' => {
            let octal = |byte: &&u8| (b'0'..=b'7').contains(*byte);
            let len = rest.iter().take(3).take_while(octal).count();
            let (digits, after) = rest.split_at_checked(len).unwrap_or_default();
            // Three digits can be one bit too many, which Python drops.
            let value = digits.iter().fold(0_u8, |value, digit| {
                value.wrapping_mul(8).wrapping_add(digit - b'0')
            });
            bytes.push(value);
            return Ok(after);
        }
        unknown => {
            bytes.push(b'\\');
            unknown
        }
    };
    bytes.push(plain);
    Ok(after)
}

/// Protocol 0 text: Latin-1 with `\u` and `\U` escapes, in which only an odd number of backslashes
/// escapes. `None` when a surrogate is unpaired. Pairs are joined: Python 2 may keep them apart.
pub(super) fn raw_unicode(line: &[u8]) -> Result<Option<Cow<'_, str>>, Problem> {
    if memchr::memchr(b'\\', line).is_none()
        && let Some(ascii) = ascii(line)
    {
        return Ok(Some(Cow::Borrowed(ascii)));
    }
    let mut units: Vec<u16> = Vec::with_capacity(line.len());
    let mut rest = line;
    let mut backslashes = 0;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let digits = match byte {
            b'u' if backslashes % 2 == 1 => 4,
            b'U' if backslashes % 2 == 1 => 8,
            _ => 0,
        };
        backslashes = if byte == b'\\' { backslashes + 1 } else { 0 };
        if digits == 0 {
            units.push(byte.into());
            continue;
        }
        // The backslash before the escape was taken for itself.
        units.pop();
        let (digits, after) = rest
            .split_at_checked(digits)
            .ok_or(Problem::UnicodeEscape)?;
        push_code_point(&mut units, hexadecimal(digits))?;
        rest = after;
    }
    Ok(String::from_utf16(&units).ok().map(Cow::Owned))
}

fn push_code_point(units: &mut Vec<u16>, code_point: Option<u32>) -> Result<(), Problem> {
    let code_point = code_point.ok_or(Problem::UnicodeEscape)?;
    if let Ok(unit) = u16::try_from(code_point) {
        units.push(unit);
    } else {
        let character = char::from_u32(code_point).ok_or(Problem::UnicodeEscape)?;
        units.extend_from_slice(character.encode_utf16(&mut [0; 2]));
    }
    Ok(())
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value: u32, &digit| {
        Some(value << 4 | char::from(digit).to_digit(16)?)
    })
}

/// The bytes as text when they are ASCII. Of a Python 2 string only that is known to be text.
pub(super) fn ascii(bytes: &[u8]) -> Option<&str> {
    bytes
        .is_ascii()
        .then(|| str::from_utf8(bytes).unwrap_or_default())
}

/// Whether the bytes are UTF-8 without surrogates. Python writes and reads unpaired ones, too, as
/// three bytes each.
pub(super) fn is_unicode(bytes: &[u8]) -> Result<bool, Problem> {
    let mut rest = bytes;
    let mut unicode = true;
    while let Err(error) = str::from_utf8(rest) {
        rest = match rest.get(error.valid_up_to()..) {
            Some([0xed, 0xa0..=0xbf, 0x80..=0xbf, after @ ..]) => after,
            _ => return Err(Problem::NotUtf8),
        };
        unicode = false;
    }
    Ok(unicode)
}

//! Tornado's signed values: bytes in a cookie that only the holder of a secret can make.
//!
//! A [`Keyring`] and bytes flow in; [`Verified`] or the exact reason why not ([`Invalid`]) flows
//! out. Two versions exist:
//!
//! | version | text | signature, in lower-case hexadecimal digits |
//! |---|---|---|
//! | 1 | `value`, bar, `seconds`, bar, signature | HMAC-SHA1 of name, `value` and `seconds`, one after the other |
//! | 2 | `2`, bar, `L:key version`, bar, `L:seconds`, bar, `L:name`, bar, `L:value`, bar, signature | HMAC-SHA256 of everything before it |
//!
//! `value` is base64 (RFC 4648 section 4, padded), `seconds` is when it was signed, in decimal Unix
//! seconds, and `L` is the length of the field in bytes. With the secret `Python rocks!`, the name
//! `PYCKET_ID` and the value `a`:
//!
//! ```text
//! 2|1:0|10:1300000000|9:PYCKET_ID|4:YQ==|22ee738c8b37068826c7452d40ae646e323db483eddd8b6e64202b8a0923ae78
//! ```
//!
//! Reading is stricter than Tornado's: numbers are digits without sign, space or leading zero, and
//! base64 is canonical. Whatever Tornado writes for a name in ASCII is read. What is refused in
//! addition can only be made with the secret, but for one forgery of version 1 that Tornado takes:
//! its signature has no separators, so that a value that ends in `+000` can lend these bytes to the
//! seconds.

mod invalid;

pub use invalid::{Invalid, Part};

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;

use crate::clock::Timestamp;

/// How far in the future a version 1 value may be dated. Tornado's number; it stops an attacker
/// who moves digits from the value to the seconds.
const V1_FUTURE: Duration = Duration::from_hours(31 * 24);

const SECS_PER_DAY: u64 = 24 * 60 * 60;

/// The secrets: one signs, all verify.
///
/// The state of each key is computed once, since every request verifies. `Debug` hides the keys.
///
/// ```
/// use pycket::clock::Timestamp;
/// use pycket::cookie::signed::{Check, Keyring};
///
/// let keyring = Keyring::single(b"Python rocks!");
/// let now = Timestamp::from_secs(1_300_000_000);
/// let signed = keyring.sign("PYCKET_ID", b"a", now);
/// let check = Check { name: "PYCKET_ID", max_age_days: 31, min_version: 2 };
/// assert_eq!(keyring.verify(check, signed.as_bytes(), now)?.value.as_bytes(), b"a");
/// # Ok::<(), pycket::cookie::signed::Invalid>(())
/// ```
#[derive(Clone)]
pub struct Keyring(Keys);

#[derive(Clone)]
enum Keys {
    /// A plain secret. The only form that version 1 knows.
    Single {
        sha256: Box<Hmac<Sha256>>,
        sha1: Box<Hmac<Sha1>>,
    },
    /// Several secrets, each under a number that the value names.
    Versioned {
        keys: BTreeMap<u32, Hmac<Sha256>>,
        signing: u32,
        signing_key: Box<Hmac<Sha256>>,
    },
}

/// The key version that should sign is not among the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no secret with key version {0} to sign with")]
pub struct UnknownKeyVersion(pub u32);

/// What a value must be to count.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// The name that it was signed for: the cookie's.
    pub name: &'a str,
    /// The most days since it was signed, inclusive.
    pub max_age_days: u32,
    /// The oldest version that is accepted: 1 or 2.
    pub min_version: u8,
}

/// When a value must have been signed: not too long ago, and in version 1 not too far ahead.
///
/// Seconds of signing are whole, so both ends are, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first second that counts.
    oldest_secs: i128,
    /// The last second that counts in version 1; version 2 has none.
    newest_v1_secs: i128,
}

/// A value that one of our secrets signed, whatever its name and age.
///
/// It does not count before [`Signed::accept`]; until then it serves to say why it does not.
#[derive(Clone, Copy)]
pub struct Signed<'a> {
    /// The version of the signed value: 1 or 2.
    pub version: u8,
    /// The number of the secret, as the value has it; `None` in version 1.
    pub key_version: Option<u32>,
    /// The name that it was signed for. Version 1 does not carry it: `None`, and the signature was
    /// right for the name that was asked for.
    pub name: Option<&'a [u8]>,
    /// When it was signed, in Unix seconds.
    pub timestamp_secs: u64,
    /// What was signed, in base64.
    text: &'a [u8],
}

/// A value that one of our secrets signed, for this name and not too long ago.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The bytes that were signed.
    pub value: Value,
    /// The version of the signed value: 1 or 2.
    pub version: u8,
    /// The number of the secret, as the value has it; `None` in version 1.
    pub key_version: Option<u32>,
    /// When it was signed, in Unix seconds. Version 2 allows any time in the future.
    pub timestamp_secs: u64,
}

/// The bytes that were signed. An id's fit in without the heap. `Debug` hides them.
#[derive(Clone)]
pub struct Value(Repr);

#[derive(Clone)]
enum Repr {
    Inline {
        bytes: [u8; Value::INLINE],
        len: usize,
    },
    Heap(Vec<u8>),
}

impl Keyring {
    /// A plain secret. It writes key version 0, accepts every key version, and can read and write
    /// version 1, all as Tornado does.
    pub fn single(secret: &[u8]) -> Self {
        Self(Keys::Single {
            sha256: Box::new(mac(secret)),
            sha1: Box::new(mac(secret)),
        })
    }

    /// Several secrets by key version; `signing` is the one that signs.
    ///
    /// # Errors
    ///
    /// [`UnknownKeyVersion`] when `signing` is not among the keys.
    pub fn versioned(
        secrets: BTreeMap<u32, Vec<u8>>,
        signing: u32,
    ) -> Result<Self, UnknownKeyVersion> {
        let keys: BTreeMap<u32, Hmac<Sha256>> = secrets
            .into_iter()
            .map(|(version, secret)| (version, mac(&secret)))
            .collect();
        let signing_key = keys.get(&signing).ok_or(UnknownKeyVersion(signing))?;
        Ok(Self(Keys::Versioned {
            signing_key: Box::new(signing_key.clone()),
            keys,
            signing,
        }))
    }

    /// Checks a value and gives what was signed.
    ///
    /// `value` is what the cookie holds after unquoting. The signature is compared in constant
    /// time, and before anything else of the value counts but its version and key version.
    ///
    /// # Errors
    ///
    /// [`Invalid`] says why the value does not count. All of them are the client's doing, or mean
    /// that the secrets have changed.
    pub fn verify(
        &self,
        check: Check<'_>,
        value: &[u8],
        now: Timestamp,
    ) -> Result<Verified, Invalid> {
        let window = Window::new(check.max_age_days, now);
        self.open(check.name, check.min_version, value)?
            .accept(check.name, window)
    }

    /// The first half of [`verify`](Self::verify): checks version, form and signature, and gives
    /// what a value says of itself. [`Signed::accept`] is the other half.
    ///
    /// # Errors
    ///
    /// [`Invalid`], but for the reasons that [`Signed::accept`] gives.
    pub fn open<'a>(
        &self,
        name: &str,
        min_version: u8,
        value: &'a [u8],
    ) -> Result<Signed<'a>, Invalid> {
        match sniff_version(value) {
            1 if min_version > 1 => Err(Invalid::VersionTooOld(1)),
            2 if min_version > 2 => Err(Invalid::VersionTooOld(2)),
            1 => self.open_v1(name, value),
            2 => self.open_v2(value),
            other => Err(Invalid::UnknownVersion(other)),
        }
    }

    fn open_v2<'a>(&self, value: &'a [u8]) -> Result<Signed<'a>, Invalid> {
        let (signed, signature) = value
            .iter()
            .rposition(|&byte| byte == b'|')
            .and_then(|last_bar| value.split_at_checked(last_bar + 1))
            .ok_or(Invalid::Malformed(Part::Signature))?;
        let signature: [u8; 32] = read_hex(signature)?;
        let mut fields = signed.strip_prefix(b"2|").unwrap_or_default();
        let key_version = next_field(&mut fields)
            .and_then(read_number)
            .and_then(|number| u32::try_from(number).ok())
            .ok_or(Invalid::Malformed(Part::KeyVersion))?;
        let key = self
            .key(key_version)
            .ok_or(Invalid::UnknownKeyVersion(key_version))?;
        let mac = key.clone().chain_update(signed);
        if mac.verify_slice(&signature).is_err() {
            return Err(Invalid::Forged);
        }

        let timestamp_secs = next_field(&mut fields)
            .and_then(read_number)
            .ok_or(Invalid::Malformed(Part::Timestamp))?;
        let name = next_field(&mut fields).ok_or(Invalid::Malformed(Part::Name))?;
        let text = next_field(&mut fields).ok_or(Invalid::Malformed(Part::Value))?;
        if !fields.is_empty() {
            return Err(Invalid::Malformed(Part::Excess));
        }
        Ok(Signed {
            version: 2,
            key_version: Some(key_version),
            name: Some(name),
            timestamp_secs,
            text,
        })
    }

    fn open_v1<'a>(&self, name: &str, value: &'a [u8]) -> Result<Signed<'a>, Invalid> {
        let mut fields = value.split(|&byte| byte == b'|');
        let (Some(text), Some(seconds), Some(signature), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(Invalid::Malformed(Part::Fields));
        };
        let signature: [u8; 20] = read_hex(signature)?;
        let Keys::Single { sha1, .. } = &self.0 else {
            return Err(Invalid::NoKeyVersion);
        };
        let mac = Hmac::clone(sha1)
            .chain_update(name)
            .chain_update(text)
            .chain_update(seconds);
        if mac.verify_slice(&signature).is_err() {
            return Err(Invalid::Forged);
        }

        // "0" by itself is out as well: Tornado refuses every version 1 value of that beginning.
        let timestamp_secs = read_number(seconds)
            .filter(|&seconds| seconds > 0)
            .ok_or(Invalid::Malformed(Part::Timestamp))?;
        Ok(Signed {
            version: 1,
            key_version: None,
            name: None,
            timestamp_secs,
            text,
        })
    }

    /// The numbers of the secrets, lowest first; none for a plain secret.
    pub fn key_versions(&self) -> Vec<u32> {
        match &self.0 {
            Keys::Single { .. } => Vec::new(),
            Keys::Versioned { keys, .. } => keys.keys().copied().collect(),
        }
    }

    /// The key of a version 2 value.
    fn key(&self, key_version: u32) -> Option<&Hmac<Sha256>> {
        match &self.0 {
            Keys::Single { sha256, .. } => Some(sha256),
            Keys::Versioned { keys, .. } => keys.get(&key_version),
        }
    }

    /// The number that [`sign`](Self::sign) writes; 0 for a plain secret.
    pub fn signing_key_version(&self) -> u32 {
        match &self.0 {
            Keys::Single { .. } => 0,
            Keys::Versioned { signing, .. } => *signing,
        }
    }

    /// Signs a value for a name, in version 2.
    ///
    /// Of a name that is not ASCII the length is written in bytes. Tornado writes characters, and
    /// can't read that itself.
    pub fn sign(&self, name: &str, value: &[u8], now: Timestamp) -> String {
        let key = match &self.0 {
            Keys::Single { sha256, .. } => sha256,
            Keys::Versioned { signing_key, .. } => signing_key,
        };
        // Lengths, numbers and separators, and the signature, beside what varies.
        let mut text = String::with_capacity(128 + name.len() + 2 * value.len());
        text.push_str("2|");
        push_field(
            &mut text,
            itoa::Buffer::new().format(self.signing_key_version()),
        );
        push_field(&mut text, itoa::Buffer::new().format(now.as_secs()));
        push_field(&mut text, name);
        push_field(&mut text, &STANDARD.encode(value));
        let mac = Hmac::clone(key).chain_update(&text).finalize();
        text.push_str(&base16ct::lower::encode_string(&mac.into_bytes()));
        text
    }

    /// Signs a value for a name, in version 1, for applications on Tornado 3.2.0 and older.
    ///
    /// `None` when the secrets have key versions, which version 1 can't express.
    pub fn sign_v1(&self, name: &str, value: &[u8], now: Timestamp) -> Option<String> {
        let Keys::Single { sha1, .. } = &self.0 else {
            return None;
        };
        let mut text = STANDARD.encode(value);
        let mut seconds = itoa::Buffer::new();
        let seconds = seconds.format(now.as_secs());
        let mac = Hmac::clone(sha1)
            .chain_update(name)
            .chain_update(&text)
            .chain_update(seconds)
            .finalize();
        text.push('|');
        text.push_str(seconds);
        text.push('|');
        text.push_str(&base16ct::lower::encode_string(&mac.into_bytes()));
        Some(text)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Keys::Single { .. } => f.write_str("Keyring(..)"),
            Keys::Versioned { keys, signing, .. } => {
                write!(f, "Keyring({} keys, {signing} signs)", keys.len())
            }
        }
    }
}

impl Window {
    /// At most this many days ago: exactly as many are still valid, a millisecond more is not.
    pub fn new(max_age_days: u32, now: Timestamp) -> Self {
        let max_age_secs = u64::from(max_age_days) * SECS_PER_DAY;
        Self {
            oldest_secs: i128::from(now.as_millis().div_ceil(1000)) - i128::from(max_age_secs),
            newest_v1_secs: i128::from(now.as_secs()) + i128::from(V1_FUTURE.as_secs()),
        }
    }

    /// As [`Window::new`], for any clock and any age, fractions and negative ones included: both in
    /// nanoseconds, the clock's since the Unix epoch. Saturates at the far ends of time.
    pub fn of_nanos(max_age_nanos: i128, now_nanos: i128) -> Self {
        const NANOS_PER_SEC: i128 = 1_000_000_000;
        let oldest_nanos = now_nanos.saturating_sub(max_age_nanos);
        // Negated twice, the division rounds up.
        let oldest_secs = -oldest_nanos.saturating_neg().div_euclid(NANOS_PER_SEC);
        let now_secs = now_nanos.div_euclid(NANOS_PER_SEC);
        Self {
            oldest_secs,
            newest_v1_secs: now_secs + i128::from(V1_FUTURE.as_secs()),
        }
    }
}

impl Signed<'_> {
    /// The second half of [`Keyring::verify`]: checks name and time of signing, and gives what was
    /// signed. `name` is the one that [`Keyring::open`] was asked for.
    ///
    /// # Errors
    ///
    /// - [`Invalid::OtherName`]: signed for another one.
    /// - [`Invalid::Expired`] and [`Invalid::Future`]: signed outside of the window.
    /// - [`Invalid::Malformed`] with [`Part::Value`]: what was signed is not base64.
    pub fn accept(&self, name: &str, window: Window) -> Result<Verified, Invalid> {
        if self.name.is_some_and(|signed| signed != name.as_bytes()) {
            return Err(Invalid::OtherName);
        }
        let secs = i128::from(self.timestamp_secs);
        if secs < window.oldest_secs {
            return Err(Invalid::Expired);
        }
        if self.version == 1 && secs > window.newest_v1_secs {
            return Err(Invalid::Future);
        }
        Ok(Verified {
            value: Value::decode(self.text)?,
            version: self.version,
            key_version: self.key_version,
            timestamp_secs: self.timestamp_secs,
        })
    }
}

/// It holds an id that is as good as a cookie.
impl fmt::Debug for Signed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Signed(version {}, {} bytes)",
            self.version,
            self.text.len()
        )
    }
}

impl Value {
    /// More than the 36 bytes of an id; divisible by 3, so that base64 fills it exactly.
    const INLINE: usize = 48;

    fn decode(text: &[u8]) -> Result<Self, Invalid> {
        let decoded = if text.len() > Self::INLINE / 3 * 4 {
            STANDARD.decode(text).ok().map(Repr::Heap)
        } else {
            let mut bytes = [0; Self::INLINE];
            let len = STANDARD.decode_slice(text, &mut bytes).ok();
            len.map(|len| Repr::Inline { bytes, len })
        };
        decoded.map(Self).ok_or(Invalid::Malformed(Part::Value))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { bytes, len } => bytes.get(..*len).unwrap_or_default(),
            Repr::Heap(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.as_bytes().len())
    }
}

fn mac<M: KeyInit>(secret: &[u8]) -> M {
    M::new_from_slice(secret).expect("HMAC takes keys of every length")
}

/// Tornado's rule: up to three digits without a leading zero, then a bar. Everything else is
/// version 1, whose value may well be digits only.
fn sniff_version(value: &[u8]) -> u16 {
    let digits = value
        .iter()
        .take(4)
        .take_while(|byte| byte.is_ascii_digit());
    value
        .split_at_checked(digits.count())
        .filter(|(digits, rest)| digits.len() <= 3 && rest.starts_with(b"|"))
        .and_then(|(digits, _)| read_number(digits))
        .and_then(|number| u16::try_from(number).ok())
        .filter(|&version| version > 0)
        .unwrap_or(1)
}

/// Takes `L:field` and the bar after it from the front; `None` when it is not there.
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let colon = rest.iter().position(|&byte| byte == b':')?;
    let (len, field) = rest.split_at_checked(colon)?;
    let len = usize::try_from(read_number(len)?).ok()?;
    let (field, after) = field.strip_prefix(b":")?.split_at_checked(len)?;
    *rest = after.strip_prefix(b"|")?;
    Some(field)
}

/// A decimal number in its one canonical spelling. `str::parse` would take `+5` and `05`, too.
fn read_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with(b"0")) {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Exactly `N` bytes in lower-case hexadecimal digits, as Tornado compares the digits themselves.
fn read_hex<const N: usize>(digits: &[u8]) -> Result<[u8; N], Invalid> {
    let mut bytes = [0; N];
    match base16ct::lower::decode(digits, &mut bytes) {
        Ok(read) if read.len() == N => Ok(bytes),
        Ok(_) | Err(_) => Err(Invalid::Malformed(Part::Signature)),
    }
}

fn push_field(text: &mut String, field: &str) {
    text.push_str(itoa::Buffer::new().format(field.len()));
    text.push(':');
    text.push_str(field);
    text.push('|');
}

#[cfg(test)]
mod tests;

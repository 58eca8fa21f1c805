//! `pycket keygen`: makes a secret.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Failure;

/// As long as the output of HMAC-SHA256: less is weaker, more gains nothing (RFC 2104 section 3).
const SECRET_BYTES: usize = 32;

/// Writes 32 random bytes as 43 characters of base64url on one line.
///
/// The text itself is the secret; nobody decodes it.
pub(super) fn keygen(out: &mut impl Write) -> Result<(), Failure> {
    let secret = random_secret().map_err(Failure::Randomness)?;
    Ok(writeln!(out, "{secret}")?)
}

/// A new secret, as text.
pub(super) fn random_secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_of_base64url() {
        let mut out = Vec::new();
        keygen(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let secret = text.strip_suffix('\n').unwrap();
        assert_eq!(secret.len(), 43);
        assert_eq!(URL_SAFE_NO_PAD.decode(secret).unwrap().len(), SECRET_BYTES);
    }

    #[test]
    fn no_two_secrets_are_the_same() {
        let secret = || {
            let mut out = Vec::new();
            keygen(&mut out).unwrap();
            out
        };
        assert_ne!(secret(), secret());
    }
}

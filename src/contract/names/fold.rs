//! Comparing header names the way that CGI, WSGI, Rack and PHP fold them.

use http::HeaderName;

/// One byte of a name as CGI and its heirs see it, in lower case.
pub(super) const fn fold(byte: u8) -> u8 {
    match byte.to_ascii_lowercase() {
        letter @ (b'a'..=b'z' | b'0'..=b'9') => letter,
        _ => b'-',
    }
}

/// The folded name.
pub(super) fn folded(name: &str) -> String {
    name.bytes().map(|byte| char::from(fold(byte))).collect()
}

/// The bit of a folded byte in `Names::initials`.
pub(super) const fn initial(folded: u8) -> u64 {
    match folded {
        b'a'..=b'z' => 1 << (folded - b'a'),
        b'0'..=b'9' => 1 << (folded - b'0' + 26),
        _ => 1 << 36,
    }
}

/// Whether `name`, once folded, begins with `folded`.
pub(super) fn begins(name: &[u8], folded: &str) -> bool {
    name.len() >= folded.len()
        && name
            .iter()
            .zip(folded.bytes())
            .all(|(&byte, folded)| fold(byte) == folded)
}

/// Whether `name`, once folded, is one of these.
pub(super) fn is_one_of<S: AsRef<str>>(name: &[u8], folded: &[S]) -> bool {
    folded
        .iter()
        .map(AsRef::as_ref)
        .any(|folded| folded.len() == name.len() && begins(name, folded))
}

/// Whether an application could not tell the two apart.
pub fn same(one: &HeaderName, other: &HeaderName) -> bool {
    let (one, other) = (one.as_str(), other.as_str());
    one.len() == other.len() && one.bytes().map(fold).eq(other.bytes().map(fold))
}

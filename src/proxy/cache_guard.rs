//! Keeps responses with a session from being stored for somebody else.

use http::header::{CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderValue};

/// Says that the response depends on the cookie, as RFC 9110 section 12.5.5 wants it said.
pub(super) fn vary_by_cookie(headers: &mut HeaderMap) {
    let said = headers.get_all(VARY).iter().any(|line| {
        line.as_bytes().split(|&byte| byte == b',').any(|name| {
            let name = name.trim_ascii();
            name == b"*" || name.eq_ignore_ascii_case(b"cookie")
        })
    });
    if !said {
        headers.append(VARY, HeaderValue::from_static("Cookie"));
    }
}

/// Keeps shared caches from storing a response that sets a cookie (RFC 9111 sections 5.2.2.7 and
/// 7.3): `private`, unless the application forbids storing anyway. What would allow them to
/// (`public`, `s-maxage`) goes.
pub(super) fn keep_private(headers: &mut HeaderMap) {
    let mut kept: Vec<&[u8]> = Vec::new();
    for line in headers.get_all(CACHE_CONTROL) {
        for directive in line.as_bytes().split(|&byte| byte == b',') {
            let directive = directive.trim_ascii();
            let name = directive
                .split(|&byte| byte == b'=')
                .next()
                .unwrap_or_default()
                .trim_ascii();
            let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
            if is("no-store") || (is("private") && name.len() == directive.len()) {
                return;
            }
            if !directive.is_empty() && !is("public") && !is("s-maxage") {
                kept.push(directive);
            }
        }
    }
    kept.push(b"private");
    let value = HeaderValue::from_bytes(&kept.join(&b", "[..]));
    headers.insert(
        CACHE_CONTROL,
        value.unwrap_or(HeaderValue::from_static("private")),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(guard: fn(&mut HeaderMap), name: &http::HeaderName, lines: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_static(line));
        }
        guard(&mut headers);
        let lines: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|line| line.to_str().unwrap().to_owned())
            .collect();
        lines.join(" | ")
    }

    #[test]
    fn cookie_joins_what_the_response_varies_by() {
        let vary = |lines| after(vary_by_cookie, &VARY, lines);
        assert_eq!(vary(&[]), "Cookie");
        assert_eq!(vary(&["Accept"]), "Accept | Cookie");
        assert_eq!(vary(&["Accept, cookie"]), "Accept, cookie");
        assert_eq!(vary(&["*"]), "*");
    }

    #[test]
    fn shared_caches_lose_their_permission_and_private_ones_keep_it() {
        let private = |lines| after(keep_private, &CACHE_CONTROL, lines);
        assert_eq!(private(&[]), "private");
        assert_eq!(private(&["max-age=60"]), "max-age=60, private");
        assert_eq!(
            private(&["Public, max-age=60", "s-maxage=9"]),
            "max-age=60, private"
        );
        assert_eq!(private(&["no-store"]), "no-store");
        assert_eq!(private(&["private, max-age=1"]), "private, max-age=1");
        // A list of fields makes only those private.
        assert_eq!(private(&["private=\"x-a\""]), "private=\"x-a\", private");
    }
}

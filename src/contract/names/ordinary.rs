//! Headers that belong to HTTP or to the proxy, and therefore can't be the contract's.

use http::HeaderName;

use super::fold::{begins, is_one_of};

/// Ordinary headers, folded. Names that reserve one of them would break every site.
pub(super) const ORDINARY: [&str; 43] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "access-control-allow-origin",
    "age",
    "authorization",
    "cache-control",
    "client-cert",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "host",
    "if-modified-since",
    "if-none-match",
    "keep-alive",
    "last-modified",
    "link",
    "location",
    "origin",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "sec-fetch-mode",
    "server",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
    "x-forwarded-for",
    "x-request-id",
];

/// Whether the header is none of the contract's business: see `Names::check_target`.
pub(super) fn is_forbidden(header: &HeaderName) -> bool {
    const EXACT: [&str; 22] = [
        "authorization",
        "cache-control",
        "client-cert",
        "client-cert-chain",
        "connection",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "location",
        "proxy",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        "via",
        "x-request-id",
    ];
    const PREFIXES: [&str; 4] = ["content-", "proxy-", "sec-", "x-forwarded-"];
    let name = header.as_str().as_bytes();
    PREFIXES.iter().any(|prefix| begins(name, prefix)) || is_one_of(name, &EXACT)
}

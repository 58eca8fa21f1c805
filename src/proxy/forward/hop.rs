//! Which fields belong to one hop only, and what they say (RFC 9110 section 7.6.1).

use http::header::{CONNECTION, CONTENT_TYPE, TE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
pub(super) const TE_OPTION: HeaderValue = HeaderValue::from_static("te");
pub(super) const UPGRADE_OPTION: HeaderValue = HeaderValue::from_static("upgrade");
pub(super) const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// What every answer of gRPC ends with (gRPC over HTTP/2, "Responses").
pub(super) const GRPC_TRAILERS: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// What all `Connection` lines of a head say together.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// The fields they name, except those that can't be named away.
    pub(super) nominated: Vec<HeaderName>,
    /// Whether `upgrade` is among the options.
    pub(super) upgrade: bool,
}

impl Connection {
    /// Reads every line: an empty first one must not hide the second (CVE-2021-33197).
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut connection = Self::default();
        for option in tokens(headers, &CONNECTION) {
            if option.eq_ignore_ascii_case(b"upgrade") {
                connection.upgrade = true;
            } else if is_plain_option(option) {
                // By far the most frequent ones, and what they could name goes anyway.
            } else if let Ok(name) = HeaderName::from_bytes(option)
                && !is_protected(name.as_str())
            {
                connection.nominated.push(name);
            }
        }
        connection
    }
}

fn is_plain_option(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"keep-alive")
        || option.eq_ignore_ascii_case(b"close")
        || option.eq_ignore_ascii_case(b"te")
}

/// The fields that can't be named away by `Connection`: a message without them would mean
/// something else, or a client could blind us to what a trusted neighbour said about it
/// (CVE-2024-45410).
fn is_protected(name: &str) -> bool {
    matches!(
        name,
        "host" | "content-length" | "transfer-encoding" | "expect"
    ) || super::client::is_forwarding(name)
}

pub(super) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        // RFC 9110 section 7.6.1; `Proxy-Connection` was never standard, and is named there.
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
        // RFC 9110 section 6.6.2: it describes the framing of this hop, and is written anew.
        | "trailer"
        // RFC 7540 section 3.2.1: half of an h2c upgrade, which goes no further than here.
        | "http2-settings"
        // RFC 9110 section 11.7: between a client and the proxy that it chose, which is not us.
        | "proxy-authenticate" | "proxy-authentication-info" | "proxy-authorization"
        // Becomes the variable HTTP_PROXY under CGI (httpoxy, CVE-2016-5385).
        | "proxy"
    )
}

/// Whether a field may stand in a trailer section. RFC 9110 section 6.5.1 forbids what is needed
/// for framing, routing, authentication, or to know what to do with the message; merged into
/// headers, such a field would be a spoof (CVE-2013-5704).
pub(super) fn may_trail(name: &str) -> bool {
    const FORBIDDEN_PREFIXES: [&str; 7] = [
        "access-control-",
        "content-",
        "if-",
        "proxy-",
        "sec-",
        "x-forwarded-",
        "x-real-",
    ];
    !(FORBIDDEN_PREFIXES
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        || is_hop_by_hop(name)
        || super::client::is_forwarding(name)
        || matches!(
            name,
            "age"
                | "authorization"
                | "cache-control"
                // RFC 9440 section 2.2.
                | "client-cert"
                | "client-cert-chain"
                | "cookie"
                | "date"
                | "expect"
                | "expires"
                | "host"
                | "location"
                | "max-forwards"
                | "origin"
                | "pragma"
                | "range"
                | "retry-after"
                | "set-cookie"
                | "strict-transport-security"
                | "vary"
                | "via"
                | "warning"
                | "www-authenticate"
        ))
}

/// Whether a message is one of gRPC: `application/grpc`, or that with a `+` or `;` and more.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.and_then(|kind| kind.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Whether the client can take trailers.
pub(super) fn wants_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case(b"trailers"))
}

/// Whether `Upgrade` names exactly one protocol, and that is `websocket`. Every other protocol
/// would open a tunnel whose bytes nobody checks; `h2c` through such a tunnel goes around all that
/// a proxy does.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = tokens(headers, &UPGRADE);
    protocols
        .next()
        .is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
        && protocols.next().is_none()
}

/// Whether a `Transfer-Encoding` line is `chunked` and nothing else. Only space and tab are
/// trimmed: other white space is what smuggling is made of.
pub(super) fn is_chunked(line: &HeaderValue) -> bool {
    let mut coding = line.as_bytes();
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = coding {
        coding = rest;
    }
    coding.eq_ignore_ascii_case(b"chunked")
}

/// The non-empty members of a comma-separated list over all lines of a field, trimmed.
pub(super) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(text: &[u8]) -> bool {
    let mark = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || mark(byte))
}

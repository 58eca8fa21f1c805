//! What a request looks like in HTTP/2 (RFC 9113 section 8), and which failures leave it unsent.

use std::error::Error as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version, request};
use hyper::ext::Protocol;
use sha1::{Digest, Sha1};

/// Rewrites a head in origin-form, as it would go by HTTP/1.1: what belongs to the connection goes
/// (section 8.2.2; `TE: trailers` stays), and `Host` becomes `:authority` (section 8.3.1). Where it
/// can't be one, the server's own stands in.
pub(super) fn rewrite(head: &mut request::Parts, scheme: Scheme, own: &HeaderValue) {
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        head.headers.remove(name);
    }
    let authority = authority(&head.headers, own);
    head.headers.remove(HOST);
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.scheme = Some(scheme);
    parts.authority = authority;
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    // All three parts are there, so that it is a URI.
    head.uri = Uri::from_parts(parts).unwrap_or_default();
    head.version = Version::HTTP_2;
}

/// What a WebSocket's opening key is joined with for the answer (RFC 6455 section 1.3).
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Makes of a rewritten request for a WebSocket one that asks for it by HTTP/2 (RFC 8441 section 5).
pub(super) fn ask_for_websocket(head: &mut request::Parts) {
    head.method = Method::CONNECT;
    head.extensions.insert(Protocol::from_static("websocket"));
    head.headers.remove(SEC_WEBSOCKET_KEY);
}

/// Makes of the response that opens a WebSocket by HTTP/2 what it would have been by HTTP/1.1, to a
/// request with this head.
pub(super) fn grant_websocket<B>(response: &mut Response<B>, asked: &request::Parts) {
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Some(key) = asked.headers.get(SEC_WEBSOCKET_KEY) {
        let digest = Sha1::new()
            .chain_update(key.as_bytes())
            .chain_update(WEBSOCKET_GUID)
            .finalize();
        // The letters of base64 are a header value.
        if let Ok(accept) = HeaderValue::try_from(STANDARD.encode(digest)) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
    }
}

fn authority(headers: &HeaderMap, own: &HeaderValue) -> Option<Authority> {
    let host = headers.get(HOST).unwrap_or(own);
    // An empty port is none (RFC 3986 section 3.2.3), and no URI of ours can have one.
    let parse = |value: &HeaderValue| {
        let text = value.as_bytes();
        Authority::try_from(text.strip_suffix(b":").unwrap_or(text)).ok()
    };
    parse(host).or_else(|| parse(own))
}

/// How a server says that it did nothing with a request (RFC 9113 section 8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unprocessed {
    /// It refused this one: it has enough to do.
    Refused,
    /// It has ended the connection with an earlier one.
    Ended,
}

/// Whether the server has said that it did nothing with the request.
pub(super) fn unprocessed(error: &hyper::Error) -> Option<Unprocessed> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return match error.reason() {
                _ if !error.is_remote() => None,
                _ if error.is_go_away() => Some(Unprocessed::Ended),
                Some(h2::Reason::REFUSED_STREAM) => Some(Unprocessed::Refused),
                Some(_) | None => None,
            };
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn rewritten(request: request::Builder) -> request::Parts {
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        rewrite(
            &mut head,
            Scheme::HTTPS,
            &HeaderValue::from_static("own:9000"),
        );
        head
    }

    #[test]
    fn what_belongs_to_the_connection_goes() {
        let request = Request::builder()
            .uri("/a?b")
            .header("host", "shop.example.com:8443")
            .header("connection", "te, upgrade")
            .header("transfer-encoding", "chunked")
            .header("upgrade", "websocket")
            .header("te", "trailers")
            .header("cookie", "a=1");
        let head = rewritten(request);
        assert_eq!(head.uri, "https://shop.example.com:8443/a?b");
        let names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["te", "cookie"]);
    }

    #[test]
    fn a_websocket_is_asked_for_and_granted_as_each_version_wants_it() {
        // The key and its answer are those of RFC 6455 section 1.3.
        let request = Request::builder()
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-version", "13");
        let (asked, ()) = request.body(()).unwrap().into_parts();
        let mut head = asked.clone();
        rewrite(
            &mut head,
            Scheme::HTTP,
            &HeaderValue::from_static("own:9000"),
        );
        ask_for_websocket(&mut head);
        assert_eq!(head.method, Method::CONNECT);
        let names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["sec-websocket-version"]);

        let mut response = Response::new(());
        grant_websocket(&mut response, &asked);
        assert_eq!(response.status(), 101);
        let accept = &response.headers()["sec-websocket-accept"];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_servers_own_name_stands_in() {
        assert_eq!(rewritten(Request::builder()).uri, "https://own:9000/");
        let odd = Request::builder().header("host", "not a host");
        assert_eq!(rewritten(odd).uri, "https://own:9000/");
        let empty_port = Request::builder().header("host", "a:");
        assert_eq!(rewritten(empty_port).uri, "https://a/");
    }

    #[test]
    fn a_question_about_the_server_as_a_whole_stays_one() {
        let request = Request::builder().method("OPTIONS").uri("*");
        let head = rewritten(request.header("host", "a"));
        assert_eq!(head.uri.path(), "*");
        assert_eq!(head.uri.authority().unwrap(), "a");
    }
}

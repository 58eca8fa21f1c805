//! Where a request wants to go: the request target and `Host` (RFC 9112 section 3.2).

use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Method, Uri, Version, request};

use super::RequestError;

/// Leaves a target in origin-form (or `*`) and at most one `Host`, which is valid, and says which one.
/// The authority of an absolute target replaces `Host` (RFC 9112 section 3.2.2).
pub(super) fn rewrite(head: &mut request::Parts) -> Result<Option<HeaderValue>, RequestError> {
    if head.method == Method::CONNECT {
        return Err(RequestError::Connect);
    }
    let host = if head.version == Version::HTTP_2 {
        check_authority(head)?
    } else {
        check_host(head)?
    };
    match (head.uri.scheme(), head.uri.authority()) {
        (None, None) if head.uri.path().starts_with('/') => Ok(host),
        (None, None) if head.uri.path() == "*" && head.method == Method::OPTIONS => Ok(host),
        (Some(scheme), Some(authority)) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => {
            let host = authority.as_str();
            if !is_host(host.as_bytes()) {
                return Err(RequestError::HostInvalid);
            }
            let host = HeaderValue::from_str(host).map_err(|_invalid| RequestError::HostInvalid)?;
            head.headers.insert(HOST, host.clone());
            to_origin_form(head)?;
            Ok(Some(host))
        }
        _ => Err(RequestError::Target),
    }
}

/// Whether it asks for a websocket as HTTP/2 does (RFC 8441 section 4). Other protocols are not
/// offered, and end as any other CONNECT.
pub(super) fn is_extended_connect(head: &request::Parts) -> bool {
    let protocol = head.extensions.get::<hyper::ext::Protocol>();
    head.version == Version::HTTP_2
        && head.method == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
}

fn check_host(head: &request::Parts) -> Result<Option<HeaderValue>, RequestError> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Ok(Some(host.clone())),
        (Some(_), None) => Err(RequestError::HostInvalid),
        (None, _) if head.version == Version::HTTP_10 => Ok(None),
        (Some(_), Some(_)) | (None, _) => Err(RequestError::HostCount),
    }
}

/// HTTP/2 has `:authority` in the place of `Host`. RFC 9113 section 8.3.1: they must agree, and one
/// of them must be there. `None` where it is `:authority`.
fn check_authority(head: &request::Parts) -> Result<Option<HeaderValue>, RequestError> {
    let Some(authority) = head.uri.authority() else {
        return check_host(head);
    };
    let agrees = |host: &HeaderValue| {
        let authority = authority.as_str().as_bytes();
        host.as_bytes().eq_ignore_ascii_case(authority)
    };
    if head.headers.get_all(HOST).iter().all(agrees) {
        Ok(None)
    } else {
        Err(RequestError::HostConflict)
    }
}

fn to_origin_form(head: &mut request::Parts) -> Result<(), RequestError> {
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.scheme = None;
    parts.authority = None;
    // What is left of a fragment is an empty path that says it is `/`, and is written as nothing.
    let path = parts.path_and_query.filter(|path| path.as_str() != "/");
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    // `http://host?query` has an empty path; what goes upstream must begin with a slash.
    let is_asterisk = path.as_str() == "*" && head.method == Method::OPTIONS;
    parts.path_and_query = Some(if path.as_str().starts_with('/') || is_asterisk {
        path
    } else if head.version == Version::HTTP_2 {
        // RFC 9113 section 8.3.1: by HTTP/2 it does so already.
        return Err(RequestError::Target);
    } else {
        PathAndQuery::try_from(format!("/{}", path.as_str()))
            .map_err(|_invalid| RequestError::Target)?
    });
    head.uri = Uri::from_parts(parts).map_err(|_invalid| RequestError::Target)?;
    Ok(())
}

/// Whether `text` is a host, with or without port: a name of letters, digits and `-._~`, an IPv4
/// address, or an IPv6 address in brackets.
///
/// RFC 3986 section 3.2.2 would also allow percent signs and punctuation, which no name in DNS has
/// and every attack on caches and routes tries.
pub(super) fn is_host(text: &[u8]) -> bool {
    let name = host_name(text);
    let port_is_fine = match text.get(name.len()..) {
        Some([]) => true,
        Some([b':', port @ ..]) => port.len() <= 5 && port.iter().all(u8::is_ascii_digit),
        Some(_) | None => false,
    };
    let name_is_fine = match name {
        [] => false,
        [b'[', address @ .., b']'] => std::str::from_utf8(address)
            .is_ok_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        name => name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte)),
    };
    name_is_fine && port_is_fine
}

/// What stands before the port; brackets stay.
pub(super) fn host_name(text: &[u8]) -> &[u8] {
    let end = if text.first() == Some(&b'[') {
        text.iter()
            .position(|&byte| byte == b']')
            .map_or(text.len(), |bracket| bracket.saturating_add(1))
    } else {
        text.iter()
            .position(|&byte| byte == b':')
            .unwrap_or(text.len())
    };
    text.get(..end).unwrap_or_default()
}

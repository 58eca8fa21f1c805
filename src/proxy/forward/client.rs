//! Who the client is, as far as we can believe it, and what the upstream is told about it.

use std::net::{IpAddr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::hop;
use super::target::is_host;
use crate::config::{Forwarding, Neighbours};
use crate::contract::folds_alike;
use crate::proxy::Peer;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
static CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// By which scheme the client came to the first of our own machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// By TLS.
    Https,
}

/// The client of one exchange.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address: the last one on the way to us that no trusted neighbour has. `None` when nobody
    /// says it: a unix socket has none.
    pub address: Option<IpAddr>,
    /// How it came.
    pub scheme: Scheme,
    /// The `Host` it asked for; `None` only with HTTP/1.0.
    pub host: Option<HeaderValue>,
    /// Whether the neighbour that sent the request is trusted.
    pub trusted: bool,
}

/// Whom to believe, and what to write.
pub(super) struct Rules {
    pub(super) trust: Neighbours,
    x_forwarded: bool,
    forwarded: bool,
}

impl Rules {
    pub(super) fn new(forwarding: &Forwarding) -> Self {
        Self {
            trust: forwarding.trust.clone(),
            x_forwarded: forwarding.x_forwarded,
            forwarded: forwarding.forwarded,
        }
    }

    /// Finds out who the client is that asked for `host`.
    pub(super) fn client(
        &self,
        headers: &HeaderMap,
        host: Option<HeaderValue>,
        peer: &Peer,
    ) -> Client {
        let mut client = Client {
            address: peer.remote().ip(),
            scheme: if peer.tls() {
                Scheme::Https
            } else {
                Scheme::Http
            },
            host,
            trusted: peer.remote().is_among(&self.trust),
        };
        if client.trusted {
            let hops: Vec<Hop> = if headers.contains_key(&X_FORWARDED_FOR) {
                list(headers, &X_FORWARDED_FOR).map(Hop::at).collect()
            } else {
                list(headers, &FORWARDED).map(Hop::of_element).collect()
            };
            client.address = self.walk(&hops, client.address);
            // The last member is what the neighbour itself has seen; earlier ones may be spoofed.
            let proto = list(headers, &X_FORWARDED_PROTO)
                .last()
                .and_then(parse_scheme)
                .or_else(|| hops.last().and_then(|hop| hop.scheme));
            client.scheme = proto.unwrap_or(client.scheme);
        }
        client
    }

    /// Walks from the nearest hop to the farthest, over those that we trust, to the first that we
    /// don't. One that can't be read ends the walk: what is beyond it could be anything.
    fn walk(&self, hops: &[Hop], nearest: Option<IpAddr>) -> Option<IpAddr> {
        let mut address = nearest;
        for hop in hops.iter().rev() {
            let Some(next) = hop.address else { break };
            address = Some(next);
            if !self.trust.has_address(next) {
                break;
            }
        }
        address
    }

    /// Tells the upstream about the client. What a trusted neighbour said stays and is added to;
    /// what anybody else said has been removed before.
    pub(super) fn write(&self, headers: &mut HeaderMap, client: &Client, peer: &Peer) {
        if self.x_forwarded {
            // A neighbour without an address adds nothing: there is no word for it that would be
            // understood everywhere.
            if let Some(address) = peer.address_text() {
                // Nobody else's are left.
                let chain = if client.trusted {
                    join(headers, &X_FORWARDED_FOR, address)
                } else {
                    address.clone()
                };
                headers.insert(&X_FORWARDED_FOR, chain);
            }
            let scheme = HeaderValue::from_static(client.scheme.as_str());
            headers.insert(&X_FORWARDED_PROTO, scheme);
            let is_said = |host: &HeaderValue| is_host(host.as_bytes());
            if let Some(host) = &client.host
                && !(client.trusted && headers.get(&X_FORWARDED_HOST).is_some_and(is_said))
            {
                headers.insert(&X_FORWARDED_HOST, host.clone());
            }
        }
        if self.forwarded
            && let Some(element) = forwarded_element(client, peer)
        {
            headers.append(FORWARDED, element);
        }
    }
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Fields that frameworks believe about the client, the scheme, the host or the path.
pub(super) fn is_forwarding(name: &str) -> bool {
    matches!(
        name,
        "forwarded"
            | "x-forwarded"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-prefix"
            | "x-forwarded-proto"
            | "x-forwarded-scheme"
            | "x-forwarded-server"
            | "x-forwarded-ssl"
            | "x-forwarded-uri"
            | "x-original-url"
            | "x-real-ip"
            | "x-rewrite-url"
    )
}

/// Tells the upstream which certificate the client has shown to us. What anybody else says of that
/// goes, in any spelling (RFC 9440 section 4).
pub(super) fn write_cert(headers: &mut HeaderMap, peer: &Peer) {
    let is_claim = |name: &&HeaderName| {
        folds_alike(name, &CLIENT_CERT) || folds_alike(name, &CLIENT_CERT_CHAIN)
    };
    let claims: Vec<_> = headers.keys().filter(is_claim).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    if let Some(value) = peer.client_cert() {
        headers.insert(&CLIENT_CERT, value.clone());
    }
}

/// One station on the way, as a trusted neighbour reports it.
struct Hop {
    address: Option<IpAddr>,
    scheme: Option<Scheme>,
}

impl Hop {
    /// From a member of `X-Forwarded-For`.
    fn at(text: &[u8]) -> Self {
        Self {
            address: parse_address(text),
            scheme: None,
        }
    }

    /// From an element of `Forwarded`: `for=192.0.2.1;proto=https` (RFC 7239 section 4).
    fn of_element(element: &[u8]) -> Self {
        let mut hop = Self {
            address: None,
            scheme: None,
        };
        for pair in element.split(|&byte| byte == b';') {
            let mut halves = pair.splitn(2, |&byte| byte == b'=');
            let name = halves.next().unwrap_or_default().trim_ascii();
            let value = unquote(halves.next().unwrap_or_default().trim_ascii());
            if name.eq_ignore_ascii_case(b"for") {
                hop.address = parse_address(value);
            } else if name.eq_ignore_ascii_case(b"proto") {
                hop.scheme = parse_scheme(value);
            }
        }
        hop
    }
}

/// The members of a list. A comma inside quotes ends a member too; such an element has an odd
/// quote, is not understood, and so ends the walk.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    hop::tokens(headers, name)
}

fn unquote(text: &[u8]) -> &[u8] {
    match text {
        [b'"', inner @ .., b'"'] => inner,
        text => text,
    }
}

/// An address with or without port; IPv6 with or without brackets.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let address = bare
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

fn parse_scheme(text: &[u8]) -> Option<Scheme> {
    if text.eq_ignore_ascii_case(b"https") {
        Some(Scheme::Https)
    } else if text.eq_ignore_ascii_case(b"http") {
        Some(Scheme::Http)
    } else {
        None
    }
}

/// All lines of `name` and then `last`, as one line.
fn join(headers: &HeaderMap, name: &HeaderName, last: &HeaderValue) -> HeaderValue {
    if !headers.contains_key(name) {
        return last.clone();
    }
    let mut joined = Vec::new();
    for line in headers.get_all(name) {
        joined.extend_from_slice(line.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(last.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).unwrap_or_else(|_| last.clone())
}

/// Our own element of `Forwarded`. RFC 7239 section 4: IPv6 addresses are bracketed and quoted;
/// a host is quoted because of its colon. Section 6.2: `unknown` is who has no address.
fn forwarded_element(client: &Client, peer: &Peer) -> Option<HeaderValue> {
    let address = match peer.remote().ip() {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    };
    let scheme = client.scheme.as_str();
    let host = client.host.as_ref().and_then(|host| host.to_str().ok());
    let element = match host {
        Some(host) => format!("for={address};host=\"{host}\";proto={scheme}"),
        None => format!("for={address};proto={scheme}"),
    };
    HeaderValue::try_from(element).ok()
}

//! What a proxy has to do to the heads of requests and responses, before and beside sessions.
//!
//! Heads flow in as hyper parsed them, and flow out such that the next hop can't read them in
//! another way than we did. [`Forwarder::request_head`] checks what hyper leaves to its users
//! (target, `Host`, transfer codings, expectations), removes what belongs to one hop only, and says
//! what we know about the client; [`Forwarder::response_head`] does the same for the way back.
//! Nothing here does I/O, and nothing here knows sessions: the `Cookie` and the contract's headers
//! are the handler's.
//!
//! The order matters: fields that a client lists in `Connection` are removed first and ours are
//! set last, so that nobody can have ours cut out on the way (CVE-2022-31813).

mod client;
mod hop;
mod survey;
mod target;

pub use client::{Client, Scheme};

use std::fmt;
use std::sync::Arc;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, request, response};
use http_body::Body;

use survey::{Claims, Mark, Survey};

use crate::config::Forwarding;
use crate::proxy::Peer;
use crate::proxy::body::{NameTest, Trailers};

/// Why a request is refused before anything else is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// `CONNECT`: this is no forward proxy.
    #[error("CONNECT is not offered")]
    Connect,
    /// RFC 9112 section 3.2: only origin-form, absolute-form of http and https, and `OPTIONS *`.
    #[error("the request target is not one that a gateway serves")]
    Target,
    /// RFC 9112 section 3.2: HTTP/1.1 needs exactly one.
    #[error("there is not exactly one Host")]
    HostCount,
    /// Something else than a host name or address with an optional port.
    #[error("the Host is not a host")]
    HostInvalid,
    /// RFC 9113 section 8.3.1: `:authority` is one host, and `Host` another.
    #[error("the Host is not the authority")]
    HostConflict,
    /// RFC 9112 section 6.1: the mark of request smuggling.
    #[error("both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// Anything but exactly one `chunked`.
    #[error("the Transfer-Encoding is malformed")]
    TransferEncoding,
    /// A well-formed list of transfer codings that we don't know.
    #[error("a transfer coding other than chunked")]
    TransferCoding,
    /// RFC 9110 section 10.1.1: there is no expectation but `100-continue`.
    #[error("an unknown expectation")]
    Expectation,
}

/// Why a response can't be passed on. The connection that it came by must not be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// 101 to a request that asked for no upgrade, or to another protocol than it asked for.
    #[error("the upstream switched protocols unasked")]
    UnaskedUpgrade,
    /// Success without a change of protocol, where the client would take it for one (RFC 8441).
    #[error("the upstream did not switch protocols, and answered with success")]
    NoUpgrade,
    /// More than one length, or one that is no number.
    #[error("the response's Content-Length is malformed or repeated")]
    ContentLength,
    /// RFC 9112 section 6.1, on the way back.
    #[error("the response has both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// A transfer coding other than exactly one `chunked`.
    #[error("the response has a transfer coding other than chunked")]
    TransferEncoding,
}

/// How a request's body is framed, as hyper decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// That many bytes.
    Length(u64),
    /// Unknown until it ends.
    Chunked,
}

impl Framing {
    /// How this body is framed.
    pub fn of(body: &impl Body) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        body.size_hint().exact().map_or(Self::Chunked, Self::Length)
    }
}

/// What a request head said that the proxy needs and the upstream does not get as it stood.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Who the client is.
    pub client: Client,
    /// Whether the request asks for a websocket, so that 101 is a fitting answer.
    pub upgrade: bool,
    /// Whether it asks by an extended CONNECT of HTTP/2 (RFC 8441). Its head has become that of a GET
    /// by then, which still needs a key.
    pub extended: bool,
    /// The trailer fields that may go upstream.
    pub trailers: Trailers,
}

/// What a response head said that the client does not get as it stood.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// The trailer fields that may go downstream.
    pub trailers: Trailers,
}

/// Rewrites heads, by rules that hold for all exchanges.
pub struct Forwarder {
    rules: client::Rules,
    via: Option<Via>,
    /// Whether nobody but us tells applications of clients' certificates.
    client_cert: bool,
    /// Whether a field may stand in a trailer section.
    may_trail: NameTest,
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").finish_non_exhaustive()
    }
}

/// Our `Via` element for each version that a message can come by (RFC 9110 section 7.6.3).
struct Via {
    v1_0: HeaderValue,
    v1_1: HeaderValue,
    v2_0: HeaderValue,
}

impl Forwarder {
    /// Takes the configured rules. `reserved` says which names are the header contract's; those
    /// never pass as trailers.
    pub fn new(
        forwarding: &Forwarding,
        reserved: impl Fn(&HeaderName) -> bool + Send + Sync + 'static,
    ) -> Self {
        let via = forwarding.via.as_deref().and_then(|pseudonym| {
            Some(Via {
                v1_0: HeaderValue::try_from(format!("1.0 {pseudonym}")).ok()?,
                v1_1: HeaderValue::try_from(format!("1.1 {pseudonym}")).ok()?,
                v2_0: HeaderValue::try_from(format!("2.0 {pseudonym}")).ok()?,
            })
        });
        Self {
            rules: client::Rules::new(forwarding),
            via,
            client_cert: forwarding.client_cert,
            may_trail: Arc::new(move |name| hop::may_trail(name.as_str()) && !reserved(name)),
        }
    }

    /// Whether this neighbour is believed about clients and request ids.
    pub fn trusts(&self, peer: &Peer) -> bool {
        peer.remote().is_among(&self.rules.trust)
    }

    /// Checks a request head and makes it one that can go upstream: origin-form, one hop's fields
    /// removed, framing written anew, forwarding headers set. `Host` may be absent afterwards, for
    /// HTTP/1.0 only; the upstream's own name stands in for it then.
    ///
    /// # Errors
    ///
    /// The client's fault; see [`RequestError`]. The head is half rewritten and must not be used.
    pub fn request_head(
        &self,
        head: &mut request::Parts,
        framing: Framing,
        peer: &Peer,
    ) -> Result<Inbound, RequestError> {
        let extended = target::is_extended_connect(head);
        if extended {
            head.method = Method::GET;
        }
        let host = target::rewrite(head)?;
        if head.version == Version::HTTP_2 {
            join_crumbs(&mut head.headers);
        }
        let client = self.rules.client(&head.headers, host, peer);
        let claims = if client.trusted {
            Claims::Believed
        } else {
            Claims::Refused
        };
        let survey = Survey::of(&head.headers, claims);
        if survey.has(Mark::TransferEncoding) {
            check_transfer_encoding(&head.headers)?;
        }
        if survey.has(Mark::Expect) {
            take_expectation(&mut head.headers)?;
        }
        let connection = if survey.has(Mark::Connection) {
            hop::Connection::of(&head.headers)
        } else {
            hop::Connection::default()
        };
        let upgrade = extended
            || framing == Framing::Empty
                && head.method == Method::GET
                && head.version == Version::HTTP_11
                && connection.upgrade
                && hop::is_websocket(&head.headers);
        let declared = match framing {
            Framing::Chunked => self.trailers(&head.headers),
            Framing::Empty | Framing::Length(_) => Vec::new(),
        };
        let wants_trailers = survey.has(Mark::Te) && hop::wants_trailers(&head.headers);

        for name in connection.nominated.iter().chain(&survey.doomed) {
            head.headers.remove(name);
        }

        if framing != Framing::Empty || survey.has(Mark::ContentLength) {
            write_framing(&mut head.headers, framing);
        }
        write_trailers(&mut head.headers, &declared);
        let trailers = self.passing(declared, head.version);
        if wants_trailers {
            head.headers.insert(TE, hop::TRAILERS);
            head.headers.append(CONNECTION, hop::TE_OPTION);
        }
        if upgrade {
            head.headers.append(CONNECTION, hop::UPGRADE_OPTION);
            head.headers.insert(UPGRADE, hop::WEBSOCKET);
        }
        self.rules.write(&mut head.headers, &client, peer);
        if self.client_cert {
            client::write_cert(&mut head.headers, peer);
        }
        self.write_via(&mut head.headers, head.version);
        // The version is the hop's, too (RFC 9110 section 2.5), and only 1.1 can be chunked.
        head.version = Version::HTTP_11;
        Ok(Inbound {
            client,
            upgrade,
            extended,
            trailers,
        })
    }

    /// Checks a response head and makes it one that can go downstream. `method` is the request's,
    /// `upgrade` what [`Inbound`] said of it.
    ///
    /// # Errors
    ///
    /// The upstream's fault; see [`ResponseError`].
    pub fn response_head(
        &self,
        head: &mut response::Parts,
        method: &Method,
        upgrade: bool,
    ) -> Result<Outbound, ResponseError> {
        let survey = Survey::of(&head.headers, Claims::Pass);
        let connection = if survey.has(Mark::Connection) {
            hop::Connection::of(&head.headers)
        } else {
            hop::Connection::default()
        };
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !(upgrade && connection.upgrade && hop::is_websocket(&head.headers)) {
            return Err(ResponseError::UnaskedUpgrade);
        }
        let has_body = !switches
            && method != Method::HEAD
            && head.status != StatusCode::NO_CONTENT
            && head.status != StatusCode::NOT_MODIFIED;
        check_response_framing(&head.headers, &survey, has_body)?;
        let by_http2 = head.version == Version::HTTP_2;
        let declared = if has_body && (by_http2 || survey.has(Mark::TransferEncoding)) {
            self.trailers(&head.headers)
        } else {
            Vec::new()
        };

        for name in connection.nominated.iter().chain(&survey.doomed) {
            head.headers.remove(name);
        }
        write_trailers(&mut head.headers, &declared);
        if by_http2 && has_body && hop::is_grpc(&head.headers) {
            // By HTTP/1.1 nothing trails that is not declared.
            write_trailers(&mut head.headers, &hop::GRPC_TRAILERS);
        }
        let trailers = self.passing(declared, head.version);
        if switches {
            head.headers.remove(CONTENT_LENGTH);
            head.headers.insert(CONNECTION, hop::UPGRADE_OPTION);
            head.headers.insert(UPGRADE, hop::WEBSOCKET);
        }
        self.write_via(&mut head.headers, head.version);
        head.version = Version::HTTP_11;
        Ok(Outbound { trailers })
    }

    /// Makes the fields of an interim response, which came by this version, such that they can go
    /// downstream. It frames nothing (RFC 9110 section 8.6).
    pub fn interim_head(&self, headers: &mut HeaderMap, version: Version) {
        let survey = Survey::of(headers, Claims::Pass);
        let connection = hop::Connection::of(headers);
        for name in connection.nominated.iter().chain(&survey.doomed) {
            headers.remove(name);
        }
        headers.remove(CONTENT_LENGTH);
        self.write_via(headers, version);
    }

    /// The declared trailer fields that may pass.
    fn trailers(&self, headers: &HeaderMap) -> Vec<HeaderName> {
        hop::tokens(headers, &TRAILER)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| (self.may_trail)(name))
            .collect()
    }

    /// Which trailers pass of a message that came by this version.
    fn passing(&self, declared: Vec<HeaderName>, version: Version) -> Trailers {
        if version == Version::HTTP_2 {
            Trailers::All(Arc::clone(&self.may_trail))
        } else {
            Trailers::Declared(declared)
        }
    }

    fn write_via(&self, headers: &mut HeaderMap, version: Version) {
        if let Some(via) = &self.via {
            let element = match version {
                Version::HTTP_10 => &via.v1_0,
                Version::HTTP_2 => &via.v2_0,
                _ => &via.v1_1,
            };
            headers.append(VIA, element.clone());
        }
    }
}

/// Makes one line of the `Cookie` fields of a request of HTTP/2, which may have one for each cookie
/// (RFC 9113 section 8.2.3). An application behind HTTP/1.1 may read one line only.
fn join_crumbs(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    // What header values are joined by can stand in one.
    if let Ok(mut joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        joined.set_sensitive(true);
        headers.insert(COOKIE, joined);
    }
}

/// Lets through what can be read in one way only. hyper has already chosen the framing; this is
/// about what another server might have chosen.
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), RequestError> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(line) = lines.next() else {
        return Ok(());
    };
    // hyper has dropped the length by now (since 1.11), and ends the connection.
    if headers.contains_key(CONTENT_LENGTH) {
        return Err(RequestError::TwoLengths);
    }
    if lines.next().is_some() {
        return Err(RequestError::TransferEncoding);
    }
    if hop::is_chunked(line) {
        return Ok(());
    }
    let codings = || line.as_bytes().split(|&byte| byte == b',');
    let known_shape = codings().all(|coding| hop::is_token(coding.trim_ascii()))
        && codings()
            .filter(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked"))
            .count()
            == 1;
    Err(if known_shape {
        RequestError::TransferCoding
    } else {
        RequestError::TransferEncoding
    })
}

/// Removes `Expect`. hyper answers `100-continue` by itself when the body is first wanted, so that
/// the upstream's own 100 is never waited for.
fn take_expectation(headers: &mut HeaderMap) -> Result<(), RequestError> {
    let known = headers
        .get_all(EXPECT)
        .iter()
        .all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if !known {
        return Err(RequestError::Expectation);
    }
    headers.remove(EXPECT);
    Ok(())
}

fn check_response_framing(
    headers: &HeaderMap,
    survey: &Survey,
    has_body: bool,
) -> Result<(), ResponseError> {
    let has_length = survey.has(Mark::ContentLength);
    if has_length {
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        let digits = lengths.next().map(HeaderValue::as_bytes);
        // hyper takes `5, 5` for 5 and would pass the text on; others take it for something else.
        let plain = digits.is_some_and(|it| !it.is_empty() && it.iter().all(u8::is_ascii_digit));
        if !plain || lengths.next().is_some() {
            return Err(ResponseError::ContentLength);
        }
    }
    if !survey.has(Mark::TransferEncoding) {
        return Ok(());
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match codings.next() {
        Some(_) if !has_body => Ok(()),
        Some(_) if has_length => Err(ResponseError::TwoLengths),
        Some(coding) if !hop::is_chunked(coding) || codings.next().is_some() => {
            Err(ResponseError::TransferEncoding)
        }
        Some(_) | None => Ok(()),
    }
}

/// Writes the framing that hyper decided on, in our words, whatever the client's were.
fn write_framing(headers: &mut HeaderMap, framing: Framing) {
    match framing {
        Framing::Empty => {
            // `0` tells servers that want a length with POST; hyper has no other empty framing.
            if let Some(length) = headers.get_mut(CONTENT_LENGTH) {
                *length = HeaderValue::from_static("0");
            }
        }
        Framing::Length(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Framing::Chunked => {
            headers.remove(CONTENT_LENGTH);
            // hyper's client would send a GET without its body if we did not say this.
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

fn write_trailers(headers: &mut HeaderMap, trailers: &[HeaderName]) {
    for name in trailers {
        headers.append(TRAILER, HeaderValue::from(name.clone()));
    }
}

/// The host that a `Host` value names, without the port.
pub fn host_name(host: &HeaderValue) -> &[u8] {
    target::host_name(host.as_bytes())
}

/// Sets `Host` to `authority` where the request has none (HTTP/1.0).
pub fn ensure_host(headers: &mut HeaderMap, authority: &HeaderValue) {
    if !headers.contains_key(HOST) {
        headers.insert(HOST, authority.clone());
    }
}

#[cfg(test)]
mod tests;

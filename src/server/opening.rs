//! The beginning of a client connection: who it is, whether there is room for it, and what it
//! speaks.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode};
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::connection::Shared;
use super::crowd::Member;
use super::proxy_protocol::{self, Parsed, Source};
use super::sockets::Door;
use super::transport::{Transport, Wire};
use crate::config::Neighbours;
use crate::proxy::Remote;

/// What a connection of HTTP/2 begins with (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a record of a TLS handshake begins with (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 0x16;
/// The name of HTTP/2 in ALPN (RFC 9113 section 3.1).
const H2: &[u8] = b"h2";

/// A connection that was accepted, and what came with it.
pub(super) struct Accepted {
    pub(super) wire: Wire,
    pub(super) remote: Remote,
    pub(super) door: Arc<Door>,
    pub(super) at: Instant,
}

/// A connection of which it is known what is spoken.
pub(super) struct Opened {
    pub(super) transport: Transport,
    pub(super) protocol: Protocol,
    pub(super) remote: Remote,
    pub(super) tls: bool,
    /// The certificate that the client has shown, where applications are told of it.
    pub(super) client_cert: Option<HeaderValue>,
    /// Its place among those from its address.
    pub(super) member: Option<Member>,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Why a connection comes to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unopened {
    /// Too much time, or the client went away.
    #[error("it did not begin")]
    Silent(#[source] io::Error),
    #[error("there are as many connections from its address as allowed")]
    Crowded,
    #[error(transparent)]
    Header(#[from] proxy_protocol::Invalid),
    #[error("it speaks HTTP without TLS")]
    Plain,
    #[error("it speaks no TLS")]
    NoTls,
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
}

/// Finds out who a connection is from and what is spoken on it.
pub(super) async fn open<H>(
    accepted: Accepted,
    shared: &Shared<H>,
) -> Result<Opened, (Remote, Unopened)> {
    let Accepted {
        mut wire,
        mut remote,
        door,
        at,
    } = accepted;
    let sender = remote;
    let deadline = at + shared.opening.handshake;
    let neighbours = &door.listener.proxy_protocol;
    if remote.is_among(neighbours) {
        let introduced = in_time(deadline, Box::pin(introduce(&mut wire, remote))).await;
        remote = introduced.map_err(|error| (sender, error))?;
    }
    let opened = async {
        let member = admit(remote, shared)?;
        if let Some(certificates) = &door.certificates {
            // Boxed, so that connections without have no room for it.
            let encrypted = Box::pin(encrypt(wire, certificates.current()));
            let (transport, protocol) = in_time(deadline, encrypted).await?;
            return Ok((transport, protocol, true, member));
        }
        let protocol = if door.listener.http2 {
            let deadline = at + shared.opening.head;
            in_time(deadline, prior_knowledge(&mut wire)).await?
        } else {
            Protocol::Http1
        };
        Ok((Transport::Plain(wire), protocol, false, member))
    };
    let (transport, protocol, tls, member) =
        opened.await.map_err(|error: Unopened| (remote, error))?;
    let settings = door.listener.tls.as_ref();
    let tells = settings.is_some_and(|settings| settings.client_cert_header);
    Ok(Opened {
        protocol,
        remote,
        tls,
        client_cert: tells.then(|| client_cert(&transport)).flatten(),
        transport,
        member,
    })
}

async fn in_time<T>(
    deadline: Instant,
    step: impl Future<Output = Result<T, Unopened>>,
) -> Result<T, Unopened> {
    match timeout_at(deadline, step).await {
        Ok(outcome) => outcome,
        Err(elapsed) => Err(Unopened::Silent(elapsed.into())),
    }
}

/// Takes a place for the connection among those from its address. Load balancers, which are
/// trusted, and unix sockets carry many clients.
fn admit<H>(remote: Remote, shared: &Shared<H>) -> Result<Option<Member>, Unopened> {
    let is_one_client = |ip: &IpAddr| !shared.opening.trust.has_address(*ip);
    match remote.ip().filter(is_one_client) {
        None => Ok(None),
        Some(ip) => match shared.crowd.join(ip) {
            Some(member) => Ok(Some(member)),
            None => Err(Unopened::Crowded),
        },
    }
}

/// Reads the header by which a load balancer says who the client is.
async fn introduce(wire: &mut Wire, sender: Remote) -> Result<Remote, Unopened> {
    loop {
        match proxy_protocol::parse(wire.early()) {
            Ok(Parsed::Incomplete) => wire.read_early().await.map_err(Unopened::Silent)?,
            Ok(Parsed::Header { length, source }) => {
                wire.skip(length);
                return Ok(match source {
                    Source::Address(address) => Remote::Address(address),
                    Source::Sender => sender,
                    Source::Unknown => Remote::Unknown,
                });
            }
            Err(error) => {
                // A mistake in one of the two configurations, which nobody would find at `debug`.
                warn!(neighbour = %sender, "a neighbour's connection was closed: {error}");
                return Err(error.into());
            }
        }
    }
}

/// Does the TLS handshake. Somebody who speaks plain HTTP is told so.
async fn encrypt(
    mut wire: Wire,
    config: Arc<ServerConfig>,
) -> Result<(Transport, Protocol), Unopened> {
    if wire.early().is_empty() {
        wire.read_early().await.map_err(Unopened::Silent)?;
    }
    match wire.early().first() {
        Some(&HANDSHAKE) => {}
        Some(byte) if byte.is_ascii_uppercase() => {
            refuse_plain(&mut wire).await;
            return Err(Unopened::Plain);
        }
        Some(_) | None => return Err(Unopened::NoTls),
    }
    let accepting = TlsAcceptor::from(config).accept(wire);
    let stream = accepting.await.map_err(Unopened::Handshake)?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
    let protocol = if is_http2 {
        Protocol::Http2
    } else {
        Protocol::Http1
    };
    Ok((Transport::Tls(Box::new(stream)), protocol))
}

/// The certificate that a client has shown, as a byte sequence (RFC 9440 section 2.1, RFC 9651 section
/// 3.3.5).
fn client_cert(transport: &Transport) -> Option<HeaderValue> {
    let Transport::Tls(stream) = transport else {
        return None;
    };
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    // Base64 is visible ASCII.
    HeaderValue::try_from(format!(":{}:", STANDARD.encode(leaf))).ok()
}

async fn refuse_plain(wire: &mut Wire) {
    let text = "This port speaks HTTPS.\n";
    let answer = format!(
        "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{text}",
        StatusCode::BAD_REQUEST,
        text.len()
    );
    if let Err(error) = wire.write_all(answer.as_bytes()).await {
        debug!(%error, "a client left before it was told that TLS is spoken here");
    }
}

/// Looks whether the client begins as one that knows that HTTP/2 is spoken here (RFC 9113
/// section 3.3). No request of HTTP/1 begins so.
async fn prior_knowledge(wire: &mut Wire) -> Result<Protocol, Unopened> {
    loop {
        let early = wire.early();
        let common = early.len().min(PREFACE.len());
        if early.get(..common) != PREFACE.get(..common) {
            return Ok(Protocol::Http1);
        }
        if common == PREFACE.len() {
            return Ok(Protocol::Http2);
        }
        wire.read_early().await.map_err(Unopened::Silent)?;
    }
}

/// What the beginning of connections is measured by.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// For the header of the PROXY protocol and the TLS handshake together.
    pub(super) handshake: std::time::Duration,
    /// For the first head.
    pub(super) head: std::time::Duration,
    /// Neighbours that carry more than one client.
    pub(super) trust: Neighbours,
}

//! Opening connections to one server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use super::UpstreamError;
use super::names::Name;
use super::tls::{self, Tls, TlsError};
use crate::config::{Address, Scheme, Server, Upstream};

/// How one server is reached. All workers share it.
pub(super) struct Dialer {
    target: Target,
    scheme: Scheme,
    tls: Option<Tls>,
    /// Which of the name's addresses is next.
    turn: AtomicUsize,
}

enum Target {
    Literal(SocketAddr),
    Name(Arc<Name>, u16),
    Unix(PathBuf),
}

/// An open connection.
pub(super) struct Dialed {
    pub(super) stream: Stream,
    /// The address, where it is one of a name's.
    pub(super) address: Option<IpAddr>,
    /// Whether HTTP/2 is spoken there.
    pub(super) http2: bool,
}

/// What requests go by.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Dialer {
    /// For a server of this upstream.
    pub(super) fn new(upstream: &Upstream, server: &Server) -> Result<Self, TlsError> {
        let (target, host) = match &server.address {
            Address::Unix(path) => (Target::Unix(path.clone()), "localhost"),
            Address::Tcp { host, port } => {
                let target = match host.parse() {
                    Ok(address) => Target::Literal(SocketAddr::new(address, *port)),
                    Err(_) => Target::Name(Name::new(host), *port),
                };
                (target, host.as_str())
            }
        };
        let tls = match server.scheme {
            Scheme::Https => Some(Tls::new(&upstream.tls, upstream.http2, host)?),
            Scheme::Http | Scheme::H2c => None,
        };
        Ok(Self {
            target,
            scheme: server.scheme,
            tls,
            turn: AtomicUsize::new(0),
        })
    }

    /// The name that must be kept fresh.
    pub(super) fn name(&self) -> Option<&Arc<Name>> {
        match &self.target {
            Target::Name(name, _) => Some(name),
            Target::Literal(_) | Target::Unix(_) => None,
        }
    }

    /// Whether the server's name still leads to where a connection goes.
    pub(super) fn leads_to(&self, address: Option<IpAddr>) -> bool {
        match (address, self.name()) {
            (Some(address), Some(name)) => name.leads_to(address),
            (Some(_), None) | (None, _) => true,
        }
    }

    /// Opens a connection within `limit`, TLS included. `only_http1` offers nothing else by TLS.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Connect`], [`UpstreamError::ConnectTimeout`] and [`UpstreamError::Tls`].
    pub(super) async fn dial(
        &self,
        limit: Duration,
        only_http1: bool,
    ) -> Result<Dialed, UpstreamError> {
        let deadline = Instant::now() + limit;
        let (stream, address) = match &self.target {
            Target::Literal(address) => (connect(*address, deadline).await?, None),
            Target::Name(name, port) => {
                let (stream, address) = self.connect_name(name, *port, deadline).await?;
                (stream, Some(address))
            }
            Target::Unix(path) => {
                let stream = in_time(deadline, UnixStream::connect(path)).await?;
                return Ok(Dialed {
                    stream: Stream::Unix(stream),
                    address: None,
                    http2: self.scheme == Scheme::H2c,
                });
            }
        };
        stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
        let Some(tls) = &self.tls else {
            return Ok(Dialed {
                stream: Stream::Tcp(stream),
                address,
                http2: self.scheme == Scheme::H2c,
            });
        };
        let stream = match timeout_at(deadline, tls.connect(stream, only_http1)).await {
            Ok(encrypted) => encrypted.map_err(UpstreamError::Tls)?,
            Err(_elapsed) => return Err(UpstreamError::ConnectTimeout),
        };
        Ok(Dialed {
            http2: tls::is_http2(&stream),
            stream: Stream::Tls(Box::new(stream)),
            address,
        })
    }

    /// Tries the addresses of a name, beginning with another one each time.
    async fn connect_name(
        &self,
        name: &Name,
        port: u16,
        deadline: Instant,
    ) -> Result<(TcpStream, IpAddr), UpstreamError> {
        let found = in_time(deadline, name.addresses()).await;
        let addresses = found.inspect_err(|_| name.doubt())?;
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failure = UpstreamError::ConnectTimeout;
        for tried in 0..addresses.len() {
            let index = first.wrapping_add(tried).checked_rem(addresses.len());
            let Some(address) = index.and_then(|index| addresses.get(index)) else {
                break;
            };
            let left = addresses.len().saturating_sub(tried);
            let until = part_of(deadline, Instant::now(), left);
            match connect(SocketAddr::new(*address, port), until).await {
                Ok(stream) => return Ok((stream, *address)),
                Err(error) => failure = error,
            }
        }
        name.doubt();
        Err(failure)
    }
}

async fn connect(address: SocketAddr, deadline: Instant) -> Result<TcpStream, UpstreamError> {
    in_time(deadline, TcpStream::connect(address)).await
}

async fn in_time<T>(
    deadline: Instant,
    connecting: impl Future<Output = io::Result<T>>,
) -> Result<T, UpstreamError> {
    match timeout_at(deadline, connecting).await {
        Ok(connected) => connected.map_err(UpstreamError::Connect),
        Err(_elapsed) => Err(UpstreamError::ConnectTimeout),
    }
}

/// Until when one of `left` addresses may take: one that swallows everything must leave time for the
/// others.
fn part_of(deadline: Instant, now: Instant, left: usize) -> Instant {
    let left = u32::try_from(left.max(1)).unwrap_or(u32::MAX);
    now + deadline.saturating_duration_since(now) / left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_part_of_the_time() {
        let now = Instant::now();
        let deadline = now + Duration::from_secs(6);
        let part = |left| part_of(deadline, now, left).duration_since(now).as_secs();
        assert_eq!((part(3), part(2), part(1), part(0)), (2, 3, 6, 6));
        assert_eq!(part_of(now, deadline, 2), deadline, "no time is left");
    }
}

//! Requests in, responses out: what stands between the server and the upstream.
//!
//! [`forward`] rewrites heads, [`upstream`] keeps the connections to the applications and sends
//! requests by them, [`interim`] passes on what comes before their answers, [`tunnel`] joins the two
//! sides of an upgraded connection, [`gather`] writes what is small in one piece, [`body`] streams bodies
//! and tells when they have ended, and [`rescue`] turns every failure into an answer.
//! The server calls a [`Handler`] with each request; how heads are read and how connections are
//! accepted is not known here.

mod additions;
mod cache_guard;
mod claim;
mod line;
mod websocket;

pub mod body;
pub mod forward;
pub mod gather;
pub mod handler;
pub mod intake;
pub mod interim;
pub mod rescue;
pub mod route;
pub mod sessions;
pub mod tasks;
pub mod tunnel;
pub mod upstream;

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

pub use body::Body;

use crate::config::Neighbours;

/// Who is at the other end of a client connection: a browser, or a proxy before us.
#[derive(Debug)]
pub struct Peer {
    remote: Remote,
    tls: bool,
    address_text: Option<HeaderValue>,
    /// The place that its connection takes among those that are allowed. It is free again when
    /// nobody holds the peer any more, which after an upgrade is when the tunnel has ended.
    place: Option<Box<dyn Any + Send + Sync>>,
    interims: Option<Arc<interim::Interims>>,
    client_cert: Option<HeaderValue>,
}

/// Where a client connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// An address and a port.
    Address(SocketAddr),
    /// A unix socket of ours.
    Unix,
    /// Only a proxy before us knows, and it did not say.
    Unknown,
}

impl Remote {
    /// The address, IPv4 as such even on a socket for both. `None` where there is none.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip().to_canonical()),
            Self::Unix | Self::Unknown => None,
        }
    }

    /// Whether it is one of these.
    pub fn is_among(self, neighbours: &Neighbours) -> bool {
        match self {
            Self::Address(address) => neighbours.has_address(address.ip()),
            Self::Unix => neighbours.has_unix(),
            Self::Unknown => false,
        }
    }
}

/// For logs.
impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl Peer {
    /// A neighbour who came from there, by TLS or not.
    pub fn new(remote: Remote, tls: bool) -> Self {
        // Addresses are visible ASCII.
        let text = remote
            .ip()
            .and_then(|ip| HeaderValue::try_from(ip.to_string()).ok());
        Self {
            remote,
            tls,
            address_text: text,
            place: None,
            interims: None,
            client_cert: None,
        }
    }

    /// The same, holding its place among the connections that are allowed.
    #[must_use]
    pub fn with_place(mut self, place: Box<dyn Any + Send + Sync>) -> Self {
        self.place = Some(place);
        self
    }

    /// The same, whose connection writes interim responses that are left there.
    #[must_use]
    pub fn with_interims(mut self, interims: Arc<interim::Interims>) -> Self {
        self.interims = Some(interims);
        self
    }

    /// Where interim responses are left; `None` where they are not passed on.
    pub fn interims(&self) -> Option<&interim::Interims> {
        self.interims.as_deref()
    }

    /// The same, with the value of `Client-Cert` that its requests get.
    #[must_use]
    pub fn with_client_cert(mut self, value: Option<HeaderValue>) -> Self {
        self.client_cert = value;
        self
    }

    /// The certificate that it has shown, where applications are told of it (RFC 9440 section 2.2).
    pub fn client_cert(&self) -> Option<&HeaderValue> {
        self.client_cert.as_ref()
    }

    /// Where it came from.
    pub fn remote(&self) -> Remote {
        self.remote
    }

    /// Whether the connection to us is encrypted.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// The address as a header value, made once per connection; `None` where there is none.
    pub fn address_text(&self) -> Option<&HeaderValue> {
        self.address_text.as_ref()
    }
}

/// What a worker's handler is made from, besides the configuration.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Which worker it is, counted from 0.
    pub index: usize,
    /// Tasks that are spawned here are waited for when the worker is to stop.
    pub tasks: tasks::Tasks,
}

/// What the server does with each request. One handler serves all connections of a worker.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Failures are answers, too.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the client goes away. What must happen in any case has to be
    /// spawned.
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: &Arc<Peer>,
    ) -> impl Future<Output = Response<Body>> + Send;

    /// Answers a request of HTTP/2 whose head has more fields than allowed.
    fn refuse(&self, _request: Request<Incoming>, _peer: &Arc<Peer>) -> Response<Body> {
        too_many_fields()
    }
}

/// As hyper answers it with HTTP/1.
fn too_many_fields() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    response
}

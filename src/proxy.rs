//! Requests in, responses out: what stands between the server and the upstream.
//!
//! [`forward`] rewrites heads, [`upstream`] keeps the connections to the applications and sends
//! requests by them, [`tunnel`] joins the two sides of an upgraded connection, [`body`] streams
//! bodies and tells when they have ended, and [`rescue`] turns every failure into an answer.
//! The server calls a [`Handler`] with each request; how heads are read and how connections are
//! accepted is not known here.

mod cache_guard;
mod claim;
mod line;

pub mod body;
pub mod forward;
pub mod handler;
pub mod rescue;
pub mod route;
pub mod sessions;
pub mod tasks;
pub mod tunnel;
pub mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

pub use body::Body;

/// Who is at the other end of a client connection: a browser, or a proxy before us.
#[derive(Debug)]
pub struct Peer {
    addr: SocketAddr,
    tls: bool,
    address_text: HeaderValue,
    /// The place that its connection takes among those that are allowed. It is free again when
    /// nobody holds the peer any more, which after an upgrade is when the tunnel has ended.
    place: Option<OwnedSemaphorePermit>,
}

impl Peer {
    /// A neighbour at `addr`, who came by TLS or not.
    pub fn new(addr: SocketAddr, tls: bool) -> Self {
        let text = addr.ip().to_canonical().to_string();
        // Addresses are visible ASCII.
        let address_text = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("-"));
        Self {
            addr,
            tls,
            address_text,
            place: None,
        }
    }

    /// The same, holding its place among the connections that are allowed.
    #[must_use]
    pub fn with_place(mut self, place: OwnedSemaphorePermit) -> Self {
        self.place = Some(place);
        self
    }

    /// Address and port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether the connection to us is encrypted.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// The address as a header value, made once per connection.
    pub fn address_text(&self) -> &HeaderValue {
        &self.address_text
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
}

//! Requests to applications, and the connections they go by.
//!
//! A route has a [`Group`] of servers, which chooses one for each request (`balance`), by what is
//! known about their health (`health`), and sends the request by its connections to that server
//! (`pool`): HTTP/1.1 connections that the exchange drives itself (`link`), or HTTP/2 connections that
//! many exchanges share (`mux`), for a limited time (`timer`). Groups and connections belong to one worker; what is known about
//! servers is shared by all ([`Upstreams`]): how they are reached (`dial`, `tls`), where their names
//! lead (`names`), and whether they say that they are well (`probe`).
//!
//! A request is sent a second time only when not a byte of it was written the first time, by a fresh
//! connection or to another server of the group (within a `budget`); everything else may have happened
//! already, and the application alone knows.
//!
//! Interim responses do not prolong the wait for the final one. Those that come by HTTP/1.1 can be
//! passed on ([`interim`](super::interim)); of those that come by HTTP/2, hyper does not tell.

mod balance;
mod budget;
mod dial;
mod group;
mod health;
mod http2;
mod link;
mod mux;
mod names;
mod pool;
mod probe;
mod server;
pub(in crate::proxy) mod timer;
mod tls;

use std::io;
use std::time::Duration;

use tokio::time::Instant;

pub use group::{Directory, Group, Upstreams, UpstreamsError};
pub use pool::Lease;
pub use tls::TlsError;

use crate::proxy::body::Progress;

/// How long the head of a response is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Since when. It begins anew with every part of the request's body that passes.
    pub since: Instant,
    /// How long.
    pub limit: Duration,
    /// When it is over whatever moves.
    pub until: Option<Instant>,
}

impl Patience {
    /// As much again, from now on.
    fn anew(self) -> Self {
        Self {
            since: Instant::now(),
            ..self
        }
    }
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection could be opened; the request was not sent.
    #[error("the upstream can't be reached")]
    Connect(#[source] io::Error),
    /// Opening a connection took too long; the request was not sent.
    #[error("the upstream did not accept a connection in time")]
    ConnectTimeout,
    /// The server can't be trusted, or does not trust us; the request was not sent.
    #[error("no TLS with the upstream")]
    Tls(#[source] io::Error),
    /// A WebSocket was asked for, and the server speaks HTTP/2 only and takes none by that (RFC
    /// 8441); the request was not sent.
    #[error("the upstream takes no WebSockets by HTTP/2")]
    NoWebSocket,
    /// As many exchanges as allowed were running all the time; the request was not sent.
    #[error("all connections to the upstream are in use")]
    Busy,
    /// All servers are out, and the group does not try them all the same; the request was not sent.
    #[error("no server of the upstream is available")]
    Unavailable,
    /// The whole request was sent, or the upstream did not take it, and no response came.
    #[error("the upstream did not answer in time")]
    ResponseTimeout,
    /// The upstream waits for a body that the client does not send.
    #[error("the client stopped sending its request")]
    RequestStalled,
    /// The client's connection broke in the middle of the request body.
    #[error("the client broke off its request")]
    RequestBroken(#[source] hyper::Error),
    /// The connection ended, or brought something that is no response. The request may have been
    /// acted upon.
    #[error("the upstream broke off, or sent no proper response")]
    Broken(#[source] hyper::Error),
}

impl UpstreamError {
    fn of(error: hyper::Error, body: Option<&Progress>) -> Self {
        // The only thing of ours that can fail within HTTP/1.1 is the request body; in HTTP/2 its
        // failure looks like one of the stream.
        if error.is_user() || body.is_some_and(Progress::is_broken) {
            Self::RequestBroken(error)
        } else {
            Self::Broken(error)
        }
    }

    /// Whether it tells that something is wrong with the server.
    fn is_servers_fault(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::ConnectTimeout
            | Self::Tls(_)
            | Self::ResponseTimeout
            | Self::Broken(_) => true,
            Self::Busy
            | Self::NoWebSocket
            | Self::Unavailable
            | Self::RequestStalled
            | Self::RequestBroken(_) => false,
        }
    }
}

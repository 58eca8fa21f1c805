//! Requests to applications, and the connections they go by.
//!
//! A route has a [`Group`] of servers, which chooses one for each request (`balance`), by what is
//! known about their health (`health`), and sends the request by its connections to that server
//! (`pool`, `link`). Groups and connections belong to one worker; what is known about servers is
//! shared by all ([`Upstreams`]).
//!
//! A request is sent a second time only when not a byte of it was written the first time, by a fresh
//! connection or to another server of the group (within a `budget`); everything else may have happened
//! already, and the application alone knows.
//!
//! Interim responses end here: 100 answers an `Expect` that we never forward, and hyper's server
//! has no way to send 103 on. They do not prolong the wait for the final response.

mod balance;
mod budget;
mod group;
mod health;
mod link;
mod pool;
mod server;

use std::io;

pub use group::{Group, Upstreams};
pub use pool::Lease;

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection could be opened; the request was not sent.
    #[error("the upstream can't be reached")]
    Connect(#[source] io::Error),
    /// Opening a connection took too long; the request was not sent.
    #[error("the upstream did not accept a connection in time")]
    ConnectTimeout,
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
    fn of(error: hyper::Error) -> Self {
        // The only thing of ours that can fail within hyper is the request body.
        if error.is_user() {
            Self::RequestBroken(error)
        } else {
            Self::Broken(error)
        }
    }

    /// Whether it tells that something is wrong with the server.
    fn is_servers_fault(&self) -> bool {
        match self {
            Self::Connect(_) | Self::ConnectTimeout | Self::ResponseTimeout | Self::Broken(_) => {
                true
            }
            Self::Busy | Self::Unavailable | Self::RequestStalled | Self::RequestBroken(_) => false,
        }
    }
}

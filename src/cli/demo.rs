//! `pycket demo`: runs the proxy in front of a small application.

use std::error::Error;
use std::net::SocketAddr;

/// Runs the demonstration until it is told to stop.
pub(super) fn demo(_listen: SocketAddr) -> Result<(), Box<dyn Error + Send + Sync>> {
    Err("the demonstration is not part of this build".into())
}

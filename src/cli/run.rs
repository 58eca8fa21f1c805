//! `pycket run`: runs the proxy until it is told to stop.

use std::error::Error;

use crate::config::Config;

/// Runs the proxy; returns when it was told to stop and has finished what was under way.
pub(super) fn run(_config: Config) -> Result<(), Box<dyn Error + Send + Sync>> {
    Err("the server is not part of this build".into())
}

//! `pycket run`: runs the proxy until it is told to stop.

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::Arc;

use tracing::info;

use crate::config::{Config, LogFormat, summary};
use crate::proxy::handler::Proxy;
use crate::proxy::upstream::Upstreams;
use crate::server::{self, Sockets};
use crate::store::MemoryStore;
use crate::telemetry;

/// Runs the proxy; returns when it was told to stop and has finished what was under way.
///
/// Exchanges that had to be cut off are an error: whoever stopped it should know.
pub(super) fn run(config: Config) -> Result<(), Box<dyn Error + Send + Sync>> {
    telemetry::init(&config.log)?;
    let sockets = Sockets::bind(&config.listeners, config.workers)?;
    announce(&config);
    serve(config, sockets, server::on_signals())
}

/// Serves on `sockets` until `stop`, with one memory store for all workers.
pub(super) fn serve(
    config: Config,
    sockets: Sockets,
    stop: impl AsyncFnMut(),
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let config = Arc::new(config);
    let memory = MemoryStore::for_storage(&config.storage);
    let upstreams = Upstreams::new(&config)?;
    let make = {
        let config = Arc::clone(&config);
        move |worker| {
            let upstreams = Arc::clone(&upstreams);
            Proxy::for_worker(Arc::clone(&config), memory.clone(), upstreams, worker)
        }
    };
    let report = server::run(&config, sockets, make, stop)?;
    if report.cut_off > 0 {
        let cut_off = report.cut_off;
        return Err(format!("stopped, but {cut_off} exchanges had to be cut off").into());
    }
    Ok(())
}

/// Says what runs: in lines for a person, or as one message among the others.
fn announce(config: &Config) {
    let text = summary(config);
    match config.log.format {
        LogFormat::Text => {
            let version = env!("CARGO_PKG_VERSION");
            // Where nobody reads it, there is nobody to tell.
            let _unread = write!(io::stderr().lock(), "pycket {version}\n{text}");
        }
        LogFormat::Json => info!(summary = text, "starting"),
    }
}

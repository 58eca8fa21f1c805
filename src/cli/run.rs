//! `pycket run`: runs the proxy until it is told to stop.

mod descriptors;
mod operator;

use std::error::Error;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;

use tracing::info;

use self::operator::Operator;
use super::Failure;
use crate::config::{Config, LogFormat, Warning, summary};
use crate::proxy::Worker;
use crate::proxy::handler::Proxy;
use crate::proxy::upstream::{Directory, Upstreams, UpstreamsError};
use crate::server::{self, Order, Sockets};
use crate::store::{BoxError, Shared};
use crate::telemetry;

/// A worker's handler, while it is made.
type Making = Pin<Box<dyn Future<Output = Result<Proxy, BoxError>>>>;
/// Makes the workers' handlers.
pub(super) type Make = Box<dyn Fn(Worker) -> Making + Send + Sync>;

/// Where a configuration comes from, again each time it is asked for.
pub(super) trait Load: Fn() -> Result<(Config, Vec<Warning>), Failure> {}

impl<L: Fn() -> Result<(Config, Vec<Warning>), Failure>> Load for L {}

/// Runs the proxy; returns when it was told to stop and has finished what was under way.
///
/// `load` reads the configuration again. Exchanges that had to be cut off are an error: whoever
/// stopped it should know.
pub(super) fn run(
    config: Config,
    file: Option<std::path::PathBuf>,
    load: impl Load,
) -> Result<(), BoxError> {
    telemetry::init(&config.log)?;
    let sockets = Sockets::bind(&config.listeners, config.workers)?;
    announce(&config);
    descriptors::raise(&config);
    let config = Arc::new(config);
    let shared = Shared::for_storage(&config.storage);
    let mut directory = Directory::default();
    let make = handlers(&config, &shared, &mut directory)?;
    let mut operator = Operator::new(Arc::clone(&config), shared, directory, file, load);
    serve(&config, sockets, make, async move || operator.order().await)
}

/// Serves on `sockets` as `orders` say.
pub(super) fn serve(
    config: &Arc<Config>,
    sockets: Sockets,
    make: Make,
    orders: impl AsyncFnMut() -> Order<Make>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let report = server::run(config, sockets, make, orders)?;
    if report.cut_off > 0 {
        let cut_off = report.cut_off;
        return Err(format!("stopped, but {cut_off} exchanges had to be cut off").into());
    }
    Ok(())
}

/// Makes the handlers of all workers, which share what stores share. What the directory knows of their
/// upstreams goes on.
pub(super) fn handlers(
    config: &Arc<Config>,
    shared: &Shared,
    directory: &mut Directory,
) -> Result<Make, UpstreamsError> {
    let upstreams = Upstreams::new(config, directory)?;
    let (config, shared) = (Arc::clone(config), shared.clone());
    Ok(Box::new(move |worker| {
        let (config, shared) = (Arc::clone(&config), shared.clone());
        Box::pin(Proxy::for_worker(
            config,
            shared,
            Arc::clone(&upstreams),
            worker,
        ))
    }))
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

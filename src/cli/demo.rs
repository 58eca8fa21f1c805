//! `pycket demo`: runs the proxy in front of a small application.

use std::error::Error;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use tokio::net::TcpListener;
use tokio::runtime;

use super::keygen::random_secret;
use super::run;
use crate::config::{self, Config, Flags, Sources};
use crate::demo;
use crate::proxy::upstream::Directory;
use crate::server::{self, Sockets};
use crate::store::Shared;
use crate::telemetry;

type BoxError = Box<dyn Error + Send + Sync>;

/// Runs the demonstration until it is told to stop.
pub(super) fn demo(listen: SocketAddr) -> Result<(), BoxError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let config = configuration(listen, listener.local_addr()?)?;
    telemetry::init(&config.log)?;
    let sockets = Sockets::bind(&config.listeners, config.workers)?;
    announce(&sockets);
    thread::Builder::new()
        .name("application".to_owned())
        .spawn(move || {
            // It ends with the process, after the proxy has finished what was under way.
            let ended = runtime.block_on(demo::serve(listener, std::future::pending()));
            if let Err(error) = ended {
                tracing::error!(%error, "the application has ended");
            }
        })?;
    let config = Arc::new(config);
    let shared = Shared::for_storage(&config.storage);
    let make = run::handlers(&config, &shared, &mut Directory::default())?;
    run::serve(&config, sockets, make, server::on_signals())
}

/// What the demonstration runs on: all defaults, a secret of its own, and a quiet log.
fn configuration(listen: SocketAddr, application: SocketAddr) -> Result<Config, BoxError> {
    let secret = random_secret()?;
    let environment = [
        ("PYCKET_COOKIES_SECRET", secret.as_str()),
        ("PYCKET_LOG_ACCESS", "false"),
        ("PYCKET_LOG_LEVEL", "warn"),
    ];
    let sources = Sources {
        file: None,
        environment: environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        flags: Flags {
            listen: vec![listen.to_string()],
            upstream: Some(format!("http://{application}")),
            engine: Some("memory".to_owned()),
        },
        processors: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        read_file: &|_| Err(io::ErrorKind::NotFound.into()),
    };
    let (config, _no_warnings) = config::load(sources)?;
    Ok(config)
}

fn announce(sockets: &Sockets) {
    for address in sockets.addresses() {
        // Where nobody reads it, there is nobody to tell.
        let _unread = writeln!(
            io::stderr().lock(),
            "The demonstration runs at http://{address}/\n\
             Open it in a browser, in two tabs if you like. Ctrl-C ends it; nothing is kept."
        );
    }
}

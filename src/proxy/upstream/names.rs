//! The addresses of names, kept as fresh as their lifetimes say.
//!
//! A name is looked up in the background, by one task for all workers: when its lifetime ends, and
//! when no connection to what it led to could be made. While it can't be looked up, the last addresses
//! stay: that the DNS is down does not mean that the application has moved.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// A name is not looked up more often ...
const SHORTEST: Duration = Duration::from_secs(1);
/// ... and not more seldom, whatever its lifetime is: names of the hosts file have none.
const LONGEST: Duration = Duration::from_mins(5);
/// The longest pause after a look-up that failed.
const LONGEST_AFTER_FAILURE: Duration = Duration::from_secs(30);
/// How long a DNS server may take, and how often it is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// A name and what it leads to.
#[derive(Debug)]
pub(super) struct Name {
    host: String,
    found: watch::Sender<Found>,
    doubted: Notify,
    /// Whether the last look-up failed, so that the log says it once.
    failing: AtomicBool,
}

#[derive(Clone, Debug)]
enum Found {
    /// It has not been looked up yet.
    Pending,
    /// At least one address, sorted.
    Addresses(Arc<[IpAddr]>),
    /// It has never been found; why.
    Failed(Arc<str>),
}

impl Name {
    pub(super) fn new(host: &str) -> Arc<Self> {
        Arc::new(Self {
            host: host.to_owned(),
            found: watch::Sender::new(Found::Pending),
            doubted: Notify::new(),
            failing: AtomicBool::new(false),
        })
    }

    /// Its addresses; waits for the first look-up.
    pub(super) async fn addresses(&self) -> io::Result<Arc<[IpAddr]>> {
        let mut watching = self.found.subscribe();
        let found = watching
            .wait_for(|found| !matches!(found, Found::Pending))
            .await;
        match found.as_deref() {
            Ok(Found::Addresses(addresses)) => Ok(Arc::clone(addresses)),
            Ok(Found::Failed(why)) => Err(io::Error::other(format!(
                "{} can't be resolved: {why}",
                self.host
            ))),
            Ok(Found::Pending) | Err(_) => Err(io::Error::other("the name is not looked up")),
        }
    }

    /// Whether it leads to this address, as far as is known.
    pub(super) fn leads_to(&self, address: IpAddr) -> bool {
        match &*self.found.borrow() {
            Found::Addresses(addresses) => addresses.contains(&address),
            Found::Pending | Found::Failed(_) => true,
        }
    }

    /// Has it looked up soon: what it leads to can't be reached.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Keeps the addresses fresh, for ever. `servers` are asked; when there are none, the system's.
    ///
    /// # Cancel safety
    ///
    /// What was found stays, and grows old.
    pub(super) async fn keep(&self, servers: &[SocketAddr]) {
        let mut pause = SHORTEST;
        loop {
            let wait = match self.look_up(servers).await {
                Ok((addresses, lifetime)) => {
                    self.settle(addresses);
                    pause = SHORTEST;
                    lifetime
                }
                Err(error) => {
                    self.fail(&error.to_string());
                    pause = (pause * 2).min(LONGEST_AFTER_FAILURE);
                    pause / 2
                }
            };
            sleep(SHORTEST).await;
            tokio::select! {
                () = sleep(wait.saturating_sub(SHORTEST)) => {}
                () = self.doubted.notified() => {}
            }
        }
    }

    /// The system's settings and its hosts file are read each time: they change, too.
    async fn look_up(
        &self,
        servers: &[SocketAddr],
    ) -> Result<(Vec<IpAddr>, Duration), Box<dyn std::error::Error + Send + Sync>> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = servers.iter().map(|&server| name_server(server)).collect();
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = ANSWER_TIMEOUT;
        options.attempts = ATTEMPTS;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let found = builder.build()?.lookup_ip(self.host.as_str()).await?;
        let addresses: Vec<IpAddr> = found.iter().collect();
        if addresses.is_empty() {
            return Err("there are no addresses".into());
        }
        let lifetime =
            Instant::from_std(found.valid_until()).saturating_duration_since(Instant::now());
        Ok((addresses, lifetime.clamp(SHORTEST, LONGEST)))
    }

    fn settle(&self, mut addresses: Vec<IpAddr>) {
        self.failing.store(false, Ordering::Relaxed);
        // DNS servers turn the list around with each answer.
        addresses.sort_unstable();
        addresses.dedup();
        self.found.send_if_modified(|found| {
            if matches!(found, Found::Addresses(old) if **old == addresses) {
                return false;
            }
            info!(
                name = self.host,
                ?addresses,
                "a name leads to new addresses"
            );
            *found = Found::Addresses(addresses.into());
            true
        });
    }

    fn fail(&self, why: &str) {
        let is_first = !self.failing.swap(true, Ordering::Relaxed);
        self.found.send_if_modified(|found| match found {
            Found::Addresses(_) => {
                if is_first {
                    warn!(
                        name = self.host,
                        "a name can't be resolved again; its old addresses stay: {why}"
                    );
                }
                false
            }
            Found::Pending | Found::Failed(_) => {
                if is_first {
                    warn!(name = self.host, "a name can't be resolved: {why}");
                }
                *found = Found::Failed(why.into());
                true
            }
        });
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![
        on_port(ConnectionConfig::udp()),
        on_port(ConnectionConfig::tcp()),
    ];
    NameServerConfig::new(address.ip(), true, connections)
}

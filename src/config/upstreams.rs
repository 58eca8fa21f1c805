//! `upstream` and `[upstreams.NAME]`: where requests go.

mod read;
mod url;

pub(super) use read::{Groups, upstream};
pub(super) use url::default_upstream;

use std::time::Duration;

/// Where requests go: one server, or a group of servers that do the same.
///
/// Equal ones share connections and what is known about their servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// What logs call it: the name of a group, or the URL of a server that stands alone.
    pub name: String,
    /// The servers; at least one, no two with the same URL, and not all of them draining.
    pub servers: Vec<Server>,
    /// How a server is chosen for a request.
    pub balance: Balance,
    /// When a server that fails gets no requests.
    pub ejection: Ejection,
    /// How many requests may be sent to a second server.
    pub retries: Retries,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// What logs call it, `http://host:port` with the port spelt out. The session hash depends on
    /// it, so that all copies of the proxy agree whatever the order of the servers is.
    pub url: String,
    /// Where it listens.
    pub address: Address,
    /// Its share of the requests compared with the others', 1 to 1000.
    pub weight: u32,
    /// Whether it gets no more requests, so that it can be taken down.
    pub drain: bool,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Tcp {
        /// A name or an address; IPv6 addresses without brackets.
        host: String,
        /// The port, from 1.
        port: u16,
    },
}

/// How a server is chosen for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Balance {
    /// In turn, each as often as its weight says.
    RoundRobin,
    /// Of two that are drawn by weight, the one with fewer requests running for its weight.
    Least,
    /// The same server for the same session, as long as it is there; for requests without a
    /// session, for the same client address.
    Session,
}

/// When a server that fails gets no requests for a while. Failures are refused and broken
/// connections, timeouts and what is no response; statuses are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ejection {
    /// After this many failures in a row; 0 is never.
    pub max_failures: u32,
    /// For how long, the first time. Each further time in a row it is doubled.
    pub min: Duration,
    /// The longest it gets.
    pub max: Duration,
    /// For how long a server that has come back gets fewer requests than its weight says.
    pub slow_start: Duration,
    /// When more than this percentage of the servers is out, all of them get requests; 100 is
    /// never.
    pub panic_threshold: u32,
}

/// How many requests may be sent to a second server because they certainly did not reach the
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retries {
    /// Out of a hundred requests.
    pub percent: u32,
    /// This many in a second in any case, on each worker.
    pub min_per_second: u32,
}

impl Address {
    /// What stands for the server in a `Host` (RFC 9110 section 7.2): host and port, an IPv6 address
    /// in brackets.
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
        }
    }
}

impl Upstream {
    /// Whether it is a group with a name, not a URL in the place of one.
    pub(super) fn is_named(&self) -> bool {
        self.servers
            .first()
            .is_none_or(|server| server.url != self.name)
    }

    /// One server with the settings that a group has when it says nothing.
    pub(super) fn alone(server: Server) -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        Self {
            name: server.url.clone(),
            servers: vec![server],
            balance: Balance::RoundRobin,
            ejection: Ejection {
                max_failures: 5,
                min: 5 * SECOND,
                max: 60 * SECOND,
                slow_start: 10 * SECOND,
                panic_threshold: 50,
            },
            retries: Retries {
                percent: 20,
                min_per_second: 10,
            },
        }
    }
}

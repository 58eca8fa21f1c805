//! `upstream` and `[upstreams.NAME]`: where requests go.

mod health;
mod read;
mod tls;
mod url;

pub(super) use read::{Groups, dns_servers, upstream};
pub(super) use url::default_upstream;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::units::host_and_port;

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
    /// How servers are asked whether they are well; `None` is not at all.
    pub health: Option<HealthCheck>,
    /// Which versions of HTTP are offered by TLS.
    pub http2: Http2,
    /// How long an HTTP/2 connection with running requests may be silent until it is asked whether
    /// it is still there; zero is for ever.
    pub http2_ping: Duration,
    /// Whom to trust by TLS, and who we are.
    pub tls: UpstreamTls,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// What logs call it, `http://host:port` with the port spelt out, or `unix:/path`. The session
    /// hash depends on it, so that all copies of the proxy agree whatever the order of the servers
    /// is.
    pub url: String,
    /// What is spoken with it.
    pub scheme: Scheme,
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
    /// A unix socket.
    Unix(PathBuf),
}

/// What is spoken with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1 in cleartext.
    Http,
    /// HTTP/2 in cleartext, known beforehand (RFC 9113 section 3.3).
    H2c,
    /// TLS, with the version that is agreed on there.
    Https,
}

/// Which versions of HTTP are offered by TLS (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Http2 {
    /// Both; the server chooses.
    Auto,
    /// HTTP/2 only.
    Always,
    /// HTTP/1.1 only.
    Never,
}

/// Whom to trust by TLS, and who we are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// Certificates to trust instead of the system's.
    pub ca: Option<Pem>,
    /// The certificate that we show, with those that lead to its authority, and its key.
    pub identity: Option<(Pem, Pem)>,
    /// The name that the server's certificate must have, and that is asked for (SNI); `None` is the
    /// host of its URL.
    pub server_name: Option<String>,
    /// Whether the server's certificate is verified at all.
    pub verify: bool,
}

/// The contents of a PEM file. They can be a key and are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// Where they were read.
    pub path: PathBuf,
    /// The text.
    pub text: Vec<u8>,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({})", self.path.display())
    }
}

impl Hash for Pem {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A key is not to be spread where nobody expects one.
        self.path.hash(state);
    }
}

/// How a server is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// What is asked.
    pub question: Question,
    /// From one question to the next.
    pub interval: Duration,
    /// How long one may take, from connecting to the head of the response.
    pub timeout: Duration,
    /// So many good answers in a row bring a server back.
    pub healthy: u32,
    /// So many bad ones take it out.
    pub unhealthy: u32,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Whether a connection can be made, with TLS where the server has it.
    Tcp,
    /// What the status of a GET is.
    Http {
        /// The path, with a query if there is one.
        path: String,
        /// The `Host`; `None` is the server's own.
        host: Option<String>,
        /// The statuses of a server that is well.
        status: RangeInclusive<u16>,
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
    /// in brackets; `localhost` for a unix socket.
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } => host_and_port(host, *port),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl Upstream {
    /// The default, for tests.
    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        default_upstream()
    }

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
            health: None,
            http2: Http2::Auto,
            http2_ping: 6 * Duration::from_mins(1),
            tls: UpstreamTls {
                ca: None,
                identity: None,
                server_name: None,
                verify: true,
            },
        }
    }
}

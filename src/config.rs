//! The configuration, ready to use.
//!
//! `pycket.toml`, the environment and the command line flow in as text; [`load()`] reads all of them
//! and reports every mistake at once; a [`Config`] whose fields can't be wrong flows out.
//! `pycket.toml` in the repository's root is the reference of every key, its unit and its default.
//!
//! This module reads no file, environment or clock by itself: [`Sources`] carries all of it in.

mod cache;
mod cookies;
mod excerpt;
mod foreign;
mod format;
mod headers;
mod listeners;
mod load;
mod memcached;
mod parse;
mod policy;
mod problem;
mod reader;
mod redis;
mod response_headers;
mod routes;
mod secret;
mod section;
mod server;
mod storage;
mod summary;
mod tree;
mod units;
mod upstreams;

pub use load::{Flags, Sources, load};
pub use problem::{Colours, Excerpt, Place, Problem, Problems, Warning, report, report_warning};
pub use summary::{place, summary};
pub use units::host_and_port;
pub use upstreams::{
    Address, Balance, Ejection, HealthCheck, Http2, Pem, Question, Retries, Scheme, Server,
    Upstream, UpstreamTls,
};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use crate::contract::{ContractPolicy, Names};
use crate::cookie::CookiePolicy;
use crate::exchange::{NotificationPolicy, SessionPolicy};
use crate::tls;

/// Everything that a running proxy needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; at least one.
    pub listeners: Vec<Listener>,
    /// How many worker threads.
    pub workers: NonZeroUsize,
    /// When the configuration is read again.
    pub reload: Reload,
    /// Which store, and its settings.
    pub storage: Storage,
    /// The session cookie.
    pub cookie: CookiePolicy,
    /// The names of the contract's headers, and what of them can't come from a client.
    pub names: Names,
    /// Routes, most specific first; the last one matches everything.
    pub routes: Vec<Route>,
    /// Who is asked for the addresses of names of upstreams; empty is the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// Whom to believe about the client, and what to tell the upstream about it.
    pub forwarding: Forwarding,
    /// Limits on what clients may send.
    pub limits: Limits,
    /// How long each part of an exchange may take.
    pub timeouts: Timeouts,
    /// Logging.
    pub log: Log,
}

/// When the configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// When the process gets SIGHUP.
    Signal,
    /// When its file changes, too.
    Watch,
}

/// One address to listen on, and how connections to it are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: ListenAddress,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
    /// Who has to begin each connection with the header of the PROXY protocol. From nobody else is
    /// one read.
    pub proxy_protocol: Neighbours,
    /// How TLS is spoken; `None` is without.
    pub tls: Option<tls::Settings>,
    /// The permissions of a unix socket; `None` leaves them to the process's umask.
    pub mode: Option<u32>,
}

impl Listener {
    /// A listener without settings of its own.
    pub fn plain(address: ListenAddress) -> Self {
        Self {
            address,
            http2: true,
            proxy_protocol: Neighbours::default(),
            tls: None,
            mode: None,
        }
    }
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port; 0 is any port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
    /// The sockets that systemd hands over (`sd_listen_fds(3)`): those of this name, or all.
    Systemd(Option<String>),
}

/// As in the configuration.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(None) => f.write_str("systemd"),
            Self::Systemd(Some(name)) => write!(f, "systemd:{name}"),
        }
    }
}

/// Neighbours that are believed, or asked for something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    networks: Vec<IpNet>,
    unix: bool,
}

/// A part of [`Neighbours`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// All with an address in this network.
    Network(IpNet),
    /// All that come by a unix socket.
    Unix,
}

impl Neighbours {
    /// Whether nobody is among them.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether somebody at this address is among them.
    pub fn has_address(&self, address: IpAddr) -> bool {
        // A dual-stack socket shows IPv4 neighbours as ::ffff:a.b.c.d.
        let address = address.to_canonical();
        self.networks
            .iter()
            .any(|network| network.contains(&address))
    }

    /// Whether those who come by a unix socket are among them.
    pub fn has_unix(&self) -> bool {
        self.unix
    }
}

impl FromIterator<Neighbour> for Neighbours {
    fn from_iter<I: IntoIterator<Item = Neighbour>>(all: I) -> Self {
        let mut neighbours = Self::default();
        for neighbour in all {
            match neighbour {
                Neighbour::Network(network) => neighbours.networks.push(network),
                Neighbour::Unix => neighbours.unix = true,
            }
        }
        neighbours
    }
}

/// Which engine holds the records, and how to reach it.
#[derive(Clone, Debug)]
pub struct Storage {
    /// The engine's own settings.
    pub engine: Engine,
    /// How records are laid out.
    pub format: Format,
    /// What every key begins with, so that several installations can share a store. Empty with
    /// [`Format::Pycket`], whose keys are the bare ids.
    pub key_prefix: String,
    /// The longest that one store operation may take, the wait for a connection included.
    pub timeout: Duration,
    /// The longest that opening a connection to the store may take.
    pub connect_timeout: Duration,
    /// After this many failures in a row the store counts as down ...
    pub breaker_failures: u32,
    /// ... and is tried again in the background this often.
    pub breaker_retry: Duration,
    /// Where sessions were before: what is not found is looked for there.
    pub fallback: Option<Fallback>,
}

/// Where sessions were before.
#[derive(Clone, Debug)]
pub struct Fallback {
    /// The place.
    pub storage: Box<Storage>,
    /// Whether sessions that are found there move over. Otherwise they go on there.
    pub moves: bool,
}

/// How records are laid out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The proxy's own form: one record for each session, its notifications included.
    #[default]
    Native,
    /// The form of the Python library of the same name, so that its applications and the proxy
    /// share live sessions. Never together with [`Engine::Memory`].
    Pycket(PycketFormat),
}

/// What has to be known to share records with the Python library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PycketFormat {
    /// Where notifications are.
    pub notifications: NotificationPlace,
    /// The pickle protocol of new records, 0 to 5. Others keep the one they have.
    pub protocol: u8,
    /// Whether records may be written at all.
    pub writable: bool,
}

/// Where the Python library keeps notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotificationPlace {
    /// In records of their own, under the session's key in another database of the same Redis.
    Database {
        /// The number of the sessions' database; [`Redis::database`] is the same.
        sessions: u8,
        /// The number of the notifications' database; another one.
        notifications: u8,
    },
    /// In the session's record, as if they were its values: memcached, and Redis with one database
    /// for both. There is nothing in the record to tell them by.
    SameRecord {
        /// Which names are notifications; none when it is empty.
        names: Vec<String>,
    },
}

/// The engine's own settings.
#[derive(Clone, Debug)]
pub enum Engine {
    /// In the proxy's own memory.
    Memory {
        /// Bound on the memory of all records together, in bytes.
        max_bytes: usize,
    },
    /// One Redis server, or a Redis Cluster.
    Redis(Redis),
    /// One or many memcached servers, as `host:port`.
    Memcached {
        /// At least one.
        servers: Vec<String>,
        /// Which of them a key belongs to.
        routing: Routing,
        /// The most connections that one worker opens to one server.
        max_connections: usize,
    },
}

/// How it is decided which memcached server a key belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    /// By the server's name, so that the order does not matter and few keys move when one is added
    /// or removed.
    Rendezvous,
    /// By the server's place in the list, as python-memcached does it.
    Python {
        /// How many places each server takes, in their order; as many as there are servers, and
        /// none is 0.
        weights: Vec<u32>,
        /// Which version's rule to follow.
        version: PythonMemcached,
    },
}

/// Versions of python-memcached that put some keys on different servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PythonMemcached {
    /// Up to 1.59: a hash of 0 counts as 1.
    HashFromOne,
    /// From 1.60 on: a hash of 0 stays what it is.
    #[default]
    HashFromZero,
}

/// How to reach Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Host and port, the path of a unix socket, or a cluster.
    pub address: RedisAddress,
    /// The ACL user; `None` is the default user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The number of the database of sessions; 0 in a cluster, which has no other.
    pub database: u8,
    /// TLS, for `rediss://`.
    pub tls: Option<RedisTls>,
    /// Keeps records in the proxy's memory; `None` asks Redis each time.
    pub near_cache: Option<NearCache>,
}

/// How records are kept in the proxy's memory, as long as the store does not say that they changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearCache {
    /// The most bytes that they take, keys and bookkeeping included.
    pub max_bytes: usize,
    /// A record that was asked for longer ago is asked for again.
    pub max_staleness: Duration,
}

/// Where Redis listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisAddress {
    /// TCP.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
    /// A Redis Cluster, which names its nodes itself.
    Cluster {
        /// Hosts, without brackets, and ports to ask for the nodes; at least one.
        seeds: Vec<(String, u16)>,
    },
}

/// Whom to trust when Redis is reached by TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// A file of PEM certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Text that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text that must not be printed.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What holds for the exchanges that a host and a path choose.
#[derive(Clone, Debug)]
pub struct Route {
    /// What the access log calls it: methods, host and path as configured, `/` for the last one.
    pub name: String,
    /// Which requests it is for.
    pub rule: RouteMatch,
    /// Where its requests go.
    pub upstream: Upstream,
    /// Bytes of one request's body.
    pub max_body_bytes: u64,
    /// From the whole request sent to the upstream's response head.
    pub upstream_response: Duration,
    /// Fields that its answers get where the application has not set them; that for
    /// `Strict-Transport-Security` by TLS only.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// The session's policy; `None` where the route has no sessions.
    pub session: Option<RoutePolicy>,
}

/// Which requests a route is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// Requests to these hosts ...
    pub host: Hosts,
    /// ... whose path begins with this one. It matches whole segments: `/a` matches `/a` and
    /// `/a/b`, not `/ab`; `/a/` matches what begins with `/a/` ...
    pub path: String,
    /// ... with these methods; all of them when it is empty.
    pub methods: Vec<Method>,
}

/// The hosts that a route is for: names in lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hosts {
    /// This one.
    One(String),
    /// All below this domain, which is not one of them.
    Below(String),
    /// All.
    Every,
}

/// The policy of sessions on one route.
#[derive(Clone, Debug)]
pub struct RoutePolicy {
    /// When sessions begin and end, and what happens when the store fails.
    pub session: SessionPolicy,
    /// How notifications are delivered.
    pub notifications: NotificationPolicy,
    /// What the application sees and may say.
    pub contract: ContractPolicy,
    /// Whether answers are guarded against shared caches.
    pub cache_guard: bool,
}

/// Whom to believe about the client, and what to tell the upstream about it.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches that have nothing to do with each other"
)]
pub struct Forwarding {
    /// Whose `X-Forwarded-*`, `Forwarded` and request ids are believed. Empty: nobody's.
    pub trust: Neighbours,
    /// Whether to send `X-Forwarded-For`, `-Proto` and `-Host`.
    pub x_forwarded: bool,
    /// Whether to send `Forwarded` (RFC 7239).
    pub forwarded: bool,
    /// The pseudonym in `Via` (RFC 9110 section 7.6.3), both ways; `None` sends none.
    pub via: Option<String>,
    /// Whether a listener tells applications of clients' certificates (RFC 9440), so that nobody else
    /// may.
    pub client_cert: bool,
    /// Whether clients of HTTP/1.1 get interim responses of applications.
    pub interim_responses: bool,
}

/// Limits on what clients may send.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections of the whole process, all workers together.
    pub max_connections: usize,
    /// Client connections from one address, all workers together.
    pub max_connections_per_address: usize,
    /// Requests on one connection.
    pub max_requests_per_connection: u32,
    /// Bytes of one request head.
    pub max_head_bytes: usize,
    /// Header fields in one request head.
    pub max_head_fields: usize,
    /// Bytes of one request's body, where a route says nothing else.
    pub max_body_bytes: u64,
    /// The slowest rate of a request's body, in bytes a second; 0 is any.
    pub min_body_rate: u64,
    /// Exchanges at a time on one connection of HTTP/2.
    pub http2_max_streams: u32,
    /// Streams of one connection that were reset and are not yet done with.
    pub http2_max_resets: usize,
    /// Frames in a row that only make work, on one connection.
    pub http2_max_control_frames: u32,
    /// Bytes of one request's body that may be on their way (RFC 9113 section 5.2) ...
    pub http2_stream_window: u32,
    /// ... and those of all requests of a connection together.
    pub http2_connection_window: u32,
    /// Connections that one worker opens to one server of an upstream.
    pub max_upstream_connections: usize,
}

/// How long each part of an exchange may take.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// From accepting a connection to the end of the PROXY protocol's header and the TLS handshake.
    pub client_handshake: Duration,
    /// From accepting a connection, or from the first byte of a later request, to the end of a
    /// request's head.
    pub client_head: Duration,
    /// How long nothing may come of a request's body.
    pub client_body: Duration,
    /// How long a connection is kept after an exchange until the next one begins.
    pub client_idle: Duration,
    /// How long a client may take nothing of what is written to it.
    pub client_write: Duration,
    /// After how much silence a client of HTTP/2 is asked whether it is there, and how long it has
    /// to answer. Zero is never.
    pub client_ping: Duration,
    /// Opening a connection to the upstream.
    pub upstream_connect: Duration,
    /// From the whole request sent to the upstream's response head, where a route says nothing else.
    pub upstream_response: Duration,
    /// How long nothing may come of an answer's body while its client would take more.
    pub upstream_body: Duration,
    /// How long an unused connection to the upstream is kept.
    pub upstream_idle: Duration,
    /// From the head of a request to the end of its answer; `None` is for ever.
    pub exchange: Option<Duration>,
    /// How long nothing may move in a tunnel, in either direction.
    pub tunnel: Duration,
    /// From the signal to stop to cutting off what has not finished.
    pub drain: Duration,
}

/// Logging.
#[derive(Clone, Debug)]
pub struct Log {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// The least important messages that are still logged.
    pub level: LogLevel,
    /// Whether each exchange is logged, one line each.
    pub access: bool,
    /// The request header in which a trusted neighbour passes a request id, and in which ours goes
    /// upstream.
    pub request_id_header: HeaderName,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Importance of log messages, most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something failed that should not.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What helps to find a mistake.
    Debug,
}

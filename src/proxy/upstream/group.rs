//! The servers of a route: which one gets a request, and who gets it when that one can't.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::balance::{self, RoundRobin};
use super::budget::Budget;
use super::health::{self, WHOLE};
use super::pool::{Lease, Pool, PoolSettings};
use super::probe;
use super::server::ServerState;
use super::tls::TlsError;
use super::{Patience, UpstreamError};
use crate::config::{Address, Balance, Config, Ejection, Upstream};
use crate::proxy::body::RequestBody;
use crate::session::PublicId;
use crate::telemetry::chain;

/// One request is sent to so many servers at most: each may take the connect timeout.
const MAX_TRIES: usize = 3;

/// What all workers know together about the upstreams of one configuration.
pub struct Upstreams {
    known: HashMap<Upstream, Arc<Known>>,
    dns_servers: Vec<SocketAddr>,
}

/// The upstreams of all configurations that are in use. A new configuration takes over what is known
/// about those that it has, too, with all their settings and the same DNS servers.
#[derive(Debug, Default)]
pub struct Directory(HashMap<(Upstream, Vec<SocketAddr>), Weak<Known>>);

/// What is known about one upstream.
struct Known {
    servers: Vec<Arc<ServerState>>,
    /// What looks after them, as long as a configuration has them.
    watching: OnceLock<JoinSet<()>>,
}

/// An upstream whose settings can't be used.
#[derive(Debug, thiserror::Error)]
#[error("upstream {upstream}")]
pub struct UpstreamsError {
    /// Its name.
    pub upstream: String,
    /// What is wrong.
    #[source]
    pub source: TlsError,
}

/// One worker's way to the servers of a route.
pub struct Group {
    members: Vec<Member>,
    balance: Balance,
    ejection: Ejection,
    /// Whether there is nothing to choose.
    alone: bool,
    /// Std mutexes: one thread uses them, and no await happens under them.
    turn: Mutex<RoundRobin>,
    budget: Mutex<Budget>,
    random: AtomicU64,
}

/// A server of a group.
struct Member {
    state: Arc<ServerState>,
    pool: Arc<Pool>,
    /// What the access log calls it; `None` where it is the only one, and there is nothing to say.
    name: Option<Arc<str>>,
}

impl Upstreams {
    /// All that the routes of this configuration use. What the directory knows already is taken over.
    ///
    /// # Errors
    ///
    /// Settings of TLS that can't be used.
    pub fn new(config: &Config, directory: &mut Directory) -> Result<Arc<Self>, UpstreamsError> {
        let mut known = HashMap::new();
        for route in &config.routes {
            let upstream = &route.upstream;
            if !known.contains_key(upstream) {
                let found = directory.look_up(upstream, &config.dns_servers)?;
                known.insert(upstream.clone(), found);
            }
        }
        Ok(Arc::new(Self {
            known,
            dns_servers: config.dns_servers.clone(),
        }))
    }

    /// Looks after the servers for all workers: keeps names fresh, and asks servers whether they are
    /// well. It runs on the current runtime, where nobody does it yet for another configuration, and
    /// ends with the last configuration that has them.
    pub fn watch(&self) {
        for (upstream, known) in &self.known {
            known
                .watching
                .get_or_init(|| watch(upstream, &known.servers, &self.dns_servers));
        }
    }

    /// A worker's groups: one for each route, in the order of the routes. Routes that share an
    /// upstream share its group.
    pub fn for_worker(&self, config: &Config) -> Vec<Arc<Group>> {
        let settings = PoolSettings {
            max_connections: config.limits.max_upstream_connections,
            connect_timeout: config.timeouts.upstream_connect,
            // The connections are shared by routes that wait for responses for different times.
            upload_timeout: config.timeouts.upstream_response,
            idle_timeout: config.timeouts.upstream_idle,
            ping: Duration::ZERO,
        };
        let mut groups: HashMap<&Upstream, Arc<Group>> = HashMap::new();
        let mut of_routes = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            let group = groups.entry(&route.upstream).or_insert_with(|| {
                let known = self.known.get(&route.upstream);
                let states = known.into_iter().flat_map(|known| &known.servers);
                Arc::new(Group::new(&route.upstream, states.cloned(), settings))
            });
            of_routes.push(Arc::clone(group));
        }
        of_routes
    }
}

fn watch(
    upstream: &Upstream,
    servers: &[Arc<ServerState>],
    dns_servers: &[SocketAddr],
) -> JoinSet<()> {
    let mut watching = JoinSet::new();
    // A server that is draining may be gone already.
    let asked = servers.iter().filter(|state| !state.server.drain);
    for (state, check) in asked.zip(upstream.health.iter().cycle()) {
        watching.spawn(probe::watch(Arc::clone(state), check.clone()));
    }
    for name in servers.iter().filter_map(|state| state.dialer.name()) {
        let (name, dns_servers) = (Arc::clone(name), dns_servers.to_vec());
        watching.spawn(async move { name.keep(&dns_servers).await });
    }
    watching
}

impl Directory {
    fn look_up(
        &mut self,
        upstream: &Upstream,
        dns_servers: &[SocketAddr],
    ) -> Result<Arc<Known>, UpstreamsError> {
        // Those of configurations that nobody uses any more.
        self.0.retain(|_, known| known.strong_count() > 0);
        let key = (upstream.clone(), dns_servers.to_vec());
        if let Some(known) = self.0.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let servers = upstream.servers.iter();
        let servers = servers.map(|server| ServerState::new(upstream, server));
        let servers = servers.collect::<Result<_, _>>();
        let servers = servers.map_err(|source| UpstreamsError {
            upstream: upstream.name.clone(),
            source,
        })?;
        let known = Arc::new(Known {
            servers,
            watching: OnceLock::new(),
        });
        self.0.insert(key, Arc::downgrade(&known));
        Ok(known)
    }
}

impl Group {
    fn new(
        upstream: &Upstream,
        states: impl Iterator<Item = Arc<ServerState>>,
        mut settings: PoolSettings,
    ) -> Self {
        settings.ping = upstream.http2_ping;
        let is_choice = upstream.servers.len() > 1;
        let members: Vec<Member> = states
            .map(|state| Member {
                pool: Pool::new(Arc::clone(&state), upstream.http2, settings),
                name: is_choice.then(|| name(&state.server.address)),
                state,
            })
            .collect();
        Self {
            alone: members.len() == 1 && upstream.ejection.panic_threshold < 100,
            balance: upstream.balance,
            ejection: upstream.ejection,
            turn: Mutex::new(RoundRobin::new(members.len())),
            budget: Mutex::new(Budget::new(upstream.retries, Instant::now())),
            // Without randomness, the first draws of all workers are alike, and no more.
            random: AtomicU64::new(getrandom::u64().unwrap_or_default()),
            members,
        }
    }

    /// What a request is shared out by, where that is its session: the session's public id, or
    /// without a session, the client's address, if it has one.
    pub fn affinity(&self, session: Option<&PublicId>, client: Option<IpAddr>) -> Option<u64> {
        if self.balance != Balance::Session {
            return None;
        }
        match (session, client.map(|client| client.to_canonical())) {
            (Some(id), _) => Some(balance::hash(id.as_bytes())),
            (None, Some(IpAddr::V4(address))) => Some(balance::hash(&address.octets())),
            (None, Some(IpAddr::V6(address))) => Some(balance::hash(&address.octets())),
            (None, None) => None,
        }
    }

    /// Sends a request to one of the servers, and waits for the head of its response.
    ///
    /// The request comes boxed, since it is handed on through many hands. `affinity` is what
    /// [`Group::affinity`] said. The target must be in origin-form. A `Host` is
    /// added if there is none. Each server that gets the request has the whole `patience`. Whoever
    /// reads the response's body must do it by [`Lease::poll`]. Where there are several servers, `asked`
    /// becomes the name of the one that was asked last.
    ///
    /// Where a server certainly has not got a byte of the request, the next one gets it, within the
    /// retry budget.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`], which says whether the request was certainly not sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection if the request was sent by it. The application
    /// may have acted upon it.
    pub async fn send(
        &self,
        mut request: Box<Request<RequestBody>>,
        affinity: Option<u64>,
        mut patience: Patience,
        asked: &mut Option<Arc<str>>,
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        let mut tried: Vec<usize> = Vec::new();
        let mut failure = UpstreamError::Unavailable;
        if !self.alone {
            lock(&self.budget).asked();
        }
        while let Some(index) = self.choose(affinity, &tried, patience.since)
            && let Some(Member { state, pool, name }) = self.members.get(index)
        {
            asked.clone_from(name);
            let running = (!self.alone).then(|| state.run());
            let failed = match pool.send(request, patience).await {
                Ok((response, mut lease)) => {
                    if let Some(running) = running {
                        state.answered();
                        lease.count(running);
                    }
                    return Ok((response, lease));
                }
                Err(failed) => failed,
            };
            failure = failed.error;
            if self.alone {
                break;
            }
            state.failed(&failure);
            tried.push(index);
            let Some(unsent) = failed.unsent else { break };
            patience = patience.anew();
            if tried.len() >= MAX_TRIES.min(self.members.len())
                || !lock(&self.budget).take(patience.since)
            {
                break;
            }
            debug!(server = %state.server.url, "the next server gets a request that was not sent: {}", chain(&failure));
            request = unsent;
        }
        Err(failure)
    }

    /// The server for a request that those in `tried` could not be sent.
    fn choose(&self, affinity: Option<u64>, tried: &[usize], now: Instant) -> Option<usize> {
        if self.alone {
            return tried.is_empty().then_some(0);
        }
        let taking = || self.members.iter().filter(|it| !it.state.server.drain);
        let shares = taking().map(|member| member.state.share(now));
        let panic = health::is_panic(shares, self.ejection.panic_threshold);
        let weight = |index: usize| match self.members.get(index) {
            Some(Member { state, .. }) if !state.server.drain && !tried.contains(&index) => {
                let share = if panic { WHOLE } else { state.share(now) };
                state.server.weight.saturating_mul(share)
            }
            Some(_) | None => 0,
        };
        let of = |index: usize| self.members.get(index).map(|member| &*member.state);
        let count = self.members.len();
        match (self.balance, affinity) {
            (Balance::RoundRobin, _) => lock(&self.turn).choose(weight),
            (Balance::Session, Some(key)) => {
                let id = |index| of(index).map_or(0, |state| state.id);
                balance::rendezvous(count, weight, id, key)
            }
            (Balance::Least | Balance::Session, _) => {
                let running = |index| of(index).map_or(0, ServerState::running);
                balance::least(count, weight, running, [self.draw(), self.draw()])
            }
        }
    }

    /// `SplitMix64`: who can guess it knows which of two idle servers gets the next request.
    fn draw(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        balance::mix(self.random.fetch_add(STEP, Ordering::Relaxed))
    }
}

/// What the access log calls a server: host and port, or the path of its socket.
fn name(address: &Address) -> Arc<str> {
    match address {
        Address::Tcp { .. } => address.authority().into(),
        Address::Unix(path) => path.display().to_string().into(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls = self.members.iter().map(|member| &member.state.server.url);
        f.debug_list().entries(urls).finish()
    }
}

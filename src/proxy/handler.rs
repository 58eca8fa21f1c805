//! One exchange, step by step: the only place that talks to the store and to the upstream.
//!
//! The numbers in the comments are those of the crate's documentation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::body::{RequestBody, UpstreamBody};
use super::cache_guard;
use super::claim::ClaimGuard;
use super::forward::{Forwarder, Framing, Inbound, Outbound, Scheme};
use super::line::Line;
use super::rescue::ProxyError;
use super::sessions::{CommitError, Committed, Ending, Held, Open, Presence, Sessions};
use super::tasks::Tasks;
use super::upstream::{Lease, Pool};
use super::{Body, Handler, Peer, Worker, tunnel};
use crate::clock;
use crate::config::{Config, RoutePolicy};
use crate::contract::request::{self, State, View, injected_size};
use crate::contract::response::{self, Extracted, SignalError, Signals};
use crate::cookie::{self, Presented};
use crate::exchange::{
    Bind, Carried, CookieChange, OnStoreError, Refusal, Visit, is_shown, page_path, redirect_target,
};
use crate::store::{BoxError, MemoryStore, Store, StoreError};
use crate::telemetry::RequestIds;
use crate::telemetry::access::{AccessLog, CookieOutcome, RecordOutcome, WriteOutcome};

/// What one worker answers requests with.
#[derive(Debug)]
pub struct Proxy {
    config: Arc<Config>,
    routes: Vec<RouteState>,
    forwarder: Forwarder,
    sessions: Arc<Sessions>,
    tasks: Tasks,
    ids: RequestIds,
    access: Option<Arc<AccessLog>>,
}

/// A route with what belongs to it on this worker.
#[derive(Debug)]
struct RouteState {
    name: Arc<str>,
    host: Option<String>,
    path: String,
    policy: Option<Arc<RoutePolicy>>,
    pool: Arc<Pool>,
}

/// What has been found out before the request goes upstream.
struct Session {
    policy: Arc<RoutePolicy>,
    presence: Presence,
    carried: Carried,
    cookie_presented: bool,
    claim: Option<ClaimGuard>,
}

/// What the answer needs to know of the request, which has gone upstream by then.
struct Asked {
    method: http::Method,
    host: String,
    path: String,
    upgrade: bool,
    downstream: Option<OnUpgrade>,
    secure: bool,
}

impl Handler for Proxy {
    async fn handle(&self, request: Request<Incoming>, peer: &Arc<Peer>) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let id_header = &self.config.log.request_id_header;
        let adopted = head
            .headers
            .get(id_header)
            .filter(|_| self.forwarder.trusts(peer))
            .and_then(crate::telemetry::RequestId::adopt);
        let id = adopted.unwrap_or_else(|| self.ids.make());
        head.headers.insert(id_header.clone(), id.header());
        let mut line = Line::begin(self.access.clone(), id.clone(), &head, peer);
        match self.exchange(head, body, peer, &mut line).await {
            Ok(reply) => reply.finish(line, &self.tasks),
            Err(error) => {
                let rescue = error.rescue();
                line.failed(&error, rescue.level);
                let response = error.respond(&id);
                line.end(response.status(), &response);
                response
            }
        }
    }
}

/// What goes back to the client.
enum Reply {
    /// The application's response.
    Stream {
        head: http::response::Parts,
        incoming: Incoming,
        outbound: Outbound,
        lease: Lease,
    },
    /// A change of protocol; bytes follow, both ways.
    Tunnel {
        head: http::response::Parts,
        downstream: OnUpgrade,
        upstream: OnUpgrade,
        peer: Arc<Peer>,
        lease: Lease,
    },
}

impl Proxy {
    /// A handler for one worker.
    pub fn new(
        config: Arc<Config>,
        sessions: Arc<Sessions>,
        tasks: Tasks,
        ids: RequestIds,
        access: Option<Arc<AccessLog>>,
    ) -> Self {
        let routes = config
            .routes
            .iter()
            .zip(Pool::for_routes(&config))
            .map(|(route, pool)| RouteState {
                name: Arc::from(route.name.as_str()),
                host: route.host.clone(),
                path: route.path.clone(),
                policy: route.session.clone().map(Arc::new),
                pool,
            })
            .collect();
        let names = config.names.clone();
        let forwarder = Forwarder::new(&config.forwarding, move |name| names.is_reserved(name));
        Self {
            config,
            routes,
            forwarder,
            sessions,
            tasks,
            ids,
            access,
        }
    }

    /// Makes a worker's handler, with its own way to the store. `memory` is shared by all workers.
    ///
    /// # Errors
    ///
    /// The store's settings can't be used, or the operating system has no randomness. A store that
    /// is down is no error.
    ///
    /// # Cancel safety
    ///
    /// Nothing stays behind.
    pub async fn for_worker(
        config: Arc<Config>,
        memory: MemoryStore,
        worker: Worker,
    ) -> Result<Self, BoxError> {
        let store = Store::connect(&config.storage, &memory).await?;
        let sessions = Sessions::new(
            store,
            config.storage.key_prefix.clone(),
            config.names.clone(),
            worker.tasks.clone(),
        );
        if worker.index == 0 {
            tokio::spawn(purge(memory));
        }
        let access = config.log.access.then(|| {
            let log = Arc::new(AccessLog::to_stdout(config.log.format));
            let flushed = Arc::clone(&log);
            tokio::spawn(async move { flushed.keep_flushing().await });
            log
        });
        let ids = RequestIds::new()?;
        Ok(Self::new(
            config,
            Arc::new(sessions),
            worker.tasks,
            ids,
            access,
        ))
    }

    async fn exchange(
        &self,
        mut head: Parts,
        body: Incoming,
        peer: &Arc<Peer>,
        line: &mut Line,
    ) -> Result<Reply, ProxyError> {
        let framing = Framing::of(&body);
        let downstream = head.extensions.remove::<OnUpgrade>();
        let inbound = self
            .forwarder
            .request_head(&mut head, framing, peer)
            .map_err(ProxyError::Downstream)?;
        line.record.client = inbound.client.address;

        // 2. Route.
        let route = self.route(&inbound, &head)?;
        line.record.route = Some(Arc::clone(&route.name));
        let asked = Asked {
            method: head.method.clone(),
            host: host_of(&inbound).to_owned(),
            path: head.uri.path().to_owned(),
            upgrade: inbound.upgrade,
            downstream,
            secure: inbound.client.scheme == Scheme::Https,
        };

        // 3. to 6. The session.
        let session = match &route.policy {
            Some(policy) => Some(self.open(&mut head, policy, &asked, line).await?),
            None => {
                cookie::strip(&mut head.headers, &self.config.cookie.name);
                request::scrub(&mut head.headers, &self.config.names);
                None
            }
        };

        // 7. Forward.
        let body = RequestBody::new(body, inbound.trailers);
        line.count_request(body.progress());
        let started = Instant::now();
        let answered = route.pool.send(Request::from_parts(head, body)).await;
        line.record.upstream = started.elapsed();
        let (response, lease) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                give_back(session, line).await;
                return Err(ProxyError::Upstream(error));
            }
        };
        self.answer(response, lease, session, asked, peer, line)
            .await
    }

    /// Chooses the route: the first that fits, since they stand most specific first.
    fn route(&self, inbound: &Inbound, head: &Parts) -> Result<&RouteState, ProxyError> {
        let host = host_of(inbound);
        let path = head.uri.path();
        self.routes
            .iter()
            .find(|route| {
                route
                    .host
                    .as_deref()
                    .is_none_or(|wanted| wanted.eq_ignore_ascii_case(host))
                    && covers(&route.path, path)
            })
            .ok_or_else(|| ProxyError::Internal("no route fits, not even the last".into()))
    }

    /// Steps 3 to 6: from the cookie to the request headers.
    async fn open(
        &self,
        head: &mut Parts,
        policy: &Arc<RoutePolicy>,
        asked: &Asked,
        line: &mut Line,
    ) -> Result<Session, ProxyError> {
        // 3. Cookie.
        let presented = cookie::read(&head.headers, &self.config.cookie, clock::now());
        cookie::strip(&mut head.headers, &self.config.cookie.name);
        line.record.cookie = cookie_word(&presented);
        let mut session = Session {
            policy: Arc::clone(policy),
            presence: Presence::NotAsked,
            carried: Carried::default(),
            cookie_presented: presented != Presented::Absent,
            claim: None,
        };

        // 4. Load, 5. Notifications.
        if let Presented::Verified { id, .. } = presented {
            let started = Instant::now();
            let found = self.load(&id, head, asked, &mut session).await;
            line.record.store += started.elapsed();
            match found {
                Ok(presence) => session.presence = presence,
                Err(error) if policy.session.on_store_error == OnStoreError::Anonymous => {
                    tracing::debug!(
                        error = chain(&error),
                        "an exchange goes on without its session"
                    );
                    session.presence = Presence::Unavailable;
                }
                Err(error) => {
                    line.record.record = RecordOutcome::Unavailable;
                    give_back(Some(session), line).await;
                    return Err(ProxyError::Store(error));
                }
            }
        }
        line.record.record = record_word(&session.presence);
        line.record.claimed = match session.carried.claim {
            Some(_) => u32::try_from(session.carried.entries.len()).unwrap_or(u32::MAX),
            None => 0,
        };

        // 6. Request headers.
        let names = &self.config.names;
        request::scrub(&mut head.headers, names);
        let held = session.presence.held();
        let notifications = held
            .filter(|_| !session.carried.is_empty())
            .map(|held| held.session.notifications.text(&session.carried.entries));
        let view = View {
            state: match &session.presence {
                Presence::Found(_) => State::Active,
                Presence::Unavailable => State::Unavailable,
                Presence::NotAsked | Presence::Missing | Presence::Gone => State::None,
            },
            session: held.map(|held| &held.session),
            notifications: notifications.as_ref(),
        };
        match request::apply(&mut head.headers, names, &policy.contract, &view) {
            Ok(unsent) if unsent.is_empty() => Ok(session),
            Ok(unsent) => {
                tracing::warn!(request = line.id(), headers = ?unsent, "injected headers were not sent: their values do not fit into a header as utf-8; choose another `encode`");
                Ok(session)
            }
            Err(error) => {
                give_back(Some(session), line).await;
                Err(match error {
                    request::ApplyError::OverBudget(error) => ProxyError::Internal(error.into()),
                    request::ApplyError::Damaged(error) => {
                        ProxyError::Store(StoreError::Corrupt(error.into()))
                    }
                })
            }
        }
    }

    /// Loads the session of `id`, and claims what the request shows.
    async fn load(
        &self,
        id: &crate::session::SessionId,
        head: &Parts,
        asked: &Asked,
        session: &mut Session,
    ) -> Result<Presence, StoreError> {
        let policy = &session.policy;
        let Some(held) = self.sessions.load(id, policy).await? else {
            return Ok(Presence::Missing);
        };
        if held.session.notifications.is_empty() {
            return Ok(Presence::Found(Box::new(held)));
        }
        let visit = Visit::of(&head.method, &head.headers);
        let path = match policy.notifications.bind {
            Bind::None => None,
            Bind::Redirect => page_path(&asked.host, &asked.path),
        };
        let path = path.as_deref().unwrap_or(&asked.path);
        let token = getrandom::u64().map_err(|error| StoreError::Refused(error.into()))?;
        // Before the first write: if this exchange ends in the middle of it, somebody still knows.
        session.claim = Some(ClaimGuard::new(
            Arc::clone(&self.sessions),
            held.id.clone(),
            token,
            Arc::clone(policy),
        ));
        let claimed = self.sessions.claim(held, policy, visit, path, token).await;
        let presence = match claimed? {
            Some((held, carried)) => {
                session.carried = carried;
                Presence::Found(Box::new(held))
            }
            None => Presence::Missing,
        };
        if session.carried.claim.is_none()
            && let Some(unused) = session.claim.take()
        {
            unused.settled();
        }
        Ok(presence)
    }

    /// Steps 8 to 11: from the response head to the answer.
    async fn answer(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        session: Option<Session>,
        mut asked: Asked,
        peer: &Arc<Peer>,
        line: &mut Line,
    ) -> Result<Reply, ProxyError> {
        let mut response = response;
        let upstream = hyper::upgrade::on(&mut response);
        let (mut head, incoming) = response.into_parts();
        let outbound = match self
            .forwarder
            .response_head(&mut head, &asked.method, asked.upgrade)
        {
            Ok(outbound) => outbound,
            Err(error) => {
                give_back(session, line).await;
                return Err(ProxyError::Response(error));
            }
        };
        match session {
            Some(session) => self.close(&mut head, session, &asked, line).await?,
            None => response::remove_reserved(&mut head.headers, &self.config.names),
        }

        // 11. Answer.
        if head.status == StatusCode::SWITCHING_PROTOCOLS
            && let Some(downstream) = asked.downstream.take()
        {
            return Ok(Reply::Tunnel {
                head,
                downstream,
                upstream,
                peer: Arc::clone(peer),
                lease,
            });
        }
        Ok(Reply::Stream {
            head,
            incoming,
            outbound,
            lease,
        })
    }

    /// Steps 8 to 10, and the cookie: what the application asked for is stored when this returns.
    async fn close(
        &self,
        head: &mut http::response::Parts,
        session: Session,
        asked: &Asked,
        line: &mut Line,
    ) -> Result<(), ProxyError> {
        let policy = Arc::clone(&session.policy);
        // 8. Signals.
        let extracted = response::extract(&mut head.headers, &self.config.names, &policy.contract);
        let signals = match self.judge(extracted, line) {
            Ok(signals) => signals,
            Err(error) => {
                give_back(Some(session), line).await;
                return Err(error);
            }
        };
        self.explain_refusal(head.status, &session, line);

        // 9. Plan, 10. Persist.
        let consume = policy.notifications.consume;
        let shown = is_shown(consume, head.status, &head.headers);
        let target = if signals.patch.announce.is_empty() {
            None
        } else {
            let bind = policy.notifications.bind;
            redirect_target(bind, &asked.host, &asked.path, head.status, &head.headers)
        };
        let carried = u32::try_from(session.carried.entries.len()).unwrap_or(u32::MAX);
        let claims = session.carried.claim.is_some();
        let claim = session.claim;
        let open = Open {
            presence: session.presence,
            carried: session.carried,
            cookie_presented: session.cookie_presented,
            policy: Arc::clone(&policy),
        };
        let ending = Ending::Response {
            signals,
            shown,
            target,
        };
        let started = Instant::now();
        let committed = self.sessions.commit(open, ending).await;
        line.record.store += started.elapsed();
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) => {
                line.record.wrote = WriteOutcome::Failed;
                if let Some(claim) = claim {
                    line.record.returned = carried;
                    claim.give_back().await;
                }
                return Err(commit_failed(error));
            }
        };
        if let Some(claim) = claim {
            claim.settled();
        }
        line.record.wrote = committed.wrote;
        if claims && shown {
            line.record.shown = carried;
        } else if claims {
            line.record.returned = carried;
        }
        self.set_cookie(head, &committed, &policy, asked);
        Ok(())
    }

    /// Whether the signals can be followed; what is wrong with them goes to the log.
    fn judge(&self, extracted: Extracted, line: &Line) -> Result<Signals, ProxyError> {
        for header in &extracted.ignored {
            tracing::warn!(request = line.id(), header = %header, "the application sent a header that looks like a signal and is none; it was removed");
        }
        for error in &extracted.dropped {
            tracing::warn!(request = line.id(), %error, "a signal was dropped");
        }
        extracted.signals.map_err(|errors| {
            let text: Vec<String> = errors.iter().map(SignalError::to_string).collect();
            ProxyError::Signals(text.join("; ").into())
        })
    }

    /// An application server that refuses a request for its size gives no reason that its users
    /// would find; the log does.
    fn explain_refusal(&self, status: StatusCode, session: &Session, line: &Line) {
        const TOO_LARGE: [u16; 4] = [400, 413, 431, 494];
        /// Less than this is no reason for any server to refuse a request.
        const MUCH: usize = 1024;
        let (true, Some(held)) = (
            TOO_LARGE.contains(&status.as_u16()),
            session.presence.held(),
        ) else {
            return;
        };
        let text = held.session.notifications.text(&session.carried.entries);
        let waiting = (!session.carried.is_empty()).then_some(text);
        let bytes = injected_size(
            &self.config.names,
            &session.policy.contract,
            &held.session,
            waiting.as_deref(),
        );
        if bytes >= MUCH {
            tracing::warn!(
                request = line.id(),
                status = status.as_u16(),
                bytes,
                "the application refused a request that carried much session data; its limit on request headers may be too small for headers.budget"
            );
        }
    }

    fn set_cookie(
        &self,
        head: &mut http::response::Parts,
        committed: &Committed,
        policy: &RoutePolicy,
        asked: &Asked,
    ) {
        let rules = &self.config.cookie;
        let cookie = match (committed.cookie, &committed.id) {
            (CookieChange::Issue { persist }, Some(id)) => Some(cookie::issue(
                rules,
                id,
                persist,
                asked.secure,
                clock::now(),
            )),
            (CookieChange::Expire, _) => Some(cookie::expire(rules, asked.secure)),
            (CookieChange::Keep | CookieChange::Issue { .. }, _) => None,
        };
        if policy.cache_guard {
            cache_guard::vary_by_cookie(&mut head.headers);
            if cookie.is_some() {
                cache_guard::keep_private(&mut head.headers);
            }
        }
        if let Some(cookie) = cookie {
            head.headers.append(http::header::SET_COOKIE, cookie);
        }
    }
}

/// Frees the memory of sessions that nobody asks for any more.
async fn purge(memory: MemoryStore) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        let now = every_second.tick().await;
        memory.purge(now);
    }
}

/// Frees what a request holds that will not be answered, before the client learns of it: its next
/// request must find everything in its place.
async fn give_back(session: Option<Session>, line: &mut Line) {
    if let Some(session) = session
        && let Some(claim) = session.claim
    {
        line.record.returned = u32::try_from(session.carried.entries.len()).unwrap_or(u32::MAX);
        claim.give_back().await;
    }
}

fn commit_failed(error: CommitError) -> ProxyError {
    match error {
        CommitError::Refused(refusal @ (Refusal::Limit(_) | Refusal::Budget(_))) => {
            ProxyError::Signals(refusal.into())
        }
        CommitError::Refused(Refusal::Damaged(error)) => {
            ProxyError::Store(StoreError::Corrupt(error.into()))
        }
        CommitError::Refused(Refusal::NoRandomness(error)) => ProxyError::Internal(error.into()),
        CommitError::Store(error) => ProxyError::Store(error),
    }
}

impl Reply {
    /// Makes the response. The line goes with its body, and is written when that has ended.
    fn finish(self, mut line: Line, tasks: &Tasks) -> Response<Body> {
        match self {
            Self::Stream {
                head,
                incoming,
                outbound,
                lease,
            } => {
                line.record.status = head.status;
                let body = UpstreamBody::new(incoming, outbound.trailers, lease, line.on_end());
                Response::from_parts(head, Body::Upstream(body))
            }
            Self::Tunnel {
                head,
                downstream,
                upstream,
                peer,
                lease,
            } => {
                let status = head.status;
                tunnel::join(downstream, upstream, peer, lease, tasks, move |moved| {
                    line.tunnelled(status, moved);
                });
                Response::from_parts(head, Body::Empty)
            }
        }
    }
}

/// The host that was asked for, without its port; empty where HTTP/1.0 named none.
fn host_of(inbound: &Inbound) -> &str {
    inbound
        .client
        .host
        .as_ref()
        .map(super::forward::host_name)
        .and_then(|host| std::str::from_utf8(host).ok())
        .unwrap_or_default()
}

/// Whether a route's path covers the request's, by whole segments.
fn covers(route: &str, path: &str) -> bool {
    match path.strip_prefix(route) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || route.ends_with('/'),
        None => false,
    }
}

fn cookie_word(presented: &Presented) -> CookieOutcome {
    match presented {
        Presented::Absent => CookieOutcome::None,
        Presented::Malformed => CookieOutcome::Malformed,
        Presented::Forged => CookieOutcome::Forged,
        Presented::Expired => CookieOutcome::Expired,
        Presented::Verified { .. } => CookieOutcome::Valid,
    }
}

fn record_word(presence: &Presence) -> RecordOutcome {
    match presence {
        Presence::NotAsked => RecordOutcome::NotAsked,
        Presence::Missing | Presence::Gone => RecordOutcome::Missing,
        Presence::Found(_) => RecordOutcome::Found,
        Presence::Unavailable => RecordOutcome::Unavailable,
    }
}

impl Presence {
    /// The session, if it is there.
    fn held(&self) -> Option<&Held> {
        match self {
            Self::Found(held) => Some(held),
            Self::NotAsked | Self::Missing | Self::Gone | Self::Unavailable => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_route_covers_whole_segments() {
        let covered = [
            ("/", "/"),
            ("/", "/a"),
            ("/a", "/a"),
            ("/a", "/a/b"),
            ("/a/", "/a/b"),
            ("/a/", "/a/"),
        ];
        let not_covered = [("/a", "/ab"), ("/a/", "/a"), ("/a/b", "/a"), ("/a", "*")];
        for (route, path) in covered {
            assert!(covers(route, path), "{route} {path}");
        }
        for (route, path) in not_covered {
            assert!(!covers(route, path), "{route} {path}");
        }
    }
}

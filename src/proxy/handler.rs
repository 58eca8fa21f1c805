//! One exchange, step by step: the only place that talks to the store and to the upstream.
//!
//! The numbers in the comments are those of the crate's documentation.

mod session;

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, EXPECT, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::additions::{self, Additions, Fields};
use super::body::{Pace, Progress, RequestBody, Trailers, UpstreamBody};
use super::forward::{Forwarder, Framing, Inbound, Outbound, ResponseError, Scheme};
use super::intake::{BodyFault, BodyLimits};
use super::interim;
use super::line::Line;
use super::rescue::ProxyError;
use super::route;
use super::sessions::Sessions;
use super::tasks::Tasks;
use super::upstream::{Group, Lease, Patience, Upstreams};
use super::websocket::Challenge;
use super::{Body, Handler, Peer, Worker, tunnel};
use crate::archive::Archive;
use crate::config::{Config, RouteMatch, RoutePolicy};
use crate::contract::{self, request, response};
use crate::cookie;
use crate::store::{BoxError, Shared};
use crate::telemetry::access::AccessLog;
use crate::telemetry::{RequestId, RequestIds};

/// What one worker answers requests with.
#[derive(Debug)]
pub struct Proxy {
    config: Arc<Config>,
    routes: Vec<RouteState>,
    heads: Arc<interim::Rules>,
    sessions: Arc<Sessions>,
    tasks: Tasks,
    ids: RequestIds,
    access: Option<Arc<AccessLog>>,
    /// What goes on in the background as long as this is the worker's handler.
    _background: JoinSet<()>,
    /// What looks after the servers ends with it.
    _upstreams: Arc<Upstreams>,
}

/// A route with what belongs to it on this worker.
#[derive(Debug)]
struct RouteState {
    name: Arc<str>,
    rule: RouteMatch,
    policy: Option<Arc<RoutePolicy>>,
    upstream: Arc<Group>,
    body_limits: BodyLimits,
    response_timeout: Duration,
    additions: Additions,
}

/// What the answer needs to know of the request, which has gone upstream by then, besides what is in
/// its line.
struct Asked {
    upgrade: bool,
    /// With an extended CONNECT, what the upstream was asked.
    challenge: Option<Challenge>,
    downstream: Option<OnUpgrade>,
    secure: bool,
    /// What the answer gets.
    additions: Option<Fields>,
}

impl Handler for Proxy {
    async fn handle(&self, request: Request<Incoming>, peer: &Arc<Peer>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let is_chunked =
            head.version < Version::HTTP_2 && matches!(Framing::of(&body), Framing::Chunked);
        let id = self.id_of(&head, peer);
        let mut line = Line::begin(self.access.clone(), id, &head, peer);
        // What is left when there is no reply.
        let mut session = None;
        let mut additions = None;
        let exchange = self.exchange(head, body, peer, &mut session, &mut line, &mut additions);
        let reply = exchange.await;
        let is_last = is_chunked && !line.request_is_whole();
        let mut response = match reply {
            Ok(reply) => reply.finish(line, &self.tasks, self.config.timeouts.tunnel),
            Err(error) => {
                session::give_back(session, &mut line).await;
                let rescue = error.rescue();
                line.failed(&error, rescue.level);
                let mut response = error.respond(&line.record.id);
                additions::add(response.headers_mut(), additions.as_ref());
                line.end(response.status(), &response);
                response
            }
        };
        if is_last {
            // hyper takes a bare LF in a trailer section for its end, reads on to the next empty line,
            // and drops what stands between. Whoever sent that may have meant it as a request. Where
            // the body has not been read to its end yet, nobody knows what stands there.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    fn refuse(&self, request: Request<Incoming>, peer: &Arc<Peer>) -> Response<Body> {
        let (head, _) = request.into_parts();
        let id = self.id_of(&head, peer);
        let mut line = Line::begin(self.access.clone(), id, &head, peer);
        line.record.host = named_host(&head);
        let response = super::too_many_fields();
        line.record.error = Some("bad_request");
        line.end(response.status(), &response);
        response
    }
}

/// What goes back to the client.
struct Reply {
    head: http::response::Parts,
    then: Then,
}

/// What follows the head. Boxed, since it is handed on through many hands.
enum Then {
    /// The body of the application's response.
    Body(Box<UpstreamBody>),
    /// After a change of protocol, bytes, both ways.
    Tunnel(Box<Tunnel>),
}

/// What has come from the upstream behind the head.
struct Arrived {
    incoming: Incoming,
    upgrade: OnUpgrade,
    lease: Lease,
}

/// The two ends that are to be joined.
struct Tunnel {
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    peer: Arc<Peer>,
    lease: Lease,
}

/// What a response that can be passed on says of what follows.
struct Judged {
    outbound: Outbound,
    /// Whether a change of protocol follows. By HTTP/2, the status does not tell.
    switches: bool,
}

impl Proxy {
    /// A handler for one worker.
    pub fn new(
        config: Arc<Config>,
        upstreams: Arc<Upstreams>,
        sessions: Arc<Sessions>,
        tasks: Tasks,
        ids: RequestIds,
        access: Option<Arc<AccessLog>>,
    ) -> Self {
        let routes = config
            .routes
            .iter()
            .zip(upstreams.for_worker(&config))
            .map(|(route, upstream)| RouteState {
                name: Arc::from(route.name.as_str()),
                rule: route.rule.clone(),
                policy: route.session.clone().map(Arc::new),
                upstream,
                body_limits: BodyLimits {
                    max_bytes: route.max_body_bytes,
                    pause: config.timeouts.client_body,
                    min_rate: config.limits.min_body_rate,
                },
                response_timeout: route.upstream_response,
                additions: Additions::new(&route.response_headers),
            })
            .collect();
        let names = config.names.clone();
        let (id, reserved) = (config.log.request_id_header.clone(), names.clone());
        let is_ours = move |name: &_| *name == id || reserved.is_reserved(name);
        let forwarder = Forwarder::new(&config.forwarding, is_ours);
        Self {
            config,
            routes,
            heads: Arc::new(interim::Rules { forwarder, names }),
            sessions,
            tasks,
            ids,
            access,
            _background: JoinSet::new(),
            _upstreams: upstreams,
        }
    }

    /// Makes a worker's handler, with its own way to the store. `shared` and `upstreams` are shared
    /// by all workers.
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
        shared: Shared,
        upstreams: Arc<Upstreams>,
        worker: Worker,
    ) -> Result<Self, BoxError> {
        let archive = Archive::open(&config.storage, &shared).await?;
        let sessions = Sessions::new(archive, config.names.clone(), worker.tasks.clone());
        // One worker looks after what all share.
        let mut background = JoinSet::new();
        if worker.index == 0 {
            upstreams.watch();
            background.spawn(purge(shared));
        }
        let access = config.log.access.then(|| {
            let log = Arc::new(AccessLog::to_stdout(config.log.format));
            let flushed = Arc::clone(&log);
            background.spawn(async move { flushed.keep_flushing().await });
            log
        });
        let ids = RequestIds::new()?;
        let proxy = Self::new(
            config,
            upstreams,
            Arc::new(sessions),
            worker.tasks,
            ids,
            access,
        );
        Ok(Self {
            _background: background,
            ..proxy
        })
    }

    /// The id of a request: a trusted neighbour may have given it one.
    fn id_of(&self, head: &Parts, peer: &Peer) -> RequestId {
        let said = if self.heads.forwarder.trusts(peer) {
            head.headers.get(&self.config.log.request_id_header)
        } else {
            None
        };
        said.and_then(RequestId::adopt)
            .unwrap_or_else(|| self.ids.make())
    }

    async fn exchange(
        &self,
        mut head: Parts,
        body: Incoming,
        peer: &Arc<Peer>,
        session: &mut Option<session::Session>,
        line: &mut Line,
        additions: &mut Option<Fields>,
    ) -> Result<Reply, ProxyError> {
        let framing = Framing::of(&body);
        let body = RequestBody::new(body, !head.headers.contains_key(EXPECT), line.started());
        let takes_interims = head.version == Version::HTTP_11 && peer.interims().is_some();
        let downstream = head.extensions.remove::<OnUpgrade>();
        let inbound = self.inbound(&mut head, framing, peer, line)?;

        // 2. Route.
        let route = self.route(line, &head)?;
        line.record.route = Some(Arc::clone(&route.name));
        let secure = inbound.client.scheme == Scheme::Https;
        *additions = route.additions.over(secure);
        if matches!(framing, Framing::Length(length) if length > route.body_limits.max_bytes) {
            return Err(ProxyError::Body(BodyFault::TooLarge));
        }
        let challenge = challenge(&inbound, &mut head)?;
        let mut asked = Asked {
            upgrade: inbound.upgrade,
            challenge,
            downstream,
            secure,
            additions: additions.clone(),
        };

        // 3. to 6. The session.
        if let Some(policy) = &route.policy {
            self.open(&mut head, policy, session, line).await?;
        } else {
            self.leave_out_session(&mut head.headers);
        }

        // 7. Forward.
        let mut request = outgoing(head, body, inbound.trailers, route);
        let progress = request.body().progress();
        line.count_request(progress.clone());
        if takes_interims {
            interim::pass_on(&mut request, peer, &self.heads);
        }
        let id = session.as_ref().and_then(session::Session::public_id);
        let affinity = route.upstream.affinity(id, inbound.client.address);
        let patience = self.patience(route, line);
        let server = &mut line.record.server;
        let sent = route.upstream.send(request, affinity, patience, server);
        let answered = sent.await;
        line.record.upstream = line.lap();
        let (mut response, lease) = answered.map_err(|error| {
            let fault = progress.as_deref().and_then(Progress::fault);
            fault.map_or(ProxyError::Upstream(error), ProxyError::Body)
        })?;
        if let Some(progress) = progress {
            progress.answer();
        }

        // 8. to 10. The session, again.
        let upgrade = hyper::upgrade::on(&mut response);
        let (mut head, incoming) = response.into_parts();
        let method = &line.record.method;
        let judged = self
            .judge(&mut head, method, &asked)
            .map_err(ProxyError::Response)?;
        match (session, &route.policy) {
            (Some(session), Some(policy)) => {
                self.close(&mut head, policy, session, &asked, line).await?;
            }
            (_, _) => response::remove_reserved(&mut head.headers, &self.config.names),
        }

        // 11. Answer.
        let arrived = Arrived {
            incoming,
            upgrade,
            lease,
        };
        let pace = Pace {
            pause: self.config.timeouts.upstream_body,
            until: self.end_of(line),
        };
        let then = arrived.then(judged, &mut asked, peer, pace);
        Ok(Reply { head, then })
    }

    /// Makes the head of a request one for the upstream. Who asks for what is in the line from then on.
    fn inbound(
        &self,
        head: &mut Parts,
        framing: Framing,
        peer: &Peer,
        line: &mut Line,
    ) -> Result<Inbound, ProxyError> {
        let inbound = self.heads.forwarder.request_head(head, framing, peer);
        let mut inbound = inbound.map_err(|error| {
            line.record.host = named_host(head);
            ProxyError::Downstream(error)
        })?;
        line.record.host = inbound.client.host.take();
        line.record.client = inbound.client.address;
        // Not before: the client may name it in `Connection`.
        let id = line.record.id.header();
        set_alone(&mut head.headers, &self.config.log.request_id_header, id);
        Ok(inbound)
    }

    /// Removes what an application without sessions must not take for one.
    fn leave_out_session(&self, headers: &mut HeaderMap) {
        if !self.config.cookie.forward {
            cookie::strip(headers, &self.config.cookie.name);
        }
        request::scrub(headers, &self.config.names);
    }

    /// How long the answer is waited for.
    fn patience(&self, route: &RouteState, line: &Line) -> Patience {
        Patience {
            since: line.last_lap(),
            limit: route.response_timeout,
            until: self.end_of(line),
        }
    }

    /// When the exchange has to have ended; `None` where it may take as long as it does.
    fn end_of(&self, line: &Line) -> Option<Instant> {
        let limit = self.config.timeouts.exchange?;
        Some(line.started() + limit)
    }

    fn route(&self, line: &Line, head: &Parts) -> Result<&RouteState, ProxyError> {
        // The last one fits everything.
        if let [only] = self.routes.as_slice() {
            return Ok(only);
        }
        let (host, path) = (line.host(), head.uri.path());
        route::choose(&self.routes, |route| &route.rule, &head.method, host, path)
            .map_err(ProxyError::Route)?
            .ok_or_else(|| ProxyError::Internal("no route fits, not even the last".into()))
    }

    /// Whether the response can be passed on; makes its head one for the client.
    fn judge(
        &self,
        head: &mut http::response::Parts,
        method: &Method,
        asked: &Asked,
    ) -> Result<Judged, ResponseError> {
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let forwarder = &self.heads.forwarder;
        let outbound = forwarder.response_head(head, method, asked.upgrade)?;
        if let Some(challenge) = &asked.challenge {
            challenge.check(head)?;
        }
        if !switches {
            // Before what keeps answers with sessions private.
            additions::add(&mut head.headers, asked.additions.as_ref());
        }
        Ok(Judged { outbound, switches })
    }
}

/// The request for the upstream.
fn outgoing(
    head: Parts,
    body: RequestBody,
    trailers: Trailers,
    route: &RouteState,
) -> Box<Request<RequestBody>> {
    let body = body.with_trailers(trailers).within(route.body_limits);
    Box::new(Request::from_parts(head, body))
}

/// Puts a question into a request that asks for a websocket by an extended CONNECT.
fn challenge(inbound: &Inbound, head: &mut Parts) -> Result<Option<Challenge>, ProxyError> {
    let challenge = inbound.extended.then(|| Challenge::put(head)).transpose();
    challenge.map_err(|error| ProxyError::Internal(error.into()))
}

/// Frees the memory of sessions that nobody asks for any more.
async fn purge(shared: Shared) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        let now = every_second.tick().await;
        shared.purge(now);
    }
}

impl Arrived {
    /// What follows the head that was judged so.
    fn then(self, judged: Judged, asked: &mut Asked, peer: &Arc<Peer>, pace: Pace) -> Then {
        let Self {
            incoming,
            upgrade,
            lease,
        } = self;
        if judged.switches
            && let Some(downstream) = asked.downstream.take()
        {
            return Then::Tunnel(Box::new(Tunnel {
                downstream,
                upstream: upgrade,
                peer: Arc::clone(peer),
                lease,
            }));
        }
        let body = UpstreamBody::new(incoming, judged.outbound.trailers, lease, pace);
        Then::Body(Box::new(body))
    }
}

impl Reply {
    /// Makes the response. The line goes with its body, and is written when that has ended.
    fn finish(self, mut line: Line, tasks: &Tasks, idle: Duration) -> Response<Body> {
        let Self { head, then } = self;
        let status = head.status;
        match then {
            Then::Body(mut body) => {
                line.record.status = status;
                body.when_it_ends(line.on_end());
                Response::from_parts(head, Body::Upstream(body))
            }
            Then::Tunnel(tunnel) => {
                let Tunnel {
                    downstream,
                    upstream,
                    peer,
                    lease,
                } = *tunnel;
                let on_end = move |moved| line.tunnelled(status, moved);
                tunnel::join(downstream, upstream, peer, lease, tasks, idle, on_end);
                Response::from_parts(head, Body::Empty)
            }
        }
    }
}

/// Sets a header, and removes what an application could take for it.
fn set_alone(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    let others = headers
        .keys()
        .filter(|other| contract::folds_alike(other, name));
    for other in others.cloned().collect::<Vec<_>>() {
        headers.remove(other);
    }
    headers.insert(name, value);
}

/// The host that a request names, which may be none: for the log, where it is refused.
fn named_host(head: &Parts) -> Option<HeaderValue> {
    let authority = head.uri.authority();
    let authority = authority.map(|authority| authority.as_str().as_bytes());
    let named = authority.or_else(|| head.headers.get(HOST).map(HeaderValue::as_bytes))?;
    // Before it there may be a password.
    let host = named.rsplit(|&byte| byte == b'@').next()?;
    HeaderValue::from_bytes(host).ok()
}

#[cfg(test)]
mod tests;

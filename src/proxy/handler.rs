//! One exchange, step by step: the only place that talks to the store and to the upstream.
//!
//! The numbers in the comments are those of the crate's documentation.

mod session;

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
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
    forwarder: Arc<Forwarder>,
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

/// What the answer needs to know of the request, which has gone upstream by then.
struct Asked {
    method: http::Method,
    host: Option<HeaderValue>,
    uri: http::Uri,
    upgrade: bool,
    /// With an extended CONNECT, what the upstream was asked.
    challenge: Option<Challenge>,
    downstream: Option<OnUpgrade>,
    secure: bool,
    /// What the answer gets.
    additions: Option<Fields>,
}

impl Asked {
    fn host(&self) -> &str {
        host_of(self.host.as_ref())
    }

    fn path(&self) -> &str {
        self.uri.path()
    }
}

impl Handler for Proxy {
    async fn handle(&self, request: Request<Incoming>, peer: &Arc<Peer>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let id = self.id_of(&head, peer);
        let mut line = Line::begin(self.access.clone(), id.clone(), &head, peer);
        // What is left when there is no reply.
        let mut session = None;
        let mut additions = None;
        let exchange = self.exchange(head, body, peer, &mut session, &mut line, &mut additions);
        let reply = exchange.await;
        let is_last = line.request_has_trailed();
        let mut response = match reply {
            Ok(reply) => {
                let pace = Pace {
                    pause: self.config.timeouts.upstream_body,
                    until: self.end_of(&line),
                };
                reply.finish(line, pace, &self.tasks, self.config.timeouts.tunnel)
            }
            Err(error) => {
                session::give_back(session, &mut line).await;
                let rescue = error.rescue();
                line.failed(&error, rescue.level);
                let mut response = error.respond(&id);
                additions::add(response.headers_mut(), additions.as_ref());
                line.end(response.status(), &response);
                response
            }
        };
        if is_last {
            // hyper takes a bare LF in a trailer section for its end, reads on to the next empty line,
            // and drops what stands between. Whoever sent that may have meant it as a request.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    fn refuse(&self, request: Request<Incoming>, peer: &Arc<Peer>) -> Response<Body> {
        let (head, _) = request.into_parts();
        let id = self.id_of(&head, peer);
        let mut line = Line::begin(self.access.clone(), id, &head, peer);
        let response = super::too_many_fields();
        line.record.error = Some("bad_request");
        line.end(response.status(), &response);
        response
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

/// A response that can be passed on.
struct Answer {
    head: http::response::Parts,
    incoming: Incoming,
    outbound: Outbound,
    /// Whether a change of protocol follows. By HTTP/2, the status does not tell.
    switches: bool,
    upgrade: OnUpgrade,
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
        let id = config.log.request_id_header.clone();
        let is_ours = move |name: &_| *name == id || names.is_reserved(name);
        let forwarder = Forwarder::new(&config.forwarding, is_ours);
        Self {
            config,
            routes,
            forwarder: Arc::new(forwarder),
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
        let adopted = head
            .headers
            .get(&self.config.log.request_id_header)
            .filter(|_| self.forwarder.trusts(peer))
            .and_then(RequestId::adopt);
        adopted.unwrap_or_else(|| self.ids.make())
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
        let body = RequestBody::new(body, !head.headers.contains_key(EXPECT));
        let takes_interims = head.version == Version::HTTP_11 && peer.interims().is_some();
        let downstream = head.extensions.remove::<OnUpgrade>();
        let inbound = self
            .forwarder
            .request_head(&mut head, framing, peer)
            .map_err(ProxyError::Downstream)?;
        // Not before: the client may name it in `Connection`.
        let id = line.record.id.header();
        set_alone(&mut head.headers, &self.config.log.request_id_header, id);
        line.record.client = inbound.client.address;

        // 2. Route.
        let route = self.route(&inbound, &head)?;
        line.record.route = Some(Arc::clone(&route.name));
        let secure = inbound.client.scheme == Scheme::Https;
        *additions = route.additions.over(secure);
        if matches!(framing, Framing::Length(length) if length > route.body_limits.max_bytes) {
            return Err(ProxyError::Body(BodyFault::TooLarge));
        }
        let challenge = challenge(&inbound, &mut head)?;
        let mut asked = Asked {
            method: head.method.clone(),
            host: inbound.client.host.clone(),
            uri: head.uri.clone(),
            upgrade: inbound.upgrade,
            challenge,
            downstream,
            secure,
            additions: additions.clone(),
        };

        // 3. to 6. The session.
        if let Some(policy) = &route.policy {
            self.open(&mut head, policy, &asked, session, line).await?;
        } else {
            if !self.config.cookie.forward {
                cookie::strip(&mut head.headers, &self.config.cookie.name);
            }
            request::scrub(&mut head.headers, &self.config.names);
        }

        // 7. Forward.
        let mut request = outgoing(head, body, inbound.trailers, route);
        let progress = request.body().progress();
        line.count_request(progress.clone());
        if takes_interims {
            interim::pass_on(&mut request, peer, &self.forwarder, &self.config);
        }
        let id = session.as_ref().and_then(session::Session::public_id);
        let affinity = route.upstream.affinity(id, inbound.client.address);
        let patience = Patience {
            since: line.last_lap(),
            limit: route.response_timeout,
            until: self.end_of(line),
        };
        let server = &mut line.record.server;
        let sent = route.upstream.send(request, affinity, patience, server);
        let answered = sent.await;
        line.record.upstream = line.lap();
        let (response, lease) = answered.map_err(|error| {
            let fault = progress.as_deref().and_then(Progress::fault);
            fault.map_or(ProxyError::Upstream(error), ProxyError::Body)
        })?;
        if let Some(progress) = progress {
            progress.answer();
        }

        // 8. to 10. The session, again.
        let mut answer = self.judge(response, &asked).map_err(ProxyError::Response)?;
        let head = &mut answer.head;
        match session {
            Some(session) => self.close(head, session, &asked, line).await?,
            None => response::remove_reserved(&mut head.headers, &self.config.names),
        }

        // 11. Answer.
        Ok(answer.reply(&mut asked, peer, lease))
    }

    /// When the exchange has to have ended; `None` where it may take as long as it does.
    fn end_of(&self, line: &Line) -> Option<Instant> {
        let limit = self.config.timeouts.exchange?;
        Some(line.started() + limit)
    }

    fn route(&self, inbound: &Inbound, head: &Parts) -> Result<&RouteState, ProxyError> {
        // The last one fits everything.
        if let [only] = self.routes.as_slice() {
            return Ok(only);
        }
        let host = host_of(inbound.client.host.as_ref());
        let path = head.uri.path();
        route::choose(&self.routes, |route| &route.rule, &head.method, host, path)
            .map_err(ProxyError::Route)?
            .ok_or_else(|| ProxyError::Internal("no route fits, not even the last".into()))
    }

    /// Whether the response can be passed on; makes its head one for the client.
    fn judge(
        &self,
        mut response: Response<Incoming>,
        asked: &Asked,
    ) -> Result<Answer, ResponseError> {
        let upgrade = hyper::upgrade::on(&mut response);
        let (mut head, incoming) = response.into_parts();
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let outbound = self
            .forwarder
            .response_head(&mut head, &asked.method, asked.upgrade)?;
        if let Some(challenge) = &asked.challenge {
            challenge.check(&mut head)?;
        }
        if !switches {
            // Before what keeps answers with sessions private.
            additions::add(&mut head.headers, asked.additions.as_ref());
        }
        Ok(Answer {
            head,
            incoming,
            outbound,
            switches,
            upgrade,
        })
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

impl Answer {
    fn reply(self, asked: &mut Asked, peer: &Arc<Peer>, lease: Lease) -> Reply {
        let Self {
            head,
            incoming,
            outbound,
            switches,
            upgrade,
        } = self;
        if switches && let Some(downstream) = asked.downstream.take() {
            return Reply::Tunnel {
                head,
                downstream,
                upstream: upgrade,
                peer: Arc::clone(peer),
                lease,
            };
        }
        Reply::Stream {
            head,
            incoming,
            outbound,
            lease,
        }
    }
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

impl Reply {
    /// Makes the response. The line goes with its body, and is written when that has ended.
    fn finish(self, mut line: Line, pace: Pace, tasks: &Tasks, idle: Duration) -> Response<Body> {
        match self {
            Self::Stream {
                head,
                incoming,
                outbound,
                lease,
            } => {
                line.record.status = head.status;
                let (trailers, on_end) = (outbound.trailers, line.on_end());
                let body = UpstreamBody::new(incoming, trailers, lease, pace, on_end);
                Response::from_parts(head, Body::Upstream(Box::new(body)))
            }
            Self::Tunnel {
                head,
                downstream,
                upstream,
                peer,
                lease,
            } => {
                let status = head.status;
                tunnel::join(
                    downstream,
                    upstream,
                    peer,
                    lease,
                    tasks,
                    idle,
                    move |moved| {
                        line.tunnelled(status, moved);
                    },
                );
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

/// The host that was asked for, without its port; empty where HTTP/1.0 named none.
fn host_of(host: Option<&HeaderValue>) -> &str {
    host.map(super::forward::host_name)
        .and_then(|host| std::str::from_utf8(host).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;

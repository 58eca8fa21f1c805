//! What an exchange does with its session before the request goes upstream, and after the response
//! head has come: steps 3 to 6, and 8 to 10.

use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;

use super::{Asked, Proxy};
use crate::clock::Timestamp;
use crate::config::RoutePolicy;
use crate::contract::request::{self, State, View, injected_size};
use crate::contract::response::{self, Extracted, SignalError, Signals};
use crate::cookie::{self, Issued, Presented};
use crate::exchange::{
    Bind, Carried, CookieChange, OnStoreError, Refusal, Visit, is_shown, page_path, redirect_target,
};
use crate::proxy::cache_guard;
use crate::proxy::claim::ClaimGuard;
use crate::proxy::line::Line;
use crate::proxy::rescue::ProxyError;
use crate::proxy::sessions::{CommitError, Committed, Ending, Held, Open, Presence};
use crate::session::{PublicId, SessionId};
use crate::store::{Freshness, StoreError};
use crate::telemetry::access::{CookieOutcome, RecordOutcome, WriteOutcome};
use crate::telemetry::chain;

/// What has been found out before the request goes upstream.
#[derive(Debug)]
pub(super) struct Session {
    presence: Presence,
    carried: Carried,
    cookie_presented: bool,
    /// The version of the signed value in it; `None` unless it is valid.
    cookie_version: Option<u8>,
    claim: Option<ClaimGuard>,
}

impl Session {
    /// The session's public id; `None` when there is none.
    pub(super) fn public_id(&self) -> Option<&PublicId> {
        let held = self.presence.held()?;
        Some(&held.session().public_id)
    }

    /// What its end needs to know of it; the claim and the cookie stay.
    fn end(&mut self, issued: &Issued, policy: &Arc<RoutePolicy>) -> Open {
        Open {
            presence: std::mem::replace(&mut self.presence, Presence::NotAsked),
            carried: std::mem::take(&mut self.carried),
            cookie_presented: self.cookie_presented,
            adopted: match issued {
                Issued::Session(id) => Some(id.clone()),
                Issued::Nothing | Issued::Other => None,
            },
            policy: Arc::clone(policy),
        }
    }
}

impl Proxy {
    /// Steps 3 to 6: from the cookie to the request headers. What is found is left in `slot`, also
    /// when this fails: it may have to be [given back](give_back).
    pub(super) async fn open(
        &self,
        parts: &mut Parts,
        policy: &Arc<RoutePolicy>,
        slot: &mut Option<Session>,
        line: &mut Line,
    ) -> Result<(), ProxyError> {
        // 3. Cookie.
        let presented = cookie::read(&parts.headers, &self.config.cookie, line.now());
        if !self.config.cookie.forward {
            cookie::strip(&mut parts.headers, &self.config.cookie.name);
        }
        line.record.cookie = cookie_word(&presented);
        let session = slot.insert(Session {
            presence: Presence::NotAsked,
            carried: Carried::default(),
            cookie_presented: presented != Presented::Absent,
            cookie_version: None,
            claim: None,
        });

        // 4. Load, 5. Notifications.
        if let Presented::Verified { id, version, .. } = presented {
            session.cookie_version = Some(version);
            let found = self.load(&id, parts, policy, session, line).await;
            line.lap_store();
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
                    return Err(ProxyError::Store(error));
                }
            }
        }
        line.record.record = record_word(&session.presence);
        line.record.session = session.public_id().copied();
        line.record.claimed = match session.carried.claim {
            Some(_) => u32::try_from(session.carried.entries.len()).unwrap_or(u32::MAX),
            None => 0,
        };

        self.show(parts, policy, session, line)
    }

    /// Step 6: sets the request headers, after all of their kind that the client sent are gone.
    fn show(
        &self,
        parts: &mut Parts,
        policy: &RoutePolicy,
        session: &Session,
        line: &Line,
    ) -> Result<(), ProxyError> {
        let names = &self.config.names;
        request::scrub(&mut parts.headers, names);
        let held = session.presence.held();
        let notifications = held
            .filter(|_| !session.carried.is_empty())
            .map(|held| held.session().notifications.text(&session.carried.entries));
        let view = View {
            state: match &session.presence {
                Presence::Found(_) => State::Active,
                Presence::Unavailable => State::Unavailable,
                Presence::NotAsked | Presence::Missing | Presence::Gone => State::None,
            },
            session: held.map(Held::session),
            notifications: notifications.as_ref(),
        };
        match request::apply(&mut parts.headers, names, &policy.contract, &view) {
            Ok(unsent) if unsent.is_empty() => Ok(()),
            Ok(unsent) => {
                tracing::warn!(request = line.id(), headers = ?unsent, "injected headers were not sent: their values do not fit into a header as utf-8; choose another `encode`");
                Ok(())
            }
            Err(request::ApplyError::OverBudget(error)) => Err(ProxyError::Internal(error.into())),
            Err(request::ApplyError::Damaged(error)) => {
                Err(ProxyError::Store(StoreError::Corrupt(error.into())))
            }
        }
    }

    /// Loads the session of `id`, and claims what the request shows.
    async fn load(
        &self,
        id: &SessionId,
        parts: &Parts,
        policy: &Arc<RoutePolicy>,
        session: &mut Session,
        line: &Line,
    ) -> Result<Presence, StoreError> {
        let now = line.now();
        let freshness = if policy.session.strict {
            Freshness::Fresh
        } else {
            Freshness::Near
        };
        let loaded = self.sessions.load(id, policy, now, freshness).await?;
        let Some(held) = loaded else {
            return Ok(Presence::Missing);
        };
        if held.session().notifications.is_empty() {
            return Ok(Presence::Found(held));
        }
        let visit = Visit::of(&parts.method, &parts.headers);
        let path = match policy.notifications.bind {
            Bind::None => None,
            Bind::Redirect => page_path(line.host(), line.path()),
        };
        let path = path.as_deref().unwrap_or(line.path());
        let token = getrandom::u64().map_err(|error| StoreError::Refused(error.into()))?;
        // Before the first write: if this exchange ends in the middle of it, somebody still knows.
        session.claim = Some(ClaimGuard::new(
            Arc::clone(&self.sessions),
            held.id.clone(),
            token,
            Arc::clone(policy),
        ));
        // Boxed like all that is rare: it would make the future of every exchange larger.
        let claimed = Box::pin(self.sessions.claim(held, policy, visit, path, token)).await;
        let presence = match claimed? {
            Some((held, carried)) => {
                session.carried = carried;
                Presence::Found(held)
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

    /// Steps 8 to 10, and the cookie: what the application asked for is stored when this returns.
    /// When it fails, `session` may have to be [given back](give_back).
    pub(super) async fn close(
        &self,
        parts: &mut http::response::Parts,
        policy: &Arc<RoutePolicy>,
        session: &mut Session,
        asked: &Asked,
        line: &mut Line,
    ) -> Result<(), ProxyError> {
        // 8. Signals.
        let extracted = response::extract(&mut parts.headers, &self.config.names, &policy.contract);
        let mut signals = judge(extracted, line)?;
        let issued = if self.config.cookie.forward {
            cookie::issued(&parts.headers, &self.config.cookie, line.now())
        } else {
            Issued::Nothing
        };
        if let Issued::Session(_) = issued {
            // It has just been made.
            signals.renew = false;
        }
        self.explain_refusal(parts.status, policy, session, line);
        let held = session.presence.held().filter(|held| held.moved);
        let moved = held.map(|held| (held.id.clone(), held.session().persist));

        // 9. Plan, 10. Commit.
        let shown = !session.carried.is_empty()
            && is_shown(policy.notifications.consume, parts.status, &parts.headers);
        let ending = Ending::Response {
            target: target(parts, policy, &signals, line),
            signals,
            shown,
        };
        let commit = self
            .sessions
            .commit(session.end(&issued, policy), ending, line.now());
        let mut committed = settle(commit.await, session, shown, line)?;

        if let Some((id, persist)) = moved
            && committed.cookie == CookieChange::Keep
        {
            // The one that came may be of the other program, and its time is nearer to its end.
            committed.cookie = CookieChange::Issue { persist };
            committed.id = committed.id.or(Some(id));
        }
        if issued != Issued::Nothing {
            // Two cookies of one name would be a matter of luck.
            committed.cookie = CookieChange::Keep;
            if policy.cache_guard {
                cache_guard::keep_private(&mut parts.headers);
            }
        }
        let presented = session.cookie_version;
        self.set_cookie(parts, &committed, policy, presented, asked, line.now());
        Ok(())
    }

    /// An application server that refuses a request for its size gives no reason that its users
    /// would find; the log does.
    fn explain_refusal(
        &self,
        status: StatusCode,
        policy: &RoutePolicy,
        session: &Session,
        line: &Line,
    ) {
        const TOO_LARGE: [u16; 4] = [400, 413, 431, 494];
        /// Less than this is no reason for any server to refuse a request.
        const MUCH: usize = 1024;
        let (true, Some(held)) = (
            TOO_LARGE.contains(&status.as_u16()),
            session.presence.held(),
        ) else {
            return;
        };
        let text = held.session().notifications.text(&session.carried.entries);
        let waiting = (!session.carried.is_empty()).then_some(text);
        let bytes = injected_size(
            &self.config.names,
            &policy.contract,
            held.session(),
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
        parts: &mut http::response::Parts,
        committed: &Committed,
        policy: &RoutePolicy,
        presented: Option<u8>,
        asked: &Asked,
        now: Timestamp,
    ) {
        let rules = &self.config.cookie;
        let cookie = match (committed.cookie, &committed.id) {
            (CookieChange::Issue { persist }, Some(id)) => {
                let secure = asked.secure;
                Some(cookie::issue(rules, id, presented, persist, secure, now))
            }
            (CookieChange::Expire, _) => Some(cookie::expire(rules, asked.secure)),
            (CookieChange::Keep | CookieChange::Issue { .. }, _) => None,
        };
        if policy.cache_guard {
            cache_guard::vary_by_cookie(&mut parts.headers);
            if cookie.is_some() {
                cache_guard::keep_private(&mut parts.headers);
            }
        }
        if let Some(cookie) = cookie {
            parts.headers.append(http::header::SET_COOKIE, cookie);
        }
    }
}

/// Frees what a request holds that will not be answered, before the client learns of it: its next
/// request must find everything in its place.
pub(super) async fn give_back(session: Option<Session>, line: &mut Line) {
    if let Some(claim) = session.and_then(|session| session.claim) {
        line.record.returned = line.record.claimed;
        Box::pin(claim.give_back()).await;
    }
}

/// The path for which the notifications wait that the answer leaves.
fn target(
    parts: &http::response::Parts,
    policy: &RoutePolicy,
    signals: &Signals,
    line: &Line,
) -> Option<String> {
    if signals.patch.announce.is_empty() {
        return None;
    }
    let bind = policy.notifications.bind;
    let (host, path) = (line.host(), line.path());
    redirect_target(bind, host, path, parts.status, &parts.headers)
}

/// Draws the conclusions from the outcome of a commit. What was claimed is settled unless it failed.
fn settle(
    outcome: Result<Committed, CommitError>,
    session: &mut Session,
    shown: bool,
    line: &mut Line,
) -> Result<Committed, ProxyError> {
    let committed = match outcome {
        Ok(committed) if committed.wrote == WriteOutcome::Nothing => committed,
        Ok(committed) => {
            line.lap_store();
            committed
        }
        Err(error) => {
            line.lap_store();
            line.record.wrote = WriteOutcome::Failed;
            return Err(commit_failed(error));
        }
    };
    line.record.wrote = committed.wrote;
    if let (WriteOutcome::Created, Some(id)) = (committed.wrote, &committed.id) {
        line.record.session = Some(id.public_id());
    }
    if let Some(claim) = session.claim.take() {
        claim.settled();
        if shown {
            line.record.shown = line.record.claimed;
        } else {
            line.record.returned = line.record.claimed;
        }
    }
    Ok(committed)
}

/// Whether the signals can be followed; what is wrong with them goes to the log.
fn judge(extracted: Extracted, line: &Line) -> Result<Signals, ProxyError> {
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

fn commit_failed(error: CommitError) -> ProxyError {
    match error {
        CommitError::Refused(refusal @ (Refusal::Limit(_) | Refusal::Budget(_))) => {
            ProxyError::Signals(refusal.into())
        }
        CommitError::Refused(Refusal::Damaged(error)) => {
            ProxyError::Store(StoreError::Corrupt(error.into()))
        }
        CommitError::Refused(Refusal::NoRandomness(error)) => ProxyError::Internal(error.into()),
        // The store is fine; what the application asked for is not.
        CommitError::Store(StoreError::Unfit(cause)) => ProxyError::Signals(cause),
        CommitError::Store(error) => ProxyError::Store(error),
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

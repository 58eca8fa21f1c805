//! What to store and which cookie to set.

use super::{Carried, Create, SessionPolicy};
use crate::clock::Timestamp;
use crate::contract::request::{OverBudget, injected_size};
use crate::contract::response::Signals;
use crate::contract::{ContractPolicy, Names};
use crate::format;
use crate::session::{JsonError, LimitExceeded, Occasion, Session, SessionId};

/// What is known of the record.
#[derive(Clone, Copy, Debug)]
pub enum Loaded<'a> {
    /// The browser presented no valid id, so the store was not asked.
    NotAsked,
    /// The id has no record, or its session is past its end.
    Missing,
    /// The session.
    Found(&'a Session),
    /// It was there when the request came and is not there any more: somebody logged out, or it
    /// expired, while the application was answering.
    Gone,
    /// The store could not be read, and the policy says to go on without a session.
    Unavailable,
}

/// What came of the request.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// The application answered.
    Response {
        /// What it asked for.
        signals: &'a Signals,
        /// Whether the answer uses up the notifications that the request carried.
        shown: bool,
        /// The path for which the notifications that it leaves wait.
        target: Option<&'a str>,
    },
    /// It did not, or what it answered can't go out.
    Failed,
}

/// All that a plan depends on but for the rules.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Whether the browser sent a session cookie, valid or not.
    pub cookie_presented: bool,
    /// What is known of the record.
    pub loaded: Loaded<'a>,
    /// What came of the request.
    pub answer: Answer<'a>,
    /// The notifications that the request carried.
    pub carried: &'a Carried,
    /// The id of the first notification that the response leaves: random.
    pub first_entry: u64,
    /// The time.
    pub now: Timestamp,
}

/// The route's rules that a plan follows.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Lifetimes and limits.
    pub session: &'a SessionPolicy,
    /// The header budget.
    pub contract: &'a ContractPolicy,
    /// The names of the headers that count against it.
    pub names: &'a Names,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// To the store.
    pub write: Write,
    /// To the browser.
    pub cookie: CookieChange,
}

/// What to do to the store. Sessions are boxed, since most exchanges write nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing.
    Nothing,
    /// Nothing, though the application asked for something: the session is gone, or the store
    /// was unavailable and the application was told so.
    Drop,
    /// Begin a session under this id.
    Create(SessionId, Box<Session>),
    /// Write the record anew.
    Replace(Box<Session>),
    /// Write the record anew only to prolong it.
    Touch(Box<Session>),
    /// Go on under this id: create its record, then end the old one.
    Renew(SessionId, Box<Session>),
    /// End the session.
    Destroy,
}

/// What to do to the browser's cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieChange {
    /// Leave it.
    Keep,
    /// Set it for the id that the record has now.
    Issue {
        /// Whether it outlives the browser; `None` is as configured.
        persist: Option<bool>,
    },
    /// Take it away.
    Expire,
}

/// Why signals are not carried out. Nothing of them is.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The session would break a limit.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// The session would not fit into the request headers any more.
    #[error(transparent)]
    Budget(#[from] OverBudget),
    /// The stored values can't be read.
    #[error("the record's values can't be read")]
    Damaged(#[from] JsonError),
    /// The operating system gives no randomness for an id.
    #[error("no randomness for a session id")]
    NoRandomness(#[from] getrandom::Error),
}

const NOTHING: Plan = Plan {
    write: Write::Nothing,
    cookie: CookieChange::Keep,
};

/// Decides what to store and which cookie to set.
///
/// | record | destroy | renew | other signals | none |
/// |---|---|---|---|---|
/// | not asked | expire the cookie, if one came | as other signals | create, if something is stored | nothing |
/// | missing | expire the cookie | as other signals | create, if something is stored | nothing |
/// | found | destroy, expire the cookie | new id | replace, if something changes | touch, if it is time |
/// | gone | expire the cookie | create, if something is stored | drop | nothing |
/// | unavailable | drop | drop | drop | nothing |
///
/// With `create = "always"`, "not asked" and "missing" begin a session in any case. An answer that
/// failed changes nothing but what the exchange holds: it is given back.
///
/// A login (`renew`) that finds its old session gone begins a new one of what it stores: nothing
/// of the old one comes back. Every other write to a session that is gone is dropped.
///
/// `new_id` draws an id, if one is needed.
///
/// # Errors
///
/// [`Refusal`]: the signals can't be carried out, and nothing of them must be.
pub fn plan(
    situation: &Situation<'_>,
    rules: &Rules<'_>,
    new_id: impl FnOnce() -> Result<SessionId, getrandom::Error>,
) -> Result<Plan, Refusal> {
    let Answer::Response { signals, .. } = situation.answer else {
        return Ok(give_back(situation));
    };
    match situation.loaded {
        Loaded::Unavailable => Ok(dropped_unless_empty(signals)),
        Loaded::Found(_) if signals.destroy => Ok(Plan {
            write: Write::Destroy,
            cookie: CookieChange::Expire,
        }),
        Loaded::Found(session) => change(session, situation, signals, rules, new_id),
        Loaded::NotAsked | Loaded::Missing | Loaded::Gone if signals.destroy => Ok(Plan {
            write: Write::Nothing,
            cookie: if situation.cookie_presented {
                CookieChange::Expire
            } else {
                CookieChange::Keep
            },
        }),
        Loaded::Gone if !signals.renew => Ok(dropped_unless_empty(signals)),
        Loaded::NotAsked | Loaded::Missing | Loaded::Gone => {
            begin(situation, signals, rules, new_id)
        }
    }
}

/// The plan of an exchange that failed.
fn give_back(situation: &Situation<'_>) -> Plan {
    let (Loaded::Found(session), Some(token)) = (situation.loaded, situation.carried.claim) else {
        return NOTHING;
    };
    let mut after = session.clone();
    after.notifications.give_back(token);
    if after == *session {
        return NOTHING;
    }
    after.refreshed = situation.now;
    Plan {
        write: Write::Replace(Box::new(after)),
        cookie: CookieChange::Keep,
    }
}

fn dropped_unless_empty(signals: &Signals) -> Plan {
    let write = if *signals == Signals::default() {
        Write::Nothing
    } else {
        Write::Drop
    };
    Plan {
        write,
        cookie: CookieChange::Keep,
    }
}

/// The plan for a session that is there.
fn change(
    session: &Session,
    situation: &Situation<'_>,
    signals: &Signals,
    rules: &Rules<'_>,
    new_id: impl FnOnce() -> Result<SessionId, getrandom::Error>,
) -> Result<Plan, Refusal> {
    let now = situation.now;
    let wants_touch = rules.session.lifetimes.wants_touch(session, now);
    // Most exchanges ask for nothing: they do not even copy the session.
    let asks = signals.renew || !signals.patch.is_empty() || situation.carried.claim.is_some();
    if !asks && !wants_touch {
        return Ok(NOTHING);
    }
    let mut after = signals.patch.apply(session, &occasion(situation))?;
    if after != *session {
        check(&after, rules)?;
    }
    if let Some(token) = situation.carried.claim {
        match situation.answer {
            Answer::Response { shown: true, .. } => after.notifications.confirm(token),
            Answer::Response { shown: false, .. } | Answer::Failed => {
                after.notifications.give_back(token);
            }
        }
    }
    let changed = after != *session;
    let persist_changed = after.persist != session.persist;
    after.refreshed = now;
    let issue = CookieChange::Issue {
        persist: after.persist,
    };
    let after = Box::new(after);
    let (write, cookie) = if signals.renew {
        (Write::Renew(new_id()?, after), issue)
    } else if changed && persist_changed {
        (Write::Replace(after), issue)
    } else if changed {
        (Write::Replace(after), CookieChange::Keep)
    } else if wants_touch {
        (Write::Touch(after), CookieChange::Keep)
    } else {
        return Ok(NOTHING);
    };
    Ok(Plan { write, cookie })
}

/// The plan for a browser without a session.
fn begin(
    situation: &Situation<'_>,
    signals: &Signals,
    rules: &Rules<'_>,
    new_id: impl FnOnce() -> Result<SessionId, getrandom::Error>,
) -> Result<Plan, Refusal> {
    let always = rules.session.create == Create::Always
        && matches!(situation.loaded, Loaded::NotAsked | Loaded::Missing);
    // Most responses carry no signals: nothing to draw an id for.
    if !always && signals.patch.set.is_empty() && signals.patch.announce.is_empty() {
        return Ok(NOTHING);
    }
    let id = new_id()?;
    let session = signals
        .patch
        .apply(&Session::begin(&id, situation.now), &occasion(situation))?;
    if !always && session.values.is_empty() && session.notifications.is_empty() {
        return Ok(NOTHING);
    }
    check(&session, rules)?;
    let persist = session.persist;
    Ok(Plan {
        write: Write::Create(id, Box::new(session)),
        cookie: CookieChange::Issue { persist },
    })
}

fn occasion<'a>(situation: &Situation<'a>) -> Occasion<'a> {
    Occasion {
        delivered: &situation.carried.entries,
        first_entry: situation.first_entry,
        target: match situation.answer {
            Answer::Response { target, .. } => target,
            Answer::Failed => None,
        },
        now: situation.now,
    }
}

/// Checks that a session keeps within its limits, and fits into request headers with all that
/// waits.
///
/// # Errors
///
/// The first limit that it breaks.
pub fn check(session: &Session, rules: &Rules<'_>) -> Result<(), Refusal> {
    let limits = rules.session.limits;
    limits.check(session)?;
    let size = format::native::encoded_len(session);
    if size > limits.max_record_bytes {
        return Err(LimitExceeded::Record {
            size,
            limit: limits.max_record_bytes,
        }
        .into());
    }
    let waiting = (!session.notifications.is_empty()).then(|| session.notifications.text_of_all());
    let size = injected_size(rules.names, rules.contract, session, waiting.as_deref());
    if size > rules.contract.budget {
        return Err(OverBudget {
            size,
            budget: rules.contract.budget,
        }
        .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;

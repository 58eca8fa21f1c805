//! What the application sees: our request headers.
//!
//! First [`scrub`] removes everything in our namespace that a client sent, on every request of
//! every route; then [`apply`] sets ours. Nothing here asks whether a client's header would have
//! been overwritten anyway: what is not set must not survive either.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{KeyRef, ListSerializer, RefBareItem, StringRef, TokenRef, key_ref};

use super::names::Field;
use super::{ContractPolicy, Names};
use crate::session::{JsonError, Opaque, PublicId, Session, Values};

/// The parameter that says why a value can't be shown.
const KIND: &KeyRef = key_ref("kind");

/// What one exchange shows to the application.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What `X-Session-State` says.
    pub state: State,
    /// The session, if there is one.
    pub session: Option<&'a Session>,
    /// The notifications that are delivered with this exchange, as the text of one JSON object in
    /// the spelling of [`Values`]; `None` when there are none.
    ///
    /// Whoever claims notifications for a route claims only those that the route
    /// [exposes](ContractPolicy::exposes): others are not sent, and must not count as delivered.
    pub notifications: Option<&'a Bytes>,
}

/// What `X-Session-State` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no session.
    None,
    /// There is one.
    Active,
    /// The store is down, and the route goes on without.
    Unavailable,
}

/// Our headers can't be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// They are larger than the application can be expected to take.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// The text of the session or of the notifications is not what its type promises: the record
    /// was damaged in a way that its checksum did not show.
    #[error("the session's text is damaged")]
    Damaged(#[from] JsonError),
}

/// The injected header lines are larger than `headers.budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request headers of the session take {size} bytes, the budget is {budget} bytes")]
pub struct OverBudget {
    /// Bytes that the lines would take.
    pub size: usize,
    /// Bytes that they may take.
    pub budget: usize,
}

/// Removes every header, with all its lines, that only we may send. For the head of every request
/// and, with the same rule, for its trailers.
pub fn scrub(headers: &mut HeaderMap, names: &Names) {
    names.remove_from(headers);
}

/// Sets our headers, over whatever is there. Returns the headers of `[headers.inject]` that were not
/// set because their `encode` can't write the value (control characters with `utf-8`), for the log.
///
/// - `X-Session`: the values, an empty object when there is no session;
/// - `X-Session-Id`: only with a session;
/// - `X-Session-State`: always;
/// - `X-Notifications`: only when some are delivered;
/// - `X-Session-Opaque`: only when there are values that can't be shown (RFC 9651 list);
/// - those of `[headers.inject]`: only when the session has the value and it is not `null`, which
///   an application would take for text.
///
/// Where the route exposes only some names, the values and notifications of others are in none of
/// these headers. With [`Encoding::Json`](super::Encoding::Json), no `expose` and no `inject`, no
/// JSON is parsed and no text copied.
///
/// # Errors
///
/// Nothing is set then, and the request should not be sent: the application would take it for one
/// without a session.
///
/// - [`ApplyError::OverBudget`]: the session was changed under a larger budget, on another route or
///   before the configuration changed. Notifications that make the difference can be left for later
///   by applying a view without them;
/// - [`ApplyError::Damaged`]: the text in the record is damaged.
pub fn apply(
    headers: &mut HeaderMap,
    names: &Names,
    policy: &ContractPolicy,
    view: &View<'_>,
) -> Result<Vec<HeaderName>, ApplyError> {
    let rendered = Rendered::new(policy, view)?;
    let (size, budget) = (rendered.size(names), policy.budget);
    if size > budget {
        return Err(OverBudget { size, budget }.into());
    }
    let Rendered {
        fixed,
        injected,
        unwritable,
    } = rendered;
    for (field, value) in fixed {
        if let Some(value) = value {
            headers.insert(names.get(field), value);
        }
    }
    for (header, value) in injected {
        headers.insert(header, value);
    }
    Ok(unwritable)
}

/// The bytes of all header lines that [`apply`] would set for this session and these notifications:
/// of each its name, `": "`, its value and the line's end.
///
/// For the check of a patch: a session over the budget is refused when it is made. Text that is not
/// what its type promises counts as endlessly large.
pub fn injected_size(
    names: &Names,
    policy: &ContractPolicy,
    session: &Session,
    notifications: Option<&[u8]>,
) -> usize {
    let notifications = notifications.map(Bytes::copy_from_slice);
    let view = View {
        state: State::Active,
        session: Some(session),
        notifications: notifications.as_ref(),
    };
    Rendered::new(policy, &view).map_or(usize::MAX, |rendered| rendered.size(names))
}

impl ContractPolicy {
    /// Whether values and notifications of this name are sent and can be changed.
    pub fn exposes(&self, name: &str) -> bool {
        self.expose
            .as_ref()
            .is_none_or(|names| names.iter().any(|exposed| exposed == name))
    }
}

/// All our headers of one request.
struct Rendered<'p> {
    fixed: [(Field, Option<HeaderValue>); 5],
    injected: Vec<(&'p HeaderName, HeaderValue)>,
    unwritable: Vec<HeaderName>,
}

impl<'p> Rendered<'p> {
    fn new(policy: &'p ContractPolicy, view: &View<'_>) -> Result<Self, JsonError> {
        let values = view.session.map(|session| &session.values);
        let session = match values {
            Some(values) => object(policy, values.as_bytes())?,
            None => policy.encoding.empty(),
        };
        let notifications = view.notifications.map(|text| object(policy, text));
        let mut rendered = Self {
            fixed: [
                (Field::Session, Some(session)),
                (
                    Field::SessionId,
                    view.session.map(|session| id(&session.public_id)),
                ),
                (Field::SessionState, Some(view.state.header_value())),
                (Field::Notifications, notifications.transpose()?),
                (
                    Field::SessionOpaque,
                    view.session
                        .filter(|session| !session.opaque.names.is_empty())
                        .and_then(|session| opaque(policy, &session.opaque)),
                ),
            ],
            injected: Vec::new(),
            unwritable: Vec::new(),
        };
        if let Some(values) =
            values.filter(|values| !policy.inject.is_empty() && !values.is_empty())
        {
            rendered.inject(policy, values)?;
        }
        Ok(rendered)
    }

    fn inject(&mut self, policy: &'p ContractPolicy, values: &Values) -> Result<(), JsonError> {
        let values = values.to_map()?;
        for inject in &policy.inject {
            let Some(value) = values.get(&inject.value) else {
                continue;
            };
            if value.as_str() == "null" || !policy.exposes(&inject.value) {
                continue;
            }
            match inject.encode.header_value(value) {
                Ok(value) => self.injected.push((&inject.header, value)),
                Err(_unwritable) => self.unwritable.push(inject.header.clone()),
            }
        }
        Ok(())
    }

    fn size(&self, names: &Names) -> usize {
        let line = |name: &HeaderName, value: &HeaderValue| {
            name.as_str().len() + ": ".len() + value.len() + "\r\n".len()
        };
        let fixed = self.fixed.iter().filter_map(|(field, value)| {
            value.as_ref().map(|value| line(names.get(*field), value))
        });
        let injected = self.injected.iter().map(|(name, value)| line(name, value));
        fixed.chain(injected).sum()
    }
}

/// A session's or notifications' text without the names that are not exposed.
fn object(policy: &ContractPolicy, text: &Bytes) -> Result<HeaderValue, JsonError> {
    if policy.expose.is_none() {
        return policy.encoding.header_value(text);
    }
    let mut values = Values::from_canonical(text.clone()).to_map()?;
    values.retain(|name, _| policy.exposes(name));
    policy
        .encoding
        .header_value(Values::from_map(&values).as_bytes())
}

/// The names that can't be shown, each with what is in the way: `"when";kind=object`. `None` when
/// the route exposes none of them.
fn opaque(policy: &ContractPolicy, opaque: &Opaque) -> Option<HeaderValue> {
    let mut list = ListSerializer::new();
    for (name, kind) in &opaque.names {
        if !policy.exposes(name) {
            continue;
        }
        let item = match StringRef::from_str(name) {
            Ok(ascii) => list.bare_item(ascii),
            Err(_wider) => list.bare_item(RefBareItem::DisplayString(name)),
        };
        if let Ok(kind) = TokenRef::from_str(kind) {
            let _ = item.parameter(KIND, kind);
        }
    }
    let mut value = HeaderValue::try_from(list.finish()?).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn id(id: &PublicId) -> HeaderValue {
    HeaderValue::from_bytes(&id.text()).expect("base64url is visible ASCII")
}

impl State {
    const fn header_value(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::None => "none",
            Self::Active => "active",
            Self::Unavailable => "unavailable",
        })
    }
}

#[cfg(test)]
mod tests;

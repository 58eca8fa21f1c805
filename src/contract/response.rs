//! What the application says: signals in response headers.
//!
//! | header | grammar |
//! |---|---|
//! | `X-Session-Set`, `X-Notifications-Set`, `X-Notifications-Add` | JSON objects and form-encoded pairs, joined by commas; a comma inside a pair's value is written `%2C` |
//! | `X-Session-Delete`, `X-Notifications-Taken` | RFC 9651 list of tokens, strings or display strings |
//! | `X-Session-Control` | RFC 9651 dictionary of `clear`, `renew`, `destroy`, `ttl`, `persist` |
//! | those of `[headers.capture]` | UTF-8 text |
//!
//! [`extract`] reads them, checks them as a whole, and removes them, so that no client sees them.

mod error;
mod pairs;
mod structured;

pub use error::{Position, Rule, SignalError};

use http::header::GetAll;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::names::Field;
use super::{ContractPolicy, Names, OnBadSignal};
use crate::session::{Announcement, Json, Patch, Taken};
use error::Fault;
use pairs::Pair;
use structured::Control;

/// What the application asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// End the session and the cookie. Then there is neither a `renew` nor a patch.
    pub destroy: bool,
    /// A new id with the same values.
    pub renew: bool,
    /// What to change.
    pub patch: Patch,
}

/// What the head of a response said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "signals that are not carried out are lost: they are no longer in the response"]
pub struct Extracted {
    /// What to do; or, with [`OnBadSignal::Fail`], every malformed signal, and the exchange fails.
    pub signals: Result<Signals, Vec<SignalError>>,
    /// Malformed signals that were dropped ([`OnBadSignal::Ignore`]), for the log.
    pub dropped: Vec<SignalError>,
    /// Reserved headers that were removed and have no meaning here, for the log: misspelt ones, or
    /// all of them where the route allows no signals.
    pub ignored: Vec<HeaderName>,
}

impl Default for Extracted {
    fn default() -> Self {
        Self {
            signals: Ok(Signals::default()),
            dropped: Vec::new(),
            ignored: Vec::new(),
        }
    }
}

/// Reads the signals of a response head and removes every reserved header from it, whatever the
/// outcome.
///
/// A response without any costs one look at each name and no allocation. The headers of
/// `policy.capture` must have been [reserved](Names::reserve).
///
/// - All lines of a header count, in their order; also several signals in one line, joined by
///   commas. Of a captured header, the last line counts.
/// - Captured headers come before `X-Session-Set`, so that the explicit signal wins, and
///   `X-Notifications-Set` before `X-Notifications-Add`: a header map keeps no order between
///   different headers.
/// - A route that exposes only some names can change only those: another name is an error, and
///   `clear` deletes the exposed ones.
/// - With `destroy` nothing else counts, but everything else must be well-formed.
/// - With [`OnBadSignal::Ignore`] a malformed header is dropped with all its lines: a server or
///   library may have joined them to one, and that must make no difference.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use pycket::contract::{ContractPolicy, Encoding, Names, OnBadSignal, response};
///
/// let policy = ContractPolicy {
///     encoding: Encoding::Json,
///     expose: None,
///     inject: vec![],
///     capture: vec![],
///     signals: true,
///     on_bad_signal: OnBadSignal::Fail,
///     budget: 4096,
/// };
/// let mut headers = HeaderMap::new();
/// headers.insert("x-session-set", HeaderValue::from_static("user=alice"));
/// headers.insert("x-session-control", HeaderValue::from_static("renew"));
/// let signals = response::extract(&mut headers, &Names::default(), &policy).signals.unwrap();
/// assert!(signals.renew);
/// assert_eq!(signals.patch.set[0].0, "user");
/// assert!(headers.is_empty());
/// ```
pub fn extract(headers: &mut HeaderMap, names: &Names, policy: &ContractPolicy) -> Extracted {
    let reserved = names.reserved_in(headers);
    if reserved.is_empty() {
        return Extracted::default();
    }
    let mut extracted = if policy.signals {
        Reader::new(headers, names, policy).read()
    } else {
        Extracted::default()
    };
    for name in reserved {
        headers.remove(&name);
        if !(policy.signals && has_meaning(&name, names, policy)) {
            extracted.ignored.push(name);
        }
    }
    extracted
}

/// Removes every reserved header: from trailers, from interim (1xx) responses, and from responses
/// of routes without sessions, where they have no effect.
pub fn remove_reserved(headers: &mut HeaderMap, names: &Names) {
    names.remove_from(headers);
}

fn has_meaning(header: &HeaderName, names: &Names, policy: &ContractPolicy) -> bool {
    Field::SIGNALS
        .iter()
        .any(|field| names.get(*field) == header)
        || policy
            .capture
            .iter()
            .any(|capture| capture.header == *header)
}

/// The lines of one header.
type Lines<'a> = GetAll<'a, HeaderValue>;

struct Reader<'a> {
    headers: &'a HeaderMap,
    names: &'a Names,
    policy: &'a ContractPolicy,
    errors: Vec<SignalError>,
}

impl<'a> Reader<'a> {
    fn new(headers: &'a HeaderMap, names: &'a Names, policy: &'a ContractPolicy) -> Self {
        Self {
            headers,
            names,
            policy,
            errors: Vec::new(),
        }
    }

    fn read(mut self) -> Extracted {
        let mut set = self.captured();
        set.extend(self.field(Field::SessionSet, pairs::parse));
        let delete = self.field(Field::SessionDelete, structured::names);
        let control = self.field(Field::SessionControl, structured::control);
        let mut announce = self.announcements(Field::NotificationsSet, false);
        announce.extend(self.announcements(Field::NotificationsAdd, true));
        let taken = self.field(Field::NotificationsTaken, structured::taken);

        let mut extracted = Extracted::default();
        match self.policy.on_bad_signal {
            OnBadSignal::Fail if !self.errors.is_empty() => {
                extracted.signals = Err(self.errors);
            }
            OnBadSignal::Fail | OnBadSignal::Ignore => {
                extracted.dropped = self.errors;
                extracted.signals = Ok(assemble(
                    &control,
                    self.policy,
                    set,
                    delete,
                    announce,
                    taken,
                ));
            }
        }
        extracted
    }

    /// Reads all lines of one signal; notes what is wrong with it.
    fn field<T: Default>(
        &mut self,
        field: Field,
        parse: impl FnOnce(&Lines<'_>, &ContractPolicy) -> Result<T, Fault>,
    ) -> T {
        let header = self.names.get(field);
        let lines = self.headers.get_all(header);
        parse(&lines, self.policy).unwrap_or_else(|fault| {
            self.errors.push(fault.of(header));
            T::default()
        })
    }

    fn announcements(&mut self, field: Field, append: bool) -> Vec<Announcement> {
        self.field(field, |lines, policy| {
            let announcement = |(name, value): Pair| {
                let value = value.ok_or_else(|| Fault::whole(Rule::NullNotification))?;
                Ok(Announcement {
                    name,
                    value,
                    append,
                })
            };
            pairs::parse(lines, policy)?
                .into_iter()
                .map(announcement)
                .collect()
        })
    }

    fn captured(&mut self) -> Vec<Pair> {
        let mut captured = Vec::new();
        for capture in &self.policy.capture {
            let lines = self.headers.get_all(&capture.header);
            let Some((number, line)) = lines.iter().enumerate().last() else {
                continue;
            };
            match text(number, line) {
                Ok(_) if !self.policy.exposes(&capture.value) => {
                    let fault = Fault::whole(Rule::NotExposed);
                    self.errors.push(fault.of(&capture.header));
                }
                Ok(text) => {
                    let value = (!text.is_empty()).then(|| Json::string(text));
                    captured.push((capture.value.clone(), value));
                }
                Err(fault) => self.errors.push(fault.of(&capture.header)),
            }
        }
        captured
    }
}

fn assemble(
    control: &Control,
    policy: &ContractPolicy,
    set: Vec<Pair>,
    mut delete: Vec<String>,
    announce: Vec<Announcement>,
    taken: Taken,
) -> Signals {
    if control.destroy {
        return Signals {
            destroy: true,
            ..Signals::default()
        };
    }
    let mut clear = control.clear;
    if let Some(exposed) = policy.expose.as_ref().filter(|_| clear) {
        clear = false;
        delete.extend(exposed.iter().cloned());
    }
    Signals {
        destroy: false,
        renew: control.renew,
        patch: Patch {
            clear,
            delete,
            set,
            announce,
            taken,
            idle_timeout: control.idle_timeout,
            persist: control.persist,
        },
    }
}

/// The text of a line, which must be UTF-8.
fn text(number: usize, line: &HeaderValue) -> Result<&str, Fault> {
    str::from_utf8(line.as_bytes())
        .map_err(|error| Fault::at(number, error.valid_up_to(), Rule::NotUtf8))
}

/// Checks a name that a signal mentions. How long it may be is a limit of the session.
///
/// # Errors
///
/// The rule that it breaks.
pub fn check_name(name: &str, policy: &ContractPolicy) -> Result<(), Rule> {
    if name.is_empty() {
        Err(Rule::EmptyName)
    } else if name.contains(char::is_control) {
        Err(Rule::ControlInName)
    } else if !policy.exposes(name) {
        Err(Rule::NotExposed)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

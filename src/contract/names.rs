//! The names of the contract's headers, and which names can't come from anybody else.
//!
//! Names are compared *folded*: lower case, and every character outside `a-z0-9` as `-`. CGI and its
//! heirs (WSGI, Rack, PHP) give an application one variable for all spellings that fold alike, so
//! `X_Session` and `X.Session` are as good a forgery as `X-Session` (CVE-2025-64484).

mod field;
mod fold;
mod ordinary;

pub use field::Field;
pub use fold::same;

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderMap, HeaderName};

use fold::{begins, fold, folded, initial, is_one_of};
use ordinary::{ORDINARY, is_forbidden};

/// The prefix of the default names, folded.
const DEFAULT_PREFIX: &str = "x-";

/// The longest prefix in bytes. Names are sent with every exchange, so they should be short.
const MAX_PREFIX_BYTES: usize = 64;

/// Why names can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// The prefix can't begin a header name.
    #[error(
        "a prefix of header names is 1 to {MAX_PREFIX_BYTES} letters, digits, `-` or other token characters"
    )]
    Prefix,
    /// The names would reserve an ordinary header, and it would be removed from every message.
    #[error("these names would also take away {}: choose a longer or rarer prefix or name", Title(.header))]
    Greedy {
        /// The ordinary header.
        header: &'static str,
    },
    /// Two headers that an application can't tell apart.
    #[error("{} and {} are the same to an application", Title(.first.as_str()), Title(.second.as_str()))]
    Collision {
        /// The one.
        first: HeaderName,
        /// The other.
        second: HeaderName,
    },
    /// A header that frames or routes a message, carries credentials, or is the proxy's to set.
    #[error("{} can't be used: it belongs to HTTP or to the proxy itself", Title(.header.as_str()))]
    Forbidden {
        /// The header.
        header: HeaderName,
    },
    /// A header that belongs to the contract.
    #[error("{} can't be used: it belongs to the header contract", Title(.header.as_str()))]
    Own {
        /// The header.
        header: HeaderName,
    },
}

/// The names of the contract's headers, and the rule of what is reserved.
///
/// Reserved is a header whose folded name is one of the contract's, begins with the folded name of
/// the session's or the notifications' header and a `-`, begins with the folded prefix when that is
/// not the default one, or is one of those that [`Names::reserve`] added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    headers: [HeaderName; Field::ALL.len()],
    /// Beginnings of names that are reserved, folded.
    prefixes: Vec<Box<str>>,
    /// Names that are reserved and have none of the beginnings, folded.
    exact: Vec<Box<str>>,
    /// Headers that were reserved for `[headers.inject]` and `[headers.capture]`, as spelt.
    extra: Vec<HeaderName>,
    /// With which characters reserved names begin, and which stand third, one bit each. Most headers
    /// of most requests need no other look.
    initials: u64,
    thirds: u64,
}

impl Default for Names {
    fn default() -> Self {
        Self::from_headers(Field::ALL.map(Field::default_name), DEFAULT_PREFIX)
    }
}

impl Names {
    /// The names that begin with `prefix` (`X-` by default), except those that are given one by one.
    ///
    /// # Errors
    ///
    /// Every mistake: a [`NamesError::Prefix`], a name that is [`NamesError::Forbidden`], two that
    /// collide, or names so broad that an ordinary header would be reserved
    /// ([`NamesError::Greedy`]).
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use pycket::contract::{Field, Names};
    ///
    /// let names = Names::new("X-App-", &BTreeMap::new()).unwrap();
    /// assert_eq!(names.get(Field::SessionSet), "x-app-session-set");
    /// ```
    pub fn new(
        prefix: &str,
        overrides: &BTreeMap<Field, HeaderName>,
    ) -> Result<Self, Vec<NamesError>> {
        let mut errors = Vec::new();
        let is_token = HeaderName::from_bytes(prefix.as_bytes()).is_ok();
        let prefix = if is_token && prefix.len() <= MAX_PREFIX_BYTES {
            prefix
        } else {
            errors.push(NamesError::Prefix);
            DEFAULT_PREFIX
        };
        let headers = Field::ALL.map(|field| match overrides.get(&field) {
            Some(header) => header.clone(),
            None => prefixed(prefix, field),
        });
        for header in overrides.values() {
            if is_forbidden(header) {
                errors.push(NamesError::Forbidden {
                    header: header.clone(),
                });
            }
        }
        errors.extend(Self::collisions(&headers));
        let names = Self::from_headers(headers, prefix);
        // A forbidden name is an ordinary one as well; one message is enough.
        if errors.is_empty()
            && let Some(header) = ORDINARY.iter().find(|name| names.holds(name.as_bytes()))
        {
            errors.push(NamesError::Greedy { header });
        }
        if errors.is_empty() {
            Ok(names)
        } else {
            Err(errors)
        }
    }

    fn from_headers(headers: [HeaderName; Field::ALL.len()], prefix: &str) -> Self {
        let mut names = Self {
            headers,
            prefixes: Vec::new(),
            exact: Vec::new(),
            extra: Vec::new(),
            initials: 0,
            thirds: 0,
        };
        for field in [Field::Session, Field::Notifications] {
            let family = format!("{}-", folded(names.get(field).as_str()));
            names.prefixes.push(family.into());
        }
        let prefix = folded(prefix);
        if prefix != DEFAULT_PREFIX {
            names.prefixes.push(prefix.into());
        }
        for prefix in names.prefixes.clone() {
            names.note(&prefix);
        }
        for header in names.headers.clone() {
            names.add_exact(&header);
        }
        names
    }

    /// Lets names that are, or begin like, this folded one be looked at.
    fn note(&mut self, name: &str) {
        self.initials |= name.bytes().next().map_or(0, initial);
        self.thirds |= name
            .as_bytes()
            .get(2)
            .map_or(u64::MAX, |&third| initial(third));
    }

    fn add_exact(&mut self, header: &HeaderName) {
        if !self.is_reserved(header) {
            let name = folded(header.as_str());
            self.note(&name);
            self.exact.push(name.into());
        }
    }

    /// The name of one of the contract's headers.
    pub fn get(&self, field: Field) -> &HeaderName {
        let [
            session,
            session_id,
            session_state,
            session_opaque,
            notifications,
            session_set,
            session_delete,
            session_control,
            notifications_set,
            notifications_add,
            notifications_taken,
        ] = &self.headers;
        match field {
            Field::Session => session,
            Field::SessionId => session_id,
            Field::SessionState => session_state,
            Field::SessionOpaque => session_opaque,
            Field::Notifications => notifications,
            Field::SessionSet => session_set,
            Field::SessionDelete => session_delete,
            Field::SessionControl => session_control,
            Field::NotificationsSet => notifications_set,
            Field::NotificationsAdd => notifications_add,
            Field::NotificationsTaken => notifications_taken,
        }
    }

    /// Whether a header of this name is ours alone to send. Allocates nothing.
    pub fn is_reserved(&self, header: &HeaderName) -> bool {
        self.holds(header.as_str().as_bytes())
    }

    fn holds(&self, name: &[u8]) -> bool {
        let Some(&first) = name.first() else {
            return false;
        };
        if self.initials & initial(fold(first)) == 0 {
            return false;
        }
        if name
            .get(2)
            .is_some_and(|&third| self.thirds & initial(fold(third)) == 0)
        {
            return false;
        }
        self.prefixes.iter().any(|prefix| begins(name, prefix)) || is_one_of(name, &self.exact)
    }

    /// Checks that `header` may be a target of `[headers.inject]` or `[headers.capture]`.
    ///
    /// # Errors
    ///
    /// - [`NamesError::Forbidden`]: it frames or routes a message (`Host`, `Content-*`,
    ///   `Transfer-Encoding`, all hop-by-hop fields of RFC 9110 section 7.6.1, `Location`, `Sec-*`),
    ///   carries credentials (`Cookie`, `Set-Cookie`, `Authorization`, `Proxy-*`), governs caches
    ///   (`Cache-Control`, `Vary`), is set by the proxy itself (`Forwarded`, `X-Forwarded-*`, `Via`,
    ///   `X-Request-Id`), or becomes an environment variable with a meaning of its own (`Proxy`,
    ///   CVE-2016-5385);
    /// - [`NamesError::Own`]: it is in the contract's own namespace, also where that has no header
    ///   of this name today.
    pub fn check_target(&self, header: &HeaderName) -> Result<(), NamesError> {
        if is_forbidden(header) {
            return Err(NamesError::Forbidden {
                header: header.clone(),
            });
        }
        if self.is_reserved(header) && !self.extra.iter().any(|extra| same(extra, header)) {
            return Err(NamesError::Own {
                header: header.clone(),
            });
        }
        Ok(())
    }

    /// Reserves a target of `[headers.inject]` or `[headers.capture]`. The same header may be
    /// reserved again, for another route.
    ///
    /// # Errors
    ///
    /// As [`Names::check_target`], and [`NamesError::Collision`] with one that was reserved earlier
    /// under another spelling. Nothing is reserved then.
    pub fn reserve(&mut self, header: &HeaderName) -> Result<(), NamesError> {
        self.check_target(header)?;
        match self.extra.iter().find(|extra| same(extra, header)) {
            Some(extra) if extra != header => Err(NamesError::Collision {
                first: extra.clone(),
                second: header.clone(),
            }),
            Some(_) => Ok(()),
            None => {
                self.add_exact(header);
                self.extra.push(header.clone());
                Ok(())
            }
        }
    }

    /// The pairs of headers in a list that an application can't tell apart, so that only one of them
    /// may be in it: two targets of one `[headers.inject]`, for example.
    pub fn collisions(headers: &[HeaderName]) -> Vec<NamesError> {
        let mut found = Vec::new();
        for (index, second) in headers.iter().enumerate() {
            let before = headers.iter().take(index);
            if let Some(first) = before.into_iter().find(|first| same(first, second)) {
                found.push(NamesError::Collision {
                    first: first.clone(),
                    second: second.clone(),
                });
            }
        }
        found
    }

    /// The names of all reserved headers in the map; an empty list allocates nothing.
    pub(super) fn reserved_in(&self, headers: &HeaderMap) -> Vec<HeaderName> {
        headers
            .keys()
            .filter(|header| self.is_reserved(header))
            .cloned()
            .collect()
    }

    /// Removes every line of every reserved header.
    pub(super) fn remove_from(&self, headers: &mut HeaderMap) {
        for name in self.reserved_in(headers) {
            headers.remove(name);
        }
    }
}

/// The name of a field under a prefix that is known to be a token.
fn prefixed(prefix: &str, field: Field) -> HeaderName {
    let default = field.default_name();
    if prefix.eq_ignore_ascii_case(DEFAULT_PREFIX) {
        return default;
    }
    let rest = default.as_str().trim_start_matches(DEFAULT_PREFIX);
    HeaderName::from_bytes(format!("{prefix}{rest}").as_bytes())
        .expect("two tokens make a token, and the prefix is short")
}

/// Prints a header's name as people write it: `X-Session-Set`.
pub(super) struct Title<'a>(pub(super) &'a str);

impl fmt::Display for Title<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut start = true;
        for c in self.0.chars() {
            write!(f, "{}", if start { c.to_ascii_uppercase() } else { c })?;
            start = !c.is_ascii_alphanumeric();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! Fields that the answers of a route get where the application has not set them.

use std::sync::Arc;

use http::header::{Entry, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields that are added together.
pub(super) type Fields = Arc<[(HeaderName, HeaderValue)]>;

/// What one route adds. Where that is nothing, an exchange only looks at an empty pointer.
#[derive(Clone, Debug)]
pub(super) struct Additions {
    http: Option<Fields>,
    https: Option<Fields>,
}

impl Additions {
    pub(super) fn new(fields: &[(HeaderName, HeaderValue)]) -> Self {
        // RFC 6797 section 7.2: not without TLS.
        let may_be_plain = |(name, _): &&(HeaderName, _)| *name != STRICT_TRANSPORT_SECURITY;
        let plain = fields.iter().filter(may_be_plain).cloned().collect();
        let some = |fields: Fields| (!fields.is_empty()).then_some(fields);
        Self {
            http: some(plain),
            https: some(fields.into()),
        }
    }

    /// Those for a client that came by TLS, or without.
    pub(super) fn over(&self, tls: bool) -> Option<Fields> {
        if tls { &self.https } else { &self.http }.clone()
    }
}

/// Adds the fields that are not there.
pub(super) fn add(headers: &mut HeaderMap, fields: Option<&Fields>) {
    for (name, value) in fields.into_iter().flat_map(|fields| fields.iter()) {
        if let Entry::Vacant(place) = headers.entry(name) {
            place.insert(value.clone());
        }
    }
}

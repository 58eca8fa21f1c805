//! Who is asking, as the contract's request headers say it.

use http::HeaderMap;
use serde_json::{Map, Value};

/// The request headers that the application reads, in the order in which the page shows them.
pub(super) const REQUEST_HEADERS: [&str; 4] = [
    "X-Session-State",
    "X-Session-Id",
    "X-Session",
    "X-Notifications",
];

/// The longest `X-Session-Id` that is taken as a key. The proxy's are shorter.
const MAX_ID_BYTES: usize = 64;

/// What the headers of one request say about the browser's session.
pub(super) struct Visitor {
    /// `X-Session-Id`, where there is a session.
    pub(super) id: Option<String>,
    /// The name that was given at the log-in.
    pub(super) user: Option<String>,
    /// The number of the log-in at this application.
    pub(super) login: Option<u64>,
    /// Messages that are delivered with this request, and with no other.
    pub(super) flashes: Vec<String>,
    /// What the proxy says about the session.
    pub(super) state: State,
    values: Map<String, Value>,
}

/// The meanings of `X-Session-State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// There is a session, or none yet.
    Usable,
    /// The store is down, and the request goes on without a session.
    Unavailable,
    /// There is no such header: the request did not come through the proxy.
    Unproxied,
}

impl Visitor {
    /// Reads the contract's headers. What is missing or malformed counts as absent.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let values = object(text("X-Session"));
        Self {
            id: text("X-Session-Id")
                .filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES)
                .map(str::to_owned),
            user: values
                .get("user")
                .and_then(Value::as_str)
                .map(str::to_owned),
            login: values.get("login").and_then(Value::as_u64),
            flashes: flashes(&object(text("X-Notifications"))),
            state: match text("X-Session-State") {
                Some("unavailable") => State::Unavailable,
                Some(_) => State::Usable,
                None => State::Unproxied,
            },
            values,
        }
    }

    /// How many of this thing are in the cart.
    pub(super) fn count(&self, value_name: &str) -> u64 {
        self.values
            .get(value_name)
            .and_then(Value::as_u64)
            .unwrap_or(0)
    }
}

fn object(text: Option<&str>) -> Map<String, Value> {
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// `X-Notifications-Add` makes lists, `X-Notifications-Set` single values; both are read.
fn flashes(notifications: &Map<String, Value>) -> Vec<String> {
    let values = match notifications.get("flash") {
        None => &[],
        Some(Value::Array(list)) => list.as_slice(),
        Some(single) => std::slice::from_ref(single),
    };
    values
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

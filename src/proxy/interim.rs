//! Interim responses (1xx) of applications, on their way to clients of HTTP/1.1.
//!
//! hyper's client tells of them, and its server can't send any. So the exchange leaves them, as bytes,
//! in a place that it shares with the transport of the client's connection, which writes them where
//! nothing else is half written. The exchange is run by the task of that connection, which flushes
//! after each turn, so nobody has to be woken.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::SET_COOKIE;
use http::{HeaderMap, Request, StatusCode};

use super::Peer;
use super::forward::Forwarder;
use crate::contract::{Names, response};

/// So many are passed on to one request. Each is written by itself, so that they cost more than what
/// comes after them.
const MAX_PER_EXCHANGE: u32 = 8;
/// So many bytes may wait for their connection. What would be more is dropped.
const MAX_BYTES: usize = 16 * 1024;

/// Interim responses that wait to be written on a connection.
#[derive(Debug, Default)]
pub struct Interims {
    /// Whether there are any. Whoever writes looks here first.
    any: AtomicBool,
    /// A std mutex: one thread uses it, and no await happens under it.
    bytes: Mutex<Vec<u8>>,
}

impl Interims {
    /// Takes those that wait, encoded; mostly there are none.
    pub fn take(&self) -> Option<Vec<u8>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let mut bytes = self.lock();
        self.any.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut *bytes))
    }

    /// Leaves one to be written; drops it where there would be too much.
    pub(crate) fn put(&self, status: StatusCode, headers: &HeaderMap) {
        let head = encode(status, headers);
        let mut bytes = self.lock();
        if bytes.len().saturating_add(head.len()) <= MAX_BYTES {
            bytes.extend_from_slice(&head);
            self.any.store(true, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes of a head one that can be passed on. In one place, since each exchange holds it.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) forwarder: Forwarder,
    pub(super) names: Names,
}

/// Has the interim responses to a request passed on to its client, without what would not pass of
/// the final one, and without cookies: they would go past what becomes of the session. Not 100, which
/// answers an `Expect` that we never forward.
pub(super) fn pass_on<B>(request: &mut Request<B>, peer: &Arc<Peer>, rules: &Arc<Rules>) {
    let (peer, rules) = (Arc::clone(peer), Arc::clone(rules));
    let passed = AtomicU32::new(0);
    hyper::ext::on_informational(request, move |interim| {
        let Some(interims) = peer.interims() else {
            return;
        };
        if interim.status() == StatusCode::CONTINUE
            || passed.fetch_add(1, Ordering::Relaxed) >= MAX_PER_EXCHANGE
        {
            return;
        }
        let mut headers = interim.headers().clone();
        rules
            .forwarder
            .interim_head(&mut headers, interim.version());
        response::remove_reserved(&mut headers, &rules.names);
        headers.remove(SET_COOKIE);
        interims.put(interim.status(), &headers);
    });
}

/// As HTTP/1.1 has it (RFC 9112 sections 4 and 5). Names and values of these types hold no line ends.
fn encode(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

//! The last exchanges of each session, for display.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Method, StatusCode};

use super::shop::Answer;
use super::visitor::{REQUEST_HEADERS, Visitor};

/// Enough for five parallel requests and the pages before and after them.
const EXCHANGES_PER_SESSION: usize = 10;
/// Beyond that, the session that was quiet for the longest time is forgotten.
const MAX_SESSIONS: usize = 64;
/// The longest text of one header that is kept, in characters: the proxy's default budget for all.
const MAX_FIELD_CHARS: usize = 4096;

/// The last exchanges of each session: at most 10 of each of 64 sessions, in memory.
///
/// Keyed by `X-Session-Id`, which stays the same when a log-in renews the session. `Debug` shows
/// only counts, since the headers hold session values.
#[derive(Default)]
pub struct ExchangeLog(Mutex<Log>);

#[derive(Default)]
struct Log {
    /// Quietest first.
    sessions: VecDeque<(String, VecDeque<Arc<Exchange>>)>,
    /// Log-ins that began a session, so that its id was not known yet, by their number. The number
    /// is in the session, and the session's next exchange brings both together.
    begun: VecDeque<(u64, Arc<Exchange>)>,
    logins: u64,
}

/// What one exchange looked like from the application's side.
pub(super) struct Exchange {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) status: StatusCode,
    pub(super) received: Vec<Field>,
    pub(super) answered: Vec<Field>,
}

/// A header's name and its text.
pub(super) type Field = (&'static str, String);

impl Exchange {
    pub(super) fn of(method: &Method, path: &str, headers: &HeaderMap, answer: &Answer) -> Self {
        let received = REQUEST_HEADERS.iter().filter_map(|&name| {
            let value = headers.get(name)?;
            Some((name, cut(&String::from_utf8_lossy(value.as_bytes()))))
        });
        let answered = answer
            .signals
            .iter()
            .map(|signal| (signal.name, cut(&signal.value)));
        Self {
            method: cut(method.as_str()),
            path: cut(path),
            status: answer.status,
            received: received.collect(),
            answered: answered.collect(),
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_FIELD_CHARS).collect()
}

impl ExchangeLog {
    /// Adds an exchange, and returns the session's last ones, this one included, newest first.
    /// Without a session it is this one alone. `login` is the number of the log-in that it is.
    pub(super) fn record(
        &self,
        visitor: &Visitor,
        exchange: Exchange,
        login: Option<u64>,
    ) -> Vec<Arc<Exchange>> {
        let exchange = Arc::new(exchange);
        let mut log = self.lock();
        let Some(id) = &visitor.id else {
            if let Some(number) = login {
                push_bounded(
                    &mut log.begun,
                    (number, Arc::clone(&exchange)),
                    MAX_SESSIONS,
                );
            }
            return vec![exchange];
        };
        let mut recent = log.take_session(id);
        if let Some(log_in) = visitor.login.and_then(|number| log.take_log_in(number)) {
            push_bounded(&mut recent, log_in, EXCHANGES_PER_SESSION);
        }
        push_bounded(&mut recent, exchange, EXCHANGES_PER_SESSION);
        let newest_first = recent.iter().rev().map(Arc::clone).collect();
        push_bounded(&mut log.sessions, (id.clone(), recent), MAX_SESSIONS);
        newest_first
    }

    /// The number of the next log-in, counted from 1.
    pub(super) fn next_login(&self) -> u64 {
        let mut log = self.lock();
        log.logins = log.logins.saturating_add(1);
        log.logins
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // What a panic left behind is at worst an exchange short.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn take_session(&mut self, id: &str) -> VecDeque<Arc<Exchange>> {
        let position = self.sessions.iter().position(|(known, _)| known == id);
        position
            .and_then(|position| self.sessions.remove(position))
            .map(|(_, exchanges)| exchanges)
            .unwrap_or_default()
    }

    fn take_log_in(&mut self, number: u64) -> Option<Arc<Exchange>> {
        let position = self.begun.iter().position(|(known, _)| *known == number)?;
        self.begun.remove(position).map(|(_, exchange)| exchange)
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, element: T, bound: usize) {
    if queue.len() >= bound {
        queue.pop_front();
    }
    queue.push_back(element);
}

impl fmt::Debug for ExchangeLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExchangeLog({} sessions)", self.lock().sessions.len())
    }
}

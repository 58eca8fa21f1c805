//! Tells those who wait how far it is, on the standard error.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

use super::tally::Tally;

/// Where a person looks, one line changes this often; elsewhere a new one is written this often.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(10);

pub(super) struct Progress {
    is_terminal: bool,
    shown: Instant,
    /// Whether the line on the terminal is not at its end.
    is_open: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            shown: Instant::now(),
            is_open: false,
        }
    }

    /// Says how far it is, now and then.
    pub(super) fn show(&mut self, tally: &Tally) {
        let every = if self.is_terminal {
            ON_TERMINAL
        } else {
            ELSEWHERE
        };
        if self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        if self.is_terminal {
            self.is_open = true;
            // Back to the beginning of the line, which is then cleared.
            let _unread = write!(io::stderr().lock(), "\r\x1b[K{}", tally.line());
        } else {
            say(&tally.line());
        }
    }

    /// Leaves the terminal as it should be; the report says the rest.
    pub(super) fn end(&mut self, tally: &Tally) {
        if self.is_open {
            let _unread = writeln!(io::stderr().lock(), "\r\x1b[K{}", tally.line());
        }
    }
}

/// Says something once.
pub(super) fn say(text: &str) {
    // Where nobody reads it, there is nobody to tell, here and above.
    let _unread = writeln!(io::stderr().lock(), "{text}");
}

//! What belongs to one browser: named values and pending notifications.
//!
//! A [`Session`] flows in from a record ([`crate::format`]), is shown to the application
//! ([`crate::contract::request`]), is changed by a [`Patch`] and flows out as a record again. This
//! module knows nothing of HTTP, cookies, stores or bytes of records, and reads no clock.

mod id;
mod join;
mod json;
mod notification;
mod opaque;
mod patch;
mod values;

pub use id::{InvalidSessionId, PublicId, SessionId};
pub use json::{Json, JsonError};
pub use notification::{Claim, Entry, EntryId, Notifications};
pub use opaque::Opaque;
pub use patch::{Announcement, LimitExceeded, Limits, Occasion, Patch, Taken};
pub use values::{Members, Shape, Values};

use std::time::Duration;

use crate::clock::Timestamp;

/// The state of one session, as one record holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The identifier that applications and logs may see; stays the same when the id is renewed.
    pub public_id: PublicId,
    /// When the session began. Its absolute lifetime counts from here.
    pub created: Timestamp,
    /// When the record was last written. Its idle lifetime counts from here.
    pub refreshed: Timestamp,
    /// The idle lifetime that the application chose for this session (`ttl=SECONDS`); `None` is
    /// the configured one.
    pub idle_timeout: Option<Duration>,
    /// Whether the cookie outlives the browser, where the application chose (`persist=?0`);
    /// `None` is as configured.
    pub persist: Option<bool>,
    /// The named values.
    pub values: Values,
    /// Named values that can't be shown.
    pub opaque: Opaque,
    /// What waits to be delivered once.
    pub notifications: Notifications,
}

impl Session {
    /// An empty session that begins at `now` under `id`.
    pub fn begin(id: &SessionId, now: Timestamp) -> Self {
        Self {
            public_id: id.public_id(),
            created: now,
            refreshed: now,
            idle_timeout: None,
            persist: None,
            values: Values::default(),
            opaque: Opaque::default(),
            notifications: Notifications::default(),
        }
    }
}

/// How long sessions live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// A session that nobody used for this long is gone.
    pub idle: Duration,
    /// A session is gone this long after it began, however busy it is.
    pub max: Duration,
}

impl Lifetimes {
    /// Idle lifetime of this session: its own choice, or the configured one.
    fn idle_of(&self, session: &Session) -> Duration {
        session.idle_timeout.unwrap_or(self.idle)
    }

    /// Whether the session is past its absolute end at `now`.
    ///
    /// The store ends records by itself; this catches a `max` that was lowered after the record
    /// was written.
    pub fn is_over(&self, session: &Session, now: Timestamp) -> bool {
        now >= session.created.after(self.max)
    }

    /// How long a record of this session that is written at `now` may stay in the store: its idle
    /// lifetime, cut at the absolute end. Zero when the session is over.
    pub fn time_to_live(&self, session: &Session, now: Timestamp) -> Duration {
        let end = session.created.after(self.max);
        self.idle_of(session).min(end.since(now))
    }

    /// Whether a tenth of the idle lifetime has passed since the record was written, so that use
    /// of the session should prolong it. A tenth, so that most exchanges write nothing and a
    /// session lives at least nine tenths of its idle lifetime after its last use.
    pub fn wants_touch(&self, session: &Session, now: Timestamp) -> bool {
        now.since(session.refreshed) >= self.idle_of(session) / 10
            && !self.is_over(session, now)
            // Nothing to gain where the absolute end already limits the record.
            && session.refreshed.after(self.idle_of(session)) < session.created.after(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes = Lifetimes {
        idle: Duration::from_secs(1000),
        max: Duration::from_secs(5000),
    };

    fn session_at(secs: u64) -> Session {
        Session::begin(&SessionId::from_bytes([7; 16]), Timestamp::from_secs(secs))
    }

    #[test]
    fn idle_lifetime_is_cut_at_the_absolute_end() {
        let session = session_at(0);
        let ttl = |now| LIFETIMES.time_to_live(&session, Timestamp::from_secs(now));
        assert_eq!(ttl(0), Duration::from_secs(1000));
        assert_eq!(ttl(4500), Duration::from_secs(500));
        assert_eq!(ttl(5000), Duration::ZERO);
        assert!(LIFETIMES.is_over(&session, Timestamp::from_secs(5000)));
        assert!(!LIFETIMES.is_over(&session, Timestamp::from_millis(4_999_999)));
    }

    #[test]
    fn use_prolongs_only_after_a_tenth_has_passed() {
        let session = session_at(0);
        assert!(!LIFETIMES.wants_touch(&session, Timestamp::from_secs(99)));
        assert!(LIFETIMES.wants_touch(&session, Timestamp::from_secs(100)));
    }

    #[test]
    fn a_record_that_lasts_to_the_absolute_end_is_not_prolonged() {
        let mut session = session_at(0);
        session.refreshed = Timestamp::from_secs(4000);
        assert!(!LIFETIMES.wants_touch(&session, Timestamp::from_secs(4500)));
    }

    #[test]
    fn the_applications_own_idle_lifetime_wins() {
        let mut session = session_at(0);
        session.idle_timeout = Some(Duration::from_secs(10));
        assert_eq!(
            LIFETIMES.time_to_live(&session, Timestamp::from_secs(1)),
            Duration::from_secs(10)
        );
    }
}

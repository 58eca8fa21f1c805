//! What is known about one server: a state machine that takes `now` as an argument.
//!
//! Requests tell when they fail, and enough failures in a row put the server out for a while
//! (ejection). When that is over it is on trial: the first request that ends decides.
//! Health checks tell, too: what they say holds beside that, and both must be for a server.
//!
//! ```text
//!        max_failures in a row            the time is over
//!   in ───────────────────────► out ─────────────────────► on trial
//!    ▲                           ▲      fails: out, doubled    │
//!    └── answers: slow start ────┼─────────────────────────────┤
//!                                └─────────────────────────────┘
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Ejection;

/// The least share, in percent, that a server begins its slow start with.
const FIRST_SHARE: u32 = 10;
/// The whole share.
pub(super) const WHOLE: u32 = 100;

/// A turn in a server's life, which is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It gets no requests: this many failed in a row.
    Ejected {
        /// How many.
        failures: u32,
        /// For how long.
        span: Duration,
    },
    /// It gets requests again.
    Returned,
    /// Health checks say that it is not well.
    Ill,
    /// Health checks say that it is well again.
    Well,
}

/// What health checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checks {
    /// Nothing yet, or that it is well; so many bad answers came since the last good one.
    Well { bad: u32, asked: bool },
    /// That it is not; so many good answers came since the last bad one.
    Ill { good: u32 },
}

/// What is known about one server.
#[derive(Debug)]
pub(super) struct Health {
    rules: Ejection,
    /// Failures in a row.
    failures: u32,
    /// Ejections in a row.
    ejections: u32,
    /// Until when it is out; in the past, it is on trial. `None` while it is in.
    out_until: Option<Instant>,
    /// When it came back.
    returned: Option<Instant>,
    checks: Checks,
}

impl Health {
    /// A server of which nothing bad is known.
    pub(super) fn new(rules: Ejection) -> Self {
        Self {
            rules,
            failures: 0,
            ejections: 0,
            out_until: None,
            returned: None,
            checks: Checks::Well {
                bad: 0,
                asked: false,
            },
        }
    }

    /// A health check has been answered. `healthy` good answers in a row change what is known, or
    /// `unhealthy` bad ones; the very first answer decides alone.
    pub(super) fn probed(
        &mut self,
        good: bool,
        healthy: u32,
        unhealthy: u32,
        now: Instant,
    ) -> Option<Change> {
        let (checks, change) = match (self.checks, good) {
            (Checks::Well { .. }, true) => (
                Checks::Well {
                    bad: 0,
                    asked: true,
                },
                None,
            ),
            (Checks::Well { bad, asked }, false) if asked && bad.saturating_add(1) < unhealthy => (
                Checks::Well {
                    bad: bad.saturating_add(1),
                    asked,
                },
                None,
            ),
            (Checks::Well { .. }, false) => (Checks::Ill { good: 0 }, Some(Change::Ill)),
            (Checks::Ill { .. }, false) => (Checks::Ill { good: 0 }, None),
            (Checks::Ill { good }, true) if good.saturating_add(1) < healthy => (
                Checks::Ill {
                    good: good.saturating_add(1),
                },
                None,
            ),
            (Checks::Ill { .. }, true) => {
                self.returned = Some(now);
                (
                    Checks::Well {
                        bad: 0,
                        asked: true,
                    },
                    Some(Change::Well),
                )
            }
        };
        self.checks = checks;
        change
    }

    /// A request got no answer, by the server's fault.
    pub(super) fn failed(&mut self, now: Instant) -> Option<Change> {
        self.failures = self.failures.saturating_add(1);
        let due = match self.out_until {
            // It was sent before.
            Some(until) if now < until => false,
            Some(_) => true,
            None => self.rules.max_failures > 0 && self.failures >= self.rules.max_failures,
        };
        if !due {
            return None;
        }
        let stood = self.returned.map(|at| now.saturating_duration_since(at));
        if self.out_until.is_none() && stood.is_none_or(|stood| stood > self.rules.max) {
            // The last time was long ago.
            self.ejections = 0;
        }
        let span = self.rules.min.saturating_mul(power_of_two(self.ejections));
        let span = span.min(self.rules.max);
        self.ejections = self.ejections.saturating_add(1);
        self.out_until = Some(now + span);
        Some(Change::Ejected {
            failures: self.failures,
            span,
        })
    }

    /// A request got an answer.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Change> {
        match self.out_until {
            // Sent before it was put out, it tells nothing about now.
            Some(until) if now < until => return None,
            Some(_) => {
                self.failures = 0;
                self.out_until = None;
                self.returned = Some(now);
                return Some(Change::Returned);
            }
            None => self.failures = 0,
        }
        None
    }

    /// The percentage of its weight that it is to get: 0 when it is out, less than the whole while
    /// it is on trial or has just come back.
    pub(super) fn share(&self, now: Instant) -> u32 {
        if let Checks::Ill { .. } = self.checks {
            return 0;
        }
        match (self.out_until, self.returned) {
            (Some(until), _) if now < until => 0,
            (Some(_), _) if self.rules.slow_start.is_zero() => WHOLE,
            (Some(_), _) => FIRST_SHARE,
            (None, Some(at)) => grown(now.saturating_duration_since(at), self.rules.slow_start),
            (None, None) => WHOLE,
        }
    }

    /// Whether the next answer and the passing of time change nothing.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        self.failures == 0 && self.out_until.is_none() && self.share(now) == WHOLE
    }
}

/// The share after so much of the slow start.
fn grown(elapsed: Duration, slow_start: Duration) -> u32 {
    let percent = (elapsed.as_millis() * u128::from(WHOLE))
        .checked_div(slow_start.as_millis())
        .and_then(|percent| u32::try_from(percent).ok());
    percent.map_or(WHOLE, |percent| percent.clamp(FIRST_SHARE, WHOLE))
}

fn power_of_two(exponent: u32) -> u32 {
    1_u32.checked_shl(exponent).unwrap_or(u32::MAX)
}

/// Whether so many servers are out that all get requests. `shares` are those of the servers that
/// are not draining.
pub(super) fn is_panic(shares: impl Iterator<Item = u32>, threshold: u32) -> bool {
    let (mut all, mut out) = (0_u64, 0_u64);
    for share in shares {
        all += 1;
        out += u64::from(share == 0);
    }
    out * 100 > all * u64::from(threshold)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> Ejection {
        Ejection {
            max_failures: 3,
            min: 5 * SECOND,
            max: 60 * SECOND,
            slow_start: 10 * SECOND,
            panic_threshold: 50,
        }
    }

    /// Fails until it is put out; how often that was, and for how long it is out.
    fn eject(health: &mut Health, now: Instant) -> (u32, Duration) {
        for count in 1..100 {
            if let Some(Change::Ejected { span, .. }) = health.failed(now) {
                return (count, span);
            }
        }
        panic!("it is never put out");
    }

    #[test]
    fn failures_in_a_row_put_a_server_out() {
        let now = Instant::now();
        let mut health = Health::new(rules());
        assert_eq!(health.failed(now), None);
        assert_eq!(health.failed(now), None);
        assert_eq!(health.answered(now), None);
        assert_eq!(eject(&mut health, now), (3, 5 * SECOND));
        assert_eq!(health.share(now), 0);
        assert_eq!(health.share(now + 5 * SECOND), FIRST_SHARE, "on trial");
    }

    #[test]
    fn a_trial_that_fails_doubles_the_time_up_to_its_bound() {
        let mut now = Instant::now();
        let mut health = Health::new(rules());
        eject(&mut health, now);
        for seconds in [10, 20, 40, 60, 60] {
            now += 60 * SECOND;
            assert_eq!(eject(&mut health, now), (1, seconds * SECOND));
        }
    }

    #[test]
    fn a_server_that_answers_comes_back_slowly() {
        let now = Instant::now();
        let mut health = Health::new(rules());
        eject(&mut health, now);
        let back = now + 5 * SECOND;
        assert_eq!(health.answered(back), Some(Change::Returned));
        let share = |seconds| health.share(back + seconds * SECOND);
        assert_eq!([0, 1, 5, 9, 10, 60].map(share), [10, 10, 50, 90, 100, 100]);
        assert!(!health.is_settled(back + SECOND));
        assert!(health.is_settled(back + 10 * SECOND));
    }

    #[test]
    fn what_was_sent_before_the_ejection_does_not_count() {
        let now = Instant::now();
        let mut health = Health::new(rules());
        eject(&mut health, now);
        assert_eq!(health.answered(now + SECOND), None);
        assert_eq!(health.failed(now + SECOND), None);
        assert_eq!(health.share(now + SECOND), 0);
    }

    #[test]
    fn a_server_that_stood_for_long_is_put_out_for_the_shortest_time() {
        let now = Instant::now();
        let mut health = Health::new(rules());
        eject(&mut health, now);
        let back = now + 5 * SECOND;
        health.answered(back);
        assert_eq!(eject(&mut health, back + SECOND), (3, 10 * SECOND));
        let back = back + 11 * SECOND;
        health.answered(back);
        assert_eq!(eject(&mut health, back + 61 * SECOND), (3, 5 * SECOND));
    }

    #[test]
    fn the_first_check_decides_alone() {
        let now = Instant::now();
        let mut health = Health::new(rules());
        assert_eq!(health.share(now), WHOLE, "until somebody has asked");
        assert_eq!(health.probed(false, 2, 3, now), Some(Change::Ill));
        assert_eq!(health.share(now), 0);
        assert!(!health.is_settled(now));
    }

    #[test]
    fn checks_change_what_is_known_when_enough_agree_in_a_row() {
        let now = Instant::now();
        let mut health = Health::new(rules());
        let mut probe = |good| health.probed(good, 2, 3, now);
        let answers = [true, false, false, true, false, false];
        assert_eq!(answers.map(&mut probe), [None; 6]);
        assert_eq!(probe(false), Some(Change::Ill));
        assert_eq!([true, false, true].map(&mut probe), [None; 3]);
        assert_eq!(probe(true), Some(Change::Well));
        assert_eq!(health.share(now), FIRST_SHARE, "it starts slowly");
    }

    #[test]
    fn a_server_must_be_well_and_not_ejected() {
        let now = Instant::now();
        let mut health = Health::new(rules());
        health.probed(false, 1, 1, now);
        eject(&mut health, now);
        assert_eq!(health.probed(true, 1, 1, now), Some(Change::Well));
        assert_eq!(health.share(now), 0, "it is still ejected");
        health.probed(false, 1, 1, now);
        assert_eq!(health.answered(now + 5 * SECOND), Some(Change::Returned));
        assert_eq!(health.share(now + 5 * SECOND), 0, "the check says no");
    }

    #[test]
    fn without_a_number_of_failures_nothing_is_put_out() {
        let mut health = Health::new(Ejection {
            max_failures: 0,
            ..rules()
        });
        for _ in 0..1000 {
            assert_eq!(health.failed(Instant::now()), None);
        }
    }

    #[test]
    fn all_get_requests_when_more_are_out_than_the_threshold_says() {
        let panics = |shares: &[u32], threshold| is_panic(shares.iter().copied(), threshold);
        assert!(!panics(&[0, 100], 50));
        assert!(panics(&[0, 0, 100], 50));
        assert!(panics(&[0], 50));
        assert!(!panics(&[0, 0], 100));
        assert!(panics(&[0, 100, 100], 0));
        assert!(!panics(&[10, 100], 0));
    }

    proptest! {
        #[test]
        fn every_server_gets_requests_again(
            events in prop::collection::vec((any::<bool>(), 0_u64..20_000), 0..60),
        ) {
            let mut now = Instant::now();
            let mut health = Health::new(rules());
            for (answered, millis) in events {
                now += Duration::from_millis(millis);
                if answered { health.answered(now) } else { health.failed(now) };
                prop_assert!(health.share(now) <= WHOLE);
            }
            now += 60 * SECOND;
            prop_assert!(health.share(now) > 0);
            health.answered(now);
            prop_assert!(health.is_settled(now + 60 * SECOND));
        }
    }
}

//! How many requests may be sent to a second server: a bound, so that a group that breaks down is
//! not asked twice for everything.

use tokio::time::Instant;

use crate::config::Retries;

/// A retry costs so much; a request brings `percent` of it, so that nothing is ever divided.
const PRICE: u64 = 100;
/// What is not used is kept for so many seconds' minimum, and is never less than so many retries.
const KEPT: u64 = 10;

/// A purse into which every request pays its percentage, every second the minimum, and out of which
/// each retry is paid.
#[derive(Debug)]
pub(super) struct Budget {
    rules: Retries,
    saved: u64,
    /// Up to when the minimum has been paid in.
    paid_until: Instant,
}

impl Budget {
    /// A purse with one second's minimum in it.
    pub(super) fn new(rules: Retries, now: Instant) -> Self {
        Self {
            rules,
            saved: u64::from(rules.min_per_second) * PRICE,
            paid_until: now,
        }
    }

    /// Counts a request.
    pub(super) fn asked(&mut self) {
        self.save(u64::from(self.rules.percent));
    }

    /// Takes the price of one retry; `false` when it is not there.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.paid_until);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let earned = millis
            .saturating_mul(u64::from(self.rules.min_per_second))
            .saturating_mul(PRICE)
            / 1000;
        if earned > 0 {
            self.save(earned);
            self.paid_until = now;
        }
        match self.saved.checked_sub(PRICE) {
            Some(left) => {
                self.saved = left;
                true
            }
            None => false,
        }
    }

    fn save(&mut self, amount: u64) {
        let most = u64::from(self.rules.min_per_second.max(1)) * PRICE * KEPT;
        self.saved = self.saved.saturating_add(amount).min(most);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn rules(percent: u32, min_per_second: u32) -> Retries {
        Retries {
            percent,
            min_per_second,
        }
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let now = Instant::now();
        let mut budget = Budget::new(rules(20, 0), now);
        assert!(!budget.take(now));
        for _ in 0..10 {
            budget.asked();
        }
        let granted = (0..10).filter(|_| budget.take(now)).count();
        assert_eq!(granted, 2);
    }

    #[test]
    fn a_minimum_is_there_however_few_requests_come() {
        let now = Instant::now();
        let mut budget = Budget::new(rules(20, 3), now);
        let granted = |budget: &mut Budget, now| (0..100).filter(|_| budget.take(now)).count();
        assert_eq!(granted(&mut budget, now), 3);
        assert_eq!(granted(&mut budget, now + Duration::from_secs(1)), 3);
        assert_eq!(granted(&mut budget, now + Duration::from_hours(1)), 30);
    }

    #[test]
    fn no_budget_is_no_retry() {
        let now = Instant::now();
        let mut budget = Budget::new(rules(0, 0), now);
        budget.asked();
        assert!(!budget.take(now + Duration::from_hours(1)));
    }

    proptest! {
        #[test]
        fn no_more_is_granted_than_was_paid_in(
            percent in 0_u32..=100,
            min in 0_u32..50,
            steps in prop::collection::vec((any::<bool>(), 0_u64..300), 1..300),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut budget = Budget::new(rules(percent, min), now);
            let (mut asked, mut granted) = (0_u64, 0_u64);
            for (asks, millis) in steps {
                now += Duration::from_millis(millis);
                if asks {
                    budget.asked();
                    asked += 1;
                } else if budget.take(now) {
                    granted += 1;
                }
            }
            let seconds = now.duration_since(start).as_millis();
            let bound = u128::from(min) * (1000 + seconds) / 1000 + u128::from(asked * u64::from(percent) / 100) + 1;
            prop_assert!(u128::from(granted) <= bound, "{granted} > {bound}");
        }
    }
}

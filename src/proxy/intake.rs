//! What a request's body may be: how large, and how slow.
//!
//! Only time in which the application waits for the client counts against the client. A client that
//! sends nothing for too long is given up, and so is one that drips: all the waiting together may be
//! no longer than one such pause and the time that what has come takes at the slowest rate. So no
//! body holds a connection to the application for ever (slow POST, CVE-2007-6750 and its kin).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Bounds on a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// The most bytes, framing not counted.
    pub max_bytes: u64,
    /// How long nothing may come.
    pub pause: Duration,
    /// The slowest rate, in bytes a second; 0 is any.
    pub min_rate: u64,
}

/// Why a request's body is not taken to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// It is larger than allowed.
    #[error("the request is larger than allowed")]
    TooLarge,
    /// Nothing came of it for too long.
    #[error("the client stopped sending its request")]
    Stalled,
    /// It comes at less than the slowest rate.
    #[error("the client sends its request too slowly")]
    TooSlow,
}

/// Holds one body to its bounds.
#[derive(Debug)]
pub(super) struct Intake {
    limits: BodyLimits,
    received: u64,
    /// How long the client was waited for, before the present wait.
    waited: Duration,
    /// The present wait.
    waiting: Option<Wait>,
    /// Made when the client is first waited for, which for most bodies is never.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A wait for the client.
#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Instant,
    /// What it is if it is not over in time.
    fault: BodyFault,
}

impl Intake {
    pub(super) fn new(limits: BodyLimits) -> Self {
        Self {
            limits,
            received: 0,
            waited: Duration::ZERO,
            waiting: None,
            timer: None,
        }
    }

    /// Something has come.
    pub(super) fn receive(&mut self, bytes: u64) -> Result<(), BodyFault> {
        if let Some(wait) = self.waiting.take() {
            self.waited = self.waited.saturating_add(wait.since.elapsed());
        }
        self.received = self.received.saturating_add(bytes);
        if self.received > self.limits.max_bytes {
            return Err(BodyFault::TooLarge);
        }
        Ok(())
    }

    /// Nothing has come, and the application waits. Ready when that has been so for too long.
    pub(super) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<BodyFault> {
        let is_new = self.waiting.is_none();
        let wait = *self.waiting.get_or_insert_with(|| Wait {
            since: Instant::now(),
            fault: BodyFault::Stalled,
        });
        if is_new {
            let (fault, left) = self.patience();
            self.waiting = Some(Wait { fault, ..wait });
            let deadline = wait.since + left;
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(deadline),
                None => self.timer = Some(Box::pin(sleep_until(deadline))),
            }
        }
        let fault = self.waiting.map_or(wait.fault, |wait| wait.fault);
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| fault),
            None => Poll::Pending,
        }
    }

    /// How long the next wait may be, and what it is if it is longer.
    fn patience(&self) -> (BodyFault, Duration) {
        let BodyLimits {
            pause, min_rate, ..
        } = self.limits;
        let Some(seconds) = self.received.checked_div(min_rate) else {
            return (BodyFault::Stalled, pause);
        };
        let in_all = pause.saturating_add(Duration::from_secs(seconds));
        let left = in_all.saturating_sub(self.waited);
        if left < pause {
            (BodyFault::TooSlow, left)
        } else {
            (BodyFault::Stalled, pause)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    const LIMITS: BodyLimits = BodyLimits {
        max_bytes: 100_000,
        pause: Duration::from_secs(30),
        min_rate: 100,
    };

    /// How long it is waited for in vain, in seconds, and what that is.
    async fn given_up(intake: &mut Intake) -> (u64, BodyFault) {
        let start = Instant::now();
        let fault = poll_fn(|cx| intake.poll_wait(cx)).await;
        (start.elapsed().as_secs(), fault)
    }

    /// Waits for so long, and then something comes.
    async fn after(intake: &mut Intake, seconds: u64, bytes: u64) -> bool {
        let wait = poll_fn(|cx| intake.poll_wait(cx));
        let too_long = timeout(Duration::from_secs(seconds), wait).await.is_ok();
        !too_long && intake.receive(bytes).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_has_its_time_and_that_begins_anew_with_each_part() {
        let mut intake = Intake::new(LIMITS);
        for _ in 0..10 {
            assert!(after(&mut intake, 20, 9000).await);
        }
        assert_eq!(given_up(&mut intake).await, (30, BodyFault::Stalled));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drip_is_given_up() {
        let mut intake = Intake::new(LIMITS);
        let mut seconds = 0;
        while after(&mut intake, 1, 1).await {
            seconds += 1;
            assert!(seconds < 1000, "it drips for ever");
        }
        // Which of the two comes first at the end is nobody's business.
        assert!((29..=30).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_waits_does_not_count() {
        let mut intake = Intake::new(LIMITS);
        for _ in 0..100 {
            advance(Duration::from_mins(1)).await;
            intake.receive(10).unwrap();
        }
        assert_eq!(given_up(&mut intake).await, (30, BodyFault::Stalled));
        let mut any_rate = Intake::new(BodyLimits {
            min_rate: 0,
            ..LIMITS
        });
        for _ in 0..100 {
            assert!(after(&mut any_rate, 29, 1).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_byte_too_many_ends_it() {
        let mut intake = Intake::new(LIMITS);
        assert_eq!(intake.receive(100_000), Ok(()));
        assert_eq!(intake.receive(0), Ok(()));
        assert_eq!(intake.receive(1), Err(BodyFault::TooLarge));
    }
}

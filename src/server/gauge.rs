//! What a client connection does, and whether it has done nothing for too long.
//!
//! Whoever reads, writes and answers on a connection tells its gauge, which costs a few stores; one
//! timer for each connection looks at it now and then. So no timer is set or moved for a request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::tally::Tally;

/// How long a client connection may do nothing, by what is awaited of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From the first byte of a request to the end of its head. Where that comes while an exchange
    /// still runs, from the next one that comes behind it.
    pub(super) head: Duration,
    /// From the end of an exchange to the next request.
    pub(super) idle: Duration,
    /// For the client to take something of what is written.
    pub(super) write: Duration,
    /// From the end of an exchange until what reading and writing need is given back.
    pub(super) rest: Duration,
}

impl Patience {
    /// After this it is looked again, whatever is awaited. An idle connection rests at the second look.
    fn shortest(&self) -> Duration {
        let shortest = self.head.min(self.idle).min(self.write);
        shortest.min(self.rest * 2)
    }
}

/// What a client was waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The rest of a request's head.
    Head,
    /// Another request.
    Idle,
    /// That it reads.
    Write,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing needs to be done before this moment; look again then.
    Fine(Instant),
    /// Nothing is under way, and has not been for a while. Its time is over at this moment.
    Rests(Instant),
    /// Its time is over.
    Overdue(Overdue),
}

/// The state of one connection. Times are milliseconds since it began, and 0 is never.
#[derive(Debug)]
pub(super) struct Gauge {
    began: Instant,
    /// Exchanges that are under way ...
    running: Tally,
    /// ... and all that there have been.
    begun: Tally,
    /// When the last exchange ended, or the last byte of its answer went out.
    idle_since: AtomicU64,
    /// When the first byte of a head came.
    head_since: AtomicU64,
    /// When the client stopped taking what is written.
    stalled_since: AtomicU64,
    /// Whether bytes between exchanges are the beginning of a request. Not with HTTP/2, where they
    /// can be many other things.
    has_heads: AtomicBool,
    /// Whether the last request had a body: what is left of it may still be on its way.
    has_body: AtomicBool,
}

impl Gauge {
    /// A connection that has just begun; its first head is awaited.
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            running: Tally::new(),
            begun: Tally::new(),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(1),
            stalled_since: AtomicU64::new(0),
            has_heads: AtomicBool::new(true),
            has_body: AtomicBool::new(false),
        }
    }

    /// The client speaks HTTP/2.
    pub(super) fn is_multiplexed(&self) {
        self.has_heads.store(false, Relaxed);
        self.head_since.store(0, Relaxed);
        self.idle_since.store(self.now(), Relaxed);
    }

    /// Bytes have come.
    pub(super) fn has_read(&self) {
        let is_first = self.has_heads.load(Relaxed)
            && self.running.get() == 0
            && self.head_since.load(Relaxed) == 0;
        if is_first {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    /// The client was given bytes, and took some or none.
    pub(super) fn has_written(&self, some: bool) {
        let stalls = self.stalled_since.load(Relaxed) != 0;
        if some && stalls {
            self.stalled_since.store(0, Relaxed);
            self.idle_since.store(self.now(), Relaxed);
        } else if !some && !stalls {
            self.stalled_since.store(self.now(), Relaxed);
        }
    }

    /// A request has been read, but for its body. Says which one it is, counted from 1.
    pub(super) fn begin(&self, has_body: bool) -> u64 {
        self.running.add();
        self.has_body.store(has_body, Relaxed);
        self.head_since.store(0, Relaxed);
        self.begun.add().saturating_add(1)
    }

    /// Something else than an exchange is under way, until [`Self::end`].
    pub(super) fn stay(&self) {
        self.running.add();
    }

    /// Its exchange has ended.
    pub(super) fn end(&self) {
        self.idle_since.store(self.now(), Relaxed);
        self.running.subtract();
    }

    /// How many requests there have been.
    pub(super) fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// Looks whether the client has been waited for too long.
    pub(super) fn look(&self, now: Instant, patience: &Patience) -> Verdict {
        let stalled = self.stalled_since.load(Relaxed);
        let head = self.head_since.load(Relaxed);
        // What is awaited may change meanwhile, to something with less time.
        let soon = now + patience.shortest();
        let (since, limit, overdue) = if stalled != 0 {
            (stalled, patience.write, Overdue::Write)
        } else if self.running.get() > 0 {
            return Verdict::Fine(soon);
        } else if head != 0 {
            (head, patience.head, Overdue::Head)
        } else {
            let since = self.idle_since.load(Relaxed);
            (since, patience.idle, Overdue::Idle)
        };
        let since = self.began + Duration::from_millis(since);
        let deadline = since + limit;
        if deadline <= now {
            return Verdict::Overdue(overdue);
        }
        // With a body, only the next head shows that it was read to its end.
        let can_rest = self.has_heads.load(Relaxed) && !self.has_body.load(Relaxed);
        if overdue == Overdue::Idle && can_rest && since + patience.rest <= now {
            return Verdict::Rests(deadline);
        }
        Verdict::Fine(deadline.min(soon))
    }

    /// Now; never 0.
    fn now(&self) -> u64 {
        let elapsed = self.began.elapsed().as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(30),
        idle: Duration::from_mins(1),
        write: Duration::from_secs(20),
        rest: Duration::from_millis(500),
    };

    /// Looks as a connection's timer does, until time is over. Says when that was, in seconds.
    async fn overdue(gauge: &Gauge) -> (Overdue, u64) {
        let start = Instant::now();
        loop {
            match gauge.look(Instant::now(), &PATIENCE) {
                Verdict::Fine(next) => {
                    assert!(
                        next > Instant::now(),
                        "it must not be looked at all the time"
                    );
                    tokio::time::sleep_until(next).await;
                }
                Verdict::Rests(end) => tokio::time::sleep_until(end).await,
                Verdict::Overdue(why) => return (why, start.elapsed().as_secs()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_has_the_time_of_a_head() {
        let gauge = Gauge::new(Instant::now());
        assert_eq!(overdue(&gauge).await, (Overdue::Head, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_more_time_than_a_head_that_has_begun() {
        let gauge = Gauge::new(Instant::now());
        assert_eq!(gauge.begin(false), 1);
        advance(Duration::from_secs(500)).await;
        assert!(matches!(
            gauge.look(Instant::now(), &PATIENCE),
            Verdict::Fine(_)
        ));
        gauge.end();
        let idle = Gauge::new(Instant::now());
        idle.begin(false);
        idle.end();
        assert_eq!(overdue(&idle).await, (Overdue::Idle, 60));
        gauge.has_read();
        advance(Duration::from_secs(10)).await;
        // A drip does not prolong it.
        gauge.has_read();
        assert_eq!(overdue(&gauge).await, (Overdue::Head, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_overdue_and_one_that_takes_little_is_not() {
        let gauge = Gauge::new(Instant::now());
        gauge.begin(false);
        for _ in 0..10 {
            gauge.has_written(false);
            advance(Duration::from_secs(19)).await;
            assert!(matches!(
                gauge.look(Instant::now(), &PATIENCE),
                Verdict::Fine(_)
            ));
            gauge.has_written(true);
        }
        gauge.has_written(false);
        gauge.end();
        assert_eq!(overdue(&gauge).await, (Overdue::Write, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_between_the_streams_of_http2_are_no_head() {
        let gauge = Gauge::new(Instant::now());
        gauge.is_multiplexed();
        gauge.has_read();
        assert_eq!(overdue(&gauge).await, (Overdue::Idle, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_rests_unless_something_of_a_request_may_be_on_its_way() {
        let gauge = Gauge::new(Instant::now());
        let rests = |gauge: &Gauge| {
            let verdict = gauge.look(Instant::now(), &PATIENCE);
            matches!(verdict, Verdict::Rests(_))
        };
        assert!(!rests(&gauge), "it has not begun");
        gauge.begin(false);
        advance(Duration::from_secs(1)).await;
        assert!(!rests(&gauge), "an exchange is under way");
        gauge.end();
        advance(Duration::from_millis(499)).await;
        assert!(!rests(&gauge), "it has just ended");
        advance(Duration::from_millis(1)).await;
        assert!(rests(&gauge));
        gauge.has_read();
        assert!(!rests(&gauge), "a head has begun");
        gauge.begin(true);
        gauge.end();
        advance(Duration::from_secs(1)).await;
        assert!(!rests(&gauge), "its body may not have ended");
        gauge.begin(false);
        gauge.has_written(false);
        gauge.end();
        advance(Duration::from_secs(1)).await;
        assert!(!rests(&gauge), "the client has not taken all");
        let http2 = Gauge::new(Instant::now());
        http2.is_multiplexed();
        advance(Duration::from_secs(1)).await;
        assert!(!rests(&http2));
    }
}

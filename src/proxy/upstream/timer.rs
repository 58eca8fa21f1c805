//! Waits that hardly ever last until their deadline.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Patience, UpstreamError};
use crate::proxy::body::Progress;

/// A timer that stays set from one wait to the next. To set one and to take it back costs each
/// exchange more than to be woken in vain now and then.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Whether the deadline has come. If not, the task is woken then, or earlier.
    pub(in crate::proxy) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// Waits for a response head as long as something moves.
pub(super) async fn in_time<T>(
    exchange: impl Future<Output = T>,
    timer: &mut Timer,
    progress: Option<&Progress>,
    Patience {
        since,
        limit,
        until,
    }: Patience,
) -> Result<T, UpstreamError> {
    let mut exchange = pin!(exchange);
    let by = |deadline: Instant| until.map_or(deadline, |until| deadline.min(until));
    let mut deadline = by(since + limit);
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = exchange.as_mut().poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        loop {
            ready!(timer.poll(cx, deadline));
            match progress {
                Some(body) if by(body.last_moved() + limit) > deadline => {
                    deadline = by(body.last_moved() + limit);
                }
                Some(body) if body.is_starved() => {
                    return Poll::Ready(Err(UpstreamError::RequestStalled));
                }
                Some(_) | None => return Poll::Ready(Err(UpstreamError::ResponseTimeout)),
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_set_already_keeps_to_each_deadline() {
        let mut timer = Timer::default();
        for seconds in [5, 1, 60, 2] {
            let since = Instant::now();
            let limit = Duration::from_secs(seconds);
            let waiting = in_time(
                pending::<()>(),
                &mut timer,
                None,
                Patience {
                    since,
                    limit,
                    until: None,
                },
            );
            let outcome = waiting.await;
            assert!(matches!(outcome, Err(UpstreamError::ResponseTimeout)));
            assert_eq!(since.elapsed(), limit);
            // One that is over in time, and leaves its deadline behind.
            let patience = Patience {
                since: Instant::now(),
                limit,
                until: None,
            };
            let answered = in_time(async { 7 }, &mut timer, None, patience).await;
            assert_eq!(answered.unwrap(), 7);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_response_starts_anew_while_the_request_moves() {
        let progress = Progress::new(Instant::now());
        let patience = Patience {
            since: Instant::now(),
            limit: Duration::from_secs(5),
            until: None,
        };
        let upload = async {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(3)).await;
                progress.advance(1);
            }
        };
        let mut timer = Timer::default();
        let silence = pending::<()>();
        let (outcome, ()) = tokio::join!(
            in_time(silence, &mut timer, Some(&progress), patience),
            upload
        );
        let error = outcome.unwrap_err();
        assert!(matches!(error, UpstreamError::ResponseTimeout), "{error:?}");
        // Twelve seconds of upload, and then the response timeout of five.
        assert_eq!(patience.since.elapsed().as_secs(), 17);
        assert_eq!(progress.bytes(), 4);
    }
}

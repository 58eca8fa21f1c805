//! Streams of HTTP/2 whose clients take nothing.
//!
//! A client can leave the window of a stream at zero for ever. hyper then waits for it and asks the
//! response's body for nothing, so only whoever runs the stream can tell: when it has to wait, and
//! neither the exchange nor the body said that they are what it waits for, it waits for the client.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::debug;

/// What was said while a stream was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    /// It is one of an exchange.
    Something,
    /// It waits for us.
    WaitsForUs,
}

thread_local! {
    /// Set and read within one turn of a stream, during which nothing else runs on the thread.
    static SAID: Cell<Said> = const { Cell::new(Said::Nothing) };
}

/// Says of the stream that is being run that a part of its exchange was asked, and whether it has
/// to wait for that.
pub(super) fn asked<T>(polled: Poll<T>) -> Poll<T> {
    SAID.set(if polled.is_pending() {
        Said::WaitsForUs
    } else {
        Said::Something
    });
    polled
}

/// Runs the streams of a connection, and drops those whose clients take nothing for too long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    pub(super) patience: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Watched {
            stream: Some(Box::pin(stream)),
            patience: self.patience,
            is_exchange: false,
            since: None,
            timer: None,
        });
    }
}

/// One stream.
struct Watched<F> {
    /// `None` when it has ended.
    stream: Option<Pin<Box<F>>>,
    patience: Duration,
    /// Not a tunnel, which may be silent.
    is_exchange: bool,
    /// When the client began to take nothing.
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(());
        };
        SAID.set(Said::Nothing);
        if stream.as_mut().poll(cx).is_ready() {
            this.stream = None;
            return Poll::Ready(());
        }
        let said = SAID.get();
        this.is_exchange |= said != Said::Nothing;
        if said == Said::WaitsForUs || !this.is_exchange {
            this.since = None;
            return Poll::Pending;
        }
        if said == Said::Something || this.since.is_none() {
            // It took what it was given last.
            let now = Instant::now();
            this.since = Some(now);
            let deadline = now + this.patience;
            match &mut this.timer {
                Some(timer) => timer.as_mut().reset(deadline),
                None => this.timer = Some(Box::pin(sleep_until(deadline))),
            }
        }
        let timer = this.timer.as_mut();
        if timer.is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            debug!("a client takes nothing of an answer: its stream is reset");
            this.stream = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Runs a stream that says this each time; how long it lives, in seconds, up to a day.
    async fn lifetime(mut says: impl FnMut() -> Option<Poll<()>> + Send + 'static) -> u64 {
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let streams = Streams {
            patience: Duration::from_secs(30),
        };
        streams.execute(async move {
            poll_fn(|_cx| {
                if let Some(polled) = says() {
                    // What it is does not matter here.
                    let _polled = asked(polled);
                }
                Poll::<()>::Pending
            })
            .await;
            drop(alive);
        });
        let start = Instant::now();
        // An error is the end.
        tokio::time::timeout(Duration::from_hours(24), ended)
            .await
            .ok();
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_is_waited_for_is_given_up() {
        let day = 24 * 3600;
        assert_eq!(lifetime(|| Some(Poll::Pending)).await, day, "waits for us");
        assert_eq!(lifetime(|| None).await, day, "a tunnel");
        let mut first = true;
        let stalls = move || std::mem::take(&mut first).then_some(Poll::Ready(()));
        assert_eq!(lifetime(stalls).await, 30);
    }
}

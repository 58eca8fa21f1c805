//! Interim responses between what hyper writes on a connection of HTTP/1.1.
//!
//! hyper flushes the transport when it has nothing more to write, and then only, so that is where
//! they fit in. They wait while the exchange waits for its final response; when hyper begins to write
//! that, they go before it if nothing of an earlier one is half written, and are dropped otherwise.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::proxy::interim::Interims;

/// What hyper is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Write a part of what it has.
    Write,
    /// Flush: it has nothing more.
    Flush,
}

/// Writes interim responses ahead of what hyper does next.
#[derive(Debug)]
pub(super) struct Ahead {
    waiting: Arc<Interims>,
    /// What has begun to be written, and has to be finished.
    writing: Vec<u8>,
    written: usize,
    /// Whether hyper has written since it last had nothing more.
    midway: bool,
}

impl Ahead {
    pub(super) fn new(waiting: Arc<Interims>) -> Self {
        Self {
            waiting,
            writing: Vec::new(),
            written: 0,
            midway: false,
        }
    }

    /// Writes those that there are, where they fit. What hyper wants has to wait until this is ready.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut W,
        next: Next,
    ) -> Poll<io::Result<()>> {
        if next == Next::Flush {
            self.midway = false;
        }
        loop {
            while let Some(rest @ [_, ..]) = self.writing.get(self.written..) {
                match ready!(Pin::new(&mut *io).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    some => self.written = self.written.saturating_add(some),
                }
            }
            // Not before: what waits there is bounded, and what has been taken would not count.
            match self.waiting.take() {
                Some(more) if !self.midway => (self.writing, self.written) = (more, 0),
                Some(_) | None => break,
            }
        }
        if self.written > 0 {
            // The buffer would be kept as long as the connection.
            (self.writing, self.written) = (Vec::new(), 0);
        }
        self.midway = next == Next::Write;
        Poll::Ready(Ok(()))
    }

    /// How much of what is being written has been.
    pub(super) fn written(&self) -> usize {
        self.written
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::{HeaderMap, StatusCode};
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;

    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\n\r\n";

    fn hint(waiting: &Interims) {
        waiting.put(StatusCode::EARLY_HINTS, &HeaderMap::new());
    }

    /// What hyper does: `next`, and then writes this.
    fn turn(ahead: &mut Ahead, io: &mut DuplexStream, next: Next, bytes: &str) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if ahead.poll(&mut cx, io, next).is_pending() {
            return false;
        }
        bytes.is_empty()
            || matches!(
                Pin::new(io).poll_write(&mut cx, bytes.as_bytes()),
                Poll::Ready(Ok(written)) if written == bytes.len()
            )
    }

    async fn read_all(mut io: DuplexStream) -> String {
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn they_never_stand_within_an_answer() {
        let (mut near, far) = duplex(1024);
        let waiting = Arc::<Interims>::default();
        let mut ahead = Ahead::new(Arc::clone(&waiting));
        hint(&waiting);
        assert!(turn(&mut ahead, &mut near, Next::Write, "one "));
        hint(&waiting);
        assert!(
            turn(&mut ahead, &mut near, Next::Write, "answer, "),
            "dropped"
        );
        assert!(turn(&mut ahead, &mut near, Next::Flush, ""));
        hint(&waiting);
        assert!(turn(&mut ahead, &mut near, Next::Flush, ""));
        assert!(turn(&mut ahead, &mut near, Next::Write, "another"));
        drop(near);
        assert_eq!(
            read_all(far).await,
            format!("{HINTS}one answer, {HINTS}another")
        );
    }

    #[tokio::test]
    async fn one_that_is_half_written_is_finished_first() {
        let (mut near, mut far) = duplex(10);
        let waiting = Arc::<Interims>::default();
        let mut ahead = Ahead::new(Arc::clone(&waiting));
        hint(&waiting);
        assert!(
            !turn(&mut ahead, &mut near, Next::Flush, ""),
            "there is no room"
        );
        let reading = tokio::spawn(async move {
            let mut text = String::new();
            far.read_to_string(&mut text).await.unwrap();
            text
        });
        // Another one comes meanwhile, and then the answer.
        hint(&waiting);
        poll_fn(|cx| ahead.poll(cx, &mut near, Next::Write))
            .await
            .unwrap();
        assert_eq!(ahead.written(), 0);
        drop(near);
        assert_eq!(reading.await.unwrap(), HINTS.repeat(2));
    }

    #[test]
    fn what_waits_is_not_taken_while_another_is_half_written() {
        // Nobody reads, and there is room for less than one.
        let (mut io, _client) = duplex(8);
        let waiting = Arc::<Interims>::default();
        let mut ahead = Ahead::new(Arc::clone(&waiting));
        for _ in 0..3 {
            hint(&waiting);
            assert!(!turn(&mut ahead, &mut io, Next::Flush, ""));
            assert_eq!(ahead.writing.len(), HINTS.len());
        }
        assert_eq!(
            waiting.take().map(|waits| waits.len()),
            Some(2 * HINTS.len())
        );
    }
}

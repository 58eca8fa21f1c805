//! What follows a 101: bytes, both ways, until both sides have ended, or nothing has moved for long.
//!
//! Neither side is understood any more. Bytes that came behind a head are part of it: hyper hands
//! them over with the connection.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::proxy::Peer;
use crate::proxy::tasks::Tasks;
use crate::proxy::upstream::Lease;

/// How many bytes went through a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// From the client to the upstream.
    pub up: u64,
    /// From the upstream to the client.
    pub down: u64,
    /// Whether it was closed because nothing moved any more.
    pub fell_silent: bool,
}

/// Joins the two sides of an upgrade once hyper has let go of them, in a task that a stopping
/// worker waits for. After `idle` without a byte in either direction it is closed. `on_end` is called
/// once, also when the worker cuts it off. Until then both connections count: `peer` holds the
/// client's place, `lease` the upstream's.
pub fn join(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    peer: Arc<Peer>,
    lease: Lease,
    tasks: &Tasks,
    idle: Duration,
    on_end: impl FnOnce(Transferred) + Send + 'static,
) {
    tasks.spawn(async move {
        let mut count = Count {
            transferred: Transferred::default(),
            on_end: Some(Box::new(on_end)),
        };
        let sides = tokio::try_join!(downstream, upstream);
        let (downstream, upstream) = match sides {
            Ok((downstream, upstream)) => (TokioIo::new(downstream), TokioIo::new(upstream)),
            Err(error) => {
                debug!(%error, "an upgrade did not happen");
                return;
            }
        };
        carry(downstream, upstream, &mut count.transferred, idle).await;
        drop((peer, lease));
    });
}

/// Carries bytes until there is an end of it.
async fn carry(
    mut downstream: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
    transferred: &mut Transferred,
    idle: Duration,
) {
    let moves = Moves::new();
    let mut upstream = Counted {
        io: upstream,
        transferred,
        moves: &moves,
    };
    let copied = tokio::select! {
        copied = copy_bidirectional(&mut downstream, &mut upstream) => copied,
        () = moves.cease(idle) => {
            debug!("a tunnel in which nothing moved was closed");
            transferred.fell_silent = true;
            return;
        }
    };
    if let Err(error) = copied {
        debug!(%error, "a tunnel broke");
    }
}

/// When something last moved in a tunnel. Noting it costs a look at the clock and a store; one timer
/// looks at it now and then, so that none is set for each packet.
struct Moves {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
}

impl Moves {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn note(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis());
        self.last
            .store(since.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Waits until nothing has moved for so long.
    async fn cease(&self, idle: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let end = self.began + last + idle;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// Tells the end with the count, even when the task is dropped in the middle.
struct Count {
    transferred: Transferred,
    on_end: Option<Box<dyn FnOnce(Transferred) + Send>>,
}

impl Drop for Count {
    fn drop(&mut self) {
        if let Some(on_end) = self.on_end.take() {
            on_end(self.transferred);
        }
    }
}

impl fmt::Debug for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.transferred.fmt(f)
    }
}

/// The upstream's side, counting.
struct Counted<'a, T> {
    io: T,
    transferred: &'a mut Transferred,
    moves: &'a Moves,
}

fn add(sum: &mut u64, bytes: usize) {
    *sum = sum.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<'_, T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let read = buf.filled().len().saturating_sub(before);
        add(&mut this.transferred.down, read);
        this.moves.note();
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<'_, T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        add(&mut this.transferred.up, written);
        this.moves.note();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::advance;

    use super::*;

    const IDLE: Duration = Duration::from_mins(1);
    const NEARLY: Duration = Duration::from_secs(59);

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_lives_as_long_as_something_moves_in_either_direction() {
        let (downstream, mut client) = duplex(64);
        let (upstream, mut application) = duplex(64);
        let start = Instant::now();
        let tunnel = tokio::spawn(async move {
            let mut transferred = Transferred::default();
            carry(downstream, upstream, &mut transferred, IDLE).await;
            (transferred, start.elapsed())
        });
        let mut byte = [0];
        for _ in 0..5 {
            advance(NEARLY).await;
            client.write_all(b"x").await.unwrap();
            application.read_exact(&mut byte).await.unwrap();
            advance(NEARLY).await;
            application.write_all(b"y").await.unwrap();
            client.read_exact(&mut byte).await.unwrap();
        }
        let (transferred, lived) = tunnel.await.unwrap();
        assert_eq!(lived.as_secs(), 10 * 59 + 60);
        let expected = Transferred {
            up: 5,
            down: 5,
            fell_silent: true,
        };
        assert_eq!(transferred, expected);
        // Both sides learn of it.
        assert_eq!(client.read(&mut byte).await.unwrap(), 0);
        assert_eq!(application.read(&mut byte).await.unwrap(), 0);
    }
}

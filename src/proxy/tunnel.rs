//! What follows a 101: bytes, both ways, until both sides have ended.
//!
//! Neither side is understood any more. Bytes that came behind a head are part of it: hyper hands
//! them over with the connection.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
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
}

/// Joins the two sides of an upgrade once hyper has let go of them, in a task that a stopping
/// worker waits for. `on_end` is called once, also when the worker cuts it off. Until then both
/// connections count: `peer` holds the client's place, `lease` the upstream's.
pub fn join(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    peer: Arc<Peer>,
    lease: Lease,
    tasks: &Tasks,
    on_end: impl FnOnce(Transferred) + Send + 'static,
) {
    tasks.spawn(async move {
        let mut count = Count {
            transferred: Transferred::default(),
            on_end: Some(Box::new(on_end)),
        };
        let sides = tokio::try_join!(downstream, upstream);
        let (mut downstream, upstream) = match sides {
            Ok((downstream, upstream)) => (TokioIo::new(downstream), upstream),
            Err(error) => {
                debug!(%error, "an upgrade did not happen");
                return;
            }
        };
        let mut upstream = Counted {
            io: TokioIo::new(upstream),
            transferred: &mut count.transferred,
        };
        if let Err(error) = copy_bidirectional(&mut downstream, &mut upstream).await {
            debug!(%error, "a tunnel broke");
        }
        drop((peer, lease));
    });
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
struct Counted<'a> {
    io: TokioIo<Upgraded>,
    transferred: &'a mut Transferred,
}

fn add(sum: &mut u64, bytes: usize) {
    *sum = sum.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
}

impl AsyncRead for Counted<'_> {
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
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        add(&mut this.transferred.up, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

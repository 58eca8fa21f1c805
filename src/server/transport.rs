//! The bytes of a client connection, whatever carries them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::frames::Meter;
use super::gauge::Gauge;
use super::interim::{Ahead, Next};
use crate::proxy::gather;

/// How much is read at once before it is known what the client speaks. Most request heads are
/// shorter, so that looking costs no further call of the kernel.
const EARLY: usize = 2048;

/// A connection as it was accepted.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection of which the beginning may have been read already.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    early: Vec<u8>,
    /// How much of `early` is used up.
    used: usize,
    /// Bytes that have been written.
    written: u64,
}

impl Wire {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            early: Vec::new(),
            used: 0,
            written: 0,
        }
    }

    /// What has been read and is not used up.
    pub(super) fn early(&self) -> &[u8] {
        self.early.get(self.used..).unwrap_or_default()
    }

    /// Reads what there is and keeps it; waits until there is something.
    ///
    /// # Errors
    ///
    /// Those of the socket; `UnexpectedEof` when the client says nothing more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn read_early(&mut self) -> io::Result<()> {
        self.early.reserve(EARLY);
        match self.socket.read_buf(&mut self.early).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits until there is something to read, or nothing will come any more.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.early().is_empty() {
            return Poll::Ready(());
        }
        let ready = match &self.socket {
            Socket::Tcp(stream) => stream.poll_read_ready(cx),
            Socket::Unix(stream) => stream.poll_read_ready(cx),
        };
        // Reading tells what went wrong.
        ready.map(drop)
    }

    /// Counts what has been written.
    fn count(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            let bytes = u64::try_from(*bytes).unwrap_or_default();
            self.written = self.written.wrapping_add(bytes);
        }
    }

    /// Uses up so many bytes of what has been read.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(bytes).min(self.early.len());
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let early = this.early.get(this.used..).unwrap_or_default();
        if early.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        let part = early.len().min(buf.remaining());
        buf.put_slice(early.get(..part).unwrap_or_default());
        this.used = this.used.saturating_add(part);
        if this.used == this.early.len() {
            // The buffer would be kept as long as the connection.
            (this.early, this.used) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

/// A connection, encrypted or not.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}

/// What may hold back some of what it was given to write, as TLS does.
pub(super) trait Sends: AsyncWrite {
    /// Bytes that have gone out, whatever they are of.
    fn sent(&self) -> u64;
}

impl Transport {
    fn wire(&self) -> &Wire {
        match self {
            Self::Plain(wire) => wire,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl Sends for Transport {
    fn sent(&self) -> u64 {
        self.wire().written
    }
}

/// A connection as HTTP reads and writes it; the gauge notices.
#[derive(Debug)]
pub(super) struct Gauged<T> {
    inner: T,
    gauge: Arc<Gauge>,
    /// What was read and given back.
    unread: Bytes,
    /// With HTTP/2, what counts its frames.
    meter: Option<Meter>,
    /// With HTTP/1.1, interim responses, where they are passed on.
    ahead: Option<Ahead>,
}

impl<T> Gauged<T> {
    pub(super) fn new(inner: T, gauge: Arc<Gauge>) -> Self {
        Self {
            inner,
            gauge,
            unread: Bytes::new(),
            meter: None,
            ahead: None,
        }
    }

    /// The same, whose frames are counted.
    pub(super) fn metered(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// The same, writing interim responses.
    pub(super) fn with_interims(mut self, ahead: Ahead) -> Self {
        self.ahead = Some(ahead);
        self
    }
}

impl<T: Sends> Gauged<T> {
    /// Tells the gauge how writing or flushing went. `before` is what had gone out then.
    fn has_moved(&self, before: u64, is_done: bool) {
        if !is_done && self.inner.sent() != before {
            // There is more of it, but the client has taken some.
            self.gauge.has_written(true);
        }
        self.gauge.has_written(is_done);
    }

    /// Tells the gauge and the meter how writing went.
    fn has_written(&mut self, before: u64, written: &Poll<io::Result<usize>>) {
        self.has_moved(before, written.is_ready());
        if let (Some(meter), Poll::Ready(Ok(bytes))) = (&mut self.meter, written) {
            meter.written(*bytes);
        }
    }
}

impl Gauged<Transport> {
    /// Gives back bytes that were read and not used: the beginning of a head.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        // Nothing is left of a buffer that would be kept by an empty piece of it.
        if !bytes.is_empty() {
            self.gauge.has_read();
            self.unread = bytes;
        }
    }

    /// Waits until there is something to read, or nothing will come any more. What has been written is
    /// flushed meanwhile.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.unread.is_empty() {
            return Poll::Ready(());
        }
        // What goes wrong is told by the next who writes.
        let _flushed = Pin::new(&mut *self).poll_flush(cx);
        self.inner.wire().poll_readable(cx)
    }
}

impl<T: AsyncWrite + Unpin> Gauged<T> {
    /// Writes interim responses ahead of what comes next.
    fn poll_ahead(&mut self, cx: &mut Context<'_>, next: Next) -> Poll<io::Result<()>> {
        let Some(ahead) = &mut self.ahead else {
            return Poll::Ready(Ok(()));
        };
        let before = ahead.written();
        let polled = ahead.poll(cx, &mut self.inner, next);
        if polled.is_pending() {
            if ahead.written() > before {
                self.gauge.has_written(true);
            }
            self.gauge.has_written(false);
        }
        polled
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gauged<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let part = this.unread.len().min(buf.remaining());
            buf.put_slice(&this.unread.split_to(part));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.gauge.has_read();
            let read = buf.filled().get(before..).unwrap_or_default();
            if let Some(meter) = &mut this.meter
                && !meter.read(read)
            {
                return Poll::Ready(Err(io::Error::other("frames that only make work")));
            }
        }
        polled
    }
}

impl<T: Sends + Unpin> AsyncWrite for Gauged<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_ahead(cx, Next::Write))?;
        let before = this.inner.sent();
        let polled = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.has_written(before, &polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_ahead(cx, Next::Write))?;
        let before = this.inner.sent();
        let polled = gather::poll_write(Pin::new(&mut this.inner), cx, parts);
        this.has_written(before, &polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_ahead(cx, Next::Flush))?;
        let before = this.inner.sent();
        let polled = Pin::new(&mut this.inner).poll_flush(cx);
        this.has_moved(before, polled.is_ready());
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// Implements reading and writing by whichever variant it is.
macro_rules! either {
    ($kind:ident: $($variant:ident),+) => {
        impl AsyncRead for $kind {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(io) => Pin::new(io).poll_read(cx, buf),)+
                }
            }
        }

        impl AsyncWrite for $kind {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$variant(io) => Pin::new(io).poll_write(cx, bytes),)+
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                parts: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$variant(io) => Pin::new(io).poll_write_vectored(cx, parts),)+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $(Self::$variant(io) => io.is_write_vectored(),)+
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(io) => Pin::new(io).poll_flush(cx),)+
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(io) => Pin::new(io).poll_shutdown(cx),)+
                }
            }
        }
    };
}

either!(Socket: Tcp, Unix);
either!(Transport: Plain, Tls);

/// What has been read early does not matter to writing.
impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.count(&polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.socket).poll_write_vectored(cx, parts);
        this.count(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::super::gauge::{Overdue, Patience, Verdict};
    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(30),
        idle: Duration::from_mins(1),
        write: Duration::from_secs(30),
        rest: Duration::from_millis(500),
    };

    /// Takes all that it is given to write, as TLS does, and sends a byte of it with each flush as long
    /// as somebody reads.
    struct Holds {
        held: usize,
        sent: u64,
        is_read: bool,
    }

    impl AsyncWrite for Holds {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.held += bytes.len();
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.is_read && self.held > 0 {
                self.held -= 1;
                self.sent += 1;
            }
            if self.held == 0 {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Sends for Holds {
        fn sent(&self) -> u64 {
            self.sent
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_what_was_held_back_bit_by_bit_is_not_overdue() {
        let gauge = Arc::new(Gauge::new(Instant::now()));
        let transport = Holds {
            held: 0,
            sent: 0,
            is_read: true,
        };
        let mut io = Gauged::new(transport, Arc::clone(&gauge));
        let mut cx = Context::from_waker(Waker::noop());
        let _first = gauge.begin(false);
        let written = Pin::new(&mut io).poll_write(&mut cx, b"answer");
        assert!(matches!(written, Poll::Ready(Ok(6))));
        for _ in 0..5 {
            assert!(Pin::new(&mut io).poll_flush(&mut cx).is_pending());
            advance(Duration::from_secs(20)).await;
            let verdict = gauge.look(Instant::now(), &PATIENCE);
            assert!(matches!(verdict, Verdict::Fine(_)), "{verdict:?}");
        }
        io.inner.is_read = false;
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_pending());
        advance(Duration::from_secs(20)).await;
        let verdict = gauge.look(Instant::now(), &PATIENCE);
        assert_eq!(verdict, Verdict::Overdue(Overdue::Write));
    }
}

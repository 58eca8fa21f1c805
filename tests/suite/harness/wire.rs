//! Bytes on one connection, kept as they came.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{Address, DEADLINE};

/// One connection, from either side.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Arc<TcpStream>,
    /// Everything that was received since [`Self::forget`].
    received: Vec<u8>,
    /// How much of it was consumed.
    consumed: usize,
    /// Set when a script panics while it holds this.
    panicked: Arc<AtomicBool>,
}

impl Drop for Wire {
    // Before the connection closes: the test may end as soon as its peer sees that.
    fn drop(&mut self) {
        if thread::panicking() {
            self.panicked.store(true, Ordering::SeqCst);
        }
    }
}

impl Wire {
    /// Connects to a server.
    pub(crate) fn connect(server: &impl Address) -> Self {
        let address = server.address();
        let stream = TcpStream::connect_timeout(&address, DEADLINE);
        let stream = stream.unwrap_or_else(|error| panic!("can't connect to {address}: {error}"));
        Self::new(Arc::new(stream), Arc::default())
    }

    /// Takes a connection; it is closed when this goes, unless somebody else holds it too.
    pub(super) fn new(stream: Arc<TcpStream>, panicked: Arc<AtomicBool>) -> Self {
        stream.set_nodelay(true).expect("the socket is open");
        stream
            .set_write_timeout(Some(DEADLINE))
            .expect("the deadline is not zero");
        Self {
            stream,
            received: Vec::new(),
            consumed: 0,
            panicked,
        }
    }

    /// Sends bytes at once.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref())
            .expect("the peer takes what is sent");
    }

    /// Sends bytes to a peer that may be gone.
    ///
    /// # Errors
    ///
    /// The peer has closed the connection, or takes nothing for [`DEADLINE`].
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&*self.stream).write_all(bytes)
    }

    /// Reads up to and including `needle`.
    pub(crate) fn read_until(&mut self, needle: &str) -> String {
        let range = self.take_until(needle.as_bytes());
        let range = range.unwrap_or_else(|error| panic!("waiting for {needle:?}: {error}"));
        text(self.bytes(range))
    }

    /// Reads exactly so many bytes.
    pub(crate) fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        let range = self.take(length).expect("so many bytes arrive");
        self.bytes(range).to_vec()
    }

    /// Reads exactly so many bytes from a peer that may be gone.
    ///
    /// # Errors
    ///
    /// The connection ends before, or nothing comes for [`DEADLINE`].
    pub(crate) fn try_read_exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let range = self.take(length)?;
        Ok(self.bytes(range).to_vec())
    }

    /// Reads until the peer closes or resets the connection.
    pub(crate) fn read_to_close(&mut self) -> Vec<u8> {
        let range = self
            .take_to_close()
            .expect("the peer closes the connection");
        self.bytes(range).to_vec()
    }

    /// Says that nothing more will be sent (FIN).
    pub(crate) fn finish(&mut self) {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("the connection is open");
    }

    /// Ends the connection with RST instead of FIN.
    pub(crate) fn reset(self) {
        let linger = SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
        linger.expect("the socket takes the option");
    }

    /// Everything that was received, and forgets it.
    pub(super) fn forget(&mut self) -> Vec<u8> {
        let unread = self.received.split_off(self.consumed);
        self.consumed = 0;
        std::mem::replace(&mut self.received, unread)
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.received
            .get(range)
            .expect("the range was taken from what was received")
    }

    pub(super) fn take(&mut self, length: usize) -> io::Result<Range<usize>> {
        let end = Instant::now() + DEADLINE;
        while self.received.len() - self.consumed < length {
            self.receive(end)?;
        }
        Ok(self.advance(length))
    }

    /// All that has arrived and is not consumed; consumes it.
    pub(super) fn rest(&mut self) -> Range<usize> {
        self.advance(self.received.len() - self.consumed)
    }

    pub(super) fn take_until(&mut self, needle: &[u8]) -> io::Result<Range<usize>> {
        let end = Instant::now() + DEADLINE;
        let mut searched = self.consumed;
        loop {
            let rest = self.bytes(searched..self.received.len());
            if let Some(at) = rest
                .windows(needle.len())
                .position(|window| window == needle)
            {
                return Ok(self.advance(searched + at + needle.len() - self.consumed));
            }
            searched = (self.received.len() + 1)
                .saturating_sub(needle.len())
                .max(searched);
            self.receive(end)?;
        }
    }

    pub(super) fn take_to_close(&mut self) -> io::Result<Range<usize>> {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.receive(end) {
                Ok(()) => {}
                Err(error) if is_cut(&error) => {
                    return Ok(self.rest());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn advance(&mut self, length: usize) -> Range<usize> {
        let start = self.consumed;
        self.consumed += length;
        start..self.consumed
    }

    /// Receives what there is; the end of the connection is an error.
    fn receive(&mut self, end: Instant) -> io::Result<()> {
        let left = end
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero());
        let left = left.ok_or(io::ErrorKind::TimedOut)?;
        self.stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 16 * 1024];
        let length = match (&*self.stream).read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            // What a socket with a read timeout answers on Linux when it has passed.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // The callers read on, within the same deadline.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        self.received
            .extend_from_slice(buffer.get(..length).unwrap_or_default());
        Ok(())
    }
}

/// Sends exactly these bytes on a new connection, and reads the whole response to the first
/// request in them, or what there is of it when the connection ends before.
pub(crate) fn raw(server: &impl Address, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut wire = Wire::connect(server);
    // A server may refuse the beginning and close before it has taken the rest.
    if let Err(error) = wire.try_send(bytes) {
        assert!(is_cut(&error), "can't send: {error}");
    }
    let method = if bytes.starts_with(b"HEAD ") {
        "HEAD"
    } else {
        "GET"
    };
    match wire.try_read_response(method) {
        Ok(_) => wire.forget(),
        Err(error) if is_cut(&error) => std::mem::take(&mut wire.received),
        Err(error) => panic!("no response: {error}"),
    }
}

/// Sends exactly these bytes on a new connection, and reads until the server closes it.
pub(crate) fn raw_until_close(server: &impl Address, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut wire = Wire::connect(server);
    wire.send(bytes);
    wire.read_to_close()
}

/// Whether the peer ended the connection, in whichever way.
pub(super) fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        UnexpectedEof,
    ]
    .contains(&error.kind())
}

/// UTF-8, or one character a byte where it is something else: nothing that arrived is lost.
pub(super) fn text(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.unwrap_or_else(|_| bytes.iter().copied().map(char::from).collect())
}

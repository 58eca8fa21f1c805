//! A relay on the way to a server, that breaks what passes: by what is it, and when, a test says.
//!
//! Faults are in what the server sends back, but for [`Fault::Refuse`], [`Fault::Blackhole`] and
//! [`Fault::HalfOpen`]. Replies are counted and cut in the pieces in which they arrive, each
//! connection by itself, from the moment when the fault was set.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use crate::harness::{Address, DEADLINE};

/// What is wrong on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    Pass,
    /// New connections are reset at once.
    Refuse,
    /// What is sent to the server is swallowed.
    Blackhole,
    /// New connections are ended (FIN) by the server's side, and what is sent still reaches it.
    HalfOpen,
    /// Each piece of a reply comes so late.
    Latency(Duration),
    /// Replies come in parts of so many bytes, with such a pause after each.
    Drip(usize, Duration),
    /// The connection ends (FIN) after so many bytes of replies.
    Cut(usize),
    /// The connection ends (RST) after so many bytes of replies.
    Reset(usize),
    /// Nothing comes after so many bytes of replies, and the connection stays open.
    Stall(usize),
    /// Each piece is something else altogether.
    Garbage,
    /// One bit of this byte of the replies is wrong, counted from 0.
    Flip(usize),
    /// Each piece comes twice.
    Dup,
    /// Every second piece comes before the one that it follows.
    Swap,
}

/// What no store answers.
const GARBAGE: &[u8] = b"\xff\x00-?*9999999999\r\n$-7\r\nVALUE x 0 99999999999\r\n";

/// The relay. It ends with this.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    /// Whether the fault goes when it has struck.
    once: bool,
    /// How often a fault was set: who counts bytes starts again with each.
    epoch: usize,
    /// What clients have sent since the fault was set.
    sent: Vec<u8>,
    /// How many pieces the server has sent since then.
    replies: usize,
    open: Vec<Weak<TcpStream>>,
    stopped: bool,
}

impl FaultProxy {
    /// A relay to what is, or is not, at this address.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let state = State {
            fault: Fault::Pass,
            once: false,
            epoch: 0,
            sent: Vec::new(),
            replies: 0,
            open: Vec::new(),
            stopped: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, server, &shared))
        };
        Self {
            address,
            shared,
            accepting: Some(accepting),
        }
    }

    /// From here on this is wrong.
    pub(crate) fn set(&self, fault: Fault) {
        self.shared.set(fault, false);
    }

    /// This goes wrong the next time it can, on one connection, and then nothing any more.
    pub(crate) fn once(&self, fault: Fault) {
        self.shared.set(fault, true);
    }

    /// Ends all connections that are open.
    pub(crate) fn hang_up(&self) {
        self.shared.hang_up();
    }

    /// Waits until a client has sent this text after the fault was set.
    pub(crate) fn wait_for(&self, text: &str) {
        self.shared.wait(&format!("{text:?} is sent"), |state| {
            let mut pieces = state.sent.windows(text.len());
            pieces.any(|piece| piece == text.as_bytes())
        });
    }

    /// Waits until the server has replied after the fault was set.
    pub(crate) fn wait_for_reply(&self) {
        self.shared
            .wait("the server replies", |state| state.replies > 0);
    }
}

impl Address for FaultProxy {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        self.shared.hang_up();
        // Wakes the thread that accepts. Where that fails, the listener is already gone.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let ended = accepting.join();
            assert!(ended.is_ok() || thread::panicking(), "the relay panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, fault: Fault, once: bool) {
        let mut state = self.lock();
        (state.fault, state.once) = (fault, once);
        state.epoch += 1;
        state.sent.clear();
        state.replies = 0;
    }

    fn wait(&self, what: &str, happened: impl Fn(&State) -> bool) {
        let (_state, timeout) = self
            .changed
            .wait_timeout_while(self.lock(), DEADLINE, |state| !happened(state))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "it does not happen that {what}");
    }

    /// A fault that was meant to strike once has struck.
    fn struck(&self) {
        if self.lock().once {
            self.set(Fault::Pass, false);
        }
    }

    fn hang_up(&self) {
        let open = std::mem::take(&mut self.lock().open);
        for stream in open.iter().filter_map(Weak::upgrade) {
            // Fails when the peer has closed it already.
            stream.shutdown(Shutdown::Both).unwrap_or_default();
        }
    }

    /// Lets time pass, unless the relay ends.
    fn pause(&self, time: Duration) {
        let running = |state: &mut State| !state.stopped;
        let waited = self.changed.wait_timeout_while(self.lock(), time, running);
        drop(waited);
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, shared: &Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().expect("the listener is open");
        let mut state = shared.lock();
        if state.stopped {
            return;
        }
        let Some(server) = reach(&client, server, state.fault) else {
            // Its linger time is zero: it is reset.
            continue;
        };
        let (client, server) = (Arc::new(client), Arc::new(server));
        state.open.push(Arc::downgrade(&client));
        state.open.push(Arc::downgrade(&server));
        drop(state);
        relay(client, server, shared);
    }
}

/// A connection to the server for this client; `None` when the client is to be refused.
fn reach(client: &TcpStream, server: SocketAddr, fault: Fault) -> Option<TcpStream> {
    client.set_nodelay(true).ok()?;
    let refused = fault == Fault::Refuse;
    let server = (!refused)
        .then(|| TcpStream::connect(server).ok())
        .flatten();
    match &server {
        Some(server) => server.set_nodelay(true).ok()?,
        None => reset(client),
    }
    if fault == Fault::HalfOpen {
        client.shutdown(Shutdown::Write).ok()?;
    }
    server
}

fn reset(stream: &TcpStream) {
    // Fails only when the connection has ended already.
    let linger = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    linger.unwrap_or_default();
}

/// Moves bytes both ways until one side ends. Errors end it too: there is nobody to tell.
fn relay(client: Arc<TcpStream>, server: Arc<TcpStream>, shared: &Arc<Shared>) {
    let (up, down) = (Arc::clone(shared), Arc::clone(shared));
    let (client_again, server_again) = (Arc::clone(&client), Arc::clone(&server));
    thread::spawn(move || {
        drop(forward(&client, &server, &up));
        server.shutdown(Shutdown::Write).unwrap_or_default();
    });
    thread::spawn(move || {
        let replies = Replies {
            client: &client_again,
            shared: &down,
            epoch: 0,
            count: 0,
            held: Vec::new(),
        };
        drop(replies.run(&server_again));
    });
}

fn forward(mut client: &TcpStream, mut server: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = client.read(&mut buffer)?;
        let piece = buffer.get(..length).unwrap_or_default();
        if piece.is_empty() {
            return Ok(());
        }
        let fault = {
            let mut state = shared.lock();
            state.sent.extend_from_slice(piece);
            state.fault
        };
        if fault != Fault::Blackhole {
            server.write_all(piece)?;
        }
        // Only then: who waits for it may stop the server next.
        shared.changed.notify_all();
    }
}

/// What the server sends back on one connection.
struct Replies<'a> {
    client: &'a TcpStream,
    shared: &'a Shared,
    epoch: usize,
    /// Bytes since the fault was set.
    count: usize,
    held: Vec<u8>,
}

impl Replies<'_> {
    fn run(mut self, mut server: &TcpStream) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let length = server.read(&mut buffer)?;
            let piece = buffer.get_mut(..length).unwrap_or_default();
            if piece.is_empty() {
                return self.client.shutdown(Shutdown::Write);
            }
            let fault = self.fault();
            if let Fault::Cut(at) | Fault::Reset(at) | Fault::Stall(at) = fault
                && self.count + piece.len() >= at
            {
                let last = piece.get(..at.saturating_sub(self.count));
                self.send(last.unwrap_or_default())?;
                return self.end(fault, server);
            }
            self.pass(fault, piece)?;
        }
    }

    /// What is wrong now; counts from here when it is new.
    fn fault(&mut self) -> Fault {
        let mut state = self.shared.lock();
        if state.epoch != self.epoch {
            (self.epoch, self.count) = (state.epoch, 0);
        }
        state.replies += 1;
        self.shared.changed.notify_all();
        state.fault
    }

    fn pass(&mut self, fault: Fault, piece: &mut [u8]) -> io::Result<()> {
        let start = self.count;
        self.count += piece.len();
        match fault {
            Fault::Latency(time) => self.shared.pause(time),
            Fault::Drip(bytes, every) => {
                for part in piece.chunks(bytes) {
                    self.send(part)?;
                    self.shared.pause(every);
                }
                return Ok(());
            }
            Fault::Garbage => {
                self.shared.struck();
                return self.send(GARBAGE);
            }
            Fault::Flip(at) => {
                let byte = at.checked_sub(start).and_then(|at| piece.get_mut(at));
                if let Some(byte) = byte {
                    *byte ^= 1;
                    self.shared.struck();
                }
            }
            Fault::Dup => {
                self.shared.struck();
                return self.send(&piece.repeat(2));
            }
            Fault::Swap if self.held.is_empty() => {
                self.held = piece.to_vec();
                return Ok(());
            }
            Fault::Pass
            | Fault::Refuse
            | Fault::Blackhole
            | Fault::HalfOpen
            | Fault::Cut(_)
            | Fault::Reset(_)
            | Fault::Stall(_)
            | Fault::Swap => {}
        }
        self.send(piece)?;
        let held = std::mem::take(&mut self.held);
        self.send(&held)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.client.write_all(bytes)
    }

    /// The server's side says nothing more.
    fn end(&self, fault: Fault, mut server: &TcpStream) -> io::Result<()> {
        self.shared.struck();
        if let Fault::Stall(_) = fault {
            return io::copy(&mut server, &mut io::sink()).map(drop);
        }
        if let Fault::Reset(_) = fault {
            reset(self.client);
            // Wakes the other thread; it is reset when both have let go.
            self.client.shutdown(Shutdown::Read)?;
        } else {
            self.client.shutdown(Shutdown::Both)?;
        }
        server.shutdown(Shutdown::Both)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::harness::{AppResponse, Upstream, Wire, raw};

    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    const RESPONSE: &str = "HTTP/1.1 200 Scripted\r\nContent-Length: 5\r\n\r\nhello";

    fn relayed() -> (Upstream, FaultProxy) {
        let app = Upstream::app(|_| AppResponse::ok("hello"));
        let relay = FaultProxy::to(app.address());
        (app, relay)
    }

    #[test]
    fn each_fault_changes_what_arrives() {
        let (_app, relay) = relayed();
        let soon = Duration::from_millis(1);
        let flipped = RESPONSE.replace("hello", "hdllo");
        let cases = [
            (Fault::Pass, RESPONSE),
            (Fault::Latency(soon), RESPONSE),
            (Fault::Drip(7, soon), RESPONSE),
            (Fault::HalfOpen, ""),
            (Fault::Cut(0), ""),
            (Fault::Cut(8), "HTTP/1.1"),
            (Fault::Reset(0), ""),
            (Fault::Flip(RESPONSE.len() - 4), &flipped),
            (Fault::Pass, RESPONSE),
        ];
        for (fault, arrives) in cases {
            relay.set(fault);
            let response = raw(&relay, REQUEST);
            assert_eq!(String::from_utf8_lossy(&response), arrives, "{fault:?}");
        }
    }

    #[test]
    fn refused_connections_are_reset() {
        let (app, relay) = relayed();
        relay.set(Fault::Refuse);
        // Whether connecting or reading fails is chance.
        let connected = TcpStream::connect(relay.address());
        let outcome = connected.and_then(|mut client| client.read(&mut [0]));
        let error = outcome.expect_err("there is no orderly end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(app.requests().len(), 0);
    }

    #[test]
    fn reset_is_no_orderly_end() {
        let (_app, relay) = relayed();
        for (fault, orderly) in [(Fault::Cut(3), true), (Fault::Reset(3), false)] {
            relay.set(fault);
            let mut client = TcpStream::connect(relay.address()).unwrap();
            client.write_all(REQUEST.as_bytes()).unwrap();
            let read = client.read_to_end(&mut Vec::new());
            assert_eq!(read.is_ok(), orderly, "{fault:?}: {read:?}");
        }
    }

    #[test]
    fn pieces_are_doubled_swapped_and_replaced() {
        let (_app, relay) = relayed();
        let mut wire = Wire::connect(&relay);
        relay.set(Fault::Dup);
        wire.send(REQUEST);
        assert_eq!(
            wire.read_exactly(2 * RESPONSE.len()),
            RESPONSE.repeat(2).as_bytes()
        );
        relay.set(Fault::Swap);
        wire.send(REQUEST);
        relay.wait_for_reply();
        wire.send(REQUEST.replace("GET", "HEAD"));
        let head = RESPONSE.replace("hello", "");
        let both = wire.read_exactly(head.len() + RESPONSE.len());
        assert_eq!(String::from_utf8_lossy(&both), head + RESPONSE);
        relay.once(Fault::Garbage);
        wire.send(REQUEST);
        assert_eq!(wire.read_exactly(GARBAGE.len()), GARBAGE);
        wire.send(REQUEST);
        assert_eq!(wire.read_exactly(RESPONSE.len()), RESPONSE.as_bytes());
    }

    #[test]
    fn swallowed_requests_and_stalled_replies_leave_the_connection_open() {
        let (app, relay) = relayed();
        for (fault, arrived) in [(Fault::Blackhole, 0), (Fault::Stall(0), 1)] {
            relay.set(fault);
            let mut wire = Wire::connect(&relay);
            wire.send(REQUEST);
            relay.wait_for("GET /");
            if arrived > 0 {
                app.request(arrived);
            }
            relay.hang_up();
            assert_eq!(wire.read_to_close(), b"", "{fault:?}");
            assert_eq!(app.requests().len(), arrived, "{fault:?}");
        }
    }

    #[test]
    fn slow_replies_take_their_time() {
        let (_app, relay) = relayed();
        let time = Duration::from_millis(50);
        for fault in [
            Fault::Latency(time),
            Fault::Drip(RESPONSE.len() / 2, time / 2),
        ] {
            relay.set(fault);
            let start = Instant::now();
            raw(&relay, REQUEST);
            assert!(start.elapsed() >= time, "{fault:?}");
        }
    }
}

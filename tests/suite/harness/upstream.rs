//! A scripted application.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use super::message::{AppRequest, AppResponse};
use super::wire::Wire;
use super::{Address, Watched};

/// An application that a test scripts. It has a thread for each connection, and ends with it.
#[derive(Debug)]
pub(crate) struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    requests: Watched<Vec<AppRequest>>,
    connections: Mutex<Connections>,
    /// A script failed: the test fails with it when it lets go of the application.
    panicked: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Connections {
    /// Weak, so that a script that drops its connection closes it.
    open: HashMap<usize, Weak<TcpStream>>,
    stopped: bool,
}

impl Upstream {
    /// An application that answers each request by this function. Requests are recorded before it
    /// is called.
    pub(crate) fn app(answer: impl Fn(&AppRequest) -> AppResponse + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::listening(listener, answer)
    }

    /// The same, on a socket that listens already.
    pub(crate) fn listening(
        listener: TcpListener,
        answer: impl Fn(&AppRequest) -> AppResponse + Send + Sync + 'static,
    ) -> Self {
        Self::start(listener, move |wire, number, state| {
            // An error is a client that went away, or one that sent nothing for long.
            if let Err(error) = serve(wire, number, state, &answer) {
                assert_ne!(
                    error.kind(),
                    io::ErrorKind::InvalidData,
                    "bad request: {error}"
                );
            }
        })
    }

    /// An application that does with its connections, counted from 1, what this function does,
    /// byte by byte.
    pub(crate) fn raw(script: impl Fn(Wire, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::start(listener, move |wire, number, _| script(wire, number))
    }

    /// The n-th request that reached the application, counted from 1; waits for it.
    pub(crate) fn request(&self, number: usize) -> AppRequest {
        let index = number.checked_sub(1).expect("requests are counted from 1");
        let found = self
            .state
            .requests
            .wait(|requests| requests.get(index).cloned());
        found.unwrap_or_else(|| {
            let arrived = self.requests().len();
            panic!("request {number} did not reach the application, {arrived} did")
        })
    }

    /// The requests that have reached the application so far.
    pub(crate) fn requests(&self) -> Vec<AppRequest> {
        self.state.requests.lock().clone()
    }

    fn start(
        listener: TcpListener,
        script: impl Fn(Wire, usize, &State) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("the listener is bound");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let accepting = thread::spawn(move || accept(&listener, &shared, &Arc::new(script)));
        Self {
            address,
            state,
            accepting: Some(accepting),
        }
    }
}

impl Address for Upstream {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.state.stop();
        // Wakes the thread that accepts. Where that fails, the listener is already gone.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let ended = accepting.join().is_ok();
            let failed = !ended || self.state.panicked.load(Ordering::SeqCst);
            assert!(
                !failed || thread::panicking(),
                "the script of the application panicked"
            );
        }
    }
}

impl State {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let mut connections = self.connections();
        connections.stopped = true;
        for stream in connections.open.values().filter_map(Weak::upgrade) {
            // Fails when the peer has closed it already.
            stream.shutdown(Shutdown::Both).unwrap_or_default();
        }
    }
}

fn accept<S>(listener: &TcpListener, state: &Arc<State>, script: &Arc<S>)
where
    S: Fn(Wire, usize, &State) + Send + Sync + 'static,
{
    for number in 1.. {
        let (stream, _) = listener.accept().expect("the listener is open");
        let stream = Arc::new(stream);
        let mut connections = state.connections();
        if connections.stopped {
            return;
        }
        connections.open.insert(number, Arc::downgrade(&stream));
        drop(connections);

        let (state, script) = (Arc::clone(state), Arc::clone(script));
        thread::spawn(move || {
            let played = catch_unwind(AssertUnwindSafe(|| {
                let wire = Wire::new(stream, Arc::clone(&state.panicked));
                script(wire, number, &state);
            }));
            state.connections().open.remove(&number);
            if played.is_err() {
                state.panicked.store(true, Ordering::SeqCst);
            }
        });
    }
}

fn serve(
    mut wire: Wire,
    number: usize,
    state: &State,
    answer: &dyn Fn(&AppRequest) -> AppResponse,
) -> io::Result<()> {
    loop {
        let request = wire.try_read_request(number)?;
        wire.forget();
        state
            .requests
            .change(|requests| requests.push(request.clone()));
        let response = answer(&request);
        wire.try_send(&response.bytes(&request.method))?;
        if response.closes() || request.fields.lists("Connection", "close") {
            return Ok(());
        }
    }
}

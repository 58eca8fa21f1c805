//! A scripted application that speaks HTTP/2 without TLS, frame by frame where a test wants it.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::sync::{Notify, oneshot};

use crate::harness::Address;

/// What reached the server.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    /// The head, `:authority` and `:scheme` in its URI.
    pub(crate) head: Request<()>,
    /// The whole body.
    pub(crate) body: Vec<u8>,
    /// What came after it.
    pub(crate) trailers: Option<HeaderMap>,
}

/// What it does with a request.
pub(crate) enum Answer {
    /// Head, body and trailers; the end of the stream comes in a frame of its own.
    Whole(Response<()>, &'static str, HeaderMap),
    /// The same, and no more requests by this connection.
    Last(Response<()>, &'static str),
    /// Ends the stream.
    Reset(Reason),
    /// Ends the stream after the head.
    Cut(Response<()>),
    /// 200, and whatever comes goes back.
    Echo,
}

/// 200 with this body.
pub(crate) fn ok(body: &'static str) -> Answer {
    Answer::Whole(Response::new(()), body, HeaderMap::new())
}

/// A running server. It ends with this.
pub(crate) struct Http2Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    script: Box<dyn Fn(&Got) -> Answer + Send + Sync>,
    got: Mutex<Vec<Got>>,
    connections: AtomicUsize,
    max_streams: u32,
    websockets: bool,
}

impl Http2Server {
    /// A server that lets 100 requests run on a connection, and answers each by this function.
    pub(crate) fn start(script: impl Fn(&Got) -> Answer + Send + Sync + 'static) -> Self {
        Self::with_streams(100, script)
    }

    /// The same with another number.
    pub(crate) fn with_streams(
        max_streams: u32,
        script: impl Fn(&Got) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::run(max_streams, false, script)
    }

    /// A server that takes websockets (RFC 8441). The body of a request for one is not waited for.
    pub(crate) fn with_websockets(script: impl Fn(&Got) -> Answer + Send + Sync + 'static) -> Self {
        Self::run(100, true, script)
    }

    fn run(
        max_streams: u32,
        websockets: bool,
        script: impl Fn(&Got) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            got: Mutex::default(),
            connections: AtomicUsize::new(0),
            max_streams,
            websockets,
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// What has reached it so far.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.shared.got.lock().unwrap().clone()
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Address for Http2Server {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Http2Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().is_ok();
            assert!(ended || thread::panicking(), "the server panicked");
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(stream: tokio::net::TcpStream, shared: Arc<Shared>) {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(shared.max_streams);
    if shared.websockets {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let enough = Arc::new(Notify::new());
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = enough.notified() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else {
            return;
        };
        let (shared, enough) = (Arc::clone(&shared), Arc::clone(&enough));
        tokio::spawn(async move { answer(request, respond, &shared, &enough).await });
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: &Arc<Shared>,
    enough: &Notify,
) {
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    let is_whole = head.method != http::Method::CONNECT;
    while is_whole && let Some(Ok(data)) = incoming.data().await {
        incoming
            .flow_control()
            .release_capacity(data.len())
            .unwrap();
        body.extend_from_slice(&data);
    }
    let got = Got {
        head: Request::from_parts(head, ()),
        body,
        trailers: if is_whole {
            incoming.trailers().await.unwrap_or_default()
        } else {
            None
        },
    };
    shared.got.lock().unwrap().push(got.clone());
    let scripted = Arc::clone(shared);
    let answer = tokio::task::spawn_blocking(move || (scripted.script)(&got));
    let (head, body, trailers, is_last) = match answer.await.unwrap() {
        Answer::Whole(head, body, trailers) => (head, body, trailers, false),
        Answer::Last(head, body) => (head, body, HeaderMap::new(), true),
        Answer::Reset(reason) => return respond.send_reset(reason),
        Answer::Cut(head) => {
            // An error is a client that went away.
            if let Ok(mut stream) = respond.send_response(head, false) {
                // The head is on its way when the server has had its turn.
                tokio::task::yield_now().await;
                stream.send_reset(Reason::INTERNAL_ERROR);
            }
            return;
        }
        Answer::Echo => return echo(respond, incoming).await,
    };
    // An error is a client that went away.
    let Ok(mut stream) = respond.send_response(head, false) else {
        return;
    };
    let _gone = stream.send_data(Bytes::from(body), false);
    let _gone = if trailers.is_empty() {
        stream.send_data(Bytes::new(), true)
    } else {
        stream.send_trailers(trailers)
    };
    if is_last {
        enough.notify_one();
    }
}

async fn echo(mut respond: SendResponse<Bytes>, mut incoming: RecvStream) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    while let Some(Ok(data)) = incoming.data().await {
        incoming
            .flow_control()
            .release_capacity(data.len())
            .unwrap();
        stream.send_data(data, false).unwrap();
    }
    // The other side may be gone altogether.
    let _gone = stream.send_data(Bytes::new(), true);
}

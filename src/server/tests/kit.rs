//! A proxy that only forwards, and raw connections to its two sides.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener as TokioListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;
use crate::config::{self, Flags, Sources};
use crate::proxy::body::{Pace, RequestBody, UpstreamBody};
use crate::proxy::forward::{Forwarder, Framing};
use crate::proxy::rescue::ProxyError;
use crate::proxy::tasks::Tasks;
use crate::proxy::upstream::{Directory, Group, Patience, Upstreams};
use crate::proxy::{Body, Peer, tunnel};
use crate::telemetry::RequestIds;

const PACE: Pace = Pace {
    pause: Duration::from_mins(1),
    until: None,
};

/// No test lets a tunnel be silent for so long.
const IDLE: Duration = Duration::from_hours(1);

/// Forwards everything to the one upstream.
#[derive(Debug)]
pub(super) struct Forward {
    forwarder: Forwarder,
    upstream: Arc<Group>,
    response_timeout: Duration,
    ids: RequestIds,
    tasks: Tasks,
}

impl Forward {
    fn new(config: &Config, worker: Worker) -> Self {
        let reserved = |name: &http::HeaderName| name.as_str().starts_with("x-session");
        Self {
            forwarder: Forwarder::new(&config.forwarding, reserved),
            upstream: Upstreams::new(config, &mut Directory::default())
                .unwrap()
                .for_worker(config)
                .remove(0),
            response_timeout: config.timeouts.upstream_response,
            ids: RequestIds::new().unwrap(),
            tasks: worker.tasks,
        }
    }

    async fn exchange(
        &self,
        mut request: Request<Incoming>,
        peer: &Arc<Peer>,
    ) -> Result<Response<Body>, ProxyError> {
        let downstream = hyper::upgrade::on(&mut request);
        let (mut head, body) = request.into_parts();
        let inbound = self
            .forwarder
            .request_head(&mut head, Framing::of(&body), peer)
            .map_err(ProxyError::Downstream)?;
        let method = head.method.clone();
        let body = RequestBody::new(body, true, Instant::now()).with_trailers(inbound.trailers);
        let request = Request::from_parts(head, body);
        let patience = Patience {
            since: Instant::now(),
            limit: self.response_timeout,
            until: None,
        };
        let request = Box::new(request);
        let sent = self.upstream.send(request, None, patience, &mut None).await;
        let (mut response, lease) = sent.map_err(ProxyError::Upstream)?;
        let upstream = hyper::upgrade::on(&mut response);
        let (mut head, body) = response.into_parts();
        let outbound = self
            .forwarder
            .response_head(&mut head, &method, inbound.upgrade)
            .map_err(ProxyError::Response)?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let peer = Arc::clone(peer);
            tunnel::join(downstream, upstream, peer, lease, &self.tasks, IDLE, drop);
            return Ok(Response::from_parts(head, Body::Empty));
        }
        let body = UpstreamBody::new(body, outbound.trailers, lease, PACE);
        Ok(Response::from_parts(head, Body::Upstream(Box::new(body))))
    }
}

impl Handler for Forward {
    async fn handle(&self, request: Request<Incoming>, peer: &Arc<Peer>) -> Response<Body> {
        self.exchange(request, peer)
            .await
            .unwrap_or_else(|error| error.respond(&self.ids.make()))
    }
}

/// A configuration with one upstream and one worker, on any port.
pub(in crate::server) fn config(upstream: SocketAddr) -> Config {
    let text = format!(
        "listen = '127.0.0.1:0'\nupstream = 'http://{upstream}'\nworkers = 1\n\
         [cookies]\nsecret = '0123456789abcdef0123456789abcdef'\n"
    );
    let sources = Sources {
        file: Some(("pycket.toml".to_owned(), text)),
        environment: Vec::new(),
        flags: Flags::default(),
        processors: NonZeroUsize::MIN,
        read_file: &|_| Err(io::ErrorKind::NotFound.into()),
    };
    config::load(sources).unwrap().0
}

/// A proxy on a thread of its own.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    signals: mpsc::Sender<()>,
    report: Option<oneshot::Receiver<Report>>,
}

impl Proxy {
    pub(super) fn start(config: Config) -> Self {
        let config = Arc::new(config);
        let sockets = Sockets::bind(&config.listeners, config.workers).unwrap();
        let address = sockets.addresses()[0];
        let (signals, mut signalled) = mpsc::channel::<()>(2);
        let (finished, report) = oneshot::channel();
        thread::spawn(move || {
            let shared = Arc::clone(&config);
            let make = move |worker| {
                let handler = Forward::new(&shared, worker);
                async move { Ok(handler) }
            };
            let stop = async move || {
                if signalled.recv().await.is_none() {
                    std::future::pending::<Infallible>().await;
                }
                Order::Stop
            };
            let report = run(&config, sockets, make, stop).unwrap();
            finished.send(report).unwrap_or_default();
        });
        Self {
            address,
            signals,
            report: Some(report),
        }
    }

    /// What SIGTERM does.
    pub(super) async fn stop(&self) {
        self.signals.send(()).await.unwrap();
    }

    pub(super) async fn report(&mut self) -> Report {
        self.report.take().unwrap().await.unwrap()
    }
}

/// The application's side.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    listener: TokioListener,
}

impl Upstream {
    pub(super) async fn start() -> Self {
        let listener = TokioListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            listener,
        }
    }

    /// The next connection that the proxy opens.
    pub(super) async fn accept(&mut self) -> Client {
        Client(self.listener.accept().await.unwrap().0)
    }
}

/// One end of a connection, byte by byte.
pub(super) struct Client(pub(super) TcpStream);

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Up to and with the empty line.
    pub(super) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    pub(super) async fn exactly(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// What comes until the other side closes, in whichever way it does.
    pub(super) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        while let Ok(byte) = self.0.read_u8().await {
            bytes.push(byte);
        }
        String::from_utf8(bytes).unwrap()
    }
}

pub(super) async fn pour(to: &mut (impl AsyncWrite + Unpin), block: &[u8], total: usize) {
    let mut left = total;
    while left > 0 {
        let part = &block[..block.len().min(left)];
        to.write_all(part).await.unwrap();
        left -= part.len();
    }
}

pub(super) async fn drain(from: &mut (impl AsyncRead + Unpin), total: usize) {
    let mut buffer = vec![0; 1 << 16];
    let mut left = total;
    while left > 0 {
        let read = from.read(&mut buffer).await.unwrap();
        assert!(read > 0, "{left} bytes are missing");
        left -= read;
    }
}

//! The least that a proxy on hyper can cost: both of its connections, a pool, and nothing else. No
//! field is looked at or added, nothing is limited, timed or logged.
//!
//! It is a process of its own, this program once more, so that its processor time can be told from
//! that of the load.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::{LocalSet, spawn_local};

use crate::stage::server::Server;
use crate::stage::{Outcome, free_address};

/// The flag that makes this program the proxy.
pub(crate) const FLAG: &str = "--floor";

/// Starts it in front of an application.
pub(crate) async fn start(application: SocketAddr) -> Outcome<Server> {
    let program: PathBuf = std::env::current_exe()?;
    let address = free_address()?;
    let mut command = Command::new(program);
    command.args([FLAG, &format!("{address},{application}")]);
    Server::start(&mut command, address).await
}

/// Serves until it is killed. `addresses` are its own and the application's.
pub(crate) async fn serve(addresses: &str) -> Outcome<()> {
    let (own, application) = addresses.split_once(',').ok_or("two addresses")?;
    let (own, application): (SocketAddr, SocketAddr) = (own.parse()?, application.parse()?);
    let serving = async {
        let listener = TcpListener::bind(own).await?;
        let pool = Pool::default();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let pool = Rc::clone(&pool);
            let service =
                service_fn(move |request| pass_on(request, Rc::clone(&pool), application));
            spawn_local(Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    };
    LocalSet::new().run_until(serving).await
}

/// Connections that wait for a request.
type Pool = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

async fn pass_on(
    request: Request<Incoming>,
    pool: Pool,
    application: SocketAddr,
) -> Outcome<Response<Pooled>> {
    let idle = pool.borrow_mut().pop();
    let mut sender = if let Some(sender) = idle {
        sender
    } else {
        let stream = TcpStream::connect(application).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        spawn_local(connection);
        sender
    };
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| Pooled {
        body,
        sender: Some(sender),
        pool,
    }))
}

/// A body whose connection waits again when it has ended.
struct Pooled {
    body: Incoming,
    sender: Option<SendRequest<Incoming>>,
    pool: Pool,
}

impl Body for Pooled {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if (self.body.is_end_stream() || matches!(frame, Poll::Ready(None)))
            && let Some(sender) = self.sender.take()
        {
            self.pool.borrow_mut().push(sender);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! Requests by HTTP/2.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::UPGRADE;
use http::request::Parts;
use http::uri::Scheme as UriScheme;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::{Carrier, Failed, Lease, MAX_RESPONSE_HEAD, Pool, Slot, Speaks};
use crate::config::Scheme;
use crate::proxy::body::RequestBody;
use crate::proxy::upstream::dial::{Dialed, Stream};
use crate::proxy::upstream::http2::Unprocessed;
use crate::proxy::upstream::link::Link;
use crate::proxy::upstream::timer::{Timer, in_time};
use crate::proxy::upstream::{Patience, UpstreamError, http2, mux};

/// What a request can go by.
enum Way {
    /// Room on an HTTP/2 connection.
    Stream(mux::Stream),
    /// An HTTP/1.1 connection: the server wanted no other.
    Link(Box<Link>),
}

impl Pool {
    /// Room on an HTTP/2 connection, which is opened if none has any; where the server may choose,
    /// it can be an HTTP/1.1 connection.
    async fn way(self: &Arc<Self>) -> Result<Way, UpstreamError> {
        if let Some(stream) = self.take_stream() {
            return Ok(Way::Stream(stream));
        }
        let limit = self.settings.connect_timeout;
        let Ok(turn) = timeout(limit, self.mux.open()).await else {
            return Err(UpstreamError::ConnectTimeout);
        };
        if let Some(stream) = self.take_stream() {
            return Ok(Way::Stream(stream));
        }
        if self.agreed_http1.load(Ordering::Relaxed) {
            drop(turn);
            return self.open().await.map(Way::Link);
        }
        let dialed = self.state.dialer.dial(limit, false).await?;
        if dialed.http2 {
            self.multiplex(dialed, false).await.map(Way::Stream)
        } else if self.speaks == Speaks::Http2 {
            let wrong = std::io::Error::other("the server does not speak HTTP/2");
            Err(UpstreamError::Tls(wrong))
        } else {
            self.agreed_http1.store(true, Ordering::Relaxed);
            self.speak(dialed).await.map(Way::Link)
        }
    }

    /// A connection for a WebSocket alone: what is in it can be anything and for ever, so that it
    /// would be in the way of others.
    async fn websocket_way(self: &Arc<Self>) -> Result<Way, UpstreamError> {
        let limit = self.settings.connect_timeout;
        let dialed = self.state.dialer.dial(limit, false).await?;
        if !dialed.http2 {
            return self.speak(dialed).await.map(Way::Link);
        }
        let stream = self.multiplex(dialed, true).await?;
        stream.retire(&self.mux);
        Ok(Way::Stream(stream))
    }

    fn take_stream(&self) -> Option<mux::Stream> {
        self.mux.take(|address| self.state.dialer.leads_to(address))
    }

    async fn multiplex(
        self: &Arc<Self>,
        dialed: Dialed,
        for_websocket: bool,
    ) -> Result<mux::Stream, UpstreamError> {
        let address = dialed.address;
        let stream = match dialed.stream {
            Stream::Tcp(stream) => self.open_http2(stream, address, for_websocket).await?,
            Stream::Unix(stream) => self.open_http2(stream, address, for_websocket).await?,
            Stream::Tls(stream) => self.open_http2(*stream, address, for_websocket).await?,
        };
        self.look_after();
        Ok(stream)
    }

    async fn open_http2<S>(
        &self,
        stream: S,
        address: Option<IpAddr>,
        for_websocket: bool,
    ) -> Result<mux::Stream, UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let max_head = u32::try_from(MAX_RESPONSE_HEAD).unwrap_or(u32::MAX);
        let (sender, connection) = mux::builder(max_head, self.settings.ping)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(UpstreamError::Broken)?;
        if for_websocket && !mux::takes_websockets(&connection).await {
            return Err(UpstreamError::NoWebSocket);
        }
        Ok(self.mux.put(sender, connection, address))
    }

    /// Sends a request by HTTP/2 where the server speaks it.
    pub(super) async fn send_either_way(
        self: &Arc<Self>,
        request: Box<Request<RequestBody>>,
        slot: Slot,
        patience: Patience,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let way = if request.headers().contains_key(UPGRADE) {
            self.websocket_way().await
        } else {
            self.way().await
        };
        let patience = patience.anew();
        match way {
            Ok(Way::Stream(stream)) => self.send_by_stream(request, stream, slot, patience).await,
            Ok(Way::Link(link)) => self.send_by(link, request, slot, patience).await,
            Err(error) => Err(Failed::unsent(error, request)),
        }
    }

    /// Sends a request by HTTP/2. Where the connection had been open before and the server has
    /// certainly done nothing with the request, it goes by a fresh one.
    async fn send_by_stream(
        self: &Arc<Self>,
        request: Box<Request<RequestBody>>,
        mut stream: mux::Stream,
        slot: Slot,
        mut patience: Patience,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let progress = request.body().progress();
        let progress = progress.as_deref();
        // As it came, for another server, which may want it by HTTP/1.1.
        let (head, mut body) = request.into_parts();
        let scheme = match self.state.server.scheme {
            Scheme::Https => UriScheme::HTTPS,
            Scheme::Http | Scheme::H2c => UriScheme::HTTP,
        };
        let websocket = head.headers.contains_key(UPGRADE);
        loop {
            let mut rewritten = head.clone();
            http2::rewrite(&mut rewritten, scheme.clone(), &self.authority);
            if websocket {
                http2::ask_for_websocket(&mut rewritten);
            }
            let request = Request::from_parts(rewritten, body);
            let sending = stream.send(request);
            let answered = in_time(sending, &mut Timer::default(), progress, patience).await?;
            let mut failure = match answered {
                Ok(mut response) => {
                    if websocket && response.status() == StatusCode::OK {
                        http2::grant_websocket(&mut response, &head);
                    }
                    let carrier = Carrier::Stream(stream);
                    return Ok((response, Lease::new(carrier, slot)));
                }
                Err(failure) => failure,
            };
            let returned = failure.take_message().map(Request::into_body);
            let error = failure.into_error();
            let said = http2::unprocessed(&error);
            // What was not given back is gone, unless there was nothing.
            let empty = || {
                let is_safe = progress.is_none() && said.is_some();
                is_safe.then(RequestBody::empty)
            };
            let unsent = returned.or_else(empty);
            let error = UpstreamError::of(error, progress);
            let Some(unsent) = unsent else {
                return Err(error.into());
            };
            let is_refused = said == Some(Unprocessed::Refused);
            if !is_refused {
                stream.retire(&self.mux);
            }
            // One that has enough to do is not asked again at once.
            if is_refused || !stream.reused {
                return Err(Failed::unsent(error, boxed(head, unsent)));
            }
            body = unsent;
            stream = match self.way().await {
                Ok(Way::Stream(stream)) => stream,
                // It has unlearnt HTTP/2 meanwhile.
                Ok(Way::Link(_)) => {
                    return Err(Failed::unsent(error, boxed(head, body)));
                }
                Err(error) => return Err(Failed::unsent(error, boxed(head, body))),
            };
            patience = patience.anew();
        }
    }
}

fn boxed(head: Parts, body: RequestBody) -> Box<Request<RequestBody>> {
    Box::new(Request::from_parts(head, body))
}

//! Browsers: each has a connection and a cookie of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::{BEGIN, CERTIFICATE, HOST, LARGE, LITTLE, MUCH, Outcome, UPLOAD};

/// How a browser speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// HTTP/1.1.
    Plain,
    /// HTTP/1.1 in TLS.
    Tls,
    /// HTTP/2 in TLS.
    Http2,
}

/// What browsers ask for, and how.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    /// Where sessions begin, without TLS.
    pub(crate) address: SocketAddr,
    /// Where the browsers connect.
    pub(crate) to: SocketAddr,
    /// The page.
    pub(crate) path: &'static str,
    /// How many sessions each of them has; it uses them in turn.
    pub(crate) sessions: usize,
    /// The page that begins them.
    pub(crate) begins: String,
    /// How they speak.
    pub(crate) manner: Manner,
}

impl Errand {
    /// For a page, without a session, in plain HTTP/1.1.
    pub(crate) fn new(address: SocketAddr, path: &'static str) -> Self {
        Self {
            address,
            to: address,
            path,
            sessions: 0,
            begins: BEGIN.to_owned(),
            manner: Manner::Plain,
        }
    }

    /// For a page, with a session for each browser.
    pub(crate) fn with_session(address: SocketAddr, path: &'static str) -> Self {
        Self {
            sessions: 1,
            ..Self::new(address, path)
        }
    }

    /// Connects as many browsers.
    pub(crate) async fn browsers(&self, count: usize) -> Outcome<Vec<Browser>> {
        let mut browsers = Vec::with_capacity(count);
        for _ in 0..count {
            browsers.push(self.browser().await?);
        }
        Ok(browsers)
    }

    async fn browser(&self) -> Outcome<Browser> {
        let cookies = self.cookies().await?;
        let stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        Ok(match self.manner {
            Manner::Plain => Browser::Http1(Http1::new(Box::new(stream), self.path, &cookies)),
            Manner::Tls => {
                let stream = encrypt(stream, b"http/1.1").await?;
                Browser::Http1(Http1::new(Box::new(stream), self.path, &cookies))
            }
            Manner::Http2 => {
                let stream = encrypt(stream, b"h2").await?;
                Browser::Http2(Http2::new(stream, self.path, &cookies).await?)
            }
        })
    }

    /// Lets sessions begin; gives their cookies, as a `Cookie` line has them.
    async fn cookies(&self) -> Outcome<Vec<String>> {
        let mut cookies = Vec::with_capacity(self.sessions);
        if self.sessions == 0 {
            return Ok(cookies);
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut browser = Http1::new(Box::new(stream), &self.begins, &[]);
        while cookies.len() < self.sessions {
            browser.ask().await?;
            let head = String::from_utf8_lossy(&browser.answer);
            let line = head
                .lines()
                .find_map(|line| line.strip_prefix("set-cookie: "));
            let cookie = line.and_then(|line| line.split(';').next());
            cookies.push(cookie.ok_or("no cookie was set")?.to_owned());
        }
        Ok(cookies)
    }
}

async fn encrypt(stream: TcpStream, protocol: &[u8]) -> Outcome<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(CERTIFICATE)?)?;
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    Ok(connector
        .connect(ServerName::try_from(HOST)?, stream)
        .await?)
}

/// One that asks for the same page again and again.
pub(crate) enum Browser {
    /// By HTTP/1.1.
    Http1(Http1),
    /// By HTTP/2.
    Http2(Http2),
}

impl Browser {
    /// Sends the request and reads the whole answer.
    ///
    /// # Errors
    ///
    /// Any answer but 200, and a connection that ends.
    pub(crate) async fn ask(&mut self) -> Outcome<()> {
        match self {
            Self::Http1(browser) => browser.ask().await,
            Self::Http2(browser) => browser.ask().await,
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Written by hand, since it shares the processor with what is measured.
pub(crate) struct Http1 {
    stream: Box<dyn Stream>,
    /// Taken in turn.
    requests: Vec<Vec<u8>>,
    next: usize,
    answer: Vec<u8>,
    /// Bytes of an answer's body.
    expects: usize,
}

impl Http1 {
    fn new(stream: Box<dyn Stream>, path: &str, cookies: &[String]) -> Self {
        let requests = if cookies.is_empty() {
            vec![request(path, None)]
        } else {
            let requests = cookies.iter().map(|cookie| request(path, Some(cookie)));
            requests.collect()
        };
        Self {
            stream,
            requests,
            next: 0,
            answer: Vec::with_capacity(2 * MUCH),
            expects: if path == LARGE { MUCH } else { LITTLE },
        }
    }

    async fn ask(&mut self) -> Outcome<()> {
        let request = self.requests.get(self.next).ok_or("there is no request")?;
        self.next = (self.next + 1) % self.requests.len();
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.answer.clear();
        while !self.is_whole() {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err("a connection ended".into());
            }
        }
        if !self.is_good() {
            return Err(String::from_utf8_lossy(&self.answer).into_owned().into());
        }
        Ok(())
    }

    /// Of any answer but 200, the head is enough.
    fn is_whole(&self) -> bool {
        let Some(head) = memmem::find(&self.answer, b"\r\n\r\n") else {
            return false;
        };
        !self.is_good() || self.answer.len() >= head + 4 + self.expects
    }

    fn is_good(&self) -> bool {
        self.answer.starts_with(b"HTTP/1.1 200 ")
    }
}

fn request(path: &str, cookie: Option<&str>) -> Vec<u8> {
    let (method, body) = if path == UPLOAD {
        ("POST", vec![b'x'; MUCH])
    } else {
        ("GET", Vec::new())
    };
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n"));
    let length = (!body.is_empty()).then(|| format!("Content-Length: {}\r\n", body.len()));
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\n{}{}",
        cookie.unwrap_or_default(),
        length.unwrap_or_default()
    );
    [head.as_bytes(), b"\r\n", &body].concat()
}

/// One request at a time on a connection of its own, with the first of its sessions.
pub(crate) struct Http2 {
    connection: SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
}

impl Http2 {
    async fn new(stream: TlsStream<TcpStream>, path: &str, cookies: &[String]) -> Outcome<Self> {
        let (connection, driver) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // It ends with the browser; what goes wrong, its request says.
        tokio::spawn(driver);
        let mut request = Request::get(format!("https://{HOST}{path}"))
            .header("user-agent", "bench")
            .header("accept", "*/*");
        if let Some(cookie) = cookies.first() {
            request = request.header("cookie", cookie);
        }
        Ok(Self {
            connection,
            request: request.body(Empty::new())?,
        })
    }

    async fn ask(&mut self) -> Outcome<()> {
        self.connection.ready().await?;
        let answer = self.connection.send_request(self.request.clone()).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status == 200 {
            return Ok(());
        }
        Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into())
    }
}

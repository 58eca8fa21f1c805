//! Clients of HTTP/2 that go on asking when their connection ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Connections at the same time ...
const CONNECTIONS: usize = 8;
/// ... and requests at the same time on each.
const STREAMS: usize = 4;

/// How a server is reached.
#[derive(Clone)]
pub(super) struct Client {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Client {
    pub(super) fn cleartext(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// By TLS, where only this authority is trusted.
    pub(super) fn tls(address: SocketAddr, host: &'static str, ca_file: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(ca_file).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let host = ServerName::try_from(host).unwrap();
        Self {
            address,
            tls: Some((TlsConnector::from(Arc::new(config)), host)),
        }
    }

    async fn connect(&self) -> Box<dyn Io> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        match &self.tls {
            Some((tls, host)) => Box::new(tls.connect(host.clone(), stream).await.unwrap()),
            None => Box::new(stream),
        }
    }
}

/// Asks until `change` is done; how many answers came. None may be missing.
pub(super) fn load(client: &Client, change: impl FnOnce()) -> usize {
    let done = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (client, done) = (client.clone(), Arc::clone(&done));
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(ask(&client, &done))
            })
        })
        .collect();
    change();
    done.store(true, Ordering::Relaxed);
    asking.into_iter().map(|it| it.join().unwrap()).sum()
}

async fn ask(client: &Client, done: &Arc<AtomicBool>) -> usize {
    let mut answers = 0;
    while !done.load(Ordering::Relaxed) {
        let io = client.connect().await;
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut streams = JoinSet::new();
        for _ in 0..STREAMS {
            streams.spawn(ask_on(sender.clone(), Arc::clone(done)));
        }
        drop(sender);
        while let Some(answered) = streams.join_next().await {
            answers += answered.unwrap();
        }
        // What counts is that nothing is missing. Its farewell may meet a closed connection.
        drop(connection.await.unwrap());
    }
    answers
}

/// Asks one thing after the other until no more is taken on this connection; how many answers came.
async fn ask_on(mut sender: SendRequest<Bytes>, done: Arc<AtomicBool>) -> usize {
    let mut answers = 0;
    while !done.load(Ordering::Relaxed) {
        let Ok(ready) = sender.ready().await else {
            break;
        };
        sender = ready;
        let request = Request::get("http://h/").body(()).unwrap();
        let Ok((response, _)) = sender.send_request(request, true) else {
            break;
        };
        let response = response.await.expect("what was sent is answered");
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        while let Some(part) = body.data().await {
            let length = part.expect("the answer is whole").len();
            body.flow_control().release_capacity(length).unwrap();
        }
        answers += 1;
    }
    answers
}

//! TLS to servers, as the configuration says it.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{Http2, Pem, UpstreamTls};

const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// Why there can be no TLS with the servers of an upstream, whatever they answer.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The system has no certificates to trust.
    #[error("there are no certificates to trust: {0}")]
    NoRoots(String),
    /// A file does not hold what it should.
    #[error("{path} can't be used: {cause}")]
    File {
        /// Which one.
        path: String,
        /// Why not.
        cause: String,
    },
    /// The certificate and the key don't fit, or a server's name is none.
    #[error("the settings can't be used")]
    Settings(#[source] Error),
}

/// How connections to one server are encrypted.
#[derive(Clone)]
pub(super) struct Tls {
    offer: TlsConnector,
    only_http1: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// For a server whose URL names `host`.
    pub(super) fn new(settings: &UpstreamTls, http2: Http2, host: &str) -> Result<Self, TlsError> {
        let name = settings.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name)
            .map_err(|error| TlsError::Settings(Error::General(error.to_string())))?;
        let mut config = client(settings)?;
        config.alpn_protocols = vec![HTTP_1.to_vec()];
        let only_http1 = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols = match http2 {
            Http2::Auto => vec![HTTP_2.to_vec(), HTTP_1.to_vec()],
            Http2::Always => vec![HTTP_2.to_vec()],
            Http2::Never => vec![HTTP_1.to_vec()],
        };
        Ok(Self {
            offer: TlsConnector::from(Arc::new(config)),
            only_http1,
            name,
        })
    }

    /// Encrypts a connection; offers HTTP/2 as configured, or HTTP/1.1 alone.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        only_http1: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let connector = if only_http1 {
            &self.only_http1
        } else {
            &self.offer
        };
        connector.connect(self.name.clone(), stream).await
    }
}

/// Whether HTTP/2 was agreed on.
pub(super) fn is_http2(stream: &TlsStream<TcpStream>) -> bool {
    let (_, connection) = stream.get_ref();
    connection.alpn_protocol() == Some(HTTP_2)
}

fn client(settings: &UpstreamTls) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Settings)?;
    let builder = if settings.verify {
        builder.with_root_certificates(roots(settings.ca.as_ref())?)
    } else {
        let anybody = Arc::new(Anybody(provider));
        builder
            .dangerous()
            .with_custom_certificate_verifier(anybody)
    };
    let Some((certificate, key)) = &settings.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let unusable = |pem: &Pem, cause: String| TlsError::File {
        path: pem.path.display().to_string(),
        cause,
    };
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&key.text)
        .map_err(|error| unusable(key, error.to_string()))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(TlsError::Settings)
}

/// Only the certificates of `ca` if there is one, else the system's.
fn roots(ca: Option<&Pem>) -> Result<RootCertStore, TlsError> {
    let (found, problem) = if let Some(pem) = ca {
        (certificates(pem)?, None)
    } else {
        let found = rustls_native_certs::load_native_certs();
        (found.certs, found.errors.first().map(ToString::to_string))
    };
    let mut roots = RootCertStore::empty();
    // Of the system's certificates, some are old enough to be refused; the rest will do.
    let (added, _ignored) = roots.add_parsable_certificates(found);
    if added == 0 {
        let cause = problem.unwrap_or_else(|| "none was found".to_owned());
        return Err(TlsError::NoRoots(cause));
    }
    Ok(roots)
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(&pem.text)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::File {
            path: pem.path.display().to_string(),
            cause: error.to_string(),
        })
}

/// Takes every certificate, as `verify = false` asks for. That the server has its key is still made
/// sure of, which is worth nothing against whoever makes a certificate of his own.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

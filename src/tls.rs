//! TLS towards clients: from files to what rustls needs.
//!
//! Which certificate answers is decided by the names that stand in the certificates themselves
//! (RFC 6066 section 3, RFC 6125): the exact name first, then the wildcard of one label, then the
//! first certificate of all. Files are read by whoever calls; nothing here watches them.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore};
use webpki::EndEntityCert;

/// How TLS is spoken at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Certificates with their keys; at least one. The first is for clients that name no host, or
    /// one that no certificate has.
    pub certificates: Vec<Files>,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
    /// Whether clients have to show certificates of their own.
    pub clients: Clients,
    /// Whether the application gets the certificates that they show (RFC 9440).
    pub client_cert_header: bool,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM certificates: the server's own, then those that lead from it to a known one.
    pub cert: PathBuf,
    /// The private key, in PEM and not encrypted.
    pub key: PathBuf,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 (RFC 5246), and 1.3.
    Tls12,
    /// TLS 1.3 only (RFC 8446).
    Tls13,
}

/// Whether clients have to show certificates of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// They are not asked.
    Unasked,
    /// They may show none; one that is shown must be from an authority in this file.
    MayShow(PathBuf),
    /// They have to show one from an authority in this file.
    MustShow(PathBuf),
}

/// Reads a file.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("`{}` {trouble}", file.display())]
pub struct TlsError {
    /// Which file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub trouble: Trouble,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It can't be read.
    #[error("can't be read: {0}")]
    Unreadable(io::Error),
    /// It is not PEM, or cut off in the middle.
    #[error("is not PEM")]
    NotPem,
    /// There is no certificate in it.
    #[error("has no certificate in it")]
    NoCertificate,
    /// There is no key in it, or an encrypted one.
    #[error("has no private key in it")]
    NoKey,
    /// A certificate that can't be read.
    #[error("has a certificate in it that can't be read")]
    BadCertificate,
    /// A key of a kind that is not known.
    #[error("has a key in it that can't be used")]
    BadKey,
    /// It belongs to another certificate.
    #[error("is not the key of this certificate")]
    OtherKey,
}

impl Trouble {
    /// What would be right.
    pub fn right(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "paths count from the directory of this file",
            Self::NotPem | Self::NoCertificate | Self::BadCertificate => {
                "a file of PEM certificates, the server's own first"
            }
            Self::NoKey => "a PEM file with the private key, not encrypted",
            Self::BadKey => "an RSA key of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519",
            Self::OtherKey => "the key that the certificate was made for",
        }
    }
}

impl Settings {
    /// Reads all files, and makes of them what a TLS server needs. With `http2`, that is offered
    /// by ALPN (RFC 7301) before HTTP/1.1.
    ///
    /// # Errors
    ///
    /// The first file that can't be used.
    ///
    /// # Panics
    ///
    /// Never: rustls with ring has cipher suites for all versions there are.
    pub fn load(&self, http2: bool, read: ReadFile<'_>) -> Result<ServerConfig, TlsError> {
        let mut by_name = ByName::default();
        for files in &self.certificates {
            by_name.add(files.load(read)?);
        }
        let provider = Arc::new(ring::default_provider());
        let versions: &[_] = match self.min_version {
            MinVersion::Tls12 => &[&TLS13, &TLS12],
            MinVersion::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("ring has cipher suites for both versions");
        let builder = match &self.clients {
            Clients::Unasked => builder.with_no_client_auth(),
            Clients::MayShow(file) | Clients::MustShow(file) => {
                let roots = Arc::new(authorities(file, read)?);
                let is_optional = matches!(self.clients, Clients::MayShow(_));
                builder.with_client_cert_verifier(verifier(file, roots, provider, is_optional)?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(by_name));
        let http2 = http2.then(|| b"h2".to_vec());
        config.alpn_protocols = http2.into_iter().chain([b"http/1.1".to_vec()]).collect();
        // Sessions are resumed without our keeping anything of them. Without randomness, which is
        // the only thing that can fail, they are not resumed.
        if let Ok(ticketer) = ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Ok(config)
    }

    /// All files, for whoever watches them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let pairs = self.certificates.iter();
        let pairs = pairs.flat_map(|files| [files.cert.as_path(), files.key.as_path()]);
        let authorities = match &self.clients {
            Clients::Unasked => None,
            Clients::MayShow(file) | Clients::MustShow(file) => Some(file.as_path()),
        };
        pairs.chain(authorities)
    }
}

impl Files {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    ///
    /// Which of the two can't be used, or that they do not belong together.
    pub fn load(&self, read: ReadFile<'_>) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(&self.cert, read)?;
        let of = |file: &Path, trouble| TlsError {
            file: file.to_owned(),
            trouble,
        };
        let own = chain.first().map(EndEntityCert::try_from);
        if !matches!(own, Some(Ok(_))) {
            return Err(of(&self.cert, Trouble::BadCertificate));
        }
        let text = read(&self.key).map_err(|error| of(&self.key, Trouble::Unreadable(error)))?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
            let is_empty = matches!(error, pem::Error::NoItemsFound);
            let trouble = if is_empty {
                Trouble::NoKey
            } else {
                Trouble::NotPem
            };
            of(&self.key, trouble)
        })?;
        let key = ring::sign::any_supported_type(&key)
            .map_err(|_error| of(&self.key, Trouble::BadKey))?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(of(&self.key, Trouble::OtherKey))
            }
            // Keys that can't be compared show in the first handshake.
            Ok(()) | Err(_) => Ok(pair),
        }
    }
}

/// Reads the certificates of authorities.
///
/// # Errors
///
/// There is none in the file, or one that can't be used.
pub fn authorities(file: &Path, read: ReadFile<'_>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, read)? {
        roots.add(certificate).map_err(|_error| TlsError {
            file: file.to_owned(),
            trouble: Trouble::BadCertificate,
        })?;
    }
    Ok(roots)
}

fn certificates(file: &Path, read: ReadFile<'_>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let of = |trouble| TlsError {
        file: file.to_owned(),
        trouble,
    };
    let text = read(file).map_err(|error| of(Trouble::Unreadable(error)))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(of(Trouble::NoCertificate)),
        Ok(found) => Ok(found),
        Err(_error) => Err(of(Trouble::NotPem)),
    }
}

fn verifier(
    file: &Path,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    is_optional: bool,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
    let builder = if is_optional {
        builder.allow_unauthenticated()
    } else {
        builder
    };
    builder.build().map_err(|_error| TlsError {
        file: file.to_owned(),
        trouble: Trouble::NoCertificate,
    })
}

/// Certificates by the names that stand in them.
#[derive(Debug, Default)]
struct ByName {
    /// For each name those that have it, in the order as configured; there can be one for each kind
    /// of key. A wildcard begins with `*.`.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    fn add(&mut self, pair: CertifiedKey) {
        let pair = Arc::new(pair);
        let own = pair.cert.first().map(EndEntityCert::try_from);
        if let Some(Ok(certificate)) = own {
            for name in certificate.valid_dns_names() {
                let named = self.names.entry(name.to_ascii_lowercase()).or_default();
                named.push(Arc::clone(&pair));
            }
        }
        self.all.push(Arc::clone(&pair));
    }

    /// Those that a client may mean by this name.
    fn named(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name.map(str::to_ascii_lowercase) else {
            return &self.all;
        };
        if let Some(named) = self.names.get(&name) {
            return named;
        }
        // RFC 6125 section 6.4.3: the star stands for one label, the first one.
        let parent = name.split_once('.').map(|(_, parent)| parent);
        parent
            .and_then(|parent| self.names.get(&format!("*.{parent}")))
            .unwrap_or(&self.all)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = self.named(hello.server_name());
        let schemes = hello.signature_schemes();
        let fits = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(schemes).is_some();
        named.iter().find(fits).or_else(|| named.first()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERT: &[u8] = include_bytes!("../tests/vectors/tls/cert.pem");
    const KEY: &[u8] = include_bytes!("../tests/vectors/tls/key.pem");
    const OTHER_KEY: &[u8] = include_bytes!("../tests/vectors/tls/other-key.pem");

    fn read(path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some("cert") => Ok(CERT.to_vec()),
            Some("key") => Ok(KEY.to_vec()),
            Some("other") => Ok(OTHER_KEY.to_vec()),
            Some("cut") => Ok(KEY[..100].to_vec()),
            Some("text") => Ok(b"no PEM at all".to_vec()),
            Some("nonsense") => {
                Ok(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec())
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn files(cert: &str, key: &str) -> Files {
        Files {
            cert: cert.into(),
            key: key.into(),
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        for (cert, key, wrong) in [
            ("none", "key", "`none` can't be read: entity not found"),
            ("cert", "none", "`none` can't be read: entity not found"),
            ("text", "key", "`text` has no certificate in it"),
            ("key", "key", "`key` has no certificate in it"),
            (
                "nonsense",
                "key",
                "`nonsense` has a certificate in it that can't be read",
            ),
            ("cert", "cert", "`cert` has no private key in it"),
            ("cert", "cut", "`cut` is not PEM"),
            (
                "cert",
                "other",
                "`other` is not the key of this certificate",
            ),
        ] {
            let error = files(cert, key).load(&read).unwrap_err();
            assert_eq!(error.to_string(), wrong);
        }
        assert!(authorities(Path::new("nonsense"), &read).is_err());
        assert_eq!(authorities(Path::new("cert"), &read).unwrap().len(), 1);
    }

    #[test]
    fn certificates_are_found_by_their_names() {
        let mut by_name = ByName::default();
        let first = CertifiedKey::new(
            Vec::new(),
            Arc::clone(&files("cert", "key").load(&read).unwrap().key),
        );
        by_name.add(first);
        by_name.add(files("cert", "key").load(&read).unwrap());
        // The first has no name at all.
        let is_named = |name| by_name.named(name).len() == 1;
        assert!(is_named(Some("example.com")));
        assert!(is_named(Some("www.example.com")));
        assert!(is_named(Some("WWW.Example.com")));
        assert!(!is_named(Some("a.b.example.com")));
        assert!(!is_named(Some("example.org")));
        assert!(!is_named(Some("com")));
        assert!(!is_named(None));
    }

    #[test]
    fn settings_become_a_server() {
        let mut settings = Settings {
            certificates: vec![files("cert", "key")],
            min_version: MinVersion::Tls12,
            clients: Clients::Unasked,
            client_cert_header: false,
        };
        let config = settings.load(true, &read).unwrap();
        assert_eq!(config.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
        settings.clients = Clients::MustShow("cert".into());
        let config = settings.load(false, &read).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
        settings.clients = Clients::MayShow("text".into());
        assert!(settings.load(true, &read).is_err());
        assert_eq!(settings.files().count(), 3);
    }
}

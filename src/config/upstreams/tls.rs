//! Reads `[upstreams.NAME.tls]`.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::{Pem, UpstreamTls};
use crate::config::parse::{self, Wrong};
use crate::config::section::Section;
use crate::config::tree::Node;

/// Reads whom to trust. `has_tls` is whether there is a server with TLS.
pub(super) fn read(
    group: &mut Section<'_, '_>,
    default: &UpstreamTls,
    has_tls: bool,
) -> UpstreamTls {
    let is_there = group.has("tls");
    let mut section = group.section("tls");
    let ca = pem(&mut section, "ca_file", Holds::Certificates);
    let certificate = pem(&mut section, "cert", Holds::Certificates);
    let key = pem(&mut section, "key", Holds::Key);
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if section.is_given(one) && !section.is_given(other) {
            let wrong = Wrong::new(format!("`{other}` is missing"), "give both, or none");
            section.problem_between(&[one], wrong);
        }
    }
    let server_name = section.read("server_name", server_name);
    let verify = verify(&mut section, default.verify);
    if !verify && ca.is_some() {
        let wrong = Wrong::new("has no effect with verify = false", "remove one of them");
        section.problem_between(&["ca_file"], wrong);
    }
    section.finish();
    if is_there && !has_tls {
        let wrong = "`tls` has no effect without a server with https://";
        let wrong = Wrong::new(wrong, "remove it, or write https:// in `servers`");
        group.problem_between(&["servers"], wrong);
    }
    UpstreamTls {
        ca,
        identity: certificate.zip(key),
        server_name,
        verify,
    }
}

/// What a file must hold.
#[derive(Clone, Copy)]
enum Holds {
    Certificates,
    Key,
}

fn pem(section: &mut Section<'_, '_>, name: &'static str, holds: Holds) -> Option<Pem> {
    let node = section.take(name)?;
    match read_pem(section, &node, holds) {
        Ok(pem) => Some(pem),
        Err(wrong) => {
            section.wrong(name, &node.origin, wrong);
            None
        }
    }
}

fn read_pem(section: &mut Section<'_, '_>, node: &Node, holds: Holds) -> Result<Pem, Wrong> {
    let path = parse::text(node)?;
    let path = section.reader().resolve(&path, &node.origin);
    let text = section.reader().read_file(&path).map_err(|error| {
        let wrong = format!("can't read {}: {error}", path.display());
        let right = "relative paths count from the configuration file's directory";
        Wrong::new(wrong, right)
    })?;
    let (holds, what) = match holds {
        Holds::Certificates => {
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
            (
                certificates.is_ok_and(|them| !them.is_empty()),
                "certificate",
            )
        }
        Holds::Key => (PrivateKeyDer::from_pem_slice(&text).is_ok(), "private key"),
    };
    if holds {
        return Ok(Pem { path, text });
    }
    let wrong = format!("there is no {what} in {}", path.display());
    Err(Wrong::new(
        wrong,
        format!("a PEM file: -----BEGIN {}-----", what.to_uppercase()),
    ))
}

fn server_name(node: &Node) -> Result<String, Wrong> {
    let text = parse::text(node)?;
    match ServerName::try_from(text.as_str()) {
        Ok(_) => Ok(text),
        Err(_) => Err(Wrong::new(
            "not the name of a server",
            "a name or address without port, like \"app.example.com\"",
        )),
    }
}

fn verify(section: &mut Section<'_, '_>, default: bool) -> bool {
    let Some(node) = section.take("verify") else {
        return default;
    };
    match parse::boolean(&node) {
        Ok(true) => true,
        Ok(false) => {
            let wrong = "certificates are not verified: whoever is on the way to the server can read \
                         and change everything";
            let wrong = Wrong::new(
                wrong,
                "remove it; `ca_file` trusts an authority of your own",
            );
            let key = section.key("verify");
            section.reader().warn(&node.origin, &key, wrong);
            false
        }
        Err(wrong) => {
            section.wrong("verify", &node.origin, wrong);
            default
        }
    }
}

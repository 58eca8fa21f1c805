//! The URL of a server.

use std::path::PathBuf;

use http::uri::{Authority, Uri};
use rustls::pki_types::ServerName;

use super::{Address, Scheme, Server, Upstream};
use crate::config::parse::Wrong;

const FORM: &str =
    "http://host:port, like \"http://127.0.0.1:9000\"; https://, h2c:// or unix:/path";

/// The upstream when none is configured.
pub(in crate::config) fn default_upstream() -> Upstream {
    let address = Address::Tcp {
        host: "127.0.0.1".to_owned(),
        port: 9000,
    };
    Upstream::alone(plain(
        "http://127.0.0.1:9000".to_owned(),
        Scheme::Http,
        address,
    ))
}

fn plain(url: String, scheme: Scheme, address: Address) -> Server {
    Server {
        url,
        scheme,
        address,
        weight: 1,
        drain: false,
    }
}

/// Reads the URL of a server. The messages do not repeat it: a slip may have put a password in it.
pub(super) fn server(text: &str) -> Result<Server, Wrong> {
    match text.split_once(':') {
        Some(("unix" | "http+unix", rest)) => socket(rest, "unix", Scheme::Http),
        Some(("h2c+unix", rest)) => socket(rest, "h2c+unix", Scheme::H2c),
        Some(_) | None => tcp(text),
    }
}

/// `rest` is what follows the scheme and its colon.
fn socket(rest: &str, name: &str, scheme: Scheme) -> Result<Server, Wrong> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if !path.starts_with('/') {
        let wrong = "the socket's path is not absolute";
        return Err(Wrong::new(wrong, "unix:/run/app.sock"));
    }
    let address = Address::Unix(PathBuf::from(path));
    Ok(plain(format!("{name}:{path}"), scheme, address))
}

fn tcp(text: &str) -> Result<Server, Wrong> {
    let wrong = |what: &str| Wrong::new(what, FORM);
    let uri: Uri = text.parse().or(Err(wrong("not a URL")))?;
    let (scheme, default) = match uri.scheme_str() {
        Some("http") => (Scheme::Http, 80),
        Some("https") => (Scheme::Https, 443),
        Some("h2c") => (Scheme::H2c, 80),
        _ => return Err(wrong("the URL has none of the known schemes")),
    };
    if uri.path_and_query().is_some_and(|rest| rest != "/") {
        return Err(wrong("the upstream has no path: requests keep theirs"));
    }
    let authority = uri
        .authority()
        .ok_or_else(|| wrong("the URL names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("the upstream takes no user or password"));
    }
    let port = port(authority, default).ok_or_else(|| wrong("the port is not from 1 to 65535"))?;
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
        .to_owned();
    if ServerName::try_from(bare.as_str()).is_err() {
        return Err(wrong("the URL's host is neither a name nor an address"));
    }
    let name = uri.scheme_str().unwrap_or_default();
    let url = format!("{name}://{host}:{port}");
    Ok(plain(url, scheme, Address::Tcp { host: bare, port }))
}

fn port(authority: &Authority, default: u16) -> Option<u16> {
    match authority.as_str().strip_prefix(authority.host()) {
        Some("") => Some(default),
        _ => authority.port_u16().filter(|port| *port != 0),
    }
}

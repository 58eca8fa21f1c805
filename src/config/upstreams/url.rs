//! The URL of a server.

use http::uri::{Authority, Uri};

use super::{Address, Server, Upstream};
use crate::config::parse::Wrong;

const FORM: &str = "http://host:port, like \"http://127.0.0.1:9000\"";

/// The upstream when none is configured.
pub(in crate::config) fn default_upstream() -> Upstream {
    Upstream::alone(Server {
        url: "http://127.0.0.1:9000".to_owned(),
        address: Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 9000,
        },
        weight: 1,
        drain: false,
    })
}

/// Reads the URL of a server. The messages do not repeat it: a slip may have put a password in it.
pub(super) fn server(text: &str) -> Result<Server, Wrong> {
    let wrong = |what: &str| Wrong::new(what, FORM);
    let uri: Uri = text.parse().or(Err(wrong("not a URL")))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(wrong("TLS to the upstream is not in this version yet")),
        _ => return Err(wrong("the URL's scheme is not `http`")),
    }
    if uri.path_and_query().is_some_and(|rest| rest != "/") {
        return Err(wrong("the upstream has no path: requests keep theirs"));
    }
    let authority = uri
        .authority()
        .ok_or_else(|| wrong("the URL names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("the upstream takes no user or password"));
    }
    let port = port(authority, 80).ok_or_else(|| wrong("the port is not from 1 to 65535"))?;
    let host = authority.host();
    Ok(Server {
        url: format!("http://{host}:{port}"),
        address: Address::Tcp {
            host: host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .unwrap_or(host)
                .to_owned(),
            port,
        },
        weight: 1,
        drain: false,
    })
}

fn port(authority: &Authority, default: u16) -> Option<u16> {
    match authority.as_str().strip_prefix(authority.host()) {
        Some("") => Some(default),
        _ => authority.port_u16().filter(|port| *port != 0),
    }
}

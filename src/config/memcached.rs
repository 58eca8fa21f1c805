//! The keys of `[storage]` with `engine = "memcached"`.

use super::format::{self, FormatName};
use super::parse::{self, Wrong};
use super::section::Section;
use super::tree::{Node, Value};
use super::{Engine, Routing};

/// python-memcached has no bound; by this one, no sum of weights is too large to be counted.
const MAX_WEIGHT: u32 = 1_000_000;

const FORMS: &str = "host:port, like 10.0.0.5:11211";

/// Reads the keys of `[storage]` that only memcached has.
pub(super) fn read(section: &mut Section<'_, '_>, format: Option<FormatName>) -> Engine {
    let servers = section.list("servers", |node| server(node, format));
    let servers = servers.unwrap_or_else(|| vec![("127.0.0.1:11211".to_owned(), 1)]);
    if servers.is_empty() {
        let wrong = Wrong::new("no server is named", "servers = [\"127.0.0.1:11211\"]");
        section.problem_between(&["servers"], wrong);
    }
    let (servers, weights) = servers.into_iter().unzip();
    let routing = if format == Some(FormatName::Pycket) {
        let version = section.read("python_memcached", format::python_memcached);
        Routing::Python {
            weights,
            version: version.unwrap_or_default(),
        }
    } else {
        Routing::Rendezvous
    };
    Engine::Memcached {
        servers,
        routing,
        max_connections: section
            .read("max_connections", parse::integer(1, 1024))
            .unwrap_or(8),
    }
}

/// A server, or a list of one and its weight.
fn server(node: &Node, format: Option<FormatName>) -> Result<(String, u32), Wrong> {
    let Value::List(pair) = &node.value else {
        return Ok((address(&parse::text(node)?)?, 1));
    };
    let [server, weight] = pair.as_slice() else {
        let wrong = "a server with a weight is a list of two";
        return Err(Wrong::new(wrong, "[\"10.0.0.5:11211\", 2]"));
    };
    let server = address(&parse::text(server)?)?;
    if format == Some(FormatName::Native) {
        let wrong = "weights have no effect with format = \"native\": keys spread evenly";
        return Err(Wrong::new(wrong, format!("\"{server}\" alone")));
    }
    Ok((server, parse::integer(1, MAX_WEIGHT)(weight)?))
}

/// `host:port`, the port spelt out. python-memcached also takes it with `inet:` or `inet6:`.
fn address(text: &str) -> Result<String, Wrong> {
    if text.starts_with("unix:") {
        let wrong = "sockets of memcached are not in this version";
        let right = format!("let memcached listen on a port (-l, -p) too: {FORMS}");
        return Err(Wrong::new(wrong, right));
    }
    let bare = text.strip_prefix("inet:").or(text.strip_prefix("inet6:"));
    let (host, port) = parse::host_and_port(bare.unwrap_or(text), 11211)
        .ok_or_else(|| Wrong::new("not the address of a server", FORMS))?;
    if host.contains(':') {
        Ok(format!("[{host}]:{port}"))
    } else {
        Ok(format!("{host}:{port}"))
    }
}

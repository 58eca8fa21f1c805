//! `listen` and `[[listener]]`: where clients come in, and how each of these doors is kept.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::parse::{self, Wrong};
use super::section::Section;
use super::tree::Node;
use super::{ListenAddress, Listener, Neighbours, server};

/// What a permission may have: nobody needs to execute a socket, but tools show these bits.
const MAX_MODE: u32 = 0o777;

/// Reads `listen` and all of `[[listener]]`.
pub(super) fn read(root: &mut Section<'_, '_>) -> Vec<Listener> {
    let listen = root.list("listen", address);
    if listen.as_ref().is_some_and(Vec::is_empty) {
        let wrong = Wrong::new("no address to listen on", "\"127.0.0.1:8080\"");
        root.reader().problem_between(&["listen"], wrong);
    }
    let is_plain = listen.is_some();
    let mut listeners: Vec<Listener> = listen.into_iter().flatten().map(Listener::plain).collect();
    root.tables("listener", |section, _origin| {
        listener(section, &mut listeners);
    });
    if listeners.is_empty() && !is_plain && !root.has("listener") {
        let usual = SocketAddr::from(([127, 0, 0, 1], 8080));
        listeners.push(Listener::plain(ListenAddress::Tcp(usual)));
    }
    refuse_twice(root, &listeners);
    listeners
}

/// Two sockets on one address would share its connections by chance.
fn refuse_twice(root: &mut Section<'_, '_>, listeners: &[Listener]) {
    for (position, listener) in listeners.iter().enumerate() {
        let address = &listener.address;
        let any_port = matches!(address, ListenAddress::Tcp(tcp) if tcp.port() == 0);
        let above = listeners.iter().take(position);
        if !any_port && above.into_iter().any(|other| other.address == *address) {
            let wrong = Wrong::new(format!("{address} is listened on twice"), "remove one");
            let keys = ["listen", "listener"];
            let key = keys.into_iter().rfind(|key| root.reader().is_given(key));
            root.reader()
                .problem_between(&[key.unwrap_or("listen")], wrong);
        }
    }
}

/// One table, which can have several addresses.
fn listener(mut section: Section<'_, '_>, listeners: &mut Vec<Listener>) {
    let addresses = section.list("address", address);
    let http2 = section.read("http2", parse::boolean).unwrap_or(true);
    let proxy_protocol = section.list("proxy_protocol", server::neighbour);
    let mode = section.read("mode", mode);
    if addresses.as_ref().is_none_or(Vec::is_empty) {
        let wrong = Wrong::new("no address to listen on", "address = \"127.0.0.1:8443\"");
        section.problem_between(&["address"], wrong);
    }
    let addresses = addresses.unwrap_or_default();
    let is_unix = |address: &ListenAddress| matches!(address, ListenAddress::Unix(_));
    if mode.is_some() && !addresses.iter().any(is_unix) {
        let wrong = Wrong::new(
            "has no effect: only unix sockets have permissions",
            "remove it",
        );
        section.problem_between(&["mode"], wrong);
    }
    let proxy_protocol: Neighbours = proxy_protocol.into_iter().flatten().collect();
    section.finish();
    listeners.extend(addresses.into_iter().map(|address| Listener {
        address,
        http2,
        proxy_protocol: proxy_protocol.clone(),
        mode,
    }));
}

fn address(node: &Node) -> Result<ListenAddress, Wrong> {
    let text = parse::text(node)?;
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        return if path.is_absolute() {
            Ok(ListenAddress::Unix(path))
        } else {
            let wrong = "the socket's path is not absolute";
            Err(Wrong::new(wrong, "\"unix:/run/pycket/http.sock\""))
        };
    }
    match text.split_once(':') {
        None if text == "systemd" => return Ok(ListenAddress::Systemd(None)),
        Some(("systemd", "")) => {
            let wrong = "the name of the socket is empty";
            return Err(Wrong::new(wrong, "\"systemd\" for all of them"));
        }
        Some(("systemd", name)) => return Ok(ListenAddress::Systemd(Some(name.to_owned()))),
        _ => {}
    }
    let tcp = text.parse().ok().ok_or_else(|| {
        let right = match text.strip_prefix(':').unwrap_or(&text).parse::<u16>() {
            Ok(port) => format!("\"0.0.0.0:{port}\" for all of IPv4, \"[::]:{port}\" for all"),
            Err(_) => "an IP address and a port: \"127.0.0.1:8080\", \"[::1]:8080\"".to_owned(),
        };
        Wrong::new(format!("`{text}` is no address to listen on"), right)
    })?;
    Ok(ListenAddress::Tcp(tcp))
}

/// Permissions as chmod(1) takes them.
fn mode(node: &Node) -> Result<u32, Wrong> {
    let right = "three or four octal digits in quotes, like \"0660\"";
    let wrong = || Wrong::new("not the permissions of a file", right);
    if parse::as_integer(&node.value).is_some() && node.value.as_text().is_none() {
        return Err(Wrong::new("a number would be read as a decimal one", right));
    }
    let text = parse::text(node)?;
    let digits = matches!(text.len(), 3 | 4) && text.bytes().all(|b| b.is_ascii_digit());
    let mode = u32::from_str_radix(&text, 8).ok().filter(|_| digits);
    mode.filter(|mode| *mode <= MAX_MODE).ok_or_else(wrong)
}

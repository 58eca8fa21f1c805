//! `listen` and `[[listener]]`: where clients come in, and how each of these doors is kept.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::parse::{self, Wrong};
use super::section::Section;
use super::tree::{Node, Origin};
use super::{ListenAddress, Listener, Neighbours, server};
use crate::tls::{self, Clients, Files, MinVersion, Settings};

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
    root.tables("listener", |section, origin| {
        listener(section, &origin, &mut listeners);
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
fn listener(mut section: Section<'_, '_>, origin: &Origin, listeners: &mut Vec<Listener>) {
    let addresses = section.list("address", address);
    let http2 = section.read("http2", parse::boolean).unwrap_or(true);
    let proxy_protocol = section.list("proxy_protocol", server::neighbour);
    let mode = section.read("mode", mode);
    let tls = tls(&mut section);
    let is_empty = addresses.as_ref().is_some_and(Vec::is_empty);
    if !section.is_present("address") || is_empty && !section.is_wrong("address") {
        let wrong = Wrong::new("no address to listen on", "address = \"127.0.0.1:8443\"");
        section.wrong("address", origin, wrong);
    }
    let addresses = addresses.unwrap_or_default();
    let is_unix = |address: &ListenAddress| matches!(address, ListenAddress::Unix(_));
    if mode.is_some() && !addresses.iter().any(is_unix) {
        let wrong = "has no effect: only unix sockets have permissions";
        section.wrong("mode", origin, Wrong::new(wrong, "remove it"));
    }
    let proxy_protocol: Neighbours = proxy_protocol.into_iter().flatten().collect();
    section.finish();
    listeners.extend(addresses.into_iter().map(|address| Listener {
        address,
        http2,
        proxy_protocol: proxy_protocol.clone(),
        tls: tls.clone(),
        mode,
    }));
}

/// The table of TLS. All files are read, to say what is wrong with them.
fn tls(section: &mut Section<'_, '_>) -> Option<Settings> {
    let node = section.take("tls")?;
    let origin = node.origin.clone();
    let entries = parse::table(node)
        .map_err(|wrong| section.wrong("tls", &origin, wrong))
        .ok()?;
    let mut section = section.inline("tls", entries);
    let mut certificates = Vec::new();
    let mut is_empty = true;
    section.tables("certificates", |section, origin| {
        is_empty = false;
        certificates.extend(certificate(section, &origin));
    });
    if is_empty {
        let right = "certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]";
        section.problem_between(
            &["certificates"],
            Wrong::new("there is no certificate", right),
        );
    }
    let versions = parse::choice(&[("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)]);
    let min_version = section.read("min_version", versions);
    let clients = clients(&mut section, &origin);
    let client_cert_header = section.read("client_cert_header", parse::boolean);
    if client_cert_header == Some(true) && clients == Clients::Unasked {
        let wrong = "has no effect: clients are not asked for certificates";
        let wrong = Wrong::new(wrong, "client_ca = \"clients.pem\"");
        section.problem_between(&["client_cert_header", "client_ca"], wrong);
    }
    section.finish();
    Some(Settings {
        certificates,
        min_version: min_version.unwrap_or(MinVersion::Tls12),
        clients,
        client_cert_header: client_cert_header.unwrap_or(false),
    })
}

fn certificate(mut section: Section<'_, '_>, origin: &Origin) -> Option<Files> {
    let cert = path(&mut section, "cert");
    let key = path(&mut section, "key");
    for (name, is_there) in [
        ("cert", section.is_present("cert")),
        ("key", section.is_present("key")),
    ] {
        if !is_there {
            let wrong = format!("a certificate without its `{name}`");
            let right = "{ cert = \"cert.pem\", key = \"key.pem\" }";
            section.wrong(name, origin, Wrong::new(wrong, right));
        }
    }
    let files = cert.zip(key).map(|((cert, at), (key, key_at))| {
        let files = Files { cert, key };
        let loaded = {
            let reader = section.reader();
            files.load(&|path| reader.read_file(path))
        };
        if let Err(error) = loaded {
            let (name, at) = if error.file == files.cert {
                ("cert", at)
            } else {
                ("key", key_at)
            };
            let wrong = Wrong::new(error.to_string(), error.trouble.right());
            section.wrong(name, &at, wrong);
        }
        files
    });
    section.finish();
    files
}

/// Whether clients are asked for certificates.
fn clients(section: &mut Section<'_, '_>, origin: &Origin) -> Clients {
    let ca = path(section, "client_ca");
    let is_required = section.read(
        "client_certificate",
        parse::choice(&[("required", true), ("optional", false)]),
    );
    let Some((ca, at)) = ca else {
        if is_required.is_some() {
            let wrong = "it is not said who makes the certificates of clients";
            let wrong = Wrong::new(wrong, "client_ca = \"clients.pem\"");
            section.wrong("client_certificate", origin, wrong);
        }
        return Clients::Unasked;
    };
    let loaded = {
        let reader = section.reader();
        tls::authorities(&ca, &|path| reader.read_file(path))
    };
    if let Err(error) = loaded {
        let wrong = Wrong::new(error.to_string(), error.trouble.right());
        section.wrong("client_ca", &at, wrong);
    }
    if is_required.unwrap_or(true) {
        Clients::MustShow(ca)
    } else {
        Clients::MayShow(ca)
    }
}

/// The path of a file, and where it is said.
fn path(section: &mut Section<'_, '_>, name: &'static str) -> Option<(PathBuf, Origin)> {
    let found = section.read(name, |node| Ok((parse::text(node)?, node.origin.clone())));
    let (text, origin) = found?;
    Some((section.reader().resolve(&text, &origin), origin))
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

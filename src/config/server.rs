//! `workers`; `[forwarding]`, `[limits]`, `[timeouts]` and `[log]`.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::parse::{self, Wrong};
use super::section::Section;
use super::tree::Node;
use super::{Forwarding, Limits, Listener, Log, LogFormat, LogLevel, Neighbour, Reload, Timeouts};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// More threads than that are a slip.
const MAX_WORKERS: usize = 1024;

/// Reads `workers`; `auto` is one for each of the processors.
pub(super) fn workers(root: &mut Section<'_, '_>, processors: NonZeroUsize) -> NonZeroUsize {
    let number = root.read("workers", |node| match parse::as_integer(&node.value) {
        None if parse::text(node)? == "auto" => Ok(processors),
        _ => {
            let number = parse::integer(1, MAX_WORKERS)(node)?;
            NonZeroUsize::new(number).ok_or_else(|| Wrong::new("no worker", "\"auto\""))
        }
    });
    number.unwrap_or(processors)
}

/// Reads `reload`.
pub(super) fn reload(root: &mut Section<'_, '_>) -> Reload {
    let options = parse::choice(&[("signal", Reload::Signal), ("watch", Reload::Watch)]);
    root.read("reload", options).unwrap_or(Reload::Signal)
}

/// Reads `[forwarding]`.
pub(super) fn forwarding(mut section: Section<'_, '_>, listeners: &[Listener]) -> Forwarding {
    let forwarding = Forwarding {
        trust: section
            .list("trust", neighbour)
            .into_iter()
            .flatten()
            .collect(),
        x_forwarded: section.read("x_forwarded", parse::boolean).unwrap_or(true),
        forwarded: section.read("forwarded", parse::boolean).unwrap_or(false),
        via: section
            .read("via", via)
            .unwrap_or_else(|| Some("pycket".to_owned())),
        client_cert: listeners
            .iter()
            .filter_map(|listener| listener.tls.as_ref())
            .any(|tls| tls.client_cert_header),
        interim_responses: section
            .read("interim_responses", parse::boolean)
            .unwrap_or(true),
    };
    section.finish();
    forwarding
}

/// A network, or `unix` for whoever comes by a unix socket.
pub(super) fn neighbour(node: &Node) -> Result<Neighbour, Wrong> {
    if parse::text(node)? == "unix" {
        return Ok(Neighbour::Unix);
    }
    network(node).map(Neighbour::Network)
}

fn network(node: &Node) -> Result<IpNet, Wrong> {
    let text = parse::text(node)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().ok().ok_or_else(|| {
        let wrong = format!("`{text}` is no network");
        Wrong::new(wrong, "\"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.7\"")
    })?;
    if network == network.trunc() {
        Ok(network)
    } else {
        let wrong = format!("`{text}` has bits set outside of the network");
        Err(Wrong::new(wrong, format!("\"{}\"", network.trunc())))
    }
}

/// A pseudonym (RFC 9110 section 7.6.3), or `false`.
fn via(node: &Node) -> Result<Option<String>, Wrong> {
    match parse::as_boolean(&node.value) {
        Some(false) => return Ok(None),
        Some(true) => return Err(Wrong::new("`true` is no name", "\"pycket\" or false")),
        None => {}
    }
    let name = parse::text(node)?;
    // The characters of a token are those of a header's name.
    match HeaderName::try_from(name.as_str()) {
        Ok(_) => Ok(Some(name)),
        Err(_) => Err(Wrong::new(
            "not a pseudonym",
            "letters, digits and hyphens, like \"pycket\"; false sends none",
        )),
    }
}

/// Reads `[limits]`.
pub(super) fn limits(mut section: Section<'_, '_>) -> Limits {
    let limits = Limits {
        max_connections: section
            .read("max_connections", parse::integer(1, 1_000_000))
            .unwrap_or(10_000),
        max_connections_per_address: section
            .read("max_connections_per_address", parse::integer(1, 1_000_000))
            .unwrap_or(1024),
        max_requests_per_connection: section
            .read(
                "max_requests_per_connection",
                parse::integer(1, 1_000_000_000),
            )
            .unwrap_or(10_000),
        // hyper needs 8 KiB at least.
        max_head_bytes: section
            .read("max_head", parse::size(8 << 10, 1 << 20))
            .unwrap_or(32 << 10),
        max_head_fields: section
            .read("max_head_fields", parse::integer(16, 1000))
            .unwrap_or(100),
        max_body_bytes: max_body(&mut section).unwrap_or(1 << 30),
        min_body_rate: bytes(&mut section, "min_body_rate", 1 << 30).unwrap_or(64),
        http2_max_streams: section
            .read("http2_max_streams", parse::integer(1, 10_000))
            .unwrap_or(100),
        http2_max_resets: section
            .read("http2_max_resets", parse::integer(1, 10_000))
            .unwrap_or(20),
        http2_max_control_frames: section
            .read("http2_max_control_frames", parse::integer(100, 1_000_000))
            .unwrap_or(1000),
        http2_stream_window: window(&mut section, "http2_stream_window", 256 << 10),
        http2_connection_window: window(&mut section, "http2_connection_window", 1 << 20),
        max_upstream_connections: section
            .read("max_upstream_connections", parse::integer(1, 65_536))
            .unwrap_or(256),
    };
    section.finish();
    limits
}

/// Reads `max_body`, which routes can have, too.
pub(super) fn max_body(section: &mut Section<'_, '_>) -> Option<u64> {
    bytes(section, "max_body", 1 << 40)
}

fn bytes(section: &mut Section<'_, '_>, name: &'static str, max: usize) -> Option<u64> {
    let bytes = section.read(name, parse::size(0, max))?;
    Some(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// A window of flow control: RFC 9113 section 6.9.2 begins with 64 KiB less one byte, and section
/// 6.9.1 ends at 2 GiB less one.
fn window(section: &mut Section<'_, '_>, name: &'static str, default: u32) -> u32 {
    section
        .read(name, parse::size(64 << 10, 1 << 30))
        .and_then(|bytes| u32::try_from(bytes).ok())
        .unwrap_or(default)
}

/// Reads `upstream_response`, which routes can have, too.
pub(super) fn upstream_response(section: &mut Section<'_, '_>) -> Option<Duration> {
    let range = parse::duration(SECOND / 10, 24 * HOUR);
    section.read("upstream_response", range)
}

/// Reads `[timeouts]`.
pub(super) fn timeouts(mut section: Section<'_, '_>) -> Timeouts {
    let response = upstream_response(&mut section);
    let mut read = |name, min, max, default| {
        section
            .read(name, parse::duration(min, max))
            .unwrap_or(default)
    };
    let timeouts = Timeouts {
        client_handshake: read("client_handshake", SECOND, 10 * MINUTE, 10 * SECOND),
        client_head: read("client_head", SECOND, 10 * MINUTE, 30 * SECOND),
        client_body: read("client_body", SECOND, HOUR, 30 * SECOND),
        client_idle: read("client_idle", SECOND, HOUR, 60 * SECOND),
        client_write: read("client_write", SECOND, HOUR, 30 * SECOND),
        client_ping: read("client_ping", Duration::ZERO, HOUR, 30 * SECOND),
        upstream_connect: read("upstream_connect", SECOND / 100, 10 * MINUTE, 5 * SECOND),
        upstream_response: response.unwrap_or(60 * SECOND),
        upstream_body: read("upstream_body", SECOND, 24 * HOUR, 10 * MINUTE),
        upstream_idle: read("upstream_idle", Duration::ZERO, HOUR, SECOND * 3 / 2),
        exchange: Some(read(
            "exchange",
            Duration::ZERO,
            30 * 24 * HOUR,
            Duration::ZERO,
        ))
        .filter(|limit| !limit.is_zero()),
        tunnel: read("tunnel", SECOND, 30 * 24 * HOUR, HOUR),
        drain: read("drain", Duration::ZERO, 24 * HOUR, 30 * SECOND),
    };
    section.finish();
    timeouts
}

/// Reads `[log]`.
pub(super) fn log(mut section: Section<'_, '_>) -> Log {
    let format = parse::choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let level = parse::choice(&[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
    ]);
    let log = Log {
        format: section.read("format", format).unwrap_or(LogFormat::Text),
        level: section.read("level", level).unwrap_or(LogLevel::Info),
        access: section.read("access", parse::boolean).unwrap_or(true),
        request_id_header: section
            .read("request_id_header", parse::header_name)
            .unwrap_or_else(|| HeaderName::from_static("x-request-id")),
    };
    section.finish();
    log
}

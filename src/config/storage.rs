//! `engine` and `[storage]`.

use std::time::Duration;

use super::parse::{self, Wrong};
use super::section::Section;
use super::tree::Node;
use super::{Engine, Format, Routing, Storage, redis};

/// The engines of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EngineName {
    Memory,
    Redis,
    Memcached,
}

use EngineName::{Memcached, Memory, Redis as RedisServer};

/// Keys that have an effect with some engines only.
const SCOPES: [(&str, &[EngineName]); 12] = [
    ("url", &[RedisServer]),
    ("username", &[RedisServer]),
    ("password", &[RedisServer]),
    ("database", &[RedisServer]),
    ("tls_ca_file", &[RedisServer]),
    ("servers", &[Memcached]),
    ("max_connections", &[Memcached]),
    ("max_memory", &[Memory]),
    ("timeout", &[RedisServer, Memcached]),
    ("connect_timeout", &[RedisServer, Memcached]),
    ("breaker_failures", &[RedisServer, Memcached]),
    ("breaker_retry", &[RedisServer, Memcached]),
];

/// memcached takes keys of 250 bytes; a session's id takes 36, and the rest is kept free.
const MAX_PREFIX_BYTES: usize = 128;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// The engine's name. `None` when it is wrong, so that nobody blames the other keys for it.
pub(super) fn engine(root: &mut Section<'_, '_>) -> Option<EngineName> {
    let Some(node) = root.take("engine") else {
        return Some(Memory);
    };
    engine_name(&node)
        .map_err(|wrong| root.wrong("engine", &node.origin, wrong))
        .ok()
}

fn engine_name(node: &Node) -> Result<EngineName, Wrong> {
    if parse::text(node)? == "file" {
        return Err(Wrong::new(
            "engine \"file\" is not in this version yet",
            "\"memory\", \"redis\" or \"memcached\"",
        ));
    }
    parse::choice(&[
        ("memory", Memory),
        ("redis", RedisServer),
        ("memcached", Memcached),
    ])(node)
}

/// Reads `[storage]`.
pub(super) fn read(mut section: Section<'_, '_>, name: Option<EngineName>) -> Storage {
    format(&mut section);
    for (key, engines) in SCOPES {
        match name {
            Some(name) if engines.contains(&name) => {}
            Some(name) => refuse(&mut section, key, name, engines),
            None => drop(section.take(key)),
        }
    }
    let engine = match name {
        Some(RedisServer) => Engine::Redis(redis::read(&mut section)),
        Some(Memcached) => memcached(&mut section),
        Some(Memory) | None => Engine::Memory {
            max_bytes: section
                .read("max_memory", parse::size(1 << 20, 1 << 40))
                .unwrap_or(64 << 20),
        },
    };
    let up_to_a_minute = || parse::duration(10 * MS, MINUTE);
    let storage = Storage {
        engine,
        format: Format::Native,
        key_prefix: section
            .read("key_prefix", key_prefix)
            .unwrap_or_else(|| "pycket:".to_owned()),
        timeout: section.read("timeout", up_to_a_minute()).unwrap_or(SECOND),
        connect_timeout: section
            .read("connect_timeout", up_to_a_minute())
            .unwrap_or(2 * SECOND),
        breaker_failures: section
            .read("breaker_failures", parse::integer(1, 1_000_000))
            .unwrap_or(5),
        breaker_retry: section
            .read("breaker_retry", parse::duration(10 * MS, 60 * MINUTE))
            .unwrap_or(SECOND),
    };
    section.finish();
    storage
}

fn refuse(section: &mut Section<'_, '_>, key: &'static str, name: EngineName, of: &[EngineName]) {
    let word = |engine: &EngineName| match engine {
        Memory => "\"memory\"",
        RedisServer => "\"redis\"",
        Memcached => "\"memcached\"",
    };
    let wrong = format!("has no effect with engine = {}", word(&name));
    let engines: Vec<&str> = of.iter().map(word).collect();
    let right = format!("remove it, or set engine = {}", engines.join(" or "));
    section.refuse(key, &wrong, &right);
}

fn format(section: &mut Section<'_, '_>) {
    // `native` is the only one, so there is nothing to keep.
    let _native = section.read("format", |node| {
        if parse::text(node)? == "pycket" {
            return Err(Wrong::new(
                "format \"pycket\" is not in this version yet",
                "\"native\"",
            ));
        }
        parse::choice(&[("native", ())])(node)
    });
    for key in ["db_sessions", "db_notifications"] {
        section.refuse(
            key,
            "has no effect with format = \"native\"",
            "remove it; `database` chooses the database",
        );
    }
}

fn key_prefix(node: &Node) -> Result<String, Wrong> {
    let prefix = match node.value.as_text() {
        // No prefix at all is fine.
        Some("") => String::new(),
        _ => parse::text(node)?,
    };
    if prefix.len() <= MAX_PREFIX_BYTES && prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(prefix)
    } else {
        Err(Wrong::new(
            "stores do not take such keys",
            format!("at most {MAX_PREFIX_BYTES} visible ASCII characters, no spaces"),
        ))
    }
}

fn memcached(section: &mut Section<'_, '_>) -> Engine {
    let servers = section.list("servers", |node| server(&parse::text(node)?));
    let servers = servers.unwrap_or_else(|| vec!["127.0.0.1:11211".to_owned()]);
    if servers.is_empty() {
        let wrong = Wrong::new("no server is named", "servers = [\"127.0.0.1:11211\"]");
        section
            .reader()
            .problem_between(&["storage.servers"], wrong);
    }
    Engine::Memcached {
        servers,
        routing: Routing::Rendezvous,
        max_connections: section
            .read("max_connections", parse::integer(1, 1024))
            .unwrap_or(8),
    }
}

/// `host:port`, the port spelt out.
fn server(text: &str) -> Result<String, Wrong> {
    let (host, port) = parse::host_and_port(text, 11211).ok_or_else(|| {
        Wrong::new(
            "not the address of a server",
            "host:port, like 10.0.0.5:11211",
        )
    })?;
    if host.contains(':') {
        Ok(format!("[{host}]:{port}"))
    } else {
        Ok(format!("{host}:{port}"))
    }
}

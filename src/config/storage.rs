//! `engine` and `[storage]`.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::format::{self, FormatName};
use super::parse::{self, Wrong};
use super::section::Section;
use super::tree::Node;
use super::{Engine, Format, PycketFormat, Storage, foreign, memcached, redis};

/// The engines of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EngineName {
    Memory,
    Redis,
    Memcached,
}

use EngineName::{Memcached, Memory, Redis as RedisServer};

/// Keys that have an effect with some engines only.
const SCOPES: [(&str, &[EngineName]); 15] = [
    ("url", &[RedisServer]),
    ("host", &[RedisServer]),
    ("port", &[RedisServer]),
    ("unix_socket_path", &[RedisServer]),
    ("username", &[RedisServer]),
    ("password", &[RedisServer]),
    ("database", &[RedisServer]),
    ("tls_ca_file", &[RedisServer]),
    ("servers", &[Memcached]),
    ("max_connections", &[RedisServer, Memcached]),
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

/// Reads `[storage]`, with `[storage.fallback]` if it is there. Each of the workers has connections
/// of its own.
pub(super) fn read(
    mut section: Section<'_, '_>,
    name: Option<EngineName>,
    workers: NonZeroUsize,
) -> Storage {
    let fallback = fallback(&mut section, workers);
    if fallback.is_some() && name == Some(Memory) {
        let wrong = Wrong::new(
            "sessions would move from there into memory, and be gone when the proxy stops",
            "engine = \"redis\" or \"memcached\", for where they are to be from now on",
        );
        section.problem_between(&["fallback"], wrong);
    }
    let mut storage = place(section, name, workers);
    storage.fallback = fallback.map(Box::new);
    storage
}

/// Reads the old place of sessions, which has the keys of `[storage]` and its own `engine`.
fn fallback(section: &mut Section<'_, '_>, workers: NonZeroUsize) -> Option<Storage> {
    let is_there = section.has("fallback");
    let mut old = section.section("fallback");
    let name = engine(&mut old);
    let says_engine = !old.present().is_empty();
    if !is_there && !says_engine {
        return None;
    }
    if old.reader().is_wrong("storage.fallback") {
        return None;
    }
    if name == Some(Memory) {
        let right = "engine = \"redis\" or \"memcached\" under [storage.fallback]";
        let wrong = if says_engine {
            Wrong::new(
                "no session in memory outlives the proxy: there are none to find",
                right,
            )
        } else {
            Wrong::new("it is not said in which store sessions were", right)
        };
        old.problem_between(&["engine"], wrong);
    }
    old.refuse_foreign(
        "fallback",
        "there is only one old place: the next one is not asked",
        "remove it",
    );
    let old = place(old, name, workers);
    if let Format::Pycket(PycketFormat {
        writable: false, ..
    }) = old.format
    {
        let wrong = Wrong::new(
            "a session that has moved or ended must be deleted in its old place, or it would come back",
            "remove it",
        );
        section.problem_between(&["fallback.writable"], wrong);
    }
    Some(old)
}

/// Reads where sessions are.
fn place(mut section: Section<'_, '_>, name: Option<EngineName>, workers: NonZeroUsize) -> Storage {
    let format_name = format::name(&mut section, name);
    foreign::refuse(&mut section, format_name);
    format::refuse(&mut section, format_name, name);
    for (key, engines) in SCOPES {
        match name {
            Some(name) if engines.contains(&name) => {}
            Some(name) => refuse_engine(&mut section, key, name, engines),
            None => drop(section.take(key)),
        }
    }
    let (format, sessions) = match (format_name, name) {
        (Some(FormatName::Pycket), Some(name)) => {
            let (format, sessions) = format::pycket(&mut section, name);
            (Format::Pycket(format), Some(sessions))
        }
        (Some(FormatName::Native | FormatName::Pycket) | None, _) => (Format::Native, None),
    };
    let engine = match name {
        Some(RedisServer) => Engine::Redis(redis::read(&mut section, sessions, workers)),
        Some(Memcached) => memcached::read(&mut section, format_name),
        Some(Memory) | None => Engine::Memory {
            max_bytes: section
                .read("max_memory", parse::size(1 << 20, 1 << 40))
                .unwrap_or(64 << 20),
        },
    };
    let up_to_a_minute = || parse::duration(10 * MS, MINUTE);
    let key_prefix = match &format {
        Format::Native => section
            .read("key_prefix", key_prefix)
            .unwrap_or_else(|| "pycket:".to_owned()),
        Format::Pycket(_) => {
            section.refuse(
                "key_prefix",
                "has no effect with format = \"pycket\": the library's keys are the bare ids",
                "remove it",
            );
            String::new()
        }
    };
    let storage = Storage {
        engine,
        format,
        key_prefix,
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
        fallback: None,
    };
    section.finish();
    storage
}

/// Says that a key, if it is there, belongs to other engines.
pub(super) fn refuse_engine(
    section: &mut Section<'_, '_>,
    key: &'static str,
    name: EngineName,
    of: &[EngineName],
) {
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

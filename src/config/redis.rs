//! The keys of `[storage]` with `engine = "redis"`.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::parse::{self, Wrong};
use super::secret;
use super::section::Section;
use super::tree::Node;
use super::{Redis, RedisAddress, RedisTls, Secret};

/// Reads the keys of `[storage]` that only Redis has.
pub(super) fn read(section: &mut Section<'_, '_>) -> Redis {
    let url = section.read("url", redis_url).unwrap_or_default();
    let username = section.read("username", parse::text);
    let password = password(section);
    let database = section.read("database", parse::integer(0, u8::MAX));
    let in_url = [
        ("username", username.is_some() && url.username.is_some()),
        ("password", password.is_some() && url.password.is_some()),
        ("database", database.is_some() && url.database.is_some()),
    ];
    for (name, twice) in in_url {
        if twice {
            let wrong = Wrong::new("it stands in `url` too", "give it in one of the two places");
            let key = section.key(name);
            section.reader().problem_between(&[&key], wrong);
        }
    }
    let password = password.or(url.password);
    let username = username.or(url.username);
    if username.is_some() && password.is_none() {
        let wrong = Wrong::new("a user without a password", "set `password` too");
        section.reader().problem_between(
            &["storage.username", "storage.password", "storage.url"],
            wrong,
        );
    }
    let ca_file = ca_file(section);
    if ca_file.is_some() && !url.tls {
        let wrong = Wrong::new("has no effect without TLS", "url = \"rediss://...\"");
        section
            .reader()
            .problem_between(&["storage.tls_ca_file", "storage.url"], wrong);
    }
    Redis {
        address: url.address,
        username,
        password: password.map(Secret::new),
        database: database.or(url.database).unwrap_or(0),
        tls: url.tls.then_some(RedisTls { ca_file }),
    }
}

fn password(section: &mut Section<'_, '_>) -> Option<String> {
    let given = secret::read(section, "password")?;
    let text = String::from_utf8(given.bytes).ok();
    if text.is_none() {
        let wrong = Wrong::new("the password is not UTF-8", "use another one");
        section.wrong("password", &given.origin, wrong);
    }
    text
}

fn ca_file(section: &mut Section<'_, '_>) -> Option<PathBuf> {
    let node = section.take("tls_ca_file")?;
    match parse::text(&node) {
        Ok(path) => Some(section.reader().resolve(&path, &node.origin)),
        Err(wrong) => {
            section.wrong("tls_ca_file", &node.origin, wrong);
            None
        }
    }
}

/// What a URL of Redis says.
struct RedisUrl {
    address: RedisAddress,
    tls: bool,
    username: Option<String>,
    password: Option<String>,
    database: Option<u8>,
}

impl Default for RedisUrl {
    fn default() -> Self {
        Self {
            address: RedisAddress::Tcp {
                host: "127.0.0.1".to_owned(),
                port: 6379,
            },
            tls: false,
            username: None,
            password: None,
            database: None,
        }
    }
}

/// Reads `redis://[[user]:password@]host[:port][/database]`, the same with `rediss://`, or
/// `unix:/path`. The messages repeat nothing of it: there may be a password in it.
fn redis_url(node: &Node) -> Result<RedisUrl, Wrong> {
    let text = parse::text(node)?;
    let forms = "redis://host:6379, rediss://host:6379 or unix:/path";
    let (scheme, rest) = text
        .split_once(':')
        .ok_or_else(|| Wrong::new("not a URL", forms))?;
    let authority = rest.strip_prefix("//");
    match (scheme, authority) {
        ("redis" | "rediss", Some(rest)) => {
            let mut url = tcp_url(rest)?;
            url.tls = scheme == "rediss";
            Ok(url)
        }
        ("redis+unix" | "unix", _) => {
            let path = authority.unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(Wrong::new(
                    "the socket's path is not absolute",
                    "unix:/path",
                ));
            }
            Ok(RedisUrl {
                address: RedisAddress::Unix(PathBuf::from(path)),
                ..RedisUrl::default()
            })
        }
        ("redis-cluster" | "rediss-cluster" | "redis-sentinel" | "rediss-sentinel", _) => Err(
            Wrong::new(format!("{scheme}:// is not in this version yet"), forms),
        ),
        _ => Err(Wrong::new("not a URL of Redis", forms)),
    }
}

fn tcp_url(rest: &str) -> Result<RedisUrl, Wrong> {
    let form = "redis://user:password@host:6379/0, reserved characters percent-encoded";
    let wrong = |what: &str| Wrong::new(what, form);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user_info, address) = match authority.rsplit_once('@') {
        Some((user_info, address)) => (Some(user_info), address),
        None => (None, authority),
    };
    let (host, port) =
        parse::host_and_port(address, 6379).ok_or_else(|| wrong("the URL names no host"))?;
    let database = match path {
        "" => None,
        digits => Some(digits.parse().or(Err(wrong(
            "after the host, only the number of a database can follow",
        )))?),
    };
    let decode = |text: &str| -> Result<Option<String>, Wrong> {
        let decoded = percent_decode_str(text)
            .decode_utf8()
            .or(Err(wrong("user and password are not UTF-8")))?;
        Ok((!decoded.is_empty()).then(|| decoded.into_owned()))
    };
    // Without a colon it is a user, as in every URL (RFC 3986 section 3.2.1).
    let (username, password) =
        match user_info.map(|text| text.split_once(':').unwrap_or((text, ""))) {
            Some((username, password)) => (decode(username)?, decode(password)?),
            None => (None, None),
        };
    Ok(RedisUrl {
        address: RedisAddress::Tcp { host, port },
        tls: false,
        username,
        password,
        database,
    })
}

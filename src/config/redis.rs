//! The keys of `[storage]` with `engine = "redis"`.

use std::net::Ipv6Addr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::parse::{self, Wrong};
use super::secret;
use super::section::Section;
use super::tree::Node;
use super::{Redis, RedisAddress, RedisTls, Secret};

/// Where Redis is when nothing else is said.
const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 6379;

/// Reads the keys of `[storage]` that only Redis has. With `format = "pycket"`, the database of
/// sessions is known already, and other keys can't say it.
pub(super) fn read(
    section: &mut Section<'_, '_>,
    sessions: Option<u8>,
    workers: NonZeroUsize,
) -> Redis {
    bound_connections(section, workers);
    let mut url = section.read("url", redis_url).unwrap_or_default();
    if let Some(address) = address(section) {
        url.address = address;
    }
    let username = section.read("username", parse::text);
    let password = password(section);
    let database = match sessions {
        Some(sessions) => Some(refuse_database(section, &mut url, sessions)),
        None => section.read("database", parse::integer(0, u8::MAX)),
    };
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
    refuse_in_cluster(section, &url, database, sessions.is_some());
    let password = password.or(url.password);
    let username = username.or(url.username);
    if username.is_some() && password.is_none() {
        let wrong = Wrong::new("a user without a password", "set `password` too");
        section.problem_between(&["username", "password", "url"], wrong);
    }
    let ca_file = ca_file(section);
    if ca_file.is_some() && !url.tls {
        let right = if matches!(url.address, RedisAddress::Cluster { .. }) {
            "url = \"rediss-cluster://...\""
        } else {
            "url = \"rediss://...\""
        };
        let wrong = Wrong::new("has no effect without TLS", right);
        section.problem_between(&["tls_ca_file", "url"], wrong);
    }
    Redis {
        address: url.address,
        username,
        password: password.map(Secret::new),
        database: database.or(url.database).unwrap_or(0),
        tls: url.tls.then_some(RedisTls { ca_file }),
        near_cache: None,
    }
}

/// The address by the keys that redis-py has for it; `None` without them.
/// Reads `max_connections`, which with the Python library is a bound for each database. Here it is
/// known from the start whether it holds.
fn bound_connections(section: &mut Section<'_, '_>, workers: NonZeroUsize) {
    let bound = section.read("max_connections", parse::integer(1, i64::MAX));
    let needed = i64::try_from(workers.get()).unwrap_or(i64::MAX);
    if let Some(bound) = bound.filter(|bound| *bound < needed) {
        let wrong = Wrong::new(
            format!("{bound} is too few: each of the {workers} workers has one connection"),
            format!("at least {workers}, or workers = {bound}"),
        );
        section.problem_between(&["max_connections"], wrong);
    }
}

fn address(section: &mut Section<'_, '_>) -> Option<RedisAddress> {
    let host = section.read("host", host);
    let port = section.read("port", parse::integer(1, u16::MAX));
    let path = section.read("unix_socket_path", socket_path);
    let has_url = section.is_given("url");
    let has_path = section.is_given("unix_socket_path");
    for key in ["host", "port", "unix_socket_path"] {
        let beside = if has_url {
            "`url`"
        } else if has_path && key != "unix_socket_path" {
            "`unix_socket_path`"
        } else {
            continue;
        };
        if section.is_given(key) {
            let wrong = format!("stands beside {beside}, which says too where the server is");
            section.problem_between(&[key], Wrong::new(wrong, "keep one of the two"));
        }
    }
    match (path, host, port) {
        (Some(path), _, _) => Some(RedisAddress::Unix(path)),
        (None, None, None) => None,
        (None, host, port) => Some(RedisAddress::Tcp {
            host: host.unwrap_or_else(|| DEFAULT_HOST.to_owned()),
            port: port.unwrap_or(DEFAULT_PORT),
        }),
    }
}

/// A name or an address, an IPv6 address with or without brackets.
fn host(node: &Node) -> Result<String, Wrong> {
    let text = parse::text(node)?;
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok(text);
    }
    let with_port = format!("{text}:{DEFAULT_PORT}");
    match parse::host_and_port(&with_port, DEFAULT_PORT) {
        // Not when there is a user or a port of its own in it.
        Some((host, _)) if text == host => Ok(host),
        Some((host, _)) if host.parse::<Ipv6Addr>().is_ok() => Ok(host),
        _ => Err(Wrong::new(
            "not the name or address of a host",
            "the host alone, like \"localhost\"; `port` is a key of its own",
        )),
    }
}

fn socket_path(node: &Node) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(parse::text(node)?);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Wrong::new(
            "the socket's path is not absolute",
            "\"/run/redis/redis.sock\"",
        ))
    }
}

/// Refuses what needs a database that a cluster has not: it has number 0 alone.
fn refuse_in_cluster(
    section: &mut Section<'_, '_>,
    url: &RedisUrl,
    database: Option<u8>,
    is_pycket: bool,
) {
    if !matches!(url.address, RedisAddress::Cluster { .. }) {
        return;
    }
    if is_pycket {
        let wrong = Wrong::new(
            "does not work with a Redis Cluster, which has no second database, and which the Python \
             library can't use",
            "format = \"native\", or the redis:// of the server that the application uses",
        );
        section.problem_between(&["format", "url"], wrong);
        return;
    }
    let wrong = |number: u8| {
        let wrong = format!("a Redis Cluster has no database {number}, only 0");
        Wrong::new(
            wrong,
            "remove the number; `key_prefix` keeps installations apart",
        )
    };
    if let Some(number) = database.filter(|number| *number != 0) {
        section.problem_between(&["database"], wrong(number));
    }
    if let Some(number) = url.database.filter(|number| *number != 0) {
        section.problem_between(&["url"], wrong(number));
    }
}

/// Refuses the ways to choose one database, where there are two.
fn refuse_database(section: &mut Section<'_, '_>, url: &mut RedisUrl, sessions: u8) -> u8 {
    let wrong = "has no effect with format = \"pycket\", which has a database for sessions and one for \
                 notifications";
    let right = "`db_sessions` and `db_notifications`";
    section.refuse("database", wrong, right);
    if url.database.take().is_some() {
        let wrong = Wrong::new(
            format!("the database in it {wrong}"),
            format!("remove it from the URL; {right}"),
        );
        section.problem_between(&["url"], wrong);
    }
    sessions
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
                host: DEFAULT_HOST.to_owned(),
                port: DEFAULT_PORT,
            },
            tls: false,
            username: None,
            password: None,
            database: None,
        }
    }
}

/// Reads `redis://[[user]:password@]host[:port][/database]`, the same with `rediss://`, with more
/// hosts after commas and `redis-cluster://` or `rediss-cluster://`, or `unix:/path`. The messages
/// repeat nothing of it: there may be a password in it.
fn redis_url(node: &Node) -> Result<RedisUrl, Wrong> {
    let text = parse::text(node)?;
    let forms = "redis://host:6379, redis-cluster://host:6379,host:6379, the same with rediss, or \
                 unix:/path";
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
        ("redis-cluster" | "rediss-cluster", Some(rest)) => {
            let mut url = cluster_url(rest)?;
            url.tls = scheme == "rediss-cluster";
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
        ("redis-sentinel" | "rediss-sentinel", _) => Err(Wrong::new(
            format!("{scheme}:// is not in this version yet"),
            forms,
        )),
        _ => Err(Wrong::new("not a URL of Redis", forms)),
    }
}

fn tcp_url(rest: &str) -> Result<RedisUrl, Wrong> {
    let form = "redis://user:password@host:6379/0, reserved characters percent-encoded";
    let (url, address) = before_and_after_host(rest, form)?;
    let (host, port) = named_host(address, form)?;
    Ok(RedisUrl {
        address: RedisAddress::Tcp { host, port },
        ..url
    })
}

/// Each of the hosts is asked for the nodes of the cluster, until one answers.
fn cluster_url(rest: &str) -> Result<RedisUrl, Wrong> {
    let form = "redis-cluster://user:password@host:6379,host:6379, reserved characters \
                percent-encoded";
    let (url, addresses) = before_and_after_host(rest, form)?;
    let seeds = addresses
        .split(',')
        .map(|address| named_host(address, form))
        .collect::<Result<_, _>>()?;
    Ok(RedisUrl {
        address: RedisAddress::Cluster { seeds },
        ..url
    })
}

fn named_host(address: &str, form: &str) -> Result<(String, u16), Wrong> {
    parse::host_and_port(address, DEFAULT_PORT)
        .ok_or_else(|| Wrong::new("the URL names no host", form))
}

/// Reads user, password and database; gives what stands between them, too.
fn before_and_after_host<'a>(rest: &'a str, form: &str) -> Result<(RedisUrl, &'a str), Wrong> {
    let wrong = |what: &str| Wrong::new(what, form);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user_info, address) = match authority.rsplit_once('@') {
        Some((user_info, address)) => (Some(user_info), address),
        None => (None, authority),
    };
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
    let url = RedisUrl {
        username,
        password,
        database,
        ..RedisUrl::default()
    };
    Ok((url, address))
}

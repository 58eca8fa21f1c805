//! What a configuration comes to, for people: `pycket check` and the start of `pycket run` show it.

use std::fmt::Write as _;
use std::time::Duration;

use super::units::{host_and_port, show_duration, show_size};
use super::{
    Balance, Config, Engine, Format, Listener, NotificationPlace, Redis, RedisAddress, Route,
    RoutePolicy, Storage, Upstream,
};
use crate::cookie::Secure;
use crate::exchange::{Bind, Consume, Create, OnStoreError};

/// Writes what would run, one line for each subject; it holds no secret.
pub fn summary(config: &Config) -> String {
    let mut text = String::new();
    let mut line = |subject: &str, what: &str| {
        // Writing to a String can't fail.
        let _infallible = writeln!(text, "{subject:<9} {what}");
    };
    let addresses: Vec<String> = config.listeners.iter().map(listener).collect();
    let workers = count(config.workers.get(), "worker");
    line(
        "listen",
        &format!("{} with {workers}", addresses.join(", ")),
    );
    line("storage", &place(&config.storage));
    if let Engine::Redis(redis) = &config.storage.engine
        && let Some(near) = redis.near_cache
    {
        let size = show_size(near.max_bytes);
        let age = show_duration(near.max_staleness);
        line("cache", &format!("up to {size}, at most {age} old"));
    }
    if let Some(old) = &config.storage.fallback {
        let stay = if old.moves {
            ""
        } else {
            ", where sessions stay"
        };
        line("fallback", &format!("{}{stay}", place(&old.storage)));
    }
    line("cookie", &cookie(config));
    if let Some(policy) = config
        .routes
        .iter()
        .find_map(|route| route.session.as_ref())
    {
        line("sessions", &sessions(policy));
    }
    let mut groups: Vec<&Upstream> = Vec::new();
    for item in &config.routes {
        let group = &item.upstream;
        if group.is_named() && !groups.contains(&group) {
            line("upstream", &upstream(group));
            groups.push(group);
        }
    }
    for item in &config.routes {
        line("route", &route(item, config));
    }
    text
}

fn listener(listener: &Listener) -> String {
    let mut text = listener.address.to_string();
    if listener.tls.is_some() {
        text.push_str(" by TLS");
    }
    if !listener.proxy_protocol.is_empty() {
        text.push_str(" (PROXY protocol)");
    }
    text
}

/// Says where sessions are and in which format; it holds no secret.
pub fn place(storage: &Storage) -> String {
    match &storage.engine {
        Engine::Memory { max_bytes } => format!(
            "memory, up to {}, gone when the proxy stops",
            show_size(*max_bytes)
        ),
        Engine::Redis(redis) => {
            format!("redis at {}, {}", redis_address(redis), records(storage))
        }
        Engine::Memcached { servers, .. } => {
            format!("memcached at {}, {}", servers.join(", "), records(storage))
        }
    }
}

fn records(storage: &Storage) -> String {
    let pycket = match &storage.format {
        Format::Native => return format!("keys {}*", storage.key_prefix),
        Format::Pycket(pycket) => pycket,
    };
    let place = match &pycket.notifications {
        NotificationPlace::Database { notifications, .. } => {
            format!("notifications in database {notifications}")
        }
        NotificationPlace::SameRecord { names } if names.is_empty() => {
            "no notifications".to_owned()
        }
        NotificationPlace::SameRecord { names } => {
            format!("notifications are {}", names.join(", "))
        }
    };
    let writable = if pycket.writable { "" } else { ", read-only" };
    format!("format pycket, {place}{writable}")
}

fn redis_address(redis: &Redis) -> String {
    let database = redis.database;
    let tls = if redis.tls.is_some() { " with TLS" } else { "" };
    match &redis.address {
        RedisAddress::Unix(path) => format!("{}, database {database}", path.display()),
        RedisAddress::Tcp { host, port } => {
            format!("{}{tls}, database {database}", host_and_port(host, *port))
        }
        RedisAddress::Cluster { seeds } => {
            let seeds: Vec<String> = seeds
                .iter()
                .map(|(host, port)| host_and_port(host, *port))
                .collect();
            format!("the cluster of {}{tls}", seeds.join(", "))
        }
    }
}

fn cookie(config: &Config) -> String {
    let cookie = &config.cookie;
    let secure = match cookie.secure {
        Secure::Auto => "secure by TLS",
        Secure::Always => "always secure",
        Secure::Never => "never secure",
    };
    let domain = match &cookie.domain {
        Some(domain) => format!(" of {domain}"),
        None => String::new(),
    };
    format!(
        "{}{domain} on {}, {secure}, for {}",
        cookie.name,
        cookie.path,
        count(
            usize::try_from(cookie.max_age_days).unwrap_or(usize::MAX),
            "day"
        )
    )
}

fn sessions(policy: &RoutePolicy) -> String {
    let lifetimes = policy.session.lifetimes;
    if lifetimes.max == Duration::MAX {
        return format!(
            "end {} after the last change",
            show_duration(lifetimes.idle)
        );
    }
    format!(
        "end after {} without use and {} in all",
        show_duration(lifetimes.idle),
        show_duration(lifetimes.max)
    )
}

fn route(route: &Route, config: &Config) -> String {
    let mut notes = String::new();
    let mut note = |is_so: bool, what: &str| {
        if is_so {
            notes.push_str(", ");
            notes.push_str(what);
        }
    };
    let size = usize::try_from(route.max_body_bytes).unwrap_or(usize::MAX);
    note(
        route.max_body_bytes != config.limits.max_body_bytes,
        &format!("bodies up to {}", show_size(size)),
    );
    note(
        route.upstream_response != config.timeouts.upstream_response,
        &format!("answers within {}", show_duration(route.upstream_response)),
    );
    let to = format!("{} -> {}", route.name, route.upstream.name);
    let Some(policy) = &route.session else {
        return format!("{to}{notes}, no sessions");
    };
    note(
        policy.session.create == Create::Always,
        "a session for everyone",
    );
    note(
        policy.session.on_store_error == OnStoreError::Anonymous,
        "without sessions when the store is down",
    );
    note(policy.session.strict, "never from the cache");
    note(!policy.contract.signals, "read-only");
    if let Some(names) = &policy.contract.expose {
        let names = count(names.len(), "name");
        note(true, &format!("shows {names} only"));
    }
    note(
        policy.notifications.consume == Consume::Ack,
        "notifications until taken",
    );
    note(
        policy.notifications.consume == Consume::Always,
        "notifications with any exchange",
    );
    note(
        policy.notifications.bind == Bind::Redirect,
        "notifications follow redirects",
    );
    format!("{to}{notes}")
}

fn upstream(group: &Upstream) -> String {
    let servers = group.servers.iter().map(|server| {
        let weight = match server.weight {
            1 => String::new(),
            weight => format!(" (weight {weight})"),
        };
        let drain = if server.drain { " (draining)" } else { "" };
        format!("{}{weight}{drain}", server.url)
    });
    let servers = servers.collect::<Vec<_>>().join(", ");
    let how = match group.balance {
        Balance::RoundRobin => "in turn",
        Balance::Least => "where least runs",
        Balance::Session => "by session",
    };
    format!("{}: {how} {servers}", group.name)
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

//! How many descriptors the process may have open.

use std::collections::HashSet;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Config;

/// What is open besides connections of clients and to upstreams: listeners, stores, files, and what the
/// runtime of a worker needs.
const BESIDES: u64 = 100;

/// Raises the limit as far as the process may, and warns when it is still too low for the configuration.
///
/// Where processes begin with a low limit (1024 is usual), it is so for programs that use select(2), which
/// can't handle more; this one does not.
pub(super) fn raise(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_denied) => limit.current,
    };
    let needed = needed(config);
    if let Some(limit) = now.filter(|limit| *limit < needed) {
        warn!(
            limit,
            needed,
            "the process may open fewer descriptors than `limits.max_connections` and `limits.max_upstream_connections` can take; raise the limit (`LimitNOFILE=` of systemd, `ulimit -Hn`), or lower them"
        );
    }
}

/// How many are open when all that the configuration allows is in use.
fn needed(config: &Config) -> u64 {
    // Equal ones share connections.
    let upstreams: HashSet<_> = config.routes.iter().map(|route| &route.upstream).collect();
    let servers: usize = upstreams
        .iter()
        .map(|upstream| upstream.servers.len())
        .sum();
    let to_servers = servers
        .saturating_mul(config.workers.get())
        .saturating_mul(config.limits.max_upstream_connections);
    let all = config.limits.max_connections.saturating_add(to_servers);
    u64::try_from(all)
        .unwrap_or(u64::MAX)
        .saturating_add(BESIDES)
}

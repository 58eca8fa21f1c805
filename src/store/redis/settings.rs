//! Every option of the driver, spelt out.
//!
//! The driver's defaults are not for a proxy: no bound on its queue, three attempts at each
//! command, writes included, and giving up when the server is down at the start.

use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::rustls_native_certs::load_native_certs;
use fred::socket2::TcpKeepalive;
use fred::types::RespVersion;
use fred::types::config::{
    Blocking, Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, ServerConfig,
    TcpConfig, TlsConfig, TlsConnector, TlsHostMapping, UnresponsiveConfig,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::super::StoreError;
use crate::config::{Redis, RedisAddress, RedisTls, Storage};

/// Commands that may wait for the connection's task; more are refused at once. A worker has
/// seldom more than a few requests at this point at the same time.
const MAX_QUEUED_COMMANDS: usize = 16 * 1024;

/// Changes that may be told in one turn of the worker's loop; when there are more, the near cache is
/// emptied.
const MAX_UNHEARD_CHANGES: usize = 1024;

/// After so long without traffic the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_mins(1);

pub(super) fn client(storage: &Storage, redis: &Redis) -> Result<Client, StoreError> {
    let config = Config {
        fail_fast: false,
        blocking: Blocking::Block,
        username: redis.username.clone(),
        password: redis
            .password
            .as_ref()
            .map(|password| password.expose().to_owned()),
        server: server(&redis.address)?,
        // RESP3 has what changes told over the connection that the answers come by.
        version: if redis.near_cache.is_some() {
            RespVersion::RESP3
        } else {
            RespVersion::RESP2
        },
        database: (redis.database != 0).then_some(redis.database),
        tls: redis.tls.as_ref().map(tls).transpose()?,
    };
    let performance = PerformanceConfig {
        // The deadline is the breaker's; one for each command would cost a tenth of the CPU.
        default_command_timeout: Duration::ZERO,
        max_feed_count: 200,
        broadcast_channel_capacity: if redis.near_cache.is_some() {
            MAX_UNHEARD_CHANGES
        } else {
            32
        },
    };
    Ok(Client::new(
        config,
        Some(performance),
        Some(connection(storage)),
        Some(reconnect()),
    ))
}

fn server(address: &RedisAddress) -> Result<ServerConfig, StoreError> {
    Ok(match address {
        RedisAddress::Tcp { host, port } => ServerConfig::Centralized {
            server: Server::new(host.as_str(), *port),
        },
        RedisAddress::Unix(path) => ServerConfig::Unix { path: path.clone() },
        RedisAddress::Cluster { .. } => {
            return Err(StoreError::refused(
                "a cluster is reached by its nodes, each by a client of its own",
            ));
        }
    })
}

fn connection(storage: &Storage) -> ConnectionConfig {
    ConnectionConfig {
        connection_timeout: storage.connect_timeout,
        internal_command_timeout: storage.connect_timeout,
        // The three options of clusters have no effect, since no client has more than one server:
        // `store::cluster` routes, and follows redirections, itself.
        cluster_cache_update_delay: Duration::ZERO,
        max_redirections: 0,
        disable_cluster_health_check: true,
        max_command_attempts: 1, // a write that may have happened is not sent again
        // The breaker gives up a connection that is silent; a timer for each command would do it
        // a second time.
        unresponsive: UnresponsiveConfig::default(),
        reconnect_on_auth_error: true,
        auto_client_setname: false,
        max_command_buffer_len: MAX_QUEUED_COMMANDS,
        tcp: TcpConfig {
            nodelay: Some(true),
            linger: None,
            ttl: None,
            keepalive: Some(TcpKeepalive::new().with_time(KEEPALIVE)),
        },
    }
}

/// For ever, from 50 ms doubling to 2 s. The jitter keeps the workers of many proxies apart.
fn reconnect() -> ReconnectPolicy {
    ReconnectPolicy::Exponential {
        attempts: 0,
        max_attempts: 0,
        min_delay: 50,
        max_delay: 2_000,
        base: 2,
        jitter: 50,
    }
}

/// Only the certificates of `ca_file` if there is one, else the system's.
fn tls(tls: &RedisTls) -> Result<TlsConfig, StoreError> {
    let mut roots = RootCertStore::empty();
    let (mut certificates, mut unreadable) = (Vec::new(), None);
    if let Some(path) = &tls.ca_file {
        match CertificateDer::pem_file_iter(path).and_then(Iterator::collect) {
            Ok(found) => certificates = found,
            Err(error) => unreadable = Some(error.to_string()),
        }
    } else {
        let found = load_native_certs();
        certificates = found.certs;
        unreadable = found.errors.first().map(ToString::to_string);
    }
    // Of the system's certificates, some are old enough to be refused; the rest will do.
    let (added, _ignored) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        let cause = unreadable.unwrap_or_else(|| "there are none".to_owned());
        return Err(StoreError::unavailable(format!(
            "no certificates to trust Redis by: {cause}"
        )));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::unavailable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConfig {
        connector: TlsConnector::from(config),
        hostnames: TlsHostMapping::None,
    })
}

//! Settings that applications of the Python library have under `storage`, and that are called
//! something else here or can't mean anything.
//!
//! The library hands its `storage` settings to redis-py or python-memcached as they are, so these
//! are the arguments of `redis.Redis` (2.7 to 8.1) and `memcache.Client` (1.48 to 1.62). People
//! move their settings one by one: a bare "unknown key" would not tell them what became of one.

use super::format::FormatName;
use super::section::Section;

/// Some settings, why they are refused, and what to write instead.
struct Foreign {
    keys: &'static [&'static str],
    wrong: &'static str,
    right: &'static str,
}

const FOREIGN: [Foreign; 20] = [
    Foreign {
        keys: &["socket_timeout"],
        wrong: "this is `timeout` here",
        right: "timeout = \"1s\", with a unit",
    },
    Foreign {
        keys: &["socket_connect_timeout"],
        wrong: "this is `connect_timeout` here",
        right: "connect_timeout = \"2s\", with a unit",
    },
    Foreign {
        keys: &["ssl"],
        wrong: "TLS is chosen by the URL here",
        right: "url = \"rediss://host:6379\", instead of `host` and `port`",
    },
    Foreign {
        keys: &["ssl_ca_certs"],
        wrong: "this is `tls_ca_file` here",
        right: "tls_ca_file = \"ca.pem\", with url = \"rediss://host:6379\"",
    },
    Foreign {
        keys: &["ssl_cert_reqs", "ssl_check_hostname"],
        wrong: "with TLS, the server's certificate and name are always checked",
        right: "remove it; `tls_ca_file` says whom to trust",
    },
    Foreign {
        keys: &["ssl_keyfile", "ssl_certfile"],
        wrong: "certificates of clients are not in this version",
        right: "`username` and `password`",
    },
    Foreign {
        keys: &[
            "charset",
            "encoding",
            "errors",
            "encoding_errors",
            "decode_responses",
        ],
        wrong: "has no effect: a record is bytes, not text",
        right: "remove it",
    },
    Foreign {
        keys: &["connection_pool", "credential_provider"],
        wrong: "an object of Python can't stand here",
        right: "`host`, `port`, `username` and `password`, or `url`",
    },
    Foreign {
        keys: &["retry_on_timeout", "retry_on_error", "retry"],
        wrong: "a write that may have happened is never sent again blindly",
        right: "remove it; `session.commit_timeout` says how long a write is tried",
    },
    Foreign {
        keys: &["socket_keepalive", "socket_keepalive_options"],
        wrong: "has no effect: connections are always kept alive",
        right: "remove it",
    },
    Foreign {
        keys: &["health_check_interval"],
        wrong: "has no effect: the connection is always watched",
        right: "remove it; `breaker_retry` says how often a server that is down is tried",
    },
    Foreign {
        keys: &["single_connection_client", "client_name", "protocol"],
        wrong: "has no effect: it is about redis-py's own connections",
        right: "remove it",
    },
    Foreign {
        keys: &["debug"],
        wrong: "messages are chosen by [log] here",
        right: "level = \"debug\" under [log]",
    },
    Foreign {
        keys: &["pickleProtocol"],
        wrong: "has no effect: python-memcached gets sessions as bytes and pickles nothing",
        right: "remove it; `pickle_protocol`, with format = \"pycket\", is for new records",
    },
    Foreign {
        keys: &[
            "pickler",
            "unpickler",
            "compressor",
            "decompressor",
            "pload",
            "pid",
        ],
        wrong: "a function of Python can't stand here",
        right: "remove it; the library's records are neither pickled twice nor compressed",
    },
    Foreign {
        keys: &["dead_retry"],
        wrong: "no other server stands in for one that is down",
        right: "remove it; `breaker_retry` says how often it is tried again",
    },
    Foreign {
        keys: &["cache_cas", "check_keys"],
        wrong: "has no effect: keys and versions are always checked",
        right: "remove it",
    },
    Foreign {
        keys: &["server_max_key_length"],
        wrong: "has no effect: keys are always short enough",
        right: "remove it",
    },
    Foreign {
        keys: &["server_max_value_length"],
        wrong: "this is `session.max_record` here",
        right: "max_record = \"64KiB\" under [session], up to 1MiB with memcached",
    },
    Foreign {
        keys: &["flush_on_reconnect"],
        wrong: "it would end all sessions of that server",
        right: "remove it",
    },
];

/// Refuses all of them that are there.
pub(super) fn refuse(section: &mut Section<'_, '_>, format: Option<FormatName>) {
    let instead_of_db = match format {
        Some(FormatName::Native) => "remove it; `database` chooses the database",
        Some(FormatName::Pycket) | None => {
            "remove it; `db_sessions` and `db_notifications` choose the databases"
        }
    };
    section.refuse_foreign(
        "db",
        "never had an effect: the Python library overwrites it",
        instead_of_db,
    );
    for foreign in &FOREIGN {
        for key in foreign.keys {
            section.refuse_foreign(key, foreign.wrong, foreign.right);
        }
    }
}

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{NearCache, summary};
use super::*;
use crate::config::{
    Format, Http2, NotificationPlace, PycketFormat, PythonMemcached, RedisAddress, Routing,
    Storage, Upstream,
};
use crate::cookie::Expires;

const REFERENCE: &str = include_str!("../../../pycket.toml");
const SECRET: (&str, &str) = ("PYCKET_SECRET", "0123456789abcdef0123456789abcdef");

fn with_findings(
    file: Option<&str>,
    environment: &[(&str, &str)],
    flags: Flags,
) -> Result<(Config, Findings), Problems> {
    load_with_findings(Sources {
        file: file.map(|text| ("conf/pycket.toml".to_owned(), text.to_owned())),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags,
        processors: NonZeroUsize::new(4).unwrap(),
        read_file: &|path: &Path| match path.to_str() {
            Some("conf/ca.pem" | "conf/cert.pem") => Ok(CERT.to_vec()),
            Some("conf/key.pem") => Ok(KEY.to_vec()),
            Some("conf/other.pem") => Ok(OTHER_KEY.to_vec()),
            Some("conf/key") => Ok(b"0123456789abcdef0123456789abcdeg\r\n".to_vec()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        },
    })
}

/// Loads a file, with the secret in its usual variable.
fn file(text: &str) -> Result<Config, Problems> {
    with_findings(Some(text), &[SECRET], Flags::default()).map(|(config, _)| config)
}

/// Loads variables, the secret among them.
fn variables(environment: &[(&str, &str)]) -> Result<Config, Problems> {
    let environment = [&[SECRET], environment].concat();
    with_findings(None, &environment, Flags::default()).map(|(config, _)| config)
}

/// What is wrong with a file: one line for each mistake, without its place.
fn mistakes(text: &str) -> String {
    let problems = file(text).expect_err("a mistake");
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| {
            let right = problem.right.as_deref().unwrap_or("-");
            let key = problem.key.as_deref().unwrap_or("-");
            format!("{key}: {}; {right}", problem.wrong)
        })
        .collect();
    lines.join("\n")
}

const CERT: &[u8] = include_bytes!("../../../tests/vectors/tls/cert.pem");
const KEY: &[u8] = include_bytes!("../../../tests/vectors/tls/key.pem");
const OTHER_KEY: &[u8] = include_bytes!("../../../tests/vectors/tls/other-key.pem");

/// A listener with all of its keys.
const LISTENER: &str = "[[listener]]\naddress = 'unix:/run/pycket/http.sock'\nmode = '0660'\n\
     http2 = true\nproxy_protocol = ['10.0.0.0/8', 'unix']\n\
     [listener.tls]\nmin_version = '1.2'\nclient_ca = 'cert.pem'\nclient_certificate = 'required'\n\
     client_cert_header = true\n\
     [[listener.tls.certificates]]\ncert = 'cert.pem'\nkey = 'key.pem'\n";

#[test]
fn the_reference_is_the_defaults() {
    let reference = file(REFERENCE).unwrap();
    let defaults = variables(&[]).unwrap();
    assert_eq!(format!("{reference:#?}"), format!("{defaults:#?}"));
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let with_route = format!(
        "{REFERENCE}\n[[route]]\npath = \"/x\"\nupstream = 'app'\n{LISTENER}\n\
         [upstreams.app]\nservers = ['https://a']\n"
    );
    let (_, findings) = with_findings(Some(&with_route), &[SECRET], Flags::default()).unwrap();
    let mut table = String::new();
    let mut keys = BTreeSet::new();
    let mut tables = BTreeSet::new();
    for line in REFERENCE.lines() {
        let line = line.trim_start_matches("# ");
        if let Some(header) = line.strip_prefix('[') {
            table = header
                .split(']')
                .next()
                .unwrap()
                .trim_matches('[')
                .to_owned();
            tables.extend(table.split('.').next().map(str::to_owned));
            tables.insert(table.clone());
        } else if let Some((name, _)) = line.split_once(" = ")
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            let dot = if table.is_empty() { "" } else { "." };
            keys.insert(format!("{table}{dot}{name}"));
        }
    }
    assert!(keys.len() > 90, "{}", keys.len());
    let missing: Vec<_> = findings
        .known
        .iter()
        .filter(|key| !keys.contains(*key) && !tables.contains(*key))
        .collect();
    // The old place has the keys of the new one, which are only asked for when it is there.
    let unknown: Vec<_> = keys
        .difference(&findings.known)
        .filter(|key| {
            let of_storage = key.replace("storage.fallback.", "storage.");
            *key != "storage.fallback.move" && !findings.known.contains(&of_storage)
        })
        .collect();
    assert!(missing.is_empty(), "not in pycket.toml: {missing:?}");
    assert!(unknown.is_empty(), "only in pycket.toml: {unknown:?}");
}

#[test]
fn the_lines_of_the_reference_that_are_commented_out_are_keys_with_good_values() {
    let examples = [
        "upstream = 'app'\n[upstreams.app]\nservers = ['http://10.0.0.1:9000', \
         { url = 'http://10.0.0.2:9000', weight = 2, drain = false }]",
        "upstream = 'app'\n[upstreams.app]\nservers = ['https://a']\n[upstreams.app.tls]\n\
         server_name = 'app.example.com'\nverify = true\n[upstreams.app.health]\npath = '/'\n\
         host = 'app.example.com'\nstatus = '200-399'\ninterval = '5s'\ntimeout = '1s'\n\
         healthy = 2\nunhealthy = 3",
        "engine = 'redis'\n[storage]\nurl = 'redis://127.0.0.1:6379'\nusername = 'pycket'\n\
         password = { env = 'REDIS_PASSWORD' }\ndatabase = 0",
        "engine = 'memcached'\n[storage]\nservers = ['127.0.0.1:11211']\nmax_connections = 8\n\
         timeout = '1s'\nconnect_timeout = '2s'\nbreaker_failures = 5\nbreaker_retry = '1s'",
        "engine = 'redis'\n[storage]\nhost = '127.0.0.1'\nport = 6379",
        "engine = 'redis'\n[storage]\nunix_socket_path = '/run/redis/redis.sock'",
        "engine = 'redis'\n[storage]\nformat = 'pycket'\ndb_sessions = 0\ndb_notifications = 1\n\
         pickle_protocol = 2\nwritable = true",
        "engine = 'memcached'\n[storage]\nformat = 'pycket'\npython_memcached = '1.62'\n\
         servers = ['10.0.0.5:11211', ['10.0.0.6:11211', 2]]\nnotification_names = ['flash']",
        "engine = 'redis'\n[cache]\nenabled = true\nmax_memory = '64MiB'\nmax_staleness = '10s'",
        "engine = 'redis'\n[storage.fallback]\nmove = true\nengine = 'redis'\nformat = 'pycket'\nhost = '127.0.0.1'",
        "[cookies]\ndomain = 'example.com'\nexpires = 2030-01-01T00:00:00Z\nmax_age = '30d'",
        LISTENER,
        "[headers]\nexpose = ['user', 'theme']\n[headers.inject]\n'X-Remote-User' = 'user'\n\
         'X-Display-Name' = { value = 'name', encode = 'utf-8' }",
        "[response_headers]\n'X-Content-Type-Options' = 'nosniff'\n\
         'Strict-Transport-Security' = 'max-age=31536000'\n[[route]]\npath = '/x'\n\
         response_headers = { 'X-Frame-Options' = 'DENY', 'X-Content-Type-Options' = false }",
    ];
    let environment = [SECRET, ("REDIS_PASSWORD", "x")];
    for example in examples {
        let loaded = with_findings(Some(example), &environment, Flags::default());
        assert!(loaded.is_ok(), "{example}\n{}", loaded.err().unwrap());
    }
}

#[test]
fn the_defaults_of_redis_and_memcached_are_those_that_the_reference_comments() {
    let storage = |engine| variables(&[("PYCKET_ENGINE", engine)]).unwrap().storage;
    let spelt_out = |text: &str| file(text).unwrap().storage;
    let common =
        "timeout = '1s'\nconnect_timeout = '2s'\nbreaker_failures = 5\nbreaker_retry = '1s'";
    let redis = format!(
        "engine = 'redis'\n[storage]\nurl = 'redis://127.0.0.1:6379'\ndatabase = 0\n{common}"
    );
    let memcached = format!(
        "engine = 'memcached'\n[storage]\nservers = ['127.0.0.1:11211']\nmax_connections = 8\n{common}"
    );
    let text = |storage: Storage| format!("{storage:?}");
    assert_eq!(text(storage("redis")), text(spelt_out(&redis)));
    assert_eq!(text(storage("memcached")), text(spelt_out(&memcached)));
    let by_host = "engine = 'redis'\n[storage]\nhost = '127.0.0.1'\nport = 6379";
    assert_eq!(text(storage("redis")), text(spelt_out(by_host)));
    let pycket = [
        (
            "redis",
            "",
            "db_sessions = 0\ndb_notifications = 1\npickle_protocol = 2\nwritable = true",
        ),
        (
            "memcached",
            "notification_names = ['flash']",
            "python_memcached = '1.62'\npickle_protocol = 2\nwritable = true",
        ),
    ];
    for (engine, needed, defaults) in pycket {
        let start = format!("engine = '{engine}'\n[storage]\nformat = 'pycket'\n{needed}\n");
        let spelt_out = spelt_out(&format!("{start}{defaults}"));
        assert_eq!(text(file(&start).unwrap().storage), text(spelt_out));
    }
}

#[test]
fn the_near_cache_is_of_redis_and_off_by_default() {
    let near = |text: &str| match file(text).unwrap().storage.engine {
        Engine::Redis(redis) => redis.near_cache,
        Engine::Memory { .. } | Engine::Memcached { .. } => None,
    };
    assert_eq!(
        near("engine = 'redis'\n[cache]\nmax_staleness = '1s'"),
        None
    );
    let defaults = NearCache {
        max_bytes: 64 << 20,
        max_staleness: Duration::from_secs(10),
    };
    let on = "engine = 'redis'\n[cache]\nenabled = true";
    assert_eq!(near(on), Some(defaults));
    let old = file(&format!(
        "{on}\n[storage.fallback]\nengine = 'redis'\nport = 1"
    ));
    let Engine::Redis(old) = old.unwrap().storage.fallback.unwrap().storage.engine else {
        panic!("it is Redis");
    };
    assert_eq!(old.near_cache, None);
    insta::assert_snapshot!(mistakes("engine = 'memcached'\n[cache]\nenabled = true"), @r#"cache.enabled: has no effect with engine = "memcached"; remove it, or set engine = "redis""#);
    insta::assert_snapshot!(mistakes("[cache]\nmax_memory = '64MiB'"), @r#"cache.max_memory: has no effect with engine = "memory"; remove it, or set engine = "redis""#);
    insta::assert_snapshot!(mistakes(&format!("{on}\nmax_staleness = '1ms'\nmax_memory = '1KiB'")), @r"
    cache.max_staleness: 1ms is out of range; from 100ms to 1h
    cache.max_memory: 1KiB is out of range; from 1MiB to 1024GiB
    ");
    insta::assert_snapshot!(mistakes("engine = 'redis'\n[cache]\nstaleness = '1s'"), @"cache.staleness: unknown key; did you mean `max_staleness`?");
    let config = file(&format!("{on}\n[[route]]\npath = '/pay'\nstrict = true")).unwrap();
    insta::assert_snapshot!(summary(&config), @r"
    listen    127.0.0.1:8080 with 4 workers
    storage   redis at 127.0.0.1:6379, database 0, keys pycket:*
    cache     up to 64MiB, at most 10s old
    cookie    PYCKET_ID on /, secure by TLS, for 31 days
    sessions  end after 1d without use and 30d in all
    route     /pay -> http://127.0.0.1:9000, never from the cache
    route     / -> http://127.0.0.1:9000
    ");
}

#[test]
fn the_example_of_the_design_loads() {
    let config = file(
        r#"
listen   = "127.0.0.1:8080"
upstream = "http://127.0.0.1:9000"
engine   = "redis"                    # memory (default), file, redis, memcached

[storage]                             # the engine's own settings
url = "redis://127.0.0.1:6379"        # rediss://, redis-cluster://, redis-sentinel://, unix sockets
format = "native"                     # or "pycket": share live sessions with the Python library

[cookies]
secret = { env = "PYCKET_SECRET" }
expires_days = 120

[session]
idle_timeout = "1d"
max_lifetime = "30d"

[headers.inject]                      # session value -> request header, for applications that
"X-Remote-User" = "user"              # already trust one
[headers.capture]                     # response header -> session value
"X-Auth-User" = "user"

[[route]]
path = "/static/"
session = false
"#,
    )
    .unwrap();
    assert_eq!(config.cookie.expiry.expires, Some(Expires::Days(120)));
    insta::assert_snapshot!(summary(&config), @r#"
    listen    127.0.0.1:8080 with 4 workers
    storage   redis at 127.0.0.1:6379, database 0, keys pycket:*
    cookie    PYCKET_ID on /, secure by TLS, for 31 days
    sessions  end after 1d without use and 30d in all
    route     /static/ -> http://127.0.0.1:9000, no sessions
    route     / -> http://127.0.0.1:9000
    "#);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a whole file and its whole report")]
fn all_mistakes_are_reported_at_once() {
    let problems = file(
        r#"listen = ":8080"
upstream = "https://app:9000/base"
engin = "redis"
workers = 0

[storage]
max_memory = "64MB"
url = "redis://me:hunter2@db"
password = "hunter2"

[cookies]
name = "__Host-sid"
domain = "example.com"
samesite = "lax"
expires = 2030-01-01T00:00:00

[session]
idle_timeout = 30
max_lifetime = "60d"
max_names = "many"
trust = ["10.0.0.0/8"]

[notifications]
consume = "pgae"
claim_timeout = "30s"

[headers]
encode = true
[headers.inject]
"Host" = "host"
"X-User" = { valu = "user" }

[[route]]
path = "static"
[[route]]
path = "/a"
session = false
consume = "ack"
[[route]]
path = "/a"
"#,
    )
    .unwrap_err();
    let text = problems.to_string();
    assert!(!text.contains("hunter2"));
    insta::assert_snapshot!(text, @r#"
    error: listen: `:8080` is no address to listen on
      --> conf/pycket.toml:1:10
      |
    1 | listen = ":8080"
      |          ^^^^^^^
      = help: "0.0.0.0:8080" for all of IPv4, "[::]:8080" for all

    error: upstream: the upstream has no path: requests keep theirs
      --> conf/pycket.toml:2:12
      |
    2 | upstream = "https://app:9000/base"
      |            ^^^^^^^^^^^^^^^^^^^^^^^
      = help: http://host:port, like "http://127.0.0.1:9000"; https://, h2c:// or unix:/path

    error: engin: unknown key
      --> conf/pycket.toml:3:1
      |
    3 | engin = …
      | ^^^^^
      = help: did you mean `engine`?

    error: workers: 0 is out of range
      --> conf/pycket.toml:4:11
      |
    4 | workers = 0
      |           ^
      = help: a whole number from 1 to 1024

    error: storage.max_memory: unknown unit `MB`
      --> conf/pycket.toml:7:14
      |
    7 | max_memory = "64MB"
      |              ^^^^^^
      = help: write it like "4096B" or "64KiB"; units are B, KiB, MiB and GiB

    error: storage.url: has no effect with engine = "memory"
      --> conf/pycket.toml:8:7
      |
    8 | url = …
      |       ^
      = help: remove it, or set engine = "redis"

    error: storage.password: has no effect with engine = "memory"
      --> conf/pycket.toml:9:12
      |
    9 | password = …
      |            ^
      = help: remove it, or set engine = "redis"

    error: cookies.domain: browsers take a name with `__Host-` only without a domain: expected none
       --> conf/pycket.toml:13:10
       |
    13 | domain = "example.com"
       |          ^^^^^^^^^^^^^

    error: cookies.samesite: unknown value `lax`
       --> conf/pycket.toml:14:12
       |
    14 | samesite = "lax"
       |            ^^^^^
       = help: did you mean "Lax"?

    error: cookies.expires: not a moment
       --> conf/pycket.toml:15:11
       |
    15 | expires = 2030-01-01T00:00:00
       |           ^^^^^^^^^^^^^^^^^^^
       = help: a date with its offset, 2030-01-01T00:00:00Z, or seconds since 1970

    error: session.idle_timeout: the unit is missing
       --> conf/pycket.toml:18:16
       |
    18 | idle_timeout = 30
       |                ^^
       = help: write "30s" or "30m"; units are ms, s, m, h, d and w

    error: session.max_lifetime: a session could live for 60d, but its cookie counts as expired after 31 days
       --> conf/pycket.toml:19:16
       |
    19 | max_lifetime = "60d"
       |                ^^^^^
       = help: lower `session.max_lifetime`, or raise `cookies.max_age_days`

    error: session.max_names: expected a number, found text
       --> conf/pycket.toml:20:13
       |
    20 | max_names = "many"
       |             ^^^^^^
       = help: a whole number from 1 to 65536

    error: session.trust: unknown key
       --> conf/pycket.toml:21:1
       |
    21 | trust = …
       | ^^^^^
       = help: `trust` belongs under [forwarding]

    error: notifications.consume: unknown value `pgae`
       --> conf/pycket.toml:24:11
       |
    24 | consume = "pgae"
       |           ^^^^^^
       = help: did you mean "page"?

    error: notifications.claim_timeout: claims end after 30s, but an answer may take 1m: two pages could show the same
       --> conf/pycket.toml:25:17
       |
    25 | claim_timeout = "30s"
       |                 ^^^^^
       = help: raise `notifications.claim_timeout` over `timeouts.upstream_response`

    error: headers.encode: expected text, found true or false
       --> conf/pycket.toml:28:10
       |
    28 | encode = true
       |          ^^^^
       = help: put it in double quotes

    error: headers.inject.Host: Host can't be used: it belongs to HTTP or to the proxy itself
       --> conf/pycket.toml:30:1
       |
    30 | "Host" = "host"
       | ^^^^^^

    error: headers.inject.X-User: `value` is missing
       --> conf/pycket.toml:31:12
       |
    31 | "X-User" = { valu = "user" }
       |            ^^^^^^^^^^^^^^^^^
       = help: { value = "user" }

    error: headers.inject.X-User.valu: unknown key
       --> conf/pycket.toml:31:14
       |
    31 | "X-User" = …
       |            ^
       = help: did you mean `value`?

    error: route.path: the path does not begin with `/`
       --> conf/pycket.toml:34:8
       |
    34 | path = "static"
       |        ^^^^^^^^
       = help: a prefix like "/static/"

    error: route.consume: has no effect: this route has no sessions
       --> conf/pycket.toml:38:11
       |
    38 | consume = "ack"
       |           ^^^^^
       = help: remove it

    error: route.path: a route with this host and path stands above
       --> conf/pycket.toml:39:1
       |
    39 | [[route]]
       | ^^^^^^^^^
       = help: join them

    error: cookies.secure: browsers take a name with `__Host-` only when the cookie is always Secure: expected `true`

    24 mistakes in the configuration
    "#);
}

#[test]
fn a_file_that_is_not_toml_is_reported_without_its_secrets() {
    let problems =
        file("listen = 127.0.0.1:8080\n[cookies]\nsecret = hunter2\n[session\n").unwrap_err();
    let text = problems.to_string();
    assert!(!text.contains("hunter2"));
    insta::assert_snapshot!(text, @r#"
    error: not TOML: invalid float, expected nothing
      --> conf/pycket.toml:1:15
      |
    1 | listen = 127.0.0.1:8080
      |               ^^^^^^^^^

    error: not TOML: string values must be quoted, expected literal string
      --> conf/pycket.toml:3:10
      |
    3 | secret = …
      |          ^

    error: not TOML: unclosed table, expected `]`
      --> conf/pycket.toml:4:9
      |
    4 | [session
      |         ^

    3 mistakes in the configuration
    "#);
}

#[test]
fn without_a_secret_it_is_said_how_to_make_one() {
    let problems = with_findings(None, &[], Flags::default()).unwrap_err();
    insta::assert_snapshot!(problems, @r#"
    error: cookies.secret: there is no secret to sign cookies with
     = help: export PYCKET_SECRET=$(pycket keygen)
             or, under [cookies]: secret = { file = "/etc/pycket/secret" }
             every copy of the proxy needs the same one

    1 mistake in the configuration
    "#);
    let empty = with_findings(None, &[("PYCKET_SECRET", "")], Flags::default()).unwrap_err();
    assert_eq!(empty.iter().next().unwrap().wrong, "the secret is empty");
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let text = "listen = '1.1.1.1:1'\nupstream = 'http://a'\n[session]\nidle_timeout = '1h'";
    let environment = [
        SECRET,
        ("PYCKET_LISTEN", "2.2.2.2:2, [::1]:2"),
        ("PYCKET_UPSTREAM", "http://b"),
        ("PYCKET_SESSION_IDLE_TIMEOUT", "2h"),
    ];
    let flags = Flags {
        upstream: Some("http://c".to_owned()),
        ..Flags::default()
    };
    let (config, _) = with_findings(Some(text), &environment, flags).unwrap();
    let listen: Vec<String> = config
        .listeners
        .iter()
        .map(|listener| listener.address.to_string())
        .collect();
    assert_eq!(listen, ["2.2.2.2:2", "[::1]:2"]);
    assert_eq!(config.routes[0].upstream.name, "http://c:80");
    let policy = config.routes[0].session.as_ref().unwrap();
    assert_eq!(policy.session.lifetimes.idle, Duration::from_hours(2));
}

#[test]
fn tables_in_variables_are_inline_toml() {
    let config = variables(&[
        ("PYCKET_HEADERS_INJECT", "{ X-Remote-User = 'user' }"),
        ("PYCKET_ROUTE", "[{ path = '/static/', session = false }]"),
        ("PYCKET_HEADERS_NAMES_SESSION", "X-State"),
        ("PYCKET_FORWARDING_VIA", "false"),
    ])
    .unwrap();
    assert_eq!(config.routes[0].rule.path, "/static/");
    let policy = config.routes[1].session.as_ref().unwrap();
    assert_eq!(policy.contract.inject[0].header, "x-remote-user");
    assert_eq!(config.names.get(crate::contract::Field::Session), "x-state");
    assert_eq!(config.forwarding.via, None);
}

#[test]
fn mistakes_in_variables_and_flags_name_them() {
    let environment = [
        SECRET,
        ("PYCKET_WORKERS", "many"),
        ("PYCKET_HEADERS_INJECT", "X-User=user"),
        ("PYCKET_STORAGE_URI", "redis://x"),
        // Kubernetes sets these for a service of our name.
        ("PYCKET_SERVICE_HOST", "10.0.0.1"),
        ("PYCKET_PORT", "tcp://10.0.0.1:8080"),
        ("PATH", "/bin"),
    ];
    let flags = Flags {
        engine: Some("mysql".to_owned()),
        ..Flags::default()
    };
    let problems = with_findings(None, &environment, flags).unwrap_err();
    insta::assert_snapshot!(problems, @r#"
    error: workers: expected a number, found text
     --> environment variable PYCKET_WORKERS
     = help: a whole number from 1 to 1024

    error: headers.inject: not a TOML value: unexpected content, expected nothing
     --> environment variable PYCKET_HEADERS_INJECT
     = help: write it as in the file, on one line

    error: this variable means no key
     --> environment variable PYCKET_STORAGE_URI
     = help: did you mean PYCKET_STORAGE_URL?

    error: engine: unknown value `mysql`
     --> flag --engine
     = help: "memory", "redis" or "memcached"

    4 mistakes in the configuration
    "#);
}

#[test]
fn variables_that_hold_secrets_are_no_unknown_keys() {
    let text = "[cookies.secrets]\n1 = { env = 'PYCKET_OLD' }\n2 = { env = 'NEW' }";
    let environment = [("PYCKET_OLD", SECRET.1), ("NEW", SECRET.1)];
    let (config, findings) = with_findings(Some(text), &environment, Flags::default()).unwrap();
    assert!(findings.warnings.is_empty());
    let value = config
        .cookie
        .keyring
        .sign("n", b"v", crate::clock::Timestamp::from_secs(0));
    assert!(value.starts_with("2|1:2|"), "the newest signs: {value}");
}

#[test]
fn secrets_are_asked_for_where_they_are() {
    let sign = |text: &str| {
        let loaded = with_findings(Some(text), &[("X", "x")], Flags::default());
        let keyring = loaded.unwrap().0.cookie.keyring;
        keyring.sign("n", b"v", crate::clock::Timestamp::from_secs(0))
    };
    let inline = sign("[cookies]\nsecret = '0123456789abcdef0123456789abcdeg'");
    assert_eq!(sign("[cookies]\nsecret = { file = 'key' }"), inline);
    assert_ne!(sign("[cookies]\nsecret = { env = 'X' }"), inline);
    insta::assert_snapshot!(mistakes("[cookies]\nsecret = { file = 'lock' }"), @"cookies.secret: can't read conf/lock: entity not found; relative paths count from the configuration file's directory");
    insta::assert_snapshot!(mistakes("[cookies]\nsecret = { env = 'Y' }"), @"cookies.secret: environment variable Y is not set; export Y=$(pycket keygen)");
    insta::assert_snapshot!(mistakes("[cookies]\nsecret = { environment = 'Y' }"), @r#"
    cookies.secret: it does not say where the secret is; "text", { env = "NAME" } or { file = "path" }
    cookies.secret.environment: unknown key; -
    "#);
    insta::assert_snapshot!(mistakes("[cookies]\nsecret = ''"), @"cookies.secret: the secret is empty; make one with `pycket keygen`");
    insta::assert_snapshot!(mistakes("[cookies]\nsecret = 7"), @r#"cookies.secret: expected a secret, found a number; "text", { env = "NAME" } or { file = "path" }"#);
    insta::assert_snapshot!(mistakes("[cookies.secrets]\na = 'x'\n01 = 'y'"), @r#"
    cookies.secrets.a: not a key version; a whole number, like 1
    cookies.secrets.01: not a key version; a whole number, like 1
    "#);
    insta::assert_snapshot!(mistakes("[cookies]\nsecret = 'x'\nsecrets = { 1 = 'y' }"), @"cookies.secret: stands beside [cookies.secrets]; move it there, under a key version that the others do not use");
    insta::assert_snapshot!(
        mistakes("[cookies]\nsigning_key_version = 3\nsecrets = { 1 = 'y' }"), @"cookies.signing_key_version: there is no secret with key version 3 to sign with; one of the keys of [cookies.secrets]");
}

#[test]
fn the_signing_version_fits_the_secrets_and_the_minimum() {
    use crate::cookie::SigningVersion;

    let version = |text: &str| file(&format!("[cookies]\n{text}")).unwrap().cookie.version;
    assert_eq!(version("version = 1"), SigningVersion::V1);
    assert_eq!(version("version = 2\nmin_version = 2"), SigningVersion::V2);
    assert_eq!(
        version("version = 'same'\nsecrets = { 1 = 'x' }"),
        SigningVersion::Same
    );
    let variable = |text| {
        variables(&[("PYCKET_COOKIES_VERSION", text)])
            .unwrap()
            .cookie
            .version
    };
    assert_eq!(variable("1"), SigningVersion::V1);
    assert_eq!(variable("same"), SigningVersion::Same);

    for wrong in ["3", "0", "true", "'Same'", "'1'"] {
        let mistakes = mistakes(&format!("[cookies]\nversion = {wrong}"));
        assert_eq!(
            mistakes,
            r#"cookies.version: unknown value; 2, 1 or "same""#
        );
    }
    let report = |text: &str| file(text).unwrap_err().to_string();
    insta::assert_snapshot!(report("[cookies]\nversion = 1\nsecrets = { 1 = 'x' }"), @r"
    error: cookies.version: version 1 of the signed value can't say which of [cookies.secrets] signed it: expected 2, or one secret in `cookies.secret`
      --> conf/pycket.toml:2:11
      |
    2 | version = 1
      |           ^

    1 mistake in the configuration
    ");
    insta::assert_snapshot!(report("[cookies]\nmin_version = 2\nversion = 1"), @r"
    error: cookies.version: the proxy would refuse its own cookies, as `cookies.min_version` is 2: expected 2 here, or 1 there
      --> conf/pycket.toml:3:11
      |
    3 | version = 1
      |           ^

    1 mistake in the configuration
    ");
}

#[test]
fn short_and_idle_secrets_get_a_warning() {
    let text = "[cookies]\nsecret = 'Python rocks!'";
    let (_, findings) = with_findings(Some(text), &[SECRET], Flags::default()).unwrap();
    let warnings: Vec<String> = findings.warnings.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(warnings.join("\n"), @r#"
    environment variable PYCKET_SECRET: cookies.secret: this variable has no effect: the secret is configured elsewhere (unset it, or set secret = { env = "PYCKET_SECRET" })
    conf/pycket.toml:2:10: cookies.secret: the secret is short: 13 bytes, whoever guesses it can forge cookies (at least 32 random bytes: `pycket keygen` makes them)
    "#);
}

#[test]
fn keys_without_effect_are_refused() {
    insta::assert_snapshot!(mistakes("[storage]\ntimeout = '1s'\ndb_sessions = 0"), @r#"
    storage.timeout: has no effect with engine = "memory"; remove it, or set engine = "redis" or "memcached"
    storage.db_sessions: has no effect with format = "native"; remove it; `database` chooses the database
    "#);
    insta::assert_snapshot!(mistakes("engine = 'redis'\n[storage]\nmax_memory = '1GiB'"), @r#"storage.max_memory: has no effect with engine = "redis"; remove it, or set engine = "memory""#);
    insta::assert_snapshot!(mistakes("engine = 'redis'\n[storage]\ntls_ca_file = 'ca'"), @r#"storage.tls_ca_file: has no effect without TLS; url = "rediss://...""#);
    insta::assert_snapshot!(mistakes("engine = 'memcached'\n[storage]\nurl = 'x'"), @r#"storage.url: has no effect with engine = "memcached"; remove it, or set engine = "redis""#);
    insta::assert_snapshot!(mistakes("engine = 'file'\n[storage]\nurl = 'x'"), @r#"engine: engine "file" is not in this version yet; "memory", "redis" or "memcached""#);
    insta::assert_snapshot!(mistakes("[cookies]\nsigning_key_version = 1"), @"cookies.signing_key_version: has no effect without [cookies.secrets]; remove it, or give the secrets by key version");
}

fn redis(url: &str) -> Result<crate::config::Redis, Problems> {
    let text = format!("engine = 'redis'\n[storage]\nurl = '{url}'");
    file(&text).map(|config| {
        let Engine::Redis(redis) = config.storage.engine else {
            panic!("{:?}", config.storage);
        };
        redis
    })
}

#[test]
fn urls_of_redis_are_taken_apart() {
    let tcp = |host: &str, port| RedisAddress::Tcp {
        host: host.to_owned(),
        port,
    };
    let full = redis("rediss://me:p%40ss@db.internal:7000/3").unwrap();
    assert_eq!(full.address, tcp("db.internal", 7000));
    assert_eq!(full.username.as_deref(), Some("me"));
    assert_eq!(full.password.unwrap().expose(), "p@ss");
    assert_eq!(full.database, 3);
    assert!(full.tls.is_some());
    let only_password = redis("redis://:p@db").unwrap();
    assert_eq!(only_password.username, None);
    assert_eq!(only_password.password.unwrap().expose(), "p");
    assert_eq!(redis("redis://[::1]:1").unwrap().address, tcp("::1", 1));
    assert_eq!(redis("redis://[::1]").unwrap().address, tcp("::1", 6379));
    let socket = RedisAddress::Unix("/run/redis.sock".into());
    for url in ["unix:/run/redis.sock", "redis+unix:///run/redis.sock"] {
        assert_eq!(redis(url).unwrap().address, socket, "{url}");
    }
}

#[test]
fn urls_of_clusters_name_all_seeds() {
    let cluster = |seeds: &[(&str, u16)]| RedisAddress::Cluster {
        seeds: seeds.iter().map(|(h, p)| ((*h).to_owned(), *p)).collect(),
    };
    let full = redis("rediss-cluster://me:p%40ss@a.internal:7000,b,[::1]:7002/0").unwrap();
    let seeds = [("a.internal", 7000), ("b", 6379), ("::1", 7002)];
    assert_eq!(full.address, cluster(&seeds));
    assert_eq!(full.username.as_deref(), Some("me"));
    assert_eq!(full.password.unwrap().expose(), "p@ss");
    assert_eq!(full.database, 0);
    assert!(full.tls.is_some());
    let one = redis("redis-cluster://db").unwrap();
    assert_eq!(one.address, cluster(&[("db", 6379)]));
    assert!(one.tls.is_none());
}

#[test]
fn a_cluster_has_one_database_and_no_records_of_the_library() {
    let with = |keys: &str| mistakes(&format!("engine = 'redis'\n[storage]\n{keys}"));
    insta::assert_snapshot!(with("url = 'redis-cluster://a,b/1'"), @"storage.url: a Redis Cluster has no database 1, only 0; remove the number; `key_prefix` keeps installations apart");
    insta::assert_snapshot!(with("url = 'redis-cluster://a,b'\ndatabase = 2"), @"storage.database: a Redis Cluster has no database 2, only 0; remove the number; `key_prefix` keeps installations apart");
    insta::assert_snapshot!(with("url = 'redis-cluster://a,b'\nformat = 'pycket'"), @r#"storage.format: does not work with a Redis Cluster, which has no second database, and which the Python library can't use; format = "native", or the redis:// of the server that the application uses"#);
    insta::assert_snapshot!(with("url = 'redis-cluster://a'\ntls_ca_file = 'ca.pem'"), @r#"storage.tls_ca_file: has no effect without TLS; url = "rediss-cluster://...""#);
    assert_eq!(redis("redis-cluster://a/0").unwrap().database, 0);
}

#[test]
fn other_urls_are_refused_and_not_repeated() {
    let refused = [
        "redis",
        "http://hunter2",
        "redis://",
        "redis://me:hunter2@",
        "redis://me:hunter2@db:0",
        "redis://me:hunter2@db:99999",
        "redis://me:hunter2@db/256",
        "redis://me:hunter2@db/0?x=1",
        "redis://hunter2@db",
        "redis://me:%ff-hunter2@db",
        "redis-cluster://me:hunter2@",
        "redis-cluster://me:hunter2@db,",
        "redis-cluster://me:hunter2@db,:7000",
        "redis-cluster://me:hunter2@db,other:0",
        "redis-cluster://me:hunter2@db/1",
        "redis-cluster:me:hunter2@db",
        "redis-sentinel://me:hunter2@db",
        "unix:hunter2",
        "unix://hunter2/x",
    ];
    for url in refused {
        let problems = redis(url).expect_err(url);
        for problem in &problems {
            assert!(!problem.wrong.contains("hunter2"), "{url}");
            assert!(
                !problem.right.as_deref().unwrap_or("").contains("hunter2"),
                "{url}"
            );
        }
    }
}

#[test]
fn what_stands_in_the_url_of_redis_stands_nowhere_else() {
    let with = |keys: &str| mistakes(&format!("engine = 'redis'\n[storage]\n{keys}"));
    insta::assert_snapshot!(with("url = 'redis://u:p@db/1'\nusername = 'u'\npassword = 'p'\ndatabase = 1"), @r#"
    storage.username: it stands in `url` too; give it in one of the two places
    storage.password: it stands in `url` too; give it in one of the two places
    storage.database: it stands in `url` too; give it in one of the two places
    "#);
    insta::assert_snapshot!(with("username = 'u'"), @"storage.username: a user without a password; set `password` too");
}

fn with_engine(engine: &str, keys: &str) -> String {
    mistakes(&format!("engine = '{engine}'\n[storage]\n{keys}"))
}

fn storage_of(engine: &str, keys: &str) -> Storage {
    let text = format!("engine = '{engine}'\n[storage]\n{keys}");
    file(&text).unwrap_or_else(|e| panic!("{e}")).storage
}

#[test]
fn redis_is_found_by_the_keys_of_the_python_library_too() {
    let address = |keys: &str| {
        let Engine::Redis(redis) = storage_of("redis", keys).engine else {
            unreachable!("the engine is redis");
        };
        redis.address
    };
    let tcp = |host: &str, port| RedisAddress::Tcp {
        host: host.to_owned(),
        port,
    };
    assert_eq!(address("host = 'db'"), tcp("db", 6379));
    assert_eq!(address("port = 7000"), tcp("127.0.0.1", 7000));
    assert_eq!(address("host = '::1'\nport = 7000"), tcp("::1", 7000));
    assert_eq!(address("host = '[::1]'"), tcp("::1", 6379));
    assert_eq!(
        address("unix_socket_path = '/run/redis.sock'"),
        RedisAddress::Unix("/run/redis.sock".into())
    );
    for host in ["", "db:7000", "me@db", "redis://db", "db/0", "a b", "[db]"] {
        let text = with_engine("redis", &format!("host = '{host}'"));
        assert!(text.starts_with("storage.host: "), "{host}: {text}");
    }
    insta::assert_snapshot!(with_engine("redis", "url = 'redis://db'\nhost = 'db'\nport = 1\nunix_socket_path = '/x'"), @"
    storage.host: stands beside `url`, which says too where the server is; keep one of the two
    storage.port: stands beside `url`, which says too where the server is; keep one of the two
    storage.unix_socket_path: stands beside `url`, which says too where the server is; keep one of the two
    ");
    insta::assert_snapshot!(with_engine("redis", "port = 1\nunix_socket_path = '/x'"), @"storage.port: stands beside `unix_socket_path`, which says too where the server is; keep one of the two");
    insta::assert_snapshot!(with_engine("redis", "port = 0\nunix_socket_path = 'x'"), @r#"
    storage.port: 0 is out of range; a whole number from 1 to 65535
    storage.unix_socket_path: the socket's path is not absolute; "/run/redis/redis.sock"
    "#);
    insta::assert_snapshot!(with_engine("redis", "host = 'db:7000'"), @r#"storage.host: not the name or address of a host; the host alone, like "localhost"; `port` is a key of its own"#);
    insta::assert_snapshot!(with_engine("redis", "max_connections = 3"), @"storage.max_connections: 3 is too few: each of the 4 workers has one connection; at least 4, or workers = 3");
    insta::assert_snapshot!(with_engine("memcached", "host = 'db'"), @r#"storage.host: has no effect with engine = "memcached"; remove it, or set engine = "redis""#);
}

#[test]
fn the_examples_of_the_python_library_are_a_configuration() {
    let redis = file(
        "engine = 'redis'\n[storage]\nformat = 'pycket'\nhost = 'localhost'\nport = 6379\n\
         db_sessions = 10\ndb_notifications = 11\nmax_connections = 2147483648\n\
         [cookies]\nexpires_days = 120",
    );
    let memcached = file(
        "engine = 'memcached'\n[storage]\nformat = 'pycket'\nservers = ['localhost:11211']\n\
         notification_names = []\n[cookies]\nexpires_days = 120",
    );
    insta::assert_snapshot!(summary(&redis.unwrap()), @r"
    listen    127.0.0.1:8080 with 4 workers
    storage   redis at localhost:6379, database 10, format pycket, notifications in database 11
    cookie    PYCKET_ID on /, secure by TLS, for 31 days
    sessions  end 1d after the last change
    route     / -> http://127.0.0.1:9000
    ");
    insta::assert_snapshot!(summary(&memcached.unwrap()), @r"
    listen    127.0.0.1:8080 with 4 workers
    storage   memcached at localhost:11211, format pycket, no notifications
    cookie    PYCKET_ID on /, secure by TLS, for 31 days
    sessions  end 1d after the last change
    route     / -> http://127.0.0.1:9000
    ");
}

#[test]
fn settings_of_the_python_library_that_mean_nothing_here_say_what_does() {
    let keys = "db = 0\nsocket_timeout = 0.5\nssl = true\ndecode_responses = false\n\
                connection_pool = 'x'\nretry_on_timeout = true";
    insta::assert_snapshot!(with_engine("redis", keys), @r#"
    storage.db: never had an effect: the Python library overwrites it; remove it; `database` chooses the database
    storage.socket_timeout: this is `timeout` here; timeout = "1s", with a unit
    storage.ssl: TLS is chosen by the URL here; url = "rediss://host:6379", instead of `host` and `port`
    storage.decode_responses: has no effect: a record is bytes, not text; remove it
    storage.connection_pool: an object of Python can't stand here; `host`, `port`, `username` and `password`, or `url`
    storage.retry_on_timeout: a write that may have happened is never sent again blindly; remove it; `session.commit_timeout` says how long a write is tried
    "#);
    let keys = "format = 'pycket'\nnotification_names = []\ndebug = 1\npickleProtocol = 2\n\
                dead_retry = 30\nserver_max_value_length = 1048576\ndb = 1\n\
                flush_on_reconnect = 0";
    insta::assert_snapshot!(with_engine("memcached", keys), @r#"
    storage.debug: messages are chosen by [log] here; level = "debug" under [log]
    storage.pickleProtocol: has no effect: python-memcached gets sessions as bytes and pickles nothing; remove it; `pickle_protocol`, with format = "pycket", is for new records
    storage.dead_retry: no other server stands in for one that is down; remove it; `breaker_retry` says how often it is tried again
    storage.server_max_value_length: this is `session.max_record` here; max_record = "64KiB" under [session], up to 1MiB with memcached
    storage.db: never had an effect: the Python library overwrites it; remove it; `db_sessions` and `db_notifications` choose the databases
    storage.flush_on_reconnect: it would end all sessions of that server; remove it
    "#);
    let problems = variables(&[("PYCKET_STORAGE_DB", "1")]).unwrap_err();
    insta::assert_snapshot!(problems, @"
    error: storage.db: never had an effect: the Python library overwrites it
     --> environment variable PYCKET_STORAGE_DB
     = help: remove it; `database` chooses the database

    1 mistake in the configuration
    ");
    // They are not suggested to anybody.
    insta::assert_snapshot!(with_engine("redis", "sockettimeout = 1"), @"storage.sockettimeout: unknown key; did you mean `connect_timeout`?");
}

#[test]
fn the_format_of_the_python_library_is_chosen_with_its_databases() {
    let storage = storage_of("redis", "format = 'pycket'");
    let defaults = PycketFormat {
        notifications: NotificationPlace::Database {
            sessions: 0,
            notifications: 1,
        },
        protocol: 2,
        writable: true,
    };
    assert_eq!(storage.format, Format::Pycket(defaults.clone()));
    assert_eq!(storage.key_prefix, "");
    let keys = "format = 'pycket'\nurl = 'redis://db'\ndb_sessions = 10\ndb_notifications = 11\n\
                pickle_protocol = 4";
    let storage = storage_of("redis", keys);
    let expected = PycketFormat {
        notifications: NotificationPlace::Database {
            sessions: 10,
            notifications: 11,
        },
        protocol: 4,
        ..defaults
    };
    assert_eq!(storage.format, Format::Pycket(expected));
    let Engine::Redis(redis) = storage.engine else {
        unreachable!("the engine is redis");
    };
    assert_eq!(redis.database, 10);
    let keys = "format = 'pycket'\ndb_sessions = 1\nnotification_names = ['flash', 'ok']\n\
                writable = false";
    let expected = PycketFormat {
        notifications: NotificationPlace::SameRecord {
            names: vec!["flash".to_owned(), "ok".to_owned()],
        },
        writable: false,
        ..defaults
    };
    let storage = storage_of("redis", keys);
    assert_eq!(storage.format, Format::Pycket(expected));
    assert!(matches!(storage.engine, Engine::Redis(redis) if redis.database == 1));
    let none = storage_of("memcached", "format = 'pycket'\nnotification_names = []");
    let Format::Pycket(none) = none.format else {
        unreachable!("the format is pycket");
    };
    let names = NotificationPlace::SameRecord { names: Vec::new() };
    assert_eq!(none.notifications, names);
}

#[test]
fn keys_that_do_not_fit_the_format_are_refused() {
    insta::assert_snapshot!(with_engine("memory", "format = 'pycket'\ndb_sessions = 3\nwritable = false"), @r#"storage.format: has no effect with engine = "memory": no application can share it; set engine = "redis" or "memcached", whichever the application uses"#);
    let keys = "format = 'native'\ndb_notifications = 1\nnotification_names = []\n\
                pickle_protocol = 2\nwritable = true\npython_memcached = '1.59'";
    insta::assert_snapshot!(with_engine("redis", keys), @r#"
    storage.db_notifications: has no effect with format = "native"; remove it; `database` chooses the database
    storage.notification_names: has no effect with format = "native"; remove it, or set format = "pycket"
    storage.pickle_protocol: has no effect with format = "native"; remove it, or set format = "pycket"
    storage.writable: has no effect with format = "native"; remove it, or set format = "pycket"
    storage.python_memcached: has no effect with format = "native"; remove it, or set format = "pycket"
    "#);
    let keys = "format = 'pycket'\nkey_prefix = ''\ndatabase = 3\nurl = 'redis://db/3'\n\
                notification_names = ['x']\npickle_protocol = 6\npython_memcached = '1.59'";
    insta::assert_snapshot!(with_engine("redis", keys), @r#"
    storage.key_prefix: has no effect with format = "pycket": the library's keys are the bare ids; remove it
    storage.database: has no effect with format = "pycket", which has a database for sessions and one for notifications; `db_sessions` and `db_notifications`
    storage.url: the database in it has no effect with format = "pycket", which has a database for sessions and one for notifications; remove it from the URL; `db_sessions` and `db_notifications`
    storage.notification_names: has no effect: notifications are in a database of their own, 1; remove it
    storage.pickle_protocol: 6 is out of range; a whole number from 0 to 5
    storage.python_memcached: has no effect with engine = "redis"; remove it, or set engine = "memcached"
    "#);
    insta::assert_snapshot!(with_engine("redis", "format = 'pycket'\ndb_notifications = 0"), @r#"storage.notification_names: it is not said which names are notifications: `db_sessions` and `db_notifications` are both 0, so they are in the session's record, as if they were values; notification_names = ["flash"], all that the application uses, or [] for none"#);
    insta::assert_snapshot!(with_engine("redis", "format = 'pycket'\nwritable = false\npickle_protocol = 2"), @"storage.pickle_protocol: has no effect with writable = false: there are no new records; remove one of the two");
    insta::assert_snapshot!(with_engine("memcached", "format = 'pycket'\ndb_sessions = 0"), @r#"
    storage.db_sessions: has no effect with engine = "memcached"; remove it, or set engine = "redis"
    storage.notification_names: it is not said which names are notifications: memcached keeps them in the session's record, as if they were values; notification_names = ["flash"], all that the application uses, or [] for none
    "#);
    insta::assert_snapshot!(with_engine("memcached", "format = 'picket'\nwritable = false"), @r#"storage.format: unknown value `picket`; did you mean "pycket"?"#);
    insta::assert_snapshot!(with_engine("redis", "format = 'pycket'\ndb_sessions = 256\nnotification_names = []"), @"storage.db_sessions: 256 is out of range; a whole number from 0 to 255");
    let problems = variables(&[
        ("PYCKET_ENGINE", "redis"),
        ("PYCKET_STORAGE_FORMAT", "pycket"),
        ("PYCKET_STORAGE_DATABASE", "1"),
        ("PYCKET_STORAGE_MAX_CONNECTIONS", "0"),
    ])
    .unwrap_err();
    insta::assert_snapshot!(problems, @r#"
    error: storage.max_connections: 0 is out of range
     --> environment variable PYCKET_STORAGE_MAX_CONNECTIONS
     = help: a whole number from 1 to 9223372036854775807

    error: storage.database: has no effect with format = "pycket", which has a database for sessions and one for notifications
     --> environment variable PYCKET_STORAGE_DATABASE
     = help: `db_sessions` and `db_notifications`

    2 mistakes in the configuration
    "#);
}

#[test]
fn servers_of_memcached_are_written_as_for_python_memcached() {
    let engine = |keys: &str| {
        let Engine::Memcached {
            servers, routing, ..
        } = storage_of("memcached", keys).engine
        else {
            unreachable!("the engine is memcached");
        };
        (servers, routing)
    };
    let pycket = "format = 'pycket'\nnotification_names = []\n";
    let python = |weights: &[u32], version| Routing::Python {
        weights: weights.to_vec(),
        version,
    };
    let servers = "servers = ['a:1', 'inet:b', ['inet6:[::1]:2', 3], ['c', 1]]";
    let (addresses, routing) = engine(&format!("{pycket}{servers}"));
    assert_eq!(addresses, ["a:1", "b:11211", "[::1]:2", "c:11211"]);
    let newest = PythonMemcached::HashFromZero;
    assert_eq!(routing, python(&[1, 1, 3, 1], newest));
    for (version, expected) in [
        ("1.48", PythonMemcached::HashFromOne),
        ("1.59", PythonMemcached::HashFromOne),
        ("1.60", newest),
        ("1.62.0", newest),
        ("2.0", newest),
    ] {
        let (_, routing) = engine(&format!("{pycket}python_memcached = '{version}'"));
        assert_eq!(routing, python(&[1], expected), "{version}");
    }
    let (addresses, routing) = engine("servers = ['inet:a:1']");
    assert_eq!(
        (addresses, routing),
        (vec!["a:1".to_owned()], Routing::Rendezvous)
    );
    let mistakes = with_engine(
        "memcached",
        &format!(
            "{pycket}servers = ['unix:/run/m', ['a:1', 0], ['a:1'], [['a:1', 1], 1], 'a b', 7]\n\
             python_memcached = 'newest'"
        ),
    );
    insta::assert_snapshot!(mistakes, @r#"
    storage.servers: sockets of memcached are not in this version; let memcached listen on a port (-l, -p) too: host:port, like 10.0.0.5:11211
    storage.servers: 0 is out of range; a whole number from 1 to 1000000
    storage.servers: a server with a weight is a list of two; ["10.0.0.5:11211", 2]
    storage.servers: expected text, found a list; put it in double quotes
    storage.servers: not the address of a server; host:port, like 10.0.0.5:11211
    storage.servers: expected text, found a number; put it in double quotes
    storage.python_memcached: not a version of python-memcached; as `pip show` says it, like "1.62"
    "#);
    insta::assert_snapshot!(with_engine("memcached", "servers = ['a:1', ['b:1', 2]]"), @r#"storage.servers: weights have no effect with format = "native": keys spread evenly; "b:1" alone"#);
    for version in ["1", "1.", ".60", "1.x", "+1.60", "1.60.x", "1.60.", ""] {
        let keys = format!("{pycket}python_memcached = '{version}'");
        assert!(
            with_engine("memcached", &keys).contains("python_memcached"),
            "{version}"
        );
    }
}

#[test]
fn the_summary_names_the_seeds_of_a_cluster() {
    let text = "engine = 'redis'\n[storage]\nurl = 'rediss-cluster://me:secret@a,[::1]:7000'";
    let text = summary(&file(text).unwrap());
    insta::assert_snapshot!(text.lines().nth(1).unwrap(), @"storage   redis at the cluster of a:6379, [::1]:7000 with TLS, keys pycket:*");
}

#[test]
fn the_summary_names_the_format() {
    let storage = |engine: &str, keys: &str| {
        let text = format!("engine = '{engine}'\n[storage]\nformat = 'pycket'\n{keys}");
        let text = summary(&file(&text).unwrap());
        text.lines().nth(1).unwrap().to_owned()
    };
    insta::assert_snapshot!(storage("redis", "writable = false"), @"storage   redis at 127.0.0.1:6379, database 0, format pycket, notifications in database 1, read-only");
    insta::assert_snapshot!(storage("redis", "db_sessions = 1\nnotification_names = []"), @"storage   redis at 127.0.0.1:6379, database 1, format pycket, no notifications");
    insta::assert_snapshot!(storage("memcached", "notification_names = ['flash', 'ok']"), @"storage   memcached at 127.0.0.1:11211, format pycket, notifications are flash, ok");
}

#[test]
fn keys_of_different_tables_must_fit_each_other() {
    insta::assert_snapshot!(mistakes("[session]\nmax_lifetime = '60d'"), @"session.max_lifetime: a session could live for 60d, but its cookie counts as expired after 31 days; lower `session.max_lifetime`, or raise `cookies.max_age_days`");
    insta::assert_snapshot!(mistakes("[cookies]\nmax_age_days = 7"), @"cookies.max_age_days: a session could live for 30d, but its cookie counts as expired after 7 days; lower `session.max_lifetime`, or raise `cookies.max_age_days`");
    insta::assert_snapshot!(mistakes("[timeouts]\nupstream_response = '90s'"), @"timeouts.upstream_response: claims end after 90s, but an answer may take 90s: two pages could show the same; raise `notifications.claim_timeout` over `timeouts.upstream_response`");
    insta::assert_snapshot!(mistakes("[session]\nidle_timeout = '2d'\nmax_lifetime = '1d'"), @"session.idle_timeout: it is over `session.max_lifetime`, 1d; no session lives longer than that: lower the one or raise the other");
    insta::assert_snapshot!(
        mistakes("engine = 'redis'\n[storage]\ntimeout = '5s'\n[session]\ncommit_timeout = '3s'"), @"session.commit_timeout: writes are tried for 3s, but one try may take 5s; raise `session.commit_timeout` to `storage.timeout` or more");
    for header in ["X-Session-Id", "Host", "X-Forwarded-For"] {
        assert_eq!(
            mistakes(&format!("[log]\nrequest_id_header = '{header}'")),
            "log.request_id_header: this header is used for something else; \"X-Request-Id\""
        );
    }
    assert!(file("[log]\nrequest_id_header = 'X-Correlation-Id'").is_ok());
    // A lower end of all sessions alone is no mistake.
    assert!(file("[session]\nmax_lifetime = '1h'").is_ok());
}

#[test]
fn routes_are_ordered_from_the_most_specific() {
    let config = file(
        "[[route]]\npath = '/a'\n[[route]]\npath = '/a/b'\nupstream = 'http://b'\n\
         [[route]]\nhost = 'Shop.example.com'\n[[route]]\nhost = 'shop.example.com'\npath = '/a'\n\
         session = false",
    )
    .unwrap();
    let names: Vec<&str> = config
        .routes
        .iter()
        .map(|route| route.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["shop.example.com/a", "shop.example.com/", "/a/b", "/a", "/"]
    );
    assert!(config.routes[0].session.is_none());
    assert_eq!(config.routes[2].upstream.name, "http://b:80");
    assert_eq!(config.routes[4].upstream.name, "http://127.0.0.1:9000");
}

#[test]
fn a_route_for_everything_takes_the_place_of_the_last() {
    let config = file("[[route]]\nsignals = false").unwrap();
    assert_eq!(config.routes.len(), 1);
    assert!(!config.routes[0].session.as_ref().unwrap().contract.signals);
}

#[test]
fn routes_have_bounds_of_their_own() {
    let config = file(
        "limits.max_body = '2MiB'\n[[route]]\npath = '/upload'\nmax_body = '1GiB'\n\
         upstream_response = '80s'\n[[route]]\npath = '/static/'\nsession = false\n\
         max_body = '0B'\nupstream_response = '1d'",
    )
    .unwrap();
    let bounds: Vec<_> = config
        .routes
        .iter()
        .map(|route| (route.max_body_bytes, route.upstream_response.as_secs()))
        .collect();
    assert_eq!(bounds, [(0, 86_400), (1 << 30, 80), (2 << 20, 60)]);
    let text = summary(&config);
    insta::assert_snapshot!(text.lines().skip(4).collect::<Vec<_>>().join("\n"), @r"
    route     /static/ -> http://127.0.0.1:9000, bodies up to 0B, answers within 1d, no sessions
    route     /upload -> http://127.0.0.1:9000, bodies up to 1GiB, answers within 80s
    route     / -> http://127.0.0.1:9000
    ");
    let route = |keys: &str| mistakes(&format!("[[route]]\n{keys}"));
    insta::assert_snapshot!(route("max_body = '2TiB'\nupstream_response = '1ms'"), @r#"
    route.max_body: unknown unit `TiB`; write it like "4096B" or "64KiB"; units are B, KiB, MiB and GiB
    route.upstream_response: 1ms is out of range; from 100ms to 1d
    "#);
}

#[test]
fn notifications_are_held_for_as_long_as_each_route_may_answer() {
    let claims = "notifications.claim_timeout = '2m'\n";
    let route = |keys: &str| file(&format!("{claims}[[route]]\n{keys}"));
    assert!(route("upstream_response = '119s'").is_ok());
    assert!(route("upstream_response = '120s'\nsession = false").is_ok());
    let problems = route("path = '/slow'\nupstream_response = '120s'").unwrap_err();
    insta::assert_snapshot!(problems, @r"
    error: route.upstream_response: claims end after 2m, but an answer may take 2m: two pages could show the same
      --> conf/pycket.toml:4:21
      |
    4 | upstream_response = '120s'
      |                     ^^^^^^
      = help: raise `notifications.claim_timeout` over `upstream_response`

    1 mistake in the configuration
    ");
    // What no route with sessions has counts for nothing.
    let unused = "[timeouts]\nupstream_response = '1h'\n[[route]]\n";
    assert!(file(&format!("{unused}upstream_response = '1s'")).is_ok());
    assert!(file(&format!("{unused}session = false")).is_ok());
    assert!(file(&format!("{unused}path = '/a'\nupstream_response = '1s'")).is_err());
}

#[test]
fn a_budget_is_a_size_or_that_of_a_server() {
    let budget = |text: &str| {
        let config = file(&format!(
            "headers.budget = '{text}'\n[[route]]\nbudget = '5KiB'\npath = '/a'"
        ));
        let budgets = config.unwrap().routes.into_iter();
        let budgets = budgets.map(|route| route.session.unwrap().contract.budget);
        budgets.collect::<Vec<_>>()
    };
    assert_eq!(budget("300B"), [5120, 300]);
    let servers = [
        "uwsgi", "tomcat", "jetty", "gunicorn", "httpd", "node", "iis",
    ];
    let budgets = servers.map(|server| budget(server)[1]);
    assert_eq!(budgets, [1024, 4096, 4096, 8000, 8000, 12_288, 12_288]);
    let of_route = file("[[route]]\nbudget = 'tomcat'").unwrap();
    assert_eq!(
        of_route.routes[0].session.as_ref().unwrap().contract.budget,
        4096
    );
    let variable = variables(&[("PYCKET_HEADERS_BUDGET", "node")]).unwrap();
    assert_eq!(
        variable.routes[0].session.as_ref().unwrap().contract.budget,
        12_288
    );
    let wrong = ["tomcats", "nginx", "1B", "4KB", "4096", ""];
    let wrong = wrong.map(|text| mistakes(&format!("headers.budget = '{text}'")));
    insta::assert_snapshot!(wrong.join("\n"), @r#"
    headers.budget: unknown value `tomcats`; did you mean "tomcat"?
    headers.budget: unknown value `nginx`; a size like "4KiB", or "uwsgi", "tomcat", "jetty", "gunicorn", "httpd", "node" or "iis"
    headers.budget: 1B is out of range; from 256B to 64KiB
    headers.budget: unknown unit `KB`; write it like "4096B" or "64KiB"; units are B, KiB, MiB and GiB
    headers.budget: the unit is missing; write "4096B" or "4096KiB"; units are B, KiB, MiB and GiB
    headers.budget: expected a whole number with a unit; write it like "4096B" or "64KiB"; units are B, KiB, MiB and GiB
    "#);
    insta::assert_snapshot!(mistakes("headers.budget = 4096"), @r#"headers.budget: the unit is missing; write "4096B" or "4096KiB"; units are B, KiB, MiB and GiB"#);
}

#[test]
fn a_domain_counts_after_its_hosts_and_methods_before_none() {
    let config = file(
        "[[route]]\nhost = '*.example.com'\n[[route]]\nhost = '*.shop.example.com'\n\
         [[route]]\nhost = 'a.example.com'\n[[route]]\npath = '/a'\n\
         [[route]]\npath = '/a'\nmethods = ['POST', 'PUT']\n[[route]]\nmethods = ['DELETE']",
    )
    .unwrap();
    let names: Vec<&str> = config
        .routes
        .iter()
        .map(|route| route.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "a.example.com/",
            "*.shop.example.com/",
            "*.example.com/",
            "POST,PUT /a",
            "/a",
            "DELETE /",
            "/"
        ]
    );
}

#[test]
fn methods_that_no_route_can_be_for_are_refused() {
    let route = |keys: &str| mistakes(&format!("[[route]]\n{keys}"));
    insta::assert_snapshot!(route("methods = ['get']"), @r#"route.methods: the case of a method counts, and they are written in capitals; "GET""#);
    insta::assert_snapshot!(route("methods = ['GET, POST']"), @r#"route.methods: not a method; "GET""#);
    insta::assert_snapshot!(route("methods = ['CONNECT']"), @r#"route.methods: CONNECT is not offered; "GET""#);
    insta::assert_snapshot!(route("methods = []"), @"route.methods: no method is named; remove it: then all are meant");
    insta::assert_snapshot!(route("methods = ['GET']\n[[route]]\nmethods = ['POST', 'GET']"), @"route.methods: a route with this host and path stands above, and is for GET, too; join them, or name other methods");
}

#[test]
fn hosts_and_paths_that_no_request_has_are_refused() {
    let hosts = [
        "", "a:80", "*", "*a", "*.*.a", "a.*", "*.", "*.a:80", "a b", "u@a", "http://a", "a/b",
    ];
    for host in hosts {
        assert!(
            file(&format!("[[route]]\nhost = '{host}'")).is_err(),
            "{host}"
        );
    }
    let paths = [
        "", "a", "/a?b", "/#", "/a b", "/é", "/a//b", "/./a", "/a/..", "/*", "/a\\b",
    ];
    for path in paths {
        assert!(
            file(&format!("[[route]]\npath = '{path}'")).is_err(),
            "{path}"
        );
    }
}

#[test]
fn upstreams_are_spelt_out_or_refused() {
    let upstream = |url: &str| {
        let config = variables(&[("PYCKET_UPSTREAM", url)])?;
        Ok::<_, Problems>(config.routes[0].upstream.name.clone())
    };
    assert_eq!(upstream("http://app").unwrap(), "http://app:80");
    assert_eq!(upstream("http://[::1]:9000/").unwrap(), "http://[::1]:9000");
    assert_eq!(upstream("https://app").unwrap(), "https://app:443");
    assert_eq!(upstream("h2c://app").unwrap(), "h2c://app:80");
    assert_eq!(
        upstream("http+unix:///run/a.sock").unwrap(),
        "unix:/run/a.sock"
    );
    assert_eq!(
        upstream("h2c+unix:/run/a.sock").unwrap(),
        "h2c+unix:/run/a.sock"
    );
    let refused = [
        "app:9000",
        "ftp://app",
        "http://",
        "http://app/x",
        "http://app?x",
        "http://u:p@app",
        "http://app:0",
        "http://app:99999",
        "http://app:",
        "unix:run/a.sock",
        "http://-",
    ];
    for url in refused {
        assert!(upstream(url).is_err(), "{url}");
    }
}

#[test]
fn networks_are_read_as_they_are_meant() {
    let trust = |text: &str| variables(&[("PYCKET_FORWARDING_TRUST", text)]);
    let networks = trust("10.0.0.0/8, 192.0.2.7, ::1")
        .unwrap()
        .forwarding
        .trust;
    let networks: Vec<String> = networks.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]);
    insta::assert_snapshot!(mistakes("[forwarding]\ntrust = ['10.1.2.3/8', 'lan']"), @r#"
    forwarding.trust: `10.1.2.3/8` has bits set outside of the network; "10.0.0.0/8"
    forwarding.trust: `lan` is no network; "10.0.0.0/8", "fd00::/8", "192.0.2.7"
    "#);
}

#[test]
fn the_old_place_of_sessions_is_a_store_of_its_own() {
    let text = "engine = 'redis'\n[storage.fallback]\nengine = 'memcached'\nformat = 'pycket'\n\
                servers = ['10.0.0.5:11211']\nnotification_names = ['flash']\nmove = false";
    insta::assert_snapshot!(summary(&file(text).unwrap()), @r"
    listen    127.0.0.1:8080 with 4 workers
    storage   redis at 127.0.0.1:6379, database 0, keys pycket:*
    fallback  memcached at 10.0.0.5:11211, format pycket, notifications are flash, where sessions stay
    cookie    PYCKET_ID on /, secure by TLS, for 31 days
    sessions  end after 1d without use and 30d in all
    route     / -> http://127.0.0.1:9000
    ");
    insta::assert_snapshot!(mistakes("engine = 'redis'\n[storage.fallback]\nformat = 'native'"), @r#"storage.fallback.engine: it is not said in which store sessions were; engine = "redis" or "memcached" under [storage.fallback]"#);
    insta::assert_snapshot!(mistakes("engine = 'redis'\n[storage.fallback]\nengine = 'memory'"), @r#"storage.fallback.engine: no session in memory outlives the proxy: there are none to find; engine = "redis" or "memcached" under [storage.fallback]"#);
    insta::assert_snapshot!(mistakes("[storage.fallback]\nengine = 'redis'"), @r#"storage.fallback: sessions would move from there into memory, and be gone when the proxy stops; engine = "redis" or "memcached", for where they are to be from now on"#);
    insta::assert_snapshot!(mistakes("storage.fallback = 'redis'"), @"storage.fallback: expected a table, found text; write it as { key = value }");
    let fallback = |keys: &str| {
        mistakes(&format!(
            "engine = 'redis'\n[storage.fallback]\nengine = 'redis'\n{keys}"
        ))
    };
    insta::assert_snapshot!(fallback("format = 'pycket'\nwritable = false"), @"storage.fallback.writable: a session that has moved or ended must be deleted in its old place, or it would come back; remove it");
    let readonly = "engine = 'redis'\n[storage]\nformat = 'pycket'\nwritable = false\n\
                    [storage.fallback]\nengine = 'redis'";
    insta::assert_snapshot!(mistakes(readonly), @"storage.writable: no session can move here from [storage.fallback] then; remove one of the two");
    insta::assert_snapshot!(fallback("servers = ['10.0.0.5:11211']"), @r#"storage.fallback.servers: has no effect with engine = "redis"; remove it, or set engine = "memcached""#);
    insta::assert_snapshot!(fallback("hots = 'redis.internal'"), @"storage.fallback.hots: unknown key; did you mean `host`?");
    insta::assert_snapshot!(fallback("fallback = { engine = 'redis' }"), @"storage.fallback.fallback: there is only one old place: the next one is not asked; remove it");
    insta::assert_snapshot!(fallback("port = 0"), @"storage.fallback.port: 0 is out of range; a whole number from 1 to 65535");
    let by_variables = [
        ("PYCKET_ENGINE", "memcached"),
        ("PYCKET_STORAGE_FALLBACK_ENGINE", "redis"),
        ("PYCKET_STORAGE_FALLBACK_HOST", "redis.internal"),
    ];
    insta::assert_snapshot!(summary(&variables(&by_variables).unwrap()), @r"
    listen    127.0.0.1:8080 with 4 workers
    storage   memcached at 127.0.0.1:11211, keys pycket:*
    fallback  redis at redis.internal:6379, database 0, keys pycket:*
    cookie    PYCKET_ID on /, secure by TLS, for 31 days
    sessions  end after 1d without use and 30d in all
    route     / -> http://127.0.0.1:9000
    ");
}

#[test]
fn names_of_headers_must_not_get_in_each_others_way() {
    insta::assert_snapshot!(mistakes("[headers.names]\nsession = 'Host'"), @"headers.names.session: Host can't be used: it belongs to HTTP or to the proxy itself; -");
    insta::assert_snapshot!(mistakes("[headers]\nprefix = 'X Y'"), @"headers.prefix: a prefix of header names is 1 to 64 letters, digits, `-` or other token characters; -");
    insta::assert_snapshot!(mistakes("[headers.inject]\nX-User = 'a'\nx_user = 'b'"), @"headers.inject.x_user: X-User and X_User are the same to an application; -");
    insta::assert_snapshot!(mistakes("[headers.inject]\nX-Session-User = 'a'"), @"headers.inject.X-Session-User: X-Session-User can't be used: it belongs to the header contract; -");
    insta::assert_snapshot!(mistakes("[headers.capture]\n'a b' = 'a'"), @r#"headers.capture.a b: not the name of a header; letters, digits and hyphens, like "X-Remote-User""#);
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    let text = "engine = 'redis'\n[storage]\nurl = 'redis://me:hunter2@db'\n\
                [cookies.secrets]\n1 = 'hunter2-hunter2-hunter2-hunter2-hunter2'\n2 = 'hunter2'";
    let (config, findings) = with_findings(Some(text), &[], Flags::default()).unwrap();
    assert_eq!(findings.warnings.len(), 1);
    let printed = format!("{config:?}{}{:?}", summary(&config), findings.warnings);
    assert!(!printed.contains("hunter2"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text: String, variable: String) {
        let _unused = file(&text);
        let _unused = variables(&[("PYCKET_ROUTE", &variable), ("PYCKET_STORAGE_URL", &variable)]);
    }

    #[test]
    fn no_value_of_a_key_makes_it_panic(
        key in prop::sample::select(&KEYS),
        value in "[\\PC\n]{0,12}|\"[\\PC]{0,12}\"|-?[0-9]{1,40}|\\[[^\\]]{0,8}\\]",
    ) {
        let _unused = file(&format!("{key} = {value}"));
        let _unused = file(&format!("engine = 'redis'\n{key} = {value}"));
        let pycket = "engine = 'memcached'\nstorage.format = 'pycket'";
        let _unused = file(&format!("{pycket}\n{key} = {value}"));
        if let Some(name) = key.strip_prefix("storage.") {
            let fallback = "[storage.fallback]\nengine = 'redis'";
            let _unused = file(&format!("{fallback}\n{name} = {value}"));
        }
    }
}

/// One key of each kind.
const KEYS: [&str; 19] = [
    "listen",
    "upstream",
    "workers",
    "storage.url",
    "storage.servers",
    "storage.host",
    "storage.notification_names",
    "storage.python_memcached",
    "storage.max_memory",
    "cookies.secret",
    "cookies.expires",
    "cookies.secrets",
    "cookies.samesite",
    "session.idle_timeout",
    "session.max_names",
    "headers.inject",
    "headers.expose",
    "forwarding.trust",
    "route",
];

#[test]
fn tls_to_a_group_is_read_whole() {
    let text = "upstream = 'app'
        upstreams.app.servers = ['https://a']
        upstreams.app.http2 = 'never'
        [upstreams.app.tls]
        ca_file = 'ca.pem'
        cert = 'ca.pem'
        key = 'key.pem'
        server_name = 'b'";
    let config = file(text).unwrap();
    let upstream = &config.routes[0].upstream;
    assert_eq!(upstream.http2, Http2::Never);
    assert_eq!(upstream.tls.ca.as_ref().unwrap().text, CERT);
    let (_, key) = upstream.tls.identity.as_ref().unwrap();
    assert_eq!(key.text, KEY);
    assert_eq!(upstream.tls.server_name.as_deref(), Some("b"));
    assert!(upstream.tls.verify);
    assert!(
        !format!("{config:?}").contains("BEGIN"),
        "a key is never printed"
    );
}

#[test]
fn verification_is_switched_off_by_name_only_and_with_a_warning() {
    let text =
        "upstream = 'app'\nupstreams.app.servers = ['https://a']\nupstreams.app.tls.verify = false";
    let (config, findings) = with_findings(Some(text), &[SECRET], Flags::default()).unwrap();
    assert!(!config.routes[0].upstream.tls.verify);
    let [warning] = &findings.warnings[..] else {
        panic!("{:?}", findings.warnings)
    };
    assert!(
        warning
            .to_string()
            .contains("certificates are not verified"),
        "{warning}"
    );
}

#[test]
fn mistakes_in_tls_and_health_are_reported_with_what_would_be_right() {
    insta::assert_snapshot!(mistakes(
        "upstream = 'app'
        dns_servers = ['dns.example.com']
        [upstreams.app]
        servers = ['https://a']
        http2 = 'h2'
        [upstreams.app.tls]
        ca_file = 'none.pem'
        cert = 'key'
        server_name = 'a:443'
        verify = 'no'
        [upstreams.app.health]
        path = 'healthz'
        status = '200-'
        host = 'a b'
        timeout = '10s'
        [upstreams.plain]
        servers = ['http://a']
        http2 = 'never'
        [upstreams.plain.tls]
        verify = true
        [upstreams.plain.health]
        tcp = true
        path = '/'"
    ), @r#"
    dns_servers: `dns.example.com` is not the address of a DNS server; "10.0.0.53", "10.0.0.53:5353"
    upstreams.app.http2: unknown value `h2`; "auto", "always" or "never"
    upstreams.app.tls.ca_file: can't read conf/none.pem: entity not found; relative paths count from the configuration file's directory
    upstreams.app.tls.cert: there is no certificate in conf/key; a PEM file: -----BEGIN CERTIFICATE-----
    upstreams.app.tls.server_name: not the name of a server; a name or address without port, like "app.example.com"
    upstreams.app.tls.verify: expected true or false, found text; write `true` or `false`
    upstreams.app.health.path: not the path of a request; it begins with `/`, like "/healthz"
    upstreams.app.health.status: not a range of statuses; "200" or "200-399"
    upstreams.app.health.host: not a host; a name with or without port, like "app.example.com"
    upstreams.app.health.timeout: an answer may take 10s, but the next question comes after 5s; lower `timeout`, or raise `interval`
    upstreams.plain.servers: `tls` has no effect without a server with https://; remove it, or write https:// in `servers`
    upstreams.plain.http2: has no effect without a server with https://; h2c:// is HTTP/2 without TLS
    upstreams.plain.health.path: has no effect with tcp = true; remove it, or `tcp`
    "#);
}

/// What a group is, with this beside its servers.
fn group(more: &str) -> Result<Upstream, Problems> {
    let text = format!(
        "upstream = 'app'\n[upstreams.app]\nservers = ['https://a', 'http://b:9000']\n{more}"
    );
    file(&text).map(|config| config.routes[0].upstream.clone())
}

#[test]
fn the_defaults_of_groups_are_those_that_the_reference_comments() {
    let keys = |table: &str| {
        let (_, start) = REFERENCE.split_once(&format!("# [{table}]\n")).unwrap();
        let keys = ["\n# --", "\n# =="].iter().fold(start, |text, end| {
            text.split_once(end).map_or(text, |(before, _)| before)
        });
        let keys: Vec<&str> = keys
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.contains(" = "))
            // Which have examples.
            .filter(|line| !line.starts_with("servers") && !line.starts_with("host"))
            .collect();
        assert!(keys.len() >= 5, "{keys:?}");
        keys.join("\n")
    };
    let text = |group: Upstream| format!("{group:#?}");
    let spelt_out = group(&format!(
        "{}\ntls.verify = true\n[upstreams.app.health]\n{}",
        keys("upstreams.app"),
        keys("upstreams.app.health")
    ));
    let defaults = group("health = {}").unwrap();
    assert_eq!(text(spelt_out.unwrap()), text(defaults));
    assert!(group("").unwrap().health.is_none());
}

#[test]
fn a_group_is_used_where_its_name_stands() {
    let text = "upstream = 'app'
        upstreams.app.servers = ['http://a', { url = 'http://b', weight = 3, drain = true }]
        upstreams.app.balance = 'session'
        upstreams.app.max_failures = 0
        route = [{ path = '/x', upstream = 'http://c' }]";
    let config = file(text).unwrap();
    let text = summary(&config);
    let lines: Vec<&str> = text.lines().skip(4).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    upstream  app: by session http://a:80, http://b:80 (weight 3) (draining)
    route     /x -> http://c:80
    route     / -> app
    ");
    assert_eq!(config.routes[1].upstream.ejection.max_failures, 0);
    let environment = [
        ("PYCKET_UPSTREAMS", "{ app = { servers = ['http://d'] } }"),
        ("PYCKET_UPSTREAM", "app"),
    ];
    let config = variables(&environment).unwrap();
    assert_eq!(config.routes[0].upstream.servers[0].url, "http://d:80");
}

#[test]
fn mistakes_in_groups_are_reported_with_what_would_be_right() {
    insta::assert_snapshot!(mistakes(
        "upstream = 'ap'
        [upstreams.app]
        servers = ['http://a', 'http://a:80', 'ftp://b', { weight = 2 }, { url = 'http://c', wieght = 2 }]
        balance = 'random'
        max_failure = 3
        ejection = '2m'
        [upstreams.'a b']
        servers = []
        [upstreams.none]
        [upstreams.drained]
        servers = [{ url = 'http://a', drain = true }]
        [[route]]
        path = '/x'
        upstream = 'localhost'"
    ), @r#"
    upstream: there is no group of servers named `ap`; did you mean "app"?
    upstreams.app.servers: this server stands above; give it a `weight` instead
    upstreams.app.servers: the URL has none of the known schemes; http://host:port, like "http://127.0.0.1:9000"; https://, h2c:// or unix:/path
    upstreams.app.servers.url: `url` is missing; { url = "http://127.0.0.1:9000" }
    upstreams.app.servers.wieght: unknown key; did you mean `weight`?
    upstreams.app.balance: unknown value `random`; "round_robin", "least" or "session"
    upstreams.app.max_failure: unknown key; did you mean `max_failures`?
    upstreams.app.ejection: the first ejection would be longer than the longest, 1m; lower `ejection`, or raise `max_ejection`
    upstreams.a b: not a name for a group; letters, digits, `-` and `_`, like [upstreams.app]
    upstreams.a b.servers: no server to send requests to; "http://127.0.0.1:9000"
    upstreams.none.servers: `servers` is missing; servers = ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]
    upstreams.drained.servers: all servers are draining, so that none gets requests; leave one without `drain`
    route.upstream: there is no group of servers named `localhost`; define [upstreams.localhost], or give a URL like "http://127.0.0.1:9000"
    "#);
}

#[test]
fn a_group_that_nothing_names_is_warned_of() {
    let text = "upstreams.app.servers = ['http://a']";
    let (_, findings) = with_findings(Some(text), &[SECRET], Flags::default()).unwrap();
    let [warning] = &findings.warnings[..] else {
        panic!("{:?}", findings.warnings)
    };
    assert!(
        warning
            .to_string()
            .contains("no route sends requests there"),
        "{warning}"
    );
}

#[test]
fn listeners_of_all_kinds_are_read() {
    let shown = |text: &str| {
        let listeners = file(text).unwrap().listeners;
        let listeners = listeners.iter();
        let shown = listeners.map(|listener| format!("{} {}", listener.address, listener.http2));
        shown.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(shown(""), "127.0.0.1:8080 true");
    assert_eq!(
        shown("listen = ['[::1]:80', 'unix:/run/a.sock', 'systemd', 'systemd:web']"),
        "[::1]:80 true, unix:/run/a.sock true, systemd true, systemd:web true"
    );
    assert_eq!(
        shown("[[listener]]\naddress = '[::]:443'\nhttp2 = false"),
        "[::]:443 false"
    );
    assert_eq!(
        shown("listen = '127.0.0.1:1'\n[[listener]]\naddress = ['127.0.0.1:2', '127.0.0.1:3']"),
        "127.0.0.1:1 true, 127.0.0.1:2 true, 127.0.0.1:3 true"
    );
}

#[test]
fn mistakes_in_listeners_are_named() {
    insta::assert_snapshot!(
        mistakes("listen = ['unix:run/a', 'systemd:', 'localhost:80']\nforwarding.trust = ['unx']"),
        @r#"
    listen: the socket's path is not absolute; "unix:/run/pycket/http.sock"
    listen: the name of the socket is empty; "systemd" for all of them
    listen: `localhost:80` is no address to listen on; an IP address and a port: "127.0.0.1:8080", "[::1]:8080"
    forwarding.trust: `unx` is no network; "10.0.0.0/8", "fd00::/8", "192.0.2.7"
    "#
    );
    insta::assert_snapshot!(
        mistakes(
            "listen = ':80'\n[[listener]]\nadress = '127.0.0.1:80'\n\
             [[listener]]\naddress = '127.0.0.1:81'\nmode = '660'\n\
             [[listener]]\naddress = 'unix:/a'\nmode = 660\n\
             [[listener]]\naddress = 'unix:/b'\nmode = '0999'"
        ),
        @r#"
    listen: `:80` is no address to listen on; "0.0.0.0:80" for all of IPv4, "[::]:80" for all
    listener.address: no address to listen on; address = "127.0.0.1:8443"
    listener.adress: unknown key; did you mean `address`?
    listener.mode: has no effect: only unix sockets have permissions; remove it
    listener.mode: a number would be read as a decimal one; three or four octal digits in quotes, like "0660"
    listener.mode: not the permissions of a file; three or four octal digits in quotes, like "0660"
    "#
    );
    insta::assert_snapshot!(
        mistakes("listen = ['127.0.0.1:80', '127.0.0.1:0', '127.0.0.1:0', '127.0.0.1:80']"),
        @"listen: 127.0.0.1:80 is listened on twice; remove one"
    );
}

#[test]
fn mistakes_in_tls_are_named() {
    insta::assert_snapshot!(
        mistakes(
            "[[listener]]\naddress = '127.0.0.1:1'\ntls = {}\n\
             [[listener]]\naddress = '127.0.0.1:2'\ntls = 'cert.pem'\n"
        ),
        @r#"
    listener.tls: expected a table, found text; write it as { key = value }
    listener.tls.certificates: there is no certificate; certificates = [{ cert = "cert.pem", key = "key.pem" }]
    "#
    );
    insta::assert_snapshot!(
        mistakes(
            "[[listener]]\naddress = '127.0.0.1:1'\n[listener.tls]\nmin_version = '1.1'\n\
             client_ca = 'key.pem'\n\
             certificates = [{ cert = 'cert.pem', key = 'other.pem' }, { cert = 'none.pem', key = 'key.pem' },\n\
             { cert = 'cert.pem' }, { cert = 'cert.pem', key = 'cert.pem', pem = 1 }]\n"
        ),
        @r#"
    listener.tls.min_version: unknown value `1.1`; did you mean "1.2"?
    listener.tls.client_ca: `conf/key.pem` has no certificate in it; a file of PEM certificates, the server's own first
    listener.tls.certificates.key: `conf/other.pem` is not the key of this certificate; the key that the certificate was made for
    listener.tls.certificates.cert: `conf/none.pem` can't be read: entity not found; paths count from the directory of this file
    listener.tls.certificates.key: a certificate without its `key`; { cert = "cert.pem", key = "key.pem" }
    listener.tls.certificates.cert: `conf/cert.pem` has no private key in it; a PEM file with the private key, not encrypted
    listener.tls.certificates.pem: unknown key; -
    "#
    );
    insta::assert_snapshot!(
        mistakes(
            "[[listener]]\naddress = '127.0.0.1:1'\n[listener.tls]\nclient_certificate = 'optional'\n\
             certificates = [{ cert = 'cert.pem', key = 'key.pem' }]\n"
        ),
        @r#"listener.tls.client_certificate: it is not said who makes the certificates of clients; client_ca = "clients.pem""#
    );
    insta::assert_snapshot!(
        mistakes(
            "[[listener]]\naddress = '127.0.0.1:1'\n[listener.tls]\nclient_cert_header = true\n\
             certificates = [{ cert = 'cert.pem', key = 'key.pem' }]\n"
        ),
        @r#"listener.tls.client_cert_header: has no effect: clients are not asked for certificates; client_ca = "clients.pem""#
    );
}

#[test]
fn mistakes_in_response_headers_are_reported_with_what_would_be_right() {
    insta::assert_snapshot!(
        mistakes(
            "[response_headers]\nSet-Cookie = 'a=b'\nContent-Length = '1'\nProxy-Connection = 'x'\n\
             X_Session = 'x'\nX-Empty = ''\nX-Lines = \"a\\nb\"\n'X Space' = 'x'\nX-Number = 1\n\
             X-Gone = false\nX-Same = 'a'\nx-same = 'b'\n"
        ),
        @r#"
    response_headers.Set-Cookie: cookies are set by the application and by the proxy, not by the configuration; remove it
    response_headers.Content-Length: this header is not to be added: HTTP itself says in it how this message is sent; remove it
    response_headers.Proxy-Connection: this header is not to be added: HTTP itself says in it how this message is sent; remove it
    response_headers.X_Session: this header belongs to the header contract, and no client sees it; remove it
    response_headers.X-Empty: the text is empty; leave the key out, or give it a value
    response_headers.X-Lines: not the value of a header; visible ASCII and spaces between, like "nosniff"
    response_headers.X Space: not the name of a header; letters, digits and hyphens, like "X-Remote-User"
    response_headers.X-Number: expected text, found a number; put it in double quotes
    response_headers.X-Gone: only a route can do without a header that stands at the top; remove it
    response_headers.x-same: this header is named twice: capitals do not count; remove it
    "#
    );
    let routes = "[response_headers]\nX-A = 'a'\nX-B = 'b'\n[[route]]\npath = '/x'\n\
                  response_headers = { x-a = false, X-C = 'c' }\n";
    let config = file(routes).unwrap();
    let headers: Vec<_> = config
        .routes
        .iter()
        .map(|route| format!("{:?}", route.response_headers))
        .collect();
    assert_eq!(
        headers,
        [
            r#"[("x-b", "b"), ("x-c", "c")]"#,
            r#"[("x-a", "a"), ("x-b", "b")]"#
        ]
    );
}

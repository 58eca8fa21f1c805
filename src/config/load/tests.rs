use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::summary;
use super::*;
use crate::config::{RedisAddress, Storage};
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

#[test]
fn the_reference_is_the_defaults() {
    let reference = file(REFERENCE).unwrap();
    let defaults = variables(&[]).unwrap();
    assert_eq!(format!("{reference:#?}"), format!("{defaults:#?}"));
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let with_route = format!("{REFERENCE}\n[[route]]\npath = \"/x\"\n");
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
            tables.insert(table.clone());
        } else if let Some((name, _)) = line.split_once(" = ")
            && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
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
    let unknown: Vec<_> = keys.difference(&findings.known).collect();
    assert!(missing.is_empty(), "not in pycket.toml: {missing:?}");
    assert!(unknown.is_empty(), "only in pycket.toml: {unknown:?}");
}

#[test]
fn the_lines_of_the_reference_that_are_commented_out_are_keys_with_good_values() {
    let examples = [
        "engine = 'redis'\n[storage]\nurl = 'redis://127.0.0.1:6379'\nusername = 'pycket'\n\
         password = { env = 'REDIS_PASSWORD' }\ndatabase = 0",
        "engine = 'memcached'\n[storage]\nservers = ['127.0.0.1:11211']\nmax_connections = 8\n\
         timeout = '1s'\nconnect_timeout = '2s'\nbreaker_failures = 5\nbreaker_retry = '1s'",
        "[cookies]\ndomain = 'example.com'\nexpires = 2030-01-01T00:00:00Z\nmax_age = '30d'",
        "[headers]\nexpose = ['user', 'theme']\n[headers.inject]\n'X-Remote-User' = 'user'\n\
         'X-Display-Name' = { value = 'name', encode = 'utf-8' }",
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

    error: upstream: TLS to the upstream is not in this version yet
      --> conf/pycket.toml:2:12
      |
    2 | upstream = "https://app:9000/base"
      |            ^^^^^^^^^^^^^^^^^^^^^^^
      = help: http://host:port, like "http://127.0.0.1:9000"

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
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["2.2.2.2:2", "[::1]:2"]);
    assert_eq!(config.routes[0].upstream.authority, "c:80");
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
    assert_eq!(config.routes[0].path, "/static/");
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
    insta::assert_snapshot!(mistakes("[storage]\nformat = 'pycket'"), @r#"storage.format: format "pycket" is not in this version yet; "native""#);
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
        "redis-cluster://me:hunter2@db",
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
    assert_eq!(config.routes[2].upstream.authority, "b:80");
    assert_eq!(config.routes[4].upstream.authority, "127.0.0.1:9000");
}

#[test]
fn a_route_for_everything_takes_the_place_of_the_last() {
    let config = file("[[route]]\nsignals = false").unwrap();
    assert_eq!(config.routes.len(), 1);
    assert!(!config.routes[0].session.as_ref().unwrap().contract.signals);
}

#[test]
fn hosts_and_paths_that_no_request_has_are_refused() {
    let hosts = ["", "a:80", "*.a", "a b", "u@a", "http://a", "a/b"];
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
        Ok::<_, Problems>(config.routes[0].upstream.authority.to_string())
    };
    assert_eq!(upstream("http://app").unwrap(), "app:80");
    assert_eq!(upstream("http://[::1]:9000/").unwrap(), "[::1]:9000");
    let refused = [
        "app:9000",
        "https://app",
        "http://",
        "http://app/x",
        "http://app?x",
        "http://u:p@app",
        "http://app:0",
        "http://app:99999",
        "http://app:",
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
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]);
    insta::assert_snapshot!(mistakes("[forwarding]\ntrust = ['10.1.2.3/8', 'lan']"), @r#"
    forwarding.trust: `10.1.2.3/8` has bits set outside of the network; "10.0.0.0/8"
    forwarding.trust: `lan` is no network; "10.0.0.0/8", "fd00::/8", "192.0.2.7"
    "#);
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
    }
}

/// One key of each kind.
const KEYS: [&str; 16] = [
    "listen",
    "upstream",
    "workers",
    "storage.url",
    "storage.servers",
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

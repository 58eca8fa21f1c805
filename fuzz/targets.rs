//! What must hold for any bytes: one function for each fuzz target, which panics where it does not.
//!
//! `cargo fuzz` feeds them with what it makes up, the test suite with the corpora.

#![allow(dead_code, reason = "each fuzz target uses one of them")]

use std::num::NonZeroUsize;
use std::sync::LazyLock;

use bytes::Bytes;
use http::Method;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use pycket::clock::Timestamp;
use pycket::config::{Config, Flags, Hosts, Problems, RouteMatch, RoutePolicy, Sources};
use pycket::contract::response;
use pycket::cookie::signed::{Check, Invalid, Keyring};
use pycket::cookie::{self, Presented};
use pycket::format::pickle::Pickle;
use pycket::format::{Stored, native};
use pycket::proxy::route;
use pycket::server::proxy_protocol::{self, Parsed};
use pycket::session::{Json, SessionId};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const ID: SessionId = SessionId::from_bytes([7; 16]);

/// A configuration in which as much as possible is switched on.
static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    load(
        "headers.inject = { 'X-User' = 'user' }\nheaders.capture = { 'X-Auth' = 'user' }",
        &[("PYCKET_SECRET", SECRET)],
    )
    .expect("it is valid")
});

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, Problems> {
    let environment = environment.iter();
    let sources = Sources {
        file: Some(("pycket.toml".to_owned(), text.to_owned())),
        environment: environment
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: Flags::default(),
        processors: NonZeroUsize::MIN,
        read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    pycket::config::load(sources).map(|(config, _warnings)| config)
}

fn policy() -> &'static RoutePolicy {
    let last = CONFIG.routes.last().expect("there is a route");
    last.session.as_ref().expect("it has sessions")
}

/// Lines of a `Cookie` header: none of them verifies, and after ours is cut out it is not there.
pub(crate) fn cookie(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|&byte| byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, value);
        }
    }
    let policy = &CONFIG.cookie;
    let presented = cookie::read(&headers, policy, NOW);
    assert!(
        !matches!(presented, Presented::Verified { .. }),
        "{presented:?}"
    );
    cookie::strip(&mut headers, &policy.name);
    let presented = cookie::read(&headers, policy, NOW);
    assert!(matches!(presented, Presented::Absent), "{presented:?}");
}

/// A signed value: only what was signed counts, and only as it was signed.
pub(crate) fn signed_value(data: &[u8]) {
    let keyring = Keyring::single(SECRET.as_bytes());
    let name = "PYCKET_ID";
    let check = Check {
        name,
        min_version: 1,
        max_age_days: 31,
    };
    // Nobody who does not know the secret can make one.
    assert!(keyring.verify(check, data, NOW).is_err());
    let signed = [
        Some(keyring.sign(name, data, NOW)),
        keyring.sign_v1(name, data, NOW),
    ];
    for signed in signed.into_iter().flatten() {
        let verified = keyring.verify(check, signed.as_bytes(), NOW);
        let verified = verified.unwrap_or_else(|invalid| panic!("{signed}: {invalid}"));
        assert_eq!(verified.value.as_bytes(), data);
        // A change of any one byte, which the data chooses.
        let mut changed = signed.clone().into_bytes();
        let place = data.iter().map(|&byte| usize::from(byte)).sum::<usize>() % changed.len();
        changed[place] ^= 1;
        let refused: Result<_, Invalid> = keyring.verify(check, &changed, NOW);
        assert!(refused.is_err(), "{}", String::from_utf8_lossy(&changed));
    }
}

/// A pickle: what is read is written such that it reads the same, and names can be changed.
pub(crate) fn pickle(data: &[u8]) {
    let Ok(mut pickle) = Pickle::read(&Bytes::copy_from_slice(data)) else {
        return;
    };
    let view = pickle.view();
    let Ok(written) = pickle.write() else {
        return;
    };
    let again = Pickle::read(&Bytes::from(written)).expect("what was written can be read");
    assert_eq!(format!("{:?}", again.view()), format!("{view:?}"));
    assert_eq!(again.protocol(), pickle.protocol());
    let json = Json::string("alice");
    if pickle.set("user", &json).is_ok()
        && let Ok(written) = pickle.write()
    {
        let mut again = Pickle::read(&Bytes::from(written)).expect("what was written can be read");
        let view = again.view();
        // All values together may be too much to be shown.
        assert!(view.values.get("user") == Some(&json) || view.opaque.contains_key("user"));
        assert!(again.delete("user"));
        assert_eq!(again.view().values.get("user"), None);
    }
}

/// A native record: what is read is written as it was.
pub(crate) fn record(data: &[u8]) {
    let key = b"pycket:07070707-0707-0707-0707-070707070707";
    let record = Bytes::copy_from_slice(data);
    match native::decode(key, &record, 1 << 16) {
        Ok(Stored::Session(session)) => {
            let written = native::encode(key, &session);
            let Ok(Stored::Session(again)) = native::decode(key, &written, 1 << 17) else {
                panic!("what was written can be read");
            };
            assert_eq!(again, session);
        }
        Ok(Stored::Moved(id)) => {
            let written = native::encode_moved(key, &id);
            let again = native::decode(key, &written, 1 << 16);
            assert!(matches!(again, Ok(Stored::Moved(to)) if to == id));
        }
        Err(error) => drop(error.to_string()),
    }
}

/// Response heads with signals: none of them goes on, whatever they say.
pub(crate) fn signals(data: &[u8]) {
    const NAMES: [&str; 9] = [
        "x-session-set",
        "x-session-delete",
        "x-session-control",
        "x-notifications-set",
        "x-notifications-add",
        "x-notifications-taken",
        "x-auth",
        "x_session_set",
        "x-session",
    ];
    let mut headers = HeaderMap::new();
    for line in data.split(|&byte| byte == b'\n') {
        let Some((&first, value)) = line.split_first() else {
            continue;
        };
        let name = NAMES[usize::from(first) % NAMES.len()];
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let extracted = response::extract(&mut headers, &CONFIG.names, &policy().contract);
    assert!(headers.is_empty(), "{headers:?}");
    match extracted.signals {
        Ok(signals) if signals.destroy => assert!(!signals.renew),
        Ok(_) => {}
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                drop(error.to_string());
            }
        }
    }
}

/// A configuration: it is read, or its mistakes are told without the secrets in it.
pub(crate) fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let told = match load(&text, &[("PYCKET_SECRET", SECRET), ("OTHER", "hunter2")]) {
        Ok(config) => format!("{}{config:?}", pycket::config::summary(&config)),
        Err(problems) => problems.to_string(),
    };
    assert!(!told.contains("hunter2") || text.contains("hunter2"));
    assert!(!told.contains(SECRET) || text.contains(SECRET));
}

/// A path: whoever decodes it another time, or not at all, comes to the same route.
pub(crate) fn route(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else {
        return;
    };
    let rule = |path: &str| RouteMatch {
        host: Hosts::Every,
        path: path.to_owned(),
        methods: Vec::new(),
    };
    let routes = [rule("/static/"), rule("/admin"), rule("/")];
    let choose = |path: &str| route::choose(&routes, |route| route, &Method::GET, "h", path);
    let Ok(Some(chosen)) = choose(path) else {
        return;
    };
    for other in [path.replace("//", "/"), path.replace('\\', "/")] {
        if let Ok(Some(other)) = choose(&other) {
            assert_eq!(other.path, chosen.path, "{path}");
        }
    }
    assert!(path.starts_with(['/', '*']) || chosen.path == "/", "{path}");
}

/// The beginning of a connection from a load balancer: what is said of it does not depend on how it
/// comes in parts, and nothing of what follows the header is taken for a part of it.
pub(crate) fn proxy_header(data: &[u8]) {
    let whole = proxy_protocol::parse(data);
    // All prefixes of what may be long are too many.
    let head = &data[..data.len().min(300)];
    let mut earlier = Ok(Parsed::Incomplete);
    for end in 0..=head.len() {
        let parsed = proxy_protocol::parse(&head[..end]);
        if let Ok(Parsed::Header { length, .. }) = parsed {
            assert!(length <= end, "{length} of {end} bytes");
        }
        if earlier != Ok(Parsed::Incomplete) {
            assert_eq!(parsed, earlier, "decided before byte {end}");
        }
        earlier = parsed;
    }
    if earlier != Ok(Parsed::Incomplete) {
        assert_eq!(whole, earlier, "decided before the end");
    }
    match whole {
        Ok(Parsed::Header { length, .. }) => {
            assert_eq!(proxy_protocol::parse(&data[..length]), whole);
            let after = [&data[..length], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(proxy_protocol::parse(&after), whole);
        }
        // The longest header has 16 + 4096 bytes.
        Ok(Parsed::Incomplete) => assert!(data.len() < 4112, "{} bytes", data.len()),
        Err(error) => drop(error.to_string()),
    }
}

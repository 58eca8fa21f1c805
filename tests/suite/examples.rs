//! The applications in `examples/`, behind the proxy, with a store that copies share.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Address, Browser, Process, Pycket, Response};
use crate::python_app::python;
use crate::servers::{MemcachedServer, RedisServer};

/// The configuration that `examples/README.md` starts the proxy with.
const CONFIG: &str = include_str!("../../examples/pycket.toml");
const CGI_CONFIG: &str = include_str!("../../examples/cgi/pycket.toml");
const TORNADO_CONFIG: &str = include_str!("../../examples/tornado/pycket.toml");

/// An application on a port of its own; it is asked to end (SIGTERM) when this goes, so that its
/// own children end too.
#[derive(Debug)]
pub(crate) struct Application {
    process: Process,
    address: SocketAddr,
}

impl Application {
    /// Starts a server in the repository's root, and waits for the line in which it says where it
    /// listens.
    fn start(command: &mut Command, package: &str) -> Self {
        let process = in_root(command, package);
        let address = process.any_line("where it listens", |line| {
            let (_, rest) = line.split_once("http://")?;
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            rest.get(..end.unwrap_or(rest.len()))?.parse().ok()
        });
        Self { process, address }
    }

    fn php() -> Self {
        Self::start(
            Command::new("php").args(["-S", "127.0.0.1:0", "examples/php/index.php"]),
            "php-cli",
        )
    }

    pub(crate) fn gunicorn() -> Self {
        // By its path: a python environment may have put another one before it.
        let mut gunicorn = Command::new("/usr/bin/gunicorn");
        gunicorn.args([
            "--bind",
            "127.0.0.1:0",
            "--chdir",
            "examples/wsgi",
            "app:app",
        ]);
        Self::start(&mut gunicorn, "gunicorn")
    }

    pub(crate) fn node() -> Self {
        Self::start(
            Command::new("node")
                .arg("examples/node/server.js")
                .env("PORT", "0"),
            "nodejs",
        )
    }

    /// The one that has sessions by itself, from the Python library.
    fn tornado(engine: &str, storage: &Value) -> Self {
        Self::start(
            python()
                .arg("examples/tornado/app.py")
                .env("PORT", "0")
                .env("ENGINE", engine)
                .env("STORAGE", storage.to_string()),
            "python3",
        )
    }

    /// lighttpd takes port 0 for port 80; so it gets a socket that is bound already.
    fn lighttpd() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let config = include_str!("../../examples/cgi/lighttpd.conf");
        let bind = "= \"127.0.0.1\"";
        assert!(
            config.contains(bind) && config.contains("= 9000"),
            "the example has changed"
        );
        let config = config.replace(bind, "= \"/dev/stdin\"");
        let config = config.replace("= 9000", &format!("= {}", address.port()));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lighttpd.conf");
        fs::write(&path, config).expect("the directory can be written");

        let mut lighttpd = Command::new("/usr/sbin/lighttpd");
        lighttpd
            .arg("-D")
            .arg("-f")
            .arg(path)
            .stdin(OwnedFd::from(listener));
        let process = in_root(&mut lighttpd, "lighttpd");
        process.any_line("that it has started", |line| {
            line.contains("server started").then_some(())
        });
        Self { process, address }
    }
}

impl Address for Application {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.process.signal("TERM");
        self.process.wait();
    }
}

fn in_root(command: &mut Command, package: &str) -> Process {
    Process::start(command.current_dir(env!("CARGO_MANIFEST_DIR")), package)
}

/// Puts proxies with both shared stores in front of an application, and visits each.
fn visit(application: &Application, config: &str) {
    let redis = RedisServer::start();
    let memcached = MemcachedServer::start();
    let here = format!(
        "listen = '127.0.0.1:0'\nupstream = 'http://{}'",
        application.address
    );
    let pycket = || Pycket::exactly(config).config(&here);
    visit_by(&pycket().redis(&redis).start());
    visit_by(&pycket().memcached(&memcached).start());
}

#[track_caller]
fn shows(page: &Response, user: &str, visit: u32, flash: bool) {
    let text = page.text();
    assert_eq!(page.status, 200, "{text}");
    assert!(text.contains(&format!("Hello, {user}.")), "{user}: {text}");
    assert!(text.contains(&format!("Visit {visit}.")), "{visit}: {text}");
    assert_eq!(text.contains("Welcome back"), flash, "{text}");
}

fn visit_by(pycket: &Pycket) {
    let mut browser = Browser::at(pycket);
    shows(&browser.page("/"), "stranger", 1, false);
    shows(&browser.page("/"), "stranger", 2, false);

    let before = browser.cookie("PYCKET_ID").map(str::to_owned);
    let login = browser.post("/login", "user=alice");
    assert_eq!((login.status, login.header("Location")), (303, Some("/")));
    assert_ne!(
        browser.cookie("PYCKET_ID"),
        before.as_deref(),
        "a login makes a new id"
    );
    assert_eq!(browser.image("/favicon.ico").status, 404);
    shows(&browser.follow(&login), "alice", 3, true);
    shows(&browser.page("/"), "alice", 4, false);

    let twin = pycket.twin();
    shows(&browser.go_to(&twin).page("/"), "alice", 5, false);

    let logout = browser.post("/logout", "");
    assert_eq!(logout.status, 303);
    assert_eq!(browser.cookie("PYCKET_ID"), None);
    shows(&browser.go_to(pycket).page("/"), "stranger", 1, false);
}

#[test]
fn php_has_sessions() {
    visit(&Application::php(), CONFIG);
}

#[test]
fn wsgi_has_sessions() {
    visit(&Application::gunicorn(), CONFIG);
}

#[test]
fn cgi_has_sessions() {
    visit(&Application::lighttpd(), CGI_CONFIG);
}

#[test]
fn node_has_sessions() {
    visit(&Application::node(), CONFIG);
}

#[test]
fn tornado_has_sessions_from_the_python_library() {
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());
    let redis = json!({"host": "127.0.0.1", "port": redis.port()});
    let memcached = json!({"servers": [memcached.address()]});
    for (engine, storage) in [("redis", redis), ("memcached", memcached)] {
        let application = Application::tornado(engine, &storage);
        let mut browser = Browser::at(&application);
        shows(&browser.page("/"), "stranger", 1, false);
        shows(&browser.page("/"), "stranger", 2, false);
        let login = browser.post("/login", "user=alice");
        assert_eq!((login.status, login.header("Location")), (303, Some("/")));
        shows(&browser.follow(&login), "alice", 3, true);
        shows(&browser.page("/"), "alice", 4, false);
        assert_eq!(browser.post("/logout", "").status, 303);
        shows(&browser.page("/"), "stranger", 1, false);
    }
}

/// The configuration beside the Tornado application, with its lines for Memcached.
fn tornado_config_for_memcached() -> String {
    const REDIS: [&str; 4] = ["host ", "port ", "db_sessions ", "db_notifications "];
    let is_redis = |line: &&str| REDIS.iter().any(|key| line.starts_with(key));
    let lines: Vec<&str> = TORNADO_CONFIG.lines().collect();
    assert_eq!(lines.iter().filter(|line| is_redis(line)).count(), 4);
    let others = lines.into_iter().filter(|line| !is_redis(line));
    let other = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.contains(" = [") => rest.to_owned(),
        _ => line.to_owned(),
    };
    others.map(other).collect::<Vec<_>>().join("\n")
}

/// One browser, to and fro between the Tornado application and another one behind the proxy.
fn visit_both(tornado: &Application, pycket: &Pycket) {
    let mut browser = Browser::at(tornado);
    shows(&browser.page("/"), "stranger", 1, false);
    let login = browser.post("/login", "user=alice");
    browser.go_to(pycket);
    shows(&browser.follow(&login), "alice", 2, true);
    shows(&browser.page("/"), "alice", 3, false);
    shows(&browser.go_to(tornado).page("/"), "alice", 4, false);
    assert_eq!(browser.go_to(pycket).post("/logout", "").status, 303);
    shows(&browser.go_to(tornado).page("/"), "stranger", 1, false);

    let login = browser.go_to(pycket).post("/login", "user=bob");
    shows(&browser.go_to(tornado).follow(&login), "bob", 2, true);
    assert_eq!(browser.post("/logout", "").status, 303);
    shows(&browser.go_to(pycket).page("/"), "stranger", 1, false);
}

#[test]
fn tornado_shares_its_sessions_with_an_application_behind_the_proxy() {
    let php = Application::php();
    let here = format!(
        "listen = '127.0.0.1:0'\nupstream = 'http://{}'",
        php.address
    );

    let redis = RedisServer::start();
    let storage = json!({"host": "127.0.0.1", "port": redis.port()});
    let port = format!("storage.port = {}", redis.port());
    let pycket = Pycket::exactly(TORNADO_CONFIG).config(&here).config(&port);
    visit_both(&Application::tornado("redis", &storage), &pycket.start());

    let memcached = MemcachedServer::start();
    let storage = json!({"servers": [memcached.address()]});
    let pycket = Pycket::exactly(&tornado_config_for_memcached()).config(&here);
    let pycket = pycket.memcached(&memcached).start();
    visit_both(&Application::tornado("memcached", &storage), &pycket);
}

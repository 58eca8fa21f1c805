//! The Python library that the proxy succeeds, in a Tornado application (`tests/python/app.py`).
//!
//! ```text
//! let app = PythonApp::redis(&redis).secret(SECRET).start();
//! let mut browser = Browser::at(&app);
//! python_app::set(&mut browser, "user", &json!("alice"));
//! let seen = python_app::get(browser.go_to(&pycket), "user");
//! ```
//!
//! The functions ask whatever the browser is at: the application itself, or a proxy before it.
//!
//! [`Shared`] is such an application beside a proxy that has its sessions in the same place.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::harness::{Address, Browser, Process, Response, SECRET, Upstream};
use crate::servers::{MemcachedServer, RedisServer};
use crate::stage::{Stage, Store, obedient, on_engines, page, post};

/// An application that is yet to be started.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    engine: &'static str,
    secret: String,
    storage: Map<String, Value>,
    cookies: Option<Value>,
}

/// A running application with the real library. It is killed and reaped when this goes.
#[derive(Debug)]
pub(crate) struct PythonApp {
    builder: Builder,
    process: Process,
    /// Held here, so that the port stays while the application starts again.
    listener: TcpListener,
}

impl PythonApp {
    /// One that keeps its sessions in this Redis, with [`SECRET`] and the library's defaults.
    pub(crate) fn redis(server: &RedisServer) -> Builder {
        let storage = json!({"host": "127.0.0.1", "port": server.port()});
        Builder::new("redis").storage(&storage)
    }

    /// One that keeps its sessions in this memcached, with [`SECRET`] and the library's defaults.
    pub(crate) fn memcached(server: &MemcachedServer) -> Builder {
        let storage = json!({"servers": [server.address()]});
        Builder::new("memcached").storage(&storage)
    }

    /// Ends it at once and starts it again at the same address. Whoever connects in between waits.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        self.process = self.builder.run(&self.listener);
    }
}

impl Address for PythonApp {
    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("the listener is bound")
    }
}

impl Builder {
    fn new(engine: &'static str) -> Self {
        Self {
            engine,
            secret: SECRET.to_owned(),
            storage: Map::new(),
            cookies: None,
        }
    }

    /// Tornado's `cookie_secret`.
    pub(crate) fn secret(mut self, secret: &str) -> Self {
        secret.clone_into(&mut self.secret);
        self
    }

    /// Adds to the library's `storage` setting, or replaces what stands there, key by key:
    /// `{"db_sessions": 10}`, or `{"servers": ["127.0.0.1:1", ["127.0.0.1:2", 3]]}`.
    pub(crate) fn storage(mut self, more: &Value) -> Self {
        let more = more.as_object().expect("settings are an object");
        self.storage.extend(more.clone());
        self
    }

    /// The library's `cookies` setting: `{"expires_days": 120}`.
    pub(crate) fn cookies(mut self, cookies: Value) -> Self {
        self.cookies = Some(cookies);
        self
    }

    /// Starts it, and waits until it takes requests.
    pub(crate) fn start(self) -> PythonApp {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        PythonApp {
            process: self.run(&listener),
            builder: self,
            listener,
        }
    }

    fn run(&self, listener: &TcpListener) -> Process {
        let mut pycket = json!({"engine": self.engine, "storage": self.storage});
        if let Some(cookies) = &self.cookies {
            pycket["cookies"] = cookies.clone();
        }
        let settings = json!({"cookie_secret": self.secret, "pycket": pycket});
        let listener = listener.try_clone().expect("a descriptor is free");
        let mut command = python();
        command
            .arg("tests/python/app.py")
            .arg(settings.to_string())
            .stdin(OwnedFd::from(listener));
        let process = Process::start(&mut command, "python3");
        process.stdout_line("that it is ready", |line| (line == "ready").then_some(()));
        process
    }
}

/// The library and a proxy with `format = "pycket"`, side by side, with their sessions in one
/// place. Behind the proxy is another application.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) library: PythonApp,
    pub(crate) stage: Stage,
}

impl Shared {
    /// With the application that [`obedient`] is. In Memcached, `flash` and `news` are notifications.
    pub(crate) fn on(store: Store, config: &str) -> Self {
        Self::with(store, obedient(), config)
    }

    /// With this application behind the proxy.
    pub(crate) fn with(store: Store, app: Upstream, config: &str) -> Self {
        let (library, names) = match &store {
            Store::Memory => panic!("nobody shares a proxy's own memory"),
            Store::Redis(server) | Store::Near(server) => (PythonApp::redis(server), ""),
            Store::Memcached(server) => (
                PythonApp::memcached(server),
                "storage.notification_names = ['flash', 'news']",
            ),
        };
        let config = format!("storage.format = 'pycket'\n{names}\n{config}");
        Self {
            library: library.start(),
            stage: Stage::with(store, app, &config),
        }
    }

    /// A browser at the library's application, in whose session `user` is `"alice"`.
    pub(crate) fn alice(&self) -> Browser {
        let mut browser = Browser::at(&self.library);
        set(&mut browser, "user", &json!("alice"));
        browser
    }

    /// A form that is sent to the proxy, whose application answers with these lines.
    pub(crate) fn at_proxy(&self, browser: &mut Browser, answer: &[&str]) -> Response {
        post(browser.go_to(&self.stage.pycket), "/", answer)
    }

    /// A page that is loaded from the proxy, whose application answers with these lines.
    pub(crate) fn page_at_proxy(&self, browser: &mut Browser, answer: &[&str]) -> Response {
        page(browser.go_to(&self.stage.pycket), "/page", answer)
    }

    /// What the application behind the proxy sees of this browser's session.
    pub(crate) fn session(&self, browser: &mut Browser) -> Value {
        self.stage.session(browser.go_to(&self.stage.pycket))
    }

    /// The bytes under this key: the session's values.
    pub(crate) fn record(&self, id: &str) -> Option<Vec<u8>> {
        match &self.stage.store {
            Store::Memory => None,
            Store::Redis(server) | Store::Near(server) => server.get(0, id),
            Store::Memcached(server) => server.get(id).map(|(_flags, bytes)| bytes),
        }
    }

    /// Puts bytes under this key.
    pub(crate) fn put_record(&self, id: &str, bytes: &[u8]) {
        match &self.stage.store {
            Store::Memory => {}
            Store::Redis(server) | Store::Near(server) => server.set(0, id, bytes),
            Store::Memcached(server) => server.set(id, 0, bytes),
        }
    }
}

/// Checks the same facts with Redis and with Memcached, both at once.
pub(crate) fn on_both_stores(config: &str, facts: impl Fn(&Shared) + Sync) {
    on_engines([Store::redis(), Store::memcached()], |store| {
        facts(&Shared::on(store, config));
    });
}

/// The Python that has the library, at the repository's root, undisturbed by the environment.
///
/// # Panics
///
/// When `tests/run` has not made it yet.
pub(crate) fn python() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/python/bin/python");
    let made = root.join("target/python/pins.txt");
    assert!(
        made.exists() && python.exists(),
        "there is no Python with the library in target/python; `tests/run` makes it"
    );
    let mut command = Command::new(python);
    command.arg("-I").current_dir(root);
    command
}

/// What a script for the library's Python prints. `sys.argv[1]` is the argument.
pub(crate) fn python_says(script: &str, argument: &str) -> String {
    let output = python().args(["-c", script, argument]).output();
    let output = output.expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    text.trim_end().to_owned()
}

/// Sets a value in the session.
pub(crate) fn set(browser: &mut Browser, name: &str, value: &Value) {
    let value = value.to_string();
    ask(
        browser,
        "/session/set",
        &[("name", name), ("value", &value)],
    );
}

/// A value of the session; null when it is missing.
pub(crate) fn get(browser: &mut Browser, name: &str) -> Value {
    ask(browser, "/session/get", &[("name", name)])
}

/// Deletes a value of the session.
pub(crate) fn delete(browser: &mut Browser, name: &str) {
    ask(browser, "/session/delete", &[("name", name)]);
}

/// The names of all values in the session, sorted.
pub(crate) fn names(browser: &mut Browser) -> Value {
    ask(browser, "/session/names", &[])
}

/// The kinds of values that JSON can't say; `tests/python/app.py` tells what each is.
pub(crate) fn kinds(browser: &mut Browser) -> Vec<String> {
    let kinds = ask(browser, "/kinds", &[]);
    serde_json::from_value(kinds).expect("kinds are a list of names")
}

/// Sets a value of this kind in the session.
pub(crate) fn put(browser: &mut Browser, name: &str, kind: &str) {
    ask(browser, "/session/put", &[("name", name), ("kind", kind)]);
}

/// Whether the value is what [`put`] has set, type, sharing and all.
pub(crate) fn kept(browser: &mut Browser, name: &str, kind: &str) -> bool {
    let kept = ask(browser, "/session/kept", &[("name", name), ("kind", kind)]);
    kept == json!(true)
}

/// Leaves a notification.
pub(crate) fn notify(browser: &mut Browser, name: &str, value: &Value) {
    let value = value.to_string();
    let parameters = [("name", name), ("value", value.as_str())];
    ask(browser, "/notifications/set", &parameters);
}

/// A notification, which is gone by that; null when there is none.
pub(crate) fn show(browser: &mut Browser, name: &str) -> Value {
    ask(browser, "/notifications/show", &[("name", name)])
}

/// The names of all notifications that wait, sorted.
pub(crate) fn waiting(browser: &mut Browser) -> Value {
    ask(browser, "/notifications/waiting", &[])
}

/// The session id in the browser's cookie, as the library reads it; null when it takes none.
pub(crate) fn id(browser: &mut Browser) -> Value {
    ask(browser, "/id", &[])
}

/// Asks for anything that `tests/python/app.py` answers; a name may come several times.
#[track_caller]
pub(crate) fn ask(browser: &mut Browser, path: &str, parameters: &[(&str, &str)]) -> Value {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(parameters);
    let answer = browser.post(path, &form.finish());
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

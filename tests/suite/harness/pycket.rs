//! The real proxy, as a process.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use toml::Table;

use super::process::{Ended, Process};
use super::{Address, Upstream};
use crate::servers::{MemcachedServer, RedisServer};

/// The secret of every proxy in these tests.
pub(crate) const SECRET: &str = "a secret that only the tests of pycket use";

/// A proxy that is yet to be started.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    config: String,
    env: Vec<(String, String)>,
    program: Option<PathBuf>,
    /// How many descriptors it may have, and how far it may raise that.
    descriptors: Option<(u32, u32)>,
}

/// A running proxy. It is killed and reaped when this goes.
#[derive(Debug)]
pub(crate) struct Pycket {
    builder: Builder,
    process: Process,
    address: SocketAddr,
    file: ConfigFile,
}

impl Pycket {
    /// A proxy in front of an application, with sessions in its own memory.
    pub(crate) fn with(upstream: &Upstream) -> Builder {
        Self::to(upstream.address())
    }

    /// A proxy in front of whatever is, or is not, at this address.
    pub(crate) fn to(upstream: SocketAddr) -> Builder {
        Self::exactly("").config(&format!(
            "listen = '127.0.0.1:0'
             upstream = 'http://{upstream}'
             cookies.secret = '{SECRET}'
             log.format = 'json'"
        ))
    }

    /// A proxy with exactly this configuration file, byte for byte.
    pub(crate) fn exactly(config: &str) -> Builder {
        Builder {
            config: config.to_owned(),
            env: Vec::new(),
            program: None,
            descriptors: None,
        }
    }

    /// Starts a second copy with the same configuration, on a port of its own. The first one may
    /// have ended.
    pub(crate) fn twin(&self) -> Self {
        self.builder.clone().start()
    }

    /// Waits for a line of the access log that is like this.
    pub(crate) fn access(&self, is: impl Fn(&Value) -> bool) -> Value {
        self.process.stdout_line("that in its access log", |line| {
            let entry = serde_json::from_str(line);
            let entry = entry.unwrap_or_else(|error| panic!("{line}: not JSON: {error}"));
            is(&entry).then_some(entry)
        })
    }

    /// Waits for a message that contains this text.
    pub(crate) fn says(&self, text: &str) -> String {
        let find = |line: &str| line.contains(text).then(|| line.to_owned());
        self.process.stderr_line(&format!("{text:?}"), find)
    }

    /// Where it listens besides its first address.
    pub(crate) fn second_address(&self) -> SocketAddr {
        let other = |line: &str| listens_on(line).filter(|address| *address != self.address);
        self.process.stderr_line("where else it listens", other)
    }

    /// Sends a signal, named as `kill` names it: `"TERM"`.
    pub(crate) fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Writes its configuration file anew, with this added or replaced.
    pub(crate) fn reconfigure(&mut self, toml: &str) {
        self.builder = self.builder.clone().config(toml);
        self.file.write(self.builder.text());
    }

    /// Writes its configuration file anew, and waits until it holds.
    pub(crate) fn reload(&mut self, toml: &str) {
        self.reconfigure(toml);
        let said = self.process.count("the configuration was reloaded");
        self.signal("HUP");
        self.process
            .says_more_often("the configuration was reloaded", said);
    }

    /// Writes exactly this as its configuration file.
    pub(crate) fn overwrite(&self, text: &str) {
        self.file.write(text);
    }

    /// The process, whose output successors share.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> Ended {
        self.process.wait()
    }

    /// Waits until the process itself has ended, whoever shares its output; its exit code.
    pub(crate) fn gone(&mut self) -> Option<i32> {
        self.process.exit_code()
    }

    /// Asks it to stop (SIGTERM), and waits until it has.
    pub(crate) fn stop(&mut self) -> Ended {
        self.signal("TERM");
        self.ended()
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(&mut self) -> Ended {
        self.process.kill();
        self.ended()
    }
}

impl Address for Pycket {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Builder {
    /// Adds to the configuration, or replaces what it says: tables are joined key by key.
    pub(crate) fn config(mut self, toml: &str) -> Self {
        let mut table: Table = self.config.parse().expect("the harness writes TOML");
        let more = toml
            .parse()
            .unwrap_or_else(|error| panic!("{toml}: {error}"));
        join(&mut table, more);
        self.config = table.to_string();
        self
    }

    /// Keeps sessions in this engine.
    pub(crate) fn engine(self, engine: &str) -> Self {
        self.config(&format!("engine = '{engine}'"))
    }

    /// Keeps sessions in this Redis.
    pub(crate) fn redis(self, server: &RedisServer) -> Self {
        let url = format!("redis://127.0.0.1:{}", server.port());
        self.engine("redis")
            .config(&format!("storage.url = '{url}'"))
    }

    /// Keeps sessions in this memcached.
    pub(crate) fn memcached(self, server: &MemcachedServer) -> Self {
        let servers = format!("storage.servers = ['{}']", server.address());
        self.engine("memcached").config(&servers)
    }

    /// Sets an environment variable of the proxy.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the program that is there.
    pub(crate) fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    /// Limits its descriptors to so many, which it may raise to so many.
    pub(crate) fn descriptors(mut self, at_first: u32, at_most: u32) -> Self {
        self.descriptors = Some((at_first, at_most));
        self
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(self) -> Pycket {
        let file = ConfigFile::new(&self.config);
        let process = self.spawn(&file);
        let address = process.stderr_line("where it listens", listens_on);
        Pycket {
            builder: self,
            process,
            address,
            file,
        }
    }

    /// Starts it, and waits until it has given up.
    pub(crate) fn start_expecting_failure(self) -> Ended {
        let file = ConfigFile::new(&self.config);
        let ended = self.spawn(&file).wait();
        assert_ne!(ended.code, Some(0), "it must not start:\n{}", ended.stderr);
        ended
    }

    /// The configuration file as it is now.
    pub(crate) fn text(&self) -> &str {
        &self.config
    }

    fn spawn(&self, file: &ConfigFile) -> Process {
        let path = self.program.as_ref().map(|path| path.as_os_str());
        let path = path.unwrap_or(OsStr::new(PROGRAM));
        let mut command = match self.descriptors {
            Some((at_first, at_most)) => {
                let limits = format!("ulimit -Sn {at_first} && ulimit -Hn {at_most}");
                let script = format!("{limits} && exec \"$0\" \"$@\"");
                let mut shell = program_at(OsStr::new("sh"));
                shell.args(["-c", &script]).arg(path);
                shell
            }
            None => program_at(path),
        };
        command.arg("run").arg("--config").arg(file.path());
        command.envs(self.env.iter().cloned());
        Process::start(&mut command, "of this project")
    }
}

/// The address in a message that says where it listens.
fn listens_on(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    let end = rest.find(|c: char| !c.is_ascii_hexdigit() && !".:[]".contains(c));
    rest.get(..end.unwrap_or(rest.len()))?.parse().ok()
}

/// Where the program is.
const PROGRAM: &str = env!("CARGO_BIN_EXE_pycket");

/// The program, without arguments.
pub(crate) fn program() -> Command {
    program_at(OsStr::new(PROGRAM))
}

fn program_at(path: &OsStr) -> Command {
    let mut command = Command::new(path);
    // Whoever runs the tests may have a proxy configured by its environment.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PYCKET_") {
            command.env_remove(name);
        }
    }
    command
}

/// A configuration file that goes with its proxy.
#[derive(Debug)]
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(text: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pycket-{}-{number}.toml", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let file = Self(path);
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("the directory can be written");
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        // A file that is left behind harms nobody.
        std::fs::remove_file(&self.0).unwrap_or_default();
    }
}

fn join(table: &mut Table, more: Table) {
    for (key, value) in more {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => join(old, new),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

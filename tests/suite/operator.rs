//! What an operator types: commands of the program, with configuration files of their own.
//!
//! ```text
//! let desk = Desk::new();
//! let config = desk.config("new", &native_in_redis(&redis));
//! let said = desk.run(&["session", "list", "--config", &config]);
//! assert_eq!(said.code, Some(0), "{said:?}");
//! ```

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{SECRET, program};
use crate::servers::{MemcachedServer, RedisServer};

/// A folder for files, which goes with it.
#[derive(Debug)]
pub(crate) struct Desk(TempDir);

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// What it wrote, when all went well.
    #[track_caller]
    pub(crate) fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// The JSON object that it wrote, when all went well.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.fine()).expect("the output is JSON")
    }

    /// The objects that it wrote, one a line.
    #[track_caller]
    pub(crate) fn lines(self) -> Vec<Value> {
        let text = self.fine();
        let objects = text.lines().map(serde_json::from_str);
        objects.collect::<Result<_, _>>().expect("each is JSON")
    }
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().expect("a folder can be made"))
    }

    /// The path of a file, which need not be there.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a configuration file, and gives its path.
    pub(crate) fn config(&self, name: &str, storage: &str) -> String {
        self.file(name, &format!("cookies.secret = '{SECRET}'\n{storage}"))
    }

    /// Writes a file, and gives its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("the folder can be written");
        path.to_str().expect("the path is text").to_owned()
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.run_with_input(arguments, "")
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Said {
        let mut child = self.child(program().args(arguments).stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().expect("it is piped");
        // Most commands end without reading.
        let _unread = stdin.write_all(input.as_bytes());
        drop(stdin);
        Self::said(child)
    }

    /// Starts a command.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.child(program().args(arguments).stdin(Stdio::null()))
    }

    /// Waits until it has ended.
    pub(crate) fn said(child: Child) -> Said {
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("the output is text");
        Said {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    fn child(&self, command: &mut Command) -> Child {
        let command = command.current_dir(self.0.path());
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        piped.spawn().expect("the program starts")
    }
}

/// `[storage]` of the proxy's own format in a Redis, under its default prefix.
pub(crate) fn native_in_redis(server: &RedisServer) -> String {
    let port = server.port();
    format!("engine = 'redis'\n[storage]\nurl = 'redis://127.0.0.1:{port}'\n")
}

/// `[storage]` of the Python library's format in a Redis.
pub(crate) fn pycket_in_redis(server: &RedisServer) -> String {
    let port = server.port();
    format!("engine = 'redis'\n[storage]\nformat = 'pycket'\nport = {port}\n")
}

/// `[storage]` of the proxy's own format in a memcached.
pub(crate) fn native_in_memcached(server: &MemcachedServer) -> String {
    let address = server.address();
    format!("engine = 'memcached'\n[storage]\nservers = ['{address}']\n")
}

/// `[storage]` of the Python library's format in a memcached, where `flash` is a notification.
pub(crate) fn pycket_in_memcached(server: &MemcachedServer) -> String {
    let address = server.address();
    format!(
        "engine = 'memcached'\n[storage]\nformat = 'pycket'\nservers = ['{address}']\n\
         notification_names = ['flash']\n"
    )
}

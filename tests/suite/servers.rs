//! Real Redis and memcached servers, each on a free port and in a directory of its own.
//!
//! A server is ready when its `start` returns, and is stopped and reaped when it is dropped, also
//! by a panic. Everything blocks; calls take a few milliseconds.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

pub(crate) use cluster::{ClusterOptions, RedisCluster};

mod cluster;

/// How long a server may take to start or to answer. Only a broken one takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody else may take a free port before the server does.
const PORT_ATTEMPTS: usize = 5;

/// A child process that is killed and reaped when it is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program and waits until a line of its output contains `ready`; `None` when it ends
    /// before.
    pub(crate) fn start(mut command: Command, package: &str, ready: &'static str) -> Option<Self> {
        let (output, input) = std::io::pipe().expect("a pipe");
        command
            .stdin(Stdio::null())
            .stdout(input.try_clone().expect("a pipe"))
            .stderr(input);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("can't run {program} ({error}); install the Debian package {package}")
        });
        // The command holds the writing end too, and would keep the pipe from ending.
        drop(command);
        let process = Self(child);
        let (tell, told) = mpsc::channel();
        // Reads on to the end, so that the server never waits for room in the pipe.
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if String::from_utf8_lossy(&line).contains(ready) {
                    // Nobody listens any more after the first time.
                    tell.send(()).ok();
                }
            }
        });
        match told.recv_timeout(PATIENCE) {
            Ok(()) => Some(process),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{program} does not become ready"),
        }
    }

    fn signal(&self, name: &str) {
        let done = Command::new("sh")
            .args(["-c", "kill -$0 $1", name, &self.0.id().to_string()])
            .status();
        assert!(done.expect("sh runs").success(), "kill -{name}");
    }

    /// Stops the process as SIGSTOP does, and returns when it stands still.
    fn pause(&self) {
        self.signal("STOP");
        // A signal is delivered in its own time; the kernel says when it has been.
        let stat = format!("/proc/{}/stat", self.0.id());
        loop {
            let text = std::fs::read_to_string(&stat).expect("the process is there");
            let (_, state) = text.rsplit_once(") ").expect("a process has a state");
            if state.starts_with('T') {
                return;
            }
            thread::yield_now();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A free port of the loopback address; the kernel gives each of several calls another one.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// What makes a Redis server different from the plainest.
#[derive(Clone, Debug, Default)]
pub(crate) struct RedisOptions {
    /// Whether it also listens on a unix socket.
    pub(crate) unix_socket: bool,
    /// The password of the default user.
    pub(crate) password: Option<String>,
    /// Name and password of a second user that may do everything.
    pub(crate) user: Option<(String, String)>,
    /// Whether it also listens with TLS, with a certificate for `localhost` and `127.0.0.1`.
    pub(crate) tls: bool,
    /// More of the command line: `["--maxmemory", "2mb"]`.
    pub(crate) arguments: Vec<String>,
}

/// A Redis server without persistence. It always listens on a TCP port without TLS.
#[derive(Debug)]
pub(crate) struct RedisServer {
    process: Option<Process>,
    options: RedisOptions,
    port: u16,
    tls_port: u16,
    directory: TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(RedisOptions::default())
    }

    pub(crate) fn start_with(options: RedisOptions) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        if options.tls {
            make_certificates(directory.path());
        }
        let mut server = Self {
            process: None,
            options,
            port: 0,
            tls_port: 0,
            directory,
        };
        for _ in 0..PORT_ATTEMPTS {
            (server.port, server.tls_port) = (free_port(), free_port());
            server.process = server.run();
            if server.process.is_some() {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The port by which a node of a cluster talks with the others.
    fn cluster_port(&self) -> u16 {
        self.argument("--cluster-port")
    }

    /// The number that stands after this argument of the command line.
    fn argument(&self, name: &str) -> u16 {
        let mut arguments = self.options.arguments.iter().skip_while(|one| *one != name);
        let value = arguments.nth(1).expect("the argument is there");
        value.parse().expect("its value is a number")
    }

    fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn tls_port(&self) -> u16 {
        self.tls_port
    }

    pub(crate) fn unix_socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// PEM of the authority that has signed the server's certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Ends the server at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Lets it stand still: connections stay open and nothing is answered.
    pub(crate) fn pause(&self) {
        self.running().pause();
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        self.running().signal("CONT");
    }

    /// Starts it again on the same ports, empty.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = self.run();
        assert!(self.process.is_some(), "redis-server does not start again");
    }

    /// Sends a command on a new connection and returns the answer.
    pub(crate) fn command(&self, command: &[&str]) -> Reply {
        exchange(&mut self.connect(), command)
    }

    /// Sends a command about another database, with any bytes as its arguments.
    pub(crate) fn command_in(&self, database: u8, command: &[&[u8]]) -> Reply {
        let mut stream = self.connect();
        let answer = exchange(&mut stream, &["SELECT", &database.to_string()]);
        assert_eq!(answer, Reply::Text(b"OK".to_vec()));
        exchange(&mut stream, command)
    }

    /// The bytes under a key of a database.
    pub(crate) fn get(&self, database: u8, key: &str) -> Option<Vec<u8>> {
        match self.command_in(database, &[b"GET", key.as_bytes()]) {
            Reply::Text(bytes) => Some(bytes),
            Reply::Nil => None,
            reply @ (Reply::Number(_) | Reply::Error(_) | Reply::List(_)) => panic!("{reply:?}"),
        }
    }

    /// Puts bytes under a key of a database, where they stay.
    pub(crate) fn set(&self, database: u8, key: &str, bytes: &[u8]) {
        let answer = self.command_in(database, &[b"SET", key.as_bytes(), bytes]);
        assert_eq!(answer, Reply::Text(b"OK".to_vec()));
    }

    fn connect(&self) -> TcpStream {
        let mut stream = connect(self.port);
        if let Some(password) = &self.options.password {
            let answer = exchange(&mut stream, &["AUTH", password]);
            assert_eq!(answer, Reply::Text(b"OK".to_vec()));
        }
        stream
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("redis-server runs")
    }

    fn run(&self) -> Option<Process> {
        let mut command = Command::new("redis-server");
        let port = self.port.to_string();
        command
            .args(["--port", &port, "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(self.directory.path());
        if self.options.unix_socket {
            command.arg("--unixsocket").arg(self.unix_socket());
        }
        if let Some(password) = &self.options.password {
            command.args(["--requirepass", password]);
        }
        if let Some((name, password)) = &self.options.user {
            let password = format!(">{password}");
            command.args(["--user", name, "on", &password, "~*", "&*", "+@all"]);
        }
        if self.options.tls {
            let file = |name| self.directory.path().join(name).into_os_string();
            let tls_port = self.tls_port.to_string();
            command
                .args(["--tls-port", &tls_port, "--tls-auth-clients", "no"])
                .args([OsStr::new("--tls-cert-file"), &file("server.pem")])
                .args([OsStr::new("--tls-key-file"), &file("server.key")])
                .args([OsStr::new("--tls-ca-cert-file"), &file("ca.pem")]);
        }
        command.args(&self.options.arguments);
        Process::start(command, "redis-server", "Ready to accept connections")
    }
}

/// Makes `ca.pem`, and `server.pem` with `server.key` that it has signed.
pub(crate) fn make_certificates(directory: &Path) {
    let config = "[req]\ndistinguished_name = name\nprompt = no\n\
        [name]\nCN = localhost\n\
        [ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign\n\
        [server]\nbasicConstraints = critical, CA:FALSE\n\
        subjectAltName = DNS:localhost, IP:127.0.0.1\n";
    std::fs::write(directory.join("openssl.cnf"), config).expect("the directory is ours");
    let make = |name: &str, more: &[&str]| {
        let output = Command::new("openssl")
            .current_dir(directory)
            .args(["req", "-x509", "-config", "openssl.cnf", "-days", "2"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-extensions", name])
            .args(["-keyout", &format!("{name}.key")])
            .args(["-out", &format!("{name}.pem")])
            .args(more)
            .output()
            .unwrap_or_else(|error| {
                panic!("can't run openssl ({error}); install the Debian package openssl")
            });
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl: {text}");
    };
    make("ca", &["-subj", "/CN=test authority"]);
    make("server", &["-CA", "ca.pem", "-CAkey", "ca.key"]);
}

/// An answer of Redis (RESP2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Nil,
    Number(i64),
    Text(Vec<u8>),
    Error(String),
    List(Vec<Self>),
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("the timeout is not zero");
    stream
}

fn exchange(stream: &mut TcpStream, command: &[impl AsRef<[u8]>]) -> Reply {
    let mut request = Vec::new();
    write!(request, "*{}\r\n", command.len()).expect("memory takes it");
    for argument in command {
        let argument = argument.as_ref();
        write!(request, "${}\r\n", argument.len()).expect("memory takes it");
        request.extend_from_slice(argument);
        request.extend_from_slice(b"\r\n");
    }
    stream.write_all(&request).expect("Redis reads");
    read_reply(&mut BufReader::new(stream))
}

fn read_reply(reader: &mut impl BufRead) -> Reply {
    let mut line = String::new();
    reader.read_line(&mut line).expect("Redis answers");
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).expect("an answer has a type");
    let number = || rest.parse::<i64>().expect("a number");
    match kind {
        "+" => Reply::Text(rest.into()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Number(number()),
        "$" => usize::try_from(number()).map_or(Reply::Nil, |length| {
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes).expect("Redis sends it all");
            bytes.truncate(length);
            Reply::Text(bytes)
        }),
        "*" => usize::try_from(number()).map_or(Reply::Nil, |length| {
            Reply::List((0..length).map(|_| read_reply(reader)).collect())
        }),
        _ => panic!("not RESP2: {line}"),
    }
}

/// A memcached server.
#[derive(Debug)]
pub(crate) struct MemcachedServer {
    process: Option<Process>,
    arguments: Vec<String>,
    port: u16,
}

impl MemcachedServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// `arguments` are more of the command line: `["-m", "8"]`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let mut server = Self {
            process: None,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            port: 0,
        };
        for _ in 0..PORT_ATTEMPTS {
            server.port = free_port();
            server.process = server.run();
            if server.process.is_some() {
                return server;
            }
        }
        panic!("memcached does not start");
    }

    /// `host:port`, as in the configuration.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends the server at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Lets it stand still: connections stay open and nothing is answered.
    pub(crate) fn pause(&self) {
        self.running().pause();
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        self.running().signal("CONT");
    }

    /// Starts it again on the same port, empty.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = self.run();
        assert!(self.process.is_some(), "memcached does not start again");
    }

    /// Sends a line on a new connection and returns the first line of the answer.
    pub(crate) fn command(&self, line: &str) -> String {
        read_line(&mut self.send(format!("{line}\r\n").as_bytes()))
    }

    /// Flags and bytes under a key.
    pub(crate) fn get(&self, key: &str) -> Option<(u32, Vec<u8>)> {
        let mut answer = self.send(format!("get {key}\r\n").as_bytes());
        let head = read_line(&mut answer);
        if head == "END" {
            return None;
        }
        let rest = head.strip_prefix(&format!("VALUE {key} "));
        let (flags, length) = rest
            .and_then(|rest| rest.split_once(' '))
            .unwrap_or_else(|| panic!("{head}"));
        let mut bytes = vec![0; length.parse().expect("a length")];
        answer.read_exact(&mut bytes).expect("it sends them all");
        Some((flags.parse().expect("a number"), bytes))
    }

    /// Puts bytes under a key, where they stay.
    pub(crate) fn set(&self, key: &str, flags: u32, bytes: &[u8]) {
        let head = format!("set {key} {flags} 0 {}\r\n", bytes.len());
        let request = [head.as_bytes(), bytes, b"\r\n"].concat();
        assert_eq!(read_line(&mut self.send(&request)), "STORED");
    }

    /// Sends a request on a new connection, from which the answer can be read.
    fn send(&self, request: &[u8]) -> BufReader<TcpStream> {
        let mut stream = connect(self.port);
        stream.write_all(request).expect("memcached reads");
        BufReader::new(stream)
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("memcached runs")
    }

    fn run(&self) -> Option<Process> {
        let mut command = Command::new("memcached");
        // Verbose, so that it says when it listens; it ignores -u unless root starts it.
        command
            .args(["-l", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-U", "0", "-u", "root", "-t", "1", "-vv"])
            .args(&self.arguments);
        Process::start(command, "memcached", "server listening")
    }
}

fn read_line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("memcached answers");
    line.trim_end().to_owned()
}

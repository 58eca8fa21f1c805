//! Servers as processes: stores, the proxy, and others beside it.

use std::fmt::Write as _;
use std::io::{Read as _, Seek as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::{CERTIFICATE, Engine, KEY, Outcome, free_address};

/// How long a server may take to listen, and to end. One that runs under Valgrind takes seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server that listens. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    name: String,
    child: Child,
}

impl Server {
    /// Starts a program and waits until something listens at this address.
    pub(crate) async fn start(command: &mut Command, address: SocketAddr) -> Outcome<Self> {
        let name = command.as_std().get_program().display().to_string();
        let mut said = tempfile::tempfile()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said.try_clone()?)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("can't start {name}: {error}"))?;
        let mut server = Self {
            address,
            name,
            child,
        };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = server.child.try_wait()? {
                let mut text = String::new();
                said.rewind()?;
                said.read_to_string(&mut text)?;
                return Err(format!("{} ended: {status}\n{text}", server.name).into());
            }
            if Instant::now() > end {
                return Err(format!("{} does not listen", server.name).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    pub(crate) async fn stop(mut self) -> Outcome<()> {
        let kill = format!("kill -TERM {}", self.pid()?);
        Command::new("sh").args(["-c", &kill]).status().await?;
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => drop(status?),
            Err(late) => return Err(format!("{} does not end: {late}", self.name).into()),
        }
        Ok(())
    }

    /// The number of the process.
    pub(crate) fn pid(&self) -> Outcome<u32> {
        Ok(self.child.id().ok_or("it has ended")?)
    }
}

/// A Redis and a memcached, without persistence.
#[derive(Debug)]
pub(crate) struct Stores {
    redis: Server,
    memcached: Server,
}

impl Stores {
    /// Starts both.
    pub(crate) async fn start() -> Outcome<Self> {
        let address = free_address()?;
        let mut redis = Command::new("redis-server");
        redis.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
        redis.args(["--save", "", "--appendonly", "no"]);
        let redis = Server::start(&mut redis, address).await?;
        let address = free_address()?;
        let mut memcached = Command::new("memcached");
        memcached.args(["-l", "127.0.0.1", "-p", &address.port().to_string()]);
        // It ignores -u unless root starts it.
        memcached.args(["-U", "0", "-u", "root", "-t", "1"]);
        let memcached = Server::start(&mut memcached, address).await?;
        Ok(Self { redis, memcached })
    }
}

/// What the proxy runs under, such as `valgrind` and its arguments.
pub(crate) type Wrapper = Vec<String>;

/// The proxy with one worker. Everything is as by default, the access log, too, which goes to
/// `/dev/null`.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The process.
    pub(crate) server: Server,
    /// Where it listens for TLS.
    pub(crate) tls: SocketAddr,
    _directory: TempDir,
}

impl Proxy {
    /// Starts it in front of an application; `more` stands in its configuration, too.
    pub(crate) async fn start(
        program: &Path,
        wrapper: &Wrapper,
        application: SocketAddr,
        engine: Engine,
        stores: &Stores,
        more: &str,
    ) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let (address, tls) = (free_address()?, free_address()?);
        let mut config = format!(
            "listen = '{address}'\nupstream = 'http://{application}'\nengine = '{engine}'\n\
             workers = 1\ncookies.secret = 'a secret that only the benches use'\n\
             limits.max_requests_per_connection = 1000000000\nlog.level = 'warn'\n{more}\n"
        );
        match engine {
            Engine::Memory => {}
            Engine::Redis | Engine::Near => {
                let redis = stores.redis.address;
                writeln!(config, "storage.url = 'redis://{redis}'")?;
                // So long that only what Redis tells counts.
                let cache = "cache.enabled = true\ncache.max_staleness = '1h'";
                writeln!(
                    config,
                    "{}",
                    if engine == Engine::Near { cache } else { "" }
                )?;
            }
            Engine::Memcached => {
                let memcached = stores.memcached.address;
                writeln!(config, "storage.servers = ['{memcached}']")?;
            }
        }
        writeln!(
            config,
            "[[listener]]\naddress = '{tls}'\n\
             tls.certificates = [{{ cert = '{CERTIFICATE}', key = '{KEY}' }}]"
        )?;
        let file = directory.path().join("pycket.toml");
        std::fs::write(&file, config)?;
        let mut words = wrapper.iter();
        let mut command = match words.next() {
            Some(first) => Command::new(first),
            None => Command::new(program),
        };
        command.args(words);
        if !wrapper.is_empty() {
            command.arg(program);
        }
        command.arg("run").arg("--config").arg(&file);
        Ok(Self {
            server: Server::start(&mut command, address).await?,
            tls,
            _directory: directory,
        })
    }
}

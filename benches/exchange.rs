//! What an exchange costs on the loopback: `cargo bench --bench exchange`.
//!
//! The proxy has one worker, and its load one thread, so two processors are enough. Rounds go through
//! all scenarios, so that what else happens on the machine meets all of them alike. See
//! `benches/README.md`.

#[path = "exchange/floor.rs"]
mod floor;
#[path = "exchange/growth.rs"]
mod growth;
#[path = "exchange/measure.rs"]
mod measure;
mod stage;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use measure::{Rounds, Scenario};
use stage::application::Application;
use stage::load::{Errand, Manner};
use stage::server::{Proxy, Server, Stores, Wrapper};
use stage::{Arguments, BEGIN, CHANGE, Engine, LARGE, Outcome, PAGE, UPLOAD, say};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
cargo bench --bench exchange -- [options]
  --program PATH   measure this program instead of the one that cargo built
  --rounds N       how often each scenario is measured (default 5)
  --seconds N      for how long each time (default 2)
  --browsers N     how many ask at a time (default 64)
  --growth         measure what the number and the size of sessions cost instead
  --most N         with it, the most sessions that are stored (default 1000000)";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    stage::conclude(bench().await)
}

async fn bench() -> Outcome<ExitCode> {
    let mut arguments = Arguments::read();
    if arguments.flag("--help") {
        say(USAGE)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(addresses) = arguments.value(floor::FLAG) {
        floor::serve(&addresses).await?;
    }
    let program = arguments.program();
    let rounds = arguments.number("--rounds", 5)?;
    let seconds = arguments.number("--seconds", 2)?;
    let browsers = usize::try_from(arguments.number("--browsers", 64)?)?;
    let most = usize::try_from(arguments.number("--most", 1_000_000)?)?;
    let growth = arguments.flag("--growth");
    arguments.end(USAGE)?;

    let application = Application::start()?.address;
    let rounds = Rounds {
        count: rounds,
        span: Duration::from_secs(seconds.into()),
        browsers,
    };
    if growth {
        growth::run(&program, application, most, &rounds).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let proxies = Proxies::start(&program, application).await?;
    let mut scenarios = proxies.scenarios(application);
    rounds.run(&mut scenarios).await?;
    report(&scenarios)?;
    proxies.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// What is measured: a proxy on each engine, the least that one on hyper can do, and nginx, if it is
/// installed.
struct Proxies {
    memory: Proxy,
    redis: Proxy,
    near: Proxy,
    memcached: Proxy,
    /// Only where the bench itself is optimised: it would not be the least otherwise.
    floor: Option<Server>,
    nginx: Option<Server>,
    _stores: Stores,
    _directory: TempDir,
}

impl Proxies {
    async fn start(program: &Path, application: SocketAddr) -> Outcome<Self> {
        let stores = Stores::start().await?;
        let proxy = async |engine| {
            let none = Wrapper::new();
            Proxy::start(program, &none, application, engine, &stores, "").await
        };
        let directory = tempfile::tempdir()?;
        Ok(Self {
            memory: proxy(Engine::Memory).await?,
            redis: proxy(Engine::Redis).await?,
            near: proxy(Engine::Near).await?,
            memcached: proxy(Engine::Memcached).await?,
            floor: if cfg!(debug_assertions) {
                None
            } else {
                Some(floor::start(application).await?)
            },
            nginx: nginx(application, directory.path()).await?,
            _stores: stores,
            _directory: directory,
        })
    }

    fn scenarios(&self, application: SocketAddr) -> Vec<Scenario<'_>> {
        let page = |of: &Proxy| Errand::with_session(of.server.address, PAGE);
        let (memory, redis) = (&self.memory, &self.redis);
        let of = |path| Errand::with_session(redis.server.address, path);
        let by = |manner| Errand {
            to: redis.tls,
            manner,
            ..page(redis)
        };
        let plain = Errand::new(memory.server.address, PAGE);
        let begins = Errand::new(redis.server.address, BEGIN);
        let mut scenarios = vec![
            Scenario::new("application alone", Errand::new(application, PAGE), None),
            Scenario::new("plain forwarding", plain, Some(&memory.server)),
        ];
        for (name, errand, proxy) in [
            ("session, memory", page(memory), memory),
            ("session, Redis", page(redis), redis),
            ("session, near cache", page(&self.near), &self.near),
            ("session, memcached", page(&self.memcached), &self.memcached),
            ("session changes", of(CHANGE), redis),
            ("session begins", begins, redis),
            ("answer of 10 KiB", of(LARGE), redis),
            ("upload of 10 KiB", of(UPLOAD), redis),
            ("TLS", by(Manner::Tls), redis),
            ("TLS and HTTP/2", by(Manner::Http2), redis),
        ] {
            scenarios.push(Scenario::new(name, errand, Some(&proxy.server)));
        }
        for (name, server) in [("hyper alone", &self.floor), ("nginx, plain", &self.nginx)] {
            if let Some(server) = server {
                let errand = Errand::new(server.address, PAGE);
                scenarios.push(Scenario::new(name, errand, Some(server)));
            }
        }
        scenarios
    }

    async fn stop(self) -> Outcome<()> {
        for proxy in [self.memory, self.redis, self.near, self.memcached] {
            proxy.server.stop().await?;
        }
        Ok(())
    }
}

/// nginx as a proxy that only forwards, if it is installed.
async fn nginx(application: SocketAddr, directory: &Path) -> Outcome<Option<Server>> {
    // Debian has it where only root looks.
    let places = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"];
    let Some(program) = places.iter().find(|place| Path::new(place).exists()) else {
        return Ok(None);
    };
    let address = stage::free_address()?;
    let mut config = format!(
        "daemon off; master_process off; worker_processes 1; pid {0}/pid; error_log {0}/error error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; tcp_nodelay on; keepalive_requests 1000000000;\n",
        directory.display()
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(config, "{kind}_temp_path {}/{kind};", directory.display())?;
    }
    write!(
        config,
        "upstream application {{ server {application}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {address}; location / {{ proxy_pass http://application;\n\
         proxy_http_version 1.1; proxy_set_header Connection ''; }} }} }}\n"
    )?;
    let file = directory.join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut command = Command::new(program);
    command.arg("-e").arg(directory.join("error"));
    command.arg("-c").arg(file);
    Ok(Some(Server::start(&mut command, address).await?))
}

/// Prints minimum, median and maximum of each figure, and the ratios of the best rounds: whatever else
/// runs on the machine only ever adds to the cost, so the best repeat where medians do not.
fn report(scenarios: &[Scenario<'_>]) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    let [alone, plain, ..] = scenarios else {
        return Ok(());
    };
    let (most, least) = (alone.rate().maximum, plain.cost().minimum);
    writeln!(
        out,
        "{:<20} {:^24} {:^22} {:^15} {:^15}",
        "", "requests per second", "CPU us per request", "of alone: req/s", "of plain: CPU"
    )?;
    for scenario in scenarios {
        let (rate, cost) = (scenario.rate(), scenario.cost());
        write!(
            out,
            "{:<20} {:>7.0} {:>7.0} {:>7.0}  ",
            scenario.name, rate.minimum, rate.median, rate.maximum
        )?;
        let of_alone = rate.maximum / most;
        if scenario.server.is_none() {
            writeln!(out, "{:>22} {of_alone:>15.2}", "-")?;
            continue;
        }
        let of_plain = cost.minimum / least;
        writeln!(
            out,
            "{:>6.1} {:>7.1} {:>7.1} {of_alone:>15.2} {of_plain:>15.2}",
            cost.minimum, cost.median, cost.maximum
        )?;
    }
    Ok(())
}

//! What an exchange costs on the loopback: `cargo bench --bench exchange`.
//!
//! The proxy has one worker, and its load one thread, so two processors are enough. Rounds go through
//! all scenarios, so that what else happens on the machine meets all of them alike. See
//! `benches/README.md`.

mod stage;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::task::JoinSet;

use stage::application::Application;
use stage::load::{self, Browser};
use stage::server::{Proxy, Server, Stores, Wrapper};
use stage::{Arguments, Engine, Outcome, PAGE, say};

const USAGE: &str = "\
cargo bench --bench exchange -- [options]
  --program PATH   measure this program instead of the one that cargo built
  --rounds N       how often each scenario is measured (default 5)
  --seconds N      for how long each time (default 2)
  --browsers N     how many ask at a time (default 64)";

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
    let program = arguments.program();
    let rounds = arguments.number("--rounds", 5)?;
    let seconds = arguments.number("--seconds", 2)?;
    let browsers = usize::try_from(arguments.number("--browsers", 64)?)?;
    arguments.end(USAGE)?;

    let application = Application::start()?.address;
    let stores = Stores::start().await?;
    let proxy = async |engine| {
        let none = Wrapper::new();
        Proxy::start(&program, &none, application, engine, &stores).await
    };
    let memory = proxy(Engine::Memory).await?;
    let redis = proxy(Engine::Redis).await?;
    let near = proxy(Engine::Near).await?;
    let memcached = proxy(Engine::Memcached).await?;
    let directory = tempfile::tempdir()?;
    let nginx = nginx(application, directory.path()).await?;

    let mut scenarios = vec![
        Scenario::new("application alone", application, None),
        Scenario::new(
            "plain forwarding",
            memory.server.address,
            Some(&memory.server),
        ),
    ];
    for (name, proxy) in [
        ("session, memory", &memory),
        ("session, Redis", &redis),
        ("session, near cache", &near),
        ("session, memcached", &memcached),
    ] {
        let server = &proxy.server;
        scenarios.push(Scenario::new(name, server.address, Some(server)).with_sessions());
    }
    if let Some(nginx) = &nginx {
        scenarios.push(Scenario::new("nginx, plain", nginx.address, Some(nginx)));
    }
    for scenario in &mut scenarios {
        scenario.prepare(browsers).await?;
    }
    for _ in 0..rounds {
        for scenario in &mut scenarios {
            scenario
                .measure(Duration::from_secs(seconds.into()))
                .await?;
        }
    }
    report(&scenarios)?;
    for proxy in [memory, redis, near, memcached] {
        proxy.server.stop().await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One way to ask for the same page.
struct Scenario<'a> {
    name: &'static str,
    address: SocketAddr,
    server: Option<&'a Server>,
    has_session: bool,
    browsers: Vec<Browser>,
    rounds: Vec<Round>,
}

/// What one round has shown.
#[derive(Clone, Copy)]
struct Round {
    requests_per_second: f64,
    /// The server's processor time for one request, in microseconds.
    processor: f64,
}

impl<'a> Scenario<'a> {
    fn new(name: &'static str, address: SocketAddr, server: Option<&'a Server>) -> Self {
        Self {
            name,
            address,
            server,
            has_session: false,
            browsers: Vec::new(),
            rounds: Vec::new(),
        }
    }

    fn with_sessions(mut self) -> Self {
        self.has_session = true;
        self
    }

    /// Begins the sessions, and lets everything warm up.
    async fn prepare(&mut self, browsers: usize) -> Outcome<()> {
        self.browsers = load::browsers(self.address, PAGE, self.has_session, browsers).await?;
        self.run(Duration::from_millis(500)).await?;
        Ok(())
    }

    /// Lets each browser ask again whenever it was answered; says how often all were.
    async fn run(&mut self, span: Duration) -> Outcome<u32> {
        let end = Instant::now() + span;
        let mut running = JoinSet::new();
        for mut browser in self.browsers.drain(..) {
            running.spawn(async move {
                let mut answers: u32 = 0;
                while Instant::now() < end {
                    browser.ask().await?;
                    answers += 1;
                }
                Outcome::Ok((browser, answers))
            });
        }
        let mut sum = 0;
        while let Some(ended) = running.join_next().await {
            let (browser, answers) = ended??;
            self.browsers.push(browser);
            sum += answers;
        }
        Ok(sum)
    }

    async fn measure(&mut self, span: Duration) -> Outcome<()> {
        let server = self.server;
        let used = || server.map_or(Ok(Duration::ZERO), processor_time);
        let (begin, before) = (Instant::now(), used()?);
        let requests = self.run(span).await?;
        let (elapsed, after) = (begin.elapsed(), used()?);
        let requests = f64::from(requests);
        let used = after.saturating_sub(before);
        self.rounds.push(Round {
            requests_per_second: requests / elapsed.as_secs_f64(),
            processor: used.as_secs_f64() * 1e6 / requests,
        });
        Ok(())
    }

    fn rate(&self) -> Spread {
        spread(self.rounds.iter().map(|round| round.requests_per_second))
    }

    fn cost(&self) -> Spread {
        spread(self.rounds.iter().map(|round| round.processor))
    }
}

/// The processor time that a server has used so far, in user mode and in the kernel, by all threads.
fn processor_time(server: &Server) -> Outcome<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid()?))?;
    // The name may contain anything, so fields count from its end (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(") ").ok_or("no name in /proc/PID/stat")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || fields.next().ok_or("/proc/PID/stat is short");
    let (user, system): (u64, u64) = (ticks()?.parse()?, ticks()?.parse()?);
    // Linux shows programs 100 ticks a second, whatever it counts by.
    Ok(Duration::from_millis((user + system) * 10))
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

struct Spread {
    minimum: f64,
    median: f64,
    maximum: f64,
}

fn spread(figures: impl Iterator<Item = f64>) -> Spread {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let at = |place: usize| figures.get(place).copied().unwrap_or(f64::NAN);
    Spread {
        minimum: at(0),
        median: at(figures.len() / 2),
        maximum: at(figures.len().saturating_sub(1)),
    }
}

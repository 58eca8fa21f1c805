//! How many instructions an exchange costs the proxy: `cargo bench --bench instructions`.
//!
//! The figures repeat to within a per cent on any machine, however busy it is, so they show a change
//! that no clock would. They say nothing of the kernel, which takes most of the time. See
//! `benches/README.md`.

mod stage;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stage::application::Application;
use stage::load::{Errand, Manner};
use stage::server::{Proxy, Stores};
use stage::{Arguments, BEGIN, CHANGE, Engine, Outcome, PAGE, say};

const USAGE: &str = "\
cargo bench --bench instructions -- [options]
  --accept         keep these figures as the accepted ones
  --program PATH   measure this program instead of the one that cargo built
  --rounds N       the difference between N and 2N rounds is measured (default 125)
  --only NAME      one scenario";

/// As many browsers ask, one after the other. Were they to ask at once, chance would say how many of
/// them, and how many answers of Redis, the proxy meets in one turn: the figures would be a sixth
/// lower and differ by three per cent from run to run.
const BROWSERS: usize = 8;

/// A figure may grow by this part of a hundred.
const TOLERANCE: f64 = 3.0;

struct Scenario {
    name: &'static str,
    engine: Engine,
    path: &'static str,
    has_session: bool,
    manner: Manner,
}

const fn scenario(
    name: &'static str,
    engine: Engine,
    path: &'static str,
    has_session: bool,
) -> Scenario {
    Scenario {
        name,
        engine,
        path,
        has_session,
        manner: Manner::Plain,
    }
}

const SCENARIOS: [Scenario; 9] = [
    scenario("plain", Engine::Redis, PAGE, false),
    scenario("read_memory", Engine::Memory, PAGE, true),
    scenario("read_redis", Engine::Redis, PAGE, true),
    scenario("read_near", Engine::Near, PAGE, true),
    scenario("read_memcached", Engine::Memcached, PAGE, true),
    scenario("change_redis", Engine::Redis, CHANGE, true),
    scenario("begin_redis", Engine::Redis, BEGIN, false),
    Scenario {
        manner: Manner::Tls,
        ..scenario("read_tls", Engine::Redis, PAGE, true)
    },
    Scenario {
        manner: Manner::Http2,
        ..scenario("read_http2", Engine::Redis, PAGE, true)
    },
];

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
    let accepts = arguments.flag("--accept");
    let program = arguments.program();
    let rounds = arguments.number("--rounds", 125)?;
    let only = arguments.value("--only");
    arguments.end(USAGE)?;
    let is_meant = |scenario: &&Scenario| only.as_deref().is_none_or(|only| only == scenario.name);
    let scenarios: Vec<&Scenario> = SCENARIOS.iter().filter(is_meant).collect();
    if scenarios.is_empty() {
        let names = SCENARIOS.map(|scenario| scenario.name).join(", ");
        return Err(format!("--only is one of {names}").into());
    }

    let bench = Bench {
        program,
        rounds,
        application: Application::start()?,
        stores: Stores::start().await?,
        directory: tempfile::tempdir()?,
    };
    let mut table = Table::read()?;
    let mut is_worse = false;
    say("scenario         instructions  spread  accepted  difference")?;
    for scenario in scenarios {
        let (one, other) = (
            bench.measure(scenario).await?,
            bench.measure(scenario).await?,
        );
        let lower = one.min(other);
        let spread = per_cent(lower, one.max(other))?;
        let mut line = format!("{:<16} {lower:>12} {spread:>6.2}%", scenario.name);
        if let Some(&accepted) = table.0.get(scenario.name) {
            let difference = per_cent(accepted, lower)?;
            write!(line, " {accepted:>9} {difference:>+10.2}%")?;
            is_worse |= difference > TOLERANCE;
        }
        say(&line)?;
        table.0.insert(scenario.name.to_owned(), lower);
    }
    if accepts {
        table.write()?;
    } else if is_worse {
        say("more than 3 per cent up: find out why, or take the figures with --accept")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    program: PathBuf,
    rounds: u32,
    application: Application,
    stores: Stores,
    directory: tempfile::TempDir,
}

impl Bench {
    /// The instructions of one exchange: those of twice as many less those of as many, so that
    /// start and end don't count.
    async fn measure(&self, scenario: &Scenario) -> Outcome<u64> {
        let once = self.count(scenario, self.rounds).await?;
        let twice = self.count(scenario, 2 * self.rounds).await?;
        let difference = twice.checked_sub(once).ok_or("more requests cost less")?;
        let requests = u64::from(self.rounds) * u64::try_from(BROWSERS)?;
        Ok(difference / requests)
    }

    /// The instructions of a whole run of the proxy with that many rounds.
    async fn count(&self, scenario: &Scenario, rounds: u32) -> Outcome<u64> {
        let out = self.directory.path().join("callgrind.out");
        let wrapper = vec![
            "valgrind".to_owned(),
            "--tool=callgrind".to_owned(),
            format!("--callgrind-out-file={}", out.display()),
            format!("--log-file={}", self.directory.path().join("log").display()),
        ];
        let (application, stores) = (self.application.address, &self.stores);
        let engine = scenario.engine;
        let proxy = Proxy::start(&self.program, &wrapper, application, engine, stores, "").await?;
        let to = match scenario.manner {
            Manner::Plain => proxy.server.address,
            Manner::Tls | Manner::Http2 => proxy.tls,
        };
        let address = proxy.server.address;
        let errand = if scenario.has_session {
            Errand::with_session(address, scenario.path)
        } else {
            Errand::new(address, scenario.path)
        };
        let errand = Errand {
            to,
            manner: scenario.manner,
            ..errand
        };
        let mut browsers = errand.browsers(BROWSERS).await?;
        for _ in 0..rounds {
            for browser in &mut browsers {
                browser.ask().await?;
            }
        }
        proxy.server.stop().await?;
        total(&out)
    }
}

/// The instructions of all functions and threads, from what Callgrind has written.
fn total(out: &Path) -> Outcome<u64> {
    let text = std::fs::read_to_string(out)?;
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix("summary: ");
        rest.or_else(|| line.strip_prefix("totals: "))
    });
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("Callgrind has written no total")?.parse()?)
}

/// By how many per cent the second differs from the first.
fn per_cent(from: u64, to: u64) -> Outcome<f64> {
    let (from, to) = (
        f64::from(u32::try_from(from)?),
        f64::from(u32::try_from(to)?),
    );
    Ok((to / from - 1.0) * 100.0)
}

/// The accepted figures.
struct Table(BTreeMap<String, u64>);

impl Table {
    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.toml");

    fn read() -> Outcome<Self> {
        Ok(Self(toml::from_str(&std::fs::read_to_string(Self::PATH)?)?))
    }

    fn write(&self) -> Outcome<()> {
        let mut text = String::from(
            "# Instructions of the proxy for one exchange, as last accepted. Written by\n\
             # `cargo bench --bench instructions -- --accept`; benches/README.md says what they are.\n",
        );
        for (name, count) in &self.0 {
            writeln!(text, "{name} = {count}")?;
        }
        Ok(std::fs::write(Self::PATH, text)?)
    }
}

//! What an exchange costs as sessions grow, in number and in size. It should be flat in the number of
//! sessions that are stored and of values in one, and linear in bytes.

use std::net::SocketAddr;
use std::path::Path;

use tokio::task::JoinSet;

use crate::measure::{Rounds, Scenario};
use crate::stage::load::Errand;
use crate::stage::server::{Proxy, Stores, Wrapper};
use crate::stage::{BEGIN, Engine, Outcome, PAGE, say};

/// Of many sessions, so many are read by each browser.
const SAMPLE: usize = 256;
/// So many browsers begin sessions that are not read.
const FILLERS: usize = 64;
/// Bytes of the values as JSON, and how many values they are.
const SHAPES: [(usize, usize); 7] = [
    (100, 1),
    (1024, 1),
    (1024, 8),
    (1024, 64),
    (4096, 8),
    (16384, 1),
    (16384, 64),
];
/// Sessions that are stored.
const COUNTS: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// Measures all, with up to `most` sessions.
pub(crate) async fn run(
    program: &Path,
    application: SocketAddr,
    most: usize,
    rounds: &Rounds,
) -> Outcome<()> {
    let mut stages = Vec::new();
    let counts = || COUNTS.into_iter().filter(|&count| count <= most);
    // Each number has a Redis of its own, and all shapes share another one.
    for _ in std::iter::once(0).chain(counts()) {
        stages.push(Stage::start(program, application).await?);
    }
    let mut scenarios = Vec::new();
    let mut stages = stages.iter();
    if let Some(stage) = stages.next() {
        for (bytes, values) in SHAPES {
            let name = format!("{bytes} bytes, {values} values");
            let errand = Errand {
                begins: format!("{BEGIN}/{bytes}/{values}"),
                ..stage.errand()
            };
            scenarios.push(Scenario::new(name, errand, Some(&stage.proxy.server)));
        }
    }
    for (stage, count) in stages.zip(counts()) {
        let errand = Errand {
            sessions: SAMPLE.min(count / rounds.browsers).max(1),
            ..stage.errand()
        };
        stage
            .fill(count.saturating_sub(errand.sessions * rounds.browsers))
            .await?;
        let name = format!("{count} sessions of 1 KiB");
        scenarios.push(Scenario::new(name, errand, Some(&stage.proxy.server)));
    }
    rounds.run(&mut scenarios).await?;
    say("                            CPU us per request     requests per second")?;
    for scenario in &scenarios {
        let (cost, rate) = (scenario.cost(), scenario.rate());
        say(&format!(
            "{:<26} {:>6.1} {:>6.1} {:>6.1} {:>9.0} {:>7.0} {:>7.0}",
            scenario.name,
            cost.minimum,
            cost.median,
            cost.maximum,
            rate.minimum,
            rate.median,
            rate.maximum
        ))?;
    }
    Ok(())
}

/// A proxy on a Redis of its own.
struct Stage {
    proxy: Proxy,
    _stores: Stores,
}

impl Stage {
    async fn start(program: &Path, application: SocketAddr) -> Outcome<Self> {
        let stores = Stores::start().await?;
        // An application that keeps so much in its sessions has to allow it.
        let more = "headers.budget = '32KiB'";
        let none = Wrapper::new();
        let engine = Engine::Redis;
        let proxy = Proxy::start(program, &none, application, engine, &stores, more).await?;
        Ok(Self {
            proxy,
            _stores: stores,
        })
    }

    fn errand(&self) -> Errand {
        Errand::with_session(self.proxy.server.address, PAGE)
    }

    /// Begins so many sessions.
    async fn fill(&self, count: usize) -> Outcome<()> {
        let errand = Errand::new(self.proxy.server.address, BEGIN);
        let mut filling = JoinSet::new();
        for (number, mut browser) in errand.browsers(FILLERS).await?.into_iter().enumerate() {
            let share = count / FILLERS + usize::from(number < count % FILLERS);
            filling.spawn(async move {
                for _ in 0..share {
                    browser.ask().await?;
                }
                Outcome::Ok(())
            });
        }
        while let Some(filled) = filling.join_next().await {
            filled??;
        }
        Ok(())
    }
}

//! Rounds of requests, and the processor time that a server takes for them.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::stage::Outcome;
use crate::stage::load::{Browser, Errand};
use crate::stage::server::Server;

/// How scenarios are measured.
pub(crate) struct Rounds {
    /// How often each.
    pub(crate) count: u32,
    /// For how long each time.
    pub(crate) span: Duration,
    /// How many browsers ask at a time.
    pub(crate) browsers: usize,
}

impl Rounds {
    /// Goes through all scenarios again and again, so that what else happens on the machine meets all
    /// of them alike.
    pub(crate) async fn run(&self, scenarios: &mut [Scenario<'_>]) -> Outcome<()> {
        for scenario in &mut *scenarios {
            scenario.prepare(self.browsers).await?;
        }
        for _ in 0..self.count {
            for scenario in &mut *scenarios {
                scenario.measure(self.span).await?;
            }
        }
        Ok(())
    }
}

/// One way to ask.
pub(crate) struct Scenario<'a> {
    /// What it is called.
    pub(crate) name: String,
    errand: Errand,
    /// Who answers, where the processor time is of interest.
    pub(crate) server: Option<&'a Server>,
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
    /// Nothing is asked yet.
    pub(crate) fn new(name: impl Into<String>, errand: Errand, server: Option<&'a Server>) -> Self {
        Self {
            name: name.into(),
            errand,
            server,
            browsers: Vec::new(),
            rounds: Vec::new(),
        }
    }

    /// Begins the sessions, and lets everything warm up.
    async fn prepare(&mut self, browsers: usize) -> Outcome<()> {
        self.browsers = self.errand.browsers(browsers).await?;
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

    /// Requests per second.
    pub(crate) fn rate(&self) -> Spread {
        spread(self.rounds.iter().map(|round| round.requests_per_second))
    }

    /// Microseconds of the server's processor time for a request.
    pub(crate) fn cost(&self) -> Spread {
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

/// The least, the middle and the most of all rounds.
pub(crate) struct Spread {
    pub(crate) minimum: f64,
    pub(crate) median: f64,
    pub(crate) maximum: f64,
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

//! What goes on while the workers serve: orders are carried out, and ends are noticed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::connection::Room;
use super::handover::{self, HandoverError, Predecessor};
use super::sockets::{Changed, Entrance, Sockets};
use super::worker::Change;
use super::{BoxError, Next, Order, Phase, Report, RunError, certificates};
use crate::telemetry::chain;

/// How long connections have to end by themselves when a successor serves.
const YIELD: Duration = Duration::from_secs(5);

/// A worker's end.
pub(super) type Exit = (usize, Result<Report, BoxError>);

/// What the workers are told, and what they tell.
pub(super) struct Workers<M> {
    pub(super) phase: watch::Sender<Phase>,
    /// Ends when no worker listens any more.
    pub(super) listening: mpsc::Receiver<Infallible>,
    /// Ends when all workers have.
    pub(super) exited: mpsc::Receiver<Exit>,
    /// Each worker that serves says so once.
    pub(super) starts: mpsc::Receiver<()>,
    /// One for each worker.
    pub(super) changes: Vec<mpsc::Sender<Change<M>>>,
    pub(super) entrances: Vec<Arc<Entrance>>,
    pub(super) room: Room,
    /// The process that waits until this one serves.
    pub(super) predecessor: Option<Predecessor>,
}

/// Tells what becomes of a successor.
type Handover = oneshot::Receiver<Result<(), HandoverError>>;

/// What happens to a server.
enum Event<M> {
    Told(Order<M>),
    Exited(Option<Exit>),
    /// One more worker serves.
    Started(Option<()>),
    /// A successor serves, or won't.
    Succeeded(Result<(), HandoverError>),
}

/// Carries out orders until the workers have ended.
pub(super) async fn supervise<M>(
    mut workers: Workers<M>,
    announce: impl FnOnce(),
    orders: &mut impl AsyncFnMut() -> Order<M>,
) -> Result<Report, RunError> {
    // Polled once before anybody can know that there is something to stop: a signal that came
    // before it is listened for would end the process.
    let mut waiting = VecDeque::new();
    tokio::select! {
        biased;
        order = orders() => waiting.push_back(order),
        () = std::future::ready(()) => {}
    }
    if waiting.is_empty() {
        announce();
    }
    let mut fresh = keep_fresh(&workers);
    let mut starting = workers.changes.len();
    let mut successor = None;
    let first = loop {
        let event = if let Some(order) = waiting.pop_front() {
            Event::Told(order)
        } else {
            tokio::select! {
                order = orders() => Event::Told(order),
                exit = workers.exited.recv() => Event::Exited(exit),
                start = workers.starts.recv(), if starting > 0 => Event::Started(start),
                outcome = outcome(&mut successor) => Event::Succeeded(outcome),
            }
        };
        match event {
            Event::Told(Order::Stop) => break None,
            Event::Told(Order::Reload(next)) => {
                let outcome = tokio::select! {
                    outcome = workers.reload(next) => outcome,
                    // A store that does not answer can hold a reload up.
                    () = told_to_stop(orders, &mut waiting) => break None,
                };
                if tell(outcome) {
                    fresh.abort();
                    fresh = keep_fresh(&workers);
                }
            }
            Event::Told(Order::Upgrade(_)) if successor.is_some() => {
                warn!("a successor is starting already");
            }
            Event::Told(Order::Upgrade(command)) => successor = workers.begin_handover(command),
            Event::Succeeded(Ok(())) => {
                info!("the successor serves: this process stops");
                workers.leave_files();
                return stop(workers, None, Phase::Yielding, orders).await;
            }
            Event::Succeeded(Err(error)) => {
                successor = None;
                error!(
                    error = chain(&error),
                    "there is no successor: this process goes on"
                );
            }
            Event::Started(Some(())) => {
                starting = starting.saturating_sub(1);
                if starting == 0 {
                    workers.dismiss_predecessor();
                }
            }
            // One has failed, which comes next.
            Event::Started(None) => starting = 0,
            Event::Exited(exit) => break exit,
        }
    };
    stop(workers, first, Phase::Draining, orders).await
}

/// Waits for the order to stop. Others wait until they are asked for; of configurations, only the newest
/// does.
async fn told_to_stop<M>(
    orders: &mut impl AsyncFnMut() -> Order<M>,
    waiting: &mut VecDeque<Order<M>>,
) {
    loop {
        match orders().await {
            Order::Stop => return,
            order @ Order::Reload(_) => {
                waiting.retain(|order| !matches!(order, Order::Reload(_)));
                waiting.push_back(order);
            }
            order @ Order::Upgrade(_) => waiting.push_back(order),
        }
    }
}

/// Says what came of a reload; whether the new configuration holds.
fn tell(outcome: Result<(), BoxError>) -> bool {
    match outcome {
        Ok(()) => info!("the configuration was reloaded"),
        Err(error) => {
            error!(
                error = chain(&*error),
                "the configuration was not reloaded: the old one stays"
            );
            return false;
        }
    }
    true
}

/// Waits for what becomes of a successor, where there is one.
async fn outcome(successor: &mut Option<Handover>) -> Result<(), HandoverError> {
    match successor {
        Some(told) => {
            let told = told.await;
            told.unwrap_or_else(|_| Err(HandoverError::Ended("it was not started".to_owned())))
        }
        None => std::future::pending().await,
    }
}

fn keep_fresh<M>(workers: &Workers<M>) -> AbortHandle {
    tokio::spawn(certificates::keep_fresh(workers.entrances.clone())).abort_handle()
}

/// Ends all workers, at once when one of them has ended already. When all sockets are closed, it goes
/// on with `then`.
async fn stop<M>(
    mut workers: Workers<M>,
    first: Option<Exit>,
    then: Phase,
    orders: &mut impl AsyncFnMut() -> Order<M>,
) -> Result<Report, RunError> {
    let mut report = Report::default();
    let mut failure = None;
    for entrance in &workers.entrances {
        entrance.forget_sockets();
    }
    if let Some(exit) = first {
        workers.phase.send_replace(Phase::Stopped);
        settle(exit, &mut report, &mut failure);
    } else {
        info!("stopping: exchanges may finish");
        workers.phase.send_replace(Phase::Closing);
    }
    loop {
        let now = *workers.phase.borrow();
        tokio::select! {
            exit = workers.exited.recv() => match exit {
                Some(exit) => settle(exit, &mut report, &mut failure),
                None => break,
            },
            _ = workers.listening.recv(), if now == Phase::Closing => {
                for entrance in &workers.entrances {
                    entrance.remove_file();
                }
                workers.phase.send_replace(then);
            }
            () = sleep(YIELD), if now == Phase::Yielding => {
                workers.phase.send_replace(Phase::Draining);
            }
            order = orders(), if now != Phase::Stopped => if let Order::Stop = order {
                warn!("stopping at once");
                workers.phase.send_replace(Phase::Stopped);
            }
        }
    }
    info!(
        finished = report.finished,
        cut_off = report.cut_off,
        "stopped"
    );
    failure.map_or(Ok(report), Err)
}

fn settle((index, outcome): Exit, report: &mut Report, failure: &mut Option<RunError>) {
    match outcome {
        Ok(worker) => {
            report.finished = report.finished.saturating_add(worker.finished);
            report.cut_off = report.cut_off.saturating_add(worker.cut_off);
        }
        Err(source) => {
            failure.get_or_insert(RunError::Worker { index, source });
        }
    }
}

impl<M> Workers<M> {
    fn begin_handover(&self, command: Command) -> Option<Handover> {
        let mut sockets = Vec::new();
        for entrance in &self.entrances {
            match entrance.copies() {
                Ok(copies) => sockets.extend(copies),
                Err(error) => {
                    error!(%error, "the sockets can't be handed over: this process goes on");
                    return None;
                }
            }
        }
        Some(handover::begin(command, sockets))
    }

    /// They are the successor's.
    fn leave_files(&self) {
        for entrance in &self.entrances {
            entrance.leave_file();
        }
    }

    fn dismiss_predecessor(&mut self) {
        if let Some(predecessor) = self.predecessor.take()
            && let Err(error) = predecessor.dismiss()
        {
            // It has ended already, as it would have.
            warn!(%error, "the process before this one does not hear that this one serves");
        }
    }

    /// Goes on with another configuration, or changes nothing.
    ///
    /// When it is dropped, nothing has changed.
    async fn reload(&mut self, next: Next<M>) -> Result<(), BoxError> {
        let Next { config, make } = next;
        let count = self.changes.len();
        let changed = Sockets::change(&self.entrances, &config.listeners, count)?;
        let Changed {
            sockets,
            doors,
            removed,
        } = changed;
        let names = sockets.names();
        let make = Arc::new(make);
        let (ready, mut readiness) = mpsc::channel(count.max(1));
        let mut waiting = Vec::with_capacity(count);
        for (worker, sockets) in self.changes.iter().zip(sockets.sets) {
            let (go, goes) = oneshot::channel();
            let change = Change {
                config: Arc::clone(&config),
                make: Arc::clone(&make),
                sockets,
                ready: ready.clone(),
                go: goes,
            };
            // One that has ended is missed below.
            worker.send(change).await.unwrap_or_default();
            waiting.push(go);
        }
        drop(ready);
        for _worker in 0..count {
            let said = readiness.recv().await;
            said.unwrap_or_else(|| Err("a worker has ended".into()))?;
        }
        self.room.resize(&config);
        for (entrance, door) in doors {
            entrance.door.set(door);
        }
        for go in waiting {
            // A worker that has ended meanwhile ends all.
            go.send(()).unwrap_or_default();
        }
        for entrance in removed {
            info!(
                "not listening on {} any more",
                entrance.door.get().listener.address
            );
            entrance.remove();
        }
        for name in names {
            info!(workers = count, "listening on {name}");
        }
        self.entrances = sockets.entrances;
        Ok(())
    }
}

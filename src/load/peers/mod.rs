//! Puts the same load on other servers, to compare them on one machine: `bench --against`, feature `peers`.
//!
//! The send times (`pacer`), the payloads and their verification (`stamp`) and the samples (`meter`) are the
//! same. The client differs: each server gets its best known client, with that client's own batching. Each
//! connection has its own thread.
//!
//! | file | one concept |
//! | --- | --- |
//! | `kafka` | Apache Kafka, with librdkafka |
//! | `nats` | NATS JetStream over its WebSocket port, with async-nats |

mod kafka;
mod nats;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::claiming::{Claiming, Worked};
use super::figures::{Measured, result};
use super::meter::Meter;
use super::observed::Observed;
use super::pacer::Pacer;
use super::part::Part;
use super::plan::{About, Mode, Peer, Plan};
use super::producer::Produced;
use super::progress::Progress;
use super::reading::{Consumed, Reading};
use super::result::RunResult;
use super::setup::Arrival;
use super::window::Window;
use crate::client::{ClientError, connect};
use crate::latency::histogram;
use crate::shard::executor::{ExecutorSettings, spawn};
use crate::tls::client::Security;

/// How often a consumer checks whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An error of a peer's client.
type Failed = Box<dyn std::error::Error + Send + Sync>;

fn broken(error: &dyn std::fmt::Display) -> ClientError {
    ClientError::Broken(error.to_string())
}

/// Creates the queues and asks the peer for its version and durability.
pub fn prepare(peer: Peer, plan: &Plan) -> Result<About, ClientError> {
    let queues: Vec<String> = (0..plan.queues).map(|number| plan.queue_of(number)).collect();
    match peer {
        Peer::Kafka => kafka::prepare(plan, &queues),
        Peer::Nats => nats::prepare(plan, &queues),
    }
    .map_err(|error| broken(&error))
}

/// The state of one connection.
struct Job {
    part: Part,
    queue: String,
    meter: Meter,
    arrival: Arrival,
    /// The window of the run, once it has started.
    window: Window,
}

enum Done {
    Produced(Produced),
    Consumed(Consumed),
    Worked(Worked),
}

/// Runs the plan against the peer and returns what was measured.
pub fn run(peer: Peer, plan: Plan) -> Result<RunResult, ClientError> {
    let plan = Arc::new(plan);
    let progress = Arc::new(Progress::new(&plan));
    progress.learn(security(&plan)?);
    let began = Instant::now();
    let (to, pieces) = channel();
    let mut threads = Vec::new();
    let kinds = [(false, plan.consumers()), (true, plan.producers())];
    for (produces, count) in kinds {
        for number in 0..count {
            let part = Part { plan: plan.clone(), number, progress: progress.clone() };
            let job = Job {
                queue: part.queue(),
                part,
                meter: Meter::new(to.clone()),
                arrival: Arrival::new(progress.clone()),
                window: Window::unset(began),
            };
            threads.push(std::thread::spawn(move || run_job(peer, job, produces)));
        }
    }
    drop(to);
    let mut observed = Observed::start(&plan, &progress, pieces);
    let window = observed.window;
    let (mut produced, mut consumed, mut worked) = (Vec::new(), Vec::new(), Vec::new());
    let mut failure = observed.failure.take();
    for thread in threads {
        match thread.join().map_err(|_| broken(&"a client's thread has panicked"))? {
            Ok(Done::Produced(one)) => produced.push(one),
            Ok(Done::Consumed(one)) => consumed.push(one),
            Ok(Done::Worked(one)) => worked.push(one),
            Err(error) => failure = failure.or(Some(broken(&error))),
        }
    }
    let elapsed = began.elapsed();
    if let Some(error) = failure {
        return Err(error);
    }
    let (gathered, server) = observed.finish()?;
    let setup = histogram();
    let tls = progress.tls();
    let measured = Measured { window, elapsed, tls, produced, consumed, worked, setup, gathered, server };
    Ok(result(&plan, measured))
}

/// Returns what a peer's address agrees to with a client, if it uses TLS. The peer's own client does not say.
fn security(plan: &Plan) -> Result<Option<Security>, ClientError> {
    if plan.trust.is_none() {
        return Ok(None);
    }
    let target = plan.target()?;
    let settings = ExecutorSettings { name: "tls".into(), core: None };
    let negotiated = spawn(settings, move || async move {
        let mut connection = connect(&target).await?;
        let security = connection.negotiate().await;
        connection.close().await;
        security
    });
    negotiated.map_err(|error| broken(&error))?.join().map_err(|error| broken(&error))?
}

fn run_job(peer: Peer, mut job: Job, produces: bool) -> Result<Done, Failed> {
    let mut cores = CpuSet::new();
    job.part.plan.cores.iter().for_each(|core| cores.set(*core));
    sched_setaffinity(None, &cores)?;
    let progress = job.part.progress.clone();
    let number = job.part.number as usize;
    let done = if produces {
        let produced = match peer {
            Peer::Kafka => kafka::produce(&mut job),
            Peer::Nats => nats::produce(&mut job),
        };
        produced.map(|produced| {
            progress.acknowledged[number].store(produced.acknowledged, Ordering::Release);
            Done::Produced(produced)
        })
    } else if job.part.plan.mode == Mode::Claim {
        match peer {
            Peer::Kafka => Err("Kafka's client has no claims".into()),
            Peer::Nats => nats::claim(&mut job),
        }
        .map(Done::Worked)
    } else {
        match peer {
            Peer::Kafka => kafka::consume(&mut job),
            Peer::Nats => nats::consume(&mut job),
        }
        .map(Done::Consumed)
    };
    job.meter.flush();
    if done.is_err() {
        progress.failed.store(true, Ordering::Relaxed);
    }
    if produces {
        progress.producers.fetch_sub(1, Ordering::AcqRel);
    }
    progress.running.fetch_sub(1, Ordering::AcqRel);
    done
}

impl Job {
    /// Waits until all connections are set up, and for the start of the run. Returns false if the run is called
    /// off.
    fn begin(&mut self) -> bool {
        self.arrival.arrive();
        let Some(window) = self.part.progress.start.wait_blocking() else { return false };
        self.window = window;
        self.meter.begin(window);
        std::thread::sleep(window.begins.saturating_duration_since(Instant::now()));
        true
    }

    /// Creates the pace of this connection, once the run has started.
    fn pacer(&self) -> Pacer {
        let mut pacer = Pacer::new(self.part.clone());
        pacer.begin(self.window);
        pacer
    }

    /// Records the answer to a message that should have been sent at `intended_ns` of the run's clock.
    fn answered(&mut self, produced: &mut Produced, intended_ns: u64, now: Instant, failure: Option<String>) {
        let intended = self.part.plan.epoch + Duration::from_nanos(intended_ns);
        produced.answered(self.window, &mut self.meter, (intended, now), 1, failure.as_deref());
    }

    /// Creates the state that verifies and counts this worker's messages.
    fn claiming(&self) -> Claiming {
        let mut claiming = Claiming::new(self.part.clone());
        claiming.measure(self.window);
        claiming
    }

    /// Creates the state that verifies and counts this connection's messages.
    fn reading(&self) -> Reading {
        let mut reading = Reading::new(self.part.clone());
        reading.measure(self.window);
        reading
    }
}

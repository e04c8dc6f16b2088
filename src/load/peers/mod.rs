//! The same load against other servers, for people who compare on their own machines: `bench --against`, of the feature `peers`.
//!
//! What is the same: who sends when (`pacer`), what a message carries and how it is verified (`stamp`), what is a sample (`meter`). What is
//! not: the client, which is the best known one of each server, with its own batching. A connection is a thread of its own.
//!
//! | file | one concept |
//! | --- | --- |
//! | `kafka` | Apache Kafka, with librdkafka |
//! | `nats` | NATS JetStream over its WebSocket port, with async-nats |

mod kafka;
mod nats;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::consumer::Consumed;
use super::figures::{Measured, ServerUse, result};
use super::gather::gather;
use super::meter::{Meter, Piece};
use super::plan::{About, Mode, Peer, Plan};
use super::producer::Produced;
use super::progress::{Progress, sum};
use super::result::RunResult;
use super::server_side::{cpu_seconds, resident_bytes};
use super::stamp::Verifier;
use super::window::{GRACE, Window};
use crate::client::ClientError;
use crate::latency::histogram;

/// How often a consumer looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Whatever a peer's client says is wrong.
type Failed = Box<dyn std::error::Error + Send + Sync>;

fn broken(error: &dyn std::fmt::Display) -> ClientError {
    ClientError::Broken(error.to_string())
}

/// Makes the queues, and asks what the peer is.
pub fn prepare(peer: Peer, plan: &Plan) -> Result<About, ClientError> {
    let queues: Vec<String> = (0..plan.queues).map(|number| plan.queue_of(number)).collect();
    match peer {
        Peer::Kafka => kafka::prepare(plan, &queues),
        Peer::Nats => nats::prepare(plan, &queues),
    }
    .map_err(|error| broken(&error))
}

/// What one connection has.
struct Job {
    plan: Arc<Plan>,
    number: u32,
    queue: String,
    window: Window,
    progress: Arc<Progress>,
    meter: Meter,
}

enum Done {
    Produced(Produced),
    Consumed(Consumed),
}

/// Runs the plan against the peer and says what was measured.
pub fn run(peer: Peer, plan: Plan) -> Result<RunResult, ClientError> {
    let plan = Arc::new(plan);
    let progress = Arc::new(Progress::new(plan.producers(), plan.consumers()));
    let began = Instant::now();
    let from = began + plan.warmup;
    let window = Window::of(from, &plan);
    let (to, pieces) = channel();
    let (gathering, tell) = (progress.clone(), plan.progress);
    let gatherer = std::thread::spawn(move || gather(&pieces, &gathering, tell));
    let cpu = plan.server_pid.map(|pid| std::thread::spawn(move || cpu_within(pid, window)));
    let mut threads = Vec::new();
    let kinds = [(false, plan.consumers()), (true, plan.producers())];
    for (produces, count) in kinds {
        for number in 0..count {
            let job = job(&plan, number, window, &progress, &to);
            threads.push(std::thread::spawn(move || run_job(peer, job, produces)));
        }
    }
    drop(to);
    let (mut produced, mut consumed, mut failure) = (Vec::new(), Vec::new(), None);
    for thread in threads {
        match thread.join().map_err(|_| broken(&"a client's thread has panicked"))? {
            Ok(Done::Produced(one)) => produced.push(one),
            Ok(Done::Consumed(one)) => consumed.push(one),
            Err(error) => failure = failure.or(Some(broken(&error))),
        }
    }
    let elapsed = began.elapsed();
    if let Some(error) = failure {
        return Err(error);
    }
    let gathered = gatherer.join().map_err(|_| broken(&"gathering has panicked"))?;
    let server = ServerUse {
        // Where a run ended by its count, nobody waits for its window.
        cpu_seconds: cpu.filter(|_| plan.is_timed()).and_then(|thread| thread.join().ok().flatten()),
        resident_bytes: plan.server_pid.and_then(resident_bytes),
        ..ServerUse::default()
    };
    Ok(result(&plan, Measured { elapsed, produced, consumed, setup: histogram(), gathered, server }))
}

fn cpu_within(pid: u32, window: Window) -> Option<f64> {
    std::thread::sleep(window.from.saturating_duration_since(Instant::now()));
    let before = cpu_seconds(pid)?;
    std::thread::sleep(window.until.saturating_duration_since(Instant::now()));
    Some(cpu_seconds(pid)? - before)
}

fn job(plan: &Arc<Plan>, number: u32, window: Window, progress: &Arc<Progress>, to: &Sender<Piece>) -> Job {
    Job {
        queue: plan.queue_of(number),
        plan: plan.clone(),
        number,
        window,
        progress: progress.clone(),
        meter: Meter::new(window, to.clone()),
    }
}

fn run_job(peer: Peer, mut job: Job, produces: bool) -> Result<Done, Failed> {
    let mut cores = CpuSet::new();
    job.plan.cores.iter().for_each(|core| cores.set(*core));
    sched_setaffinity(None, &cores)?;
    let progress = job.progress.clone();
    let number = job.number as usize;
    let done = if produces {
        let wanted = if job.plan.mode == Mode::Both { job.plan.consumers as usize } else { 0 };
        while progress.consumers_ready.load(Ordering::Acquire) < wanted && !progress.has_failed() {
            std::thread::sleep(LOOK_EVERY);
        }
        let produced = match peer {
            Peer::Kafka => kafka::produce(&mut job),
            Peer::Nats => nats::produce(&mut job),
        };
        produced.map(|produced| {
            progress.acknowledged[number].store(produced.acknowledged, Ordering::Release);
            Done::Produced(produced)
        })
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

/// A producer's answers.
impl Job {
    /// A message that should have been sent at `intended_ns` of the run's clock was answered at `now`.
    fn answered(&mut self, produced: &mut Produced, intended_ns: u64, now: Instant, failure: Option<String>) {
        let intended = self.plan.epoch + Duration::from_nanos(intended_ns);
        let first = *produced.first.get_or_insert(intended);
        produced.active = now.saturating_duration_since(first);
        match failure {
            None => {
                produced.acknowledged += 1;
                produced.acknowledged_measured += u64::from(self.window.holds(now));
                self.meter.acknowledged(now, intended, 1);
            }
            Some(failure) => {
                produced.refused += 1;
                produced.failure.get_or_insert(failure);
                self.meter.answered(now, intended, 1);
            }
        }
    }
}

/// A consumer's bookkeeping.
struct Reading {
    verifier: Verifier,
    producers: Vec<u32>,
    measured_ns: std::ops::Range<u64>,
    received_measured: u64,
    /// When the messages came that are taken now, and how many they are.
    now: Instant,
    taken: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    give_up: Option<Instant>,
}

impl Reading {
    fn new(job: &Job) -> Self {
        let Job { plan, window, .. } = job;
        let is_whole = plan.mode == Mode::Both;
        Self {
            verifier: if is_whole { Verifier::of_run(plan.run) } else { Verifier::from_anywhere() },
            producers: plan.users_of(&job.queue, plan.producers()),
            measured_ns: plan.clock_ns(window.from)..plan.clock_ns(window.until),
            received_measured: 0,
            now: Instant::now(),
            taken: 0,
            first: None,
            last: None,
            give_up: None,
        }
    }

    /// Messages may have come, together.
    fn begin(&mut self, job: &mut Job) {
        self.now = Instant::now();
        self.taken = 0;
        job.meter.received(self.now, 0);
    }

    /// One of them.
    fn handle(&mut self, job: &mut Job, payload: &[u8]) {
        self.taken += 1;
        if let Some(stamp) = self.verifier.handle(payload)
            && job.plan.mode == Mode::Both
            && self.measured_ns.contains(&stamp.intended_ns)
        {
            job.meter.end_to_end(job.plan.clock_ns(self.now).saturating_sub(stamp.intended_ns));
        }
    }

    /// Those were all.
    fn end(&mut self, job: &mut Job) {
        if self.taken > 0 {
            job.meter.received(self.now, self.taken);
            self.received_measured += if job.window.holds(self.now) { self.taken } else { 0 };
            self.first.get_or_insert(self.now);
            self.last = Some(self.now);
            let in_all = self.verifier.verdict().received;
            job.progress.received[job.number as usize].store(in_all, Ordering::Release);
        }
    }

    fn is_over(&mut self, job: &Job) -> bool {
        let (now, received) = (Instant::now(), self.verifier.verdict().received);
        if job.progress.has_failed() {
            return true;
        }
        if job.plan.mode == Mode::Consume {
            let in_time = job.plan.count.is_none();
            return job.plan.count.is_some_and(|count| received >= count)
                || in_time && now >= job.window.until;
        }
        if job.progress.producers.load(Ordering::Acquire) > 0 {
            return false;
        }
        let give_up = *self.give_up.get_or_insert(now + GRACE);
        received >= sum(&job.progress.acknowledged, &self.producers) || now >= give_up
    }

    fn consumed(self, job: &Job) -> Consumed {
        Consumed {
            verdict: self.verifier.verdict(),
            expected: sum(&job.progress.acknowledged, &self.producers),
            received_measured: self.received_measured,
            active: self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| last - first),
            failure: None,
        }
    }
}

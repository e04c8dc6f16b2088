//! A whole run: its connections on their cores, from start to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::consumer::{Consumed, LoadConsumer};
use super::producer::{LoadProducer, Produced};
use super::report::{Report, cpu_seconds};
use super::{Progress, Window};
use crate::client::{ClientError, Target, Wire, connect, run as run_connection};
use crate::names::{ClientId, Project};
use crate::shard::executor::{ExecutorSettings, spawn};

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Producers only.
    Produce,
    /// Consumers only.
    Consume,
    /// Both at once, on the same queues.
    Both,
}

/// A run's whole description.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it does.
    pub mode: Mode,
    /// The server.
    pub url: String,
    /// The tenant.
    pub project: Option<Project>,
    /// Queues are `<queue>-0`, `<queue>-1` …; a single one has the name alone.
    pub queue: String,
    /// How many.
    pub queues: u32,
    /// Producing connections.
    pub producers: u32,
    /// Consuming connections.
    pub consumers: u32,
    /// Where consumers begin.
    pub from: String,
    /// Bytes of each payload, at least those of a stamp.
    pub size: usize,
    /// Messages in each ProduceRequest.
    pub batch: usize,
    /// ProduceRequests in each frame.
    pub pbs_per_frame: usize,
    /// Messages that a producer may have outstanding, within its credit.
    pub in_flight: Option<u64>,
    /// Messages that a consumer may have under way.
    pub consume_window: u64,
    /// With both: messages that producers of a closed loop may be ahead of the slowest consumer of their queue.
    pub lag: u64,
    /// Messages a second over all producers, by schedule; as fast as it goes where absent.
    pub rate: Option<f64>,
    /// Messages in all, in place of a time.
    pub count: Option<u64>,
    /// Consumers begin again after `count` messages, until the time is over.
    pub repeat: bool,
    /// Before anything is measured.
    pub warmup: Duration,
    /// What is measured.
    pub measure: Duration,
    /// Time to live, seconds.
    pub ttl: u32,
    /// Producer i sends to partition (i + this) mod `partitions`; else where its Client-ID hashes to.
    pub partition_offset: Option<u32>,
    /// Of each queue, with `partition_offset`.
    pub partitions: u32,
    /// Cores for the clients.
    pub cores: Vec<usize>,
    /// Says on stderr every second how far it is.
    pub progress: bool,
    /// The server's process, for its CPU time.
    pub server_pid: Option<u32>,
    /// Tells this run's messages from others'.
    pub run: u32,
    /// The zero of its clock.
    pub epoch: Instant,
}

impl Plan {
    /// The queue of connection number `number`.
    pub fn queue_of(&self, number: u32) -> String {
        let queue = if self.queues == 1 {
            self.queue.clone()
        } else {
            format!("{}-{}", self.queue, number % self.queues)
        };
        match self.partition_offset {
            Some(offset) => format!("{queue}/{}", (number + offset) % self.partitions),
            None => queue,
        }
    }

    /// How many producers the run has.
    pub(super) fn producers(&self) -> u32 {
        if self.mode == Mode::Consume { 0 } else { self.producers }
    }

    /// How many consumers the run has.
    pub(super) fn consumers(&self) -> u32 {
        if self.mode == Mode::Produce { 0 } else { self.consumers }
    }

    /// Those of `count` connections that use `queue`.
    pub(super) fn users_of(&self, queue: &str, count: u32) -> Vec<u32> {
        (0..count).filter(|number| self.queue_of(*number) == queue).collect()
    }

    /// Whether it ends by the clock and is measured in its window; else it is measured from its beginning to its end.
    pub(super) fn is_timed(&self) -> bool {
        self.count.is_none() || self.repeat
    }

    fn target(&self) -> Result<Target, ClientError> {
        Target::parse(&self.url, self.project.clone(), ClientId::random())
    }
}

enum Done {
    Produced(Box<Produced>),
    Consumed(Box<Consumed>),
}

/// Runs the plan and reports.
pub fn run(plan: Plan) -> Result<Report, ClientError> {
    plan.target()?;
    let plan = Arc::new(plan);
    let from = Instant::now() + plan.warmup;
    let window = Window { from, until: from + plan.measure };
    let (producers, consumers) = (plan.producers(), plan.consumers());
    let progress = Arc::new(Progress::new(producers, consumers));
    let cpu = plan.server_pid.map(|pid| std::thread::spawn(move || measure_cpu(pid, window)));
    let began = Instant::now();
    let ended = Arc::new(AtomicBool::new(false));
    let teller = plan.progress.then(|| {
        let (progress, ended) = (progress.clone(), ended.clone());
        std::thread::spawn(move || tell(began, &progress, &ended))
    });
    let mut threads = Vec::new();
    for (index, core) in plan.cores.iter().enumerate() {
        let (plan, progress) = (plan.clone(), progress.clone());
        let cores = plan.cores.len();
        let settings = ExecutorSettings { name: format!("load-{core}"), core: Some(*core) };
        let thread = spawn(settings, move || async move {
            // Consumers first, so that none of them begins behind what the producers send.
            let consumers = (0..consumers)
                .filter(|number| *number as usize % cores == index)
                .map(|number| glommio::spawn_local(consume(plan.clone(), number, window, progress.clone())));
            let mut tasks: Vec<_> = consumers.collect();
            let producers = (0..producers).filter(|number| *number as usize % cores == index).map(|number| {
                glommio::spawn_local(produce(
                    plan.clone(),
                    number,
                    window,
                    progress.clone(),
                    consumers_of(&plan),
                ))
            });
            tasks.extend(producers);
            let mut done = Vec::new();
            for task in tasks {
                done.push(task.await);
            }
            done
        });
        threads.push(thread.map_err(|error| ClientError::Broken(format!("core {core}: {error}")))?);
    }
    let (mut produced, mut consumed) = (Vec::new(), Vec::new());
    for thread in threads {
        let done = thread.join().map_err(|error| ClientError::Broken(error.to_string()))?;
        for one in done {
            match one? {
                Done::Produced(one) => produced.push(*one),
                Done::Consumed(one) => consumed.push(*one),
            }
        }
    }
    ended.store(true, Ordering::Relaxed);
    if let Some(teller) = teller {
        teller.thread().unpark();
        // It only prints; whether it could does not matter to the run.
        let _ = teller.join();
    }
    let server_cpu = cpu.and_then(|thread| thread.join().ok().flatten());
    Ok(Report::new(&plan, began.elapsed(), &produced, &consumed, server_cpu))
}

/// Says how far the run is, once a second, until it has ended.
fn tell(began: Instant, progress: &Progress, ended: &AtomicBool) {
    let total = |counters: &[AtomicU64]| -> u64 {
        counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    };
    loop {
        std::thread::park_timeout(Duration::from_secs(1));
        if ended.load(Ordering::Relaxed) {
            return eprintln!();
        }
        eprint!(
            "\r{:.0} s: {} sent, {} received",
            began.elapsed().as_secs_f64(),
            total(&progress.sent),
            total(&progress.received)
        );
    }
}

/// How many consumers a producer waits for.
fn consumers_of(plan: &Plan) -> usize {
    if plan.mode == Mode::Both { plan.consumers as usize } else { 0 }
}

/// The server's CPU seconds in the measured window.
fn measure_cpu(pid: u32, window: Window) -> Option<f64> {
    std::thread::sleep(window.from.saturating_duration_since(Instant::now()));
    let before = cpu_seconds(pid)?;
    std::thread::sleep(window.until.saturating_duration_since(Instant::now()));
    Some(cpu_seconds(pid)? - before)
}

async fn produce(
    plan: Arc<Plan>,
    number: u32,
    window: Window,
    progress: Arc<Progress>,
    consumers: usize,
) -> Result<Done, ClientError> {
    let ended = async {
        while progress.consumers_ready.load(Ordering::Acquire) < consumers
            && !progress.failed.load(Ordering::Relaxed)
        {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        let target = plan.target()?;
        let mut stream = connect(&target).await?;
        let mut wire = Wire::start(&target);
        let mut producer = LoadProducer::new(plan, number, window, progress.clone());
        run_connection(&mut stream, &mut wire, &mut producer).await?;
        Ok(producer.produced)
    }
    .await;
    match &ended {
        Ok(produced) => {
            progress.acknowledged[number as usize].store(produced.acknowledged, Ordering::Release)
        }
        Err(_) => progress.failed.store(true, Ordering::Relaxed),
    }
    progress.producers.fetch_sub(1, Ordering::AcqRel);
    ended.map(|produced| Done::Produced(Box::new(produced)))
}

async fn consume(
    plan: Arc<Plan>,
    number: u32,
    window: Window,
    progress: Arc<Progress>,
) -> Result<Done, ClientError> {
    let ended = async {
        let target = plan.target()?;
        let mut stream = connect(&target).await?;
        let mut wire = Wire::start(&target);
        let mut consumer = LoadConsumer::new(plan, number, window, progress.clone());
        run_connection(&mut stream, &mut wire, &mut consumer).await?;
        Ok(consumer.consumed())
    }
    .await;
    if ended.is_err() {
        progress.failed.store(true, Ordering::Relaxed);
    }
    ended.map(|consumed| Done::Consumed(Box::new(consumed)))
}

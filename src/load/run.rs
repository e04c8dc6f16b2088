//! A whole run: its connections on their cores, from start to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::consumer::{Consumed, LoadConsumer};
use super::plan::{Mode, Plan};
use super::producer::{LoadProducer, Produced};
use super::report::{Report, cpu_seconds};
use super::{Progress, Window};
use crate::client::{ClientError, Wire, connect, run as run_connection};
use crate::shard::executor::{ExecutorSettings, spawn};

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

//! Runs all connections of a plan on their cores, from start to end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use glommio::ExecutorJoinHandle;
use hdrhistogram::Histogram;

use super::claiming::Worked;
use super::consumer::LoadConsumer;
use super::figures::{Measured, ServerUse, result};
use super::held::{Held, hold};
use super::interrupt::Interrupt;
use super::meter::{Meter, Piece};
use super::observed::Observed;
use super::part::Part;
use super::plan::{Mode, Plan};
use super::producer::{LoadProducer, Produced};
use super::progress::Progress;
use super::reading::Consumed;
use super::result::RunResult;
use super::server_side::resident_bytes;
use super::setup::wait_for;
use super::worker::LoadWorker;
use crate::client::{Application, ClientError, open, run as run_connection};
use crate::latency::histogram;
use crate::shard::executor::{ExecutorSettings, spawn};

enum Done {
    Produced(Produced),
    Consumed(Consumed),
    Worked(Worked),
}

/// Runs the plan and returns what was measured.
pub fn run(plan: Plan) -> Result<RunResult, ClientError> {
    plan.target()?;
    let plan = Arc::new(plan);
    let progress = Arc::new(Progress::new(&plan));
    let before_held = plan.server_pid.and_then(resident_bytes);
    let held = hold_all(&plan, &progress)?;
    let server_held_bytes = plan
        .server_pid
        .and_then(resident_bytes)
        .zip(before_held)
        .filter(|_| plan.idle + plan.stalled > 0)
        .map(|(now, before)| now.saturating_sub(before));
    let began = Instant::now();
    let (to, pieces) = channel();
    let mut threads = Vec::new();
    for (index, core) in plan.cores.iter().enumerate() {
        let settings = ExecutorSettings { name: format!("load-{core}"), core: Some(*core) };
        let (plan, progress, to) = (plan.clone(), progress.clone(), to.clone());
        let thread = spawn(settings, move || load(plan, index, progress, to));
        threads.push(thread.map_err(|error| broken(*core, &error))?);
    }
    drop(to);
    let mut observed = Observed::start(&plan, &progress, pieces);
    let window = observed.window;
    let (mut produced, mut consumed, mut worked) = (Vec::new(), Vec::new(), Vec::new());
    let mut failure = observed.failure.take();
    for thread in threads {
        for one in join(thread)? {
            match one {
                Ok(Done::Produced(one)) => produced.push(one),
                Ok(Done::Consumed(one)) => consumed.push(one),
                Ok(Done::Worked(one)) => worked.push(one),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }
    let elapsed = began.elapsed();
    let mut setup = histogram();
    for thread in held {
        let (times, error) = join(thread)?;
        let _ = setup.add(&times);
        failure = failure.or(error);
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let (gathered, server) = observed.finish()?;
    let server = ServerUse { held_bytes: server_held_bytes, ..server };
    let tls = progress.tls();
    let measured = Measured { window, elapsed, tls, produced, consumed, worked, setup, gathered, server };
    Ok(result(&plan, measured))
}

pub(super) fn broken(core: usize, error: &dyn std::fmt::Display) -> ClientError {
    ClientError::Broken(format!("core {core}: {error}"))
}

pub(super) fn join<T: Send + 'static>(thread: ExecutorJoinHandle<T>) -> Result<T, ClientError> {
    thread.join().map_err(|error| ClientError::Broken(error.to_string()))
}

/// Runs the connections of one core.
async fn load(
    plan: Arc<Plan>,
    index: usize,
    progress: Arc<Progress>,
    to: Sender<Piece>,
) -> Vec<Result<Done, ClientError>> {
    let meter = Rc::new(RefCell::new(Meter::new(to)));
    let cores = plan.cores.len();
    let mine = |count: u32| (0..count).filter(move |number| *number as usize % cores == index);
    let part = |number| Part { plan: plan.clone(), number, progress: progress.clone() };
    // Start consumers first, so that none of them misses messages.
    let consumers = mine(plan.consumers()).map(|number| match plan.mode {
        Mode::Claim => glommio::spawn_local(claim(part(number), meter.clone())),
        _ => glommio::spawn_local(consume(part(number), meter.clone())),
    });
    let mut tasks: Vec<_> = consumers.collect();
    let producers =
        mine(plan.producers()).map(|number| glommio::spawn_local(produce(part(number), meter.clone())));
    tasks.extend(producers);
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await);
    }
    meter.borrow_mut().flush();
    done
}

type HeldThread = ExecutorJoinHandle<(Histogram<u64>, Option<ClientError>)>;

/// Opens the idle and stalled connections, and waits until all of them are open.
fn hold_all(plan: &Arc<Plan>, progress: &Arc<Progress>) -> Result<Vec<HeldThread>, ClientError> {
    let kinds = [(Held::Idle, plan.idle), (Held::Stalled, plan.stalled)];
    let count = (plan.idle + plan.stalled) as usize;
    if count == 0 {
        return Ok(Vec::new());
    }
    // Without a load, they stay open for the time of the run.
    let until = (plan.mode == Mode::Idle).then(|| Instant::now() + plan.warmup + plan.measure);
    let cores = plan.cores.len();
    let mut threads = Vec::new();
    for (index, core) in plan.cores.iter().enumerate() {
        let (plan, progress) = (plan.clone(), progress.clone());
        let settings = ExecutorSettings { name: format!("held-{core}"), core: Some(*core) };
        let thread = spawn(settings, move || async move {
            let mut tasks = Vec::new();
            for (kind, count) in kinds {
                for number in (0..count).filter(|number| *number as usize % cores == index) {
                    let (plan, progress) = (plan.clone(), progress.clone());
                    tasks.push(glommio::spawn_local(async move {
                        let interrupt = plan.interrupt.clone();
                        let held =
                            async { hold(plan, number, kind, progress.clone(), until).await.map(Some) };
                        let held = or_interrupted(&interrupt, held, || None).await;
                        if held.is_err() {
                            progress.failed.store(true, Ordering::Relaxed);
                        }
                        held
                    }));
                }
            }
            let (mut setup, mut failure) = (histogram(), None);
            for task in tasks {
                match task.await {
                    Ok(Some(took)) => setup.saturating_record(took.as_nanos() as u64),
                    Ok(None) => {}
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            (setup, failure)
        });
        threads.push(thread.map_err(|error| broken(*core, &error))?);
    }
    wait_for(plan, progress, &progress.held_ready, count)?;
    Ok(threads)
}

/// Returns what `load` returns. If the run is interrupted and `load` fails or does not end soon, returns
/// `early` instead, so that the measurements so far count.
pub(super) async fn or_interrupted<T>(
    interrupt: &Interrupt,
    load: impl Future<Output = Result<T, ClientError>>,
    early: impl Fn() -> T,
) -> Result<T, ClientError> {
    let given_up = async {
        interrupt.give_up().await;
        Ok(early())
    };
    match futures_lite::future::or(load, given_up).await {
        Err(_) if interrupt.is_raised() => Ok(early()),
        ended => ended,
    }
}

/// Returns what `load` returns, or ends it if the run is called off before its start. The start wakes the task,
/// so that the connection looks whether it may begin.
pub(super) async fn or_called_off(
    progress: &Progress,
    load: impl Future<Output = Result<(), ClientError>>,
) -> Result<(), ClientError> {
    let called_off = async {
        match progress.start.wait().await {
            None => Ok(()),
            Some(_) => std::future::pending().await,
        }
    };
    futures_lite::future::or(load, called_off).await
}

/// Runs one connection from beginning to end.
async fn connect_and_run(
    plan: &Plan,
    progress: &Progress,
    application: &mut impl Application,
) -> Result<(), ClientError> {
    let (mut connection, mut wire) = open(&plan.target()?).await?;
    let ended = run_connection(&mut connection, &mut wire, application).await;
    progress.learn(connection.security());
    connection.close().await;
    ended
}

async fn produce(part: Part, meter: Rc<RefCell<Meter>>) -> Result<Done, ClientError> {
    let Part { plan, number, progress } = part.clone();
    let mut producer = LoadProducer::new(part, meter);
    let load = or_called_off(&progress, connect_and_run(&plan, &progress, &mut producer));
    let ended = or_interrupted(&plan.interrupt, load, || ()).await;
    let ended = ended.map(|()| producer.produced);
    match &ended {
        Ok(produced) => {
            progress.acknowledged[number as usize].store(produced.acknowledged, Ordering::Release)
        }
        Err(_) => progress.failed.store(true, Ordering::Relaxed),
    }
    progress.producers.fetch_sub(1, Ordering::AcqRel);
    progress.running.fetch_sub(1, Ordering::AcqRel);
    ended.map(Done::Produced)
}

async fn consume(part: Part, meter: Rc<RefCell<Meter>>) -> Result<Done, ClientError> {
    let Part { plan, progress, .. } = part.clone();
    let mut consumer = LoadConsumer::new(part, meter);
    let load = or_called_off(&progress, connect_and_run(&plan, &progress, &mut consumer));
    let ended = or_interrupted(&plan.interrupt, load, || ()).await;
    let ended = ended.map(|()| consumer.consumed());
    if ended.is_err() {
        progress.failed.store(true, Ordering::Relaxed);
    }
    progress.running.fetch_sub(1, Ordering::AcqRel);
    ended.map(Done::Consumed)
}

async fn claim(part: Part, meter: Rc<RefCell<Meter>>) -> Result<Done, ClientError> {
    let Part { plan, progress, .. } = part.clone();
    let mut worker = LoadWorker::new(part, meter);
    let load = or_called_off(&progress, connect_and_run(&plan, &progress, &mut worker));
    let ended = or_interrupted(&plan.interrupt, load, || ()).await;
    let ended = ended.map(|()| worker.worked());
    if ended.is_err() {
        progress.failed.store(true, Ordering::Relaxed);
    }
    progress.running.fetch_sub(1, Ordering::AcqRel);
    ended.map(Done::Worked)
}

//! Runs all connections of a load on their cores, from start to end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use super::super::figures::{Measured, result};
use super::super::meter::{Meter, Piece};
use super::super::observed::Observed;
use super::super::part::Part;
use super::super::progress::Progress;
use super::super::reading::Consumed;
use super::super::run::{broken, join, or_called_off, or_interrupted};
use super::caller::{Caller, Tally};
use super::load::Load;
use super::report::Report;
use super::subscriber::Subscriber;
use crate::client::{Application, ClientError, Wire, connect, run_with_buffer};
use crate::latency::histogram;
use crate::shard::executor::{ExecutorSettings, spawn};

/// The size of the read buffer of a connection that sends requests, and of a subscriber, in bytes.
const CALLER_BYTES: usize = 256 << 10;
const SUBSCRIBER_BYTES: usize = 16 << 10;

enum Done {
    Called(Tally),
    Received(Consumed),
}

/// Runs the load and returns what was measured.
pub fn run(load: Load) -> Result<Report, ClientError> {
    load.target()?;
    let load = Arc::new(load);
    let plan = load.plan.clone();
    let progress = Arc::new(Progress::new(&plan));
    let began = Instant::now();
    let (to, pieces) = channel();
    let mut threads = Vec::new();
    for (index, core) in plan.cores.iter().enumerate() {
        let settings = ExecutorSettings { name: format!("load-{core}"), core: Some(*core) };
        let (load, progress, to) = (load.clone(), progress.clone(), to.clone());
        let thread = spawn(settings, move || run_core(load, index, progress, to));
        threads.push(thread.map_err(|error| broken(*core, &error))?);
    }
    drop(to);
    let mut observed = Observed::start(&plan, &progress, pieces);
    let window = observed.window;
    let (mut called, mut consumed) = (Vec::new(), Vec::new());
    let mut failure = observed.failure.take();
    for thread in threads {
        for one in join(thread)? {
            match one {
                Ok(Done::Called(one)) => called.push(one),
                Ok(Done::Received(one)) => consumed.push(one),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let (gathered, server) = observed.finish()?;
    let measured = Measured {
        window,
        elapsed: began.elapsed(),
        tls: progress.tls(),
        produced: called.iter().map(|one| one.produced.clone()).collect(),
        consumed,
        worked: Vec::new(),
        setup: histogram(),
        gathered,
        server,
    };
    Ok(Report::new(&load, result(&plan, measured).figures, &called))
}

/// Runs the connections of one core.
async fn run_core(
    load: Arc<Load>,
    index: usize,
    progress: Arc<Progress>,
    to: Sender<Piece>,
) -> Vec<Result<Done, ClientError>> {
    let plan = load.plan.clone();
    let meter = Rc::new(RefCell::new(Meter::new(to)));
    let cores = plan.cores.len();
    let mine = |count: u32| (0..count).filter(move |number| *number as usize % cores == index);
    let part = |number| Part { plan: plan.clone(), number, progress: progress.clone() };
    let subscribers = mine(plan.consumers())
        .map(|number| glommio::spawn_local(subscribe(load.clone(), part(number), meter.clone())));
    let mut tasks: Vec<_> = subscribers.collect();
    let callers = mine(plan.producers())
        .map(|number| glommio::spawn_local(call(load.clone(), part(number), meter.clone())));
    tasks.extend(callers);
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await);
    }
    meter.borrow_mut().flush();
    done
}

/// Obtains the token of a connection, if the load has any.
async fn token(load: &Load) -> Result<Option<String>, ClientError> {
    let Some(tokens) = &load.plan.tokens else { return Ok(None) };
    Ok(Some(tokens.clone().obtain(None).await?.expose().to_owned()))
}

/// Runs one connection from beginning to end.
async fn connect_and_run(
    load: &Load,
    progress: &Progress,
    application: &mut impl Application,
    buffer_bytes: usize,
) -> Result<(), ClientError> {
    let target = load.target()?;
    let (mut connection, mut wire) = (connect(&target).await?, Wire::start(&target));
    let mut buffer = vec![0; buffer_bytes];
    let ended = run_with_buffer(&mut connection, &mut wire, application, &mut buffer).await;
    progress.learn(connection.security());
    connection.close().await;
    ended
}

async fn call(load: Arc<Load>, part: Part, meter: Rc<RefCell<Meter>>) -> Result<Done, ClientError> {
    let Part { plan, number, progress } = part.clone();
    let called = async {
        let mut caller = Caller::new(load.clone(), part, meter, token(&load).await?);
        let running = or_called_off(&progress, connect_and_run(&load, &progress, &mut caller, CALLER_BYTES));
        or_interrupted(&plan.interrupt, running, || ()).await?;
        Ok(caller.tally())
    };
    let ended = called.await;
    match &ended {
        Ok(Tally { produced, .. }) => {
            progress.acknowledged[number as usize].store(produced.acknowledged, Ordering::Release)
        }
        Err(_) => progress.failed.store(true, Ordering::Relaxed),
    }
    progress.producers.fetch_sub(1, Ordering::AcqRel);
    progress.running.fetch_sub(1, Ordering::AcqRel);
    ended.map(Done::Called)
}

async fn subscribe(load: Arc<Load>, part: Part, meter: Rc<RefCell<Meter>>) -> Result<Done, ClientError> {
    let Part { plan, progress, .. } = part.clone();
    let received = async {
        let mut subscriber = Subscriber::new(load.clone(), part, meter, token(&load).await?);
        let running =
            or_called_off(&progress, connect_and_run(&load, &progress, &mut subscriber, SUBSCRIBER_BYTES));
        or_interrupted(&plan.interrupt, running, || ()).await?;
        Ok(subscriber.consumed())
    };
    let ended = received.await;
    if ended.is_err() {
        progress.failed.store(true, Ordering::Relaxed);
    }
    progress.running.fetch_sub(1, Ordering::AcqRel);
    ended.map(Done::Received)
}

//! `millstream produce`.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use super::{ClientArgs, Failure, notice};
use crate::client::{Block, Produce, ProduceStats, Source, Target, run_resumed};
use crate::error::StatusCode;
use crate::latency::Summary;
use crate::shard::executor::{ExecutorSettings, spawn};
use crate::shard::inbox::{Inbox, Sender, inbox};

/// Bytes of input that make a block.
const BLOCK_BYTES: usize = 64 << 10;
/// Blocks that wait for a connection; more are not read.
const BLOCKS_WAITING: usize = 16;
/// The longest line, bytes; longer ones are no input for a queue.
const LINE_BYTES_MAX: usize = 64 << 20;
/// How long the reader rests when every connection has enough.
const READER_REST: Duration = Duration::from_micros(200);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all acknowledged; 1 a message was refused or could not be delivered; 2 usage."
)]
pub(super) struct Args {
    /// The queue, or QUEUE/N for its partition N alone
    queue: String,
    #[command(flatten)]
    client: ClientArgs,
    /// Read lines from this file [default: standard input]
    #[arg(long, conflicts_with = "count")]
    file: Option<PathBuf>,
    /// Send so many generated messages instead of reading lines
    #[arg(long, requires = "size")]
    count: Option<u64>,
    /// Bytes of each generated message
    #[arg(long, requires = "count")]
    size: Option<usize>,
    /// Connections to spread the messages over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Time to live, seconds
    #[arg(long, default_value_t = 3_600)]
    ttl: u32,
    /// Messages in each ProduceRequest
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
}

/// What one connection sends.
struct Input {
    payloads: Payloads,
    /// Of all connections, for the progress line.
    acknowledged: Arc<AtomicU64>,
}

/// Blocks of a file, or generated ones.
enum Payloads {
    Lines(Inbox<Option<Block>>),
    Generated { left: u64, payload: Vec<u8> },
}

impl Source for Input {
    fn poll_block(&mut self, cx: &mut Context<'_>) -> Poll<Option<Block>> {
        match &mut self.payloads {
            Payloads::Lines(inbox) => loop {
                if let Some(block) = inbox.poll() {
                    return Poll::Ready(block);
                }
                if inbox.arm(cx.waker()) {
                    return Poll::Pending;
                }
            },
            Payloads::Generated { left: 0, .. } => Poll::Ready(None),
            Payloads::Generated { left, payload } => {
                let mut block = Block::default();
                while *left > 0
                    && (block.is_empty() || block.bytes() + payload.len() <= BLOCK_BYTES)
                    && block.len() < 10_000
                {
                    block.push(payload);
                    *left -= 1;
                }
                Poll::Ready(Some(block))
            }
        }
    }

    fn handle_acknowledged(&mut self, count: u64) {
        self.acknowledged.fetch_add(count, Ordering::Relaxed);
    }
}

/// Reads lines and spreads them, a block at a time, over the connections: on a thread of its own, because
/// reading a terminal or a pipe blocks.
fn read_lines(mut input: impl Read, to: &[Sender<Option<Block>>]) -> Result<(), Failure> {
    let mut buffer = vec![0; BLOCK_BYTES];
    let mut line = Vec::new();
    let mut turn = 0;
    let result = loop {
        let bytes = match input.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => break Err(Failure(format!("cannot read: {error}"))),
        };
        let mut block = Block::default();
        let mut rest = &buffer[..bytes];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&rest[..end]);
            block.push(&line);
            line.clear();
            rest = &rest[end + 1..];
        }
        line.extend_from_slice(rest);
        if line.len() > LINE_BYTES_MAX {
            break Err(Failure(format!("a line of more than {LINE_BYTES_MAX} bytes")));
        }
        if !block.is_empty() {
            spread(block, to, &mut turn);
        }
    };
    if !line.is_empty() && result.is_ok() {
        let mut block = Block::default();
        block.push(&line);
        spread(block, to, &mut turn);
    }
    for connection in to {
        while connection.send(None).is_err() {
            std::thread::sleep(READER_REST);
        }
    }
    result
}

/// Gives a block to the next connection that has room.
fn spread(block: Block, to: &[Sender<Option<Block>>], turn: &mut usize) {
    let mut block = Some(block);
    loop {
        for _ in 0..to.len() {
            *turn = (*turn + 1) % to.len();
            match to[*turn].send(block) {
                Ok(()) => return,
                Err(back) => block = back,
            }
        }
        std::thread::sleep(READER_REST);
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    let connections = usize::from(args.connections);
    let mut inputs = Vec::new();
    let mut reader = None;
    if let (Some(count), Some(size)) = (args.count, args.size) {
        for index in 0..connections as u64 {
            let left = count / connections as u64 + u64::from(index < count % connections as u64);
            inputs.push(Payloads::Generated { left, payload: vec![b'x'; size] });
        }
    } else {
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..connections).map(|_| inbox(BLOCKS_WAITING)).unzip();
        inputs.extend(inboxes.into_iter().map(Payloads::Lines));
        let file = match &args.file {
            Some(path) => {
                Some(File::open(path).map_err(|error| Failure(format!("{}: {error}", path.display())))?)
            }
            None => None,
        };
        reader = Some(std::thread::spawn(move || match file {
            Some(file) => read_lines(file, &senders),
            None => read_lines(std::io::stdin().lock(), &senders),
        }));
    }
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut producers = Vec::new();
    for payloads in inputs {
        let input = Input { payloads, acknowledged: acknowledged.clone() };
        let produce = Produce::new(args.queue.clone(), args.ttl, args.batch as usize, input);
        producers.push((args.client.target()?, produce));
    }
    let retries = args.client.retries;
    let settings = ExecutorSettings { name: "produce".into(), core: None };
    let began = Instant::now();
    let executor = spawn(settings, move || async move {
        let progress = glommio::spawn_local(show_progress(acknowledged));
        let deliver = |(target, mut produce): (Target, Produce<Input>)| async move {
            let ended = run_resumed(&target, &mut produce, retries, notice).await;
            (produce.stats, ended.err())
        };
        let tasks: Vec<_> =
            producers.into_iter().map(|producer| glommio::spawn_local(deliver(producer))).collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await);
        }
        progress.cancel().await;
        results
    })
    .map_err(|error| Failure(error.to_string()))?;
    let results = executor.join().map_err(|error| Failure(error.to_string()))?;
    let elapsed = began.elapsed();
    let mut total = ProduceStats::default();
    let mut failures: Vec<String> = Vec::new();
    for (stats, failure) in results {
        total.acknowledged += stats.acknowledged;
        total.refused += stats.refused;
        total.resent += stats.resent;
        total.first_refusal = total.first_refusal.or(stats.first_refusal);
        total.latency.add(&stats.latency).map_err(|error| Failure(error.to_string()))?;
        failures.extend(failure);
    }
    summarise(&total, elapsed);
    failures.sort();
    failures.dedup();
    failures.iter().for_each(|failure| eprintln!("millstream: {failure}"));
    // After a failure the reader may wait for connections that are gone; then the process' end ends it.
    if failures.is_empty()
        && let Some(reader) = reader
    {
        reader.join().map_err(|_| Failure("the reader panicked".into()))??;
    }
    Ok(if failures.is_empty() && total.refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn show_progress(acknowledged: Arc<AtomicU64>) {
    let mut before = 0;
    while std::io::stderr().is_terminal() {
        Timer::new(Duration::from_secs(1)).await;
        let now = acknowledged.load(Ordering::Relaxed);
        eprint!("\r{now} acknowledged, {}/s   ", now - before);
        before = now;
    }
}

fn summarise(total: &ProduceStats, elapsed: Duration) {
    let rate = total.acknowledged as f64 / elapsed.as_secs_f64().max(1e-9);
    let start = if std::io::stderr().is_terminal() { "\r" } else { "" };
    eprintln!(
        "{start}{} acknowledged in {:.2} s ({rate:.0}/s), {} refused, {} sent again",
        total.acknowledged,
        elapsed.as_secs_f64(),
        total.refused,
        total.resent
    );
    eprintln!("latency: {}", Summary::of(&total.latency));
    if let Some(refusal) = total.first_refusal.as_ref().filter(|refusal| refusal.code != StatusCode::CREATED)
    {
        eprintln!("first refusal: {refusal}");
    }
}

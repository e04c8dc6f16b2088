//! `millstream produce`: sends lines of text, or generated messages, to a queue.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use futures_lite::Stream;
use glommio::timer::Timer;

use super::{ClientArgs, Failure, notice, on_signal};
use crate::base::batch::Record;
use crate::base::error::StatusCode;
use crate::base::names::ClientId;
use crate::client::{Block, Produce, ProduceStats, Source, Target, run_resumed};
use crate::latency::Summary;
use crate::pb::headers::{HeaderRef, KAFKA_NAME, SERVER_PREFIX, put_header};
use crate::process::terminal::{has_progress, line_start, say};
use crate::shard::executor::{ExecutorSettings, spawn};
use crate::shard::preflight;

/// The target size of a block of input, in bytes.
const BLOCK_BYTES: usize = 64 << 10;
/// How many blocks may wait per connection before the reader pauses.
const BLOCKS_WAITING: usize = 16;
/// The largest number of waiting blocks over all connections: 64 MiB of input.
const BLOCKS_WAITING_MAX: usize = 1024;
/// How long to wait at the end for the reader thread to report. A reader that is blocked on a terminal does
/// not report.
const READER_GRACE: Duration = Duration::from_secs(1);
/// The longest line to send, in bytes: a little less than the server's default `max_pb_bytes`.
const LINE_BYTES_MAX: usize = (8 << 20) - (64 << 10);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads lines and sends each as one message, without its newline. Waits until
the server has acknowledged all of them, then prints a summary on standard
error. If the connection is lost, it reconnects and resends what was not
acknowledged, so a message may be stored twice.

Examples:
  echo hello | millstream produce greetings
  millstream produce events --file events.txt --key-separator :
  millstream produce load --count 1000000 --size 100 --connections 4
  echo later | millstream produce jobs --delay 60
  echo hello | millstream produce greetings --header lang=en --header from=me
  echo hello | millstream produce greetings --url wss://queues.example/

Exit codes:
  0    every message was acknowledged
  1    a message was refused or not delivered, or a signal interrupted the command
  2    bad usage, or this machine cannot run a client
  130  a second signal ended the command")]
pub(super) struct Args {
    /// Name of the queue, or QUEUE/N for its partition N only
    queue: String,
    #[command(flatten)]
    client: ClientArgs,
    /// Read lines from this file [default: standard input]
    #[arg(long, conflicts_with = "count")]
    file: Option<PathBuf>,
    /// Send this many generated messages instead of lines. Needs --size
    #[arg(long, requires = "size")]
    count: Option<u64>,
    /// Size of each generated message, in bytes
    #[arg(long, requires = "count")]
    size: Option<usize>,
    /// Number of connections to spread the messages over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Time to live of the messages, in seconds
    #[arg(long, default_value_t = 3_600)]
    ttl: u32,
    /// Name no time to live: the queue's attribute _default_message_ttl counts
    #[arg(long, conflicts_with = "ttl")]
    queue_ttl: bool,
    /// Seconds until the messages can be claimed. `consume` sees them at once [default: the queue's attribute
    /// _default_message_delay, or 0]
    #[arg(long)]
    delay: Option<u32>,
    /// Split each line at the first occurrence of this text. The part before it becomes the message's key.
    /// Messages with equal keys go to one partition and keep their order. A line without it has no key
    #[arg(long, conflicts_with = "count", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// Header of every message, as text. Repeat for more. `consume --json` shows headers
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Messages per ProduceRequest
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
}

/// The messages of one connection.
struct Input {
    payloads: Payloads,
    /// Acknowledged messages of all connections, for the progress line.
    acknowledged: Arc<AtomicU64>,
}

/// Either blocks of lines, which go to the first connection with credit, or generated messages.
enum Payloads {
    Lines(Pin<Box<Receiver<Block>>>),
    Generated { left: u64, payload: Vec<u8>, headers: Arc<[u8]> },
}

impl Input {
    /// Returns how many generated messages were not sent yet.
    fn left(&self) -> u64 {
        match self.payloads {
            Payloads::Lines(_) => 0,
            Payloads::Generated { left, .. } => left,
        }
    }
}

impl Source for Input {
    fn poll_block(&mut self, cx: &mut Context<'_>) -> Poll<Option<Block>> {
        match &mut self.payloads {
            Payloads::Lines(blocks) => blocks.as_mut().poll_next(cx),
            Payloads::Generated { left: 0, .. } => Poll::Ready(None),
            Payloads::Generated { left, payload, headers } => {
                let mut block = Block::default();
                while *left > 0
                    && (block.is_empty() || block.bytes() + headers.len() + payload.len() <= BLOCK_BYTES)
                    && block.len() < 10_000
                {
                    block.push(Record { headers, ..Record::plain(payload) });
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

/// The outcome of reading the input.
#[derive(Default)]
struct LineInput {
    too_long: u64,
    left: u64,
    failure: Option<String>,
}

/// Parses the argument of `--header`. The server refuses the same names.
fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE, like trace=7f")?;
    if name == KAFKA_NAME || name.starts_with(SERVER_PREFIX) {
        return Err(format!(
            "the name {KAFKA_NAME} and names that begin with {SERVER_PREFIX} are the server's"
        ));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Converts a line to a message, with the text before the first separator as its key.
fn split_key<'a>(line: &'a [u8], separator: Option<&str>) -> Record<'a> {
    let keyless = Record::plain(line);
    let Some(separator) = separator.map(str::as_bytes) else { return keyless };
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => Record::keyed(&line[..at], &line[at + separator.len()..]),
        None => keyless,
    }
}

/// Reads lines and sends them to `to` in blocks. Runs on a thread of its own, because reading a terminal or a
/// pipe blocks.
fn read_lines(
    mut input: impl Read,
    separator: Option<&str>,
    headers: &[u8],
    to: &Sender<Block>,
) -> LineInput {
    let mut reading = LineInput::default();
    let mut buffer = vec![0; BLOCK_BYTES];
    let mut line = Vec::new();
    let mut line_bytes = 0;
    loop {
        let bytes = match input.read(&mut buffer) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                reading.failure = Some(format!("cannot read: {error}"));
                return reading;
            }
        };
        let mut block = Block::default();
        let mut rest = &buffer[..bytes];
        // The end of the input also ends an unfinished line.
        while let Some(end) =
            rest.iter().position(|byte| *byte == b'\n').or((bytes == 0 && line_bytes > 0).then_some(0))
        {
            line_bytes += end;
            if line_bytes <= LINE_BYTES_MAX {
                line.extend_from_slice(&rest[..end]);
                block.push(Record { headers, ..split_key(&line, separator) });
            } else {
                reading.too_long += 1;
            }
            line.clear();
            line_bytes = 0;
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        line_bytes += rest.len();
        if line_bytes <= LINE_BYTES_MAX {
            line.extend_from_slice(rest);
        }
        if !block.is_empty()
            && let Err(back) = to.send_blocking(block)
        {
            // Every connection has ended.
            reading.left += back.0.len() as u64;
            return reading;
        }
        if bytes == 0 {
            return reading;
        }
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    let connections = usize::from(args.connections);
    // Report a bad address or an unsuitable machine before reading any input.
    let target = args.client.target(args.connections)?;
    preflight::check_client(1, u64::from(args.connections))?;
    let mut headers = Vec::new();
    for (name, value) in &args.headers {
        put_header(HeaderRef { name, value: Some(value.as_bytes()) }, &mut headers);
    }
    let headers: Arc<[u8]> = headers.into();
    let mut inputs = Vec::new();
    let mut reader = None;
    if let (Some(count), Some(size)) = (args.count, args.size) {
        for index in 0..connections as u64 {
            let left = count / connections as u64 + u64::from(index < count % connections as u64);
            inputs.push(Payloads::Generated { left, payload: vec![b'x'; size], headers: headers.clone() });
        }
    } else {
        let (sender, blocks) = async_channel::bounded((connections * BLOCKS_WAITING).min(BLOCKS_WAITING_MAX));
        inputs.extend((0..connections).map(|_| Payloads::Lines(Box::pin(blocks.clone()))));
        let file = match &args.file {
            Some(path) => {
                let failed = |error: &dyn std::fmt::Display| Failure(format!("{}: {error}", path.display()));
                let file = File::open(path).map_err(|error| failed(&error))?;
                if file.metadata().is_ok_and(|found| found.is_dir()) {
                    return Err(failed(&"is a directory"));
                }
                Some(file)
            }
            None => None,
        };
        let separator = args.key_separator.clone();
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let reading = match file {
                Some(file) => read_lines(file, separator.as_deref(), &headers, &sender),
                None => read_lines(std::io::stdin().lock(), separator.as_deref(), &headers, &sender),
            };
            // Fails if the main thread no longer waits for the result.
            let _ = end.send(reading);
        });
        reader = Some((ended, blocks));
    }
    let ttl = (!args.queue_ttl).then_some(args.ttl);
    let stopped = on_signal()?;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut producers = Vec::new();
    for payloads in inputs {
        let input = Input { payloads, acknowledged: acknowledged.clone() };
        let produce = Produce::new(args.queue.clone(), ttl, args.batch as usize, input).delayed(args.delay);
        // Each connection gets its own client id, unless `--client-id` sets one.
        let mut target = target.clone();
        if args.client.client_id.is_none() {
            target.client = Some(ClientId::random());
        }
        producers.push((target, produce));
    }
    let retries = args.client.retries;
    let settings = ExecutorSettings { name: "produce".into(), core: None };
    let began = Instant::now();
    let executor = spawn(settings, move || async move {
        let progress = glommio::spawn_local(show_progress(acknowledged));
        let deliver = |(target, mut produce): (Target, Produce<Input>)| {
            let stopped = stopped.clone();
            async move {
                let resumed = run_resumed(&target, &mut produce, retries, notice);
                let interrupted = async {
                    // The channel carries no messages. It closes at a signal.
                    let _ = stopped.recv().await;
                    Err("interrupted".to_owned())
                };
                let ended = futures_lite::future::or(resumed, interrupted).await;
                let undelivered = produce.undelivered() + produce.source().left();
                (produce.stats, undelivered, ended.err())
            }
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
    let mut undelivered = 0;
    let mut failures = BTreeSet::new();
    for (stats, left, failure) in results {
        total.acknowledged += stats.acknowledged;
        total.refused += stats.refused;
        total.resent += stats.resent;
        total.first_refusal = total.first_refusal.or(stats.first_refusal);
        total.latency.add(&stats.latency).map_err(|error| Failure(error.to_string()))?;
        undelivered += left;
        failures.extend(failure);
    }
    if let Some((ended, blocks)) = reader {
        blocks.close();
        while let Ok(block) = blocks.try_recv() {
            undelivered += block.len() as u64;
        }
        if let Ok(reading) = ended.recv_timeout(READER_GRACE) {
            undelivered += reading.left;
            total.refused += reading.too_long;
            failures.extend(reading.failure);
            if reading.too_long > 0 {
                let count = reading.too_long;
                say(format_args!("{count} lines are longer than {LINE_BYTES_MAX} bytes and were not sent"));
            }
        }
    }
    summarise(&total, undelivered, elapsed);
    failures.iter().for_each(|failure| say(format_args!("millstream: {failure}")));
    let sound = failures.is_empty() && total.refused == 0 && undelivered == 0;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn show_progress(acknowledged: Arc<AtomicU64>) {
    let mut before = 0;
    while has_progress() {
        Timer::new(Duration::from_secs(1)).await;
        let now = acknowledged.load(Ordering::Relaxed);
        // If standard error is closed, nobody sees the progress.
        let _ = write!(std::io::stderr(), "\r{now} acknowledged, {}/s   ", now - before);
        before = now;
    }
}

fn summarise(total: &ProduceStats, undelivered: u64, elapsed: Duration) {
    let rate = total.acknowledged as f64 / elapsed.as_secs_f64().max(1e-9);
    let start = line_start();
    let undelivered = if undelivered > 0 { format!(", {undelivered} not delivered") } else { String::new() };
    say(format_args!(
        "{start}{} acknowledged in {:.2} s ({rate:.0}/s), {} refused{undelivered}, {} sent again",
        total.acknowledged,
        elapsed.as_secs_f64(),
        total.refused,
        total.resent
    ));
    if !total.latency.is_empty() {
        say(format_args!("latency: {}", Summary::of(&total.latency)));
    }
    if let Some(refusal) = total.first_refusal.as_ref().filter(|refusal| refusal.code != StatusCode::CREATED)
    {
        say(format_args!("first refusal: {refusal}"));
    }
}

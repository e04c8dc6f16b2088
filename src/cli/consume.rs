//! `millstream consume`.

use std::io::{BufWriter, IsTerminal, Stdout, Write};
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll};
use std::time::Duration;

use async_channel::Receiver;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_lite::Stream;
use glommio::timer::Timer;

use super::output::{CLOSED, write_json};
use super::{ClientArgs, Failure, notice, on_signal};
use crate::client::session::ConsumeOptions;
use crate::client::{Consume, Sink, run_resumed};
use crate::operation::Marker;
use crate::pb::ReceivedMessage;
use crate::process::terminal::{escaped, say, write_escaped};
use crate::shard::executor::{ExecutorSettings, spawn};
use crate::shard::preflight;

/// How long a server gets after SIGINT to send the last marker.
const STOP_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Follows the queue until --count messages came, its end is reached (--exit-at-end), or SIGINT; then says on \
                  standard error where to go on from: the server's marker, and where it has printed more than that, ~PARTITION.OFFSET \
                  parts that say how far. They are for another consume's --from alone: a server takes only what is before the first ~.\n\
                  Exit codes: 0 done; 1 the server refused or could not be reached, or standard output could not be written \
                  (then no marker is given); 2 usage, or no client can run here; 141 standard output was closed (then no \
                  marker is given)."
)]
pub(super) struct Args {
    /// The queue, or QUEUE/N for its partition N alone
    queue: String,
    #[command(flatten)]
    client: ClientArgs,
    /// Where to begin: oldest, latest, time:MS (Unix milliseconds), a marker, or what an earlier consume printed after --from
    #[arg(long, default_value = "oldest")]
    from: String,
    /// Stop after so many messages
    #[arg(long)]
    count: Option<u64>,
    /// Stop when every partition is read to the end that it had at the start
    #[arg(long, short = 'e')]
    exit_at_end: bool,
    /// Write payloads to a terminal as they are; without it control characters are shown escaped there
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// One JSON object a line: id, age, ttl, timestamp (Unix milliseconds), key (where there is one) and payload, both in base64
    #[arg(long)]
    json: bool,
    /// Read messages of the same client id, too
    #[arg(long)]
    echo: bool,
    /// How many messages may be under way
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    window: u64,
}

#[derive(serde::Serialize)]
struct Line<'a> {
    id: &'a str,
    age: u32,
    ttl: u32,
    timestamp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    payload: String,
}

/// Prints messages.
struct Printer {
    out: BufWriter<Stdout>,
    json: bool,
    /// People read it.
    escape: bool,
    broken: Option<std::io::Error>,
    /// Closes when it is to stop.
    stopped: Pin<Box<Receiver<()>>>,
}

impl Printer {
    fn print(&mut self, message: &ReceivedMessage<'_>) -> std::io::Result<()> {
        let payload = message.payload.unwrap_or_default();
        if self.json {
            let line = Line {
                id: message.id,
                age: message.age,
                ttl: message.ttl,
                timestamp: message.timestamp_ms,
                key: message.key.map(|key| STANDARD.encode(key)),
                payload: STANDARD.encode(payload),
            };
            return write_json(&mut self.out, &line);
        }
        if self.escape {
            write_escaped(payload, &mut self.out)?;
        } else {
            self.out.write_all(payload)?;
        }
        self.out.write_all(b"\n")
    }
}

impl Sink for Printer {
    fn handle(&mut self, message: &ReceivedMessage<'_>) {
        if self.broken.is_none() {
            self.broken = self.print(message).err();
        }
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.broken.is_none() {
            self.broken = self.out.flush().err();
        }
        if self.broken.is_some() { Poll::Ready(()) } else { self.stopped.as_mut().poll_next(cx).map(drop) }
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    let target = args.client.target()?;
    preflight::check_client(1, 1)?;
    let stopped = on_signal()?;
    let options = ConsumeOptions {
        queue: args.queue,
        from: if args.from == "oldest" { String::new() } else { args.from },
        echo: args.echo,
        window: args.window,
        count: args.count,
    };
    let (json, retries, exit_at_end) = (args.json, args.client.retries, args.exit_at_end);
    let escape = !args.raw && std::io::stdout().is_terminal();
    let settings = ExecutorSettings { name: "consume".into(), core: None };
    let executor = spawn(settings, move || async move {
        let out = BufWriter::with_capacity(256 << 10, std::io::stdout());
        let printer = Printer { out, json, escape, broken: None, stopped: Box::pin(stopped.clone()) };
        let consume = Consume::new(options, printer);
        let mut consume = if exit_at_end { consume.until_end() } else { consume };
        let resumed = run_resumed(&target, &mut consume, retries, notice);
        let abandoned = async {
            // Nothing comes: this is its end. A server that does not answer then keeps nobody here.
            let _ = stopped.recv().await;
            Timer::new(STOP_GRACE).await;
            Ok(())
        };
        let ended = futures_lite::future::or(resumed, abandoned).await;
        let broken = consume.sink.broken.take().or(consume.sink.out.flush().err());
        (consume.received, consume.resume_marker(), ended.err(), broken)
    })
    .map_err(|error| Failure(error.to_string()))?;
    let (received, marker, failure, broken) = executor.join().map_err(|error| Failure(error.to_string()))?;
    if let Some(error) = broken {
        // How much of it was written nobody knows, so there is no marker to go on from.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Ok(ExitCode::from(CLOSED));
        }
        say(format_args!("millstream: cannot write: {error}"));
        return Ok(ExitCode::FAILURE);
    }
    say(format_args!("{received} messages"));
    match marker {
        Some(marker) if Marker::is_well_formed(&marker) => say(format_args!("go on with: --from {marker}")),
        // It would be pasted into a shell.
        Some(marker) => {
            say(format_args!("millstream: the server's marker is malformed: {}", escaped(&marker)))
        }
        None => {}
    }
    Ok(match failure {
        Some(failure) => {
            say(format_args!("millstream: {failure}"));
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    })
}

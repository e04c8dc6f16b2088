//! `millstream consume`: prints the messages of a queue.

use std::io::{BufWriter, Stdout, Write};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use async_channel::Receiver;
use futures_lite::Stream;
use glommio::timer::Timer;

use super::message_form::MessageForm;
use super::output::{CLOSED, stop_when_unread};
use super::{ClientArgs, Failure, notice, on_signal};
use crate::client::session::ConsumeOptions;
use crate::client::{Consume, Sink, run_resumed};
use crate::operation::Marker;
use crate::pb::ReceivedMessage;
use crate::process::terminal::{escaped, say};
use crate::shard::executor::{ExecutorSettings, spawn};
use crate::shard::preflight;

/// How long the server may take after SIGINT to send the last marker.
const STOP_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints each payload on one line and follows the queue. Stops after --count
messages, at the end of the queue (--exit-at-end), or on SIGINT or SIGTERM.
Reconnects if the connection is lost.

At the end it prints on standard error how to resume: --from and a marker. If
it printed messages beyond the server's marker, ~PARTITION.OFFSET parts
follow. Only this command understands those parts: give other clients just the
marker, up to the first ~.

Examples:
  millstream consume greetings                      follow from the oldest message
  millstream consume greetings --from latest        follow new messages only
  millstream consume greetings --exit-at-end        print what is stored, then stop
  millstream consume greetings --from time:1795603784154 --count 10 --json
  millstream consume greetings --url wss://localhost:9443/ --ca ca.pem

Exit codes:
  0    done
  1    the server refused or could not be reached, or standard output could not
       be written (no marker is printed)
  2    bad usage, or this machine cannot run a client
  130  a second signal ended the command
  141  standard output was closed (no marker is printed)")]
pub(super) struct Args {
    /// Name of the queue, or QUEUE/N for its partition N only
    queue: String,
    #[command(flatten)]
    client: ClientArgs,
    /// Start position: oldest, latest, time:MS (Unix milliseconds), a marker, or what an earlier consume
    /// printed after --from
    #[arg(long, default_value = "oldest")]
    from: String,
    /// Stop after this many messages
    #[arg(long)]
    count: Option<u64>,
    /// Stop once every partition is read up to the end that it had at the start
    #[arg(long, short = 'e')]
    exit_at_end: bool,
    /// Write payloads to a terminal unchanged. By default, control characters are escaped on a terminal
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print one JSON object per message: id, age and ttl (seconds), timestamp (Unix milliseconds), key (if
    /// any) and payload. Key and payload are base64
    #[arg(long)]
    json: bool,
    /// Also read messages that were sent with this client's own id (see --client-id)
    #[arg(long)]
    echo: bool,
    /// How many messages the server may send ahead of what this client has processed
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    window: u64,
}

/// Prints messages to standard output.
struct Printer {
    out: BufWriter<Stdout>,
    form: MessageForm,
    broken: Option<std::io::Error>,
    /// Closes when a signal asks the command to stop.
    stopped: Pin<Box<Receiver<()>>>,
}

impl Sink for Printer {
    fn handle(&mut self, message: &ReceivedMessage<'_>) {
        if self.broken.is_none() {
            self.broken = self.form.write(message, &mut self.out).err();
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
    let target = args.client.target(1)?;
    preflight::check_client(1, 1)?;
    let stopped = on_signal()?;
    let stop = stopped.clone();
    let is_unread = stop_when_unread(move || stop.close());
    let options = ConsumeOptions {
        queue: args.queue,
        from: if args.from == "oldest" { String::new() } else { args.from },
        echo: args.echo,
        window: args.window,
        count: args.count,
    };
    let (retries, exit_at_end, count) = (args.client.retries, args.exit_at_end, args.count);
    let form = MessageForm::new(args.json, args.raw);
    let settings = ExecutorSettings { name: "consume".into(), core: None };
    let executor = spawn(settings, move || async move {
        let out = BufWriter::with_capacity(256 << 10, std::io::stdout());
        let printer = Printer { out, form, broken: None, stopped: Box::pin(stopped.clone()) };
        let consume = Consume::new(options, printer);
        let mut consume = if exit_at_end { consume.until_end() } else { consume };
        let resumed = run_resumed(&target, &mut consume, retries, notice);
        let abandoned = async {
            // The channel carries no messages and closes at a signal. A server that then does not answer
            // cannot keep the command running.
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
        // Nobody knows how much was written, so there is no marker to resume from.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Ok(ExitCode::from(CLOSED));
        }
        say(format_args!("millstream: cannot write to standard output: {error}"));
        return Ok(ExitCode::FAILURE);
    }
    let is_short = count.is_none_or(|count| received < count);
    if failure.is_none() && is_unread.load(Ordering::Relaxed) && is_short {
        return Ok(ExitCode::from(CLOSED));
    }
    say(format_args!("{received} messages"));
    match marker {
        Some(marker) if Marker::is_well_formed(&marker) => say(format_args!("resume with: --from {marker}")),
        // A user would paste the marker into a shell.
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

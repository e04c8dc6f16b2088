//! `millstream claim`: claims messages, and runs a command for each of them or prints them.

mod printer;
mod runner;
mod stop;

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use glommio::timer::Timer;

use self::printer::Printer;
use self::runner::{Failures, Runner, Running};
use self::stop::Stop;
use super::message_form::MessageForm;
use super::output::{CLOSED, stop_when_unread};
use super::{ClientArgs, Failure, notice};
use crate::client::session::ClaimOptions;
use crate::client::{Claim, ClaimLimits, ClaimTally, Target, Worker, run_resumed};
use crate::process::terminal::say;
use crate::shard::executor::{ExecutorSettings, spawn};
use crate::shard::preflight;

/// How long the server may take, once a signal came and nothing is under way, to confirm what was settled.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The same for a worker that holds no message.
const IDLE_GRACE: Duration = Duration::from_millis(500);
/// How often to look whether commands still run after a signal.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The most commands at the same time. Each has a thread.
const PARALLEL_MAX: i64 = 1_000;
/// The most messages that wait for a command, or that are printed and not confirmed.
const PREFETCH_MAX: i64 = 60_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A claimed message is given to nobody else until its claim ends. What is done
is acknowledged, which deletes the message for everybody. What is not
acknowledged in time is given out again, so a message may be processed twice,
but it is not lost when a worker dies.

With --exec, runs a command for each message, with sh -c. The payload is its
standard input, and its environment has:
  MILLSTREAM_ID          id of the message
  MILLSTREAM_KEY         key, if the message has one
  MILLSTREAM_KEY_BASE64  the same in base64; for keys that are not text
  MILLSTREAM_COUNT       how often the message was claimed, this time included
  MILLSTREAM_QUEUE       name of the queue
Exit code 0 acknowledges the message. Any other releases it: it is given out
again after --retry-delay. With --max-claims, a message that has failed so
often is rejected instead. Claims are renewed while the command runs. Exit
codes 126 and 127 mean that the shell could not run the command: this ends the
worker. Processes that a command leaves in the background are killed.

Without --exec, prints each payload on one line, and acknowledges what was
written.

SIGINT and SIGTERM end the command once everything under way is finished and
the server has confirmed it. A second signal kills what still runs, and
releases its messages. Reconnects if the connection is lost; what was done
meanwhile is settled then.

Examples:
  millstream claim jobs --exec ./handle                       one at a time
  millstream claim jobs --exec 'tee /tmp/job | ./handle' --parallel 8
  millstream claim jobs --exec ./handle --timeout 60 --retry-delay 10 --max-claims 5
  millstream claim jobs --exec ./handle --exit-when-idle 5    until nothing comes
  millstream claim jobs --count 10 --json                     print ten messages
  echo work | millstream produce jobs --delay 60

Exit codes:
  0    done
  1    the server refused or could not be reached, a command could not be run,
       or standard output could not be written
  2    bad usage, or this machine cannot run a client
  130  a second signal ended the command
  141  standard output was closed")]
pub(super) struct Args {
    /// Name of the queue, or QUEUE/N for its partition N only
    queue: String,
    #[command(flatten)]
    client: ClientArgs,
    /// Run this command for each message, instead of printing it
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["raw", "json"],
        value_parser = clap::builder::NonEmptyStringValueParser::new())]
    exec: Option<String>,
    /// Number of commands at the same time
    #[arg(long, default_value_t = 1, requires = "exec", value_parser = clap::value_parser!(u32).range(1..=PARALLEL_MAX))]
    parallel: u32,
    /// Messages to claim ahead. They wait for a command, and nobody else gets them [default: 0; without --exec: 1000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=PREFETCH_MAX))]
    prefetch: Option<u32>,
    /// Kill a command that runs for longer than this many seconds, and release its message
    #[arg(long, value_name = "SECONDS", requires = "exec")]
    timeout: Option<NonZeroU32>,
    /// Seconds until a message whose command has failed can be claimed again [default: a time that grows with the
    /// number of claims, from 0 to 60]
    #[arg(long, value_name = "SECONDS", requires = "exec")]
    retry_delay: Option<u32>,
    /// Reject a message when its command has failed this many times. Rejected messages are not given out again
    #[arg(long, value_name = "N", requires = "exec")]
    max_claims: Option<NonZeroU32>,
    /// Stop after this many messages
    #[arg(long)]
    count: Option<u64>,
    /// Stop once no message has come for this many seconds and nothing is under way
    #[arg(long, value_name = "SECONDS")]
    exit_when_idle: Option<u32>,
    /// Seconds that a claim lasts. It is renewed when a third of them has passed [default: 300, set by the server]
    #[arg(long)]
    ttl: Option<NonZeroU32>,
    /// Seconds that a claimed message lives at least after its claim has ended [default: 60, set by the server]
    #[arg(long)]
    grace: Option<u32>,
    /// Have the server release the claims as soon as the connection is lost, instead of when they end
    #[arg(long)]
    release_on_disconnect: bool,
    /// Write payloads to a terminal unchanged. By default, control characters are escaped on a terminal
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print one JSON object per message: id, age and ttl (seconds), timestamp (Unix milliseconds), count (of claims),
    /// key (if any) and payload. Key and payload are base64
    #[arg(long)]
    json: bool,
}

/// The most messages that the printer has not acknowledged, by default.
const PRINTED: u32 = 1_000;

impl Args {
    fn options(&self) -> ClaimOptions {
        ClaimOptions {
            queue: self.queue.clone(),
            ttl: self.ttl.map(NonZeroU32::get),
            grace: self.grace,
            release_on_disconnect: self.release_on_disconnect,
        }
    }

    fn limits(&self) -> ClaimLimits {
        let held = match self.exec {
            Some(_) => self.parallel.saturating_add(self.prefetch.unwrap_or(0)),
            None => self.prefetch.unwrap_or(PRINTED).max(1),
        };
        let idle = self.exit_when_idle.map(|seconds| Duration::from_secs(seconds.into()));
        ClaimLimits { held: held.into(), count: self.count, idle }
    }
}

/// How the claims have ended.
struct Ended {
    tally: ClaimTally,
    unconfirmed: u64,
    /// Why the server could not be asked, or no longer.
    failure: Option<String>,
}

/// Runs a worker until it is done, or until a signal leaves it no more time. `busy` counts its running commands.
async fn work<W: Worker>(
    target: &Target,
    claim: &mut Claim<W>,
    retries: u32,
    stop: Stop,
    busy: Arc<AtomicUsize>,
) -> Ended {
    let held = claim.watch();
    let resumed = run_resumed(target, claim, retries, notice);
    let abandoned = async {
        stop.wait().await;
        while busy.load(Ordering::Acquire) > 0 {
            Timer::new(LOOK_EVERY).await;
        }
        Timer::new(if held.get() == 0 { IDLE_GRACE } else { STOP_GRACE }).await;
        Err("the server did not confirm the end in time".to_owned())
    };
    let ended = futures_lite::future::or(resumed, abandoned).await;
    // Without a message, there was nothing to confirm.
    let failure = ended.err().filter(|_| !stop.has_begun() || claim.watch().get() > 0);
    Ended { tally: claim.tally, unconfirmed: claim.unconfirmed(), failure }
}

/// Says what has become of the messages. Returns the exit code.
fn conclude(ended: &Ended, stop: &Stop, trouble: Option<&str>) -> ExitCode {
    let ClaimTally { acknowledged, released, rejected, lost } = ended.tally;
    say(format_args!("{acknowledged} acknowledged, {released} released, {rejected} rejected"));
    if lost > 0 {
        say(format_args!(
            "millstream: {lost} messages were given to another worker before they were settled"
        ));
    }
    if ended.unconfirmed > 0 {
        let count = ended.unconfirmed;
        say(format_args!(
            "millstream: {count} messages are perhaps not settled: they may be given out again"
        ));
    }
    for failure in ended.failure.as_deref().into_iter().chain(trouble) {
        say(format_args!("millstream: {failure}"));
    }
    if stop.is_urgent() {
        return ExitCode::from(130);
    }
    if ended.failure.is_some() || trouble.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    let target = args.client.target(1)?;
    preflight::check_client(1, 1)?;
    let stop = Stop::on_signals()?;
    match &args.exec {
        Some(command) => {
            let running = Running {
                command: command.clone(),
                queue: args.queue.clone(),
                timeout: args.timeout.map(|seconds| Duration::from_secs(seconds.get().into())),
            };
            let failures = Failures {
                retry_delay: args.retry_delay,
                max_claims: args.max_claims.map_or(u32::MAX, NonZeroU32::get),
            };
            execute(&args, target, stop, running, failures)
        }
        None => print(&args, target, stop),
    }
}

/// Runs a command for each message.
fn execute(
    args: &Args,
    target: Target,
    stop: Stop,
    running: Running,
    failures: Failures,
) -> Result<ExitCode, Failure> {
    let (options, limits, retries, parallel) =
        (args.options(), args.limits(), args.client.retries, args.parallel);
    let settings = ExecutorSettings { name: "claim".into(), core: None };
    let stopping = stop.clone();
    let executor = spawn(settings, move || async move {
        let runner = Runner::new(running, failures, parallel as usize, stopping.clone());
        let busy = runner.busy();
        let mut claim = Claim::new(options, limits, runner);
        let ended = work(&target, &mut claim, retries, stopping, busy).await;
        (ended, claim.worker.trouble)
    })
    .map_err(|error| Failure(error.to_string()))?;
    let (ended, trouble) = executor.join().map_err(|error| Failure(error.to_string()))?;
    Ok(conclude(&ended, &stop, trouble.as_deref()))
}

/// Prints each message.
fn print(args: &Args, target: Target, stop: Stop) -> Result<ExitCode, Failure> {
    let (options, limits, retries) = (args.options(), args.limits(), args.client.retries);
    let form = MessageForm::new(args.json, args.raw);
    let settings = ExecutorSettings { name: "claim".into(), core: None };
    let stopping = stop.clone();
    let is_unread = stop_when_unread(move || stopping.begin());
    let stopping = stop.clone();
    let executor = spawn(settings, move || async move {
        let printer = Printer::new(form, stopping.clone());
        let mut claim = Claim::new(options, limits, printer);
        let ended = work(&target, &mut claim, retries, stopping, Arc::default()).await;
        (ended, claim.worker.broken)
    })
    .map_err(|error| Failure(error.to_string()))?;
    let (ended, broken) = executor.join().map_err(|error| Failure(error.to_string()))?;
    let is_short = args.count.is_none_or(|count| ended.tally.acknowledged < count);
    let is_unread = is_unread.load(Ordering::Relaxed) && is_short && ended.failure.is_none();
    if is_unread || broken.as_ref().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
        return Ok(ExitCode::from(CLOSED));
    }
    let trouble = broken.map(|error| format!("cannot write to standard output: {error}"));
    Ok(conclude(&ended, &stop, trouble.as_deref()))
}

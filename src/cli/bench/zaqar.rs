//! `millstream bench zaqar`: loads a server of the Zaqar API over WebSocket.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::super::output::Output;
use super::super::tls::TlsArgs;
use super::super::token_source::TokenArgs;
use super::super::{Failure, cores};
use super::{INTERRUPTED, RATES, SECONDS, SIZE_MAX, interrupt_on_signal};
use crate::client::{Address, ClientError, Scheme};
use crate::load::zaqar::{Format, Load, STAMP_CHARS, Workload, run as run_load};
use crate::load::{Interrupt, Mode, Plan};
use crate::process::terminal::{has_progress, line_start, say};
use crate::shard::preflight;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WorkloadArg {
    /// message_post of one message
    Post,
    /// message_post of ten messages
    Post10,
    /// message_list of ten messages
    List,
    /// Rounds: claim_create of ten messages, then message_delete_many of what was claimed
    Claim,
    /// message_get of one message
    Get,
    /// message_delete of one message
    Delete,
    /// message_post to a queue with --subscribers over WebSocket; counts and verifies their notifications
    Notify,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    /// JSON in text messages
    Json,
    /// MessagePack in binary messages
    Msgpack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputArg {
    Text,
    Json,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each connection keeps --depth requests under way and gets the answers in order.
Without --rate, it sends the next request when an answer arrives (closed loop).
With --rate, requests follow a schedule (open loop) and latency counts from the
scheduled time, so a server that stalls cannot hide it.

Before the run begins, each connection creates its queue, asks once for what it
will measure, and checks the whole answer. Later it checks each answer's status.
Claims and deletes need messages. Their connections post them beside, 100 at a
time; --stock posts some before the run begins. Such posts are not measured.

The official server is at ws://127.0.0.1:9000 by default.

Examples:
  millstream bench zaqar post                          posts, as fast as possible
  millstream bench zaqar post --rate 50000             latency at 50,000 posts/s
  millstream bench zaqar claim --stock 1000000         rounds, most posted before
  millstream bench zaqar notify --subscribers 1000 --batch 10
  millstream bench zaqar list --url ws://127.0.0.1:8888/ --depth 1 -o json

Exit codes:
  0    every request succeeded, and every notification arrived once and in order
  1    a request failed, a notification was lost or repeated, or the server could
       not be reached
  2    bad usage, or this machine cannot run the clients
  130  a signal ended the load early
  141  standard output was closed")]
pub(super) struct Args {
    /// What to ask for
    workload: WorkloadArg,
    /// Address of the server; wss:// for TLS
    #[arg(long, default_value = "ws://127.0.0.1:9000/v2")]
    url: String,
    /// Project of the requests (X-Project-ID)
    #[arg(long, default_value = "bench")]
    project: String,
    /// Name of the queue. With --queues, -0, -1 and so on are appended
    #[arg(long, default_value = "bench")]
    queue: String,
    /// Number of queues to spread the connections over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    queues: u32,
    /// Format of requests and answers
    #[arg(long, value_enum, default_value_t = FormatArg::Json)]
    format: FormatArg,
    /// Number of connections that send requests [default: 16; with notify: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    connections: Option<u32>,
    /// Requests that a connection may have under way
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    depth: u32,
    /// Size of each message's body, in bytes. With notify, at least 48
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Messages per message_post [default: 1; with post10: 10]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: Option<u32>,
    /// With notify: number of connections that subscribe to the queue [default: 1000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: Option<u32>,
    /// With claim and delete: messages to post before the run begins
    #[arg(long)]
    stock: Option<u64>,
    /// Requests per second over all connections, sent on a schedule
    #[arg(long)]
    rate: Option<f64>,
    /// Time to live of the messages, in seconds
    #[arg(long, default_value_t = 3_600)]
    ttl: u32,
    /// Seconds to run before measuring
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Seconds to measure
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How long to wait for a further connection to be set up. All of them are, before any begins
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    setup_timeout: Duration,
    /// Cores for the clients, such as 0,2-3 [default: all that the process may use]
    #[arg(long)]
    cores: Option<String>,
    /// Process id of the server, to measure its CPU time and memory
    #[arg(long)]
    server_pid: Option<u32>,
    /// Text for people, or JSON
    #[arg(short, long, value_enum, default_value_t = OutputArg::Text)]
    output: OutputArg,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    token: TokenArgs,
}

/// How many connections and subscribers there are by default.
const CONNECTIONS: u32 = 16;
const SUBSCRIBERS: u32 = 1_000;
/// The messages of a request of the workload `post10`.
const TEN: u32 = 10;
/// The most characters that the API accepts for the name of a queue, and of a project.
const NAME_CHARS_MAX: usize = 64;
const PROJECT_CHARS_MAX: usize = 256;
/// The characters that the API accepts in the name of a queue, besides letters and digits.
const NAME_SIGNS: &str = "_-.";

/// Checks what the server would refuse.
fn check_names(args: &Args) -> Result<(), Failure> {
    let suffix = if args.queues > 1 { (args.queues - 1).to_string().len() + 1 } else { 0 };
    let is_name = args.queue.chars().all(|sign| sign.is_ascii_alphanumeric() || NAME_SIGNS.contains(sign));
    if !is_name || args.queue.is_empty() || args.queue.len() + suffix > NAME_CHARS_MAX {
        return Err(Failure(format!(
            "--queue: must have 1 to {NAME_CHARS_MAX} characters out of letters, digits and {NAME_SIGNS}"
        )));
    }
    if args.project.chars().count() > PROJECT_CHARS_MAX {
        return Err(Failure(format!("--project: must have at most {PROJECT_CHARS_MAX} characters")));
    }
    Ok(())
}

/// Builds the load that the arguments describe. The error names the argument that is invalid.
fn load(args: &Args) -> Result<Load, Failure> {
    let workload = match args.workload {
        WorkloadArg::Post | WorkloadArg::Post10 => Workload::Post,
        WorkloadArg::List => Workload::List,
        WorkloadArg::Claim => Workload::Claim,
        WorkloadArg::Get => Workload::Get,
        WorkloadArg::Delete => Workload::Delete,
        WorkloadArg::Notify => Workload::Notify,
    };
    let is_notify = workload == Workload::Notify;
    let only = |is_set: bool, flag: &str, with: &str, is_right: bool| match is_set && !is_right {
        true => Err(Failure(format!("{flag}: works only with {with}"))),
        false => Ok(()),
    };
    only(args.batch.is_some(), "--batch", "post, post10 and notify", workload.has_messages())?;
    only(args.subscribers.is_some(), "--subscribers", "notify", is_notify)?;
    only(args.stock.is_some(), "--stock", "claim and delete", workload.needs_stock())?;
    check_names(args)?;
    let least = if is_notify { STAMP_CHARS } else { 0 };
    if !(least..=SIZE_MAX).contains(&args.bytes) {
        return Err(Failure(format!("--bytes {}: must be from {least} to {SIZE_MAX}", args.bytes)));
    }
    if args.rate.is_some_and(|rate| !RATES.contains(&rate)) {
        return Err(Failure(format!("--rate: must be from {} to {}", RATES.start(), RATES.end())));
    }
    if !SECONDS.contains(&args.seconds) || !(0.0..=*SECONDS.end()).contains(&args.warmup) {
        return Err(Failure(format!(
            "--seconds: must be from {} to {}; --warmup: at most the same",
            SECONDS.start(),
            SECONDS.end()
        )));
    }
    let batch = match args.workload {
        WorkloadArg::Post10 => args.batch.unwrap_or(TEN),
        _ => args.batch.unwrap_or(1),
    };
    let producers = args.connections.unwrap_or(if is_notify { 1 } else { CONNECTIONS });
    let consumers = if is_notify { args.subscribers.unwrap_or(SUBSCRIBERS) } else { 0 };
    let seconds = |name, value| {
        Duration::try_from_secs_f64(value).map_err(|error| Failure(format!("--{name} {value}: {error}")))
    };
    // The plan counts messages.
    let lag = u64::from(args.depth) * u64::from(batch) * u64::from(producers);
    let address = Address::parse(&args.url, Scheme::Ws)?;
    let plan = Plan {
        mode: if is_notify { Mode::Both } else { Mode::Produce },
        url: args.url.clone(),
        trust: args.tls.trust(&address)?,
        tokens: args.token.tokens(&address, true)?,
        project: None,
        queue: args.queue.clone(),
        queues: args.queues,
        producers,
        consumers,
        idle: 0,
        stalled: 0,
        keys: 0,
        from: String::new(),
        size: args.bytes,
        batch: batch as usize,
        pbs_per_frame: 1,
        in_flight: None,
        consume_window: 0,
        claim_window: 0,
        lease: 0,
        double_ack: false,
        lag,
        rate: args.rate.map(|rate| rate * f64::from(batch)),
        count: None,
        repeat: false,
        setup_timeout: args.setup_timeout,
        warmup: seconds("warmup", args.warmup)?,
        measure: seconds("seconds", args.seconds)?,
        ttl: args.ttl,
        partition_offset: None,
        anonymous: true,
        partitions: 1,
        cores: cores(args.cores.as_deref())?,
        progress: has_progress(),
        server_pid: args.server_pid,
        control: None,
        interrupt: Interrupt::default(),
        run: Plan::fresh_run(),
        epoch: Instant::now(),
    };
    Ok(Load {
        plan: Arc::new(plan),
        workload,
        format: match args.format {
            FormatArg::Json => Format::Json,
            FormatArg::Msgpack => Format::MsgPack,
        },
        project: args.project.clone(),
        depth: args.depth as usize,
        stock: args.stock.unwrap_or(0),
    })
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let load = load(args)?;
    let plan = load.plan.clone();
    let connections = u64::from(plan.producers) + u64::from(plan.consumers);
    preflight::check_client(plan.cores.len() as u64, connections)?;
    interrupt_on_signal(&plan.interrupt)?;
    let report = match run_load(load) {
        Ok(report) => report,
        Err(error @ ClientError::Address(_)) => return Err(error.into()),
        Err(error) => {
            say(format_args!("{}millstream: {error}", line_start()));
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut to = Output::new();
    match args.output {
        OutputArg::Text => write!(to, "{report}")?,
        OutputArg::Json => writeln!(to, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    to.finish()?;
    if plan.interrupt.is_raised() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

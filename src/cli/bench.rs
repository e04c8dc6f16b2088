//! `millstream bench`: puts a load on a server and measures it.

mod zaqar;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::control::{AccessArgs, control_address};
use super::output::Output;
use super::result_file::OutFile;
use super::tls::TlsArgs;
use super::token_source::{COMMAND_FLAG, TokenArgs};
use super::{Failure, cores, on_signal};
use crate::base::names::Project;
use crate::client::{Address, ClientError, ControlClient, Endpoint, Scheme, Trust, without_secret};
use crate::control::InfoPage;
use crate::load::{
    About, Environment, FORMAT, Figures, Interrupt, Knee, Mode, Peer, Plan, ResultFile, RunResult,
    STAMP_BYTES, Sweep, find_knee, run as run_load, sweep_connections,
};
use crate::process::terminal::{has_progress, line_start, say};
use crate::process::unix_now;
use crate::shard::preflight;

/// How long the server's control port may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    /// Producers only
    Produce,
    /// Consumers only, starting at --from
    Consume,
    /// Producers and consumers at once. Latency counts from the intended send to the receipt
    Both,
    /// Like both, with ten consumers. Each gets every message of its queue
    FanOut,
    /// Producers and workers at once. Each message is claimed by one worker, which acknowledges it
    Claim,
    /// No load, only --idle open connections, to measure what they cost
    Idle,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PeerArg {
    /// Apache Kafka: one topic per queue, acks=all
    Kafka,
    /// NATS JetStream, over its WebSocket port: one stream per queue; for claim with work-queue retention
    Nats,
}

impl Args {
    fn peer(&self) -> Option<Peer> {
        self.against.map(|peer| match peer {
            PeerArg::Kafka => Peer::Kafka,
            PeerArg::Nats => Peer::Nats,
        })
    }

    fn url(&self) -> String {
        let default = match self.peer() {
            None => "ws://127.0.0.1:9000/",
            Some(Peer::Kafka) => "127.0.0.1:9092",
            Some(Peer::Nats) => "ws://127.0.0.1:8080",
        };
        self.url.clone().unwrap_or_else(|| default.into())
    }
}

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Without --rate, each producer sends as fast as its credit allows (closed
loop). That shows the highest throughput; latency is then mostly queueing.
With --rate, requests follow a schedule (open loop) and latency counts from
the scheduled time, so a server that stalls cannot hide it.

With claim, each message goes to one worker. Latency counts from the intended
send to the claim, and from the claim to the confirmed acknowledgement. The
run fails if two workers have a message at once, if a message is claimed again
after its acknowledgement was confirmed, or if one is never acknowledged.

Every message is verified and is one latency sample. --out keeps all
measurements: `millstream report` draws them and compares several runs. The
first Ctrl-C or SIGTERM ends the load early and reports what was measured up
to then; the second exits at once.

Examples:
  millstream bench both                                  highest throughput
  millstream bench both --rate 100000 --out result.json  latency at 100,000/s
  millstream bench both --find-knee --p99-max 5ms        highest rate with p99 < 5 ms
  millstream bench produce --sweep connections           1 to 10,000 connections
  millstream bench claim --consumers 4                   a work queue, four workers
  millstream bench claim --consumers 1 --window 1        one message at a time
  millstream bench both --against kafka --rate 100000    the same load on Kafka
  millstream bench both --url wss://localhost:9443/ --ca ca.pem    over TLS
  millstream bench zaqar post                            the Zaqar API; has its own --help

Exit codes:
  0    every message arrived as it should
  1    a message was lost, repeated, out of order or refused, or the server
       could not be reached
  2    bad usage, or this machine cannot run the clients
  130  a signal ended the load early
  141  standard output was closed"
)]
pub(super) struct Command {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    load: Args,
}

/// Loads over other protocols.
#[derive(Debug, clap::Subcommand)]
enum Other {
    /// Load a server of OpenStack's Zaqar API v2 over WebSocket: this one or any other
    Zaqar(Box<zaqar::Args>),
}

#[derive(Debug, clap::Args)]
struct Args {
    /// What to measure
    // Absent only with a subcommand.
    #[arg(required = true)]
    mode: Option<ModeArg>,
    /// Address of the server; wss:// for TLS [default: ws://127.0.0.1:9000/; with --against kafka:
    /// 127.0.0.1:9092 (its brokers); with --against nats: ws://127.0.0.1:8080]
    #[arg(long)]
    url: Option<String>,
    /// Load another server, which you run, instead of Millstream: same schedule, messages, acknowledgement
    /// and verification, with that server's own best client. Needs a build with --features peers
    #[arg(long, value_name = "SERVER")]
    against: Option<PeerArg>,
    /// Project (tenant) that owns the queues [default: the server's default project]
    #[arg(long)]
    project: Option<String>,
    /// Name of the queue. With --queues, -0, -1 and so on are appended
    #[arg(long, default_value = "bench")]
    queue: String,
    /// Number of queues to spread the connections over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    queues: u32,
    /// Number of producing connections
    #[arg(long, visible_alias = "producers", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Number of consuming connections; with claim: of workers [default: 1; with fan-out: 10; with claim: 4]
    #[arg(long, visible_alias = "workers", value_parser = clap::value_parser!(u32).range(1..))]
    consumers: Option<u32>,
    /// Number of additional connections that stay idle [default: 0; with idle: 1000]
    #[arg(long)]
    idle: Option<u32>,
    /// Number of additional consumers that grant credit for every message and read nothing
    #[arg(long, default_value_t = 0)]
    stalled: u32,
    /// Give messages keys, cycling through this many, and verify the order of each key. 0 sends no keys
    #[arg(long, default_value_t = 0)]
    keys: u32,
    /// Start position of consumers: oldest, latest, time:MS (Unix milliseconds) or a marker [default: oldest;
    /// with both and fan-out: latest]
    #[arg(long)]
    from: Option<String>,
    /// Size of each message, in bytes
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Messages per ProduceRequest
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// ProduceRequests per WebSocket frame
    #[arg(long, default_value_t = 1)]
    pbs_per_frame: usize,
    /// Unacknowledged messages that a producer may have [default: all its credit]
    #[arg(long)]
    in_flight: Option<u64>,
    /// Messages that the server may send ahead of what a consumer has processed; with claim: that a worker may
    /// hold without having acknowledged them, at most 65536 [default: 200000; with claim: 10000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    window: Option<u64>,
    /// With claim: seconds that a claim lasts [default: 60]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=43_200))]
    lease: Option<u32>,
    /// With claim and --against nats: wait until the server confirms each acknowledgement. Millstream always
    /// confirms
    #[arg(long, requires = "against")]
    double_ack: bool,
    /// Messages that producers may be ahead of the slowest consumer, or of all workers together. Only for both,
    /// fan-out and claim without --rate
    #[arg(long, default_value_t = 200_000)]
    lag: u64,
    /// Messages per second over all producers, sent on a schedule
    #[arg(long)]
    rate: Option<f64>,
    /// Search for the highest rate with a p99 latency below --p99-max. Starts with a run without a rate, then
    /// raises the rate from --rate (or from a tenth of the first run's throughput), then narrows it down
    #[arg(long, conflicts_with_all = ["count", "runs"])]
    find_knee: bool,
    /// One run for each of several numbers of producing connections, one after another: connections for 1, 10,
    /// 100, 1000 and 10000, or connections=1,16,1000
    #[arg(long, value_name = "connections[=N,N,...]", conflicts_with_all = ["connections", "count", "runs", "find_knee"])]
    sweep: Option<Sweep>,
    /// Latency bound of --find-knee
    #[arg(long, default_value = "10ms", value_parser = humantime::parse_duration)]
    p99_max: Duration,
    /// Number of runs, one after another
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Stop after this many messages instead of after --seconds
    #[arg(long)]
    count: Option<u64>,
    /// With consume and --count: start over after --count messages, until --seconds have passed
    #[arg(long, requires = "count")]
    repeat: bool,
    /// How long to wait for a further connection to be set up. All of them are, before any begins
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    setup_timeout: Duration,
    /// Seconds to run before measuring
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Seconds to measure
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Time to live of the messages, in seconds
    #[arg(long, default_value_t = 3_600)]
    ttl: u32,
    /// Send no Client-ID. On Kafka, messages without one need no record header if they use the topic's
    /// default time to live
    #[arg(long)]
    anonymous: bool,
    /// Producer number i sends to partition (i + PARTITION_OFFSET) mod --partitions of its queue [default:
    /// the server chooses]
    #[arg(long)]
    partition_offset: Option<u32>,
    /// Number of partitions of the queue, for --partition-offset
    #[arg(long, default_value_t = 8)]
    partitions: u32,
    /// Cores for the clients, such as 0,2-3 [default: all that the process may use]
    #[arg(long)]
    cores: Option<String>,
    /// Process id of the server, to measure its CPU time and memory
    #[arg(long)]
    server_pid: Option<u32>,
    /// Address of the server's control port, which gives its own histograms and settings; off for none
    /// [default: the port after that of --url; off with wss://]
    #[arg(long)]
    control: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// Name of the result in reports [default: the name of the system]
    #[arg(long)]
    name: Option<String>,
    /// Write all measurements to this file, for `millstream report`
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON instead of a table: the numbers of the median run, of the run at the knee, or of the fastest run
    /// of a sweep, and then those of all its runs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    token: TokenArgs,
}

/// The allowed rates, in messages per second.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1e9;
/// The allowed times to measure, in seconds. The longest is 31 days.
const SECONDS: std::ops::RangeInclusive<f64> = 0.01..=2_678_400.0;
/// The largest message, in bytes.
const SIZE_MAX: usize = 64 << 20;
/// The most messages in a request.
const BATCH_MAX: usize = 1_000_000;

/// The window of consumers by default and at least, and of workers by default and at most.
const CONSUME_WINDOW: u64 = 200_000;
const CONSUME_WINDOW_MIN: u64 = 100;
const CLAIM_WINDOW: u64 = 10_000;
const CLAIM_WINDOW_MAX: u64 = 65_536;
/// How many workers there are by default, and how long their claims last, in seconds.
const WORKERS: u32 = 4;
const LEASE: u32 = 60;

/// Checks the arguments that only claims have, or cannot have.
fn check_claims(args: &Args, mode: Mode) -> Result<(), Failure> {
    let window = args.window.unwrap_or(CLAIM_WINDOW);
    if mode == Mode::Claim {
        if window > CLAIM_WINDOW_MAX {
            return Err(Failure(format!("--window {window}: must be at most {CLAIM_WINDOW_MAX} with claim")));
        }
        if args.from.is_some() {
            return Err(Failure("--from: does not work with claim".into()));
        }
        if args.peer() == Some(Peer::Kafka) {
            return Err(Failure(
                "--against kafka: does not work with claim: its client has no claims".into(),
            ));
        }
        return Ok(());
    }
    if window < CONSUME_WINDOW_MIN {
        return Err(Failure(format!("--window {window}: must be at least {CONSUME_WINDOW_MIN}")));
    }
    if args.lease.is_some() || args.double_ack {
        let flag = if args.double_ack { "--double-ack" } else { "--lease" };
        return Err(Failure(format!("{flag}: works only with claim")));
    }
    Ok(())
}

fn at_least(name: &str, value: usize, least: usize) -> Result<usize, Failure> {
    if value >= least {
        Ok(value)
    } else {
        Err(Failure(format!("--{name} {value}: must be at least {least}")))
    }
}

/// Returns the server's control port and what the server says about itself, if the port answers. Without it,
/// the result has no stages.
fn control_port(args: &Args, server: &Address) -> Result<Option<(ControlClient, InfoPage)>, Failure> {
    let address = match args.control.as_deref() {
        Some("off") => return Ok(None),
        Some(url) => control_address(url)?,
        None if server.is_secure() => {
            say(format_args!(
                "millstream: no histograms of the server; set --control to its control port, or to off"
            ));
            return Ok(None);
        }
        None => {
            let Endpoint::Tcp { host, port } = server.endpoint() else { return Ok(None) };
            let Some(port) = port.checked_add(1) else { return Ok(None) };
            control_address(&format!("http://{host}:{port}"))?
        }
    };
    let control = args.access.client(&address, ANSWER_TIMEOUT)?;
    Ok(match control.get("/info") {
        Ok(info) => Some((control, info)),
        Err(error) => {
            let what = "no histograms of the server; set --control to its control port, or to off";
            say(format_args!("millstream: {what}: {error}"));
            None
        }
    })
}

/// Builds the plan that the arguments describe. The error names the argument that is invalid.
fn plan(args: &Args) -> Result<Plan, Failure> {
    let missing = || Failure("what to measure is missing; see millstream bench --help".into());
    let mode = match args.mode.ok_or_else(missing)? {
        ModeArg::Produce => Mode::Produce,
        ModeArg::Consume => Mode::Consume,
        ModeArg::Both | ModeArg::FanOut => Mode::Both,
        ModeArg::Claim => Mode::Claim,
        ModeArg::Idle => Mode::Idle,
    };
    check_claims(args, mode)?;
    let is_fan_out = matches!(args.mode, Some(ModeArg::FanOut));
    let from = args.from.clone().unwrap_or(if mode == Mode::Both { "latest".into() } else { String::new() });
    let seconds = |name, value| {
        Duration::try_from_secs_f64(value).map_err(|error| Failure(format!("--{name} {value}: {error}")))
    };
    if args.rate.is_some_and(|rate| !RATES.contains(&rate)) {
        return Err(Failure(format!("--rate: must be from {} to {}", RATES.start(), RATES.end())));
    }
    for (name, value, most) in [("size", args.size, SIZE_MAX), ("batch", args.batch, BATCH_MAX)] {
        if value > most {
            return Err(Failure(format!("--{name} {value}: must be at most {most}")));
        }
    }
    // The producers of a queue share the lag equally, and each share must have room for one request.
    let connections = args.sweep.as_ref().map_or(args.connections, Sweep::most);
    let lag_least = args.batch as u64 * u64::from(connections);
    if matches!(mode, Mode::Both | Mode::Claim) && args.lag < lag_least {
        return Err(Failure(format!(
            "--lag {}: must be at least --batch x --connections = {lag_least}",
            args.lag
        )));
    }
    if args.repeat && mode != Mode::Consume {
        return Err(Failure("--repeat: works only with consume".into()));
    }
    let has_producers = matches!(mode, Mode::Produce | Mode::Both | Mode::Claim);
    if args.find_knee && !has_producers {
        return Err(Failure("--find-knee: works only with produce, both, fan-out and claim".into()));
    }
    if args.sweep.is_some() && !has_producers {
        return Err(Failure("--sweep: works only with produce, both, fan-out and claim".into()));
    }
    if u64::from(args.keys) * u64::from(connections) > u64::from(u32::MAX) {
        return Err(Failure(format!("--keys {}: times --connections must be below 4294967296", args.keys)));
    }
    if args.in_flight.is_some_and(|messages| messages < args.batch as u64) {
        return Err(Failure(format!("--in-flight: must be at least --batch = {}", args.batch)));
    }
    if !SECONDS.contains(&args.seconds) || !(0.0..=*SECONDS.end()).contains(&args.warmup) {
        return Err(Failure(format!(
            "--seconds: must be from {} to {}; --warmup: at most the same",
            SECONDS.start(),
            SECONDS.end()
        )));
    }
    let only_ours = args.stalled > 0 || args.idle.is_some() || mode == Mode::Idle || args.repeat;
    let ours = only_ours || args.project.is_some() || args.partition_offset.is_some() || args.anonymous;
    if args.against.is_some()
        && let Some(flag) = args.token.any()
    {
        return Err(Failure(format!("{flag}: does not work with --against")));
    }
    if args.against.is_some() && ours {
        let flags = "--project, --partition-offset, --anonymous, --idle, --stalled and --repeat";
        return Err(Failure(format!("--against: does not work with idle, {flags}")));
    }
    Ok(Plan {
        mode,
        url: args.url(),
        trust: None,
        tokens: None,
        project: args.project.as_deref().map(Project::parse).transpose()?,
        queue: args.queue.clone(),
        queues: args.queues,
        producers: connections,
        consumers: args.consumers.unwrap_or(match mode {
            Mode::Claim => WORKERS,
            _ if is_fan_out => 10,
            _ => 1,
        }),
        idle: args.idle.unwrap_or(if mode == Mode::Idle { 1_000 } else { 0 }),
        stalled: args.stalled,
        keys: args.keys,
        from: if from == "oldest" { String::new() } else { from },
        size: at_least("size", args.size, STAMP_BYTES)?,
        batch: at_least("batch", args.batch, 1)?,
        pbs_per_frame: at_least("pbs-per-frame", args.pbs_per_frame, 1)?,
        in_flight: args.in_flight,
        consume_window: args.window.unwrap_or(CONSUME_WINDOW),
        claim_window: args.window.unwrap_or(CLAIM_WINDOW),
        lease: args.lease.unwrap_or(LEASE),
        double_ack: args.double_ack || args.against.is_none(),
        lag: args.lag,
        rate: args.rate,
        count: args.count,
        repeat: args.repeat,
        setup_timeout: args.setup_timeout,
        warmup: if args.count.is_some() && !args.repeat {
            Duration::ZERO
        } else {
            seconds("warmup", args.warmup)?
        },
        measure: seconds("seconds", args.seconds)?,
        ttl: args.ttl,
        partition_offset: args.partition_offset,
        anonymous: args.anonymous,
        partitions: at_least("partitions", args.partitions as usize, 1)? as u32,
        cores: cores(args.cores.as_deref())?,
        progress: has_progress(),
        server_pid: args.server_pid,
        control: None,
        interrupt: Interrupt::default(),
        run: Plan::fresh_run(),
        epoch: Instant::now(),
    })
}

/// What `--json` prints: the numbers of the chosen run, and the knee.
#[derive(serde::Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    figures: &'a Figures,
    knee: Option<Knee>,
    /// The numbers of all runs of a sweep.
    sweep: Option<Vec<&'a Figures>>,
}

/// What the runs have measured.
struct Outcome {
    runs: Vec<RunResult>,
    knee: Option<Knee>,
    /// Why a sweep ended early.
    failure: Option<ClientError>,
}

/// Runs every run that the arguments ask for. With progress, prints the outcome of each.
fn measure(args: &Args, plan: &Plan) -> Result<Outcome, ClientError> {
    let tell = |run: &RunResult| {
        if plan.progress && (args.find_knee || args.sweep.is_some() || args.runs > 1) {
            let figures = &run.figures;
            let latency = figures.latency().map_or(String::new(), ToString::to_string);
            say(format_args!("{}{:.0} /s: {latency}", line_start(), figures.throughput()));
        }
    };
    let run = |plan| match args.peer() {
        None => run_load(plan),
        Some(peer) => peer::run(peer, plan),
    };
    if args.find_knee {
        let bound = u64::try_from(args.p99_max.as_nanos()).unwrap_or(u64::MAX);
        let (runs, knee) = find_knee(plan, bound, run, tell)?;
        // A search that was interrupted before any rate passed has no knee.
        let knee = Some(knee).filter(|knee| knee.rate.is_some() || !plan.interrupt.is_raised());
        return Ok(Outcome { runs, knee, failure: None });
    }
    if let Some(sweep) = &args.sweep {
        return match sweep_connections(plan, sweep, run, tell) {
            (runs, Some(error)) if runs.is_empty() => Err(error),
            (runs, failure) => Ok(Outcome { runs, knee: None, failure }),
        };
    }
    let runs = (0..args.runs).take_while(|number| *number == 0 || !plan.interrupt.is_raised()).map(|_| {
        let result = run(plan.again())?;
        tell(&result);
        Ok(result)
    });
    Ok(Outcome { runs: runs.collect::<Result<_, ClientError>>()?, knee: None, failure: None })
}

#[cfg(feature = "peers")]
use crate::load::peers as peer;

/// A stand-in for builds without the peers' client libraries.
#[cfg(not(feature = "peers"))]
mod peer {
    use crate::client::ClientError;
    use crate::load::{About, Peer, Plan, RunResult};

    fn missing(peer: Peer) -> ClientError {
        let name = peer.name();
        ClientError::Address(format!(
            "--against {name}: this build has no client for it; build with: cargo build --release --features peers"
        ))
    }

    pub(super) fn prepare(peer: Peer, _plan: &Plan) -> Result<About, ClientError> {
        Err(missing(peer))
    }

    pub(super) fn run(peer: Peer, _plan: Plan) -> Result<RunResult, ClientError> {
        Err(missing(peer))
    }
}

/// Returns which servers to trust, for a peer whose address uses TLS.
fn peer_trust(args: &Args, peer: Peer, url: &str) -> Result<Option<Trust>, Failure> {
    match peer {
        Peer::Nats => args.tls.trust(&Address::parse(url, Scheme::Ws)?),
        Peer::Kafka => match args.tls.any() {
            Some(flag) => Err(Failure(format!("{flag}: does not work with --against kafka"))),
            None => Ok(None),
        },
    }
}

/// Describes the server under load, in its own words.
fn about(args: &Args, plan: &mut Plan) -> Result<(About, Option<InfoPage>), Failure> {
    if let Some(peer) = args.peer() {
        plan.trust = peer_trust(args, peer, &plan.url)?;
        return Ok((peer::prepare(peer, plan)?, None));
    }
    // Report an invalid address before anything connects.
    let address = Address::parse(&plan.url, Scheme::Ws)?;
    plan.trust = args.tls.trust(&address)?;
    plan.tokens = args.token.tokens(&address, true)?;
    let held = u64::from(plan.idle) + u64::from(plan.stalled);
    let executors = plan.cores.len() as u64 * if held > 0 { 2 } else { 1 };
    let connections = u64::from(plan.producers) + u64::from(plan.consumers) + held;
    preflight::check_client(executors, connections)?;
    let (control, server) = control_port(args, &address)?.unzip();
    plan.control = control;
    let unknown = || "as durable as its store promises (the control port was not asked)".to_owned();
    let about = About {
        version: server.as_ref().map_or(String::new(), |info| info.version.clone()),
        durability: server.as_ref().map_or_else(unknown, |info| info.durability.clone()),
    };
    Ok((about, server))
}

/// The exit code of a run that a signal ended early, regardless of what it measured.
const INTERRUPTED: u8 = 130;

/// Ends the load early at the first SIGINT or SIGTERM. The second one ends the process.
fn interrupt_on_signal(interrupt: &Interrupt) -> Result<(), Failure> {
    let stopped = on_signal()?;
    let interrupt = interrupt.clone();
    std::thread::spawn(move || {
        // The channel carries no messages. It closes at a signal.
        let _ = stopped.recv_blocking();
        interrupt.raise();
    });
    Ok(())
}

/// Returns the arguments of this command without secrets. A command that prints a token may contain one.
fn shown_command(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_secret = false;
    let shown = arguments.map(|argument| {
        if std::mem::replace(&mut is_secret, argument == COMMAND_FLAG) {
            return "…".to_owned();
        }
        match argument.split_once('=') {
            Some((COMMAND_FLAG, _)) => format!("{COMMAND_FLAG}=…"),
            _ => without_secret(&argument),
        }
    });
    shown.collect()
}

pub(super) fn run(command: &Command) -> Result<ExitCode, Failure> {
    match &command.other {
        Some(Other::Zaqar(args)) => zaqar::run(args),
        None => run_streaming(&command.load),
    }
}

/// Runs a load over the streaming protocol, or the same on another server.
fn run_streaming(args: &Args) -> Result<ExitCode, Failure> {
    let mut plan = plan(args)?;
    // Fail before measuring anything if the result could not be written.
    let out = args.out.as_deref().map(OutFile::check).transpose()?;
    let (about, server) = about(args, &mut plan)?;
    interrupt_on_signal(&plan.interrupt)?;
    let began = unix_now();
    let Outcome { runs, knee, failure } = match measure(args, &plan) {
        Ok(measured) => measured,
        Err(error @ ClientError::Address(_)) => return Err(error.into()),
        Err(error) => {
            say(format_args!("{}millstream: {error}", line_start()));
            return Ok(ExitCode::FAILURE);
        }
    };
    let system = args.peer().map_or("millstream", Peer::name);
    let result = ResultFile {
        millstream_bench: FORMAT,
        name: args.name.clone().unwrap_or_else(|| system.into()),
        system: system.into(),
        system_version: about.version,
        durability: about.durability,
        began,
        command: shown_command(std::env::args().skip(1)),
        environment: Environment::here(&plan.cores),
        server,
        runs,
        knee,
        sweep: args.sweep.clone(),
    };
    if let Some(error) = &failure {
        say(format_args!("{}millstream: the sweep ended early: {error}", line_start()));
    }
    if let Some(out) = out {
        out.write(&serde_json::to_string(&result)?)?;
    }
    let mut to = Output::new();
    if args.json {
        let sweep = result.steps().map(|runs| runs.iter().map(|run| &run.figures).collect());
        let printed = result.chosen().map(|run| Printed { figures: &run.figures, knee: result.knee, sweep });
        writeln!(to, "{}", serde_json::to_string_pretty(&printed)?)?;
    } else {
        write!(to, "{result}")?;
    }
    to.finish()?;
    if plan.interrupt.is_raised() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let is_sound = failure.is_none() && result.runs.iter().all(|run| run.figures.is_sound());
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

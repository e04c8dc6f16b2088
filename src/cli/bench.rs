//! `millstream bench`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;

use super::output::Output;
use super::result_file::OutFile;
use super::{Failure, cores, on_signal};
use crate::base::millis::UnixMillis;
use crate::base::names::Project;
use crate::client::{Address, ClientError, Scheme, without_secret};
use crate::control::InfoPage;
use crate::load::{
    About, ControlPort, Environment, FORMAT, Figures, Interrupt, Knee, Mode, Peer, Plan, ResultFile,
    RunResult, STAMP_BYTES, find_knee, run as run_load,
};
use crate::process::terminal::{escaped, has_progress, line_start, say};
use crate::shard::preflight;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    /// Producers only
    Produce,
    /// Consumers only, from --from on
    Consume,
    /// Both at once, with the latency from intended send to receipt
    Both,
    /// The same with ten consumers, each of which gets everything of its queue
    FanOut,
    /// Neither: --idle connections that only are there, for what they cost
    Idle,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PeerArg {
    /// Apache Kafka: a topic for each queue, acks=all
    Kafka,
    /// NATS JetStream, over its WebSocket port: a stream for each queue
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
    after_help = "Without --rate each producer sends as fast as its credit allows (closed loop: the most that goes; latency is then \
                  mostly queueing). With --rate requests are sent by schedule (open loop), and latency counts from the scheduled \
                  time, so that a server that stands still cannot hide it.\n\
                  Every message is verified and is one sample. --out keeps all of it: `millstream report` draws it and compares \
                  several.\n\
                  Ctrl-C and SIGTERM end the load early, and what was measured until then is reported and kept; a second one ends at \
                  once.\n\
                  Exit codes: 0 sound; 1 a message was lost, repeated, out of order or refused, or the server could not be \
                  reached; 2 usage, or no client can run here; 130 ended early; 141 standard output was closed."
)]
pub(super) struct Args {
    mode: ModeArg,
    /// The server [default: ws://127.0.0.1:9000/; of Kafka its brokers, 127.0.0.1:9092; of NATS ws://127.0.0.1:8080]
    #[arg(long)]
    url: Option<String>,
    /// Put another server that you run under the same load: the same schedule, messages, acknowledgement and verification, with that
    /// server's own best client. Needs a build with --features peers
    #[arg(long, value_name = "SERVER")]
    against: Option<PeerArg>,
    /// The project (tenant)
    #[arg(long)]
    project: Option<String>,
    /// Name of the queue; several get -0, -1 … appended
    #[arg(long, default_value = "bench")]
    queue: String,
    /// Queues to spread the connections over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    queues: u32,
    /// Producing connections
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Consuming connections [default: 1; with fan-out: 10]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    consumers: Option<u32>,
    /// Connections beside the load that consume nothing [default: 0; with idle: 1000]
    #[arg(long)]
    idle: Option<u32>,
    /// Consumers beside the load that give credit for everything and read nothing
    #[arg(long, default_value_t = 0)]
    stalled: u32,
    /// Messages have keys, so many different ones in turn: each is verified in the order of its key
    #[arg(long, default_value_t = 0)]
    keys: u32,
    /// Where consumers begin: oldest, latest, time:MS or a marker [default: oldest; with both: latest]
    #[arg(long)]
    from: Option<String>,
    /// Bytes of each message
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Messages in each ProduceRequest
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// ProduceRequests in each WebSocket frame
    #[arg(long, default_value_t = 1)]
    pbs_per_frame: usize,
    /// Messages that a producer may have outstanding [default: all its credit]
    #[arg(long)]
    in_flight: Option<u64>,
    /// Messages that a consumer may have under way
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(100..))]
    window: u64,
    /// With both and without --rate: messages that producers may be ahead of the slowest consumer
    #[arg(long, default_value_t = 200_000)]
    lag: u64,
    /// Messages a second over all producers, by schedule
    #[arg(long)]
    rate: Option<f64>,
    /// Look for the highest rate at which p99 stays under --p99-max: first without a rate, then upwards from --rate (or a tenth of
    /// that), then between
    #[arg(long, conflicts_with_all = ["count", "runs"])]
    find_knee: bool,
    /// The bound of --find-knee
    #[arg(long, default_value = "10ms", value_parser = humantime::parse_duration)]
    p99_max: Duration,
    /// How often, one after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Stop after so many messages instead of after --seconds
    #[arg(long)]
    count: Option<u64>,
    /// With consume and --count: begin again after so many messages, until --seconds are over
    #[arg(long, requires = "count")]
    repeat: bool,
    /// Seconds before anything is measured
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Time to live of the messages, seconds
    #[arg(long, default_value_t = 3_600)]
    ttl: u32,
    /// Send no Client-ID: on Kafka, messages without one, with the topic's default time to live, need no record header
    #[arg(long)]
    anonymous: bool,
    /// Producer i sends to partition (i + this) mod --partitions of its queue
    #[arg(long)]
    partition_offset: Option<u32>,
    /// Partitions of the queue, with --partition-offset
    #[arg(long, default_value_t = 8)]
    partitions: u32,
    /// Cores for the clients [default: all that the process may use]
    #[arg(long)]
    cores: Option<String>,
    /// The server's process id: measures its CPU time and memory
    #[arg(long)]
    server_pid: Option<u32>,
    /// The server's control port, for its own histograms and settings; none: off [default: the port after the one of --url]
    #[arg(long)]
    control: Option<String>,
    /// What the result is called in reports [default: the system's name]
    #[arg(long)]
    name: Option<String>,
    /// Write everything that was measured to this file, for `millstream report`
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON instead of a table: the numbers of the run that stands for all, the median one or the one at the knee
    #[arg(long)]
    json: bool,
}

/// Messages a second that a schedule may have.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1e9;
/// Seconds that a run may measure: to a month.
const SECONDS: std::ops::RangeInclusive<f64> = 0.01..=2_678_400.0;
/// Bytes of a message at most.
const SIZE_MAX: usize = 64 << 20;
/// Messages of a request at most.
const BATCH_MAX: usize = 1_000_000;

fn at_least(name: &str, value: usize, least: usize) -> Result<usize, Failure> {
    if value >= least { Ok(value) } else { Err(Failure(format!("--{name} {value}: at least {least}"))) }
}

/// The control port that is asked, and what the server is, where one answers: without it there are no stages in the result.
fn control_port(args: &Args, server: &Address) -> Result<Option<(ControlPort, InfoPage)>, Failure> {
    let url = match args.control.as_deref() {
        Some("off") => return Ok(None),
        Some(url) => Address::parse(url, Scheme::Http)?.base(),
        None => {
            let Some(port) = server.port().checked_add(1) else { return Ok(None) };
            format!("http://{}:{port}", server.host())
        }
    };
    let control = ControlPort::new(&url);
    Ok(match control.info() {
        Ok(info) => Some((control, info)),
        Err(error) => {
            let what = "without the server's own histograms, --control says where they are";
            say(format_args!("millstream: {what}: {}", escaped(&error)));
            None
        }
    })
}

/// What the arguments ask for; the error says which one cannot be.
fn plan(args: &Args) -> Result<Plan, Failure> {
    let mode = match args.mode {
        ModeArg::Produce => Mode::Produce,
        ModeArg::Consume => Mode::Consume,
        ModeArg::Both | ModeArg::FanOut => Mode::Both,
        ModeArg::Idle => Mode::Idle,
    };
    let is_fan_out = matches!(args.mode, ModeArg::FanOut);
    let from = args.from.clone().unwrap_or(if mode == Mode::Both { "latest".into() } else { String::new() });
    let seconds = |name, value| {
        Duration::try_from_secs_f64(value).map_err(|error| Failure(format!("--{name} {value}: {error}")))
    };
    if args.rate.is_some_and(|rate| !RATES.contains(&rate)) {
        return Err(Failure(format!("--rate: {} to {}", RATES.start(), RATES.end())));
    }
    for (name, value, most) in [("size", args.size, SIZE_MAX), ("batch", args.batch, BATCH_MAX)] {
        if value > most {
            return Err(Failure(format!("--{name} {value}: at most {most}")));
        }
    }
    // Each producer of a queue gets an equal part of the lag, and a request must fit into it.
    let lag_least = args.batch as u64 * u64::from(args.connections);
    if mode == Mode::Both && args.lag < lag_least {
        return Err(Failure(format!("--lag {}: at least --batch x --connections = {lag_least}", args.lag)));
    }
    if args.repeat && mode != Mode::Consume {
        return Err(Failure("--repeat: only with consume".into()));
    }
    if args.find_knee && !matches!(mode, Mode::Produce | Mode::Both) {
        return Err(Failure("--find-knee: only with produce, both and fan-out".into()));
    }
    if u64::from(args.keys) * u64::from(args.connections) > u64::from(u32::MAX) {
        return Err(Failure(format!("--keys {}: times --connections below 4294967296", args.keys)));
    }
    if args.in_flight.is_some_and(|messages| messages < args.batch as u64) {
        return Err(Failure(format!("--in-flight: below --batch = {}, nothing could be sent", args.batch)));
    }
    if !SECONDS.contains(&args.seconds) || !(0.0..=*SECONDS.end()).contains(&args.warmup) {
        return Err(Failure(format!(
            "--seconds: {} to {}; --warmup: no more",
            SECONDS.start(),
            SECONDS.end()
        )));
    }
    let only_ours = args.stalled > 0 || args.idle.is_some() || mode == Mode::Idle || args.repeat;
    let ours = only_ours || args.project.is_some() || args.partition_offset.is_some() || args.anonymous;
    if args.against.is_some() && ours {
        let flags = "--project, --partition-offset, --anonymous, --idle, --stalled and --repeat";
        return Err(Failure(format!("--against: not with idle, {flags}")));
    }
    Ok(Plan {
        mode,
        url: args.url(),
        project: args.project.as_deref().map(Project::parse).transpose()?,
        queue: args.queue.clone(),
        queues: args.queues,
        producers: args.connections,
        consumers: args.consumers.unwrap_or(if is_fan_out { 10 } else { 1 }),
        idle: args.idle.unwrap_or(if mode == Mode::Idle { 1_000 } else { 0 }),
        stalled: args.stalled,
        keys: args.keys,
        from: if from == "oldest" { String::new() } else { from },
        size: at_least("size", args.size, STAMP_BYTES)?,
        batch: at_least("batch", args.batch, 1)?,
        pbs_per_frame: at_least("pbs-per-frame", args.pbs_per_frame, 1)?,
        in_flight: args.in_flight,
        consume_window: args.window,
        lag: args.lag,
        rate: args.rate,
        count: args.count,
        repeat: args.repeat,
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

/// What is printed as JSON: the numbers of the run that stands for all, and the knee.
#[derive(serde::Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    figures: &'a Figures,
    knee: Option<Knee>,
}

/// Runs all that is asked for; with progress, says what each run gave.
fn measure(args: &Args, plan: &Plan) -> Result<(Vec<RunResult>, Option<Knee>), ClientError> {
    let tell = |run: &RunResult| {
        if plan.progress && (args.find_knee || args.runs > 1) {
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
        // A search that was ended before it found anything has no knee.
        let knee = Some(knee).filter(|knee| knee.rate.is_some() || !plan.interrupt.is_raised());
        return Ok((runs, knee));
    }
    let runs = (0..args.runs).take_while(|number| *number == 0 || !plan.interrupt.is_raised()).map(|_| {
        let result = run(plan.again())?;
        tell(&result);
        Ok(result)
    });
    Ok((runs.collect::<Result<_, ClientError>>()?, None))
}

#[cfg(feature = "peers")]
use crate::load::peers as peer;

/// A build without the peers' client libraries.
#[cfg(not(feature = "peers"))]
mod peer {
    use crate::client::ClientError;
    use crate::load::{About, Peer, Plan, RunResult};

    fn missing(peer: Peer) -> ClientError {
        let name = peer.name();
        ClientError::Address(format!(
            "--against {name}: this build has no client for it: cargo build --release --features peers"
        ))
    }

    pub(super) fn prepare(peer: Peer, _plan: &Plan) -> Result<About, ClientError> {
        Err(missing(peer))
    }

    pub(super) fn run(peer: Peer, _plan: Plan) -> Result<RunResult, ClientError> {
        Err(missing(peer))
    }
}

/// What is under load, as it says itself.
fn about(args: &Args, plan: &mut Plan) -> Result<(About, Option<InfoPage>), Failure> {
    if let Some(peer) = args.peer() {
        return Ok((peer::prepare(peer, plan)?, None));
    }
    // An address that is none is told before anybody is asked.
    let address = Address::parse(&plan.url, Scheme::Ws)?;
    let held = u64::from(plan.idle) + u64::from(plan.stalled);
    let executors = plan.cores.len() as u64 * if held > 0 { 2 } else { 1 };
    let connections = u64::from(plan.producers) + u64::from(plan.consumers) + held;
    preflight::check_client(executors, connections)?;
    let (control, server) = control_port(args, &address)?.unzip();
    plan.control = control;
    let unknown = || "as its store promises; its control port was not asked".to_owned();
    let about = About {
        version: server.as_ref().map_or(String::new(), |info| info.version.clone()),
        durability: server.as_ref().map_or_else(unknown, |info| info.durability.clone()),
    };
    Ok((about, server))
}

/// The exit code of a run that a signal has ended early, whatever it measured.
const INTERRUPTED: u8 = 130;

/// The first SIGINT or SIGTERM ends the load early, the second the process.
fn interrupt_on_signal(interrupt: &Interrupt) -> Result<(), Failure> {
    let stopped = on_signal()?;
    let interrupt = interrupt.clone();
    std::thread::spawn(move || {
        // Nothing comes: this is the signal.
        let _ = stopped.recv_blocking();
        interrupt.raise();
    });
    Ok(())
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut plan = plan(args)?;
    // Before anything is measured that could not be written.
    let out = args.out.as_deref().map(OutFile::check).transpose()?;
    let (about, server) = about(args, &mut plan)?;
    interrupt_on_signal(&plan.interrupt)?;
    let began = UnixMillis::from_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let (runs, knee) = match measure(args, &plan) {
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
        command: std::env::args().skip(1).map(|argument| without_secret(&argument)).collect(),
        environment: Environment::here(&plan.cores),
        server,
        runs,
        knee,
    };
    if let Some(out) = out {
        out.write(&serde_json::to_string(&result)?)?;
    }
    let mut to = Output::new();
    if args.json {
        let printed = result.chosen().map(|run| Printed { figures: &run.figures, knee: result.knee });
        writeln!(to, "{}", serde_json::to_string_pretty(&printed)?)?;
    } else {
        write!(to, "{result}")?;
    }
    to.finish()?;
    if plan.interrupt.is_raised() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let is_sound = result.runs.iter().all(|run| run.figures.is_sound());
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

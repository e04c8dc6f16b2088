//! `millstream bench`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::{Failure, cores};
use crate::client::ClientError;
use crate::load::{Mode, Plan, STAMP_BYTES, run as run_load};
use crate::names::{ClientId, Project};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    /// Producers only
    Produce,
    /// Consumers only, from --from on
    Consume,
    /// Both at once, with the latency from intended send to receipt
    Both,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --rate each producer sends as fast as its credit allows (closed loop: the most that goes). With \
                  --rate requests are sent by schedule (open loop), and latency counts from the scheduled time.\n\
                  Exit codes: 0 sound; 1 a message was lost, repeated, out of order or refused, or the server could not be \
                  reached; 2 usage."
)]
pub(super) struct Args {
    mode: ModeArg,
    /// The server
    #[arg(long, default_value = "ws://127.0.0.1:9000/")]
    url: String,
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
    /// Consuming connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    consumers: u32,
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
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn at_least(name: &str, value: usize, least: usize) -> Result<usize, Failure> {
    if value >= least { Ok(value) } else { Err(Failure(format!("--{name} {value}: at least {least}"))) }
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    let mode = match args.mode {
        ModeArg::Produce => Mode::Produce,
        ModeArg::Consume => Mode::Consume,
        ModeArg::Both => Mode::Both,
    };
    let from = args.from.unwrap_or(if mode == Mode::Both { "latest".into() } else { String::new() });
    let seconds = |name, value| {
        Duration::try_from_secs_f64(value).map_err(|error| Failure(format!("--{name} {value}: {error}")))
    };
    if args.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(Failure("--rate: a number above 0".into()));
    }
    // Each producer of a queue gets an equal part of the lag, and a request must fit into it.
    let lag_least = args.batch as u64 * u64::from(args.connections);
    if mode == Mode::Both && args.lag < lag_least {
        return Err(Failure(format!("--lag {}: at least --batch x --connections = {lag_least}", args.lag)));
    }
    if args.repeat && mode != Mode::Consume {
        return Err(Failure("--repeat: only with consume".into()));
    }
    if args.in_flight.is_some_and(|messages| messages < args.batch as u64) {
        return Err(Failure(format!("--in-flight: below --batch = {}, nothing could be sent", args.batch)));
    }
    if args.seconds <= 0.0 {
        return Err(Failure("--seconds: above 0".into()));
    }
    let plan = Plan {
        mode,
        url: args.url,
        project: args.project.as_deref().map(Project::parse).transpose()?,
        queue: args.queue,
        queues: args.queues,
        producers: args.connections,
        consumers: args.consumers,
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
        progress: std::io::stderr().is_terminal(),
        server_pid: args.server_pid,
        run: ClientId::random().as_u128() as u32,
        epoch: Instant::now(),
    };
    let report = match run_load(plan) {
        Ok(report) => report,
        Err(error @ ClientError::Address(_)) => return Err(error.into()),
        Err(error) => {
            eprintln!("millstream: {error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

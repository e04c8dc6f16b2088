//! `millstream serve`.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Failure, cores};
use crate::config::{ServerConfig, Settings, WhenFull};
use crate::heap;
use crate::names::Project;
use crate::shard::server::Server;
use crate::shard::uring;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StoreKind {
    /// In memory: bounded, and lost when the server ends
    Memory,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MemoryFull {
    /// Drop the oldest messages
    DropOldest,
    /// Refuse new messages with 503
    Refuse,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "SIGTERM and SIGINT drain: producers get their answers, consumers what is stored as far as their credit goes; a \
                  second signal exits at once.\nExit codes: 0 drained; 1 told twice to end; 2 usage, or it cannot serve."
)]
pub(super) struct Args {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Where messages are kept
    #[arg(long, value_enum, default_value = "memory")]
    store: StoreKind,
    /// Cores to run on, a shard on each: 0-3 or 0,2 [default: all that the process may use]
    #[arg(long)]
    cores: Option<String>,
    /// Partitions of a new queue, 1 to 64
    #[arg(long, default_value_t = 8)]
    partitions: u16,
    /// Bytes of messages that the memory store holds, over all shards; each has an equal part
    #[arg(long, default_value_t = 1 << 30)]
    memory_bytes: usize,
    /// What a full memory store does
    #[arg(long, value_enum, default_value = "drop-oldest")]
    memory_full: MemoryFull,
    /// Microseconds that a shard polls before it sleeps; 50 to 100 on dedicated cores
    #[arg(long, default_value_t = 0)]
    spin_us: u64,
    /// Bytes that the connections of one shard may hold at once
    #[arg(long, default_value_t = 256 << 20)]
    shard_budget_bytes: usize,
    /// Largest payload, bytes
    #[arg(long, default_value_t = 1 << 20)]
    max_payload_bytes: usize,
    /// Largest protobuf message, bytes
    #[arg(long, default_value_t = 8 << 20)]
    max_pb_bytes: usize,
    /// Seconds within which a protobuf message that was begun must be whole
    #[arg(long, default_value_t = 30.0)]
    pb_timeout: f64,
    /// Shortest time to live of a message, seconds
    #[arg(long, default_value_t = 60)]
    ttl_min: u32,
    /// Longest time to live of a message, seconds
    #[arg(long, default_value_t = 1_209_600)]
    ttl_max: u32,
    /// Seconds that a client may take for its handshake
    #[arg(long, default_value_t = 10.0)]
    handshake_timeout: f64,
    /// Seconds of silence after which a client is pinged
    #[arg(long, default_value_t = 30.0)]
    ping_interval: f64,
    /// Seconds of silence after which a client's connection is closed
    #[arg(long, default_value_t = 90.0)]
    idle_timeout: f64,
    /// Bytes that a client may go on sending after its operation has failed
    #[arg(long, default_value_t = 16 << 20)]
    discard_limit_bytes: u64,
    /// Create queues on first use
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    auto_create: bool,
    /// Messages that a produce operation may have outstanding
    #[arg(long, default_value_t = 65_536)]
    produce_window: u32,
    /// Seconds that draining may take after SIGTERM
    #[arg(long, default_value_t = 30.0)]
    drain_timeout: f64,
    /// Add the path /echo, which echoes every message, for WebSocket conformance suites
    #[arg(long)]
    test_echo: bool,
}

impl Args {
    fn config(&self) -> Result<ServerConfig, Failure> {
        let StoreKind::Memory = self.store;
        let cores = cores(self.cores.as_deref())?;
        let mut settings = Settings::new(Project::parse("default")?);
        settings.partitions = self.partitions;
        settings.max_payload_bytes = self.max_payload_bytes;
        settings.max_pb_bytes = self.max_pb_bytes;
        settings.pb_timeout = seconds("--pb-timeout", self.pb_timeout)?;
        settings.ttl_secs = (self.ttl_min, self.ttl_max);
        settings.handshake_timeout = seconds("--handshake-timeout", self.handshake_timeout)?;
        settings.ping_interval = seconds("--ping-interval", self.ping_interval)?;
        settings.idle_timeout = seconds("--idle-timeout", self.idle_timeout)?;
        settings.discard_limit_bytes = self.discard_limit_bytes;
        settings.auto_create = self.auto_create;
        settings.produce_window = self.produce_window;
        settings.drain_timeout = seconds("--drain-timeout", self.drain_timeout)?;
        settings.drain_consume_timeout = settings.drain_consume_timeout.min(settings.drain_timeout);
        settings.shard_budget_bytes = self.shard_budget_bytes;
        settings.policy.test_echo = self.test_echo;
        let config = ServerConfig {
            listen: self.listen,
            cores,
            memory_bytes: self.memory_bytes,
            memory_full: match self.memory_full {
                MemoryFull::DropOldest => WhenFull::DropOldest,
                MemoryFull::Refuse => WhenFull::Refuse,
            },
            spin_before_park: Duration::from_micros(self.spin_us),
            settings,
        };
        config.check()?;
        Ok(config)
    }
}

fn seconds(name: &str, value: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(value).map_err(|error| Failure(format!("{name} {value}: {error}")))
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MILLSTREAM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("millstream=info,warn"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .init();
    let config = args.config()?;
    if !heap::keep() {
        tracing::warn!("the C library's allocator takes no settings: large batches will cost more");
    }
    // Signals are taken by this thread alone, so it must ask for them before any other thread exists.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let server = Server::start(&config)
        .map_err(|error| Failure(format!("cannot serve on {}: {error}", config.listen)))?;
    tracing::info!(
        listen = %server.address(),
        cores = ?config.cores,
        store = "memory",
        memory_bytes = config.memory_bytes,
        partitions = config.settings.partitions,
        task_run = ?uring::task_run(),
        test_echo = config.settings.policy.test_echo,
        "millstream serves"
    );
    let handle = server.drain_handle();
    std::thread::spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            if asked {
                tracing::warn!(signal, "a second signal: exiting at once");
                std::process::exit(1);
            }
            asked = true;
            tracing::info!(signal, "draining; a second signal exits at once");
            handle.drain();
        }
    });
    for report in server.join()? {
        let sessions = report.counters.sessions;
        tracing::info!(
            shard = report.shard,
            connections = report.counters.connections,
            messages_stored = report.store.stored,
            messages_dropped = report.store.dropped,
            messages_expired = report.store.expired,
            messages_refused = report.store.refused,
            messages_hopped = report.counters.messages_hopped,
            messages_delivered = sessions.messages,
            failed_by_peer = sessions.failed_by_peer,
            failed_by_us = sessions.failed_by_us,
            "shard ends"
        );
    }
    Ok(ExitCode::SUCCESS)
}

//! The server's settings: those of protocol section 9, and every bound that is not part of the protocol.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the settings as the server reads them, with their defaults |
//! | `table` | each setting's key, kind, range and words: flags, environment, file, `--help` and README come from it |
//! | `setting` | how one of them is read and shown |
//! | `load` | defaults, file, environment and flags merged, in rising order |
//! | `check` | combinations that cannot work |
//! | `warn` | combinations that work otherwise than one may expect |
//! | `memory` | what a configuration can take at worst |
//! | `secret` | which settings are secrets, and how they are shown |

mod check;
mod cores;
pub mod load;
pub mod memory;
mod secret;
pub mod setting;
pub mod table;
mod warn;

pub use check::Unworkable;
pub use cores::{allowed_cores, check_cores, parse_cores};
pub use secret::{HIDDEN, is_secret, without_secrets};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::limits::{CLOCK_STEP_MAX_MS, KAFKA_PACKED_RECORD_BYTES, KAFKA_RECORD_OVERHEAD_BYTES};
use crate::base::names::Project;
use crate::front::Policy;
use crate::pb::PbLimits;
use crate::ws::origin::{AllowedOrigins, RefusedOrigins};

/// What every connection of the server obeys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest payload, bytes.
    pub max_payload_bytes: usize,
    /// Largest key, bytes.
    pub max_key_bytes: usize,
    /// Largest pb, bytes.
    pub max_pb_bytes: usize,
    /// How long a pb that was begun may take.
    pub pb_timeout: Duration,
    /// How much of a discarded half is read, bytes.
    pub discard_limit_bytes: u64,
    /// Shortest and longest time to live of a message, seconds.
    pub ttl_secs: (u32, u32),
    /// Messages that a produce operation may have outstanding.
    pub produce_window: u32,
    /// Bytes that a produce operation may have outstanding.
    pub produce_window_bytes: usize,
    /// Batches and refusals that a produce operation may have outstanding.
    pub produce_batches: usize,
    /// The same while the shard's budget is used up.
    pub produce_batches_pressed: usize,
    /// An append batch is closed when it holds so many bytes.
    pub append_batch_bytes: usize,
    /// Messages in a ConsumeResponse.
    pub consume_batch_messages: usize,
    /// Bytes in a ConsumeResponse.
    pub consume_batch_bytes: usize,
    /// How long messages wait for others to share their ConsumeResponse.
    pub consume_linger: Duration,
    /// How long an owed marker waits for a message to come with.
    pub marker_wait: Duration,
    /// Bytes that one fetch asks for.
    pub fetch_bytes: usize,
    /// Silence after which the server pings.
    pub ping_interval: Duration,
    /// Silence after which the server closes.
    pub idle_timeout: Duration,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Largest handshake, bytes.
    pub handshake_max_bytes: usize,
    /// How long draining may take.
    pub drain_timeout: Duration,
    /// How much of it consumers get.
    pub drain_consume_timeout: Duration,
    /// How far the clock may step back before timestamps follow it, and how long it must stay ahead to be followed.
    pub clock_step_max: Duration,
    /// Partitions of a new queue.
    pub partitions: u16,
    /// Whether queues are created on first use.
    pub auto_create: bool,
    /// Queues that a shard is home of.
    pub max_queues: usize,
    /// Connections of a shard.
    pub max_connections: usize,
    /// What one project may have and do.
    pub per_project: ProjectLimits,
    /// Bytes that the connections of a shard may hold at once.
    pub shard_budget_bytes: usize,
    /// What a cut pb is given before it has brought more than that, bytes.
    pub foothold_bytes: usize,
    /// Cut pbs longer than this share one half of the shard's budget, shorter ones a quarter.
    pub large_pb_bytes: usize,
    /// The shard's receive buffer, bytes.
    pub receive_window_bytes: usize,
    /// What a connection may read in one turn, bytes.
    pub receive_bytes_per_turn: usize,
    /// Bytes read at once while the shard's budget is used up.
    pub receive_bytes_pressed: usize,
    /// A connection encodes more only while less than this waits to be sent, bytes.
    pub send_buffer_bytes: usize,
    /// The same while the shard's budget is used up.
    pub send_buffer_bytes_pressed: usize,
    /// Send buffers that a shard keeps for reuse, and the largest that it keeps, bytes.
    pub spare_buffers: usize,
    /// See `spare_buffers`.
    pub spare_buffer_bytes: usize,
    /// Batches that a shard's inbox holds.
    pub inbox_batches: usize,
    /// Batches taken from the inbox between two connections.
    pub inbox_batches_per_look: usize,
    /// How long a driver works without a pass of the reactor.
    pub reactor_pass: Duration,
    /// Who may connect, and as whom.
    pub policy: Policy,
    /// Whether clients may plant faults (`planted`).
    pub test_faults: bool,
}

/// What one project may have and do in the whole server; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProjectLimits {
    /// Connections.
    pub connections: u64,
    /// Operations open at once.
    pub operations: u64,
    /// Queues.
    pub queues: u64,
    /// Bytes of stored messages that have not expired.
    pub storage_bytes: u64,
    /// Messages produced a second.
    pub messages_per_sec: u64,
    /// Bytes of ProduceRequests a second.
    pub bytes_per_sec: u64,
}

impl Settings {
    /// How long a pb may be, and what it gets before it is whole.
    pub fn pb_limits(&self) -> PbLimits {
        PbLimits {
            max_bytes: self.max_pb_bytes,
            foothold_bytes: self.foothold_bytes,
            large_bytes: self.large_pb_bytes,
        }
    }

    /// The defaults, for clients that name no project to belong to `default_project`.
    pub fn new(default_project: Project) -> Self {
        Self {
            max_payload_bytes: 1 << 20,
            // With it, a payload of `max_payload_bytes` still fits a Kafka record of 64 KiB more.
            max_key_bytes: 32 << 10,
            max_pb_bytes: 8 << 20,
            pb_timeout: Duration::from_secs(30),
            discard_limit_bytes: 16 << 20,
            ttl_secs: (60, 1_209_600),
            produce_window: 65_536,
            produce_window_bytes: 16 << 20,
            produce_batches: 1024,
            produce_batches_pressed: 64,
            append_batch_bytes: 256 << 10,
            consume_batch_messages: 1_000,
            consume_batch_bytes: 256 << 10,
            consume_linger: Duration::ZERO,
            marker_wait: Duration::from_millis(100),
            fetch_bytes: 512 << 10,
            ping_interval: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(90),
            handshake_timeout: Duration::from_secs(10),
            handshake_max_bytes: 16 << 10,
            drain_timeout: Duration::from_secs(30),
            drain_consume_timeout: Duration::from_secs(5),
            clock_step_max: Duration::from_millis(CLOCK_STEP_MAX_MS),
            partitions: 8,
            auto_create: true,
            max_queues: 100_000,
            max_connections: 65_536,
            per_project: ProjectLimits::default(),
            shard_budget_bytes: 256 << 20,
            // A length is a claim, and thousands of connections can make it at once.
            foothold_bytes: 1 << 10,
            // Those who send large pbs slowly hold up nobody who sends small ones.
            large_pb_bytes: 64 << 10,
            // One system call brings many frames, and a pb of 100 × 1 KiB is seldom cut; four fit the second-level cache.
            receive_window_bytes: 256 << 10,
            receive_bytes_per_turn: 512 << 10,
            receive_bytes_pressed: 4 << 10,
            send_buffer_bytes: 256 << 10,
            send_buffer_bytes_pressed: 4 << 10,
            spare_buffers: 64,
            spare_buffer_bytes: 1 << 20,
            inbox_batches: 1024,
            inbox_batches_per_look: 64,
            // A pass costs 7 µs.
            reactor_pass: Duration::from_micros(200),
            policy: Policy {
                default_project,
                allowed_origins: AllowedOrigins::default(),
                refused_origins: RefusedOrigins::default(),
                test_echo: false,
            },
            test_faults: false,
        }
    }
}

/// What a full memory store does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Drops the oldest messages, counts them and says so.
    #[default]
    DropOldest,
    /// Refuses new ones with 503.
    Refuse,
}

/// Where messages are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// In the embedded log, on this machine's disk.
    #[default]
    Log,
    /// In memory: bounded, and lost when the server ends.
    Memory,
    /// In a Kafka cluster.
    Kafka,
}

impl StoreKind {
    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Memory => "memory",
            Self::Kafka => "kafka",
        }
    }
}

/// What an acknowledged message survives in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process and of the machine: it is synced before it is acknowledged.
    #[default]
    Fsync,
    /// The end of the process: it is written before it is acknowledged, and the system syncs it when it likes.
    Os,
}

/// The embedded log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Where it is.
    pub data_dir: PathBuf,
    /// What an acknowledged message survives.
    pub durability: Durability,
    /// Size of a file of messages.
    pub segment_bytes: u64,
    /// What is kept of the ends of partitions in memory, over all shards, bytes.
    pub tail_bytes: usize,
    /// What is kept of older messages for those who read them, over all shards, bytes.
    pub read_bytes: usize,
    /// What is left free on the disk, bytes.
    pub min_free_bytes: u64,
    /// Size of all files of messages beyond which the oldest go, expired or not, over all shards; 0: no limit.
    pub max_bytes: u64,
    /// How long after its newest message a file goes, whether they have expired or not; 0: no limit.
    pub max_age: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("millstream-data"),
            durability: Durability::Fsync,
            segment_bytes: 64 << 20,
            tail_bytes: 256 << 20,
            read_bytes: 64 << 20,
            min_free_bytes: 256 << 20,
            max_bytes: 0,
            max_age: Duration::ZERO,
        }
    }
}

/// How the Kafka store reaches and uses its cluster. Its `Debug` shows no secret (`secret`).
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Brokers to ask for the others, `host:port` with commas between (`bootstrap.servers`).
    pub brokers: String,
    /// Put before the names of topics.
    pub topic_prefix: String,
    /// Whether a record holds many messages, for Millstream alone to read.
    pub packed: bool,
    /// Copies of a topic that is made (Kafka's replication factor).
    pub replication: u16,
    /// Whether topics that promise less than Millstream are refused.
    pub strict_topics: bool,
    /// How long messages wait for others to share their batch (`linger.ms`).
    pub linger: Duration,
    /// Bytes of a batch (`batch.size`).
    pub batch_bytes: usize,
    /// `compression.type`.
    pub compression: String,
    /// How long Kafka may take to store a message, or to say where a partition stands (`delivery.timeout.ms`).
    pub delivery_timeout: Duration,
    /// What the server keeps of the ends of partitions, bytes.
    pub tail_bytes: usize,
    /// Readers of what is older.
    pub catch_up_readers: usize,
    /// The largest answer of a broker that a consumer reads, bytes (`receive.message.max.bytes`).
    pub receive_bytes: usize,
    /// A shell command that prints a token for OAUTHBEARER.
    pub token_command: String,
    /// Further properties of librdkafka.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            topic_prefix: String::new(),
            packed: false,
            replication: 3,
            strict_topics: false,
            linger: Duration::from_millis(2),
            batch_bytes: 1 << 20,
            compression: "lz4".into(),
            delivery_timeout: Duration::from_secs(30),
            tail_bytes: 256 << 20,
            catch_up_readers: 4,
            receive_bytes: 32 << 20,
            token_command: String::new(),
            properties: BTreeMap::new(),
        }
    }
}

impl KafkaConfig {
    /// The largest record, and the largest batch of them: what `message.max.bytes` and a topic's `max.message.bytes` must take.
    pub fn record_bytes(&self, settings: &Settings) -> usize {
        let packed = if self.packed { 2 * KAFKA_PACKED_RECORD_BYTES } else { 0 };
        settings.max_payload_bytes.max(self.batch_bytes).max(packed) + KAFKA_RECORD_OVERHEAD_BYTES
    }

    /// The largest record that is served, key and value together: every record that this server writes, and others' up to
    /// `max_pb_bytes`. A topic may accept larger records from other producers; they are passed over.
    pub fn served_record_bytes(&self, settings: &Settings) -> usize {
        let packed = if self.packed { 2 * KAFKA_PACKED_RECORD_BYTES } else { 0 };
        settings.max_pb_bytes.max(packed + KAFKA_RECORD_OVERHEAD_BYTES)
    }

    /// The largest answer of a broker that a consumer reads: `receive_bytes`, but at least a batch that this server writes.
    pub fn answer_bytes(&self, settings: &Settings) -> usize {
        self.receive_bytes.max(self.record_bytes(settings) + KAFKA_RECORD_OVERHEAD_BYTES)
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the control port is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ControlListen {
    /// On 127.0.0.1, the port after the one of `listen` (where that is 0: any).
    #[default]
    Next,
    /// There.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

impl ControlListen {
    /// The address beside a server that listens at `listen`.
    pub fn address(self, listen: SocketAddr) -> Option<SocketAddr> {
        match self {
            Self::Next => {
                let port = if listen.port() == 0 { Some(0) } else { listen.port().checked_add(1) };
                port.map(|port| ([127, 0, 0, 1], port).into())
            }
            Self::At(address) => Some(address),
            Self::Off => None,
        }
    }
}

/// What becomes of the latency histograms.
#[derive(Clone, Debug)]
pub struct LatencyConfig {
    /// The interval log that is written, if one is.
    pub log: Option<PathBuf>,
    /// How often the shards are asked: the resolution of the log and of the live page.
    pub interval: Duration,
}

impl Default for LatencyConfig {
    fn default() -> Self {
        Self { log: None, interval: Duration::from_secs(1) }
    }
}

/// A whole server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The address.
    pub listen: SocketAddr,
    /// Connections waiting in the listening socket (`listen(2)`; the kernel caps it at `net.core.somaxconn`).
    pub listen_backlog: u32,
    /// Where the control port is.
    pub control_listen: ControlListen,
    /// Names, in lower case, that the control port accepts as `Host` beside `localhost` and IP addresses.
    pub control_hosts: Vec<String>,
    /// A shard for each; empty: all that the process may use.
    pub cores: Vec<usize>,
    /// Where messages are kept.
    pub store: StoreKind,
    /// Bytes of messages that the memory store holds, over all shards.
    pub memory_bytes: usize,
    /// What it does then.
    pub memory_full: WhenFull,
    /// The embedded log's.
    pub embedded: LogConfig,
    /// The Kafka store's.
    pub kafka: KafkaConfig,
    /// What becomes of the latency histograms.
    pub latency: LatencyConfig,
    /// How long a shard polls before it sleeps.
    pub spin_before_park: Duration,
    /// What is logged: directives of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What its connections obey.
    pub settings: Settings,
}

impl ServerConfig {
    /// The defaults, for clients that name no project to belong to `default_project`.
    pub fn new(default_project: Project) -> Self {
        Self {
            listen: ([127, 0, 0, 1], 9000).into(),
            listen_backlog: 4096,
            control_listen: ControlListen::default(),
            control_hosts: Vec::new(),
            cores: Vec::new(),
            store: StoreKind::default(),
            memory_bytes: 1 << 30,
            memory_full: WhenFull::default(),
            embedded: LogConfig::default(),
            kafka: KafkaConfig::default(),
            latency: LatencyConfig::default(),
            spin_before_park: Duration::ZERO,
            log: "millstream=info,warn".into(),
            log_format: LogFormat::default(),
            settings: Settings::new(default_project),
        }
    }

    /// The cores that its shards run on.
    pub fn shard_cores(&self) -> Vec<usize> {
        if self.cores.is_empty() { allowed_cores() } else { self.cores.clone() }
    }
}

//! Every setting once: its key, kind, range, words, and where it stands in the configuration.
//!
//! The flags of `serve`, the variables `MILLSTREAM_…`, the file's keys, `--help`, `--print-default-config` and the README's
//! table are made from this.

use std::time::Duration;

use super::setting::Kind::{self, Bytes, Choice, Count, Flag};
use super::setting::{Access, GIB, Setting, parse_into};
use super::{ControlListen, Durability, LogFormat, StoreKind, WhenFull, parse_cores};
use crate::base::limits::{INITIAL_CREDIT, PARTITIONS_MAX};
use crate::base::names::Project;
use crate::ws::origin::AllowedOrigins;

const LISTEN: &str = "Where it listens";
const STORE: &str = "Where messages are kept";
const LOG: &str = "The embedded log, where it is the store";
const KAFKA: &str = "Kafka, where it is the store";
const MESSAGES: &str = "What clients may send";
const TIMES: &str = "Times";
const FLOW: &str = "Flow";
const CLIENTS: &str = "How many clients, and what a project may do in the whole server (0: no limit)";
const MEMORY: &str = "Memory and pace of a shard: change with a measurement";
const LATENCY: &str = "Latency histograms";
const LOGS: &str = "Logs";
const TESTS: &str = "For tests";

/// The shortest silence, handshake and pb: less, and a shard would do nothing but look at the time.
const SHORTEST_MS: u64 = 10;
/// The longest duration: a year.
const LONGEST_MS: u64 = 366 * 86_400_000;

/// A number of the configuration.
macro_rules! number {
    ($($path:ident).+, $range:expr) => {
        Access::Number((|c| c.$($path).+ as u64, |c, value| c.$($path).+ = value as _), $range)
    };
}

/// A duration of the configuration, in milliseconds.
macro_rules! duration {
    ($($path:ident).+, $range:expr) => {
        Access::Number((|c| c.$($path).+.as_millis() as u64, |c, ms| c.$($path).+ = Duration::from_millis(ms)), $range)
    };
}

const fn setting(
    section: &'static str,
    key: &'static str,
    kind: Kind,
    help: &'static str,
    access: Access,
) -> Setting {
    Setting { section, key, kind, help, access }
}

/// A host's name in lower case, without the root's dot.
fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(format!(
            "{text:?} is not a host's name like metrics.example: no scheme, no port, no path"
        ));
    }
    Ok(name.to_ascii_lowercase())
}

/// All of them, in the order in which they are shown.
pub static SETTINGS: &[Setting] = &[
    setting(
        LISTEN,
        "listen",
        Kind::Text,
        "Address and port for clients; port 0 takes a free one",
        Access::Text((
            |c| c.listen.to_string(),
            |c, text| parse_into(&mut c.listen, text, "an address and a port like 127.0.0.1:9000"),
        )),
    ),
    setting(
        LISTEN,
        "control_listen",
        Kind::Text,
        "Address and port of health and metrics; next: 127.0.0.1 and the port after the one of listen; off: none",
        Access::Text((
            |c| match c.control_listen {
                ControlListen::Next => "next".into(),
                ControlListen::At(address) => address.to_string(),
                ControlListen::Off => "off".into(),
            },
            |c, text| {
                c.control_listen = match text {
                    "next" => ControlListen::Next,
                    "off" => ControlListen::Off,
                    _ => ControlListen::At(
                        text.parse()
                            .map_err(|_| format!("{text:?} is not next, off, or an address and a port"))?,
                    ),
                };
                Ok(())
            },
        )),
    ),
    setting(
        LISTEN,
        "control_hosts",
        Kind::Text,
        "Names that the control port is asked by, beside localhost and IP addresses, without ports and with commas between; a request for another name gets 421",
        Access::Text((
            |c| c.control_hosts.join(","),
            |c, text| {
                let names = text.split(',').map(str::trim).filter(|one| !one.is_empty());
                c.control_hosts = names.map(host_name).collect::<Result<_, _>>()?;
                Ok(())
            },
        )),
    ),
    setting(
        LISTEN,
        "listen_backlog",
        Count,
        "Connections that wait to be accepted; the kernel caps it at net.core.somaxconn",
        number!(listen_backlog, 1..=1 << 20),
    ),
    setting(
        LISTEN,
        "cores",
        Kind::Text,
        "Cores to run on, a shard on each: 0-3 or 0,2; all: all that the process may use",
        Access::Text((
            |c| {
                if c.cores.is_empty() {
                    "all".into()
                } else {
                    c.cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
                }
            },
            |c, text| {
                c.cores =
                    if text == "all" { Vec::new() } else { parse_cores(text).map_err(|error| error.0)? };
                Ok(())
            },
        )),
    ),
    setting(
        LISTEN,
        "default_project",
        Kind::Text,
        "The project of clients that name none",
        Access::Text((
            |c| c.settings.policy.default_project.to_string(),
            |c, text| {
                c.settings.policy.default_project =
                    Project::parse(text).map_err(|error| error.to_string())?;
                Ok(())
            },
        )),
    ),
    setting(
        LISTEN,
        "allowed_origins",
        Kind::Text,
        "Origins of browsers that are accepted beside the host that was asked, like https://console.example, with commas \
         between; *: every one but null",
        Access::Text((
            |c| c.settings.policy.allowed_origins.to_string(),
            |c, text| {
                c.settings.policy.allowed_origins = AllowedOrigins::parse(text)?;
                Ok(())
            },
        )),
    ),
    setting(
        STORE,
        "store",
        Choice(&["log", "memory", "kafka"]),
        "log: in data_dir, durable; memory: bounded, and lost when the server ends; kafka: in the cluster of brokers",
        Access::Text((
            |c| c.store.name().into(),
            |c, text| {
                c.store = match text {
                    "kafka" => StoreKind::Kafka,
                    "memory" => StoreKind::Memory,
                    _ => StoreKind::Log,
                };
                Ok(())
            },
        )),
    ),
    setting(
        STORE,
        "memory_bytes",
        Bytes,
        "Messages that the memory store holds, over all shards; each has an equal part",
        number!(memory_bytes, 1..=1024 * GIB),
    ),
    setting(
        STORE,
        "memory_full",
        Choice(&["drop-oldest", "refuse"]),
        "What a full memory store does: drop the oldest messages, or refuse new ones with 503",
        Access::Text((
            |c| match c.memory_full {
                WhenFull::DropOldest => "drop-oldest".into(),
                WhenFull::Refuse => "refuse".into(),
            },
            |c, text| {
                c.memory_full = if text == "refuse" { WhenFull::Refuse } else { WhenFull::DropOldest };
                Ok(())
            },
        )),
    ),
    setting(
        STORE,
        "partitions",
        Count,
        "Partitions of a new queue",
        number!(settings.partitions, 1..=PARTITIONS_MAX as u64),
    ),
    setting(
        STORE,
        "auto_create",
        Flag,
        "Create queues on first use; else 404",
        Access::Flag(|c| &mut c.settings.auto_create),
    ),
    setting(
        STORE,
        "max_queues",
        Count,
        "Queues that one shard is home of; beyond, no more are created: 503; with Kafka those count that were opened since the start",
        number!(settings.max_queues, 1..=100_000_000),
    ),
    setting(
        LOG,
        "data_dir",
        Kind::Text,
        "Directory of the log's files; one server's alone",
        Access::Text((
            |c| c.embedded.data_dir.display().to_string(),
            |c, text| {
                if text.is_empty() {
                    return Err("names no directory".into());
                }
                c.embedded.data_dir = text.into();
                Ok(())
            },
        )),
    ),
    setting(
        LOG,
        "durability",
        Choice(&["fsync", "os"]),
        "What an acknowledged message survives. fsync: power loss; os: the end of the server, but not of the machine",
        Access::Text((
            |c| match c.embedded.durability {
                Durability::Fsync => "fsync".into(),
                Durability::Os => "os".into(),
            },
            |c, text| {
                c.embedded.durability = if text == "os" { Durability::Os } else { Durability::Fsync };
                Ok(())
            },
        )),
    ),
    setting(
        LOG,
        "log_segment_bytes",
        Bytes,
        "Size of the log's files; each shard has one or two beside those with messages",
        number!(embedded.segment_bytes, 1 << 20..=16 * GIB),
    ),
    setting(
        LOG,
        "log_tail_bytes",
        Bytes,
        "What is kept of the newest messages in memory, over all shards",
        number!(embedded.tail_bytes, 0..=1024 * GIB),
    ),
    setting(
        LOG,
        "log_read_bytes",
        Bytes,
        "What is kept in memory of older messages while they are read, over all shards",
        number!(embedded.read_bytes, 0..=1024 * GIB),
    ),
    setting(
        LOG,
        "log_max_bytes",
        Bytes,
        "Size of all files beyond which the oldest are dropped, whether their messages have expired or not, over all shards (0: no limit)",
        number!(embedded.max_bytes, 0..=1024 * 1024 * GIB),
    ),
    setting(
        LOG,
        "log_max_age",
        Kind::Duration,
        "How long after its newest message a file is dropped, whether its messages have expired or not (0: no limit)",
        duration!(embedded.max_age, 0..=LONGEST_MS),
    ),
    setting(
        LOG,
        "log_min_free_bytes",
        Bytes,
        "What is left free on the disk; at that, messages are refused with 503 until there is room",
        number!(embedded.min_free_bytes, 0..=1024 * GIB),
    ),
    setting(
        KAFKA,
        "brokers",
        Kind::Text,
        "Brokers to ask for the others: kafka1:9092,kafka2:9092",
        Access::Text((
            |c| c.kafka.brokers.clone(),
            |c, text| {
                text.clone_into(&mut c.kafka.brokers);
                Ok(())
            },
        )),
    ),
    setting(
        KAFKA,
        "kafka_topic_prefix",
        Kind::Text,
        "Put before the names of topics, <project>.<queue>: letters, digits, - and .",
        Access::Text((
            |c| c.kafka.topic_prefix.clone(),
            |c, text| {
                if !text.chars().all(|one| one.is_ascii_alphanumeric() || one == '-' || one == '.') {
                    return Err(format!("{text:?} has other characters than letters, digits, - and ."));
                }
                text.clone_into(&mut c.kafka.topic_prefix);
                Ok(())
            },
        )),
    ),
    setting(
        KAFKA,
        "kafka_packed",
        Flag,
        "Keep many messages in one record: faster, and nobody but Millstream reads them; their topics are others, <project>.<queue>.packed",
        Access::Flag(|c| &mut c.kafka.packed),
    ),
    setting(
        KAFKA,
        "kafka_replication",
        Count,
        "Copies of a topic that is made; from 3 on, two of them must have a message before it is acknowledged",
        number!(kafka.replication, 1..=i16::MAX as u64),
    ),
    setting(
        KAFKA,
        "kafka_strict_topics",
        Flag,
        "Refuse topics that promise less than Millstream does; else they are warned about once",
        Access::Flag(|c| &mut c.kafka.strict_topics),
    ),
    setting(
        KAFKA,
        "kafka_linger",
        Kind::Duration,
        "How long messages wait for others to share their batch (linger.ms)",
        duration!(kafka.linger, 0..=900_000),
    ),
    setting(
        KAFKA,
        "kafka_batch_bytes",
        Bytes,
        "Largest batch (batch.size)",
        number!(kafka.batch_bytes, 1024..=64 << 20),
    ),
    setting(
        KAFKA,
        "kafka_compression",
        Choice(&["none", "lz4", "zstd", "snappy", "gzip"]),
        "How batches are compressed",
        Access::Text((
            |c| c.kafka.compression.clone(),
            |c, text| {
                text.clone_into(&mut c.kafka.compression);
                Ok(())
            },
        )),
    ),
    setting(
        KAFKA,
        "kafka_delivery_timeout",
        Kind::Duration,
        "How long Kafka may take to store a message, or to say where a partition stands; beyond: 503",
        duration!(kafka.delivery_timeout, 1_000..=3_600_000),
    ),
    setting(
        KAFKA,
        "kafka_tail_bytes",
        Bytes,
        "What is kept of the ends of partitions for their consumers, over all shards",
        number!(kafka.tail_bytes, 1 << 20..=1024 * GIB),
    ),
    setting(
        KAFKA,
        "kafka_catch_up_readers",
        Count,
        "Readers of what is older, over all shards, of which each has at least one",
        number!(kafka.catch_up_readers, 1..=1024),
    ),
    setting(
        KAFKA,
        "kafka_receive_bytes",
        Bytes,
        "Largest answer of a broker that a consumer reads, and so the largest batch of records; twice as much memory for each shard and each reader",
        number!(kafka.receive_bytes, 8 << 20..=GIB),
    ),
    setting(
        KAFKA,
        "kafka_token_command",
        Kind::Text,
        "Shell command that prints a token for sasl.mechanism=OAUTHBEARER: a JSON Web Token, or a token endpoint's answer (RFC 6749)",
        Access::Text((
            |c| c.kafka.token_command.clone(),
            |c, text| {
                text.trim().clone_into(&mut c.kafka.token_command);
                Ok(())
            },
        )),
    ),
    setting(
        KAFKA,
        "kafka_properties",
        Kind::Text,
        "Further properties of librdkafka, key=value with ; between, in the file also as a table [kafka.properties]; those that would break a promise are refused",
        Access::Text((
            |c| {
                let shown = |(key, value): (&String, &String)| format!("{key}={value}");
                c.kafka.properties.iter().map(shown).collect::<Vec<_>>().join(";")
            },
            |c, text| {
                for pair in text.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').ok_or("one of them is not key=value")?;
                    c.kafka.properties.insert(key.trim().to_owned(), value.trim().to_owned());
                }
                Ok(())
            },
        )),
    ),
    setting(
        MESSAGES,
        "max_payload_bytes",
        Bytes,
        "Largest payload; larger ones get 413, their neighbours are stored",
        number!(settings.max_payload_bytes, 1..=GIB),
    ),
    setting(
        MESSAGES,
        "max_key_bytes",
        Bytes,
        "Largest key; likewise",
        number!(settings.max_key_bytes, 1..=GIB),
    ),
    setting(
        MESSAGES,
        "max_pb_bytes",
        Bytes,
        "Largest protobuf message; larger ones end the operation with 413",
        number!(settings.max_pb_bytes, 65..=2 * GIB),
    ),
    setting(
        MESSAGES,
        "discard_limit_bytes",
        Bytes,
        "What a client may go on sending after its operation has failed; beyond: closed with 1008",
        number!(settings.discard_limit_bytes, 0..=i64::MAX as u64),
    ),
    setting(
        MESSAGES,
        "ttl_min",
        Count,
        "Shortest time to live of a message, seconds; shorter: 400",
        Access::Number(
            (|c| c.settings.ttl_secs.0.into(), |c, secs| c.settings.ttl_secs.0 = secs as _),
            0..=u32::MAX as u64,
        ),
    ),
    setting(
        MESSAGES,
        "ttl_max",
        Count,
        "Longest time to live, seconds; longer: 400",
        Access::Number(
            (|c| c.settings.ttl_secs.1.into(), |c, secs| c.settings.ttl_secs.1 = secs as _),
            0..=u32::MAX as u64,
        ),
    ),
    setting(
        MESSAGES,
        "handshake_max_bytes",
        Bytes,
        "Largest handshake; beyond: 431",
        number!(settings.handshake_max_bytes, 256..=1 << 20),
    ),
    setting(
        TIMES,
        "handshake_timeout",
        Kind::Duration,
        "How long a handshake may take; beyond: 408",
        duration!(settings.handshake_timeout, SHORTEST_MS..=LONGEST_MS),
    ),
    setting(
        TIMES,
        "pb_timeout",
        Kind::Duration,
        "How long a protobuf message that was begun may take; beyond: the operation ends with 408",
        duration!(settings.pb_timeout, SHORTEST_MS..=LONGEST_MS),
    ),
    setting(
        TIMES,
        "ping_interval",
        Kind::Duration,
        "Silence after which a client is pinged",
        duration!(settings.ping_interval, SHORTEST_MS..=LONGEST_MS),
    ),
    setting(
        TIMES,
        "idle_timeout",
        Kind::Duration,
        "Silence after which a client is closed with 1001",
        duration!(settings.idle_timeout, SHORTEST_MS..=LONGEST_MS),
    ),
    setting(
        TIMES,
        "drain_timeout",
        Kind::Duration,
        "How long draining may take after SIGTERM",
        duration!(settings.drain_timeout, 0..=LONGEST_MS),
    ),
    setting(
        TIMES,
        "drain_consume_timeout",
        Kind::Duration,
        "How much of it consumers get",
        duration!(settings.drain_consume_timeout, 0..=LONGEST_MS),
    ),
    setting(
        TIMES,
        "clock_step_max",
        Kind::Duration,
        "How far the system's clock may step back before timestamps follow it, and how long it must stay ahead before messages expire by it",
        duration!(settings.clock_step_max, 1_000..=LONGEST_MS),
    ),
    setting(
        FLOW,
        "produce_window",
        Count,
        "Messages that a produce operation may have outstanding; sent beyond its credit: 429",
        number!(settings.produce_window, INITIAL_CREDIT as u64..=u32::MAX as u64),
    ),
    setting(
        FLOW,
        "produce_window_bytes",
        Bytes,
        "Bytes that a produce operation may have outstanding; beyond, it is not read",
        number!(settings.produce_window_bytes, 1..=GIB),
    ),
    setting(
        FLOW,
        "produce_batches",
        Count,
        "Batches and refusals that a produce operation may have outstanding; beyond, it is not read",
        number!(settings.produce_batches, 1..=1 << 20),
    ),
    setting(
        FLOW,
        "produce_batches_pressed",
        Count,
        "The same while the budget is used up; each connection may hold so many beyond it",
        number!(settings.produce_batches_pressed, 1..=1 << 20),
    ),
    setting(
        FLOW,
        "append_batch_bytes",
        Bytes,
        "An append batch is closed when it holds so many bytes",
        number!(settings.append_batch_bytes, 1..=GIB),
    ),
    setting(
        FLOW,
        "consume_batch_messages",
        Count,
        "Messages in a ConsumeResponse",
        number!(settings.consume_batch_messages, 1..=1_000_000),
    ),
    setting(
        FLOW,
        "consume_batch_bytes",
        Bytes,
        "Bytes in a ConsumeResponse, where it is not a single message",
        number!(settings.consume_batch_bytes, 1..=GIB),
    ),
    setting(
        FLOW,
        "consume_linger",
        Kind::Duration,
        "How long messages wait for others to share their ConsumeResponse",
        duration!(settings.consume_linger, 0..=LONGEST_MS),
    ),
    setting(
        FLOW,
        "marker_wait",
        Kind::Duration,
        "How long an owed marker waits for a message to come with",
        duration!(settings.marker_wait, 0..=LONGEST_MS),
    ),
    setting(
        FLOW,
        "fetch_bytes",
        Bytes,
        "What one fetch asks a partition for",
        number!(settings.fetch_bytes, 1..=GIB),
    ),
    setting(
        CLIENTS,
        "max_connections",
        Count,
        "Connections of one shard; beyond: 503",
        number!(settings.max_connections, 1..=4_000_000),
    ),
    setting(
        CLIENTS,
        "project_max_connections",
        Count,
        "Connections; beyond: 429 in place of the handshake",
        number!(settings.per_project.connections, 0..=i64::MAX as u64),
    ),
    setting(
        CLIENTS,
        "project_max_operations",
        Count,
        "Operations open at once; beyond: 429 at setup",
        number!(settings.per_project.operations, 0..=i64::MAX as u64),
    ),
    setting(
        CLIENTS,
        "project_max_queues",
        Count,
        "Queues; beyond, no more are created: 429 at setup; with Kafka those count that were opened since the start",
        number!(settings.per_project.queues, 0..=i64::MAX as u64),
    ),
    setting(
        CLIENTS,
        "project_storage_bytes",
        Bytes,
        "Bytes of stored messages that have not expired, as /queues counts them; beyond: 429 for the messages; not with Kafka, which has quotas of its own",
        number!(settings.per_project.storage_bytes, 0..=1024 * 1024 * GIB),
    ),
    setting(
        CLIENTS,
        "project_messages_per_sec",
        Count,
        "Messages produced a second; beyond: less credit, then 429 for those that were sent without",
        number!(settings.per_project.messages_per_sec, 0..=1_000_000_000),
    ),
    setting(
        CLIENTS,
        "project_bytes_per_sec",
        Bytes,
        "Bytes of ProduceRequests a second; likewise",
        number!(settings.per_project.bytes_per_sec, 0..=1024 * GIB),
    ),
    setting(
        MEMORY,
        "shard_budget_bytes",
        Bytes,
        "What the connections of one shard may reserve, and as much again hold; beyond: less credit, then unread sockets, then slow consumers are closed",
        number!(settings.shard_budget_bytes, 4096..=1024 * GIB),
    ),
    setting(
        MEMORY,
        "spin_us",
        Count,
        "Microseconds that a shard polls before it sleeps; 50 to 100 on dedicated cores",
        Access::Number(
            (
                |c| c.spin_before_park.as_micros() as u64,
                |c, us| c.spin_before_park = Duration::from_micros(us),
            ),
            0..=60_000_000,
        ),
    ),
    setting(
        MEMORY,
        "foothold_bytes",
        Bytes,
        "What is kept of a cut protobuf message before memory is reserved for it; each connection may hold so much beyond the budget",
        number!(settings.foothold_bytes, 1..=GIB),
    ),
    setting(
        MEMORY,
        "large_pb_bytes",
        Bytes,
        "Cut protobuf messages longer than this share a half of the budget, shorter ones an eighth",
        number!(settings.large_pb_bytes, 1..=GIB),
    ),
    setting(
        MEMORY,
        "receive_window_bytes",
        Bytes,
        "The shard's receive buffer",
        number!(settings.receive_window_bytes, 4096..=GIB),
    ),
    setting(
        MEMORY,
        "receive_bytes_per_turn",
        Bytes,
        "What one connection may read before the others have their turn",
        number!(settings.receive_bytes_per_turn, 4096..=GIB),
    ),
    setting(
        MEMORY,
        "receive_bytes_pressed",
        Bytes,
        "What is read at once while the budget is used up; each connection may hold so much beyond it",
        number!(settings.receive_bytes_pressed, 64..=GIB),
    ),
    setting(
        MEMORY,
        "send_buffer_bytes",
        Bytes,
        "A connection encodes more only while less than this waits to be sent",
        number!(settings.send_buffer_bytes, 1..=GIB),
    ),
    setting(
        MEMORY,
        "send_buffer_bytes_pressed",
        Bytes,
        "The same while the budget is used up; each connection may hold so much beyond it",
        number!(settings.send_buffer_bytes_pressed, 1..=GIB),
    ),
    setting(
        MEMORY,
        "spare_buffers",
        Count,
        "Send buffers that a shard keeps for reuse",
        number!(settings.spare_buffers, 0..=1 << 20),
    ),
    setting(
        MEMORY,
        "spare_buffer_bytes",
        Bytes,
        "The largest that it keeps",
        number!(settings.spare_buffer_bytes, 1..=GIB),
    ),
    setting(
        MEMORY,
        "inbox_batches",
        Count,
        "Batches that a shard's inbox holds",
        number!(settings.inbox_batches, 1..=1 << 20),
    ),
    setting(
        MEMORY,
        "inbox_batches_per_look",
        Count,
        "Batches taken from the inbox between two connections",
        number!(settings.inbox_batches_per_look, 1..=1 << 20),
    ),
    setting(
        MEMORY,
        "reactor_pass_us",
        Count,
        "Microseconds that a shard works without looking at its sockets",
        Access::Number(
            (
                |c| c.settings.reactor_pass.as_micros() as u64,
                |c, us| c.settings.reactor_pass = Duration::from_micros(us),
            ),
            1..=1_000_000,
        ),
    ),
    setting(
        LATENCY,
        "latency_log",
        Kind::Text,
        "An HdrHistogram interval log (.hlog) to append each stage's histogram to; some 4 KiB an interval under load; empty: none",
        Access::Text((
            |c| c.latency.log.as_ref().map_or(String::new(), |path| path.display().to_string()),
            |c, text| {
                c.latency.log = (!text.is_empty()).then(|| text.into());
                Ok(())
            },
        )),
    ),
    setting(
        LATENCY,
        "latency_interval",
        Kind::Duration,
        "How often the shards' histograms are collected: the resolution of latency_log and of the live page",
        duration!(latency.interval, 100..=3_600_000),
    ),
    setting(
        LOGS,
        "log",
        Kind::Text,
        "What is logged: a level, or directives like millstream=debug,warn",
        Access::Text((
            |c| c.log.clone(),
            |c, text| {
                tracing_subscriber::EnvFilter::try_new(text).map_err(|error| error.to_string())?;
                text.clone_into(&mut c.log);
                Ok(())
            },
        )),
    ),
    setting(
        LOGS,
        "log_format",
        Choice(&["text", "json"]),
        "text for people, json for machines",
        Access::Text((
            |c| match c.log_format {
                LogFormat::Text => "text".into(),
                LogFormat::Json => "json".into(),
            },
            |c, text| {
                c.log_format = if text == "json" { LogFormat::Json } else { LogFormat::Text };
                Ok(())
            },
        )),
    ),
    setting(
        TESTS,
        "test_echo",
        Flag,
        "Add the path /echo, which echoes every message, for WebSocket conformance suites",
        Access::Flag(|c| &mut c.settings.policy.test_echo),
    ),
    setting(
        TESTS,
        "test_faults",
        Flag,
        "Let clients plant faults: panics of connections and shards, and stalls",
        Access::Flag(|c| &mut c.settings.test_faults),
    ),
];

//! The most memory that a configuration can use, by purpose.
//!
//! These are sums of bounds, not measurements. Even a server under attack stays below them
//! (`tests/hostile.rs` checks that). They exclude the kernel's socket buffers, which `net.ipv4.tcp_mem`
//! bounds.

use super::ServerConfig;
use crate::base::limits::{
    CONNECTION_BYTES, CURSOR_BYTES, FATE_BYTES, PARTITION_BYTES, PROCESS_BYTES, QUEUE_BYTES, SHARD_BYTES,
    TLS_BYTES,
};
use crate::latency::Recorder;
use crate::shard;
use crate::shard::transport::{AHEAD_BYTES_PRESSED, KEPT_BYTES_MAX, wire_bytes};
use crate::store::kafka::{READ_AHEAD_KIB, WINDOW_BYTES};
use crate::store::log::{GROUPING_BYTES_MAX, HISTORY_BYTES_MAX, LOAD_COST_MAX, LOADS_MAX, ROUND_BYTES};
use crate::store::{Fence, StoreKind};
use crate::tls::{HANDSHAKE_BYTES_MAX, RECORD_BYTES_MAX};

/// One purpose of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The purpose, as `describe` shows it.
    pub what: &'static str,
    /// The settings that determine the size. Empty if none does.
    pub keys: &'static str,
    /// The largest size in the whole server, in bytes.
    pub bytes: u64,
}

/// Returns every purpose of memory in this configuration.
pub fn items(config: &ServerConfig) -> Vec<Item> {
    let shard::Settings { core, store, .. } = &config.shard;
    let operation = &core.operation;
    let shards = config.shard.shard_cores().len() as u64;
    let of_shards = |bytes: usize| shards * bytes as u64;
    // A worker has no fates. Its one small claim, and what it has forgotten, take less.
    let streaming = core.receive_bytes_pressed
        + operation.send_buffer_bytes_pressed
        + operation.foothold_bytes
        + operation.produce_batches_pressed * FATE_BYTES
        + CURSOR_BYTES * usize::from(core.partitions);
    let of_connection = CONNECTION_BYTES + streaming.max(core.handshake_max_bytes);
    let largest = operation.max_pb_bytes.max(operation.send_buffer_bytes + operation.consume_batch_bytes);
    let of_queue = QUEUE_BYTES * shards as usize + PARTITION_BYTES * usize::from(core.partitions);
    let mut items = match store.kind {
        // The capacity of a batch may exceed its length by an eighth.
        StoreKind::Memory => {
            vec![Item {
                what: "stored messages",
                keys: "memory_bytes",
                bytes: store.memory.bytes as u64 / 8 * 9,
            }]
        }
        StoreKind::Log => of_log(&config.shard, shards),
        StoreKind::Kafka => of_kafka(&config.shard, shards),
    };
    items.extend([
        Item {
            what: "connections, within the shard's budget",
            keys: "shard_budget_bytes, max_pb_bytes",
            bytes: of_shards(3 * core.shard_budget_bytes + 2 * largest),
        },
        Item {
            what: "connections, outside of the shard's budget",
            keys: "max_connections, handshake_max_bytes, …_pressed, foothold_bytes, partitions",
            bytes: of_shards(core.max_connections * of_connection),
        },
        Item { what: "queues", keys: "max_queues, partitions", bytes: of_shards(core.max_queues * of_queue) },
        Item {
            what: "buffers of the shards",
            keys: "receive_window_bytes",
            bytes: of_shards(
                core.receive_window_bytes
                    + core.spare_buffers * core.spare_buffer_bytes
                    + Fence::BYTES_MAX
                    + SHARD_BYTES,
            ),
        },
        Item {
            what: "latency histograms",
            keys: "",
            // Each shard has a recorder that it fills, an empty recorder, and a recorder for the interval. The
            // server has a recorder for the interval, another for the total, and a copy for a reader.
            bytes: (3 * shards + 3) * Recorder::BYTES as u64,
        },
        Item { what: "rest of the process", keys: "", bytes: PROCESS_BYTES as u64 },
    ]);
    items.extend(of_tls(&config.shard, shards));
    items
}

/// Returns the memory of TLS connections in addition to that of plain ones, if there is a port for them.
fn of_tls(settings: &shard::Settings, shards: u64) -> Option<Item> {
    settings.tls_listen.as_ref()?;
    let core = &settings.core;
    // A connection that keeps more than this is one of a shard that keeps at most KEPT_BYTES_MAX, because it
    // then seals less ahead.
    let of_connection = TLS_BYTES + HANDSHAKE_BYTES_MAX + RECORD_BYTES_MAX + AHEAD_BYTES_PRESSED;
    let of_shard = KEPT_BYTES_MAX + wire_bytes(core.receive_window_bytes);
    Some(Item {
        what: "TLS connections",
        keys: "tls_listen, max_connections, receive_window_bytes",
        bytes: shards * (core.max_connections * of_connection + of_shard) as u64,
    })
}

/// Returns the memory of the log, without its table of segments.
fn of_log(settings: &shard::Settings, shards: u64) -> Vec<Item> {
    let log = &settings.store.log;
    let largest = settings.core.operation.largest_batch();
    vec![
        Item { what: "newest messages", keys: "log_tail_bytes", bytes: log.tail_bytes as u64 / 8 * 9 },
        Item {
            what: "older messages while they are read",
            keys: "log_read_bytes",
            bytes: log.read_bytes as u64 / 8 * 9 + shards * (LOADS_MAX * LOAD_COST_MAX) as u64,
        },
        Item {
            what: "messages being written, and the index of their segment",
            keys: "log_segment_bytes, max_pb_bytes",
            bytes: shards * (2 * (ROUND_BYTES + largest) as u64 + log.segment_bytes / 2 * 3),
        },
        Item {
            what: "messages of files that are grouped",
            keys: "log_grouping",
            bytes: if log.grouping { shards * GROUPING_BYTES_MAX as u64 } else { 0 },
        },
        Item { what: "ends of partitions at earlier starts", keys: "", bytes: HISTORY_BYTES_MAX as u64 },
    ]
}

/// Returns the memory of the Kafka store and of librdkafka.
fn of_kafka(settings: &shard::Settings, shards: u64) -> Vec<Item> {
    let (kafka, bounds) = (&settings.store.kafka, settings.kafka_bounds());
    let readers = (kafka.catch_up_readers as u64).next_multiple_of(shards);
    // librdkafka holds an answer, and the batches made from it take the same size again.
    let answers = 2 * kafka.answer_bytes(&bounds) as u64;
    vec![
        Item { what: "newest messages", keys: "kafka_tail_bytes", bytes: kafka.tail_bytes as u64 / 8 * 9 },
        Item {
            what: "prefetched messages",
            keys: "kafka_tail_bytes, kafka_receive_bytes; the same again for each further broker, plus the expansion of compressed batches",
            bytes: kafka.tail_bytes as u64 + shards * answers,
        },
        Item {
            what: "readers of older messages",
            keys: "kafka_catch_up_readers, kafka_receive_bytes",
            bytes: readers * ((WINDOW_BYTES + 2 * READ_AHEAD_KIB * 1024) as u64 + answers),
        },
        Item {
            what: "readers of attributes, and of single messages for the operator",
            keys: "kafka_receive_bytes; and up to 64 KiB for each queue with attributes",
            bytes: 2 * (2 * READ_AHEAD_KIB as u64 * 1024 + answers),
        },
        Item {
            what: "messages in librdkafka's queues",
            keys: "shard_budget_bytes",
            bytes: shards * bounds.shard_budget_bytes as u64 / 2,
        },
    ]
}

/// Returns the sum over all purposes, in bytes.
pub fn worst_case(config: &ServerConfig) -> u64 {
    items(config).iter().map(|item| item.bytes).sum()
}

/// Formats the purposes as a table, with their sum.
pub fn describe(config: &ServerConfig) -> String {
    let mut rows: Vec<(u64, String)> = items(config)
        .into_iter()
        .map(|Item { what, keys, bytes }| {
            let keys = if keys.is_empty() { String::new() } else { format!(" ({keys})") };
            (bytes, format!("{what}{keys}"))
        })
        .collect();
    rows.push((worst_case(config), "at worst, plus the kernel's socket buffers (net.ipv4.tcp_mem)".into()));
    rows.into_iter().map(|(bytes, what)| format!("{:>9} MiB  {what}\n", bytes.div_ceil(1 << 20))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::cores::Cores;

    #[test]
    fn a_smaller_setting_lowers_the_worst_case() {
        let config = || {
            let mut config = ServerConfig::default();
            config.shard.cores = Cores(vec![0]);
            config
        };
        let less_in = |store, change: fn(&mut ServerConfig)| {
            let mut all = config();
            all.shard.store.kind = store;
            let mut smaller = all.clone();
            change(&mut smaller);
            assert!(worst_case(&smaller) < worst_case(&all));
        };
        let less = |change| less_in(StoreKind::Memory, change);
        less(|c| c.shard.store.memory.bytes /= 2);
        less_in(StoreKind::Log, |c| c.shard.store.log.tail_bytes /= 2);
        less_in(StoreKind::Log, |c| c.shard.store.log.read_bytes /= 2);
        less_in(StoreKind::Log, |c| c.shard.store.log.segment_bytes /= 2);
        less_in(StoreKind::Kafka, |c| c.shard.store.kafka.receive_bytes /= 2);
        less_in(StoreKind::Kafka, |c| c.shard.store.kafka.catch_up_readers /= 2);
        less(|c| c.shard.core.shard_budget_bytes /= 2);
        less(|c| c.shard.core.max_connections /= 2);
        let secure = |connections| {
            let mut config = config();
            config.shard.tls_listen = Some(config.shard.listen.clone());
            config.shard.core.max_connections = connections;
            worst_case(&config)
        };
        let plain = worst_case(&config());
        assert!(secure(65_536) > secure(1_000) && secure(65_536) > plain);
        less(|c| c.shard.core.max_queues /= 2);
        assert!(describe(&config()).contains("at worst"));
    }
}

//! What a configuration can take at worst, by what takes it.
//!
//! Sums of bounds, not of measurements: a server under attack stays below them (`tests/hostile.rs` holds it to that). The
//! kernel's socket buffers come beside them; `net.ipv4.tcp_mem` bounds those.

use super::ServerConfig;
use crate::base::limits::{
    CONNECTION_BYTES, CURSOR_BYTES, FATE_BYTES, PARTITION_BYTES, PROCESS_BYTES, QUEUE_BYTES, SHARD_BYTES,
};
use crate::latency::Recorder;
use crate::shard;
use crate::store::kafka::{READ_AHEAD_KIB, WINDOW_BYTES};
use crate::store::log::{HISTORY_BYTES_MAX, LOAD_COST_MAX, LOADS_MAX, ROUND_BYTES};
use crate::store::{Fence, StoreKind};

/// One kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// What takes it.
    pub what: &'static str,
    /// The keys that decide it.
    pub keys: &'static str,
    /// How much, in the whole server.
    pub bytes: u64,
}

/// Every kind of memory of a configuration.
pub fn items(config: &ServerConfig) -> Vec<Item> {
    let shard::Settings { core, store, .. } = &config.shard;
    let operation = &core.operation;
    let shards = config.shard.shard_cores().len() as u64;
    let of_shards = |bytes: usize| shards * bytes as u64;
    let streaming = core.receive_bytes_pressed
        + operation.send_buffer_bytes_pressed
        + operation.foothold_bytes
        + operation.produce_batches_pressed * FATE_BYTES
        + CURSOR_BYTES * usize::from(core.partitions);
    let of_connection = CONNECTION_BYTES + streaming.max(core.handshake_max_bytes);
    let largest = operation.max_pb_bytes.max(operation.send_buffer_bytes + operation.consume_batch_bytes);
    let of_queue = QUEUE_BYTES * shards as usize + PARTITION_BYTES * usize::from(core.partitions);
    let mut items = match store.kind {
        // A batch may have an eighth of spare room.
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
            what: "what connections reserve and hold",
            keys: "shard_budget_bytes, max_pb_bytes",
            bytes: of_shards(3 * core.shard_budget_bytes + 2 * largest),
        },
        Item {
            what: "what each connection may have beyond that",
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
            // Of each shard the one that it fills, an empty one, and the interval; of all together the interval, the total, and a
            // copy for whoever looks.
            bytes: (3 * shards + 3) * Recorder::BYTES as u64,
        },
        Item { what: "the rest of the process", keys: "", bytes: PROCESS_BYTES as u64 },
    ]);
    items
}

/// What the log takes beside what it knows of each segment.
fn of_log(settings: &shard::Settings, shards: u64) -> Vec<Item> {
    let log = &settings.store.log;
    let largest = settings.core.operation.largest_batch();
    vec![
        Item { what: "newest messages", keys: "log_tail_bytes", bytes: log.tail_bytes as u64 / 8 * 9 },
        Item {
            what: "older messages that are read",
            keys: "log_read_bytes",
            bytes: log.read_bytes as u64 / 8 * 9 + shards * (LOADS_MAX * LOAD_COST_MAX) as u64,
        },
        Item {
            what: "what is written, and the index of that segment",
            keys: "log_segment_bytes, max_pb_bytes",
            bytes: shards * (2 * (ROUND_BYTES + largest) as u64 + log.segment_bytes / 2 * 3),
        },
        Item { what: "where partitions stood at earlier starts", keys: "", bytes: HISTORY_BYTES_MAX as u64 },
    ]
}

/// What the Kafka store and librdkafka take.
fn of_kafka(settings: &shard::Settings, shards: u64) -> Vec<Item> {
    let (kafka, bounds) = (&settings.store.kafka, settings.kafka_bounds());
    let readers = (kafka.catch_up_readers as u64).next_multiple_of(shards);
    // librdkafka holds the answer, and the batches that are made of it take the same size again.
    let answers = 2 * kafka.answer_bytes(&bounds) as u64;
    vec![
        Item { what: "ends of partitions", keys: "kafka_tail_bytes", bytes: kafka.tail_bytes as u64 / 8 * 9 },
        Item {
            what: "what is read ahead of them",
            keys: "kafka_tail_bytes, kafka_receive_bytes; as much for each further broker, and what compressed batches expand to",
            bytes: kafka.tail_bytes as u64 + shards * answers,
        },
        Item {
            what: "readers of what is older",
            keys: "kafka_catch_up_readers, kafka_receive_bytes",
            bytes: readers * ((WINDOW_BYTES + 2 * READ_AHEAD_KIB * 1024) as u64 + answers),
        },
        Item {
            what: "librdkafka's own of messages on their way",
            keys: "shard_budget_bytes",
            bytes: shards * bounds.shard_budget_bytes as u64 / 2,
        },
    ]
}

/// The sum of all.
pub fn worst_case(config: &ServerConfig) -> u64 {
    items(config).iter().map(|item| item.bytes).sum()
}

/// A table of them for people.
pub fn describe(config: &ServerConfig) -> String {
    let mut rows: Vec<(u64, String)> = items(config)
        .into_iter()
        .map(|Item { what, keys, bytes }| {
            let keys = if keys.is_empty() { String::new() } else { format!(" ({keys})") };
            (bytes, format!("{what}{keys}"))
        })
        .collect();
    rows.push((worst_case(config), "at worst, beside the kernel's socket buffers (net.ipv4.tcp_mem)".into()));
    rows.into_iter().map(|(bytes, what)| format!("{:>9} MiB  {what}\n", bytes.div_ceil(1 << 20))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::cores::Cores;

    #[test]
    fn less_of_anything_is_less_in_all() {
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
        less(|c| c.shard.core.max_queues /= 2);
        assert!(describe(&config()).contains("at worst"));
    }
}

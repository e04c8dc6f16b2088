//! How the Kafka store reaches and uses its cluster, and the sizes of records and answers that follow.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::limits::{KAFKA_PACKED_RECORD_BYTES, KAFKA_RECORD_OVERHEAD_BYTES, TOPIC_NAME_CHARS_MAX};
use crate::base::setting::{GIB, settings};

settings! {
    /// How the Kafka store reaches and uses its cluster. Its `Debug` shows no secret (`secret`).
    #[derive(Clone, PartialEq, Eq)]
    pub struct Settings {
        in Kafka, AtStart:
        // librdkafka's `bootstrap.servers`.
        /// Brokers to contact first, like kafka1:9092,kafka2:9092; they name the others
        brokers: String = String::new(), "brokers", Text;
        /// Prefix of the names of topics, <project>.<queue>: letters, digits, - and .
        topic_prefix: String = String::new(), "kafka_topic_prefix", Text, check_prefix;
        /// Keep many messages in one record: faster, but only Millstream can read them; such topics are named
        /// <project>.<queue>.packed
        packed: bool = false, "kafka_packed", Flag;
        /// Replicas of a topic that the server creates; from 3 on, two of them must have a message before it
        /// is acknowledged
        replication: u16 = 3, "kafka_replication", Count(1..=i16::MAX as u64);
        /// Compacted topic that keeps the attributes of all queues, created if missing; letters, digits and -; empty: queues
        /// have no attributes
        attributes_topic: String = "millstream-attributes".into(), "kafka_attributes_topic", Text, check_attributes_topic;
        /// Refuse topics that promise less than Millstream does; otherwise log a warning
        strict_topics: bool = false, "kafka_strict_topics", Flag;
        /// How long messages wait for others to share their batch (linger.ms)
        linger: Duration = Duration::from_millis(2), "kafka_linger", Duration(0..=900_000);
        /// Largest batch (batch.size)
        batch_bytes: usize = 1 << 20, "kafka_batch_bytes", Bytes(1024..=64 << 20);
        // librdkafka's `compression.type`.
        /// Compression of batches
        compression: String = "lz4".into(), "kafka_compression", Choice(&["none", "lz4", "zstd", "snappy", "gzip"]);
        // librdkafka's `delivery.timeout.ms`.
        /// How long Kafka may take to store a message, or to answer where a partition ends; then 503
        delivery_timeout: Duration = Duration::from_secs(30), "kafka_delivery_timeout", Duration(1_000..=3_600_000);
        /// Memory for the ends of partitions that consumers read, over all shards
        tail_bytes: usize = 256 << 20, "kafka_tail_bytes", Bytes(1 << 20..=1024 * GIB);
        /// Readers of older messages, over all shards; each shard has at least one
        catch_up_readers: usize = 4, "kafka_catch_up_readers", Count(1..=1024);
        // librdkafka's `receive.message.max.bytes`.
        /// Largest answer of a broker that a consumer reads, and so the largest batch of records; each shard
        /// and each reader may need twice as much memory
        receive_bytes: usize = 32 << 20, "kafka_receive_bytes", Bytes(8 << 20..=GIB);
        /// Shell command that prints a token for sasl.mechanism=OAUTHBEARER: a JSON Web Token, or a token
        /// endpoint's answer (RFC 6749)
        token_command: String = String::new(), "kafka_token_command", Text;
        /// Further properties of librdkafka, as key=value separated by ;, or in the file as a table
        /// [kafka.properties]; those that would break a promise are refused
        properties: BTreeMap<String, String> = BTreeMap::new(), "kafka_properties", Text;
    }
}

fn check_prefix(text: &str) -> Result<(), String> {
    if text.chars().all(|one| one.is_ascii_alphanumeric() || one == '-' || one == '.') {
        Ok(())
    } else {
        Err(format!("{text:?} has other characters than letters, digits, - and ."))
    }
}

fn check_attributes_topic(text: &str) -> Result<(), String> {
    // The topic of a queue has a dot in its name, so it is never this one.
    let is_name = text.chars().all(|one| one.is_ascii_alphanumeric() || one == '-');
    match text.len() {
        0..=TOPIC_NAME_CHARS_MAX if is_name => Ok(()),
        0..=TOPIC_NAME_CHARS_MAX => Err(format!("{text:?} has other characters than letters, digits and -")),
        length => Err(format!("its {length} characters are more than Kafka's {TOPIC_NAME_CHARS_MAX}")),
    }
}

/// The settings of other rooms that the Kafka store depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The largest payload, in bytes.
    pub max_payload_bytes: usize,
    /// The largest pb, in bytes.
    pub max_pb_bytes: usize,
    /// The longest time to live of a message, in seconds.
    pub ttl_max_secs: u32,
    /// How much the connections of one shard may reserve, in bytes.
    pub shard_budget_bytes: usize,
    /// How far the clock may be behind timestamps before they follow it.
    pub clock_step_max: Duration,
}

#[cfg(test)]
impl Bounds {
    /// Returns the bounds that follow from a server's defaults.
    pub(super) fn of_tests() -> Self {
        Self {
            max_payload_bytes: 1 << 20,
            max_pb_bytes: 8 << 20,
            ttl_max_secs: 1_209_600,
            shard_budget_bytes: 256 << 20,
            clock_step_max: Duration::from_hours(1),
        }
    }
}

impl Settings {
    /// Returns the size of the largest record, and of the largest batch of them: `message.max.bytes` and a
    /// topic's `max.message.bytes` must allow it.
    pub fn record_bytes(&self, bounds: &Bounds) -> usize {
        let packed = if self.packed { 2 * KAFKA_PACKED_RECORD_BYTES } else { 0 };
        bounds.max_payload_bytes.max(self.batch_bytes).max(packed) + KAFKA_RECORD_OVERHEAD_BYTES
    }

    /// Returns the size of the largest record that is served, key and value together: every record that this
    /// server writes, and others' up to `max_pb_bytes`. A topic may accept larger records from other
    /// producers; they are passed over.
    pub fn served_record_bytes(&self, bounds: &Bounds) -> usize {
        let packed = if self.packed { 2 * KAFKA_PACKED_RECORD_BYTES } else { 0 };
        bounds.max_pb_bytes.max(packed + KAFKA_RECORD_OVERHEAD_BYTES)
    }

    /// Returns the size of the largest answer of a broker that a consumer reads: `receive_bytes`, but at
    /// least a batch that this server writes.
    pub fn answer_bytes(&self, bounds: &Bounds) -> usize {
        self.receive_bytes.max(self.record_bytes(bounds) + KAFKA_RECORD_OVERHEAD_BYTES)
    }
}

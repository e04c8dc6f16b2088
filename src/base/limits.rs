//! Every bound that is not a setting: those of the protocol, and what things cost in memory.
//!
//! Constants only. Each room declares its settings, with their defaults, beside its code (`setting`).

use crate::base::millis::Millis;

/// Messages that a sender may send before it has heard of any credit (protocol section 4).
pub const INITIAL_CREDIT: i64 = 100;

/// Partitions of a queue (protocol section 6). A marker holds a position for each.
pub const PARTITIONS_MAX: u16 = 64;

/// Characters of a marker (protocol section 6).
pub const MARKER_CHARS_MAX: usize = 1024;

/// Characters of a queue's name, without `/<partition>` (protocol section 8).
pub const QUEUE_NAME_CHARS_MAX: usize = 64;

/// Characters of a project's name (protocol section 8).
pub const PROJECT_NAME_CHARS_MAX: usize = 128;

/// Characters of a Kafka topic's name (Kafka's `Topic.MAX_NAME_LENGTH`).
pub const TOPIC_NAME_CHARS_MAX: usize = 249;

/// What librdkafka keeps of a message beside its payload until it is delivered, bytes.
pub const KAFKA_RECORD_BYTES: usize = 256;

/// A packed Kafka record takes no further message once it has so many bytes; a message that is larger is alone.
pub const KAFKA_PACKED_RECORD_BYTES: usize = 256 << 10;

/// What a Kafka record may have beside its payload, bytes: its key, header, and what is around them.
pub const KAFKA_RECORD_OVERHEAD_BYTES: usize = 64 << 10;

/// Bytes of a pb's length, a base-128 varint (protocol section 2).
pub const PB_LENGTH_BYTES_MAX: usize = 5;

/// Payload bytes of a control frame (RFC 6455 section 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// What a batch or a refusal that is not spoken for costs beside its messages, bytes: its place in the queue, the reason.
pub const FATE_BYTES: usize = 256;

/// What a connection costs at most beside what is counted, bytes: its state and its socket's. Idle it is 1.4 KiB, consuming 8
/// partitions 3.3 KiB (measured, `perf/README.md`).
pub const CONNECTION_BYTES: usize = 4 << 10;

/// What a consumer's place in a partition costs, bytes: its cursor, and the fetch that waits at the partition's owner.
pub const CURSOR_BYTES: usize = 512;

/// What a queue costs in each shard's catalogue, bytes.
pub const QUEUE_BYTES: usize = 500;

/// What a partition costs at its owner beside its messages, bytes.
pub const PARTITION_BYTES: usize = 600;

/// What a shard costs beside all that is counted, bytes: rings, inbox, deadlines, its thread's stack.
pub const SHARD_BYTES: usize = 24 << 20;

/// Connections of the control port, of which one is being let in. Beyond that the one that has been at its request the longest
/// gives way. Each takes a descriptor, and at most some 600 KiB beside the page that all who ask at once share.
pub const CONTROL_CONNECTIONS_MAX: usize = 32;

/// Streams of `/live` among them; the others are left for everything else.
pub const LIVE_STREAMS_MAX: usize = 16;

/// How far the clock may step back before timestamps follow it, and how long it must stay ahead to be followed, unless the setting `clock_step_max` says otherwise.
pub const CLOCK_STEP_MAX: Millis = Millis::new(3_600_000);

/// What the process costs before it serves anybody, bytes: its code, the other threads.
pub const PROCESS_BYTES: usize = 64 << 20;

// Live streams never use up the connections.
const _: () = assert!(LIVE_STREAMS_MAX + 1 < CONTROL_CONNECTIONS_MAX);

// Version, queue, incarnation and one ten-byte varint for each partition, in base64.
const _: () = assert!((1 + 8 + 8 + 1 + PARTITIONS_MAX as usize * 10).div_ceil(3) * 4 <= MARKER_CHARS_MAX);

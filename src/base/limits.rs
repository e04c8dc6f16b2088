//! Bounds that are not settings: those of the protocol, and the memory costs of objects.
//!
//! Contains only constants. Each room declares its settings, with their defaults, next to its code
//! (`setting`).

use crate::base::millis::Millis;

/// The number of messages that a sender may send before it receives credit (protocol section 4).
pub const INITIAL_CREDIT: i64 = 100;

/// The most partitions of a queue (protocol section 6). A marker contains a position for each.
pub const PARTITIONS_MAX: u16 = 64;

/// The longest marker, in characters (protocol section 6).
pub const MARKER_CHARS_MAX: usize = 1024;

/// The longest queue name without `/<partition>`, in characters (protocol section 8).
pub const QUEUE_NAME_CHARS_MAX: usize = 64;

/// The longest project name, in characters (protocol section 8).
pub const PROJECT_NAME_CHARS_MAX: usize = 128;

/// The longest name of a Kafka topic, in characters (Kafka's `Topic.MAX_NAME_LENGTH`).
pub const TOPIC_NAME_CHARS_MAX: usize = 249;

/// The memory that librdkafka needs for a message in addition to its payload, until it is delivered, in
/// bytes.
pub const KAFKA_RECORD_BYTES: usize = 256;

/// The size in bytes at which a packed Kafka record accepts no further message. A larger message gets its own
/// record.
pub const KAFKA_PACKED_RECORD_BYTES: usize = 256 << 10;

/// The most bytes of a Kafka record in addition to its payload: key and headers of 32 KiB each, what the server adds to
/// them, and framing.
pub const KAFKA_RECORD_OVERHEAD_BYTES: usize = 66 << 10;

/// The longest length prefix of a pb, a base-128 varint, in bytes (protocol section 2).
pub const PB_LENGTH_BYTES_MAX: usize = 5;

/// The largest payload of a control frame, in bytes (RFC 6455 section 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// The memory of a batch or refusal that is not acknowledged yet, without its messages, in bytes: its entry
/// in the queue, the reason.
pub const FATE_BYTES: usize = 256;

/// The most memory of a connection in addition to what is counted elsewhere, in bytes: its state and its
/// socket's. An idle connection takes 1.4 KiB, a consumer of 8 partitions 3.3 KiB (measured,
/// `docs/performance.md`).
pub const CONNECTION_BYTES: usize = 4 << 10;

/// The most memory of the TLS session of a connection, without cut records and sealed bytes, in bytes. An idle
/// session takes 3.7 KiB, with a client's certificate 4.6 KiB (measured), and its key schedule more during the
/// handshake.
pub const TLS_BYTES: usize = 12 << 10;

/// The memory of a consumer's place in a partition, in bytes: its cursor, and the fetch that waits at the
/// partition's owner.
pub const CURSOR_BYTES: usize = 512;

/// The memory of a queue in each shard's catalogue, in bytes.
pub const QUEUE_BYTES: usize = 500;

/// The memory of a partition at its owner, without its messages, in bytes.
pub const PARTITION_BYTES: usize = 600;

/// The memory of a shard in addition to everything counted elsewhere, in bytes: rings, inbox, deadlines, the
/// stack of its thread.
pub const SHARD_BYTES: usize = 24 << 20;

/// The most connections of the control port, including a connection that is being accepted. At the limit, the
/// connection with the oldest request is closed. Each takes a file descriptor and at most some 600 KiB, in
/// addition to the page that concurrent requests share.
pub const CONTROL_CONNECTIONS_MAX: usize = 32;

/// The most `/live` streams among the connections of the control port. The rest are left for other requests.
pub const LIVE_STREAMS_MAX: usize = 16;

/// How far the clock may step back before timestamps follow it, and how long it must stay ahead before they
/// follow, in milliseconds. The default of the setting `clock_step_max`.
pub const CLOCK_STEP_MAX: Millis = Millis::new(3_600_000);

/// The memory of the process before it serves clients, in bytes: its code and the other threads.
pub const PROCESS_BYTES: usize = 64 << 20;

// Live streams must not use up all connections.
const _: () = assert!(LIVE_STREAMS_MAX + 1 < CONTROL_CONNECTIONS_MAX);

// A marker contains version, queue, incarnation, timeline, the number of partitions, a varint of up to ten
// bytes for each partition, and the check, in base64.
const _: () = assert!((1 + 3 * 8 + 1 + PARTITIONS_MAX as usize * 10 + 8).div_ceil(3) * 4 <= MARKER_CHARS_MAX);

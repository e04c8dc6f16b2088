//! Every bound that is not a setting, how the bounds relate, and what each can cost in memory at worst.
//!
//! Constants only. The settings, with their defaults, stand in `config.rs`.

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

/// Bytes of a pb's length, a base-128 varint (protocol section 2).
pub const PB_LENGTH_BYTES_MAX: usize = 5;

/// Bytes of a message's key: with it, a payload of `max_payload_bytes` still fits a Kafka record of 64 KiB more.
pub const KEY_BYTES_MAX: usize = 32 << 10;

/// Payload bytes of a control frame (RFC 6455 section 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// Bytes of pongs beyond a full send buffer; a ping that finds no room is not answered. Worst case: this for
/// each connection.
pub const PONG_BYTES_MAX: usize = 4 << 10;

/// What a cut pb is given before it has brought more than that, bytes: its length is a claim, and thousands of connections
/// can make it at once. Worst case: this for each connection.
pub const FOOTHOLD_BYTES: usize = 1 << 10;

/// Cut pbs longer than this share one half of the shard's budget, shorter ones a quarter: so that those who send large pbs
/// slowly hold up nobody who sends small ones.
pub const LARGE_PB_BYTES: usize = 64 << 10;

/// The shard's receive buffer, bytes: one for each shard, shared by its connections. Large enough that one
/// system call brings many frames and a pb of 100 × 1 KiB is seldom cut; four of them fit the second-level cache.
/// It is also the protocol's `receive_window_bytes`: what is read of an operation before the one ahead of it has ended.
pub const RECEIVE_BUFFER_BYTES: usize = 256 << 10;

/// What a connection may read in one turn, bytes, before the others and the inbox are looked at.
pub const RECEIVE_BYTES_PER_TURN: usize = 512 << 10;

/// Bytes read at once while the shard's budget is used up: what cannot be taken in stays with its connection,
/// so this times the connections of a shard is the worst case beyond the budget.
pub const RECEIVE_BYTES_UNDER_PRESSURE: usize = 4 << 10;

/// A connection encodes more only while less than this waits to be sent, bytes. Worst case: this, one pb and
/// one append's answers for each connection; it counts in the shard's budget.
pub const SEND_BUFFER_BYTES: usize = 256 << 10;

/// The same while the shard's budget is used up.
pub const SEND_BUFFER_BYTES_UNDER_PRESSURE: usize = 4 << 10;

/// An append batch is closed when it holds this many bytes; one ProduceRequest may take it past by its own size.
pub const APPEND_BATCH_BYTES: usize = 256 << 10;

/// Batches and refusals of a produce operation that are not spoken for: then no more is read. Each costs about 100 bytes
/// beside the batch, so this times that for each connection; one ProduceRequest with keys may take it past by a batch for
/// each partition.
pub const FATES_MAX: usize = 1024;

/// Bytes that one fetch asks for. A batch that begins below the limit comes whole; batches are shared, not copied.
pub const FETCH_BYTES: usize = 512 << 10;

/// Batches that an inbox holds. Each is what one shard had for another in one turn.
pub const INBOX_BATCHES: usize = 1024;

/// Batches taken from the inbox between two connections.
pub const INBOX_BATCHES_PER_LOOK: usize = 64;

/// How long a driver works without letting the reactor look at the sockets. A pass costs 7 µs.
pub const REACTOR_PASS_EVERY_US: u64 = 200;

/// Queues that one shard is home of. Each costs about 300 bytes there and in the caches of the others; a partition of it that
/// holds messages, or that a consumer waits for, about 500 bytes more at its owner.
pub const QUEUES_PER_SHARD_MAX: usize = 100_000;

/// Connections waiting in the listening socket (`listen(2)`; the kernel caps it at `net.core.somaxconn`).
pub const LISTEN_BACKLOG: i32 = 4096;

const _: () = {
    assert!(RECEIVE_BYTES_PER_TURN >= RECEIVE_BUFFER_BYTES);
    assert!(RECEIVE_BUFFER_BYTES > RECEIVE_BYTES_UNDER_PRESSURE);
    assert!(FOOTHOLD_BYTES < LARGE_PB_BYTES && LARGE_PB_BYTES <= RECEIVE_BUFFER_BYTES);
    assert!(SEND_BUFFER_BYTES > SEND_BUFFER_BYTES_UNDER_PRESSURE);
    assert!(PONG_BYTES_MAX >= CONTROL_PAYLOAD_BYTES_MAX + 14);
    // Version, queue, incarnation and one ten-byte varint for each partition, in base64.
    assert!((1 + 8 + 8 + 1 + PARTITIONS_MAX as usize * 10).div_ceil(3) * 4 <= MARKER_CHARS_MAX);
};

//! What bounds an operation: sizes, lifetimes, windows and batches.

use std::time::Duration;

use crate::base::limits::INITIAL_CREDIT;
use crate::base::setting::{GIB, LONGEST_MS, SHORTEST_MS, settings};
use crate::pb::PbLimits;

settings! {
    /// What every operation obeys.
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Messages:
        /// Largest payload; larger ones get 413, their neighbours are stored
        max_payload_bytes: usize = 1 << 20, "max_payload_bytes", Bytes(1..=GIB);
        // With it, a payload of `max_payload_bytes` still fits a Kafka record of 64 KiB more.
        /// Largest key; likewise
        max_key_bytes: usize = 32 << 10, "max_key_bytes", Bytes(1..=GIB);
        /// Largest protobuf message; larger ones end the operation with 413
        max_pb_bytes: usize = 8 << 20, "max_pb_bytes", Bytes(65..=2 * GIB);
        /// What a client may go on sending after its operation has failed; beyond: closed with 1008
        discard_limit_bytes: u64 = 16 << 20, "discard_limit_bytes", Bytes(0..=i64::MAX as u64);
        /// Shortest time to live of a message, seconds; shorter: 400
        ttl_min_secs: u32 = 60, "ttl_min", Count(0..=u32::MAX as u64);
        /// Longest time to live, seconds; longer: 400
        ttl_max_secs: u32 = 1_209_600, "ttl_max", Count(0..=u32::MAX as u64);

        in Times:
        /// How long a protobuf message that was begun may take; beyond: the operation ends with 408
        pb_timeout: Duration = Duration::from_secs(30), "pb_timeout", Duration(SHORTEST_MS..=LONGEST_MS);

        in Flow:
        /// Messages that a produce operation may have outstanding; sent beyond its credit: 429
        produce_window: u32 = 65_536, "produce_window", Count(INITIAL_CREDIT as u64..=u32::MAX as u64);
        /// Bytes that a produce operation may have outstanding; beyond, it is not read
        produce_window_bytes: usize = 16 << 20, "produce_window_bytes", Bytes(1..=GIB);
        /// Batches and refusals that a produce operation may have outstanding; beyond, it is not read
        produce_batches: usize = 1024, "produce_batches", Count(1..=1 << 20);
        /// The same while the budget is used up; each connection may hold so many beyond it
        produce_batches_pressed: usize = 64, "produce_batches_pressed", Count(1..=1 << 20);
        /// An append batch is closed when it holds so many bytes
        append_batch_bytes: usize = 256 << 10, "append_batch_bytes", Bytes(1..=GIB);
        /// Messages in a ConsumeResponse
        consume_batch_messages: usize = 1_000, "consume_batch_messages", Count(1..=1_000_000);
        /// Bytes in a ConsumeResponse, where it is not a single message
        consume_batch_bytes: usize = 256 << 10, "consume_batch_bytes", Bytes(1..=GIB);
        /// How long messages wait for others to share their ConsumeResponse
        consume_linger: Duration = Duration::ZERO, "consume_linger", Duration(0..=LONGEST_MS);
        /// How long an owed marker waits for a message to come with
        marker_wait: Duration = Duration::from_millis(100), "marker_wait", Duration(0..=LONGEST_MS);
        /// What one fetch asks a partition for
        fetch_bytes: usize = 512 << 10, "fetch_bytes", Bytes(1..=GIB);

        in Memory:
        // A length is a claim, and thousands of connections can make it at once.
        /// What is kept of a cut protobuf message before memory is reserved for it; each connection may hold so much
        /// beyond the budget
        foothold_bytes: usize = 1 << 10, "foothold_bytes", Bytes(1..=GIB);
        // Clients that send large pbs slowly hold up no client that sends small ones.
        /// Cut protobuf messages longer than this share a half of the budget, shorter ones an eighth
        large_pb_bytes: usize = 64 << 10, "large_pb_bytes", Bytes(1..=GIB);
        /// A connection encodes more only while less than this waits to be sent
        send_buffer_bytes: usize = 256 << 10, "send_buffer_bytes", Bytes(1..=GIB);
        /// The same while the budget is used up; each connection may hold so much beyond it
        send_buffer_bytes_pressed: usize = 4 << 10, "send_buffer_bytes_pressed", Bytes(1..=GIB);

        in Tests:
        /// Let clients plant faults: panics of connections and shards, and stalls
        test_faults: bool = false, "test_faults", Flag;
    }
}

impl Settings {
    /// The shortest and the longest time to live of a message, seconds.
    pub fn ttl_secs(&self) -> (u32, u32) {
        (self.ttl_min_secs, self.ttl_max_secs)
    }

    /// How long a pb may be, and what it gets before it is whole.
    pub fn pb_limits(&self) -> PbLimits {
        PbLimits {
            max_bytes: self.max_pb_bytes,
            foothold_bytes: self.foothold_bytes,
            large_bytes: self.large_pb_bytes,
        }
    }

    /// The largest batch that a store is given, bytes.
    pub fn largest_batch(&self) -> usize {
        self.max_pb_bytes + 2 * self.append_batch_bytes
    }
}

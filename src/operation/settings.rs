//! The limits of an operation: sizes, lifetimes, windows and batches.

use std::path::PathBuf;
use std::time::Duration;

use crate::access::SigningKey;
use crate::base::limits::INITIAL_CREDIT;
use crate::base::setting::{GIB, LONGEST_MS, SHORTEST_MS, settings};
use crate::pb::PbLimits;

settings! {
    /// The limits that apply to every operation.
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Messages, AtStart:
        /// Largest payload; larger ones get 413, the other messages of the request are stored
        max_payload_bytes: usize = 1 << 20, "max_payload_bytes", Bytes(1..=GIB);
        // A payload of `max_payload_bytes`, a key of this size and headers fit a Kafka record, see
        // `KAFKA_RECORD_OVERHEAD_BYTES`.
        /// Largest key; messages with larger ones get 413, the other messages of the request are stored
        max_key_bytes: usize = 32 << 10, "max_key_bytes", Bytes(1..=GIB);
        /// Largest headers of a message, in encoded form; messages with larger ones get 413, the other messages of the
        /// request are stored
        max_headers_bytes: usize = 32 << 10, "max_headers_bytes", Bytes(1..=GIB);
        /// Largest protobuf message; larger ones end the operation with 413
        max_pb_bytes: usize = 8 << 20, "max_pb_bytes", Bytes(65..=2 * GIB);
        /// Largest request of a client of the Zaqar API (/v2); beyond: closed with 1009
        zaqar_max_request_bytes: usize = 1 << 20, "zaqar_max_request_bytes", Bytes(1024..=GIB);
        /// Bytes that a client may still send after its operation has failed; beyond: closed with 1008
        discard_limit_bytes: u64 = 16 << 20, "discard_limit_bytes", Bytes(0..=i64::MAX as u64);
        /// Shortest time to live of a message, seconds; shorter: 400
        ttl_min_secs: u32 = 60, "ttl_min", Count(0..=u32::MAX as u64);
        /// Longest time to live, seconds; longer: 400
        ttl_max_secs: u32 = 1_209_600, "ttl_max", Count(0..=u32::MAX as u64);
        /// Longest delay of a message, seconds; longer: 400
        delay_max_secs: u32 = 900, "delay_max", Count(0..=1_209_600);
        /// Shortest time to live of a claim, seconds; shorter: 400
        claim_ttl_min_secs: u32 = 1, "claim_ttl_min", Count(1..=86_400);
        /// Longest time to live of a claim, and longest delay of a release, seconds; longer: 400
        claim_ttl_max_secs: u32 = 43_200, "claim_ttl_max", Count(1..=86_400);

        in Auth, OnReload:
        /// File with the key of pre-signed requests to the Zaqar API (/v2), at least 16 bytes, for clients without a token;
        /// empty: none is accepted
        zaqar_signing_key_file: Option<PathBuf> = None, "zaqar_signing_key_file", Text;

        in Times, OnReload:
        /// How long a protobuf message may take to arrive, once it has begun; beyond: the operation ends with
        /// 408
        pb_timeout: Duration = Duration::from_secs(30), "pb_timeout", Duration(SHORTEST_MS..=LONGEST_MS);

        in Flow, AtStart:
        /// Messages that a produce operation may have outstanding; messages sent beyond its credit: 429
        produce_window: u32 = 65_536, "produce_window", Count(INITIAL_CREDIT as u64..=u32::MAX as u64);
        /// Bytes that a produce operation may have outstanding; beyond, its socket is not read
        produce_window_bytes: usize = 16 << 20, "produce_window_bytes", Bytes(1..=GIB);
        /// Target for the time from reading a message to storing it; the server grants producers credit accordingly, and
        /// so divides fairly what the store can commit; 0: only produce_window bounds a producer
        produce_target_delay: Duration = Duration::from_millis(5), "produce_target_delay", Duration(0..=10_000);
        /// Batches and refusals that a produce operation may have outstanding; beyond, its socket is not read
        produce_batches: usize = 1024, "produce_batches", Count(1..=1 << 20);
        /// As produce_batches, while the budget is exhausted; each connection may hold this many beyond the
        /// budget
        produce_batches_pressed: usize = 64, "produce_batches_pressed", Count(1..=1 << 20);
        /// Size at which an append batch is closed
        append_batch_bytes: usize = 256 << 10, "append_batch_bytes", Bytes(1..=GIB);
        /// Most messages in a ConsumeResponse
        consume_batch_messages: usize = 1_000, "consume_batch_messages", Count(1..=1_000_000);
        /// Most bytes in a ConsumeResponse, unless it is a single message
        consume_batch_bytes: usize = 256 << 10, "consume_batch_bytes", Bytes(1..=GIB);
        /// How long messages wait for more messages to share their ConsumeResponse
        consume_linger: Duration = Duration::ZERO, "consume_linger", Duration(0..=LONGEST_MS);
        /// How long an owed marker waits for a message to travel with
        marker_wait: Duration = Duration::from_millis(100), "marker_wait", Duration(0..=LONGEST_MS);
        /// Bytes that one fetch reads from a partition, rounded up to whole batches
        fetch_bytes: usize = 512 << 10, "fetch_bytes", Bytes(1..=GIB);
        /// Most messages that an operation may have claimed and not settled, and most messages whose claims are over and
        /// that it remembers; each takes at most 256 bytes, in claims of 100 messages at most 4
        claim_window: u32 = 65_536, "claim_window", Count(1..=1 << 24);

        in Memory, AtStart:
        // A client only claims the length of a message, and thousands of connections can claim at once.
        /// Bytes of an incomplete protobuf message to keep before memory is reserved for it; each connection
        /// may hold this much beyond the budget
        foothold_bytes: usize = 1 << 10, "foothold_bytes", Bytes(1..=GIB);
        // Clients that send large messages slowly must not hold up clients that send small ones.
        /// Incomplete protobuf messages longer than this share half of the budget, shorter ones an eighth
        large_pb_bytes: usize = 64 << 10, "large_pb_bytes", Bytes(1..=GIB);
        /// A connection encodes more only while fewer bytes than this wait to be sent
        send_buffer_bytes: usize = 256 << 10, "send_buffer_bytes", Bytes(1..=GIB);
        /// As send_buffer_bytes, while the budget is exhausted; each connection may hold this much beyond the
        /// budget
        send_buffer_bytes_pressed: usize = 4 << 10, "send_buffer_bytes_pressed", Bytes(1..=GIB);

        in Tests, AtStart:
        /// Let clients cause faults for tests: panics of connections and shards, and stalls
        test_faults: bool = false, "test_faults", Flag;
    } with {
        /// The key of pre-signed requests, read from its file.
        signing_key: Option<SigningKey>,
    }
}

impl Settings {
    /// Returns the shortest and the longest TTL of a message, in seconds.
    pub fn ttl_secs(&self) -> (u32, u32) {
        (self.ttl_min_secs, self.ttl_max_secs)
    }

    /// Returns the shortest and the longest TTL of a claim, in seconds.
    pub fn claim_ttl_secs(&self) -> (u32, u32) {
        (self.claim_ttl_min_secs, self.claim_ttl_max_secs)
    }

    /// Returns the limits of protobuf messages: their length, and their memory until they are complete.
    pub fn pb_limits(&self) -> PbLimits {
        PbLimits {
            max_bytes: self.max_pb_bytes,
            foothold_bytes: self.foothold_bytes,
            large_bytes: self.large_pb_bytes,
        }
    }

    /// Returns the size of the largest batch that a store gets, in bytes.
    pub fn largest_batch(&self) -> usize {
        self.max_pb_bytes + 2 * self.append_batch_bytes
    }
}

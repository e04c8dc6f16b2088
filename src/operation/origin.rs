//! Where the messages of a response come from, and when: their latency ends when the socket takes them.

use crate::base::batch::StoredBatch;

/// Where messages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A producer's, acknowledged.
    Produced {
        /// When their bytes were read, [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
        read_ns: u64,
        /// When the connection's shard knew that they are stored.
        known_ns: u64,
    },
    /// For a consumer.
    Stored {
        /// See [`StoredBatch::stored_ns`].
        stored_ns: u64,
        /// When they were stored, Unix milliseconds.
        timestamp_ms: u64,
        /// The consumer had everything before them.
        is_live: bool,
    },
}

impl Origin {
    /// Messages of a stored batch.
    pub fn of(stored: &StoredBatch, is_live: bool) -> Self {
        Self::Stored { stored_ns: stored.stored_ns, timestamp_ms: stored.timestamp_ms, is_live }
    }
}

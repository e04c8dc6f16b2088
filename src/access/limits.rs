//! What one project may have and do.

use crate::base::setting::{GIB, settings};

settings! {
    /// What one project may have and do in the whole server; 0 is no limit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ProjectLimits {
        in Clients:
        /// Connections; beyond: 429 in place of the handshake
        connections: u64 = 0, "project_max_connections", Count(0..=i64::MAX as u64);
        /// Operations open at once; beyond: 429 at setup
        operations: u64 = 0, "project_max_operations", Count(0..=i64::MAX as u64);
        /// Queues; beyond, no more are created: 429 at setup; with Kafka those count that were opened since the start
        queues: u64 = 0, "project_max_queues", Count(0..=i64::MAX as u64);
        /// Bytes of stored messages that have not expired, as /queues counts them; beyond: 429 for the messages; not with
        /// Kafka, which has quotas of its own
        storage_bytes: u64 = 0, "project_storage_bytes", Bytes(0..=1024 * 1024 * GIB);
        /// Messages produced a second; beyond: less credit, then 429 for those that were sent without
        messages_per_sec: u64 = 0, "project_messages_per_sec", Count(0..=1_000_000_000);
        /// Bytes of ProduceRequests a second; likewise
        bytes_per_sec: u64 = 0, "project_bytes_per_sec", Bytes(0..=1024 * GIB);
    }
}

//! The limits of one project.

use crate::base::setting::{GIB, settings};

settings! {
    /// The limits of one project in the whole server; 0 means no limit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ProjectLimits {
        in Clients:
        /// Most open connections of a project; further ones get 429 instead of a handshake
        connections: u64 = 0, "project_max_connections", Count(0..=i64::MAX as u64);
        /// Most open operations of a project; further ones get 429 at setup
        operations: u64 = 0, "project_max_operations", Count(0..=i64::MAX as u64);
        /// Most queues of a project; creating more gets 429 at setup; with Kafka, only queues opened since
        /// the start count
        queues: u64 = 0, "project_max_queues", Count(0..=i64::MAX as u64);
        /// Most bytes of stored, unexpired messages of a project, as /queues counts them; further messages
        /// get 429; not allowed with Kafka, which has its own quotas
        storage_bytes: u64 = 0, "project_storage_bytes", Bytes(0..=1024 * 1024 * GIB);
        /// Most messages that a project may produce per second; beyond, it gets less credit, and messages
        /// sent without credit get 429
        messages_per_sec: u64 = 0, "project_messages_per_sec", Count(0..=1_000_000_000);
        /// Most bytes of ProduceRequests that a project may send per second; enforced in the same way
        bytes_per_sec: u64 = 0, "project_bytes_per_sec", Bytes(0..=1024 * GIB);
    }
}

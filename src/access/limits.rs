//! The limits of one project.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::limits::INITIAL_CREDIT;
use crate::base::setting::{GIB, settings};

settings! {
    /// The limits of one project in the whole server; 0 means no limit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ProjectLimits {
        in Clients, OnReload:
        /// Most open connections of a project; further ones get 429 instead of a handshake
        connections: u64 = 0, "project_max_connections", Count(0..=i64::MAX as u64);
        /// Most open operations of a project; further ones get 429 at setup
        operations: u64 = 0, "project_max_operations", Count(0..=i64::MAX as u64);
        /// Most queues of a project; creating more gets 429 at setup; with Kafka, only queues opened since
        /// the start count
        queues: u64 = 0, "project_max_queues", Count(0..=i64::MAX as u64);
        /// Most bytes of stored, unexpired messages of a project, as /queues counts them; further messages
        /// get 429; a change from 0 needs a restart; not allowed with Kafka, which has its own quotas
        storage_bytes: u64 = 0, "project_storage_bytes", Bytes(0..=1024 * 1024 * GIB);
        /// Most messages that a project may produce per second; beyond, it gets less credit, and messages
        /// sent without credit get 429
        messages_per_sec: u64 = 0, "project_messages_per_sec", Count(0..=1_000_000_000);
        /// Most bytes of ProduceRequests that a project may send per second; enforced in the same way
        bytes_per_sec: u64 = 0, "project_bytes_per_sec", Bytes(0..=1024 * GIB);
    }
}

/// A rate in units per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) per_sec: u64,
    /// The units that may be used at once.
    pub(super) burst: u64,
}

/// The limits of every project, which a reload changes while the shards read them.
///
/// Each is read by itself: between two of them a shard may see the old value of one and the new value of the
/// other.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// The numbers of connections, operations and queues; 0 means no limit.
    pub(super) connections: AtomicU64,
    pub(super) operations: AtomicU64,
    pub(super) queues: AtomicU64,
    storage_bytes: AtomicU64,
    messages_per_sec: AtomicU64,
    bytes_per_sec: AtomicU64,
}

impl Limits {
    pub(super) fn new(limits: &ProjectLimits) -> Self {
        let new = Self::default();
        new.set(limits);
        new
    }

    pub(super) fn set(&self, limits: &ProjectLimits) {
        let ProjectLimits { connections, operations, queues, storage_bytes, messages_per_sec, bytes_per_sec } =
            *limits;
        self.connections.store(connections, Ordering::Relaxed);
        self.operations.store(operations, Ordering::Relaxed);
        self.queues.store(queues, Ordering::Relaxed);
        self.storage_bytes.store(storage_bytes, Ordering::Relaxed);
        self.messages_per_sec.store(messages_per_sec, Ordering::Relaxed);
        self.bytes_per_sec.store(bytes_per_sec, Ordering::Relaxed);
    }

    /// Returns the limit of storage in bytes; `u64::MAX` if there is none.
    pub(super) fn storage_bytes(&self) -> u64 {
        match self.storage_bytes.load(Ordering::Relaxed) {
            0 => u64::MAX,
            limit => limit,
        }
    }

    #[inline]
    pub(super) fn has_rates(&self) -> bool {
        self.messages_per_sec.load(Ordering::Relaxed) > 0 || self.bytes_per_sec.load(Ordering::Relaxed) > 0
    }

    /// Returns the limit of messages. A burst must hold the initial credit, which every producer may send
    /// without asking.
    pub(super) fn messages(&self) -> Option<Rate> {
        let per_sec = self.messages_per_sec.load(Ordering::Relaxed);
        (per_sec > 0).then(|| Rate { per_sec, burst: per_sec.max(INITIAL_CREDIT as u64) })
    }

    /// Returns the limit of bytes.
    pub(super) fn bytes(&self) -> Option<Rate> {
        let per_sec = self.bytes_per_sec.load(Ordering::Relaxed);
        (per_sec > 0).then_some(Rate { per_sec, burst: per_sec })
    }
}

//! What is known about the topics of a server's queues.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::layout::Layout;
use crate::base::error::StoreFault;
use crate::base::limits::PARTITIONS_MAX;
use crate::base::queue::QueueId;
use crate::base::units::Partition;
use crate::store::Life;

/// What every shard can know about the topic of a queue.
#[derive(Debug)]
pub(super) struct TopicInfo {
    pub name: Arc<CString>,
    /// The TTL of records that do not state one, in seconds.
    pub default_ttl_secs: u32,
    /// Whether other programs know that default, too, so that a record with this TTL need not state it.
    pub is_default_known: bool,
    pub layout: Layout,
    /// Whether it was created while this server opened it: then brokers may not know it yet.
    pub is_young: bool,
    /// The largest record that is served, key and value, in bytes.
    pub served_bytes: usize,
    /// The partitions in which a larger record was passed over, one bit for each.
    pub passed_over: AtomicU64,
    pub life: Life,
}

const _: () = assert!(PARTITIONS_MAX as u32 <= u64::BITS, "`passed_over` has a bit for each partition");

impl TopicInfo {
    /// Marks a partition as having a record passed over. Returns true the first time.
    pub(super) fn is_first_passed_over(&self, partition: Partition) -> bool {
        debug_assert!(partition.0 < PARTITIONS_MAX, "partition {partition}");
        let bit = 1 << (u32::from(partition.0) % u64::BITS);
        self.passed_over.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

/// The topics of a server's queues, shared by its shards.
#[derive(Debug, Default)]
pub(super) struct Topics {
    infos: Mutex<HashMap<QueueId, Arc<TopicInfo>>>,
    /// Whether the warning about brokers without topic ids was logged.
    warned_without_ids: AtomicBool,
}

impl Topics {
    /// Warns, once for the server, that the brokers give topics no ids.
    pub(super) fn warn_without_ids(&self, topic: &CStr) {
        if !self.warned_without_ids.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                topic = %topic.to_string_lossy(),
                "the brokers give topics no ids (before Kafka 2.8, or with an older inter.broker.protocol.version): a topic that is \
                 deleted and recreated cannot be told from the old one, so message ids may be given out twice and consumers continue \
                 at their old positions; upgrade the brokers, or never recreate a topic under an old name"
            );
        }
    }

    #[cfg(test)]
    pub(super) fn has_warned_without_ids(&self) -> bool {
        self.warned_without_ids.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, queue: QueueId) -> Option<Arc<TopicInfo>> {
        self.infos.lock().unwrap_or_else(PoisonError::into_inner).get(&queue).cloned()
    }

    pub(super) fn remove(&self, queue: QueueId) {
        self.infos.lock().unwrap_or_else(PoisonError::into_inner).remove(&queue);
    }

    pub(super) fn insert(&self, queue: QueueId, info: TopicInfo) -> Arc<TopicInfo> {
        let info = Arc::new(info);
        self.infos.lock().unwrap_or_else(PoisonError::into_inner).insert(queue, info.clone());
        info
    }
}

/// The topics that one shard has looked up in [`Topics`]. Looking them up again takes no lock.
#[derive(Debug)]
pub(super) struct KnownTopics {
    topics: Arc<Topics>,
    infos: HashMap<QueueId, Arc<TopicInfo>>,
}

impl KnownTopics {
    pub(super) fn new(topics: Arc<Topics>) -> Self {
        Self { topics, infos: HashMap::new() }
    }

    /// Returns the topic of a queue, or `None` once it is forgotten.
    pub(super) fn get(&mut self, queue: QueueId) -> Option<&Arc<TopicInfo>> {
        match self.infos.entry(queue) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(vacant) => Some(vacant.insert(self.topics.get(queue)?)),
        }
    }

    /// Forgets a queue that the server no longer serves.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.infos.remove(&queue);
        self.topics.remove(queue);
    }
}

/// Returns the fault for requests to a queue that this server has forgotten.
pub(super) fn forgotten() -> StoreFault {
    StoreFault::Unavailable("the queue's topic is not known")
}

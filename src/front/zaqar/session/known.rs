//! The queues that a connection uses, so that a request needs no search for its queue. A queue that was
//! deleted is forgotten. A request that was on its way then is answered with [`StoreFault::Deleted`](crate::base::error::StoreFault::Deleted).

use crate::base::names::{FullName, Project, QueueName};
use crate::base::queue::{QueueId, QueueInfo};

/// The most queues that a connection remembers.
const KNOWN_MAX: usize = 8;

/// A queue that a connection uses.
#[derive(Clone, Debug)]
pub(super) struct KnownQueue {
    /// Its project and name.
    pub(super) name: FullName,
    /// The queue.
    pub(super) info: QueueInfo,
}

/// The queues that a connection has used last.
#[derive(Debug, Default)]
pub(super) struct KnownQueues(Vec<KnownQueue>);

impl KnownQueues {
    /// Returns a queue, if it is known.
    pub(super) fn get(&mut self, project: &Project, name: &QueueName) -> Option<KnownQueue> {
        let index = self.0.iter().position(|known| known.name.1 == *name && known.name.0 == *project)?;
        if self.0.get(index)?.info.policy.has_ended() {
            self.0.remove(index);
            return None;
        }
        if index > 0 {
            self.0[..=index].rotate_right(1);
        }
        let known = self.0.first_mut()?;
        known.info.partitions = known.info.partitions.max(known.info.policy.grown_to());
        Some(known.clone())
    }

    /// Remembers a queue.
    pub(super) fn add(&mut self, queue: KnownQueue) {
        self.0.retain(|known| known.name != queue.name);
        self.0.truncate(KNOWN_MAX - 1);
        self.0.insert(0, queue);
    }

    /// Returns a queue by its id, if it is known.
    pub(super) fn by_id(&self, queue: QueueId) -> Option<&KnownQueue> {
        self.0.iter().find(|known| known.info.id == queue)
    }

    /// Forgets a queue that was deleted.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.0.retain(|known| known.info.id != queue);
    }
}

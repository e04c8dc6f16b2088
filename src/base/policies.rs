//! The policies of all queues, by their ids in this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::names::FullName;
use super::policy::{LivePolicy, Policy};
use super::queue::QueueId;

/// The policies of the queues that exist, by their ids in this process. All shards share them. Locked when a queue is
/// created or deleted, or a shard first uses a partition of it.
#[derive(Debug, Default)]
pub struct Policies {
    of: Mutex<HashMap<QueueId, (FullName, Arc<LivePolicy>)>>,
    /// The number of queues with limits that were added since the start.
    added: AtomicU64,
}

impl Policies {
    /// Adds a queue. Returns its policy.
    pub fn add(&self, queue: QueueId, name: FullName, policy: Policy) -> Arc<LivePolicy> {
        let live = Arc::new(LivePolicy::new(policy));
        self.lock().insert(queue, (name, live.clone()));
        if live.is_limited() {
            self.added.fetch_add(1, Ordering::Release);
        }
        live
    }

    /// Removes a queue that was deleted.
    pub fn remove(&self, queue: QueueId) {
        if let Some((_, policy)) = self.lock().remove(&queue) {
            policy.end();
        }
    }

    /// Returns the name and the policy of a queue.
    pub fn get(&self, queue: QueueId) -> Option<(FullName, Arc<LivePolicy>)> {
        self.lock().get(&queue).cloned()
    }

    /// Returns the number of queues with limits that were added since the start.
    #[inline]
    pub fn added(&self) -> u64 {
        self.added.load(Ordering::Acquire)
    }

    /// Returns the queues with limits now. Looks at every queue.
    pub fn limited(&self) -> HashMap<QueueId, Arc<LivePolicy>> {
        let of = self.lock();
        let limited = of.iter().filter(|(_, (_, policy))| policy.is_limited());
        limited.map(|(queue, (_, policy))| (*queue, policy.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueId, (FullName, Arc<LivePolicy>)>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::names::{Project, QueueName};

    #[test]
    fn a_change_reaches_those_who_share_the_policy() {
        let policies = Policies::default();
        let queue = QueueId::new(0, 1);
        let name = (Project::parse("p").unwrap(), QueueName::parse("q").unwrap());
        let live = policies.add(queue, name.clone(), Policy { ttl_secs: Some(60), ..Policy::default() });
        let (of, other) = policies.get(queue).unwrap();
        assert_eq!((of, other.ttl_secs(), other.is_limited()), (name, Some(60), false));
        live.set(Policy { payload_max: Some(7), bytes_max: Some(100), ..Policy::default() });
        assert_eq!((other.ttl_secs(), other.payload_max(), other.is_limited()), (None, Some(7), true));
        assert_eq!(other.get().bytes_max, Some(100));
        policies.remove(queue);
        assert!(policies.get(queue).is_none());
    }
}

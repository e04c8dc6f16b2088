//! What the attributes of a queue ask of the server, and what the queue holds. All shards share it, so that a change
//! reaches open operations at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::names::{FullName, QueueName};
use super::queue::QueueId;

/// What is done with messages that would exceed a limit of their queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// They are refused.
    #[default]
    Refuse,
    /// They are stored, and the oldest messages are deleted.
    DropOldest,
}

/// What the attributes of a queue ask of the server. `None` means that the attribute is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The TTL of a message that names none, in seconds.
    pub ttl_secs: Option<u32>,
    /// The delay of a message that names none, in seconds.
    pub delay_secs: Option<u32>,
    /// The largest payload, in bytes.
    pub payload_max: Option<usize>,
    /// How often a message is given out at most. Has an effect only with `dead_queue`.
    pub claims_max: Option<u32>,
    /// The queue that messages go to that cannot be processed. It belongs to the same project.
    pub dead_queue: Option<QueueName>,
    /// The TTL of a message there, in seconds, from the time of the move.
    pub dead_ttl_secs: Option<u32>,
    /// The most bytes of messages, as [`Held`] counts them.
    pub bytes_max: Option<u64>,
    /// The most messages.
    pub messages_max: Option<u64>,
    /// What is done with messages beyond these limits.
    pub when_full: WhenFull,
}

/// The number that stands for an absent attribute.
const ABSENT: u64 = u64::MAX;

/// The policy of a queue, and what the queue holds over all shards. Reading a number is one relaxed load.
#[derive(Debug)]
pub struct LivePolicy {
    ttl_secs: AtomicU64,
    delay_secs: AtomicU64,
    payload_max: AtomicU64,
    bytes_max: AtomicU64,
    messages_max: AtomicU64,
    whole: RwLock<Arc<Policy>>,
    bytes: AtomicU64,
    messages: AtomicU64,
}

impl Default for LivePolicy {
    fn default() -> Self {
        Self::new(Policy::default())
    }
}

impl LivePolicy {
    /// Creates the policy of a queue that holds nothing.
    pub fn new(policy: Policy) -> Self {
        let absent = || AtomicU64::new(ABSENT);
        let live = Self {
            ttl_secs: absent(),
            delay_secs: absent(),
            payload_max: absent(),
            bytes_max: absent(),
            messages_max: absent(),
            whole: RwLock::default(),
            bytes: AtomicU64::new(0),
            messages: AtomicU64::new(0),
        };
        live.set(policy);
        live
    }

    /// Replaces the policy.
    pub fn set(&self, policy: Policy) {
        let set = |to: &AtomicU64, value: Option<u64>| to.store(value.unwrap_or(ABSENT), Ordering::Relaxed);
        set(&self.ttl_secs, policy.ttl_secs.map(u64::from));
        set(&self.delay_secs, policy.delay_secs.map(u64::from));
        set(&self.payload_max, policy.payload_max.map(|bytes| bytes as u64));
        set(&self.bytes_max, policy.bytes_max);
        set(&self.messages_max, policy.messages_max);
        *self.whole.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Returns the whole policy. Takes a lock.
    pub fn get(&self) -> Arc<Policy> {
        self.whole.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the TTL of a message that names none, in seconds.
    #[inline]
    pub fn ttl_secs(&self) -> Option<u32> {
        number(&self.ttl_secs).and_then(|secs| u32::try_from(secs).ok())
    }

    /// Returns the delay of a message that names none, in seconds.
    #[inline]
    pub fn delay_secs(&self) -> Option<u32> {
        number(&self.delay_secs).and_then(|secs| u32::try_from(secs).ok())
    }

    /// Returns the largest payload, in bytes.
    #[inline]
    pub fn payload_max(&self) -> Option<usize> {
        number(&self.payload_max).and_then(|bytes| usize::try_from(bytes).ok())
    }

    /// Returns whether what the queue holds is limited.
    #[inline]
    pub fn is_limited(&self) -> bool {
        number(&self.bytes_max).or(number(&self.messages_max)).is_some()
    }

    /// Returns by how much the queue is beyond its limits if it gets `more` besides: the larger one of the shares of
    /// messages and bytes counts. Both are 0 if it is within them.
    pub fn excess(&self, more: Held) -> Held {
        let beyond = |held: &AtomicU64, more: u64, max: &AtomicU64| {
            let max = number(max).unwrap_or(u64::MAX);
            held.load(Ordering::Relaxed).saturating_add(more).saturating_sub(max)
        };
        Held {
            messages: beyond(&self.messages, more.messages, &self.messages_max),
            bytes: beyond(&self.bytes, more.bytes, &self.bytes_max),
        }
    }

    /// Returns what the queue holds, as far as it is counted.
    pub fn held(&self) -> Held {
        Held { messages: self.messages.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

fn number(of: &AtomicU64) -> Option<u64> {
    Some(of.load(Ordering::Relaxed)).filter(|number| *number != ABSENT)
}

/// Messages that a queue holds: neither deleted nor expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The number of messages.
    pub messages: u64,
    /// Their size in stored form, in bytes.
    pub bytes: u64,
}

/// What one partition, or one operation with messages on their way, adds to what its queue holds. Dropping it takes
/// that back.
#[derive(Debug)]
pub struct HeldShare {
    policy: Arc<LivePolicy>,
    held: Held,
}

impl HeldShare {
    /// Creates an empty share.
    pub fn new(policy: Arc<LivePolicy>) -> Self {
        Self { policy, held: Held::default() }
    }

    /// Returns the policy of the queue.
    pub fn policy(&self) -> &Arc<LivePolicy> {
        &self.policy
    }

    /// Sets what it adds.
    pub fn set(&mut self, held: Held) {
        // All shards share the counters, so do not touch them if nothing changes.
        let change = |counter: &AtomicU64, from: u64, to: u64| {
            if to > from {
                counter.fetch_add(to - from, Ordering::Relaxed);
            } else if to < from {
                counter.fetch_sub(from - to, Ordering::Relaxed);
            }
        };
        change(&self.policy.messages, self.held.messages, held.messages);
        change(&self.policy.bytes, self.held.bytes, held.bytes);
        self.held = held;
    }

    /// Returns what it adds.
    pub fn held(&self) -> Held {
        self.held
    }
}

impl Drop for HeldShare {
    fn drop(&mut self) {
        self.set(Held::default());
    }
}

/// The policies of the queues that exist, by their ids in this process. All shards share them. Locked when a queue is
/// created or deleted, or a shard first uses a partition of it.
#[derive(Debug, Default)]
pub struct Policies {
    of: Mutex<HashMap<QueueId, (FullName, Arc<LivePolicy>)>>,
    /// The number of queues that were added since the start.
    added: AtomicU64,
}

impl Policies {
    /// Adds a queue. Returns its policy.
    pub fn add(&self, queue: QueueId, name: FullName, policy: Policy) -> Arc<LivePolicy> {
        let live = Arc::new(LivePolicy::new(policy));
        self.lock().insert(queue, (name, live.clone()));
        self.added.fetch_add(1, Ordering::Release);
        live
    }

    /// Removes a queue that was deleted.
    pub fn remove(&self, queue: QueueId) {
        self.lock().remove(&queue);
    }

    /// Returns the name and the policy of a queue.
    pub fn get(&self, queue: QueueId) -> Option<(FullName, Arc<LivePolicy>)> {
        self.lock().get(&queue).cloned()
    }

    /// Returns the number of queues that were added since the start.
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

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<QueueId, (FullName, Arc<LivePolicy>)>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::names::Project;

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

    #[test]
    fn shares_add_up_and_go_with_their_holders() {
        let limits = Policy { messages_max: Some(10), bytes_max: Some(100), ..Policy::default() };
        let policy = Arc::new(LivePolicy::new(limits));
        let mut one = HeldShare::new(policy.clone());
        let mut other = HeldShare::new(policy.clone());
        one.set(Held { messages: 6, bytes: 30 });
        other.set(Held { messages: 4, bytes: 90 });
        assert_eq!(policy.held(), Held { messages: 10, bytes: 120 });
        assert_eq!(policy.excess(Held { messages: 1, bytes: 0 }), Held { messages: 1, bytes: 20 });
        other.set(Held { messages: 1, bytes: 1 });
        drop(one);
        assert_eq!(policy.held(), Held { messages: 1, bytes: 1 });
        assert_eq!(policy.excess(Held::default()), Held::default());
    }
}

//! What the attributes of a queue ask of the server, what the queue holds, and how many partitions it has got. All shards
//! share it, so that a change reaches open operations at once.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::names::QueueName;

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

/// What a policy asks of producers, a bit for each: to fill in times, to bound payloads, and to refuse messages.
const TIMES: u8 = 1;
const PAYLOADS: u8 = 1 << 1;
const REFUSALS: u8 = 1 << 2;

/// The policy of a queue, and what the queue holds over all shards. Reading a number is one relaxed load.
#[derive(Debug)]
pub struct LivePolicy {
    /// [`TIMES`], [`PAYLOADS`] and [`REFUSALS`].
    asks: AtomicU8,
    ttl_secs: AtomicU64,
    delay_secs: AtomicU64,
    payload_max: AtomicU64,
    bytes_max: AtomicU64,
    messages_max: AtomicU64,
    whole: RwLock<Arc<Policy>>,
    partitions: AtomicU16,
    has_ended: AtomicBool,
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
            asks: AtomicU8::new(0),
            ttl_secs: absent(),
            delay_secs: absent(),
            payload_max: absent(),
            bytes_max: absent(),
            messages_max: absent(),
            whole: RwLock::default(),
            partitions: AtomicU16::new(0),
            has_ended: AtomicBool::new(false),
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
        let has_limit = policy.bytes_max.is_some() || policy.messages_max.is_some();
        let asks = [
            (TIMES, policy.ttl_secs.is_some() || policy.delay_secs.is_some()),
            (PAYLOADS, policy.payload_max.is_some()),
            (REFUSALS, has_limit && policy.when_full == WhenFull::Refuse),
        ];
        let asks = asks.iter().filter(|(_, is_set)| *is_set).fold(0, |all, (bit, _)| all | bit);
        self.asks.store(asks, Ordering::Relaxed);
        *self.whole.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Returns the whole policy. Takes a lock.
    pub fn get(&self) -> Arc<Policy> {
        self.whole.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether producers need not look at it.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.asks.load(Ordering::Relaxed) == 0
    }

    /// Returns whether messages beyond the limits are refused.
    pub fn refuses(&self) -> bool {
        self.asks.load(Ordering::Relaxed) & REFUSALS != 0
    }

    /// Notes that the queue was deleted.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    /// Returns whether the queue was deleted. Another one may have its name.
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Returns the number of partitions that the queue has got since it was opened; 0 if it has got none.
    #[inline]
    pub fn grown_to(&self) -> u16 {
        self.partitions.load(Ordering::Relaxed)
    }

    /// Notes that the queue has this many partitions.
    pub fn grow(&self, partitions: u16) {
        self.partitions.fetch_max(partitions, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_look_only_at_what_asks_something_of_them() {
        let live = LivePolicy::default();
        assert!(live.is_plain());
        for (policy, is_plain, refuses) in [
            (Policy { claims_max: Some(3), dead_ttl_secs: Some(60), ..Policy::default() }, true, false),
            (Policy { ttl_secs: Some(60), ..Policy::default() }, false, false),
            (Policy { delay_secs: Some(0), ..Policy::default() }, false, false),
            (Policy { payload_max: Some(1), ..Policy::default() }, false, false),
            (Policy { bytes_max: Some(1), ..Policy::default() }, false, true),
            (
                Policy { messages_max: Some(1), when_full: WhenFull::DropOldest, ..Policy::default() },
                true,
                false,
            ),
            (Policy::default(), true, false),
        ] {
            live.set(policy.clone());
            assert_eq!((live.is_plain(), live.refuses()), (is_plain, refuses), "{policy:?}");
        }
        live.grow(9);
        live.grow(8);
        assert_eq!(live.grown_to(), 9);
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

//! The partitions of which a client has stored an append. Until then a partition gets one append at a time, and the first
//! record alone if its topic is young. After a failure it begins anew, beside what is on its way.
//!
//! A broker that does not know a new partition yet refuses the first request. If it learns of the partition before the
//! second one arrives, it takes that as the producer's first, whatever its sequence number is, and then takes the first one,
//! which librdkafka sends again, for a duplicate (KAFKA-15591). Once it has stored a record, it refuses such gaps.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::base::queue::{PartitionKey, QueueId};

/// What an append may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// All or a part. [`Starts::begin`] follows if anything was taken.
    First,
    /// Nothing. The append is kept until [`Starts::end`].
    Later,
    /// All.
    Any,
}

/// A partition whose first append is on its way.
#[derive(Debug)]
struct First {
    /// The appends that wait for its reports, in order. It is one of them if it has a rest.
    waiting: VecDeque<usize>,
    /// Whether the queue was forgotten meanwhile.
    is_forgotten: bool,
}

/// The partitions to which a client has sent appends. These are slots of the producer.
#[derive(Debug, Default)]
pub(super) struct Starts {
    stored: HashSet<PartitionKey>,
    firsts: HashMap<PartitionKey, First>,
}

impl Starts {
    /// Returns what an append to a partition may send.
    pub(super) fn turn(&mut self, partition: PartitionKey, slot: usize) -> Turn {
        if self.stored.contains(&partition) {
            return Turn::Any;
        }
        match self.firsts.get_mut(&partition) {
            Some(first) => {
                first.waiting.push_back(slot);
                Turn::Later
            }
            None => Turn::First,
        }
    }

    /// Handles that the first append of a partition is on its way. `rest` is its slot if it has to send more.
    pub(super) fn begin(&mut self, partition: PartitionKey, rest: Option<usize>) {
        let first = First { waiting: rest.into_iter().collect(), is_forgotten: false };
        let before = self.firsts.insert(partition, first);
        debug_assert!(before.is_none(), "{partition:?} has one first append");
    }

    /// Handles that everything that was on its way is reported; [`Self::doubt`] follows if it failed. Returns the appends that
    /// waited, in order.
    pub(super) fn end(&mut self, partition: PartitionKey) -> VecDeque<usize> {
        let Some(First { waiting, is_forgotten }) = self.firsts.remove(&partition) else {
            return VecDeque::new();
        };
        if !is_forgotten {
            self.stored.insert(partition);
        }
        waiting
    }

    /// Handles that an append failed: nothing may be stored yet, or the partition was made anew.
    pub(super) fn doubt(&mut self, partition: PartitionKey) {
        self.stored.remove(&partition);
    }

    /// Removes waiting appends, and returns them.
    pub(super) fn take(&mut self, mut is_meant: impl FnMut(usize) -> bool) -> Vec<usize> {
        let mut taken = Vec::new();
        for first in self.firsts.values_mut() {
            first.waiting.retain(|slot| {
                let is_taken = is_meant(*slot);
                taken.extend(is_taken.then_some(*slot));
                !is_taken
            });
        }
        taken
    }

    /// Returns whether appends may wait.
    pub(super) fn is_waiting(&self) -> bool {
        !self.firsts.is_empty()
    }

    /// Forgets a queue. Appends that wait go on waiting.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.stored.retain(|partition| partition.queue != queue);
        for (_, first) in self.firsts.iter_mut().filter(|(partition, _)| partition.queue == queue) {
            first.is_forgotten = true;
        }
    }
}

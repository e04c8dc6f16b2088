//! The partitions of which a client has stored a record. Until then a partition gets one record at a time.
//!
//! A broker that does not know a new partition yet refuses the first request. If it learns of the partition before the
//! second one arrives, it takes that as the producer's first, whatever its sequence number is, and then takes the first one,
//! which librdkafka sends again, for a duplicate (KAFKA-15591). Once it has stored a record, it refuses such gaps.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use crate::base::queue::{PartitionKey, QueueId};

/// What a client has got of a partition.
#[derive(Debug)]
enum Start {
    /// The first record is on its way, and these appends wait for its report, in order.
    First(VecDeque<usize>),
    /// A record is stored.
    Stored,
}

/// What an append may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// One record: [`Starts::begin`] follows if it was taken.
    First,
    /// Nothing. The append is kept until [`Starts::end`].
    Later,
    /// All.
    All,
}

/// The partitions to which a client has sent records. Appends are the slots of the producer.
#[derive(Debug, Default)]
pub(super) struct Starts {
    of: HashMap<PartitionKey, Start>,
    /// The number of partitions whose first record is on its way.
    firsts: usize,
}

impl Starts {
    /// Returns what an append to a partition may send.
    #[inline]
    pub(super) fn turn(&mut self, partition: PartitionKey, slot: usize) -> Turn {
        match self.of.get_mut(&partition) {
            Some(Start::Stored) => Turn::All,
            Some(Start::First(waiting)) => {
                waiting.push_back(slot);
                Turn::Later
            }
            None => Turn::First,
        }
    }

    /// Handles that the first record of a partition is on its way. Its append waits for the report as well.
    pub(super) fn begin(&mut self, partition: PartitionKey, slot: usize) {
        debug_assert!(!self.of.contains_key(&partition), "{partition:?} has one first record");
        self.of.insert(partition, Start::First(VecDeque::from([slot])));
        self.firsts += 1;
    }

    /// Handles the report of the first record. Returns the appends that waited, in order.
    pub(super) fn end(&mut self, partition: PartitionKey, is_stored: bool) -> VecDeque<usize> {
        let Entry::Occupied(mut start) = self.of.entry(partition) else { return VecDeque::new() };
        let Start::First(waiting) = start.get_mut() else { return VecDeque::new() };
        let waiting = std::mem::take(waiting);
        self.firsts -= 1;
        if is_stored {
            start.insert(Start::Stored);
        } else {
            start.remove();
        }
        waiting
    }

    /// Removes waiting appends, and returns them.
    pub(super) fn take(&mut self, mut is_meant: impl FnMut(usize) -> bool) -> Vec<usize> {
        let mut taken = Vec::new();
        for start in self.of.values_mut() {
            if let Start::First(waiting) = start {
                waiting.retain(|slot| {
                    let is_kept = !is_meant(*slot);
                    if !is_kept {
                        taken.push(*slot);
                    }
                    is_kept
                });
            }
        }
        taken
    }

    /// Returns whether appends wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.firsts > 0
    }

    /// Forgets a queue. Appends that wait go on waiting.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.of.retain(|partition, start| partition.queue != queue || matches!(start, Start::First(_)));
    }
}

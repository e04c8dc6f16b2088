//! The move that a ledger has under way: what it waits for, and what is known of its target.

use std::ops::Range;
use std::sync::Arc;

use super::record::Aim;
use crate::base::batch::{Batch, Fetched};
use crate::base::millis::Millis;
use crate::base::names::{FullName, QueueName};
use crate::base::policy::LivePolicy;
use crate::base::queue::QueueInfo;
use crate::base::units::{Offset, Partition};
use crate::store::errand::ErrandId;

/// What a move waits for.
#[derive(Debug)]
pub(super) enum Step {
    /// Its messages are being read.
    Reading,
    /// The queue is being opened for the messages that were read.
    Opening(ErrandId, QueueName, Fetched),
    /// The end of the target is being looked for.
    Ending(ErrandId, Group),
    /// The aim is being noted, in this note.
    Noting(u64, Group),
    /// The copies are being appended.
    Appending(ErrandId, Group),
    /// The queue of an earlier aim is being opened.
    SearchOpening(ErrandId, Aim),
    /// Copies are being looked for.
    Searching(ErrandId, QueueInfo, Partition, Vec<Range<Offset>>),
}

/// Copies that go to one partition together.
#[derive(Debug)]
pub(super) struct Group {
    pub to: QueueInfo,
    pub name: QueueName,
    pub partition: Partition,
    pub batch: Batch,
    /// The messages.
    pub offsets: Vec<Range<Offset>>,
}

/// The moves of a ledger.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// The number of the move that is under way, and what it waits for.
    pub running: Option<(u64, Step)>,
    /// Whether all copies that this ledger has appended are settled.
    pub is_sure: bool,
    /// A partition of a life of a queue, and where it ended.
    pub known_end: Option<(u64, Partition, Offset)>,
    /// The number of failures in succession, and when to try again.
    pub failures: u32,
    pub due: Millis,
    /// The queue, once it is known.
    pub queue: Option<(FullName, Arc<LivePolicy>)>,
}

impl Moves {
    /// Forgets what is under way. Its copies may be stored or not.
    pub(super) fn reset(&mut self) {
        (self.running, self.is_sure) = (None, false);
    }

    /// Returns when to try again after a failure.
    pub(super) fn next_try(&self) -> Option<Millis> {
        (self.failures > 0 && self.running.is_none()).then_some(self.due)
    }

    pub(super) fn is_waiting_for(&self, id: ErrandId) -> bool {
        match &self.running {
            Some((_, step)) => match step {
                Step::Opening(of, ..)
                | Step::Ending(of, _)
                | Step::Appending(of, _)
                | Step::SearchOpening(of, _)
                | Step::Searching(of, ..) => *of == id,
                Step::Reading | Step::Noting(..) => false,
            },
            None => false,
        }
    }
}

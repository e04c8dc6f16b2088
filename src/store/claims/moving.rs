//! The move that a ledger has under way: what it waits for, and what is known of its target.

use std::collections::{BTreeMap, BTreeSet};
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
    /// An append that was under way when the ledger was dropped: its move, and the messages.
    pub late: Option<(ErrandId, u64, Vec<Range<Offset>>)>,
    /// Messages whose copies are durable, until it is durable that they are settled here.
    pub copied: Vec<Copied>,
    /// The moves of which it is known which copies exist. All others with an aim must look for them.
    pub sure: BTreeSet<u64>,
    /// Whether nothing is left to look for from an earlier run.
    pub is_certain: bool,
    /// A partition of a life of a queue, and where it ended.
    pub known_end: Option<(u64, Partition, Offset)>,
    /// The moves that have failed.
    pub pauses: BTreeMap<u64, Pause>,
    /// The queue, once it is known.
    pub queue: Option<(FullName, Arc<LivePolicy>)>,
}

/// Messages whose copies are durable.
#[derive(Debug)]
pub(super) struct Copied {
    /// The move.
    pub number: u64,
    pub offsets: Vec<Range<Offset>>,
    /// The note that settles them; `None` if there is none yet.
    pub note: Option<u64>,
    pub is_counted: bool,
}

/// The wait of a move that has failed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pause {
    /// The number of failures in succession, and when to try again.
    pub failures: u32,
    pub due: Millis,
}

impl Moves {
    /// Forgets what is under way, because the ledger is dropped. What is known of copies outlives that: a search could
    /// miss those that are being appended, and those that were acknowledged.
    pub(super) fn reset(&mut self) {
        if let Some((number, Step::Appending(id, group))) = self.running.take() {
            self.late = Some((id, number, group.offsets));
        }
        self.copied.iter_mut().for_each(|copied| copied.note = None);
    }

    /// Returns when to try again after a failure.
    pub(super) fn next_try(&self) -> Option<Millis> {
        let dues = self.pauses.values().map(|pause| pause.due);
        dues.min().filter(|_| self.running.is_none() && self.late.is_none())
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

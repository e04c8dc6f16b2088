//! Writes batches, and refuses them while nothing can be written.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::format::PartitionId;
use super::journal::{Active, Journal, JournalEntry, Written, stored_bytes_max};
use super::load::QUIET_AFTER;
use super::partitions::Partitions;
use super::reason::{DISK_IS_FULL, TOO_LARGE, cannot_write};
use super::segment::Segment;
use crate::base::batch::Batch;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::store::{Asker, Completion, Fence, Stream};

/// A segment that ends early because a round failed.
#[derive(Debug)]
struct Cut {
    segment: Arc<Segment>,
    index: Vec<u8>,
    /// Whether its index is being written.
    is_saving: bool,
}

/// The writer of a shard's messages.
#[derive(Debug)]
pub(super) struct Writer<T: Asker> {
    shard: u16,
    /// Whether a round is durable before it is acknowledged.
    is_synced: bool,
    /// The size of the largest batch that fits into a segment, in bytes.
    batch_bytes_max: u64,
    journal: Journal<T>,
    /// The streams in which an append was refused.
    fence: Fence,
    /// The reason that nothing can be stored, if so.
    trouble: Option<&'static str>,
    /// The segment of a round that failed. Nothing is stored until its index says where it ends; `trouble`
    /// has the reason.
    cut: Option<Cut>,
    /// The number of messages that were refused.
    refused: u64,
    /// The incarnations whose waiting entries are dropped before the next round begins.
    forgotten: Vec<u64>,
    /// When the last round began or ended.
    last_round: Option<Millis>,
}

impl<T: Asker> Writer<T> {
    /// Creates the writer of a shard whose segments have `segment_bytes` each.
    pub(super) fn new(shard: u16, segment_bytes: u64, is_synced: bool) -> Self {
        Self {
            shard,
            is_synced,
            batch_bytes_max: stored_bytes_max(segment_bytes),
            journal: Journal::new(),
            fence: Fence::default(),
            trouble: None,
            cut: None,
            refused: 0,
            forgotten: Vec::new(),
            last_round: None,
        }
    }

    /// Returns the segment that is being written.
    #[inline]
    pub(super) fn active(&self) -> Option<&Active> {
        self.journal.active()
    }

    /// Returns the rounds and the entries that wait for them.
    pub(super) fn journal(&mut self) -> &mut Journal<T> {
        &mut self.journal
    }

    pub(super) fn is_synced(&self) -> bool {
        self.is_synced
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Accepts a batch for writing, or refuses it immediately.
    #[inline]
    pub(super) fn append(
        &mut self,
        now: Now,
        token: T::Append,
        stream: Stream,
        id: PartitionId,
        batch: Batch,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        let fault = if self.fence.is_closed(stream) {
            StoreFault::Fenced
        } else if let Some(why) = self.trouble {
            StoreFault::Unavailable(why)
        } else if batch.stored_bytes() as u64 > self.batch_bytes_max {
            StoreFault::Unavailable(TOO_LARGE)
        } else {
            return self.journal.push(JournalEntry::Append { token, stream, id, batch });
        };
        completions.push_back(self.refuse(now, token, stream, id, &batch, fault));
    }

    fn refuse(
        &mut self,
        now: Now,
        token: T::Append,
        stream: Stream,
        id: PartitionId,
        batch: &Batch,
        fault: StoreFault,
    ) -> Completion<T> {
        self.fence.close(now, stream);
        if id.1.of_state().is_none() {
            self.refused += u64::from(batch.count());
        }
        Completion::Appended { token, result: Err(fault) }
    }

    /// Accepts a mark of where a partition ends.
    pub(super) fn mark(&mut self, id: PartitionId) {
        self.journal.push(JournalEntry::Mark { id });
    }

    /// Drops the waiting entries of a queue whose life has ended before the next round begins.
    pub(super) fn forget(&mut self, incarnation: u64) {
        if self.journal.has_pending() {
            self.forgotten.push(incarnation);
        }
    }

    /// Drops the waiting entries of ended lives. Returns false if no life has ended. Must not be called
    /// during a round, because a partition's appends complete in order.
    #[inline]
    pub(super) fn drop_forgotten(&mut self, completions: &mut VecDeque<Completion<T>>) -> bool {
        debug_assert!(!self.journal.is_writing(), "the round's appends are answered first");
        let is_any = !self.forgotten.is_empty();
        for incarnation in self.forgotten.drain(..) {
            for entry in self.journal.take_pending(incarnation) {
                if let JournalEntry::Append { token, .. } = entry {
                    let result = Err(StoreFault::Deleted);
                    completions.push_back(Completion::Appended { token, result });
                }
            }
        }
        is_any
    }

    /// Refuses everything that waits to be written, because nothing can be stored until a retry succeeds.
    pub(super) fn fail(
        &mut self,
        now: Now,
        what: &str,
        error: &io::Error,
        partitions: &mut Partitions<T>,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        let why = cannot_write(error);
        if self.trouble.is_none() {
            tracing::error!(shard = self.shard, told = why, what, %error, "messages are refused until a retry succeeds");
        }
        for entry in self.journal.take_all() {
            partitions.handle_refused(&entry);
            if let JournalEntry::Append { token, stream, id, batch } = entry {
                let fault = StoreFault::Unavailable(why);
                completions.push_back(self.refuse(now, token, stream, id, &batch, fault));
            }
        }
        self.trouble = Some(why);
    }

    /// Accepts messages again after a failure.
    pub(super) fn recover(&mut self) {
        debug_assert!(self.cut.is_none(), "the end of the failed segment is not durable yet");
        if self.trouble.take().is_some() {
            tracing::info!(shard = self.shard, "messages are stored again");
        }
    }

    /// Returns whether nothing can be stored now.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    pub(super) fn is_disk_full(&self) -> bool {
        self.trouble == Some(DISK_IS_FULL)
    }

    /// Returns whether the segment cannot be sealed or continued now: a round is being written, or the last
    /// one failed.
    pub(super) fn is_busy(&self) -> bool {
        self.journal.is_writing() || self.trouble.is_some() || self.cut.is_some()
    }

    /// Returns whether a round can begin.
    #[inline]
    pub(super) fn wants_round(&self) -> bool {
        self.journal.has_pending() && !self.journal.is_writing() && self.cut.is_none()
    }

    /// Records that a round begins or ends.
    #[inline]
    pub(super) fn note_round(&mut self, now: Now) {
        self.last_round = Some(now.mono);
    }

    /// Returns whether no round is being written or about to be, and none began or ended in the last
    /// [`QUIET_AFTER`].
    #[inline]
    pub(super) fn is_quiet(&self, now: Now) -> bool {
        !self.journal.is_writing()
            && !self.journal.has_pending()
            && self.last_round.is_none_or(|last| last + QUIET_AFTER <= now.mono)
    }

    /// Ends the round, which is now as durable as the settings ask for. Returns its entries.
    #[inline]
    pub(super) fn handle_stored(&mut self) -> Vec<Written<T>> {
        self.journal.handle_stored()
    }

    /// Records that a round failed, so that `segment` ends before it. Its index is being written.
    pub(super) fn cut(&mut self, segment: Arc<Segment>, index: Vec<u8>) {
        debug_assert!(self.trouble.is_some() && self.cut.is_none(), "a round fails once");
        self.cut = Some(Cut { segment, index, is_saving: true });
    }

    /// Returns whether the end of a segment with a failed round is not durable yet.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Returns the segment with the failed round and its index, if the index must be written again.
    pub(super) fn next_save(&mut self) -> Option<(Arc<Segment>, Vec<u8>)> {
        let cut = self.cut.as_mut().filter(|cut| !cut.is_saving)?;
        cut.is_saving = true;
        Some((cut.segment.clone(), cut.index.clone()))
    }

    /// Handles that an index was written, or could not be. Returns whether its segment is the one with the
    /// failed round.
    pub(super) fn handle_saved(&mut self, number: u64) -> bool {
        let cut = self.cut.as_mut().filter(|cut| cut.segment.number == number);
        cut.map(|cut| cut.is_saving = false).is_some()
    }

    /// Records that the end of the segment with the failed round is durable.
    pub(super) fn end_cut(&mut self) {
        self.cut = None;
    }
}

//! What is written, and what is refused while nothing can be.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::format::PartitionId;
use super::journal::{Active, Journal, JournalEntry, Written, stored_bytes_max};
use super::partitions::Partitions;
use super::reason::{DISK_IS_FULL, TOO_LARGE, cannot_write};
use super::segment::Segment;
use crate::base::batch::Batch;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::store::{Asker, Completion, Fence, Stream};

/// The segment of a round that failed.
#[derive(Debug)]
struct Cut {
    segment: Arc<Segment>,
    index: Vec<u8>,
    /// Its index is being written.
    is_saving: bool,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Writer<T: Asker> {
    shard: u16,
    /// Whether a round is durable before it is acknowledged.
    is_synced: bool,
    /// The largest batch that fits into a segment.
    batch_bytes_max: u64,
    journal: Journal<T>,
    /// Streams of which an append was refused.
    fence: Fence,
    /// Why nothing can be stored now.
    trouble: Option<&'static str>,
    /// The segment of a round that failed. Until its index says where it ends, nothing is stored, and `trouble` says why.
    cut: Option<Cut>,
    /// Messages that were refused.
    refused: u64,
    /// Ended lives of queues. The next round begins without their entries.
    forgotten: Vec<u64>,
}

impl<T: Asker> Writer<T> {
    /// The writer of a shard whose segments have so many bytes.
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
        }
    }

    /// The segment that is written.
    #[inline]
    pub(super) fn active(&self) -> Option<&Active> {
        self.journal.active()
    }

    /// The rounds, and what waits for them.
    pub(super) fn journal(&mut self) -> &mut Journal<T> {
        &mut self.journal
    }

    pub(super) fn is_synced(&self) -> bool {
        self.is_synced
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes a batch to be written, or refuses it at once.
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
        completions.push_back(self.refuse(now, token, stream, &batch, fault));
    }

    fn refuse(
        &mut self,
        now: Now,
        token: T::Append,
        stream: Stream,
        batch: &Batch,
        fault: StoreFault,
    ) -> Completion<T> {
        self.fence.close(now, stream);
        self.refused += u64::from(batch.count());
        Completion::Appended { token, result: Err(fault) }
    }

    /// Takes a mark to be written of where a partition ends.
    pub(super) fn mark(&mut self, id: PartitionId) {
        self.journal.push(JournalEntry::Mark { id });
    }

    /// A life of a queue has ended. Its waiting entries are not written.
    pub(super) fn forget(&mut self, incarnation: u64) {
        if self.journal.has_pending() {
            self.forgotten.push(incarnation);
        }
    }

    /// Drops the waiting entries of ended lives; false if no life has ended. No round may be under way, because a partition's appends
    /// complete in order.
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

    /// Nothing can be stored until it is tried again: refuses all that is to be written.
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
            tracing::error!(shard = self.shard, told = why, what, %error, "nothing can be stored for now");
        }
        for entry in self.journal.take_all() {
            partitions.handle_refused(&entry);
            if let JournalEntry::Append { token, stream, batch, .. } = entry {
                completions.push_back(self.refuse(now, token, stream, &batch, StoreFault::Unavailable(why)));
            }
        }
        self.trouble = Some(why);
    }

    /// Messages can be stored again.
    pub(super) fn recover(&mut self) {
        debug_assert!(self.cut.is_none(), "nobody knows yet where the segment ends");
        if self.trouble.take().is_some() {
            tracing::info!(shard = self.shard, "messages are stored again");
        }
    }

    /// Whether nothing can be stored now.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    pub(super) fn is_disk_full(&self) -> bool {
        self.trouble == Some(DISK_IS_FULL)
    }

    /// Whether the segment cannot be sealed or written on now: a round is under way, or the last one failed.
    pub(super) fn is_busy(&self) -> bool {
        self.journal.is_writing() || self.trouble.is_some() || self.cut.is_some()
    }

    /// Whether a round can begin.
    #[inline]
    pub(super) fn wants_round(&self) -> bool {
        self.journal.has_pending() && !self.journal.is_writing() && self.cut.is_none()
    }

    /// The round is as durable as it is meant to be: what it held.
    #[inline]
    pub(super) fn handle_stored(&mut self) -> Vec<Written<T>> {
        self.journal.handle_stored()
    }

    /// A round failed, and its segment ends before it: its index is being written.
    pub(super) fn cut(&mut self, segment: Arc<Segment>, index: Vec<u8>) {
        debug_assert!(self.trouble.is_some() && self.cut.is_none(), "a round fails once");
        self.cut = Some(Cut { segment, index, is_saving: true });
    }

    /// Whether there is a segment of a round that failed.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// That segment and its index, if the index is to be written again.
    pub(super) fn next_save(&mut self) -> Option<(Arc<Segment>, Vec<u8>)> {
        let cut = self.cut.as_mut().filter(|cut| !cut.is_saving)?;
        cut.is_saving = true;
        Some((cut.segment.clone(), cut.index.clone()))
    }

    /// The index of that segment is written, or is not. True where the segment is that of a round that failed.
    pub(super) fn handle_saved(&mut self, number: u64) -> bool {
        let cut = self.cut.as_mut().filter(|cut| cut.segment.number == number);
        cut.map(|cut| cut.is_saving = false).is_some()
    }

    /// It is durable where the segment of the round that failed ends.
    pub(super) fn end_cut(&mut self) {
        self.cut = None;
    }
}

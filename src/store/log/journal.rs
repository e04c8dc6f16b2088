//! The segment that a shard writes, one round at a time, while the next round fills.

use std::collections::VecDeque;
use std::sync::Arc;

use super::disk::{FileName, NewPlace, Step};
use super::features::Features;
use super::format::{
    BATCH_HEADER, BLOCK, BatchHeader, PartitionId, ROUND_HEADER, ROUNDS_AT, RoundWriter, batch_bytes,
};
use super::header::SegmentHeader;
use super::index::{Spans, add_to};
use crate::base::batch::{Batch, StoredBatch};
use crate::base::millis::UnixMillis;
use crate::base::units::Offset;
use crate::store::{Asker, Stream};

/// The size up to which a round grows, in bytes; its last batch may exceed it. Large enough to hide the cost
/// of a sync, and small enough that the next batches do not wait for long.
pub const ROUND_BYTES: usize = 1 << 20;

const _: () = assert!(ROUNDS_AT.is_multiple_of(BLOCK as u64), "rounds are written in whole blocks");

/// An entry of a round.
#[derive(Clone, Debug)]
pub(super) enum JournalEntry<T: Asker> {
    /// A batch of messages.
    Append { token: T::Append, stream: Stream, id: PartitionId, batch: Batch },
    /// A mark of where a partition ends.
    Mark { id: PartitionId },
}

impl<T: Asker> JournalEntry<T> {
    pub(super) fn id(&self) -> PartitionId {
        match self {
            Self::Append { id, .. } | Self::Mark { id } => *id,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Append { batch, .. } => batch_bytes(batch),
            Self::Mark { .. } => BATCH_HEADER,
        }
    }

    /// Returns what its segment must support.
    fn features(&self) -> Features {
        match self {
            Self::Append { id, batch, .. } => Features::of(id.1, batch),
            Self::Mark { id } => Features::of_partition(id.1),
        }
    }
}

/// An entry as part of a round.
#[derive(Clone, Debug)]
pub(super) struct Written<T: Asker> {
    pub entry: JournalEntry<T>,
    /// Its header, and its position in the segment.
    pub header: BatchHeader,
    pub at: u64,
    /// The batch as it is stored, or `None` for a mark.
    pub stored: Option<StoredBatch>,
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Active {
    pub place: u32,
    pub header: SegmentHeader,
    /// The position of the next round, at most `header.bytes`.
    pub end: u64,
    /// The bytes from the last multiple of a block to `end`. They are written again with the next round.
    last_block: Vec<u8>,
    /// What it holds of each partition.
    pub spans: Spans,
    /// The features of its header that its content uses.
    pub used: Features,
}

impl Active {
    pub(super) fn new(place: NewPlace, header: SegmentHeader) -> Self {
        let (end, last_block, spans) = (ROUNDS_AT, Vec::new(), Spans::new());
        Self { place: place.place, header, end, last_block, spans, used: Features::NONE }
    }

    fn room(&self) -> usize {
        usize::try_from(self.header.bytes - self.end).unwrap_or(usize::MAX).saturating_sub(ROUND_HEADER)
    }
}

/// Returns the size of the largest batch that a segment of `segment_bytes` can hold, in stored form.
pub fn stored_bytes_max(segment_bytes: u64) -> u64 {
    segment_bytes.saturating_sub(ROUNDS_AT + (ROUND_HEADER + BATCH_HEADER) as u64) / BLOCK as u64
        * BLOCK as u64
}

/// The round that is being written.
#[derive(Debug)]
struct Round<T: Asker> {
    written: Vec<Written<T>>,
    /// The position of its end in the segment.
    end: u64,
    last_block: Vec<u8>,
}

/// The segment that a shard writes, and the entries of this round and the next ones.
#[derive(Debug)]
pub(super) struct Journal<T: Asker> {
    /// The segment that is being written.
    active: Option<Active>,
    /// The entries of the next rounds, in order.
    pending: VecDeque<JournalEntry<T>>,
    /// The round that is being written. It belongs to `active`, which is not sealed before the round has
    /// ended.
    round: Option<Round<T>>,
}

impl<T: Asker> Journal<T> {
    pub(super) fn new() -> Self {
        Self { active: None, pending: VecDeque::new(), round: None }
    }

    /// Returns the segment that is being written.
    #[inline]
    pub(super) fn active(&self) -> Option<&Active> {
        self.active.as_ref()
    }

    /// Continues in a new segment.
    pub(super) fn begin(&mut self, segment: Active) {
        debug_assert!(self.active.is_none() && self.round.is_none(), "one segment is written at a time");
        self.active = Some(segment);
    }

    /// Takes the segment that is being written, to seal it.
    pub(super) fn take_active(&mut self) -> Option<Active> {
        debug_assert!(self.round.is_none(), "a round is under way");
        self.active.take()
    }

    /// Adds the next entry.
    #[inline]
    pub(super) fn push(&mut self, entry: JournalEntry<T>) {
        self.pending.push_back(entry);
    }

    /// Returns whether a round is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.round.is_some()
    }

    /// Returns whether entries wait to be written.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes the entries of the round that is being written, and those that wait.
    pub(super) fn take_all(&mut self) -> Vec<JournalEntry<T>> {
        let round = self.round.take().map(|round| round.written).unwrap_or_default();
        round.into_iter().map(|written| written.entry).chain(std::mem::take(&mut self.pending)).collect()
    }

    /// Takes out the waiting entries of a life of a queue.
    pub(super) fn take_pending(&mut self, incarnation: u64) -> Vec<JournalEntry<T>> {
        let all = std::mem::take(&mut self.pending).into_iter();
        let (taken, left): (Vec<_>, Vec<_>) = all.partition(|entry| entry.id().0 == incarnation);
        self.pending = left.into();
        taken
    }

    /// Returns what the segment of the waiting entries must support.
    pub(super) fn pending_features(&self) -> Features {
        self.pending.iter().fold(Features::NONE, |features, entry| features | entry.features())
    }

    /// Returns how many of the waiting entries make up the next round, and the features that they need: 0 if
    /// the segment has no room for the first.
    fn next_count(&self, active: &Active) -> (usize, Features) {
        let (mut bytes, mut features, room) = (0, Features::NONE, active.room());
        let count = self
            .pending
            .iter()
            .take_while(|entry| {
                let goes_on = bytes < ROUND_BYTES && bytes + entry.bytes() <= room;
                bytes += entry.bytes();
                if goes_on {
                    features = features | entry.features();
                }
                goes_on
            })
            .count();
        (count, features)
    }

    /// Makes a round of waiting entries, the batches of a partition next to each other. `place` returns, for
    /// each entry, the batch as it is stored (`None` for a mark), the partition's end and a timestamp.
    /// Returns `None` if the segment has no room, or not the features that they need.
    pub(super) fn next_round(
        &mut self,
        mut place: impl FnMut(&JournalEntry<T>) -> (Option<StoredBatch>, Offset, UnixMillis),
    ) -> Option<(FileName, u64, Vec<u8>)> {
        debug_assert!(self.round.is_none(), "one round is written at a time");
        let (count, features) = self.next_count(self.active.as_ref()?);
        let active = self.active.as_mut()?;
        if count == 0 || !active.header.features.contains(features) {
            return None;
        }
        active.used = active.used | features;
        let mut entries: Vec<JournalEntry<T>> = self.pending.drain(..count).collect();
        entries.sort_by_key(JournalEntry::id);
        let begins = active.end - active.last_block.len() as u64;
        let bytes: usize = entries.iter().map(JournalEntry::bytes).sum();
        let mut buffer =
            Vec::with_capacity((active.last_block.len() + ROUND_HEADER + bytes).next_multiple_of(BLOCK));
        buffer.extend_from_slice(&active.last_block);
        let mut writer = RoundWriter::begin(&mut buffer, active.header.stamp);
        let mut written = Vec::with_capacity(entries.len());
        for entry in entries {
            let (stored, end, timestamp) = place(&entry);
            let (header, at) = match &stored {
                Some(stored) => writer.push(&mut buffer, entry.id(), stored),
                None => writer.push_mark(&mut buffer, entry.id(), end, timestamp),
            };
            written.push(Written { entry, header, at: begins + at as u64, stored });
        }
        writer.end(&mut buffer, active.end);
        let end = begins + buffer.len() as u64;
        let last_block = buffer[buffer.len() / BLOCK * BLOCK..].to_vec();
        buffer.resize(buffer.len().next_multiple_of(BLOCK), 0);
        debug_assert!(begins.is_multiple_of(BLOCK as u64), "{begins} is within a block");
        debug_assert!((active.end..=active.header.bytes).contains(&end), "{end} is not in {active:?}");
        self.round = Some(Round { written, end, last_block });
        Some((FileName::Segment(active.place), begins, buffer))
    }

    /// Ends the round, which is now as durable as the settings ask for. Returns its entries.
    pub(super) fn handle_stored(&mut self) -> Vec<Written<T>> {
        let (Some(round), Some(active)) = (self.round.take(), &mut self.active) else { return Vec::new() };
        active.end = round.end;
        active.last_block = round.last_block;
        for Written { header, at, .. } in &round.written {
            add_to(&mut active.spans, header, *at);
        }
        round.written
    }
}

/// Returns the stamp for a new segment. It is random, so that nothing that a client sends looks like a round.
pub(super) fn new_stamp() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// Returns the steps that write a round.
pub(super) fn round_steps(file: FileName, at: u64, bytes: Vec<u8>, is_synced: bool) -> Vec<Step> {
    let mut steps = vec![Step::Write(file, at, Arc::new(bytes))];
    if is_synced {
        steps.push(Step::Sync(file));
    }
    steps
}

//! The part of a partition from `start` to `end`, in memory.

use std::collections::VecDeque;

use super::cost::cost;
use super::fetch::Fetch;
use super::read::read;
use crate::base::batch::{Fetched, StoredBatch};
use crate::base::clock::Now;
use crate::base::millis::UnixMillis;
use crate::base::units::Offset;

/// Corrects the timestamps of batches that were stored while the clock was ahead: none was stored after
/// `unix`. Timestamps are in order, so this stops at the last batch with a correct timestamp.
pub(super) fn cap(batches: &mut VecDeque<StoredBatch>, unix: UnixMillis) {
    for stored in batches.iter_mut().rev().take_while(|stored| stored.timestamp > unix) {
        stored.timestamp = unix;
    }
}

/// Returns when a message was stored that one of the batches has.
pub(super) fn stored_at(batches: &VecDeque<StoredBatch>, offset: Offset) -> Option<UnixMillis> {
    let index = batches.partition_point(|stored| stored.end_offset() <= offset);
    batches.get(index).filter(|stored| stored.base_offset <= offset).map(|stored| stored.timestamp)
}

/// Batches of a partition, from one offset to another.
#[derive(Debug)]
pub(super) struct Window {
    /// In the order of their offsets. The first ends after `start`, the last at or before `end`.
    batches: VecDeque<StoredBatch>,
    /// Never greater than `end`.
    start: Offset,
    end: Offset,
    /// The memory that all batches cost.
    bytes: usize,
}

impl Window {
    /// Creates an empty window that starts and ends at `at`.
    pub(super) fn new(at: Offset) -> Self {
        Self { batches: VecDeque::new(), start: at, end: at, bytes: 0 }
    }

    /// Appends the next batch. Offsets between the previous end and the batch belong to no message.
    pub(super) fn push(&mut self, stored: StoredBatch) {
        debug_assert!(stored.base_offset >= self.end, "{} is before {}", stored.base_offset, self.end);
        self.end = stored.end_offset();
        self.bytes += cost(&stored.batch);
        self.batches.push_back(stored);
    }

    /// Moves the end to `end`, because no message lies before it.
    pub(super) fn advance(&mut self, end: Offset) {
        self.end = self.end.max(end);
    }

    /// Corrects timestamps: everything in the window was stored at or before `unix`.
    pub(super) fn cap(&mut self, unix: UnixMillis) {
        cap(&mut self.batches, unix);
    }

    /// Returns the memory that the batches cost, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the offset of the first batch that was stored at or after `unix`.
    pub(super) fn first_since(&self, unix: UnixMillis) -> Option<Offset> {
        let index = self.batches.partition_point(|stored| stored.timestamp < unix);
        self.batches.get(index).map(|stored| stored.base_offset)
    }

    /// Returns the offset of the first batch that was stored at or after `unix`, or the end.
    pub(super) fn since(&self, unix: UnixMillis) -> Offset {
        self.first_since(unix).unwrap_or(self.end)
    }

    /// Returns when the oldest batch was stored.
    pub(super) fn oldest(&self) -> Option<UnixMillis> {
        self.batches.front().map(|stored| stored.timestamp)
    }

    /// Returns when a message in the window was stored.
    pub(super) fn stored_at(&self, offset: Offset) -> Option<UnixMillis> {
        stored_at(&self.batches, offset)
    }

    /// Drops the oldest batch.
    pub(super) fn pop_oldest(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.bytes -= cost(&oldest.batch);
            self.start = oldest.end_offset();
            debug_assert!(self.start <= self.end, "{} is behind the end {}", self.start, self.end);
            debug_assert!(!self.batches.is_empty() || self.bytes == 0, "{} bytes of nothing", self.bytes);
        }
    }

    /// Drops the oldest batches until the rest costs at most `bytes_max`.
    pub(super) fn keep(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && !self.batches.is_empty() {
            self.pop_oldest();
        }
    }

    /// Returns whether the window can serve a fetch from this offset, now or with the next messages.
    pub(super) fn covers(&self, from: Offset) -> bool {
        (self.start..=self.end).contains(&from)
    }

    /// Returns its batches.
    pub(super) fn into_batches(self) -> Vec<StoredBatch> {
        self.batches.into()
    }

    pub(super) fn start(&self) -> Offset {
        self.start
    }

    pub(super) fn end(&self) -> Offset {
        self.end
    }

    /// Reads the messages for a fetch.
    pub(super) fn read<T>(&self, now: Now, fetch: &Fetch<T>) -> Fetched {
        read(&self.batches, self.end, now, fetch)
    }
}

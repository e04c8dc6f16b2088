//! A part of a partition in memory, without gaps: from `start` to `end`.

use std::collections::VecDeque;

use super::cost::cost;
use super::read::read;
use crate::base::batch::{Fetched, StoredBatch};
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::ClientId;
use crate::base::units::Offset;

/// A fetch that a shard has asked for.
#[derive(Clone, Debug)]
pub(super) struct Fetch<T> {
    pub token: T,
    pub from: Offset,
    pub bytes_max: usize,
    pub exclude: Option<ClientId>,
    pub wait: bool,
    /// When it came, by the monotonic clock.
    pub since: Millis,
}

/// Corrects the timestamps of batches that were stored while the clock was ahead: all were stored at `unix` at the latest. A batch
/// before one with a correct timestamp is correct, too.
pub(super) fn cap(batches: &mut VecDeque<StoredBatch>, unix: UnixMillis) {
    for stored in batches.iter_mut().rev().take_while(|stored| stored.timestamp > unix) {
        stored.timestamp = unix;
    }
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Window {
    /// In the order of their offsets: the first ends behind `start`, the last at `end` or before it.
    batches: VecDeque<StoredBatch>,
    /// Never beyond `end`.
    start: Offset,
    end: Offset,
    /// The cost of all batches.
    bytes: usize,
}

impl Window {
    /// An empty one.
    pub(super) fn new(at: Offset) -> Self {
        Self { batches: VecDeque::new(), start: at, end: at, bytes: 0 }
    }

    /// What comes next. Offsets between are nobody's.
    pub(super) fn push(&mut self, stored: StoredBatch) {
        debug_assert!(stored.base_offset >= self.end, "{} is before {}", stored.base_offset, self.end);
        self.end = stored.end_offset();
        self.bytes += cost(&stored.batch);
        self.batches.push_back(stored);
    }

    /// There is nothing before that offset.
    pub(super) fn advance(&mut self, end: Offset) {
        self.end = self.end.max(end);
    }

    /// Everything that it holds was stored at that time at the latest, Unix milliseconds.
    pub(super) fn cap(&mut self, unix: UnixMillis) {
        cap(&mut self.batches, unix);
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The offset of the first message that was stored at that time or later, Unix milliseconds.
    pub(super) fn first_since(&self, unix: UnixMillis) -> Option<Offset> {
        let index = self.batches.partition_point(|stored| stored.timestamp < unix);
        self.batches.get(index).map(|stored| stored.base_offset)
    }

    /// The same, or the end.
    pub(super) fn since(&self, unix: UnixMillis) -> Offset {
        self.first_since(unix).unwrap_or(self.end)
    }

    /// When its oldest batch was stored, Unix milliseconds.
    pub(super) fn oldest(&self) -> Option<UnixMillis> {
        self.batches.front().map(|stored| stored.timestamp)
    }

    /// Lets the oldest batch go.
    pub(super) fn pop_oldest(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.bytes -= cost(&oldest.batch);
            self.start = oldest.end_offset();
            debug_assert!(self.start <= self.end, "{} is behind the end {}", self.start, self.end);
            debug_assert!(!self.batches.is_empty() || self.bytes == 0, "{} bytes of nothing", self.bytes);
        }
    }

    /// Lets the oldest go until the rest is at most so much.
    pub(super) fn keep(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && !self.batches.is_empty() {
            self.pop_oldest();
        }
    }

    /// Whether a fetch from there on is served from here, now or with what comes.
    pub(super) fn covers(&self, from: Offset) -> bool {
        (self.start..=self.end).contains(&from)
    }

    pub(super) fn start(&self) -> Offset {
        self.start
    }

    pub(super) fn end(&self) -> Offset {
        self.end
    }

    /// What there is for a fetch.
    pub(super) fn read<T>(&self, now: Now, fetch: &Fetch<T>) -> Fetched {
        read(&self.batches, self.end, now, fetch.from, fetch.bytes_max, fetch.exclude)
    }
}

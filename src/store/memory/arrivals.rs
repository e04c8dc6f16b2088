//! All batches of the memory store in the order of arrival, and a look at all of them in parts.
//!
//! Batches mostly expire in the order of arrival. When one expires before an older one, a look is due. It
//! visits all batches and closes the gaps: the `kept` places at the front are done, those from there to `at`
//! are free, and those from `at` on are not visited yet.

use std::collections::VecDeque;

use crate::base::millis::UnixMillis;
use crate::base::queue::PartitionKey;
use crate::base::units::Offset;

/// A batch: its partition and base offset.
type Arrival = (PartitionKey, Offset);

/// Released batches are not looked for before there are more of them than this.
const RELEASED_MIN: usize = if cfg!(test) { 4 } else { 4096 };

/// The progress of a look at all batches, for those that expire before older ones.
#[derive(Debug)]
struct Sweep {
    at: usize,
    /// Never greater than `at`.
    kept: usize,
    /// The latest expiry of the batches kept, and the earliest expiry of those that expire before an older
    /// one.
    latest: UnixMillis,
    due: UnixMillis,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { at: 0, kept: 0, latest: UnixMillis::ZERO, due: UnixMillis::MAX }
    }
}

/// The batches of the store in the order of arrival.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// The batches in the order of arrival. Some may have been removed from their partitions.
    order: VecDeque<Arrival>,
    sweep: Sweep,
    /// The latest expiry of any batch, or a later time.
    latest_expiry: UnixMillis,
    /// The earliest expiry of the batches that expire before an older one.
    due: UnixMillis,
    /// The number of batches that were released, and not removed here yet.
    released: usize,
    /// The oldest batch when a look was requested because it is pinned.
    pinned: Option<Arrival>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            sweep: Sweep::default(),
            latest_expiry: UnixMillis::ZERO,
            due: UnixMillis::MAX,
            released: 0,
            pinned: None,
        }
    }
}

impl Arrivals {
    /// Adds a batch that expires at `expiry`.
    pub(super) fn push(&mut self, key: PartitionKey, base_offset: Offset, expiry: UnixMillis) {
        self.order.push_back((key, base_offset));
        if expiry < self.latest_expiry {
            self.due = self.due.min(expiry);
        }
        self.latest_expiry = self.latest_expiry.max(expiry);
    }

    /// Returns the number of entries.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Returns the oldest batch, which may have been removed from its partition.
    pub(super) fn oldest(&mut self) -> Option<Arrival> {
        if self.sweep.kept == 0 {
            self.order.drain(..self.sweep.at);
            self.sweep.at = 0;
        }
        self.order.front().copied()
    }

    /// Removes and returns the oldest batch.
    pub(super) fn pop_oldest(&mut self) -> Option<Arrival> {
        let oldest = self.oldest()?;
        self.order.pop_front();
        self.sweep.at = self.sweep.at.saturating_sub(1);
        self.sweep.kept = self.sweep.kept.saturating_sub(1);
        debug_assert!(self.sweep.kept <= self.sweep.at, "{:?}", self.sweep);
        Some(oldest)
    }

    /// Counts batches that were released. They stay here until the next look, which is due once they are the
    /// majority.
    pub(super) fn note_released(&mut self, count: usize) {
        self.released += count;
    }

    /// Requests a look because the oldest batch has expired and is pinned: later ones may have expired, too.
    /// Does so once for each such batch.
    pub(super) fn note_pinned(&mut self, oldest: Arrival) {
        if self.pinned.replace(oldest) != Some(oldest) {
            self.due = UnixMillis::ZERO;
        }
    }

    /// Requests a look because other batches are pinned.
    pub(super) fn note_pins(&mut self) {
        self.pinned = None;
        self.due = UnixMillis::ZERO;
    }

    /// Returns whether all batches must be looked at.
    pub(super) fn is_look_due(&self, unix: UnixMillis) -> bool {
        self.sweep.at > 0 || self.due <= unix || self.released > RELEASED_MIN.max(self.order.len() / 2)
    }

    /// Returns the next batch to look at, or `None` at the end of the look. Batches that are not kept are
    /// removed.
    pub(super) fn look(&mut self) -> Option<Arrival> {
        if self.sweep.at == 0 {
            self.released = 0;
        }
        let next = self.order.get(self.sweep.at).copied();
        if next.is_some() {
            self.sweep.at += 1;
        } else {
            self.order.truncate(self.sweep.kept);
            let Sweep { latest, due, .. } = std::mem::take(&mut self.sweep);
            (self.latest_expiry, self.due) = (latest, due);
        }
        next
    }

    /// Keeps the batch that was returned last, which expires at `expiry`.
    pub(super) fn keep(&mut self, arrival: Arrival, expiry: UnixMillis) {
        debug_assert!(self.sweep.kept < self.sweep.at, "{:?}", self.sweep);
        if expiry < self.sweep.latest {
            self.sweep.due = self.sweep.due.min(expiry);
        }
        self.sweep.latest = self.sweep.latest.max(expiry);
        self.order[self.sweep.kept] = arrival;
        self.sweep.kept += 1;
    }

    /// Requests a new look at all batches, because their order of expiry has changed.
    pub(super) fn begin_anew(&mut self, unix: UnixMillis, latest_expiry: UnixMillis) {
        self.order.drain(self.sweep.kept..self.sweep.at);
        self.sweep = Sweep::default();
        self.due = unix;
        self.latest_expiry = latest_expiry;
    }
}

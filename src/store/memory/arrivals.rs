//! The batches of the whole memory store in the order of arrival, and a look at all of them, a part at a time.
//!
//! Batches mostly expire in the order in which they came. A look is due where one expires before an older one. It goes over all batches and
//! moves up what stays: `kept` places at the front are right, those from there to `at` mean nothing any more, those behind are
//! still to be looked at.

use std::collections::VecDeque;

use crate::base::millis::UnixMillis;
use crate::base::queue::PartitionKey;
use crate::base::units::Offset;

/// A batch: its partition and base offset.
type Arrival = (PartitionKey, Offset);

/// A look at all batches for those that expire before older ones do.
#[derive(Debug)]
struct Sweep {
    at: usize,
    /// At most `at`.
    kept: usize,
    /// The latest expiry of what was kept, and the earliest of what expires before something older.
    latest: UnixMillis,
    due: UnixMillis,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { at: 0, kept: 0, latest: UnixMillis::ZERO, due: UnixMillis::MAX }
    }
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// Each batch in the order of arrival; some of those may be gone.
    order: VecDeque<Arrival>,
    sweep: Sweep,
    /// The latest expiry of any batch, Unix milliseconds.
    latest_expiry: UnixMillis,
    /// The earliest expiry of those that expire before an older one.
    due: UnixMillis,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            sweep: Sweep::default(),
            latest_expiry: UnixMillis::ZERO,
            due: UnixMillis::MAX,
        }
    }
}

impl Arrivals {
    /// A batch has come that expires then.
    pub(super) fn push(&mut self, key: PartitionKey, base_offset: Offset, expiry: UnixMillis) {
        self.order.push_back((key, base_offset));
        if expiry < self.latest_expiry {
            self.due = self.due.min(expiry);
        }
        self.latest_expiry = self.latest_expiry.max(expiry);
    }

    /// The oldest batch, though it may be gone.
    pub(super) fn oldest(&mut self) -> Option<Arrival> {
        if self.sweep.kept == 0 {
            self.order.drain(..self.sweep.at);
            self.sweep.at = 0;
        }
        self.order.front().copied()
    }

    /// Takes the oldest batch out.
    pub(super) fn pop_oldest(&mut self) -> Option<Arrival> {
        let oldest = self.oldest()?;
        self.order.pop_front();
        self.sweep.at = self.sweep.at.saturating_sub(1);
        self.sweep.kept = self.sweep.kept.saturating_sub(1);
        debug_assert!(self.sweep.kept <= self.sweep.at, "{:?}", self.sweep);
        Some(oldest)
    }

    /// Whether all batches are to be looked at.
    pub(super) fn is_look_due(&self, unix: UnixMillis) -> bool {
        self.sweep.at > 0 || self.due <= unix
    }

    /// The next batch to look at; `None` ends the look. What is not kept is gone.
    pub(super) fn look(&mut self) -> Option<Arrival> {
        let next = self.order.get(self.sweep.at).copied();
        if next.is_some() {
            self.sweep.at += 1;
        } else {
            self.order.truncate(self.sweep.kept);
            self.due = std::mem::take(&mut self.sweep).due;
        }
        next
    }

    /// The batch that was looked at last stays, and expires then.
    pub(super) fn keep(&mut self, arrival: Arrival, expiry: UnixMillis) {
        debug_assert!(self.sweep.kept < self.sweep.at, "{:?}", self.sweep);
        if expiry < self.sweep.latest {
            self.sweep.due = self.sweep.due.min(expiry);
        }
        self.sweep.latest = self.sweep.latest.max(expiry);
        self.order[self.sweep.kept] = arrival;
        self.sweep.kept += 1;
    }

    /// Batches expire in another order than before: all are looked at again.
    pub(super) fn begin_anew(&mut self, unix: UnixMillis, latest_expiry: UnixMillis) {
        self.order.drain(self.sweep.kept..self.sweep.at);
        self.sweep = Sweep::default();
        self.due = unix;
        self.latest_expiry = latest_expiry;
    }
}

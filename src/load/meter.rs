//! The measurements of one thread: a latency sample for each message, in intervals of a second.
//!
//! A sample begins when its message should have been sent, and belongs to the interval in which the answer
//! arrived. A completed interval is sent on as whole histograms.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::window::Window;
use crate::latency::histogram;

/// The length of an interval.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// An interval of one thread.
#[derive(Debug)]
pub(super) struct Piece {
    /// The number of the interval, counted from the start of the window.
    pub index: u64,
    /// The number of messages acknowledged, and received, in this interval.
    pub acknowledged: u64,
    pub received: u64,
    /// The samples in this interval whose messages were due within the window.
    pub produce: Histogram<u64>,
    pub end_to_end: Histogram<u64>,
    /// From claiming messages to the confirmation of their acknowledgement.
    pub settle: Histogram<u64>,
}

impl Piece {
    fn new(index: u64) -> Self {
        Self {
            index,
            acknowledged: 0,
            received: 0,
            produce: histogram(),
            end_to_end: histogram(),
            settle: histogram(),
        }
    }

    fn is_empty(&self) -> bool {
        self.acknowledged + self.received == 0
            && self.produce.is_empty()
            && self.end_to_end.is_empty()
            && self.settle.is_empty()
    }
}

/// Measures the messages of one thread.
#[derive(Debug)]
pub(super) struct Meter {
    window: Window,
    present: Piece,
    /// When the current interval ends.
    ends: Instant,
    to: Sender<Piece>,
}

impl Meter {
    /// Creates a meter that measures nothing until [`Self::begin`].
    pub(super) fn new(to: Sender<Piece>) -> Self {
        let window = Window::unset(Instant::now());
        Self { window, present: Piece::new(0), ends: window.from, to }
    }

    /// Sets the window of the run. Each connection of the thread calls this, with the same window.
    pub(super) fn begin(&mut self, window: Window) {
        if self.window.begins != window.begins {
            (self.window, self.ends) = (window, window.from + INTERVAL);
        }
    }

    /// Records that `count` messages were acknowledged at `now`. They should have been sent at `intended`.
    pub(super) fn acknowledged(&mut self, now: Instant, intended: Instant, count: u64) {
        self.at(now);
        if now >= self.window.from {
            self.present.acknowledged += count;
        }
        self.answered(now, intended, count);
    }

    /// Records the latency of `count` messages that were answered at `now`. Refused messages, and those that
    /// will never be answered, count with the time until now.
    pub(super) fn answered(&mut self, now: Instant, intended: Instant, count: u64) {
        self.at(now);
        if self.window.holds(intended) {
            let nanos = now.saturating_duration_since(intended).as_nanos() as u64;
            self.present.produce.saturating_record_n(nanos.max(1), count);
        }
    }

    /// Records that `count` messages were received at `now`.
    pub(super) fn received(&mut self, now: Instant, count: u64) {
        self.at(now);
        if now >= self.window.from {
            self.present.received += count;
        }
    }

    /// Records the latency of one message in the interval of the last [`Self::received`].
    #[inline]
    pub(super) fn end_to_end(&mut self, nanos: u64) {
        self.present.end_to_end.saturating_record(nanos.max(1));
    }

    /// Records that the acknowledgement of `count` messages, which were claimed at `claimed`, was confirmed at `now`.
    pub(super) fn settled(&mut self, now: Instant, claimed: Instant, count: u64) {
        self.at(now);
        let nanos = now.saturating_duration_since(claimed).as_nanos() as u64;
        self.present.settle.saturating_record_n(nanos.max(1), count);
    }

    /// Sends the current interval on, although it may not be complete.
    pub(super) fn flush(&mut self) {
        let next = Piece::new(self.present.index);
        self.send(next);
    }

    fn at(&mut self, now: Instant) {
        if now >= self.ends {
            let index =
                (now.saturating_duration_since(self.window.from).as_nanos() / INTERVAL.as_nanos()) as u64;
            self.ends = self.window.from + INTERVAL * u32::try_from(index + 1).unwrap_or(u32::MAX);
            self.send(Piece::new(index));
        }
    }

    fn send(&mut self, next: Piece) {
        let done = std::mem::replace(&mut self.present, next);
        if !done.is_empty() {
            // Fails if the receiver has ended.
            let _ = self.to.send(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn samples_start_when_due_and_belong_to_the_interval_of_their_answer() {
        let from = Instant::now();
        let at = |ms| from + Duration::from_millis(ms);
        let (to, pieces) = channel();
        let mut meter = Meter::new(to);
        meter.acknowledged(at(100), at(90), 7);
        meter.begin(Window { begins: from, from, until: at(2_000) });
        meter.acknowledged(at(100), at(90), 5);
        // A message due before the window counts for throughput but is no sample. A message due within it and
        // answered after it is a sample.
        meter.acknowledged(at(1_200), from - Duration::from_millis(1), 3);
        meter.acknowledged(at(4_500), at(1_900), 2);
        meter.acknowledged(at(4_600), at(2_000), 1);
        meter.flush();
        let pieces: Vec<Piece> = pieces.try_iter().collect();
        let seen: Vec<_> =
            pieces.iter().map(|piece| (piece.index, piece.acknowledged, piece.produce.len())).collect();
        assert_eq!(seen, [(0, 5, 5), (1, 3, 0), (4, 3, 2)]);
        assert!(pieces[2].produce.equivalent(pieces[2].produce.max(), 2_600_000_000));
    }
}

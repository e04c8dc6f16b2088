//! What one thread of a load measures: a sample for each message, in intervals of a second.
//!
//! A sample counts from when its message should have been sent, and stands in the interval in which its answer came. Intervals that are
//! over go to whoever gathers them, as whole histograms.

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
    /// Counted from the beginning of the window.
    pub index: u64,
    /// Messages in it.
    pub acknowledged: u64,
    pub received: u64,
    /// The samples in it of messages that were due within the window.
    pub produce: Histogram<u64>,
    pub end_to_end: Histogram<u64>,
}

impl Piece {
    fn new(index: u64) -> Self {
        Self { index, acknowledged: 0, received: 0, produce: histogram(), end_to_end: histogram() }
    }

    fn is_empty(&self) -> bool {
        self.acknowledged + self.received == 0 && self.produce.is_empty() && self.end_to_end.is_empty()
    }
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Meter {
    window: Window,
    present: Piece,
    /// When the present interval is over.
    ends: Instant,
    to: Sender<Piece>,
}

impl Meter {
    pub(super) fn new(window: Window, to: Sender<Piece>) -> Self {
        Self { window, present: Piece::new(0), ends: window.from + INTERVAL, to }
    }

    /// `count` messages that should have been sent at `intended` were acknowledged.
    pub(super) fn acknowledged(&mut self, now: Instant, intended: Instant, count: u64) {
        self.at(now);
        if now >= self.window.from {
            self.present.acknowledged += count;
        }
        self.answered(now, intended, count);
    }

    /// They were refused, or will never be answered: they took as long all the same.
    pub(super) fn answered(&mut self, now: Instant, intended: Instant, count: u64) {
        self.at(now);
        if self.window.holds(intended) {
            let nanos = now.saturating_duration_since(intended).as_nanos() as u64;
            self.present.produce.saturating_record_n(nanos.max(1), count);
        }
    }

    /// `count` messages were received at `now`.
    pub(super) fn received(&mut self, now: Instant, count: u64) {
        self.at(now);
        if now >= self.window.from {
            self.present.received += count;
        }
    }

    /// One of them, in the interval of that call, took so long.
    #[inline]
    pub(super) fn end_to_end(&mut self, nanos: u64) {
        self.present.end_to_end.saturating_record(nanos.max(1));
    }

    /// The interval that is open goes the way of those before it.
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
            // Fails where nobody gathers any more.
            let _ = self.to.send(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn samples_stand_in_the_interval_of_their_answer_and_count_from_when_they_were_due() {
        let from = Instant::now();
        let at = |ms| from + Duration::from_millis(ms);
        let (to, pieces) = channel();
        let mut meter = Meter::new(Window { from, until: at(2_000) }, to);
        meter.acknowledged(at(100), at(90), 5);
        // Due before the window: throughput of it, but no sample; due within and answered behind it: a sample.
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

//! A shard's histograms: recorded where things happen, taken away whole, never shared.

use hdrhistogram::Histogram;

use super::Stage;

/// The longest latency that is told apart, nanoseconds: the longest time to live that a message can have (`ttl_max`), so that a
/// message that waits for its consumer all its life counts with the true time.
pub const LATENCY_NS_MAX: u64 = u32::MAX as u64 * 1_000_000_000;

/// Values that are noted before they are counted. Under load the messages themselves push every histogram out of the caches:
/// counting each value at once took 1.5 % of a shard's time.
const NOTES: usize = 512;

/// An empty histogram of nanoseconds or of counts, three significant digits (424 KiB).
#[allow(clippy::expect_used)]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
        .expect("the bounds are constants that HdrHistogram takes")
}

#[derive(Clone, Copy, Debug)]
struct Note {
    value: u64,
    count: u32,
    stage: Stage,
}

/// A histogram for each stage (4.6 MiB). Recording neither locks nor allocates: a shard's own is exchanged for an empty one that the
/// asker brings along.
#[derive(Clone, Debug)]
pub struct Recorder {
    histograms: Box<[Histogram<u64>]>,
    notes: Vec<Note>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            histograms: Stage::ALL.iter().map(|_| histogram()).collect(),
            notes: Vec::with_capacity(NOTES),
        }
    }
}

impl Recorder {
    /// What one occupies at most: 424 KiB for each stage.
    pub const BYTES: usize = Stage::COUNT * (424 << 10) + NOTES * size_of::<Note>();

    /// `count` values.
    #[inline]
    pub fn record(&mut self, stage: Stage, value: u64, count: u32) {
        if self.notes.len() == NOTES {
            self.count();
        }
        self.notes.push(Note { value, count, stage });
    }

    /// Counts what was noted. Whoever has taken a recorder away does this before reading it.
    pub fn count(&mut self) {
        for Note { value, count, stage } in self.notes.drain(..) {
            self.histograms[stage as usize].saturating_record_n(value, count.into());
        }
    }

    /// Of one stage, what is counted.
    pub fn of(&self, stage: Stage) -> &Histogram<u64> {
        debug_assert!(self.notes.is_empty(), "what is read is counted first");
        &self.histograms[stage as usize]
    }

    /// Of each stage, what is counted.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, &Histogram<u64>)> {
        Stage::ALL.into_iter().map(|stage| (stage, self.of(stage)))
    }

    /// Adds all that another has counted: percentiles of the sum, not means of percentiles.
    pub fn add(&mut self, other: &Self) {
        for (stage, histogram) in other.iter().filter(|(_, histogram)| !histogram.is_empty()) {
            // Equal bounds always add.
            let _ = self.histograms[stage as usize].add(histogram);
        }
    }

    /// Forgets everything; keeps the room.
    pub fn clear(&mut self) {
        self.notes.clear();
        self.histograms.iter_mut().filter(|histogram| !histogram.is_empty()).for_each(Histogram::reset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{Summary, decode, encode};

    #[test]
    fn a_message_counts_with_the_true_time_however_long_it_has_waited() {
        let hour = 3_600_000_000_000;
        for waited in [hour - 1, hour + 1, 5 * hour, 14 * 24 * hour, 366 * 24 * hour, LATENCY_NS_MAX] {
            let mut recorder = Recorder::default();
            recorder.record(Stage::DeliverBacklog, waited, 1);
            recorder.count();
            let mut total = Recorder::default();
            total.add(&recorder);
            let counted = total.of(Stage::DeliverBacklog);
            assert!(counted.equivalent(counted.max(), waited), "{waited} counts as {}", counted.max());
            let summary = Summary::of(counted);
            assert!(counted.equivalent(summary.p50, waited), "{waited} counts as {}", summary.p50);
            assert_eq!(decode(&encode(counted)).unwrap().max(), counted.max());
        }
    }

    #[test]
    fn what_is_added_has_the_percentiles_of_all_values() {
        let (mut one, mut other) = (Recorder::default(), Recorder::default());
        for _ in 0..2 * NOTES {
            one.record(Stage::Commit, 1_000, 99);
        }
        one.count();
        other.record(Stage::Commit, 5_000_000, 2 * NOTES as u32);
        other.record(Stage::Parse, u64::MAX, 1);
        other.count();
        one.add(&other);
        assert_eq!(one.of(Stage::Commit).len(), 200 * NOTES as u64);
        assert_eq!(one.of(Stage::Commit).value_at_quantile(0.99), 1_000);
        assert!(one.of(Stage::Commit).max() >= 5_000_000);
        assert!(one.of(Stage::Parse).value_at_quantile(1.0) >= LATENCY_NS_MAX, "longer ones count");
        let bytes: usize = one.iter().map(|(_, histogram)| histogram.distinct_values() * 8).sum();
        assert!(bytes <= Recorder::BYTES, "{bytes}");
        one.clear();
        assert!(one.iter().all(|(_, histogram)| histogram.is_empty()));
    }
}

//! The histograms of a shard: recorded on its thread, handed over as a whole, never shared.

use hdrhistogram::Histogram;

use super::Stage;

/// The longest latency that is distinguished, in nanoseconds. This is the longest possible time to live
/// (`ttl_max`), so even a message that waits for its consumer that long counts with its true time.
pub const LATENCY_NS_MAX: u64 = u32::MAX as u64 * 1_000_000_000;

/// The number of values to note before they are counted. Under load, messages push the histograms out of the
/// CPU caches: counting each value at once took 1.5 % of a shard's time.
const NOTES: usize = 512;

/// Creates an empty histogram of nanoseconds or counts, with three significant digits (424 KiB).
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

/// A histogram for each stage (4.6 MiB). Recording neither locks nor allocates. The collector swaps a shard's
/// recorder for an empty recorder.
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
    /// The largest size of a recorder in bytes: 424 KiB for each stage, and the notes.
    pub const BYTES: usize = Stage::COUNT * (424 << 10) + NOTES * size_of::<Note>();

    /// Records `value` `count` times.
    #[inline]
    pub fn record(&mut self, stage: Stage, value: u64, count: u32) {
        if self.notes.len() == NOTES {
            self.count();
        }
        self.notes.push(Note { value, count, stage });
    }

    /// Counts the noted values. Call it before reading a recorder.
    pub fn count(&mut self) {
        for Note { value, count, stage } in self.notes.drain(..) {
            self.histograms[stage as usize].saturating_record_n(value, count.into());
        }
    }

    /// Returns the histogram of a stage.
    pub fn of(&self, stage: Stage) -> &Histogram<u64> {
        debug_assert!(self.notes.is_empty(), "call `count` before reading");
        &self.histograms[stage as usize]
    }

    /// Returns each stage with its histogram.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, &Histogram<u64>)> {
        Stage::ALL.into_iter().map(|stage| (stage, self.of(stage)))
    }

    /// Adds the counts of another recorder. The percentiles are then those of all values, not means of
    /// percentiles.
    pub fn add(&mut self, other: &Self) {
        for (stage, histogram) in other.iter().filter(|(_, histogram)| !histogram.is_empty()) {
            // Cannot fail: the bounds are equal.
            let _ = self.histograms[stage as usize].add(histogram);
        }
    }

    /// Removes all values and keeps the memory.
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
    fn a_message_counts_with_its_true_latency_however_long_it_waited() {
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
    fn a_sum_has_the_percentiles_of_all_values() {
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

//! A shard's histograms: recorded where things happen, taken away whole, never shared.

use hdrhistogram::Histogram;

use super::Stage;

/// The longest latency that is told apart, nanoseconds: an hour. Longer ones count as this.
pub const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Values that are noted before they are counted. Under load the messages themselves push every histogram out of the caches:
/// counting each value at once took 1.5 % of a shard's time.
const NOTES: usize = 512;

/// An empty histogram of nanoseconds or of counts, three significant digits (264 KiB, of which what is not used is never touched).
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

/// A histogram for each stage (2.9 MiB of address space). Recording neither locks nor allocates: a shard's own is exchanged for an
/// empty one that whoever asks has brought along.
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
    /// What one occupies at most: 264 KiB for each stage.
    pub const BYTES: usize = Stage::COUNT * (264 << 10) + NOTES * size_of::<Note>();

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

    #[test]
    fn what_is_added_has_the_percentiles_of_all_values() {
        let (mut one, mut other) = (Recorder::default(), Recorder::default());
        for _ in 0..2 * NOTES {
            one.record(Stage::Commit, 1_000, 99);
        }
        one.count();
        other.record(Stage::Commit, 5_000_000, 2 * NOTES as u32);
        other.record(Stage::Parse, LATENCY_NS_MAX * 2, 1);
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

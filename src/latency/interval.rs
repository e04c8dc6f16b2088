//! What is kept of an interval to be shown: a few numbers of each stage and shard, and how the latencies were spread.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Recorder, Stage, Summary, Unit};
use crate::shard::core::ShardPulse;

/// Where the heat maps begin, nanoseconds; what is faster counts in the first row.
pub const HEAT_FROM_NS: f64 = 1e3;
/// Rows of a heat map to a tenfold latency.
pub const HEAT_ROWS_A_DECADE: u32 = 8;
/// Rows of a heat map: from 1 µs to 100 s, and what is slower in the last.
pub const HEAT_ROWS: usize = 64;

/// The stages that have heat maps.
const HOT: [Stage; 3] = [Stage::Produce, Stage::Commit, Stage::DeliverLive];

/// See the module's page.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Interval {
    /// From 1; each is one more than the one before.
    pub number: u64,
    /// Its end, Unix milliseconds.
    pub unix_ms: u64,
    /// Its length.
    pub seconds: f64,
    /// Of all shards together; those that have something.
    pub stages: Vec<StageLine>,
    /// How many messages took how long.
    pub heat: Vec<Heat>,
    /// One after the other; those that have answered.
    pub shards: Vec<ShardLine>,
}

/// A stage in an interval.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StageLine {
    /// Its name.
    pub stage: &'static str,
    /// What its values are.
    pub unit: Unit,
    /// Its values.
    #[serde(flatten)]
    pub summary: Summary,
}

/// A row of counts for a heat map: [`HEAT_ROWS`], the fastest first, without the empty ones at the end.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Heat {
    /// Which stage.
    pub stage: &'static str,
    /// Messages.
    pub counts: Vec<u64>,
}

/// A shard in an interval.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ShardLine {
    /// What it said of itself.
    #[serde(flatten)]
    pub pulse: ShardPulse,
    /// From read to acknowledged.
    pub produce: Summary,
    /// From stored to the consumer's socket, live.
    pub deliver_live: Summary,
    /// Turns of its driver.
    pub turn: Summary,
    /// Deliveries in its inbox.
    pub inbox_depth: Summary,
}

impl Interval {
    /// The interval that ends at `unix_ms`: `merged` is the sum of `shards`.
    pub(super) fn new(
        number: u64,
        unix_ms: u64,
        length: Duration,
        merged: &Recorder,
        shards: &[Recorder],
        pulses: &[Option<ShardPulse>],
    ) -> Self {
        let stages = merged.iter().filter(|(_, histogram)| !histogram.is_empty());
        let stages = stages.map(|(stage, histogram)| StageLine {
            stage: stage.name(),
            unit: stage.unit(),
            summary: Summary::of(histogram),
        });
        let heat = HOT.into_iter().filter(|stage| !merged.of(*stage).is_empty());
        let heat = heat.map(|stage| Heat { stage: stage.name(), counts: heat_of(merged.of(stage)) });
        let line = |(recorder, pulse): (&Recorder, &Option<ShardPulse>)| {
            let of = |stage| Summary::of(recorder.of(stage));
            Some(ShardLine {
                pulse: pulse.clone()?,
                produce: of(Stage::Produce),
                deliver_live: of(Stage::DeliverLive),
                turn: of(Stage::Turn),
                inbox_depth: of(Stage::InboxDepth),
            })
        };
        Self {
            number,
            unix_ms,
            seconds: length.as_secs_f64(),
            stages: stages.collect(),
            heat: heat.collect(),
            shards: shards.iter().zip(pulses).filter_map(line).collect(),
        }
    }
}

/// How many values stand in each row of a heat map, without the empty rows at the end.
pub fn heat_of(histogram: &Histogram<u64>) -> Vec<u64> {
    let mut counts = Vec::new();
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to() as f64;
        let row = ((value / HEAT_FROM_NS).log10() * f64::from(HEAT_ROWS_A_DECADE)).max(0.0) as usize;
        let row = row.min(HEAT_ROWS - 1);
        if counts.len() <= row {
            counts.resize(row + 1, 0);
        }
        counts[row] += step.count_since_last_iteration();
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::histogram;

    #[test]
    fn every_value_counts_in_its_row_of_the_heat_map() {
        let mut one = histogram();
        for (value, count) in [(10, 3), (1_500, 2), (10_010, 5), (u64::MAX, 1)] {
            one.saturating_record_n(value, count);
        }
        let counts = heat_of(&one);
        assert_eq!(counts.iter().sum::<u64>(), 11);
        assert_eq!((counts[0], counts[1], counts[8]), (3, 2, 5));
        assert_eq!(counts.last(), Some(&1));
        assert!(counts.len() <= HEAT_ROWS);
    }
}

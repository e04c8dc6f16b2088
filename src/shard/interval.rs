//! What is kept of an interval to be shown: a few numbers of each stage and shard, and how the latencies were spread.

use std::time::Duration;

use super::core::ShardPulse;
use crate::base::millis::UnixMillis;
use crate::latency::{Recorder, Stage, Summary, Unit, heat_of};

/// The stages that have heat maps.
const HOT: [Stage; 3] = [Stage::Produce, Stage::Commit, Stage::DeliverLive];

/// See the module's page.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Interval {
    /// From 1; each is one more than the one before.
    pub number: u64,
    /// Its end, Unix milliseconds.
    #[serde(rename = "unix_ms")]
    pub unix: UnixMillis,
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

/// A row of counts for a heat map: [`HEAT_ROWS`](crate::latency::HEAT_ROWS), the fastest first, without the empty ones at the end.
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
    /// The interval that ends at `unix`: `merged` is the sum of `shards`.
    pub fn new(
        number: u64,
        unix: UnixMillis,
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
            unix,
            seconds: length.as_secs_f64(),
            stages: stages.collect(),
            heat: heat.collect(),
            shards: shards.iter().zip(pulses).filter_map(line).collect(),
        }
    }
}

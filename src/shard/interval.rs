//! The data of an interval that is kept for display: a few numbers of each stage and shard, and the
//! distributions of latencies.

use std::time::Duration;

use super::core::ShardPulse;
use crate::base::millis::UnixMillis;
use crate::latency::{Recorder, Stage, Summary, Unit, heat_of};

/// The stages that have heat maps.
const HOT: [Stage; 3] = [Stage::Produce, Stage::Commit, Stage::DeliverLive];

/// The collected data of one interval.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Interval {
    /// The number of the interval, from 1, without gaps.
    pub number: u64,
    /// The end of the interval.
    #[serde(rename = "unix_ms")]
    pub unix: UnixMillis,
    /// The length of the interval, in seconds.
    pub seconds: f64,
    /// The stages that have values, over all shards.
    pub stages: Vec<StageLine>,
    /// The distributions of latencies.
    pub heat: Vec<Heat>,
    /// The shards that have answered, in order.
    pub shards: Vec<ShardLine>,
}

/// The values of a stage in an interval.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StageLine {
    /// The name of the stage.
    pub stage: &'static str,
    /// The unit of its values.
    pub unit: Unit,
    /// A summary of its values.
    #[serde(flatten)]
    pub summary: Summary,
}

/// One column of a heat map: counts for at most [`HEAT_ROWS`](crate::latency::HEAT_ROWS) rows, the fastest
/// first, without the empty rows at the end.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Heat {
    /// The name of the stage.
    pub stage: &'static str,
    /// The number of messages in each row.
    pub counts: Vec<u64>,
}

/// The values of a shard in an interval.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ShardLine {
    /// The state that it reported.
    #[serde(flatten)]
    pub pulse: ShardPulse,
    /// The time from reading a message to its acknowledgement.
    pub produce: Summary,
    /// The time from storing a message to the socket of a consumer that is caught up.
    pub deliver_live: Summary,
    /// The duration of its turns.
    pub turn: Summary,
    /// The number of deliveries in its inbox.
    pub inbox_depth: Summary,
}

impl Interval {
    /// Creates the data of the interval that ends at `unix`. `merged` is the sum of `shards`.
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

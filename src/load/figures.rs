//! From what the connections of a run did to its numbers.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::gather::Gathered;
use super::meter::INTERVAL;
use super::plan::{Mode, Plan};
use super::producer::Produced;
use super::reading::Consumed;
use super::result::{Figures, IntervalResult, RunResult};
use super::stamp::Verdict;
use crate::control::StagePage;
use crate::latency::{Summary, encode};

/// What the server used and recorded.
#[derive(Debug, Default)]
pub(super) struct ServerUse {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub held_bytes: Option<u64>,
    pub stages: Vec<StagePage>,
}

/// All that there is of a run.
pub(super) struct Measured {
    pub elapsed: Duration,
    pub produced: Vec<Produced>,
    pub consumed: Vec<Consumed>,
    pub setup: Histogram<u64>,
    pub gathered: Gathered,
    pub server: ServerUse,
}

fn summary(histogram: &Histogram<u64>) -> Option<Summary> {
    (!histogram.is_empty()).then(|| Summary::of(histogram))
}

/// A second in which nothing was answered is one of the run, too.
fn fill(intervals: &mut Vec<IntervalResult>, measured: Duration) {
    let seconds = (measured.as_secs_f64() / INTERVAL.as_secs_f64()) as u64;
    for index in 0..seconds {
        let from = index as f64 * INTERVAL.as_secs_f64();
        let at = intervals.partition_point(|interval| interval.from < from);
        if intervals.get(at).is_none_or(|interval| interval.from > from) {
            intervals.insert(at, IntervalResult::empty(from));
        }
    }
}

/// The run's result.
pub(super) fn result(plan: &Plan, measured: Measured) -> RunResult {
    let Measured { elapsed, produced, consumed, setup, gathered, server } = measured;
    let (mut acknowledged, mut acknowledged_measured, mut refused, mut unsent) = (0, 0, 0, 0);
    let mut failures = Vec::new();
    for one in &produced {
        acknowledged += one.acknowledged;
        acknowledged_measured += one.acknowledged_measured;
        refused += one.refused;
        unsent += one.unsent;
        failures.extend(one.failure.clone());
    }
    let mut received_measured = 0;
    let mut verified = Verdict::default();
    let mut active = Duration::ZERO;
    for one in &consumed {
        verified = verified + one.verdict;
        received_measured += one.received_measured;
        active = active.max(one.active);
        failures.extend(one.failure.clone());
    }
    // Without a window, from the first to the last: what else the run took is no part of its rate.
    let sending = produced.iter().map(|one| one.active).max().unwrap_or_default();
    let over = |time: Duration| if time.is_zero() { elapsed.as_secs_f64() } else { time.as_secs_f64() };
    let (measured_seconds, acknowledged_per_second, received_per_second) = if plan.is_timed() {
        let measured = plan.measure.as_secs_f64();
        (measured, acknowledged_measured as f64 / measured, received_measured as f64 / measured)
    } else {
        (elapsed.as_secs_f64(), acknowledged as f64 / over(sending), verified.received as f64 / over(active))
    };
    // Every consumer gets everything of its queue.
    let missing = consumed
        .iter()
        .filter(|_| plan.mode == Mode::Both)
        .map(|one| one.expected.saturating_sub(one.verdict.received))
        .sum();
    let moved = if plan.is_timed() { acknowledged_measured.max(received_measured) } else { 0 };
    let figures = Figures {
        mode: plan.mode,
        size: plan.size,
        batch: plan.batch,
        pbs_per_frame: plan.pbs_per_frame,
        producers: produced.len() as u32,
        consumers: consumed.len() as u32,
        idle: plan.idle,
        stalled: plan.stalled,
        queues: plan.queues,
        keys: plan.keys,
        rate: plan.rate,
        in_flight: plan.in_flight,
        measured_seconds,
        elapsed_seconds: elapsed.as_secs_f64(),
        acknowledged,
        acknowledged_per_second,
        refused,
        unsent,
        received_per_second,
        verified,
        missing,
        produce_latency: summary(&gathered.produce),
        end_to_end_latency: summary(&gathered.end_to_end),
        setup_latency: summary(&setup),
        server_cpu_seconds: server.cpu_seconds,
        server_cpu_seconds_per_million: server
            .cpu_seconds
            .filter(|_| moved > 0)
            .map(|seconds| seconds * 1e6 / moved as f64),
        server_resident_bytes: server.resident_bytes,
        server_held_bytes: server.held_bytes,
        failures,
    };
    let mut intervals = gathered.intervals;
    if plan.is_timed() {
        fill(&mut intervals, plan.measure);
    }
    let text = |histogram: &Histogram<u64>| (!histogram.is_empty()).then(|| encode(histogram));
    RunResult {
        figures,
        produce: text(&gathered.produce),
        end_to_end: text(&gathered.end_to_end),
        intervals,
        stages: server.stages,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_without_an_answer_are_there() {
        let mut intervals =
            vec![IntervalResult::empty(0.0), IntervalResult::empty(3.0), IntervalResult::empty(7.0)];
        fill(&mut intervals, Duration::from_secs(5));
        let seen: Vec<f64> = intervals.iter().map(|interval| interval.from).collect();
        assert_eq!(seen, [0.0, 1.0, 2.0, 3.0, 4.0, 7.0]);
    }
}

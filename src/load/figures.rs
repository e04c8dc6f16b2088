//! Computes the figures of a run from what its connections did.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::claiming::Worked;
use super::gather::Gathered;
use super::meter::INTERVAL;
use super::plan::{Mode, Plan};
use super::producer::Produced;
use super::reading::Consumed;
use super::result::{ClaimFigures, Fairness, Figures, IntervalResult, RunResult};
use super::stamp::Verdict;
use super::window::Window;
use crate::control::StagePage;
use crate::latency::{Summary, encode};

/// What the server used and recorded during a run.
#[derive(Debug, Default)]
pub(super) struct ServerUse {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub held_bytes: Option<u64>,
    pub stages: Vec<StagePage>,
}

/// The raw measurements of a run.
pub(super) struct Measured {
    pub window: Window,
    pub elapsed: Duration,
    pub tls: Option<String>,
    pub produced: Vec<Produced>,
    pub consumed: Vec<Consumed>,
    pub worked: Vec<Worked>,
    pub setup: Histogram<u64>,
    pub gathered: Gathered,
    pub server: ServerUse,
}

fn summary(histogram: &Histogram<u64>) -> Option<Summary> {
    (!histogram.is_empty()).then(|| Summary::of(histogram))
}

/// Adds empty intervals for seconds without an answer, so that every measured second has one.
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

/// The part of a run's time that is measured, to compute rates.
struct Pace {
    /// The measured time of a run that ends by the clock. `None` for a run that ends by a count.
    timed: Option<Duration>,
    elapsed: Duration,
    /// When the first message should have been sent. Without producers, when the first consumer asked for
    /// messages.
    first: Option<Instant>,
    acknowledged: Option<Instant>,
    received: Option<Instant>,
    settled: Option<Instant>,
}

impl Pace {
    fn new(plan: &Plan, measured: &Measured, interrupted: Option<Instant>) -> Self {
        let Measured { window, elapsed, produced, consumed, worked, .. } = measured;
        let acknowledged = produced.iter().filter_map(|one| one.last).max();
        let received = consumed.iter().filter_map(|one| one.last).max();
        let settled = worked.iter().filter_map(|one| one.last).max();
        let sent = produced.iter().filter_map(|one| one.first).min();
        let first = sent.or_else(|| consumed.iter().filter_map(|one| one.first).min());
        // Messages in flight at an interrupt are answered after it, and count.
        let end = interrupted.map(|at| at.max(acknowledged.max(received).max(settled).unwrap_or(at)));
        let until = end.map_or(window.until, |end| end.min(window.until));
        let timed = plan.is_timed().then(|| until.saturating_duration_since(window.from));
        Self { timed, elapsed: *elapsed, first, acknowledged, received: received.max(settled), settled }
    }

    /// Returns the length of the measured time.
    fn seconds(&self) -> f64 {
        self.timed.unwrap_or(self.elapsed).as_secs_f64()
    }

    /// Returns `count` per second of the measured time. A run that ends by a count is measured from `first`
    /// until `last`, so acknowledged and received messages count from the same moment.
    fn rate(&self, count: u64, last: Option<Instant>) -> f64 {
        let span = self.first.zip(last).map(|(first, last)| last.saturating_duration_since(first));
        let time = self.timed.or(span.filter(|span| !span.is_zero())).unwrap_or(self.elapsed);
        if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
    }
}

/// Computes the result of a run.
pub(super) fn result(plan: &Plan, measured: Measured) -> RunResult {
    let interrupted = plan.interrupt.at().filter(|at| *at < measured.window.until);
    let pace = Pace::new(plan, &measured, interrupted);
    let Measured { window: _, elapsed, tls, produced, consumed, worked, setup, gathered, server } = measured;
    let (mut acknowledged, mut acknowledged_measured, mut refused, mut unsent) = (0, 0, 0, 0);
    let mut failures = Vec::new();
    for one in &produced {
        acknowledged += one.acknowledged;
        acknowledged_measured += one.acknowledged_measured;
        refused += one.refused;
        unsent += one.unsent;
        failures.extend(one.failure.clone());
    }
    let (mut received_measured, mut bytes_measured) = (0, 0);
    let mut verified = Verdict::default();
    for one in &consumed {
        verified = verified + one.verdict;
        received_measured += one.received_measured;
        bytes_measured += one.bytes_measured;
        failures.extend(one.failure.clone());
    }
    for one in &worked {
        verified = verified + one.verdict;
        received_measured += one.claimed_measured;
        bytes_measured += one.bytes_measured;
        failures.extend(one.failure.clone());
    }
    let (of_acknowledged, of_received, of_bytes) = if plan.is_timed() {
        (acknowledged_measured, received_measured, bytes_measured)
    } else {
        (acknowledged, verified.received, verified.received_bytes)
    };
    // Each consumer should receive every message of its queue, unless it was interrupted.
    let missing: u64 = consumed
        .iter()
        .filter(|_| plan.mode == Mode::Both && interrupted.is_none())
        .map(|one| one.expected.saturating_sub(one.verdict.received))
        .sum();
    let claims = (plan.mode == Mode::Claim).then(|| claims(plan, &worked, &pace, &gathered.settle));
    // Of all workers together, each message is acknowledged once.
    let unsettled = claims
        .filter(|_| interrupted.is_none())
        .map_or(0, |claims| acknowledged.saturating_sub(claims.settled));
    let is_timed = plan.is_timed();
    let producer_fairness = Fairness::of(produced.iter().map(|one| one.acknowledged_measured));
    let consumer_fairness = if worked.is_empty() {
        Fairness::of(consumed.iter().map(|one| one.received_measured))
    } else {
        Fairness::of(worked.iter().map(|one| one.claimed_measured))
    };
    let moved = if plan.is_timed() { acknowledged_measured.max(received_measured) } else { 0 };
    let figures = Figures {
        mode: plan.mode,
        size: plan.size,
        batch: plan.batch,
        pbs_per_frame: plan.pbs_per_frame,
        producers: produced.len() as u32,
        consumers: (consumed.len() + worked.len()) as u32,
        idle: plan.idle,
        stalled: plan.stalled,
        queues: plan.queues,
        keys: plan.keys,
        rate: plan.rate,
        in_flight: plan.in_flight,
        tls,
        measured_seconds: pace.seconds(),
        elapsed_seconds: elapsed.as_secs_f64(),
        acknowledged,
        acknowledged_per_second: pace.rate(of_acknowledged, pace.acknowledged),
        refused,
        unsent,
        received_per_second: pace.rate(of_received, pace.received),
        received_bytes_per_second: (consumed.len() + worked.len() > 0)
            .then(|| pace.rate(of_bytes, pace.received)),
        verified,
        missing: missing + unsettled,
        produce_latency: summary(&gathered.produce),
        end_to_end_latency: summary(&gathered.end_to_end),
        claims,
        setup_latency: summary(&setup),
        server_cpu_seconds: server.cpu_seconds,
        server_cpu_seconds_per_million: server
            .cpu_seconds
            .filter(|_| moved > 0)
            .map(|seconds| seconds * 1e6 / moved as f64),
        server_resident_bytes: server.resident_bytes,
        server_held_bytes: server.held_bytes,
        producer_fairness: producer_fairness.filter(|_| is_timed),
        consumer_fairness: consumer_fairness.filter(|_| is_timed),
        failures,
        interrupted: interrupted.is_some(),
    };
    let mut intervals = gathered.intervals;
    if let Some(measured) = pace.timed {
        fill(&mut intervals, measured);
    }
    let text = |histogram: &Histogram<u64>| (!histogram.is_empty()).then(|| encode(histogram));
    RunResult {
        figures,
        produce: text(&gathered.produce),
        end_to_end: text(&gathered.end_to_end),
        settle: text(&gathered.settle),
        intervals,
        stages: server.stages,
    }
}

/// Computes what the workers have done.
fn claims(plan: &Plan, worked: &[Worked], pace: &Pace, settle: &Histogram<u64>) -> ClaimFigures {
    let total = |value: fn(&Worked) -> u64| worked.iter().map(value).sum::<u64>();
    let settled = total(|one| one.settled);
    let counted = if plan.is_timed() { total(|one| one.settled_measured) } else { settled };
    ClaimFigures {
        window: plan.claim_window,
        lease_seconds: plan.lease,
        confirmed: plan.double_ack,
        settled,
        settled_per_second: pace.rate(counted, pace.settled),
        settle_latency: summary(settle),
        twice: total(|one| one.twice),
        again: total(|one| one.again),
        expired: total(|one| one.expired),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::histogram;
    use crate::load::plan::plan;

    fn figures(plan: &Plan, from: Instant, produced: Produced, consumed: Consumed) -> Figures {
        let gathered = Gathered {
            produce: histogram(),
            end_to_end: histogram(),
            settle: histogram(),
            intervals: Vec::new(),
        };
        let measured = Measured {
            window: Window { begins: from, from, ..Window::of(from, plan) },
            elapsed: Duration::from_secs(10),
            tls: None,
            produced: vec![produced],
            consumed: vec![consumed],
            worked: Vec::new(),
            setup: histogram(),
            gathered,
            server: ServerUse::default(),
        };
        result(plan, measured).figures
    }

    fn consumed(first: Instant, last: Instant, received: u64, received_bytes: u64) -> Consumed {
        Consumed {
            verdict: Verdict { received, received_bytes, ..Verdict::default() },
            expected: 1_000,
            received_measured: received,
            bytes_measured: received_bytes,
            first: Some(first),
            last: Some(last),
            failure: None,
        }
    }

    #[test]
    fn rates_of_a_counted_run_share_one_time_span_and_bytes_are_as_received() {
        let from = Instant::now();
        let at = |seconds| from + Duration::from_secs(seconds);
        let produced =
            Produced { acknowledged: 1_000, first: Some(at(1)), last: Some(at(5)), ..Produced::default() };
        // Everything arrived in one read.
        let consumed = consumed(at(5), at(5), 1_000, 7_000);
        let figures = figures(&plan(Mode::Both, Some(1_000), Duration::ZERO), from, produced, consumed);
        assert_eq!((figures.acknowledged_per_second, figures.received_per_second), (250.0, 250.0));
        assert_eq!(
            figures.received_bytes_per_second,
            Some(1_750.0),
            "the bytes received, not those of --size"
        );
        assert!(figures.is_sound() && !figures.interrupted);
    }

    #[test]
    fn an_interrupted_run_is_measured_up_to_the_interrupt() {
        let now = Instant::now();
        let from = now.checked_sub(Duration::from_secs(4)).unwrap();
        let plan = plan(Mode::Both, None, Duration::from_secs(600));
        assert!(plan.interrupt.raise());
        let last = now + Duration::from_secs(96);
        let produced = Produced {
            acknowledged: 1_000,
            acknowledged_measured: 1_000,
            first: Some(from),
            last: Some(last),
            ..Produced::default()
        };
        let figures = figures(&plan, from, produced, consumed(from, now, 500, 50_000));
        assert!(figures.interrupted);
        assert_eq!((figures.measured_seconds, figures.acknowledged_per_second), (100.0, 10.0));
        assert_eq!(figures.missing, 0, "messages that had not arrived yet are not lost");
    }

    #[test]
    fn an_interrupt_before_anything_is_measured_gives_no_rate() {
        let plan = plan(Mode::Both, None, Duration::from_secs(60));
        assert!(plan.interrupt.raise());
        let from = Instant::now() + Duration::from_secs(100);
        let consumed = Consumed { last: None, ..consumed(from, from, 0, 0) };
        let figures = figures(&plan, from, Produced::default(), consumed);
        assert_eq!((figures.measured_seconds, figures.acknowledged_per_second), (0.0, 0.0));
    }

    #[test]
    fn seconds_without_an_answer_are_included() {
        let mut intervals =
            vec![IntervalResult::empty(0.0), IntervalResult::empty(3.0), IntervalResult::empty(7.0)];
        fill(&mut intervals, Duration::from_secs(5));
        let seen: Vec<f64> = intervals.iter().map(|interval| interval.from).collect();
        assert_eq!(seen, [0.0, 1.0, 2.0, 3.0, 4.0, 7.0]);
    }

    #[test]
    fn fairness_compares_the_measured_messages_of_connections() {
        assert_eq!(Fairness::of([5].into_iter()), None, "one connection has no other");
        let even = Fairness { slowest: 100, fastest: 150, ratio: Some(1.5) };
        assert_eq!(Fairness::of([120, 100, 150].into_iter()), Some(even));
        let starved = Fairness { slowest: 0, fastest: 7, ratio: None };
        assert_eq!(Fairness::of([7, 0].into_iter()), Some(starved));
    }
}

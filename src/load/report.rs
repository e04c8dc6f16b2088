//! What a run measured, as a table for people and as JSON for scripts.

use std::fmt;
use std::time::Duration;

use super::consumer::Consumed;
use super::plan::{Mode, Plan};
use super::producer::Produced;
use super::stamp::Verdict;
use crate::latency::{Summary, histogram};

/// Clock ticks a second in `/proc` (`USER_HZ`, 100 on every Linux that io_uring runs on).
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of a process so far, seconds.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// Resident memory of a process, bytes.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// See the module's page.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    mode: Mode,
    size: usize,
    batch: usize,
    pbs_per_frame: usize,
    producers: u32,
    consumers: u32,
    queues: u32,
    rate: Option<f64>,
    measured_seconds: f64,
    elapsed_seconds: f64,
    acknowledged: u64,
    acknowledged_per_second: f64,
    refused: u64,
    received_per_second: f64,
    verified: Verdict,
    missing: u64,
    produce_latency: Option<Summary>,
    end_to_end_latency: Option<Summary>,
    server_cpu_seconds: Option<f64>,
    server_cpu_seconds_per_million: Option<f64>,
    server_resident_bytes: Option<u64>,
    failures: Vec<String>,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        elapsed: Duration,
        produced: &[Produced],
        consumed: &[Consumed],
        server_cpu_seconds: Option<f64>,
    ) -> Self {
        let (mut produce_latency, mut end_to_end_latency) = (histogram(), histogram());
        let (mut acknowledged, mut acknowledged_measured, mut refused, mut received_measured) = (0, 0, 0, 0);
        let mut verified = Verdict::default();
        let mut active = Duration::ZERO;
        let mut failures = Vec::new();
        for one in produced {
            acknowledged += one.acknowledged;
            acknowledged_measured += one.acknowledged_measured;
            refused += one.refused;
            failures.extend(one.failure.clone());
            // Equal bounds always add.
            let _ = produce_latency.add(&one.latency);
        }
        for one in consumed {
            verified = verified + one.verdict;
            received_measured += one.received_measured;
            active = active.max(one.active);
            failures.extend(one.failure.clone());
            let _ = end_to_end_latency.add(&one.latency);
        }
        let (measured, acknowledged_rate, received_rate) = if plan.is_timed() {
            let measured = plan.measure.as_secs_f64();
            (measured, acknowledged_measured as f64 / measured, received_measured as f64 / measured)
        } else {
            let (measured, active) = (elapsed.as_secs_f64(), active.as_secs_f64().max(1e-9));
            (measured, acknowledged as f64 / measured, verified.received as f64 / active)
        };
        // Every consumer gets everything of its queue.
        let missing = consumed
            .iter()
            .filter(|_| plan.mode == Mode::Both)
            .map(|one| one.expected.saturating_sub(one.verdict.received))
            .sum();
        let moved = if plan.is_timed() { acknowledged_measured.max(received_measured) } else { 0 };
        Self {
            mode: plan.mode,
            size: plan.size,
            batch: plan.batch,
            pbs_per_frame: plan.pbs_per_frame,
            producers: produced.len() as u32,
            consumers: consumed.len() as u32,
            queues: plan.queues,
            rate: plan.rate,
            measured_seconds: measured,
            elapsed_seconds: elapsed.as_secs_f64(),
            acknowledged,
            acknowledged_per_second: acknowledged_rate,
            refused,
            received_per_second: received_rate,
            verified,
            missing,
            produce_latency: (!produce_latency.is_empty()).then(|| Summary::of(&produce_latency)),
            end_to_end_latency: (!end_to_end_latency.is_empty()).then(|| Summary::of(&end_to_end_latency)),
            server_cpu_seconds,
            server_cpu_seconds_per_million: server_cpu_seconds
                .filter(|_| moved > 0)
                .map(|seconds| seconds * 1e6 / moved as f64),
            server_resident_bytes: plan.server_pid.and_then(resident_bytes),
            failures,
        }
    }

    /// Whether every message that was acknowledged was seen once and in order, and nothing failed.
    pub fn is_sound(&self) -> bool {
        let Verdict { lost, repeated_or_out_of_order, foreign, .. } = self.verified;
        lost + repeated_or_out_of_order + foreign + self.missing + self.refused == 0
            && self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |rate: f64| rate * self.size as f64 / 1e6;
        writeln!(
            f,
            "{:?}: {} B, {} a request, {} producers, {} consumers, {} queues, {:.1} s",
            self.mode,
            self.size,
            self.batch,
            self.producers,
            self.consumers,
            self.queues,
            self.measured_seconds
        )?;
        if self.producers > 0 {
            let rate = self.acknowledged_per_second;
            writeln!(f, "  acknowledged  {rate:>12.0} /s  {:>9.1} MB/s", megabytes(rate))?;
        }
        if let Some(latency) = &self.produce_latency {
            writeln!(f, "  latency       {latency}")?;
        }
        if self.consumers > 0 {
            let rate = self.received_per_second;
            writeln!(f, "  received      {rate:>12.0} /s  {:>9.1} MB/s", megabytes(rate))?;
        }
        if let Some(latency) = &self.end_to_end_latency {
            writeln!(f, "  end to end    {latency}")?;
        }
        if let (Some(seconds), Some(each)) = (self.server_cpu_seconds, self.server_cpu_seconds_per_million) {
            writeln!(f, "  server CPU    {seconds:.2} s, {each:.3} s a million")?;
        }
        if let Some(bytes) = self.server_resident_bytes {
            writeln!(f, "  server memory {:.0} MB", bytes as f64 / 1e6)?;
        }
        let Verdict { received, lost, repeated_or_out_of_order, foreign } = self.verified;
        writeln!(
            f,
            "  verified      {} acknowledged, {} refused; {received} received: {} missing, {lost} lost, \
             {repeated_or_out_of_order} repeated or out of order, {foreign} foreign",
            self.acknowledged, self.refused, self.missing
        )?;
        for failure in &self.failures {
            writeln!(f, "  failed        {failure}")?;
        }
        Ok(())
    }
}

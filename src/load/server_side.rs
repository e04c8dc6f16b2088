//! Reads the server's own figures during a run: its histograms, its CPU time and memory.

use hdrhistogram::Histogram;

use crate::client::{ControlClient, ControlError};
use crate::control::{LatencyPage, StagePage};
use crate::latency::{Summary, encode};

/// Clock ticks per second in `/proc` (`USER_HZ`). It is 100 on every Linux that has io_uring.
const TICKS_PER_SECOND: f64 = 100.0;

/// Returns the histograms that the server's shards have recorded so far.
pub(super) fn latency(control: &ControlClient) -> Result<LatencyPage, ControlError> {
    control.get("/latency?histograms=true")
}

/// Returns what each stage recorded between two pages.
pub(super) fn stages_between(before: &LatencyPage, after: &LatencyPage) -> Vec<StagePage> {
    let whole = |page: &LatencyPage, stage: &str| -> Option<Histogram<u64>> {
        page.stages.iter().find(|line| line.stage == stage)?.decoded()?.ok()
    };
    let between = |line: &StagePage| {
        let mut histogram = whole(after, &line.stage)?;
        if let Some(earlier) = whole(before, &line.stage) {
            histogram.subtract(&earlier).ok()?;
        }
        let (summary, encoded) = (Summary::of(&histogram), encode(&histogram));
        Some(StagePage { summary, histogram: Some(encoded), ..line.clone() })
    };
    after.stages.iter().filter_map(between).filter(|line| line.summary.count > 0).collect()
}

/// Returns the user and system time of a process so far, in seconds.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may contain anything, so read after the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// Returns the resident memory of a process, in bytes.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

//! Reads the server's own figures during a run: its histograms and settings, its CPU time and memory.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::de::DeserializeOwned;

use crate::control::{InfoPage, LatencyPage, StagePage};
use crate::latency::{Summary, encode};

/// Clock ticks per second in `/proc` (`USER_HZ`). It is 100 on every Linux that has io_uring.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long the control port may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The control port of the server under load.
#[derive(Clone, Debug)]
pub struct ControlPort(String);

impl ControlPort {
    /// Creates a client for the control port at this URL, such as `http://127.0.0.1:9001`.
    pub fn new(url: &str) -> Self {
        Self(url.trim_end_matches('/').to_owned())
    }

    /// Returns the server's description of itself.
    pub fn info(&self) -> Result<InfoPage, String> {
        self.get("/info")
    }

    /// Returns the histograms that the server's shards have recorded so far.
    pub(super) fn latency(&self) -> Result<LatencyPage, String> {
        self.get("/latency?histograms=true")
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let url = format!("{}{path}", self.0);
        let failed = |error: &dyn std::fmt::Display| format!("{url}: {error}");
        // The body of an error status says what to do, so read it instead of failing at once.
        let agent: ureq::Agent = ureq::Agent::config_builder()
            // A control port is usually on this machine or network, so ignore `http_proxy`.
            .proxy(None)
            .timeout_global(Some(ANSWER_TIMEOUT))
            .http_status_as_error(false)
            .build()
            .into();
        let mut answer = agent.get(&url).call().map_err(|error| failed(&error))?;
        let text = answer
            .body_mut()
            .with_config()
            .limit(PAGE_BYTES_MAX)
            .read_to_string()
            .map_err(|error| failed(&error))?;
        if !answer.status().is_success() {
            return Err(format!("{url}: {}: {}", answer.status(), text.trim_end()));
        }
        serde_json::from_str(&text).map_err(|error| failed(&error))
    }
}

/// The longest accepted page, in bytes. A histogram that uses every bucket takes about 400 KiB.
const PAGE_BYTES_MAX: u64 = 16 << 20;

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

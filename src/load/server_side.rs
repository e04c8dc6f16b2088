//! What the server says and shows of a run: its own histograms, its settings, its CPU time and memory.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::de::DeserializeOwned;

use crate::control::{InfoPage, LatencyPage, StagePage};
use crate::latency::{Summary, encode};

/// Clock ticks a second in `/proc` (`USER_HZ`, 100 on every Linux that io_uring runs on).
const TICKS_PER_SECOND: f64 = 100.0;

/// How long the control port may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The control port of a server under load.
#[derive(Clone, Debug)]
pub struct ControlPort(String);

impl ControlPort {
    /// The one at this URL, like `http://127.0.0.1:9001`.
    pub fn new(url: &str) -> Self {
        Self(url.trim_end_matches('/').to_owned())
    }

    /// What the server is.
    pub fn info(&self) -> Result<InfoPage, String> {
        self.get("/info")
    }

    /// What its shards have recorded so far.
    pub(super) fn latency(&self) -> Result<LatencyPage, String> {
        self.get("/latency?histograms=true")
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let url = format!("{}{path}", self.0);
        let failed = |error: &dyn std::fmt::Display| format!("{url}: {error}");
        // The text of a refusal says what to do, so it is no error yet.
        let agent: ureq::Agent = ureq::Agent::config_builder()
            // A control port is on the machine or near it: `http_proxy` is not for it.
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

/// The longest page that is read, bytes: a histogram with every bucket in use takes some 400 KiB.
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// What the stages recorded between two pages.
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

/// User and system time of a process so far, seconds.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// Resident memory of a process, bytes.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

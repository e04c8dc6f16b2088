//! What a load measured: the file that `bench --out` writes and `report` reads. JSON; times in nanoseconds; histograms in
//! HdrHistogram's V2 format, compressed, in base64.

use serde::{Deserialize, Serialize};

use super::environment::Environment;
use super::plan::Mode;
use super::stamp::Verdict;
use crate::base::millis::UnixMillis;
use crate::control::{InfoPage, StagePage};
use crate::latency::{Stage, Summary};

/// The version of the file's format.
pub const FORMAT: u32 = 1;

/// A load and all of its runs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ResultFile {
    /// [`FORMAT`].
    pub millstream_bench: u32,
    /// What whoever ran it calls it.
    pub name: String,
    /// What was under load: `millstream`, `kafka` or `nats`.
    pub system: String,
    /// Its version, as it says.
    pub system_version: String,
    /// What an acknowledged message survives there, in a sentence.
    pub durability: String,
    /// When it began, Unix milliseconds.
    #[serde(rename = "began_unix_ms")]
    pub began: UnixMillis,
    /// The arguments.
    pub command: Vec<String>,
    /// Where the load ran.
    pub environment: Environment,
    /// What the server says of itself, where it was asked.
    pub server: Option<InfoPage>,
    /// Every run, in its order.
    pub runs: Vec<RunResult>,
    /// Where the highest rate was looked for: what was found.
    pub knee: Option<Knee>,
}

/// The highest rate at which a percentile stays under a bound.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Knee {
    /// The bound of p99.
    pub p99_max: u64,
    /// The highest rate that kept to it, messages a second; none did where absent.
    pub rate: Option<f64>,
    /// The lowest that did not; all did where absent.
    pub failed: Option<f64>,
}

/// One run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RunResult {
    /// In numbers.
    #[serde(flatten)]
    pub figures: Figures,
    /// Samples of the produced messages.
    pub produce: Option<String>,
    /// Samples of the received ones.
    pub end_to_end: Option<String>,
    /// Second by second, from the beginning of what was measured.
    pub intervals: Vec<IntervalResult>,
    /// The server's own stages meanwhile, where it was asked.
    pub stages: Vec<StagePage>,
}

/// A second of a run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct IntervalResult {
    /// When it began, seconds.
    pub from: f64,
    /// Messages that were acknowledged in it.
    pub acknowledged: u64,
    /// Messages that were received in it, by all consumers together.
    pub received: u64,
    /// Samples of messages whose acknowledgement came in it.
    pub produce: Option<String>,
    /// Samples of messages that were received in it.
    pub end_to_end: Option<String>,
}

impl IntervalResult {
    /// A second in which nothing was answered.
    pub(super) fn empty(from: f64) -> Self {
        Self { from, acknowledged: 0, received: 0, produce: None, end_to_end: None }
    }
}

impl RunResult {
    /// What the server recorded of a stage meanwhile.
    pub fn stage(&self, stage: Stage) -> Option<&StagePage> {
        self.stages.iter().find(|page| page.stage == stage.name())
    }

    /// The samples of one of its seconds: of the same kind in all of them.
    pub fn samples<'a>(&self, interval: &'a IntervalResult) -> Option<&'a str> {
        let samples = if self.end_to_end.is_some() { &interval.end_to_end } else { &interval.produce };
        samples.as_deref()
    }
}

/// A run in numbers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Figures {
    /// What it did.
    pub mode: Mode,
    /// Bytes of a message.
    pub size: usize,
    /// Messages in a request.
    pub batch: usize,
    /// Requests in a frame.
    pub pbs_per_frame: usize,
    /// Connections that produced.
    pub producers: u32,
    /// Connections that consumed.
    pub consumers: u32,
    /// Connections beside them that did nothing, and readers that had stalled.
    pub idle: u32,
    /// See `idle`.
    pub stalled: u32,
    /// Queues.
    pub queues: u32,
    /// Different keys; 0: messages had none.
    pub keys: u32,
    /// Messages a second by schedule; absent: as fast as it went.
    pub rate: Option<f64>,
    /// Messages that a producer might have under way; absent: as many as its server, or the peer's client, allows.
    pub in_flight: Option<u64>,
    /// What was measured.
    pub measured_seconds: f64,
    /// From the first connection to the end.
    pub elapsed_seconds: f64,
    /// Messages acknowledged in all.
    pub acknowledged: u64,
    /// In what was measured.
    pub acknowledged_per_second: f64,
    /// Messages refused.
    pub refused: u64,
    /// Messages that were due and could not be sent within the grace.
    pub unsent: u64,
    /// By all consumers together, in what was measured.
    pub received_per_second: f64,
    /// Bytes of their payloads, as they came; absent in older files.
    pub received_bytes_per_second: Option<f64>,
    /// What verification found.
    pub verified: Verdict,
    /// Acknowledged, and never received.
    pub missing: u64,
    /// From when a message should have been sent to its acknowledgement.
    pub produce_latency: Option<Summary>,
    /// From when a message should have been sent to its receipt.
    pub end_to_end_latency: Option<Summary>,
    /// From the first byte of an idle or stalled connection to its answered setup.
    pub setup_latency: Option<Summary>,
    /// CPU time of the server in what was measured.
    pub server_cpu_seconds: Option<f64>,
    /// The same for a million messages.
    pub server_cpu_seconds_per_million: Option<f64>,
    /// Memory of the server at the end; and what idle and stalled connections had added to it before the load.
    pub server_resident_bytes: Option<u64>,
    /// See `server_resident_bytes`.
    pub server_held_bytes: Option<u64>,
    /// What failed.
    pub failures: Vec<String>,
    /// It was ended early: what was measured until then.
    #[serde(default)]
    pub interrupted: bool,
}

impl Figures {
    /// Whether every message that was acknowledged was seen once and in order, and nothing failed.
    pub fn is_sound(&self) -> bool {
        let Verdict { lost, repeated_or_out_of_order, foreign, .. } = self.verified;
        lost + repeated_or_out_of_order + foreign + self.missing + self.refused == 0
            && self.failures.is_empty()
    }

    /// Whether it kept to its schedule.
    pub fn is_sustained(&self) -> bool {
        self.unsent == 0 && self.rate.is_none_or(|rate| self.acknowledged_per_second >= rate * SUSTAINED)
    }

    /// The rate that counts: what consumers got, or else what producers had acknowledged.
    pub fn throughput(&self) -> f64 {
        if self.consumers > 0 { self.received_per_second } else { self.acknowledged_per_second }
    }

    /// Bytes of payload that consumers got, a second.
    pub fn received_bytes(&self) -> f64 {
        self.received_bytes_per_second.unwrap_or(self.received_per_second * self.size as f64)
    }

    /// Bytes of payload that producers had acknowledged, a second: each of their messages has the same size.
    pub fn acknowledged_bytes(&self) -> f64 {
        self.acknowledged_per_second * self.size as f64
    }

    /// The same of [`Self::throughput`].
    pub fn throughput_bytes(&self) -> f64 {
        if self.consumers > 0 { self.received_bytes() } else { self.acknowledged_bytes() }
    }

    /// The latency that counts.
    pub fn latency(&self) -> Option<&Summary> {
        self.end_to_end_latency.as_ref().or(self.produce_latency.as_ref())
    }
}

/// A rate is sustained when so much of it was acknowledged in the measured time: a window's edges cut requests.
const SUSTAINED: f64 = 0.97;

impl ResultFile {
    /// The run that stands for all: the one at the knee, or the one whose rate is in the middle.
    pub fn chosen(&self) -> Option<&RunResult> {
        let rate = self.knee.and_then(|knee| knee.rate);
        let at_knee = rate.and_then(|rate| self.runs.iter().find(|run| run.figures.rate == Some(rate)));
        at_knee.or_else(|| self.middle())
    }

    /// The run whose rate is in the middle.
    fn middle(&self) -> Option<&RunResult> {
        let mut runs: Vec<&RunResult> = self.runs.iter().collect();
        runs.sort_by(|one, other| one.figures.throughput().total_cmp(&other.figures.throughput()));
        runs.get(runs.len().saturating_sub(1) / 2).copied()
    }

    /// Reads one; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            millstream_bench: Option<u32>,
        }
        let head: Head = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match head.millstream_bench {
            Some(FORMAT) => serde_json::from_str(text).map_err(|error| error.to_string()),
            Some(other) => Err(format!("its format is {other}; this program reads {FORMAT}")),
            None => Err("no result of `millstream bench --out`".into()),
        }
    }
}

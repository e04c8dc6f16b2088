//! The result of a load: the file that `bench --out` writes and `report` reads.
//!
//! The file is JSON. Times are in nanoseconds. Histograms are in HdrHistogram's compressed V2 format, as
//! base64.

use serde::{Deserialize, Serialize};

use super::environment::Environment;
use super::plan::Mode;
use super::stamp::Verdict;
use crate::base::millis::UnixMillis;
use crate::control::{InfoPage, StagePage};
use crate::latency::{Stage, Summary};

/// The version of the file format.
pub const FORMAT: u32 = 1;

/// A load and all of its runs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ResultFile {
    /// The version of the file format, [`FORMAT`].
    pub millstream_bench: u32,
    /// The name of the result in reports, from `--name`.
    pub name: String,
    /// The server under load: `millstream`, `kafka` or `nats`.
    pub system: String,
    /// The version of the server, in its own words.
    pub system_version: String,
    /// What an acknowledged message survives there, in a sentence.
    pub durability: String,
    /// When the load began, in Unix milliseconds.
    #[serde(rename = "began_unix_ms")]
    pub began: UnixMillis,
    /// The arguments of the command, without secrets.
    pub command: Vec<String>,
    /// The machine that the load ran on.
    pub environment: Environment,
    /// The server's description of itself, if its control port was asked.
    pub server: Option<InfoPage>,
    /// All runs, in order.
    pub runs: Vec<RunResult>,
    /// The outcome of a search for the highest rate.
    pub knee: Option<Knee>,
    /// What differs between the runs of a sweep, one run for each step. `None` in older files.
    #[serde(default)]
    pub sweep: Option<Sweep>,
}

/// A series of runs with different numbers of connections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Sweep {
    /// The number of producing connections of each run. If the sweep ended early, there are fewer runs.
    pub connections: Vec<u32>,
}

/// The highest rate at which the p99 latency stays within a bound.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Knee {
    /// The bound of the p99, in nanoseconds.
    pub p99_max: u64,
    /// The highest rate that kept the bound, in messages per second. `None` if no rate did.
    pub rate: Option<f64>,
    /// The lowest rate that did not keep the bound. `None` if every rate did.
    pub failed: Option<f64>,
}

/// The result of one run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RunResult {
    /// The run in numbers.
    #[serde(flatten)]
    pub figures: Figures,
    /// The latency samples of produced messages.
    pub produce: Option<String>,
    /// The latency samples of received messages.
    pub end_to_end: Option<String>,
    /// The samples from claiming a message to the confirmation of its acknowledgement. `None` in older files.
    #[serde(default)]
    pub settle: Option<String>,
    /// The measured seconds, in order.
    pub intervals: Vec<IntervalResult>,
    /// The server's own stages during the measured time, if its control port was asked.
    pub stages: Vec<StagePage>,
}

/// One second of a run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct IntervalResult {
    /// When the second began, in seconds since the start of the measured time.
    pub from: f64,
    /// The number of messages acknowledged in this second.
    pub acknowledged: u64,
    /// The number of messages received in this second, by all consumers together.
    pub received: u64,
    /// The samples of messages acknowledged in this second.
    pub produce: Option<String>,
    /// The samples of messages received in this second.
    pub end_to_end: Option<String>,
}

impl IntervalResult {
    /// Creates a second in which nothing was answered.
    pub(super) fn empty(from: f64) -> Self {
        Self { from, acknowledged: 0, received: 0, produce: None, end_to_end: None }
    }
}

impl RunResult {
    /// Returns what the server recorded of a stage during the run.
    pub fn stage(&self, stage: Stage) -> Option<&StagePage> {
        self.stages.iter().find(|page| page.stage == stage.name())
    }

    /// Returns the samples of one second. They are of the same kind in all seconds of the run.
    pub fn samples<'a>(&self, interval: &'a IntervalResult) -> Option<&'a str> {
        let samples = if self.end_to_end.is_some() { &interval.end_to_end } else { &interval.produce };
        samples.as_deref()
    }
}

/// A run in numbers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Figures {
    /// Which connections the run had.
    pub mode: Mode,
    /// The size of a message, in bytes.
    pub size: usize,
    /// Messages per request.
    pub batch: usize,
    /// Requests per frame.
    pub pbs_per_frame: usize,
    /// The number of producing connections.
    pub producers: u32,
    /// The number of consuming connections.
    pub consumers: u32,
    /// The number of additional idle connections.
    pub idle: u32,
    /// The number of additional stalled readers.
    pub stalled: u32,
    /// The number of queues.
    pub queues: u32,
    /// The number of different keys. 0 if messages had none.
    pub keys: u32,
    /// The scheduled rate, in messages per second. `None` for a closed loop.
    pub rate: Option<f64>,
    /// The most messages that a producer might have in flight. `None` for as many as the server, or the
    /// peer's client, allows.
    pub in_flight: Option<u64>,
    /// The version and the cipher suite of TLS. `None` if the connections did not use it, or in older files.
    #[serde(default)]
    pub tls: Option<String>,
    /// The length of the measured time.
    pub measured_seconds: f64,
    /// The time from the first connection to the end.
    pub elapsed_seconds: f64,
    /// The number of acknowledged messages, also outside of the measured time.
    pub acknowledged: u64,
    /// Acknowledged messages per second of the measured time.
    pub acknowledged_per_second: f64,
    /// The number of refused messages.
    pub refused: u64,
    /// The number of messages that were due and could not be sent within the grace period.
    pub unsent: u64,
    /// Received messages per second of the measured time, by all consumers together.
    pub received_per_second: f64,
    /// Received payload bytes per second. `None` in older files.
    pub received_bytes_per_second: Option<f64>,
    /// The outcome of verification.
    pub verified: Verdict,
    /// The number of messages acknowledged but never received.
    pub missing: u64,
    /// The time from when a message should have been sent to its acknowledgement.
    pub produce_latency: Option<Summary>,
    /// The time from when a message should have been sent to its receipt.
    pub end_to_end_latency: Option<Summary>,
    /// What the workers of [`Mode::Claim`] have done. `None` in older files.
    #[serde(default)]
    pub claims: Option<ClaimFigures>,
    /// The time from connecting an idle or stalled connection to its answered setup.
    pub setup_latency: Option<Summary>,
    /// The CPU time of the server in the measured time.
    pub server_cpu_seconds: Option<f64>,
    /// The same per million messages.
    pub server_cpu_seconds_per_million: Option<f64>,
    /// The memory of the server at the end, in bytes.
    pub server_resident_bytes: Option<u64>,
    /// The memory that idle and stalled connections added to the server before the load, in bytes.
    pub server_held_bytes: Option<u64>,
    /// How evenly the measured messages were divided among the producers. `None` for one producer, for a run
    /// that ends by a count, and in older files.
    #[serde(default)]
    pub producer_fairness: Option<Fairness>,
    /// The same for the consumers.
    #[serde(default)]
    pub consumer_fairness: Option<Fairness>,
    /// The errors that occurred.
    pub failures: Vec<String>,
    /// Whether the run was ended early. The figures then cover the time until then.
    #[serde(default)]
    pub interrupted: bool,
}

/// What the workers of a run have done.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct ClaimFigures {
    /// How many messages a worker may hold without having acknowledged them.
    pub window: u64,
    /// How long a claim lasts, in seconds.
    pub lease_seconds: u32,
    /// Whether the server confirms acknowledgements. If not, an acknowledgement counts once it is sent.
    pub confirmed: bool,
    /// How many messages of the run were acknowledged by the workers.
    pub settled: u64,
    /// The same, per second of the measured time.
    pub settled_per_second: f64,
    /// The time from claiming a message to the confirmation of its acknowledgement.
    pub settle_latency: Option<Summary>,
    /// The number of messages that two workers had at the same time.
    pub twice: u64,
    /// The number of messages that were claimed after their acknowledgement was confirmed.
    pub again: u64,
    /// The number of messages whose claim was over before their acknowledgement was confirmed. They may come again.
    pub expired: u64,
}

/// The messages of the slowest and of the fastest connection in the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Fairness {
    /// The fewest messages of a connection.
    pub slowest: u64,
    /// The most messages of a connection.
    pub fastest: u64,
    /// The most relative to the fewest. `None` if a connection had no message.
    pub ratio: Option<f64>,
}

impl Fairness {
    /// Compares the measured messages of each connection. Returns `None` if there are fewer than two.
    pub(super) fn of(messages: impl ExactSizeIterator<Item = u64> + Clone) -> Option<Self> {
        if messages.len() < 2 {
            return None;
        }
        let (slowest, fastest) = (messages.clone().min()?, messages.max()?);
        let ratio = (slowest > 0).then(|| fastest as f64 / slowest as f64);
        Some(Self { slowest, fastest, ratio })
    }
}

impl Figures {
    /// Returns whether every acknowledged message was received once and in order, and nothing failed.
    pub fn is_sound(&self) -> bool {
        let Verdict { lost, repeated_or_out_of_order, foreign, .. } = self.verified;
        let wrong_claims = self.claims.map_or(0, |claims| claims.twice + claims.again);
        lost + repeated_or_out_of_order + foreign + self.missing + self.refused + wrong_claims == 0
            && self.failures.is_empty()
    }

    /// Returns whether the run kept to its schedule.
    pub fn is_sustained(&self) -> bool {
        self.unsent == 0 && self.rate.is_none_or(|rate| self.acknowledged_per_second >= rate * SUSTAINED)
    }

    /// Returns the rate that counts: of what workers have acknowledged, else of receipts if there were consumers,
    /// otherwise of acknowledgements.
    pub fn throughput(&self) -> f64 {
        if let Some(claims) = &self.claims {
            return claims.settled_per_second;
        }
        if self.consumers > 0 { self.received_per_second } else { self.acknowledged_per_second }
    }

    /// Returns the payload bytes per second that consumers received.
    pub fn received_bytes(&self) -> f64 {
        self.received_bytes_per_second.unwrap_or(self.received_per_second * self.size as f64)
    }

    /// Returns the payload bytes per second that were acknowledged. All of these messages have the same size.
    pub fn acknowledged_bytes(&self) -> f64 {
        self.acknowledged_per_second * self.size as f64
    }

    /// Returns the payload bytes per second of [`Self::throughput`].
    pub fn throughput_bytes(&self) -> f64 {
        match &self.claims {
            Some(claims) => claims.settled_per_second * self.size as f64,
            None if self.consumers > 0 => self.received_bytes(),
            None => self.acknowledged_bytes(),
        }
    }

    /// Returns the latency that counts: of receipts if there were any, otherwise of acknowledgements.
    pub fn latency(&self) -> Option<&Summary> {
        self.end_to_end_latency.as_ref().or(self.produce_latency.as_ref())
    }
}

/// The share of a rate that must be acknowledged in the measured time for the rate to count as sustained. It
/// is below 1 because the edges of the window cut requests.
const SUSTAINED: f64 = 0.97;

impl ResultFile {
    /// Returns the run that represents the result: the run at the knee, the fastest run of a sweep, or the median
    /// run by throughput.
    pub fn chosen(&self) -> Option<&RunResult> {
        if self.sweep.is_some() {
            let throughput = |run: &RunResult| run.figures.throughput();
            return self.runs.iter().max_by(|one, other| throughput(one).total_cmp(&throughput(other)));
        }
        let rate = self.knee.and_then(|knee| knee.rate);
        let at_knee = rate.and_then(|rate| self.runs.iter().find(|run| run.figures.rate == Some(rate)));
        at_knee.or_else(|| self.middle())
    }

    /// Returns the runs of a sweep, or `None` if the result is no sweep.
    pub fn steps(&self) -> Option<&[RunResult]> {
        self.sweep.as_ref().map(|_| &self.runs[..])
    }

    /// Returns the median run by throughput.
    fn middle(&self) -> Option<&RunResult> {
        let mut runs: Vec<&RunResult> = self.runs.iter().collect();
        runs.sort_by(|one, other| one.figures.throughput().total_cmp(&other.figures.throughput()));
        runs.get(runs.len().saturating_sub(1) / 2).copied()
    }

    /// Parses a result file. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            millstream_bench: Option<u32>,
        }
        const OTHER: &str = "not a result of `millstream bench --out`";
        let head: Head = serde_json::from_str(text).map_err(|error| format!("{OTHER}: {error}"))?;
        match head.millstream_bench {
            Some(FORMAT) => serde_json::from_str(text).map_err(|error| error.to_string()),
            Some(other) => Err(format!("its format is {other}; this program reads {FORMAT}")),
            None => Err(OTHER.into()),
        }
    }
}

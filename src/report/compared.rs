//! Results prepared for comparison: each with its name, its samples and the run that represents it.

use hdrhistogram::Histogram;

use crate::latency::{decode, histogram};
use crate::load::{Figures, ResultFile, RunResult};

/// A result with its samples decoded.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The name of the result. Further results with the same name get a number.
    pub name: String,
    /// The result as it was read.
    pub file: ResultFile,
    /// The time from when a message should have been sent to its acknowledgement, over all runs. For a search
    /// for the knee and for a sweep, only over the run that represents it.
    pub produce: Histogram<u64>,
    /// The time from when a message should have been sent to its receipt, over the same runs.
    pub end_to_end: Histogram<u64>,
    run: RunResult,
}

impl Compared {
    /// Reads results. Each file is its path, for errors, and its text.
    pub fn read(files: &[(String, String)]) -> Result<Vec<Self>, String> {
        let mut all: Vec<Self> = Vec::new();
        for (path, text) in files {
            let file = ResultFile::parse(text).map_err(|error| format!("{path}: {error}"))?;
            let one = Self::new(file).map_err(|error| format!("{path}: {error}"))?;
            let before = all.iter().filter(|other| other.file.name == one.file.name).count();
            let name = if before == 0 { one.name.clone() } else { format!("{} ({})", one.name, before + 1) };
            all.push(Self { name, ..one });
        }
        Ok(all)
    }

    fn new(file: ResultFile) -> Result<Self, String> {
        let run = file.chosen().ok_or("the result has no runs")?.clone();
        let are_alike = file.knee.is_none() && file.sweep.is_none();
        let used: Vec<&RunResult> = if are_alike { file.runs.iter().collect() } else { vec![&run] };
        let sum = |text: fn(&RunResult) -> Option<&str>| {
            let mut sum = histogram();
            for run in &used {
                if let Some(text) = text(run) {
                    sum.add(decode(text)?).map_err(|error| error.to_string())?;
                }
            }
            Ok::<_, String>(sum)
        };
        let produce = sum(|run| run.produce.as_deref())?;
        let end_to_end = sum(|run| run.end_to_end.as_deref())?;
        Ok(Self { name: file.name.clone(), produce, end_to_end, run, file })
    }

    /// Returns the run that represents the result: the median run, the run at the knee, or the fastest run of a
    /// sweep.
    pub fn run(&self) -> &RunResult {
        &self.run
    }

    /// Returns the figures of that run.
    pub fn figures(&self) -> &Figures {
        &self.run().figures
    }

    /// Returns the samples to compare: of receipts if there are any, otherwise of acknowledgements.
    pub fn latency(&self) -> &Histogram<u64> {
        if self.end_to_end.is_empty() { &self.produce } else { &self.end_to_end }
    }

    /// Returns the throughput relative to another result, or `None` if the two ran different loads.
    pub fn throughput_of(&self, other: &Self) -> Option<f64> {
        let did = |one: &Self| (one.figures().mode, one.figures().consumers);
        let rate = |one: &Self| one.figures().throughput();
        (did(self) == did(other) && rate(other) > 0.0).then(|| rate(self) / rate(other))
    }

    /// Returns the p99 relative to another result, or `None` if the two measured different latencies.
    pub fn p99_of(&self, other: &Self) -> Option<f64> {
        let counts = |one: &Self| (one.end_to_end.is_empty(), one.produce.is_empty());
        let p99 = |one: &Self| one.latency().value_at_quantile(0.99) as f64;
        (counts(self) == counts(other) && p99(other) > 0.0).then(|| p99(self) / p99(other))
    }

    /// Returns the lowest and the highest value over all runs, or `None` if there is one run or they had
    /// different rates or numbers of connections.
    pub fn spread(&self, value: impl Fn(&Figures) -> f64) -> Option<(f64, f64)> {
        if self.file.knee.is_some() || self.file.sweep.is_some() || self.file.runs.len() < 2 {
            return None;
        }
        let values = self.file.runs.iter().map(|run| value(&run.figures));
        let fold =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(one), high.max(one)));
        Some(fold)
    }
}

/// Describes what latency means for these results.
pub(super) fn what_latency(all: &[Compared]) -> &'static str {
    if all.iter().all(|one| !one.end_to_end.is_empty()) {
        "from when a message should have been sent to its receipt"
    } else if all.iter().all(|one| one.end_to_end.is_empty()) {
        "from when a message should have been sent to its acknowledgement"
    } else {
        "from when a message should have been sent to its receipt, or to its acknowledgement if there were no consumers"
    }
}

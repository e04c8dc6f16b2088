//! Results as they are compared: each with its name, its samples and the run that stands for it.

use hdrhistogram::Histogram;

use crate::latency::{decode, histogram};
use crate::load::{Figures, ResultFile, RunResult};

/// A result, with its samples decoded.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Its name; of several with one name the later ones get a number.
    pub name: String,
    /// All of it.
    pub file: ResultFile,
    /// From when a message should have been sent to its acknowledgement, of all runs; of a search for the knee, of the run at it.
    pub produce: Histogram<u64>,
    /// From when it should have been sent to its receipt.
    pub end_to_end: Histogram<u64>,
    run: RunResult,
}

impl Compared {
    /// Reads results: their text, each with the path that it came from for its errors.
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
        let run = file.chosen().ok_or("it has no run")?.clone();
        let used: Vec<&RunResult> = match file.knee {
            Some(_) => vec![&run],
            None => file.runs.iter().collect(),
        };
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

    /// The run that stands for all: in the middle, or the one at the knee.
    pub fn run(&self) -> &RunResult {
        &self.run
    }

    /// Its numbers.
    pub fn figures(&self) -> &Figures {
        &self.run().figures
    }

    /// The samples that count: of receipts where there are some, else of acknowledgements.
    pub fn latency(&self) -> &Histogram<u64> {
        if self.end_to_end.is_empty() { &self.produce } else { &self.end_to_end }
    }

    /// Its throughput as a part of another's; nothing where the two did not do the same.
    pub fn throughput_of(&self, other: &Self) -> Option<f64> {
        let did = |one: &Self| (one.figures().mode, one.figures().consumers);
        let rate = |one: &Self| one.figures().throughput();
        (did(self) == did(other) && rate(other) > 0.0).then(|| rate(self) / rate(other))
    }

    /// Its p99 as a part of another's; nothing where their latencies do not count from and to the same.
    pub fn p99_of(&self, other: &Self) -> Option<f64> {
        let counts = |one: &Self| (one.end_to_end.is_empty(), one.produce.is_empty());
        let p99 = |one: &Self| one.latency().value_at_quantile(0.99) as f64;
        (counts(self) == counts(other) && p99(other) > 0.0).then(|| p99(self) / p99(other))
    }

    /// The least and the most of a number over all runs; nothing where that says nothing.
    pub fn spread(&self, value: impl Fn(&Figures) -> f64) -> Option<(f64, f64)> {
        if self.file.knee.is_some() || self.file.runs.len() < 2 {
            return None;
        }
        let values = self.file.runs.iter().map(|run| value(&run.figures));
        let fold =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(one), high.max(one)));
        Some(fold)
    }
}

/// What samples of these results count from and to.
pub(super) fn what_latency(all: &[Compared]) -> &'static str {
    if all.iter().all(|one| !one.end_to_end.is_empty()) {
        "from when a message should have been sent to its receipt"
    } else if all.iter().all(|one| one.end_to_end.is_empty()) {
        "from when a message should have been sent to its acknowledgement"
    } else {
        "from when a message should have been sent to its receipt, or where nobody received to its acknowledgement"
    }
}

//! The report as JSON, for programs. It omits the samples, which are in the result files.

use serde::Serialize;

use super::compared::Compared;
use crate::latency::Summary;
use crate::load::{Environment, Figures, Knee};

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    system: &'a str,
    system_version: &'a str,
    durability: &'a str,
    runs: usize,
    throughput_per_second: f64,
    throughput_of_first: Option<f64>,
    latency: Summary,
    p99_of_first: Option<f64>,
    knee: Option<Knee>,
    sweep: Option<Vec<&'a Figures>>,
    figures: &'a Figures,
    environment: &'a Environment,
}

/// Returns a list of the results, each with its ratios to the first.
pub fn summary(all: &[Compared]) -> serde_json::Result<String> {
    let first = all.first();
    let lines: Vec<Line<'_>> = all
        .iter()
        .map(|one| Line {
            name: &one.name,
            system: &one.file.system,
            system_version: &one.file.system_version,
            durability: &one.file.durability,
            runs: one.file.runs.len(),
            throughput_per_second: one.figures().throughput(),
            throughput_of_first: first.and_then(|first| one.throughput_of(first)),
            latency: Summary::of(one.latency()),
            p99_of_first: first.and_then(|first| one.p99_of(first)),
            knee: one.file.knee,
            sweep: one.file.steps().map(|runs| runs.iter().map(|run| &run.figures).collect()),
            figures: one.figures(),
            environment: &one.file.environment,
        })
        .collect();
    serde_json::to_string_pretty(&lines)
}

//! The same as JSON, for programs: without the samples, which the results themselves have.

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
    figures: &'a Figures,
    environment: &'a Environment,
}

/// A list of the results, each beside the first.
pub fn summary(all: &[Compared]) -> serde_json::Result<String> {
    let part = |value: f64, first: Option<f64>| first.filter(|first| *first > 0.0).map(|first| value / first);
    let first = all.first();
    let p99 = |one: &Compared| one.latency().value_at_quantile(0.99) as f64;
    let lines: Vec<Line<'_>> = all
        .iter()
        .map(|one| Line {
            name: &one.name,
            system: &one.file.system,
            system_version: &one.file.system_version,
            durability: &one.file.durability,
            runs: one.file.runs.len(),
            throughput_per_second: one.figures().throughput(),
            throughput_of_first: part(
                one.figures().throughput(),
                first.filter(|first| one.does_as(first)).map(|first| first.figures().throughput()),
            ),
            latency: Summary::of(one.latency()),
            p99_of_first: part(p99(one), first.filter(|first| one.counts_as(first)).map(p99)),
            knee: one.file.knee,
            figures: one.figures(),
            environment: &one.file.environment,
        })
        .collect();
    serde_json::to_string_pretty(&lines)
}

//! The list of charts, each with its title and its caption.

use hdrhistogram::Histogram;

use super::compared::{Compared, what_latency};
use super::percentiles::Line;
use super::theme::Theme;
use super::{heat, knee, percentiles, ratios, sweep, timeline, waterfall};
use crate::latency::{Stage, decode};

/// A drawn chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The name of its file, without an extension.
    pub name: String,
    /// The heading.
    pub title: String,
    /// A sentence or two about what the chart shows.
    pub caption: String,
    /// The drawing, as SVG.
    pub svg: String,
}

fn chart(
    name: impl Into<String>,
    title: impl Into<String>,
    caption: impl Into<String>,
    svg: String,
) -> Chart {
    Chart { name: name.into(), title: title.into(), caption: caption.into(), svg }
}

/// Draws every chart that these results allow.
pub fn charts(theme: Theme, all: &[Compared]) -> Vec<Chart> {
    let mut charts = Vec::new();
    let what = what_latency(all);
    if all.len() > 1 {
        let caption = "A line through a bar spans the lowest to the highest of several runs.";
        charts.push(chart("throughput-compared", "Throughput", caption, ratios::throughput(theme, all)));
        let caption = format!("Latency is the time {what}. The axis is logarithmic.");
        charts.extend(
            ratios::latency(theme, all).map(|svg| chart("latency-compared", "Latency", caption, svg)),
        );
    }
    let measured = all.iter().enumerate().filter(|(_, one)| !one.latency().is_empty());
    let series: Vec<Line<'_>> =
        measured.map(|(number, one)| (number, one.name.clone(), one.latency())).collect();
    if !series.is_empty() {
        let caption = format!(
            "Latency is the time {what}, one sample for each message. Each nine takes the same width; the end is the slowest message."
        );
        charts.push(chart(
            "percentiles",
            "Latency by percentile",
            caption,
            percentiles::percentiles(theme, &series),
        ));
    }
    charts.extend(knee::knee(theme, all).map(|svg| {
        let caption = "Each dot is a run at that rate. At small dots the rate was not sustained.";
        chart("knee", "The knee", caption, svg)
    }));
    for kind in sweep::Kind::ALL {
        let drawn = sweep::sweep(theme, all, kind);
        charts.extend(drawn.map(|svg| chart(kind.name(), kind.title(), kind.caption(), svg)));
    }
    if all.iter().any(|one| one.run().intervals.len() > 1) {
        let caption = "Messages received in each second, or acknowledged if there were no consumers. For the median run, or the run at the knee.";
        charts.push(chart("throughput", "Throughput over time", caption, timeline::throughput(theme, all)));
        if !series.is_empty() {
            let caption =
                "Each second holds the messages that were answered in it, so a stall shows at its end.";
            charts.push(chart("latency", "Latency over time", caption, timeline::latency(theme, all)));
        }
    }
    for (number, one) in all.iter().enumerate() {
        charts.extend(of_one(theme, one, number));
    }
    charts
}

/// Draws the charts of one result.
fn of_one(theme: Theme, one: &Compared, number: usize) -> Vec<Chart> {
    let mut charts = Vec::new();
    let name = |kind: &str| if number == 0 { kind.to_owned() } else { format!("{kind}-{}", number + 1) };
    if one.run().intervals.len() > 1
        && let Some(svg) = heat::heat(theme, one, number)
    {
        let caption = "Every message, by the second of its answer and by its latency. Darker cells hold more messages, on a logarithmic scale.";
        charts.push(chart(name("heat"), format!("All latencies over time: {}", one.name), caption, svg));
    }
    if let Some(svg) = waterfall::waterfall(theme, one) {
        let caption = "The mean of each stage over all messages; together they make up the whole. A stage that a message skips counts as \
                       zero. p99 is that of each stage by itself, so the values do not add up.";
        charts.push(chart(name("waterfall"), format!("Where the time goes: {}", one.name), caption, svg));
    }
    let stages = stages(one);
    if !stages.is_empty() {
        let lines =
            stages.iter().enumerate().map(|(number, (name, histogram))| (number, name.clone(), histogram));
        let series: Vec<Line<'_>> = lines.collect();
        let caption = "The server's own histograms of the same time, next to those of the client.";
        let svg = percentiles::percentiles(theme, &series);
        charts.push(chart(name("stages"), format!("Stages by percentile: {}", one.name), caption, svg));
    }
    charts
}

/// Returns the histograms of whole paths: those of the server, then those of the client. Empty without a
/// server.
fn stages(one: &Compared) -> Vec<(String, Histogram<u64>)> {
    let wanted = [Stage::Produce, Stage::Commit, Stage::DeliverLive, Stage::DeliverBacklog, Stage::Turn];
    let run = one.run();
    let of_server = wanted.into_iter().filter_map(|stage| {
        let histogram = run.stage(stage)?.decoded()?.ok()?;
        Some((format!("server: {}", stage.name()), histogram))
    });
    let mut all: Vec<(String, Histogram<u64>)> = of_server.collect();
    if all.is_empty() {
        return all;
    }
    // The client's histograms are of the same run.
    for (name, text) in [("client: acknowledged", &run.produce), ("client: received", &run.end_to_end)] {
        all.extend(text.as_deref().and_then(|text| decode(text).ok()).map(|samples| (name.into(), samples)));
    }
    all
}

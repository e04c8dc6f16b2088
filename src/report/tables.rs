//! Results in numbers: tables of text cells, for the page and for Markdown.

use super::axis::count;
use super::compared::Compared;
use crate::base::clock::rfc3339;
use crate::latency::{Stage, Unit, time};
use crate::load::{ClaimFigures, Fairness, Figures, Knee, Verdict};

/// A table: its head, and rows with as many cells.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self { head: head.iter().map(|cell| (*cell).to_owned()).collect(), rows }
    }
}

/// Formats a ratio like `2.41 ×`, or as a dash if there is none.
fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or("–".into(), |ratio| format!("{ratio:.2} ×"))
}

/// Formats the lowest and the highest p99 of several runs.
fn p99_spread(one: &Compared) -> String {
    let p99 = |figures: &Figures| figures.latency().map_or(0.0, |latency| latency.p99 as f64);
    let spread = one.spread(p99).map(|(low, high)| (time(low as u64), time(high as u64)));
    spread.map_or(String::new(), |(low, high)| format!(" ({low} to {high})"))
}

/// Formats the outcome of a search for the knee.
fn knee(one: &Compared) -> Option<String> {
    let Knee { p99_max, rate, .. } = one.file.knee?;
    let bound = time(p99_max);
    Some(match rate {
        Some(rate) => format!("; knee: the highest rate with p99 under {bound} is {} /s", count(rate)),
        None => format!("; no knee: no rate kept p99 under {bound}"),
    })
}

/// Returns the table of figures, with ratios to the first result.
pub(super) fn results(all: &[Compared]) -> Table {
    let first = all.first();
    let rows = all.iter().map(|one| {
        let figures = one.figures();
        let rate = figures.throughput();
        let spread = one.spread(|figures| figures.throughput());
        let spread =
            spread.map_or(String::new(), |(low, high)| format!(" ({} to {})", count(low), count(high)));
        let has_samples = !one.latency().is_empty();
        let said = |nanos| if has_samples { time(nanos) } else { "–".into() };
        let at = |quantile| said(one.latency().value_at_quantile(quantile));
        vec![
            one.name.clone(),
            format!("{} /s{spread}", count(rate)),
            ratio(first.and_then(|first| one.throughput_of(first))),
            format!("{:.1} MB/s", figures.throughput_bytes() / 1e6),
            at(0.5),
            format!("{}{}", at(0.99), p99_spread(one)),
            ratio(first.and_then(|first| one.p99_of(first))),
            at(0.999),
            said(one.latency().max()),
            figures.server_cpu_seconds_per_million.map_or("–".into(), |seconds| format!("{seconds:.3} s")),
        ]
    });
    let head = [
        "result",
        "throughput",
        "relative to first",
        "payload",
        "p50",
        "p99",
        "relative to first",
        "p99.9",
        "max",
        "server CPU per million",
    ];
    Table::new(&head, rows.collect())
}

/// The caption of [`sweep`].
pub(super) const SWEEP: &str = "Slowest and fastest producer: their messages that were acknowledged in the measured time. \
                                Elsewhere, the fastest run represents the sweep.";

/// Returns the table of a sweep's runs, if the result is a sweep.
pub(super) fn sweep(one: &Compared) -> Option<Table> {
    let rows = one.file.steps()?.iter().map(|run| {
        let figures = &run.figures;
        let dash = || "–".to_owned();
        let mut row = vec![figures.producers.to_string(), format!("{} /s", count(figures.throughput()))];
        let latency = figures.latency().map(|latency| [latency.p50, latency.p99, latency.p999, latency.max]);
        row.extend(latency.map_or_else(|| [(); 4].map(|()| dash()), |values| values.map(time)));
        let fairness = figures.producer_fairness;
        row.extend(fairness.map_or_else(
            || [dash(), dash()],
            |Fairness { slowest, fastest, .. }| [slowest, fastest].map(|messages| messages.to_string()),
        ));
        row.push(ratio(fairness.and_then(|fairness| fairness.ratio)));
        row.push(
            figures.server_cpu_seconds_per_million.map_or_else(dash, |seconds| format!("{seconds:.3} s")),
        );
        row.push(if figures.is_sound() { "sound".into() } else { "NOT SOUND".into() });
        row
    });
    let head = [
        "connections",
        "throughput",
        "p50",
        "p99",
        "p99.9",
        "max",
        "slowest producer",
        "fastest producer",
        "fastest / slowest",
        "server CPU per million",
        "verified",
    ];
    Some(Table::new(&head, rows.collect()))
}

/// Returns the table of loads, with the outcome of verification.
pub(super) fn loads(all: &[Compared]) -> Table {
    let rows = all.iter().map(|one| {
        let figures = one.figures();
        let mode = format!("{:?}", figures.mode).to_lowercase();
        let mut load = format!(
            "{mode}, {} B, {} per request, {} producers, {} {}, {} queues",
            figures.size,
            figures.batch,
            figures.producers,
            figures.consumers,
            if figures.claims.is_some() { "workers" } else { "consumers" },
            figures.queues
        );
        for (number, what) in
            [(figures.keys, "keys"), (figures.idle, "idle connections"), (figures.stalled, "stalled readers")]
        {
            if number > 0 {
                load += &format!(", {number} {what}");
            }
        }
        if let Some(tls) = &figures.tls {
            load += &format!(", over {tls}");
        }
        let pace = figures.rate.map_or("as fast as possible (closed loop)".into(), |rate| format!("{} /s on schedule (open loop)", count(rate)));
        let pace = pace + &knee(one).unwrap_or_default();
        let fairness = [("producers", figures.producer_fairness), ("consumers", figures.consumer_fairness)];
        for (of, fairness) in fairness {
            if let Some(ratio) = fairness.and_then(|fairness| fairness.ratio) {
                load += &format!("; the fastest of the {of} had {ratio:.2} × the messages of the slowest");
            }
        }
        let Verdict { received, lost, repeated_or_out_of_order, foreign, .. } = figures.verified;
        let claims = figures.claims.map_or(String::new(), |claims| {
            let ClaimFigures { settled, settle_latency, confirmed, twice, again, expired, .. } = claims;
            let until = if confirmed { "confirmed" } else { "sent" };
            let latency = settle_latency.map_or(String::new(), |latency| {
                format!(" (p50 {}, p99 {} from the claim until it was {until})", time(latency.p50), time(latency.p99))
            });
            format!(
                ", {settled} acknowledged by workers{latency}, {twice} at two workers at once, {again} claimed again after \
                 their acknowledgement, {expired} not acknowledged in time"
            )
        });
        let sound = if figures.is_sound() { "sound" } else { "NOT SOUND" };
        let sustained = match figures {
            Figures { interrupted: true, .. } => "; interrupted",
            _ if figures.is_sustained() => "",
            _ => "; rate not sustained",
        };
        vec![
            one.name.clone(),
            load,
            pace,
            format!("{} × {:.0} s", one.file.runs.len(), figures.measured_seconds),
            format!(
                "{sound}: {} acknowledged, {received} received, {} missing, {lost} lost, {repeated_or_out_of_order} repeated or out of \
                 order, {foreign} foreign, {} refused{claims}{sustained}",
                figures.acknowledged, figures.missing, figures.refused
            ),
        ]
    });
    Table::new(&["result", "load", "pace", "runs", "verified"], rows.collect())
}

/// Returns the table of systems under load, with the durability that each promises.
pub(super) fn systems(all: &[Compared]) -> Table {
    let rows = all.iter().map(|one| {
        let file = &one.file;
        let server = file.server.as_ref().map_or_else(String::new, |server| {
            let build = if server.is_release { "" } else { ", A DEBUG BUILD" };
            format!("store {}, cores {:?}, revision {}{build}", server.store, server.cores, server.revision)
        });
        vec![
            one.name.clone(),
            format!("{} {}", file.system, file.system_version),
            file.durability.clone(),
            server,
        ]
    });
    Table::new(&["result", "system", "an acknowledged message is", "server"], rows.collect())
}

/// Returns the table of machines that the load ran on.
pub(super) fn environments(all: &[Compared]) -> Table {
    let rows = all.iter().map(|one| {
        let at = &one.file.environment;
        let kind = if at.is_virtual { "virtual" } else { "bare metal" };
        let build = if at.is_release { "" } else { ", A DEBUG BUILD" };
        let governor = at.governor.clone().unwrap_or_else(|| "unknown".into());
        let isolated = if at.isolated.is_empty() { "none" } else { &at.isolated };
        vec![
            one.name.clone(),
            format!("{} × {}, {kind}", at.cpus, at.cpu),
            format!("{} GiB", (at.memory_bytes as f64 / (1u64 << 30) as f64).round()),
            format!("Linux {}", at.kernel),
            format!("clients on {:?}; governor {governor}; isolated {isolated}", at.client_cores),
            format!("{}, revision {}{build}", at.version, at.revision),
            rfc3339(one.file.began).unwrap_or_else(|| "unknown".into()),
        ]
    });
    Table::new(
        &["result", "processors", "memory", "system", "cores", "load generator", "began"],
        rows.collect(),
    )
}

/// Returns the table of the server's stages for one result, if it has any.
pub(super) fn stages(one: &Compared) -> Option<Table> {
    let rows: Vec<Vec<String>> = one
        .run()
        .stages
        .iter()
        .map(|page| {
            let is_time = Stage::find(&page.stage).is_none_or(|stage| stage.unit() == Unit::Nanoseconds);
            let say = |value: u64| if is_time { time(value) } else { count(value as f64) };
            let summary = page.summary;
            let mut row = vec![page.stage.clone(), page.what.clone(), count(summary.count as f64)];
            row.extend([summary.mean as u64, summary.p50, summary.p99, summary.p999, summary.max].map(say));
            row
        })
        .collect();
    let head = ["stage", "what it is", "values", "mean", "p50", "p99", "p99.9", "max"];
    (!rows.is_empty()).then(|| Table::new(&head, rows))
}

/// Returns the table of the servers' settings, one column per result. Returns `None` if no result has a
/// server.
pub(super) fn settings(all: &[Compared]) -> Option<Table> {
    let servers: Vec<_> = all.iter().filter_map(|one| Some((one, one.file.server.as_ref()?))).collect();
    let (_, first) = servers.first()?;
    let mut head = vec!["setting"];
    head.extend(servers.iter().map(|(one, _)| one.name.as_str()));
    let rows = first.settings.keys().map(|key| {
        let values = servers.iter().map(|(_, server)| server.settings.get(key).cloned().unwrap_or_default());
        [key.clone()].into_iter().chain(values).collect()
    });
    Some(Table::new(&head, rows.collect()))
}

//! The page `/latency`, and the shards' histograms as Prometheus' buckets.

use axum::extract::{Query, State};
use axum::response::Response;
use hdrhistogram::Histogram;
use prometheus::proto::{Bucket, LabelPair, Metric, MetricFamily, MetricType};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Control;
use super::pages::{self, JSON, Page};
use crate::latency::{Recorder, Stage, Summary, Unit, decode, encode};
use crate::shard::Board;

/// Upper bounds of Prometheus' buckets for times, in seconds: 1, 2, 5 and their tenfolds, from 1 µs to 2
/// million s. Messages may wait for their consumers for their whole lifetime, which is up to 14 days by
/// default.
const TIME_BOUNDS: [f64; 38] = [
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5,
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6,
    2e6,
];

/// Upper bounds of Prometheus' buckets for counts.
const COUNT_BOUNDS: [f64; 16] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5];

const NANOS: f64 = 1e-9;

/// The page `/latency`: everything recorded by all shards since the server started, as JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LatencyPage {
    /// The server's version.
    pub version: String,
    /// All stages, in the order of a message's path.
    pub stages: Vec<StagePage>,
}

/// A stage on the page.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct StagePage {
    /// The name of the stage.
    pub stage: String,
    /// A description of the stage.
    pub what: String,
    /// The unit of the values: `nanoseconds`, or what they count.
    pub unit: String,
    /// The count, the mean and the percentiles.
    #[serde(flatten)]
    pub summary: Summary,
    /// The whole histogram in HdrHistogram's V2 format, compressed and in base64. Only if it was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histogram: Option<String>,
}

impl StagePage {
    /// Decodes the whole histogram, if the page has it.
    pub fn decoded(&self) -> Option<Result<Histogram<u64>, String>> {
        self.histogram.as_deref().map(decode)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct LatencyQuery {
    /// Whether to include the whole histograms.
    #[serde(default)]
    histograms: bool,
}

/// Makes the collector collect the shards' histograms, and waits for that.
pub(super) async fn refresh(board: &Board) {
    let (tell, told) = oneshot::channel();
    let collecting = board.collect(move || {
        // Fails if the request was dropped.
        let _ = tell.send(());
    });
    if collecting {
        // An error means that the collector has ended. The page then shows the last known values.
        let _ = told.await;
    }
}

async fn make(board: &Board, histograms: bool) -> Page {
    refresh(board).await;
    let total = board.total();
    let stages = total.iter().map(|(stage, histogram)| StagePage {
        stage: stage.name().into(),
        what: stage.describe().into(),
        unit: stage.unit().name().into(),
        summary: Summary::of(histogram),
        histogram: histograms.then(|| encode(histogram)),
    });
    let version = env!("CARGO_PKG_VERSION").into();
    pages::json(&LatencyPage { version, stages: stages.collect() })
}

pub(super) async fn page(State(control): State<Control>, Query(wanted): Query<LatencyQuery>) -> Response {
    let paced = if wanted.histograms { &control.pages.histograms } else { &control.pages.latency };
    pages::response(paced.get(make(&control.board, wanted.histograms)).await, JSON)
}

/// Returns the histogram families of `/metrics`: one family with a label for all stages that are times, and
/// one family for each stage that counts.
pub(super) fn families(total: &Recorder) -> Vec<MetricFamily> {
    let times = total.iter().filter(|(stage, _)| stage.unit() == Unit::Nanoseconds);
    let times = times.map(|(stage, histogram)| {
        let mut label = LabelPair::default();
        label.set_name("stage".into());
        label.set_value(stage.name().into());
        metric(vec![label], histogram, &TIME_BOUNDS, NANOS)
    });
    let times = family(
        "millstream_stage_duration_seconds",
        "Time that messages spent in each stage, and duration of the shards' turns",
        times.collect(),
    );
    let counts = [
        (Stage::BatchMessages, "millstream_batch_messages", "Messages in a stored batch"),
        (Stage::InboxDepth, "millstream_inbox_depth", "Deliveries in a shard's inbox at the start of a turn"),
    ];
    let counts = counts.map(|(stage, name, help)| {
        family(name, help, vec![metric(Vec::new(), total.of(stage), &COUNT_BOUNDS, 1.0)])
    });
    [times].into_iter().chain(counts).collect()
}

fn family(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(metrics);
    family
}

/// Converts a histogram into Prometheus' buckets. Each value counts as the lowest value that HdrHistogram
/// cannot distinguish from it, which differs by at most a thousandth.
fn metric(labels: Vec<LabelPair>, values: &Histogram<u64>, bounds: &[f64], scale: f64) -> Metric {
    let mut counts = vec![0; bounds.len()];
    let mut sum = 0.0;
    for step in values.iter_recorded() {
        let lowest = values.lowest_equivalent(step.value_iterated_to()) as f64 * scale;
        let count = step.count_since_last_iteration();
        sum += values.median_equivalent(step.value_iterated_to()) as f64 * scale * count as f64;
        let bucket = bounds.partition_point(|bound| *bound < lowest);
        if let Some(bucket) = counts.get_mut(bucket) {
            *bucket += count;
        }
    }
    let mut cumulative = 0;
    let buckets = bounds.iter().zip(counts).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = prometheus::proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(values.len());
    histogram.set_sample_sum(sum);
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_buckets_hold_every_value_once_and_grow() {
        let mut total = Recorder::default();
        // Two hours and a year.
        let long = [(7_200_000_000_000, 1), (31_536_000_000_000_000, 2)];
        for (nanos, count) in [(900, 3), (1_000_000, 4), (1_000_001, 1)].into_iter().chain(long) {
            total.record(Stage::Commit, nanos, count);
        }
        total.count();
        let families = families(&total);
        let metrics = families[0].get_metric();
        let commit = metrics.iter().find(|one| one.get_label()[0].value() == "commit").unwrap();
        let buckets: Vec<(f64, u64)> = commit
            .get_histogram()
            .get_bucket()
            .iter()
            .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
            .collect();
        let at = |bound| buckets.iter().find(|(upper, _)| *upper == bound).unwrap().1;
        assert_eq!((at(1e-6), at(5e-4), at(1e-3), at(100.0)), (3, 3, 8, 8));
        assert_eq!((at(5e3), at(1e4), at(2e6)), (8, 9, 9), "values above an hour count");
        assert_eq!(commit.get_histogram().get_sample_count(), 11, "including values beyond the last bound");
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1 && pair[0].0 < pair[1].0));
        let sum = commit.get_histogram().get_sample_sum();
        assert!((sum / 63_079_200.0 - 1.0).abs() < 1e-3, "{sum}");
    }
}

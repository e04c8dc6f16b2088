//! Tests the latency histograms of the real binary: each message counts once in each of its stages, and all
//! outputs agree.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::Server;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use millstream::control::LatencyPage;
use millstream::latency::{Stage, decode, histogram};

/// The number of messages in a run.
const COUNT: u64 = 20_000;

fn page(server: &Server) -> LatencyPage {
    let (status, body) = server.control("/latency?histograms=true");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Returns the number of values in each stage.
fn counts(page: &LatencyPage) -> BTreeMap<&str, u64> {
    page.stages.iter().map(|line| (line.stage.as_str(), line.summary.count)).collect()
}

/// Produces and consumes `COUNT` messages with two producers, each on its own partition.
fn run_both(server: &Server) {
    let count = COUNT.to_string();
    let placed = ["--partitions", "2", "--partition-offset", "0", "--connections", "2"];
    let load = ["bench", "both", "--count", &count, "--consumers", "2", "--queue", "measured"];
    let status = server.run(&[&load[..], &placed].concat()).stdout(std::process::Stdio::null()).status();
    assert!(status.unwrap().success());
}

fn log_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("millstream-{name}-{}.hlog", std::process::id()))
}

#[test]
fn each_message_counts_once_per_stage_and_all_outputs_agree() {
    let path = log_path("stages");
    let server = Server::start(&[
        "--cores",
        "0-1",
        "--partitions",
        "2",
        "--latency-log",
        path.to_str().unwrap(),
        "--latency-interval",
        "100ms",
    ]);
    run_both(&server);
    let page = page(&server);
    let counts = counts(&page);
    assert_eq!(page.stages.len(), Stage::COUNT);
    for stage in ["parse", "commit", "ack", "produce"] {
        assert_eq!(counts[stage], COUNT, "{stage}: {counts:?}");
    }
    assert_eq!(counts["deliver_live"] + counts["deliver_backlog"], COUNT, "{counts:?}");
    assert_eq!(counts["hop"], counts["hop_back"]);
    assert_eq!(counts["hop"], server.metric("millstream_messages_hopped_total"));
    assert!(counts["turn"] > 0 && counts["batch_messages"] > 0);

    let find = |name: &str| page.stages.iter().find(|line| line.stage == name).unwrap();
    let (whole, commit) = (find("produce").summary, find("commit").summary);
    assert!(whole.p50 >= commit.p50 && whole.max >= commit.max, "{whole:?} {commit:?}");
    assert_eq!(find("produce").decoded().unwrap().unwrap().len(), COUNT);

    let of_metrics =
        |stage| server.metric(&format!("millstream_stage_duration_seconds_count{{stage=\"{stage}\"}}"));
    assert_eq!((of_metrics("produce"), of_metrics("commit")), (COUNT, COUNT));
    // The sum of a histogram is exact to a thousandth.
    assert!(server.metric("millstream_batch_messages_sum").abs_diff(COUNT) <= COUNT / 1000);

    assert_eq!(server.stop(), 0);
    let text = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut sums = BTreeMap::new();
    for entry in IntervalLogIterator::new(&text) {
        if let LogEntry::Interval(line) = entry.unwrap() {
            let sum = sums.entry(line.tag().unwrap().as_str().to_owned()).or_insert_with(histogram);
            sum.add(decode(line.encoded_histogram()).unwrap()).unwrap();
        }
    }
    for name in ["parse", "commit", "ack", "produce", "deliver_live", "batch_messages"] {
        assert_eq!(sums[name].len(), counts[name], "{name}");
    }
}

#[test]
fn an_unwritable_latency_log_is_refused_at_the_start() {
    let mut command = std::process::Command::new(common::BINARY);
    command.args(["serve", "--listen", "127.0.0.1:0", "--store", "memory", "--cores", "0"]);
    let output = command.args(["--latency-log", "/nowhere/at/all.hlog"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("latency_log = /nowhere/at/all.hlog"), "{said}");
}

/// Collects the metric names in the expressions of the Grafana dashboard.
fn names(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if key == "expr" || key == "query" => {
                        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                        found.extend(words.filter(|word| word.starts_with("millstream_")).map(str::to_owned));
                    }
                    _ => names(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| names(value, found)),
        _ => {}
    }
}

#[test]
fn the_grafana_dashboard_uses_existing_metrics_and_stages() {
    let text = include_str!("../perf/grafana.json");
    let dashboard = serde_json::from_str(text).unwrap();
    let mut asked = BTreeSet::new();
    names(&dashboard, &mut asked);
    assert!(asked.len() > 15, "{asked:?}");
    let server = Server::start(&["--cores", "0"]);
    // The server has not counted anything yet, but it must export every metric.
    let (_, metrics) = server.control("/metrics");
    for name in &asked {
        let has = |line: &str| line.split(['{', ' ']).next() == Some(name);
        assert!(metrics.lines().any(has), "no metric is called {name}");
    }
    for part in text.split("stage=\\\"").skip(1) {
        let stage = part.split('\\').next().unwrap();
        assert!(Stage::find(stage).is_some(), "no stage is called {stage}");
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_latency_log_that_others_can_read_causes_a_warning() {
    let name = format!("readable-{}.hlog", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, "").unwrap();
    for (mode, is_open) in [(0o640, true), (0o600, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let server = Server::start(&["--cores", "0", "--latency-log", path.to_str().unwrap()]);
        // The server logs the warning before its port, so it is in the log when the start returns.
        let warning = "latency log accessible to other users";
        assert_eq!(server.log().iter().any(|line| line.contains(warning)), is_open, "{mode:o}");
        assert_eq!(server.stop(), 0);
    }
    std::fs::remove_file(&path).unwrap();
}

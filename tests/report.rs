//! Tests `millstream report` on results of real loads: all output formats, and refused inputs.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::Server;

/// A directory of results that is removed at the end of the test.
struct Results(PathBuf);

impl Drop for Results {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Results {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("millstream-report-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn measure(&self, server: &Server, file: &str, arguments: &[&str]) {
        let control = format!("http://127.0.0.1:{}", server.control);
        let mut command = server.run(&["bench"]);
        command.args(arguments).args(["--control", &control, "--out"]).arg(self.path(file));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn report(arguments: &[&Path]) -> Output {
    Command::new(common::BINARY).arg("report").args(arguments).output().unwrap()
}

/// A result's name that tries to inject HTML into the page.
const HOSTILE: &str = "<script>alert(1)</script> & \"others\"";

#[test]
fn all_outputs_of_a_comparison_agree() {
    let server = Server::start(&["--cores", "0-1"]);
    let results = Results::new("all");
    let timed = ["--seconds", "2", "--warmup", "0.2"];
    let both = [&["both", "--rate", "5000", "--runs", "2", "--name", "first"], &timed[..]].concat();
    results.measure(&server, "1.json", &both);
    let produce = [&["produce", "--rate", "20000", "--name", HOSTILE], &timed[..]].concat();
    results.measure(&server, "2.json", &produce);
    let knee = [
        "produce",
        "--find-knee",
        "--p99-max",
        "5s",
        "--seconds",
        "0.3",
        "--warmup",
        "0.1",
        "--rate",
        "20000",
        "--name",
        "first",
    ];
    results.measure(&server, "3.json", &knee);
    let files = ["1.json", "2.json", "3.json"].map(|name| results.path(name));
    let (html, json, markdown) = (results.path("r.html"), results.path("r.json"), results.path("r.md"));
    let (svg, png) = (results.path("svg"), results.path("png"));
    let output = Command::new(common::BINARY)
        .arg("report")
        .args(&files)
        .args([Path::new("--html"), &html, Path::new("--json"), &json, Path::new("--markdown"), &markdown])
        .args([Path::new("--svg"), &svg, Path::new("--png"), &png])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");

    let page = fs::read_to_string(&html).unwrap();
    assert!(!page.contains("<script"), "a result's name must be escaped");
    assert!(page.contains("&lt;script&gt;"));
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    for word in ["src=", "href=", "url(", "@import", "<link"] {
        assert!(!outside.contains(word), "the page must not load anything: {word}");
    }
    for heading in [
        "Results",
        "Throughput",
        "Latency",
        "Latency by percentile",
        "The knee",
        "Throughput over time",
        "Latency over time",
        "All latencies over time: first",
        "Where the time goes: first",
        "Stages by percentile: first",
        "Where it ran",
        "Settings",
    ] {
        assert!(page.contains(&format!("<h2>{heading}</h2>")), "{heading}");
    }
    assert!(page.contains("first (2)"), "two results with the same name must get different names");
    for nowhere in ["NaN", "\"inf", ",inf", "\"-inf"] {
        assert!(!page.contains(nowhere), "every coordinate must be a finite number: {nowhere}");
    }

    let lines: serde_json::Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let (first, second) = (&lines[0], &lines[1]);
    assert_eq!(first["throughput_of_first"], 1.0);
    assert!(second["throughput_of_first"].is_null(), "different loads must not be compared");
    let rate = first["throughput_per_second"].as_f64().unwrap();
    assert!((4_500.0..5_500.0).contains(&rate), "{rate}");
    let samples = first["latency"]["count"].as_u64().unwrap();
    assert!((18_000..=20_000).contains(&samples), "the samples of both runs must count: {first}");
    let markdown = fs::read_to_string(&markdown).unwrap();
    assert!(markdown.contains("\n| first | ") && markdown.contains("](svg/percentiles.svg)"), "{markdown}");
    assert!(markdown.contains("knee: the highest rate with p99 under 5.00 s is"), "{markdown}");

    let pictures: Vec<PathBuf> = fs::read_dir(&png).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pictures.len() >= 9, "{pictures:?}");
    assert_eq!(pictures.len(), fs::read_dir(&svg).unwrap().count());
    for picture in pictures {
        let bytes = fs::read(&picture).unwrap();
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 5_000, "{}", picture.display());
    }
}

#[test]
fn invalid_results_are_refused_by_name() {
    let results = Results::new("bad");
    let cases = [
        ("text", "no JSON at all", "text: not a result of `millstream bench --out`: expected"),
        ("other", "{\"a\": 1}", "other: not a result of `millstream bench --out`"),
        ("later", "{\"millstream_bench\": 99}", "later: its format is 99; this program reads 1"),
        ("half", "{\"millstream_bench\": 1}", "half: missing field"),
    ];
    for (name, text, why) in cases {
        fs::write(results.path(name), text).unwrap();
        let output = report(&[&results.path(name), Path::new("--json"), Path::new("-")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    }
    let output = report(&[&results.path("missing")]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_sweep_has_its_table_and_its_charts() {
    let server = Server::start(&["--cores", "0"]);
    let results = Results::new("sweep");
    let timed = ["--seconds", "0.5", "--warmup", "0.1", "--batch", "10"];
    results.measure(
        &server,
        "1.json",
        &[&["produce", "--sweep", "connections=1,5,20", "--name", HOSTILE], &timed[..]].concat(),
    );
    let (html, json, markdown) = (results.path("r.html"), results.path("r.json"), results.path("r.md"));
    let output = Command::new(common::BINARY)
        .arg("report")
        .arg(results.path("1.json"))
        .args([Path::new("--html"), &html, Path::new("--json"), &json, Path::new("--markdown"), &markdown])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(&html).unwrap();
    for heading in [
        "Throughput by number of connections",
        "p99 by number of connections",
        "Fairness by number of connections",
    ] {
        assert!(page.contains(&format!("<h2>{heading}</h2>")), "{heading}");
    }
    assert!(page.contains("<h2>By number of connections: &lt;script&gt;"));
    for nowhere in ["<script", "NaN", "\"inf", ",inf", "\"-inf"] {
        assert!(!page.contains(nowhere), "{nowhere}");
    }
    let lines: serde_json::Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let steps = lines[0]["sweep"].as_array().unwrap();
    let producers: Vec<u64> = steps.iter().map(|step| step["producers"].as_u64().unwrap()).collect();
    assert_eq!(producers, [1, 5, 20]);
    assert!(steps[0]["producer_fairness"].is_null() && steps[2]["producer_fairness"]["slowest"].is_u64());
    let markdown = fs::read_to_string(&markdown).unwrap();
    assert!(
        markdown.contains("| connections | throughput |") && markdown.contains("\n| 20 | "),
        "{markdown}"
    );
}

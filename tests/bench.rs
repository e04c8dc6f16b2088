//! Tests `millstream bench` against the real server: what it measures, that a stalled server cannot hide its
//! latency, and which files it keeps.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "bench/zaqar.rs"]
mod zaqar;

use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use common::{Server, eventually};
use millstream::load::{ResultFile, RunResult};

struct Load {
    out: PathBuf,
    result: Option<ResultFile>,
    output: Output,
}

/// Runs `bench` with these arguments and reads the file that it wrote.
fn bench(server: &Server, name: &str, arguments: &[&str]) -> Load {
    let out = std::env::temp_dir().join(format!("millstream-bench-{name}-{}.json", std::process::id()));
    let control = format!("http://127.0.0.1:{}", server.control);
    let mut command = server.run(&["bench"]);
    command.args(arguments).args(["--control", &control, "--out", out.to_str().unwrap()]);
    let output = command.output().unwrap();
    let result = ResultFile::parse(&std::fs::read_to_string(&out).unwrap()).ok();
    Load { out, result, output }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.out);
    }
}

impl Load {
    fn sound(&self) -> &ResultFile {
        let said = String::from_utf8_lossy(&self.output.stdout);
        assert!(self.output.status.success(), "{said}{}", String::from_utf8_lossy(&self.output.stderr));
        self.result.as_ref().expect("bench must write a result")
    }

    fn run(&self) -> &RunResult {
        &self.sound().runs[0]
    }
}

/// The rate of the runs that send on a schedule, in messages per second.
const RATE: u64 = 4_000;

#[test]
fn a_stalled_server_cannot_hide_its_latency() {
    let server = Server::start(&["--cores", "0"]);
    let rate = RATE.to_string();
    let began = Instant::now();
    let load = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let load = ["both", "--rate", &rate, "--warmup", "0", "--seconds", "5", "--batch", "10"];
            bench(&server, "stall", &load)
        });
        // The server must stall while the load runs, however late the load starts on a busy machine.
        eventually("the load runs", || {
            (server.metric("millstream_messages_received_total") > 0).then_some(())
        });
        server.signal("STOP");
        let stopped = Instant::now();
        while stopped.elapsed() < Duration::from_millis(500) {
            std::thread::yield_now();
        }
        server.signal("CONT");
        load.join().unwrap()
    });
    let figures = &load.run().figures;
    assert!(began.elapsed() < Duration::from_secs(30));
    // A tenth of the messages were due during the stall, and waited a quarter of a second on average.
    for latency in [figures.produce_latency.unwrap(), figures.end_to_end_latency.unwrap()] {
        // All connections are open before the first message is due.
        assert_eq!(latency.count, 5 * RATE, "{latency:?}");
        assert!(latency.p99 >= 400_000_000, "{latency:?}");
        assert!(latency.max >= 450_000_000, "{latency:?}");
        assert!(latency.p50 < 400_000_000, "{latency:?}");
    }
    let mut report = std::process::Command::new(common::BINARY);
    report.arg("report").arg(&load.out).args(["--json", "-"]);
    let report: serde_json::Value = serde_json::from_slice(&report.output().unwrap().stdout).unwrap();
    assert!(
        report[0]["latency"]["p99"].as_u64().unwrap() >= 400_000_000,
        "the report must show the stall: {report}"
    );
    let worst = load.run().intervals.iter().filter_map(|interval| interval.end_to_end.as_deref());
    let worst = worst.map(|text| millstream::latency::decode(text).unwrap().max()).max().unwrap();
    assert!(worst >= 450_000_000, "the intervals must show the stall, too: {worst}");
}

#[test]
fn server_and_client_histograms_cover_the_same_messages() {
    let server = Server::start(&["--cores", "0-1", "--partitions", "2"]);
    let rate = RATE.to_string();
    let load = bench(&server, "agree", &["both", "--rate", &rate, "--warmup", "1", "--seconds", "3"]);
    let run = load.run();
    let client = run.figures.produce_latency.unwrap();
    let stage = |name: &str| run.stages.iter().find(|stage| stage.stage == name).unwrap().summary;
    let whole = stage("produce");
    // The server counts from the start of the window, too, except for messages in flight at its edges.
    assert!(whole.count.abs_diff(client.count) <= RATE / 2, "{} and {}", whole.count, client.count);
    assert!(whole.p50 <= client.p50 && whole.mean <= client.mean, "{whole:?} {client:?}");
    let parts = ["parse", "commit", "ack"].map(|name| stage(name).mean).iter().sum::<f64>();
    let hops = stage("produce").count as f64;
    let hop = run.stages.iter().filter(|stage| stage.stage.starts_with("hop"));
    let hop: f64 = hop.map(|stage| stage.summary.mean * stage.summary.count as f64 / hops).sum();
    let error = (parts + hop) / whole.mean - 1.0;
    assert!(error.abs() < 0.05, "the stages must add up to the whole: {parts} + {hop} of {}", whole.mean);
}

#[test]
fn keys_fan_out_idle_connections_and_stalled_readers_are_verified_together() {
    let server = Server::start(&["--cores", "0"]);
    let load = [
        "fan-out",
        "--consumers",
        "3",
        "--keys",
        "50",
        "--count",
        "6000",
        "--idle",
        "40",
        "--stalled",
        "5",
        "--connections",
        "2",
    ];
    let load = bench(&server, "all", &load);
    let figures = &load.run().figures;
    assert_eq!((figures.acknowledged, figures.verified.received), (6_000, 18_000));
    assert_eq!((figures.keys, figures.idle, figures.stalled), (50, 40, 5));
    assert_eq!(figures.setup_latency.unwrap().count, 45);
    let pid = server.pid().to_string();
    let idle = bench(&server, "idle", &["idle", "--idle", "100", "--seconds", "1", "--server-pid", &pid]);
    assert_eq!(idle.run().figures.setup_latency.unwrap().count, 100);
    assert!(idle.run().figures.server_held_bytes.is_some());
}

#[test]
fn messages_that_cannot_be_sent_in_time_count_as_late() {
    let server = Server::start(&["--cores", "0", "--project-messages-per-sec", "1000"]);
    let load = ["produce", "--rate", "20000", "--warmup", "0", "--seconds", "1", "--in-flight", "100"];
    let load = bench(&server, "late", &load);
    let figures = &load.run().figures;
    let latency = figures.produce_latency.unwrap();
    assert!(figures.unsent > 5_000, "{} were not sent", figures.unsent);
    assert!(latency.p50 > 5_000_000_000, "{latency:?}: most must wait until the grace period ends");
    assert_eq!(
        latency.count,
        figures.acknowledged + figures.unsent,
        "each message that was due must have a sample"
    );
    assert!(String::from_utf8_lossy(&load.output.stdout).contains("not sustained"));
}

#[test]
fn repeated_runs_report_their_spread_and_find_knee_finds_a_rate() {
    let server = Server::start(&["--cores", "0"]);
    let runs = bench(&server, "runs", &["produce", "--runs", "3", "--seconds", "0.3", "--warmup", "0.1"]);
    assert_eq!(runs.sound().runs.len(), 3);
    assert!(String::from_utf8_lossy(&runs.output.stdout).contains("3 runs:"));
    let load = [
        "produce",
        "--find-knee",
        "--p99-max",
        "2s",
        "--seconds",
        "0.3",
        "--warmup",
        "0.1",
        "--rate",
        "5000",
    ];
    let knee = bench(&server, "knee", &load);
    let found = knee.sound().knee.unwrap();
    assert_eq!(found.p99_max, 2_000_000_000);
    assert!(found.rate.unwrap() > 0.0, "{found:?}");
    assert!(knee.sound().runs.len() > 1);
    let result = knee.sound();
    assert_eq!(
        (&result.system[..], result.server.as_ref().unwrap().store.as_str()),
        ("millstream", "memory")
    );
    assert!(!result.environment.cpu.is_empty() && !result.environment.kernel.is_empty());
}

#[test]
fn an_unwritable_result_file_is_an_error_before_the_run() {
    let began = Instant::now();
    let output = std::process::Command::new(common::BINARY)
        .args(["bench", "produce", "--seconds", "600", "--out", "/nowhere/at/all.json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/at/all.json"));
    assert!(began.elapsed() < Duration::from_secs(60));
}

/// Returns the names of the entries of a directory.
fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_failed_run_leaves_no_file_and_an_interrupted_run_keeps_its_result() {
    let folder = std::env::temp_dir().join(format!("millstream-interrupt-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let out = folder.join("r.json");
    let failed = std::process::Command::new(common::BINARY)
        .args([
            "bench",
            "produce",
            "--seconds",
            "1",
            "--control",
            "off",
            "--url",
            "ws://127.0.0.1:1/",
            "--out",
        ])
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(names(&folder).is_empty(), "{:?}", names(&folder));

    let server = Server::start(&["--cores", "0"]);
    for (signal, mode, hangs) in [("INT", "both", false), ("TERM", "produce", false), ("INT", "both", true)] {
        let before = server.metric("millstream_messages_received_total");
        let mut command = server.run(&["bench", mode, "--seconds", "600", "--warmup", "0", "--rate", "2000"]);
        command.args(["--control", "off", "--out"]).arg(&out);
        let child = common::spawn(command);
        eventually("the load runs", || {
            (server.metric("millstream_messages_received_total") > before + 1_000).then_some(())
        });
        if hangs {
            server.signal("STOP");
        }
        let pid = child.id().to_string();
        let killed = std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        assert!(killed.success());
        let output = child.wait_with_output().unwrap();
        server.signal("CONT");
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("interrupted"), "{output:?}");
        let result = ResultFile::parse(&std::fs::read_to_string(&out).unwrap()).unwrap();
        let figures = &result.runs[0].figures;
        assert!(figures.interrupted && figures.acknowledged > 0, "{figures:?}");
        assert!(figures.acknowledged_per_second > 0.0 && figures.measured_seconds < 600.0, "{figures:?}");
        assert!(figures.is_sound() && figures.unsent < 600 * 2_000, "{figures:?}");
        assert_eq!(names(&folder), ["r.json"]);
        std::fs::remove_file(&out).unwrap();
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn received_bytes_are_counted_by_actual_size() {
    let server = Server::start(&["--cores", "0"]);
    let fill = ["produce", "--queue", "sized", "--size", "1000", "--count", "5000", "--connections", "1"];
    bench(&server, "fill-sized", &fill).sound();
    // This run expects messages of 100 bytes; they have 1,000.
    let read = bench(&server, "read-sized", &["consume", "--queue", "sized", "--count", "5000"]);
    let figures = &read.run().figures;
    assert!(figures.verified.received >= 5_000, "{figures:?}");
    assert_eq!(figures.verified.received_bytes, figures.verified.received * 1_000);
    let each = figures.received_bytes() / figures.received_per_second;
    assert!((each - 1_000.0).abs() < 1e-6, "{each} bytes per message");
}

#[test]
fn all_connections_begin_together_and_are_compared() {
    let server = Server::start(&["--cores", "0"]);
    let load = ["produce", "--connections", "500", "--batch", "1", "--in-flight", "1", "--warmup", "0"];
    let load = bench(&server, "together", &[&load[..], &["--seconds", "1", "--cores", "0-1"]].concat());
    let figures = &load.run().figures;
    let fairness = figures.producer_fairness.unwrap();
    assert!(fairness.slowest > 0, "every connection must send within the window: {fairness:?}");
    assert!(fairness.slowest <= fairness.fastest);
    let ratio = fairness.fastest as f64 / fairness.slowest as f64;
    assert!(fairness.ratio.is_some_and(|shown| (shown - ratio).abs() < 1e-9), "{fairness:?}");
    assert!(figures.consumer_fairness.is_none());
    assert!(String::from_utf8_lossy(&load.output.stdout).contains("slowest"));
}

#[test]
fn a_connection_that_is_not_set_up_ends_the_run_with_a_count() {
    let server = Server::start(&["--cores", "0", "--max-connections", "1000"]);
    // A stopped server accepts connections in its backlog, and answers nothing.
    server.signal("STOP");
    for arguments in [&["both", "--connections", "7"][..], &["idle", "--idle", "8"]] {
        let mut command = server.run(&["bench"]);
        command.args(arguments).args(["--control", "off", "--setup-timeout", "300ms"]);
        let began = Instant::now();
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("only 0 of 8 connections are set up"), "{said}");
        assert!(said.contains("--setup-timeout"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    server.signal("CONT");
}

#[test]
fn an_interrupt_while_connections_are_set_up_ends_the_run() {
    let server = Server::start(&["--cores", "0"]);
    let mut command = server.run(&["bench", "produce", "--connections", "3", "--seconds", "600"]);
    command.args(["--control", "off", "--setup-timeout", "1h"]);
    server.signal("STOP");
    let child = common::spawn(command);
    let pid = child.id().to_string();
    // Its signals are handled before it connects, so it can be interrupted once it has sockets.
    eventually("the load connects", || {
        let sockets = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let names = sockets.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        (names.filter(|name| name.to_string_lossy().starts_with("socket:")).count() >= 3).then_some(())
    });
    let interrupted = std::process::Command::new("kill").args(["-s", "INT", &pid]).status().unwrap();
    assert!(interrupted.success());
    let output = child.wait_with_output().unwrap();
    server.signal("CONT");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
}

#[test]
fn a_sweep_runs_each_number_of_connections_and_stops_at_a_failure() {
    let server = Server::start(&["--cores", "0"]);
    let timed = ["--seconds", "0.3", "--warmup", "0.1", "--batch", "10"];
    let sweep = [&["produce", "--sweep", "connections=1,3,40"], &timed[..]].concat();
    let load = bench(&server, "sweep", &sweep);
    let result = load.sound();
    assert_eq!(result.sweep.as_ref().unwrap().connections, [1, 3, 40]);
    let producers: Vec<u32> = result.runs.iter().map(|run| run.figures.producers).collect();
    assert_eq!(producers, [1, 3, 40]);
    let fair: Vec<bool> = result.runs.iter().map(|run| run.figures.producer_fairness.is_some()).collect();
    assert_eq!(fair, [false, true, true], "one connection has no other");
    let fastest = result.chosen().unwrap().figures.throughput();
    assert!(result.runs.iter().all(|run| run.figures.throughput() <= fastest));
    let table = String::from_utf8_lossy(&load.output.stdout).into_owned();
    assert!(table.contains("connections") && table.contains("p99.9"), "{table}");

    let mut command =
        server.run(&["bench", "produce", "--sweep", "connections=2", "--json", "--control", "off"]);
    let printed = command.args(timed).output().unwrap();
    let printed: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(printed["sweep"][0]["producers"], 2);

    // The server has no room for the second step. The first one is kept.
    let small = Server::start(&["--cores", "0", "--max-connections", "20"]);
    let sweep = [&["produce", "--sweep", "connections=2,200,3"], &timed[..]].concat();
    let load = bench(&small, "sweep-fails", &sweep);
    assert_eq!(load.output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&load.output.stderr).contains("the sweep ended early"));
    assert_eq!(load.result.as_ref().unwrap().runs.len(), 1);
}

#[test]
fn a_sweep_that_cannot_work_is_refused_before_it_begins() {
    for (arguments, word) in [
        (&["produce", "--sweep", "rate"][..], "only the connections can be swept"),
        (&["produce", "--sweep", "connections=0"], "from 1 to"),
        (&["consume", "--sweep", "connections"], "--sweep: works only with"),
        (
            &["both", "--sweep", "connections"],
            "--lag 200000: must be at least --batch x --connections = 1000000",
        ),
        (&["produce", "--sweep", "connections", "--runs", "2"], "cannot be used with"),
    ] {
        let output =
            std::process::Command::new(common::BINARY).arg("bench").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
    let few = "ulimit -n 5000; exec \"$0\" bench produce --sweep connections";
    let output = std::process::Command::new("sh").args(["-c", few, common::BINARY]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("only 5000 files") && said.contains("RLIMIT_NOFILE"), "{said}");
}

#[test]
fn batches_larger_than_the_credit_are_sent_in_parts() {
    // The server grants each producer 300 messages.
    let server = Server::start(&["--cores", "0", "--produce-window", "300"]);
    for (name, pace) in
        [("open", &["--rate", "20000", "--connections", "2"][..]), ("closed", &["--connections", "2"])]
    {
        let load = ["both", "--batch", "1000", "--warmup", "0.2", "--seconds", "1"];
        let load = bench(&server, &format!("parts-{name}"), &[&load[..], pace].concat());
        let figures = &load.run().figures;
        assert!(figures.acknowledged > 10_000, "{name}: {figures:?}");
        if let Some(rate) = figures.rate {
            assert_eq!(figures.unsent, 0, "{figures:?}");
            assert_eq!(
                figures.produce_latency.unwrap().count,
                rate as u64,
                "each message that was due counts"
            );
        }
    }
}

//! Runs the load generator against other real servers, which the tests start. Each message is produced,
//! received and verified.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use millstream::load::ResultFile;

/// A server that one of `perf/`'s scripts runs. It ends when its standard input is closed.
struct Peer {
    script: Child,
    /// Its URL, and the flags that a client needs.
    address: Vec<String>,
}

impl Peer {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("perf").join(name);
        let mut script = Command::new(script)
            .args(arguments)
            .arg("--attached")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(!address.is_empty(), "perf/{name} must start the server");
        Self { script, address: address.split_whitespace().map(str::to_owned).collect() }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

fn out(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("millstream-peer-{name}-{}.json", std::process::id()))
}

/// Runs `bench` against the server: without keys, with keys, on a schedule, and with the stored messages.
fn is_measured(peer: &Peer, name: &str) {
    let out = out(name);
    let loads: [(&[&str], u64); 4] = [
        (&["both", "--count", "3000", "--connections", "2", "--consumers", "2"], 6_000),
        (&["both", "--count", "3000", "--keys", "7", "--queue", "keyed"], 3_000),
        (&["both", "--rate", "2000", "--warmup", "0.2", "--seconds", "1", "--queue", "paced"], 0),
        (&["consume", "--count", "3000"], 3_000),
    ];
    for (load, received) in loads {
        let output = Command::new(env!("CARGO_BIN_EXE_millstream"))
            .arg("bench")
            .args(load)
            .args(["--against", name, "--out", out.to_str().unwrap(), "--url"])
            .args(&peer.address)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{load:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        let result = ResultFile::parse(&std::fs::read_to_string(&out).unwrap()).unwrap();
        let figures = &result.runs[0].figures;
        assert_eq!(result.system, name);
        assert_eq!(figures.tls.is_some(), peer.address[0].starts_with("wss://"), "{:?}", figures.tls);
        assert!(result.durability.contains("acknowledged") || result.durability.contains("acks=all"));
        if received > 0 {
            assert!(figures.verified.received >= received, "{load:?}: {said}");
        } else {
            let latency = figures.end_to_end_latency.unwrap();
            assert!(latency.count > 1_000 && latency.p50 > 0, "{latency:?}");
        }
    }
    std::fs::remove_file(out).unwrap();
}

/// Runs `bench claim` against the server, without and with confirmed acknowledgements.
fn workers_are_measured(peer: &Peer, name: &str) {
    let out = out(&format!("{name}-claim"));
    for more in [&["--queue", "jobs"][..], &["--queue", "jobs", "--double-ack"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_millstream"))
            .args(["bench", "claim", "--count", "3000", "--connections", "2", "--workers", "2"])
            .args(more)
            .args(["--against", name, "--out", out.to_str().unwrap(), "--url"])
            .args(&peer.address)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{more:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        let result = ResultFile::parse(&std::fs::read_to_string(&out).unwrap()).unwrap();
        let claims = result.runs[0].figures.claims.unwrap();
        assert_eq!((claims.settled, claims.twice, claims.again), (3_000, 0, 0), "{said}");
        assert_eq!(claims.confirmed, more.contains(&"--double-ack"));
        assert!(claims.settle_latency.unwrap().p50 > 0);
    }
    std::fs::remove_file(out).unwrap();
}

#[test]
fn bench_measures_kafka() {
    is_measured(
        &Peer::start("kafka", &["up", "1", "--port", "19292", "--dir", "target/kafka/peer"]),
        "kafka",
    );
}

#[test]
fn bench_measures_nats() {
    let peer = Peer::start("nats", &["up", "--port", "18180"]);
    is_measured(&peer, "nats");
    workers_are_measured(&peer, "nats");
    drop(peer);
    // Over TLS. Only one server of the script can run at a time.
    is_measured(&Peer::start("nats", &["up", "--port", "18190", "--tls"]), "nats");
}

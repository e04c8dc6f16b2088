//! Tests `millstream claim` with real processes: what is done is done once, what is not done comes again.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{BINARY, Server, eventually, feed, spawn};
use place::Place;

fn server() -> Server {
    Server::start(&["--cores", "0"])
}

/// Stores one message for each line.
fn produce(server: &Server, queue: &str, lines: &str) {
    let output = feed(server.run(&["produce", queue]), lines.as_bytes());
    assert!(output.status.success(), "{}", said(&output));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn printed(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Runs a worker to its end.
fn claim(server: &Server, arguments: &[&str]) -> Output {
    feed(server.run(&[&["claim"], arguments].concat()), b"")
}

/// Claims and returns what can be claimed.
fn left(server: &Server, queue: &str) -> Vec<String> {
    let output = claim(server, &[queue, "--exit-when-idle", "1"]);
    assert!(output.status.success(), "{}", said(&output));
    printed(&output)
}

/// Starts a worker that runs until it is told to end.
fn start(server: &Server, arguments: &[&str]) -> Child {
    let mut command = server.run(&[&["claim"], arguments].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn(command)
}

fn signal(child: &Child, name: &str) {
    let killed = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
}

/// A file that commands append to.
struct Notes(PathBuf);

impl Notes {
    fn new(place: &Place) -> Self {
        Self(place.0.join("notes"))
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.0).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits until there are this many lines.
    fn wait_for(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} lines"), || Some(self.lines()).filter(|lines| lines.len() >= count))
    }

    /// Returns a command that notes what `words` expand to.
    fn note(&self, words: &str) -> String {
        format!("echo \"{words}\" >> {}", self.0.display())
    }
}

/// A command that waits for a file.
fn wait_until(path: &Path) -> String {
    format!("while ! test -e {}; do sleep 0.01; done", path.display())
}

#[test]
fn exit_codes_acknowledge_release_and_reject() {
    let server = server();
    produce(&server, "jobs", "good\nbad\nfine\n");
    let output = claim(
        &server,
        &[
            "jobs",
            "--exec",
            "test \"$(cat)\" != bad",
            "--max-claims",
            "3",
            "--retry-delay",
            "0",
            "--exit-when-idle",
            "1",
        ],
    );
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("2 acknowledged, 2 released, 1 rejected"), "{said}");
    assert!(said.contains("rejected after 3 claims: exit status: 1"), "{said}");
    assert!(left(&server, "jobs").is_empty());
}

#[test]
fn a_command_learns_about_its_message() {
    let server = server();
    let produced = feed(server.run(&["produce", "jobs", "--key-separator", ":"]), b"anna:one\ntwo\n");
    assert!(produced.status.success());
    let command = "echo \"$(cat) $MILLSTREAM_KEY $MILLSTREAM_KEY_BASE64 $MILLSTREAM_COUNT $MILLSTREAM_QUEUE\"; \
                   test -n \"$MILLSTREAM_ID\"";
    let output = claim(&server, &["jobs", "--exec", command, "--count", "2"]);
    assert!(output.status.success(), "{}", said(&output));
    let mut lines = printed(&output);
    lines.sort();
    assert_eq!(lines, ["one anna YW5uYQ== 1 jobs", "two   1 jobs"]);
}

#[test]
fn a_failed_message_comes_again_after_its_delay() {
    let (server, place) = (server(), Place::new("claim-delay"));
    let notes = Notes::new(&place);
    produce(&server, "jobs", "one\n");
    let command = format!("{}; test $MILLSTREAM_COUNT = 2", notes.note("$MILLSTREAM_COUNT $(date +%s%N)"));
    let output = claim(&server, &["jobs", "--exec", &command, "--retry-delay", "2", "--count", "2"]);
    assert!(output.status.success(), "{}", said(&output));
    let lines = notes.lines();
    let times: Vec<(&str, u64)> = lines
        .iter()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(count, nanos)| (count, nanos.parse().unwrap()))
        .collect();
    let [("1", first), ("2", second)] = times[..] else { panic!("{lines:?}") };
    assert!(second - first >= 1_900_000_000, "{lines:?}");
}

#[test]
fn commands_run_in_parallel_and_no_more_than_asked() {
    let (server, place) = (server(), Place::new("claim-parallel"));
    let notes = Notes::new(&place);
    produce(&server, "jobs", "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    // The first three wait for each other.
    let together = format!("while test $(wc -l < {}) -lt 3; do sleep 0.01; done", notes.0.display());
    let command = format!("{}; {together}; {}", notes.note("begin"), notes.note("end"));
    let output = claim(&server, &["jobs", "--exec", &command, "--parallel", "3", "--count", "9"]);
    assert!(output.status.success(), "{}", said(&output));
    let mut running = 0i32;
    for line in notes.lines() {
        running += if line == "begin" { 1 } else { -1 };
        assert!((0..=3).contains(&running), "{:?}", notes.lines());
    }
    assert_eq!(notes.lines().len(), 18);
    assert!(left(&server, "jobs").is_empty());
}

#[test]
fn the_first_signal_finishes_what_is_under_way() {
    let (server, place) = (server(), Place::new("claim-term"));
    let (notes, go) = (Notes::new(&place), place.0.join("go"));
    produce(&server, "jobs", "one\ntwo\n");
    let command = format!("{}; {}; {}", notes.note("begin"), wait_until(&go), notes.note("end"));
    let worker = start(&server, &["jobs", "--exec", &command, "--prefetch", "1"]);
    notes.wait_for(1);
    signal(&worker, "TERM");
    // The message that waits for a command is still held, so another worker finds nothing.
    assert!(left(&server, "jobs").is_empty());
    fs::write(&go, "").unwrap();
    let output = worker.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("1 acknowledged, 0 released"), "{}", said(&output));
    assert_eq!(notes.lines(), ["begin", "end"]);
    let output =
        claim(&server, &["jobs", "--exec", "echo $(cat) $MILLSTREAM_COUNT", "--exit-when-idle", "1"]);
    assert_eq!(printed(&output), ["two 1"], "it never began, so it does not count");
}

#[test]
fn the_second_signal_kills_and_releases() {
    let (server, place) = (server(), Place::new("claim-second"));
    let notes = Notes::new(&place);
    produce(&server, "jobs", "one\n");
    let worker = start(&server, &["jobs", "--exec", &format!("{}; sleep 1000", notes.note("begin"))]);
    notes.wait_for(1);
    signal(&worker, "TERM");
    signal(&worker, "INT");
    let output = worker.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    let output =
        claim(&server, &["jobs", "--exec", "echo $(cat) $MILLSTREAM_COUNT", "--exit-when-idle", "1"]);
    assert_eq!(printed(&output), ["one 2"]);
}

#[test]
fn messages_of_a_killed_worker_come_again_when_its_claim_ends() {
    let (server, place) = (server(), Place::new("claim-kill"));
    let notes = Notes::new(&place);
    produce(&server, "jobs", "one\n");
    let command = format!("{}; exec sleep 1000", notes.note("$$"));
    let mut worker = start(&server, &["jobs", "--exec", &command, "--ttl", "3"]);
    let command = notes.wait_for(1).remove(0);
    worker.kill().unwrap();
    worker.wait().unwrap();
    // Only SIGKILL leaves a command behind.
    assert!(Command::new("kill").args(["-KILL", &command]).status().unwrap().success());
    assert!(left(&server, "jobs").is_empty(), "the claim lasts");
    let output = claim(&server, &["jobs", "--exec", "echo $(cat) $MILLSTREAM_COUNT", "--count", "1"]);
    assert_eq!(printed(&output), ["one 2"]);
}

#[test]
fn a_claim_is_renewed_while_its_command_runs() {
    let (server, place) = (server(), Place::new("claim-renew"));
    let (notes, go) = (Notes::new(&place), place.0.join("go"));
    produce(&server, "jobs", "one\n");
    let command = format!("{}; {}", notes.note("begin"), wait_until(&go));
    let worker = start(&server, &["jobs", "--exec", &command, "--ttl", "1", "--count", "1"]);
    notes.wait_for(1);
    let output = claim(&server, &["jobs", "--exit-when-idle", "3"]);
    assert!(output.status.success() && printed(&output).is_empty(), "three times the ttl");
    fs::write(&go, "").unwrap();
    let output = worker.wait_with_output().unwrap();
    assert!(said(&output).contains("1 acknowledged"), "{}", said(&output));
    assert!(!said(&output).contains("another worker"), "{}", said(&output));
    assert_eq!(notes.lines().len(), 1);
}

#[test]
fn a_command_that_hangs_is_killed_and_its_message_released() {
    let server = server();
    produce(&server, "jobs", "one\n");
    let command = "test $MILLSTREAM_COUNT = 2 || sleep 1000";
    let output =
        claim(&server, &["jobs", "--exec", command, "--timeout", "1", "--retry-delay", "0", "--count", "2"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("the command was killed after 1 s"), "{}", said(&output));
    assert!(said(&output).contains("1 acknowledged, 1 released"), "{}", said(&output));
}

#[test]
fn a_large_payload_arrives_whole_and_need_not_be_read() {
    let server = server();
    let large = "x".repeat(1 << 20);
    produce(&server, "jobs", &format!("{large}\n{large}\n"));
    let command = format!("test $(wc -c) = {}", large.len());
    let output = claim(&server, &["jobs", "--exec", &command, "--count", "1"]);
    assert!(said(&output).contains("1 acknowledged"), "{}", said(&output));
    let output = claim(&server, &["jobs", "--exec", "true", "--count", "1"]);
    assert!(said(&output).contains("1 acknowledged"), "{}", said(&output));
}

#[test]
fn a_command_that_cannot_be_run_ends_the_worker_and_its_message_is_kept() {
    let server = server();
    produce(&server, "jobs", "one\n");
    let output = claim(&server, &["jobs", "--exec", "/nonexistent/command", "--retry-delay", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("could not run the command"), "{}", said(&output));
    assert_eq!(left(&server, "jobs"), ["one"]);
}

#[test]
fn a_delayed_message_is_not_claimed_before_its_time() {
    let server = server();
    let produced = feed(server.run(&["produce", "jobs", "--delay", "3"]), b"later\n");
    assert!(produced.status.success(), "{}", said(&produced));
    assert!(left(&server, "jobs").is_empty());
    let output = claim(&server, &["jobs", "--count", "1"]);
    assert_eq!(printed(&output), ["later"]);
}

#[test]
fn what_was_not_written_to_a_closed_pipe_is_given_back() {
    let server = server();
    let lines: Vec<String> = (0..20_000).map(|number| format!("line {number:06}")).collect();
    produce(&server, "jobs", &(lines.join("\n") + "\n"));
    let mut worker = start(&server, &["jobs", "--prefetch", "20000"]);
    let mut first = String::new();
    BufReader::with_capacity(16, worker.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = worker.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141), "{}", said(&output));
    let left = left(&server, "jobs");
    assert!(left.len() > 10_000, "a pipe holds 64 KiB: {} messages are left", left.len());
    assert!(left.contains(&lines[19_999]));
}

#[test]
fn printed_messages_are_acknowledged_up_to_the_count() {
    let server = server();
    produce(&server, "jobs", "one\ntwo\nthree\n");
    let output = claim(&server, &["jobs", "--count", "2", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let lines = printed(&output);
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.contains("\"count\":1")), "{lines:?}");
    assert_eq!(left(&server, "jobs").len(), 1);
    assert!(left(&server, "jobs").is_empty());
}

#[test]
fn two_workers_share_a_queue() {
    let server = server();
    let lines: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    produce(&server, "jobs", &(lines.join("\n") + "\n"));
    let workers = [(); 2].map(|()| start(&server, &["jobs", "--prefetch", "10", "--exit-when-idle", "1"]));
    let mut all: Vec<u32> = workers
        .into_iter()
        .flat_map(|worker| printed(&worker.wait_with_output().unwrap()))
        .map(|line| line.parse().unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..5_000).collect::<Vec<u32>>());
}

/// A proxy whose connections the test cuts.
struct Proxy {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let connections = open.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                connections
                    .lock()
                    .unwrap()
                    .extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        // Either side may have been cut.
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        Self { port, open }
    }

    /// Cuts all connections. Returns how many there were.
    fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        // Fails for a connection that has ended.
        open.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        open.len() / 2
    }
}

#[test]
fn a_lost_connection_settles_by_claim_what_was_done_meanwhile() {
    let (server, place) = (server(), Place::new("claim-cut"));
    let (notes, go) = (Notes::new(&place), place.0.join("go"));
    let proxy = Proxy::start(server.port);
    produce(&server, "jobs", "one\ntwo\n");
    let command = format!("{}; {}; test \"$(cat)\" = one", notes.note("$MILLSTREAM_COUNT"), wait_until(&go));
    let mut worker = Command::new(BINARY);
    worker.args(["claim", "jobs", "--url", &format!("ws://127.0.0.1:{}/", proxy.port)]);
    worker.args([
        "--exec",
        &command,
        "--parallel",
        "2",
        "--retry-delay",
        "0",
        "--max-claims",
        "1",
        "--count",
        "2",
    ]);
    worker.stdout(Stdio::piped()).stderr(Stdio::piped());
    let worker = spawn(worker);
    notes.wait_for(2);
    assert_eq!(proxy.cut(), 1);
    fs::write(&go, "").unwrap();
    let output = worker.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("1 acknowledged, 0 released, 1 rejected"), "{}", said(&output));
    assert_eq!(notes.lines(), ["1", "1"], "no command ran twice");
    assert!(left(&server, "jobs").is_empty());
}

#[test]
fn a_lost_connection_does_not_end_the_claim_of_a_running_command() {
    let (server, place) = (server(), Place::new("claim-cut-twice"));
    let (notes, go) = (Notes::new(&place), place.0.join("go"));
    let proxy = Proxy::start(server.port);
    produce(&server, "jobs", "one\n");
    let command = format!("{}; {}", notes.note("begin"), wait_until(&go));
    let mut worker = Command::new(BINARY);
    worker.args(["claim", "jobs", "--url", &format!("ws://127.0.0.1:{}/", proxy.port)]);
    worker.args(["--exec", &command, "--ttl", "2", "--count", "1"]);
    worker.stdout(Stdio::piped()).stderr(Stdio::piped());
    let worker = spawn(worker);
    notes.wait_for(1);
    for _ in 0..2 {
        proxy.cut();
        // A connection takes less than a second to come back, so the claim is renewed in time.
        assert!(left(&server, "jobs").is_empty());
        eventually("a connection", || (!proxy.open.lock().unwrap().is_empty()).then_some(()));
    }
    let output = claim(&server, &["jobs", "--exit-when-idle", "3"]);
    assert!(output.status.success() && printed(&output).is_empty(), "longer than the ttl");
    fs::write(&go, "").unwrap();
    let output = worker.wait_with_output().unwrap();
    assert!(said(&output).contains("1 acknowledged"), "{}", said(&output));
    assert!(left(&server, "jobs").is_empty());
}

#[test]
fn a_signal_ends_a_worker_whose_server_is_gone() {
    let server = server();
    let mut worker = server.run(&["claim", "jobs", "--retries", "1000"]);
    worker.stderr(Stdio::piped());
    let mut worker = spawn(worker);
    let mut heard = BufReader::new(worker.stderr.take().unwrap());
    drop(server);
    heard.read_line(&mut String::new()).unwrap();
    let began = Instant::now();
    signal(&worker, "TERM");
    std::thread::spawn(move || heard.read_to_end(&mut Vec::new()));
    assert!(worker.wait().unwrap().code().is_some_and(|code| code <= 1));
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn bench_claim_verifies_every_message() {
    let server = server();
    let bench = |more: &[&str]| {
        let arguments =
            ["bench", "claim", "--cores", "0", "--count", "30000", "--connections", "2", "--json"];
        feed(server.run(&[&arguments[..], more].concat()), b"")
    };
    let figures = |output: &Output| -> serde_json::Value {
        assert!(output.status.success(), "{}{}", said(output), printed(output).join("\n"));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let closed = figures(&bench(&[]));
    assert_eq!((&closed["acknowledged"], &closed["claims"]["settled"]), (&30_000.into(), &30_000.into()));
    assert_eq!((&closed["claims"]["twice"], &closed["claims"]["again"]), (&0.into(), &0.into()));
    assert!(closed["claims"]["settle_latency"]["p50"].as_u64().unwrap() > 0);
    let open = figures(&bench(&["--rate", "20000", "--workers", "2", "--window", "1000"]));
    assert_eq!((&open["missing"], &open["claims"]["settled"]), (&0.into(), &30_000.into()));
    // A message that is no load's is left alone, and fails the run.
    let mut produce = server.run(&["produce", "bench"]);
    produce.stdin(Stdio::piped());
    let mut produce = spawn(produce);
    produce.stdin.take().unwrap().write_all(b"other\n").unwrap();
    assert!(produce.wait().unwrap().success());
    assert_eq!(bench(&[]).status.code(), Some(1));
    assert_eq!(left(&server, "bench"), ["other"]);
}

#[test]
fn a_worker_without_messages_ends_while_the_server_is_away() {
    let server = server();
    let child = start(&server, &["jobs"]);
    eventually("the worker's operation", || {
        let (_, metrics) = server.control("/metrics");
        metrics.contains("millstream_operations{kind=\"claim\",shard=\"0\"} 1").then_some(())
    });
    server.signal("KILL");
    server.wait();
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("did not confirm"), "{}", said(&output));
}

#[test]
fn a_worker_learns_that_its_message_was_given_to_another() {
    let server = server();
    produce(&server, "jobs", "job\n");
    let slow = start(&server, &["jobs", "--exec", "cat; sleep 3", "--ttl", "1", "--exit-when-idle", "1"]);
    eventually("the claim", || (server.metric("millstream_claims_leased_messages") == 1).then_some(()));
    // It cannot renew its claim meanwhile.
    signal(&slow, "STOP");
    let place = Place::new("given-again");
    let gate = place.0.join("gate");
    let other = start(&server, &["jobs", "--exec", &wait_until(&gate), "--count", "1"]);
    eventually("the second claim", || {
        (server.metric("millstream_claims_messages_granted_total") == 2).then_some(())
    });
    signal(&slow, "CONT");
    let output = slow.wait_with_output().unwrap();
    assert!(said(&output).contains("0 acknowledged"), "{}", said(&output));
    assert!(said(&output).contains("given to another worker"), "{}", said(&output));
    fs::write(gate, "").unwrap();
    let output = other.wait_with_output().unwrap();
    assert!(said(&output).contains("1 acknowledged"), "{}", said(&output));
}

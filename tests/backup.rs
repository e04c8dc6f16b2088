//! Tests `millstream log backup` with the real binary: under load, again, interrupted, and where it must refuse.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{BINARY, Client, Server, code, eventually, feed, request};
use millstream::auth::token::Digest;
use millstream::pb::{ProduceResponse, ProduceSetupResponse};
use place::Place;
use serde_json::Value;

fn serve(data: &Path, more: &[&str]) -> Server {
    let data = data.to_str().unwrap();
    let base = ["--store", "log", "--data-dir", data, "--partitions", "1", "--log-segment-bytes", "16MiB"];
    Server::start(&[&base[..], &["--cores", "0-1"], more].concat())
}

fn command(data: &Path, target: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["log", "backup", "--data-dir"]).args([data, target]).args(more);
    command.env_remove("MILLSTREAM_CONTROL_TOKEN");
    command
}

fn back_up(data: &Path, target: &Path, more: &[&str]) -> Output {
    command(data, target, more).output().unwrap()
}

/// Makes a backup that must succeed. Returns what it says of itself.
fn made(data: &Path, target: &Path) -> Value {
    let output = back_up(data, target, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns where a backup is made.
fn under_way(target: &Path) -> PathBuf {
    target.with_extension("backup-under-way")
}

/// Starts a backup that takes long, and waits until it copies.
fn slow(data: &Path, target: &Path) -> Child {
    let child = command(data, target, &["--rate", "1MiB"]).stderr(Stdio::piped()).spawn().unwrap();
    let new = under_way(target);
    let copies = |entry: Result<fs::DirEntry, _>| {
        entry.is_ok_and(|of| of.path().extension().is_some_and(|it| it == "segment"))
    };
    eventually("the backup copies", || fs::read_dir(&new).ok()?.any(copies).then_some(()));
    child
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn printed(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn run(server: &Server, arguments: &[&str]) -> Vec<String> {
    let output = feed(server.run(arguments), b"");
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    printed(&output)
}

fn put(server: &Server, queue: &str, lines: &str) {
    let output = feed(server.run(&["produce", queue]), lines.as_bytes());
    assert!(output.status.success(), "{}", said(&output));
}

fn verify(directory: &Path) {
    let output = Command::new(BINARY).args(["log", "verify"]).arg(directory).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output).join("\n"));
}

fn restore(backup: &Path, data: &Path) {
    let _ = fs::remove_dir_all(data);
    assert!(Command::new("cp").arg("-a").args([backup, data]).status().unwrap().success());
}

/// The messages of a request, and the bytes of each.
const BATCH: u64 = 20;
const BYTES: usize = 4_000;

/// A client that produces numbered messages until it is told to end, or the server ends.
struct Load {
    acknowledged: Arc<AtomicU64>,
    /// How many messages it sends at most, so that a slow test does not fill the disk.
    allowed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Load {
    fn into(server: &Server, queue: &str) -> Self {
        let mut client = Client::connect(server);
        client.begin(&common::append(queue));
        assert_eq!(code(&client.receive_as::<ProduceSetupResponse>().status), 100);
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let allowed: Arc<AtomicU64> = Arc::default();
        let (count, most, stopped) = (acknowledged.clone(), allowed.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::SeqCst) {
                if sent >= most.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                let lines: Vec<String> =
                    (sent..sent + BATCH).map(|number| format!("{number:0BYTES$}")).collect();
                let payloads: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
                client.send(&request(Some(3_600), &payloads));
                sent += BATCH;
                while count.load(Ordering::SeqCst) < sent {
                    let response: ProduceResponse = client.receive_as();
                    let is_stored = response.status.is_none() || code(&response.status) == 201;
                    assert!(is_stored, "{response:?}");
                    if let Some(thru) = response.msgnum_status_is_thru {
                        count.store(thru.try_into().unwrap(), Ordering::SeqCst);
                    }
                }
            }
        });
        Self { acknowledged, allowed, stop, thread }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    fn await_more(&self, count: u64) {
        let goal = self.acknowledged() + count;
        self.allow(2 * count);
        eventually("progress", || (self.acknowledged() >= goal).then_some(()));
    }

    /// Lets it send this many more messages.
    fn allow(&self, count: u64) {
        self.allowed.store(self.acknowledged() + count, Ordering::SeqCst);
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// Returns the marker that a consumer printed to resume from.
fn marker(output: &Output) -> String {
    let said = said(output);
    let (_, rest) = said.split_once("--from ").unwrap_or_else(|| panic!("{said}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

/// Runs a command for the operator on a server. Returns what it prints as JSON.
fn operate(server: &Server, arguments: &[&str]) -> Value {
    let control = format!("http://127.0.0.1:{}", server.control);
    let output = Command::new(BINARY).args(arguments).args(["--control", &control, "-o", "json"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_backup_under_load_has_every_acknowledged_message_claim_and_position_and_the_next_copies_only_what_is_new()
 {
    let place = Place::new("backup-load");
    let (data, backup, restored) = (place.data(), place.0.join("backup"), place.0.join("restored"));
    let server = serve(&data, &[]);
    put(&server, "quiet", "one\ntwo\nthree\n");
    let consumed = feed(server.run(&["consume", "quiet", "--count", "2"]), b"");
    let early = marker(&consumed);
    // Of three jobs, the first is done, a worker has the second, and the third waits.
    put(&server, "jobs", "done\nheld\nfree\n");
    operate(&server, &["queue", "set", "jobs", "_max_claim_count=7", "owner=first"]);
    assert_eq!(run(&server, &["claim", "jobs", "--count", "1", "--prefetch", "0"]), ["done"]);
    let held = place.0.join("held");
    // It ends with the directory.
    let note = format!("cat > {0}; while test -e {0}; do sleep 0.1; done", held.display());
    let mut worker = server.run(&["claim", "jobs", "--exec", &note, "--ttl", "3600"]).spawn().unwrap();
    eventually("a claim", || fs::read_to_string(&held).ok().filter(|text| text.starts_with("held")));

    let loads: Vec<Load> = (0..3).map(|number| Load::into(&server, &format!("load-{number}"))).collect();
    loads.iter().for_each(|load| load.await_more(2_000));
    let first = made(&data, &backup);
    assert_eq!(first["is_running"], true);
    verify(&backup);

    loads.iter().for_each(|load| load.await_more(500));
    put(&server, "jobs", "later\n");
    operate(&server, &["queue", "set", "jobs", "owner=second"]);
    let before: Vec<u64> = loads.iter().map(Load::acknowledged).collect();
    let second = made(&data, &backup);
    verify(&backup);
    let bytes = |of: &Value, key: &str| of[key].as_u64().unwrap();
    assert!(bytes(&first, "copied_bytes") > 16 << 20 && bytes(&first, "kept_bytes") == 0, "{first}");
    // Only the two files that were being written are copied again.
    let again = bytes(&first, "copied_bytes") - bytes(&second, "kept_bytes");
    assert!(bytes(&second, "kept_bytes") > 0 && again <= 2 * (16 << 20), "{first} {second}");
    assert!(!under_way(&backup).exists());
    // What is set and consumed from here on is not in it.
    operate(&server, &["queue", "set", "jobs", "owner=third"]);
    put(&server, "quiet", "lost\n");
    let late = marker(&feed(server.run(&["consume", "quiet", "--count", "4"]), b""));
    for entry in fs::read_dir(&backup).unwrap() {
        let found = entry.unwrap().metadata().unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.nlink()), (0o600, 1));
    }
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o700);

    loads.into_iter().for_each(Load::end);
    server.signal("KILL");
    server.wait();
    worker.kill().unwrap();
    worker.wait().unwrap();
    restore(&backup, &restored);
    check_load(&restored, &before);
    let server = serve(&restored, &[]);
    let claimed = run(&server, &["claim", "jobs", "--exit-when-idle", "1"]);
    assert_eq!(claimed, ["free", "later"], "the worker still has its job");
    let attributes = operate(&server, &["queue", "show", "jobs"])["attributes"].clone();
    assert_eq!(attributes, serde_json::json!({"_max_claim_count": 7, "owner": "second"}));
    let rest = run(&server, &["consume", "quiet", "--from", &early, "--count", "1"]);
    assert_eq!(rest, ["three"]);
    put(&server, "quiet", "four\n");
    let rest = run(&server, &["consume", "quiet", "--from", &late, "--count", "1"]);
    assert_eq!(rest, ["four"], "a marker from after the backup skips nothing");
    assert_eq!(server.stop(), 0);
}

/// Checks that the queues of a load hold what was acknowledged, in order and once.
fn check_load(data: &Path, acknowledged: &[u64]) {
    for (number, acknowledged) in acknowledged.iter().enumerate() {
        let queue = format!("load-{number}");
        let output = Command::new(BINARY).args(["log", "dump"]).arg(data).arg(&queue).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let numbers: Vec<u64> = printed(&output).iter().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.len() as u64 >= *acknowledged, "{queue}: {} of {acknowledged}", numbers.len());
        assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{queue}: in order, once each");
    }
}

/// Stores enough for a slow backup to take seconds.
fn filled(data: &Path, more: &[&str]) -> Server {
    let server = serve(data, more);
    let load = Load::into(&server, "q");
    load.await_more(3_000);
    load.end();
    server
}

#[test]
fn a_backup_that_is_interrupted_or_whose_server_ends_leaves_the_earlier_one_as_it_was() {
    let place = Place::new("backup-interrupted");
    let (data, backup, new) = (place.data(), place.0.join("backup"), under_way(&place.0.join("backup")));
    let server = filled(&data, &[]);
    made(&data, &backup);
    let inode = || fs::metadata(&backup).unwrap().ino();
    let before = inode();
    let load = Load::into(&server, "q2");
    load.await_more(3_000);
    load.end();
    // Another backup must wait, to whatever place.
    let child = slow(&data, &backup);
    let same = back_up(&data, &backup, &[]);
    assert!(same.status.code() == Some(2) && said(&same).contains("in use by another"), "{}", said(&same));
    let other = back_up(&data, &place.0.join("other"), &[]);
    assert!(said(&other).contains("another backup is under way"), "{}", said(&other));
    assert!(!under_way(&place.0.join("other")).exists() && !place.0.join("other").exists());
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(!new.exists() && inode() == before);
    verify(&backup);
    // A killed command leaves what it has copied, and its hold.
    let mut child = slow(&data, &backup);
    child.kill().unwrap();
    child.wait().unwrap();
    let refused = back_up(&data, &backup, &[]);
    assert!(said(&refused).contains("within 30 s"), "{}", said(&refused));
    assert_eq!(inode(), before);
    assert_eq!(server.stop(), 0);
    let server = serve(&data, &[]);
    let child = slow(&data, &backup);
    server.signal("KILL");
    server.wait();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("no new backup"), "{}", said(&output));
    assert!(!new.exists() && inode() == before);
    verify(&backup);
    // Without a server, it takes the directory as it was left.
    let made = made(&data, &backup);
    assert_eq!(made["is_running"], false);
    assert_ne!(inode(), before);
    verify(&backup);
}

#[test]
fn a_backup_refuses_places_and_servers_that_are_not_right() {
    let place = Place::new("backup-refused");
    let (data, backup) = (place.data(), place.0.join("backup"));
    let refused = |output: Output, why: &str| {
        let said = said(&output);
        assert!(output.status.code() == Some(2) && said.contains(why), "wanted {why:?}: {said}");
    };
    let tokens = place.0.join("tokens");
    fs::write(
        &tokens,
        format!("reader {} read\nchanger {} change\n", Digest::of("reads"), Digest::of("changes")),
    )
    .unwrap();
    let server =
        serve(&data, &["--control-listen", "127.0.0.1:0", "--control-tokens", tokens.to_str().unwrap()]);
    put(&server, "q", "one\n");
    refused(back_up(&data, &data.join("backup"), &[]), "within it");
    symlink(&data, place.0.join("link")).unwrap();
    refused(back_up(&data, &place.0.join("link"), &[]), "it is the data directory");
    refused(back_up(&data, &place.0.join("missing/backup"), &[]), "missing: No such file");
    fs::create_dir(&backup).unwrap();
    fs::write(backup.join("letter"), "mine").unwrap();
    refused(back_up(&data, &backup, &[]), "neither empty nor a backup");
    assert_eq!(fs::read_to_string(backup.join("letter")).unwrap(), "mine");
    fs::remove_file(backup.join("letter")).unwrap();
    refused(back_up(&place.0.join("nothing"), &backup, &[]), "no such directory");
    refused(back_up(&data, &backup, &["--rate", "1"]), "not within");
    // Over TCP it needs the right to change.
    let control = format!("http://127.0.0.1:{}", server.control);
    let asked = |token: Option<&str>| {
        let mut command = command(&data, &backup, &["--control", &control]);
        if let Some(token) = token {
            command.env("MILLSTREAM_CONTROL_TOKEN", token);
        }
        command.output().unwrap()
    };
    refused(asked(None), "401");
    refused(asked(Some("reads")), "403");
    assert_eq!(asked(Some("changes")).status.code(), Some(0));
    // An empty directory was replaced. A directory with other files is not.
    fs::write(backup.join("letter"), "mine").unwrap();
    refused(back_up(&data, &backup, &[]), "letter");
    fs::remove_file(backup.join("letter")).unwrap();
    // A backup on which a server ran is none.
    let copy = place.0.join("copy");
    restore(&backup, &copy);
    let other = serve(&copy, &[]);
    put(&other, "q", "two\n");
    refused(back_up(&data, &copy, &[]), "neither empty nor a backup");
    let second = place.0.join("second");
    assert_eq!(other.stop(), 0);
    // A copy of the directory is the same log, and another log is not.
    made(&copy, &second);
    made(&data, &second);
    let stranger = place.0.join("stranger");
    let third = serve(&stranger, &["--control-listen", "127.0.0.1:0"]);
    refused(back_up(&stranger, &second, &[]), "a backup of another data directory");
    let control = format!("http://127.0.0.1:{}", third.control);
    refused(
        back_up(&data, &place.0.join("mixed"), &["--control", &control]),
        "does not use the data directory",
    );
    assert!(!place.0.join("mixed").exists() && !under_way(&place.0.join("mixed")).exists());
    let memory = Server::start(&["--cores", "0", "--control-listen", "127.0.0.1:0"]);
    let control = format!("http://127.0.0.1:{}", memory.control);
    refused(back_up(&data, &place.0.join("mixed"), &["--control", &control]), "not the embedded log");
}

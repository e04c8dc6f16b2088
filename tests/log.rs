//! Tests the real server on its embedded log: kills under load, restarts, and the tools for data directories.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;
#[path = "common/random.rs"]
mod random;
#[path = "common/service.rs"]
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{Client, Server};
use millstream::pb::{ConsumeResponse, ProduceResponse, ProduceSetupResponse, Status};
use place::Place;
use random::Random;
use service::{Feed, Service, check};

/// Returns how often to kill the server. `TESTS_KILLS` sets it (default 10).
fn kills() -> u64 {
    std::env::var("TESTS_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10)
}

#[test]
fn random_kills_lose_repeat_and_reorder_nothing_acknowledged() {
    kill_at_random("killed", kills(), Service::start);
}

#[test]
fn random_kills_lose_repeat_and_reorder_nothing_acknowledged_over_tls() {
    let certificate = Place::new("killed-certificate");
    kill_at_random("killed-tls", kills().div_ceil(3), |arguments| {
        Service::start_secure(arguments, &certificate.0)
    });
}

/// Kills a server at random while clients produce, and checks what it has stored.
fn kill_at_random(place: &str, kills: u64, start: impl FnOnce(&[&str]) -> Service) {
    let data = Place::new(place);
    let mut random = Random(std::process::id().into());
    let base = ["--store", "log", "--data-dir", data.text(), "--partitions", "1", "--log-tail-bytes", "1MiB"];
    let mut service = start(&[&base[..], &["--log-segment-bytes", "16MiB"]].concat());
    let feeds: Vec<Feed> = (0..3).map(|number| Feed::into(&service, &format!("load-{number}"))).collect();
    for kill in 0..kills {
        let feed = &feeds[random.below(feeds.len())];
        feed.await_more(random.between(1, 60_000) as u64, &format!("progress before kill {kill}"));
        service.kill();
        service.restart();
    }
    for (number, feed) in feeds.into_iter().enumerate() {
        let (numbers, again) = feed.end();
        check(&service, &format!("load-{number}"), numbers, again);
    }
}

/// How long the claims of the workers last, in seconds: longer than a restart of the server.
const CLAIM_TTL: &str = "20";
/// After how many seconds without a message the workers end: longer than a claim of which no worker heard.
const IDLE: &str = "30";

#[test]
fn random_kills_give_no_message_to_two_workers_and_lose_none() {
    let data = Place::new("killed-claims");
    let mut random = Random(std::process::id().into());
    let base =
        ["--store", "log", "--data-dir", data.text(), "--partitions", "2", "--log-segment-bytes", "16MiB"];
    let mut service = Service::start(&base);
    let feed = Feed::into(&service, "jobs");
    let worker = |_| {
        let options = ["--json", "--ttl", CLAIM_TTL, "--exit-when-idle", IDLE, "--retries", "1000"];
        let mut command = service.run(&[&["claim", "jobs"], &options[..]].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::spawn(move || child.wait_with_output().unwrap())
    };
    let workers: Vec<_> = (0..3).map(worker).collect();
    for kill in 0..kills() {
        feed.await_more(random.between(1, 40_000) as u64, &format!("progress before kill {kill}"));
        service.kill();
        service.restart();
    }
    let (numbers, again) = feed.end();
    let (mut ids, mut seen, mut acknowledged) = (BTreeSet::new(), BTreeMap::new(), 0);
    for worker in workers {
        let output = worker.join().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !said.contains("another worker"), "{said}");
        let count = said
            .lines()
            .find_map(|line| line.split_once(" acknowledged, 0 released"))
            .expect("the summary")
            .0;
        acknowledged += count.parse::<usize>().unwrap();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let message: serde_json::Value = serde_json::from_str(line).unwrap();
            let id = message["id"].as_str().unwrap().to_owned();
            assert!(ids.insert(id), "{line} came twice");
            *seen.entry(message["payload"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
    }
    println!("{numbers} numbers, {again} sent again, {} messages", ids.len());
    assert_eq!(seen.len() as u64, numbers, "a number is missing");
    assert_eq!(acknowledged, ids.len());
    assert!(ids.len() as u64 <= numbers + again, "{} messages, {again} sent again", ids.len());
}

/// Runs `millstream` with these arguments. Returns its standard output, its standard error and its exit code.
fn tool(arguments: &[&str]) -> (String, String, i32) {
    let output = Command::new(common::BINARY).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

fn serve(data: &Place, more: &[&str]) -> Server {
    // Small files, because a debug build scans them slowly.
    let base =
        ["--store", "log", "--data-dir", data.text(), "--partitions", "1", "--log-segment-bytes", "16MiB"];
    Server::start(&[&base[..], more].concat())
}

/// Produces the numbers below `count` into a queue.
fn put(server: &Server, queue: &str, count: u64) {
    let mut producer = server.run(&["produce", queue]).stdin(Stdio::piped()).spawn().unwrap();
    producer.stdin.take().unwrap().write_all(numbers(count).as_bytes()).unwrap();
    assert!(producer.wait().unwrap().success());
}

fn numbers(count: u64) -> String {
    (0..count).map(|number| format!("{number}\n")).collect()
}

/// Returns the first `count` messages of a queue, from the oldest.
fn get(server: &Server, queue: &str, count: u64) -> String {
    let output = server.run(&["consume", queue, "--count", &count.to_string()]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tools_show_state_as_state_and_not_as_messages() {
    let data = Place::new("state");
    std::fs::create_dir_all(&data.0).unwrap();
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/version-2");
    for entry in std::fs::read_dir(golden).unwrap() {
        let from = entry.unwrap().path();
        let to = data.0.join(from.file_name().unwrap());
        std::fs::copy(&from, &to).unwrap();
        if to.extension().is_some_and(|extension| extension == "segment") {
            // The zeros at the end are left out in the golden directory.
            std::fs::OpenOptions::new().write(true).open(&to).unwrap().set_len(1 << 20).unwrap();
        }
    }
    let (table, _, code) = tool(&["log", "verify", data.text()]);
    let sums = table.lines().skip(1).fold((0, 0), |sums, line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        (sums.0 + numbers[2], sums.1 + numbers[3])
    });
    assert_eq!((sums, code), ((50, 20), 0), "{table}");
    let (messages, _, code) = tool(&["log", "dump", data.text(), "work"]);
    assert!(code == 0 && messages.lines().count() == 20 && !messages.contains("note"), "{messages}");
    let (notes, _, code) = tool(&["log", "dump", data.text(), "work", "--state"]);
    let notes: Vec<serde_json::Value> =
        notes.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |partition: u64| {
        let its = notes.iter().filter(move |note| note["partition"] == partition);
        its.map(|note| note["number"].as_u64().unwrap()).collect::<Vec<u64>>()
    };
    assert_eq!((of(0), of(1), code), ((0..10).collect(), (0..10).collect(), 0));
}

#[test]
fn tools_list_the_contents_and_the_damage_of_a_directory() {
    let data = Place::new("tools");
    let server = serve(&data, &[]);
    put(&server, "one", 1000);
    put(&server, "two", 10);
    let (_, said, code) = tool(&["log", "verify", data.text()]);
    assert!(code == 2 && said.contains("another server"), "{said}");
    let second = Command::new(common::BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--control-listen", "off", "--data-dir", data.text()])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(2), "two servers must not share a directory");
    assert_eq!(server.stop(), 0);
    let (table, _, code) = tool(&["log", "verify", data.text()]);
    assert!(code == 0 && table.contains("1010"), "{table}");
    let (lines, _, code) = tool(&["queues", "--data-dir", data.text(), "--json"]);
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let counts: Vec<_> =
        lines.iter().map(|line| (line["queue"].as_str().unwrap(), line["messages"].as_u64())).collect();
    assert_eq!((counts, code), (vec![("one", Some(1000)), ("two", Some(10))], 0));
    assert_eq!(tool(&["log", "dump", data.text(), "one"]), (numbers(1000), String::new(), 0));
    assert_eq!(tool(&["log", "dump", data.text(), "three"]).2, 2);
    // A catalogue that is shorter than its beginning.
    let torn = Place::new("tools-torn");
    std::fs::create_dir_all(&torn.0).unwrap();
    for length in [0, 9, 35] {
        std::fs::write(torn.0.join("00000.catalogue"), vec![b'x'; length]).unwrap();
        let (table, said, code) = tool(&["log", "verify", torn.text()]);
        assert!(code == 1 && table.lines().count() == 2, "{length}: {table}{said}");
    }
    // Damage one byte of a message in the first queue.
    let segment = std::fs::read_dir(&data.0).unwrap().map(|entry| entry.unwrap().path());
    let holds =
        |path: &PathBuf| std::fs::read(path).unwrap().windows(4).position(|bytes| bytes == b"\x03\0\0\0");
    let (path, at) = segment
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .find_map(|path| holds(&path).map(|at| (path, at)))
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at + 4] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (table, _, code) = tool(&["log", "verify", data.text()]);
    assert!(code == 1 && table.contains("bytes at"), "{table}");
    let (left, said, code) = tool(&["log", "dump", data.text(), "one"]);
    assert!(code == 1 && left.lines().count() < 1000 && said.contains("damaged"), "{said}");
    let server = serve(&data, &[]);
    let said = server.wait_for_log("damaged");
    assert!(said.contains(".segment"), "{said}");
    assert_eq!(get(&server, "two", 10), numbers(10), "the undamaged queue must be served");
    assert_eq!(server.stop(), 0);
    assert_eq!(tool(&["queue", "delete", "one", "--data-dir", data.text()]).2, 0);
    assert_eq!(tool(&["queue", "delete", "one", "--data-dir", data.text()]).2, 1);
    let (lines, ..) = tool(&["queues", "--data-dir", data.text(), "--json"]);
    assert!(!lines.contains("\"one\"") && lines.contains("\"two\""), "{lines}");
}

#[test]
fn a_copy_is_a_backup_and_the_number_of_shards_may_change() {
    let data = Place::new("backup");
    let server = serve(&data, &["--cores", "0"]);
    put(&server, "queue", 1000);
    assert_eq!(server.stop(), 0);
    let copy = Place::new("restored");
    let all = format!("{}/.", data.text());
    assert!(Command::new("cp").args(["-a", &all, copy.text()]).status().unwrap().success());
    let server = serve(&copy, &["--cores", "0-1"]);
    assert_eq!(get(&server, "queue", 1000), numbers(1000));
    put(&server, "other", 10);
    assert_eq!(server.stop(), 0);
    let server = serve(&copy, &["--cores", "0"]);
    assert_eq!(get(&server, "queue", 1000), numbers(1000));
    assert_eq!(get(&server, "other", 10), numbers(10));
}

#[test]
fn another_version_of_the_format_is_refused() {
    let data = Place::new("version");
    let server = serve(&data, &[]);
    put(&server, "queue", 10);
    assert_eq!(server.stop(), 0);
    let catalogue = data.0.join("00000.catalogue");
    let mut bytes = std::fs::read(&catalogue).unwrap();
    bytes[8] = 3;
    let sum = crc32c::crc32c(&bytes[8..12]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&catalogue, bytes).unwrap();
    let (_, said, code) = tool(&["log", "verify", data.text()]);
    assert!(code == 2 && said.contains("version 3"), "{said}");
    let (_, said, code) =
        tool(&["serve", "--listen", "127.0.0.1:0", "--store", "log", "--data-dir", data.text()]);
    assert!(code == 2 && said.contains("version 3"), "{said}");
}

#[test]
fn listing_a_missing_directory_does_not_create_it() {
    let (_, said, code) = tool(&["queues", "--data-dir", "/no/such/directory"]);
    assert!(code == 2 && said.contains("no such directory"), "{said}");
}

#[test]
fn a_running_server_lists_its_queues_and_deletes_them() {
    let data = Place::new("running");
    let server = serve(&data, &[]);
    put(&server, "one", 100);
    put(&server, "two", 10);
    let control = format!("http://127.0.0.1:{}", server.control);
    let list = || {
        let (lines, said, code) = tool(&["queues", "--control", &control, "--json"]);
        assert_eq!(code, 0, "{said}");
        lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| (line["queue"].as_str().unwrap().to_owned(), line["messages"].as_u64().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(list(), [("one".into(), 100), ("two".into(), 10)]);
    // A consumer of a deleted queue gets a status, and can open the next queue with that name.
    let mut follower = Client::connect(&server);
    follower.begin(&common::get("one", "latest", true));
    assert_eq!(follower.receive_as::<Status>().status_code(), 100);
    let delete = || tool(&["queue", "delete", "one", "--control", &control]).2;
    assert_eq!((delete(), delete()), (0, 1));
    let told: ConsumeResponse = follower.receive_as();
    let told = told.status.expect("the operation must end");
    assert!(told.status_code() == 410 && told.reason_phrase().contains("deleted"), "{told:?}");
    assert_eq!(list(), [("two".into(), 10)]);
    put(&server, "one", 5);
    assert_eq!(get(&server, "one", 5), numbers(5), "the new queue must hold only its own messages");
    assert_eq!(server.stop(), 0);
    let server = serve(&data, &[]);
    assert_eq!(get(&server, "one", 5), numbers(5), "the deleted messages must stay deleted");
    assert_eq!(get(&server, "two", 10), numbers(10));
    let memory = Server::start(&["--cores", "0"]);
    let other = format!("http://127.0.0.1:{}", memory.control);
    put(&memory, "three", 3);
    let (lines, said, code) = tool(&["queues", "--control", &other, "--json"]);
    assert!(
        code == 0 && lines.contains("\"queue\":\"three\"") && lines.contains("\"messages\":3"),
        "{lines}{said}"
    );
}

#[test]
fn a_full_disk_refuses_producers_with_503_and_serves_consumers() {
    let data = Place::new("full");
    let server = serve(&data, &["--cores", "0"]);
    put(&server, "queue", 100);
    assert_eq!(server.stop(), 0);
    // More free space than any disk has.
    let server = serve(&data, &["--cores", "0", "--log-min-free-bytes", "1024GiB"]);
    let mut producer = Client::connect(&server);
    producer.begin(&common::append("queue"));
    assert_eq!(producer.receive_as::<ProduceSetupResponse>().status.unwrap().status_code(), 100);
    producer.send(&common::request(Some(3600), &[b"one more"]));
    let told = loop {
        let response: ProduceResponse = producer.receive_as();
        if let Some(status) = response.status {
            break status;
        }
    };
    // The log tells the operator how much space is free. The client learns only that the disk is full.
    assert_eq!((told.status_code(), told.reason_phrase()), (503, "store: the disk is full"));
    let said = server.wait_for_log("messages are refused until a retry succeeds");
    assert!(said.contains("the disk is full") && said.contains("log_min_free_bytes"), "{said}");
    assert_eq!(get(&server, "queue", 100), numbers(100), "stored messages must be served");
    assert_eq!(server.stop(), 0);
    let server = serve(&data, &["--cores", "0"]);
    put(&server, "queue", 1);
    assert_eq!(get(&server, "queue", 101), numbers(100) + "0\n");
}

//! Tests the real server on data directories that were copied, restored, damaged, or opened twice.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Client, Server};
use millstream::pb::{ConsumeRequest, ConsumeResponse, Status};
use place::Place;

fn flags(data: &Path) -> Vec<&str> {
    let data = data.to_str().unwrap();
    vec![
        "--store",
        "log",
        "--data-dir",
        data,
        "--partitions",
        "1",
        "--log-segment-bytes",
        "16MiB",
        "--cores",
        "0",
    ]
}

fn serve(data: &Path) -> Server {
    Server::start(&flags(data))
}

fn put(server: &Server, queue: &str, lines: &str) {
    use std::io::Write;
    let mut producer = server.run(&["produce", queue]).stdin(Stdio::piped()).spawn().unwrap();
    producer.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(producer.wait().unwrap().success());
}

fn consume(server: &Server, arguments: &[&str]) -> Output {
    server.run(&[&["consume", "q"], arguments].concat()).output().unwrap()
}

/// Returns the marker that a consumer printed to resume from.
fn marker(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let (_, rest) = said.split_once("--from ").unwrap_or_else(|| panic!("{said}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[test]
fn a_marker_beyond_a_restored_backup_misses_no_later_message() {
    let place = Place::new("restored");
    let (data, backup) = (place.data(), place.0.join("backup"));
    let server = serve(&data);
    put(&server, "q", "old 1\nold 2\n");
    let early = marker(&consume(&server, &["--count", "2"]));
    assert_eq!(server.stop(), 0);
    copy(&data, &backup);
    let server = serve(&data);
    put(&server, "q", "lost 1\nlost 2\nlost 3\n");
    let late = marker(&consume(&server, &["--count", "5"]));
    assert_eq!(server.stop(), 0);
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    let server = serve(&data);
    // A consumer that opts in to fields from 100 up learns of the rewind at once, before anything is stored.
    let mut client = Client::connect(&server);
    let mut setup = common::get("q", late.split('~').next().unwrap(), true);
    setup.get.as_mut().unwrap().without_headers = Some(false);
    client.begin(&setup);
    client.send(&ConsumeRequest { max_msgnum_to_send: Some(1_000), ..ConsumeRequest::default() });
    assert_eq!(client.receive_as::<Status>().status_code(), 100);
    let heard: ConsumeResponse = client.receive_as();
    assert!(heard.rewound() && heard.messages.is_empty(), "{heard:?}");
    put(&server, "q", "new 1\nnew 2\n");
    let mut got = Vec::new();
    while got.len() < 4 {
        let response: ConsumeResponse = client.receive_as();
        got.extend(
            response.messages.into_iter().map(|message| (message.id().to_owned(), message.payload.unwrap())),
        );
    }
    let payloads: Vec<&[u8]> = got.iter().map(|(_, payload)| &payload[..]).collect();
    assert_eq!(payloads, [&b"old 1"[..], b"old 2", b"new 1", b"new 2"]);
    // Ids of lost messages are not assigned again.
    assert!(got[2..].iter().all(|(id, _)| !["0.2", "0.3", "0.4"].contains(&id.as_str())), "{got:?}");
    // A marker from before the backup still works.
    let output = consume(&server, &["--from", &early, "--count", "2"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "new 1\nnew 2\n");
    // The command line's marker from after the backup works, too.
    let output = consume(&server, &["--from", &late, "--count", "4"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "old 1\nold 2\nnew 1\nnew 2\n");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_marker_survives_restarts_and_kills_without_repeats() {
    let place = Place::new("restarted");
    let data = place.data();
    let mut from = "oldest".to_owned();
    for round in 0..4 {
        let server = serve(&data);
        put(&server, "q", &format!("a {round}\nb {round}\n"));
        let output = consume(&server, &["--from", &from, "--count", "2"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("a {round}\nb {round}\n"));
        from = marker(&output);
        if round % 2 == 0 {
            assert_eq!(server.stop(), 0);
        } else {
            drop(server);
        }
    }
}

#[test]
fn a_directory_without_its_lock_file_stays_locked() {
    let place = Place::new("locked");
    let data = place.data();
    let server = serve(&data);
    put(&server, "q", "one\n");
    fs::remove_file(data.join("lock")).unwrap();
    let second = Command::new(common::BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--control-listen", "off"])
        .args(flags(&data))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code() == Some(2) && said.contains("another server"), "{said}");
    let verify =
        Command::new(common::BINARY).args(["log", "verify", data.to_str().unwrap()]).output().unwrap();
    assert_eq!(verify.status.code(), Some(2));
    put(&server, "q", "two\n");
    assert_eq!(server.stop(), 0);
}

#[test]
fn files_are_private_and_an_open_directory_causes_a_warning() {
    let place = Place::new("private");
    let (data, latency) = (place.data(), place.0.join("latency.hlog"));
    let log = ["--latency-log", latency.to_str().unwrap(), "--latency-interval", "100ms"];
    let server = Server::start(&[&flags(&data)[..], &log].concat());
    put(&server, "q", "one\n");
    assert_eq!(server.stop(), 0);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&latency)), (0o700, 0o600));
    let mut files = 0;
    for entry in fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert!(files >= 4, "segment, index, catalogue, history");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let server = serve(&data);
    server.wait_for_log("data directory accessible to other users");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_flipped_bit_in_the_newest_message_is_found_after_a_clean_stop() {
    let place = Place::new("flipped");
    let data = place.data();
    let server = serve(&data);
    put(&server, "q", "the first\n");
    put(&server, "q", "THE-LAST\n");
    assert_eq!(server.stop(), 0);
    let verify =
        || Command::new(common::BINARY).args(["log", "verify", data.to_str().unwrap()]).output().unwrap();
    assert_eq!(verify().status.code(), Some(0));
    let holds = |path: &Path| fs::read(path).unwrap().windows(8).position(|window| window == b"THE-LAST");
    let paths = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let (path, at) = paths.filter_map(|path| holds(&path).map(|at| (path, at))).next().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(verify().status.code(), Some(1), "{}", String::from_utf8_lossy(&verify().stdout));
    let server = serve(&data);
    server.wait_for_log("damaged: the messages in this range are lost");
    put(&server, "q", "another\n");
    let output = consume(&server, &["--count", "2", "--json"]);
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ids: Vec<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert!(
        ids[0] == "0.0" && ids[1] != "0.1",
        "the id of the lost message must not be assigned again: {ids:?}"
    );
    assert_eq!(server.stop(), 0);
}

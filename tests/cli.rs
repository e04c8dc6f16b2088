//! The command line in trouble: what it says, with which exit code it ends, and that it ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use common::{BINARY, Server, feed, spawn};

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The number before `word` in what was said.
fn number(said: &str, word: &str) -> u64 {
    let before = said.split(word).next().unwrap().trim_end();
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap();
    digits.parse().unwrap_or_else(|_| panic!("no number before {word}: {said}"))
}

fn interrupt(child: &Child) {
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

#[test]
fn a_connection_that_fails_for_good_holds_nobody_up_and_what_it_had_is_counted() {
    let server = Server::start(&["--cores", "0", "--max-payload-bytes", "1000", "--max-pb-bytes", "10000"]);
    let mut input: Vec<u8> = (0..50_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    input.extend([&[b'x'; 20_000][..], b"\n"].concat());
    input.extend((0..50_000).flat_map(|n| format!("more {n}\n").into_bytes()));
    let output = feed(server.run(&["produce", "mixed", "--connections", "4"]), &input);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("413"), "{said}");
    let (acknowledged, refused) = (number(&said, " acknowledged"), number(&said, " refused"));
    assert_eq!(acknowledged + refused + number(&said, " not delivered"), 100_001, "{said}");
    assert!(acknowledged > 50_000, "the others took the rest: {said}");
}

#[test]
fn a_line_that_no_server_takes_is_refused_alone() {
    let server = Server::start(&["--cores", "0"]);
    let input = [&b"one\n"[..], &vec![b'x'; 9 << 20], b"\ntwo\n\nlast without newline"].concat();
    let output = feed(server.run(&["produce", "long"]), &input);
    let said = said(&output);
    assert_eq!(
        (output.status.code(), number(&said, " acknowledged"), number(&said, " refused")),
        (Some(1), 4, 1)
    );
    let output = feed(server.run(&["consume", "long", "--count", "4"]), b"");
    assert_eq!(output.stdout, b"one\ntwo\n\nlast without newline\n");
}

#[test]
fn who_cannot_write_gives_no_marker() {
    let server = Server::start(&["--cores", "0"]);
    let lines: Vec<u8> = (0..100_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    assert!(feed(server.run(&["produce", "pipe"]), &lines).status.success());
    let mut child = spawn(server.run(&["consume", "pipe"]));
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    // The reader is gone with this line.
    let output = child.wait_with_output().unwrap();
    assert_eq!((first.as_str(), output.status.code()), ("0\n", Some(1)));
    assert_eq!(said(&output), "");
}

#[test]
fn a_signal_ends_clients_whatever_the_server_does() {
    let server = Server::start(&["--cores", "0"]);
    server.signal("STOP");
    let consume = spawn(server.run(&["consume", "silent"]));
    let produce = spawn(server.run(&["produce", "silent", "--count", "5", "--size", "5"]));
    // Both have taken their signal handlers once they have connected; the kernel accepts for the stopped server.
    wait_for_connections(server.port, 2);
    let began = Instant::now();
    interrupt(&consume);
    interrupt(&produce);
    let consumed = consume.wait_with_output().unwrap();
    assert_eq!((consumed.status.code(), number(&said(&consumed), " messages")), (Some(0), 0));
    let produced = produce.wait_with_output().unwrap();
    assert_eq!((produced.status.code(), number(&said(&produced), " not delivered")), (Some(1), 5));
    assert!(began.elapsed() < Duration::from_secs(20));
    server.signal("CONT");

    let nobody = ["consume", "nobody", "--url", "ws://127.0.0.1:1/", "--retries", "1000"];
    let mut command = Command::new(BINARY);
    command.args(nobody);
    let mut retrying = spawn(command);
    let mut notice = [0; 10];
    retrying.stderr.as_mut().unwrap().read_exact(&mut notice).unwrap();
    interrupt(&retrying);
    assert_eq!(retrying.wait().unwrap().code(), Some(0));
}

/// Waits until so many connections to `port` are established.
fn wait_for_connections(port: u16, count: usize) {
    let wanted = format!(":{port:04X} 01 ");
    let began = Instant::now();
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // Of each line the remote address and the state.
        let established = table.lines().filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.len() > 3 && format!("{} {} ", &fields[2][8..], fields[3]) == wanted
        });
        if established.count() >= count {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "no connections");
        std::thread::yield_now();
    }
}

#[test]
fn what_cannot_work_is_refused_with_the_name_of_the_setting() {
    let cases: [(&[&str], &str); 10] = [
        (&["serve", "--store", "memory", "--memory-bytes", "1000"], "memory_bytes"),
        (&["serve", "--ping-interval", "0"], "ping_interval"),
        (&["serve", "--log-segment-bytes", "4MiB"], "log_segment_bytes"),
        (&["serve", "--max-payload-bytes", "0"], "max_payload_bytes"),
        (&["serve", "--spin-us", "99999999"], "spin_us"),
        (&["serve", "--cores", "4000"], "core 4000"),
        (&["bench", "produce", "--in-flight", "10"], "--in-flight"),
        (&["bench", "produce", "--seconds", "0"], "--seconds"),
        (&["bench", "produce", "--cores", "4000"], "core 4000"),
        (&["bench", "consume", "--window", "0"], "--window"),
    ];
    for (arguments, name) in cases {
        let output = Command::new(BINARY).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(said(&output).contains(name), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn a_bench_by_schedule_ends_with_its_window() {
    let server = Server::start(&["--cores", "0"]);
    let began = Instant::now();
    let slow = ["bench", "produce", "--rate", "1", "--seconds", "1", "--warmup", "0", "--json"];
    let output = feed(server.run(&slow), b"");
    assert!(output.status.success(), "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "it waited for what was due after its end");
}

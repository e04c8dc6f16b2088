//! Tests the real clients through a proxy that breaks their connections: nothing is lost or printed twice.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

#[path = "common/certificates.rs"]
mod certificates;
#[path = "common/place.rs"]
mod place;
#[path = "common/terminator.rs"]
mod terminator;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certificates::Authority;
use common::{BINARY, Server, consume, feed};
use place::Place;
use rustls::version::{TLS12, TLS13};
use terminator::{Terminator, server_config};

/// A proxy that breaks its first connections after a number of bytes in either direction.
struct Proxy {
    port: u16,
    broken: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts the proxy. Each entry of `breaks` is for one connection, in order of connection: the bytes to
    /// the server, and the bytes from it, after which the connection breaks.
    fn start(server: u16, breaks: Vec<(usize, usize)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let broken = Arc::new(AtomicUsize::new(0));
        let counter = broken.clone();
        std::thread::spawn(move || {
            let mut breaks = breaks.into_iter();
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let (up, down) = breaks.next().unwrap_or((usize::MAX, usize::MAX));
                for (from, to, bytes) in [(&client, &server, up), (&server, &client, down)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let counter = counter.clone();
                    std::thread::spawn(move || {
                        if pass(&from, &to, bytes) {
                            counter.fetch_add(1, Ordering::SeqCst);
                        }
                        // Fails if the other direction has done it already.
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        Self { port, broken }
    }

    fn run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).args(["--url", &format!("ws://127.0.0.1:{}/", self.port)]);
        command
    }

    /// Like [`Self::run`], over TLS. `ca` is the file of the server's authority.
    fn run_secure(&self, ca: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--ca").arg(ca);
        command.args(["--url", &format!("wss://127.0.0.1:{}/", self.port)]);
        command
    }

    fn broken(&self) -> usize {
        self.broken.load(Ordering::SeqCst)
    }
}

/// Copies up to `bytes` bytes. Returns true if all of them have passed.
fn pass(mut from: &TcpStream, mut to: &TcpStream, mut bytes: usize) -> bool {
    let mut buffer = [0; 16 << 10];
    while bytes > 0 {
        let most = buffer.len().min(bytes);
        match from.read(&mut buffer[..most]) {
            Ok(0) | Err(_) => return false,
            Ok(read) if to.write_all(&buffer[..read]).is_err() => return read == 0,
            Ok(read) => bytes -= read,
        }
    }
    true
}

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("line {n} {}", "x".repeat(n % 90))).collect()
}

fn produce(command: Command, lines: &[String]) {
    let output = feed(command, (lines.join("\n") + "\n").as_bytes());
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn unacknowledged_messages_are_sent_again_and_none_is_lost() {
    let server = Server::start(&["--cores", "0-1"]);
    // Breaks in the handshake, in the setup, in the middle of pbs, and where only answers are lost.
    let breaks = vec![(50, 9_999), (9_999, 60), (400, 9_999_999), (30_000, 9_999_999), (9_999_999, 150)];
    let proxy = Proxy::start(server.port, breaks);
    let sent = lines(20_000);
    let client = ["--client-id", "11111111-2222-3333-4444-555555555555"];
    produce(proxy.run(&[&["produce", "again", "--batch", "7"], &client[..]].concat()), &sent);
    assert!(proxy.broken() >= 5, "{} connections broke", proxy.broken());
    none_is_lost(&server, &sent);
}

/// Fails if the queue `again` does not have all lines, their first copies in the order sent.
fn none_is_lost(server: &Server, sent: &[String]) {
    // At least once: a message without an acknowledgement may be stored twice.
    let stored = stored(server, "again");
    let mut seen: HashMap<&str, usize> = HashMap::new();
    stored.iter().for_each(|line| *seen.entry(line).or_default() += 1);
    let missing = sent.iter().filter(|line| !seen.contains_key(line.as_str())).count();
    assert_eq!((missing, seen.len()), (0, sent.len()));
    // A client with an id keeps to one partition, so the first copies of the lines are in the order sent.
    let mut copies: HashMap<&str, ()> = HashMap::new();
    let first: Vec<&String> = stored.iter().filter(|line| copies.insert(line, ()).is_none()).collect();
    assert!(first.into_iter().eq(sent), "the first copies must be in the order sent");
}

/// Returns everything in a queue. Produces a last line to find the end.
fn stored(server: &Server, queue: &str) -> Vec<String> {
    let client = ["--client-id", "11111111-2222-3333-4444-555555555555"];
    produce(server.run(&[&["produce", queue], &client[..]].concat()), &["the end".to_owned()]);
    let mut child = server.run(&["consume", queue]).stdout(Stdio::piped()).spawn().unwrap();
    let mut all = Vec::new();
    for line in std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap())) {
        let line = line.unwrap();
        if line == "the end" {
            break;
        }
        all.push(line);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    all
}

#[test]
fn a_consumer_resumes_where_its_connection_broke_without_loss_or_repeat() {
    let server = Server::start(&["--cores", "0-1"]);
    let sent = lines(30_000);
    produce(server.run(&["produce", "follow", "--connections", "6"]), &sent);
    let breaks = vec![(9_999, 100), (9_999, 260), (9_999, 5_000), (9_999, 300_001), (9_999, 70_000)];
    let proxy = Proxy::start(server.port, breaks);
    let (received, _) = consume(proxy.run(&["consume", "follow", "--count", "30000"]));
    assert!(proxy.broken() >= 5, "{} connections broke", proxy.broken());
    each_once(received, sent);
}

/// Fails if the lines are not the expected ones, each once, in any order.
fn each_once(mut received: Vec<String>, mut expected: Vec<String>) {
    received.sort();
    expected.sort();
    assert!(received == expected, "received {} lines of {}", received.len(), expected.len());
}

#[test]
fn the_marker_follows_the_last_printed_line_even_if_more_was_received() {
    let server = Server::start(&["--cores", "0-1"]);
    // A few messages in each partition: the first 100, which no client can refuse, come from several
    // partitions.
    let mut expected = Vec::new();
    for partition in 0..8 {
        let some: Vec<String> = (0..30).map(|n| format!("{partition} {n}")).collect();
        produce(server.run(&["produce", &format!("few/{partition}")]), &some);
        expected.extend(some);
    }
    let mut received = Vec::new();
    let mut marker = "oldest".to_owned();
    for count in [1, 7, 40, 92, 100] {
        let count = count.to_string();
        let (lines, next) = consume(server.run(&["consume", "few", "--from", &marker, "--count", &count]));
        assert_eq!(lines.len().to_string(), count);
        received.extend(lines);
        marker = next;
    }
    received.sort();
    expected.sort();
    assert_eq!(received, expected);
}

/// Returns a server that ends TLS in front of `server`, and the file of its authority.
fn secure(server: &Server, place: &Place) -> (Terminator, std::path::PathBuf) {
    let authority = Authority::new("an authority");
    let ca = authority.write(&place.0, "ca");
    let config = server_config(&authority.server(&["127.0.0.1"]), &[&TLS12, &TLS13], None);
    (Terminator::start(server.port, config, true), ca)
}

#[test]
fn over_tls_too_nothing_is_lost_when_connections_break() {
    let (server, place) = (Server::start(&["--cores", "0-1"]), Place::new("reconnect-produce"));
    let (terminator, ca) = secure(&server, &place);
    // Breaks in the client's and in the server's part of the handshake of TLS, in that of WebSocket, in the
    // setup, in the middle of records, and where only answers are lost.
    let breaks = vec![
        (50, 9_999),
        (9_999, 60),
        (9_999, 500),
        (400, 9_999_999),
        (2_000, 9_999_999),
        (30_000, 9_999_999),
        (9_999_999, 1_000),
        (9_999_999, 1_250),
    ];
    let proxy = Proxy::start(terminator.port, breaks);
    let sent = lines(20_000);
    let client = ["--client-id", "11111111-2222-3333-4444-555555555555"];
    let arguments = [&["produce", "again", "--batch", "7"], &client[..]].concat();
    produce(proxy.run_secure(&ca, &arguments), &sent);
    assert!(proxy.broken() >= 7, "{} connections broke", proxy.broken());
    none_is_lost(&server, &sent);
}

#[test]
fn over_tls_too_a_consumer_resumes_without_loss_or_repeat() {
    let (server, place) = (Server::start(&["--cores", "0-1"]), Place::new("reconnect-consume"));
    let (terminator, ca) = secure(&server, &place);
    let sent = lines(30_000);
    produce(server.run(&["produce", "follow", "--connections", "6"]), &sent);
    let breaks = vec![(9_999, 100), (9_999, 1_500), (9_999, 5_000), (9_999, 300_001), (9_999, 70_000)];
    let proxy = Proxy::start(terminator.port, breaks);
    let (received, _) = consume(proxy.run_secure(&ca, &["consume", "follow", "--count", "30000"]));
    assert!(proxy.broken() >= 5, "{} connections broke", proxy.broken());
    each_once(received, sent);
}

//! Tests the real binary on a free port, over real sockets: statuses, draining, resource limits, and signals.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{
    Client, Server, append, code, consume, eventually, feed, get, handshake, others_are_served, producer,
    request, varint,
};
use millstream::pb::{
    ConsumeRequest, ConsumeResponse, ProduceResponse, ProduceSetupResponse, SetupRequest, Status,
};
use place::Place;

#[test]
fn messages_are_stored_and_come_back_with_their_metadata() {
    let server = Server::start(&["--cores", "0-1"]);
    let mut client = producer(&server, "orders");
    client.send(&request(Some(60), &[b"one", b"", b"three"]));
    let response: ProduceResponse = client.receive_as();
    assert_eq!((code(&response.status), response.msgnum_status_is_thru()), (201, 3));
    client.finish();
    assert_eq!(client.receive(), None);
    // The next operation on the same connection. The client's own messages come only with echo.
    client.begin(&get("orders", "", true));
    assert_eq!(client.receive_as::<Status>().status_code(), 100);
    let messages = client.receive_as::<ConsumeResponse>().messages;
    let payloads: Vec<&[u8]> = messages.iter().map(|m| m.payload()).collect();
    assert_eq!(payloads, [&b"one"[..], b"", b"three"]);
    assert!(messages.iter().all(|m| m.ttl == Some(60) && m.age.is_some() && m.payload.is_some()));
    client.send(&ConsumeRequest { send_marker: Some(true), ..Default::default() });
    let owed = client.receive_as::<ConsumeResponse>().messages.remove(0);
    assert_eq!((owed.payload, owed.id.clone()), (None, messages[2].id.clone()));
    client.finish();
    assert_eq!(client.receive(), None);
    client.begin(&get("orders", "", false));
    assert_eq!(client.receive_as::<Status>().status_code(), 100);
    client.send(&ConsumeRequest { send_marker: Some(true), ..Default::default() });
    let owed = client.receive_as::<ConsumeResponse>().messages.remove(0);
    assert_eq!(owed.id.as_deref(), Some(""), "before the first message, a marker's id is present and empty");
    let mut other = Client::connect(&server);
    other.begin(&get("orders", owed.marker(), false));
    assert_eq!(other.receive_as::<Status>().status_code(), 100);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_client_may_send_100_messages_before_its_setup_is_answered() {
    let server = Server::start(&["--cores", "0-1"]);
    let mut client = Client::connect(&server);
    let mut bytes = varint(prost::Message::encoded_len(&append("early")) as u64);
    bytes.extend(prost::Message::encode_to_vec(&append("early")));
    for _ in 0..100 {
        bytes.extend(prost::Message::encode_length_delimited_to_vec(&request(Some(60), &[b"x"])));
    }
    client.begin_raw(&bytes, true);
    assert_eq!(client.receive_as::<ProduceSetupResponse>().max_msgnum_to_send(), 65_536);
    let mut through = 0;
    while let Some(pb) = client.receive() {
        let response: ProduceResponse = prost::Message::decode(&pb[..]).unwrap();
        assert_eq!(code(&response.status), 201);
        assert!(response.msgnum_status_is_thru() > through && response.max_msgnum_to_send.is_some());
        through = response.msgnum_status_is_thru();
    }
    assert_eq!(through, 100);
}

#[test]
fn a_4xx_for_messages_does_not_end_the_operation() {
    let server = Server::start(&["--cores", "0", "--max-payload-bytes", "1000"]);
    let mut client = producer(&server, "mixed");
    client.send(&request(Some(59), &[b"ttl too short", b"both"]));
    client.send(&request(None, &[b"no ttl"]));
    client.send(&request(Some(60), &[b"fine", &[0; 1001], b"fine too"]));
    client.finish();
    let mut seen = Vec::new();
    while let Some(pb) = client.receive() {
        let response: ProduceResponse = prost::Message::decode(&pb[..]).unwrap();
        seen.push((code(&response.status), response.msgnum_status_is_thru()));
    }
    assert_eq!(seen, [(400, 2), (400, 3), (201, 4), (413, 5), (201, 6)]);
}

#[test]
fn a_failed_operation_has_a_status_and_leaves_the_connection_usable() {
    let server = Server::start(&[
        "--cores",
        "0",
        "--max-pb-bytes",
        "2097152",
        "--produce-window",
        "200",
        "--pb-timeout",
        "0.2",
    ]);
    type Break = fn(&mut Client);
    let cases: [(u32, Break); 6] = [
        (400, |c| c.send_raw(&[0xff; 5])),
        (400, |c| c.send_raw(&[2, 0x08, 0x80])),
        (400, |c| c.send(&request(Some(60), &[]))),
        (413, |c| c.send_raw(&varint(2_097_153))),
        (429, |c| c.send(&request(Some(60), &[&b"x"[..]; 201]))),
        (408, |c| c.send_raw(&[100, 8])),
    ];
    let mut neighbour = producer(&server, "neighbour");
    for (number, (expected, break_it)) in (1..).zip(cases) {
        let mut client = Client::connect(&server);
        client.begin(&append("broken"));
        client.receive_as::<ProduceSetupResponse>();
        client.send(&request(Some(60), &[b"accepted before"]));
        let before: ProduceResponse = client.receive_as();
        assert_eq!((code(&before.status), before.msgnum_status_is_thru()), (201, 1));
        break_it(&mut client);
        let failure: ProduceResponse = client.receive_as();
        let through = if expected == 429 { 202 } else { 1 };
        assert_eq!((code(&failure.status), failure.msgnum_status_is_thru()), (expected, through));
        assert!(!failure.status.unwrap().reason_phrase().is_empty());
        assert_eq!(client.receive(), None, "the server must end its half");
        client.send_raw(b"discarded");
        client.finish();
        client.begin(&append("broken"));
        assert_eq!(code(&client.receive_as::<ProduceSetupResponse>().status), 100);
        neighbour.send(&request(Some(60), &[b"undisturbed"]));
        let answer: ProduceResponse = neighbour.receive_as();
        assert_eq!((code(&answer.status), answer.msgnum_status_is_thru()), (201, number));
    }
}

#[test]
fn setups_are_refused_with_the_right_status() {
    let server = Server::start(&["--cores", "0", "--partitions", "4"]);
    for (queue, expected) in [("", 400), ("a b", 400), ("a/01", 400), ("a/4", 404)] {
        let mut client = Client::connect(&server);
        client.begin(&append(queue));
        let refused: ProduceSetupResponse = client.receive_as();
        assert_eq!((code(&refused.status), refused.max_msgnum_to_send), (expected, Some(0)), "{queue}");
        assert_eq!(client.receive(), None);
        client.finish();
        client.begin(&get(queue, "", true));
        assert_eq!(client.receive_as::<Status>().status_code(), expected, "{queue}");
    }
    for setup in [
        SetupRequest::default(),
        SetupRequest { get: get("q", "", true).get, ..append("q") },
        get("q", "x", true),
    ] {
        let mut client = Client::connect(&server);
        client.begin(&setup);
        assert_eq!(client.receive_as::<Status>().status_code(), 400);
        assert_eq!(client.receive(), None);
    }
    let strict = Server::start(&["--cores", "0", "--auto-create", "false"]);
    let mut client = Client::connect(&strict);
    client.begin(&append("absent"));
    assert_eq!(code(&client.receive_as::<ProduceSetupResponse>().status), 404);
    let mut client = Client::connect(&strict);
    client.begin(&get("absent", "", true));
    assert_eq!(client.receive_as::<Status>().status_code(), 404);
}

#[test]
fn a_full_store_that_refuses_ends_the_operation_with_503() {
    let server = Server::start(&["--cores", "0", "--memory-bytes", "10000", "--memory-full", "refuse"]);
    let mut client = producer(&server, "full");
    client.send(&request(Some(60), &[&[0; 5000]]));
    assert_eq!(code(&client.receive_as::<ProduceResponse>().status), 201);
    client.send(&request(Some(60), &[&[0; 9000]]));
    let refused: ProduceResponse = client.receive_as();
    assert_eq!((code(&refused.status), refused.msgnum_status_is_thru()), (503, 2));
    assert_eq!(code(&client.receive_as::<ProduceResponse>().status), 503);
    assert_eq!(client.receive(), None);
}

#[test]
fn draining_under_load_ends_every_operation_and_loses_nothing_acknowledged() {
    let server = Server::start(&["--cores", "0-1", "--spin-us", "200"]);
    let mut producers: Vec<Client> =
        (0..8).map(|index| producer(&server, &format!("drain/{index}"))).collect();
    let mut consumer = Client::connect(&server);
    consumer.begin(&get("drain", "", false));
    assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
    consumer.send(&ConsumeRequest { max_msgnum_to_send: Some(1_000_000), ..Default::default() });
    for client in &mut producers {
        for _ in 0..100 {
            client.send(&request(Some(60), &[&b"x"[..]; 20]));
        }
    }
    server.signal("TERM");
    let mut acknowledged = 0;
    for client in &mut producers {
        let mut last = 0;
        let mut ended = false;
        while let Some(pb) = client.receive() {
            let response: ProduceResponse = prost::Message::decode(&pb[..]).unwrap();
            match code(&response.status) {
                201 => last = response.msgnum_status_is_thru(),
                503 => {
                    assert_eq!(response.msgnum_status_is_thru(), last, "the last number must be repeated");
                    ended = true;
                }
                other => panic!("{other}"),
            }
        }
        assert!(ended);
        acknowledged += last;
        assert_eq!(client.close_code(), 1001);
    }
    let mut received = 0;
    let mut status = None;
    while let Some(pb) = consumer.receive() {
        let response: ConsumeResponse = prost::Message::decode(&pb[..]).unwrap();
        received += response.messages.len() as i64;
        status = response.status.or(status);
    }
    assert_eq!((code(&status), received), (503, acknowledged));
    assert_eq!(consumer.close_code(), 1001);
    assert_eq!(server.wait(), 0);
}

#[test]
fn a_consumer_that_never_reads_uses_bounded_memory_and_stops_no_others() {
    let server = Server::start(&["--cores", "0", "--memory-bytes", "20000000"]);
    let mut stuck = Client::connect(&server);
    stuck.begin(&get("stuck", "", true));
    stuck.send(&ConsumeRequest { max_msgnum_to_send: Some(i64::MAX), ..Default::default() });
    let output = server
        .run(&["bench", "produce", "--queue", "stuck", "--count", "1000000", "--connections", "2"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    others_are_served(&server);
    let bytes = server.resident_bytes();
    assert!(bytes < 120_000_000, "{bytes} bytes are resident with a store of 20 MB");
}

#[test]
fn two_hundred_clients_on_two_shards_account_for_every_message() {
    let server = Server::start(&["--cores", "0-1"]);
    let output = server
        .run(&[
            "bench",
            "both",
            "--connections",
            "180",
            "--consumers",
            "20",
            "--count",
            "18000",
            "--batch",
            "7",
            "--json",
        ])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report:#}");
    assert_eq!(report["acknowledged"], 18_000);
    assert_eq!(report["verified"]["received"], 360_000);
    assert_eq!(server.stop(), 0);
}

#[test]
fn produce_and_consume_pass_lines_and_resume_from_the_marker() {
    let server = Server::start(&["--cores", "0-1"]);
    let lines: Vec<String> =
        (0..5_000).map(|n| if n % 100 == 0 { String::new() } else { format!("line {n}") }).collect();
    let produced =
        feed(server.run(&["produce", "lines", "--connections", "3"]), (lines.join("\n") + "\n").as_bytes());
    assert!(produced.status.success(), "{produced:?}");
    let consume = |from: &str, count: &str| {
        consume(server.run(&["consume", "lines", "--from", from, "--count", count]))
    };
    let (mut received, marker) = consume("oldest", "7");
    let (rest, marker) = consume(&marker, "1993");
    received.extend(rest);
    received.extend(consume(&marker, "3000").0);
    let mut expected = lines;
    expected.sort();
    received.sort();
    assert_eq!(received, expected);
    let refused = server.run(&["produce", "no such name", "--count", "1", "--size", "1"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("queue_name"));
}

#[test]
fn a_second_server_on_the_port_fails_to_start() {
    let server = Server::start(&["--cores", "0"]);
    let address = format!("127.0.0.1:{}", server.port);
    let second =
        std::process::Command::new(common::BINARY).args(["serve", "--listen", &address]).output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8(second.stderr).unwrap().contains(&address));
}

#[test]
fn a_consumer_gets_everything_after_its_producers_end() {
    let server = Server::start(&["--cores", "0", "--partitions", "1"]);
    let both = ["bench", "both", "--connections", "4", "--consumers", "1", "--count", "400000", "--json"];
    let output = server.run(&both).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report:#}");
    assert_eq!((&report["verified"]["received"], &report["missing"]), (&400_000.into(), &0.into()));
}

/// Sends one message and waits for its status.
fn store(client: &mut Client, payload: &[u8]) -> u32 {
    client.send(&request(Some(3600), &[payload]));
    loop {
        let response: ProduceResponse = client.receive_as();
        if response.status.is_some() {
            return code(&response.status);
        }
    }
}

#[test]
fn clients_cannot_take_the_descriptors_that_the_server_needs() {
    let data = Place::new("descriptors");
    let log = ["--store", "log", "--data-dir", data.text(), "--log-segment-bytes", "16MiB"];
    let server = Server::start_with_files(160, &[&["--cores", "0"][..], &log].concat());
    let mut first = producer(&server, "q");
    assert_eq!(store(&mut first, b"before the crowd"), 201);
    let crowd: Vec<_> = (0..250).map(|_| server.dial()).collect();
    server.wait_for_log("refusing connections with 503");
    // The log needs new files for these messages.
    for number in 0..40 {
        assert_eq!(store(&mut first, &[0; 1_000_000]), 201, "message {number}");
    }
    assert_eq!(server.control("/healthz").0, 200);
    let mut refused = server.dial();
    let mut text = String::new();
    refused.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("open files"), "{text}");
    assert!(!text.contains("max_connections"), "{text}");
    let by_acceptor = "millstream_handshakes_refused_total{shard=\"acceptor\",status=\"503\"}";
    assert!(server.metric(by_acceptor) >= 1);
    drop(crowd);
    eventually("a new client is accepted", || {
        let mut stream = server.dial();
        stream.write_all(handshake("/", "").as_bytes()).ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).ok()?;
        (&head == b"HTTP/1.1 101").then_some(())
    });
    others_are_served(&server);
    assert_eq!(server.stop(), 0);
}

/// Returns whether a process still runs. A zombie does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_token_command_ends_when_the_server_exits_at_once() {
    let place = Place::new("token-command");
    let pids = format!("{}/pids", place.text());
    let command = format!("sleep 1000 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait");
    let server = Server::start(&[
        "--cores",
        "0",
        "--store",
        "kafka",
        "--brokers",
        "127.0.0.1:1",
        "--kafka-properties",
        "security.protocol=SASL_PLAINTEXT;sasl.mechanism=OAUTHBEARER",
        "--kafka-token-command",
        &command,
    ]);
    let pids = eventually("the command has started", || std::fs::read_to_string(&pids).ok());
    let pids: Vec<&str> = pids.split_whitespace().collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| runs(pid)), "{pids:?}");
    // The incomplete handshake makes the drain take a while.
    let mut half = server.dial();
    half.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    eventually("the connection is counted", || (server.metric("millstream_connections{") == 1).then_some(()));
    server.signal("TERM");
    server.wait_for_log("draining; a second signal exits at once");
    server.signal("TERM");
    assert_eq!(server.wait(), 1);
    eventually("the command has ended", || pids.iter().all(|pid| !runs(pid)).then_some(()));
}

/// Starts a server with this limit of `ulimit`, and returns its error message.
fn refusal(limit: &str) -> String {
    let Output { status, stderr, .. } = Command::new("sh")
        .args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\""), common::BINARY, "serve"])
        .args([
            "--listen",
            "127.0.0.1:0",
            "--control-listen",
            "127.0.0.1:0",
            "--store",
            "memory",
            "--cores",
            "0",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{said}");
    said
}

#[test]
fn too_small_limits_are_refused_with_the_required_values() {
    let said = refusal("-n 30");
    assert!(said.contains("only 30 files may be open (RLIMIT_NOFILE); the server itself needs "), "{said}");
    assert!(said.contains("ulimit -n"), "{said}");
    let said = refusal("-l 64");
    assert!(said.contains("only 64 KiB of memory may be locked (RLIMIT_MEMLOCK)"), "{said}");
    assert!(said.contains("ulimit -l"), "{said}");
}

#[test]
fn an_unread_standard_error_blocks_neither_clients_nor_the_stop() {
    let (mut server, _reader) = Server::start_unheard(&["--cores", "0", "--log", "debug"]);
    others_are_served(&server);
    for _ in 0..3 {
        let mut refused = server.dial();
        refused.write_all(b"GET / HTTP/1.1\r\nnonsense\r\n\r\n").unwrap();
        let mut text = Vec::new();
        refused.read_to_end(&mut text).unwrap();
        assert!(text.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&text));
    }
    let mut client = producer(&server, "undisturbed");
    assert_eq!(store(&mut client, b"x"), 201);
    drop(client);
    server.signal("TERM");
    assert_eq!(server.ended_within(Duration::from_secs(20)).code(), Some(0));
}

#[test]
fn sighup_reopens_the_latency_log_and_disturbs_no_client() {
    let place = Place::new("hangup");
    let (path, moved) = (place.0.join("latency.hlog"), place.0.join("latency.hlog.1"));
    let log = ["--latency-log", path.to_str().unwrap(), "--latency-interval", "100ms"];
    let server = Server::start(&[&["--cores", "0"][..], &log].concat());
    let lines =
        |path: &Path| std::fs::read_to_string(path).unwrap_or_default().matches("Tag=produce,").count();
    let mut client = producer(&server, "q");
    assert_eq!(store(&mut client, b"before"), 201);
    eventually("the log has a line", || (lines(&path) > 0).then_some(()));
    std::fs::rename(&path, &moved).unwrap();
    server.signal("HUP");
    server.wait_for_log("latency log reopened");
    let before = lines(&moved);
    assert_eq!(store(&mut client, b"after"), 201);
    eventually("the new file has a line", || (lines(&path) > 0).then_some(()));
    assert_eq!(lines(&moved), before);
    assert_eq!(server.stop(), 0);
    // Without a latency log, the signal has no effect.
    let server = Server::start(&["--cores", "0"]);
    let mut client = producer(&server, "q");
    server.signal("HUP");
    assert_eq!(store(&mut client, b"still here"), 201);
    assert_eq!(server.stop(), 0);
}

#[test]
fn sighup_during_a_long_start_reopens_the_latency_log() {
    let data = Place::new("hangup-start");
    let (latency, pipe) = (data.0.join("latency.hlog"), data.0.join("00000000.segment"));
    // A read of this file of the log waits until another process writes.
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut child = Command::new(common::BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--control-listen", "off", "--cores", "0"])
        .args(["--store", "log", "--data-dir", data.text(), "--latency-log", latency.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut writing = OpenOptions::new();
    writing.write(true).custom_flags(libc::O_NONBLOCK);
    let first = eventually("recovery", || writing.open(&pipe).ok());
    std::fs::rename(&latency, data.0.join("latency.hlog.1")).unwrap();
    let id = child.id().to_string();
    let signal = |name: &str| Command::new("kill").args([name, &id]).status().unwrap();
    assert!(signal("-HUP").success());
    drop(first);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    // The server may open the file again.
    let is_served = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_served.load(Ordering::Relaxed) {
                drop(writing.open(&pipe));
                std::thread::yield_now();
            }
        });
        let served = said.any(|line| line.contains("millstream serves"));
        is_served.store(true, Ordering::Relaxed);
        assert!(served);
    });
    eventually("the new file", || latency.exists().then_some(()));
    assert!(signal("-TERM").success());
    said.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_server_stops_at_once_during_recovery() {
    let data = Place::new("recovery");
    // These pipes replace two files of the log. A read waits until another process writes.
    let pipes = ["00000000.segment", "00000001.segment"].map(|name| data.0.join(name));
    assert!(Command::new("mkfifo").args(&pipes).status().unwrap().success());
    let mut child = Command::new(common::BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--control-listen", "off", "--cores", "0"])
        .args(["--store", "log", "--data-dir", data.text()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Fails until the server has opened the first pipe. The server then waits for the second.
    let mut writing = OpenOptions::new();
    writing.write(true).custom_flags(libc::O_NONBLOCK);
    let _first = eventually("recovery", || writing.open(&pipes[0]).ok());
    let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(told.unwrap().success());
    let until = Instant::now() + Duration::from_secs(20);
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > until => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the server must stop reading");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(ended.code(), Some(0), "{said}");
    assert!(said.contains("stopped before serving"), "{said}");
}

//! The real binary on a free port over real sockets: statuses, rules, draining, clients that are not ours.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{
    Client, Server, append, code, consume, feed, get, others_are_served, producer, request, varint,
};
use millstream::pb::{
    ConsumeRequest, ConsumeResponse, ProduceResponse, ProduceSetupResponse, SetupRequest, Status,
};

#[test]
fn messages_are_stored_and_come_back_with_their_metadata() {
    let server = Server::start(&["--cores", "0-1"]);
    let mut client = producer(&server, "orders");
    client.send(&request(Some(60), &[b"one", b"", b"three"]));
    let response: ProduceResponse = client.receive_as();
    assert_eq!((code(&response.status), response.msgnum_status_is_thru()), (201, 3));
    client.finish();
    assert_eq!(client.receive(), None);
    // The next operation on the same connection: its own messages only come with echo.
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
    assert_eq!(owed.id.as_deref(), Some(""), "nothing was sent: present and empty");
    let mut other = Client::connect(&server);
    other.begin(&get("orders", owed.marker(), false));
    assert_eq!(other.receive_as::<Status>().status_code(), 100);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_client_of_2014_may_send_100_messages_with_its_setup() {
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
fn a_4xx_that_names_its_messages_is_not_the_end() {
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
fn what_ends_an_operation_names_its_status_and_leaves_the_connection_usable() {
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
        assert_eq!(client.receive(), None, "the half ends");
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
fn setups_are_refused_with_their_status() {
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
                    assert_eq!(response.msgnum_status_is_thru(), last, "repeats the last number");
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
fn a_consumer_that_never_reads_costs_bounded_memory_while_others_go_on() {
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
    assert!(bytes < 120_000_000, "{bytes} bytes for a store of 20 MB");
}

#[test]
fn two_hundred_clients_on_two_shards_and_every_message_is_accounted_for() {
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
fn lines_go_through_produce_and_consume_and_resume_from_the_marker() {
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
fn a_consumer_gets_everything_although_its_producers_have_fallen_silent() {
    let server = Server::start(&["--cores", "0", "--partitions", "1"]);
    let both = ["bench", "both", "--connections", "4", "--consumers", "1", "--count", "400000", "--json"];
    let output = server.run(&both).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report:#}");
    assert_eq!((&report["verified"]["received"], &report["missing"]), (&400_000.into(), &0.into()));
}

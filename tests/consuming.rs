//! Tests section 6 of the protocol on the real binary: where a consumer starts, what it receives, and how it
//! ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{Client, Server, append, code, get, producer, request, varint};
use millstream::pb::{ConsumeRequest, ConsumeResponse, ProduceResponse, ProduceSetupResponse, Status};
use prost::Message;

const ONE: &str = "00000000-0000-0000-0000-000000000001";
const TWO: &str = "00000000-0000-0000-0000-000000000002";

/// Produces `payloads` as `client` and waits until they are stored.
fn store(server: &Server, client: &str, queue: &str, ttl: u32, payloads: &[&[u8]]) {
    let mut producer = Client::connect_with(server, &[("Client-ID", client)]);
    producer.begin(&append(queue));
    assert_eq!(code(&producer.receive_as::<ProduceSetupResponse>().status), 100);
    producer.send(&request(Some(ttl), payloads));
    let answer: ProduceResponse = producer.receive_as();
    assert_eq!((code(&answer.status), answer.msgnum_status_is_thru()), (201, payloads.len() as i64));
}

/// Opens a consumer and expects its setup's 100.
fn consumer(server: &Server, client: &str, queue: &str, from: &str, echo: bool) -> Client {
    let mut consumer = Client::connect_with(server, &[("Client-ID", client)]);
    consumer.begin(&get(queue, from, echo));
    assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
    consumer
}

/// Returns the messages available to a consumer: all that arrive before the marker that it requests. Also
/// returns the marker.
fn there(consumer: &mut Client) -> (Vec<Vec<u8>>, String) {
    consumer.send(&ConsumeRequest { send_marker: Some(true), ..Default::default() });
    let mut payloads = Vec::new();
    loop {
        for message in consumer.receive_as::<ConsumeResponse>().messages {
            payloads.extend(message.payload.as_ref().map(|payload| payload.to_vec()));
            // More messages may follow a marker that has a payload.
            if message.marker.is_some() && message.payload.is_none() {
                return (payloads, message.marker().to_owned());
            }
            if message.marker.is_some() {
                consumer.send(&ConsumeRequest { send_marker: Some(true), ..Default::default() });
            }
        }
    }
}

#[test]
fn a_client_receives_its_own_messages_only_with_echo() {
    let server = Server::start(&["--cores", "0-1"]);
    store(&server, ONE, "echo/2", 60, &[b"of one"]);
    store(&server, TWO, "echo/2", 60, &[b"of two"]);
    store(&server, ONE, "echo/2", 60, &[b"of one again"]);
    let there = |client, echo| there(&mut consumer(&server, client, "echo", "", echo)).0;
    assert_eq!(there(ONE, false), [b"of two"]);
    assert_eq!(there(TWO, false), [&b"of one"[..], b"of one again"]);
    assert_eq!(there(ONE, true).len(), 3);
}

#[test]
fn latest_and_time_start_at_the_right_message() {
    let server = Server::start(&["--cores", "0-1"]);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    store(&server, ONE, "starts", 60, &[b"first"]);
    let stored_by = now();
    // Timestamps are in milliseconds. The next message must not share the timestamp of the first.
    while now() <= stored_by {
        std::thread::yield_now();
    }
    let between = now();
    store(&server, ONE, "starts", 60, &[b"second"]);
    let mut latest = consumer(&server, TWO, "starts", "latest", false);
    store(&server, ONE, "starts", 60, &[b"third"]);
    assert_eq!(there(&mut latest).0, [b"third"]);
    let from = |start: &str| there(&mut consumer(&server, TWO, "starts", start, false)).0;
    assert_eq!(from(&format!("time:{between}")), [&b"second"[..], b"third"]);
    assert_eq!(from("time:0").len(), 3);
    assert_eq!(from(&format!("time:{}", now() + 1_000_000)), Vec::<Vec<u8>>::new());
    assert_eq!(from("0").len(), 3);
    let (_, marker) = there(&mut consumer(&server, TWO, "starts/0", "", false));
    store(&server, ONE, "starts", 60, &[b"fourth"]);
    assert!(from(&marker).contains(&b"fourth".to_vec()), "a partition and its queue must share markers");
}

#[test]
fn a_message_whose_age_has_reached_its_ttl_is_never_sent() {
    let server = Server::start(&["--cores", "0", "--ttl-min", "1"]);
    store(&server, ONE, "ttl", 1, &[b"short"]);
    store(&server, ONE, "ttl", 60, &[b"long"]);
    let began = std::time::Instant::now();
    loop {
        let mut consumer = consumer(&server, TWO, "ttl", "", false);
        let (payloads, _) = there(&mut consumer);
        let both: [&[u8]; 2] = [b"short", b"long"];
        if payloads == [b"long"] {
            break;
        }
        assert_eq!(payloads, both);
        assert!(began.elapsed().as_secs() < 10, "it must expire");
    }
    assert!(began.elapsed().as_millis() >= 900, "it must not expire early");
}

#[test]
fn a_failed_consumer_gets_its_marker_and_then_the_reason() {
    let server = Server::start(&["--cores", "0", "--pb-timeout", "0.2"]);
    store(&server, ONE, "broken", 60, &[b"x"]);
    let (_, marker) = there(&mut consumer(&server, TWO, "broken", "", false));
    type Break = fn(&mut Client);
    let cases: [(u32, Break); 5] = [
        (400, |c| c.send_raw(&[0xff; 5])),
        (400, |c| c.send_raw(&[2, 0x12, 0x80])),
        (413, |c| c.send_raw(&varint(8 << 20 | 1))),
        (408, |c| c.send_raw(&[100, 8])),
        (400, |c| {
            c.send_raw(&[100, 8]);
            c.finish();
        }),
    ];
    for (expected, break_it) in cases {
        let mut client = consumer(&server, TWO, "broken", &marker, false);
        client.send(&ConsumeRequest { send_marker: Some(true), ..Default::default() });
        break_it(&mut client);
        let owed = client.receive_as::<ConsumeResponse>();
        assert_eq!((owed.messages[0].marker(), owed.status), (&marker[..], None));
        let failure = client.receive_as::<ConsumeResponse>();
        assert_eq!((code(&failure.status), failure.messages.len()), (expected, 0));
        assert!(!failure.status.unwrap().reason_phrase().is_empty());
        assert_eq!(client.receive(), None);
    }
    for marker in [&marker[1..], &format!("{marker}A"), "time:", "time:-1", "Latest", &"a".repeat(1025)] {
        let mut client = Client::connect(&server);
        client.begin(&get("broken", marker, true));
        assert_eq!(client.receive_as::<Status>().status_code(), 400, "{marker}");
    }
    let mut client = Client::connect(&server);
    client.begin(&get("another", &marker, true));
    assert_eq!(client.receive_as::<Status>().status_code(), 400, "a marker of another queue must be refused");
}

#[test]
fn credit_is_never_exceeded_and_never_lowered() {
    let server = Server::start(&["--cores", "0"]);
    store(&server, ONE, "credit", 60, &vec![&b"x"[..]; 500]);
    let mut client = consumer(&server, TWO, "credit", "", false);
    let count = |client: &mut Client, wanted: usize| {
        let mut messages = 0;
        while messages < wanted {
            messages += client.receive_as::<ConsumeResponse>().messages.len();
        }
        messages
    };
    assert_eq!(count(&mut client, 100), 100, "a consumer starts with credit for 100 messages");
    for credit in [99, 0, -5, i64::MIN, 100] {
        client.send(&ConsumeRequest { max_msgnum_to_send: Some(credit), ..Default::default() });
    }
    client.send(&ConsumeRequest { send_marker: Some(true), ..Default::default() });
    assert_eq!(
        client.receive_as::<ConsumeResponse>().messages[0].payload,
        None,
        "only the owed marker must come"
    );
    client.send(&ConsumeRequest { max_msgnum_to_send: Some(130), ..Default::default() });
    assert_eq!(count(&mut client, 30), 30);
    client.send(&ConsumeRequest { max_msgnum_to_send: Some(i64::MAX), ..Default::default() });
    assert_eq!(count(&mut client, 370), 370);
    client.finish();
    assert_eq!(client.receive(), None);
}

#[test]
fn projects_are_isolated() {
    let server = Server::start(&["--cores", "0-1"]);
    let as_project = |project| [("X-Project-Id", project), ("Client-ID", ONE)];
    let mut producer = Client::connect_with(&server, &as_project("a"));
    producer.begin(&append("shared-name"));
    producer.receive_as::<ProduceSetupResponse>();
    producer.send(&request(Some(60), &[b"of a"]));
    assert_eq!(code(&producer.receive_as::<ProduceResponse>().status), 201);
    for (project, expected) in [("a", 1), ("b", 0), ("default", 0)] {
        let mut consumer = Client::connect_with(&server, &as_project(project));
        consumer.begin(&get("shared-name", "", true));
        assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
        assert_eq!(there(&mut consumer).0.len(), expected, "{project}");
    }
}

#[test]
fn a_second_signal_exits_at_once() {
    let server = Server::start(&["--cores", "0"]);
    for _ in 0..10 {
        store(&server, ONE, "stuck", 60, &vec![&[0; 1000][..]; 1_000]);
    }
    let mut stuck = consumer(&server, TWO, "stuck", "", false);
    // This client never reads, so draining would wait for it.
    stuck.send(&ConsumeRequest { max_msgnum_to_send: Some(1 << 40), ..Default::default() });
    let _held = producer(&server, "held");
    server.signal("TERM");
    // A draining server stops listening.
    while server.is_listening() {
        std::thread::yield_now();
    }
    server.signal("INT");
    assert_eq!(server.wait(), 1);
}

#[test]
fn draining_delivers_stored_messages_within_the_credit() {
    let server = Server::start(&["--cores", "0-1"]);
    store(&server, ONE, "drained", 60, &[&b"x"[..]; 300]);
    let mut client = consumer(&server, TWO, "drained", "", false);
    let request =
        ConsumeRequest { max_msgnum_to_send: Some(120), send_marker: Some(true), ..Default::default() };
    client.send(&request);
    server.signal("TERM");
    let (mut messages, mut markers, mut status) = (0, 0, None);
    while let Some(pb) = client.receive() {
        assert_eq!(status, None, "nothing may follow the status");
        let response = ConsumeResponse::decode(&pb[..]).unwrap();
        messages += response.messages.iter().filter(|message| message.payload.is_some()).count();
        markers += response.messages.iter().filter(|message| message.marker.is_some()).count();
        status = response.status;
    }
    assert!((100..=120).contains(&messages), "{messages}");
    assert_eq!(code(&status), 503);
    assert!(markers <= 1);
    assert_eq!(client.close_code(), 1001);
    assert_eq!(server.wait(), 0);
}

#[test]
fn a_marker_from_an_earlier_life_of_the_queue_starts_at_the_oldest() {
    let before = Server::start(&["--cores", "0"]);
    store(&before, ONE, "lives", 60, &[b"lost with its server", b"this too"]);
    let (_, marker) = there(&mut consumer(&before, TWO, "lives", "", false));
    assert_eq!(before.stop(), 0);
    let after = Server::start(&["--cores", "0"]);
    store(&after, ONE, "lives", 60, &[b"of the new life"]);
    assert_eq!(there(&mut consumer(&after, TWO, "lives", &marker, false)).0, [b"of the new life"]);
}

#[test]
fn a_queue_of_64_partitions_is_read_and_resumed_completely() {
    let server = Server::start(&["--cores", "0-1", "--partitions", "64"]);
    for partition in [0, 31, 63] {
        store(&server, ONE, &format!("wide/{partition}"), 60, &[b"before"]);
    }
    let (payloads, marker) = there(&mut consumer(&server, TWO, "wide", "", false));
    assert_eq!(payloads.len(), 3);
    assert!(
        marker.len() <= 1024 && marker.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~".contains(&c))
    );
    store(&server, ONE, "wide/62", 60, &[b"after"]);
    assert_eq!(there(&mut consumer(&server, TWO, "wide", &marker, false)).0, [b"after"]);
}

#[test]
fn age_is_in_whole_seconds_rounded_down() {
    let server = Server::start(&["--cores", "0"]);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    store(&server, ONE, "age", 60, &[b"x"]);
    loop {
        let mut reader = consumer(&server, TWO, "age", "", false);
        let earliest = now();
        let message = reader.receive_as::<ConsumeResponse>().messages.remove(0);
        let age = i64::from(message.age());
        let stored = message.timestamp_ms();
        // The server framed the message between the setup's answer, or a little before it was read, and now.
        assert!(age >= 0 && age <= (now() - stored) / 1000, "{age} of {}", now() - stored);
        assert!(age >= (earliest - 500 - stored) / 1000, "{age} of {}", earliest - stored);
        if age > 0 {
            break;
        }
    }
}

//! Tests section 7 of the protocol on the real binary: keys, headers, ids of stored messages, and timestamps. Also
//! tests the commands that use them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::collections::HashMap;

use bytes::Bytes;

use common::{Client, Server, append, code, feed, get, producer, request};
use millstream::base::partitioner::key_partition;
use millstream::base::units::{Offset, Partition};
use millstream::pb::headers::{HeaderRef, put_header};
use millstream::pb::{
    ConsumeResponse, ConsumeSetupRequest, ProduceRequest, ProduceResponse, ProduceSetupResponse,
    SetupRequest, Status,
};
use place::Place;

fn keyed(messages: &[(&str, &str)]) -> ProduceRequest {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    ProduceRequest {
        ttl: Some(60),
        payloads: messages.iter().map(|(_, payload)| bytes(payload)).collect(),
        keys: messages.iter().map(|(key, _)| bytes(key)).collect(),
        ..ProduceRequest::default()
    }
}

/// Returns the partition and the offset in an id.
fn place(id: &str) -> (Partition, Offset) {
    let (partition, offset) = id.split_once('.').unwrap();
    let (partition, offset) = (u16::from_str_radix(partition, 16), u64::from_str_radix(offset, 16));
    (Partition(partition.unwrap()), Offset(offset.unwrap()))
}

/// Returns the first `count` messages of a queue.
fn messages(server: &Server, queue: &str, count: usize) -> Vec<millstream::pb::MessageAndMetadata> {
    let mut consumer = Client::connect(server);
    consumer.begin(&get(queue, "", true));
    assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
    let mut messages = Vec::new();
    while messages.len() < count {
        messages.extend(consumer.receive_as::<ConsumeResponse>().messages);
    }
    messages
}

#[test]
fn messages_of_one_key_go_to_kafkas_partition_in_order() {
    let server = Server::start(&["--cores", "0-1", "--partitions", "7"]);
    let mut client = producer(&server, "keyed");
    let sent: Vec<(String, String)> =
        (0..100).map(|n| (format!("key-{}", n * n % 13), format!("{n}"))).collect();
    let pairs: Vec<(&str, &str)> = sent.iter().map(|(key, payload)| (&key[..], &payload[..])).collect();
    for part in pairs.chunks(30) {
        client.send(&keyed(part));
    }
    let mut through = 0;
    while through < 100 {
        let response: ProduceResponse = client.receive_as();
        assert_eq!(code(&response.status), 201);
        through = response.msgnum_status_is_thru();
    }
    let mut of_key: HashMap<String, Vec<u32>> = HashMap::new();
    for message in messages(&server, "keyed", 100) {
        let key = String::from_utf8(message.key().to_vec()).unwrap();
        assert_eq!(place(message.id()).0, key_partition(key.as_bytes(), 7), "{key}");
        assert!(message.timestamp_ms() > 1_700_000_000_000);
        of_key.entry(key).or_default().push(std::str::from_utf8(message.payload()).unwrap().parse().unwrap());
    }
    for (key, numbers) in &of_key {
        let expected: Vec<u32> =
            pairs.iter().filter(|(of, _)| of == key).map(|(_, n)| n.parse().unwrap()).collect();
        assert_eq!(*numbers, expected, "{key}");
    }
    assert_eq!(of_key.values().map(Vec::len).sum::<usize>(), 100);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_response_has_ids_if_its_messages_are_contiguous() {
    let server = Server::start(&["--cores", "0-1"]);
    let mut client = producer(&server, "placed/3");
    client.send(&request(Some(60), &[b"one", b"two"]));
    let response: ProduceResponse = client.receive_as();
    assert_eq!((response.first_id(), response.last_id()), ("3.0", "3.1"));
    client.send(&request(None, &[b"no ttl"]));
    let refused: ProduceResponse = client.receive_as();
    assert_eq!((code(&refused.status), &refused.first_id, &refused.last_id), (400, &None, &None));
    // With a named partition, keys do not select the partition.
    client.send(&keyed(&[("a", "three"), ("b", "four")]));
    let response: ProduceResponse = client.receive_as();
    assert_eq!((response.first_id(), response.last_id()), ("3.2", "3.3"));
    let ids: Vec<String> = messages(&server, "placed", 4).iter().map(|m| m.id().to_owned()).collect();
    assert_eq!(ids, ["3.0", "3.1", "3.2", "3.3"]);
}

#[test]
fn too_few_keys_refuse_the_request_and_a_long_key_only_its_message() {
    let server = Server::start(&["--cores", "0"]);
    let mut client = producer(&server, "bad-keys");
    let mut fewer = keyed(&[("a", "one"), ("b", "two")]);
    fewer.keys.pop();
    client.send(&fewer);
    let response: ProduceResponse = client.receive_as();
    assert_eq!((code(&response.status), response.msgnum_status_is_thru()), (400, 2));
    assert!(response.status.unwrap().reason_phrase().contains("keys: 1 for 2 payloads"));
    let long = "k".repeat(40_000);
    client.send(&keyed(&[("a", "stored"), (&long, "refused"), ("a", "stored, too")]));
    let mut fates = HashMap::new();
    let mut through = 2;
    while through < 5 {
        let response: ProduceResponse = client.receive_as();
        for number in through + 1..=response.msgnum_status_is_thru() {
            fates.insert(number, code(&response.status));
        }
        through = response.msgnum_status_is_thru();
    }
    assert_eq!(fates, HashMap::from([(3, 201), (4, 413), (5, 201)]));
    let stored: Vec<_> = messages(&server, "bad-keys", 2).iter().map(|m| m.payload().to_vec()).collect();
    assert_eq!(stored, [&b"stored"[..], b"stored, too"]);
}

#[test]
fn an_empty_key_counts_as_no_key() {
    let server = Server::start(&["--cores", "0"]);
    let headers = [("Client-ID", "67e55044-10b1-426f-9247-bb680e5fe0c8")];
    let mut client = Client::connect_with(&server, &headers);
    client.begin(&append("half-keyed"));
    assert_eq!(code(&client.receive_as::<ProduceSetupResponse>().status), 100);
    client.send(&request(Some(60), &[b"keyless"]));
    client.send(&keyed(&[("", "keyless, too"), ("k", "keyed")]));
    let mut through = 0;
    while through < 3 {
        through = client.receive_as::<ProduceResponse>().msgnum_status_is_thru();
    }
    let mut stored: Vec<_> = messages(&server, "half-keyed", 3);
    stored.sort_by_key(|message| message.key.is_some());
    assert!(stored[..2].iter().all(|message| message.key.is_none()));
    assert_eq!(
        place(stored[0].id()).0,
        place(stored[1].id()).0,
        "messages without a key must share a partition"
    );
    assert_eq!(stored[2].key(), &b"k"[..]);
}

#[test]
fn produce_reads_keys_before_a_separator_and_consume_shows_them_as_json() {
    let server = Server::start(&["--cores", "0-1"]);
    let input = b"a=>1\nb=>2\nno key\na=>3=>4\n=>empty\n";
    let produced = feed(server.run(&["produce", "shell", "--key-separator", "=>"]), input);
    assert!(produced.status.success(), "{}", String::from_utf8_lossy(&produced.stderr));
    let output = server.run(&["consume", "shell", "--count", "5", "--json"]).output().unwrap();
    let mut lines: Vec<(Option<String>, String)> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let decode = |text: &serde_json::Value| {
                use base64::Engine;
                let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap());
                String::from_utf8(bytes.unwrap()).unwrap()
            };
            (line.get("key").map(decode), decode(&line["payload"]))
        })
        .collect();
    lines.sort();
    let key = |key: &str| Some(key.to_owned());
    let expected = [(None, "empty"), (None, "no key"), (key("a"), "1"), (key("a"), "3=>4"), (key("b"), "2")];
    assert_eq!(lines, expected.map(|(key, payload)| (key, payload.to_owned())));
}

#[test]
fn headers_are_produced_shown_as_json_and_kept_in_the_log() {
    let data = Place::new("headers");
    let server = Server::start(&["--cores", "0-1", "--store", "log", "--data-dir", data.text()]);
    let with = ["--header", "lang=de", "--header", "lang=", "--header", "eq=a=b"];
    let produced = feed(server.run(&[&["produce", "letters/0"], &with[..]].concat()), b"hallo\n");
    assert!(produced.status.success(), "{}", String::from_utf8_lossy(&produced.stderr));
    let mut client = producer(&server, "letters/0");
    let mut headers = Vec::new();
    put_header(HeaderRef { name: "bin", value: Some(&[0xff, 0]) }, &mut headers);
    put_header(HeaderRef { name: "null", value: None }, &mut headers);
    let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    client.send(&ProduceRequest {
        headers: vec![bytes(&headers), Bytes::new()],
        ..request(Some(60), &[b"other", b"none"])
    });
    assert_eq!(code(&client.receive_as::<ProduceResponse>().status), 201);
    let expected = [
        serde_json::json!([
            {"name": "lang", "value": "de"}, {"name": "lang", "value": ""}, {"name": "eq", "value": "a=b"}
        ]),
        serde_json::json!([{"name": "bin", "value_base64": "/wA="}, {"name": "null"}]),
        serde_json::Value::Null,
    ];
    let shown = |output: std::process::Output| -> Vec<serde_json::Value> {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["headers"].clone())
            .collect()
    };
    let get =
        get("letters", "", true).get.map(|get| ConsumeSetupRequest { without_headers: Some(true), ..get });
    let mut consumer = Client::connect(&server);
    consumer.begin(&SetupRequest { get, append: None, claim: None });
    assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
    let messages = consumer.receive_as::<ConsumeResponse>().messages;
    assert!(!messages.is_empty() && messages.iter().all(|message| message.headers.is_none()));
    // A claim deletes what it has printed, but the log still has it.
    for command in ["consume", "claim"] {
        let run = server.run(&[command, "letters", "--count", "3", "--json"]);
        assert_eq!(shown(feed(run, b"")), expected, "{command}");
    }
    assert_eq!(server.stop(), 0);
    let mut dump = std::process::Command::new(common::BINARY);
    dump.args(["log", "dump", data.text(), "letters", "--json"]);
    assert_eq!(shown(feed(dump, b"")), expected);
}

#[test]
fn names_of_headers_that_the_server_refuses_or_drops_are_bad_usage() {
    let server = Server::start(&["--cores", "0"]);
    for argument in ["ms=1", "millstream-x=1", "none"] {
        let output = feed(server.run(&["produce", "q", "--header", argument]), b"x\n");
        assert_eq!(output.status.code(), Some(2), "{argument}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--header"), "{output:?}");
    }
}

//! Tests the real server while real Kafka brokers fail: no acknowledged message is lost, and clients get
//! correct statuses.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "common/broker.rs"]
mod broker;
mod common;
#[path = "common/service.rs"]
mod service;

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use broker::{Brokers, is_possible};
use common::{BINARY, Client, Server, append, code, eventually, get, request};
use millstream::pb::{ConsumeResponse, ProduceResponse, ProduceSetupResponse, Status};
use service::{Feed, Service, check};

/// Runs the tests one after another, because each starts its own brokers. Returns `None` if Kafka cannot run
/// here.
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    is_possible().then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn serve(brokers: &Brokers, more: &[&str]) -> Service {
    let base = ["--store", "kafka", "--partitions", "1", "--brokers", &brokers.addresses];
    Service::start(&[&base[..], more].concat())
}

/// Returns what the brokers say of a topic.
fn described(brokers: &Brokers, topic: &str) -> String {
    let describe =
        ["org.apache.kafka.tools.TopicCommand", "--bootstrap-server", &brokers.addresses, "--describe"];
    // A broker that has just started may not know the topic yet.
    eventually("the topic", || brokers.try_tool(&[&describe[..], &["--topic", topic]].concat(), "").ok())
}

/// Returns the broker that leads a topic's only partition.
fn leader(brokers: &Brokers, topic: &str) -> usize {
    let text = described(brokers, topic);
    let rest = text.split_once("Leader: ").unwrap_or_else(|| panic!("{text}")).1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn no_acknowledged_message_is_lost_when_brokers_and_servers_are_killed() {
    let Some(_turn) = turn() else { return };
    let brokers = Brokers::start(3);
    let mut service = serve(&brokers, &[]);
    let operate = |service: &Service, arguments: &[&str]| {
        let control = format!("http://127.0.0.1:{}", service.server().control);
        let output = Command::new(BINARY).args(arguments).args(["--control", &control]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    operate(&service, &["queue", "create", "kept", "_default_message_ttl=3600", "mine=1"]);
    let text = described(&brokers, "millstream-attributes");
    for of_attributes in ["ReplicationFactor: 3", "min.insync.replicas=2", "cleanup.policy=compact"] {
        assert!(text.contains(of_attributes), "{text}");
    }
    let feed = Feed::into(&service, "load");
    feed.await_progress("progress at first");
    let killed = leader(&brokers, "default.load");
    brokers.signal(killed, "KILL");
    feed.await_progress("progress without the leader");
    brokers.restart(killed);
    feed.await_progress("progress after the leader's restart");
    service.kill();
    service.restart();
    feed.await_progress("progress after the server's restart");
    let killed = leader(&brokers, "default.load");
    brokers.signal(killed, "KILL");
    service.kill();
    service.restart();
    brokers.restart(killed);
    feed.await_progress("progress after both restarts");
    for broker in 1..=3 {
        brokers.end(broker);
        brokers.restart(broker);
        feed.await_progress("progress during a rolling restart");
    }
    let (numbers, again) = feed.end();
    check(&service, "load", numbers, again);
    operate(&service, &["queue", "set", "kept", "mine=2"]);
    let shown = operate(&service, &["queue", "show", "kept", "-o", "json"]);
    assert!(shown.contains("\"_default_message_ttl\":3600") && shown.contains("\"mine\":2"), "{shown}");
}

/// Begins a produce operation, with a client that controls each byte.
fn producer(server: &Server, queue: &str) -> Client {
    let mut client = Client::connect(server);
    begin(&mut client, queue);
    client
}

fn begin(client: &mut Client, queue: &str) {
    client.begin(&append(queue));
    assert_eq!(code(&client.receive_as::<ProduceSetupResponse>().status), 100);
}

/// Sends one message. Returns its status and reason.
fn send(client: &mut Client, payload: &[u8]) -> (u32, String) {
    client.send(&request(Some(3600), &[payload]));
    loop {
        let response: ProduceResponse = client.receive_as();
        if let Some(status) = response.status {
            return (status.status_code(), status.reason_phrase().to_owned());
        }
    }
}

/// Call this after a 5xx, when the server has ended its half. Ends the client's half and begins another
/// operation on the connection.
fn begin_again(client: &mut Client, queue: &str) {
    // Skip the failure's response, up to the end.
    while client.receive().is_some() {}
    client.finish();
    begin(client, queue);
}

#[test]
fn a_stopped_broker_causes_503_in_time_and_service_resumes_with_it() {
    let Some(_turn) = turn() else { return };
    let brokers = Brokers::start(1);
    let service = serve(&brokers, &["--kafka-replication", "1", "--kafka-delivery-timeout", "2s"]);
    let server = service.server();
    let mut client = producer(server, "still");
    let mut consumer = Client::connect(server);
    consumer.begin(&get("still", "", true));
    assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
    assert_eq!(send(&mut client, b"before").0, 201);
    let mut seen = Vec::new();
    let mut read = |wanted: &[u8], seen: &mut Vec<Vec<u8>>| {
        while !seen.iter().any(|payload| payload == wanted) {
            let response: ConsumeResponse = consumer.receive_as();
            assert!(response.status.is_none(), "{response:?}");
            seen.extend(response.messages.iter().map(|message| message.payload().to_vec()));
        }
    };
    read(b"before", &mut seen);
    brokers.signal(1, "STOP");
    let (status, reason) = send(&mut client, b"while it stands still");
    assert_eq!(status, 503, "{reason}");
    assert!(reason.contains("Kafka"), "{reason}");
    brokers.signal(1, "CONT");
    begin_again(&mut client, "still");
    assert_eq!(send(&mut client, b"after").0, 201);
    read(b"after", &mut seen);
    // A message with an unknown outcome may be stored, but no message twice.
    assert_eq!(seen.len(), seen.iter().collect::<HashSet<_>>().len(), "{seen:?}");
}

#[test]
fn too_few_replicas_cause_503_until_enough_are_back() {
    let Some(_turn) = turn() else { return };
    let brokers = Brokers::start(3);
    let topic = [
        "org.apache.kafka.tools.TopicCommand",
        "--bootstrap-server",
        &brokers.addresses,
        "--topic",
        "default.few",
    ];
    let create =
        ["--create", "--partitions", "1", "--replication-factor", "2", "--config", "min.insync.replicas=2"];
    brokers.tool(&[&topic[..], &create].concat(), "");
    let service = serve(&brokers, &["--kafka-delivery-timeout", "3s"]);
    let mut client = producer(service.server(), "few");
    assert_eq!(send(&mut client, b"while there are").0, 201);
    // The log names a topic with weaker settings than the server's, and the settings that it should have.
    let line = service.server().wait_for_log("a topic promises less");
    assert!(line.contains("default.few") && line.contains("retention.ms"), "{line}");
    let described = brokers.tool(&[&topic[..], &["--describe"]].concat(), "");
    let replicas = described.split_once("Replicas: ").unwrap().1.split_whitespace().next().unwrap();
    let leader = leader(&brokers, "default.few");
    let follower = replicas.split(',').map(|one| one.parse().unwrap()).find(|one| *one != leader).unwrap();
    brokers.signal(follower, "KILL");
    let reason = eventually("a message is refused", || {
        let (status, reason) = send(&mut client, b"while there are not");
        (status != 201).then_some((status, reason))
    });
    assert_eq!(reason.0, 503, "{reason:?}");
    brokers.restart(follower);
    eventually("a message is stored again", || {
        begin_again(&mut client, "few");
        (send(&mut client, b"when there are again").0 == 201).then_some(())
    });
}

#[test]
fn a_topic_deleted_under_its_clients_is_created_again() {
    let Some(_turn) = turn() else { return };
    let brokers = Brokers::start(1);
    let more = ["--kafka-replication", "1", "--kafka-delivery-timeout", "5s"];
    let service = serve(&brokers, &more);
    let server = service.server();
    let mut client = producer(server, "gone");
    assert_eq!(send(&mut client, b"before").0, 201);
    let consumer = server
        .run(&["consume", "gone", "--count", "2", "--retries", "100"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the first message was delivered", || {
        (server.metric("millstream_messages_delivered_total") > 0).then_some(())
    });
    let topic = [
        "org.apache.kafka.tools.TopicCommand",
        "--bootstrap-server",
        &brokers.addresses,
        "--topic",
        "default.gone",
    ];
    brokers.tool(&[&topic[..], &["--delete"]].concat(), "");
    // A message sent now is refused, or goes into the topic just before its deletion. The client sends until
    // one is acknowledged and the consumer has received it.
    let waiting = std::thread::spawn(move || consumer.wait_with_output().unwrap());
    let mut refused = 0;
    eventually("the consumer continues in the new topic", || {
        if send(&mut client, b"after").0 != 201 {
            refused += 1;
            begin_again(&mut client, "gone");
        }
        waiting.is_finished().then_some(())
    });
    let output = waiting.join().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "before\nafter\n");
    println!("{refused} messages were refused");
}

#[test]
fn all_partitions_of_a_grown_topic_are_read_and_written() {
    let Some(_turn) = turn() else { return };
    let brokers = Brokers::start(1);
    let service = serve(&brokers, &["--kafka-replication", "1", "--cores", "0-1", "--partitions", "2"]);
    let server = service.server();
    let keyed = |from: usize| (from..from + 200).map(|n| format!("key {n}\tvalue {n}\n")).collect::<String>();
    let produce = |text: String| {
        let output =
            common::feed(server.run(&["produce", "grows", "--key-separator", "\t"]), text.as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    produce(keyed(0));
    let consumer = server
        .run(&["consume", "grows", "--count", "400", "--retries", "100"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let delivered = || server.metric("millstream_messages_delivered_total");
    eventually("the existing messages are delivered", || (delivered() >= 200).then_some(()));
    let topic = [
        "org.apache.kafka.tools.TopicCommand",
        "--bootstrap-server",
        &brokers.addresses,
        "--topic",
        "default.grows",
    ];
    brokers.tool(&[&topic[..], &["--alter", "--partitions", "6"]].concat(), "");
    server.wait_for_log("has other partitions");
    produce(keyed(200));
    let output = consumer.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines: HashSet<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    // Each message comes once, although the consumer had to restart at its position.
    assert_eq!(lines.len(), 400);
    let offsets = [
        "org.apache.kafka.tools.GetOffsetShell",
        "--bootstrap-server",
        &brokers.addresses,
        "--topic",
        "default.grows",
    ];
    let text = brokers.tool(&offsets, "");
    let written = text.lines().filter(|line| !line.ends_with(":0")).count();
    assert_eq!(written, 6, "{text}");
}

#[test]
fn a_full_broker_disk_loses_no_acknowledged_message() {
    let Some(_turn) = turn() else { return };
    let brokers = Brokers::start_small(24 << 20);
    let more = ["--kafka-replication", "1", "--kafka-compression", "none", "--kafka-delivery-timeout", "3s"];
    let service = serve(&brokers, &more);
    let feed = Feed::into(&service, "full");
    brokers.await_end(1);
    // The disk has room again.
    brokers.restart(1);
    feed.await_progress("progress with free space");
    let (numbers, again) = feed.end();
    check(&service, "full", numbers, again);
}

#[test]
fn strict_topics_are_refused_with_the_required_settings() {
    let Some(_turn) = turn() else { return };
    let brokers = Brokers::start(1);
    let topic = ["org.apache.kafka.tools.TopicCommand", "--bootstrap-server", &brokers.addresses, "--create"];
    let weak = ["--topic", "default.weak", "--partitions", "1", "--config", "retention.ms=1000"];
    brokers.tool(&[&topic[..], &weak].concat(), "");
    let service = serve(&brokers, &["--kafka-replication", "1", "--kafka-strict-topics"]);
    let mut client = Client::connect(service.server());
    client.begin(&append("weak"));
    let status = client.receive_as::<ProduceSetupResponse>().status.unwrap();
    assert_eq!(status.status_code(), 503);
    assert!(status.reason_phrase().contains("kafka_strict_topics"), "{status:?}");
    let said = service.server().wait_for_log("a topic promises less than Millstream does");
    assert!(said.contains("retention.ms = 1000 should be at least 1209600000"), "{said}");
    // Topics that the server creates have the right settings.
    producer(service.server(), "strong");
}

#[test]
fn deleted_records_are_skipped_and_foreign_records_get_the_topics_ttl() {
    let Some(_turn) = turn() else { return };
    let brokers = Brokers::start(1);
    let service = serve(&brokers, &["--kafka-replication", "1"]);
    let server = service.server();
    let mut client = producer(server, "gone");
    for payload in [b"one", b"two"] {
        assert_eq!(send(&mut client, payload).0, 201);
    }
    let file = std::env::temp_dir().join(format!("millstream-delete-records-{}.json", std::process::id()));
    let records = r#"{"partitions":[{"topic":"default.gone","partition":0,"offset":1}],"version":1}"#;
    std::fs::write(&file, records).unwrap();
    let delete = ["org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server", &brokers.addresses];
    brokers.tool(&[&delete[..], &["--offset-json-file", file.to_str().unwrap()]].concat(), "");
    std::fs::remove_file(&file).unwrap();
    let foreign = ["org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", &brokers.addresses];
    brokers.tool(&[&foreign[..], &["--topic", "default.gone"]].concat(), "three\n");
    let mut consumer = Client::connect(server);
    consumer.begin(&get("gone", "", false));
    assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
    let mut messages = Vec::new();
    while messages.len() < 2 {
        messages.extend(consumer.receive_as::<ConsumeResponse>().messages);
    }
    let seen: Vec<(&str, &[u8], u32)> =
        messages.iter().map(|message| (message.id(), message.payload(), message.ttl())).collect();
    assert_eq!(seen, [("0.1", &b"two"[..], 3600), ("0.2", b"three", 1_209_600)]);
}

#[test]
fn nothing_stored_after_a_partition_has_gone_back_is_skipped() {
    let Some(_turn) = turn() else { return };
    let brokers = Brokers::start(1);
    for packed in ["false", "true"] {
        let service = serve(&brokers, &["--kafka-replication", "1", "--kafka-packed", packed]);
        let server = service.server();
        let mut client = producer(server, "back");
        let mut consumer = Client::connect(server);
        consumer.begin(&get("back", "", true));
        assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut read_until = |wanted: &[u8], seen: &mut Vec<Vec<u8>>| {
            while !seen.iter().any(|payload| payload == wanted) {
                let response: ConsumeResponse = consumer.receive_as();
                assert!(response.status.is_none(), "{response:?}");
                seen.extend(response.messages.iter().map(|message| message.payload().to_vec()));
            }
        };
        for payload in [&b"one"[..], b"two", b"three"] {
            assert_eq!(send(&mut client, payload).0, 201);
        }
        read_until(b"three", &mut seen);
        brokers.end(1);
        let topic = if packed == "true" { "default.back.packed" } else { "default.back" };
        brokers.lose(1, topic, 0);
        brokers.restart(1);
        eventually("a message is stored again", || {
            if send(&mut client, b"after").0 == 201 {
                return Some(());
            }
            begin_again(&mut client, "back");
            None
        });
        // The message gets an offset that the consumer has already passed.
        read_until(b"after", &mut seen);
        let before = ["one", "two", "three"].map(|payload| payload.as_bytes().to_vec());
        assert_eq!(seen[..3], before, "each message must come once, in order");
    }
}

//! Tests the real server on real Kafka brokers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "common/broker.rs"]
mod broker;
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use broker::{Brokers, is_possible};
use common::zaqar::{OTHER, Zaqar};
use common::{BINARY, Server, code, eventually, producer, request};
use millstream::pb::ProduceResponse;
use serde_json::{Value, json};

/// Returns the broker for all tests that do not harm it.
fn broker() -> Option<&'static Brokers> {
    static BROKER: OnceLock<Option<Brokers>> = OnceLock::new();
    BROKER.get_or_init(|| is_possible().then(|| Brokers::start(1))).as_ref()
}

fn serve(brokers: &str, replication: usize, more: &[&str]) -> Server {
    let replication = replication.to_string();
    let base =
        ["--store", "kafka", "--brokers", brokers, "--kafka-replication", &replication, "--partitions", "2"];
    Server::start(&[&base[..], more].concat())
}

/// How long one `millstream produce` may take: twice as long as it waits for a silent server.
const PRODUCE_MAX: Duration = Duration::from_secs(180);

/// Produces numbered lines into a queue, with `millstream produce`.
fn produce(server: &Server, queue: &str, lines: impl Iterator<Item = String>, more: &[&str]) -> Output {
    let mut producer = server
        .run(&[&["produce", queue], more].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text: String = lines.map(|line| line + "\n").collect();
    producer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let until = Instant::now() + PRODUCE_MAX;
    while producer.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            producer.kill().unwrap();
            let said = String::from_utf8_lossy(&producer.wait_with_output().unwrap().stderr).into_owned();
            panic!("produce {queue} takes longer than {PRODUCE_MAX:?}: {said}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    producer.wait_with_output().unwrap()
}

/// Starts `millstream consume` for `count` lines of a queue.
fn consume(server: &Server, queue: &str, count: usize, more: &[&str]) -> Child {
    let count = count.to_string();
    server
        .run(&[&["consume", queue, "--count", &count], more].concat())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// How long one `millstream consume` may take. It waits for messages without a limit of its own.
const CONSUME_MAX: Duration = Duration::from_secs(300);

fn lines(child: Child) -> Vec<String> {
    let pid = child.id().to_string();
    let (ended, end) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if end.recv_timeout(CONSUME_MAX) == Err(RecvTimeoutError::Timeout) {
            Command::new("kill").args(["-KILL", &pid]).status().unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watch.join().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "consume ended after {} lines", said.lines().count());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Checks that each line of producers `0..producers` occurs once, and that each producer's lines are in
/// order.
fn assert_all_in_order(lines: &[String], producers: usize, each: usize) {
    let mut next: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lines {
        let (producer, number) = line.split_once(' ').unwrap();
        let expected = next.entry(producer).or_default();
        assert_eq!(number.parse::<usize>().unwrap(), *expected, "wrong line of producer {producer}");
        *expected += 1;
    }
    assert_eq!(next.len(), producers);
    assert!(next.values().all(|count| *count == each), "{next:?}");
}

#[test]
fn two_servers_two_producers_and_two_consumers_share_the_same_queues() {
    let Some(brokers) = broker() else { return };
    const EACH: usize = 20_000;
    let servers = [(); 2].map(|()| serve(&brokers.addresses, 1, &["--cores", "0-1"]));
    for queue in ["demo-a", "demo.b"] {
        let consumers: Vec<Child> =
            servers.iter().map(|server| consume(server, queue, 2 * EACH, &[])).collect();
        std::thread::scope(|scope| {
            for (number, server) in servers.iter().enumerate() {
                let numbered = move |index| format!("{number} {index}");
                scope.spawn(move || {
                    let output = produce(server, queue, (0..EACH).map(numbered), &[]);
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                });
            }
        });
        for consumer in consumers {
            assert_all_in_order(&lines(consumer), 2, EACH);
        }
        // A late consumer that starts at the oldest message sees the same.
        assert_all_in_order(&lines(consume(&servers[0], queue, 2 * EACH, &[])), 2, EACH);
    }
    servers.into_iter().for_each(|server| assert_eq!(server.stop(), 0));
}

/// Runs a command for the operator on a server. Returns its exit code, what it prints as JSON, and what it says.
fn operate(server: &Server, arguments: &[&str]) -> (i32, Vec<Value>, String) {
    let control = format!("http://127.0.0.1:{}", server.control);
    let output = Command::new(BINARY).args(arguments).args(["--control", &control]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines = printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    (output.status.code().unwrap(), lines, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Returns what a command prints as one line of JSON.
fn shown(server: &Server, arguments: &[&str]) -> Value {
    let (code, lines, said) = operate(server, &[arguments, &["-o", "json"]].concat());
    assert_eq!((code, lines.len()), (0, 1), "{arguments:?}: {said}");
    lines[0].clone()
}

#[test]
fn what_an_operator_sets_on_one_server_counts_on_all() {
    let Some(brokers) = broker() else { return };
    let [one, other] = [(); 2].map(|()| serve(&brokers.addresses, 1, &["--cores", "0-1"]));
    let create = ["queue", "create", "set-1", "--partitions", "3", "_default_message_ttl=3600", "mine=[1]"];
    let made = shown(&one, &create);
    assert_eq!((&made["partitions"], &made["attributes"]["mine"]), (&json!(3), &json!([1])));
    assert_eq!(operate(&one, &create).0, 1, "it exists");
    assert_eq!(operate(&one, &["queue", "create", "set-2"]).0, 0);
    // The other server may have read the record only after it has opened the queue.
    let attributes =
        |server: &Server, queue: &str| shown(server, &["queue", "show", queue])["attributes"].clone();
    let expected = json!({"_default_message_ttl": 3600, "mine": [1]});
    eventually("the attributes", || (attributes(&other, "set-1") == expected).then_some(()));
    assert_eq!(attributes(&other, "set-2"), json!({}), "another queue's do not apply");
    let lines = (0..6).map(|number| format!("key-{number}\t{number}"));
    let output = produce(&other, "set-1", lines, &["--queue-ttl", "--key-separator", "\t"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A change reaches an operation that is open on the other server.
    let mut open = producer(&other, "set-1");
    let post = |open: &mut common::Client, ttl| {
        open.send(&request(ttl, &[b"long"]));
        code(&open.receive_as::<ProduceResponse>().status)
    };
    assert_eq!(post(&mut open, None), 201);
    let set = ["queue", "set", "set-1", "_max_messages_post_size=3", "--unset", "_default_message_ttl"];
    assert_eq!(shown(&one, &set)["attributes"], json!({"_max_messages_post_size": 3, "mine": [1]}));
    eventually("the limit", || (post(&mut open, Some(60)) == 413).then_some(()));
    // What Kafka can say, and what it cannot.
    let stats = shown(&other, &["queue", "stats", "set-1"]);
    assert!(stats["offsets"].as_u64().unwrap() >= 7, "{stats}");
    assert_eq!(stats.as_object().unwrap().len(), 1, "{stats}");
    let (_, listed, _) = operate(&other, &["queue", "list", "--prefix", "set-", "-o", "json"]);
    let line = |queue: &str, partitions: u16| json!({"project": "default", "queue": queue, "partitions": partitions});
    assert_eq!(listed, [line("set-1", 3), line("set-2", 2)]);
    let ids: Vec<String> =
        (0..3).flat_map(|partition| (0..7).map(move |offset| format!("{partition}.{offset}"))).collect();
    let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
    let (_, found, said) = operate(&one, &[&["message", "get", "set-1", "-o", "json"], &ids[..]].concat());
    let payloads: BTreeSet<&str> = found.iter().map(|message| message["payload"].as_str().unwrap()).collect();
    let posted = (0..6).map(|number| number.to_string()).chain(["long".to_owned()]);
    let posted: Vec<String> =
        posted.map(|text| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text)).collect();
    assert!(posted.iter().all(|payload| payloads.contains(&**payload)), "{found:?} {said}");
    assert_eq!(operate(&one, &["message", "get", "set-1", "0.ffffff", "2f.0"]).0, 1, "there are none");
    // Everything else is refused, with its reason.
    for (arguments, words) in [
        (&["queue", "set", "set-1", "_max_messages=5"][..], "_max_messages:"),
        (&["queue", "set", "set-1", "_dead_letter_queue=set-2"], "_dead_letter_queue:"),
        (&["queue", "set", "set-1", "_default_message_delay=5"], "_default_message_delay:"),
        (&["queue", "create", "set-3", "_when_full=refuse"], "_when_full:"),
        (&["queue", "add-partitions", "set-1", "--total", "4"], "_partitions:"),
        (&["queue", "purge", "set-1"], "ownership"),
        (&["queue", "redrive", "set-1", "--to", "set-2"], "ownership"),
        (&["queue", "delete", "set-1"], "ownership"),
        (&["message", "delete", "set-1", "0.0"], "ownership"),
        (&["message", "pop", "set-1"], "ownership"),
    ] {
        let (code, _, said) = operate(&one, arguments);
        assert!(code > 1 && said.contains(words) && said.contains("501"), "{arguments:?}: {code} {said}");
    }
    assert_eq!(operate(&one, &["queue", "show", "set-3"]).0, 1, "nothing was created");
    // A server that starts knows everything before it opens a queue.
    let again = serve(&brokers.addresses, 1, &[]);
    assert_eq!(attributes(&again, "set-1"), json!({"_max_messages_post_size": 3, "mine": [1]}));
    [one, other, again].into_iter().for_each(|server| assert_eq!(server.stop(), 0));
}

#[test]
fn a_client_of_zaqar_lists_the_queues_that_other_servers_made() {
    let Some(brokers) = broker() else { return };
    let start = || serve(&brokers.addresses, 1, &["--cores", "0-1"]);
    let names = |answer: &Value| -> Vec<String> {
        let queues = answer["queues"].as_array().unwrap().iter();
        queues.map(|queue| queue["name"].as_str().unwrap().to_owned()).collect()
    };
    let (one, other) = (start(), start());
    let mut maker = Zaqar::connect(&one).of_project("listing");
    for queue in ["a", "b.c_d", "e"] {
        maker.get(201, "queue_create", json!({"queue_name": queue, "metadata": {"of": queue}}));
    }
    assert_eq!(names(&maker.get(200, "queue_list", json!({}))), ["a", "b.c_d", "e"], "at once");
    maker.post("used", &[json!(1)]);
    assert_eq!(one.stop(), 0);
    let mut reader = Zaqar::connect(&other).of_project("listing");
    let all = eventually("the list", || {
        let all = names(&reader.get(200, "queue_list", json!({})));
        (all.len() == 4).then_some(all)
    });
    assert_eq!(all, ["a", "b.c_d", "e", "used"]);
    // A server that has opened none of them.
    let late = start();
    let mut reader = Zaqar::connect(&late).of_project("listing");
    let page = json!({"marker": "a", "limit": 2, "detailed": true});
    let answer = reader.get(200, "queue_list", page);
    assert_eq!(names(&answer), ["b.c_d", "e"]);
    assert_eq!(answer["queues"][0]["metadata"]["of"], "b.c_d", "{answer}");
    assert_eq!(answer["queues"][1]["metadata"]["of"], "e", "{answer}");
    assert_eq!(names(&reader.get(200, "queue_list", json!({"marker": "e"}))), ["used"]);
    let mut stranger = Zaqar::connect(&late).of_project("listing-2");
    assert_eq!(names(&stranger.get(200, "queue_list", json!({}))), [""; 0]);
    [other, late].into_iter().for_each(|server| assert_eq!(server.stop(), 0));
}

#[test]
fn clients_of_zaqar_post_read_and_subscribe_and_hear_what_kafka_cannot() {
    let Some(brokers) = broker() else { return };
    let [one, other] = [(); 2].map(|()| serve(&brokers.addresses, 1, &["--cores", "0-1"]));
    let (mut poster, mut reader) = (Zaqar::connect(&one), Zaqar::connect(&other).of_client(OTHER));
    let bodies = [json!({"a": "é"}), json!(null), json!([1, 2])];
    let posted = poster.post("zaqar", &bodies);
    assert_eq!(reader.bodies("zaqar"), bodies);
    let queue = json!({"queue_name": "zaqar"});
    assert_eq!(poster.get(200, "message_list", queue.clone())["messages"], json!([]), "its own");
    let get = json!({"queue_name": "zaqar", "message_id": posted[1]});
    assert_eq!(poster.get(200, "message_get", get)["messages"]["body"], json!(null));
    let many = json!({"queue_name": "zaqar", "message_ids": posted});
    assert_eq!(poster.get(200, "message_get_many", many.clone())["messages"].as_array().unwrap().len(), 3);
    reader.get(201, "subscription_create", queue.clone());
    poster.post("zaqar", &[json!("pushed")]);
    assert_eq!(reader.receive()["body"], json!("pushed"), "from the other server");
    assert!(reader.get(200, "queue_get_stats", queue.clone())["messages"]["offsets"].as_u64() >= Some(4));
    let create = json!({"queue_name": "zaqar-made", "metadata": {"_default_message_ttl": 300, "x": 1}});
    poster.get(201, "queue_create", create);
    assert_eq!(poster.get(200, "queue_get", json!({"queue_name": "zaqar-made"}))["x"], 1);
    for (action, more) in [
        ("claim_create", json!({})),
        ("message_delete", json!({"message_id": posted[0]})),
        ("message_delete_many", json!({"message_ids": posted})),
        ("message_delete_many", json!({"pop": 1})),
        ("queue_purge", json!({})),
        ("queue_delete", json!({})),
    ] {
        let mut body = queue.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = poster.get(501, action, body);
        assert!(answer["exception"].as_str().unwrap().contains("Kafka"), "{action}: {answer}");
    }
    assert_eq!(reader.bodies("zaqar").len(), 4, "nothing was deleted");
}

#[test]
fn kafkas_own_tools_and_millstream_read_each_others_messages() {
    let Some(brokers) = broker() else { return };
    let server = serve(&brokers.addresses, 1, &[]);
    let messages: Vec<(String, String)> =
        (0..100).map(|n| (format!("key {}", n % 7), format!("value {n}"))).collect();
    let keyed = messages.iter().map(|(key, value)| format!("{key}\t{value}"));
    let output = produce(&server, "tools", keyed, &["--key-separator", "\t"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let formats = ["print.key", "print.value", "print.partition"].map(|what| format!("{what}=true"));
    let read = |topic: &str, count: usize| {
        let count = count.to_string();
        let mut arguments =
            vec!["org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", &brokers.addresses];
        arguments.extend([
            "--topic",
            topic,
            "--from-beginning",
            "--max-messages",
            &count,
            "--timeout-ms",
            "60000",
        ]);
        formats.iter().for_each(|format| arguments.extend(["--formatter-property", format]));
        brokers.tool(&arguments, "")
    };
    // Groups by key: the partitions, and the values in order.
    let by_key = |text: &str| {
        let mut keys: BTreeMap<String, (BTreeSet<String>, Vec<String>)> = BTreeMap::new();
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [partition, key, value] = fields[..] else { panic!("{line}") };
            let entry = keys.entry(key.to_owned()).or_default();
            entry.0.insert(partition.to_owned());
            entry.1.push(value.to_owned());
        }
        keys
    };
    let ours = by_key(&read("default.tools", 100));
    assert_eq!(ours.len(), 7);
    for (key, (partitions, values)) in &ours {
        assert_eq!(partitions.len(), 1, "{key} must have one partition");
        let wanted: Vec<&String> =
            messages.iter().filter(|(of, _)| of == key).map(|(_, value)| value).collect();
        assert_eq!(values.iter().collect::<Vec<_>>(), wanted, "{key}");
    }
    // Kafka's own producer maps the same keys to the same partitions.
    let text: String = messages.iter().map(|(key, value)| format!("{key}\t{value} again\n")).collect();
    let producer = ["org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", &brokers.addresses];
    let properties = ["--topic", "default.tools", "--reader-property", "parse.key=true"];
    brokers.tool(&[&producer[..], &properties].concat(), &text);
    let both = by_key(&read("default.tools", 200));
    for (key, (partitions, _)) in &both {
        assert_eq!(partitions, &ours[key].0, "{key}");
    }
    let consumed = lines(consume(&server, "tools", 200, &[]));
    let again = consumed.iter().filter(|line| line.contains(" again")).count();
    assert_eq!((consumed.len(), again), (200, 100));
    assert_eq!(server.stop(), 0);
}

#[test]
fn late_consumers_catch_up_without_loss_or_duplicates() {
    let Some(brokers) = broker() else { return };
    const COUNT: usize = 300_000;
    for packed in ["false", "true"] {
        // The tail is so short that consumers fall behind it and catch up again.
        let more = ["--cores", "0-1", "--kafka-tail-bytes", "1MiB", "--kafka-packed", packed];
        let server = serve(&brokers.addresses, 1, &more);
        let mut producer =
            server.run(&["produce", "late"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut input = producer.stdin.take().unwrap();
        let mut consumers = Vec::new();
        for part in 0..10 {
            consumers.push(consume(&server, "late", COUNT, &[]));
            let numbers = part * COUNT / 10..(part + 1) * COUNT / 10;
            let text: String =
                numbers.map(|number| format!("{number} {}\n", "x".repeat(number % 90))).collect();
            input.write_all(text.as_bytes()).unwrap();
        }
        drop(input);
        assert!(producer.wait().unwrap().success());
        for consumer in consumers {
            let lines = lines(consumer);
            assert_eq!(lines.len(), COUNT);
            for (number, line) in lines.iter().enumerate() {
                assert_eq!(line.split(' ').next().unwrap().parse::<usize>().unwrap(), number);
            }
        }
        assert_eq!(server.stop(), 0);
    }
}

/// Starts a server with these properties for a broker that requires TLS.
fn serve_secure(brokers: &Brokers, properties: &str, more: &[&str]) -> Server {
    let trust = format!("security.protocol=SASL_SSL;ssl.ca.location={}", brokers.certificate().display());
    let properties = format!("{trust};{properties}");
    serve(&brokers.addresses, 1, &[&["--kafka-properties", &properties], more].concat())
}

#[test]
fn tls_and_each_sasl_mechanism_connect_to_a_broker_that_requires_them() {
    if !is_possible() {
        return;
    }
    let brokers = Brokers::start_secure();
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let properties = format!("sasl.mechanism={mechanism};sasl.username=me;sasl.password=secret");
        let server = serve_secure(&brokers, &properties, &[]);
        let output = produce(&server, mechanism, (0..100).map(|number| format!("one {number}")), &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_all_in_order(&lines(consume(&server, mechanism, 100, &[])), 1, 100);
    }
    let directory = std::env::temp_dir().join(format!("millstream-tokens-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let counted = directory.join("counted");
    let command = format!(
        "echo x >> {}; python3 -c '{}'",
        counted.display(),
        r#"
import base64, json, time
part = lambda what: base64.urlsafe_b64encode(json.dumps(what).encode()).rstrip(b"=").decode()
now = time.time()
print(".".join([part({"alg": "none"}), part({"sub": "me", "iat": now, "exp": now + 5}), ""]))"#
    );
    let fetched = || std::fs::read_to_string(&counted).map_or(0, |text| text.lines().count());
    let server = serve_secure(&brokers, "sasl.mechanism=OAUTHBEARER", &["--kafka-token-command", &command]);
    // Each token is valid for 5 s.
    let mut producers = 0;
    while fetched() < 4 {
        let output = produce(&server, "renewed", (0..100).map(|number| format!("{producers} {number}")), &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        producers += 1;
    }
    assert_all_in_order(&lines(consume(&server, "renewed", 100 * producers, &[])), producers, 100);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn check_config_shows_no_secret_and_warns_about_missing_protection() {
    let secrets = [
        ("sasl.password", "sesame-1"),
        ("ssl.key.password", "sesame-2"),
        ("ssl.keystore.password", "sesame-3"),
        ("enable.ssl.certificate.verification", "false"),
        ("ssl.endpoint.identification.algorithm", "none"),
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "OAUTHBEARER"),
    ];
    let properties = secrets.map(|(key, value)| format!("{key}={value}")).join(";");
    let check = |properties: &str| {
        let base = ["serve", "--check-config", "--store", "kafka", "--brokers", "127.0.0.1:1"];
        let secret = ["--kafka-token-command", "curl -d client_secret=sesame-4 https://login.example"];
        let output = Command::new(BINARY)
            .args(base)
            .args(secret)
            .args(["--kafka-properties", properties])
            .output()
            .unwrap();
        let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), said(output.stdout), said(output.stderr))
    };
    let (is_good, shown, warned) = check(&properties);
    assert!(is_good, "{warned}");
    assert!(!shown.contains("sesame") && !warned.contains("sesame"), "{shown}{warned}");
    assert!(shown.contains("sasl.password=***") && shown.contains("sasl.mechanism=OAUTHBEARER"), "{shown}");
    for off in ["enable.ssl.certificate.verification=false", "ssl.endpoint.identification.algorithm=none"] {
        assert!(warned.contains(off), "{warned}");
    }
    for refused in
        ["acks=0", "no.such.property=sesame-5", "plugin.library.paths=/sesame", "ssl.key.pem=sesame-6"]
    {
        let (is_good, shown, why) = check(&format!("{properties};{refused}"));
        assert!(!is_good, "{refused}: {shown}");
        assert!(!shown.contains("sesame") && !why.contains("sesame"), "{refused}: {shown}{why}");
    }
}

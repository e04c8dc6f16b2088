//! Conversations about consume operations.

use super::super::conversation::{Step, Trouble};
use super::super::script::{BINARY, ONE, Script, TWO, append, credit, frame, get, keyed, request};
use millstream::pb::SetupRequest;
use prost::Message;

/// Stores a client's messages, on a connection that ends afterwards.
fn store(script: &mut Script, name: &str, client: &str, queue: &str, payloads: &[&[u8]]) {
    script.connect(name, client);
    script.begin(name, &append(queue));
    script.pb(name, &request(60, payloads));
    script.finish(name);
    script.step(Step::Gone(name.into()));
}

/// Returns a setup with the field that opts in to the extensions.
fn extended(queue: &str, marker: &str) -> SetupRequest {
    let mut setup = get(queue, marker, true);
    setup.get.as_mut().unwrap().without_headers = Some(false);
    setup
}

pub fn echo(script: &mut Script) {
    script.about("Two consumers, with and without echo, and messages that are stored while they wait.");
    script.set("partitions", "1");
    store(script, "p1", ONE, "q", &[b"of one", b"of one, too"]);
    store(script, "p2", TWO, "q", &[b"of two"]);
    script.connect("with", ONE);
    script.begin("with", &get("q", "", true));
    script.connect("without", ONE);
    script.begin("without", &get("q", "", false));
    store(script, "p3", TWO, "q", &[b"later of two"]);
    store(script, "p4", ONE, "q", &[b"later of one"]);
    for name in ["with", "without"] {
        script.pb(name, &credit(200, true));
    }
    script.wait(100);
    script.finish("with");
    script.finish("without");
    script.close("with");
}

pub fn markers(script: &mut Script) {
    script.about("Markers: requested, sent with messages or alone, used to resume. Starts at latest and at a time. Markers refused with 400.");
    script.set("partitions", "2");
    store(script, "p1", ONE, "q/0", &[b"a", b"b"]);
    script.wait(5_000);
    store(script, "p2", ONE, "q/1", &[b"c"]);
    script.connect("c", TWO);
    let mut half = get("q", "", true).encode_length_delimited_to_vec();
    credit(2, true).encode_length_delimited(&mut half).unwrap();
    script.send("c", &frame(BINARY, false, &half));
    script.wait(100);
    script.pb("c", &credit(200, true));
    script.wait(100);
    let marker = script.marker("c");
    script.finish("c");
    store(script, "p3", ONE, "q/0", &[b"d"]);
    for start in [&marker[..], "0", "latest", "time:1700000005000", "time:1700000009999"] {
        script.begin("c", &get("q", start, true));
        script.pb("c", &credit(200, true));
        script.wait(100);
        script.finish("c");
    }
    let changed = format!("{marker}A");
    let too_long = "a".repeat(1_025);
    for start in [&changed[..], &marker[1..], "time:", "time:-1", "Latest", &too_long] {
        script.begin("c", &get("q", start, true));
        script.finish("c");
    }
    script.begin("c", &get("another", &marker, true));
    script.finish("c");
    script.begin("c", &get("q/1", &marker, true));
    script.finish("c");
}

pub fn rewound(script: &mut Script) {
    script.about("A queue that has gone back: the store is empty, has another timeline, or the queue has another life.");
    script.set("partitions", "1");
    store(script, "p1", ONE, "q", &[b"a", b"b", b"c"]);
    script.connect("c", TWO);
    script.begin("c", &extended("q", ""));
    script.pb("c", &credit(200, true));
    script.wait(100);
    let marker = script.marker("c");
    for (incarnation, timeline) in [(7, 0), (7, 1), (8, 0)] {
        script.step(Step::Restart { incarnation, timeline });
        script.connect("new", TWO);
        script.begin("new", &extended("q", &marker));
        script.connect("old", TWO);
        script.begin("old", &get("q", &marker, true));
        store(script, "p", ONE, "q", &[b"new a"]);
        script.pb("old", &credit(200, true));
        script.wait(100);
    }
}

pub fn credit_and_linger(script: &mut Script) {
    script.about("Credit is never exceeded and never lowered. Responses hold as many messages as allowed.");
    script.set("partitions", "1");
    script.set("consume_batch_messages", "30");
    script.set("consume_batch_bytes", "1000");
    store(script, "p1", ONE, "q", &[&b"x"[..]; 150]);
    store(script, "p2", ONE, "q", &[&[b'y'; 600], &[b'z'; 600]]);
    script.connect("c", TWO);
    script.begin("c", &get("q", "", true));
    for messages in [99, 0, -5, i64::MIN, 100] {
        script.pb("c", &credit(messages, false));
    }
    script.pb("c", &credit(100, true));
    script.wait(100);
    script.pb("c", &credit(130, true));
    script.wait(100);
    script.pb("c", &credit(i64::MAX, false));
    script.finish("c");
}

pub fn partitions(script: &mut Script) {
    script.about(
        "Partitions selected by key, by client and by name. Reading a whole queue and a single partition.",
    );
    script.set("partitions", "4");
    script.connect("p", ONE);
    script.begin("p", &append("q"));
    let keys: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"", b"a"];
    script.pb("p", &keyed(Some(60), &[b"1", b"2", b"3", b"4", b"5", b"6"], &keys));
    script.finish("p");
    store(script, "p3", TWO, "q/3", &[b"at 3"]);
    for queue in ["q/0", "q/1", "q/2", "q/3"] {
        script.connect(queue, TWO);
        script.begin(queue, &get(queue, "", true));
        script.finish(queue);
    }
}

pub fn expired(script: &mut Script) {
    script.about("The age of messages. A message whose age has reached its TTL is not sent.");
    script.set("partitions", "1");
    script.set("ttl_min", "1");
    script.connect("p", ONE);
    script.begin("p", &append("q"));
    script.pb("p", &request(2, &[b"short"]));
    script.pb("p", &request(60, &[b"long"]));
    for ms in [1_999, 1, 58_000] {
        script.wait(ms);
        script.connect("c", TWO);
        script.begin("c", &get("q", "", true));
        script.finish("c");
        script.step(Step::Gone("c".into()));
    }
}

pub fn broken(script: &mut Script) {
    script.about("Consume operations that fail because of the client or the store: 400, 408, 413, 410 and 503, after the owed marker.");
    script.set("partitions", "1");
    script.set("max_pb_bytes", "2000");
    script.set("max_payload_bytes", "50");
    store(script, "p", ONE, "q", &[b"x"]);
    script.connect("c", TWO);
    for breach in [&[0xff; 5][..], &[2, 0x12, 0x80], &[0xd1, 0x0f]] {
        script.begin("c", &get("q", "", true));
        script.pb("c", &credit(100, true));
        script.raw("c", breach);
        script.raw("c", b"discarded");
        script.finish("c");
    }
    script.begin("c", &get("q", "latest", true));
    script.pb("c", &credit(100, true));
    script.raw("c", &[100, 8]);
    script.finish("c");
    script.begin("c", &get("q", "latest", true));
    script.raw("c", &[100, 8]);
    script.wait(30_000);
    script.finish("c");
    for trouble in [Trouble::Unavailable, Trouble::Deleted] {
        script.begin("c", &get("q", "latest", true));
        script.step(Step::Trouble(trouble));
        store(script, "p", ONE, "q", &[b"wakes the consumer"]);
        script.finish("c");
        script.step(Step::Trouble(Trouble::None));
    }
}

//! Conversations about produce operations.

use super::super::conversation::{Step, Trouble};
use super::super::script::{
    BINARY, CONTINUATION, ONE, PING, Script, append, frame, get, keyed, masked_frame, request,
};
use millstream::pb::headers::{HeaderRef, put_header};
use millstream::pb::{ProduceRequest, SetupRequest};
use prost::Message;

pub fn credit_and_half_close(script: &mut Script) {
    script
        .about("Credit, several responses in one operation, the end of both halves, and a second operation.");
    script.set("produce_window", "100");
    script.set("partitions", "2");
    script.connect("a", ONE);
    script.begin("a", &append("q"));
    script.pb("a", &request(60, &[b"one"]));
    script.pb("a", &request(60, &[b"two", b"three"]));
    script.pb("a", &keyed(Some(61), &[b"k1", b"", b"k3"], &[b"x", b"y", b""]));
    // Requests in one frame share a batch if they have the same TTL.
    let mut many = Vec::new();
    for ttl in [60, 60, 70] {
        request(ttl, &[&b"of many"[..]; 20]).encode_length_delimited(&mut many).unwrap();
    }
    script.raw("a", &many);
    script.finish("a");
    script.begin("a", &append("q/1"));
    script.pb("a", &request(60, &[b"at partition 1"]));
    script.finish("a");
    script.begin("a", &append("another"));
    script.finish("a");
    script.close("a");
}

pub fn cut(script: &mut Script) {
    script.about("An operation split at odd places: pbs across frames, frames across reads, pings in between, and real masks.");
    script.on_a_server();
    script.set("partitions", "1");
    script.connect("a", ONE);
    let mut half = append("q").encode_length_delimited_to_vec();
    script.send("a", &masked_frame(BINARY, false, &half, [1, 2, 3, 4]));
    half = request(60, &[b"first", b"second"]).encode_length_delimited_to_vec();
    let (head, tail) = half.split_at(7);
    script.send("a", &masked_frame(CONTINUATION, false, head, [0xff, 0, 0x80, 9]));
    script.send("a", &masked_frame(PING, true, b"between", [7; 4]));
    let last = masked_frame(CONTINUATION, true, tail, [0x55, 0xaa, 0, 1]);
    script.send("a", &last[..3]);
    script.send("a", &last[3..9]);
    script.send("a", &last[9..]);
    // A whole operation in one frame.
    let mut half = append("q").encode_length_delimited_to_vec();
    request(60, &[b"third"]).encode_length_delimited(&mut half).unwrap();
    script.send("a", &masked_frame(BINARY, true, &half, [3; 4]));
}

pub fn refused(script: &mut Script) {
    script.about("Messages refused by number, while the operation continues: 400 and 413.");
    script.on_a_server();
    script.set("max_payload_bytes", "50");
    script.set("max_key_bytes", "4");
    script.set("partitions", "1");
    script.connect("a", ONE);
    script.begin("a", &append("q"));
    let long = [b'x'; 51];
    script.pb("a", &keyed(None, &[b"no ttl"], &[]));
    script.pb("a", &request(59, &[b"too short"]));
    script.pb("a", &request(2_000_000, &[b"too long"]));
    script.pb("a", &request(60, &[b"good", &long, b"good, too"]));
    script.pb("a", &keyed(Some(60), &[b"a", b"b"], &[b"one key"]));
    script.pb("a", &keyed(Some(60), &[b"a", b"b"], &[b"fits", b"does not"]));
    script.pb("a", &request(60, &[b"good"]));
    script.finish("a");
}

pub fn headers(script: &mut Script) {
    script.about("Headers: with and without keys, refused by number with 400 and 413, dropped where they are the server's; consumed with and without them.");
    script.set("max_headers_bytes", "40");
    script.set("partitions", "1");
    script.connect("a", ONE);
    script.begin("a", &append("q"));
    let of = |headers: &[(&str, Option<&[u8]>)]| {
        let mut bytes = Vec::new();
        headers.iter().for_each(|(name, value)| put_header(HeaderRef { name, value: *value }, &mut bytes));
        bytes
    };
    let one = of(&[("lang", Some(b"en")), ("lang", None), ("", Some(b""))]);
    let servers = of(&[("millstream-dead-id", Some(b"0.0")), ("a", Some(b"1"))]);
    let with = |mut request: ProduceRequest, headers: &[&[u8]]| {
        request.headers = headers.iter().map(|bytes| bytes.to_vec().into()).collect();
        request
    };
    script.pb("a", &with(request(60, &[b"one", b"two", b"three"]), &[&one, b"", &servers]));
    script.pb("a", &with(keyed(Some(60), &[b"keyed"], &[b"k"]), &[&one]));
    script.pb("a", &with(request(60, &[b"a", b"b"]), &[&one]));
    let large = of(&[("large", Some(&[7; 40]))]);
    let refused: [&[u8]; 5] = [b"none", &of(&[("ms", None)]), &of(&[("a\0", None)]), b"\x12\0", &large];
    script.pb("a", &with(request(60, &[&b"x"[..]; 5]), &refused));
    script.pb("a", &request(60, &[b"without"]));
    script.finish("a");
    for without_headers in [false, true] {
        let mut setup = get("q", "", true);
        setup.get.as_mut().unwrap().without_headers = Some(without_headers);
        script.begin("a", &setup);
        script.finish("a");
    }
}

pub fn broken(script: &mut Script) {
    script.about("Operations that fail because of the client: 400, 408, 413 and 429. The rest is discarded, and the next operation works.");
    script.set("max_payload_bytes", "50");
    script.set("max_pb_bytes", "2000");
    script.set("produce_window", "100");
    script.set("partitions", "1");
    script.connect("a", ONE);
    let too_many = request(60, &[&b""[..]; 101]).encode_length_delimited_to_vec();
    let breaches: [&[u8]; 7] = [
        &[0xff; 6],
        // A pb of 2,001 bytes.
        &[0xd1, 0x0f],
        // No payloads.
        &[2, 8, 60],
        // A wrong wire type.
        &[2, 0x10, 1],
        // A length beyond the pb.
        &[2, 0x12, 0x80],
        &[0],
        &too_many,
    ];
    for breach in breaches {
        script.begin("a", &append("q"));
        script.pb("a", &request(60, &[b"good"]));
        script.raw("a", breach);
        script.raw("a", b"discarded");
        script.finish("a");
    }
    for cut in [&[9, 8, 60][..], &[0x80]] {
        script.begin("a", &append("q"));
        script.raw("a", cut);
        script.finish("a");
    }
    script.begin("a", &append("q"));
    script.raw("a", &[9, 8, 60]);
    script.wait(29_999);
    script.wait(1);
    script.finish("a");
    script.begin("a", &append("q"));
    script.pb("a", &request(60, &[b"served"]));
}

pub fn setup(script: &mut Script) {
    script.about("Refused setups: 400, 404 and 503.");
    script.on_a_server();
    script.set("partitions", "2");
    script.set("max_queues", "1");
    script.set("max_pb_bytes", "2000");
    script.set("max_payload_bytes", "50");
    script.connect("a", ONE);
    let neither = SetupRequest::default();
    let both = SetupRequest { get: get("q", "", true).get, ..append("q") };
    let long = "q".repeat(65);
    for setup in [
        append(""),
        append("a queue"),
        append(&long),
        append(".."),
        append("q/"),
        append("q/64"),
        get("q/x", "", true),
        neither,
        both,
        append("q"),
        append("q/2"),
        append("another"),
        get("another", "", true),
    ] {
        script.begin("a", &setup);
        script.finish("a");
    }
    // For each kind of setup: bytes that are not a pb, an empty half, and a half that ends with its setup.
    script.send("a", &frame(BINARY, true, &[3, 0xff, 0xff, 0xff]));
    script.send("a", &frame(BINARY, true, &[0xd1, 0x0f]));
    script.send("a", &frame(BINARY, true, &[0]));
    script.send("a", &frame(BINARY, true, b""));
    script.send("a", &frame(BINARY, true, &append("q").encode_length_delimited_to_vec()));
}

pub fn store(script: &mut Script) {
    script.about("A store that is full or unavailable, and a deleted queue: 503 and 410.");
    script.set("memory_bytes", "700");
    script.set("memory_full", "refuse");
    script.set("partitions", "1");
    script.connect("a", ONE);
    script.begin("a", &append("q"));
    script.pb("a", &request(60, &[b"fits"]));
    script.pb("a", &request(60, &[b"does not".repeat(60).as_slice()]));
    script.pb("a", &request(60, &[b"discarded"]));
    script.finish("a");
    for trouble in [Trouble::Unavailable, Trouble::Deleted] {
        script.begin("a", &append("q"));
        script.step(Step::Trouble(trouble));
        script.pb("a", &request(60, &[b"fails"]));
        script.finish("a");
        script.begin("a", &append(if trouble == Trouble::Deleted { "new" } else { "newer" }));
        script.finish("a");
        script.step(Step::Trouble(Trouble::None));
    }
    // The store has room again when messages have expired.
    script.wait(90_000);
    script.connect("b", ONE);
    script.begin("b", &append("q"));
    script.pb("b", &request(60, &[b"fits again"]));
}

//! Conversations about the parts of RFC 6455 outside of operations.

use super::super::script::{
    BINARY, CLOSE, CONTINUATION, ONE, PING, PONG, Script, TEXT, append, frame, handshake, masked_frame,
    request,
};

pub fn close(script: &mut Script) {
    script.about(
        "Pings and pongs. Closes with and without a code, with a reason, and in the middle of an operation.",
    );
    script.on_a_server();
    script.set("partitions", "1");
    for (name, payload) in
        [("empty", &b""[..]), ("normal", &[3, 0xe8]), ("reason", b"\x03\xe9going away"), ("own", &[0x0d, 5])]
    {
        script.connect(name, ONE);
        script.send(name, &frame(PING, true, b""));
        script.send(name, &masked_frame(PING, true, &[b'p'; 125], [1, 2, 3, 4]));
        script.send(name, &frame(PONG, true, b"unasked"));
        script.send(name, &frame(CLOSE, true, payload));
    }
    script.connect("busy", ONE);
    script.begin("busy", &append("q"));
    script.pb("busy", &request(60, &[b"stored"]));
    script
        .send("busy", &[frame(PING, true, b"1"), frame(CLOSE, true, b""), frame(PING, true, b"2")].concat());
}

pub fn violations(script: &mut Script) {
    script.about("Violations of RFC 6455, each on its own connection, also in the middle of an operation.");
    script.on_a_server();
    script.set("partitions", "1");
    // Without a subprotocol, a text message is one of the Zaqar API.
    script.open("text");
    script.send("text", &handshake("/", "Sec-WebSocket-Protocol: queuing-streaming.v1\r\n"));
    script.send("text", &frame(TEXT, true, b"x"));
    let forbidden: [(&str, Vec<u8>); 15] = [
        ("unmasked", vec![0x82, 0]),
        ("reserved-bit", frame(0x40 | BINARY, true, b"")),
        ("opcode-3", frame(3, true, b"")),
        ("opcode-11", frame(11, true, b"")),
        ("cut-ping", frame(PING, false, b"x")),
        ("long-ping", frame(PING, true, &[b'x'; 126])),
        ("continuation", frame(CONTINUATION, true, b"")),
        ("length-16", vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0]),
        ("length-64", vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]),
        ("length-sign", vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]),
        ("close-1-byte", frame(CLOSE, true, &[3])),
        ("close-1005", frame(CLOSE, true, &[3, 0xed])),
        ("close-999", frame(CLOSE, true, &[3, 0xe7])),
        ("close-5000", frame(CLOSE, true, &[0x13, 0x88])),
        ("close-no-utf-8", frame(CLOSE, true, &[3, 0xe8, 0xff])),
    ];
    for (name, bytes) in &forbidden {
        script.connect(name, ONE);
        script.send(name, bytes);
    }
    for (name, bytes) in [("new-message", frame(BINARY, true, b"")), ("text-inside", frame(TEXT, true, b""))]
    {
        script.connect(name, ONE);
        script.begin(name, &append("q"));
        script.pb(name, &request(60, &[b"stored"]));
        script.send(name, &bytes);
    }
}

pub fn idle(script: &mut Script) {
    script.about("A silent client: pings after 30 seconds, the end after 90. A pong resets the timeout.");
    script.connect("silent", ONE);
    script.connect("alive", ONE);
    script.wait(29_999);
    script.wait(1);
    script.send("alive", &frame(PONG, true, b""));
    script.wait(30_000);
    script.send("alive", &frame(PONG, true, b""));
    script.wait(30_000);
    script.wait(2_000);
    script.wait(90_000);
}

pub fn echo(script: &mut Script) {
    script.about("The echo endpoint of the conformance tests: text and binary messages, in pieces.");
    script.set("test_echo", "true");
    script.open("a");
    script.send("a", &handshake("/echo", ""));
    script.send("a", &frame(TEXT, true, b"text"));
    script.send("a", &frame(BINARY, false, b"in "));
    script.send("a", &frame(PING, true, b"between"));
    script.send("a", &frame(CONTINUATION, true, b"pieces"));
    script.send("a", &frame(BINARY, true, &[b'x'; 300]));
    script.send("a", &frame(TEXT, true, &[0xff]));
}

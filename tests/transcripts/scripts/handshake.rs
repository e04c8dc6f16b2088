//! Conversations about handshakes.

use super::super::script::{ONE, Script, append, frame, handshake};

/// Sends each request on its own connection.
fn each(script: &mut Script, requests: &[Vec<u8>]) {
    for (number, request) in requests.iter().enumerate() {
        let name = format!("c{number}");
        script.open(&name);
        script.send(&name, request);
    }
}

pub fn accepted(script: &mut Script) {
    script.about("Accepted handshakes.");
    script.set("allowed_origins", "https://console.example");
    script.on_a_server();
    let client = format!("Client-ID: {ONE}\r\n");
    let with = |path: &str, more: &str| handshake(path, &format!("{more}{client}"));
    each(
        script,
        &[
            with("/", ""),
            with("/any/path", "Sec-WebSocket-Protocol: queuing-streaming.v1\r\n"),
            with("/", "Sec-WebSocket-Protocol: other, queuing-streaming.v1\r\nX-Project-Id: acme\r\n"),
            with("/", "Origin: https://console.example\r\n"),
            with("/", "Origin: http://h:9000\r\n"),
            handshake(&format!("/?project_id=acme&client_id={ONE}&token=t"), ""),
            with("/", "X-Auth-Token: t\r\nX-Unknown: 1\r\n"),
            handshake("/v2", ""),
            handshake("/v2/queues", "Sec-WebSocket-Protocol: other\r\n"),
        ],
    );
}

pub fn refused(script: &mut Script) {
    script.about("Refused handshakes.");
    script.set("handshake_max_bytes", "1024");
    script.on_a_server();
    let without = |line: &str| {
        let text = String::from_utf8(handshake("/", "")).unwrap();
        text.replace(line, "").into_bytes()
    };
    let many: String = (0..40).map(|number| format!("{number}: a\r\n")).collect();
    each(
        script,
        &[
            b"POST / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
            b"GET / HTTP/1.0\r\nHost: h\r\n\r\n".to_vec(),
            b"nothing of HTTP\r\n\r\n".to_vec(),
            without("Host: h:9000\r\n"),
            without("Connection: Upgrade\r\n"),
            without("Upgrade: websocket\r\n"),
            without("Sec-WebSocket-Version: 13\r\n"),
            without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            without("ZQ=="),
            String::from_utf8(handshake("/", "")).unwrap().replace("Version: 13", "Version: 8").into_bytes(),
            handshake("/", "Sec-WebSocket-Protocol: other\r\n"),
            handshake("/", "Origin: https://elsewhere.example\r\n"),
            handshake("/", "Origin: null\r\n"),
            handshake("/", "Client-ID: no-uuid\r\n"),
            handshake("/", &format!("Client-ID: {ONE}\r\nClient-ID: {ONE}\r\n")),
            handshake("/", "X-Project-Id: a/b\r\n"),
            handshake("/?client_id=", ""),
            handshake("/?project_id=a&project_id=b", ""),
            handshake("/", &many.repeat(4)),
            handshake("/", &format!("X-Long: {}\r\n", "x".repeat(1_200))),
        ],
    );
}

pub fn late(script: &mut Script) {
    script.about("A handshake that is not completed in time. Input after a refusal is ignored.");
    script.open("a");
    script.send("a", b"GET / HTTP/1.1\r\nHost: h\r\n");
    script.wait(9_999);
    script.wait(1);
    script.send("a", b"\r\n");
    script.wait(1_999);
    script.wait(1);
    script.open("b");
    script.wait(10_000);
    script.wait(2_000);
}

pub fn cut(script: &mut Script) {
    script.about(
        "A handshake in three pieces, followed at once by the first bytes of an operation. Another handshake byte by byte.",
    );
    script.on_a_server();
    let mut whole = handshake("/", &format!("Client-ID: {ONE}\r\n"));
    let handshake_bytes = whole.len();
    whole.extend(frame(2, false, b""));
    script.open("a");
    script.send("a", &whole[..20]);
    script.send("a", &whole[20..handshake_bytes - 1]);
    script.send("a", &whole[handshake_bytes - 1..]);
    let setup = prost::Message::encode_length_delimited_to_vec(&append("q"));
    let mut rest = frame(0, false, &setup);
    rest.extend(frame(9, true, b"ping"));
    for byte in rest.chunks(1) {
        script.send("a", byte);
    }
}

//! Tests section 1 of the protocol on the real binary: handshakes, WebSocket's rules, and silent clients.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use common::{
    Client, Server, append, code, eventually, frame, handshake, others_are_served, producer, request,
    response, status,
};
use millstream::front::SUBPROTOCOL;
use millstream::pb::{ProduceResponse, ProduceSetupResponse};
use prost::Message;
use socket2::{Domain, Socket, Type};

const UUID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

#[test]
fn handshakes_get_the_right_status() {
    let server = Server::start(&["--cores", "0"]);
    let twice = format!("Client-ID: {UUID}\r\nClient-ID: {UUID}\r\n");
    let cases: &[(&str, String, u16)] = &[
        ("accepted", handshake("/", ""), 101),
        ("any path", handshake("/some/where?x=y", ""), 101),
        ("the path of the Zaqar API", handshake("/v2/queues", ""), 101),
        ("identity", handshake("/", &format!("X-Project-Id: p\r\nClient-ID: {UUID}\r\n")), 101),
        ("identity from a browser", handshake(&format!("/?project_id=p&client_id={UUID}"), ""), 101),
        ("our subprotocol", handshake("/", "Sec-WebSocket-Protocol: x, queuing-streaming.v1\r\n"), 101),
        (
            "our subprotocol",
            handshake("/", &format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}, {SUBPROTOCOL}\r\n")),
            101,
        ),
        ("another subprotocol", handshake("/", "Sec-WebSocket-Protocol: x\r\n"), 400),
        (
            "a subprotocol in upper case",
            handshake("/", &format!("Sec-WebSocket-Protocol: {}\r\n", SUBPROTOCOL.to_uppercase())),
            400,
        ),
        ("an empty list of subprotocols", handshake("/", "Sec-WebSocket-Protocol: \r\n"), 101),
        ("a draft version of 2010", handshake("/", "").replace("Version: 13", "Version: 8"), 426),
        ("no version", handshake("/", "").replace("Sec-WebSocket-Version: 13\r\n", ""), 400),
        ("no key", handshake("/", "").replace("Sec-WebSocket-Key", "X-Key"), 400),
        ("no upgrade", handshake("/", "").replace("Upgrade: websocket\r\n", ""), 400),
        ("no Host", handshake("/", "").replace("Host: here:9000\r\n", ""), 400),
        ("a short key", handshake("/", "").replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), 400),
        (
            "a key with nonzero unused bits",
            handshake("/", "").replace("dGhlIHNhbXBsZSBub25jZQ==", "AQIDBAUGBwgJCgsMDQ4PEC=="),
            101,
        ),
        ("two keys", handshake("/", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400),
        ("another upgrade", handshake("/", "").replace("Upgrade: websocket", "Upgrade: h2c"), 400),
        (
            "one of two upgrades",
            handshake("/", "").replace("Upgrade: websocket", "Upgrade: h2c, WebSocket"),
            101,
        ),
        ("Connection in a list", handshake("/", "").replace(": Upgrade", ": keep-alive,\tupgrade"), 101),
        ("Connection twice", handshake("/", "Connection: keep-alive\r\n"), 101),
        ("HTTP/1.0", handshake("/", "").replace("HTTP/1.1", "HTTP/1.0"), 400),
        ("a POST", handshake("/", "").replace("GET", "POST"), 400),
        ("not HTTP", "\x16\x03\x01 hello, TLS".into(), 400),
        ("a malformed project", handshake("/", "X-Project-Id: a b\r\n"), 400),
        ("a project of dots", handshake("/", "X-Project-Id: ..\r\n"), 400),
        ("a project of a dot from a browser", handshake("/?project_id=.", ""), 400),
        ("a project with dots", handshake("/", "X-Project-Id: a..b\r\n"), 101),
        ("an empty project", handshake("/", "X-Project-Id: \r\n"), 400),
        ("a malformed client", handshake("/", "Client-ID: 12\r\n"), 400),
        ("a client twice", handshake("/", &twice), 400),
        ("its own origin", handshake("/", "Origin: http://here:9000\r\n"), 101),
        ("its own origin without a scheme", handshake("/", "Origin: here:9000\r\n"), 101),
        ("no origin", handshake("/", "Origin: null\r\n"), 403),
        ("another origin without a scheme", handshake("/", "Origin: there:9000\r\n"), 403),
        ("another origin", handshake("/", "Origin: http://there:9000\r\n"), 403),
        ("too long", handshake("/", &format!("X: {}\r\n", "x".repeat(20_000))), 431),
        ("too many", handshake("/", &"X: y\r\n".repeat(200)), 431),
        ("no test echo", handshake("/echo", ""), 101),
    ];
    for (what, text, expected) in cases {
        let mut stream = server.dial();
        stream.write_all(text.as_bytes()).unwrap();
        let head = response(&mut stream);
        assert_eq!(status(&head), *expected, "{what}: {head}");
        assert_eq!(head.contains("Sec-WebSocket-Version: 13"), *expected == 426, "{what}: {head}");
        let head = head.to_lowercase();
        assert_eq!(head.contains("queuing-streaming.v1"), *what == "our subprotocol", "{head}");
        let made = *expected == 101 && !what.starts_with("identity");
        assert_eq!(head.contains("client-id: "), made, "{what}: {head}");
        if *expected != 101 {
            let mut reason = String::new();
            stream.read_to_string(&mut reason).unwrap();
            assert!(reason.len() > 3, "{what}: the response must give a reason and end");
        }
    }
    others_are_served(&server);
}

#[test]
fn a_refused_origin_is_logged_once_with_the_setting_to_change() {
    let server = Server::start(&["--cores", "0-1", "--allowed-origins", "https://console.example"]);
    let ask = |origin: &str| {
        let mut stream = server.dial();
        stream.write_all(handshake("/", &format!("Origin: {origin}\r\n")).as_bytes()).unwrap();
        status(&response(&mut stream))
    };
    for _ in 0..3 {
        assert_eq!(ask("https://console.example"), 101);
        assert_eq!(ask("https://evil.example"), 403);
        assert_eq!(ask("null"), 403);
    }
    // The log has this line after all the others.
    assert_eq!(ask("https://last.example"), 403);
    server.wait_for_log("https://last.example");
    let lines = server.log();
    for origin in ["https://evil.example", "null", "https://last.example"] {
        let of = format!("origin=\"{origin}\"");
        let lines: Vec<&String> = lines.iter().filter(|line| line.contains(&of)).collect();
        assert!(matches!(lines[..], [line] if line.contains("allowed_origins")), "{origin}: {lines:?}");
    }
}

#[test]
fn each_of_many_refused_origins_is_logged() {
    let server = Server::start(&["--cores", "0"]);
    for number in 1..=8 {
        let mut stream = server.dial();
        let origin = format!("Origin: https://page-{number}.example\r\n");
        stream.write_all(handshake("/", &origin).as_bytes()).unwrap();
        assert_eq!(status(&response(&mut stream)), 403);
    }
    server.wait_for_log("https://page-8.example");
    let lines = server.log();
    for number in 1..=8 {
        let origin = format!("origin=\"https://page-{number}.example\"");
        assert!(lines.iter().any(|line| line.contains(&origin)), "{origin}: {lines:?}");
    }
}

#[test]
fn a_malformed_origin_is_refused_at_the_start() {
    for (origins, is_well) in [
        ("*", true),
        ("https://console.example, http://127.0.0.1:3000", true),
        ("console.example", false),
        ("https://console.example/", false),
        ("https://console.example,null", false),
    ] {
        let serve = ["serve", "--check-config", "--allowed-origins", origins];
        let output =
            Command::new(common::BINARY).args(serve).env(common::STORE.0, common::STORE.1).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(if is_well { 0 } else { 2 }), "{origins}: {said}");
        assert!(is_well || said.contains("allowed_origins") && said.contains("is not an origin"), "{said}");
    }
}

/// Returns the most bytes that the kernel buffers for a server that does not read.
fn receive_buffer_max() -> usize {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap();
    limits.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn little_is_read_after_a_refusal() {
    let server = Server::start(&["--cores", "0"]);
    let refused = handshake("/", "Sec-WebSocket-Protocol: other\r\n").into_bytes();
    // Few enough bytes that the peer receives the whole answer.
    let mut stream = server.dial();
    stream.write_all(&[refused.clone(), vec![b'x'; 32 << 10]].concat()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(status(&text), 400);
    // After more bytes, the connection ends. The kernel's buffers accepted some of them.
    let small = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    small.set_send_buffer_size(4 << 10).unwrap();
    small.connect(&SocketAddr::from(([127, 0, 0, 1], server.port)).into()).unwrap();
    let buffers = receive_buffer_max() + small.send_buffer_size().unwrap();
    let mut stream = TcpStream::from(small);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&refused).unwrap();
    assert_eq!(status(&response(&mut stream)), 400);
    let (more, mut sent) = (vec![b'x'; 4 << 10], 0);
    let most = (64 << 10) + buffers;
    while sent <= most
        && let Ok(bytes) = stream.write(&more)
    {
        sent += bytes;
    }
    assert!(sent <= most, "{sent} bytes were accepted, up to {buffers} of them by buffers");
    others_are_served(&server);
}

#[test]
fn a_handshake_cut_off_by_draining_gets_retry_after() {
    let server = Server::start(&["--cores", "0"]);
    let mut half = server.dial();
    half.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    eventually("the connection is counted", || (server.metric("millstream_connections{") == 1).then_some(()));
    server.signal("TERM");
    let head = response(&mut half);
    assert_eq!(status(&head), 503);
    assert!(head.contains("\r\nRetry-After: "), "{head}");
}

#[test]
fn a_handshake_may_come_byte_by_byte_and_an_operation_may_follow_it_at_once() {
    let server = Server::start(&["--cores", "0"]);
    let mut bytes = handshake("/", "").into_bytes();
    bytes.extend(frame(0x02, &append("pipelined").encode_length_delimited_to_vec()));
    bytes.extend(frame(0x80, &request(Some(60), &[b"one", b"two"]).encode_length_delimited_to_vec()));
    for piece in [1, 7, bytes.len()] {
        let mut stream = server.dial();
        for chunk in bytes.chunks(piece) {
            stream.write_all(chunk).unwrap();
        }
        assert_eq!(status(&response(&mut stream)), 101);
        let mut client = Client::after_handshake(stream);
        assert_eq!(code(&client.receive_as::<ProduceSetupResponse>().status), 100);
        let mut through = 0;
        while let Some(pb) = client.receive() {
            through = ProduceResponse::decode(&pb[..]).unwrap().msgnum_status_is_thru();
        }
        assert_eq!(through, 2);
    }
}

#[test]
fn each_violation_has_its_close_code_and_affects_no_neighbour() {
    let server = Server::start(&["--cores", "0"]);
    let mut neighbour = producer(&server, "neighbour");
    let mut stored = 0;
    let masked = |head: &[u8], rest: &[u8]| [head, &[0; 4], rest].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", vec![0x82, 0x01, b'x'], 1002),
        ("reserved bit 1", frame(0xc2, b""), 1002),
        ("reserved bit 2", frame(0xa2, b""), 1002),
        ("reserved bit 3", frame(0x92, b""), 1002),
        ("reserved data opcode", frame(0x83, b""), 1002),
        ("reserved control opcode", frame(0x8b, b""), 1002),
        ("a continuation without a message", frame(0x80, b""), 1002),
        ("a new data frame inside a wsmessage", [frame(0x02, b""), frame(0x02, b"")].concat(), 1002),
        ("a text frame inside a wsmessage", [frame(0x02, b""), frame(0x81, b"")].concat(), 1002),
        ("text", frame(0x81, b"x"), 1003),
        ("text with a reserved bit", frame(0xc1, b"x"), 1002),
        ("a ping in fragments", frame(0x09, b""), 1002),
        ("a ping of 126 bytes", frame(0x89, &[0; 126]), 1002),
        ("a length of 16 bits that fits in 7", masked(&[0x82, 0xfe, 0, 125], &[0; 125]), 1002),
        (
            "a length of 64 bits that fits in 16",
            masked(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], b""),
            1002,
        ),
        ("a length with its top bit set", masked(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], b""), 1002),
        ("a close of one byte", frame(0x88, &[3]), 1002),
        ("a close with 999", frame(0x88, &999u16.to_be_bytes()), 1002),
        ("a close with 1005", frame(0x88, &1005u16.to_be_bytes()), 1002),
        ("a close with 2000", frame(0x88, &2000u16.to_be_bytes()), 1002),
        ("a close with 5000", frame(0x88, &5000u16.to_be_bytes()), 1002),
        ("a reason that is not UTF-8", frame(0x88, &[0x03, 0xe8, 0xff]), 1007),
        ("a good close", frame(0x88, &[0x03, 0xe8, b'x']), 1000),
        ("a close with 4999", frame(0x88, &4999u16.to_be_bytes()), 4999),
    ];
    // Without a subprotocol, a text message is one of the Zaqar API.
    let offer = [("Sec-WebSocket-Protocol", "queuing-streaming.v1")];
    for (what, bytes, expected) in cases {
        let mut client = Client::connect_with(&server, &offer);
        client.0.get_mut().write_all(&bytes).unwrap();
        assert_eq!(client.close_code(), expected, "{what}");
        let mut rest = Vec::new();
        client.0.get_mut().read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{what}: nothing may follow a Close");
        neighbour.send(&request(Some(60), &[b"undisturbed"]));
        stored += 1;
        let answer: ProduceResponse = neighbour.receive_as();
        assert_eq!((code(&answer.status), answer.msgnum_status_is_thru()), (201, stored), "{what}");
    }
    let mut client = Client::connect(&server);
    client
        .0
        .get_mut()
        .write_all(&[frame(0x02, b""), frame(0x89, b"abc"), frame(0x8a, b"unasked")].concat())
        .unwrap();
    assert_eq!(client.read_frame(), (true, 10, b"abc".to_vec()), "a ping must be answered between fragments");
}

#[test]
fn too_much_discarded_input_is_closed_with_1008() {
    let server = Server::start(&["--cores", "0", "--discard-limit-bytes", "100000"]);
    let mut client = Client::connect(&server);
    client.begin(&append("no such name"));
    assert_eq!(code(&client.receive_as::<ProduceSetupResponse>().status), 400);
    assert_eq!(client.receive(), None);
    client.send_raw(&[0; 100_000]);
    // The connection is still open: a ping is answered.
    client.0.get_mut().write_all(&frame(0x89, b"a")).unwrap();
    assert_eq!(client.read_frame().1, 10);
    client.send_raw(&[0; 1]);
    assert_eq!(client.close_code(), 1008);
    others_are_served(&server);
}

#[test]
fn silent_clients_are_closed_with_1001_and_slow_handshakes_get_408() {
    let silence = ["--ping-interval", "0.1", "--idle-timeout", "0.4", "--handshake-timeout", "0.2"];
    let server = Server::start(&[&["--cores", "0"][..], &silence].concat());
    let mut slow = server.dial();
    slow.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    assert_eq!(status(&response(&mut slow)), 408);
    let mut silent = Client::connect(&server);
    assert_eq!(silent.read_frame(), (true, 9, vec![]), "the server must ping");
    assert_eq!(silent.close_code(), 1001);
    let mut alive = Client::connect(&server);
    // The connection outlives idle_timeout by far, because it answers each ping.
    for _ in 0..8 {
        assert_eq!(alive.read_frame(), (true, 9, vec![]), "the server must ping again, not close");
        alive.0.get_mut().write_all(&frame(0x8a, b"")).unwrap();
    }
}

#[test]
fn test_echo_echoes_tungstenites_text_and_binary() {
    let server = Server::start(&["--cores", "0", "--test-echo"]);
    let url = format!("ws://127.0.0.1:{}/echo", server.port);
    let (mut socket, _) = tungstenite::connect(url).unwrap();
    let big = "ä".repeat(300_000);
    for message in [
        tungstenite::Message::text("grüße"),
        tungstenite::Message::text(big),
        tungstenite::Message::binary(vec![0; 70_000]),
    ] {
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
    }
    socket.close(None).unwrap();
}

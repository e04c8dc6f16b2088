//! Checks the real binary's `/echo` against the rules of the Autobahn test suite: framing, pings, reserved
//! bits and opcodes, fragmentation, UTF-8, the closing handshake and size.
//!
//! The tests have the names of the suite's sections. Sections 12 and 13 are left out: the server does not
//! support compression.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Server, handshake, response, status};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const FIN: u8 = 0x80;
const CLOSE: u8 = FIN | 8;
const PING: u8 = FIN | 9;
const PONG: u8 = FIN | 10;

/// An event from the server: a whole message, a control frame, or the end of the connection.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Message(u8, Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    End,
}

struct Peer {
    stream: TcpStream,
    open: Option<(u8, Vec<u8>)>,
}

fn server() -> Server {
    Server::start(&["--cores", "0", "--test-echo"])
}

/// Returns a client's frame, masked with a fixed key.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = common::frame(first, payload);
    let (key, start) = ([0x37, 0xfa, 0x21, 0x3d], bytes.len() - payload.len());
    bytes[start - 4..start].copy_from_slice(&key);
    bytes[start..].iter_mut().zip(key.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    bytes
}

impl Peer {
    fn connect(server: &Server) -> Self {
        let mut stream = server.dial();
        stream.write_all(handshake("/echo", "").as_bytes()).unwrap();
        assert_eq!(status(&response(&mut stream)), 101);
        Self { stream, open: None }
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        self.stream.write_all(&frame(first, payload)).unwrap();
    }

    /// Sends a frame in pieces of `size` bytes, each with its own write.
    fn send_chopped(&mut self, first: u8, payload: &[u8], size: usize) {
        for piece in frame(first, payload).chunks(size) {
            self.stream.write_all(piece).unwrap();
        }
    }

    fn next(&mut self) -> Got {
        loop {
            let mut head = [0; 2];
            if self.stream.read_exact(&mut head).is_err() {
                return Got::End;
            }
            assert_eq!(head[1] & 0x80, 0, "a server's frame must not be masked");
            assert_eq!(head[0] & 0x70, 0, "no extension was negotiated");
            let length = match head[1] {
                126 => {
                    let mut wide = [0; 2];
                    self.stream.read_exact(&mut wide).unwrap();
                    usize::from(u16::from_be_bytes(wide))
                }
                127 => {
                    let mut wide = [0; 8];
                    self.stream.read_exact(&mut wide).unwrap();
                    u64::from_be_bytes(wide) as usize
                }
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).unwrap();
            match head[0] & 0x0f {
                10 => return Got::Pong(payload),
                8 => return Got::Close(payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]))),
                opcode => {
                    let (kind, mut whole) = match (opcode, self.open.take()) {
                        (0, Some(open)) => open,
                        (TEXT | BINARY, None) => (opcode, Vec::new()),
                        (opcode, open) => panic!("opcode {opcode} in {open:?}"),
                    };
                    whole.extend(payload);
                    if head[0] & FIN != 0 {
                        return Got::Message(kind, whole);
                    }
                    self.open = Some((kind, whole));
                }
            }
        }
    }

    fn expect_echo(&mut self, kind: u8, payload: &[u8]) {
        match self.next() {
            Got::Message(of, echo) => {
                assert!(of == kind && echo == payload, "wrong echo of {} bytes", payload.len())
            }
            other => panic!("expected an echo of {} bytes, got {other:?}", payload.len()),
        }
    }

    /// Expects the server to fail the connection with this code and to end it. Parts of an echo may come
    /// first.
    fn expect_failure(&mut self, code: u16) {
        loop {
            match self.next() {
                Got::Message(..) | Got::Pong(_) => {}
                got => {
                    assert_eq!(got, Got::Close(Some(code)));
                    break;
                }
            }
        }
        assert_eq!(self.next(), Got::End);
    }
}

#[test]
fn framing_1() {
    let server = server();
    let mut peer = Peer::connect(&server);
    for kind in [TEXT, BINARY] {
        for length in [0, 125, 126, 127, 128, 65_535, 65_536] {
            let payload = vec![b'*'; length];
            peer.send(FIN | kind, &payload);
            peer.expect_echo(kind, &payload);
        }
        let payload = vec![b'*'; 65_536];
        peer.send_chopped(FIN | kind, &payload, 997);
        peer.expect_echo(kind, &payload);
    }
}

#[test]
fn pings_and_pongs_2() {
    let server = server();
    let mut peer = Peer::connect(&server);
    for payload in
        [&b""[..], b"Hello, world!", &[0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff], &[0xfe; 125]]
    {
        peer.send(PING, payload);
        assert_eq!(peer.next(), Got::Pong(payload.to_vec()));
        peer.send_chopped(PING, payload, 1);
        assert_eq!(peer.next(), Got::Pong(payload.to_vec()));
    }
    peer.send(PONG, b"");
    peer.send(PONG, b"unsolicited pong payload");
    peer.send(PING, b"ping payload");
    assert_eq!(peer.next(), Got::Pong(b"ping payload".to_vec()));
    for size in [usize::MAX, 1] {
        let pings: Vec<Vec<u8>> = (0..10).map(|n| format!("payload-{n}").into_bytes()).collect();
        pings.iter().for_each(|ping| peer.send_chopped(PING, ping, size));
        for ping in pings {
            assert_eq!(peer.next(), Got::Pong(ping));
        }
    }
    peer.send(PING, &[0xfe; 126]);
    peer.expect_failure(1002);
}

#[test]
fn reserved_bits_3() {
    let server = server();
    for bits in 1..=7u8 {
        for opcode in [TEXT, BINARY, 8, 9] {
            for size in [usize::MAX, 1] {
                let mut peer = Peer::connect(&server);
                peer.send_chopped(FIN | TEXT, b"Hello, world!", size);
                peer.expect_echo(TEXT, b"Hello, world!");
                peer.send_chopped(FIN | bits << 4 | opcode, b"", size);
                peer.expect_failure(1002);
            }
        }
    }
}

#[test]
fn reserved_opcodes_4() {
    let server = server();
    for opcode in (3..=7).chain(11..=15) {
        for payload in [&b""[..], b"reserved opcode payload"] {
            let mut peer = Peer::connect(&server);
            peer.send(FIN | TEXT, b"Hello, world!");
            peer.send(FIN | opcode, payload);
            peer.send(PING, b"");
            peer.expect_echo(TEXT, b"Hello, world!");
            peer.expect_failure(1002);
        }
    }
}

#[test]
fn fragmentation_5() {
    let server = server();
    for control in [9, 10] {
        let mut peer = Peer::connect(&server);
        peer.send(control, b"fragment1");
        peer.expect_failure(1002);
    }
    for size in [usize::MAX, 1] {
        let mut peer = Peer::connect(&server);
        // 5.3 to 5.5, then 5.6 to 5.8 with a ping between the fragments.
        peer.send_chopped(TEXT, b"fragment1", size);
        peer.send_chopped(FIN, b"fragment2", size);
        peer.expect_echo(TEXT, b"fragment1fragment2");
        peer.send_chopped(TEXT, b"fragment1", size);
        peer.send_chopped(PING, b"ping payload", size);
        peer.send_chopped(FIN, b"fragment2", size);
        assert_eq!(peer.next(), Got::Pong(b"ping payload".to_vec()));
        peer.expect_echo(TEXT, b"fragment1fragment2");
        // 5.19 and 5.20: five fragments with pings between them.
        for number in 1..=5u8 {
            let first = if number == 1 { TEXT } else { 0 } | if number == 5 { FIN } else { 0 };
            peer.send_chopped(first, format!("fragment{number}").as_bytes(), size);
            if number == 2 || number == 4 {
                peer.send_chopped(PING, b"pongme!", size);
                assert_eq!(peer.next(), Got::Pong(b"pongme!".to_vec()));
            }
        }
        peer.expect_echo(TEXT, b"fragment1fragment2fragment3fragment4fragment5");
        // 5.9 to 5.14: a continuation frame without a message to continue.
        for first in [FIN, 0] {
            let mut peer = Peer::connect(&server);
            peer.send_chopped(first, b"non-continuation payload", size);
            peer.send_chopped(FIN | TEXT, b"Hello, world!", size);
            peer.expect_failure(1002);
        }
        // 5.15: a continuation frame after a whole message.
        let mut peer = Peer::connect(&server);
        peer.send_chopped(TEXT, b"fragment1", size);
        peer.send_chopped(FIN, b"fragment2", size);
        peer.send_chopped(0, b"fragment3", size);
        peer.send_chopped(FIN | TEXT, b"fragment4", size);
        peer.expect_echo(TEXT, b"fragment1fragment2");
        peer.expect_failure(1002);
        // 5.18: a new message before the end of another.
        let mut peer = Peer::connect(&server);
        peer.send_chopped(TEXT, b"fragment1", size);
        peer.send_chopped(FIN | TEXT, b"fragment2", size);
        peer.expect_failure(1002);
    }
}

#[test]
fn utf8_6() {
    let server = server();
    let valid: [&[u8]; 14] = [
        b"",
        "Hello-µ@ßöäüàá-UTF-8!!".as_bytes(),
        "κόσμε".as_bytes(),
        b"\x00",
        b"\xc2\x80",
        b"\xe0\xa0\x80",
        b"\xf0\x90\x80\x80",
        b"\x7f",
        b"\xdf\xbf",
        b"\xef\xbf\xbf",
        b"\xf4\x8f\xbf\xbf",
        b"\xed\x9f\xbf",
        b"\xee\x80\x80",
        b"\xef\xbf\xbd",
    ];
    for text in valid {
        for size in [usize::MAX, 1] {
            let mut peer = Peer::connect(&server);
            peer.send_chopped(FIN | TEXT, text, size);
            peer.expect_echo(TEXT, text);
            // Each byte in its own fragment (6.2.3, 6.2.4).
            peer.send(TEXT, b"");
            text.iter().for_each(|byte| peer.send(0, &[*byte]));
            peer.send(FIN, b"");
            peer.expect_echo(TEXT, text);
        }
    }
    // Lone continuation bytes, lone start bytes, overlong forms, surrogates, code points above U+10FFFF,
    // forms of five and six bytes, and bytes that are never valid.
    let invalid: [&[u8]; 24] = [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xfb\xbf\xbf\xbf\xbf",
        b"\xfd\xbf\xbf\xbf\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"\xbf",
        b"\x80\xbf\x80",
        b"\xc0\x20\xc1\x20",
        b"\xe0\x20",
        b"\xf0\x20",
        b"\xc0",
        b"\xce\xba\xe1\xbd",
        b"\xfe",
        b"\xff",
        b"\xfe\xfe\xff\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
        b"\xed\xbf\xbf",
    ];
    for text in invalid {
        for size in [usize::MAX, 1] {
            let mut peer = Peer::connect(&server);
            peer.send_chopped(FIN | TEXT, text, size);
            peer.expect_failure(1007);
        }
    }
    // 6.4: the server fails at the first byte that cannot become valid, before the frame or message ends.
    let mut peer = Peer::connect(&server);
    peer.send(TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5");
    peer.send(0, b"\xf4\x90");
    peer.expect_failure(1007);
    let mut peer = Peer::connect(&server);
    let whole = frame(FIN | TEXT, &[b"\xce\xba\xf4\x90".as_slice(), &[b'x'; 60]].concat());
    peer.stream.write_all(&whole[..6 + 4]).unwrap();
    peer.expect_failure(1007);
    // A ping between two fragments splits a character.
    let mut peer = Peer::connect(&server);
    peer.send(TEXT, b"\xe2\x82");
    peer.send(PING, b"between");
    peer.send(FIN, b"\xac");
    assert_eq!(peer.next(), Got::Pong(b"between".to_vec()));
    peer.expect_echo(TEXT, "€".as_bytes());
}

#[test]
fn closing_7() {
    let server = server();
    let close = |payload: &[u8]| {
        let mut peer = Peer::connect(&server);
        peer.send(FIN | TEXT, b"Hello World!");
        peer.expect_echo(TEXT, b"Hello World!");
        peer.send(CLOSE, payload);
        let got = peer.next();
        assert_eq!(peer.next(), Got::End, "the server must end the connection");
        got
    };
    // 7.3: an empty Close, one byte, only a code, a reason, the longest reason, and a reason one byte too
    // long.
    assert_eq!(close(b""), Got::Close(None));
    assert_eq!(close(b"a"), Got::Close(Some(1002)));
    assert_eq!(close(b"\x03\xe8"), Got::Close(Some(1000)));
    assert_eq!(close(b"\x03\xe8Hello World!"), Got::Close(Some(1000)));
    assert_eq!(close(&[b"\x03\xe8".as_slice(), &[b'*'; 123]].concat()), Got::Close(Some(1000)));
    assert_eq!(close(&[b"\x03\xe8".as_slice(), &[b'*'; 124]].concat()), Got::Close(Some(1002)));
    // 7.5: a reason that is not UTF-8.
    assert_eq!(close(b"\x03\xe8\xce\xba\xe1\xbd\xb9\xed\xa0\x80"), Got::Close(Some(1007)));
    // 7.7, 7.9, 7.13.
    for code in [1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        assert_eq!(close(&code.to_be_bytes()), Got::Close(Some(code)));
    }
    for code in [0u16, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        assert_eq!(close(&code.to_be_bytes()), Got::Close(Some(1002)), "{code}");
    }
    // 7.1.2 to 7.1.5: the server ignores what follows a Close.
    for after in [
        frame(CLOSE, b"\x03\xe8"),
        frame(PING, b"after"),
        frame(FIN | TEXT, b"after"),
        frame(FIN, b"the rest of a message"),
    ] {
        let mut peer = Peer::connect(&server);
        peer.send(TEXT, b"fragment1");
        peer.stream.write_all(&[frame(CLOSE, b"\x03\xe8"), after].concat()).unwrap();
        assert_eq!(peer.next(), Got::Close(Some(1000)));
        assert_eq!(peer.next(), Got::End);
    }
    // 7.1.6: a large message before the Close.
    let mut peer = Peer::connect(&server);
    let large = vec![b'B'; 256 << 10];
    peer.send(FIN | TEXT, &large);
    peer.send(CLOSE, b"\x03\xe8");
    peer.send(PING, b"");
    peer.expect_echo(TEXT, &large);
    assert_eq!(peer.next(), Got::Close(Some(1000)));
}

#[test]
fn sizes_9_and_10() {
    let server = server();
    let mut peer = Peer::connect(&server);
    let mut writer = peer.stream.try_clone().unwrap();
    let mut echo = |kind: u8, frames: Vec<u8>, chop: usize, payload: &[u8]| {
        std::thread::scope(|scope| {
            scope.spawn(|| frames.chunks(chop).for_each(|piece| writer.write_all(piece).unwrap()));
            peer.expect_echo(kind, payload);
        });
    };
    for kind in [TEXT, BINARY] {
        // 9.1 and 9.2: one frame of 64 KiB to 16 MiB.
        for length in [64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20] {
            let payload = vec![b'*'; length];
            echo(kind, frame(FIN | kind, &payload), usize::MAX, &payload);
        }
        // 9.3 and 9.4: 4 MiB in fragments.
        let payload: Vec<u8> = (0..4 << 20).map(|index| b'a' + (index % 23) as u8).collect();
        for size in [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20] {
            let mut frames = Vec::new();
            for (index, fragment) in payload.chunks(size).enumerate() {
                let first = if index == 0 { kind } else { 0 };
                let fin = if (index + 1) * size >= payload.len() { FIN } else { 0 };
                frames.extend(frame(fin | first, fragment));
            }
            echo(kind, frames, usize::MAX, &payload);
        }
        // 9.5 and 9.6: a frame of 1 MiB in small writes.
        let payload = vec![b'*'; 1 << 20];
        for chop in [64, 128, 256, 512, 1024, 2048] {
            echo(kind, frame(FIN | kind, &payload), chop, &payload);
        }
        // 9.7 and 9.8: two hundred messages in sequence.
        for length in [0, 16, 64, 256, 1024, 4096] {
            let payload = vec![b'*'; length];
            for _ in 0..200 {
                echo(kind, frame(FIN | kind, &payload), usize::MAX, &payload);
            }
        }
    }
    // 10.1.1: 65,536 bytes in fragments of 1,300.
    let payload = vec![b'*'; 65_536];
    let mut frames = Vec::new();
    for (index, fragment) in payload.chunks(1_300).enumerate() {
        let fin = if (index + 1) * 1_300 >= payload.len() { FIN } else { 0 };
        frames.extend(frame(fin | if index == 0 { TEXT } else { 0 }, fragment));
    }
    echo(TEXT, frames, usize::MAX, &payload);
}

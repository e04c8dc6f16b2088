//! Tests a shard's core with one connection, under random splits of the bytes it receives and sends.
//!
//! Covers the whole life of a connection: a handshake with bytes pipelined after it, a produce operation in
//! fragments with pings between them, a consume operation that reads everything back, and a Close.
//! tungstenite reads the server's output.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod alterations;
mod authentication;
mod deletions;
mod letters;
#[path = "../common/random.rs"]
mod random;
mod roster;
mod scripted;
#[path = "../common/transcript.rs"]
mod transcript;
mod turns;
mod zaqar;

use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use millstream::access::{ProjectLimits, Tenants};
use millstream::base::clock::Now;
use millstream::pb::{
    ConsumeResponse, ConsumeSetupRequest, ProduceRequest, ProduceResponse, ProduceSetupRequest,
    ProduceSetupResponse, SetupRequest, Status,
};
use millstream::shard::core::{ConnectionId, Core, Peer, Settings};
use millstream::store::memory::{Memory, WhenFull};
use proptest::prelude::*;
use prost::Message;
use random::Random;
use tungstenite::WebSocket;
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};

const SUITE: &str = "core";

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Client-ID: 67e55044-10b1-426f-9247-bb680e5fe0c8\r\n\r\n";

/// Appends a client's wsmessage to `out`: `half` in masked frames of random sizes, with pings between them.
fn wsmessage(half: &[u8], random: &mut Random, pings: &mut u8, out: &mut Vec<u8>) {
    let mut rest = half;
    let mut opcode = Data::Binary;
    loop {
        if random.one_in(4) {
            *pings += 1;
            masked(Frame::ping(vec![*pings; usize::from(*pings % 20)]), random, out);
        }
        let (piece, later) = rest.split_at(random.between(0, rest.len()));
        let fin = later.is_empty() && random.one_in(2);
        masked(Frame::message(piece.to_vec(), OpCode::Data(opcode), fin), random, out);
        (rest, opcode) = (later, Data::Continue);
        if fin {
            return;
        }
    }
}

fn masked(mut frame: Frame, random: &mut Random, out: &mut Vec<u8>) {
    frame.header_mut().mask = Some((random.next() as u32).to_be_bytes());
    frame.format(out).unwrap();
}

struct Shard {
    core: Core<Memory<millstream::shard::core::Connections>>,
    id: ConnectionId,
    now: Now,
    random: Random,
    /// The bytes that the peer has read.
    read: Vec<u8>,
}

impl Shard {
    fn new(seed: u64) -> Self {
        let settings = Arc::new(Settings::default());
        let now = Now::at_ms(1, 1_700_000_000_000);
        let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
        let mut core = Core::new(0, 1, settings, tenants, Memory::new(64 << 20, WhenFull::Refuse, 7));
        let id = core.handle_accepted(now, Peer::Unix).unwrap();
        Self { core, id, now, random: Random(seed), read: Vec::new() }
    }

    /// Receives a part of `input`. Returns its length.
    fn receive(&mut self, input: &[u8]) -> usize {
        let most = self.random.between(1, 60).min(input.len());
        let wanted = self.core.wanted_read(self.now, self.id, most);
        let mut piece = input[..wanted].to_vec();
        if wanted > 0 {
            let now = self.now;
            transcript::bytes(SUITE, "in", self.id.as_u64(), &piece);
            self.core.handle_received(now, self.id, &mut piece, || now);
        }
        wanted
    }

    fn turn(&mut self) {
        match self.random.below(3) {
            0 => self.core.flush(self.now, self.id),
            1 => self.core.handle_completions(self.now),
            _ => self.transmit(),
        }
    }

    fn transmit(&mut self) {
        self.core.handle_writable(self.id);
        while let Some(id) = self.core.poll_dirty() {
            let bytes = self.core.poll_transmit(self.now, id);
            let (length, sent) = (bytes.len(), self.random.between(0, bytes.len()));
            transcript::bytes(SUITE, "out", id.as_u64(), &bytes[..sent]);
            self.read.extend(&bytes[..sent]);
            self.core.handle_sent(self.now, id, sent, sent == length);
            if sent < length {
                return;
            }
        }
    }
}

/// A stream for tungstenite that reads the received bytes and discards writes.
struct Came(Cursor<Vec<u8>>);

impl Read for Came {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Came {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pbs(half: &[u8]) -> Vec<&[u8]> {
    let mut reader = millstream::pb::wire::Reader(half);
    std::iter::from_fn(|| (!reader.0.is_empty()).then(|| reader.bytes().unwrap())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_split_of_the_bytes_does_not_change_a_connections_life(
        requests in proptest::collection::vec(proptest::collection::vec(0usize..300, 1..10), 1..10),
        seed in any::<u64>(),
    ) {
        let mut shard = Shard::new(seed);
        let payloads: Vec<Vec<u8>> =
            requests.iter().flatten().enumerate().map(|(n, size)| vec![n as u8; *size]).collect();
        let append = ProduceSetupRequest { queue_name: Some("q".into()) };
        let mut half = SetupRequest { append: Some(append), get: None, claim: None }.encode_length_delimited_to_vec();
        let mut left = payloads.iter();
        for sizes in &requests {
            let payloads = left.by_ref().take(sizes.len()).cloned().map(Bytes::from).collect();
            half.extend(ProduceRequest { ttl: Some(60), payloads, keys: vec![], ..Default::default() }.encode_length_delimited_to_vec());
        }
        let (mut input, mut pings) = (HANDSHAKE.as_bytes().to_vec(), 0);
        wsmessage(&half, &mut shard.random, &mut pings, &mut input);
        let get = ConsumeSetupRequest {
            queue_name: Some("q".into()),
            echo_requested: Some(true),
            ..Default::default()
        };
        let get = SetupRequest { get: Some(get), append: None, claim: None }.encode_length_delimited_to_vec();
        // This wsmessage stays open. The server ends the operation when it has sent everything.
        masked(Frame::message(get, OpCode::Data(Data::Binary), false), &mut shard.random, &mut input);

        let mut taken = 0;
        for _ in 0..40_000 {
            if shard.random.one_in(2) {
                taken += shard.receive(&input[taken..]);
            }
            shard.turn();
        }
        prop_assert_eq!(taken, input.len());
        let mut end = Vec::new();
        masked(Frame::message(Vec::new(), OpCode::Data(Data::Continue), true), &mut shard.random, &mut end);
        let close = tungstenite::protocol::CloseFrame { code: CloseCode::Library(3333), reason: "".into() };
        masked(Frame::close(Some(close)), &mut shard.random, &mut end);
        let mut taken = 0;
        for _ in 0..2_000 {
            taken += shard.receive(&end[taken..]);
            shard.turn();
        }

        let response_end = shard.read.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        prop_assert!(shard.read.starts_with(b"HTTP/1.1 101 "));
        let frames = Came(Cursor::new(shard.read.split_off(response_end)));
        let mut socket = WebSocket::from_raw_socket(frames, Role::Client, None);
        let (mut halves, mut pongs, mut closed) = (Vec::new(), 0, None);
        while closed.is_none() {
            match socket.read().unwrap() {
                tungstenite::Message::Binary(half) => halves.push(half),
                tungstenite::Message::Pong(payload) => {
                    pongs += 1;
                    prop_assert_eq!(&payload[..], vec![pongs; usize::from(pongs % 20)]);
                }
                tungstenite::Message::Close(frame) => closed = frame,
                other => panic!("{other:?}"),
            }
        }
        prop_assert_eq!(pongs, pings);
        prop_assert_eq!(u16::from(closed.unwrap().code), 3333);
        prop_assert_eq!(halves.len(), 2);
        let produced = pbs(&halves[0]);
        let setup = ProduceSetupResponse::decode(produced[0]).unwrap();
        prop_assert_eq!(setup.status.unwrap().status_code(), 100);
        let mut through = 0;
        for pb in &produced[1..] {
            let response = ProduceResponse::decode(*pb).unwrap();
            prop_assert!(response.status.as_ref().is_none_or(|status| status.status_code() == 201));
            prop_assert!(response.msgnum_status_is_thru() >= through);
            through = response.msgnum_status_is_thru();
        }
        prop_assert_eq!(through, payloads.len() as i64);
        let consumed = pbs(&halves[1]);
        prop_assert_eq!(Status::decode(consumed[0]).unwrap().status_code(), 100);
        let mut received = Vec::new();
        for pb in &consumed[1..] {
            received.extend(ConsumeResponse::decode(*pb).unwrap().messages.into_iter().map(|m| m.payload().to_vec()));
        }
        prop_assert_eq!(received, payloads);
        shard.core.handle_gone(shard.now, shard.id);
        prop_assert_eq!((shard.core.budget().reserved(), shard.core.budget().held()), (0, 0));
    }
}

/// Returns a connection after its handshake. Its socket accepts everything.
fn connected() -> Shard {
    let mut shard = Shard::new(1);
    shard.receive_all(HANDSHAKE.as_bytes());
    shard.send_all();
    shard.read.clear();
    shard
}

impl Shard {
    /// Reads like the driver, while the connection wants bytes. Returns the unread rest.
    fn receive_all(&mut self, input: &[u8]) -> Vec<u8> {
        let mut rest = input.to_vec();
        loop {
            let wanted = self.core.wanted_read(self.now, self.id, rest.len().min(256 << 10));
            if wanted == 0 {
                return rest;
            }
            let later = rest.split_off(wanted);
            let now = self.now;
            transcript::bytes(SUITE, "in", self.id.as_u64(), &rest);
            self.core.handle_received(now, self.id, &mut rest, || now);
            rest = later;
        }
    }

    /// Runs turns until no work is left.
    fn send_all(&mut self) {
        while self.core.has_work() {
            self.core.handle_completions(self.now);
            while let Some(id) = self.core.poll_dirty() {
                let bytes = self.core.poll_transmit(self.now, id);
                let length = bytes.len();
                transcript::bytes(SUITE, "out", id.as_u64(), bytes);
                self.read.extend(bytes);
                self.core.handle_sent(self.now, id, length, true);
            }
        }
    }
}

#[test]
fn little_is_read_from_a_refused_peer() {
    let refused = || {
        let mut shard = Shard::new(1);
        assert!(shard.receive_all(b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n").is_empty());
        shard.send_all();
        assert!(shard.read.starts_with(b"HTTP/1.1 400 "));
        assert_eq!(
            shard.core.closing(shard.now, shard.id),
            (true, false),
            "the peer may still read the reason"
        );
        shard
    };
    let mut shard = refused();
    let left = shard.receive_all(&vec![b'x'; 1 << 20]);
    assert_eq!((1 << 20) - left.len(), 64 << 10);
    assert_eq!(shard.core.closing(shard.now, shard.id), (true, true));
    // The peer ends after two seconds, even if it sends nothing.
    let mut shard = refused();
    shard.now = Now::at_ms(2_001, 1_700_000_002_000);
    assert_eq!(shard.core.closing(shard.now, shard.id), (true, true));
    // A handshake without an end is read up to its limit, and then refused.
    let mut shard = Shard::new(1);
    let left = shard.receive_all(&[&b"GET / HTTP/1.1\r\nX: "[..], &vec![b'x'; 1 << 20][..]].concat());
    shard.send_all();
    assert!(shard.read.starts_with(b"HTTP/1.1 431 "));
    assert_eq!((1 << 20) + 19 - left.len(), (16 << 10) + 1 + (64 << 10));
    // After a Close (1003, for a text frame), the server reads as much as after a failure.
    let mut shard = connected();
    assert!(shard.receive_all(&[0x81, 0x81, 0, 0, 0, 0, b'x']).is_empty());
    shard.send_all();
    assert_eq!(shard.read[..4], [0x88, 2, 0x03, 0xeb]);
    let limit = Settings::default().operation.discard_limit_bytes as usize;
    let left = shard.receive_all(&vec![0; limit + 1_000]);
    assert_eq!(left.len(), 1_000);
    assert_eq!(shard.core.closing(shard.now, shard.id), (true, true));
}

#[test]
fn unread_input_is_read_when_the_answers_are_sent() {
    let mut shard = connected();
    let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[b'p'; 125]].concat();
    let mut left = ping.repeat(6_000);
    // More pongs than the connection may queue: the rest of a read stays with the connection.
    while !left.is_empty() {
        let before = left.len();
        left = shard.receive_all(&left);
        shard.send_all();
        assert!(left.len() < before, "a connection with nothing to send must read on");
    }
    assert_eq!(shard.read.len(), 6_000 * 127);
}

#[test]
fn nothing_follows_a_close_or_a_refusal() {
    let ping = [0x89, 0x81, 0, 0, 0, 0, b'x'];
    let mut shard = connected();
    shard.receive_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 0xe8]);
    shard.receive_all(&ping);
    shard.send_all();
    assert_eq!(shard.read, [0x88, 2, 3, 0xe8]);
    let mut refused = Shard::new(1);
    refused.receive_all(b"POST / HTTP/1.1\r\n\r\n");
    refused.receive_all(&ping);
    refused.send_all();
    assert!(refused.read.starts_with(b"HTTP/1.1 400 ") && refused.read.ends_with(b"\n"));
}

#[test]
fn unread_answers_are_bounded() {
    let mut shard = connected();
    let append = ProduceSetupRequest { queue_name: Some("q".into()) };
    let mut half =
        SetupRequest { append: Some(append), get: None, claim: None }.encode_length_delimited_to_vec();
    let payloads = vec![Bytes::new()];
    let good =
        ProduceRequest { ttl: Some(60), payloads: payloads.clone(), keys: vec![], ..Default::default() };
    let bad = ProduceRequest { ttl: None, payloads, keys: vec![], ..Default::default() };
    let both = [good.encode_length_delimited_to_vec(), bad.encode_length_delimited_to_vec()].concat();
    half.extend(both.repeat(30_000));
    let mut input = Vec::new();
    masked(Frame::message(half, OpCode::Data(Data::Binary), false), &mut Random(1), &mut input);
    // The setup comes first. The rest comes as fast as the connection reads it, and the socket accepts
    // nothing.
    let mut left = shard.receive_all(&input[..100]);
    left.extend(&input[100..]);
    let mut unsent = 0;
    for _ in 0..1_000 {
        left = shard.receive_all(&left);
        shard.core.flush(shard.now, shard.id);
        shard.core.handle_completions(shard.now);
        while let Some(id) = shard.core.poll_dirty() {
            unsent = shard.core.poll_transmit(shard.now, id).len();
            shard.core.handle_sent(shard.now, id, 0, false);
        }
    }
    assert!(unsent < 300_000, "{unsent} bytes of answers are unsent");
    // When the peer reads them, everything is answered.
    shard.core.handle_writable(shard.id);
    for _ in 0..1_000 {
        shard.send_all();
        left = shard.receive_all(&left);
        shard.core.flush(shard.now, shard.id);
    }
    let last = ProduceResponse { msgnum_status_is_thru: Some(60_000), ..Default::default() }.encode_to_vec();
    assert!(shard.read.windows(last.len()).any(|window| window == last));
}

//! Writes a conversation. Steps are played at once, so that a script can use the server's output.

use std::collections::BTreeMap;

use millstream::pb::wire::Reader;
use millstream::pb::{
    ConsumeRequest, ConsumeResponse, ConsumeSetupRequest, ProduceRequest, ProduceSetupRequest, SetupRequest,
};
use prost::Message;

use super::conversation::{Conversation, Event, Step};
use super::player::Player;

/// The opcodes of frames.
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The ids of two clients.
pub const ONE: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
pub const TWO: &str = "7d444840-9dc0-11d1-b245-5ffdce74fad2";

#[derive(Default)]
pub struct Script {
    pub conversation: Conversation,
    player: Option<Player>,
    /// The bytes that each connection has received.
    read: BTreeMap<String, Vec<u8>>,
}

impl Script {
    pub fn about(&mut self, about: &str) {
        self.conversation.about = about.into();
    }

    pub fn set(&mut self, key: &str, text: &str) {
        self.conversation.settings.push((key.into(), text.into()));
    }

    pub fn on_a_server(&mut self) {
        self.conversation.on_a_server = true;
    }

    pub fn step(&mut self, step: Step) {
        let player = self.player.get_or_insert_with(|| Player::new(&self.conversation.settings));
        let events = player.play(&step);
        for event in &events {
            if let Event::Out(name, bytes) = event {
                self.read.entry(name.clone()).or_default().extend(bytes);
            }
        }
        self.conversation.steps.push((step, events));
    }

    pub fn open(&mut self, name: &str) {
        self.step(Step::Open(name.into()));
    }

    pub fn send(&mut self, name: &str, bytes: &[u8]) {
        self.step(Step::In(name.into(), bytes.to_vec()));
    }

    pub fn wait(&mut self, ms: u64) {
        self.step(Step::Wait(ms));
    }

    /// Opens a client's connection and completes its handshake.
    pub fn connect(&mut self, name: &str, client: &str) {
        self.open(name);
        self.send(name, &handshake("/", &format!("Client-ID: {client}\r\n")));
    }

    /// Begins an operation.
    pub fn begin(&mut self, name: &str, setup: &SetupRequest) {
        self.send(name, &frame(BINARY, false, &setup.encode_length_delimited_to_vec()));
    }

    /// Sends a pb within the operation.
    pub fn pb(&mut self, name: &str, pb: &impl Message) {
        self.raw(name, &pb.encode_length_delimited_to_vec());
    }

    pub fn raw(&mut self, name: &str, bytes: &[u8]) {
        self.send(name, &frame(CONTINUATION, false, bytes));
    }

    /// Ends the client's half.
    pub fn finish(&mut self, name: &str) {
        self.send(name, &frame(CONTINUATION, true, b""));
    }

    pub fn close(&mut self, name: &str) {
        self.send(name, &frame(CLOSE, true, &1000u16.to_be_bytes()));
    }

    /// Returns the last marker that a connection has received.
    pub fn marker(&self, name: &str) -> String {
        let read = &self.read[name];
        let response_end = read.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let (mut rest, mut marker) = (&read[response_end..], None);
        while let [_, length, after @ ..] = rest {
            let (length, after) = match length {
                126 => (usize::from(u16::from_be_bytes([after[0], after[1]])), &after[2..]),
                short => (usize::from(*short), after),
            };
            let (payload, after) = after.split_at(length);
            rest = after;
            if let Ok(pb) = Reader(payload).bytes()
                && let Ok(response) = ConsumeResponse::decode(pb)
            {
                marker = response.messages.iter().rev().find_map(|message| message.marker.clone()).or(marker);
            }
        }
        marker.expect("a marker must have come")
    }
}

/// Returns a WebSocket handshake with additional header lines.
pub fn handshake(path: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: h:9000\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
    .into_bytes()
}

/// Returns a client's frame.
pub fn frame(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
    masked_frame(opcode, fin, payload, [0; 4])
}

pub fn masked_frame(opcode: u8, fin: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![if fin { FIN } else { 0 } | opcode];
    match payload.len() {
        short @ ..126 => bytes.push(MASKED | short as u8),
        long => {
            bytes.push(MASKED | 126);
            bytes.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

pub fn append(queue: &str) -> SetupRequest {
    SetupRequest {
        append: Some(ProduceSetupRequest { queue_name: Some(queue.into()) }),
        get: None,
        claim: None,
    }
}

pub fn get(queue: &str, marker: &str, echo: bool) -> SetupRequest {
    let get = ConsumeSetupRequest {
        queue_name: Some(queue.into()),
        echo_requested: Some(echo),
        starting_marker: Some(marker.into()),
        ..Default::default()
    };
    SetupRequest { get: Some(get), append: None, claim: None }
}

pub fn request(ttl: u32, payloads: &[&[u8]]) -> ProduceRequest {
    keyed(Some(ttl), payloads, &[])
}

pub fn keyed(ttl: Option<u32>, payloads: &[&[u8]], keys: &[&[u8]]) -> ProduceRequest {
    let all = |of: &[&[u8]]| of.iter().map(|bytes| bytes.to_vec().into()).collect();
    ProduceRequest { ttl, payloads: all(payloads), keys: all(keys), ..Default::default() }
}

pub fn credit(messages: i64, send_marker: bool) -> ConsumeRequest {
    ConsumeRequest {
        max_msgnum_to_send: Some(messages),
        send_marker: send_marker.then_some(true),
        ..Default::default()
    }
}

//! A session with small limits, and what its client reads.

use std::collections::VecDeque;

use millstream::front::{Cx, ServerSession};
use millstream::operation::Command;
use millstream::pb::wire::Reader;
use millstream::ws::{Input, Receiver, Role};

use super::rig::Rig;
use super::transcript;

const SUITE: &str = "session";

pub const HEADERS_MAX: usize = 40;
pub const PAYLOAD_MAX: usize = 50;
pub const PB_MAX: usize = 1_000;
pub const WINDOW: u32 = 100;

/// What the client reads: a whole pb per frame, or the end of the half.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Pb(Vec<u8>),
    End,
}

pub struct Harness {
    pub rig: Rig,
    /// Commands of the session that the test has not handled yet.
    pub asked: VecDeque<Command>,
}

impl Harness {
    pub fn new(budget_bytes: usize) -> Self {
        let mut settings = Rig::defaults();
        settings.max_payload_bytes = PAYLOAD_MAX;
        settings.max_headers_bytes = HEADERS_MAX;
        settings.max_pb_bytes = PB_MAX;
        settings.produce_window = WINDOW;
        settings.foothold_bytes = 16;
        settings.large_pb_bytes = 200;
        settings.consume_batch_messages = 7;
        settings.consume_batch_bytes = 200;
        Self { rig: Rig::with_budget(settings, budget_bytes), asked: VecDeque::new() }
    }

    /// Calls the session. Also returns what it wrote.
    pub fn call<T>(&mut self, call: impl FnOnce(&mut ServerSession, &mut Cx<'_>) -> T) -> (T, Vec<Read>) {
        let returned = self.rig.call(call);
        transcript::bytes(SUITE, "out", 0, &self.rig.out);
        self.rig.commands.iter().for_each(|command| transcript::line(SUITE, || summary(command)));
        self.asked.extend(self.rig.commands.drain(..));
        (returned, read(std::mem::take(&mut self.rig.out)))
    }

    /// Passes bytes of the client's half to the session. Returns how many it accepted, and what it wrote.
    pub fn receive(&mut self, bytes: &[u8], fin: bool) -> (usize, Vec<Read>) {
        note_input(bytes, fin);
        self.call(|session, cx| session.handle_data(bytes, fin, cx))
    }
}

/// Writes input to the transcript.
pub fn note_input(bytes: &[u8], fin: bool) {
    transcript::bytes(SUITE, if fin { "in and fin" } else { "in" }, 0, bytes);
}

/// Returns a command's text without fields that only the shard's bookkeeping needs.
fn summary(command: &Command) -> String {
    match command {
        Command::Open { operation, name: (_, queue), .. } => format!("open {} {queue}", operation.0),
        Command::Append { operation, sequence, target, batch, .. } => {
            let partition = target.partition.partition;
            let mut records = Vec::new();
            for record in batch.records() {
                records.extend([record.key.len(), record.payload.len()].map(usize::to_be_bytes).concat());
                records.extend_from_slice(record.key);
                records.extend_from_slice(record.headers);
                records.extend_from_slice(record.payload);
            }
            let (ttl, count, hash) = (batch.ttl_secs(), batch.count(), transcript::hash(&records));
            format!("append {} {sequence} {partition} {ttl} {count} {hash:016x}", operation.0)
        }
        Command::Resolve { operation, target, position } => {
            let partition = target.partition.partition;
            format!("resolve {} {partition} {position:?}", operation.0)
        }
        Command::Fetch { operation, target, from, exclude, wait, .. } => {
            let partition = target.partition.partition;
            let exclude = exclude.map(|client| client.to_string());
            format!("fetch {} {partition} {from} {exclude:?} {wait}", operation.0)
        }
        Command::Claim { operation, target, messages_max, .. } => {
            format!("claim {} {} {messages_max}", operation.0, target.partition.partition)
        }
        Command::Watch { operation, target, wanted } => {
            format!("watch {} {} {wanted}", operation.0, target.partition.partition)
        }
        Command::Settle { operation, sequence, target, settlements } => {
            format!("settle {} {sequence} {} {settlements:?}", operation.0, target.partition.partition)
        }
        Command::Leave { operation, target, leaving } => {
            format!("leave {} {} {leaving:?}", operation.0, target.partition.partition)
        }
        Command::Manage { operation, target, what } => {
            format!("manage {} {} {what:?}", operation.0, target.partition.partition)
        }
        Command::Order { operation, order } => format!("order {} {order:?}", operation.0),
        Command::Renew { operation, .. } => format!("renew {}", operation.0),
        Command::Authenticate { operation, .. } => format!("authenticate {}", operation.0),
        Command::Vouch => "vouch".into(),
        Command::Report { fault, .. } => format!("report {fault}"),
        Command::Cancel { operation, target } => {
            format!("cancel {} {}", operation.0, target.partition.partition)
        }
    }
}

/// Splits the output into frames. The protocol requires that each holds one whole pb, or nothing and FIN.
fn read(mut out: Vec<u8>) -> Vec<Read> {
    let mut receiver = Receiver::new(Role::Client);
    let (mut at, mut reads) = (0, Vec::new());
    while at < out.len() {
        let Ok(Input::Data { payload, fin, .. }) = receiver.handle(&mut out[at..]) else {
            // The receiver starts afresh with each call, but the half continues: its frames are
            // continuations.
            let opcode = out[at] & 0x0f;
            assert_eq!(opcode, 0, "the output must consist of whole data frames");
            out[at] |= 0x02;
            receiver = Receiver::new(Role::Client);
            continue;
        };
        let piece = &out[at + payload.start..at + payload.end];
        if !piece.is_empty() {
            let mut reader = Reader(piece);
            reads.push(Read::Pb(reader.bytes().expect("a frame must hold a whole pb").to_vec()));
            assert!(reader.0.is_empty(), "a frame must hold only one pb");
        }
        if fin {
            reads.push(Read::End);
        }
        at += payload.end;
    }
    reads
}

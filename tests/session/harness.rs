//! A session and all that it borrows.

use std::collections::VecDeque;
use std::time::Duration;

use millstream::budget::Budget;
use millstream::clock::Now;
use millstream::config::Settings;
use millstream::names::{ClientId, Project};
use millstream::pb::wire::Reader;
use millstream::queue::{QueueId, QueueInfo};
use millstream::session::{Command, Cx, PbWriter, ServerSession, SessionCounters};
use millstream::ws::{Input, Receiver, Role, Sender};

pub const CLIENT: u128 = 7;
pub const PAYLOAD_MAX: usize = 50;
pub const PB_MAX: usize = 1_000;
pub const WINDOW: u32 = 100;

/// What the client read: one whole pb in each frame, or the end of the half.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Pb(Vec<u8>),
    End,
}

pub struct Harness {
    pub session: ServerSession,
    pub settings: Settings,
    pub budget: Budget,
    pub now: Now,
    /// The socket takes more.
    pub writable: bool,
    sender: Sender,
    counters: SessionCounters,
    /// What the session asked and the shard has not yet looked at.
    pub asked: VecDeque<Command>,
}

impl Harness {
    pub fn new(budget_bytes: usize) -> Self {
        let mut settings = Settings::new(Project::parse("default").unwrap());
        settings.max_payload_bytes = PAYLOAD_MAX;
        settings.max_pb_bytes = PB_MAX;
        settings.produce_window = WINDOW;
        settings.consume_batch_messages = 7;
        settings.consume_batch_bytes = 200;
        settings.marker_wait = Duration::ZERO;
        Self {
            session: ServerSession::new(ClientId::from(CLIENT), true),
            settings,
            budget: Budget::new(budget_bytes),
            now: Now { mono_ms: 1, unix_ms: 1_700_000_000_000 },
            writable: true,
            sender: Sender::new(Role::Server),
            counters: SessionCounters::default(),
            asked: VecDeque::new(),
        }
    }

    /// One call of the session, and what it wrote.
    pub fn call<T>(&mut self, call: impl FnOnce(&mut ServerSession, &mut Cx<'_>) -> T) -> (T, Vec<Read>) {
        let (mut out, mut commands) = (Vec::new(), Vec::new());
        let mut cx = Cx {
            now: self.now,
            settings: &self.settings,
            budget: &mut self.budget,
            reply: PbWriter { sender: &mut self.sender, out: &mut out },
            commands: &mut commands,
            counters: &mut self.counters,
            writable: self.writable,
        };
        let returned = call(&mut self.session, &mut cx);
        self.asked.extend(commands);
        (returned, read(out))
    }

    pub fn queue(partitions: u16) -> QueueInfo {
        QueueInfo { id: QueueId(1), incarnation: 9, partitions, hash: 0x1234_5678 }
    }
}

/// Takes frames apart; the protocol says that each holds one whole pb, or nothing and FIN.
fn read(mut out: Vec<u8>) -> Vec<Read> {
    let mut receiver = Receiver::new(Role::Client);
    let (mut at, mut reads) = (0, Vec::new());
    while at < out.len() {
        let Ok(Input::Data { payload, fin, .. }) = receiver.handle(&mut out[at..]) else {
            // The receiver begins anew with each call, but a half goes on: its frames are continuations.
            let opcode = out[at] & 0x0f;
            assert_eq!(opcode, 0, "whole data frames only");
            out[at] |= 0x02;
            receiver = Receiver::new(Role::Client);
            continue;
        };
        let piece = &out[at + payload.start..at + payload.end];
        if !piece.is_empty() {
            let mut reader = Reader(piece);
            reads.push(Read::Pb(reader.bytes().expect("a whole pb in a frame").to_vec()));
            assert!(reader.0.is_empty(), "one pb in a frame");
        }
        if fin {
            reads.push(Read::End);
        }
        at += payload.end;
    }
    reads
}

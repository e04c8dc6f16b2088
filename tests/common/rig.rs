//! A server's session and everything that it borrows. The test plays the shard and the store.
#![allow(dead_code)]

use std::sync::Arc;
use std::time::Duration;

use millstream::access::Tenant;
use millstream::base::budget::{Account, Budget};
use millstream::base::clock::Now;
use millstream::base::names::{ClientId, Project};
use millstream::base::queue::{QueueId, QueueInfo};
use millstream::base::units::{Offset, Partition};
use millstream::front::{Cx, Framed, PbWriter, ServerSession};
use millstream::operation::{
    Answer, Author, Caller, Command, OperationCounters, Regulator, Resources, Settings,
};
use millstream::pb::SetupRequest;
use millstream::shard::core;
use millstream::ws::{Role, Sender};
use prost::Message;

/// The client of every session.
pub const CLIENT: u128 = 7;

pub struct Rig {
    pub session: ServerSession,
    pub settings: Settings,
    pub budget: Budget,
    pub account: Account,
    pub now: Now,
    /// Whether the socket accepts more.
    pub writable: bool,
    sender: Sender,
    counters: OperationCounters,
    regulator: Regulator,
    framed: Framed,
    /// The frames for the client.
    pub out: Vec<u8>,
    /// The commands that the session has given to the shard.
    pub commands: Vec<Command>,
}

fn caller(tenant: Option<Arc<Tenant>>) -> Caller {
    let author = Author { client: ClientId::from(CLIENT), is_known: true };
    Caller { project: Project::parse("p").unwrap(), author, tenant, granted: None }
}

impl Rig {
    pub fn new(settings: Settings) -> Self {
        Self::with_budget(settings, core::Settings::default().shard_budget_bytes)
    }

    pub fn with_budget(settings: Settings, budget_bytes: usize) -> Self {
        Self {
            session: ServerSession::new(caller(None)),
            budget: Budget::new(budget_bytes),
            account: Account::default(),
            settings,
            now: Now::at_ms(1, 1_700_000_000_000),
            writable: true,
            sender: Sender::new(Role::Server),
            counters: OperationCounters::default(),
            regulator: Regulator::new(Duration::from_millis(10)),
            framed: Framed::default(),
            out: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Starts a new session, as a client of a project with limits.
    pub fn limit(&mut self, tenant: Option<Arc<Tenant>>) {
        self.session = ServerSession::new(caller(tenant));
    }

    pub fn defaults() -> Settings {
        Settings { marker_wait: Duration::ZERO, ..Settings::default() }
    }

    pub fn queue(partitions: u16) -> QueueInfo {
        QueueInfo {
            id: QueueId(1),
            incarnation: 9,
            partitions,
            hash: 0x1234_5678,
            signing: Default::default(),
            policy: Default::default(),
        }
    }

    /// Calls the session.
    pub fn call<T>(&mut self, call: impl FnOnce(&mut ServerSession, &mut Cx<'_>) -> T) -> T {
        let resources = Resources {
            now: self.now,
            read_ns: self.now.mono_ns,
            settings: &self.settings,
            budget: self.budget.purse(&mut self.account),
            commands: &mut self.commands,
            counters: &mut self.counters,
            regulator: &mut self.regulator,
        };
        let reply = PbWriter { sender: &mut self.sender, out: &mut self.out };
        let mut cx = Cx { resources, reply, framed: &mut self.framed, writable: self.writable };
        call(&mut self.session, &mut cx)
    }

    /// Starts an operation on a queue with one partition.
    pub fn begin(&mut self, setup: &SetupRequest) {
        let bytes = setup.encode_length_delimited_to_vec();
        self.call(|session, cx| session.handle_data(&bytes, false, cx));
        while let Some(Command::Open { operation, .. }) = self.commands.pop() {
            self.call(|session, cx| {
                session.answer(
                    operation,
                    Answer::Opened {
                        result: Ok(Self::queue(1)),
                        local_partition: Partition(0),
                        has_claims: true,
                    },
                    cx,
                )
            });
        }
        self.call(|session, cx| session.poll_transmit(cx));
        self.out.clear();
    }

    /// Reports every append as stored and lets the session acknowledge it. Returns the number of messages.
    pub fn store(&mut self) -> usize {
        let mut messages = 0;
        for index in 0..self.commands.len() {
            let Command::Append { operation, sequence, ref batch, reserved, .. } = self.commands[index]
            else {
                continue;
            };
            messages += batch.count() as usize;
            self.budget.release(reserved);
            self.call(|session, cx| {
                session.answer(
                    operation,
                    Answer::Appended { sequence, result: Ok(Some(Offset(0)..Offset(1))) },
                    cx,
                )
            });
        }
        self.commands.clear();
        self.call(|session, cx| session.poll_transmit(cx));
        self.out.clear();
        messages
    }
}

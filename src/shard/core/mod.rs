//! What a shard decides, without I/O: connections, budget, catalogue, ownership, fetches, draining.
//!
//! Sockets' bytes, other shards' messages and the time go in; bytes for sockets and messages for other shards
//! come out. Never touches glommio, sockets or clocks: `turn` does, for the driver and for the simulation in the tests.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | what a turn calls |
//! | `connection` | one connection: handshake, frames, and the front behind them |
//! | `entry` | the request that opens a connection; `admission`: whether its client may connect |
//! | `output` | what a connection sends: framed bytes, and how many its transport took |
//! | `serving` | one call of a connection's handling, and what that brings |
//! | `routing` | commands on their way to the stores, answers on their way back |
//! | `queues` | queues opened, created and forgotten; `catalogue` knows them |
//! | `message` | what shards send each other |
//! | `shortage` | what happens when memory is short |
//! | `deadlines`, `slab` | when connections are due; connections by number |
//! | `drain` | how a shard ends |
//! | `snapshot` | how a shard is, for those who ask |
//! | `settings` | bounds of a shard and of its connections |

mod admission;
mod catalogue;
mod connection;
mod deadlines;
mod drain;
mod entry;
mod message;
mod output;
mod queues;
mod routing;
mod serving;
mod settings;
mod shortage;
mod slab;
mod snapshot;

pub use connection::{Connection, Env};
pub use message::{AppendToken, Asking, Connections, Message, OpenToken, PartitionToken};
pub use settings::Settings;
pub use slab::{ConnectionId, Slab};
pub use snapshot::{BudgetSnapshot, ShardPulse, ShardSnapshot, TRAFFIC_CONSUMERS, TRAFFIC_QUEUES, Traffic};

use core::net::SocketAddr;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use self::catalogue::Catalogue;
use self::deadlines::Deadlines;
use self::drain::Drain;
use self::queues::Opening;
use crate::access::Tenants;
use crate::base::budget::Budget;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::names::FullName;
use crate::base::queue::QueueId;
use crate::front::{Framed, Front};
use crate::latency::{Recorder, Stage};
use crate::operation::{Command, OperationCounters};
use crate::store::{Completion, Request, Store};

/// How often the store is ticked while it wants nothing.
const TICK: Millis = Millis::new(1_000);

/// What a shard did: for `/metrics`, the live page, its last words, and the tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CoreCounters {
    /// Connections accepted.
    pub connections: u64,
    /// Handshakes refused, by status; few are possible.
    pub handshakes_refused: BTreeMap<u16, u64>,
    /// Connections that were closed because they took nothing while memory was short.
    pub evicted: u64,
    /// Connections whose handling panicked.
    pub panics: u64,
    /// Messages whose batch went to another shard's partition.
    pub messages_hopped: u64,
    /// What sessions did.
    pub sessions: OperationCounters,
}

/// See the module's page.
#[derive(Debug)]
pub struct Core<S> {
    shard: u16,
    shards: u16,
    settings: Arc<Settings>,
    tenants: Arc<Tenants>,
    connections: Slab<Connection>,
    budget: Budget,
    catalogue: Catalogue,
    store: S,
    /// Queues that this shard, their home, is opening in its store.
    opening: HashMap<QueueId, Opening>,
    opening_names: HashMap<FullName, QueueId>,
    /// For each shard.
    outboxes: Vec<Vec<Message>>,
    /// Requests that the store had no room for.
    refused: VecDeque<Request<Connections>>,
    /// The store was asked something since its answers were last taken.
    is_asked: bool,
    /// Of the connection that is being served.
    commands: Vec<Command>,
    /// Connections with something to do.
    dirty: VecDeque<ConnectionId>,
    /// Connections that wait for bytes of the budget, by share, in the order of their coming.
    waiting: [VecDeque<ConnectionId>; 3],
    /// Connections that wait for credit.
    starved: Vec<ConnectionId>,
    deadlines: Deadlines,
    /// More is held than may be; when that is looked at next.
    evict_due: Option<Millis>,
    tick_due: Millis,
    spare: Vec<Vec<u8>>,
    /// Of the connection that is being sent to.
    notes: Framed,
    drain: Drain,
    /// Shards whose producers have their answers.
    shards_done: u16,
    counters: CoreCounters,
    latency: Recorder,
}

impl<S: Store<Connections>> Core<S> {
    /// Shard number `shard` of `shards`.
    pub fn new(
        shard: u16,
        shards: u16,
        settings: Arc<Settings>,
        tenants: Arc<Tenants>,
        mut store: S,
    ) -> Self {
        store.count_for(&tenants);
        store.set_clock_step_max(Millis::from(settings.clock_step_max));
        let mut core = Self {
            shard,
            shards,
            tenants,
            budget: Budget::new(settings.shard_budget_bytes),
            catalogue: Catalogue::new(shard, settings.max_queues),
            settings,
            connections: Slab::default(),
            store,
            opening: HashMap::new(),
            opening_names: HashMap::new(),
            outboxes: (0..shards).map(|_| Vec::new()).collect(),
            refused: VecDeque::new(),
            is_asked: false,
            commands: Vec::new(),
            dirty: VecDeque::new(),
            waiting: Default::default(),
            starved: Vec::new(),
            deadlines: Deadlines::default(),
            evict_due: None,
            tick_due: Millis::ZERO,
            spare: Vec::new(),
            notes: Framed::default(),
            drain: Drain::No,
            shards_done: 0,
            counters: CoreCounters::default(),
            latency: Recorder::default(),
        };
        core.adopt_queues();
        core
    }

    /// A socket of `peer` was given to this shard; `None` where it has no place for one more.
    pub fn handle_accepted(&mut self, now: Now, peer: Option<SocketAddr>) -> Option<ConnectionId> {
        if self.drain != Drain::No || self.connections.len() >= self.settings.max_connections {
            *self.counters.handshakes_refused.entry(503).or_default() += 1;
            return None;
        }
        self.counters.connections += 1;
        let id = self.connections.insert(Connection::new(now, peer));
        self.after(now, id);
        Some(id)
    }

    /// How many bytes of a connection's socket to read now; 0 where none are wanted.
    pub fn wanted_read(&mut self, now: Now, id: ConnectionId, buffer: usize) -> usize {
        let wanted = self.serve(now, id, Connection::wanted_read).unwrap_or(0).min(buffer);
        if self.budget.is_pressed() { wanted.min(self.settings.receive_bytes_pressed) } else { wanted }
    }

    /// Bytes from a connection's socket, read at `now`; what they bring is on its way when `later` is asked.
    pub fn handle_received(
        &mut self,
        now: Now,
        id: ConnectionId,
        input: &mut [u8],
        later: impl FnOnce() -> Now,
    ) -> Now {
        let applies = self.serve(now, id, |connection, env| connection.handle_received(input, env));
        let now = later();
        if applies == Some(true) {
            self.admit(now, id);
        }
        self.after(now, id);
        self.mark_dirty(id);
        now
    }

    /// All that a turn brought of a connection was handed in: its batch goes to the store.
    pub fn flush(&mut self, now: Now, id: ConnectionId) {
        self.with(now, id, |connection, env| connection.with_front(env, Front::flush));
    }

    /// The peer has gone, or the socket has failed.
    pub fn handle_gone(&mut self, now: Now, id: ConnectionId) {
        self.with(now, id, Connection::abandon);
        self.connections.remove(id);
    }

    /// What the store has done is told to whom it concerns; what waits for memory is tried again.
    pub fn handle_completions(&mut self, now: Now) {
        self.is_asked = false;
        while let Some(request) = self.refused.pop_front() {
            if let Err(request) = self.store.submit(now, request) {
                self.refused.push_front(request);
                break;
            }
        }
        while let Some(completion) = self.store.poll_completion(now) {
            self.handle_done(now, completion);
        }
        while let Some(queue) = self.store.poll_gone() {
            self.forget(queue);
            for shard in (0..self.shards).filter(|shard| *shard != self.shard) {
                self.outboxes[usize::from(shard)].push(Message::Forget(queue));
            }
        }
        self.evict(now);
        self.wake_waiting(now);
        if self.drain != Drain::No {
            self.advance_drain(now);
        }
    }

    /// Something from another shard.
    pub fn handle_message(&mut self, now: Now, message: Message) {
        match message {
            Message::Open { by, name } => self.open(now, by, name),
            Message::Opened { by, name, result } => self.handle_opened(now, by, name, result),
            Message::Request(request) => {
                if let Request::Append { token, .. } = &request {
                    self.record_hop(Stage::Hop, now, token);
                }
                self.submit(now, request);
            }
            Message::Completion(completion) => {
                if let Completion::Appended { token, .. } = &completion {
                    self.record_hop(Stage::HopBack, now, token);
                }
                self.handle_completion(now, completion);
            }
            Message::Forget(queue) => self.forget(queue),
            Message::ProducersDrained => self.shards_done += 1,
        }
    }

    /// The next connection with something to do: to be transmitted.
    pub fn poll_dirty(&mut self) -> Option<ConnectionId> {
        let id = self.dirty.pop_front()?;
        if let Some(connection) = self.connections.get_mut(id) {
            connection.is_dirty = false;
        }
        Some(id)
    }

    /// How many connections have something to do.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Whether there is something to do at once: a connection to transmit, or a store's answer that may be there.
    pub fn has_work(&self) -> bool {
        self.is_asked || !self.dirty.is_empty() || self.store.has_completions()
    }

    /// What a connection has to send now.
    pub fn poll_transmit(&mut self, now: Now, id: ConnectionId) -> &[u8] {
        let Some(connection) = self.connections.get_mut(id) else { return &[] };
        connection.lend_buffer(&mut self.spare, &mut self.notes);
        if self.with(now, id, Connection::poll_transmit) == Some(true) {
            self.mark_dirty(id);
        }
        if let Some(connection) = self.connections.get(id)
            && connection.unsent().is_empty()
        {
            // What was lent goes back.
            self.handle_sent(now, id, 0, connection.is_writable());
        }
        self.connections.get(id).map_or(&[], Connection::unsent)
    }

    /// The socket took so many of those bytes; and whether it would take more.
    pub fn handle_sent(&mut self, now: Now, id: ConnectionId, bytes: usize, writable: bool) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.set_writable(writable);
        let goes_on = writable && bytes > 0 && connection.goes_on();
        if let Some(buffer) = connection.handle_sent(now, bytes, &mut self.budget, &mut self.latency)
            && self.spare.len() < self.settings.spare_buffers
            && (1..=self.settings.spare_buffer_bytes).contains(&buffer.capacity())
        {
            self.spare.push(buffer);
        }
        connection.return_notes(&mut self.notes);
        if goes_on {
            self.mark_dirty(id);
        }
    }

    /// The socket takes bytes again, as far as is known.
    pub fn handle_writable(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.is_writable()
        {
            connection.set_writable(true);
            self.mark_dirty(id);
        }
    }

    /// Says that a connection has something to do.
    pub fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.is_dirty
        {
            connection.is_dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// Whether a connection's last bytes are sent, so that our direction of its socket is to be shut down; and
    /// whether the socket is to be closed although the peer has not.
    pub fn closing(&self, now: Now, id: ConnectionId) -> (bool, bool) {
        self.connections.get(id).map_or((true, true), |connection| {
            (connection.is_closing() && connection.is_flushed(), connection.is_over(now))
        })
    }

    /// What goes to another shard in this turn.
    pub fn poll_outbox(&mut self, shard: u16) -> Option<Vec<Message>> {
        let outbox = &mut self.outboxes[usize::from(shard)];
        if outbox.is_empty() { None } else { Some(std::mem::take(outbox)) }
    }

    /// The other shard's inbox was full: the same comes again.
    pub fn handle_outbox_refused(&mut self, shard: u16, mut messages: Vec<Message>) {
        let outbox = &mut self.outboxes[usize::from(shard)];
        messages.append(outbox);
        *outbox = messages;
    }

    /// Time has passed.
    pub fn handle_timeouts(&mut self, now: Now) {
        // Taken first: what is still due afterwards (a marker that the next transmit pays) must not come again here.
        let due: Vec<_> = std::iter::from_fn(|| self.deadlines.poll(now.mono)).collect();
        for (id, due) in due {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if !connection.armed.fire(due) {
                continue;
            }
            self.with_dirty(now, id, Connection::handle_timeout);
        }
        self.evict(now);
        if self.tick_due <= now.mono {
            self.tick_due = self.store.handle_tick(now).unwrap_or(now.mono + TICK);
        }
    }

    /// When [`Self::handle_timeouts`] is to be called, by the monotonic clock; `None` where nothing is due ever.
    pub fn next_deadline(&self) -> Option<Millis> {
        let tick = self.store.needs_ticks().then_some(self.tick_due);
        [self.deadlines.next_due(), self.evict_due, tick].into_iter().flatten().min()
    }

    /// What the shard did.
    pub fn counters(&self) -> &CoreCounters {
        &self.counters
    }

    /// How long what takes.
    pub fn latency(&mut self) -> &mut Recorder {
        &mut self.latency
    }

    /// What its connections obey.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Has the store prepare for the next start; true once it has. For the shard's last turns.
    pub fn handle_stop(&mut self, now: Now) -> bool {
        self.store.handle_stop(now)
    }

    /// The budget.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn connection(&mut self, now: Now, id: ConnectionId) -> Option<(&mut Connection, Env<'_>)> {
        let connection = self.connections.get_mut(id)?;
        let env = Env {
            now,
            settings: &self.settings,
            budget: &mut self.budget,
            commands: &mut self.commands,
            counters: &mut self.counters,
        };
        Some((connection, env))
    }
}

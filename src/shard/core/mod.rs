//! What a shard decides, without I/O: connections, budget, catalogue, ownership, fetches, draining.
//!
//! Sockets' bytes, other shards' messages and the time go in; bytes for sockets and messages for other shards
//! come out. Never touches glommio, sockets or clocks: the driver does, and the simulation in the tests.

mod catalogue;
mod connection;
mod deadlines;
mod drain;
mod message;
mod settings;
mod shortage;
mod slab;
mod snapshot;

pub use connection::{Connection, Env, Mark};
pub use message::{Message, Token};
pub use settings::Settings;
pub use slab::{ConnectionId, Slab};
pub use snapshot::{BudgetSnapshot, ShardPulse, ShardSnapshot, TRAFFIC_CONSUMERS, TRAFFIC_QUEUES, Traffic};

use core::net::SocketAddr;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use self::catalogue::Catalogue;
use self::deadlines::Deadlines;
use self::drain::Drain;
use crate::access::{Permit, Tenants, Use};
use crate::base::budget::{Budget, Wanted};
use crate::base::clock::{Now, millis};
use crate::base::error::{Fault, PeerFault, StoreFault};
use crate::base::names::{FullName, Project, QueueName, queue_hash};
use crate::base::planted;
use crate::base::queue::{QueueId, QueueInfo, home};
use crate::front::{Framed, Front};
use crate::latency::{Recorder, Stage};
use crate::operation::{Answer, Command, OperationCounters};
use crate::store::{Completion, Life, Request, Store};

/// How often the store is ticked while it wants nothing.
const TICK_MS: u64 = 1_000;

/// What a shard did, for its last words and for the tests.
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

/// What becomes of a queue that is opened and not there.
#[derive(Debug)]
enum Creation {
    /// It is created: a place in the catalogue is kept for it, and one of its project's, where that is limited.
    Allowed(Option<Permit>),
    /// It is not, as there are too many.
    Refused(Fault),
    /// It is not, as `auto_create` is off.
    Off,
}

/// A queue that its home is opening.
#[derive(Debug)]
struct Opening {
    name: FullName,
    creation: Creation,
    /// Who else has asked for it meanwhile.
    others: Vec<Token>,
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
    refused: VecDeque<Request<Token>>,
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
    evict_due_ms: Option<u64>,
    tick_due_ms: u64,
    spare: Vec<Vec<u8>>,
    /// Of the connection that is being sent to.
    notes: Framed,
    drain: Drain,
    /// Shards whose producers have their answers.
    shards_done: u16,
    counters: CoreCounters,
    latency: Recorder,
}

impl<S: Store<Token>> Core<S> {
    /// Shard number `shard` of `shards`.
    pub fn new(
        shard: u16,
        shards: u16,
        settings: Arc<Settings>,
        tenants: Arc<Tenants>,
        mut store: S,
    ) -> Self {
        store.count_for(&tenants);
        store.set_clock_step_max(millis(settings.clock_step_max));
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
            evict_due_ms: None,
            tick_due_ms: 0,
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

    /// Queues of an earlier run whose home this shard is are known, and count, from the start.
    fn adopt_queues(&mut self) {
        for name in self.store.names() {
            if home(queue_hash(&name.0, &name.1), self.shards) != self.shard {
                continue;
            }
            let id = self.catalogue.next_id();
            if let Some(life) = self.store.adopt(id, &name) {
                self.record(0, id, name, life, None);
            }
        }
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
        self.serve(now, id, |connection, env| connection.handle_received(input, env));
        let now = later();
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
        while let Some(mut completion) = self.store.poll_completion(now) {
            if let Completion::Appended { token, result } = &mut completion {
                if result.is_ok() {
                    self.latency.record(Stage::Commit, now.since_ns(token.stage_ns), token.messages);
                }
                token.stage_ns = now.mono_ns;
            }
            let shard = completion.token().shard;
            if let Completion::Opened { token, result } = completion {
                // Ours to finish, whoever asked: this shard is the queue's home.
                self.handle_made(now, token, result);
            } else if shard == self.shard {
                self.handle_completion(now, completion);
            } else {
                self.outboxes[usize::from(shard)].push(Message::Completion(completion));
            }
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
            Message::Open { token, name } => self.open(now, token, name),
            Message::Opened { token, name, result } => self.handle_opened(now, token, name, result),
            Message::Request(request) => {
                self.record_hop(Stage::Hop, now, request.token());
                self.submit(now, request);
            }
            Message::Completion(completion) => {
                self.record_hop(Stage::HopBack, now, completion.token());
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
        let due: Vec<_> = std::iter::from_fn(|| self.deadlines.poll(now.mono_ms)).collect();
        for (id, due_ms) in due {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if !connection.armed.fire(due_ms) {
                continue;
            }
            self.with_dirty(now, id, Connection::handle_timeout);
        }
        self.evict(now);
        if self.tick_due_ms <= now.mono_ms {
            self.tick_due_ms = self.store.handle_tick(now).unwrap_or(now.mono_ms + TICK_MS);
        }
    }

    /// When [`Self::handle_timeouts`] is to be called, in `mono_ms`; `None` where nothing is due ever.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let tick = self.store.needs_ticks().then_some(self.tick_due_ms);
        [self.deadlines.next_ms(), self.evict_due_ms, tick].into_iter().flatten().min()
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

    /// How the shard is. Looks at every connection, so it is for whoever asks now and then.
    pub fn snapshot(&self) -> ShardSnapshot {
        let fronts =
            || self.connections.ids().filter_map(|id| self.connections.get(id)).map(Connection::status);
        ShardSnapshot {
            pulse: self.pulse(),
            producing: fronts().filter(|status| status.credit.is_some()).count(),
            consuming: fronts().filter(|status| status.is_consuming).count(),
            credit: fronts().filter_map(|status| status.credit).sum(),
            waiting_fetches: self.store.waiting(),
        }
    }

    /// How the shard is, as far as it knows that anyway.
    pub fn pulse(&self) -> ShardPulse {
        ShardPulse {
            shard: self.shard,
            connections: self.connections.len(),
            budget: BudgetSnapshot {
                ceiling: self.budget.ceiling(),
                reserved: self.budget.reserved(),
                held: self.budget.held(),
                waiting: self.waiting.iter().map(VecDeque::len).sum(),
            },
            counters: self.counters.clone(),
            store: self.store.counters(),
        }
    }

    /// Where this shard's partitions of these queues end, and where its consumers are. For whoever asks now and then, like
    /// [`Self::snapshot`].
    pub fn traffic(&self, of: &[(FullName, QueueInfo)]) -> Traffic {
        let tails = |(name, info): &(FullName, QueueInfo)| {
            let owned =
                (0..info.partitions).filter(|partition| info.owner(*partition, self.shards) == self.shard);
            let tails = owned
                .filter_map(|partition| Some((name.clone(), partition, self.store.tail(info, partition)?)));
            tails.collect::<Vec<_>>()
        };
        let consumer = |id| self.connections.get(id)?.front()?.positions();
        Traffic {
            queues: self.catalogue.iter().count(),
            names: self
                .catalogue
                .iter()
                .take(TRAFFIC_QUEUES)
                .map(|(name, info)| (name.clone(), *info))
                .collect(),
            tails: of.iter().flat_map(tails).collect(),
            consumers: self.connections.ids().filter_map(consumer).take(TRAFFIC_CONSUMERS).collect(),
        }
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
            tenants: &self.tenants,
        };
        Some((connection, env))
    }

    /// Lets a connection do something, and does what that brings: its commands go on their way, and it gets its places in the
    /// lists of those that wait. A panic of its handling ends this connection and no other.
    #[inline]
    fn with<R>(
        &mut self,
        now: Now,
        id: ConnectionId,
        handle: impl FnOnce(&mut Connection, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let handled = self.serve(now, id, handle);
        self.after(now, id);
        handled
    }

    /// The same for what leaves the connection with something to send or to take in.
    fn with_dirty(&mut self, now: Now, id: ConnectionId, handle: impl FnOnce(&mut Connection, &mut Env<'_>)) {
        self.with(now, id, handle);
        self.mark_dirty(id);
    }

    /// The first half of [`Self::with`], for callers that look at the clock before the second.
    #[inline]
    fn serve<R>(
        &mut self,
        now: Now,
        id: ConnectionId,
        handle: impl FnOnce(&mut Connection, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let (connection, mut env) = self.connection(now, id)?;
        let mark = connection.mark();
        let handled = catch_unwind(AssertUnwindSafe(|| handle(connection, &mut env)));
        if handled.is_err() {
            self.handle_panic(now, id, mark);
        }
        handled.ok()
    }

    /// The handling of a connection has panicked; what it was about to ask is not asked.
    #[cold]
    fn handle_panic(&mut self, now: Now, id: ConnectionId, mark: Mark) {
        self.counters.panics += 1;
        for command in self.commands.drain(..) {
            if let Command::Append { reserved, .. } = command {
                self.budget.release(reserved);
            }
        }
        let Some(connection) = self.connections.get(id) else { return };
        let (project, queue) = connection.names();
        let (project, queue) = (project.to_owned(), queue.to_owned());
        let (number, peer) = (id.as_u64(), connection.peer());
        tracing::error!(
            connection = number,
            ?peer,
            project,
            queue,
            "the handling of a connection has panicked: it ends"
        );
        let Some((connection, mut env)) = self.connection(now, id) else { return };
        if catch_unwind(AssertUnwindSafe(|| connection.break_off(mark, &mut env))).is_err() {
            // Not even that: it ends without a word.
            tracing::error!(connection = number, ?peer, project, queue, "and has panicked again");
            if let Some(mut connection) = self.connections.remove(id) {
                connection.close_account(&mut self.budget);
            }
            // So that its socket is looked at, and closed.
            self.dirty.push_back(id);
        }
        self.mark_dirty(id);
    }

    /// A connection was served: its wishes are routed, its places in the lists kept.
    fn after(&mut self, now: Now, id: ConnectionId) {
        self.route_commands(now, id);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let status = connection.status();
        if let Some(Wanted { share, .. }) = status.wanted
            && connection.waits_in != Some(share)
        {
            connection.waits_in = Some(share);
            let waiting = &mut self.waiting[share as usize];
            waiting.push_back(id);
            self.budget.set_waiting(share, waiting.len());
        }
        let overheld = self.budget.is_overheld();
        let starves = status.is_starved || overheld && status.is_consuming;
        if starves && !connection.is_starved {
            connection.is_starved = true;
            self.starved.push(id);
        }
        let due = connection.next_deadline_ms(&status, &self.settings);
        self.deadlines.arm(id, &mut connection.armed, due);
    }

    fn route_commands(&mut self, now: Now, id: ConnectionId) {
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            self.route(now, id, command);
        }
        self.commands = commands;
    }

    fn route(&mut self, now: Now, connection: ConnectionId, command: Command) {
        let shard = self.shard;
        let token = |operation, detail, reserved| Token {
            shard,
            connection,
            operation,
            detail,
            reserved,
            messages: 0,
            stage_ns: 0,
        };
        let (target, request) = match command {
            Command::Open { operation, name } => return self.open(now, token(operation, 0, 0), name),
            Command::Report { project, queue, fault } => {
                return self.report(connection, &project, queue.as_ref(), &fault);
            }
            Command::Append { operation, sequence, target, batch, reserved, read_ns } => {
                self.latency.record(Stage::Parse, now.since_ns(read_ns), batch.count());
                let (messages, stage_ns) = (batch.count(), now.mono_ns);
                let token = Token { messages, stage_ns, ..token(operation, sequence, reserved) };
                let (stream, count) = (token.stream(), batch.count());
                let append = Request::Append { token, stream, partition: target.partition, batch };
                if self.store.appends_anywhere() {
                    return self.submit(now, append);
                }
                if target.owner(self.shards) != shard {
                    self.counters.messages_hopped += u64::from(count);
                }
                (target, append)
            }
            Command::Resolve { operation, target, position } => {
                let token = token(operation, u64::from(target.partition.partition), 0);
                (target, Request::Resolve { token, partition: target.partition, position })
            }
            Command::Fetch { operation, target, from, exclude, wait } => {
                let token = token(operation, u64::from(target.partition.partition), 0);
                let fetch = Request::Fetch {
                    token,
                    partition: target.partition,
                    from,
                    bytes_max: self.settings.operation.fetch_bytes,
                    exclude,
                    wait,
                };
                (target, fetch)
            }
            Command::Cancel { operation, target } => {
                let token = token(operation, u64::from(target.partition.partition), 0);
                (target, Request::Cancel { token, partition: target.partition })
            }
        };
        match target.owner(self.shards) {
            owner if owner == shard => self.submit(now, request),
            owner => self.outboxes[usize::from(owner)].push(Message::Request(request)),
        }
    }

    /// An operation fails: in the log, where it is our fault; a peer's only for whoever looks for those.
    fn report(&self, id: ConnectionId, project: &Project, queue: Option<&QueueName>, fault: &Fault) {
        let Some(connection) = self.connections.get(id) else { return };
        let (project, queue) = (project.as_str(), queue.map_or("", QueueName::as_str));
        let (connection, peer, status) = (id.as_u64(), connection.peer(), fault.status().0);
        if status < 500 || *fault == Fault::Draining {
            tracing::debug!(connection, ?peer, project, queue, status, %fault, "an operation fails");
        } else {
            tracing::warn!(connection, ?peer, project, queue, status, %fault, "an operation fails");
        }
    }

    fn submit(&mut self, now: Now, mut request: Request<Token>) {
        self.is_asked = true;
        if let Request::Append { token, batch, .. } = &mut request {
            self.latency.record(Stage::BatchMessages, batch.count().into(), 1);
            token.stage_ns = now.mono_ns;
        }
        if !self.refused.is_empty() {
            self.refused.push_back(request);
        } else if let Err(request) = self.store.submit(now, request) {
            self.refused.push_back(request);
        }
    }

    /// An append, or its answer, has come from another shard.
    fn record_hop(&mut self, stage: Stage, now: Now, token: Token) {
        if token.messages > 0 {
            self.latency.record(stage, now.since_ns(token.stage_ns), token.messages);
        }
    }

    fn handle_completion(&mut self, now: Now, completion: Completion<Token>) {
        let token = completion.token();
        // Given back on completion, whether or not the connection is still there.
        self.budget.release(token.reserved);
        let id = token.connection;
        let answer = match completion {
            Completion::Appended { result, .. } => Answer::Appended { sequence: token.detail, result },
            Completion::Fetched { result, .. } => Answer::Fetched { partition: token.detail as u16, result },
            Completion::Resolved { result, .. } => {
                Answer::Resolved { partition: token.detail as u16, result }
            }
            // The queue's home finishes these.
            Completion::Opened { .. } => return,
        };
        self.with_dirty(now, id, |connection, env| {
            connection.with_front(env, |front, cx| front.answer(token.operation, answer, cx));
        });
    }

    /// Finds a queue for a connection of any shard; makes it, where this is its home.
    fn open(&mut self, now: Now, token: Token, name: FullName) {
        if let Some(info) = self.catalogue.get(&name) {
            return self.answer_opened(now, token, name, Ok(info));
        }
        let hash = queue_hash(&name.0, &name.1);
        let home = home(hash, self.shards);
        if home != self.shard {
            return self.outboxes[usize::from(home)].push(Message::Open { token, name });
        }
        if self.settings.operation.test_faults {
            planted::in_shard(name.1.as_str());
        }
        if let Some(opening) = self.opening_names.get(&name).and_then(|queue| self.opening.get_mut(queue)) {
            return opening.others.push(token);
        }
        // The store may have the queue although it is not in the catalogue: then it is opened whatever the limits.
        let creation = self.creation(now, &name.0);
        let create = matches!(creation, Creation::Allowed(_)).then_some(self.settings.partitions);
        let queue = self.catalogue.next_id();
        self.opening_names.insert(name.clone(), queue);
        self.opening.insert(queue, Opening { name: name.clone(), creation, others: Vec::new() });
        // The store answers with the token alone, so the queue's number travels in it.
        let token = Token { detail: queue.0, ..token };
        self.submit(now, Request::Open { token, queue, name, create });
    }

    /// Whether a project may have one more queue here; keeps the places for it.
    fn creation(&mut self, now: Now, project: &Project) -> Creation {
        if !self.settings.auto_create {
            return Creation::Off;
        }
        let permit = self.tenants.get(project, now.mono_ms).map(|tenant| tenant.take(Use::Queue)).transpose();
        match permit {
            Ok(permit) => match self.catalogue.reserve() {
                Ok(()) => Creation::Allowed(permit),
                Err(fault) => Creation::Refused(fault.into()),
            },
            Err(limit) => {
                let fault = PeerFault::TooMany { what: "queues", key: "project_max_queues", limit };
                Creation::Refused(fault.into())
            }
        }
    }

    /// A queue of this home is there.
    fn record(
        &mut self,
        now_ms: u64,
        id: QueueId,
        name: FullName,
        life: Life,
        permit: Option<Permit>,
    ) -> QueueInfo {
        let held = || self.tenants.get(&name.0, now_ms).map(|tenant| tenant.hold(Use::Queue));
        if let Some(permit) = permit.or_else(held) {
            self.tenants.hold_queue(id, permit);
        }
        let Life { incarnation, partitions, signing } = life;
        let hash = queue_hash(&name.0, &name.1);
        self.catalogue.record(name, QueueInfo { id, incarnation, partitions, hash, signing })
    }

    /// The store has begun a queue's life: this shard is its home.
    fn handle_made(&mut self, now: Now, token: Token, result: Result<Life, StoreFault>) {
        let id = QueueId(token.detail);
        let Some(Opening { name, creation, others }) = self.opening.remove(&id) else { return };
        self.opening_names.remove(&name);
        let (permit, refusal) = match creation {
            Creation::Allowed(permit) => {
                self.catalogue.unreserve();
                (permit, None)
            }
            Creation::Refused(fault) => (None, Some(fault)),
            Creation::Off => (None, None),
        };
        let result = match result {
            Ok(life) => Ok(self.record(now.mono_ms, id, name.clone(), life, permit)),
            Err(StoreFault::NoQueue) => Err(refusal.unwrap_or(Fault::Store(StoreFault::NoQueue))),
            Err(fault) => Err(fault.into()),
        };
        for token in others {
            self.answer_opened(now, token, name.clone(), result.clone());
        }
        self.answer_opened(now, token, name, result);
    }

    /// A queue is not what it was: whoever asks for it finds it anew.
    fn forget(&mut self, queue: QueueId) {
        // A partition's owner may know the queue in its store alone.
        self.catalogue.forget(queue);
        self.tenants.release_queue(queue);
        self.store.forget(queue);
        self.is_asked = true;
    }

    fn answer_opened(&mut self, now: Now, token: Token, name: FullName, result: Result<QueueInfo, Fault>) {
        if token.shard == self.shard {
            self.handle_opened(now, token, name, result);
        } else {
            self.outboxes[usize::from(token.shard)].push(Message::Opened { token, name, result });
        }
    }

    /// A queue that a connection of this shard asked for.
    fn handle_opened(&mut self, now: Now, token: Token, name: FullName, result: Result<QueueInfo, Fault>) {
        let id = token.connection;
        let (shard, shards) = (self.shard, self.shards);
        let opened = result.map(|info| self.catalogue.record(name, info));
        self.with_dirty(now, id, |connection, env| {
            let mut local_partition = 0;
            if let Ok(info) = &opened {
                // The partition that costs a keyless producer no hop; spread over those of this shard.
                let owned: Vec<u16> =
                    (0..info.partitions).filter(|p| info.owner(*p, shards) == shard).collect();
                local_partition = owned.get(id.slot as usize % owned.len().max(1)).copied().unwrap_or(0);
            }
            let answer = Answer::Opened { result: opened, local_partition };
            connection.with_front(env, |front, cx| front.answer(token.operation, answer, cx));
        });
    }
}

//! The logic of a shard, without I/O: connections, budget, catalogue, ownership, fetches, draining.
//!
//! Input: bytes from sockets, letters from other shards, and the time. Output: bytes for sockets and
//! letters for other shards. Never uses glommio, sockets or clocks. `turn` does, for the driver and for the
//! simulation in the tests.
//!
//! | file | content |
//! | --- | --- |
//! | this file | the calls of a turn |
//! | `connection` | one connection: handshake, frames, the front that handles their content, and its client |
//! | `peer`, `proxy` | the peer of a connection; the PROXY header that names the client behind a proxy |
//! | `entry` | the request that opens a connection; `applicant`, `admission`: its client, and the verdict on it |
//! | `authentication` | asks who clients are, and admits them; `questions` to the judge; `verdicts` that are `remembered` |
//! | `grants` | renews and changes the grants of open connections; `audit` logs what happens to clients |
//! | `strangers` | clients that have not authenticated yet; `login`, `logins`: clients that do so on an open connection |
//! | `pass` | the grant of a connection, when it ends, and its renewal |
//! | `liveness` | the silence of a peer: timeouts, pings, and the wait for it to close |
//! | `output` | the output of a connection: framed bytes, and how many its transport accepted |
//! | `serving` | one call to a connection, and its effects |
//! | `routing` | routes commands to the stores, and answers back |
//! | `queues` | opens, creates and forgets queues; `catalogue` remembers them |
//! | `changes` | what the home's store changes, one request of a queue at a time |
//! | `deletions` | deletes queues |
//! | `alterations` | describes, creates and alters queues; `wishes` that were checked |
//! | `orders` | what operations ask of whole queues |
//! | `listings` | lists of queues, for operations |
//! | `desk` | the operator's requests about messages |
//! | `courier` | moves messages between queues for the store |
//! | `letter` | the letters between shards |
//! | `shortage` | the reaction to a shortage of memory |
//! | `deadlines`, `slab` | deadlines of connections; connections by id |
//! | `drain` | the draining of a shard |
//! | `reload` | takes over changed settings |
//! | `roster` | describes connections, and closes one, for the control port |
//! | `snapshot` | the state of a shard, for the control port |
//! | `settings` | the limits of a shard and of its connections |

mod admission;
mod alterations;
mod applicant;
mod audit;
mod authentication;
mod catalogue;
mod changes;
mod connection;
mod courier;
mod deadlines;
mod deletions;
mod desk;
mod drain;
mod entry;
mod grants;
mod letter;
mod listings;
mod liveness;
mod login;
mod logins;
mod orders;
mod output;
mod pass;
mod peer;
mod proxy;
mod questions;
mod queues;
mod reload;
mod remembered;
mod roster;
mod routing;
mod serving;
mod settings;
mod shortage;
mod slab;
mod snapshot;
mod strangers;
mod verdicts;
mod wishes;

pub use authentication::AuthCounters;
pub use connection::{Connection, Env};
pub use deletions::{Deleted, FORGET};
pub use letter::{
    AppendToken, Asking, ChangeId, ClaimToken, Connections, Letter, ManageToken, OpenToken, PartitionToken,
    SettleToken,
};
pub use peer::{Peer, ProxyFrom};
pub use proxy::{Announced, ProxyHeader};
pub use roster::{ConnectionState, Position, ROSTER_SLOTS, Roster};
pub use settings::Settings;
pub use slab::{ConnectionId, Slab};
pub use snapshot::{BudgetSnapshot, ShardPulse, ShardSnapshot, TRAFFIC_CONSUMERS, TRAFFIC_QUEUES, Traffic};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::alterations::Answers;
use self::authentication::Authentication;
use self::catalogue::Catalogue;
use self::changes::Changes;
use self::courier::Certainty;
use self::deadlines::Deadlines;
use self::deletions::Deletions;
use self::desk::Desk;
use self::drain::Drain;
use self::entry::RefusedHeaders;
use self::listings::Listings;
use self::pass::Ended;
use self::queues::Openings;
use crate::access::Tenants;
use crate::base::budget::Budget;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::front::{Framed, Front, FrontStatus};
use crate::latency::{Recorder, Stage};
use crate::operation::{Command, OperationCounters, Regulator};
use crate::store::{Completion, Request, Store, StoreEvent};
use crate::tls::ClientCertificate;

/// The time between two ticks of a store that asks for none.
const TICK: Millis = Millis::new(1_000);

/// The counters of a shard: for `/metrics`, the live page, the last log lines, and the tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CoreCounters {
    /// Connections that were accepted.
    pub connections: u64,
    /// Refused handshakes, by status. Few statuses are possible.
    pub handshakes_refused: BTreeMap<u16, u64>,
    /// Connections closed because they read nothing while memory was short.
    pub evicted: u64,
    /// Connections closed because their PROXY header was missing, invalid or late.
    pub proxy_headers_refused: u64,
    /// Connections whose handler panicked.
    pub panics: u64,
    /// Messages whose batch was sent to a partition of another shard.
    pub messages_hopped: u64,
    /// The counters of authentication.
    pub auth: AuthCounters,
    /// The counters of operations.
    pub sessions: OperationCounters,
}

/// The logic of one shard.
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
    /// The queues that this shard is opening in its store as their home.
    openings: Openings,
    listings: Listings,
    /// The queues that the store is changing, of those whose home is this shard.
    changes: Changes,
    /// The queues that the other shards must forget.
    deletions: Deletions,
    granted: Answers,
    desk: Desk,
    /// The letters for each shard.
    outboxes: Vec<Vec<Letter>>,
    /// Requests that the store had no room for.
    refused: VecDeque<Request<Connections>>,
    /// Whether the store got a request since its completions were last polled.
    is_asked: bool,
    /// The commands of the connection that is being served.
    commands: Vec<Command>,
    /// Connections with something to do, without those in `behind`.
    dirty: VecDeque<ConnectionId>,
    /// Connections with something to do whose consume operation is behind. They are served after the others.
    behind: VecDeque<ConnectionId>,
    /// Connections that wait for bytes of the budget, by share, in order of arrival.
    waiting: [VecDeque<ConnectionId>; 3],
    /// Connections that wait for credit.
    starved: Vec<ConnectionId>,
    deadlines: Deadlines,
    /// When to check again for connections to evict. Set while too much is held.
    evict_due: Option<Millis>,
    tick_due: Millis,
    spare: Vec<Vec<u8>>,
    /// The notes of the connection that is being sent to.
    notes: Framed,
    drain: Drain,
    /// The number of shards whose producers have all their answers.
    shards_done: u16,
    certainty: Certainty,
    counters: CoreCounters,
    regulator: Regulator,
    refused_headers: RefusedHeaders,
    /// `None` if clients need not authenticate.
    authentication: Option<Box<Authentication>>,
    latency: Recorder,
}

impl<S: Store<Connections>> Core<S> {
    /// Creates shard number `shard` of `shards`.
    pub fn new(
        shard: u16,
        shards: u16,
        settings: Arc<Settings>,
        tenants: Arc<Tenants>,
        mut store: S,
    ) -> Self {
        store.count_for(&tenants);
        store.set_clock_step_max(Millis::from(settings.clock_step_max));
        let regulator = Regulator::new(settings.operation.produce_target_delay);
        let mut core = Self {
            shard,
            shards,
            tenants,
            budget: Budget::new(settings.shard_budget_bytes),
            catalogue: Catalogue::new(shard, settings.max_queues),
            settings,
            connections: Slab::default(),
            store,
            openings: Openings::default(),
            listings: Listings::default(),
            changes: Changes::default(),
            deletions: Deletions::default(),
            granted: Answers::default(),
            desk: Desk::default(),
            outboxes: (0..shards).map(|_| Vec::new()).collect(),
            refused: VecDeque::new(),
            is_asked: false,
            commands: Vec::new(),
            dirty: VecDeque::new(),
            behind: VecDeque::new(),
            waiting: Default::default(),
            starved: Vec::new(),
            deadlines: Deadlines::default(),
            evict_due: None,
            tick_due: Millis::ZERO,
            spare: Vec::new(),
            notes: Framed::default(),
            drain: Drain::No,
            shards_done: 0,
            certainty: Certainty::default(),
            counters: CoreCounters::default(),
            regulator,
            refused_headers: RefusedHeaders::default(),
            authentication: None,
            latency: Recorder::default(),
        };
        core.store.hold_releases();
        core.adopt_queues();
        core.tell_adopted();
        core
    }

    /// Accepts a connection of `peer`. Returns `None` if the shard drains or has `max_connections`.
    pub fn handle_accepted(&mut self, now: Now, peer: Peer) -> Option<ConnectionId> {
        if self.drain != Drain::No || self.connections.len() >= self.settings.max_connections {
            *self.counters.handshakes_refused.entry(503).or_default() += 1;
            return None;
        }
        self.counters.connections += 1;
        let is_proxied = self.settings.proxy_from.contains(&peer);
        let id = self.connections.insert(Connection::new(now, peer, is_proxied));
        self.after(now, id);
        Some(id)
    }

    /// Returns how many bytes at the front of a connection's socket certainly belong to its PROXY header; 0 if
    /// the header is complete or none is expected.
    pub fn wanted_header(&self, id: ConnectionId) -> usize {
        self.connections.get(id).map_or(0, Connection::wanted_header)
    }

    /// Handles bytes of a connection's PROXY header, at most [`Self::wanted_header`].
    pub fn handle_header(&mut self, now: Now, id: ConnectionId, input: &[u8]) {
        self.with_dirty(now, id, |connection, env| connection.handle_header(input, env));
    }

    /// Returns how many bytes of a connection's socket to read now; 0 if none.
    pub fn wanted_read(&mut self, now: Now, id: ConnectionId, buffer: usize) -> usize {
        let wanted = self.serve(now, id, Connection::wanted_read).unwrap_or(0).min(buffer);
        if self.budget.is_pressed() { wanted.min(self.settings.receive_bytes_pressed) } else { wanted }
    }

    /// Handles bytes from a connection's socket, read at `now`. `later` returns the time after they are
    /// processed.
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

    /// Flushes a connection after all its bytes of a turn are handled: its batch goes to the store.
    pub fn flush(&mut self, now: Now, id: ConnectionId) {
        self.with(now, id, |connection, env| connection.with_front(env, Front::flush));
    }

    /// Sets the verified certificate of the client of a TLS connection.
    pub fn handle_certificate(&mut self, id: ConnectionId, certificate: Arc<ClientCertificate>) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.set_certificate(certificate);
        }
    }

    /// Sets since when the peer of a TLS connection owes the rest of a record.
    pub fn handle_cut(&mut self, now: Now, id: ConnectionId, cut_since: Option<Millis>) {
        self.with(now, id, |connection, _| connection.set_cut_since(cut_since));
    }

    /// Closes the connections of clients that `is_revoked` names. Returns how many.
    pub fn revoke(&mut self, now: Now, is_revoked: impl Fn(&ClientCertificate) -> bool) -> u64 {
        let is_revoked = |connection: &Connection| {
            !connection.is_closing() && connection.certificate().is_some_and(&is_revoked)
        };
        let revoked: Vec<ConnectionId> =
            self.connections.ids().filter(|id| self.connections.get(*id).is_some_and(is_revoked)).collect();
        for id in &revoked {
            self.end(now, *id, Ended::Revoked);
        }
        revoked.len() as u64
    }

    /// Removes a connection, because the peer has disconnected or the socket has failed.
    pub fn handle_gone(&mut self, now: Now, id: ConnectionId) {
        self.with(now, id, Connection::abandon);
        self.connections.remove(id);
        self.forget_stranger(id);
    }

    /// Delivers store completions to their connections, and retries what waits for memory.
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
        self.run_errands(now);
        while let Some(event) = self.store.poll_event() {
            match event {
                StoreEvent::Gone { queue, incarnation } => self.report_gone(queue, incarnation),
                StoreEvent::Altered { queue, attributes } => self.handle_altered_elsewhere(queue, attributes),
            }
        }
        self.evict(now);
        self.wake_waiting(now);
        if self.drain != Drain::No {
            self.advance_drain(now);
        }
    }

    /// Handles a letter from another shard.
    pub fn handle_letter(&mut self, now: Now, letter: Letter) {
        match letter {
            Letter::Open { by, name, may_create } => self.open(now, by, name, may_create),
            Letter::Opened { by, name, result } => self.handle_opened(now, by, name, result),
            Letter::Order { by, order } => self.take_order(now, by, order),
            Letter::Ordered { by, answer } => self.deliver(now, by, answer),
            Letter::Request(request) => {
                if let Request::Append { token, .. } = &request {
                    self.record_hop(Stage::Hop, now, token);
                }
                self.submit(now, request);
            }
            Letter::Completion(completion) => {
                if let Completion::Appended { token, .. } = &completion {
                    self.record_hop(Stage::HopBack, now, token);
                }
                self.handle_completion(now, completion);
            }
            Letter::Gone { queue, incarnation } => self.tell_gone(queue, incarnation, None),
            Letter::Forget { queue, incarnation, confirm_to } => {
                self.forget(queue, incarnation);
                if let Some(home) = confirm_to {
                    let shard = self.shard;
                    self.outboxes[usize::from(home)].push(Letter::Forgotten { shard, queue });
                }
            }
            Letter::Forgotten { shard, queue } => self.handle_forgotten(now, shard, queue),
            Letter::Grown { queue, partitions } => self.grow(now, queue, partitions),
            Letter::Adopted => self.handle_adopted(),
            Letter::Certain => self.handle_certain(),
            Letter::ProducersDrained => self.shards_done += 1,
        }
    }

    /// Removes and returns the next connection with something to do: those that are behind come last. The
    /// caller must transmit its output.
    pub fn poll_dirty(&mut self) -> Option<ConnectionId> {
        let id = self.dirty.pop_front().or_else(|| self.behind.pop_front())?;
        Some(self.clear_dirty(id))
    }

    /// Removes and returns the next connection that is behind. The caller must transmit its output.
    pub fn poll_behind(&mut self) -> Option<ConnectionId> {
        let id = self.behind.pop_front()?;
        Some(self.clear_dirty(id))
    }

    fn clear_dirty(&mut self, id: ConnectionId) -> ConnectionId {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.is_dirty = false;
        }
        id
    }

    /// Returns how many connections have something to do, without those that are behind.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Returns how many connections have something to do and consume messages that they are behind with.
    pub fn behind(&self) -> usize {
        self.behind.len()
    }

    /// Returns whether there is work now: a connection to transmit, or a possible completion of the store.
    pub fn has_work(&self) -> bool {
        self.is_asked
            || !self.dirty.is_empty()
            || !self.behind.is_empty()
            || self.store.has_completions()
            || self.has_waiting()
    }

    /// Returns the bytes that a connection has to send now.
    pub fn poll_transmit(&mut self, now: Now, id: ConnectionId) -> &[u8] {
        let Some(connection) = self.connections.get_mut(id) else { return &[] };
        connection.lend_buffer(&mut self.spare, &mut self.notes);
        if self.with(now, id, Connection::poll_transmit) == Some(true) {
            self.mark_dirty(id);
        }
        if let Some(connection) = self.connections.get(id)
            && connection.unsent().is_empty()
        {
            // Returns the lent buffer.
            self.handle_sent(now, id, 0, connection.is_writable());
        }
        self.connections.get(id).map_or(&[], Connection::unsent)
    }

    /// Handles that the socket accepted `bytes`. `writable` tells whether it would accept more.
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

    /// Handles that the socket may accept bytes again.
    pub fn handle_writable(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.is_writable()
        {
            connection.set_writable(true);
            self.mark_dirty(id);
        }
    }

    /// Adds a connection to those with something to do.
    pub fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.is_dirty
        {
            connection.is_dirty = true;
            let FrontStatus { is_behind, close, .. } = connection.status();
            let list = if is_behind && close.is_none() { &mut self.behind } else { &mut self.dirty };
            list.push_back(id);
        }
    }

    /// Returns two answers: whether a connection's last bytes are sent, so that the sending direction of its
    /// socket must be shut down; and whether the socket must be closed although the peer has not closed it.
    pub fn closing(&self, now: Now, id: ConnectionId) -> (bool, bool) {
        self.connections.get(id).map_or((true, true), |connection| {
            (connection.is_closing() && connection.is_flushed(), connection.is_over(now))
        })
    }

    /// Removes and returns the letters for another shard.
    pub fn poll_outbox(&mut self, shard: u16) -> Option<Vec<Letter>> {
        let outbox = &mut self.outboxes[usize::from(shard)];
        if outbox.is_empty() { None } else { Some(std::mem::take(outbox)) }
    }

    /// Takes letters back, because the other shard's inbox was full. They are returned again by
    /// [`Self::poll_outbox`].
    pub fn handle_outbox_refused(&mut self, shard: u16, mut letters: Vec<Letter>) {
        let outbox = &mut self.outboxes[usize::from(shard)];
        letters.append(outbox);
        *outbox = letters;
    }

    /// Handles the passing of time.
    pub fn handle_timeouts(&mut self, now: Now) {
        // All due entries are taken first: a deadline that is still due afterwards (a marker that the next
        // transmit sends) must not be handled again here.
        let due: Vec<_> = std::iter::from_fn(|| self.deadlines.poll(now.mono)).collect();
        for (id, due) in due {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if !connection.armed.fire(due) {
                continue;
            }
            self.end_late_verdict(now, id);
            let expired = self.counters.auth.expired;
            self.with_dirty(now, id, Connection::handle_timeout);
            if self.counters.auth.expired > expired {
                self.log_end(now, id, Ended::Expired);
            }
        }
        self.handle_late_changes(now);
        self.purge_verdicts(now);
        self.evict(now);
        if self.tick_due <= now.mono {
            self.tick_due = self.store.handle_tick(now).unwrap_or(now.mono + TICK);
            self.resolve_doubts(now);
        }
    }

    /// Returns when to call [`Self::handle_timeouts`], by the monotonic clock. `None` if nothing will be due.
    pub fn next_deadline(&self) -> Option<Millis> {
        let tick = self.store.needs_ticks().then_some(self.tick_due);
        let changes = [self.changes.next_due(), self.deletions.next_due()];
        [self.deadlines.next_due(), self.evict_due, self.purge_due(), tick]
            .into_iter()
            .chain(changes)
            .flatten()
            .min()
    }

    /// Returns the counters of the shard.
    pub fn counters(&self) -> &CoreCounters {
        &self.counters
    }

    /// Counts a turn of the shard in which it worked, and how long that took.
    pub fn handle_turn(&mut self, took: Duration) {
        let nanos = took.as_nanos() as u64;
        self.latency.record(Stage::Turn, nanos, 1);
        self.regulator.handle_busy(nanos);
    }

    /// Returns the latency histograms.
    pub fn latency(&mut self) -> &mut Recorder {
        &mut self.latency
    }

    /// Returns the settings of the shard.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Returns the shard's store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Prepares the store for the next start. Returns true when it is done. For the last turns of a shard.
    pub fn handle_stop(&mut self, now: Now) -> bool {
        self.store.handle_stop(now)
    }

    /// Returns the shard's memory budget.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Returns the numbers of the other shards.
    fn others(&self) -> impl Iterator<Item = u16> + use<S> {
        let shard = self.shard;
        (0..self.shards).filter(move |other| *other != shard)
    }

    fn connection(&mut self, now: Now, id: ConnectionId) -> Option<(&mut Connection, Env<'_>)> {
        let connection = self.connections.get_mut(id)?;
        let env = Env {
            now,
            settings: &self.settings,
            budget: &mut self.budget,
            commands: &mut self.commands,
            counters: &mut self.counters,
            regulator: &mut self.regulator,
            tenants: &self.tenants,
            refused_headers: &mut self.refused_headers,
        };
        Some((connection, env))
    }
}

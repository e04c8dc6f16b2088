//! A turn of a shard: one round of work, the same on glommio and in the simulation.
//!
//! A turn handles the inbox, the ready sockets, the store's completions, bytes to send, and letters to other
//! shards, in this order. The core makes all decisions. A turn accesses its environment only through
//! [`Host`].

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::core::Settings;
use super::core::{ChangeId, ConnectionId, Connections, Core, Deleted, Letter, ManageToken, Peer, Roster};
use super::delivery::{Delivery, Reply};
use super::transport::{News, Transport};
use crate::auth::Question;
use crate::base::clock::{Now, Step};
use crate::base::error::{Fault, StoreFault};
use crate::base::manage::Managed;
use crate::base::millis::Millis;
use crate::base::wish::Granted;
use crate::latency::Stage;
use crate::store::{Queues, Store};
use crate::tls::{Config, Counters};

/// The longest time for which sockets are read before their data is processed further, even if more are
/// ready. Measured: at 500 µs a hop between two saturated shards stays below 1 ms (p99), and a turn still
/// moves megabytes.
const SERVE_MAX: Duration = Duration::from_micros(500);

/// The time in a turn after which no further connection that is behind is served. At least one is served in each
/// round of sending, however long the others take.
const BEHIND_MAX: Duration = Duration::from_micros(500);

/// The time in a turn after which no further step of a TLS handshake is made. At least one is made in each turn. A
/// read that completes no record takes a few µs, and a step up to some 300 µs.
const HANDSHAKE_MAX: Duration = Duration::from_micros(50);

/// The most rounds of sending in a turn before the sockets are read again.
const TRANSMIT_ROUNDS: usize = 4;

/// The environment of a shard: time, sockets, other shards.
pub trait Host {
    /// An accepted connection that no shard serves yet.
    type Accepted;
    /// The socket of a connection.
    type Transport: Transport;

    /// Returns the time since the server's start.
    fn elapsed(&self) -> Duration;

    /// Returns the present time.
    fn now(&self) -> Now;

    /// Returns the last jump of the wall clock, if there was one since the last call.
    fn take_step(&mut self) -> Option<Step>;

    /// Returns the number of deliveries in the inbox.
    fn inbox_depth(&self) -> usize;

    /// Removes and returns the oldest delivery.
    fn poll_inbox(&mut self) -> Option<Delivery<Self::Accepted>>;

    /// Sends letters to another shard. Returns them if its inbox is full.
    fn send(&mut self, shard: u16, letters: Vec<Letter>) -> Result<(), Vec<Letter>>;

    /// Appends the slots of the connections that were marked ready.
    fn take_ready(&mut self, slots: &mut Vec<u32>);

    /// Returns whether a connection was marked ready since [`Self::take_ready`].
    fn has_ready(&self) -> bool;

    /// Takes over a connection, in a slot of the shard.
    fn accept(&mut self, accepted: Self::Accepted, slot: u32) -> io::Result<Self::Transport>;

    /// Refuses a connection with 503 and a reason, and closes it.
    fn refuse(&mut self, accepted: Self::Accepted, why: &str);

    /// Counts the end of a connection that was given to this shard.
    fn count_gone(&mut self);

    /// Uses another TLS configuration for new connections.
    fn set_tls(&mut self, _config: Arc<Config>) {}

    /// Returns the counters of TLS connections.
    fn tls(&self) -> Counters {
        Counters::default()
    }

    /// Asks who a client is. Returns the question if nobody can answer now.
    fn ask(&mut self, question: Question) -> Result<(), Question> {
        Err(question)
    }

    /// Counts connections that a reload of the TLS configuration has closed.
    fn count_revoked(&mut self, _connections: u64) {}
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// More work is waiting.
    More,
    /// All work is done.
    Worked,
    /// There was no work.
    Idle,
}

/// The replies to the operator's requests in progress.
#[derive(Debug, Default)]
struct Replies {
    deletions: HashMap<ChangeId, Reply<Result<Deleted, StoreFault>>>,
    wishes: HashMap<ChangeId, Reply<Granted>>,
    managing: HashMap<ManageToken, Reply<Result<Managed, StoreFault>>>,
    lists: HashMap<ChangeId, Reply<Queues>>,
}

impl Replies {
    /// Gives the answers that the core has.
    fn give<S: Store<Connections>>(&mut self, core: &mut Core<S>) {
        while let Some((id, result)) = core.poll_deleted() {
            if let Some(reply) = self.deletions.remove(&id) {
                reply.give(result);
            }
        }
        while let Some((id, result)) = core.poll_granted() {
            if let Some(reply) = self.wishes.remove(&id) {
                reply.give(result);
            }
        }
        while let Some((id, result)) = core.poll_managed() {
            if let Some(reply) = self.managing.remove(&id) {
                reply.give(result);
            }
        }
        while let Some((id, result)) = core.poll_listed() {
            if let Some(reply) = self.lists.remove(&id) {
                reply.give(result);
            }
        }
    }
}

/// What the operator is told whose request comes while the server drains.
const DRAINING: StoreFault = StoreFault::Unavailable("the server is draining");

/// A core and its environment.
#[derive(Debug)]
pub struct Shard<S, H: Host> {
    number: u16,
    shards: u16,
    core: Core<S>,
    host: H,
    /// The sockets, by slot.
    sockets: Vec<Option<(ConnectionId, H::Transport)>>,
    /// The slots to serve, in order.
    ready: VecDeque<u32>,
    /// The slots of ready connections whose TLS handshake has not ended, in order. They wait behind all others.
    handshakes: VecDeque<u32>,
    /// The slots that became ready in this turn. Empty between turns, kept for its capacity.
    woken: Vec<u32>,
    buffer: Vec<u8>,
    replies: Replies,
    settings: Arc<Settings>,
    /// When draining ends at the latest. `None` while the shard does not drain.
    drain_until: Option<Duration>,
}

impl<S: Store<Connections>, H: Host> Shard<S, H> {
    /// Creates shard number `number` of `shards`.
    pub fn new(number: u16, shards: u16, core: Core<S>, host: H) -> Self {
        let settings = Arc::clone(core.settings());
        Self {
            number,
            shards,
            core,
            host,
            sockets: Vec::new(),
            ready: VecDeque::new(),
            handshakes: VecDeque::new(),
            woken: Vec::new(),
            buffer: vec![0; settings.receive_window_bytes],
            replies: Replies::default(),
            settings,
            drain_until: None,
        }
    }

    /// Returns the shard's core.
    pub fn core(&self) -> &Core<S> {
        &self.core
    }

    /// Returns the core, mutably.
    pub fn core_mut(&mut self) -> &mut Core<S> {
        &mut self.core
    }

    /// Returns the environment that the shard runs in.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// Returns the environment, mutably.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// Returns when draining ends at the latest, by [`Host::elapsed`]. `None` while the shard does not drain.
    pub fn drain_until(&self) -> Option<Duration> {
        self.drain_until
    }

    /// Runs one turn.
    pub fn turn(&mut self) -> Turn {
        let depth = self.host.inbox_depth() as u64;
        if depth > 0 {
            self.core.latency().record(Stage::InboxDepth, depth, 1);
        }
        let mut worked = self.poll_inbox();
        worked |= self.serve();
        self.ask();
        let mut behind_until = None;
        for _ in 0..TRANSMIT_ROUNDS {
            let now = self.host.now();
            self.core.handle_completions(now);
            if self.core.next_deadline().is_some_and(|due| due <= now.mono) {
                self.core.handle_timeouts(now);
            }
            if !self.core.has_work() {
                break;
            }
            worked = true;
            self.transmit();
            if !self.transmit_behind(&mut behind_until) {
                break;
            }
        }
        if let Some(step) = self.host.take_step() {
            self.say_step(step);
        }
        let refused = self.flush_outboxes();
        self.replies.give(&mut self.core);
        // A socket that used up its share of the turn is ready again. Parking would return at once, without a
        // pass of the reactor, and no other socket would ever be polled.
        let is_ready = !self.ready.is_empty() || !self.handshakes.is_empty() || self.host.has_ready();
        if refused || self.core.has_work() || is_ready {
            Turn::More
        } else if worked {
            Turn::Worked
        } else {
            Turn::Idle
        }
    }

    /// Prepares the store for the next start, after everything has drained. Returns true when it is done.
    pub fn stop(&mut self) -> bool {
        self.poll_inbox();
        // Ready sockets are no longer served, and must not keep the driver from polling the store's files.
        self.host.take_ready(&mut self.woken);
        self.woken.clear();
        self.core.handle_stop(self.host.now())
    }

    /// Logs a jump of the clock. Every shard notices it, only the first logs it.
    #[cold]
    fn say_step(&self, step: Step) {
        if self.number != 0 {
            return;
        }
        let held_for = humantime::format_duration(self.settings.clock_step_max);
        let seconds = |by: Millis| by.get() / 1000;
        match step {
            Step::Held(by) => tracing::error!(
                seconds = seconds(by),
                %held_for,
                "system clock jumped ahead: messages expire by the earlier time until the clock has stayed ahead for held_for"
            ),
            Step::Ahead(by) => tracing::error!(
                seconds = seconds(by),
                "system clock stayed ahead: its time is used from now on, and messages expire by it"
            ),
            Step::Back(by) => tracing::error!(
                seconds = seconds(by),
                "system clock stepped back: message timestamps follow it"
            ),
        }
    }

    /// Handles deliveries from the inbox. Returns whether there were any.
    fn poll_inbox(&mut self) -> bool {
        for taken in 0..self.settings.inbox_batches_per_look {
            match self.host.poll_inbox() {
                None => return taken > 0,
                Some(Delivery::Socket(socket, peer)) => self.handle_accepted(socket, peer),
                Some(Delivery::Letters(letters)) => {
                    let now = self.host.now();
                    for letter in letters {
                        self.core.handle_letter(now, letter);
                    }
                }
                // Its purpose is to wake the shard, which polls its store in every turn.
                Some(Delivery::StoreNews) => {}
                Some(Delivery::Ping(reply)) => reply.give(()),
                // What begins so late may have no time to end.
                Some(Delivery::Delete(_, reply)) if self.drain_until.is_some() => reply.give(Err(DRAINING)),
                Some(Delivery::Wish(_, _, reply)) if self.drain_until.is_some() => {
                    reply.give(Err(Fault::Draining.into()));
                }
                Some(Delivery::Manage(_, _, reply)) if self.drain_until.is_some() => {
                    reply.give(Err(DRAINING));
                }
                Some(Delivery::Delete(name, reply)) => {
                    let id = self.core.delete(self.host.now(), name);
                    self.replies.deletions.insert(id, reply);
                }
                Some(Delivery::Wish(name, wish, reply)) => {
                    let id = self.core.wish(self.host.now(), name, wish);
                    self.replies.wishes.insert(id, reply);
                }
                Some(Delivery::Manage(partition, what, reply)) => {
                    let id = self.core.manage(self.host.now(), partition, what);
                    self.replies.managing.insert(id, reply);
                }
                Some(Delivery::Queues(reply)) => {
                    let id = self.core.list(self.host.now());
                    self.replies.lists.insert(id, reply);
                }
                Some(Delivery::Latency(empty, reply)) => {
                    let full = std::mem::replace(self.core.latency(), empty);
                    reply.give((full, self.core.pulse(self.host.tls())));
                }
                Some(Delivery::Traffic(of, reply)) => reply.give(self.core.traffic(&of)),
                Some(Delivery::Ends(of, reply)) => reply.give(self.core.ends(&of)),
                Some(Delivery::Roster(from, reply)) => reply.give(self.roster(from)),
                Some(Delivery::Dismiss(id, reply)) => reply.give(self.core.dismiss(self.host.now(), id)),
                Some(Delivery::Snapshot(reply)) => reply.give(self.core.snapshot(self.host.tls())),
                Some(Delivery::Reload(settings, reply)) => {
                    self.settings = Arc::clone(&settings);
                    self.core.handle_reload(self.host.now(), settings);
                    reply.give(());
                }
                Some(Delivery::Tls(config)) => {
                    self.host.set_tls(config.clone());
                    let revoked = self.core.revoke(self.host.now(), |client| config.revokes(client));
                    self.host.count_revoked(revoked);
                }
                Some(Delivery::Auth(answer)) => self.core.handle_answer(self.host.now(), answer),
                Some(Delivery::Drain) => {
                    self.drain_until.get_or_insert(self.host.elapsed() + self.settings.drain_timeout);
                    self.core.handle_drain(self.host.now());
                }
            }
        }
        true
    }

    /// Passes on the questions about clients.
    fn ask(&mut self) {
        self.core.resume_waiting(self.host.now());
        while let Some(question) = self.core.poll_question() {
            if let Err(question) = self.host.ask(question) {
                self.core.handle_unasked(self.host.now(), &question);
            }
        }
    }

    /// Describes some of the connections: those from this slot on.
    fn roster(&self, from: u32) -> Roster {
        let sockets = &self.sockets;
        let socket = |id: ConnectionId| sockets.get(id.slot as usize).and_then(Option::as_ref);
        self.core.roster(from, |id| socket(id).is_some_and(|(_, socket)| socket.is_encoded()))
    }

    fn handle_accepted(&mut self, accepted: H::Accepted, peer: Peer) {
        let Some(id) = self.core.handle_accepted(self.host.now(), peer) else {
            if self.drain_until.is_some() {
                self.host.refuse(accepted, "the server is draining");
            } else {
                let max = self.settings.max_connections;
                let why = format!("the server has no room for more connections: max_connections = {max}");
                self.host.refuse(accepted, &why);
            }
            self.host.count_gone();
            return;
        };
        match self.host.accept(accepted, id.slot) {
            Ok(socket) => {
                let slot = id.slot as usize;
                if self.sockets.len() <= slot {
                    self.sockets.resize_with(slot + 1, || None);
                }
                socket.mark();
                self.sockets[slot] = Some((id, socket));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed: its peer may have closed it");
                self.core.handle_gone(self.host.now(), id);
                self.host.count_gone();
            }
        }
    }

    /// Reads the ready sockets, for at most [`SERVE_MAX`], and handles the inbox between them. Then makes
    /// steps of TLS handshakes, one of each, until [`HANDSHAKE_MAX`] is used up: established connections wait for
    /// that. Returns whether any were ready.
    fn serve(&mut self) -> bool {
        self.host.take_ready(&mut self.woken);
        self.ready.extend(self.woken.drain(..));
        let (any, began) = (!self.ready.is_empty(), self.host.elapsed());
        for served in 0..self.ready.len() {
            if served > 0 {
                if self.host.elapsed() - began >= SERVE_MAX {
                    break;
                }
                self.poll_inbox();
            }
            let Some(slot) = self.ready.pop_front() else { break };
            self.read(slot, false);
        }
        let (waiting, began) = (self.handshakes.len(), self.host.elapsed());
        for step in 0..waiting {
            if step > 0 && self.host.elapsed() - began >= HANDSHAKE_MAX {
                break;
            }
            let Some(slot) = self.handshakes.pop_front() else { break };
            self.read(slot, true);
        }
        any || waiting > 0
    }

    /// Reads a ready socket. If its TLS handshake has not ended and `may_shake` is false, leaves it for later.
    fn read(&mut self, slot: u32, may_shake: bool) {
        let mut now = self.host.now();
        let Some((id, socket)) = self.sockets.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let id = *id;
        let is_encoded = socket.is_encoded();
        if is_encoded && socket.is_handshaking() && !may_shake {
            self.handshakes.push_back(slot);
            return;
        }
        socket.clear_mark();
        if is_encoded && socket.resume().is_err() {
            return self.remove(id);
        }
        self.core.handle_writable(id);
        let mut left = self.settings.receive_bytes_per_turn;
        loop {
            let wanted = self.core.wanted_read(now, id, self.buffer.len());
            if wanted == 0 {
                if self.core.wanted_header(id) == 0 {
                    break;
                }
                if self.read_header(now, id) {
                    self.read(slot, may_shake);
                }
                return;
            }
            if left == 0 {
                socket.mark();
                break;
            }
            match socket.read(&mut self.buffer[..wanted.min(left)]) {
                Ok(None) => break,
                Ok(Some(0)) | Err(_) => return self.remove(id),
                Ok(Some(bytes)) => {
                    left -= bytes;
                    if is_encoded {
                        // Tiny records take many times their plaintext to open.
                        left = left.saturating_sub(socket.wire_bytes_read().saturating_sub(bytes));
                    }
                    let host = &self.host;
                    now = self.core.handle_received(now, id, &mut self.buffer[..bytes], || host.now());
                }
            }
        }
        if is_encoded {
            let news = socket.take_news(now);
            self.handle_news(now, id, news);
        }
        self.core.flush(now, id);
    }

    /// Passes on what a TLS connection reports after a read.
    #[inline(never)]
    fn handle_news(&mut self, now: Now, id: ConnectionId, news: News) {
        let News { handshake_ns, certificate, cut_since } = news;
        if let Some(handshake_ns) = handshake_ns {
            self.core.latency().record(Stage::Tls, handshake_ns, 1);
        }
        if let Some(certificate) = certificate {
            self.core.handle_certificate(id, certificate);
        }
        self.core.handle_cut(now, id, cut_since);
    }

    /// Reads the PROXY header of a connection, as far as it has arrived. Returns whether it is complete and the
    /// connection open.
    #[cold]
    fn read_header(&mut self, now: Now, id: ConnectionId) -> bool {
        let Some((_, socket)) = self.sockets.get_mut(id.slot as usize).and_then(Option::as_mut) else {
            return false;
        };
        loop {
            let wanted = self.core.wanted_header(id).min(self.buffer.len());
            if wanted == 0 {
                return true;
            }
            match socket.read_raw(&mut self.buffer[..wanted]) {
                Ok(None) => return false,
                Ok(Some(0)) | Err(_) => {
                    self.remove(id);
                    return false;
                }
                Ok(Some(bytes)) => self.core.handle_header(now, id, &self.buffer[..bytes]),
            }
        }
    }

    /// Sends the output of the connections with something to do, except those that are behind.
    fn transmit(&mut self) {
        for _ in 0..self.core.dirty() {
            let Some(id) = self.core.poll_dirty() else { return };
            self.transmit_to(id);
        }
    }

    /// Sends the output of the connections that are behind, each once, until [`BEHIND_MAX`] of this turn is used
    /// up; `until` is when that is. Serves at least one. Returns whether all were served.
    fn transmit_behind(&mut self, until: &mut Option<Duration>) -> bool {
        let behind = self.core.behind();
        for served in 0..behind {
            let now = self.host.elapsed();
            if *until.get_or_insert(now + BEHIND_MAX) <= now && served > 0 {
                return false;
            }
            let Some(id) = self.core.poll_behind() else { break };
            self.transmit_to(id);
        }
        true
    }

    /// Sends the output of a connection.
    fn transmit_to(&mut self, id: ConnectionId) {
        let now = self.host.now();
        let Some((of, socket)) = self.sockets.get_mut(id.slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if *of != id {
            return;
        }
        let bytes = self.core.poll_transmit(now, id);
        if !bytes.is_empty() {
            let length = bytes.len();
            match socket.write(bytes) {
                Ok(sent) => {
                    let now = Now::new(self.host.elapsed(), now.unix);
                    self.core.handle_sent(now, id, sent, sent == length);
                }
                Err(_) => return self.remove(id),
            }
        }
        let (sent_all, over) = self.core.closing(now, id);
        if over {
            self.remove(id);
        } else if sent_all {
            socket.shut_down();
        } else if socket.is_readable() && self.core.wanted_read(now, id, 1) > 0 {
            // The connection may be read again, and nothing else would serve its socket.
            socket.mark();
        }
    }

    fn remove(&mut self, id: ConnectionId) {
        let now = self.host.now();
        if let Some((_, mut socket)) = self.sockets.get_mut(id.slot as usize).and_then(Option::take) {
            socket.shut_down();
            self.host.count_gone();
        }
        self.core.handle_gone(now, id);
    }

    /// Sends this turn's letters to the other shards. Returns whether an inbox was full. Its letters are
    /// sent again in the next turn.
    fn flush_outboxes(&mut self) -> bool {
        let mut refused = false;
        for shard in 0..self.shards {
            if let Some(letters) = self.core.poll_outbox(shard)
                && let Err(letters) = self.host.send(shard, letters)
            {
                self.core.handle_outbox_refused(shard, letters);
                refused = true;
            }
        }
        refused
    }
}

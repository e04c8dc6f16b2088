//! The one driver of a shard: turn after turn, until it is drained.
//!
//! A turn: what is in the inbox; the sockets that are ready; what the store has done; what is to be sent; what
//! goes to other shards; a pass of the reactor. Runs on the shard's thread and decides nothing: the core does.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::core::{ConnectionId, Core, CoreCounters, Settings, Token};
use super::delivery::{Delivery, Reply};
use super::inbox::{Inbox, Sender};
use super::parker::Parker;
use super::refuser::Refuser;
use super::socket::Socket;
use crate::base::clock::{Now, Step, WallClock};
use crate::latency::{Recorder, Stage};
use crate::store::{Store, StoreCounters};

/// How long sockets are served before what they brought goes on its way, even if more are ready. Measured: at
/// 500 µs a hop between two saturated shards stays below 1 ms (p99), and a turn still moves megabytes.
const SERVE_US: u64 = 500;

/// How long a shard's store may take to prepare for the next start, once everything has drained.
const STOP_MAX: Duration = Duration::from_secs(2);

/// How often in a turn connections may be sent to again before the sockets are looked at.
const TRANSMIT_ROUNDS: usize = 4;

/// What the shards of a server share: nothing of the data path.
#[derive(Debug)]
pub struct Shared {
    /// Connections of each shard, for the acceptor's choice.
    pub connections: Vec<AtomicUsize>,
    /// Shards that have drained.
    pub drained: AtomicUsize,
    /// Connections that the acceptor has refused with 503.
    pub refused_by_acceptor: Arc<AtomicU64>,
    /// Answers connections that are refused.
    pub refuser: Refuser,
    /// Where the shards' time begins.
    pub epoch: Instant,
}

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There is more to do at once.
    More,
    /// All that there was is done.
    Worked,
    /// There was nothing.
    Idle,
}

/// What a shard says when it ends.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Which.
    pub shard: u16,
    /// What became of the messages that its store was given.
    pub store: StoreCounters,
    /// The rest.
    pub counters: CoreCounters,
    /// How long what took, since that was asked last.
    pub latency: Recorder,
    /// Its store is ready for the next start.
    pub is_stopped: bool,
}

/// See the module's page.
#[derive(Debug)]
pub struct Driver<S> {
    shard: u16,
    core: Core<S>,
    parker: Parker,
    inbox: Inbox<Delivery>,
    peers: Vec<Sender<Delivery>>,
    shared: Arc<Shared>,
    sockets: Vec<Option<(ConnectionId, Socket)>>,
    /// Slots that are to be served, in order.
    ready: VecDeque<u32>,
    woken: Vec<u32>,
    buffer: Vec<u8>,
    started: Instant,
    clock: WallClock,
    /// Those who wait until this turn's messages to other shards are on their way.
    settling: Vec<Reply<()>>,
    spin: Duration,
    settings: Arc<Settings>,
    drain_until: Option<Instant>,
    is_counted: bool,
}

impl<S: Store<Token>> Driver<S> {
    /// The driver of `core`; `peers` are the inboxes of all shards. For `spin` it waits for something to do before it parks,
    /// with passes of the reactor: glommio's own setting of that kind looks at the rings' memory alone, and a ring of ours
    /// shows nothing there before a system call (`uring`).
    pub fn new(
        shard: u16,
        core: Core<S>,
        parker: Parker,
        inbox: Inbox<Delivery>,
        peers: Vec<Sender<Delivery>>,
        shared: Arc<Shared>,
        spin: Duration,
    ) -> Self {
        let settings = Arc::clone(core.settings());
        Self {
            shard,
            core,
            parker,
            inbox,
            peers,
            sockets: Vec::new(),
            ready: VecDeque::new(),
            woken: Vec::new(),
            buffer: vec![0; settings.receive_window_bytes],
            started: shared.epoch,
            clock: WallClock::new(settings.clock_step_max),
            settling: Vec::new(),
            shared,
            spin,
            settings,
            drain_until: None,
            is_counted: false,
        }
    }

    /// Turn after turn.
    pub async fn run(mut self) -> ShardReport {
        let mut passed = Instant::now();
        let mut worked = passed;
        loop {
            self.parker.beat();
            let began = Instant::now();
            let turn = self.turn();
            if self.is_over() {
                return ShardReport {
                    is_stopped: self.stop().await,
                    shard: self.shard,
                    store: self.core.store().counters(),
                    counters: self.core.counters().clone(),
                    latency: std::mem::take(self.core.latency()),
                };
            }
            let mut ended = Instant::now();
            // Whatever there is to do: nobody's socket is looked at without a pass.
            if ended - passed >= self.settings.reactor_pass {
                self.parker.reactor_pass().await;
                ended = Instant::now();
                passed = ended;
            }
            if turn != Turn::Idle {
                self.core.latency().record(Stage::Turn, (ended - began).as_nanos() as u64, 1);
            }
            if turn == Turn::More {
                continue;
            }
            if turn == Turn::Worked {
                worked = ended;
            }
            if worked.elapsed() < self.spin {
                self.parker.reactor_pass().await;
                passed = Instant::now();
            } else {
                let deadline =
                    self.core.next_deadline_ms().map(|ms| self.started + Duration::from_millis(ms));
                let deadline = [deadline, self.drain_until].into_iter().flatten().min();
                if self.parker.park(&self.inbox, deadline).await {
                    passed = Instant::now();
                }
            }
        }
    }

    /// Has the store prepare for the next start, for [`STOP_MAX`] at most. Whether it has.
    async fn stop(&mut self) -> bool {
        let until = Instant::now() + STOP_MAX;
        loop {
            self.poll_inbox();
            if self.core.handle_stop(self.now()) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            self.parker.beat();
            // Sockets that are ready are not served any more, and must not keep the store's files from being looked at.
            self.parker.take_ready(&mut self.woken);
            self.woken.clear();
            if !self.parker.park(&self.inbox, Some(until)).await {
                self.parker.reactor_pass().await;
            }
        }
    }

    fn turn(&mut self) -> Turn {
        let depth = self.inbox.depth() as u64;
        if depth > 0 {
            self.core.latency().record(Stage::InboxDepth, depth, 1);
        }
        let mut worked = self.poll_inbox();
        worked |= self.serve();
        for _ in 0..TRANSMIT_ROUNDS {
            let now = self.now();
            self.core.handle_completions(now);
            if self.core.next_deadline_ms().is_some_and(|due| due <= now.mono_ms) {
                self.core.handle_timeouts(now);
            }
            if !self.core.has_work() {
                break;
            }
            worked = true;
            self.transmit();
        }
        if let Some(step) = self.clock.take_step() {
            self.say_step(step);
        }
        let refused = self.flush_outboxes();
        if !refused {
            self.settling.drain(..).for_each(|reply| reply.give(()));
        }
        // A socket that had more than its part of the turn is ready again. To park would be to return at once, without a pass
        // of the reactor, and nobody else's socket would ever be looked at.
        let is_ready = !self.ready.is_empty() || self.parker.has_ready();
        if refused || self.core.has_work() || is_ready {
            Turn::More
        } else if worked {
            Turn::Worked
        } else {
            Turn::Idle
        }
    }

    fn now(&self) -> Now {
        Self::time(self.started, &self.clock)
    }

    fn time(started: Instant, clock: &WallClock) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        clock.look(started.elapsed(), unix.as_millis() as u64)
    }

    /// Says that the clock has jumped. Every shard notices; one says it.
    #[cold]
    fn say_step(&self, step: Step) {
        if self.shard != 0 {
            return;
        }
        let held_for = humantime::format_duration(self.settings.clock_step_max);
        let seconds = |ms: u64| ms / 1000;
        match step {
            Step::Held(by) => tracing::error!(
                seconds = seconds(by),
                %held_for,
                "the system's clock has jumped ahead: messages expire by the time before the jump until the clock has stayed there"
            ),
            Step::Ahead(by) => tracing::error!(
                seconds = seconds(by),
                "the system's clock has stayed ahead: it is believed, and what has expired by it goes"
            ),
            Step::Back(by) => tracing::error!(
                seconds = seconds(by),
                "the system's clock has stepped back: timestamps of messages follow it"
            ),
        }
    }

    /// True where there was something.
    fn poll_inbox(&mut self) -> bool {
        for taken in 0..self.settings.inbox_batches_per_look {
            match self.inbox.poll() {
                None => return taken > 0,
                Some(Delivery::Socket(socket, peer)) => self.handle_accepted(socket, peer),
                Some(Delivery::Messages(messages)) => {
                    let now = self.now();
                    for message in messages {
                        self.core.handle_message(now, message);
                    }
                }
                // It has woken the shard, which asks its store in every turn.
                Some(Delivery::StoreNews) => {}
                Some(Delivery::Ping(reply)) => reply.give(()),
                Some(Delivery::Settle(reply)) => {
                    self.core.handle_completions(self.now());
                    self.settling.push(reply);
                }
                Some(Delivery::Queues(reply)) => reply.give(self.core.store().queues(self.now().unix_ms)),
                Some(Delivery::Latency(empty, reply)) => {
                    let full = std::mem::replace(self.core.latency(), empty);
                    reply.give((full, self.core.pulse()));
                }
                Some(Delivery::Traffic(of, reply)) => reply.give(self.core.traffic(&of)),
                Some(Delivery::Snapshot(reply)) => reply.give(self.core.snapshot()),
                Some(Delivery::Drain) => {
                    self.drain_until.get_or_insert(Instant::now() + self.settings.drain_timeout);
                    self.core.handle_drain(self.now());
                }
            }
        }
        true
    }

    fn handle_accepted(&mut self, socket: socket2::Socket, peer: Option<SocketAddr>) {
        let Some(id) = self.core.handle_accepted(self.now(), peer) else {
            if self.drain_until.is_some() {
                self.shared.refuser.refuse(socket, "the server is draining");
            } else {
                let max = self.settings.max_connections;
                let why = format!("the server has no room for more connections: max_connections = {max}");
                self.shared.refuser.refuse(socket, &why);
            }
            self.count_gone();
            return;
        };
        match Socket::new(socket, id.slot) {
            Ok(socket) => {
                let slot = id.slot as usize;
                if self.sockets.len() <= slot {
                    self.sockets.resize_with(slot + 1, || None);
                }
                socket.mark();
                self.sockets[slot] = Some((id, socket));
            }
            Err(error) => {
                tracing::warn!(%error, "a socket was closed by its peer before it was served");
                self.core.handle_gone(self.now(), id);
                self.count_gone();
            }
        }
    }

    /// Reads the sockets that are ready, for [`SERVE_US`] at most; looks into the inbox between them. True where there were any.
    fn serve(&mut self) -> bool {
        self.parker.take_ready(&mut self.woken);
        self.ready.extend(self.woken.drain(..));
        let (any, began) = (!self.ready.is_empty(), Instant::now());
        for served in 0..self.ready.len() {
            if served > 0 {
                if began.elapsed() >= Duration::from_micros(SERVE_US) {
                    return true;
                }
                self.poll_inbox();
            }
            let Some(slot) = self.ready.pop_front() else { break };
            self.read(slot);
        }
        any
    }

    fn read(&mut self, slot: u32) {
        let mut now = self.now();
        let Some((id, socket)) = self.sockets.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let id = *id;
        socket.clear_mark();
        self.core.handle_writable(id);
        let mut budget = self.settings.receive_bytes_per_turn;
        loop {
            let wanted = self.core.wanted_read(now, id, self.buffer.len());
            if wanted == 0 {
                break;
            }
            if budget == 0 {
                socket.mark();
                break;
            }
            match socket.read(&mut self.buffer[..wanted.min(budget)]) {
                Ok(None) => break,
                Ok(Some(0)) | Err(_) => return self.remove(id),
                Ok(Some(bytes)) => {
                    budget -= bytes;
                    let later = || Self::time(self.started, &self.clock);
                    now = self.core.handle_received(now, id, &mut self.buffer[..bytes], later);
                }
            }
        }
        self.core.flush(now, id);
    }

    /// Sends what the connections with something to do have to send.
    fn transmit(&mut self) {
        for _ in 0..self.core.dirty() {
            let Some(id) = self.core.poll_dirty() else { return };
            let now = self.now();
            let Some((of, socket)) = self.sockets.get_mut(id.slot as usize).and_then(Option::as_mut) else {
                continue;
            };
            if *of != id {
                continue;
            }
            let bytes = self.core.poll_transmit(now, id);
            if !bytes.is_empty() {
                let length = bytes.len();
                match socket.write(bytes) {
                    Ok(sent) => {
                        let now = Now::new(self.started.elapsed(), now.unix_ms);
                        self.core.handle_sent(now, id, sent, sent == length);
                    }
                    Err(_) => {
                        self.remove(id);
                        continue;
                    }
                }
            }
            let (sent_all, over) = self.core.closing(now, id);
            if over {
                self.remove(id);
            } else if sent_all {
                socket.shut_down();
            } else if socket.is_readable() && self.core.wanted_read(now, id, 1) > 0 {
                // What held the connection up is over, and nothing else would look at its socket.
                socket.mark();
            }
        }
    }

    fn remove(&mut self, id: ConnectionId) {
        let now = self.now();
        if let Some((_, mut socket)) = self.sockets.get_mut(id.slot as usize).and_then(Option::take) {
            socket.shut_down();
            self.count_gone();
        }
        self.core.handle_gone(now, id);
    }

    fn count_gone(&self) {
        if let Some(connections) = self.shared.connections.get(usize::from(self.shard)) {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Gives the other shards what this turn had for them. True where one has no room: it is tried again.
    fn flush_outboxes(&mut self) -> bool {
        let mut refused = false;
        for (shard, peer) in self.peers.iter().enumerate() {
            let shard = shard as u16;
            if let Some(messages) = self.core.poll_outbox(shard)
                && let Err(Delivery::Messages(messages)) = peer.send(Delivery::Messages(messages))
            {
                self.core.handle_outbox_refused(shard, messages);
                refused = true;
            }
        }
        refused
    }

    /// Whether this shard and all others have drained, or their time is up.
    fn is_over(&mut self) -> bool {
        let Some(until) = self.drain_until else { return false };
        if self.core.is_drained() && !self.is_counted {
            self.is_counted = true;
            self.shared.drained.fetch_add(1, Ordering::SeqCst);
            // The others may be parked, waiting for this.
            self.peers.iter().for_each(Sender::ring);
        }
        self.shared.drained.load(Ordering::SeqCst) == self.peers.len() || Instant::now() >= until
    }
}

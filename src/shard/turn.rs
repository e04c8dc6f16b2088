//! A shard's turn: one round of work, the same on glommio and in the simulation.
//!
//! What is in the inbox; the sockets that are ready; what the store has done; what is to be sent; what goes to other shards. A turn
//! decides nothing, the core does; and it knows its surroundings by [`Host`] alone.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::core::Settings;
use super::core::{ConnectionId, Connections, Core, Message};
use super::delivery::{Delivery, Reply};
use super::transport::Transport;
use crate::base::clock::{Now, Step};
use crate::base::millis::Millis;
use crate::latency::Stage;
use crate::store::Store;

/// How long sockets are served before what they brought goes on its way, even if more are ready. Measured: at 500 µs a hop between
/// two saturated shards stays below 1 ms (p99), and a turn still moves megabytes.
const SERVE_MAX: Duration = Duration::from_micros(500);

/// How often in a turn connections may be sent to again before the sockets are looked at.
const TRANSMIT_ROUNDS: usize = 4;

/// The surroundings of a shard: time, sockets, other shards.
pub trait Host {
    /// An accepted connection that no shard serves yet.
    type Accepted;
    /// The socket of a connection.
    type Transport: Transport;

    /// The time since the server's start.
    fn elapsed(&self) -> Duration;

    /// The time.
    fn now(&self) -> Now;

    /// What the wall clock did, if it has jumped since this was asked last.
    fn take_step(&mut self) -> Option<Step>;

    /// Deliveries in the inbox.
    fn inbox_depth(&self) -> usize;

    /// The oldest of them.
    fn poll_inbox(&mut self) -> Option<Delivery<Self::Accepted>>;

    /// Sends messages to another shard. Gives them back if its inbox is full.
    fn send(&mut self, shard: u16, messages: Vec<Message>) -> Result<(), Vec<Message>>;

    /// Appends the slots of the connections that were marked ready.
    fn take_ready(&mut self, slots: &mut Vec<u32>);

    /// Whether a connection was marked ready since.
    fn has_ready(&self) -> bool;

    /// Takes a connection over, in a slot of the shard.
    fn accept(&mut self, accepted: Self::Accepted, slot: u32) -> io::Result<Self::Transport>;

    /// Answers a connection that the shard does not take, and closes it.
    fn refuse(&mut self, accepted: Self::Accepted, why: &str);

    /// A connection that was given to this shard is gone.
    fn count_gone(&mut self);
}

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is more to do at once.
    More,
    /// All that there was is done.
    Worked,
    /// There was nothing.
    Idle,
}

/// A core and its surroundings.
#[derive(Debug)]
pub struct Shard<S, H: Host> {
    number: u16,
    shards: u16,
    core: Core<S>,
    host: H,
    /// By slot.
    sockets: Vec<Option<(ConnectionId, H::Transport)>>,
    /// Slots to be served, in order.
    ready: VecDeque<u32>,
    /// Of the present turn; kept for its room.
    woken: Vec<u32>,
    buffer: Vec<u8>,
    /// Callers that wait until the messages of this turn are on their way to other shards.
    settling: Vec<Reply<()>>,
    settings: Arc<Settings>,
    /// When draining ends at the latest, if it has begun.
    drain_until: Option<Duration>,
}

impl<S: Store<Connections>, H: Host> Shard<S, H> {
    /// Shard number `number` of `shards`.
    pub fn new(number: u16, shards: u16, core: Core<S>, host: H) -> Self {
        let settings = Arc::clone(core.settings());
        Self {
            number,
            shards,
            core,
            host,
            sockets: Vec::new(),
            ready: VecDeque::new(),
            woken: Vec::new(),
            buffer: vec![0; settings.receive_window_bytes],
            settling: Vec::new(),
            settings,
            drain_until: None,
        }
    }

    /// The core.
    pub fn core(&self) -> &Core<S> {
        &self.core
    }

    /// The core, to be changed.
    pub fn core_mut(&mut self) -> &mut Core<S> {
        &mut self.core
    }

    /// The surroundings.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The surroundings, to be changed.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// When draining ends at the latest, by [`Host::elapsed`]; `None` while the shard does not drain.
    pub fn drain_until(&self) -> Option<Duration> {
        self.drain_until
    }

    /// One turn.
    pub fn turn(&mut self) -> Turn {
        let depth = self.host.inbox_depth() as u64;
        if depth > 0 {
            self.core.latency().record(Stage::InboxDepth, depth, 1);
        }
        let mut worked = self.poll_inbox();
        worked |= self.serve();
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
        }
        if let Some(step) = self.host.take_step() {
            self.say_step(step);
        }
        let refused = self.flush_outboxes();
        if !refused {
            self.settling.drain(..).for_each(|reply| reply.give(()));
        }
        // A socket that had more than its part of the turn is ready again. To park would be to return at once, without a pass
        // of the reactor, and nobody else's socket would ever be looked at.
        let is_ready = !self.ready.is_empty() || self.host.has_ready();
        if refused || self.core.has_work() || is_ready {
            Turn::More
        } else if worked {
            Turn::Worked
        } else {
            Turn::Idle
        }
    }

    /// Has the store prepare for the next start, once everything has drained; true once it has.
    pub fn stop(&mut self) -> bool {
        self.poll_inbox();
        // Sockets that are ready are not served any more, and must not keep the store's files from being looked at.
        self.host.take_ready(&mut self.woken);
        self.woken.clear();
        self.core.handle_stop(self.host.now())
    }

    /// Says that the clock has jumped. Every shard notices; one says it.
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
            match self.host.poll_inbox() {
                None => return taken > 0,
                Some(Delivery::Socket(socket, peer)) => self.handle_accepted(socket, peer),
                Some(Delivery::Messages(messages)) => {
                    let now = self.host.now();
                    for message in messages {
                        self.core.handle_message(now, message);
                    }
                }
                // It has woken the shard, which asks its store in every turn.
                Some(Delivery::StoreNews) => {}
                Some(Delivery::Ping(reply)) => reply.give(()),
                Some(Delivery::Settle(reply)) => {
                    self.core.handle_completions(self.host.now());
                    self.settling.push(reply);
                }
                Some(Delivery::Queues(reply)) => {
                    reply.give(self.core.store().queues(self.host.now().unix));
                }
                Some(Delivery::Latency(empty, reply)) => {
                    let full = std::mem::replace(self.core.latency(), empty);
                    reply.give((full, self.core.pulse()));
                }
                Some(Delivery::Traffic(of, reply)) => reply.give(self.core.traffic(&of)),
                Some(Delivery::Snapshot(reply)) => reply.give(self.core.snapshot()),
                Some(Delivery::Drain) => {
                    self.drain_until.get_or_insert(self.host.elapsed() + self.settings.drain_timeout);
                    self.core.handle_drain(self.host.now());
                }
            }
        }
        true
    }

    fn handle_accepted(&mut self, accepted: H::Accepted, peer: Option<SocketAddr>) {
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
                tracing::warn!(%error, "a socket was closed by its peer before it was served");
                self.core.handle_gone(self.host.now(), id);
                self.host.count_gone();
            }
        }
    }

    /// Reads the sockets that are ready, for [`SERVE_MAX`] at most; looks into the inbox between them. True where there were any.
    fn serve(&mut self) -> bool {
        self.host.take_ready(&mut self.woken);
        self.ready.extend(self.woken.drain(..));
        let (any, began) = (!self.ready.is_empty(), self.host.elapsed());
        for served in 0..self.ready.len() {
            if served > 0 {
                if self.host.elapsed() - began >= SERVE_MAX {
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
        let mut now = self.host.now();
        let Some((id, socket)) = self.sockets.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let id = *id;
        socket.clear_mark();
        self.core.handle_writable(id);
        let mut left = self.settings.receive_bytes_per_turn;
        loop {
            let wanted = self.core.wanted_read(now, id, self.buffer.len());
            if wanted == 0 {
                break;
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
                    let host = &self.host;
                    now = self.core.handle_received(now, id, &mut self.buffer[..bytes], || host.now());
                }
            }
        }
        self.core.flush(now, id);
    }

    /// Sends what the connections with something to do have to send.
    fn transmit(&mut self) {
        for _ in 0..self.core.dirty() {
            let Some(id) = self.core.poll_dirty() else { return };
            let now = self.host.now();
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
                        let now = Now::new(self.host.elapsed(), now.unix);
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
        let now = self.host.now();
        if let Some((_, mut socket)) = self.sockets.get_mut(id.slot as usize).and_then(Option::take) {
            socket.shut_down();
            self.host.count_gone();
        }
        self.core.handle_gone(now, id);
    }

    /// Gives the other shards what this turn had for them. True where one has no room: it is tried again.
    fn flush_outboxes(&mut self) -> bool {
        let mut refused = false;
        for shard in 0..self.shards {
            if let Some(messages) = self.core.poll_outbox(shard)
                && let Err(messages) = self.host.send(shard, messages)
            {
                self.core.handle_outbox_refused(shard, messages);
                refused = true;
            }
        }
        refused
    }
}

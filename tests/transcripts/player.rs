//! Plays a conversation with a core and its sockets. Time passes only when a step says so.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use millstream::access::Tenants;
use millstream::base::batch::Fetched;
use millstream::base::clock::Now;
use millstream::base::error::StoreFault;
use millstream::base::millis::Millis;
use millstream::base::queue::Signing;
use millstream::config::ServerConfig;
use millstream::config::table::Entry;
use millstream::shard::core::{ConnectionId, Connections, Core, Peer};
use millstream::store::{Completion, Life, Memory, Request, Store, StoreCounters};

use super::conversation::{Event, Step, Trouble};

/// The key that markers are signed with.
const MARKER_KEY: u128 = 5;

/// The number of rounds after which a conversation that does not settle fails.
const ROUNDS_MAX: usize = 10_000;

/// A memory store whose markers are the same in every run, and that fails on request.
struct ScriptedStore {
    memory: Memory<Connections>,
    timeline: u64,
    trouble: Rc<Cell<Trouble>>,
}

impl Store<Connections> for ScriptedStore {
    fn submit(&mut self, now: Now, request: Request<Connections>) -> Result<(), Request<Connections>> {
        self.memory.submit(now, request)
    }

    fn poll_completion(&mut self, now: Now) -> Option<Completion<Connections>> {
        let fault = match self.trouble.get() {
            Trouble::None => None,
            Trouble::Deleted => Some(StoreFault::Deleted),
            Trouble::Unavailable => Some(StoreFault::Unavailable("the script")),
        };
        Some(match (self.memory.poll_completion(now)?, fault) {
            (Completion::Opened { token, result }, None) => {
                let signing = Signing { key: MARKER_KEY, timeline: self.timeline, is_key_new: false };
                Completion::Opened { token, result: result.map(|life| Life { signing, ..life }) }
            }
            (Completion::Opened { token, .. }, Some(fault)) => {
                Completion::Opened { token, result: Err(fault) }
            }
            (Completion::Appended { token, .. }, Some(fault)) => {
                Completion::Appended { token, result: Err(fault) }
            }
            // A cancelled fetch finds nothing. It does not fail.
            (Completion::Fetched { token, result: Ok(Fetched { batches, .. }) }, Some(fault))
                if !batches.is_empty() =>
            {
                Completion::Fetched { token, result: Err(fault) }
            }
            (completion, _) => completion,
        })
    }

    fn handle_tick(&mut self, now: Now) -> Option<Millis> {
        self.memory.handle_tick(now)
    }

    fn count_for(&mut self, tenants: &Arc<Tenants>) {
        self.memory.count_for(tenants);
    }

    fn counters(&self) -> StoreCounters {
        self.memory.counters()
    }

    fn waiting(&self) -> usize {
        self.memory.waiting()
    }
}

struct Socket {
    id: ConnectionId,
    /// Bytes from the peer that the connection does not read yet.
    unread: Vec<u8>,
    /// Bytes sent since the last step.
    sent: Vec<u8>,
    is_shut: bool,
    /// Whether an event has reported the end of the server's half.
    is_shut_told: bool,
    is_over: bool,
}

/// Plays the steps of a conversation.
pub struct Player {
    config: ServerConfig,
    core: Core<ScriptedStore>,
    now: Now,
    trouble: Rc<Cell<Trouble>>,
    sockets: BTreeMap<String, Socket>,
}

impl Player {
    /// Creates a shard with default settings, except for these.
    pub fn new(settings: &[(String, String)]) -> Self {
        let mut config = ServerConfig::default();
        for (key, text) in settings {
            Entry::find(key)
                .unwrap_or_else(|| panic!("{key}: no such setting"))
                .set(&mut config, text)
                .unwrap();
        }
        let trouble = Rc::default();
        let core = core(&config, 7, 0, &trouble);
        let now = Now::at_ms(1, 1_700_000_000_000);
        Self { config, core, now, trouble, sockets: BTreeMap::new() }
    }

    /// Plays a step. Returns its events, ordered by connection.
    pub fn play(&mut self, step: &Step) -> Vec<Event> {
        let mut events = Vec::new();
        match step {
            Step::Open(name) => match self.core.handle_accepted(self.now, Peer::Unix) {
                Some(id) => {
                    let (unread, sent) = (Vec::new(), Vec::new());
                    let socket =
                        Socket { id, unread, sent, is_shut: false, is_shut_told: false, is_over: false };
                    assert!(self.sockets.insert(name.clone(), socket).is_none(), "{name} is already open");
                }
                None => events.push(Event::Refused(name.clone())),
            },
            Step::In(name, bytes) => {
                self.sockets.get_mut(name).expect("no such connection").unread.extend(bytes);
            }
            Step::Gone(name) => {
                let socket = self.sockets.remove(name).expect("no such connection");
                self.core.handle_gone(self.now, socket.id);
            }
            Step::Wait(ms) => self.wait(*ms),
            Step::Drain => self.core.handle_drain(self.now),
            Step::Trouble(trouble) => self.trouble.set(*trouble),
            Step::Restart { incarnation, timeline } => {
                self.sockets.clear();
                self.core = core(&self.config, *incarnation, *timeline, &self.trouble);
            }
        }
        self.settle();
        for (name, socket) in &mut self.sockets {
            if !socket.sent.is_empty() {
                events.push(Event::Out(name.clone(), std::mem::take(&mut socket.sent)));
            }
            if socket.is_over {
                events.push(Event::Over(name.clone()));
            } else if socket.is_shut && !std::mem::replace(&mut socket.is_shut_told, true) {
                events.push(Event::Shut(name.clone()));
            }
        }
        self.sockets.retain(|_, socket| !socket.is_over);
        events
    }

    /// Lets time pass, from one deadline to the next.
    fn wait(&mut self, ms: u64) {
        let until = self.now.mono + Millis::new(ms);
        for _ in 0..ROUNDS_MAX {
            let due = self.core.next_deadline().filter(|due| *due < until).unwrap_or(until);
            self.now = self.now.later(due.since(self.now.mono));
            self.settle();
            if due == until {
                return;
            }
        }
        panic!("a deadline must pass");
    }

    /// Does all pending work in the order of the driver.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let has_read = self.read();
            self.core.handle_completions(self.now);
            if self.core.next_deadline().is_some_and(|due| due <= self.now.mono) {
                self.core.handle_timeouts(self.now);
            }
            if !self.core.has_work() && !has_read {
                return;
            }
            self.transmit();
        }
        panic!("the conversation must settle");
    }

    /// Reads what the connections want. Returns false if they want nothing.
    fn read(&mut self) -> bool {
        let mut any = false;
        for socket in self.sockets.values_mut().filter(|socket| !socket.unread.is_empty() && !socket.is_over)
        {
            loop {
                let wanted = self.core.wanted_read(self.now, socket.id, socket.unread.len());
                if wanted == 0 {
                    break;
                }
                any = true;
                let mut piece: Vec<u8> = socket.unread.drain(..wanted).collect();
                let now = self.now;
                self.core.handle_received(now, socket.id, &mut piece, || now);
            }
            self.core.flush(self.now, socket.id);
        }
        any
    }

    fn transmit(&mut self) {
        for _ in 0..self.core.dirty() {
            let Some(id) = self.core.poll_dirty() else { return };
            let Some(socket) = self.sockets.values_mut().find(|socket| socket.id == id && !socket.is_over)
            else {
                continue;
            };
            let bytes = self.core.poll_transmit(self.now, id);
            let length = bytes.len();
            socket.sent.extend_from_slice(bytes);
            if length > 0 {
                self.core.handle_sent(self.now, id, length, true);
            }
            let (sent_all, over) = self.core.closing(self.now, id);
            if over {
                socket.is_over = true;
                self.core.handle_gone(self.now, id);
            } else {
                socket.is_shut |= sent_all;
            }
        }
    }
}

fn core(
    config: &ServerConfig,
    incarnation: u64,
    timeline: u64,
    trouble: &Rc<Cell<Trouble>>,
) -> Core<ScriptedStore> {
    let settings = Arc::new(config.shard.core.clone());
    let tenants = Arc::new(Tenants::new(config.shard.projects));
    let memory = &config.shard.store.memory;
    let memory = Memory::new(memory.bytes, memory.when_full, incarnation);
    let store = ScriptedStore { memory, timeline, trouble: trouble.clone() };
    Core::new(0, 1, settings, tenants, store)
}

//! Tests the order and the length of a shard's turns in virtual time: consumers that read a backlog beside one
//! that is caught up, and clients with an encoding as expensive as TLS.
//!
//! Only writing to a socket takes time, by its bytes, and each step of a TLS handshake.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream::access::{ProjectLimits, Tenants};
use millstream::base::clock::{Now, Step};
use millstream::base::millis::{Millis, UnixMillis};
use millstream::pb::{
    ConsumeRequest, ConsumeSetupRequest, ProduceRequest, ProduceSetupRequest, SetupRequest,
};
use millstream::shard::core::{Connections, Core, Letter, Settings};
use millstream::shard::delivery::Delivery;
use millstream::shard::transport::Transport;
use millstream::shard::turn::{Host, Shard, Turn};
use millstream::store::memory::{Memory, WhenFull};
use prost::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::random::Random;
use super::{HANDSHAKE, masked};

/// The most bytes that one connection sends at once, by the settings of these tests, and the time that it takes.
const VISIT_BYTES: usize = 64 << 10;
const VISIT: Duration = Duration::from_nanos((VISIT_BYTES as u64) * BYTE_NS);
const BYTE_NS: u64 = 4;

/// The longest time for which a turn goes on to serve consumers that are behind.
const BEHIND_MAX: Duration = Duration::from_micros(500);

/// The longest time for which a turn goes on with steps of handshakes.
const HANDSHAKE_MAX: Duration = Duration::from_micros(50);

/// The most bytes of a TLS record.
const RECORD_BYTES_MAX: usize = (16 << 10) + 2_048 + 5;

/// The number of consumers that read the backlog.
const READERS: usize = 10;

/// Both directions of a connection, as the peer sees them.
#[derive(Debug, Default)]
struct Peer {
    up: VecDeque<u8>,
    /// The number of bytes that the server has sent, and when it sent the last of them.
    down: usize,
    sent: Duration,
    slot: Option<u32>,
    encoding: Option<Encoding>,
}

/// The encoding of a connection, which stands for TLS.
#[derive(Clone, Debug)]
struct Encoding {
    /// The bytes on the wire of each byte.
    wire_per_byte: usize,
    /// How long a step of the handshake takes. The handshake never ends. `None` if it has ended.
    step: Option<Duration>,
    /// The steps of the handshake so far.
    steps: usize,
    /// The bytes on the wire of the last read, and of all.
    taken: usize,
    taken_by_all: usize,
}

/// What all connections share: the time, and the slots that are ready.
#[derive(Clone, Debug, Default)]
struct World {
    time: Rc<Cell<Duration>>,
    ready: Rc<RefCell<Vec<u32>>>,
    inbox: Rc<RefCell<VecDeque<Rc<RefCell<Peer>>>>>,
}

#[derive(Debug)]
struct Wire {
    peer: Rc<RefCell<Peer>>,
    world: World,
    slot: u32,
}

impl Transport for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let peer = &mut *self.peer.borrow_mut();
        let mut count = buffer.len().min(peer.up.len());
        if let Some(encoding) = &mut peer.encoding {
            if let Some(step) = encoding.step {
                self.world.time.set(self.world.time.get() + step);
                encoding.steps += 1;
                return Ok(None);
            }
            count = count.min(buffer.len().max(RECORD_BYTES_MAX) / encoding.wire_per_byte);
            encoding.taken = count * encoding.wire_per_byte;
            encoding.taken_by_all += encoding.taken;
        }
        for (to, from) in buffer.iter_mut().zip(peer.up.drain(..count)) {
            *to = from;
        }
        Ok((count > 0).then_some(count))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let time = &self.world.time;
        time.set(time.get() + Duration::from_nanos(bytes.len() as u64 * BYTE_NS));
        let mut peer = self.peer.borrow_mut();
        peer.down += bytes.len();
        peer.sent = time.get();
        Ok(bytes.len())
    }

    fn is_readable(&self) -> bool {
        !self.peer.borrow().up.is_empty()
    }

    fn shut_down(&mut self) {}

    fn mark(&self) {
        self.world.mark(self.slot);
    }

    fn clear_mark(&mut self) {}

    fn is_encoded(&self) -> bool {
        self.peer.borrow().encoding.is_some()
    }

    fn is_handshaking(&self) -> bool {
        self.peer.borrow().encoding.as_ref().is_some_and(|encoding| encoding.step.is_some())
    }

    fn wire_bytes_read(&self) -> usize {
        self.peer.borrow().encoding.as_ref().map_or(0, |encoding| encoding.taken)
    }
}

impl World {
    fn mark(&self, slot: u32) {
        let mut ready = self.ready.borrow_mut();
        if !ready.contains(&slot) {
            ready.push(slot);
        }
    }
}

impl Host for World {
    type Accepted = Rc<RefCell<Peer>>;
    type Transport = Wire;

    fn elapsed(&self) -> Duration {
        self.time.get()
    }

    fn now(&self) -> Now {
        let unix = UnixMillis::new(1_700_000_000_000) + Millis::from(self.time.get());
        Now::new(self.time.get(), unix)
    }

    fn take_step(&mut self) -> Option<Step> {
        None
    }

    fn inbox_depth(&self) -> usize {
        self.inbox.borrow().len()
    }

    fn poll_inbox(&mut self) -> Option<Delivery<Self::Accepted>> {
        self.inbox
            .borrow_mut()
            .pop_front()
            .map(|peer| Delivery::Socket(peer, millstream::shard::core::Peer::Unix))
    }

    fn send(&mut self, _: u16, letters: Vec<Letter>) -> Result<(), Vec<Letter>> {
        Err(letters)
    }

    fn take_ready(&mut self, slots: &mut Vec<u32>) {
        slots.append(&mut self.ready.borrow_mut());
    }

    fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    fn accept(&mut self, peer: Self::Accepted, slot: u32) -> io::Result<Wire> {
        peer.borrow_mut().slot = Some(slot);
        Ok(Wire { peer, world: self.clone(), slot })
    }

    fn refuse(&mut self, _: Self::Accepted, why: &str) {
        panic!("{why}");
    }

    fn count_gone(&mut self) {
        panic!("no connection ends");
    }
}

/// A client of the shard.
#[derive(Clone, Debug)]
struct Client {
    peer: Rc<RefCell<Peer>>,
    world: World,
    has_begun: Cell<bool>,
}

impl Client {
    fn say(&self, bytes: &[u8]) {
        let mut peer = self.peer.borrow_mut();
        peer.up.extend(bytes);
        if let Some(slot) = peer.slot {
            self.world.mark(slot);
        }
    }

    /// Sends pbs of a half that stays open.
    fn pb(&self, pb: &impl Message) {
        let opcode = if self.has_begun.replace(true) { Data::Continue } else { Data::Binary };
        let frame = Frame::message(pb.encode_length_delimited_to_vec(), OpCode::Data(opcode), false);
        let mut bytes = Vec::new();
        masked(frame, &mut Random(1), &mut bytes);
        self.say(&bytes);
    }

    fn produce(&self, messages: usize, size: usize) {
        let payloads = vec![Bytes::from(vec![b'x'; size]); messages];
        self.pb(&ProduceRequest { ttl: Some(3_600), payloads, keys: vec![], ..Default::default() });
    }

    fn down(&self) -> usize {
        self.peer.borrow().down
    }
}

struct Bench {
    shard: Shard<Memory<Connections>, World>,
    world: World,
}

impl Bench {
    fn new() -> Self {
        let mut settings = Settings { partitions: 1, ..Settings::default() };
        settings.operation.send_buffer_bytes = VISIT_BYTES / 2;
        settings.operation.consume_batch_bytes = VISIT_BYTES / 4;
        settings.operation.fetch_bytes = VISIT_BYTES / 2;
        settings.operation.append_batch_bytes = 4 << 10;
        let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
        let store = Memory::new(64 << 20, WhenFull::Refuse, 7);
        let world = World::default();
        let core = Core::new(0, 1, Arc::new(settings), tenants, store);
        Self { shard: Shard::new(0, 1, core, world.clone()), world }
    }

    fn connect(&mut self) -> Client {
        let peer = Rc::new(RefCell::new(Peer::default()));
        self.world.inbox.borrow_mut().push_back(peer.clone());
        let client = Client { peer, world: self.world.clone(), has_begun: Cell::new(false) };
        client.say(HANDSHAKE.as_bytes());
        client
    }

    fn producer(&mut self, queue: &str) -> Client {
        let client = self.connect();
        let append = ProduceSetupRequest { queue_name: Some(queue.into()) };
        client.pb(&SetupRequest { append: Some(append), get: None, claim: None });
        client
    }

    fn consumer(&mut self, queue: &str) -> Client {
        let client = self.connect();
        let get = ConsumeSetupRequest {
            queue_name: Some(queue.into()),
            echo_requested: Some(true),
            ..Default::default()
        };
        client.pb(&SetupRequest { get: Some(get), append: None, claim: None });
        client.pb(&ConsumeRequest { max_msgnum_to_send: Some(1 << 40), ..Default::default() });
        client
    }

    /// Runs turns until no work is left.
    fn settle(&mut self) {
        while self.shard.turn() == Turn::More {}
    }

    /// Stores `bytes` in a queue, in messages of 1,000 bytes.
    fn store(&mut self, queue: &str, bytes: usize) {
        let producer = self.producer(queue);
        self.settle();
        for _ in 0..bytes / 100_000 {
            producer.produce(100, 1_000);
            self.settle();
        }
    }

    /// Runs a turn. Returns how long it took.
    fn turn(&mut self) -> Duration {
        let began = self.world.time.get();
        self.shard.turn();
        self.world.time.get() - began
    }
}

#[test]
fn a_consumer_that_is_caught_up_is_served_before_those_that_are_behind() {
    let mut bench = Bench::new();
    bench.store("old", 6_000_000);
    let live = bench.consumer("new");
    let producer = bench.producer("new");
    bench.settle();
    let readers: Vec<Client> = (0..READERS).map(|_| bench.consumer("old")).collect();
    // The setups of the readers.
    bench.turn();
    bench.turn();
    for turns in 0..200 {
        let before: Vec<usize> = readers.iter().map(Client::down).collect();
        let (began, had) = (bench.world.time.get(), live.down());
        producer.produce(1, 100);
        let took = bench.turn();
        // The acknowledgement, and the message for the live consumer.
        assert!(live.down() > had, "turn {turns}: the message was not delivered in the turn that stored it");
        let waited = live.peer.borrow().sent - began;
        assert!(waited < VISIT / 4, "turn {turns}: the message waited for {waited:?}");
        // No turn is long, and each serves readers, in turn.
        assert!(took < BEHIND_MAX + VISIT + VISIT / 4, "turn {turns} took {took:?}");
        let after: Vec<usize> = readers.iter().map(Client::down).collect();
        assert!(before != after, "turn {turns}: no reader was served");
        let (least, most) = (after.iter().min().unwrap(), after.iter().max().unwrap());
        assert!(most - least <= 2 * VISIT_BYTES, "turn {turns}: readers got {after:?} bytes");
    }
    let least = readers.iter().map(Client::down).min().unwrap();
    assert!((1_000_000..6_000_000).contains(&least), "the readers went on, and were behind: {least}");
    // They get everything, and are then served like the live consumer.
    bench.settle();
    assert!(readers.iter().all(|reader| reader.down() > 6_000_000));
}

#[test]
fn consumers_that_are_behind_go_on_while_others_fill_every_turn() {
    let mut bench = Bench::new();
    bench.store("old", 3_000_000);
    // Each message goes to so many consumers that sending it takes longer than a turn gives to those that are
    // behind.
    let live: Vec<Client> = (0..2 * READERS).map(|_| bench.consumer("new")).collect();
    let producer = bench.producer("new");
    bench.settle();
    let readers: Vec<Client> = (0..READERS).map(|_| bench.consumer("old")).collect();
    bench.turn();
    bench.turn();
    for turns in 0..100 {
        let before: usize = readers.iter().map(Client::down).sum();
        let had: Vec<usize> = live.iter().map(Client::down).collect();
        producer.produce(1, VISIT_BYTES / 4);
        let took = bench.turn();
        assert!(took > 2 * BEHIND_MAX, "turn {turns} took only {took:?}");
        assert!(live.iter().zip(had).all(|(live, had)| live.down() > had), "turn {turns}");
        let after: usize = readers.iter().map(Client::down).sum();
        assert!(after > before, "turn {turns}: no reader was served");
    }
    let most = readers.iter().map(Client::down).max().unwrap();
    let least = readers.iter().map(Client::down).min().unwrap();
    assert!(most - least <= 2 * VISIT_BYTES, "{least} to {most} bytes");
    assert!(most < 3_000_000, "the readers were behind: {most}");
}

#[test]
fn a_turn_reads_no_more_of_tiny_records_than_of_large_ones() {
    let mut bench = Bench::new();
    let producer = bench.producer("queue");
    bench.settle();
    let encoding = Encoding { wire_per_byte: 23, step: None, steps: 0, taken: 0, taken_by_all: 0 };
    producer.peer.borrow_mut().encoding = Some(encoding);
    let per_turn = Settings::default().receive_bytes_per_turn;
    producer.produce(per_turn / 1_000, 1_000);
    let mut turns = 0;
    let mut before = 0;
    while !producer.peer.borrow().up.is_empty() {
        bench.turn();
        let taken = producer.peer.borrow().encoding.as_ref().unwrap().taken_by_all;
        assert!(taken - before <= per_turn + RECORD_BYTES_MAX, "{} bytes in a turn", taken - before);
        assert!(taken > before, "the connection is served in every turn");
        (turns, before) = (turns + 1, taken);
    }
    assert!(turns >= 20, "{turns} turns");
}

/// Runs a turn while `count` clients are in the middle of a handshake, each of whose steps takes `step`. Returns
/// how many steps were made.
fn steps(count: usize, step: Duration) -> usize {
    let mut bench = Bench::new();
    let clients: Vec<Client> = (0..count).map(|_| bench.connect()).collect();
    let encoding = Encoding { wire_per_byte: 1, step: Some(step), steps: 0, taken: 0, taken_by_all: 0 };
    for client in &clients {
        client.peer.borrow_mut().encoding = Some(encoding.clone());
    }
    bench.turn();
    clients.iter().map(|client| client.peer.borrow().encoding.as_ref().unwrap().steps).sum()
}

#[test]
fn strangers_that_drip_bytes_delay_no_handshake_by_turns() {
    assert_eq!(steps(20, HANDSHAKE_MAX / 25), 20);
    assert_eq!(steps(100, HANDSHAKE_MAX / 25), 25, "until the time is used up");
    assert_eq!(steps(20, HANDSHAKE_MAX * 6), 1, "expensive steps are made one by one");
}

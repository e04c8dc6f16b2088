//! The real clients on a simulated connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use millstream::base::batch::Record;
use millstream::base::names::ClientId;
use millstream::client::session::ConsumeOptions;
use millstream::client::{
    Application, Block, ClientError, Consume, Next, Produce, Resume, Sink, Source, Target, Wire,
};
use millstream::pb::ReceivedMessage;
use millstream::shard::core::ConnectionId;

use super::model::Model;
use super::random::Random;

/// One message as a consumer saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: String,
    pub payload: Vec<u8>,
    pub key: Vec<u8>,
    pub age: u32,
    pub ttl: u32,
    pub timestamp_ms: i64,
}

/// Blocks that are there from the beginning.
pub struct Blocks {
    left: VecDeque<Block>,
    pub acknowledged: Arc<AtomicU64>,
}

impl Source for Blocks {
    fn poll_block(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Block>> {
        Poll::Ready(self.left.pop_front())
    }

    fn handle_acknowledged(&mut self, count: u64) {
        self.acknowledged.fetch_add(count, Ordering::Relaxed);
    }
}

/// Everything that came.
pub struct Log {
    pub seen: Vec<Seen>,
    pub stop: Arc<AtomicBool>,
}

impl Sink for Log {
    fn handle(&mut self, message: &ReceivedMessage<'_>) {
        self.seen.push(Seen {
            id: message.id.to_owned(),
            payload: message.payload.unwrap_or_default().to_vec(),
            key: message.key.unwrap_or_default().to_vec(),
            age: message.age,
            ttl: message.ttl,
            timestamp_ms: message.timestamp_ms.expect("every message has a timestamp"),
        });
    }

    fn poll_stop(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        if self.stop.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

pub enum Role {
    Producer(Produce<Blocks>),
    Consumer(Consume<Log>),
    /// Sends whatever comes to its mind, and is not asked how it fares.
    Vandal,
}

/// Both directions of a connection, and where its server side is.
pub struct Link {
    pub shard: usize,
    pub id: ConnectionId,
    pub wire: Wire,
    pub up: VecDeque<u8>,
    pub down: VecDeque<u8>,
    /// The server will send no more; it goes when `down` is empty.
    pub ended: bool,
    /// The server waits for room in `down`.
    pub full: bool,
}

pub struct Client {
    pub role: Role,
    pub target: Target,
    pub link: Option<Link>,
}

impl Client {
    fn new(role: Role, client: u128) -> Self {
        let target = Target::parse("ws://simulated/", None, Some(ClientId::from(client))).expect("a URL");
        Self { role, target, link: None }
    }

    pub fn producer(
        client: u128,
        queue: &str,
        payloads: &[Vec<u8>],
        batch: usize,
        random: &mut Random,
    ) -> Self {
        let mut left = VecDeque::new();
        let mut rest = payloads;
        while !rest.is_empty() {
            let (some, later) = rest.split_at(random.between(1, rest.len().min(40)));
            let mut block = Block::default();
            some.iter().for_each(|payload| block.push(Record { key: Model::key(payload), payload }));
            left.push_back(block);
            rest = later;
        }
        let blocks = Blocks { left, acknowledged: Arc::default() };
        let batch = random.between(1, batch);
        Self::new(Role::Producer(Produce::new(queue.into(), Model::TTL, batch, blocks)), client)
    }

    pub fn consumer(client: u128, queue: &str, echo: bool, count: Option<u64>, random: &mut Random) -> Self {
        let window = random.between(100, 400) as u64;
        let options = ConsumeOptions { queue: queue.into(), from: String::new(), echo, window, count };
        let log = Log { seen: Vec::new(), stop: Arc::default() };
        Self::new(Role::Consumer(Consume::new(options, log)), client)
    }

    pub fn vandal(client: u128) -> Self {
        Self::new(Role::Vandal, client)
    }

    pub fn is_complete(&self) -> bool {
        match &self.role {
            Role::Producer(produce) => produce.is_complete(),
            Role::Consumer(consume) => consume.is_complete(),
            Role::Vandal => true,
        }
    }

    /// Whether it is a producer that has not ended.
    pub fn is_producing(&self) -> bool {
        matches!(self.role, Role::Producer(_)) && !self.is_complete()
    }

    pub fn reset(&mut self) {
        self.link = None;
        match &mut self.role {
            Role::Producer(produce) => produce.reset(),
            Role::Consumer(consume) => consume.reset(),
            Role::Vandal => {}
        }
    }

    /// Bytes from the server; then what the client has to say. `Done` where it needs the connection no longer.
    pub fn handle_received(&mut self, bytes: &mut [u8]) -> Result<Next, ClientError> {
        let Self { role, link: Some(link), .. } = self else { return Ok(Next::Wait) };
        link.wire.handle_received(bytes, |piece, fin| match role {
            Role::Producer(produce) => produce.handle_data(piece, fin),
            Role::Consumer(consume) => consume.handle_data(piece, fin),
            Role::Vandal => Ok(()),
        })?;
        self.poll()
    }

    /// Lets the application write.
    pub fn poll(&mut self) -> Result<Next, ClientError> {
        let Self { role, link: Some(link), .. } = self else { return Ok(Next::Wait) };
        let mut next = Next::Wait;
        if link.wire.is_open() {
            let cx = &mut Context::from_waker(Waker::noop());
            next = match role {
                Role::Producer(produce) => produce.poll(cx, &mut link.wire)?,
                Role::Consumer(consume) => consume.poll(cx, &mut link.wire)?,
                Role::Vandal => Next::Wait,
            };
        }
        link.up.extend(link.wire.out.drain(..));
        Ok(next)
    }
}

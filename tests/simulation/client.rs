//! The real clients on a simulated connection.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use millstream::base::batch::Record;
use millstream::base::names::ClientId;
use millstream::client::session::ConsumeOptions;
use millstream::client::{
    Application, Block, Claim, ClientError, Consume, Next, Produce, Resume, Sink, Source, Target, Wire,
};
use millstream::pb::ReceivedMessage;

use super::clock::Clock;
use super::crew::Hand;
use super::model::{Asked, Handed, Model, Seen};
use super::pipe::{Pipe, ServerEnd, Shared};
use super::random::Random;
use super::tunnel::Tunnel;

/// A producer's blocks, all available from the start.
pub struct Blocks {
    left: VecDeque<Block>,
    /// When each message was passed to the client.
    handed: Handed,
    clock: Clock,
}

impl Source for Blocks {
    fn poll_block(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Block>> {
        let block = self.left.pop_front();
        let count = block.as_ref().map_or(0, Block::len);
        self.handed.borrow_mut().extend(std::iter::repeat_n(self.clock.true_unix(), count));
        Poll::Ready(block)
    }

    fn handle_acknowledged(&mut self, _count: u64) {}
}

/// Collects everything that a consumer receives.
pub struct Seeing {
    pub seen: Vec<Seen>,
    pub stop: Rc<Cell<bool>>,
    clock: Clock,
}

impl Sink for Seeing {
    fn handle(&mut self, message: &ReceivedMessage<'_>) {
        self.seen.push(Seen {
            id: message.id.to_owned(),
            payload: message.payload.unwrap_or_default().to_vec(),
            key: message.key.unwrap_or_default().to_vec(),
            age: message.age,
            ttl: message.ttl,
            timestamp_ms: message.timestamp_ms.expect("a message must have a timestamp"),
            came: self.clock.true_unix(),
        });
    }

    fn poll_stop(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        if self.stop.get() { Poll::Ready(()) } else { Poll::Pending }
    }
}

pub enum Role {
    Producer(Produce<Blocks>),
    Consumer(Consume<Seeing>, Asked),
    Worker(Box<Claim<Hand>>),
    /// Sends random bytes. Its results do not matter.
    Vandal,
}

/// A connection, and the bytes that the client still has to send.
pub struct Link {
    pub pipe: Shared,
    wire: Wire,
    out: VecDeque<u8>,
    /// TLS between the wire and the pipe.
    tunnel: Option<Tunnel>,
}

pub struct Client {
    pub role: Role,
    target: Target,
    pub link: Option<Link>,
}

impl Client {
    fn new(role: Role, client: u128) -> Self {
        let target = Target::parse("ws://simulated/", None, Some(ClientId::from(client))).expect("a URL");
        Self { role, target, link: None }
    }

    /// Creates the model's producer with this number.
    pub fn producer(
        model: &Model,
        number: usize,
        queue: &str,
        batch: usize,
        clock: &Clock,
        random: &mut Random,
    ) -> Self {
        let mut left = VecDeque::new();
        let producer = &model.producers[number];
        let mut rest = &producer.payloads[..];
        while !rest.is_empty() {
            let (some, later) = rest.split_at(random.between(1, rest.len().min(40)));
            let mut block = Block::default();
            some.iter().for_each(|payload| block.push(Record::keyed(Model::key(payload), payload)));
            left.push_back(block);
            rest = later;
        }
        let blocks = Blocks { left, handed: producer.handed.clone(), clock: clock.clone() };
        let batch = random.between(1, batch);
        let produce = Produce::new(queue.into(), Some(producer.ttl), batch, blocks);
        Self::new(Role::Producer(produce), producer.client)
    }

    pub fn consumer(asked: Asked, queue: &str, clock: &Clock, random: &mut Random) -> Self {
        let window = random.between(100, 400) as u64;
        let (queue, from) = (queue.into(), String::new());
        let options = ConsumeOptions { queue, from, echo: asked.echo, window, count: asked.count };
        let sink = Seeing { seen: Vec::new(), stop: Rc::default(), clock: clock.clone() };
        let client = asked.client;
        Self::new(Role::Consumer(Consume::new(options, sink), asked), client)
    }

    pub fn worker(claim: Claim<Hand>, client: u128) -> Self {
        Self::new(Role::Worker(Box::new(claim)), client)
    }

    pub fn vandal(client: u128) -> Self {
        Self::new(Role::Vandal, client)
    }

    pub fn is_complete(&self) -> bool {
        match &self.role {
            Role::Producer(produce) => produce.is_complete(),
            Role::Consumer(consume, _) => consume.is_complete(),
            Role::Worker(claim) => claim.is_complete(),
            Role::Vandal => true,
        }
    }

    /// Returns whether this is a producer that has not ended.
    pub fn is_producing(&self) -> bool {
        matches!(self.role, Role::Producer(_)) && !self.is_complete()
    }

    /// Connects through a pipe that the server has accepted, with TLS if `is_secure`.
    pub fn connect(&mut self, pipe: Shared, is_secure: bool) {
        let tunnel = is_secure.then(Tunnel::new);
        self.link = Some(Link { pipe, wire: Wire::start(&self.target), out: VecDeque::new(), tunnel });
    }

    /// Closes the connection, if it is open.
    pub fn cut(&mut self) {
        let Some(link) = self.link.take() else { return };
        link.pipe.borrow_mut().close();
        match &mut self.role {
            Role::Producer(produce) => produce.reset(),
            Role::Consumer(consume, _) => consume.reset(),
            Role::Worker(claim) => claim.reset(),
            Role::Vandal => {}
        }
    }

    /// Sends up to `most` bytes. Returns false if there was nothing to send or no room.
    pub fn send(&mut self, most: usize) -> bool {
        let Some(link) = &mut self.link else { return false };
        link.pipe.borrow_mut().send(&mut link.out, most) > 0
    }

    /// Receives up to `most` bytes and handles them. Returns false if nothing happened.
    pub fn receive(&mut self, most: usize) -> bool {
        let Some(link) = &self.link else { return false };
        let (mut bytes, server) = {
            let mut pipe = link.pipe.borrow_mut();
            (Pipe::receive(&mut pipe, most), pipe.server)
        };
        if bytes.is_empty() {
            if server != ServerEnd::Open {
                self.cut();
            }
            return self.link.is_none();
        }
        if let Some(Link { tunnel: Some(tunnel), .. }) = &mut self.link {
            match tunnel.receive(&bytes) {
                Ok(plain) => bytes = plain,
                Err(_) => {
                    self.cut();
                    return true;
                }
            }
        }
        match self.handle_received(&mut bytes) {
            Ok(Next::Done) | Err(_) => self.cut(),
            Ok(_) => self.poll(),
        }
        true
    }

    /// Lets the producer or consumer write.
    pub fn poll(&mut self) {
        loop {
            match self.poll_once() {
                Ok(Next::Done) | Err(_) => return self.cut(),
                Ok(Next::Again) => {}
                Ok(_) => return,
            }
        }
    }

    /// Lets an idle vandal send some random bytes.
    pub fn vandalize(&mut self, random: &mut Random) {
        if let Self { role: Role::Vandal, link: Some(link), .. } = self
            && link.wire.is_open()
            && link.out.is_empty()
        {
            let count = random.below(200);
            link.wire.out.extend((0..count).map(|_| random.next() as u8));
        } else {
            return;
        }
        self.poll();
    }

    fn handle_received(&mut self, bytes: &mut [u8]) -> Result<Next, ClientError> {
        let Self { role, link: Some(link), .. } = self else { return Ok(Next::Wait) };
        link.wire.handle_received(bytes, |piece, fin| match role {
            Role::Producer(produce) => produce.handle_data(piece, fin),
            Role::Consumer(consume, _) => consume.handle_data(piece, fin),
            Role::Worker(claim) => claim.handle_data(piece, fin),
            Role::Vandal => Ok(()),
        })?;
        Ok(Next::Wait)
    }

    fn poll_once(&mut self) -> Result<Next, ClientError> {
        let Self { role, link: Some(link), .. } = self else { return Ok(Next::Wait) };
        let mut next = Next::Wait;
        if link.wire.is_open() {
            let cx = &mut Context::from_waker(Waker::noop());
            next = match role {
                Role::Producer(produce) => produce.poll(cx, &mut link.wire)?,
                Role::Consumer(consume, _) => consume.poll(cx, &mut link.wire)?,
                Role::Worker(claim) => claim.poll(cx, &mut link.wire)?,
                Role::Vandal => Next::Wait,
            };
        }
        match &mut link.tunnel {
            None => link.out.extend(link.wire.out.drain(..)),
            // A session that has failed ends the connection when its next bytes come.
            Some(tunnel) => drop(tunnel.send(&mut link.wire.out, &mut link.out)),
        }
        Ok(next)
    }
}

//! A queue that is deleted now and then, as the control port does it, and a judge of what its clients see.
//!
//! Each client has one connection, and never connects again. So a message that was acknowledged before a deletion began has no copy under
//! way, and no consumer that connects after the deletion was answered may see it. A message of a producer that connected after the answer
//! is there until the next deletion begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, channel};

use millstream::base::error::StoreFault;
use millstream::base::names::{FullName, Project, QueueName};
use millstream::shard::core::Deleted;
use millstream::shard::delivery::Reply;

use super::client::{Client, Role};
use super::clock::Clock;
use super::model::{Asked, Model, Seen};
use super::pipe::Pipe;
use super::random::Random;
use super::server::Server;

const QUEUE: &str = "doomed";

/// Bytes that a connection holds in each direction.
const PIPE_BYTES: usize = 20_000;

/// Clients of either kind at once.
const CLIENTS_MAX: usize = 2;

/// What is known of a message that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It is there.
    Stored,
    /// It is there if all others of that number are: the server ended before it answered the deletion of their queue.
    WithAll(u32),
    /// It is there, or it is not.
    Unknown,
    /// It was deleted.
    Gone,
}

impl Fate {
    fn may_be_stored(self) -> bool {
        matches!(self, Self::Stored | Self::WithAll(_))
    }
}

struct Producer {
    client: Client,
    /// In the model.
    number: usize,
    /// How many of its acknowledgments are noted.
    noted: usize,
    /// Messages that are acknowledged from now on may be in a deleted queue.
    is_late: bool,
}

struct Consumer {
    client: Client,
    /// What was deleted before it came.
    gone: BTreeSet<Vec<u8>>,
    /// How many of its messages were judged.
    judged: usize,
}

/// See the module's page.
pub struct Doomed {
    random: Random,
    clock: Clock,
    /// The producers, and what each sends.
    model: Model,
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    fates: BTreeMap<Vec<u8>, Fate>,
    /// The number of deletions that were never answered.
    unanswered: u32,
    /// A deletion that was asked for.
    deletion: Option<Receiver<Result<Deleted, StoreFault>>>,
    /// The deletion was asked for after the order to drain.
    must_be_refused: bool,
    /// Messages that are stored may be hidden, as clocks are wrong.
    may_hide: bool,
}

fn name() -> FullName {
    (Project::parse("default").unwrap(), QueueName::parse(QUEUE).unwrap())
}

fn seen(client: &Client) -> &[Seen] {
    match &client.role {
        Role::Consumer(consume, _) => &consume.sink.seen,
        _ => &[],
    }
}

impl Doomed {
    pub fn new(random: Random, clock: Clock, may_hide: bool) -> Self {
        Self {
            random,
            clock,
            model: Model::new(usize::MAX, false),
            producers: Vec::new(),
            consumers: Vec::new(),
            fates: BTreeMap::new(),
            unanswered: 0,
            deletion: None,
            must_be_refused: false,
            may_hide,
        }
    }

    fn clients(&mut self) -> impl Iterator<Item = &mut Client> {
        let producers = self.producers.iter_mut().map(|producer| &mut producer.client);
        producers.chain(self.consumers.iter_mut().map(|consumer| &mut consumer.client))
    }

    /// One thing, drawn by lot.
    pub fn step(&mut self, server: &Server) -> Result<(), String> {
        match self.random.below(16) {
            0 if self.producers.len() < CLIENTS_MAX => self.produce(server),
            1 if self.consumers.len() < CLIENTS_MAX => self.consume(server),
            2 if self.deletion.is_none() && self.random.one_in(10) => self.delete(server),
            3 if self.random.one_in(8) => self.leave(),
            4..=9 => {
                self.send_and_receive();
            }
            _ => {}
        }
        self.look()
    }

    /// Everything once. False where there was nothing to do.
    pub fn pass(&mut self) -> bool {
        self.send_and_receive()
    }

    fn send_and_receive(&mut self) -> bool {
        let (up, down) = (self.random.between(1, 5_000), self.random.between(1, 8_000));
        let mut progress = false;
        for client in self.clients() {
            progress |= client.send(up);
            progress |= client.receive(down);
        }
        progress
    }

    fn connect(&mut self, server: &Server, client: &mut Client) -> bool {
        let pipe = Pipe::new(PIPE_BYTES);
        let is_accepted = server.accept(self.random.below(server.shards()), pipe.clone());
        if is_accepted {
            client.connect(pipe);
            client.poll();
        }
        is_accepted
    }

    fn produce(&mut self, server: &Server) {
        let number = self.model.producers.len();
        let payloads = (0..self.random.between(1, 60)).map(|sequence| format!("doomed {number}/{sequence}"));
        self.model.add(900 + number as u128, Model::TTL, payloads.map(String::into_bytes).collect());
        let mut client = Client::producer(&self.model, number, QUEUE, 10, &self.clock, &mut self.random);
        if self.connect(server, &mut client) {
            let is_late = self.deletion.is_some();
            self.producers.push(Producer { client, number, noted: 0, is_late });
        }
    }

    fn consume(&mut self, server: &Server) {
        let asked = Asked::new(800, true, None);
        let mut client = Client::consumer(asked, QUEUE, &self.clock, &mut self.random);
        if self.connect(server, &mut client) {
            let gone = self.fates.iter().filter(|(_, fate)| **fate == Fate::Gone);
            let gone = gone.map(|(payload, _)| payload.clone()).collect();
            self.consumers.push(Consumer { client, gone, judged: 0 });
        }
    }

    fn delete(&mut self, server: &Server) {
        let (told, answer) = channel();
        // Fails where nobody waits any more.
        let reply = Reply::new(move |deleted| drop(told.send(deleted)));
        if server.delete(name(), reply) {
            self.note();
            self.producers.iter_mut().for_each(|producer| producer.is_late = true);
            self.deletion = Some(answer);
        }
    }

    /// Sometimes asks a server for a deletion just before its end. Returns how far the deletion gets, in steps of the disk.
    pub fn delete_at_end(&mut self, server: &Server) -> usize {
        if self.deletion.is_some() || self.random.one_in(2) {
            return 0;
        }
        self.delete(server);
        self.random.below(4)
    }

    /// Asks a server for a deletion that it must refuse, because all its shards were told to drain.
    pub fn delete_late(&mut self, server: &Server) {
        if self.deletion.is_none() && server.is_told_to_drain() {
            self.delete(server);
            self.must_be_refused = self.deletion.is_some();
        }
    }

    /// One of the clients goes.
    fn leave(&mut self) {
        self.note();
        if self.random.one_in(2) && !self.producers.is_empty() {
            let index = self.random.below(self.producers.len());
            self.producers.swap_remove(index).client.cut();
        } else if !self.consumers.is_empty() {
            let index = self.random.below(self.consumers.len());
            self.consumers.swap_remove(index).client.cut();
        }
    }

    /// Every client goes.
    pub fn leave_all(&mut self) {
        self.note();
        self.clients().for_each(Client::cut);
        self.producers.clear();
        self.consumers.clear();
    }

    /// The server has ended, and a deletion that was under way is never answered. It has taken all messages that were stored before it
    /// began, or none.
    pub fn handle_end(&mut self) {
        self.leave_all();
        self.must_be_refused = false;
        if self.deletion.take().is_some() {
            self.unanswered += 1;
            self.set_all(|fate| fate == Fate::Stored, Fate::WithAll(self.unanswered));
        }
    }

    /// What is stored may be gone.
    pub fn forget(&mut self) {
        self.note();
        self.producers.iter_mut().for_each(|producer| producer.is_late = true);
        self.set_all(Fate::may_be_stored, Fate::Unknown);
    }

    /// The disk is in an earlier state. Deleted messages may be there again.
    pub fn handle_rollback(&mut self) {
        self.forget();
        self.set_all(|fate| fate == Fate::Gone, Fate::Unknown);
    }

    fn set_all(&mut self, is_meant: impl Fn(Fate) -> bool, to: Fate) {
        self.fates.values_mut().filter(|fate| is_meant(**fate)).for_each(|fate| *fate = to);
    }

    /// Notes what was acknowledged.
    fn note(&mut self) {
        for Producer { client, number, noted, is_late } in &mut self.producers {
            let Role::Producer(produce) = &client.role else { continue };
            let acknowledged = produce.stats.acknowledged as usize;
            let fate = if *is_late { Fate::Unknown } else { Fate::Stored };
            for payload in &self.model.producers[*number].payloads[*noted..acknowledged] {
                self.fates.insert(payload.clone(), fate);
            }
            *noted = acknowledged;
        }
    }

    /// Judges what the clients have seen so far, and what has become of the deletion.
    pub fn look(&mut self) -> Result<(), String> {
        self.note();
        if let Some(result) = self.deletion.as_ref().and_then(|deletion| deletion.try_recv().ok()) {
            self.deletion = None;
            self.handle_deleted(result)?;
        }
        for Consumer { client, gone, judged } in &mut self.consumers {
            let seen = seen(client);
            for Seen { id, payload, .. } in &seen[*judged..] {
                let shown = String::from_utf8_lossy(payload);
                if gone.contains(payload) {
                    return Err(format!("{id} {shown:?} was deleted before its consumer came"));
                }
                if !self.model.producers.iter().any(|producer| producer.payloads.contains(payload)) {
                    return Err(format!("{id} {shown:?} was sent by nobody"));
                }
            }
            *judged = seen.len();
        }
        // One connection each.
        self.producers.retain(|producer| producer.client.link.is_some());
        self.consumers.retain(|consumer| consumer.client.link.is_some());
        Ok(())
    }

    fn handle_deleted(&mut self, result: Result<Deleted, StoreFault>) -> Result<(), String> {
        let is_refused = matches!(result, Err(StoreFault::Unavailable(_)));
        if std::mem::take(&mut self.must_be_refused) && !is_refused {
            return Err(format!("a deletion began during the drain, and ended with {result:?}"));
        }
        match result {
            Ok(Deleted::Everywhere) => self.set_all(Fate::may_be_stored, Fate::Gone),
            // That shard may still serve it.
            Ok(Deleted::NotBy(_)) => self.forget(),
            // Nothing is deleted, now or later.
            Err(StoreFault::Unavailable(_)) => {
                self.producers.iter_mut().for_each(|producer| producer.is_late = false);
            }
            Err(StoreFault::NoQueue) => {
                if let Some((payload, _)) = self.fates.iter().find(|(_, fate)| **fate == Fate::Stored) {
                    let shown = String::from_utf8_lossy(payload);
                    return Err(format!("{shown:?} is stored, and its queue is not there to be deleted"));
                }
                self.set_all(Fate::may_be_stored, Fate::Gone);
            }
            Err(fault) => return Err(format!("a deletion ends with {fault:?}")),
        }
        Ok(())
    }

    /// Judges a world that has come to rest.
    pub fn judge_rest(&mut self) -> Result<(), String> {
        self.look()?;
        if self.deletion.is_some() {
            return Err("a deletion is not answered".into());
        }
        for Consumer { client, .. } in &self.consumers {
            let is_gone = |seen: &&Seen| self.fates.get(&seen.payload) == Some(&Fate::Gone);
            if let Some(Seen { payload, .. }) = seen(client).iter().find(is_gone) {
                let shown = String::from_utf8_lossy(payload);
                return Err(format!("a consumer of {shown:?} is not told that the queue was deleted"));
            }
        }
        Ok(())
    }

    /// Connects a consumer that has to see all messages.
    pub fn begin_audit(&mut self, server: &Server) -> Result<(), String> {
        let before = self.consumers.len();
        self.consume(server);
        if self.consumers.len() == before { Err("a shard's inbox is full at rest".into()) } else { Ok(()) }
    }

    /// Judges what that consumer has seen.
    pub fn end_audit(&mut self) -> Result<(), String> {
        self.judge_rest()?;
        let Some(auditor) = self.consumers.last() else {
            return Err("the queue's last consumer has gone".into());
        };
        let seen: BTreeSet<&[u8]> = seen(&auditor.client).iter().map(|seen| &seen.payload[..]).collect();
        if self.may_hide {
            return Ok(());
        }
        let is_seen = |(payload, _): &(&Vec<u8>, &Fate)| seen.contains(&payload[..]);
        let fates_seen: BTreeSet<Fate> = self.fates.iter().filter(is_seen).map(|(_, fate)| *fate).collect();
        let must_be_seen = |fate: &Fate| match fate {
            Fate::Stored => true,
            Fate::WithAll(_) => fates_seen.contains(fate),
            Fate::Unknown | Fate::Gone => false,
        };
        match self.fates.iter().find(|entry| must_be_seen(entry.1) && !is_seen(entry)) {
            Some((payload, fate)) => {
                Err(format!("{:?} is missing, and was {fate:?}", String::from_utf8_lossy(payload)))
            }
            None => Ok(()),
        }
    }
}

//! A queue that is deleted occasionally, as the control port would do it, and a judge of what its clients
//! see.
//!
//! Each client has one connection, and never connects again. So a message that was acknowledged before a
//! deletion began is never sent again, and no consumer that connects after the deletion was answered may see
//! it. A message of a producer that connected after the answer exists until the next deletion begins.

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

/// The capacity of a connection in each direction, in bytes.
const PIPE_BYTES: usize = 20_000;

/// The most producers at once, and the most consumers.
const CLIENTS_MAX: usize = 2;

/// What the judge knows of an acknowledged message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// A new consumer must see it.
    Stored,
    /// It exists if all others with this number exist: the server ended before it answered the deletion of their
    /// queue.
    WithAll(u32),
    /// A new consumer may see it.
    Unknown,
    /// It was deleted: a new consumer must not see it.
    Gone,
}

impl Fate {
    fn may_be_stored(self) -> bool {
        matches!(self, Self::Stored | Self::WithAll(_))
    }
}

struct Producer {
    client: Client,
    /// The producer's number in the model.
    number: usize,
    /// The number of acknowledgments that are noted in `fates`.
    noted: usize,
    /// Whether a deletion may still remove messages that are acknowledged from now on.
    is_late: bool,
}

struct Consumer {
    client: Client,
    /// The messages that were deleted before it connected.
    gone: BTreeSet<Vec<u8>>,
    /// The number of its messages that were judged.
    judged: usize,
}

/// The deleted queue's clients, and the judge of what they see.
pub struct Doomed {
    random: Random,
    clock: Clock,
    /// The messages that each producer sends.
    model: Model,
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    fates: BTreeMap<Vec<u8>, Fate>,
    /// The number of deletions that were never answered.
    unanswered: u32,
    /// Receives the answer of the deletion in progress.
    deletion: Option<Receiver<Result<Deleted, StoreFault>>>,
    /// Whether the deletion was requested after the order to drain.
    must_be_refused: bool,
    /// Whether stored messages may be hidden, because clocks are wrong.
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

    /// Does one randomly chosen thing.
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

    /// Lets every client send and receive once. Returns false if there was nothing to do.
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
            client.connect(pipe, false);
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
        // Fails if nothing waits for the answer any more.
        let reply = Reply::new(move |deleted| drop(told.send(deleted)));
        if server.delete(name(), reply) {
            self.note();
            self.producers.iter_mut().for_each(|producer| producer.is_late = true);
            self.deletion = Some(answer);
        }
    }

    /// Sometimes requests a deletion just before the server ends. Returns how far the deletion gets, in steps of the
    /// disk.
    pub fn delete_at_end(&mut self, server: &Server) -> usize {
        if self.deletion.is_some() || self.random.one_in(2) {
            return 0;
        }
        self.delete(server);
        self.random.below(4)
    }

    /// Requests a deletion from a server that must refuse it, because all its shards were told to drain.
    pub fn delete_late(&mut self, server: &Server) {
        if self.deletion.is_none() && server.is_told_to_drain() {
            self.delete(server);
            self.must_be_refused = self.deletion.is_some();
        }
    }

    /// Disconnects a random client.
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

    /// Disconnects every client.
    pub fn leave_all(&mut self) {
        self.note();
        self.clients().for_each(Client::cut);
        self.producers.clear();
        self.consumers.clear();
    }

    /// Handles the end of the server. A deletion in progress is never answered. It has deleted all messages that were
    /// stored before it started, or none.
    pub fn handle_end(&mut self) {
        self.leave_all();
        self.must_be_refused = false;
        if self.deletion.take().is_some() {
            self.unanswered += 1;
            self.set_all(|fate| fate == Fate::Stored, Fate::WithAll(self.unanswered));
        }
    }

    /// Notes that each stored message may be lost.
    pub fn forget(&mut self) {
        self.note();
        self.producers.iter_mut().for_each(|producer| producer.is_late = true);
        self.set_all(Fate::may_be_stored, Fate::Unknown);
    }

    /// Handles a rollback of the disk to an earlier state. Deleted messages may exist again.
    pub fn handle_rollback(&mut self) {
        self.forget();
        self.set_all(|fate| fate == Fate::Gone, Fate::Unknown);
    }

    fn set_all(&mut self, is_meant: impl Fn(Fate) -> bool, to: Fate) {
        self.fates.values_mut().filter(|fate| is_meant(**fate)).for_each(|fate| *fate = to);
    }

    /// Notes the messages that were acknowledged since the last call.
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

    /// Judges what the clients have seen so far, and the result of the deletion.
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
                    return Err(format!("{id} {shown:?} was deleted before its consumer connected"));
                }
                if !self.model.producers.iter().any(|producer| producer.payloads.contains(payload)) {
                    return Err(format!("{id} {shown:?} was never sent"));
                }
            }
            *judged = seen.len();
        }
        // A client never connects again.
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
                    return Err(format!("{shown:?} is stored, but its queue does not exist"));
                }
                self.set_all(Fate::may_be_stored, Fate::Gone);
            }
            Err(fault) => return Err(format!("a deletion failed with {fault:?}")),
        }
        Ok(())
    }

    /// Judges the queue in a world without work.
    pub fn judge_rest(&mut self) -> Result<(), String> {
        self.look()?;
        if self.deletion.is_some() {
            return Err("a deletion was never answered".into());
        }
        for Consumer { client, .. } in &self.consumers {
            let is_gone = |seen: &&Seen| self.fates.get(&seen.payload) == Some(&Fate::Gone);
            if let Some(Seen { payload, .. }) = seen(client).iter().find(is_gone) {
                let shown = String::from_utf8_lossy(payload);
                return Err(format!("a consumer of {shown:?} did not learn that the queue was deleted"));
            }
        }
        Ok(())
    }

    /// Connects a consumer that must see all stored messages.
    pub fn begin_audit(&mut self, server: &Server) -> Result<(), String> {
        let before = self.consumers.len();
        self.consume(server);
        if self.consumers.len() == before { Err("a shard's inbox is full at rest".into()) } else { Ok(()) }
    }

    /// Judges what the consumer of the audit has seen.
    pub fn end_audit(&mut self) -> Result<(), String> {
        self.judge_rest()?;
        let Some(auditor) = self.consumers.last() else {
            return Err("the auditing consumer was disconnected".into());
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

//! The dead-letter queue of the workers' queue, an operator who alters queues and sends letters back, and a judge of both.
//!
//! The workers' queue has a dead-letter queue. So a rejected message becomes a letter, and so does one that was given out
//! too often. The operator changes how often that is, adds partitions, and sends letters back. The judge checks that an
//! alteration that was seen is never undone. In the end it waits until no message is being moved and the workers' queue
//! is empty. Then the dead-letter queue must hold as many letters as its stats say.

use std::sync::mpsc::{Receiver, TryRecvError, channel};

use millstream::base::error::StoreFault;
use millstream::base::manage::{Manage, Managed, PartitionStats};
use millstream::base::names::{FullName, Project, QueueName};
use millstream::base::queue::QueueInfo;
use millstream::base::units::Partition;
use millstream::base::wish::{AlterFault, Alteration, Described, Granted, Wish};
use millstream::shard::delivery::Reply;
use serde_json::{Map, Value, json};

use super::client::{Client, Role};
use super::clock::Clock;
use super::model::{Asked, Seen};
use super::pipe::Pipe;
use super::random::Random;
use super::server::Server;

const QUEUE: &str = "letters";

/// The capacity of the reader's connection in each direction, in bytes.
const PIPE_BYTES: usize = 20_000;

/// How often a message is given out at least, and at most, before it becomes a letter.
const CLAIMS_MIN: usize = 1;
const CLAIMS_MAX: usize = 5;

/// The most partitions of a queue.
const PARTITIONS_MAX: u16 = 8;

/// A queue, and the operator's wish about it that was not answered.
#[derive(Debug)]
struct Site {
    name: FullName,
    wished: Option<Receiver<Granted>>,
    /// The queue as this server knows it.
    info: Option<QueueInfo>,
    /// The number of the last alteration that was seen, and of the last that was asked for. It is an attribute.
    confirmed: u64,
    asked: u64,
    /// The most partitions that it was seen with, which never become fewer.
    partitions: u16,
}

type Answer = Result<Managed, StoreFault>;

/// The operator, and the judge of the dead-letter queue.
pub struct Letters {
    random: Random,
    clock: Clock,
    is_secure: bool,
    works: Site,
    letters: Site,
    /// The most that a message may be given out, by every alteration so far.
    claims_max: u32,
    /// Whether no alteration changes that.
    is_fixed: bool,
    returning: Vec<Receiver<Answer>>,
    /// The answers of the first partitions of both queues about what they hold.
    counting: [Vec<Receiver<Answer>>; 2],
    reader: Option<Client>,
}

impl Site {
    fn new(queue: &str) -> Self {
        let name = (Project::parse("default").unwrap(), QueueName::parse(queue).unwrap());
        Self { name, wished: None, info: None, confirmed: 0, asked: 0, partitions: 0 }
    }

    fn wish(&mut self, server: &Server, wish: Wish) {
        let (told, answer) = channel();
        // Fails if nothing waits for the answer any more.
        let reply = Reply::new(move |granted| drop(told.send(granted)));
        if server.wish(self.name.clone(), wish, reply) {
            self.wished = Some(answer);
        }
    }

    fn change(&mut self, server: &Server, mut changes: Map<String, Value>, partitions: Option<u16>) {
        self.asked += 1;
        changes.insert("number".to_owned(), json!(self.asked));
        let is_known = self.info.is_some() || self.confirmed > 0;
        let alteration = Alteration { changes, partitions };
        let wish = if is_known { Wish::Alter(alteration) } else { Wish::Create(alteration.changes) };
        self.wish(server, wish);
    }

    /// Judges the answer to the last wish, if it has come.
    fn look(&mut self) -> Result<(), String> {
        let Some(answer) = &self.wished else { return Ok(()) };
        let granted = match answer.try_recv() {
            Ok(granted) => granted,
            Err(TryRecvError::Empty) => return Ok(()),
            // The server has ended.
            Err(TryRecvError::Disconnected) => {
                self.wished = None;
                return Ok(());
            }
        };
        self.wished = None;
        match granted {
            Ok(created) => self.judge(created.queue),
            Err(AlterFault::Attribute(fault)) => Err(fault.to_string()),
            Err(fault) if fault.status().0 == 404 && self.confirmed > 0 => {
                Err(format!("{fault}, but its alteration {} was seen", self.confirmed))
            }
            Err(_) => Ok(()),
        }
    }

    fn judge(&mut self, Described { info, attributes }: Described) -> Result<(), String> {
        let number = attributes.as_map().get("number").and_then(Value::as_u64).unwrap_or(0);
        if !(self.confirmed..=self.asked).contains(&number) {
            return Err(format!("alteration {number} counts after {} was seen", self.confirmed));
        }
        if info.partitions < self.partitions {
            return Err(format!("{} partitions where there were {}", info.partitions, self.partitions));
        }
        (self.confirmed, self.partitions) = (number, info.partitions);
        self.info = Some(info);
        Ok(())
    }

    fn handle_end(&mut self) {
        (self.wished, self.info) = (None, None);
    }

    /// Asks a partition of the queue. Returns `None` if the inbox of its owner is full.
    fn ask(&self, server: &Server, partition: Partition, what: Manage) -> Option<Receiver<Answer>> {
        let (told, answer) = channel();
        let reply = Reply::new(move |managed| drop(told.send(managed)));
        server.manage(self.info.as_ref()?, partition, what, reply).then_some(answer)
    }
}

impl Letters {
    pub fn new(seed: u64, clock: Clock, is_secure: bool, works: &str) -> Self {
        Self {
            random: Random(seed),
            clock,
            is_secure,
            works: Site::new(works),
            letters: Site::new(QUEUE),
            claims_max: 0,
            is_fixed: seed.is_multiple_of(2),
            returning: Vec::new(),
            counting: [Vec::new(), Vec::new()],
            reader: None,
        }
    }

    /// Returns whether the workers' queue exists and has a dead-letter queue.
    pub fn is_made(&self) -> bool {
        self.works.confirmed > 0
    }

    /// Returns how often a message may be given out.
    pub fn claims_max(&self) -> u32 {
        self.claims_max
    }

    /// Does one randomly chosen thing.
    pub fn step(&mut self, server: &Server) -> Result<(), String> {
        match self.random.below(24) {
            _ if !self.is_made() && self.works.wished.is_none() => self.alter(server),
            0 if self.works.wished.is_none() => self.alter(server),
            1 if self.works.wished.is_none() => self.works.wish(server, Wish::Find),
            2..=3 if self.letters.wished.is_none() => self.letters.wish(server, Wish::Find),
            4 if self.letters.wished.is_none() && self.letters.info.is_some() && self.random.one_in(4) => {
                let partitions = (self.letters.partitions + 1).min(PARTITIONS_MAX);
                self.letters.change(server, Map::new(), Some(partitions));
            }
            5 if self.random.one_in(3) => {
                let redrive = |partition| self.letters.ask(server, partition, Manage::Redrive { to: None });
                self.returning.extend(self.letters.info.iter().flat_map(QueueInfo::all).filter_map(redrive));
            }
            _ => {}
        }
        self.look()
    }

    fn alter(&mut self, server: &Server) {
        let max = match self.claims_max {
            max if self.is_fixed && max > 0 => max,
            _ => self.random.between(CLAIMS_MIN, CLAIMS_MAX) as u32,
        };
        self.claims_max = self.claims_max.max(max);
        let changes =
            [("_max_claim_count".to_owned(), json!(max)), ("_dead_letter_queue".to_owned(), json!(QUEUE))];
        let changes = Map::from_iter(changes);
        let grows = self.works.info.is_some() && self.random.one_in(4);
        let partitions = grows.then(|| (self.works.partitions + 1).min(PARTITIONS_MAX));
        self.works.change(server, changes, partitions);
    }

    /// Judges the answers that have come.
    pub fn look(&mut self) -> Result<(), String> {
        self.works.look()?;
        self.letters.look()?;
        // Its result is seen in the queues.
        self.returning.retain(|answer| matches!(answer.try_recv(), Err(TryRecvError::Empty)));
        Ok(())
    }

    /// Handles the end of the server.
    pub fn handle_end(&mut self) {
        self.works.handle_end();
        self.letters.handle_end();
        (self.returning, self.counting) = (Vec::new(), [Vec::new(), Vec::new()]);
        self.reader.iter_mut().for_each(Client::cut);
        self.reader = None;
    }

    /// Lets the reader send and receive once. Returns false if there was nothing to do.
    pub fn pass(&mut self) -> bool {
        let (up, down) = (self.random.between(1, 5_000), self.random.between(1, 8_000));
        self.reader.as_mut().is_some_and(|reader| reader.send(up) | reader.receive(down))
    }

    /// Forgets what was known of the queues: an alteration may have taken effect without an answer.
    pub fn begin_audit(&mut self) {
        self.works.handle_end();
        self.letters.handle_end();
    }

    /// Asks what both queues hold. Returns whether all partitions were asked.
    pub fn count(&mut self, server: &Server) -> bool {
        for (site, asked) in [&mut self.works, &mut self.letters].into_iter().zip(&mut self.counting) {
            let Some(partitions) = site.info.as_ref().map(|info| info.partitions) else {
                if site.wished.is_none() {
                    site.wish(server, Wish::Create(Map::new()));
                }
                return false;
            };
            for partition in Partition::all(partitions).skip(asked.len()) {
                let Some(answer) = site.ask(server, partition, Manage::Stats) else { return false };
                asked.push(answer);
            }
        }
        true
    }

    /// Takes what the two queues held when they were asked. Returns `None` if a store has failed to answer.
    fn take_counted(&mut self) -> Option<[PartitionStats; 2]> {
        let mut sums = [PartitionStats::default(); 2];
        for (sum, answers) in sums.iter_mut().zip(std::mem::take(&mut self.counting)) {
            for answer in answers {
                let Ok(Ok(Managed::Stats(of))) = answer.try_recv() else { return None };
                sum.free += of.free;
                sum.claimed += of.claimed;
                sum.delayed += of.delayed;
            }
        }
        Some(sums)
    }

    /// Takes what was counted. Returns the number of letters if nothing is left of the works, and nothing is moved.
    pub fn take_quiet(&mut self) -> Option<u64> {
        let [works, letters] = self.take_counted()?;
        let left = works.free + works.claimed + works.delayed + letters.claimed + letters.delayed;
        (left == 0).then_some(letters.free)
    }

    /// Connects a reader that must see all letters.
    pub fn begin_reading(&mut self, server: &Server) -> Result<(), String> {
        let mut reader = Client::consumer(Asked::new(801, true, None), QUEUE, &self.clock, &mut self.random);
        let pipe = Pipe::new(PIPE_BYTES);
        if !server.accept(self.random.below(server.shards()), pipe.clone()) {
            return Err("a shard's inbox is full at rest".into());
        }
        reader.connect(pipe, self.is_secure);
        reader.poll();
        self.reader = Some(reader);
        Ok(())
    }

    /// Returns the letters that the reader has seen.
    pub fn seen(&self) -> &[Seen] {
        match self.reader.as_ref().map(|reader| &reader.role) {
            Some(Role::Consumer(consume, _)) => &consume.sink.seen,
            _ => &[],
        }
    }
}

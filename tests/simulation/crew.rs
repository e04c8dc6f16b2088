//! A queue whose messages are claimed by workers, and a judge of what they are given.
//!
//! Workers are the real client. They acknowledge most messages, release or reject some, lose their connections, and
//! settle by claim id what they held before. The judge checks: a message whose acknowledgement was confirmed never
//! comes again; a message comes to nobody else while a worker holds it; each time that it is given out has another
//! count; and in the end every stored message was settled. If there are dead letters, each stored message was
//! acknowledged or is a letter: one of the two, once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::task::Context;

use millstream::client::session::{ClaimOptions, Settle};
use millstream::client::{Claim, ClaimLimits, Stage, Ticket, Worker};
use millstream::pb::ReceivedMessage;

use super::client::{Client, Role};
use super::clock::Clock;
use super::letters::Letters;
use super::model::Model;
use super::pipe::Pipe;
use super::random::Random;
use super::server::Server;
use super::settings::Plan;

const QUEUE: &str = "works";

/// The capacity of a connection in each direction, in bytes.
const PIPE_BYTES: usize = 20_000;

/// The most producers in all, and the number of workers.
const PRODUCERS_MAX: usize = 6;
const WORKERS: usize = 3;

/// How long a claim lasts, in seconds: longer than a storm.
const TTL: u32 = 100;

/// What the judge knows of a message, by its id.
#[derive(Debug, Default)]
struct Fact {
    payload: Vec<u8>,
    /// The worker that holds it.
    holder: Option<usize>,
    /// How it was settled.
    settled: Option<Settle>,
    counts: BTreeSet<u32>,
}

/// What all workers together have seen.
#[derive(Debug, Default)]
pub struct Facts {
    of: BTreeMap<String, Fact>,
    /// Whether claims last for longer than the present phase.
    do_claims_last: bool,
    /// How often a message may be given out.
    claims_max: Option<u32>,
    failure: Option<String>,
}

impl Facts {
    fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }
}

/// Who processes the messages of one worker.
pub struct Hand {
    number: usize,
    random: Random,
    facts: Rc<RefCell<Facts>>,
    /// The messages that are not decided about.
    open: BTreeMap<Ticket, String>,
    /// Those that are to be deleted, in the order in which the server confirms that.
    settling: VecDeque<(Ticket, String, Settle)>,
    confirmed: u64,
    /// Whether it only acknowledges.
    is_calm: bool,
    is_stopping: bool,
}

impl Worker for Hand {
    fn take(&mut self, ticket: Ticket, message: &ReceivedMessage<'_>) {
        let (number, id) = (self.number, message.id.to_owned());
        let mut facts = self.facts.borrow_mut();
        let do_claims_last = facts.do_claims_last;
        let fact = facts.of.entry(id.clone()).or_default();
        fact.payload = message.payload.unwrap_or_default().to_vec();
        let (is_settled, holder) = (fact.settled.is_some(), fact.holder.replace(number));
        let is_new = fact.counts.insert(message.claim_count);
        if let Some(max) = facts.claims_max.filter(|max| message.claim_count > *max) {
            facts.fail(format!("{id} came with the count {}, and {max} are allowed", message.claim_count));
        }
        if is_settled {
            facts.fail(format!("{id} came to worker {number} after its acknowledgement was confirmed"));
        } else if let Some(holder) = holder.filter(|_| do_claims_last) {
            facts.fail(format!("{id} came to worker {number} while worker {holder} held it"));
        } else if !is_new {
            facts.fail(format!("{id} came twice with the count {}", message.claim_count));
        }
        self.open.insert(ticket, id);
    }

    fn lose(&mut self, ticket: Ticket) {
        let before = self.settling.len();
        self.settling.retain(|(of, ..)| *of != ticket);
        // What it has released may belong to somebody else before it hears that the release counts.
        let was_held = self.open.remove(&ticket).is_some() || self.settling.len() < before;
        let mut facts = self.facts.borrow_mut();
        if facts.do_claims_last && was_held {
            facts.fail(format!("worker {} has lost a message that it held", self.number));
        }
    }

    fn poll(&mut self, _: &mut Context<'_>, decisions: &mut Vec<(Ticket, Settle)>) -> Stage {
        let mut facts = self.facts.borrow_mut();
        let mut decided = Vec::new();
        for (ticket, id) in &self.open {
            let what = match self.random.below(12) {
                _ if self.is_calm => Settle::Ack,
                0 => Settle::Release(Some(0)),
                1 => Settle::Release(None),
                2 => Settle::Reject,
                3..=8 => Settle::Ack,
                _ => continue,
            };
            if let Settle::Release(_) = what {
                if let Some(fact) = facts.of.get_mut(id) {
                    fact.holder = None;
                }
            } else {
                self.settling.push_back((*ticket, id.clone(), what));
            }
            decided.push((*ticket, what));
        }
        decided.iter().for_each(|(ticket, _)| drop(self.open.remove(ticket)));
        decisions.extend(decided);
        if self.is_stopping { Stage::Done } else { Stage::Open }
    }
}

/// The queue's clients, and the judge of what they see.
pub struct Crew {
    random: Random,
    clock: Clock,
    /// Whether all connections speak TLS.
    is_secure: bool,
    /// Whether messages may expire, because clocks are wrong.
    may_hide: bool,
    model: Model,
    producers: Vec<(Client, usize)>,
    workers: Vec<Client>,
    facts: Rc<RefCell<Facts>>,
    /// The messages that producers know to be stored.
    stored: BTreeSet<Vec<u8>>,
    /// The dead letters, if the queue has any.
    letters: Option<Letters>,
    /// The number of letters by the stats, once nothing is left of the queue.
    burials: Option<u64>,
}

impl Crew {
    /// Creates the clients of the queue. If the clock jumps, claims may end early, and messages may expire.
    pub fn new(seed: u64, clock: Clock, plan: &Plan) -> Self {
        let (is_secure, knows_the_time) = (plan.is_secure, !plan.jumps);
        let mut random = Random(seed);
        let facts = Rc::new(RefCell::new(Facts { do_claims_last: knows_the_time, ..Facts::default() }));
        let workers = (0..WORKERS).map(|number| {
            let hand = Hand {
                number,
                random: Random(random.next()),
                facts: facts.clone(),
                open: BTreeMap::new(),
                settling: VecDeque::new(),
                confirmed: 0,
                is_calm: false,
                is_stopping: false,
            };
            let (queue, ttl, grace) = (QUEUE.to_owned(), Some(TTL), None);
            let options = ClaimOptions { queue, ttl, grace, release_on_disconnect: false };
            let limits = ClaimLimits { held: random.between(1, 60) as u64, count: None, idle: None };
            Client::worker(Claim::new(options, limits, hand), 700 + number as u128)
        });
        let workers = workers.collect();
        let (model, producers, stored) = (Model::new(usize::MAX, false), Vec::new(), BTreeSet::new());
        let letters = || Letters::new(seed ^ 0x1e77_e250, clock.clone(), is_secure, QUEUE);
        let (letters, may_hide) = (plan.buries.then(letters), !knows_the_time);
        Self {
            random,
            clock,
            is_secure,
            may_hide,
            model,
            producers,
            workers,
            facts,
            stored,
            letters,
            burials: None,
        }
    }

    fn clients(&mut self) -> impl Iterator<Item = &mut Client> {
        self.producers.iter_mut().map(|(client, _)| client).chain(&mut self.workers)
    }

    /// Does one randomly chosen thing.
    pub fn step(&mut self, server: &Server) -> Result<(), String> {
        if let Some(letters) = &mut self.letters {
            letters.step(server)?;
            self.facts.borrow_mut().claims_max = Some(letters.claims_max());
        }
        match self.random.below(16) {
            0 if self.model.producers.len() < PRODUCERS_MAX && self.is_ready() => self.produce(server),
            1 if self.is_ready() => {
                let worker = self.random.below(WORKERS);
                self.connect(server, worker);
            }
            2 if self.random.one_in(6) => {
                let worker = self.random.below(WORKERS);
                if let Some(link) = &self.workers[worker].link
                    && self.random.one_in(2)
                {
                    link.pipe.borrow_mut().lose();
                }
                self.cut(worker);
            }
            3..=9 => drop(self.send_and_receive()),
            10 => self.workers.iter_mut().for_each(Client::poll),
            _ => {}
        }
        self.look()
    }

    /// Lets every client send and receive once. Returns false if there was nothing to do.
    pub fn pass(&mut self) -> bool {
        self.workers.iter_mut().for_each(Client::poll);
        self.send_and_receive()
    }

    /// Returns whether the queue is as it must be when its first client comes.
    fn is_ready(&self) -> bool {
        self.letters.as_ref().is_none_or(Letters::is_made)
    }

    /// Connects the workers that are not. Returns false if all are.
    pub fn reconnect(&mut self, server: &Server) -> bool {
        if !self.is_ready() {
            return false;
        }
        let is_away = |client: &Client| client.link.is_none() && !client.is_complete();
        let away: Vec<usize> = (0..WORKERS).filter(|worker| is_away(&self.workers[*worker])).collect();
        away.iter().for_each(|worker| self.connect(server, *worker));
        !away.is_empty()
    }

    fn send_and_receive(&mut self) -> bool {
        let (up, down) = (self.random.between(1, 5_000), self.random.between(1, 8_000));
        let mut progress = false;
        for client in self.clients() {
            progress |= client.send(up);
            progress |= client.receive(down);
        }
        progress |= self.letters.as_mut().is_some_and(Letters::pass);
        self.note();
        progress
    }

    fn produce(&mut self, server: &Server) {
        let number = self.model.producers.len();
        let payloads = (0..self.random.between(1, 80)).map(|sequence| format!("work {number}/{sequence}"));
        self.model.add(950 + number as u128, Model::TTL, payloads.map(String::into_bytes).collect());
        let mut client = Client::producer(&self.model, number, QUEUE, 10, &self.clock, &mut self.random);
        let pipe = Pipe::new(PIPE_BYTES);
        if server.accept(self.random.below(server.shards()), pipe.clone()) {
            client.connect(pipe, self.is_secure);
            client.poll();
            self.producers.push((client, number));
        }
    }

    fn connect(&mut self, server: &Server, worker: usize) {
        let pipe = Pipe::new(PIPE_BYTES);
        let client = &mut self.workers[worker];
        if client.link.is_none() && server.accept(self.random.below(server.shards()), pipe.clone()) {
            client.connect(pipe, self.is_secure);
            client.poll();
        }
    }

    fn cut(&mut self, worker: usize) {
        self.note();
        self.workers[worker].cut();
        self.note();
    }

    /// Handles the end of the server.
    pub fn handle_end(&mut self) {
        self.note();
        self.clients().for_each(Client::cut);
        self.note();
        self.producers.clear();
        self.letters.iter_mut().for_each(Letters::handle_end);
    }

    /// Notes what producers and workers were told since the last call.
    fn note(&mut self) {
        for (client, number) in &self.producers {
            let Role::Producer(produce) = &client.role else { continue };
            let acknowledged = produce.stats.acknowledged as usize;
            self.stored.extend(self.model.producers[*number].payloads[..acknowledged].iter().cloned());
        }
        for client in &mut self.workers {
            let is_lost = client.link.is_none();
            let Role::Worker(claim) = &mut client.role else { continue };
            let confirmed = claim.tally.acknowledged + claim.tally.rejected;
            let hand = &mut claim.worker;
            let mut facts = hand.facts.borrow_mut();
            for _ in hand.confirmed..confirmed {
                let Some((_, id, what)) = hand.settling.pop_front() else {
                    facts.fail(format!("worker {} was told of more than it did", hand.number));
                    break;
                };
                let Some(fact) = facts.of.get_mut(&id) else { continue };
                (fact.settled, fact.holder) = (Some(what), None);
            }
            hand.confirmed = confirmed;
            if is_lost {
                // The next operation settles all that is left in one request.
                hand.settling.make_contiguous().sort();
            }
        }
    }

    fn look(&mut self) -> Result<(), String> {
        self.note();
        self.letters.as_mut().map_or(Ok(()), Letters::look)?;
        self.facts.borrow_mut().failure.take().map_or(Ok(()), Err)
    }

    /// Lets the workers acknowledge everything that they hold and get.
    pub fn calm_down(&mut self) {
        for client in &mut self.workers {
            if let Role::Worker(claim) = &mut client.role {
                claim.worker.is_calm = true;
            }
        }
    }

    /// Begins the audit: enough time passes for claims to end that no worker knows of.
    pub fn begin_audit(&mut self) -> Result<(), String> {
        self.facts.borrow_mut().do_claims_last = false;
        self.letters.iter_mut().for_each(Letters::begin_audit);
        if self.model.producers.is_empty() || self.is_ready() {
            Ok(())
        } else {
            Err("there are producers, but their queue was never made".into())
        }
    }

    /// Asks what the queue and its dead-letter queue hold, if it has one. Returns whether all partitions were asked.
    pub fn count(&mut self, server: &Server) -> Result<bool, String> {
        self.look()?;
        let letters = self.letters.as_mut().filter(|letters| letters.is_made());
        Ok(letters.is_none_or(|letters| letters.count(server)))
    }

    /// Returns whether every message that is known to be stored was settled, and nothing is left to do.
    pub fn is_done(&mut self) -> Result<bool, String> {
        self.look()?;
        match &mut self.letters {
            None => Ok(self.missing().is_none()),
            // Messages that expired may count for another minute.
            Some(letters) if self.may_hide || !letters.is_made() => Ok(true),
            Some(letters) => {
                self.burials = letters.take_quiet();
                Ok(self.burials.is_some())
            }
        }
    }

    fn missing(&self) -> Option<String> {
        if self.may_hide {
            return None;
        }
        let facts = self.facts.borrow();
        let settled: BTreeSet<&[u8]> =
            facts.of.values().filter(|fact| fact.settled.is_some()).map(|fact| &fact.payload[..]).collect();
        let missing = self.stored.iter().find(|payload| !settled.contains(&payload[..]))?;
        let of_it: Vec<_> = facts.of.iter().filter(|(_, fact)| fact.payload == *missing).collect();
        Some(format!("{:?} is stored and was never settled; {of_it:?}", String::from_utf8_lossy(missing)))
    }

    /// Begins to read the dead letters, if there are any.
    pub fn begin_reading(&mut self, server: &Server) -> Result<(), String> {
        let letters = self.letters.as_mut().filter(|letters| letters.is_made());
        letters.map_or(Ok(()), |letters| letters.begin_reading(server))
    }

    /// Ends the audit.
    pub fn end_audit(&mut self) -> Result<(), String> {
        self.look()?;
        match &self.letters {
            None => self.missing().map_or(Ok(()), Err),
            Some(letters) => self.judge_letters(letters),
        }
    }

    /// Judges that each message was acknowledged or is a letter, and it is that once.
    fn judge_letters(&self, letters: &Letters) -> Result<(), String> {
        let facts = self.facts.borrow();
        let seen = letters.seen();
        let acknowledged = facts.of.values().filter(|fact| fact.settled == Some(Settle::Ack));
        let ends = acknowledged.map(|fact| &fact.payload).chain(seen.iter().map(|letter| &letter.payload));
        let mut counts: BTreeMap<&[u8], u32> = BTreeMap::new();
        ends.for_each(|payload| *counts.entry(payload).or_default() += 1);
        let told = |payload: &[u8], what: &str| {
            let of_it: Vec<_> = facts.of.iter().filter(|(_, fact)| fact.payload == payload).collect();
            let as_letter: Vec<_> = seen.iter().filter(|letter| letter.payload == payload).collect();
            let (shown, all) = (String::from_utf8_lossy(payload), seen.len());
            let counted = self.burials;
            Err(format!("{shown:?} {what}; {of_it:?}; letters {as_letter:?} of {all}, counted {counted:?}"))
        };
        if let Some((payload, _)) = counts.iter().find(|(_, count)| **count > 1) {
            return told(payload, "was acknowledged or is a letter more than once");
        }
        if self.may_hide {
            return Ok(());
        }
        if let Some(payload) = self.stored.iter().find(|payload| !counts.contains_key(&payload[..])) {
            return told(payload, "is stored, was not acknowledged, and is no letter");
        }
        match self.burials {
            Some(count) if count != seen.len() as u64 => {
                Err(format!("{count} letters are counted, and {} are there", seen.len()))
            }
            None if letters.is_made() => Err("it is not known what is left of the queue".into()),
            _ => Ok(()),
        }
    }

    /// Lets every worker end its operation.
    pub fn stop(&mut self) {
        for client in &mut self.workers {
            if let Role::Worker(claim) = &mut client.role {
                claim.worker.is_stopping = true;
            }
        }
    }

    /// Disconnects every client.
    pub fn leave_all(&mut self) {
        self.handle_end();
    }
}

//! Dead letters around real stores, with a shard that is slow, fails, and forgets everything at a crash. Each message that
//! leaves its queue unacknowledged has exactly one copy.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::stores::{Ground, InMemory, OnDisk};
use crate::access::{ProjectLimits, Tenants};
use crate::base::batch::{BatchBuilder, Fetched, Record, Shape};
use crate::base::claim::{LeaseId, Leases, Settle, Settlement, Terms, View, Worker};
use crate::base::clock::Now;
use crate::base::error::{Fault, StoreFault};
use crate::base::manage::{Manage, Managed, Only, Removed};
use crate::base::millis::Millis;
use crate::base::names::{ClientId, FullName, Project, QueueName};
use crate::base::policy::{Policy, WhenFull};
use crate::base::queue::{PartitionKey, Position, QueueId, QueueInfo};
use crate::base::units::{Offset, Partition};
use crate::pb::headers::{HeaderRef, HeadersReader, put_header};
use crate::store::claims::{AppendBy, Ledgers};
use crate::store::errand::{Done, Errand, ErrandId, Wanted};
use crate::store::log::random::Random;
use crate::store::{ClaimCounters, Completion, Life, NewQueue, Request, Store, Stream};

const JOBS: QueueId = QueueId(1);
const DEAD: QueueId = QueueId(2);
const KEY: PartitionKey = PartitionKey { queue: JOBS, partition: Partition(0) };
const CLAIMS_MAX: u32 = 2;

fn name(of: QueueId) -> FullName {
    let queue = if of == JOBS { "jobs" } else { "dead" };
    (Project::parse("p").unwrap(), QueueName::parse(queue).unwrap())
}

/// What is known of a message.
#[derive(Clone, Debug, Default)]
struct Message {
    is_stored: bool,
    /// Whether its worker, whose lease was in force, asked for its deletion, and was told that it is deleted.
    is_ack_sent: bool,
    is_ack_told: bool,
}

#[derive(Debug)]
enum Asked {
    Produce(u64),
    Claim(QueueId, Partition),
    Settle(Option<u64>),
    SettleDead,
    Open(Option<ErrandId>, QueueId),
    Errand(ErrandId),
    /// The server crashes when the store has done what was asked.
    Lost(ErrandId),
    Manage,
    Read,
}

struct Post<G: Ground> {
    seed: u64,
    random: Random,
    ground: G,
    store: Ledgers<G::Store, u64>,
    tenants: Arc<Tenants>,
    now: Now,
    next_token: u64,
    asked: HashMap<u64, Asked>,
    errands: VecDeque<Errand>,
    /// Whether errands may fail.
    fails: bool,
    queues: HashMap<QueueId, QueueInfo>,
    messages: BTreeMap<u64, Message>,
    /// The leased messages: lease, offset, number, until when.
    leased: Vec<(LeaseId, Offset, u64, Millis)>,
    read: Vec<(Offset, u64, Vec<u8>)>,
    /// The dead letters that a worker was given, and where they lay. It acknowledges them at once.
    seen: BTreeSet<(u64, Partition, Offset)>,
    /// Where to read on, unless that was all.
    read_next: Option<Offset>,
    managed: Option<Result<Managed, StoreFault>>,
    policy: Policy,
}

impl<G: Ground> Post<G> {
    fn new(seed: u64, mut ground: G) -> Self {
        let now = Now::at_ms(1_000_000, 1_000_000_000_000);
        let store = Ledgers::new(ground.start(now));
        let dead_queue = Some(name(DEAD).1);
        let mut post = Self {
            seed,
            random: Random(seed),
            ground,
            store,
            tenants: Arc::new(Tenants::new(ProjectLimits::default())),
            now,
            next_token: 0,
            asked: HashMap::new(),
            errands: VecDeque::new(),
            fails: true,
            queues: HashMap::new(),
            messages: BTreeMap::new(),
            leased: Vec::new(),
            read: Vec::new(),
            seen: BTreeSet::new(),
            read_next: None,
            managed: None,
            policy: Policy { dead_queue, claims_max: Some(CLAIMS_MAX), ..Policy::default() },
        };
        post.begin();
        post
    }

    fn begin(&mut self) {
        self.store.count_for(&self.tenants.clone());
        self.store.hold_releases();
        self.open(JOBS);
    }

    fn submit(&mut self, asked: Asked, make: impl FnOnce(u64) -> Request<u64>) {
        self.next_token += 1;
        self.asked.insert(self.next_token, asked);
        assert!(self.store.submit(self.now, make(self.next_token)).is_ok());
    }

    fn ask_open(&mut self, errand: Option<ErrandId>, queue: QueueId) {
        let create = Some(NewQueue::plain(if queue == JOBS { 1 } else { 2 }));
        self.submit(Asked::Open(errand, queue), |token| Request::Open {
            token,
            queue,
            name: name(queue),
            create,
        });
    }

    /// Opens a queue. The disk may fail until then.
    fn open(&mut self, queue: QueueId) {
        self.queues.remove(&queue);
        for _ in 0..1000 {
            self.ask_open(None, queue);
            for _ in 0..1000 {
                self.poll();
                if self.queues.contains_key(&queue) {
                    return;
                }
                if !self.ground.advance() {
                    break;
                }
            }
            self.pass(Millis::new(1_000));
        }
        panic!("seed {}: the queue does not open", self.seed);
    }

    fn pass(&mut self, by: Millis) {
        self.now = Now::at_ms(self.now.mono.get() + by.get(), self.now.unix.get() + by.get());
        self.store.handle_tick(self.now);
        self.poll();
        if !self.store.has_doubts() {
            self.store.handle_certain();
        }
    }

    fn poll(&mut self) {
        loop {
            while let Some(errand) = self.store.poll_errand() {
                self.errands.push_back(errand);
            }
            let Some(completion) = self.store.poll_completion(self.now) else { break };
            self.handle(completion);
        }
        while let Some(errand) = self.store.poll_errand() {
            self.errands.push_back(errand);
        }
    }

    fn handle(&mut self, completion: Completion<u64>) {
        let token = match &completion {
            Completion::Watched { .. } => return,
            of => *token_of(of),
        };
        // A crash forgets what was asked before.
        let Some(asked) = self.asked.remove(&token) else { return };
        match (asked, completion) {
            (Asked::Produce(number), Completion::Appended { result, .. }) => {
                self.messages.get_mut(&number).unwrap().is_stored = result.is_ok();
            }
            (Asked::SettleDead, Completion::Settled { .. }) => {}
            (Asked::Claim(DEAD, partition), Completion::Claimed { result, .. }) => {
                let Ok(Some(grant)) = result else { return };
                for run in &grant.runs {
                    let offsets = run.offsets.start.following(run.offsets.end.since(run.offsets.start));
                    let mut position = run.record;
                    for offset in offsets {
                        let (next, record) = run.stored.batch.record_at(position).unwrap();
                        position = next;
                        self.seen.insert((number_of(record.payload), partition, offset));
                    }
                }
                let (client, leases) = (ClientId::from(1), Leases::One(grant.lease));
                let settlements = vec![Settlement { client, leases, offsets: vec![], what: Settle::Ack }];
                let partition = PartitionKey { queue: DEAD, partition };
                self.submit(Asked::SettleDead, |token| Request::Settle { token, partition, settlements });
            }
            (Asked::Claim(..), Completion::Claimed { result, .. }) => {
                let Ok(Some(grant)) = result else { return };
                for run in &grant.runs {
                    assert!(run.count <= CLAIMS_MAX, "seed {}: given out {} times", self.seed, run.count);
                    let records = run.offsets.start.following(run.offsets.end.since(run.offsets.start));
                    let mut position = run.record;
                    for offset in records {
                        let (next, record) = run.stored.batch.record_at(position).unwrap();
                        position = next;
                        self.leased.push((grant.lease, offset, number_of(record.payload), grant.ends));
                    }
                }
            }
            (Asked::Settle(acked), Completion::Settled { result, .. }) => {
                if let (Some(number), Ok(lost)) = (acked, result) {
                    self.messages.get_mut(&number).unwrap().is_ack_told |= lost.is_empty();
                }
            }
            (Asked::Open(errand, queue), Completion::Opened { result, .. }) => {
                let result = result.map(|life| self.opened(queue, life)).map_err(Fault::from);
                if let Some(id) = errand {
                    self.store.handle_done(self.now, id, Done::Opened(result));
                }
            }
            (Asked::Errand(id), Completion::Resolved { result, .. }) => {
                self.store.handle_done(self.now, id, Done::End(result));
            }
            (Asked::Errand(id), Completion::Fetched { result, .. }) => {
                self.store.handle_done(self.now, id, Done::Read(result));
            }
            (Asked::Errand(id), Completion::Appended { result, .. }) => {
                self.store.handle_done(self.now, id, Done::Appended(result));
            }
            (Asked::Lost(id), Completion::Appended { result, .. }) => {
                // Only a crash loses an answer.
                if !self.crash() {
                    self.store.handle_done(self.now, id, Done::Appended(result));
                }
            }
            (Asked::Manage, Completion::Managed { result, .. }) => self.managed = Some(result),
            (Asked::Read, Completion::Fetched { result, .. }) => {
                let fetched = result.unwrap();
                self.read_next = (!fetched.at_end).then_some(fetched.next);
                for stored in &fetched.batches {
                    let offsets = stored.base_offset.following(stored.batch.count().into());
                    for (offset, record) in offsets.zip(stored.batch.records()) {
                        if fetched.hidden.visible(offset, offset + 1).start == offset {
                            self.read.push((offset, number_of(record.payload), record.headers.to_vec()));
                        }
                    }
                }
            }
            (asked, other) => panic!("seed {}: {asked:?} {other:?}", self.seed),
        }
    }

    fn opened(&mut self, queue: QueueId, life: Life) -> QueueInfo {
        let Life { incarnation, partitions, signing, .. } = life;
        let policy = if queue == JOBS { self.policy.clone() } else { Policy::default() };
        let policy = self.tenants.policies().add(queue, name(queue), policy);
        let info = QueueInfo { id: queue, incarnation, partitions, hash: 1, signing, policy };
        self.queues.insert(queue, info.clone());
        info
    }

    /// Does an errand, unless it fails.
    fn run_errand(&mut self) {
        let Some(Errand { id, what }) = self.errands.pop_front() else { return };
        let fails = self.fails && self.random.one_in(5);
        let fault = StoreFault::Unavailable("planned");
        let fetch = |partition, from, bytes_max, token| Request::Fetch {
            token,
            partition,
            from,
            bytes_max,
            exclude: None,
            view: View::Stored,
            wait: false,
        };
        match what {
            Wanted::Open(_) | Wanted::Find(_) if fails => {
                self.store.handle_done(self.now, id, Done::Opened(Err(fault.into())));
            }
            Wanted::End(..) if fails => self.store.handle_done(self.now, id, Done::End(Err(fault))),
            Wanted::Read(..) if fails => self.store.handle_done(self.now, id, Done::Read(Err(fault))),
            Wanted::Append(..) if fails && self.random.one_in(2) => {
                self.store.handle_done(self.now, id, Done::Appended(Err(fault)));
            }
            Wanted::Open(of) => {
                let queue = if of == name(DEAD) { DEAD } else { JOBS };
                self.ask_open(Some(id), queue);
            }
            Wanted::Find(of) => {
                let queue = if of == name(DEAD) { DEAD } else { JOBS };
                let asked = Asked::Open(Some(id), queue);
                let find = |token| Request::Open { token, queue, name: of, create: None };
                self.submit(asked, find);
            }
            Wanted::End(queue, partition) => {
                let (partition, position) = (queue.key(partition), Position::Latest);
                let resolve = |token| Request::Resolve { token, partition, position };
                self.submit(Asked::Errand(id), resolve);
            }
            Wanted::Read(queue, partition, from, bytes_max) => {
                self.submit(Asked::Errand(id), |token| fetch(queue.key(partition), from, bytes_max, token));
            }
            Wanted::Append(queue, partition, batch) => {
                let asked = if fails { Asked::Lost(id) } else { Asked::Errand(id) };
                let (partition, stream) = (queue.key(partition), Stream(id.0.into()));
                self.submit(asked, |token| Request::Append { token, stream, partition, batch });
            }
        }
        self.poll();
    }

    fn produce(&mut self) {
        let number = self.messages.len() as u64;
        self.messages.insert(number, Message::default());
        let mut builder = BatchBuilder::new(ClientId::from(9), 1_000_000, 0).with_shape(Shape::Keys);
        let key = number.to_le_bytes();
        builder.push_record(Record::keyed(&key[..number as usize % 3], &number.to_le_bytes()));
        let (partition, stream, batch) = (KEY, Stream(number.into()), builder.close());
        self.submit(Asked::Produce(number), |token| Request::Append { token, stream, partition, batch });
    }

    fn claim(&mut self, of: QueueId) {
        let terms = Terms { client: ClientId::from(1), ttl_secs: 3, grace_secs: 0 };
        let messages_max = 1 + self.random.below(4) as u32;
        let partition = Partition(if of == DEAD { self.random.below(2) as u16 } else { 0 });
        let asked = Asked::Claim(of, partition);
        let partition = PartitionKey { queue: of, partition };
        self.submit(asked, |token| Request::Claim {
            token,
            worker: Worker(1),
            partition,
            terms,
            messages_max,
            bytes_max: 10_000,
        });
    }

    fn settle(&mut self, what: Settle) {
        if self.leased.is_empty() {
            return;
        }
        let index = self.random.below(self.leased.len());
        let (lease, offset, number, ends) = self.leased.swap_remove(index);
        let is_held = ends > self.now.mono;
        if what == Settle::Ack {
            self.messages.get_mut(&number).unwrap().is_ack_sent = true;
        }
        let acked = (what == Settle::Ack && is_held).then_some(number);
        let (client, leases) = (ClientId::from(1), Leases::One(lease));
        let settlements = vec![Settlement { client, leases, offsets: vec![offset..offset + 1], what }];
        self.submit(Asked::Settle(acked), |token| Request::Settle { token, partition: KEY, settlements });
    }

    fn manage(&mut self, queue: QueueId, partition: u16, what: Manage) -> Result<Managed, StoreFault> {
        let partition = PartitionKey { queue, partition: Partition(partition) };
        self.managed = None;
        self.submit(Asked::Manage, |token| Request::Manage { token, partition, what });
        for _ in 0..10_000 {
            self.poll();
            if let Some(managed) = self.managed.take() {
                return managed;
            }
            self.ground.advance();
        }
        panic!("seed {}: no answer", self.seed);
    }

    /// Ends the server without a warning, and starts it again. Returns false if the store cannot survive that.
    fn crash(&mut self) -> bool {
        let Self { ground, random, .. } = self;
        if !ground.crash(random) {
            return false;
        }
        self.asked.clear();
        self.errands.clear();
        self.leased.clear();
        self.queues.clear();
        self.tenants = Arc::new(Tenants::new(ProjectLimits::default()));
        self.store = Ledgers::new(self.ground.start(self.now));
        self.begin();
        true
    }

    fn act(&mut self) {
        match self.random.below(24) {
            0..=3 => self.produce(),
            4..=8 => self.claim(JOBS),
            9 | 10 => self.settle(Settle::Ack),
            11 | 12 => self.settle(Settle::Reject),
            13 => self.settle(Settle::Release(Some(0))),
            14..=17 => self.run_errand(),
            18 if self.random.one_in(6) => {
                self.crash();
            }
            18 if self.queues.contains_key(&DEAD) => self.claim(DEAD),
            19 => {
                let by = Millis::new(self.random.below(2_000) as u64);
                self.pass(by);
            }
            _ => {
                self.ground.advance();
            }
        }
        self.poll();
    }

    /// Lets everything that is under way end.
    fn end(&mut self) {
        self.fails = false;
        for _ in 0..400 {
            self.pass(Millis::new(1_000));
            for _ in 0..50 {
                self.run_errand();
                self.poll();
                while self.ground.advance() {
                    self.poll();
                }
            }
        }
        assert!(self.errands.is_empty(), "seed {}", self.seed);
    }

    /// Returns the messages of a queue: number and headers.
    fn content(&mut self, queue: QueueId, view: View) -> Vec<(u64, Vec<u8>)> {
        self.open(queue);
        self.read.clear();
        for partition in Partition::all(self.queues[&queue].partitions) {
            let mut from = Some(Offset(0));
            while let Some(at) = from {
                self.submit(Asked::Read, |token| Request::Fetch {
                    token,
                    partition: PartitionKey { queue, partition },
                    from: at,
                    bytes_max: 1 << 20,
                    exclude: None,
                    view,
                    wait: false,
                });
                for _ in 0..10_000 {
                    self.poll();
                    if self.asked.is_empty() {
                        break;
                    }
                    self.ground.advance();
                }
                assert!(self.asked.is_empty(), "seed {}: {:?}", self.seed, self.asked);
                from = self.read_next.take();
            }
        }
        self.read.iter().map(|(_, number, headers)| (*number, headers.clone())).collect()
    }

    /// Checks that each message is in one place. Returns how many are dead letters.
    fn judge(&mut self) -> usize {
        let seed = self.seed;
        let here: Vec<u64> =
            self.content(JOBS, View::Unclaimed).into_iter().map(|(number, _)| number).collect();
        let dead = self.content(DEAD, View::Stored);
        let count = |of: &[u64], number: u64| of.iter().filter(|other| **other == number).count();
        // Those that were acknowledged there may be stored or not.
        let mut there: BTreeSet<_> = self.seen.clone();
        there.extend(self.read.iter().map(|(offset, number, _)| {
            let partition = self.seen.iter().find(|(of, _, at)| (of, at) == (number, offset));
            (*number, partition.map_or(Partition(9), |(_, partition, _)| *partition), *offset)
        }));
        let there: Vec<u64> = there.into_iter().map(|(number, ..)| number).collect();
        for (number, message) in &self.messages {
            let (here, there) = (count(&here, *number), count(&there, *number));
            assert!(here + there <= 1, "seed {seed}: {number} is here {here} times and dead {there} times");
            if message.is_stored && !message.is_ack_sent {
                assert_eq!(here + there, 1, "seed {seed}: {number} is lost");
            }
            if message.is_ack_told {
                assert_eq!(here + there, 0, "seed {seed}: {number} was acknowledged");
            }
        }
        for (number, headers) in &dead {
            let value = |name: &str| {
                let mut headers = HeadersReader::new(headers).map(Result::unwrap);
                let value = headers.find(|header| header.name == name).and_then(|header| header.value);
                String::from_utf8(value.unwrap().to_vec()).unwrap()
            };
            assert_eq!(value("millstream-dead-queue"), "jobs", "{number}");
            let reason = value("millstream-dead-reason");
            assert!(["rejected", "max_claim_count"].contains(&&reason[..]), "{reason}");
        }
        dead.len() + self.seen.len()
    }

    fn counters(&self) -> ClaimCounters {
        self.store.claims()
    }
}

fn token_of(completion: &Completion<u64>) -> &u64 {
    match completion {
        Completion::Appended { token, .. }
        | Completion::Fetched { token, .. }
        | Completion::Opened { token, .. }
        | Completion::Resolved { token, .. }
        | Completion::Deleted { token, .. }
        | Completion::Claimed { token, .. }
        | Completion::Watched { token, .. }
        | Completion::Settled { token, .. }
        | Completion::Managed { token, .. }
        | Completion::Altered { token, .. }
        | Completion::Listed { token, .. } => token,
    }
}

fn number_of(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload.try_into().unwrap())
}

fn run<G: Ground>(seed: u64, ground: G) -> usize {
    let mut post = Post::new(seed, ground);
    for _ in 0..400 {
        post.act();
    }
    post.end();
    post.judge()
}

#[test]
fn dead_letters_of_the_memory_store_are_there_once() {
    let dead: usize = (0..100).map(|seed| run(seed, InMemory)).sum();
    assert!(dead > 100, "{dead}");
}

#[test]
fn dead_letters_of_the_log_are_there_once_over_crashes() {
    let dead: usize = (0..100).map(|seed| run(seed, OnDisk::new(seed, 0))).sum();
    assert!(dead > 100, "{dead}");
}

#[test]
fn a_message_dies_after_as_many_claims_as_its_queue_allows_and_is_redriven() {
    let mut post = Post::new(1, InMemory);
    post.fails = false;
    (0..3).for_each(|_| post.produce());
    post.poll();
    for _ in 0..CLAIMS_MAX {
        (0..6).for_each(|_| post.claim(JOBS));
        post.poll();
        post.pass(Millis::new(4_000));
    }
    post.end();
    assert_eq!((post.judge(), post.counters().dead), (3, 3));
    // Back to where they come from, which gives them out again.
    let mut left = 0;
    for partition in 0..2 {
        let Ok(Managed::Redriven(moving)) = post.manage(DEAD, partition, Manage::Redrive { to: None }) else {
            panic!()
        };
        left += moving;
    }
    assert_eq!(left, 3);
    post.end();
    assert_eq!((post.content(JOBS, View::Unclaimed).len(), post.counters().redriven), (3, 3));
    assert!(post.content(DEAD, View::Unclaimed).is_empty());
    let own = Manage::Redrive { to: Some(name(DEAD).1) };
    assert!(matches!(post.manage(DEAD, 0, own), Err(StoreFault::Unsupported(_))));
}

#[test]
fn a_message_that_was_moved_too_often_is_deleted_and_counted() {
    let mut post = Post::new(1, InMemory);
    post.fails = false;
    let mut headers = Vec::new();
    put_header(HeaderRef { name: "millstream-dead-moves", value: Some(b"1000") }, &mut headers);
    for headers in [&headers[..], &[]] {
        let number = post.messages.len() as u64;
        post.messages.insert(number, Message::default());
        let mut builder = BatchBuilder::new(ClientId::from(9), 1_000, 0).with_shape(Shape::Headers);
        builder.push_record(Record { headers, ..Record::plain(&number.to_le_bytes()) });
        let (partition, stream, batch) = (KEY, Stream(1), builder.close());
        let append = |token| Request::Append { token, stream, partition, batch };
        post.submit(Asked::Produce(number), append);
        post.poll();
    }
    while post.leased.len() < 2 {
        post.claim(JOBS);
        post.poll();
    }
    (0..2).for_each(|_| post.settle(Settle::Reject));
    post.end();
    let counters = post.counters();
    assert_eq!((counters.dead, counters.dropped_dead, counters.rejected), (1, 1, 2));
    let dead: Vec<u64> = post.content(DEAD, View::Unclaimed).into_iter().map(|(number, _)| number).collect();
    assert_eq!((dead, post.content(JOBS, View::Unclaimed).len()), (vec![1], 0));
}

#[test]
fn rejected_messages_of_a_queue_without_a_dead_letter_queue_are_deleted() {
    let mut post = Post::new(1, InMemory);
    for dead_queue in [None, Some(name(JOBS).1)] {
        // A queue is not its own dead-letter queue.
        post.queues[&JOBS].policy.set(Policy { dead_queue, claims_max: Some(1), ..Policy::default() });
        post.produce();
        post.poll();
        while post.leased.is_empty() {
            post.claim(JOBS);
            post.poll();
        }
        post.settle(Settle::Reject);
        post.poll();
    }
    post.end();
    let counters = post.counters();
    assert_eq!((counters.dead, counters.rejected, counters.unsettled), (0, 2, 0));
    assert!(post.content(JOBS, View::Unclaimed).is_empty());
}

impl Post<OnDisk> {
    /// Makes a world in which nothing fails, with as many leased messages.
    fn leased(messages: usize) -> Self {
        let mut post = Self::new(1, OnDisk::new(1, 0));
        post.fails = false;
        (0..messages).for_each(|_| post.produce());
        post.settle_down();
        while post.leased.len() < messages {
            post.claim(JOBS);
            post.settle_down();
        }
        post
    }

    /// Lets the store do all that it can do without the shard.
    fn settle_down(&mut self) {
        self.poll();
        while self.ground.advance() {
            self.poll();
        }
    }

    /// Does errands up to the first that is meant, and takes that one.
    fn errand(&mut self, is_meant: impl Fn(&Wanted) -> bool) -> Errand {
        for _ in 0..100 {
            self.settle_down();
            if self.errands.front().is_some_and(|errand| is_meant(&errand.what)) {
                return self.errands.pop_front().unwrap();
            }
            if self.errands.is_empty() {
                self.pass(Millis::new(10));
            }
            self.run_errand();
        }
        panic!("no such errand");
    }

    /// Lets the note fail that would be sent now.
    fn lose_note(&mut self) {
        let now = self.now;
        let note = self.store.with_keeper(KEY, |keeper, out| {
            keeper.work(now, out);
            let is_note =
                |request: &Request<_>| matches!(request, Request::Append { token: AppendBy::Note(..), .. });
            let index = out.requests.iter().position(is_note).expect("there is a note");
            out.requests.remove(index)
        });
        let Some(Some(Request::Append { token, .. })) = note else { panic!() };
        let result = Err(StoreFault::Unavailable("planned"));
        assert!(self.store.handle(now, Completion::Appended { token, result }).is_none());
    }

    /// Passes time, and checks that nothing is asked of the shard.
    fn rest(&mut self) {
        for _ in 0..100 {
            self.pass(Millis::new(1_000));
            self.settle_down();
            assert!(self.errands.is_empty(), "{:?}", self.errands);
        }
    }
}

fn is_append(what: &Wanted) -> bool {
    matches!(what, Wanted::Append(..))
}

/// Makes a world in which a message is to be moved, and the note of that has just failed.
fn unnoted() -> Post<OnDisk> {
    let mut post = Post::leased(1);
    post.queues[&JOBS].policy.set(Policy { claims_max: Some(1), ..post.policy.clone() });
    let (.., ends) = post.leased[0];
    post.now = Now::at_ms(ends.get() + 1, post.now.unix.get() + ends.get());
    post.lose_note();
    post.settle_down();
    post
}

#[test]
fn a_move_that_cannot_be_noted_is_not_tried_again_at_once() {
    let mut post = unnoted();
    // On a disk that refuses every note, this would never end.
    assert!(post.errands.is_empty(), "{:?}", post.errands);
    post.pass(Millis::new(1_000));
    let _ = post.errand(|what| matches!(what, Wanted::Open(_)));
}

#[test]
fn a_message_that_cannot_be_moved_yet_is_not_given_out_once_more() {
    let mut post = unnoted();
    post.claim(JOBS);
    post.settle_down();
    assert_eq!(post.leased.len(), 1, "nothing is left to be leased: {:?}", post.leased);
    post.pass(Millis::new(1_000));
    let _ = post.errand(|what| matches!(what, Wanted::Open(_)));
}

#[test]
fn copies_that_are_being_appended_when_a_note_fails_are_not_appended_again() {
    let mut post = Post::leased(2);
    post.settle(Settle::Reject);
    let slow = post.errand(is_append);
    post.settle(Settle::Release(Some(0)));
    post.lose_note();
    post.rest();
    post.errands.push_back(slow);
    post.end();
    assert_eq!((post.judge(), post.counters().dead), (1, 1));
}

#[test]
fn copies_that_were_appended_when_a_note_fails_are_not_looked_for() {
    let mut post = Post::leased(1);
    post.settle(Settle::Reject);
    let Errand { id, what } = post.errand(is_append);
    let Wanted::Append(queue, partition, batch) = what else { panic!() };
    let (partition, stream) = (queue.key(partition), Stream(7));
    post.messages.insert(9, Message::default());
    post.submit(Asked::Produce(9), |token| Request::Append { token, stream, partition, batch });
    post.settle_down();
    assert!(post.messages.remove(&9).unwrap().is_stored);
    post.store.handle_done(post.now, id, Done::Appended(Ok(Some(Offset(0)..Offset(1)))));
    post.lose_note();
    post.rest();
    assert_eq!((post.judge(), post.counters().dead), (1, 1));
    // The second note that settles them is durable.
    assert!(post.crash());
    post.settle_down();
    post.rest();
    assert_eq!(post.judge(), 1);
}

#[test]
fn a_search_ends_where_the_queue_is_gone_or_was_cut() {
    for is_gone in [true, false] {
        let mut post = Post::leased(1);
        post.settle(Settle::Reject);
        post.errand(is_append);
        assert!(post.crash());
        let Errand { id, .. } = post.errand(|what| matches!(what, Wanted::Find(_)));
        assert!(post.store.has_doubts());
        if is_gone {
            post.store.handle_done(post.now, id, Done::Opened(Err(StoreFault::NoQueue.into())));
        } else {
            post.ask_open(Some(id), DEAD);
            let Errand { id, .. } = post.errand(|what| matches!(what, Wanted::Read(..)));
            let cut = Fetched { is_rewound: true, ..Fetched::default() };
            post.store.handle_done(post.now, id, Done::Read(Ok(cut)));
        }
        post.settle_down();
        let next = post.errands.front().map(|errand| &errand.what);
        assert!(matches!(next, Some(Wanted::Open(_))), "{next:?}");
        assert!(!post.store.has_doubts());
    }
}

#[test]
fn messages_that_are_deleted_before_their_aim_is_stored_are_not_moved() {
    for is_noting in [true, false] {
        let mut post = Post::leased(2);
        (0..2).for_each(|_| post.settle(Settle::Reject));
        let end = post.errand(|what| matches!(what, Wanted::End(..)));
        post.errands.push_back(end);
        if is_noting {
            post.run_errand();
        }
        let remove = Manage::Remove { offsets: vec![Offset(0)], only: Only::All };
        assert!(matches!(post.manage(JOBS, 0, remove), Ok(Managed::Removed(of)) if of == [Removed::Yes]));
        post.end();
        let dead = post.content(DEAD, View::Stored);
        let dead: Vec<u64> = dead.into_iter().map(|(number, _)| number).collect();
        assert_eq!((dead, post.counters().dead), (vec![1], 1), "{is_noting}");
    }
}

#[test]
fn a_move_that_fails_does_not_block_others_and_follows_the_policy() {
    let mut post = Post::leased(1);
    post.produce();
    post.settle_down();
    let queue = |queue| QueueName::parse(queue).unwrap();
    let is_open = |what: &Wanted| matches!(what, Wanted::Open(_));
    let redrive = Manage::Redrive { to: Some(queue("full")) };
    assert!(matches!(post.manage(JOBS, 0, redrive), Ok(Managed::Redriven(1))));
    for (name, policy) in [("full", None), ("dead", Some("other")), ("other", None)] {
        let Errand { id, what } = post.errand(is_open);
        assert!(matches!(&what, Wanted::Open((_, of)) if *of == queue(name)), "{what:?}");
        let fault = StoreFault::Unavailable("planned");
        post.store.handle_done(post.now, id, Done::Opened(Err(fault.into())));
        post.settle_down();
        match policy {
            None => post.settle(Settle::Reject),
            Some(other) => {
                let policy = Policy { dead_queue: Some(queue(other)), ..Policy::default() };
                post.queues[&JOBS].policy.set(policy);
                // Both pause. The first one asks again, too, and waits.
                post.pass(Millis::new(1_100));
                let Errand { id, .. } = post.errand(is_open);
                let fault = StoreFault::Unavailable("planned");
                post.store.handle_done(post.now, id, Done::Opened(Err(fault.into())));
            }
        }
    }
}

#[test]
fn messages_that_come_from_nowhere_stay_together() {
    let mut post = Post::new(1, InMemory);
    post.fails = false;
    let mut builder = BatchBuilder::new(ClientId::from(9), 1_000, 0);
    (0..500u64).for_each(|number| builder.push(&number.to_le_bytes()));
    post.messages.insert(0, Message::default());
    let (partition, stream, batch) = (KEY, Stream(1), builder.close());
    post.submit(Asked::Produce(0), |token| Request::Append { token, stream, partition, batch });
    post.poll();
    assert!(matches!(post.manage(JOBS, 0, Manage::Redrive { to: None }), Ok(Managed::Redriven(500))));
    post.end();
    let pieces = post.store.keepers[&KEY].ledger().pieces();
    assert_eq!((pieces.len(), pieces.free_messages()), (1, 500));
}

#[test]
fn expired_messages_are_not_redriven() {
    let mut post = Post::new(1, InMemory);
    post.fails = false;
    let mut builder = BatchBuilder::new(ClientId::from(9), 60, 0);
    builder.push(&7u64.to_le_bytes());
    post.messages.insert(7, Message::default());
    let (partition, stream, batch) = (KEY, Stream(1), builder.close());
    post.submit(Asked::Produce(7), |token| Request::Append { token, stream, partition, batch });
    post.poll();
    // The store has not deleted it yet.
    post.now = Now::at_ms(post.now.mono.get() + 200_000, post.now.unix.get() + 200_000);
    let redrive = Manage::Redrive { to: Some(name(DEAD).1) };
    assert!(matches!(post.manage(JOBS, 0, redrive), Ok(Managed::Redriven(0))));
}

#[test]
fn messages_that_are_being_moved_are_not_dropped() {
    let mut post = Post::leased(1);
    let dead_queue = Some(name(DEAD).1);
    let when_full = WhenFull::DropOldest;
    let policy = Policy { dead_queue, messages_max: Some(2), when_full, ..Policy::default() };
    post.queues[&JOBS].policy.set(policy);
    post.pass(Millis::new(1_000));
    post.settle(Settle::Reject);
    (0..4).for_each(|_| post.produce());
    post.settle_down();
    assert!(post.store.counters().dropped > 0);
    post.end();
    let dead = post.content(DEAD, View::Stored);
    assert_eq!(dead.into_iter().map(|(number, _)| number).collect::<Vec<_>>(), [0]);
}

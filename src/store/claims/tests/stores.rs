//! Ledgers around real stores: the memory store, and the log on a simulated disk that fails and forgets. Workers claim
//! and settle at random. What they were told must hold.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use crate::base::batch::{BatchBuilder, Fetched};
use crate::base::claim::{Grant, LeaseId, Leases, Leaving, Lost, Settle, Settlement, Terms, View, Worker};
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::{ClientId, Project, QueueName};
use crate::base::queue::{PartitionKey, QueueId};
use crate::base::units::{Offset, Partition};
use crate::store::claims::{Inner, Ledgers};
use crate::store::log::random::Random;
use crate::store::log::simulated::Simulated;
use crate::store::log::{self, Durability, Log, Moment};
use crate::store::memory::{Memory, WhenFull};
use crate::store::{Completion, NewQueue, Request, Store, Stream};

const QUEUE: QueueId = QueueId(1);
pub(super) const KEY: PartitionKey = PartitionKey { queue: QUEUE, partition: Partition(0) };
const CLIENTS: u128 = 3;
const TTL: u32 = 10;

/// Where a store lives, and what can happen to it.
pub(super) trait Ground {
    type Store: Store<Inner<u64>>;

    fn start(&mut self, now: Now) -> Self::Store;

    /// Lets the disk do something. Returns false if it has nothing to do.
    fn advance(&mut self) -> bool;

    /// Ends the store without a warning. Returns false if it cannot survive that.
    fn crash(&mut self, random: &mut Random) -> bool;
}

pub(super) struct InMemory;

impl Ground for InMemory {
    type Store = Memory<Inner<u64>>;

    fn start(&mut self, _: Now) -> Self::Store {
        Memory::new(64 << 20, WhenFull::Refuse, 7)
    }

    fn advance(&mut self) -> bool {
        false
    }

    fn crash(&mut self, _: &mut Random) -> bool {
        false
    }
}

pub(super) struct OnDisk {
    pub(super) disk: Simulated,
    boot: u128,
    config: log::Settings,
}

impl OnDisk {
    pub(super) fn new(seed: u64, tail_bytes: usize) -> Self {
        let config = log::Settings {
            segment_bytes: 64 << 10,
            tail_bytes,
            durability: Durability::Fsync,
            ..log::Settings::default()
        };
        Self { disk: Simulated::new(seed), boot: 1, config }
    }
}

impl Ground for OnDisk {
    type Store = Log<Inner<u64>, Simulated>;

    fn start(&mut self, now: Now) -> Self::Store {
        let moment = Moment { unix_ns: now.unix.get() * 1_000_000, boot: self.boot };
        let open = || log::open(&self.disk, 1, self.config.segment_bytes, &moment);
        let (dir, _) = open().unwrap_or_else(|_| {
            self.disk.heal();
            open().unwrap()
        });
        Log::new(Arc::new(dir), self.disk.clone(), 0, 1, &self.config)
    }

    fn advance(&mut self) -> bool {
        self.disk.advance()
    }

    fn crash(&mut self, random: &mut Random) -> bool {
        if random.one_in(2) {
            self.disk.lose_power();
            self.boot += 1;
        } else {
            self.disk.kill();
        }
        true
    }
}

/// What is known of a message.
#[derive(Clone, Debug, Default)]
struct Message {
    /// Whether its producer was told that it is stored.
    is_stored: bool,
    /// Whether somebody asked for it to be deleted, and was told that it is.
    is_ack_sent: bool,
    is_ack_told: bool,
    /// From when on it can be claimed.
    visible: UnixMillis,
    /// How often it was given out, as far as workers know.
    told: u32,
}

/// A lease that a worker was told of.
#[derive(Clone, Debug)]
struct Lease {
    worker: Worker,
    client: ClientId,
    /// The messages that nobody has settled yet, by offset.
    open: BTreeMap<Offset, Held>,
}

/// A leased message.
#[derive(Clone, Copy, Debug)]
struct Held {
    number: u64,
    /// Until when it is certainly leased.
    ends: Millis,
    /// The request that renews it.
    renewing: u64,
}

impl Lease {
    /// Returns whether a message is certainly leased.
    fn holds(&self, number: u64, now: Millis) -> bool {
        self.open.values().any(|held| held.number == number && held.ends > now)
    }
}

#[derive(Debug)]
enum Asked {
    Append(Vec<u64>),
    Claim(Worker, ClientId),
    Watch(Worker),
    Settle { lease: LeaseId, what: Settle, messages: Vec<u64>, at: Millis },
}

/// A store with producers and workers on one partition.
struct Site<G: Ground> {
    seed: u64,
    random: Random,
    ground: G,
    store: Ledgers<G::Store, u64>,
    now: Now,
    next_token: u64,
    asked: HashMap<u64, Asked>,
    messages: BTreeMap<u64, Message>,
    leases: BTreeMap<LeaseId, Lease>,
    workers: u128,
    is_fetched: bool,
}

impl<G: Ground> Site<G> {
    fn new(seed: u64, mut ground: G) -> Self {
        let now = Now::at_ms(1_000_000, 1_000_000_000_000);
        let store = Ledgers::new(ground.start(now));
        let mut site = Self {
            seed,
            random: Random(seed),
            ground,
            store,
            now,
            next_token: 0,
            asked: HashMap::new(),
            messages: BTreeMap::new(),
            leases: BTreeMap::new(),
            workers: 0,
            is_fetched: false,
        };
        site.open();
        site
    }

    fn submit(&mut self, asked: Asked, make: impl FnOnce(u64) -> Request<u64>) {
        self.next_token += 1;
        self.asked.insert(self.next_token, asked);
        assert!(self.store.submit(self.now, make(self.next_token)).is_ok());
    }

    /// Opens the queue. The disk may fail until then.
    fn open(&mut self) {
        for _ in 0..1000 {
            let name = (Project::parse("p").unwrap(), QueueName::parse("q").unwrap());
            let open = Request::Open { token: 0, queue: QUEUE, name, create: Some(NewQueue::plain(1)) };
            assert!(self.store.submit(self.now, open).is_ok());
            for _ in 0..1000 {
                while let Some(completion) = self.store.poll_completion(self.now) {
                    if let Completion::Opened { result: Ok(_), .. } = completion {
                        return;
                    }
                }
                if !self.ground.advance() {
                    break;
                }
            }
            self.pass(Millis::new(1_000));
        }
        panic!("seed {}: the queue does not open", self.seed);
    }

    fn produce(&mut self) {
        let delay = if self.random.one_in(5) { 1 + self.random.below(8) as u32 } else { 0 };
        let mut builder = BatchBuilder::new(ClientId::from(99), 1_000_000, 0).delayed(delay);
        let first = self.messages.len() as u64;
        let numbers: Vec<u64> = (first..=first + self.random.below(12) as u64).collect();
        for number in &numbers {
            let mut payload = number.to_le_bytes().to_vec();
            payload.resize(8 + self.random.below(300), 1);
            builder.push(&payload);
            let visible = self.now.unix + Millis::from_secs(delay);
            self.messages.insert(*number, Message { visible, ..Message::default() });
        }
        let (stream, batch) = (Stream(u128::from(self.next_token)), builder.close());
        let partition = KEY;
        self.submit(Asked::Append(numbers), |token| Request::Append { token, stream, partition, batch });
    }

    fn worker(&mut self) -> (Worker, ClientId) {
        let worker = 1 + self.random.below(5) as u128;
        self.workers = self.workers.max(worker);
        (Worker(worker), ClientId::from(worker % CLIENTS))
    }

    fn claim(&mut self, worker: Worker, client: ClientId) {
        let terms = Terms { client, ttl_secs: TTL, grace_secs: 5 };
        let (messages_max, bytes_max) = (1 + self.random.below(20) as u32, 2_000);
        let partition = KEY;
        self.submit(Asked::Claim(worker, client), |token| Request::Claim {
            token,
            worker,
            partition,
            terms,
            messages_max,
            bytes_max,
        });
    }

    fn watch(&mut self, worker: Worker) {
        if !self.asked.values().any(|asked| matches!(asked, Asked::Watch(of) if *of == worker)) {
            let partition = KEY;
            self.submit(Asked::Watch(worker), |token| Request::Watch { token, worker, partition, wanted: 5 });
        }
    }

    /// Settles some messages of a lease, maybe of one that is over.
    fn settle(&mut self, what: Settle, all: bool) {
        let open: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| !lease.open.is_empty()).map(|(id, _)| *id).collect();
        if open.is_empty() {
            return;
        }
        let id = open[self.random.below(open.len())];
        let Self { leases, random, messages, .. } = self;
        let lease = leases.get_mut(&id).unwrap();
        let chosen: Vec<(Offset, u64)> = lease
            .open
            .iter()
            .filter(|_| all || random.one_in(2))
            .map(|(offset, held)| (*offset, held.number))
            .collect();
        let mut offsets: Vec<Range<Offset>> = Vec::new();
        for (offset, number) in &chosen {
            match offsets.last_mut() {
                Some(last) if last.end == *offset => last.end = *offset + 1,
                _ => offsets.push(*offset..*offset + 1),
            }
            if let Settle::Renew(ttl) = what {
                // It may end earlier than before.
                let held = lease.open.get_mut(offset).unwrap();
                held.ends = held.ends.min(self.now.mono + Millis::from_secs(ttl));
                held.renewing = self.next_token + 1;
            } else {
                lease.open.remove(offset);
            }
            if matches!(what, Settle::Ack | Settle::Reject) {
                messages.get_mut(number).unwrap().is_ack_sent = true;
            }
        }
        if offsets.is_empty() {
            return;
        }
        let client = lease.client;
        let settlements = vec![Settlement { client, leases: Leases::One(id), offsets, what }];
        let messages = chosen.iter().map(|(_, number)| *number).collect();
        let (partition, at) = (KEY, self.now.mono);
        let asked = Asked::Settle { lease: id, what, messages, at };
        self.submit(asked, |token| Request::Settle { token, partition, settlements });
    }

    fn leave(&mut self, worker: Worker, leaving: Leaving) {
        let leave = Request::Leave { worker, partition: KEY, leaving };
        assert!(self.store.submit(self.now, leave).is_ok());
        if let Leaving::Settle(_) = leaving {
            self.leases
                .values_mut()
                .filter(|lease| lease.worker == worker)
                .for_each(|lease| lease.open.clear());
        }
    }

    fn poll(&mut self) {
        while let Some(completion) = self.store.poll_completion(self.now) {
            self.handle(completion);
        }
    }

    fn handle(&mut self, completion: Completion<u64>) {
        let seed = self.seed;
        match completion {
            Completion::Appended { token, result } => {
                let Some(Asked::Append(numbers)) = self.asked.remove(&token) else {
                    panic!("seed {seed}: {token}")
                };
                for number in numbers {
                    self.messages.get_mut(&number).unwrap().is_stored = result.is_ok();
                }
            }
            Completion::Claimed { token, result } => {
                let Some(Asked::Claim(worker, client)) = self.asked.remove(&token) else {
                    panic!("seed {seed}: {token}")
                };
                if let Ok(Some(grant)) = result {
                    self.handle_grant(worker, client, grant);
                }
            }
            Completion::Watched { token, .. } => {
                let Some(Asked::Watch(worker)) = self.asked.remove(&token) else {
                    panic!("seed {seed}: {token}")
                };
                // A worker that is told must claim.
                self.claim(worker, ClientId::from(worker.0 % CLIENTS));
            }
            Completion::Settled { token, result } => {
                let Some(Asked::Settle { lease, what, messages, at }) = self.asked.remove(&token) else {
                    panic!("seed {seed}: {token}")
                };
                if let Ok(lost) = result {
                    self.handle_settled(token, lease, what, &messages, at, &lost);
                }
            }
            Completion::Fetched { token, result } => {
                assert_eq!(token, u64::MAX, "seed {seed}");
                self.is_fetched = true;
                if let Ok(fetched) = result {
                    self.check_read(&fetched);
                }
            }
            Completion::Opened { .. }
            | Completion::Resolved { .. }
            | Completion::Managed { .. }
            | Completion::Altered { .. }
            | Completion::Deleted { .. } => {}
        }
    }

    fn handle_grant(&mut self, worker: Worker, client: ClientId, grant: Grant) {
        let (seed, now) = (self.seed, self.now);
        let Grant { lease, ends, runs } = grant;
        let mut open = BTreeMap::new();
        for run in &runs {
            for (index, offset) in
                run.offsets.start.following(run.offsets.end.since(run.offsets.start)).enumerate()
            {
                let first =
                    run.stored.batch.position_of(run.offsets.start.since(run.stored.base_offset) as u32);
                assert_eq!(first, run.record);
                let index = run.offsets.start.since(run.stored.base_offset) as usize + index;
                let number = number_of(run.stored.batch.payloads().nth(index).unwrap());
                for (id, other) in &self.leases {
                    assert!(
                        !other.holds(number, now.mono),
                        "seed {seed}: message {number} is in lease {lease:?}, and in {id:?}: {:?}",
                        other.open
                    );
                }
                let message = self.messages.get_mut(&number).unwrap();
                assert!(!message.is_ack_told, "seed {seed}: message {number} comes after its ack was told");
                assert!(
                    message.visible <= now.unix,
                    "seed {seed}: message {number} comes before its delay is over"
                );
                assert!(
                    run.count > message.told,
                    "seed {seed}: message {number} has count {} again",
                    run.count
                );
                message.told = run.count;
                open.insert(offset, Held { number, ends, renewing: 0 });
            }
        }
        let before = self.leases.insert(lease, Lease { worker, client, open });
        assert!(before.is_none(), "seed {seed}: {lease:?} is given twice");
    }

    fn handle_settled(
        &mut self,
        token: u64,
        lease: LeaseId,
        what: Settle,
        messages: &[u64],
        at: Millis,
        lost: &[Lost],
    ) {
        let is_whole = lost.is_empty();
        for number in messages {
            let message = self.messages.get_mut(number).unwrap();
            if matches!(what, Settle::Ack | Settle::Reject) && is_whole {
                message.is_ack_told = true;
            }
        }
        if let (Settle::Renew(ttl), true, Some(lease)) = (what, is_whole, self.leases.get_mut(&lease)) {
            for held in lease.open.values_mut().filter(|held| held.renewing == token) {
                held.ends = at + Millis::from_secs(ttl);
            }
        }
    }

    fn pass(&mut self, length: Millis) {
        self.now = self.now.later(length);
        self.store.handle_tick(self.now);
    }

    fn crash(&mut self) {
        if !self.ground.crash(&mut self.random) {
            return;
        }
        self.asked.clear();
        self.store = Ledgers::new(self.ground.start(self.now));
        self.open();
    }

    fn act(&mut self) {
        match self.random.below(40) {
            0..=7 => self.produce(),
            8..=15 => {
                let (worker, client) = self.worker();
                self.claim(worker, client);
            }
            16..=18 => {
                let (worker, _) = self.worker();
                self.watch(worker);
            }
            19..=27 => {
                let what = match self.random.below(10) {
                    0 => Settle::Release(None),
                    1 => Settle::Release(Some(self.random.below(4) as u32)),
                    2 => Settle::Reject,
                    3 => Settle::Renew(1 + self.random.below(30) as u32),
                    _ => Settle::Ack,
                };
                let all = self.random.one_in(2);
                self.settle(what, all);
            }
            28 => {
                let (worker, _) = self.worker();
                self.leave(worker, Leaving::Keep);
            }
            29..=32 => {
                let ms = self.random.below(4_000) as u64;
                self.pass(Millis::new(ms));
            }
            33 if self.random.one_in(4) => self.crash(),
            _ => {
                for _ in 0..self.random.below(10) {
                    self.ground.advance();
                }
                self.poll();
            }
        }
    }

    /// Lets everything end: a worker takes and acknowledges what is left. Nothing that was stored may be missing.
    fn drain(&mut self) {
        for _ in 0..4_000 {
            self.poll();
            if self.ground.advance() {
                continue;
            }
            let is_left = |message: &Message| message.is_stored && !message.is_ack_sent;
            if !self.messages.values().any(is_left)
                && self.asked.values().all(|asked| matches!(asked, Asked::Watch(_)))
            {
                return;
            }
            if !self.asked.values().any(|asked| matches!(asked, Asked::Claim(..))) {
                self.claim(Worker(77), ClientId::from(0));
            }
            self.settle(Settle::Ack, true);
            self.pass(Millis::new(500));
        }
        let left: Vec<_> =
            self.messages.iter().filter(|(_, message)| message.is_stored && !message.is_ack_sent).collect();
        panic!("seed {}: these messages never come: {left:?}", self.seed);
    }

    /// Reads the partition as a plain consumer.
    fn read(&mut self) {
        let fetch = Request::Fetch {
            token: u64::MAX,
            partition: KEY,
            from: Offset::ZERO,
            bytes_max: 100_000,
            exclude: None,
            view: View::Unclaimed,
            wait: false,
        };
        assert!(self.store.submit(self.now, fetch).is_ok());
        self.is_fetched = false;
        for _ in 0..10_000 {
            self.poll();
            if self.is_fetched {
                return;
            }
            self.ground.advance();
        }
        panic!("seed {}: a fetch is not answered", self.seed);
    }

    /// Checks that a plain consumer sees neither leased nor deleted messages.
    fn check_read(&self, fetched: &Fetched) {
        for stored in &fetched.batches {
            let offsets = stored.base_offset.following(u64::from(stored.batch.count()));
            for (offset, payload) in offsets.zip(stored.batch.payloads()) {
                if fetched.hidden.visible(offset, offset + 1).start > offset {
                    continue;
                }
                let (seed, number) = (self.seed, number_of(payload));
                assert!(!self.messages[&number].is_ack_told, "seed {seed}: {number} was deleted");
                let mut leases = self.leases.values();
                assert!(
                    !leases.any(|lease| lease.holds(number, self.now.mono)),
                    "seed {seed}: {number} is leased"
                );
            }
        }
    }
}

fn number_of(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().unwrap())
}

/// Runs random steps, then drains.
fn run<G: Ground>(seed: u64, ground: G) {
    let mut site = Site::new(seed, ground);
    for _ in 0..400 {
        site.act();
        if site.random.one_in(30) {
            site.read();
        }
    }
    site.drain();
}

#[test]
fn workers_on_the_memory_store_share_every_message_once() {
    (0..60).for_each(|seed| run(seed, InMemory));
}

#[test]
fn workers_on_the_log_share_every_message_once_over_crashes() {
    (0..100).for_each(|seed| run(seed, OnDisk::new(seed, if seed % 2 == 0 { 0 } else { 1 << 20 })));
}

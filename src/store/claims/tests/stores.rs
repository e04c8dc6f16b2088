//! Ledgers around real stores: the memory store, and the log on a simulated disk that fails and forgets. Workers claim
//! and settle at random. What they were told must hold.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use crate::base::batch::{BatchBuilder, Fetched};
use crate::base::claim::{
    Grant, Granted, LeaseId, Leases, Leaving, Lost, Settle, Settlement, Terms, View, Worker,
};
use crate::base::clock::Now;
use crate::base::manage::{ClaimView, Found, Manage, Managed, Only, Removed};
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
        Self::with_segments(seed, tail_bytes, 64 << 10)
    }

    pub(super) fn with_segments(seed: u64, tail_bytes: usize, segment_bytes: u64) -> Self {
        let config = log::Settings {
            segment_bytes,
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
    /// Where it is, if that was told.
    offset: Option<Offset>,
    /// How many requests are open that may delete it.
    removing: usize,
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
    /// The request that renews it, and until when it was certainly leased before, if that is for the whole lease.
    renewing: u64,
    before: Millis,
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
    Settle {
        lease: LeaseId,
        what: Settle,
        messages: Vec<u64>,
        at: Millis,
    },
    /// What the partition may hold, and the number of messages that were ever sent.
    Stats(Range<u64>, usize),
    Find(Vec<u64>, Vec<u64>),
    Remove(Vec<u64>, Only),
    Pop(usize),
    /// The messages that were stored, and the number of all.
    Purge(Vec<u64>, u64),
    /// A lease that is looked at, by its own client or another one, and the messages that were deleted before.
    Look(LeaseId, bool, Vec<u64>),
    Renew {
        lease: LeaseId,
        is_own: bool,
        ttl: u32,
        at: Millis,
    },
    Release,
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
    /// How many messages may have been popped by requests that have failed.
    popped: usize,
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
            popped: 0,
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

    /// Asks for single messages, or for all.
    fn manage(&mut self) {
        let ask = |site: &mut Self, asked, what| {
            site.submit(asked, |token| Request::Manage { token, partition: KEY, what });
        };
        let stored = self.messages.iter().filter_map(|(number, message)| Some((message.offset?, *number)));
        let mut stored: Vec<(Offset, u64)> = stored.collect();
        stored.sort_unstable();
        stored.retain(|_| self.random.one_in(8));
        let (offsets, numbers): (Vec<Offset>, Vec<u64>) = stored.into_iter().unzip();
        match self.random.below(12) {
            0..=3 => {
                let range = self.bounds();
                let sent = self.messages.len();
                ask(self, Asked::Stats(range, sent), Manage::Stats);
            }
            4..=6 => {
                let there =
                    numbers.iter().copied().filter(|number| is_left(&self.messages[number])).collect();
                ask(self, Asked::Find(numbers, there), Manage::Find(offsets));
            }
            7..=9 => {
                let leases: Vec<_> = self.leases.iter().map(|(id, lease)| (*id, lease.client)).collect();
                let only = match self.random.below(3) {
                    0 => Only::All,
                    1 if !leases.is_empty() => {
                        let (lease, client) = leases[self.random.below(leases.len())];
                        Only::In(client, lease)
                    }
                    _ => Only::Unclaimed,
                };
                for number in &numbers {
                    self.messages.get_mut(number).unwrap().removing += 1;
                }
                ask(self, Asked::Remove(numbers, only), Manage::Remove { offsets, only });
            }
            10 => {
                let messages_max = 1 + self.random.below(9) as u32;
                let what = Manage::Pop { messages_max, bytes_max: 1_000 };
                ask(self, Asked::Pop(messages_max as usize), what);
            }
            _ if self.random.one_in(5) => {
                let end = self.messages.len() as u64;
                self.messages.values_mut().for_each(|message| message.removing += 1);
                let stored = self.messages.iter().filter(|(_, message)| message.is_stored);
                let stored = stored.map(|(number, _)| *number).collect();
                ask(self, Asked::Purge(stored, end), Manage::Purge);
            }
            _ => {}
        }
    }

    /// Asks for a lease as a whole, by its id.
    fn manage_lease(&mut self) {
        let leases: Vec<_> = self.leases.iter().map(|(id, lease)| (*id, lease.client)).collect();
        if leases.is_empty() {
            return;
        }
        // Mostly one of the last ones.
        let newest = leases.len() - 1 - self.random.below(leases.len().min(6));
        let index = if self.random.one_in(5) { self.random.below(leases.len()) } else { newest };
        let (lease, owner) = leases[index];
        let is_own = !self.random.one_in(4);
        let client = if is_own { owner } else { ClientId::from((owner.as_u128() + 1) % CLIENTS) };
        let (token, at) = (self.next_token + 1, self.now.mono);
        let (asked, what) = match self.random.below(5) {
            0 | 1 => {
                let gone = self.messages.iter().filter(|(_, message)| message.is_ack_told);
                let gone = gone.map(|(number, _)| *number).collect();
                (Asked::Look(lease, is_own, gone), Manage::Claim(client, lease))
            }
            2 | 3 => {
                let (ttl, grace_secs) = (1 + self.random.below(30) as u32, self.random.below(9) as u32);
                let open = self.leases.get_mut(&lease).into_iter().flat_map(|lease| lease.open.values_mut());
                for held in open.filter(|held| is_own && held.ends > at) {
                    // It may end earlier than before.
                    held.before = held.ends;
                    held.ends = held.ends.min(at + Millis::from_secs(ttl));
                    held.renewing = token;
                }
                let what = Manage::Renew { client, lease, ttl_secs: ttl, grace_secs };
                (Asked::Renew { lease, is_own, ttl, at }, what)
            }
            _ => {
                if let Some(lease) = self.leases.get_mut(&lease).filter(|_| is_own) {
                    lease.open.clear();
                }
                (Asked::Release, Manage::Release(client, lease))
            }
        };
        self.submit(asked, |token| Request::Manage { token, partition: KEY, what });
    }

    /// Handles what was told of a lease that was looked at.
    fn handle_look(&self, id: LeaseId, is_own: bool, gone: &[u64], view: Option<&ClaimView>) {
        let (seed, now) = (self.seed, self.now.mono);
        let mut seen = Vec::new();
        for run in view.into_iter().flat_map(|view| &view.runs) {
            let mut at = run.record;
            for _ in run.offsets.start.0..run.offsets.end.0 {
                let (next, record) = run.stored.batch.record_at(at).unwrap();
                let number = number_of(record.payload);
                assert!(!gone.contains(&number), "seed {seed}: {number} of {id:?} is deleted");
                seen.push(number);
                at = next;
            }
        }
        assert!(is_own || seen.is_empty(), "seed {seed}: {id:?} is somebody else's");
        let Some(lease) = self.leases.get(&id).filter(|_| is_own && self.pops() == 0) else { return };
        for held in
            lease.open.values().filter(|held| held.ends > now && is_left(&self.messages[&held.number]))
        {
            assert!(seen.contains(&held.number), "seed {seed}: {} is in {id:?}: {seen:?}", held.number);
        }
    }

    /// Handles a renewal that was answered.
    fn handle_renewed(&mut self, token: u64, id: LeaseId, until: Millis, (is_own, is_live): (bool, bool)) {
        let (seed, now, pops) = (self.seed, self.now.mono, self.pops());
        assert!(is_own || !is_live, "seed {seed}: {id:?} is somebody else's");
        let Self { leases, messages, .. } = self;
        let open = leases.get_mut(&id).into_iter().flat_map(|lease| lease.open.values_mut());
        for held in open.filter(|held| held.renewing == token && held.before > now) {
            let is_certain = pops == 0 && is_left(&messages[&held.number]);
            assert!(is_live || !is_certain, "seed {seed}: {id:?} holds {}", held.number);
            if is_live {
                held.ends = until;
            }
        }
    }

    /// Returns the least and the largest number of messages that the partition may hold, and one more.
    fn bounds(&self) -> Range<u64> {
        let is_there = |message: &&Message| !message.is_ack_told;
        let least = self.messages.values().filter(|message| is_left(message)).count();
        let most = self.messages.values().filter(is_there).count();
        least.saturating_sub(self.pops()) as u64..most as u64 + 1
    }

    /// Returns how many messages may have been popped or purged without an answer.
    fn pops(&self) -> usize {
        if self.asked.values().any(|asked| matches!(asked, Asked::Purge(..))) {
            return self.messages.len();
        }
        let open = self.asked.values().map(|asked| if let Asked::Pop(most) = asked { *most } else { 0 });
        self.popped + open.sum::<usize>()
    }

    /// Handles what became of such a request; `None` if it has failed or is forgotten.
    fn handle_managed(&mut self, asked: Asked, answer: Option<Managed>) {
        let seed = self.seed;
        match (asked, answer) {
            (Asked::Stats(before, sent), Some(Managed::Stats(stats))) => {
                let after = self.bounds();
                let total = stats.free + stats.claimed + stats.delayed;
                let more = (self.messages.len() - sent) as u64;
                let range = before.start.min(after.start)..before.end + more;
                assert!(range.contains(&total), "seed {seed}: {stats:?} is not within {range:?}");
                assert_eq!(stats.bytes == 0, total == 0, "seed {seed}: {stats:?}");
                let ends = [stats.oldest, stats.newest].map(|end| end.map(|stored| stored.timestamp));
                assert!(ends[0] <= ends[1] || ends[1].is_none(), "seed {seed}: {stats:?}");
            }
            (Asked::Find(numbers, there), Some(Managed::Found(found))) => {
                let found = found.into_iter().map(|Found { stored, record, .. }| {
                    number_of(stored.batch.record_at(record).unwrap().1.payload)
                });
                let found: Vec<u64> = found.collect();
                assert!(found.iter().all(|number| numbers.contains(number)), "seed {seed}: {found:?}");
                for number in there.iter().filter(|number| is_left(&self.messages[number])) {
                    assert!(found.contains(number) || self.pops() > 0, "seed {seed}: {number} is not found");
                }
            }
            (Asked::Remove(numbers, only), answer) => self.handle_removed(&numbers, only, answer),
            (Asked::Pop(most), None) => self.popped += most,
            (Asked::Pop(_), Some(Managed::Popped(runs))) => self.handle_popped(runs),
            (Asked::Purge(stored, end), answer) => {
                let is_told = answer.is_some();
                for (number, message) in &mut self.messages {
                    if *number < end {
                        message.removing -= 1;
                        message.is_ack_told |= is_told && stored.contains(number);
                    }
                    // Those that were stored before the answer may be among them.
                    message.is_ack_sent = true;
                }
            }
            _ => {}
        }
    }

    fn handle_removed(&mut self, numbers: &[u64], only: Only, answer: Option<Managed>) {
        let (seed, now, pops) = (self.seed, self.now.mono, self.pops());
        let removed = match answer {
            Some(Managed::Removed(removed)) => removed,
            _ => Vec::new(),
        };
        for (index, number) in numbers.iter().enumerate() {
            let is_held = self.leases.values().any(|lease| lease.holds(*number, now));
            let message = self.messages.get_mut(number).unwrap();
            let was_left = message.removing == 1 && !message.is_ack_sent && message.is_stored;
            message.removing -= 1;
            match removed.get(index) {
                Some(Removed::Yes) => {
                    assert!(!message.is_ack_told, "seed {seed}: {number} is deleted twice");
                    assert!(only != Only::Unclaimed || !is_held, "seed {seed}: {number} is leased");
                    (message.is_ack_sent, message.is_ack_told) = (true, true);
                }
                Some(Removed::Absent) => {
                    assert!(!was_left || pops > 0, "seed {seed}: {number} is there")
                }
                Some(Removed::Claimed) => assert!(only != Only::All, "seed {seed}"),
                Some(Removed::Unclaimed) => assert!(matches!(only, Only::In(..)), "seed {seed}"),
                None => message.is_ack_sent = true,
            }
        }
    }

    fn handle_popped(&mut self, runs: Vec<Granted>) {
        let (seed, now) = (self.seed, self.now);
        for run in runs {
            let mut at = run.record;
            for _ in run.offsets.start.0..run.offsets.end.0 {
                let (next, record) = run.stored.batch.record_at(at).unwrap();
                let number = number_of(record.payload);
                at = next;
                let is_held = self.leases.values().any(|lease| lease.holds(number, now.mono));
                let message = self.messages.get_mut(&number).unwrap();
                assert!(!is_held && !message.is_ack_told, "seed {seed}: {number} is popped");
                assert!(message.visible <= now.unix, "seed {seed}: {number} comes before its delay is over");
                (message.is_ack_sent, message.is_ack_told) = (true, true);
            }
        }
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
                let first = result.as_ref().ok().map(|range| range.clone().unwrap().start);
                for (index, number) in (0..).zip(numbers) {
                    let message = self.messages.get_mut(&number).unwrap();
                    (message.is_stored, message.offset) = (result.is_ok(), first.map(|first| first + index));
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
            Completion::Managed { token, result } => {
                let Some(asked) = self.asked.remove(&token) else { panic!("seed {seed}: {token}") };
                match (asked, result) {
                    (Asked::Look(lease, is_own, gone), Ok(Managed::Claim(view))) => {
                        self.handle_look(lease, is_own, &gone, view.as_ref());
                    }
                    (Asked::Renew { lease, is_own, ttl, at }, Ok(Managed::Renewed(is_live))) => {
                        let until = at + Millis::from_secs(ttl);
                        self.handle_renewed(token, lease, until, (is_own, is_live));
                    }
                    (asked, result) => self.handle_managed(asked, result.ok()),
                }
            }
            Completion::Opened { .. }
            | Completion::Resolved { .. }
            | Completion::Altered { .. }
            | Completion::Listed { .. }
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
                open.insert(offset, Held { number, ends, renewing: 0, before: Millis::ZERO });
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
        let asked: Vec<Asked> = self.asked.drain().map(|(_, asked)| asked).collect();
        asked.into_iter().for_each(|asked| self.handle_managed(asked, None));
        self.store = Ledgers::new(self.ground.start(self.now));
        self.open();
    }

    fn act(&mut self) {
        match self.random.below(48) {
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
            36..=39 => self.manage_lease(),
            40..=44 => self.manage(),
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
        let (mut before, mut calm) = (0, 0);
        for _ in 0..4_000 {
            self.poll();
            if self.ground.advance() {
                continue;
            }
            let left = self.messages.values().filter(|message| is_left(message)).count();
            calm = if left == before { calm + 1 } else { 0 };
            before = left;
            if left <= self.popped
                && (left == 0 || calm > 300)
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
        let left: Vec<_> = self.messages.iter().filter(|(_, message)| is_left(message)).collect();
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

/// Returns whether a message must still come.
fn is_left(message: &Message) -> bool {
    message.is_stored && !message.is_ack_sent && message.removing == 0
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

//! What every store must do, whatever it is made of: one suite, run by each store's own tests.

use std::collections::HashMap;
use std::ops::Range;

use super::{Completion, Request, Store, Stream};
use crate::base::batch::{Batch, BatchBuilder, StoredBatch};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::{ClientId, Project, QueueName};
use crate::base::queue::{PartitionKey, Position, QueueId};
use crate::base::units::{Offset, Partition};

/// Where a kind of store is tried.
pub(super) trait Lab {
    type Store: Store<u64>;

    /// A new store.
    fn store(&self) -> Self::Store;

    /// The time on the store's own clock, Unix milliseconds, if it has one.
    fn unix(&self) -> Option<UnixMillis>;

    /// Waits until the store may have more to say; false where it has said all.
    fn wait(&self) -> bool;

    /// A queue that no other trial has.
    fn queue(&self) -> (QueueId, QueueName);
}

pub(super) fn key(partition: Partition) -> PartitionKey {
    PartitionKey { queue: QueueId(1), partition }
}

pub(super) fn batch(client: u128, ttl: u32, payloads: &[&[u8]]) -> Batch {
    let mut builder = BatchBuilder::new(ClientId::from(client), ttl, 0);
    payloads.iter().for_each(|payload| builder.push(payload));
    builder.close()
}

const PARTITIONS: u16 = 3;

/// A store, a queue in it, and the tokens that wait for their completion.
struct Trial<'a, L: Lab> {
    lab: &'a L,
    store: L::Store,
    queue: QueueId,
    base: UnixMillis,
    now: Now,
    next_token: u64,
    open: HashMap<u64, &'static str>,
}

impl<'a, L: Lab> Trial<'a, L> {
    fn new(lab: &'a L) -> Self {
        let (queue, name) = lab.queue();
        let now = Now::at_ms(1, 1_000_000_000);
        let (next_token, open, base) = (0, HashMap::new(), UnixMillis::ZERO);
        let mut trial = Self { lab, store: lab.store(), queue, base, now, next_token, open };
        let life = trial.open_queue(name, Some(PARTITIONS)).unwrap();
        assert_eq!(life.partitions, PARTITIONS);
        trial.base = lab.unix().unwrap_or(now.unix);
        trial.at(0);
        trial
    }

    /// It is so many seconds after the beginning.
    fn at(&mut self, seconds: u32) {
        self.now = Now::at_ms(1, self.base.get()).later(Millis::from_secs(seconds));
    }

    /// What is stored from now on is stored later than what was before.
    fn let_time_pass(&mut self) {
        self.now = self.now.later(Millis::new(10_000));
        if let Some(before) = self.lab.unix() {
            while self.lab.unix().is_some_and(|now| now < before + Millis::new(3)) {
                std::hint::spin_loop();
            }
        }
    }

    fn key(&self, partition: Partition) -> PartitionKey {
        PartitionKey { queue: self.queue, partition }
    }

    fn submit(&mut self, what: &'static str, make: impl FnOnce(u64) -> Request<u64>) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.open.insert(token, what);
        assert!(self.store.submit(self.now, make(token)).is_ok(), "an idle store takes a request");
        token
    }

    fn open_queue(&mut self, name: QueueName, create: Option<u16>) -> Result<super::Life, StoreFault> {
        let (queue, project) = (self.queue, Project::parse("conformance").unwrap());
        let token =
            self.submit("open", |token| Request::Open { token, queue, name: (project, name), create });
        match self.completion_of(token) {
            Completion::Opened { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    fn append(&mut self, partition: Partition, batch: Batch) -> u64 {
        let partition = self.key(partition);
        self.submit("append", |token| Request::Append { token, stream: Stream(0), partition, batch })
    }

    fn fetch(&mut self, partition: Partition, from: Offset, exclude: Option<u128>, wait: bool) -> u64 {
        let (partition, exclude) = (self.key(partition), exclude.map(ClientId::from));
        self.submit("fetch", |token| Request::Fetch {
            token,
            partition,
            from,
            bytes_max: 1 << 20,
            exclude,
            wait,
        })
    }

    fn cancel(&mut self, token: u64, partition: Partition) {
        let partition = self.key(partition);
        assert!(self.store.submit(self.now, Request::Cancel { token, partition }).is_ok());
    }

    /// Waits until the store may have more to say; false where it has said all.
    fn wait(&mut self) -> bool {
        let goes_on = self.lab.wait();
        // A store may want to be asked again after a while.
        self.now.mono = self.now.mono + Millis::new(100);
        self.store.handle_tick(self.now);
        goes_on
    }

    /// What is there now.
    fn completions(&mut self) -> Vec<Completion<u64>> {
        let mut all = Vec::new();
        while let Some(completion) = self.store.poll_completion(self.now) {
            let token = completion.token();
            assert!(self.open.remove(&token).is_some(), "token {token} completed twice");
            all.push(completion);
        }
        all
    }

    /// The completion of that token, which is the only one to come.
    fn completion_of(&mut self, token: u64) -> Completion<u64> {
        loop {
            let mut all = self.completions();
            if !all.is_empty() {
                assert_eq!((all.len(), all[0].token()), (1, token), "{all:?}");
                return all.remove(0);
            }
            assert!(self.wait(), "{:?} was never completed", self.open);
        }
    }

    fn store(&mut self, partition: Partition, client: u128, payloads: &[&[u8]]) -> Range<Offset> {
        let token = self.append(partition, batch(client, 1000, payloads));
        self.appended(token)
    }

    fn appended(&mut self, token: u64) -> Range<Offset> {
        match self.completion_of(token) {
            Completion::Appended { result, .. } => result.unwrap().expect("nobody else stores here"),
            other => panic!("{other:?}"),
        }
    }

    /// What a fetch brings: batches, where to go on, and whether that is the end.
    fn fetched(&mut self, token: u64) -> (Vec<StoredBatch>, Offset, bool) {
        match self.completion_of(token) {
            Completion::Fetched { result: Ok(fetched), .. } => {
                (fetched.batches, fetched.next, fetched.at_end)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Fetches until there are so many messages; what came, and where to go on.
    fn read(
        &mut self,
        partition: Partition,
        mut from: Offset,
        exclude: Option<u128>,
        count: usize,
    ) -> (Vec<StoredBatch>, Offset) {
        let mut batches = Vec::new();
        while payloads(&batches).len() < count {
            let token = self.fetch(partition, from, exclude, true);
            let (more, next, _) = self.fetched(token);
            assert!(next > from, "a fetch that waits brings something, or passes something over");
            batches.extend(more);
            from = next;
        }
        (batches, from)
    }

    /// Reads on to the end, without waiting.
    fn read_to_end(&mut self, partition: Partition, mut from: Offset) -> (Vec<StoredBatch>, Offset) {
        let mut batches = Vec::new();
        loop {
            let token = self.fetch(partition, from, None, false);
            let (more, next, at_end) = self.fetched(token);
            batches.extend(more);
            from = next;
            if at_end {
                return (batches, from);
            }
        }
    }

    /// A fetch that has found nothing and waits; where.
    fn park(&mut self, partition: Partition, mut from: Offset, exclude: Option<u128>) -> (u64, Offset) {
        // Until the end is known to the store, there may be answers that only pass over what is left out.
        self.read_to_end(partition, from);
        loop {
            let token = self.fetch(partition, from, exclude, true);
            match &self.completions()[..] {
                [] => return (token, from),
                [Completion::Fetched { result: Ok(fetched), .. }] => {
                    assert!(fetched.batches.is_empty() && fetched.next > from);
                    from = fetched.next;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn payloads(batches: &[StoredBatch]) -> Vec<Vec<u8>> {
    batches.iter().flat_map(|stored| stored.batch.payloads().map(<[u8]>::to_vec)).collect()
}

pub(super) fn run<L: Lab>(lab: &L) {
    a_queue_that_may_not_be_made_is_not(lab);
    offsets_count_up_in_each_partition(lab);
    a_fetch_brings_what_was_stored_from_its_offset_on(lab);
    a_fetch_waits_for_the_next_append(lab);
    a_fetch_that_does_not_wait_says_that_the_end_is_reached(lab);
    what_a_client_stored_is_left_out_for_it(lab);
    keys_come_back_with_their_payloads(lab);
    expired_batches_are_not_read(lab);
    positions_are_found_by_end_and_by_time(lab);
    timestamps_never_run_backwards(lab);
    park_and_cancel_leaves_no_fetch_behind(lab);
    a_limit_of_bytes_ends_a_fetch_between_batches(lab);
    many_batches_come_back_whole_and_in_order(lab);
}

fn a_queue_that_may_not_be_made_is_not<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let (_, other) = lab.queue();
    assert_eq!(trial.open_queue(other, None), Err(StoreFault::NoQueue));
}

fn offsets_count_up_in_each_partition<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    assert_eq!(trial.store(Partition(0), 1, &[b"a", b"b"]), Offset(0)..Offset(2));
    assert_eq!(trial.store(Partition(1), 1, &[b"c"]), Offset(0)..Offset(1));
    // Between two appends a store may leave offsets out.
    let third = trial.store(Partition(0), 1, &[b"d", b"e", b"f"]);
    assert!(third.start >= Offset(2) && third.end == third.start + 3, "{third:?}");
    assert_eq!(trial.store.counters().stored, 6);
}

fn a_fetch_brings_what_was_stored_from_its_offset_on<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    trial.store(Partition(0), 1, &[b"a", b"b"]);
    let last = trial.store(Partition(0), 1, &[b"c"]);
    let (batches, next) = trial.read(Partition(0), Offset(1), None, 2);
    let wanted: Vec<Vec<u8>> = [b"a", b"b", b"c"].map(|payload| payload.to_vec()).to_vec();
    // The first batch may begin before what was asked for.
    assert_eq!(payloads(&batches), wanted[batches[0].base_offset.0 as usize..]);
    assert!(batches[0].base_offset <= Offset(1) && next >= last.end);
    let (batches, _) = trial.read(Partition(0), last.start, None, 1);
    assert_eq!(payloads(&batches).last(), wanted.last());
    let token = trial.fetch(Partition(0), Offset(99 << 32), None, false);
    let Completion::Fetched { result: Ok(fetched), .. } = trial.completion_of(token) else { panic!() };
    assert!(fetched.is_rewound, "the consumer is told that its position is beyond the end");
    assert!(fetched.batches.is_empty(), "nothing of what is here was asked for");
    assert_eq!(fetched.next, Offset(0), "what was stored since may lie before the end that is there now");
}

fn a_fetch_waits_for_the_next_append<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let (first, _) = trial.park(Partition(0), Offset(0), None);
    let (other, _) = trial.park(Partition(1), Offset(0), None);
    trial.append(Partition(0), batch(1, 60, &[b"a"]));
    let mut left = 2;
    while left > 0 {
        for completion in trial.completions() {
            left -= 1;
            if let Completion::Fetched { token, result } = completion {
                assert_eq!((token, payloads(&result.unwrap().batches)), (first, vec![b"a".to_vec()]));
            }
        }
        assert!(left == 0 || trial.wait(), "{:?}", trial.open);
    }
    assert_eq!(trial.open.keys().collect::<Vec<_>>(), [&other]);
}

fn a_fetch_that_does_not_wait_says_that_the_end_is_reached<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let token = trial.fetch(Partition(0), Offset(0), None, false);
    assert!(trial.fetched(token).2);
}

fn what_a_client_stored_is_left_out_for_it<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    trial.store(Partition(0), 1, &[b"mine"]);
    trial.store(Partition(0), 2, &[b"theirs"]);
    trial.store(Partition(0), 1, &[b"mine again"]);
    let (batches, next) = trial.read(Partition(0), Offset(0), Some(1), 1);
    assert_eq!(payloads(&batches), [b"theirs"]);
    let (fetch, _) = trial.park(Partition(0), next, Some(1));
    let mine = trial.append(Partition(0), batch(1, 60, &[b"mine"]));
    trial.appended(mine);
    trial.append(Partition(0), batch(2, 60, &[b"theirs, too"]));
    let mut seen = Vec::new();
    let mut waiting = fetch;
    while seen.is_empty() {
        for completion in trial.completions() {
            if let Completion::Fetched { token, result } = completion {
                assert_eq!(token, waiting);
                let fetched = result.unwrap();
                seen.extend(payloads(&fetched.batches));
                if seen.is_empty() {
                    waiting = trial.fetch(Partition(0), fetched.next, Some(1), true);
                }
            }
        }
        assert!(!seen.is_empty() || trial.wait());
    }
    assert_eq!(seen, [b"theirs, too"]);
}

fn keys_come_back_with_their_payloads<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let mut builder = BatchBuilder::with_keys(ClientId::from(1), 1000, 0);
    let messages = [(&b"k"[..], &b"one"[..]), (b"", b"two"), (b"key", b"")];
    messages.iter().for_each(|(key, payload)| builder.push_keyed(key, payload));
    let token = trial.append(Partition(2), builder.close());
    assert_eq!(trial.appended(token), Offset(0)..Offset(3), "the first of a queue");
    let (batches, _) = trial.read(Partition(2), Offset(0), None, 3);
    let records: Vec<_> = batches
        .iter()
        .flat_map(|stored| stored.batch.records().map(|record| (record.key, record.payload)))
        .collect();
    assert_eq!(records, messages);
}

fn expired_batches_are_not_read<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    for (ttl, payload) in [(60, &b"short"[..]), (1000, b"long")] {
        let token = trial.append(Partition(0), batch(1, ttl, &[payload]));
        trial.appended(token);
    }
    trial.at(30);
    assert_eq!(payloads(&trial.read_to_end(Partition(0), Offset(0)).0).len(), 2);
    trial.at(500);
    let (batches, next) = trial.read_to_end(Partition(0), Offset(0));
    assert_eq!(payloads(&batches), [b"long"]);
    trial.at(2000);
    trial.store.handle_tick(trial.now);
    let (batches, after) = trial.read_to_end(Partition(0), Offset(0));
    assert_eq!((payloads(&batches).len(), after), (0, next), "offsets go on behind what is gone");
}

fn positions_are_found_by_end_and_by_time<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let stored = [(); 3].map(|()| {
        trial.let_time_pass();
        trial.store(Partition(0), 1, &[b"a", b"b"])
    });
    let (batches, end) = trial.read(Partition(0), Offset(0), None, 6);
    let time_of = |offset: Offset| {
        batches.iter().find(|stored| stored.end_offset() > offset).expect("it was read").timestamp
    };
    let (second, third) = (stored[1].start, stored[2].start);
    for (position, expected) in [
        (Position::Latest, stored[2].end),
        (Position::Time(UnixMillis::ZERO), Offset(0)),
        (Position::Time(time_of(second)), second),
        (Position::Time(time_of(second) + Millis::new(1)), third),
        (Position::Time(time_of(third) + Millis::new(1)), stored[2].end),
    ] {
        let partition = trial.key(Partition(0));
        let token = trial.submit("resolve", |token| Request::Resolve { token, partition, position });
        let Completion::Resolved { result: Ok(found), .. } = trial.completion_of(token) else { panic!() };
        // The end may be behind what a store leaves out.
        assert!(
            found == expected || expected == stored[2].end && found >= end,
            "{position:?}: {found}, not {expected}"
        );
    }
}

fn timestamps_never_run_backwards<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    trial.at(20);
    trial.store(Partition(0), 1, &[b"a"]);
    trial.at(10);
    trial.store(Partition(0), 1, &[b"b"]);
    let (batches, _) = trial.read(Partition(0), Offset(0), None, 2);
    assert!(batches.iter().map(|stored| stored.timestamp).is_sorted());
}

fn park_and_cancel_leaves_no_fetch_behind<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    Partition::all(PARTITIONS).for_each(|partition| {
        let (token, _) = trial.park(partition, Offset(0), None);
        trial.cancel(token, partition);
        trial.completion_of(token);
    });
    for round in 0..100_000u64 {
        let partition = Partition((round % 3) as u16);
        let token = trial.fetch(partition, Offset(0), None, true);
        assert!(trial.completions().is_empty());
        trial.cancel(token, partition);
        assert_eq!(trial.completions().len(), 1);
        trial.cancel(token, partition);
        assert!(trial.completions().is_empty(), "a fetch that is done cannot be cancelled");
    }
    assert_eq!(trial.store.waiting(), 0);
    trial.store(Partition(0), 1, &[b"a"]);
    assert!(trial.open.is_empty(), "{:?}", trial.open);
}

fn a_limit_of_bytes_ends_a_fetch_between_batches<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let last = [(); 4].map(|()| trial.store(Partition(0), 1, &[&[0; 600_000]]).end)[3];
    let (mut from, mut fetches) = (Offset::ZERO, 0);
    while from < last {
        let token = trial.fetch(Partition(0), from, None, true);
        let (batches, next, _) = trial.fetched(token);
        assert!(batches.len() <= 2 && next > from, "{from} {next}");
        (from, fetches) = (next, fetches + usize::from(!batches.is_empty()));
    }
    assert!(fetches >= 2, "{fetches}");
}

fn many_batches_come_back_whole_and_in_order<L: Lab>(lab: &L) {
    const BATCHES: u32 = 200;
    const MESSAGES: u32 = 100;
    let mut trial = Trial::new(lab);
    let number = |number: u32| number.to_le_bytes();
    for first in (0..BATCHES).map(|index| index * MESSAGES) {
        let numbers: Vec<_> = (first..first + MESSAGES).map(number).collect();
        let messages: Vec<&[u8]> = numbers.iter().map(|number| &number[..]).collect();
        trial.append(Partition(1), batch(1, 1000, &messages));
    }
    let mut next_offset = Offset::ZERO;
    while !trial.open.is_empty() {
        for completion in trial.completions() {
            let Completion::Appended { result, .. } = completion else { panic!("{completion:?}") };
            let offsets = result.unwrap().expect("nobody else stores here");
            assert!(offsets.start >= next_offset, "they complete in order");
            assert_eq!(offsets.end, offsets.start + u64::from(MESSAGES));
            next_offset = offsets.end;
        }
        assert!(trial.open.is_empty() || trial.wait());
    }
    let (batches, _) = trial.read(Partition(1), Offset(0), None, (BATCHES * MESSAGES) as usize);
    let read: Vec<u32> = payloads(&batches)
        .iter()
        .map(|payload| u32::from_le_bytes(payload[..].try_into().unwrap()))
        .collect();
    assert_eq!(read, (0..BATCHES * MESSAGES).collect::<Vec<u32>>());
}

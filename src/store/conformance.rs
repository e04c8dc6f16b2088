//! The tests that every store must pass. Each store's own tests run them.

use std::collections::HashMap;
use std::ops::Range;

use super::{Completion, NO_CLAIMS, NewQueue, Request, StateKeeping, Store, Stream};
use crate::base::attributes::Attributes;
use crate::base::batch::{Batch, BatchBuilder, Record, Shape, StoredBatch};
use crate::base::claim::{LeaseId, View};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::{Found, Manage, Managed, Only};
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::{ClientId, Project, QueueName};
use crate::base::queue::{PartitionKey, Position, QueueId};
use crate::base::units::{Offset, Partition};
use crate::pb::headers::{HeaderRef, put_header};

/// The environment in which a kind of store is tested.
pub(super) trait Lab {
    type Store: Store<u64>;

    /// Creates a store.
    fn store(&self) -> Self::Store;

    /// Returns the time of the store's own clock, if it has one.
    fn unix(&self) -> Option<UnixMillis>;

    /// Waits until the store may have more completions. Returns false if it has none left.
    fn wait(&self) -> bool;

    /// Returns a queue that no other test uses.
    fn queue(&self) -> (QueueId, QueueName);

    /// Ends the store without a stop, and starts it again. Returns `None` if it then has nothing.
    fn reopen(&self, _store: Self::Store) -> Option<Self::Store> {
        None
    }

    /// Returns whether the store keeps a catalogue of its queues.
    fn has_catalogue(&self) -> bool {
        false
    }

    /// Returns whether the store adds partitions to a queue.
    fn adds_partitions(&self) -> bool {
        true
    }

    /// Returns whether the store finds single messages itself.
    fn finds_messages(&self) -> bool {
        false
    }
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

/// A store, a queue in it, and the tokens of open requests.
struct Trial<'a, L: Lab> {
    lab: &'a L,
    store: L::Store,
    queue: QueueId,
    name: QueueName,
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
        let store = lab.store();
        let mut trial = Self { lab, store, queue, name: name.clone(), base, now, next_token, open };
        let life = trial.open_queue(name, Some(PARTITIONS)).unwrap();
        assert_eq!(life.partitions, PARTITIONS);
        trial.base = lab.unix().unwrap_or(now.unix);
        trial.at(0);
        trial
    }

    /// Sets the time to `seconds` after the start.
    fn at(&mut self, seconds: u32) {
        self.now = Now::at_ms(1, self.base.get()).later(Millis::from_secs(seconds));
    }

    /// Advances the time, so that later messages have later timestamps than earlier ones.
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
        self.open_new(name, create.map(NewQueue::plain))
    }

    fn alter_queue(&mut self, attributes: Attributes, partitions: u16) -> Result<super::Life, StoreFault> {
        let name = (Project::parse("conformance").unwrap(), self.name.clone());
        let token = self.submit("alter", |token| Request::Alter { token, name, attributes, partitions });
        match self.completion_of(token) {
            Completion::Altered { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    fn open_new(&mut self, name: QueueName, create: Option<NewQueue>) -> Result<super::Life, StoreFault> {
        let (queue, project) = (self.queue, Project::parse("conformance").unwrap());
        let name = (project, name);
        let token = self.submit("open", |token| Request::Open { token, queue, name, create });
        match self.completion_of(token) {
            Completion::Opened { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    fn delete_queue(&mut self) -> Result<u64, StoreFault> {
        let name = (Project::parse("conformance").unwrap(), self.name.clone());
        let token = self.submit("delete", |token| Request::Delete { token, name });
        match self.completion_of(token) {
            Completion::Deleted { result, .. } => result,
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
            view: View::Unclaimed,
            wait,
        })
    }

    /// Reads everything that is stored, expired or not.
    fn read_stored(&mut self, partition: Partition) -> Vec<StoredBatch> {
        let (mut batches, mut from, partition) = (Vec::new(), Offset::ZERO, self.key(partition));
        loop {
            let token = self.submit("fetch", |token| Request::Fetch {
                token,
                partition,
                from,
                bytes_max: 1 << 20,
                exclude: None,
                view: View::Stored,
                wait: false,
            });
            let (more, next, at_end) = self.fetched(token);
            batches.extend(more);
            from = next;
            if at_end {
                return batches;
            }
        }
    }

    /// Ends the store without a stop, and starts it again. Returns false if it then has nothing.
    fn reopen(&mut self) -> bool {
        let store = std::mem::replace(&mut self.store, self.lab.store());
        match self.lab.reopen(store) {
            Some(store) => self.store = store,
            None => return false,
        }
        self.open.clear();
        true
    }

    fn cancel(&mut self, token: u64, partition: Partition) {
        let partition = self.key(partition);
        assert!(self.store.submit(self.now, Request::Cancel { token, partition }).is_ok());
    }

    /// Waits until the store may have more completions. Returns false if it has none left.
    fn wait(&mut self) -> bool {
        let goes_on = self.lab.wait();
        // A store may only be able to continue after some time.
        self.now.mono = self.now.mono + Millis::new(100);
        self.store.handle_tick(self.now);
        goes_on
    }

    /// Returns all present completions.
    fn completions(&mut self) -> Vec<Completion<u64>> {
        let mut all = Vec::new();
        while let Some(completion) = self.store.poll_completion(self.now) {
            let token = completion.token();
            assert!(self.open.remove(&token).is_some(), "token {token} completed twice");
            all.push(completion);
        }
        all
    }

    /// Waits for the completion of `token`, which must be the only one.
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

    /// Returns the result of a fetch: batches, the next offset, and whether that is the end.
    fn fetched(&mut self, token: u64) -> (Vec<StoredBatch>, Offset, bool) {
        match self.completion_of(token) {
            Completion::Fetched { result: Ok(fetched), .. } => {
                (fetched.batches, fetched.next, fetched.at_end)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Fetches until `count` messages have arrived. Returns them and the next offset.
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
            assert!(next > from, "a waiting fetch returns messages or skips some");
            batches.extend(more);
            from = next;
        }
        (batches, from)
    }

    /// Reads to the end, without waiting.
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

    /// Starts a fetch that finds nothing and waits. Returns its token and its offset.
    fn park(&mut self, partition: Partition, mut from: Offset, exclude: Option<u128>) -> (u64, Offset) {
        // Until the store knows the end, a fetch may complete only to skip messages that are left out.
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
    a_queue_is_not_created_without_permission(lab);
    if lab.has_catalogue() {
        a_deleted_queue_does_not_exist_and_another_takes_its_name(lab);
    } else {
        a_store_without_a_catalogue_deletes_nothing(lab);
    }
    attributes_and_added_partitions_are_kept(lab);
    offsets_increase_in_each_partition(lab);
    a_fetch_returns_the_messages_from_its_offset_on(lab);
    a_fetch_waits_for_the_next_append(lab);
    a_fetch_that_does_not_wait_reports_the_end(lab);
    a_clients_own_messages_are_left_out_for_it(lab);
    keys_and_headers_are_returned_with_their_payloads(lab);
    expired_batches_are_not_read(lab);
    positions_are_found_by_end_and_by_time(lab);
    timestamps_never_run_backwards(lab);
    cancelled_fetches_leave_nothing_behind(lab);
    the_byte_limit_ends_a_fetch_between_batches(lab);
    many_batches_are_returned_complete_and_in_order(lab);
    if lab.finds_messages() {
        single_messages_are_found_by_their_offsets(lab);
    } else {
        a_store_without_ledgers_refuses_requests_about_single_messages(lab);
    }
    if L::Store::STATE == StateKeeping::None {
        a_store_without_claims_refuses_delays(lab);
    } else {
        hidden_partitions_take_state_and_give_it_back(lab);
        a_release_takes_nothing_that_is_not_below_it(lab);
        pinned_messages_stay_after_they_have_expired(lab);
        expired_messages_are_read_if_the_view_has_them(lab);
        a_delay_is_kept_with_its_messages(lab);
    }
}

fn attributes() -> Attributes {
    Attributes::parse_stored(br#"{"_default_message_ttl":60,"mine":[1.5,"a"]}"#).unwrap()
}

fn attributes_and_added_partitions_are_kept<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let more = if lab.adds_partitions() { PARTITIONS + 1 } else { PARTITIONS };
    let life = trial.alter_queue(attributes(), more).unwrap();
    assert_eq!((life.partitions, life.attributes.clone()), (more, attributes()));
    if lab.adds_partitions() {
        trial.store(Partition(PARTITIONS), 1, &[b"in the new partition"]);
    } else {
        let refused = trial.alter_queue(attributes(), PARTITIONS + 1);
        assert!(matches!(refused, Err(StoreFault::Unsupported(_))), "{refused:?}");
    }
    let plain = Some(NewQueue::plain(1));
    assert_eq!(trial.open_new(trial.name.clone(), plain).unwrap(), life, "an existing queue is not changed");
    let altered = trial.name.clone();
    let (queue, made) = lab.queue();
    (trial.queue, trial.name) = (queue, made.clone());
    let new = NewQueue { partitions: 2, attributes: attributes() };
    let life = trial.open_new(made.clone(), Some(new)).unwrap();
    assert_eq!((life.partitions, life.attributes.clone()), (2, attributes()));
    trial.name = lab.queue().1;
    assert_eq!(trial.alter_queue(attributes(), 1).err(), Some(StoreFault::NoQueue));
    let Trial { lab, store, .. } = trial;
    let Some(store) = lab.reopen(store) else { return };
    let mut trial = Trial { store, ..Trial::new(lab) };
    for (name, partitions) in [(altered, more), (made, 2)] {
        let life = trial.open_queue(name, None).unwrap();
        assert_eq!((life.partitions, life.attributes), (partitions, attributes()));
    }
}

fn single_messages_are_found_by_their_offsets<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let first = trial.store(Partition(0), 1, &[b"a", b"b", b"c"]).start;
    let mut all: Vec<Offset> = (0..3).map(|index| first + index).collect();
    all.push(trial.store(Partition(0), 2, &[b"d"]).start);
    let find = |trial: &mut Trial<'_, L>, partition, offsets: &[Offset]| {
        let (partition, what) = (trial.key(partition), Manage::Find(offsets.to_vec()));
        let token = trial.submit("manage", |token| Request::Manage { token, partition, what });
        match trial.completion_of(token) {
            Completion::Managed { result: Ok(Managed::Found(found)), .. } => {
                let payload = |of: &Found| of.stored.batch.record_at(of.record).unwrap().1.payload.to_vec();
                found.iter().map(|of| (of.offset, payload(of))).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    let beyond = all[3] + (1 << 20);
    let found = find(&mut trial, Partition(0), &[all[1], all[3], beyond]);
    assert_eq!(found, [(all[1], b"b".to_vec()), (all[3], b"d".to_vec())]);
    assert_eq!(find(&mut trial, Partition(0), &[beyond]), []);
    assert_eq!(find(&mut trial, Partition(1), &all), [], "they are in another partition");
    assert_eq!(find(&mut trial, Partition(0), &all).len(), 4);
    trial.at(10_000);
    assert_eq!(find(&mut trial, Partition(0), &all), [], "they have expired");
}

fn a_store_without_ledgers_refuses_requests_about_single_messages<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    trial.store(Partition(0), 1, &[b"a"]);
    let find = Manage::Find(vec![Offset(0)]);
    let remove = Manage::Remove { offsets: vec![Offset(0)], only: Only::All };
    let pop = Manage::Pop { messages_max: 1, bytes_max: 100 };
    let (client, lease) = (ClientId::from(1), LeaseId(1));
    let renew = Manage::Renew { client, lease, ttl_secs: 60, grace_secs: 0 };
    let (look, release) = (Manage::Claim(client, lease), Manage::Release(client, lease));
    for what in [Manage::Stats, find, remove, pop, Manage::Purge, look, renew, release] {
        let partition = trial.key(Partition(0));
        let token = trial.submit("manage", |token| Request::Manage { token, partition, what });
        match trial.completion_of(token) {
            Completion::Managed { result: Err(StoreFault::Unsupported(NO_CLAIMS)), .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(payloads(&trial.read_to_end(Partition(0), Offset(0)).0), [b"a"]);
}

fn a_store_without_claims_refuses_delays<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let refused = trial.append(Partition(0), batch(1, 60, &[b"late"]).delayed(5));
    let next = trial.append(Partition(0), batch(1, 60, &[b"next"]));
    let mut faults = HashMap::new();
    while faults.len() < 2 {
        for completion in trial.completions() {
            let Completion::Appended { token, result } = completion else { panic!("{completion:?}") };
            faults.insert(token, result.unwrap_err());
        }
        assert!(faults.len() == 2 || trial.wait(), "{:?}", trial.open);
    }
    assert_eq!(faults[&refused], StoreFault::Unsupported(NO_CLAIMS));
    assert_eq!(faults[&next], StoreFault::Fenced, "it is of the same stream");
}

fn hidden_partitions_take_state_and_give_it_back<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let (data, hidden) = (Partition(1), Partition(1).state());
    for note in 0..5u8 {
        trial.store(data, 1, &[b"message"]);
        let token = trial.append(hidden, batch(0, u32::MAX, &[&[note]]));
        assert_eq!(trial.appended(token).start, Offset(note.into()), "notes are counted on their own");
    }
    let notes: Vec<Vec<u8>> = (0..5).map(|note| vec![note]).collect();
    assert_eq!(payloads(&trial.read_stored(hidden)), notes);
    assert_eq!(trial.read_to_end(data, Offset(0)).0.len(), 5);
    assert_eq!(trial.store.poll_stateful(), None, "nothing is from an earlier run");
    if !trial.reopen() {
        return;
    }
    assert_eq!(trial.store.poll_stateful(), None, "its queue is not open");
    trial.open_queue(trial.name.clone(), None).unwrap();
    assert_eq!(trial.store.poll_stateful(), Some(trial.key(data)));
    assert_eq!(trial.store.poll_stateful(), None, "each once");
    assert_eq!(payloads(&trial.read_stored(hidden)), notes);
    // What an earlier run holds stays whole until the first pin.
    trial.at(10_000);
    for _ in 0..3 {
        trial.store.handle_tick(trial.now);
        trial.store.release(trial.key(data), Offset(5));
    }
    assert_eq!(trial.read_stored(data).len(), 5);
    let token = trial.append(hidden, batch(0, u32::MAX, &[&[5]]));
    assert!(trial.appended(token).start >= Offset(5));
    assert_eq!(trial.read_stored(hidden).len(), 6);
}

fn a_release_takes_nothing_that_is_not_below_it<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    for number in 0..10u8 {
        trial.store(Partition(0), 1, &[&[number], &[number]]);
        trial.store(Partition(1), 1, &[&[number]]);
    }
    trial.store.release(trial.key(Partition(0)), Offset(7));
    trial.store.release(trial.key(Partition(0)), Offset(2));
    trial.store.handle_tick(trial.now);
    let left: Vec<Offset> = trial.read_stored(Partition(0)).iter().map(|stored| stored.base_offset).collect();
    assert!(left.ends_with(&[6, 8, 10, 12, 14, 16, 18].map(Offset)), "{left:?}");
    assert_eq!(trial.read_stored(Partition(1)).len(), 10);
    trial.store.release(trial.key(Partition(0)), Offset(20));
    trial.store.handle_tick(trial.now);
    assert_eq!(trial.store(Partition(0), 1, &[b"next"]), Offset(20)..Offset(21));
    assert_eq!(payloads(&trial.read_stored(Partition(0))).last().unwrap(), b"next");
    let counters = trial.store.counters();
    assert_eq!((counters.expired, counters.dropped), (0, 0), "released messages are neither");
}

fn pinned_messages_stay_after_they_have_expired<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    for number in 0..4u8 {
        let token = trial.append(Partition(0), batch(1, 60, &[&[number], &[number]]));
        trial.appended(token);
    }
    trial.store.pin(trial.key(Partition(0)), vec![Offset(3)..Offset(4), Offset(6)..Offset(8)]);
    trial.at(500);
    for _ in 0..3 {
        trial.store.handle_tick(trial.now);
    }
    let left: Vec<u64> = trial.read_stored(Partition(0)).iter().map(|stored| stored.base_offset.0).collect();
    assert!(left.contains(&2) && left.contains(&6), "{left:?}");
    assert_eq!(trial.read_to_end(Partition(0), Offset(0)).0.len(), 0, "they have expired for other readers");
}

fn expired_messages_are_read_if_the_view_has_them<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    for (ttl, payload) in [(60, &b"short"[..]), (1000, b"long")] {
        let token = trial.append(Partition(0), batch(1, ttl, &[payload]));
        trial.appended(token);
    }
    trial.store.pin(trial.key(Partition(0)), vec![Offset(0)..Offset(1)]);
    trial.at(500);
    assert_eq!(payloads(&trial.read_stored(Partition(0))), [&b"short"[..], b"long"]);
    assert_eq!(payloads(&trial.read_to_end(Partition(0), Offset(0)).0), [b"long"]);
}

fn a_delay_is_kept_with_its_messages<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    trial.store(Partition(0), 1, &[b"now"]);
    let late = trial.append(Partition(0), batch(1, 1000, &[b"late", b"later"]).delayed(30));
    trial.appended(late);
    let check = |trial: &mut Trial<'_, L>| {
        let read = trial.read_to_end(Partition(0), Offset(0)).0;
        let delays: Vec<(u32, u32)> =
            read.iter().map(|stored| (stored.batch.count(), stored.batch.delay_secs())).collect();
        assert_eq!(delays, [(1, 0), (2, 30)], "a delay hides nothing from readers");
    };
    check(&mut trial);
    if trial.reopen() {
        trial.open_queue(trial.name.clone(), None).unwrap();
        check(&mut trial);
    }
}

fn a_queue_is_not_created_without_permission<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let (_, other) = lab.queue();
    assert_eq!(trial.open_queue(other, None), Err(StoreFault::NoQueue));
}

fn a_deleted_queue_does_not_exist_and_another_takes_its_name<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let name = trial.name.clone();
    let life = trial.open_queue(name.clone(), None).unwrap();
    trial.store(Partition(0), 1, &[b"a"]);
    let described = trial.store.describe(trial.now.unix).unwrap();
    assert_eq!(described.iter().map(|((_, queue), _)| queue).collect::<Vec<_>>(), [&name]);
    let (parked, _) = trial.park(Partition(1), Offset::ZERO, None);
    assert_eq!(trial.delete_queue(), Ok(life.incarnation));
    trial.store.forget(trial.queue, life.incarnation);
    let is_deleted = |completion: Completion<u64>| match completion {
        Completion::Appended { result, .. } => result.err() == Some(StoreFault::Deleted),
        Completion::Fetched { result, .. } => result.err() == Some(StoreFault::Deleted),
        Completion::Resolved { result, .. } => result.err() == Some(StoreFault::Deleted),
        Completion::Claimed { result, .. } => result.err() == Some(StoreFault::Deleted),
        Completion::Watched { result, .. } => result.err() == Some(StoreFault::Deleted),
        Completion::Settled { result, .. } => result.err() == Some(StoreFault::Deleted),
        Completion::Managed { result, .. } => result.err() == Some(StoreFault::Deleted),
        Completion::Opened { .. }
        | Completion::Altered { .. }
        | Completion::Deleted { .. }
        | Completion::Listed { .. } => false,
    };
    let told = trial.completion_of(parked);
    assert!(is_deleted(told), "a waiting fetch gets the fault");
    let append = trial.append(Partition(0), batch(1, 60, &[b"b"]));
    assert!(is_deleted(trial.completion_of(append)));
    let fetch = trial.fetch(Partition(0), Offset::ZERO, None, true);
    assert!(is_deleted(trial.completion_of(fetch)));
    let partition = trial.key(Partition(0));
    let latest = |token| Request::Resolve { token, partition, position: Position::Latest };
    let resolve = trial.submit("resolve", latest);
    assert!(is_deleted(trial.completion_of(resolve)));
    assert_eq!(trial.store.describe(trial.now.unix), Ok(vec![]));
    assert_eq!(trial.delete_queue(), Err(StoreFault::NoQueue));
    assert_eq!(trial.open_queue(name.clone(), None), Err(StoreFault::NoQueue));
    let next = trial.open_queue(name, Some(PARTITIONS)).unwrap();
    assert!(next.incarnation != life.incarnation, "ids are unique in an incarnation");
    assert_eq!(trial.store(Partition(0), 1, &[b"c"]), Offset(0)..Offset(1));
    assert_eq!(payloads(&trial.read(Partition(0), Offset::ZERO, None, 1).0), [b"c"]);
    assert_eq!(trial.store.waiting(), 0);
}

fn a_store_without_a_catalogue_deletes_nothing<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    trial.store(Partition(0), 1, &[b"a"]);
    let deleted = trial.delete_queue();
    assert!(matches!(deleted, Err(StoreFault::NoCatalogue | StoreFault::Unsupported(_))), "{deleted:?}");
    assert_eq!(trial.store.describe(trial.now.unix), Err(StoreFault::NoCatalogue));
    assert_eq!(payloads(&trial.read(Partition(0), Offset::ZERO, None, 1).0), [b"a"]);
}

fn offsets_increase_in_each_partition<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    assert_eq!(trial.store(Partition(0), 1, &[b"a", b"b"]), Offset(0)..Offset(2));
    assert_eq!(trial.store(Partition(1), 1, &[b"c"]), Offset(0)..Offset(1));
    // A store may leave offsets unused between two appends.
    let third = trial.store(Partition(0), 1, &[b"d", b"e", b"f"]);
    assert!(third.start >= Offset(2) && third.end == third.start + 3, "{third:?}");
    assert_eq!(trial.store.counters().stored, 6);
}

fn a_fetch_returns_the_messages_from_its_offset_on<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    trial.store(Partition(0), 1, &[b"a", b"b"]);
    let last = trial.store(Partition(0), 1, &[b"c"]);
    let (batches, next) = trial.read(Partition(0), Offset(1), None, 2);
    let wanted: Vec<Vec<u8>> = [b"a", b"b", b"c"].map(|payload| payload.to_vec()).to_vec();
    // The first batch may begin before the requested offset. The messages before it are then hidden.
    assert_eq!(payloads(&batches), wanted[batches[0].base_offset.0 as usize..]);
    assert!(batches[0].base_offset <= Offset(1) && next >= last.end);
    let fetched = loop {
        let token = trial.fetch(Partition(0), Offset(1), None, true);
        let Completion::Fetched { result: Ok(fetched), .. } = trial.completion_of(token) else { panic!() };
        if !fetched.batches.is_empty() {
            break fetched;
        }
    };
    let first = &fetched.batches[0];
    // A store may have read both appends as one batch.
    assert_eq!(fetched.hidden.visible(first.base_offset, first.end_offset()), Offset(1)..first.end_offset());
    let (batches, _) = trial.read(Partition(0), last.start, None, 1);
    assert_eq!(payloads(&batches).last(), wanted.last());
    let token = trial.fetch(Partition(0), Offset(99 << 32), None, false);
    let Completion::Fetched { result: Ok(fetched), .. } = trial.completion_of(token) else { panic!() };
    assert!(fetched.is_rewound, "the position is beyond the end");
    assert!(fetched.batches.is_empty(), "no existing message was requested");
    assert_eq!(fetched.next, Offset(0), "newer messages may lie before the present end");
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

fn a_fetch_that_does_not_wait_reports_the_end<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let token = trial.fetch(Partition(0), Offset(0), None, false);
    assert!(trial.fetched(token).2);
}

fn a_clients_own_messages_are_left_out_for_it<L: Lab>(lab: &L) {
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

fn keys_and_headers_are_returned_with_their_payloads<L: Lab>(lab: &L) {
    let mut trial = Trial::new(lab);
    let mut headers = Vec::new();
    for (name, value) in [("a", Some(&b"1"[..])), ("b", None), ("a", Some(b"")), ("", Some(b"\0"))] {
        put_header(HeaderRef { name, value }, &mut headers);
    }
    let keyed = [Record::keyed(b"k", b"one"), Record::plain(b"two"), Record::keyed(b"key", b"")];
    let headed = [
        Record { headers: &headers, ..Record::plain(b"three") },
        Record { headers: &headers, ..Record::keyed(b"k", b"") },
        Record::plain(b"four"),
    ];
    let mut stored = Offset(0);
    for (shape, records) in [(Shape::Keys, &keyed), (Shape::Headers, &headed)] {
        let mut builder = BatchBuilder::new(ClientId::from(1), 1000, 0).with_shape(shape);
        records.iter().for_each(|record| builder.push_record(*record));
        let token = trial.append(Partition(2), builder.close());
        let offsets = trial.appended(token);
        assert!(offsets.start >= stored && offsets.end == offsets.start + 3, "{offsets:?}");
        stored = offsets.end;
    }
    let (batches, _) = trial.read(Partition(2), Offset(0), None, 6);
    let records: Vec<_> = batches.iter().flat_map(|stored| stored.batch.records()).collect();
    assert_eq!(records, [keyed, headed].concat());
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
    assert_eq!((payloads(&batches).len(), after), (0, next), "offsets continue after the removed messages");
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
    // A store may give the messages of an append different times.
    let [after_second, after_third] =
        [1, 2].map(|number: usize| time_of(Offset(stored[number].end.0 - 1)) + Millis::new(1));
    for (position, expected) in [
        (Position::Latest, stored[2].end),
        (Position::Time(UnixMillis::ZERO), Offset(0)),
        (Position::Time(time_of(second)), second),
        (Position::Time(after_second), third),
        (Position::Time(after_third), stored[2].end),
    ] {
        let partition = trial.key(Partition(0));
        let token = trial.submit("resolve", |token| Request::Resolve { token, partition, position });
        let Completion::Resolved { result: Ok(found), .. } = trial.completion_of(token) else { panic!() };
        // The end may include offsets that the store leaves unused.
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

fn cancelled_fetches_leave_nothing_behind<L: Lab>(lab: &L) {
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
        assert!(trial.completions().is_empty(), "a completed fetch cannot be cancelled");
    }
    assert_eq!(trial.store.waiting(), 0);
    trial.store(Partition(0), 1, &[b"a"]);
    assert!(trial.open.is_empty(), "{:?}", trial.open);
}

fn the_byte_limit_ends_a_fetch_between_batches<L: Lab>(lab: &L) {
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

fn many_batches_are_returned_complete_and_in_order<L: Lab>(lab: &L) {
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
            assert!(offsets.start >= next_offset, "appends complete in order");
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

//! What every store must do, whatever it is made of: one suite, run by each store's own tests.

use std::collections::HashMap;

use super::{Completion, Request, Store, Stream};
use crate::batch::{Batch, BatchBuilder, Fetched};
use crate::clock::Now;
use crate::names::ClientId;
use crate::queue::{PartitionKey, Position, QueueId};

pub(super) fn key(partition: u16) -> PartitionKey {
    PartitionKey { queue: QueueId(1), partition }
}

pub(super) fn batch(client: u128, ttl: u32, payloads: &[&[u8]]) -> Batch {
    let mut builder = BatchBuilder::new(ClientId::from(client), ttl, 0);
    payloads.iter().for_each(|payload| builder.push(payload));
    builder.close()
}

fn at(seconds: u64) -> Now {
    Now { mono_ms: seconds * 1000, unix_ms: 1_000_000_000 + seconds * 1000 }
}

/// A store, and the tokens that wait for their completion.
struct Trial<S> {
    store: S,
    now: Now,
    next_token: u64,
    open: HashMap<u64, &'static str>,
}

impl<S: Store<u64>> Trial<S> {
    fn new(store: S) -> Self {
        Self { store, now: at(0), next_token: 0, open: HashMap::new() }
    }

    fn submit(&mut self, what: &'static str, make: impl FnOnce(u64) -> Request<u64>) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.open.insert(token, what);
        assert!(self.store.submit(self.now, make(token)).is_ok(), "an idle store takes a request");
        token
    }

    fn append(&mut self, partition: u16, batch: Batch) -> u64 {
        self.submit("append", |token| Request::Append {
            token,
            stream: Stream(0),
            partition: key(partition),
            batch,
        })
    }

    fn fetch(&mut self, partition: u16, from: u64, exclude: Option<u128>, wait: bool) -> u64 {
        self.submit("fetch", |token| Request::Fetch {
            token,
            partition: key(partition),
            from,
            bytes_max: 1 << 20,
            exclude: exclude.map(ClientId::from),
            wait,
        })
    }

    fn cancel(&mut self, token: u64, partition: u16) {
        assert!(self.store.submit(self.now, Request::Cancel { token, partition: key(partition) }).is_ok());
    }

    fn completions(&mut self) -> Vec<Completion<u64>> {
        let mut all = Vec::new();
        while let Some(completion) = self.store.poll_completion(self.now) {
            let token = completion.token();
            assert!(self.open.remove(&token).is_some(), "token {token} completed twice");
            all.push(completion);
        }
        all
    }

    /// The one completion that is there.
    fn one(&mut self) -> Completion<u64> {
        let mut all = self.completions();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn fetched(&mut self) -> Fetched {
        match self.one() {
            Completion::Fetched { result: Ok(fetched), .. } => fetched,
            other => panic!("{other:?}"),
        }
    }

    fn store(&mut self, partition: u16, client: u128, payloads: &[&[u8]]) -> std::ops::Range<u64> {
        self.append(partition, batch(client, 60, payloads));
        let mut offsets = None;
        for completion in self.completions() {
            if let Completion::Appended { result, .. } = completion {
                offsets = Some(result.unwrap());
            }
        }
        offsets.unwrap()
    }
}

fn payloads(fetched: &Fetched) -> Vec<Vec<u8>> {
    fetched.batches.iter().flat_map(|stored| stored.batch.payloads().map(<[u8]>::to_vec)).collect()
}

pub(super) fn run<S: Store<u64>>(make: impl Fn() -> S) {
    offsets_count_up_in_each_partition(make());
    a_fetch_brings_what_was_stored_from_its_offset_on(make());
    a_fetch_waits_for_the_next_append(make());
    a_fetch_that_does_not_wait_says_that_the_end_is_reached(make());
    what_a_client_stored_is_left_out_for_it(make());
    expired_batches_are_not_read(make());
    positions_are_found_by_end_and_by_time(make());
    timestamps_never_run_backwards(make());
    park_and_cancel_leaves_no_fetch_behind(make());
    a_limit_of_bytes_ends_a_fetch_between_batches(make());
}

fn offsets_count_up_in_each_partition<S: Store<u64>>(store: S) {
    let mut trial = Trial::new(store);
    assert_eq!(trial.store(0, 1, &[b"a", b"b"]), 0..2);
    assert_eq!(trial.store(1, 1, &[b"c"]), 0..1);
    assert_eq!(trial.store(0, 1, &[b"d"]), 2..3);
    assert_eq!(trial.store.counters().stored, 4);
}

fn a_fetch_brings_what_was_stored_from_its_offset_on<S: Store<u64>>(store: S) {
    let mut trial = Trial::new(store);
    trial.store(0, 1, &[b"a", b"b"]);
    trial.store(0, 1, &[b"c"]);
    trial.fetch(0, 1, None, true);
    let fetched = trial.fetched();
    assert_eq!((fetched.batches[0].base_offset, fetched.next, fetched.at_end), (0, 3, true));
    assert_eq!(payloads(&fetched), [b"a", b"b", b"c"]);
    trial.fetch(0, 2, None, true);
    assert_eq!(payloads(&trial.fetched()), [b"c"]);
    trial.fetch(0, 99, None, false);
    assert_eq!(trial.fetched().next, 3, "an offset beyond the end is the end");
}

fn a_fetch_waits_for_the_next_append<S: Store<u64>>(store: S) {
    let mut trial = Trial::new(store);
    let first = trial.fetch(0, 0, None, true);
    let other = trial.fetch(1, 0, None, true);
    assert!(trial.completions().is_empty());
    trial.append(0, batch(1, 60, &[b"a"]));
    trial.append(0, batch(1, 60, &[b"b"]));
    let fetched: Vec<(u64, usize)> = trial
        .completions()
        .into_iter()
        .filter_map(|completion| match completion {
            Completion::Fetched { token, result } => Some((token, payloads(&result.unwrap()).len())),
            _ => None,
        })
        .collect();
    assert_eq!(fetched, [(first, 2)], "one answer brings what one turn stored");
    assert_eq!(trial.open.keys().collect::<Vec<_>>(), [&other]);
}

fn a_fetch_that_does_not_wait_says_that_the_end_is_reached<S: Store<u64>>(store: S) {
    let mut trial = Trial::new(store);
    trial.fetch(0, 0, None, false);
    let fetched = trial.fetched();
    assert!(fetched.at_end && fetched.batches.is_empty());
}

fn what_a_client_stored_is_left_out_for_it<S: Store<u64>>(store: S) {
    let mut trial = Trial::new(store);
    trial.store(0, 1, &[b"mine"]);
    trial.store(0, 2, &[b"theirs"]);
    trial.store(0, 1, &[b"mine again"]);
    trial.fetch(0, 0, Some(1), true);
    let fetched = trial.fetched();
    assert_eq!((payloads(&fetched), fetched.next), (vec![b"theirs".to_vec()], 3));
    trial.fetch(0, 2, Some(1), true);
    assert!(trial.completions().is_empty(), "only its own is there: it waits");
    trial.store(0, 1, &[b"mine"]);
    assert_eq!(trial.open.len(), 1);
    trial.append(0, batch(2, 60, &[b"theirs"]));
    assert_eq!(trial.completions().len(), 2);
}

fn expired_batches_are_not_read<S: Store<u64>>(store: S) {
    let mut trial = Trial::new(store);
    trial.append(0, batch(1, 60, &[b"short"]));
    trial.append(0, batch(1, 100, &[b"long"]));
    trial.completions();
    trial.now = at(60);
    trial.fetch(0, 0, None, true);
    assert_eq!(payloads(&trial.fetched()), [b"long"]);
    trial.now = at(59);
    trial.fetch(0, 0, None, true);
    assert_eq!(payloads(&trial.fetched()).len(), 2);
    trial.now = at(100);
    trial.store.handle_tick(trial.now);
    trial.fetch(0, 0, None, false);
    let fetched = trial.fetched();
    assert_eq!((payloads(&fetched).len(), fetched.next), (0, 2), "offsets go on behind what is gone");
}

fn positions_are_found_by_end_and_by_time<S: Store<u64>>(store: S) {
    let mut trial = Trial::new(store);
    for second in [10, 20, 30] {
        trial.now = at(second);
        trial.store(0, 1, &[b"a", b"b"]);
    }
    for (position, expected) in [
        (Position::Latest, 6),
        (Position::Time(0), 0),
        (Position::Time(at(20).unix_ms), 2),
        (Position::Time(at(20).unix_ms + 1), 4),
        (Position::Time(at(31).unix_ms), 6),
    ] {
        trial.submit("resolve", |token| Request::Resolve { token, partition: key(0), position });
        let Completion::Resolved { result, .. } = trial.one() else { panic!() };
        assert_eq!(result, Ok(expected), "{position:?}");
    }
}

fn timestamps_never_run_backwards<S: Store<u64>>(store: S) {
    let mut trial = Trial::new(store);
    trial.now = at(20);
    trial.store(0, 1, &[b"a"]);
    trial.now = at(10);
    trial.store(0, 1, &[b"b"]);
    trial.fetch(0, 0, None, true);
    let times: Vec<u64> = trial.fetched().batches.iter().map(|stored| stored.timestamp_ms).collect();
    assert_eq!(times, [at(20).unix_ms, at(20).unix_ms]);
}

fn park_and_cancel_leaves_no_fetch_behind<S: Store<u64>>(store: S) {
    let mut trial = Trial::new(store);
    for round in 0..100_000u64 {
        let token = trial.fetch((round % 3) as u16, 0, None, true);
        assert!(trial.completions().is_empty());
        trial.cancel(token, (round % 3) as u16);
        assert_eq!(trial.completions().len(), 1);
        trial.cancel(token, (round % 3) as u16);
        assert!(trial.completions().is_empty(), "a fetch that is done cannot be cancelled");
    }
    assert_eq!(trial.store.waiting(), 0);
    trial.store(0, 1, &[b"a"]);
    assert!(trial.open.is_empty(), "{:?}", trial.open);
}

fn a_limit_of_bytes_ends_a_fetch_between_batches<S: Store<u64>>(store: S) {
    let mut trial = Trial::new(store);
    for _ in 0..4 {
        trial.store(0, 1, &[&[0; 600_000]]);
    }
    trial.fetch(0, 0, None, true);
    let fetched = trial.fetched();
    assert_eq!((fetched.batches.len(), fetched.next, fetched.at_end), (2, 2, false));
}

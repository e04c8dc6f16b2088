//! The memory store: a ring of batches for each partition. The reference for tests; loses all at exit.
//!
//! Bounded: each batch costs its stored bytes and [`BATCH_OVERHEAD_BYTES`]. When full it drops the oldest batches
//! of the whole shard, counts them and says so once, or refuses, as the operator chose.

mod settings;

pub use settings::{Settings, WhenFull};

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use super::read::read;
use super::waiting::Waiting;
use super::window::{BATCH_OVERHEAD_BYTES, Fetch, cap};
use super::{Completion, Fence, Life, Request, Store, StoreCounters, Stream, Tail};
use crate::access::{Share, Tenants};
use crate::base::batch::{Batch, Fetched, StoredBatch};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::limits::CLOCK_STEP_MAX_MS;
use crate::base::queue::{PartitionKey, Position, QueueInfo, Signing};

/// How often expired batches are looked for, milliseconds; and while there are more of them than one look takes.
const TICK_MS: u64 = 1_000;
const BUSY_TICK_MS: u64 = 10;

/// Batches that one look takes: about 0.2 ms of the shard's time. Few in tests, so that looks are cut short there, too.
const LOOK_BATCHES: usize = if cfg!(test) { 3 } else { 2048 };

/// Places in a ring that are moved up in the time of looking at one batch.
const MOVES_PER_BATCH: usize = 64;

/// Invariant: the batches' offsets grow and all lie below `end`; so do their timestamps below `last_timestamp_ms`.
#[derive(Debug)]
struct Partition<T> {
    batches: VecDeque<StoredBatch>,
    end: u64,
    last_timestamp_ms: u64,
    waiting: Waiting<T>,
    /// It is in `Memory::woken`.
    is_woken: bool,
    /// What its batches cost, where its project's storage is limited.
    share: Option<Share>,
}

impl<T> Default for Partition<T> {
    fn default() -> Self {
        Self {
            batches: VecDeque::new(),
            end: 0,
            last_timestamp_ms: 0,
            waiting: Waiting::default(),
            is_woken: false,
            share: None,
        }
    }
}

/// A look at all batches for those that expire before older ones do, a part at a time.
///
/// It goes over `Memory::arrivals` and moves up what stays: `kept` places at the front are right, those from there to
/// `at` mean nothing any more, those behind are still to be looked at.
#[derive(Debug)]
struct Sweep {
    at: usize,
    kept: usize,
    /// The latest expiry of what was kept, and the earliest of what expires before something older.
    latest_ms: u64,
    due_ms: u64,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { at: 0, kept: 0, latest_ms: 0, due_ms: u64::MAX }
    }
}

/// See the module's page. Invariant: `bytes` is the cost of all batches, at most `bytes_max`.
#[derive(Debug)]
pub struct Memory<T> {
    partitions: HashMap<PartitionKey, Partition<T>>,
    /// The partition and base offset of each batch in the order of arrival; some of those may be gone.
    arrivals: VecDeque<(PartitionKey, u64)>,
    sweep: Sweep,
    /// The latest expiry of any batch, and the earliest of those that expire before an older one; Unix milliseconds.
    latest_expiry_ms: u64,
    sweep_due_ms: u64,
    /// The latest timestamp that was given, and how far the clock may fall behind it.
    newest_ms: u64,
    clock_step_max_ms: u64,
    batches: usize,
    bytes: usize,
    bytes_max: usize,
    when_full: WhenFull,
    incarnation: u64,
    signing: Signing,
    /// Where a project's storage is limited.
    tenants: Option<Arc<Tenants>>,
    fence: Fence,
    completions: VecDeque<Completion<T>>,
    /// Partitions that got something and have fetches waiting.
    woken: Vec<PartitionKey>,
    counters: StoreCounters,
}

fn cost(batch: &Batch) -> usize {
    batch.stored_bytes() + BATCH_OVERHEAD_BYTES
}

impl<T: Copy + Eq + Hash> Memory<T> {
    /// A store of at most `bytes_max` bytes, whose queues live in `incarnation`.
    pub fn new(bytes_max: usize, when_full: WhenFull, incarnation: u64) -> Self {
        Self {
            partitions: HashMap::new(),
            arrivals: VecDeque::new(),
            sweep: Sweep::default(),
            latest_expiry_ms: 0,
            sweep_due_ms: u64::MAX,
            newest_ms: 0,
            clock_step_max_ms: CLOCK_STEP_MAX_MS,
            batches: 0,
            bytes: 0,
            bytes_max,
            when_full,
            incarnation,
            signing: Signing { key: uuid::Uuid::new_v4().as_u128(), ..Signing::default() },
            tenants: None,
            fence: Fence::default(),
            completions: VecDeque::new(),
            woken: Vec::new(),
            counters: StoreCounters::default(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn append(&mut self, now: Now, token: T, stream: Stream, key: PartitionKey, batch: Batch) {
        self.follow_clock(now);
        let cost = cost(&batch);
        let count = u64::from(batch.count());
        if self.fence.is_closed(stream) {
            return self.refuse(token, count, StoreFault::Fenced);
        }
        let fits = self.bytes + cost <= self.bytes_max;
        if !fits && (self.when_full == WhenFull::Refuse || cost > self.bytes_max) {
            self.fence.close(now, stream);
            return self.refuse(token, count, StoreFault::Full);
        }
        while self.bytes + cost > self.bytes_max {
            self.drop_oldest();
        }
        let partition = self.partitions.entry(key).or_default();
        if partition.share.is_none() {
            let tenant = self.tenants.as_ref().and_then(|tenants| tenants.of_queue(key.queue));
            partition.share = tenant.and_then(|tenant| tenant.share());
        }
        if let Some(share) = &mut partition.share {
            share.add(cost as u64);
        }
        let base_offset = partition.end;
        partition.end += count;
        partition.last_timestamp_ms = partition.last_timestamp_ms.max(now.unix_ms);
        let (timestamp_ms, stored_ns) = (partition.last_timestamp_ms, now.mono_ns);
        let stored = StoredBatch { base_offset, timestamp_ms, stored_ns, batch };
        let expiry_ms = stored.expiry_ms();
        partition.batches.push_back(stored);
        if !partition.waiting.is_empty() && !partition.is_woken {
            partition.is_woken = true;
            self.woken.push(key);
        }
        self.completions
            .push_back(Completion::Appended { token, result: Ok(Some(base_offset..partition.end)) });
        self.arrivals.push_back((key, base_offset));
        self.batches += 1;
        self.bytes += cost;
        self.counters.stored += count;
        if expiry_ms < self.latest_expiry_ms {
            self.sweep_due_ms = self.sweep_due_ms.min(expiry_ms);
        }
        self.latest_expiry_ms = self.latest_expiry_ms.max(expiry_ms);
    }

    /// Where the clock has stepped back further than timestamps are repeated, everything stored counts as stored now at the latest.
    fn follow_clock(&mut self, now: Now) {
        let is_behind = now.unix_ms.saturating_add(self.clock_step_max_ms) < self.newest_ms;
        self.newest_ms = if is_behind { now.unix_ms } else { self.newest_ms.max(now.unix_ms) };
        if !is_behind {
            return;
        }
        for partition in self.partitions.values_mut() {
            cap(&mut partition.batches, now.unix_ms);
            partition.last_timestamp_ms = partition.last_timestamp_ms.min(now.unix_ms);
        }
        // Batches that were in the order of their expiry need not be any more: all are looked at again.
        self.arrivals.drain(self.sweep.kept..self.sweep.at);
        self.sweep = Sweep::default();
        self.sweep_due_ms = now.unix_ms;
        let batches = self.partitions.values().flat_map(|partition| &partition.batches);
        self.latest_expiry_ms = batches.map(StoredBatch::expiry_ms).max().unwrap_or(0);
    }

    fn refuse(&mut self, token: T, count: u64, fault: StoreFault) {
        self.counters.refused += count;
        self.completions.push_back(Completion::Appended { token, result: Err(fault) });
    }

    fn drop_oldest(&mut self) {
        let Some(stored) = self.pop_oldest() else { return };
        if self.counters.dropped == 0 {
            tracing::warn!(
                memory_bytes = self.bytes_max,
                "the memory store is full: the oldest messages are dropped"
            );
        }
        self.counters.dropped += u64::from(stored.batch.count());
    }

    /// Where the oldest batch stands, though it may be gone.
    fn oldest(&mut self) -> Option<(PartitionKey, u64)> {
        if self.sweep.kept == 0 {
            self.arrivals.drain(..self.sweep.at);
            self.sweep.at = 0;
        }
        self.arrivals.front().copied()
    }

    /// Takes the oldest batch out; `None` where what stood there is gone already.
    fn pop_oldest(&mut self) -> Option<StoredBatch> {
        let (key, base_offset) = self.oldest()?;
        self.arrivals.pop_front();
        self.sweep.at = self.sweep.at.saturating_sub(1);
        self.sweep.kept = self.sweep.kept.saturating_sub(1);
        let partition = self.partitions.get_mut(&key)?;
        let stored = partition.batches.pop_front_if(|stored| stored.base_offset == base_offset)?;
        let cost = cost(&stored.batch);
        if let Some(share) = &mut partition.share {
            share.subtract(cost as u64);
        }
        self.bytes -= cost;
        self.batches -= 1;
        Some(stored)
    }

    /// Removes the oldest batches as long as they have expired. False where it did not come to the end of them.
    fn expire_oldest(&mut self, now: Now) -> bool {
        for _ in 0..LOOK_BATCHES {
            let Some((key, base_offset)) = self.oldest() else { return true };
            let front = self.partitions.get(&key).and_then(|partition| partition.batches.front());
            if front.is_some_and(|front| front.base_offset == base_offset && !front.is_expired(now.unix_ms)) {
                return true;
            }
            if let Some(expired) = self.pop_oldest() {
                self.counters.expired += u64::from(expired.batch.count());
            }
        }
        false
    }

    /// Looks at the next batches for those that have expired though older ones have not. False where there are more.
    fn sweep(&mut self, now: Now) -> bool {
        let mut effort = 0;
        while effort < LOOK_BATCHES {
            let Some((key, base_offset)) = self.arrivals.get(self.sweep.at).copied() else {
                self.arrivals.truncate(self.sweep.kept);
                self.sweep_due_ms = std::mem::take(&mut self.sweep).due_ms;
                return true;
            };
            self.sweep.at += 1;
            effort += 1;
            let Some(partition) = self.partitions.get_mut(&key) else { continue };
            let index = partition.batches.binary_search_by_key(&base_offset, |stored| stored.base_offset);
            let Ok(index) = index else { continue };
            let expiry_ms = partition.batches[index].expiry_ms();
            if expiry_ms <= now.unix_ms {
                effort += index.min(partition.batches.len() - index) / MOVES_PER_BATCH;
                if let Some(stored) = partition.batches.remove(index) {
                    let cost = cost(&stored.batch);
                    if let Some(share) = &mut partition.share {
                        share.subtract(cost as u64);
                    }
                    self.bytes -= cost;
                    self.batches -= 1;
                    self.counters.expired += u64::from(stored.batch.count());
                }
                continue;
            }
            if expiry_ms < self.sweep.latest_ms {
                self.sweep.due_ms = self.sweep.due_ms.min(expiry_ms);
            }
            self.sweep.latest_ms = self.sweep.latest_ms.max(expiry_ms);
            self.arrivals[self.sweep.kept] = (key, base_offset);
            self.sweep.kept += 1;
        }
        false
    }

    fn fetch(&mut self, now: Now, key: PartitionKey, mut fetch: Fetch<T>) {
        let fetched = match self.partitions.get(&key) {
            Some(of) if fetch.from > of.end => Fetched::rewound(),
            Some(of) => read(&of.batches, of.end, now, fetch.from, fetch.bytes_max, fetch.exclude),
            None if fetch.from > 0 => Fetched::rewound(),
            None => Fetched { at_end: true, ..Fetched::default() },
        };
        if fetch.wait && fetched.batches.is_empty() && fetched.at_end {
            fetch.from = fetched.next;
            self.partitions.entry(key).or_default().waiting.push(fetch);
        } else {
            self.completions.push_back(Completion::Fetched { token: fetch.token, result: Ok(fetched) });
        }
    }

    /// Looks again at the fetches that wait for a partition.
    fn wake(&mut self, now: Now, key: PartitionKey) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        partition.is_woken = false;
        for fetch in partition.waiting.take() {
            self.fetch(now, key, fetch);
        }
    }

    fn resolve(&self, key: PartitionKey, position: Position) -> u64 {
        let Some(partition) = self.partitions.get(&key) else { return 0 };
        match position {
            // The store has one timeline in each incarnation.
            Position::After { offset, .. } => offset.min(partition.end),
            Position::Latest => partition.end,
            Position::Time(time) => {
                let index = partition.batches.partition_point(|stored| stored.timestamp_ms < time);
                partition.batches.get(index).map_or(partition.end, |stored| stored.base_offset)
            }
        }
    }
}

impl<T: Copy + Eq + Hash> Store<T> for Memory<T> {
    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>> {
        match request {
            Request::Open { token, create, .. } => {
                let life =
                    |partitions| Life { incarnation: self.incarnation, partitions, signing: self.signing };
                let result = create.map(life).ok_or(StoreFault::NoQueue);
                self.completions.push_back(Completion::Opened { token, result });
            }
            Request::Append { token, stream, partition, batch } => {
                self.append(now, token, stream, partition, batch);
            }
            Request::Fetch { token, partition, from, bytes_max, exclude, wait } => {
                let fetch = Fetch { token, from, bytes_max, exclude, wait, since_ms: now.mono_ms };
                self.fetch(now, partition, fetch);
            }
            Request::Resolve { token, partition, position } => {
                let offset = self.resolve(partition, position);
                self.completions.push_back(Completion::Resolved { token, result: Ok(offset) });
            }
            Request::Cancel { token, partition } => {
                let Some(of) = self.partitions.get_mut(&partition) else { return Ok(()) };
                if let Some(fetch) = of.waiting.cancel(token) {
                    let fetched = Fetched { next: fetch.from, ..Fetched::default() };
                    self.completions.push_back(Completion::Fetched { token, result: Ok(fetched) });
                    // A partition that nothing was ever stored in is known by nobody else.
                    if of.waiting.is_empty() && of.end == 0 {
                        self.partitions.remove(&partition);
                    }
                }
            }
        }
        Ok(())
    }

    fn poll_completion(&mut self, now: Now) -> Option<Completion<T>> {
        while self.completions.is_empty() {
            let key = self.woken.pop()?;
            self.wake(now, key);
        }
        self.completions.pop_front()
    }

    fn handle_tick(&mut self, now: Now) -> Option<u64> {
        self.follow_clock(now);
        let mut done = self.expire_oldest(now);
        if self.sweep.at > 0 || self.sweep_due_ms <= now.unix_ms {
            done &= self.sweep(now);
        }
        (self.batches > 0).then_some(now.mono_ms + if done { TICK_MS } else { BUSY_TICK_MS })
    }

    fn tail(&self, queue: &QueueInfo, partition: u16) -> Option<Tail> {
        Some(Tail::new(self.partitions.get(&queue.key(partition)).map_or(0, |partition| partition.end)))
    }

    fn set_clock_step_max(&mut self, ms: u64) {
        self.clock_step_max_ms = ms;
    }

    fn count_for(&mut self, tenants: &Arc<Tenants>) {
        self.tenants = tenants.limits_storage().then(|| tenants.clone());
    }

    fn counters(&self) -> StoreCounters {
        self.counters
    }

    fn waiting(&self) -> usize {
        self.partitions.values().map(|partition| partition.waiting.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{self, batch, key};
    use proptest::prelude::*;

    fn memory() -> Memory<u64> {
        Memory::new(64 << 20, WhenFull::DropOldest, 7)
    }

    struct Here(std::cell::Cell<u64>);

    impl conformance::Lab for Here {
        type Store = Memory<u64>;

        fn store(&self) -> Memory<u64> {
            memory()
        }

        fn unix_ms(&self) -> Option<u64> {
            None
        }

        fn wait(&self) -> bool {
            false
        }

        fn queue(&self) -> (crate::base::queue::QueueId, crate::base::names::QueueName) {
            self.0.set(self.0.get() + 1);
            let name = crate::base::names::QueueName::parse(&format!("q{}", self.0.get())).unwrap();
            (crate::base::queue::QueueId(self.0.get()), name)
        }
    }

    #[test]
    fn it_conforms() {
        conformance::run(&Here(std::cell::Cell::new(0)));
    }

    #[test]
    fn one_answer_brings_what_one_turn_stored_and_a_clock_that_is_set_back_changes_no_order() {
        let mut store = memory();
        let at = |unix_ms| Now::at_ms(0, unix_ms);
        let fetch = |token| Request::Fetch {
            token,
            partition: key(0),
            from: 0,
            bytes_max: 1 << 20,
            exclude: None,
            wait: true,
        };
        assert!(store.submit(at(0), fetch(9)).is_ok() && store.poll_completion(at(0)).is_none());
        for (token, unix_ms) in [(0, 20_000), (1, 10_000)] {
            let (stream, batch) = (Stream(0), batch(1, 60, &[b"x"]));
            let append = Request::Append { token, stream, partition: key(0), batch };
            assert!(store.submit(at(unix_ms), append).is_ok());
        }
        let answers: Vec<_> = std::iter::from_fn(|| store.poll_completion(at(20_000))).collect();
        let Some(Completion::Fetched { token: 9, result: Ok(fetched) }) = answers.last() else {
            panic!("{answers:?}")
        };
        let times: Vec<u64> = fetched.batches.iter().map(|stored| stored.timestamp_ms).collect();
        assert_eq!((answers.len(), times), (3, vec![20_000, 20_000]));
    }

    #[test]
    fn when_full_it_drops_the_oldest_of_the_shard_and_counts_them() {
        let one = cost(&batch(1, 60, &[&[0; 100]]));
        let mut store: Memory<u64> = Memory::new(3 * one, WhenFull::DropOldest, 7);
        let now = Now::default();
        for (token, partition) in [(0, 1), (1, 0), (2, 1), (3, 0)] {
            let append = Request::Append {
                token,
                stream: Stream(0),
                partition: key(partition),
                batch: batch(1, 60, &[&[0; 100]]),
            };
            assert!(store.submit(now, append).is_ok());
        }
        assert_eq!((store.counters().dropped, store.bytes()), (1, 3 * one));
        assert_eq!(store.partitions[&key(1)].batches[0].base_offset, 1, "the oldest was partition 1's first");
        assert_eq!(store.partitions[&key(0)].batches.len(), 2);
    }

    #[test]
    fn what_it_holds_counts_for_its_project_until_it_expires_or_is_dropped() {
        use crate::access::ProjectLimits;
        use crate::access::Use;

        let tenants =
            Arc::new(Tenants::new(ProjectLimits { storage_bytes: 1 << 20, ..ProjectLimits::default() }));
        let of = |name: &str| tenants.get(&crate::base::names::Project::parse(name).unwrap(), 0).unwrap();
        let queue_of = |number: u64, name: &str| {
            let queue = crate::base::queue::QueueId(number);
            tenants.hold_queue(queue, of(name).hold(Use::Queue));
            PartitionKey { queue, partition: 0 }
        };
        let (of_a, of_b) = (queue_of(1, "a"), queue_of(2, "b"));
        let one = cost(&batch(1, 60, &[b"x"]));
        let mut store: Memory<u64> = Memory::new(3 * one, WhenFull::DropOldest, 7);
        store.count_for(&tenants);
        let later = |seconds: u64| Now::at_ms(seconds * 1000, seconds * 1000);
        let append = |store: &mut Memory<u64>, partition, ttl| {
            let batch = batch(1, ttl, &[b"x"]);
            let append = Request::Append { token: 0, stream: Stream(0), partition, batch };
            assert!(store.submit(later(0), append).is_ok());
            (of("a").storage(), of("b").storage())
        };
        let bytes = one as u64;
        assert_eq!(append(&mut store, of_a, 100), (bytes, 0));
        assert_eq!(append(&mut store, of_b, 100), (bytes, bytes));
        assert_eq!(append(&mut store, of_a, 60), (2 * bytes, bytes));
        assert_eq!(append(&mut store, of_b, 60), (bytes, 2 * bytes), "the oldest was dropped");
        // What expires ahead of something older, and the oldest.
        while store.handle_tick(later(60)) == Some(60_000 + BUSY_TICK_MS) {}
        assert_eq!((of("a").storage(), of("b").storage()), (0, bytes));
        assert_eq!(store.handle_tick(later(100)), None);
        assert_eq!((of("a").storage(), of("b").storage()), (0, 0));
    }

    #[test]
    fn told_to_refuse_it_refuses() {
        let one = cost(&batch(1, 60, &[&[0; 100]]));
        let mut store: Memory<u64> = Memory::new(one, WhenFull::Refuse, 7);
        for token in 0..2 {
            let append = Request::Append {
                token,
                stream: Stream(0),
                partition: key(0),
                batch: batch(1, 60, &[&[0; 100]]),
            };
            assert!(store.submit(Now::default(), append).is_ok());
        }
        let results: Vec<bool> = std::iter::from_fn(|| store.poll_completion(Now::default()))
            .map(|completion| matches!(completion, Completion::Appended { result: Ok(_), .. }))
            .collect();
        assert_eq!(results, [true, false]);
        assert_eq!((store.counters().refused, store.bytes()), (1, one));
    }

    #[test]
    fn nothing_of_a_stream_is_stored_behind_what_was_refused() {
        let one = cost(&batch(1, 60, &[&[0; 100]]));
        let mut store: Memory<u64> = Memory::new(one, WhenFull::Refuse, 7);
        for (token, (stream, bytes)) in (0..).zip([(1, 101), (1, 100), (2, 100)]) {
            let batch = batch(1, 60, &[&vec![0; bytes]]);
            let append = Request::Append { token, stream: Stream(stream), partition: key(0), batch };
            assert!(store.submit(Now::default(), append).is_ok());
        }
        let results: Vec<_> = std::iter::from_fn(|| store.poll_completion(Now::default()))
            .map(|completion| match completion {
                Completion::Appended { result, .. } => result,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(results, [Err(StoreFault::Full), Err(StoreFault::Fenced), Ok(Some(0..1))]);
    }

    proptest! {
        #[test]
        fn what_has_expired_is_freed_and_nothing_else_is(
            steps in proptest::collection::vec((0u16..3, 60u32..90, 0u64..4, any::<bool>()), 1..120),
            room in 3usize..60,
        ) {
            let one = cost(&batch(1, 60, &[b"x"]));
            let mut store: Memory<u64> = Memory::new(room * one, WhenFull::DropOldest, 7);
            let mut now = Now::at_ms(1, 1_000_000);
            // What is there: partition, offset, expiry. The oldest first.
            let mut there: Vec<(u16, u64, u64)> = Vec::new();
            let mut ends = [0u64; 3];
            for (token, (partition, ttl, seconds, tick)) in (0..).zip(steps) {
                now.unix_ms += seconds * 1000;
                now.mono_ms += seconds * 1000;
                if tick {
                    while store.handle_tick(now) == Some(now.mono_ms + BUSY_TICK_MS) {}
                    there.retain(|(_, _, expiry)| *expiry > now.unix_ms);
                }
                prop_assert_eq!(store.batches, there.len());
                let (stream, key) = (Stream(0), key(partition));
                let append = Request::Append { token, stream, partition: key, batch: batch(1, ttl, &[b"x"]) };
                prop_assert!(store.submit(now, append).is_ok());
                if there.len() == room {
                    there.remove(0);
                }
                there.push((partition, ends[usize::from(partition)], now.unix_ms + u64::from(ttl) * 1000));
                ends[usize::from(partition)] += 1;
                prop_assert_eq!((store.batches, store.bytes), (there.len(), there.len() * one));
            }
            for (partition, end) in (0..).zip(ends) {
                let held = store.partitions.get(&key(partition)).map(|partition| &partition.batches);
                let held: Vec<u64> = held.into_iter().flatten().map(|stored| stored.base_offset).collect();
                let expected = there.iter().filter(|(of, _, _)| *of == partition).map(|(_, offset, _)| *offset);
                prop_assert_eq!(held, expected.collect::<Vec<_>>());
                prop_assert_eq!(store.resolve(key(partition), Position::Latest), end);
            }
            prop_assert_eq!(store.counters().stored, ends.iter().sum::<u64>());
        }
    }

    #[test]
    fn a_partition_that_was_only_waited_for_costs_nothing_afterwards() {
        let mut store = memory();
        for round in 0..100 {
            let partition = PartitionKey { queue: crate::base::queue::QueueId(round), partition: 0 };
            let fetch =
                Request::Fetch { token: round, partition, from: 0, bytes_max: 1, exclude: None, wait: true };
            assert!(store.submit(Now::default(), fetch).is_ok());
            assert!(store.submit(Now::default(), Request::Cancel { token: round, partition }).is_ok());
        }
        assert!(store.partitions.is_empty());
    }

    #[test]
    fn expired_batches_give_their_bytes_back_wherever_they_stand() {
        let mut store = memory();
        let now = Now::default();
        for (token, ttl) in [(0, 100), (1, 60), (2, 60)] {
            let append = Request::Append {
                token,
                stream: Stream(0),
                partition: key(0),
                batch: batch(1, ttl, &[b"x"]),
            };
            assert!(store.submit(now, append).is_ok());
        }
        let later = |seconds: u64| Now::at_ms(seconds * 1000, seconds * 1000);
        let mut tick = store.handle_tick(later(60));
        while tick == Some(60_000 + BUSY_TICK_MS) {
            tick = store.handle_tick(later(60));
        }
        assert_eq!((store.counters().expired, store.batches, tick), (2, 1, Some(61_000)));
        assert_eq!(store.handle_tick(later(100)), None);
        assert_eq!((store.counters().expired, store.bytes()), (3, 0));
    }
}

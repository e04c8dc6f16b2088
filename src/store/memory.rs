//! The memory store: a ring of batches for each partition. The reference for tests; loses all at exit.
//!
//! Bounded: each batch costs its stored bytes and [`BATCH_OVERHEAD_BYTES`]. When full it drops the oldest batches
//! of the whole shard, counts them and says so once, or refuses, as the operator chose.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use super::{Completion, Fence, Request, Store, Stream};
use crate::batch::{Batch, Fetched, StoredBatch};
use crate::clock::Now;
use crate::config::WhenFull;
use crate::error::StoreFault;
use crate::names::ClientId;
use crate::queue::{PartitionKey, Position};

/// What a batch costs beside its records: its header and reference counts, its place in the ring and in the order
/// of arrival, the allocator's share of two allocations.
pub const BATCH_OVERHEAD_BYTES: usize = 192;

/// Batches that one fetch passes over before it comes back, so that a long run of left-out batches cannot
/// hold the shard.
const SCAN_BATCHES: usize = 4096;

/// How often expired batches are looked for, milliseconds.
const TICK_MS: u64 = 1_000;

/// How many ticks pass between looks behind the front of the rings, where batches with a shorter TTL stand.
const TICKS_PER_SWEEP: u32 = 10;

/// What happened to messages that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryCounters {
    /// Dropped unexpired, because the store was full.
    pub dropped: u64,
    /// Their TTL ended.
    pub expired: u64,
    /// Refused, because the store was full.
    pub refused: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    token: T,
    from: u64,
    bytes_max: usize,
    exclude: Option<ClientId>,
}

/// Invariant: the batches' offsets grow and all lie below `end`; so do their timestamps below `last_timestamp_ms`.
#[derive(Debug)]
struct Partition<T> {
    batches: VecDeque<StoredBatch>,
    end: u64,
    last_timestamp_ms: u64,
    waiting: Vec<Waiting<T>>,
    /// It is in `Memory::woken`.
    is_woken: bool,
}

impl<T> Default for Partition<T> {
    fn default() -> Self {
        Self { batches: VecDeque::new(), end: 0, last_timestamp_ms: 0, waiting: Vec::new(), is_woken: false }
    }
}

/// See the module's page. Invariant: `bytes` is the cost of all batches, at most `bytes_max`.
#[derive(Debug)]
pub struct Memory<T> {
    partitions: HashMap<PartitionKey, Partition<T>>,
    /// The partition and base offset of each batch in the order of arrival; some of those may be gone.
    arrivals: VecDeque<(PartitionKey, u64)>,
    batches: usize,
    bytes: usize,
    bytes_max: usize,
    when_full: WhenFull,
    incarnation: u64,
    fence: Fence,
    completions: VecDeque<Completion<T>>,
    /// Partitions that got something and have fetches waiting.
    woken: Vec<PartitionKey>,
    ticks: u32,
    stored: u64,
    counters: MemoryCounters,
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
            batches: 0,
            bytes: 0,
            bytes_max,
            when_full,
            incarnation,
            fence: Fence::default(),
            completions: VecDeque::new(),
            woken: Vec::new(),
            ticks: 0,
            stored: 0,
            counters: MemoryCounters::default(),
        }
    }

    /// What became of messages that are gone.
    pub fn counters(&self) -> MemoryCounters {
        self.counters
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fetches that wait.
    pub fn waiting(&self) -> usize {
        self.partitions.values().map(|partition| partition.waiting.len()).sum()
    }

    fn append(&mut self, now: Now, token: T, stream: Stream, key: PartitionKey, batch: Batch) {
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
        let base_offset = partition.end;
        partition.end += count;
        partition.last_timestamp_ms = partition.last_timestamp_ms.max(now.unix_ms);
        partition.batches.push_back(StoredBatch {
            base_offset,
            timestamp_ms: partition.last_timestamp_ms,
            batch,
        });
        if !partition.waiting.is_empty() && !partition.is_woken {
            partition.is_woken = true;
            self.woken.push(key);
        }
        self.completions.push_back(Completion::Appended { token, result: Ok(base_offset..partition.end) });
        self.arrivals.push_back((key, base_offset));
        self.batches += 1;
        self.bytes += cost;
        self.stored += count;
        // Batches that expired in the middle leave their places behind.
        if self.arrivals.len() > 2 * self.batches + 1024 {
            let partitions = &self.partitions;
            self.arrivals.retain(|(key, base_offset)| {
                partitions.get(key).is_some_and(|partition| {
                    partition.batches.binary_search_by_key(base_offset, |stored| stored.base_offset).is_ok()
                })
            });
        }
    }

    fn refuse(&mut self, token: T, count: u64, fault: StoreFault) {
        self.counters.refused += count;
        self.completions.push_back(Completion::Appended { token, result: Err(fault) });
    }

    fn drop_oldest(&mut self) {
        let Some((key, base_offset)) = self.arrivals.pop_front() else { return };
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        let Some(stored) = partition.batches.pop_front_if(|stored| stored.base_offset == base_offset) else {
            return;
        };
        self.bytes -= cost(&stored.batch);
        self.batches -= 1;
        if self.counters.dropped == 0 {
            tracing::warn!(
                memory_bytes = self.bytes_max,
                "the memory store is full: the oldest messages are dropped"
            );
        }
        self.counters.dropped += u64::from(stored.batch.count());
    }

    fn fetch(&mut self, now: Now, wait: bool, key: PartitionKey, mut fetch: Waiting<T>) {
        let partition = self.partitions.entry(key).or_default();
        let fetched = partition.read(now, fetch.from, fetch.bytes_max, fetch.exclude);
        if wait && fetched.batches.is_empty() && fetched.at_end {
            fetch.from = fetched.next;
            partition.waiting.push(fetch);
        } else {
            self.completions.push_back(Completion::Fetched { token: fetch.token, result: Ok(fetched) });
        }
    }

    /// Looks again at the fetches that wait for a partition.
    fn wake(&mut self, now: Now, key: PartitionKey) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        partition.is_woken = false;
        for waiting in std::mem::take(&mut partition.waiting) {
            self.fetch(now, true, key, waiting);
        }
    }

    fn resolve(&self, key: PartitionKey, position: Position) -> u64 {
        let Some(partition) = self.partitions.get(&key) else { return 0 };
        match position {
            Position::Latest => partition.end,
            Position::Time(time) => {
                let index = partition.batches.partition_point(|stored| stored.timestamp_ms < time);
                partition.batches.get(index).map_or(partition.end, |stored| stored.base_offset)
            }
        }
    }
}

impl<T> Partition<T> {
    fn read(&self, now: Now, from: u64, bytes_max: usize, exclude: Option<ClientId>) -> Fetched {
        let first = self.batches.partition_point(|stored| stored.end_offset() <= from);
        let mut fetched = Fetched { batches: Vec::new(), next: from.min(self.end), at_end: false };
        let mut bytes = 0;
        for stored in self.batches.range(first..).take(SCAN_BATCHES) {
            if bytes >= bytes_max {
                break;
            }
            fetched.next = stored.end_offset();
            if !stored.is_expired(now.unix_ms) && exclude != Some(stored.batch.client()) {
                bytes += stored.batch.stored_bytes();
                fetched.batches.push(stored.clone());
            }
        }
        fetched.at_end = self.batches.back().is_none_or(|last| fetched.next >= last.end_offset());
        if fetched.at_end {
            fetched.next = self.end;
        }
        fetched
    }
}

impl<T: Copy + Eq + Hash> Store<T> for Memory<T> {
    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>> {
        match request {
            Request::Open { token, .. } => {
                self.completions.push_back(Completion::Opened { token, result: Ok(self.incarnation) });
            }
            Request::Append { token, stream, partition, batch } => {
                self.append(now, token, stream, partition, batch);
            }
            Request::Fetch { token, partition, from, bytes_max, exclude, wait } => {
                self.fetch(now, wait, partition, Waiting { token, from, bytes_max, exclude });
            }
            Request::Resolve { token, partition, position } => {
                let offset = self.resolve(partition, position);
                self.completions.push_back(Completion::Resolved { token, result: Ok(offset) });
            }
            Request::Cancel { token, partition } => {
                let Some(of) = self.partitions.get_mut(&partition) else { return Ok(()) };
                if let Some(index) = of.waiting.iter().position(|waiting| waiting.token == token) {
                    let waiting = of.waiting.swap_remove(index);
                    let fetched = Fetched { batches: Vec::new(), next: waiting.from, at_end: false };
                    self.completions.push_back(Completion::Fetched { token, result: Ok(fetched) });
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
        self.ticks = self.ticks.wrapping_add(1);
        let sweep = self.ticks.is_multiple_of(TICKS_PER_SWEEP);
        let Self { partitions, batches, bytes, counters, .. } = self;
        let mut gone = |stored: &StoredBatch| {
            *bytes -= cost(&stored.batch);
            *batches -= 1;
            counters.expired += u64::from(stored.batch.count());
        };
        for partition in partitions.values_mut() {
            while let Some(stored) = partition.batches.pop_front_if(|stored| stored.is_expired(now.unix_ms)) {
                gone(&stored);
            }
            if sweep {
                partition.batches.retain(|stored| {
                    let expired = stored.is_expired(now.unix_ms);
                    if expired {
                        gone(stored);
                    }
                    !expired
                });
            }
        }
        if self.batches == 0 {
            self.arrivals.clear();
        }
        (self.batches > 0).then_some(now.mono_ms + TICK_MS)
    }

    fn messages_stored(&self) -> u64 {
        self.stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{self, batch, key};

    fn memory() -> Memory<u64> {
        Memory::new(64 << 20, WhenFull::DropOldest, 7)
    }

    #[test]
    fn it_conforms() {
        conformance::run(memory);
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
        assert_eq!(results, [Err(StoreFault::Full), Err(StoreFault::Fenced), Ok(0..1)]);
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
        let later = |seconds: u64| Now { mono_ms: seconds * 1000, unix_ms: seconds * 1000 };
        let mut tick = None;
        for _ in 0..TICKS_PER_SWEEP {
            tick = store.handle_tick(later(60));
        }
        assert_eq!((store.counters().expired, store.batches, tick), (2, 1, Some(61_000)));
        assert_eq!(store.handle_tick(later(100)), None);
        assert_eq!((store.counters().expired, store.bytes()), (3, 0));
    }
}

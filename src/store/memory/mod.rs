//! The memory store: a queue of batches for each partition. It is the reference for tests, and loses
//! everything at exit.
//!
//! It is bounded: each batch costs its stored bytes and `BATCH_OVERHEAD_BYTES`. Depending on the settings, a
//! full store drops the oldest batches of the whole shard, counts them and warns once, or it refuses new
//! ones.

mod arrivals;
#[cfg(test)]
mod tests;

mod settings;

pub use settings::{Settings, WhenFull};

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use self::arrivals::Arrivals;
use super::cost::cost;
use super::fetch::Fetch;
use super::read::read;
use super::stock::{Holding, Portion, Stock};
use super::waiting::Waiting;
use super::window::{cap, stored_at};
use super::{
    Asker, Completion, Fence, Life, NewQueue, QueueSummary, Request, StateKeeping, Store, StoreCounters,
    Stream, Tail,
};
use crate::access::{StorageShare, Tenants};
use crate::base::batch::{Batch, Fetched, StoredBatch};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::limits::CLOCK_STEP_MAX;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::FullName;
use crate::base::queue::{PartitionKey, Position, QueueId, QueueInfo, Signing};
use crate::base::units::{Offset, Partition};

/// The interval at which expired batches are looked for, and the shorter one while a look
/// has not finished.
const TICK: Millis = Millis::new(1_000);
const BUSY_TICK: Millis = Millis::new(10);

/// The most batches that one look visits: about 0.2 ms of the shard's time. Few in tests, so that looks are
/// interrupted.
const LOOK_BATCHES: usize = if cfg!(test) { 3 } else { 2048 };

/// The number of batches that can be moved in memory in the time that a visit takes.
const MOVES_PER_BATCH: usize = 64;

const _: () = assert!(BUSY_TICK.get() < TICK.get(), "a look is continued before the next one is due");

/// The batches of one partition.
#[derive(Debug)]
struct Ring<F> {
    /// Offsets increase and are below `end`. Timestamps never decrease and are at most `last_timestamp`.
    batches: VecDeque<StoredBatch>,
    end: Offset,
    last_timestamp: UnixMillis,
    waiting: Waiting<F>,
    /// Whether it is in `Memory::woken`.
    is_woken: bool,
    /// The cost of its batches as a share of its project's storage, if that is limited.
    share: Option<StorageShare>,
    /// The messages that stay although they have expired, ascending.
    pinned: Vec<Range<Offset>>,
    /// What the batches hold.
    stock: Stock,
}

impl<F> Default for Ring<F> {
    fn default() -> Self {
        Self {
            batches: VecDeque::new(),
            end: Offset::ZERO,
            last_timestamp: UnixMillis::ZERO,
            waiting: Waiting::default(),
            is_woken: false,
            share: None,
            pinned: Vec::new(),
            stock: Stock::default(),
        }
    }
}

impl<F> Ring<F> {
    /// Returns when a batch may be removed.
    fn due(&self, stored: &StoredBatch) -> UnixMillis {
        let next = self.pinned.partition_point(|pinned| pinned.end <= stored.base_offset);
        let is_pinned = self.pinned.get(next).is_some_and(|pinned| pinned.start < stored.end_offset());
        if is_pinned { UnixMillis::MAX } else { stored.expiry() }
    }

    /// Subtracts a batch that was removed. Returns its cost.
    fn give_back(&mut self, stored: &StoredBatch) -> usize {
        let offsets = stored.base_offset..stored.end_offset();
        self.stock.remove(offsets, stored.batch.stored_bytes() as u64);
        let cost = cost(&stored.batch);
        if let Some(share) = &mut self.share {
            share.subtract(cost as u64);
        }
        cost
    }
}

impl<F> Ring<F> {
    /// Returns what the partition holds.
    fn summary(&self, unix: UnixMillis) -> QueueSummary {
        let mut holding = Holding::default();
        self.stock.add_to(&mut holding, Offset::ZERO, unix);
        let at = |of: Option<(Offset, Option<UnixMillis>)>| {
            of.and_then(|(offset, known)| known.or_else(|| stored_at(&self.batches, offset)))
        };
        QueueSummary {
            partitions: 0,
            messages: holding.visible + holding.delayed,
            bytes: holding.bytes,
            oldest: at(holding.oldest),
            newest: at(holding.newest),
        }
    }
}

/// Returns what a batch adds to the stock.
fn portion(stored: &StoredBatch) -> Portion {
    let (offsets, bytes) = (stored.base_offset..stored.end_offset(), stored.batch.stored_bytes() as u64);
    Portion::of_batch(offsets, bytes, stored.timestamp, stored.expiry(), stored.visible())
}

/// A queue that was made.
#[derive(Clone, Debug)]
struct Made {
    queue: NewQueue,
    incarnation: u64,
}

/// The memory store of one shard.
#[derive(Debug)]
pub struct Memory<T: Asker> {
    partitions: HashMap<PartitionKey, Ring<T::Fetch>>,
    arrivals: Arrivals,
    /// The latest timestamp that was given, and how far the clock may be behind it.
    newest: UnixMillis,
    clock_step_max: Millis,
    /// The number of batches in all partitions.
    batches: usize,
    /// Their cost, at most `bytes_max`.
    bytes: usize,
    bytes_max: usize,
    when_full: WhenFull,
    incarnation: u64,
    signing: Signing,
    /// The queues whose home is this shard.
    queues: HashMap<FullName, Made>,
    /// The number of queues that were made.
    made: u64,
    /// The queues that were deleted: 8 bytes each, until the end of the server.
    deleted: HashSet<QueueId>,
    /// The projects.
    tenants: Option<Arc<Tenants>>,
    fence: Fence,
    completions: VecDeque<Completion<T>>,
    /// Partitions that got messages and have fetches waiting.
    woken: Vec<PartitionKey>,
    counters: StoreCounters,
}

impl<T: Asker> Memory<T> {
    /// Creates a store of at most `bytes_max` bytes, whose queues have the incarnation `incarnation`.
    pub fn new(bytes_max: usize, when_full: WhenFull, incarnation: u64) -> Self {
        Self {
            partitions: HashMap::new(),
            arrivals: Arrivals::default(),
            newest: UnixMillis::ZERO,
            clock_step_max: CLOCK_STEP_MAX,
            batches: 0,
            bytes: 0,
            bytes_max,
            when_full,
            incarnation,
            signing: Signing { key: uuid::Uuid::new_v4().as_u128(), ..Signing::default() },
            queues: HashMap::new(),
            made: 0,
            deleted: HashSet::new(),
            tenants: None,
            fence: Fence::default(),
            completions: VecDeque::new(),
            woken: Vec::new(),
            counters: StoreCounters::default(),
        }
    }

    /// Returns the cost of all batches, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn life(&self, name: &FullName) -> Result<Life, StoreFault> {
        let Made { queue, incarnation } = self.queues.get(name).ok_or(StoreFault::NoQueue)?.clone();
        let NewQueue { partitions, attributes } = queue;
        Ok(Life { incarnation, partitions, signing: self.signing, attributes })
    }

    fn append(&mut self, now: Now, token: T::Append, stream: Stream, key: PartitionKey, batch: Batch) {
        self.follow_clock(now);
        let cost = cost(&batch);
        let count = u64::from(batch.count());
        if self.fence.is_closed(stream) {
            return self.refuse(token, count, StoreFault::Fenced);
        }
        if self.deleted.contains(&key.queue) {
            return self.refuse(token, count, StoreFault::Deleted);
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
            let counted = self.tenants.as_ref().filter(|tenants| tenants.counts_storage());
            let tenant = counted.and_then(|tenants| tenants.of_queue(key.queue));
            partition.share = tenant.and_then(|tenant| tenant.share());
        }
        if let Some(share) = &mut partition.share {
            share.add(cost as u64);
        }
        let base_offset = partition.end;
        partition.end += count;
        partition.last_timestamp = partition.last_timestamp.max(now.unix);
        let (timestamp, stored_ns) = (partition.last_timestamp, now.mono_ns);
        let stored = StoredBatch { base_offset, timestamp, stored_ns, batch };
        let expiry = stored.expiry();
        partition.stock.push(portion(&stored));
        partition.batches.push_back(stored);
        if !partition.waiting.is_empty() && !partition.is_woken {
            partition.is_woken = true;
            self.woken.push(key);
        }
        self.completions
            .push_back(Completion::Appended { token, result: Ok(Some(base_offset..partition.end)) });
        self.arrivals.push(key, base_offset, expiry);
        self.batches += 1;
        self.bytes += cost;
        self.counters.stored += count;
        debug_assert!(self.bytes <= self.bytes_max, "{} of {} bytes", self.bytes, self.bytes_max);
    }

    /// Follows the clock. After it steps back by more than the tolerance, everything that is stored counts as
    /// stored now or earlier.
    fn follow_clock(&mut self, now: Now) {
        let is_behind = now.unix + self.clock_step_max < self.newest;
        self.newest = if is_behind { now.unix } else { self.newest.max(now.unix) };
        if !is_behind {
            return;
        }
        for partition in self.partitions.values_mut() {
            cap(&mut partition.batches, now.unix);
            partition.stock.cap(now.unix);
            partition.last_timestamp = partition.last_timestamp.min(now.unix);
        }
        // The batches may no longer be in the order of their expiry, so all must be looked at again.
        let batches = self.partitions.values().flat_map(|partition| &partition.batches);
        let latest_expiry = batches.map(StoredBatch::expiry).max().unwrap_or_default();
        self.arrivals.begin_anew(now.unix, latest_expiry);
    }

    fn refuse(&mut self, token: T::Append, count: u64, fault: StoreFault) {
        self.counters.refused += count;
        self.completions.push_back(Completion::Appended { token, result: Err(fault) });
    }

    fn drop_oldest(&mut self) {
        let Some(stored) = self.pop_oldest() else { return };
        if self.counters.dropped == 0 {
            tracing::warn!(memory_bytes = self.bytes_max, "memory store full; dropping the oldest messages");
        }
        self.counters.dropped += u64::from(stored.batch.count());
    }

    /// Counts a batch of this cost as removed.
    fn count_removed(&mut self, cost: usize) {
        self.bytes -= cost;
        self.batches -= 1;
        debug_assert!(self.batches > 0 || self.bytes == 0, "no batch is left, but {} bytes are", self.bytes);
    }

    /// Removes the oldest batch. Returns `None` if the batch at that place was already removed.
    fn pop_oldest(&mut self) -> Option<StoredBatch> {
        let (key, base_offset) = self.arrivals.pop_oldest()?;
        let partition = self.partitions.get_mut(&key)?;
        let stored = partition.batches.pop_front_if(|stored| stored.base_offset == base_offset)?;
        let cost = partition.give_back(&stored);
        self.count_removed(cost);
        Some(stored)
    }

    /// Removes the oldest batches that have expired. Returns false if it did not reach the end of them.
    fn expire_oldest(&mut self, now: Now) -> bool {
        for _ in 0..LOOK_BATCHES {
            let Some((key, base_offset)) = self.arrivals.oldest() else { return true };
            let partition = self.partitions.get(&key);
            let front = partition.and_then(|partition| Some((partition, partition.batches.front()?)));
            if let Some((partition, front)) = front.filter(|(_, front)| front.base_offset == base_offset) {
                if !front.is_expired(now.unix) {
                    return true;
                }
                if partition.due(front) == UnixMillis::MAX {
                    self.arrivals.note_pinned((key, base_offset));
                    return true;
                }
            }
            if let Some(expired) = self.pop_oldest() {
                self.counters.expired += u64::from(expired.batch.count());
            }
        }
        false
    }

    /// Looks for batches that have expired before older ones. Returns false if it has not visited all.
    fn sweep(&mut self, now: Now) -> bool {
        let mut effort = 0;
        while effort < LOOK_BATCHES {
            let Some((key, base_offset)) = self.arrivals.look() else { return true };
            effort += 1;
            let Some(partition) = self.partitions.get_mut(&key) else { continue };
            let index = partition.batches.binary_search_by_key(&base_offset, |stored| stored.base_offset);
            let Ok(index) = index else { continue };
            let expiry = partition.due(&partition.batches[index]);
            if expiry <= now.unix {
                effort += index.min(partition.batches.len() - index) / MOVES_PER_BATCH;
                if let Some(stored) = partition.batches.remove(index) {
                    let cost = partition.give_back(&stored);
                    self.count_removed(cost);
                    self.counters.expired += u64::from(stored.batch.count());
                }
                continue;
            }
            self.arrivals.keep((key, base_offset), expiry);
        }
        false
    }

    fn fetch(&mut self, now: Now, key: PartitionKey, mut fetch: Fetch<T::Fetch>) {
        if self.deleted.contains(&key.queue) {
            let result = Err(StoreFault::Deleted);
            return self.completions.push_back(Completion::Fetched { token: fetch.token, result });
        }
        let fetched = match self.partitions.get(&key) {
            Some(of) if fetch.from > of.end => Fetched::rewound(),
            Some(of) => read(&of.batches, of.end, now, &fetch),
            None if fetch.from > Offset::ZERO => Fetched::rewound(),
            None => Fetched { at_end: true, ..Fetched::default() },
        };
        if fetch.wait && fetched.batches.is_empty() && fetched.at_end {
            fetch.from = fetched.next;
            self.partitions.entry(key).or_default().waiting.push(fetch);
        } else {
            self.completions.push_back(Completion::Fetched { token: fetch.token, result: Ok(fetched) });
        }
    }

    /// Retries the fetches that wait for a partition.
    fn wake(&mut self, now: Now, key: PartitionKey) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        partition.is_woken = false;
        for fetch in partition.waiting.take() {
            self.fetch(now, key, fetch);
        }
    }

    fn resolve(&self, key: PartitionKey, position: Position) -> Result<Offset, StoreFault> {
        if self.deleted.contains(&key.queue) {
            return Err(StoreFault::Deleted);
        }
        let Some(partition) = self.partitions.get(&key) else { return Ok(Offset::ZERO) };
        Ok(match position {
            // The store has one timeline in each incarnation.
            Position::After { offset, .. } => offset.min(partition.end),
            Position::Latest => partition.end,
            Position::Time(time) => {
                let index = partition.batches.partition_point(|stored| stored.timestamp < time);
                partition.batches.get(index).map_or(partition.end, |stored| stored.base_offset)
            }
        })
    }
}

impl<T: Asker> Store<T> for Memory<T> {
    const STATE: StateKeeping = StateKeeping::Volatile;

    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>> {
        match request {
            Request::Open { token, queue: id, name, create } => {
                if let Some(queue) = create
                    && !self.queues.contains_key(&name)
                {
                    let incarnation = self.incarnation.wrapping_add(self.made);
                    self.made += 1;
                    self.deleted.remove(&id);
                    self.queues.insert(name.clone(), Made { queue, incarnation });
                }
                let result = self.life(&name);
                self.completions.push_back(Completion::Opened { token, result });
            }
            Request::Alter { token, name, attributes, partitions } => {
                let queue = NewQueue { partitions, attributes };
                self.queues.entry(name.clone()).and_modify(|of| of.queue = queue);
                let result = self.life(&name);
                self.completions.push_back(Completion::Altered { token, result });
            }
            Request::Delete { token, name } => {
                let made = self.queues.remove(&name);
                let result = made.map(|made| made.incarnation).ok_or(StoreFault::NoQueue);
                self.completions.push_back(Completion::Deleted { token, result });
            }
            Request::Append { token, stream, partition, batch } => {
                self.append(now, token, stream, partition, batch);
            }
            Request::Fetch { token, partition, from, bytes_max, exclude, view, wait } => {
                let fetch = Fetch { token, from, bytes_max, exclude, view, wait, since: now.mono };
                self.fetch(now, partition, fetch);
            }
            Request::Resolve { token, partition, position } => {
                let result = self.resolve(partition, position);
                self.completions.push_back(Completion::Resolved { token, result });
            }
            Request::Cancel { token, partition } => {
                let Some(of) = self.partitions.get_mut(&partition) else { return Ok(()) };
                if let Some(fetch) = of.waiting.cancel(token) {
                    let fetched = Fetched { next: fetch.from, ..Fetched::default() };
                    self.completions.push_back(Completion::Fetched { token, result: Ok(fetched) });
                    // Nothing was ever stored in the partition, so only the fetch knew it.
                    if of.waiting.is_empty() && of.end == Offset::ZERO {
                        self.partitions.remove(&partition);
                    }
                }
            }
            other => {
                if let Ok(Some(completion)) = other.without_claims() {
                    self.completions.push_back(completion);
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

    fn handle_tick(&mut self, now: Now) -> Option<Millis> {
        self.follow_clock(now);
        let mut done = self.expire_oldest(now);
        if self.arrivals.is_look_due(now.unix) {
            done &= self.sweep(now);
        }
        (self.batches > 0).then_some(now.mono + if done { TICK } else { BUSY_TICK })
    }

    fn forget(&mut self, queue: QueueId, _incarnation: u64) {
        self.deleted.insert(queue);
        let keys: Vec<PartitionKey> =
            self.partitions.keys().filter(|key| key.queue == queue).copied().collect();
        for key in keys {
            Store::<T>::release(self, key, Offset(u64::MAX));
            let Some(mut partition) = self.partitions.remove(&key) else { continue };
            for fetch in partition.waiting.take() {
                let result = Err(StoreFault::Deleted);
                self.completions.push_back(Completion::Fetched { token: fetch.token, result });
            }
        }
    }

    fn describe(&self, unix: UnixMillis) -> Result<Vec<(FullName, QueueSummary)>, StoreFault> {
        let mut all: HashMap<FullName, QueueSummary> = HashMap::new();
        for (name, made) in &self.queues {
            let partitions = made.queue.partitions;
            all.insert(name.clone(), QueueSummary { partitions, ..QueueSummary::default() });
        }
        for (key, partition) in &self.partitions {
            let named = self.tenants.as_ref().and_then(|tenants| tenants.policies().get(key.queue));
            let Some((name, _)) = named else { continue };
            all.entry(name).or_default().merge(&partition.summary(unix));
        }
        Ok(all.into_iter().collect())
    }

    fn tail(&self, queue: &QueueInfo, partition: Partition) -> Option<Tail> {
        Some(Tail::new(
            self.partitions.get(&queue.key(partition)).map_or(Offset::ZERO, |partition| partition.end),
        ))
    }

    fn release(&mut self, partition: PartitionKey, below: Offset) {
        let Some(of) = self.partitions.get_mut(&partition) else { return };
        let mut costs = Vec::new();
        while let Some(stored) = of.batches.pop_front_if(|stored| stored.end_offset() <= below) {
            costs.push(of.give_back(&stored));
        }
        self.arrivals.note_released(costs.len());
        costs.into_iter().for_each(|cost| self.count_removed(cost));
        if self.batches == 0 {
            self.arrivals = Arrivals::default();
        }
    }

    fn partitions(&self, queue: QueueId) -> Vec<Partition> {
        let keys = self.partitions.keys().filter(|key| key.queue == queue);
        keys.map(|key| key.partition).collect()
    }

    fn holding(&mut self, partition: PartitionKey, from: Offset, unix: UnixMillis) -> Option<Holding> {
        let Some(of) = self.partitions.get(&partition) else { return Some(Holding::default()) };
        let first = of.batches.front().map_or(of.end, |stored| stored.base_offset);
        let mut holding = Holding { stored: first..of.end, ..Holding::default() };
        of.stock.add_to(&mut holding, from, unix);
        for (offset, stored) in [&mut holding.oldest, &mut holding.newest].into_iter().flatten() {
            *stored = stored_at(&of.batches, *offset);
        }
        Some(holding)
    }

    fn each_portion(&mut self, partition: PartitionKey, range: Range<Offset>, each: &mut dyn FnMut(Portion)) {
        if let Some(of) = self.partitions.get(&partition) {
            of.stock.each(&range, each);
        }
    }

    fn pin(&mut self, partition: PartitionKey, pinned: Vec<Range<Offset>>) {
        debug_assert!(pinned.is_sorted_by(|a, b| a.end <= b.start), "{pinned:?}");
        let Some(of) = self.partitions.get_mut(&partition) else { return };
        let before = std::mem::replace(&mut of.pinned, pinned);
        if !before.is_empty() && before != of.pinned {
            self.arrivals.note_pins();
        }
    }

    fn set_clock_step_max(&mut self, by: Millis) {
        self.clock_step_max = by;
    }

    fn count_for(&mut self, tenants: &Arc<Tenants>) {
        self.tenants = Some(tenants.clone());
    }

    fn counters(&self) -> StoreCounters {
        self.counters
    }

    fn waiting(&self) -> usize {
        self.partitions.values().map(|partition| partition.waiting.len()).sum()
    }
}

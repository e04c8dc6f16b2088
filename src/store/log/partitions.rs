//! The partitions of a shard: their ends and offsets, their newest messages in memory, and their counters.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::format::PartitionId;
use super::grouping::Place;
use super::index::{RunsAt, SpanHead, Spans};
use super::journal::{Active, JournalEntry, Written};
use super::keep::Keep;
use super::partition::LogPartition;
use super::segment::{Past, Runs, SealedSpan, Segment};
use super::summary;
use super::usage::{Accounts, StorageAccount};
use crate::access::Tenants;
use crate::base::batch::StoredBatch;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::FullName;
use crate::base::queue::PartitionKey;
use crate::base::units::Offset;
use crate::store::fetch::Fetch;
use crate::store::window::Window;
use crate::store::{Asker, Completion, QueueSummary, StoreCounters, Tail};

/// The most marks that one tick writes, so that other work gets its turn.
const MARKS_AT_ONCE: usize = 4096;

/// The partitions of a shard.
#[derive(Debug)]
pub(super) struct Partitions<T: Asker> {
    of: HashMap<PartitionId, LogPartition<T::Fetch>>,
    /// The accounts of projects, if storage is limited.
    accounts: Option<Accounts>,
    /// The batches in memory and their cost, in the order of arrival. Some may belong to partitions that were
    /// deleted.
    arrivals: VecDeque<(PartitionId, usize)>,
    /// The total cost of `arrivals`, at most `tail_bytes_max` between two batches.
    tail_bytes: usize,
    tail_bytes_max: usize,
    /// Partitions that got messages and have fetches waiting, each once.
    woken: Vec<PartitionId>,
    /// The number of retirements of segments that were handled.
    retirements: usize,
    /// Counts of messages. `refused` is counted by the writer.
    counters: StoreCounters,
}

impl<T: Asker> Partitions<T> {
    /// Creates the partitions that were found at the start. `tail_bytes_max` bounds their newest messages in
    /// memory.
    pub(super) fn new(
        found: impl Iterator<Item = (PartitionId, LogPartition<T::Fetch>)>,
        tail_bytes_max: usize,
    ) -> Self {
        Self {
            of: found.collect(),
            accounts: None,
            arrivals: VecDeque::new(),
            tail_bytes: 0,
            tail_bytes_max,
            woken: Vec::new(),
            retirements: 0,
            counters: StoreCounters::default(),
        }
    }

    #[inline]
    pub(super) fn get(&self, id: PartitionId) -> Option<&LogPartition<T::Fetch>> {
        self.of.get(&id)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: PartitionId) -> Option<&mut LogPartition<T::Fetch>> {
        self.of.get_mut(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Adds a partition on first use, unless it exists. `jump` returns how many offsets are skipped before the next
    /// message of a partition that ends there: the queue may be older than its partition.
    pub(super) fn add(&mut self, key: PartitionKey, id: PartitionId, jump: impl FnOnce(Offset) -> u64) {
        let accounts = &self.accounts;
        self.of.entry(id).or_insert_with(|| {
            let accounts = accounts.as_ref().filter(|_| !is_hidden(id));
            let account = accounts.and_then(|accounts| accounts.of(key));
            let past = Past::new(id.1);
            let jump = if is_hidden(id) { 0 } else { jump(past.end) };
            LogPartition { account, ..LogPartition::new(past, jump) }
        });
    }

    /// Removes a partition of a deleted queue.
    pub(super) fn remove(&mut self, id: PartitionId) {
        self.of.remove(&id);
    }

    /// Returns the partitions of a queue.
    pub(super) fn of_queue(&self, incarnation: u64) -> Vec<PartitionId> {
        self.of.keys().filter(|id| id.0 == incarnation).copied().collect()
    }

    /// Returns what an entry becomes in a round: the batch as it is stored (`None` for a mark), the
    /// partition's end and a timestamp.
    #[inline]
    pub(super) fn assign(
        &mut self,
        now: Now,
        entry: &JournalEntry<T>,
    ) -> (Option<StoredBatch>, Offset, UnixMillis) {
        let Some(partition) = self.of.get_mut(&entry.id()) else {
            debug_assert!(false, "{:?} was removed, but its entries were not", entry.id());
            return (None, Offset::ZERO, now.unix);
        };
        partition.past.newest = partition.past.newest.max(now.unix);
        let timestamp = partition.past.newest;
        let JournalEntry::Append { batch, .. } = entry else { return (None, partition.end(), timestamp) };
        let base_offset = partition.give_offsets(batch.count());
        let stored = StoredBatch { base_offset, timestamp, stored_ns: 0, batch: batch.clone() };
        (Some(stored), partition.next, timestamp)
    }

    /// Handles an entry of a round that is as durable as the settings ask for.
    #[inline]
    pub(super) fn store(&mut self, now: Now, written: Written<T>, completions: &mut VecDeque<Completion<T>>) {
        let id = written.entry.id();
        let partition = self.of.get_mut(&id);
        let (token, partition, mut stored) = match (written.entry, partition, written.stored) {
            (JournalEntry::Append { token, .. }, Some(partition), Some(stored)) => (token, partition, stored),
            (JournalEntry::Append { token, .. }, ..) => {
                return completions
                    .push_back(Completion::Appended { token, result: Err(StoreFault::Deleted) });
            }
            (JournalEntry::Mark { .. }, Some(partition), _) => return partition.is_marking = false,
            (JournalEntry::Mark { .. }, None, _) => return,
        };
        stored.stored_ns = now.mono_ns;
        if let Some(account) = &mut partition.account {
            account.add(&written.header);
        }
        let range = stored.base_offset..stored.end_offset();
        let before = partition.window.bytes();
        if is_hidden(id) {
            // Only a start reads state.
            partition.window = Window::new(range.end);
        } else {
            self.counters.stored += range.end.since(range.start);
            partition.window.push(stored);
        }
        debug_assert!(partition.is_sound(), "{id:?}: {} is stored before {}", range.end, partition.next);
        let cost = partition.window.bytes() - before;
        if !partition.waiting.is_empty() && !partition.is_woken {
            partition.is_woken = true;
            self.woken.push(id);
        }
        if cost > 0 {
            self.arrivals.push_back((id, cost));
            self.tail_bytes += cost;
            self.let_oldest_go();
        }
        completions.push_back(Completion::Appended { token, result: Ok(Some(range)) });
    }

    /// Releases the oldest batches in memory until the rest is within the limit.
    #[inline]
    fn let_oldest_go(&mut self) {
        while self.tail_bytes > self.tail_bytes_max
            && let Some((id, cost)) = self.arrivals.pop_front()
        {
            self.tail_bytes -= cost;
            if let Some(partition) = self.of.get_mut(&id) {
                partition.window.pop_oldest();
            }
        }
        debug_assert!(
            !self.arrivals.is_empty() || self.tail_bytes == 0,
            "no batch is left, but {} bytes are",
            self.tail_bytes
        );
    }

    /// Handles an entry that could not be written.
    pub(super) fn handle_refused(&mut self, entry: &JournalEntry<T>) {
        let Some(partition) = self.of.get_mut(&entry.id()) else { return };
        partition.take_offsets_back();
        if matches!(entry, JournalEntry::Mark { .. }) {
            partition.is_marking = false;
        }
        debug_assert!(partition.is_sound(), "{:?}", entry.id());
    }

    /// Adds the spans of the segment that was sealed.
    pub(super) fn seal(&mut self, segment: &Arc<Segment>, spans: Spans) {
        for (id, span) in spans {
            if let Some(partition) = self.of.get_mut(&id) {
                let runs = Runs::Memory(span.runs.into());
                partition.past.push(SealedSpan::new(segment.clone(), span.head, runs, span.stock));
            }
        }
    }

    /// Refers to the index of a sealed segment on the disk, which frees its runs in memory.
    pub(super) fn handle_indexed(&mut self, number: u64, spans: Vec<(PartitionId, SpanHead, RunsAt)>) {
        for (id, _, at) in spans {
            let Some(partition) = self.of.get_mut(&id) else { continue };
            let mut newest = partition.past.spans.iter_mut().rev();
            if let Some(span) = newest.find(|span| span.segment.number == number) {
                span.runs = Runs::Index(at);
            }
        }
    }

    /// Returns where a partition has a span of a sealed segment, if the span is still needed.
    pub(super) fn place_of(&self, id: PartitionId, number: u64, head: &SpanHead) -> Option<Place> {
        let past = &self.of.get(&id)?.past;
        let index = past.position(number, head)?;
        Some(Place { index, is_capped: past.spans[index].cap < UnixMillis::MAX })
    }

    /// Replaces the spans in the segments with these numbers by those of a segment that holds the same
    /// batches. `offsets` are those of each partition in the replaced segments.
    pub(super) fn group(
        &mut self,
        segment: &Arc<Segment>,
        mut spans: Spans,
        replaced: &HashSet<u64>,
        offsets: Vec<(PartitionId, Range<Offset>)>,
    ) {
        for (id, offsets) in offsets {
            let (Some(partition), Some(span)) = (self.of.get_mut(&id), spans.remove(&id)) else { continue };
            let is_replaced = |of: &Segment| replaced.contains(&of.number);
            partition.past.replace(offsets, is_replaced, segment, Runs::Memory(span.runs.into()), span.stock);
            if let Some(account) = &mut partition.account {
                account.set_due();
            }
        }
    }

    /// Records that everything that is stored was stored at `unix` or earlier. Calls `mark` for each
    /// partition with later timestamps.
    pub(super) fn cap(&mut self, unix: UnixMillis, mut mark: impl FnMut(PartitionId)) {
        for (id, partition) in &mut self.of {
            partition.window.cap(unix);
            if partition.past.cap(unix) && !partition.is_marking {
                partition.is_marking = true;
                mark(*id);
            }
        }
    }

    /// Calls `mark` for each partition that ends after its last span, because later messages were lost.
    pub(super) fn mark_ends(&mut self, mut mark: impl FnMut(PartitionId)) {
        for (id, partition) in &mut self.of {
            if partition.past.spans.back().map_or(Offset::ZERO, |span| span.head.end) < partition.past.end {
                partition.is_marking = true;
                mark(*id);
            }
        }
    }

    /// Releases the spans that have expired at `unix`, and those in retired segments. Calls `mark` for
    /// partitions whose last span has expired: only that span says where they end.
    pub(super) fn expire(
        &mut self,
        unix: UnixMillis,
        retirements: usize,
        active: Option<&Active>,
        may_mark: bool,
        mut mark: impl FnMut(PartitionId),
    ) {
        let is_any_retired = std::mem::replace(&mut self.retirements, retirements) != retirements;
        let mut marks = 0;
        for (id, partition) in &mut self.of {
            if partition.past.due > unix && !is_any_retired {
                continue;
            }
            // After its last span is released, something else must say where the partition ends.
            let is_told = active.is_some_and(|active| active.spans.contains_key(id));
            let (expired, dropped) = partition.past.expire(unix, is_told);
            if !is_hidden(*id) {
                self.counters.expired += expired;
                self.counters.dropped += dropped;
            }
            if let Some(account) = &mut partition.account {
                account.set_due();
            }
            let wants_mark = partition.past.due <= unix && !partition.is_marking;
            if wants_mark && may_mark && marks < MARKS_AT_ONCE {
                marks += 1;
                partition.is_marking = true;
                mark(*id);
            }
        }
    }

    /// Changes which spans of a partition must stay, and which may go at the next tick.
    pub(super) fn change(&mut self, id: PartitionId, change: impl FnOnce(&mut Keep)) {
        if let Some(partition) = self.of.get_mut(&id) {
            partition.past.change(change);
        }
    }

    /// Returns the hidden partitions whose state is known to what keeps the claims.
    pub(super) fn known_states(&self) -> impl Iterator<Item = (PartitionId, &Past)> + Clone {
        self.of.iter().filter_map(|(id, partition)| {
            let data = self.of.get(&(id.0, id.1.of_state()?));
            let is_known = data.is_none_or(|data| !data.past.keep().is_whole());
            is_known.then_some((*id, &partition.past))
        })
    }

    /// Returns how many spans each segment holds that may go once the segment that is being written has marks
    /// and new snapshots, by the number of the segment.
    pub(super) fn movable_spans(&self, unix: UnixMillis) -> HashMap<u64, usize> {
        let mut movable: HashMap<u64, usize> = HashMap::new();
        for (id, LogPartition { past, .. }) in &self.of {
            past.spans.iter().for_each(|span| *movable.entry(span.segment.number).or_default() += 1);
            let needed = past.needed(unix).filter(|_| !is_hidden(*id));
            needed.for_each(|span| *movable.entry(span.segment.number).or_default() -= 1);
        }
        movable
    }

    /// Counts what is stored from now on. Begins with what was found at the start, including expired messages
    /// until the first tick. `names` are the queues by incarnation.
    pub(super) fn count_for(&mut self, tenants: &Arc<Tenants>, names: &HashMap<u64, (FullName, u16)>) {
        for (id, partition) in self.of.iter_mut().filter(|(id, _)| !is_hidden(**id)) {
            let tenant = names.get(&id.0).map(|((project, _), _)| tenants.get(project, Millis::ZERO));
            let Some(mut account) = tenant.as_ref().and_then(StorageAccount::new) else { continue };
            account.count(partition.heads(*id, None), UnixMillis::ZERO);
            account.set_due();
            partition.account = Some(account);
        }
        self.accounts = Some(Accounts::new(tenants));
    }

    /// Recounts the partitions in which messages expired or were released.
    pub(super) fn count_due(&mut self, now: Now, active: Option<&Active>) {
        let Some(accounts) = &mut self.accounts else { return };
        let is_set_back = accounts.look(now.unix);
        for (id, partition) in &mut self.of {
            let Some(mut account) =
                partition.account.take_if(|account| is_set_back || account.is_due(now.unix))
            else {
                continue;
            };
            account.count(partition.heads(*id, active), now.unix);
            partition.account = Some(account);
        }
    }

    /// Returns the fetches that waited for a partition that got messages.
    #[inline]
    pub(super) fn poll_woken(
        &mut self,
    ) -> Option<(PartitionId, impl Iterator<Item = Fetch<T::Fetch>> + use<T>)> {
        while let Some(id) = self.woken.pop() {
            // Its queue may have been deleted since.
            if let Some(partition) = self.of.get_mut(&id) {
                partition.is_woken = false;
                return Some((id, partition.waiting.take()));
            }
        }
        None
    }

    /// Returns the end of a partition. An unknown partition is empty.
    pub(super) fn tail(&self, id: PartitionId) -> Tail {
        self.of.get(&id).map(LogPartition::tail).unwrap_or_default()
    }

    /// Returns what each queue holds, by incarnation.
    pub(super) fn summaries(&self, active: Option<&Active>, unix: UnixMillis) -> HashMap<u64, QueueSummary> {
        let mut of: HashMap<u64, QueueSummary> = HashMap::new();
        for (id, partition) in self.of.iter().filter(|(id, _)| !is_hidden(**id)) {
            summary::add(of.entry(id.0).or_default(), partition.heads(*id, active), unix);
        }
        of
    }

    /// Returns the counts of messages, without those that were refused.
    pub(super) fn counters(&self) -> StoreCounters {
        self.counters
    }

    /// Returns the number of fetches that wait for new messages.
    pub(super) fn waiting(&self) -> usize {
        self.of.values().map(|partition| partition.waiting.len()).sum()
    }
}

/// Returns whether a partition is hidden: it holds state, which does not count as messages.
#[inline]
fn is_hidden(id: PartitionId) -> bool {
    id.1.of_state().is_some()
}

//! The state of a data directory that all shards share: its queues, what recovery found at the start, and
//! the free files. A shard uses it when it first touches a queue or a partition, and when a segment begins or
//! ends.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::catalogue::{Altered, Place};
use super::cut::{Cut, CutSegment, Cuts, NoCut, NotHeld};
use super::disk::{Directory, NewPlace};
use super::format::PartitionId;
use super::history::{History, Moment, Sealed};
use super::removal::Removals;
use super::segment::{Past, Segment};
use crate::base::attributes::Attributes;
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::FullName;
use crate::base::queue::{PartitionKey, QueueId, Signing, owner};
use crate::base::units::Offset;
use crate::store::Life;

/// The state of a data directory that all shards share, behind a lock.
#[derive(Debug, Default)]
pub struct DataDir {
    state: Mutex<SharedState>,
    /// The number of segments retired since the start.
    retirements: AtomicUsize,
    /// The number of openings of queues since the start.
    openings: AtomicUsize,
    cuts: Cuts,
    removals: Removals,
}

/// For how long it is remembered that a file was taken.
const TAKEN_FOR: Millis = Millis::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct SharedState {
    pub queues: HashMap<FullName, Life>,
    /// The incarnations of the open queues, by the server's ids.
    pub opened: HashMap<QueueId, u64>,
    /// The partitions that recovery found, each with the hash of its queue's name, until their owners take
    /// them.
    pub pasts: Vec<(PartitionId, u64, Past)>,
    /// The segments that recovery found, until the shards take them.
    pub segments: Vec<Arc<Segment>>,
    /// Files that held deleted segments. The first is reused first.
    pub free: VecDeque<u32>,
    /// When the last files were taken for new segments, by the monotonic clock.
    pub taken: VecDeque<Millis>,
    pub next_place: u32,
    pub next_number: u64,
    pub next_incarnation: u64,
    /// The shards' catalogues.
    pub catalogues: Vec<Place>,
    /// The directory's timelines, and the key that signs markers.
    pub history: History,
    /// The latest timestamp that recovery found.
    pub newest: UnixMillis,
    /// The segments that the shards have sealed at this stop.
    pub sealed: Vec<Sealed>,
    /// Segments with messages of queues that no catalogue names. They are kept until an operator has looked.
    pub orphaned: Vec<Arc<Segment>>,
}

/// How many free files are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreeRoom {
    /// This many always.
    pub least: usize,
    /// No more than that, however many files were taken lately.
    pub most: usize,
}

impl SharedState {
    /// Returns how many free files are kept: as many as were taken lately. Without them, a server that stores
    /// as much as expires would remove files and make others.
    fn free_max(&mut self, now: Now, room: FreeRoom) -> usize {
        self.forget_taken(now);
        self.taken.len().min(room.most).max(room.least)
    }

    fn forget_taken(&mut self, now: Now) {
        let is_old = |at: &Millis| *at + TAKEN_FOR < now.mono;
        while self.taken.front().is_some_and(is_old) {
            self.taken.pop_front();
        }
    }

    /// Returns the key and the timeline that sign markers.
    pub(super) fn signing(&self) -> Signing {
        let History { key, timeline, is_key_new, .. } = self.history;
        Signing { key, timeline, is_key_new }
    }
}

/// A shard's part of what recovery found.
#[derive(Debug)]
pub(super) struct ShardStart {
    pub pasts: Vec<(PartitionId, Past)>,
    pub segments: Vec<Arc<Segment>>,
    pub catalogue: Place,
}

impl DataDir {
    /// Shares the state that recovery found.
    pub(super) fn new(state: SharedState) -> Self {
        Self { state: Mutex::new(state), ..Self::default() }
    }

    /// Returns the queues and partitions that recovery found, for tools.
    pub(super) fn into_contents(self) -> (BTreeMap<FullName, Life>, BTreeMap<PartitionId, Past>) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let pasts = state.pasts.into_iter().map(|(id, _, past)| (id, past));
        (state.queues.into_iter().collect(), pasts.collect())
    }

    /// Returns what recovery found as a cut, for tools. Every catalogue counts as a whole.
    pub(super) fn into_cut(self) -> Cut {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let segments = state.segments.iter().map(|segment| CutSegment::of(segment));
        let segments = segments.filter(CutSegment::has_rounds).collect();
        Cut { timeline: state.history.timeline, segments, catalogues: Vec::new() }
    }

    /// Asks the shards `0..shards`, which must be woken, for a cut, and passes it to `take` on the thread of a
    /// shard, or on this one. The files of the cut stay until [`Self::end_hold`], under the `id`, which must
    /// not be 0.
    pub fn begin_cut(&self, id: u64, shards: u16, take: impl FnOnce(Result<Cut, NoCut>) + Send + 'static) {
        let timeline = self.lock().history.timeline;
        self.cuts.begin(id, shards, timeline, take);
    }

    /// Returns whether the files of a cut are held.
    pub fn check_hold(&self, id: u64) -> Result<(), NotHeld> {
        self.cuts.check(id)
    }

    /// Releases the files of a cut, or ends the attempt to make it.
    pub fn end_hold(&self, id: u64) -> Result<(), NotHeld> {
        self.cuts.end(id)
    }

    /// Returns the cut that the shards make, and the hold on the files of the last one.
    #[inline]
    pub(super) fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// Returns the files that wait for their removal.
    #[inline]
    pub(super) fn removals(&self) -> &Removals {
        &self.removals
    }

    /// Notes that a shard has stopped, and has sealed its last segment.
    pub(super) fn seal(&self, sealed: Sealed) {
        self.lock().sealed.push(sealed);
    }

    /// Records a clean stop for the next start. Every shard must have stopped. Waits for the disk.
    pub fn mark_stopped(&self, directory: &dyn Directory, now: &Moment) -> io::Result<()> {
        let mut state = self.lock();
        state.history.stopped = Some(std::mem::take(&mut state.sealed));
        state.history.save(directory, now)
    }

    /// Returns the key and the timeline that sign markers.
    #[cfg(test)]
    pub(super) fn signing(&self) -> Signing {
        self.lock().signing()
    }

    /// Returns the latest timestamp that recovery found, in any shard's files.
    pub(super) fn newest(&self) -> UnixMillis {
        self.lock().newest
    }

    /// Returns how many offsets to skip before the next message of a partition that ends at `end`.
    pub(super) fn jump(&self, id: PartitionId, end: Offset) -> u64 {
        self.lock().history.jump(id, end)
    }

    /// Returns where a consumer continues that was at `position` in another timeline.
    pub(super) fn resume(&self, timeline: u64, id: PartitionId, position: Offset) -> Offset {
        self.lock().history.resume(timeline, id, position)
    }

    /// Returns the number of segments retired since the start.
    pub(super) fn retirements(&self) -> usize {
        self.retirements.load(Ordering::Acquire)
    }

    /// Retires a segment. All shards release it.
    pub(super) fn retire(&self, segment: &Segment) {
        segment.retire();
        self.retirements.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the number of openings of queues since the start.
    pub(super) fn openings(&self) -> usize {
        self.openings.load(Ordering::Acquire)
    }

    /// Returns the open queues, by incarnation.
    pub(super) fn opened(&self) -> HashMap<u64, QueueId> {
        self.lock().opened.iter().map(|(queue, incarnation)| (*incarnation, *queue)).collect()
    }

    /// Returns each queue's name and number of partitions, by incarnation.
    pub(super) fn names(&self) -> HashMap<u64, (FullName, u16)> {
        let state = self.lock();
        state.queues.iter().map(|(name, life)| (life.incarnation, (name.clone(), life.partitions))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, SharedState> {
        // A panic in a shard leaves no half-made change here, and ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a queue that exists, under the server's `id`. Returns `None` if it does not exist.
    pub(super) fn open(&self, id: QueueId, name: &FullName) -> Option<Life> {
        let mut state = self.lock();
        let life = state.queues.get(name)?.clone();
        state.opened.insert(id, life.incarnation);
        self.openings.fetch_add(1, Ordering::AcqRel);
        Some(Life { signing: state.signing(), ..life })
    }

    /// Returns the life of a queue that is about to be created, with a new incarnation.
    pub(super) fn conceive(&self, partitions: u16, attributes: Attributes) -> Life {
        let mut state = self.lock();
        state.next_incarnation += 1;
        Life { incarnation: state.next_incarnation, partitions, signing: Signing::default(), attributes }
    }

    /// Records a queue that was created.
    pub(super) fn record(&self, id: QueueId, name: FullName, life: Life) -> Life {
        let mut state = self.lock();
        state.opened.insert(id, life.incarnation);
        self.openings.fetch_add(1, Ordering::AcqRel);
        state.queues.insert(name, life.clone());
        Life { signing: state.signing(), ..life }
    }

    /// Returns an alteration that is about to be written.
    pub(super) fn conceive_alteration(&self, partitions: u16, attributes: Attributes) -> Altered {
        let mut state = self.lock();
        state.next_incarnation += 1;
        Altered { number: state.next_incarnation, partitions, attributes }
    }

    /// Records a queue that was altered. Returns `None` if it does not exist.
    pub(super) fn alter(&self, name: &FullName, incarnation: u64, altered: Altered) -> Option<Life> {
        let mut state = self.lock();
        let signing = state.signing();
        let life = state.queues.get_mut(name).filter(|life| life.incarnation == incarnation)?;
        (life.partitions, life.attributes) = (altered.partitions, altered.attributes);
        Some(Life { signing, ..life.clone() })
    }

    /// Returns the incarnation of a queue, or `None` if there is no queue of that name.
    pub(super) fn incarnation(&self, name: &FullName) -> Option<u64> {
        self.lock().queues.get(name).map(|life| life.incarnation)
    }

    /// Removes a queue whose deletion is written. From then on, no shard finds a partition of it that it has
    /// not used before.
    pub(super) fn delete(&self, name: &FullName, incarnation: u64) {
        let mut state = self.lock();
        state.queues.remove(name);
        state.opened.retain(|_, of| *of != incarnation);
    }

    /// Returns the log's id of a partition, or `None` if its queue is not open.
    pub(super) fn partition(&self, key: PartitionKey) -> Option<PartitionId> {
        Some((*self.lock().opened.get(&key.queue)?, key.partition))
    }

    /// Takes a shard's part of what recovery found: its partitions, its segments, and its catalogue's length.
    pub(super) fn take_shard(&self, shard: u16, shards: u16) -> ShardStart {
        debug_assert!(shard < shards, "{shard} of {shards}");
        let mut state = self.lock();
        // State belongs to the owner of the messages.
        let is_owner = |((_, partition), hash, _): &mut (PartitionId, u64, Past)| {
            owner(*hash, partition.of_state().unwrap_or(*partition), shards) == shard
        };
        let pasts: Vec<(PartitionId, Past)> =
            state.pasts.extract_if(.., is_owner).map(|(id, _, past)| (id, past)).collect();
        // A segment belongs to the owner of what is needed of it. If these are several, one of them gets it.
        let spans = pasts.iter().flat_map(|(_, past)| &past.spans);
        let used: HashSet<u64> = spans.map(|span| span.segment.number).collect();
        let is_its = |segment: &mut Arc<Segment>| {
            let is_unused = segment.holding().spans == 0;
            let is_next = segment.number % u64::from(shards) == u64::from(shard);
            used.contains(&segment.number) || is_unused && is_next
        };
        ShardStart {
            pasts,
            segments: state.segments.extract_if(.., is_its).collect(),
            catalogue: state.catalogues.get(usize::from(shard)).copied().unwrap_or_default(),
        }
    }

    /// Takes a file of this many bytes for a new segment: a free one, one that waits for its removal, or a new
    /// one.
    pub(super) fn take_place(&self, now: Now, bytes: u64) -> NewPlace {
        let mut state = self.lock();
        state.forget_taken(now);
        state.taken.push_back(now.mono);
        state.next_number += 1;
        let number = state.next_number;
        if let Some(place) = state.free.pop_front().or_else(|| self.removals.take_back(bytes)) {
            return NewPlace { place, number, is_new: false };
        }
        state.next_place += 1;
        NewPlace { place: state.next_place - 1, number, is_new: true }
    }

    /// Takes a new file for a grouped segment.
    pub(super) fn take_new_place(&self) -> NewPlace {
        let mut state = self.lock();
        state.next_number += 1;
        state.next_place += 1;
        NewPlace { place: state.next_place - 1, number: state.next_number, is_new: true }
    }

    /// Returns whether the file of a deleted segment is kept for another segment.
    pub(super) fn give_place(&self, now: Now, place: u32, room: FreeRoom) -> bool {
        let mut state = self.lock();
        let is_kept = state.free.len() < state.free_max(now, room);
        if is_kept {
            debug_assert!(!state.free.contains(&place), "{place} is free already");
            state.free.push_back(place);
        }
        is_kept
    }

    /// Returns the number of free files.
    pub(super) fn free(&self) -> usize {
        self.lock().free.len()
    }

    /// Takes a free file that is not kept any more, to remove it.
    pub(super) fn take_surplus(&self, now: Now, room: FreeRoom) -> Option<u32> {
        let mut state = self.lock();
        if state.free.len() > state.free_max(now, room) { state.free.pop_back() } else { None }
    }
}

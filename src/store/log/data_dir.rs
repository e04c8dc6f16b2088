//! What the shards of a server share of a data directory: which queues there are, what was there when the server started, and
//! which files are free. Asked when a queue or a partition is touched first, and when a segment begins or ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::catalogue::Record;
use super::disk::{Directory, FileName, NewPlace, Step, run_all};
use super::format::PartitionId;
use super::history::{History, Moment, Sealed};
use super::segment::{Past, Segment};
use crate::base::millis::UnixMillis;
use crate::base::names::FullName;
use crate::base::queue::{PartitionKey, QueueId, Signing, owner};
use crate::base::units::Offset;
use crate::store::Life;

/// See the module's page.
#[derive(Debug, Default)]
pub struct DataDir {
    state: Mutex<SharedState>,
    /// How many segments were retired since the start.
    retirements: AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct SharedState {
    pub queues: HashMap<FullName, Life>,
    /// The incarnations of queues that are opened, by what the server calls them.
    pub opened: HashMap<QueueId, u64>,
    /// What was there at the start, until the shards take it: partitions with the hashes of their queues' names, and segments.
    pub pasts: Vec<(PartitionId, u64, Past)>,
    /// See `pasts`.
    pub segments: Vec<Arc<Segment>>,
    /// Files whose segments are no more, those first that are used first.
    pub free: VecDeque<u32>,
    pub next_place: u32,
    pub next_number: u64,
    pub next_incarnation: u64,
    /// Where the shards' catalogues end.
    pub catalogue_ends: Vec<u64>,
    /// The starts before this one.
    pub history: History,
    /// The latest timestamp that was there at the start.
    pub newest: UnixMillis,
    /// What the last clean stop before this start sealed.
    pub stopped: Option<Vec<Sealed>>,
    /// Segments that the shards have sealed as they stopped.
    pub sealed: Vec<Sealed>,
    /// Segments with messages of queues that no catalogue knows: kept, until somebody has looked.
    pub orphaned: Vec<Arc<Segment>>,
}

impl SharedState {
    /// How markers are signed.
    pub(super) fn signing(&self) -> Signing {
        let History { key, timeline, is_key_new, .. } = self.history;
        Signing { key, timeline, is_key_new }
    }
}

/// What a shard finds at the start.
#[derive(Debug)]
pub(super) struct ShardStart {
    pub pasts: Vec<(PartitionId, Past)>,
    pub segments: Vec<Arc<Segment>>,
    pub catalogue_end: u64,
}

impl DataDir {
    /// What recovery found.
    pub(super) fn new(state: SharedState) -> Self {
        Self { state: Mutex::new(state), retirements: AtomicUsize::new(0) }
    }

    /// What recovery found, for tools.
    pub(super) fn into_contents(self) -> (BTreeMap<FullName, Life>, BTreeMap<PartitionId, Past>) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let pasts = state.pasts.into_iter().map(|(id, _, past)| (id, past));
        (state.queues.into_iter().collect(), pasts.collect())
    }

    /// Deletes a queue of a directory that no server uses; false if there is no queue of that name. Waits for the disk.
    pub(super) fn delete_offline(&self, directory: &dyn Directory, name: &FullName) -> io::Result<bool> {
        let Some(incarnation) = self.incarnation(name) else { return Ok(false) };
        let end = self.lock().catalogue_ends.first().copied().unwrap_or_default();
        let (file, record) = (FileName::Catalogue(0), Arc::new(Record::Deleted(incarnation).encode()));
        run_all(directory, &[Step::Write(file, end, record), Step::Sync(file)])?;
        self.delete(name, incarnation);
        Ok(true)
    }

    /// A shard has stopped, and sealed what it wrote last.
    pub(super) fn seal(&self, sealed: Sealed) {
        self.lock().sealed.push(sealed);
    }

    /// Every shard has stopped: what they have written is whole, and the next start may know. Waits for the disk.
    pub fn mark_stopped(&self, directory: &dyn Directory, now: &Moment) -> io::Result<()> {
        let mut state = self.lock();
        state.history.stopped = Some(std::mem::take(&mut state.sealed));
        state.history.save(directory, now)
    }

    /// A tool has opened the directory and stored nothing: the next start knows what this one knew of the last stop. Waits for the disk.
    pub(super) fn mark_as_found(&self, directory: &dyn Directory, now: &Moment) -> io::Result<()> {
        let mut state = self.lock();
        state.history.stopped = state.stopped.take();
        state.history.save(directory, now)
    }

    /// How markers are signed.
    #[cfg(test)]
    pub(super) fn signing(&self) -> Signing {
        self.lock().signing()
    }

    /// The latest timestamp that was there at the start, in any shard's files.
    pub(super) fn newest(&self) -> UnixMillis {
        self.lock().newest
    }

    /// How many offsets are left out before the next message of a partition that ends there.
    pub(super) fn jump(&self, id: PartitionId, end: Offset) -> u64 {
        self.lock().history.jump(id, end)
    }

    /// Where a consumer goes on that stood at `position` in that timeline.
    pub(super) fn resume(&self, timeline: u64, id: PartitionId, position: Offset) -> Offset {
        self.lock().history.resume(timeline, id, position)
    }

    /// How many segments were retired since the start.
    pub(super) fn retirements(&self) -> usize {
        self.retirements.load(Ordering::Acquire)
    }

    /// A segment is to be let go of, by all shards.
    pub(super) fn retire(&self, segment: &Segment) {
        segment.retire();
        self.retirements.fetch_add(1, Ordering::AcqRel);
    }

    /// The queues, by incarnation.
    pub(super) fn names(&self) -> HashMap<u64, (FullName, u16)> {
        let state = self.lock();
        state.queues.iter().map(|(name, life)| (life.incarnation, (name.clone(), life.partitions))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, SharedState> {
        // Nothing is left half done where a shard panicked, and the process ends then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A queue that is there, which the server calls `id` from now on.
    pub(super) fn open(&self, id: QueueId, name: &FullName) -> Option<Life> {
        let mut state = self.lock();
        let life = *state.queues.get(name)?;
        state.opened.insert(id, life.incarnation);
        Some(Life { signing: state.signing(), ..life })
    }

    /// The life of a queue that is about to be made.
    pub(super) fn conceive(&self, partitions: u16) -> Life {
        let mut state = self.lock();
        state.next_incarnation += 1;
        Life { incarnation: state.next_incarnation, partitions, signing: Signing::default() }
    }

    /// A queue was made.
    pub(super) fn record(&self, id: QueueId, name: FullName, life: Life) -> Life {
        let mut state = self.lock();
        state.opened.insert(id, life.incarnation);
        state.queues.insert(name, life);
        Life { signing: state.signing(), ..life }
    }

    /// The incarnation of a queue; `None` if there is no queue of that name.
    pub(super) fn incarnation(&self, name: &FullName) -> Option<u64> {
        self.lock().queues.get(name).map(|life| life.incarnation)
    }

    /// Removes a queue whose deletion is written. A shard that has not used one of its partitions cannot find it any more.
    pub(super) fn delete(&self, name: &FullName, incarnation: u64) {
        let mut state = self.lock();
        state.queues.remove(name);
        state.opened.retain(|_, of| *of != incarnation);
    }

    /// What the log calls a partition; `None` where its queue is not open.
    pub(super) fn partition(&self, key: PartitionKey) -> Option<PartitionId> {
        Some((*self.lock().opened.get(&key.queue)?, key.partition))
    }

    /// What a shard finds: its partitions, the segments that it looks after, and where its catalogue ends.
    pub(super) fn take_shard(&self, shard: u16, shards: u16) -> ShardStart {
        debug_assert!(shard < shards, "{shard} of {shards}");
        let mut state = self.lock();
        let is_owner = |(id, hash, _): &mut (PartitionId, u64, Past)| owner(*hash, id.1, shards) == shard;
        let is_its = |segment: &mut Arc<Segment>| segment.number % u64::from(shards) == u64::from(shard);
        ShardStart {
            pasts: state.pasts.extract_if(.., is_owner).map(|(id, _, past)| (id, past)).collect(),
            segments: state.segments.extract_if(.., is_its).collect(),
            catalogue_end: state.catalogue_ends.get(usize::from(shard)).copied().unwrap_or_default(),
        }
    }

    /// A file for a new segment.
    pub(super) fn take_place(&self) -> NewPlace {
        let mut state = self.lock();
        state.next_number += 1;
        let number = state.next_number;
        if let Some(place) = state.free.pop_front() {
            return NewPlace { place, number, is_new: false };
        }
        state.next_place += 1;
        NewPlace { place: state.next_place - 1, number, is_new: true }
    }

    /// That segment is no more: whether its file is kept for another, as long as there are not `max` of them.
    pub(super) fn give_place(&self, place: u32, max: usize) -> bool {
        let mut state = self.lock();
        let is_kept = state.free.len() < max;
        if is_kept {
            debug_assert!(!state.free.contains(&place), "{place} is free already");
            state.free.push_back(place);
        }
        is_kept
    }
}

//! Letting go: of what has expired, of what is too much or too old, and of queues that were deleted.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backlog::Job;
use super::data_dir::Deletion;
use super::disk::{Disk, remove_segment};
use super::format::{PartitionId, SegmentHeader};
use super::journal::Entry;
use super::journal::new_stamp;
use super::reason::DISK_IS_FULL;
use super::segment::Segment;
use super::{Log, MARKS_AT_ONCE, Tag, forgotten};
use crate::base::clock::Now;

impl<T: Copy + Eq + Hash, D: Disk<Tag>> Log<T, D> {
    /// Lets go of queues that were deleted.
    pub(super) fn forget_deleted(&mut self) {
        let deleted = self.dir.deleted_since(self.deletions);
        self.deletions += deleted.len();
        for Deletion { incarnation, queues } in deleted {
            let ids: Vec<_> = self.partitions.keys().filter(|id| id.0 == incarnation).copied().collect();
            for id in ids {
                self.tell_forgotten(id);
                self.partitions.remove(&id);
            }
            self.gone.extend(queues);
        }
    }

    /// Tells whoever waits for a partition that it is no more.
    pub(super) fn tell_forgotten(&mut self, id: PartitionId) {
        let waiting = self.partitions.get_mut(&id).map(|partition| std::mem::take(&mut partition.waiting));
        let fetches = waiting.into_iter().flatten().map(Job::Fetch);
        for job in fetches.chain(self.backlog.remove(id)) {
            self.completions.push_back(job.fail(forgotten()));
        }
    }

    /// Whether nothing is let go of by the clock yet, although it has expired. A server that was down for long and one whose machine has begun with a
    /// wrong clock look alike: both find the clock far ahead of what was stored last. What has expired is not served, and goes once
    /// the clock has stood the same time as any other jump ahead, or where the disk has no room without that.
    pub(super) fn is_held(&mut self, now: Now) -> bool {
        let newest_ms = self.newest_ms;
        let held_until_ms = *self.held_until_ms.get_or_insert_with(|| {
            let is_far_ahead =
                newest_ms > 0 && now.unix_ms > newest_ms.saturating_add(self.clock_step_max_ms);
            if is_far_ahead { now.mono_ms.saturating_add(self.clock_step_max_ms) } else { 0 }
        });
        now.mono_ms < held_until_ms && self.trouble != Some(DISK_IS_FULL)
    }

    /// Retires the oldest segments where there are too many, and those that are too old.
    pub(super) fn retire(&mut self, now: Now, is_held: bool) {
        let share = self.max_bytes / u64::from(self.shards);
        let is_left = |segment: &&Arc<Segment>| !segment.is_retired.load(Ordering::Relaxed);
        let mut bytes: u64 = self.kept.iter().filter(is_left).map(|segment| segment.bytes).sum();
        for segment in self.kept.iter().filter(is_left) {
            let is_too_much = self.max_bytes > 0 && bytes + self.segment_bytes > share;
            let age_end_ms = segment.newest_ms().saturating_add(self.max_age_ms);
            let is_too_old = self.max_age_ms > 0 && age_end_ms <= now.unix_ms && !is_held;
            if is_too_much || is_too_old {
                bytes -= segment.bytes;
                self.dir.retire(segment);
            }
        }
    }

    /// Lets go of what has expired, and while the clock is held only of what was retired.
    pub(super) fn expire(&mut self, now: Now, is_held: bool) {
        let unix_ms = if is_held { 0 } else { now.unix_ms };
        let retirements = self.dir.retirements();
        let is_any_retired = std::mem::replace(&mut self.retirements, retirements) != retirements;
        let (active, mut marks) = (self.journal.active.as_ref(), 0);
        for (id, partition) in &mut self.partitions {
            if partition.past.due_ms > unix_ms && !is_any_retired {
                continue;
            }
            // Somebody must say where the partition ends once its last span is gone.
            let is_told = active.is_some_and(|active| active.spans.contains_key(id));
            let (expired, dropped) = partition.past.expire(unix_ms, is_told);
            self.counters.expired += expired;
            self.counters.dropped += dropped;
            if let Some(account) = &mut partition.account {
                account.set_due();
            }
            let wants_mark = partition.past.due_ms <= unix_ms && !partition.is_marking;
            if wants_mark && self.trouble.is_none() && marks < MARKS_AT_ONCE {
                marks += 1;
                partition.is_marking = true;
                self.journal.pending.push_back(Entry::Mark { id: *id });
            }
        }
        // Whoever reads a segment holds it, too; and no index is written of a file that lives again.
        let indexing = &self.indexing;
        let is_gone = |segment: &mut Arc<Segment>| {
            Arc::strong_count(segment) == 1 && !indexing.contains_key(&segment.number)
        };
        let gone: Vec<_> = self.kept.extract_if(.., is_gone).collect();
        for segment in gone {
            let is_whole = segment.bytes == self.segment_bytes;
            if !(is_whole && self.dir.give_place(segment.place, usize::from(self.shards))) {
                let header =
                    SegmentHeader { stamp: new_stamp(), number: segment.number, bytes: segment.bytes };
                self.disk.submit(Tag::Remove, remove_segment(segment.place, header.encode()));
            }
        }
    }
}

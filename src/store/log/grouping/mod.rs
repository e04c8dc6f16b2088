//! Groups sealed segments behind the writing: copies what is still needed of them to a new segment, partition
//! by partition, so that their files can be reused and each partition has few runs.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the groups of a shard: one at a time, at a limited pace |
//! | `choice` | which segments are grouped |
//! | `group` | how one group is made, step by step |
//! | `gather` | reading the batches that are needed |
//! | `output` | writing them |
//!
//! Nothing that is stored changes until the new segment is complete and durable, under its name. Then each
//! partition takes the new span in place of the old ones, and the old segments are let go. A reader keeps an
//! old segment until it has read. Then the header of its file is overwritten, durably, so that no later start
//! finds the messages twice, and the file is reused. The next group begins after that.
//!
//! A group is dropped without loss at any point before: when a source turns out to be damaged, the disk fails,
//! the clock is set back, or the server stops.

pub(super) mod choice;
mod gather;
mod group;
mod output;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use self::choice::{GroupLimits, SPANS_MAX, choose};
pub use self::gather::{GATHER_BYTES, PIECE_BYTES};
use self::group::{Group, Obstacle, Work};
pub(super) use self::group::{Made, Place};
use super::data_dir::DataDir;
use super::disk::{Disk, Read, wipe_segment};
use super::features::Features;
use super::format::PartitionId;
use super::header::SegmentHeader;
use super::index::SpanHead;
use super::journal::{ROUND_BYTES, new_stamp};
use super::removal::{Removals, Unneeded};
use super::segment::Segment;
use super::tag::Tag;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::store::GroupingCounters;

/// Of a shard's time, one part of this many is for grouping.
const TIME_PARTS: u64 = 20;

/// How long a shard is busy with a batch that is grouped, and with 1 KiB, in nanoseconds. A step is followed by
/// a pause in proportion to its work.
const BATCH_NS: u64 = 150;
const KIB_NS: u64 = 400;

/// How long nothing is grouped after the disk has failed.
const RETRY: Millis = Millis::from_secs(60);

/// The most memory that grouping takes on a shard, in bytes: what is gathered, where it is in the segments (40
/// bytes for a batch of at least 72), a piece and a round on their way, and what is known of each span.
pub const GROUPING_BYTES_MAX: usize = GATHER_BYTES
    + GATHER_BYTES * 5 / 9
    + 3 * PIECE_BYTES as usize
    + 2 * ROUND_BYTES
    + SPANS_MAX * SPAN_BYTES_MAX;

/// What is known of a span in the old segments and in the new one, in bytes. Its stock takes half of that.
const SPAN_BYTES_MAX: usize = 1024;

/// A replaced segment, whose file must not be found by the next start.
#[derive(Clone, Copy, Debug)]
struct Replaced {
    place: u32,
    number: u64,
    /// The size of its file.
    bytes: u64,
    is_being_wiped: bool,
}

/// The groups of a shard.
#[derive(Debug)]
pub(super) struct Grouper {
    shard: u16,
    is_on: bool,
    limits: GroupLimits,
    group: Option<Box<Group>>,
    /// Whether steps of the group are under way.
    is_under_way: bool,
    /// Whether the group is dropped once its steps have ended.
    is_dropped: bool,
    /// When the next step is due, by the monotonic clock.
    due: Millis,
    /// When a group may begin again after a failure, by the monotonic clock.
    again: Millis,
    /// Segments that are not grouped in this run, by number.
    unfit: HashSet<u64>,
    /// Segments that are not grouped with the one before them, by number.
    walls: HashSet<u64>,
    /// The numbers of replaced segments that readers may still hold.
    replaced: HashSet<u64>,
    wiping: Vec<Replaced>,
    counters: GroupingCounters,
}

impl Grouper {
    pub(super) fn new(shard: u16, is_on: bool, limits: GroupLimits) -> Self {
        Self {
            shard,
            is_on,
            limits,
            group: None,
            is_under_way: false,
            is_dropped: false,
            due: Millis::ZERO,
            again: Millis::ZERO,
            unfit: HashSet::new(),
            walls: HashSet::new(),
            replaced: HashSet::new(),
            wiping: Vec::new(),
            counters: GroupingCounters::default(),
        }
    }

    pub(super) fn counters(&self) -> GroupingCounters {
        let grouped = self.group.as_ref().map_or(0, |group| group.numbers().count());
        GroupingCounters { waiting: grouped + self.replaced.len() + self.wiping.len(), ..self.counters }
    }

    /// Returns when the next step is due, if a group is being made. The step before may still be under way.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.group.is_some().then_some(self.due)
    }

    /// Returns whether a step is due.
    #[inline]
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.group.is_some() && !self.is_under_way && self.due <= now.mono
    }

    /// Begins no step from now on, because the server stops. What is begun is dropped by the next start.
    pub(super) fn stop(&mut self, removals: &Removals) {
        self.is_on = false;
        self.drop_group(removals);
    }

    /// Drops the group that is being made, because what is known of its messages has changed.
    pub(super) fn drop_group(&mut self, removals: &Removals) {
        self.is_dropped = true;
        if !self.is_under_way {
            self.remove_group(removals);
        }
    }

    /// Begins the next group, unless one is being made or the last one is not settled. `kept` are the sealed
    /// segments of the shard, oldest first, and `is_indexed` says of which the index is written.
    pub(super) fn begin(
        &mut self,
        now: Now,
        kept: &[Arc<Segment>],
        is_indexed: impl Fn(u64) -> bool,
        dir: &DataDir,
    ) {
        let is_settled = self.replaced.is_empty() && self.wiping.is_empty();
        if !self.is_on || self.group.is_some() || !is_settled || self.again > now.mono {
            return;
        }
        let is_kept = |number: &u64| kept.iter().any(|segment| segment.number == *number);
        self.unfit.retain(is_kept);
        self.walls.retain(is_kept);
        let may_take = |of: &Segment| !self.unfit.contains(&of.number) && is_indexed(of.number);
        let may_follow = |of: &Segment| !self.walls.contains(&of.number);
        let Some(chosen) = choose(kept, now.unix, self.limits, may_take, may_follow) else { return };
        let chosen = &kept[chosen];
        let group = Group::new(chosen, dir.take_new_place(), new_stamp());
        tracing::debug!(
            shard = self.shard,
            place = group.place(),
            segments = chosen.len(),
            "grouping begins"
        );
        (self.group, self.is_dropped) = (Some(Box::new(group)), false);
    }

    /// Submits the next steps of the group.
    pub(super) fn work(&mut self, now: Now, disk: &mut impl Disk<Tag>) {
        let Some(group) = &mut self.group else { return };
        let (steps, work) = group.next();
        self.is_under_way = true;
        self.pause(now, work);
        disk.submit(Tag::Group, steps);
    }

    /// Pauses in proportion to the work that was done.
    fn pause(&mut self, now: Now, work: Work) {
        let busy_ns = work.batches * BATCH_NS + (work.bytes >> 10) * KIB_NS;
        let pause = Millis::new((busy_ns * TIME_PARTS).div_ceil(1_000_000));
        self.due = self.due.max(now.mono) + pause;
    }

    /// Handles the end of steps. `find` says where a partition has a span of the segment with this number, if
    /// it is needed. Returns the new segment once it is complete.
    pub(super) fn handle(
        &mut self,
        now: Now,
        read: Read,
        find: impl Fn(PartitionId, u64, &SpanHead) -> Option<Place>,
        removals: &Removals,
    ) -> Option<Made> {
        self.is_under_way = false;
        let group = self.group.as_mut()?;
        if self.is_dropped {
            self.remove_group(removals);
            return None;
        }
        let is_finishing = group.is_finishing();
        let handled = match read {
            Ok(_) if is_finishing => {
                let made = self.group.take()?.end();
                self.replaced.extend(&made.replaced);
                self.counters.bytes += made.header.bytes;
                return Some(made);
            }
            Ok(read) => group.handle(&read, find),
            Err(error) if group.is_reading() => {
                tracing::warn!(shard = self.shard, %error, "read of a segment failed");
                Err(group.damaged(group.source()))
            }
            Err(error) => {
                tracing::warn!(shard = self.shard, %error, "write of a grouped segment failed; the segments stay as they are");
                self.remove_group(removals);
                self.again = now.mono + RETRY;
                return None;
            }
        };
        match handled {
            Ok(work) => self.pause(now, work),
            Err(obstacle) => {
                match obstacle {
                    Obstacle::Damaged(number) => {
                        tracing::error!(
                            shard = self.shard,
                            number,
                            "a segment is damaged; it is not grouped"
                        );
                        self.unfit.insert(number);
                    }
                    Obstacle::Capped(number) | Obstacle::Shared(number) => {
                        self.unfit.insert(number);
                    }
                    Obstacle::Wall(number) => {
                        self.walls.insert(number);
                    }
                    Obstacle::Unneeded => {}
                }
                self.remove_group(removals);
            }
        }
        None
    }

    /// Removes the files of the group, which is not complete as far as is known.
    fn remove_group(&mut self, removals: &Removals) {
        let Some(group) = self.group.take() else { return };
        let (place, bytes) = (group.place(), group.bytes());
        removals.add_first(Unneeded::Ungrouped { place, bytes });
        if group.is_finishing() {
            // The segment may have its name. Then the next start uses it in place of the old ones. Another
            // group of them must not exist beside it.
            self.unfit.extend(group.numbers());
            removals.add_first(Unneeded::Unusable { place, bytes });
        }
    }

    /// Returns whether another segment replaces the one with this number.
    pub(super) fn has_replaced(&self, number: u64) -> bool {
        self.replaced.contains(&number)
    }

    /// Takes over the file of a segment that nobody holds any more, if another segment replaces it. Returns
    /// whether it does.
    pub(super) fn take_gone(&mut self, segment: &Segment) -> bool {
        let Segment { place, number, bytes, .. } = *segment;
        let is_replaced = self.replaced.remove(&number);
        if is_replaced {
            self.wiping.push(Replaced { place, number, bytes, is_being_wiped: false });
        }
        is_replaced
    }

    /// Empties the files of replaced segments, so that the next start does not find them.
    pub(super) fn wipe(&mut self, disk: &mut impl Disk<Tag>) {
        for file in self.wiping.iter_mut().filter(|file| !file.is_being_wiped) {
            file.is_being_wiped = true;
            let Replaced { number, bytes, .. } = *file;
            let header = SegmentHeader { stamp: new_stamp(), number, bytes, features: Features::NONE };
            disk.submit(Tag::Wipe(file.place), wipe_segment(file.place, header.encode()));
        }
    }

    /// Handles that the file of a replaced segment was emptied, or could not be. Gives it back.
    pub(super) fn handle_wiped(
        &mut self,
        place: u32,
        result: io::Result<()>,
        give_back: impl FnOnce(u32, u64) -> bool,
        removals: &Removals,
    ) {
        let Some(index) = self.wiping.iter().position(|file| file.place == place) else { return };
        if let Err(error) = result {
            tracing::warn!(shard = self.shard, %error, "a replaced segment could not be emptied");
            self.wiping[index].is_being_wiped = false;
            return;
        }
        let Replaced { place, number, bytes, .. } = self.wiping.swap_remove(index);
        self.counters.files += 1;
        if !give_back(place, bytes) {
            removals.add(Unneeded::Segment { place, number, bytes });
        }
    }
}

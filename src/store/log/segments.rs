//! The segment files of a shard: made ahead, sealed, indexed, retired and removed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::data_dir::{DataDir, FreeRoom};
use super::disk::{Disk, FileName, NewPlace, Reserve, Step, make_segment, save_index, zero_segment};
use super::features::Features;
use super::header::SegmentHeader;
use super::history::Sealed;
use super::index::{Index, Span};
use super::journal::{Active, new_stamp};
use super::removal::Unneeded;
use super::segment::Segment;
use super::tag::Tag;
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};

/// The size of segments, and the limits for keeping them.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentLimits {
    /// The size of a segment, in bytes.
    pub segment_bytes: u64,
    /// The size of all segments of the server, in bytes; 0: no limit.
    pub max_bytes: u64,
    /// The age of its newest message at which a segment is retired; 0: no limit.
    pub max_age: Millis,
}

/// The next segment is begun when an eighth of the present one is written, and should have all its zeros when an eighth is
/// left. As a shift.
const MARGIN_SHIFT: u32 = 3;

/// Zeros are written in multiples of this, except at the end of the file.
const ZEROS_MIN: u64 = 1 << 20;

/// A smaller segment gets all its zeros together, when half of the present one is written.
const PACED_MIN: u64 = 16 * ZEROS_MIN;

/// A segment that is being made. Its zeros are written as fast as the present segment fills: faster, they would hold up
/// the messages that are written meanwhile.
#[derive(Debug)]
struct Making {
    place: NewPlace,
    header: SegmentHeader,
    reserve: Reserve,
    /// How many bytes are zeros, with those that are being written.
    zeroed: u64,
    /// How many of them there should be by now.
    wanted: u64,
    step: MakingStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MakingStep {
    /// More zeros are not wanted yet.
    Waiting,
    /// Zeros are being written.
    Zeroing,
    /// The last steps are being done.
    Ending,
}

impl Making {
    /// Submits the next steps, if they are wanted.
    fn go_on(&mut self, disk: &mut impl Disk<Tag>) {
        let Self { place, header, reserve, zeroed, wanted, step } = self;
        if *step != MakingStep::Waiting {
            return;
        }
        let steps = if *zeroed == header.bytes {
            *step = MakingStep::Ending;
            make_segment(*place, header.encode())
        } else {
            let end = if *wanted == header.bytes { *wanted } else { *wanted / ZEROS_MIN * ZEROS_MIN };
            if end <= *zeroed {
                return;
            }
            *step = MakingStep::Zeroing;
            zero_segment(place.place, std::mem::replace(zeroed, end)..end, *reserve)
        };
        disk.submit(Tag::Make, steps);
    }
}

/// The segments of a shard.
#[derive(Debug)]
pub(super) struct Segments {
    shard: u16,
    shards: u16,
    limits: SegmentLimits,
    /// A segment that is ready to be written. It is `None` while one is being made, or before that.
    spare: Option<Active>,
    making: Option<Making>,
    /// The features that the last segment used, which the next one gets, too.
    used: Features,
    /// When a segment may be made ahead again, by the monotonic clock, after a failure.
    make_again: Millis,
    /// Sealed segments whose indexes are being written, by number.
    indexing: HashMap<u64, Index>,
    /// The segment that was sealed as the shard stopped, by number, until its index is written.
    stopping: Option<(u64, Sealed)>,
    /// Sealed segments, oldest first.
    kept: Vec<Arc<Segment>>,
    /// Whether there may be free files that are not kept for long.
    may_have_surplus: bool,
}

impl Segments {
    /// Starts with the segments that were found for shard `shard` of `shards`.
    /// `used` are the features that their messages use. `may_have_surplus` says whether there are free files.
    pub(super) fn new(
        shard: u16,
        shards: u16,
        limits: SegmentLimits,
        kept: Vec<Arc<Segment>>,
        used: Features,
        may_have_surplus: bool,
    ) -> Self {
        debug_assert!(kept.is_sorted_by_key(|segment| (segment.order, segment.number)), "oldest first");
        Self {
            shard,
            shards,
            limits,
            spare: None,
            making: None,
            used,
            make_again: Millis::ZERO,
            indexing: HashMap::new(),
            stopping: None,
            kept,
            may_have_surplus,
        }
    }

    pub(super) fn shard(&self) -> u16 {
        self.shard
    }

    /// Returns the sealed segments, oldest first.
    pub(super) fn kept(&self) -> &[Arc<Segment>] {
        &self.kept
    }

    /// Returns whether files may have to be removed later, so that ticks are needed.
    pub(super) fn may_have_surplus(&self) -> bool {
        self.may_have_surplus
    }

    pub(super) fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// Takes the segment that is ready to be written, if it has these features.
    pub(super) fn take_spare(&mut self, needed: Features) -> Option<Active> {
        self.spare.take_if(|spare| spare.header.features.contains(needed))
    }

    /// Makes a segment with these features and those that the last one used, as fast as possible, unless one is ready.
    /// One that is ready without these features gets another header.
    pub(super) fn make(
        &mut self,
        now: Now,
        dir: &DataDir,
        disk: &mut impl Disk<Tag>,
        reserve: Reserve,
        needed: Features,
    ) {
        let bytes = self.limits.segment_bytes;
        self.begin(now, dir, disk, reserve, needed, bytes);
    }

    /// Makes a segment, or goes on with the one that is being made, until it has so many zeros.
    fn begin(
        &mut self,
        now: Now,
        dir: &DataDir,
        disk: &mut impl Disk<Tag>,
        reserve: Reserve,
        needed: Features,
        zeros: u64,
    ) {
        if let Some(making) = &mut self.making {
            making.wanted = making.wanted.max(zeros);
            if reserve == Reserve::Use {
                making.reserve = reserve;
            }
            if making.step != MakingStep::Ending {
                making.header.features = making.header.features | needed | self.used;
            }
            return making.go_on(disk);
        }
        if self.spare.as_ref().is_some_and(|spare| spare.header.features.contains(needed)) {
            return;
        }
        let features = needed | self.used;
        let bytes = self.limits.segment_bytes;
        let (place, header) = match self.spare.take() {
            Some(Active { place, header, .. }) => {
                let place = NewPlace { place, number: header.number, is_new: false };
                (place, SegmentHeader { features, ..header })
            }
            None => {
                let place = dir.take_place(now, bytes);
                let (stamp, number) = (new_stamp(), place.number);
                (place, SegmentHeader { stamp, number, bytes, features })
            }
        };
        let (zeroed, step) = (if place.is_new { 0 } else { header.bytes }, MakingStep::Waiting);
        let making = Making { place, header, reserve, zeroed, wanted: zeros.max(zeroed), step };
        self.making.insert(making).go_on(disk);
    }

    /// Makes the next segment ahead of need, as fast as the present one fills. It gets the features that the present one
    /// uses. After a failure, it waits before it tries again.
    pub(super) fn make_ahead(
        &mut self,
        now: Now,
        dir: &DataDir,
        disk: &mut impl Disk<Tag>,
        (written, used): (u64, Features),
    ) {
        let zeros = zeros_wanted(written, self.limits.segment_bytes);
        if zeros > 0 && self.make_again <= now.mono {
            self.used = used;
            self.begin(now, dir, disk, Reserve::Keep, used, zeros);
        }
    }

    /// Handles the result of steps that make a segment. Returns whether one is ready now. After a failure, it removes what
    /// exists of the segment, and allows another attempt `again` later.
    pub(super) fn handle_made(
        &mut self,
        now: Now,
        again: Millis,
        result: &io::Result<()>,
        dir: &DataDir,
        disk: &mut impl Disk<Tag>,
    ) -> bool {
        let Some(mut making) = self.making.take() else { return false };
        debug_assert!(self.spare.is_none(), "one is made while none is ready");
        self.make_again = if result.is_err() { now.mono + again } else { Millis::ZERO };
        if result.is_ok() && making.step == MakingStep::Ending {
            self.spare = Some(Active::new(making.place, making.header));
            return true;
        }
        if result.is_ok() {
            making.step = MakingStep::Waiting;
            self.making.insert(making).go_on(disk);
            return false;
        }
        // If the disk is full, the room is needed.
        let Making { place: NewPlace { place, is_new, .. }, header, .. } = making;
        if is_new {
            disk.submit(Tag::Unmade, vec![Step::Remove(FileName::Segment(place))]);
        } else {
            dir.removals().add_first(Unneeded::Unusable { place, bytes: header.bytes });
        }
        false
    }

    /// Seals the segment that was written. Returns it with the content of its index file.
    pub(super) fn seal(&mut self, active: &mut Active) -> (Arc<Segment>, Vec<u8>) {
        active.spans.values_mut().for_each(Span::seal);
        let Active { place, header, end, spans, used, .. } = active;
        self.used = *used;
        let segment = Arc::new(Segment::new(*place, header, *end, spans.values().map(|span| &span.head)));
        let (index, bytes) = Index::encode(header.stamp, *end, spans);
        self.indexing.insert(header.number, index);
        debug_assert!(self.kept.last().is_none_or(|last| last.order < segment.number), "oldest first");
        self.kept.push(segment.clone());
        (segment, bytes)
    }

    /// Adds a grouped segment, whose index is being written.
    pub(super) fn add_grouped(&mut self, segment: Arc<Segment>, index: Index) {
        self.indexing.insert(segment.number, index);
        let key = |of: &Segment| (of.order, of.number);
        let at = self.kept.partition_point(|of| key(of) < key(&segment));
        self.kept.insert(at, segment);
    }

    /// Returns whether the index of a sealed segment is not being written.
    pub(super) fn is_indexed(&self, number: u64) -> bool {
        !self.indexing.contains_key(&number)
    }

    /// Returns whether the file of a removed segment is kept for another segment.
    pub(super) fn give_back(&mut self, now: Now, dir: &DataDir, place: u32, bytes: u64) -> bool {
        self.give(now, dir, place, bytes, self.free_room())
    }

    fn give(&mut self, now: Now, dir: &DataDir, place: u32, bytes: u64, room: FreeRoom) -> bool {
        let is_kept = bytes == self.limits.segment_bytes && dir.give_place(now, place, room);
        self.may_have_surplus |= is_kept;
        is_kept
    }

    /// Returns how many free files all shards keep. Beyond one for each shard, they count to `log_max_bytes`,
    /// as if each shard had as much as this one.
    fn free_room(&self) -> FreeRoom {
        let SegmentLimits { segment_bytes, max_bytes, .. } = self.limits;
        let kept = || self.kept.iter().map(|segment| segment.bytes).sum::<u64>() * u64::from(self.shards);
        let most = match max_bytes {
            0 => usize::MAX,
            max => (max.saturating_sub(kept()) / segment_bytes.max(1)) as usize,
        };
        FreeRoom { least: usize::from(self.shards), most }
    }

    /// Removes the free files that are not kept any more.
    pub(super) fn trim(&mut self, now: Now, dir: &DataDir) {
        if !self.may_have_surplus {
            return;
        }
        let (room, bytes) = (self.free_room(), self.limits.segment_bytes);
        while let Some(place) = dir.take_surplus(now, room) {
            dir.removals().add(Unneeded::Segment { place, number: 0, bytes });
        }
        self.may_have_surplus = dir.free() > room.least;
    }

    /// Records the segment that was sealed as the shard stopped, and whose rounds end at `end`. Once its
    /// index is written, it is recorded for the next start.
    pub(super) fn stop_behind(&mut self, segment: &Segment, end: u64) {
        let sealed = Sealed { place: segment.place, stamp: segment.stamp, end };
        self.stopping = Some((segment.number, sealed));
    }

    /// Returns whether indexes are being written.
    pub(super) fn is_indexing(&self) -> bool {
        !self.indexing.is_empty()
    }

    /// Handles the written index of a sealed segment.
    pub(super) fn handle_indexed(&mut self, dir: &DataDir, number: u64) -> Option<Index> {
        let index = self.indexing.remove(&number)?;
        if let Some((_, sealed)) = self.stopping.take_if(|(of, _)| *of == number) {
            dir.seal(sealed);
        }
        Some(index)
    }

    /// Handles the failure to write the index of a sealed segment: the index stays in memory.
    pub(super) fn handle_not_indexed(&mut self, number: u64, error: &io::Error) {
        tracing::warn!(shard = self.shard, %error, "index write failed; the next start will scan the segment");
        self.indexing.remove(&number);
        self.stopping.take_if(|(of, _)| *of == number);
    }

    /// Records that everything in sealed segments was stored at `unix` or earlier.
    pub(super) fn cap(&self, unix: UnixMillis) {
        self.kept.iter().for_each(|segment| segment.cap(unix));
    }

    /// Returns whether a new segment would free more room than it takes: once it holds the marks of
    /// partitions' ends and snapshots of state, the files are released of which nothing else is needed.
    /// `movable` has the number of such spans in each segment.
    pub(super) fn frees_room(&self, unix: UnixMillis, movable: &HashMap<u64, usize>) -> bool {
        let is_freed = |segment: &&Arc<Segment>| {
            let movable = movable.get(&segment.number).copied().unwrap_or_default();
            segment.expiry() <= unix || Arc::strong_count(segment) == 1 + movable
        };
        self.kept.iter().filter(is_freed).count() > 1
    }

    /// Retires the oldest segments while the log is too large, and those that are too old unless the clock is
    /// held.
    pub(super) fn retire(&self, now: Now, is_held: bool, dir: &DataDir) {
        let SegmentLimits { segment_bytes, max_bytes, max_age } = self.limits;
        let share = max_bytes / u64::from(self.shards);
        let is_left = |segment: &&Arc<Segment>| !segment.is_retired();
        let mut bytes: u64 = self.kept.iter().filter(is_left).map(|segment| segment.bytes).sum();
        for segment in self.kept.iter().filter(is_left) {
            let is_too_much = max_bytes > 0 && bytes + segment_bytes > share;
            let age_end = segment.newest() + max_age;
            let is_too_old = max_age > Millis::ZERO && age_end <= now.unix && !is_held;
            if is_too_much || is_too_old {
                bytes -= segment.bytes;
                dir.retire(segment);
            }
        }
    }

    /// Releases the files of segments in which no partition has messages, unless `takes` takes them over.
    pub(super) fn remove_gone(&mut self, now: Now, dir: &DataDir, mut takes: impl FnMut(&Segment) -> bool) {
        // A reader of a segment holds it, too. A file must not be reused while an index is being written for
        // it.
        let indexing = &self.indexing;
        let is_gone = |segment: &mut Arc<Segment>| {
            Arc::strong_count(segment) == 1 && !indexing.contains_key(&segment.number)
        };
        let gone: Vec<Arc<Segment>> = self.kept.extract_if(.., is_gone).collect();
        let room = self.free_room();
        for segment in gone.into_iter().filter(|segment| !takes(segment)) {
            let Segment { place, number, bytes, .. } = *segment;
            if !self.give(now, dir, place, bytes, room) {
                dir.removals().add(Unneeded::Segment { place, number, bytes });
            }
        }
    }
}

/// Starts to write the index of a sealed segment.
pub(super) fn submit_index(disk: &mut impl Disk<Tag>, segment: &Segment, index: Vec<u8>) {
    disk.submit(Tag::Index(segment.number), save_index(segment.place, index));
}

/// Returns how many bytes of the next segment should be zeros when so many of the present one, of `bytes`, are written.
fn zeros_wanted(written: u64, bytes: u64) -> u64 {
    if bytes < PACED_MIN {
        return if written > bytes / 2 { bytes } else { 0 };
    }
    let margin = bytes >> MARGIN_SHIFT;
    // Between the margins are three quarters.
    let (done, whole) = (written.saturating_sub(margin), bytes - 2 * margin);
    if done >= whole { bytes } else { done * 4 / 3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_wanted_evenly_between_the_margins() {
        for bytes in [16 << 20, 48 << 20, 15 << 30] {
            let parts = [0, 1, 4, 7, 8].map(|eighths| zeros_wanted(bytes / 8 * eighths, bytes));
            assert_eq!(parts, [0, 0, bytes / 2, bytes, bytes]);
            assert_eq!(zeros_wanted(bytes / 4, bytes), bytes / 6, "a sixth of the time between them");
        }
        assert_eq!([1 << 19, (1 << 19) + 1].map(|written| zeros_wanted(written, 1 << 20)), [0, 1 << 20]);
    }
}

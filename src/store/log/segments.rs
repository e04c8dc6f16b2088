//! The segment files that a shard looks after: made ahead, sealed, given an index, retired and removed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::data_dir::DataDir;
use super::disk::{Disk, FileName, NewPlace, Reserve, Step, make_segment, remove_segment, save_index};
use super::format::SegmentHeader;
use super::history::Sealed;
use super::index::Index;
use super::journal::{Active, new_stamp};
use super::segment::Segment;
use super::tag::Tag;
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};

/// How large segments are, and how many of them stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentLimits {
    /// Bytes of one.
    pub segment_bytes: u64,
    /// Bytes of all segments of the server; 0: no limit.
    pub max_bytes: u64,
    /// How old a segment's newest message gets, milliseconds; 0: no limit.
    pub max_age: Millis,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Segments {
    shard: u16,
    shards: u16,
    limits: SegmentLimits,
    /// A segment that is ready. There is none while one is being made.
    spare: Option<Active>,
    making: Option<(NewPlace, SegmentHeader)>,
    /// When one may be made ahead again, by the monotonic clock: the last could not.
    make_again: Millis,
    /// Sealed segments whose indexes are being written, by number.
    indexing: HashMap<u64, Index>,
    /// The number of the segment that was sealed as the shard stopped, until its index is written.
    stopping: Option<(u64, Sealed)>,
    /// Sealed segments, oldest first.
    kept: Vec<Arc<Segment>>,
}

impl Segments {
    /// Those that shard `shard` of `shards` has found at the start.
    pub(super) fn new(shard: u16, shards: u16, limits: SegmentLimits, kept: Vec<Arc<Segment>>) -> Self {
        debug_assert!(kept.is_sorted_by_key(|segment| segment.number), "oldest first");
        Self {
            shard,
            shards,
            limits,
            spare: None,
            making: None,
            make_again: Millis::ZERO,
            indexing: HashMap::new(),
            stopping: None,
            kept,
        }
    }

    pub(super) fn shard(&self) -> u16 {
        self.shard
    }

    /// Sealed segments, oldest first.
    pub(super) fn kept(&self) -> &[Arc<Segment>] {
        &self.kept
    }

    pub(super) fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// The segment that is ready, to be written.
    pub(super) fn take_spare(&mut self) -> Option<Active> {
        self.spare.take()
    }

    /// Makes a segment, unless one is ready or on its way.
    pub(super) fn make(&mut self, dir: &DataDir, disk: &mut impl Disk<Tag>, reserve: Reserve) {
        if self.spare.is_some() || self.making.is_some() {
            return;
        }
        let place = dir.take_place();
        let header =
            SegmentHeader { stamp: new_stamp(), number: place.number, bytes: self.limits.segment_bytes };
        self.making = Some((place, header));
        disk.submit(Tag::Make, make_segment(place, header.bytes, header.encode(), reserve));
    }

    /// Makes the next segment ahead of need. One that could not be made is not tried again at once.
    pub(super) fn make_ahead(&mut self, now: Now, dir: &DataDir, disk: &mut impl Disk<Tag>) {
        if self.make_again <= now.mono {
            self.make(dir, disk, Reserve::Keep);
        }
    }

    /// A segment is made, or is not and `again` later may be tried again: then what there is of it is removed.
    pub(super) fn handle_made(
        &mut self,
        now: Now,
        again: Millis,
        result: &io::Result<()>,
        disk: &mut impl Disk<Tag>,
    ) {
        let Some((place, header)) = self.making.take() else { return };
        debug_assert!(self.spare.is_none(), "one is made while none is ready");
        self.make_again = if result.is_err() { now.mono + again } else { Millis::ZERO };
        if result.is_ok() {
            self.spare = Some(Active::new(place, header));
            return;
        }
        // A full disk needs the room.
        let steps = match place.is_new {
            true => vec![Step::Remove(FileName::Segment(place.place))],
            false => remove_segment(place.place, header.encode()),
        };
        disk.submit(Tag::Remove, steps);
    }

    /// Seals the segment that was written. Returns it with its index's file.
    pub(super) fn seal(&mut self, active: &Active) -> (Arc<Segment>, Vec<u8>) {
        let Active { place, header, end, spans, .. } = active;
        let segment = Arc::new(Segment::new(*place, header, spans.values().map(|span| &span.head)));
        let (index, bytes) = Index::encode(header.stamp, *end, spans);
        self.indexing.insert(header.number, index);
        debug_assert!(self.kept.last().is_none_or(|last| last.number < segment.number), "oldest first");
        self.kept.push(segment.clone());
        (segment, bytes)
    }

    /// The shard stops, and has sealed that segment, whose rounds end there: the next start is told once its index is written.
    pub(super) fn stop_behind(&mut self, segment: &Segment, end: u64) {
        let sealed = Sealed { place: segment.place, stamp: segment.stamp, end };
        self.stopping = Some((segment.number, sealed));
    }

    /// Whether indexes are being written.
    pub(super) fn is_indexing(&self) -> bool {
        !self.indexing.is_empty()
    }

    /// The index of a sealed segment is written.
    pub(super) fn handle_indexed(&mut self, dir: &DataDir, number: u64) -> Option<Index> {
        let index = self.indexing.remove(&number)?;
        if let Some((_, sealed)) = self.stopping.take_if(|(of, _)| *of == number) {
            dir.seal(sealed);
        }
        Some(index)
    }

    /// The index of a sealed segment cannot be written: it is kept in memory.
    pub(super) fn handle_not_indexed(&mut self, number: u64, error: &io::Error) {
        tracing::warn!(shard = self.shard, %error, "an index cannot be written; the start after this will scan its segment");
        self.indexing.remove(&number);
        self.stopping.take_if(|(of, _)| *of == number);
    }

    /// Everything in sealed segments was stored at that time at the latest, Unix milliseconds.
    pub(super) fn cap(&self, unix: UnixMillis) {
        self.kept.iter().for_each(|segment| segment.cap(unix));
    }

    /// Whether a new segment that takes the marks of where partitions end makes more room than it takes: then the files come back of
    /// which every message has expired.
    pub(super) fn frees_room(&self, unix: UnixMillis) -> bool {
        self.kept.iter().filter(|segment| segment.expiry() <= unix).count() > 1
    }

    /// Retires the oldest segments where there are too many, and unless the clock is held those that are too old.
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

    /// Gives back the files of segments in which no partition has anything.
    pub(super) fn remove_gone(&mut self, dir: &DataDir, disk: &mut impl Disk<Tag>) {
        // A reader of a segment holds it, too; and no index is written of a file that lives again.
        let indexing = &self.indexing;
        let is_gone = |segment: &mut Arc<Segment>| {
            Arc::strong_count(segment) == 1 && !indexing.contains_key(&segment.number)
        };
        for segment in self.kept.extract_if(.., is_gone) {
            let is_whole = segment.bytes == self.limits.segment_bytes;
            if !(is_whole && dir.give_place(segment.place, usize::from(self.shards))) {
                let header =
                    SegmentHeader { stamp: new_stamp(), number: segment.number, bytes: segment.bytes };
                disk.submit(Tag::Remove, remove_segment(segment.place, header.encode()));
            }
        }
    }
}

/// Begins to write the index of a sealed segment.
pub(super) fn submit_index(disk: &mut impl Disk<Tag>, segment: &Segment, index: Vec<u8>) {
    disk.submit(Tag::Index(segment.number), save_index(segment.place, index));
}

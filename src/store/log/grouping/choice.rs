//! Which sealed segments are grouped.
//!
//! - **Sparse** ones: less than half of their bytes is still needed. What is needed of several that follow one
//!   another goes into one segment.
//! - **Small** ones, which are what is left of sparse ones: many that follow one another go into one segment.
//! - **Scattered** ones: their partitions have many short runs. Grouped, each partition has few.
//!
//! Segments that are needed whole in few runs stay as they are.

use std::ops::Range;
use std::sync::Arc;

use super::gather::GATHER_BYTES;
use crate::base::millis::{Millis, UnixMillis};
use crate::store::log::format::{BLOCK, ROUNDS_AT};
use crate::store::log::grouped::REPLACED_MAX;
use crate::store::log::index::RUN_BYTES_MAX;
use crate::store::log::segment::{Holding, Segment};

/// The newest sealed segments of a shard are not grouped: readers are about to leave them.
const RECENT: usize = if cfg!(test) { 1 } else { 2 };

/// A segment is sparse if what is needed of it makes a segment of at most one of this many parts.
const SPARSE_PARTS: u64 = 2;

/// What a grouped segment takes in addition to its batches, in bytes.
const EXTRA_BYTES: u64 = ROUNDS_AT + BLOCK as u64;

/// Sparse segments are grouped if that frees at least this part of a full segment.
const FREED_PARTS: u64 = 8;

/// A segment is small if it takes at most this part of a full segment.
const SMALL_PARTS: u64 = 4;

/// Small segments are grouped if they are this many, or make at least half of what is grouped together.
const SMALL_COUNT: usize = 16;

/// The most spans in segments that are grouped together. Finding their partitions takes time at once.
pub const SPANS_MAX: usize = 16 << 10;

/// A segment is scattered if it has this many times the runs that it will have.
const SCATTERED_RUNS: u64 = 4;

/// A scattered segment is grouped if its messages live this long at least.
const SCATTERED_LIFE: Millis = Millis::from_secs(60);

/// With `log_max_age`, the newest messages of segments that are grouped together differ in age by at most this
/// part of it: a segment is dropped by the age of its newest message.
const AGE_PARTS: u64 = 16;

const _: () = assert!(SMALL_COUNT <= REPLACED_MAX, "small segments are grouped at once");

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct GroupLimits {
    /// The size of a full segment, in bytes.
    pub segment_bytes: u64,
    /// The age of its newest message at which a segment is retired; 0: no limit.
    pub max_age: Millis,
}

/// Returns the segments to group next, of `kept`, oldest first. `may_take` says whether a segment may be
/// grouped, and `may_follow` whether together with the one before it.
pub fn choose(
    kept: &[Arc<Segment>],
    unix: UnixMillis,
    limits: GroupLimits,
    may_take: impl Fn(&Segment) -> bool,
    may_follow: impl Fn(&Segment) -> bool,
) -> Option<Range<usize>> {
    let old = &kept[..kept.len().saturating_sub(RECENT)];
    // A reader holds a segment, too, and so does whatever keeps it for another reason.
    let is_free = |segment: &Arc<Segment>| {
        let Holding { spans, bytes, .. } = segment.holding();
        spans > 0
            && bytes > 0
            && !segment.is_retired()
            && !segment.is_fixed()
            && Arc::strong_count(segment) == 1 + spans
    };
    let takes: Vec<bool> = old.iter().map(|segment| is_free(segment) && may_take(segment)).collect();
    let is_sparse =
        |segment: &Segment| (segment.holding().bytes + EXTRA_BYTES) * SPARSE_PARTS <= segment.bytes;
    let is_small = |segment: &Segment| segment.bytes * SMALL_PARTS <= limits.segment_bytes;
    let stretch = |is_wanted: &dyn Fn(&Segment) -> bool, pays: &dyn Fn(&Stretch) -> bool| {
        let mut from = 0;
        while from < old.len() {
            let mut stretch = Stretch::default();
            let rest = old[from..].iter().zip(&takes[from..]);
            let count = rest
                .take_while(|(segment, takes)| {
                    let goes_on = stretch.count == 0 || may_follow(segment);
                    **takes && is_wanted(segment) && goes_on && stretch.add(segment, limits)
                })
                .count();
            if count > 0 && pays(&stretch) {
                return Some(from..from + count);
            }
            from += count.max(1);
        }
        None
    };
    let frees = |all: &Stretch| {
        all.bytes.saturating_sub(all.needed + EXTRA_BYTES) * FREED_PARTS >= limits.segment_bytes
    };
    let is_much = |all: &Stretch| all.count >= SMALL_COUNT || all.count > 1 && all.needed * 2 >= room(limits);
    let scattered = || {
        let is_scattered = |segment: &Segment| {
            let Holding { spans, bytes, runs } = segment.holding();
            let grouped = spans as u64 + bytes / RUN_BYTES_MAX;
            runs >= grouped * SCATTERED_RUNS && segment.expiry() > unix + SCATTERED_LIFE
        };
        let found = old.iter().zip(&takes).position(|(segment, takes)| *takes && is_scattered(segment));
        found.map(|at| at..at + 1)
    };
    stretch(&is_sparse, &frees)
        .or_else(|| stretch(&|of| is_small(of) || is_sparse(of), &is_much))
        .or_else(scattered)
}

/// Returns how many bytes are grouped together, unless a single segment has more.
fn room(limits: GroupLimits) -> u64 {
    limits.segment_bytes.min(GATHER_BYTES as u64)
}

/// Segments that follow one another.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    count: usize,
    bytes: u64,
    needed: u64,
    spans: usize,
    oldest: Option<UnixMillis>,
}

impl Stretch {
    /// Adds the next segment, if it may be grouped with these. The first one may always be added.
    fn add(&mut self, segment: &Segment, limits: GroupLimits) -> bool {
        let Holding { spans, bytes, .. } = segment.holding();
        let newest = segment.newest();
        let oldest = self.oldest.unwrap_or(newest);
        let is_alike = limits.max_age == Millis::ZERO
            || newest.abs_diff(oldest).get() <= limits.max_age.get() / AGE_PARTS;
        let fits = self.needed + bytes <= room(limits) && self.spans + spans <= SPANS_MAX;
        if self.count > 0 && !(is_alike && fits && self.count < REPLACED_MAX) {
            return false;
        }
        *self = Self {
            count: self.count + 1,
            bytes: self.bytes + segment.bytes,
            needed: self.needed + bytes,
            spans: self.spans + spans,
            oldest: Some(oldest.min(newest)),
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::Offset;
    use crate::store::log::features::Features;
    use crate::store::log::header::SegmentHeader;
    use crate::store::log::index::{Run, SpanHead};
    use crate::store::log::segment::{Runs, SealedSpan};
    use crate::store::stock::Stock;

    const FULL: u64 = 1 << 20;
    const LIMITS: GroupLimits = GroupLimits { segment_bytes: FULL, max_age: Millis::ZERO };

    /// Creates sealed segments: the size of each, what is needed of it, in how many runs, and when its newest
    /// message was stored.
    fn segments(of: &[(u64, u64, usize, u64)]) -> (Vec<Arc<Segment>>, Vec<SealedSpan>) {
        let made = of.iter().enumerate().map(|(number, &(bytes, needed, runs, newest))| {
            let number = number as u64;
            let header = SegmentHeader { stamp: number, number, bytes, features: Features::NONE };
            let head = SpanHead {
                first: Offset(number),
                end: Offset(number + 1),
                oldest: UnixMillis::ZERO,
                newest: UnixMillis::new(newest),
                expiry: UnixMillis::new(1_000_000),
                bytes: needed,
                messages: 1,
            };
            let segment = Arc::new(Segment::new(number as u32, &header, bytes, std::iter::once(&head)));
            let run =
                Run { first: head.first, end: head.end, timestamp: UnixMillis::ZERO, at: 0, bytes: needed };
            let runs = Runs::Memory(vec![run; runs].into());
            let span = SealedSpan::new(segment.clone(), head, runs, Stock::default());
            (segment, span)
        });
        made.unzip()
    }

    fn chosen(of: &[(u64, u64, usize, u64)], limits: GroupLimits) -> Option<Range<usize>> {
        let mut all = of.to_vec();
        // Those that are too new.
        all.extend(vec![(FULL, 0, 1, 0); RECENT]);
        let (kept, _spans) = segments(&all);
        choose(&kept, UnixMillis::ZERO, limits, |_| true, |_| true)
    }

    #[test]
    fn sparse_segments_are_grouped_with_their_neighbours() {
        let (full, sparse) = ((FULL, FULL - 9_000, 1, 0), (FULL, 3_000, 1, 0));
        assert_eq!(chosen(&[full, full], LIMITS), None);
        assert_eq!(chosen(&[full, sparse, sparse, full, sparse], LIMITS), Some(1..3));
        assert_eq!(chosen(&[sparse], LIMITS), Some(0..1), "a grouped segment takes only what it needs");
        assert_eq!(chosen(&[(40_000, 3_000, 1, 0)], LIMITS), None, "it frees too little");
        assert_eq!(chosen(&[(40_000, 3_000, 1, 0); 5], LIMITS), Some(0..5));
        let grouped = (EXTRA_BYTES + 100, 100, 1, 0);
        assert_eq!(chosen(&[grouped], GroupLimits { segment_bytes: 1, ..LIMITS }), None, "nothing is gained");
        let half = (FULL, 15_000, 1, 0);
        assert_eq!(chosen(&[half; 4], LIMITS), Some(0..1), "the next does not fit into memory");
    }

    #[test]
    fn small_segments_are_grouped_once_they_are_many() {
        let small = (1_000, 400, 1, 0);
        assert_eq!(chosen(&[small; SMALL_COUNT - 1], LIMITS), None);
        assert_eq!(chosen(&[small; SMALL_COUNT], LIMITS), Some(0..SMALL_COUNT));
    }

    #[test]
    fn a_scattered_segment_is_grouped_alone_and_once() {
        let scattered = (FULL, FULL - 9_000, 90, 0);
        assert_eq!(chosen(&[(FULL, FULL - 9_000, 2, 0), scattered, scattered], LIMITS), Some(1..2));
    }

    #[test]
    fn segments_of_different_age_stay_apart_if_age_is_limited() {
        let of = [(FULL, 3_000, 1, 1_000), (FULL, 3_000, 1, 1_900), (FULL, 3_000, 1, 2_100)];
        assert_eq!(chosen(&of, LIMITS), Some(0..3));
        let limits = GroupLimits { max_age: Millis::new(16_000), ..LIMITS };
        assert_eq!(chosen(&of, limits), Some(0..2));
    }

    #[test]
    fn a_segment_that_something_else_holds_is_not_grouped() {
        let (kept, spans) = segments(&[(FULL, 3_000, 1, 0); 4]);
        let free = |kept: &[Arc<Segment>]| choose(kept, UnixMillis::ZERO, LIMITS, |_| true, |_| true);
        let reader = kept[1].clone();
        assert_eq!(free(&kept), Some(0..1));
        drop(reader);
        assert_eq!(free(&kept), Some(0..4 - RECENT));
        let from_two = |of: &Segment| of.number != 1;
        let walled = choose(&kept, UnixMillis::ZERO, LIMITS, |_| true, from_two);
        assert_eq!(walled, Some(0..1));
        drop(spans);
        assert_eq!(free(&kept), None, "nothing is needed of them");
    }
}

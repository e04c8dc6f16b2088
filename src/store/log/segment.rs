//! Sealed segments, and what they hold of each partition.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::header::SegmentHeader;
use super::index::{Run, RunsAt, SpanHead};
use super::keep::Keep;
use crate::base::millis::UnixMillis;
use crate::base::units::{Offset, Partition};
use crate::store::stock::Stock;

/// A segment that is no longer written. It is kept while a partition has messages in it.
#[derive(Debug)]
pub struct Segment {
    /// The number of its file.
    pub place: u32,
    /// The number of the segment. Later segments have higher numbers.
    pub number: u64,
    /// The number of the newest segment whose messages it holds: its own, unless it is grouped. Segments are
    /// as old as their orders say.
    pub order: u64,
    /// The stamp of its rounds.
    pub stamp: u64,
    /// The size of its file, in bytes.
    pub bytes: u64,
    /// The position at which its last round ends.
    pub end: u64,
    /// When its newest message was stored, according to its timestamps.
    newest: UnixMillis,
    /// When the last of its messages expires, according to its timestamps.
    expiry: UnixMillis,
    /// Its messages were stored at this time or earlier, whatever their timestamps say.
    cap_ms: AtomicU64,
    /// Whether partitions must release it before its messages have expired: the log is too large, or the
    /// segment too old.
    is_retired: AtomicBool,
    /// Whether it must not be replaced in this run: the next start needs it to ignore the files of segments
    /// that it replaces.
    is_fixed: AtomicBool,
    /// What partitions have in it.
    held: Held,
}

/// What partitions have in a segment.
#[derive(Debug, Default)]
struct Held {
    spans: AtomicUsize,
    bytes: AtomicU64,
    runs: AtomicU64,
}

/// What partitions have in a segment, at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The number of spans.
    pub spans: usize,
    /// The size of their batches, in bytes.
    pub bytes: u64,
    /// The number of their runs.
    pub runs: u64,
}

impl Segment {
    /// Creates the segment with this header in file `place`, whose rounds end at `end`, and which holds the
    /// spans in `heads`.
    pub fn new<'a>(
        place: u32,
        header: &SegmentHeader,
        end: u64,
        heads: impl Iterator<Item = &'a SpanHead>,
    ) -> Self {
        let SegmentHeader { stamp, number, bytes, .. } = *header;
        let (newest, expiry) = heads.fold((UnixMillis::ZERO, UnixMillis::ZERO), |(newest, expiry), head| {
            (newest.max(head.newest), expiry.max(head.expiry))
        });
        let (cap_ms, is_retired) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
        let (order, held) = (number, Held::default());
        let is_fixed = AtomicBool::new(false);
        Self { place, number, order, stamp, bytes, end, newest, expiry, cap_ms, is_retired, is_fixed, held }
    }

    /// Makes it as old as the segment with this number.
    pub fn in_order(mut self, order: u64) -> Self {
        self.order = order;
        self
    }

    /// Returns what partitions have in it.
    pub fn holding(&self) -> Holding {
        let Held { spans, bytes, runs } = &self.held;
        Holding {
            spans: spans.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
            runs: runs.load(Ordering::Relaxed),
        }
    }

    /// Returns when its newest message was stored.
    pub fn newest(&self) -> UnixMillis {
        self.newest.min(UnixMillis::new(self.cap_ms.load(Ordering::Relaxed)))
    }

    /// Returns when the last of its messages expires.
    pub fn expiry(&self) -> UnixMillis {
        self.expiry.saturating_sub(self.newest.since(self.newest()))
    }

    /// Returns whether partitions must release it before its messages have expired.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// Makes partitions release it before its messages have expired.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// Returns whether it must not be replaced in this run.
    pub fn is_fixed(&self) -> bool {
        self.is_fixed.load(Ordering::Relaxed)
    }

    /// Excludes it from being replaced in this run.
    pub fn fix(&self) {
        self.is_fixed.store(true, Ordering::Relaxed);
    }

    /// Records that its messages were stored at `unix` or earlier.
    pub fn cap(&self, unix: UnixMillis) {
        self.cap_ms.fetch_min(unix.get(), Ordering::Relaxed);
    }
}

/// The source of a span's runs.
#[derive(Clone, Debug)]
pub enum Runs {
    /// The segment's index, on disk.
    Index(RunsAt),
    /// Memory: the index is not written yet, or could not be written.
    Memory(Arc<[Run]>),
}

impl Runs {
    /// Returns how many they are.
    fn count(&self) -> u64 {
        match self {
            Self::Index(at) => at.count.into(),
            Self::Memory(runs) => runs.len() as u64,
        }
    }
}

/// The messages of one partition in a sealed segment, which counts them while this exists.
#[derive(Debug)]
pub struct SealedSpan {
    /// The segment that holds the messages.
    pub segment: Arc<Segment>,
    /// Its offsets, times and sizes.
    pub head: SpanHead,
    /// Where its batches are.
    pub runs: Runs,
    /// What it holds.
    pub stock: Stock,
    /// Its batches were stored at this time or earlier, whatever their timestamps say.
    pub cap: UnixMillis,
    /// The number of its runs that the segment counts.
    counted_runs: u64,
}

impl Drop for SealedSpan {
    fn drop(&mut self) {
        let Held { spans, bytes, runs } = &self.segment.held;
        spans.fetch_sub(1, Ordering::Relaxed);
        bytes.fetch_sub(self.head.bytes, Ordering::Relaxed);
        runs.fetch_sub(self.counted_runs, Ordering::Relaxed);
    }
}

impl SealedSpan {
    /// Creates a span of `segment`.
    pub fn new(segment: Arc<Segment>, head: SpanHead, runs: Runs, stock: Stock) -> Self {
        let counted_runs = runs.count();
        let held = &segment.held;
        held.spans.fetch_add(1, Ordering::Relaxed);
        held.bytes.fetch_add(head.bytes, Ordering::Relaxed);
        held.runs.fetch_add(counted_runs, Ordering::Relaxed);
        Self { segment, head, runs, stock, cap: UnixMillis::MAX, counted_runs }
    }

    /// Returns when it may go.
    fn due(&self, keep: &Keep) -> UnixMillis {
        keep.due(&self.head, self.segment.is_retired())
    }

    /// Limits the timestamps to `unix`, at which something later was stored, and with them the expiry. A
    /// segment ends where the clock jumps, so the time from the span's first timestamp to its expiry is
    /// right. The span expires at most that long after `unix`.
    fn cap(&mut self, unix: UnixMillis) {
        let SpanHead { oldest, newest, expiry, .. } = self.head;
        if newest <= unix {
            return;
        }
        self.cap = self.cap.min(unix);
        self.head.oldest = oldest.min(unix);
        self.head.newest = unix;
        self.head.expiry = expiry.min(unix + expiry.since(oldest));
        self.stock.cap(unix);
    }
}

/// A partition's messages in sealed segments.
#[derive(Debug)]
pub struct Past {
    /// Its spans, in the order of their offsets.
    pub spans: VecDeque<SealedSpan>,
    /// The offset after the last message that was ever stored.
    pub end: Offset,
    /// The lowest timestamp that a later message may have.
    pub newest: UnixMillis,
    /// When the first of the spans may go, at the earliest.
    pub due: UnixMillis,
    keep: Keep,
}

impl Past {
    /// Creates what is known of a partition before anything is found of it.
    pub fn new(partition: Partition) -> Self {
        let (spans, keep) = (VecDeque::new(), Keep::new(partition));
        Self { spans, end: Offset::ZERO, newest: UnixMillis::ZERO, due: UnixMillis::MAX, keep }
    }

    /// Returns which spans must stay, and which may go.
    pub fn keep(&self) -> &Keep {
        &self.keep
    }

    /// Changes which spans must stay, and which may go.
    pub fn change(&mut self, change: impl FnOnce(&mut Keep)) {
        change(&mut self.keep);
        self.due = UnixMillis::ZERO;
    }

    /// Returns whether it holds messages.
    pub fn has_messages(&self) -> bool {
        self.spans.iter().any(|span| span.head.messages > 0)
    }

    /// Returns the spans that must stay at `unix`.
    pub fn needed(&self, unix: UnixMillis) -> impl Iterator<Item = &SealedSpan> {
        self.spans.iter().filter(move |span| span.due(&self.keep) > unix)
    }

    /// Adds the next span.
    pub fn push(&mut self, span: SealedSpan) {
        if self.spans.back().is_some_and(|before| before.head.newest > span.head.oldest) {
            self.cap(span.head.oldest);
        }
        self.end = self.end.max(span.head.end);
        self.newest = span.head.newest;
        self.due = self.due.min(span.due(&self.keep));
        self.spans.push_back(span);
    }

    /// Records that all its messages were stored at `unix` or earlier. Returns whether timestamps said
    /// otherwise.
    pub fn cap(&mut self, unix: UnixMillis) -> bool {
        if self.newest <= unix {
            return false;
        }
        self.newest = unix;
        self.spans
            .iter_mut()
            .rev()
            .take_while(|span| span.head.newest > unix)
            .for_each(|span| span.cap(unix));
        self.find_due();
        true
    }

    fn find_due(&mut self) {
        let due = self.spans.iter().map(|span| span.due(&self.keep));
        self.due = due.min().unwrap_or(UnixMillis::MAX);
    }

    /// Sorts its spans by offset. They come in the order of their segments' numbers, which can be another one
    /// after the number of shards has changed.
    pub fn sort(&mut self) {
        let mut spans: Vec<SealedSpan> = std::mem::take(&mut self.spans).into();
        spans.sort_by_key(|span| span.head.first);
        (self.newest, self.due) = (UnixMillis::ZERO, UnixMillis::MAX);
        spans.into_iter().for_each(|span| self.push(span));
    }

    /// Returns where it has the span that a segment's index calls `head`, if the span is still needed.
    pub fn position(&self, number: u64, head: &SpanHead) -> Option<usize> {
        let begins = self.spans.partition_point(|span| span.head.first < head.first);
        let here = self.spans.iter().enumerate().skip(begins);
        let mut here = here.take_while(|(_, span)| span.head.first == head.first);
        here.find(|(_, span)| span.segment.number == number).map(|(index, _)| index)
    }

    /// Replaces its spans in segments that `is_replaced` names, which lie in `offsets`, by one in another
    /// segment, which holds the same batches. The spans follow one another. Those that were
    /// released since the batches were copied stay released. Returns whether any was left.
    pub fn replace(
        &mut self,
        offsets: Range<Offset>,
        is_replaced: impl Fn(&Segment) -> bool,
        segment: &Arc<Segment>,
        runs: Runs,
        mut stock: Stock,
    ) -> bool {
        let begins = self.spans.partition_point(|span| span.head.first < offsets.start);
        let ends = self.spans.partition_point(|span| span.head.first <= offsets.end);
        let Some(at) = (begins..ends).find(|at| is_replaced(&self.spans[*at].segment)) else { return false };
        let count = self.spans.iter().skip(at).take_while(|span| is_replaced(&span.segment)).count();
        let replaced = self.spans.iter().skip(at).take(count).map(|span| span.head);
        let Some(head) = replaced.reduce(SpanHead::join) else { return false };
        if offsets != head.offsets() {
            stock = stock.part(&head.offsets());
        }
        self.spans[at] = SealedSpan::new(segment.clone(), head, runs, stock);
        self.spans.drain(at + 1..at + count);
        self.find_due();
        true
    }

    /// Lets the spans go that were released, have expired, or whose segments are retired. Unless
    /// `is_end_told`, it keeps the last span, because nothing else says where the partition ends. Returns how
    /// many messages they held that were not released: expired ones, and others in retired segments.
    pub fn expire(&mut self, unix: UnixMillis, is_end_told: bool) -> (u64, u64) {
        let (last, mut index, mut expired, mut dropped) = (self.spans.len(), 0, 0, 0);
        let Self { spans, keep, .. } = self;
        spans.retain(|span| {
            index += 1;
            if span.due(keep) > unix || index == last && !is_end_told {
                return true;
            }
            let has_expired = span.head.expiry <= unix;
            if !keep.is_released(&span.head) {
                *(if has_expired { &mut expired } else { &mut dropped }) += span.head.messages;
            }
            false
        });
        self.find_due();
        (expired, dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::log::features::Features;

    #[test]
    fn a_span_of_a_grouped_segment_is_kept_by_a_lease_in_any_part() {
        let unix = UnixMillis::new;
        let segment = |number| {
            let header = SegmentHeader { stamp: number, number, bytes: 1, features: Features::NONE };
            Arc::new(Segment::new(number as u32, &header, 0, std::iter::empty()))
        };
        let head = |first| SpanHead {
            first: Offset(first),
            end: Offset(first + 5),
            oldest: unix(10),
            newest: unix(10),
            expiry: unix(50),
            bytes: 100,
            messages: 5,
        };
        let none = || Runs::Memory([].into());
        for leased in [2, 7] {
            let (old, grouped) = ([segment(1), segment(2)], segment(3));
            let mut past = Past::new(Partition(0));
            for (first, segment) in [0, 5].into_iter().zip(&old) {
                past.push(SealedSpan::new(segment.clone(), head(first), none(), Stock::default()));
            }
            past.change(|keep| keep.pin(vec![Offset(leased)..Offset(leased + 1)]));
            let is_old = |of: &Segment| of.number < 3;
            assert!(past.replace(Offset(0)..Offset(10), is_old, &grouped, none(), Stock::default()));
            assert_eq!(past.expire(unix(60), true), (0, 0));
            let kept: Vec<(Offset, Offset, u64)> =
                past.spans.iter().map(|span| (span.head.first, span.head.end, span.segment.number)).collect();
            assert_eq!(kept, [(Offset(0), Offset(10), 3)], "{leased}");
            assert_eq!((old[0].holding().spans, grouped.holding().bytes), (0, 200));
        }
    }
}

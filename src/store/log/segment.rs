//! Sealed segments, and what they hold of each partition.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
        Self { place, number, stamp, bytes, end, newest, expiry, cap_ms, is_retired }
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

/// The messages of one partition in a sealed segment.
#[derive(Clone, Debug)]
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
}

impl SealedSpan {
    /// Creates a span of `segment`.
    pub fn new(segment: Arc<Segment>, head: SpanHead, runs: Runs, stock: Stock) -> Self {
        Self { segment, head, runs, stock, cap: UnixMillis::MAX }
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
#[derive(Clone, Debug)]
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

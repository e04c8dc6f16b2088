//! Sealed segments, and what they hold of a partition.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::format::SegmentHeader;
use super::index::{Run, RunsAt, SpanHead};
use crate::base::millis::UnixMillis;
use crate::base::units::Offset;

/// A segment that is not written any more. It lives as long as a partition has something in it.
#[derive(Debug)]
pub struct Segment {
    /// Its file's number.
    pub place: u32,
    /// Which one it is: later ones have higher numbers.
    pub number: u64,
    /// What its rounds bear.
    pub stamp: u64,
    /// Its file's size.
    pub bytes: u64,
    /// When its newest message was stored, Unix milliseconds, as its timestamps say.
    newest: UnixMillis,
    /// When the last of its messages to end ends, likewise.
    expiry: UnixMillis,
    /// It was stored at that time at the latest, whatever its timestamps say.
    cap_ms: AtomicU64,
    /// Whether it is to be let go of although its messages have not expired: there are too many, or it is too old.
    is_retired: AtomicBool,
}

impl Segment {
    /// The segment of that header in that file, which holds that.
    pub fn new<'a>(place: u32, header: &SegmentHeader, heads: impl Iterator<Item = &'a SpanHead>) -> Self {
        let SegmentHeader { stamp, number, bytes } = *header;
        let (newest, expiry) = heads.fold((UnixMillis::ZERO, UnixMillis::ZERO), |(newest, expiry), head| {
            (newest.max(head.newest), expiry.max(head.expiry))
        });
        let (cap_ms, is_retired) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
        Self { place, number, stamp, bytes, newest, expiry, cap_ms, is_retired }
    }

    /// When its newest message was stored, Unix milliseconds.
    pub fn newest(&self) -> UnixMillis {
        self.newest.min(UnixMillis::new(self.cap_ms.load(Ordering::Relaxed)))
    }

    /// When the last of its messages to end ends.
    pub fn expiry(&self) -> UnixMillis {
        self.expiry.saturating_sub(self.newest.since(self.newest()))
    }

    /// Whether it is to be let go of although its messages have not expired.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// It is to be let go of.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// Its messages were stored at that time at the latest.
    pub fn cap(&self, unix: UnixMillis) {
        self.cap_ms.fetch_min(unix.get(), Ordering::Relaxed);
    }
}

/// Where a span's runs are known from.
#[derive(Clone, Debug)]
pub enum Runs {
    /// The segment's index, on disk.
    Index(RunsAt),
    /// Memory: the index is not written yet, or could not be.
    Memory(Arc<[Run]>),
}

/// What a sealed segment holds of a partition.
#[derive(Clone, Debug)]
pub struct SealedSpan {
    /// Which segment.
    pub segment: Arc<Segment>,
    /// What.
    pub head: SpanHead,
    /// Where.
    pub runs: Runs,
    /// Its batches were stored at that time at the latest, whatever their timestamps say: Unix milliseconds.
    pub cap: UnixMillis,
}

impl SealedSpan {
    /// What a segment holds there.
    pub fn new(segment: Arc<Segment>, head: SpanHead, runs: Runs) -> Self {
        Self { segment, head, runs, cap: UnixMillis::MAX }
    }

    /// Something later was stored at that time: its timestamps lie no later, and it expires by them. A segment ends where the clock
    /// steps back, so its messages live at most as long after the first of them as it says.
    fn cap(&mut self, unix: UnixMillis) {
        let SpanHead { oldest, newest, expiry, .. } = self.head;
        if newest <= unix {
            return;
        }
        self.cap = self.cap.min(unix);
        self.head.oldest = oldest.min(unix);
        self.head.newest = unix;
        self.head.expiry = expiry.min(unix + expiry.since(oldest));
    }
}

/// A partition's messages in sealed segments.
#[derive(Clone, Debug)]
pub struct Past {
    /// In order of their offsets.
    pub spans: VecDeque<SealedSpan>,
    /// The offset behind the last message that was ever stored.
    pub end: Offset,
    /// No later message may be older, Unix milliseconds.
    pub newest: UnixMillis,
    /// When the first of the spans expires.
    pub due: UnixMillis,
}

impl Default for Past {
    fn default() -> Self {
        Self { spans: VecDeque::new(), end: Offset::ZERO, newest: UnixMillis::ZERO, due: UnixMillis::MAX }
    }
}

impl Past {
    /// The next span.
    pub fn push(&mut self, span: SealedSpan) {
        if self.spans.back().is_some_and(|before| before.head.newest > span.head.oldest) {
            self.cap(span.head.oldest);
        }
        self.end = self.end.max(span.head.end);
        self.newest = span.head.newest;
        self.due = self.due.min(span.head.expiry);
        self.spans.push_back(span);
    }

    /// Everything that it holds was stored at that time at the latest. True where timestamps said otherwise.
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
        self.due = self.spans.iter().map(|span| span.head.expiry).min().unwrap_or(UnixMillis::MAX);
        true
    }

    /// Puts its spans in order: shards may have been more or fewer, and a partition's segments another shard's.
    pub fn sort(&mut self) {
        let mut spans: Vec<SealedSpan> = std::mem::take(&mut self.spans).into();
        spans.sort_by_key(|span| span.head.first);
        (self.newest, self.due) = (UnixMillis::ZERO, UnixMillis::MAX);
        spans.into_iter().for_each(|span| self.push(span));
    }

    /// Lets go of the spans that have expired, or whose segments are to go, but for the last one where nobody else tells where
    /// the partition ends. How many messages they held: expired ones, and those whose segments were retired.
    pub fn expire(&mut self, unix: UnixMillis, is_end_told: bool) -> (u64, u64) {
        let (last, mut index, mut expired, mut dropped) = (self.spans.len(), 0, 0, 0);
        let due = |span: &SealedSpan| match span.segment.is_retired() {
            true => UnixMillis::ZERO,
            false => span.head.expiry,
        };
        self.spans.retain(|span| {
            index += 1;
            if due(span) > unix || index == last && !is_end_told {
                return true;
            }
            let has_expired = span.head.expiry <= unix;
            *(if has_expired { &mut expired } else { &mut dropped }) += span.head.messages;
            false
        });
        self.due = self.spans.iter().map(due).min().unwrap_or(UnixMillis::MAX);
        (expired, dropped)
    }
}

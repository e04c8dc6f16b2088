//! Sealed segments, and what they hold of a partition.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::format::SegmentHeader;
use super::index::{Run, RunsAt, SpanHead};
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
    newest_ms: u64,
    /// When the last of its messages to end ends, likewise.
    expiry_ms: u64,
    /// It was stored at that time at the latest, whatever its timestamps say.
    cap_ms: AtomicU64,
    /// Whether it is to be let go of although its messages have not expired: there are too many, or it is too old.
    is_retired: AtomicBool,
}

impl Segment {
    /// The segment of that header in that file, which holds that.
    pub fn new<'a>(place: u32, header: &SegmentHeader, heads: impl Iterator<Item = &'a SpanHead>) -> Self {
        let SegmentHeader { stamp, number, bytes } = *header;
        let (newest_ms, expiry_ms) = heads.fold((0, 0), |(newest, expiry): (u64, u64), head| {
            (newest.max(head.last_ms), expiry.max(head.expiry_ms))
        });
        let (cap_ms, is_retired) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
        Self { place, number, stamp, bytes, newest_ms, expiry_ms, cap_ms, is_retired }
    }

    /// When its newest message was stored, Unix milliseconds.
    pub fn newest_ms(&self) -> u64 {
        self.newest_ms.min(self.cap_ms.load(Ordering::Relaxed))
    }

    /// When the last of its messages to end ends.
    pub fn expiry_ms(&self) -> u64 {
        self.expiry_ms.saturating_sub(self.newest_ms - self.newest_ms())
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
    pub fn cap(&self, unix_ms: u64) {
        self.cap_ms.fetch_min(unix_ms, Ordering::Relaxed);
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
    pub cap_ms: u64,
}

impl SealedSpan {
    /// What a segment holds there.
    pub fn new(segment: Arc<Segment>, head: SpanHead, runs: Runs) -> Self {
        Self { segment, head, runs, cap_ms: u64::MAX }
    }

    /// Something later was stored at that time: its timestamps lie no later, and it expires by them. A segment ends where the clock
    /// steps back, so its messages live at most as long after the first of them as it says.
    fn cap(&mut self, unix_ms: u64) {
        let SpanHead { first_ms, last_ms, expiry_ms, .. } = self.head;
        if last_ms <= unix_ms {
            return;
        }
        self.cap_ms = self.cap_ms.min(unix_ms);
        self.head.first_ms = first_ms.min(unix_ms);
        self.head.last_ms = unix_ms;
        self.head.expiry_ms = expiry_ms.min(unix_ms.saturating_add(expiry_ms.saturating_sub(first_ms)));
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
    pub last_ms: u64,
    /// When the first of the spans expires.
    pub due_ms: u64,
}

impl Default for Past {
    fn default() -> Self {
        Self { spans: VecDeque::new(), end: Offset::ZERO, last_ms: 0, due_ms: u64::MAX }
    }
}

impl Past {
    /// The next span.
    pub fn push(&mut self, span: SealedSpan) {
        if self.spans.back().is_some_and(|before| before.head.last_ms > span.head.first_ms) {
            self.cap(span.head.first_ms);
        }
        self.end = self.end.max(span.head.end);
        self.last_ms = span.head.last_ms;
        self.due_ms = self.due_ms.min(span.head.expiry_ms);
        self.spans.push_back(span);
    }

    /// Everything that it holds was stored at that time at the latest. True where timestamps said otherwise.
    pub fn cap(&mut self, unix_ms: u64) -> bool {
        if self.last_ms <= unix_ms {
            return false;
        }
        self.last_ms = unix_ms;
        self.spans
            .iter_mut()
            .rev()
            .take_while(|span| span.head.last_ms > unix_ms)
            .for_each(|span| span.cap(unix_ms));
        self.due_ms = self.spans.iter().map(|span| span.head.expiry_ms).min().unwrap_or(u64::MAX);
        true
    }

    /// Puts its spans in order: shards may have been more or fewer, and a partition's segments another shard's.
    pub fn sort(&mut self) {
        let mut spans: Vec<SealedSpan> = std::mem::take(&mut self.spans).into();
        spans.sort_by_key(|span| span.head.first);
        (self.last_ms, self.due_ms) = (0, u64::MAX);
        spans.into_iter().for_each(|span| self.push(span));
    }

    /// Lets go of the spans that have expired, or whose segments are to go, but for the last one where nobody else tells where
    /// the partition ends. How many messages they held: expired ones, and those whose segments were retired.
    pub fn expire(&mut self, unix_ms: u64, is_end_told: bool) -> (u64, u64) {
        let (last, mut index, mut expired, mut dropped) = (self.spans.len(), 0, 0, 0);
        let due_ms = |span: &SealedSpan| match span.segment.is_retired() {
            true => 0,
            false => span.head.expiry_ms,
        };
        self.spans.retain(|span| {
            index += 1;
            if due_ms(span) > unix_ms || index == last && !is_end_told {
                return true;
            }
            let has_expired = span.head.expiry_ms <= unix_ms;
            *(if has_expired { &mut expired } else { &mut dropped }) += span.head.messages;
            false
        });
        self.due_ms = self.spans.iter().map(due_ms).min().unwrap_or(u64::MAX);
        (expired, dropped)
    }
}

//! Sealed segments, and what they hold of each partition.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::format::SegmentHeader;
use super::index::{Run, RunsAt, SpanHead};

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
    /// When its newest message was stored, Unix milliseconds, according to its timestamps.
    newest_ms: u64,
    /// When the last of its messages expires, Unix milliseconds, according to its timestamps.
    expiry_ms: u64,
    /// Its messages were stored at this time or earlier, whatever their timestamps say.
    cap_ms: AtomicU64,
    /// Whether partitions must release it before its messages have expired: the log is too large, or the
    /// segment too old.
    is_retired: AtomicBool,
}

impl Segment {
    /// Creates the segment with this header in file `place`, which holds the spans in `heads`.
    pub fn new<'a>(place: u32, header: &SegmentHeader, heads: impl Iterator<Item = &'a SpanHead>) -> Self {
        let SegmentHeader { stamp, number, bytes } = *header;
        let (newest_ms, expiry_ms) = heads.fold((0, 0), |(newest, expiry): (u64, u64), head| {
            (newest.max(head.last_ms), expiry.max(head.expiry_ms))
        });
        let (cap_ms, is_retired) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
        Self { place, number, stamp, bytes, newest_ms, expiry_ms, cap_ms, is_retired }
    }

    /// Returns when its newest message was stored, Unix milliseconds.
    pub fn newest_ms(&self) -> u64 {
        self.newest_ms.min(self.cap_ms.load(Ordering::Relaxed))
    }

    /// Returns when the last of its messages expires, Unix milliseconds.
    pub fn expiry_ms(&self) -> u64 {
        self.expiry_ms.saturating_sub(self.newest_ms - self.newest_ms())
    }

    /// Returns whether partitions must release it before its messages have expired.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// Makes partitions release it before its messages have expired.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// Records that its messages were stored at `unix_ms` or earlier.
    pub fn cap(&self, unix_ms: u64) {
        self.cap_ms.fetch_min(unix_ms, Ordering::Relaxed);
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
    /// The segment.
    pub segment: Arc<Segment>,
    /// Its offsets, times and sizes.
    pub head: SpanHead,
    /// Where its batches are.
    pub runs: Runs,
    /// Its batches were stored at this time or earlier, whatever their timestamps say, Unix milliseconds.
    pub cap_ms: u64,
}

impl SealedSpan {
    /// Creates a span of `segment`.
    pub fn new(segment: Arc<Segment>, head: SpanHead, runs: Runs) -> Self {
        Self { segment, head, runs, cap_ms: u64::MAX }
    }

    /// Limits the timestamps to `unix_ms`, at which something later was stored, and with them the expiry. A
    /// segment ends where the clock jumps, so the time from the span's first timestamp to its expiry is right.
    /// The span expires at most that long after `unix_ms`.
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
    /// Its spans, in the order of their offsets.
    pub spans: VecDeque<SealedSpan>,
    /// The offset after the last message that was ever stored.
    pub end: u64,
    /// The lowest timestamp that a later message may have, Unix milliseconds.
    pub last_ms: u64,
    /// When the first of the spans expires, Unix milliseconds.
    pub due_ms: u64,
}

impl Default for Past {
    fn default() -> Self {
        Self { spans: VecDeque::new(), end: 0, last_ms: 0, due_ms: u64::MAX }
    }
}

impl Past {
    /// Adds the next span.
    pub fn push(&mut self, span: SealedSpan) {
        if self.spans.back().is_some_and(|before| before.head.last_ms > span.head.first_ms) {
            self.cap(span.head.first_ms);
        }
        self.end = self.end.max(span.head.end);
        self.last_ms = span.head.last_ms;
        self.due_ms = self.due_ms.min(span.head.expiry_ms);
        self.spans.push_back(span);
    }

    /// Records that all its messages were stored at `unix_ms` or earlier. Returns whether timestamps said
    /// otherwise.
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

    /// Sorts its spans by offset. They come in the order of their segments' numbers, which can be another one
    /// after the number of shards has changed.
    pub fn sort(&mut self) {
        let mut spans: Vec<SealedSpan> = std::mem::take(&mut self.spans).into();
        spans.sort_by_key(|span| span.head.first);
        (self.last_ms, self.due_ms) = (0, u64::MAX);
        spans.into_iter().for_each(|span| self.push(span));
    }

    /// Releases the spans that have expired or whose segments are retired. Unless `is_end_told`, it keeps the
    /// last span, because nothing else says where the partition ends. Returns how many messages they held:
    /// expired ones, and others in retired segments.
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

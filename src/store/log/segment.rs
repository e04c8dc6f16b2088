//! Sealed segments, and what they hold of a partition.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::format::SegmentHeader;
use super::index::{Run, RunsAt, SpanHead};

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
    /// When its newest message was stored, Unix milliseconds.
    pub newest_ms: u64,
    /// When the last of its messages to end ends.
    pub expiry_ms: u64,
    /// Whether it is to be let go of although its messages have not expired: there are too many, or it is too old.
    pub is_retired: AtomicBool,
}

impl Segment {
    /// The segment of that header in that file, which holds that.
    pub fn new<'a>(place: u32, header: &SegmentHeader, heads: impl Iterator<Item = &'a SpanHead>) -> Self {
        let SegmentHeader { stamp, number, bytes } = *header;
        let (newest_ms, expiry_ms) = heads.fold((0, 0), |(newest, expiry): (u64, u64), head| {
            (newest.max(head.last_ms), expiry.max(head.expiry_ms))
        });
        Self { place, number, stamp, bytes, newest_ms, expiry_ms, is_retired: AtomicBool::new(false) }
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
}

/// A partition's messages in sealed segments.
#[derive(Clone, Debug)]
pub struct Past {
    /// In order of their offsets.
    pub spans: VecDeque<SealedSpan>,
    /// The offset behind the last message that was ever stored.
    pub end: u64,
    /// No later message may be older, Unix milliseconds.
    pub last_ms: u64,
    /// When the first of the spans expires.
    pub due_ms: u64,
}

impl Default for Past {
    fn default() -> Self {
        Self { spans: VecDeque::new(), end: 0, last_ms: 0, due_ms: u64::MAX }
    }
}

impl Past {
    /// The next span.
    pub fn push(&mut self, span: SealedSpan) {
        self.end = self.end.max(span.head.end);
        self.last_ms = self.last_ms.max(span.head.last_ms);
        self.due_ms = self.due_ms.min(span.head.expiry_ms);
        self.spans.push_back(span);
    }

    /// Lets go of the spans that have expired, or whose segments are to go, but for the last one where nobody else tells where
    /// the partition ends. How many messages they held: expired ones, and those whose segments were retired.
    pub fn expire(&mut self, unix_ms: u64, is_end_told: bool) -> (u64, u64) {
        let (last, mut index, mut expired, mut dropped) = (self.spans.len(), 0, 0, 0);
        let due_ms = |span: &SealedSpan| match span.segment.is_retired.load(Ordering::Relaxed) {
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

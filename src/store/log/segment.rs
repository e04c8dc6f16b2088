//! Sealed segments, and what they hold of a partition.

use std::collections::VecDeque;
use std::sync::Arc;

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
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// In order of their offsets.
    pub spans: VecDeque<SealedSpan>,
    /// The offset behind the last message that was ever stored.
    pub end: u64,
    /// No later message may be older, Unix milliseconds.
    pub last_ms: u64,
}

impl Past {
    /// The next span.
    pub fn push(&mut self, span: SealedSpan) {
        self.end = self.end.max(span.head.end);
        self.last_ms = self.last_ms.max(span.head.last_ms);
        self.spans.push_back(span);
    }
}

//! A partition as its shard knows it: what is sealed, what is in memory, and who waits for more.

use std::ops::Range;

use super::format::PartitionId;
use super::history::JUMP_MIN;
use super::index::{Run, SpanHead};
use super::journal::Active;
use super::segment::{Past, SealedSpan};
use super::usage::Account;
use crate::base::millis::UnixMillis;
use crate::base::units::Offset;
use crate::store::Tail;
use crate::store::waiting::Waiting;
use crate::store::window::Window;

/// The fewest offsets whose absence is remembered: a start leaves out that many at least.
const GAP_MIN: u64 = 1 << 20;

/// Gaps that are remembered of a partition, the newest of them: 16 bytes each, and nearly every partition has none.
const GAPS_MAX: usize = 64;

const _: () = assert!(GAP_MIN <= JUMP_MIN, "what a start leaves out is remembered");

/// See the module's page.
#[derive(Debug)]
pub(super) struct LogPartition<T> {
    pub past: Past,
    /// The newest messages. It ends where what is durable ends, never beyond `next`.
    pub window: Window,
    /// The offset of the next message that is written, never below `floor`.
    pub next: Offset,
    /// No message gets an offset below this: those may have been given out in another timeline.
    pub floor: Offset,
    /// Offsets that this start and earlier ones have left out, and those of messages that were gone by then, as far as they are many.
    pub gaps: Vec<Range<Offset>>,
    pub waiting: Waiting<T>,
    /// It is in `Partitions::woken`.
    pub is_woken: bool,
    /// A mark of its end is on its way.
    pub is_marking: bool,
    /// What it counts, where its project's storage is limited.
    pub account: Option<Account>,
}

/// Where a partition's messages are from an offset on.
#[derive(Debug)]
pub(super) enum Origin<'a> {
    /// In a sealed segment.
    Sealed(&'a SealedSpan),
    /// In the segment that is written.
    Active(&'a [Run]),
    /// In memory alone, or there is nothing.
    Tail,
}

impl<T> LogPartition<T> {
    /// One that leaves out `jump` offsets before its next message.
    pub(super) fn new(past: Past, jump: u64) -> Self {
        let end = past.end;
        let floor = end + jump;
        let gaps = gaps(&past, floor);
        Self {
            past,
            gaps,
            window: Window::new(end),
            next: floor,
            floor,
            waiting: Waiting::default(),
            is_woken: false,
            is_marking: false,
            account: None,
        }
    }

    /// Where it ends, with what the round that is being made holds. The offsets that a start leaves out lie behind it until a message
    /// is stored: a reader that went on behind them would stand beyond the end.
    pub(super) fn end(&self) -> Offset {
        if self.next == self.floor { self.window.end() } else { self.next }
    }

    /// Gives the offsets of `count` messages to what is written next. Returns the first.
    pub(super) fn give_offsets(&mut self, count: u32) -> Offset {
        let first = self.next;
        self.next += u64::from(count);
        first
    }

    /// Takes back the offsets of messages that are not stored: the next ones get them.
    pub(super) fn take_offsets_back(&mut self) {
        self.next = self.window.end().max(self.floor);
    }

    /// Whether its ends are in order.
    pub(super) fn is_sound(&self) -> bool {
        self.window.end() <= self.next && self.floor <= self.next
    }

    /// What it holds: in sealed segments, and in the one that is written.
    pub(super) fn heads<'a>(
        &'a self,
        id: PartitionId,
        active: Option<&'a Active>,
    ) -> impl Iterator<Item = &'a SpanHead> + Clone {
        let sealed = self.past.spans.iter().map(|span| &span.head);
        sealed.chain(active.and_then(|active| active.spans.get(&id)).map(|span| &span.head))
    }

    /// Where it ends, and how many messages are before that.
    pub(super) fn tail(&self) -> Tail {
        let end = self.window.end();
        Tail { end, stored: end.saturating_since(self.floor), gaps: self.gaps.clone() }
    }

    /// Where what begins there or later is first.
    pub(super) fn origin<'a>(
        &'a self,
        id: PartitionId,
        active: Option<&'a Active>,
        from: Offset,
    ) -> Origin<'a> {
        if self.window.covers(from) {
            return Origin::Tail;
        }
        let index = self.past.spans.partition_point(|span| span.head.end <= from);
        if let Some(span) = self.past.spans.get(index) {
            return Origin::Sealed(span);
        }
        match active.and_then(|active| active.spans.get(&id)) {
            Some(span) if span.head.end > from => Origin::Active(&span.runs),
            _ => Origin::Tail,
        }
    }

    /// An offset from which on every message was stored at that time or later, and before which none was, as far as is known
    /// without reading; or one from where on it is to be looked for.
    pub(super) fn since(&self, id: PartitionId, active: Option<&Active>, unix: UnixMillis) -> Since {
        if self.window.oldest().is_some_and(|oldest| oldest < unix) {
            return Since::At(self.window.since(unix));
        }
        match self.heads(id, active).find(|head| head.messages > 0 && head.newest >= unix) {
            Some(head) if head.oldest >= unix => Since::At(head.first),
            Some(head) => Since::From(head.first),
            None => Since::At(self.window.since(unix)),
        }
    }
}

/// The offsets before `floor` under which nothing is stored, as far as they are many.
fn gaps(past: &Past, floor: Offset) -> Vec<Range<Offset>> {
    let mut gaps = Vec::new();
    let mut end = Offset::ZERO;
    for (first, next) in
        past.spans.iter().map(|span| (span.head.first, span.head.end)).chain([(floor, floor)])
    {
        if first.saturating_since(end) >= GAP_MIN {
            gaps.push(end..first);
        }
        end = end.max(next);
    }
    gaps.drain(..gaps.len().saturating_sub(GAPS_MAX));
    gaps
}

/// See [`LogPartition::since`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// There.
    At(Offset),
    /// There or later: to be read.
    From(Offset),
}

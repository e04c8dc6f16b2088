//! A partition, as its shard knows it: its sealed spans, its newest messages in memory, and the fetches that
//! wait for more.

use std::ops::Range;

use super::format::PartitionId;
use super::history::JUMP_MIN;
use super::index::{Run, SpanHead};
use super::journal::Active;
use super::segment::{Past, SealedSpan};
use super::usage::StorageAccount;
use crate::base::millis::UnixMillis;
use crate::base::units::Offset;
use crate::store::Tail;
use crate::store::stock::{Holding, Portion, Stock};
use crate::store::waiting::Waiting;
use crate::store::window::Window;

/// The smallest gap between offsets that is remembered. A start that skips offsets skips more than this.
pub(super) const GAP_MIN: u64 = 1 << 20;

/// The most gaps that are remembered for a partition: the newest ones, 16 bytes each. Most partitions have
/// none.
const GAPS_MAX: usize = 64;

const _: () = assert!(GAP_MIN <= JUMP_MIN, "the offsets that a start skips are remembered");

/// A partition of the shard.
#[derive(Debug)]
pub(super) struct LogPartition<T> {
    pub past: Past,
    /// The newest messages in memory. It ends where the durable messages end, never beyond `next`.
    pub window: Window,
    /// The offset of the next message that is written, never below `floor`.
    pub next: Offset,
    /// No new message gets an offset below this, because another timeline may have given those out.
    pub floor: Offset,
    /// Large ranges of offsets without messages: skipped by this start or earlier ones, or of messages that
    /// had been deleted by this start.
    pub gaps: Vec<Range<Offset>>,
    pub waiting: Waiting<T>,
    /// Whether it is in `Partitions::woken`.
    pub is_woken: bool,
    /// Whether a mark of its end waits to be written.
    pub is_marking: bool,
    /// Its share of its project's storage, if that is limited.
    pub account: Option<StorageAccount>,
}

/// The source of a partition's messages from an offset on.
#[derive(Debug)]
pub(super) enum Origin<'a> {
    /// A sealed segment.
    Sealed(&'a SealedSpan),
    /// The segment that is being written.
    Active(&'a [Run]),
    /// Memory, or there are no messages.
    Tail,
}

impl<T> LogPartition<T> {
    /// Creates a partition that skips `jump` offsets before its next message.
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

    /// Returns its end, including the round that is being made. Offsets that a start skips come after this
    /// end until a message is stored: otherwise a reader would wait at an offset beyond the end.
    pub(super) fn end(&self) -> Offset {
        if self.next == self.floor { self.window.end() } else { self.next }
    }

    /// Assigns offsets to `count` messages that are written next. Returns the first.
    pub(super) fn give_offsets(&mut self, count: u32) -> Offset {
        let first = self.next;
        self.next += u64::from(count);
        first
    }

    /// Takes back the offsets of messages that were not stored. The next messages get them.
    pub(super) fn take_offsets_back(&mut self) {
        self.next = self.window.end().max(self.floor);
    }

    /// Returns whether its ends are in order.
    pub(super) fn is_sound(&self) -> bool {
        self.window.end() <= self.next && self.floor <= self.next
    }

    /// Returns what it holds in sealed segments and in the one that is being written.
    pub(super) fn heads<'a>(
        &'a self,
        id: PartitionId,
        active: Option<&'a Active>,
    ) -> impl Iterator<Item = &'a SpanHead> + Clone {
        let sealed = self.past.spans.iter().map(|span| &span.head);
        sealed.chain(active.and_then(|active| active.spans.get(&id)).map(|span| &span.head))
    }

    /// Returns what it holds from an offset on.
    pub(super) fn holding(
        &self,
        id: PartitionId,
        active: Option<&Active>,
        from: Offset,
        unix: UnixMillis,
    ) -> Holding {
        let end = self.window.end();
        let first = self.heads(id, active).find(|head| head.messages > 0).map_or(end, |head| head.first);
        let mut holding = Holding { stored: first..end, ..Holding::default() };
        self.stocks(id, active, from).for_each(|stock| stock.add_to(&mut holding, from, unix));
        for (offset, stored) in [&mut holding.oldest, &mut holding.newest].into_iter().flatten() {
            *stored = stored.or_else(|| self.window.stored_at(*offset));
        }
        holding
    }

    /// Calls `each` with what is stored in a range.
    pub(super) fn each_portion(
        &self,
        id: PartitionId,
        active: Option<&Active>,
        range: &Range<Offset>,
        each: &mut dyn FnMut(Portion),
    ) {
        self.stocks(id, active, range.start).for_each(|stock| stock.each(range, each));
    }

    /// Returns the stocks of its spans from an offset on, the one that is being written included.
    fn stocks<'a>(
        &'a self,
        id: PartitionId,
        active: Option<&'a Active>,
        from: Offset,
    ) -> impl Iterator<Item = &'a Stock> {
        let begins = self.past.spans.partition_point(|span| span.head.end <= from);
        let sealed = self.past.spans.range(begins..).map(|span| &span.stock);
        sealed.chain(active.and_then(|active| active.spans.get(&id)).map(|span| &span.stock))
    }

    /// Returns its end, and the number of messages before it.
    pub(super) fn tail(&self) -> Tail {
        let end = self.window.end();
        Tail { end, stored: end.saturating_since(self.floor), gaps: self.gaps.clone() }
    }

    /// Returns the source of the first message at offset `from` or later.
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

    /// Returns the offset of the first message that was stored at `unix` or later, if it is known without
    /// reading. Otherwise returns an offset from which to search for it.
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

/// Returns the large ranges of offsets below `floor` at which nothing is stored.
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

/// The result of [`LogPartition::since`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// The message has this offset.
    At(Offset),
    /// The message has this offset or a later one; finding it takes a read.
    From(Offset),
}

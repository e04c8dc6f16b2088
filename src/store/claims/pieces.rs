//! The unsettled messages of a partition below the offset from which nothing was given out yet.
//!
//! A piece is a stretch of messages with the same lease, count and times. Offsets without a piece are settled.
//! So memory follows what is outstanding, never the backlog: a claim of 1,000 messages is one piece.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::base::claim::LeaseId;
use crate::base::millis::Millis;
use crate::base::units::Offset;

/// The state of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is leased until this time.
    Held(Millis),
    /// It can be given out from this time on.
    Later(Millis),
    /// It can be given out.
    Free,
}

/// A stretch of messages. All times are by the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The number of messages.
    pub length: u32,
    /// How often they were given out.
    pub count: u32,
    /// The last lease that they were in. Only that lease can settle them. 0: none yet.
    pub lease: LeaseId,
    /// Their state.
    pub phase: Phase,
    /// Until when they live whatever their TTL says; 0 if they were never given out.
    pub lives_until: Millis,
}

/// The pieces of a partition, and their indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    of: BTreeMap<Offset, Piece>,
    /// The pieces that are free.
    free: BTreeSet<Offset>,
    /// The other pieces, by the time at which they become free.
    timers: BTreeSet<(Millis, Offset)>,
    /// The number of messages that are held, and of those that are free.
    held: u64,
    free_messages: u64,
    /// The number of messages that were given out at least once.
    given: u64,
}

impl Pieces {
    /// Returns the number of pieces.
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// Returns the number of leased messages.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Returns the number of messages that can be given out.
    pub(super) fn free_messages(&self) -> u64 {
        self.free_messages
    }

    /// Returns the number of unsettled messages that were given out at least once.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// Returns the offset of the first unsettled message.
    pub(super) fn first(&self) -> Option<Offset> {
        self.of.first_key_value().map(|(first, _)| *first)
    }

    /// Returns the offset of the first message that can be given out.
    pub(super) fn first_free(&self) -> Option<Offset> {
        self.free.first().copied()
    }

    /// Returns the free pieces, in order.
    pub(super) fn free(&self) -> impl Iterator<Item = (Range<Offset>, &Piece)> {
        self.free.iter().filter_map(|first| {
            let piece = self.of.get(first)?;
            Some((*first..*first + u64::from(piece.length), piece))
        })
    }

    /// Returns when the next piece becomes free.
    pub(super) fn next_timer(&self) -> Option<Millis> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Returns all pieces, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = (Range<Offset>, &Piece)> {
        self.of.iter().map(|(first, piece)| (*first..*first + u64::from(piece.length), piece))
    }

    /// Returns the pieces that overlap a range, in order, each with the part that does.
    pub(super) fn overlapping(&self, range: Range<Offset>) -> impl Iterator<Item = (Range<Offset>, &Piece)> {
        let begins = self.of.range(..=range.start).next_back().map_or(range.start, |(first, _)| *first);
        let pieces = self.of.range(begins..range.end.max(begins));
        pieces.filter_map(move |(first, piece)| {
            let part = range.start.max(*first)..range.end.min(*first + u64::from(piece.length));
            (part.start < part.end).then_some((part, piece))
        })
    }

    /// Adds a piece. Nothing else may lie at its offsets.
    pub(super) fn insert(&mut self, first: Offset, piece: Piece) {
        debug_assert!(piece.length > 0, "an empty piece at {first}");
        debug_assert!(
            self.overlapping(first..first + u64::from(piece.length)).next().is_none(),
            "{piece:?} at {first} overlaps another one"
        );
        self.count(&piece, true);
        match piece.phase {
            Phase::Held(at) | Phase::Later(at) => self.timers.insert((at, first)),
            Phase::Free => self.free.insert(first),
        };
        self.of.insert(first, piece);
    }

    fn remove(&mut self, first: Offset) -> Option<Piece> {
        let piece = self.of.remove(&first)?;
        self.count(&piece, false);
        match piece.phase {
            Phase::Held(at) | Phase::Later(at) => self.timers.remove(&(at, first)),
            Phase::Free => self.free.remove(&first),
        };
        Some(piece)
    }

    /// Counts the messages of a piece that is added or removed.
    fn count(&mut self, piece: &Piece, is_added: bool) {
        let length = u64::from(piece.length);
        let add = |to: &mut u64| if is_added { *to += length } else { *to -= length };
        match piece.phase {
            Phase::Held(_) => add(&mut self.held),
            Phase::Free => add(&mut self.free_messages),
            Phase::Later(_) => {}
        }
        if piece.lease != LeaseId(0) {
            add(&mut self.given);
        }
    }

    /// Takes the messages of a range out of the pieces for which `is_meant` returns true. Returns what was taken,
    /// in order.
    pub(super) fn take(
        &mut self,
        range: Range<Offset>,
        is_meant: impl Fn(&Piece) -> bool,
    ) -> Vec<(Offset, Piece)> {
        let meant = self.overlapping(range).filter(|(_, piece)| is_meant(piece));
        let parts: Vec<Range<Offset>> = meant.map(|(part, _)| part).collect();
        parts.into_iter().filter_map(|part| self.cut(part)).collect()
    }

    /// Takes out the messages of `part`, which lies within one piece.
    fn cut(&mut self, part: Range<Offset>) -> Option<(Offset, Piece)> {
        let (first, piece) =
            self.of.range(..=part.start).next_back().map(|(first, piece)| (*first, *piece))?;
        let end = first + u64::from(piece.length);
        let with_length = |length: u64| Piece { length: u32::try_from(length).unwrap_or(u32::MAX), ..piece };
        if part.start == first {
            self.remove(first);
        } else {
            // The beginning keeps its place in the indexes.
            self.count(&with_length(end.since(part.start)), false);
            if let Some(begin) = self.of.get_mut(&first) {
                *begin = with_length(part.start.since(first));
            }
        }
        if part.end < end {
            self.insert(part.end, with_length(end.since(part.end)));
        }
        Some((part.start, with_length(part.end.since(part.start))))
    }

    /// Frees the pieces whose time has come. Returns how many messages were leased.
    pub(super) fn expire(&mut self, now: Millis) -> u64 {
        let mut leased = 0;
        while let Some((at, first)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, first));
            let Some(piece) = self.remove(first) else { continue };
            if matches!(piece.phase, Phase::Held(_)) {
                leased += u64::from(piece.length);
            }
            self.insert(first, Piece { phase: Phase::Free, ..piece });
        }
        leased
    }

    /// Returns whether the indexes match the pieces.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        let mut other = Self::default();
        for (range, piece) in self.all() {
            other.insert(range.start, *piece);
        }
        other == *self
    }
}

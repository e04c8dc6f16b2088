//! The unsettled messages of a partition below the offset from which nothing was given out yet.
//!
//! A piece is a stretch of messages with the same lease, count and times. Offsets without a piece are settled.
//! So memory follows what is outstanding, never the backlog: a claim of 1,000 messages is one piece.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::{Bound, Range};

use crate::base::batch::StoredBatch;
use crate::base::claim::LeaseId;
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::units::Offset;
use crate::store::stock::{Minute, part_of};

/// Timers that have no effect are dropped once there are more timers than the first number, and more for each piece than
/// the second.
const TIMERS_MIN: usize = 64;
const TIMERS_MOST: usize = 4;

/// The state of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is leased until this time.
    Held(Millis),
    /// It can be given out from this time on.
    Later(Millis),
    /// It can be given out.
    Free,
    /// The move with this number takes it to another queue. It is not given out any more.
    Moving(u64),
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
    /// When their TTL is over.
    pub expires: Minute,
    /// Their size in stored form, in bytes.
    pub bytes: u64,
    /// Whether they have expired, as far as is known. Then they do not count, although they may still be stored.
    pub is_over: bool,
    /// Whether they were released or returned since they were last leased. If not, the time of their lease was over.
    pub is_released: bool,
}

/// Counts of messages that have not expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Messages that can be given out.
    pub free: u64,
    /// Messages that are leased.
    pub held: u64,
    /// Messages that can be given out later.
    pub later: u64,
    /// The size of all of these, in bytes.
    pub bytes: u64,
}

impl Piece {
    /// Returns when its messages of a batch expire, if a lease has made them live longer than their TTL.
    pub(super) fn prolonged(&self, now: Now, stored: &StoredBatch) -> Option<UnixMillis> {
        let until = now.unix + self.lives_until.since(now.mono);
        (self.lives_until > now.mono && until > stored.expiry()).then_some(until)
    }

    /// Returns the offset behind the last message of the piece at `first`.
    fn end(&self, first: Offset) -> Offset {
        first.saturating_add(u64::from(self.length))
    }

    /// Returns the part from one position in the piece to another. Its messages have the mean size of all.
    fn part(&self, from: u64, to: u64) -> Self {
        let below = |count| part_of(self.bytes, count, self.length.into());
        let length = u32::try_from(to - from).unwrap_or(u32::MAX);
        Self { length, bytes: below(to) - below(from), ..*self }
    }
}

/// The pieces of a partition, and their indexes.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    of: BTreeMap<Offset, Piece>,
    /// The pieces that are free.
    free: BTreeSet<Offset>,
    /// The free pieces that were given out before, by how often.
    worn: BTreeSet<(u32, Offset)>,
    /// The other pieces, by the time at which they become free. Entries of pieces that have changed since are left, and
    /// have no effect.
    timers: BinaryHeap<Reverse<(Millis, Offset)>>,
    /// The pieces that are not held, by the minute in which they may have expired. Entries may have no effect, as those of
    /// the timers.
    ends: BinaryHeap<Reverse<(Minute, Offset)>>,
    tally: Tally,
    /// The number of messages that are free, whether they have expired or not.
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
        self.tally.held
    }

    /// Returns the counts of messages that have not expired.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// Returns the offsets of the first and the last message that has not expired.
    pub(super) fn live_ends(&self) -> Option<(Offset, Offset)> {
        let first = self.of.iter().find(|(_, piece)| !piece.is_over)?;
        let (last, piece) = self.of.iter().rev().find(|(_, piece)| !piece.is_over)?;
        Some((*first.0, piece.end(*last).previous()))
    }

    /// Returns the pieces that overlap a range, in order, each with all of its offsets.
    pub(super) fn covering(&self, range: &Range<Offset>) -> impl Iterator<Item = (Range<Offset>, &Piece)> {
        let before = self.of.range(..range.start).next_back();
        let before = before.filter(|(first, piece)| piece.end(**first) > range.start);
        let rest = self.of.range(range.start..range.end.max(range.start));
        before.into_iter().chain(rest).map(|(first, piece)| (*first..piece.end(*first), piece))
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
            Some((*first..piece.end(*first), piece))
        })
    }

    /// Returns whether free pieces were given out before.
    #[inline]
    pub(super) fn has_worn(&self) -> bool {
        !self.worn.is_empty()
    }

    /// Returns the offsets of the free pieces that were given out at least `count` times and have not expired.
    pub(super) fn worn(&self, count: u32) -> Vec<Range<Offset>> {
        let worn = self.worn.range((count, Offset::ZERO)..).filter_map(|(_, first)| {
            let piece = self.of.get(first).filter(|piece| !piece.is_over)?;
            Some(*first..piece.end(*first))
        });
        let mut offsets: Vec<_> = worn.collect();
        offsets.sort_unstable_by_key(|range| range.start);
        offsets
    }

    /// Returns when the next piece becomes free, or an earlier time.
    pub(super) fn next_timer(&self) -> Option<Millis> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Returns all pieces, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = (Range<Offset>, &Piece)> {
        self.of.iter().map(|(first, piece)| (*first..piece.end(*first), piece))
    }

    /// Returns the pieces that overlap a range, in order, each with the part that does.
    pub(super) fn overlapping(&self, range: Range<Offset>) -> impl Iterator<Item = (Range<Offset>, &Piece)> {
        let is_any = range.start < range.end;
        let first = self.of.range(..=range.start).next_back().filter(|_| is_any);
        let covers = first.is_some_and(|(first, piece)| piece.end(*first) >= range.end);
        // Most ranges lie within one piece.
        let rest = (is_any && !covers && range.end > range.start.saturating_add(1))
            .then(|| self.of.range((Bound::Excluded(range.start), Bound::Excluded(range.end))));
        first.into_iter().chain(rest.into_iter().flatten()).filter_map(move |(first, piece)| {
            let part = range.start.max(*first)..range.end.min(piece.end(*first));
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
            Phase::Held(at) | Phase::Later(at) => self.timers.push(Reverse((at, first))),
            Phase::Free => {
                self.free.insert(first);
                if piece.count > 0 {
                    self.worn.insert((piece.count, first));
                }
            }
            Phase::Moving(_) => {}
        }
        if may_end(&piece) {
            self.ends.push(Reverse((piece.expires, first)));
        }
        self.of.insert(first, piece);
        if self.timers.len().max(self.ends.len()) > TIMERS_MIN.max(TIMERS_MOST * self.of.len()) {
            self.clean_timers();
        }
    }

    /// Drops the timers that have no effect.
    #[cold]
    fn clean_timers(&mut self) {
        let timers = self.of.iter().filter_map(|(first, piece)| match piece.phase {
            Phase::Held(at) | Phase::Later(at) => Some(Reverse((at, *first))),
            Phase::Free | Phase::Moving(_) => None,
        });
        self.timers = timers.collect();
        let ends = self.of.iter().filter(|(_, piece)| may_end(piece));
        self.ends = ends.map(|(first, piece)| Reverse((piece.expires, *first))).collect();
    }

    fn remove(&mut self, first: Offset) -> Option<Piece> {
        let piece = self.of.remove(&first)?;
        self.count(&piece, false);
        if piece.phase == Phase::Free {
            self.free.remove(&first);
            if piece.count > 0 {
                self.worn.remove(&(piece.count, first));
            }
        }
        Some(piece)
    }

    /// Counts the messages of a piece that is added or removed.
    fn count(&mut self, piece: &Piece, is_added: bool) {
        let length = u64::from(piece.length);
        let add = |to: &mut u64| if is_added { *to += length } else { *to -= length };
        if piece.phase == Phase::Free {
            add(&mut self.free_messages);
        }
        if piece.lease != LeaseId(0) || matches!(piece.phase, Phase::Moving(_)) {
            add(&mut self.given);
        }
        if piece.is_over {
            return;
        }
        match piece.phase {
            Phase::Held(_) => add(&mut self.tally.held),
            Phase::Free => add(&mut self.tally.free),
            Phase::Later(_) | Phase::Moving(_) => add(&mut self.tally.later),
        }
        let bytes = &mut self.tally.bytes;
        *bytes = if is_added { *bytes + piece.bytes } else { *bytes - piece.bytes };
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
        let (first, begin) = self.of.range_mut(..=part.start).next_back()?;
        let (first, piece) = (*first, *begin);
        let (from, to, end) = (part.start.since(first), part.end.since(first), piece.length.into());
        if from == 0 {
            self.remove(first);
        } else {
            // The beginning keeps its place in the indexes.
            *begin = piece.part(0, from);
            self.count(&piece.part(from, end), false);
        }
        if to < end {
            self.insert(part.end, piece.part(to, end));
        }
        Some((part.start, piece.part(from, to)))
    }

    /// Frees the pieces whose time has come. Returns how many messages were leased.
    pub(super) fn expire(&mut self, now: Millis) -> u64 {
        let mut leased = 0;
        while let Some(Reverse((at, first))) =
            self.timers.peek().copied().filter(|Reverse((at, _))| *at <= now)
        {
            self.timers.pop();
            let Some(piece) = self.of.get(&first) else { continue };
            let length = u64::from(piece.length);
            match piece.phase {
                Phase::Held(until) if until == at => leased += length,
                Phase::Later(from) if from == at => {}
                _ => continue,
            }
            if let Some(piece) = self.remove(first) {
                self.insert(first, Piece { phase: Phase::Free, ..piece });
            }
        }
        leased
    }

    /// Stops counting the messages that are not held and have expired.
    pub(super) fn end_lives(&mut self, now: Now) {
        while let Some(Reverse((minute, first))) =
            self.ends.peek().copied().filter(|Reverse((minute, _))| minute.has_begun(now.unix))
        {
            self.ends.pop();
            let Some(piece) = self.of.get(&first).copied() else { continue };
            let until = now.unix + piece.lives_until.saturating_sub(now.mono);
            if !may_end(&piece) || !piece.expires.has_begun(now.unix) {
                continue;
            }
            if until > now.unix {
                self.ends.push(Reverse((Minute::from(until).max(Minute(minute.0 + 1)), first)));
                continue;
            }
            self.count(&piece, false);
            let piece = Piece { is_over: true, ..piece };
            self.count(&piece, true);
            self.of.insert(first, piece);
        }
    }

    /// Keeps free messages of a range back until a time. They do not count if they are over.
    pub(super) fn postpone(&mut self, range: Range<Offset>, until: Millis, is_over: bool) {
        for (first, piece) in self.take(range, |piece| piece.phase == Phase::Free) {
            let is_over = is_over || piece.is_over;
            self.insert(first, Piece { phase: Phase::Later(until), is_over, ..piece });
        }
    }

    /// Takes over the times at which leases end, and delays, from other pieces of the same messages and leases.
    pub(super) fn adopt_times(&mut self, of: &Self) {
        for (range, other) in of.all().filter(|(_, other)| !matches!(other.phase, Phase::Moving(_))) {
            let is_same = |piece: &Piece| {
                let is_phase = std::mem::discriminant(&piece.phase) == std::mem::discriminant(&other.phase);
                piece.lease == other.lease && is_phase
            };
            for (first, piece) in self.take(range, is_same) {
                self.insert(first, Piece { phase: other.phase, lives_until: other.lives_until, ..piece });
            }
        }
    }

    /// Returns whether the indexes match the pieces.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        let mut other = Self::default();
        for (range, piece) in self.all() {
            other.insert(range.start, *piece);
        }
        let counts = |pieces: &Self| (pieces.tally, pieces.free_messages, pieces.given);
        let timers: BTreeSet<_> = self.timers.iter().collect();
        other.free == self.free
            && other.worn == self.worn
            && counts(&other) == counts(self)
            && other.timers.iter().all(|timer| timers.contains(timer))
            && self.timers.len() <= TIMERS_MIN.max(TIMERS_MOST * self.of.len()) + 1
    }
}

/// Returns whether a piece stops counting when its TTL is over.
fn may_end(piece: &Piece) -> bool {
    !matches!(piece.phase, Phase::Held(_) | Phase::Moving(_))
        && !piece.is_over
        && piece.expires != Minute::UNKNOWN
}

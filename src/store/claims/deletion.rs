//! Deletes messages by their offsets, the oldest ones, and all of them.

use std::ops::Range;

use super::ahead::Room;
use super::inner::Inner;
use super::keeper::{Ask, By, Keeper};
use super::ledger::PIECES_MAX;
use super::notes::Answer;
use super::out::Out;
use super::pieces::{Phase, Piece};
use super::ranges::messages;
use super::record::{Passed, Record};
use crate::base::claim::{Granted, Terms};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::{Manage, Managed, Only, Removed};
use crate::base::names::QueueName;
use crate::base::units::Offset;
use crate::store::{Asker, Completion, Portion, Store};

/// What a client reads that wants to move messages to where they are.
pub const OWN_QUEUE: &str = "messages cannot be moved to their own queue";

/// What a client reads whose deletion would leave too many gaps.
pub const TOO_SCATTERED: &str = "too many messages between deleted ones are left in this partition; process or delete the oldest ones first";

impl<T: Asker> Keeper<T> {
    /// Handles a request about single messages, or about all of them. The ledger must be known.
    pub(super) fn manage(
        &mut self,
        now: Now,
        token: T::Manage,
        what: Manage,
        store: &mut impl Store<Inner<T>>,
        out: &mut Out<T>,
    ) {
        match what {
            Manage::Stats => self.tell_stats(now, token, false, store, out),
            Manage::Find(offsets) => self.find(now, token, offsets, out),
            Manage::Remove { offsets, only } => match self.remove(now, &offsets, only, store, out) {
                Ok(removed) => {
                    let answer = Managed::Removed(removed);
                    self.notes.answer(Answer::Managed { token, answer });
                }
                Err(fault) => out.completions.push_back(Completion::Managed { token, result: Err(fault) }),
            },
            Manage::Pop { messages_max, bytes_max } => {
                // What was stored just now must be seen, so do not rest on a fetch that waits, or that has failed.
                self.ahead.retry();
                if self.cancel_ahead(out) {
                    self.ahead.hurry();
                }
                let room = Room { messages: u64::from(messages_max), bytes: bytes_max };
                self.asks.push_back(Ask { by: By::Pop { token }, room });
            }
            Manage::Purge => {
                let answer = Managed::Purged(self.purge(now, store, out));
                self.notes.answer(Answer::Managed { token, answer });
            }
            Manage::Redrive { to } => match self.redrive_all(now, to, store, out) {
                Ok(moving) => self.notes.answer(Answer::Managed { token, answer: Managed::Redriven(moving) }),
                Err(fault) => out.completions.push_back(Completion::Managed { token, result: Err(fault) }),
            },
            Manage::Claim(client, lease) => self.look_at(now, token, client, lease, out),
            Manage::Renew { client, lease, ttl_secs, grace_secs } => {
                self.renew(now, token, lease, &Terms { client, ttl_secs, grace_secs }, out);
            }
            Manage::Release(client, lease) => self.release(now, token, client, lease, out),
        }
    }

    /// Deletes the oldest messages that can be given out. Returns them, or `None` while they are being read.
    pub(super) fn pop(&mut self, now: Now, room: Room, out: &mut Out<T>) -> Option<Vec<Granted>> {
        // Read first, so that the messages of several places can go in one note.
        if self.ahead.lacks(room.messages.saturating_sub(self.ledger.pieces().free_messages())) {
            self.read_ahead(out);
            return None;
        }
        let (mut left, mut popped) = (room, Vec::new());
        while left.messages > 0 && left.bytes > 0 {
            let Some(choice) = self.choose(now, left, true, out) else {
                if popped.is_empty() {
                    return None;
                }
                break;
            };
            if choice.is_empty() {
                break;
            }
            let pieces = choice.pieces();
            let size = pieces.iter().map(|piece| piece.bytes).sum::<u64>();
            left.messages = left.messages.saturating_sub(messages(pieces.iter().map(|piece| &piece.offsets)));
            left.bytes = left.bytes.saturating_sub(usize::try_from(size).unwrap_or(usize::MAX));
            let offsets = pieces.into_iter().map(|piece| piece.offsets).collect();
            self.apply(now, Record::Delete { next: self.ledger.next(), offsets }, &mut out.counters);
            popped.extend(choice.runs);
        }
        Some(popped)
    }

    /// Deletes messages. Returns what becomes of each.
    fn remove(
        &mut self,
        now: Now,
        offsets: &[Offset],
        only: Only,
        store: &mut impl Store<Inner<T>>,
        out: &mut Out<T>,
    ) -> Result<Vec<Removed>, StoreFault> {
        debug_assert!(offsets.is_sorted(), "{offsets:?}");
        out.counters.expired += self.ledger.expire(now.mono);
        self.ledger.end_lives(now);
        let next = self.ledger.next();
        let mut portions: Vec<Portion> = Vec::new();
        if let Some(last) = offsets.last().filter(|last| **last >= next) {
            let range = next..last.saturating_add(1);
            store.each_portion(self.id.partition, range, &mut |portion| {
                if portions.len() <= PIECES_MAX {
                    portions.push(portion);
                }
            });
        }
        if portions.len() > PIECES_MAX {
            return Err(StoreFault::Unavailable(TOO_SCATTERED));
        }
        let (mut removed, mut deleted, mut splits) = (Vec::with_capacity(offsets.len()), Vec::new(), 0);
        for offset in offsets {
            let result = if *offset >= next {
                state_of_new(now, &portions, *offset, only)
            } else {
                let end = offset.saturating_add(1);
                match self.ledger.pieces().overlapping(*offset..end).next() {
                    Some((_, piece)) if !piece.is_over => self.state_of(piece, only),
                    _ => Removed::Absent,
                }
            };
            removed.push(result);
            if result == Removed::Yes {
                splits += 1;
                push_offset(&mut deleted, *offset);
            }
        }
        let Some(end) = deleted.last().map(|range: &Range<Offset>| range.end) else { return Ok(removed) };
        let passed = if end > next { passed(now, &portions, next..end) } else { Vec::new() };
        let added = passed.len() + splits;
        let before = self.ledger.pieces().len();
        let most = if self.is_crowded { before } else { PIECES_MAX };
        if before + added > most && self.pieces_after(&deleted, &passed) > most {
            return Err(StoreFault::Unavailable(TOO_SCATTERED));
        }
        self.delete(now, passed, deleted, out);
        Ok(removed)
    }

    /// Moves all messages that can be claimed now to another queue, or as many of them as the ledger has room for. Returns
    /// how many are being moved.
    fn redrive_all(
        &mut self,
        now: Now,
        to: Option<QueueName>,
        store: &mut impl Store<Inner<T>>,
        out: &mut Out<T>,
    ) -> Result<u64, StoreFault> {
        if to.as_ref().is_some_and(|to| self.is_named(to, out)) {
            return Err(StoreFault::Unsupported(OWN_QUEUE));
        }
        out.counters.expired += self.ledger.expire(now.mono);
        self.ledger.end_lives(now);
        let (next, mut portions) = (self.ledger.next(), Vec::new());
        store.each_portion(self.id.partition, next..Offset(u64::MAX), &mut |portion| portions.push(portion));
        if let Some(end) = portions.last().map(|last: &Portion| last.end) {
            let mut pieces = passed(now, &portions, next..end);
            pieces.truncate(PIECES_MAX.saturating_sub(self.ledger.pieces().len()));
            if !pieces.is_empty() {
                self.apply(now, Record::Pass { at: now.unix, next, pieces }, &mut out.counters);
                self.ahead.skip(next, self.ledger.next());
                self.ledger.end_lives(now);
            }
        }
        Ok(self.redrive(now, to, out))
    }

    /// Returns what becomes of a message that was given out or passed over, if it is to be deleted.
    fn state_of(&self, piece: &Piece, only: Only) -> Removed {
        let is_held = matches!(piece.phase, Phase::Held(_));
        match only {
            Only::All => Removed::Yes,
            Only::In(client, lease) if self.ledger.is_last(piece, client, lease) => Removed::Yes,
            _ if is_held => Removed::Claimed,
            Only::Unclaimed => Removed::Yes,
            Only::In(..) => Removed::Unclaimed,
        }
    }

    /// Returns how many pieces a deletion leaves.
    fn pieces_after(&self, deleted: &[Range<Offset>], passed: &[Passed]) -> usize {
        let pieces = self.ledger.pieces();
        let (mut after, next) = (pieces.len() + passed.len(), self.ledger.next());
        for range in deleted {
            if range.start >= next {
                after += 1;
                continue;
            }
            for (whole, _) in pieces.covering(range) {
                let part = whole.start.max(range.start)..whole.end.min(range.end);
                let is_begun = part.start > whole.start;
                after = (after + usize::from(is_begun) + usize::from(part.end < whole.end)).saturating_sub(1);
            }
        }
        after
    }

    /// Deletes messages, after others up to the last of them were passed over.
    pub(super) fn delete(
        &mut self,
        now: Now,
        passed: Vec<Passed>,
        deleted: Vec<Range<Offset>>,
        out: &mut Out<T>,
    ) {
        let next = self.ledger.next();
        if !passed.is_empty() {
            self.apply(now, Record::Pass { at: now.unix, next, pieces: passed }, &mut out.counters);
        }
        let delete = Record::Delete { next: self.ledger.next(), offsets: deleted };
        self.apply(now, delete, &mut out.counters);
        self.ahead.skip(next, self.ledger.next());
    }

    /// Deletes everything that is stored. Returns the number of messages.
    fn purge(&mut self, now: Now, store: &mut impl Store<Inner<T>>, out: &mut Out<T>) -> u64 {
        let (stats, holding) = self.count(now, store, out);
        let next = self.ledger.next();
        let through = next.max(holding.stored.end);
        if self.ledger.floor() < through {
            self.apply(now, Record::Purge { through }, &mut out.counters);
            self.ahead.skip(next, through);
            self.notes.shrink();
        }
        stats.free + stats.claimed + stats.delayed
    }
}

/// Returns what becomes of a message that was not given out yet, if it is to be deleted.
fn state_of_new(now: Now, portions: &[Portion], offset: Offset, only: Only) -> Removed {
    let index = portions.partition_point(|portion| portion.end <= offset);
    let portion = portions.get(index).filter(|portion| portion.first <= offset);
    match (portion, only) {
        (Some(portion), _) if portion.expires.has_begun(now.unix) => Removed::Absent,
        (Some(_), Only::All | Only::Unclaimed) => Removed::Yes,
        (Some(_), Only::In(..)) => Removed::Unclaimed,
        (None, _) => Removed::Absent,
    }
}

/// Returns the messages of a range that are passed over.
pub(super) fn passed(now: Now, portions: &[Portion], range: Range<Offset>) -> Vec<Passed> {
    let parts = portions.iter().filter_map(|portion| portion.part(&range));
    parts
        .map(|Portion { first, end, visible, expires, bytes, .. }| {
            let wait = visible.since(now.unix.min(visible));
            Passed { offsets: first..end, wait, expires, bytes }
        })
        .collect()
}

/// Adds an offset to ascending ranges.
fn push_offset(ranges: &mut Vec<Range<Offset>>, offset: Offset) {
    match ranges.last_mut() {
        Some(last) if last.contains(&offset) => {}
        Some(last) if last.end == offset => last.end = offset + 1,
        _ => ranges.push(offset..offset + 1),
    }
}

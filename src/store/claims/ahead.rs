//! Messages that are read ahead of the ledger, so that a claim need not wait for a read, and the choice of those
//! that a claim gets.

use std::collections::VecDeque;
use std::ops::Range;

use super::ledger::Ledger;
use super::record::{Given, Passed};
use crate::base::batch::{Fetched, StoredBatch};
use crate::base::claim::{Granted, Terms};
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::units::Offset;
use crate::store::stock::{Minute, part_of};

/// The size in bytes at which no more is read ahead of a partition. The batches are shared with the store where
/// they are its newest.
pub const AHEAD_BYTES: usize = 256 << 10;

/// Delayed batches whose times differ by at most this are one piece.
const DELAYS_JOINED: Millis = Millis::new(100);

/// What a claim may get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub messages: u64,
    pub bytes: usize,
}

/// The messages chosen for a claim.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub runs: Vec<Granted>,
    messages: u64,
    bytes: usize,
}

/// Free messages that cannot be given out yet.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub offsets: Range<Offset>,
    pub until: Millis,
    /// Whether they have expired.
    pub is_over: bool,
}

/// When to look again at messages that have expired and that the store still has.
const EXPIRED_AGAIN: Millis = Millis::new(10_000);

/// The state of the fetch that reads ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetching {
    No,
    /// It completes as soon as the store has read.
    Quick,
    /// It completes when a message is stored.
    Waiting,
}

/// Batches from the ledger's `next` on.
#[derive(Debug)]
pub(super) struct Ahead {
    batches: VecDeque<StoredBatch>,
    bytes: usize,
    messages: u64,
    /// The offset of the next message of the first batch, and the position of its record.
    place: (Offset, usize),
    /// Where the next fetch begins.
    from: Offset,
    fetching: Fetching,
    /// Whether the last fetch failed. Another one waits for [`Self::retry`].
    is_failing: bool,
    /// Whether nothing was stored from `from` on when the last fetch completed.
    is_at_end: bool,
}

impl Ahead {
    /// Begins to read at an offset.
    pub(super) fn new(from: Offset) -> Self {
        let (batches, bytes, messages) = (VecDeque::new(), 0, 0);
        let (place, fetching) = ((Offset::ZERO, 0), Fetching::No);
        Self { batches, bytes, messages, place, from, fetching, is_failing: false, is_at_end: false }
    }

    /// Returns about how many messages it holds; some may have expired.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Returns whether a fetch that completes soon is under way.
    pub(super) fn is_reading(&self) -> bool {
        self.fetching == Fetching::Quick
    }

    /// Returns whether it holds nothing, and nothing more is stored as far as is known.
    pub(super) fn is_exhausted(&self) -> bool {
        self.batches.is_empty() && self.is_at_end && self.fetching != Fetching::Quick
    }

    /// Returns where a fetch is to begin, whether it waits for messages, and how much it reads, if one is wanted.
    pub(super) fn begin(&mut self) -> Option<(Offset, bool, usize)> {
        if self.fetching != Fetching::No || self.is_failing || self.bytes >= AHEAD_BYTES {
            return None;
        }
        self.fetching = if self.is_at_end { Fetching::Waiting } else { Fetching::Quick };
        Some((self.from, self.is_at_end, AHEAD_BYTES - self.bytes))
    }

    /// Handles the result of a fetch.
    pub(super) fn handle(&mut self, fetched: Fetched, next: Offset) {
        self.fetching = Fetching::No;
        if fetched.is_rewound {
            // The store has lost its end. Read from its beginning, and find the messages that are new.
            *self = Self::new(fetched.next);
            return;
        }
        self.from = fetched.next;
        self.is_at_end = fetched.at_end;
        for stored in fetched.batches {
            if stored.end_offset() > next {
                self.bytes += stored.batch.stored_bytes();
                self.messages += stored.end_offset().since(stored.base_offset.max(next));
                self.batches.push_back(stored);
            }
        }
    }

    /// Notes that a fetch has failed.
    pub(super) fn handle_failed(&mut self) {
        (self.fetching, self.is_failing) = (Fetching::No, true);
    }

    /// Allows another fetch after one has failed.
    pub(super) fn retry(&mut self) {
        self.is_failing = false;
    }

    /// Forgets that nothing more was stored, unless a fetch waits for that to change.
    pub(super) fn forget_end(&mut self) {
        self.is_at_end &= self.fetching != Fetching::No;
    }

    /// Notes that a fetch that waited completes soon.
    pub(super) fn hurry(&mut self) {
        (self.fetching, self.is_at_end) = (Fetching::Quick, false);
    }

    /// Returns whether it could hold more, and holds fewer messages than are wanted.
    pub(super) fn lacks(&self, wanted: u64) -> bool {
        self.messages < wanted && !self.is_at_end && !self.is_failing && self.bytes < AHEAD_BYTES
    }

    /// Returns whether no fetch is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.fetching == Fetching::No
    }

    /// Returns whether a fetch waits for messages.
    pub(super) fn is_waiting(&self) -> bool {
        self.fetching == Fetching::Waiting
    }

    fn pop(&mut self, from: Offset) {
        if let Some(stored) = self.batches.pop_front() {
            self.bytes -= stored.batch.stored_bytes();
            self.messages -= stored.end_offset().since(stored.base_offset.max(from));
        }
    }

    /// Forgets messages below `next`, which were counted from `before` on.
    pub(super) fn skip(&mut self, before: Offset, next: Offset) {
        while let Some(stored) = self.batches.front() {
            let (base, end) = (stored.base_offset.max(before), stored.end_offset());
            if end > next {
                self.messages -= next.saturating_since(base);
                break;
            }
            self.pop(before);
        }
    }

    /// Chooses messages that were never given out. Returns those that can be given out only later and are passed over, at
    /// most `delays_max` pieces of them.
    pub(super) fn choose(
        &mut self,
        now: Now,
        next: Offset,
        room: Room,
        delays_max: usize,
        choice: &mut Choice,
    ) -> Vec<Passed> {
        let (mut at, mut delays): (Offset, Vec<Passed>) = (next, Vec::new());
        // When the first messages of the last piece can be given out.
        let mut joined_from = UnixMillis::ZERO;
        while let Some(stored) = self.batches.front() {
            let begins = at.max(stored.base_offset);
            if begins >= stored.end_offset() || stored.is_expired(now.unix) {
                self.pop(begins.min(stored.end_offset()));
                continue;
            }
            let delay_secs = stored.batch.delay_secs();
            // A batch without a delay may have a later timestamp, after the clock was set back.
            if delay_secs > 0 && stored.visible() > now.unix {
                if delays.len() >= delays_max {
                    break;
                }
                let visible = stored.visible().min(now.unix + Millis::from_secs(delay_secs));
                let (ends, wait) = (stored.end_offset(), visible.since(now.unix));
                let (expires, bytes) = (Minute::from(stored.expiry()), size_of(stored, &(begins..ends)));
                match delays.last_mut() {
                    Some(last)
                        if last.offsets.end == begins
                            && last.expires == expires
                            && visible.abs_diff(joined_from) <= DELAYS_JOINED =>
                    {
                        last.offsets.end = ends;
                        last.wait = last.wait.max(wait);
                        last.bytes += bytes;
                    }
                    _ => {
                        joined_from = visible;
                        delays.push(Passed { offsets: begins..ends, wait, expires, bytes });
                    }
                }
                at = ends;
                self.pop(begins);
                continue;
            }
            let before = choice.messages;
            let record = match self.place {
                (offset, record) if offset == begins && begins > stored.base_offset => record,
                _ => stored.batch.position_of(begins.since(stored.base_offset) as u32),
            };
            let (ends, record) = choice.take(stored, begins..stored.end_offset(), record, (1, None), room);
            self.place = (ends, record);
            self.messages -= choice.messages - before;
            at = ends;
            if ends < stored.end_offset() {
                break;
            }
            self.pop(ends);
        }
        delays
    }
}

impl Choice {
    /// Returns the number of messages.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Takes messages of a batch as far as there is room. The first one's record is at `record`. Returns where the rest
    /// begins: its offset and the position of its record.
    fn take(
        &mut self,
        stored: &StoredBatch,
        offsets: Range<Offset>,
        record: usize,
        (count, expires): (u32, Option<UnixMillis>),
        room: Room,
    ) -> (Offset, usize) {
        let Range { start, end } = offsets;
        let all = end.since(start);
        let is_whole = all == u64::from(stored.batch.count());
        let bytes = stored.batch.stored_bytes();
        let (mut until, mut position) = (end, bytes);
        if is_whole && self.messages + all <= room.messages && self.bytes + bytes <= room.bytes {
            (self.messages, self.bytes) = (self.messages + all, self.bytes + bytes);
        } else {
            (until, position) = (start, record);
            while until < end && self.messages < room.messages {
                let Some((next, _)) = stored.batch.record_at(position) else { break };
                // The first message may be larger than there is room.
                if self.messages > 0 && self.bytes + (next - position) > room.bytes {
                    break;
                }
                self.bytes += next - position;
                self.messages += 1;
                (until, position) = (until + 1, next);
            }
        }
        if until > start {
            let (stored, offsets) = (stored.clone(), start..until);
            self.runs.push(Granted { stored, offsets, record, count, expires });
        }
        (until, position)
    }

    /// Chooses messages from the ledger's pieces, from what was read at the first free one. Returns the messages that no
    /// longer exist, and those that cannot be given out yet.
    pub(super) fn take_again(
        &mut self,
        now: Now,
        ledger: &Ledger,
        fetched: &Fetched,
        room: Room,
    ) -> (Vec<Range<Offset>>, Vec<Kept>) {
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        let mut batches = fetched.batches.iter().peekable();
        for (offsets, piece) in ledger.pieces().free() {
            let known = offsets.end.min(fetched.next);
            let mut at = offsets.start;
            while at < known {
                while batches.peek().is_some_and(|stored| stored.end_offset() <= at) {
                    batches.next();
                }
                let Some(stored) = batches.peek().filter(|stored| stored.base_offset < known) else {
                    gone.push(at..known);
                    break;
                };
                if stored.base_offset > at {
                    gone.push(at..stored.base_offset);
                    at = stored.base_offset;
                }
                let end = known.min(stored.end_offset());
                if stored.is_expired(now.unix) && piece.lives_until <= now.mono {
                    // The store drops them when it is certain of the time.
                    kept.push(Kept { offsets: at..end, until: now.mono + EXPIRED_AGAIN, is_over: true });
                    at = end;
                    continue;
                }
                let wait = stored.visible().since(now.unix.min(stored.visible()));
                if piece.count == 0 && wait > Millis::ZERO && stored.batch.delay_secs() > 0 {
                    let until = now.mono + wait.min(Millis::from_secs(stored.batch.delay_secs()));
                    kept.push(Kept { offsets: at..end, until, is_over: false });
                    at = end;
                    continue;
                }
                let record = stored.batch.position_of(at.since(stored.base_offset) as u32);
                let given = (piece.count.saturating_add(1), piece.prolonged(now, stored));
                (at, _) = self.take(stored, at..end, record, given, room);
                if at < end {
                    return (gone, kept);
                }
            }
            if known < offsets.end {
                break;
            }
        }
        (gone, kept)
    }

    /// Returns the messages as pieces of a grant: ranges of the same count and expiry, joined where they touch.
    pub(super) fn pieces(&self) -> Vec<Given> {
        let mut pieces: Vec<Given> = Vec::new();
        for Granted { stored, offsets, count, .. } in &self.runs {
            let (expires, bytes) = (Minute::from(stored.expiry()), size_of(stored, offsets));
            match pieces.last_mut() {
                Some(last)
                    if last.offsets.end == offsets.start
                        && last.count == *count
                        && last.expires == expires =>
                {
                    last.offsets.end = offsets.end;
                    last.bytes += bytes;
                }
                _ => pieces.push(Given { offsets: offsets.clone(), count: *count, expires, bytes }),
            }
        }
        pieces
    }

    /// Notes until when a lease makes the messages live.
    pub(super) fn prolong(&mut self, now: Now, terms: &Terms) {
        let until = now.unix + Millis::from_secs(terms.ttl_secs) + Millis::from_secs(terms.grace_secs);
        for run in &mut self.runs {
            let lives = run.expires.unwrap_or_else(|| run.stored.expiry());
            if until > lives {
                run.expires = Some(until);
            }
        }
    }

    /// Returns whether nothing was chosen.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

/// Returns the size of messages of a batch. Each has the mean size of all.
fn size_of(stored: &StoredBatch, offsets: &Range<Offset>) -> u64 {
    let (bytes, count) = (stored.batch.stored_bytes() as u64, u64::from(stored.batch.count()));
    let below = |offset: Offset| part_of(bytes, offset.since(stored.base_offset), count);
    below(offsets.end) - below(offsets.start)
}

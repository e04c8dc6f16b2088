//! The ledger of a partition: what was given out and is not settled yet. Does no I/O.
//!
//! Every change is a [`Record`], and [`Ledger::apply`] is the only function that makes one. Recovery applies the
//! same records in the same order. That a lease has ended is no record: the time tells. Its messages keep their
//! lease until they are given out again, so a late settlement still counts.

mod snapshot;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::pieces::{Phase, Piece, Pieces};
use super::ranges::{common, joined, messages, union};
use super::record::{Aim, Given, Move, Passed, Record};
use crate::base::claim::{Claimed, LeaseId, Leases, Settle, Settlement, Terms, View, Worker};
use crate::base::clock::Now;
use crate::base::hidden::Hidden;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::ClientId;
use crate::base::units::Offset;
use crate::store::stock::{Minute, Portion, part_of};

/// The most pieces of a partition. Beyond, nothing new is given out. A piece takes some 100 bytes with its indexes.
pub const PIECES_MAX: usize = 65_536;

/// The most unsettled messages of a partition that were given out. Beyond, nothing new is given out. Settled in the
/// worst order, each of them is a piece.
pub const UNSETTLED_MAX: u64 = 1 << 20;

/// The most messages of a lease.
const LEASE_MESSAGES_MAX: u64 = 1_000;

/// The longest delay before a released message is given out again, unless the release names one, in seconds.
const BACKOFF_MAX_SECS: u32 = 60;

/// A lease with unsettled messages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    client: ClientId,
    /// The operation that claimed; `None` after it has left, or after a restart.
    worker: Option<Worker>,
    /// How long it lasts from when it was made or last renewed; 0 if that is unknown.
    ttl_secs: u32,
    grace_secs: u32,
    /// The number of messages whose last lease this is.
    unsettled: u64,
    /// Where they lie, or lay.
    offsets: Box<[Range<Offset>]>,
}

/// A range of a settlement, and whether it has an effect.
type Parts = (Vec<Range<Offset>>, Vec<Range<Offset>>);

/// The unsettled messages of a partition, and their leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// Nothing was given out from here on.
    next: Offset,
    pieces: Pieces,
    leases: HashMap<LeaseId, Lease>,
    /// The last lease that was made.
    sequence: u64,
    /// The moves of messages to other queues that are not done, by number.
    moves: BTreeMap<u64, Moving>,
    /// The last number of a move.
    moves_made: u64,
}

/// A lease that holds messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Live {
    /// How long it lasts from when it was made or last renewed; 0 if that is unknown.
    pub ttl_secs: u32,
    pub worker: Option<Worker>,
    /// The latest end of its messages.
    pub ends: Millis,
    /// The messages that it holds, ascending.
    pub pieces: Vec<(Range<Offset>, Piece)>,
}

/// A move that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moving {
    pub of: Move,
    /// Where it has begun.
    pub aim: Option<Aim>,
    /// The number of messages that are left, and an offset below which there are none.
    left: u64,
    first: Offset,
}

impl Ledger {
    /// Returns the offset from which nothing was given out yet.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// Returns the offset below which everything is settled.
    pub(super) fn floor(&self) -> Offset {
        self.pieces.first().unwrap_or(self.next)
    }

    pub(super) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Returns whether nothing new may be given out, because too much is unsettled.
    pub(super) fn is_full(&self) -> bool {
        self.pieces.len() >= PIECES_MAX || self.pieces.given() >= UNSETTLED_MAX
    }

    /// Returns the record that leases `pieces`.
    pub(super) fn grant(&self, now: Now, terms: &Terms, pieces: Vec<Given>) -> Record {
        Record::Grant {
            lease: LeaseId(self.sequence + 1),
            client: terms.client,
            made: now.unix,
            ttl_secs: terms.ttl_secs,
            grace_secs: terms.grace_secs,
            pieces,
            next: self.next,
        }
    }

    /// Names the operation that made a lease.
    pub(super) fn assign(&mut self, lease: LeaseId, worker: Worker) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.worker = Some(worker);
        }
    }

    /// Returns a lease of a client, if it holds messages.
    pub(super) fn live(&self, client: ClientId, id: LeaseId) -> Option<Live> {
        let lease = self.leases.get(&id).filter(|lease| lease.client == client)?;
        let (mut ends, mut pieces) = (Millis::ZERO, Vec::new());
        for range in &lease.offsets {
            for (part, piece) in self.pieces.overlapping(range.clone()) {
                if let Phase::Held(until) = piece.phase
                    && piece.lease == id
                {
                    ends = ends.max(until);
                    pieces.push((part, *piece));
                }
            }
        }
        let Lease { ttl_secs, worker, .. } = *lease;
        (!pieces.is_empty()).then_some(Live { ttl_secs, worker, ends, pieces })
    }

    /// Returns the record that gives the messages of a lease other terms from now on: the same lease is made again.
    pub(super) fn renewal(&self, now: Now, lease: LeaseId, live: &Live, terms: &Terms) -> Record {
        let given = live.pieces.iter().map(|(offsets, Piece { count, expires, bytes, length, .. })| {
            let bytes = part_of(*bytes, offsets.end.since(offsets.start), u64::from(*length));
            Given { offsets: offsets.clone(), count: *count, expires: *expires, bytes }
        });
        Record::Grant {
            lease,
            client: terms.client,
            made: now.unix,
            ttl_secs: terms.ttl_secs,
            grace_secs: terms.grace_secs,
            pieces: given.collect(),
            next: self.next,
        }
    }

    /// Returns the claim of a piece, unless it is not claimed.
    pub(super) fn claim_of(&self, offsets: Range<Offset>, piece: &Piece) -> Option<Claimed> {
        let Phase::Held(ends) = piece.phase else { return None };
        let client = self.leases.get(&piece.lease)?.client;
        Some(Claimed { offsets, lease: piece.lease, client, ends, lives_until: piece.lives_until })
    }

    /// Returns whether a piece is in a lease of a client, or was until its time was over, and in no other since.
    pub(super) fn is_last(&self, piece: &Piece, client: ClientId, lease: LeaseId) -> bool {
        let is_its = piece.lease == lease && !piece.is_released;
        is_its && self.leases.get(&lease).is_some_and(|lease| lease.client == client)
    }

    /// Returns whether nothing was ever noted.
    pub(super) fn is_unused(&self) -> bool {
        self.next == Offset::ZERO && self.sequence == 0 && self.pieces.len() == 0
    }

    /// Returns the records of a settlement, and the messages for which it came too late.
    pub(super) fn settle(&self, now: Now, settlement: &Settlement) -> (Vec<Record>, Vec<Range<Offset>>) {
        let Settlement { client, leases, offsets, what } = settlement;
        let record = |lease, offsets| Record::Settle { lease, at: now.unix, what: *what, offsets };
        match leases {
            Leases::One(id) => {
                let lease = self.leases.get(id);
                let was_made = (1..=self.sequence).contains(&id.0);
                if !was_made || lease.is_some_and(|lease| lease.client != *client) {
                    return (Vec::new(), Vec::new());
                }
                let named = match lease {
                    _ if offsets.is_empty() => lease.map_or(Vec::new(), |lease| lease.offsets.to_vec()),
                    Some(lease) => common(offsets, &lease.offsets),
                    // The lease is forgotten, with its messages. None has had more.
                    None if messages(offsets) <= LEASE_MESSAGES_MAX => offsets.clone(),
                    None => Vec::new(),
                };
                let (meant, lost) = self.parts(*id, &named);
                let records = (!meant.is_empty()).then(|| record(*id, meant));
                (records.into_iter().collect(), lost)
            }
            Leases::Ended => {
                let is_ended = |lease: &Lease| lease.client == *client && lease.worker.is_none();
                (self.settle_each(now, *what, is_ended), Vec::new())
            }
        }
    }

    /// Returns the records that settle all leases of a worker.
    pub(super) fn settle_all_of(&self, now: Now, worker: Worker, what: Settle) -> Vec<Record> {
        self.settle_each(now, what, |lease| lease.worker == Some(worker))
    }

    /// Returns the record that settles a lease, if it has messages left.
    pub(super) fn settle_lease(&self, now: Now, lease: LeaseId, what: Settle) -> Option<Record> {
        let (offsets, _) = self.parts(lease, &self.leases.get(&lease)?.offsets);
        (!offsets.is_empty()).then_some(Record::Settle { lease, at: now.unix, what, offsets })
    }

    fn settle_each(&self, now: Now, what: Settle, is_meant: impl Fn(&Lease) -> bool) -> Vec<Record> {
        let mut meant: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| is_meant(lease)).map(|(id, _)| *id).collect();
        // The order of a hash map would differ from run to run.
        meant.sort_unstable();
        meant.into_iter().filter_map(|lease| self.settle_lease(now, lease, what)).collect()
    }

    /// Notes that a worker has left: its leases belong to no operation any more.
    pub(super) fn dismiss(&mut self, worker: Worker) {
        for lease in self.leases.values_mut().filter(|lease| lease.worker == Some(worker)) {
            lease.worker = None;
        }
    }

    /// Divides the unsettled messages of ranges into those of a lease, and those that were given out again.
    fn parts(&self, lease: LeaseId, ranges: &[Range<Offset>]) -> Parts {
        let (mut meant, mut lost) = (Vec::new(), Vec::new());
        for range in ranges {
            let given = self.pieces.overlapping(range.clone()).filter(|(_, piece)| piece.lease != LeaseId(0));
            for (part, piece) in given {
                let of: &mut Vec<Range<Offset>> = if piece.lease == lease { &mut meant } else { &mut lost };
                match of.last_mut() {
                    Some(last) if last.end == part.start => last.end = part.end,
                    _ => of.push(part),
                }
            }
        }
        (meant, lost)
    }

    /// Makes a change. Live, `now` is when it was decided; at a recovery it is later.
    pub(super) fn apply(&mut self, now: Now, record: &Record) {
        match record {
            Record::Grant { lease, client, made, ttl_secs, grace_secs, pieces, next } => {
                self.free_missing(*next);
                let ttl = Millis::from_secs(*ttl_secs);
                let ends = mono_of(now, *made + ttl).min(now.mono + ttl);
                let lives_until = ends + Millis::from_secs(*grace_secs);
                self.sequence = self.sequence.max(lease.0);
                let mut unsettled = 0;
                for Given { offsets, count, expires, bytes } in pieces {
                    let before = self.take(offsets.clone(), |_| true);
                    let before = before.iter().map(|(_, piece)| piece.lives_until).max();
                    let length = offsets.end.since(offsets.start);
                    unsettled += length;
                    let piece = Piece {
                        length: u32::try_from(length).unwrap_or(u32::MAX),
                        count: *count,
                        lease: *lease,
                        phase: Phase::Held(ends),
                        lives_until: before.map_or(lives_until, |before| before.max(lives_until)),
                        expires: *expires,
                        bytes: *bytes,
                        is_over: false,
                        is_released: false,
                    };
                    self.pieces.insert(offsets.start, piece);
                    self.next = self.next.max(offsets.end);
                }
                let offsets = pieces.iter().map(|piece| piece.offsets.clone());
                // Of a lease that is made again, some messages may be released or over.
                let (worker, offsets) = match self.leases.remove(lease) {
                    Some(before) => {
                        unsettled += before.unsettled;
                        (before.worker, union(before.offsets.into_iter().chain(offsets).collect()))
                    }
                    None => (None, offsets.collect()),
                };
                let (client, ttl_secs, grace_secs) = (*client, *ttl_secs, *grace_secs);
                let of = Lease { client, worker, ttl_secs, grace_secs, unsettled, offsets: offsets.into() };
                if unsettled > 0 {
                    self.leases.insert(*lease, of);
                }
            }
            Record::Pass { at, next, pieces } => {
                self.free_missing(*next);
                for Passed { offsets, wait, expires, bytes } in pieces {
                    self.next = self.next.max(offsets.end);
                    self.take(offsets.clone(), |_| true);
                    let length = u32::try_from(offsets.end.since(offsets.start)).unwrap_or(u32::MAX);
                    // Over a restart, the wall clock may have been set back.
                    let phase = match *wait {
                        Millis::ZERO => Phase::Free,
                        wait => Phase::Later(mono_of(now, *at + wait).min(now.mono + wait)),
                    };
                    let piece = Piece { phase, expires: *expires, bytes: *bytes, ..new_piece(length) };
                    self.pieces.insert(offsets.start, piece);
                }
            }
            Record::Settle { lease, at, what, offsets } => {
                for range in offsets {
                    self.apply_settle(now, *lease, *at, *what, range.clone());
                }
            }
            Record::Gone { offsets } => {
                for range in offsets {
                    self.take(range.clone(), |_| true);
                }
            }
            Record::Delete { next, offsets } => {
                self.free_missing(*next);
                for range in offsets {
                    self.take(range.clone(), |_| true);
                    self.next = self.next.max(range.end);
                }
            }
            Record::Purge { through } => {
                self.take(Offset::ZERO..*through, |_| true);
                self.next = self.next.max(*through);
            }
            Record::Move { number, of, offsets } => {
                let taken: Vec<_> =
                    offsets.iter().flat_map(|range| self.take(range.clone(), |_| true)).collect();
                if !taken.is_empty() {
                    self.moves_made = self.moves_made.max(*number);
                    let new = || Moving { of: of.clone(), aim: None, left: 0, first: Offset(u64::MAX) };
                    let moving = self.moves.entry(*number).or_insert_with(new);
                    for (first, piece) in taken {
                        moving.left += u64::from(piece.length);
                        moving.first = moving.first.min(first);
                        let (lease, phase) = (LeaseId(0), Phase::Moving(*number));
                        self.pieces.insert(first, Piece { lease, phase, is_over: false, ..piece });
                    }
                }
            }
            Record::Aim { number, aim } => {
                if let Some(moving) = self.moves.get_mut(number) {
                    moving.aim = Some(aim.clone());
                }
            }
            Record::Stay { offsets } => {
                for range in offsets {
                    for (first, piece) in
                        self.take(range.clone(), |piece| matches!(piece.phase, Phase::Moving(_)))
                    {
                        self.pieces.insert(first, Piece { phase: Phase::Free, ..piece });
                    }
                }
            }
            Record::Snapshot(snapshot) => *self = Self::restore(now, snapshot),
        }
    }

    /// Frees the messages up to `next` that no record has given out, because a note is missing. They are given out
    /// again. A start leaves out far more offsets than a piece has. Then the messages lie before and behind these, and
    /// two pieces have room for them.
    fn free_missing(&mut self, next: Offset) {
        let missing = next.saturating_since(self.next);
        if missing == 0 {
            return;
        }
        let first = u32::try_from(missing).unwrap_or(u32::MAX);
        self.pieces.insert(self.next, new_piece(first));
        let last = u32::try_from(missing - u64::from(first)).unwrap_or(u32::MAX);
        if last > 0 {
            self.pieces.insert(Offset(next.0 - u64::from(last)), new_piece(last));
        }
        self.next = next;
    }

    fn apply_settle(&mut self, now: Now, id: LeaseId, at: UnixMillis, what: Settle, range: Range<Offset>) {
        if matches!(what, Settle::Ack | Settle::Reject) {
            self.take(range, |piece| piece.lease == id);
            return;
        }
        let lease = self.leases.get_mut(&id);
        let grace_secs = lease.as_ref().map_or(0, |lease| lease.grace_secs);
        if let (Settle::Renew(ttl), Some(lease)) = (what, lease) {
            lease.ttl_secs = ttl;
        }
        for (first, piece) in self.pieces.take(range, |piece| piece.lease == id) {
            let after = |secs| match mono_of(now, at + Millis::from_secs(secs)) {
                time if secs > 0 => Phase::Later(time.min(now.mono + Millis::from_secs(secs))),
                _ => Phase::Free,
            };
            let piece = match what {
                Settle::Release(delay) => {
                    let phase = after(delay.unwrap_or_else(|| backoff_secs(piece.count)));
                    Piece { phase, is_released: true, ..piece }
                }
                Settle::Renew(ttl) => {
                    let ends =
                        mono_of(now, at + Millis::from_secs(ttl)).min(now.mono + Millis::from_secs(ttl));
                    let lives_until = piece.lives_until.max(ends + Millis::from_secs(grace_secs));
                    let phase = Phase::Held(ends);
                    Piece { phase, lives_until, is_over: false, is_released: false, ..piece }
                }
                Settle::Return => {
                    let count = piece.count.saturating_sub(1);
                    Piece { phase: Phase::Free, count, is_released: true, ..piece }
                }
                Settle::Ack | Settle::Reject => piece,
            };
            self.pieces.insert(first, piece);
        }
    }

    /// Takes messages out of the pieces that are meant, and out of their leases.
    fn take(&mut self, range: Range<Offset>, is_meant: impl Fn(&Piece) -> bool) -> Vec<(Offset, Piece)> {
        let taken = self.pieces.take(range, is_meant);
        for (_, piece) in &taken {
            if let Phase::Moving(number) = piece.phase {
                self.count_moved(number, piece.length.into());
            }
            let Some(lease) = self.leases.get_mut(&piece.lease) else { continue };
            lease.unsettled = lease.unsettled.saturating_sub(u64::from(piece.length));
            if lease.unsettled == 0 {
                self.leases.remove(&piece.lease);
            }
        }
        taken
    }

    /// Counts messages that are no longer being moved.
    fn count_moved(&mut self, number: u64, messages: u64) {
        if let Some(moving) = self.moves.get_mut(&number) {
            moving.left = moving.left.saturating_sub(messages);
            if moving.left == 0 {
                self.moves.remove(&number);
            }
        }
    }

    /// Returns the moves that are not done, and their numbers.
    pub(super) fn moves(&self) -> impl Iterator<Item = (u64, &Moving)> {
        self.moves.iter().map(|(number, moving)| (*number, moving))
    }

    /// Returns the last move that is not done, and its number.
    pub(super) fn last_move(&self) -> Option<(u64, &Moving)> {
        self.moves.last_key_value().map(|(number, moving)| (*number, moving))
    }

    /// Returns a move that is not done.
    pub(super) fn moving(&self, number: u64) -> Option<&Moving> {
        self.moves.get(&number)
    }

    /// Returns the number of messages that are being moved.
    pub(super) fn moving_messages(&self) -> u64 {
        self.moves.values().map(|moving| moving.left).sum()
    }

    /// Returns the number for another move. None of this run has had it.
    pub(super) fn next_move(&self) -> u64 {
        self.moves_made.saturating_add(1)
    }

    /// Returns the first messages of a move that are left.
    pub(super) fn first_moved(&mut self, number: u64) -> Option<Range<Offset>> {
        let moving = self.moves.get_mut(&number)?;
        let mut pieces = self.pieces.overlapping(moving.first..Offset(u64::MAX));
        let (offsets, _) = pieces.find(|(_, piece)| piece.phase == Phase::Moving(number))?;
        moving.first = offsets.start;
        Some(offsets)
    }

    /// Takes over from the ledger before a recall what no record says: the operations of leases, and their times by the
    /// monotonic clock.
    pub(super) fn adopt(&mut self, before: &Self) {
        for (id, lease) in &mut self.leases {
            if let Some(before) = before.leases.get(id) {
                (lease.worker, lease.ttl_secs) = (before.worker, before.ttl_secs);
            }
        }
        self.pieces.adopt_times(&before.pieces);
        self.moves_made = self.moves_made.max(before.moves_made);
    }

    /// Keeps free messages back until a time. They do not count if they are over.
    pub(super) fn postpone(&mut self, range: Range<Offset>, until: Millis, is_over: bool) {
        self.pieces.postpone(range, until, is_over);
    }

    /// Frees what is no longer leased, and what can be given out again. Returns the number of messages whose
    /// leases have ended.
    pub(super) fn expire(&mut self, now: Millis) -> u64 {
        self.pieces.expire(now)
    }

    /// Stops counting what has expired.
    pub(super) fn end_lives(&mut self, now: Now) {
        self.pieces.end_lives(now);
    }

    /// Returns the pieces of which neither the expiry nor the size is known.
    pub(super) fn unknown(&self) -> Vec<Range<Offset>> {
        let unknown = self.pieces.all().filter(|(_, piece)| piece.expires == Minute::UNKNOWN);
        unknown.map(|(offsets, _)| offsets).collect()
    }

    /// Notes when messages of such a piece expire, and how large they are.
    pub(super) fn learn(&mut self, portion: &Portion) {
        let Portion { expires, bytes, .. } = *portion;
        let is_unknown = |piece: &Piece| piece.expires == Minute::UNKNOWN;
        for (first, piece) in self.pieces.take(portion.first..portion.end, is_unknown) {
            self.pieces.insert(first, Piece { expires, bytes, ..piece });
        }
    }

    /// Returns the first offset at `from` or later that is not settled.
    pub(super) fn jump(&self, from: Offset) -> Offset {
        if from >= self.next {
            return from;
        }
        let next = self.pieces.overlapping(from..self.next).next();
        next.map_or(self.next, |(part, _)| part.start)
    }

    /// Returns which messages between two offsets a reader must skip, and, if it sees claimed ones, their claims.
    pub(super) fn view(
        &self,
        range: Range<Offset>,
        view: View,
        hidden: &mut Hidden,
        claims: &mut Vec<Claimed>,
    ) {
        let known = range.start..range.end.min(self.next);
        let mut at = known.start;
        for (part, piece) in self.pieces.overlapping(known.clone()) {
            if let Phase::Held(ends) = piece.phase {
                if view == View::Unclaimed {
                    continue;
                }
                let Some(lease) = self.leases.get(&piece.lease) else { continue };
                let (client, lives_until) = (lease.client, piece.lives_until);
                claims.push(Claimed { offsets: part.clone(), lease: piece.lease, client, ends, lives_until });
            }
            hidden.push(at..part.start);
            at = part.end;
        }
        hidden.push(at..known.end.max(at));
    }

    /// Returns the messages that live longer than their TTL says, as at most `most` ranges. The ranges may hold
    /// other messages, too.
    pub(super) fn pinned(&self, now: Millis, most: usize) -> Vec<Range<Offset>> {
        let mut pinned: Vec<Range<Offset>> = Vec::new();
        let mut gap_max = 0;
        let is_moving = |piece: &Piece| matches!(piece.phase, Phase::Moving(_));
        for (offsets, piece) in
            self.pieces.all().filter(|(_, piece)| piece.lives_until > now || is_moving(piece))
        {
            debug_assert!(
                piece.count > 0 || piece.lease != LeaseId(0) || is_moving(piece),
                "what was never given out has its TTL"
            );
            match pinned.last_mut() {
                Some(last) if offsets.start.since(last.end) <= gap_max => last.end = offsets.end,
                _ => pinned.push(offsets),
            }
            while pinned.len() > most {
                gap_max = (gap_max * 2 + 1).min(u64::MAX / 4);
                pinned = joined(pinned, gap_max);
            }
        }
        pinned
    }

    /// Returns whether the counts of the leases match the pieces.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        let mut unsettled: HashMap<LeaseId, u64> = HashMap::new();
        for (range, piece) in self.pieces.all().filter(|(_, piece)| piece.lease != LeaseId(0)) {
            *unsettled.entry(piece.lease).or_default() += range.end.since(range.start);
        }
        let counted = self.leases.iter().map(|(id, lease)| (*id, lease.unsettled)).collect();
        let mut left: BTreeMap<u64, u64> = BTreeMap::new();
        for (range, piece) in self.pieces.all() {
            if let Phase::Moving(number) = piece.phase {
                *left.entry(number).or_default() += range.end.since(range.start);
            }
        }
        let moves = self.moves.iter().map(|(number, moving)| (*number, moving.left)).collect();
        self.pieces.is_sound() && unsettled == counted && left == moves
    }
}

/// Returns a piece of messages that were never given out.
fn new_piece(length: u32) -> Piece {
    Piece {
        length,
        count: 0,
        lease: LeaseId(0),
        phase: Phase::Free,
        lives_until: Millis::ZERO,
        expires: Minute::UNKNOWN,
        bytes: 0,
        is_over: false,
        is_released: false,
    }
}

/// Returns a Unix time by the monotonic clock.
fn mono_of(now: Now, unix: UnixMillis) -> Millis {
    if unix >= now.unix {
        now.mono + unix.since(now.unix)
    } else {
        now.mono.saturating_sub(now.unix.since(unix))
    }
}

/// Returns how long a message that was given out `count` times waits after a release. The second time does not
/// wait, later ones twice as long each.
fn backoff_secs(count: u32) -> u32 {
    match count {
        0 | 1 => 0,
        count => 1u32.checked_shl(count - 1).map_or(BACKOFF_MAX_SECS, |secs| secs.min(BACKOFF_MAX_SECS)),
    }
}

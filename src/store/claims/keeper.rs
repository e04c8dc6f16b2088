//! The keeper of one partition's ledger: takes requests about claims, decides, and answers once the decision is
//! durable.
//!
//! ```text
//! decide ─▶ apply, so that nobody else gets the messages ─▶ note ─▶ durable ─▶ answer
//! ```
//! The records of one turn make up one note. If a note fails, the ledger is recalled; requests wait until then.

mod recalling;

use std::collections::VecDeque;
use std::ops::Range;

use self::recalling::{RECALL, Stage};
use super::ahead::{Ahead, Choice, Kept, Room};
use super::finds::Finds;
use super::inner::{FetchBy, Inner, LedgerId, Purpose};
use super::ledger::{Ledger, PIECES_MAX};
use super::line::{Line, Watcher};
use super::moving::Moves;
use super::notes::{Answer, Notes};
use super::out::Out;
use super::ranges::messages;
use super::record::Record;
use super::stats::StatsAsked;
use crate::base::batch::Fetched;
use crate::base::claim::{Grant, Settle, Terms, View, Worker};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::Managed;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::queue::PartitionKey;
use crate::base::units::Offset;
use crate::store::{Asker, ClaimCounters, Completion, Portion, Request};

/// A claim or a pop that waits for messages to be read.
#[derive(Debug)]
pub(super) struct Ask<T: Asker> {
    pub by: By<T>,
    pub room: Room,
}

/// What becomes of the messages that an [`Ask`] gets.
#[derive(Debug)]
pub(super) enum By<T: Asker> {
    Claim { token: T::Claim, worker: Worker, terms: Terms },
    Pop { token: T::Manage },
}

impl<T: Asker> By<T> {
    /// Returns the completion without messages.
    pub(super) fn without(self, result: Result<(), StoreFault>) -> Completion<T> {
        match self {
            Self::Claim { token, .. } => Completion::Claimed { token, result: result.map(|()| None) },
            Self::Pop { token } => {
                Completion::Managed { token, result: result.map(|()| Managed::Popped(Vec::new())) }
            }
        }
    }
}

/// What is being read of messages that were given out before.
#[derive(Debug)]
enum Again {
    No,
    Asked(Offset),
    /// Everything from this offset on.
    Read(Offset, Fetched),
}

/// The oldest unsettled message.
#[derive(Clone, Copy, Debug, Default)]
struct Oldest {
    /// Its offset, when it was last looked for.
    floor: Offset,
    is_asked: bool,
    /// When it was stored.
    stored: Option<UnixMillis>,
}

/// The keeper of one partition's ledger.
#[derive(Debug)]
pub(super) struct Keeper<T: Asker> {
    pub(super) id: LedgerId,
    pub(super) ledger: Ledger,
    stage: Stage,
    /// Requests that wait until the ledger is known.
    parked: Vec<Request<T>>,
    /// Claims and pops that wait for messages to be read, in order.
    pub(super) asks: VecDeque<Ask<T>>,
    pub(super) line: Line<T::Claim>,
    /// Whether the ledgers of the shard hold so much that nothing new is given out.
    pub(super) is_crowded: bool,
    /// The ledger before a recall, until the recall ends.
    former: Option<Box<Ledger>>,
    pub(super) ahead: Ahead,
    again: Again,
    pub(super) notes: Notes<T>,
    oldest: Oldest,
    /// Requests for statistics that wait for a time.
    pub(super) stats: StatsAsked<T>,
    /// Requests for single messages.
    pub(super) finds: Finds<T>,
    /// The moves of messages to other queues.
    pub(super) moves: Moves,
    /// Whether a recall may have left pieces of which neither the expiry nor the size is known.
    has_unknown: bool,
    /// Until when the keeper notes only what it is asked for, because a note has failed: the next one may fail at once,
    /// too, as on a full disk.
    rest: Option<Millis>,
    /// Whether the store was told to keep messages of the partition.
    pub(super) has_pins: bool,
    /// Whether it is in the list of keepers with something to do.
    pub(super) is_dirty: bool,
}

impl<T: Asker> Keeper<T> {
    /// Creates the keeper of a partition, which has notes from an earlier run or not.
    pub(super) fn new(id: LedgerId, has_notes: bool) -> Self {
        let stage = match has_notes {
            true => RECALL,
            false => Stage::Ready,
        };
        Self {
            id,
            ledger: Ledger::default(),
            stage,
            parked: Vec::new(),
            asks: VecDeque::new(),
            line: Line::default(),
            is_crowded: false,
            former: None,
            ahead: Ahead::new(Offset::ZERO),
            again: Again::No,
            notes: Notes::new(id),
            oldest: Oldest::default(),
            stats: StatsAsked::default(),
            finds: Finds::default(),
            moves: Moves::default(),
            has_unknown: false,
            rest: None,
            has_pins: has_notes,
            is_dirty: false,
        }
    }

    pub(super) fn id(&self) -> LedgerId {
        self.id
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the ledger that says what readers see: during a recall, the one before.
    pub(super) fn shown(&self) -> &Ledger {
        self.former.as_deref().unwrap_or(&self.ledger)
    }

    /// Returns the pieces of which neither the expiry nor the size is known, once after a recall.
    pub(super) fn take_unknown(&mut self) -> Vec<Range<Offset>> {
        match self.is_ready() && std::mem::take(&mut self.has_unknown) {
            true => self.ledger.unknown(),
            false => Vec::new(),
        }
    }

    /// Notes when such messages expire, and how large they are.
    pub(super) fn learn(&mut self, portion: &Portion) {
        self.ledger.learn(portion);
    }

    /// Returns whether nothing would be lost without this keeper.
    pub(super) fn is_unused(&self) -> bool {
        let is_asked =
            self.is_wanted() || !self.parked.is_empty() || !self.stats.is_empty() || !self.finds.is_empty();
        let is_quiet = self.notes.is_quiet() && self.ahead.is_quiet();
        self.is_ready()
            && self.ledger.is_unused()
            && is_quiet
            && !is_asked
            && !self.has_pins
            && !self.is_dirty
    }

    /// Returns whether the ledger is known.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    /// Returns when the oldest unsettled message was stored, if it is known.
    pub(super) fn oldest(&self) -> Option<UnixMillis> {
        if self.ledger.pieces().len() == 0 { None } else { self.oldest.stored }
    }

    /// Handles a request about claims, or parks it until the ledger is known. Also parks fetches.
    pub(super) fn handle(&mut self, now: Now, request: Request<T>, out: &mut Out<T>) {
        if !self.is_ready() {
            return self.parked.push(request);
        }
        match request {
            Request::Claim { token, worker, terms, messages_max, bytes_max, .. } => {
                self.line.handle_claim(worker);
                let room = Room { messages: u64::from(messages_max), bytes: bytes_max };
                self.asks.push_back(Ask { by: By::Claim { token, worker, terms }, room });
            }
            Request::Watch { token, worker, wanted, .. } => {
                self.line.push(Watcher { token, worker, wanted: u64::from(wanted) });
            }
            Request::Settle { token, settlements, .. } => self.settle(now, token, &settlements, out),
            Request::Leave { worker, leaving, .. } => self.leave(now, worker, leaving, out),
            // The ledgers handle all others.
            _ => {}
        }
    }

    /// Removes a parked fetch. Returns its first offset.
    pub(super) fn cancel(&mut self, token: T::Fetch) -> Option<Offset> {
        let is_it =
            |request: &Request<T>| matches!(request, Request::Fetch { token: of, .. } if *of == token);
        let index = self.parked.iter().position(is_it)?;
        match self.parked.remove(index) {
            Request::Fetch { from, .. } => Some(from),
            _ => None,
        }
    }

    /// Returns the requests that were parked, once the ledger is known.
    pub(super) fn take_parked(&mut self) -> Vec<Request<T>> {
        if self.is_ready() { std::mem::take(&mut self.parked) } else { Vec::new() }
    }

    /// Releases what was read ahead, because nobody claims any more.
    pub(super) fn stop_reading_ahead(&mut self, out: &mut Out<T>) {
        if !self.cancel_ahead(out) && !self.ahead.is_reading() {
            self.ahead = Ahead::new(self.ledger.next());
        }
    }

    /// Cancels a fetch that reads ahead and waits for messages. Returns false if there is none.
    pub(super) fn cancel_ahead(&self, out: &mut Out<T>) -> bool {
        let is_waiting = self.ahead.is_waiting();
        if is_waiting {
            let (token, partition) = (FetchBy::Ledger(self.id, Purpose::Ahead), self.id.partition);
            out.requests.push_back(Request::Cancel { token, partition });
        }
        is_waiting
    }

    /// Applies a decision, counts it, and adds it to the note of this turn.
    pub(super) fn apply(&mut self, now: Now, record: Record, counters: &mut ClaimCounters) {
        match &record {
            Record::Grant { pieces, .. } => {
                counters.granted += messages(pieces.iter().map(|piece| &piece.offsets))
            }
            Record::Settle { what, offsets, .. } => {
                let counter = match what {
                    Settle::Ack => &mut counters.acked,
                    Settle::Release(_) | Settle::Return => &mut counters.released,
                    Settle::Reject => &mut counters.rejected,
                    Settle::Renew(_) => &mut counters.renewed,
                };
                *counter += messages(offsets);
            }
            Record::Pass { .. }
            | Record::Gone { .. }
            | Record::Delete { .. }
            | Record::Purge { .. }
            | Record::Move { .. }
            | Record::Aim { .. }
            | Record::Stay { .. }
            | Record::Snapshot(_) => {}
        }
        self.note(now, &record);
    }

    /// Applies a decision, and adds it to the note of this turn.
    pub(super) fn note(&mut self, now: Now, record: &Record) {
        self.ledger.apply(now, record);
        self.notes.add(record);
    }

    /// Does everything that can be done now: recalls, answers claims, tells those that wait, and sends the note of
    /// this turn.
    pub(super) fn work(&mut self, now: Now, out: &mut Out<T>) {
        if !self.is_ready() {
            return self.recall(out);
        }
        self.is_crowded = out.is_crowded;
        self.rest = self.rest.filter(|until| now.mono < *until);
        out.counters.expired += self.ledger.expire(now.mono);
        self.move_worn(now, out);
        while let Some(ask) = self.asks.front() {
            if let By::Pop { token } = ask.by {
                let room = ask.room;
                let Some(runs) = self.pop(now, room, out) else { break };
                self.asks.pop_front();
                self.notes.answer(Answer::Managed { token, answer: Managed::Popped(runs) });
                continue;
            }
            let room = ask.room;
            if self.lacks_for(room) {
                self.read_ahead(out);
                if self.ahead.is_reading() {
                    break;
                }
            }
            let Some(choice) = self.choose(now, self.fair(room), false, out) else { break };
            let Some(Ask { by, .. }) = self.asks.pop_front() else { break };
            match by {
                By::Claim { token, worker, terms } if !choice.is_empty() => {
                    self.grant(now, token, worker, &terms, choice, &mut out.counters);
                }
                by => out.completions.push_back(by.without(Ok(()))),
            }
        }
        if self.asks.is_empty() && matches!(self.again, Again::Read(..)) {
            self.again = Again::No;
        }
        self.tell(now, out);
        self.read_ahead(out);
        self.ahead.forget_end();
        self.advance_moves(now, out);
        if self.notes.wants_snapshot() && (self.notes.has_records() || !self.is_resting()) {
            self.notes.add_snapshot(self.ledger.snapshot(now));
        }
        self.notes.send(self.ledger.floor(), out);
        // Without notes, what was decided is as durable as it gets.
        if !out.is_durable {
            self.advance_moves(now, out);
        }
    }

    fn grant(
        &mut self,
        now: Now,
        token: T::Claim,
        worker: Worker,
        terms: &Terms,
        mut choice: Choice,
        counters: &mut ClaimCounters,
    ) {
        let record = self.ledger.grant(now, terms, choice.pieces());
        let Record::Grant { lease, .. } = record else { return };
        self.apply(now, record, counters);
        self.ledger.assign(lease, worker);
        choice.prolong(now, terms);
        let ends = now.mono + Millis::from_secs(terms.ttl_secs);
        let grant = Grant { lease, ends, runs: choice.runs };
        self.notes.answer(Answer::Claimed { token, worker, grant: Some(grant) });
    }

    /// Returns the part of `room` that one of all waiting workers may have.
    fn fair(&self, room: Room) -> Room {
        let waiting = (self.asks.len() + self.line.len()).max(1) as u64;
        let share = (self.available() / waiting).max(1);
        Room { messages: room.messages.min(share), ..room }
    }

    /// Returns whether there are too few free messages for a claim, and nothing was read of those behind them. What is
    /// given out depends on both.
    fn lacks_for(&self, room: Room) -> bool {
        let free = self.ledger.pieces().free_messages();
        free < room.messages && !self.is_full() && self.ahead.messages() == 0 && self.ahead.lacks(1)
    }

    /// Returns whether nothing new may be given out.
    fn is_full(&self) -> bool {
        self.ledger.is_full() || self.is_crowded
    }

    /// Returns how many messages can be claimed, as far as is known.
    fn available(&self) -> u64 {
        let new = if self.is_full() { 0 } else { self.ahead.messages() };
        self.ledger.pieces().free_messages() + new
    }

    /// Chooses messages for a claim or a pop: first those that were given out before. Returns `None` while they are being
    /// read.
    pub(super) fn choose(&mut self, now: Now, room: Room, is_pop: bool, out: &mut Out<T>) -> Option<Choice> {
        while let Some(first) = self.ledger.pieces().first_free() {
            let fetched = match &self.again {
                Again::Read(from, fetched) if *from <= first => fetched,
                _ => {
                    self.read_again(first, out);
                    return None;
                }
            };
            let mut choice = Choice::default();
            let (mut gone, kept) = choice.take_again(now, &self.ledger, fetched, room);
            let is_useless = gone.is_empty() && kept.is_empty() && choice.is_empty();
            if is_useless && (fetched.is_rewound || fetched.at_end) {
                // Nothing is stored from the first free message on.
                let lost = self.ledger.pieces().free().next();
                gone.extend(lost.map(|(offsets, _)| offsets));
            }
            let is_stuck = is_useless && fetched.next <= first;
            for Kept { offsets, until, is_over } in kept {
                self.ledger.postpone(offsets, until, is_over);
            }
            if !gone.is_empty() {
                self.apply(now, Record::Gone { offsets: gone }, &mut out.counters);
            }
            if !choice.is_empty() {
                if choice.messages() == self.ledger.pieces().free_messages() {
                    // The rest comes from behind.
                    self.choose_new(now, room, is_pop, &mut choice, out);
                }
                return Some(choice);
            }
            if is_stuck && self.ledger.pieces().first_free() == Some(first) {
                return Some(choice);
            }
            if is_useless {
                // What was read lies before the first free message.
                self.again = Again::No;
            }
        }
        self.again = Again::No;
        let mut choice = Choice::default();
        if !self.choose_new(now, room, is_pop, &mut choice, out) {
            return Some(choice);
        }
        if !choice.is_empty() || self.ahead.is_exhausted() {
            return Some(choice);
        }
        self.read_ahead(out);
        if self.ahead.is_reading() { None } else { Some(choice) }
    }

    /// Adds messages that were never given out, as far as they are read. Returns false if no more may be unsettled.
    fn choose_new(
        &mut self,
        now: Now,
        room: Room,
        is_pop: bool,
        choice: &mut Choice,
        out: &mut Out<T>,
    ) -> bool {
        // A pop leaves nothing unsettled.
        if self.is_full() && !is_pop {
            return false;
        }
        let delays_max = PIECES_MAX.saturating_sub(self.ledger.pieces().len());
        let next = self.ledger.next();
        let pieces = self.ahead.choose(now, next, room, delays_max, choice);
        if !pieces.is_empty() {
            self.apply(now, Record::Pass { at: now.unix, next, pieces }, &mut out.counters);
        }
        true
    }

    fn read_again(&mut self, first: Offset, out: &mut Out<T>) {
        if !matches!(self.again, Again::Asked(_)) {
            self.again = Again::Asked(first);
            let bytes_max = self.asks.front().map_or(1, |ask| ask.room.bytes);
            out.requests.push_back(fetch(
                self.id,
                Purpose::Again,
                self.id.partition,
                first,
                false,
                bytes_max,
            ));
        }
    }

    pub(super) fn read_ahead(&mut self, out: &mut Out<T>) {
        if self.is_wanted()
            && let Some((from, wait, bytes_max)) = self.ahead.begin()
        {
            out.requests.push_back(fetch(self.id, Purpose::Ahead, self.id.partition, from, wait, bytes_max));
        }
    }

    /// Returns whether somebody wants messages.
    pub(super) fn is_wanted(&self) -> bool {
        !self.asks.is_empty() || self.line.len() > 0
    }

    /// Tells those that wait for messages.
    fn tell(&mut self, now: Now, out: &mut Out<T>) {
        while let Some(watcher) = self.line.tell(now.mono, self.available()) {
            out.completions.push_back(Completion::Watched { token: watcher.token, result: Ok(()) });
        }
    }

    /// Handles what was read for the ledger.
    pub(super) fn handle_read(
        &mut self,
        now: Now,
        purpose: Purpose,
        result: Result<Fetched, StoreFault>,
        out: &mut Out<T>,
    ) {
        if !self.is_ready() && purpose != Purpose::Recall {
            // It was asked for the ledger that was dropped.
            return;
        }
        match (purpose, result) {
            (Purpose::Recall, result) => self.handle_recalled(now, result, out),
            (Purpose::Move, result) => self.handle_move_read(now, result, out),
            (Purpose::Ahead, Ok(_)) if !self.is_wanted() => self.ahead = Ahead::new(self.ledger.next()),
            (Purpose::Ahead, Ok(fetched)) => self.ahead.handle(fetched, self.ledger.next()),
            (Purpose::Again, Ok(fetched)) => {
                if let Again::Asked(from) = self.again {
                    self.again = Again::Read(from, fetched);
                }
            }
            (Purpose::Ahead | Purpose::Again, Err(fault)) => {
                if purpose == Purpose::Ahead {
                    self.ahead.handle_failed();
                } else {
                    self.again = Again::No;
                }
                self.fail_asks(&fault, out);
            }
            (Purpose::Oldest, result) => {
                self.oldest.is_asked = false;
                let first = result.ok().and_then(|fetched| fetched.batches.into_iter().next());
                self.oldest.stored = first.map(|stored| stored.timestamp);
            }
            (Purpose::At(offset), result) => self.stats.handle_read(offset, result, out),
            (Purpose::Find(number), result) => self.handle_found(now, number, result, out),
        }
    }

    fn fail_asks(&mut self, fault: &StoreFault, out: &mut Out<T>) {
        let asks = self.asks.drain(..);
        out.completions.extend(asks.map(|ask| ask.by.without(Err(fault.clone()))));
    }

    /// Completes everything with a fault, because the queue was deleted.
    pub(super) fn close(mut self, fault: &StoreFault, out: &mut Out<T>) {
        self.fail_parked(fault, out);
        self.fail_asks(fault, out);
        self.stats.fail(fault, out);
        self.finds.fail(fault, out);
        for watcher in self.line.take() {
            out.completions
                .push_back(Completion::Watched { token: watcher.token, result: Err(fault.clone()) });
        }
        self.notes.fail_all(fault, out);
    }

    /// Returns when the next lease, delay or rest ends.
    pub(super) fn next_timer(&self) -> Option<Millis> {
        // When the recall ends, the keeper is worked on, so it needs no timer before.
        if !self.is_ready() {
            return None;
        }
        let next_try = self.rest.or_else(|| self.moves.next_try());
        self.ledger.pieces().next_timer().into_iter().chain(next_try).min()
    }

    /// Handles the passing of time.
    pub(super) fn handle_tick(&mut self, now: Now, out: &mut Out<T>) {
        self.line.expire(now.mono);
        if !self.is_wanted() {
            self.stop_reading_ahead(out);
        }
        self.ahead.retry();
        if let Stage::Recalling { is_failing, .. } = &mut self.stage {
            *is_failing = false;
        }
        if self.is_ready() {
            self.ledger.end_lives(now);
        }
        let floor = self.ledger.floor();
        if self.is_ready()
            && self.ledger.pieces().len() > 0
            && !self.oldest.is_asked
            && self.oldest.floor != floor
        {
            (self.oldest.floor, self.oldest.is_asked) = (floor, true);
            out.requests.push_back(fetch(self.id, Purpose::Oldest, self.id.partition, floor, false, 1));
        }
    }

    /// Notes the whole ledger, so that older notes can be released.
    pub(super) fn renew_snapshot(&mut self, now: Now, out: &mut Out<T>) {
        if self.is_ready() && !self.is_resting() {
            self.notes.add_snapshot(self.ledger.snapshot(now));
            self.notes.send(self.ledger.floor(), out);
        }
    }
}

pub(super) fn fetch<T: Asker>(
    id: LedgerId,
    purpose: Purpose,
    partition: PartitionKey,
    from: Offset,
    wait: bool,
    bytes_max: usize,
) -> Request<Inner<T>> {
    let token = FetchBy::Ledger(id, purpose);
    Request::Fetch { token, partition, from, bytes_max, exclude: None, view: View::Stored, wait }
}

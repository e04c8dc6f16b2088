//! Moves messages to other queues, each once: dead letters, and back.
//!
//! ```text
//! move noted ─▶ messages read ─▶ queue opened ─▶ its end found ─▶ aim noted ─▶ copies appended ─▶ settled here
//! ```
//! From the first note on, the messages are not given out any more. A copy bears the name of its move. After a restart or
//! a failed append with an aim, the copies are looked for from there on, and only those that are missing are appended. So
//! a copy is durable before its source is settled, and there once. A ledger does one step of one move at a time. While one
//! move pauses after a failure, the next ones go on.
//!
//! If a note fails, the ledger is recalled. It remembers which copies it has appended, and settles them again.
//!
//! A copy that was claimed and acknowledged is found, too, as long as the store below has it. So after a restart no shard
//! releases anything until no shard has such a search before it.

use std::ops::Range;
use std::sync::Arc;

use super::inner::{LedgerId, Purpose};
use super::keeper::{Keeper, fetch};
use super::letter::{self, History, Source};
use super::moving::{Copied, Group, Step};
use super::out::Out;
use super::pieces::{Phase, Piece};
use super::ranges::messages;
use super::record::{Aim, Move, Record, Why};
use crate::base::batch::{BatchBuilder, Fetched, Shape, StoredBatch};
use crate::base::clock::Now;
use crate::base::error::{Fault, StoreFault};
use crate::base::millis::Millis;
use crate::base::names::{ClientId, FullName, QueueName};
use crate::base::partitioner::key_partition;
use crate::base::policy::Policy;
use crate::base::queue::QueueInfo;
use crate::base::units::{Offset, Partition};
use crate::store::Asker;
use crate::store::errand::{Done, Errand, ErrandId, Wanted};

/// How often a message is moved at most. Then it is deleted, and counted.
pub const MOVES_MAX: u64 = 1_000;

/// The most messages, and the bytes, that are appended together.
const GROUP_MESSAGES: usize = 1_000;
const GROUP_BYTES: usize = 256 << 10;

/// How long a move pauses after its first failure. Each further one doubles that.
const PAUSE: Millis = Millis::new(1_000);
const PAUSES_MAX: u32 = 6;

impl<T: Asker> Keeper<T> {
    /// Returns whether copies of an earlier run may have to be looked for.
    pub(super) fn has_doubt(&mut self) -> bool {
        if !self.moves.is_certain && self.is_ready() && self.moves.copied.is_empty() {
            let mut moves = self.ledger.moves();
            let is_open =
                moves.any(|(number, moving)| moving.aim.is_some() && !self.moves.sure.contains(&number));
            self.moves.is_certain = !is_open;
        }
        !self.moves.is_certain
    }

    /// Returns the name and the policy of the queue, if they are known.
    fn queue(&mut self, out: &Out<T>) -> Option<(FullName, Arc<Policy>)> {
        if self.moves.queue.is_none() {
            self.moves.queue = out.tenants.as_ref()?.policies().get(self.id.partition.queue);
        }
        let (name, policy) = self.moves.queue.as_ref()?;
        Some((name.clone(), policy.get()))
    }

    /// Returns the dead-letter queue, and how often a message is given out at most.
    fn dead_queue(&mut self, out: &Out<T>) -> Option<(QueueName, Option<u32>)> {
        let (name, policy) = self.queue(out)?;
        let to = policy.dead_queue.clone().filter(|to| *to != name.1)?;
        Some((to, policy.claims_max))
    }

    /// Moves the messages that were given out too often.
    pub(super) fn move_worn(&mut self, now: Now, out: &mut Out<T>) {
        // Whoever asks must not be given them.
        if !self.ledger.pieces().has_worn() || self.is_resting() && self.asks.is_empty() {
            return;
        }
        if let Some((to, Some(max))) = self.dead_queue(out) {
            let offsets = self.ledger.pieces().worn(max.max(1));
            self.begin_move(now, Why::Worn, Some(to), offsets, out);
        }
    }

    /// Moves rejected messages, if there is a queue for them. Returns whether there is.
    pub(super) fn move_rejected(&mut self, now: Now, offsets: &[Range<Offset>], out: &mut Out<T>) -> bool {
        let Some((to, _)) = self.dead_queue(out) else { return false };
        self.begin_move(now, Why::Rejected, Some(to), offsets.to_vec(), out);
        true
    }

    fn begin_move(
        &mut self,
        now: Now,
        why: Why,
        to: Option<QueueName>,
        offsets: Vec<Range<Offset>>,
        out: &mut Out<T>,
    ) {
        if offsets.is_empty() {
            return;
        }
        // One that has not begun takes these, too.
        let running = self.moves.running.as_ref().map(|(number, _)| *number);
        let last = self.ledger.last_move().filter(|(number, moving)| {
            (moving.of.why, &moving.of.to) == (why, &to) && moving.aim.is_none() && running != Some(*number)
        });
        let (number, of) = match last {
            Some((number, moving)) => (number, moving.of.clone()),
            None => (self.ledger.next_move(), Move { why, to, made: now.unix }),
        };
        self.apply(now, Record::Move { number, of, offsets }, &mut out.counters);
    }

    /// Moves messages that can be given out to `to`, or to the queues from which they came. Returns how many messages are
    /// being moved now.
    pub(super) fn redrive(&mut self, now: Now, to: Option<QueueName>, out: &mut Out<T>) -> u64 {
        let free = self.ledger.pieces().free().filter(|(_, piece)| !piece.is_over);
        let offsets = free.map(|(offsets, _)| offsets).collect();
        self.begin_move(now, Why::Redriven, to, offsets, out);
        self.ledger.moving_messages()
    }

    /// Returns whether the queue has this name.
    pub(super) fn is_named(&mut self, name: &QueueName, out: &Out<T>) -> bool {
        self.queue(out).is_some_and(|(of, _)| of.1 == *name)
    }

    /// Does what can be done of a move now.
    pub(super) fn advance_moves(&mut self, now: Now, out: &mut Out<T>) {
        if self.is_resting() {
            return;
        }
        self.settle_copied(now, out);
        match self.moves.running.take() {
            // Some of them were deleted meanwhile.
            Some((number, Step::Noting(_, group))) if !self.is_whole(number, &group) => {
                self.start_move(now, out);
            }
            Some((number, Step::Noting(note, group))) if self.notes.is_stored(note) => {
                self.moves.sure.remove(&number);
                let wanted = Wanted::Append(group.to.clone(), group.partition, group.batch.clone());
                let id = self.ask(wanted, out);
                self.moves.running = Some((number, Step::Appending(id, group)));
            }
            Some(running) => self.moves.running = Some(running),
            None => self.start_move(now, out),
        }
    }

    fn start_move(&mut self, now: Now, out: &mut Out<T>) {
        if self.moves.late.is_some() {
            return;
        }
        let Self { moves, ledger, .. } = self;
        moves.pauses.retain(|number, _| ledger.moving(*number).is_some());
        let is_due = |number| moves.pauses.get(&number).is_none_or(|pause| pause.due <= now.mono);
        let Some((number, moving)) = ledger.moves().find(|(number, _)| is_due(*number)) else { return };
        let aim = moving.aim.clone().filter(|_| !moves.sure.contains(&number));
        let Some((name, _)) = self.queue(out) else { return };
        let step = match aim {
            Some(aim) => {
                let id = self.ask(Wanted::Find((name.0, aim.queue.clone())), out);
                Step::SearchOpening(id, aim)
            }
            None => {
                let Some(first) = self.ledger.first_moved(number) else { return };
                let (id, partition) = (self.id, self.id.partition);
                out.requests.push_back(fetch(id, Purpose::Move, partition, first.start, false, GROUP_BYTES));
                Step::Reading
            }
        };
        self.moves.running = Some((number, step));
    }

    fn ask(&mut self, what: Wanted, out: &mut Out<T>) -> ErrandId {
        out.ask(self.id, what)
    }

    /// Handles the messages of a move that were read.
    pub(super) fn handle_move_read(
        &mut self,
        now: Now,
        result: Result<Fetched, StoreFault>,
        out: &mut Out<T>,
    ) {
        let Some((number, Step::Reading)) = self.moves.running else { return };
        self.moves.running = None;
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(fault) => return self.pause(now, number, &fault),
        };
        let Some((name, _)) = self.queue(out) else { return };
        let dead = self.dead_queue(out).map(|(dead, _)| dead);
        match self.first_of(now, number, &fetched, dead.as_ref()) {
            // Nothing is left of it, or what is left was not read: the next turn looks again.
            First::None => {}
            First::Gone(offsets) => self.apply(now, Record::Gone { offsets }, &mut out.counters),
            First::Worn(offset) => {
                out.counters.dropped_dead += 1;
                tracing::warn!(
                    queue = name.1.as_str(),
                    partition = self.id.partition.partition.0,
                    offset = offset.0,
                    "deleting a message that was moved {MOVES_MAX} times"
                );
                let offsets = vec![offset..offset + 1];
                self.apply(now, Record::Gone { offsets }, &mut out.counters);
            }
            First::Staying(offsets) => {
                self.apply(now, Record::Stay { offsets }, &mut out.counters);
            }
            First::To(to) => {
                let id = self.ask(Wanted::Open((name.0, to.clone())), out);
                self.moves.running = Some((number, Step::Opening(id, to, fetched)));
            }
        }
    }

    /// Looks at the first message of a move.
    fn first_of(&mut self, now: Now, number: u64, fetched: &Fetched, dead: Option<&QueueName>) -> First {
        let Some(first) = self.ledger.first_moved(number) else { return First::None };
        let Some(moving) = self.ledger.moving(number) else { return First::None };
        let stored = fetched.batches.iter().find(|stored| stored.end_offset() > first.start);
        let Some(stored) = stored.filter(|stored| stored.base_offset <= first.start) else {
            let begins = stored.map_or(fetched.next, |stored| stored.base_offset);
            let is_past_end = stored.is_none() && (fetched.at_end || fetched.is_rewound);
            let end = if is_past_end { first.end } else { begins.min(first.end) };
            return if end > first.start { First::Gone(vec![first.start..end]) } else { First::None };
        };
        let position = stored.batch.position_of(first.start.since(stored.base_offset) as u32);
        let Some((_, record)) = stored.batch.record_at(position) else { return First::None };
        let history = History::of(record.headers);
        if history.moves >= MOVES_MAX {
            return First::Worn(first.start);
        }
        let piece = self.ledger.pieces().overlapping(first).next();
        let is_expired = piece.is_some_and(|(_, piece)| is_expired(now, &moving.of, stored, piece));
        match self.target(&moving.of, dead, &history).filter(|_| !is_expired) {
            Some(to) => First::To(to),
            None => First::Staying(self.staying(now, number, fetched, dead)),
        }
    }

    /// Returns the messages of a move, of those that were read, that go nowhere.
    fn staying(
        &self,
        now: Now,
        number: u64,
        fetched: &Fetched,
        dead: Option<&QueueName>,
    ) -> Vec<Range<Offset>> {
        let mut offsets = Vec::new();
        let (Some(moving), Some((own, _))) = (self.ledger.moving(number), &self.moves.queue) else {
            return offsets;
        };
        for stored in &fetched.batches {
            let parts = self.ledger.pieces().overlapping(stored.base_offset..stored.end_offset());
            for (part, piece) in parts.filter(|(_, piece)| piece.phase == Phase::Moving(number)) {
                if is_expired(now, &moving.of, stored, piece) {
                    part.start
                        .following(part.end.since(part.start))
                        .for_each(|at| push_offset(&mut offsets, at));
                    continue;
                }
                let sources = sources(stored, part, &own.1, self.id.partition.partition, piece.count);
                let has_none = |source: &Source<'_>| {
                    self.target(&moving.of, dead, &History::of(source.record.headers)).is_none()
                };
                sources.filter(has_none).for_each(|source| push_offset(&mut offsets, source.offset));
            }
        }
        offsets
    }

    /// Returns the queue to which a message goes: a dead letter, to the present dead-letter queue. `None` if there is none,
    /// or it is its own.
    fn target(&self, of: &Move, dead: Option<&QueueName>, history: &History<'_>) -> Option<QueueName> {
        let own = self.moves.queue.as_ref().map(|(name, _)| &name.1);
        let dead = dead.filter(|_| of.why != Why::Redriven);
        dead.or(of.to.as_ref()).cloned().or_else(|| history.queue()).filter(|to| Some(to) != own)
    }

    /// Handles the answer to an errand.
    pub(super) fn handle_done(&mut self, now: Now, id: ErrandId, done: Done, out: &mut Out<T>) {
        if let Some((_, number, offsets)) = self.moves.late.take_if(|(late, ..)| *late == id) {
            // The ledger was dropped meanwhile. It settles them once it is known.
            if let Done::Appended(Ok(_)) = done {
                self.remember_copied(number, offsets);
            }
            return;
        }
        if !self.moves.is_waiting_for(id) {
            return;
        }
        let Some((number, step)) = self.moves.running.take() else { return };
        match (step, done) {
            (Step::Opening(_, name, fetched), Done::Opened(Ok(info))) => {
                if let Some(group) = self.group(now, number, &fetched, (name, info), out) {
                    self.find_end(now, number, group, out);
                }
            }
            (Step::Ending(_, group), Done::End(Ok(end))) => self.note_aim(now, number, group, end, out),
            (Step::Appending(_, group), Done::Appended(Ok(range))) => {
                let incarnation = group.to.incarnation;
                self.moves.known_end = range.map(|range| (incarnation, group.partition, range.end));
                self.settle_moved(now, number, group.offsets, out);
            }
            (Step::SearchOpening(_, aim), Done::Opened(Ok(info))) => {
                if info.incarnation == aim.incarnation && aim.partition.0 < info.partitions {
                    self.search(number, info, aim.partition, aim.from, Vec::new(), out);
                } else {
                    // The copies have gone with their queue.
                    self.moves.sure.insert(number);
                }
            }
            (Step::SearchOpening(..), Done::Opened(Err(Fault::Store(StoreFault::NoQueue)))) => {
                self.moves.sure.insert(number);
            }
            (Step::Searching(_, info, partition, mut found), Done::Read(Ok(fetched))) => {
                // A target that ends before the aim has lost the copies.
                if !fetched.is_rewound {
                    self.find_copies(number, &fetched, &mut found);
                }
                if fetched.at_end || fetched.is_rewound {
                    self.settle_moved(now, number, found, out);
                } else {
                    self.search(number, info, partition, fetched.next, found, out);
                }
            }
            (_, Done::Opened(Err(fault))) => self.fail(now, number, &fault),
            (_, Done::End(Err(fault)) | Done::Appended(Err(fault)) | Done::Read(Err(fault))) => {
                self.fail(now, number, &fault);
            }
            // Every step has its kind of answer.
            (_, Done::Opened(_) | Done::End(_) | Done::Appended(_) | Done::Read(_)) => {}
        }
    }

    fn fail(&mut self, now: Now, number: u64, fault: &dyn std::fmt::Display) {
        self.moves.known_end = None;
        self.pause(now, number, fault);
    }

    fn pause(&mut self, now: Now, number: u64, fault: &dyn std::fmt::Display) {
        let pause = self.moves.pauses.entry(number).or_default();
        pause.due = now.mono + Millis::new(PAUSE.get() << pause.failures.min(PAUSES_MAX));
        pause.failures += 1;
        if pause.failures == 1 {
            let queue = self.moves.queue.as_ref().map_or("", |(name, _)| name.1.as_str());
            let partition = self.id.partition.partition.0;
            tracing::warn!(queue, partition, %fault, "messages cannot be moved to their dead-letter queue, or back; trying again");
        }
    }

    /// Makes copies of the first messages of a move that go to one partition.
    fn group(
        &mut self,
        now: Now,
        number: u64,
        fetched: &Fetched,
        (name, to): (QueueName, QueueInfo),
        out: &Out<T>,
    ) -> Option<Group> {
        let (own, policy) = self.queue(out)?;
        let dead = self.dead_queue(out).map(|(dead, _)| dead);
        let moving = self.ledger.moving(number)?;
        let ttl = policy.dead_ttl_secs.filter(|_| moving.of.why != Why::Redriven);
        let mut group: Option<(Alike, BatchBuilder)> = None;
        let mut offsets: Vec<Range<Offset>> = Vec::new();
        let mut count = 0;
        'all: for stored in &fetched.batches {
            let alike = |partition| Alike {
                partition,
                client: stored.batch.client(),
                is_anonymous: stored.batch.is_anonymous(),
                ttl_secs: ttl.unwrap_or(stored.batch.ttl_secs()),
            };
            for (part, piece) in self.ledger.pieces().overlapping(stored.base_offset..stored.end_offset()) {
                if piece.phase != Phase::Moving(number) || is_expired(now, &moving.of, stored, piece) {
                    continue;
                }
                for source in sources(stored, part, &own.1, self.id.partition.partition, piece.count) {
                    let history = History::of(source.record.headers);
                    let target = self.target(&moving.of, dead.as_ref(), &history);
                    if target.as_ref() != Some(&name) || history.moves >= MOVES_MAX {
                        continue;
                    }
                    let partition = match source.record.key {
                        [] => Partition(source.partition.0 % to.partitions),
                        key => key_partition(key, to.partitions),
                    };
                    let alike = alike(partition);
                    let (_, builder) = match &mut group {
                        Some((of, _)) if *of != alike => continue,
                        Some(group) => group,
                        None => {
                            let builder = BatchBuilder::new(alike.client, alike.ttl_secs, 0)
                                .anonymous(alike.is_anonymous)
                                .with_shape(Shape::Headers);
                            group.insert((alike, builder))
                        }
                    };
                    if count > 0 && builder.stored_bytes() + source.record.bytes() > GROUP_BYTES {
                        break 'all;
                    }
                    let headers = letter::headers(&source, number, &moving.of);
                    builder.push_record(crate::base::batch::Record { headers: &headers, ..source.record });
                    push_offset(&mut offsets, source.offset);
                    count += 1;
                    if count == GROUP_MESSAGES {
                        break 'all;
                    }
                }
            }
        }
        let (Alike { partition, .. }, builder) = group?;
        Some(Group { to, name, partition, batch: builder.close(), offsets })
    }

    fn find_end(&mut self, now: Now, number: u64, group: Group, out: &mut Out<T>) {
        match self.moves.known_end {
            Some((incarnation, partition, end))
                if (incarnation, partition) == (group.to.incarnation, group.partition) =>
            {
                self.note_aim(now, number, group, end, out);
            }
            _ => {
                let id = self.ask(Wanted::End(group.to.clone(), group.partition), out);
                self.moves.running = Some((number, Step::Ending(id, group)));
            }
        }
    }

    fn note_aim(&mut self, now: Now, number: u64, group: Group, from: Offset, out: &mut Out<T>) {
        let (queue, incarnation, partition) = (group.name.clone(), group.to.incarnation, group.partition);
        if !self.is_whole(number, &group) {
            return;
        }
        let aim = Aim { queue, incarnation, partition, from };
        // Copies of earlier groups were looked for.
        self.moves.sure.insert(number);
        self.apply(now, Record::Aim { number, aim }, &mut out.counters);
        self.moves.running = Some((number, Step::Noting(self.notes.next(), group)));
    }

    /// Returns the messages of ranges that a move still has.
    fn left_of(&self, number: u64, offsets: &[Range<Offset>]) -> Vec<Range<Offset>> {
        let pieces = self.ledger.pieces();
        let parts = offsets.iter().flat_map(|range| pieces.overlapping(range.clone()));
        parts.filter(|(_, piece)| piece.phase == Phase::Moving(number)).map(|(part, _)| part).collect()
    }

    /// Returns whether a move still has all messages of a group.
    fn is_whole(&self, number: u64, group: &Group) -> bool {
        messages(&self.left_of(number, &group.offsets)) == messages(&group.offsets)
    }

    /// Settles messages whose copies are durable.
    fn settle_moved(&mut self, now: Now, number: u64, offsets: Vec<Range<Offset>>, out: &mut Out<T>) {
        self.remember_copied(number, offsets);
        self.settle_copied(now, out);
    }

    fn remember_copied(&mut self, number: u64, offsets: Vec<Range<Offset>>) {
        self.moves.copied.push(Copied { number, offsets, note: None, is_counted: false });
        self.moves.sure.insert(number);
        self.moves.pauses.remove(&number);
    }

    /// Settles messages whose copies are durable, unless there is a note that does so.
    fn settle_copied(&mut self, now: Now, out: &mut Out<T>) {
        if self.moves.copied.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.moves.copied);
        all.retain(|copied| copied.note.is_none_or(|note| !self.notes.is_stored(note)));
        for copied in all.iter_mut().filter(|copied| copied.note.is_none()) {
            let offsets = self.left_of(copied.number, &copied.offsets);
            let why = self.ledger.moving(copied.number).map(|moving| moving.of.why);
            if !std::mem::replace(&mut copied.is_counted, true) {
                let counter = match why {
                    Some(Why::Redriven) => &mut out.counters.redriven,
                    _ => &mut out.counters.dead,
                };
                *counter += messages(&offsets);
            }
            if !offsets.is_empty() {
                self.apply(now, Record::Gone { offsets }, &mut out.counters);
            }
            copied.note = Some(self.notes.next());
        }
        let Self { moves, ledger, .. } = self;
        let is_copied = |number: u64| all.iter().any(|copied| copied.number == number);
        moves.sure.retain(|number| ledger.moving(*number).is_some() || is_copied(*number));
        moves.copied = all;
    }

    fn search(
        &mut self,
        number: u64,
        info: QueueInfo,
        partition: Partition,
        from: Offset,
        found: Vec<Range<Offset>>,
        out: &mut Out<T>,
    ) {
        let id = self.ask(Wanted::Read(info.clone(), partition, from, GROUP_BYTES), out);
        self.moves.running = Some((number, Step::Searching(id, info, partition, found)));
    }

    /// Finds the messages of a move whose copies are among those that were read.
    fn find_copies(&self, number: u64, fetched: &Fetched, found: &mut Vec<Range<Offset>>) {
        let (Some(moving), Some((own, _))) = (self.ledger.moving(number), &self.moves.queue) else { return };
        let partition = self.id.partition.partition;
        for record in fetched.batches.iter().flat_map(|stored| stored.batch.records()) {
            let history = History::of(record.headers);
            let Some(offset) = history.source_of_move() else { continue };
            if history.is_of(&letter::name_of(&own.1, partition, offset, number, &moving.of)) {
                found.push(offset..offset + 1);
            }
        }
        found.sort_unstable_by_key(|range| range.start);
        found.dedup();
    }
}

/// What is to become of the first message of a move.
enum First {
    /// Nothing yet.
    None,
    /// These messages no longer exist.
    Gone(Vec<Range<Offset>>),
    /// It was moved too often.
    Worn(Offset),
    /// It stays, and so do these: no queue is named for them, or they had expired before they were to be redriven.
    Staying(Vec<Range<Offset>>),
    To(QueueName),
}

/// What messages of one group have in common.
#[derive(PartialEq)]
struct Alike {
    partition: Partition,
    client: ClientId,
    is_anonymous: bool,
    ttl_secs: u32,
}

/// Returns whether messages had expired before they were to be redriven. A dead letter died before.
fn is_expired(now: Now, of: &Move, stored: &StoredBatch, piece: &Piece) -> bool {
    of.why == Why::Redriven && piece.lives_until <= now.mono && stored.is_expired(of.made)
}

/// Returns the messages of a part of a batch.
fn sources<'a>(
    stored: &'a StoredBatch,
    part: Range<Offset>,
    queue: &'a QueueName,
    partition: Partition,
    count: u32,
) -> impl Iterator<Item = Source<'a>> {
    let mut position = stored.batch.position_of(part.start.since(stored.base_offset) as u32);
    part.start.following(part.end.since(part.start)).map_while(move |offset| {
        let (next, record) = stored.batch.record_at(position)?;
        position = next;
        Some(Source { queue, partition, offset, stored, record, count })
    })
}

fn push_offset(ranges: &mut Vec<Range<Offset>>, offset: Offset) {
    match ranges.last_mut() {
        Some(last) if last.end == offset => last.end = offset + 1,
        _ => ranges.push(offset..offset + 1),
    }
}

impl<T: Asker> Out<T> {
    /// Asks the shard for something, for a ledger.
    fn ask(&mut self, by: LedgerId, what: Wanted) -> ErrandId {
        self.last_errand = self.last_errand.wrapping_add(1);
        let id = ErrandId(self.last_errand);
        self.waiting.insert(id, by.partition);
        self.errands.push_back(Errand { id, what });
        id
    }
}

//! The notes of a ledger: the records of a turn, on their way to the store, and the answers that wait until they are
//! durable.

use std::collections::VecDeque;
use std::ops::Range;

use super::inner::{AppendBy, LedgerId, state_of};
use super::out::Out;
use super::record::{Record, Snapshot};
use crate::base::batch::BatchBuilder;
use crate::base::claim::{Grant, LeaseId, Lost, Worker};
use crate::base::error::StoreFault;
use crate::base::manage::Managed;
use crate::base::names::ClientId;
use crate::base::units::Offset;
use crate::store::{Asker, Completion, Request, Stream};

/// The least bytes of records between two snapshots. A snapshot also waits until four times its predecessor's bytes
/// have followed that.
const SNAPSHOT_BYTES_MIN: usize = 64 << 10;

/// Marks the streams of notes among those of all appends.
const NOTES: u128 = 1 << 127;

/// An answer that waits for a note.
#[derive(Debug)]
pub(super) enum Answer<T: Asker> {
    Claimed { token: T::Claim, worker: Worker, grant: Option<Grant> },
    Settled { token: T::Settle, lost: Vec<Lost> },
    Managed { token: T::Manage, answer: Managed },
}

impl<T: Asker> Answer<T> {
    fn completion(self, result: Result<(), StoreFault>) -> Completion<T> {
        match self {
            Self::Claimed { token, grant, .. } => {
                Completion::Claimed { token, result: result.map(|()| grant) }
            }
            Self::Settled { token, lost } => Completion::Settled { token, result: result.map(|()| lost) },
            Self::Managed { token, answer } => Completion::Managed { token, result: result.map(|()| answer) },
        }
    }
}

/// A note that is being stored.
#[derive(Debug)]
struct Sent<T: Asker> {
    sequence: u64,
    answers: Vec<Answer<T>>,
    /// The offset below which everything is settled once the note is durable.
    floor: Offset,
    has_snapshot: bool,
}

/// The notes of a ledger.
#[derive(Debug)]
pub(super) struct Notes<T: Asker> {
    id: LedgerId,
    /// The records and answers of this turn.
    note: Vec<u8>,
    answers: Vec<Answer<T>>,
    has_snapshot: bool,
    sent: VecDeque<Sent<T>>,
    sequence: u64,
    /// The bytes of records since the last snapshot, and the size of that.
    since_snapshot: usize,
    snapshot_bytes: usize,
    /// The offset of the note with the last snapshot, and of the one with the snapshot before.
    snapshot_at: Option<Offset>,
    snapshot_before: Option<Offset>,
    /// Whether another snapshot is wanted as soon as the last one is durable, so that earlier notes can go.
    shrinks: bool,
    /// The offset below which everything is settled for good.
    floor: Offset,
}

impl<T: Asker> Notes<T> {
    pub(super) fn new(id: LedgerId) -> Self {
        Self {
            id,
            note: Vec::new(),
            answers: Vec::new(),
            has_snapshot: false,
            sent: VecDeque::new(),
            sequence: 0,
            since_snapshot: 0,
            snapshot_bytes: 0,
            snapshot_at: None,
            snapshot_before: None,
            shrinks: false,
            floor: Offset::ZERO,
        }
    }

    /// Continues under another number, in another stream.
    pub(super) fn renumber(&mut self, id: LedgerId) {
        debug_assert!(self.is_quiet(), "notes of the earlier stream are under way");
        *self = Self { floor: self.floor, ..Self::new(id) };
    }

    /// Returns whether no note is being made or stored.
    pub(super) fn is_quiet(&self) -> bool {
        self.sent.is_empty() && self.note.is_empty() && self.answers.is_empty()
    }

    /// Returns the number of the note that gets the records of this turn.
    pub(super) fn next(&self) -> u64 {
        self.sequence + 1
    }

    /// Returns whether the note with this number, and all before it, are as durable as they get.
    pub(super) fn is_stored(&self, sequence: u64) -> bool {
        let is_sent = self.note.is_empty() || sequence <= self.sequence;
        is_sent && self.sent.iter().all(|sent| sent.sequence > sequence)
    }

    /// Returns whether records wait to be sent.
    pub(super) fn has_records(&self) -> bool {
        !self.note.is_empty()
    }

    /// Adds a record to the note of this turn.
    pub(super) fn add(&mut self, record: &Record) {
        let before = self.note.len();
        record.encode(&mut self.note);
        self.since_snapshot += self.note.len() - before;
    }

    /// Adds an answer that waits for the note of this turn.
    pub(super) fn answer(&mut self, answer: Answer<T>) {
        self.answers.push(answer);
    }

    /// Lets all notes before the next one go as soon as two snapshots are durable.
    pub(super) fn shrink(&mut self) {
        self.since_snapshot = usize::MAX / 2;
        self.shrinks = true;
    }

    /// Returns whether so much was noted since the last snapshot that another one pays.
    pub(super) fn wants_snapshot(&self) -> bool {
        self.since_snapshot > SNAPSHOT_BYTES_MIN.max(4 * self.snapshot_bytes)
    }

    /// Adds a snapshot to the note of this turn.
    pub(super) fn add_snapshot(&mut self, snapshot: Snapshot) {
        let before = self.note.len();
        Record::Snapshot(snapshot).encode(&mut self.note);
        (self.snapshot_bytes, self.since_snapshot) = (self.note.len() - before, 0);
        self.has_snapshot = true;
    }

    /// Sends the note of this turn. Without one, the answers wait for the note before, which may hold what they
    /// rest on.
    pub(super) fn send(&mut self, floor: Offset, out: &mut Out<T>) {
        let answers = std::mem::take(&mut self.answers);
        let has_snapshot = std::mem::take(&mut self.has_snapshot);
        if !out.is_durable {
            self.note.clear();
            self.since_snapshot = 0;
            out.completions.extend(answers.into_iter().map(|answer| answer.completion(Ok(()))));
            return self.release(floor, out);
        }
        if self.note.is_empty() {
            match self.sent.back_mut() {
                Some(last) => last.answers.extend(answers),
                None => out.completions.extend(answers.into_iter().map(|answer| answer.completion(Ok(())))),
            }
            return;
        }
        self.sequence += 1;
        let mut builder = BatchBuilder::new(ClientId::from(0), u32::MAX, self.note.len() + 8);
        builder.push(&self.note);
        self.note.clear();
        out.requests.push_back(Request::Append {
            token: AppendBy::Note(self.id, self.sequence),
            stream: Stream(NOTES | u128::from(self.id.number)),
            partition: state_of(self.id.partition),
            batch: builder.close(),
        });
        self.sent.push_back(Sent { sequence: self.sequence, answers, floor, has_snapshot });
    }

    fn release(&mut self, floor: Offset, out: &mut Out<T>) {
        if floor > self.floor {
            self.floor = floor;
            out.releases.push((self.id.partition, floor));
        }
    }

    /// Handles the end of a note: sends its answers. Returns why it was not stored, if so.
    pub(super) fn handle_noted(
        &mut self,
        sequence: u64,
        result: Result<Option<Range<Offset>>, StoreFault>,
        out: &mut Out<T>,
    ) -> Result<(), StoreFault> {
        // One that fails may end before earlier ones.
        let index = self.sent.iter().position(|sent| sent.sequence == sequence);
        let Some(sent) = index.and_then(|index| self.sent.remove(index)) else { return Ok(()) };
        let told = result.as_ref().map(|_| ()).map_err(Clone::clone);
        out.completions.extend(sent.answers.into_iter().map(|answer| answer.completion(told.clone())));
        let stored = result?;
        self.release(sent.floor, out);
        if sent.has_snapshot
            && let Some(at) = stored.map(|range| range.start)
        {
            self.handle_snapshot(at, out);
            if std::mem::take(&mut self.shrinks) {
                self.since_snapshot = usize::MAX / 2;
            }
        }
        Ok(())
    }

    /// Releases the notes before the last snapshot but one, so that a damaged snapshot costs only what is newer than
    /// that.
    fn handle_snapshot(&mut self, at: Offset, out: &mut Out<T>) {
        self.snapshot_before = self.snapshot_at.replace(at);
        self.release_notes(out);
    }

    fn release_notes(&self, out: &mut Out<T>) {
        if let Some(before) = self.snapshot_before {
            out.releases.push((state_of(self.id.partition), before));
        }
    }

    /// Counts a note that was read at a recall.
    pub(super) fn handle_recalled(&mut self, at: Offset, bytes: usize, has_snapshot: bool) {
        if has_snapshot {
            self.snapshot_before = self.snapshot_at.replace(at);
            (self.snapshot_bytes, self.since_snapshot) = (bytes, 0);
        } else {
            self.since_snapshot += bytes;
        }
    }

    /// Handles the end of a recall, at which everything below `floor` is settled.
    pub(super) fn handle_recall_end(&mut self, floor: Offset, out: &mut Out<T>) {
        self.floor = Offset::ZERO;
        self.release(floor, out);
        self.release_notes(out);
    }

    /// Withdraws the grants that a worker has not seen before it left. Returns their leases.
    pub(super) fn withdraw(&mut self, left: Worker) -> Vec<LeaseId> {
        let mut withdrawn = Vec::new();
        let sent = self.sent.iter_mut().flat_map(|sent| &mut sent.answers);
        for answer in self.answers.iter_mut().chain(sent) {
            if let Answer::Claimed { worker, grant, .. } = answer
                && *worker == left
            {
                withdrawn.extend(grant.take().map(|grant| grant.lease));
            }
        }
        withdrawn
    }

    /// Fails the answers of this turn. Their records are dropped.
    pub(super) fn fail_turn(&mut self, fault: &StoreFault, out: &mut Out<T>) {
        self.note.clear();
        self.has_snapshot = false;
        let answers = std::mem::take(&mut self.answers).into_iter();
        out.completions.extend(answers.map(|answer| answer.completion(Err(fault.clone()))));
    }

    /// Fails all answers.
    pub(super) fn fail_all(&mut self, fault: &StoreFault, out: &mut Out<T>) {
        self.fail_turn(fault, out);
        let answers = self.sent.drain(..).flat_map(|sent| sent.answers);
        out.completions.extend(answers.map(|answer| answer.completion(Err(fault.clone()))));
    }
}

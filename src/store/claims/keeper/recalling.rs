//! Recalls a ledger from its notes: at the start, and after a note has failed, because the ledger then has what is not
//! durable.

use std::ops::Range;

use super::{Again, Keeper, fetch};
use crate::base::batch::Fetched;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::base::units::Offset;
use crate::store::claims::ahead::Ahead;
use crate::store::claims::inner::{Purpose, state_of};
use crate::store::claims::ledger::Ledger;
use crate::store::claims::out::Out;
use crate::store::claims::record::{self, Record};
use crate::store::{Asker, Completion, Request};

/// How long a keeper notes only what it is asked for, after a note has failed.
const REST: Millis = Millis::new(1_000);

/// The size of a read of notes at a recall, in bytes.
const RECALL_BYTES: usize = 1 << 20;

/// Whether the ledger is known.
#[derive(Debug)]
pub(super) enum Stage {
    /// The notes are being read. The next one has this offset.
    Recalling {
        from: Offset,
        is_asked: bool,
        is_failing: bool,
    },
    Ready,
}

/// The beginning of a recall.
pub(super) const RECALL: Stage = Stage::Recalling { from: Offset::ZERO, is_asked: false, is_failing: false };

impl<T: Asker> Keeper<T> {
    /// Reads more notes. Those that are under way belong to the ledger that was dropped, so they end first.
    pub(super) fn recall(&mut self, out: &mut Out<T>) {
        let Stage::Recalling { from, is_asked: is_asked @ false, is_failing: false } = &mut self.stage else {
            return;
        };
        if self.notes.is_quiet() {
            *is_asked = true;
            if *from == Offset::ZERO {
                // What was asked for the ledger before is ignored.
                out.numbers += 1;
                self.id.number = out.numbers;
                self.notes.renumber(self.id);
            }
            let partition = state_of(self.id.partition);
            out.requests.push_back(fetch(self.id, Purpose::Recall, partition, *from, false, RECALL_BYTES));
        }
    }

    pub(super) fn handle_recalled(
        &mut self,
        now: Now,
        result: Result<Fetched, StoreFault>,
        out: &mut Out<T>,
    ) {
        let Stage::Recalling { from, is_asked, is_failing } = &mut self.stage else { return };
        *is_asked = false;
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(fault) => {
                (*from, *is_failing) = (Offset::ZERO, true);
                self.ledger = Ledger::default();
                return self.fail_parked(&fault, out);
            }
        };
        for stored in &fetched.batches {
            for (offset, note) in
                stored.base_offset.following(u64::from(stored.batch.count())).zip(stored.batch.payloads())
            {
                let (records, is_whole) = record::read(note);
                let has_snapshot = records.iter().any(|record| matches!(record, Record::Snapshot(_)));
                self.notes.handle_recalled(offset, note.len(), has_snapshot);
                records.iter().for_each(|record| self.ledger.apply(now, record));
                if !is_whole {
                    tracing::error!(
                        offset = offset.0,
                        "a note of claims cannot be read; some messages may be given out again"
                    );
                }
            }
        }
        *from = fetched.next;
        if fetched.at_end {
            (self.stage, self.has_unknown) = (Stage::Ready, true);
            if let Some(former) = self.former.take() {
                self.ledger.adopt(&former);
            }
            // Those that ended before were counted then, or nobody was there to count them.
            self.ledger.expire(now.mono);
            self.ahead = Ahead::new(self.ledger.next());
            // The store does not remember what an earlier run has released.
            self.notes.handle_recall_end(self.ledger.floor(), out);
        }
    }

    /// Fails the requests that wait for a ledger that cannot be read. Those that come later try again.
    pub(super) fn fail_parked(&mut self, fault: &StoreFault, out: &mut Out<T>) {
        // A worker that has left must not be forgotten.
        let is_answered = |request: &mut Request<T>| !matches!(request, Request::Leave { .. });
        for request in self.parked.extract_if(.., is_answered) {
            let completion = match request {
                Request::Claim { token, .. } => Completion::Claimed { token, result: Err(fault.clone()) },
                Request::Watch { token, .. } => Completion::Watched { token, result: Err(fault.clone()) },
                Request::Settle { token, .. } => Completion::Settled { token, result: Err(fault.clone()) },
                Request::Fetch { token, .. } => Completion::Fetched { token, result: Err(fault.clone()) },
                Request::Manage { token, .. } => Completion::Managed { token, result: Err(fault.clone()) },
                _ => continue,
            };
            out.completions.push_back(completion);
        }
    }

    /// Handles the end of a note.
    pub(in crate::store::claims) fn handle_noted(
        &mut self,
        now: Now,
        sequence: u64,
        result: Result<Option<Range<Offset>>, StoreFault>,
        out: &mut Out<T>,
    ) {
        if let Err(fault) = self.notes.handle_noted(sequence, result, out) {
            self.rest = Some(now.mono + REST);
            self.drop_ledger(&fault, out);
        }
    }

    /// Returns whether the keeper notes only what it is asked for.
    pub(in crate::store::claims) fn is_resting(&self) -> bool {
        self.rest.is_some()
    }

    /// Drops the ledger after a note has failed: it has what is not durable.
    fn drop_ledger(&mut self, fault: &StoreFault, out: &mut Out<T>) {
        if self.is_ready() {
            tracing::warn!(%fault, "a note of claims was not stored; the ledger is recalled");
        }
        self.notes.fail_turn(fault, out);
        let dropped = std::mem::take(&mut self.ledger);
        self.former.get_or_insert_with(|| Box::new(dropped));
        self.oldest.is_asked = false;
        self.stage = RECALL;
        self.moves.reset();
        self.cancel_ahead(out);
        (self.again, self.ahead) = (Again::No, Ahead::new(Offset::ZERO));
        self.fail_asks(fault, out);
        self.stats.fail(fault, out);
        self.finds.fail(fault, out);
        for watcher in self.line.take() {
            out.completions.push_back(Completion::Watched { token: watcher.token, result: Ok(()) });
        }
    }
}

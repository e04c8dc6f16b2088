//! The requests about leases that were made: settled, left behind, looked at, renewed as a whole and released.

use std::collections::VecDeque;

use super::finds::Look;
use super::keeper::{Ask, By, Keeper};
use super::ledger::Live;
use super::notes::Answer;
use super::out::Out;
use super::ranges::messages;
use super::record::Record;
use crate::base::batch::StoredBatch;
use crate::base::claim::{Granted, LeaseId, Leaving, Lost, Settle, Settlement, Terms, Worker};
use crate::base::clock::Now;
use crate::base::manage::{CLAIM_BYTES_MAX, ClaimView, MANAGED_MAX, Managed};
use crate::base::millis::Millis;
use crate::base::names::ClientId;
use crate::base::units::Offset;
use crate::store::{Asker, Completion};

/// The most ranges of lost messages in an answer. A worker that settles what it was given stays below: it holds at most
/// `claim_window` messages, and every second one of them is lost.
const LOST_MAX: usize = 32_768;

impl<T: Asker> Keeper<T> {
    /// Settles messages.
    pub(super) fn settle(
        &mut self,
        now: Now,
        token: T::Settle,
        settlements: &[Settlement],
        out: &mut Out<T>,
    ) {
        out.counters.expired += self.ledger.expire(now.mono);
        let (mut all_lost, mut told) = (Vec::new(), 0);
        for (settlement, settling) in settlements.iter().enumerate() {
            if settlements[..settlement].ends_with(std::slice::from_ref(settling)) {
                // The same again settles nothing more.
                continue;
            }
            let (records, mut offsets) = self.ledger.settle(now, settling);
            offsets.truncate(LOST_MAX - told);
            told += offsets.len();
            for record in records {
                match &record {
                    Record::Settle { what: Settle::Reject, offsets, .. }
                        if self.move_rejected(now, offsets, out) =>
                    {
                        out.counters.rejected += messages(offsets);
                    }
                    _ => self.apply(now, record, &mut out.counters),
                }
            }
            if !offsets.is_empty() {
                out.counters.lost += messages(&offsets);
                all_lost.push(Lost { settlement, offsets });
            }
        }
        self.notes.answer(Answer::Settled { token, lost: all_lost });
    }

    /// Handles a worker that leaves.
    pub(super) fn leave(&mut self, now: Now, worker: Worker, leaving: Leaving, out: &mut Out<T>) {
        if let Some(watcher) = self.line.remove(worker) {
            out.completions.push_back(Completion::Watched { token: watcher.token, result: Ok(()) });
        }
        let is_its = |ask: &Ask<T>| matches!(ask.by, By::Claim { worker: of, .. } if of == worker);
        let asks = std::mem::take(&mut self.asks).into_iter();
        let (its, others): (VecDeque<_>, VecDeque<_>) = asks.partition(is_its);
        self.asks = others;
        out.completions.extend(its.into_iter().map(|ask| ask.by.without(Ok(()))));
        if leaving == Leaving::Pause {
            return;
        }
        let mut records = Vec::new();
        for lease in self.notes.withdraw(worker) {
            // Nobody has seen these messages.
            records.extend(self.ledger.settle_lease(now, lease, Settle::Return));
        }
        records.drain(..).for_each(|record| self.apply(now, record, &mut out.counters));
        if let Leaving::Settle(what) = leaving {
            records = self.ledger.settle_all_of(now, worker, what);
            records.drain(..).for_each(|record| self.apply(now, record, &mut out.counters));
        }
        self.ledger.dismiss(worker);
        if !self.is_wanted() {
            self.stop_reading_ahead(out);
        }
    }

    /// Begins to look at a lease of a client.
    pub(super) fn look_at(
        &mut self,
        now: Now,
        token: T::Manage,
        client: ClientId,
        lease: LeaseId,
        out: &mut Out<T>,
    ) {
        out.counters.expired += self.ledger.expire(now.mono);
        let wanted = self.ledger.live(client, lease).map_or(Vec::new(), |live| first_of(&live));
        let find = self.finds.make(token, Look::Claim(client, lease), wanted);
        self.go_on(now, find, out);
    }

    /// Answers such a request with the messages that were read. What it rests on is durable then.
    pub(super) fn tell_claim(
        &mut self,
        now: Now,
        token: T::Manage,
        (client, lease): (ClientId, LeaseId),
        found: Vec<(StoredBatch, Offset)>,
        out: &mut Out<T>,
    ) {
        out.counters.expired += self.ledger.expire(now.mono);
        let live = self.ledger.live(client, lease);
        let view = live.map(|live| view(now, &live, found)).filter(|view| !view.runs.is_empty());
        self.notes.answer(Answer::Managed { token, answer: Managed::Claim(view) });
    }

    /// Renews a lease of a client as a whole. Its messages count as given out as often as before.
    pub(super) fn renew(
        &mut self,
        now: Now,
        token: T::Manage,
        lease: LeaseId,
        terms: &Terms,
        out: &mut Out<T>,
    ) {
        out.counters.expired += self.ledger.expire(now.mono);
        let live = self.ledger.live(terms.client, lease);
        if let Some(live) = &live {
            out.counters.renewed += messages(live.pieces.iter().map(|(offsets, _)| offsets));
            let record = self.ledger.renewal(now, lease, live, terms);
            self.note(now, &record);
            if let Some(worker) = live.worker {
                self.ledger.assign(lease, worker);
            }
        }
        let answer = Managed::Renewed(live.is_some());
        self.notes.answer(Answer::Managed { token, answer });
    }

    /// Releases the messages that a lease of a client holds.
    pub(super) fn release(
        &mut self,
        now: Now,
        token: T::Manage,
        client: ClientId,
        lease: LeaseId,
        out: &mut Out<T>,
    ) {
        out.counters.expired += self.ledger.expire(now.mono);
        if let Some(live) = self.ledger.live(client, lease) {
            let offsets = live.pieces.into_iter().map(|(offsets, _)| offsets).collect();
            let what = Settle::Release(Some(0));
            let record = Record::Settle { lease, at: now.unix, what, offsets };
            self.apply(now, record, &mut out.counters);
        }
        self.notes.answer(Answer::Managed { token, answer: Managed::Released });
    }
}

/// Returns the first messages of a lease, as many as are looked at.
pub(super) fn first_of(live: &Live) -> Vec<Offset> {
    let (mut wanted, mut bytes) = (Vec::new(), 0);
    for (offsets, piece) in &live.pieces {
        let each = piece.bytes / u64::from(piece.length.max(1));
        for offset in offsets.start.following(offsets.end.since(offsets.start)) {
            if wanted.len() >= MANAGED_MAX || bytes >= CLAIM_BYTES_MAX {
                return wanted;
            }
            wanted.push(offset);
            bytes += each;
        }
    }
    wanted
}

/// Returns a lease as it is now, with those of the messages found that it holds.
pub(super) fn view(now: Now, live: &Live, found: Vec<(StoredBatch, Offset)>) -> ClaimView {
    let (ttl_secs, since) = match live.ttl_secs {
        0 => (live.ends.since(now.mono).as_secs_up(), now.mono),
        ttl => (ttl, live.ends.saturating_sub(Millis::from_secs(ttl)).min(now.mono)),
    };
    let mut runs: Vec<Granted> = Vec::new();
    for (stored, offset) in found {
        let index = live.pieces.partition_point(|(offsets, _)| offsets.end <= offset);
        let Some((_, piece)) = live.pieces.get(index).filter(|(offsets, _)| offsets.start <= offset) else {
            continue;
        };
        let (count, expires) = (piece.count, piece.prolonged(now, &stored));
        match runs.last_mut() {
            Some(last)
                if last.stored.base_offset == stored.base_offset
                    && last.offsets.end == offset
                    && (last.count, last.expires) == (count, expires) =>
            {
                last.offsets.end = offset + 1;
            }
            _ => {
                let record = stored.batch.position_of(offset.since(stored.base_offset) as u32);
                runs.push(Granted { stored, offsets: offset..offset + 1, record, count, expires });
            }
        }
    }
    let messages = messages(live.pieces.iter().map(|(offsets, _)| offsets));
    ClaimView { since, ttl_secs, ends: live.ends, messages, runs }
}

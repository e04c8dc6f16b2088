//! What a partition holds, as its ledger and the store below know it together: the ledger counts what was given out and is
//! not settled, the store everything behind that.

use super::inner::{Inner, Purpose};
use super::keeper::{Keeper, fetch};
use super::out::Out;
use super::record::Record;
use super::stats::End;
use crate::base::clock::Now;
use crate::base::manage::PartitionStats;
use crate::base::policy::Held;
use crate::base::units::Offset;
use crate::store::{Asker, Holding, Store};

impl<T: Asker> Keeper<T> {
    /// Counts what the partition holds.
    pub(super) fn count(
        &mut self,
        now: Now,
        store: &mut impl Store<Inner<T>>,
        out: &mut Out<T>,
    ) -> (PartitionStats, Holding) {
        out.counters.expired += self.ledger.expire(now.mono);
        self.ledger.end_lives(now);
        let holding = store.holding(self.id.partition, self.ledger.next(), now.unix).unwrap_or_default();
        let first = holding.stored.start;
        if self.ledger.pieces().first().is_some_and(|floor| floor < first) {
            // The store has dropped them. The offsets between them may be many: a start leaves some out.
            let gone = self.ledger.pieces().overlapping(Offset::ZERO..first).map(|(part, _)| part);
            let gone = Record::Gone { offsets: gone.collect() };
            self.apply(now, gone, &mut out.counters);
        }
        let tally = self.ledger.pieces().tally();
        let stats = PartitionStats {
            free: tally.free + holding.visible,
            claimed: tally.held,
            delayed: tally.later + holding.delayed,
            bytes: tally.bytes + holding.bytes,
            oldest: None,
            newest: None,
        };
        (stats, holding)
    }

    /// Returns how many messages of how many bytes the partition holds.
    pub(super) fn held(&mut self, now: Now, store: &mut impl Store<Inner<T>>, out: &mut Out<T>) -> Held {
        let (stats, _) = self.count(now, store, out);
        Held { messages: stats.free + stats.claimed + stats.delayed, bytes: stats.bytes }
    }

    /// Answers a request for statistics, or reads the times that it needs.
    pub(super) fn tell_stats(
        &mut self,
        now: Now,
        token: T::Manage,
        is_again: bool,
        store: &mut impl Store<Inner<T>>,
        out: &mut Out<T>,
    ) {
        let (stats, holding) = self.count(now, store, out);
        let live = self.ledger.pieces().live_ends();
        let oldest = live.map(|(first, _)| (first, None)).or(holding.oldest);
        let newest = holding.newest.or(live.map(|(_, last)| (last, None)));
        let ends = [self.stats.end(0, oldest), self.stats.end(1, newest)];
        for end in ends {
            if let End::Asked(at) = end {
                let purpose = Purpose::At(at);
                out.requests.push_back(fetch(self.id, purpose, self.id.partition, at, false, 1));
            }
        }
        self.stats.push(token, is_again, stats, ends, out);
    }
}

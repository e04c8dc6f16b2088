//! What a shard does when memory is short: who waits gets it in the order of coming, who takes nothing is closed.

use super::{Connection, Connections, Core};
use crate::base::budget::Share;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::store::Store;

/// How long a connection must have taken nothing before it may be closed because memory is short; the same once consumers wait
/// for it; and how often that is looked at.
const EVICT_AFTER: Millis = Millis::new(1_000);
const EVICT_OVERHELD_AFTER: Millis = Millis::new(250);
const EVICT_EVERY: Millis = Millis::new(50);

impl<S: Store<Connections>> Core<S> {
    /// Whoever waits for memory gets it, in the order of coming.
    pub(super) fn wake_waiting(&mut self, now: Now) {
        for share in Share::ALL {
            self.wake_waiting_in(now, share);
        }
        // Producers starve while the budget is tight, consumers while too much waits to be sent.
        let (tight, overheld) = (self.budget.is_tight(), self.budget.is_overheld());
        if !tight || !overheld {
            for id in std::mem::take(&mut self.starved) {
                let Some(connection) = self.connections.get_mut(id) else { continue };
                let consumes = connection.status().is_consuming;
                if if consumes { overheld } else { tight } {
                    self.starved.push(id);
                } else {
                    connection.is_starved = false;
                    self.mark_dirty(id);
                }
            }
        }
    }

    fn wake_waiting_in(&mut self, now: Now, share: Share) {
        let queue = share as usize;
        for _ in 0..self.waiting[queue].len() {
            let Some(id) = self.waiting[queue].front().copied() else { break };
            // One that waits in another list by now has only left its place here.
            let waits = self.connections.get(id).filter(|connection| connection.waits_in == Some(share));
            let wanted = waits
                .and_then(|connection| connection.status().wanted)
                .filter(|wanted| wanted.share == share);
            if wanted.is_some_and(|wanted| !self.budget.fits(wanted)) {
                break;
            }
            self.waiting[queue].pop_front();
            if let Some(connection) = self.connections.get_mut(id).filter(|one| one.waits_in == Some(share)) {
                connection.waits_in = None;
            }
            // The first in the queue may reserve; whoever comes behind it may not.
            self.budget.set_waiting(share, 0);
            if wanted.is_some() {
                self.with_dirty(now, id, Connection::retry);
            }
            self.budget.set_waiting(share, self.waiting[queue].len());
        }
    }

    /// Closes the connections that have taken nothing for the longest, where what waits to be sent comes near the budget: else
    /// memory that nobody takes would keep all consumers from theirs. Their clients go on from a marker.
    pub(super) fn evict(&mut self, now: Now) {
        let ceiling = self.budget.ceiling();
        if self.budget.unsent() < ceiling / 4 * 3 {
            self.evict_due = None;
            return;
        }
        if *self.evict_due.get_or_insert(now.mono) > now.mono {
            return;
        }
        self.evict_due = Some(now.mono + EVICT_EVERY);
        let stuck = |id| self.connections.get(id).and_then(Connection::stuck_since).map(|since| (since, id));
        let mut stuck: Vec<_> = self.connections.ids().filter_map(stuck).collect();
        stuck.sort_unstable();
        // While others are kept from theirs there is less patience.
        let after = if self.budget.is_overheld() { EVICT_OVERHELD_AFTER } else { EVICT_AFTER };
        for (since, id) in stuck {
            let stuck = now.mono.since(since);
            if stuck < after || self.budget.unsent() <= ceiling / 2 {
                return;
            }
            self.counters.evicted += 1;
            if let Some(connection) = self.connections.get(id) {
                let (project, queue) = connection.names();
                let (connection, peer) = (id.as_u64(), connection.peer());
                tracing::warn!(
                    connection,
                    ?peer,
                    project,
                    queue,
                    stuck_ms = stuck.get(),
                    "memory is short: a client that takes nothing is closed"
                );
            }
            self.with_dirty(now, id, Connection::abandon);
        }
    }
}

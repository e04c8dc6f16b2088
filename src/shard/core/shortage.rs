//! The reaction to a shortage of memory: waiting connections get memory in order of arrival, and connections
//! that read nothing are closed.

use super::{Connection, Connections, Core};
use crate::base::budget::Share;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::store::Store;

/// How long a connection must have read nothing before it may be evicted; the same while consumers are held
/// up by the shortage; and the time between two checks.
const EVICT_AFTER: Millis = Millis::new(1_000);
const EVICT_OVERHELD_AFTER: Millis = Millis::new(250);
const EVICT_EVERY: Millis = Millis::new(50);

impl<S: Store<Connections>> Core<S> {
    /// Gives memory to waiting connections, in order of arrival.
    pub(super) fn wake_waiting(&mut self, now: Now) {
        for share in Share::ALL {
            self.wake_waiting_in(now, share);
        }
        // Producers wait for credit while the budget is tight, consumers and workers while too much waits to be sent.
        let (tight, overheld) = (self.budget.is_tight(), self.budget.is_overheld());
        if !tight || !overheld {
            for id in std::mem::take(&mut self.starved) {
                let Some(connection) = self.connections.get_mut(id) else { continue };
                let status = connection.status();
                let consumes = status.is_consuming || status.is_claiming;
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
            // A connection that has moved to another list left only an outdated entry here.
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
            // The first in the queue may reserve memory, later ones may not.
            self.budget.set_waiting(share, 0);
            if wanted.is_some() {
                self.with_dirty(now, id, Connection::retry);
            }
            self.budget.set_waiting(share, self.waiting[queue].len());
        }
    }

    /// Closes the connections that have read nothing for the longest time, if the bytes to send come near the
    /// budget. Otherwise memory for clients that do not read would hold up all consumers. The evicted clients
    /// can resume from a marker.
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
        // Evict sooner while other consumers are held up.
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
                    %peer,
                    project,
                    queue,
                    stuck_ms = stuck.get(),
                    "memory is short: closing a client that reads nothing"
                );
            }
            self.with_dirty(now, id, Connection::abandon);
        }
    }
}

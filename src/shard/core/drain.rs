//! Draining of a shard (protocol section 3): first its producers get their remaining answers. When that is
//! done on all shards, consumers get the stored messages. Then the remaining connections are closed.

use super::{Connection, Connections, Core, Env, Letter};
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::front::DrainStep;
use crate::store::Store;
use crate::ws::CloseCode;

/// The stage of draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// Draining has not started.
    No,
    /// Producers get their remaining answers.
    Producers,
    /// The producers of this shard have all their answers.
    ProducersDone,
    /// The producers of all shards have all their answers: consumers get the stored messages.
    Consumers,
}

impl<S: Store<Connections>> Core<S> {
    /// Starts to drain (protocol section 3).
    pub fn handle_drain(&mut self, now: Now) {
        if self.drain != Drain::No {
            return;
        }
        self.drain = Drain::Producers;
        self.for_each_connection(now, |connection, env| {
            if connection.is_handshaking() {
                connection.close(CloseCode::AWAY, env);
            }
            connection.with_front(env, |front, cx| front.drain(DrainStep::Producers, cx));
        });
    }

    /// Returns whether draining is complete. Waits for changes of queues and for the operator's
    /// requests, so that their answers are not lost.
    pub fn is_drained(&self) -> bool {
        self.drain == Drain::Consumers
            && self.connections.is_empty()
            && self.changes.is_settled()
            && self.deletions.is_settled()
            && self.desk.is_settled()
            && self.outboxes.iter().all(Vec::is_empty)
    }

    /// Advances to the next stage of draining, if the present one is complete.
    pub(super) fn advance_drain(&mut self, now: Now) {
        let is_producing = |core: &Self, id| {
            core.connections.get(id).is_some_and(|connection| connection.status().is_producing)
        };
        if self.drain == Drain::Producers && !self.connections.ids().any(|id| is_producing(self, id)) {
            self.drain = Drain::ProducersDone;
            self.shards_done += 1;
            for shard in self.others() {
                self.outboxes[usize::from(shard)].push(Letter::ProducersDrained);
            }
        }
        if self.drain == Drain::ProducersDone && self.shards_done == self.shards {
            self.drain = Drain::Consumers;
            let until = now.mono + Millis::from(self.settings.drain_consume_timeout);
            self.for_each_connection(now, |connection, env| {
                connection.with_front(env, |front, cx| front.drain(DrainStep::Consumers { until }, cx));
            });
        }
        if self.drain == Drain::Consumers {
            for id in self.connections.ids().collect::<Vec<_>>() {
                let Some(connection) = self.connections.get(id) else { continue };
                if !connection.is_closing() && !connection.status().is_busy {
                    self.with_dirty(now, id, |connection, env| connection.close(CloseCode::AWAY, env));
                }
            }
        }
    }

    fn for_each_connection(&mut self, now: Now, handle: impl Fn(&mut Connection, &mut Env<'_>)) {
        for id in self.connections.ids().collect::<Vec<_>>() {
            self.with_dirty(now, id, &handle);
        }
    }
}

//! How a shard drains (protocol section 3): producers get their answers, then those of all shards have them, then consumers get
//! what is stored, then whoever is left is closed.

use super::{Connection, Core, Env, Message, Token};
use crate::base::clock::{Now, millis};
use crate::front::ServerSession;
use crate::store::Store;
use crate::ws::CloseCode;

/// How far draining is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// Not begun.
    No,
    /// Producers get their answers.
    Producers,
    /// Those of this shard have them.
    ProducersDone,
    /// Those of every shard have them: consumers get what is stored.
    Consumers,
}

impl<S: Store<Token>> Core<S> {
    /// Draining begins (protocol section 3).
    pub fn handle_drain(&mut self, now: Now) {
        if self.drain != Drain::No {
            return;
        }
        self.drain = Drain::Producers;
        self.for_each_connection(now, |connection, env| {
            if connection.is_handshaking() {
                connection.close(CloseCode::AWAY, env);
            }
            connection.with_session(env, |session, cx| session.drain_producers(cx));
        });
    }

    /// Whether draining has left nothing to do.
    pub fn is_drained(&self) -> bool {
        self.drain == Drain::Consumers
            && self.connections.is_empty()
            && self.outboxes.iter().all(Vec::is_empty)
    }

    /// Draining goes on: producers, those of all shards, consumers, then whoever is left.
    pub(super) fn advance_drain(&mut self, now: Now) {
        let sessions = |core: &Self, wanted: fn(&ServerSession) -> bool| {
            core.connections
                .ids()
                .any(|id| core.connections.get(id).and_then(Connection::session).is_some_and(wanted))
        };
        if self.drain == Drain::Producers && !sessions(self, ServerSession::is_producing) {
            self.drain = Drain::ProducersDone;
            self.shards_done += 1;
            for shard in (0..self.shards).filter(|shard| *shard != self.shard) {
                self.outboxes[usize::from(shard)].push(Message::ProducersDrained);
            }
        }
        if self.drain == Drain::ProducersDone && self.shards_done == self.shards {
            self.drain = Drain::Consumers;
            let until = now.mono_ms + millis(self.settings.drain_consume_timeout);
            self.for_each_connection(now, |connection, env| {
                connection.with_session(env, |session, cx| session.drain_consumers(until, cx));
            });
        }
        if self.drain == Drain::Consumers {
            for id in self.connections.ids().collect::<Vec<_>>() {
                let Some(connection) = self.connections.get(id) else { continue };
                if !connection.is_closing() && !connection.session().is_some_and(ServerSession::is_busy) {
                    self.serve(now, id, |connection, env| connection.close(CloseCode::AWAY, env));
                    self.mark_dirty(id);
                    self.after(now, id);
                }
            }
        }
    }

    fn for_each_connection(&mut self, now: Now, handle: impl Fn(&mut Connection, &mut Env<'_>)) {
        for id in self.connections.ids().collect::<Vec<_>>() {
            self.serve(now, id, &handle);
            self.mark_dirty(id);
            self.after(now, id);
        }
    }
}

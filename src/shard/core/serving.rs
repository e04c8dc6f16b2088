//! Serving a connection: one call of its handling, and what that brings.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::output::Mark;
use super::{Connection, ConnectionId, Connections, Core, Env};
use crate::base::budget::Wanted;
use crate::base::clock::Now;
use crate::operation::Command;
use crate::store::Store;

impl<S: Store<Connections>> Core<S> {
    /// Lets a connection do something, and does what that brings: its commands go on their way, and it gets its places in the
    /// lists of those that wait. A panic of its handling ends this connection and no other.
    #[inline]
    pub(super) fn with<R>(
        &mut self,
        now: Now,
        id: ConnectionId,
        handle: impl FnOnce(&mut Connection, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let handled = self.serve(now, id, handle);
        self.after(now, id);
        handled
    }

    /// The same for what leaves the connection with something to send or to take in.
    pub(super) fn with_dirty(
        &mut self,
        now: Now,
        id: ConnectionId,
        handle: impl FnOnce(&mut Connection, &mut Env<'_>),
    ) {
        self.with(now, id, handle);
        self.mark_dirty(id);
    }

    /// The first half of [`Self::with`], for callers that look at the clock before the second.
    #[inline]
    pub(super) fn serve<R>(
        &mut self,
        now: Now,
        id: ConnectionId,
        handle: impl FnOnce(&mut Connection, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let (connection, mut env) = self.connection(now, id)?;
        let mark = connection.mark();
        let handled = catch_unwind(AssertUnwindSafe(|| handle(connection, &mut env)));
        if handled.is_err() {
            self.handle_panic(now, id, mark);
        }
        handled.ok()
    }

    /// The handling of a connection has panicked; what it was about to ask is not asked.
    #[cold]
    fn handle_panic(&mut self, now: Now, id: ConnectionId, mark: Mark) {
        self.counters.panics += 1;
        for command in self.commands.drain(..) {
            if let Command::Append { reserved, .. } = command {
                self.budget.release(reserved);
            }
        }
        let Some(connection) = self.connections.get(id) else { return };
        let (project, queue) = connection.names();
        let (project, queue) = (project.to_owned(), queue.to_owned());
        let (number, peer) = (id.as_u64(), connection.peer());
        tracing::error!(
            connection = number,
            ?peer,
            project,
            queue,
            "the handling of a connection has panicked: it ends"
        );
        let Some((connection, mut env)) = self.connection(now, id) else { return };
        if catch_unwind(AssertUnwindSafe(|| connection.break_off(mark, &mut env))).is_err() {
            // Not even that: it ends without a word.
            tracing::error!(connection = number, ?peer, project, queue, "and has panicked again");
            if let Some(mut connection) = self.connections.remove(id) {
                connection.close_account(&mut self.budget);
            }
            // So that its socket is looked at, and closed.
            self.dirty.push_back(id);
        }
        self.mark_dirty(id);
    }

    /// A connection was served: its wishes are routed, its places in the lists kept.
    pub(super) fn after(&mut self, now: Now, id: ConnectionId) {
        self.route_commands(now, id);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let status = connection.status();
        if let Some(Wanted { share, .. }) = status.wanted
            && connection.waits_in != Some(share)
        {
            connection.waits_in = Some(share);
            let waiting = &mut self.waiting[share as usize];
            waiting.push_back(id);
            self.budget.set_waiting(share, waiting.len());
        }
        let overheld = self.budget.is_overheld();
        let starves = status.is_starved || overheld && status.is_consuming;
        if starves && !connection.is_starved {
            connection.is_starved = true;
            self.starved.push(id);
        }
        let due = connection.next_deadline(&status, &self.settings);
        self.deadlines.arm(id, &mut connection.armed, due);
    }
}

//! Serves a connection: one call to it, and the effects of that call.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::output::Mark;
use super::{Connection, ConnectionId, Connections, Core, Env};
use crate::base::budget::Wanted;
use crate::base::clock::Now;
use crate::operation::Command;
use crate::store::Store;

impl<S: Store<Connections>> Core<S> {
    /// Calls `handle` on a connection and applies the effects: routes its commands, and updates its places in
    /// the lists of waiting connections. A panic in `handle` ends only this connection.
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

    /// Like [`Self::with`], for calls after which the connection has something to send or to process.
    pub(super) fn with_dirty(
        &mut self,
        now: Now,
        id: ConnectionId,
        handle: impl FnOnce(&mut Connection, &mut Env<'_>),
    ) {
        self.with(now, id, handle);
        self.mark_dirty(id);
    }

    /// Does the first half of [`Self::with`], for callers that read the clock before the second half.
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

    /// Ends a connection after a panic of its handler. Drops the commands that it was about to send.
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
            %peer,
            project,
            queue,
            "connection handler panicked: closing the connection"
        );
        let Some((connection, mut env)) = self.connection(now, id) else { return };
        if catch_unwind(AssertUnwindSafe(|| connection.break_off(mark, &mut env))).is_err() {
            // That panicked as well, so the connection is removed without an answer.
            tracing::error!(connection = number, %peer, project, queue, "connection handler panicked again");
            if let Some(mut connection) = self.connections.remove(id) {
                connection.close_account(&mut self.budget);
            }
            // Makes the next transmit close its socket.
            self.dirty.push_back(id);
        }
        self.mark_dirty(id);
    }

    /// Does the second half of [`Self::with`]: routes commands, and updates the lists.
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
        let starves = status.is_starved || overheld && (status.is_consuming || status.is_claiming);
        if starves && !connection.is_starved {
            connection.is_starved = true;
            self.starved.push(id);
        }
        let due = connection.next_deadline(&status, &self.settings);
        self.deadlines.arm(id, &mut connection.armed, due);
    }
}

//! The audit log: who was admitted or refused, and who did what. Lines of the target [`AUDIT`].

use std::sync::Arc;

use super::pass::Ended;
use super::peer::Peer;
use super::{Connection, ConnectionId, Connections, Core};
use crate::access::Right;
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault};
use crate::base::millis::Millis;
use crate::base::names::{FullName, Project, QueueName};
use crate::process::logging::AUDIT;
use crate::store::Store;

/// The most lines of a shard in a second about clients that are known. Further ones are counted.
const LINES_PER_SECOND: u32 = 500;
/// The most lines about strangers, so that they neither hide the others nor fill the disk.
const STRANGERS_PER_SECOND: u32 = 20;
const SECOND: Millis = Millis::new(1_000);

/// Bounds the audit lines of one shard.
#[derive(Debug, Default)]
pub(super) struct Audit {
    since: Millis,
    /// The lines of this second: about strangers, and about known clients.
    lines: [u32; 2],
    dropped: u64,
}

/// What the audit log says about one event. Text that does not apply is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    pub(super) what: &'static str,
    pub(super) verdict: &'static str,
    pub(super) reason: &'a str,
    pub(super) principal: &'a str,
    pub(super) project: &'a str,
    pub(super) queue: &'a str,
    pub(super) peer: Peer,
}

impl Audit {
    /// Logs an event, or counts it if there were too many in this second.
    pub(super) fn log(&mut self, now: Millis, event: &Event<'_>) {
        if now.since(self.since) >= SECOND {
            (self.since, self.lines) = (now, [0; 2]);
        }
        let is_known = !event.principal.is_empty();
        let lines = &mut self.lines[usize::from(is_known)];
        if *lines >= if is_known { LINES_PER_SECOND } else { STRANGERS_PER_SECOND } {
            self.dropped += 1;
            return;
        }
        *lines += 1;
        let Event { what, verdict, reason, principal, project, queue, peer } = *event;
        tracing::info!(target: AUDIT, what, verdict, reason, principal, project, queue, %peer);
    }

    /// Returns how many lines were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl<S: Store<Connections>> Core<S> {
    /// Logs that an operation begins, for the audit.
    pub(super) fn log_operation(&mut self, now: Now, id: ConnectionId, name: &FullName) {
        if self.authentication.is_none() {
            return;
        }
        let Some(connection) = self.connections.get(id) else { return };
        let what = match connection.right() {
            Some(right) => right.name(),
            None => return,
        };
        let principal = connection.pass().map(|pass| Arc::clone(&pass.grant.principal));
        let principal = principal.as_deref().unwrap_or("");
        self.log_verdict(now, id, what, "", (principal, name.0.as_str(), name.1.as_str()));
    }

    /// Logs and counts an operation that no rule allows.
    pub(super) fn log_forbidden(
        &mut self,
        now: Now,
        id: ConnectionId,
        project: &Project,
        queue: Option<&QueueName>,
        fault: &Fault,
    ) {
        let Fault::Peer(PeerFault::Forbidden(right)) = fault else { return };
        self.counters.auth.forbidden += 1;
        let Some(pass) = self.connections.get(id).and_then(Connection::pass) else { return };
        let principal = Arc::clone(&pass.grant.principal);
        let queue = queue.map_or("", QueueName::as_str);
        let what = Right::ALL.into_iter().map(Right::name).find(|name| name == right).unwrap_or("operation");
        self.log_verdict(now, id, what, "no rule", (&principal, project.as_str(), queue));
    }

    /// Logs that the grant of a connection has ended.
    pub(super) fn log_end(&mut self, now: Now, id: ConnectionId, ended: Ended) {
        let Some(pass) = self.connections.get(id).and_then(Connection::pass) else { return };
        let principal = Arc::clone(&pass.grant.principal);
        self.log_verdict(now, id, "end", ended.reason(), (&principal, "", ""));
    }

    /// Writes a line of the audit log. An empty reason means that the client is granted what it asks for. `names`
    /// are the principal, the project and the queue.
    pub(super) fn log_verdict(
        &mut self,
        now: Now,
        id: ConnectionId,
        what: &'static str,
        reason: &str,
        (principal, project, queue): (&str, &str, &str),
    ) {
        let Some(authentication) = &mut self.authentication else { return };
        let Some(connection) = self.connections.get(id) else { return };
        let verdict = if reason.is_empty() { "granted" } else { "refused" };
        let peer = connection.peer();
        authentication.audit.log(now.mono, &Event { what, verdict, reason, principal, project, queue, peer });
        self.counters.auth.audit_dropped = authentication.audit.dropped();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_of_a_second_are_counted() {
        let mut audit = Audit::default();
        let event = Event {
            what: "connect",
            verdict: "refused",
            reason: "unknown",
            principal: "",
            project: "",
            queue: "",
            peer: Peer::Unix,
        };
        for _ in 0..STRANGERS_PER_SECOND + 7 {
            audit.log(Millis::new(5_000), &event);
        }
        assert_eq!(audit.dropped(), 7);
        let known = Event { principal: "static:app", verdict: "granted", ..event };
        for _ in 0..LINES_PER_SECOND + 3 {
            audit.log(Millis::new(5_500), &known);
        }
        assert_eq!(audit.dropped(), 10, "strangers do not hide what others do");
        audit.log(Millis::new(6_000), &event);
        assert_eq!(audit.dropped(), 10, "another second");
    }
}

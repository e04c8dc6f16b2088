//! Describes connections, and closes one, for the control port.
//!
//! A shard describes few connections at once, so that a question about ten thousand of them delays none.

use super::{Connection, ConnectionId, Connections, Core, Peer};
use crate::base::clock::Now;
use crate::base::millis::UnixMillis;
use crate::base::names::{FullName, Project, QueueName};
use crate::base::queue::QueueInfo;
use crate::base::units::{Offset, Partition};
use crate::front::{Front, FrontStatus};
use crate::store::Store;

/// The most slots of connections that a shard visits for one answer.
pub const ROSTER_SLOTS: u32 = 256;

/// The positions of consume operations after which an answer ends early: a consumer has one for each partition.
const POSITIONS_MAX: usize = 4_096;

/// Some of a shard's connections, by slot.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// The connections.
    pub connections: Vec<ConnectionState>,
    /// The slot to continue from. `None` after the last one.
    pub next: Option<u32>,
}

/// A connection, as its shard sees it.
#[derive(Clone, Debug)]
pub struct ConnectionState {
    /// Its id in the shard.
    pub id: ConnectionId,
    /// The other end.
    pub peer: Peer,
    /// Whether it speaks TLS.
    pub is_secure: bool,
    /// When it was accepted.
    pub since: UnixMillis,
    /// The name of the client, if it has shown a credential.
    pub principal: Option<String>,
    /// The project; `None` while the handshake is not answered.
    pub project: Option<Project>,
    /// What it does: `handshake`, `idle`, `setup`, `produce`, `consume` or `closing`.
    pub kind: &'static str,
    /// The queue of the present operation.
    pub queue: Option<QueueName>,
    /// Where a consume operation is, if the shard knows its queue.
    pub position: Option<Position>,
    /// The bytes that its socket has not accepted yet.
    pub unsent: usize,
}

/// Where a consume operation is.
#[derive(Clone, Debug)]
pub struct Position {
    /// The name of the queue, with its project.
    pub name: FullName,
    /// The queue.
    pub queue: QueueInfo,
    /// The next offset in each partition.
    pub next: Vec<(Partition, Offset)>,
}

impl<S: Store<Connections>> Core<S> {
    /// Describes the connections in at most [`ROSTER_SLOTS`] slots, from `from` on. `is_secure` tells whether
    /// one speaks TLS.
    pub fn roster(&self, from: u32, is_secure: impl Fn(ConnectionId) -> bool) -> Roster {
        let slots = self.connections.slots();
        let end = from.saturating_add(ROSTER_SLOTS).min(slots);
        let mut roster = Roster { connections: Vec::new(), next: (end < slots).then_some(end) };
        let mut positions = 0;
        for id in self.connections.ids_within(from..end) {
            let Some(connection) = self.connections.get(id) else { continue };
            let state = self.describe(id, connection, is_secure(id));
            positions += state.position.as_ref().map_or(0, |position| position.next.len());
            roster.connections.push(state);
            if positions >= POSITIONS_MAX && id.slot + 1 < slots {
                roster.next = Some(id.slot + 1);
                break;
            }
        }
        roster
    }

    /// Closes a connection. Returns false if it is no longer open.
    pub fn dismiss(&mut self, now: Now, id: ConnectionId) -> bool {
        let is_open = self.connections.get(id).is_some_and(|connection| !connection.is_closing());
        if is_open {
            self.with_dirty(now, id, Connection::dismiss);
        }
        is_open
    }

    fn describe(&self, id: ConnectionId, connection: &Connection, is_secure: bool) -> ConnectionState {
        let names = connection.front().and_then(Front::names);
        let position = connection.front().and_then(Front::positions).and_then(|(name, next)| {
            let queue = self.catalogue.get(&name)?;
            Some(Position { name, queue, next })
        });
        ConnectionState {
            id,
            peer: connection.peer(),
            is_secure,
            since: connection.since(),
            principal: connection.principal().map(str::to_owned),
            project: names.map(|(project, _)| project.clone()).or_else(|| connection.applicant()?.project),
            kind: kind(connection, connection.status()),
            queue: names.and_then(|(_, queue)| queue).cloned(),
            position,
            unsent: connection.unsent().len(),
        }
    }
}

fn kind(connection: &Connection, status: FrontStatus) -> &'static str {
    match status {
        _ if connection.is_handshaking() => "handshake",
        _ if connection.is_closing() => "closing",
        FrontStatus { is_consuming: true, .. } => "consume",
        FrontStatus { is_claiming: true, .. } => "claim",
        FrontStatus { credit: Some(_), .. } => "produce",
        FrontStatus { is_busy: true, .. } => "setup",
        _ => "idle",
    }
}

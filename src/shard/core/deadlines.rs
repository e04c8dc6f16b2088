//! Deadlines of connections: when to serve each without an event.
//!
//! A heap with at most one valid entry for each connection. Most deadlines only move later (silence). Such an
//! entry stays where it is, and when it is due the connection names its real deadline.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::slab::ConnectionId;
use crate::base::millis::Millis;

/// The deadlines of the connections of one shard.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<(Millis, ConnectionId)>>,
}

/// The time of the valid entry of a connection, if it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Armed(Option<Millis>);

impl Deadlines {
    /// Arms a deadline at `due`, unless an earlier one is armed.
    #[inline]
    pub fn arm(&mut self, id: ConnectionId, armed: &mut Armed, due: Option<Millis>) {
        if let Some(due) = due
            && armed.0.is_none_or(|at| due < at)
        {
            armed.0 = Some(due);
            self.heap.push(Reverse((due, id)));
        }
    }

    /// Removes all entries, so that they can be armed again with other times.
    pub fn clear(&mut self) {
        self.heap.clear();
    }

    /// Returns when the first entry is due.
    pub fn next_due(&self) -> Option<Millis> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// Removes and returns an entry that is due. It may be outdated, which [`Armed::fire`] detects.
    pub fn poll(&mut self, now: Millis) -> Option<(ConnectionId, Millis)> {
        let Reverse((due, _)) = self.heap.peek()?;
        if *due > now {
            return None;
        }
        self.heap.pop().map(|Reverse((due, id))| (id, due))
    }
}

impl Armed {
    /// Returns whether the removed entry is the connection's valid one. If so, disarms it.
    pub fn fire(&mut self, due: Millis) -> bool {
        let current = self.0 == Some(due);
        if current {
            self.0 = None;
        }
        current
    }
}

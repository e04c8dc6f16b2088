//! When connections want to be looked at although nothing happened.
//!
//! A heap with at most one useful entry for each connection. Most deadlines only move later (silence); such an
//! entry is left where it is, and on its turn the connection says when it really wants to be called.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::slab::ConnectionId;
use crate::base::millis::Millis;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<(Millis, ConnectionId)>>,
}

/// A connection's entry: when it is in the heap for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Armed(Option<Millis>);

impl Deadlines {
    /// The connection wants to be called at `due`, or earlier if that was said before.
    #[inline]
    pub fn arm(&mut self, id: ConnectionId, armed: &mut Armed, due: Option<Millis>) {
        if let Some(due) = due
            && armed.0.is_none_or(|at| due < at)
        {
            armed.0 = Some(due);
            self.heap.push(Reverse((due, id)));
        }
    }

    /// When the first entry is due.
    pub fn next_due(&self) -> Option<Millis> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes an entry that is due. Not every one is its connection's present one: [`Armed::fire`].
    pub fn poll(&mut self, now: Millis) -> Option<(ConnectionId, Millis)> {
        let Reverse((due, _)) = self.heap.peek()?;
        if *due > now {
            return None;
        }
        self.heap.pop().map(|Reverse((due, id))| (id, due))
    }
}

impl Armed {
    /// Whether the entry taken is the connection's present one; forgets it then.
    pub fn fire(&mut self, due: Millis) -> bool {
        let current = self.0 == Some(due);
        if current {
            self.0 = None;
        }
        current
    }
}

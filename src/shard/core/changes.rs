//! The changes of queues that their home's store makes: deletions and alterations. Of each name, the store opens, changes
//! or deletes at most one queue at a time; what else is asked waits, in order.

use std::collections::VecDeque;

use super::wishes::Checked;
use super::{Asking, ChangeId, Connections, Core};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::base::names::FullName;
use crate::base::queue::QueueId;
use crate::store::Store;

/// The time after which a change in the store is late, because the disk is slow or fails. Operations that wait
/// to open a queue that is being deleted are refused at this interval, and draining does not wait for the change.
const LATE: Millis = Millis::new(1_000);

/// A request that waits for the end of an opening or a change of the same queue.
#[derive(Debug)]
pub(super) enum Waiter {
    /// An operation that opens the queue.
    Open(Asking, bool),
    /// A deletion.
    Delete(ChangeId),
    /// A wish of the operator.
    Wish(ChangeId, Checked),
}

/// What the store does to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It deletes the queue.
    Deletion,
    /// It alters the queue, which exists before and after.
    Alteration,
}

/// A change that the store makes.
#[derive(Debug)]
pub(super) struct Changing {
    pub(super) id: ChangeId,
    pub(super) name: FullName,
    pub(super) queue: QueueId,
    pub(super) kind: Kind,
    pub(super) waiters: VecDeque<Waiter>,
    /// When the next waiters are refused.
    due: Millis,
    is_late: bool,
}

/// The changes in progress of queues whose home is this shard. They are few, because the control port limits
/// them.
#[derive(Debug, Default)]
pub(super) struct Changes {
    next: u64,
    running: Vec<Changing>,
}

impl Changes {
    /// Returns the id of the next request, of an operation or of the operator.
    pub(super) fn next_id(&mut self, by: Option<Asking>) -> ChangeId {
        self.next += 1;
        ChangeId { number: self.next, by }
    }

    /// Notes that the store makes a change.
    pub(super) fn begin(&mut self, now: Now, id: ChangeId, name: FullName, queue: QueueId, kind: Kind) {
        let (waiters, due) = (VecDeque::new(), now.mono + LATE);
        self.running.push(Changing { id, name, queue, kind, waiters, due, is_late: false });
    }

    /// Notes that the store has answered a change. Returns it.
    pub(super) fn end(&mut self, id: ChangeId) -> Option<Changing> {
        let index = self.running.iter().position(|changing| changing.id == id)?;
        Some(self.running.swap_remove(index))
    }

    /// Returns the requests that wait for the change of a queue; `None` if the store does not change it.
    pub(super) fn waiters(&mut self, name: &FullName) -> Option<&mut VecDeque<Waiter>> {
        self.running.iter_mut().find(|changing| changing.name == *name).map(|changing| &mut changing.waiters)
    }

    /// As [`Self::waiters`], unless the queue exists before and after the change.
    pub(super) fn waiters_to_see(&mut self, name: &FullName) -> Option<&mut VecDeque<Waiter>> {
        let mut running = self.running.iter_mut();
        let changing = running.find(|changing| changing.name == *name && changing.kind == Kind::Deletion)?;
        Some(&mut changing.waiters)
    }

    /// Returns when the next change is late.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.running.iter().map(|changing| changing.due).min()
    }

    /// Returns whether no change is under way, except late ones.
    pub(super) fn is_settled(&self) -> bool {
        self.running.iter().all(|changing| changing.is_late)
    }

    /// Returns the operations to refuse, because they wait to open a queue whose deletion is late.
    fn handle_timeouts(&mut self, now: Now) -> Vec<(Asking, FullName)> {
        let mut refused = Vec::new();
        for Changing { name, waiters, due, is_late, .. } in &mut self.running {
            if *due > now.mono {
                continue;
            }
            (*due, *is_late) = (now.mono + LATE, true);
            waiters.retain(|waiter| match waiter {
                Waiter::Open(by, _) => {
                    refused.push((*by, name.clone()));
                    false
                }
                Waiter::Delete(_) | Waiter::Wish(..) => true,
            });
        }
        refused
    }
}

impl<S: Store<Connections>> Core<S> {
    /// Handles the passing of time.
    pub(super) fn handle_late_changes(&mut self, now: Now) {
        for (by, name) in self.changes.handle_timeouts(now) {
            let fault = StoreFault::Unavailable("the queue is being deleted");
            self.answer_opened(now, by, name, Err(fault.into()));
        }
        for (id, result) in self.deletions.handle_timeouts(now) {
            self.answer_deletion(now, id, result);
        }
    }

    /// Returns the requests that wait for an opening or a change of a queue; `None` if there is neither.
    pub(super) fn waiters(&mut self, name: &FullName) -> Option<&mut VecDeque<Waiter>> {
        self.openings.waiters(name).or_else(|| self.changes.waiters(name))
    }

    /// Continues with the requests that waited for an opening or a change to end, in order.
    pub(super) fn resume(&mut self, now: Now, name: &FullName, waiters: VecDeque<Waiter>) {
        for waiter in waiters {
            match waiter {
                Waiter::Open(by, may_create) => self.open(now, by, name.clone(), may_create),
                Waiter::Delete(id) => self.begin_deletion(now, id, name.clone()),
                Waiter::Wish(id, wish) => self.grant_wish(now, id, name.clone(), wish),
            }
        }
    }
}

//! Deletes queues. The queue's home deletes it in its store, then every shard forgets it.
//!
//! ```text
//! asked ──▶ waits for an opening or another deletion of the queue
//!   │                            │
//!   ▼                            ▼
//! in the store ──▶ forgotten here, and by each other shard ──▶ answered
//!   └── no such queue ──────────────────────────────────────────▲
//! ```
//!
//! Letters from one shard to another arrive in order, and shards learn of queues only from the home. So a
//! shard that has forgotten a queue does not learn of it again, and one round of letters is enough.

use std::collections::VecDeque;

use super::{Asking, Connections, Core, DeletionId, Letter};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::base::names::FullName;
use crate::base::queue::QueueId;
use crate::store::{Request, Store};

/// The time after which a deletion in the store is late, because the disk is slow or fails. Operations that
/// wait to open the queue are refused at this interval, and draining does not wait for the deletion.
const LATE: Millis = Millis::new(1_000);

/// How long a deletion waits at most for the other shards to forget the queue.
pub const FORGET: Millis = Millis::new(1_000);

/// The result of a successful deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// No shard serves the queue any more.
    Everywhere,
    /// The queue is deleted, but the shard of this number did not confirm in time that it has forgotten it.
    NotBy(u16),
}

/// A request that waits for the end of an opening or a deletion of the same queue.
#[derive(Debug)]
pub(super) enum Waiter {
    /// An operation that opens the queue.
    Open(Asking, bool),
    /// Another deletion.
    Delete(DeletionId),
}

/// A deletion that the store executes.
#[derive(Debug)]
struct Deleting {
    id: DeletionId,
    name: FullName,
    queue: QueueId,
    waiters: VecDeque<Waiter>,
    /// When the next waiters are refused.
    due: Millis,
    is_late: bool,
}

/// A deletion that the other shards have to confirm.
#[derive(Debug)]
struct Forgetting {
    id: DeletionId,
    queue: QueueId,
    /// The shards that have not confirmed yet; at least one.
    missing: Vec<u16>,
    /// When the deletion is answered without their confirmations.
    due: Millis,
}

/// The deletions in progress of queues whose home is this shard. They are few, because the control port
/// limits them.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    next: u64,
    deleting: Vec<Deleting>,
    forgetting: Vec<Forgetting>,
    answers: VecDeque<(DeletionId, Result<Deleted, StoreFault>)>,
}

impl Deletions {
    /// Returns the requests that wait for the deletion of a queue; `None` if the store is not deleting it.
    pub(super) fn waiters(&mut self, name: &FullName) -> Option<&mut VecDeque<Waiter>> {
        self.deleting.iter_mut().find(|deleting| deleting.name == *name).map(|deleting| &mut deleting.waiters)
    }

    /// Returns when the next deletion is late in the store, or due without all confirmations.
    pub(super) fn next_due(&self) -> Option<Millis> {
        let deleting = self.deleting.iter().map(|deleting| deleting.due);
        deleting.chain(self.forgetting.iter().map(|forgetting| forgetting.due)).min()
    }

    /// Returns whether no deletion is under way, except late ones.
    pub(super) fn is_settled(&self) -> bool {
        self.forgetting.is_empty() && self.deleting.iter().all(|deleting| deleting.is_late)
    }

    fn answer(&mut self, id: DeletionId, result: Result<Deleted, StoreFault>) {
        self.answers.push_back((id, result));
    }

    /// Notes that another shard has forgotten a queue.
    pub(super) fn handle_forgotten(&mut self, shard: u16, queue: QueueId) {
        // No deletion waits if the confirmation is late, or if the store itself reported the queue's end.
        let Some(index) = self.forgetting.iter().position(|forgetting| forgetting.queue == queue) else {
            return;
        };
        let missing = &mut self.forgetting[index].missing;
        missing.retain(|of| *of != shard);
        if missing.is_empty() {
            let Forgetting { id, .. } = self.forgetting.swap_remove(index);
            self.answer(id, Ok(Deleted::Everywhere));
        }
    }

    /// Answers the deletions that are due. Returns the operations to refuse, because they wait to open a
    /// queue whose deletion is late.
    fn handle_timeouts(&mut self, now: Now) -> Vec<(Asking, FullName)> {
        let Self { deleting, forgetting, answers, .. } = self;
        let mut refused = Vec::new();
        for Deleting { name, waiters, due, is_late, .. } in deleting {
            if *due > now.mono {
                continue;
            }
            (*due, *is_late) = (now.mono + LATE, true);
            waiters.retain(|waiter| match waiter {
                Waiter::Open(by, _) => {
                    refused.push((*by, name.clone()));
                    false
                }
                Waiter::Delete(_) => true,
            });
        }
        forgetting.retain(|forgetting| {
            let waits = forgetting.due > now.mono;
            if !waits && let Some(shard) = forgetting.missing.first() {
                answers.push_back((forgetting.id, Ok(Deleted::NotBy(*shard))));
            }
            waits
        });
        refused
    }
}

impl<S: Store<Connections>> Core<S> {
    /// Deletes a queue whose home is this shard. [`Self::poll_deleted`] returns the answer.
    pub fn delete(&mut self, now: Now, name: FullName) -> DeletionId {
        self.deletions.next += 1;
        let id = DeletionId(self.deletions.next);
        self.begin_deletion(now, id, name);
        id
    }

    /// Returns the next answer to a deletion: [`StoreFault::NoQueue`] if there is no queue of that name.
    pub fn poll_deleted(&mut self) -> Option<(DeletionId, Result<Deleted, StoreFault>)> {
        self.deletions.answers.pop_front()
    }

    /// Handles the passing of time.
    pub(super) fn handle_late_deletions(&mut self, now: Now) {
        for (by, name) in self.deletions.handle_timeouts(now) {
            let fault = StoreFault::Unavailable("the queue is being deleted");
            self.answer_opened(now, by, name, Err(fault.into()));
        }
    }

    fn begin_deletion(&mut self, now: Now, id: DeletionId, name: FullName) {
        let waiters = self.openings.waiters(&name).or_else(|| self.deletions.waiters(&name));
        if let Some(waiters) = waiters {
            return waiters.push_back(Waiter::Delete(id));
        }
        // The home knows every queue. If the store has another one after all, no shard serves it, and any id
        // will do.
        let queue = self.catalogue.get(&name).map_or_else(|| self.catalogue.next_id(), |info| info.id);
        let (waiters, due) = (VecDeque::new(), now.mono + LATE);
        self.deletions.deleting.push(Deleting {
            id,
            name: name.clone(),
            queue,
            waiters,
            due,
            is_late: false,
        });
        self.submit(now, Request::Delete { token: id, name });
    }

    /// Handles the store's answer to a deletion.
    pub(super) fn handle_deleted(&mut self, now: Now, id: DeletionId, result: Result<u64, StoreFault>) {
        let Some(index) = self.deletions.deleting.iter().position(|deleting| deleting.id == id) else {
            return;
        };
        let Deleting { name, queue, waiters, .. } = self.deletions.deleting.swap_remove(index);
        match result {
            Ok(incarnation) => self.forget_everywhere(now, id, queue, incarnation),
            Err(fault) => self.deletions.answer(id, Err(fault)),
        }
        self.resume(now, &name, waiters);
    }

    fn forget_everywhere(&mut self, now: Now, id: DeletionId, queue: QueueId, incarnation: u64) {
        self.tell_gone(queue, incarnation, Some(self.shard));
        let missing: Vec<u16> = self.others().collect();
        if missing.is_empty() {
            return self.deletions.answer(id, Ok(Deleted::Everywhere));
        }
        let due = now.mono + FORGET;
        self.deletions.forgetting.push(Forgetting { id, queue, missing, due });
    }

    /// Forgets a queue whose life has ended, and tells the other shards to forget it. They confirm it to the
    /// shard `confirm_to`.
    pub(super) fn tell_gone(&mut self, queue: QueueId, incarnation: u64, confirm_to: Option<u16>) {
        self.forget(queue, incarnation);
        for shard in self.others() {
            self.outboxes[usize::from(shard)].push(Letter::Forget { queue, incarnation, confirm_to });
        }
    }

    /// Continues with the requests that waited for an opening or a deletion to end, in order.
    pub(super) fn resume(&mut self, now: Now, name: &FullName, waiters: VecDeque<Waiter>) {
        for waiter in waiters {
            match waiter {
                Waiter::Open(by, may_create) => self.open(now, by, name.clone(), may_create),
                Waiter::Delete(id) => self.begin_deletion(now, id, name.clone()),
            }
        }
    }
}

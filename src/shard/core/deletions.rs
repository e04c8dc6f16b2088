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

use super::changes::{Changing, Kind, Waiter};
use super::{Asking, ChangeId, Connections, Core, Letter};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::base::names::FullName;
use crate::base::queue::QueueId;
use crate::operation::Answer;
use crate::store::{Request, Store};

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

/// A deletion that the other shards have to confirm.
#[derive(Debug)]
struct Forgetting {
    id: ChangeId,
    queue: QueueId,
    /// The shards that have not confirmed yet; at least one.
    missing: Vec<u16>,
    /// When the deletion is answered without their confirmations.
    due: Millis,
}

/// The deletions that the store has made and that are not answered, of queues whose home is this shard.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    forgetting: Vec<Forgetting>,
    answers: VecDeque<(ChangeId, Result<Deleted, StoreFault>)>,
}

impl Deletions {
    /// Returns when the next deletion is due without all confirmations.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.forgetting.iter().map(|forgetting| forgetting.due).min()
    }

    /// Returns whether no deletion is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.forgetting.is_empty()
    }

    /// Notes that another shard has forgotten a queue. Returns the deletion that this was the last confirmation of.
    fn handle_forgotten(&mut self, shard: u16, queue: QueueId) -> Option<ChangeId> {
        // No deletion waits if the confirmation is late, or if the store itself reported the queue's end.
        let index = self.forgetting.iter().position(|forgetting| forgetting.queue == queue)?;
        let missing = &mut self.forgetting[index].missing;
        missing.retain(|of| *of != shard);
        missing.is_empty().then(|| self.forgetting.swap_remove(index).id)
    }

    /// Returns the deletions that are due, and their answers.
    pub(super) fn handle_timeouts(&mut self, now: Now) -> Vec<(ChangeId, Result<Deleted, StoreFault>)> {
        let Self { forgetting, .. } = self;
        let mut answers = Vec::new();
        forgetting.retain(|forgetting| {
            let waits = forgetting.due > now.mono;
            if !waits && let Some(shard) = forgetting.missing.first() {
                answers.push((forgetting.id, Ok(Deleted::NotBy(*shard))));
            }
            waits
        });
        answers
    }
}

impl<S: Store<Connections>> Core<S> {
    /// Deletes a queue whose home is this shard. [`Self::poll_deleted`] returns the answer.
    pub fn delete(&mut self, now: Now, name: FullName) -> ChangeId {
        self.delete_for(now, None, name)
    }

    /// As [`Self::delete`], for an operation, which gets the answer.
    pub(super) fn delete_for(&mut self, now: Now, by: Option<Asking>, name: FullName) -> ChangeId {
        let id = self.changes.next_id(by);
        self.begin_deletion(now, id, name);
        id
    }

    pub(super) fn answer_deletion(&mut self, now: Now, id: ChangeId, result: Result<Deleted, StoreFault>) {
        match id.by {
            Some(by) => self.answer_order(now, by, Answer::Deleted(result.map(drop))),
            None => self.deletions.answers.push_back((id, result)),
        }
    }

    /// Handles that another shard has forgotten a queue.
    pub(super) fn handle_forgotten(&mut self, now: Now, shard: u16, queue: QueueId) {
        if let Some(id) = self.deletions.handle_forgotten(shard, queue) {
            self.answer_deletion(now, id, Ok(Deleted::Everywhere));
        }
    }

    /// Returns the next answer to a deletion: [`StoreFault::NoQueue`] if there is no queue of that name.
    pub fn poll_deleted(&mut self) -> Option<(ChangeId, Result<Deleted, StoreFault>)> {
        self.deletions.answers.pop_front()
    }

    pub(super) fn begin_deletion(&mut self, now: Now, id: ChangeId, name: FullName) {
        if let Some(waiters) = self.waiters(&name) {
            return waiters.push_back(Waiter::Delete(id));
        }
        // The home knows every queue. If the store has another one after all, no shard serves it, and any id
        // will do.
        let queue = self.catalogue.get(&name).map_or_else(|| self.catalogue.next_id(), |info| info.id);
        self.changes.begin(now, id, name.clone(), queue, Kind::Deletion);
        self.submit(now, Request::Delete { token: id, name });
    }

    /// Handles the store's answer to a deletion.
    pub(super) fn handle_deleted(&mut self, now: Now, id: ChangeId, result: Result<u64, StoreFault>) {
        let Some(Changing { name, queue, waiters, .. }) = self.changes.end(id) else { return };
        match result {
            Ok(incarnation) => self.forget_everywhere(now, id, queue, incarnation),
            Err(fault) => self.answer_deletion(now, id, Err(fault)),
        }
        self.resume(now, &name, waiters);
    }

    fn forget_everywhere(&mut self, now: Now, id: ChangeId, queue: QueueId, incarnation: u64) {
        self.tell_gone(queue, incarnation, Some(self.shard));
        let missing: Vec<u16> = self.others().collect();
        if missing.is_empty() {
            return self.answer_deletion(now, id, Ok(Deleted::Everywhere));
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
}

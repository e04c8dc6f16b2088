//! The operator's requests about messages, and for all queues: passes them to the store of this shard, which owns the
//! partition.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::{ChangeId, Connections, Core, ManageToken};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::{Manage, Managed};
use crate::base::millis::Millis;
use crate::base::names::FullName;
use crate::base::queue::PartitionKey;
use crate::store::{Listed, Queues, Request, Store};

/// The requests under way, and the answers. The control port limits the requests.
#[derive(Debug, Default)]
pub(super) struct Desk {
    next: u64,
    under_way: HashSet<ManageToken>,
    answers: VecDeque<(ManageToken, Result<Managed, StoreFault>)>,
    lists: VecDeque<(ChangeId, Queues)>,
}

impl Desk {
    /// Returns whether no request is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.under_way.is_empty()
    }
}

impl<S: Store<Connections>> Core<S> {
    /// Passes on a request about messages of a partition of this shard. [`Self::poll_managed`] returns the answer.
    pub fn manage(&mut self, now: Now, partition: PartitionKey, what: Manage) -> ManageToken {
        self.desk.next += 1;
        let token = ManageToken::Operator(self.desk.next);
        self.desk.under_way.insert(token);
        self.submit(now, Request::Manage { token, partition, what });
        token
    }

    /// Returns the next answer to [`Self::manage`].
    pub fn poll_managed(&mut self) -> Option<(ManageToken, Result<Managed, StoreFault>)> {
        self.desk.answers.pop_front()
    }

    /// Asks the store of this shard for all queues. [`Self::poll_listed`] returns the answer.
    pub fn list(&mut self, now: Now) -> ChangeId {
        let token = self.changes.next_id(None);
        if S::LISTS {
            self.submit(now, Request::List { token, age: Millis::ZERO });
        } else {
            let described = self.store.describe(now.unix);
            let listed =
                |all: Vec<_>| all.into_iter().map(|(name, held)| (name, Listed::from(held))).collect();
            self.desk.lists.push_back((token, described.map(listed)));
        }
        token
    }

    /// Returns the next answer to [`Self::list`].
    pub fn poll_listed(&mut self) -> Option<(ChangeId, Queues)> {
        self.desk.lists.pop_front()
    }

    /// Handles the answer of the store to who asks for all queues: the operator, or an operation.
    pub(super) fn handle_listed(
        &mut self,
        now: Now,
        token: ChangeId,
        result: Result<Arc<[(FullName, u16)]>, StoreFault>,
    ) {
        if let Some(by) = token.by {
            return self.handle_listed_for(now, by, token, result.as_deref().map_err(Clone::clone));
        }
        let listed = |(name, partitions): &(FullName, u16)| {
            (name.clone(), Listed { partitions: *partitions, held: None })
        };
        self.desk.lists.push_back((token, result.map(|all| all.iter().map(listed).collect())));
    }

    pub(super) fn handle_managed(&mut self, token: ManageToken, result: Result<Managed, StoreFault>) {
        if self.desk.under_way.remove(&token) {
            self.desk.answers.push_back((token, result));
        }
    }
}

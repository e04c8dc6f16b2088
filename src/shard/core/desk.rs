//! The operator's requests about messages: passes them to the store of this shard, which owns the partition.

use std::collections::{HashSet, VecDeque};

use super::{Connections, Core, ManageToken};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::{Manage, Managed};
use crate::base::queue::PartitionKey;
use crate::store::{Request, Store};

/// The requests under way, and the answers. The control port limits the requests.
#[derive(Debug, Default)]
pub(super) struct Desk {
    next: u64,
    under_way: HashSet<ManageToken>,
    answers: VecDeque<(ManageToken, Result<Managed, StoreFault>)>,
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

    pub(super) fn handle_managed(&mut self, token: ManageToken, result: Result<Managed, StoreFault>) {
        if self.desk.under_way.remove(&token) {
            self.desk.answers.push_back((token, result));
        }
    }
}

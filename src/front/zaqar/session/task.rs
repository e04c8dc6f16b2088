//! An action that waits for the shard.

use super::known::KnownQueue;
use super::outcome::Outcome;
use crate::base::error::StoreFault;
use crate::base::manage::Manage;
use crate::base::units::Partition;
use crate::operation::{Answer, Command, OperationId, Order, Resources, Target};

/// What an action has come to so far.
#[derive(Debug)]
pub(super) enum Progress {
    /// It waits for answers.
    Waits(Box<dyn Task>),
    /// It is done.
    Done(Outcome),
}

/// An action that waits for the shard's answers.
pub(super) trait Task: std::fmt::Debug {
    /// Handles an answer to one of its commands. Returns `None` while it waits for others.
    fn answer(&mut self, answer: Answer, call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>>;

    /// Handles that the connection is closed before the action is done.
    fn abandon(&mut self, _call: &mut Call<'_, '_>) {}
}

/// The answers that an action waits for, of several partitions or batches. It fails with the first fault.
#[derive(Debug)]
pub(super) struct Parts {
    left: usize,
    fault: Option<StoreFault>,
}

impl Parts {
    pub(super) fn new(left: usize) -> Self {
        Self { left, fault: None }
    }

    /// Takes the next answer, unless it is a fault.
    pub(super) fn take<T>(&mut self, result: Result<T, StoreFault>) -> Option<T> {
        self.left = self.left.saturating_sub(1);
        result.map_err(|fault| self.fault.get_or_insert(fault)).ok()
    }

    /// Returns whether the action succeeds. `None` while answers are missing.
    pub(super) fn end(&mut self) -> Option<Result<(), StoreFault>> {
        (self.left == 0).then(|| self.fault.take().map_or(Ok(()), Err))
    }
}

/// What an action borrows for one call.
#[derive(Debug)]
pub(super) struct Call<'a, 'r> {
    /// The operation that its commands belong to: one for each request.
    pub(super) operation: OperationId,
    /// The parts of the shard.
    pub(super) resources: &'a mut Resources<'r>,
    /// Bytes of the budget that the request has, for what it stores.
    pub(super) reserved: &'a mut usize,
}

impl Call<'_, '_> {
    /// Sends a command.
    pub(super) fn send(&mut self, command: Command) {
        self.resources.commands.push(command);
    }

    /// Sends an order.
    pub(super) fn order(&mut self, order: Order) {
        let operation = self.operation;
        self.send(Command::Order { operation, order });
    }

    /// Sends a request about the messages of a partition.
    pub(super) fn manage(&mut self, queue: &KnownQueue, partition: Partition, what: Manage) {
        let (operation, target) = (self.operation, queue.target(partition));
        self.send(Command::Manage { operation, target, what });
    }
}

impl KnownQueue {
    /// Returns the target of one of its partitions.
    pub(super) fn target(&self, partition: Partition) -> Target {
        Target { partition: self.info.key(partition), hash: self.info.hash }
    }
}

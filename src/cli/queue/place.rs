//! What a command can ask of queues, wherever they are.

use crate::base::names::{FullName, QueueName};
use crate::cli::Failure;
use crate::control::{MessageLine, QueueChange, QueueLine, QueuePage, RemovedLine};

/// A number of messages, if the place says it.
pub(in crate::cli) type Count = Option<u64>;

/// Queues, and what can be asked of them. `None` means that the queue does not exist.
pub(in crate::cli) trait Place {
    /// Returns the queues of a project whose names begin with `prefix`, or of all projects.
    fn list(&mut self, project: Option<&str>, prefix: &str) -> Result<Vec<QueueLine>, Failure>;

    /// Returns a queue with its attributes and what it holds.
    fn show(&mut self, name: &FullName) -> Result<Option<QueuePage>, Failure>;

    /// Creates a queue. Returns whether it did not exist.
    fn create(&mut self, name: &FullName, new: QueueChange) -> Result<(bool, QueuePage), Failure>;

    /// Changes attributes, or adds partitions.
    fn set(&mut self, name: &FullName, change: QueueChange) -> Result<Option<QueuePage>, Failure>;

    /// Deletes all messages of a queue. Returns their number.
    fn purge(&mut self, name: &FullName) -> Result<Option<Count>, Failure>;

    /// Moves dead letters back to their queues, or to `to`. Returns their number.
    fn redrive(&mut self, name: &FullName, to: Option<&QueueName>) -> Result<Option<u64>, Failure>;

    /// Deletes a queue. Returns whether it existed.
    fn delete(&mut self, name: &FullName) -> Result<bool, Failure>;

    /// Returns those of these messages that exist.
    fn find(&mut self, name: &FullName, ids: &[String]) -> Result<Option<Vec<MessageLine>>, Failure>;

    /// Deletes messages, at most `IDS_MAX`, or those that are not claimed.
    fn remove(
        &mut self,
        name: &FullName,
        ids: &[String],
        is_unclaimed: bool,
    ) -> Result<Option<Vec<RemovedLine>>, Failure>;

    /// Deletes the oldest messages and returns them.
    fn pop(&mut self, name: &FullName, count: u32) -> Result<Option<Vec<MessageLine>>, Failure>;

    /// Ends the use of the place. What was changed is durable without it.
    fn close(self: Box<Self>) -> Result<(), Failure>;
}

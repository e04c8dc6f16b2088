//! What an operation asks of its shard.

use crate::base::batch::Batch;
use crate::base::error::Fault;
use crate::base::names::{ClientId, FullName, Project, QueueName};
use crate::base::queue::{PartitionKey, Position, owner};
use crate::base::units::{Offset, Sequence};

/// An operation of a connection; answers to an earlier one are recognised and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u32);

/// One partition of a queue, and what its owner is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The partition.
    pub partition: PartitionKey,
    /// The stable hash of the queue.
    pub hash: u64,
}

impl Target {
    /// The shard that owns the partition, of `shards`.
    pub fn owner(&self, shards: u16) -> u16 {
        owner(self.hash, self.partition.partition, shards)
    }
}

/// What an operation asks. Each but `Cancel` and `Report` is answered exactly once.
#[derive(Clone, Debug)]
pub enum Command {
    /// Find the queue, or create it: [`Answer::Opened`](super::Answer::Opened).
    Open {
        /// Who asks.
        operation: OperationId,
        /// The queue.
        name: FullName,
    },
    /// Store a batch: [`Answer::Appended`](super::Answer::Appended).
    Append {
        /// Who asks.
        operation: OperationId,
        /// The operation's batches, counted from 0.
        sequence: Sequence,
        /// Where to.
        target: Target,
        /// What.
        batch: Batch,
        /// Bytes of the budget that the shard gives back when the answer is there.
        reserved: usize,
        /// When the first of its messages was read.
        read_ns: u64,
    },
    /// Find a position: [`Answer::Resolved`](super::Answer::Resolved).
    Resolve {
        /// Who asks.
        operation: OperationId,
        /// Of which partition.
        target: Target,
        /// Which.
        position: Position,
    },
    /// Read: [`Answer::Fetched`](super::Answer::Fetched).
    Fetch {
        /// Who asks.
        operation: OperationId,
        /// Of which partition.
        target: Target,
        /// The first offset wanted.
        from: Offset,
        /// Leave out what this client stored.
        exclude: Option<ClientId>,
        /// Answer only when there is something.
        wait: bool,
    },
    /// Tell the operator that the operation fails.
    Report {
        /// Whose operation.
        project: Project,
        /// Its queue, where the setup names one.
        queue: Option<QueueName>,
        /// Why.
        fault: Fault,
    },
    /// Answer the outstanding fetch of the partition now.
    Cancel {
        /// Who asks.
        operation: OperationId,
        /// Of which partition.
        target: Target,
    },
}

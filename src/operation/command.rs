//! What a session asks of its shard, and what comes back.

use crate::base::batch::Batch;
use crate::base::error::Fault;
use crate::base::names::{ClientId, QueueName};
use crate::base::queue::Position;

/// An operation of a connection; answers to an earlier one are recognised and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u32);

/// A wish of a session. Each but `Cancel` and `Report` is answered exactly once.
#[derive(Clone, Debug)]
pub enum Command {
    /// Find the queue, or create it: `ServerSession::handle_opened`.
    Open {
        /// Who asks.
        operation: OperationId,
        /// In the connection's project.
        queue: QueueName,
    },
    /// Store a batch: `handle_appended`.
    Append {
        /// Who asks.
        operation: OperationId,
        /// The operation's batches, counted from 0.
        sequence: u64,
        /// Where to.
        partition: u16,
        /// What.
        batch: Batch,
        /// Bytes of the budget that the shard gives back when the answer is there.
        reserved: usize,
        /// When the first of its messages was read.
        read_ns: u64,
    },
    /// Find a position: `handle_position`.
    Resolve {
        /// Who asks.
        operation: OperationId,
        /// Of which partition.
        partition: u16,
        /// Which.
        position: Position,
    },
    /// Read: `handle_fetched`.
    Fetch {
        /// Who asks.
        operation: OperationId,
        /// Of which partition.
        partition: u16,
        /// The first offset wanted.
        from: u64,
        /// Leave out what this client stored.
        exclude: Option<ClientId>,
        /// Answer only when there is something.
        wait: bool,
    },
    /// Tell the operator that the operation fails.
    Report {
        /// Why.
        fault: Fault,
    },
    /// Answer the outstanding fetch of the partition now.
    Cancel {
        /// Who asks.
        operation: OperationId,
        /// Of which partition.
        partition: u16,
    },
}

//! The letters between shards. All letters of a turn from one shard to another travel as one delivery.

use super::slab::ConnectionId;
use crate::base::claim::Worker;
use crate::base::error::Fault;
use crate::base::names::FullName;
use crate::base::queue::{QueueId, QueueInfo};
use crate::base::units::{Partition, Sequence};
use crate::operation::{Answer, OperationId, Order};
use crate::store::{Asker, Completion, Request, Stream};

/// The connections of all shards, as a store's clients. The store returns each request's token with the
/// answer, so that no table of requests is needed.
#[derive(Clone, Copy, Debug)]
pub struct Connections;

impl Asker for Connections {
    type Open = OpenToken;
    type Append = AppendToken;
    type Fetch = PartitionToken;
    type Resolve = PartitionToken;
    type Change = ChangeId;
    type Claim = ClaimToken;
    type Settle = SettleToken;
    type Manage = ManageToken;

    fn is_errand(append: &AppendToken) -> bool {
        append.by.as_errand().is_some()
    }
}

/// The address of an operation: where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asking {
    /// The shard that serves the connection.
    pub shard: u16,
    /// The connection, in the slab of that shard.
    pub connection: ConnectionId,
    /// The operation, in that connection.
    pub operation: OperationId,
}

/// The token of a request that opens a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenToken {
    /// The id that the queue's home has given it.
    pub queue: QueueId,
}

/// The token of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendToken {
    /// The operation that appends.
    pub by: Asking,
    /// The number of the batch in its operation.
    pub sequence: Sequence,
    /// Bytes reserved in the budget of the connection's shard. The answer releases them.
    pub reserved: usize,
    /// When the batch left the connection, [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
    pub sent_ns: u64,
    /// The number of messages in the batch.
    pub messages: u32,
    /// When the batch's last stage ended, as [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
    pub stage_ns: u64,
}

/// The token of a fetch, or of a request that resolves a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionToken {
    /// The operation that asks.
    pub by: Asking,
    /// The partition, in the operation's queue.
    pub partition: Partition,
}

/// The token of a claim, or of a request to watch for messages to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimToken {
    /// The operation that asks.
    pub by: Asking,
    /// The partition, in the operation's queue.
    pub partition: Partition,
    /// When it asked, [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
    pub asked_ns: u64,
}

/// The token of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettleToken {
    /// The operation that settles.
    pub by: Asking,
    /// The partition, in the operation's queue.
    pub partition: Partition,
    /// The number of the settlement in the operation.
    pub sequence: Sequence,
    /// When it was asked for, [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
    pub asked_ns: u64,
}

/// The token of a deletion, an alteration, or another wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChangeId {
    /// A number that the queue's home has chosen.
    pub(super) number: u64,
    /// The operation that asks. `None` for the operator.
    pub(super) by: Option<Asking>,
}

/// The token of a request about messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ManageToken {
    /// The operator asks: a number that the partition's owner has chosen.
    Operator(u64),
    /// An operation asks.
    Operation {
        /// The operation.
        by: Asking,
        /// The partition, in the operation's queue.
        partition: Partition,
    },
}

impl Asking {
    /// Returns the stream of the operation's appends.
    pub fn stream(&self) -> Stream {
        Stream(self.number())
    }

    /// Returns the operation as a worker that claims.
    pub fn worker(&self) -> Worker {
        Worker(self.number())
    }

    fn number(&self) -> u128 {
        let of_shard = u128::from(self.connection.as_u64()) << 32 | u128::from(self.operation.0);
        u128::from(self.shard) << 96 | of_shard
    }
}

/// A letter from one shard to another.
#[derive(Debug)]
pub enum Letter {
    /// Asks a shard for what its part of an order is.
    Order {
        /// The operation that gets the answer.
        by: Asking,
        /// What is ordered.
        order: Order,
    },
    /// The answer to `Order`.
    Ordered {
        /// The operation that gets the answer.
        by: Asking,
        /// The answer.
        answer: Answer,
    },
    /// Asks a queue's home to open the queue, or to create it.
    Open {
        /// The operation that gets the answer.
        by: Asking,
        /// The queue's project and name.
        name: FullName,
        /// Whether the client may create the queue.
        may_create: bool,
    },
    /// The home's answer to `Open`.
    Opened {
        /// The operation that gets the answer.
        by: Asking,
        /// The queue's project and name.
        name: FullName,
        /// The queue, or why it cannot be used.
        result: Result<QueueInfo, Fault>,
    },
    /// A request to the store of the shard that owns the partition.
    Request(Request<Connections>),
    /// The store's answer to `Request`, for the connection's shard.
    Completion(Completion<Connections>),
    /// To a queue's home: the sender's store has found that a life of the queue has ended.
    Gone {
        /// The queue.
        queue: QueueId,
        /// The life.
        incarnation: u64,
    },
    /// From a queue's home to every other shard: a life of the queue has ended.
    Forget {
        /// The id of the queue.
        queue: QueueId,
        /// The life that has ended.
        incarnation: u64,
        /// The shard that waits for `Forgotten`. `None` if no deletion waits.
        confirm_to: Option<u16>,
    },
    /// The answer to `Forget`: the sender has forgotten the queue.
    Forgotten {
        /// The shard that sends this.
        shard: u16,
        /// The id of the queue.
        queue: QueueId,
    },
    /// From a queue's home to every other shard: the queue has more partitions.
    Grown {
        /// The id of the queue.
        queue: QueueId,
        /// How many it has.
        partitions: u16,
    },
    /// The sender has adopted the queues of an earlier run whose home it is.
    Adopted,
    /// The sender's store has no doubts about messages that an earlier run was moving.
    Certain,
    /// The server drains, and the sender has answered all its producers.
    ProducersDrained,
}

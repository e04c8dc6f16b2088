//! What shards tell each other. Whatever one has for another in a turn travels as one batch of these.

use super::slab::ConnectionId;
use crate::base::error::Fault;
use crate::base::names::FullName;
use crate::base::queue::{QueueId, QueueInfo};
use crate::base::units::{Partition, Sequence};
use crate::operation::OperationId;
use crate::store::{Asker, Completion, Request, Stream};

/// The connections of all shards, as they ask a store. Tokens come back with the answers, so that nobody keeps a table of questions.
#[derive(Clone, Copy, Debug)]
pub struct Connections;

impl Asker for Connections {
    type Open = OpenToken;
    type Append = AppendToken;
    type Fetch = PartitionToken;
    type Resolve = PartitionToken;
    type Delete = DeletionId;
}

/// The operation that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The shard of its connection.
    pub shard: u16,
    /// Its connection.
    pub connection: ConnectionId,
    /// The operation.
    pub operation: OperationId,
}

/// Of a queue that is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenToken {
    /// The first that asked for it.
    pub by: Asking,
    /// What its home calls it.
    pub queue: QueueId,
}

/// Of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendToken {
    /// Who asks.
    pub by: Asking,
    /// Which of the operation's batches.
    pub sequence: Sequence,
    /// Bytes of the asker's budget that the answer gives back.
    pub reserved: usize,
    /// Its messages.
    pub messages: u32,
    /// When its last stage ended, [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
    pub stage_ns: u64,
}

/// Of a fetch, or of a question for a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionToken {
    /// Who asks.
    pub by: Asking,
    /// Of which partition of its queue.
    pub partition: Partition,
}

/// Of a deletion, as the queue's home numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeletionId(pub(super) u64);

impl Asking {
    /// The appends of the operation.
    pub fn stream(&self) -> Stream {
        let of_shard = u128::from(self.connection.as_u64()) << 32 | u128::from(self.operation.0);
        Stream(u128::from(self.shard) << 96 | of_shard)
    }
}

/// One message from shard to shard.
#[derive(Debug)]
pub enum Message {
    /// To a queue's home: find or make it.
    Open {
        /// Who asks.
        by: Asking,
        /// Which.
        name: FullName,
    },
    /// The home's answer.
    Opened {
        /// Who asked.
        by: Asking,
        /// Which.
        name: FullName,
        /// What it is.
        result: Result<QueueInfo, Fault>,
    },
    /// To a partition's owner.
    Request(Request<Connections>),
    /// The owner's answer.
    Completion(Completion<Connections>),
    /// To every other shard: a life of a queue has ended.
    Forget {
        /// The queue.
        queue: QueueId,
        /// The life.
        incarnation: u64,
        /// The shard that waits for `Forgotten`. `None` if no deletion waits.
        confirm_to: Option<u16>,
    },
    /// The answer to `Forget`: the sender has forgotten the queue.
    Forgotten {
        /// The sender.
        shard: u16,
        /// The queue.
        queue: QueueId,
    },
    /// Draining: the sender's producers are all answered.
    ProducersDrained,
}

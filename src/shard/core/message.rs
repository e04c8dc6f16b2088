//! What shards tell each other. Whatever one has for another in a turn travels as one batch of these.

use super::slab::ConnectionId;
use crate::base::error::Fault;
use crate::base::names::FullName;
use crate::base::queue::{QueueId, QueueInfo};
use crate::operation::OperationId;
use crate::store::{Completion, Request, Stream};

/// Who asked, and for what: comes back with the answer, so that nobody keeps a table of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The asker's shard.
    pub shard: u16,
    /// The asker.
    pub connection: ConnectionId,
    /// Its operation.
    pub operation: OperationId,
    /// Of an append its sequence, of all else the partition.
    pub detail: u64,
    /// Bytes of the asker's budget that the answer gives back.
    pub reserved: usize,
    /// Of an append its messages, and when its last stage ended ([`Now::mono_ns`](crate::base::clock::Now::mono_ns)).
    pub messages: u32,
    /// See `messages`.
    pub stage_ns: u64,
}

impl Token {
    /// The appends of its operation.
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
        token: Token,
        /// Which.
        name: FullName,
    },
    /// The home's answer.
    Opened {
        /// Who asked.
        token: Token,
        /// Which.
        name: FullName,
        /// What it is.
        result: Result<QueueInfo, Fault>,
    },
    /// To a partition's owner.
    Request(Request<Token>),
    /// The owner's answer.
    Completion(Completion<Token>),
    /// A queue is not what it was.
    Forget(QueueId),
    /// Draining: the sender's producers are all answered.
    ProducersDrained,
}

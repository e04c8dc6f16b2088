//! The commands of an operation to its shard.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::access::Grant;
use crate::base::batch::Batch;
use crate::base::claim::{Leaving, Settlement, Terms, View};
use crate::base::error::Fault;
use crate::base::manage::Manage;
use crate::base::names::{ClientId, FullName, Project, QueueName};
use crate::base::queue::{PartitionKey, Position, owner};
use crate::base::secret::Secret;
use crate::base::units::{Offset, Sequence};
use crate::base::wish::Wish;

/// The number of an operation on its connection. Answers to earlier operations are recognised by it and
/// ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u32);

/// One partition of a queue, with the hash that determines its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The queue and the number of the partition.
    pub partition: PartitionKey,
    /// The stable hash of the queue.
    pub hash: u64,
}

impl Target {
    /// Returns the shard that owns the partition, of `shards` shards.
    pub fn owner(&self, shards: u16) -> u16 {
        owner(self.hash, self.partition.partition, shards)
    }
}

/// A command of an operation. The shard answers each exactly once, except `Cancel`, `Leave`, `Vouch` and
/// `Report`.
#[derive(Clone, Debug)]
pub enum Command {
    /// Find the queue, or create it. Answered by [`Answer::Opened`](super::Answer::Opened).
    Open {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The project and the name of the queue.
        name: FullName,
        /// Whether the client may create the queue.
        may_create: bool,
        /// Whether the operation needs a store that keeps claims.
        needs_claims: bool,
    },
    /// Store a batch. Answered by [`Answer::Appended`](super::Answer::Appended).
    Append {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The sequence number of the batch in the operation, from 0.
        sequence: Sequence,
        /// The partition to append to.
        target: Target,
        /// The messages to append.
        batch: Batch,
        /// Bytes of the budget that the shard releases before it answers.
        reserved: usize,
        /// When the first message of the batch was read, in monotonic nanoseconds.
        read_ns: u64,
    },
    /// Find the offset of a position. Answered by [`Answer::Resolved`](super::Answer::Resolved).
    Resolve {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The partition to search.
        target: Target,
        /// The position to find.
        position: Position,
    },
    /// Read messages. Answered by [`Answer::Fetched`](super::Answer::Fetched).
    Fetch {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The partition to read.
        target: Target,
        /// The first offset wanted.
        from: Offset,
        /// The size in bytes at which no further batch is added.
        bytes_max: usize,
        /// Leave out messages that this client stored.
        exclude: Option<ClientId>,
        /// Which messages the client sees.
        view: View,
        /// Whether to answer only when messages are available.
        wait: bool,
    },
    /// Lease messages. Answered by [`Answer::Claimed`](super::Answer::Claimed).
    Claim {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The partition to claim from.
        target: Target,
        /// The terms of the lease.
        terms: Terms,
        /// The most messages.
        messages_max: u32,
        /// The size in bytes at which no further message is added.
        bytes_max: usize,
    },
    /// Tell when there may be messages to claim. Answered by [`Answer::Watched`](super::Answer::Watched).
    Watch {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The partition to watch.
        target: Target,
        /// The most messages that the operation would claim.
        wanted: u32,
    },
    /// Settle leased messages. Answered by [`Answer::Settled`](super::Answer::Settled).
    Settle {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The number of the settlement in the operation.
        sequence: Sequence,
        /// The partition of the messages.
        target: Target,
        /// What happens to which messages.
        settlements: Vec<Settlement>,
    },
    /// Count, find or delete messages of a partition. Answered by [`Answer::Managed`](super::Answer::Managed).
    Manage {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The partition.
        target: Target,
        /// What is wanted.
        what: Manage,
    },
    /// Do something with queues as a whole. Answered as the order says.
    Order {
        /// The operation that gets the answer.
        operation: OperationId,
        /// What is wanted.
        order: Order,
    },
    /// Claim nothing more of a partition. Has no answer; what was asked before is answered.
    Leave {
        /// The operation that leaves.
        operation: OperationId,
        /// The partition.
        target: Target,
        /// What happens to the leases of the operation.
        leaving: Leaving,
    },
    /// Renew the grant of the client. Answered by [`Answer::Renewed`](super::Answer::Renewed).
    Renew {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The client's new token.
        token: Secret,
    },
    /// Authenticate the client, anew if it is authenticated. Answered by
    /// [`Answer::Authenticated`](super::Answer::Authenticated).
    Authenticate {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The client's token.
        token: Secret,
        /// The project that the client names.
        project: Option<Project>,
    },
    /// The client need not authenticate: it has shown a signature. Has no answer.
    Vouch,
    /// Report to the operator that the operation fails.
    Report {
        /// The project of the operation.
        project: Project,
        /// The queue, if the setup names one.
        queue: Option<QueueName>,
        /// Why the operation fails.
        fault: Fault,
    },
    /// Answer the outstanding fetch of the partition at once.
    Cancel {
        /// The operation that gets the answer.
        operation: OperationId,
        /// The partition of the fetch.
        target: Target,
    },
}

/// What an operation wants of queues as a whole.
#[derive(Clone, Debug)]
pub enum Order {
    /// Find, create or alter a queue. Answered by [`Answer::Wished`](super::Answer::Wished).
    Wish(FullName, Wish),
    /// Create a queue with these attributes because it is used, if the server allows that and the queue does not exist.
    /// Answered by [`Answer::Wished`](super::Answer::Wished).
    Make(FullName, Map<String, Value>),
    /// Delete a queue. Answered by [`Answer::Deleted`](super::Answer::Deleted).
    Delete(FullName),
    /// List queues of a project by name. Each shard answers with an [`Answer::Listed`](super::Answer::Listed).
    List(QueuesWanted),
    /// Find the subscriptions of connections to a queue, or end them. Each shard answers with an
    /// [`Answer::Subscriptions`](super::Answer::Subscriptions).
    Subscriptions {
        /// The queue.
        name: FullName,
        /// What is wanted.
        what: SubscriptionOrder,
    },
}

/// Which queues a list has.
#[derive(Clone, Debug)]
pub struct QueuesWanted {
    /// Those of this project.
    pub project: Project,
    /// Those behind this text, as names are sorted; empty: from the first on.
    pub after: Box<str>,
    /// The most queues of each shard.
    pub limit: usize,
    /// Only those on which this grant gives a right.
    pub of: Option<Arc<Grant>>,
}

impl QueuesWanted {
    /// Returns whether the client may know that this queue of the project exists.
    pub fn shows(&self, name: &QueueName) -> bool {
        self.of.as_ref().is_none_or(|of| of.knows(name.as_str()))
    }
}

/// What an operation wants of the subscriptions to a queue.
#[derive(Clone, Debug)]
pub enum SubscriptionOrder {
    /// Describe them.
    Find,
    /// End the one with this id; `None`: all.
    End(Option<Box<str>>),
}

impl Order {
    /// Returns the queue that the order changes, or whose subscriptions it ends.
    pub fn changed(&self) -> Option<&FullName> {
        match self {
            Self::Wish(name, Wish::Create(_) | Wish::Alter(_))
            | Self::Make(name, _)
            | Self::Delete(name)
            | Self::Subscriptions { name, what: SubscriptionOrder::End(_) } => Some(name),
            Self::Wish(_, Wish::Find)
            | Self::List(_)
            | Self::Subscriptions { what: SubscriptionOrder::Find, .. } => None,
        }
    }
}

//! The shard's answers to the commands of an operation.

use std::ops::Range;
use std::sync::Arc;

use super::subject::Granted;
use crate::base::attributes::Attributes;
use crate::base::batch::Fetched;
use crate::base::claim::{Grant, Lost};
use crate::base::error::{Fault, StoreFault};
use crate::base::manage::Managed;
use crate::base::millis::Millis;
use crate::base::names::{Project, QueueName};
use crate::base::queue::QueueInfo;
use crate::base::units::{Offset, Partition, Sequence};
use crate::base::wish;

/// An answer of the shard to a [`Command`](super::Command).
#[derive(Clone, Debug)]
pub enum Answer {
    /// The answer to `Open`.
    Opened {
        /// The queue, or why it could not be opened.
        result: Result<QueueInfo, Fault>,
        /// A partition that the asking shard owns, so that it costs no hop; 0 if it owns none.
        local_partition: Partition,
        /// Whether the store can keep claims.
        has_claims: bool,
    },
    /// The answer to `Append`. The shard has already released the batch's bytes from the budget.
    Appended {
        /// The sequence number of the batch in the operation.
        sequence: Sequence,
        /// The offsets, from the first message to one past the last. `None` if they are not contiguous.
        result: Result<Option<Range<Offset>>, StoreFault>,
    },
    /// The answer to `Fetch`.
    Fetched {
        /// The partition that was read.
        partition: Partition,
        /// The fetched messages.
        result: Result<Fetched, StoreFault>,
    },
    /// The answer to `Claim`.
    Claimed {
        /// The partition that was asked for.
        partition: Partition,
        /// The lease, or `None` if there is nothing to claim now.
        result: Result<Option<Grant>, StoreFault>,
    },
    /// The answer to `Watch`.
    Watched {
        /// The partition that was watched.
        partition: Partition,
        /// Why it cannot be watched, if so.
        result: Result<(), StoreFault>,
    },
    /// The answer to `Settle`.
    Settled {
        /// The number of the settlement in the operation.
        sequence: Sequence,
        /// The partition of the messages.
        partition: Partition,
        /// The messages whose settlement came too late.
        result: Result<Vec<Lost>, StoreFault>,
    },
    /// The answer to `Manage`.
    Managed {
        /// The partition that was asked for.
        partition: Partition,
        /// The answer of the store.
        result: Result<Managed, StoreFault>,
    },
    /// The answer to `Order::Wish`.
    Wished(wish::Granted),
    /// The answer to `Order::Delete`: [`StoreFault::NoQueue`] if there is no queue of that name.
    Deleted(Result<(), StoreFault>),
    /// One shard's part of the answer to `Order::List`.
    Listed {
        /// How many parts there are.
        of: u16,
        /// The queues whose home the shard is, by name.
        queues: Result<Vec<ListedQueue>, StoreFault>,
    },
    /// One shard's part of the answer to `Order::Subscriptions`.
    Subscriptions {
        /// How many parts there are.
        of: u16,
        /// The subscriptions that were found.
        found: Vec<SubscriptionInfo>,
    },
    /// The answer to `Renew`. The front has the new grant already.
    Renewed(Result<(), Fault>),
    /// The answer to `Authenticate`: what the client is now.
    Authenticated(Result<Login, Fault>),
    /// The answer to `Resolve`.
    Resolved {
        /// The partition of the position.
        partition: Partition,
        /// The offset of the position.
        result: Result<Offset, StoreFault>,
    },
}

/// A client that has authenticated on an open connection.
#[derive(Clone, Debug)]
pub struct Login {
    /// The project of requests that name none.
    pub project: Project,
    /// What the client may do.
    pub granted: Granted,
}

/// A queue in a list.
#[derive(Clone, Debug)]
pub struct ListedQueue {
    /// Its name.
    pub name: QueueName,
    /// Its attributes. `None` if the shard has to open the queue to know them.
    pub attributes: Option<Attributes>,
}

/// A subscription of a connection to a queue.
#[derive(Clone, Debug)]
pub struct SubscriptionInfo {
    /// Its id.
    pub id: Arc<str>,
    /// The connection, as text.
    pub subscriber: Arc<str>,
    /// How long it lasts, in seconds.
    pub ttl_secs: u32,
    /// When it began, by the monotonic clock.
    pub since: Millis,
    /// What its client has said of it, as JSON text.
    pub options: Arc<str>,
}

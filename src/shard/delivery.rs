//! The deliveries that other threads send to a shard's inbox.

use std::fmt;
use std::sync::Arc;

use super::core::{
    ConnectionId, Deleted, Letter, Peer, Roster, Settings, ShardPulse, ShardSnapshot, Traffic,
};
use super::listener::Accepted;
use crate::auth::Answer;
use crate::base::error::StoreFault;
use crate::base::manage::{Manage, Managed};
use crate::base::names::FullName;
use crate::base::queue::{PartitionKey, QueueInfo};
use crate::base::units::Partition;
use crate::base::wish::{Granted, Wish};
use crate::latency::Recorder;
use crate::store::{Queues, Tail};
use crate::tls::Config;

/// A delivery to a shard's inbox. `A` is the type of an accepted connection.
#[derive(Debug)]
pub enum Delivery<A = Accepted> {
    /// A connection from the acceptor, and its peer.
    Socket(A, Peer),
    /// Everything that another shard had for this one in a turn.
    Letters(Vec<Letter>),
    /// The store has completions for the shard.
    StoreNews,
    /// Report what the shard's store holds of each queue.
    Queues(Reply<Queues>),
    /// Return the histograms and the state of the shard. It continues with these empty histograms.
    Latency(Recorder, Reply<(Recorder, ShardPulse)>),
    /// Report the ends of the partitions of these queues, and the positions of consumers.
    Traffic(Arc<Vec<(FullName, QueueInfo)>>, Reply<Traffic>),
    /// Report the ends of the partitions of these queues.
    Ends(Arc<Vec<(FullName, QueueInfo)>>, Reply<Vec<(FullName, Partition, Tail)>>),
    /// Describe some of the shard's connections: those from this slot on.
    Roster(u32, Reply<Roster>),
    /// Close a connection, and report whether it was open.
    Dismiss(ConnectionId, Reply<bool>),
    /// Report the state of the shard.
    Snapshot(Reply<ShardSnapshot>),
    /// Answer, to show that the shard runs.
    Ping(Reply<()>),
    /// Delete a queue. The shard is its home.
    Delete(FullName, Reply<Result<Deleted, StoreFault>>),
    /// Describe, create or alter a queue. The shard is its home.
    Wish(FullName, Wish, Reply<Granted>),
    /// Count, find or delete messages of a partition that the shard owns.
    Manage(PartitionKey, Manage, Reply<Result<Managed, StoreFault>>),
    /// Continue with these settings.
    Reload(Arc<Settings>, Reply<()>),
    /// Use another TLS configuration, and close the connections whose certificate it revokes.
    Tls(Arc<Config>),
    /// The judge's answer about clients.
    Auth(Answer),
    /// Drain (protocol section 3).
    Drain,
}

/// Receives the answer. Runs on the shard's thread, so it must not block.
pub struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Reply<T> {
    /// Creates a reply that passes the answer to `take`.
    pub fn new(take: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(take))
    }

    /// Passes on the answer.
    pub fn give(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

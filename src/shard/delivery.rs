//! What other threads may put into a shard's inbox.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::core::{Deleted, Message, ShardPulse, ShardSnapshot, Traffic};
use crate::base::error::StoreFault;
use crate::base::names::FullName;
use crate::base::queue::QueueInfo;
use crate::latency::Recorder;
use crate::store::QueueSummary;

/// What comes into a shard's inbox. `A` is an accepted connection.
#[derive(Debug)]
pub enum Delivery<A = socket2::Socket> {
    /// From the acceptor.
    Socket(A, Option<SocketAddr>),
    /// From another shard: all that it had for this one in a turn.
    Messages(Vec<Message>),
    /// The store has something for the shard.
    StoreNews,
    /// Say what the shard's store holds of each queue.
    Queues(Reply<Result<Vec<(FullName, QueueSummary)>, StoreFault>>),
    /// Say how long what took, and go on with these, which are empty; and how the shard is.
    Latency(Recorder, Reply<(Recorder, ShardPulse)>),
    /// Say where partitions of these queues end and where consumers are.
    Traffic(Arc<Vec<(FullName, QueueInfo)>>, Reply<Traffic>),
    /// Say how the shard is.
    Snapshot(Reply<ShardSnapshot>),
    /// Say that it is there.
    Ping(Reply<()>),
    /// Delete a queue. The shard is its home.
    Delete(FullName, Reply<Result<Deleted, StoreFault>>),
    /// Stop, as the protocol says.
    Drain,
}

/// Takes the answer, on the shard's thread: it must not wait.
pub struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Reply<T> {
    /// Whoever asks says what is done with the answer.
    pub fn new(take: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(take))
    }

    /// Gives the answer.
    pub fn give(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

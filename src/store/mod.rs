//! Where messages are kept: one trait, and the stores behind it.
//!
//! A store belongs to one shard and holds the partitions that the shard owns. It is asked by `submit` and
//! answers by completions, never by blocking. Knows nothing of the protocol, of connections or of credit.

mod fence;
mod memory;

#[cfg(test)]
mod conformance;

pub use fence::Fence;
pub use memory::Memory;

use std::hash::Hash;
use std::ops::Range;

use crate::batch::{Batch, Fetched};
use crate::clock::Now;
use crate::error::StoreFault;
use crate::names::ClientId;
use crate::queue::{PartitionKey, Position, QueueId};

/// Appends that belong together, told apart from all others of the server for as long as any of them is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream(pub u128);

/// What a store is asked. `T` is the asker's token, told back with the completion: each token completes exactly
/// once, a cancelled one too.
#[derive(Clone, Debug)]
pub enum Request<T> {
    /// Begin the life of a queue, if it has not begun.
    Open {
        /// The asker's.
        token: T,
        /// The queue.
        queue: QueueId,
    },
    /// Store a batch behind what the partition holds. A partition's appends complete in order. Once one of a stream has
    /// failed, all later ones of that stream fail, too ([`Fence`]).
    Append {
        /// The asker's.
        token: T,
        /// One producer's appends, in its order.
        stream: Stream,
        /// Where to.
        partition: PartitionKey,
        /// What.
        batch: Batch,
    },
    /// Read a partition from an offset on; from the oldest that is left, where that is gone.
    Fetch {
        /// The asker's.
        token: T,
        /// Of which partition.
        partition: PartitionKey,
        /// The first offset wanted.
        from: u64,
        /// No further batch once there are as many bytes.
        bytes_max: usize,
        /// Leave out what this client stored.
        exclude: Option<ClientId>,
        /// Where there is nothing: complete when something was stored, or at once.
        wait: bool,
    },
    /// Find an offset.
    Resolve {
        /// The asker's.
        token: T,
        /// Of which partition.
        partition: PartitionKey,
        /// Which.
        position: Position,
    },
    /// Complete a waiting fetch now, empty. Has no completion of its own.
    Cancel {
        /// The fetch's.
        token: T,
        /// The fetch's.
        partition: PartitionKey,
    },
}

/// A store's answer.
#[derive(Clone, Debug)]
pub enum Completion<T> {
    /// To `Open`: the incarnation.
    Opened {
        /// The asker's.
        token: T,
        /// The queue's life.
        result: Result<u64, StoreFault>,
    },
    /// To `Append`: the offsets. The batch is as durable as the store promises.
    Appended {
        /// The asker's.
        token: T,
        /// From the first message to behind the last.
        result: Result<Range<u64>, StoreFault>,
    },
    /// To `Fetch`.
    Fetched {
        /// The asker's.
        token: T,
        /// What there is.
        result: Result<Fetched, StoreFault>,
    },
    /// To `Resolve`.
    Resolved {
        /// The asker's.
        token: T,
        /// The offset.
        result: Result<u64, StoreFault>,
    },
}

impl<T: Copy> Completion<T> {
    /// Whose it is.
    pub fn token(&self) -> T {
        match self {
            Self::Opened { token, .. }
            | Self::Appended { token, .. }
            | Self::Fetched { token, .. }
            | Self::Resolved { token, .. } => *token,
        }
    }
}

/// What became of the messages that a store was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Stored.
    pub stored: u64,
    /// Of these dropped unexpired, because the store was full.
    pub dropped: u64,
    /// Of these removed, because their TTL had ended.
    pub expired: u64,
    /// Refused, because the store was full or an earlier append of the same stream had failed.
    pub refused: u64,
}

/// See the module's page.
pub trait Store<T: Copy + Eq + Hash> {
    /// Takes a request; gives it back where the store has no room for more of them now.
    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>>;

    /// The next answer. Fetches that wait are looked at once all that was submitted is done.
    fn poll_completion(&mut self, now: Now) -> Option<Completion<T>>;

    /// Time has passed: frees what has expired. Returns when it wants to be called again, in `mono_ms`.
    fn handle_tick(&mut self, now: Now) -> Option<u64>;

    /// What became of the messages.
    fn counters(&self) -> StoreCounters;

    /// Fetches that wait.
    fn waiting(&self) -> usize;
}

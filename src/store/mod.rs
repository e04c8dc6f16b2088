//! Where messages are kept: one trait, and the stores behind it.
//!
//! A store belongs to one shard and holds the partitions that the shard owns; one that takes appends to any partition says so. It is
//! asked by `submit` and answers by completions, never by blocking. Knows nothing of the protocol, of connections or of credit.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | what a store is asked, what it answers, and the trait |
//! | `log/` | the embedded log |
//! | `memory/` | messages in memory alone |
//! | `kafka/` | a Kafka cluster |
//! | `settings` | which store, and the settings of all three |
//! | `fence` | nothing is stored behind an append that has failed |
//! | `window` | a part of a partition in memory |
//! | `read` | what of it a fetch is given |
//! | `waiting` | fetches that wait |
//! | `tail` | where a partition ends |
//! | `cost` | what a batch costs in memory |
//! | `conformance` | the tests that every store passes |

mod cost;
mod fence;
pub mod kafka;
pub mod log;
pub mod memory;
mod read;
mod settings;
mod tail;
mod waiting;
mod window;

#[cfg(test)]
mod conformance;

pub use fence::Fence;
pub use memory::Memory;
pub use settings::{Settings, StoreKind};
pub use tail::Tail;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use crate::access::Tenants;
use crate::base::batch::{Batch, Fetched};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::{ClientId, FullName, Project, QueueName};
use crate::base::queue::{PartitionKey, Position, QueueId, QueueInfo, Signing};
use crate::base::units::{Offset, Partition};

/// Appends that belong together, told apart from all others of the server for as long as any of them is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream(pub u128);

/// The side that asks a store, and the tokens that it gives to each kind of request. A token comes back with the completion of its request, exactly
/// once, also if the request was cancelled.
pub trait Asker {
    /// Of [`Request::Open`].
    type Open: Copy + Debug;
    /// Of [`Request::Append`].
    type Append: Copy + Debug;
    /// Of [`Request::Fetch`]; a waiting fetch is cancelled by it.
    type Fetch: Copy + Debug + Eq;
    /// Of [`Request::Resolve`].
    type Resolve: Copy + Debug;
}

/// An asker for whom a number is enough: a test, a bench.
impl Asker for u64 {
    type Open = Self;
    type Append = Self;
    type Fetch = Self;
    type Resolve = Self;
}

/// What a store is asked.
#[derive(Clone, Debug)]
pub enum Request<T: Asker> {
    /// Begin the life of a queue, if it has not begun.
    Open {
        /// The asker's.
        token: T::Open,
        /// The queue, as this server numbers it.
        queue: QueueId,
        /// The queue, as everyone knows it.
        name: (Project, QueueName),
        /// How many partitions it gets where it is not there; `None`: then it is not made.
        create: Option<u16>,
    },
    /// Store a batch behind what the partition holds. A partition's appends complete in order. Once one of a stream has
    /// failed, all later ones of that stream fail, too ([`Fence`]).
    Append {
        /// The asker's.
        token: T::Append,
        /// One producer's appends, in its order.
        stream: Stream,
        /// Where to.
        partition: PartitionKey,
        /// What.
        batch: Batch,
    },
    /// Read a partition from an offset on; from the oldest that is left, where that is gone. An offset beyond the end says that the
    /// partition has gone back: see [`Fetched::is_rewound`].
    Fetch {
        /// The asker's.
        token: T::Fetch,
        /// Of which partition.
        partition: PartitionKey,
        /// The first offset wanted.
        from: Offset,
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
        token: T::Resolve,
        /// Of which partition.
        partition: PartitionKey,
        /// Which.
        position: Position,
    },
    /// Complete a waiting fetch now, empty. Has no completion of its own.
    Cancel {
        /// The fetch's.
        token: T::Fetch,
        /// The fetch's.
        partition: PartitionKey,
    },
}

/// A store's answer.
#[derive(Clone, Debug)]
pub enum Completion<T: Asker> {
    /// To `Open`.
    Opened {
        /// The asker's.
        token: T::Open,
        /// The queue's life.
        result: Result<Life, StoreFault>,
    },
    /// To `Append`. The batch is as durable as the store promises.
    Appended {
        /// The asker's.
        token: T::Append,
        /// The offsets, from the first message to behind the last; `None` where the messages do not stand one after the other,
        /// or nobody knows where.
        result: Result<Option<Range<Offset>>, StoreFault>,
    },
    /// To `Fetch`.
    Fetched {
        /// The asker's.
        token: T::Fetch,
        /// What there is.
        result: Result<Fetched, StoreFault>,
    },
    /// To `Resolve`.
    Resolved {
        /// The asker's.
        token: T::Resolve,
        /// The offset.
        result: Result<Offset, StoreFault>,
    },
}

impl Completion<u64> {
    /// The token of the request.
    pub fn token(&self) -> u64 {
        match self {
            Self::Opened { token, .. }
            | Self::Appended { token, .. }
            | Self::Fetched { token, .. }
            | Self::Resolved { token, .. } => *token,
        }
    }
}

/// One life of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Tells it from others of the same name.
    pub incarnation: u64,
    /// How many partitions it has.
    pub partitions: u16,
    /// How its markers are signed.
    pub signing: Signing,
}

/// What became of the messages that a store was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreCounters {
    /// Stored.
    pub stored: u64,
    /// Of these dropped unexpired, because the store was full.
    pub dropped: u64,
    /// Of these removed, because their TTL had ended.
    pub expired: u64,
    /// Refused, because the store was full or an earlier append of the same stream had failed.
    pub refused: u64,
    /// Records that others had stored and that were too large to be served, each time that one was read.
    pub passed_over: u64,
}

/// What there is of a queue. Messages that have expired may be counted until their room is used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSummary {
    /// Partitions.
    pub partitions: u16,
    /// Messages.
    pub messages: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// When the oldest was stored, Unix milliseconds.
    pub oldest: Option<UnixMillis>,
    /// When the newest was.
    pub newest: Option<UnixMillis>,
}

impl QueueSummary {
    /// Adds another part of the same queue.
    pub fn merge(&mut self, other: &Self) {
        self.partitions = self.partitions.max(other.partitions);
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.oldest = [self.oldest, other.oldest].into_iter().flatten().min();
        self.newest = self.newest.max(other.newest);
    }
}

/// See the module's page.
pub trait Store<T: Asker> {
    /// Takes a request; gives it back where the store has no room for more of them now.
    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>>;

    /// The next answer. Fetches that wait are looked at once all that was submitted is done.
    fn poll_completion(&mut self, now: Now) -> Option<Completion<T>>;

    /// Whether an answer may be there although nothing was submitted since the last one.
    fn has_completions(&self) -> bool {
        false
    }

    /// Time has passed: frees what has expired. Returns when it wants to be called again, by the monotonic clock.
    fn handle_tick(&mut self, now: Now) -> Option<Millis>;

    /// Whether there is anything that time changes.
    fn needs_ticks(&self) -> bool {
        self.counters().stored > 0
    }

    /// Whether every shard's store takes appends to any partition. Else they go to the one of the partition's owner.
    fn appends_anywhere(&self) -> bool {
        false
    }

    /// A queue that is not what it was: deleted, or with other partitions. It is to be forgotten everywhere.
    fn poll_gone(&mut self) -> Option<QueueId> {
        None
    }

    /// Such a queue, of whichever shard: whoever waits for something of it is told.
    fn forget(&mut self, _queue: QueueId) {}

    /// Where a partition ends, and how many messages are before that, if it is this store's and it knows.
    fn tail(&self, _queue: &QueueInfo, _partition: Partition) -> Option<Tail> {
        None
    }

    /// The queues that are there, and what this store holds of each; nothing where it does not know their names.
    fn queues(&self, _unix: UnixMillis) -> Vec<((Project, QueueName), QueueSummary)> {
        Vec::new()
    }

    /// Nothing more will be asked: prepares for the next start. Call it until it returns true. What is left out costs the next start
    /// time and its certainty that nothing is lost, and no message.
    fn handle_stop(&mut self, _now: Now) -> bool {
        true
    }

    /// The queues of earlier runs of the server, as far as the store knows them without asking anybody.
    fn names(&self) -> Vec<FullName> {
        Vec::new()
    }

    /// The life of such a queue, which the server calls `queue` from now on; `None` where it is not there.
    fn adopt(&mut self, _queue: QueueId, _name: &FullName) -> Option<Life> {
        None
    }

    /// A clock that has stepped back further than this is followed: timestamps of a partition run backwards once.
    fn set_clock_step_max(&mut self, _by: Millis) {}

    /// Counts from now on what it stores, and has stored, as its projects' storage, where that is limited. A store that does not
    /// know how much it stores counts nothing.
    fn count_for(&mut self, _tenants: &Arc<Tenants>) {}

    /// What became of the messages.
    fn counters(&self) -> StoreCounters;

    /// Fetches that wait.
    fn waiting(&self) -> usize;
}

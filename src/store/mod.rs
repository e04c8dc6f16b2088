//! The stores, which keep the messages, and their common trait.
//!
//! A store belongs to one shard and holds the partitions that the shard owns. Some stores accept appends to
//! any partition ([`Placement`]). Requests are submitted, and completions are polled. News without a request
//! is a [`StoreEvent`]. No call blocks. Stores know nothing of the protocol, connections or credit.
//!
//! | file | content |
//! | --- | --- |
//! | this file | requests, completions and the trait |
//! | `log/` | the embedded log |
//! | `memory/` | messages only in memory |
//! | `kafka/` | a Kafka cluster |
//! | `claims/` | claims on any of these |
//! | `offline` | the queues of a data directory that no server uses |
//! | `settings` | the choice of the store, and the settings of all three |
//! | `fence` | rejects the later appends of a stream after a failed one |
//! | `fetch` | a fetch, as the stores keep it |
//! | `window` | a part of a partition in memory |
//! | `read` | reads from a window for a fetch |
//! | `waiting` | waiting fetches |
//! | `tail` | the end of a partition |
//! | `cost` | the cost of a batch in memory |
//! | `stock` | what a partition holds, counted without reading it |
//! | `conformance` | the tests that every store must pass |

pub mod claims;
mod cost;
pub mod errand;
mod fence;
mod fetch;
pub mod kafka;
pub mod log;
pub mod memory;
mod offline;
mod read;
mod settings;
pub mod stock;
mod tail;
mod waiting;
mod window;

#[cfg(test)]
mod conformance;

pub use claims::Ledgers;
pub use fence::Fence;
pub use memory::Memory;
pub use offline::Offline;
pub use settings::{Settings, StoreKind};
pub use stock::{Holding, Portion};
pub use tail::Tail;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use self::errand::{Done, Errand, ErrandId};
use crate::access::Tenants;
use crate::base::attributes::Attributes;
use crate::base::batch::{Batch, Fetched};
use crate::base::claim::{Grant, Leaving, Lost, Settlement, Terms, View, Worker};
use crate::base::clock::Now;
use crate::base::error::{NO_CLAIMS, StoreFault};
use crate::base::manage::{Manage, Managed};
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::{ClientId, FullName};
use crate::base::queue::{PartitionKey, Position, QueueId, QueueInfo, Signing};
use crate::base::units::{Offset, Partition};

/// The id of a sequence of appends that must keep their order, such as those of one operation. Unique in the
/// server while any of them is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream(pub u128);

/// The types of the tokens that identify requests. A token is returned with the completion of its request,
/// exactly once, even if the request was cancelled.
pub trait Asker {
    /// The token of [`Request::Open`].
    type Open: Copy + Debug;
    /// The token of [`Request::Append`].
    type Append: Copy + Debug;
    /// The token of [`Request::Fetch`]. A waiting fetch is cancelled by its token.
    type Fetch: Copy + Debug + Eq;
    /// The token of [`Request::Resolve`].
    type Resolve: Copy + Debug;
    /// The token of [`Request::Alter`], [`Request::Delete`] and [`Request::List`].
    type Change: Copy + Debug;
    /// The token of [`Request::Claim`] and [`Request::Watch`].
    type Claim: Copy + Debug;
    /// The token of [`Request::Settle`].
    type Settle: Copy + Debug;
    /// The token of [`Request::Manage`].
    type Manage: Copy + Debug;

    /// Returns whether a store appends, not a client: it moves messages.
    fn is_errand(_append: &Self::Append) -> bool {
        false
    }
}

/// Numbers as tokens, for tests and benches.
impl Asker for u64 {
    type Open = Self;
    type Append = Self;
    type Fetch = Self;
    type Resolve = Self;
    type Change = Self;
    type Claim = Self;
    type Settle = Self;
    type Manage = Self;
}

/// A request to a store.
#[derive(Clone, Debug)]
pub enum Request<T: Asker> {
    /// Open a queue, or create it if it is missing and `create` allows that.
    Open {
        /// Returned with the completion.
        token: T::Open,
        /// The id of the queue on this server.
        queue: QueueId,
        /// The project and the name of the queue.
        name: FullName,
        /// The new queue, if it may be created.
        create: Option<NewQueue>,
    },
    /// Append a batch to a partition. The appends to a partition are stored, and complete, in order; one that
    /// fails may complete before earlier ones. After an append of a stream has failed, all later ones of that
    /// stream fail too ([`Fence`]).
    Append {
        /// Returned with the completion.
        token: T::Append,
        /// The appends of one producer, in its order.
        stream: Stream,
        /// The partition to append to.
        partition: PartitionKey,
        /// The messages to append.
        batch: Batch,
    },
    /// Read a partition from an offset on. If that offset no longer exists, read from the oldest remaining
    /// message. An offset beyond the end means that the partition was rewound: see [`Fetched::is_rewound`].
    Fetch {
        /// Returned with the completion.
        token: T::Fetch,
        /// The partition to read.
        partition: PartitionKey,
        /// The first offset wanted.
        from: Offset,
        /// The size in bytes at which no further batch is added.
        bytes_max: usize,
        /// Leave out messages that this client stored.
        exclude: Option<ClientId>,
        /// Which messages the reader sees.
        view: View,
        /// Whether to wait until a message is stored, if there is none. Otherwise the fetch completes at
        /// once.
        wait: bool,
    },
    /// Find the offset of a position.
    Resolve {
        /// Returned with the completion.
        token: T::Resolve,
        /// The partition to search.
        partition: PartitionKey,
        /// The position to find.
        position: Position,
    },
    /// Change the attributes of a queue, and how many partitions it has. Of each name, at most one `Open`, `Alter` or
    /// `Delete` may be in flight.
    Alter {
        /// Returned with the completion.
        token: T::Change,
        /// The project and the name of the queue.
        name: FullName,
        /// All of its attributes.
        attributes: Attributes,
        /// The number of partitions, never less than before.
        partitions: u16,
    },
    /// Delete a queue. Of each name, at most one `Open`, `Alter` or `Delete` may be in flight.
    Delete {
        /// Returned with the completion.
        token: T::Change,
        /// The project and the name of the queue.
        name: FullName,
    },
    /// List all queues. Only for stores that [list](Store::LISTS).
    List {
        /// Returned with the completion.
        token: T::Change,
        /// How old the answer may be, about; 0: not older than the request.
        age: Millis,
    },
    /// Lease messages that can be claimed now. Completes without a grant if there are none: then
    /// [`Request::Watch`] tells when there may be some.
    Claim {
        /// Returned with the completion.
        token: T::Claim,
        /// The operation that claims.
        worker: Worker,
        /// The partition to claim from.
        partition: PartitionKey,
        /// The terms of the lease.
        terms: Terms,
        /// The most messages, at least 1.
        messages_max: u32,
        /// The size in bytes at which no further message is added.
        bytes_max: usize,
    },
    /// Complete when the worker may find messages to claim. Workers are told in the order in which they asked,
    /// only as many as the messages suffice for. The worker must then claim or [leave](Request::Leave), since
    /// others wait for that.
    Watch {
        /// Returned with the completion.
        token: T::Claim,
        /// The operation that waits.
        worker: Worker,
        /// The partition to watch.
        partition: PartitionKey,
        /// The most messages that the worker would claim, at least 1.
        wanted: u32,
    },
    /// Settle leased messages.
    Settle {
        /// Returned with the completion.
        token: T::Settle,
        /// The partition of the messages.
        partition: PartitionKey,
        /// What happens to which messages, in order.
        settlements: Vec<Settlement>,
    },
    /// A worker claims nothing more of a partition. Its `Watch` and its `Claim`s complete without a grant, and all
    /// its leases there are treated as `leaving` says. Has no completion of its own.
    Leave {
        /// The operation that leaves.
        worker: Worker,
        /// The partition.
        partition: PartitionKey,
        /// What happens to its leases.
        leaving: Leaving,
    },
    /// Count, find or delete messages of a partition.
    Manage {
        /// Returned with the completion.
        token: T::Manage,
        /// The partition.
        partition: PartitionKey,
        /// What is wanted.
        what: Manage,
    },
    /// Complete a waiting fetch now, without messages. Has no completion of its own.
    Cancel {
        /// The token of the fetch.
        token: T::Fetch,
        /// The partition of the fetch.
        partition: PartitionKey,
    },
}

/// The completion of a request.
#[derive(Clone, Debug)]
pub enum Completion<T: Asker> {
    /// The completion of `Open`.
    Opened {
        /// The token of the request.
        token: T::Open,
        /// The life of the opened queue.
        result: Result<Life, StoreFault>,
    },
    /// The completion of `Append`. On success the batch is as durable as the store promises.
    Appended {
        /// The token of the request.
        token: T::Append,
        /// The offsets, from the first message to one past the last. `None` if they are not contiguous, or
        /// unknown.
        result: Result<Option<Range<Offset>>, StoreFault>,
    },
    /// The completion of `Fetch`.
    Fetched {
        /// The token of the request.
        token: T::Fetch,
        /// The fetched messages.
        result: Result<Fetched, StoreFault>,
    },
    /// The completion of `Resolve`.
    Resolved {
        /// The token of the request.
        token: T::Resolve,
        /// The offset of the position.
        result: Result<Offset, StoreFault>,
    },
    /// The completion of `Claim`. The lease is as durable as the store promises.
    Claimed {
        /// The token of the request.
        token: T::Claim,
        /// The lease, or `None` if there is nothing to claim now.
        result: Result<Option<Grant>, StoreFault>,
    },
    /// The completion of `Watch`.
    Watched {
        /// The token of the request.
        token: T::Claim,
        /// Why the partition cannot be watched, if so.
        result: Result<(), StoreFault>,
    },
    /// The completion of `Settle`. The settlements are as durable as the store promises.
    Settled {
        /// The token of the request.
        token: T::Settle,
        /// The messages whose settlement came too late.
        result: Result<Vec<Lost>, StoreFault>,
    },
    /// The completion of `Manage`. Deletions are as durable as the store promises.
    Managed {
        /// The token of the request.
        token: T::Manage,
        /// The answer.
        result: Result<Managed, StoreFault>,
    },
    /// The completion of `Alter`. On success the change is as durable as the store promises. A failure means that the
    /// queue is as before, even after a restart.
    Altered {
        /// The token of the request.
        token: T::Change,
        /// The queue with the change; [`StoreFault::NoQueue`] if there is no queue of that name.
        result: Result<Life, StoreFault>,
    },
    /// The completion of `Delete`. On success the deletion is as durable as the store promises, and every
    /// shard's store must [forget](Store::forget) the queue. A failure means that the queue exists as before, even
    /// after a restart. Once a deletion may have reached the disk, it does not fail: the store repeats it until it
    /// is durable, without a time limit. Until then the queue accepts messages, which are deleted with it.
    Deleted {
        /// The token of the request.
        token: T::Change,
        /// The incarnation that has ended; [`StoreFault::NoQueue`] if there is no queue of that name.
        result: Result<u64, StoreFault>,
    },
    /// The completion of `List`.
    Listed {
        /// The token of the request.
        token: T::Change,
        /// All queues, with their numbers of partitions, sorted by their names.
        result: Result<Arc<[(FullName, u16)]>, StoreFault>,
    },
}

/// What a store reports without a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// The life of a queue has ended without [`Request::Delete`], or the queue has other partitions. Every
    /// shard must forget it.
    Gone {
        /// The queue, as this server numbers it.
        queue: QueueId,
        /// The life that has ended.
        incarnation: u64,
    },
    /// Another server has changed the attributes of a queue. Only the store of the queue's home reports it.
    Altered {
        /// The queue, as this server numbers it.
        queue: QueueId,
        /// All of its attributes.
        attributes: Attributes,
    },
}

/// How a store can keep the state of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKeeping {
    /// It cannot.
    None,
    /// The state lives as long as the store, as the messages do.
    Volatile,
    /// The state is appended to the [hidden partition](Partition::state) of its partition, in order with the
    /// messages.
    Durable,
}

/// Which shard's store takes a partition's appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Only the store of the partition's owner.
    Owner,
    /// The store of any shard.
    Anywhere,
}

impl<T: Asker> Request<T> {
    /// Returns the completion of a request about claims that a store without claims gets. Returns other requests.
    pub(in crate::store) fn without_claims(self) -> Result<Option<Completion<T>>, Self> {
        let fault = StoreFault::Unsupported(NO_CLAIMS);
        match self {
            Self::Claim { token, .. } => Ok(Some(Completion::Claimed { token, result: Err(fault) })),
            Self::Watch { token, .. } => Ok(Some(Completion::Watched { token, result: Err(fault) })),
            Self::Settle { token, .. } => Ok(Some(Completion::Settled { token, result: Err(fault) })),
            Self::Manage { token, .. } => Ok(Some(Completion::Managed { token, result: Err(fault) })),
            Self::Leave { .. } | Self::List { .. } => Ok(None),
            other => Err(other),
        }
    }
}

impl Completion<u64> {
    /// Returns the token of the request.
    pub fn token(&self) -> u64 {
        match self {
            Self::Opened { token, .. }
            | Self::Appended { token, .. }
            | Self::Fetched { token, .. }
            | Self::Resolved { token, .. }
            | Self::Deleted { token, .. }
            | Self::Claimed { token, .. }
            | Self::Watched { token, .. }
            | Self::Settled { token, .. }
            | Self::Managed { token, .. }
            | Self::Altered { token, .. }
            | Self::Listed { token, .. } => *token,
        }
    }
}

/// A queue to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewQueue {
    /// The number of partitions.
    pub partitions: u16,
    /// The attributes.
    pub attributes: Attributes,
}

impl NewQueue {
    /// Creates a queue without attributes.
    pub fn plain(partitions: u16) -> Self {
        Self { partitions, attributes: Attributes::default() }
    }
}

/// One incarnation of a queue, from its creation to its deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Distinguishes it from other queues of the same name.
    pub incarnation: u64,
    /// The number of partitions.
    pub partitions: u16,
    /// The key and the timeline of its markers.
    pub signing: Signing,
    /// Its attributes.
    pub attributes: Attributes,
}

/// Counters of the messages that a store was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreCounters {
    /// Messages that were stored.
    pub stored: u64,
    /// Stored messages that were dropped before they expired, because the store was full.
    pub dropped: u64,
    /// Stored messages that were removed because they had expired.
    pub expired: u64,
    /// Messages refused because the store was full, or because an earlier append of the same stream had
    /// failed.
    pub refused: u64,
    /// Records of other Kafka clients that were too large to serve, counted at each read.
    pub passed_over: u64,
    /// What the log groups.
    pub grouping: GroupingCounters,
}

/// Counters of the grouping of the log's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GroupingCounters {
    /// Bytes of grouped files that were written.
    pub bytes: u64,
    /// Files that grouped files replaced, and that are free.
    pub files: u64,
    /// Files that are being grouped, or are replaced and not free yet.
    pub waiting: usize,
}

/// Counters of claims, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ClaimCounters {
    /// Messages that were given out, each time counted.
    pub granted: u64,
    /// Messages that were acknowledged.
    pub acked: u64,
    /// Messages that were released, or given back by a worker that left.
    pub released: u64,
    /// Messages that were rejected.
    pub rejected: u64,
    /// Messages whose leases were renewed.
    pub renewed: u64,
    /// Messages whose leases ended without a settlement.
    pub expired: u64,
    /// Messages whose settlement came too late.
    pub lost: u64,
    /// Messages that were moved to a dead-letter queue.
    pub dead: u64,
    /// Messages that were moved back from one.
    pub redriven: u64,
    /// Messages that were deleted because they had been moved too often.
    pub dropped_dead: u64,
    /// Messages that are leased now.
    pub held: u64,
    /// Messages that were given out and are not settled now.
    pub unsettled: u64,
    /// When the oldest of these was stored, if known.
    pub oldest: Option<UnixMillis>,
}

/// The content of a queue. Expired messages may be included until their space is reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSummary {
    /// The number of partitions.
    pub partitions: u16,
    /// The number of messages.
    pub messages: u64,
    /// The size of the messages, in bytes.
    pub bytes: u64,
    /// When the oldest message was stored. `None` if unknown or if the queue is empty.
    pub oldest: Option<UnixMillis>,
    /// When the newest message was stored.
    pub newest: Option<UnixMillis>,
}

impl QueueSummary {
    /// Adds another shard's part of the same queue.
    pub fn merge(&mut self, other: &Self) {
        self.partitions = self.partitions.max(other.partitions);
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.oldest = [self.oldest, other.oldest].into_iter().flatten().min();
        self.newest = self.newest.max(other.newest);
    }
}

/// A queue in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The number of partitions.
    pub partitions: u16,
    /// What a store holds of it. `None` if no store can count that.
    pub held: Option<QueueSummary>,
}

impl Listed {
    /// Adds another shard's part of the same queue.
    pub fn merge(&mut self, other: &Self) {
        self.partitions = self.partitions.max(other.partitions);
        if let Some(more) = &other.held {
            self.held.get_or_insert_default().merge(more);
        }
    }
}

impl From<QueueSummary> for Listed {
    fn from(held: QueueSummary) -> Self {
        Self { partitions: held.partitions, held: Some(held) }
    }
}

/// The queues that a store knows.
pub type Queues = Result<Vec<(FullName, Listed)>, StoreFault>;

/// A store of messages, used by one shard.
///
/// A new kind of work is a variant of [`Request`], with its token in [`Asker`] and its answer in
/// [`Completion`]. A new kind of news is a variant of [`StoreEvent`].
pub trait Store<T: Asker> {
    /// Which shard's store takes a partition's appends.
    const APPENDS: Placement = Placement::Owner;

    /// Whether it takes [`Request::List`]. Otherwise [`Self::describe`] lists the queues.
    const LISTS: bool = false;

    /// Whether it takes requests about claims.
    const CLAIMS: bool = false;

    /// How the store can keep the state of claims.
    const STATE: StateKeeping = StateKeeping::None;

    /// Submits a request. Returns it if the store has no room for more requests now.
    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>>;

    /// Returns the next completion. Checks waiting fetches only after all submitted requests are done.
    fn poll_completion(&mut self, now: Now) -> Option<Completion<T>>;

    /// Returns whether there may be a completion although nothing was submitted since the last one.
    fn has_completions(&self) -> bool {
        false
    }

    /// Handles the passing of time: frees expired messages. Returns when to call this again, by the monotonic
    /// clock.
    fn handle_tick(&mut self, now: Now) -> Option<Millis>;

    /// Returns whether the next tick may release what has expired. If not, it only continues work in the
    /// background.
    fn may_release(&self, _now: Now) -> bool {
        true
    }

    /// Returns whether the store holds anything that changes with time.
    fn needs_ticks(&self) -> bool {
        self.counters().stored > 0
    }

    /// Keeps everything that an earlier run may have released, until [`Self::handle_certain`].
    fn hold_releases(&mut self) {}

    /// Returns whether it is not known yet which of the messages that an earlier run was moving have their copies.
    fn has_doubts(&mut self) -> bool {
        false
    }

    /// Handles that no shard has doubts any more: what was held can be released.
    fn handle_certain(&mut self) {}

    /// Returns the next errand for the shard.
    fn poll_errand(&mut self) -> Option<Errand> {
        None
    }

    /// Handles the answer to an errand.
    fn handle_done(&mut self, _now: Now, _id: ErrandId, _done: Done) {}

    /// Returns the next event.
    fn poll_event(&mut self) -> Option<StoreEvent> {
        None
    }

    /// Forgets a life of a queue that has ended. Its requests in flight and all later ones complete with
    /// [`StoreFault::Deleted`]. This store may hold partitions of the queue although no request has named it.
    fn forget(&mut self, _queue: QueueId, _incarnation: u64) {}

    /// Returns the end of a partition, if the store holds the partition and knows the end.
    fn tail(&self, _queue: &QueueInfo, _partition: Partition) -> Option<Tail> {
        None
    }

    /// Returns all queues, and what this store holds of each.
    fn describe(&self, _unix: UnixMillis) -> Result<Vec<(FullName, QueueSummary)>, StoreFault> {
        Err(StoreFault::NoCatalogue)
    }

    /// Returns a partition with state of claims from an earlier run, each once, after its queue was opened.
    fn poll_stateful(&mut self) -> Option<PartitionKey> {
        None
    }

    /// Returns a partition whose state of claims holds up the release of space. It needs a new snapshot.
    fn poll_stale_state(&mut self) -> Option<PartitionKey> {
        None
    }

    /// Allows the store to release what a partition holds below an offset. Also for a hidden partition.
    fn release(&mut self, _partition: PartitionKey, _below: Offset) {}

    /// Returns the partitions of a queue in which something is or was stored.
    fn partitions(&self, _queue: QueueId) -> Vec<Partition> {
        Vec::new()
    }

    /// Returns what a partition holds from an offset on, whatever claims say of it. `None` if the store does not know.
    fn holding(&mut self, _partition: PartitionKey, _from: Offset, _unix: UnixMillis) -> Option<Holding> {
        None
    }

    /// Calls `each` with what is stored in a range of a partition, in order. Messages that have expired may be among it.
    fn each_portion(
        &mut self,
        _partition: PartitionKey,
        _range: Range<Offset>,
        _each: &mut dyn FnMut(Portion),
    ) {
    }

    /// Makes the store keep these messages of a partition although they have expired; ascending. Replaces what
    /// the last call named. A partition with state from an earlier run is kept whole until the first call.
    fn pin(&mut self, _partition: PartitionKey, _pinned: Vec<Range<Offset>>) {}

    /// Prepares for the next start, after the last request. Must be called until it returns true. If that is
    /// skipped, no message is lost, but the next start takes longer and cannot be certain of that.
    fn handle_stop(&mut self, _now: Now) -> bool {
        true
    }

    /// Returns the queues of earlier runs of the server, as far as the store knows them locally.
    fn names(&self) -> Vec<FullName> {
        Vec::new()
    }

    /// Opens a queue of an earlier run under the id `queue`. Returns `None` if it does not exist.
    fn adopt(&mut self, _queue: QueueId, _name: &FullName) -> Option<Life> {
        None
    }

    /// Sets how far the clock may step back before timestamps follow it. They then run backwards once in each
    /// partition.
    fn set_clock_step_max(&mut self, _by: Millis) {}

    /// Charges the messages that the store holds and will hold to the storage limits of their projects. A
    /// store that does not know how much it holds charges nothing.
    fn count_for(&mut self, _tenants: &Arc<Tenants>) {}

    /// Returns the counters of claims.
    fn claims(&self) -> ClaimCounters {
        ClaimCounters::default()
    }

    /// Returns the counters of messages.
    fn counters(&self) -> StoreCounters;

    /// Returns the number of waiting fetches.
    fn waiting(&self) -> usize;
}

//! Requests about single messages of a partition, and about all of them: what they count, find and delete.

use super::batch::StoredBatch;
use super::claim::Granted;
use super::lease::{Claimed, LeaseId};
use super::millis::{Millis, UnixMillis};
use super::names::{ClientId, QueueName};
use super::units::Offset;

/// The most messages that one request finds, deletes or pops in a partition.
pub const MANAGED_MAX: usize = 1_000;

/// The size in bytes at which no further message of a claim is read. A message counts with the mean size of those that
/// were stored with it.
pub const CLAIM_BYTES_MAX: u64 = 8 << 20;

/// A request about the messages of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manage {
    /// Count them. Answered by [`Managed::Stats`], or by [`Managed::Offsets`] if the store cannot count them.
    Stats,
    /// Find messages, claimed ones too. At most [`MANAGED_MAX`], ascending. Answered by [`Managed::Found`].
    Find(Vec<Offset>),
    /// Delete messages. At most [`MANAGED_MAX`], ascending. Answered by [`Managed::Removed`].
    Remove {
        /// The messages.
        offsets: Vec<Offset>,
        /// Which of them, by their claims.
        only: Only,
    },
    /// Delete the oldest messages that can be claimed, and return them: fewer than are wanted if others would have to be
    /// read first, none only if there are none. Answered by [`Managed::Popped`] once the deletion is durable.
    Pop {
        /// The most messages, 1 to [`MANAGED_MAX`].
        messages_max: u32,
        /// The size in bytes at which no further message is added.
        bytes_max: usize,
    },
    /// Delete everything that is stored now, claimed messages too. Answered by [`Managed::Purged`].
    Purge,
    /// Move the messages of a dead-letter queue that can be claimed now back to the queues that they come from, or all
    /// of them to `to`. Answered by [`Managed::Redriven`] when the moves have begun.
    Redrive {
        /// The queue of the same project that gets them all.
        to: Option<QueueName>,
    },
    /// Look at a lease of a client, without a delivery. Answered by [`Managed::Claim`].
    Claim(ClientId, LeaseId),
    /// Restart the clock of a whole lease, with other terms. Answered by [`Managed::Renewed`] once that is durable.
    Renew {
        /// The client that the lease belongs to.
        client: ClientId,
        /// The lease.
        lease: LeaseId,
        /// How long it lasts from now on, in seconds.
        ttl_secs: u32,
        /// How long its messages live at least after it has ended, in seconds.
        grace_secs: u32,
    },
    /// End a lease of a client: its messages can be claimed again at once, and keep their counts. Answered by
    /// [`Managed::Released`] once that is durable, also if there is no such lease.
    Release(ClientId, LeaseId),
}

/// Which messages a deletion is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// All, claimed or not.
    All,
    /// Those that are not claimed.
    Unclaimed,
    /// Those that this lease of this client holds, or held last until its time was over.
    In(ClientId, LeaseId),
}

/// The answer to a [`Manage`].
#[derive(Clone, Debug)]
pub enum Managed {
    /// What the partition holds.
    Stats(PartitionStats),
    /// The number of offsets between the oldest one and the end of the partition, if that bounds the number of messages.
    Offsets(Option<u64>),
    /// Those that exist, in order.
    Found(Vec<Found>),
    /// What became of each message, in the order of the request. The deletions are durable.
    Removed(Vec<Removed>),
    /// The messages that were deleted.
    Popped(Vec<Granted>),
    /// The number of messages that were deleted.
    Purged(u64),
    /// The number of messages that are being moved now, or wait for it.
    Redriven(u64),
    /// The lease, if it lives and has messages left.
    Claim(Option<ClaimView>),
    /// Whether the lease lived. If not, nothing has changed.
    Renewed(bool),
    /// The lease does not exist, or no longer.
    Released,
}

/// A lease that lives.
#[derive(Clone, Debug)]
pub struct ClaimView {
    /// When it was made or last renewed, by the monotonic clock.
    pub since: Millis,
    /// How long it lasts from then on, in seconds.
    pub ttl_secs: u32,
    /// When it ends, by the monotonic clock.
    pub ends: Millis,
    /// The number of its messages.
    pub messages: u64,
    /// The first of them, ascending: at most [`MANAGED_MAX`], and about [`CLAIM_BYTES_MAX`].
    pub runs: Vec<Granted>,
}

/// What a partition holds. Messages that have expired may count for another minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionStats {
    /// Messages that can be claimed.
    pub free: u64,
    /// Messages that are claimed.
    pub claimed: u64,
    /// Messages that can be claimed later: they are delayed, were released with a delay, or are being moved.
    pub delayed: u64,
    /// The size of all of these in stored form, in bytes. Where a part of a batch was deleted, its messages count with
    /// their mean size.
    pub bytes: u64,
    /// The first of these messages.
    pub oldest: Option<Stored>,
    /// The last of these messages.
    pub newest: Option<Stored>,
}

/// Where and when a message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its offset.
    pub offset: Offset,
    /// When it was stored.
    pub timestamp: UnixMillis,
}

/// A message that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its batch.
    pub stored: StoredBatch,
    /// Its offset.
    pub offset: Offset,
    /// The position of its record in the batch.
    pub record: usize,
    /// How often it was given out.
    pub count: u32,
    /// Its claim, if it is claimed.
    pub claim: Option<Claimed>,
    /// When it expires, if a claim has made it live longer than its TTL.
    pub expires: Option<UnixMillis>,
}

/// What became of a message that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is deleted.
    Yes,
    /// There is no such message: it was never stored, was deleted before, or has expired.
    Absent,
    /// It is kept, because a lease holds it: another one than the request names, if it names one.
    Claimed,
    /// It is kept, because the lease that the request names does not hold it, nor does another one.
    Unclaimed,
}

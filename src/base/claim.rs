//! Claims: leases of messages, as operations ask for them and stores keep them.
//!
//! A worker claims messages of a partition, and settles them later. Until the lease ends, nobody else is given
//! them. The names of the wire are in protocol section 17.

use std::ops::Range;

use super::batch::StoredBatch;
pub use super::lease::{Claimed, LeaseId};
use super::millis::{Millis, UnixMillis};
use super::names::ClientId;
use super::units::Offset;

/// An operation that claims. Unique in the server while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Worker(pub u128);

/// The terms of the leases of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The client that the leases belong to.
    pub client: ClientId,
    /// How long a lease lasts, in seconds.
    pub ttl_secs: u32,
    /// How long its messages live at least after the lease has ended, in seconds.
    pub grace_secs: u32,
}

/// A lease with its messages, all of one partition.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The lease.
    pub lease: LeaseId,
    /// When the lease ends, by the monotonic clock.
    pub ends: Millis,
    /// The messages, in the order of their offsets.
    pub runs: Vec<Granted>,
}

/// Consecutive messages of one batch in a lease.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The batch of the messages.
    pub stored: StoredBatch,
    /// Their offsets, within the batch.
    pub offsets: Range<Offset>,
    /// The position of the first one's record in the batch.
    pub record: usize,
    /// How often each of them was given out: by a claim or a pop, this time included.
    pub count: u32,
    /// When they expire, if a claim has made them live longer than their TTL.
    pub expires: Option<UnixMillis>,
}

/// What happens to leased messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// They are done, and deleted for everybody.
    Ack,
    /// They are given out again, after a delay in seconds. `None` takes the delay that grows with the count.
    Release(Option<u32>),
    /// They are given out again at once, and this time does not count.
    Return,
    /// They cannot be processed, and are deleted.
    Reject,
    /// Their lease lasts for this many seconds from now on.
    Renew(u32),
}

/// Which leases a settlement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leases {
    /// This one.
    One(LeaseId),
    /// All leases of the client whose operations have ended.
    Ended,
}

/// A settlement of leased messages of one partition. It has an effect only on leases of `client`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The client that settles.
    pub client: ClientId,
    /// The leases.
    pub leases: Leases,
    /// The messages, ascending and without overlap; empty: all of the leases.
    pub offsets: Vec<Range<Offset>>,
    /// What happens to them.
    pub what: Settle,
}

/// Messages whose settlement came too late, because they were given out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The index of the settlement in its request.
    pub settlement: usize,
    /// The messages, ascending.
    pub offsets: Vec<Range<Offset>>,
}

/// What happens to the leases of a worker that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// They are not affected: the operation goes on, and may claim and watch again.
    Pause,
    /// They last until they end.
    Keep,
    /// They are settled.
    Settle(Settle),
}

/// Which messages a reader sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// Those that live and are not claimed.
    #[default]
    Unclaimed,
    /// Those that live, claimed or not.
    Live,
    /// All that are stored, expired and deleted ones too: for what keeps the claims.
    Stored,
}

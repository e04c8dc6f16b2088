//! A lease, as those see it who do not hold it.

use std::ops::Range;

use super::millis::Millis;
use super::names::ClientId;
use super::units::Offset;

/// The number of a lease in its partition, from 1. Never given twice in one life of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// A claimed message as other readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The messages.
    pub offsets: Range<Offset>,
    /// Their lease.
    pub lease: LeaseId,
    /// The client that the lease belongs to.
    pub client: ClientId,
    /// When the lease ends, by the monotonic clock.
    pub ends: Millis,
    /// Until when the messages live whatever their TTL says, by the monotonic clock.
    pub lives_until: Millis,
}

//! Counts each partition's share of its project's storage, as [`Store::queues`](crate::store::Store::describe)
//! reports it.
//!
//! Batches count once they are stored. Expired messages stop counting at the next tick, a span at a time. A
//! partition that is released gives back all that it counted. If a span goes on after everything in it had
//! expired, its expired messages stay out of the count until the next recount.

use std::sync::Arc;

use super::format::BatchHeader;
use super::index::SpanHead;
use super::summary;
use crate::access::{StorageShare, Tenant, Tenants};
use crate::base::millis::UnixMillis;
use crate::base::queue::PartitionKey;
use crate::store::QueueSummary;

/// The accounts of the projects whose storage is counted.
#[derive(Debug)]
pub(super) struct Accounts {
    tenants: Arc<Tenants>,
    /// When expired messages were last counted.
    counted: UnixMillis,
}

impl Accounts {
    /// Creates the accounts of a server that counts storage.
    pub(super) fn new(tenants: &Arc<Tenants>) -> Self {
        Self { tenants: tenants.clone(), counted: UnixMillis::ZERO }
    }

    /// Records the time of a count. Returns whether the clock is behind the last count, so that messages that
    /// had expired then have not expired now.
    pub(super) fn look(&mut self, unix: UnixMillis) -> bool {
        unix < std::mem::replace(&mut self.counted, unix)
    }

    /// Returns the account of a partition of an open queue.
    pub(super) fn of(&self, key: PartitionKey) -> Option<StorageAccount> {
        self.tenants.of_queue(key.queue).as_ref().and_then(StorageAccount::new)
    }
}

/// A partition's share of its project's storage.
#[derive(Debug)]
pub(super) struct StorageAccount {
    share: StorageShare,
    /// When it must be recounted, because something has expired by then.
    due: UnixMillis,
}

impl StorageAccount {
    /// Creates the account of a partition of this project. Returns `None` if the project's storage is not
    /// counted.
    pub(super) fn new(tenant: &Arc<Tenant>) -> Option<Self> {
        tenant.share().map(|share| Self { share, due: UnixMillis::ZERO })
    }

    /// Counts a batch that was stored.
    pub(super) fn add(&mut self, header: &BatchHeader) {
        self.share.add(header.bytes() as u64);
        self.due = self.due.min(header.expiry());
    }

    /// Requests a recount, because spans were released.
    pub(super) fn set_due(&mut self) {
        self.due = UnixMillis::ZERO;
    }

    /// Returns whether it must be recounted.
    pub(super) fn is_due(&self, unix: UnixMillis) -> bool {
        self.due <= unix
    }

    /// Recounts the spans of the partition that have not expired.
    pub(super) fn count<'a>(&mut self, heads: impl Iterator<Item = &'a SpanHead> + Clone, unix: UnixMillis) {
        let mut held = QueueSummary::default();
        summary::add(&mut held, heads.clone(), unix);
        self.share.set(held.bytes);
        let unexpired = heads.map(|head| head.expiry).filter(|expiry| *expiry > unix);
        self.due = unexpired.min().unwrap_or(UnixMillis::MAX);
    }
}

//! Counts each partition's share of its project's storage, as [`Store::queues`](crate::store::Store::queues)
//! reports it.
//!
//! Batches count once they are stored. Expired messages stop counting at the next tick, a span at a time. A
//! partition that is released gives back all that it counted. If a span goes on after everything in it had
//! expired, its expired messages stay out of the count until the next recount.

use std::sync::Arc;

use super::format::BatchHeader;
use super::index::SpanHead;
use super::summary;
use crate::access::{Share, Tenant, Tenants};
use crate::base::queue::PartitionKey;
use crate::store::QueueSummary;

/// The accounts of the projects whose storage is limited.
#[derive(Debug)]
pub(super) struct Accounts {
    tenants: Arc<Tenants>,
    /// When expired messages were last counted, Unix milliseconds.
    counted_ms: u64,
}

impl Accounts {
    /// Creates the accounts of a server that limits storage.
    pub(super) fn new(tenants: &Arc<Tenants>) -> Self {
        Self { tenants: tenants.clone(), counted_ms: 0 }
    }

    /// Records the time of a count. Returns whether the clock is behind the last count, so that messages that
    /// had expired then have not expired now.
    pub(super) fn look(&mut self, unix_ms: u64) -> bool {
        unix_ms < std::mem::replace(&mut self.counted_ms, unix_ms)
    }

    /// Returns the account of a partition of an open queue.
    pub(super) fn of(&self, key: PartitionKey) -> Option<Account> {
        self.tenants.of_queue(key.queue).as_ref().and_then(Account::new)
    }
}

/// A partition's share of its project's storage.
#[derive(Debug)]
pub(super) struct Account {
    share: Share,
    /// When it must be recounted, Unix milliseconds, because something has expired by then.
    due_ms: u64,
}

impl Account {
    /// Creates the account of a partition of this project. Returns `None` if the project's storage is not
    /// limited.
    pub(super) fn new(tenant: &Arc<Tenant>) -> Option<Self> {
        tenant.share().map(|share| Self { share, due_ms: 0 })
    }

    /// Counts a batch that was stored.
    pub(super) fn add(&mut self, header: &BatchHeader) {
        self.share.add(header.bytes() as u64);
        self.due_ms = self.due_ms.min(header.expiry_ms());
    }

    /// Requests a recount, because spans were released.
    pub(super) fn set_due(&mut self) {
        self.due_ms = 0;
    }

    /// Returns whether it must be recounted.
    pub(super) fn is_due(&self, unix_ms: u64) -> bool {
        self.due_ms <= unix_ms
    }

    /// Recounts the spans of the partition that have not expired.
    pub(super) fn count<'a>(&mut self, heads: impl Iterator<Item = &'a SpanHead> + Clone, unix_ms: u64) {
        let mut held = QueueSummary::default();
        summary::add(&mut held, heads.clone(), unix_ms);
        self.share.set(held.bytes);
        let unexpired = heads.map(|head| head.expiry_ms).filter(|expiry_ms| *expiry_ms > unix_ms);
        self.due_ms = unexpired.min().unwrap_or(u64::MAX);
    }
}

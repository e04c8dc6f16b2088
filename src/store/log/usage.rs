//! What each partition counts as its project's storage: what [`Store::queues`](crate::store::Store::queues) says of it.
//!
//! Batches count once they are stored. What has expired is given back at the next tick, a partition's part of a segment at a time;
//! a partition that is let go of gives back all that it counted. A part that goes on after all of it had expired counts without
//! that until it is counted anew.

use std::sync::Arc;

use super::format::BatchHeader;
use super::index::SpanHead;
use super::summary;
use crate::access::{Share, Tenant, Tenants};
use crate::base::queue::PartitionKey;
use crate::store::QueueSummary;

/// The projects whose storage is limited.
#[derive(Debug)]
pub(super) struct Accounts {
    tenants: Arc<Tenants>,
    /// When expired messages were looked for last, Unix milliseconds.
    counted_ms: u64,
}

impl Accounts {
    /// Those of a server whose projects are limited.
    pub(super) fn new(tenants: &Arc<Tenants>) -> Self {
        Self { tenants: tenants.clone(), counted_ms: 0 }
    }

    /// Whether the clock is behind where it was when expired messages were looked for last: what had expired then has not.
    pub(super) fn look(&mut self, unix_ms: u64) -> bool {
        unix_ms < std::mem::replace(&mut self.counted_ms, unix_ms)
    }

    /// The account of a partition of a queue that is open.
    pub(super) fn of(&self, key: PartitionKey) -> Option<Account> {
        self.tenants.of_queue(key.queue).as_ref().and_then(Account::new)
    }
}

/// What a partition counts.
#[derive(Debug)]
pub(super) struct Account {
    share: Share,
    /// When it is to be counted anew, Unix milliseconds: some of it has expired then.
    due_ms: u64,
}

impl Account {
    /// The account of a partition of that project; `None` where its storage is not limited.
    pub(super) fn new(tenant: &Arc<Tenant>) -> Option<Self> {
        tenant.share().map(|share| Self { share, due_ms: 0 })
    }

    /// A batch was stored.
    pub(super) fn add(&mut self, header: &BatchHeader) {
        self.share.add(header.bytes() as u64);
        self.due_ms = self.due_ms.min(header.expiry_ms());
    }

    /// Spans were let go of.
    pub(super) fn set_due(&mut self) {
        self.due_ms = 0;
    }

    /// Whether it is to be counted anew.
    pub(super) fn is_due(&self, unix_ms: u64) -> bool {
        self.due_ms <= unix_ms
    }

    /// Counts the spans of the partition that have not expired.
    pub(super) fn count<'a>(&mut self, heads: impl Iterator<Item = &'a SpanHead> + Clone, unix_ms: u64) {
        let mut held = QueueSummary::default();
        summary::add(&mut held, heads.clone(), unix_ms);
        self.share.set(held.bytes);
        let unexpired = heads.map(|head| head.expiry_ms).filter(|expiry_ms| *expiry_ms > unix_ms);
        self.due_ms = unexpired.min().unwrap_or(u64::MAX);
    }
}

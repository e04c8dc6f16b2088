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
use crate::base::millis::UnixMillis;
use crate::base::queue::PartitionKey;
use crate::store::QueueSummary;

/// The projects whose storage is limited.
#[derive(Debug)]
pub(super) struct Accounts {
    tenants: Arc<Tenants>,
    /// When expired messages were looked for last, Unix milliseconds.
    counted: UnixMillis,
}

impl Accounts {
    /// Those of a server whose projects are limited.
    pub(super) fn new(tenants: &Arc<Tenants>) -> Self {
        Self { tenants: tenants.clone(), counted: UnixMillis::ZERO }
    }

    /// Whether the clock is behind where it was when expired messages were looked for last: what had expired then has not.
    pub(super) fn look(&mut self, unix: UnixMillis) -> bool {
        unix < std::mem::replace(&mut self.counted, unix)
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
    due: UnixMillis,
}

impl Account {
    /// The account of a partition of that project; `None` where its storage is not limited.
    pub(super) fn new(tenant: &Arc<Tenant>) -> Option<Self> {
        tenant.share().map(|share| Self { share, due: UnixMillis::ZERO })
    }

    /// A batch was stored.
    pub(super) fn add(&mut self, header: &BatchHeader) {
        self.share.add(header.bytes() as u64);
        self.due = self.due.min(header.expiry());
    }

    /// Spans were let go of.
    pub(super) fn set_due(&mut self) {
        self.due = UnixMillis::ZERO;
    }

    /// Whether it is to be counted anew.
    pub(super) fn is_due(&self, unix: UnixMillis) -> bool {
        self.due <= unix
    }

    /// Counts the spans of the partition that have not expired.
    pub(super) fn count<'a>(&mut self, heads: impl Iterator<Item = &'a SpanHead> + Clone, unix: UnixMillis) {
        let mut held = QueueSummary::default();
        summary::add(&mut held, heads.clone(), unix);
        self.share.set(held.bytes);
        let unexpired = heads.map(|head| head.expiry).filter(|expiry| *expiry > unix);
        self.due = unexpired.min().unwrap_or(UnixMillis::MAX);
    }
}

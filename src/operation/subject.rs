//! The client and the queue of an operation.

use std::sync::Arc;

use super::command::{OperationId, Target};
use crate::access::{Grant, Permit, Right, Tenant, Use};
use crate::base::clock::Now;
use crate::base::error::PeerFault;
use crate::base::millis::Millis;
use crate::base::names::{ClientId, FullName, Project, QueueName};
use crate::base::queue::QueueInfo;
use crate::base::units::{MsgNum, Partition};

/// The identity of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// The client's id.
    pub client: ClientId,
    /// Whether the client named itself, so that its messages keep their order across reconnects.
    pub is_known: bool,
}

/// A client, and the project that is charged for it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The project that the client works in.
    pub project: Project,
    /// The client's identity.
    pub author: Author,
    /// The usage record of the project. `None` if nothing is counted, in tests.
    pub tenant: Option<Arc<Tenant>>,
    /// What the client may do. `None` if clients need not authenticate.
    pub granted: Option<Granted>,
}

/// The grant of a client, and when it ends.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The grant.
    pub grant: Arc<Grant>,
    /// When it ends, by the monotonic clock. `None` if it has no end.
    pub ends: Option<Millis>,
}

impl Caller {
    /// Returns whether the client may use a queue of its project in this way.
    pub fn may(&self, right: Right, queue: &QueueName) -> bool {
        self.granted.as_ref().is_none_or(|Granted { grant, .. }| {
            grant.reaches(&self.project) && grant.allows(right, queue.as_str())
        })
    }

    /// Returns what the client may do. `None` if clients need not authenticate.
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        self.granted.as_ref().map(|granted| &granted.grant)
    }

    /// Returns how long the client's grant lasts, in whole seconds; `None` if it has no end.
    pub fn seconds_left(&self, now: Now) -> Option<u32> {
        let ends = self.granted.as_ref()?.ends?;
        Some(u32::try_from(ends.since(now.mono).get() / 1_000).unwrap_or(u32::MAX))
    }

    /// Admits one more operation, if the project's limits allow it. `produces` also checks its rates. Returns
    /// no permit if nothing is counted.
    pub fn admit(&self, produces: bool, now: Now) -> Result<Option<Permit>, PeerFault> {
        let Some(tenant) = &self.tenant else { return Ok(None) };
        if produces && tenant.is_over(now.mono) {
            return Err(PeerFault::OverRate { sent: MsgNum::ZERO, rates: tenant.rates() });
        }
        let key = "project_max_operations";
        let taken = tenant.take(Use::Operation);
        taken.map(Some).map_err(|limit| PeerFault::TooMany { what: "operations", key, limit })
    }
}

/// The client and the queue of one operation. Fixed once the queue is opened.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The number of the operation.
    pub operation: OperationId,
    /// The client and its project.
    pub caller: Caller,
    /// The name of the queue in its project.
    pub name: QueueName,
    /// The queue, as its home has described it.
    pub queue: QueueInfo,
}

impl Subject {
    /// Returns the target of one partition of the queue.
    pub fn target(&self, partition: Partition) -> Target {
        Target { partition: self.queue.key(partition), hash: self.queue.hash }
    }

    /// Returns the project and the name of the queue.
    pub fn full_name(&self) -> FullName {
        (self.caller.project.clone(), self.name.clone())
    }
}

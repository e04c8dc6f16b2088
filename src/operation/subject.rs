//! Who asks for an operation, and which queue it is about.

use std::sync::Arc;

use super::command::{OperationId, Target};
use crate::access::{Permit, Tenant, Use};
use crate::base::clock::Now;
use crate::base::error::PeerFault;
use crate::base::names::{ClientId, FullName, Project, QueueName};
use crate::base::queue::QueueInfo;
use crate::base::units::{MsgNum, Partition};

/// The client of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// The client.
    pub client: ClientId,
    /// Whether the client named itself, so that its order survives a reconnect.
    pub is_known: bool,
}

/// Who asks, and whose use counts.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The project.
    pub project: Project,
    /// The client.
    pub author: Author,
    /// The project, where its use is limited.
    pub tenant: Option<Arc<Tenant>>,
}

impl Caller {
    /// Admits one more operation: whether the project may have it, and may produce at all. The permit is absent where nothing
    /// is limited.
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

/// What one operation is about. Fixed once its queue is opened.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The operation.
    pub operation: OperationId,
    /// Who asks.
    pub caller: Caller,
    /// The queue's name.
    pub name: QueueName,
    /// The queue.
    pub queue: QueueInfo,
}

impl Subject {
    /// One partition of the queue.
    pub fn target(&self, partition: Partition) -> Target {
        Target { partition: self.queue.key(partition), hash: self.queue.hash }
    }

    /// The queue's full name.
    pub fn full_name(&self) -> FullName {
        (self.caller.project.clone(), self.name.clone())
    }
}

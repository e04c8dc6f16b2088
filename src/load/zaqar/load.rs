//! The parameters of a load.

use std::sync::Arc;

use super::super::plan::Plan;
use super::super::stamp::STAMP_BYTES;
use super::format::Format;
use crate::client::{ClientError, Target, zaqar};

/// How many messages a claim takes and a page has, at most.
pub const CLAIMED: usize = 10;

/// The characters at the start of a message of [`Workload::Notify`]: its stamp in hexadecimal digits.
pub const STAMP_CHARS: usize = 2 * STAMP_BYTES;

/// What the connections ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// `message_post`.
    Post,
    /// `message_list` of [`CLAIMED`] messages.
    List,
    /// Rounds of `claim_create` and `message_delete_many` of what was claimed.
    Claim,
    /// `message_get`.
    Get,
    /// `message_delete`.
    Delete,
    /// `message_post` to a queue that other connections subscribe to.
    Notify,
}

impl Workload {
    /// Returns whether the requests carry messages, so that a request counts as its messages.
    pub fn has_messages(self) -> bool {
        matches!(self, Self::Post | Self::Notify)
    }

    /// Returns whether requests name a message that was posted.
    pub fn needs_ids(self) -> bool {
        matches!(self, Self::Get | Self::Delete)
    }

    /// Returns whether the load consumes messages, which it has to post beside.
    pub fn needs_stock(self) -> bool {
        matches!(self, Self::Claim | Self::Delete)
    }
}

/// The parameters of a load.
///
/// The plan has the connections (`producers`), the subscribers (`consumers`), the messages of a request
/// (`batch`), their size, the rate in messages and the times.
#[derive(Clone, Debug)]
pub struct Load {
    /// The common parameters of all loads.
    pub plan: Arc<Plan>,
    /// What the connections ask for.
    pub workload: Workload,
    /// The format of requests and answers.
    pub format: Format,
    /// The project of the requests.
    pub project: String,
    /// How many requests of a connection may be under way.
    pub depth: usize,
    /// How many messages are posted before the run begins, by all connections together. Only for workloads that
    /// [need stock](Workload::needs_stock).
    pub stock: u64,
}

impl Load {
    /// Returns the server. Project, client and token are part of the requests, not of the handshake.
    pub(super) fn target(&self) -> Result<Target, ClientError> {
        Ok(zaqar::target(&self.plan.url)?.trusting(self.plan.trust.clone()))
    }
}

//! What an operation borrows from its shard for one call.

use super::command::Command;
use super::settings::Settings;
use crate::base::budget::Purse;
use crate::base::clock::Now;
use crate::base::error::FailureCounts;

/// What operations did, counted for the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct OperationCounters {
    /// Messages framed for consumers, and the bytes of their responses.
    pub delivered: u64,
    /// See `delivered`.
    pub delivered_bytes: u64,
    /// Messages that producers sent within their credit and rates, and the bytes of their requests.
    pub received: u64,
    /// See `received`.
    pub received_bytes: u64,
    /// Operations begun.
    pub operations: u64,
    /// Operations that failed, by status.
    pub failed: FailureCounts,
    /// Messages that were refused by number while the operation went on, by status.
    pub refused: FailureCounts,
}

/// See the module's page.
#[derive(Debug)]
pub struct Resources<'a> {
    /// The time.
    pub now: Now,
    /// When the bytes of this call were read, [`Now::mono_ns`].
    pub read_ns: u64,
    /// Limits and windows.
    pub settings: &'a Settings,
    /// The shard's bytes, and what the connection has of them.
    pub budget: Purse<'a>,
    /// Commands for the shard.
    pub commands: &'a mut Vec<Command>,
    /// Counters.
    pub counters: &'a mut OperationCounters,
}

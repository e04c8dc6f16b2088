//! What an operation borrows from its shard for one call.

use super::command::Command;
use super::regulator::Regulator;
use super::settings::Settings;
use crate::base::budget::Purse;
use crate::base::clock::Now;
use crate::base::error::FailureCounts;

/// Counters of operations, for the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct OperationCounters {
    /// Messages encoded for consumers.
    pub delivered: u64,
    /// Bytes of the responses that hold these messages.
    pub delivered_bytes: u64,
    /// Messages that producers sent within their credit and rates.
    pub received: u64,
    /// Bytes of the requests that held these messages.
    pub received_bytes: u64,
    /// Operations that were started.
    pub operations: u64,
    /// Operations that failed, by status.
    pub failed: FailureCounts,
    /// Messages that were refused individually, while the operation continued, by status.
    pub refused: FailureCounts,
}

/// The parts of a shard that an operation borrows for one call.
#[derive(Debug)]
pub struct Resources<'a> {
    /// The time of this call.
    pub now: Now,
    /// When the bytes of this call were read, [`Now::mono_ns`].
    pub read_ns: u64,
    /// The limits of operations.
    pub settings: &'a Settings,
    /// The shard's budget, and the connection's part of it.
    pub budget: Purse<'a>,
    /// Collects the commands for the shard.
    pub commands: &'a mut Vec<Command>,
    /// The counters of the shard.
    pub counters: &'a mut OperationCounters,
    /// Bounds what the shard's producers have under way.
    pub regulator: &'a mut Regulator,
}

//! What an operation borrows for one call.

use std::sync::Arc;

use super::command::Command;
use super::settings::Settings;
use crate::access::Tenant;
use crate::base::budget::Purse;
use crate::base::clock::Now;
use crate::base::error::FailureCounts;

/// What operations did, counted for the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Messages framed for consumers, and the bytes of the responses that hold them.
    pub delivered: u64,
    /// See `delivered`.
    pub delivered_bytes: u64,
    /// Messages that producers sent and that were not refused at once, and the bytes of the requests that held them.
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

/// What an operation borrows for one call.
#[derive(Debug)]
pub struct Context<'a> {
    /// The time.
    pub now: Now,
    /// When the bytes that are handed in were read, [`Now::mono_ns`].
    pub read_ns: u64,
    /// What it obeys.
    pub settings: &'a Settings,
    /// The shard's bytes, and what its connection has of them.
    pub budget: Purse<'a>,
    /// Where its commands go.
    pub commands: &'a mut Vec<Command>,
    /// Counters.
    pub counters: &'a mut Counters,
    /// Its project, if something of it is limited.
    pub tenant: Option<&'a Arc<Tenant>>,
}

//! What a session borrows for one call, and how it says a fault.

use super::framed::Framed;
use super::pb_writer::PbWriter;
use crate::access::Tenant;
use crate::base::budget::Purse;
use crate::base::clock::Now;
use crate::base::error::{FailureCounts, Fault};
use crate::operation::{Command, Settings};
use crate::pb::Status;
use std::sync::Arc;

/// What sessions did, counted for the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SessionCounters {
    /// Messages framed for consumers, and the bytes of the responses that they stand in.
    pub delivered: u64,
    /// See `delivered`.
    pub delivered_bytes: u64,
    /// Messages that producers sent and that were not refused at once, and the bytes of the requests that they stand in.
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

/// What a session borrows for one call.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The time.
    pub now: Now,
    /// When the bytes that are handed in were read, [`Now::mono_ns`].
    pub read_ns: u64,
    /// What it obeys.
    pub settings: &'a Settings,
    /// The shard's bytes, and what its connection has of them.
    pub budget: Purse<'a>,
    /// Where its frames go.
    pub reply: PbWriter<'a>,
    /// What of them began when.
    pub framed: &'a mut Framed,
    /// Where its wishes go.
    pub commands: &'a mut Vec<Command>,
    /// Counters.
    pub counters: &'a mut SessionCounters,
    /// Its project, where something of it is limited.
    pub tenant: Option<&'a Arc<Tenant>>,
    /// The socket took everything that it was given.
    pub writable: bool,
}

impl Cx<'_> {
    /// Whether more may be encoded.
    pub fn has_room(&self) -> bool {
        self.writable && self.has_space() && !self.budget.is_overheld()
    }

    /// How much may wait to be sent before no more is encoded, bytes.
    pub fn send_limit(&self) -> usize {
        if self.budget.is_pressed() {
            self.settings.send_buffer_bytes_pressed
        } else {
            self.settings.send_buffer_bytes
        }
    }

    /// Whether less is encoded than may wait, whether or not the socket takes it.
    pub fn has_space(&self) -> bool {
        self.reply.out.len() < self.send_limit()
    }
}

/// The status of a fault, with the reason that the peer reads.
pub fn status_of(fault: &Fault) -> Status {
    Status { status_code: Some(fault.status().0), reason_phrase: Some(fault.to_string()) }
}

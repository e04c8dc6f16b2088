//! What a front borrows from its connection for one call, and the status of a fault.

use super::framed::Framed;
use super::pb_writer::PbWriter;
use crate::base::error::Fault;
use crate::operation::Resources;
use crate::pb::Status;

/// Everything that a front borrows from its connection for one call.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The parts of the shard that the front's operations borrow.
    pub resources: Resources<'a>,
    /// The writer for its frames.
    pub reply: PbWriter<'a>,
    /// The messages in the connection's output, for their latencies.
    pub framed: &'a mut Framed,
    /// Whether the socket accepted everything that it was given.
    pub writable: bool,
}

impl Cx<'_> {
    /// Returns whether more may be encoded.
    pub fn has_room(&self) -> bool {
        self.writable && self.has_space() && !self.resources.budget.is_overheld()
    }

    /// Returns how many bytes may wait to be sent before encoding stops.
    pub fn send_limit(&self) -> usize {
        let settings = self.resources.settings;
        if self.resources.budget.is_pressed() {
            settings.send_buffer_bytes_pressed
        } else {
            settings.send_buffer_bytes
        }
    }

    /// Returns whether the output is below [`Self::send_limit`], even if the socket does not accept it.
    pub fn has_space(&self) -> bool {
        self.reply.out.len() < self.send_limit()
    }
}

/// Returns the status of a fault, with the reason for the peer.
pub fn status_of(fault: &Fault) -> Status {
    Status {
        status_code: Some(fault.status().0),
        reason_phrase: Some(fault.to_string()),
        ..Status::default()
    }
}

//! What a front borrows from its connection for one call, and how it says a fault.

use super::framed::Framed;
use super::pb_writer::PbWriter;
use crate::base::error::Fault;
use crate::operation::Resources;
use crate::pb::Status;

/// What a front borrows from its connection for one call.
#[derive(Debug)]
pub struct Cx<'a> {
    /// What its operations borrow.
    pub resources: Resources<'a>,
    /// Where its frames go.
    pub reply: PbWriter<'a>,
    /// When their messages began.
    pub framed: &'a mut Framed,
    /// The socket took everything that it was given.
    pub writable: bool,
}

impl Cx<'_> {
    /// Whether more may be encoded.
    pub fn has_room(&self) -> bool {
        self.writable && self.has_space() && !self.resources.budget.is_overheld()
    }

    /// How much may wait to be sent before no more is encoded, bytes.
    pub fn send_limit(&self) -> usize {
        let settings = self.resources.settings;
        if self.resources.budget.is_pressed() {
            settings.send_buffer_bytes_pressed
        } else {
            settings.send_buffer_bytes
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

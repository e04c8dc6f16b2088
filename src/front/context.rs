//! What a protocol borrows for one call, and how it says a fault.

use std::ops::{Deref, DerefMut};

use super::framed::Framed;
use super::pb_writer::PbWriter;
use crate::base::error::Fault;
use crate::operation::Context;
use crate::pb::Status;

/// What a protocol borrows for one call: what its operation does, and the sending side of the connection.
#[derive(Debug)]
pub struct Cx<'a> {
    /// What the operation borrows.
    pub operation: Context<'a>,
    /// Where its frames go.
    pub reply: PbWriter<'a>,
    /// When what they hold began.
    pub framed: &'a mut Framed,
    /// The socket took everything that it was given.
    pub writable: bool,
}

impl<'a> Deref for Cx<'a> {
    type Target = Context<'a>;

    fn deref(&self) -> &Context<'a> {
        &self.operation
    }
}

impl DerefMut for Cx<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.operation
    }
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

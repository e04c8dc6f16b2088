//! Writes the server's half: one whole pb in each frame (a client of 2014 parses each frame by itself).

use prost::Message;

use crate::error::Fault;
use crate::pb::Status;
use crate::pb::wire::{varint_length, write_varint};
use crate::ws::{MessageKind, Sender};

/// The connection's sending side, lent to the session.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The connection's frames.
    pub sender: &'a mut Sender,
    /// Where to.
    pub out: &'a mut Vec<u8>,
}

impl Reply<'_> {
    /// One pb in a frame of its own; with `fin` it ends the half.
    pub fn pb(&mut self, pb: &impl Message, fin: bool) {
        let length = pb.encoded_len();
        self.raw(length, fin, |out| pb.encode_raw(out));
    }

    /// The same for a pb of `length` bytes that `write` appends.
    #[inline]
    pub fn raw(&mut self, length: usize, fin: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let framed = varint_length(length as u64) + length;
        self.sender.data(self.out, MessageKind::Binary, fin, framed, |out| {
            write_varint(length as u64, out);
            write(out);
        });
    }

    /// Ends the half with an empty frame.
    pub fn fin(&mut self) {
        self.sender.data(self.out, MessageKind::Binary, true, 0, |_| {});
    }
}

/// The status of a fault, with the reason that the peer reads.
pub(super) fn status_of(fault: &Fault) -> Status {
    Status { status_code: Some(fault.status().0), reason_phrase: Some(fault.to_string()) }
}

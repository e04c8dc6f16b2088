//! Writes one side's half, the server's or a client's, with each pb in its own frame (a client from 2014
//! parses each frame separately).

use prost::Message;

use crate::pb::wire::{varint_length, write_varint};
use crate::ws::{MessageKind, Sender};

/// The sending side of a connection, lent to a front.
#[derive(Debug)]
pub struct PbWriter<'a> {
    /// The sender of the connection's frames.
    pub sender: &'a mut Sender,
    /// The buffer that pbs are appended to.
    pub out: &'a mut Vec<u8>,
}

impl PbWriter<'_> {
    /// Writes a pb as a frame. With `fin`, the frame ends the half.
    pub fn pb(&mut self, pb: &impl Message, fin: bool) {
        let length = pb.encoded_len();
        self.raw(length, fin, |out| pb.encode_raw(out));
    }

    /// Writes a pb of `length` bytes, which `write` appends, as a frame.
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

//! Writes one side's half, the server's or a client's: one whole pb in each frame (a client of 2014 parses each frame by itself).

use prost::Message;

use crate::pb::wire::{varint_length, write_varint};
use crate::ws::{MessageKind, Sender};

/// The connection's sending side, lent to a front.
#[derive(Debug)]
pub struct PbWriter<'a> {
    /// The connection's frames.
    pub sender: &'a mut Sender,
    /// Where to.
    pub out: &'a mut Vec<u8>,
}

impl PbWriter<'_> {
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

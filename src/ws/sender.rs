//! The sending half of a WebSocket: the frames of one message at a time, with control frames between them.
//!
//! Writes into a buffer that the caller owns. A client masks each frame in place after writing it.

use super::frame::{FrameHeader, HEADER_BYTES_MAX, Opcode};
use super::mask::{self, Keys};
use super::{CloseCode, MessageKind, Role};
use crate::base::limits::CONTROL_PAYLOAD_BYTES_MAX;

/// The sending half of one connection.
#[derive(Debug)]
pub struct Sender {
    /// The masking keys of a client.
    keys: Option<Keys>,
    /// Whether a message has started and not ended.
    open: bool,
}

impl Sender {
    /// Returns whether a message has started and not ended.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Restores the state of when [`Self::is_open`] returned `open`. The caller removes the bytes written
    /// since then.
    pub fn roll_back(&mut self, open: bool) {
        self.open = open;
    }

    /// Creates a sender for our side of the connection.
    pub fn new(role: Role) -> Self {
        Self { keys: (role == Role::Client).then(Keys::new), open: false }
    }

    /// Appends a data frame of `length` bytes, which `write` appends. The frame starts a message or continues
    /// the open one.
    #[inline]
    pub fn data(
        &mut self,
        out: &mut Vec<u8>,
        kind: MessageKind,
        fin: bool,
        length: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let opcode = match (self.open, kind) {
            (true, _) => Opcode::Continuation,
            (false, MessageKind::Text) => Opcode::Text,
            (false, MessageKind::Binary) => Opcode::Binary,
        };
        self.open = !fin;
        self.frame(out, opcode, fin, length, write);
    }

    /// Appends a ping or a pong.
    pub fn control(&mut self, out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
        debug_assert!(opcode.is_control());
        self.frame(out, opcode, true, payload.len(), |out| out.extend_from_slice(payload));
    }

    /// Appends a close frame. Without a code there is no reason either.
    pub fn close(&mut self, out: &mut Vec<u8>, code: Option<CloseCode>, reason: &'static str) {
        debug_assert!(reason.len() <= CONTROL_PAYLOAD_BYTES_MAX - 2, "a control frame holds the reason");
        match code {
            Some(CloseCode(code)) => {
                self.control(out, Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat());
            }
            None => self.control(out, Opcode::Close, &[]),
        }
    }

    #[inline]
    fn frame(
        &mut self,
        out: &mut Vec<u8>,
        opcode: Opcode,
        fin: bool,
        length: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let mask = self.keys.as_mut().map(Keys::next_key);
        out.reserve(HEADER_BYTES_MAX + length);
        FrameHeader { fin, opcode, mask, length: length as u64 }.write(out);
        let start = out.len();
        write(out);
        debug_assert_eq!(out.len() - start, length, "a frame is as long as its header says");
        if let Some(key) = mask {
            mask::apply(&mut out[start..], key, 0);
        }
    }
}

//! The sending half of a WebSocket: the frames of one message at a time, with control frames between them.
//!
//! Writes into a buffer that the caller owns. A client masks each frame in place after writing it.

use super::frame::{FrameHeader, HEADER_BYTES_MAX, Opcode};
use super::mask::{self, Keys};
use super::{CloseCode, MessageKind, Role};

/// The longest reason of a close frame, in bytes: a control frame has at most 125, and the code takes two (RFC 6455,
/// section 5.5).
const CLOSE_REASON_BYTES_MAX: usize = 123;

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

    /// Appends a close frame.
    pub fn close(&mut self, out: &mut Vec<u8>, code: Option<CloseCode>) {
        match code {
            Some(CloseCode(code)) => self.control(out, Opcode::Close, &code.to_be_bytes()),
            None => self.control(out, Opcode::Close, &[]),
        }
    }

    /// Appends a close frame with a reason for people, of which at most 123 bytes fit.
    pub fn close_with(&mut self, out: &mut Vec<u8>, code: CloseCode, reason: &str) {
        let mut payload = code.0.to_be_bytes().to_vec();
        payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)]);
        self.control(out, Opcode::Close, &payload);
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

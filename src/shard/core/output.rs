//! The output of a connection: framed bytes, and how many of them its transport has accepted.
//!
//! Bytes that the transport has not accepted count in the budget, by the size of their buffer. Once all are
//! accepted, the buffer returns to the shard for reuse.

use crate::base::budget::Purse;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::front::{Framed, PbWriter};
use crate::latency::Recorder;
use crate::ws::frame::Opcode;
use crate::ws::handshake::Refusal;
use crate::ws::{CloseCode, Role, Sender};

/// How much larger than twice its unsent bytes a buffer may be.
pub(super) const UNSENT_SLACK_BYTES: usize = 4 << 10;

/// The end of the output before a call.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    length: usize,
    is_open: bool,
}

/// The output of one connection. Invariant: `sent` is at most the length of `bytes`.
#[derive(Debug)]
pub(super) struct Output {
    sender: Sender,
    /// Framed bytes. The transport has accepted the first `sent` of them.
    bytes: Vec<u8>,
    /// The number of bytes that the transport has accepted.
    sent: usize,
    /// The start times of the messages in `bytes`.
    framed: Framed,
    /// The number of bytes that count in the budget.
    counted: usize,
    /// Whether the transport accepted everything that it was given.
    is_writable: bool,
    /// Whether the transport accepted bytes since the last call of [`Self::take_sign_of_life`].
    takes: bool,
    /// When the transport last accepted bytes.
    took: Millis,
}

impl Output {
    pub(super) fn new(now: Now) -> Self {
        Self {
            sender: Sender::new(Role::Server),
            bytes: Vec::new(),
            sent: 0,
            framed: Framed::default(),
            counted: 0,
            is_writable: true,
            takes: false,
            took: now.mono,
        }
    }

    /// Returns the writer for a front, and the notes for the start times of its messages.
    #[inline]
    pub(super) fn lend(&mut self) -> (PbWriter<'_>, &mut Framed) {
        (PbWriter { sender: &mut self.sender, out: &mut self.bytes }, &mut self.framed)
    }

    /// Returns the buffer for the answer to a handshake.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Writes a refusal as the answer to a handshake.
    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        refusal.write(&mut self.bytes);
    }

    /// Frames a ping or a pong.
    pub(super) fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        self.sender.control(&mut self.bytes, opcode, payload);
    }

    /// Frames a Close.
    pub(super) fn close(&mut self, code: Option<CloseCode>) {
        self.sender.close(&mut self.bytes, code);
    }

    /// Frames a Close with a reason for people.
    pub(super) fn close_with(&mut self, code: CloseCode, reason: &str) {
        self.sender.close_with(&mut self.bytes, code, reason);
    }

    /// Returns the bytes to send.
    #[inline]
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Returns whether everything was sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Returns whether the transport accepted everything that it was given.
    #[inline]
    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Sets whether the transport accepts more bytes.
    pub(super) fn set_writable(&mut self, is_writable: bool) {
        self.is_writable = is_writable;
    }

    /// Returns whether the transport accepted bytes since the last call.
    pub(super) fn take_sign_of_life(&mut self) -> bool {
        std::mem::take(&mut self.takes)
    }

    /// Returns since when the transport has accepted none of the waiting bytes.
    pub(super) fn stuck_since(&self) -> Option<Millis> {
        (!self.is_writable && !self.is_flushed()).then_some(self.took)
    }

    /// Handles that the transport accepted `bytes`. If that was all, returns the buffer for reuse.
    pub(super) fn handle_sent(
        &mut self,
        now: Now,
        bytes: usize,
        mut purse: Purse<'_>,
        latency: &mut Recorder,
    ) -> Option<Vec<u8>> {
        self.sent += bytes;
        debug_assert!(self.sent <= self.bytes.len(), "more was sent than framed");
        self.framed.record(self.sent, now, latency);
        if bytes > 0 {
            self.takes = true;
            self.took = now.mono;
        }
        let left = self.bytes.len() - self.sent;
        // The size of the buffer counts, so it must not be much larger than the rest.
        if left > 0 && self.bytes.capacity() > 2 * left + UNSENT_SLACK_BYTES {
            self.bytes = self.unsent().to_vec();
            self.framed.rebase(self.sent);
            self.sent = 0;
        }
        let occupied = if left > 0 { self.bytes.capacity() } else { 0 };
        if occupied > self.counted {
            purse.hold_unsent(occupied - self.counted);
        } else {
            purse.drop_unsent(self.counted - occupied);
        }
        self.counted = occupied;
        if left > 0 {
            self.framed.compact();
            return None;
        }
        self.sent = 0;
        let mut buffer = std::mem::take(&mut self.bytes);
        buffer.clear();
        Some(buffer)
    }

    /// Takes a buffer to encode into, if there is none, and space for notes.
    pub(super) fn borrow_buffer(&mut self, spare: &mut Vec<Vec<u8>>, notes: &mut Framed) {
        self.framed.lend(notes);
        if self.bytes.capacity() == 0
            && let Some(buffer) = spare.pop()
        {
            self.bytes = buffer;
        }
    }

    /// Returns the space for notes.
    pub(super) fn return_notes(&mut self, notes: &mut Framed) {
        self.framed.give_back(notes);
    }

    /// Returns the state that [`Self::cut_back`] restores.
    #[inline]
    pub(super) fn mark(&self) -> Mark {
        Mark { length: self.bytes.len(), is_open: self.sender.is_open() }
    }

    /// Removes everything written since `mark`. Resets the count of bytes in the budget: the caller must
    /// close the account.
    pub(super) fn cut_back(&mut self, mark: Mark) {
        self.bytes.truncate(mark.length);
        self.framed.truncate(mark.length);
        self.sender.roll_back(mark.is_open);
        self.counted = 0;
    }

    /// Drops everything, because the connection is closed.
    pub(super) fn drop_all(&mut self, mut purse: Purse<'_>) {
        purse.drop_unsent(std::mem::take(&mut self.counted));
        self.bytes = Vec::new();
        self.sent = 0;
    }
}

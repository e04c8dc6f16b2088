//! What a connection sends: bytes that are framed, and how many of them its transport has taken.
//!
//! Bytes that the transport has not taken count in the budget, by what their buffer occupies. Once all are taken, the buffer goes
//! back to the shard for reuse.

use crate::base::budget::Purse;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::front::{Framed, PbWriter};
use crate::latency::Recorder;
use crate::ws::frame::Opcode;
use crate::ws::handshake::Refusal;
use crate::ws::{CloseCode, Role, Sender};

/// What a buffer of unsent bytes may occupy beyond twice those.
pub(super) const UNSENT_SLACK_BYTES: usize = 4 << 10;

/// Where the output ended before a call.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    length: usize,
    is_open: bool,
}

/// See the module's page. Invariant: `sent` is at most the length of `bytes`.
#[derive(Debug)]
pub(super) struct Output {
    sender: Sender,
    /// Framed.
    bytes: Vec<u8>,
    /// How many of them the transport has taken.
    sent: usize,
    /// When the messages in them began.
    framed: Framed,
    /// What they count in the budget.
    counted: usize,
    /// The transport took all that it was given.
    is_writable: bool,
    /// The transport took something since that was asked last.
    takes: bool,
    /// When it took something last.
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

    /// What a front writes with, and notes when its messages began.
    #[inline]
    pub(super) fn lend(&mut self) -> (PbWriter<'_>, &mut Framed) {
        (PbWriter { sender: &mut self.sender, out: &mut self.bytes }, &mut self.framed)
    }

    /// Where a handshake's answer goes.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Writes a refusal in place of an answer to the handshake.
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

    /// What is to be sent.
    #[inline]
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Whether everything was sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Whether the transport took all that it was given.
    #[inline]
    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// The transport took no more; or takes more again.
    pub(super) fn set_writable(&mut self, is_writable: bool) {
        self.is_writable = is_writable;
    }

    /// Whether the transport took something since this was asked last.
    pub(super) fn take_sign_of_life(&mut self) -> bool {
        std::mem::take(&mut self.takes)
    }

    /// Since when the transport has taken nothing of what waits.
    pub(super) fn stuck_since(&self) -> Option<Millis> {
        (!self.is_writable && !self.is_flushed()).then_some(self.took)
    }

    /// The transport took `bytes`. If that was all, gives the buffer for reuse by others.
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
        // What is counted is what it occupies, so it must not occupy much more than is left.
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

    /// Takes a buffer to encode into, if there is none, and room for notes.
    pub(super) fn borrow_buffer(&mut self, spare: &mut Vec<Vec<u8>>, notes: &mut Framed) {
        self.framed.lend(notes);
        if self.bytes.capacity() == 0
            && let Some(buffer) = spare.pop()
        {
            self.bytes = buffer;
        }
    }

    /// Gives the room for notes back.
    pub(super) fn return_notes(&mut self, notes: &mut Framed) {
        self.framed.give_back(notes);
    }

    /// What [`Self::cut_back`] goes back to.
    #[inline]
    pub(super) fn mark(&self) -> Mark {
        Mark { length: self.bytes.len(), is_open: self.sender.is_open() }
    }

    /// Takes back what was written since `mark`, and counts nothing in the budget any more: the caller closes the account.
    pub(super) fn cut_back(&mut self, mark: Mark) {
        self.bytes.truncate(mark.length);
        self.framed.truncate(mark.length);
        self.sender.roll_back(mark.is_open);
        self.counted = 0;
    }

    /// Drops everything, as nobody takes it any more.
    pub(super) fn drop_all(&mut self, mut purse: Purse<'_>) {
        purse.drop_unsent(std::mem::take(&mut self.counted));
        self.bytes = Vec::new();
        self.sent = 0;
    }
}

//! A request that arrives in pieces: fragments, or parts of a frame.

use crate::base::budget::{Share, Wanted};
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::operation::Resources;
use crate::ws::{CloseCode, MessageKind};

/// The pieces of a request that has not arrived completely.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    kind: Option<MessageKind>,
    /// The bytes of the budget that are reserved, and the share that they count in.
    reserved: usize,
    share: Option<Share>,
    /// When the rest is late.
    due: Option<Millis>,
}

/// What became of a piece.
#[derive(Debug)]
pub(super) enum Taken<'a> {
    /// The request is complete.
    Whole(&'a [u8]),
    /// More must come.
    Part,
    /// There is no room for the piece. It must be passed in again.
    Blocked(Wanted),
}

impl Incoming {
    /// Begins a binary message with its first byte.
    pub(super) fn begin_with(&mut self, first: u8) {
        (self.bytes, self.kind) = (vec![first], Some(MessageKind::Binary));
    }

    /// Takes a piece of a message of at most `max` bytes. Bytes of a whole one are those of the piece, or of this until [`Self::finish`].
    pub(super) fn take<'a>(
        &'a mut self,
        kind: MessageKind,
        piece: &'a [u8],
        fin: bool,
        max: usize,
        resources: &mut Resources<'_>,
    ) -> Result<Taken<'a>, CloseCode> {
        if self.bytes.len() + piece.len() > max {
            return Err(CloseCode::TOO_LARGE);
        }
        if self.kind.is_none() && fin {
            return Ok(Taken::Whole(piece));
        }
        self.kind = Some(kind);
        let needed = (self.bytes.len() + piece.len()).saturating_sub(self.reserved);
        if needed > 0 {
            let small = self.bytes.len() + piece.len() <= resources.settings.large_pb_bytes;
            let share = *self.share.get_or_insert(if small { Share::CutSmall } else { Share::CutLarge });
            let wanted = Wanted { bytes: needed, rest: max - self.reserved, share };
            match resources.budget.try_reserve(wanted) {
                0 => return Ok(Taken::Blocked(wanted)),
                bytes => self.reserved += bytes,
            }
        }
        self.bytes.extend_from_slice(piece);
        self.due.get_or_insert(resources.now.mono + Millis::from(resources.settings.pb_timeout));
        Ok(if fin { Taken::Whole(&self.bytes) } else { Taken::Part })
    }

    /// Takes the last piece back, of `bytes` bytes, because there is no room to handle the request. It is passed in again.
    pub(super) fn take_back(&mut self, bytes: usize) {
        self.bytes.truncate(self.bytes.len().saturating_sub(bytes));
    }

    /// Gives the rest its whole time again, because the server had no room for it.
    pub(super) fn excuse(&mut self, resources: &Resources<'_>) {
        let timeout = Millis::from(resources.settings.pb_timeout);
        self.due = self.due.map(|_| resources.now.mono + timeout);
    }

    /// Forgets the pieces, because the request was handled or the connection is closed.
    pub(super) fn finish(&mut self, resources: &mut Resources<'_>) {
        if let Some(share) = self.share {
            resources.budget.leave_share(share, self.reserved);
        }
        resources.budget.release(self.reserved);
        *self = Self::default();
    }

    /// Returns when the rest is late.
    pub(super) fn due(&self) -> Option<Millis> {
        self.due
    }

    /// Returns whether the rest is late.
    pub(super) fn is_late(&self, now: Now) -> bool {
        self.due.is_some_and(|due| due <= now.mono)
    }
}

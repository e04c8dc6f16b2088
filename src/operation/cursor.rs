//! Where a consume operation is in one partition, and what it has fetched and not yet sent.

use std::collections::VecDeque;

use crate::base::batch::{Fetched, StoredBatch};
use crate::base::clock::Now;
use crate::base::units::{Offset, Partition};

/// The fetch of a cursor; it has at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    /// None is outstanding.
    None,
    /// One is outstanding, which waits for messages or does not.
    Outstanding { wait: bool },
}

/// A batch that was fetched and not yet sent.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) stored: StoredBatch,
    /// The offset of the next message, and where its record begins.
    pub(super) offset: Offset,
    pub(super) record: usize,
    /// Everything before it was sent when it was stored.
    pub(super) is_live: bool,
}

/// The place in a batch at which a cursor goes on. Spares walking over the records before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    base_offset: Offset,
    offset: Offset,
    record: usize,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) partition: Partition,
    /// The offset that comes next.
    pub(super) position: Offset,
    pub(super) fetch: Fetch,
    /// When the last fetch was asked for, [`Now::mono_ns`].
    pub(super) asked_ns: u64,
    /// All that was stored until the last answer has been sent.
    pub(super) is_caught_up: bool,
    pub(super) ready: VecDeque<Ready>,
    /// Where to go on once `ready` is empty.
    pub(super) next: Offset,
    left: Option<Left>,
    /// A fetch that does not wait found nothing.
    pub(super) at_end: bool,
}

impl Cursor {
    pub(super) fn new(partition: Partition, position: Offset) -> Self {
        Self {
            partition,
            position,
            fetch: Fetch::None,
            asked_ns: 0,
            is_caught_up: false,
            ready: VecDeque::new(),
            next: position,
            left: None,
            at_end: false,
        }
    }

    /// What its fetch brought; the batches are dropped where they are not `sendable`.
    pub(super) fn handle_fetched(&mut self, fetched: Fetched, sendable: bool) {
        let is_empty = fetched.batches.is_empty();
        let waited = std::mem::replace(&mut self.fetch, Fetch::None) == Fetch::Outstanding { wait: true };
        if fetched.is_rewound {
            // The position is behind messages that no longer exist; what is stored from here on would be before it.
            let goes_on = fetched.batches.first().map_or(fetched.next, |first| first.base_offset);
            self.position = self.position.min(goes_on);
            self.left = None;
        }
        if is_empty {
            self.position = self.position.max(fetched.next);
            self.next = self.position;
            self.at_end = !waited && fetched.at_end;
        } else if sendable {
            self.next = fetched.next;
            let left = self.left.take();
            let (is_caught_up, asked_ns) = (self.is_caught_up, self.asked_ns);
            self.ready.extend(fetched.batches.into_iter().map(|stored| {
                let offset = stored.base_offset.max(self.position);
                let record = match left {
                    Some(left) if (left.base_offset, left.offset) == (stored.base_offset, offset) => {
                        left.record
                    }
                    _ => stored.batch.position_of(offset.since(stored.base_offset) as u32),
                };
                let is_live = is_caught_up || stored.stored_ns > asked_ns;
                Ready { stored, offset, record, is_live }
            }));
        }
        self.is_caught_up = fetched.at_end && (sendable || is_empty);
    }

    /// The batch that is sent next; those whose TTL has ended are passed over.
    pub(super) fn front(&mut self, now: Now) -> Option<&mut Ready> {
        while self.ready.front().is_some_and(|ready| ready.stored.is_expired(now.unix)) {
            if let Some(ready) = self.ready.front_mut() {
                ready.offset = ready.stored.end_offset();
            }
            self.advance();
        }
        self.ready.front_mut()
    }

    /// The front batch was used: moves the position, and drops the batch if nothing of it is left.
    pub(super) fn advance(&mut self) {
        let Some(ready) = self.ready.front() else { return };
        self.position = ready.offset;
        if ready.offset >= ready.stored.end_offset() {
            self.ready.pop_front();
            if self.ready.is_empty() {
                self.position = self.next;
            }
        }
    }

    /// Drops what is ready; it is fetched again.
    pub(super) fn let_go(&mut self) {
        if let Some(Ready { stored, offset, record, .. }) = self.ready.front() {
            self.left = Some(Left { base_offset: stored.base_offset, offset: *offset, record: *record });
        }
        // What is stored until it asks again has waited for the client.
        self.is_caught_up &= self.ready.is_empty() && self.fetch != Fetch::None;
        self.ready.clear();
    }
}

//! Where a consume operation is in one partition, and what it has fetched and not yet sent.

use std::collections::VecDeque;
use std::ops::Range;

use crate::base::batch::{Fetched, StoredBatch};
use crate::base::clock::Now;
use crate::base::hidden::Hidden;

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
    pub(super) offset: u64,
    pub(super) record: usize,
    /// The end of the run of visible messages at `offset`.
    pub(super) until: u64,
    /// Everything before it was sent when it was stored.
    pub(super) is_live: bool,
}

impl Ready {
    /// Skips the hidden messages at `offset`.
    fn skip_hidden(&mut self, hidden: &Hidden) {
        let end = self.stored.end_offset();
        if self.until == end {
            return;
        }
        let Range { start, end: until } = hidden.visible(self.offset, end);
        for _ in self.offset..start {
            if let Some((next, _)) = self.stored.batch.record_at(self.record) {
                self.record = next;
            }
        }
        (self.offset, self.until) = (start, until);
    }
}

/// The place in a batch at which a cursor goes on. Spares walking over the records before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    base_offset: u64,
    offset: u64,
    record: usize,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) partition: u16,
    /// The offset that comes next.
    pub(super) position: u64,
    pub(super) fetch: Fetch,
    /// When the last fetch was asked for, [`Now::mono_ns`].
    pub(super) asked_ns: u64,
    /// All that was stored until the last answer has been sent.
    pub(super) is_caught_up: bool,
    pub(super) ready: VecDeque<Ready>,
    /// The hidden messages of the last fetch.
    hidden: Hidden,
    /// Where to go on once `ready` is empty.
    pub(super) next: u64,
    left: Option<Left>,
    /// A fetch that does not wait found nothing.
    pub(super) at_end: bool,
}

impl Cursor {
    pub(super) fn new(partition: u16, position: u64) -> Self {
        Self {
            partition,
            position,
            fetch: Fetch::None,
            asked_ns: 0,
            is_caught_up: false,
            ready: VecDeque::new(),
            hidden: Hidden::default(),
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
            self.hidden = fetched.hidden;
            let hidden = &self.hidden;
            let left = self.left.take();
            let (is_caught_up, asked_ns) = (self.is_caught_up, self.asked_ns);
            self.ready.extend(fetched.batches.into_iter().filter_map(|stored| {
                let Range { start: offset, end: until } =
                    hidden.visible(stored.base_offset, stored.end_offset());
                if offset == until {
                    return None;
                }
                let record = match left {
                    Some(left) if (left.base_offset, left.offset) == (stored.base_offset, offset) => {
                        left.record
                    }
                    _ => stored.batch.position_of((offset - stored.base_offset) as u32),
                };
                let is_live = is_caught_up || stored.stored_ns > asked_ns;
                Some(Ready { stored, offset, record, until, is_live })
            }));
            match self.ready.front() {
                Some(first) => debug_assert!(first.offset >= self.position, "what was sent comes again"),
                None => self.position = self.next,
            }
        }
        self.is_caught_up = fetched.at_end && (sendable || is_empty);
    }

    /// The batch that is sent next; those whose TTL has ended are passed over.
    pub(super) fn front(&mut self, now: Now) -> Option<&mut Ready> {
        while self.ready.front().is_some_and(|ready| ready.stored.is_expired(now.unix_ms)) {
            if let Some(ready) = self.ready.front_mut() {
                ready.offset = ready.stored.end_offset();
            }
            self.advance();
        }
        self.ready.front_mut()
    }

    /// The front batch was used: moves the position, and drops the batch if nothing of it is left.
    pub(super) fn advance(&mut self) {
        let Some(ready) = self.ready.front_mut() else { return };
        if ready.offset >= ready.until {
            ready.skip_hidden(&self.hidden);
        }
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

//! The progress of a consume operation in one partition, and the messages that are fetched but not yet sent.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use super::shown::ShownClaim;
use super::subject::Subject;
use crate::base::batch::{Fetched, StoredBatch};
use crate::base::claim::Claimed;
use crate::base::clock::Now;
use crate::base::hidden::Hidden;
use crate::base::units::{Offset, Partition};

/// The fetch of a cursor, at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    /// No fetch is outstanding.
    None,
    /// A fetch is outstanding. It may wait for messages.
    Outstanding { wait: bool },
}

/// A batch that is fetched but not yet sent.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) stored: StoredBatch,
    /// The offset of the next message, and the position of its record in the batch.
    pub(super) offset: Offset,
    pub(super) record: usize,
    /// The end of the run of visible messages at `offset`.
    pub(super) until: Offset,
    /// Whether the consumer was caught up: all earlier messages were sent when they were stored.
    pub(super) is_live: bool,
    /// The claims of the fetch, if there are any.
    claims: Option<Rc<[Claimed]>>,
}

impl Ready {
    /// Returns the claim of the message at `offset`, and the end of the run of messages at `offset` that have the same one.
    pub(super) fn claim(&self, partition: Partition, by: &Subject, now: Now) -> (Option<ShownClaim>, Offset) {
        let claims = self.claims.as_deref().unwrap_or_default();
        let next = claims.partition_point(|claimed| claimed.offsets.end <= self.offset);
        match claims.get(next) {
            Some(claimed) if claimed.offsets.start <= self.offset => {
                let shown = ShownClaim::of(claimed, partition, by, now);
                (Some(shown), self.until.min(claimed.offsets.end))
            }
            Some(claimed) => (None, self.until.min(claimed.offsets.start)),
            None => (None, self.until),
        }
    }

    /// Skips the hidden messages at `offset`.
    fn skip_hidden(&mut self, hidden: &Hidden) {
        let end = self.stored.end_offset();
        if self.until == end {
            return;
        }
        let Range { start, end: until } = hidden.visible(self.offset, end);
        for _ in 0..start.since(self.offset) {
            if let Some((next, _)) = self.stored.batch.record_at(self.record) {
                self.record = next;
            }
        }
        (self.offset, self.until) = (start, until);
    }
}

/// The place in a batch from which a cursor continues. Saves walking over the earlier records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    base_offset: Offset,
    offset: Offset,
    record: usize,
}

/// The progress of a consume operation in one partition.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) partition: Partition,
    /// The next offset to send.
    pub(super) position: Offset,
    pub(super) fetch: Fetch,
    /// When the last fetch was sent, [`Now::mono_ns`].
    pub(super) asked_ns: u64,
    /// Whether all messages that were stored by the time of the last answer have been sent.
    pub(super) is_caught_up: bool,
    pub(super) ready: VecDeque<Ready>,
    /// The hidden messages of the last fetch.
    hidden: Hidden,
    /// The position once `ready` is empty.
    pub(super) next: Offset,
    left: Option<Left>,
    /// Whether the last fetch, which did not wait, found nothing.
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
            hidden: Hidden::default(),
            next: position,
            left: None,
            at_end: false,
        }
    }

    /// Handles the result of the fetch. Drops the batches if they are not `sendable`.
    pub(super) fn handle_fetched(&mut self, fetched: Fetched, sendable: bool) {
        let is_empty = fetched.batches.is_empty();
        let waited = std::mem::replace(&mut self.fetch, Fetch::None) == Fetch::Outstanding { wait: true };
        if fetched.is_rewound {
            // The position is past messages that no longer exist. New messages would be stored before it.
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
            let claims = (!fetched.claims.is_empty()).then(|| Rc::from(fetched.claims));
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
                    _ => stored.batch.position_of(offset.since(stored.base_offset) as u32),
                };
                let is_live = is_caught_up || stored.stored_ns > asked_ns;
                Some(Ready { stored, offset, record, until, is_live, claims: claims.clone() })
            }));
            match self.ready.front() {
                Some(first) => debug_assert!(first.offset >= self.position, "what was sent comes again"),
                None => self.position = self.next,
            }
        }
        self.is_caught_up = fetched.at_end && (sendable || is_empty);
    }

    /// Returns the next batch to send. Skips expired batches.
    pub(super) fn front(&mut self, now: Now) -> Option<&mut Ready> {
        while self.ready.front().is_some_and(|ready| ready.stored.is_expired(now.unix)) {
            if let Some(ready) = self.ready.front_mut() {
                ready.offset = ready.stored.end_offset();
            }
            self.advance();
        }
        self.ready.front_mut()
    }

    /// Moves the position after the front batch was used, and drops that batch if all of it was sent.
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

    /// Drops the ready messages. They are fetched again.
    pub(super) fn let_go(&mut self) {
        if let Some(Ready { stored, offset, record, .. }) = self.ready.front() {
            self.left = Some(Left { base_offset: stored.base_offset, offset: *offset, record: *record });
        }
        // Messages that are stored before the next fetch will have waited for the client.
        self.is_caught_up &= self.ready.is_empty() && self.fetch != Fetch::None;
        self.ready.clear();
    }
}

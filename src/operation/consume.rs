//! One consume operation, server side (protocol section 6).
//!
//! Each partition has a cursor with at most one outstanding fetch. Fetched messages are sent at once, as far
//! as credit and the send buffer allow. The rest is dropped and fetched again later, so that a slow consumer
//! costs no more memory than its cursors.
//!
//! A protocol checks [`Consume::is_ready`], takes messages with [`Consume::gather`] and counts them with
//! [`Consume::send`]. At the end it calls [`Consume::pump`], or [`Consume::let_go`] if it cannot send more.

use super::command::Command;
use super::credit::SendWindow;
use super::cursor::{Cursor, Fetch, Ready};
use super::marker::Marker;
use super::resources::Resources;
use super::shown::ShownClaim;
use super::subject::Subject;
use crate::base::batch::{Batch, Fetched, Record, Shape, StoredBatch};
use crate::base::claim::View;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::names::ClientId;
use crate::base::units::{MsgNum, Offset, Partition};

/// The encoding of the messages of one batch in a protocol. Used to compute their encoded length.
pub trait Form: Sized {
    /// Whether the reader sees claimed messages, with their claims.
    const SHOWS_CLAIMS: bool = false;

    /// Creates the form of a batch of `partition`.
    fn of(partition: Partition, stored: &StoredBatch, now: Now) -> Self;

    /// Creates the form of those messages of the batch that have this claim.
    #[must_use]
    fn claimed(self, claim: ShownClaim) -> Self {
        debug_assert!(false, "only a form that shows claims is asked for them: {claim:?}");
        self
    }

    /// Returns the encoded length of one message, in bytes.
    fn encoded_length(&self, offset: Offset, record: Record<'_>) -> usize;
}

/// Consecutive messages of one batch that go into one response.
#[derive(Debug)]
pub struct Run<F> {
    /// The batch of the messages.
    pub stored: StoredBatch,
    /// The encoding of the batch.
    pub form: F,
    /// The offset of the first message.
    pub offset: Offset,
    /// The position of its record in the batch.
    pub record: usize,
    /// The number of messages.
    pub count: u64,
    /// Whether the consumer was caught up: all earlier messages were sent when they were stored.
    pub is_live: bool,
}

/// The messages of a response, and their size.
#[derive(Debug)]
pub struct Gathered<F> {
    /// The messages, grouped by batch.
    pub runs: Vec<Run<F>>,
    /// The number of messages in the response, including the earlier ones.
    pub count: u64,
    /// The encoded length of all of them, in bytes.
    pub length: usize,
}

/// A message, and the marker after it.
#[derive(Debug)]
pub struct Marked {
    /// The partition of the message.
    pub partition: Partition,
    /// The batch of the message.
    pub stored: StoredBatch,
    /// The offset of the message.
    pub offset: Offset,
    /// The position of its record in the batch.
    pub record: usize,
    /// Whether the consumer was caught up: all earlier messages were sent when they were stored.
    pub is_live: bool,
    /// The claim of the message.
    pub claim: Option<ShownClaim>,
    /// The position of the operation after the message, as a marker.
    pub marker: String,
}

/// The starting point of a consume operation.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The client and the queue of the operation.
    pub subject: Subject,
    /// The first offset to read, for each partition.
    pub positions: Vec<Offset>,
    /// Whether at least one of them is before the position in the client's marker.
    pub is_rewound: bool,
}

/// The state of one consume operation.
#[derive(Debug)]
pub struct Consume {
    subject: Subject,
    exclude: Option<ClientId>,
    view: View,
    window: SendWindow,
    cursors: Vec<Cursor>,
    /// Whether there is a cursor for each partition.
    reads_all: bool,
    /// The position in every partition of the queue, for markers. Refreshed from the cursors before each
    /// marker.
    positions: Vec<Offset>,
    /// The index of the cursor to serve next. The cursor before it was served last.
    turn: usize,
    /// The index of the cursor to serve before any other: its messages were dropped because another cursor
    /// exhausted the credit or the send buffer. Otherwise a partition that always answers first would starve
    /// the others.
    first: Option<usize>,
    /// The partition and the offset of the last message sent.
    last_sent: Option<(Partition, Offset)>,
    /// When an owed marker must be sent without a message. `None` if no marker is owed.
    marker_due: Option<Millis>,
    /// Until when ready messages may wait for more, to share a response.
    linger_until: Option<Millis>,
    /// Set while the operation drains: it sends only stored messages, and only until then.
    drain_until: Option<Millis>,
    /// Whether the queue was rewound, and the client does not know it yet.
    is_rewound: bool,
    /// Whether a cursor is not caught up, as far as the last answer and the last call of [`Self::pump`] or
    /// [`Self::let_go`] show.
    is_behind: bool,
}

/// What a response has, and its limits.
struct Room {
    count: u64,
    length: usize,
    messages_max: u64,
    bytes_max: usize,
}

impl Room {
    /// Takes messages before offset `end`, which `read` reads. Returns whether the response is full. A function for each
    /// kind of batch: those of payloads do not pay for the others.
    #[inline]
    fn fill<F: Form>(
        &mut self,
        ready: &mut Ready,
        end: Offset,
        form: &F,
        read: impl for<'b> Fn(&'b Batch, usize) -> Option<(usize, Record<'b>)>,
    ) -> bool {
        let Self { mut count, mut length, messages_max, bytes_max } = *self;
        let mut full = count >= messages_max;
        while ready.offset < end && !full {
            let Some((next, message)) = read(&ready.stored.batch, ready.record) else {
                debug_assert!(false, "a batch holds as many records as it says");
                ready.offset = end;
                break;
            };
            let bytes = form.encoded_length(ready.offset, message);
            if count > 0 && length + bytes > bytes_max {
                full = true;
                break;
            }
            length += bytes;
            count += 1;
            ready.offset += 1;
            ready.record = next;
            full = count >= messages_max;
        }
        (self.count, self.length) = (count, length);
        full
    }
}

impl Consume {
    /// Starts an operation whose setup was accepted. Reads partition `only`, or every partition if `None`.
    pub fn start(
        beginning: Beginning,
        exclude: Option<ClientId>,
        view: View,
        only: Option<Partition>,
    ) -> Self {
        let Beginning { subject, positions, is_rewound } = beginning;
        let cursors = (0..)
            .map(Partition)
            .zip(&positions)
            .map(|(partition, position)| Cursor::new(partition, *position))
            .filter(|cursor| only.is_none_or(|only| only == cursor.partition))
            .collect();
        Self {
            subject,
            exclude,
            view,
            window: SendWindow::default(),
            cursors,
            reads_all: only.is_none(),
            positions,
            turn: 0,
            first: None,
            last_sent: None,
            marker_due: None,
            linger_until: None,
            drain_until: None,
            is_rewound,
            is_behind: false,
        }
    }

    /// Returns the client and the queue of the operation.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Reads further partitions, if the queue has some by now and all are read. They begin at their oldest message.
    pub fn follow_growth(&mut self) {
        let grown_to = self.subject.queue.policy.grown_to();
        if grown_to <= self.subject.queue.partitions {
            return;
        }
        self.subject.queue.partitions = grown_to;
        let more = self.subject.queue.all().skip(self.positions.len());
        if self.reads_all {
            self.cursors.extend(more.map(|partition| Cursor::new(partition, Offset::ZERO)));
        }
        self.positions.resize(usize::from(grown_to), Offset::ZERO);
    }

    /// Returns whether the client sees claimed messages.
    pub fn shows_claims(&self) -> bool {
        self.view == View::Live
    }

    /// Handles a request of the client: more credit, and optionally a wish for a marker.
    pub fn handle_request(&mut self, credit: MsgNum, wants_marker: bool, resources: &Resources<'_>) {
        self.window.raise(credit);
        if wants_marker {
            let due = resources.now.mono + Millis::from(resources.settings.marker_wait);
            self.marker_due.get_or_insert(due);
        }
    }

    /// Handles the result of a fetch. `has_room` tells whether the send buffer has room for more.
    pub fn handle_fetched(
        &mut self,
        partition: Partition,
        fetched: Fetched,
        has_room: bool,
        resources: &Resources<'_>,
    ) {
        let sendable = self.credit() > 0 && has_room;
        let Some(index) = self.cursors.iter().position(|cursor| cursor.partition == partition) else {
            return;
        };
        let was_served = (index + 1) % self.cursors.len() == self.turn;
        let is_empty = fetched.batches.is_empty();
        if !is_empty && !sendable {
            self.first = self.first.or((!was_served).then_some(index));
        } else if self.first == Some(index) {
            self.first = None;
            self.turn = index;
        }
        self.is_rewound |= fetched.is_rewound;
        self.cursors[index].handle_fetched(fetched, sendable);
        self.is_behind |= !self.cursors[index].is_caught_up;
        if !is_empty && sendable && !resources.settings.consume_linger.is_zero() {
            let until = resources.now.mono + Millis::from(resources.settings.consume_linger);
            self.linger_until.get_or_insert(until);
        }
    }

    /// Returns the number of messages that the credit still allows.
    pub fn credit(&self) -> u64 {
        self.window.available()
    }

    /// Returns whether the operation is behind: in at least one partition, it has messages to read that were
    /// stored before it could take them.
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Returns whether the queue was rewound since the last call. The caller must tell the client.
    pub fn take_rewound(&mut self) -> bool {
        std::mem::take(&mut self.is_rewound)
    }

    /// Returns whether ready messages may be sent.
    pub fn is_ready(&mut self, resources: &Resources<'_>) -> bool {
        self.first.is_none() && self.credit() > 0 && !self.lingers(resources)
    }

    /// Returns whether the ready messages should wait for more.
    fn lingers(&mut self, resources: &Resources<'_>) -> bool {
        let Some(until) = self.linger_until else { return false };
        let ready: usize = self
            .cursors
            .iter()
            .flat_map(|cursor| &cursor.ready)
            .map(|ready| ready.stored.batch.count() as usize)
            .sum();
        let waits = until > resources.now.mono
            && self.drain_until.is_none()
            && ready > 0
            && ready < resources.settings.consume_batch_messages
            && self.marker_due.is_none();
        if !waits {
            self.linger_until = None;
        }
        waits
    }

    /// Takes the messages of a response off the cursors. The response already has `count` messages of
    /// `length` bytes, and may grow to `bytes_max`, unless its first message is longer by itself.
    #[inline]
    pub fn gather<F: Form>(
        &mut self,
        mut count: u64,
        mut length: usize,
        bytes_max: usize,
        resources: &Resources<'_>,
    ) -> Gathered<F> {
        let now = resources.now;
        let messages_max = (resources.settings.consume_batch_messages as u64).min(self.credit());
        let mut runs = Vec::new();
        let cursors = self.cursors.len();
        let mut full = count >= messages_max;
        for _ in 0..cursors {
            let cursor = &mut self.cursors[self.turn];
            let partition = cursor.partition;
            while !full && let Some(ready) = cursor.front(now) {
                let form = F::of(partition, &ready.stored, now);
                let (offset, record, is_live) = (ready.offset, ready.record, ready.is_live);
                let end = ready.until;
                let (form, end) = if F::SHOWS_CLAIMS {
                    let (claim, end) = ready.claim(partition, &self.subject, now);
                    (claim.into_iter().fold(form, F::claimed), end)
                } else {
                    (form, end)
                };
                let mut room = Room { count, length, messages_max, bytes_max };
                full = match ready.stored.batch.shape() {
                    Shape::Payloads => room.fill(ready, end, &form, Batch::payload_at),
                    _ => room.fill(ready, end, &form, Batch::record_at),
                };
                (count, length) = (room.count, room.length);
                if ready.offset > offset {
                    self.last_sent = Some((partition, ready.offset.previous()));
                    let count = ready.offset.since(offset);
                    let stored = ready.stored.clone();
                    runs.push(Run { stored, form, offset, record, count, is_live });
                }
                cursor.advance();
            }
            self.turn = (self.turn + 1) % cursors;
            if full {
                break;
            }
        }
        Gathered { runs, count, length }
    }

    /// Counts the messages of a response as sent.
    pub fn send(&mut self, count: u64, length: usize, resources: &mut Resources<'_>) {
        self.window.send(count);
        resources.counters.delivered += count;
        resources.counters.delivered_bytes += length as u64;
    }

    /// Returns whether a marker is owed. If so, the next message must be taken with [`Self::take_marked`].
    pub fn owes_marker(&self) -> bool {
        self.marker_due.is_some()
    }

    /// Returns whether an owed marker has waited long enough for a message.
    pub fn is_marker_due(&self, now: Now) -> bool {
        self.marker_due.is_some_and(|due| due <= now.mono)
    }

    /// Takes the next message, with the owed marker.
    pub fn take_marked(&mut self, now: Now) -> Option<Marked> {
        let (later, first) = self.cursors.split_at_mut(self.turn);
        let cursor = first.iter_mut().chain(later).find_map(|cursor| {
            let has_some = cursor.front(now).is_some();
            has_some.then_some(cursor)
        })?;
        let partition = cursor.partition;
        let ready = cursor.front(now)?;
        let (offset, record, is_live) = (ready.offset, ready.record, ready.is_live);
        let (claim, _) = ready.claim(partition, &self.subject, now);
        let (next, _) = ready.stored.batch.record_at(record)?;
        let stored = ready.stored.clone();
        ready.offset += 1;
        ready.record = next;
        cursor.advance();
        self.last_sent = Some((partition, offset));
        self.marker_due = None;
        Some(Marked { partition, stored, offset, record, is_live, claim, marker: self.marker() })
    }

    /// Takes the owed marker without a message, with the partition and the offset of the last message sent.
    pub fn take_marker(&mut self) -> Option<(String, Option<(Partition, Offset)>)> {
        self.marker_due.take()?;
        Some((self.marker(), self.last_sent))
    }

    /// Returns the marker after the last message sent.
    fn marker(&mut self) -> String {
        for cursor in &self.cursors {
            self.positions[cursor.partition.index()] = cursor.position;
        }
        Marker::encode(&self.subject.queue, &self.positions)
    }

    /// Drops the ready messages that cannot be sent. They are fetched again.
    pub fn let_go(&mut self) {
        self.linger_until = None;
        let cursors = self.cursors.len();
        let mut in_turn = (0..cursors.saturating_sub(1)).map(|after| (self.turn + after) % cursors);
        self.first = self.first.or_else(|| in_turn.find(|index| !self.cursors[*index].ready.is_empty()));
        self.is_behind = false;
        for cursor in &mut self.cursors {
            cursor.let_go();
            self.is_behind |= !cursor.is_caught_up;
        }
    }

    /// Starts a fetch for each cursor that has neither ready messages nor an outstanding fetch.
    pub fn pump(&mut self, resources: &mut Resources<'_>) {
        let drains = self.drain_until.is_some();
        self.is_behind = false;
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            // The cursor that is served first holds up all others, so its fetch does not wait, even if its
            // messages have expired. Neither does the fetch of a cursor that may not be at the end: the
            // answer moves it past messages that are left out (echo, TTL), so that markers reflect that.
            let wait = !drains && self.first != Some(index) && cursor.is_caught_up;
            self.is_behind |= !cursor.is_caught_up;
            if cursor.fetch == Fetch::None && cursor.ready.is_empty() && (!drains || !cursor.at_end) {
                cursor.fetch = Fetch::Outstanding { wait };
                cursor.asked_ns = resources.now.mono_ns;
                resources.commands.push(Command::Fetch {
                    bytes_max: resources.settings.fetch_bytes,
                    operation: self.subject.operation,
                    target: self.subject.target(cursor.partition),
                    from: cursor.position,
                    exclude: self.exclude,
                    view: self.view,
                    wait,
                });
            }
        }
    }

    /// Starts draining: sends the stored messages, as far as the credit allows and at most until `until`, and
    /// does not wait for more.
    pub fn drain(&mut self, until: Millis, resources: &mut Resources<'_>) {
        self.drain_until = Some(until);
        // More messages may have been stored since the last fetch.
        self.cursors.iter_mut().for_each(|cursor| cursor.at_end = false);
        self.cancel(resources);
    }

    /// Returns each partition that is read, and its next offset.
    pub fn positions(&self) -> Vec<(Partition, Offset)> {
        self.cursors.iter().map(|cursor| (cursor.partition, cursor.position)).collect()
    }

    /// Returns whether draining is complete: nothing more can be sent.
    pub fn is_drained(&self, now: Now) -> bool {
        self.drain_until.is_some_and(|until| {
            until <= now.mono
                || self.credit() == 0
                || self.cursors.iter().all(|cursor| cursor.at_end && cursor.ready.is_empty())
        })
    }

    /// Cancels every outstanding fetch.
    pub fn cancel(&mut self, resources: &mut Resources<'_>) {
        for cursor in &self.cursors {
            if cursor.fetch != Fetch::None {
                let target = self.subject.target(cursor.partition);
                resources.commands.push(Command::Cancel { operation: self.subject.operation, target });
            }
        }
    }

    /// Returns when the operation must be called again, even without an event.
    pub fn next_deadline(&self) -> Option<Millis> {
        [self.marker_due, self.linger_until, self.drain_until].into_iter().flatten().min()
    }
}

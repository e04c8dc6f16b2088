//! One consume operation, server side (protocol section 6).
//!
//! Each partition has a cursor with at most one fetch outstanding. What a fetch brought is sent at once, as far
//! as credit and the send buffer go; the rest is let go and fetched again later, so that a slow consumer costs
//! nothing but its cursors.
//!
//! A protocol asks [`Consume::is_ready`], takes messages by [`Consume::gather`], counts them by [`Consume::send`], and in the
//! end calls [`Consume::pump`], or [`Consume::let_go`] where it can send no more.

use super::command::Command;
use super::credit::SendWindow;
use super::cursor::{Cursor, Fetch, Ready};
use super::marker::Marker;
use super::resources::Resources;
use super::subject::Subject;
use crate::base::batch::{Fetched, Record, StoredBatch};
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::names::ClientId;
use crate::base::units::{MsgNum, Offset, Partition};

/// How a protocol writes the messages of one batch; tells how long they become.
pub trait Form {
    /// The form of a batch of that partition.
    fn of(partition: Partition, stored: &StoredBatch, now: Now) -> Self;

    /// Bytes of one message.
    fn encoded_length(&self, offset: Offset, record: Record<'_>) -> usize;
}

/// Messages of one batch that go into one response.
#[derive(Debug)]
pub struct Run<F> {
    /// The batch.
    pub stored: StoredBatch,
    /// Its form.
    pub form: F,
    /// The offset of the first message, and where its record begins.
    pub offset: Offset,
    /// See `offset`.
    pub record: usize,
    /// How many messages.
    pub count: u64,
    /// Everything before them was sent when they were stored.
    pub is_live: bool,
}

/// The messages of a response, and their bytes.
#[derive(Debug)]
pub struct Gathered<F> {
    /// The messages.
    pub runs: Vec<Run<F>>,
    /// How many messages the response has.
    pub count: u64,
    /// Bytes of all of them.
    pub length: usize,
}

/// A message, and the marker behind it.
#[derive(Debug)]
pub struct Marked {
    /// The partition of the message.
    pub partition: Partition,
    /// Its batch.
    pub stored: StoredBatch,
    /// Its offset, and where its record begins.
    pub offset: Offset,
    /// See `offset`.
    pub record: usize,
    /// Everything before it was sent when it was stored.
    pub is_live: bool,
    /// Where the operation is behind it.
    pub marker: String,
}

/// Where a consumer begins.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// What the operation is about.
    pub subject: Subject,
    /// The position in every partition.
    pub positions: Vec<Offset>,
    /// At least one of them lies before the client's marker.
    pub is_rewound: bool,
}

/// See the module's page.
#[derive(Debug)]
pub struct Consume {
    subject: Subject,
    exclude: Option<ClientId>,
    window: SendWindow,
    cursors: Vec<Cursor>,
    /// The position in every partition of the queue, for markers; those of cursors are taken from there.
    positions: Vec<Offset>,
    /// The cursor whose turn it is; the one before it was served last.
    turn: usize,
    /// The cursor that is sent before any other: its messages were let go because another used up the credit or the room.
    /// Else a partition that always answers first would starve the others.
    first: Option<usize>,
    /// Partition and offset of the last message sent.
    last_sent: Option<(Partition, Offset)>,
    /// A marker is owed; when it must be paid without a message.
    marker_due: Option<Millis>,
    /// The messages that are ready may wait for company until then.
    linger_until: Option<Millis>,
    /// Draining: only what is stored, and only until then.
    drain_until: Option<Millis>,
    /// The queue has gone back, and the client does not know it yet.
    is_rewound: bool,
}

impl Consume {
    /// An operation whose setup was accepted, from its beginning on: of partition `only`, or of every partition.
    pub fn start(beginning: Beginning, exclude: Option<ClientId>, only: Option<Partition>) -> Self {
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
            window: SendWindow::default(),
            cursors,
            positions,
            turn: 0,
            first: None,
            last_sent: None,
            marker_due: None,
            linger_until: None,
            drain_until: None,
            is_rewound,
        }
    }

    /// What it is about.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The client gives credit, and perhaps asks for a marker.
    pub fn handle_request(&mut self, credit: MsgNum, wants_marker: bool, resources: &Resources<'_>) {
        self.window.raise(credit);
        if wants_marker {
            let due = resources.now.mono + Millis::from(resources.settings.marker_wait);
            self.marker_due.get_or_insert(due);
        }
    }

    /// What a fetch brought; `has_room` says whether more may be sent.
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
        if !is_empty && sendable && !resources.settings.consume_linger.is_zero() {
            let until = resources.now.mono + Millis::from(resources.settings.consume_linger);
            self.linger_until.get_or_insert(until);
        }
    }

    /// Messages that the client lets us send.
    pub fn credit(&self) -> u64 {
        self.window.available()
    }

    /// Whether the queue has gone back and the client does not know it yet; from here on the client knows.
    pub fn take_rewound(&mut self) -> bool {
        std::mem::take(&mut self.is_rewound)
    }

    /// Whether messages that are ready may be sent.
    pub fn is_ready(&mut self, resources: &Resources<'_>) -> bool {
        self.first.is_none() && self.credit() > 0 && !self.lingers(resources)
    }

    /// Whether the messages that are ready wait for company.
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

    /// Takes the messages of a response off the cursors; the response has `count` messages of `length` bytes already, and may
    /// have `bytes_max`, unless the first message alone is longer.
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
                let end = ready.stored.end_offset();
                while ready.offset < end && !full {
                    let Some((next, message)) = ready.stored.batch.record_at(ready.record) else {
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

    /// Messages of a response are sent.
    pub fn send(&mut self, count: u64, length: usize, resources: &mut Resources<'_>) {
        self.window.send(count);
        resources.counters.delivered += count;
        resources.counters.delivered_bytes += length as u64;
    }

    /// Whether a marker is owed, so that the next message comes by [`Self::take_marked`].
    pub fn owes_marker(&self) -> bool {
        self.marker_due.is_some()
    }

    /// Whether an owed marker has waited for a message long enough.
    pub fn is_marker_due(&self, now: Now) -> bool {
        self.marker_due.is_some_and(|due| due <= now.mono)
    }

    /// The next message alone, with the marker that is owed.
    pub fn take_marked(&mut self, now: Now) -> Option<Marked> {
        let (later, first) = self.cursors.split_at_mut(self.turn);
        let cursor = first.iter_mut().chain(later).find_map(|cursor| {
            let has_some = cursor.front(now).is_some();
            has_some.then_some(cursor)
        })?;
        let partition = cursor.partition;
        let ready = cursor.front(now)?;
        let Ready { offset, record, is_live, .. } = *ready;
        let (next, _) = ready.stored.batch.record_at(record)?;
        let stored = ready.stored.clone();
        ready.offset += 1;
        ready.record = next;
        cursor.advance();
        self.last_sent = Some((partition, offset));
        self.marker_due = None;
        Some(Marked { partition, stored, offset, record, is_live, marker: self.marker() })
    }

    /// The marker that is owed, without a message; and partition and offset of the last message sent.
    pub fn take_marker(&mut self) -> Option<(String, Option<(Partition, Offset)>)> {
        self.marker_due.take()?;
        Some((self.marker(), self.last_sent))
    }

    /// Where the operation is, behind the last message sent.
    fn marker(&mut self) -> String {
        for cursor in &self.cursors {
            self.positions[cursor.partition.index()] = cursor.position;
        }
        Marker::encode(&self.subject.queue, &self.positions)
    }

    /// Drops what cannot be sent; it is fetched again.
    pub fn let_go(&mut self) {
        self.linger_until = None;
        let cursors = self.cursors.len();
        let mut in_turn = (0..cursors.saturating_sub(1)).map(|after| (self.turn + after) % cursors);
        self.first = self.first.or_else(|| in_turn.find(|index| !self.cursors[*index].ready.is_empty()));
        self.cursors.iter_mut().for_each(Cursor::let_go);
    }

    /// Asks for more where nothing is ready and nothing was asked for.
    pub fn pump(&mut self, resources: &mut Resources<'_>) {
        let drains = self.drain_until.is_some();
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            // A cursor that all others wait for is answered at once, even if its messages have expired meanwhile. A cursor that
            // does not know yet that it is at the end does not wait either: the answer moves it behind what is left out there
            // (echo, TTL), so that markers say so.
            let wait = !drains && self.first != Some(index) && cursor.is_caught_up;
            if cursor.fetch == Fetch::None && cursor.ready.is_empty() && (!drains || !cursor.at_end) {
                cursor.fetch = Fetch::Outstanding { wait };
                cursor.asked_ns = resources.now.mono_ns;
                resources.commands.push(Command::Fetch {
                    operation: self.subject.operation,
                    target: self.subject.target(cursor.partition),
                    from: cursor.position,
                    exclude: self.exclude,
                    wait,
                });
            }
        }
    }

    /// Sends only what is stored from here on, as far as the present credit goes, and only until then.
    pub fn drain(&mut self, until: Millis, resources: &mut Resources<'_>) {
        self.drain_until = Some(until);
        // What was the end before may not be it any more.
        self.cursors.iter_mut().for_each(|cursor| cursor.at_end = false);
        self.cancel(resources);
    }

    /// Each partition that is read, and the offset that comes next.
    pub fn positions(&self) -> Vec<(Partition, Offset)> {
        self.cursors.iter().map(|cursor| (cursor.partition, cursor.position)).collect()
    }

    /// Whether draining has sent what it can.
    pub fn is_drained(&self, now: Now) -> bool {
        self.drain_until.is_some_and(|until| {
            until <= now.mono
                || self.credit() == 0
                || self.cursors.iter().all(|cursor| cursor.at_end && cursor.ready.is_empty())
        })
    }

    /// Takes every waiting fetch back.
    pub fn cancel(&mut self, resources: &mut Resources<'_>) {
        for cursor in &self.cursors {
            if cursor.fetch != Fetch::None {
                let target = self.subject.target(cursor.partition);
                resources.commands.push(Command::Cancel { operation: self.subject.operation, target });
            }
        }
    }

    /// When something is due without any event.
    pub fn next_deadline(&self) -> Option<Millis> {
        [self.marker_due, self.linger_until, self.drain_until].into_iter().flatten().min()
    }
}

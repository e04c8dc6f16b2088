//! One consume operation.
//!
//! Each partition has a cursor with at most one fetch outstanding. What a fetch brought is framed at once, as far
//! as credit and the send buffer go; the rest is let go and fetched again later, so that a slow consumer costs
//! nothing but its cursors.

use std::collections::VecDeque;

use super::command::{Command, OperationId};
use super::context::Context;
use super::credit::SendWindow;
use super::marker::Marker;
use super::origin::Origin;
use crate::base::batch::{Fetched, Record, StoredBatch};
use crate::base::clock::{Now, millis};
use crate::base::names::ClientId;
use crate::base::queue::QueueInfo;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetch {
    None,
    /// Outstanding; `wait` as it was asked for.
    Outstanding {
        wait: bool,
    },
}

/// A batch that was fetched and not yet sent.
#[derive(Debug)]
struct Ready {
    stored: StoredBatch,
    /// The next message: its offset, and where its record stands.
    offset: u64,
    record: usize,
    /// Everything before it was sent when it was stored.
    is_live: bool,
}

#[derive(Debug)]
struct Cursor {
    partition: u16,
    /// The offset that comes next.
    position: u64,
    fetch: Fetch,
    /// When that was asked, [`Now::mono_ns`]; and whether all that was stored until the last answer has been sent.
    asked_ns: u64,
    is_caught_up: bool,
    ready: VecDeque<Ready>,
    /// Where to go on once `ready` is empty.
    next: u64,
    /// Where a batch that was let go is to be gone on with: its base offset, the next message's offset and record. Spares
    /// walking over the records before it.
    left: Option<(u64, u64, usize)>,
    /// A fetch that does not wait found nothing.
    at_end: bool,
}

/// How long a protocol's responses become.
pub trait Framing {
    /// What the messages of one batch have in common in a response.
    type Template;

    /// That of a batch.
    fn template(partition: u16, stored: &StoredBatch, now: Now) -> Self::Template;

    /// What one message takes, bytes.
    fn length(template: &Self::Template, offset: u64, message: Record<'_>) -> usize;
}

/// Messages of one batch that go into one response.
#[derive(Debug)]
pub struct Run<T> {
    /// The batch.
    pub stored: StoredBatch,
    /// See [`Framing`].
    pub template: T,
    /// The first message: its offset.
    pub offset: u64,
    /// See `offset`; where its record is in the batch.
    pub record: usize,
    /// How many they are.
    pub count: u64,
    is_live: bool,
}

/// A marker, and the message that it comes with if there is one.
#[derive(Debug)]
pub struct Marked {
    /// Where the consumer is behind that message.
    pub marker: String,
    /// The message: its batch, where its record is in it, and its origin.
    pub message: Option<(StoredBatch, usize, Origin)>,
    /// Partition and offset of that message, or of the last one that was sent.
    pub last: Option<(u16, u64)>,
}

/// See the module's page.
#[derive(Debug)]
pub struct Consume {
    operation: OperationId,
    queue: QueueInfo,
    exclude: Option<ClientId>,
    window: SendWindow,
    cursors: Vec<Cursor>,
    /// Where every partition of the queue stands for a marker; those with a cursor are taken from there.
    positions: Vec<u64>,
    /// The cursor whose turn it is; the one before it was served last.
    turn: usize,
    /// The cursor that is sent before any other: what it had was let go because another used up the credit or the room.
    /// Else a partition that always answers first would starve the others.
    first: Option<usize>,
    /// Partition and offset of the last message sent.
    last_sent: Option<(u16, u64)>,
    /// A marker is owed; when it must be paid without a message.
    marker_due_ms: Option<u64>,
    /// The messages that are ready may wait for company until then.
    linger_until_ms: Option<u64>,
    /// Draining: only what is stored, and only until then.
    drain_until_ms: Option<u64>,
    /// The queue has gone back, and the client has not heard.
    is_rewound: bool,
    /// The client uses the protocol's extensions, and is told of a rewind at once.
    has_extensions: bool,
}

/// Where a consumer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Of every partition.
    pub positions: Vec<u64>,
    /// At least one lies before where the client's marker stood.
    pub is_rewound: bool,
    /// The client uses the protocol's extensions.
    pub has_extensions: bool,
}

impl Consume {
    /// An operation whose setup was accepted, from `positions` on: of `only`, or of every partition.
    pub fn start(
        operation: OperationId,
        queue: QueueInfo,
        exclude: Option<ClientId>,
        only: Option<u16>,
        beginning: Beginning,
    ) -> Self {
        let Beginning { positions, is_rewound, has_extensions } = beginning;
        let cursors = positions
            .iter()
            .enumerate()
            .map(|(partition, position)| Cursor {
                partition: partition as u16,
                position: *position,
                fetch: Fetch::None,
                asked_ns: 0,
                is_caught_up: false,
                ready: VecDeque::new(),
                next: *position,
                left: None,
                at_end: false,
            })
            .filter(|cursor| only.is_none_or(|only| only == cursor.partition))
            .collect();
        Self {
            operation,
            queue,
            exclude,
            window: SendWindow::default(),
            cursors,
            positions,
            turn: 0,
            first: None,
            last_sent: None,
            marker_due_ms: None,
            linger_until_ms: None,
            drain_until_ms: None,
            is_rewound,
            has_extensions,
        }
    }

    /// The client may be sent messages up to `number`.
    pub fn raise_credit(&mut self, number: Option<i64>) {
        self.window.raise(number);
    }

    /// The client wants a marker: with the next message, or soon without one.
    pub fn owe_marker(&mut self, cx: &Context<'_>) {
        self.marker_due_ms.get_or_insert(cx.now.mono_ms + millis(cx.settings.marker_wait));
    }

    /// The client uses the protocol's extensions.
    pub fn set_extensions(&mut self) {
        self.has_extensions = true;
    }

    /// What a fetch brought; `has_room` where the client takes what is sent.
    pub fn handle_fetched(&mut self, partition: u16, fetched: Fetched, has_room: bool, cx: &Context<'_>) {
        let sendable = self.window.available() > 0 && has_room;
        let Some(index) = self.cursors.iter().position(|cursor| cursor.partition == partition) else {
            return;
        };
        let was_served = (index + 1) % self.cursors.len() == self.turn;
        let cursor = &mut self.cursors[index];
        let is_empty = fetched.batches.is_empty();
        if !is_empty && !sendable {
            self.first = self.first.or((!was_served).then_some(index));
        } else if self.first == Some(index) {
            self.first = None;
            self.turn = index;
        }
        let waited = std::mem::replace(&mut cursor.fetch, Fetch::None) == Fetch::Outstanding { wait: true };
        if fetched.is_rewound {
            // The position stands behind messages that are no more; what is stored from now on would be before it.
            let goes_on = fetched.batches.first().map_or(fetched.next, |first| first.base_offset);
            cursor.position = cursor.position.min(goes_on);
            cursor.left = None;
            self.is_rewound = true;
        }
        if is_empty {
            cursor.position = cursor.position.max(fetched.next);
            cursor.next = cursor.position;
            cursor.at_end = !waited && fetched.at_end;
        } else if sendable {
            cursor.next = fetched.next;
            let left = cursor.left.take();
            let (is_caught_up, asked_ns) = (cursor.is_caught_up, cursor.asked_ns);
            cursor.ready.extend(fetched.batches.into_iter().map(|stored| {
                let offset = stored.base_offset.max(cursor.position);
                let record = match left {
                    Some((base_offset, at, record)) if (base_offset, at) == (stored.base_offset, offset) => {
                        record
                    }
                    _ => stored.batch.position_of((offset - stored.base_offset) as u32),
                };
                let is_live = is_caught_up || stored.stored_ns > asked_ns;
                Ready { stored, offset, record, is_live }
            }));
            if !cx.settings.consume_linger.is_zero() {
                self.linger_until_ms.get_or_insert(cx.now.mono_ms + millis(cx.settings.consume_linger));
            }
        }
        cursor.is_caught_up = fetched.at_end && (sendable || is_empty);
    }

    /// Whether the client is to be told, without waiting for a message, that the queue has gone back.
    pub fn take_rewound_at_once(&mut self) -> bool {
        self.has_extensions && self.take_rewound()
    }

    /// Whether the next response is to say that the queue has gone back.
    pub fn take_rewound(&mut self) -> bool {
        std::mem::take(&mut self.is_rewound)
    }

    /// Whether what is ready may be sent, where the client takes it.
    pub fn may_send(&mut self, cx: &Context<'_>) -> bool {
        self.first.is_none() && self.window.available() > 0 && !self.lingers(cx)
    }

    /// All that could be sent is: asks for more, or lets go of the rest.
    pub fn go_on(&mut self, has_room: bool, cx: &mut Context<'_>) {
        if !has_room || self.window.available() == 0 {
            self.let_go();
        } else {
            self.pump(cx);
        }
    }

    /// Whether the messages that are ready wait for company.
    fn lingers(&mut self, cx: &Context<'_>) -> bool {
        let Some(until) = self.linger_until_ms else { return false };
        let ready: usize = self
            .cursors
            .iter()
            .flat_map(|cursor| &cursor.ready)
            .map(|ready| ready.stored.batch.count() as usize)
            .sum();
        let waits = until > cx.now.mono_ms
            && self.drain_until_ms.is_none()
            && ready > 0
            && ready < cx.settings.consume_batch_messages
            && self.marker_due_ms.is_none();
        if !waits {
            self.linger_until_ms = None;
        }
        waits
    }

    /// A response was framed with `count` messages in `bytes`.
    pub fn count_sent(&mut self, count: u64, bytes: usize, cx: &mut Context<'_>) {
        self.window.send(count);
        cx.counters.delivered += count;
        cx.counters.delivered_bytes += bytes as u64;
    }

    /// Whether the next response is to begin with a marker.
    pub fn owes_marker(&self) -> bool {
        self.marker_due_ms.is_some()
    }

    /// Takes the messages of a response off the cursors; `count` and `length` are what it has already. No more than `bytes_max` come
    /// together, unless one message alone is longer. Returns the length with them.
    pub fn gather<F: Framing>(
        &mut self,
        mut count: u64,
        mut length: usize,
        bytes_max: usize,
        cx: &Context<'_>,
    ) -> (Vec<Run<F::Template>>, usize) {
        let messages_max = (cx.settings.consume_batch_messages as u64).min(self.window.available());
        let mut runs = Vec::new();
        let cursors = self.cursors.len();
        let mut full = count >= messages_max;
        for _ in 0..cursors {
            let cursor = &mut self.cursors[self.turn];
            let partition = cursor.partition;
            while !full && let Some(ready) = cursor.front(cx.now) {
                let template = F::template(partition, &ready.stored, cx.now);
                let (offset, record, is_live) = (ready.offset, ready.record, ready.is_live);
                let end = ready.stored.end_offset();
                while ready.offset < end && !full {
                    let Some((next, message)) = ready.stored.batch.record_at(ready.record) else {
                        debug_assert!(false, "a batch holds as many records as it says");
                        ready.offset = end;
                        break;
                    };
                    let bytes = F::length(&template, ready.offset, message);
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
                    self.last_sent = Some((partition, ready.offset - 1));
                    let count = ready.offset - offset;
                    let stored = ready.stored.clone();
                    runs.push(Run { stored, template, offset, record, count, is_live });
                }
                cursor.advance();
            }
            self.turn = (self.turn + 1) % cursors;
            if full {
                break;
            }
        }
        (runs, length)
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
        let (next, _) = ready.stored.batch.record_at(ready.record)?;
        let origin = Origin::of(&ready.stored, ready.is_live);
        let message = Some((ready.stored.clone(), ready.record, origin));
        self.last_sent = Some((partition, ready.offset));
        ready.offset += 1;
        ready.record = next;
        cursor.advance();
        self.marker_due_ms = None;
        Some(Marked { marker: self.marker(), message, last: self.last_sent })
    }

    /// The owed marker, once it is due without a message.
    pub fn take_due_marker(&mut self, now: Now) -> Option<Marked> {
        if self.marker_due_ms? <= now.mono_ms { self.take_marker() } else { None }
    }

    /// The owed marker, without a message.
    pub fn take_marker(&mut self) -> Option<Marked> {
        self.marker_due_ms.take()?;
        Some(Marked { marker: self.marker(), message: None, last: self.last_sent })
    }

    /// Where the operation is, behind the last message sent.
    fn marker(&mut self) -> String {
        for cursor in &self.cursors {
            self.positions[usize::from(cursor.partition)] = cursor.position;
        }
        Marker::encode(&self.queue, &self.positions)
    }

    /// Lets go of what cannot be sent now; it is fetched again.
    fn let_go(&mut self) {
        self.linger_until_ms = None;
        let cursors = self.cursors.len();
        let mut in_turn = (0..cursors.saturating_sub(1)).map(|after| (self.turn + after) % cursors);
        self.first = self.first.or_else(|| in_turn.find(|index| !self.cursors[*index].ready.is_empty()));
        for cursor in &mut self.cursors {
            if let Some(front) = cursor.ready.front() {
                cursor.left = Some((front.stored.base_offset, front.offset, front.record));
            }
            // What is stored until it asks again has waited for the client.
            cursor.is_caught_up &= cursor.ready.is_empty() && cursor.fetch != Fetch::None;
            cursor.ready.clear();
        }
    }

    /// Asks for more where nothing is ready and nothing was asked for.
    fn pump(&mut self, cx: &mut Context<'_>) {
        let drains = self.drain_until_ms.is_some();
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            // What all others wait for is answered at once, even if it should have expired meanwhile. A cursor that does not know yet
            // that it is at the end does not wait either: the answer moves it behind what is left out there (echo, TTL), so that
            // markers say so.
            let wait = !drains && self.first != Some(index) && cursor.is_caught_up;
            if cursor.fetch == Fetch::None && cursor.ready.is_empty() && (!drains || !cursor.at_end) {
                cursor.fetch = Fetch::Outstanding { wait };
                cursor.asked_ns = cx.now.mono_ns;
                cx.commands.push(Command::Fetch {
                    operation: self.operation,
                    partition: cursor.partition,
                    from: cursor.position,
                    exclude: self.exclude,
                    wait,
                });
            }
        }
    }

    /// From now on only what is stored, as far as the present credit goes.
    pub fn drain(&mut self, until_ms: u64, cx: &mut Context<'_>) {
        self.drain_until_ms = Some(until_ms);
        // What was the end before may not be it now.
        self.cursors.iter_mut().for_each(|cursor| cursor.at_end = false);
        self.cancel(cx);
    }

    /// Each partition that is read, and the offset that comes next.
    pub fn positions(&self) -> Vec<(u16, u64)> {
        self.cursors.iter().map(|cursor| (cursor.partition, cursor.position)).collect()
    }

    /// Whether draining has sent what it can.
    pub fn is_drained(&self, now: Now) -> bool {
        self.drain_until_ms.is_some_and(|until| {
            until <= now.mono_ms
                || self.window.available() == 0
                || self.cursors.iter().all(|cursor| cursor.at_end && cursor.ready.is_empty())
        })
    }

    /// Takes every waiting fetch back.
    pub fn cancel(&mut self, cx: &mut Context<'_>) {
        for cursor in &self.cursors {
            if cursor.fetch != Fetch::None {
                cx.commands.push(Command::Cancel { operation: self.operation, partition: cursor.partition });
            }
        }
    }

    /// When something is due without any event.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        [self.marker_due_ms, self.linger_until_ms, self.drain_until_ms].into_iter().flatten().min()
    }
}

impl<T> Run<T> {
    /// Where its messages come from.
    pub fn origin(&self) -> Origin {
        Origin::of(&self.stored, self.is_live)
    }
}

impl Cursor {
    /// The batch that is sent next; those whose TTL has ended are passed over.
    fn front(&mut self, now: Now) -> Option<&mut Ready> {
        while self.ready.front().is_some_and(|ready| ready.stored.is_expired(now.unix_ms)) {
            if let Some(ready) = self.ready.front_mut() {
                ready.offset = ready.stored.end_offset();
            }
            self.advance();
        }
        self.ready.front_mut()
    }

    /// The front batch was used: moves the position, and drops the batch if nothing of it is left.
    fn advance(&mut self) {
        let Some(ready) = self.ready.front() else { return };
        self.position = ready.offset;
        if ready.offset >= ready.stored.end_offset() {
            self.ready.pop_front();
            if self.ready.is_empty() {
                self.position = self.next;
            }
        }
    }
}

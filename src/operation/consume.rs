//! One consume operation, server side (protocol section 6).
//!
//! Each partition has a cursor with at most one fetch outstanding. What a fetch brought is framed at once, as far
//! as credit and the send buffer go; the rest is let go and fetched again later, so that a slow consumer costs
//! nothing but its cursors.

use std::collections::VecDeque;

use super::command::{Command, OperationId};
use super::credit::SendWindow;
use super::marker::Marker;
use crate::base::batch::{Fetched, Record, StoredBatch};
use crate::base::clock::{Now, millis};
use crate::base::error::{Fault, PeerFault};
use crate::base::names::ClientId;
use crate::base::queue::{QueueInfo, message_id};
use crate::front::Origin;
use crate::front::{Cx, status_of};
use crate::pb::wire::{REWOUND, uses_extensions, varint_length};
use crate::pb::{ConsumeRequest, ConsumeResponse, MessageAndMetadata, MessageTemplate, encode_marked};
use bytes::Bytes;
use prost::Message;

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

/// Messages of one batch that go into one response.
#[derive(Debug)]
struct Run {
    stored: StoredBatch,
    template: MessageTemplate,
    offset: u64,
    record: usize,
    count: u64,
    is_live: bool,
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

    /// One ConsumeRequest.
    pub fn handle_pb(&mut self, pb: &[u8], cx: &Cx<'_>) -> Result<(), Fault> {
        let request = ConsumeRequest::decode(pb)
            .map_err(|error| PeerFault::PbInvalid(format!("ConsumeRequest: {error}")))?;
        if request.commit_marker.is_some() {
            return Err(PeerFault::PbInvalid("commit_marker: groups are not served yet".into()).into());
        }
        self.has_extensions |= uses_extensions(pb);
        self.window.raise(request.max_msgnum_to_send);
        if request.send_marker() {
            self.marker_due_ms.get_or_insert(cx.now.mono_ms + millis(cx.settings.marker_wait));
        }
        Ok(())
    }

    /// What a fetch brought.
    pub fn handle_fetched(&mut self, partition: u16, fetched: Fetched, cx: &Cx<'_>) {
        let sendable = self.window.available() > 0 && cx.has_room();
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

    /// Frames what is ready and may be sent, and asks for more.
    pub fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        if self.is_rewound && self.has_extensions {
            self.is_rewound = false;
            cx.reply.pb(&ConsumeResponse { rewound: Some(true), ..ConsumeResponse::default() }, false);
        }
        while self.first.is_none() && cx.has_room() && self.window.available() > 0 && !self.lingers(cx) {
            if !self.send_response(cx) {
                break;
            }
        }
        if self.marker_due_ms.is_some_and(|due| due <= cx.now.mono_ms) {
            self.pay_marker(cx);
        }
        if !cx.has_room() || self.window.available() == 0 {
            self.let_go();
        } else {
            self.pump(cx);
        }
    }

    /// Whether the messages that are ready wait for company.
    fn lingers(&mut self, cx: &Cx<'_>) -> bool {
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

    /// One ConsumeResponse of what is ready. False where nothing is.
    fn send_response(&mut self, cx: &mut Cx<'_>) -> bool {
        let mut marked = None;
        let mut length = 0;
        let mut count = 0;
        if self.marker_due_ms.is_some() {
            let Some((message, origin)) = self.take_marked(cx.now) else { return false };
            let body = message.encoded_len();
            length += 1 + varint_length(body as u64) + body;
            count += 1;
            marked = Some((message, origin));
        }
        let (runs, length) = self.gather(count, length, cx);
        count += runs.iter().map(|run| run.count).sum::<u64>();
        if count == 0 {
            return false;
        }
        self.window.send(count);
        cx.counters.delivered += count;
        cx.counters.delivered_bytes += length as u64;
        // Before the messages, so that a client that reads field by field knows when they come.
        let rewound: &[u8] = if std::mem::take(&mut self.is_rewound) { &REWOUND } else { &[] };
        cx.reply.raw(rewound.len() + length, false, |out| {
            out.extend_from_slice(rewound);
            if let Some((message, _)) = &marked {
                encode_marked(message, out);
            }
            for run in &runs {
                let mut record = run.record;
                for offset in run.offset..run.offset + run.count {
                    if let Some((next, message)) = run.stored.batch.record_at(record) {
                        run.template.encode(offset, message, out);
                        record = next;
                    }
                }
            }
        });
        let of_marked = marked.map(|(_, origin)| (1, origin));
        for (messages, origin) in
            of_marked.into_iter().chain(runs.iter().map(|run| (run.count, run.origin())))
        {
            cx.framed.note(u32::try_from(messages).unwrap_or(u32::MAX), origin);
        }
        cx.framed.close(cx.reply.out.len());
        true
    }

    /// Takes the messages of a response off the cursors; `count` and `length` are what it has already.
    fn gather(&mut self, mut count: u64, mut length: usize, cx: &Cx<'_>) -> (Vec<Run>, usize) {
        let messages_max = (cx.settings.consume_batch_messages as u64).min(self.window.available());
        // Under pressure no more than that may come to lie in the send buffer.
        let bytes_max = cx.settings.consume_batch_bytes.min(cx.send_limit());
        let mut runs = Vec::new();
        let cursors = self.cursors.len();
        let mut full = count >= messages_max;
        for _ in 0..cursors {
            let cursor = &mut self.cursors[self.turn];
            let partition = cursor.partition;
            while !full && let Some(ready) = cursor.front(cx.now) {
                let template = ready.template(partition, cx.now);
                let (offset, record, is_live) = (ready.offset, ready.record, ready.is_live);
                let end = ready.stored.end_offset();
                while ready.offset < end && !full {
                    let Some((next, message)) = ready.stored.batch.record_at(ready.record) else {
                        debug_assert!(false, "a batch holds as many records as it says");
                        ready.offset = end;
                        break;
                    };
                    let bytes = template.encoded_length(ready.offset, message);
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
    fn take_marked(&mut self, now: Now) -> Option<(MessageAndMetadata, Origin)> {
        let (later, first) = self.cursors.split_at_mut(self.turn);
        let cursor = first.iter_mut().chain(later).find_map(|cursor| {
            let has_some = cursor.front(now).is_some();
            has_some.then_some(cursor)
        })?;
        let partition = cursor.partition;
        let ready = cursor.front(now)?;
        let offset = ready.offset;
        let (next, Record { key, payload }) = ready.stored.batch.record_at(ready.record)?;
        let message = MessageAndMetadata {
            marker: None,
            id: Some(message_id(partition, offset)),
            ttl: Some(ready.stored.batch.ttl_secs()),
            age: Some(ready.stored.age_secs(now.unix_ms)),
            claim: None,
            payload: Some(Bytes::copy_from_slice(payload)),
            key: (!key.is_empty()).then(|| Bytes::copy_from_slice(key)),
            timestamp_ms: i64::try_from(ready.stored.timestamp_ms).ok(),
        };
        let origin = origin(&ready.stored, ready.is_live);
        ready.offset += 1;
        ready.record = next;
        cursor.advance();
        self.last_sent = Some((partition, offset));
        self.marker_due_ms = None;
        Some((MessageAndMetadata { marker: Some(self.marker()), ..message }, origin))
    }

    /// Where the operation is, behind the last message sent.
    fn marker(&mut self) -> String {
        for cursor in &self.cursors {
            self.positions[usize::from(cursor.partition)] = cursor.position;
        }
        Marker::encode(&self.queue, &self.positions)
    }

    /// Pays an owed marker without a message.
    fn pay_marker(&mut self, cx: &mut Cx<'_>) {
        if self.marker_due_ms.take().is_some() {
            let message = MessageAndMetadata {
                marker: Some(self.marker()),
                id: Some(
                    self.last_sent.map_or(String::new(), |(partition, offset)| message_id(partition, offset)),
                ),
                ..Default::default()
            };
            let messages = vec![message];
            cx.reply.pb(&ConsumeResponse { messages, ..ConsumeResponse::default() }, false);
        }
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
    fn pump(&mut self, cx: &mut Cx<'_>) {
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
    pub fn drain(&mut self, until_ms: u64, cx: &mut Cx<'_>) {
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

    /// Ends the half: the owed marker, then the failure if there is one, then FIN.
    pub fn finish(&mut self, failure: Option<&Fault>, cx: &mut Cx<'_>) {
        self.cancel(cx);
        self.pay_marker(cx);
        match failure {
            Some(fault) => {
                let status = Some(status_of(fault));
                cx.reply.pb(&ConsumeResponse { status, ..ConsumeResponse::default() }, true);
            }
            None => cx.reply.fin(),
        }
    }

    /// Takes every waiting fetch back.
    pub fn cancel(&mut self, cx: &mut Cx<'_>) {
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

impl Run {
    fn origin(&self) -> Origin {
        origin(&self.stored, self.is_live)
    }
}

fn origin(stored: &StoredBatch, is_live: bool) -> Origin {
    Origin::Stored { stored_ns: stored.stored_ns, timestamp_ms: stored.timestamp_ms, is_live }
}

impl Ready {
    fn template(&self, partition: u16, now: Now) -> MessageTemplate {
        let stored = &self.stored;
        MessageTemplate::new(
            partition,
            stored.batch.ttl_secs(),
            stored.age_secs(now.unix_ms),
            stored.timestamp_ms,
        )
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

//! Subscriptions of a connection: each message of their queues is pushed to it as it is stored.
//!
//! A subscription is a reader from the end of each partition on. It fetches the next messages when the connection has room
//! for them, so a client that reads slowly gets them later, and holds no memory but what one fetch of each partition reads.
//! It ends with the connection, with its TTL, and with `subscription_delete`. If the queue is deleted, it goes on with the
//! next queue of that name.

use std::sync::Arc;

use uuid::Uuid;

use super::super::answer;
use super::super::document::Format;
use super::known::KnownQueue;
use super::limits::{SUBSCRIBED_PARTITIONS_MAX, SUBSCRIPTIONS_MAX};
use crate::base::batch::Fetched;
use crate::base::claim::View;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::base::names::{FullName, QueueName};
use crate::base::queue::{Position, QueueId};
use crate::base::units::{Offset, Partition};
use crate::front::Cx;
use crate::front::Origin;
use crate::operation::{Answer, Command, OperationId, Resources, SubscriptionInfo};
use crate::ws::MessageKind;

/// How often a subscription looks for a queue that was deleted.
const LOOK_EVERY: Millis = Millis::new(1_000);

/// The subscriptions of a connection.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    all: Vec<Subscription>,
    /// The format of notifications: that of the last request that subscribed.
    format: Option<Format>,
    /// The name of the connection as a subscriber.
    subscriber: Option<Arc<str>>,
}

/// A subscription of a connection to a queue.
#[derive(Debug)]
struct Subscription {
    operation: OperationId,
    queue: KnownQueue,
    info: SubscriptionInfo,
    /// When it ends, by the monotonic clock.
    ends: Millis,
    /// The request that waits until it has begun.
    begins_for: Option<OperationId>,
    cursors: Vec<Cursor>,
    /// When to look for the queue again, because it was deleted.
    look_due: Option<Millis>,
}

/// The place of a subscription in a partition.
#[derive(Debug)]
struct Cursor {
    partition: Partition,
    /// The offset behind what was fetched; `None` while it is not known.
    next: Option<Offset>,
    is_fetching: bool,
    fetched: Fetched,
    /// What was told of it: whole batches, and the offset in the one behind them.
    batch: usize,
    offset: Offset,
    /// The position of the record at `offset`, if the one before it was told last.
    record: Option<usize>,
}

/// What came of an answer.
#[derive(Debug)]
pub(super) enum Begun {
    /// Nothing that a request waits for.
    Nothing,
    /// The subscription of this request to this queue has begun, with this id.
    Subscribed(OperationId, QueueName, Arc<str>),
    /// The subscription of this request cannot begin.
    Failed(OperationId, StoreFault),
}

impl Subscriptions {
    /// Returns whether there is one to this queue.
    pub(super) fn has(&self, name: &FullName) -> bool {
        self.all.iter().any(|one| one.queue.name == *name)
    }

    /// Returns whether there may be no further one to this queue.
    pub(super) fn is_full_for(&self, queue: &KnownQueue) -> bool {
        let partitions = self.cursors() + usize::from(queue.info.partitions);
        self.all.len() >= SUBSCRIPTIONS_MAX || partitions > SUBSCRIBED_PARTITIONS_MAX
    }

    fn cursors(&self) -> usize {
        self.all.iter().map(|one| one.cursors.len()).sum()
    }

    /// Returns whether an operation is one of them.
    pub(super) fn uses(&self, operation: OperationId) -> bool {
        self.all.iter().any(|one| one.operation == operation)
    }

    /// Returns whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Begins a subscription for a request, with an operation of its own.
    pub(super) fn begin(
        &mut self,
        queue: KnownQueue,
        (operation, request): (OperationId, OperationId),
        ttl_secs: u32,
        options: Arc<str>,
        resources: &mut Resources<'_>,
    ) {
        let subscriber = self
            .subscriber
            .get_or_insert_with(|| format!("websocket:{}", Uuid::new_v4().simple()).into())
            .clone();
        let info = SubscriptionInfo {
            id: Uuid::new_v4().simple().to_string().into(),
            subscriber,
            ttl_secs,
            since: resources.now.mono,
            options,
        };
        let cursors: Vec<Cursor> = queue.info.all().map(Cursor::new).collect();
        for cursor in &cursors {
            let target = queue.target(cursor.partition);
            resources.commands.push(Command::Resolve { operation, target, position: Position::Latest });
        }
        let ends = resources.now.mono + Millis::from_secs(ttl_secs);
        let begins_for = Some(request);
        self.all.push(Subscription { operation, queue, info, ends, begins_for, cursors, look_due: None });
    }

    /// Sets the format of notifications.
    pub(super) fn set_format(&mut self, format: Format) {
        self.format = Some(format);
    }

    /// Handles an answer to a command of a subscription.
    pub(super) fn answer(&mut self, operation: OperationId, answer: Answer, now: Now) -> Begun {
        let Some(index) = self.all.iter().position(|one| one.operation == operation) else {
            return Begun::Nothing;
        };
        let one = &mut self.all[index];
        let (partition, fault) = match answer {
            Answer::Resolved { partition, result: Ok(offset) } => {
                if let Some(cursor) = one.cursor(partition) {
                    cursor.next = Some(offset);
                }
                (partition, None)
            }
            Answer::Fetched { partition, result: Ok(fetched) } => {
                if let Some(cursor) = one.cursor(partition) {
                    cursor.take(fetched);
                }
                (partition, None)
            }
            Answer::Resolved { partition, result: Err(fault) }
            | Answer::Fetched { partition, result: Err(fault) } => (partition, Some(fault)),
            Answer::Opened { result, .. } => {
                match result {
                    Ok(info) => {
                        one.queue.info = info;
                        let from_first =
                            |partition| Cursor { next: Some(Offset::ZERO), ..Cursor::new(partition) };
                        one.cursors = one.queue.info.all().map(from_first).collect();
                        one.look_due = None;
                    }
                    Err(_) => one.look_due = Some(now.mono + LOOK_EVERY),
                }
                return Begun::Nothing;
            }
            _ => return Begun::Nothing,
        };
        match (fault, one.begins_for) {
            (None, Some(request)) if one.cursors.iter().all(|cursor| cursor.next.is_some()) => {
                one.begins_for = None;
                Begun::Subscribed(request, one.queue.name.1.clone(), one.info.id.clone())
            }
            (None, _) => Begun::Nothing,
            (Some(fault), Some(request)) => {
                self.all.remove(index);
                Begun::Failed(request, fault)
            }
            (Some(StoreFault::Deleted | StoreFault::NoQueue), None) => {
                one.cursors.clear();
                one.look_due = Some(now.mono);
                Begun::Nothing
            }
            // The store fails now. The next fetch may succeed.
            (Some(_), None) => {
                if let Some(cursor) = one.cursor(partition) {
                    cursor.is_fetching = false;
                }
                one.look_due = Some(now.mono + LOOK_EVERY);
                Begun::Nothing
            }
        }
    }

    /// Writes notifications while there is room, and fetches more.
    pub(super) fn poll_transmit(&mut self, scratch: &mut Vec<u8>, cx: &mut Cx<'_>) {
        let format = self.format.unwrap_or(Format::Json);
        let bytes_max = cx.resources.settings.fetch_bytes / self.cursors().max(1);
        for one in &mut self.all {
            if one.begins_for.is_some() || one.look_due.is_some() {
                continue;
            }
            for index in 0..one.cursors.len() {
                while cx.has_room() && one.tell(index, format, scratch, cx) {}
                one.fetch(index, bytes_max, &mut cx.resources);
            }
        }
    }

    /// Returns whether there are messages to tell.
    pub(super) fn goes_on(&self) -> bool {
        self.all
            .iter()
            .any(|one| one.cursors.iter().any(|cursor| cursor.batch < cursor.fetched.batches.len()))
    }

    /// Handles the passing of time: ends those whose time is over, and looks for queues that were deleted.
    pub(super) fn handle_timeout(
        &mut self,
        mut next_operation: impl FnMut() -> OperationId,
        resources: &mut Resources<'_>,
    ) {
        let now = resources.now.mono;
        // One that has not begun ends when its request is answered.
        self.end_if(resources, |one| one.ends <= now && one.begins_for.is_none());
        for one in &mut self.all {
            if one.look_due.is_none_or(|due| due > now) {
                continue;
            }
            one.look_due = None;
            if one.cursors.is_empty() {
                one.look_due = Some(now + LOOK_EVERY);
                // What is still answered is about the queue that was deleted.
                one.operation = next_operation();
                let (operation, name) = (one.operation, one.queue.name.clone());
                let open = Command::Open { operation, name, may_create: false, needs_claims: false };
                resources.commands.push(open);
            }
        }
    }

    /// Returns when [`Self::handle_timeout`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Millis> {
        let begun = self.all.iter().filter(|one| one.begins_for.is_none());
        begun.map(|one| one.look_due.map_or(one.ends, |due| due.min(one.ends))).min()
    }

    /// Returns whether one reads this queue.
    pub(super) fn reads(&self, queue: QueueId) -> bool {
        self.all.iter().any(|one| one.queue.info.id == queue)
    }

    /// Reads the partitions that queues have got, from their beginning.
    pub(super) fn handle_grown(&mut self) {
        for one in self.all.iter_mut().filter(|one| !one.cursors.is_empty()) {
            let partitions = one.queue.info.policy.grown_to().max(one.queue.info.partitions);
            one.queue.info.partitions = partitions;
            for number in one.cursors.len() as u16..partitions {
                one.cursors.push(Cursor { next: Some(Offset::ZERO), ..Cursor::new(Partition(number)) });
            }
        }
    }

    /// Returns those to a queue.
    pub(super) fn of(&self, name: &FullName) -> impl Iterator<Item = &SubscriptionInfo> {
        let of = self.all.iter().filter(move |one| one.queue.name == *name && one.begins_for.is_none());
        of.map(|one| &one.info)
    }

    /// Ends those to a queue: the one with this id, or all.
    pub(super) fn end(&mut self, name: &FullName, id: Option<&str>, resources: &mut Resources<'_>) {
        self.end_if(resources, |one| {
            one.queue.name == *name && one.begins_for.is_none() && id.is_none_or(|id| id == &*one.info.id)
        });
    }

    /// Ends those that have begun to queues that are not allowed.
    pub(super) fn end_forbidden(&mut self, may: impl Fn(&FullName) -> bool, resources: &mut Resources<'_>) {
        self.end_if(resources, |one| one.begins_for.is_none() && !may(&one.queue.name));
    }

    /// Ends all.
    pub(super) fn end_all(&mut self, resources: &mut Resources<'_>) {
        self.end_if(resources, |_| true);
    }

    fn end_if(&mut self, resources: &mut Resources<'_>, ends: impl Fn(&Subscription) -> bool) {
        self.all.retain(|one| {
            let stays = !ends(one);
            if !stays {
                for cursor in one.cursors.iter().filter(|cursor| cursor.is_fetching) {
                    let (operation, target) = (one.operation, one.queue.target(cursor.partition));
                    resources.commands.push(Command::Cancel { operation, target });
                }
            }
            stays
        });
    }
}

impl Subscription {
    fn cursor(&mut self, partition: Partition) -> Option<&mut Cursor> {
        self.cursors.iter_mut().find(|cursor| cursor.partition == partition)
    }

    /// Writes the next notification of a partition. Returns false if there is none.
    fn tell(&mut self, index: usize, format: Format, scratch: &mut Vec<u8>, cx: &mut Cx<'_>) -> bool {
        let Some(cursor) = self.cursors.get_mut(index) else { return false };
        let unix = cx.resources.now.unix;
        while let Some(stored) = cursor.fetched.batches.get(cursor.batch) {
            let at = cursor.offset.max(stored.base_offset);
            let run = cursor.fetched.hidden.visible(at, stored.end_offset());
            if run.is_empty() || stored.is_expired(unix) {
                (cursor.batch, cursor.record) = (cursor.batch + 1, None);
                continue;
            }
            let known = cursor.record.filter(|_| run.start == cursor.offset);
            let position = known.unwrap_or_else(|| {
                let index = u32::try_from(run.start.since(stored.base_offset)).unwrap_or(u32::MAX);
                stored.batch.position_of(index)
            });
            let Some((next, record)) = stored.batch.record_at(position) else {
                (cursor.batch, cursor.record) = (cursor.batch + 1, None);
                continue;
            };
            (cursor.offset, cursor.record) = (run.start.saturating_add(1), Some(next));
            scratch.clear();
            let ttl = u64::from(stored.batch.ttl_secs());
            let queue = self.queue.name.1.as_str();
            answer::notification(format, queue, ttl, record.payload, record.headers, scratch);
            let kind = match format {
                Format::Json => MessageKind::Text,
                Format::MessagePack => MessageKind::Binary,
            };
            let origin =
                Origin::Stored { stored_ns: stored.stored_ns, timestamp: stored.timestamp, is_live: true };
            cx.framed.note(1, origin);
            cx.reply
                .sender
                .data(cx.reply.out, kind, true, scratch.len(), |out| out.extend_from_slice(scratch));
            cx.framed.close(cx.reply.out.len());
            cx.resources.counters.delivered += 1;
            cx.resources.counters.delivered_bytes += scratch.len() as u64;
            return true;
        }
        false
    }

    /// Fetches the next messages of a partition, once all before them are told.
    fn fetch(&mut self, index: usize, bytes_max: usize, resources: &mut Resources<'_>) {
        let Some(cursor) = self.cursors.get_mut(index) else { return };
        let (Some(from), false) = (cursor.next, cursor.is_fetching) else { return };
        if cursor.batch < cursor.fetched.batches.len() {
            return;
        }
        cursor.fetched = Fetched::default();
        cursor.is_fetching = true;
        let (operation, target) = (self.operation, self.queue.target(cursor.partition));
        let (exclude, view, wait) = (None, View::Live, true);
        resources.commands.push(Command::Fetch { operation, target, from, bytes_max, exclude, view, wait });
    }
}

impl Cursor {
    fn new(partition: Partition) -> Self {
        Self {
            partition,
            next: None,
            is_fetching: false,
            fetched: Fetched::default(),
            batch: 0,
            offset: Offset::ZERO,
            record: None,
        }
    }

    fn take(&mut self, fetched: Fetched) {
        self.is_fetching = false;
        let is_rewound = fetched.is_rewound;
        self.offset = if is_rewound { Offset::ZERO } else { self.next.unwrap_or_default() };
        self.next = Some(if is_rewound { fetched.next } else { fetched.next.max(self.offset) });
        (self.batch, self.record) = (0, None);
        self.fetched = fetched;
    }
}

//! Appends on their way into Kafka: one producer handle, what it has not reported yet, and what waits for room in it.
//!
//! An append is spoken for by the delivery reports of all its records. Its payloads stay in its batch, where librdkafka reads
//! them; the batch is let go with the last report.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::header::{HEADER, Header, Packed};
use super::layout::{Layout, pack};
use super::native::{Handle, Queue, Report, Reports, Scratch, Trouble};
use super::news::News;
use super::topics::{OfHandle, TopicInfo};
use crate::base::batch::Batch;
use crate::base::queue::{PartitionKey, QueueId};
use crate::store::Stream;

/// Records that are given to librdkafka in one call.
const RECORDS_AT_ONCE: usize = 512;

/// An append, and where it goes.
#[derive(Debug)]
pub(super) struct Append<T> {
    pub token: T,
    pub stream: Stream,
    pub partition: PartitionKey,
    pub topic: Arc<TopicInfo>,
    pub batch: Batch,
    /// When it came, `mono_ms`.
    pub since_ms: u64,
}

/// What became of an append.
#[derive(Debug)]
pub(super) struct Outcome<T> {
    pub token: T,
    pub stream: Stream,
    pub queue: QueueId,
    pub count: u32,
    /// The offsets, where they are known and stand one after the other.
    pub result: Result<Option<Range<u64>>, Trouble>,
}

#[derive(Debug)]
struct InFlight<T> {
    append: Append<T>,
    /// Where the first record stands that librdkafka has not got; `None` once it has all, or gets no more.
    rest: Option<usize>,
    /// It is in `Producer::waiting`.
    is_waiting: bool,
    /// Records that it has got, and those that it has not reported.
    records: u32,
    open: u32,
    least: i64,
    most: i64,
    /// Of one record nobody knows where it is stored.
    is_unknown: bool,
    failed: Option<Trouble>,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Producer<T> {
    /// Goes before its handle.
    connected: Option<Connected>,
    /// A fatal error was reported: nothing more is given to this handle.
    is_broken: bool,
    slots: Vec<Option<InFlight<T>>>,
    free: Vec<usize>,
    /// Slots whose append is not wholly given to librdkafka, in order.
    waiting: VecDeque<usize>,
    scratch: Scratch,
    done: VecDeque<Outcome<T>>,
}

#[derive(Debug)]
struct Connected {
    topics: OfHandle,
    queue: Queue,
    handle: Handle,
}

impl<T: Copy> Producer<T> {
    /// One that has no handle yet.
    pub(super) fn new() -> Self {
        Self {
            connected: None,
            is_broken: false,
            slots: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            scratch: Scratch::default(),
            done: VecDeque::new(),
        }
    }

    /// Its handle has been made.
    pub(super) fn connect(&mut self, handle: Handle, news: &Arc<News>) {
        self.connected =
            Queue::main(&handle, news).map(|queue| Connected { topics: OfHandle::default(), queue, handle });
        self.is_broken = false;
        self.submit_waiting();
    }

    /// The handle and its queue, where there is one that works.
    pub(super) fn connection(&self) -> Option<(&Handle, &Queue)> {
        let connected = self.connected.as_ref().filter(|_| !self.is_broken)?;
        Some((&connected.handle, &connected.queue))
    }

    /// What the handle reports, also one that is broken.
    pub(super) fn queue(&self) -> Option<&Queue> {
        self.connected.as_ref().map(|connected| &connected.queue)
    }

    /// Takes an append.
    pub(super) fn append(&mut self, append: Append<T>) {
        let in_flight = InFlight {
            append,
            rest: Some(0),
            is_waiting: true,
            records: 0,
            open: 0,
            least: i64::MAX,
            most: -1,
            is_unknown: false,
            failed: None,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(in_flight);
                slot
            }
            None => {
                self.slots.push(Some(in_flight));
                self.slots.len() - 1
            }
        };
        self.waiting.push_back(slot);
        if self.waiting.len() == 1 {
            self.submit_waiting();
        }
    }

    /// Gives librdkafka what it has room for.
    pub(super) fn submit_waiting(&mut self) {
        while let Some(slot) = self.waiting.front().copied() {
            if !self.submit(slot) {
                return;
            }
            self.waiting.pop_front();
            if let Some(one) = self.slots.get_mut(slot).and_then(Option::as_mut) {
                one.is_waiting = false;
            }
            self.finish(slot);
        }
    }

    /// False where there is no room for all of it.
    fn submit(&mut self, slot: usize) -> bool {
        let Some(one) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return true };
        if one.rest.is_none() {
            return true;
        }
        let Some(connected) = self.connected.as_mut().filter(|_| !self.is_broken) else { return false };
        let info = &one.append.topic;
        let queue = one.append.partition.queue;
        let topic = match connected.topics.get(&connected.handle, queue, info) {
            Ok(topic) => topic,
            Err(trouble) => {
                one.failed = Some(trouble);
                one.rest = None;
                return true;
            }
        };
        let batch = &one.append.batch;
        let header = Header {
            ttl_secs: Some(batch.ttl_secs())
                .filter(|ttl| !info.is_default_known || *ttl != info.default_ttl_secs),
            client: (!batch.is_anonymous()).then_some(batch.client()),
            packed: None,
        };
        let partition = i32::from(one.append.partition.partition);
        let mut records: Vec<(&[u8], &[u8])> = Vec::with_capacity(RECORDS_AT_ONCE);
        while let Some(from) = one.rest {
            records.clear();
            let mut position = from;
            let header = match info.layout {
                Layout::Plain => {
                    while records.len() < RECORDS_AT_ONCE
                        && let Some((next, record)) = batch.record_at(position)
                    {
                        records.push((record.key, record.payload));
                        position = next;
                    }
                    header.encode()
                }
                Layout::Packed => {
                    let (end, count) = pack(batch, from);
                    if count > 0 {
                        records.push((&[], &batch.as_stored()[from..end]));
                    }
                    position = end;
                    let packed = Some(Packed { count, has_keys: batch.has_keys() });
                    Header { packed, ..header }.encode()
                }
            };
            if records.is_empty() {
                one.rest = None;
                break;
            }
            let header = header.as_ref().map(|header| (HEADER, header.as_bytes()));
            // SAFETY: `one` keeps the batch until its last report, and `drop` hands on what is not reported by then; a batch's
            // bytes never move.
            let (taken, result) =
                unsafe { topic.produce(partition, slot, header, &records, &mut self.scratch) };
            one.open += taken as u32;
            one.records += taken as u32;
            match result {
                // It will do nothing more, as its own event says in a moment: the next handle gets this.
                Err(_) if taken == 0 && connected.handle.has_failed() => {
                    self.is_broken = true;
                    connected.handle.purge();
                    return false;
                }
                Err(trouble) => {
                    one.failed.get_or_insert(trouble);
                    one.rest = None;
                }
                Ok(()) if taken == records.len() => one.rest = Some(position),
                Ok(()) => {
                    // Of packed records there is one: none was taken.
                    one.rest =
                        Some((0..taken).fold(from, |at, _| batch.record_at(at).map_or(at, |(next, _)| next)));
                    return false;
                }
            }
        }
        true
    }

    /// Fates of records. Room for others is there once `reports` is dropped.
    pub(super) fn handle_reports(&mut self, reports: &Reports) {
        reports.each(|report| self.handle_report(report));
    }

    /// An append of a stream has failed: what waits behind it is not stored.
    pub(super) fn fence(&mut self, stream: Stream) {
        self.give_up("messages before these were not stored", |one| one.append.stream == stream);
    }

    /// Appends that have waited for a handle or for room since before `before_ms` fail.
    pub(super) fn fail_unsent(&mut self, before_ms: u64) {
        self.give_up("Kafka takes no messages: no broker is within reach", |one| {
            one.append.since_ms < before_ms
        });
        self.submit_waiting();
    }

    /// Those that wait and of which librdkafka has nothing.
    fn give_up(&mut self, why: &'static str, is_meant: impl Fn(&InFlight<T>) -> bool) {
        for slot in &self.waiting {
            if let Some(one) = self.slots.get_mut(*slot).and_then(Option::as_mut)
                && one.records == 0
                && one.rest.is_some()
                && is_meant(one)
            {
                one.failed = Some(Trouble::ours(why));
                one.rest = None;
            }
        }
    }

    /// Whether appends wait for a handle or for room.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn handle_report(&mut self, report: Report) {
        let Some(one) = self.slots.get_mut(report.opaque).and_then(Option::as_mut) else { return };
        one.open -= 1;
        match report.result {
            Ok(offset) if offset >= 0 => {
                one.least = one.least.min(offset);
                one.most = one.most.max(offset);
            }
            Ok(_) => one.is_unknown = true,
            Err(trouble) => {
                one.failed.get_or_insert(trouble);
                // What it has not got of this append it does not get.
                one.rest = None;
            }
        }
        if one.open == 0 {
            self.finish(report.opaque);
        }
    }

    /// Lets an append go that is spoken for.
    fn finish(&mut self, slot: usize) {
        let Some(one) = self.slots.get_mut(slot) else { return };
        let is_done = |one: &mut InFlight<T>| one.open == 0 && one.rest.is_none() && !one.is_waiting;
        let Some(done) = one.take_if(is_done) else { return };
        self.free.push(slot);
        let count = done.append.batch.count();
        let result = match done.failed {
            Some(trouble) => Err(trouble),
            None if done.is_unknown => Ok(None),
            None => Ok(done.append.topic.layout.appended(count, done.records, done.least, done.most)),
        };
        let Append { token, stream, partition, .. } = done.append;
        self.done.push_back(Outcome { token, stream, queue: partition.queue, count, result });
    }

    /// The next append that is spoken for.
    pub(super) fn poll(&mut self) -> Option<Outcome<T>> {
        self.done.pop_front()
    }

    /// A queue is not served any more under this number.
    pub(super) fn forget(&mut self, queue: QueueId) {
        if let Some(connected) = &mut self.connected {
            connected.topics.forget(queue);
        }
    }

    /// The handle will do nothing more: everything on its way fails, and once that is told the handle can go.
    pub(super) fn handle_fatal(&mut self) {
        self.is_broken = true;
        if let Some(connected) = &self.connected {
            connected.handle.purge();
        }
    }

    /// Takes a broken handle of which everything is told, to be dropped where that may block.
    pub(super) fn take_broken(&mut self) -> Option<impl Send + 'static> {
        let is_told = self.slots.iter().flatten().all(|one| one.open == 0);
        if self.is_broken && is_told { self.connected.take() } else { None }
    }
}

/// Where the drain's time is over, messages are still on their way. Their payloads go with the client, not with this: its handle may
/// live a little longer elsewhere, as while a token is given to it.
impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        let Some(connected) = &self.connected else { return };
        for one in self.slots.iter().flatten().filter(|one| one.open > 0) {
            connected.handle.keep(one.append.batch.clone());
        }
    }
}

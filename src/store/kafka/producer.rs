//! Appends on their way into Kafka: one producing client, the records that it has not reported yet, and those
//! that wait for room in it, or for the first append of their partition.
//!
//! An append is complete when all its records have delivery reports. librdkafka reads the payloads inside the
//! append's batch, which is kept until the last report.

#![allow(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::client::Client;
use super::header::{HEADER, Header, Packed};
use super::layout::{Layout, pack};
use super::native::{Handle, Queue, Report, Reports, Scratch, Trouble};
use super::news::News;
use super::starts::{Starts, Turn};
use super::topics::TopicInfo;
use crate::base::batch::{Batch, Record};
use crate::base::millis::Millis;
use crate::base::queue::{PartitionKey, QueueId};
use crate::base::units::Offset;
use crate::store::Stream;

/// Why an append behind a failed one of its stream fails.
const NOT_BEFORE: &str = "messages before these were not stored";

/// The most records in one call of librdkafka.
const RECORDS_AT_ONCE: usize = 512;

/// An append and its destination.
#[derive(Debug)]
pub(super) struct Append<T> {
    pub token: T,
    pub stream: Stream,
    pub partition: PartitionKey,
    pub topic: Arc<TopicInfo>,
    pub batch: Batch,
    /// When it arrived, by the monotonic clock.
    pub since: Millis,
}

/// The result of an append.
#[derive(Debug)]
pub(super) struct Outcome<T> {
    pub token: T,
    pub stream: Stream,
    pub queue: QueueId,
    pub count: u32,
    /// The offsets, if they are known and consecutive.
    pub result: Result<Option<Range<Offset>>, Trouble>,
}

/// An append that is not completed.
#[derive(Debug)]
struct InFlight<T> {
    append: Append<T>,
    /// The position of the first record that librdkafka has not taken. `None` once it has taken all, or gets
    /// no more.
    rest: Option<usize>,
    /// Whether its slot is in `Producer::waiting` or in `Producer::starts`.
    is_waiting: bool,
    /// Whether it is the first append of its partition, with records on their way.
    is_first: bool,
    /// The number of records that librdkafka has taken.
    records: u32,
    /// The number of these without a report. Invariant: at most `records`.
    open: u32,
    /// The smallest and the largest offset that was reported.
    least: i64,
    most: i64,
    failed: Option<Trouble>,
}

/// What librdkafka has got of an append.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Submitted {
    /// All of its records that it shall get.
    All,
    /// Not all.
    Part,
    /// Not all, and `Producer::starts` keeps the append.
    Later,
}

/// The producing client of a shard, and its appends.
#[derive(Debug)]
pub(super) struct Producer<T> {
    client: Option<Client>,
    /// Whether the client had a fatal error, and gets nothing more.
    is_broken: bool,
    /// The appends. A slot's index is the append's number for librdkafka. Their number is the most that were
    /// ever used at once, which the shard's budget limits.
    slots: Vec<Option<InFlight<T>>>,
    /// The indexes of empty slots.
    free: Vec<usize>,
    /// The slots of appends that librdkafka has not fully taken, in order.
    waiting: VecDeque<usize>,
    /// The partitions to which the client has sent appends, and the slots of those that wait for a first one.
    starts: Starts,
    /// The streams with appends that have failed and were not returned yet, and how many. Nothing more of them is passed.
    failing: HashMap<Stream, u32>,
    scratch: Scratch,
    done: VecDeque<Outcome<T>>,
}

/// Fails an append, unless it has failed before.
fn fail<T>(one: &mut InFlight<T>, trouble: Trouble, failing: &mut HashMap<Stream, u32>) {
    if one.failed.is_none() {
        one.failed = Some(trouble);
        *failing.entry(one.append.stream).or_default() += 1;
    }
    // librdkafka does not get the rest of it.
    one.rest = None;
}

impl<T: Copy> Producer<T> {
    /// Creates a producer without a client.
    pub(super) fn new() -> Self {
        Self {
            client: None,
            is_broken: false,
            slots: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            starts: Starts::default(),
            failing: HashMap::new(),
            scratch: Scratch::default(),
            done: VecDeque::new(),
        }
    }

    /// Creates the client from its handle.
    pub(super) fn connect(&mut self, handle: Handle, news: &Arc<News>) {
        debug_assert!(!self.starts.is_waiting(), "the client before has reported everything");
        self.starts = Starts::default();
        self.client = Client::new(handle, news);
        self.is_broken = false;
        self.submit_waiting();
    }

    /// Returns the client, if it works.
    pub(super) fn client(&self) -> Option<&Client> {
        self.client.as_ref().filter(|_| !self.is_broken)
    }

    /// Returns the client's events, including those of a broken client.
    pub(super) fn events(&self) -> Option<&Queue> {
        self.client.as_ref().map(|client| &client.events)
    }

    /// Accepts an append.
    pub(super) fn append(&mut self, append: Append<T>) {
        let in_flight = InFlight {
            append,
            rest: Some(0),
            is_waiting: true,
            is_first: false,
            records: 0,
            open: 0,
            least: i64::MAX,
            most: -1,
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
        debug_assert!(!self.waiting.contains(&slot), "slot {slot} waits already");
        self.waiting.push_back(slot);
        if self.waiting.len() == 1 {
            self.submit_waiting();
        }
    }

    /// Passes waiting records to librdkafka while it has room.
    pub(super) fn submit_waiting(&mut self) {
        while let Some(slot) = self.waiting.front().copied() {
            match self.submit(slot) {
                Submitted::Part => return,
                Submitted::Later => drop(self.waiting.pop_front()),
                Submitted::All => {
                    self.waiting.pop_front();
                    self.end_waiting(slot);
                }
            }
        }
    }

    fn end_waiting(&mut self, slot: usize) {
        if let Some(one) = self.slots.get_mut(slot).and_then(Option::as_mut) {
            one.is_waiting = false;
        }
        self.finish(slot);
    }

    /// Passes the records of an append to librdkafka, as many as its partition may get.
    fn submit(&mut self, slot: usize) -> Submitted {
        let Some(one) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return Submitted::All };
        if one.records == 0 && self.failing.contains_key(&one.append.stream) {
            fail(one, Trouble::ours(NOT_BEFORE), &mut self.failing);
        }
        if one.rest.is_none() {
            return Submitted::All;
        }
        let (partition, is_young) = (one.append.partition, one.append.topic.is_young);
        if self.client().is_none() {
            return Submitted::Part;
        }
        let turn = self.starts.turn(partition, slot);
        let is_alone = match turn {
            Turn::Later => return Submitted::Later,
            Turn::First => is_young,
            Turn::Any => false,
        };
        let submitted = self.pass(slot, is_alone);
        match self.slots.get_mut(slot).and_then(Option::as_mut) {
            Some(one) if turn == Turn::First && one.open > 0 => {
                one.is_first = true;
                let has_rest = submitted == Submitted::Part;
                self.starts.begin(partition, has_rest.then_some(slot));
                if has_rest { Submitted::Later } else { submitted }
            }
            _ => submitted,
        }
    }

    /// Passes the records of an append to librdkafka; at most one if it `is_alone`.
    fn pass(&mut self, slot: usize, is_alone: bool) -> Submitted {
        let Some(one) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return Submitted::All };
        let Some(client) = self.client.as_mut() else { return Submitted::Part };
        let info = &one.append.topic;
        let queue = one.append.partition.queue;
        let topic = match client.topics.get(&client.handle, queue, info) {
            Ok(topic) => topic,
            Err(trouble) => {
                fail(one, trouble, &mut self.failing);
                return Submitted::All;
            }
        };
        let batch = &one.append.batch;
        let header = Header {
            ttl_secs: Some(batch.ttl_secs())
                .filter(|ttl| !info.is_default_known || *ttl != info.default_ttl_secs),
            client: (!batch.is_anonymous()).then_some(batch.client()),
            packed: None,
        };
        let partition = one.append.partition.partition;
        let at_once = if is_alone { 1 } else { RECORDS_AT_ONCE };
        let mut records: Vec<Record<'_>> = Vec::with_capacity(at_once);
        let mut trouble = None;
        while let Some(from) = one.rest {
            records.clear();
            let mut position = from;
            let header = match info.layout {
                Layout::Plain => {
                    while records.len() < at_once
                        && let Some((next, record)) = batch.record_at(position)
                    {
                        records.push(record);
                        position = next;
                    }
                    header.encode()
                }
                Layout::Packed => {
                    let (end, count) = pack(batch, from);
                    if count > 0 {
                        records.push(Record::plain(&batch.as_stored()[from..end]));
                    }
                    position = end;
                    let packed = Some(Packed { count, shape: batch.shape() });
                    Header { packed, ..header }.encode()
                }
            };
            if records.is_empty() {
                one.rest = None;
                break;
            }
            let header = header.as_ref().map(|header| (HEADER, header.as_bytes()));
            // SAFETY: `one` keeps the batch until its last report, and `drop` passes batches without one to
            // the handle. The bytes of a batch never move.
            let (taken, result) =
                unsafe { topic.produce(partition, slot, header, &records, &mut self.scratch) };
            one.open += taken as u32;
            one.records += taken as u32;
            match result {
                // The client does nothing more, as an event will report. The next client gets these records.
                Err(_) if taken == 0 && client.handle.has_failed() => {
                    self.is_broken = true;
                    client.handle.purge();
                    return Submitted::Part;
                }
                Err(found) => {
                    trouble = Some(found);
                    break;
                }
                Ok(()) if taken == records.len() => {
                    one.rest = batch.record_at(position).map(|_| position);
                    if is_alone && one.rest.is_some() {
                        return Submitted::Part;
                    }
                }
                Ok(()) => {
                    // A packed record has its own call, so here it was not taken.
                    one.rest =
                        Some((0..taken).fold(from, |at, _| batch.record_at(at).map_or(at, |(next, _)| next)));
                    return Submitted::Part;
                }
            }
        }
        if let Some(trouble) = trouble {
            fail(one, trouble, &mut self.failing);
        }
        Submitted::All
    }

    /// Handles delivery reports. librdkafka has room for other records once `reports` is dropped.
    pub(super) fn handle_reports(&mut self, reports: &Reports) {
        reports.each(|report| self.handle_report(report));
    }

    /// Fails the waiting appends of a stream in which an append failed.
    pub(super) fn fence(&mut self, stream: Stream) {
        self.give_up(NOT_BEFORE, |one| one.append.stream == stream);
    }

    /// Fails appends that have waited for a client or for room since a time before `before`.
    pub(super) fn fail_unsent(&mut self, before: Millis) {
        self.give_up("Kafka takes no messages: no broker is reachable", |one| one.append.since < before);
    }

    /// Fails waiting appends of which librdkafka has no records.
    fn give_up(&mut self, why: &'static str, is_meant: impl Fn(&InFlight<T>) -> bool) {
        let mut give_up = |slot: usize| {
            let Some(one) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return false };
            let is_meant = one.records == 0 && one.rest.is_some() && is_meant(one);
            if is_meant {
                fail(one, Trouble::ours(why), &mut self.failing);
            }
            is_meant
        };
        let mut ended = Vec::new();
        self.waiting.retain(|slot| {
            let is_ended = give_up(*slot);
            ended.extend(is_ended.then_some(*slot));
            !is_ended
        });
        ended.extend(self.starts.take(give_up));
        for slot in ended {
            self.end_waiting(slot);
        }
    }

    /// Returns whether appends wait for a client or for room.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.starts.is_waiting()
    }

    fn handle_report(&mut self, report: Report) {
        let Some(one) = self.slots.get_mut(report.opaque).and_then(Option::as_mut) else { return };
        debug_assert!((1..=one.records).contains(&one.open), "{} of {} records open", one.open, one.records);
        one.open -= 1;
        match report.result {
            Ok(offset) if offset >= 0 => {
                one.least = one.least.min(offset);
                one.most = one.most.max(offset);
            }
            // librdkafka concludes that records are stored from the acknowledgement of later ones. A broker that did not
            // know a new partition yet refuses the first request, and stores the second one although the first is
            // missing (KAFKA-15591). Only an offset proves that a record is stored.
            Ok(_) => {
                let trouble = Trouble::ours("Kafka may have lost messages: it does not say where they are");
                fail(one, trouble, &mut self.failing);
            }
            Err(trouble) => fail(one, trouble, &mut self.failing),
        }
        if one.open > 0 {
            return;
        }
        if std::mem::take(&mut one.is_first) {
            let (partition, has_rest) = (one.append.partition, one.rest.is_some());
            for slot in self.starts.end(partition).into_iter().rev() {
                if slot == report.opaque && !has_rest {
                    self.end_waiting(slot);
                } else {
                    self.waiting.push_front(slot);
                }
            }
        }
        self.finish(report.opaque);
    }

    /// Removes an append from its slot if it is done.
    fn finish(&mut self, slot: usize) {
        let Some(one) = self.slots.get_mut(slot) else { return };
        let is_done = |one: &mut InFlight<T>| one.open == 0 && one.rest.is_none() && !one.is_waiting;
        let Some(done) = one.take_if(is_done) else { return };
        self.free.push(slot);
        debug_assert!(self.free.len() <= self.slots.len(), "a slot is free once");
        let count = done.append.batch.count();
        let result = match done.failed {
            Some(trouble) => {
                if done.records > 0 {
                    self.starts.doubt(done.append.partition);
                }
                Err(trouble)
            }
            None => Ok(done.append.topic.layout.appended(count, done.records, done.least, done.most)),
        };
        let Append { token, stream, partition, .. } = done.append;
        self.done.push_back(Outcome { token, stream, queue: partition.queue, count, result });
    }

    /// Returns the next completed append.
    pub(super) fn poll(&mut self) -> Option<Outcome<T>> {
        let outcome = self.done.pop_front()?;
        if outcome.result.is_err()
            && let Some(failing) = self.failing.get_mut(&outcome.stream)
        {
            *failing -= 1;
            if *failing == 0 {
                self.failing.remove(&outcome.stream);
            }
        }
        Some(outcome)
    }

    /// Forgets a queue that the server no longer serves.
    pub(super) fn forget(&mut self, queue: QueueId) {
        if let Some(client) = &mut self.client {
            client.topics.forget(queue);
        }
        self.starts.forget(queue);
    }

    /// Handles a fatal error: the client does nothing more, and everything on its way fails. Once that is
    /// reported, the client can be dropped.
    pub(super) fn handle_fatal(&mut self) {
        self.is_broken = true;
        if let Some(client) = &self.client {
            client.handle.purge();
        }
    }

    /// Takes a broken client once everything is reported. Dropping it blocks.
    pub(super) fn take_broken(&mut self) -> Option<Client> {
        let is_reported = self.slots.iter().flatten().all(|one| one.open == 0);
        if self.is_broken && is_reported { self.client.take() } else { None }
    }
}

/// At the end of the drain's timeout, messages may still be on their way. Their payloads must live as long as
/// the client, which may outlive the producer: another thread may hold its handle, for example while it sets
/// a token.
impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        let Some(client) = &self.client else { return };
        for one in self.slots.iter().flatten().filter(|one| one.open > 0) {
            client.handle.keep(one.append.batch.clone());
        }
    }
}

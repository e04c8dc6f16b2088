//! Reading what is older than the tails: few readers, each at one position, moved from one to the next.
//!
//! A reader keeps the last part of what it has read, so that consumers near each other share it, and librdkafka reads ahead of
//! it. It goes on where it stands for whoever comes there, and is moved away once it has brought [`STAY_BYTES`] or nobody has
//! come for [`IDLE_MS`].

use std::collections::VecDeque;
use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode;

use super::batches::{Batches, Reads};
use super::connected::Connected;
use super::native::{Event, Handle, Queue, Topic, Trouble};
use super::news::News;
use super::topics::{OfHandle, TopicInfo};
use crate::base::batch::Fetched;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::queue::{PartitionKey, QueueId};
use crate::store::window::{Fetch, Window};

/// What a position gets before its reader is moved to another.
pub const STAY_BYTES: usize = 4 << 20;

/// How long a reader stays where nobody asks for more while others wait, milliseconds.
const IDLE_MS: u64 = 200;

/// What a reader keeps of what it has read.
pub const WINDOW_BYTES: usize = 8 << 20;

#[derive(Debug)]
enum State {
    /// Its handle is being made.
    Making,
    /// It could not be made.
    Unmade,
    Idle,
    Reading(Box<Reading>),
    Stopping,
}

#[derive(Debug)]
struct Reading {
    key: PartitionKey,
    topic: Arc<Topic>,
    info: Arc<TopicInfo>,
    /// Where it began.
    from: u64,
    window: Window,
    batches: Batches,
    /// The partition has gone back since it began: nothing more is served from here.
    is_stale: bool,
    /// What it has brought at this position.
    brought: usize,
    used_ms: u64,
}

#[derive(Debug)]
struct Reader<T> {
    state: State,
    waiting: Vec<Fetch<T>>,
    topics: OfHandle,
    connected: Option<Connected>,
}

/// What is to be done where it may block.
#[derive(Debug)]
pub(super) enum Chore {
    /// Make a handle for a reader.
    Make(usize),
    /// Stop a reader's partition.
    Stop(usize, Arc<Topic>, i32),
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Readers<T> {
    readers: Vec<Reader<T>>,
    max: usize,
    /// Fetches that no reader is near to.
    behind: VecDeque<(PartitionKey, Arc<TopicInfo>, Fetch<T>)>,
    /// When a reader last brought something.
    progress_ms: u64,
    reads: Reads,
    /// Partitions whose records restarted at a smaller offset.
    gone_back: Vec<PartitionKey>,
}

impl<T: Copy + Eq> Readers<T> {
    /// At most so many.
    pub(super) fn new(max: usize, reads: Reads) -> Self {
        Self {
            readers: Vec::new(),
            max,
            behind: VecDeque::new(),
            progress_ms: 0,
            reads,
            gone_back: Vec::new(),
        }
    }

    /// A fetch of what is older than the tail.
    pub(super) fn fetch(&mut self, now: Now, key: PartitionKey, info: Arc<TopicInfo>, fetch: Fetch<T>) {
        for reader in &mut self.readers {
            if let State::Reading(reading) = &mut reader.state
                && reading.serves(key, fetch.from)
            {
                reading.used_ms = now.mono_ms;
                return reader.waiting.push(fetch);
            }
        }
        self.behind.push_back((key, info, fetch));
    }

    /// Reads on where somebody waits, and answers.
    pub(super) fn poll(&mut self, now: Now, mut answer: impl FnMut(Fetch<T>, Fetched)) {
        for reader in &mut self.readers {
            let Some(Connected { messages, .. }) = &reader.connected else { continue };
            let State::Reading(reading) = &mut reader.state else { continue };
            while !reading.is_stale {
                for fetch in std::mem::take(&mut reader.waiting) {
                    let fetched = reading.window.read(now, &fetch);
                    // At the end of what was read, but not of what there is.
                    if fetched.batches.is_empty() && fetched.at_end && fetched.next <= fetch.from {
                        reader.waiting.push(fetch);
                        continue;
                    }
                    reading.used_ms = now.mono_ms;
                    self.progress_ms = now.mono_ms;
                    reading.brought +=
                        fetched.batches.iter().map(|stored| stored.batch.stored_bytes()).sum::<usize>();
                    answer(fetch, Fetched { at_end: false, ..fetched });
                }
                // Whoever waits has had what there is: nothing is let go unread.
                reading.window.keep(WINDOW_BYTES);
                if reader.waiting.is_empty() || !reading.advance(now, messages) {
                    break;
                }
                if reading.is_stale {
                    self.gone_back.push(reading.key);
                }
            }
        }
    }

    /// Gives readers to those who wait for one.
    pub(super) fn assign(
        &mut self,
        now: Now,
        mut ask: impl FnMut(Chore),
        mut fail: impl FnMut(Fetch<T>, StoreFault),
    ) {
        for _ in 0..self.behind.len() {
            let Some((key, info, fetch)) = self.behind.pop_front() else { return };
            let near = self.readers.iter_mut().find(
                |reader| matches!(&reader.state, State::Reading(reading) if reading.serves(key, fetch.from)),
            );
            if let Some(reader) = near {
                reader.waiting.push(fetch);
            } else if let Some(index) =
                self.readers.iter().position(|reader| matches!(reader.state, State::Idle))
            {
                if let Err(fault) = self.readers[index].start(now, key, &info, fetch.from, self.reads.clone())
                {
                    fail(fetch, fault);
                } else {
                    // It is Kafka's turn from now on.
                    self.readers[index].waiting.push(Fetch { since_ms: now.mono_ms, ..fetch });
                }
            } else {
                self.behind.push_back((key, info, fetch));
            }
        }
        if self.behind.is_empty() {
            return;
        }
        let busy =
            |reader: &Reader<T>| matches!(reader.state, State::Making | State::Unmade | State::Stopping);
        let coming = self.readers.iter().filter(|reader| busy(reader)).count();
        for _ in coming..self.behind.len() {
            if self.readers.len() < self.max {
                ask(Chore::Make(self.readers.len()));
                self.readers.push(Reader {
                    state: State::Making,
                    waiting: Vec::new(),
                    topics: OfHandle::default(),
                    connected: None,
                });
                continue;
            }
            let leaves = |reader: &Reader<T>| match &reader.state {
                State::Reading(reading) => {
                    reader.waiting.is_empty()
                        && (reading.is_stale
                            || reading.brought >= STAY_BYTES
                            || reading.used_ms + IDLE_MS <= now.mono_ms)
                }
                _ => false,
            };
            let Some(index) = self.readers.iter().position(leaves) else { return };
            let State::Reading(reading) = std::mem::replace(&mut self.readers[index].state, State::Stopping)
            else {
                return;
            };
            ask(Chore::Stop(index, reading.topic, i32::from(reading.key.partition)));
        }
    }

    /// A reader has its handle.
    pub(super) fn handle_made(&mut self, index: usize, handle: Handle, news: &Arc<News>) {
        if let Some(reader) = self.readers.get_mut(index) {
            reader.connected = Connected::new(handle, news);
            reader.state = State::Idle;
        }
    }

    /// A reader's handle could not be made.
    pub(super) fn handle_not_made(&mut self, index: usize) {
        if let Some(reader) = self.readers.get_mut(index) {
            reader.state = State::Unmade;
        }
    }

    /// Time has passed: handles that could not be made are tried again.
    pub(super) fn retry(&mut self) -> Vec<Chore> {
        let unmade =
            self.readers.iter_mut().enumerate().filter(|(_, reader)| matches!(reader.state, State::Unmade));
        unmade
            .map(|(index, reader)| {
                reader.state = State::Making;
                Chore::Make(index)
            })
            .collect()
    }

    /// What the readers' handles have to say.
    pub(super) fn poll_event(&self) -> Option<Event> {
        self.readers.iter().find_map(|reader| reader.connected.as_ref()?.events.poll())
    }

    /// A reader has left its position.
    pub(super) fn handle_stopped(&mut self, index: usize) {
        if let Some(reader) = self.readers.get_mut(index) {
            reader.state = State::Idle;
        }
    }

    /// Takes a fetch back.
    pub(super) fn cancel(&mut self, token: T) -> Option<Fetch<T>> {
        if let Some(index) = self.behind.iter().position(|(_, _, fetch)| fetch.token == token) {
            return self.behind.remove(index).map(|(_, _, fetch)| fetch);
        }
        self.readers.iter_mut().find_map(|reader| {
            let index = reader.waiting.iter().position(|fetch| fetch.token == token)?;
            Some(reader.waiting.swap_remove(index))
        })
    }

    /// Fetches whose reader has brought nothing since before `before_ms`; and those that wait for one, if none has.
    pub(super) fn take_unanswered(&mut self, before_ms: u64) -> Vec<Fetch<T>> {
        let mut old = Vec::new();
        for reader in &mut self.readers {
            old.extend(reader.waiting.extract_if(.., |fetch| fetch.since_ms < before_ms));
        }
        if self.progress_ms >= before_ms {
            return old;
        }
        for _ in 0..self.behind.len() {
            let Some(one) = self.behind.pop_front() else { break };
            if one.2.since_ms < before_ms { old.push(one.2) } else { self.behind.push_back(one) }
        }
        old
    }

    /// A queue is not served any more under this number: its fetches are given back.
    pub(super) fn forget(&mut self, queue: QueueId) -> Vec<Fetch<T>> {
        let mut given_back = Vec::new();
        for reader in &mut self.readers {
            reader.topics.forget(queue);
            if matches!(&reader.state, State::Reading(reading) if reading.key.queue == queue) {
                given_back.append(&mut reader.waiting);
            }
        }
        let (of_queue, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.behind).into_iter().partition(|(key, ..)| key.queue == queue);
        self.behind = rest;
        given_back.extend(of_queue.into_iter().map(|(_, _, fetch)| fetch));
        given_back
    }

    /// The next partition whose records restart at a smaller offset.
    pub(super) fn poll_gone_back(&mut self) -> Option<PartitionKey> {
        self.gone_back.pop()
    }

    /// Retires the readers of a partition that has gone back, and returns their waiting fetches.
    pub(super) fn go_back(&mut self, key: PartitionKey) -> Vec<Fetch<T>> {
        let mut fetches = Vec::new();
        for reader in &mut self.readers {
            if let State::Reading(reading) = &mut reader.state
                && reading.key == key
            {
                reading.is_stale = true;
                fetches.append(&mut reader.waiting);
            }
        }
        fetches
    }

    /// Retires the readers of a partition; other readers serve their waiting fetches, from Kafka.
    pub(super) fn read_again(&mut self, key: PartitionKey) {
        for reader in &mut self.readers {
            if let State::Reading(reading) = &mut reader.state
                && reading.key == key
            {
                reading.is_stale = true;
                let waiting = reader.waiting.drain(..);
                self.behind.extend(waiting.map(|fetch| (key, reading.info.clone(), fetch)));
            }
        }
    }

    /// Fetches that wait.
    pub(super) fn waiting(&self) -> usize {
        self.behind.len() + self.readers.iter().map(|reader| reader.waiting.len()).sum::<usize>()
    }
}

impl<T> Reader<T> {
    fn start(
        &mut self,
        now: Now,
        key: PartitionKey,
        info: &Arc<TopicInfo>,
        from: u64,
        reads: Reads,
    ) -> Result<(), StoreFault> {
        let Some(Connected { messages, handle, .. }) = &self.connected else {
            return Err(StoreFault::Unavailable("Kafka cannot be read now"));
        };
        let report = |trouble: Trouble| trouble.report("read older messages");
        let topic = self.topics.get(handle, key.queue, info).map_err(report)?.clone();
        topic.start(i32::from(key.partition), info.layout.of_kafka(from), messages).map_err(report)?;
        self.state = State::Reading(Box::new(Reading {
            key,
            topic,
            info: info.clone(),
            from,
            window: Window::new(info.layout.record_start(from)),
            batches: Batches::new(info.clone(), key.partition, reads),
            is_stale: false,
            brought: 0,
            used_ms: now.mono_ms,
        }));
        Ok(())
    }
}

impl Reading {
    /// Whether a fetch from there on is served from here.
    fn serves(&self, key: PartitionKey, from: u64) -> bool {
        self.key == key && !self.is_stale && self.window.covers(from)
    }

    /// Takes what librdkafka has read ahead; false where that is nothing.
    fn advance(&mut self, now: Now, queue: &Queue) -> bool {
        let Self { key, topic, info, from, window, batches, is_stale, .. } = self;
        let of = (topic.number(), i32::from(key.partition));
        let count = queue.consume(|message| {
            if message.from() != of || *is_stale {
                return;
            }
            match message.trouble() {
                // librdkafka goes back to the oldest record where its position is out of range (`auto.offset.reset`). A position
                // that is gone because it is too old leads forward.
                None => *is_stale = !batches.push(now, &message, window),
                Some(trouble) if trouble.code == RDKafkaErrorCode::PartitionEOF => {
                    batches.close(window);
                    let end = info.layout.offset(message.offset());
                    *is_stale = end < window.end() || end < *from;
                    window.advance(end);
                }
                Some(trouble) => tracing::debug!(?key, %trouble, "a reader"),
            }
        });
        batches.close(window);
        count > 0
    }
}

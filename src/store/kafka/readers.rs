//! Reads messages older than the tails with a few readers, which each have one position and move from one to
//! the next.
//!
//! A reader keeps the last part of what it has read, so that consumers near each other share it, and
//! librdkafka reads ahead. It serves every fetch near its position. While others wait for a reader, it moves
//! once it has brought `STAY_BYTES` or had no fetch for `IDLE` (`stay`).

use std::sync::Arc;

use super::batches::Reads;
use super::chores::{Chore, Role};
use super::client::Consumer;
use super::native::{Event, Handle, Trouble};
use super::news::News;
use super::stay::{STAY_BYTES, Stay};
use super::topics::TopicInfo;
use crate::base::batch::Fetched;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::base::queue::{PartitionKey, QueueId};
use crate::base::units::Offset;
use crate::store::fetch::Fetch;
use crate::store::waiting::Waiting;

/// How much a reader keeps of what it has read, in bytes.
pub const WINDOW_BYTES: usize = 8 << 20;

const _: () = assert!(STAY_BYTES <= WINDOW_BYTES, "a stay fits into its window");

#[derive(Debug)]
enum ReaderState {
    /// Its handle is being created.
    Making,
    /// Its handle could not be created.
    Unmade,
    Idle,
    Reading(Box<Stay>),
    /// Its partition is being stopped.
    Stopping,
}

#[derive(Debug)]
struct Reader<T> {
    state: ReaderState,
    /// The fetches that its stay serves. Invariant: empty in any other state.
    waiting: Waiting<T>,
    consumer: Option<Consumer>,
}

/// The partition of a fetch that waits for a reader.
#[derive(Debug)]
struct Behind {
    key: PartitionKey,
    info: Arc<TopicInfo>,
}

/// The readers of a shard.
#[derive(Debug)]
pub(super) struct Readers<T> {
    /// The readers. Invariant: at most `max`.
    readers: Vec<Reader<T>>,
    max: usize,
    /// The fetches without a reader near them.
    behind: Waiting<T, Behind>,
    /// When a reader last brought messages, by the monotonic clock.
    progress: Millis,
    reads: Reads,
    /// Partitions whose records restarted at a smaller offset, not taken yet.
    gone_back: Vec<PartitionKey>,
}

impl<T: Copy + Eq> Readers<T> {
    /// Creates at most `max` readers, when they are needed.
    pub(super) fn new(max: usize, reads: Reads) -> Self {
        Self {
            readers: Vec::new(),
            max,
            behind: Waiting::default(),
            progress: Millis::ZERO,
            reads,
            gone_back: Vec::new(),
        }
    }

    /// Accepts a fetch of messages older than the tail.
    pub(super) fn fetch(&mut self, now: Now, key: PartitionKey, info: Arc<TopicInfo>, fetch: Fetch<T>) {
        for reader in &mut self.readers {
            if let ReaderState::Reading(stay) = &mut reader.state
                && stay.serves(key, fetch.from)
            {
                stay.used = now.mono;
                return reader.waiting.push(fetch);
            }
        }
        self.behind.push_with(Behind { key, info }, fetch);
    }

    /// Continues reading where fetches wait, and answers them.
    pub(super) fn poll(&mut self, now: Now, mut answer: impl FnMut(Fetch<T>, Fetched)) {
        for reader in &mut self.readers {
            let Some(Consumer { messages, .. }) = &reader.consumer else { continue };
            let ReaderState::Reading(stay) = &mut reader.state else {
                debug_assert!(reader.waiting.is_empty(), "fetches wait for {:?}", reader.state);
                continue;
            };
            while !stay.is_stale {
                reader.waiting.serve(|(), fetch| {
                    let fetched = stay.window.read(now, &fetch);
                    // This is the end of what was read, but not of the partition.
                    if fetched.batches.is_empty() && fetched.at_end && fetched.next <= fetch.from {
                        return Some(fetch);
                    }
                    stay.used = now.mono;
                    self.progress = now.mono;
                    stay.brought +=
                        fetched.batches.iter().map(|stored| stored.batch.stored_bytes()).sum::<usize>();
                    answer(fetch, Fetched { at_end: false, ..fetched });
                    None
                });
                // Waiting fetches have got everything so far, so this drops nothing unread.
                stay.window.keep(WINDOW_BYTES);
                if reader.waiting.is_empty() || !stay.advance(now, messages) {
                    break;
                }
                if stay.is_stale {
                    self.gone_back.push(stay.key);
                }
            }
        }
    }

    /// Assigns readers to the fetches that wait for one.
    pub(super) fn assign(
        &mut self,
        now: Now,
        chores: &mut Vec<Chore>,
        mut fail: impl FnMut(Fetch<T>, StoreFault),
    ) {
        let Self { readers, behind, reads, .. } = self;
        behind.serve(|Behind { key, info }, fetch| {
            let is_near = |reader: &&mut Reader<T>| matches!(&reader.state, ReaderState::Reading(stay) if stay.serves(*key, fetch.from));
            if let Some(reader) = readers.iter_mut().find(is_near) {
                reader.waiting.push(fetch);
                return None;
            }
            let idle = readers.iter_mut().find(|reader| matches!(reader.state, ReaderState::Idle));
            let Some(reader) = idle else { return Some(fetch) };
            match reader.start(now, *key, info, fetch.from, reads.clone()) {
                Err(fault) => fail(fetch, fault),
                // From here on the fetch waits for Kafka.
                Ok(()) => reader.waiting.push(Fetch { since: now.mono, ..fetch }),
            }
            None
        });
        self.free(now, chores);
    }

    /// Creates readers, or makes readers end their stay, for the fetches that still wait for one.
    fn free(&mut self, now: Now, chores: &mut Vec<Chore>) {
        if self.behind.is_empty() {
            return;
        }
        let is_coming = |reader: &&Reader<T>| {
            matches!(reader.state, ReaderState::Making | ReaderState::Unmade | ReaderState::Stopping)
        };
        let coming = self.readers.iter().filter(is_coming).count();
        for _ in coming..self.behind.len() {
            if self.readers.len() < self.max {
                chores.push(Chore::Make(Role::Reader(self.readers.len())));
                self.readers.push(Reader {
                    state: ReaderState::Making,
                    waiting: Waiting::default(),
                    consumer: None,
                });
                continue;
            }
            debug_assert_eq!(self.readers.len(), self.max);
            let may_leave = |reader: &Reader<T>| {
                reader.waiting.is_empty()
                    && matches!(&reader.state, ReaderState::Reading(stay) if stay.is_over(now))
            };
            let Some(index) = self.readers.iter().position(may_leave) else { return };
            let state = &mut self.readers[index].state;
            let ReaderState::Reading(stay) = std::mem::replace(state, ReaderState::Stopping) else { return };
            chores.push(Chore::StopReader(index, stay.topic, stay.key.partition));
        }
    }

    /// Gives a reader its handle.
    pub(super) fn handle_made(&mut self, index: usize, handle: Handle, news: &Arc<News>) {
        if let Some(reader) = self.readers.get_mut(index) {
            reader.consumer = Consumer::new(handle, news);
            reader.state = ReaderState::Idle;
        }
    }

    /// Records that a reader's handle could not be created.
    pub(super) fn handle_not_made(&mut self, index: usize) {
        if let Some(reader) = self.readers.get_mut(index) {
            reader.state = ReaderState::Unmade;
        }
    }

    /// Tries again to create handles.
    pub(super) fn retry(&mut self, chores: &mut Vec<Chore>) {
        for (index, reader) in self.readers.iter_mut().enumerate() {
            if matches!(reader.state, ReaderState::Unmade) {
                reader.state = ReaderState::Making;
                chores.push(Chore::Make(Role::Reader(index)));
            }
        }
    }

    /// Returns the next event of a reader's client.
    pub(super) fn poll_event(&self) -> Option<Event> {
        self.readers.iter().find_map(|reader| reader.consumer.as_ref()?.client.events.poll())
    }

    /// Handles that a reader stopped reading its partition.
    pub(super) fn handle_stopped(&mut self, index: usize) {
        if let Some(reader) = self.readers.get_mut(index) {
            reader.state = ReaderState::Idle;
        }
    }

    /// Removes a fetch.
    pub(super) fn cancel(&mut self, token: T) -> Option<Fetch<T>> {
        let behind = self.behind.cancel(token);
        behind.or_else(|| self.readers.iter_mut().find_map(|reader| reader.waiting.cancel(token)))
    }

    /// Removes the fetches whose reader has brought nothing since a time before `before`. Also removes those
    /// that have waited for a reader as long, if no reader has brought anything.
    pub(super) fn take_unanswered(&mut self, before: Millis) -> Vec<Fetch<T>> {
        let mut old = Vec::new();
        for reader in &mut self.readers {
            old.extend(reader.waiting.take_older(before));
        }
        if self.progress < before {
            old.extend(self.behind.take_older(before));
        }
        old
    }

    /// Removes the fetches of a queue that the server no longer serves.
    pub(super) fn forget(&mut self, queue: QueueId) -> Vec<Fetch<T>> {
        let mut removed = Vec::new();
        for reader in &mut self.readers {
            if let Some(consumer) = &mut reader.consumer {
                consumer.client.topics.forget(queue);
            }
            if matches!(&reader.state, ReaderState::Reading(stay) if stay.key.queue == queue) {
                removed.extend(reader.waiting.take());
            }
        }
        removed.extend(self.behind.take_if(|behind, _| behind.key.queue == queue));
        removed
    }

    /// Returns the next partition whose records restarted at a smaller offset.
    pub(super) fn poll_gone_back(&mut self) -> Option<PartitionKey> {
        self.gone_back.pop()
    }

    /// Ends the stays at a partition that has gone back, and removes their waiting fetches.
    pub(super) fn go_back(&mut self, key: PartitionKey) -> Vec<Fetch<T>> {
        let mut fetches = Vec::new();
        for reader in &mut self.readers {
            if reader.retire(key) {
                fetches.extend(reader.waiting.take());
            }
        }
        fetches
    }

    /// Ends the stays at a partition. Other readers serve their waiting fetches, reading from Kafka again.
    pub(super) fn read_again(&mut self, key: PartitionKey) {
        for reader in &mut self.readers {
            if reader.retire(key)
                && let ReaderState::Reading(stay) = &reader.state
            {
                for fetch in reader.waiting.take() {
                    self.behind.push_with(Behind { key, info: stay.info.clone() }, fetch);
                }
            }
        }
    }

    /// Returns the number of waiting fetches.
    pub(super) fn waiting(&self) -> usize {
        self.behind.len() + self.readers.iter().map(|reader| reader.waiting.len()).sum::<usize>()
    }
}

impl<T> Reader<T> {
    /// Marks its stay as stale if it is at this partition. Returns whether it is.
    fn retire(&mut self, key: PartitionKey) -> bool {
        match &mut self.state {
            ReaderState::Reading(stay) if stay.key == key => {
                stay.is_stale = true;
                true
            }
            _ => false,
        }
    }

    /// Begins a stay at `from`.
    fn start(
        &mut self,
        now: Now,
        key: PartitionKey,
        info: &Arc<TopicInfo>,
        from: Offset,
        reads: Reads,
    ) -> Result<(), StoreFault> {
        let Some(Consumer { messages, client }) = &mut self.consumer else {
            return Err(StoreFault::Unavailable("Kafka cannot be read now"));
        };
        let report = |trouble: Trouble| trouble.report("read older messages");
        let topic = client.topics.get(&client.handle, key.queue, info).map_err(report)?.clone();
        topic.start(key.partition, info.layout.of_kafka(from), messages).map_err(report)?;
        self.state = ReaderState::Reading(Box::new(Stay::new(now, key, topic, info.clone(), from, reads)));
        Ok(())
    }
}

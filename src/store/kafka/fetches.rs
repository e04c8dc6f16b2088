//! A shard's fetches, and its questions for offsets: each fetch goes to the tail of its partition, to a
//! reader, or to `ahead`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ahead::Ahead;
use super::batches::Reads;
use super::chores::Chore;
use super::client::Client;
use super::native::{Event, Handle, PartitionOffset, Trouble};
use super::news::News;
use super::offsets::{Answer, Offsets, Why};
use super::queues::Queues;
use super::readers::Readers;
use super::tails::{AtTail, Tails};
use super::topics::forgotten;
use crate::base::batch::Fetched;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::base::queue::{PartitionKey, Position, QueueId};
use crate::base::units::Offset;
use crate::store::fetch::Fetch;
use crate::store::{Asker, Completion};

/// How much memory and how many clients a shard uses for reading.
#[derive(Debug)]
pub(super) struct Extent {
    /// The size of all tails together, in bytes.
    pub tail_bytes: usize,
    /// The number of readers.
    pub readers: usize,
}

/// The fetches of a shard.
#[derive(Debug)]
pub(super) struct Fetches<T: Asker> {
    pub tails: Tails<T::Fetch>,
    readers: Readers<T::Fetch>,
    ahead: Ahead<T::Fetch>,
    offsets: Offsets<T::Resolve>,
    /// The number of records that were too large to serve.
    passed_over: Arc<AtomicU64>,
    completions: VecDeque<Completion<T>>,
    /// Blocking work that was not yet taken.
    chores: Vec<Chore>,
    /// Whether there is work that no event announces.
    has_more: bool,
}

impl<T: Asker> Fetches<T> {
    pub(super) fn new(extent: &Extent, reads: Reads) -> Self {
        Self {
            passed_over: reads.passed_over.clone(),
            tails: Tails::new(extent.tail_bytes, reads.clone()),
            readers: Readers::new(extent.readers, reads),
            ahead: Ahead::new(),
            offsets: Offsets::new(),
            completions: VecDeque::new(),
            chores: Vec::new(),
            has_more: false,
        }
    }

    /// Accepts a fetch.
    pub(super) fn fetch(
        &mut self,
        now: Now,
        key: PartitionKey,
        fetch: Fetch<T::Fetch>,
        queues: &mut Queues<T>,
    ) {
        self.place(now, key, fetch, false, queues);
    }

    /// Passes a fetch to the tail, a reader or `ahead`. `is_reached` says that since the fetch arrived, Kafka
    /// has confirmed that the partition reaches its offset.
    fn place(
        &mut self,
        now: Now,
        key: PartitionKey,
        fetch: Fetch<T::Fetch>,
        is_reached: bool,
        queues: &mut Queues<T>,
    ) {
        let Some(info) = queues.topic(key.queue) else { return self.answer(fetch.token, Err(forgotten())) };
        self.chores.extend(self.tails.make());
        match self.tails.place(now, key, fetch, is_reached) {
            AtTail::Answered(fetch, fetched) => self.answer(fetch.token, Ok(fetched)),
            AtTail::Waits { ask_end: false } => {}
            AtTail::Waits { ask_end: true } => self.offsets.ask_end(key),
            AtTail::Behind(fetch) => {
                self.readers.fetch(now, key, info.clone(), fetch);
                self.has_more = true;
            }
            AtTail::Ahead(fetch) => {
                self.ahead.push(key, fetch, self.offsets.asked());
                self.offsets.ask_ahead(key);
                self.has_more = true;
            }
        }
    }

    /// Asks for the offset of a position.
    pub(super) fn resolve(&mut self, token: T::Resolve, key: PartitionKey, position: Position) {
        self.offsets.resolve(token, key, position);
    }

    /// Answers a waiting fetch without messages.
    pub(super) fn cancel(&mut self, token: T::Fetch, key: PartitionKey) {
        let fetch = self.tails.cancel(key, token).or_else(|| self.readers.cancel(token));
        if let Some(fetch) = fetch.or_else(|| self.ahead.cancel(token)) {
            self.answer(token, Ok(Fetched { next: fetch.from, ..Fetched::default() }));
        }
    }

    fn answer(&mut self, token: T::Fetch, result: Result<Fetched, StoreFault>) {
        self.completions.push_back(Completion::Fetched { token, result });
    }

    /// Handles what librdkafka has read, answers fetches, and moves readers.
    pub(super) fn work(&mut self, now: Now, queues: &mut Queues<T>) {
        let completions = &mut self.completions;
        let mut answer = |fetch: Fetch<T::Fetch>, fetched| {
            completions.push_back(Completion::Fetched { token: fetch.token, result: Ok(fetched) });
        };
        self.has_more |= self.tails.poll(now, &mut answer);
        self.readers.poll(now, answer);
        while let Some(queue) = self.tails.poll_suspect() {
            queues.suspect(queue);
        }
        while let Some(key) = self.tails.poll_gone_back().or_else(|| self.readers.poll_gone_back()) {
            self.go_back(now, key, queues);
        }
        self.assign(now);
    }

    fn assign(&mut self, now: Now) {
        let Self { readers, chores, completions, .. } = self;
        readers.assign(now, chores, |fetch, fault| {
            completions.push_back(Completion::Fetched { token: fetch.token, result: Err(fault) });
        });
    }

    /// Handles a partition whose records restart at a smaller offset, because librdkafka's position was
    /// beyond the end. Its tail and its readers start again. Their fetches are answered as rewound once the
    /// topic is proven to be the same.
    fn go_back(&mut self, now: Now, key: PartitionKey, queues: &mut Queues<T>) {
        queues.suspect(key.queue);
        let (mut fetches, stops) = self.tails.go_back(key);
        self.chores.extend(stops);
        fetches.extend(self.readers.go_back(key));
        for fetch in fetches {
            self.ahead.push_gone_back(now, key, fetch, self.offsets.asked());
        }
        if self.ahead.is_wanted(key) {
            self.offsets.ask_ahead(key);
        }
    }

    /// Asks `client` for the wanted offsets.
    pub(super) fn ask(&mut self, now: Now, client: Option<&Client>, queues: &mut Queues<T>) {
        self.offsets.ask(client, |queue| queues.topic(queue).cloned());
        // Some cannot be asked for, and are answered immediately.
        self.handle_answers(now, queues);
    }

    /// Handles Kafka's answer about offsets.
    pub(super) fn handle_offsets(
        &mut self,
        now: Now,
        asked: usize,
        result: Result<Vec<PartitionOffset>, Trouble>,
        queues: &mut Queues<T>,
    ) {
        self.offsets.handle_answer(asked, result);
        self.handle_answers(now, queues);
    }

    fn handle_answers(&mut self, now: Now, queues: &mut Queues<T>) {
        while let Some(Answer { why, asked, result }) = self.offsets.poll() {
            match (why, result) {
                (Why::Resolve(token), result) => {
                    self.completions.push_back(Completion::Resolved { token, result });
                }
                (Why::Tail(key), Ok(end)) => self.start_tail(now, key, end, queues),
                // The tick fails fetches that wait too long for it.
                (Why::Tail(key), Err(_))
                    if self.tails.is_wanted(key) && queues.topic(key.queue).is_some() =>
                {
                    self.offsets.ask_end_later(key);
                }
                (Why::Ahead(key), Ok(end)) => self.settle(now, key, asked, end, queues),
                (Why::Ahead(key), Err(_))
                    if self.ahead.is_wanted(key) && queues.topic(key.queue).is_some() =>
                {
                    self.offsets.ask_ahead_later(key);
                }
                (Why::Tail(_) | Why::Ahead(_), Err(_)) => {}
            }
        }
    }

    fn start_tail(&mut self, now: Now, key: PartitionKey, end: Offset, queues: &mut Queues<T>) {
        let Some(info) = queues.topic(key.queue) else { return };
        match self.tails.start(now, key, end, info.clone()) {
            Ok(Some(fetches)) => fetches.into_iter().for_each(|fetch| self.fetch(now, key, fetch, queues)),
            Ok(None) => self.offsets.ask_end_later(key),
            Err(trouble) => {
                tracing::warn!(?key, %trouble, "read of a partition failed");
                self.offsets.ask_end_later(key);
            }
        }
    }

    /// Handles Kafka's answer about a partition's end, for the fetches beyond the tail.
    fn settle(&mut self, now: Now, key: PartitionKey, asked: usize, end: Offset, queues: &mut Queues<T>) {
        let settled = self.ahead.settle(now, key, asked, end);
        if settled.is_new {
            // If the topic is a new one with the same name, this is not a rewind.
            queues.suspect(key.queue);
        }
        if settled.asks_again {
            self.offsets.ask_ahead_later(key);
        }
        for fetch in settled.reached {
            self.place(now, key, fetch, true, queues);
        }
        if !settled.rewound.is_empty() {
            // The readers' windows may be older than the rewind.
            self.readers.read_again(key);
        }
        for fetch in settled.rewound {
            self.answer_rewound(key, &fetch, end, queues);
        }
    }

    /// Answers a fetch whose position is beyond the end: its partition has gone back. The consumer continues
    /// at the oldest message that is left. Nothing proves which messages it has seen: the log may have grown
    /// again since, and markers hold no leader epoch.
    fn answer_rewound(
        &mut self,
        key: PartitionKey,
        fetch: &Fetch<T::Fetch>,
        end: Offset,
        queues: &mut Queues<T>,
    ) {
        let topic = queues.topic(key.queue).map(|info| info.name.to_string_lossy().into_owned());
        tracing::warn!(
            topic,
            partition = key.partition.0,
            position = fetch.from.0,
            end = end.0,
            "a partition has gone back to before a consumer's position (an unclean leader election, or a restored backup); the \
             consumer restarts at the oldest message"
        );
        self.answer(fetch.token, Ok(Fetched::rewound()));
    }

    /// Returns the next event of the tails' client or of a reader.
    pub(super) fn poll_event(&self) -> Option<Event> {
        self.tails.poll_event().or_else(|| self.readers.poll_event())
    }

    /// Handles the handle of the tails' client, or the failure to create it.
    pub(super) fn handle_tails_made(&mut self, now: Now, handle: Option<Handle>, news: &Arc<News>) {
        match handle {
            Some(handle) => {
                self.tails.handle_made(handle, news);
                self.offsets.retry();
            }
            None => self.tails.handle_not_made(),
        }
        self.assign(now);
    }

    /// Handles the handle of a reader, or the failure to create it.
    pub(super) fn handle_reader_made(
        &mut self,
        now: Now,
        index: usize,
        handle: Option<Handle>,
        news: &Arc<News>,
    ) {
        match handle {
            Some(handle) => self.readers.handle_made(index, handle, news),
            None => self.readers.handle_not_made(index),
        }
        self.assign(now);
    }

    /// Handles that a tail stopped reading its partition. `number` is the number of its topic.
    pub(super) fn handle_tail_stopped(&mut self, now: Now, key: PartitionKey, number: usize) {
        if self.tails.handle_stopped(key, number) {
            self.offsets.ask_end(key);
        }
        self.assign(now);
    }

    /// Handles that a reader stopped reading its partition.
    pub(super) fn handle_reader_stopped(&mut self, now: Now, index: usize) {
        self.readers.handle_stopped(index);
        self.assign(now);
    }

    /// Handles the loss of the client that was asked for offsets, and so of its answers.
    pub(super) fn handle_client_lost(&mut self) {
        self.offsets.handle_client_lost();
    }

    /// Fails fetches that have waited for Kafka since a time before `before`, stops unused tails, and
    /// retries.
    pub(super) fn handle_tick(&mut self, now: Now, before: Millis) {
        self.chores.extend(self.tails.stop_unused(now));
        let mut unanswered = self.tails.take_unanswered(before);
        unanswered.extend(self.readers.take_unanswered(before));
        unanswered.extend(self.ahead.take_unanswered(before));
        for fetch in unanswered {
            let why = "Kafka does not answer: no broker, or no leader of the partition, is reachable";
            self.answer(fetch.token, Err(StoreFault::Unavailable(why)));
        }
        self.tails.trim();
        self.readers.retry(&mut self.chores);
        self.offsets.retry();
    }

    /// Fails the fetches of a queue that the server no longer serves.
    pub(super) fn forget(&mut self, queue: QueueId) {
        let (fetches, stops) = self.tails.forget(queue);
        self.chores.extend(stops);
        for fetch in fetches.into_iter().chain(self.readers.forget(queue)).chain(self.ahead.forget(queue)) {
            let why = "the queue's topic was deleted, recreated, or has other partitions now";
            self.answer(fetch.token, Err(StoreFault::Unavailable(why)));
        }
    }

    /// Takes the chores, in order.
    pub(super) fn take_chores(&mut self) -> Vec<Chore> {
        std::mem::take(&mut self.chores)
    }

    /// Returns whether there is work that no event announces, and resets the flag.
    pub(super) fn take_more(&mut self) -> bool {
        std::mem::take(&mut self.has_more)
    }

    /// Returns the next completion.
    pub(super) fn poll(&mut self) -> Option<Completion<T>> {
        self.completions.pop_front()
    }

    /// Returns whether ticks have nothing to do here.
    pub(super) fn is_idle(&self) -> bool {
        self.tails.is_idle()
            && self.offsets.is_idle()
            && self.readers.waiting() == 0
            && self.ahead.waiting() == 0
    }

    /// Returns the number of waiting fetches.
    pub(super) fn waiting(&self) -> usize {
        self.tails.waiting() + self.readers.waiting() + self.ahead.waiting()
    }

    /// Returns how often a record was too large to serve. A record counts each time that it is read.
    pub(super) fn passed_over(&self) -> u64 {
        self.passed_over.load(Ordering::Relaxed)
    }
}

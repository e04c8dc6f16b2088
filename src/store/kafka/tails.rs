//! The ends of partitions. Each is read once, whatever the number of consumers, and kept in memory within a
//! limit.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::TICK;
use super::batches::{Batches, Reads};
use super::chores::{Chore, Role};
use super::client::Consumer;
use super::native::{Event, Handle, Topic, Trouble};
use super::news::News;
use super::topics::TopicInfo;
use crate::base::batch::Fetched;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::queue::{PartitionKey, QueueId};
use crate::base::units::{Offset, Partition};
use crate::store::fetch::Fetch;
use crate::store::waiting::Waiting;
use crate::store::window::Window;

/// How long a tail runs without a fetch.
const UNUSED: Millis = Millis::new(10_000);

const _: () = assert!(TICK.get() < UNUSED.get());

/// The most messages that are taken from librdkafka before fetches are answered.
const MESSAGES_PER_LOOK: usize = 4096;

/// What happened to a fetch at the tail of its partition.
#[derive(Debug)]
pub(super) enum AtTail<T> {
    /// It is answered with these messages.
    Answered(Fetch<T>, Fetched),
    /// It waits. If `ask_end`, Kafka must be asked for the partition's end.
    Waits { ask_end: bool },
    /// It is returned, because it wants older messages.
    Behind(Fetch<T>),
    /// It is returned, because its offset is beyond the tail's end. Kafka must be asked whether the
    /// partition reaches it.
    Ahead(Fetch<T>),
}

#[derive(Debug)]
enum TailState {
    /// Kafka is being asked for its start.
    Asking,
    Running(Box<Running>),
    /// Its partition is being stopped.
    Stopping,
}

/// The client of the tails.
#[derive(Debug)]
enum TailsClient {
    Absent,
    /// Its handle is being created.
    Making,
    Made(Consumer),
}

#[derive(Debug)]
struct Running {
    topic: Arc<Topic>,
    window: Window,
    batches: Batches,
}

#[derive(Debug)]
struct Tail<T> {
    state: TailState,
    waiting: Waiting<T>,
    /// When it last had a fetch or began, by the monotonic clock.
    used: Millis,
}

/// The tails of a shard.
#[derive(Debug)]
pub(super) struct Tails<T> {
    tails: HashMap<PartitionKey, Tail<T>>,
    /// The running tails, by topic number and partition.
    by_number: HashMap<(usize, Partition), PartitionKey>,
    client: TailsClient,
    /// The partitions that are being stopped, which cannot start again before that is done. None of them is
    /// in `by_number`.
    stopping: HashSet<(usize, Partition)>,
    bytes_max: usize,
    reads: Reads,
    /// Queues whose topics Kafka no longer knows, not taken yet.
    suspects: Vec<QueueId>,
    /// Partitions whose records restarted at a smaller offset, not taken yet.
    gone_back: Vec<PartitionKey>,
}

impl<T: Copy + Eq> Tails<T> {
    /// Creates tails that keep at most `bytes_max` together.
    pub(super) fn new(bytes_max: usize, reads: Reads) -> Self {
        Self {
            tails: HashMap::new(),
            by_number: HashMap::new(),
            client: TailsClient::Absent,
            stopping: HashSet::new(),
            bytes_max,
            reads,
            suspects: Vec::new(),
            gone_back: Vec::new(),
        }
    }

    /// Returns the chore that creates the client, unless it exists or is being created.
    pub(super) fn make(&mut self) -> Option<Chore> {
        if !matches!(self.client, TailsClient::Absent) {
            return None;
        }
        self.client = TailsClient::Making;
        Some(Chore::Make(Role::Tails))
    }

    /// Creates the client from its handle.
    pub(super) fn handle_made(&mut self, handle: Handle, news: &Arc<News>) {
        if let Some(consumer) = Consumer::new(handle, news) {
            self.client = TailsClient::Made(consumer);
        }
    }

    /// Handles that the client's handle could not be created. The next fetch requests it again.
    pub(super) fn handle_not_made(&mut self) {
        self.client = TailsClient::Absent;
    }

    /// Answers a fetch, lets it wait, or returns it. `is_reached` states whether, since the fetch arrived,
    /// Kafka has confirmed that the partition reaches its offset.
    pub(super) fn place(
        &mut self,
        now: Now,
        key: PartitionKey,
        fetch: Fetch<T>,
        is_reached: bool,
    ) -> AtTail<T> {
        let (tail, is_new) = match self.tails.entry(key) {
            Entry::Occupied(known) => (known.into_mut(), false),
            Entry::Vacant(vacant) => {
                let waiting = Waiting::default();
                (vacant.insert(Tail { state: TailState::Asking, waiting, used: Millis::ZERO }), true)
            }
        };
        tail.used = now.mono;
        if let TailState::Running(running) = &tail.state {
            let window = &running.window;
            if fetch.from < window.start() {
                return AtTail::Behind(fetch);
            }
            if fetch.from > window.end() && !is_reached {
                return AtTail::Ahead(fetch);
            }
            let mut fetched = window.read(now, &fetch);
            // A reader was faster than the tail: the consumer must not get that part again.
            fetched.next = fetched.next.max(fetch.from);
            if !fetch.wait || !fetched.batches.is_empty() || !fetched.at_end {
                return AtTail::Answered(fetch, fetched);
            }
        }
        tail.waiting.push(fetch);
        AtTail::Waits { ask_end: is_new }
    }

    /// Starts a tail at the end of its partition. Returns the fetches that must be placed again. Returns
    /// `None` if the tail cannot start now; then the end must be asked for again.
    pub(super) fn start(
        &mut self,
        now: Now,
        key: PartitionKey,
        end: Offset,
        info: Arc<TopicInfo>,
    ) -> Result<Option<Vec<Fetch<T>>>, Trouble> {
        let Some(tail) = self.tails.get_mut(&key).filter(|tail| matches!(tail.state, TailState::Asking))
        else {
            return Ok(Some(Vec::new()));
        };
        let TailsClient::Made(Consumer { messages: queue, client }) = &mut self.client else {
            return Ok(None);
        };
        let topic = client.topics.get(&client.handle, key.queue, &info)?.clone();
        let partition = key.partition;
        if self.stopping.contains(&(topic.number(), partition)) {
            return Ok(None);
        }
        topic.start(partition, info.layout.of_kafka(end), queue)?;
        self.by_number.insert((topic.number(), partition), key);
        debug_assert!(self.stopping.iter().all(|number| !self.by_number.contains_key(number)));
        let batches = Batches::new(info, key.partition, self.reads.clone());
        tail.state = TailState::Running(Box::new(Running { topic, window: Window::new(end), batches }));
        tail.used = now.mono;
        Ok(Some(tail.waiting.take().collect()))
    }

    /// Handles what librdkafka has read, and answers waiting fetches. Returns true if there may be more.
    pub(super) fn poll(&mut self, now: Now, mut answer: impl FnMut(Fetch<T>, Fetched)) -> bool {
        let TailsClient::Made(Consumer { messages: queue, .. }) = &self.client else { return false };
        let mut touched: Vec<PartitionKey> = Vec::new();
        let mut taken = 0;
        let mut count = 1;
        while taken < MESSAGES_PER_LOOK && count > 0 {
            count = queue.consume(|message| {
                let Some(key) = self.by_number.get(&message.from()).copied() else { return };
                let Some(tail) = self.tails.get_mut(&key) else { return };
                let TailState::Running(running) = &mut tail.state else { return };
                let Running { window, batches, .. } = &mut **running;
                if touched.last() != Some(&key) {
                    touched.push(key);
                }
                if let Some(trouble) = message.trouble() {
                    tracing::debug!(?key, %trouble, "a tail");
                    if trouble.is_unknown() {
                        self.suspects.push(key.queue);
                    }
                    return;
                }
                // librdkafka goes back to the oldest record if its position is out of range
                // (`auto.offset.reset`).
                if !batches.push(now, &message, window) && !self.gone_back.contains(&key) {
                    self.gone_back.push(key);
                }
            });
            taken += count;
        }
        touched.sort_unstable();
        touched.dedup();
        let share = self.share();
        for key in touched {
            let Some(tail) = self.tails.get_mut(&key) else { continue };
            let TailState::Running(running) = &mut tail.state else { continue };
            let Running { window, batches, .. } = &mut **running;
            batches.close(window);
            tail.waiting.serve(|(), mut fetch| {
                let fetched = window.read(now, &fetch);
                if fetched.batches.is_empty() && fetched.at_end {
                    fetch.from = fetch.from.max(fetched.next);
                    return Some(fetch);
                }
                answer(fetch, fetched);
                None
            });
            window.keep(share);
        }
        count > 0
    }

    fn share(&self) -> usize {
        self.bytes_max / self.tails.len().max(1)
    }

    /// Removes tails that have not begun and for which no fetch waits, and reduces the others to their share
    /// of the memory.
    pub(super) fn trim(&mut self) {
        self.tails.retain(|_, tail| !(matches!(tail.state, TailState::Asking) && tail.waiting.is_empty()));
        let share = self.share();
        for tail in self.tails.values_mut() {
            if let TailState::Running(running) = &mut tail.state {
                running.window.keep(share);
            }
        }
    }

    /// Returns whether a fetch waits until the end of a partition is known.
    pub(super) fn is_wanted(&self, key: PartitionKey) -> bool {
        self.tails
            .get(&key)
            .is_some_and(|tail| matches!(tail.state, TailState::Asking) && !tail.waiting.is_empty())
    }

    /// Returns the next event of the client.
    pub(super) fn poll_event(&self) -> Option<Event> {
        match &self.client {
            TailsClient::Made(consumer) => consumer.client.events.poll(),
            TailsClient::Absent | TailsClient::Making => None,
        }
    }

    /// Removes a fetch that waits here.
    pub(super) fn cancel(&mut self, key: PartitionKey, token: T) -> Option<Fetch<T>> {
        self.tails.get_mut(&key)?.waiting.cancel(token)
    }

    /// Stops the tails that had no fetch for a while. Returns the chores for that.
    pub(super) fn stop_unused(&mut self, now: Now) -> Vec<Chore> {
        self.stop(|_, tail| tail.waiting.is_empty() && tail.used + UNUSED <= now.mono)
    }

    fn stop(&mut self, is_over: impl Fn(&PartitionKey, &Tail<T>) -> bool) -> Vec<Chore> {
        let mut stopped = Vec::new();
        for (key, tail) in &mut self.tails {
            if is_over(key, tail)
                && matches!(tail.state, TailState::Running(_))
                && let TailState::Running(running) = std::mem::replace(&mut tail.state, TailState::Stopping)
            {
                let number = (running.topic.number(), key.partition);
                if self.by_number.get(&number) == Some(key) {
                    self.by_number.remove(&number);
                }
                self.stopping.insert(number);
                stopped.push(Chore::StopTail(*key, running.topic));
            }
        }
        stopped
    }

    /// Handles that a tail stopped reading its partition. Returns true if a fetch waits for it, so that the
    /// end must be asked for.
    pub(super) fn handle_stopped(&mut self, key: PartitionKey, number: usize) -> bool {
        self.stopping.remove(&(number, key.partition));
        let Some(tail) = self.tails.get_mut(&key) else { return false };
        tail.state = TailState::Asking;
        if tail.waiting.is_empty() {
            self.tails.remove(&key);
            return false;
        }
        true
    }

    /// Removes the fetches that have waited for the end of a partition since a time before `before`.
    pub(super) fn take_unanswered(&mut self, before: Millis) -> Vec<Fetch<T>> {
        let mut old = Vec::new();
        for tail in self.tails.values_mut().filter(|tail| matches!(tail.state, TailState::Asking)) {
            old.extend(tail.waiting.take_older(before));
        }
        old
    }

    /// Returns the next partition whose records restarted at a smaller offset.
    pub(super) fn poll_gone_back(&mut self) -> Option<PartitionKey> {
        self.gone_back.pop()
    }

    /// Stops the tail of a partition that has gone back, and removes its waiting fetches.
    pub(super) fn go_back(&mut self, key: PartitionKey) -> (Vec<Fetch<T>>, Vec<Chore>) {
        let fetches = match self.tails.get_mut(&key) {
            Some(tail) if matches!(tail.state, TailState::Running(_)) => tail.waiting.take().collect(),
            // Fetches that wait for the end are placed once it is known.
            _ => Vec::new(),
        };
        (fetches, self.stop(|of, _| *of == key))
    }

    /// Returns the next queue whose topic may have changed.
    pub(super) fn poll_suspect(&mut self) -> Option<QueueId> {
        self.suspects.pop()
    }

    /// Removes the fetches of a queue that the server no longer serves, and stops its tails.
    pub(super) fn forget(&mut self, queue: QueueId) -> (Vec<Fetch<T>>, Vec<Chore>) {
        if let TailsClient::Made(consumer) = &mut self.client {
            consumer.client.topics.forget(queue);
        }
        let of_queue = self.tails.iter_mut().filter(|(key, _)| key.queue == queue);
        let fetches = of_queue.flat_map(|(_, tail)| tail.waiting.take()).collect();
        self.tails.retain(|key, tail| key.queue != queue || !matches!(tail.state, TailState::Asking));
        (fetches, self.stop(|key, _| key.queue == queue))
    }

    /// Returns the number of waiting fetches.
    pub(super) fn waiting(&self) -> usize {
        self.tails.values().map(|tail| tail.waiting.len()).sum()
    }

    /// Returns whether no tail exists.
    pub(super) fn is_idle(&self) -> bool {
        self.tails.is_empty()
    }
}

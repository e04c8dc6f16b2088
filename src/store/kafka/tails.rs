//! The ends of partitions: each read once, whatever the number of consumers, and kept in memory as far as there is room.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::batches::{Batches, Reads};
use super::connected::Connected;
use super::native::{Event, Handle, Topic, Trouble};
use super::news::News;
use super::topics::{OfHandle, TopicInfo};
use crate::base::batch::Fetched;
use crate::base::clock::Now;
use crate::base::queue::{PartitionKey, QueueId};
use crate::store::window::{Fetch, Window};

/// How long a tail runs that nobody asks for, milliseconds.
const UNUSED_MS: u64 = 10_000;

/// Messages that are taken from librdkafka before fetches are answered.
const MESSAGES_PER_LOOK: usize = 4096;

/// A partition that is to be stopped, where that may block.
pub(super) type ToStop = (PartitionKey, Arc<Topic>);

/// Where a fetch went.
#[derive(Debug)]
pub(super) enum Place<T> {
    /// It is answered.
    Answered(Fetch<T>, Fetched),
    /// It waits; the end of the partition must be asked for, if that is said.
    Waits { ask_end: bool },
    /// What it wants is older than what is here.
    Behind(Fetch<T>),
    /// Its offset lies beyond the tail's end: Kafka must be asked whether the partition reaches it.
    Ahead(Fetch<T>),
}

#[derive(Debug)]
enum State {
    /// Where it begins is being asked.
    Asking,
    Running(Box<Running>),
    /// It is being stopped.
    Stopping,
}

#[derive(Debug)]
struct Running {
    topic: Arc<Topic>,
    window: Window,
    batches: Batches,
}

#[derive(Debug)]
struct Tail<T> {
    state: State,
    waiting: Vec<Fetch<T>>,
    used_ms: u64,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Tails<T> {
    tails: HashMap<PartitionKey, Tail<T>>,
    by_number: HashMap<(usize, i32), PartitionKey>,
    topics: OfHandle,
    connected: Option<Connected>,
    /// What is being stopped: nothing of it can be started before.
    stopping: HashSet<(usize, i32)>,
    bytes_max: usize,
    reads: Reads,
    /// Queues whose topics Kafka does not know any more.
    suspects: Vec<QueueId>,
    /// Partitions whose records restarted at a smaller offset.
    gone_back: Vec<PartitionKey>,
}

impl<T: Copy + Eq> Tails<T> {
    /// Tails that keep so many bytes together.
    pub(super) fn new(bytes_max: usize, reads: Reads) -> Self {
        Self {
            tails: HashMap::new(),
            by_number: HashMap::new(),
            topics: OfHandle::default(),
            connected: None,
            stopping: HashSet::new(),
            bytes_max,
            reads,
            suspects: Vec::new(),
            gone_back: Vec::new(),
        }
    }

    /// Its handle has been made.
    pub(super) fn connect(&mut self, handle: Handle, news: &Arc<News>) {
        self.connected = Connected::new(handle, news);
    }

    /// Answers a fetch, has it wait, or says that it is not for the tail. `is_reached`: since it came, Kafka has said that the
    /// partition reaches as far as it wants.
    pub(super) fn place(
        &mut self,
        now: Now,
        key: PartitionKey,
        fetch: Fetch<T>,
        is_reached: bool,
    ) -> Place<T> {
        let (tail, is_new) = match self.tails.entry(key) {
            Entry::Occupied(known) => (known.into_mut(), false),
            Entry::Vacant(vacant) => {
                (vacant.insert(Tail { state: State::Asking, waiting: Vec::new(), used_ms: 0 }), true)
            }
        };
        tail.used_ms = now.mono_ms;
        if let State::Running(running) = &tail.state {
            let window = &running.window;
            if fetch.from < window.start() {
                return Place::Behind(fetch);
            }
            if fetch.from > window.end() && !is_reached {
                return Place::Ahead(fetch);
            }
            let mut fetched = window.read(now, &fetch);
            // A reader's connection was faster than the tail's: what it has brought does not come again.
            fetched.next = fetched.next.max(fetch.from);
            if !fetch.wait || !fetched.batches.is_empty() || !fetched.at_end {
                return Place::Answered(fetch, fetched);
            }
        }
        tail.waiting.push(fetch);
        Place::Waits { ask_end: is_new }
    }

    /// A partition's end is known: its tail begins there. Returns the fetches to be placed again; `None` where it cannot begin
    /// now, and the end must be asked for once more.
    pub(super) fn start(
        &mut self,
        now: Now,
        key: PartitionKey,
        end: u64,
        info: Arc<TopicInfo>,
    ) -> Result<Option<Vec<Fetch<T>>>, Trouble> {
        let Some(tail) = self.tails.get_mut(&key).filter(|tail| matches!(tail.state, State::Asking)) else {
            return Ok(Some(Vec::new()));
        };
        let Some(Connected { messages: queue, handle, .. }) = &self.connected else { return Ok(None) };
        let topic = self.topics.get(handle, key.queue, &info)?.clone();
        let partition = i32::from(key.partition);
        if self.stopping.contains(&(topic.number(), partition)) {
            return Ok(None);
        }
        topic.start(partition, info.layout.of_kafka(end), queue)?;
        self.by_number.insert((topic.number(), partition), key);
        let batches = Batches::new(info, key.partition, self.reads.clone());
        tail.state = State::Running(Box::new(Running { topic, window: Window::new(end), batches }));
        tail.used_ms = now.mono_ms;
        Ok(Some(std::mem::take(&mut tail.waiting)))
    }

    /// Takes what librdkafka has and answers whoever waited for it. True where there may be more.
    pub(super) fn poll(&mut self, now: Now, mut answer: impl FnMut(Fetch<T>, Fetched)) -> bool {
        let Some(Connected { messages: queue, .. }) = &self.connected else { return false };
        let mut touched: Vec<PartitionKey> = Vec::new();
        let mut taken = 0;
        let mut count = 1;
        while taken < MESSAGES_PER_LOOK && count > 0 {
            count = queue.consume(|message| {
                let Some(key) = self.by_number.get(&message.from()).copied() else { return };
                let Some(tail) = self.tails.get_mut(&key) else { return };
                let State::Running(running) = &mut tail.state else { return };
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
                // librdkafka goes back to the oldest record where its position is out of range (`auto.offset.reset`).
                if !batches.push(now, &message, window) && !self.gone_back.contains(&key) {
                    self.gone_back.push(key);
                }
            });
            taken += count;
        }
        touched.sort_unstable();
        touched.dedup();
        let share = self.bytes_max / self.tails.len().max(1);
        for key in touched {
            let Some(tail) = self.tails.get_mut(&key) else { continue };
            let State::Running(running) = &mut tail.state else { continue };
            let Running { window, batches, .. } = &mut **running;
            batches.close(window);
            for mut fetch in std::mem::take(&mut tail.waiting) {
                let fetched = window.read(now, &fetch);
                if fetched.batches.is_empty() && fetched.at_end {
                    fetch.from = fetch.from.max(fetched.next);
                    tail.waiting.push(fetch);
                } else {
                    answer(fetch, fetched);
                }
            }
            window.keep(share);
        }
        count > 0
    }

    /// Time has passed: every tail keeps its present share at most, and those end that nobody waits for and that never began.
    pub(super) fn trim(&mut self) {
        self.tails.retain(|_, tail| !(matches!(tail.state, State::Asking) && tail.waiting.is_empty()));
        let share = self.bytes_max / self.tails.len().max(1);
        for tail in self.tails.values_mut() {
            if let State::Running(running) = &mut tail.state {
                running.window.keep(share);
            }
        }
    }

    /// Whether somebody waits for the end of a partition to be known.
    pub(super) fn is_wanted(&self, key: PartitionKey) -> bool {
        self.tails
            .get(&key)
            .is_some_and(|tail| matches!(tail.state, State::Asking) && !tail.waiting.is_empty())
    }

    /// What the handle has to say.
    pub(super) fn poll_event(&self) -> Option<Event> {
        self.connected.as_ref()?.events.poll()
    }

    /// Takes a fetch back that waits here.
    pub(super) fn cancel(&mut self, key: PartitionKey, token: T) -> Option<Fetch<T>> {
        let tail = self.tails.get_mut(&key)?;
        let index = tail.waiting.iter().position(|fetch| fetch.token == token)?;
        Some(tail.waiting.swap_remove(index))
    }

    /// Tails that nobody asks for end: returns what is to be stopped where it may block.
    pub(super) fn stop_unused(&mut self, now: Now) -> Vec<ToStop> {
        self.stop(|_, tail| tail.waiting.is_empty() && tail.used_ms + UNUSED_MS <= now.mono_ms)
    }

    fn stop(&mut self, is_over: impl Fn(&PartitionKey, &Tail<T>) -> bool) -> Vec<ToStop> {
        let mut stopped = Vec::new();
        for (key, tail) in &mut self.tails {
            if is_over(key, tail)
                && matches!(tail.state, State::Running(_))
                && let State::Running(running) = std::mem::replace(&mut tail.state, State::Stopping)
            {
                let number = (running.topic.number(), i32::from(key.partition));
                if self.by_number.get(&number) == Some(key) {
                    self.by_number.remove(&number);
                }
                self.stopping.insert(number);
                stopped.push((*key, running.topic));
            }
        }
        stopped
    }

    /// It was stopped. True where somebody has asked for it meanwhile, so that its end must be asked for.
    pub(super) fn handle_stopped(&mut self, key: PartitionKey, number: usize) -> bool {
        self.stopping.remove(&(number, i32::from(key.partition)));
        let Some(tail) = self.tails.get_mut(&key) else { return false };
        tail.state = State::Asking;
        if tail.waiting.is_empty() {
            self.tails.remove(&key);
            return false;
        }
        true
    }

    /// Fetches that wait for a partition whose end nobody tells since before `before_ms`.
    pub(super) fn take_unanswered(&mut self, before_ms: u64) -> Vec<Fetch<T>> {
        let mut old = Vec::new();
        for tail in self.tails.values_mut().filter(|tail| matches!(tail.state, State::Asking)) {
            old.extend(tail.waiting.extract_if(.., |fetch| fetch.since_ms < before_ms));
        }
        old
    }

    /// The next partition whose records restart at a smaller offset.
    pub(super) fn poll_gone_back(&mut self) -> Option<PartitionKey> {
        self.gone_back.pop()
    }

    /// Ends the tail of a partition that has gone back. Returns its waiting fetches, and the topic to stop.
    pub(super) fn go_back(&mut self, key: PartitionKey) -> (Vec<Fetch<T>>, Vec<ToStop>) {
        let fetches = match self.tails.get_mut(&key) {
            Some(tail) if matches!(tail.state, State::Running(_)) => std::mem::take(&mut tail.waiting),
            // Fetches that wait for the end are placed when it is known.
            _ => Vec::new(),
        };
        (fetches, self.stop(|of, _| *of == key))
    }

    /// A queue whose topic may not be what it was.
    pub(super) fn poll_suspect(&mut self) -> Option<QueueId> {
        self.suspects.pop()
    }

    /// A queue is not served any more under this number: its fetches are given back, and what is to be stopped.
    pub(super) fn forget(&mut self, queue: QueueId) -> (Vec<Fetch<T>>, Vec<ToStop>) {
        self.topics.forget(queue);
        let of_queue = self.tails.iter_mut().filter(|(key, _)| key.queue == queue);
        let fetches = of_queue.flat_map(|(_, tail)| std::mem::take(&mut tail.waiting)).collect();
        self.tails.retain(|key, tail| key.queue != queue || !matches!(tail.state, State::Asking));
        (fetches, self.stop(|key, _| key.queue == queue))
    }

    /// Fetches that wait.
    pub(super) fn waiting(&self) -> usize {
        self.tails.values().map(|tail| tail.waiting.len()).sum()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.tails.is_empty()
    }
}

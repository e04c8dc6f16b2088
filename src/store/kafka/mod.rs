//! The Kafka store: a queue is a topic, a partition a partition, a payload a record's value. The only room that knows rdkafka.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | one shard's part: requests in, librdkafka's events and completions out |
//! | `topic_name`, `header`, `layout` | how names and messages look in Kafka, plain or packed |
//! | `settings`, `secret` | the operator's settings; which of them are secrets |
//! | `properties` | librdkafka's settings: ours, and those that an operator may add |
//! | `topics` | queues found or made as topics |
//! | `producer` | appends on their way |
//! | `offsets` | questions for the offsets of an end or a time |
//! | `tails`, `readers` | reading the ends of partitions, and what is older |
//! | `ahead` | positions beyond the end: whether a partition has gone back |
//! | `connected` | a consumer's handle and its queues |
//! | `batches` | records as stored batches |
//! | `tokens`, `command` | OAUTHBEARER's tokens, and the operator's command that prints them |
//! | `news`, `janitor` | how librdkafka wakes a shard, and who does what would block it |
//! | `native` | librdkafka's calls |
//! | `reader` | whole topics, for the load that Kafka itself is put under |
//!
//! A shard has one producer and one consumer for all tails, and up to `kafka_catch_up_readers` for what is older, each made on
//! the janitor's thread when it is first needed. All of its other calls return at once: their answers come as events, and
//! [`News`] wakes the shard for them.

mod ahead;
mod batches;
mod command;
mod connected;
pub mod header;
mod janitor;
mod layout;
mod native;
mod news;
mod offsets;
mod producer;
mod properties;
#[cfg(feature = "peers")]
mod reader;
mod readers;
mod secret;
mod settings;
mod tails;
mod tokens;
mod topic_name;
mod topics;

pub use janitor::Janitor;
pub use news::News;
pub use properties::{READ_AHEAD_KIB, check, warnings};
#[cfg(feature = "peers")]
pub use reader::TopicReader;
pub use readers::WINDOW_BYTES;
pub use settings::{Bounds, Settings};

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::CString;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::ahead::Ahead;
use self::batches::Reads;
use self::janitor::Returns;
use self::layout::Layout;
use self::native::{Event, Handle, Queue};
use self::offsets::{Answer, Offsets, Why};
use self::producer::{Append, Producer};
use self::properties::Properties;
use self::readers::{Chore, Readers};
use self::tails::{Place, Tails, ToStop};
use self::tokens::Tokens;
use self::topics::{Openings, TopicInfo, Topics, Wanted, forgotten};
use super::window::Fetch;
use super::{Completion, Fence, Request, Store, StoreCounters};
use crate::base::batch::Fetched;
use crate::base::clock::{Now, millis};
use crate::base::error::StoreFault;
use crate::base::names::ClientId;
use crate::base::queue::{PartitionKey, QueueId};

/// The offset at which a consumer goes on after its partition has gone back: the oldest message that is left. Nothing proves which
/// of the messages the consumer has seen: the log may have grown again since, and markers hold no leader epoch.
const OLDEST: u64 = 0;

/// How often the store is ticked, milliseconds.
const TICK_MS: u64 = 250;

/// What every shard of a server shares.
#[derive(Clone, Debug)]
pub struct Cluster {
    topics: Arc<Topics>,
    janitor: Janitor,
    tokens: Option<Tokens>,
}

impl Cluster {
    /// Begins the threads that serve all shards: to be called where they may run on any core.
    pub fn start(config: &Settings) -> std::io::Result<Self> {
        for warning in warnings(config) {
            tracing::warn!("{warning}");
        }
        let command = Some(config.token_command.clone()).filter(|command| !command.is_empty());
        Ok(Self {
            topics: Arc::default(),
            janitor: Janitor::start()?,
            tokens: command.map(Tokens::start).transpose()?,
        })
    }

    /// Takes a topic as it is said to be, without asking: of a cluster that has no controller to ask, as librdkafka's own for tests.
    pub fn assume(&self, queue: QueueId, topic: CString, partitions: u16) {
        let topic = TopicInfo {
            name: Arc::new(topic),
            default_ttl_secs: 1000,
            is_default_known: true,
            layout: Layout::Plain,
            served_bytes: usize::MAX,
            passed_over: AtomicU64::new(0),
            life: super::Life { incarnation: 1, partitions, signing: crate::base::queue::Signing::default() },
        };
        self.topics.insert(queue, topic);
    }
}

/// What the janitor brings.
#[derive(Debug)]
enum Return {
    Producer(Result<Handle, String>),
    Tails(Result<Handle, String>),
    Reader(usize, Result<Handle, String>),
    /// The tail's partition, and its topic's number.
    TailStopped(PartitionKey, usize),
    ReaderStopped(usize),
}

/// See the module's page.
#[derive(Debug)]
pub struct Kafka<T> {
    cluster: Cluster,
    properties: Arc<Properties>,
    news: Arc<News>,
    returns: Returns<Return>,
    producer: Producer<T>,
    openings: Openings<T>,
    offsets: Offsets<T>,
    ahead: Ahead<T>,
    tails: Tails<T>,
    readers: Readers<T>,
    /// Records that were too large to be served.
    passed_over: Arc<AtomicU64>,
    /// What this shard has looked up in `Cluster::topics`.
    known: HashMap<QueueId, Arc<TopicInfo>>,
    /// The consumer of the tails is there, or is being made.
    has_tails: bool,
    /// The producer could not be made.
    wants_producer: bool,
    fence: Fence,
    completions: VecDeque<Completion<T>>,
    /// How long a fetch may wait for Kafka to say where it stands, milliseconds.
    patience_ms: u64,
    /// Something is there that `News` does not tell again.
    has_more: bool,
    counters: StoreCounters,
}

impl<T: Copy + Eq + Hash> Kafka<T> {
    /// The store of one of `shards` shards; `news` wakes it.
    pub fn new(cluster: Cluster, config: &Settings, bounds: &Bounds, shards: usize, news: Arc<News>) -> Self {
        // A record that says nothing of who stored it is nobody's, and no client has this id.
        let nobody = ClientId::random();
        let passed_over = Arc::new(AtomicU64::new(0));
        let clock_step_max_ms = millis(bounds.clock_step_max);
        let reads = Reads { nobody, passed_over: passed_over.clone(), clock_step_max_ms };
        let store = Self {
            properties: Arc::new(Properties::new(config, bounds)),
            returns: Returns::new(&news),
            producer: Producer::new(),
            openings: Openings::new(cluster.topics.clone(), Wanted::new(config, bounds)),
            offsets: Offsets::new(),
            ahead: Ahead::new(),
            tails: Tails::new(config.tail_bytes / shards.max(1), reads.clone()),
            readers: Readers::new(config.catch_up_readers.div_ceil(shards.max(1)), reads),
            passed_over,
            known: HashMap::new(),
            has_tails: false,
            wants_producer: false,
            fence: Fence::default(),
            completions: VecDeque::new(),
            patience_ms: millis(config.delivery_timeout),
            has_more: false,
            counters: StoreCounters::default(),
            cluster,
            news,
        };
        store.make_producer();
        store
    }

    fn make(
        &self,
        wrap: impl FnOnce(Result<Handle, String>) -> Return + Send + 'static,
        make: fn(&BTreeMap<String, String>) -> Result<Handle, String>,
        of: fn(&Properties) -> &BTreeMap<String, String>,
    ) {
        let (properties, tokens) = (self.properties.clone(), self.cluster.tokens.clone());
        self.returns.ask(&self.cluster.janitor, move || {
            let made = make(of(&properties));
            if let (Ok(handle), Some(tokens)) = (&made, tokens) {
                tokens.supply(handle);
            }
            wrap(made)
        });
    }

    fn make_producer(&self) {
        self.make(Return::Producer, Handle::producer, |properties| &properties.producer);
    }

    fn append(&mut self, now: Now, append: Append<T>) {
        if self.fence.is_closed(append.stream) {
            self.counters.refused += u64::from(append.batch.count());
            let result = Err(StoreFault::Fenced);
            return self.completions.push_back(Completion::Appended { token: append.token, result });
        }
        self.producer.append(append);
        self.take_outcomes(now);
    }

    fn take_outcomes(&mut self, now: Now) {
        while let Some(outcome) = self.producer.poll() {
            let result = match outcome.result {
                Ok(offsets) => {
                    self.counters.stored += u64::from(outcome.count);
                    Ok(offsets)
                }
                Err(trouble) => {
                    self.counters.refused += u64::from(outcome.count);
                    // What is on its way behind it fails likewise: one line for all of them.
                    let is_first = !self.fence.is_closed(outcome.stream);
                    let fault = if is_first { trouble.report("store messages") } else { trouble.fault() };
                    self.fence.close(now, outcome.stream);
                    self.producer.fence(outcome.stream);
                    self.openings.suspect(outcome.queue);
                    Err(fault)
                }
            };
            self.completions.push_back(Completion::Appended { token: outcome.token, result });
        }
    }

    /// What is known of a queue; nothing once it is forgotten.
    fn info(&mut self, queue: QueueId) -> Option<Arc<TopicInfo>> {
        match self.known.entry(queue) {
            Entry::Occupied(known) => Some(known.get().clone()),
            Entry::Vacant(vacant) => Some(vacant.insert(self.cluster.topics.get(queue)?).clone()),
        }
    }

    fn fetch(&mut self, now: Now, key: PartitionKey, fetch: Fetch<T>) {
        self.place(now, key, fetch, false);
    }

    /// Hands a fetch to the tail, a reader or `ahead`. `is_reached`: Kafka has confirmed since its arrival that the partition
    /// reaches its offset.
    fn place(&mut self, now: Now, key: PartitionKey, fetch: Fetch<T>, is_reached: bool) {
        let Some(info) = self.info(key.queue) else { return self.answer(fetch.token, Err(forgotten())) };
        if !self.has_tails {
            self.has_tails = true;
            self.make(Return::Tails, Handle::consumer, |properties| &properties.tails);
        }
        match self.tails.place(now, key, fetch, is_reached) {
            Place::Answered(fetch, fetched) => self.answer(fetch.token, Ok(fetched)),
            Place::Waits { ask_end: false } => {}
            Place::Waits { ask_end: true } => self.offsets.ask_end(key),
            Place::Behind(fetch) => {
                self.readers.fetch(now, key, info, fetch);
                self.has_more = true;
            }
            Place::Ahead(fetch) => {
                self.ahead.push(key, fetch, self.offsets.asked());
                self.offsets.ask_ahead(key);
                self.has_more = true;
            }
        }
    }

    /// Handles Kafka's answer about a partition's end for the fetches that lie beyond the tail.
    fn settle(&mut self, now: Now, key: PartitionKey, asked: usize, end: u64) {
        let settled = self.ahead.settle(now, key, asked, end);
        if settled.is_new {
            // Another topic of that name is no rewind.
            self.openings.suspect(key.queue);
        }
        if settled.asks_again {
            self.offsets.ask_ahead_later(key);
        }
        for fetch in settled.reached {
            self.place(now, key, fetch, true);
        }
        if !settled.rewound.is_empty() {
            // The readers' windows may predate the rewind.
            self.readers.read_again(key);
        }
        for fetch in settled.rewound {
            self.answer_rewound(key, &fetch, end);
        }
    }

    /// Tells a consumer whose position lies beyond the end that its partition has gone back, and where it goes on.
    fn answer_rewound(&mut self, key: PartitionKey, fetch: &Fetch<T>, end: u64) {
        let topic = self.info(key.queue).map(|info| info.name.to_string_lossy().into_owned());
        tracing::warn!(
            topic,
            partition = key.partition,
            position = fetch.from,
            end,
            "a partition has gone back behind a consumer's position (an unclean leader election, or a restored backup): the \
             consumer begins again at the oldest message"
        );
        debug_assert_eq!(OLDEST, Fetched::rewound().next);
        let fetched = Fetched::rewound();
        self.answer(fetch.token, Ok(fetched));
    }

    /// Handles a partition whose records restart at a smaller offset: librdkafka's position was beyond the end. The tail and the
    /// readers start again, and the waiting fetches are answered as rewound once the topic proves to be the same.
    fn go_back(&mut self, now: Now, key: PartitionKey) {
        self.openings.suspect(key.queue);
        let (mut fetches, tails) = self.tails.go_back(key);
        self.stop_tails(tails);
        fetches.extend(self.readers.go_back(key));
        for fetch in fetches {
            self.ahead.push_gone_back(now, key, fetch, self.offsets.asked());
        }
        if self.ahead.is_wanted(key) {
            self.offsets.ask_ahead(key);
        }
    }

    fn answer(&mut self, token: T, result: Result<Fetched, StoreFault>) {
        self.completions.push_back(Completion::Fetched { token, result });
    }

    fn cancel(&mut self, token: T, key: PartitionKey) {
        let fetch = self.tails.cancel(key, token).or_else(|| self.readers.cancel(token));
        if let Some(fetch) = fetch.or_else(|| self.ahead.cancel(token)) {
            let fetched = Fetched { next: fetch.from, ..Fetched::default() };
            self.answer(token, Ok(fetched));
        }
    }

    /// Takes everything that has come, and asks what is to be asked.
    fn work(&mut self, now: Now) {
        self.has_more = false;
        while let Some(back) = self.returns.poll() {
            self.handle_return(now, back);
        }
        while let Some(event) = self.producer.queue().and_then(Queue::poll) {
            self.handle_event(now, event);
        }
        while let Some(event) = self.tails.poll_event().or_else(|| self.readers.poll_event()) {
            self.handle_event(now, event);
        }
        self.producer.submit_waiting();
        self.take_outcomes(now);
        if let Some(broken) = self.producer.take_broken() {
            self.cluster.janitor.run(move || drop(broken));
            self.openings.handle_lost();
            self.offsets.handle_lost();
            self.make_producer();
        }
        let completions = &mut self.completions;
        let mut answer = |fetch: Fetch<T>, fetched| {
            completions.push_back(Completion::Fetched { token: fetch.token, result: Ok(fetched) });
        };
        self.has_more |= self.tails.poll(now, &mut answer);
        self.readers.poll(now, answer);
        while let Some(queue) = self.tails.poll_suspect() {
            self.openings.suspect(queue);
        }
        while let Some(key) = self.tails.poll_gone_back().or_else(|| self.readers.poll_gone_back()) {
            self.go_back(now, key);
        }
        self.assign_readers(now);
        while let Some((token, result)) = self.openings.poll() {
            self.completions.push_back(Completion::Opened { token, result });
        }
        self.ask_offsets(now);
    }

    fn stop_tails(&self, tails: Vec<ToStop>) {
        for (key, topic) in tails {
            self.returns.ask(&self.cluster.janitor, move || {
                topic.stop(i32::from(key.partition));
                Return::TailStopped(key, topic.number())
            });
        }
    }

    fn assign_readers(&mut self, now: Now) {
        let mut chores = Vec::new();
        let completions = &mut self.completions;
        self.readers.assign(
            now,
            |chore| chores.push(chore),
            |fetch, fault| {
                completions.push_back(Completion::Fetched { token: fetch.token, result: Err(fault) })
            },
        );
        self.run(chores);
    }

    fn run(&self, chores: Vec<Chore>) {
        for chore in chores {
            match chore {
                Chore::Make(index) => self.make(
                    move |made| Return::Reader(index, made),
                    Handle::consumer,
                    |properties| &properties.readers,
                ),
                Chore::Stop(index, topic, partition) => self.returns.ask(&self.cluster.janitor, move || {
                    topic.stop(partition);
                    Return::ReaderStopped(index)
                }),
            }
        }
    }

    fn ask_offsets(&mut self, now: Now) {
        self.offsets.ask(self.producer.connection(), |queue| self.cluster.topics.get(queue));
        // What cannot be asked.
        while let Some(answer) = self.offsets.poll() {
            self.handle_offset(now, answer);
        }
    }

    fn handle_return(&mut self, now: Now, back: Return) {
        let failed = |why: &str| tracing::error!(why, "a Kafka client cannot be made; it is tried again");
        match back {
            Return::Producer(Ok(handle)) => {
                self.producer.connect(handle, &self.news);
                self.openings.retry(self.producer.connection());
            }
            Return::Producer(Err(why)) => {
                failed(&why);
                self.wants_producer = true;
            }
            Return::Tails(Ok(handle)) => {
                self.tails.connect(handle, &self.news);
                self.offsets.retry();
            }
            Return::Tails(Err(why)) => {
                failed(&why);
                self.has_tails = false;
            }
            Return::Reader(index, Ok(handle)) => self.readers.handle_made(index, handle, &self.news),
            Return::Reader(index, Err(why)) => {
                failed(&why);
                self.readers.handle_not_made(index);
            }
            Return::TailStopped(key, number) => {
                if self.tails.handle_stopped(key, number) {
                    self.offsets.ask_end(key);
                }
            }
            Return::ReaderStopped(index) => self.readers.handle_stopped(index),
        }
        self.assign_readers(now);
    }

    fn handle_event(&mut self, now: Now, event: Event) {
        let to = self.producer.connection();
        match event {
            Event::Reports(reports) => self.producer.handle_reports(&reports),
            Event::Described { asked, result } => self.openings.handle_described(asked, result, to),
            Event::Created { asked, result } => self.openings.handle_created(asked, result, to),
            Event::Configs { asked, result } => self.openings.handle_configs(asked, result),
            Event::Offsets { asked, result } => {
                self.offsets.handle_answer(asked, result);
                while let Some(answer) = self.offsets.poll() {
                    self.handle_offset(now, answer);
                }
            }
            Event::Error { trouble, is_fatal: true } => {
                tracing::error!(%trouble, "a Kafka producer has failed for good: another takes its place");
                self.producer.handle_fatal();
            }
            Event::Error { trouble, is_fatal: false } if trouble.text.contains(TOO_LARGE) => {
                tracing::error!(
                    %trouble,
                    "a broker's answer is larger than kafka_receive_bytes: partitions that it leads wait until that is raised to \
                     the max.message.bytes of its topics"
                );
            }
            Event::Error { trouble, is_fatal: false } => tracing::warn!(%trouble, "Kafka"),
            Event::Log { level, text } if level <= SYSLOG_WARNING => tracing::warn!(text, "librdkafka"),
            Event::Log { text, .. } => tracing::debug!(text, "librdkafka"),
            Event::Other => {}
        }
    }

    fn handle_offset(&mut self, now: Now, Answer { why, asked, result }: Answer<T>) {
        match (why, result) {
            (Why::Resolve(token), result) => {
                self.completions.push_back(Completion::Resolved { token, result })
            }
            (Why::Tail(key), Ok(end)) => {
                let Some(info) = self.info(key.queue) else { return };
                match self.tails.start(now, key, end, info) {
                    Ok(Some(fetches)) => fetches.into_iter().for_each(|fetch| self.fetch(now, key, fetch)),
                    Ok(None) => self.offsets.ask_end_later(key),
                    Err(trouble) => {
                        tracing::warn!(?key, %trouble, "a partition cannot be read");
                        self.offsets.ask_end_later(key);
                    }
                }
            }
            // Whoever waits for it too long is told so by the tick.
            (Why::Tail(key), Err(_)) if self.tails.is_wanted(key) && self.info(key.queue).is_some() => {
                self.offsets.ask_end_later(key);
            }
            (Why::Ahead(key), Ok(end)) => self.settle(now, key, asked, end),
            (Why::Ahead(key), Err(_)) if self.ahead.is_wanted(key) && self.info(key.queue).is_some() => {
                self.offsets.ask_ahead_later(key);
            }
            (Why::Tail(_) | Why::Ahead(_), Err(_)) => {}
        }
    }
}

#[cfg(test)]
#[path = "../../../tests/common/broker.rs"]
mod broker;

#[cfg(test)]
mod tests;

/// Part of librdkafka's message for an answer longer than `receive.message.max.bytes`.
const TOO_LARGE: &str = "increase receive.message.max.bytes";

/// Syslog's level of a warning.
const SYSLOG_WARNING: i32 = 4;

impl<T: Copy + Eq + Hash> Store<T> for Kafka<T> {
    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>> {
        match request {
            Request::Open { token, queue, name, create } => {
                self.openings.open(token, queue, &name, create, self.producer.connection());
                self.has_more = true;
            }
            Request::Append { token, stream, partition, batch } => match self.info(partition.queue) {
                Some(topic) => {
                    let since_ms = now.mono_ms;
                    self.append(now, Append { token, stream, partition, topic, batch, since_ms });
                }
                None => self.completions.push_back(Completion::Appended { token, result: Err(forgotten()) }),
            },
            Request::Fetch { token, partition, from, bytes_max, exclude, wait } => {
                let fetch = Fetch { token, from, bytes_max, exclude, wait, since_ms: now.mono_ms };
                self.fetch(now, partition, fetch);
                self.has_more = true;
            }
            Request::Resolve { token, partition, position } => {
                self.offsets.resolve(token, partition, position);
                self.has_more = true;
            }
            Request::Cancel { token, partition } => self.cancel(token, partition),
        }
        Ok(())
    }

    fn poll_completion(&mut self, now: Now) -> Option<Completion<T>> {
        if self.completions.is_empty() && (self.news.take() || self.has_more) {
            self.work(now);
        }
        self.completions.pop_front()
    }

    fn has_completions(&self) -> bool {
        self.has_more
    }

    fn handle_tick(&mut self, now: Now) -> Option<u64> {
        let unused = self.tails.stop_unused(now);
        self.stop_tails(unused);
        let before_ms = now.mono_ms.saturating_sub(self.patience_ms);
        let mut unanswered = self.tails.take_unanswered(before_ms);
        unanswered.extend(self.readers.take_unanswered(before_ms));
        unanswered.extend(self.ahead.take_unanswered(before_ms));
        for fetch in unanswered {
            let why = "Kafka does not answer: no broker, or no leader of the partition, is within reach";
            self.answer(fetch.token, Err(StoreFault::Unavailable(why)));
        }
        self.producer.fail_unsent(before_ms);
        self.take_outcomes(now);
        self.tails.trim();
        if std::mem::take(&mut self.wants_producer) {
            self.make_producer();
        }
        let chores = self.readers.retry();
        self.run(chores);
        self.openings.retry(self.producer.connection());
        self.openings.watch(now, self.producer.connection());
        self.offsets.retry();
        self.has_more = true;
        Some(now.mono_ms + TICK_MS)
    }

    fn needs_ticks(&self) -> bool {
        !(self.openings.is_idle() && self.tails.is_idle() && self.offsets.is_idle())
            || self.readers.waiting() > 0
            || self.ahead.waiting() > 0
            || self.producer.is_waiting()
            || self.wants_producer
    }

    fn poll_gone(&mut self) -> Option<QueueId> {
        self.openings.poll_gone()
    }

    fn forget(&mut self, queue: QueueId) {
        self.known.remove(&queue);
        self.openings.forget(queue);
        self.producer.forget(queue);
        let (fetches, tails) = self.tails.forget(queue);
        self.stop_tails(tails);
        for fetch in fetches.into_iter().chain(self.readers.forget(queue)).chain(self.ahead.forget(queue)) {
            let why = "the queue's topic was deleted, made again, or has other partitions now";
            self.answer(fetch.token, Err(StoreFault::Unavailable(why)));
        }
    }

    fn appends_anywhere(&self) -> bool {
        true
    }

    fn counters(&self) -> StoreCounters {
        StoreCounters { passed_over: self.passed_over.load(Ordering::Relaxed), ..self.counters }
    }

    fn waiting(&self) -> usize {
        self.tails.waiting() + self.readers.waiting() + self.ahead.waiting()
    }
}

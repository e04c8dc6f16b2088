//! The Kafka store: a queue is a topic, a partition is a partition, a payload is a record's value. Only this
//! room of the server uses rdkafka.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | one shard's store: takes requests and events, returns completions |
//! | `cluster` | what the shards of a server share |
//! | `settings`, `secret` | the operator's settings; which of them are secrets |
//! | `properties` | librdkafka's settings: the server's own, and those that an operator may add |
//! | `topic_name`, `header`, `layout` | names and messages in Kafka, plain or packed |
//! | **queues** | |
//! | `queues` | a shard's queues as topics |
//! | `openings`, `topic_rules` | topics that are found or created; the rules for them |
//! | `topics` | what is known about topics, for all shards and for one |
//! | `watch` | whether topics are still the same |
//! | `attributes/` | the attributes of queues, in a topic of their own |
//! | **appends** | |
//! | `appends` | a shard's appends, and the fence after a failure |
//! | `producer`, `starts` | appends on their way into Kafka; partitions that have stored none yet |
//! | **fetches** | |
//! | `fetches` | where each fetch goes |
//! | `tails` | the ends of partitions |
//! | `readers`, `stay` | older messages: the readers; one reader at one position |
//! | `ahead` | positions beyond the end: whether a partition has gone back |
//! | `offsets` | questions for the offset of an end or a time |
//! | `batches` | records as stored batches |
//! | **the operator** | |
//! | `inquiries` | a shard's questions for single messages, and for all queues |
//! | `clerk` | the thread that asks Kafka these |
//! | **clients** | |
//! | `client` | a handle with its queues and topics |
//! | `chores`, `janitor` | blocking work, and the thread that does it |
//! | `news` | how librdkafka wakes a shard |
//! | `tokens` | tokens for OAUTHBEARER, which the operator's command prints |
//! | `native` | librdkafka's types and calls |
//! | `reader` | reads whole topics, for load tests of Kafka itself |
//!
//! A shard has one producing client, one consuming client for all tails, and up to its share of
//! `kafka_catch_up_readers` for older messages. The janitor's thread creates each when it is first needed.
//! All other calls return immediately: their answers come as events, for which [`News`] wakes the shard.
//!
//! A waiting fetch is in one `Waiting` at a time: a tail's, a reader's, the readers' queue, or `ahead`.

mod ahead;
mod appends;
mod attributes;
mod batches;
mod chores;
mod clerk;
mod client;
mod cluster;
mod fetches;
pub mod header;
mod inquiries;
mod janitor;
mod layout;
mod native;
mod news;
mod offsets;
mod openings;
mod producer;
mod properties;
mod queues;
#[cfg(feature = "peers")]
mod reader;
mod readers;
mod secret;
mod settings;
mod starts;
mod stay;
mod tails;
mod tokens;
mod topic_name;
mod topic_rules;
mod topics;
mod watch;

#[cfg(test)]
#[path = "../../../tests/common/broker.rs"]
mod broker;
#[cfg(test)]
mod tests;

pub use cluster::Cluster;
pub use janitor::Janitor;
pub use news::News;
pub use properties::{READ_AHEAD_KIB, check, warnings};
#[cfg(feature = "peers")]
pub use reader::TopicReader;
pub use readers::WINDOW_BYTES;
pub use settings::{Bounds, Settings};

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use self::appends::Appends;
use self::batches::Reads;
use self::chores::{Chore, Chores, Return, Role};
use self::fetches::{Extent, Fetches};
use self::inquiries::Inquiries;
use self::native::{Event, Handle, Queue, Trouble};
use self::producer::Append;
use self::properties::Properties;
use self::queues::Queues;
use self::topic_rules::TopicRules;
use self::topics::forgotten;
use super::fetch::Fetch;
use super::{Asker, Completion, NewQueue, Placement, Request, Store, StoreCounters, StoreEvent};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::base::names::ClientId;
use crate::base::queue::QueueId;

/// The time between two ticks of the store.
const TICK: Millis = Millis::new(250);

/// Why queues are not deleted.
const NO_DELETIONS: &str =
    "deleting queues needs the embedded log; on Kafka it needs ownership, which servers do not share";

/// A part of librdkafka's error message for an answer longer than `receive.message.max.bytes`.
const TOO_LARGE: &str = "increase receive.message.max.bytes";

/// The level of a warning in syslog.
const SYSLOG_WARNING: i32 = 4;

/// The Kafka store of one shard.
#[derive(Debug)]
pub struct Kafka<T: Asker> {
    chores: Chores,
    queues: Queues<T>,
    appends: Appends<T>,
    fetches: Fetches<T>,
    inquiries: Inquiries<T>,
    news: Arc<News>,
    /// Whether there is work that `News` does not announce.
    has_more: bool,
    /// How long appends and fetches may wait for Kafka.
    patience: Millis,
}

impl<T: Asker> Kafka<T> {
    /// Creates the store of one of `shards` shards. `news` wakes the shard.
    pub fn new(cluster: Cluster, config: &Settings, bounds: &Bounds, shards: usize, news: Arc<News>) -> Self {
        let shards = shards.max(1);
        let extent = Extent {
            tail_bytes: config.tail_bytes / shards,
            readers: config.catch_up_readers.div_ceil(shards),
        };
        let reads = Reads {
            // Records that name no client get this id, which belongs to no client.
            nobody: ClientId::random(),
            passed_over: Arc::new(AtomicU64::new(0)),
            clock_step_max: Millis::from(bounds.clock_step_max),
        };
        let properties = Properties::new(config, bounds);
        let store = Self {
            chores: Chores::new(cluster.janitor, cluster.tokens, properties, &news),
            queues: Queues::new(
                cluster.topics,
                TopicRules::new(config, bounds),
                cluster.attributes.join(&news),
            ),
            appends: Appends::new(),
            inquiries: Inquiries::new(cluster.clerk, reads.clone(), &news),
            fetches: Fetches::new(&extent, reads),
            news,
            has_more: false,
            patience: Millis::from(config.delivery_timeout),
        };
        store.chores.run(Chore::Make(Role::Producer));
        store
    }

    /// Handles everything that has arrived, and sends the questions that are due.
    fn work(&mut self, now: Now) {
        while let Some(back) = self.chores.poll() {
            self.handle_return(now, back);
        }
        while let Some(event) = self.appends.events().and_then(Queue::poll) {
            self.handle_event(now, event);
        }
        while let Some(event) = self.fetches.poll_event() {
            self.handle_event(now, event);
        }
        self.queues.handle_attributes(self.appends.client());
        self.inquiries.work();
        self.appends.work(now, &mut self.queues);
        if let Some(broken) = self.appends.take_broken() {
            self.chores.discard(broken);
            self.queues.handle_client_lost();
            self.fetches.handle_client_lost();
            self.chores.run(Chore::Make(Role::Producer));
        }
        self.fetches.work(now, &mut self.queues);
        self.fetches.ask(now, self.appends.client(), &mut self.queues);
        self.has_more = self.fetches.take_more();
        self.run_chores();
    }

    fn run_chores(&mut self) {
        for chore in self.fetches.take_chores() {
            self.chores.run(chore);
        }
    }

    fn handle_return(&mut self, now: Now, back: Return) {
        let logged = |made: Result<Handle, String>| {
            made.inspect_err(|why| tracing::error!(why, "creation of a Kafka client failed; retrying")).ok()
        };
        match back {
            Return::Made(Role::Producer, made) => match logged(made) {
                Some(handle) => {
                    self.appends.handle_made(handle, &self.news);
                    self.queues.handle_client(self.appends.client());
                }
                None => self.appends.handle_not_made(),
            },
            Return::Made(Role::Tails, made) => {
                self.fetches.handle_tails_made(now, logged(made), &self.news);
            }
            Return::Made(Role::Reader(index), made) => {
                self.fetches.handle_reader_made(now, index, logged(made), &self.news);
            }
            Return::TailStopped(key, number) => self.fetches.handle_tail_stopped(now, key, number),
            Return::ReaderStopped(index) => self.fetches.handle_reader_stopped(now, index),
        }
    }

    fn handle_event(&mut self, now: Now, event: Event) {
        let client = self.appends.client();
        match event {
            Event::Reports(reports) => self.appends.handle_reports(&reports),
            Event::Described { asked, result } => self.queues.handle_described(asked, result, client),
            Event::Created { asked, result } => self.queues.handle_created(asked, result, client),
            Event::Configs { asked, result } => self.queues.handle_configs(asked, result),
            Event::Offsets { asked, result } => {
                self.fetches.handle_offsets(now, asked, result, &mut self.queues);
            }
            Event::Error { trouble, is_fatal: true } => {
                tracing::error!(%trouble, "a Kafka producer failed fatally; replacing it");
                self.appends.handle_fatal();
            }
            Event::Error { trouble, is_fatal: false } => log_error(&trouble),
            Event::Log { level, text } if level <= SYSLOG_WARNING => tracing::warn!(text, "librdkafka"),
            Event::Log { text, .. } => tracing::debug!(text, "librdkafka"),
            Event::Other => {}
        }
    }

    fn next_completion(&mut self) -> Option<Completion<T>> {
        let of_messages = self.appends.poll().or_else(|| self.fetches.poll());
        of_messages.or_else(|| self.queues.poll()).or_else(|| self.inquiries.poll())
    }
}

fn log_error(trouble: &Trouble) {
    if trouble.text.contains(TOO_LARGE) {
        tracing::error!(
            %trouble,
            "an answer of a broker exceeds kafka_receive_bytes; the partitions that it leads wait until this is raised to \
             the max.message.bytes of its topics"
        );
    } else {
        tracing::warn!(%trouble, "Kafka");
    }
}

impl<T: Asker> Store<T> for Kafka<T> {
    const APPENDS: Placement = Placement::Anywhere;

    const LISTS: bool = true;

    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>> {
        match request {
            Request::Open { token, queue, name, create } => {
                self.queues.open(now, token, queue, &name, create, self.appends.client());
                self.has_more = true;
            }
            Request::Alter { token, name, attributes, partitions } => {
                self.queues.alter(token, &name, &NewQueue { partitions, attributes });
            }
            Request::List { token, age } => self.inquiries.list(token, age),
            Request::Manage { token, partition, what } => {
                self.inquiries.manage(now, token, partition, what, self.queues.topic(partition.queue));
            }
            Request::Append { token, stream, partition, batch } => {
                match self.queues.topic(partition.queue).cloned() {
                    Some(topic) => {
                        let since = now.mono;
                        let append = Append { token, stream, partition, topic, batch, since };
                        self.appends.append(now, append, &mut self.queues);
                    }
                    None => self.appends.fail(token, forgotten()),
                }
            }
            Request::Fetch { token, partition, from, bytes_max, exclude, view, wait } => {
                let fetch = Fetch { token, from, bytes_max, exclude, view, wait, since: now.mono };
                self.fetches.fetch(now, partition, fetch, &mut self.queues);
                self.run_chores();
                self.has_more = true;
            }
            Request::Resolve { token, partition, position } => {
                self.fetches.resolve(token, partition, position);
                self.has_more = true;
            }
            Request::Cancel { token, partition } => self.fetches.cancel(token, partition),
            Request::Delete { token, .. } => {
                let result = Err(StoreFault::Unsupported(NO_DELETIONS));
                self.queues.refuse(Completion::Deleted { token, result });
            }
            other => {
                if let Ok(Some(refusal)) = other.without_claims() {
                    self.queues.refuse(refusal);
                }
            }
        }
        Ok(())
    }

    fn poll_completion(&mut self, now: Now) -> Option<Completion<T>> {
        let known = self.next_completion();
        if known.is_none() && (self.news.take() || self.has_more) {
            self.work(now);
            return self.next_completion();
        }
        known
    }

    fn has_completions(&self) -> bool {
        self.has_more
    }

    fn handle_tick(&mut self, now: Now) -> Option<Millis> {
        let before = now.mono.saturating_sub(self.patience);
        self.fetches.handle_tick(now, before);
        self.run_chores();
        if self.appends.handle_tick(now, before, &mut self.queues) {
            self.chores.run(Chore::Make(Role::Producer));
        }
        self.queues.handle_tick(now, self.appends.client());
        self.has_more = true;
        Some(now.mono + TICK)
    }

    fn needs_ticks(&self) -> bool {
        !(self.queues.is_idle() && self.fetches.is_idle() && self.appends.is_idle())
    }

    fn poll_event(&mut self) -> Option<StoreEvent> {
        self.queues.poll_event()
    }

    fn forget(&mut self, queue: QueueId, _incarnation: u64) {
        self.queues.forget(queue);
        self.appends.forget(queue);
        self.fetches.forget(queue);
        self.run_chores();
    }

    fn counters(&self) -> StoreCounters {
        StoreCounters { passed_over: self.fetches.passed_over(), ..self.appends.counters() }
    }

    fn waiting(&self) -> usize {
        self.fetches.waiting()
    }
}

//! Queues as topics: found or made, checked against what Millstream promises, and known to all shards of the server.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, c_int};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::error::RDKafkaErrorCode;

use super::layout::Layout;
use super::native::{Described, Handle, NewTopic, Queue, Topic, Trouble};
use super::settings::{Bounds, Settings};
use super::topic_name::topic_name;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::limits::PARTITIONS_MAX;
use crate::base::names::{Project, QueueName};
use crate::base::queue::QueueId;
use crate::store::Life;

/// How long Kafka may take for one question about a topic, milliseconds.
const ASK_TIMEOUT_MS: c_int = 10_000;

/// How often topics are looked at again, milliseconds.
const WATCH_MS: u64 = 30_000;
/// The same after something went wrong.
const SUSPICION_MS: u64 = 1_000;
/// How many are looked at in one question.
const TOPICS_PER_QUESTION: usize = 500;

/// Who asks when nobody is opening anything.
const WATCHING: usize = 0;

/// The incarnation of a topic that has no id.
const WITHOUT_ID: u64 = 0;

/// More partitions than a queue can have.
const PARTITIONS_MORE: u16 = PARTITIONS_MAX + 1;

/// How often a topic that was made a moment ago is looked for on brokers that have not heard of it, before a tick passes in
/// between.
const LOOKS_AT_ONCE: u32 = 5;

/// What a client is told where a topic has more than [`PARTITIONS_MAX`].
const TOO_WIDE: &str = "the queue's topic in Kafka has more partitions than a queue may have";

/// What it is told where a topic is not as it must be.
const TOO_WEAK: &str = "the queue's topic in Kafka promises less than kafka_strict_topics asks for";

/// How often it is looked for in all, a tick apart: then it is not there.
const LOOKS_MAX: u32 = 20;

/// What every shard may know of a queue's topic.
#[derive(Debug)]
pub(super) struct TopicInfo {
    pub name: Arc<CString>,
    /// Time to live of records that say nothing of it, seconds.
    pub default_ttl_secs: u32,
    /// Others know that default, too: a record of that time to live need not say it.
    pub is_default_known: bool,
    pub layout: Layout,
    /// The largest record that is served, key and value.
    pub served_bytes: usize,
    /// Partitions of which a larger record was passed over: a bit for each.
    pub passed_over: AtomicU64,
    pub life: Life,
}

const _: () = assert!(PARTITIONS_MAX as u32 <= u64::BITS);

impl TopicInfo {
    /// Marks a partition as one with a record passed over; true the first time.
    pub(super) fn is_first_passed_over(&self, partition: u16) -> bool {
        let bit = 1 << (u32::from(partition) % u64::BITS);
        self.passed_over.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

/// The topics of a server's queues.
#[derive(Debug, Default)]
pub(super) struct Topics {
    known: Mutex<HashMap<QueueId, Arc<TopicInfo>>>,
    /// The warning about brokers that give topics no ids was logged.
    said_without_ids: AtomicBool,
}

impl Topics {
    /// Warns, once for the server, that brokers give topics no ids.
    fn say_without_ids(&self, topic: &CStr) {
        if !self.said_without_ids.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                topic = %topic.to_string_lossy(),
                "the brokers give topics no ids (before Kafka 2.8, or with an older inter.broker.protocol.version): a topic that is \
                 deleted and made again cannot be told from the old one, so ids of messages may be given twice and consumers go on \
                 at their old positions; upgrade the brokers, or never make a topic again under an old name"
            );
        }
    }

    pub(super) fn get(&self, queue: QueueId) -> Option<Arc<TopicInfo>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&queue).cloned()
    }

    pub(super) fn remove(&self, queue: QueueId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&queue);
    }

    pub(super) fn insert(&self, queue: QueueId, info: TopicInfo) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(queue, Arc::new(info));
    }
}

/// The topics of one handle.
#[derive(Debug, Default)]
pub(super) struct OfHandle(HashMap<QueueId, Arc<Topic>>);

impl OfHandle {
    /// A queue's.
    pub(super) fn get(
        &mut self,
        handle: &Handle,
        queue: QueueId,
        info: &TopicInfo,
    ) -> Result<&Arc<Topic>, Trouble> {
        match self.0.entry(queue) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(vacant) => Ok(vacant.insert(Arc::new(Topic::new(handle, &info.name)?))),
        }
    }

    /// A queue is not served any more under this number.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.0.remove(&queue);
    }
}

/// What a topic must be like, and how one is made.
#[derive(Debug)]
pub(super) struct Wanted {
    prefix: String,
    layout: Layout,
    replication: i32,
    ttl_max_secs: u32,
    record_bytes: u64,
    served_bytes: usize,
    answer_bytes: u64,
    is_strict: bool,
    configs: Vec<(CString, CString)>,
}

impl Wanted {
    pub(super) fn new(config: &Settings, bounds: &Bounds) -> Self {
        let record_bytes = config.record_bytes(bounds) as u64;
        let ttl_max_secs = bounds.ttl_max_secs;
        let mut configs = vec![
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("unclean.leader.election.enable", "false".to_owned()),
            ("retention.ms", (u64::from(ttl_max_secs) * 1000).to_string()),
            ("max.message.bytes", record_bytes.to_string()),
        ];
        if config.replication >= 3 {
            configs.push(("min.insync.replicas", "2".to_owned()));
        }
        let text = |text: &str| CString::new(text).unwrap_or_default();
        Self {
            prefix: config.topic_prefix.clone(),
            layout: if config.packed { Layout::Packed } else { Layout::Plain },
            replication: i32::from(config.replication),
            ttl_max_secs,
            record_bytes,
            served_bytes: config.served_record_bytes(bounds),
            answer_bytes: config.answer_bytes(bounds) as u64,
            is_strict: config.strict_topics,
            configs: configs.into_iter().map(|(key, value)| (text(key), text(&value))).collect(),
        }
    }

    /// What a topic's configuration promises less than Millstream does: setting, value, and what it should be.
    fn weaknesses(&self, configs: &HashMap<String, String>) -> Vec<String> {
        let number = |key: &str| configs.get(key).and_then(|value| value.parse::<i64>().ok());
        let mut weak = Vec::new();
        let mut check = |key: &str, is_weak: bool, wanted: String| {
            if is_weak {
                let value = configs.get(key).map_or("?", String::as_str);
                weak.push(format!("{key} = {value} should be {wanted}"));
            }
        };
        let retention = i64::from(self.ttl_max_secs) * 1000;
        check(
            "retention.ms",
            number("retention.ms").is_some_and(|ms| (0..retention).contains(&ms)),
            format!("at least {retention}, ttl_max"),
        );
        check(
            "max.message.bytes",
            number("max.message.bytes").is_some_and(|bytes| bytes < self.record_bytes as i64),
            format!("at least {}", self.record_bytes),
        );
        check(
            "max.message.bytes",
            number("max.message.bytes").is_some_and(|bytes| bytes > self.answer_bytes as i64),
            format!(
                "at most {}, which kafka_receive_bytes can raise: a larger batch stops its partition",
                self.answer_bytes
            ),
        );
        check(
            "min.insync.replicas",
            self.replication >= 3 && number("min.insync.replicas").is_some_and(|replicas| replicas < 2),
            "at least 2".into(),
        );
        let is = |key: &str, value: &str| configs.get(key).is_some_and(|is| is.contains(value));
        check("unclean.leader.election.enable", is("unclean.leader.election.enable", "true"), "false".into());
        check("message.timestamp.type", is("message.timestamp.type", "CreateTime"), "LogAppendTime".into());
        check("cleanup.policy", is("cleanup.policy", "compact"), "delete".into());
        weak
    }

    /// How long records live that say nothing of it: as long as the topic keeps them, at most `ttl_max`.
    fn default_ttl_secs(&self, configs: &HashMap<String, String>) -> u32 {
        let retention = configs.get("retention.ms").and_then(|value| value.parse::<i64>().ok());
        match retention {
            Some(ms) if ms >= 0 => u32::try_from(ms / 1000).unwrap_or(u32::MAX).min(self.ttl_max_secs),
            _ => self.ttl_max_secs,
        }
    }
}

#[derive(Debug)]
enum Step {
    /// Is it there?
    Looking,
    Making,
    /// What is it like?
    Checking {
        life: Life,
    },
}

#[derive(Debug)]
struct Opening<T> {
    token: T,
    queue: QueueId,
    name: Arc<CString>,
    /// Of a topic that is made, if it may be.
    partitions: Option<u16>,
    step: Step,
    looks: u32,
    /// It waits for the next tick, or for a handle.
    is_waiting: bool,
}

/// Queues that a shard opens: of each, one question at a time.
#[derive(Debug)]
pub(super) struct Openings<T> {
    topics: Arc<Topics>,
    wanted: Wanted,
    open: HashMap<usize, Opening<T>>,
    next: usize,
    done: Vec<(T, Result<Life, StoreFault>)>,
    /// What was opened, and what it was.
    watched: HashMap<Arc<CString>, (QueueId, Life)>,
    watched_ms: u64,
    /// Topics to be looked at soon, and queues whose topics were unknown to one broker.
    suspects: HashSet<Arc<CString>>,
    doubted: HashSet<QueueId>,
    gone: Vec<QueueId>,
}

impl<T: Copy> Openings<T> {
    pub(super) fn new(topics: Arc<Topics>, wanted: Wanted) -> Self {
        Self {
            topics,
            wanted,
            open: HashMap::new(),
            next: WATCHING,
            done: Vec::new(),
            watched: HashMap::new(),
            watched_ms: 0,
            suspects: HashSet::new(),
            doubted: HashSet::new(),
            gone: Vec::new(),
        }
    }

    /// Begins the life of a queue; its topic is made where there is none and `create` says with how many partitions.
    pub(super) fn open(
        &mut self,
        token: T,
        queue: QueueId,
        (project, name): &(Project, QueueName),
        create: Option<u16>,
        to: Option<(&Handle, &Queue)>,
    ) {
        let Some(name) = topic_name(&self.wanted.prefix, project, name, self.wanted.layout) else {
            return self.done.push((token, Err(StoreFault::NameTooLong)));
        };
        self.next += 1;
        let opening = Opening {
            token,
            queue,
            name: Arc::new(name),
            partitions: create,
            step: Step::Looking,
            looks: 0,
            is_waiting: true,
        };
        self.open.insert(self.next, opening);
        self.ask(self.next, to);
    }

    fn ask(&mut self, asked: usize, to: Option<(&Handle, &Queue)>) {
        let Some(opening) = self.open.get_mut(&asked) else { return };
        let Some((handle, queue)) = to else {
            opening.is_waiting = true;
            return;
        };
        opening.is_waiting = false;
        match opening.step {
            Step::Looking => {
                handle.describe_topics(queue, asked, std::slice::from_ref(&opening.name), ASK_TIMEOUT_MS);
            }
            Step::Making => {
                let topic = NewTopic {
                    name: &opening.name,
                    partitions: i32::from(opening.partitions.unwrap_or(1)),
                    replication: self.wanted.replication,
                    configs: &self.wanted.configs,
                };
                if let Err(trouble) = handle.create_topic(queue, asked, &topic, ASK_TIMEOUT_MS) {
                    let fault = trouble.report(&format!("make topic {}", opening.name.to_string_lossy()));
                    self.finish(asked, Err(fault));
                }
            }
            Step::Checking { .. } => handle.describe_config(queue, asked, &opening.name, ASK_TIMEOUT_MS),
        }
    }

    fn finish(&mut self, asked: usize, result: Result<Life, StoreFault>) {
        if let Some(opening) = self.open.remove(&asked) {
            self.done.push((opening.token, result));
        }
    }

    /// Whether a topic is there.
    pub(super) fn handle_described(
        &mut self,
        asked: usize,
        result: Result<Vec<Described>, Trouble>,
        to: Option<(&Handle, &Queue)>,
    ) {
        let Some(opening) = self.open.get_mut(&asked) else { return self.handle_watched(result) };
        opening.looks += 1;
        let result = result.and_then(|topics| match topics.into_iter().next() {
            Some(topic) => topic.result,
            None => Err(Trouble::nothing()),
        });
        match result {
            Ok(Life { partitions: partitions @ PARTITIONS_MORE.., .. }) => {
                let topic = opening.name.to_string_lossy();
                tracing::warn!(%topic, partitions, max = PARTITIONS_MAX, told = TOO_WIDE, "a topic is no queue");
                self.finish(asked, Err(StoreFault::Unavailable(TOO_WIDE)));
            }
            Ok(life) => {
                if life.incarnation == WITHOUT_ID {
                    self.topics.say_without_ids(&opening.name);
                }
                opening.step = Step::Checking { life };
                self.ask(asked, to);
            }
            Err(trouble) if is_unknown(&trouble) => match (opening.partitions, opening.looks) {
                (None, _) => self.finish(asked, Err(StoreFault::NoQueue)),
                (Some(_), 1) => {
                    opening.step = Step::Making;
                    self.ask(asked, to);
                }
                (Some(_), LOOKS_MAX..) => {
                    let fault = trouble.report(&format!("find topic {}", opening.name.to_string_lossy()));
                    self.finish(asked, Err(fault));
                }
                // It was made; this broker has not heard of it yet.
                (Some(_), ..=LOOKS_AT_ONCE) => self.ask(asked, to),
                (Some(_), _) => opening.is_waiting = true,
            },
            Err(trouble) => {
                let fault = trouble.report(&format!("describe topic {}", opening.name.to_string_lossy()));
                self.finish(asked, Err(fault));
            }
        }
    }

    /// Whether a topic was made.
    pub(super) fn handle_created(
        &mut self,
        asked: usize,
        result: Result<(), Trouble>,
        to: Option<(&Handle, &Queue)>,
    ) {
        let Some(opening) = self.open.get_mut(&asked) else { return };
        match result {
            Ok(()) => {
                tracing::info!(topic = %opening.name.to_string_lossy(), "a topic was made");
                opening.step = Step::Looking;
                self.ask(asked, to);
            }
            // Another server was faster.
            Err(trouble) if trouble.code == RDKafkaErrorCode::TopicAlreadyExists => {
                opening.step = Step::Looking;
                self.ask(asked, to);
            }
            Err(trouble) => {
                let topic = opening.name.to_string_lossy();
                let replication = self.wanted.replication;
                let fault =
                    trouble.report(&format!("make topic {topic} with kafka_replication = {replication}"));
                self.finish(asked, Err(fault));
            }
        }
    }

    /// What a topic is like.
    pub(super) fn handle_configs(&mut self, asked: usize, result: Result<Vec<(String, String)>, Trouble>) {
        let Some(opening) = self.open.get(&asked) else { return };
        let Step::Checking { life } = opening.step else { return };
        let (configs, weak) = match result {
            Ok(configs) => {
                let configs: HashMap<String, String> = configs.into_iter().collect();
                let weak = self.wanted.weaknesses(&configs);
                (configs, weak)
            }
            Err(trouble) => (HashMap::new(), vec![format!("its configuration is not told: {trouble}")]),
        };
        let topic = opening.name.to_string_lossy();
        if !weak.is_empty() {
            let weak = weak.join("; ");
            tracing::warn!(%topic, weak, "a topic promises less than Millstream does");
            if self.wanted.is_strict {
                return self.finish(asked, Err(StoreFault::Unavailable(TOO_WEAK)));
            }
        }
        let info = TopicInfo {
            name: opening.name.clone(),
            default_ttl_secs: self.wanted.default_ttl_secs(&configs),
            is_default_known: !configs.is_empty(),
            layout: self.wanted.layout,
            served_bytes: self.wanted.served_bytes,
            passed_over: AtomicU64::new(0),
            life,
        };
        self.watched.insert(opening.name.clone(), (opening.queue, life));
        self.topics.insert(opening.queue, info);
        self.finish(asked, Ok(life));
    }

    /// Looks from time to time whether the topics are what they were; sooner at those that are suspected.
    pub(super) fn watch(&mut self, now: Now, to: Option<(&Handle, &Queue)>) {
        let Some((handle, queue)) = to else { return };
        let since = now.mono_ms.saturating_sub(self.watched_ms);
        let topics: Vec<Arc<CString>> = if since >= WATCH_MS {
            self.watched.keys().cloned().collect()
        } else if since >= SUSPICION_MS {
            std::mem::take(&mut self.suspects).into_iter().collect()
        } else {
            return;
        };
        if !topics.is_empty() {
            self.watched_ms = now.mono_ms;
        }
        for some in topics.chunks(TOPICS_PER_QUESTION) {
            handle.describe_topics(queue, WATCHING, some, ASK_TIMEOUT_MS);
        }
    }

    /// Something went wrong with a queue: its topic is looked at soon, whichever shard has opened it.
    pub(super) fn suspect(&mut self, queue: QueueId) {
        if let Some(info) = self.topics.get(queue) {
            self.watched.entry(info.name.clone()).or_insert((queue, info.life));
            self.suspects.insert(info.name.clone());
        }
    }

    fn handle_watched(&mut self, result: Result<Vec<Described>, Trouble>) {
        // A cluster out of reach says nothing of its topics.
        for Described { topic, result } in result.into_iter().flatten() {
            let Some((name, (queue, life))) = self.watched.get_key_value(&topic) else { continue };
            let (name, queue) = (name.clone(), *queue);
            let is_same = match result {
                Ok(found) => *life == found,
                // One broker may not have heard of it yet: it is asked once more.
                Err(trouble) if is_unknown(&trouble) && self.doubted.insert(queue) => {
                    self.suspects.insert(name);
                    continue;
                }
                Err(trouble) => !is_unknown(&trouble),
            };
            self.doubted.remove(&queue);
            if !is_same {
                let topic = topic.to_string_lossy();
                tracing::warn!(%topic, "a topic was deleted, made again, or has other partitions");
                self.watched.remove(&name);
                self.gone.push(queue);
            }
        }
    }

    /// A queue whose topic is not what it was, which this shard has opened.
    pub(super) fn poll_gone(&mut self) -> Option<QueueId> {
        self.gone.pop()
    }

    /// A queue is not served any more under this number.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.topics.remove(queue);
        self.watched.retain(|_, (watched, _)| *watched != queue);
    }

    /// Time has passed, or there is a new handle: what waits is asked again.
    pub(super) fn retry(&mut self, to: Option<(&Handle, &Queue)>) {
        let waiting: Vec<usize> =
            self.open.iter().filter(|(_, opening)| opening.is_waiting).map(|(asked, _)| *asked).collect();
        for asked in waiting {
            self.ask(asked, to);
        }
    }

    /// The handle that was asked is gone, and its answers with it.
    pub(super) fn handle_lost(&mut self) {
        self.open.values_mut().for_each(|opening| opening.is_waiting = true);
    }

    pub(super) fn poll(&mut self) -> Option<(T, Result<Life, StoreFault>)> {
        self.done.pop()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.watched.is_empty()
    }
}

/// To whoever asks for a queue that this server has forgotten.
pub(super) fn forgotten() -> StoreFault {
    StoreFault::Unavailable("the queue's topic is not known")
}

pub(super) fn is_unknown(trouble: &Trouble) -> bool {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    matches!(trouble.code, UnknownTopicOrPartition | UnknownTopic | UnknownPartition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn openings(strict: bool) -> Openings<u64> {
        let config = Settings { strict_topics: strict, ..Settings::default() };
        let bounds = Bounds::of_tests();
        Openings::new(Arc::default(), Wanted::new(&config, &bounds))
    }

    fn life(incarnation: u64) -> Life {
        Life { incarnation, partitions: 3, signing: Default::default() }
    }

    /// Opens a queue whose topic is there with this id, and is configured so.
    fn open(openings: &mut Openings<u64>, id: u64, configs: &[(&str, &str)]) -> Result<Life, StoreFault> {
        let name = (Project::parse("default").unwrap(), QueueName::parse("q").unwrap());
        openings.open(1, QueueId(1), &name, None, None);
        let asked = openings.next;
        let topic = Described { topic: c"default.q".to_owned(), result: Ok(life(id)) };
        openings.handle_described(asked, Ok(vec![topic]), None);
        let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        openings.handle_configs(asked, Ok(configs));
        openings.poll().unwrap().1
    }

    #[test]
    fn brokers_without_topic_ids_are_told_of_once() {
        let mut openings = openings(false);
        let said = |openings: &Openings<u64>| openings.topics.said_without_ids.load(Ordering::Relaxed);
        assert_eq!(open(&mut openings, 7, &[]), Ok(life(7)));
        assert!(!said(&openings));
        assert_eq!(open(&mut openings, 0, &[]), Ok(life(0)));
        assert!(said(&openings));
    }

    #[test]
    fn a_topic_that_takes_larger_batches_than_are_read_is_weak() {
        let (largest, larger) = (32 << 20, (32 << 20) + 1);
        let configs = |bytes: u64| [("max.message.bytes", bytes.to_string())];
        let open = |bytes| {
            let configs = configs(bytes);
            let configs: Vec<(&str, &str)> = configs.iter().map(|(key, value)| (*key, &value[..])).collect();
            open(&mut openings(true), 7, &configs)
        };
        assert!(open(largest).is_ok());
        assert_eq!(open(larger), Err(StoreFault::Unavailable(TOO_WEAK)));
        let configs = configs(larger).map(|(key, value)| (key.to_owned(), value));
        let why = openings(true).wanted.weaknesses(&configs.into()).join("; ");
        assert!(why.contains("max.message.bytes") && why.contains("kafka_receive_bytes"), "{why}");
    }

    #[test]
    fn a_record_that_is_passed_over_is_told_once_for_each_partition() {
        let mut openings = openings(false);
        open(&mut openings, 7, &[]).unwrap();
        let info = openings.topics.get(QueueId(1)).unwrap();
        // `max_pb_bytes`.
        assert_eq!(info.served_bytes, 8 << 20);
        for partition in [0, 63] {
            assert!(info.is_first_passed_over(partition));
            assert!(!info.is_first_passed_over(partition));
        }
    }
}

//! Opens queues for a shard: finds or creates their topics, checks them against what Millstream promises, and adds their
//! attributes.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rdkafka::error::RDKafkaErrorCode;

use super::attributes::{Knowledge, Member, NO_TOPIC, refused};
use super::client::Client;
use super::native::{Described, NewTopic, Trouble};
use super::topic_rules::TopicRules;
use super::topics::{TopicInfo, Topics};
use super::watch::WATCHING;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::limits::PARTITIONS_MAX;
use crate::base::millis::Millis;
use crate::base::names::FullName;
use crate::base::queue::QueueId;
use crate::store::{Life, NewQueue};

/// The incarnation of a topic without an id.
const WITHOUT_ID: u64 = 0;

/// One more partition than a queue can have.
const PARTITIONS_MORE: u16 = PARTITIONS_MAX + 1;

/// How often a new topic is looked for immediately, while brokers do not know it yet.
const LOOKS_AT_ONCE: u32 = 5;

/// How often it is looked for in total, the rest at intervals of a tick. Then it counts as missing.
const LOOKS_MAX: u32 = 20;

const _: () = assert!(LOOKS_AT_ONCE < LOOKS_MAX);

/// How long an opening waits until the attributes of queues were read.
const ATTRIBUTES_PATIENCE: Millis = Millis::new(10_000);

/// The reason that clients get if a topic has more than [`PARTITIONS_MAX`].
const TOO_WIDE: &str = "the queue's topic in Kafka has more partitions than a queue may have";

/// The reason that clients get if a topic is weaker than allowed.
const TOO_WEAK: &str = "the queue's topic in Kafka promises less than kafka_strict_topics asks for";

/// The reason that clients get if the attributes of queues could not be read.
const NO_ATTRIBUTES_YET: &str = "the attributes of queues cannot be read from Kafka";

/// A change of attributes that this shard waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Written {
    /// Those of a new queue, by the number of its opening.
    Opening(usize),
    /// An alteration.
    Alteration(usize),
}

/// The request that Kafka has yet to answer.
#[derive(Debug)]
enum Step {
    /// Find out whether the topic exists.
    Looking,
    /// Create the topic.
    Making,
    /// Read the topic's configuration.
    Checking { life: Life },
    /// Write the attributes of the new queue.
    Writing { info: Box<TopicInfo> },
}

#[derive(Debug)]
struct Opening<T> {
    token: T,
    queue: QueueId,
    name: Arc<CString>,
    /// The queue if it must be created, or `None` if it must not.
    create: Option<NewQueue>,
    /// Whether its topic was created for it.
    is_new: bool,
    step: Step,
    looks: u32,
    /// Whether its question waits for the next tick, for a client, or for the attributes of queues.
    is_waiting: bool,
    /// When it began, by the monotonic clock.
    since: Millis,
}

/// The queues that a shard is opening. Each has at most one question to Kafka.
#[derive(Debug)]
pub(super) struct Openings<T> {
    topics: Arc<Topics>,
    rules: TopicRules,
    /// The openings, by the number of their questions.
    open: HashMap<usize, Opening<T>>,
    /// The last number that was used.
    last: usize,
    done: Vec<(T, Result<Life, StoreFault>)>,
    /// The queues that are open, not yet taken.
    opened: Vec<(QueueId, Arc<TopicInfo>)>,
}

impl<T: Copy> Openings<T> {
    pub(super) fn new(topics: Arc<Topics>, rules: TopicRules) -> Self {
        Self { topics, rules, open: HashMap::new(), last: WATCHING, done: Vec::new(), opened: Vec::new() }
    }

    /// Returns the rules for topics.
    pub(super) fn rules(&self) -> &TopicRules {
        &self.rules
    }

    /// Opens a queue. If its topic is missing, and `create` says how, creates it.
    pub(super) fn open(
        &mut self,
        now: Now,
        token: T,
        queue: QueueId,
        (project, name): &FullName,
        create: Option<NewQueue>,
        (client, member): (Option<&Client>, &Member<Written>),
    ) {
        let Some(name) = self.rules.names.topic(project, name) else {
            return self.done.push((token, Err(StoreFault::NameTooLong)));
        };
        if let Some(new) = create.as_ref().filter(|new| !new.attributes.is_empty()) {
            let is_off = member.knowledge() == Knowledge::Off;
            if let Some(why) = is_off.then_some(NO_TOPIC).or_else(|| refused(&new.attributes)) {
                return self.done.push((token, Err(StoreFault::Unsupported(why))));
            }
        }
        self.last += 1;
        let opening = Opening {
            token,
            queue,
            name: Arc::new(name),
            create,
            is_new: false,
            step: Step::Looking,
            looks: 0,
            is_waiting: true,
            since: now.mono,
        };
        self.open.insert(self.last, opening);
        // Its attributes must be known when it is open.
        if member.knowledge() != Knowledge::Nothing {
            self.ask(self.last, client);
        }
    }

    fn ask(&mut self, asked: usize, client: Option<&Client>) {
        let Some(opening) = self.open.get_mut(&asked) else { return };
        let Some(Client { handle, events, .. }) = client else {
            opening.is_waiting = true;
            return;
        };
        opening.is_waiting = false;
        match opening.step {
            Step::Looking => {
                handle.describe_topics(events, asked, std::slice::from_ref(&opening.name));
            }
            Step::Making => {
                let topic = NewTopic {
                    name: &opening.name,
                    partitions: opening.create.as_ref().map_or(1, |new| i32::from(new.partitions)),
                    replication: self.rules.replication,
                    configs: &self.rules.configs,
                };
                if let Err(trouble) = handle.create_topic(events, asked, &topic) {
                    let fault = trouble.report(&format!("create topic {}", opening.name.to_string_lossy()));
                    self.finish(asked, Err(fault));
                }
            }
            Step::Checking { .. } => handle.describe_config(events, asked, &opening.name),
            // Another thread writes.
            Step::Writing { .. } => {}
        }
    }

    fn finish(&mut self, asked: usize, result: Result<Life, StoreFault>) {
        if let Some(opening) = self.open.remove(&asked) {
            self.done.push((opening.token, result));
        }
    }

    /// Handles the answer to whether a topic exists.
    pub(super) fn handle_described(
        &mut self,
        asked: usize,
        result: Result<Vec<Described>, Trouble>,
        client: Option<&Client>,
    ) {
        let Some(opening) = self.open.get_mut(&asked) else { return };
        opening.looks += 1;
        let result = result.and_then(|topics| match topics.into_iter().next() {
            Some(topic) => topic.result,
            None => Err(Trouble::nothing()),
        });
        match result {
            Ok(Life { partitions: partitions @ PARTITIONS_MORE.., .. }) => {
                let topic = opening.name.to_string_lossy();
                tracing::warn!(%topic, partitions, max = PARTITIONS_MAX, told = TOO_WIDE, "topic has too many partitions for a queue");
                self.finish(asked, Err(StoreFault::Unavailable(TOO_WIDE)));
            }
            Ok(life) => {
                if life.incarnation == WITHOUT_ID {
                    self.topics.warn_without_ids(&opening.name);
                }
                opening.step = Step::Checking { life };
                self.ask(asked, client);
            }
            Err(trouble) if trouble.is_unknown() => match (&opening.create, opening.looks) {
                (None, _) => self.finish(asked, Err(StoreFault::NoQueue)),
                (Some(_), 1) => {
                    opening.step = Step::Making;
                    self.ask(asked, client);
                }
                (Some(_), LOOKS_MAX..) => {
                    let fault = trouble.report(&format!("find topic {}", opening.name.to_string_lossy()));
                    self.finish(asked, Err(fault));
                }
                // The topic was created, but this broker does not know it yet.
                (Some(_), ..=LOOKS_AT_ONCE) => self.ask(asked, client),
                (Some(_), _) => opening.is_waiting = true,
            },
            Err(trouble) => {
                let fault = trouble.report(&format!("describe topic {}", opening.name.to_string_lossy()));
                self.finish(asked, Err(fault));
            }
        }
    }

    /// Handles the answer to a topic's creation.
    pub(super) fn handle_created(
        &mut self,
        asked: usize,
        result: Result<(), Trouble>,
        client: Option<&Client>,
    ) {
        let Some(opening) = self.open.get_mut(&asked) else { return };
        match result {
            Ok(()) => {
                tracing::info!(topic = %opening.name.to_string_lossy(), "created a topic");
                opening.step = Step::Looking;
                opening.is_new = true;
                self.ask(asked, client);
            }
            // Another server has created it first.
            Err(trouble) if trouble.code == RDKafkaErrorCode::TopicAlreadyExists => {
                opening.step = Step::Looking;
                self.ask(asked, client);
            }
            Err(trouble) => {
                let topic = opening.name.to_string_lossy();
                let replication = self.rules.replication;
                let fault =
                    trouble.report(&format!("create topic {topic} with kafka_replication = {replication}"));
                self.finish(asked, Err(fault));
            }
        }
    }

    /// Handles a topic's configuration. Then the queue is open, or its attributes are written.
    pub(super) fn handle_configs(
        &mut self,
        asked: usize,
        result: Result<Vec<(String, String)>, Trouble>,
        member: &Member<Written>,
    ) {
        let Some(opening) = self.open.get_mut(&asked) else { return };
        let Step::Checking { life } = &opening.step else { return };
        let life = life.clone();
        let (configs, weak) = match result {
            Ok(configs) => {
                let configs: HashMap<String, String> = configs.into_iter().collect();
                let weak = self.rules.weaknesses(&configs);
                (configs, weak)
            }
            Err(trouble) => (HashMap::new(), vec![format!("its configuration is unknown: {trouble}")]),
        };
        let topic = opening.name.to_string_lossy();
        if !weak.is_empty() {
            let weak = weak.join("; ");
            tracing::warn!(%topic, weak, "a topic promises less than Millstream does");
            if self.rules.is_strict {
                return self.finish(asked, Err(StoreFault::Unavailable(TOO_WEAK)));
            }
        }
        let info = TopicInfo {
            name: opening.name.clone(),
            default_ttl_secs: self.rules.default_ttl_secs(&configs),
            is_default_known: !configs.is_empty(),
            layout: self.rules.names.layout,
            is_young: opening.looks > 1,
            served_bytes: self.rules.served_bytes,
            passed_over: AtomicU64::new(0),
            life,
        };
        match &opening.create {
            // One that was found keeps its own.
            Some(new) if opening.is_new && !new.attributes.is_empty() => {
                member.write(Written::Opening(asked), &info.name, &info.life, &new.attributes);
                opening.step = Step::Writing { info: Box::new(info) };
            }
            _ => self.finish_open(asked, info, member),
        }
    }

    /// Handles that the attributes of a new queue were written, or not.
    pub(super) fn handle_written(
        &mut self,
        asked: usize,
        result: Result<(), StoreFault>,
        member: &Member<Written>,
    ) {
        let Some(opening) = self.open.get_mut(&asked) else { return };
        match (std::mem::replace(&mut opening.step, Step::Looking), result) {
            (Step::Writing { info }, Ok(())) => self.finish_open(asked, *info, member),
            (_, Ok(())) => {}
            (_, Err(fault)) => self.finish(asked, Err(fault)),
        }
    }

    fn finish_open(&mut self, asked: usize, info: TopicInfo, member: &Member<Written>) {
        let Some(queue) = self.open.get(&asked).map(|opening| opening.queue) else { return };
        let life = member.with_attributes(&info.name, &info.life);
        self.opened.push((queue, self.topics.insert(queue, info)));
        self.finish(asked, Ok(life));
    }

    /// Removes and returns a queue that is open now, and its topic.
    pub(super) fn take_opened(&mut self) -> Option<(QueueId, Arc<TopicInfo>)> {
        self.opened.pop()
    }

    /// Asks the waiting questions again, after a tick, with a new client, or once attributes are known.
    pub(super) fn retry(&mut self, client: Option<&Client>, member: &Member<Written>) {
        if member.knowledge() == Knowledge::Nothing {
            return;
        }
        let waiting: Vec<usize> =
            self.open.iter().filter(|(_, opening)| opening.is_waiting).map(|(asked, _)| *asked).collect();
        for asked in waiting {
            self.ask(asked, client);
        }
    }

    /// Fails the openings that have waited too long for the attributes of queues.
    pub(super) fn fail_unread(&mut self, now: Now, member: &Member<Written>) {
        if member.knowledge() == Knowledge::Nothing {
            let before = now.mono.saturating_sub(ATTRIBUTES_PATIENCE);
            let late = self.open.extract_if(|_, opening| opening.since < before);
            let late = late.map(|(_, opening)| opening.token);
            self.done.extend(late.map(|token| (token, Err(StoreFault::Unavailable(NO_ATTRIBUTES_YET)))));
        }
    }

    /// Handles the loss of the client that was asked, and so of its answers.
    pub(super) fn handle_client_lost(&mut self) {
        let asked = |opening: &&mut Opening<T>| !matches!(opening.step, Step::Writing { .. });
        self.open.values_mut().filter(asked).for_each(|opening| opening.is_waiting = true);
    }

    /// Returns the next finished opening.
    pub(super) fn poll(&mut self) -> Option<(T, Result<Life, StoreFault>)> {
        self.done.pop()
    }

    /// Returns whether nothing is being opened.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::names::{Project, QueueName};
    use crate::base::units::Partition;
    use crate::store::kafka::attributes::AttributesTopic;
    use crate::store::kafka::news::News;
    use crate::store::kafka::properties::Properties;
    use crate::store::kafka::settings::{Bounds, Settings};

    fn openings(strict: bool) -> Openings<u64> {
        let config = Settings { strict_topics: strict, ..Settings::default() };
        let bounds = Bounds::of_tests();
        Openings::new(Arc::default(), TopicRules::new(&config, &bounds))
    }

    /// Returns the access to no attributes topic.
    fn member() -> Member<Written> {
        let config = Settings { attributes_topic: String::new(), ..Settings::default() };
        let properties = Properties::new(&config, &Bounds::of_tests());
        let topic = AttributesTopic::start(&config, properties, None).unwrap();
        topic.join(&Arc::new(News::new(|| {})))
    }

    fn life(incarnation: u64) -> Life {
        Life { incarnation, partitions: 3, signing: Default::default(), attributes: Default::default() }
    }

    /// Opens a queue whose topic exists with this id and configuration.
    fn open(openings: &mut Openings<u64>, id: u64, configs: &[(&str, &str)]) -> Result<Life, StoreFault> {
        let name = (Project::parse("default").unwrap(), QueueName::parse("q").unwrap());
        let member = member();
        openings.open(Now::default(), 1, QueueId(1), &name, None, (None, &member));
        let asked = openings.last;
        let topic = Described { topic: c"default.q".to_owned(), result: Ok(life(id)) };
        openings.handle_described(asked, Ok(vec![topic]), None);
        let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        openings.handle_configs(asked, Ok(configs), &member);
        openings.poll().unwrap().1
    }

    #[test]
    fn brokers_without_topic_ids_are_warned_about_once() {
        let mut openings = openings(false);
        let said = |openings: &Openings<u64>| openings.topics.has_warned_without_ids();
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
        let why = openings(true).rules.weaknesses(&configs.into()).join("; ");
        assert!(why.contains("max.message.bytes") && why.contains("kafka_receive_bytes"), "{why}");
    }

    #[test]
    fn a_record_passed_over_is_logged_once_for_each_partition() {
        let mut openings = openings(false);
        open(&mut openings, 7, &[]).unwrap();
        let info = openings.topics.get(QueueId(1)).unwrap();
        // `max_pb_bytes`.
        assert_eq!(info.served_bytes, 8 << 20);
        for partition in [Partition(0), Partition(63)] {
            assert!(info.is_first_passed_over(partition));
            assert!(!info.is_first_passed_over(partition));
        }
    }
}

//! The thread that reads the attributes topic and writes changes into it. It creates the topic if it is missing.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::record::VALUE_BYTES_MAX;
use super::writes::Writes;
use super::{Asked, Change, Reply, Shared};
use crate::base::error::StoreFault;
use crate::base::units::Partition;
use crate::store::kafka::client::{Client, Consumer};
use crate::store::kafka::log_error;
use crate::store::kafka::native::{Event, Handle, Message, NewTopic, Queue, Topic, Trouble};
use crate::store::kafka::news::News;
use crate::store::kafka::properties::Properties;
use crate::store::kafka::settings::Settings;
use crate::store::kafka::tokens::Tokens;

/// The longest time without a look at the clock.
const TICK: Duration = Duration::from_millis(500);

/// How long after a failure it tries again.
const RETRY: Duration = Duration::from_secs(1);

/// Its only partition.
const PARTITION: Partition = Partition(0);

/// Kafka's mark for the beginning of a partition.
const BEGINNING: i64 = -2;

/// The question that Kafka has yet to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Does the topic exist?
    Looking,
    /// Create it.
    Making,
    /// How is it configured?
    Checking,
    /// None: it is read and written.
    Following,
}

/// The client that writes, and the topic of it.
#[derive(Debug)]
struct Writer {
    topic: Topic,
    client: Client,
}

/// The client that reads, and the topic of it.
#[derive(Debug)]
struct Reader {
    topic: Topic,
    consumer: Consumer,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.topic.stop(PARTITION);
    }
}

/// The state of the thread.
pub(super) struct Follower {
    name: Arc<CString>,
    replication: u16,
    is_strict: bool,
    /// How long a change may take.
    patience: Duration,
    properties: Properties,
    tokens: Option<Tokens>,
    shared: Arc<Shared>,
    asked: Asked,
    writes: Writes<Reply>,
    writer: Option<Writer>,
    reader: Option<Reader>,
    step: Step,
    /// The number of the question that it waits for.
    question: usize,
    /// When it asks next. `None` while it waits for an answer, or needs none.
    ask_at: Option<Instant>,
    /// Whether the last failure was logged.
    is_failing: bool,
}

impl Follower {
    pub(super) fn new(
        name: CString,
        config: &Settings,
        mut properties: Properties,
        tokens: Option<Tokens>,
        shared: Arc<Shared>,
        asked: Asked,
    ) -> Self {
        // A record may be larger than the batches of messages. Two requests to a topic that was just created may be stored
        // in the wrong order (see `starts`).
        let bytes = config.batch_bytes.max(2 * VALUE_BYTES_MAX).to_string();
        let own = [
            ("linger.ms", "0".to_owned()),
            ("max.in.flight", "1".to_owned()),
            ("batch.size", bytes.clone()),
            ("message.max.bytes", bytes),
        ];
        properties.producer.extend(own.map(|(key, value)| (key.to_owned(), value)));
        Self {
            name: Arc::new(name),
            replication: config.replication,
            is_strict: config.strict_topics,
            patience: config.delivery_timeout,
            properties,
            tokens,
            shared,
            asked,
            writes: Writes::new(),
            writer: None,
            reader: None,
            step: Step::Looking,
            question: 0,
            ask_at: Some(Instant::now()),
            is_failing: false,
        }
    }

    /// Works until nobody can ask for changes any more.
    pub(super) fn run(mut self) {
        let thread = std::thread::current();
        let news = Arc::new(News::new(move || thread.unpark()));
        loop {
            // What arrives from here on wakes the thread again.
            news.take();
            loop {
                match self.asked.try_recv() {
                    Ok(change) => self.write(change),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.ask(&news);
            while let Some(event) = self.poll_event() {
                self.handle_event(event);
            }
            self.read();
            for reply in self.writes.take_read(self.shared.view().read_below()) {
                reply(Ok(()));
            }
            for (reply, fault) in self.writes.take_late(Instant::now()) {
                reply(Err(fault));
            }
            if self.ask_at.is_none_or(|at| at > Instant::now()) {
                std::thread::park_timeout(TICK);
            }
        }
    }

    fn write(&mut self, Change { topic, record, reply }: Change) {
        let Some(writer) = &self.writer else {
            return reply(Err(StoreFault::Unavailable("Kafka cannot be written now")));
        };
        let value = (!record.attributes.is_empty()).then(|| record.encode());
        let number = self.writes.begin(Instant::now(), 2 * self.patience, reply);
        let written = writer.topic.produce_copy(PARTITION, number, topic.as_bytes(), value.as_deref());
        if let Err(trouble) = written {
            self.handle_report(number, Err(trouble));
        }
    }

    fn handle_report(&mut self, number: usize, result: Result<i64, Trouble>) {
        if let Some((reply, fault)) = self.writes.handle_report(number, result) {
            reply(Err(fault));
        }
    }

    /// Asks the question that is due.
    fn ask(&mut self, news: &Arc<News>) {
        if self.ask_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.ask_at = None;
        if let Err(why) = self.connect(news) {
            return self.fail(&why);
        }
        let Some(Writer { client: Client { handle, events, .. }, .. }) = &self.writer else { return };
        self.question += 1;
        match self.step {
            Step::Looking => {
                handle.describe_topics(events, self.question, std::slice::from_ref(&self.name));
            }
            Step::Making => {
                let mut configs = vec![
                    (c"cleanup.policy".to_owned(), c"compact".to_owned()),
                    (c"unclean.leader.election.enable".to_owned(), c"false".to_owned()),
                ];
                if self.replication >= 3 {
                    configs.push((c"min.insync.replicas".to_owned(), c"2".to_owned()));
                }
                let replication = i32::from(self.replication);
                let topic = NewTopic { name: &self.name, partitions: 1, replication, configs: &configs };
                if let Err(trouble) = handle.create_topic(events, self.question, &topic) {
                    self.fail(&format!("create the topic: {trouble}"));
                }
            }
            Step::Checking => handle.describe_config(events, self.question, &self.name),
            Step::Following => {
                if let Err(trouble) = self.follow(news) {
                    self.fail(&trouble.to_string());
                }
            }
        }
    }

    /// Creates the client that writes. Blocks.
    fn connect(&mut self, news: &Arc<News>) -> Result<(), String> {
        if self.writer.is_none() {
            let handle = Handle::producer(&self.properties.producer)?;
            self.supply(&handle);
            let topic = Topic::new(&handle, &self.name).map_err(|trouble| trouble.to_string())?;
            let client = Client::new(handle, news).ok_or("it has no queue")?;
            self.writer = Some(Writer { topic, client });
        }
        Ok(())
    }

    /// Begins to read the topic from its beginning. Blocks.
    fn follow(&mut self, news: &Arc<News>) -> Result<(), Trouble> {
        self.reader = None;
        let failed = |_| Trouble::ours("a client that reads attributes cannot be created");
        let handle = Handle::consumer(&self.properties.readers).map_err(failed)?;
        self.supply(&handle);
        let topic = Topic::new(&handle, &self.name)?;
        let consumer = Consumer::new(handle, news).ok_or_else(|| failed(String::new()))?;
        topic.start(PARTITION, BEGINNING, &consumer.messages)?;
        self.shared.view().handle_start();
        self.reader = Some(Reader { topic, consumer });
        Ok(())
    }

    fn supply(&self, handle: &Handle) {
        if let Some(tokens) = &self.tokens {
            tokens.supply(handle);
        }
    }

    fn poll_event(&self) -> Option<Event> {
        let of_writer = self.writer.as_ref().and_then(|writer| writer.client.events.poll());
        of_writer.or_else(|| self.reader.as_ref()?.consumer.client.events.poll())
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Reports(reports) => {
                let mut all = Vec::new();
                reports.each(|report| all.push(report));
                all.into_iter().for_each(|report| self.handle_report(report.opaque, report.result));
            }
            Event::Described { asked, result } if asked == self.question => {
                let topic = result.map(|topics| topics.into_iter().next());
                match topic.and_then(|topic| topic.ok_or_else(Trouble::nothing)?.result) {
                    Ok(_) => self.go_on(Step::Checking),
                    Err(trouble) if trouble.is_unknown() => self.go_on(Step::Making),
                    Err(trouble) => self.fail(&format!("look for the topic: {trouble}")),
                }
            }
            Event::Created { asked, result } if asked == self.question => match result {
                Ok(()) => {
                    tracing::info!(topic = %self.name.to_string_lossy(), "created the topic for attributes");
                    self.go_on(Step::Checking);
                }
                // Another server has created it first.
                Err(trouble) if trouble.code == RDKafkaErrorCode::TopicAlreadyExists => {
                    self.go_on(Step::Checking);
                }
                Err(trouble) => {
                    let replication = self.replication;
                    self.fail(&format!("create the topic with kafka_replication = {replication}: {trouble}"));
                    self.step = Step::Looking;
                }
            },
            Event::Configs { asked, result } if asked == self.question => self.handle_configs(result),
            Event::Error { trouble, is_fatal: true } => {
                tracing::error!(%trouble, "the Kafka producer of attributes failed fatally; replacing it");
                self.writer = None;
                for (reply, fault) in self.writes.take_all() {
                    reply(Err(fault));
                }
                self.go_on(Step::Looking);
            }
            Event::Error { trouble, is_fatal: false } => log_error(&trouble),
            _ => {}
        }
    }

    fn handle_configs(&mut self, result: Result<Vec<(String, String)>, Trouble>) {
        let policy = match result {
            // A broker that does not know the new topic yet.
            Err(trouble) if trouble.is_unknown() => return self.fail(&trouble.to_string()),
            Err(trouble) => Err(format!("its configuration is unknown: {trouble}")),
            Ok(configs) => match configs.iter().find(|(key, _)| key == "cleanup.policy") {
                Some((_, policy)) if policy != "compact" => {
                    Err(format!("cleanup.policy = {policy} should be compact, or Kafka deletes attributes"))
                }
                _ => Ok(()),
            },
        };
        match policy {
            Err(why) if self.is_strict => return self.fail(&why),
            Err(why) => {
                tracing::warn!(topic = %self.name.to_string_lossy(), why, "the topic for attributes promises less than Millstream does");
            }
            Ok(()) => {}
        }
        self.go_on(Step::Following);
    }

    fn go_on(&mut self, step: Step) {
        (self.step, self.ask_at, self.is_failing) = (step, Some(Instant::now()), false);
    }

    /// Logs a failure, and asks again later.
    fn fail(&mut self, why: &str) {
        self.ask_at = Some(Instant::now() + RETRY);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(
                topic = %self.name.to_string_lossy(),
                why,
                "kafka_attributes_topic cannot be used; trying again. Queues are not opened until it was read once"
            );
        }
    }

    /// Reads what has arrived.
    fn read(&mut self) {
        let Some(Reader { consumer, .. }) = &self.reader else { return };
        let failed = read(&consumer.messages, &self.shared);
        if let Some(trouble) = failed {
            // The topic may have been deleted. What was read stays in use until it can be read again.
            self.reader = None;
            self.step = Step::Looking;
            self.fail(&format!("read the topic: {trouble}"));
        }
    }
}

/// Reads all messages that have arrived. Returns the error after which no more come.
fn read(messages: &Queue, shared: &Shared) -> Option<Trouble> {
    let mut failed = None;
    while failed.is_none() {
        let count = messages.consume(|message| match message.trouble() {
            None => handle_record(&message, shared),
            Some(Trouble { code: RDKafkaErrorCode::PartitionEOF, .. }) => {
                let (was_whole, changed) = {
                    let mut view = shared.view();
                    (view.is_whole(), view.handle_end(message.offset()))
                };
                changed.iter().filter(|_| was_whole).for_each(|topic| shared.tell(Some(topic)));
                if !was_whole {
                    shared.tell(None);
                }
            }
            Some(trouble) if is_passing(&trouble) => {}
            Some(trouble) => failed = Some(trouble),
        });
        if count == 0 {
            break;
        }
    }
    failed
}

fn handle_record(message: &Message<'_>, shared: &Shared) {
    let changed = shared.view().handle_record(message.offset(), message.key(), message.payload());
    if let Some(topic) = changed {
        shared.tell(Some(&topic));
    }
}

/// Returns whether librdkafka goes on by itself.
fn is_passing(trouble: &Trouble) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve};
    matches!(trouble.code, AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve)
}

//! The server's thread for the operator's questions, which block: messages by their ids, the ends of partitions, and the
//! topics of all queues. It creates a client when it is asked, and drops it after a pause.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::batches::{Batches, Reads};
use super::client::Consumer;
use super::layout::Layout;
use super::native::{Handle, Message, Topic, Trouble};
use super::news::News;
use super::properties::Properties;
use super::tokens::Tokens;
use super::topic_name::TopicNames;
use super::topics::TopicInfo;
use crate::base::batch::StoredBatch;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::Found;
use crate::base::names::FullName;
use crate::base::units::{Offset, Partition};
use crate::store::window::Window;

/// How long Kafka may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a client without questions is kept.
const IDLE: Duration = Duration::from_secs(10);

/// The longest sleep while messages are awaited.
const NAP: Duration = Duration::from_millis(100);

/// How many records it reads over to reach the next one, instead of seeking.
const NEAR: i64 = 500;

/// The size in bytes at which an answer has no further message. Who asked asks again for the others.
const FOUND_BYTES_MAX: usize = 4 << 20;

type Work = Box<dyn FnOnce(&mut Desk) + Send>;

/// Accepts questions for its thread, which ends when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Clerk(Sender<Work>);

impl Clerk {
    /// Starts the thread. It may run on the caller's cores.
    pub(super) fn start(
        names: TopicNames,
        properties: Properties,
        tokens: Option<Tokens>,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        std::thread::Builder::new().name("kafka-clerk".into()).spawn(move || {
            let thread = std::thread::current();
            let news = Arc::new(News::new(move || thread.unpark()));
            let desk = Desk { names, properties, tokens, news, consumer: None, listed: None };
            work(&receiver, desk);
        })?;
        Ok(Self(sender))
    }

    /// Runs `work` on the thread.
    pub(super) fn run(&self, work: impl FnOnce(&mut Desk) + Send + 'static) {
        // Never fails: the thread ends after its senders.
        let _ = self.0.send(Box::new(work));
    }
}

impl fmt::Debug for Clerk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clerk")
    }
}

fn work(questions: &Receiver<Work>, mut desk: Desk) {
    loop {
        match questions.recv_timeout(IDLE) {
            Ok(work) => work(&mut desk),
            Err(RecvTimeoutError::Timeout) => (desk.consumer, desk.listed) = (None, None),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// All queues with their numbers of partitions, sorted by their names; or why they are unknown.
pub(super) type Queues = Result<Arc<[(FullName, u16)]>, StoreFault>;

/// An answer of Kafka to the question for all queues.
#[derive(Debug)]
struct Listed {
    queues: Queues,
    asked: Instant,
    answered: Instant,
}

/// What the thread has to answer questions with.
#[derive(Debug)]
pub(super) struct Desk {
    names: TopicNames,
    properties: Properties,
    tokens: Option<Tokens>,
    news: Arc<News>,
    consumer: Option<Consumer>,
    /// All queues, as Kafka told last.
    listed: Option<Listed>,
}

impl Desk {
    fn consumer(&mut self) -> Result<&Consumer, StoreFault> {
        let failed = StoreFault::Unavailable("Kafka cannot be read now");
        if self.consumer.is_none() {
            let handle = Handle::consumer(&self.properties.readers).map_err(|why| {
                tracing::error!(why, "creation of a Kafka client failed");
                failed.clone()
            })?;
            if let Some(tokens) = &self.tokens {
                tokens.supply(&handle);
            }
            self.consumer = Consumer::new(handle, &self.news);
        }
        let consumer = self.consumer.as_ref().ok_or(failed)?;
        // The answers say what has failed.
        while consumer.client.events.poll().is_some() {}
        Ok(consumer)
    }

    /// Returns all queues, for a question that was asked at `since`. The shards ask together, and Kafka is asked once. The
    /// answer may be as old as `age`, and older if Kafka takes longer to give one: others ask this thread, too.
    pub(super) fn queues(&mut self, since: Instant, age: Duration) -> Queues {
        let serves = |listed: &&Listed| {
            let took = listed.answered.duration_since(listed.asked);
            // A shard that asked while Kafka did not answer gets the same error.
            let at = if listed.queues.is_ok() { listed.asked } else { listed.answered };
            at >= since || !age.is_zero() && listed.answered.elapsed() < age.max(took)
        };
        if let Some(listed) = self.listed.as_ref().filter(serves) {
            return listed.queues.clone();
        }
        let asked = Instant::now();
        let queues = self.ask_for_queues();
        self.listed = Some(Listed { queues: queues.clone(), asked, answered: Instant::now() });
        queues
    }

    fn ask_for_queues(&mut self) -> Queues {
        let topics = self.consumer()?.client.handle.topics(PATIENCE);
        let topics = topics.map_err(|trouble| trouble.report("list all topics"))?;
        let queue = |(topic, partitions): (String, u16)| Some((self.names.queue(&topic)?, partitions));
        let mut queues: Vec<_> = topics.into_iter().filter_map(queue).collect();
        queues.sort_unstable();
        Ok(queues.into())
    }

    /// Returns the number of offsets that a partition has, if that bounds its number of messages.
    pub(super) fn offsets(
        &mut self,
        info: &TopicInfo,
        partition: Partition,
    ) -> Result<Option<u64>, StoreFault> {
        if info.layout == Layout::Packed {
            return Ok(None);
        }
        let ends = self.consumer()?.client.handle.watermarks(&info.name, partition, PATIENCE);
        let (first, end) = ends.map_err(|trouble| trouble.report("ask where a partition begins and ends"))?;
        Ok(u64::try_from(end.saturating_sub(first)).ok())
    }

    /// Returns those of these messages that exist and have not expired, as many as fit. The offsets ascend.
    pub(super) fn find(
        &mut self,
        now: Now,
        info: &Arc<TopicInfo>,
        partition: Partition,
        offsets: &[Offset],
        reads: &Reads,
    ) -> Result<Vec<Found>, StoreFault> {
        let news = self.news.clone();
        let consumer = self.consumer()?;
        let report = |trouble: Trouble| trouble.report("read single messages");
        let topic = Topic::new(&consumer.client.handle, &info.name).map_err(report)?;
        let mut search = Search {
            now,
            info,
            partition,
            reads,
            wanted: offsets.iter().copied().collect(),
            found: Vec::new(),
            bytes: 0,
            next: 0,
            failed: None,
        };
        while let Some(first) = search.wanted.front() {
            let from = info.layout.of_kafka(*first);
            topic.start(partition, from, &consumer.messages).map_err(report)?;
            search.next = from;
            let ended = search.read(consumer, &news);
            topic.stop(partition);
            ended.map_err(report)?;
        }
        Ok(search.found)
    }
}

/// A search for messages of a partition.
struct Search<'a> {
    now: Now,
    info: &'a Arc<TopicInfo>,
    partition: Partition,
    reads: &'a Reads,
    /// The messages that are still wanted, ascending.
    wanted: VecDeque<Offset>,
    found: Vec<Found>,
    /// The size of the records that hold them.
    bytes: usize,
    /// Kafka's offset of the next record.
    next: i64,
    failed: Option<Trouble>,
}

impl Search<'_> {
    /// Reads until the next wanted message is far away, or none is left.
    fn read(&mut self, consumer: &Consumer, news: &News) -> Result<(), Trouble> {
        let until = Instant::now() + PATIENCE;
        loop {
            // What arrives from here on ends the sleep below.
            news.take();
            let count = consumer.messages.consume(|message| self.handle(&message));
            if let Some(trouble) = self.failed.take() {
                return Err(trouble);
            }
            match self.wanted.front() {
                None => return Ok(()),
                Some(wanted) if self.info.layout.of_kafka(*wanted) > self.next + NEAR => return Ok(()),
                Some(_) if Instant::now() >= until => {
                    return Err(Trouble::ours("Kafka does not answer in time"));
                }
                Some(_) if count == 0 => {
                    while consumer.client.events.poll().is_some() {}
                    std::thread::park_timeout(NAP);
                }
                Some(_) => {}
            }
        }
    }

    fn handle(&mut self, message: &Message<'_>) {
        match message.trouble() {
            None => self.handle_record(message),
            // There is nothing more.
            Some(Trouble { code: RDKafkaErrorCode::PartitionEOF, .. }) => {
                self.wanted.clear();
            }
            Some(Trouble {
                code: RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                ..
            }) => {}
            Some(trouble) => self.failed = Some(trouble),
        }
    }

    fn handle_record(&mut self, message: &Message<'_>) {
        let record = message.offset();
        if record < self.next {
            // The first wanted one is beyond the end, so that Kafka begins at the oldest record.
            self.wanted.clear();
            return;
        }
        self.next = record + 1;
        self.drop_below(record);
        let layout = self.info.layout;
        if self.wanted.front().is_none_or(|wanted| layout.of_kafka(*wanted) != record) {
            return;
        }
        if self.bytes >= FOUND_BYTES_MAX {
            self.wanted.clear();
            return;
        }
        self.bytes += message.key().len() + message.payload().len();
        let batches = batches_of(self.now, self.info, self.partition, self.reads, message);
        while let Some(wanted) = self.wanted.pop_front_if(|wanted| layout.of_kafka(*wanted) == record) {
            let holds = |stored: &&StoredBatch| (stored.base_offset..stored.end_offset()).contains(&wanted);
            let stored = batches.iter().find(holds).filter(|stored| !stored.is_expired(self.now.unix));
            self.found.extend(stored.map(|stored| Found {
                stored: stored.clone(),
                offset: wanted,
                record: stored.batch.position_of(wanted.since(stored.base_offset) as u32),
                count: 0,
                claim: None,
                expires: None,
            }));
        }
    }

    /// Gives up on the messages before a record: there are none.
    fn drop_below(&mut self, record: i64) {
        let layout = self.info.layout;
        while self.wanted.pop_front_if(|wanted| layout.of_kafka(*wanted) < record).is_some() {}
    }
}

/// Returns a record as batches; none if it cannot be served.
fn batches_of(
    now: Now,
    info: &Arc<TopicInfo>,
    partition: Partition,
    reads: &Reads,
    message: &Message<'_>,
) -> Vec<StoredBatch> {
    let mut window = Window::new(info.layout.offset(message.offset()));
    let mut batches = Batches::new(info.clone(), partition, reads.clone());
    batches.push(now, message, &mut window);
    batches.close(&mut window);
    window.into_batches()
}

//! Apache Kafka: one topic per queue, with one librdkafka producer or consumer per connection.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::super::pacer::{Pace, Room};
use super::super::plan::{About, Mode, Plan};
use super::super::producer::Produced;
use super::{Consumed, Failed, Job, LOOK_EVERY};
use crate::base::units::Offset;
use crate::store::kafka::TopicReader;

/// How long the cluster may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the delivery of a message may take (`delivery.timeout.ms`).
const DELIVERY_TIMEOUT_MS: &str = "30000";
/// How long a batch waits for more messages (`linger.ms`). The same as Millstream uses on Kafka.
const LINGER_MS: &str = "2";
/// The shortest wait that librdkafka's poll is used for. It ends early when a message is delivered. Shorter
/// waits are slept.
const POLL: Duration = Duration::from_millis(1);
/// How many messages a producer may have in flight by default.
const IN_FLIGHT: u64 = 100_000;

fn config(plan: &Plan) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &plan.url).set("client.id", "millstream-bench");
    config
}

pub(super) fn prepare(plan: &Plan, queues: &[String]) -> Result<About, Failed> {
    let admin: AdminClient<DefaultClientContext> = config(plan).create()?;
    let options = AdminOptions::new().operation_timeout(Some(ANSWER_TIMEOUT));
    let partitions = i32::try_from(plan.partitions)?;
    // `-1` selects the broker's `default.replication.factor`.
    let topics: Vec<NewTopic<'_>> =
        queues.iter().map(|queue| NewTopic::new(queue, partitions, TopicReplication::Fixed(-1))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for made in runtime.block_on(admin.create_topics(&topics, &options))? {
        match made {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, error)) => return Err(format!("topic {topic}: {error}").into()),
        }
    }
    let topic = queues.first().map_or("", String::as_str);
    let metadata = admin.inner().fetch_metadata(Some(topic), ANSWER_TIMEOUT)?;
    let replicas = metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
        .map(|partition| partition.replicas().len())
        .max()
        .unwrap_or(0);
    let resource = ResourceSpecifier::Topic(topic);
    let settings = runtime.block_on(admin.describe_configs([&resource], &options))?;
    let settings = settings.into_iter().next().transpose().map_err(|error| error.to_string())?;
    let value = |name: &str| {
        let entry = settings.as_ref()?.entries.iter().find(|entry| entry.name == name)?;
        entry.value.clone()
    };
    let least = value("min.insync.replicas").unwrap_or_else(|| "?".into());
    let sync = match value("flush.messages").as_deref() {
        Some("1") => "synced to the disk before it is acknowledged (flush.messages=1)",
        _ => "synced to the disk at some later time (flush.messages is not 1)",
    };
    Ok(About {
        version: format!(
            "{} brokers, librdkafka {}",
            metadata.brokers().len(),
            rdkafka::util::get_rdkafka_version().1
        ),
        durability: format!("on all in-sync of {replicas} replicas, at least {least} (acks=all), {sync}"),
    })
}

/// A delivery: the intended send time in nanoseconds of the run's clock, when librdkafka reported it, and the
/// error if it failed.
type Delivery = (usize, Instant, Option<String>);

/// The deliveries since the last look.
#[derive(Debug, Default)]
struct Deliveries(Mutex<Vec<Delivery>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, intended_ns: usize) {
        let failure = result.as_ref().err().map(|(error, _)| error.to_string());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((intended_ns, Instant::now(), failure));
    }
}

pub(super) fn produce(job: &mut Job) -> Result<Produced, Failed> {
    let plan = job.part.plan.clone();
    let in_flight = plan.in_flight.unwrap_or(IN_FLIGHT);
    let producer: BaseProducer<Deliveries> = config(&plan)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", LINGER_MS)
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", (in_flight + plan.batch as u64).to_string())
        .set("queue.buffering.max.kbytes", "1048576")
        .set("delivery.timeout.ms", DELIVERY_TIMEOUT_MS)
        .create_with_context(Deliveries::default())?;
    let (mut produced, mut answered) = (Produced::default(), 0);
    let mut payload = vec![b'.'; plan.size];
    let keys = plan.keys();
    // A producer's messages without keys go to one partition, so that they keep their order.
    let partition = i32::try_from(job.part.number)? % partitions(producer.client(), &job.queue)?;
    if !job.begin() {
        return Ok(produced);
    }
    let mut pacer = job.pacer();
    loop {
        let now = Instant::now();
        pacer.look();
        let wait = loop {
            match pacer.next(now, Room::of(in_flight, pacer.sequence() - answered)) {
                Pace::Send { intended, count } => {
                    let intended_ns = plan.clock_ns(intended);
                    for number in pacer.sequence()..pacer.sequence() + count {
                        let (stamp, key) = plan.stamp(job.part.number, number, intended_ns);
                        stamp.write(&mut payload);
                        send(
                            &producer,
                            &job.queue,
                            &payload,
                            keys.get(key),
                            partition,
                            intended_ns as usize,
                        )?;
                    }
                    pacer.sent(count);
                    producer.poll(Duration::ZERO);
                }
                Pace::At(at) => break Some(at.saturating_duration_since(Instant::now())),
                Pace::Wait => break Some(LOOK_EVERY),
                Pace::Over => break None,
            }
        };
        pacer.publish();
        answered += settle(job, &producer, &mut produced, wait);
        if wait.is_none() {
            break;
        }
    }
    produced.unsent = pacer.give_up(Instant::now(), &mut job.meter);
    producer.flush(Duration::from_secs(60))?;
    settle(job, &producer, &mut produced, None);
    Ok(produced)
}

/// Returns the number of partitions of a topic, which may have existed before.
fn partitions<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<i32, Failed> {
    let metadata = client.fetch_metadata(Some(topic), ANSWER_TIMEOUT)?;
    let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    if count == 0 {
        return Err(format!("topic {topic} has no partition").into());
    }
    Ok(i32::try_from(count)?)
}

fn send(
    producer: &BaseProducer<Deliveries>,
    topic: &str,
    payload: &[u8],
    key: Option<&Vec<u8>>,
    partition: i32,
    intended_ns: usize,
) -> Result<(), Failed> {
    let record = BaseRecord::with_opaque_to(topic, intended_ns).payload(payload);
    let mut record = match key {
        Some(key) => record.key(key.as_slice()),
        None => record.partition(partition),
    };
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Counts delivered messages. Waits for some of them, but not longer than `wait`.
fn settle(
    job: &mut Job,
    producer: &BaseProducer<Deliveries>,
    produced: &mut Produced,
    wait: Option<Duration>,
) -> u64 {
    match wait.unwrap_or_default() {
        // Sleep instead of polling in slices. With many producers, slices would leave the broker no CPU time
        // on a small machine.
        short if short < POLL => {
            std::thread::sleep(short);
            producer.poll(Duration::ZERO);
        }
        // Round down to whole milliseconds: too early is better than too late.
        long => producer.poll(Duration::from_millis(long.min(LOOK_EVERY).as_millis() as u64)),
    }
    let deliveries =
        std::mem::take(&mut *producer.context().0.lock().unwrap_or_else(PoisonError::into_inner));
    let count = deliveries.len() as u64;
    for (intended_ns, at, failure) in deliveries {
        job.answered(produced, intended_ns as u64, at, failure);
    }
    count
}

pub(super) fn consume(job: &mut Job) -> Result<Consumed, Failed> {
    let plan = job.part.plan.clone();
    let asker: BaseConsumer = config(&plan).create()?;
    let mut offsets = Vec::new();
    for partition in 0..partitions(asker.client(), &job.queue)? {
        let (oldest, end) = asker.fetch_watermarks(&job.queue, partition, ANSWER_TIMEOUT)?;
        offsets.push(Offset(u64::try_from(if plan.mode == Mode::Both { end } else { oldest })?));
    }
    drop(asker);
    let config = config(&plan);
    let properties = config.config_map().into_iter().map(|(key, value)| (key.into(), value.into()));
    // With producers, the consumer must be ready before they begin. Without, it asks for messages after the start.
    let begins_first = plan.mode == Mode::Consume;
    let mut begun = begins_first && job.begin();
    let reader = TopicReader::start(&properties.collect(), &job.queue, &offsets)?;
    begun |= !begins_first && job.begin();
    let mut reading = job.reading();
    if !begun {
        return Ok(reading.consumed(None));
    }
    while !reading.is_over(Instant::now()) {
        reading.begin(Instant::now(), &mut job.meter);
        reader.read(|payload| reading.handle(payload, &mut job.meter))?;
        reading.end(&mut job.meter);
    }
    Ok(reading.consumed(None))
}

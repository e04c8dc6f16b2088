//! The store on a real broker, and on librdkafka's mock cluster.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Code};

use super::broker::{Brokers, is_possible};
use super::layout::Layout;
use super::settings::{Bounds, Settings};
use super::tails::AtTail;
use super::topics::TopicInfo;
use super::{Cluster, Kafka, News, WINDOW_BYTES};
use crate::base::attributes::Attributes;
use crate::base::batch::Fetched;
use crate::base::claim::View;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::{FullName, Project, QueueName};
use crate::base::queue::{PartitionKey, QueueId, Signing};
use crate::base::units::{Offset, Partition};
use crate::store::conformance::{self, Lab, batch};
use crate::store::fetch::Fetch;
use crate::store::{Completion, Life, NewQueue, Request, Store, StoreEvent, Stream};

/// Returns the one broker for all tests of this process.
fn broker() -> Option<&'static Brokers> {
    static BROKER: OnceLock<Option<Brokers>> = OnceLock::new();
    BROKER.get_or_init(|| is_possible().then(|| Brokers::start(1))).as_ref()
}

/// How long a store may be silent before it counts as finished.
const SILENCE: Duration = Duration::from_secs(20);

/// How often it gets a tick while the test waits.
const TICK: Duration = Duration::from_millis(100);

/// A store for one test, and its settings.
struct Lone {
    config: Settings,
    bounds: Bounds,
    rung: Receiver<()>,
    ring: mpsc::Sender<()>,
    queues: Cell<u64>,
    heard: Cell<Instant>,
}

impl Lone {
    fn on(broker: &Brokers) -> Self {
        let lone = Self::on_nothing();
        Self { config: Settings { brokers: broker.addresses.clone(), ..lone.config.clone() }, ..lone }
    }

    /// Uses an address at which no broker listens.
    fn on_nothing() -> Self {
        let (ring, rung) = mpsc::channel();
        let config = Settings { brokers: "127.0.0.1:1".into(), replication: 1, ..Settings::default() };
        let bounds = Bounds::of_tests();
        Self { config, bounds, rung, ring, queues: Cell::new(0), heard: Cell::new(Instant::now()) }
    }

    fn now(&self) -> Now {
        let unix = self.unix().unwrap();
        Now::at_ms(unix.get(), unix.get())
    }

    fn store_on(&self, cluster: Cluster) -> Kafka<u64> {
        let ring = self.ring.clone();
        let news = News::new(move || {
            let _ = ring.send(());
        });
        Kafka::new(cluster, &self.config, &self.bounds, 1, Arc::new(news))
    }

    /// Waits for the next completion.
    fn next(&self, store: &mut Kafka<u64>) -> Completion<u64> {
        loop {
            if let Some(completion) = store.poll_completion(self.now()) {
                return completion;
            }
            assert!(self.wait(), "nothing comes");
            store.handle_tick(self.now());
        }
    }

    /// Opens a queue of one partition.
    fn open(&self, store: &mut Kafka<u64>, name: &str) -> PartitionKey {
        let (queue, _) = self.queue();
        let name = (Project::parse("lone").unwrap(), QueueName::parse(name).unwrap());
        assert!(
            store
                .submit(self.now(), Request::Open { token: 0, queue, name, create: Some(NewQueue::plain(1)) })
                .is_ok()
        );
        let opened = self.next(store);
        assert!(matches!(opened, Completion::Opened { result: Ok(_), .. }), "{opened:?}");
        PartitionKey { queue, partition: Partition(0) }
    }

    /// Appends messages, as a stream of their own.
    fn append(&self, store: &mut Kafka<u64>, partition: PartitionKey, token: u64, payloads: &[&[u8]]) {
        self.append_in(store, Stream(token.into()), partition, token, payloads);
    }

    fn append_in(
        &self,
        store: &mut Kafka<u64>,
        stream: Stream,
        partition: PartitionKey,
        token: u64,
        payloads: &[&[u8]],
    ) {
        let batch = batch(1, 1000, payloads);
        assert!(store.submit(self.now(), Request::Append { token, stream, partition, batch }).is_ok());
    }

    /// Returns the result of a waiting fetch from an offset.
    fn fetched(&self, store: &mut Kafka<u64>, partition: PartitionKey, from: Offset) -> Fetched {
        let fetch = Request::Fetch {
            token: 0,
            partition,
            from,
            bytes_max: 1 << 20,
            exclude: None,
            view: View::Unclaimed,
            wait: true,
        };
        assert!(store.submit(self.now(), fetch).is_ok());
        match self.next(store) {
            Completion::Fetched { result: Ok(fetched), .. } => fetched,
            other => panic!("{other:?}"),
        }
    }

    /// Reads at least `count` payloads from an offset on.
    fn read(
        &self,
        store: &mut Kafka<u64>,
        partition: PartitionKey,
        mut from: Offset,
        count: usize,
    ) -> Vec<Vec<u8>> {
        let mut read = Vec::new();
        while read.len() < count {
            let fetched = self.fetched(store, partition, from);
            read.extend(
                fetched.batches.iter().flat_map(|stored| stored.batch.payloads()).map(<[u8]>::to_vec),
            );
            from = fetched.next;
        }
        read
    }

    fn appended(&self, store: &mut Kafka<u64>) -> (u64, Result<(), StoreFault>) {
        match self.next(store) {
            Completion::Appended { token, result } => (token, result.map(|_| ())),
            other => panic!("{other:?}"),
        }
    }
}

impl Lab for Lone {
    type Store = Kafka<u64>;

    fn store(&self) -> Kafka<u64> {
        self.store_on(Cluster::start(&self.config, &self.bounds).unwrap())
    }

    fn unix(&self) -> Option<UnixMillis> {
        Some(UnixMillis::from_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap()))
    }

    fn wait(&self) -> bool {
        if self.rung.recv_timeout(TICK).is_ok() {
            self.heard.set(Instant::now());
        }
        self.heard.get().elapsed() < SILENCE
    }

    fn adds_partitions(&self) -> bool {
        false
    }

    fn finds_messages(&self) -> bool {
        true
    }

    fn queue(&self) -> (QueueId, QueueName) {
        self.queues.set(self.queues.get() + 1);
        (QueueId(self.queues.get()), QueueName::parse(&format!("q{}", self.queues.get())).unwrap())
    }
}

#[test]
fn the_kafka_store_conforms() {
    let Some(broker) = broker() else { return };
    conformance::run(&Lone::on(broker));
}

#[test]
fn the_packed_kafka_store_conforms() {
    let Some(broker) = broker() else { return };
    let lone = Lone::on(broker);
    let config = Settings { packed: true, ..lone.config.clone() };
    conformance::run(&Lone { config, ..lone });
}

/// A server of several that share a broker: the names of its queues, and its store.
struct Site {
    lone: Lone,
    store: Kafka<u64>,
}

impl Site {
    /// Starts a server whose queues have their attributes in `topic`.
    fn new(broker: &Brokers, topic: &str) -> Self {
        let lone = Lone::on(broker);
        let lone =
            Lone { config: Settings { attributes_topic: topic.to_owned(), ..lone.config.clone() }, ..lone };
        Self { store: lone.store(), lone }
    }

    fn open(&mut self, name: &str, create: Option<NewQueue>) -> Result<(QueueId, Life), StoreFault> {
        let (queue, _) = self.lone.queue();
        let open = Request::Open { token: 0, queue, name: full(name), create };
        assert!(self.store.submit(self.lone.now(), open).is_ok());
        match self.lone.next(&mut self.store) {
            Completion::Opened { result, .. } => result.map(|life| (queue, life)),
            other => panic!("{other:?}"),
        }
    }

    fn alter(&mut self, name: &str, attributes: &str) -> Result<Attributes, StoreFault> {
        let (name, attributes) = (full(name), of(attributes));
        let alter = Request::Alter { token: 0, name, attributes, partitions: 1 };
        assert!(self.store.submit(self.lone.now(), alter).is_ok());
        match self.lone.next(&mut self.store) {
            Completion::Altered { result, .. } => result.map(|life| life.attributes),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the attributes that another server has set.
    fn altered(&mut self) -> (QueueId, Attributes) {
        loop {
            match self.store.poll_event() {
                Some(StoreEvent::Altered { queue, attributes }) => return (queue, attributes),
                Some(other) => panic!("{other:?}"),
                None => {
                    assert!(self.lone.wait(), "nothing comes");
                    assert!(self.store.poll_completion(self.lone.now()).is_none());
                }
            }
        }
    }

    fn list(&mut self) -> Arc<[(FullName, u16)]> {
        assert!(self.store.submit(self.lone.now(), Request::List { token: 0, age: Millis::ZERO }).is_ok());
        match self.lone.next(&mut self.store) {
            Completion::Listed { result, .. } => result.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

fn full(name: &str) -> FullName {
    (Project::parse("lone").unwrap(), QueueName::parse(name).unwrap())
}

fn of(json: &str) -> Attributes {
    Attributes::parse_stored(json.as_bytes()).unwrap()
}

#[test]
fn a_topic_is_young_to_the_server_that_made_it() {
    let Some(broker) = broker() else { return };
    let [mut one, mut other] = [(); 2].map(|()| Site::new(broker, "young"));
    let new = NewQueue { partitions: 1, attributes: of("{}") };
    let (mine, _) = one.open("young", Some(new.clone())).unwrap();
    let (theirs, _) = other.open("young", Some(new)).unwrap();
    let is_young = |site: &mut Site, queue| site.store.queues.topic(queue).unwrap().is_young;
    assert_eq!((is_young(&mut one, mine), is_young(&mut other, theirs)), (true, false));
}

#[test]
fn servers_that_share_brokers_agree_on_attributes() {
    let Some(broker) = broker() else { return };
    let [mut one, mut other] = [(); 2].map(|()| Site::new(broker, "agreed"));
    let (first, second) = (r#"{"_default_message_ttl":60,"mine":[1]}"#, r#"{"_default_message_ttl":61}"#);
    let new = |attributes| Some(NewQueue { partitions: 1, attributes: of(attributes) });
    let (mine, life) = one.open("agreed", new(first)).unwrap();
    assert_eq!(life.attributes, of(first));
    one.open("without", new("{}")).unwrap();
    // The other server may read the record later than it opens the queue.
    let (theirs, life) = other.open("agreed", new(second)).unwrap();
    if life.attributes != of(first) {
        assert_eq!((life.attributes, other.altered()), (of("{}"), (theirs, of(first))));
    }
    let (_, life) = other.open("without", None).unwrap();
    assert_eq!(life.attributes, of("{}"), "another queue's do not apply");
    assert_eq!(other.alter("agreed", second), Ok(of(second)));
    // The record of its own that came with the queue may be reported once more before.
    while one.altered() != (mine, of(second)) {}
    assert_eq!(one.alter("agreed", "{}"), Ok(of("{}")));
    while other.altered() != (theirs, of("{}")) {}
    assert_eq!(one.alter("agreed", first), Ok(of(first)));
    // One that starts later knows everything before it opens a queue.
    let mut late = Site::new(broker, "agreed");
    assert_eq!(late.open("agreed", None).unwrap().1.attributes, of(first));
    assert_eq!(late.open("without", None).unwrap().1.attributes, of("{}"));
    assert_eq!(late.alter("nowhere", first), Err(StoreFault::NoQueue));
    let listed = late.list();
    for name in ["agreed", "without"] {
        assert!(listed.contains(&(full(name), 1)), "{listed:?}");
    }
    assert!(listed.iter().all(|((project, _), _)| project.as_str() != "millstream-attributes"), "{listed:?}");
}

#[test]
fn attributes_that_kafka_cannot_serve_are_refused_by_name() {
    let Some(broker) = broker() else { return };
    let mut site = Site::new(broker, "refusing");
    let refused = r#"{"mine":1,"_max_messages":5}"#;
    let new = NewQueue { partitions: 1, attributes: of(refused) };
    let names_it =
        |fault| matches!(fault, Some(StoreFault::Unsupported(why)) if why.starts_with("_max_messages:"));
    assert!(names_it(site.open("refusing", Some(new)).err()));
    assert_eq!(site.open("refusing", None).err(), Some(StoreFault::NoQueue), "nothing was created");
    site.open("refusing", Some(NewQueue::plain(1))).unwrap();
    assert!(names_it(site.alter("refusing", refused).err()));
    // Without a topic for them, there are no attributes, and everything else works.
    let mut without = Site::new(broker, "");
    without.open("refusing", None).unwrap();
    let fault = without.alter("refusing", r#"{"mine":1}"#).unwrap_err();
    assert!(fault.to_string().contains("kafka_attributes_topic"), "{fault}");
}

#[test]
fn a_producer_that_fails_fatally_is_replaced() {
    let Some(broker) = broker() else { return };
    let lone = Lone::on(broker);
    let mut store = lone.store();
    let partition = lone.open(&mut store, "replaced");
    lone.append(&mut store, partition, 1, &[b"before"]);
    assert_eq!(lone.appended(&mut store), (1, Ok(())));
    store.appends.client().expect("it is connected").handle.fail_for_good();
    // Records that the failed producer has not taken wait for the next one.
    lone.append(&mut store, partition, 2, &[b"meanwhile"]);
    assert_eq!(lone.appended(&mut store), (2, Ok(())));
    lone.append(&mut store, partition, 3, &[b"after"]);
    assert_eq!(lone.appended(&mut store), (3, Ok(())));
}

#[test]
fn messages_larger_than_what_a_reader_keeps_are_read() {
    let Some(broker) = broker() else { return };
    let lone = Lone::on(broker);
    let bounds = Bounds { max_payload_bytes: 12 << 20, max_pb_bytes: 16 << 20, ..lone.bounds };
    let lone = Lone { bounds, ..lone };
    let mut store = lone.store();
    let partition = lone.open(&mut store, "large");
    let payloads = [b'a', b'b', b'c'].map(|letter| vec![letter; WINDOW_BYTES + 1000]);
    for (token, payload) in (1..).zip(&payloads) {
        lone.append(&mut store, partition, token, &[payload]);
        assert_eq!(lone.appended(&mut store), (token, Ok(())));
    }
    let mut from = Offset::ZERO;
    let mut read = Vec::new();
    while from < Offset(3) {
        let fetch = Request::Fetch {
            token: 9,
            partition,
            from,
            bytes_max: 1 << 20,
            exclude: None,
            view: View::Unclaimed,
            wait: true,
        };
        assert!(store.submit(lone.now(), fetch).is_ok());
        let Completion::Fetched { result: Ok(fetched), .. } = lone.next(&mut store) else {
            panic!("it is there")
        };
        let letters =
            fetched.batches.iter().flat_map(|stored| stored.batch.payloads()).map(|payload| payload[0]);
        read.extend(letters);
        from = fetched.next;
    }
    assert_eq!(read, b"abc");
}

#[test]
fn without_a_broker_appends_fail_in_time_and_the_store_needs_no_more_ticks() {
    let lone = Lone::on_nothing();
    let mut store = lone.store();
    let name = (Project::parse("lone").unwrap(), QueueName::parse("nowhere").unwrap());
    let open = Request::Open { token: 0, queue: QueueId(1), name, create: Some(NewQueue::plain(1)) };
    assert!(store.submit(lone.now(), open).is_ok());
    let opened = lone.next(&mut store);
    assert!(
        matches!(opened, Completion::Opened { result: Err(StoreFault::Unavailable(_)), .. }),
        "{opened:?}"
    );
    let partition = PartitionKey { queue: QueueId(1), partition: Partition(0) };
    lone.append(&mut store, partition, 1, &[b"lost"]);
    assert!(matches!(lone.appended(&mut store), (1, Err(StoreFault::Unavailable(_)))));
    store.handle_tick(lone.now());
    assert!(!store.needs_ticks());
}

/// Creates librdkafka's mock cluster with a topic of one partition, and a store on it. The mock has no
/// controller that could open a queue, so the store knows the queue from the start.
fn mocked(
    config: Settings,
    bounds: Bounds,
) -> (MockCluster<'static, DefaultProducerContext>, Lone, Kafka<u64>, PartitionKey) {
    let mock = MockCluster::new(3).unwrap();
    mock.create_topic("lone.mocked", 1, 3).unwrap();
    let (brokers, attributes_topic) = (mock.bootstrap_servers(), String::new());
    let config = Settings { brokers, attributes_topic, ..config };
    let lone = Lone { config, bounds, ..Lone::on_nothing() };
    let cluster = Cluster::start(&lone.config, &lone.bounds).unwrap();
    let (queue, _) = lone.queue();
    cluster.assume(queue, c"lone.mocked".to_owned(), 1);
    let store = lone.store_on(cluster);
    (mock, lone, store, PartitionKey { queue, partition: Partition(0) })
}

#[test]
fn temporary_errors_of_brokers_do_not_reach_clients_and_order_is_kept() {
    let Lone { config, bounds, .. } = Lone::on_nothing();
    let (mock, lone, mut store, partition) = mocked(config, bounds);
    mock.broker_round_trip_time(1, Duration::from_millis(30)).unwrap();
    let passing = [
        Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    ];
    mock.request_errors(RDKafkaApiKey::Produce, &passing);
    let numbers: Vec<[u8; 4]> = (0u32..500).map(u32::to_le_bytes).collect();
    for (token, number) in (1..).zip(&numbers) {
        lone.append(&mut store, partition, token, &[number]);
    }
    for token in 1..=500 {
        assert_eq!(lone.appended(&mut store), (token, Ok(())), "a partition's appends complete in order");
    }
    let (mut from, mut read) = (Offset::ZERO, Vec::new());
    while read.len() < numbers.len() {
        let fetch = Request::Fetch {
            token: 0,
            partition,
            from,
            bytes_max: 1 << 20,
            exclude: None,
            view: View::Unclaimed,
            wait: true,
        };
        assert!(store.submit(lone.now(), fetch).is_ok());
        let Completion::Fetched { result: Ok(fetched), .. } = lone.next(&mut store) else {
            panic!("it is there")
        };
        read.extend(fetched.batches.iter().flat_map(|stored| stored.batch.payloads()).map(<[u8]>::to_vec));
        from = fetched.next;
    }
    assert_eq!(read, numbers, "each once, in order");
    // A permanent error reaches the client immediately.
    mock.request_errors(RDKafkaApiKey::Produce, &[Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    lone.append(&mut store, partition, 999, &[b"refused"]);
    let (token, result) = lone.appended(&mut store);
    assert!(
        token == 999 && matches!(&result, Err(StoreFault::Unavailable(why)) if why.contains("Kafka")),
        "{result:?}"
    );
}

#[test]
fn messages_without_an_offset_do_not_count_as_stored() {
    let Lone { config, bounds, .. } = Lone::on_nothing();
    let (mock, lone, mut store, partition) = mocked(config, bounds);
    // librdkafka reports success here without an offset, as it does for records of which it concludes that they are stored.
    mock.request_errors(RDKafkaApiKey::Produce, &[Code::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER]);
    lone.append(&mut store, partition, 1, &[b"maybe lost"]);
    let (token, result) = lone.appended(&mut store);
    assert!(
        token == 1 && matches!(&result, Err(StoreFault::Unavailable(why)) if why.contains("may have lost")),
        "{result:?}"
    );
}

#[test]
fn a_partition_gets_nothing_more_until_it_has_stored_its_first_record() {
    let refused = Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    // A broker that does not know a new partition yet.
    let unknown = Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    for (errors, is_one_stream, failing) in [
        (vec![unknown], true, 0),
        (vec![refused, unknown], false, 1),
        (vec![refused; 3], false, 3),
        (vec![refused], true, 4),
    ] {
        let Lone { config, bounds, .. } = Lone::on_nothing();
        // Each record has a request of its own.
        let (mock, lone, mut store, partition) = mocked(Settings { batch_bytes: 1, ..config }, bounds);
        for broker in 1..=3 {
            mock.broker_round_trip_time(broker, Duration::from_millis(30)).unwrap();
        }
        mock.request_errors(RDKafkaApiKey::Produce, &errors);
        for token in 1..=4 {
            let stream = Stream(if is_one_stream { 1 } else { token.into() });
            lone.append_in(&mut store, stream, partition, token, &[b"one", b"two"]);
        }
        let mut end = Offset::ZERO;
        for expected in 1..=4 {
            let Completion::Appended { token, result } = lone.next(&mut store) else { panic!("an append") };
            assert_eq!(token, expected);
            if token <= failing {
                assert!(result.is_err(), "{token}: {result:?}");
                continue;
            }
            let range = result.unwrap().unwrap();
            assert_eq!(range, end..end.saturating_add(2), "{token}");
            end = range.end;
        }
        assert!(store.appends.is_idle(), "nothing is left behind");
    }
}

/// The most messages that the producer of the next two tests takes.
const FEW: usize = 1_000;

#[test]
fn messages_beyond_librdkafkas_limit_wait_and_are_stored_in_order() {
    let Some(broker) = broker() else { return };
    let lone = Lone::on(broker);
    let bounds = Bounds { shard_budget_bytes: 4096, ..lone.bounds };
    let lone = Lone { bounds, ..lone };
    let mut store = lone.store();
    let partition = lone.open(&mut store, "more");
    let messages = vec![&b"x"[..]; FEW * 2 / 3];
    (1..=20).for_each(|token| lone.append(&mut store, partition, token, &messages));
    for token in 1..=20 {
        let Completion::Appended { token: of, result: Ok(Some(offsets)) } = lone.next(&mut store) else {
            panic!("it is stored")
        };
        let first = Offset((token - 1) * messages.len() as u64);
        assert_eq!((of, offsets), (token, first..first + messages.len() as u64));
    }
}

#[test]
fn messages_waiting_for_room_fail_with_the_rest_and_room_comes_back() {
    let Lone { config, bounds, .. } = Lone::on_nothing();
    let config = Settings { delivery_timeout: Duration::from_secs(1), ..config };
    let (mock, lone, mut store, partition) = mocked(config, Bounds { shard_budget_bytes: 4096, ..bounds });
    let messages = vec![&b"x"[..]; FEW * 2 / 3];
    // Until the producer is connected, appends may fail.
    let append_until_stored = |store: &mut Kafka<u64>, tokens: Range<u64>| {
        for token in tokens.clone() {
            lone.append(store, partition, token, &messages);
            let (of, result) = lone.appended(store);
            assert_eq!(of, token);
            if result.is_ok() {
                return;
            }
        }
        panic!("nothing of {tokens:?} was stored");
    };
    append_until_stored(&mut store, 100..160);
    (1..=3).for_each(|broker| mock.broker_down(broker).unwrap());
    (2..=9).for_each(|token| lone.append(&mut store, partition, token, &messages));
    // Appends that wait for room may fail before those that librdkafka holds.
    let mut failed: Vec<u64> = (2..=9)
        .map(|_| match lone.appended(&mut store) {
            (token, Err(_)) => token,
            stored => panic!("{stored:?}"),
        })
        .collect();
    failed.sort_unstable();
    assert_eq!(failed, Vec::from_iter(2..=9));
    assert!(store.appends.is_idle());
    (1..=3).for_each(|broker| mock.broker_up(broker).unwrap());
    append_until_stored(&mut store, 200..260);
}

#[test]
fn a_position_beyond_the_end_continues_at_the_oldest() {
    let Lone { config, bounds, .. } = Lone::on_nothing();
    let (_mock, lone, mut store, partition) = mocked(config, bounds);
    for (token, payload) in (1..).zip([b"one", b"two"]) {
        lone.append(&mut store, partition, token, &[payload]);
        assert_eq!(lone.appended(&mut store), (token, Ok(())));
    }
    // The first fetch starts the tail; at the second, the tail is running.
    for beyond in [Offset(1_000), Offset(3)] {
        let fetched = lone.fetched(&mut store, partition, beyond);
        assert!(fetched.batches.is_empty() && !fetched.at_end, "{fetched:?}");
        assert_eq!(fetched.next, Fetched::rewound().next);
    }
    assert_eq!(lone.read(&mut store, partition, Offset(0), 2), [b"one", b"two"]);
    assert_eq!(store.waiting(), 0);
    // A fetch at the end waits, and gets the next message.
    let fetch = Request::Fetch {
        token: 9,
        partition,
        from: Offset(2),
        bytes_max: 1 << 20,
        exclude: None,
        view: View::Unclaimed,
        wait: true,
    };
    assert!(store.submit(lone.now(), fetch).is_ok());
    lone.append(&mut store, partition, 3, &[b"three"]);
    let mut next = || match lone.next(&mut store) {
        Completion::Fetched { token: 9, result: Ok(fetched) } => Some(fetched.batches[0].base_offset),
        _ => None,
    };
    let both = [next(), next()];
    assert!(both.contains(&Some(Offset(2))), "{both:?}");
}

#[test]
fn a_consumer_ahead_of_the_tail_gets_no_rewind() {
    let Lone { config, bounds, .. } = Lone::on_nothing();
    let (_mock, lone, mut store, partition) = mocked(config, bounds);
    for (token, payload) in (1..).zip([b"one", b"two"]) {
        lone.append(&mut store, partition, token, &[payload]);
        assert_eq!(lone.appended(&mut store), (token, Ok(())));
    }
    // The tail runs from here on.
    assert_eq!(lone.read(&mut store, partition, Offset(0), 2), [b"one", b"two"]);
    // A reader has brought the consumer further, and Kafka has confirmed that the partition reaches that far.
    let fetch = Fetch {
        token: 9,
        from: Offset(5),
        bytes_max: 1 << 20,
        exclude: None,
        view: View::Unclaimed,
        wait: false,
        since: lone.now().mono,
    };
    let AtTail::Answered(_, fetched) = store.fetches.tails.place(lone.now(), partition, fetch, true) else {
        panic!("it does not wait")
    };
    assert!(fetched.batches.is_empty() && fetched.next == Offset(5), "{fetched:?}");
    assert!(!fetched.is_rewound, "{fetched:?}");
}

#[test]
fn a_fetch_beyond_the_end_can_be_cancelled() {
    let Lone { config, bounds, .. } = Lone::on_nothing();
    let (_mock, lone, mut store, partition) = mocked(config, bounds);
    lone.append(&mut store, partition, 1, &[b"one"]);
    assert_eq!(lone.appended(&mut store), (1, Ok(())));
    // This starts the tail.
    lone.read(&mut store, partition, Offset(0), 1);
    let fetch = Request::Fetch {
        token: 9,
        partition,
        from: Offset(1_000),
        bytes_max: 1,
        exclude: None,
        view: View::Unclaimed,
        wait: true,
    };
    assert!(store.submit(lone.now(), fetch).is_ok());
    assert_eq!(store.waiting(), 1);
    assert!(store.submit(lone.now(), Request::Cancel { token: 9, partition }).is_ok());
    let Completion::Fetched { token: 9, result: Ok(fetched) } = lone.next(&mut store) else {
        panic!("it is cancelled")
    };
    assert!(fetched.batches.is_empty() && fetched.next == Offset(1_000));
    assert_eq!(store.waiting(), 0);
}

#[test]
fn a_record_that_is_too_large_is_passed_over_and_counted() {
    let Lone { config, bounds, .. } = Lone::on_nothing();
    let (_mock, lone, _, partition) = mocked(config, bounds);
    let cluster = Cluster::start(&lone.config, &lone.bounds).unwrap();
    let info = TopicInfo {
        name: Arc::new(c"lone.mocked".to_owned()),
        default_ttl_secs: 1000,
        is_default_known: true,
        layout: Layout::Plain,
        is_young: false,
        served_bytes: 8,
        passed_over: AtomicU64::new(0),
        life: Life {
            incarnation: 1,
            partitions: 1,
            signing: Signing::default(),
            attributes: Default::default(),
        },
    };
    cluster.topics.insert(partition.queue, info);
    let mut store = lone.store_on(cluster);
    let payloads: [&[u8]; 4] = [b"8 bytes.", b"9 bytes..", b"many more than eight bytes", b"last"];
    for (token, payload) in (1..).zip(payloads) {
        lone.append(&mut store, partition, token, &[payload]);
        assert_eq!(lone.appended(&mut store), (token, Ok(())));
    }
    // A reader passes them over.
    assert_eq!(lone.read(&mut store, partition, Offset(0), 2), [&b"8 bytes."[..], b"last"]);
    assert_eq!(store.counters().passed_over, 2);
    // The tail passes them over.
    for (token, payload) in (5..).zip([&b"again 9 bytes"[..], b"end"]) {
        lone.append(&mut store, partition, token, &[payload]);
        assert_eq!(lone.appended(&mut store), (token, Ok(())));
    }
    assert_eq!(lone.read(&mut store, partition, Offset(4), 1), [b"end"]);
    assert!(store.counters().passed_over > 2);
}

#[test]
fn payloads_live_as_long_as_the_handle_that_may_send_them() {
    let Lone { config, bounds, .. } = Lone::on_nothing();
    let (mock, lone, mut store, partition) = mocked(config, bounds);
    lone.append(&mut store, partition, 1, &[b"stored"]);
    assert_eq!(lone.appended(&mut store), (1, Ok(())));
    (1..=3).for_each(|broker| mock.broker_down(broker).unwrap());
    let batch = batch(1, 1000, &[b"on its way"]);
    let append = Request::Append { token: 2, stream: Stream(2), partition, batch: batch.clone() };
    assert!(store.submit(lone.now(), append).is_ok());
    // Hold the handle, as the thread does that sets a token on it.
    let held = store.appends.client().expect("it is connected").handle.clone();
    drop(store);
    // Only an unshared batch can be changed.
    let batch = batch.anonymous(true);
    assert!(!batch.is_anonymous(), "librdkafka may read its payload yet");
    drop(held);
    assert!(batch.anonymous(true).is_anonymous(), "the batch is freed with the handle");
}

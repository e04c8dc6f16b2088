//! Measures the stores that wait for other systems: the embedded log on this machine's disk, and Kafka on
//! librdkafka's mock cluster.
//!
//! Run with `cargo bench --bench stores`. The log's files are in the system's temporary directory (`TMPDIR`),
//! so the numbers include the cost of fsync there. The mock cluster runs in this process and stores nothing,
//! so the numbers show only librdkafka and the store.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::VecDeque;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream::base::batch::{Batch, BatchBuilder};
use millstream::base::clock::Now;
use millstream::base::millis::UnixMillis;
use millstream::base::names::{ClientId, Project, QueueName};
use millstream::base::queue::{PartitionKey, QueueId};
use millstream::base::units::Partition;
use millstream::shard;
use millstream::store::kafka::{self, Cluster, Kafka, News};
use millstream::store::log::disk::{Directory, Disk, Read, Step};
use millstream::store::log::{self, Durability, Log, OsDirectory, Tag, moment, open};
use millstream::store::{Completion, NewQueue, Request, Store, Stream};
use rdkafka::mocking::MockCluster;

/// The number of messages in a batch, and the size of a message in bytes.
const BATCH: usize = 2_500;
const SIZE: usize = 100;

fn batch() -> Batch {
    let mut builder = BatchBuilder::new(ClientId::from(8), 60, BATCH * (SIZE + 4));
    (0..BATCH).for_each(|_| builder.push(&[b'x'; SIZE]));
    builder.close()
}

/// A clock like that of the driver.
struct Clock(Instant);

impl Clock {
    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Now::new(self.0.elapsed(), UnixMillis::from_epoch(unix))
    }
}

/// Waits for the store's next completion.
fn answer(store: &mut impl Store<u64>, clock: &Clock) -> Completion<u64> {
    loop {
        if let Some(completion) = store.poll_completion(clock.now()) {
            return completion;
        }
        std::hint::spin_loop();
    }
}

fn append(store: &mut impl Store<u64>, clock: &Clock, partition: PartitionKey, batch: &Batch) {
    let append = Request::Append { token: 1, stream: Stream(1), partition, batch: batch.clone() };
    assert!(store.submit(clock.now(), append).is_ok());
}

/// A disk that runs each step before `submit` returns. The shard's own disk runs them asynchronously.
struct Direct {
    directory: Arc<OsDirectory>,
    done: VecDeque<(Tag, Read)>,
}

impl Disk<Tag> for Direct {
    fn submit(&mut self, tag: Tag, steps: Vec<Step>) {
        let mut read = Vec::new();
        let done = steps.iter().try_for_each(|step| self.directory.run(step).map(|some| read.extend(some)));
        self.done.push_back((tag, done.map(|()| read)));
    }

    fn poll(&mut self) -> Option<(Tag, Read)> {
        self.done.pop_front()
    }
}

/// A directory that is removed when the benchmark ends.
struct Directories(PathBuf);

impl Drop for Directories {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn log_append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log append");
    group.throughput(Throughput::Elements(BATCH as u64));
    let batch = batch();
    for (name, durability) in [("fsync", Durability::Fsync), ("os", Durability::Os)] {
        let home = Directories(std::env::temp_dir().join(format!("millstream-bench-{}", std::process::id())));
        std::fs::create_dir_all(&home.0).unwrap();
        let directory = Arc::new(OsDirectory::new(&home.0, 0));
        let config = log::Settings { durability, max_bytes: 1 << 30, ..log::Settings::default() };
        let (dir, _) = open(&*directory, 1, config.segment_bytes, &moment()).unwrap();
        let disk = Direct { directory, done: VecDeque::new() };
        let mut store: Log<u64, Direct> = Log::new(Arc::new(dir), disk, 0, 1, &config);
        let clock = Clock(Instant::now());
        let name_of = (Project::parse("bench").unwrap(), QueueName::parse("log").unwrap());
        let open =
            Request::Open { token: 0, queue: QueueId(1), name: name_of, create: Some(NewQueue::plain(1)) };
        assert!(store.submit(clock.now(), open).is_ok());
        assert!(matches!(answer(&mut store, &clock), Completion::Opened { result: Ok(_), .. }));
        let partition = PartitionKey { queue: QueueId(1), partition: Partition(0) };
        group.bench_function(
            format!("{name}: a batch of 2,500 x 100 B, written and acknowledged"),
            |bencher| {
                bencher.iter(|| {
                    append(&mut store, &clock, partition, &batch);
                    let answer = answer(&mut store, &clock);
                    assert!(matches!(answer, Completion::Appended { result: Ok(_), .. }), "{answer:?}");
                    store.handle_tick(clock.now());
                });
            },
        );
    }
    group.finish();
}

fn kafka_produce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kafka produce");
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("bench.mocked", 1, 1).unwrap();
    let (brokers, attributes_topic) = (mock.bootstrap_servers(), String::new());
    let config = kafka::Settings { brokers, attributes_topic, ..kafka::Settings::default() };
    let bounds = shard::Settings::default().kafka_bounds();
    let cluster = Cluster::start(&config, &bounds).unwrap();
    cluster.assume(QueueId(1), c"bench.mocked".to_owned(), 1);
    let mut store: Kafka<u64> = Kafka::new(cluster, &config, &bounds, 1, Arc::new(News::new(|| {})));
    let (clock, batch) = (Clock(Instant::now()), batch());
    let partition = PartitionKey { queue: QueueId(1), partition: Partition(0) };
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("batches of 2,500 x 100 B, eight under way", |bencher| {
        bencher.iter_custom(|batches| {
            let (mut sent, mut answered) = (0, 0);
            let began = Instant::now();
            while answered < batches {
                while sent < batches && sent - answered < 8 {
                    append(&mut store, &clock, partition, &batch);
                    sent += 1;
                }
                match black_box(answer(&mut store, &clock)) {
                    Completion::Appended { result: Ok(_), .. } => answered += 1,
                    other => panic!("{other:?}"),
                }
            }
            began.elapsed()
        });
    });
    group.finish();
}

criterion_group! {
    name = stores;
    config = Criterion::default().measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1)).sample_size(20);
    targets = log_append, kafka_produce
}
criterion_main!(stores);

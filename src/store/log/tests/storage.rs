//! Stored messages count towards their project's storage.

use super::*;
use crate::access::ProjectLimits;
use crate::access::{Tenants, Use};
use crate::base::millis::{Millis, UnixMillis};
use crate::store::NewQueue;
use crate::store::conformance::batch;

const START: Now = Now { mono: Millis::new(1), mono_ns: 1_000_000, unix: UnixMillis::new(1_000_000_000_000) };

struct Shard {
    disk: Simulated,
    tenants: Arc<Tenants>,
    log: Log<u64, Simulated>,
    now: Now,
}

fn name(project: &str) -> FullName {
    (Project::parse(project).unwrap(), QueueName::parse("q").unwrap())
}

impl Shard {
    fn start(disk: Simulated, now: Now) -> Self {
        let config = Settings { segment_bytes: 64 << 10, ..Settings::default() };
        let (dir, _) = open(&disk, 1, config.segment_bytes, &Moment::default()).unwrap();
        let mut log = Log::new(Arc::new(dir), disk.clone(), 0, 1, &config);
        let limits = ProjectLimits { storage_bytes: 1 << 40, ..ProjectLimits::default() };
        let tenants = Arc::new(Tenants::new(limits));
        log.count_for(&tenants);
        Self { disk, tenants, log, now }
    }

    fn settle(&mut self) {
        loop {
            while let Some(completion) = self.log.poll_completion(self.now) {
                match completion {
                    Completion::Opened { result, .. } => assert!(result.is_ok()),
                    Completion::Appended { result, .. } => assert!(result.is_ok()),
                    // The queue's id does not matter here: one of the queues is not open.
                    Completion::Deleted { result, .. } => self.log.forget(QueueId(0), result.unwrap()),
                    other => panic!("{other:?}"),
                }
            }
            if !self.disk.advance() {
                return;
            }
        }
    }

    fn open(&mut self, number: u64, project: &str) {
        let (queue, name) = (QueueId(number), name(project));
        let tenant = self.tenants.get(&name.0, Millis::ZERO);
        self.tenants.hold_queue(queue, tenant.hold(Use::Queue));
        let open = Request::Open { token: 0, queue, name, create: Some(NewQueue::plain(2)) };
        assert!(self.log.submit(self.now, open).is_ok());
        self.settle();
    }

    fn append(&mut self, number: u64, partition: Partition, ttl: u32, count: usize) {
        for _ in 0..count {
            let partition = PartitionKey { queue: QueueId(number), partition };
            let batch = batch(1, ttl, &[&[7; 10_000]]);
            let append = Request::Append { token: 0, stream: Stream(0), partition, batch };
            assert!(self.log.submit(self.now, append).is_ok());
            self.settle();
        }
    }

    /// Lets a second pass, and sets the clock to `length` after [`START`].
    fn tick(&mut self, length: Millis) {
        self.now = Now { unix: START.unix + length, ..self.now.later(Millis::new(1_000)) };
        self.log.handle_tick(self.now);
        self.settle();
    }

    /// Returns what the projects a and b have stored, after checking it against the summaries of their
    /// queues.
    fn storage(&self) -> [u64; 2] {
        let queues = self.log.describe(self.now.unix).unwrap();
        ["a", "b"].map(|project| {
            let storage = self.tenants.get(&name(project).0, Millis::ZERO).storage();
            let of = queues.iter().filter(|(of, _)| *of == name(project));
            assert_eq!(storage, of.map(|(_, summary)| summary.bytes).sum::<u64>(), "{project}");
            storage
        })
    }
}

#[test]
fn stored_messages_count_across_restarts_until_they_expire_or_are_deleted() {
    let mut shard = Shard::start(Simulated::new(1), START);
    shard.open(1, "a");
    shard.open(2, "b");
    assert_eq!(shard.storage(), [0, 0]);
    // Several segments with messages of both, and one that is being written.
    shard.append(1, Partition(0), 60, 10);
    shard.append(2, Partition(0), 100, 4);
    shard.append(1, Partition(1), 1_000, 10);
    shard.append(2, Partition(1), 1_000, 1);
    let before = shard.storage();
    assert!(before[0] > 200_000 && before[1] > 50_000, "{before:?}");
    let mut shard = Shard::start(shard.disk.clone(), shard.now);
    assert_eq!(shard.storage(), before, "no queue has been opened yet");
    shard.tick(Millis::new(1_000));
    assert_eq!(shard.storage(), before);
    // One partition of each expires: in sealed segments, and in the one that is being written.
    shard.open(1, "a");
    shard.append(1, Partition(0), 60, 1);
    shard.tick(Millis::new(62_000));
    let [of_a, of_b] = shard.storage();
    assert!(of_a < before[0] - 90_000 && of_b == before[1], "{of_a} {of_b} of {before:?}");
    shard.tick(Millis::new(102_000));
    let [of_a, of_b] = shard.storage();
    assert!(of_a > 90_000 && (1..before[1] - 30_000).contains(&of_b), "{of_a} {of_b} of {before:?}");
    // Set the clock forth and back.
    shard.tick(Millis::new(2_000_000));
    shard.storage();
    shard.tick(Millis::new(103_000));
    shard.storage();
    // One of the queues is open, the other is not.
    for project in ["a", "b"] {
        let delete = Request::Delete { token: 0, name: name(project) };
        assert!(shard.log.submit(shard.now, delete).is_ok());
    }
    shard.settle();
    assert_eq!(shard.storage(), [0, 0]);
}

//! What each partition counts as its project's storage: what [`Store::queues`](crate::store::Store::queues) says of it.
//!
//! Batches count once they are stored. What has expired is given back at the next tick, a partition's part of a segment at a time;
//! a partition that is let go of gives back all that it counted. A part that goes on after all of it had expired counts without
//! that until it is counted anew.

use std::hash::Hash;
use std::sync::Arc;

use super::disk::Disk;
use super::format::BatchHeader;
use super::index::SpanHead;
use super::{Log, Tag, inspect};
use crate::access::{Share, Tenant, Tenants};
use crate::base::clock::Now;
use crate::base::queue::PartitionKey;
use crate::store::QueueSummary;

/// The projects whose storage is limited.
#[derive(Debug)]
pub(super) struct Accounts {
    tenants: Arc<Tenants>,
    /// When expired messages were looked for last, Unix milliseconds.
    counted_ms: u64,
}

impl Accounts {
    /// The account of a partition of a queue that is open.
    pub(super) fn of(&self, key: PartitionKey) -> Option<Account> {
        self.tenants.of_queue(key.queue).as_ref().and_then(Account::new)
    }
}

/// What a partition counts.
#[derive(Debug)]
pub(super) struct Account {
    share: Share,
    /// When it is to be counted anew, Unix milliseconds: some of it has expired then.
    due_ms: u64,
}

impl Account {
    fn new(tenant: &Arc<Tenant>) -> Option<Self> {
        tenant.share().map(|share| Self { share, due_ms: 0 })
    }

    /// A batch was stored.
    pub(super) fn add(&mut self, header: &BatchHeader) {
        self.share.add(header.bytes() as u64);
        self.due_ms = self.due_ms.min(header.expiry_ms());
    }

    /// Spans were let go of.
    pub(super) fn set_due(&mut self) {
        self.due_ms = 0;
    }

    /// Counts the spans of the partition that have not expired.
    fn count<'a>(&mut self, heads: impl Iterator<Item = &'a SpanHead> + Clone, unix_ms: u64) {
        let mut held = QueueSummary::default();
        inspect::add(&mut held, heads.clone(), unix_ms);
        self.share.set(held.bytes);
        let unexpired = heads.map(|head| head.expiry_ms).filter(|expiry_ms| *expiry_ms > unix_ms);
        self.due_ms = unexpired.min().unwrap_or(u64::MAX);
    }
}

impl<T: Copy + Eq + Hash, D: Disk<Tag>> Log<T, D> {
    /// Counts from now on, beginning with what was found at the start: until the first tick also what has expired of it.
    pub(super) fn open_accounts(&mut self, tenants: &Arc<Tenants>) {
        if !tenants.limits_storage() {
            return;
        }
        let names = self.dir.names();
        for (id, partition) in &mut self.partitions {
            let tenant = names.get(&id.0).and_then(|((project, _), _)| tenants.get(project, 0));
            let Some(mut account) = tenant.as_ref().and_then(Account::new) else { continue };
            account.count(partition.past.spans.iter().map(|span| &span.head), 0);
            account.set_due();
            partition.account = Some(account);
        }
        self.accounts = Some(Accounts { tenants: tenants.clone(), counted_ms: 0 });
    }

    /// Counts the partitions anew of which something has expired or was let go of.
    pub(super) fn count_due(&mut self, now: Now) {
        let Some(accounts) = &mut self.accounts else { return };
        // Where the clock was set back, what had expired has not.
        let is_set_back = now.unix_ms < accounts.counted_ms;
        accounts.counted_ms = now.unix_ms;
        let active = self.journal.active.as_ref();
        for (id, partition) in &mut self.partitions {
            let Some(account) = &mut partition.account else { continue };
            if account.due_ms > now.unix_ms && !is_set_back {
                continue;
            }
            let sealed = partition.past.spans.iter().map(|span| &span.head);
            let written = active.and_then(|active| active.spans.get(id)).map(|span| &span.head);
            account.count(sealed.chain(written), now.unix_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulated::Simulated;
    use super::super::{DataDir, Moment, open};
    use super::*;
    use crate::access::ProjectLimits;
    use crate::access::Use;
    use crate::base::names::{FullName, Project, QueueName};
    use crate::base::queue::QueueId;
    use crate::store::conformance::batch;
    use crate::store::log::Settings;
    use crate::store::{Completion, Request, Store, Stream};

    const START_MS: u64 = 1_000_000_000_000;

    struct Shard {
        disk: Simulated,
        dir: Arc<DataDir>,
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
            let dir = Arc::new(dir);
            let mut log = Log::new(dir.clone(), disk.clone(), 0, 1, &config);
            let limits = ProjectLimits { storage_bytes: 1 << 40, ..ProjectLimits::default() };
            let tenants = Arc::new(Tenants::new(limits));
            log.count_for(&tenants);
            Self { disk, dir, tenants, log, now }
        }

        fn settle(&mut self) {
            loop {
                while let Some(completion) = self.log.poll_completion(self.now) {
                    match completion {
                        Completion::Opened { result, .. } => assert!(result.is_ok()),
                        Completion::Appended { result, .. } => assert!(result.is_ok()),
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
            let tenant = self.tenants.get(&name.0, 0).unwrap();
            self.tenants.hold_queue(queue, tenant.hold(Use::Queue));
            let open = Request::Open { token: 0, queue, name, create: Some(2) };
            assert!(self.log.submit(self.now, open).is_ok());
            self.settle();
        }

        fn append(&mut self, number: u64, partition: u16, ttl: u32, count: usize) {
            for _ in 0..count {
                let partition = PartitionKey { queue: QueueId(number), partition };
                let batch = batch(1, ttl, &[&[7; 10_000]]);
                let append = Request::Append { token: 0, stream: Stream(0), partition, batch };
                assert!(self.log.submit(self.now, append).is_ok());
                self.settle();
            }
        }

        fn tick(&mut self, unix_ms: u64) {
            self.now = Now::at_ms(self.now.mono_ms + 1_000, unix_ms);
            self.log.handle_tick(self.now);
            self.settle();
        }

        /// What the projects a and b have stored, and that it is what is said of their queues.
        fn storage(&self) -> [u64; 2] {
            let queues = self.log.queues(self.now.unix_ms);
            ["a", "b"].map(|project| {
                let storage = self.tenants.get(&name(project).0, 0).unwrap().storage();
                let of = queues.iter().filter(|(of, _)| *of == name(project));
                assert_eq!(storage, of.map(|(_, summary)| summary.bytes).sum::<u64>(), "{project}");
                storage
            })
        }
    }

    #[test]
    fn what_is_stored_counts_from_one_run_to_the_next_until_it_expires_or_is_deleted() {
        let mut shard = Shard::start(Simulated::new(1), Now::at_ms(1, START_MS));
        shard.open(1, "a");
        shard.open(2, "b");
        assert_eq!(shard.storage(), [0, 0]);
        // Several segments of both, and one that is written.
        shard.append(1, 0, 60, 10);
        shard.append(2, 0, 100, 4);
        shard.append(1, 1, 1_000, 10);
        shard.append(2, 1, 1_000, 1);
        let before = shard.storage();
        assert!(before[0] > 200_000 && before[1] > 50_000, "{before:?}");
        let mut shard = Shard::start(shard.disk.clone(), shard.now);
        assert_eq!(shard.storage(), before, "nobody has opened a queue yet");
        shard.tick(START_MS + 1_000);
        assert_eq!(shard.storage(), before);
        // One partition of each expires: both of what is sealed and of what was written last.
        shard.open(1, "a");
        shard.append(1, 0, 60, 1);
        shard.tick(START_MS + 62_000);
        let [of_a, of_b] = shard.storage();
        assert!(of_a < before[0] - 90_000 && of_b == before[1], "{of_a} {of_b} of {before:?}");
        shard.tick(START_MS + 102_000);
        let [of_a, of_b] = shard.storage();
        assert!(of_a > 90_000 && (1..before[1] - 30_000).contains(&of_b), "{of_a} {of_b} of {before:?}");
        // A clock that was set back and forth.
        shard.tick(START_MS + 2_000_000);
        shard.storage();
        shard.tick(START_MS + 103_000);
        shard.storage();
        // One of the queues is open, the other is not.
        for project in ["a", "b"] {
            assert!(shard.dir.delete_queue(&shard.disk, &name(project)).unwrap());
        }
        shard.settle();
        assert_eq!(shard.storage(), [0, 0]);
    }
}

//! The queues of a data directory that no server uses, for tools that change them.
//!
//! It opens the directory as a server with one shard does, and runs each request to its end. What it changes is as
//! durable as with a server.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::claims::Inner;
use super::log::disk::{Directory, Disk, Read, Step};
use super::log::{self, DataDir, Log, Moment, OpenError, Report, Tag, moment, open};
use super::{Completion, Ledgers, Life, NewQueue, Request, Store};
use crate::access::{ProjectLimits, Tenants, Use};
use crate::base::attributes::Attributes;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::{Manage, Managed};
use crate::base::millis::Millis;
use crate::base::names::{FullName, queue_hash};
use crate::base::queue::{QueueId, QueueInfo};
use crate::base::units::Partition;

/// The size of a segment that a tool writes, in bytes. It holds little.
const SEGMENT_BYTES: u64 = 4 << 20;

/// How often a store is asked for a completion that needs no other thread. Each answer that takes a read or a write
/// needs a few.
const POLLS_MAX: usize = 1_000_000;

/// The token of every request: only one is under way.
const TOKEN: u64 = 0;

/// A disk that runs each step before `submit` returns.
#[derive(Debug)]
struct Direct<D> {
    directory: Arc<D>,
    done: VecDeque<(Tag, Read)>,
}

impl<D: Directory> Disk<Tag> for Direct<D> {
    fn submit(&mut self, tag: Tag, steps: Vec<Step>) {
        let mut read = Vec::new();
        let done = steps.iter().try_for_each(|step| self.directory.run(step).map(|some| read.extend(some)));
        self.done.push_back((tag, done.map(|()| read)));
    }

    fn poll(&mut self) -> Option<(Tag, Read)> {
        self.done.pop_front()
    }
}

/// The queues of a data directory that no server uses.
#[derive(Debug)]
pub struct Offline<D: Directory> {
    directory: Arc<D>,
    dir: Arc<DataDir>,
    store: Ledgers<Log<Inner<u64>, Direct<D>>, u64>,
    tenants: Arc<Tenants>,
    began: (Instant, Moment),
    queues: u64,
}

impl<D: Directory> Offline<D> {
    /// Opens a directory. Also returns the damage that was found.
    pub fn open(directory: D) -> Result<(Self, Report), OpenError> {
        let (directory, began) = (Arc::new(directory), (Instant::now(), moment()));
        let config = log::Settings { segment_bytes: SEGMENT_BYTES, ..log::Settings::default() };
        let (dir, report) = open(&*directory, 1, config.segment_bytes, &began.1)?;
        let dir = Arc::new(dir);
        let disk = Direct { directory: directory.clone(), done: VecDeque::new() };
        let mut store = Ledgers::new(Log::new(dir.clone(), disk, 0, 1, &config));
        let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
        store.count_for(&tenants);
        // Only a server knows which copies of moved messages exist.
        store.hold_releases();
        Ok((Self { directory, dir, store, tenants, began, queues: 0 }, report))
    }

    fn now(&self) -> Now {
        let (instant, moment) = &self.began;
        Now::new(instant.elapsed(), moment.unix() + Millis::from(instant.elapsed()))
    }

    /// Runs a request to its end.
    fn run(&mut self, request: Request<u64>) -> Result<Completion<u64>, StoreFault> {
        let now = self.now();
        if self.store.submit(now, request).is_err() {
            return Err(StoreFault::Unavailable("the store takes no request"));
        }
        for _ in 0..POLLS_MAX {
            let now = self.now();
            if let Some(completion) = self.store.poll_completion(now) {
                return Ok(completion);
            }
            self.store.handle_tick(now);
        }
        Err(StoreFault::Unavailable("the disk does not answer"))
    }

    /// Opens a queue, or creates it if `new` is given. Returns whether it was created.
    pub fn queue(
        &mut self,
        name: &FullName,
        new: Option<NewQueue>,
    ) -> Result<(bool, QueueInfo, Attributes), StoreFault> {
        self.queues += 1;
        let queue = QueueId::new(0, self.queues);
        let (life, is_new) = match self.store.adopt(queue, name) {
            Some(life) => (life, false),
            None if new.is_none() => return Err(StoreFault::NoQueue),
            None => match self.run(Request::Open { token: TOKEN, queue, name: name.clone(), create: new })? {
                Completion::Opened { result, .. } => (result?, true),
                other => return Err(unexpected(&other)),
            },
        };
        let Life { incarnation, partitions, signing, attributes } = life;
        let tenant = self.tenants.get(&name.0, Millis::ZERO);
        self.tenants.hold_queue(queue, tenant.hold(Use::Queue));
        let policy = self.tenants.policies().add(queue, name.clone(), attributes.policy());
        let hash = queue_hash(&name.0, &name.1);
        Ok((is_new, QueueInfo { id: queue, incarnation, partitions, hash, signing, policy }, attributes))
    }

    /// Changes a queue.
    pub fn alter(
        &mut self,
        name: &FullName,
        attributes: Attributes,
        partitions: u16,
    ) -> Result<Life, StoreFault> {
        match self.run(Request::Alter { token: TOKEN, name: name.clone(), attributes, partitions })? {
            Completion::Altered { result, .. } => result,
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a queue.
    pub fn delete(&mut self, name: &FullName) -> Result<u64, StoreFault> {
        match self.run(Request::Delete { token: TOKEN, name: name.clone() })? {
            Completion::Deleted { result, .. } => result,
            other => Err(unexpected(&other)),
        }
    }

    /// Counts, finds or deletes messages of a partition.
    pub fn manage(
        &mut self,
        queue: &QueueInfo,
        partition: Partition,
        what: Manage,
    ) -> Result<Managed, StoreFault> {
        match self.run(Request::Manage { token: TOKEN, partition: queue.key(partition), what })? {
            Completion::Managed { result, .. } => result,
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the use of the directory, as a clean stop of a server does.
    pub fn close(mut self) -> io::Result<()> {
        for _ in 0..POLLS_MAX {
            let now = self.now();
            if self.store.handle_stop(now) {
                return self.dir.mark_stopped(&*self.directory, &moment());
            }
            // Nobody waits for these.
            drop(self.store.poll_completion(now));
        }
        Err(io::Error::other("the last segment cannot be written"))
    }
}

fn unexpected(completion: &Completion<u64>) -> StoreFault {
    debug_assert!(false, "{completion:?}");
    StoreFault::Unavailable("the store has answered another request")
}

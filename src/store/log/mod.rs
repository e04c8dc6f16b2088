//! The embedded durable log: what is acknowledged survives `kill -9` and, with `durability = "fsync"`, power loss.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | one shard's part: requests in, steps to the disk, completions out |
//! | `format`, `scan` | bytes in segments, and reading them without an index |
//! | `index` | which partitions a segment holds, and where |
//! | `journal` | the segment that is written, round by round |
//! | `writing`, `opening`, `reading`, `upkeep` | the four things that it does |
//! | `usage` | what its partitions count as their projects' storage |
//! | `segment`, `partition` | what is sealed, and a partition as its shard knows it |
//! | `reason` | what clients are told where the disk fails |
//! | `backlog` | reading what is older than what is in memory |
//! | `catalogue` | the queues |
//! | `recovery`, `data_dir` | what is found at the start, and what the shards share of it |
//! | `history` | the starts before, and what proves that this one goes on where they ended |
//! | `inspect` | looking into a directory that no server uses |
//! | `disk`, `os` | what is asked of a disk, and the operating system's |
//!
//! A shard writes one segment at a time, in rounds: what came while the last round was written makes the next one, one write and
//! one sync, without a timer. All partitions of the shard share it, so one file is synced whatever the number of partitions. A
//! full segment is sealed: its index is written behind it, and a file whose messages have all expired becomes another segment.
//!
//! The other way, a journal and a file for each partition written behind it, was tried with 1,000 partitions (`perf/README.md`): 3.9
//! million messages of 100 B a second instead of 15.7, twice the bytes, six times the CPU time, and checkpoints of 0.3 s. It reads
//! one of 1,000 partitions back at 10.5 million a second instead of 4.5, and at 6.2 instead of 0.07 where each batch is one message.
//! A third, in which full segments are grouped by partition behind the writing, has most of both; it can be built on this one.

mod backlog;
pub mod catalogue;
mod data_dir;
pub mod disk;
pub mod format;
pub mod history;
pub mod index;
pub mod inspect;
mod journal;
mod opening;
mod os;
mod partition;
mod reading;
mod reason;
mod recovery;
pub mod scan;
mod segment;
mod upkeep;
mod usage;
mod writing;

#[cfg(test)]
#[path = "../../../tests/common/random.rs"]
mod random;
#[cfg(test)]
#[path = "../../../tests/common/simulated.rs"]
mod simulated;
#[cfg(test)]
mod tests;

pub use backlog::{LOAD_COST_MAX, LOADS_MAX};
pub use data_dir::DataDir;
pub use format::BLOCK;
pub use history::{HISTORY_BYTES_MAX, Moment};
pub use journal::{ROUND_BYTES, stored_bytes_max};
pub use os::{DirectoryLock, OsDirectory, moment};
pub use recovery::{Damaged, OpenError, Report, open};

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use self::backlog::{Backlog, Load};
use self::data_dir::Found;
use self::disk::{Disk, NewPlace, Reserve, save_index};
use self::format::{PartitionId, SegmentHeader};
use self::history::Sealed;
use self::index::{Index, RunsAt};
use self::journal::{Active, Journal};
use self::partition::Partition;
use self::segment::{Past, Segment};
use self::usage::Accounts;
use super::window::Fetch;
use super::{Completion, Fence, QueueSummary, Request, Store, StoreCounters, Tail};
use crate::access::Tenants;
use crate::base::clock::{Now, millis};
use crate::base::error::StoreFault;
use crate::base::limits::CLOCK_STEP_MAX_MS;
use crate::base::names::FullName;
use crate::base::queue::{PartitionKey, QueueId, QueueInfo};
use crate::config::{Durability, LogConfig};

/// Partitions of which one tick writes where they end: others have their turn.
const MARKS_AT_ONCE: usize = 4096;

/// How often expired segments are looked for, and what failed is tried again, milliseconds.
const TICK_MS: u64 = 1_000;

/// Whose steps they are.
#[derive(Clone, Debug)]
pub enum Tag {
    /// A round.
    Round,
    /// A segment that is made.
    Make,
    /// The index of a sealed segment: its number.
    Index(u64),
    /// The files of a segment that is no more are removed.
    Remove,
    /// Queues are written into the catalogue.
    Catalogue,
    /// Something of a partition is read.
    Read(PartitionId, Wanted),
}

/// What is read of a partition.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// The runs of a span, for what is wanted from an offset on.
    Runs(u64, Arc<Segment>, RunsAt),
    /// A whole segment, as its index does not say where the messages are.
    Segment(Arc<Segment>),
    /// Messages.
    Messages(Load),
}

#[derive(Debug)]
struct Opening<T> {
    token: T,
    queue: QueueId,
    name: FullName,
    partitions: u16,
}

/// The segment of a round that failed.
#[derive(Debug)]
struct Broken {
    segment: Arc<Segment>,
    index: Vec<u8>,
    /// Its index is being written.
    is_saving: bool,
}

/// See the module's page.
#[derive(Debug)]
pub struct Log<T, D> {
    disk: D,
    dir: Arc<DataDir>,
    shard: u16,
    shards: u16,
    durability: Durability,
    segment_bytes: u64,
    tail_bytes_max: usize,
    max_bytes: u64,
    max_age_ms: u64,
    known: HashMap<PartitionKey, PartitionId>,
    partitions: HashMap<PartitionId, Partition<T>>,
    /// Where a project's storage is limited.
    accounts: Option<Accounts>,
    journal: Journal<T>,
    /// A segment that is ready, and whether one is being made.
    spare: Option<Active>,
    making: Option<(NewPlace, SegmentHeader)>,
    /// When one may be made again, `mono_ms`: the last could not.
    make_again_ms: u64,
    /// Sealed segments whose indexes are being written.
    indexing: HashMap<u64, Index>,
    /// The segment of a round that failed: until its index says where it ends, nothing is stored.
    broken: Option<Broken>,
    /// The number of the segment that was sealed as the shard stopped, until its index is written.
    stopping: Option<(u64, Sealed)>,
    /// The latest timestamp that was given, and how far the clock may fall behind it.
    newest_ms: u64,
    newest_mono_ms: u64,
    clock_step_max_ms: u64,
    /// Nothing goes before that, `mono_ms`: since the start the clock is far ahead of all that was stored. Unknown before the first tick.
    held_until_ms: Option<u64>,
    /// Why nothing can be stored now.
    trouble: Option<&'static str>,
    /// Sealed segments that this shard looks after, oldest first.
    kept: Vec<Arc<Segment>>,
    openings: VecDeque<Opening<T>>,
    opening: Vec<(T, QueueId, FullName, super::Life)>,
    catalogue_end: u64,
    /// Where what was written into the catalogue may end, as a write may have failed.
    catalogue_dirty_end: u64,
    backlog: Backlog<T>,
    /// The batches in memory, in the order of their arrival.
    arrivals: VecDeque<(PartitionId, usize)>,
    tail_bytes: usize,
    fence: Fence,
    completions: VecDeque<Completion<T>>,
    woken: Vec<PartitionId>,
    gone: VecDeque<QueueId>,
    /// Deletions that this shard has seen.
    deletions: usize,
    /// Retirements of segments that it has seen.
    retirements: usize,
    counters: StoreCounters,
}

impl<T: Copy + Eq + Hash, D: Disk<Tag>> Log<T, D> {
    /// The store of shard `shard` of `shards`.
    pub fn new(dir: Arc<DataDir>, disk: D, shard: u16, shards: u16, config: &LogConfig) -> Self {
        let Found { pasts, segments, catalogue_end } = dir.take_shard(shard, shards);
        let partition = |(id, past): (PartitionId, Past)| {
            let jump = dir.jump(id, past.end);
            (id, Partition::new(past, jump))
        };
        let pasts = pasts.into_iter().map(partition).collect();
        let share = |bytes: usize| bytes / usize::from(shards.max(1));
        let mut log = Self {
            disk,
            dir,
            shard,
            shards,
            durability: config.durability,
            segment_bytes: config.segment_bytes,
            tail_bytes_max: share(config.tail_bytes),
            max_bytes: config.max_bytes,
            max_age_ms: millis(config.max_age),
            known: HashMap::new(),
            partitions: pasts,
            accounts: None,
            journal: Journal::new(),
            spare: None,
            making: None,
            make_again_ms: 0,
            indexing: HashMap::new(),
            broken: None,
            stopping: None,
            newest_ms: 0,
            newest_mono_ms: 0,
            clock_step_max_ms: CLOCK_STEP_MAX_MS,
            held_until_ms: None,
            trouble: None,
            kept: segments,
            openings: VecDeque::new(),
            opening: Vec::new(),
            catalogue_end,
            catalogue_dirty_end: 0,
            backlog: Backlog::new(share(config.read_bytes)),
            arrivals: VecDeque::new(),
            tail_bytes: 0,
            fence: Fence::default(),
            completions: VecDeque::new(),
            woken: Vec::new(),
            gone: VecDeque::new(),
            deletions: 0,
            retirements: 0,
            counters: StoreCounters::default(),
        };
        log.newest_ms = log.dir.newest_ms();
        log.mark_ends();
        log.make_segment(Reserve::Keep);
        log
    }

    /// What the log calls a partition.
    fn id(&mut self, key: PartitionKey) -> Option<PartitionId> {
        if let Some(id) = self.known.get(&key) {
            return Some(*id);
        }
        let id = self.dir.partition(key)?;
        self.known.insert(key, id);
        let accounts = &self.accounts;
        self.partitions.entry(id).or_insert_with(|| {
            let account = accounts.as_ref().and_then(|accounts| accounts.of(key));
            Partition { account, ..Partition::new(Past::default(), 0) }
        });
        Some(id)
    }

    /// Takes what the disk has done, and gives it more to do.
    fn work(&mut self, now: Now) {
        while let Some((tag, read)) = self.disk.poll() {
            match tag {
                Tag::Round => self.handle_round(now, read.map(drop)),
                Tag::Make => self.handle_made(now, read.map(drop)),
                Tag::Index(number) => self.handle_indexed(now, number, read.map(drop)),
                Tag::Remove => {
                    if let Err(error) = read {
                        tracing::warn!(%error, "a file that is not needed any more cannot be removed");
                    }
                }
                Tag::Catalogue => self.handle_catalogue(&read.map(drop)),
                Tag::Read(id, wanted) => self.handle_read(now, id, wanted, read),
            }
        }
        self.write(now);
        self.write_catalogue();
        if self.dir.deletions() > self.deletions {
            self.forget_deleted();
        }
    }
}

/// The queue is gone.
fn forgotten() -> StoreFault {
    StoreFault::Deleted
}

impl<T: Copy + Eq + Hash, D: Disk<Tag>> Store<T> for Log<T, D> {
    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>> {
        match request {
            Request::Open { token, queue, name, create } => self.open(token, queue, name, create),
            Request::Append { token, stream, partition, batch } => match self.id(partition) {
                Some(id) => self.append(now, token, stream, id, batch),
                None => self.completions.push_back(Completion::Appended { token, result: Err(forgotten()) }),
            },
            Request::Fetch { token, partition, from, bytes_max, exclude, wait } => match self.id(partition) {
                Some(id) => {
                    let fetch = Fetch { token, from, bytes_max, exclude, wait, since_ms: now.mono_ms };
                    self.fetch(now, id, fetch);
                }
                None => self.completions.push_back(Completion::Fetched { token, result: Err(forgotten()) }),
            },
            Request::Resolve { token, partition, position } => match self.id(partition) {
                Some(id) => self.resolve(now, token, id, position),
                None => self.completions.push_back(Completion::Resolved { token, result: Err(forgotten()) }),
            },
            Request::Cancel { token, partition } => {
                if let Some(id) = self.id(partition) {
                    self.cancel(id, token);
                }
            }
        }
        Ok(())
    }

    fn poll_completion(&mut self, now: Now) -> Option<Completion<T>> {
        if self.completions.is_empty() {
            self.work(now);
        }
        while self.completions.is_empty() {
            let id = self.woken.pop()?;
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            partition.is_woken = false;
            for fetch in std::mem::take(&mut partition.waiting) {
                self.fetch(now, id, fetch);
            }
        }
        self.completions.pop_front()
    }

    fn handle_tick(&mut self, now: Now) -> Option<u64> {
        self.follow_clock(now);
        let is_held = self.is_held(now);
        self.retire(now, is_held);
        self.expire(now, is_held);
        self.count_due(now);
        self.backlog.trim();
        if self.trouble.is_some() {
            match &mut self.broken {
                Some(Broken { is_saving: true, .. }) => {}
                Some(Broken { segment, index, is_saving }) => {
                    *is_saving = true;
                    let steps = save_index(segment.place, index.clone());
                    self.disk.submit(Tag::Index(segment.number), steps);
                }
                None => {
                    // Files of which every message has expired come back once a segment takes the marks of where their partitions end.
                    let expired = self.kept.iter().filter(|segment| segment.expiry_ms() <= now.unix_ms);
                    let pays = expired.count() > 1;
                    self.make_segment(if pays { Reserve::Use } else { Reserve::Keep });
                }
            }
        }
        self.work(now);
        Some(now.mono_ms + TICK_MS)
    }

    fn needs_ticks(&self) -> bool {
        // Another shard may keep the segments that this shard's partitions have messages in, and waits for it to let go of them.
        !self.kept.is_empty()
            || !self.partitions.is_empty()
            || self.counters.stored > 0
            || self.trouble.is_some()
    }

    fn poll_gone(&mut self) -> Option<QueueId> {
        self.gone.pop_front()
    }

    fn forget(&mut self, queue: QueueId) {
        self.dir.forget(queue);
        let ids: Vec<_> = self.known.extract_if(|key, _| key.queue == queue).map(|(_, id)| id).collect();
        ids.into_iter().for_each(|id| self.tell_forgotten(id));
    }

    fn tail(&self, queue: &QueueInfo, partition: u16) -> Option<Tail> {
        let id = (queue.incarnation, partition);
        Some(self.partitions.get(&id).map(Partition::tail).unwrap_or_default())
    }

    fn queues(&self, unix_ms: u64) -> Vec<(FullName, QueueSummary)> {
        let names = self.dir.names();
        let mut of: HashMap<u64, QueueSummary> = HashMap::new();
        for (id, partition) in &self.partitions {
            let sealed = partition.past.spans.iter().map(|span| &span.head);
            let written = self.journal.active.as_ref().and_then(|active| active.spans.get(id));
            let heads = sealed.chain(written.map(|span| &span.head));
            inspect::add(of.entry(id.0).or_default(), heads, unix_ms);
        }
        let summary = |(incarnation, (name, partitions)): (u64, (FullName, u16))| {
            let of = of.get(&incarnation).copied().unwrap_or_default();
            (name, QueueSummary { partitions, ..of })
        };
        names.into_iter().map(summary).collect()
    }

    fn handle_stop(&mut self, now: Now) -> bool {
        self.work(now);
        self.stop()
    }

    fn names(&self) -> Vec<FullName> {
        self.dir.names().into_values().map(|(name, _)| name).collect()
    }

    fn adopt(&mut self, queue: QueueId, name: &FullName) -> Option<super::Life> {
        self.dir.open(queue, name)
    }

    fn set_clock_step_max(&mut self, ms: u64) {
        self.clock_step_max_ms = ms;
    }

    fn count_for(&mut self, tenants: &Arc<Tenants>) {
        self.open_accounts(tenants);
    }

    fn counters(&self) -> StoreCounters {
        self.counters
    }

    fn waiting(&self) -> usize {
        self.partitions.values().map(|partition| partition.waiting.len()).sum::<usize>()
            + self.backlog.waiting()
    }
}

//! The embedded durable log: acknowledged messages survive `kill -9` and, with `durability = "fsync"`, power
//! loss.
//!
//! A shard's store is a [`Log`]: the owners below, the disk, and the [`DataDir`] that all shards share.
//! Owners do not know each other; calls pass them what they need.
//!
//! | owner | file | what it owns |
//! | --- | --- | --- |
//! | `Queues` | `queues` | names of queues and partitions, the shard's catalogue file |
//! | `Partitions` | `partitions`, `partition` | ends and offsets, the newest messages in memory, fetches that wait for more, the bytes that count as storage (`usage`) |
//! | `Segments` | `segments`, `segment` | segment files: made ahead, sealed, indexed, retired, removed |
//! | `Writer` | `writer`, `journal` | the segment that is written, round by round; refusals while nothing can be written |
//! | `Grouper` | `grouping` | the groups of sealed segments that are rewritten as one |
//! | `Timestamps` | `timestamps` | the timestamps of messages, and jumps of the clock |
//! | `Backlog` | `backlog`, `load` | windows of older messages, and the loads that fill them |
//! | `States` | `state` | what is told about the state of claims |
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the requests of a shard |
//! | `turn` | delivers the disk's results to their owners, and submits new work to the disk |
//! | `reading` | fetches and positions, from memory or by loads |
//! | `tag` | the purpose of steps on the disk |
//! | `format`, `header`, `scan` | bytes in segments, and reading them without an index |
//! | `features` | what a segment may hold that earlier versions cannot read |
//! | `keep` | which spans of a partition must stay or may go, as the claims say |
//! | `grouped` | what the header of a grouped segment says |
//! | `index`, `summary` | which partitions a segment holds, and where; their totals for a queue |
//! | `catalogue` | the file of queues |
//! | `backup` | copying a cut to another directory |
//! | `cut` | what the files hold at one moment, for a backup, and the hold that keeps them so |
//! | `reason` | the reasons that clients get when the disk fails |
//! | `recovery`, `data_dir` | what is found at the start, and the part of it that the shards share |
//! | `history` | the earlier starts, and the proof that this one continues where they ended |
//! | `inspect` | reading a directory that no server uses |
//! | `disk`, `os` | the operations of a disk, and the operating system's implementation of them |
//!
//! No file here imports a file that imports it, except `turn`, which is the other half of this one.
//!
//! A shard writes one segment at a time, in rounds. Batches that arrive during a round make up the next one.
//! A round is one write and one sync; there is no timer. All partitions of the shard share the segment, so
//! only one file is synced, whatever the number of partitions. A full segment is sealed: its index is written
//! to a file of its own. A segment file whose messages have all expired is reused for another segment.
//!
//! The state of claims is kept in hidden partitions: ordinary batches, whose partition has
//! [bit 15](crate::base::units::Partition::state). They stay until they are released. A segment is freed once
//! each of its messages has expired or was released, unless it is pinned. What is left of a segment of which
//! little is needed is moved to a grouped segment, behind the writing.
//!
//! `docs/decisions/the-journal-is-the-log.md` compares this with a file for each partition: that reads one of
//! many partitions back faster, but writes four times as slowly and takes twice the disk.

mod backlog;
pub mod backup;
pub mod catalogue;
mod cut;
mod data_dir;
pub mod disk;
pub mod features;
pub mod format;
pub mod grouped;
mod grouping;
pub mod header;
pub mod history;
pub mod index;
pub(crate) mod inspect;
mod journal;
mod keep;
mod load;
mod os;
mod partition;
mod partitions;
mod queues;
mod reading;
mod reason;
mod recovery;
mod removal;
pub mod scan;
mod segment;
mod segments;
mod settings;
mod state;
mod summary;
mod tag;
mod timestamps;
mod turn;
mod usage;
mod writer;

#[cfg(test)]
#[path = "../../../tests/common/random.rs"]
pub(in crate::store) mod random;
#[cfg(test)]
#[path = "../../../tests/common/simulated.rs"]
pub(in crate::store) mod simulated;
#[cfg(test)]
mod tests;

pub use cut::{Cut, CutCatalogue, CutSegment, NoCut, NotHeld};
pub use data_dir::DataDir;
pub use disk::freeing_pause;
pub use format::BLOCK;
pub use grouping::GROUPING_BYTES_MAX;
pub use history::{HISTORY_BYTES_MAX, Moment};
pub use journal::{ROUND_BYTES, stored_bytes_max};
pub use load::{LOAD_COST_MAX, LOADS_MAX};
pub use os::{DirectDirectory, DirectoryLock, OsDirectory, Staging, bytes_read, moment};
pub use recovery::{Damaged, OpenError, Report, open};
pub use settings::{Durability, Settings};
pub use tag::{ReadPurpose, Tag};

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use self::backlog::Backlog;
use self::data_dir::ShardStart;
use self::disk::{Disk, Reserve};
use self::features::Features;
use self::grouping::Grouper;
use self::grouping::choice::GroupLimits;
use self::partition::LogPartition;
use self::partitions::Partitions;
use self::queues::Queues;
use self::reading::forget;
use self::segments::{SegmentLimits, Segments};
use self::state::States;
use self::timestamps::Timestamps;
use self::turn::TICK;
use self::writer::Writer;
use super::fetch::Fetch;
use super::stock::{Holding, Portion};
use super::{Completion, NewQueue, QueueSummary, Request, StateKeeping, Store, StoreCounters, Tail};
use crate::access::Tenants;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::FullName;
use crate::base::queue::{PartitionKey, QueueId, QueueInfo};
use crate::base::units::{Offset, Partition};
use crate::store::Asker;

/// The embedded log, as one shard's store.
#[derive(Debug)]
pub struct Log<T: Asker, D> {
    disk: D,
    /// The part of the data directory that the shards share.
    dir: Arc<DataDir>,
    queues: Queues<T>,
    partitions: Partitions<T>,
    segments: Segments,
    writer: Writer<T>,
    timestamps: Timestamps,
    /// Reads messages that are older than those in memory.
    backlog: Backlog<T>,
    states: States,
    /// The last cut that the shard contributed to.
    contributed: Option<u64>,
    grouper: Grouper,
    /// When the next tick is due, by the monotonic clock.
    tick_due: Millis,
    /// When the grouper is looked at before that.
    step_due: Option<Millis>,
    completions: VecDeque<Completion<T>>,
}

impl<T: Asker, D: Disk<Tag>> Log<T, D> {
    /// Creates the store of shard `shard` of `shards`.
    pub fn new(dir: Arc<DataDir>, disk: D, shard: u16, shards: u16, config: &Settings) -> Self {
        let ShardStart { pasts, segments, catalogue } = dir.take_shard(shard, shards);
        let stateful = pasts.iter().filter(|(_, past)| past.keep().is_whole()).map(|(id, _)| *id).collect();
        let used = pasts.iter().fold(Features::NONE, |used, (id, _)| used | Features::of_partition(id.1));
        let found = pasts.into_iter().map(|(id, past)| {
            let jump = dir.jump(id, past.end);
            (id, LogPartition::new(past, jump))
        });
        let share = |bytes: usize| bytes / usize::from(shards.max(1));
        let limits = SegmentLimits {
            segment_bytes: config.segment_bytes,
            max_bytes: config.max_bytes,
            max_age: Millis::from(config.max_age),
        };
        let group_limits = GroupLimits { segment_bytes: config.segment_bytes, max_age: limits.max_age };
        let is_synced = config.durability == Durability::Fsync;
        let mut log = Self {
            queues: Queues::new(shard, catalogue),
            partitions: Partitions::new(found, share(config.tail_bytes)),
            segments: Segments::new(shard, shards, limits, segments, used, dir.free() > 0),
            writer: Writer::new(shard, config.segment_bytes, is_synced),
            timestamps: Timestamps::new(dir.newest()),
            backlog: Backlog::new(shard, share(config.read_bytes)),
            states: States::new(stateful),
            contributed: None,
            grouper: Grouper::new(shard, config.grouping, group_limits),
            tick_due: Millis::ZERO,
            step_due: None,
            completions: VecDeque::new(),
            disk,
            dir,
        };
        let Self { partitions, writer, .. } = &mut log;
        partitions.mark_ends(|id| writer.mark(id));
        log.make_segment(Now::at_ms(0, 0), Reserve::Keep);
        log
    }
}

impl<T: Asker, D: Disk<Tag>> Store<T> for Log<T, D> {
    const STATE: StateKeeping = StateKeeping::Durable;

    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>> {
        match request {
            Request::Open { token, queue, name, create } => {
                self.queues.open(&self.dir, token, queue, name, create, &mut self.completions);
            }
            Request::Alter { token, name, attributes, partitions } => {
                let new = NewQueue { partitions, attributes };
                self.queues.alter(&self.dir, token, name, new, &mut self.completions);
            }
            Request::Delete { token, name } => {
                self.queues.delete(&self.dir, token, name, &mut self.completions);
            }
            Request::Append { token, stream, partition, batch } => match self.id(partition) {
                Some(id) => self.writer.append(now, token, stream, id, batch, &mut self.completions),
                None => self
                    .completions
                    .push_back(Completion::Appended { token, result: Err(StoreFault::Deleted) }),
            },
            Request::Fetch { token, partition, from, bytes_max, exclude, view, wait } => {
                match self.id(partition) {
                    Some(id) => {
                        let fetch = Fetch { token, from, bytes_max, exclude, view, wait, since: now.mono };
                        self.fetcher(now).fetch(id, fetch);
                    }
                    None => self
                        .completions
                        .push_back(Completion::Fetched { token, result: Err(StoreFault::Deleted) }),
                }
            }
            Request::Resolve { token, partition, position } => match self.id(partition) {
                Some(id) => self.fetcher(now).resolve(token, id, position),
                None => self
                    .completions
                    .push_back(Completion::Resolved { token, result: Err(StoreFault::Deleted) }),
            },
            Request::Cancel { token, partition } => {
                if let Some(id) = self.id(partition) {
                    self.fetcher(now).cancel(id, token);
                }
            }
            other => {
                if let Ok(Some(completion)) = other.without_claims() {
                    self.completions.push_back(completion);
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
            let (id, fetches) = self.partitions.poll_woken()?;
            let mut fetcher = self.fetcher(now);
            fetches.into_iter().for_each(|fetch| fetcher.fetch(id, fetch));
        }
        self.completions.pop_front()
    }

    fn handle_tick(&mut self, now: Now) -> Option<Millis> {
        if !self.may_release(now) {
            self.work(now);
            return Some(self.next_tick(now));
        }
        self.tick_due = now.mono + TICK;
        self.follow_clock(now);
        self.let_go(now);
        self.retry(now);
        self.queues.retry(&self.dir, &mut self.disk);
        self.begin_group(now);
        self.work(now);
        Some(self.next_tick(now))
    }

    fn may_release(&self, now: Now) -> bool {
        self.tick_due <= now.mono || self.step_due.is_none_or(|due| now.mono < due)
    }

    fn needs_ticks(&self) -> bool {
        // An idle shard, too, must release expired messages: another shard may own the segments that they are
        // in, and waits for that.
        !self.segments.kept().is_empty()
            || !self.partitions.is_empty()
            || self.partitions.counters().stored > 0
            || self.writer.is_in_trouble()
            || self.queues.needs_retry()
            || self.segments.may_have_surplus()
            || !self.dir.removals().is_done()
    }

    fn forget(&mut self, queue: QueueId, incarnation: u64) {
        self.queues.forget(queue);
        self.states.forget(queue, incarnation);
        self.writer.forget(incarnation);
        for id in self.partitions.of_queue(incarnation) {
            forget(id, &mut self.partitions, &mut self.backlog, &mut self.completions);
            self.partitions.remove(id);
        }
    }

    fn tail(&self, queue: &QueueInfo, partition: Partition) -> Option<Tail> {
        Some(self.partitions.tail((queue.incarnation, partition)))
    }

    fn describe(&self, unix: UnixMillis) -> Result<Vec<(FullName, QueueSummary)>, StoreFault> {
        let names = self.dir.names();
        let held = self.partitions.summaries(self.writer.active(), unix);
        let summary = |(incarnation, (name, partitions)): (u64, (FullName, u16))| {
            let held = held.get(&incarnation).copied().unwrap_or_default();
            (name, QueueSummary { partitions, ..held })
        };
        Ok(names.into_iter().map(summary).collect())
    }

    fn poll_stateful(&mut self) -> Option<PartitionKey> {
        self.states.poll_stateful(&self.dir)
    }

    fn poll_stale_state(&mut self) -> Option<PartitionKey> {
        self.states.poll_stale()
    }

    fn release(&mut self, partition: PartitionKey, below: Offset) {
        if let Some(id) = self.id(partition) {
            // What is stored later is not released.
            let end = self.partitions.get(id).map_or(Offset::ZERO, |of| of.window.end());
            self.partitions.change(id, |keep| keep.release(below.min(end)));
        }
    }

    fn partitions(&self, queue: QueueId) -> Vec<Partition> {
        let of = self.dir.partition(PartitionKey { queue, partition: Partition(0) });
        let ids = of.map(|(incarnation, _)| self.partitions.of_queue(incarnation)).unwrap_or_default();
        ids.into_iter().map(|id| id.1).filter(|partition| partition.of_state().is_none()).collect()
    }

    fn holding(&mut self, partition: PartitionKey, from: Offset, unix: UnixMillis) -> Option<Holding> {
        let id = self.id(partition)?;
        let active = self.writer.active();
        self.partitions.get(id).map(|of| of.holding(id, active, from, unix))
    }

    fn each_portion(&mut self, partition: PartitionKey, range: Range<Offset>, each: &mut dyn FnMut(Portion)) {
        let Some(id) = self.id(partition) else { return };
        if let Some(of) = self.partitions.get(id) {
            of.each_portion(id, self.writer.active(), &range, each);
        }
    }

    fn pin(&mut self, partition: PartitionKey, pinned: Vec<Range<Offset>>) {
        if let Some(id) = self.id(partition) {
            self.partitions.change(id, |keep| keep.pin(pinned));
        }
    }

    fn handle_stop(&mut self, now: Now) -> bool {
        self.grouper.stop(self.dir.removals());
        self.work(now);
        self.stop()
    }

    fn names(&self) -> Vec<FullName> {
        self.dir.names().into_values().map(|(name, _)| name).collect()
    }

    fn adopt(&mut self, queue: QueueId, name: &FullName) -> Option<super::Life> {
        self.dir.open(queue, name)
    }

    fn set_clock_step_max(&mut self, by: Millis) {
        self.timestamps.set_step_max(by);
    }

    fn count_for(&mut self, tenants: &Arc<Tenants>) {
        if tenants.counts_storage() {
            self.partitions.count_for(tenants, &self.dir.names());
        }
    }

    fn counters(&self) -> StoreCounters {
        let grouping = self.grouper.counters();
        StoreCounters { refused: self.writer.refused(), grouping, ..self.partitions.counters() }
    }

    fn waiting(&self) -> usize {
        self.partitions.waiting() + self.backlog.waiting()
    }
}

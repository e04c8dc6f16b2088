//! The queues that a shard's clients use: found, made and forgotten.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::catalogue::Record;
use super::data_dir::{DataDir, Deletion};
use super::disk::{Disk, FileName, Step};
use super::format::PartitionId;
use super::reason::cannot_write;
use super::tag::Tag;
use crate::base::error::StoreFault;
use crate::base::names::FullName;
use crate::base::queue::{PartitionKey, QueueId};
use crate::store::{Asker, Completion, Life};

/// A queue that is to be made.
#[derive(Debug)]
struct NewQueue<T: Asker> {
    token: T::Open,
    queue: QueueId,
    name: FullName,
    partitions: u16,
}

/// A queue whose record is being written.
#[derive(Debug)]
struct Conceived<T: Asker> {
    token: T::Open,
    queue: QueueId,
    name: FullName,
    life: Life,
}

/// See the module's page. Owns the shard's catalogue file.
#[derive(Debug)]
pub(super) struct Queues<T: Asker> {
    shard: u16,
    /// What the log calls the partitions that were asked for.
    known: HashMap<PartitionKey, PartitionId>,
    /// Queues that wait for the catalogue.
    openings: VecDeque<NewQueue<T>>,
    /// Queues that are being written into it.
    writing: Vec<Conceived<T>>,
    /// Where the catalogue ends.
    end: u64,
    /// Where the catalogue may end, as a write may have failed; 0 before the first write. Not before `end` after that.
    dirty_end: u64,
    /// Deletions that the shard has seen.
    deletions: usize,
    /// Queues that the server is to forget.
    gone: VecDeque<QueueId>,
}

impl<T: Asker> Queues<T> {
    /// Those of a shard whose catalogue ends there.
    pub(super) fn new(shard: u16, end: u64) -> Self {
        Self {
            shard,
            known: HashMap::new(),
            openings: VecDeque::new(),
            writing: Vec::new(),
            end,
            dirty_end: 0,
            deletions: 0,
            gone: VecDeque::new(),
        }
    }

    /// What the log calls a partition; `None` where its queue is not open. `handle_new` is called for one that is asked for first.
    #[inline]
    pub(super) fn id(
        &mut self,
        dir: &DataDir,
        key: PartitionKey,
        handle_new: impl FnOnce(PartitionId),
    ) -> Option<PartitionId> {
        if let Some(id) = self.known.get(&key) {
            return Some(*id);
        }
        let id = dir.partition(key)?;
        self.known.insert(key, id);
        handle_new(id);
        Some(id)
    }

    /// Finds a queue, or has it made: then the answer comes with [`Self::handle_written`].
    pub(super) fn open(
        &mut self,
        dir: &DataDir,
        token: T::Open,
        queue: QueueId,
        name: FullName,
        create: Option<u16>,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        let result = match (dir.open(queue, &name), create) {
            (Some(life), _) => Ok(life),
            (None, None) => Err(StoreFault::NoQueue),
            (None, Some(partitions)) => {
                return self.openings.push_back(NewQueue { token, queue, name, partitions });
            }
        };
        completions.push_back(Completion::Opened { token, result });
    }

    /// Writes the queues that wait for it into the catalogue, one write at a time.
    #[inline]
    pub(super) fn write(&mut self, dir: &DataDir, disk: &mut impl Disk<Tag>) {
        if self.writing.is_empty() && !self.openings.is_empty() {
            disk.submit(Tag::Catalogue, self.begin(dir));
        }
    }

    fn begin(&mut self, dir: &DataDir) -> Vec<Step> {
        let mut records = Vec::new();
        for NewQueue { token, queue, name, partitions } in self.openings.drain(..) {
            let life = dir.conceive(partitions);
            records.extend(Record::Made(name.clone(), life).encode());
            self.writing.push(Conceived { token, queue, name, life });
        }
        // What a write that failed may have left behind is no queue's, and no damage.
        let end = self.end + records.len() as u64;
        records.resize(records.len() + self.dirty_end.saturating_sub(end) as usize, 0);
        self.dirty_end = self.dirty_end.max(end);
        let file = FileName::Catalogue(self.shard);
        vec![Step::Write(file, self.end, Arc::new(records)), Step::Sync(file)]
    }

    /// The catalogue is written: the queues are made, or are not.
    pub(super) fn handle_written(
        &mut self,
        dir: &DataDir,
        result: &io::Result<()>,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        if let Err(error) = result {
            let told = cannot_write(error);
            tracing::error!(shard = self.shard, told, %error, "queues cannot be written into the catalogue");
        }
        for Conceived { token, queue, name, life } in std::mem::take(&mut self.writing) {
            let result = match result {
                Ok(()) => {
                    self.end += Record::Made(name.clone(), life).encode().len() as u64;
                    Ok(dir.record(queue, name, life))
                }
                Err(error) => Err(StoreFault::Unavailable(cannot_write(error))),
            };
            completions.push_back(Completion::Opened { token, result });
        }
        debug_assert!(self.end <= self.dirty_end, "{} is behind {}", self.end, self.dirty_end);
    }

    /// The server calls a queue so no more: its partitions.
    pub(super) fn forget(&mut self, dir: &DataDir, queue: QueueId) -> Vec<PartitionId> {
        dir.forget(queue);
        self.known.extract_if(|key, _| key.queue == queue).map(|(_, id)| id).collect()
    }

    /// The incarnations of the queues that were deleted since the last call.
    #[inline]
    pub(super) fn poll_deleted(&mut self, dir: &DataDir) -> Vec<u64> {
        let deletions = dir.deletions();
        if deletions == self.deletions {
            return Vec::new();
        }
        self.deletions = deletions;
        let deleted = dir.take_deleted(self.shard).into_iter();
        let forget = |Deletion { incarnation, queues }| {
            self.gone.extend(queues);
            incarnation
        };
        deleted.map(forget).collect()
    }

    /// A queue that the server is to forget.
    pub(super) fn poll_gone(&mut self) -> Option<QueueId> {
        self.gone.pop_front()
    }
}

//! The queues that a shard's clients use: finds, creates, deletes and forgets them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::catalogue::Record;
use super::data_dir::DataDir;
use super::disk::{Disk, FileName, Step};
use super::format::PartitionId;
use super::reason::cannot_write;
use super::tag::Tag;
use crate::base::error::StoreFault;
use crate::base::names::FullName;
use crate::base::queue::{PartitionKey, QueueId};
use crate::store::{Asker, Completion, Life};

/// A request to create a queue.
#[derive(Debug)]
struct NewQueue<T: Asker> {
    token: T::Open,
    queue: QueueId,
    name: FullName,
    partitions: u16,
}

/// A request to delete a queue.
#[derive(Debug)]
struct OldQueue<T: Asker> {
    token: T::Delete,
    name: FullName,
    incarnation: u64,
}

/// A change that waits to be written to the catalogue.
#[derive(Debug)]
enum Change<T: Asker> {
    Make(NewQueue<T>),
    Delete(OldQueue<T>),
}

/// A change whose record is being written.
#[derive(Debug)]
enum Writing<T: Asker> {
    Made(NewQueue<T>, Life),
    Deleted(OldQueue<T>),
}

/// The queues that a shard's clients use, and the writes to the shard's catalogue file.
#[derive(Debug)]
pub(super) struct Queues<T: Asker> {
    shard: u16,
    /// The log's ids of the partitions that this shard has used.
    known: HashMap<PartitionKey, PartitionId>,
    /// Changes that wait to be written, in order. A name occurs at most once: here, in `writing`, or in
    /// `failed`.
    waiting: VecDeque<Change<T>>,
    /// Changes that are being written.
    writing: Vec<Writing<T>>,
    /// Deletions whose write failed. The next write repeats them, because their records may be on the disk.
    failed: Vec<OldQueue<T>>,
    /// The length of the catalogue, in bytes.
    end: u64,
    /// The length of the catalogue after the write in progress.
    end_written: Option<u64>,
    /// The end of the bytes that a failed write may have left behind; at least `end`.
    dirty_end: u64,
}

impl<T: Asker> Queues<T> {
    /// Creates the queues of a shard whose catalogue is `end` bytes long.
    pub(super) fn new(shard: u16, end: u64) -> Self {
        Self {
            shard,
            known: HashMap::new(),
            waiting: VecDeque::new(),
            writing: Vec::new(),
            failed: Vec::new(),
            end,
            end_written: None,
            dirty_end: end,
        }
    }

    /// Returns the log's id of a partition, or `None` if its queue is not open. Calls `handle_new` when the
    /// shard asks for this partition for the first time.
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

    /// Opens a queue. If it must be created first, [`Self::handle_written`] answers.
    pub(super) fn open(
        &mut self,
        dir: &DataDir,
        token: T::Open,
        queue: QueueId,
        name: FullName,
        create: Option<u16>,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        debug_assert!(!self.is_changing(&name), "{name:?} is changed already");
        let result = match (dir.open(queue, &name), create) {
            (Some(life), _) => Ok(life),
            (None, None) => Err(StoreFault::NoQueue),
            (None, Some(partitions)) => {
                let new = NewQueue { token, queue, name, partitions };
                return self.waiting.push_back(Change::Make(new));
            }
        };
        completions.push_back(Completion::Opened { token, result });
    }

    /// Deletes a queue. [`Self::handle_written`] answers once the deletion is durable. If no such queue
    /// exists, this method answers.
    pub(super) fn delete(
        &mut self,
        dir: &DataDir,
        token: T::Delete,
        name: FullName,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        debug_assert!(!self.is_changing(&name), "{name:?} is changed already");
        match dir.incarnation(&name) {
            Some(incarnation) => {
                self.waiting.push_back(Change::Delete(OldQueue { token, name, incarnation }));
            }
            None => completions.push_back(Completion::Deleted { token, result: Err(StoreFault::NoQueue) }),
        }
    }

    /// Returns whether a queue of that name is being created or deleted.
    fn is_changing(&self, name: &FullName) -> bool {
        let waiting = self.waiting.iter().map(|change| match change {
            Change::Make(new) => &new.name,
            Change::Delete(old) => &old.name,
        });
        let writing = self.writing.iter().map(|writing| match writing {
            Writing::Made(new, _) => &new.name,
            Writing::Deleted(old) => &old.name,
        });
        let failed = self.failed.iter().map(|old| &old.name);
        waiting.chain(writing).chain(failed).any(|of| of == name)
    }

    /// Writes the waiting changes to the catalogue, one write at a time.
    #[inline]
    pub(super) fn write(&mut self, dir: &DataDir, disk: &mut impl Disk<Tag>) {
        if self.end_written.is_none() && !self.waiting.is_empty() {
            self.begin(dir, disk);
        }
    }

    /// Writes again after a failed write: repeats its deletions, and erases the rest of it. Called at a tick,
    /// because the disk may fail again.
    ///
    /// A failed write may have reached the disk. A deletion is therefore not answered with a failure: the
    /// queue would go on, and a restart could drop it with everything acknowledged since. A creation is: a
    /// restart finds an empty queue at worst.
    pub(super) fn retry(&mut self, dir: &DataDir, disk: &mut impl Disk<Tag>) {
        if self.end_written.is_none() && self.needs_retry() {
            self.begin(dir, disk);
        }
    }

    /// Returns whether a write failed, or is under way.
    pub(super) fn needs_retry(&self) -> bool {
        self.dirty_end > self.end
    }

    /// Returns the length of the catalogue, in bytes.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Returns whether a change is still to be written for the first time, or is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.end_written.is_some() || !self.waiting.is_empty()
    }

    fn begin(&mut self, dir: &DataDir, disk: &mut impl Disk<Tag>) {
        let records = self.take_changes(dir);
        self.submit(records, disk);
    }

    /// Takes the changes to write. Returns their records.
    fn take_changes(&mut self, dir: &DataDir) -> Vec<u8> {
        let mut records = Vec::new();
        for change in self.failed.drain(..).map(Change::Delete).chain(self.waiting.drain(..)) {
            let (writing, record) = match change {
                Change::Make(new) => {
                    let life = dir.conceive(new.partitions);
                    let record = Record::Made(new.name.clone(), life);
                    (Writing::Made(new, life), record)
                }
                Change::Delete(old) => {
                    let record = Record::Deleted(old.incarnation);
                    (Writing::Deleted(old), record)
                }
            };
            records.extend(record.encode());
            self.writing.push(writing);
        }
        records
    }

    fn submit(&mut self, mut records: Vec<u8>, disk: &mut impl Disk<Tag>) {
        let end = self.end + records.len() as u64;
        // Zeros overwrite the bytes that a failed write may have left behind.
        records.resize(records.len() + self.dirty_end.saturating_sub(end) as usize, 0);
        self.dirty_end = self.dirty_end.max(end);
        self.end_written = Some(end);
        let file = FileName::Catalogue(self.shard);
        disk.submit(Tag::Catalogue, vec![Step::Write(file, self.end, Arc::new(records)), Step::Sync(file)]);
    }

    /// Handles the end of a catalogue write. If it failed, creations fail, and deletions wait for the next
    /// write.
    pub(super) fn handle_written(
        &mut self,
        dir: &DataDir,
        result: &io::Result<()>,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        let end = self.end_written.take();
        if let Err(error) = result {
            let told = cannot_write(error);
            tracing::error!(shard = self.shard, told, %error, "catalogue write failed");
        } else if let Some(end) = end {
            (self.end, self.dirty_end) = (end, end);
        }
        for writing in self.writing.drain(..) {
            match writing {
                Writing::Made(NewQueue { token, queue, name, .. }, life) => {
                    let made = result.as_ref().map(|()| dir.record(queue, name, life));
                    let result = made.map_err(|error| StoreFault::Unavailable(cannot_write(error)));
                    completions.push_back(Completion::Opened { token, result });
                }
                Writing::Deleted(old) if result.is_err() => {
                    self.failed.push(old);
                }
                Writing::Deleted(OldQueue { token, name, incarnation }) => {
                    dir.delete(&name, incarnation);
                    completions.push_back(Completion::Deleted { token, result: Ok(incarnation) });
                }
            }
        }
        debug_assert!(self.end <= self.dirty_end, "{} is behind {}", self.end, self.dirty_end);
    }

    /// Forgets the partitions of a queue whose life has ended.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.known.retain(|key, _| key.queue != queue);
    }
}

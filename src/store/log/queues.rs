//! The queues that a shard's clients use: finds, creates, alters, deletes and forgets them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::catalogue::{Altered, Place, Record, beginning};
use super::data_dir::DataDir;
use super::disk::{Disk, FileName, Step};
use super::format::PartitionId;
use super::reason::cannot_write;
use super::tag::Tag;
use crate::base::error::StoreFault;
use crate::base::names::FullName;
use crate::base::queue::{PartitionKey, QueueId};
use crate::store::{Asker, Completion, Life, NewQueue};

/// A request to create a queue.
#[derive(Debug)]
struct Creation<T: Asker> {
    token: T::Open,
    queue: QueueId,
    name: FullName,
    new: NewQueue,
}

/// A request to delete a queue.
#[derive(Debug)]
struct OldQueue<T: Asker> {
    token: T::Change,
    name: FullName,
    incarnation: u64,
}

/// A request to alter a queue.
#[derive(Debug)]
struct Alteration<T: Asker> {
    token: T::Change,
    name: FullName,
    incarnation: u64,
    new: NewQueue,
}

/// A change that waits to be written to the catalogue.
#[derive(Debug)]
enum Change<T: Asker> {
    Make(Creation<T>),
    Alter(Alteration<T>),
    Delete(OldQueue<T>),
}

impl<T: Asker> Change<T> {
    fn name(&self) -> &FullName {
        match self {
            Self::Make(new) => &new.name,
            Self::Alter(of) => &of.name,
            Self::Delete(old) => &old.name,
        }
    }

    /// Returns whether its record has attributes.
    fn has_attributes(&self) -> bool {
        match self {
            Self::Make(Creation { new, .. }) => !new.attributes.is_empty(),
            Self::Alter(_) => true,
            Self::Delete(_) => false,
        }
    }
}

/// A change whose record is being written.
#[derive(Debug)]
enum Writing<T: Asker> {
    Made(Creation<T>, Life),
    Altered(Alteration<T>, Altered),
    Deleted(OldQueue<T>),
}

impl<T: Asker> Writing<T> {
    fn name(&self) -> &FullName {
        match self {
            Self::Made(new, _) => &new.name,
            Self::Altered(of, _) => &of.name,
            Self::Deleted(old) => &old.name,
        }
    }
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
    /// Alterations and deletions whose write failed. The next write repeats them, because their records may be on the
    /// disk.
    failed: VecDeque<Change<T>>,
    /// The length of the catalogue, in bytes.
    end: u64,
    /// Whether the catalogue has the version of a file with attributes.
    takes_attributes: bool,
    /// Whether the write in progress has attributes.
    has_attributes: bool,
    /// Whether the last write failed.
    is_failing: bool,
    /// The length of the catalogue after the write in progress.
    end_written: Option<u64>,
    /// The end of the bytes that a failed write may have left behind; at least `end`.
    dirty_end: u64,
}

impl<T: Asker> Queues<T> {
    /// Creates the queues of a shard that appends to this catalogue.
    pub(super) fn new(shard: u16, catalogue: Place) -> Self {
        let Place { end, takes_attributes } = catalogue;
        Self {
            shard,
            known: HashMap::new(),
            waiting: VecDeque::new(),
            writing: Vec::new(),
            failed: VecDeque::new(),
            end,
            takes_attributes,
            has_attributes: false,
            is_failing: false,
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
        create: Option<NewQueue>,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        debug_assert!(!self.is_changing(&name), "{name:?} is changed already");
        let result = match (dir.open(queue, &name), create) {
            (Some(life), _) => Ok(life),
            (None, None) => Err(StoreFault::NoQueue),
            (None, Some(new)) => {
                let creation = Creation { token, queue, name, new };
                return self.waiting.push_back(Change::Make(creation));
            }
        };
        completions.push_back(Completion::Opened { token, result });
    }

    /// Alters a queue. [`Self::handle_written`] answers once the alteration is durable. If no such queue exists, this
    /// method answers.
    pub(super) fn alter(
        &mut self,
        dir: &DataDir,
        token: T::Change,
        name: FullName,
        new: NewQueue,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        debug_assert!(!self.is_changing(&name), "{name:?} is changed already");
        match dir.incarnation(&name) {
            Some(incarnation) => {
                self.waiting.push_back(Change::Alter(Alteration { token, name, incarnation, new }));
            }
            None => completions.push_back(Completion::Altered { token, result: Err(StoreFault::NoQueue) }),
        }
    }

    /// Deletes a queue. [`Self::handle_written`] answers once the deletion is durable. If no such queue
    /// exists, this method answers.
    pub(super) fn delete(
        &mut self,
        dir: &DataDir,
        token: T::Change,
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

    /// Returns whether a queue of that name is being created, altered or deleted.
    fn is_changing(&self, name: &FullName) -> bool {
        let writing = self.writing.iter().map(Writing::name);
        self.waiting.iter().chain(&self.failed).map(Change::name).chain(writing).any(|of| of == name)
    }

    /// Writes the waiting changes to the catalogue, one write at a time.
    #[inline]
    pub(super) fn write(&mut self, dir: &DataDir, disk: &mut impl Disk<Tag>) {
        let goes_on = !self.is_failing && !self.failed.is_empty();
        if self.end_written.is_none() && (!self.waiting.is_empty() || goes_on) {
            // What has failed waits for a tick. Otherwise it could hold up the others.
            self.begin(dir, disk, goes_on);
        }
    }

    /// Writes again after a failed write: repeats its alterations and deletions, and erases the rest of it. Called at a
    /// tick, because the disk may fail again.
    ///
    /// A failed write may have reached the disk. A deletion is therefore not answered with a failure: the
    /// queue would go on, and a restart could drop it with everything acknowledged since. Nor is an alteration: a
    /// restart could find what was refused. A creation is: a restart finds an empty queue at worst.
    pub(super) fn retry(&mut self, dir: &DataDir, disk: &mut impl Disk<Tag>) {
        if self.end_written.is_none() && self.needs_retry() {
            self.begin(dir, disk, true);
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

    fn begin(&mut self, dir: &DataDir, disk: &mut impl Disk<Tag>, failed_first: bool) {
        let records: Vec<Record> =
            self.take_changes(failed_first).into_iter().map(|change| self.record_of(dir, change)).collect();
        let has_attributes = records.iter().any(Record::has_attributes);
        self.submit(records.iter().flat_map(Record::encode).collect(), has_attributes, disk);
    }

    /// Takes the changes to write: one with attributes alone, or all others.
    fn take_changes(&mut self, failed_first: bool) -> Vec<Change<T>> {
        let Self { waiting, failed, .. } = self;
        let (first, second) = if failed_first { (failed, waiting) } else { (waiting, failed) };
        if let Some(alone) = first.pop_front_if(|change| change.has_attributes()) {
            return vec![alone];
        }
        let mut plain = Vec::new();
        for list in [&mut *first, &mut *second] {
            let (alone, others): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(list).into_iter().partition(Change::has_attributes);
            *list = alone;
            plain.extend(others);
        }
        if plain.is_empty() {
            plain.extend(first.pop_front().or_else(|| second.pop_front()));
        }
        plain
    }

    /// Returns the record of a change that is written now.
    fn record_of(&mut self, dir: &DataDir, change: Change<T>) -> Record {
        let (writing, record) = match change {
            Change::Make(creation) => {
                let NewQueue { partitions, attributes } = creation.new.clone();
                let life = dir.conceive(partitions, attributes);
                let record = Record::Made(creation.name.clone(), life.clone());
                (Writing::Made(creation, life), record)
            }
            Change::Alter(of) => {
                let NewQueue { partitions, attributes } = of.new.clone();
                let altered = dir.conceive_alteration(partitions, attributes);
                let record = Record::Altered(of.incarnation, altered.clone());
                (Writing::Altered(of, altered), record)
            }
            Change::Delete(old) => {
                let record = Record::Deleted(old.incarnation);
                (Writing::Deleted(old), record)
            }
        };
        self.writing.push(writing);
        record
    }

    fn submit(&mut self, mut records: Vec<u8>, has_attributes: bool, disk: &mut impl Disk<Tag>) {
        let end = self.end + records.len() as u64;
        // Zeros overwrite the bytes that a failed write may have left behind.
        records.resize(records.len() + self.dirty_end.saturating_sub(end) as usize, 0);
        self.dirty_end = self.dirty_end.max(end);
        self.end_written = Some(end);
        let file = FileName::Catalogue(self.shard);
        let mut steps = Vec::new();
        self.has_attributes = has_attributes;
        if has_attributes && !self.takes_attributes {
            // An earlier version of the server must not find attributes behind a head that it knows.
            steps.extend([Step::Write(file, 0, Arc::new(beginning(true))), Step::Sync(file)]);
        }
        steps.extend([Step::Write(file, self.end, Arc::new(records)), Step::Sync(file)]);
        disk.submit(Tag::Catalogue, steps);
    }

    /// Handles the end of a catalogue write. If it failed, creations fail, and alterations and deletions wait for the
    /// next write.
    pub(super) fn handle_written(
        &mut self,
        dir: &DataDir,
        result: &io::Result<()>,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        let end = self.end_written.take();
        self.is_failing = result.is_err();
        if let Err(error) = result {
            let told = cannot_write(error);
            tracing::error!(shard = self.shard, told, %error, "catalogue write failed");
        } else if let Some(end) = end {
            (self.end, self.dirty_end) = (end, end);
            self.takes_attributes |= self.has_attributes;
        }
        for writing in self.writing.drain(..) {
            match writing {
                Writing::Made(Creation { token, queue, name, .. }, life) => {
                    let made = result.as_ref().map(|()| dir.record(queue, name, life));
                    let result = made.map_err(|error| StoreFault::Unavailable(cannot_write(error)));
                    completions.push_back(Completion::Opened { token, result });
                }
                Writing::Deleted(old) if result.is_err() => {
                    self.failed.push_back(Change::Delete(old));
                }
                Writing::Altered(of, _) if result.is_err() => {
                    self.failed.push_back(Change::Alter(of));
                }
                Writing::Altered(Alteration { token, name, incarnation, .. }, altered) => {
                    let result = dir.alter(&name, incarnation, altered).ok_or(StoreFault::NoQueue);
                    completions.push_back(Completion::Altered { token, result });
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

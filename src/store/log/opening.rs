//! Finding queues and making them.

use std::hash::Hash;
use std::io;
use std::sync::Arc;

use super::catalogue::Record;
use super::disk::{Disk, FileName, Step};
use super::reason::cannot_write;
use super::{Log, Opening, Tag};
use crate::base::error::StoreFault;
use crate::base::names::FullName;
use crate::base::queue::QueueId;
use crate::store::Completion;

impl<T: Copy + Eq + Hash, D: Disk<Tag>> Log<T, D> {
    pub(super) fn open(&mut self, token: T, queue: QueueId, name: FullName, create: Option<u16>) {
        let result = match (self.dir.open(queue, &name), create) {
            (Some(life), _) => Ok(life),
            (None, None) => Err(StoreFault::NoQueue),
            (None, Some(partitions)) => {
                return self.openings.push_back(Opening { token, queue, name, partitions });
            }
        };
        self.completions.push_back(Completion::Opened { token, result });
    }

    /// Writes the queues that wait for it into the catalogue.
    pub(super) fn write_catalogue(&mut self) {
        if !self.opening.is_empty() || self.openings.is_empty() {
            return;
        }
        let mut records = Vec::new();
        for Opening { token, queue, name, partitions } in self.openings.drain(..) {
            let life = self.dir.conceive(partitions);
            records.extend(Record::Made(name.clone(), life).encode());
            self.opening.push((token, queue, name, life));
        }
        // What a write that failed may have left behind is no queue's, and no damage.
        let end = self.catalogue_end + records.len() as u64;
        records.resize(records.len() + self.catalogue_dirty_end.saturating_sub(end) as usize, 0);
        self.catalogue_dirty_end = self.catalogue_dirty_end.max(end);
        let file = FileName::Catalogue(self.shard);
        let steps = vec![Step::Write(file, self.catalogue_end, Arc::new(records)), Step::Sync(file)];
        self.disk.submit(Tag::Catalogue, steps);
    }

    pub(super) fn handle_catalogue(&mut self, result: &io::Result<()>) {
        if let Err(error) = result {
            let told = cannot_write(error);
            tracing::error!(shard = self.shard, told, %error, "queues cannot be written into the catalogue");
        }
        for (token, queue, name, life) in std::mem::take(&mut self.opening) {
            let result = match result {
                Ok(()) => {
                    self.catalogue_end += Record::Made(name.clone(), life).encode().len() as u64;
                    Ok(self.dir.record(queue, name, life))
                }
                Err(error) => Err(StoreFault::Unavailable(cannot_write(error))),
            };
            self.completions.push_back(Completion::Opened { token, result });
        }
    }
}

//! The queues of a data directory that no server uses.

use serde_json::{Map, Value};

use super::place::{Count, Place};
use crate::base::attributes::{Allowed, Attributes, take_partitions};
use crate::base::error::StoreFault;
use crate::base::limits::PARTITIONS_MAX;
use crate::base::manage::{Manage, Managed, Only, Removed};
use crate::base::names::{FullName, QueueName};
use crate::base::queue::QueueInfo;
use crate::cli::{Directory, Failure, say_damage};
use crate::control::{
    MessageLine, POP_BYTES_MAX, QueueChange, QueueLine, QueuePage, RemovedLine, StatsPage, by_partition,
    oldest_first,
};
use crate::operation::Settings;
use crate::process::unix_now;
use crate::shard::core::Settings as CoreSettings;
use crate::store::log::disk::FileName;
use crate::store::log::inspect::Contents;
use crate::store::log::{OsDirectory, moment};
use crate::store::{NewQueue, Offline};

/// A locked data directory.
pub(super) struct Stopped {
    /// The open queues, once a command needs more than to look. Declared before the lock, so that it goes first.
    open: Option<Offline<OsDirectory>>,
    directory: Directory,
}

impl Stopped {
    /// Uses a locked directory.
    pub(super) fn new(directory: Directory) -> Self {
        Self { open: None, directory }
    }

    /// Opens the directory as a server does, once.
    fn open(&mut self) -> Result<&mut Offline<OsDirectory>, Failure> {
        if self.open.is_none() {
            let backup = self.directory.files.path_of(FileName::Backup);
            if backup.exists() {
                let why =
                    "is a backup, which this command would change: copy it to where a server is to use it";
                return Err(Failure(format!("{}: {why}", backup.parent().unwrap_or(&backup).display())));
            }
            let (open, report) = Offline::open(self.directory.files.clone())?;
            say_damage(&report);
            self.open = Some(open);
        }
        self.open.as_mut().ok_or_else(|| Failure("the directory is not open".into()))
    }

    /// Finds a queue.
    fn queue(&mut self, name: &FullName) -> Result<Option<(QueueInfo, Attributes)>, Failure> {
        match self.open()?.queue(name, None) {
            Ok((_, info, attributes)) => Ok(Some((info, attributes))),
            Err(StoreFault::NoQueue) => Ok(None),
            Err(fault) => Err(failure(&fault)),
        }
    }

    /// Asks each partition of a queue.
    fn each(
        &mut self,
        name: &FullName,
        what: &Manage,
        mut take: impl FnMut(Managed),
    ) -> Result<Option<()>, Failure> {
        let Some((info, _)) = self.queue(name)? else { return Ok(None) };
        for partition in info.all() {
            take(self.open()?.manage(&info, partition, what.clone()).map_err(|fault| failure(&fault))?);
        }
        Ok(Some(()))
    }
}

fn failure(fault: &StoreFault) -> Failure {
    Failure(fault.to_string())
}

/// Returns what a server with the default settings allows: a directory does not know the settings of its server.
fn allowed() -> Allowed {
    let Settings { ttl_min_secs, ttl_max_secs, delay_max_secs, max_payload_bytes, .. } = Settings::default();
    Allowed { ttl_secs: (ttl_min_secs, ttl_max_secs), delay_max_secs, payload_max: max_payload_bytes }
}

fn changed(of: &Attributes, changes: Map<String, Value>, queue: &QueueName) -> Result<Attributes, Failure> {
    of.with(changes, queue, &allowed()).map_err(|fault| Failure(fault.to_string()))
}

/// Checks the number of partitions of a queue.
fn partitions_of(wanted: u16, least: u16) -> Result<u16, Failure> {
    if (least..=PARTITIONS_MAX).contains(&wanted) {
        return Ok(wanted);
    }
    Err(Failure(format!("partitions: {wanted} is not within {least} to {PARTITIONS_MAX}")))
}

impl Place for Stopped {
    fn list(&mut self, project: Option<&str>, prefix: &str) -> Result<Vec<QueueLine>, Failure> {
        // A list changes nothing, so that it works on a directory that cannot be written, too.
        let contents = Contents::read(&self.directory.files, &moment())?;
        say_damage(&contents.report);
        let lines =
            contents.queues(unix_now()).into_iter().map(|(name, held)| QueueLine::new(name, held.into()));
        let is_wanted = |line: &QueueLine| {
            project.is_none_or(|project| project == line.project) && line.queue.starts_with(prefix)
        };
        Ok(lines.filter(is_wanted).collect())
    }

    fn show(&mut self, name: &FullName) -> Result<Option<QueuePage>, Failure> {
        let Some((info, attributes)) = self.queue(name)? else { return Ok(None) };
        let mut stats = StatsPage::default();
        for partition in info.all() {
            let managed =
                self.open()?.manage(&info, partition, Manage::Stats).map_err(|fault| failure(&fault))?;
            stats.add(partition, &managed);
        }
        let page = QueuePage::new(name, info.partitions, attributes.as_map());
        Ok(Some(QueuePage { stats: Some(stats), ..page }))
    }

    fn create(&mut self, name: &FullName, new: QueueChange) -> Result<(bool, QueuePage), Failure> {
        let QueueChange { mut attributes, partitions } = new;
        let named = take_partitions(&mut attributes, PARTITIONS_MAX);
        let named = named.map_err(|fault| Failure(fault.to_string()))?;
        let partitions = partitions.or(named).unwrap_or(CoreSettings::default().partitions);
        let partitions = partitions_of(partitions, 1)?;
        let attributes = changed(&Attributes::default(), attributes, &name.1)?;
        let made = self.open()?.queue(name, Some(NewQueue { partitions, attributes }));
        let (is_new, info, attributes) = made.map_err(|fault| failure(&fault))?;
        Ok((is_new, QueuePage::new(name, info.partitions, attributes.as_map())))
    }

    fn set(&mut self, name: &FullName, change: QueueChange) -> Result<Option<QueuePage>, Failure> {
        let Some((info, attributes)) = self.queue(name)? else { return Ok(None) };
        let keys_move = change.partitions.is_some();
        let partitions = partitions_of(change.partitions.unwrap_or(info.partitions), info.partitions)?;
        let attributes = changed(&attributes, change.attributes, &name.1)?;
        let altered = self.open()?.alter(name, attributes, partitions);
        let life = altered.map_err(|fault| failure(&fault))?;
        let page = QueuePage::new(name, life.partitions, life.attributes.as_map());
        Ok(Some(QueuePage { keys_move, ..page }))
    }

    fn purge(&mut self, name: &FullName) -> Result<Option<Count>, Failure> {
        let mut messages = 0;
        let purged = self.each(name, &Manage::Purge, |managed| {
            if let Managed::Purged(of) = managed {
                messages += of;
            }
        })?;
        Ok(purged.map(|()| Some(messages)))
    }

    fn redrive(&mut self, _: &FullName, _: Option<&QueueName>) -> Result<Option<u64>, Failure> {
        Err(Failure("redrive: a running server moves messages; start it, or give --control".into()))
    }

    fn delete(&mut self, name: &FullName) -> Result<bool, Failure> {
        match self.open()?.delete(name) {
            Ok(_) => Ok(true),
            Err(StoreFault::NoQueue) => Ok(false),
            Err(fault) => Err(failure(&fault)),
        }
    }

    fn find(&mut self, name: &FullName, ids: &[String]) -> Result<Option<Vec<MessageLine>>, Failure> {
        let ids = by_partition(ids.iter().map(String::as_str)).map_err(Failure)?;
        let Some((info, _)) = self.queue(name)? else { return Ok(None) };
        let mut lines = Vec::new();
        for (partition, offsets) in ids.into_iter().filter(|(partition, _)| partition.0 < info.partitions) {
            let managed = self.open()?.manage(&info, partition, Manage::Find(offsets));
            if let Managed::Found(found) = managed.map_err(|fault| failure(&fault))? {
                lines.extend(
                    found.iter().filter_map(|found| MessageLine::found(partition, found, unix_now())),
                );
            }
        }
        Ok(Some(lines))
    }

    fn remove(
        &mut self,
        name: &FullName,
        ids: &[String],
        is_unclaimed: bool,
    ) -> Result<Option<Vec<RemovedLine>>, Failure> {
        let ids = by_partition(ids.iter().map(String::as_str)).map_err(Failure)?;
        let Some((info, _)) = self.queue(name)? else { return Ok(None) };
        let only = if is_unclaimed { Only::Unclaimed } else { Only::All };
        let mut lines = Vec::new();
        for (partition, offsets) in ids {
            let removed = if partition.0 < info.partitions {
                let what = Manage::Remove { offsets: offsets.clone(), only };
                match self.open()?.manage(&info, partition, what).map_err(|fault| failure(&fault))? {
                    Managed::Removed(removed) => removed,
                    _ => Vec::new(),
                }
            } else {
                vec![Removed::Absent; offsets.len()]
            };
            let each = offsets.into_iter().zip(removed);
            lines.extend(each.map(|(offset, removed)| RemovedLine::new(partition, offset, removed)));
        }
        Ok(Some(lines))
    }

    fn pop(&mut self, name: &FullName, count: u32) -> Result<Option<Vec<MessageLine>>, Failure> {
        let Some((info, _)) = self.queue(name)? else { return Ok(None) };
        let mut lines: Vec<MessageLine> = Vec::new();
        let mut counted = Vec::new();
        for partition in info.all() {
            let stats = self.open()?.manage(&info, partition, Manage::Stats);
            counted.push((partition, stats.map_err(|fault| failure(&fault))?));
        }
        for partition in oldest_first(counted) {
            let left = count.saturating_sub(u32::try_from(lines.len()).unwrap_or(u32::MAX));
            let bytes_max = POP_BYTES_MAX.saturating_sub(lines.iter().map(MessageLine::bytes).sum());
            if left == 0 || bytes_max == 0 {
                break;
            }
            let popped =
                match self.open()?.manage(&info, partition, Manage::Pop { messages_max: left, bytes_max }) {
                    Ok(Managed::Popped(popped)) => popped,
                    // What was popped before is nowhere else.
                    Ok(_) => break,
                    Err(fault) if lines.is_empty() => return Err(failure(&fault)),
                    Err(_) => break,
                };
            lines.extend(popped.iter().flat_map(|run| MessageLine::popped(partition, run, unix_now())));
        }
        Ok(Some(lines))
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        let Self { open, directory: _directory } = *self;
        match open {
            Some(open) => Ok(open.close()?),
            None => Ok(()),
        }
    }
}

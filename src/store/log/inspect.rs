//! Inspects a data directory that no server uses: lists its queues, verifies its files, and dumps messages. Writes
//! nothing.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::backup::Manifest;
use super::catalogue;
use super::cut::Cut;
use super::data_dir::DataDir;
use super::disk::{Directory, FileName, Identity, Read, Step, read, read_all, salvage, salvage_all};
use super::features::Features;
use super::format::{BatchHeader, PartitionId, ROUNDS_AT, Unreadable};
use super::grouped::Grouped;
use super::header::SegmentHeader;
use super::history::{History, Moment, Sealed};
use super::index::{Index, Run};
use super::recovery::{self, Facts, OpenError, Report, read_index, replaced};
use super::scan::{Damage, scan, walk};
use super::segment::{Past, Runs, SealedSpan};
use super::summary;
use crate::base::batch::StoredBatch;
use crate::base::millis::UnixMillis;
use crate::base::names::FullName;
use crate::base::units::Partition;
use crate::store::{Life, QueueSummary};

/// A directory that refuses writes.
#[derive(Debug)]
struct ReadOnly<'a>(&'a dyn Directory);

impl Directory for ReadOnly<'_> {
    fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        self.0.list()
    }

    fn identity(&self, file: FileName) -> io::Result<Identity> {
        self.0.identity(file)
    }

    fn run(&self, step: &Step) -> Read {
        match step {
            Step::Read(..) | Step::Salvage(..) => self.0.run(step),
            // Recovery removes only what it ignores anyway. It ignores the file again the next time.
            Step::Remove(_) => Ok(Vec::new()),
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}

/// The content of a data directory.
#[derive(Debug)]
pub struct Contents {
    queues: BTreeMap<FullName, Life>,
    pasts: BTreeMap<PartitionId, Past>,
    /// The damage that recovery found.
    pub report: Report,
}

impl Contents {
    /// Reads a directory that no server uses.
    pub fn read(directory: &dyn Directory, now: &Moment) -> Result<Self, OpenError> {
        let (dir, report) = recovery::open(&ReadOnly(directory), 0, 0, now)?;
        let (queues, pasts) = DataDir::into_contents(dir);
        Ok(Self { queues, pasts, report })
    }

    /// Returns the queues with their totals, by name. Messages that have expired at `unix` may not count.
    pub fn queues(&self, unix: UnixMillis) -> Vec<(&FullName, QueueSummary)> {
        let summary = |life: &Life| {
            let mut held = QueueSummary { partitions: life.partitions, ..QueueSummary::default() };
            for (_, past) in self.pasts.range(partitions_of(life, Kind::Messages)) {
                summary::add(&mut held, past.spans.iter().map(|span| &span.head), unix);
            }
            held
        };
        self.queues.iter().map(|(name, life)| (name, summary(life))).collect()
    }

    /// Passes the batches of a queue to `take`, partition by partition, in order: its messages, or the state of
    /// its claims, of which each note is a message. Returns `None` if there is no such queue. Leaves out damaged batches, and passes the damage to `damaged`.
    pub fn dump(
        &self,
        directory: &dyn Directory,
        name: &FullName,
        kind: Kind,
        mut take: impl FnMut(Partition, StoredBatch) -> io::Result<()>,
        mut damaged: impl FnMut(FileName, Damage),
    ) -> Option<io::Result<()>> {
        let life = self.queues.get(name)?;
        let mut dump = || {
            for ((incarnation, partition), past) in self.pasts.range(partitions_of(life, kind)) {
                let of = partition.of_state().unwrap_or(*partition);
                for span in &past.spans {
                    let file = FileName::Segment(span.segment.place);
                    for run in &*runs(directory, span)? {
                        let bytes = salvage(directory, file, run.at, run.bytes as usize)?.bytes;
                        let mut batches = Vec::new();
                        let is_its = |header: &BatchHeader| {
                            (header.incarnation, header.partition) == (*incarnation, *partition)
                        };
                        let damage =
                            walk(span.segment.stamp, run.at, &bytes, is_its, |_, header, records| {
                                batches.extend(header.batch(records));
                            });
                        batches.into_iter().try_for_each(|batch| take(of, batch))?;
                        damage.into_iter().for_each(|damage| damaged(file, damage));
                    }
                }
            }
            Ok(())
        };
        Some(dump())
    }
}

/// Returns what a directory holds that no server uses, for a backup, and the damage that recovery found.
pub fn cut(directory: &dyn Directory, now: &Moment) -> Result<(Cut, Report), OpenError> {
    let (dir, report) = recovery::open(&ReadOnly(directory), 0, 0, now)?;
    Ok((dir.into_cut(), report))
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Messages.
    Messages,
    /// The state of claims, in a hidden partition.
    State,
}

/// Returns the range of ids that a queue's partitions of this kind may have.
fn partitions_of(life: &Life, kind: Kind) -> RangeInclusive<PartitionId> {
    let (first, hidden, last) = (Partition(0), Partition(0).state(), Partition(u16::MAX));
    let (first, last) = match kind {
        Kind::Messages => (first, Partition(hidden.0 - 1)),
        Kind::State => (hidden, last),
    };
    (life.incarnation, first)..=(life.incarnation, last)
}

fn runs(directory: &dyn Directory, span: &SealedSpan) -> io::Result<Arc<[Run]>> {
    let file = FileName::Index(span.segment.place);
    match &span.runs {
        Runs::Memory(runs) => Ok(runs.clone()),
        Runs::Index(at) => {
            let runs = at.parse(&read(directory, file, at.at, at.bytes())?);
            let damaged =
                || io::Error::new(io::ErrorKind::InvalidData, format!("{file} is damaged: remove it"));
            runs.map(Into::into).ok_or_else(damaged)
        }
    }
}

/// The result of verifying one file.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The file that was verified.
    pub file: FileName,
    /// The file's length, in bytes.
    pub length: u64,
    /// The number of intact batches or records.
    pub whole: usize,
    /// The number of messages in the intact batches.
    pub messages: u64,
    /// The number of notes of the state of claims in the intact batches.
    pub notes: u64,
    /// The bytes of an incomplete write at the end. No client was ever told of them.
    pub torn: u64,
    /// The ranges whose bytes are not what was written.
    pub damage: Vec<Damage>,
}

/// Verifies every checksum of a directory. Passes the result for each file to `take`.
pub fn verify(
    directory: &dyn Directory,
    now: &Moment,
    mut take: impl FnMut(Verified),
) -> Result<(), OpenError> {
    let files = directory.list()?;
    let (deleted, stopped) = deleted_and_stopped(directory, &files);
    let facts = Facts { stopped: &stopped, deleted: &deleted, unix: now.unix() };
    let replaced = replaced(directory, &files);
    let is_known =
        |place: u32| files.iter().any(|(file, _)| *file == FileName::Index(place)) || facts.names(place);
    for (file, length) in &files {
        let mut unreadable = Vec::new();
        let mut all = || {
            let salvaged = salvage_all(directory, *file, *length)?;
            unreadable = salvaged.unreadable;
            io::Result::Ok(salvaged.bytes)
        };
        let mut found = Verified {
            file: *file,
            length: *length,
            whole: 0,
            messages: 0,
            notes: 0,
            torn: 0,
            damage: Vec::new(),
        };
        let whole_file = || vec![Damage { at: 0, bytes: *length }];
        match *file {
            FileName::Segment(place) => {
                let bytes = all()?;
                let parsed = SegmentHeader::parse(&bytes)
                    .and_then(|header| Ok((header, Grouped::parse(&header, &bytes)?)));
                match parsed {
                    // Its messages are in the segment that replaces it. The next start empties it.
                    Ok((header, _)) if replaced.contains(&header.stamp) => {}
                    Ok((header, grouped)) => {
                        let index = FileName::Index(place);
                        // An index that cannot be read is reported on its own.
                        let is_there = files.iter().any(|(file, _)| *file == index);
                        let index = is_there.then(|| read_index(directory, place).ok()).flatten();
                        let index = index.and_then(|bytes| Index::parse(header.stamp, &bytes).ok());
                        let sealed = facts.end(place, header.stamp).or(grouped.map(|grouped| grouped.end));
                        let is_grouped = header.features.contains(Features::GROUPED);
                        let end = index.map(|index| index.end).or(sealed).unwrap_or(bytes.len() as u64);
                        if header.bytes > *length {
                            found.damage.push(Damage { at: *length, bytes: header.bytes - length });
                        }
                        let scanned = scan(&header, bytes.get(..end as usize).unwrap_or(&bytes));
                        found.whole = scanned.batches.len();
                        for (_, batch) in &scanned.batches {
                            let is_state = batch.partition.of_state().is_some();
                            let count = if is_state { &mut found.notes } else { &mut found.messages };
                            *count += u64::from(batch.count);
                        }
                        found.damage.extend(scanned.damage);
                        // An index states where the acknowledged rounds end. Rounds of a grouped segment end in
                        // its last block.
                        if scanned.end < end && (end < bytes.len() as u64 || is_grouped) {
                            found.damage.push(Damage { at: scanned.end, bytes: end - scanned.end });
                        } else {
                            found.torn = scanned.torn;
                        }
                    }
                    // A file that was never used is empty. A used file has an index, or a clean stop has
                    // named it.
                    Err(Unreadable::Damaged) if !is_known(place) && bytes.iter().all(|byte| *byte == 0) => {}
                    Err(Unreadable::Damaged) => found.damage = whole_file(),
                    Err(why) => return Err(OpenError::Version(*file, why)),
                }
            }
            FileName::Index(place) => {
                let header = read(directory, FileName::Segment(place), 0, ROUNDS_AT as usize);
                let is_gone = header.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                if is_gone && facts.has_live(directory, place) {
                    take(Verified {
                        file: FileName::Segment(place),
                        damage: vec![Damage { at: 0, bytes: 0 }],
                        ..found.clone()
                    });
                }
                let stamp =
                    header.ok().and_then(|blocks| SegmentHeader::parse(&blocks).ok()).map(|of| of.stamp);
                match index_of(&all()?, stamp) {
                    Ok(count) => found.whole = count,
                    Err(Unreadable::Damaged) => found.damage = whole_file(),
                    Err(why) => return Err(OpenError::Version(*file, why)),
                }
            }
            FileName::Catalogue(_) => match catalogue::parse(&all()?) {
                Ok(records) => {
                    found.whole = records.records.len();
                    // A file that is shorter than its beginning is damaged.
                    found.torn = length.saturating_sub(records.end);
                    found.damage =
                        records.damage.into_iter().map(|(at, bytes)| Damage { at, bytes }).collect();
                }
                Err(Unreadable::Damaged) => found.damage = whole_file(),
                Err(why) => return Err(OpenError::Version(*file, why)),
            },
            // The next start writes these files anew.
            FileName::NewSegment(_)
            | FileName::NewIndex(_)
            | FileName::NewCatalogue(_)
            | FileName::DamagedCatalogue(_)
            | FileName::NewHistory => continue,
            FileName::Backup => match Manifest::parse(&all()?) {
                Ok(manifest) => {
                    found.whole = manifest.segments.len();
                    for place in manifest.segments.iter().map(|(segment, _)| segment.place) {
                        let file = FileName::Segment(place);
                        // A missing segment that is known otherwise is reported on its own.
                        if !files.iter().any(|(of, _)| *of == file) && !is_known(place) {
                            take(Verified {
                                file,
                                length: 0,
                                whole: 0,
                                damage: vec![Damage { at: 0, bytes: 0 }],
                                ..found.clone()
                            });
                        }
                    }
                }
                Err(Unreadable::Damaged) => found.damage = whole_file(),
                Err(why) => return Err(OpenError::Version(*file, why)),
            },
            FileName::History => match History::parse(&all()?) {
                Ok(_) => found.whole = 1,
                Err(Unreadable::Damaged) => found.damage = whole_file(),
                Err(why) => return Err(OpenError::Version(*file, why)),
            },
        }
        for (at, bytes) in unreadable {
            // Unreadable bytes that a checksum covers are already reported. This reports the others.
            let is_in = |damage: &Damage| damage.at < at + bytes && at < damage.at + damage.bytes;
            if !found.damage.iter().any(is_in) {
                found.damage.push(Damage { at, bytes });
            }
        }
        take(found);
    }
    for Sealed { place, .. } in &stopped {
        let file = FileName::Segment(*place);
        if !files.iter().any(|(of, _)| *of == file || *of == FileName::Index(*place)) {
            let damage = vec![Damage { at: 0, bytes: 0 }];
            take(Verified { file, length: 0, whole: 0, messages: 0, notes: 0, torn: 0, damage });
        }
    }
    Ok(())
}

/// Returns the incarnations of deleted queues, and the segments that the last clean stop sealed, as far as
/// the files can be read.
fn deleted_and_stopped(directory: &dyn Directory, files: &[(FileName, u64)]) -> (HashSet<u64>, Vec<Sealed>) {
    let (mut records, mut stopped) = (Vec::new(), Vec::new());
    for (file, length) in files {
        if !matches!(file, FileName::Catalogue(_) | FileName::History) {
            continue;
        }
        let Ok(bytes) = read_all(directory, *file, *length) else { continue };
        match file {
            FileName::Catalogue(_) => records.extend(catalogue::parse(&bytes).unwrap_or_default().records),
            FileName::History => {
                stopped = History::parse(&bytes).ok().and_then(|history| history.stopped).unwrap_or_default();
            }
            _ => {}
        }
    }
    (catalogue::merge(records.into_iter()).deleted, stopped)
}

/// Returns the number of intact runs in an index. Returns 0 if the index belongs to an earlier life of its
/// segment.
fn index_of(file: &[u8], stamp: Option<u64>) -> Result<usize, Unreadable> {
    let of = Index::stamp(file)?;
    if stamp.is_some_and(|stamp| stamp != of) {
        return Ok(0);
    }
    let index = Index::parse(of, file)?;
    let mut runs = 0;
    for (_, _, at) in index.spans {
        let bytes = file.get(at.at as usize..).and_then(|rest| rest.get(..at.bytes()));
        runs += bytes.and_then(|bytes| at.parse(bytes)).ok_or(Unreadable::Damaged)?.len();
    }
    Ok(runs)
}

//! Copies a cut of a data directory to another directory, which is then a data directory itself.
//!
//! The copy looks like a directory after a clean stop. Of each segment it holds the header and the rounds up to
//! the cut, and no space for further ones. Segments that an earlier backup holds up to the same position are
//! taken from there.
//!
//! What keeps the source as it is during the copy is the hold of the [cut](super::cut). Each segment's stamp is
//! checked again after its copy, because a server that starts in the meantime knows of no hold.

mod manifest;

pub use manifest::Manifest;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::cut::{Cut, CutSegment};
use super::disk::{Directory, FileName, Step, is_unreadable, read, read_all, run_all, salvage, salvage_all};
use super::format::{BLOCK, ROUNDS_AT, Unreadable};
use super::grouped::Grouped;
use super::header::SegmentHeader;
use super::history::{History, Sealed};
use super::index::{Index, RunsAt};
use super::recovery::Damaged;
use super::scan::Damage;
use crate::base::millis::UnixMillis;

/// Bytes that are read and written at once.
const CHUNK: u64 = 1 << 20;

/// No index is longer, in bytes. A segment is scanned instead.
const INDEX_BYTES_MAX: usize = 1 << 30;

const _: () = assert!(CHUNK.is_multiple_of(BLOCK as u64), "segments are copied in whole blocks");

/// The reason that a backup failed.
#[derive(Debug)]
pub enum BackupError {
    /// A file of the data directory cannot be read.
    Source(FileName, io::Error),
    /// A file of the backup cannot be written.
    Target(FileName, io::Error),
    /// A file of the data directory has a version that is not supported.
    Version(FileName, Unreadable),
    /// The file is not that of the cut: another server has changed it, or the cut is of another directory.
    Changed(FileName),
    /// It was stopped.
    Stopped,
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(file, error) => write!(f, "cannot read {file} of the data directory: {error}"),
            Self::Target(file, error) => write!(f, "cannot write {file} of the backup: {error}"),
            Self::Version(file, why) => write!(f, "{file}: {why}"),
            Self::Changed(FileName::History) => f.write_str(
                "the server that was asked does not use the data directory, or could not write its file history: name the server's \
                 data_dir, or restart it",
            ),
            Self::Changed(file) => write!(f, "{file} was changed during the backup: run it again"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

impl std::error::Error for BackupError {}

/// A step of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// This many bytes of a segment were copied.
    Copied(u64),
    /// A segment of this many bytes was taken from the earlier backup.
    Kept(u64),
}

/// An earlier backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// Its segments that could be read as a whole.
    segments: HashSet<CutSegment>,
    key: Option<u128>,
    /// When it was made, unless its manifest is damaged.
    unix: Option<UnixMillis>,
}

impl Earlier {
    /// Reads what a backup holds. Returns `None` if the directory is not a backup.
    pub fn read(directory: &dyn Directory) -> io::Result<Option<Self>> {
        let files = directory.list()?;
        let Some((_, length)) = files.iter().find(|(file, _)| *file == FileName::Backup) else {
            return Ok(None);
        };
        let manifest = salvage_all(directory, FileName::Backup, *length)?;
        // Nothing is taken from a backup whose manifest is damaged.
        let manifest = Manifest::parse(&manifest.bytes).ok();
        let unix = manifest.as_ref().map(|manifest| manifest.unix);
        let is_there = |segment: &CutSegment| {
            let length = segment.end.next_multiple_of(BLOCK as u64);
            files.contains(&(FileName::Segment(segment.place), length))
        };
        let all = manifest.unwrap_or_default().segments.into_iter();
        let whole = all.filter(|(segment, is_whole)| *is_whole && is_there(segment));
        let segments = whole.map(|(segment, _)| segment).collect();
        Ok(Some(Self { segments, key: key(directory, &files), unix }))
    }

    /// Returns when it was made; `None` if that is not known.
    pub fn unix(&self) -> Option<UnixMillis> {
        self.unix
    }

    /// Returns whether it is a backup of the directory or of a copy of it. A backup without a history could
    /// be one of any directory.
    pub fn is_of(&self, directory: &dyn Directory) -> io::Result<bool> {
        let key = key(directory, &directory.list()?);
        Ok(self.key.is_none() || key.is_none() || self.key == key)
    }

    /// Returns how many bytes of the cut's segments it lacks.
    pub fn lacks(&self, cut: &Cut) -> u64 {
        let lacking = cut.segments.iter().filter(|segment| !self.segments.contains(segment));
        lacking.map(|segment| segment.end).sum()
    }
}

/// Returns the key of a directory's history, which tells directories apart.
fn key(directory: &dyn Directory, files: &[(FileName, u64)]) -> Option<u128> {
    let (file, length) = files.iter().find(|(file, _)| *file == FileName::History)?;
    let bytes = read_all(directory, *file, *length).ok()?;
    History::parse(&bytes).ok().map(|history| history.key)
}

/// A copy of a cut.
#[derive(Debug)]
pub struct Backup<'a> {
    /// The data directory.
    pub source: &'a dyn Directory,
    /// What is copied of it.
    pub cut: &'a Cut,
    /// An empty directory.
    pub target: &'a dyn Directory,
    /// What the earlier backup holds.
    pub earlier: &'a Earlier,
}

impl Backup<'_> {
    /// Copies everything. Calls `adopt` to take a segment from the earlier backup, which returns false if that
    /// is impossible, and `advance` after each step. Returns what could not be read.
    pub fn run(
        &self,
        unix: UnixMillis,
        mut adopt: impl FnMut(FileName) -> bool,
        mut advance: impl FnMut(Advance) -> ControlFlow<()>,
    ) -> Result<Vec<Damaged>, BackupError> {
        let files = self.source.list().map_err(|error| BackupError::Source(FileName::History, error))?;
        // The history is read first: a start or a stop of a server changes it.
        let history = self.history(&files)?;
        let (mut damaged, mut stopped, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (file, length) in &files {
            let FileName::Catalogue(shard) = *file else { continue };
            let cut = self.cut.catalogues.iter().find(|of| of.shard == shard);
            let bytes = salvage_all(self.source, *file, cut.map_or(*length, |of| of.end));
            self.write(*file, bytes.map_err(|error| BackupError::Source(*file, error))?.bytes)?;
        }
        for segment in &self.cut.segments {
            let file = FileName::Segment(segment.place);
            let before = damaged.len();
            if self.earlier.segments.contains(segment) && adopt(file) {
                stop_if(advance(Advance::Kept(segment.end)))?;
            } else if !self.copy(segment, &mut damaged, &mut advance)? {
                continue;
            }
            held.push((*segment, damaged.len() == before));
            let CutSegment { place, stamp, end, .. } = *segment;
            match self.index(segment) {
                Some(bytes) => self.write(FileName::Index(place), bytes)?,
                None => stopped.push(Sealed { place, stamp, end }),
            }
        }
        if let Some(history) = history {
            self.write(FileName::History, history.of_copy(stopped))?;
        }
        self.write(FileName::Backup, Manifest { unix, segments: held }.encode())?;
        let synced = self.target.run(&Step::SyncDirectory);
        synced.map_err(|error| BackupError::Target(FileName::Backup, error))?;
        Ok(damaged)
    }

    /// Returns the history of the source; `None` if it has none, or a damaged one.
    fn history(&self, files: &[(FileName, u64)]) -> Result<Option<History>, BackupError> {
        let file = FileName::History;
        let Some((_, length)) = files.iter().find(|(of, _)| *of == file) else { return Ok(None) };
        let bytes = salvage_all(self.source, file, *length);
        match History::parse(&bytes.map_err(|error| BackupError::Source(file, error))?.bytes) {
            Ok(history) if history.timeline == self.cut.timeline => Ok(Some(history)),
            Ok(_) => Err(BackupError::Changed(file)),
            Err(Unreadable::Damaged) => Ok(None),
            Err(why) => Err(BackupError::Version(file, why)),
        }
    }

    /// Returns the index file of a segment. Returns `None` if there is none, or a damaged one, or one that is
    /// newer than the cut, because the segment was being written.
    fn index(&self, segment: &CutSegment) -> Option<Vec<u8>> {
        let file = read(self.source, FileName::Index(segment.place), 0, INDEX_BYTES_MAX).ok()?;
        let index = Index::parse(segment.stamp, &file).ok()?;
        let is_whole = |at: &RunsAt| {
            let runs = file.get(at.at as usize..).and_then(|rest| rest.get(..at.bytes()));
            runs.is_some_and(|runs| at.parse(runs).is_some())
        };
        (index.end == segment.end && index.spans.iter().all(|(.., at)| is_whole(at))).then_some(file)
    }

    fn write(&self, file: FileName, bytes: Vec<u8>) -> Result<(), BackupError> {
        let steps = [Step::Create(file), Step::Write(file, 0, Arc::new(bytes)), Step::Sync(file)];
        run_all(self.target, &steps).map_err(|error| BackupError::Target(file, error))
    }

    /// Copies a segment. Returns false if nothing of it can be read.
    fn copy(
        &self,
        segment: &CutSegment,
        damaged: &mut Vec<Damaged>,
        advance: &mut impl FnMut(Advance) -> ControlFlow<()>,
    ) -> Result<bool, BackupError> {
        let file = FileName::Segment(segment.place);
        let bytes = segment.end.next_multiple_of(BLOCK as u64);
        let blocks = match self.header(segment)? {
            Some((header, grouped)) => {
                let header = SegmentHeader { bytes, ..header };
                grouped.map_or_else(|| header.encode(), |grouped| grouped.encode(&header))
            }
            None => {
                let means = "its header cannot be read; the backup lacks the file";
                damaged.push(Damaged { file, damage: Damage { at: 0, bytes }, means });
                return Ok(false);
            }
        };
        let failed = |error| BackupError::Target(file, error);
        let steps = [Step::Create(file), Step::Write(file, 0, Arc::new(blocks))];
        run_all(self.target, &steps).map_err(failed)?;
        for at in (ROUNDS_AT..bytes).step_by(CHUNK as usize) {
            let length = CHUNK.min(bytes - at);
            let mut chunk = self.chunk(file, at, length as usize, damaged)?;
            // The rest of the last block belongs to later rounds.
            let end = (segment.end - at).min(length) as usize;
            chunk[end..].fill(0);
            self.target.run(&Step::Write(file, at, Arc::new(chunk))).map_err(failed)?;
            stop_if(advance(Advance::Copied(length)))?;
        }
        self.target.run(&Step::Sync(file)).map_err(failed)?;
        // The header is the first thing that changes when the file is used for another segment.
        match self.header(segment)? {
            Some(_) => Ok(true),
            None => Err(BackupError::Changed(file)),
        }
    }

    /// Returns the header of a segment, or `None` if it cannot be read. Fails if the file holds another segment.
    fn header(&self, segment: &CutSegment) -> Result<Option<(SegmentHeader, Option<Grouped>)>, BackupError> {
        let file = FileName::Segment(segment.place);
        let blocks = match salvage(self.source, file, 0, ROUNDS_AT as usize) {
            Ok(salvaged) => salvaged.bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BackupError::Changed(file)),
            Err(error) if is_unreadable(&error) => return Ok(None),
            Err(error) => return Err(BackupError::Source(file, error)),
        };
        let parsed =
            SegmentHeader::parse(&blocks).and_then(|header| Ok((header, Grouped::parse(&header, &blocks)?)));
        match parsed {
            Ok(found) if found.0.stamp == segment.stamp => Ok(Some(found)),
            Ok(_) => Err(BackupError::Changed(file)),
            Err(Unreadable::Damaged) => Ok(None),
            Err(why) => Err(BackupError::Version(file, why)),
        }
    }

    /// Reads a part of a segment, with zeros for what cannot be read.
    fn chunk(
        &self,
        file: FileName,
        at: u64,
        length: usize,
        damaged: &mut Vec<Damaged>,
    ) -> Result<Vec<u8>, BackupError> {
        let failed = |error| BackupError::Source(file, error);
        let mut lose = |at: u64, bytes: u64| {
            let means = "it cannot be read; the backup lacks the messages in this range";
            damaged.push(Damaged { file, damage: Damage { at, bytes }, means });
        };
        let mut chunk = match read(self.source, file, at, length) {
            Ok(bytes) => bytes,
            Err(error) if is_unreadable(&error) => {
                let salvaged = salvage(self.source, file, at, length).map_err(failed)?;
                salvaged.unreadable.iter().for_each(|(at, bytes)| lose(*at, *bytes));
                salvaged.bytes
            }
            Err(error) => return Err(failed(error)),
        };
        if chunk.len() < length {
            lose(at + chunk.len() as u64, (length - chunk.len()) as u64);
            chunk.resize(length, 0);
        }
        Ok(chunk)
    }
}

fn stop_if(flow: ControlFlow<()>) -> Result<(), BackupError> {
    if flow.is_break() { Err(BackupError::Stopped) } else { Ok(()) }
}

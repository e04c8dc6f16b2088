//! The interface between the log and a disk: steps on the files of one directory. The server's disk is
//! glommio's, the tests' a simulated one.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::format::{BLOCK, ROUNDS_AT};

/// The place of a new segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewPlace {
    /// The number of its file.
    pub place: u32,
    /// The number of the segment.
    pub number: u64,
    /// Whether the file does not exist yet.
    pub is_new: bool,
}

/// A file of the data directory. A segment's file is numbered by its place, not by its segment, because it is
/// reused for other segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileName {
    /// A segment: its header and its rounds.
    Segment(u32),
    /// A grouped segment while it is written.
    NewSegment(u32),
    /// A segment's index.
    Index(u32),
    /// A segment's index while it is written.
    NewIndex(u32),
    /// The queues that a shard has created or deleted.
    Catalogue(u16),
    /// A catalogue while it is rewritten.
    NewCatalogue(u16),
    /// A catalogue that was found damaged. It is kept for inspection, and not read.
    DamagedCatalogue(u16),
    /// The starts of the servers that used the directory.
    History,
    /// The history while it is rewritten.
    NewHistory,
    /// What a backup holds. A start removes it, because from then on the directory is no backup.
    Backup,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(place) => write!(f, "{place:08}.segment"),
            Self::NewSegment(place) => write!(f, "{place:08}.segment.new"),
            Self::Index(place) => write!(f, "{place:08}.index"),
            Self::NewIndex(place) => write!(f, "{place:08}.index.new"),
            Self::Catalogue(shard) => write!(f, "{shard:05}.catalogue"),
            Self::NewCatalogue(shard) => write!(f, "{shard:05}.catalogue.new"),
            Self::DamagedCatalogue(shard) => write!(f, "{shard:05}.catalogue.damaged"),
            Self::History => f.write_str("history"),
            Self::NewHistory => f.write_str("history.new"),
            Self::Backup => f.write_str("backup"),
        }
    }
}

impl FileName {
    /// Returns whether a start removes the file: one that was being written, or the description of the backup
    /// that the directory was.
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Self::NewSegment(_) | Self::NewIndex(_) | Self::NewCatalogue(_) | Self::NewHistory | Self::Backup
        )
    }

    /// Returns the file with this name, or `None` if it is not a file of the log.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "history" => return Some(Self::History),
            "history.new" => return Some(Self::NewHistory),
            "backup" => return Some(Self::Backup),
            _ => {}
        }
        let (number, kind) = name.split_once('.')?;
        let place = number.parse().ok();
        let shard = number.parse().ok();
        let file = match kind {
            "segment" => Self::Segment(place?),
            "segment.new" => Self::NewSegment(place?),
            "index" => Self::Index(place?),
            "index.new" => Self::NewIndex(place?),
            "catalogue" => Self::Catalogue(shard?),
            "catalogue.new" => Self::NewCatalogue(shard?),
            "catalogue.damaged" => Self::DamagedCatalogue(shard?),
            _ => return None,
        };
        (file.to_string() == name).then_some(file)
    }
}

/// Whether a step may use the free space that is reserved for what must always be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// The step leaves the reserve free.
    Keep,
    /// The step may use the reserve, because it leads to more free space.
    Use,
}

/// The most zeros that one step writes, in bytes. Other blocking work waits while a step runs.
const ZEROS_AT_ONCE: u64 = 8 << 20;

const _: () = assert!(ZEROS_AT_ONCE.is_multiple_of(BLOCK as u64), "zeros are written in whole blocks");

/// The most bytes that one step frees. A disk may be busy for 20 ms with 64 MiB that it is told to forget
/// (`discard`), and everything that is written meanwhile waits.
const FREED_AT_ONCE: u64 = 8 << 20;

/// The pause after such a step, relative to the time that it took, so that the disk has time for other work.
const FREEING_PAUSES: u32 = 3;
/// The shortest and the longest pause. A file system with a journal may tell the disk later than in the step.
const FREEING_PAUSE_MIN: Duration = Duration::from_millis(8);
const FREEING_PAUSE_MAX: Duration = Duration::from_millis(100);

/// Returns the pause after a [`Step::Shrink`] that took this long.
pub fn freeing_pause(took: Duration) -> Duration {
    (took * FREEING_PAUSES).clamp(FREEING_PAUSE_MIN, FREEING_PAUSE_MAX)
}

/// One operation of a disk.
#[derive(Clone, Debug)]
pub enum Step {
    /// Creates an empty file, or empties an existing one.
    Create(FileName),
    /// Writes zeros, and allocates their blocks.
    Zero {
        /// The file to write to.
        file: FileName,
        /// The position of the first byte.
        at: u64,
        /// The number of bytes.
        bytes: u64,
        /// Whether the reserve may be used.
        reserve: Reserve,
    },
    /// Writes at a position. For segments, position and length are multiples of a block.
    Write(FileName, u64, Arc<Vec<u8>>),
    /// Makes everything that was written to the file durable.
    Sync(FileName),
    /// Gives a file the name of another, which it replaces.
    Rename(FileName, FileName),
    /// Cuts a file to this many bytes, if it is longer. A missing file is no error. A file that has another name
    /// elsewhere stays as it is.
    Shrink(FileName, u64),
    /// Removes a file. A missing file is no error.
    Remove(FileName),
    /// Makes the creation, renaming and removal of files durable.
    SyncDirectory,
    /// Reads ranges, given by position and length. Leaves out what lies after the end of the file.
    Read(FileName, Vec<(u64, usize)>),
    /// Reads ranges that are unreadable in part: see [`salvage`]. The zeros in the gaps fail their checksums.
    Salvage(FileName, Vec<(u64, usize)>),
}

/// The result of steps: what was read, in order.
pub type Read = io::Result<Vec<Vec<u8>>>;

/// Runs steps while the shard continues its work.
pub trait Disk<Tag> {
    /// Starts steps, which run in order until one fails. Steps of different calls run in any order.
    fn submit(&mut self, tag: Tag, steps: Vec<Step>);

    /// Returns the tag and the result of the next steps that are done.
    fn poll(&mut self) -> Option<(Tag, Read)>;
}

/// What identifies a file: it stays the same while the file is written, synced and renamed, and differs for a
/// copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The number of its inode. Numbers are reused.
    pub inode: u64,
    /// When the inode was made, nanoseconds. It is 0 if the file system does not keep the time; then nothing
    /// is proven.
    pub made_ns: u64,
    /// The mount that it is reached through. Rolling back a file system takes an unmount and a new mount.
    pub mount: u64,
    /// Whether the content or the inode changed long after the file was made and written: another tool has
    /// written the file, or changed its owner or mode.
    pub is_touched: bool,
}

/// The same directory with blocking calls: for the start, and for tools.
pub trait Directory: fmt::Debug + Send + Sync {
    /// Returns the files of the log, and their lengths.
    fn list(&self) -> io::Result<Vec<(FileName, u64)>>;

    /// Runs one step. Returns what it has read.
    fn run(&self, step: &Step) -> Read;

    /// Returns what distinguishes a file from its copies.
    fn identity(&self, file: FileName) -> io::Result<Identity>;

    /// Returns a number that nobody can guess, and that never repeats.
    fn random(&self) -> u128 {
        uuid::Uuid::new_v4().as_u128()
    }
}

/// Runs steps in order until one fails.
pub fn run_all(directory: &dyn Directory, steps: &[Step]) -> io::Result<()> {
    steps.iter().try_for_each(|step| directory.run(step).map(drop))
}

/// Reads a file of this length.
pub fn read_all(directory: &dyn Directory, file: FileName, length: u64) -> io::Result<Vec<u8>> {
    read(directory, file, 0, usize::try_from(length).unwrap_or(usize::MAX))
}

/// Reads `length` bytes of a file, from position `at` on.
pub fn read(directory: &dyn Directory, file: FileName, at: u64, length: usize) -> io::Result<Vec<u8>> {
    Ok(directory.run(&Step::Read(file, vec![(at, length)]))?.pop().unwrap_or_default())
}

/// Returns whether a file of this length holds only zeros.
pub fn is_zero(directory: &dyn Directory, file: FileName, length: u64) -> io::Result<bool> {
    for at in (0..length).step_by(ZEROS_AT_ONCE as usize) {
        let part = usize::try_from((length - at).min(ZEROS_AT_ONCE)).unwrap_or(usize::MAX);
        if read(directory, file, at, part)?.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Bytes that [`salvage`] tries to read at once before it reads block by block.
const SALVAGE_AT_ONCE: usize = 1 << 20;

const _: () = assert!(SALVAGE_AT_ONCE.is_multiple_of(BLOCK), "a stretch that fails is read block by block");

/// The readable part of a range.
#[derive(Clone, Debug, Default)]
pub struct Salvaged {
    /// The range, up to the end of the file, with zeros for what cannot be read.
    pub bytes: Vec<u8>,
    /// What cannot be read: positions in the file and lengths.
    pub unreadable: Vec<(u64, u64)>,
}

/// Returns whether the error says that the medium has lost the data, so that a retry is useless.
///
/// File systems report `EIO`. `ENODATA` is a medium error below direct I/O. The others are failed checksums
/// of file systems (`EBADMSG`, `EUCLEAN`) and of devices (`EILSEQ`).
pub fn is_unreadable(error: &io::Error) -> bool {
    let lost = [libc::EIO, libc::ENODATA, libc::EBADMSG, libc::EUCLEAN, libc::EILSEQ];
    error.raw_os_error().is_some_and(|errno| lost.contains(&errno))
}

/// Reads a range of a file of which a part cannot be read. Returns the rest, with zeros in the gaps.
///
/// Only what the medium has lost becomes zeros. If the device is lost, the first blocks of the file cannot be
/// read either: then this returns the error. If the failures were a burst, a block that failed is readable
/// when it is tried again: then this returns an error that is not [`is_unreadable`], and the caller may
/// retry. Errors that say nothing about the medium are returned as they are.
pub fn salvage(directory: &dyn Directory, file: FileName, at: u64, length: usize) -> io::Result<Salvaged> {
    let mut found = Salvaged::default();
    let mut is_device_there = false;
    let mut position = at;
    let end = at.saturating_add(length as u64);
    let mut step = SALVAGE_AT_ONCE;
    while position < end {
        let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(step);
        match read(directory, file, position, wanted) {
            Ok(bytes) => {
                position += bytes.len() as u64;
                found.bytes.extend_from_slice(&bytes);
                if bytes.len() < wanted {
                    break;
                }
            }
            Err(error) if !is_unreadable(&error) => return Err(error),
            // Read the blocks of this stretch one by one.
            Err(_) if step > BLOCK => {
                step = BLOCK - (position % BLOCK as u64) as usize;
                continue;
            }
            Err(error) => {
                let is_first =
                    |at: u64| read(directory, file, at, BLOCK).is_ok_and(|bytes| !bytes.is_empty());
                is_device_there = is_device_there || is_first(0) || is_first(BLOCK as u64);
                if !is_device_there {
                    return Err(error);
                }
                found.bytes.resize(found.bytes.len() + wanted, 0);
                match found.unreadable.last_mut() {
                    Some((at, bytes)) if *at + *bytes == position => *bytes += wanted as u64,
                    _ => found.unreadable.push((position, wanted as u64)),
                }
                position += wanted as u64;
            }
        }
        step = if position.is_multiple_of(SALVAGE_AT_ONCE as u64) { SALVAGE_AT_ONCE } else { BLOCK };
    }
    match found.unreadable.iter().find(|(at, _)| read(directory, file, *at, 1).is_ok()) {
        Some((at, _)) => Err(io::Error::new(
            io::ErrorKind::Interrupted,
            format!("byte {at} was unreadable and then readable: the disk fails intermittently"),
        )),
        None => Ok(found),
    }
}

/// Reads a file up to this length, as [`salvage`] does.
pub fn salvage_all(directory: &dyn Directory, file: FileName, length: u64) -> io::Result<Salvaged> {
    salvage(directory, file, 0, usize::try_from(length).unwrap_or(usize::MAX))
}

/// Reads ranges as [`Step::Salvage`] does.
pub fn salvage_ranges(directory: &dyn Directory, file: FileName, ranges: &[(u64, usize)]) -> Read {
    ranges.iter().map(|(at, length)| Ok(salvage(directory, file, *at, *length)?.bytes)).collect()
}

/// Returns the steps that fill a range of a new file with zeros. Those from its beginning on create it.
pub fn zero_segment(place: u32, range: Range<u64>, reserve: Reserve) -> Vec<Step> {
    let file = FileName::Segment(place);
    let mut steps = Vec::new();
    if range.start == 0 {
        steps.push(Step::Create(file));
    }
    steps.extend(range.clone().step_by(ZEROS_AT_ONCE as usize).map(|at| {
        let bytes = ZEROS_AT_ONCE.min(range.end - at);
        Step::Zero { file, at, bytes, reserve }
    }));
    steps
}

/// Returns the steps that make a file a segment. A new file must be full of zeros already. A reused file keeps its
/// old bytes, which have another stamp.
pub fn make_segment(place: NewPlace, header: Vec<u8>) -> Vec<Step> {
    let NewPlace { place, is_new, .. } = place;
    let file = FileName::Segment(place);
    let mut steps = Vec::new();
    if is_new {
        // Before it has a header, the file has its full length, whatever happens to the machine: a shorter
        // file with a header is damaged.
        steps.push(Step::Sync(file));
    }
    // The old index is removed last: until the new header is durable, the old index may be what says that the
    // old segment ended before a round that failed.
    steps.extend([Step::Write(file, 0, Arc::new(header)), Step::Sync(file)]);
    steps.extend([Step::Remove(FileName::Index(place)), Step::SyncDirectory]);
    steps
}

/// Returns the steps that remove a segment. First a header with another stamp makes it empty, because without
/// its index a round that failed could come back. Then the index is removed durably, because an index without
/// a segment means that messages are lost.
///
/// `header` must name no more bytes than the file has at the end: a shorter file is damaged.
pub fn remove_segment(place: u32, header: Vec<u8>, bytes: u64) -> Vec<Step> {
    let mut steps = wipe_segment(place, header);
    steps.extend(remove_file(FileName::Segment(place), bytes));
    steps
}

/// Returns the steps that make a segment empty, durably, and keep its file. `header` has another stamp. Its
/// rounds stay readable for those who know the old stamp.
pub fn wipe_segment(place: u32, header: Vec<u8>) -> Vec<Step> {
    let file = FileName::Segment(place);
    vec![
        Step::Write(file, 0, Arc::new(header)),
        Step::Sync(file),
        Step::Remove(FileName::Index(place)),
        Step::SyncDirectory,
    ]
}

/// Returns the steps that remove a file of this many bytes, little by little. The header of a segment stays
/// until the end.
pub fn remove_file(file: FileName, bytes: u64) -> Vec<Step> {
    let ends = (1..=bytes / FREED_AT_ONCE).rev().map(|part| part * FREED_AT_ONCE).chain([ROUNDS_AT]);
    let shrink = ends.filter(|end| *end < bytes).map(|end| Step::Shrink(file, end));
    shrink.chain([Step::Remove(file)]).collect()
}

/// Returns the steps that give a new segment its name, once it is complete. Until the rename, a start ignores
/// and removes the file.
pub fn save_segment(place: u32, header: Vec<u8>) -> Vec<Step> {
    let file = FileName::NewSegment(place);
    vec![
        Step::Write(file, 0, Arc::new(header)),
        Step::Sync(file),
        Step::Rename(file, FileName::Segment(place)),
        Step::SyncDirectory,
    ]
}

/// Returns the steps that save a segment's index atomically. They sync the segment first, so that no index
/// describes unsynced data.
pub fn save_index(place: u32, index: Vec<u8>) -> Vec<Step> {
    let mut steps = vec![Step::Sync(FileName::Segment(place))];
    steps.extend(save(FileName::NewIndex(place), FileName::Index(place), index));
    steps
}

/// Returns the steps that save a small file atomically.
pub fn save(new: FileName, file: FileName, bytes: Vec<u8>) -> Vec<Step> {
    vec![
        Step::Create(new),
        Step::Write(new, 0, Arc::new(bytes)),
        Step::Sync(new),
        Step::Rename(new, file),
        Step::SyncDirectory,
    ]
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A file of zeros. Reads that touch `bad` fail with EIO, and so do the first `burst` reads.
    #[derive(Debug)]
    struct Failing {
        length: u64,
        bad: Range<u64>,
        burst: AtomicU64,
    }

    impl Directory for Failing {
        fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
            Ok(vec![(FileName::Segment(0), self.length)])
        }

        fn run(&self, step: &Step) -> Read {
            let Step::Read(_, ranges) = step else { panic!("only reads: {step:?}") };
            let (at, length) = ranges[0];
            let end = (at + length as u64).min(self.length);
            let fails = |left: u64| left.checked_sub(1);
            if self.burst.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fails).is_ok()
                || (at < self.bad.end && end > self.bad.start)
            {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            Ok(vec![vec![0; end.saturating_sub(at) as usize]])
        }

        fn identity(&self, _: FileName) -> io::Result<Identity> {
            Ok(Identity::default())
        }
    }

    fn salvaged(bad: Range<u64>, burst: u64) -> io::Result<Salvaged> {
        let disk = Failing { length: 8 * BLOCK as u64, bad, burst: AtomicU64::new(burst) };
        salvage_all(&disk, FileName::Segment(0), disk.length)
    }

    #[test]
    fn bytes_around_bad_blocks_are_salvaged() {
        let block = BLOCK as u64;
        let found = salvaged(3 * block..5 * block, 0).unwrap();
        assert_eq!(found.unreadable, [(3 * block, 2 * block)]);
        assert_eq!(found.bytes.len(), 8 * BLOCK);
        assert!(salvaged(0..8 * block, 0).is_err_and(|error| is_unreadable(&error)), "the device is lost");
    }

    #[test]
    fn a_burst_of_failures_gives_up_no_block() {
        // However many reads fail in a row: either everything is read, or the caller may retry.
        for burst in 0..12 {
            match salvaged(0..0, burst) {
                Ok(found) => assert_eq!(found.unreadable, [], "{burst}"),
                Err(error) => assert!(burst > 1, "{burst}: {error}"),
            }
        }
        assert!(salvaged(0..0, 2).is_err_and(|error| !is_unreadable(&error)));
    }

    #[test]
    fn a_file_is_removed_in_steps_that_free_little() {
        for bytes in
            [0, 1, ROUNDS_AT, ROUNDS_AT + 1, FREED_AT_ONCE, 3 * FREED_AT_ONCE, 64 << 20, (64 << 20) + 4096]
        {
            let file = FileName::Segment(3);
            let steps = remove_file(file, bytes);
            let mut left = bytes;
            for step in &steps[..steps.len() - 1] {
                let Step::Shrink(of, end) = step else { panic!("{step:?}") };
                assert_eq!(*of, file);
                assert!(*end < left && left - end <= FREED_AT_ONCE, "{bytes}: {end} after {left}");
                left = *end;
            }
            assert!(left <= ROUNDS_AT, "{bytes}: {left}");
            assert!(matches!(steps.last(), Some(Step::Remove(of)) if *of == file));
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for file in [
            FileName::Segment(7),
            FileName::NewSegment(8),
            FileName::Index(123_456_789),
            FileName::NewIndex(0),
            FileName::Catalogue(3),
            FileName::NewCatalogue(65_535),
            FileName::DamagedCatalogue(1),
            FileName::History,
            FileName::NewHistory,
        ] {
            assert_eq!(FileName::parse(&file.to_string()), Some(file));
        }
        for other in
            ["7.segment", "00000007.segment~", "lock", "x.index", "-0000007.index", "00000007.index.old"]
        {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }
}

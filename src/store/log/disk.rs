//! What the log asks of a disk: steps on files of one directory. The server's disk is glommio's, the tests' a simulated one.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::format::BLOCK;

/// Where a new segment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewPlace {
    /// Its file's number.
    pub place: u32,
    /// The segment's.
    pub number: u64,
    /// Whether there is no such file yet.
    pub is_new: bool,
}

/// A file of the data directory. A segment's file is numbered by the place that it takes, not by what it holds: it lives
/// several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileName {
    /// Rounds.
    Segment(u32),
    /// A segment's index.
    Index(u32),
    /// The same while it is written.
    NewIndex(u32),
    /// The queues that a shard has made or deleted.
    Catalogue(u16),
    /// The same while it is written anew.
    NewCatalogue(u16),
    /// One as it was found damaged: kept for whoever looks into it, and not read.
    DamagedCatalogue(u16),
    /// The starts of the directory's servers.
    History,
    /// The same while it is written anew.
    NewHistory,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(place) => write!(f, "{place:08}.segment"),
            Self::Index(place) => write!(f, "{place:08}.index"),
            Self::NewIndex(place) => write!(f, "{place:08}.index.new"),
            Self::Catalogue(shard) => write!(f, "{shard:05}.catalogue"),
            Self::NewCatalogue(shard) => write!(f, "{shard:05}.catalogue.new"),
            Self::DamagedCatalogue(shard) => write!(f, "{shard:05}.catalogue.damaged"),
            Self::History => f.write_str("history"),
            Self::NewHistory => f.write_str("history.new"),
        }
    }
}

impl FileName {
    /// The file of that name; `None` where it is none of ours.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "history" => return Some(Self::History),
            "history.new" => return Some(Self::NewHistory),
            _ => {}
        }
        let (number, kind) = name.split_once('.')?;
        let place = number.parse().ok();
        let shard = number.parse().ok();
        let file = match kind {
            "segment" => Self::Segment(place?),
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

/// What is left free on the disk, for the sake of what must always be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// It is left.
    Keep,
    /// It is used: more comes back.
    Use,
}

/// Bytes of a segment that are made at once: whatever else may block waits as long.
const ZEROS_AT_ONCE: u64 = 8 << 20;

const _: () = assert!(ZEROS_AT_ONCE.is_multiple_of(BLOCK as u64), "zeros are written in whole blocks");

/// One thing that a disk does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Make an empty file; one of that name is emptied.
    Create(FileName),
    /// Write zeros, which are really written, at a position.
    Zero {
        /// Which file.
        file: FileName,
        /// From there on.
        at: u64,
        /// How many.
        bytes: u64,
        /// Whether the disk may fill up by it.
        reserve: Reserve,
    },
    /// Write at a position. For segments both are multiples of a block.
    Write(FileName, u64, Arc<Vec<u8>>),
    /// Everything that was written to the file stays, whatever happens to the machine.
    Sync(FileName),
    /// Give a file the name of another, which is no more.
    Rename(FileName, FileName),
    /// Remove a file; no error where there is none.
    Remove(FileName),
    /// Files made, renamed and removed stay so, whatever happens to the machine.
    SyncDirectory,
    /// Read ranges: position and length. What lies behind a file's end is left out.
    Read(FileName, Vec<(u64, usize)>),
    /// Read ranges of which a part cannot be read: see [`salvage`]. The zeros in its place fail their checksums.
    Salvage(FileName, Vec<(u64, usize)>),
}

/// What steps brought: what was read, in order.
pub type Read = io::Result<Vec<Vec<u8>>>;

/// Does steps while the shard goes on.
pub trait Disk<Tag> {
    /// Begins steps, to be done one after the other until one fails. Those of different calls know no order.
    fn submit(&mut self, tag: Tag, steps: Vec<Step>);

    /// The next that are done.
    fn poll(&mut self) -> Option<(Tag, Read)>;
}

/// What a file keeps while it is written, synced and renamed, and no copy of it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its inode's number. Numbers are used again.
    pub inode: u64,
    /// When the inode was made, nanoseconds; 0 where the file system does not keep it, and then nothing is proven.
    pub made_ns: u64,
    /// The mount that it is reached by: to roll a file system back, it is taken off and mounted again.
    pub mount: u64,
    /// The inode has changed long after its content: another tool has written it, owns it or may read it.
    pub is_touched: bool,
}

/// The same directory for whoever may wait: at the start, and for tools.
pub trait Directory: fmt::Debug + Send + Sync {
    /// The files that are ours, and their lengths.
    fn list(&self) -> io::Result<Vec<(FileName, u64)>>;

    /// Does one step.
    fn run(&self, step: &Step) -> Read;

    /// What tells a file from its copies.
    fn identity(&self, file: FileName) -> io::Result<Identity>;

    /// A number that nobody can guess, and that is not given twice.
    fn random(&self) -> u128 {
        uuid::Uuid::new_v4().as_u128()
    }
}

/// Does steps one after the other until one fails.
pub fn run_all(directory: &dyn Directory, steps: &[Step]) -> io::Result<()> {
    steps.iter().try_for_each(|step| directory.run(step).map(drop))
}

/// Reads a file of that length.
pub fn read_all(directory: &dyn Directory, file: FileName, length: u64) -> io::Result<Vec<u8>> {
    read(directory, file, 0, usize::try_from(length).unwrap_or(usize::MAX))
}

/// Reads a range.
pub fn read(directory: &dyn Directory, file: FileName, at: u64, length: usize) -> io::Result<Vec<u8>> {
    Ok(directory.run(&Step::Read(file, vec![(at, length)]))?.pop().unwrap_or_default())
}

/// Bytes that [`salvage`] tries to read at once before it goes block by block.
const SALVAGE_AT_ONCE: usize = 1 << 20;

const _: () = assert!(SALVAGE_AT_ONCE.is_multiple_of(BLOCK), "a stretch that fails is read block by block");

/// What could be read of a range.
#[derive(Clone, Debug, Default)]
pub struct Salvaged {
    /// The range, up to the file's end, with zeros for what cannot be read.
    pub bytes: Vec<u8>,
    /// What cannot be read: position in the file and length.
    pub unreadable: Vec<(u64, u64)>,
}

/// Whether the error says that the medium has lost what was asked for, so that another try brings nothing.
///
/// `EIO` is what file systems report, `ENODATA` a medium error below direct I/O, the others failed checksums of file systems
/// (`EBADMSG`, `EUCLEAN`) and of devices (`EILSEQ`).
pub fn is_unreadable(error: &io::Error) -> bool {
    let lost = [libc::EIO, libc::ENODATA, libc::EBADMSG, libc::EUCLEAN, libc::EILSEQ];
    error.raw_os_error().is_some_and(|errno| lost.contains(&errno))
}

/// Reads a range of a file of which a part cannot be read: the rest is returned, with zeros in the gaps.
///
/// Only the medium is believed. If the device is gone, the file's first blocks cannot be read either: then this returns the error.
/// If the failures were a burst, a block that failed is readable when it is tried again: then this returns an error that is not
/// [`is_unreadable`], and the caller may ask again. It also returns errors that say nothing about the medium.
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
            // The blocks of this stretch one by one.
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
            format!("byte {at} could not be read and now can: the disk fails at times"),
        )),
        None => Ok(found),
    }
}

/// Reads a file up to that length as [`salvage`] does.
pub fn salvage_all(directory: &dyn Directory, file: FileName, length: u64) -> io::Result<Salvaged> {
    salvage(directory, file, 0, usize::try_from(length).unwrap_or(usize::MAX))
}

/// Reads ranges as [`Step::Salvage`] does.
pub fn salvage_ranges(directory: &dyn Directory, file: FileName, ranges: &[(u64, usize)]) -> Read {
    ranges.iter().map(|(at, length)| Ok(salvage(directory, file, *at, *length)?.bytes)).collect()
}

/// A new segment file, or one that lives again: its zeros are its own, or its past's.
pub fn make_segment(place: NewPlace, bytes: u64, header: Vec<u8>, reserve: Reserve) -> Vec<Step> {
    let NewPlace { place, is_new, .. } = place;
    let file = FileName::Segment(place);
    let mut steps = Vec::new();
    if is_new {
        steps.push(Step::Create(file));
        steps.extend((0..bytes).step_by(ZEROS_AT_ONCE as usize).map(|at| {
            let bytes = ZEROS_AT_ONCE.min(bytes - at);
            Step::Zero { file, at, bytes, reserve }
        }));
        // Once a header is there, the file has all of its length, whatever happens: a shorter one is damaged.
        steps.push(Step::Sync(file));
    }
    // The past's index goes last: until the new header is durable it may be what says that the past ended before a round that failed.
    steps.extend([Step::Write(file, 0, Arc::new(header)), Step::Sync(file)]);
    steps.extend([Step::Remove(FileName::Index(place)), Step::SyncDirectory]);
    steps
}

/// A segment that is no more. A header of another life makes it empty first, as without its index a round that failed could come back;
/// then the index goes, for good, as one without its segment says that messages are lost.
pub fn remove_segment(place: u32, header: Vec<u8>) -> Vec<Step> {
    let file = FileName::Segment(place);
    vec![
        Step::Write(file, 0, Arc::new(header)),
        Step::Sync(file),
        Step::Remove(FileName::Index(place)),
        Step::SyncDirectory,
        Step::Remove(file),
    ]
}

/// A segment's index, in one piece or not at all; never of what is not synced.
pub fn save_index(place: u32, index: Vec<u8>) -> Vec<Step> {
    let mut steps = vec![Step::Sync(FileName::Segment(place))];
    steps.extend(save(FileName::NewIndex(place), FileName::Index(place), index));
    steps
}

/// A small file, in one piece or not at all.
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

    /// A file of zeros. Reads that touch `bad` fail with EIO; so do the first `burst` reads.
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
    fn what_surrounds_bad_blocks_is_salvaged() {
        let block = BLOCK as u64;
        let found = salvaged(3 * block..5 * block, 0).unwrap();
        assert_eq!(found.unreadable, [(3 * block, 2 * block)]);
        assert_eq!(found.bytes.len(), 8 * BLOCK);
        assert!(salvaged(0..8 * block, 0).is_err_and(|error| is_unreadable(&error)), "the device is gone");
    }

    #[test]
    fn a_burst_of_failures_gives_up_no_block() {
        // However many reads fail, one after the other: all is read, or the caller may ask again.
        for burst in 0..12 {
            match salvaged(0..0, burst) {
                Ok(found) => assert_eq!(found.unreadable, [], "{burst}"),
                Err(error) => assert!(burst > 1, "{burst}: {error}"),
            }
        }
        assert!(salvaged(0..0, 2).is_err_and(|error| !is_unreadable(&error)));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for file in [
            FileName::Segment(7),
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

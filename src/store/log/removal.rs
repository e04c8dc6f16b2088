//! Removal of the files that nobody needs.
//!
//! A disk that is told to forget a large file at once is busy with that, and everything that is written
//! meanwhile waits. Therefore files are removed one after another in the whole data directory, each
//! [little by little](super::disk::remove_file).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::disk::{Disk, FileName, Read, Step, remove_file, remove_segment};
use super::features::Features;
use super::format::ROUNDS_AT;
use super::header::SegmentHeader;
use super::journal::new_stamp;
use super::tag::Tag;

/// A file that nobody needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unneeded {
    /// A segment, with its number.
    Segment { place: u32, number: u64, bytes: u64 },
    /// A segment whose file is not used again: the disk failed there, or the next start must not find it.
    Unusable { place: u32, bytes: u64 },
    /// A grouped segment that did not get its name.
    Ungrouped { place: u32, bytes: u64 },
}

impl Unneeded {
    fn steps(self) -> Vec<Step> {
        match self {
            Self::Segment { place, number, bytes } => {
                remove_segment(place, Self::header(number).encode(), bytes)
            }
            Self::Unusable { place, bytes } => remove_segment(place, Self::header(0).encode(), bytes),
            Self::Ungrouped { place, bytes } => remove_file(FileName::NewSegment(place), bytes),
        }
    }

    /// Returns the header of the segment while its file is removed. The file may be as short as the header says
    /// when the next start finds it.
    fn header(number: u64) -> SegmentHeader {
        SegmentHeader { stamp: new_stamp(), number, bytes: ROUNDS_AT, features: Features::NONE }
    }
}

/// The files of all shards that wait for their removal. The shard that has removed one begins with the next.
#[derive(Debug, Default)]
pub(super) struct Removals {
    waiting: Mutex<VecDeque<Unneeded>>,
    /// Their number.
    left: AtomicUsize,
    is_under_way: AtomicBool,
}

impl Removals {
    /// Adds a file. [`Self::work`] follows.
    pub(super) fn add(&self, file: Unneeded) {
        self.change(|waiting| waiting.push_back(file));
    }

    /// Adds a file that goes first, because its room is needed or the next start should not find it.
    pub(super) fn add_first(&self, file: Unneeded) {
        self.change(|waiting| waiting.push_front(file));
    }

    /// Returns whether no file waits.
    pub(super) fn is_done(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// Takes back the file of a segment of this many bytes, to use it again.
    pub(super) fn take_back(&self, wanted: u64) -> Option<u32> {
        if self.is_done() {
            return None;
        }
        self.change(|waiting| {
            let is_fit = |of: &Unneeded| matches!(of, Unneeded::Segment { bytes, .. } if *bytes == wanted);
            match waiting.remove(waiting.iter().position(is_fit)?)? {
                Unneeded::Segment { place, .. } => Some(place),
                _ => None,
            }
        })
    }

    /// Begins to remove the next file, unless one is being removed.
    #[inline]
    pub(super) fn work(&self, disk: &mut impl Disk<Tag>) {
        if self.is_done() || self.is_under_way.load(Ordering::SeqCst) {
            return;
        }
        if self.is_under_way.swap(true, Ordering::SeqCst) {
            return;
        }
        match self.change(VecDeque::pop_front) {
            Some(file) => disk.submit(Tag::Remove, file.steps()),
            None => self.is_under_way.store(false, Ordering::SeqCst),
        }
    }

    /// Handles that a file was removed, or could not be. Then the next start removes it.
    pub(super) fn handle_removed(&self, shard: u16, read: Read) {
        if let Err(error) = read {
            tracing::warn!(shard, %error, "removal of an unneeded file failed");
        }
        self.is_under_way.store(false, Ordering::SeqCst);
    }

    fn change<R>(&self, change: impl FnOnce(&mut VecDeque<Unneeded>) -> R) -> R {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut waiting);
        self.left.store(waiting.len(), Ordering::SeqCst);
        changed
    }
}

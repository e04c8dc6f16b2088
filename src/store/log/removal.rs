//! Removal of the files that nobody needs.
//!
//! A disk that is told to forget a large file at once is busy with that, and everything that is written
//! meanwhile waits. Therefore files are removed one after another in the whole data directory, each
//! [little by little](super::disk::remove_file).

use std::collections::VecDeque;

use super::data_dir::DataDir;
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
    /// A new file that never became a segment.
    Unmade { place: u32 },
    /// A grouped segment that did not get its name.
    Ungrouped { place: u32, bytes: u64 },
}

impl Unneeded {
    fn steps(self) -> Vec<Step> {
        match self {
            Self::Segment { place, number, bytes } => {
                // The file may be as short as that when the next start finds it.
                let header =
                    SegmentHeader { stamp: new_stamp(), number, bytes: ROUNDS_AT, features: Features::NONE };
                remove_segment(place, header.encode(), bytes)
            }
            Self::Unmade { place } => vec![Step::Remove(FileName::Segment(place))],
            Self::Ungrouped { place, bytes } => remove_file(FileName::NewSegment(place), bytes),
        }
    }
}

/// The files of a shard that wait for their removal.
#[derive(Debug, Default)]
pub(super) struct Removal {
    waiting: VecDeque<Unneeded>,
    is_under_way: bool,
}

impl Removal {
    pub(super) fn add(&mut self, file: Unneeded) {
        self.waiting.push_back(file);
    }

    /// Adds a file that the next start should not find.
    pub(super) fn add_first(&mut self, file: Unneeded) {
        self.waiting.push_front(file);
    }

    /// Returns whether no file waits.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && !self.is_under_way
    }

    /// Begins to remove the next file, unless a removal is under way in any shard.
    pub(super) fn work(&mut self, dir: &DataDir, disk: &mut impl Disk<Tag>) {
        if self.is_under_way || self.waiting.is_empty() || !dir.begin_removal() {
            return;
        }
        if let Some(file) = self.waiting.pop_front() {
            self.is_under_way = true;
            disk.submit(Tag::Remove, file.steps());
        }
    }

    /// Handles that a file was removed, or could not be. Then the next start removes it.
    pub(super) fn handle_removed(&mut self, shard: u16, read: Read, dir: &DataDir) {
        if let Err(error) = read {
            tracing::warn!(shard, %error, "removal of an unneeded file failed");
        }
        self.is_under_way = false;
        dir.end_removal();
    }
}

//! What one load reads of a segment, and what loads cost.

use std::sync::Arc;

use super::index::{RUN_BYTES_MAX, Run};
use super::segment::Segment;
use crate::base::units::Offset;

/// Bytes that one load reads, but for its last run.
pub(super) const LOAD_BYTES: u64 = if cfg!(test) { 8 << 10 } else { 1 << 20 };

/// Runs that one load reads.
const LOAD_RUNS: usize = 64;

/// Loads of a shard under way at once: what keeps a disk busy. Few in tests, so that some have to wait there, too.
pub const LOADS_MAX: usize = if cfg!(test) { 2 } else { 16 };

/// What a load takes at worst, bytes: twice as it came from the disk, and as batches.
pub const LOAD_COST_MAX: usize = 3 * (LOAD_BYTES as usize + RUN_BYTES_MAX as usize);

const _: () = assert!(LOAD_RUNS > 0 && LOADS_MAX > 0, "a load reads something");
const _: () = assert!(cfg!(test) || LOAD_BYTES >= RUN_BYTES_MAX, "a load reads more than its last run");

/// What is read of a segment.
#[derive(Clone, Debug)]
pub struct Load {
    pub(super) segment: Arc<Segment>,
    /// Where the window goes on.
    pub(super) from: Offset,
    pub(super) runs: Vec<Run>,
    /// Where the window ends once the runs are read, whatever of them is whole.
    pub(super) end: Offset,
    /// A part of the runs could not be read: the rest is read around it.
    pub(super) is_salvage: bool,
}

impl Load {
    /// The first of `runs` that hold something from `from` on. Behind the last of them nothing comes before `end`.
    pub(super) fn plan(segment: Arc<Segment>, from: Offset, runs: &[Run], end: Offset) -> Self {
        let first = runs.partition_point(|run| run.end <= from);
        let mut bytes = 0;
        let chosen = runs[first..].iter().take(LOAD_RUNS).take_while(|run| {
            let goes_on = bytes < LOAD_BYTES;
            bytes += run.bytes;
            goes_on
        });
        let chosen: Vec<Run> = chosen.copied().collect();
        let is_last = first + chosen.len() == runs.len();
        let read = chosen.last().map_or(from, |run| run.end);
        let end = if is_last { read.max(end) } else { read };
        Self { segment, from, runs: chosen, end, is_salvage: false }
    }

    /// Its first run alone, so that the others do not fail with it.
    pub(super) fn first_run(&self) -> Self {
        let runs = self.runs[..self.runs.len().min(1)].to_vec();
        let end = runs.last().map_or(self.end, |run| run.end);
        Self { runs, end, ..self.clone() }
    }

    /// Where they are in the file.
    pub(super) fn ranges(&self) -> Vec<(u64, usize)> {
        self.runs.iter().map(|run| (run.at, run.bytes as usize)).collect()
    }
}

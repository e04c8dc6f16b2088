//! What one load reads of a segment, and the cost of loads.

use std::ops::Range;
use std::sync::Arc;

use super::index::{RUN_BYTES_MAX, Run};
use super::segment::Segment;
use crate::base::millis::Millis;
use crate::base::units::Offset;

/// The size up to which a load grows, in bytes; its last run may exceed it.
pub(super) const LOAD_BYTES: u64 = if cfg!(test) { 8 << 10 } else { 1 << 20 };

/// The most runs that one load reads.
const LOAD_RUNS: usize = 64;

/// The most concurrent loads of a shard: enough to keep a disk busy. Few in tests, so that some have to wait.
pub const LOADS_MAX: usize = if cfg!(test) { 2 } else { 16 };

/// The most concurrent loads of a shard that writes rounds, or wrote the last one less than [`QUIET_AFTER`] ago.
/// A disk makes a write wait for the reads before it, so each further load delays every acknowledgement.
pub(super) const LOADS_BESIDE_ROUNDS: usize = 1;

/// How long after its last round a shard may have [`LOADS_MAX`] loads again.
pub(super) const QUIET_AFTER: Millis = Millis::new(1_000);

/// The largest memory cost of a load, in bytes: two copies as read from the disk, and one as batches.
pub const LOAD_COST_MAX: usize = 3 * (LOAD_BYTES as usize + RUN_BYTES_MAX as usize);

const _: () = assert!(LOAD_RUNS > 0 && LOADS_BESIDE_ROUNDS > 0, "a load reads something");
const _: () = assert!(LOADS_BESIDE_ROUNDS < LOADS_MAX, "rounds have priority");
const _: () = assert!(cfg!(test) || LOAD_BYTES >= RUN_BYTES_MAX, "a load reads more than its last run");

/// A read of some runs of a segment.
#[derive(Clone, Debug)]
pub struct Load {
    pub(super) segment: Arc<Segment>,
    /// The offset from which on it is read.
    pub(super) from: Offset,
    /// The offset of the first message that is needed. The runs of a grouped segment may hold earlier ones, which were
    /// released while they were copied.
    pub(super) first: Offset,
    pub(super) runs: Vec<Run>,
    /// The offset at which the window ends once the runs are read, even if they are damaged.
    pub(super) end: Offset,
    /// Whether a part of the runs is unreadable, so that only the rest is read.
    pub(super) is_salvage: bool,
}

impl Load {
    /// Plans a load of the first of `runs` that hold messages from `from` on. Of these runs, only the messages in
    /// `offsets` are needed. After the last of all runs, there are no messages before the end of `offsets`.
    pub(super) fn plan(segment: Arc<Segment>, from: Offset, runs: &[Run], offsets: Range<Offset>) -> Self {
        let Range { start, end } = offsets;
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
        Self { segment, from, first: start, runs: chosen, end, is_salvage: false }
    }

    /// Returns a load of its first run only, so that the others do not fail with it.
    pub(super) fn first_run(&self) -> Self {
        let runs = self.runs[..self.runs.len().min(1)].to_vec();
        let end = runs.last().map_or(self.end, |run| run.end);
        Self { runs, end, ..self.clone() }
    }

    /// Returns the ranges of the runs in the file.
    pub(super) fn ranges(&self) -> Vec<(u64, usize)> {
        self.runs.iter().map(|run| (run.at, run.bytes as usize)).collect()
    }
}

//! Reads the batches that are needed of a segment, piece by piece.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use crate::store::log::disk::{FileName, Step};
use crate::store::log::format::{BATCH_HEADER, BatchHeader, PartitionId, ROUND_HEADER, ROUNDS_AT, round_at};
use crate::store::log::index::{Run, RunsAt, SpanHead};

/// The most memory for gathered batches, in bytes, without those of the last piece.
pub const GATHER_BYTES: usize = if cfg!(test) { 16 << 10 } else { 32 << 20 };

/// The size of the pieces that are read, in bytes; a larger batch is read as a whole.
pub const PIECE_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 1 << 20 };

/// The most ranges in a piece.
const PIECE_RANGES: usize = 64;

/// The largest gap between two runs that is read with them, in bytes.
const GAP_BYTES: u64 = 64 << 10;

/// Batches of partitions, each as it is in the new segment.
pub type Gathered = BTreeMap<PartitionId, Vec<u8>>;

/// What is needed of a partition in a segment.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub head: SpanHead,
    /// Where its runs are in the segment's index.
    pub runs_at: RunsAt,
    /// Its runs, if they were read.
    pub runs: Vec<Run>,
    /// The bytes and messages that were found.
    found: (u64, u64),
}

impl Wanted {
    pub fn new(head: SpanHead, runs_at: RunsAt) -> Self {
        Self { head, runs_at, runs: Vec::new(), found: (0, 0) }
    }

    /// Returns whether a batch is one of these.
    fn has(&self, batch: &BatchHeader) -> bool {
        self.head.first <= batch.base_offset && batch.end_offset() <= self.head.end
    }

    /// Returns whether all was found.
    fn is_complete(&self) -> bool {
        self.found == (self.head.bytes, self.head.messages)
    }
}

/// What is needed of a segment.
pub type AllWanted = BTreeMap<PartitionId, Wanted>;

/// A segment is not what its index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// What is left to read of a segment, for some of its partitions.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    place: u32,
    /// The stamps of the segment and of the new one.
    stamps: (u64, u64),
    /// Positions and ends, in order. Each begins where a batch or a round begins, and ends where one ends.
    ranges: VecDeque<(u64, u64)>,
    /// The bytes that the next batch takes at least.
    needed: u64,
}

impl Reading {
    /// Plans to read the batches of `ids`. Without their runs, the whole segment is read, up to `end`.
    pub fn plan(
        place: u32,
        stamps: (u64, u64),
        wanted: &AllWanted,
        ids: &RangeInclusive<PartitionId>,
        end: u64,
    ) -> Self {
        let wanted = wanted.range(ids.clone()).map(|(_, wanted)| wanted);
        let ranges = if wanted.clone().all(|wanted| !wanted.runs.is_empty()) {
            let mut runs: Vec<(u64, u64)> =
                wanted.flat_map(|wanted| &wanted.runs).map(|run| (run.at, run.at + run.bytes)).collect();
            runs.sort_unstable();
            let mut ranges: VecDeque<(u64, u64)> = VecDeque::new();
            for (at, end) in runs {
                match ranges.back_mut() {
                    Some(last) if at <= last.1 + GAP_BYTES => last.1 = last.1.max(end),
                    _ => ranges.push_back((at, end)),
                }
            }
            ranges
        } else {
            VecDeque::from([(ROUNDS_AT, end)])
        };
        Self { place, stamps, ranges, needed: 0 }
    }

    /// Returns whether all was read.
    pub fn is_done(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the ranges of the next piece, and their lengths.
    fn piece(&self) -> Vec<(u64, usize)> {
        let mut left = PIECE_BYTES.max(self.needed);
        let ranges = self.ranges.iter().take(PIECE_RANGES).map_while(|(at, end)| {
            let length = (end - at).min(left);
            left -= length;
            (length > 0).then_some((*at, length as usize))
        });
        ranges.collect()
    }

    /// Returns the step that reads the next piece.
    pub fn step(&self) -> Step {
        Step::Read(FileName::Segment(self.place), self.piece())
    }

    /// Handles a piece: adds the batches of `ids` that are wanted to those that were gathered. Returns the number of
    /// batches in the piece.
    pub fn handle(
        &mut self,
        read: &[Vec<u8>],
        wanted: &mut AllWanted,
        ids: &RangeInclusive<PartitionId>,
        gathered: &mut Gathered,
    ) -> Result<u64, Damaged> {
        let mut batches = 0;
        self.needed = 0;
        for ((at, length), bytes) in self.piece().into_iter().zip(read) {
            let (_, end) = self.ranges.pop_front().ok_or(Damaged)?;
            if bytes.len() < length {
                return Err(Damaged);
            }
            let (read, needed) = self.parse(at, bytes, wanted, ids, gathered, &mut batches)?;
            if at + read < end {
                // The last batch goes on in the next piece.
                if read == 0 && needed > end - at || at + length as u64 == end {
                    return Err(Damaged);
                }
                self.ranges.push_front((at + read, end));
                self.needed = needed;
                break;
            }
        }
        Ok(batches)
    }

    /// Returns how many bytes are whole batches, and how many the next batch takes.
    fn parse(
        &self,
        position: u64,
        bytes: &[u8],
        wanted: &mut AllWanted,
        ids: &RangeInclusive<PartitionId>,
        gathered: &mut Gathered,
        batches: &mut u64,
    ) -> Result<(u64, u64), Damaged> {
        let (stamp, new_stamp) = self.stamps;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(header) = BatchHeader::parse(stamp, rest) else {
                if round_at(rest, stamp, position + at as u64).is_some() {
                    at += ROUND_HEADER;
                    continue;
                }
                return if rest.len() < BATCH_HEADER {
                    Ok((at as u64, BATCH_HEADER as u64))
                } else {
                    Err(Damaged)
                };
            };
            let length = header.bytes();
            if length > rest.len() {
                return Ok((at as u64, length as u64));
            }
            *batches += 1;
            at += length;
            let id = (header.incarnation, header.partition);
            if !ids.contains(&id) {
                continue;
            }
            let Some(wanted) = wanted.get_mut(&id).filter(|wanted| wanted.has(&header)) else { continue };
            let records = header.records(rest).ok_or(Damaged)?;
            wanted.found.0 += length as u64;
            wanted.found.1 += u64::from(header.count);
            let taken = gathered.entry(id).or_default();
            taken.extend_from_slice(&header.encode(new_stamp));
            taken.extend_from_slice(records);
            taken.resize(taken.len() + (length - BATCH_HEADER - records.len()), 0);
        }
        Ok((at as u64, 0))
    }
}

/// Returns whether all batches of `ids` were found.
pub fn is_complete(wanted: &AllWanted, ids: &RangeInclusive<PartitionId>) -> bool {
    wanted.range(ids.clone()).all(|(_, wanted)| wanted.is_complete())
}

//! Makes one grouped segment, step by step.
//!
//! It reads the headers and indexes of the segments that it replaces, and finds out what is needed of each
//! partition. In one or more passes, each over some of the partitions, it gathers their batches in memory and
//! writes them. A pass ends with a check: it found all the bytes and messages that the indexes promise. At the
//! end it gives the segment its header and its name.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::gather::{AllWanted, GATHER_BYTES, Gathered, Reading, Wanted, is_complete};
use super::output::Output;
use crate::base::units::Offset;
use crate::store::log::disk::{FileName, NewPlace, Step, save_segment};
use crate::store::log::features::Features;
use crate::store::log::format::{PartitionId, ROUNDS_AT};
use crate::store::log::grouped::Grouped;
use crate::store::log::header::SegmentHeader;
use crate::store::log::index::{INDEX_HEADER, Index, SpanHead};
use crate::store::log::partition::GAP_MIN;
use crate::store::log::segment::Segment;

/// The most bytes of runs that are read of an index. If there are more, the segment is read as a whole.
const RUNS_BYTES_MAX: usize = 4 << 20;

/// A segment is read run by run if at most this part of it is needed.
const READ_BY_RUN_PARTS: u64 = 4;

/// Why a group cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The segment with this number is damaged, or cannot be read.
    Damaged(u64),
    /// The segment with this number was stored while the clock was wrong.
    Capped(u64),
    /// Another shard needs something of the segment with this number.
    Shared(u64),
    /// The segment with this number must not be grouped with the one before it: the offsets or spans between
    /// them would be lost.
    Wall(u64),
    /// Nothing is needed of these segments any more.
    Unneeded,
}

/// Where a partition has a span that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its position among the partition's spans.
    pub index: usize,
    /// Whether its timestamps are limited because the clock was wrong.
    pub is_capped: bool,
}

/// The work that handling a piece took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub bytes: u64,
    pub batches: u64,
}

/// A segment that will be replaced.
#[derive(Debug)]
struct Source {
    segment: Arc<Segment>,
    /// Where its rounds end.
    end: u64,
    wanted: AllWanted,
}

/// Partitions whose batches are gathered together.
#[derive(Debug)]
struct Pass {
    ids: RangeInclusive<PartitionId>,
    /// The partitions, and the size of their batches in bytes.
    sizes: Vec<(PartitionId, u64)>,
}

impl Pass {
    /// Returns room for the batches. A partition that is alone may have more: they are in order, and written
    /// when the room is full.
    fn room(&self) -> Gathered {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).min(GATHER_BYTES);
        self.sizes.iter().map(|(id, bytes)| (*id, Vec::with_capacity(size(*bytes)))).collect()
    }
}

/// What is known of a partition while the sources are planned.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The position of its last span that is needed, among all of its spans.
    index: usize,
    /// Where that span ends.
    end: Offset,
    /// The size of its batches in all sources, in bytes.
    bytes: u64,
}

/// What the next steps do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// They read the headers of a source and of its index.
    Headers(usize),
    /// They read the index of a source, up to this length.
    Spans(usize, usize),
    /// They read the runs of what is needed of a source.
    Runs(usize),
    /// They read a piece of the present source.
    Piece,
    /// They write a round.
    Round,
    /// They complete the segment.
    Finish,
}

/// A grouped segment that is being made.
#[derive(Debug)]
pub struct Group {
    sources: Vec<Source>,
    phase: Phase,
    /// The passes that are left, the present one first.
    passes: VecDeque<Pass>,
    /// The source that is read, by its position.
    source: usize,
    reading: Reading,
    gathered: Gathered,
    output: Output,
    features: Features,
}

/// A grouped segment that is complete.
#[derive(Debug)]
pub struct Made {
    pub header: SegmentHeader,
    pub order: u64,
    pub output: Output,
    /// The numbers of the segments that it replaces.
    pub replaced: Vec<u64>,
    /// The offsets of each partition in them.
    pub offsets: Vec<(PartitionId, Range<Offset>)>,
}

impl Group {
    /// Begins a segment that replaces these, oldest first.
    pub fn new(segments: &[Arc<Segment>], place: NewPlace, stamp: u64) -> Self {
        let source =
            |segment: &Arc<Segment>| Source { segment: segment.clone(), end: 0, wanted: AllWanted::new() };
        Self {
            sources: segments.iter().map(source).collect(),
            phase: Phase::Headers(0),
            passes: VecDeque::new(),
            source: 0,
            reading: Reading::default(),
            gathered: Gathered::new(),
            output: Output::new(place.place, place.number, stamp),
            features: Features::GROUPED,
        }
    }

    /// Returns the numbers of the segments that it replaces.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.sources.iter().map(|source| source.segment.number)
    }

    /// Returns the number of the new segment's file.
    pub fn place(&self) -> u32 {
        self.output.place
    }

    /// Returns whether the last steps give the segment its name.
    pub fn is_finishing(&self) -> bool {
        self.phase == Phase::Finish
    }

    /// Returns the size of the new segment so far, in bytes.
    pub fn bytes(&self) -> u64 {
        self.output.bytes()
    }

    /// Returns the next steps, and the work that they took to prepare.
    pub fn next(&mut self) -> (Vec<Step>, Work) {
        let mut work = Work::default();
        let steps = match self.phase {
            Phase::Headers(at) => {
                let place = self.sources[at].segment.place;
                vec![
                    Step::Read(FileName::Segment(place), vec![(0, ROUNDS_AT as usize)]),
                    Step::Read(FileName::Index(place), vec![(0, INDEX_HEADER)]),
                ]
            }
            Phase::Spans(at, bytes) => {
                vec![Step::Read(FileName::Index(self.sources[at].segment.place), vec![(0, bytes)])]
            }
            Phase::Runs(at) => {
                let Source { segment, wanted, .. } = &self.sources[at];
                let ranges = wanted.values().map(|wanted| (wanted.runs_at.at, wanted.runs_at.bytes()));
                vec![Step::Read(FileName::Index(segment.place), ranges.collect())]
            }
            Phase::Piece => vec![self.reading.step()],
            Phase::Round => {
                let before = self.output.end;
                let steps = self.output.next_round(&mut work.batches);
                work.bytes = self.output.end - before;
                steps
            }
            Phase::Finish => {
                let blocks = self.grouped().encode(&self.header());
                save_segment(self.output.place, blocks)
            }
        };
        (steps, work)
    }

    fn header(&self) -> SegmentHeader {
        let Output { stamp, number, .. } = self.output;
        SegmentHeader { stamp, number, bytes: self.output.bytes(), features: self.features }
    }

    fn grouped(&self) -> Grouped {
        let replaced = self.sources.iter().map(|source| source.segment.stamp).collect();
        Grouped { end: self.output.end, order: self.order(), replaced }
    }

    fn order(&self) -> u64 {
        self.sources.iter().map(|source| source.segment.order).max().unwrap_or_default()
    }

    /// Handles what the last steps read. `find` says where a partition has a span of the segment with this
    /// number, if it is needed.
    pub fn handle(
        &mut self,
        read: &[Vec<u8>],
        find: impl Fn(PartitionId, u64, &SpanHead) -> Option<Place>,
    ) -> Result<Work, Obstacle> {
        let mut work = Work::default();
        self.phase = match self.phase {
            Phase::Headers(at) => self.handle_headers(at, read).ok_or_else(|| self.damaged(at))?,
            Phase::Spans(at, _) => {
                self.handle_spans(at, read).ok_or_else(|| self.damaged(at))?;
                work.batches = self.sources[at].wanted.len() as u64;
                if at + 1 < self.sources.len() { Phase::Headers(at + 1) } else { self.plan(find)? }
            }
            Phase::Runs(at) => {
                let wanted = self.sources[at].wanted.values_mut();
                let found = wanted.zip(read).try_for_each(|(wanted, bytes)| {
                    wanted.runs = wanted.runs_at.parse(bytes)?;
                    Some(())
                });
                found.ok_or_else(|| self.damaged(at))?;
                self.read_runs(at + 1)?
            }
            Phase::Piece => {
                work = self.handle_piece(read).ok_or_else(|| self.damaged(self.source))?;
                self.go_on()?
            }
            Phase::Round => self.go_on()?,
            Phase::Finish => Phase::Finish,
        };
        Ok(work)
    }

    /// Returns the obstacle for a source that cannot be read.
    pub fn damaged(&self, at: usize) -> Obstacle {
        Obstacle::Damaged(self.sources.get(at).map_or(0, |source| source.segment.number))
    }

    /// Returns the source that the last steps read.
    pub fn source(&self) -> usize {
        match self.phase {
            Phase::Headers(at) | Phase::Spans(at, _) | Phase::Runs(at) => at,
            Phase::Piece | Phase::Round | Phase::Finish => self.source,
        }
    }

    /// Returns whether the last steps only read.
    pub fn is_reading(&self) -> bool {
        !matches!(self.phase, Phase::Round | Phase::Finish)
    }

    fn handle_headers(&mut self, at: usize, read: &[Vec<u8>]) -> Option<Phase> {
        let [blocks, index] = read else { return None };
        let header = SegmentHeader::parse(blocks).ok()?;
        let is_its =
            header.stamp == self.sources[at].segment.stamp && Index::stamp(index) == Ok(header.stamp);
        let bytes = INDEX_HEADER + Index::heads_bytes(index).ok()?;
        self.features = self.features | header.features;
        is_its.then_some(Phase::Spans(at, bytes))
    }

    fn handle_spans(&mut self, at: usize, read: &[Vec<u8>]) -> Option<()> {
        let source = &mut self.sources[at];
        let index = Index::parse(source.segment.stamp, read.first()?).ok()?;
        source.end = index.end;
        source.wanted = index.spans.into_iter().map(|(id, head, at)| (id, Wanted::new(head, at))).collect();
        Some(())
    }

    fn handle_piece(&mut self, read: &[Vec<u8>]) -> Option<Work> {
        let (pass, source) = (self.passes.front()?, self.sources.get_mut(self.source)?);
        let bytes = read.iter().map(|bytes| bytes.len() as u64).sum();
        let batches = self.reading.handle(read, &mut source.wanted, &pass.ids, &mut self.gathered).ok()?;
        Some(Work { bytes, batches })
    }

    /// Finds what is needed of each source, and divides the partitions into passes.
    fn plan(
        &mut self,
        find: impl Fn(PartitionId, u64, &SpanHead) -> Option<Place>,
    ) -> Result<Phase, Obstacle> {
        let mut known: BTreeMap<PartitionId, Known> = BTreeMap::new();
        let mut obstacle = None;
        for Source { segment, wanted, .. } in &mut self.sources {
            let number = segment.number;
            wanted.retain(|id, Wanted { head, .. }| {
                let Some(Place { index, is_capped }) = find(*id, number, head) else { return false };
                if is_capped {
                    obstacle.get_or_insert(Obstacle::Capped(number));
                }
                match known.get_mut(id) {
                    None => {
                        known.insert(*id, Known { index, end: head.end, bytes: head.bytes });
                    }
                    Some(known) => {
                        if known.index + 1 != index || head.first.saturating_since(known.end) >= GAP_MIN {
                            obstacle.get_or_insert(Obstacle::Wall(number));
                        }
                        *known = Known { index, end: head.end, bytes: known.bytes + head.bytes };
                    }
                }
                true
            });
            if wanted.len() != segment.holding().spans {
                obstacle.get_or_insert(Obstacle::Shared(number));
            }
        }
        if let Some(obstacle) = obstacle {
            return Err(obstacle);
        }
        let mut bytes = 0;
        for (id, known) in known {
            match self.passes.back_mut() {
                Some(pass) if bytes + known.bytes <= GATHER_BYTES as u64 => {
                    pass.ids = *pass.ids.start()..=id;
                    pass.sizes.push((id, known.bytes));
                    bytes += known.bytes;
                }
                _ => {
                    self.passes.push_back(Pass { ids: id..=id, sizes: vec![(id, known.bytes)] });
                    bytes = known.bytes;
                }
            }
        }
        if self.passes.is_empty() { Err(Obstacle::Unneeded) } else { self.read_runs(0) }
    }

    /// Reads the runs of the first source from `at` on that is read run by run. Begins the first pass if there
    /// is none.
    fn read_runs(&mut self, at: usize) -> Result<Phase, Obstacle> {
        let is_by_run = |source: &Source| {
            let needed: u64 = source.wanted.values().map(|wanted| wanted.head.bytes).sum();
            let runs: usize = source.wanted.values().map(|wanted| wanted.runs_at.bytes()).sum();
            runs > 0 && runs <= RUNS_BYTES_MAX && needed * READ_BY_RUN_PARTS <= source.end
        };
        if let Some(found) = self.sources.iter().skip(at).position(is_by_run) {
            return Ok(Phase::Runs(at + found));
        }
        self.begin_pass();
        self.go_on()
    }

    fn begin_pass(&mut self) {
        self.gathered = self.passes.front().map(Pass::room).unwrap_or_default();
        self.begin_source(0);
    }

    fn begin_source(&mut self, at: usize) {
        self.source = at;
        self.reading = match (self.sources.get(at), self.passes.front()) {
            (Some(source), Some(pass)) => {
                let stamps = (source.segment.stamp, self.output.stamp);
                Reading::plan(source.segment.place, stamps, &source.wanted, &pass.ids, source.end)
            }
            _ => Reading::default(),
        };
    }

    /// Returns what comes next: the rest of what was gathered is written, then the source is read, then the
    /// other ones for the same pass, then the next pass.
    fn go_on(&mut self) -> Result<Phase, Obstacle> {
        loop {
            if !self.output.is_done() {
                return Ok(Phase::Round);
            }
            let Some(pass) = self.passes.front() else { return Ok(Phase::Finish) };
            let gathered: usize = self.gathered.values().map(Vec::len).sum();
            if pass.sizes.len() == 1 && gathered >= GATHER_BYTES {
                let room = pass.room();
                self.output.push(std::mem::replace(&mut self.gathered, room));
            } else if !self.reading.is_done() {
                return Ok(Phase::Piece);
            } else if let Some(source) = self.sources.get(self.source) {
                if !is_complete(&source.wanted, &pass.ids) {
                    return Err(self.damaged(self.source));
                }
                self.begin_source(self.source + 1);
            } else {
                self.output.push(std::mem::take(&mut self.gathered));
                self.passes.pop_front();
                self.begin_pass();
            }
        }
    }

    /// Ends the group, whose segment is complete.
    pub fn end(mut self) -> Made {
        self.output.seal_last();
        let (header, order) = (self.header(), self.order());
        let replaced = self.numbers().collect();
        let mut offsets: BTreeMap<PartitionId, Range<Offset>> = BTreeMap::new();
        for (id, Wanted { head, .. }) in self.sources.iter().flat_map(|source| &source.wanted) {
            offsets.entry(*id).and_modify(|of| of.end = head.end).or_insert(head.first..head.end);
        }
        Made { header, order, output: self.output, replaced, offsets: offsets.into_iter().collect() }
    }
}

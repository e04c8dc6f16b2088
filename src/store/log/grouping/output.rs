//! Writes a grouped segment: rounds of gathered batches, partition by partition.

use std::collections::VecDeque;
use std::sync::Arc;

use super::gather::Gathered;
use crate::store::log::disk::{FileName, Step};
use crate::store::log::format::{BLOCK, BatchHeader, PartitionId, ROUNDS_AT, RoundWriter};
use crate::store::log::index::{Spans, add_to};
use crate::store::log::journal::ROUND_BYTES;

/// The segment that is being written.
#[derive(Debug)]
pub struct Output {
    pub place: u32,
    pub number: u64,
    pub stamp: u64,
    /// The position of the next round.
    pub end: u64,
    /// What it holds.
    pub spans: Spans,
    /// The partition of its last batch. The spans of those before it are sealed.
    last: Option<PartitionId>,
    /// The bytes from the last multiple of a block to `end`.
    last_block: Vec<u8>,
    /// Batches of a partition that are to be written, and how many of their bytes are.
    queue: VecDeque<(Vec<u8>, usize)>,
    is_created: bool,
}

impl Output {
    pub fn new(place: u32, number: u64, stamp: u64) -> Self {
        Self {
            place,
            number,
            stamp,
            end: ROUNDS_AT,
            spans: Spans::new(),
            last: None,
            last_block: Vec::new(),
            queue: VecDeque::new(),
            is_created: false,
        }
    }

    /// Returns the size of its file, in bytes.
    pub fn bytes(&self) -> u64 {
        self.end.next_multiple_of(BLOCK as u64)
    }

    /// Adds batches to write.
    pub fn push(&mut self, gathered: Gathered) {
        let some = gathered.into_values().filter(|bytes| !bytes.is_empty());
        self.queue.extend(some.map(|bytes| (bytes, 0)));
    }

    /// Returns whether everything that was gathered is written.
    pub fn is_done(&self) -> bool {
        self.queue.is_empty()
    }

    /// Counts the last span more roughly, because it no longer grows.
    pub fn seal_last(&mut self) {
        if let Some(last) = self.last.take() {
            seal(&mut self.spans, last);
        }
    }

    /// Returns the steps that write the next round. Each is synced, so that the sync of messages never waits for
    /// much. Adds the number of its batches to `batches`.
    pub fn next_round(&mut self, batches: &mut u64) -> Vec<Step> {
        let file = FileName::NewSegment(self.place);
        let begins = self.end - self.last_block.len() as u64;
        let mut buffer = std::mem::take(&mut self.last_block);
        buffer.reserve(ROUND_BYTES + BLOCK);
        let full = buffer.len() + ROUND_BYTES;
        let mut round = RoundWriter::begin(&mut buffer, self.stamp);
        while buffer.len() < full
            && let Some((bytes, at)) = self.queue.front_mut()
        {
            let rest = bytes.get(*at..).unwrap_or_default();
            let Some(header) = BatchHeader::parse(self.stamp, rest) else {
                debug_assert!(rest.is_empty(), "whole batches are gathered");
                self.queue.pop_front();
                continue;
            };
            let Some(batch) = rest.get(..header.bytes()) else { break };
            let id = (header.incarnation, header.partition);
            if let Some(last) = self.last.replace(id).filter(|last| *last != id) {
                seal(&mut self.spans, last);
            }
            add_to(&mut self.spans, &header, begins + buffer.len() as u64);
            round.copy(&mut buffer, batch);
            *at += batch.len();
            *batches += 1;
        }
        while self.queue.pop_front_if(|(bytes, at)| *at >= bytes.len()).is_some() {}
        round.end(&mut buffer, self.end);
        self.end = begins + buffer.len() as u64;
        self.last_block = buffer[buffer.len() / BLOCK * BLOCK..].to_vec();
        buffer.resize(buffer.len().next_multiple_of(BLOCK), 0);
        let mut steps = Vec::new();
        if !std::mem::replace(&mut self.is_created, true) {
            steps.push(Step::Create(file));
        }
        steps.extend([Step::Write(file, begins, Arc::new(buffer)), Step::Sync(file)]);
        steps
    }
}

/// Counts a span more roughly, because it no longer grows.
fn seal(spans: &mut Spans, id: PartitionId) {
    if let Some(span) = spans.get_mut(&id) {
        span.seal();
    }
}

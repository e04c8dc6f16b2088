//! What is known of segments before they are read, for a start and for the tools.

use std::collections::HashSet;
use std::io;

use crate::base::millis::UnixMillis;
use crate::store::log::disk::{Directory, FileName, read, salvage_all};
use crate::store::log::format::{PartitionId, ROUNDS_AT};
use crate::store::log::grouped::Grouped;
use crate::store::log::header::SegmentHeader;
use crate::store::log::history::Sealed;
use crate::store::log::index::{INDEX_HEADER, Index, SpanHead};

/// What is known before the segments are read.
pub(in crate::store::log) struct Facts<'a> {
    /// The segments that a clean stop sealed.
    pub stopped: &'a [Sealed],
    /// The incarnations of queues that were deleted.
    pub deleted: &'a HashSet<u64>,
    /// The current time.
    pub unix: UnixMillis,
}

impl Facts<'_> {
    /// Returns where the rounds of a segment end, if a clean stop sealed it.
    pub(in crate::store::log) fn end(&self, place: u32, stamp: u64) -> Option<u64> {
        let its = self.stopped.iter().find(|sealed| (sealed.place, sealed.stamp) == (place, stamp));
        its.map(|sealed| sealed.end)
    }

    /// Returns whether a clean stop sealed a segment in this file.
    pub(in crate::store::log) fn names(&self, place: u32) -> bool {
        self.stopped.iter().any(|sealed| sealed.place == place)
    }

    /// Returns whether the index of this place has unexpired messages of existing queues. If its segment is
    /// missing, they are lost: when a segment is removed, its index is removed first.
    pub(in crate::store::log) fn has_live(&self, directory: &dyn Directory, place: u32) -> bool {
        let index = read_index(directory, place).ok();
        let index = index.and_then(|bytes| Index::parse(Index::stamp(&bytes).ok()?, &bytes).ok());
        let lives =
            |id: &PartitionId, head: &SpanHead| head.expiry > self.unix && !self.deleted.contains(&id.0);
        index.is_some_and(|index| index.spans.iter().any(|(id, head, _)| lives(id, head)))
    }
}

/// Returns the stamps of the segments that grouped segments replace. They do not count.
pub(in crate::store::log) fn replaced(directory: &dyn Directory, files: &[(FileName, u64)]) -> HashSet<u64> {
    let segments = files.iter().filter(|(file, _)| matches!(file, FileName::Segment(_)));
    let grouped = segments.filter_map(|(file, _)| {
        let blocks = salvage_all(directory, *file, ROUNDS_AT).ok()?.bytes;
        let header = SegmentHeader::parse(&blocks).ok()?;
        Grouped::parse(&header, &blocks).ok()?
    });
    grouped.flat_map(|grouped| grouped.replaced).collect()
}

/// Reads the beginning of an index: as much as [`Index::parse`] needs.
pub(in crate::store::log) fn read_index(directory: &dyn Directory, place: u32) -> io::Result<Vec<u8>> {
    let file = FileName::Index(place);
    let header = read(directory, file, 0, INDEX_HEADER)?;
    match Index::heads_bytes(&header) {
        Ok(heads) => read(directory, file, 0, INDEX_HEADER.saturating_add(heads)),
        Err(_) => Ok(header),
    }
}

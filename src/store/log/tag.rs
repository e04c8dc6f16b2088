//! The purpose of steps on the disk. The disk returns the tag with the result of the steps.

use std::sync::Arc;

use super::format::PartitionId;
use super::index::RunsAt;
use super::load::Load;
use super::segment::Segment;
use crate::base::units::Offset;

/// The purpose of steps.
#[derive(Clone, Debug)]
pub enum Tag {
    /// They write a round.
    Round,
    /// They make a segment.
    Make,
    /// They write the index of the sealed segment with this number.
    Index(u64),
    /// They remove the file of a segment that could not be made.
    Unmade,
    /// They remove the files of a segment that is no longer needed.
    Remove,
    /// They read or write a part of a grouped segment.
    Group,
    /// They make the segment in this file empty, because another one replaces it.
    Wipe(u32),
    /// They write records of created and deleted queues to the catalogue.
    Catalogue,
    /// They read something of a partition.
    Read(PartitionId, ReadPurpose),
}

/// The data of a partition that is read.
#[derive(Clone, Debug)]
pub enum ReadPurpose {
    /// The runs of a span, for a reader that wants the messages from an offset on.
    Runs(Offset, Arc<Segment>, RunsAt),
    /// A whole segment, because its index does not say where the messages are.
    Segment(Arc<Segment>),
    /// Batches that waiting fetches want.
    Messages(Load),
}

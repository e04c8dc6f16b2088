//! What steps on the disk are for: the disk hands the tag back with what the steps brought.

use std::sync::Arc;

use super::format::PartitionId;
use super::index::RunsAt;
use super::load::Load;
use super::segment::Segment;
use crate::base::units::Offset;

/// What steps are for.
#[derive(Clone, Debug)]
pub enum Tag {
    /// Write a round.
    Round,
    /// Make a segment.
    Make,
    /// Write the index of the sealed segment of that number.
    Index(u64),
    /// Remove the files of a segment that nobody needs any more.
    Remove,
    /// Write new queues into the catalogue.
    Catalogue,
    /// Read something of a partition.
    Read(PartitionId, ReadPurpose),
}

/// What is read of a partition.
#[derive(Clone, Debug)]
pub enum ReadPurpose {
    /// The runs of a span, for a reader that wants what begins at an offset.
    Runs(Offset, Arc<Segment>, RunsAt),
    /// A whole segment, because its index does not say where the messages are.
    Segment(Arc<Segment>),
    /// Messages.
    Messages(Load),
}

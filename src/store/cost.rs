//! What a batch costs in memory.

use crate::base::batch::Batch;

/// What a batch costs beside its records: its header and reference counts, its place in the ring and in the order
/// of arrival, the allocator's share of two allocations.
pub const BATCH_OVERHEAD_BYTES: usize = 192;

/// Bytes that a batch costs in memory.
#[inline]
pub(super) fn cost(batch: &Batch) -> usize {
    batch.stored_bytes() + BATCH_OVERHEAD_BYTES
}

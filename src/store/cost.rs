//! The cost of a batch in memory.

use crate::base::batch::Batch;

/// The overhead of a batch in memory, in bytes: its header and reference counts, its entries in the ring and
/// in the order of arrival, and the allocator's overhead for two allocations.
pub const BATCH_OVERHEAD_BYTES: usize = 192;

/// Returns the memory that a batch costs, in bytes.
#[inline]
pub(super) fn cost(batch: &Batch) -> usize {
    batch.stored_bytes() + BATCH_OVERHEAD_BYTES
}

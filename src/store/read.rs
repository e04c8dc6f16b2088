//! Reading a run of stored batches: what a fetch is given, and what is left out.

use std::collections::VecDeque;

use crate::base::batch::{Fetched, StoredBatch};
use crate::base::clock::Now;
use crate::base::names::ClientId;
use crate::base::units::Offset;

/// Batches that one fetch passes over before it comes back, so that a long run of left-out batches cannot
/// hold the shard.
const SCAN_BATCHES: usize = 4096;

/// Batches from an offset on, without those that have expired or that `exclude` stored. `end` is where what is stored ends.
pub(super) fn read(
    batches: &VecDeque<StoredBatch>,
    end: Offset,
    now: Now,
    from: Offset,
    bytes_max: usize,
    exclude: Option<ClientId>,
) -> Fetched {
    let first = batches.partition_point(|stored| stored.end_offset() <= from);
    let mut fetched = Fetched { next: from.min(end), ..Fetched::default() };
    let mut bytes = 0;
    for stored in batches.range(first..).take(SCAN_BATCHES) {
        if bytes >= bytes_max {
            break;
        }
        fetched.next = stored.end_offset();
        if !stored.is_expired(now.unix) && exclude != Some(stored.batch.client()) {
            bytes += stored.batch.stored_bytes();
            fetched.batches.push(stored.clone());
        }
    }
    fetched.at_end = batches.back().is_none_or(|last| fetched.next >= last.end_offset());
    if fetched.at_end {
        fetched.next = end;
    }
    fetched
}

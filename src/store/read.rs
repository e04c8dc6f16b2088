//! Reads from a run of stored batches, for a fetch.

use std::collections::VecDeque;

use super::fetch::Fetch;
use crate::base::batch::{Fetched, StoredBatch};
use crate::base::claim::View;
use crate::base::clock::Now;
use crate::base::units::Offset;

/// The most batches that one fetch scans, so that a long run of batches that are left out cannot block the
/// shard.
const SCAN_BATCHES: usize = 4096;

/// Returns the batches for a fetch, without expired ones unless the view has them, and without those that
/// `exclude` stored. Hides the messages before the offset. `end` is the end of the stored messages.
pub(super) fn read<T>(batches: &VecDeque<StoredBatch>, end: Offset, now: Now, fetch: &Fetch<T>) -> Fetched {
    let &Fetch { from, bytes_max, exclude, view, .. } = fetch;
    let first = batches.partition_point(|stored| stored.end_offset() <= from);
    let mut fetched = Fetched { next: from.min(end), ..Fetched::default() };
    let mut bytes = 0;
    for stored in batches.range(first..).take(SCAN_BATCHES) {
        if bytes >= bytes_max {
            break;
        }
        fetched.next = stored.end_offset();
        let lives = view == View::Stored || !stored.is_expired(now.unix);
        if lives && exclude != Some(stored.batch.client()) {
            bytes += stored.batch.stored_bytes();
            fetched.batches.push(stored.clone());
        }
    }
    if let Some(first) = fetched.batches.first().filter(|first| first.base_offset < from) {
        fetched.hidden.push(first.base_offset..from);
    }
    fetched.at_end = batches.back().is_none_or(|last| fetched.next >= last.end_offset());
    if fetched.at_end {
        fetched.next = end;
    }
    fetched
}

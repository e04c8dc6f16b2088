//! The totals of a queue, from the spans of its partitions.

use super::index::SpanHead;
use crate::store::QueueSummary;

/// Adds the spans of a partition to the summary of its queue. Spans that have expired do not count.
pub(super) fn add<'a>(to: &mut QueueSummary, heads: impl Iterator<Item = &'a SpanHead>, unix_ms: u64) {
    for head in heads.filter(|head| head.messages > 0 && head.expiry_ms > unix_ms) {
        let (oldest_ms, newest_ms) = (Some(head.first_ms), Some(head.last_ms));
        let (messages, bytes) = (head.messages, head.bytes);
        to.merge(&QueueSummary { messages, bytes, oldest_ms, newest_ms, ..*to });
    }
}

//! The totals of a queue, from the spans of its partitions.

use super::index::SpanHead;
use crate::base::millis::UnixMillis;
use crate::store::QueueSummary;

/// Adds the spans of a partition to the summary of its queue. Spans that have expired do not count.
pub(super) fn add<'a>(to: &mut QueueSummary, heads: impl Iterator<Item = &'a SpanHead>, unix: UnixMillis) {
    for head in heads.filter(|head| head.messages > 0 && head.expiry > unix) {
        let (oldest, newest) = (Some(head.oldest), Some(head.newest));
        let (messages, bytes) = (head.messages, head.bytes);
        to.merge(&QueueSummary { messages, bytes, oldest, newest, ..*to });
    }
}

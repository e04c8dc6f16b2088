//! Which spans of a partition must stay although their messages have expired, and which may go before.

use std::ops::Range;

use super::index::SpanHead;
use crate::base::millis::UnixMillis;
use crate::base::units::{Offset, Partition};

/// What the claims of a partition say of its spans.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Whether the partition is hidden: it holds state, which does not expire and is not retired.
    is_state: bool,
    /// Whether nothing may expire or be released, because the claims of an earlier run are not known yet.
    is_whole: bool,
    /// Nobody needs what is below this offset.
    released: Offset,
    /// The messages that stay although they have expired, ascending.
    pinned: Vec<Range<Offset>>,
}

impl Keep {
    /// Creates what is known of a partition at the start.
    pub fn new(partition: Partition) -> Self {
        Self { is_state: partition.of_state().is_some(), ..Self::default() }
    }

    /// Keeps everything until [`Self::pin`] is called.
    pub fn keep_whole(&mut self) {
        self.is_whole = true;
    }

    /// Returns whether the claims of an earlier run are not known yet.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Allows everything below an offset to go.
    pub fn release(&mut self, below: Offset) {
        self.released = self.released.max(below);
    }

    /// Replaces the messages that stay although they have expired.
    pub fn pin(&mut self, pinned: Vec<Range<Offset>>) {
        debug_assert!(pinned.is_sorted_by(|a, b| a.end <= b.start), "{pinned:?}");
        (self.pinned, self.is_whole) = (pinned, false);
    }

    /// Returns whether a span was released.
    pub fn is_released(&self, head: &SpanHead) -> bool {
        head.messages > 0 && head.end <= self.released && !self.is_whole
    }

    /// Returns when a span may go. `is_retired` says whether its segment is retired.
    pub fn due(&self, head: &SpanHead, is_retired: bool) -> UnixMillis {
        let may_retire = is_retired && !self.is_state;
        if may_retire || self.is_released(head) {
            UnixMillis::ZERO
        } else if head.messages > 0 && (self.is_state || self.is_whole || self.is_pinned(head)) {
            UnixMillis::MAX
        } else {
            head.expiry
        }
    }

    fn is_pinned(&self, head: &SpanHead) -> bool {
        let next = self.pinned.partition_point(|pinned| pinned.end <= head.first);
        self.pinned.get(next).is_some_and(|pinned| pinned.start < head.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: UnixMillis = UnixMillis::new(50);

    fn span(first: u64, end: u64) -> SpanHead {
        SpanHead {
            first: Offset(first),
            end: Offset(end),
            oldest: UnixMillis::ZERO,
            newest: UnixMillis::ZERO,
            expiry: EXPIRY,
            bytes: 1,
            messages: end - first,
        }
    }

    #[test]
    fn a_pinned_span_stays_unless_it_is_released_or_retired() {
        let mut keep = Keep::new(Partition(0));
        keep.pin(vec![Offset(3)..Offset(5), Offset(10)..Offset(11)]);
        let due = |keep: &Keep, first, end| keep.due(&span(first, end), false);
        let kept = [(0, 3), (2, 4), (4, 9), (5, 10), (5, 11), (11, 12)].map(|(first, end)| {
            assert!(due(&keep, first, end) >= EXPIRY);
            due(&keep, first, end) == UnixMillis::MAX
        });
        assert_eq!(kept, [false, true, true, false, true, false]);
        assert_eq!(keep.due(&span(2, 4), true), UnixMillis::ZERO);
        keep.release(Offset(4));
        keep.release(Offset(2));
        assert_eq!((due(&keep, 2, 4), due(&keep, 4, 5)), (UnixMillis::ZERO, UnixMillis::MAX));
    }

    #[test]
    fn nothing_goes_before_the_claims_of_an_earlier_run_are_known() {
        let mut keep = Keep::new(Partition(0));
        keep.keep_whole();
        keep.release(Offset(9));
        assert_eq!(keep.due(&span(0, 9), false), UnixMillis::MAX);
        assert_eq!(keep.due(&span(9, 9), false), EXPIRY, "a mark holds no messages");
        keep.pin(Vec::new());
        assert_eq!(keep.due(&span(0, 9), false), UnixMillis::ZERO);
        assert_eq!(keep.due(&span(0, 10), false), EXPIRY);
    }

    #[test]
    fn state_stays_until_it_is_released() {
        let mut keep = Keep::new(Partition(0).state());
        assert_eq!(keep.due(&span(0, 9), true), UnixMillis::MAX);
        keep.release(Offset(9));
        assert_eq!(keep.due(&span(0, 9), false), UnixMillis::ZERO);
        assert_eq!(
            keep.due(&span(9, 9), false),
            EXPIRY,
            "a mark goes as soon as something else tells the end"
        );
    }
}

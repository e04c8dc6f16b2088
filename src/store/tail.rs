//! Where a partition ends, and how many messages are before that.

use std::ops::Range;

/// The end of a partition. Offsets may be left out before a message: those between belong to none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Where it ends.
    pub end: u64,
    /// Messages stored in it since the server started.
    pub stored: u64,
    /// Offsets that were left out in large numbers, as far as the store knows: in order, none of them twice.
    pub gaps: Vec<Range<u64>>,
}

impl Tail {
    /// That of a partition in which nothing is left out and that was empty when the server started.
    pub fn new(end: u64) -> Self {
        Self { end, stored: end, gaps: Vec::new() }
    }

    /// How many messages a reader at `position` has before it.
    pub fn messages_from(&self, position: u64) -> u64 {
        let left_out = |gap: &Range<u64>| gap.end.min(self.end).saturating_sub(gap.start.max(position));
        let gaps = self.gaps.iter().map(left_out).fold(0, u64::saturating_add);
        self.end.saturating_sub(position).saturating_sub(gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_that_belong_to_no_message_are_not_counted() {
        let far: u64 = 1 << 40;
        let tail = Tail { end: far + 5, stored: 5, gaps: vec![3..10, 20..far] };
        assert_eq!(tail.messages_from(0), 3 + 10 + 5);
        assert_eq!(tail.messages_from(5), 10 + 5);
        assert_eq!((tail.messages_from(20), tail.messages_from(far - 1), tail.messages_from(far)), (5, 5, 5));
        assert_eq!((tail.messages_from(far + 4), tail.messages_from(far + 5)), (1, 0));
        assert_eq!(tail.messages_from(u64::MAX), 0, "a position beyond the end");
        // No message came behind the gap yet.
        let waiting = Tail { end: 20, ..tail };
        assert_eq!((waiting.messages_from(0), waiting.messages_from(20)), (13, 0));
        assert_eq!(Tail::new(7).messages_from(2), 5);
    }
}

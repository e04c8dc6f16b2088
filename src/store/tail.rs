//! The end of a partition, and the number of messages before it.

use std::ops::Range;

use crate::base::units::Offset;

/// The end of a partition. There may be gaps between messages: offsets that belong to no message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The end: one past the last offset.
    pub end: Offset,
    /// The number of messages stored in it since the server started.
    pub stored: u64,
    /// Large gaps, as far as the store knows them, in order and without overlaps.
    pub gaps: Vec<Range<Offset>>,
}

impl Tail {
    /// Creates the tail of a partition that has no gaps and was empty when the server started.
    pub fn new(end: Offset) -> Self {
        Self { end, stored: end.since(Offset::ZERO), gaps: Vec::new() }
    }

    /// Returns the lag of a reader at `position`: how many messages it has not read yet.
    pub fn messages_from(&self, position: Offset) -> u64 {
        let left_out = |gap: &Range<Offset>| gap.end.min(self.end).saturating_since(gap.start.max(position));
        let gaps = self.gaps.iter().map(left_out).fold(0, u64::saturating_add);
        self.end.saturating_since(position).saturating_sub(gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_do_not_count_as_lag() {
        let far = Offset(1 << 40);
        let tail = Tail { end: far + 5, stored: 5, gaps: vec![Offset(3)..Offset(10), Offset(20)..far] };
        assert_eq!(tail.messages_from(Offset(0)), 3 + 10 + 5);
        assert_eq!(tail.messages_from(Offset(5)), 10 + 5);
        assert_eq!(
            (tail.messages_from(Offset(20)), tail.messages_from(far.previous()), tail.messages_from(far)),
            (5, 5, 5)
        );
        assert_eq!((tail.messages_from(far + 4), tail.messages_from(far + 5)), (1, 0));
        assert_eq!(tail.messages_from(Offset(u64::MAX)), 0, "a position beyond the end");
        // No message has been stored after the gap yet.
        let waiting = Tail { end: Offset(20), ..tail };
        assert_eq!((waiting.messages_from(Offset(0)), waiting.messages_from(Offset(20))), (13, 0));
        assert_eq!(Tail::new(Offset(7)).messages_from(Offset(2)), 5);
    }
}

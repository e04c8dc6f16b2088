//! Where a partition ends, and how many messages are before that.

use std::ops::Range;

use crate::base::units::Offset;

/// The end of a partition. Offsets may be left out before a message: those between belong to none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Where it ends.
    pub end: Offset,
    /// Messages stored in it since the server started.
    pub stored: u64,
    /// Offsets that were left out in large numbers, as far as the store knows: in order, none of them twice.
    pub gaps: Vec<Range<Offset>>,
}

impl Tail {
    /// That of a partition in which nothing is left out and that was empty when the server started.
    pub fn new(end: Offset) -> Self {
        Self { end, stored: end.since(Offset::ZERO), gaps: Vec::new() }
    }

    /// How many messages a reader at `position` has before it.
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
    fn offsets_that_belong_to_no_message_are_not_counted() {
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
        // No message came behind the gap yet.
        let waiting = Tail { end: Offset(20), ..tail };
        assert_eq!((waiting.messages_from(Offset(0)), waiting.messages_from(Offset(20))), (13, 0));
        assert_eq!(Tail::new(Offset(7)).messages_from(Offset(2)), 5);
    }
}

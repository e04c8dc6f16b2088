//! The messages of fetched batches that the reader must skip.

use std::ops::Range;

use crate::base::units::Offset;

/// Hidden offsets: ascending ranges that do not overlap. A fetch returns whole batches, and states here which
/// of their messages to skip. Most fetches hide nothing, which costs no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden(Vec<Range<Offset>>);

impl Hidden {
    /// Hides a range after all hidden ones. An empty range changes nothing.
    pub fn push(&mut self, range: Range<Offset>) {
        let end = self.0.last().map_or(Offset(0), |last| last.end);
        debug_assert!(end <= range.start, "{range:?} must come after {end:?}");
        if !range.is_empty() {
            self.0.push(range);
        }
    }

    /// Returns the first run of visible offsets between `from` and `end`, or an empty run at `end` if all are
    /// hidden.
    #[inline]
    pub fn visible(&self, mut from: Offset, end: Offset) -> Range<Offset> {
        let first = self.0.partition_point(|hidden| hidden.end <= from);
        for hidden in &self.0[first..] {
            if hidden.start > from {
                return from.min(end)..hidden.start.min(end);
            }
            from = from.max(hidden.end);
        }
        from.min(end)..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_runs_lie_between_hidden_ranges() {
        let offsets = |range: Range<u64>| Offset(range.start)..Offset(range.end);
        let mut hidden = Hidden::default();
        assert_eq!(hidden.visible(Offset(3), Offset(9)), offsets(3..9));
        for range in [4..4, 5..7, 7..8, 10..12] {
            hidden.push(offsets(range));
        }
        for (from, end, visible) in [
            (0, 20, 0..5),
            (3, 4, 3..4),
            (5, 20, 8..10),
            (6, 20, 8..10),
            (5, 7, 7..7),
            (8, 9, 8..9),
            (9, 11, 9..10),
            (10, 12, 12..12),
            (11, 20, 12..20),
            (12, 12, 12..12),
        ] {
            let found = hidden.visible(Offset(from), Offset(end));
            assert_eq!(found, offsets(visible), "from {from} to {end}");
        }
    }
}

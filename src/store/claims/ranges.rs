//! Ranges of offsets, as records and leases have them.

use std::ops::Range;

use crate::base::units::Offset;

/// Returns the number of messages in ranges.
pub(super) fn messages<'a>(ranges: impl IntoIterator<Item = &'a Range<Offset>>) -> u64 {
    ranges.into_iter().map(|range| range.end.saturating_since(range.start)).fold(0, u64::saturating_add)
}

/// Returns what two lists of ascending ranges have in common.
pub(super) fn common(one: &[Range<Offset>], other: &[Range<Offset>]) -> Vec<Range<Offset>> {
    let (mut one, mut other, mut all) = (one.iter().peekable(), other.iter().peekable(), Vec::new());
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        let both = a.start.max(b.start)..a.end.min(b.end);
        let shorter = if a.end < b.end { &mut one } else { &mut other };
        shorter.next();
        if !both.is_empty() {
            all.push(both);
        }
    }
    all
}

/// Returns what lies in any of these ranges, as ascending ranges without overlap.
pub(super) fn union(mut ranges: Vec<Range<Offset>>) -> Vec<Range<Offset>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut all: Vec<Range<Offset>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match all.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => all.push(range),
        }
    }
    all
}

/// Joins ranges with at most `gap_max` offsets between them.
pub(super) fn joined(ranges: Vec<Range<Offset>>, gap_max: u64) -> Vec<Range<Offset>> {
    let mut all: Vec<Range<Offset>> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if range.start.since(last.end) <= gap_max => last.end = range.end,
            _ => all.push(range),
        }
    }
    all
}

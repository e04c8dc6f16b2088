//! Sets of message numbers, and their form on the wire: pairs (skip, count), each counted from the end of the pair
//! before.

use std::ops::Range;

use super::ServerFault;

/// Message numbers that are collected for a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds numbers. Numbers that are in the set already make no difference.
    pub(super) fn insert(&mut self, numbers: Range<u64>) {
        match self.0.last_mut() {
            // Messages are often settled in order.
            Some(last) if last.end == numbers.start => last.end = numbers.end,
            _ if numbers.is_empty() => {}
            _ => self.0.push(numbers),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Empties the set. Returns its pairs: as few as possible.
    pub(super) fn take_pairs(&mut self) -> Vec<u64> {
        let mut ranges = std::mem::take(&mut self.0);
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, before| {
            let touches = next.start <= before.end;
            if touches {
                before.end = before.end.max(next.end);
            }
            touches
        });
        let mut pairs = Vec::with_capacity(2 * ranges.len());
        // Numbers begin at 1.
        let mut end = 1;
        for range in ranges {
            pairs.extend([range.start - end, range.end - range.start]);
            end = range.end;
        }
        pairs
    }
}

/// Decodes pairs from the server that name no number above `last`.
pub(super) fn from_pairs(pairs: &[u64], last: u64) -> Result<Vec<Range<u64>>, ServerFault> {
    let fault = || ServerFault("lost names numbers that do not exist".into());
    let mut end = 1u64;
    let mut ranges = Vec::with_capacity(pairs.len() / 2);
    for pair in pairs.chunks(2) {
        let &[skip, count] = pair else { return Err(fault()) };
        let start = end.checked_add(skip).ok_or_else(fault)?;
        end = start.checked_add(count).filter(|end| *end > start && end - 1 <= last).ok_or_else(fault)?;
        ranges.push(start..end);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn pairs(ranges: &[Range<u64>]) -> Vec<u64> {
        let mut set = Ranges::default();
        ranges.iter().for_each(|range| set.insert(range.clone()));
        set.take_pairs()
    }

    #[test]
    fn pairs_are_those_of_the_protocol() {
        assert_eq!(pairs(&[1..60, 60..101]), [0, 100]);
        assert_eq!(pairs(&[8..11, 5..6]), [4, 1, 2, 3]);
        assert_eq!(pairs(&[1..2, 2..4, 4..9]), [0, 8], "neighbours are one range");
        assert!(pairs(&[]).is_empty());
        assert_eq!(from_pairs(&[4, 1, 2, 3], 10), Ok(vec![5..6, 8..11]));
    }

    #[test]
    fn pairs_that_name_nothing_sent_are_refused() {
        for wrong in [&[0][..], &[0, 0], &[0, 11], &[10, 1], &[0, 1, 9, 1], &[u64::MAX, 2], &[3, u64::MAX]] {
            assert!(from_pairs(wrong, 10).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn every_number_arrives(inserted in proptest::collection::vec((1u64..300, 0u64..20), 0..60)) {
            let mut set = Ranges::default();
            let mut model = BTreeSet::new();
            for (start, count) in inserted {
                set.insert(start..start + count);
                model.extend(start..start + count);
            }
            let pairs = set.take_pairs();
            prop_assert!(set.is_empty());
            prop_assert!(pairs.chunks(2).skip(1).all(|pair| pair[0] > 0), "neighbours are merged");
            let decoded = from_pairs(&pairs, 400).unwrap();
            prop_assert_eq!(decoded.into_iter().flatten().collect::<BTreeSet<u64>>(), model);
        }
    }
}

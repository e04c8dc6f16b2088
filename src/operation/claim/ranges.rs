//! Message numbers as ranges (protocol section 17): pairs (skip, count), each counted from the end of the pair before.

use std::ops::Range;

use crate::base::error::PeerFault;
use crate::pb::wire::Reader;

/// An encoded list of ranges: varints, of which every two are a pair.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ranges<'a>(pub &'a [u8]);

impl<'a> Ranges<'a> {
    /// Returns whether the list is empty.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Checks the list `field` of a request. `sent` is the highest number that was sent. Takes time in proportion to the
    /// length of the list.
    pub fn check(self, field: &'static str, sent: u64) -> Result<(), PeerFault> {
        let bad = |why: String| Err(PeerFault::PbInvalid(format!("{field}: {why}")));
        let mut walk = Walk { reader: Reader(self.0), end: 0 };
        while !walk.reader.0.is_empty() {
            match walk.pair() {
                Err(why) => return bad(why.into()),
                Ok(range) if range.end - 1 > sent => {
                    return bad(format!("message {} was never sent; the last one is {sent}", range.end - 1));
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Returns the ranges of a list that was checked.
    pub fn iter(self) -> impl Iterator<Item = Range<u64>> + 'a {
        let mut walk = Walk { reader: Reader(self.0), end: 0 };
        std::iter::from_fn(move || walk.pair().ok())
    }

    /// Encodes ascending ranges that do not overlap.
    pub fn encode(ranges: &[Range<u64>]) -> Vec<u64> {
        let mut end = 0;
        let mut pairs = Vec::with_capacity(2 * ranges.len());
        for range in ranges {
            pairs.extend([range.start - 1 - end, range.end - range.start]);
            end = range.end - 1;
        }
        pairs
    }
}

/// Reads pair by pair.
struct Walk<'a> {
    reader: Reader<'a>,
    /// The last number of the pair before.
    end: u64,
}

impl Walk<'_> {
    #[inline]
    fn pair(&mut self) -> Result<Range<u64>, &'static str> {
        let skip = self.reader.varint().map_err(|malformed| malformed.0)?;
        if self.reader.0.is_empty() {
            return Err("an odd number of values; a range is a pair of skip and count");
        }
        let count = self.reader.varint().map_err(|malformed| malformed.0)?;
        if count == 0 {
            return Err("a range with a count of 0");
        }
        let end = self.end.checked_add(skip).and_then(|before| before.checked_add(count));
        let end = end.filter(|end| *end < u64::MAX).ok_or("a number beyond 64 bits")?;
        self.end = end;
        Ok(end - count + 1..end + 1)
    }
}

/// Sorts ranges, and joins those that touch or overlap.
pub(super) fn join(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "the ranges are the elements")]

    use super::*;
    use crate::pb::wire::write_varint;
    use proptest::prelude::*;

    fn list(values: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| write_varint(*value, &mut bytes));
        bytes
    }

    fn read(values: &[u64], sent: u64) -> Result<Vec<Range<u64>>, PeerFault> {
        let bytes = list(values);
        Ranges(&bytes).check("ack", sent)?;
        Ok(Ranges(&bytes).iter().collect())
    }

    #[test]
    fn pairs_are_counted_from_the_end_of_the_pair_before() {
        assert_eq!(read(&[0, 100], 100), Ok(vec![1..101]));
        assert_eq!(read(&[4, 1, 2, 3], 10), Ok(vec![5..6, 8..11]));
        assert_eq!(read(&[], 0), Ok(vec![]));
    }

    #[test]
    fn what_no_range_can_be_is_refused() {
        for (values, sent) in [
            (&[0][..], 9),
            (&[0, 1, 2], 9),
            (&[3, 0], 9),
            (&[0, 10], 9),
            (&[9, 1], 9),
            (&[0, 1], 0),
            (&[u64::MAX, 1], u64::MAX),
            (&[1, u64::MAX], u64::MAX),
            (&[0, 1, u64::MAX - 1, 1], u64::MAX),
        ] {
            assert!(matches!(read(values, sent), Err(PeerFault::PbInvalid(_))), "{values:?}");
        }
        assert!(Ranges(&[0x80]).check("ack", 9).is_err(), "a varint that does not end");
    }

    proptest! {
        #[test]
        fn encoded_ranges_are_read_back(numbers in proptest::collection::btree_set(1u64..300, 0..80)) {
            let ranges = join(numbers.iter().map(|number| *number..number + 1).collect());
            prop_assert!(ranges.windows(2).all(|two| two[0].end < two[1].start));
            prop_assert_eq!(read(&Ranges::encode(&ranges), 300), Ok(ranges.clone()));
            let all: Vec<u64> = ranges.into_iter().flatten().collect();
            prop_assert_eq!(all, numbers.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_checked_list_names_only_numbers_that_were_sent(bytes in proptest::collection::vec(any::<u8>(), 0..40), sent in 0u64..500) {
            if Ranges(&bytes).check("ack", sent).is_ok() {
                let mut before = 0;
                for range in Ranges(&bytes).iter() {
                    prop_assert!(before < range.end && range.start > before && range.end - 1 <= sent);
                    before = range.end - 1;
                }
            }
        }
    }
}

//! A set of the indexes of a claim's messages.

use std::ops::Range;

/// A set of indexes below a fixed length. Takes no memory of its own up to 64.
#[derive(Clone, Debug)]
pub(super) enum Bits {
    /// Up to 64 indexes.
    Few(u64),
    /// More.
    Many(Box<[u64]>),
}

impl Bits {
    /// Creates the set of all indexes below `length`.
    pub(super) fn full(length: u32) -> Self {
        let word = |bits: u32| if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        if length <= 64 {
            return Self::Few(word(length));
        }
        let words = (0..length.div_ceil(64)).map(|index| word(length - 64 * index));
        Self::Many(words.collect())
    }

    /// Returns the heap memory of the set, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Few(_) => 0,
            Self::Many(words) => size_of_val(&words[..]),
        }
    }

    /// Returns the first run of indexes in the set within `within`, if there is one.
    pub(super) fn run(&self, within: Range<u32>) -> Option<Range<u32>> {
        let start = self.find(within.clone(), 0)?;
        let end = self.find(start..within.end, u64::MAX).unwrap_or(within.end);
        Some(start..end)
    }

    /// Removes indexes.
    pub(super) fn remove(&mut self, indexes: Range<u32>) {
        let words = match self {
            Self::Few(word) => std::slice::from_mut(word),
            Self::Many(words) => words,
        };
        let mut at = indexes.start;
        while at < indexes.end {
            let (word, bit) = (at / 64, at % 64);
            let count = (indexes.end - at).min(64 - bit);
            let mask = if count == 64 { u64::MAX } else { ((1 << count) - 1) << bit };
            words[word as usize] &= !mask;
            at += count;
        }
    }

    /// Returns the first index within `within` whose bit, after an exclusive or with `flip`, is set.
    fn find(&self, within: Range<u32>, flip: u64) -> Option<u32> {
        let words = match self {
            Self::Few(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        };
        let mut at = within.start;
        while at < within.end {
            let rest = (words[(at / 64) as usize] ^ flip) >> (at % 64);
            if rest != 0 {
                return Some(at + rest.trailing_zeros()).filter(|index| *index < within.end);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set_of_indexes(length in 1u32..300, ranges in proptest::collection::vec((0u32..300, 0u32..80), 0..20)) {
            let mut bits = Bits::full(length);
            let mut model: BTreeSet<u32> = (0..length).collect();
            for (start, count) in ranges {
                let range = start.min(length)..(start + count).min(length);
                let found = bits.run(range.clone());
                let first = model.range(range.clone()).next().copied();
                prop_assert_eq!(found.as_ref().map(|run| run.start), first);
                if let Some(run) = found {
                    prop_assert!(run.clone().all(|index| model.contains(&index)));
                    prop_assert!(run.end == range.end || !model.contains(&run.end));
                }
                bits.remove(range.clone());
                model.retain(|index| !range.contains(index));
            }
        }
    }
}

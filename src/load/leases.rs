//! What the workers of a run know about each message: whether a worker has it, and whether its acknowledgement is
//! confirmed. All workers share it, so that a message that two of them have is found.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Consecutive messages of one stream, with consecutive message numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub stream: u32,
    /// The sequence number of the first message.
    pub first: u64,
    pub count: u64,
    /// The message number of the first message, in the operation that has claimed it.
    pub number: u64,
}

/// What is wrong with messages that were just claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overlap {
    /// Messages that a worker has already.
    pub twice: u64,
    /// Messages whose acknowledgement is confirmed.
    pub again: u64,
}

/// The state of 64 consecutive messages, a bit for each.
#[derive(Debug, Default)]
struct Word {
    leased: AtomicU64,
    confirmed: AtomicU64,
}

/// The number of words of the first chunk. Each chunk has twice as many as the one before.
const FIRST_WORDS: u64 = 1 << 10;

/// Enough chunks for 2^48 messages, which no run produces.
const CHUNKS: usize = 32;

/// The words of one stream. They are created when they are needed, and never move.
#[derive(Debug)]
struct Words([OnceLock<Box<[Word]>>; CHUNKS]);

impl Words {
    /// Returns a word, or `None` beyond the last chunk.
    fn get(&self, index: u64) -> Option<&Word> {
        let place = index / FIRST_WORDS + 1;
        let chunk = place.ilog2();
        let before = FIRST_WORDS * ((1 << chunk) - 1);
        let words = self.0.get(chunk as usize)?;
        let length = (FIRST_WORDS << chunk) as usize;
        let words = words.get_or_init(|| std::iter::repeat_with(Word::default).take(length).collect());
        words.get((index - before) as usize)
    }
}

/// The states of all messages of a run.
#[derive(Debug)]
pub(super) struct Leases {
    streams: Vec<Words>,
}

impl Leases {
    /// Creates the states of a run with this many streams.
    pub(super) fn new(streams: u32) -> Self {
        Self { streams: (0..streams).map(|_| Words(std::array::from_fn(|_| OnceLock::new()))).collect() }
    }

    /// Returns whether the run can have such a message.
    pub(super) fn knows(&self, stream: u32, sequence: u64) -> bool {
        (stream as usize) < self.streams.len() && sequence < 1 << 47
    }

    /// Records that a worker has claimed messages.
    pub(super) fn lease(&self, span: &Span) -> Overlap {
        let mut overlap = Overlap::default();
        self.each(span, |word, mask| {
            let leased = word.leased.fetch_or(mask, Ordering::AcqRel) & mask;
            let confirmed = word.confirmed.load(Ordering::Acquire) & mask;
            overlap.twice += u64::from((leased & !confirmed).count_ones());
            overlap.again += u64::from(confirmed.count_ones());
        });
        overlap
    }

    /// Records that a claim of messages is over and they are not acknowledged, so that others may get them.
    pub(super) fn release(&self, span: &Span) {
        self.each(span, |word, mask| {
            word.leased.fetch_and(!mask, Ordering::AcqRel);
        });
    }

    /// Records that messages are acknowledged for good. Returns how many of them were not before.
    pub(super) fn confirm(&self, span: &Span) -> u64 {
        let mut fresh = 0;
        self.each(span, |word, mask| {
            let before = word.confirmed.fetch_or(mask, Ordering::AcqRel);
            fresh += u64::from((mask & !before).count_ones());
            word.leased.fetch_and(!mask, Ordering::AcqRel);
        });
        fresh
    }

    /// Calls `each` with every word that has messages of the span, and the mask of these.
    fn each(&self, span: &Span, mut each: impl FnMut(&Word, u64)) {
        let Some(words) = self.streams.get(span.stream as usize) else { return };
        let (mut at, end) = (span.first, span.first + span.count);
        while at < end {
            let until = end.min((at | 63) + 1);
            let mask = (u64::MAX >> (64 - (until - at))) << (at & 63);
            if let Some(word) = words.get(at >> 6) {
                each(word, mask);
            }
            at = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn span(first: u64, count: u64) -> Span {
        Span { stream: 0, first, count, number: 1 }
    }

    #[test]
    fn a_message_that_two_workers_have_is_found() {
        let leases = Leases::new(1);
        assert_eq!(leases.lease(&span(10, 100)), Overlap::default());
        assert_eq!(leases.lease(&span(100, 20)), Overlap { twice: 10, again: 0 });
        let other = Leases::new(2);
        other.lease(&span(10, 100));
        assert_eq!(other.lease(&Span { stream: 1, ..span(10, 100) }), Overlap::default(), "another stream");
    }

    #[test]
    fn a_message_that_comes_again_after_its_acknowledgement_is_found() {
        let leases = Leases::new(1);
        leases.lease(&span(0, 64));
        assert_eq!(leases.confirm(&span(0, 64)), 64);
        assert_eq!(leases.confirm(&span(0, 64)), 0);
        assert_eq!(leases.lease(&span(63, 2)), Overlap { twice: 0, again: 1 });
    }

    #[test]
    fn a_claim_that_is_over_may_be_followed_by_another() {
        let leases = Leases::new(1);
        leases.lease(&span(5, 3));
        leases.release(&span(5, 3));
        assert_eq!(leases.lease(&span(5, 3)), Overlap::default());
    }

    #[test]
    fn messages_out_of_reach_are_not_known() {
        let leases = Leases::new(1);
        assert!(leases.knows(0, 0) && !leases.knows(1, 0) && !leases.knows(0, u64::MAX));
        // Beyond the last chunk, nothing is recorded, and nothing panics.
        leases.lease(&span(1 << 62, 3));
    }

    proptest! {
        #[test]
        fn bits_match_a_set(steps in proptest::collection::vec((0u8..3, 0u64..200_000, 1u64..300), 1..60)) {
            let leases = Leases::new(1);
            let (mut leased, mut confirmed) = (BTreeSet::new(), BTreeSet::new());
            for (what, first, count) in steps {
                let all: BTreeSet<u64> = (first..first + count).collect();
                match what {
                    0 => {
                        let again = all.intersection(&confirmed).count() as u64;
                        let twice = all.intersection(&leased).filter(|one| !confirmed.contains(*one)).count() as u64;
                        prop_assert_eq!(leases.lease(&span(first, count)), Overlap { twice, again });
                        leased.extend(all);
                    }
                    1 => {
                        leases.release(&span(first, count));
                        leased.retain(|one| !all.contains(one));
                    }
                    _ => {
                        let fresh = all.difference(&confirmed).count() as u64;
                        prop_assert_eq!(leases.confirm(&span(first, count)), fresh);
                        leased.retain(|one| !all.contains(one));
                        confirmed.extend(all);
                    }
                }
            }
        }
    }
}

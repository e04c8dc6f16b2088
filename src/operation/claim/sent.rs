//! The claims that were sent: which messages the numbers stand for, and which of them are not settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use super::bits::Bits;
use crate::base::claim::LeaseId;
use crate::base::millis::Millis;
use crate::base::units::{Offset, Partition};

/// The memory of a claim in the table, in bytes: its entry, and its place among those that are due or over. Its runs
/// and more than 64 messages take more.
const CLAIM_BYTES: usize = 176;

/// The most ranges of forgotten numbers. With more, the numbers between the two oldest count as forgotten, too.
const FORGOTTEN_MAX: usize = 1_024;

/// Consecutive messages of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The index of the first of them in the claim.
    pub(super) index: u32,
    /// Its offset.
    pub(super) offset: Offset,
}

/// A claim as it was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) partition: Partition,
    pub(super) lease: LeaseId,
    /// When the last of its leases ends.
    ends: Millis,
    is_over: bool,
    /// The number of messages, and how many of them are not settled.
    count: u32,
    left: u32,
    unsettled: Bits,
    first: Offset,
    /// All runs but the first, which begins at `first`.
    more: Box<[Run]>,
}

/// Consecutive messages with their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The number of the first message.
    pub(super) number: u64,
    pub(super) offsets: Range<Offset>,
}

/// Messages of one claim that a request settles.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) partition: Partition,
    pub(super) lease: LeaseId,
    pub(super) pieces: Vec<Piece>,
}

/// What happens to messages in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// They are settled.
    Settle,
    /// Their lease ends then.
    Renew(Millis),
}

/// The claims that were sent and are not settled, by the number of their first message.
#[derive(Debug, Default)]
pub(super) struct SentClaims {
    claims: BTreeMap<u64, Sent>,
    /// The claims whose lease is not over, by its end.
    due: BTreeSet<(Millis, u64)>,
    /// The claims whose lease is over.
    over: BTreeSet<u64>,
    /// The number of unsettled messages in `due`, and in `over`.
    leased: u64,
    lapsed: u64,
    /// Numbers whose claims were forgotten before they were settled, ascending.
    forgotten: VecDeque<Range<u64>>,
    /// The heap memory of all claims.
    heap_bytes: usize,
}

impl Sent {
    /// Creates a claim. `runs` are its messages, ascending; at least one.
    pub(super) fn new(
        partition: Partition,
        lease: LeaseId,
        ends: Millis,
        runs: impl IntoIterator<Item = Range<Offset>>,
    ) -> Self {
        let (mut index, mut end): (u32, Option<Offset>) = (0, None);
        let mut all: Vec<Run> = Vec::new();
        for offsets in runs {
            if end != Some(offsets.start) {
                all.push(Run { index, offset: offsets.start });
            }
            index += offsets.end.since(offsets.start) as u32;
            end = Some(offsets.end);
        }
        let first = all.first().map_or(Offset::ZERO, |run| run.offset);
        let more = all.into_iter().skip(1).collect();
        let unsettled = Bits::full(index);
        Self { partition, lease, ends, is_over: false, count: index, left: index, unsettled, first, more }
    }

    fn heap_bytes(&self) -> usize {
        self.unsettled.heap_bytes() + size_of_val(&self.more[..])
    }

    /// Appends the messages with these indexes to `pieces`. `number` is that of the claim's first message.
    fn append(&self, indexes: Range<u32>, number: u64, pieces: &mut Vec<Piece>) {
        let mut next = self.more.partition_point(|run| run.index <= indexes.start);
        let mut at = indexes.start;
        while at < indexes.end {
            let run = match next.checked_sub(1) {
                None => Run { index: 0, offset: self.first },
                Some(before) => self.more[before],
            };
            let end = self.more.get(next).map_or(indexes.end, |run| run.index.min(indexes.end));
            let offset = run.offset + u64::from(at - run.index);
            let offsets = offset..offset + u64::from(end - at);
            let number = number + u64::from(at);
            match pieces.last_mut() {
                Some(last)
                    if last.offsets.end == offsets.start
                        && last.number + last.offsets.end.since(last.offsets.start) == number =>
                {
                    last.offsets.end = offsets.end;
                }
                _ => pieces.push(Piece { number, offsets }),
            }
            (at, next) = (end, next + 1);
        }
    }
}

impl SentClaims {
    /// Adds a claim. `number` is that of its first message.
    pub(super) fn insert(&mut self, number: u64, sent: Sent) {
        self.leased += u64::from(sent.left);
        self.heap_bytes += sent.heap_bytes();
        self.due.insert((sent.ends, number));
        self.claims.insert(number, sent);
    }

    /// Returns the number of messages that are leased and not settled.
    pub(super) fn leased(&self) -> u64 {
        self.leased
    }

    /// Returns when the next lease ends.
    pub(super) fn next_end(&self) -> Option<Millis> {
        self.due.first().map(|(ends, _)| *ends)
    }

    /// Returns the memory of the table, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.claims.len() * CLAIM_BYTES + self.heap_bytes
    }

    /// Handles the passing of time. Of the messages whose lease is over, forgets the oldest beyond `lapsed_max`.
    pub(super) fn expire(&mut self, now: Millis, lapsed_max: u64) {
        while let Some((ends, number)) = self.due.first().copied()
            && ends <= now
        {
            self.due.pop_first();
            let Some(sent) = self.claims.get_mut(&number) else { continue };
            sent.is_over = true;
            self.over.insert(number);
            self.leased -= u64::from(sent.left);
            self.lapsed += u64::from(sent.left);
        }
        while self.lapsed > lapsed_max
            && let Some(number) = self.over.pop_first()
        {
            let Some(sent) = self.claims.remove(&number) else { continue };
            self.lapsed -= u64::from(sent.left);
            self.heap_bytes -= sent.heap_bytes();
            let mut at = 0;
            while let Some(run) = sent.unsettled.run(at..sent.count) {
                self.forget(number + u64::from(run.start)..number + u64::from(run.end));
                at = run.end;
            }
        }
    }

    /// Adds numbers to the forgotten ones.
    fn forget(&mut self, numbers: Range<u64>) {
        // Claims are forgotten in the order of their numbers, but for those that were renewed.
        let at = self.forgotten.partition_point(|range| range.end < numbers.start);
        let mut whole = numbers;
        while let Some(range) = self.forgotten.get(at).filter(|range| range.start <= whole.end) {
            whole = whole.start.min(range.start)..whole.end.max(range.end);
            self.forgotten.remove(at);
        }
        self.forgotten.insert(at, whole);
        if self.forgotten.len() > FORGOTTEN_MAX
            && let Some(oldest) = self.forgotten.pop_front()
            && let Some(next) = self.forgotten.front_mut()
        {
            next.start = oldest.start;
        }
    }

    /// Appends those of `numbers` that were forgotten to `lost`.
    pub(super) fn forgotten(&self, numbers: &Range<u64>, lost: &mut Vec<Range<u64>>) {
        let at = self.forgotten.partition_point(|range| range.end <= numbers.start);
        let touched = self.forgotten.range(at..).take_while(|range| range.start < numbers.end);
        lost.extend(touched.map(|range| range.start.max(numbers.start)..range.end.min(numbers.end)));
    }

    /// Changes those of `numbers` that are not settled. Calls `each` with those of each claim, in order.
    pub(super) fn change(&mut self, numbers: Range<u64>, change: Change, mut each: impl FnMut(Part)) {
        let before = self.claims.range(..numbers.start).next_back();
        let from = before.map_or(numbers.start, |(number, _)| *number);
        let mut settled = Vec::new();
        for (number, sent) in self.claims.range_mut(from..numbers.end) {
            let index = |of: u64| of.saturating_sub(*number).min(u64::from(sent.count)) as u32;
            let (mut at, end) = (index(numbers.start), index(numbers.end));
            let mut pieces = Vec::new();
            let mut count = 0;
            while let Some(run) = sent.unsettled.run(at..end) {
                sent.append(run.clone(), *number, &mut pieces);
                count += run.end - run.start;
                at = run.end;
            }
            if count == 0 {
                continue;
            }
            let (partition, lease) = (sent.partition, sent.lease);
            match change {
                Change::Settle => {
                    sent.unsettled.remove(index(numbers.start)..end);
                    sent.left -= count;
                    *(if sent.is_over { &mut self.lapsed } else { &mut self.leased }) -= u64::from(count);
                    if sent.left == 0 {
                        settled.push(*number);
                    }
                }
                Change::Renew(ends) => {
                    if std::mem::take(&mut sent.is_over) {
                        self.over.remove(number);
                        self.lapsed -= u64::from(sent.left);
                        self.leased += u64::from(sent.left);
                        sent.ends = ends;
                    } else {
                        self.due.remove(&(sent.ends, *number));
                        // A renewal of all that is left may shorten the lease.
                        sent.ends = if count == sent.left { ends } else { ends.max(sent.ends) };
                    }
                    self.due.insert((sent.ends, *number));
                }
            }
            each(Part { partition, lease, pieces });
        }
        for number in settled {
            if let Some(sent) = self.claims.remove(&number) {
                self.heap_bytes -= sent.heap_bytes();
                self.due.remove(&(sent.ends, number));
                self.over.remove(&number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "the ranges are the elements")]

    use super::*;
    use proptest::prelude::*;

    const WINDOW: u64 = 40;

    fn sent(ends: Millis, runs: &[Range<u64>]) -> Sent {
        let offsets = |run: &Range<u64>| Offset(run.start)..Offset(run.end);
        Sent::new(Partition(1), LeaseId(5), ends, runs.iter().map(offsets))
    }

    fn changed(claims: &mut SentClaims, numbers: Range<u64>, change: Change) -> Vec<(u64, Range<u64>)> {
        let mut all = Vec::new();
        claims.change(numbers, change, |part| {
            let piece = |piece: Piece| (piece.number, piece.offsets.start.0..piece.offsets.end.0);
            all.extend(part.pieces.into_iter().map(piece));
        });
        all
    }

    #[test]
    fn numbers_become_offsets_and_count_once() {
        let mut claims = SentClaims::default();
        claims.insert(11, sent(Millis::new(9), &[3..5, 5..6, 8..10]));
        assert_eq!(changed(&mut claims, 12..15, Change::Settle), [(12, 4..6), (14, 8..9)]);
        assert_eq!(changed(&mut claims, 1..99, Change::Settle), [(11, 3..4), (15, 9..10)]);
        assert_eq!(changed(&mut claims, 1..99, Change::Settle), []);
        assert_eq!((claims.leased(), claims.bytes(), claims.next_end()), (0, 0, None), "nothing stays");
        claims.insert(16, sent(Millis::new(9), &[20..22]));
        assert_eq!(changed(&mut claims, 16..18, Change::Settle), [(16, 20..22)]);
    }

    #[test]
    fn a_renewal_extends_a_lease_and_revives_one_that_is_over() {
        let mut claims = SentClaims::default();
        claims.insert(1, sent(Millis::new(9), &[0..4]));
        claims.expire(Millis::new(9), WINDOW);
        assert_eq!(claims.leased(), 0);
        assert_eq!(changed(&mut claims, 2..3, Change::Renew(Millis::new(20))), [(2, 1..2)]);
        assert_eq!((claims.leased(), claims.next_end()), (4, Some(Millis::new(20))));
        changed(&mut claims, 2..3, Change::Renew(Millis::new(15)));
        assert_eq!(claims.next_end(), Some(Millis::new(20)), "the others still have the longer lease");
        changed(&mut claims, 1..5, Change::Renew(Millis::new(15)));
        assert_eq!(claims.next_end(), Some(Millis::new(15)));
        assert_eq!(changed(&mut claims, 1..5, Change::Settle).len(), 1);
    }

    #[test]
    fn only_the_oldest_claims_are_forgotten_and_their_unsettled_numbers_are_lost() {
        let mut claims = SentClaims::default();
        for claim in 0..5 {
            claims.insert(1 + 20 * claim, sent(Millis::new(claim), &[100 * claim..100 * claim + 20]));
        }
        changed(&mut claims, 3..5, Change::Settle);
        claims.expire(Millis::new(3), WINDOW);
        let mut lost = Vec::new();
        claims.forgotten(&(2..50), &mut lost);
        assert_eq!(lost, [2..3, 5..41]);
        assert_eq!(changed(&mut claims, 1..41, Change::Settle), []);
        assert_eq!(changed(&mut claims, 41..42, Change::Settle).len(), 1, "it is over, and known");
    }

    #[test]
    fn the_memory_of_forgotten_numbers_is_bounded() {
        let mut claims = SentClaims::default();
        (0..3 * FORGOTTEN_MAX as u64).for_each(|index| claims.forget(10 * index..10 * index + 1));
        assert_eq!(claims.forgotten.len(), FORGOTTEN_MAX);
        let mut lost = Vec::new();
        claims.forgotten(&(0..10), &mut lost);
        assert_eq!(lost, [0..10], "what may have been forgotten counts as lost");
    }

    #[test]
    fn a_message_takes_little_memory() {
        let mut claims = SentClaims::default();
        for claim in 0..100u64 {
            claims.insert(1 + 100 * claim, sent(Millis::new(claim), &[0..100]));
        }
        assert!(claims.bytes() <= 4 * 10_000, "{}", claims.bytes());
        let mut worst = SentClaims::default();
        worst.insert(1, sent(Millis::ZERO, &[0..1]));
        assert!(worst.bytes() <= 256);
        let holes: Vec<Range<u64>> = (0..1_000).map(|offset| 2 * offset..2 * offset + 1).collect();
        worst.insert(2, sent(Millis::ZERO, &holes));
        assert!(worst.bytes() <= 1_001 * 256);
        // The entry, its share of a node of the tree that is half full, and its place among those that are due.
        assert!(
            size_of::<Sent>() + 8 <= CLAIM_BYTES / 2 && size_of::<(Millis, u64)>() * 2 <= CLAIM_BYTES / 2
        );
    }

    proptest! {
        #[test]
        fn every_number_is_settled_once_and_the_counts_are_right(
            sizes in proptest::collection::vec(1u64..90, 1..8),
            steps in proptest::collection::vec((0u8..4, 1u64..300, 1u64..100), 0..60),
        ) {
            let mut claims = SentClaims::default();
            let mut number = 1;
            // For each number: whether it is not settled, and the end of its claim's lease.
            let mut model: BTreeMap<u64, (bool, u64)> = BTreeMap::new();
            for (index, size) in sizes.iter().enumerate() {
                let ends = 10 + index as u64;
                claims.insert(number, sent(Millis::new(ends), &[7 * number..7 * number + size]));
                (number..number + size).for_each(|of| { model.insert(of, (true, ends)); });
                number += size;
            }
            let mut now = 0;
            for (step, start, count) in steps {
                let numbers = start..start + count;
                match step {
                    0 => now += count / 20,
                    _ => {
                        let got: u64 = changed(&mut claims, numbers.clone(), Change::Settle).iter().map(|(_, offsets)| offsets.end - offsets.start).sum();
                        let mut wanted = 0;
                        for (_, (unsettled, _)) in model.range_mut(numbers) {
                            wanted += u64::from(std::mem::take(unsettled));
                        }
                        prop_assert_eq!(got, wanted);
                    }
                }
                claims.expire(Millis::new(now), u64::MAX);
                let leased = model.values().filter(|(unsettled, ends)| *unsettled && *ends > now).count() as u64;
                prop_assert_eq!(claims.leased(), leased);
            }
        }
    }
}

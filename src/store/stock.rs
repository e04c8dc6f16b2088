//! What a partition holds, by offset: how many messages of how many bytes, until when they live, and from when on claims
//! see them. Answers without reading a message.
//!
//! A portion is a stretch of messages that expire in the same minute. A queue whose messages have one TTL has a portion
//! for each minute in which some were stored.

use std::ops::Range;

use crate::base::millis::UnixMillis;
use crate::base::units::Offset;

/// The most portions of a stock: that of a partition in memory, or in the segment that is being written. They take 64 bytes
/// each, 16 KiB in all. Beyond, neighbours become one portion, which expires with the last of its messages.
pub const PORTIONS_MAX: usize = 256;

/// Once a segment is sealed, a partition has a portion there for each of so many bytes at most, and [`PORTIONS_MIN`] in
/// any case. So they take at most 1/64 of what the messages take on the disk, and 512 bytes.
const PORTION_BYTES_MIN: u64 = 4096;
const PORTIONS_MIN: usize = 8;

/// Times from which claims see messages are rounded up to a multiple of this, in milliseconds.
const VISIBLE_STEP: u64 = 100;

const MINUTE_MS: u64 = 60_000;

/// A minute of the wall clock, counted from the Unix epoch. [`Minute::UNKNOWN`] never passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minute(pub u32);

impl Minute {
    /// An unknown minute.
    pub const UNKNOWN: Self = Self(0);

    /// Returns the first minute that begins at a time or later.
    pub fn from(unix: UnixMillis) -> Self {
        Self(u32::try_from(unix.get().div_ceil(MINUTE_MS)).unwrap_or(u32::MAX).max(1))
    }

    /// Returns whether it has begun.
    pub fn has_begun(self, unix: UnixMillis) -> bool {
        self != Self::UNKNOWN && u64::from(self.0) * MINUTE_MS <= unix.get()
    }
}

/// A stretch of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// The offset of its first message.
    pub first: Offset,
    /// The offset after its last message.
    pub end: Offset,
    /// The number of its messages.
    pub messages: u64,
    /// Their size in stored form, in bytes.
    pub bytes: u64,
    /// They have expired when this minute begins.
    pub expires: Minute,
    /// When claims see them; 0 if they always did.
    pub visible: UnixMillis,
    /// When its first message was stored.
    pub oldest: UnixMillis,
    /// When its last message was stored.
    pub newest: UnixMillis,
}

impl Portion {
    /// Creates the portion of a batch that was stored at `timestamp`.
    pub fn of_batch(
        offsets: Range<Offset>,
        bytes: u64,
        timestamp: UnixMillis,
        expiry: UnixMillis,
        visible: UnixMillis,
    ) -> Self {
        let Range { start: first, end } = offsets;
        let visible = match visible > timestamp {
            true => UnixMillis::new(visible.get().next_multiple_of(VISIBLE_STEP)),
            false => UnixMillis::ZERO,
        };
        let (messages, expires) = (end.saturating_since(first), Minute::from(expiry));
        Self { first, end, messages, bytes, expires, visible, oldest: timestamp, newest: timestamp }
    }

    /// Returns the part that lies in a range. Its messages have the mean size of all.
    pub fn part(&self, range: &Range<Offset>) -> Option<Self> {
        let (first, end) = (self.first.max(range.start), self.end.min(range.end));
        if first >= end {
            return None;
        }
        let share = |of: u64| {
            let below = |offset: Offset| part_of(of, offset.since(self.first), self.end.since(self.first));
            below(end) - below(first)
        };
        Some(Self { first, end, messages: share(self.messages), bytes: share(self.bytes), ..*self })
    }

    /// Joins the next portion.
    fn join(&mut self, next: &Self) {
        self.end = next.end;
        self.messages += next.messages;
        self.bytes += next.bytes;
        self.expires = self.expires.max(next.expires);
        self.visible = self.visible.min(next.visible);
        self.newest = next.newest;
    }
}

/// Returns the part of `whole` that `count` of `all` have.
pub(in crate::store) fn part_of(whole: u64, count: u64, all: u64) -> u64 {
    match u128::from(all) {
        0 => 0,
        all => u64::try_from(u128::from(whole) * u128::from(count) / all).unwrap_or(u64::MAX),
    }
}

/// What a partition holds from an offset on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Messages that claims see.
    pub visible: u64,
    /// Messages that claims see later.
    pub delayed: u64,
    /// Their size in stored form, in bytes.
    pub bytes: u64,
    /// The first of them, and when it was stored if that is known.
    pub oldest: Option<(Offset, Option<UnixMillis>)>,
    /// The last of them, and when it was stored if that is known.
    pub newest: Option<(Offset, Option<UnixMillis>)>,
    /// From the first offset of the partition that is stored to its end, whatever has expired.
    pub stored: Range<Offset>,
}

impl Holding {
    /// Adds the next portion from an offset on, unless it has expired.
    fn add(&mut self, portion: &Portion, from: Offset, unix: UnixMillis) {
        if portion.expires.has_begun(unix) {
            return;
        }
        let Some(part) = portion.part(&(from..portion.end)) else { return };
        *(if part.visible > unix { &mut self.delayed } else { &mut self.visible }) += part.messages;
        self.bytes += part.bytes;
        let stored = (part.first == portion.first).then_some(portion.oldest);
        self.oldest.get_or_insert((part.first, stored));
        self.newest = Some((part.end.previous(), Some(part.newest)));
    }
}

/// The portions of a partition, or of a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock(Vec<Portion>);

impl Stock {
    /// Creates a stock of ascending portions.
    pub fn new(portions: Vec<Portion>) -> Self {
        Self(portions)
    }

    /// Returns the portions, ascending.
    pub fn portions(&self) -> &[Portion] {
        &self.0
    }

    /// Adds the messages of the next batch.
    #[inline]
    pub fn push(&mut self, next: Portion) {
        match self.0.last_mut() {
            Some(last) if has_same_life(last, &next) && has_same_size(last, &next) => last.join(&next),
            _ => {
                if self.0.len() >= PORTIONS_MAX {
                    self.thin(next.oldest, PORTIONS_MAX / 4 * 3);
                }
                self.0.push(next);
            }
        }
    }

    /// Joins portions of a span of this size that no longer grows.
    pub fn seal(&mut self, bytes: u64) {
        let most = usize::try_from(bytes / PORTION_BYTES_MIN).unwrap_or(PORTIONS_MAX);
        let newest = self.0.last().map_or(UnixMillis::ZERO, |last| last.newest);
        self.thin(newest, most.clamp(PORTIONS_MIN, PORTIONS_MAX));
        self.0.shrink_to_fit();
    }

    /// Joins portions until there are at most `most`.
    #[cold]
    fn thin(&mut self, unix: UnixMillis, most: usize) {
        for portion in &mut self.0 {
            if portion.visible <= unix {
                portion.visible = UnixMillis::ZERO;
            }
        }
        self.join(has_same_life);
        while self.0.len() > most {
            let mut is_second = true;
            self.join(|_, _| {
                is_second = !is_second;
                !is_second
            });
        }
    }

    /// Joins neighbours for which `are_one` returns true.
    fn join(&mut self, mut are_one: impl FnMut(&Portion, &Portion) -> bool) {
        self.0.dedup_by(|next, before| {
            let is_one = are_one(before, next);
            if is_one {
                before.join(next);
            }
            is_one
        });
    }

    /// Subtracts a batch that was removed.
    pub fn remove(&mut self, batch: Range<Offset>, bytes: u64) {
        // Most batches are removed from the beginning.
        let index = match self.0.first() {
            Some(first) if first.end > batch.start => 0,
            _ => self.0.partition_point(|portion| portion.end <= batch.start),
        };
        let Some(portion) = self.0.get_mut(index) else { return };
        portion.messages = portion.messages.saturating_sub(batch.end.saturating_since(batch.start));
        portion.bytes = portion.bytes.saturating_sub(bytes);
        if portion.messages == 0 {
            self.0.remove(index);
        } else if portion.first == batch.start {
            portion.first = batch.end;
        }
    }

    /// Adds what it holds from an offset on.
    pub fn add_to(&self, holding: &mut Holding, from: Offset, unix: UnixMillis) {
        let begins = self.0.partition_point(|portion| portion.end <= from);
        self.0[begins..].iter().for_each(|portion| holding.add(portion, from, unix));
    }

    /// Calls `each` with the parts that lie in a range.
    pub fn each(&self, range: &Range<Offset>, each: &mut dyn FnMut(Portion)) {
        let begins = self.0.partition_point(|portion| portion.end <= range.start);
        let portions = self.0[begins..].iter().take_while(|portion| portion.first < range.end);
        portions.filter_map(|portion| portion.part(range)).for_each(each);
    }

    /// Returns what lies in a range.
    pub fn part(&self, range: &Range<Offset>) -> Self {
        let mut portions = Vec::new();
        self.each(range, &mut |part| portions.push(part));
        Self(portions)
    }

    /// Records that everything was stored at `unix` or earlier. The messages live as long as before from then on.
    pub fn cap(&mut self, unix: UnixMillis) {
        for portion in self.0.iter_mut().filter(|portion| portion.newest > unix) {
            let ahead = portion.oldest.since(unix.min(portion.oldest));
            let minutes = ahead.get() / MINUTE_MS;
            portion.expires.0 =
                portion.expires.0.saturating_sub(u32::try_from(minutes).unwrap_or(u32::MAX)).max(1);
            portion.visible = portion.visible.saturating_sub(ahead);
            (portion.oldest, portion.newest) = (portion.oldest.min(unix), unix);
        }
    }
}

/// Returns whether the messages of two neighbours live from and to the same times.
#[inline]
fn has_same_life(one: &Portion, next: &Portion) -> bool {
    one.end == next.first && one.expires == next.expires && one.visible == next.visible
}

/// Returns whether the messages of two portions have the same mean size, so that parts of both have the right size.
#[inline]
fn has_same_size(one: &Portion, next: &Portion) -> bool {
    u128::from(one.bytes) * u128::from(next.messages) == u128::from(next.bytes) * u128::from(one.messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(first: u64, count: u64, bytes: u64, minute: u64, visible: u64) -> Portion {
        let expiry = UnixMillis::new(minute * MINUTE_MS);
        let offsets = Offset(first)..Offset(first + count);
        Portion::of_batch(offsets, bytes, UnixMillis::new(first), expiry, UnixMillis::new(visible))
    }

    proptest! {
        #[test]
        fn a_stock_counts_as_its_batches_do(
            batches in proptest::collection::vec((0u64..3, 1u64..5, 0u64..50, 2u64..6, 0u64..3), 0..40),
            removed in proptest::collection::vec(any::<proptest::sample::Index>(), 0..10),
            minute in 0u64..7,
            from in any::<proptest::sample::Index>(),
        ) {
            let (mut stock, mut at, mut all) = (Stock::default(), 0, Vec::new());
            for (gap, count, bytes, minute, visible) in batches {
                let batch = batch(at + gap, count, bytes, minute, visible * 90_000);
                at += gap + count;
                stock.push(batch);
                all.push(batch);
            }
            for index in removed {
                if !all.is_empty() {
                    let batch: Portion = all.remove(index.index(all.len()));
                    stock.remove(batch.first..batch.end, batch.bytes);
                }
            }
            let unix = UnixMillis::new(minute * MINUTE_MS);
            // From the beginning of a batch, the numbers of messages are exact, and so are the bytes of everything.
            let live = |batch: &&Portion| batch.expires.0 > minute as u32;
            let from = if all.is_empty() { 0 } else { from.index(all.len()) };
            for from in [0, from] {
                let first = all.get(from).map_or(Offset::ZERO, |batch| batch.first);
                let mut holding = Holding::default();
                stock.add_to(&mut holding, if from == 0 { Offset::ZERO } else { first }, unix);
                let expected = all[from..].iter().filter(live);
                let messages: u64 = expected.clone().map(|batch| batch.messages).sum();
                let delayed = expected.clone().filter(|batch| batch.visible > unix);
                if from == 0 {
                    prop_assert_eq!(holding.visible + holding.delayed, messages);
                    prop_assert_eq!(holding.delayed, delayed.map(|batch| batch.messages).sum::<u64>());
                    prop_assert_eq!(holding.bytes, expected.map(|batch| batch.bytes).sum::<u64>());
                } else {
                    // Batches that were removed from the middle count as the mean of their neighbours.
                    prop_assert!(holding.visible + holding.delayed <= all.iter().map(|batch| batch.messages).sum());
                }
            }
        }
    }

    #[test]
    fn a_full_stock_joins_neighbours_and_keeps_the_totals() {
        let mut stock = Stock::default();
        for number in 0..10_000 {
            stock.push(batch(number * 2, 2, 7, 5 + number % 2, 0));
            assert!(stock.portions().len() <= PORTIONS_MAX);
        }
        let mut holding = Holding::default();
        stock.add_to(&mut holding, Offset::ZERO, UnixMillis::ZERO);
        assert_eq!((holding.visible, holding.bytes), (20_000, 70_000));
        let mut rest = Holding::default();
        stock.add_to(&mut rest, Offset(19_001), UnixMillis::ZERO);
        assert_eq!(rest.visible, 999);
        stock.add_to(&mut rest, Offset::ZERO, UnixMillis::new(6 * MINUTE_MS));
        assert_eq!(rest.visible, 999, "everything has expired");
    }

    #[test]
    fn messages_become_visible_and_the_parts_of_a_portion_add_up() {
        let mut stock = Stock::default();
        stock.push(batch(0, 10, 101, 9, 0));
        stock.push(batch(10, 10, 100, 9, 1_050));
        let at = |unix: u64, from: u64| {
            let mut holding = Holding::default();
            stock.add_to(&mut holding, Offset(from), UnixMillis::new(unix));
            holding
        };
        assert_eq!((at(1_049, 0).visible, at(1_049, 0).delayed), (10, 10));
        assert_eq!((at(1_100, 0).visible, at(1_100, 0).delayed), (20, 0));
        let mut bytes = 0;
        for first in 0..10 {
            stock.each(&(Offset(first)..Offset(first + 1)), &mut |part| bytes += part.bytes);
        }
        assert_eq!(bytes, 101);
        assert_eq!(at(0, 0).oldest, Some((Offset(0), Some(UnixMillis::ZERO))));
        assert_eq!(at(0, 1).oldest, Some((Offset(1), None)));
        assert_eq!(at(0, 1).newest, Some((Offset(19), Some(UnixMillis::new(10)))));
    }
}

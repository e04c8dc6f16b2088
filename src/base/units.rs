//! Numbers that must not be mixed up, each with a type of its own.
//!
//! Each has the size of the number inside, and prints as that number. Only debug builds check `+` and `since`
//! for overflow. Use the saturating methods for values that a peer or a file chooses.

use std::fmt;
use std::ops::{Add, AddAssign};

/// A message's position in its partition, from 0. The end of a partition or a batch is an offset, too: the
/// one after its last message.
///
/// A position in a file is a number of bytes, not an `Offset`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Offset(pub u64);

/// A partition's number in its queue, from 0.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Partition(pub u16);

/// Marks a partition that holds the state of another one.
const STATE_BIT: u16 = 1 << 15;

/// The number of a batch in its produce operation, from 0. Batches that are closed together share a number,
/// and each refusal takes one.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Sequence(pub u64);

/// A message's number in its operation: from 1, in the order sent (protocol section 4). 0 is before the
/// first. Never negative.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct MsgNum(i64);

impl Offset {
    /// The first offset of a partition.
    pub const ZERO: Self = Self(0);

    /// Returns the number of offsets from `earlier` up to this one. This one must not be before `earlier`.
    #[inline]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0 - earlier.0
    }

    /// Returns the number of offsets from `earlier` up to this one; 0 if this one is before it.
    #[inline]
    pub const fn saturating_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the offset `count` later, at most `u64::MAX`.
    #[inline]
    #[must_use]
    pub const fn saturating_add(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// Returns the offset before this one. This one must not be the first.
    #[inline]
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0 - 1)
    }

    /// Returns the next `count` offsets, this one included.
    #[inline]
    pub fn following(self, count: u64) -> impl Iterator<Item = Self> {
        (self.0..self.0 + count).map(Self)
    }
}

impl Add<u64> for Offset {
    type Output = Self;

    #[inline]
    fn add(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl AddAssign<u64> for Offset {
    #[inline]
    fn add_assign(&mut self, count: u64) {
        self.0 += count;
    }
}

impl Partition {
    /// Returns all partitions of a queue that has `count`.
    #[inline]
    pub fn all(count: u16) -> impl Iterator<Item = Self> {
        (0..count).map(Self)
    }

    /// Returns the hidden partition that holds the state of this one's claims. It has no number on the wire.
    #[inline]
    #[must_use]
    pub const fn state(self) -> Self {
        Self(self.0 | STATE_BIT)
    }

    /// Returns the partition whose state this one holds; `None` if it holds messages.
    #[inline]
    pub const fn of_state(self) -> Option<Self> {
        if self.0 & STATE_BIT == 0 { None } else { Some(Self(self.0 & !STATE_BIT)) }
    }

    /// Returns the index in a list with one entry for each partition of the queue.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Sequence {
    /// Returns the sequence number `count` later.
    #[inline]
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// Returns the distance from `first` up to this one; `None` if this one is before it.
    #[inline]
    pub const fn checked_since(self, first: Self) -> Option<u64> {
        self.0.checked_sub(first.0)
    }
}

impl MsgNum {
    /// The number before the first message's.
    pub const ZERO: Self = Self(0);

    /// Returns the number, at most `i64::MAX`: the wire holds no larger one.
    #[inline]
    pub const fn new(number: u64) -> Self {
        Self(if number > i64::MAX as u64 { i64::MAX } else { number as i64 })
    }

    /// Returns the number as sent on the wire.
    #[inline]
    pub const fn to_wire(self) -> i64 {
        self.0
    }

    /// Reads a number from the wire. An absent or negative number counts as 0.
    #[inline]
    pub fn from_wire(number: Option<i64>) -> Self {
        Self(number.unwrap_or(0).max(0))
    }

    /// Returns the number of messages after `earlier`, up to this one; 0 if this one is before it.
    #[inline]
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0 - earlier.0).unwrap_or(0)
    }

    /// Returns the number `count` later, at most `i64::MAX`.
    #[inline]
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(i64::try_from(count).unwrap_or(i64::MAX)))
    }
}

/// Prints only the number, so that texts do not depend on the names of types.
macro_rules! print_bare {
    ($($unit:ty),*) => {$(
        impl fmt::Display for $unit {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $unit {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}

print_bare!(Offset, Partition, Sequence, MsgNum);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_prints_only_its_number() {
        assert_eq!(format!("{} {:?} {:?}", Offset(7), Offset(7), Offset(2)..Offset(5)), "7 7 2..5");
        assert_eq!(
            format!("{} {:?} {:>3}", Partition(63), Some(Partition(0)), Partition(5)),
            "63 Some(0)   5"
        );
        assert_eq!(format!("{:?} {}", Sequence(4), MsgNum::new(101)), "4 101");
    }

    #[test]
    fn offsets_are_counted_from_one_to_another() {
        let offset = Offset(3) + 4;
        assert_eq!((offset, offset.since(Offset(3)), offset.previous()), (Offset(7), 4, Offset(6)));
        assert_eq!((Offset(3).saturating_since(offset), offset.saturating_since(Offset(3))), (0, 4));
        assert_eq!(Offset(u64::MAX).saturating_add(1), Offset(u64::MAX));
        assert_eq!(Offset(5).following(3).collect::<Vec<_>>(), [Offset(5), Offset(6), Offset(7)]);
    }

    #[test]
    fn a_partition_is_an_index_from_zero() {
        assert!(Partition::all(3).map(Partition::index).eq(0..3));
        assert_eq!(Partition::all(0).next(), None);
    }

    #[test]
    fn an_invalid_number_on_the_wire_counts_as_zero() {
        assert_eq!(MsgNum::from_wire(Some(i64::MIN)), MsgNum::ZERO);
        assert_eq!(MsgNum::from_wire(None), MsgNum::ZERO);
        let last = MsgNum::new(u64::MAX);
        assert_eq!((last.to_wire(), last.plus(1), MsgNum::ZERO.since(last)), (i64::MAX, last, 0));
    }

    #[test]
    fn a_sequence_before_the_first_is_none() {
        assert_eq!(Sequence(9).checked_since(Sequence(7)), Some(2));
        assert_eq!(Sequence(6).checked_since(Sequence(7)), None);
        assert_eq!(Sequence(6).plus(1), Sequence(7));
    }
}

//! What a segment may hold that earlier versions cannot read.
//!
//! A segment without such features has version 1, so that earlier versions read it. One with features has
//! version 2, and its header names them.

use std::fmt;
use std::ops::BitOr;

use crate::base::batch::{Batch, Shape};
use crate::base::units::Partition;

/// A set of features, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

/// The names of the features, by bit.
const NAMES: [&str; 6] = ["state", "delay", "produce sessions", "body formats", "headers", "grouped"];

impl Features {
    /// None: what version 1 can hold.
    pub const NONE: Self = Self(0);
    /// Batches of hidden partitions, which hold the state of claims.
    pub const STATE: Self = Self(1);
    /// Batches with a delay.
    pub const DELAY: Self = Self(1 << 1);
    /// Batches whose messages have headers.
    pub const HEADERS: Self = Self(1 << 4);
    /// The segment replaces others: see [`Grouped`](super::grouped::Grouped).
    pub const GROUPED: Self = Self(1 << 5);

    /// The features that this version reads and writes.
    pub const SUPPORTED: Self = Self(Self::STATE.0 | Self::DELAY.0 | Self::HEADERS.0 | Self::GROUPED.0);

    /// Returns what a batch of this partition needs.
    #[inline]
    pub fn of(partition: Partition, batch: &Batch) -> Self {
        let delay = if batch.delay_secs() > 0 { Self::DELAY } else { Self::NONE };
        let headers = if batch.shape() == Shape::Headers { Self::HEADERS } else { Self::NONE };
        Self::of_partition(partition) | delay | headers
    }

    /// Returns what anything of this partition needs.
    #[inline]
    pub fn of_partition(partition: Partition) -> Self {
        if partition.of_state().is_some() { Self::STATE } else { Self::NONE }
    }

    /// Returns whether all of `others` are among these.
    #[inline]
    pub const fn contains(self, others: Self) -> bool {
        others.without(self).0 == 0
    }

    /// Returns those that are not among `others`.
    #[inline]
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

impl BitOr for Features {
    type Output = Self;

    #[inline]
    fn bitor(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// Prints the names, or the numbers of bits without a name.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = (0..u64::BITS).filter(|bit| self.0 & 1 << bit != 0);
        for (index, bit) in bits.enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            match NAMES.get(bit as usize) {
                Some(name) => f.write_str(name)?,
                None => write!(f, "feature {bit}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_print_their_names_or_numbers() {
        assert_eq!(Features::SUPPORTED.to_string(), "state, delay, headers, grouped");
        assert_eq!(Features(1 << 2 | 1 << 63).to_string(), "produce sessions, feature 63");
        assert_eq!(Features::NONE.to_string(), "");
    }
}

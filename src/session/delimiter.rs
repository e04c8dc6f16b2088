//! Splits a half into pbs (protocol section 2): a varint of at most five bytes, then as many bytes.
//!
//! A whole pb is handed on where it lies. Of a cut one only the missing rest is waited for, in memory that was
//! reserved from the budget before the first byte of it was kept.

use crate::budget::Budget;
use crate::error::PeerFault;
use crate::limits::PB_LENGTH_BYTES_MAX;

/// What stands next in a half.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Nothing whole.
    More,
    /// One pb; as many bytes as it has are reserved, and now the caller's.
    Pb(&'a [u8]),
    /// The budget has no room for a pb of this length.
    Wait(usize),
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Delimiter {
    /// The length so far, and how many bytes of it came.
    length: u64,
    length_bytes: u8,
    /// The length is whole and checked.
    known: bool,
    /// As many bytes as the length says are reserved.
    reserved: bool,
    body: Vec<u8>,
    /// The body was handed on by the last call.
    handed: bool,
}

impl Delimiter {
    /// Looks for the next pb in `input`; returns how much of it was taken.
    #[inline]
    pub fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        max_pb_bytes: usize,
        budget: &mut Budget,
    ) -> Result<(usize, Step<'a>), PeerFault> {
        if self.handed {
            self.body = Vec::new();
            self.handed = false;
        }
        let mut used = 0;
        if !self.known {
            used = self.handle_length(input)?;
            if !self.known {
                return Ok((used, Step::More));
            }
            if self.length > max_pb_bytes as u64 {
                return Err(PeerFault::PbTooLarge { bytes: self.length, max: max_pb_bytes });
            }
        }
        let length = self.length as usize;
        if !self.reserve(budget) {
            return Ok((used, Step::Wait(length)));
        }
        let rest = &input[used..];
        let missing = length - self.body.len();
        if rest.len() < missing {
            if self.body.capacity() == 0 && !rest.is_empty() {
                self.body.reserve_exact(length);
            }
            self.body.extend_from_slice(rest);
            return Ok((input.len(), Step::More));
        }
        self.length = 0;
        self.length_bytes = 0;
        self.known = false;
        self.reserved = false;
        used += missing;
        if self.body.is_empty() {
            return Ok((used, Step::Pb(&rest[..missing])));
        }
        self.body.extend_from_slice(&rest[..missing]);
        self.handed = true;
        Ok((used, Step::Pb(&self.body)))
    }

    /// Reserves the bytes of the pb whose length is known; false where the budget has no room.
    pub fn reserve(&mut self, budget: &mut Budget) -> bool {
        // An empty pb needs nothing, and waits behind nobody.
        self.reserved = self.reserved || self.length == 0 || budget.try_reserve(self.length as usize);
        self.reserved
    }

    /// Whether a length or a pb has begun and not ended.
    pub fn is_inside(&self) -> bool {
        self.length_bytes > 0
    }

    /// Forgets what was begun, and gives back what was reserved for it.
    pub fn reset(&mut self, budget: &mut Budget) {
        if self.reserved {
            budget.release(self.length as usize);
        }
        *self = Self::default();
    }

    #[inline]
    fn handle_length(&mut self, input: &[u8]) -> Result<usize, PeerFault> {
        for (index, byte) in input.iter().enumerate() {
            self.length |= u64::from(byte & 0x7f) << (7 * self.length_bytes);
            self.length_bytes += 1;
            if byte & 0x80 == 0 {
                self.known = true;
                return Ok(index + 1);
            }
            if usize::from(self.length_bytes) == PB_LENGTH_BYTES_MAX {
                return Err(PeerFault::PbLength);
            }
        }
        Ok(input.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::wire::write_varint;
    use proptest::prelude::*;

    fn split(
        bytes: &[u8],
        cuts: &[usize],
        max: usize,
    ) -> (Vec<Vec<u8>>, Option<PeerFault>, Budget, Delimiter) {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(bytes.len());
        let (mut delimiter, mut budget, mut pbs) = (Delimiter::default(), Budget::new(1 << 20), Vec::new());
        let mut from = 0;
        for end in ends {
            let mut input = &bytes[from..end];
            from = end;
            loop {
                match delimiter.next(input, max, &mut budget) {
                    Ok((used, Step::Pb(pb))) => {
                        pbs.push(pb.to_vec());
                        budget.release(pb.len());
                        input = &input[used..];
                    }
                    Ok((used, Step::More)) => {
                        assert_eq!(used, input.len());
                        break;
                    }
                    Ok((_, Step::Wait(_))) => panic!("the budget is large"),
                    Err(fault) => return (pbs, Some(fault), budget, delimiter),
                }
            }
        }
        (pbs, None, budget, delimiter)
    }

    proptest! {
        #[test]
        fn every_way_of_cutting_gives_the_same_pbs(
            pbs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
            tail in 0usize..3,
        ) {
            let mut bytes = Vec::new();
            for pb in &pbs {
                write_varint(pb.len() as u64, &mut bytes);
                bytes.extend_from_slice(pb);
            }
            bytes.extend(std::iter::repeat_n(0x85, tail));
            let (split, fault, budget, delimiter) = split(&bytes, &cuts, 1000);
            prop_assert_eq!(split, pbs);
            prop_assert_eq!(fault, None);
            prop_assert_eq!(budget.reserved(), 0);
            prop_assert_eq!(delimiter.is_inside(), tail > 0);
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_kept() {
        let fault = |bytes: &[u8]| split(bytes, &[1, 2, 3], 1000).1;
        assert_eq!(fault(&[0xff; 5]), Some(PeerFault::PbLength));
        assert_eq!(fault(&[0xe9, 0x07]), Some(PeerFault::PbTooLarge { bytes: 1001, max: 1000 }));
        assert_eq!(fault(&[0x81, 0x80, 0x80, 0x80, 0x00, 7]), None);
        assert_eq!(split(&[0x81, 0x80, 0x80, 0x80, 0x00, 7], &[], 1000).0, [vec![7]]);
    }

    #[test]
    fn a_pb_waits_for_the_budget_before_its_body_is_kept() {
        let (mut delimiter, mut budget) = (Delimiter::default(), Budget::new(10));
        assert!(budget.try_reserve(8));
        let input = [3, 1, 2, 3];
        assert_eq!(delimiter.next(&input, 10, &mut budget), Ok((1, Step::Wait(3))));
        budget.release(8);
        assert_eq!(delimiter.next(&input[1..3], 10, &mut budget), Ok((2, Step::More)));
        assert_eq!(budget.reserved(), 3);
        delimiter.reset(&mut budget);
        assert_eq!(budget.reserved(), 0);
    }
}

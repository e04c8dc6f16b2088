//! Splits a half into pbs (protocol section 2): a varint of at most five bytes, then that number of bytes.
//!
//! A whole pb is passed on in place. Of a cut pb the delimiter keeps the first part and waits for the rest.
//! The length is only a claim, so a peer cannot make the server reserve memory with it: the first
//! `foothold_bytes` of a cut pb are kept without a reservation, and later bytes are reserved before they are
//! kept, at most twice what has arrived.

use crate::base::budget::{Purse, Share, Wanted};
use crate::base::error::PeerFault;
use crate::base::limits::PB_LENGTH_BYTES_MAX;

/// The limits for one pb.
#[derive(Clone, Copy, Debug)]
pub struct PbLimits {
    /// The largest pb, in bytes. Larger ones are refused.
    pub max_bytes: usize,
    /// The number of bytes of a cut pb that are kept without a reservation.
    pub foothold_bytes: usize,
    /// The largest pb that counts as small while it is cut, in bytes.
    pub large_bytes: usize,
}

/// The result of looking for the next pb.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The input contains no whole pb.
    More,
    /// A whole pb. Its bytes are reserved; the caller takes over the reservation.
    Pb(&'a [u8]),
    /// The budget has no room for these bytes.
    Wait(Wanted),
}

/// The state of one half: the length so far, and the kept part of a cut pb.
#[derive(Debug)]
pub struct Delimiter {
    /// The length so far, and the number of its bytes that have arrived.
    length: u64,
    length_bytes: u8,
    /// Whether the length is complete and checked.
    known: bool,
    /// The bytes reserved, and how many of them count in which share of cut pbs.
    reserved: usize,
    cut: (Share, usize),
    /// The reservation that the last [`Step::Wait`] asked for.
    wanted: Option<Wanted>,
    body: Vec<u8>,
    /// Whether the last call returned the body; the next call frees it.
    handed: bool,
}

impl Default for Delimiter {
    fn default() -> Self {
        Self {
            length: 0,
            length_bytes: 0,
            known: false,
            reserved: 0,
            cut: (Share::Whole, 0),
            wanted: None,
            body: Vec::new(),
            handed: false,
        }
    }
}

impl Delimiter {
    /// Looks for the next pb in `input`. Returns how many bytes it took.
    #[inline]
    pub fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        limits: PbLimits,
        budget: &mut Purse<'_>,
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
            if self.length > limits.max_bytes as u64 {
                return Err(PeerFault::PbTooLarge { bytes: self.length, max: limits.max_bytes });
            }
        }
        let length = self.length as usize;
        let rest = &input[used..];
        let missing = length - self.body.len();
        let is_whole = rest.len() >= missing;
        let came = self.body.len() + rest.len();
        let (needed, share) = if is_whole {
            (length, Share::Whole)
        } else if came <= limits.foothold_bytes {
            (0, Share::Whole)
        } else {
            let share = if length <= limits.large_bytes { Share::CutSmall } else { Share::CutLarge };
            (length.min(2 * came), share)
        };
        if self.reserved < came.min(needed) || (is_whole && self.reserved < length) {
            let (bytes, rest) = (needed - self.reserved, length - self.reserved);
            self.wanted = Some(Wanted { bytes, rest, share });
            if let Some(wanted) = self.reserve(budget) {
                return Ok((used, Step::Wait(wanted)));
            }
        }
        if !is_whole {
            let room = self.reserved.max(limits.foothold_bytes.min(length));
            if self.body.capacity() < room && !rest.is_empty() {
                self.body.reserve_exact(room - self.body.len());
            }
            self.body.extend_from_slice(rest);
            return Ok((input.len(), Step::More));
        }
        self.leave_share(budget);
        self.length = 0;
        self.length_bytes = 0;
        self.known = false;
        self.reserved = 0;
        used += missing;
        if self.body.is_empty() {
            return Ok((used, Step::Pb(&rest[..missing])));
        }
        self.body.reserve_exact(missing);
        self.body.extend_from_slice(&rest[..missing]);
        self.handed = true;
        Ok((used, Step::Pb(&self.body)))
    }

    /// Tries again to reserve what [`Step::Wait`] asked for. Returns it if the budget still has no room.
    pub fn reserve(&mut self, budget: &mut Purse<'_>) -> Option<Wanted> {
        let wanted = self.wanted?;
        // An empty pb needs no reservation and does not queue behind others.
        let bytes = if wanted.bytes == 0 { 0 } else { budget.try_reserve(wanted) };
        if bytes < wanted.bytes {
            return Some(wanted);
        }
        self.wanted = None;
        self.reserved += bytes;
        if wanted.share != Share::Whole {
            self.cut = (wanted.share, self.cut.1 + bytes);
        }
        None
    }

    fn leave_share(&mut self, budget: &mut Purse<'_>) {
        let (share, bytes) = std::mem::replace(&mut self.cut, (Share::Whole, 0));
        budget.leave_share(share, bytes);
    }

    /// Returns whether a length or a pb has started and not ended.
    pub fn is_inside(&self) -> bool {
        self.length_bytes > 0
    }

    /// Drops a pb that has started, and releases its reservation.
    pub fn reset(&mut self, budget: &mut Purse<'_>) {
        self.leave_share(budget);
        budget.release(self.reserved);
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
    use crate::base::budget::{Account, Budget};
    use crate::pb::wire::write_varint;
    use proptest::prelude::*;

    fn limits(max_bytes: usize) -> PbLimits {
        PbLimits { max_bytes, foothold_bytes: 16, large_bytes: 100 }
    }

    fn split(
        bytes: &[u8],
        cuts: &[usize],
        max: usize,
    ) -> (Vec<Vec<u8>>, Option<PeerFault>, Account, Delimiter) {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(bytes.len());
        let (mut delimiter, mut budget, mut account) =
            (Delimiter::default(), Budget::new(1 << 20), Account::default());
        let mut pbs = Vec::new();
        let mut from = 0;
        for end in ends {
            let mut input = &bytes[from..end];
            from = end;
            loop {
                match delimiter.next(input, limits(max), &mut budget.purse(&mut account)) {
                    Ok((used, Step::Pb(pb))) => {
                        pbs.push(pb.to_vec());
                        budget.purse(&mut account).release(pb.len());
                        input = &input[used..];
                    }
                    Ok((used, Step::More)) => {
                        assert_eq!(used, input.len());
                        break;
                    }
                    Ok((_, Step::Wait(_))) => panic!("the budget is large"),
                    Err(fault) => return (pbs, Some(fault), account, delimiter),
                }
            }
        }
        (pbs, None, account, delimiter)
    }

    proptest! {
        #[test]
        fn the_pbs_do_not_depend_on_how_the_bytes_are_cut(
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
            let (split, fault, account, delimiter) = split(&bytes, &cuts, 1000);
            prop_assert_eq!(split, pbs);
            prop_assert_eq!(fault, None);
            prop_assert!(account.is_empty());
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
    fn a_whole_pb_waits_for_the_budget() {
        let (mut delimiter, mut budget, mut account) =
            (Delimiter::default(), Budget::new(10), Account::default());
        let mut purse = budget.purse(&mut account);
        let whole = |bytes| Wanted { bytes, rest: bytes, share: Share::Whole };
        assert_eq!(purse.try_reserve(whole(8)), 8);
        let input = [3, 1, 2, 3];
        assert_eq!(delimiter.next(&input, limits(10), &mut purse), Ok((1, Step::Wait(whole(3)))));
        purse.release(8);
        assert_eq!(delimiter.next(&input[1..], limits(10), &mut purse), Ok((3, Step::Pb(&[1, 2, 3]))));
        assert_eq!(purse.reserved(), 3, "the caller takes over the reservation");
    }

    #[test]
    fn a_claimed_length_reserves_at_most_twice_what_has_arrived() {
        let (mut delimiter, mut budget, mut account) =
            (Delimiter::default(), Budget::new(64 << 20), Account::default());
        let mut purse = budget.purse(&mut account);
        let mut input = Vec::new();
        write_varint(8 << 20, &mut input);
        input.push(1);
        assert_eq!(delimiter.next(&input, limits(8 << 20), &mut purse), Ok((input.len(), Step::More)));
        assert_eq!((purse.reserved(), delimiter.body.capacity()), (0, 16));
        let more = vec![2; 99];
        assert_eq!(delimiter.next(&more, limits(8 << 20), &mut purse), Ok((99, Step::More)));
        assert_eq!((purse.reserved(), delimiter.body.capacity()), (200, 200));
        assert_eq!(delimiter.next(&more, limits(8 << 20), &mut purse), Ok((99, Step::More)));
        assert_eq!(purse.reserved(), 200);
        assert_eq!(delimiter.next(&more, limits(8 << 20), &mut purse), Ok((99, Step::More)));
        assert_eq!(purse.reserved(), 2 * 298);
        let rest = vec![3; 8 << 20];
        let Ok((used, Step::Pb(pb))) = delimiter.next(&rest, limits(8 << 20), &mut purse) else { panic!() };
        assert_eq!((used, pb.len(), pb[0], pb[1], pb[298]), ((8 << 20) - 298, 8 << 20, 1, 2, 3));
        assert_eq!(purse.reserved(), 8 << 20);
        let large = Wanted { bytes: 32 << 20, rest: 32 << 20, share: Share::CutLarge };
        assert!(purse.fits(large), "it has left its share");
    }
}

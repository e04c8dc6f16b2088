//! The byte budget of a shard: what its connections may hold at once.
//!
//! Plain arithmetic on the shard's own thread. Two kinds of bytes:
//!
//! - **reserved**, before they are accepted: pbs and append batches. Never above the ceiling; given back by the store's
//!   answer or by `pb_timeout`, whatever the peer does.
//! - **held**, because they exist already: what was read and waits for a reservation, what the socket did not take.
//!   Given back when the peer reads, or when a reservation is made. They never keep anybody from reserving: else
//!   those who wait for memory would block themselves, and a peer that does not read would block all others. They
//!   count as pressure, under which reads and send buffers shrink.
//!
//! A pb that is whole waits for nobody but the store. One that is cut waits for its peer, which may never send the rest:
//! therefore cut pbs have a [`Share`] each of the ceiling, and queues of their own.
//!
//! Once as much is held as may be reserved, consumers encode no more, and whoever takes nothing of what waits for him is
//! closed. Worst case: twice the ceiling, and what was under way in that turn.

/// What a reservation is for, and so how much of the ceiling there is for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A pb that is whole, or the first `foothold_bytes` of one: all of it.
    Whole,
    /// A cut pb of at most `large_pb_bytes`: a quarter.
    CutSmall,
    /// A longer one: a half.
    CutLarge,
}

impl Share {
    /// All, in the order in which they are served.
    pub const ALL: [Self; 3] = [Self::Whole, Self::CutSmall, Self::CutLarge];
}

/// Bytes to be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How many.
    pub bytes: usize,
    /// What for.
    pub share: Share,
}

/// A budget without one of its connections.
#[derive(Clone, Copy, Debug)]
pub struct Remaining {
    reserved: usize,
    held: usize,
    cut: [usize; 3],
}

impl Remaining {
    /// The same without a cut pb's share.
    #[must_use]
    pub fn without_cut(mut self, cut: Option<Wanted>) -> Self {
        if let Some(Wanted { bytes, share }) = cut {
            self.cut[share as usize] = self.cut[share as usize].saturating_sub(bytes);
        }
        self
    }
}

/// See the module's page. Invariants: `reserved` and `held` are the sums of what was taken and not given back; `reserved`
/// is at most `ceiling`; `cut` is the part of it that cut pbs have, by share.
#[derive(Debug)]
pub struct Budget {
    ceiling: usize,
    reserved: usize,
    cut: [usize; 3],
    held: usize,
    /// Connections that wait for bytes, by share. While there are any, newcomers wait behind them.
    waiting: [usize; 3],
}

impl Budget {
    /// A budget of `ceiling` bytes.
    pub fn new(ceiling: usize) -> Self {
        Self { ceiling, reserved: 0, cut: [0; 3], held: 0, waiting: [0; 3] }
    }

    /// Takes bytes if there is room and nobody waits.
    #[must_use]
    pub fn try_reserve(&mut self, wanted: Wanted) -> bool {
        let fits = self.waiting[wanted.share as usize] == 0 && self.fits(wanted);
        if fits {
            self.reserved += wanted.bytes;
            if wanted.share != Share::Whole {
                self.cut[wanted.share as usize] += wanted.bytes;
            }
        }
        fits
    }

    /// A cut pb is whole, or given up: its bytes no longer count in its share, but are still reserved.
    pub fn leave_share(&mut self, taken: Wanted) {
        if taken.share != Share::Whole {
            let cut = &mut self.cut[taken.share as usize];
            debug_assert!(taken.bytes <= *cut, "more left than taken");
            *cut = cut.saturating_sub(taken.bytes);
        }
    }

    /// Gives reserved bytes back.
    pub fn release(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.reserved, "more released than reserved");
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// Counts bytes that exist already.
    pub fn hold(&mut self, bytes: usize) {
        self.held += bytes;
    }

    /// They exist no longer.
    pub fn drop_held(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.held, "more dropped than held");
        self.held = self.held.saturating_sub(bytes);
    }

    /// How many connections wait; kept by the shard, which owns the queues of them.
    pub fn set_waiting(&mut self, share: Share, connections: usize) {
        self.waiting[share as usize] = connections;
    }

    /// Whether there would be room for the first that waits.
    pub fn fits(&self, wanted: Wanted) -> bool {
        let Wanted { bytes, share } = wanted;
        let limit = match share {
            Share::Whole => self.ceiling,
            Share::CutSmall => self.ceiling / 4,
            Share::CutLarge => self.ceiling / 2,
        };
        let cut = self.cut[share as usize];
        // Whoever has a share to itself gets it, however small the ceiling.
        let fits_share = share == Share::Whole
            || (self.waiting[Share::Whole as usize] == 0 && (cut == 0 || cut + bytes <= limit));
        fits_share && self.reserved + bytes <= self.ceiling
    }

    /// Whether credit must not grow.
    pub fn is_tight(&self) -> bool {
        self.waiting[Share::Whole as usize] > 0 || self.reserved >= self.ceiling / 8 * 7
    }

    /// Whether reads and send buffers must shrink.
    pub fn is_pressed(&self) -> bool {
        self.is_tight() || self.reserved + self.held >= self.ceiling / 8 * 7
    }

    /// What is left where `reserved` and `held` bytes go with their connection.
    pub fn without(&self, reserved: usize, held: usize) -> Remaining {
        Remaining {
            reserved: self.reserved.saturating_sub(reserved),
            held: self.held.saturating_sub(held),
            cut: self.cut,
        }
    }

    /// Goes back to what was left, whatever was reserved and held since.
    pub fn restore(&mut self, remaining: Remaining) {
        (self.reserved, self.held, self.cut) = (remaining.reserved, remaining.held, remaining.cut);
    }

    /// Whether so much is held that it must not grow.
    pub fn is_overheld(&self) -> bool {
        self.held >= self.ceiling
    }

    /// Bytes reserved now.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The ceiling, bytes.
    pub fn ceiling(&self) -> usize {
        self.ceiling
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_pbs_leave_room_for_whole_ones_and_each_share_has_its_own_queue() {
        let mut budget = Budget::new(8 << 20);
        let wanted = |bytes, share| Wanted { bytes, share };
        let large = wanted(1 << 20, Share::CutLarge);
        let granted = (0..10).filter(|_| budget.try_reserve(large)).count();
        assert_eq!(granted, 4);
        budget.set_waiting(Share::CutLarge, 1);
        let small = wanted(64 << 10, Share::CutSmall);
        assert_eq!((0..100).filter(|_| budget.try_reserve(small)).count(), 32);
        assert!(!budget.is_tight());
        assert!(budget.try_reserve(wanted(1 << 20, Share::Whole)));
        budget.leave_share(large);
        assert!(budget.fits(large), "what has become whole leaves its share");
        assert!(!budget.try_reserve(large), "but others came first");
        budget.set_waiting(Share::CutLarge, 0);
        budget.set_waiting(Share::Whole, 1);
        assert!(!budget.try_reserve(large), "and whole ones go before");
        assert!(budget.is_tight());
    }
}

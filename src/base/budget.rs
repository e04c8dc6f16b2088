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
//! Once as much waits to be sent as may be reserved, consumers encode no more, and whoever takes nothing of what waits for him is
//! closed. Worst case: the ceiling reserved, nearly as much held when the pressure is felt, as much again unsent before
//! consumers stop, and what was under way in that turn.

/// What a reservation is for, and so how much of the ceiling there is for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A pb that is whole: all of it.
    Whole,
    /// A cut pb of at most `large_pb_bytes`: an eighth.
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
    /// How many now.
    pub bytes: usize,
    /// How many in the end: what a share that is full gives to one after the other, so that all come through.
    pub rest: usize,
    /// What for.
    pub share: Share,
}

/// A budget without one of its connections.
#[derive(Clone, Copy, Debug)]
pub struct Remaining {
    reserved: usize,
    held: usize,
    unsent: usize,
    cut: [usize; 3],
}

impl Remaining {
    /// The same without a cut pb's share.
    #[must_use]
    pub fn without_cut(mut self, share: Share, bytes: usize) -> Self {
        self.cut[share as usize] = self.cut[share as usize].saturating_sub(bytes);
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
    /// The part of `held` that waits to be sent.
    unsent: usize,
    /// Connections that wait for bytes, by share. While there are any, newcomers wait behind them.
    waiting: [usize; 3],
}

impl Budget {
    /// A budget of `ceiling` bytes.
    pub fn new(ceiling: usize) -> Self {
        Self { ceiling, reserved: 0, cut: [0; 3], held: 0, unsent: 0, waiting: [0; 3] }
    }

    /// Takes bytes if there is room and nobody waits: as many as are wanted now, or all the rest; 0 where there is no room.
    #[must_use]
    pub fn try_reserve(&mut self, wanted: Wanted) -> usize {
        if self.waiting[wanted.share as usize] > 0 {
            return 0;
        }
        let bytes = self.room_for(wanted);
        self.reserved += bytes;
        if wanted.share != Share::Whole {
            self.cut[wanted.share as usize] += bytes;
        }
        bytes
    }

    /// A cut pb is whole, or given up: its bytes no longer count in its share, but are still reserved.
    pub fn leave_share(&mut self, share: Share, bytes: usize) {
        if share != Share::Whole {
            let cut = &mut self.cut[share as usize];
            debug_assert!(bytes <= *cut, "more left than taken");
            *cut = cut.saturating_sub(bytes);
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

    /// Counts bytes that wait to be sent, among those that are held.
    pub fn hold_unsent(&mut self, bytes: usize) {
        self.held += bytes;
        self.unsent += bytes;
    }

    /// They were sent, or will not be.
    pub fn drop_unsent(&mut self, bytes: usize) {
        self.drop_held(bytes);
        self.unsent = self.unsent.saturating_sub(bytes);
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
        wanted.bytes == 0 || self.room_for(wanted) > 0
    }

    fn room_for(&self, wanted: Wanted) -> usize {
        let Wanted { bytes, rest, share } = wanted;
        let in_all = |bytes: usize| if self.reserved + bytes <= self.ceiling { bytes } else { 0 };
        let limit = match share {
            Share::Whole => return in_all(bytes),
            Share::CutSmall => self.ceiling / 8,
            Share::CutLarge => self.ceiling / 2,
        };
        let cut = self.cut[share as usize];
        if self.waiting[Share::Whole as usize] > 0 {
            0
        } else if cut + bytes <= limit {
            in_all(bytes)
        } else if cut <= limit {
            in_all(rest)
        } else {
            0
        }
    }

    /// Whether credit must not grow.
    pub fn is_tight(&self) -> bool {
        self.waiting[Share::Whole as usize] > 0 || self.reserved >= self.ceiling / 8 * 7
    }

    /// Whether reads and send buffers must shrink.
    pub fn is_pressed(&self) -> bool {
        self.is_tight() || self.reserved + self.held >= self.ceiling / 8 * 7
    }

    /// What is left where so many bytes go with their connection; of those held, `unsent` wait to be sent.
    pub fn without(&self, reserved: usize, held: usize, unsent: usize) -> Remaining {
        Remaining {
            reserved: self.reserved.saturating_sub(reserved),
            held: self.held.saturating_sub(held),
            unsent: self.unsent.saturating_sub(unsent),
            cut: self.cut,
        }
    }

    /// Goes back to what was left, whatever was reserved and held since.
    pub fn restore(&mut self, remaining: Remaining) {
        (self.reserved, self.held) = (remaining.reserved, remaining.held);
        (self.unsent, self.cut) = (remaining.unsent, remaining.cut);
    }

    /// Whether so much waits to be sent that it must not grow.
    pub fn is_overheld(&self) -> bool {
        self.unsent >= self.ceiling
    }

    /// Bytes that wait to be sent.
    pub fn unsent(&self) -> usize {
        self.unsent
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
        let wanted = |bytes, share| Wanted { bytes, rest: bytes, share };
        let large = wanted(1 << 20, Share::CutLarge);
        // The last one may go past the share: one after the other comes through.
        assert_eq!((0..10).filter(|_| budget.try_reserve(large) > 0).count(), 5);
        budget.set_waiting(Share::CutLarge, 1);
        let small = wanted(64 << 10, Share::CutSmall);
        assert_eq!((0..100).filter(|_| budget.try_reserve(small) > 0).count(), 17);
        assert!(!budget.is_tight());
        assert!(budget.try_reserve(wanted(512 << 10, Share::Whole)) > 0);
        budget.leave_share(Share::CutLarge, 1 << 20);
        budget.release(1 << 20);
        assert!(budget.fits(large), "what is given back is there for the first that waits");
        assert_eq!(budget.try_reserve(large), 0, "but not for those behind");
        budget.set_waiting(Share::CutLarge, 0);
        budget.set_waiting(Share::Whole, 1);
        assert_eq!(budget.try_reserve(large), 0, "and whole ones go before");
        assert!(budget.is_tight());
    }

    #[test]
    fn a_full_share_gives_the_rest_at_once_so_that_nobody_waits_for_ever() {
        let mut budget = Budget::new(8 << 20);
        let step = Wanted { bytes: 512 << 10, rest: 1 << 20, share: Share::CutLarge };
        let given: Vec<usize> = (0..10).map(|_| budget.try_reserve(step)).collect();
        assert_eq!(given[..8], [512 << 10; 8]);
        assert_eq!(given[8..], [1 << 20, 0], "the share is full: one gets all that it needs");
        budget.leave_share(Share::CutLarge, 1 << 20);
        assert_eq!(budget.try_reserve(step), 1 << 20, "then the next");
    }
}

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

use std::ops::Deref;

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

/// What one connection has of a budget.
#[derive(Debug, Default)]
pub struct Account {
    reserved: usize,
    cut: [usize; 3],
    held: usize,
    unsent: usize,
}

impl Account {
    /// Whether the connection has nothing of the budget.
    pub fn is_empty(&self) -> bool {
        self.reserved == 0 && self.held == 0 && self.cut == [0; 3] && self.unsent == 0
    }
}

/// A budget and the account of the connection that draws on it.
#[derive(Debug)]
pub struct Purse<'a> {
    budget: &'a mut Budget,
    account: &'a mut Account,
}

impl Purse<'_> {
    /// Reserves bytes if there is room and no connection waits: as many as are wanted now, or all the rest. Returns 0 if there is
    /// no room.
    #[must_use]
    pub fn try_reserve(&mut self, wanted: Wanted) -> usize {
        let Wanted { share, .. } = wanted;
        if self.budget.waiting[share as usize] > 0 {
            return 0;
        }
        let bytes = self.budget.room_for(wanted);
        self.budget.reserved += bytes;
        self.account.reserved += bytes;
        if share != Share::Whole {
            self.budget.cut[share as usize] += bytes;
            self.account.cut[share as usize] += bytes;
        }
        bytes
    }

    /// A cut pb is whole, or given up: its bytes no longer count in its share. They are still reserved.
    pub fn leave_share(&mut self, share: Share, bytes: usize) {
        if share != Share::Whole {
            let at = share as usize;
            let bytes = taken(bytes, &mut self.account.cut[at], "left a share than were taken of it");
            self.budget.cut[at] -= bytes;
        }
    }

    /// Gives reserved bytes back.
    pub fn release(&mut self, bytes: usize) {
        let bytes = taken(bytes, &mut self.account.reserved, "released than reserved");
        self.budget.reserved -= bytes;
    }

    /// Hands reserved bytes over to the store: they stay reserved, and [`Budget::release`] gives them back once the store has
    /// answered, even if the connection is gone by then.
    pub fn hand_over(&mut self, bytes: usize) {
        let bytes = taken(bytes, &mut self.account.reserved, "handed over than reserved");
        self.budget.handed_over += bytes;
    }

    /// Counts bytes that exist already.
    pub fn hold(&mut self, bytes: usize) {
        self.budget.held += bytes;
        self.account.held += bytes;
    }

    /// Counts bytes that wait to be sent. They count among those held, too.
    pub fn hold_unsent(&mut self, bytes: usize) {
        self.hold(bytes);
        self.budget.unsent += bytes;
        self.account.unsent += bytes;
    }

    /// Stops counting bytes that wait to be sent.
    pub fn drop_unsent(&mut self, bytes: usize) {
        self.drop_held(bytes);
        let bytes = taken(bytes, &mut self.account.unsent, "sent than waited");
        self.budget.unsent -= bytes;
    }

    /// Stops counting bytes that existed.
    pub fn drop_held(&mut self, bytes: usize) {
        let bytes = taken(bytes, &mut self.account.held, "dropped than held");
        self.budget.held -= bytes;
    }
}

impl Deref for Purse<'_> {
    type Target = Budget;

    fn deref(&self) -> &Budget {
        self.budget
    }
}

/// Takes `bytes` from `of`, and no more than it has. To take more is a bug: `what` names it.
fn taken(bytes: usize, of: &mut usize, what: &str) -> usize {
    debug_assert!(bytes <= *of, "more bytes {what}");
    let bytes = bytes.min(*of);
    *of -= bytes;
    bytes
}

/// The bytes of a shard's connections.
#[derive(Debug)]
pub struct Budget {
    ceiling: usize,
    /// The sum of all accounts and of `handed_over`; at most `ceiling`.
    reserved: usize,
    /// The part of `reserved` that the store has and that is in no account.
    handed_over: usize,
    /// The part of `reserved` that cut pbs have, by share: the sum of all accounts.
    cut: [usize; 3],
    /// The sum of all accounts.
    held: usize,
    /// The part of `held` that waits to be sent.
    unsent: usize,
    /// Connections that wait for bytes, by share. While there are any, newcomers wait behind them.
    waiting: [usize; 3],
}

impl Budget {
    /// A budget of `ceiling` bytes.
    pub fn new(ceiling: usize) -> Self {
        Self { ceiling, reserved: 0, handed_over: 0, cut: [0; 3], held: 0, unsent: 0, waiting: [0; 3] }
    }

    /// The budget together with the account of the connection that draws on it.
    pub fn purse<'a>(&'a mut self, account: &'a mut Account) -> Purse<'a> {
        Purse { budget: self, account }
    }

    /// Gives back bytes that [`Purse::hand_over`] handed over.
    pub fn release(&mut self, bytes: usize) {
        let bytes = taken(bytes, &mut self.handed_over, "released than handed over");
        self.reserved -= bytes;
    }

    /// Gives back everything that an account has. Bytes that were handed over are no longer in it.
    pub fn close(&mut self, account: &mut Account) {
        let Account { reserved, cut, held, unsent } = std::mem::take(account);
        self.reserved -= reserved;
        self.held -= held;
        self.unsent -= unsent;
        for (of, bytes) in self.cut.iter_mut().zip(cut) {
            *of -= bytes;
        }
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
        let (mut budget, mut account) = (Budget::new(8 << 20), Account::default());
        let wanted = |bytes, share| Wanted { bytes, rest: bytes, share };
        let large = wanted(1 << 20, Share::CutLarge);
        // The last one may go past the share: one after the other comes through.
        assert_eq!((0..10).filter(|_| budget.purse(&mut account).try_reserve(large) > 0).count(), 5);
        budget.set_waiting(Share::CutLarge, 1);
        let small = wanted(64 << 10, Share::CutSmall);
        assert_eq!((0..100).filter(|_| budget.purse(&mut account).try_reserve(small) > 0).count(), 17);
        assert!(!budget.is_tight());
        assert!(budget.purse(&mut account).try_reserve(wanted(512 << 10, Share::Whole)) > 0);
        budget.purse(&mut account).leave_share(Share::CutLarge, 1 << 20);
        budget.purse(&mut account).release(1 << 20);
        assert!(budget.fits(large), "what is given back is there for the first that waits");
        assert_eq!(budget.purse(&mut account).try_reserve(large), 0, "but not for those behind");
        budget.set_waiting(Share::CutLarge, 0);
        budget.set_waiting(Share::Whole, 1);
        assert_eq!(budget.purse(&mut account).try_reserve(large), 0, "and whole ones go before");
        assert!(budget.is_tight());
    }

    #[test]
    fn a_full_share_gives_the_rest_at_once_so_that_nobody_waits_for_ever() {
        let (mut budget, mut account) = (Budget::new(8 << 20), Account::default());
        let step = Wanted { bytes: 512 << 10, rest: 1 << 20, share: Share::CutLarge };
        let given: Vec<usize> = (0..10).map(|_| budget.purse(&mut account).try_reserve(step)).collect();
        assert_eq!(given[..8], [512 << 10; 8]);
        assert_eq!(given[8..], [1 << 20, 0], "the share is full: one gets all that it needs");
        budget.purse(&mut account).leave_share(Share::CutLarge, 1 << 20);
        assert_eq!(budget.purse(&mut account).try_reserve(step), 1 << 20, "then the next");
    }

    #[test]
    fn an_account_that_is_closed_gives_back_all_but_what_was_handed_over() {
        let mut budget = Budget::new(1000);
        let (mut one, mut other) = (Account::default(), Account::default());
        let wanted = |bytes, share| Wanted { bytes, rest: bytes, share };
        for account in [&mut one, &mut other] {
            let mut purse = budget.purse(account);
            assert_eq!(purse.try_reserve(wanted(100, Share::Whole)), 100);
            assert_eq!(purse.try_reserve(wanted(50, Share::CutSmall)), 50);
            purse.hold(20);
            purse.hold_unsent(5);
            purse.hand_over(70);
        }
        budget.close(&mut one);
        assert!(one.is_empty() && !other.is_empty());
        assert_eq!((budget.reserved(), budget.held(), budget.unsent()), (150 + 70, 25, 5));
        budget.release(70);
        budget.close(&mut other);
        assert_eq!((budget.reserved(), budget.held(), budget.unsent()), (70, 0, 0));
        budget.release(70);
        assert_eq!((budget.reserved(), budget.cut), (0, [0; 3]));
    }
}

//! The byte budget of a shard: how much memory its connections may use at once.
//!
//! Plain arithmetic on the shard's own thread. There are two kinds of bytes:
//!
//! - **Reserved** bytes are counted before they are accepted: pbs and append batches. They never exceed the
//!   ceiling. The store's answer or `pb_timeout` releases them, whatever the peer does.
//! - **Held** bytes already exist: input that waits for a reservation, and output that the socket did not
//!   accept. They are released when the peer reads or when a reservation succeeds. They never prevent a
//!   reservation: otherwise connections that wait for memory would block themselves, and a peer that does not
//!   read would block all others. They count as pressure, under which reads and send buffers shrink.
//!
//! A whole pb waits only for the store. A cut pb waits for its peer, which may never send the rest. So cut
//! pbs are limited to a [`Share`] of the ceiling and wait in their own queues.
//!
//! When the unsent bytes reach the ceiling, consumers encode no more, and connections that accept none of
//! their output are closed. Worst case: the ceiling reserved, nearly as much held before the pressure takes
//! effect, the same amount again unsent before consumers stop, and the work in progress of that turn.

use std::ops::Deref;

/// The purpose of a reservation, which decides how much of the ceiling is available for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A whole pb: the whole ceiling.
    Whole,
    /// A cut pb of at most `large_pb_bytes`: an eighth of the ceiling.
    CutSmall,
    /// A larger cut pb: half of the ceiling.
    CutLarge,
}

impl Share {
    /// All shares, in the order in which waiting connections are served.
    pub const ALL: [Self; 3] = [Self::Whole, Self::CutSmall, Self::CutLarge];
}

/// A request for a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The number of bytes needed now.
    pub bytes: usize,
    /// The number of bytes needed in the end. If the share is full, one connection after the other gets all
    /// of it at once, so that each can finish.
    pub rest: usize,
    /// The share that the bytes count in.
    pub share: Share,
}

/// The bytes that one connection uses of a budget.
#[derive(Debug, Default)]
pub struct Account {
    reserved: usize,
    cut: [usize; 3],
    held: usize,
    unsent: usize,
}

impl Account {
    /// Returns whether the connection uses nothing of the budget.
    pub fn is_empty(&self) -> bool {
        self.reserved == 0 && self.held == 0 && self.cut == [0; 3] && self.unsent == 0
    }
}

/// A budget together with the account of a connection that draws on it.
#[derive(Debug)]
pub struct Purse<'a> {
    budget: &'a mut Budget,
    account: &'a mut Account,
}

impl Purse<'_> {
    /// Reserves bytes if there is room and no connection waits for this share: either the bytes wanted now or
    /// all the rest. Returns the number of reserved bytes; 0 means no room.
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

    /// Stops counting bytes in the share of cut pbs, because the pb is complete or abandoned. The bytes stay
    /// reserved.
    pub fn leave_share(&mut self, share: Share, bytes: usize) {
        if share != Share::Whole {
            let at = share as usize;
            let bytes = taken(bytes, &mut self.account.cut[at], "left a share than were taken of it");
            self.budget.cut[at] -= bytes;
        }
    }

    /// Releases `bytes` reserved bytes.
    pub fn release(&mut self, bytes: usize) {
        let bytes = taken(bytes, &mut self.account.reserved, "released than reserved");
        self.budget.reserved -= bytes;
    }

    /// Hands reserved bytes over to the store. They stay reserved until [`Budget::release`], which is called
    /// when the store answers, even if the connection is closed by then.
    pub fn hand_over(&mut self, bytes: usize) {
        let bytes = taken(bytes, &mut self.account.reserved, "handed over than reserved");
        self.budget.handed_over += bytes;
    }

    /// Counts bytes that already exist.
    pub fn hold(&mut self, bytes: usize) {
        self.budget.held += bytes;
        self.account.held += bytes;
    }

    /// Counts bytes that wait to be sent. They also count as held.
    pub fn hold_unsent(&mut self, bytes: usize) {
        self.hold(bytes);
        self.budget.unsent += bytes;
        self.account.unsent += bytes;
    }

    /// Stops counting bytes that were waiting to be sent.
    pub fn drop_unsent(&mut self, bytes: usize) {
        self.drop_held(bytes);
        let bytes = taken(bytes, &mut self.account.unsent, "sent than waited");
        self.budget.unsent -= bytes;
    }

    /// Stops counting held bytes.
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

/// Subtracts `bytes` from `of`, but at most what it has. Subtracting more is a bug; `what` describes it.
fn taken(bytes: usize, of: &mut usize, what: &str) -> usize {
    debug_assert!(bytes <= *of, "more bytes {what}");
    let bytes = bytes.min(*of);
    *of -= bytes;
    bytes
}

/// The byte budget of a shard.
#[derive(Debug)]
pub struct Budget {
    ceiling: usize,
    /// The sum of all accounts and `handed_over`; at most `ceiling`.
    reserved: usize,
    /// The part of `reserved` that the store has. It is in no account.
    handed_over: usize,
    /// The part of `reserved` for cut pbs, by share: the sum of all accounts.
    cut: [usize; 3],
    /// The sum of all accounts.
    held: usize,
    /// The part of `held` that waits to be sent.
    unsent: usize,
    /// The number of connections that wait for bytes, by share. New requests queue behind them.
    waiting: [usize; 3],
}

impl Budget {
    /// Creates a budget of `ceiling` bytes.
    pub fn new(ceiling: usize) -> Self {
        Self { ceiling, reserved: 0, handed_over: 0, cut: [0; 3], held: 0, unsent: 0, waiting: [0; 3] }
    }

    /// Returns the budget together with the account of a connection.
    pub fn purse<'a>(&'a mut self, account: &'a mut Account) -> Purse<'a> {
        Purse { budget: self, account }
    }

    /// Releases bytes that were handed over with [`Purse::hand_over`].
    pub fn release(&mut self, bytes: usize) {
        let bytes = taken(bytes, &mut self.handed_over, "released than handed over");
        self.reserved -= bytes;
    }

    /// Releases all bytes of an account. Bytes that were handed over are no longer in it.
    pub fn close(&mut self, account: &mut Account) {
        let Account { reserved, cut, held, unsent } = std::mem::take(account);
        self.reserved -= reserved;
        self.held -= held;
        self.unsent -= unsent;
        for (of, bytes) in self.cut.iter_mut().zip(cut) {
            *of -= bytes;
        }
    }

    /// Sets the number of waiting connections. The shard calls it, because it owns their queues.
    pub fn set_waiting(&mut self, share: Share, connections: usize) {
        self.waiting[share as usize] = connections;
    }

    /// Returns whether there is room for the first waiting connection.
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

    /// Returns whether credit must not grow.
    pub fn is_tight(&self) -> bool {
        self.waiting[Share::Whole as usize] > 0 || self.reserved >= self.ceiling / 8 * 7
    }

    /// Returns whether reads and send buffers must shrink.
    pub fn is_pressed(&self) -> bool {
        self.is_tight() || self.reserved + self.held >= self.ceiling / 8 * 7
    }

    /// Returns whether the unsent bytes have reached the ceiling and must not grow.
    pub fn is_overheld(&self) -> bool {
        self.unsent >= self.ceiling
    }

    /// Returns the bytes that wait to be sent.
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    /// Returns the reserved bytes.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    /// Returns the held bytes.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Returns the ceiling in bytes.
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
        // The last reservation may exceed the share, so that each pb finishes in turn.
        assert_eq!((0..10).filter(|_| budget.purse(&mut account).try_reserve(large) > 0).count(), 5);
        budget.set_waiting(Share::CutLarge, 1);
        let small = wanted(64 << 10, Share::CutSmall);
        assert_eq!((0..100).filter(|_| budget.purse(&mut account).try_reserve(small) > 0).count(), 17);
        assert!(!budget.is_tight());
        assert!(budget.purse(&mut account).try_reserve(wanted(512 << 10, Share::Whole)) > 0);
        budget.purse(&mut account).leave_share(Share::CutLarge, 1 << 20);
        budget.purse(&mut account).release(1 << 20);
        assert!(budget.fits(large), "released bytes are available for the first in the queue");
        assert_eq!(budget.purse(&mut account).try_reserve(large), 0, "but not for newcomers");
        budget.set_waiting(Share::CutLarge, 0);
        budget.set_waiting(Share::Whole, 1);
        assert_eq!(budget.purse(&mut account).try_reserve(large), 0, "whole pbs go first");
        assert!(budget.is_tight());
    }

    #[test]
    fn a_full_share_grants_all_the_rest_at_once_so_that_nobody_waits_forever() {
        let (mut budget, mut account) = (Budget::new(8 << 20), Account::default());
        let step = Wanted { bytes: 512 << 10, rest: 1 << 20, share: Share::CutLarge };
        let given: Vec<usize> = (0..10).map(|_| budget.purse(&mut account).try_reserve(step)).collect();
        assert_eq!(given[..8], [512 << 10; 8]);
        assert_eq!(given[8..], [1 << 20, 0], "the share is full: one gets all that it needs");
        budget.purse(&mut account).leave_share(Share::CutLarge, 1 << 20);
        assert_eq!(budget.purse(&mut account).try_reserve(step), 1 << 20, "then the next");
    }

    #[test]
    fn closing_an_account_releases_all_but_what_was_handed_over() {
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

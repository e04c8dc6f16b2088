//! Credit (protocol section 4): how far the numbers of messages may go.
//!
//! The receiver of messages holds a [`ReceiveWindow`], the sender a [`SendWindow`].

use crate::base::error::PeerFault;
use crate::base::limits::INITIAL_CREDIT;
use crate::base::units::MsgNum;

/// The highest number that may be sent before any credit was given.
const INITIAL: MsgNum = MsgNum::new(INITIAL_CREDIT as u64);

/// What a receiver of messages keeps. Invariant, checked in every mutator:
/// `spoken_for ≤ received ≤ granted ≤ max(initial credit, spoken_for + window)`.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveWindow {
    spoken_for: MsgNum,
    received: MsgNum,
    granted: MsgNum,
    window: u32,
}

impl ReceiveWindow {
    /// Nothing received, the initial credit granted.
    pub fn new(window: u32) -> Self {
        Self { spoken_for: MsgNum::ZERO, received: MsgNum::ZERO, granted: INITIAL, window }
    }

    /// The last number that was spoken for.
    pub fn spoken_for(&self) -> MsgNum {
        self.spoken_for
    }

    /// The last number that came.
    pub fn received(&self) -> MsgNum {
        self.received
    }

    /// The highest number that may come.
    pub fn granted(&self) -> MsgNum {
        self.granted
    }

    /// `count` messages came. None of them counts where they go past the credit.
    pub fn receive(&mut self, count: u32) -> Result<MsgNum, PeerFault> {
        let last = self.received.plus(u64::from(count));
        if last > self.granted {
            return Err(PeerFault::CreditExceeded { sent: last, granted: self.granted });
        }
        self.received = last;
        self.check();
        Ok(last)
    }

    /// Every message up to `through` is spoken for.
    pub fn speak_for(&mut self, through: MsgNum) {
        assert!(
            through >= self.spoken_for && through <= self.received,
            "numbers are spoken for once, in order"
        );
        self.spoken_for = through;
        self.check();
    }

    /// How many more the window allows to be granted.
    pub fn grantable(&self) -> u64 {
        self.spoken_for.plus(u64::from(self.window)).since(self.granted)
    }

    /// Grants so many more, at most [`Self::grantable`]; returns the highest number that may come.
    pub fn grant(&mut self, count: u64) -> MsgNum {
        self.granted = self.granted.plus(count.min(self.grantable()));
        self.check();
        self.granted
    }

    /// Whether the sender has less than half of the window left, so that credit is worth a message of its own.
    pub fn is_low(&self) -> bool {
        self.granted.since(self.received) < u64::from(self.window) / 2
    }

    fn check(&self) {
        debug_assert!(self.spoken_for <= self.received && self.received <= self.granted);
        debug_assert!(self.granted <= INITIAL.max(self.spoken_for.plus(u64::from(self.window))));
    }
}

/// What a sender of messages keeps. Invariant: `sent ≤ granted`.
#[derive(Clone, Copy, Debug)]
pub struct SendWindow {
    sent: MsgNum,
    granted: MsgNum,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self { sent: MsgNum::ZERO, granted: INITIAL }
    }
}

impl SendWindow {
    /// The receiver said how far we may go. Lower numbers are ignored.
    pub fn raise(&mut self, granted: MsgNum) {
        self.granted = self.granted.max(granted);
    }

    /// How many more may be sent.
    pub fn available(&self) -> u64 {
        self.granted.since(self.sent)
    }

    /// `count` are sent; returns the last one's number. Going past the credit would be our own bug.
    pub fn send(&mut self, count: u64) -> MsgNum {
        assert!(count <= self.available(), "never past our credit");
        self.sent = self.sent.plus(count);
        self.sent
    }

    /// The last number sent.
    pub fn sent(&self) -> MsgNum {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_invariant_holds_whatever_happens(
            window in 100u32..300,
            steps in proptest::collection::vec((0u8..3, 0u32..200), 0..100),
        ) {
            let mut receiver = ReceiveWindow::new(window);
            let mut sender = SendWindow::default();
            for (step, count) in steps {
                match step {
                    0 => match receiver.receive(count) {
                        Ok(last) => {
                            prop_assert!(u64::from(count) <= sender.available());
                            prop_assert_eq!(sender.send(u64::from(count)), last);
                        }
                        Err(PeerFault::CreditExceeded { sent, granted }) => {
                            prop_assert!(u64::from(count) > sender.available());
                            prop_assert!(sent > granted);
                        }
                        Err(other) => panic!("{other}"),
                    },
                    1 => {
                        let open = receiver.received().since(receiver.spoken_for());
                        receiver.speak_for(receiver.spoken_for().plus(open.min(u64::from(count))));
                    }
                    _ => {
                        let granted = receiver.grant(receiver.grantable() - u64::from(count).min(receiver.grantable()));
                        sender.raise(granted);
                        sender.raise(MsgNum::from_wire(Some(granted.to_wire() - 5)));
                        sender.raise(MsgNum::from_wire(Some(-1)));
                        sender.raise(MsgNum::from_wire(None));
                    }
                }
                let outstanding = receiver.received().since(receiver.spoken_for());
                prop_assert!(outstanding <= u64::from(window).max(INITIAL_CREDIT as u64));
            }
        }
    }
}

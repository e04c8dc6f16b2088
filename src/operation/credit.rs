//! Credit (protocol section 4): how many messages may be sent.
//!
//! The receiver of messages holds a [`ReceiveWindow`], the sender a [`SendWindow`].

use crate::base::error::PeerFault;
use crate::base::limits::INITIAL_CREDIT;
use crate::base::units::MsgNum;

/// The highest number that may be sent before the first grant of credit.
const INITIAL: MsgNum = MsgNum::new(INITIAL_CREDIT as u64);

/// The state of a receiver of messages. Every mutator checks the invariant `spoken_for ≤ received ≤ granted ≤
/// max(initial credit, spoken_for + window)`.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveWindow {
    spoken_for: MsgNum,
    received: MsgNum,
    granted: MsgNum,
    window: u32,
}

impl ReceiveWindow {
    /// Creates a window with nothing received and the initial credit granted. `window` is the most messages
    /// that may be unanswered.
    pub fn new(window: u32) -> Self {
        Self { spoken_for: MsgNum::ZERO, received: MsgNum::ZERO, granted: INITIAL, window }
    }

    /// Returns the last number that was answered: acknowledged or refused.
    pub fn spoken_for(&self) -> MsgNum {
        self.spoken_for
    }

    /// Returns the last number received.
    pub fn received(&self) -> MsgNum {
        self.received
    }

    /// Returns the highest number that the sender may use.
    pub fn granted(&self) -> MsgNum {
        self.granted
    }

    /// Counts `count` received messages. If they exceed the credit, counts none of them and fails.
    pub fn receive(&mut self, count: u32) -> Result<MsgNum, PeerFault> {
        let last = self.received.plus(u64::from(count));
        if last > self.granted {
            return Err(PeerFault::CreditExceeded { sent: last, granted: self.granted });
        }
        self.received = last;
        self.check();
        Ok(last)
    }

    /// Marks every message up to `through` as answered.
    pub fn speak_for(&mut self, through: MsgNum) {
        assert!(
            through >= self.spoken_for && through <= self.received,
            "messages are answered once, in order"
        );
        self.spoken_for = through;
        self.check();
    }

    /// Returns how much more credit the window allows.
    pub fn grantable(&self) -> u64 {
        self.grantable_within(u64::MAX)
    }

    /// Returns how much more credit a smaller window would allow.
    pub fn grantable_within(&self, window: u64) -> u64 {
        self.spoken_for.plus(window.min(u64::from(self.window))).since(self.granted)
    }

    /// Grants `count` more, at most [`Self::grantable`]. Returns the highest number that the sender may use.
    pub fn grant(&mut self, count: u64) -> MsgNum {
        self.granted = self.granted.plus(count.min(self.grantable()));
        self.check();
        self.granted
    }

    /// Returns whether the sender has less than half of the window left, or of `allowed` if that is less, so
    /// that more credit is worth a message of its own.
    pub fn is_low(&self, allowed: u64) -> bool {
        self.granted.since(self.received) < allowed.min(u64::from(self.window)).div_ceil(2)
    }

    fn check(&self) {
        debug_assert!(self.spoken_for <= self.received && self.received <= self.granted);
        debug_assert!(self.granted <= INITIAL.max(self.spoken_for.plus(u64::from(self.window))));
    }
}

/// The state of a sender of messages. Invariant: `sent ≤ granted`.
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
    /// Creates a window of a sender that may send nothing before the first grant of credit.
    pub fn without_credit() -> Self {
        Self { sent: MsgNum::ZERO, granted: MsgNum::ZERO }
    }

    /// Raises the credit to the number that the receiver sent. Ignores lower numbers.
    pub fn raise(&mut self, granted: MsgNum) {
        self.granted = self.granted.max(granted);
    }

    /// Returns how many more messages may be sent.
    pub fn available(&self) -> u64 {
        self.granted.since(self.sent)
    }

    /// Counts `count` messages as sent, and returns the number of the last.
    ///
    /// # Panics
    ///
    /// If `count` exceeds the credit: that would be a bug of the server.
    pub fn send(&mut self, count: u64) -> MsgNum {
        assert!(count <= self.available(), "sends within the credit");
        self.sent = self.sent.plus(count);
        self.sent
    }

    /// Returns the last number sent.
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
        fn any_sequence_of_steps_keeps_the_invariant(
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

//! A run that is to end early: everything stops, and what was measured so far is reported.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use glommio::timer::Timer;

/// How long connections get after the interrupt for what is under way.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(2);

/// Whether and when a run was interrupted. Clones share it.
#[derive(Clone, Debug)]
pub struct Interrupt {
    at: Arc<OnceLock<Instant>>,
    /// Closed by the interrupt.
    channel: (Sender<()>, Receiver<()>),
}

impl Default for Interrupt {
    fn default() -> Self {
        Self { at: Arc::default(), channel: async_channel::bounded(1) }
    }
}

impl Interrupt {
    /// Interrupts the run. False where it was interrupted before.
    pub fn raise(&self) -> bool {
        let is_first = self.at.set(Instant::now()).is_ok();
        self.channel.0.close();
        is_first
    }

    /// When it was interrupted, if it was.
    pub fn at(&self) -> Option<Instant> {
        self.at.get().copied()
    }

    /// Whether it was.
    pub fn is_raised(&self) -> bool {
        self.at.get().is_some()
    }

    /// Ends when a connection that is still under way is to be given up. On an executor.
    pub(super) async fn give_up(&self) {
        // Nothing is ever sent: this is the interrupt.
        let _ = self.channel.1.recv().await;
        Timer::new(STOP_GRACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_interrupt_counts() {
        let interrupt = Interrupt::default();
        assert!(!interrupt.is_raised());
        let other = interrupt.clone();
        assert!(interrupt.raise());
        let at = other.at().unwrap();
        assert!(!other.raise(), "the second ends the process");
        assert_eq!(interrupt.at(), Some(at));
    }
}

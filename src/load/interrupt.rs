//! The early end of a run: everything stops, and what was measured so far is reported.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use glommio::timer::Timer;

/// How long connections may continue after the interrupt, to finish what is in flight.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(2);

/// Whether and when a run was interrupted. Clones share this state.
#[derive(Clone, Debug)]
pub struct Interrupt {
    at: Arc<OnceLock<Instant>>,
    /// The interrupt closes this channel.
    channel: (Sender<()>, Receiver<()>),
}

impl Default for Interrupt {
    fn default() -> Self {
        Self { at: Arc::default(), channel: async_channel::bounded(1) }
    }
}

impl Interrupt {
    /// Interrupts the run. Returns false if it was already interrupted.
    pub fn raise(&self) -> bool {
        let is_first = self.at.set(Instant::now()).is_ok();
        self.channel.0.close();
        is_first
    }

    /// Returns when the run was interrupted, if it was.
    pub fn at(&self) -> Option<Instant> {
        self.at.get().copied()
    }

    /// Returns whether the run was interrupted.
    pub fn is_raised(&self) -> bool {
        self.at.get().is_some()
    }

    /// Waits until a connection must be given up: [`STOP_GRACE`] after the interrupt. Needs a glommio
    /// executor.
    pub(super) async fn give_up(&self) {
        // The channel carries no messages. It closes at the interrupt.
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
        assert!(!other.raise(), "only the first call interrupts");
        assert_eq!(interrupt.at(), Some(at));
    }
}

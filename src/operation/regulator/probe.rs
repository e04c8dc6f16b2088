//! When to look for the shortest commit of a busy store.
//!
//! In a busy store a commit waits for a round that was begun before, so even the shortest one grows with what is under
//! way. The regulator allows more for longer commits. Therefore a store that was slow for a moment could stay at a
//! long delay for ever. A probe allows little for some windows, and so shows how long a commit really takes, like
//! BBR's probe of the shortest round trip (draft-cardwell-iccrg-bbr-congestion-control, ProbeRTT).

use super::pace::WINDOW_NS;

/// The number of windows with a long delay before the first probe.
const WAIT: u32 = 20;
/// The largest number of windows between probes that find nothing.
const WAIT_MAX: u32 = 32 * WAIT;

/// The state of the probes.
#[derive(Debug)]
pub(super) struct Probe {
    /// The windows that the present probe still takes.
    left: u32,
    /// The shortest commit before this probe, in nanoseconds.
    before_ns: u64,
    /// The successive windows with a long delay, and after how many of them the next probe begins.
    long: u32,
    wait: u32,
}

impl Probe {
    pub(super) fn new() -> Self {
        Self { left: 0, before_ns: 0, long: 0, wait: WAIT }
    }

    /// Returns whether little is allowed now.
    pub(super) fn is_on(&self) -> bool {
        self.left > 0
    }

    /// Ends a window. `is_long` tells whether the store was saturated, and its shortest commit prolongs the delay.
    pub(super) fn end_window(&mut self, is_long: bool, commit_ns: u64, delay_ns: u64) {
        if self.left > 0 {
            self.left -= 1;
            if self.left == 0 {
                let found = commit_ns < self.before_ns - self.before_ns / 8;
                self.wait = if found { WAIT } else { (2 * self.wait).min(WAIT_MAX) };
            }
            return;
        }
        self.long = if is_long { self.long + 1 } else { 0 };
        if self.long > self.wait {
            self.long = 0;
            self.before_ns = commit_ns;
            // What was allowed before is committed before the last window.
            self.left = delay_ns.div_ceil(WINDOW_NS) as u32 + 1;
        }
    }
}

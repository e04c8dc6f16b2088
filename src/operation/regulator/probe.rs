//! When to look for the shortest commit of a busy store.
//!
//! In a busy store a commit waits for a round that was begun before, so even the shortest one grows with what is under
//! way. The regulator allows more for longer commits. Therefore a store that was slow for a moment could stay at a
//! long delay for ever. A probe allows little for some windows, and so shows how long a commit really takes, like
//! BBR's probe of the shortest round trip (draft-cardwell-iccrg-bbr-congestion-control, ProbeRTT).

use super::WINDOW_NS;

/// The number of windows with a long delay before the first probe.
const WAIT: u32 = 20;
/// The largest number of windows between probes that find nothing.
const WAIT_MAX: u32 = 32 * WAIT;

/// The windows in which a probe waits until what was allowed before is committed. After a stall of a minute, it does not
/// wait for a minute.
const WINDOWS_MAX: u64 = 10;

/// The state of the probes.
#[derive(Debug)]
pub(super) struct Probe {
    /// The windows that the present probe still takes.
    left: u32,
    /// The shortest commit before this probe, and during it, in nanoseconds.
    before_ns: u64,
    least_ns: u64,
    /// The windows with a long delay, less those without, and after how many the next probe begins.
    long: u32,
    wait: u32,
}

impl Probe {
    pub(super) fn new() -> Self {
        Self { left: 0, before_ns: 0, least_ns: 0, long: 0, wait: WAIT }
    }

    /// Returns whether little is allowed now.
    pub(super) fn is_on(&self) -> bool {
        self.left > 0
    }

    /// Lets the next probe begin as early as the first one.
    pub(super) fn repeat_soon(&mut self) {
        self.wait = WAIT;
    }

    /// Ends a probe early.
    pub(super) fn end(&mut self) {
        self.left = 0;
    }

    /// Ends a window whose shortest commit took `shortest_ns`. `is_long` tells whether the delay is longer than it may
    /// have to be. `commit_ns` is the shortest commit known, and what is under way is committed within `drains_ns`.
    /// Returns the shortest commit to rely on from now on, if a probe ends.
    pub(super) fn end_window(
        &mut self,
        is_long: bool,
        shortest_ns: u64,
        commit_ns: u64,
        drains_ns: u64,
    ) -> Option<u64> {
        if self.left > 0 {
            self.left -= 1;
            self.least_ns = self.least_ns.min(shortest_ns);
            if self.left > 0 {
                return None;
            }
            let is_shorter = self.least_ns < self.before_ns - self.before_ns / 8;
            self.wait = if is_shorter { WAIT } else { (2 * self.wait).min(WAIT_MAX) };
            return Some(if is_shorter { self.least_ns } else { commit_ns });
        }
        self.long = if is_long { self.long + 1 } else { self.long.saturating_sub(1) };
        if self.long > self.wait {
            self.long = 0;
            (self.before_ns, self.least_ns) = (commit_ns, commit_ns);
            // What was allowed before is committed before the last window.
            self.left = drains_ns.div_ceil(WINDOW_NS).min(WINDOWS_MAX) as u32 + 1;
        }
        None
    }
}

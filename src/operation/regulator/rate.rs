//! The rate at which a store commits when it is the bound.

use super::WINDOW_NS;
use super::commit::Commits;

/// The number of windows that the rate is the largest of.
const RATES: usize = 4;

/// Measured rates.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// Bytes per second, the newest last; 0 where nothing is measured.
    recent: [u64; RATES],
    /// The bytes and the length of the window before, if the store was busy in it.
    before: (u64, u64),
}

impl Rate {
    /// Returns the rate in bytes per second, 0 before it is measured.
    pub(super) fn get(&self) -> u64 {
        self.recent.iter().copied().max().unwrap_or(0)
    }

    /// Ends a window. The store committed `bytes` in it. `is_measured` tells whether that shows the rate of the store,
    /// and `was_probing` whether a probe held the store back.
    pub(super) fn end_window(&mut self, bytes: u64, commits: &Commits, is_measured: bool, was_probing: bool) {
        let length_ns = commits.length_ns;
        if is_measured && !was_probing {
            self.recent.rotate_left(1);
            // Where rounds are long, a window may hold one too many.
            let (more, more_ns) = if commits.mean_ns > WINDOW_NS / 2 { self.before } else { (0, 0) };
            self.recent[RATES - 1] = bytes_per_sec(bytes + more, length_ns + more_ns);
        }
        self.before = if was_probing || commits.was_idle { (0, 0) } else { (bytes, length_ns) };
    }
}

/// Returns a rate in bytes per second, at least 1.
pub(super) fn bytes_per_sec(bytes: u64, ns: u64) -> u64 {
    (u128::from(bytes) * 1_000_000_000 / u128::from(ns.max(1))).clamp(1, u128::from(u64::MAX)) as u64
}

/// Returns the bytes that pass at a rate within a time.
pub(super) fn bytes_within(rate: u64, ns: u64) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(ns) / 1_000_000_000).unwrap_or(u64::MAX)
}

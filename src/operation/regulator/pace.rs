//! The pace of a store, and what all of its producers together may have under way.

use super::WINDOW_NS;
use super::commit::{Commit, Commits};
use super::rate::{Rate, bytes_per_sec, bytes_within};
use super::trial::Trial;
use crate::base::clock::Now;

/// The bytes that all producers may have under way before the store is measured.
pub(super) const UNDER_WAY_AT_FIRST: u64 = 8 << 20;
/// The largest number of doublings while the store has room.
const DOUBLINGS_MAX: u32 = 6;
/// The bytes under way that doublings may reach.
const UNDER_WAY_MAX: u64 = 64 << 20;
/// The largest number of bytes under way: 1 TiB, so that products with them fit in 64 bits.
const UNDER_WAY_LIMIT: u64 = 1 << 40;
/// The number of successive windows with very little under way after which the store counts as slower than
/// before.
const STARVED_MAX: u32 = 4;
/// The number of windows for which a busy shard counts as busy.
const BUSY_WINDOWS: u32 = 8;

/// The measured pace of a store.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Rate,
    window: Window,
    commit: Commit,
    /// The batches that the store has not answered, and when their number last became 0.
    in_store: usize,
    idle_since_ns: u64,
    /// The doublings in force because the store had room.
    doublings: u32,
    /// The number of successive windows with very little under way.
    starved: u32,
    trial: Trial,
    /// The number of windows for which the shard still counts as busier than its store.
    busy: u32,
    under_way_max: u64,
}

/// A measurement in progress.
#[derive(Debug, Default)]
struct Window {
    began_ns: u64,
    bytes: u64,
    commits: u64,
    commits_ns: u64,
    shortest_ns: Option<u64>,
    /// The time without batches in the store, in nanoseconds.
    idle_ns: u64,
    /// The time for which the shard worked, in nanoseconds.
    busy_ns: u64,
    /// Whether a producer had more than half of its allowance under way.
    is_limited: bool,
}

impl Pace {
    pub(super) fn new(target_ns: u64) -> Self {
        Self {
            rate: Rate::default(),
            window: Window::default(),
            commit: Commit::new(target_ns),
            in_store: 0,
            idle_since_ns: 0,
            doublings: 0,
            starved: 0,
            trial: Trial::new(),
            busy: 0,
            under_way_max: UNDER_WAY_AT_FIRST,
        }
    }

    /// Returns the bytes that all producers together may have under way.
    pub(super) fn under_way_max(&self) -> u64 {
        self.under_way_max
    }

    /// Returns the rate in bytes per second, 0 before it is measured.
    pub(super) fn rate(&self) -> u64 {
        self.rate.get()
    }

    /// Returns how long commits take while little is under way.
    pub(super) fn commit(&self) -> &Commit {
        &self.commit
    }

    /// Returns the number of batches that the store has not answered.
    pub(super) fn in_store(&self) -> usize {
        self.in_store
    }

    /// Returns whether the shard was busy lately and its store was not, so that messages wait in the sockets.
    pub(super) fn is_shard_busy(&self) -> bool {
        self.busy > 0
    }

    /// Counts time for which the shard worked, in nanoseconds.
    pub(super) fn handle_busy(&mut self, nanos: u64) {
        self.window.busy_ns += nanos;
    }

    /// Counts a batch that is on its way to the store.
    pub(super) fn handle_submitted(&mut self, now: Now) {
        if self.in_store == 0 {
            self.window.idle_ns += now.since_ns(self.idle_since_ns);
        }
        self.in_store += 1;
    }

    /// Records that a producer needs more than it is allowed, or may soon.
    pub(super) fn handle_limited(&mut self) {
        self.window.is_limited = true;
    }

    /// Counts the answer of the store for a batch: the bytes that it committed, and how long that took. Returns
    /// whether the window is over, so that [`Self::end_window`] is due.
    #[must_use]
    pub(super) fn handle_answered(&mut self, now: Now, committed: Option<(u64, u64)>) -> bool {
        debug_assert!(self.in_store > 0, "the store answers once for each batch");
        self.in_store = self.in_store.saturating_sub(1);
        if self.in_store == 0 {
            self.idle_since_ns = now.mono_ns;
        }
        let window = &mut self.window;
        if let Some((bytes, commit_ns)) = committed {
            window.bytes += bytes;
            window.commits += 1;
            window.commits_ns += commit_ns;
            window.shortest_ns = Some(window.shortest_ns.map_or(commit_ns, |least| least.min(commit_ns)));
        }
        now.since_ns(window.began_ns) >= WINDOW_NS
    }

    /// Draws the conclusions from a window, and begins the next one. `is_starved` and `is_crowded` tell whether
    /// producers have no more than the minimum: a few, or many.
    pub(super) fn end_window(&mut self, now: Now, is_starved: bool, is_crowded: bool) {
        if self.in_store == 0 {
            self.window.idle_ns += now.since_ns(self.idle_since_ns);
            self.idle_since_ns = now.mono_ns;
        }
        let next = Window { began_ns: now.mono_ns, ..Window::default() };
        let window = std::mem::replace(&mut self.window, next);
        let length_ns = now.since_ns(window.began_ns);
        let Some(shortest_ns) = window.shortest_ns else { return };
        self.starved = if is_starved { self.starved + 1 } else { 0 };
        let commits = Commits {
            length_ns,
            shortest_ns,
            mean_ns: window.commits_ns / window.commits.max(1),
            was_idle: window.idle_ns > length_ns / 16,
            was_starved: self.starved > STARVED_MAX,
        };
        let rate = bytes_per_sec(window.bytes, length_ns);
        let least_used = if self.rate() == 0 { 0 } else { self.measured() / 2 };
        let was_used = bytes_within(rate, commits.mean_ns) >= least_used;
        let was_saturated = !commits.was_idle && was_used && self.commit.are_waiting(&commits);
        let had_room = window.idle_ns > length_ns / 2 || self.commit.are_short(&commits);
        let was_probing = self.commit.is_probing();
        let is_first =
            self.busy == BUSY_WINDOWS && self.rate() == 0 && window.is_limited && length_ns < 2 * WINDOW_NS;
        self.busy = match window.busy_ns > length_ns / 4 * 3 {
            _ if was_saturated => self.busy / 2,
            true => BUSY_WINDOWS,
            false => self.busy.saturating_sub(1),
        };
        let had_less = was_probing && rate < self.rate() / 2;
        self.commit.end_window(&commits, was_saturated, had_less, !is_crowded);
        let is_measured = was_saturated || is_first || self.within_delay(rate) > self.measured();
        self.rate.end_window(window.bytes, &commits, is_measured, was_probing);
        if !was_probing {
            self.doublings = match (was_saturated, window.is_limited) {
                (true, _) => self.doublings.saturating_sub(2),
                _ if self.busy > 0 => self.tried(rate, had_room && window.is_limited),
                (false, false) => self.doublings.saturating_sub(1),
                (false, true) if had_room => (self.doublings + 1).min(DOUBLINGS_MAX),
                (false, true) => self.doublings,
            };
        }
        if self.busy == 0 {
            self.trial.end();
        }
        self.trial.end_window(rate);
        let measured = self.measured();
        self.under_way_max = measured.max((measured << self.doublings).min(UNDER_WAY_MAX));
    }

    /// Returns the doublings after a window in which the shard was busy. `more` tells whether one more may help.
    fn tried(&mut self, rate: u64, more: bool) -> u32 {
        if let Some(before) = self.trial.failed(rate, self.doublings) {
            self.doublings.min(before)
        } else if more && self.doublings < DOUBLINGS_MAX && self.trial.goes_on(rate, self.doublings) {
            self.doublings + 1
        } else if self.trial.is_over(self.doublings) {
            self.doublings.saturating_sub(1)
        } else {
            self.doublings
        }
    }

    /// Returns the bytes that the store commits within the delay, as far as it is measured.
    fn measured(&self) -> u64 {
        match self.rate() {
            0 => UNDER_WAY_AT_FIRST,
            rate => self.within_delay(rate),
        }
    }

    fn within_delay(&self, rate: u64) -> u64 {
        bytes_within(rate, self.commit.delay_ns()).min(UNDER_WAY_LIMIT)
    }
}

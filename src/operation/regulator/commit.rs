//! How long the commits of a store take while little is under way, and so how long a commit may wait for others.
//!
//! Commits of a disk take about the same time. Those of a cluster may take from 5 to 50 ms, whatever is under way:
//! then the shortest commit says nothing about most of them. If the shard allowed only four of the shortest, the store
//! would commit less, the shard would take that for the rate of the store, and allow still less. Therefore the *usual*
//! commit counts, too. The mean commit of a busy store is no measure of it, because it grows with what is under way.

use super::WINDOW_NS;
use super::probe::Probe;

/// The number of shortest commits that the delay may always last.
const COMMITS: u64 = 4;
/// The same of usual commits.
const USUAL_COMMITS: u64 = 2;
/// Commits wait for others if their mean is this many times the shortest.
const WAITING: u64 = 2;
/// The largest value of the shortest and of the usual commit, in nanoseconds. Longer ones are stalls.
const COMMIT_NS_MAX: u64 = 100_000_000;
/// During a probe, producers may have their allowance divided by this under way: what the store commits in half of
/// a shortest commit.
const PROBED: u64 = 2 * COMMITS;
/// A window that lasts this many times its length ends a probe: nobody sends.
const SILENT: u64 = 4;

/// The commits of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commits {
    pub(super) length_ns: u64,
    pub(super) shortest_ns: u64,
    pub(super) mean_ns: u64,
    /// Whether the store had nothing to do for some of the time.
    pub(super) was_idle: bool,
    /// Whether so little was under way for long that no commit waited for others.
    pub(super) was_starved: bool,
}

/// The lengths of commits while little is under way.
#[derive(Debug)]
pub(super) struct Commit {
    target_ns: u64,
    /// The shortest commit, in nanoseconds; 0 before the first window ends.
    shortest_ns: u64,
    /// The mean commit, in nanoseconds; 0 until it is needed and measured.
    usual_ns: u64,
    probe: Probe,
}

impl Commit {
    pub(super) fn new(target_ns: u64) -> Self {
        Self { target_ns, shortest_ns: 0, usual_ns: 0, probe: Probe::new() }
    }

    /// Returns the shortest commit, in nanoseconds; 0 before the first window ends.
    pub(super) fn shortest_ns(&self) -> u64 {
        self.shortest_ns
    }

    /// Returns the mean commit, in nanoseconds; 0 until it is needed and measured.
    pub(super) fn usual_ns(&self) -> u64 {
        self.usual_ns
    }

    /// Returns the delay that the bytes under way may have, in nanoseconds.
    pub(super) fn delay_ns(&self) -> u64 {
        self.short_delay_ns().max(USUAL_COMMITS * self.usual_ns)
    }

    /// The delay if all commits were as short as the shortest one.
    fn short_delay_ns(&self) -> u64 {
        self.target_ns.max(COMMITS * self.shortest_ns)
    }

    /// Returns whether a probe is on.
    pub(super) fn is_probing(&self) -> bool {
        self.probe.is_on()
    }

    /// Returns what a producer may have under way of this allowance, in bytes: less during a probe.
    pub(super) fn probed(&self, bytes: u64) -> u64 {
        if self.is_probing() { bytes / PROBED } else { bytes }
    }

    /// Returns whether commits waited for others.
    pub(super) fn are_waiting(&self, commits: &Commits) -> bool {
        let shortest_ns = match self.shortest_ns {
            0 => commits.shortest_ns,
            known_ns => known_ns.min(commits.shortest_ns),
        };
        commits.mean_ns >= (WAITING * shortest_ns).max(self.usual_ns / 2 * 3)
    }

    /// Returns whether commits would still be short if twice as much was under way.
    pub(super) fn are_short(&self, commits: &Commits) -> bool {
        commits.mean_ns < (self.short_delay_ns() / 2).max(self.usual_ns / 4 * 3)
    }

    /// Takes the mean commit of a probe for the usual one. If the store did as much as without the probe, a delay of that
    /// mean is enough.
    fn handle_probed(&mut self, mean_ns: u64, had_less: bool) {
        let usual_ns = if had_less { mean_ns } else { mean_ns / USUAL_COMMITS };
        if usual_ns > self.usual_ns / 2 * 3 {
            self.probe.repeat_soon();
        }
        self.usual_ns = usual_ns;
    }

    /// Ends a window. `was_saturated` tells whether the store was the bound, `had_less` whether a probe let the store do
    /// less than half of what it can, and `can_probe` whether less may be allowed than now.
    pub(super) fn end_window(
        &mut self,
        commits: &Commits,
        was_saturated: bool,
        had_less: bool,
        can_probe: bool,
    ) {
        let Commits { length_ns, shortest_ns, mean_ns, was_idle, was_starved } = *commits;
        if was_starved || was_idle || shortest_ns < self.shortest_ns || self.shortest_ns == 0 {
            self.shortest_ns = shortest_ns.min(COMMIT_NS_MAX);
        }
        if was_starved {
            self.usual_ns = mean_ns.min(COMMIT_NS_MAX);
        }
        self.usual_ns -= self.usual_ns.saturating_sub(mean_ns) / 4;
        if length_ns > SILENT * WINDOW_NS && was_idle {
            self.probe.end();
        }
        let is_prolonged = was_saturated && self.delay_ns() > self.target_ns;
        let is_missed = !was_idle && mean_ns > self.delay_ns() / 8 * 9;
        let is_long = can_probe && (is_prolonged || is_missed);
        let drains_ns = self.delay_ns().max(mean_ns);
        if let Some(found_ns) = self.probe.end_window(is_long, shortest_ns, self.shortest_ns, drains_ns) {
            self.shortest_ns = found_ns;
            if can_probe {
                self.handle_probed(mean_ns.min(COMMIT_NS_MAX), had_less);
            }
        }
    }
}

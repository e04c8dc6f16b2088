//! Credit by delay: bounds what the producers of a shard have under way, so that the store commits it within
//! a target delay.
//!
//! By Little's law (J. D. C. Little, Operations Research 9, 1961), bytes under way wait for `bytes ÷ rate`.
//! Therefore a shard allows
//!
//! ```text
//! all producers together   rate × max(target, 4 × shortest commit)
//! one busy producer        that ÷ the number of busy producers                 (max-min fair)
//! one quiet producer       twice what it sent lately, or an equal part of the whole if that is more
//! ```
//!
//! Each producer may always have [`GRANT_MESSAGES_MIN`] messages or [`GRANT_BYTES_MIN`] bytes under way. If
//! there are more producers than the target has room for, the delay grows. `produce_target_delay` sets the
//! target; 0, the default, switches all of this off.
//!
//! - The *rate* is the largest of the last [`RATES`] windows in which the store was busy (15/16 of the time). Other windows
//!   show what producers sent, or what a network let through. They can raise the rate, but never lower it. If the
//!   store is idle for half of a window, the shard allows twice as much: a distant producer needs it to fill its
//!   network.
//! - The *shortest commit* keeps slow disks busy: while the disk syncs one round, it receives the next one. Under
//!   load a commit also waits for others, so a busy window cannot raise this value.
//! - *Busy producers* are counted by what they have under way: a producer that uses half of its allowance counts
//!   as half. The count covers the last two epochs, so that a producer that falls silent stops counting.
//! - The bound for *quiet producers* keeps a crowd from waking up with far more credit than the store can take. Credit
//!   that was granted before stays granted.

use std::time::Duration;

use crate::base::clock::Now;

/// The messages that a producer may always have under way, if they have no more than [`GRANT_BYTES_MIN`]
/// bytes.
pub const GRANT_MESSAGES_MIN: u64 = 256;
/// The bytes that a producer may always have under way, if they are no more than [`GRANT_MESSAGES_MIN`]
/// messages. One message is always allowed.
pub const GRANT_BYTES_MIN: u64 = 32 << 10;

/// The size of messages, in bytes, that is assumed before the first one arrives.
const MEAN_AT_FIRST: u64 = 100;

/// The bytes that all producers may have under way before the store is measured.
const UNDER_WAY_AT_FIRST: u64 = 8 << 20;
/// The length of a window, in nanoseconds.
const WINDOW_NS: u64 = 50_000_000;
/// The number of busy windows that the rate is the largest of.
const RATES: usize = 4;
/// The largest number of doublings while the store is idle.
const DOUBLINGS_MAX: u32 = 6;
/// The bytes under way that doublings may reach.
const UNDER_WAY_MAX: u64 = 64 << 20;
/// The number of shortest commits that the delay may always last.
const COMMITS: u64 = 4;
/// The largest value of the shortest commit, in nanoseconds. Longer ones are stalls.
const COMMIT_NS_MAX: u64 = 100_000_000;
/// The number of successive windows with very little under way after which the store counts as slower than
/// before.
const STARVED_MAX: u32 = 4;
/// The length of an epoch, in nanoseconds. A silent producer counts for one to two epochs.
const EPOCH_NS: u64 = 100_000_000;
/// The weight of a producer that uses its whole allowance.
const WHOLE: u64 = 1 << 10;

/// Measures the store of a shard, and divides what it can take among the producers.
#[derive(Debug)]
pub struct Regulator {
    target_ns: u64,
    /// Bytes per second, the newest last. Never 0.
    rates: [u64; RATES],
    window: Window,
    /// The shortest commit, in nanoseconds; 0 before the first window ends.
    commit_ns: u64,
    /// The batches that the store has not answered, and when their number last became 0 and last ceased to be
    /// 0.
    in_store: usize,
    idle_since_ns: u64,
    busy_since_ns: u64,
    epoch: u32,
    epoch_ns: u64,
    /// The sum of the producers' weights in the previous epoch, and in this one.
    weights: [u64; 2],
    /// The number of open produce operations.
    open: u64,
    /// The doublings in force because the store was idle.
    doublings: u32,
    /// The number of successive windows with very little under way.
    starved: u32,
}

/// A measurement in progress.
#[derive(Debug, Default)]
struct Window {
    began_ns: u64,
    bytes: u64,
    shortest_ns: Option<u64>,
    /// The time without batches in the store, in nanoseconds.
    idle_ns: u64,
}

/// The state of one producer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Regulated {
    /// Whether it is counted among the open producers.
    is_open: bool,
    epoch: u32,
    weight: u64,
    /// The bytes received in the previous epoch, and in this one.
    came: [u64; 2],
    /// Its recent messages and their bytes, in sixteenths: each request lets earlier ones fade by a
    /// sixteenth.
    messages_x16: u64,
    bytes_x16: u64,
}

impl Regulator {
    /// Creates the regulator of a store that has not been measured. With a target of 0, only `produce_window`
    /// bounds a producer.
    pub fn new(target: Duration) -> Self {
        let target_ns = u64::try_from(target.as_nanos()).unwrap_or(u64::MAX);
        Self {
            target_ns,
            rates: [bytes_per_sec(UNDER_WAY_AT_FIRST, target_ns); RATES],
            window: Window::default(),
            commit_ns: 0,
            in_store: 0,
            idle_since_ns: 0,
            busy_since_ns: 0,
            epoch: 1,
            epoch_ns: 0,
            weights: [0; 2],
            open: 0,
            doublings: 0,
            starved: 0,
        }
    }

    /// Returns the bytes that all producers together may have under way.
    pub fn under_way_max(&self) -> u64 {
        let delay_ns = self.target_ns.max(COMMITS * self.commit_ns);
        let bytes = (u128::from(self.rate()) * u128::from(delay_ns) / 1_000_000_000) as u64;
        bytes.max((bytes << self.doublings).min(UNDER_WAY_MAX))
    }

    /// Adds a producer. It counts as busy at first, because many may start together.
    pub fn open(&mut self) -> Regulated {
        self.open += 1;
        self.weights[1] += WHOLE;
        Regulated { is_open: true, epoch: self.epoch, weight: WHOLE, ..Regulated::default() }
    }

    /// Removes a producer.
    pub fn close(&mut self, regulated: &mut Regulated) {
        if !std::mem::take(&mut regulated.is_open) {
            return;
        }
        debug_assert!(self.open > 0, "a producer is removed once");
        self.open = self.open.saturating_sub(1);
        if regulated.epoch == self.epoch {
            debug_assert!(regulated.weight <= self.weights[1], "the sum holds every weight of its epoch");
            self.weights[1] = self.weights[1].saturating_sub(regulated.weight);
        }
    }

    /// Counts messages that a producer sent.
    #[inline]
    pub fn handle_received(&self, regulated: &mut Regulated, messages: u64, bytes: u64) {
        if self.is_off() {
            return;
        }
        regulated.advance(self.epoch);
        regulated.came[1] += bytes;
        regulated.messages_x16 = regulated.messages_x16 - regulated.messages_x16 / 16 + 16 * messages;
        regulated.bytes_x16 = regulated.bytes_x16 - regulated.bytes_x16 / 16 + 16 * bytes;
    }

    /// Counts a batch that is on its way to the store.
    pub fn handle_submitted(&mut self, now: Now) {
        if self.is_off() {
            return;
        }
        if self.in_store == 0 {
            self.window.idle_ns += now.since_ns(self.idle_since_ns);
            self.busy_since_ns = now.mono_ns;
        }
        self.in_store += 1;
    }

    /// Records how long the commit of a batch took, from here to the store and back.
    pub fn handle_commit(&mut self, commit_ns: u64) {
        let shortest_ns = self.window.shortest_ns.map_or(commit_ns, |shortest| shortest.min(commit_ns));
        self.window.shortest_ns = Some(shortest_ns);
    }

    /// Counts the answer of the store for a batch. `bytes` is 0 if the store refused it.
    pub fn handle_answered(&mut self, now: Now, bytes: u64) {
        if self.is_off() {
            return;
        }
        debug_assert!(self.in_store > 0, "the store answers once for each batch");
        self.in_store = self.in_store.saturating_sub(1);
        if self.in_store == 0 {
            self.idle_since_ns = now.mono_ns;
        }
        self.window.bytes += bytes;
        if now.since_ns(self.window.began_ns) >= WINDOW_NS {
            self.end_window(now);
        }
        self.advance(now);
    }

    /// Returns whether only `produce_window` bounds producers.
    fn is_off(&self) -> bool {
        self.target_ns == 0
    }

    /// Enters the epoch of this time. After silence, the previous epoch is empty.
    fn advance(&mut self, now: Now) {
        let passed_ns = now.since_ns(self.epoch_ns);
        if passed_ns < EPOCH_NS {
            return;
        }
        // If the store was busy all the time, producers were silent because they waited for it.
        let is_next = passed_ns < 2 * EPOCH_NS || self.busy_since_ns <= self.epoch_ns;
        self.epoch_ns = now.mono_ns;
        self.epoch = self.epoch.wrapping_add(if is_next { 1 } else { 2 });
        self.weights = if is_next { [self.weights[1], 0] } else { [0, 0] };
    }

    fn rate(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(1)
    }

    fn end_window(&mut self, now: Now) {
        if self.in_store == 0 {
            self.window.idle_ns += now.since_ns(self.idle_since_ns);
            self.idle_since_ns = now.mono_ns;
        }
        let next = Window { began_ns: now.mono_ns, ..Window::default() };
        let Window { began_ns, bytes, shortest_ns, idle_ns } = std::mem::replace(&mut self.window, next);
        let was_idle = idle_ns > now.since_ns(began_ns) / 16;
        let was_mostly_idle = idle_ns > now.since_ns(began_ns) / 2;
        let rate = bytes_per_sec(bytes, now.since_ns(began_ns));
        if !was_idle || rate > self.rate() {
            self.rates.rotate_left(1);
            self.rates[RATES - 1] = rate;
        }
        self.doublings = match (was_idle, was_mostly_idle) {
            (_, true) => (self.doublings + 1).min(DOUBLINGS_MAX),
            (true, false) => self.doublings,
            (false, false) => self.doublings.saturating_sub(2),
        };
        let shortest_ns = shortest_ns.unwrap_or(self.commit_ns);
        self.starved = if self.is_starved() { self.starved + 1 } else { 0 };
        if self.starved > STARVED_MAX {
            self.commit_ns = shortest_ns;
        } else if was_idle || shortest_ns < self.commit_ns {
            self.commit_ns = shortest_ns.min(COMMIT_NS_MAX);
        }
    }

    /// Returns whether a few producers have no more than the minimum. Then the store may have become slower.
    fn is_starved(&self) -> bool {
        self.share() <= GRANT_BYTES_MIN && self.under_way_max() < UNDER_WAY_AT_FIRST / 4
    }

    /// Returns the bytes that one busy producer may have under way.
    fn share(&self) -> u64 {
        let weight = self.weights[0].max(self.weights[1]).max(WHOLE);
        (u128::from(self.under_way_max()) * u128::from(WHOLE) / u128::from(weight)) as u64
    }

    /// Returns the number of messages that a producer may have under way. `used` is the largest number of
    /// bytes that it had under way since the last call.
    pub fn allowance(&mut self, regulated: &mut Regulated, used: u64) -> u64 {
        if self.is_off() {
            return u64::MAX;
        }
        regulated.advance(self.epoch);
        let mean_x16 = match regulated.messages_x16 {
            0 => 16 * MEAN_AT_FIRST,
            messages_x16 => (16 * regulated.bytes_x16 / messages_x16).max(1),
        };
        let fewest = GRANT_MESSAGES_MIN.min(16 * GRANT_BYTES_MIN / mean_x16).max(1);
        let share = self.share().max(fewest * mean_x16 / 16).max(1);
        let weight = (WHOLE * used.min(share) / share).max(1);
        if weight > regulated.weight {
            self.weights[1] += weight - regulated.weight;
            regulated.weight = weight;
        }
        let lately = regulated.came[0] + regulated.came[1];
        let bytes = share.min((2 * lately).max(self.under_way_max() / self.open.max(1)));
        (16 * bytes / mean_x16).max(fewest)
    }
}

/// Returns a rate in bytes per second, at least 1.
fn bytes_per_sec(bytes: u64, ns: u64) -> u64 {
    (u128::from(bytes) * 1_000_000_000 / u128::from(ns.max(1))).clamp(1, u128::from(u64::MAX)) as u64
}

impl Regulated {
    /// Enters the present epoch.
    #[inline]
    fn advance(&mut self, epoch: u32) {
        if self.epoch != epoch {
            let is_next = self.epoch.wrapping_add(1) == epoch;
            self.came = [if is_next { self.came[1] } else { 0 }, 0];
            (self.epoch, self.weight) = (epoch, 0);
        }
    }
}

#[cfg(test)]
mod simulated;

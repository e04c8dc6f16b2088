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
//! Each producer may always have [`LEAST_BYTES`] bytes or [`LEAST_MESSAGES`] messages under way, whichever is less. If
//! there are more producers than the target has room for, the delay grows. `produce_target_delay` sets the
//! target; 0 switches all of this off.
//!
//! - The *rate* is the largest of the last [`RATES`] windows in which the store was busy (15/16 of the time). Other windows
//!   show what producers sent, or what a network let through. They can raise the rate, but never lower it. If the
//!   store is idle for half of a window although a producer uses its allowance, the shard allows twice as much: a
//!   distant producer needs it to fill its network.
//! - The *shortest commit* keeps slow disks busy: while the disk syncs one round, it receives the next one. Under
//!   load a commit also waits for others, so a busy window cannot raise this value.
//! - *Busy producers* are counted by what they have under way: a producer that uses half of its allowance counts
//!   as half. The count covers the last two epochs, so that a producer that falls silent stops counting.
//! - A producer with the minimum gets one answer for all that it has under way, not one for each batch
//!   ([`Regulated::has_least`]). In a crowd, answers cost more than the messages.
//! - The bound for *quiet producers* keeps a crowd from waking up with far more credit than the store can take. Credit
//!   that was granted before stays granted.

use std::time::Duration;

use crate::base::clock::Now;

/// The bytes that a producer may always have under way, if they are no more than [`LEAST_MESSAGES`] messages.
/// One message is always allowed.
pub const LEAST_BYTES: u64 = 32 << 10;
/// The messages that a producer may always have under way, if they have no more than [`LEAST_BYTES`] bytes.
pub const LEAST_MESSAGES: u64 = 512;

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
/// The largest number of bytes under way: 1 TiB, so that products with them fit in 64 bits.
const UNDER_WAY_LIMIT: u64 = 1 << 40;
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
    /// The sizes of recent messages of all producers.
    sizes: Sizes,
    /// The doublings in force because the store was idle.
    doublings: u32,
    /// The bytes that all producers may have under way.
    under_way_max: u64,
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
    /// Whether a producer had at least half of its allowance under way.
    is_limited: bool,
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
    /// Whether its last allowance was the minimum.
    has_least: bool,
    sizes: Sizes,
}

/// The sizes of recent messages. Each request lets earlier ones fade by a sixteenth.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    messages_x16: u64,
    bytes_x16: u64,
}

impl Sizes {
    #[inline]
    fn add(&mut self, messages: u64, bytes: u64) {
        self.messages_x16 = self.messages_x16 - self.messages_x16 / 16 + 16 * messages;
        self.bytes_x16 = self.bytes_x16 - self.bytes_x16 / 16 + 16 * bytes;
    }

    /// Returns sixteen times the mean, or `None` before the first message.
    fn mean_x16(self) -> Option<u64> {
        (16 * self.bytes_x16).checked_div(self.messages_x16).map(|mean_x16| mean_x16.max(1))
    }
}

impl Regulator {
    /// Creates the regulator of a store that has not been measured. With a target of 0, only `produce_window`
    /// bounds a producer.
    pub fn new(target: Duration) -> Self {
        let target_ns = u64::try_from(target.as_nanos()).unwrap_or(u64::MAX);
        let mut regulator = Self {
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
            sizes: Sizes::default(),
            doublings: 0,
            under_way_max: 0,
            starved: 0,
        };
        regulator.under_way_max = regulator.under_way_now();
        regulator
    }

    /// Returns what it measured, and what it allows.
    pub fn snapshot(&self) -> RegulatorSnapshot {
        RegulatorSnapshot {
            rate: self.rate(),
            shortest_commit_ns: self.commit_ns,
            under_way_max: if self.is_off() { 0 } else { self.under_way_max },
            open: self.open,
            in_store: self.in_store,
        }
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
    pub fn handle_received(&mut self, regulated: &mut Regulated, messages: u64, bytes: u64) {
        if self.is_off() {
            return;
        }
        regulated.advance(self.epoch);
        regulated.came[1] += bytes;
        regulated.sizes.add(messages, bytes);
        self.sizes.add(messages, bytes);
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
        let Window { began_ns, bytes, shortest_ns, idle_ns, is_limited } =
            std::mem::replace(&mut self.window, next);
        let was_idle = idle_ns > now.since_ns(began_ns) / 16;
        let was_mostly_idle = idle_ns > now.since_ns(began_ns) / 2;
        let rate = bytes_per_sec(bytes, now.since_ns(began_ns));
        if !was_idle || rate > self.rate() {
            self.rates.rotate_left(1);
            self.rates[RATES - 1] = rate;
        }
        self.doublings = match (was_idle, is_limited) {
            (true, true) if was_mostly_idle => (self.doublings + 1).min(DOUBLINGS_MAX),
            (true, true) => self.doublings,
            (true, false) => self.doublings.saturating_sub(1),
            (false, _) => self.doublings.saturating_sub(2),
        };
        let shortest_ns = shortest_ns.unwrap_or(self.commit_ns);
        self.starved = if self.is_starved() { self.starved + 1 } else { 0 };
        if self.starved > STARVED_MAX {
            self.commit_ns = shortest_ns;
        } else if was_idle || self.commit_ns == 0 || shortest_ns < self.commit_ns {
            self.commit_ns = shortest_ns.min(COMMIT_NS_MAX);
        }
        self.under_way_max = self.under_way_now();
    }

    /// Returns the bytes that all producers may have under way, from what is known now.
    fn under_way_now(&self) -> u64 {
        let delay_ns = self.target_ns.max(COMMITS * self.commit_ns);
        let bytes = u128::from(self.rate()) * u128::from(delay_ns) / 1_000_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).min(UNDER_WAY_LIMIT);
        bytes.max((bytes << self.doublings).min(UNDER_WAY_MAX))
    }

    /// Returns whether a few producers have no more than the minimum. Then commits may take longer than before.
    /// Many producers with the minimum keep even a slow store busy.
    fn is_starved(&self) -> bool {
        self.share() <= LEAST_BYTES && self.weight() * LEAST_BYTES < WHOLE * UNDER_WAY_AT_FIRST / 4
    }

    /// Returns the bytes that one busy producer may have under way.
    fn share(&self) -> u64 {
        self.under_way_max * WHOLE / self.weight()
    }

    /// Returns the number of busy producers, in units of [`WHOLE`], at least one.
    fn weight(&self) -> u64 {
        self.weights[0].max(self.weights[1]).max(WHOLE)
    }

    /// Returns the number of messages that a producer may have under way. `used` is the largest number of
    /// bytes that it had under way since the last call.
    pub fn allowance(&mut self, regulated: &mut Regulated, used: u64) -> u64 {
        if self.is_off() {
            return u64::MAX;
        }
        regulated.advance(self.epoch);
        // Before its first message, a producer is taken for one like the others.
        let mean_x16 = regulated.sizes.mean_x16().or(self.sizes.mean_x16()).unwrap_or(16 * MEAN_AT_FIRST);
        let fewest = LEAST_MESSAGES.min(16 * LEAST_BYTES / mean_x16).max(1);
        let share = self.share().max(fewest * mean_x16 / 16).max(1);
        let used = used.min(share);
        let weight = (WHOLE * used / share).max(1);
        if weight > regulated.weight {
            self.weights[1] += weight - regulated.weight;
            regulated.weight = weight;
        }
        let lately = regulated.came[0] + regulated.came[1];
        let bytes = share.min((2 * lately).max(self.under_way_max / self.open.max(1)));
        self.window.is_limited |= 2 * used >= bytes;
        let messages = 16 * bytes / mean_x16;
        regulated.has_least = messages <= fewest;
        messages.max(fewest)
    }
}

/// What a [`Regulator`] measured, and what it allows.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct RegulatorSnapshot {
    /// The rate at which the store commits, in bytes per second.
    pub rate: u64,
    /// The shortest commit, in nanoseconds; 0 before the first window ends.
    pub shortest_commit_ns: u64,
    /// The bytes that all producers together may have under way; 0 if there is no bound.
    pub under_way_max: u64,
    /// The number of open produce operations.
    pub open: u64,
    /// The number of batches that the store has not answered.
    pub in_store: usize,
}

/// Returns a rate in bytes per second, at least 1.
fn bytes_per_sec(bytes: u64, ns: u64) -> u64 {
    (u128::from(bytes) * 1_000_000_000 / u128::from(ns.max(1))).clamp(1, u128::from(u64::MAX)) as u64
}

impl Regulated {
    /// Returns whether the last allowance was the minimum, because very many producers share the store.
    pub fn has_least(&self) -> bool {
        self.has_least
    }

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

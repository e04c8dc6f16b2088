//! Credit by delay: bounds what the producers of a shard have under way, so that the store commits it within
//! a target delay.
//!
//! By Little's law (J. D. C. Little, Operations Research 9, 1961), bytes under way wait for `bytes ÷ rate`.
//! Therefore a shard allows
//!
//! ```text
//! all producers together   rate × max(target, 4 × shortest commit, 2 × usual commit)
//! one busy producer        that ÷ the number of busy producers × its part      (max-min fair)
//! one quiet producer       twice what it sent lately, or an equal part of the whole if that is more
//! ```
//!
//! Each producer may always have [`LEAST_BYTES`] bytes or [`LEAST_MESSAGES`] messages under way, whichever is
//! less. If there are more producers than the target has room for, the delay grows. `produce_target_delay` sets
//! the target; 0 switches all of this off.
//!
//! - The *rate* is the largest of the last windows in which the store was *saturated*: it was never idle for
//!   long, commits took at least twice the shortest, and half of what was allowed was in the store. Other windows
//!   show what producers sent, or what a network let through. They can raise the rate, but never lower it. If a
//!   producer uses its allowance although the store has room, the shard allows twice as much: a distant producer
//!   needs it to fill its network. If the shard is busy, and no more comes then, messages only wait longer in the
//!   sockets, and the shard takes that back.
//! - The *shortest commit* keeps slow disks busy: while the disk syncs one round, it receives the next one. In
//!   a busy store a commit also waits for others, so only windows in which it was idle can raise this value.
//!   While it prolongs the delay, probes look for a shorter one: large rounds take long, and would otherwise allow
//!   rounds as large for ever.
//! - The *usual commit* keeps stores busy whose commits take very different times, such as a Kafka cluster. It is the
//!   mean commit of a probe, or of a few producers with the minimum, and falls when commits become shorter.
//! - *Busy producers* are counted by what they have under way: a producer that uses half of its allowance counts
//!   as half. A shard that is busier than its store does not see what waits in its sockets. Then a producer also
//!   counts by what it sent, compared with the one that sent most, and each may have [`BUSY_LEAST_BYTES`] under way,
//!   because visits to many sockets cost the shard more than their messages. The count covers the last two epochs,
//!   so that a producer that falls silent stops counting.
//! - The *part* of a busy producer is 1, unless the store serves it faster or more slowly than the others: then it
//!   moves between ¾ and 1¼, so that their rates become equal.
//! - The bound for *quiet producers* keeps a crowd from waking up with far more credit than the store can take.
//!   Credit that was granted before stays granted.
//!
//! | file | content |
//! | --- | --- |
//! | this file | the shares of the producers |
//! | `commit` | how long commits take while little is under way, and so how long one may wait |
//! | `pace` | the pace of the store, and what all producers together may have under way |
//! | `probe` | when to look for the shortest commit of a busy store |
//! | `rate` | the rate at which the store commits when it is the bound |
//! | `sizes` | the mean size of messages |
//! | `trial` | whether twice as much under way brought more |

mod commit;
mod pace;
mod probe;
mod rate;
mod sizes;
mod trial;

use std::time::Duration;

use self::pace::Pace;
use self::sizes::Sizes;
use crate::base::clock::Now;
use crate::base::millis::Millis;

/// The bytes that a producer may always have under way, if they are no more than [`LEAST_MESSAGES`] messages.
/// One message is always allowed.
pub const LEAST_BYTES: u64 = 32 << 10;
/// The messages that a producer may always have under way, if they have no more than [`LEAST_BYTES`] bytes.
pub const LEAST_MESSAGES: u64 = 512;

/// The bytes that each producer of a crowd may have under way before a shard that is busier than its store.
const BUSY_LEAST_BYTES: u64 = 2 * LEAST_BYTES;
/// The length of a window of a measurement, in nanoseconds.
const WINDOW_NS: u64 = 50_000_000;
/// The size of messages, in bytes, that is assumed before the first one arrives.
const MEAN_AT_FIRST: u64 = 100;
/// The number of busy producers that count as few.
const FEW: u64 = 64;
/// The length of an epoch, in nanoseconds. A silent producer counts for one to two epochs.
const EPOCH_NS: u64 = 100_000_000;
/// The weight of a producer that uses its whole allowance.
const WHOLE: u64 = 1 << 10;
/// The shares of producers that are served faster and more slowly than the others, in units of [`WHOLE`], and how much
/// such a share changes in an epoch.
const PART_MIN: u64 = WHOLE / 4 * 3;
const PART_MAX: u64 = WHOLE / 4 * 5;
const PART_STEP: u64 = WHOLE / 32;

/// Measures the store of a shard, and divides what it can take among the producers.
#[derive(Debug)]
pub struct Regulator {
    target: Duration,
    pace: Pace,
    /// The sizes of recent messages of all producers.
    sizes: Sizes,
    epoch: u32,
    epoch_ns: u64,
    /// When the store last ceased to be idle.
    busy_since_ns: u64,
    /// The sum of the producers' weights in the previous epoch, and in this one.
    weights: [u64; 2],
    /// The bytes of the producer that sent most, in the previous epoch, and in this one.
    most: [u64; 2],
    /// The number of busy producers and their bytes, counted in the previous epoch, and in this one.
    busy: [(u64, u64); 2],
    /// The number of open produce operations.
    open: u64,
}

/// The state of one producer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Regulated {
    /// Whether it is counted among the open producers.
    is_open: bool,
    /// Whether this is its first epoch.
    is_new: bool,
    epoch: u32,
    weight: u64,
    /// Its share in units of [`WHOLE`]: more than one if it is served more slowly than the others.
    part: u64,
    /// The bytes received in the previous epoch, and in this one.
    came: [u64; 2],
    /// The bytes of its last allowance.
    allowed: u64,
    sizes: Sizes,
}

/// What a [`Regulator`] measured, and what it allows.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct RegulatorSnapshot {
    /// The rate at which the store commits, in bytes per second; 0 before it was saturated.
    pub rate: u64,
    /// The shortest commit, in nanoseconds; 0 before the first window ends.
    pub shortest_commit_ns: u64,
    /// The mean commit while little is under way, in nanoseconds; 0 until it was needed.
    pub usual_commit_ns: u64,
    /// The bytes that all producers together may have under way; 0 if there is no bound.
    pub under_way_max: u64,
    /// The number of open produce operations.
    pub open: u64,
    /// The number of batches that the store has not answered.
    pub in_store: usize,
}

impl Regulator {
    /// Creates the regulator of a store that has not been measured. With a target of 0, only `produce_window`
    /// bounds a producer.
    pub fn new(target: Duration) -> Self {
        Self {
            target,
            pace: Pace::new(u64::try_from(target.as_nanos()).unwrap_or(u64::MAX)),
            sizes: Sizes::default(),
            epoch: 1,
            epoch_ns: 0,
            busy_since_ns: 0,
            weights: [0; 2],
            most: [0; 2],
            busy: [(0, 0); 2],
            open: 0,
        }
    }

    /// Returns what it measured, and what it allows.
    pub fn snapshot(&self) -> RegulatorSnapshot {
        RegulatorSnapshot {
            rate: self.pace.rate(),
            shortest_commit_ns: self.pace.commit().shortest_ns(),
            usual_commit_ns: self.pace.commit().usual_ns(),
            under_way_max: if self.is_off() { 0 } else { self.pace.under_way_max() },
            open: self.open,
            in_store: self.pace.in_store(),
        }
    }

    /// Adds a producer. It counts as busy at first, because many may start together.
    pub fn open(&mut self) -> Regulated {
        self.open += 1;
        self.weights[1] += WHOLE;
        Regulated {
            is_open: true,
            is_new: true,
            epoch: self.epoch,
            weight: WHOLE,
            part: WHOLE,
            ..Regulated::default()
        }
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
        self.enter_epoch(regulated);
        regulated.came[1] += bytes;
        self.most[1] = self.most[1].max(regulated.came[1]);
        regulated.sizes.add(messages, bytes);
        self.sizes.add(messages, bytes);
    }

    /// Counts time for which the shard worked, in nanoseconds.
    pub fn handle_busy(&mut self, nanos: u64) {
        if !self.is_off() {
            self.pace.handle_busy(nanos);
        }
    }

    /// Counts a batch that is on its way to the store.
    pub fn handle_submitted(&mut self, now: Now) {
        if self.is_off() {
            return;
        }
        if self.pace.in_store() == 0 {
            self.busy_since_ns = now.mono_ns;
        }
        self.pace.handle_submitted(now);
    }

    /// Counts the answer of the store for a batch: the bytes that it committed, and how many nanoseconds that
    /// took, from here to the store and back; `None` if it refused the batch.
    pub fn handle_answered(&mut self, now: Now, committed: Option<(u64, u64)>) {
        if self.is_off() {
            return;
        }
        if self.pace.handle_answered(now, committed) {
            let (is_starved, is_crowded) = (self.is_starved(), self.is_crowded());
            self.pace.end_window(now, is_starved, is_crowded);
        }
        self.advance(now);
    }

    /// Returns whether only `produce_window` bounds producers.
    fn is_off(&self) -> bool {
        self.target.is_zero()
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
        (self.weights, self.most) =
            if is_next { ([self.weights[1], 0], [self.most[1], 0]) } else { ([0, 0], [0, 0]) };
        self.busy = [self.busy[1], (0, 0)];
    }

    /// Lets a producer enter the present epoch.
    #[inline]
    fn enter_epoch(&mut self, regulated: &mut Regulated) {
        if regulated.epoch != self.epoch {
            let is_next = regulated.epoch.wrapping_add(1) == self.epoch;
            regulated.part = self.part(regulated, is_next);
            regulated.is_new = false;
            regulated.came = [if is_next { regulated.came[1] } else { 0 }, 0];
            (regulated.epoch, regulated.weight) = (self.epoch, 0);
        }
    }

    /// Returns the part of the share that a producer gets in the present epoch, after what it sent in its last one.
    /// `is_next` tells whether that was the previous epoch.
    fn part(&mut self, regulated: &Regulated, is_next: bool) -> u64 {
        let part = regulated.part;
        if !is_next || regulated.is_new || regulated.weight <= WHOLE / 2 {
            return WHOLE.clamp(part.saturating_sub(PART_STEP), part + PART_STEP);
        }
        let came = regulated.came[1];
        self.busy[1].0 += 1;
        self.busy[1].1 += came;
        let (producers, bytes) = self.busy[0];
        let mean = bytes.checked_div(producers).unwrap_or(came).max(1);
        let (more, less) = (mean.saturating_sub(came), came.saturating_sub(mean));
        let step = |bytes: u64| (WHOLE * bytes / mean.max(came) / 8).min(PART_STEP);
        (part + step(more)).saturating_sub(step(less)).clamp(PART_MIN, PART_MAX)
    }

    /// Returns whether a few producers have no more than the minimum. Then commits may take longer than before.
    /// Many producers with the minimum keep even a slow store busy.
    fn is_starved(&self) -> bool {
        self.share() <= LEAST_BYTES && self.weight() < FEW * WHOLE
    }

    /// Returns whether many busy producers have no more than the minimum, so that the delay exceeds the target.
    fn is_crowded(&self) -> bool {
        self.share() <= LEAST_BYTES && self.weight() >= FEW * WHOLE
    }

    /// Returns how long the answers for stored messages of a producer may wait for each other: in a crowd,
    /// answers cost more than the messages.
    pub fn collects_for(&self) -> Option<Millis> {
        (!self.is_off() && self.is_crowded()).then(|| Millis::from(self.target))
    }

    /// Returns the bytes that one busy producer may have under way.
    fn share(&self) -> u64 {
        self.pace.under_way_max() * WHOLE / self.weight()
    }

    /// Returns the number of busy producers, in units of [`WHOLE`], at least one.
    fn weight(&self) -> u64 {
        self.weights[0].max(self.weights[1]).max(WHOLE)
    }

    /// Returns the weight of a producer by what it sent in this epoch, if the shard is busier than its store:
    /// messages that wait in the sockets are under way, too.
    fn traffic(&self, regulated: &Regulated) -> u64 {
        if !self.pace.is_shard_busy() {
            return 0;
        }
        let most = self.most[0].max(self.most[1]).max(1);
        WHOLE * regulated.came[1].min(most) / most
    }

    /// Returns the number of messages that a producer may have under way. `used` is the largest number of
    /// bytes that it had under way since the last call.
    pub fn allowance(&mut self, regulated: &mut Regulated, used: u64) -> u64 {
        if self.is_off() {
            return u64::MAX;
        }
        self.enter_epoch(regulated);
        if 2 * used > regulated.allowed {
            self.pace.handle_limited();
        }
        // Before its first message, a producer is taken for one like the others.
        let mean_x16 = regulated.sizes.mean_x16().or(self.sizes.mean_x16()).unwrap_or(16 * MEAN_AT_FIRST);
        let fewest = LEAST_MESSAGES.min(16 * LEAST_BYTES / mean_x16).max(1);
        let least = fewest * mean_x16 / 16;
        let crowded = if self.pace.is_shard_busy() { BUSY_LEAST_BYTES } else { 0 };
        let share = (self.share() * regulated.part / WHOLE).max(crowded).max(least).max(1);
        let reachable = self.pace.commit().probed(share).max(least).max(1);
        let weight = (WHOLE * used.min(reachable) / reachable).max(self.traffic(regulated)).max(1);
        if weight > regulated.weight {
            self.weights[1] += weight - regulated.weight;
            regulated.weight = weight;
        }
        let lately = regulated.came[0] + regulated.came[1];
        let bytes = share.min((2 * lately).max(self.pace.under_way_max() / self.open.max(1)));
        regulated.allowed = bytes.max(least);
        let bytes = self.pace.commit().probed(bytes);
        (16 * bytes / mean_x16).max(fewest)
    }
}

#[cfg(test)]
mod simulated;

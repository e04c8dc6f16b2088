//! The laws that bound what producers have under way: the regulator, and simpler ones to compare it with.

use crate::base::clock::Now;
use crate::operation::regulator::{LEAST_BYTES, Regulated, Regulator};

/// The most bytes under way that a simpler law may allow.
const UNDER_WAY_MAX: f64 = (512 << 20) as f64;
const UNDER_WAY_AT_FIRST: f64 = (8 << 20) as f64;
const WINDOW_NS: u64 = 50_000_000;
const TARGET_S: f64 = 0.010;
/// The size of the messages in the comparison, in bytes.
const MESSAGE_BYTES: u64 = 100;

/// Decides how many messages each producer may have under way.
pub(super) trait Law {
    /// The state of one producer.
    type Regulated;

    fn open(&mut self) -> Self::Regulated;
    fn handle_received(&mut self, of: &mut Self::Regulated, messages: u64, bytes: u64);
    /// Counts time for which the shard worked, in nanoseconds.
    fn handle_busy(&mut self, nanos: u64);
    fn handle_submitted(&mut self, now: Now);
    fn handle_committed(&mut self, now: Now, commit_ns: u64, bytes: u64);
    fn allowance(&mut self, of: &mut Self::Regulated, used: u64) -> u64;
    /// Returns whether a producer gets one answer for all that it has under way.
    fn collects(&self) -> bool;
}

impl Law for Regulator {
    type Regulated = Regulated;

    fn open(&mut self) -> Regulated {
        Self::open(self)
    }

    fn handle_received(&mut self, of: &mut Regulated, messages: u64, bytes: u64) {
        Self::handle_received(self, of, messages, bytes);
    }

    fn handle_busy(&mut self, nanos: u64) {
        Self::handle_busy(self, nanos);
    }

    fn handle_submitted(&mut self, now: Now) {
        Self::handle_submitted(self, now);
    }

    fn handle_committed(&mut self, now: Now, commit_ns: u64, bytes: u64) {
        self.handle_answered(now, Some((bytes, commit_ns)));
    }

    fn allowance(&mut self, of: &mut Regulated, used: u64) -> u64 {
        Self::allowance(self, of, used)
    }

    fn collects(&self) -> bool {
        self.is_crowded()
    }
}

/// How a simpler law changes the bytes under way at the end of a window.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// The rate of the last window times the target.
    Bdp,
    /// After CoDel (RFC 8289): less, more and more, while even the shortest delay of a window exceeds the target;
    /// otherwise an eighth more.
    CoDel { count: u32 },
    /// A proportional-integral controller of the mean delay, after PIE (RFC 8033).
    Pi { error_s: f64 },
    /// After TCP Vegas: an eighth more or less, so that between half of the target and all of it is spent waiting
    /// behind others.
    Vegas { shortest_s: f64 },
}

/// A law that bounds the sum, and divides it equally among all producers.
#[derive(Debug)]
pub(super) struct Simple {
    rule: Rule,
    under_way: f64,
    producers: u64,
    began_ns: u64,
    bytes: u64,
    commits: u64,
    sum_ns: u64,
    shortest_ns: u64,
}

impl Simple {
    pub(super) fn new(rule: Rule) -> Self {
        Self {
            rule,
            under_way: UNDER_WAY_AT_FIRST,
            producers: 0,
            began_ns: 0,
            bytes: 0,
            commits: 0,
            sum_ns: 0,
            shortest_ns: u64::MAX,
        }
    }

    fn end_window(&mut self, now: Now) {
        let seconds = now.since_ns(self.began_ns) as f64 / 1e9;
        let (rate, commits) = (self.bytes as f64 / seconds, self.commits.max(1) as f64);
        let (mean_s, least_s) = (self.sum_ns as f64 / commits / 1e9, self.shortest_ns as f64 / 1e9);
        let wanted = rate * TARGET_S;
        self.under_way = match &mut self.rule {
            Rule::Bdp => wanted,
            Rule::CoDel { count } if least_s > TARGET_S => {
                *count += 1;
                self.under_way * (1.0 - 0.25 * f64::from(*count).sqrt()).max(0.25)
            }
            Rule::CoDel { count } => {
                *count = 0;
                self.under_way * 1.125
            }
            Rule::Pi { error_s } => {
                let before = std::mem::replace(error_s, TARGET_S - mean_s);
                self.under_way + rate * (0.5 * *error_s - 0.3 * before)
            }
            Rule::Vegas { shortest_s } => {
                *shortest_s = shortest_s.min(least_s);
                let waiting = self.under_way * (1.0 - *shortest_s / mean_s);
                match () {
                    () if waiting < wanted / 2.0 => self.under_way * 1.125,
                    () if waiting > wanted => self.under_way * 0.875,
                    () => self.under_way,
                }
            }
        };
        self.under_way = self.under_way.clamp(LEAST_BYTES as f64, UNDER_WAY_MAX);
        *self = Self { under_way: self.under_way, producers: self.producers, ..Self::new(self.rule) };
        self.began_ns = now.mono_ns;
    }
}

impl Law for Simple {
    type Regulated = ();

    fn open(&mut self) {
        self.producers += 1;
    }

    fn handle_received(&mut self, (): &mut (), _: u64, _: u64) {}

    fn handle_busy(&mut self, _: u64) {}

    fn handle_submitted(&mut self, _: Now) {}

    fn handle_committed(&mut self, now: Now, commit_ns: u64, bytes: u64) {
        self.bytes += bytes;
        self.commits += 1;
        self.sum_ns += commit_ns;
        self.shortest_ns = self.shortest_ns.min(commit_ns);
        if now.since_ns(self.began_ns) >= WINDOW_NS {
            self.end_window(now);
        }
    }

    fn allowance(&mut self, (): &mut (), _: u64) -> u64 {
        (self.under_way as u64 / self.producers.max(1)).max(LEAST_BYTES) / MESSAGE_BYTES
    }

    fn collects(&self) -> bool {
        self.under_way as u64 / self.producers.max(1) <= LEAST_BYTES
    }
}

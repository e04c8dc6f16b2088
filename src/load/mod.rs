//! The load generator: clients that stamp, verify and measure every message.
//!
//! Thread-per-core on the `client/` room. Latency counts from the **intended** send time, so that a server that
//! stands still cannot hide it by holding its clients back.
//!
//! | file | one concept |
//! | --- | --- |
//! | `plan` | what a run is to do |
//! | `stamp` | what a payload carries, and how loss, repeats and order are seen |
//! | `producer`, `consumer` | one connection under load |
//! | `run` | all of them, on their cores, from start to end |
//! | `report` | what was measured, as a table and as JSON |

mod consumer;
mod plan;
mod producer;
mod report;
mod run;
mod stamp;

pub use plan::{Mode, Plan};
pub use report::Report;
pub use run::run;
pub use stamp::{STAMP_BYTES, Stamp, Verdict, Verifier};

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// The measured part of a run.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// What was sent earlier is warm-up.
    pub from: Instant,
    /// What is acknowledged later does not count.
    pub until: Instant,
}

impl Window {
    fn holds(&self, at: Instant) -> bool {
        at >= self.from && at < self.until
    }
}

/// What the connections of a run tell each other: once for each read, never for each message.
#[derive(Debug)]
struct Progress {
    /// Messages that each producer has sent.
    pub sent: Vec<AtomicU64>,
    /// Messages of each producer that were acknowledged; final once it has ended.
    pub acknowledged: Vec<AtomicU64>,
    /// Messages that each consumer has received.
    pub received: Vec<AtomicU64>,
    /// Producers that have not ended.
    pub producers: AtomicUsize,
    /// Consumers that have their setup answered.
    pub consumers_ready: AtomicUsize,
    /// A connection failed: everyone stops.
    pub failed: AtomicBool,
}

impl Progress {
    fn new(producers: u32, consumers: u32) -> Self {
        let counters = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            sent: counters(producers),
            acknowledged: counters(producers),
            received: counters(consumers),
            producers: AtomicUsize::new(producers as usize),
            consumers_ready: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        }
    }
}

/// The sum over those of `counters` that stand for connections of one queue.
fn sum(counters: &[AtomicU64], of: &[u32]) -> u64 {
    of.iter().map(|number| counters[*number as usize].load(Ordering::Acquire)).sum()
}

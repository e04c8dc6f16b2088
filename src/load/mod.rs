//! The load generator: clients that stamp, verify and measure every message.
//!
//! Thread-per-core on the `client/` room. Latency counts from the **intended** send time, so that a server that
//! stands still cannot hide it by holding its clients back.
//!
//! | file | one concept |
//! | --- | --- |
//! | `stamp` | what a payload carries, and how loss, repeats and order are seen |
//! | `producer`, `consumer` | one connection under load |
//! | `run` | all of them, on their cores, from start to end |
//! | `report` | what was measured, as a table and as JSON |

mod consumer;
mod producer;
mod report;
mod run;
mod stamp;

pub use report::Report;
pub use run::{Mode, Plan, run};
pub use stamp::{STAMP_BYTES, Stamp, Verdict, Verifier};

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
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

/// What the connections of a run tell each other: rarely, and never on a message's way.
#[derive(Debug, Default)]
struct Progress {
    /// Messages acknowledged by producers that have ended.
    pub acknowledged: AtomicU64,
    /// Producers that have not ended.
    pub producers: AtomicUsize,
    /// Consumers that have their setup answered.
    pub consumers_ready: AtomicUsize,
    /// A connection failed: everyone stops.
    pub failed: AtomicBool,
}
